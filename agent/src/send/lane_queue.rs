//! One lane's batches on their way: what is queued, what was sent, where to go on after a refusal. Pure.
//! Which lane may send, and when, is [`super::outbox`]'s.

use std::collections::VecDeque;
use std::time::Duration;

use protocol::backoff::Backoff;
use protocol::bucket::{ShardRate, TokenBucket};
use protocol::time::{Mono, UnixMs};

use crate::lane::LaneId;
use crate::spool::BatchMeta;

/// A batch that was asked for and is not in the spool: an empty one goes in its place, so that the lane's
/// numbers stay without gaps. Its loss is in the ledger already.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) sequence: u64,
    pub(super) position: u64,
    pub(super) len: u32,
    pub(super) records: u32,
    pub(super) user_bytes: u32,
    pub(super) taken: UnixMs,
    pub(super) filler: bool,
    pub(super) done: bool,
}

impl Entry {
    pub(super) fn of(meta: &BatchMeta) -> Entry {
        Entry {
            sequence: meta.sequence,
            position: meta.position,
            len: meta.len,
            records: meta.records,
            user_bytes: meta.user_bytes,
            taken: meta.taken,
            filler: false,
            done: false,
        }
    }

    pub(super) fn filler(sequence: u64, position: u64) -> Entry {
        let taken = UnixMs(0);
        Entry {
            sequence,
            position,
            len: FILLER_BYTES,
            records: 0,
            user_bytes: 0,
            taken,
            filler: true,
            done: false,
        }
    }
}

/// About what an empty batch takes on the wire.
const FILLER_BYTES: u32 = 128;

/// Share of a shard's rate that a lane uses, so that the store never has to refuse it.
const PACE_PER_MILLE: u64 = 970;

/// Share of a second's worth that may be sent at once: what delays on the way compress is not over the store's.
const BURST_PER_MILLE: u64 = 800;

/// What one lane may send, a little less than the store takes.
#[derive(Debug)]
pub(super) struct Pace {
    bytes: TokenBucket,
    records: TokenBucket,
}

impl Pace {
    pub(super) fn new(rate: ShardRate, shards: u64, now: Mono) -> Pace {
        let bucket = |rate: u64| {
            let rate = rate.saturating_mul(shards.max(1));
            TokenBucket::new(rate.saturating_mul(PACE_PER_MILLE) / 1000, rate * BURST_PER_MILLE / 1000, now)
        };
        Pace { bytes: bucket(rate.bytes_per_second), records: bucket(rate.records_per_second) }
    }

    fn wait_for(&mut self, entry: &Entry, now: Mono) -> Duration {
        let bytes = self.bytes.wait_for(u64::from(entry.user_bytes), now);
        bytes.max(self.records.wait_for(u64::from(entry.records), now))
    }

    fn take(&mut self, entry: &Entry, now: Mono) {
        self.bytes.take(u64::from(entry.user_bytes), now);
        self.records.take(u64::from(entry.records), now);
    }

    /// What it sent beyond what a second allows, and has not made up for yet: bytes and records.
    pub(super) fn debt(&mut self, now: Mono) -> (u64, u64) {
        (self.bytes.debt(now), self.records.debt(now))
    }

    /// Begins with what another one owes.
    pub(super) fn owe(&mut self, (bytes, records): (u64, u64), now: Mono) {
        self.bytes.take(bytes, now);
        self.records.take(records, now);
    }

