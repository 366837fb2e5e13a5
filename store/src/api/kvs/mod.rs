//! The Kinesis Video Streams API, on the port of everything else: paths, who may, how errors look. Each other module is
//! some operations; what a stream of video is, is the service's business. Never: containers, files.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use protocol::name::StreamName;
use protocol::stream::{CallError, CallErrorCode};
use protocol::time::UnixMs;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Shared;
use super::counters::Undone;
use super::kinesis::http::{Body, HalfOpen, authenticate, held, random_id};
use super::kinesis::{Caller, Kinesis};
use super::upload::Upload;
use super::video::ingest::Room;
use crate::service::records::Sketch;

mod archive;
mod arn;
mod get;
mod images;
mod put;
mod session;
mod streams;
mod tags;

use arn::Arn;
pub(in crate::api) use arn::fragment_number;

/// Of a request that is not media.
const BODY_BYTES_MAX: usize = 256 << 10;
const BODY_TIME: Duration = Duration::from_secs(30);
/// The service that requests are signed for.
const SERVICE: &str = "kinesisvideo";
const KIND: &str = "application/json";

const PATHS: [&str; 21] = [
    "/createStream",
    "/describeStream",
    "/listStreams",
    "/updateStream",
    "/deleteStream",
    "/updateDataRetention",
    "/tagStream",
    "/untagStream",
    "/listTagsForStream",
    "/TagResource",
    "/UntagResource",
    "/ListTagsForResource",
    "/getDataEndpoint",
    "/putMedia",
    "/getMedia",
    "/listFragments",
    "/getMediaForFragmentList",
    "/getHLSStreamingSessionURL",
    "/getClip",
    "/getDASHStreamingSessionURL",
    "/getImages",
];

/// Whether a path is this module's.
pub(in crate::api) fn is_mine(path: &str) -> bool {
    PATHS.contains(&path)
}

/// Why a request is not done, in the service's words.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    kind: &'static str,
    message: String,
}

type Result<T> = std::result::Result<T, Refusal>;

fn refusal(kind: &'static str, message: impl Into<String>) -> Refusal {
    let status = match kind {
        "ResourceNotFoundException" => StatusCode::NOT_FOUND,
        "NotAuthorizedException" => StatusCode::UNAUTHORIZED,
        "InternalFailure" => StatusCode::INTERNAL_SERVER_ERROR,
        "ServiceUnavailable" => StatusCode::SERVICE_UNAVAILABLE,
        "UnknownOperationException" => StatusCode::NOT_IMPLEMENTED,
        _ => StatusCode::BAD_REQUEST,
    };
    Refusal { status, kind, message: message.into() }
}

fn invalid(message: impl Into<String>) -> Refusal {
    refusal("InvalidArgumentException", message)
}

impl From<CallError> for Refusal {
    fn from(error: CallError) -> Refusal {
        let kind = match error.code {
            CallErrorCode::NotFound => "ResourceNotFoundException",
            CallErrorCode::Exists => "ResourceInUseException",
            CallErrorCode::Invalid => "InvalidArgumentException",
            CallErrorCode::Denied => "NotAuthorizedException",
            CallErrorCode::Limit => "ClientLimitExceededException",
            CallErrorCode::Busy => "ServiceUnavailable",
            CallErrorCode::Internal => "InternalFailure",
        };
        refusal(kind, error.message)
    }
}

/// One request whose sender is known.
struct Call {
    shared: Arc<Shared>,
    caller: Caller,
    body: Value,
    /// Where the store is, as the sender wrote it.
    endpoint: String,
}

/// A stream that a request names.
struct Found {
    name: StreamName,
    sketch: Sketch,
}

/// One request; `is_tls` is how it came.
pub(in crate::api) async fn answer(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
    half_open: &HalfOpen,
    is_tls: bool,
) -> Response<Body> {
    let mut response = match Box::pin(respond(shared, request, half_open, is_tls)).await {
        Ok(response) => response,
        Err(refusal) => failed(&refusal),
    };
    let status = response.status();
    let undone = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Some(Undone::Denied),
        StatusCode::SERVICE_UNAVAILABLE => Some(Undone::Throttled),
        _ if status.is_server_error() => Some(Undone::Failed),
        _ if status.is_client_error() => Some(Undone::Invalid),
        _ => None,
    };
    shared.counters.answered(undone);
    set(&mut response, "x-amzn-requestid", &random_id());
    response
}

fn set(response: &mut Response<Body>, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(HeaderName::from_static(name), value);
    }
}

fn failed(refusal: &Refusal) -> Response<Body> {
    let mut response = as_json(&json!({ "Message": refusal.message }));
    *response.status_mut() = refusal.status;
    // Documents write the one, programs read the other.
    set(&mut response, "x-amzn-errortype", refusal.kind);
    set(&mut response, "x-amz-errortype", refusal.kind);
    response
}

fn as_json(value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::Whole(Some(Bytes::from(value.to_string()))));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(KIND));
    response
}

