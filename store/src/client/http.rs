//! One request over HTTP to a store, with the operator's certificate in place of a key: for what answers with bytes of
//! any length, such as video. Never: retries, what the bytes are.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::header::HeaderMap;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;

use super::link::connect;
use super::{ClientError, Target};

/// What is sent: nothing, or pieces as they come.
#[derive(Debug)]
pub struct Upload(Option<mpsc::Receiver<Bytes>>);

impl Upload {
    /// Nothing.
    #[must_use]
    pub fn nothing() -> Upload {
        Upload(None)
    }

    /// Pieces; the end of the channel is the end.
    #[must_use]
    pub fn pieces(pieces: mpsc::Receiver<Bytes>) -> Upload {
        Upload(Some(pieces))
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.0 {
            Some(pieces) => pieces.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece)))),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}

/// An answer whose body comes.
#[derive(Debug)]
pub struct Answer {
    /// Its headers.
    pub headers: HeaderMap,
    body: Incoming,
}

fn broken(error: &hyper::Error) -> ClientError {
    ClientError::Broken(error.to_string())
}

/// Asks a store. `path` begins with a slash and is encoded.
///
/// # Errors
/// When the store can't be reached or refuses: then its own words are the error.
pub async fn ask(target: &Target, method: Method, path: &str, body: Upload) -> Result<Answer, ClientError> {
    let stream = connect(target, b"http/1.1").await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    // How it ends, the answer says.
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, &target.url.host)
        .body(body)
        .map_err(|error| ClientError::Setup(format!("{path}: {error}")))?;
    let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
    let (parts, body) = response.into_parts();
    let mut answer = Answer { headers: parts.headers, body };
    if parts.status.is_success() {
        return Ok(answer);
    }
    let said = answer.all().await?;
    let said: Option<serde_json::Value> = serde_json::from_slice(&said).ok();
    let message =
        said.as_ref().and_then(|said| said["error"].as_str()).unwrap_or("it says no more").to_owned();
    Err(match parts.status {
        StatusCode::NOT_FOUND => ClientError::Setup(message),
        status => ClientError::Setup(format!("{message} ({status})")),
    })
}

impl Answer {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// When it breaks off.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(data) = frame.map_err(|error| broken(&error))?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// All of it.
    ///
    /// # Errors
    /// When it breaks off.
    pub async fn all(&mut self) -> Result<Vec<u8>, ClientError> {
        let mut all = Vec::new();
        while let Some(piece) = self.next().await? {
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }
}
