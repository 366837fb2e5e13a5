//! A connection that HTTP/2 has ended stays open until its client closes it, or has had time to. Never: what is said on
//! it.
//!
//! A client that needs no further request says GOAWAY while its answers still come (the SDK for JavaScript does so for
//! every call). If the socket is closed as soon as the last answer is sent, the client may see that before it has read
//! the answer, and throws away what it has not read.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How the first bytes of HTTP/2 begin.
const PREFACE: &[u8] = b"PRI ";

/// A stream whose end waits for its peer's.
pub(super) struct Lingering<S> {
    inner: S,
    patience: Duration,
    /// What has been read of the first bytes.
    first: Vec<u8>,
    /// Running once the end has begun.
    end: Option<Pin<Box<Sleep>>>,
    hurry: Arc<AtomicBool>,
}

impl<S> Lingering<S> {
    /// With `hurry` set nothing is waited for.
    pub(super) fn new(inner: S, patience: Duration, hurry: Arc<AtomicBool>) -> Lingering<S> {
        Lingering { inner, patience, first: Vec::new(), end: None, hurry }
    }

    fn note(&mut self, bytes: &[u8]) {
        let missing = PREFACE.len() - self.first.len();
        self.first.extend_from_slice(&bytes[..bytes.len().min(missing)]);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lingering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buffer))?;
        self.note(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.first == PREFACE && !this.hurry.load(Ordering::Relaxed) {
            ready!(Pin::new(&mut this.inner).poll_flush(cx))?;
            let end = this.end.get_or_insert_with(|| Box::pin(sleep(this.patience)));
            if end.as_mut().poll(cx).is_pending() {
                ready!(read_to_end(&mut this.inner, cx));
            }
        }
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

/// Reads until the peer has closed it, one way or another.
fn read_to_end<S: AsyncRead + Unpin>(stream: &mut S, cx: &mut Context<'_>) -> Poll<()> {
    loop {
        let mut bytes = [0; 1024];
        let mut buffer = ReadBuf::new(&mut bytes);
        match ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer)) {
            Ok(()) if !buffer.filled().is_empty() => {}
            _ => return Poll::Ready(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);

    async fn ends(first: &[u8], patience: Duration, hurry: bool) -> bool {
        let (mut client, server) = tokio::io::duplex(64);
        let mut server = Lingering::new(server, patience, Arc::new(AtomicBool::new(hurry)));
        client.write_all(first).await.unwrap();
        server.read_exact(&mut vec![0; first.len()]).await.unwrap();
        timeout(SHORT, server.shutdown()).await.is_ok()
    }

    #[tokio::test]
    async fn only_http_2_waits_for_its_client_and_not_for_ever() {
        let long = Duration::from_secs(60);
        assert!(!ends(b"PRI * HTTP/2.0", long, false).await);
        assert!(ends(b"PRI * HTTP/2.0", long, true).await);
        assert!(ends(b"PRI * HTTP/2.0", Duration::from_millis(1), false).await);
        assert!(ends(b"POST / HTTP/1.1", long, false).await);
    }

    #[tokio::test]
    async fn the_client_s_end_is_the_end() {
        let (mut client, server) = tokio::io::duplex(64);
        let mut server = Lingering::new(server, Duration::from_secs(60), Arc::default());
        client.write_all(b"PRI * and more").await.unwrap();
        server.read_exact(&mut [0; 5]).await.unwrap();
        drop(client);
        assert!(timeout(SHORT, server.shutdown()).await.is_ok());
    }
}