fn coming(kind: &'static str, parts: mpsc::Receiver<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::Coming(parts));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

async fn respond(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
    half_open: &HalfOpen,
    is_tls: bool,
) -> Result<Response<Body>> {
    let (parts, body) = request.into_parts();
    let body = Upload::new(body);
    if parts.method != Method::POST {
        return Err(refusal("UnknownOperationException", format!("{} is not done here", parts.method)));
    }
    let path = parts.uri.path().to_owned();
    if path == "/putMedia" {
        let call = Call::new(shared, &parts, &[], half_open, is_tls)?;
        return call.put_media(&parts.headers, body).await;
    }
    let (bytes, _room) = read(shared, body).await?;
    let mut call = Call::new(shared, &parts, &bytes, half_open, is_tls)?;
    if !bytes.is_empty() {
        call.body = serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
    }
    match path.as_str() {
        "/createStream" => call.create_stream().await,
        "/describeStream" => call.describe_stream(),
        "/listStreams" => call.list_streams(),
        "/updateStream" => call.update_stream().await,
        "/deleteStream" => call.delete_stream().await,
        "/updateDataRetention" => call.update_retention().await,
        "/tagStream" | "/TagResource" => call.tag().await,
        "/untagStream" | "/UntagResource" => call.untag().await,
        "/listTagsForStream" | "/ListTagsForResource" => call.list_tags(),
        "/getDataEndpoint" => call.data_endpoint(),
        "/getMedia" => call.get_media().await,
        "/listFragments" => call.list_fragments().await,
        "/getMediaForFragmentList" => call.media_for_list(),
        "/getHLSStreamingSessionURL" => call.hls_session().await,
        "/getDASHStreamingSessionURL" => call.dash_session().await,
        "/getClip" => call.clip().await,
        "/getImages" => call.images().await,
        other => Err(refusal("UnknownOperationException", format!("{other} is not done here yet"))),
    }
}

/// A whole body, and the memory that is held for it.
async fn read(shared: &Arc<Shared>, body: Upload) -> Result<(Bytes, Room)> {
    let expected = body.size_hint().exact().and_then(|exact| usize::try_from(exact).ok());
    let expected = expected.unwrap_or(BODY_BYTES_MAX);
    if expected > BODY_BYTES_MAX {
        return Err(invalid(format!("a request of more than {BODY_BYTES_MAX} bytes")));
    }
    let mut room = Room::new(shared);
    let whole = async {
        room.hold(expected).await;
        Limited::new(body, BODY_BYTES_MAX).collect().await
    };
    let read = timeout(BODY_TIME, whole).await;
    match read {
        Ok(Ok(body)) => Ok((body.to_bytes(), room)),
        Ok(Err(_)) => Err(invalid(format!("a request of more than {BODY_BYTES_MAX} bytes"))),
        Err(_) => Err(invalid("the request did not come in time")),
    }
}

impl Call {
    /// `body` is what was signed: nothing, where media comes.
    fn new(
        shared: &Arc<Shared>,
        parts: &Parts,
        body: &[u8],
        half_open: &HalfOpen,
        is_tls: bool,
    ) -> Result<Call> {
        let caller = authenticate(shared, parts, body, SERVICE).map_err(|error| Refusal {
            status: StatusCode::FORBIDDEN,
            kind: error.kind,
            message: error.message,
        })?;
        drop(held(half_open).take());
        let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let host = host.or_else(|| parts.uri.authority().map(|authority| authority.as_str()));
        let endpoint = format!("{}://{}", if is_tls { "https" } else { "http" }, host.unwrap_or_default());
        Ok(Call { shared: shared.clone(), caller, body: json!({}), endpoint })
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.body.get(name).and_then(Value::as_str)
    }

    fn needed(&self, name: &str) -> Result<&str> {
        self.text(name).ok_or_else(|| invalid(format!("{name} is missing")))
    }

    /// A whole number within bounds; `None` where it is not there.
    fn number(&self, name: &str, min: i64, max: i64) -> Result<Option<i64>> {
        let Some(value) = self.body.get(name).filter(|value| !value.is_null()) else { return Ok(None) };
        let number = value.as_i64().filter(|number| (min..=max).contains(number));
        number.map(Some).ok_or_else(|| invalid(format!("{name} is {value}: {min} to {max} is valid")))
    }

    fn arn(&self, found: &Found) -> String {
        self.arn_of(found.name.local(), found.sketch.created)
    }

    fn arn_of(&self, stream: &str, created: UnixMs) -> String {
        let Caller { account, region, .. } = &self.caller;
        Arn { region: region.clone(), account: account.clone(), stream: stream.to_owned(), created }
            .to_string()
    }

    fn not_found(&self, what: &str) -> Refusal {
        let account = &self.caller.account;
        let message = format!("The requested stream {what} of account {account} is not found or not active.");
        refusal("ResourceNotFoundException", message)
    }

    /// The stream in `StreamName`, `StreamARN` or `ResourceARN`.
    fn find(&self) -> Result<Found> {
        let arn = self.text("StreamARN").or_else(|| self.text("ResourceARN"));
        self.find_by(self.text("StreamName"), arn)
    }

    fn find_by(&self, name: Option<&str>, arn: Option<&str>) -> Result<Found> {
        let (name, created) = match (name, arn) {
            (_, Some(text)) => {
                let arn = Arn::parse(text).ok_or_else(|| invalid(format!("{text} is no ARN of a stream")))?;
                if arn.account != self.caller.account || arn.region != self.caller.region {
                    return Err(self.not_found(text));
                }
                (arn.stream, Some(arn.created))
            }
            (Some(name), None) => (name.to_owned(), None),
            (None, None) => return Err(invalid("Either StreamName or StreamARN should be provided.")),
        };
        let full = self.within(&name)?;
        match self.shared.service.sketch(&self.caller.principal, &full) {
            Ok(sketch) if created.is_none_or(|created| created == sketch.created) => {
                Ok(Found { name: full, sketch })
            }
            Ok(_) | Err(CallError { code: CallErrorCode::NotFound, .. }) => Err(self.not_found(&name)),
            Err(error) => Err(error.into()),
        }
    }

    /// The stream of the caller's account and region with this name.
    fn within(&self, text: &str) -> Result<StreamName> {
        self.kinesis().name_within(&self.caller, text).ok_or_else(|| {
            invalid(format!("{text:?} is no name of a stream: 1 to 128 of letters, digits, '_', '.' and '-'"))
        })
    }

    fn kinesis(&self) -> &Kinesis {
        &self.shared.kinesis
    }
}
