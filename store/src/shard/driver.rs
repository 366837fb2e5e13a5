//! Runs the commits of one stream: takes what the sequencer has put into the group, writes it, makes it durable,
//! and only then answers and lets readers see it. Driver: the deciding is in [`super::sequencer`].
//!
//! One commit at a time and stream, on the runtime's pool of blocking threads; while it runs, the next group
//! collects. So the number of commits adapts to the disk by itself (group commit), with no waiting on purpose.
//! A lone writer's commit may run where its batch came, which saves two threads' waking up.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use protocol::batch::Batch;
use protocol::frame::{Frame, Header, Kind};
use protocol::name::StreamKey;
use protocol::outcome::{Ack, Outcome};
use protocol::sequence::{SequenceNumber, ShardId};
use protocol::stream::StreamConfig;
use protocol::time::{Mono, UnixMs};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{mpsc, oneshot, watch};

use super::busy::Busy;
pub use super::commit::ShardMap;
use super::commit::{Committer, Work, gone, map_of};
use super::group::Group;
use super::lone::Lone;
use super::sequencer::{Decision, Load, NewRecord, Now, Placed, Plain, Sequencer};
use super::state::StreamState;
use crate::clock::Clock;
use crate::log::{LogReader, Position, ReadError, Replay, StreamLog};

/// A group's memory is kept for the next one up to this many bytes.
const GROUP_BYTES_KEPT: usize = 1 << 20;

/// Writing begins again only when this many times the least is free.
const FREE_HYSTERESIS: u64 = 2;

/// How long a client waits that was turned away because the store is full or stopping, in milliseconds.
const BUSY_RETRY_MS: u32 = 200;

/// Where a commit runs that a batch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitOn {
    /// A thread of the runtime's pool for what blocks.
    Pool,
    /// The caller's, which has nothing else to do until it is done: where batches have come one by one for a while, and a
    /// commit is quick. Otherwise, and on a thread that must not block, the pool's.
    Caller,
}

/// What all streams of a store share: memory that waits for commits, and whether writing may go on.
#[derive(Debug)]
pub struct Gate {
    pending: AtomicUsize,
    pending_max: usize,
    /// Bytes that may still be taken before the disk is looked at again; 0 while it is full.
    room: AtomicU64,
    disk_full: watch::Sender<bool>,
    failed: watch::Sender<Option<String>>,
    busy: Mutex<Busy>,
}

/// Whether this thread may block without keeping others from running.
fn may_block() -> bool {
    let flavor = Handle::try_current().map(|runtime| runtime.runtime_flavor());
    matches!(flavor, Ok(RuntimeFlavor::MultiThread))
}

impl Gate {
    /// An open gate for at most this many bytes that wait for a commit.
    #[must_use]
    pub fn new(pending_max: usize) -> Gate {
        let (failed, disk_full) = (watch::channel(None).0, watch::channel(false).0);
        let (pending, room) = (AtomicUsize::new(0), AtomicU64::new(u64::MAX));
        Gate { pending, pending_max, room, disk_full, failed, busy: Mutex::default() }
    }

    /// The disk was looked at: so much is free, so much must stay free. What is taken until the next look may use
    /// what is above that, so that the last byte is never written; closed, the gate opens again when twice the least
    /// is free, so that it does not flap.
    pub fn set_free(&self, free: u64, least: u64) {
        let above = free.saturating_sub(least).saturating_sub(self.pending_bytes() as u64);
        let full = above == 0 || self.is_disk_full() && free < least.saturating_mul(FREE_HYSTERESIS);
        self.room.store(if full { 0 } else { above }, Ordering::Relaxed);
        self.set_disk_full(full);
    }

    fn set_disk_full(&self, full: bool) {
        self.disk_full.send_if_modified(|is| std::mem::replace(is, full) != full);
    }

