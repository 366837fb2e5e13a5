//! What the store does, in our own nouns: sessions, appends, reads, streams, tokens. The only way in for every
//! API, and for every reader. Never in here: a wire format, a socket, TLS.
//!
//! [`streams`] makes, changes and removes streams; [`records`] takes records one by one; [`read`] reads them; [`tokens`]
//! lets agents in; [`upkeep`] and `scaling` are what happens by the clock.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use disk::{DirLock, DirName, Disk, RealDisk};
use protocol::batch::Batch;
use protocol::frame::Frame;
use protocol::name::{StreamKey, StreamName};
use protocol::outcome::{Ack, Outcome, RefuseCode};
use protocol::stream::{CallError, CallErrorCode, Producer, StreamInfo};
use tokio::sync::{broadcast, mpsc, watch};

use crate::catalog::Catalog;
use crate::catalog::view::View;
use crate::clock::Clock;
use crate::closed::Closed;
use crate::log::LogError;
use crate::log::segment::SegmentStreamLog;
use crate::principal::Principal;
use crate::retain::ClockWatch;
use crate::shard::driver::{CommitOn, Gate, StateReplay, Stream, head_shards};

mod breaks;
mod closing;
pub mod drift;
mod load;
mod newest;
mod pace;
pub mod read;
pub mod records;
mod scaling;
pub mod segments;
pub mod streams;
pub mod tokens;
pub mod upkeep;
pub mod video;

pub(crate) use closing::read as closed;
pub use read::Read;

/// Bytes that may wait for commits, in all streams together.
pub(crate) const PENDING_BYTES_MAX: usize = 64 << 20;

/// A thread keeps the memory of an unpacked batch up to this many bytes.
const BATCH_BYTES_KEPT: usize = 2 << 20;

/// Epochs of at most this many producers are kept at hand.
const EPOCHS_MAX: usize = 100_000;

/// How long an agent waits whose stream is not there, in milliseconds.
const NO_STREAM_RETRY_MS: u32 = 1000;

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
    /// How often retention is looked after, in milliseconds.
    pub upkeep_ms: u64,
}

impl Settings {
    /// The defaults for a data folder.
    #[must_use]
    pub fn new(data_dir: PathBuf) -> Settings {
        Settings {
            data_dir,
            auto_create: true,
            segment_bytes_max: 64 << 20,
            free_bytes_min: 64 << 20,
            upkeep_ms: 1000,
        }
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

/// Why a data folder can't be opened.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct OpenError(pub String);

/// A stream and what the catalog says of it.
#[derive(Debug, Clone)]
struct Open {
    name: StreamName,
    stream: Stream,
    newest: newest::Newest,
    breaks: breaks::Breaks,
}

/// The store. Cheap to clone.
#[derive(Clone)]
pub struct Service {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("settings", &self.inner.settings).finish_non_exhaustive()
    }
}

struct Inner {
    settings: Settings,
    clock: Clock,
    disk: Arc<dyn Disk>,
    /// Held for as long as the store lives.
    _lock: DirLock,
    catalog: Mutex<Catalog>,
    streams: RwLock<HashMap<StreamKey, Open>>,
    /// One change of the set of streams at a time.
    changing: tokio::sync::Mutex<()>,
    epochs: Mutex<HashMap<u128, u32>>,
    gate: Arc<Gate>,
    changes: broadcast::Sender<StreamInfo>,
    problems: Mutex<Vec<String>>,
    bad_batches: AtomicU64,
    paced: load::Paced,
    clock_watch: Mutex<ClockWatch>,
    upkeep: Mutex<Vec<tokio::task::JoinHandle<()>>>,
    /// Where commits run.
    runtime: tokio::runtime::Handle,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn call_error(code: CallErrorCode, message: impl Into<String>) -> CallError {
    CallError { code, message: message.into() }
}

fn open_error(what: &str, why: &dyn std::fmt::Display) -> OpenError {
    OpenError(format!("{what}: {why}"))
}

thread_local! {
    static BATCH: RefCell<Batch<'static>> = RefCell::new(Batch::new());
}

impl Service {
    /// Opens (or makes) a data folder. Blocking; must be called within the tokio runtime that is to run its commits.
    ///
    /// # Errors
    /// When the folder is in use, unreadable, or made by a newer program.
    pub fn open(settings: Settings, clock: Clock) -> Result<Service, OpenError> {
        let folder = settings.data_dir.display().to_string();
        let disk = RealDisk::open(settings.data_dir.clone()).map_err(|e| open_error(&folder, &e))?;
        let lock = disk.lock("kinesin serve").map_err(|e| open_error(&folder, &e))?;
        let disk: Arc<dyn Disk> = Arc::new(disk);
        let closed = closing::read(&*disk);
        let view = View::open(&settings.data_dir.join("view"));
        let catalog = Catalog::open(Arc::clone(&disk), dir("catalog"), view, clock.wall())
            .map_err(|e| open_error(&folder, &e))?;
        let mut problems = catalog.problems.clone();
        problems.extend(closed.missing("catalog", catalog.recovered.clone()));
        let service = Service {
            inner: Arc::new(Inner {
                settings,
                clock,
                disk,
                _lock: lock,
                catalog: Mutex::new(catalog),
                streams: RwLock::default(),
                changing: tokio::sync::Mutex::new(()),
                epochs: Mutex::default(),
                gate: Arc::new(Gate::new(PENDING_BYTES_MAX)),
                changes: broadcast::channel(256).0,
                problems: Mutex::new(problems),
                bad_batches: AtomicU64::new(0),
                paced: load::Paced::default(),
                clock_watch: Mutex::default(),
                upkeep: Mutex::new(Vec::new()),
                runtime: tokio::runtime::Handle::current(),
            }),
        };
        service.remove_leftovers().map_err(|e| open_error(&folder, &e))?;
        service.open_all(&closed);
        closing::forget(&*service.inner.disk).map_err(|e| open_error(&folder, &e))?;
        service.look_at_disk();
        service.start_upkeep();
        service.start_scaling();
        Ok(service)
    }

