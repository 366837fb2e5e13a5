//! What the agent's threads hand to each other, bounded: sources to the pipeline, the pipeline to the spool, the
//! spool to the link, and the link's news back to both. No work is done here.

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::name::StreamName;
use protocol::native::call::StreamInfo;
use tokio::sync::Notify;

use crate::batcher::Sealed;
use crate::spool::{CursorUpdate, DeliveredUpdate};

/// Commits that wait for the spool.
const COMMITS_MAX: usize = 2;

/// Bytes of messages that wait for the pipeline.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// Messages that wait for the pipeline.
const MESSAGES_MAX: usize = 8192;

/// Files that changed, by name; more, and all are looked at.
const DIRTY_MAX: usize = 4096;

/// What is written to the spool at once.
#[derive(Debug, Default)]
pub struct Commit {
    /// Batches.
    pub sealed: Sealed,
    /// Cursors that go with them.
    pub update: CursorUpdate,
    /// How many messages of each message source are in the spool with it, since the start.
    pub taken: Vec<(usize, u64)>,
}

/// A message on its way to the pipeline.
#[derive(Debug)]
pub struct Message {
    /// Place of its source among the message sources.
    pub source: usize,
    /// Its number in the source, from 1.
    pub number: u64,
    /// Its topic.
    pub topic: String,
    /// What it holds.
    pub payload: Payload,
    /// To know it again.
    pub hash: u64,
    /// Nothing of before is remembered by the broker.
    pub forget: bool,
}

/// What a message holds.
#[derive(Debug)]
pub enum Payload {
    /// A record, which is still to be routed and batched.
    Record(Vec<u8>),
    /// A fragment of video: a batch already.
    Fragment(Box<Fragment>),
}

impl Payload {
    fn bytes(&self) -> usize {
        match self {
            Payload::Record(data) => data.len(),
            Payload::Fragment(fragment) => fragment.frame.len(),
        }
    }
}

/// A fragment of video on its way to the pipeline.
#[derive(Debug)]
pub struct Fragment {
    /// Where it goes.
    pub stream: StreamName,
    /// A sealed data frame; none where only the cursor is to be remembered.
    pub frame: Vec<u8>,
    /// What the spool is to remember with it: a cursor's id, and its text, or that it is to be forgotten.
    pub cursor: Option<(String, Option<String>)>,
}

#[derive(Debug, Default)]
struct SpoolBox {
    commits: VecDeque<Commit>,
    spare: Vec<Vec<u8>>,
    delivered: Option<DeliveredUpdate>,
    closed: bool,
    /// The lowest position of what was sent and not answered.
    sent_from: Option<u64>,
    /// Nothing below it is sent now.
    held_below: u64,
}

#[derive(Debug, Default)]
struct PipeBox {
    dirty: BTreeSet<PathBuf>,
    look_everywhere: bool,
    streams: Vec<StreamInfo>,
    messages: VecDeque<Message>,
    message_bytes: usize,
    poked: bool,
}

