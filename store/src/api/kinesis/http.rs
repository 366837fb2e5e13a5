//! HTTP/1.1 and HTTP/2 on one connection, and what stands around every request of the API: where it is looked at in
//! which order, ids, CORS, sizes. Never: what an operation does.

use std::borrow::Cow;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use protocol::kinesis::value::Value;
use protocol::kinesis::{ApiError, TARGET_PREFIX, cbor, check, json, model};
use protocol::sigv4::{self, Claim};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::time::timeout;

use super::linger::Lingering;
use super::{Answer, Caller};
use crate::api::counters::Undone;
use crate::api::upload::Upload;
use crate::api::{Shared, kvs, video};
use crate::principal::Principal;

/// Ten MiB of data in base64, and what stands around them.
const BODY_BYTES_MAX: usize = 16 << 20;
/// A whole body has this long.
const BODY_TIME: Duration = Duration::from_secs(60);
/// All headers of a request together.
const HEADER_BYTES_MAX: u32 = 64 << 10;
/// What comes is read in pieces of so many bytes, which every connection holds. More makes nothing faster: it is copied from
/// here while it is in the processor's caches.
const READ_BYTES: usize = 64 << 10;
/// HTTP/2: a client that says nothing is asked whether it is there.
const PING_EVERY: Duration = Duration::from_secs(30);
/// HTTP/2: requests of one connection at the same time.
const STREAMS_MAX: u32 = 256;
/// What a body whose length is not said takes of the memory for bodies until it is there.
const UNKNOWN_BYTES: usize = 1 << 20;

const JSON: &str = "application/x-amz-json-1.1";
const CBOR: &str = "application/x-amz-cbor-1.1";
const EXPOSED: &str =
    "x-amzn-RequestId,x-amzn-ErrorType,x-amz-request-id,x-amz-id-2,x-amzn-ErrorMessage,Date";

/// Counted as unknown until the first request is proved.
pub(in crate::api) type HalfOpen = Arc<Mutex<Option<OwnedSemaphorePermit>>>;

pub(in crate::api) fn held(half_open: &HalfOpen) -> std::sync::MutexGuard<'_, Option<OwnedSemaphorePermit>> {
    half_open.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One connection, to its end. Which version of HTTP it is, its first bytes say. `shown` is who showed a certificate.
