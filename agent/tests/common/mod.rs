//! A small store for the agent's tests: TLS, enrolment, sequences, throttles, and faults on request. It keeps every
//! record in memory, so that a test can compare what came with what was written.
#![allow(clippy::disallowed_methods, reason = "a fake store with real time, and files that are not ours")]
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use protocol::batch::Batch;
use protocol::bucket::{ShardBucket, ShardRate};
use protocol::frame::Frame;
use protocol::hash::{HashKey, HashKeyRange};
use protocol::limit::MESSAGE_BYTES_MAX;
use protocol::name::{StreamKey, StreamName};
use protocol::native::call::{
    Call, CallError, CallErrorCode, Goodbye, Hello, Producer, Reply, ShardInfo, StreamConfig, StreamInfo,
    Welcome,
};
use protocol::native::message::{
    Ack, Message, Outcome, RefuseCode, Stored, Type, put_call, put_json, put_message,
};
use protocol::sequence::{SequenceNumber, ShardId};
use protocol::time::{Mono, UnixMs};
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A record as it was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub stream: String,
    pub shard: u32,
    pub key: String,
    pub data: Vec<u8>,
}

/// What the store does wrong, and how its streams are.
#[derive(Debug, Clone)]
pub struct Behaviour {
    pub shards: u32,
    pub rate: Option<ShardRate>,
    /// After so many appends of a connection it is cut, with the last ones stored and not answered.
    pub cut_after: Option<u64>,
    /// Every so many appends the answer is "throttled".
    pub throttle_every: Option<u64>,
    pub refuse_stream: Option<String>,
    pub record_bytes_max: usize,
    /// Nothing is answered or accepted.
    pub down: bool,
    pub certificate_ttl: Duration,
    pub keep_data: bool,
}

impl Default for Behaviour {
    fn default() -> Behaviour {
        Behaviour {
            shards: 1,
            rate: None,
            cut_after: None,
            throttle_every: None,
            refuse_stream: None,
            record_bytes_max: 1 << 20,
            down: false,
            certificate_ttl: Duration::from_secs(30 * 24 * 3600),
            keep_data: true,
        }
    }
}

#[derive(Debug)]
struct StreamState {
    name: StreamName,
    shards: u32,
    version: u64,
    buckets: Vec<ShardBucket>,
}

#[derive(Debug, Default)]
struct World {
    streams: BTreeMap<StreamKey, StreamState>,
    sequences: HashMap<(u128, StreamKey, u32), u64>,
    epochs: HashMap<u128, u32>,
    records: Vec<Kept>,
    record_count: u64,
    bytes: u64,
    throttled: u64,
    duplicates: u64,
    out_of_sequence: u64,
    enrolled: u64,
    connections: u64,
    appends: u64,
    fillers: u64,
}

/// See the module.
pub struct FakeStore {
    pub addr: SocketAddr,
    pub dir: PathBuf,
    world: Arc<Mutex<World>>,
    pub behaviour: Arc<Mutex<Behaviour>>,
    stop: tokio::sync::watch::Sender<u64>,
    thread: Option<std::thread::JoinHandle<()>>,
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

fn authority() -> Authority {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let cert = params.self_signed(&key).unwrap();
    Authority { pem: cert.pem(), der: cert.der().clone(), issuer: Issuer::new(params, key) }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FakeStore {
    pub fn start(dir: &Path, behaviour: Behaviour) -> FakeStore {
        let authority = Arc::new(authority());
        std::fs::write(dir.join("ca.pem"), &authority.pem).unwrap();
        let key = KeyPair::generate().unwrap();
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let cert = CertificateParams::new(names).unwrap().signed_by(&key, &authority.issuer).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(authority.der.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.allow_unauthenticated().build().unwrap())
            .with_single_cert(
                vec![cert.der().clone()],
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )
            .unwrap();
        config.alpn_protocols = vec![protocol::native::ALPN.to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let world = Arc::new(Mutex::new(World::default()));
        let behaviour = Arc::new(Mutex::new(behaviour));
        let (stop, stopped) = tokio::sync::watch::channel(0);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let addr = listener.local_addr().unwrap();
        let parts =
            Parts { world: Arc::clone(&world), behaviour: Arc::clone(&behaviour), authority, acceptor };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve(TcpListener::from_std, listener, parts, stopped));
        });
        FakeStore { addr, dir: dir.to_owned(), world, behaviour, stop, thread: Some(thread) }
    }

