//! One connection to the store: greetings, messages in, messages out. Decides nothing: what to send and what an
//! answer means is the outbox's; when to connect again is [`super::native`]'s.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use protocol::limit::MESSAGE_BYTES_MAX;
use protocol::native::call::{Call, Goodbye, Hello, Reply, StreamInfo, Welcome};
use protocol::native::message::{self, Ack, Message, Type};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Messages that were read and not looked at yet.
const EVENTS_MAX: usize = 512;

/// Messages that came while an answer was waited for: a store that says so much else never answers.
const EARLY_MAX: usize = 65_536;

/// Something that the store said.
#[derive(Debug)]
pub(super) enum Event {
    Welcome(Box<Welcome>),
    Ack(Ack),
    Reply(u64, Box<Reply>),
    Stream(Box<StreamInfo>),
    Goodbye(Goodbye),
    Ping,
    Pong,
}

/// A connection that is up.
pub(super) struct Session {
    write: WriteHalf<TlsStream<TcpStream>>,
    events: mpsc::Receiver<Result<Event, io::Error>>,
    reader: tokio::task::JoinHandle<()>,
    /// Events that came while something else was waited for.
    early: VecDeque<Event>,
    next_call: u64,
    /// Messages to write.
    pub(super) out: Vec<u8>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Session {
    /// Connects and shakes hands.
    pub(super) async fn connect(
        host: &str,
        port: u16,
        name: &str,
        config: Arc<rustls::ClientConfig>,
    ) -> io::Result<Session> {
        let tcp = TcpStream::connect((host, port)).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let tls = TlsConnector::from(config).connect(name, tcp).await?;
        if tls.get_ref().1.alpn_protocol() != Some(protocol::native::ALPN) {
            return Err(io::Error::other("the store does not speak kinesin/1"));
        }
        let (read, write) = tokio::io::split(tls);
        let (tx, events) = mpsc::channel(EVENTS_MAX);
        let reader = tokio::spawn(read_messages(read, tx));
        Ok(Session { write, events, reader, early: VecDeque::new(), next_call: 1, out: Vec::new() })
    }

    /// The next thing the store says.
    pub(super) async fn event(&mut self) -> io::Result<Event> {
        if let Some(event) = self.early.pop_front() {
            return Ok(event);
        }
        match self.events.recv().await {
            Some(event) => event,
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// What the store has said already.
    pub(super) fn event_now(&mut self) -> Option<io::Result<Event>> {
        if let Some(event) = self.early.pop_front() {
            return Some(Ok(event));
        }
        self.events.try_recv().ok()
    }

    /// Says hello and waits for the answer.
    pub(super) async fn hello(&mut self, hello: &Hello) -> io::Result<Welcome> {
        message::put_json(Type::Hello, hello, &mut self.out);
        self.flush().await?;
        loop {
            match self.event().await? {
                Event::Welcome(welcome) => return Ok(*welcome),
                Event::Goodbye(goodbye) => return Err(said_goodbye(&goodbye)),
                event => put_off(&mut self.early, event)?,
            }
        }
    }

    /// Asks, and waits for the answer.
    pub(super) async fn call(&mut self, call: &Call) -> io::Result<Reply> {
        let id = self.put_call(call);
        self.flush().await?;
        let mut early = VecDeque::new();
        let reply = loop {
            match self.event().await? {
                Event::Reply(of, reply) if of == id => break *reply,
                Event::Goodbye(goodbye) => return Err(said_goodbye(&goodbye)),
                event => put_off(&mut early, event)?,
            }
        };
        self.early.append(&mut early);
        Ok(reply)
    }

    /// Asks, and does not wait; the answer has this id.
    pub(super) fn put_call(&mut self, call: &Call) -> u64 {
        let id = self.next_call;
        self.next_call += 1;
        message::put_call(Type::Call, id, call, &mut self.out);
        id
    }

    /// Writes what is in `out`.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        self.write.write_all(&self.out).await?;
        self.out.clear();
        self.write.flush().await
    }

    /// Closes in good order, as far as that goes.
    pub(super) async fn close(&mut self) {
        let _ = self.write.shutdown().await;
    }
}

/// As an error.
pub(super) fn said_goodbye(goodbye: &Goodbye) -> io::Error {
    io::Error::other(format!("the store says goodbye: {} ({})", goodbye.message, goodbye.code))
}

/// Keeps what came while something else was waited for.
fn put_off(early: &mut VecDeque<Event>, event: Event) -> io::Result<()> {
    if early.len() >= EARLY_MAX {
        return Err(io::Error::other("the store says much else and does not answer"));
    }
    early.push_back(event);
    Ok(())
}

async fn read_messages(mut read: impl AsyncRead + Unpin, events: mpsc::Sender<Result<Event, io::Error>>) {
    let mut buffer = Buffer::default();
    loop {
        let event = match buffer.next(&mut read).await {
            Ok(Some(event)) => Ok(event),
            Ok(None) => continue,
            Err(error) => Err(error),
        };
        let last = event.is_err();
        if events.send(event).await.is_err() || last {
            return;
        }
    }
}

#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    from: usize,
}

impl Buffer {
    async fn next(&mut self, read: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Event>> {
        loop {
            let rest = &self.bytes[self.from..];
            if let Some((message, len)) = Message::parse(rest, MESSAGE_BYTES_MAX).map_err(io::Error::other)? {
                let event = event_of(&message)?;
                self.from += len;
                return Ok(event);
            }
            self.bytes.drain(..self.from);
            self.from = 0;
            if read.read_buf(&mut self.bytes).await? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the store closed the connection"));
            }
        }
    }
}

fn event_of(message: &Message<'_>) -> io::Result<Option<Event>> {
    let event = match message.kind {
        Type::Welcome => message.json().map(|w| Event::Welcome(Box::new(w))),
        Type::Ack => Ack::parse(message.body).map(Event::Ack),
        Type::Reply => message.call().map(|(id, reply)| Event::Reply(id, Box::new(reply))),
        Type::StreamChanged => message.json().map(|s| Event::Stream(Box::new(s))),
        Type::Goodbye => message.json().map(Event::Goodbye),
        Type::Ping => Ok(Event::Ping),
        Type::Pong => Ok(Event::Pong),
        Type::Hello | Type::Append | Type::Call | Type::Batches => return Ok(None),
    };
    event.map(Some).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reaches `EARLY_MAX`.
    #[test]
    fn a_store_that_says_much_and_never_answers_is_left() {
        let mut early = VecDeque::new();
        assert!((0..EARLY_MAX).all(|_| put_off(&mut early, Event::Ping).is_ok()));
        assert!(put_off(&mut early, Event::Ping).is_err());
        assert_eq!(early.len(), EARLY_MAX);
    }

    /// Reaches `EVENTS_MAX`.
    #[test]
    fn what_nobody_looks_at_is_not_read_from_the_connection_without_end() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut pings = Vec::new();
            for _ in 0..3 * EVENTS_MAX {
                message::put_message(Type::Ping, &[], &mut pings);
            }
            let (tx, mut events) = mpsc::channel(EVENTS_MAX);
            let reader = tokio::spawn(read_messages(io::Cursor::new(pings), tx));
            for _ in 0..2 {
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
                assert_eq!((events.len(), reader.is_finished()), (EVENTS_MAX, false));
                assert!(matches!(events.recv().await, Some(Ok(Event::Ping))));
            }
        });
    }
}
