//! What the store does, in our own nouns: sessions, appends, reads, streams, tokens. The only way in for every
//! API, and for every reader. Never in here: a wire format, a socket, TLS.

use std::collections::BTreeMap;
use std::path::PathBuf;

use protocol::limit;
use protocol::name::StreamName;
use protocol::native::call::{Call, CallError, CallErrorCode, Producer, Reply, StartingPosition, StreamInfo};
use protocol::native::message::{Ack, Outcome};
use protocol::sequence::{SequenceNumber, ShardId};
use protocol::time::UnixMs;
use tokio::sync::{broadcast, mpsc, watch};

use crate::clock::Clock;
use crate::principal::Principal;

/// How a store is set.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The data folder.
    pub data_dir: PathBuf,
    /// Whether an agent's first record makes a missing stream.
    pub auto_create: bool,
    /// Bytes after which a log goes on in a new segment.
    pub segment_bytes_max: u64,
    /// Bytes that must stay free on the disk: below, appends are answered `Busy`.
    pub free_bytes_min: u64,
}

impl Settings {
    /// The defaults for a data folder.
    #[must_use]
    pub fn new(data_dir: PathBuf) -> Settings {
        Settings { data_dir, auto_create: true, segment_bytes_max: 64 << 20, free_bytes_min: 64 << 20 }
    }
}

/// Where the answers to appends go: exactly one for each append, in any order. Bounded by the connection,
/// which stops reading while too many appends are unanswered.
pub type AckSink = mpsc::UnboundedSender<Ack>;

/// A connection that produces. A newer epoch of the same producer ends it: its appends are `Refused`.
#[derive(Debug, Clone)]
pub struct Session {
    /// Who it is.
    pub principal: Principal,
    /// As which producer, if it wants to be recognised.
    pub producer: Option<Producer>,
}

/// What a read found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// Where the next read should start.
    pub next: SequenceNumber,
    /// After the last durable record of the shard.
    pub tail: SequenceNumber,
    /// The shard is closed and this reaches its end.
    pub at_end: bool,
    /// How far the last record in here is behind the store's clock; 0 at the tail.
    pub behind_ms: u64,
    /// Whole frames. The first may begin before the place that was asked for: skip those records.
    pub frames: Vec<u8>,
}

/// Why a data folder can't be opened.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct OpenError(pub String);

/// The store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Service {
    settings: Settings,
    clock: Clock,
    changes: broadcast::Sender<StreamInfo>,
    failed: watch::Sender<Option<String>>,
}

fn not_yet() -> CallError {
    CallError { code: CallErrorCode::Internal, message: "not there yet".to_owned() }
}

impl Service {
    /// Opens (or makes) a data folder. Blocking.
    ///
    /// # Errors
    /// When the folder is in use, unreadable, or made by a newer program.
    pub fn open(settings: Settings, clock: Clock) -> Result<Service, OpenError> {
        Ok(Service { settings, clock, changes: broadcast::channel(64).0, failed: watch::channel(None).0 })
    }

    /// Starts a producing (or commanding) connection.
    ///
    /// # Errors
    /// When a newer epoch of the producer has been seen.
    pub fn begin_session(
        &self,
        principal: &Principal,
        producer: Option<Producer>,
    ) -> Result<Session, CallError> {
        Ok(Session { principal: principal.clone(), producer })
    }

    /// Takes one frame as it came from the wire. Checks it, orders it, and answers on `acks` once it is durable
    /// (or at once where it is not kept). Does not block on the disk.
    ///
    /// # Errors
    /// When the bytes are no valid data frame: the caller closes the connection with that reason.
    pub fn append(&self, session: &Session, frame: Vec<u8>, acks: &AckSink) -> Result<(), CallError> {
        let header = protocol::frame::Header::parse(&frame)
            .map_err(|e| CallError { code: CallErrorCode::Invalid, message: e.to_string() })?;
        let _ = (session, limit::FRAME_BYTES_MAX, acks.send(Ack::to(&header, Outcome::Busy { retry_after_ms: 1000 })));
        Ok(())
    }

    /// The streams of these names, made where that is allowed; others are left out.
    pub async fn open_streams(&self, _principal: &Principal, _names: &[StreamName]) -> Vec<StreamInfo> {
        Vec::new()
    }

    /// Does every call but `Read`, `Enroll`, `Renew` and `CreateEnrollToken`.
    pub async fn call(&self, _principal: &Principal, _call: Call) -> Reply {
        Reply::Error(not_yet())
    }

    /// Batches of a shard from a place on; waits up to `wait_ms` for the first.
    ///
    /// # Errors
    /// When stream or shard are not there, or not for this principal, or what was asked for is damaged.
    pub async fn read(
        &self,
        _principal: &Principal,
        _name: &StreamName,
        _shard: ShardId,
        _from: StartingPosition,
        _bytes_max: usize,
        _wait_ms: u64,
    ) -> Result<Read, CallError> {
        Err(not_yet())
    }

    /// Keeps the hash (SHA-256) of an enrolment token, durably.
    ///
    /// # Errors
    /// When it can't be kept.
    pub async fn put_token(
        &self,
        _agent: &str,
        _hash: [u8; 32],
        _expires: UnixMs,
        _uses: u32,
    ) -> Result<(), CallError> {
        Err(not_yet())
    }

    /// Uses a token up by one, durably, and says which agent it lets in.
    ///
    /// # Errors
    /// When it is unknown, used up or expired (one answer for all three).
    pub async fn redeem_token(&self, _hash: [u8; 32]) -> Result<String, CallError> {
        Err(not_yet())
    }

    /// Hears of every stream whose shards or settings changed.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<StreamInfo> {
        self.changes.subscribe()
    }

    /// Becomes `Some(reason)` when the store can't go on (a write or an fsync failed): the process must end.
    #[must_use]
    pub fn failed(&self) -> watch::Receiver<Option<String>> {
        self.failed.subscribe()
    }

    /// Counters and gauges by name.
    #[must_use]
    pub fn status(&self) -> BTreeMap<String, f64> {
        let _ = (&self.settings, &self.clock);
        BTreeMap::new()
    }

    /// Makes durable what is under way and closes the files. Appends after it are answered `Busy`.
    pub async fn close(&self) {}
}
