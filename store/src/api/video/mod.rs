//! Video over HTTP: `/v1/video/…`. Takes fragmented MP4 and Matroska, gives frames, segments, playlists and files. This module knows
//! paths, who may, and how errors look; each other module is some of the answers. Never: how fragments are stored.

use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use protocol::name::StreamName;
use protocol::sequence::SequenceNumber;
use protocol::stream::{CallError, CallErrorCode};
use serde_json::json;
use tokio::sync::mpsc;

use crate::api::Shared;
use crate::api::counters::Undone;
use crate::api::kinesis::http::{Body, HalfOpen, held};
use crate::api::upload::Upload;
use crate::principal::Principal;

mod access;
mod asked;
mod dash;
mod frames;
pub(in crate::api) mod ingest;
mod listing;
mod picture;
mod player;
mod playlist;
mod query;
mod segments;

use access::Access;
use query::Query;

const PREFIX: &str = "/v1/video";

/// Whether a path is this module's.
pub(in crate::api) fn is_mine(path: &str) -> bool {
    path.strip_prefix(PREFIX).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Why a request is not done.
#[derive(Debug)]
struct Failure {
    status: StatusCode,
    message: String,
}

type Result<T> = std::result::Result<T, Failure>;

fn failure(status: StatusCode, message: impl Into<String>) -> Failure {
    Failure { status, message: message.into() }
}

fn bad(message: impl Into<String>) -> Failure {
    failure(StatusCode::BAD_REQUEST, message)
}

fn not_found(message: impl Into<String>) -> Failure {
    failure(StatusCode::NOT_FOUND, message)
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Failure {
        let status = match error.code {
            CallErrorCode::NotFound => StatusCode::NOT_FOUND,
            CallErrorCode::Exists => StatusCode::CONFLICT,
            CallErrorCode::Invalid => StatusCode::BAD_REQUEST,
            CallErrorCode::Denied => StatusCode::FORBIDDEN,
            CallErrorCode::Limit => StatusCode::TOO_MANY_REQUESTS,
            CallErrorCode::Busy => StatusCode::SERVICE_UNAVAILABLE,
            CallErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        failure(status, error.message)
    }
}

/// One file of what is between two places, as `range.mp4` gives it.
pub(in crate::api) async fn file(
    shared: &Arc<Shared>,
    principal: Principal,
    stream: StreamName,
    query: &str,
) -> std::result::Result<Response<Body>, String> {
    let query = Query::parse(query).map_err(|error| error.message)?;
    let (shared, headers) = (shared.clone(), HeaderMap::new());
    let call = Call { shared, principal, stream, query, headers, head: false };
    call.range().await.map_err(|error| error.message)
}

/// The picture of one frame, as `frames/N?image=` gives it.
pub(in crate::api) async fn picture(
    shared: &Arc<Shared>,
    principal: Principal,
    stream: &StreamName,
    number: SequenceNumber,
    query: &str,
) -> std::result::Result<Bytes, String> {
    let query = Query::parse(query).map_err(|error| error.message)?;
    let (shared, stream) = (shared.clone(), stream.clone());
    let call = Call { shared, principal, stream, query, headers: HeaderMap::new(), head: false };
    match call.frame(number).await.map_err(|error| error.message)?.into_body() {
        Body::Whole(Some(picture)) => Ok(picture),
        _ => Err("there is no picture".to_owned()),
    }
}

pub(in crate::api) use access::token_for as token;
pub use asked::{asked, lists};
pub(in crate::api) use listing::base_s;

/// A request whose sender is known.
struct Call {
    shared: Arc<Shared>,
    principal: Principal,
    stream: StreamName,
    query: Query,
    headers: HeaderMap,
    /// Only to be asked what is there.
    head: bool,
}

pub(in crate::api) async fn answer(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
    shown: Option<Principal>,
    half_open: &HalfOpen,
) -> Response<Body> {
    let from_page = request.headers().contains_key(header::ORIGIN);
    let head = request.method() == Method::HEAD;
    let mut response = match Box::pin(respond(shared, request, shown, half_open)).await {
        Ok(response) => response,
        Err(error) => failed(&error),
    };
    let status = response.status();
    let undone = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Some(Undone::Denied),
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => Some(Undone::Throttled),
        _ if status.is_server_error() => Some(Undone::Failed),
        _ if status.is_client_error() => Some(Undone::Invalid),
        _ => None,
    };
    shared.counters.answered(undone);
    if head {
        *response.body_mut() = Body::Whole(None);
    }
    if from_page {
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("authorization,range"));
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("*"));
    }
    response
}

