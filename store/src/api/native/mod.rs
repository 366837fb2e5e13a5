//! The native wire ([`protocol::native`]): from the end of the TLS handshake to the goodbye. Turns messages into
//! calls of the service and back. Never: what a stream is, how durable something is.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use protocol::frame::FrameError;
use protocol::limit;
use protocol::native::call::{CallError, Goodbye, Hello, Welcome};
use protocol::native::message::{MessageError, Type, put_json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::timeout;

use super::Shared;
use super::counters::Reason;
use super::listener::linger;
use crate::auth::AuthError;
use crate::principal::{Principal, Role};

pub(crate) mod buffers;
mod calls;
mod connection;
mod herald;

use buffers::{Inbox, Incoming, Next, Outbox};
use connection::Connection;
use herald::Named;

/// Why a connection ends.
#[derive(Debug)]
enum End {
    /// The other side closed it, or it broke.
    Gone,
    /// We close it and say why.
    Refused(Reason, String),
}

impl End {
    fn refused(reason: Reason, why: impl ToString) -> End {
        End::Refused(reason, why.to_string())
    }
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> End {
        End::Gone
    }
}

impl From<MessageError> for End {
    fn from(error: MessageError) -> End {
        let reason = match error {
            MessageError::TooLong { .. } => Reason::TooLong,
            _ => Reason::Malformed,
        };
        End::refused(reason, error)
    }
}

impl From<FrameError> for End {
    fn from(error: FrameError) -> End {
        End::refused(Reason::BadFrame, error)
    }
}

/// A stream with what is read of it and not yet understood, and what is to be written.
#[derive(Debug)]
struct Wire<S> {
    stream: S,
    inbox: Inbox,
    outbox: Outbox,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    async fn first_message(&mut self) -> Result<Incoming, End> {
        loop {
            match self.inbox.next(|_| limit::MESSAGE_BYTES_MAX_BEFORE_AUTH, |_, _| true)? {
                Next::Message(message) => return Ok(message),
                Next::More | Next::NoRoom => {}
            }
            if poll_fn(|cx| self.inbox.poll_fill(cx, &mut self.stream)).await? == 0 {
                return Err(End::Gone);
            }
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        let mut wrote = false;
        poll_fn(|cx| self.outbox.poll_write(cx, &mut self.stream, &mut wrote)).await
    }
}

/// Serves one connection to its end.
pub(crate) async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    shared: Arc<Shared>,
    stream: S,
    peer: SocketAddr,
    principal: Result<Principal, AuthError>,
    half_open: OwnedSemaphorePermit,
    stopped: watch::Receiver<bool>,
) {
    let mut wire = Wire { stream, inbox: Inbox::new(), outbox: Outbox::default() };
    let named = Named::default();
    let changes = shared.service.changes();
    let greeted = timeout(shared.limits.hello, greet(&shared, &mut wire, principal, &named)).await;
    let end = match greeted {
        Err(_) => End::refused(Reason::NoHello, "no hello came in time"),
        Ok(Err(end)) => end,
        Ok(Ok(session)) => {
            // Who has not said who it is stays among the half-open.
            let anonymous = session.principal.role == Role::Anonymous;
            let half_open = anonymous.then_some(half_open);
            let control = herald::start(&shared, changes, &session.principal, &named, stopped);
            // Who brings nothing gives way to those who do.
            let gives_way = session.producer.is_none();
            let of_all = Arc::clone(&shared);
            let served = async move {
                let end = Connection::new(&of_all, &mut wire, session, named, control).run().await;
                (wire, end)
            };
            let ended = if gives_way { shared.readers.run(served).await } else { Some(served.await) };
            drop(half_open);
            let Some((back, end)) = ended else { return };
            wire = back;
            end
        }
    };
    farewell(&shared, wire, peer, end).await;
}

/// Hello and welcome.
async fn greet<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Shared,
    wire: &mut Wire<S>,
    principal: Result<Principal, AuthError>,
    named: &Named,
) -> Result<crate::service::Session, End> {
    let principal = principal.map_err(|e| End::refused(Reason::NoPrincipal, e))?;
    let message = wire.first_message().await?;
    if message.kind != Type::Hello {
        return Err(End::refused(
            Reason::NoHello,
            format!("the first message is {:?}, not a hello", message.kind),
        ));
    }
    let hello: Hello = read_json(&message)?;
    let anonymous = principal.role == Role::Anonymous;
    let producer = if anonymous { None } else { hello.producer };
    let refused = |e: CallError| End::refused(Reason::Denied, e);
    let session = shared.service.begin_session(&principal, producer).map_err(refused)?;
    let streams = if anonymous || hello.streams.is_empty() {
        Vec::new()
    } else {
        named.add(hello.streams.iter().cloned());
        shared.service.open_streams(&principal, &hello.streams).await
    };
    let welcome = Welcome {
        server: concat!("kinesin/", env!("CARGO_PKG_VERSION")).to_owned(),
        now: shared.clock.wall(),
        principal: principal.name.clone(),
        inflight_batches_max: small(shared.limits.inflight_batches_max),
        inflight_bytes_max: small(shared.limits.inflight_bytes_max),
        streams,
    };
    wire.outbox.put(|out| put_json(Type::Welcome, &welcome, out));
    wire.flush().await?;
    Ok(session)
}

fn small(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn read_json<T: serde::de::DeserializeOwned>(message: &Incoming) -> Result<T, MessageError> {
    protocol::native::message::Message { kind: message.kind, body: &message.body }.json()
}

/// Says why, if it is ours to say, and closes so that it can be read.
async fn farewell<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Shared,
    mut wire: Wire<S>,
    peer: SocketAddr,
    end: End,
) {
    let End::Refused(reason, message) = end else { return };
    shared.counters.refused(reason, peer, &message);
    // To somebody who does not read there is no point in saying more.
    if reason != Reason::SlowReader {
        let goodbye = Goodbye { code: reason.code().to_owned(), message };
        wire.outbox.put(|out| put_json(Type::Goodbye, &goodbye, out));
        let _ = timeout(shared.limits.farewell, wire.flush()).await;
        linger(wire.stream).await;
    }
}