    fn open_all(&self, closed: &Closed) {
        let entries: Vec<_> = {
            let catalog = locked(&self.inner.catalog);
            catalog.state().streams.iter().map(|(name, entry)| (name.clone(), entry.clone())).collect()
        };
        for (name, entry) in entries {
            match self.open_stream_log(&name, &entry, None) {
                Ok(stream) => {
                    let dir = streams::stream_dir(entry.dir).to_string();
                    let missing = closed.missing(&dir, stream.reader().holds());
                    let missing = missing.map(|what| format!("stream {name}: {what}"));
                    locked(&self.inner.problems).extend(missing);
                    self.put_open(name, stream);
                }
                // One stream that can't be read is no reason to keep the others away.
                Err(error) => locked(&self.inner.problems).push(error.to_string()),
            }
        }
    }

    fn put_open(&self, name: StreamName, stream: Stream) {
        let mut streams = self.inner.streams.write().unwrap_or_else(PoisonError::into_inner);
        let (newest, breaks) = (newest::Newest::default(), breaks::Breaks::default());
        streams.insert(name.key(), Open { name, stream, newest, breaks });
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
        if let Some(producer) = producer {
            let mut epochs = locked(&self.inner.epochs);
            if epochs.len() >= EPOCHS_MAX {
                // The lanes in each stream's log know the epochs too: this map is only quicker.
                epochs.clear();
            }
            let seen = epochs.entry(producer.id).or_insert(producer.epoch);
            if *seen > producer.epoch {
                let message = format!(
                    "producer {} has started again since (epoch {seen}, this one is {}): is its spool in use twice?",
                    producer.id, producer.epoch
                );
                return Err(call_error(CallErrorCode::Denied, message));
            }
            *seen = producer.epoch;
        }
        Ok(Session { principal: principal.clone(), producer })
    }

    /// Takes one frame as it came from the wire. Checks it, orders it, and answers on `acks` once it is durable
    /// (or at once where it is not kept). Does not block on the disk, unless it is told that the caller may.
    ///
    /// # Errors
    /// When the bytes are no valid data frame, or of another producer: the caller closes the connection with
    /// that reason.
    pub fn append(
        &self,
        session: &Session,
        frame: &[u8],
        acks: &AckSink,
        on: CommitOn,
    ) -> Result<(), CallError> {
        let bad = |why: String| {
            self.inner.bad_batches.fetch_add(1, Ordering::Relaxed);
            call_error(CallErrorCode::Invalid, why)
        };
        let frame = Frame::parse(frame).map_err(|e| bad(e.to_string()))?;
        let header = &frame.header;
        if !session.principal.may_write() {
            let _ = acks.send(Ack::to(header, Outcome::Refused(RefuseCode::Denied)));
            return Ok(());
        }
        let epoch = self.epoch_of(session, header.producer_id).map_err(|why| bad(why.to_owned()))?;
        let Some(epoch) = epoch else {
            let _ = acks.send(Ack::to(header, Outcome::Refused(RefuseCode::Denied)));
            return Ok(());
        };
        let Some(stream) = self.stream_of(header.stream) else {
            let _ = acks.send(Ack::to(header, Outcome::Busy { retry_after_ms: NO_STREAM_RETRY_MS }));
            return Ok(());
        };
        let mut batch: Batch<'_> = BATCH.take();
        let opened = batch.open_in_place(header, frame.payload).map_err(|e| bad(e.to_string()));
        let checked = opened.map(|()| stream.append(&frame, &batch, epoch, acks, on));
        BATCH.set(batch.emptied(BATCH_BYTES_KEPT));
        checked
    }

