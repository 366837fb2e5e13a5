//! A request's body. Whoever is answered before all of it was read still gets the answer: the rest is read and thrown away
//! for a while, since a connection that is closed with unread bytes takes the answer with it (RFC 9112, 9.6). Never: what
//! the bytes are.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::runtime::Handle;
use tokio::time::timeout;

/// The rest of a body that nobody wants is read for so long ...
const LINGER: Duration = Duration::from_secs(5);
/// ... and until it was so much.
const LINGER_BYTES_MAX: usize = 64 << 20;

/// A body that is read to its end, or for a while, by whomever.
#[derive(Debug)]
pub(super) struct Upload(Option<Incoming>);

impl Upload {
    pub(super) fn new(body: Incoming) -> Upload {
        Upload(Some(body))
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.0 {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), Incoming::size_hint)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(body) = self.0.take().filter(|body| !body.is_end_stream()) else { return };
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(timeout(LINGER, drain(body)));
        }
    }
}

async fn drain(mut body: impl Body<Data = Bytes> + Unpin) {
    let mut seen = 0;
    while let Some(Ok(frame)) = body.frame().await {
        seen += frame.data_ref().map_or(0, Bytes::len);
        if seen > LINGER_BYTES_MAX {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A body without end, that counts what was read of it.
    struct Endless(Bytes, usize);

    impl Body for Endless {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            self.1 += self.0.len();
            Poll::Ready(Some(Ok(Frame::data(self.0.clone()))))
        }
    }

    /// Reaches `LINGER_BYTES_MAX`.
    #[tokio::test]
    async fn the_rest_of_a_body_is_read_until_it_was_too_much() {
        let mut body = Endless(vec![0; 1 << 20].into(), 0);
        drain(&mut body).await;
        assert_eq!(body.1, LINGER_BYTES_MAX + body.0.len());
    }
}