fn failed(error: &Failure) -> Response<Body> {
    let text = json!({ "error": error.message }).to_string() + "\n";
    let mut response = whole(error.status, "application/json", text.into_bytes());
    if error.status == StatusCode::UNAUTHORIZED {
        let ask = HeaderValue::from_static("Basic realm=\"kinesin: access key and secret\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, ask);
    }
    response
}

fn whole(status: StatusCode, content_type: &str, body: Vec<u8>) -> Response<Body> {
    let length = body.len();
    let body = if body.is_empty() { None } else { Some(Bytes::from(body)) };
    let mut response = Response::new(Body::Whole(body));
    *response.status_mut() = status;
    set(&mut response, header::CONTENT_TYPE, content_type);
    set(&mut response, header::CONTENT_LENGTH, &length.to_string());
    response
}

fn coming(content_type: &str, parts: mpsc::Receiver<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::Coming(parts));
    set(&mut response, header::CONTENT_TYPE, content_type);
    response
}

fn as_json(value: &serde_json::Value) -> Response<Body> {
    let mut response = whole(StatusCode::OK, "application/json", (value.to_string() + "\n").into_bytes());
    set(&mut response, header::CACHE_CONTROL, "no-store");
    response
}

fn set(response: &mut Response<Body>, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

async fn respond(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
    shown: Option<Principal>,
    half_open: &HalfOpen,
) -> Result<Response<Body>> {
    let (parts, body) = request.into_parts();
    let body = Upload::new(body);
    if parts.method == Method::OPTIONS {
        return Ok(whole(StatusCode::NO_CONTENT, "text/plain", Vec::new()));
    }
    let query = Query::parse(parts.uri.query().unwrap_or_default())?;
    let path: Vec<&str> =
        parts.uri.path()[PREFIX.len()..].split('/').filter(|part| !part.is_empty()).collect();
    let stream = path.first().map(|name| StreamName::new(name).map_err(|error| bad(error.to_string())));
    let stream = stream.transpose()?;
    let access = Access::of(shared, &parts, &query, stream.as_ref(), shown)?;
    drop(held(half_open).take());
    let Some(stream) = stream else { return list(shared, &access) };
    let head = parts.method == Method::HEAD;
    let call = Call {
        shared: shared.clone(),
        principal: access.principal().clone(),
        stream,
        query,
        headers: parts.headers,
        head,
    };
    match (&parts.method, &path[1..]) {
        (&Method::POST | &Method::PUT, []) if access.may_write() => ingest::take(call, body).await,
        (&Method::POST, ["session"]) if access.may_write() => access.session(&call).await,
        (&Method::POST | &Method::PUT, _) if !access.may_write() => {
            Err(failure(StatusCode::FORBIDDEN, "a session token is for reading only"))
        }
        (&Method::GET | &Method::HEAD, rest) => call.get(rest).await,
        (method, _) => Err(failure(StatusCode::METHOD_NOT_ALLOWED, format!("{method} is not done here"))),
    }
}

fn list(shared: &Arc<Shared>, access: &Access) -> Result<Response<Body>> {
    if !access.may_write() {
        return Err(failure(StatusCode::FORBIDDEN, "a session token is for one stream only"));
    }
    let names = shared.service.stream_names(access.principal())?;
    let names: Vec<&str> = names.iter().map(StreamName::as_str).collect();
    Ok(as_json(&json!({ "streams": names })))
}

impl Call {
    async fn get(&self, path: &[&str]) -> Result<Response<Body>> {
        match path {
            [] => self.about().await,
            ["frames"] => self.frames().await,
            ["frames", number] => self.frame(parse_number(number)?).await,
            ["fragments"] => self.fragments().await,
            ["gaps"] => self.gaps().await,
            ["range.mp4"] => self.range().await,
            ["live.m3u8"] => self.live_playlist().await,
            ["vod.m3u8"] => self.vod_playlist().await,
            ["manifest.mpd"] => self.manifest().await,
            ["player"] => Ok(self.player()),
            ["init", file] => self.init(parse_number(file.strip_suffix(".mp4").unwrap_or(file))?).await,
            ["fragments", file] => {
                self.segment(parse_number(file.strip_suffix(".m4s").unwrap_or(file))?).await
            }
            ["parts", file] => self.part(parse_number(file.strip_suffix(".m4s").unwrap_or(file))?).await,
            ["segments", file] => self.segment_between(file.strip_suffix(".m4s").unwrap_or(file)).await,
            ["sequence", file] => self.segment_at(file.strip_suffix(".m4s").unwrap_or(file)).await,
            _ => Err(not_found(format!(
                "no such path; there are frames, frames/N, fragments, fragments/N.m4s, segments/N-M.m4s, sequence/N.m4s, \
                 parts/N.m4s, init/N.mp4, gaps, range.mp4, live.m3u8, vod.m3u8, manifest.mpd and player under {PREFIX}/{}",
                self.stream
            ))),
        }
    }
}

fn parse_number(text: &str) -> Result<SequenceNumber> {
    text.parse().map(SequenceNumber).map_err(|_| bad(format!("{text:?} is no number of a frame")))
}