/// What woke the pipeline.
#[derive(Debug, Default)]
pub struct PipeNews {
    /// Files that changed.
    pub dirty: BTreeSet<PathBuf>,
    /// Any file may have changed, or appeared.
    pub look_everywhere: bool,
    /// Streams as the store tells of them.
    pub streams: Vec<StreamInfo>,
    /// Messages.
    pub messages: VecDeque<Message>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Hub {
    spool: Mutex<SpoolBox>,
    spool_changed: Condvar,
    pipe: Mutex<PipeBox>,
    pipe_changed: Condvar,
    /// The spool has more that is durable, or the link has something else to do.
    pub link: Notify,
    /// The pipeline has room for messages.
    pub messages_room: Notify,
    /// Messages of each source that are durable.
    pub durable_messages: Vec<AtomicU64>,
    /// Some of those counts have grown.
    pub acks: Notify,
    stop: AtomicBool,
    kill: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these is changed by calls that can't panic half way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    /// For so many message sources.
    #[must_use]
    pub fn new(message_sources: usize) -> Hub {
        let durable_messages = (0..message_sources).map(|_| AtomicU64::new(0)).collect();
        Hub { durable_messages, ..Hub::default() }
    }

    /// Whether the agent is to end: sources stop, what was taken is made durable.
    #[must_use]
    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Whether to end without making anything durable, as a crash would.
    #[must_use]
    pub fn killed(&self) -> bool {
        self.kill.load(Ordering::Acquire)
    }

    /// Ends the agent.
    pub fn stop(&self, kill: bool) {
        self.kill.fetch_or(kill, Ordering::AcqRel);
        self.stop.store(true, Ordering::Release);
        // Under the locks, so that nobody is between looking and waiting.
        drop(lock(&self.spool));
        self.spool_changed.notify_all();
        drop(lock(&self.pipe));
        self.pipe_changed.notify_all();
        self.link.notify_one();
        self.acks.notify_one();
        self.messages_room.notify_waiters();
    }

    // ---- to the spool ----

    /// Whether the spool would take a commit at once.
    #[must_use]
    pub fn spool_is_ready(&self) -> bool {
        lock(&self.spool).commits.len() < COMMITS_MAX
    }

    /// Hands over a commit, waiting for room; false when the agent was killed or the spool is gone meanwhile.
    pub fn commit(&self, commit: Commit) -> bool {
        let mut spool = lock(&self.spool);
        while spool.commits.len() >= COMMITS_MAX {
            if self.killed() || spool.closed {
                return false;
            }
            let waited = self.spool_changed.wait_timeout(spool, Duration::from_millis(100));
            spool = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        spool.commits.push_back(commit);
        self.spool_changed.notify_all();
        true
    }

    /// Memory for frames, used before.
    #[must_use]
    pub fn spare(&self) -> Vec<u8> {
        lock(&self.spool).spare.pop().unwrap_or_default()
    }

    /// Gives memory back.
    pub fn give_back(&self, memory: Vec<u8>) {
        let mut spool = lock(&self.spool);
        if spool.spare.len() < COMMITS_MAX + 1 && memory.capacity() <= 4 << 20 {
            spool.spare.push(memory);
        }
    }

    /// Tells the spool what the store has.
    pub fn delivered(&self, update: DeliveredUpdate) {
        let mut spool = lock(&self.spool);
        match &mut spool.delivered {
            Some(known) => known.merge(update),
            None => spool.delivered = Some(update),
        }
        self.spool_changed.notify_all();
    }

    /// Whether the batch at this position may be sent; it then counts as sent and not answered. False while the
    /// spool is about to give it up.
    #[must_use]
    pub fn may_send(&self, position: u64) -> bool {
        let mut spool = lock(&self.spool);
        let may = position >= spool.held_below;
        if may {
            spool.sent_from = Some(spool.sent_from.map_or(position, |from| from.min(position)));
        }
        may
    }

    /// What is sent and not answered begins here. Said after [`delivered`](Self::delivered) has told of the others.
    pub fn sent_from(&self, position: Option<u64>) {
        let mut spool = lock(&self.spool);
        if spool.sent_from != position {
            spool.sent_from = position;
            self.spool_changed.notify_all();
        }
    }

    /// Nothing below this position is sent from now on (0: all is, again). True when none of it is sent and not
    /// answered, and the spool was told of all that the store has: the rest of it is lost if it is given up now.
    pub fn hold_below(&self, position: u64) -> bool {
        let mut spool = lock(&self.spool);
        spool.held_below = position;
        spool.delivered.is_none() && spool.sent_from.is_none_or(|from| from >= position)
    }

    /// What the spool has to do, after waiting for it at most so long.
    pub fn spool_work(
        &self,
        wait: Duration,
        want_commits: bool,
    ) -> (VecDeque<Commit>, Option<DeliveredUpdate>) {
        let mut spool = lock(&self.spool);
        let idle = |spool: &SpoolBox| {
            (spool.commits.is_empty() || !want_commits) && spool.delivered.is_none() && !spool.closed
        };
        if idle(&spool) && !self.killed() {
            let waited = self.spool_changed.wait_timeout(spool, wait);
            spool = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let commits = if want_commits { std::mem::take(&mut spool.commits) } else { VecDeque::new() };
        if !commits.is_empty() {
            self.spool_changed.notify_all();
        }
        (commits, spool.delivered.take())
    }

    /// No commit will come any more, or none can be taken.
    pub fn close_spool(&self) {
        lock(&self.spool).closed = true;
        self.spool_changed.notify_all();
    }

    /// Whether [`close_spool`](Self::close_spool) was called.
    #[must_use]
    pub fn spool_is_closed(&self) -> bool {
        lock(&self.spool).closed
    }

    // ---- to the pipeline ----

    /// A file has changed; `None`: any may have.
    pub fn file_changed(&self, path: Option<PathBuf>) {
        let mut pipe = lock(&self.pipe);
        match path {
            Some(path) if pipe.dirty.len() < DIRTY_MAX => {
                pipe.dirty.insert(path);
            }
            _ => {
                pipe.dirty.clear();
                pipe.look_everywhere = true;
            }
        }
        self.pipe_changed.notify_all();
    }

    /// The store has told of a stream.
    pub fn stream_changed(&self, info: StreamInfo) {
        let mut pipe = lock(&self.pipe);
        pipe.streams.retain(|known| known.key != info.key);
        pipe.streams.push(info);
        self.pipe_changed.notify_all();
    }

    /// Whether there is room for another message.
    #[must_use]
    pub fn has_message_room(&self) -> bool {
        let pipe = lock(&self.pipe);
        pipe.messages.len() < MESSAGES_MAX && pipe.message_bytes < MESSAGE_BYTES_MAX
    }

    /// A message for the pipeline. The caller has asked for room.
    pub fn message(&self, message: Message) {
        let mut pipe = lock(&self.pipe);
        pipe.message_bytes += message.payload.bytes() + message.topic.len();
        pipe.messages.push_back(message);
        if !pipe.poked {
            pipe.poked = true;
            self.pipe_changed.notify_all();
        }
    }

    /// What the pipeline has to do, after waiting for it at most so long. Messages only where it has room for them.
    pub fn pipe_work(&self, wait: Duration, want_messages: bool) -> PipeNews {
        let mut pipe = lock(&self.pipe);
        let idle = |pipe: &PipeBox| {
            pipe.dirty.is_empty()
                && !pipe.look_everywhere
                && pipe.streams.is_empty()
                && (pipe.messages.is_empty() || !want_messages)
        };
        if !wait.is_zero() && idle(&pipe) && !self.stopping() {
            let waited = self.pipe_changed.wait_timeout(pipe, wait);
            pipe = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let mut news = PipeNews {
            dirty: std::mem::take(&mut pipe.dirty),
            look_everywhere: std::mem::take(&mut pipe.look_everywhere),
            streams: std::mem::take(&mut pipe.streams),
            messages: VecDeque::new(),
        };
        if want_messages && !pipe.messages.is_empty() {
            news.messages = std::mem::take(&mut pipe.messages);
            pipe.message_bytes = 0;
            pipe.poked = false;
            self.messages_room.notify_waiters();
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reaches `COMMITS_MAX`.
    #[test]
    fn commits_wait_for_the_spool_and_then_for_room() {
        let hub = Hub::new(0);
        for _ in 0..COMMITS_MAX {
            assert!(hub.spool_is_ready() && hub.commit(Commit::default()));
        }
        assert!(!hub.spool_is_ready());
        // Whoever waits for room then is told that there will be none.
        hub.stop(true);
        assert!(!hub.commit(Commit::default()));
        assert_eq!(hub.spool_work(Duration::ZERO, true).0.len(), COMMITS_MAX);
        (0..10).for_each(|_| hub.give_back(vec![0; 10]));
        assert_eq!(lock(&hub.spool).spare.len(), COMMITS_MAX + 1);
    }

    fn message(hub: &Hub, bytes: usize) {
        let payload = Payload::Record(vec![0; bytes]);
        let topic = String::new();
        hub.message(Message { source: 0, number: 1, topic, payload, hash: 0, forget: false });
    }

    /// Reaches `MESSAGES_MAX`, `MESSAGE_BYTES_MAX`.
    #[test]
    fn messages_wait_for_the_pipeline_up_to_a_count_and_to_a_size() {
        let hub = Hub::new(1);
        (0..MESSAGES_MAX - 1).for_each(|_| message(&hub, 1));
        assert!(hub.has_message_room());
        message(&hub, 1);
        assert!(!hub.has_message_room());
        assert_eq!(hub.pipe_work(Duration::ZERO, true).messages.len(), MESSAGES_MAX);
        assert!(hub.has_message_room());
        message(&hub, MESSAGE_BYTES_MAX - 1);
        assert!(hub.has_message_room());
        message(&hub, 1);
        assert!(!hub.has_message_room());
    }

    /// Reaches `DIRTY_MAX`.
    #[test]
    fn so_many_files_that_changed_are_known_by_name_and_then_all_are_looked_at() {
        let seen = |count: usize| {
            let hub = Hub::new(0);
            (0..count).for_each(|n| hub.file_changed(Some(PathBuf::from(n.to_string()))));
            let news = hub.pipe_work(Duration::ZERO, false);
            (news.dirty.len(), news.look_everywhere)
        };
        assert_eq!(seen(DIRTY_MAX), (DIRTY_MAX, false));
        assert_eq!(seen(DIRTY_MAX + 1), (0, true));
    }
}
