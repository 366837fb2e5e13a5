//! The link to the store: connects, enrolls, sends what the outbox says and brings it the answers. A driver; it
//! runs on the agent's network thread. Frames are read from the spool when they are sent, so memory stays flat
//! whatever the backlog is.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use disk::{Position, ReadError};
use protocol::backoff::Backoff;
use protocol::batch::BatchBuilder;
use protocol::compress::{Codec, Compressor};
use protocol::frame::{HEADER_BYTES, Header, Kind};
use protocol::name::{StreamKey, StreamName};
use protocol::native::call::{Call, Hello, Producer, Reply, StreamInfo};
use protocol::native::message::{self, Type};
use protocol::native::url::StoreUrl;
use protocol::time::Mono;
use tokio::time::{sleep, timeout};

use super::identity::Identity;
use super::outbox::{Outbox, Read, Send};
use super::session::{Event, Session, said_goodbye};
use super::tls;
use crate::clock::{Clock, unix_ms};
use crate::hub::Hub;
use crate::log::Log;
use crate::loss::{Loss, SPOOL_DAMAGED};
use crate::spool::{BatchMeta, SpoolReader};
use crate::status::Stats;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const PING_AFTER_MS: u64 = 10_000;
const DEAD_AFTER_MS: u64 = 30_000;
/// Headers of the spool that are read before the network gets its turn again.
const READS_PER_TURN: usize = 512;
/// Bytes that are put together for one write.
const WRITE_BYTES: usize = 128 << 10;
/// How often the spool is told what was delivered.
const TELL_EVERY_MS: u64 = 50;
/// How often it is looked for the files that streams wait for.
const LOOK_MS: u64 = 200;
/// A stream that the store refused is asked for again after this.
const ASK_AGAIN_MS: u64 = 5_000;

/// Where the store is and what is needed to be let in.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The store.
    pub url: StoreUrl,
    /// The name in its certificate.
    pub server_name: String,
    /// Its authority.
    pub ca: PathBuf,
    /// For first contact.
    pub token: Option<String>,
    /// The agent's name.
    pub agent: String,
    /// Streams that are made for video, where they are not there.
    pub videos: BTreeSet<StreamName>,
    /// The spool's producer and epoch.
    pub producer: Producer,
    /// Rules whose streams are kept back while a file is not there: their places, the globs of their streams, the files.
    pub holds: Vec<(usize, String, PathBuf)>,
}

/// See the module.
pub struct Link {
    settings: Settings,
    identity: Identity,
    hub: Arc<Hub>,
    stats: Arc<Stats>,
    log: Log,
    clock: Clock,
    outbox: Outbox,
    spool: SpoolReader,
    frame: Vec<u8>,
    asked: BTreeMap<StreamKey, Mono>,
    calls: BTreeMap<u64, Asked>,
    told_at: Mono,
    look_at: Mono,
}

#[derive(Debug)]
enum Asked {
    Open(String),
    Renew,
}

/// Why a connection ended.
enum End {
    Stop,
    Reconnect,
    Failed(String),
}

impl Link {
    /// A link that is not connected yet.
    #[must_use]
    #[expect(clippy::too_many_arguments, reason = "made in one place, from what that place has")]
    pub fn new(
        settings: Settings,
        identity: Identity,
        hub: Arc<Hub>,
        stats: Arc<Stats>,
        log: Log,
        clock: Clock,
        outbox: Outbox,
        spool: SpoolReader,
    ) -> Link {
        Link {
            settings,
            identity,
            hub,
            stats,
            log,
            clock,
            outbox,
            spool,
            frame: Vec::new(),
            asked: BTreeMap::new(),
            calls: BTreeMap::new(),
            told_at: Mono::ZERO,
            look_at: Mono::ZERO,
        }
    }

    /// Connects, sends, and connects again, until the agent ends.
    pub async fn run(mut self) {
        let mut backoff = Backoff::new(200, 10_000, self.settings.producer.id as u64);
        while !self.hub.stopping() {
            let connected_at = self.clock.now();
            let end = self.connection(&mut backoff).await;
            self.outbox.handle_disconnected();
            self.calls.clear();
            self.asked.clear();
            self.stats.set_connected(false);
            self.tell(true);
            match end {
                End::Stop => break,
                End::Reconnect => continue,
                End::Failed(why) => {
                    self.stats.set_error(&why);
                    let url = &self.settings.url;
                    self.log.warn(&format!("link: {why}"), &format!("{url}: {why}; trying again"));
                }
            }
            if self.clock.now().since(connected_at) > Duration::from_secs(60) {
                backoff.reset();
            }
            self.pause(backoff.next_wait()).await;
        }
        self.tell(true);
    }