    /// The epoch to write; `None` where a newer one has been seen.
    fn epoch_of(&self, session: &Session, producer_id: u128) -> Result<Option<u32>, &'static str> {
        match session.producer {
            _ if producer_id == 0 => Ok(Some(0)),
            Some(producer) if producer.id == producer_id => {
                let newest = locked(&self.inner.epochs).get(&producer_id).copied().unwrap_or(producer.epoch);
                Ok((newest <= producer.epoch).then_some(producer.epoch))
            }
            _ => Err("batch of another producer than this connection greeted as"),
        }
    }

    fn stream_of(&self, key: StreamKey) -> Option<Stream> {
        let streams = self.inner.streams.read().unwrap_or_else(PoisonError::into_inner);
        streams.get(&key).map(|open| open.stream.clone())
    }

    fn open_streams_now(&self) -> Vec<Open> {
        let streams = self.inner.streams.read().unwrap_or_else(PoisonError::into_inner);
        let mut open: Vec<Open> = streams.values().cloned().collect();
        open.sort_by(|a, b| a.name.cmp(&b.name));
        open
    }

    /// Hears of every stream whose shards or settings changed.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<StreamInfo> {
        self.inner.changes.subscribe()
    }

    /// Becomes `Some(reason)` when the store can't go on (a write or an fsync failed): the process must end.
    #[must_use]
    pub fn failed(&self) -> watch::Receiver<Option<String>> {
        self.inner.gate.failed()
    }

    /// Whether records are turned away because the disk is nearly full.
    #[must_use]
    pub fn disk_full(&self) -> watch::Receiver<bool> {
        self.inner.gate.disk_full()
    }

    /// What opening or reading found wrong with the data, for people.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        locked(&self.inner.problems).clone()
    }

    /// Counters and gauges by name. `_total` only grows while the store runs.
    #[must_use]
    pub fn status(&self) -> BTreeMap<String, f64> {
        let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
        let open = self.open_streams_now();
        for Open { stream, .. } in &open {
            let counters = stream.counters();
            let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            for (name, value) in [
                ("records_stored_total", load(&counters.records)),
                ("user_bytes_stored_total", load(&counters.user_bytes)),
                ("log_bytes_written_total", load(&counters.stored_bytes)),
                ("batches_throttled_total", load(&counters.throttled)),
                ("batches_duplicate_total", load(&counters.duplicates)),
                ("records_refused_total", load(&counters.refused)),
                ("commits_total", load(&counters.commits)),
                ("shards_open", stream.map().1.values().filter(|s| s.closed.is_none()).count() as u64),
                ("log_bytes", stream.reader().stored_bytes()),
            ] {
                *sums.entry(name).or_default() += value;
            }
        }
        sums.insert("streams", open.len() as u64);
        sums.insert("batches_bad_total", self.inner.bad_batches.load(Ordering::Relaxed));
        sums.insert("pending_bytes", self.inner.gate.pending_bytes() as u64);
        sums.insert("disk_full", u64::from(self.inner.gate.is_disk_full()));
        sums.insert("clock_in_doubt", u64::from(locked(&self.inner.clock_watch).is_in_doubt()));
        sums.insert("data_problems", locked(&self.inner.problems).len() as u64);
        let mut status: BTreeMap<String, f64> =
            sums.into_iter().map(|(name, value)| (name.to_owned(), value as f64)).collect();
        // Nothing where they take what they like.
        let paced = self.inner.paced.rate(&self.inner.clock);
        status.extend(paced.map(|rate| ("readers_bytes_per_second_max".to_owned(), rate as f64)));
        status.extend(upkeep::process_status());
        status
    }

    /// Makes durable what is under way and closes the files. Appends after it are answered `Busy`.
    pub async fn close(&self) {
        locked(&self.inner.upkeep).drain(..).for_each(|task| task.abort());
        for Open { stream, .. } in self.open_streams_now() {
            stream.close().await;
        }
        locked(&self.inner.catalog).close();
        self.note_ends();
    }

    fn stream_log(
        &self,
        dir: &DirName,
        replay: &mut StateReplay,
    ) -> Result<(SegmentStreamLog, crate::log::segment::Opened), LogError> {
        let segment_bytes_max = self.inner.settings.segment_bytes_max;
        SegmentStreamLog::open(
            Arc::clone(&self.inner.disk),
            dir.clone(),
            segment_bytes_max,
            head_shards,
            replay,
        )
    }
}

/// A folder whose name is ours and therefore right.
#[expect(clippy::expect_used, reason = "the names are constants and numbers")]
pub(crate) fn dir(name: &str) -> DirName {
    DirName::new(name).expect("a plain name")
}
