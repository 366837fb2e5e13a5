//! One connection to a store, driven by its owner: put messages, flush, take the next. The cheapest way to
//! speak the native protocol; [`super::Client`] is the comfortable one. Never: retries.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use protocol::limit;
use protocol::native::call::{Call, Goodbye, Hello, Welcome};
use protocol::native::message::{Message, MessageError, Type, prefix, put_call, put_json, put_message};
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{ClientError, Target};
use crate::api::native::buffers::{Inbox, Incoming, Next, Outbox};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const SOCKET_BUFFER_BYTES: usize = 32 * 1024;

/// A message from the store.
#[derive(Debug)]
pub struct Received {
    /// What it is.
    pub kind: Type,
    /// What it holds.
    pub body: Vec<u8>,
}

impl Received {
    /// For parsing.
    #[must_use]
    pub fn message(&self) -> Message<'_> {
        Message { kind: self.kind, body: &self.body }
    }
}

/// One connection.
#[derive(Debug)]
pub struct Link {
    stream: TlsStream<BufReader<TcpStream>>,
    inbox: Inbox,
    outbox: Outbox,
    welcome: Welcome,
}

/// A connection to a store that nothing was said on.
pub(super) async fn connect(
    target: &Target,
    alpn: &[u8],
) -> Result<TlsStream<BufReader<TcpStream>>, ClientError> {
    let tls = TlsConnector::from(target.tls(alpn)?);
    let name = target.server_name()?;
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    let to = (target.url.host.as_str(), target.url.port);
    let tcp = timeout(CONNECT_TIMEOUT, TcpStream::connect(to)).await.unwrap_or_else(|_| Err(late()));
    let tcp = tcp.map_err(|e| ClientError::unreachable(target, &e))?;
    let _ = tcp.set_nodelay(true);
    let socket = BufReader::with_capacity(SOCKET_BUFFER_BYTES, tcp);
    let stream = timeout(CONNECT_TIMEOUT, tls.connect(name, socket)).await.unwrap_or_else(|_| Err(late()));
    stream.map_err(|e| ClientError::handshake(target, &e))
}

impl Link {
    /// Connects, greets, and waits for the welcome.
    ///
    /// # Errors
    /// When the store can't be reached, one side does not trust the other, or it says goodbye at once.
    pub async fn connect(target: &Target, hello: &Hello) -> Result<Link, ClientError> {
        let stream = connect(target, protocol::native::ALPN).await?;
        let nobody = Welcome {
            server: String::new(),
            now: protocol::time::UnixMs(0),
            principal: String::new(),
            inflight_batches_max: 1,
            inflight_bytes_max: 1,
            streams: Vec::new(),
        };
        let mut link = Link { stream, inbox: Inbox::new(), outbox: Outbox::default(), welcome: nobody };
        match timeout(CONNECT_TIMEOUT, link.greet(hello)).await {
            Ok(Ok(())) => Ok(link),
            Ok(Err(Failure::Io(error))) => Err(ClientError::handshake(target, &error)),
            Ok(Err(Failure::Said(error))) => Err(error),
            Err(_) => Err(ClientError::handshake(target, &io::ErrorKind::TimedOut.into())),
        }
    }

    async fn greet(&mut self, hello: &Hello) -> Result<(), Failure> {
        self.outbox.put(|out| put_json(Type::Hello, hello, out));
        // A store that refuses us may close before it has read the hello; what it said is worth more.
        let sent = poll_fn(|cx| self.poll_flush(cx)).await;
        let received = match poll_fn(|cx| self.poll_next(cx)).await {
            Err(Failure::Io(error)) => return Err(Failure::Io(sent.err().unwrap_or(error))),
            other => other?,
        };
        if received.kind != Type::Welcome {
            let text = format!("{:?} in place of a welcome", received.kind);
            return Err(Failure::Said(ClientError::Nonsense(text)));
        }
        self.welcome = received.message().json().map_err(|e| Failure::Said(e.into()))?;
        Ok(())
    }

    /// What the store said first.
    #[must_use]
    pub fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// Queues a batch.
    pub fn put_append(&mut self, frame: &[u8]) {
        self.outbox.put(|out| {
            out.extend_from_slice(&prefix(Type::Append, frame.len()));
            out.extend_from_slice(frame);
        });
    }

    /// Queues a batch without copying it.
    pub fn push_append(&mut self, frame: Vec<u8>) {
        self.outbox.put(|out| out.extend_from_slice(&prefix(Type::Append, frame.len())));
        self.outbox.push(frame);
    }

    /// Queues a call.
    pub fn put_call(&mut self, id: u64, call: &Call) {
        self.outbox.put(|out| put_call(Type::Call, id, call, out));
    }

    /// Queues an empty message: a ping.
    pub fn put_ping(&mut self) {
        self.outbox.put(|out| put_message(Type::Ping, &[], out));
    }

    /// Queues bytes as they are: for tests that misbehave.
    pub fn put_raw(&mut self, bytes: &[u8]) {
        self.outbox.put(|out| out.extend_from_slice(bytes));
    }

    /// Bytes that wait to be sent.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.outbox.len()
    }

    /// Sends all that is queued.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn flush(&mut self) -> Result<(), ClientError> {
        poll_fn(|cx| self.poll_flush(cx)).await.map_err(|e| ClientError::Broken(e.to_string()))
    }

    /// The next message; pings are answered in here.
    ///
    /// # Errors
    /// When the connection broke, ended, or the store said goodbye.
    pub async fn next(&mut self) -> Result<Received, ClientError> {
        poll_fn(|cx| self.poll_next(cx)).await.map_err(Failure::into_error)
    }

    /// The next message among those that have already come; nothing is waited for.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn try_next(&mut self) -> Result<Option<Received>, ClientError> {
        self.take().map_err(Failure::into_error)
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut wrote = false;
        self.outbox.poll_write(cx, &mut self.stream, &mut wrote)
    }

    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Received, Failure>> {
        loop {
            if let Some(received) = self.take()? {
                return Poll::Ready(Ok(received));
            }
            match self.inbox.poll_fill(cx, &mut self.stream) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(Failure::Io(io::ErrorKind::UnexpectedEof.into())));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Failure::Io(error))),
            }
        }
    }

    fn take(&mut self) -> Result<Option<Received>, Failure> {
        loop {
            let next = self.inbox.next(|_| limit::MESSAGE_BYTES_MAX, |_, _| true)?;
            let Next::Message(Incoming { kind, body }) = next else { return Ok(None) };
            match kind {
                Type::Ping => self.outbox.put(|out| put_message(Type::Pong, &[], out)),
                Type::Pong => {}
                Type::Goodbye => {
                    let goodbye: Goodbye = Message { kind, body: &body }.json()?;
                    return Err(Failure::Said(ClientError::Goodbye(goodbye)));
                }
                kind => return Ok(Some(Received { kind, body })),
            }
        }
    }
}

#[derive(Debug)]
pub(super) enum Failure {
    Io(io::Error),
    Said(ClientError),
}

impl Failure {
    pub(super) fn into_error(self) -> ClientError {
        match self {
            Failure::Io(error) => ClientError::Broken(error.to_string()),
            Failure::Said(error) => error,
        }
    }
}

impl From<MessageError> for Failure {
    fn from(error: MessageError) -> Failure {
        Failure::Said(error.into())
    }
}