    /// Waits, but not for an agent that ends; the spool's bounded window is filled meanwhile.
    async fn pause(&mut self, wait: Duration) {
        let until = self.clock.now() + wait;
        while !self.hub.stopping() && self.clock.now() < until {
            self.read_spool();
            let left = until.since(self.clock.now()).min(Duration::from_millis(100));
            sleep(left).await;
        }
    }

    async fn connection(&mut self, backoff: &mut Backoff) -> End {
        let pair = match self.identity.load() {
            Ok(pair) => pair,
            Err(why) => return End::Failed(why),
        };
        let known = pair.is_some();
        let mut session = match timeout(CONNECT_TIMEOUT, self.open(pair)).await {
            Ok(Ok(session)) => session,
            Ok(Err(why)) => return End::Failed(why),
            Err(_) => return End::Failed("no connection within 10 s".to_owned()),
        };
        let done = if known {
            self.work(&mut session, backoff).await
        } else {
            timeout(CONNECT_TIMEOUT, self.enroll(&mut session))
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        };
        match done {
            Ok(end) => {
                let _ = timeout(Duration::from_millis(200), session.close()).await;
                end
            }
            Err(error) => End::Failed(tls::explain(&error, &self.settings.ca, &self.identity.cert_file())),
        }
    }

    async fn open(&self, pair: Option<super::identity::Pair>) -> Result<Session, String> {
        let settings = &self.settings;
        let config = tls::client(&settings.ca, pair, &[protocol::native::ALPN])?;
        let url = &settings.url;
        let session = Session::connect(&url.host, url.port, &settings.server_name, config).await;
        session.map_err(|error| tls::explain(&error, &settings.ca, &self.identity.cert_file()))
    }

    fn hello(&self, producer: Option<Producer>) -> Hello {
        let names = self.stats.stream_names();
        let names = names.iter().filter_map(|name| StreamName::new(name).ok());
        // Naming it here would make it a stream like any other.
        let names = names.filter(|name| !self.settings.videos.contains(name));
        Hello {
            client: format!("kinesin-agent {} ({})", env!("CARGO_PKG_VERSION"), self.settings.agent),
            producer,
            streams: names.take(64).collect(),
        }
    }

    /// First contact: a token and a request in, a certificate out.
    async fn enroll(&mut self, session: &mut Session) -> io::Result<End> {
        let Some(token) = self.settings.token.clone() else {
            return Ok(End::Failed(format!(
                "{} is not there and no token is configured: get one with `kinesin agent enroll` and put it \
                 into store.token",
                self.identity.cert_file().display()
            )));
        };
        let mut hello = self.hello(None);
        hello.streams.clear();
        session.hello(&hello).await?;
        let csr_pem = self.identity.request(&self.settings.agent).map_err(io::Error::other)?;
        match session.call(&Call::Enroll { token, csr_pem }).await? {
            Reply::Certificate { certificate_pem, .. } => {
                self.identity.store(&certificate_pem).map_err(io::Error::other)?;
                let file = self.identity.cert_file();
                self.log.info(&format!("enrolled; the certificate is in {}", file.display()));
                Ok(End::Reconnect)
            }
            Reply::Error(error) => {
                Ok(End::Failed(format!("the store refuses to enroll this agent: {error}")))
            }
            other => Ok(End::Failed(format!("the store answers enroll with {other:?}"))),
        }
    }

    async fn work(&mut self, session: &mut Session, backoff: &mut Backoff) -> io::Result<End> {
        let hello = self.hello(Some(self.settings.producer));
        let welcome = timeout(CONNECT_TIMEOUT, session.hello(&hello)).await.map_err(io::Error::other)??;
        self.outbox.handle_connected(welcome.inflight_batches_max, welcome.inflight_bytes_max);
        welcome.streams.into_iter().for_each(|info| self.take_stream(info));
        self.stats.set_connected(true);
        self.log.info(&format!("connected to {} as {}", self.settings.url, welcome.principal));
        backoff.reset();
        let mut heard = self.clock.now();
        let mut pinged = heard;
        let mut renew_at = heard;
        loop {
            let more = self.read_spool();
            let now = self.clock.now();
            if now >= renew_at {
                renew_at = now.plus_millis(60_000);
                self.renew_if_due(session);
            }
            self.open_streams(session, now);
            self.look_for_holds(now);
            self.outbox.handle_clock(now, unix_ms());
            let wrote = self.put_batches(session, now);
            self.tell(false);
            if self.hub.stopping() {
                return Ok(End::Stop);
            }
            if now.since(heard) > Duration::from_millis(DEAD_AFTER_MS) {
                return Ok(End::Failed("the store has been silent for 30 s".to_owned()));
            }
            if now.since(heard.max(pinged)) > Duration::from_millis(PING_AFTER_MS) {
                pinged = now;
                message::put_message(Type::Ping, &[], &mut session.out);
            }
            if !session.out.is_empty() {
                let flushed = timeout(Duration::from_millis(DEAD_AFTER_MS), session.flush()).await;
                flushed.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the store takes nothing"))??;
            }
            while let Some(event) = session.event_now() {
                heard = self.clock.now();
                if let Some(end) = self.take(event?, session)? {
                    return Ok(end);
                }
            }
            if !more && !wrote {
                let wait = self.wait(now);
                tokio::select! {
                    event = session.event() => {
                        heard = self.clock.now();
                        if let Some(end) = self.take(event?, session)? {
                            return Ok(end);
                        }
                    }
                    () = self.hub.link.notified() => {}
                    () = sleep(wait) => {}
                }
            }
        }
    }