    /// Whether writing is refused because the disk is nearly full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        *self.disk_full.borrow()
    }

    /// The same, to wait for.
    #[must_use]
    pub fn disk_full(&self) -> watch::Receiver<bool> {
        self.disk_full.subscribe()
    }

    /// Bytes that wait for a commit.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    /// For how long something was being committed until now.
    #[must_use]
    pub fn committing(&self, now: Mono) -> Duration {
        self.busy().total(now)
    }

    fn busy(&self) -> MutexGuard<'_, Busy> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first reason why the store can't go on.
    #[must_use]
    pub fn failed(&self) -> watch::Receiver<Option<String>> {
        self.failed.subscribe()
    }

    /// Writing has failed for good.
    pub fn fail(&self, why: String) {
        self.failed.send_if_modified(|reason| {
            let first = reason.is_none();
            reason.get_or_insert(why);
            first
        });
    }

    fn is_open_for(&self, bytes: usize) -> bool {
        if self.room.load(Ordering::Relaxed) < bytes as u64 {
            self.set_disk_full(true);
            return false;
        }
        self.failed.borrow().is_none() && self.pending.load(Ordering::Relaxed) + bytes <= self.pending_max
    }

    /// So many bytes will be written.
    fn take(&self, bytes: usize) {
        self.pending.fetch_add(bytes, Ordering::Relaxed);
        let left = |room: u64| Some(room.saturating_sub(bytes as u64));
        // The closure never says no.
        let _ = self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left);
    }
}

/// Totals of a stream since the store started.
#[derive(Debug, Default)]
pub struct Counters {
    /// Records stored.
    pub records: AtomicU64,
    /// Bytes of partition keys and data stored.
    pub user_bytes: AtomicU64,
    /// Bytes of frames written.
    pub stored_bytes: AtomicU64,
    /// Batches answered `Throttled`.
    pub throttled: AtomicU64,
    /// Batches answered `Duplicate`.
    pub duplicates: AtomicU64,
    /// Records refused.
    pub refused: AtomicU64,
    /// Commits.
    pub commits: AtomicU64,
}

enum Waiting {
    Ack(mpsc::UnboundedSender<Ack>, Ack),
    Done(oneshot::Sender<()>),
}

struct Core {
    committer: Committer<Waiting>,
    /// Absent while a commit runs, and for good after a failure or after closing.
    log: Option<Box<dyn StreamLog>>,
    lone: Lone,
}

struct Inner {
    core: Mutex<Core>,
    reader: Arc<dyn LogReader>,
    map: RwLock<ShardMap>,
    /// Counts commits: followers wait for it to change.
    committed: watch::Sender<u64>,
    gate: Arc<Gate>,
    clock: Clock,
    counters: Counters,
    runtime: tokio::runtime::Handle,
}

/// A stream at work. Cheap to clone.
#[derive(Clone)]
pub struct Stream {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}