    pub fn set(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut lock(&self.behaviour));
    }

    /// Cuts all connections.
    pub fn cut(&self) {
        self.stop.send_modify(|n| *n += 1);
    }

    /// No connection from now on, or again.
    pub fn set_down(&self, down: bool) {
        self.set(|b| b.down = down);
        self.cut();
    }

    /// Another number of shards from now on.
    pub fn reshard(&self, shards: u32) {
        self.set(|b| b.shards = shards);
        for stream in lock(&self.world).streams.values_mut() {
            stream.shards = shards;
            stream.version += 1;
            stream.buckets.clear();
        }
        self.cut();
    }

    pub fn records(&self) -> Vec<Kept> {
        lock(&self.world).records.clone()
    }

    pub fn of(&self, stream: &str) -> Vec<Kept> {
        self.records().into_iter().filter(|r| r.stream == stream).collect()
    }

    pub fn lines(&self, stream: &str) -> Vec<String> {
        self.of(stream).into_iter().map(|r| String::from_utf8_lossy(&r.data).into_owned()).collect()
    }

    /// (records, bytes, throttled, duplicates, out of sequence, fillers)
    pub fn counts(&self) -> [u64; 6] {
        let w = lock(&self.world);
        [w.record_count, w.bytes, w.throttled, w.duplicates, w.out_of_sequence, w.fillers]
    }

    pub fn enrolled(&self) -> u64 {
        lock(&self.world).enrolled
    }

    /// Waits until something is so.
    pub fn wait(&self, what: &str, most: Duration, mut so: impl FnMut(&FakeStore) -> bool) {
        let until = Instant::now() + most;
        while !so(self) {
            assert!(Instant::now() < until, "not within {most:?}: {what}; counts {:?}", self.counts());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for FakeStore {
    fn drop(&mut self) {
        self.stop.send_replace(u64::MAX);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[derive(Clone)]
struct Parts {
    world: Arc<Mutex<World>>,
    behaviour: Arc<Mutex<Behaviour>>,
    authority: Arc<Authority>,
    acceptor: TlsAcceptor,
}

async fn serve(
    convert: fn(std::net::TcpListener) -> io::Result<TcpListener>,
    listener: std::net::TcpListener,
    parts: Parts,
    mut stopped: tokio::sync::watch::Receiver<u64>,
) {
    let listener = convert(listener).unwrap();
    let start = Instant::now();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((tcp, _)) = accepted else { continue };
                if lock(&parts.behaviour).down {
                    continue;
                }
                let (parts, mut cut) = (parts.clone(), stopped.clone());
                cut.mark_unchanged();
                tokio::spawn(async move {
                    tokio::select! {
                        result = connection(tcp, parts, start) => drop(result),
                        _ = cut.changed() => {}
                    }
                });
            }
            _ = stopped.changed() => if *stopped.borrow() == u64::MAX { return },
        }
    }
}

struct Connection {
    parts: Parts,
    start: Instant,
    known: bool,
    producer: Option<Producer>,
    appends: u64,
    batch: Batch<'static>,
    out: Vec<u8>,
    /// Lanes whose batches are refused until this one comes again.
    refusing: BTreeMap<(StreamKey, u32), u64>,
}

async fn connection(tcp: TcpStream, parts: Parts, start: Instant) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let mut tls: TlsStream<TcpStream> = parts.acceptor.clone().accept(tcp).await?;
    lock(&parts.world).connections += 1;
    let known = tls.get_ref().1.peer_certificates().is_some();
    let mut connection = Connection {
        parts,
        start,
        known,
        producer: None,
        appends: 0,
        batch: Batch::new(),
        out: Vec::new(),
        refusing: BTreeMap::new(),
    };
    let mut bytes = Vec::new();
    loop {
        let mut from = 0;
        while let Some((message, len)) =
            Message::parse(&bytes[from..], MESSAGE_BYTES_MAX).map_err(io::Error::other)?
        {
            let go_on = connection.take(&message);
            from += len;
            if !go_on {
                tls.write_all(&connection.out).await?;
                tls.flush().await?;
                return Ok(());
            }
        }
        bytes.drain(..from);
        tls.write_all(&connection.out).await?;
        tls.flush().await?;
        connection.out.clear();
        if tls.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    }
}