    /// Whether the files are there that streams wait for.
    fn look_for_holds(&mut self, now: Mono) {
        if self.settings.holds.is_empty() || now < self.look_at {
            return;
        }
        self.look_at = now.plus_millis(LOOK_MS);
        for (rule, streams, file) in &self.settings.holds {
            let held = !file.exists();
            if self.outbox.handle_hold(*rule, held) {
                let how =
                    if held { "wait in the spool until it is there" } else { "are sent, since it is there" };
                self.log.info(&format!("{}: streams {streams} {how}", file.display()));
            }
        }
    }

    fn wait(&self, now: Mono) -> Duration {
        let tell = self.told_at.plus_millis(TELL_EVERY_MS).max(now.plus_millis(1));
        let idle = self.outbox.is_idle();
        let mut wait = if idle { Duration::from_secs(1) } else { tell.since(now) };
        if !self.settings.holds.is_empty() {
            wait = wait.min(self.look_at.since(now));
        }
        if let Some(due) = self.outbox.poll_timeout() {
            wait = wait.min(due.since(now));
        }
        // Timers of the runtime have milliseconds.
        wait.max(Duration::from_millis(1))
    }

    // ---- what the store says ----

    fn take(&mut self, event: Event, session: &mut Session) -> io::Result<Option<End>> {
        match event {
            Event::Ack(ack) => {
                self.outbox.handle_ack(&ack, self.clock.now());
                self.stats.set_outbox(&self.outbox);
            }
            Event::Stream(info) => self.take_stream(*info),
            Event::Reply(id, reply) => return Ok(self.take_reply(id, *reply)),
            Event::Goodbye(goodbye) => return Err(said_goodbye(&goodbye)),
            Event::Ping => message::put_message(Type::Pong, &[], &mut session.out),
            Event::Pong | Event::Welcome(_) => {}
        }
        Ok(None)
    }

    fn take_stream(&mut self, info: StreamInfo) {
        self.outbox.handle_stream(&info);
        self.asked.remove(&info.key);
        self.hub.stream_changed(info);
    }

    fn take_reply(&mut self, id: u64, reply: Reply) -> Option<End> {
        match (self.calls.remove(&id), reply) {
            (_, Reply::Stream(info)) => self.take_stream(info),
            (Some(Asked::Open(name)), Reply::Error(error)) => {
                self.stats.set_error(&format!("stream {name}: {error}"));
                let text =
                    format!("the store does not take stream {name}: {error}; its records wait in the spool");
                self.log.error(&format!("stream {name}"), &text);
            }
            (Some(Asked::Renew), Reply::Certificate { certificate_pem, .. }) => {
                match self.identity.store(&certificate_pem) {
                    Ok(()) => {
                        self.log.info("the client certificate was renewed");
                        return Some(End::Reconnect);
                    }
                    Err(why) => self.log.error("renew", &why),
                }
            }
            (Some(Asked::Renew), Reply::Error(error)) => {
                self.log.error("renew", &format!("the client certificate can't be renewed: {error}"));
            }
            _ => {}
        }
        None
    }

    fn renew_if_due(&mut self, session: &mut Session) {
        let Some((from, to)) = self.identity.validity() else { return };
        let two_thirds = from.0 + to.millis_since(from) / 3 * 2;
        if unix_ms().0 < two_thirds || self.calls.values().any(|asked| matches!(asked, Asked::Renew)) {
            return;
        }
        match self.identity.request(&self.settings.agent) {
            Ok(csr_pem) => {
                let id = session.put_call(&Call::Renew { csr_pem });
                self.calls.insert(id, Asked::Renew);
            }
            Err(why) => self.log.error("renew", &why),
        }
    }

    fn open_streams(&mut self, session: &mut Session, now: Mono) {
        for (key, name) in self.outbox.unopened() {
            let again = self.asked.get(&key).is_none_or(|at| now >= at.plus_millis(ASK_AGAIN_MS));
            if let (true, Ok(stream)) = (again, StreamName::new(&name)) {
                self.asked.insert(key, now);
                let video = self.settings.videos.contains(&stream);
                let id = session.put_call(&Call::OpenStream { name: stream, video });
                self.calls.insert(id, Asked::Open(name));
            }
        }
    }

