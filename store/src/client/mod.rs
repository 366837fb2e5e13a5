//! A small client of the native protocol: for the operator's commands, the load generator, tests and the demo.
//! Agents have their own. Never in here: retries over connections, spooling, anything of the server's inside.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use protocol::frame::Header;
use protocol::name::StreamName;
use protocol::native::call::{Call, Hello, Reply, StartingPosition, StreamInfo, Welcome};
use protocol::native::message::{Ack, ReadHead, Type};
use protocol::sequence::ShardId;
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot};
use tokio::time::{Interval, MissedTickBehavior};

mod error;
pub mod http;
mod link;
mod target;

pub use error::ClientError;
pub use link::{Link, Received};
pub use target::{Identity, Target, endpoint_file};

/// The store closes a connection that says nothing for a minute.
const PING_EVERY: Duration = Duration::from_secs(20);

/// What a read brought.
#[derive(Debug)]
pub struct Batches {
    /// Where the next read starts, and how far behind this one is.
    pub head: ReadHead,
    body: Vec<u8>,
}

impl Batches {
    /// Whole frames, one after the other.
    #[must_use]
    pub fn frames(&self) -> &[u8] {
        &self.body[ReadHead::BYTES.min(self.body.len())..]
    }
}

#[derive(Debug)]
enum Answer {
    Reply(Reply),
    Batches(Batches),
}

type Waiting<T> = oneshot::Sender<Result<T, ClientError>>;

enum Request {
    Call(Call, Waiting<Answer>),
    Append { frame: Vec<u8>, done: Waiting<Ack> },
}

/// A connection that many tasks may use at the same time. Cheap to clone; closed when the last clone is gone.
#[derive(Debug, Clone)]
pub struct Client {
    requests: mpsc::UnboundedSender<Request>,
    welcome: Arc<Welcome>,
    batches: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    changes: broadcast::Sender<StreamInfo>,
}

impl Client {
    /// Connects as a client that commands and reads.
    ///
    /// # Errors
    /// As [`Link::connect`].
    pub async fn connect(target: &Target) -> Result<Client, ClientError> {
        let client = concat!("kinesin/", env!("CARGO_PKG_VERSION")).to_owned();
        Client::connect_as(target, &Hello { client, producer: None, streams: Vec::new() }).await
    }

    /// Connects with a hello of one's own, such as a producer's.
    ///
    /// # Errors
    /// As [`Link::connect`].
    pub async fn connect_as(target: &Target, hello: &Hello) -> Result<Client, ClientError> {
        let link = Link::connect(target, hello).await?;
        let welcome = Arc::new(link.welcome().clone());
        let (requests, asked) = mpsc::unbounded_channel();
        let changes = broadcast::channel(64).0;
        tokio::spawn(Driver::new(link, asked, changes.clone()).run());
        Ok(Client {
            requests,
            batches: Arc::new(Semaphore::new(welcome.inflight_batches_max.max(1) as usize)),
            bytes: Arc::new(Semaphore::new(welcome.inflight_bytes_max.max(1) as usize)),
            welcome,
            changes,
        })
    }

    /// What the store said first.
    #[must_use]
    pub fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// Streams that were named on this connection and changed.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<StreamInfo> {
        self.changes.subscribe()
    }

    async fn ask<T>(&self, request: impl FnOnce(Waiting<T>) -> Request) -> Result<T, ClientError> {
        let (done, answer) = oneshot::channel();
        let gone = || ClientError::Broken("it is closed".to_owned());
        self.requests.send(request(done)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Makes a call. A [`Reply::Error`] is an error here.
    ///
    /// # Errors
    /// When the store refuses, or the connection breaks.
    pub async fn call(&self, call: Call) -> Result<Reply, ClientError> {
        match self.ask(|done| Request::Call(call, done)).await? {
            Answer::Reply(Reply::Error(error)) => Err(error.into()),
            Answer::Reply(reply) => Ok(reply),
            Answer::Batches(_) => Err(ClientError::Nonsense("batches in place of a reply".to_owned())),
        }
    }

    /// Makes a call that is answered with one stream.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn stream(&self, call: Call) -> Result<StreamInfo, ClientError> {
        match self.call(call).await? {
            Reply::Stream(info) => Ok(info),
            other => Err(ClientError::Nonsense(format!("{other:?} in place of a stream"))),
        }
    }

    /// Reads batches of a shard.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn read(
        &self,
        name: &StreamName,
        shard: ShardId,
        from: StartingPosition,
        bytes_max: u32,
        wait_ms: u32,
    ) -> Result<Batches, ClientError> {
        let call = Call::Read { name: name.clone(), shard, from, bytes_max, wait_ms };
        match self.ask(|done| Request::Call(call, done)).await? {
            Answer::Batches(batches) => Ok(batches),
            Answer::Reply(Reply::Error(error)) => Err(error.into()),
            Answer::Reply(other) => Err(ClientError::Nonsense(format!("{other:?} in place of batches"))),
        }
    }

    /// Sends a batch and waits for its answer. Many may be under way; the caller orders those of a lane by
    /// calling in order and polling in order. The store's bounds are kept by waiting.
    ///
    /// # Errors
    /// When the frame is none, or the connection breaks: then it is not known whether the batch was stored.
    pub async fn append(&self, frame: Vec<u8>) -> Result<Ack, ClientError> {
        let _batch = self.batches.acquire().await;
        let share = (frame.len()).clamp(1, self.welcome.inflight_bytes_max.max(1) as usize);
        let _bytes = self.bytes.acquire_many(u32::try_from(share).unwrap_or(u32::MAX)).await;
        self.ask(|done| Request::Append { frame, done }).await
    }
}