    /// As if the store's bucket were empty: for an agent that can't know what it sent before it started.
    pub(super) fn drain(&mut self, rate: ShardRate, now: Mono) {
        self.bytes.take(rate.bytes_per_second * BURST_PER_MILLE / 1000, now);
        self.records.take(rate.records_per_second * BURST_PER_MILLE / 1000, now);
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct LaneQueue {
    pub(super) id: LaneId,
    /// By sequence; the front is the first that is not done with.
    pub(super) queue: VecDeque<Entry>,
    /// Place in the queue of the first that is to be sent.
    next: usize,
    /// The last number that was seen in the spool.
    pub(super) seen: u64,
    /// The last number that is done with.
    pub(super) delivered: u64,
    /// The last number that was sent in this life.
    sent_up_to: u64,
    /// The store may have numbers up to this one: given out in an earlier life, or sent on a connection that is gone.
    maybe_stored: u64,
    /// Where to read on in the spool for this lane, once there is room in its queue.
    pub(super) rescan_from: Option<u64>,
    /// Answers that are still to come.
    pub(super) outstanding: u32,
    /// Something was refused: once all answers are there, go back to this number.
    rewind_to: Option<u64>,
    pub(super) wait_until: Mono,
    pub(super) backoff: Backoff,
    pub(super) pace: Option<Pace>,
}

impl LaneQueue {
    /// `given` is the last number that an earlier life gave out.
    pub(super) fn new(id: LaneId, delivered: u64, given: u64, seed: u64) -> LaneQueue {
        LaneQueue {
            id,
            queue: VecDeque::new(),
            next: 0,
            seen: delivered,
            delivered,
            sent_up_to: 0,
            maybe_stored: given,
            rescan_from: None,
            outstanding: 0,
            rewind_to: None,
            wait_until: Mono::ZERO,
            backoff: Backoff::new(50, 10_000, seed),
            pace: None,
        }
    }

    /// Nothing of it is left to be sent.
    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.rescan_from.is_none()
    }

    /// Takes a batch from the spool, and empty ones for those that are missing before it. Where `room` is used
    /// up, it notes from where to go on and says false.
    pub(super) fn take(&mut self, meta: &BatchMeta, queue_max: usize) -> bool {
        if meta.sequence <= self.seen {
            return true;
        }
        while self.queue.len() < queue_max {
            let wanted = self.seen + 1;
            self.seen = wanted;
            if wanted == meta.sequence {
                self.queue.push_back(Entry::of(meta));
                return true;
            }
            self.queue.push_back(Entry::filler(wanted, meta.position));
        }
        self.rescan_from = Some(meta.position);
        false
    }

    /// The position of the first batch that is not done with.
    pub(super) fn first_position(&self) -> Option<u64> {
        self.queue.front().map(|entry| entry.position).or(self.rescan_from)
    }

    /// The position of the first batch that was sent and not answered. Where something was refused, of the first
    /// one that may be such a batch.
    pub(super) fn sent_from(&self) -> Option<u64> {
        let sent = self.queue.iter().take(if self.outstanding > 0 { self.next } else { 0 });
        sent.filter(|entry| !entry.done && !entry.filler).map(|entry| entry.position).next()
    }

    /// The next to send; or when to ask again.
    pub(super) fn ready(&mut self, now: Mono) -> Result<Entry, Option<Mono>> {
        if self.rewind_to.is_some() {
            return Err(None);
        }
        while self.queue.get(self.next).is_some_and(|entry| entry.done) {
            self.next += 1;
        }
        let Some(entry) = self.queue.get(self.next) else { return Err(None) };
        if self.wait_until > now {
            return Err(Some(self.wait_until));
        }
        let wait = self.pace.as_mut().map_or(Duration::ZERO, |pace| pace.wait_for(entry, now));
        if wait > Duration::ZERO { Err(Some(now + wait)) } else { Ok(*entry) }
    }

    /// The one that [`ready`](Self::ready) returned is on its way.
    pub(super) fn sent(&mut self, now: Mono) {
        if let (Some(pace), Some(entry)) = (&mut self.pace, self.queue.get(self.next)) {
            pace.take(entry, now);
        }
        self.sent_up_to = self.sent_up_to.max(self.queue.get(self.next).map_or(0, |entry| entry.sequence));
        self.next += 1;
        self.outstanding += 1;
    }

    /// Whether the store may have this number from us.
    pub(super) fn may_be_stored(&self, sequence: u64) -> bool {
        sequence <= self.maybe_stored
    }

    /// Whether it was sent in this life.
    pub(super) fn was_sent(&self, sequence: u64) -> bool {
        sequence <= self.sent_up_to
    }

    fn place(&self, sequence: u64) -> Option<usize> {
        self.queue.binary_search_by_key(&sequence, |entry| entry.sequence).ok()
    }

    /// The batch of this number, where it is not done with.
    pub(super) fn entry(&self, sequence: u64) -> Option<Entry> {
        self.place(sequence).map(|at| self.queue[at])
    }

    /// It can't be read any more.
    pub(super) fn make_filler(&mut self, sequence: u64) {
        if let Some(at) = self.place(sequence) {
            self.queue[at] = Entry::filler(sequence, self.queue[at].position);
        }
    }

    /// The store is done with a batch.
    pub(super) fn done(&mut self, sequence: u64) {
        if let Some(at) = self.place(sequence) {
            self.queue[at].done = true;
        }
        while self.queue.front().is_some_and(|entry| entry.done) {
            let Some(entry) = self.queue.pop_front() else { break };
            self.delivered = self.delivered.max(entry.sequence);
            self.next = self.next.saturating_sub(1);
        }
    }

    /// A batch was not taken: it and all after it are sent again, once all answers are there.
    pub(super) fn go_back(&mut self, sequence: u64) {
        self.rewind_to = Some(self.rewind_to.map_or(sequence, |to| to.min(sequence)));
    }

    pub(super) fn is_going_back(&self) -> bool {
        self.rewind_to.is_some()
    }

    /// An answer has come.
    pub(super) fn answered(&mut self) {
        self.outstanding = self.outstanding.saturating_sub(1);
    }

    /// Goes back where that was waited for and nothing is on its way any more.
    pub(super) fn settle(&mut self) {
        if self.outstanding == 0
            && let Some(to) = self.rewind_to.take()
        {
            self.next = self.queue.partition_point(|entry| entry.sequence < to);
        }
    }

    /// The store wants numbers again that it was done with once: empty batches take their place.
    pub(super) fn fill_before_front(&mut self, from: u64, most: u64) {
        let front = self.queue.front().map_or(self.seen + 1, |entry| entry.sequence);
        let position = self.first_position().unwrap_or(0);
        for sequence in (from..front).take(most as usize).collect::<Vec<_>>().into_iter().rev() {
            self.queue.push_front(Entry::filler(sequence, position));
        }
    }

    /// The connection is gone, and nothing that was sent will be answered.
    pub(super) fn reset(&mut self) {
        self.maybe_stored = self.maybe_stored.max(self.sent_up_to);
        self.next = 0;
        self.outstanding = 0;
        self.rewind_to = None;
        self.wait_until = Mono::ZERO;
    }
}