    // ---- the spool ----

    /// Reads headers ahead; true when there is more to read at once.
    fn read_spool(&mut self) -> bool {
        for name in self.stats.take_new_streams() {
            if let Ok(name) = StreamName::new(&name) {
                self.outbox.handle_stream_name(name.key(), name.as_str());
            }
        }
        for _ in 0..READS_PER_TURN {
            let Some(read) = self.outbox.poll_read() else { return false };
            if !self.read_header(read) {
                return false;
            }
        }
        true
    }

    fn read_header(&mut self, read: Read) -> bool {
        let (Read::Ahead(at) | Read::Again(at)) = read;
        let mut header = [0u8; HEADER_BYTES];
        match self.spool.read_header(Position(at), &mut header) {
            Ok(len) => {
                let header = Header::parse(&header).ok().filter(|header| header.kind == Kind::Data);
                let meta = header.map(|header| BatchMeta::of(at, &header));
                self.outbox.handle_read(read, meta.as_ref(), at + len as u64);
                true
            }
            Err(ReadError::BeyondEnd { .. }) => {
                if matches!(read, Read::Again(_)) {
                    self.outbox.handle_read(read, None, at);
                }
                false
            }
            Err(ReadError::Trimmed { start }) => {
                self.outbox.handle_read(read, None, start.0);
                true
            }
            Err(ReadError::Damaged { from, to }) => {
                self.damaged(from.0, to.0);
                self.outbox.handle_read(read, None, to.0);
                true
            }
            Err(ReadError::Io(error)) => {
                self.stats.set_error(&error.to_string());
                self.log.error("spool", &format!("the spool can't be read: {error}"));
                false
            }
        }
    }

    fn damaged(&mut self, from: u64, to: u64) {
        let text =
            format!("the spool is damaged from {from} to {to}: what was there is lost, the rest goes on");
        self.log.error(&format!("damage {from}"), &text);
        self.outbox.handle_loss(Loss::new("spool", SPOOL_DAMAGED, 0, to - from).at(from, to));
    }

    /// Puts as many batches into the next write as fit; true when any.
    fn put_batches(&mut self, session: &mut Session, now: Mono) -> bool {
        let mut any = false;
        while session.out.len() < WRITE_BYTES {
            let Some(send) = self.outbox.poll_send(now) else { break };
            any = true;
            match send {
                Send::Filler { lane, sequence } => {
                    let header = Header {
                        stream: lane.stream,
                        lane: lane.lane,
                        producer_id: self.settings.producer.id,
                        producer_epoch: self.settings.producer.epoch,
                        producer_sequence: sequence,
                        ..Header::default()
                    };
                    let mut frame = Vec::new();
                    BatchBuilder::new().seal(header, &mut Compressor::new(Codec::None), &mut frame);
                    message::put_message(Type::Append, &frame, &mut session.out);
                }
                Send::Batch(meta) => self.put_batch(&meta, session),
            }
        }
        any
    }

    fn put_batch(&mut self, meta: &BatchMeta, session: &mut Session) {
        if !self.hub.may_send(meta.position) {
            return self.outbox.handle_held(meta, self.clock.now());
        }
        match self.spool.read(Position(meta.position), &mut self.frame) {
            Ok(()) => {
                self.stats.add_wire(self.frame.len() as u64);
                message::put_message(Type::Append, &self.frame, &mut session.out);
                if self.frame.capacity() > 1 << 20 {
                    self.frame = Vec::new();
                }
            }
            // Given up by the spool, which has written down the loss.
            Err(ReadError::Trimmed { .. }) => self.outbox.handle_unreadable(meta, None),
            Err(error) => {
                let why = format!("a batch in the spool can't be read: {error}");
                self.log.error("spool", &why);
                let name = self.outbox.stream_name(meta.lane.stream);
                let (records, bytes) = (u64::from(meta.records), u64::from(meta.user_bytes));
                let loss = Loss::new(name, SPOOL_DAMAGED, records, bytes);
                let end = meta.position + u64::from(meta.len);
                self.outbox.handle_unreadable(meta, Some(loss.at(meta.position, end)));
            }
        }
    }

    /// Tells the spool what was delivered, not too often.
    fn tell(&mut self, at_once: bool) {
        let now = self.clock.now();
        if !at_once && now < self.told_at.plus_millis(TELL_EVERY_MS) {
            return;
        }
        self.told_at = now;
        self.stats.set_outbox(&self.outbox);
        if let Some(update) = self.outbox.poll_delivered() {
            self.hub.delivered(update);
        }
        self.hub.sent_from(self.outbox.sent_from());
    }
}