type BatchKey = (u64, u32, u64);

struct Driver {
    link: Link,
    asked: mpsc::UnboundedReceiver<Request>,
    changes: broadcast::Sender<StreamInfo>,
    calls: HashMap<u64, Waiting<Answer>>,
    appends: HashMap<BatchKey, Vec<Waiting<Ack>>>,
    last_id: u64,
    ping: Interval,
}

impl Driver {
    fn new(
        link: Link,
        asked: mpsc::UnboundedReceiver<Request>,
        changes: broadcast::Sender<StreamInfo>,
    ) -> Driver {
        let mut ping = tokio::time::interval(PING_EVERY);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Driver { link, asked, changes, calls: HashMap::new(), appends: HashMap::new(), last_id: 0, ping }
    }

    async fn run(mut self) {
        let end = poll_fn(|cx| match self.poll(cx) {
            Ok(false) => Poll::Pending,
            Ok(true) => Poll::Ready(ClientError::Broken("it is closed".to_owned())),
            Err(error) => Poll::Ready(error),
        })
        .await;
        self.calls.into_values().for_each(|done| drop(done.send(Err(end.clone()))));
        self.appends.into_values().flatten().for_each(|done| drop(done.send(Err(end.clone()))));
        // Those who asked in between hear the same.
        self.asked.close();
        while let Ok(request) = self.asked.try_recv() {
            match request {
                Request::Call(_, done) => drop(done.send(Err(end.clone()))),
                Request::Append { done, .. } => drop(done.send(Err(end.clone()))),
            }
        }
    }

    /// True when nobody is left to ask anything.
    fn poll(&mut self, cx: &mut Context<'_>) -> Result<bool, ClientError> {
        while self.ping.poll_tick(cx).is_ready() {
            self.link.put_ping();
        }
        while let Poll::Ready(request) = self.asked.poll_recv(cx) {
            match request {
                Some(request) => self.on_request(request),
                None => return Ok(true),
            }
        }
        while let Poll::Ready(received) = self.link.poll_next(cx) {
            self.on_received(received.map_err(link::Failure::into_error)?)?;
        }
        match self.link.poll_flush(cx) {
            Poll::Ready(Err(error)) => Err(ClientError::Broken(error.to_string())),
            _ => Ok(false),
        }
    }

    fn on_request(&mut self, request: Request) {
        match request {
            Request::Call(call, done) => {
                self.last_id += 1;
                self.link.put_call(self.last_id, &call);
                self.calls.insert(self.last_id, done);
            }
            Request::Append { frame, done } => match Header::parse(&frame) {
                Err(error) => drop(done.send(Err(ClientError::Setup(error.to_string())))),
                Ok(header) => {
                    let key = (header.stream.0, header.lane, header.producer_sequence);
                    self.appends.entry(key).or_default().push(done);
                    self.link.push_append(frame);
                }
            },
        }
    }

    fn on_received(&mut self, received: Received) -> Result<(), ClientError> {
        match received.kind {
            Type::Reply => {
                let (id, reply) = received.message().call()?;
                self.answer(id, Answer::Reply(reply));
            }
            Type::Batches => {
                let (head, _) = ReadHead::parse(&received.body)?;
                self.answer(head.id, Answer::Batches(Batches { head, body: received.body }));
            }
            Type::Ack => self.on_ack(Ack::parse(&received.body)?),
            Type::StreamChanged => drop(self.changes.send(received.message().json()?)),
            other => return Err(ClientError::Nonsense(format!("{other:?} is not for stores to send"))),
        }
        Ok(())
    }

    fn answer(&mut self, id: u64, answer: Answer) {
        if let Some(done) = self.calls.remove(&id) {
            let _ = done.send(Ok(answer));
        }
    }

    fn on_ack(&mut self, ack: Ack) {
        let key = (ack.stream.0, ack.lane, ack.producer_sequence);
        let Some(waiting) = self.appends.get_mut(&key) else { return };
        let done = (!waiting.is_empty()).then(|| waiting.remove(0));
        if waiting.is_empty() {
            self.appends.remove(&key);
        }
        if let Some(done) = done {
            let _ = done.send(Ok(ack));
        }
    }
}