pub(crate) async fn serve<S>(
    shared: Arc<Shared>,
    stream: S,
    shown: Option<Principal>,
    is_tls: bool,
    half_open: OwnedSemaphorePermit,
    mut stopped: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (idle, stall, farewell) = (shared.limits.idle, shared.limits.stall, shared.limits.farewell);
    let half_open: HalfOpen = Arc::new(Mutex::new(Some(half_open)));
    let known = half_open.clone();
    let service = service_fn(move |request| {
        let (shared, half_open, shown) = (shared.clone(), half_open.clone(), shown.clone());
        async move {
            if video::is_mine(request.uri().path()) {
                return Ok::<_, Infallible>(
                    Box::pin(video::answer(&shared, request, shown, &half_open)).await,
                );
            }
            if kvs::is_mine(request.uri().path()) {
                return Ok(Box::pin(kvs::answer(&shared, request, &half_open, is_tls)).await);
            }
            Ok(Box::pin(answer(&shared, request, &half_open)).await)
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(idle).max_buf_size(READ_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_EVERY);
    let hurry = Arc::new(AtomicBool::new(false));
    let stream = Lingering::new(stream, stall, hurry.clone());
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let patience = tokio::time::sleep(idle);
    tokio::pin!(patience);
    let mut waiting = true;
    loop {
        tokio::select! {
            // How a connection ends is its client's business.
            _ = connection.as_mut() => return,
            _ = stopped.wait_for(|stop| *stop) => break,
            () = &mut patience, if waiting => {
                waiting = false;
                if held(&known).is_some() {
                    return;
                }
            }
        }
    }
    hurry.store(true, Ordering::Relaxed);
    connection.as_mut().graceful_shutdown();
    let _ = timeout(farewell, connection).await;
}

/// A body that is there, or one that comes.
pub(in crate::api) enum Body {
    Whole(Option<Bytes>),
    Coming(mpsc::Receiver<Bytes>),
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Body::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Body::Coming(parts) => parts.poll_recv(cx).map(|part| part.map(|part| Ok(Frame::data(part)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Body::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Body::Coming(_) => SizeHint::default(),
        }
    }
}

/// What a request and its answer are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Json,
    Cbor,
}

impl Encoding {
    fn content_type(self) -> &'static str {
        if self == Encoding::Json { JSON } else { CBOR }
    }

    /// What an event of a stream calls its payload.
    pub(super) fn event_type(self) -> &'static str {
        if self == Encoding::Json { "application/json" } else { CBOR }
    }

    pub(super) fn bytes(self, value: &Value<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(value, &mut out);
        out
    }

    fn write(self, value: &Value<'_>, out: &mut Vec<u8>) {
        match self {
            Encoding::Json => json::write(value, out),
            Encoding::Cbor => cbor::write(value, out),
        }
    }

    /// The beginning of a structure whose first member is a list, up to its first item.
    pub(super) fn list_head(self, name: &str) -> Vec<u8> {
        let (open, list): (&[u8], &[u8]) = match self {
            Encoding::Json => (b"{", b":["),
            Encoding::Cbor => (&[cbor::OPEN_MAP], &[cbor::OPEN_LIST]),
        };
        let mut out = open.to_vec();
        self.write(&Value::text(name), &mut out);
        out.extend_from_slice(list);
        out
    }

    /// Items; `begun` where there are some before them.
    pub(super) fn list_items(self, items: &[Value<'_>], begun: bool, out: &mut Vec<u8>) {
        for (place, item) in items.iter().enumerate() {
            if self == Encoding::Json && (begun || place > 0) {
                out.push(b',');
            }
            self.write(item, out);
        }
    }

    /// The end of the list, the other members, and the end of the structure.
    pub(super) fn list_tail(self, members: &[(Cow<'static, str>, Value<'static>)], out: &mut Vec<u8>) {
        out.push(if self == Encoding::Json { b']' } else { cbor::BREAK });
        for (name, value) in members {
            if self == Encoding::Json {
                out.push(b',');
            }
            self.write(&Value::text(name.as_ref()), out);
            if self == Encoding::Json {
                out.push(b':');
            }
            self.write(value, out);
        }
        out.push(if self == Encoding::Json { b'}' } else { cbor::BREAK });
    }
}

fn whole(status: u16, content_type: Option<&'static str>, body: Vec<u8>) -> Response<Body> {
    let body = if body.is_empty() { None } else { Some(Bytes::from(body)) };
    let mut response = Response::new(Body::Whole(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Some(kind) = content_type {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    response
}

fn coming(parts: mpsc::Receiver<Bytes>, content_type: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::Coming(parts));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn xml(status: u16, kind: &str, message: &str) -> Response<Body> {
    let text = if message.is_empty() {
        format!("<{kind}/>\n")
    } else {
        format!("<{kind}>\n  <Message>{message}</Message>\n</{kind}>\n")
    };
    whole(status, None, text.into_bytes())
}

fn denied() -> Response<Body> {
    xml(403, "AccessDeniedException", "Unable to determine service/operation name to be authorized")
}

/// An error that has a type only.
fn bare(encoding: Encoding, kind: &'static str) -> Response<Body> {
    whole(400, Some(encoding.content_type()), encoding.bytes(&Value::map([("__type", Value::from(kind))])))
}

fn failed(encoding: Encoding, error: ApiError) -> Response<Body> {
    let status = error.status();
    // The one exception that writes it so.
    let member = if error.kind == "SerializationException" { "Message" } else { "message" };
    let undone = undone(error.kind);
    let value = Value::map([("__type", error.kind.into()), (member, error.message.into())]);
    let mut response = whole(status, Some(encoding.content_type()), encoding.bytes(&value));
    response.extensions_mut().insert(undone);
    response
}

fn undone(kind: &str) -> Undone {
    match kind {
        "MissingAuthenticationTokenException"
        | "IncompleteSignatureException"
        | "InvalidSignatureException"
        | "UnrecognizedClientException"
        | "AccessDeniedException" => Undone::Denied,
        "ProvisionedThroughputExceededException" | "LimitExceededException" => Undone::Throttled,
        "InternalFailure" => Undone::Failed,
        _ => Undone::Invalid,
    }
}

fn set(response: &mut Response<Body>, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(HeaderName::from_static(name), value);
    }
}

async fn answer(shared: &Arc<Shared>, request: Request<Incoming>, half_open: &HalfOpen) -> Response<Body> {
    let asks = |name: HeaderName| request.headers().get(name).cloned();
    let from_page = asks(header::ORIGIN).is_some();
    let (headers, method) =
        (asks(header::ACCESS_CONTROL_REQUEST_HEADERS), asks(header::ACCESS_CONTROL_REQUEST_METHOD));
    let preflight = from_page && request.method() == Method::OPTIONS;
    let mut response =
        if preflight { whole(200, None, Vec::new()) } else { respond(shared, request, half_open).await };
    let bad = response.status().is_client_error() || response.status().is_server_error();
    let undone = response.extensions().get::<Undone>().copied();
    shared.counters.answered(undone.or(bad.then_some(Undone::Invalid)));
    let mut random = [0; 70];
    // Without randomness the ids are all the same, and nothing else is wrong.
    let _ = getrandom::fill(&mut random);
    set(&mut response, "x-amzn-requestid", &uuid(&random));
    if from_page {
        set(&mut response, "access-control-allow-origin", "*");
    }
    if preflight {
        set(&mut response, "access-control-max-age", "172800");
        for (name, value) in
            [(header::ACCESS_CONTROL_ALLOW_HEADERS, headers), (header::ACCESS_CONTROL_ALLOW_METHODS, method)]
        {
            if let Some(value) = value {
                response.headers_mut().insert(name, value);
            }
        }
        return response;
    }
    if from_page {
        set(&mut response, "access-control-expose-headers", EXPOSED);
    }
    set(&mut response, "x-amz-id-2", &STANDARD.encode(&random[16..]));
    response
}

/// An id for an answer.
pub(in crate::api) fn random_id() -> String {
    let mut random = [0; 70];
    // Without randomness the ids are all the same, and nothing else is wrong.
    let _ = getrandom::fill(&mut random);
    uuid(&random)
}

fn uuid(random: &[u8; 70]) -> String {
    let hex: String = random[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-4{}-a{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
}

/// Memory for a body, given back at the end.
struct Room<'a>(&'a Shared, usize);

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.0.pending.give(self.1);
    }
}

/// The order of the checks is the service's: method, body, content type, target, signature, types, constraints.
async fn respond(shared: &Arc<Shared>, request: Request<Incoming>, half_open: &HalfOpen) -> Response<Body> {
    if request.method() != Method::POST {
        return denied();
    }
    let (parts, body) = request.into_parts();
    let body = Upload::new(body);
    let expected =
        body.size_hint().exact().map_or(UNKNOWN_BYTES, |exact| usize::try_from(exact).unwrap_or(usize::MAX));
    if expected > BODY_BYTES_MAX {
        return whole(413, None, Vec::new());
    }
    if !shared.pending.try_take(expected) {
        return failed(Encoding::Json, ApiError::new("InternalFailure", "Too many requests are under way."));
    }
    let _room = Room(shared, expected);
    let body = match timeout(BODY_TIME, Limited::new(body, BODY_BYTES_MAX).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => return whole(413, None, Vec::new()),
        Err(_) => return whole(408, None, Vec::new()),
    };
    let text =
        |name: HeaderName| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let content_type = text(header::CONTENT_TYPE).split(';').next().unwrap_or_default().trim();
    let target = text(HeaderName::from_static("x-amz-target"));
    let operation = target.strip_prefix(TARGET_PREFIX).and_then(model::operation);
    let encoding = match content_type {
        JSON => Encoding::Json,
        CBOR => Encoding::Cbor,
        "application/json" => {
            return whole(
                404,
                Some("application/json"),
                br#"{"Output":{"__type":"com.amazon.coral.service#UnknownOperationException"},"Version":"1.0"}"#
                    .to_vec(),
            );
        }
        _ if target
            .split_once('.')
            .is_some_and(|(service, name)| !service.is_empty() && !name.is_empty()) =>
        {
            return xml(404, "UnknownOperationException", "");
        }
        _ => return denied(),
    };
    let value = match encoding {
        Encoding::Json => json::read(&body).ok(),
        Encoding::Cbor => cbor::read(&body).ok(),
    };
    let Some((operation, members)) = operation else { return bare(encoding, "UnknownOperationException") };
    let Some(value @ (Value::Map(_) | Value::List(_))) = value else {
        return bare(encoding, "SerializationException");
    };
    let caller = match authenticate(shared, &parts, &body, "kinesis") {
        Ok(caller) => caller,
        Err(error) => return failed(encoding, error),
    };
    drop(held(half_open).take());
    let answer = match check::check(value, members) {
        Ok(value) => shared.kinesis.call(operation, &caller, &value, encoding).await,
        Err(error) => Err(error),
    };
    match answer {
        Ok(Answer::Nothing) => whole(200, Some(encoding.content_type()), Vec::new()),
        Ok(Answer::Value(value)) => whole(200, Some(encoding.content_type()), encoding.bytes(&value)),
        Ok(Answer::Events(parts)) => coming(parts, "application/vnd.amazon.eventstream"),
        Ok(Answer::Pieces(parts)) => coming(parts, encoding.content_type()),
        Err(error) => failed(encoding, error),
    }
}

/// Who signed a request for a service.
pub(in crate::api) fn authenticate(
    shared: &Shared,
    parts: &hyper::http::request::Parts,
    body: &[u8],
    service: &str,
) -> Result<Caller, ApiError> {
    let bad = |error: sigv4::SignatureError| ApiError::new(error.kind, error.message);
    let mut headers: Vec<(&str, &str)> = parts
        .headers
        .iter()
        .filter_map(|(name, value)| Some((name.as_str(), std::str::from_utf8(value.as_bytes()).ok()?)))
        .collect();
    // HTTP/2 says it in `:authority`, and clients sign it under either name.
    if let Some(authority) = parts.uri.authority() {
        headers.push((":authority", authority.as_str()));
        if !parts.headers.contains_key(header::HOST) {
            headers.push(("host", authority.as_str()));
        }
    }
    let request = sigv4::Request {
        method: parts.method.as_str(),
        path: parts.uri.path(),
        query: parts.uri.query().unwrap_or_default(),
        headers: &headers,
        body,
    };
    let claim = Claim::read(&request).map_err(bad)?;
    let key = shared.auth.keys().find(&claim.access_key).ok_or_else(|| {
        ApiError::new("UnrecognizedClientException", "The security token included in the request is invalid.")
    })?;
    claim.verify(&request, &key.secret, service, shared.clock.wall()).map_err(bad)?;
    let (principal, account) = (key.principal.clone(), key.account.clone());
    Ok(Caller { principal, account, region: claim.region, access_key: claim.access_key })
}