impl Connection {
    fn take(&mut self, message: &Message<'_>) -> bool {
        match message.kind {
            Type::Hello => self.hello(&message.json::<Hello>().unwrap()),
            Type::Call => {
                let (id, call) = message.call::<Call>().unwrap();
                let reply = self.call(call);
                put_call(Type::Reply, id, &reply, &mut self.out);
            }
            Type::Append if self.known => return self.append(message.body),
            Type::Ping => put_message(Type::Pong, &[], &mut self.out),
            Type::Pong => {}
            other => panic!("an agent sends {other:?}"),
        }
        true
    }

    fn hello(&mut self, hello: &Hello) {
        self.producer = hello.producer;
        if let Some(producer) = hello.producer {
            let mut world = lock(&self.parts.world);
            let epoch = world.epochs.entry(producer.id).or_default();
            if producer.epoch < *epoch {
                let goodbye = Goodbye { code: "stale".into(), message: "an older epoch".into() };
                put_json(Type::Goodbye, &goodbye, &mut self.out);
                return;
            }
            *epoch = producer.epoch;
        }
        let streams = hello.streams.iter().filter_map(|name| self.open(name).ok()).collect();
        let welcome = Welcome {
            server: "fake".into(),
            now: UnixMs(0),
            principal: "agent".into(),
            inflight_batches_max: 64,
            inflight_bytes_max: 8 << 20,
            streams,
        };
        put_json(Type::Welcome, &welcome, &mut self.out);
    }

    fn open(&self, name: &StreamName) -> Result<StreamInfo, CallError> {
        let behaviour = lock(&self.parts.behaviour).clone();
        if behaviour.refuse_stream.as_deref() == Some(name.as_str()) {
            return Err(CallError { code: CallErrorCode::Denied, message: "not this one".into() });
        }
        let mut world = lock(&self.parts.world);
        let stream = world.streams.entry(name.key()).or_insert_with(|| StreamState {
            name: name.clone(),
            shards: behaviour.shards,
            version: 1,
            buckets: Vec::new(),
        });
        let shard = |(id, range)| ShardInfo {
            id: ShardId(id),
            range,
            parents: Vec::new(),
            first: SequenceNumber(0),
            tail: SequenceNumber(0),
            closed: false,
            created: UnixMs(0),
        };
        Ok(StreamInfo {
            key: name.key(),
            name: name.clone(),
            created: UnixMs(0),
            config: StreamConfig { shard_rate: behaviour.rate, ..StreamConfig::default() },
            map_version: stream.version,
            shards: (0..).zip(HashKeyRange::split_evenly(stream.shards)).map(shard).collect(),
            stored_bytes: 0,
            resharded: Vec::new(),
        })
    }

    fn call(&mut self, call: Call) -> Reply {
        match call {
            Call::OpenStream { name, .. } => match self.open(&name) {
                Ok(info) => Reply::Stream(info),
                Err(error) => Reply::Error(error),
            },
            Call::Enroll { token, .. } if token != "good" => {
                let message = "the token is used up".into();
                Reply::Error(CallError { code: CallErrorCode::Denied, message })
            }
            Call::Enroll { csr_pem, .. } | Call::Renew { csr_pem } => {
                let mut csr = CertificateSigningRequestParams::from_pem(&csr_pem).unwrap();
                let ttl = lock(&self.parts.behaviour).certificate_ttl;
                let now = std::time::SystemTime::now();
                csr.params.not_before = (now - Duration::from_secs(60)).into();
                csr.params.not_after = (now + ttl).into();
                let cert = csr.signed_by(&self.parts.authority.issuer).unwrap();
                lock(&self.parts.world).enrolled += 1;
                Reply::Certificate { certificate_pem: cert.pem(), ca_pem: self.parts.authority.pem.clone() }
            }
            other => panic!("an agent calls {other:?}"),
        }
    }