fn lock(core: &Mutex<Core>) -> MutexGuard<'_, Core> {
    core.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stream {
    /// Puts a stream to work. Must be called within the runtime that is to run its commits.
    #[must_use]
    pub fn start(
        log: Box<dyn StreamLog>,
        state: StreamState,
        config: &StreamConfig,
        gate: Arc<Gate>,
        clock: Clock,
    ) -> Stream {
        let inner = Inner {
            reader: log.reader(),
            map: RwLock::new(map_of(&state)),
            core: Mutex::new(Core {
                committer: Committer::new(state, config),
                log: Some(log),
                lone: Lone::default(),
            }),
            committed: watch::channel(0).0,
            gate,
            clock,
            counters: Counters::default(),
            runtime: tokio::runtime::Handle::current(),
        };
        Stream { inner: Arc::new(inner) }
    }

    /// The reading side.
    #[must_use]
    pub fn reader(&self) -> &Arc<dyn LogReader> {
        &self.inner.reader
    }

    /// Changes with every commit.
    #[must_use]
    pub fn committed(&self) -> watch::Receiver<u64> {
        self.inner.committed.subscribe()
    }

    /// The shards as they are durable.
    #[must_use]
    pub fn map(&self) -> ShardMap {
        Arc::clone(&self.inner.map.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Totals.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    fn now(&self) -> Now {
        Now { mono: self.inner.clock.mono(), wall: self.inner.clock.wall() }
    }

    /// Decides about a batch that was opened and found good; answers on `acks`, now or when it is durable.
    pub fn append(
        &self,
        frame: &Frame<'_>,
        batch: &Batch,
        epoch: u32,
        acks: &mpsc::UnboundedSender<Ack>,
        on: CommitOn,
    ) {
        let now = self.now();
        let header = &frame.header;
        let bytes = header.total_len as usize;
        let mut core = lock(&self.inner.core);
        if core.committer.closing || !self.inner.gate.is_open_for(bytes) {
            core.committer.sequencer.turn_away(header, epoch, now);
            drop(core);
            self.answer_now(header, Outcome::Busy { retry_after_ms: BUSY_RETRY_MS }, acks);
            return;
        }
        let Committer { sequencer, group, .. } = &mut core.committer;
        let before = group.len();
        let decision = sequencer.handle_batch(header, frame.payload, batch, epoch, now, group);
        match decision {
            Decision::Now(outcome) => {
                drop(core);
                self.answer_now(header, outcome, acks);
            }
            Decision::WhenDurable(outcome) => {
                self.inner.gate.take(group.len() - before);
                group.wait(Waiting::Ack(acks.clone(), Ack::to(header, outcome)));
                self.begin_commit(core, on);
            }
        }
    }

    /// Places records one by one; what has a place is durable when the receiver hears of it. `None` for a store that
    /// can't now.
    #[must_use]
    pub fn put_records(
        &self,
        key: StreamKey,
        records: &[NewRecord<'_>],
    ) -> Option<(Vec<Placed>, UnixMs, oneshot::Receiver<()>)> {
        let now = self.now();
        let bytes = records.iter().map(|record| record.data.len() + record.partition_key.len()).sum();
        let mut core = lock(&self.inner.core);
        if core.committer.closing || !self.inner.gate.is_open_for(bytes) {
            return None;
        }
        let Committer { sequencer, group, .. } = &mut core.committer;
        let before = group.len();
        let placed = sequencer.handle_records(key, records, now, group);
        let (sender, done) = oneshot::channel();
        let added = group.len() - before;
        if added == 0 {
            drop(core);
            // Nobody need wait for nothing.
            let _ = sender.send(());
            self.inner.counters.throttled.fetch_add(1, Ordering::Relaxed);
        } else {
            self.inner.gate.take(added);
            group.wait(Waiting::Done(sender));
            self.kick(core);
        }
        Some((placed, now.wall, done))
    }

    /// Decides about a batch whose payload is not copied: what became of it, once it is durable where it is stored.
    pub async fn put_plain(&self, batch: &Plain<'_>) -> Option<Outcome> {
        let (outcome, done) = self.place_plain(batch);
        match done {
            Some(done) => done.await.ok().map(|()| outcome),
            None => Some(outcome),
        }
    }

    fn place_plain(&self, batch: &Plain<'_>) -> (Outcome, Option<oneshot::Receiver<()>>) {
        let now = self.now();
        let bytes = batch.header.total_len as usize;
        let mut core = lock(&self.inner.core);
        if core.committer.closing || !self.inner.gate.is_open_for(bytes) {
            return (Outcome::Busy { retry_after_ms: BUSY_RETRY_MS }, None);
        }
        let Committer { sequencer, group, .. } = &mut core.committer;
        match sequencer.handle_plain(batch, now, group) {
            Decision::Now(outcome) => {
                self.count_throttled(&outcome);
                (outcome, None)
            }
            Decision::WhenDurable(outcome) => {
                self.inner.gate.take(bytes);
                let (sender, done) = oneshot::channel();
                group.wait(Waiting::Done(sender));
                self.kick(core);
                (outcome, Some(done))
            }
        }
    }

    fn count_throttled(&self, outcome: &Outcome) {
        if matches!(outcome, Outcome::Throttled { .. }) {
            self.inner.counters.throttled.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn answer_now(&self, header: &Header, outcome: Outcome, acks: &mpsc::UnboundedSender<Ack>) {
        self.count_throttled(&outcome);
        // A connection that is gone needs no answer.
        let _ = acks.send(Ack::to(header, outcome));
    }

    /// Starts a commit unless one is running: then it goes on with the next group by itself.
    fn kick(&self, core: MutexGuard<'_, Core>) {
        self.begin_commit(core, CommitOn::Pool);
    }

    fn begin_commit(&self, mut core: MutexGuard<'_, Core>, on: CommitOn) {
        let Some(log) = core.log.take() else { return };
        let is_alone = core.committer.group.waiting().len() == 1 && core.lone.is_lone();
        drop(core);
        if on == CommitOn::Caller && is_alone && may_block() {
            return tokio::task::block_in_place(|| self.commit_one(log));
        }
        let stream = self.clone();
        self.inner.runtime.spawn_blocking(move || stream.commit_all(log));
    }

    /// One group. What has collected meanwhile is the pool's.
    fn commit_one(&self, mut log: Box<dyn StreamLog>) {
        let mut group = Group::default();
        self.inner.gate.busy().handle_begin(self.inner.clock.mono());
        let work = self.next_work(&mut group, &*log);
        let done = work.map_or(Ok(()), |work| self.commit(&mut log, &mut group, &work));
        self.inner.gate.busy().handle_end(self.inner.clock.mono());
        match done {
            Ok(()) => self.rest(log),
            Err(error) => self.inner.gate.fail(error.to_string()),
        }
    }

    fn commit_all(&self, mut log: Box<dyn StreamLog>) {
        let mut group = Group::default();
        self.inner.gate.busy().handle_begin(self.inner.clock.mono());
        loop {
            let Some(work) = self.next_work(&mut group, &*log) else {
                self.inner.gate.busy().handle_end(self.inner.clock.mono());
                self.rest(log);
                return;
            };
            if let Err(error) = self.commit(&mut log, &mut group, &work) {
                self.inner.gate.fail(error.to_string());
                return;
            }
        }
    }

    /// Takes the group that has collected; `None` when there is nothing to do.
    fn next_work(&self, group: &mut Group<Waiting>, log: &dyn StreamLog) -> Option<Work> {
        lock(&self.inner.core).committer.take_work(group, log, self.map().0, self.now())
    }

    fn commit(
        &self,
        log: &mut Box<dyn StreamLog>,
        group: &mut Group<Waiting>,
        work: &Work,
    ) -> Result<(), crate::log::LogError> {
        let begun = self.inner.clock.mono();
        work.append(&mut **log, group)?;
        work.sync(&mut **log)?;
        let took = self.inner.clock.mono().since(begun);
        lock(&self.inner.core).lone.handle_commit(group.waiting().len(), took);
        if let Some(map) = &work.map {
            *self.inner.map.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(map);
        }
        self.count(group);
        self.inner.gate.pending.fetch_sub(group.len(), Ordering::Relaxed);
        for waiting in group.take_waiting(GROUP_BYTES_KEPT) {
            match waiting {
                // Whoever is gone needs no answer.
                Waiting::Ack(sink, ack) => drop(sink.send(ack)),
                Waiting::Done(sender) => drop(sender.send(())),
            }
        }
        self.inner.committed.send_modify(|commits| *commits += 1);
        work.tidy(&mut **log)
    }

    fn count(&self, group: &Group<Waiting>) {
        let counters = &self.inner.counters;
        let (mut records, mut user_bytes) = (0, 0);
        for entry in group.entries() {
            records += u64::from(entry.header.record_count);
            user_bytes += u64::from(entry.header.user_bytes);
        }
        counters.records.fetch_add(records, Ordering::Relaxed);
        counters.user_bytes.fetch_add(user_bytes, Ordering::Relaxed);
        counters.stored_bytes.fetch_add(group.len() as u64, Ordering::Relaxed);
        counters.commits.fetch_add(1, Ordering::Relaxed);
        for waiting in group.waiting() {
            match waiting {
                Waiting::Ack(_, Ack { outcome: Outcome::Duplicate, .. }) => {
                    counters.duplicates.fetch_add(1, Ordering::Relaxed);
                }
                Waiting::Ack(_, Ack { outcome: Outcome::Stored { refused, .. }, .. }) => {
                    counters.refused.fetch_add(refused.len() as u64, Ordering::Relaxed);
                }
                _ => {}
            }
        }
    }

    /// Nothing to do: puts the log back, unless something came in the meantime.
    fn rest(&self, log: Box<dyn StreamLog>) {
        let mut core = lock(&self.inner.core);
        core.log = Some(log);
        if let Some(ms) = core.committer.sync_due() {
            let stream = self.clone();
            self.inner.runtime.spawn(async move {
                tokio::time::sleep(Duration::from_millis(u64::from(ms))).await;
                stream.kick(lock(&stream.inner.core));
            });
        }
        if core.committer.has_work() {
            self.kick(core);
        }
    }

    /// Does something to the sequencer that puts control frames into the group, and waits until it is durable.
    ///
    /// # Errors
    /// As `change` says; and `None` when the store stopped before it was durable.
    pub async fn change<E>(
        &self,
        change: impl FnOnce(&mut Sequencer, Now, &mut ControlGroup<'_>) -> Result<(), E>,
    ) -> Result<Option<()>, E> {
        let done = {
            let mut core = lock(&self.inner.core);
            let Committer { sequencer, group, closing, .. } = &mut core.committer;
            if *closing {
                return Ok(None);
            }
            let before = group.len();
            change(sequencer, self.now(), &mut ControlGroup(group))?;
            self.inner.gate.take(group.len() - before);
            let (sender, receiver) = oneshot::channel();
            group.wait(Waiting::Done(sender));
            self.kick(core);
            receiver
        };
        Ok(done.await.ok())
    }

    /// What its shards were asked to take since this was last asked; nothing unless its settings say so.
    #[must_use]
    pub fn take_loads(&self) -> BTreeMap<ShardId, Load> {
        lock(&self.inner.core).committer.sequencer.take_loads()
    }

    /// Settings changed.
    pub fn configure(&self, config: &StreamConfig) {
        lock(&self.inner.core).committer.configure(config);
    }

    /// Removes segments below a position, and begins a new one where `roll` says so, at the next commit.
    /// Closed shards are known for `keep_ms` after they were closed, whether they have records or not.
    pub fn retain(&self, below: Option<Position>, roll: bool, keep_ms: u64) {
        let mut gone = gone(&self.map(), &*self.inner.reader);
        let (map, now) = (self.map(), self.inner.clock.wall());
        gone.retain(|id| {
            let closed = map.1.get(id).and_then(|shard| shard.closed);
            closed.is_none_or(|closed| now.millis_since(closed) > keep_ms)
        });
        let mut core = lock(&self.inner.core);
        let mut map = self.inner.map.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(without) = core.committer.retain(below, roll, &gone, &map) {
            *map = without;
        }
        drop(map);
        if core.committer.has_work() {
            self.kick(core);
        }
    }

    /// Takes nothing more, and comes back when everything that was taken is durable. The log is closed then.
    pub async fn close(&self) {
        lock(&self.inner.core).committer.closing = true;
        loop {
            let mut committed = self.committed();
            let done = {
                let mut core = lock(&self.inner.core);
                let idle =
                    core.log.is_some() && core.committer.group.is_empty() && !core.committer.is_dirty();
                if idle {
                    core.log = None;
                } else {
                    self.kick(core);
                }
                idle || self.inner.gate.failed.borrow().is_some()
            };
            if done {
                return;
            }
            // A commit that only rests changes nothing, so look again now and then.
            let _ = tokio::time::timeout(Duration::from_millis(5), committed.changed()).await;
        }
    }

    /// Where a shard begins, also while its log has nothing of it yet.
    #[must_use]
    pub fn begin(&self, shard: ShardId) -> SequenceNumber {
        self.map().1.get(&shard).map(|shard| shard.first).unwrap_or_default()
    }

    /// After the last durable record of a shard.
    #[must_use]
    pub fn tail(&self, shard: ShardId) -> SequenceNumber {
        self.inner.reader.tail(shard).max(self.begin(shard))
    }

    /// The oldest record of a shard that can be read.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn first(&self, shard: ShardId) -> Result<SequenceNumber, ReadError> {
        Ok(self.inner.reader.first(shard)?.max(self.begin(shard)))
    }

    /// The first record of a shard that arrived at a time or later.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn at_time(&self, shard: ShardId, time: UnixMs) -> Result<SequenceNumber, ReadError> {
        Ok(self.inner.reader.at_time(shard, time)?.max(self.begin(shard)))
    }
}

/// A group that only the sequencer may add to.
#[expect(missing_debug_implementations, reason = "lives within one call")]
pub struct ControlGroup<'a>(&'a mut Group<Waiting>);

impl ControlGroup<'_> {
    /// Splits a shard.
    ///
    /// # Errors
    /// As [`Sequencer::split`].
    pub fn split(
        &mut self,
        sequencer: &mut Sequencer,
        shard: ShardId,
        at: Option<protocol::hash::HashKey>,
        now: Now,
    ) -> Result<(), super::sequencer::ReshardError> {
        sequencer.split(shard, at, now, self.0)
    }

    /// Merges two shards.
    ///
    /// # Errors
    /// As [`Sequencer::merge`].
    pub fn merge(
        &mut self,
        sequencer: &mut Sequencer,
        a: ShardId,
        b: ShardId,
        now: Now,
    ) -> Result<(), super::sequencer::ReshardError> {
        sequencer.merge(a, b, now, self.0)
    }
}

/// Rebuilds a stream's state from its log, and keeps what did not fit.
#[derive(Debug, Default)]
pub struct StateReplay {
    /// The state, once a head was seen.
    pub state: Option<StreamState>,
    /// What is wrong with the log, for people.
    pub problems: Vec<String>,
}

impl Replay for StateReplay {
    fn control(&mut self, header: &Header, payload: &[u8]) {
        let result = match (header.kind, &mut self.state) {
            (Kind::StreamState, state) => StreamState::decode(payload).map(|new| *state = Some(new)),
            (Kind::Reshard, Some(state)) => state.apply_reshard(payload),
            _ => return,
        };
        if let Err(error) = result {
            self.problems.push(error.to_string());
        }
    }

    fn data(&mut self, header: &Header) {
        if let Some(state) = &mut self.state
            && let Err(error) = state.apply_data(header)
        {
            self.problems.push(error.to_string());
        }
    }

    fn damage(&mut self, damage: &disk::Damage) {
        self.problems.push(format!("{damage:?}"));
    }
}

/// The shards in a head's payload, for the engine's index.
#[must_use]
pub fn head_shards(payload: &[u8]) -> Vec<(ShardId, SequenceNumber)> {
    let state = StreamState::decode(payload).unwrap_or_default();
    state.shards.iter().map(|(id, shard)| (*id, shard.next)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reaches `PENDING_BYTES_MAX` of store/src/service/mod.rs.
    #[test]
    fn no_more_bytes_wait_for_commits_than_may() {
        let most = crate::service::PENDING_BYTES_MAX;
        let gate = Gate::new(most);
        gate.take(most - 1);
        assert!(gate.is_open_for(1) && !gate.is_open_for(2));
        gate.take(1);
        assert!(gate.is_open_for(0) && !gate.is_open_for(1));
    }
}