    /// False when the connection is to be cut.
    fn append(&mut self, body: &[u8]) -> bool {
        self.appends += 1;
        let frame = Frame::parse(body).unwrap();
        let behaviour = lock(&self.parts.behaviour).clone();
        let cut = behaviour.cut_after.is_some_and(|after| self.appends >= after);
        let outcome = self.outcome(&frame, &behaviour);
        if cut {
            // Stored, and nobody hears of it.
            return false;
        }
        Ack::to(&frame.header, outcome).put(&mut self.out);
        true
    }

    fn outcome(&mut self, frame: &Frame<'_>, behaviour: &Behaviour) -> Outcome {
        let header = frame.header;
        let lane = (header.stream, header.lane);
        let mut world = lock(&self.parts.world);
        let world = &mut *world;
        world.appends += 1;
        let last = world.sequences.get(&(header.producer_id, lane.0, lane.1)).copied().unwrap_or(0);
        if header.producer_sequence <= last {
            world.duplicates += 1;
            return Outcome::Duplicate;
        }
        if header.producer_sequence != last + 1 {
            world.out_of_sequence += 1;
            return Outcome::OutOfSequence { expected: last + 1 };
        }
        if behaviour.throttle_every.is_some_and(|every| world.appends.is_multiple_of(every)) {
            world.throttled += 1;
            self.refusing.insert(lane, header.producer_sequence);
            return Outcome::Throttled { retry_after_ms: 5, shard: ShardId(0) };
        }
        let Some(stream) = world.streams.get_mut(&header.stream) else {
            return Outcome::Refused(RefuseCode::NoSuchStream);
        };
        self.batch.open(&header, frame.payload).unwrap();
        let ranges = HashKeyRange::split_evenly(stream.shards);
        let shard_of = |key: HashKey| ranges.iter().position(|r| r.contains(key)).unwrap();
        if let Some(rate) = behaviour.rate {
            let now = Mono(self.start.elapsed().as_micros() as u64);
            stream.buckets.resize_with(ranges.len(), || ShardBucket::new(rate, now));
            let mut used: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
            for record in self.batch.records() {
                let used = used.entry(shard_of(record.hash_key())).or_default();
                used.0 += record.user_bytes() as u64;
                used.1 += 1;
            }
            for (shard, (bytes, records)) in &used {
                let wait = stream.buckets[*shard].wait_for(*bytes, *records, now);
                if wait > Duration::ZERO {
                    world.throttled += 1;
                    let retry_after_ms = wait.as_millis() as u32 + 1;
                    return Outcome::Throttled { retry_after_ms, shard: ShardId(*shard as u32) };
                }
            }
            for (shard, (bytes, records)) in used {
                stream.buckets[shard].take(bytes, records, now);
            }
        }
        let mut refused = Vec::new();
        for record in self.batch.records() {
            if record.data.len() > behaviour.record_bytes_max {
                refused.push((record.index, RefuseCode::RecordTooLarge));
                continue;
            }
            world.record_count += 1;
            world.bytes += record.data.len() as u64;
            if behaviour.keep_data {
                world.records.push(Kept {
                    stream: stream.name.to_string(),
                    shard: shard_of(record.hash_key()) as u32,
                    key: record.partition_key.to_owned(),
                    data: record.data.to_vec(),
                });
            }
        }
        world.fillers += u64::from(header.record_count == 0);
        world.sequences.insert((header.producer_id, lane.0, lane.1), header.producer_sequence);
        let record_count = header.record_count;
        let part = Stored { shard: ShardId(0), first_sequence: SequenceNumber(0), record_count };
        Outcome::Stored { parts: vec![part], refused }
    }
}

/// A configuration that tails `logs/*.log` below `dir` into this store.
pub fn config(store: &FakeStore, dir: &Path, more: &str) -> agent::Config {
    let text = format!(
        r#"
agent.name = "test"
[store]
url = "kinesin://{}"
ca = "{}/ca.pem"
token = "good"
[spool]
dir = "{}/spool"
min_free = 0
{more}
"#,
        store.addr,
        store.dir.display(),
        dir.display()
    );
    agent::Config::parse(&text, "test.toml", dir).unwrap_or_else(|e| panic!("{e}"))
}

/// The usual file source.
pub const FILES: &str = r#"
[[source.file]]
paths = ["logs/*.log"]
stream = "logs"
partition_key = "{file_name}"
poll_ms = 100
"#;
