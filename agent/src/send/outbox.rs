//! The outbox: what to send next, and what an answer means. Pure: no sockets, no files, no clock.
//!
//! It knows a bounded number of batches of each lane by their place in the spool; the rest stays there. The
//! driver reads headers from the spool ([`Outbox::poll_read`]), sends what [`Outbox::poll_send`] says, and brings
//! the answers. Promises: a lane's batches go out in order; a lane of a newer shard map waits for all older ones
//! of its stream; what was refused is sent again and delays only its lane; nothing is forgotten before the store
//! has it or the ledger does. Of lanes that may send, those of the streams with the highest priority do, in turn.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::time::Duration;

use protocol::bucket::{ShardRate, TokenBucket};
use protocol::name::StreamKey;
use protocol::native::call::StreamInfo;
use protocol::native::message::{Ack, Outcome, RefuseCode};
use protocol::rng::Rng;
use protocol::time::{Mono, UnixMs};

use super::lane_queue::{Entry, LaneQueue, Pace};
use super::policy::{Ages, PRIORITY_MAX, Policies, Policy};
use crate::lane::LaneId;
use crate::loss::Loss;
use crate::spool::{BatchMeta, DeliveredUpdate, LaneState, State};

/// Bounds of an outbox.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Batches of one lane that are known in memory.
    pub lane_batches_max: usize,
    /// Batches of all lanes that are known in memory; beyond it the spool is read no further.
    pub batches_max: usize,
    /// Batches sent and not answered.
    pub inflight_batches_max: u32,
    /// Bytes sent and not answered.
    pub inflight_bytes_max: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            lane_batches_max: 256,
            batches_max: 16_384,
            inflight_batches_max: 128,
            inflight_bytes_max: 8 << 20,
        }
    }
}

/// Empty batches made at once when the store has forgotten a lane.
const FILLERS_MAX: u64 = 65_536;

/// What the spool holds back is asked for again after this.
const HELD_MS: u64 = 5;

/// The reason of what waited for longer than its stream wants.
const EXPIRED: &str = "expired";

/// The mark alone is told again when it moved by this much.
const MARK_STEP_BYTES: u64 = 16 << 10;

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Send {
    /// Send the frame at this place of the spool.
    Batch(BatchMeta),
    /// Send an empty batch with this number: what it stood for is in the loss ledger.
    Filler {
        /// Lane.
        lane: LaneId,
        /// Number.
        sequence: u64,
    },
}

/// Where the spool is to be read next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// At the end of what is known: every lane.
    Ahead(u64),
    /// Again, for lanes that had no room the first time.
    Again(u64),
}

/// Counters since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Batches sent, again or not.
    pub sent_batches: u64,
    /// Batches stored.
    pub stored_batches: u64,
    /// Records stored.
    pub stored_records: u64,
    /// Batches that the store had already.
    pub duplicate_batches: u64,
    /// Records in those.
    pub duplicate_records: u64,
    /// Answers that said to wait.
    pub throttled: u64,
    /// Records that the store refused for good.
    pub refused_records: u64,
    /// Answers that made no sense, and were survived.
    pub odd_answers: u64,
    /// Records seen in the spool.
    pub seen_records: u64,
    /// Records done with.
    pub done_records: u64,
}

#[derive(Debug, Clone)]
struct Gate {
    name: String,
    open: bool,
    rate: Option<ShardRate>,
    shards: u64,
    policy: Policy,
}

/// What may be sent next.
#[derive(Debug, Clone, Copy)]
enum Turn {
    Lane(LaneId),
    /// Something may, when there is room for it.
    NoRoom,
    Nothing,
}

/// See the module.
#[derive(Debug)]
pub struct Outbox {
    settings: Settings,
    limits: Option<(u32, u64)>,
    lanes: BTreeMap<LaneId, LaneQueue>,
    gates: BTreeMap<StreamKey, Gate>,
    /// Everything of the spool below it was seen.
    ahead: u64,
    again: Option<u64>,
    queued: usize,
    inflight_batches: u32,
    inflight_bytes: u64,
    turn: Option<LaneId>,
    next_due: Option<Mono>,
    changed: BTreeMap<LaneId, u64>,
    told_mark: u64,
    losses: Vec<Loss>,
    counts: Counts,
    rng: Rng,
    /// The first start of this spool: the store has taken nothing from it yet.
    fresh: bool,
    policies: Policies,
    /// Those that streams have, the highest first.
    priorities: Vec<u8>,
    ages: Ages,
    /// What all streams together may send.
    budget: Option<TokenBucket>,
}

impl Outbox {
    /// Starts from what the spool knows.
    #[must_use]
    pub fn new(settings: Settings, state: &State, seed: u64) -> Outbox {
        let mut rng = Rng::new(seed);
        let lanes = state.lanes.values();
        let mut queue =
            |l: &LaneState| LaneQueue::new(l.lane, l.delivered, l.next.saturating_sub(1), rng.next_u64());
        let lanes = lanes.map(|l| (l.lane, queue(l))).collect();
        let mut outbox = Outbox {
            settings,
            limits: None,
            lanes,
            gates: BTreeMap::new(),
            ahead: state.mark,
            again: None,
            queued: 0,
            inflight_batches: 0,
            inflight_bytes: 0,
            turn: None,
            next_due: None,
            changed: BTreeMap::new(),
            told_mark: state.mark,
            losses: Vec::new(),
            counts: Counts::default(),
            rng,
            fresh: state.epoch <= 1,
            policies: Policies::default(),
            priorities: Vec::new(),
            ages: Ages::default(),
            budget: None,
        };
        for map in state.streams.values() {
            outbox.handle_stream_name(map.name.key(), map.name.as_str());
        }
        outbox
    }

    /// A stream's name is known.
    pub fn handle_stream_name(&mut self, stream: StreamKey, name: &str) {
        let policy = self.policies.of(name);
        let gate = Gate { name: name.to_owned(), open: false, rate: None, shards: 1, policy };
        self.gates.entry(stream).or_insert(gate);
        if !self.priorities.contains(&policy.priority) {
            self.sort_priorities();
        }
    }

    // ---- policies ----

    /// What goes first, what is kept back, and how much may be sent in a second.
    pub fn set_policies(&mut self, policies: Policies, bytes_per_second_max: Option<u64>, now: Mono) {
        // Bytes of a second may go at once; what is larger goes too, and is waited for afterwards.
        self.budget = bytes_per_second_max.map(|bytes| TokenBucket::new(bytes, bytes, now));
        self.policies = policies;
        self.name_policies();
    }

    /// The streams of a rule are kept back, or are not any more; true where that is news.
    pub fn handle_hold(&mut self, rule: usize, held: bool) -> bool {
        let news = self.policies.handle_hold(rule, held);
        if news {
            self.name_policies();
        }
        news
    }

    /// Both clocks, so that what is too old is known.
    pub fn handle_clock(&mut self, now: Mono, unix: UnixMs) {
        self.ages.handle_clock(now, unix, self.ahead);
    }

    fn name_policies(&mut self) {
        for gate in self.gates.values_mut() {
            gate.policy = self.policies.of(&gate.name);
        }
        self.sort_priorities();
    }

    fn sort_priorities(&mut self) {
        let used = |priority: &u8| self.gates.values().any(|gate| gate.policy.priority == *priority);
        self.priorities = (0..=PRIORITY_MAX).rev().filter(used).collect();
    }

    /// Whether a batch waited for longer than its stream wants; then an empty one goes in its place, and the ledger says why.
    fn expire(&mut self, id: LaneId, entry: &Entry) -> bool {
        let Some(ttl_ms) = self.gates.get(&id.stream).and_then(|gate| gate.policy.ttl_ms) else {
            return false;
        };
        // What was sent already and not answered is asked about, not given up.
        let was_sent = self.lanes.get(&id).is_none_or(|lane| lane.was_sent(entry.sequence));
        if entry.filler || was_sent || self.ages.age_ms(entry.position, entry.taken) <= ttl_ms {
            return false;
        }
        self.lose(id, entry.sequence, EXPIRED);
        self.counts.done_records += u64::from(entry.records);
        if let Some(lane) = self.lanes.get_mut(&id) {
            lane.make_filler(entry.sequence);
        }
        true
    }

    // ---- reading the spool ----

    /// Where to read a header next; `None` when enough is known.
    pub fn poll_read(&mut self) -> Option<Read> {
        if self.again.is_none() {
            let half = self.settings.lane_batches_max / 2;
            let hungry = self.lanes.values().filter(|lane| lane.queue.len() <= half);
            self.again = hungry.filter_map(|lane| lane.rescan_from).min();
        }
        if let Some(position) = self.again {
            return Some(Read::Again(position));
        }
        (self.queued < self.settings.batches_max).then_some(Read::Ahead(self.ahead))
    }

    /// What was found where [`poll_read`](Self::poll_read) said: a batch, or something else, and where it goes on.
    pub fn handle_read(&mut self, read: Read, found: Option<&BatchMeta>, next: u64) {
        match read {
            Read::Ahead(_) => {
                if let Some(meta) = found {
                    self.counts.seen_records += u64::from(meta.records);
                    self.offer(meta, false);
                }
                self.ahead = self.ahead.max(next);
            }
            Read::Again(at) => {
                if let Some(meta) = found {
                    self.offer(meta, true);
                }
                self.read_again_on(at, next);
            }
        }
    }

    fn offer(&mut self, meta: &BatchMeta, again: bool) {
        let seed = self.rng.next_u64();
        let lane = self.lanes.entry(meta.lane).or_insert_with(|| LaneQueue::new(meta.lane, 0, 0, seed));
        match lane.rescan_from {
            // A lane that had no room at `from` takes nothing from behind it, though it has room by now.
            Some(from) if !again || from != meta.position => return,
            _ => {}
        }
        if meta.sequence <= lane.delivered && !again {
            self.counts.done_records += u64::from(meta.records);
        }
        let before = lane.queue.len();
        if lane.take(meta, self.settings.lane_batches_max) && again {
            lane.rescan_from = lane.rescan_from.map(|from| from.max(meta.position + u64::from(meta.len)));
        }
        self.queued += lane.queue.len() - before;
    }

    /// Goes on from `at` to `next`, with the lanes that have room and missed nothing before.
    fn read_again_on(&mut self, at: u64, next: u64) {
        let (full, ahead) = (self.settings.lane_batches_max, self.ahead);
        let mut wanted = false;
        for lane in self.lanes.values_mut().filter(|lane| lane.queue.len() < full) {
            let keeps_pace = lane.rescan_from.is_some_and(|from| (at..=next).contains(&from));
            if keeps_pace {
                lane.rescan_from = (next < ahead).then_some(next);
                wanted = true;
            }
        }
        self.again = (wanted && next < ahead).then_some(next);
    }

    // ---- the connection ----

    /// The store said hello.
    pub fn handle_connected(&mut self, inflight_batches_max: u32, inflight_bytes_max: u32) {
        self.handle_disconnected();
        let batches = inflight_batches_max.min(self.settings.inflight_batches_max).max(1);
        let bytes = u64::from(inflight_bytes_max).min(self.settings.inflight_bytes_max).max(1);
        self.limits = Some((batches, bytes));
    }

    /// The connection is gone: everything unanswered is to be sent again.
    pub fn handle_disconnected(&mut self) {
        self.limits = None;
        self.inflight_batches = 0;
        self.inflight_bytes = 0;
        self.lanes.values_mut().for_each(LaneQueue::reset);
        self.gates.values_mut().for_each(|gate| gate.open = false);
    }

    /// The store has told of a stream: it may be written to, at this rate.
    pub fn handle_stream(&mut self, info: &StreamInfo) {
        self.handle_stream_name(info.key, info.name.as_str());
        let Some(gate) = self.gates.get_mut(&info.key) else { return };
        gate.open = true;
        let shards = info.shards.iter().filter(|s| !s.closed).count().max(1) as u64;
        if gate.rate == info.config.shard_rate && gate.shards == shards {
            return;
        }
        gate.rate = info.config.shard_rate;
        gate.shards = shards;
        for (_, lane) in self.lanes.range_mut(lanes_of(info.key)) {
            lane.pace = None;
        }
    }

    /// The store does not take this stream now.
    pub fn handle_stream_closed(&mut self, stream: StreamKey) {
        if let Some(gate) = self.gates.get_mut(&stream) {
            gate.open = false;
        }
    }

    /// Streams that have something to send, and that the store has not told of.
    #[must_use]
    pub fn unopened(&self) -> Vec<(StreamKey, String)> {
        let mut keys: Vec<StreamKey> =
            self.lanes.values().filter(|lane| !lane.is_idle()).map(|lane| lane.id.stream).collect();
        keys.dedup();
        let closed = keys.into_iter().filter_map(|key| {
            let gate = self.gates.get(&key)?;
            (!gate.open).then(|| (key, gate.name.clone()))
        });
        closed.collect()
    }

    // ---- sending ----

    /// The next thing to send. It counts as sent.
    pub fn poll_send(&mut self, now: Mono) -> Option<Send> {
        self.next_due = None;
        let (batches_max, bytes_max) = self.limits?;
        if self.inflight_batches >= batches_max {
            return None;
        }
        let id = self.next_ready(now, bytes_max)?;
        let mut entry = self.lanes.get_mut(&id)?.ready(now).ok()?;
        if self.expire(id, &entry) {
            entry = self.lanes.get_mut(&id)?.ready(now).ok()?;
        }
        if let Some(budget) = &mut self.budget {
            let wait = budget.wait_for(u64::from(entry.len), now);
            if wait > Duration::ZERO {
                self.next_due = [self.next_due, Some(now + wait)].into_iter().flatten().min();
                return None;
            }
            budget.take(u64::from(entry.len), now);
        }
        self.turn = Some(id);
        self.lanes.get_mut(&id)?.sent(now);
        self.inflight_batches += 1;
        self.inflight_bytes += u64::from(entry.len);
        self.counts.sent_batches += 1;
        if entry.filler {
            return Some(Send::Filler { lane: id, sequence: entry.sequence });
        }
        Some(Send::Batch(BatchMeta {
            position: entry.position,
            len: entry.len,
            lane: id,
            sequence: entry.sequence,
            records: entry.records,
            user_bytes: entry.user_bytes,
            taken: entry.taken,
        }))
    }

    /// The next lane in turn of those with the highest priority that have something to send and may. What of a higher
    /// priority waits for room is not overtaken.
    fn next_ready(&mut self, now: Mono, bytes_max: u64) -> Option<LaneId> {
        for place in 0..self.priorities.len() {
            match self.next_of(self.priorities[place], now, bytes_max) {
                Turn::Lane(id) => return Some(id),
                Turn::NoRoom => return None,
                Turn::Nothing => {}
            }
        }
        None
    }

    /// The same among the lanes of streams with this priority.
    fn next_of(&mut self, priority: u8, now: Mono, bytes_max: u64) -> Turn {
        let start = self.turn.map_or(Unbounded, Excluded);
        let mut at = self.lanes.range((start, Unbounded)).next().map(|(id, _)| *id);
        let (mut wrapped, mut none) = (false, Turn::Nothing);
        let room = bytes_max.saturating_sub(self.inflight_bytes);
        loop {
            let Some(id) = at else {
                if wrapped || self.turn.is_none() {
                    return none;
                }
                wrapped = true;
                at = self.lanes.keys().next().copied();
                continue;
            };
            if self.may_send(id, priority)
                && let Some(entry) = self.ready_or_due(id, now)
            {
                if entry <= room || self.inflight_batches == 0 {
                    return Turn::Lane(id);
                }
                none = Turn::NoRoom;
            }
            if wrapped && Some(id) >= self.turn {
                return none;
            }
            at = self.lanes.range((Excluded(id), Unbounded)).next().map(|(id, _)| *id);
        }
    }

    fn ready_or_due(&mut self, id: LaneId, now: Mono) -> Option<u64> {
        let (gate, fresh) = (self.gates.get(&id.stream)?, self.fresh);
        let (rate, shards) = (gate.rate, gate.shards);
        // A lane of a newer shard map goes on where others ended: to the same shards, mostly.
        let begins = self.lanes.get(&id)?.pace.is_none() && rate.is_some();
        let debt = if begins { self.debt_before(id, now) } else { (0, 0) };
        let lane = self.lanes.get_mut(&id)?;
        if let (None, Some(rate)) = (&lane.pace, rate) {
            // A lane of before first contact goes to all shards of its stream.
            let mut pace = Pace::new(rate, if id.generation() == 0 { shards } else { 1 }, now);
            if !fresh {
                pace.drain(rate, now);
            }
            pace.owe(debt, now);
            lane.pace = Some(pace);
        }
        match lane.ready(now) {
            Ok(entry) => Some(u64::from(entry.len)),
            Err(due) => {
                self.next_due = [self.next_due, due].into_iter().flatten().min();
                None
            }
        }
    }

    /// The largest debt of the stream's lanes before this one.
    fn debt_before(&mut self, id: LaneId, now: Mono) -> (u64, u64) {
        let older = self.lanes.range_mut(LaneId { stream: id.stream, lane: 0 }..id);
        let debts = older.filter_map(|(_, lane)| lane.pace.as_mut()).map(|pace| pace.debt(now));
        debts.fold((0, 0), |most, debt| (most.0.max(debt.0), most.1.max(debt.1)))
    }

    /// Whether a lane's stream is open, of this priority and not kept back, and nothing of an older shard map is left.
    fn may_send(&self, id: LaneId, priority: u8) -> bool {
        let mine = |gate: &Gate| gate.open && !gate.policy.held && gate.policy.priority == priority;
        let open = self.gates.get(&id.stream).is_some_and(mine);
        let idle = self.lanes.get(&id).is_none_or(|lane| lane.queue.is_empty());
        if !open || idle {
            return false;
        }
        let first_of_mine = LaneId { stream: id.stream, lane: id.lane & 0xffff_0000 };
        let older = LaneId { stream: id.stream, lane: 0 }..first_of_mine;
        self.lanes.range(older).all(|(_, lane)| lane.is_idle())
    }

    /// When a lane that waits may go on.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Mono> {
        self.next_due
    }

    /// A batch that was to be sent can't be read any more. It is sent as an empty one; its loss, where it is not
    /// in the ledger already, is the caller's to say.
    pub fn handle_unreadable(&mut self, meta: &BatchMeta, loss: Option<Loss>) {
        self.losses.extend(loss);
        if let Some(lane) = self.lanes.get_mut(&meta.lane) {
            self.counts.done_records += u64::from(meta.records);
            lane.make_filler(meta.sequence);
            lane.answered();
            lane.go_back(meta.sequence);
            lane.settle();
        }
        self.inflight_batches = self.inflight_batches.saturating_sub(1);
        self.inflight_bytes = self.inflight_bytes.saturating_sub(u64::from(meta.len));
    }

    /// A batch that was to be sent is not to be sent yet: the spool may give it up.
    pub fn handle_held(&mut self, meta: &BatchMeta, now: Mono) {
        if let Some(lane) = self.lanes.get_mut(&meta.lane) {
            lane.answered();
            lane.go_back(meta.sequence);
            lane.wait_until = lane.wait_until.max(now.plus_millis(HELD_MS));
            lane.settle();
        }
        self.inflight_batches = self.inflight_batches.saturating_sub(1);
        self.inflight_bytes = self.inflight_bytes.saturating_sub(u64::from(meta.len));
    }

    // ---- answers ----

    /// The store has answered.
    pub fn handle_ack(&mut self, ack: &Ack, now: Mono) {
        let id = LaneId { stream: ack.stream, lane: ack.lane };
        let sequence = ack.producer_sequence;
        let Some(lane) = self.lanes.get_mut(&id) else {
            self.counts.odd_answers += 1;
            return;
        };
        let Some(entry) = lane.entry(sequence).filter(|_| lane.outstanding > 0) else {
            self.counts.odd_answers += 1;
            return;
        };
        lane.answered();
        self.inflight_batches = self.inflight_batches.saturating_sub(1);
        self.inflight_bytes = self.inflight_bytes.saturating_sub(u64::from(entry.len));
        match &ack.outcome {
            Outcome::Stored { refused, .. } => {
                self.counts.stored_batches += 1;
                self.counts.stored_records += u64::from(entry.records).saturating_sub(refused.len() as u64);
                self.note_refused(id, sequence, refused);
                self.finish(id, sequence);
            }
            Outcome::Duplicate if !entry.filler && !lane.may_be_stored(sequence) => {
                // It has something else under this number: our spool has lost its newest batches since they were
                // sent, or is a copy. Never silently: it is counted and told.
                self.counts.odd_answers += 1;
                self.lose(id, sequence, "sequence_conflict");
                self.finish(id, sequence);
            }
            Outcome::Duplicate => {
                self.counts.duplicate_batches += 1;
                self.counts.duplicate_records += u64::from(entry.records);
                self.finish(id, sequence);
            }
            Outcome::Throttled { retry_after_ms, .. } => {
                self.counts.throttled += 1;
                self.hold(id, sequence, u64::from(*retry_after_ms), false, now);
            }
            Outcome::Busy { retry_after_ms } => {
                self.hold(id, sequence, u64::from(*retry_after_ms), true, now);
            }
            Outcome::OutOfSequence { expected } => self.out_of_sequence(id, sequence, *expected, now),
            Outcome::Refused(code @ (RefuseCode::NoSuchStream | RefuseCode::Denied)) => {
                // Not this batch is at fault: it stays, and the stream is asked for again.
                self.handle_stream_closed(id.stream);
                let _ = code;
                self.hold(id, sequence, 1000, true, now);
            }
            Outcome::Refused(code) => {
                self.lose(id, sequence, &format!("refused: {}", code.text()));
                self.counts.refused_records += u64::from(entry.records);
                self.finish(id, sequence);
            }
        }
        if let Some(lane) = self.lanes.get_mut(&id) {
            lane.settle();
        }
    }

    fn note_refused(&mut self, id: LaneId, sequence: u64, refused: &[(u32, RefuseCode)]) {
        self.counts.refused_records += refused.len() as u64;
        for (index, code) in refused {
            let name = self.stream_text(id.stream);
            let loss = Loss::new(name, format!("refused: {}", code.text()), 1, 0);
            self.losses.push(Loss { range: format!("{sequence}:{index}..{sequence}:{index}"), ..loss });
        }
    }

    fn lose(&mut self, id: LaneId, sequence: u64, reason: &str) {
        let Some(entry) = self.lanes.get(&id).and_then(|lane| lane.entry(sequence)) else { return };
        if !entry.filler {
            let (records, bytes) = (u64::from(entry.records), u64::from(entry.user_bytes));
            let loss = Loss::new(self.stream_text(id.stream), reason, records, bytes);
            self.losses.push(loss.at(sequence, sequence + 1));
        }
    }

    fn finish(&mut self, id: LaneId, sequence: u64) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        lane.backoff.reset();
        let (before, delivered) = (lane.queue.len(), lane.delivered);
        if let Some(entry) = lane.entry(sequence).filter(|entry| !entry.done) {
            self.counts.done_records += u64::from(entry.records);
        }
        lane.done(sequence);
        self.queued -= before - lane.queue.len();
        if lane.delivered > delivered {
            self.changed.insert(id, lane.delivered);
        }
    }

    /// Back to this batch, after a while. Only this lane waits.
    fn hold(&mut self, id: LaneId, sequence: u64, ms: u64, growing: bool, now: Mono) {
        let jitter = self.rng.below(ms / 8 + 5);
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        // Those behind a refused one are refused with it: one wait for all of them.
        let first = !lane.is_going_back();
        lane.go_back(sequence);
        let mut wait = Duration::from_millis(ms + jitter);
        if growing && first {
            wait += lane.backoff.next_wait();
        }
        lane.wait_until = lane.wait_until.max(now + wait);
    }

    fn out_of_sequence(&mut self, id: LaneId, sequence: u64, expected: u64, now: Mono) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        if lane.is_going_back() {
            lane.go_back(sequence);
            return;
        }
        if expected > sequence {
            // The store is done with this number, and says so in an odd way; or it has something else under it,
            // which only a copied spool can bring about. Never silently: it is counted and told.
            self.counts.odd_answers += 1;
            self.lose(id, sequence, "sequence_conflict");
            self.finish(id, sequence);
            return;
        }
        let front = lane.queue.front().map_or(lane.seen + 1, |entry| entry.sequence);
        if expected < front {
            // The store has forgotten what it had acknowledged: it was replaced, or restored from a copy.
            self.counts.odd_answers += 1;
            let before = lane.queue.len();
            lane.fill_before_front(expected.max(1), FILLERS_MAX);
            self.queued += lane.queue.len() - before;
        }
        self.hold(id, expected, 0, expected == sequence, now);
    }

    /// Something of the spool was lost before it could be known.
    pub fn handle_loss(&mut self, loss: Loss) {
        self.losses.push(loss);
    }

    /// A stream's name, or its key.
    #[must_use]
    pub fn stream_name(&self, stream: StreamKey) -> String {
        self.stream_text(stream)
    }

    fn stream_text(&self, stream: StreamKey) -> String {
        self.gates.get(&stream).map_or_else(|| stream.to_string(), |gate| gate.name.clone())
    }

    // ---- what is done with ----

    /// Everything below this position of the spool is done with.
    #[must_use]
    pub fn mark(&self) -> u64 {
        self.lanes.values().filter_map(LaneQueue::first_position).fold(self.ahead, u64::min)
    }

    /// The lowest position of what was sent and not answered.
    #[must_use]
    pub fn sent_from(&self) -> Option<u64> {
        self.lanes.values().filter_map(LaneQueue::sent_from).min()
    }

    /// What to write into the spool: how far the store has everything, and what it refused. `None` when nothing
    /// changed.
    pub fn poll_delivered(&mut self) -> Option<DeliveredUpdate> {
        let mark = self.mark();
        // Telling moves the spool's end, and so the mark: not for that alone.
        let moved = mark > self.told_mark + MARK_STEP_BYTES;
        if self.changed.is_empty() && self.losses.is_empty() && !moved {
            return None;
        }
        self.told_mark = self.told_mark.max(mark);
        Some(DeliveredUpdate {
            mark: self.told_mark,
            lanes: std::mem::take(&mut self.changed).into_iter().collect(),
            losses: std::mem::take(&mut self.losses),
        })
    }

    /// Counters.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether everything that was read from the spool is done with.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.lanes.values().all(LaneQueue::is_idle)
    }

    /// Batches known in memory: bounded.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Everything of the spool below it was looked at.
    #[must_use]
    pub fn ahead(&self) -> u64 {
        self.ahead
    }
}

fn lanes_of(stream: StreamKey) -> std::ops::RangeInclusive<LaneId> {
    LaneId { stream, lane: 0 }..=LaneId { stream, lane: u32::MAX }
}

#[cfg(test)]
mod tests {
    use protocol::native::message::Ack;

    use super::*;
    use crate::send::policy::Rule;

    fn meta(stream: u64, sequence: u64, len: u32, taken: u64) -> BatchMeta {
        let lane = LaneId { stream: StreamKey(stream), lane: 0 };
        BatchMeta { position: 0, len, lane, sequence, records: 10, user_bytes: len, taken: UnixMs(taken) }
    }

    /// An outbox of streams that may be written to, named `a`, `b`, `c`, by these rules, at 1,000,000 ms.
    fn outbox(rules: &[(&str, Policy)], bytes_per_second_max: Option<u64>) -> Outbox {
        let rule = |(streams, policy): &(&str, Policy)| Rule {
            streams: glob::Pattern::new(streams).unwrap(),
            policy: *policy,
        };
        let mut outbox = Outbox::new(Settings::default(), &State { epoch: 1, ..State::default() }, 1);
        outbox.set_policies(
            Policies::new(rules.iter().map(rule).collect()),
            bytes_per_second_max,
            Mono::ZERO,
        );
        for (key, name) in [(1, "a"), (2, "b"), (3, "c")] {
            outbox.handle_stream_name(StreamKey(key), name);
        }
        outbox.handle_connected(64, 1 << 20);
        for gate in outbox.gates.values_mut() {
            gate.open = true;
        }
        outbox.handle_clock(Mono::ZERO, UnixMs(1_000_000));
        outbox
    }

    fn take(outbox: &mut Outbox, metas: &[BatchMeta]) {
        for meta in metas {
            let position = outbox.ahead;
            let meta = BatchMeta { position, ..*meta };
            outbox.handle_read(Read::Ahead(position), Some(&meta), position + u64::from(meta.len));
        }
    }

    /// What is sent now: stream and number, and whether it is an empty one.
    fn sent(outbox: &mut Outbox, now: Mono) -> Vec<(u64, u64, bool)> {
        let send = |send| match send {
            Send::Batch(meta) => (meta.lane.stream.0, meta.sequence, false),
            Send::Filler { lane, sequence } => (lane.stream.0, sequence, true),
        };
        std::iter::from_fn(|| outbox.poll_send(now)).map(send).collect()
    }

    fn stored(outbox: &mut Outbox, stream: u64, producer_sequence: u64) {
        let outcome = Outcome::Duplicate;
        outbox
            .handle_ack(&Ack { stream: StreamKey(stream), lane: 0, producer_sequence, outcome }, Mono::ZERO);
    }

    #[test]
    fn streams_of_a_higher_priority_go_first_and_a_large_batch_of_theirs_is_not_overtaken() {
        let high = Policy { priority: 9, ..Policy::default() };
        let low = Policy { priority: 0, ..Policy::default() };
        let mut outbox = outbox(&[("c", high), ("a", low)], None);
        let each = |n| [meta(1, n, 100, 1000), meta(2, n, 100, 1000), meta(3, n, 100, 1000)];
        take(&mut outbox, &[each(1), each(2)].concat());
        let order: Vec<u64> = sent(&mut outbox, Mono::ZERO).iter().map(|one| one.0).collect();
        assert_eq!(order, [3, 3, 2, 2, 1, 1]);
        take(&mut outbox, &[meta(1, 3, 100, 1000), meta(3, 3, 2 << 20, 1000)]);
        assert!(
            sent(&mut outbox, Mono::ZERO).is_empty(),
            "the large one waits for room, and the other for it"
        );
        for (stream, sequence) in order.iter().zip([1, 2, 1, 2, 1, 2]) {
            stored(&mut outbox, *stream, sequence);
        }
        assert_eq!(sent(&mut outbox, Mono::ZERO), [(3, 3, false)]);
        stored(&mut outbox, 3, 3);
        assert_eq!(sent(&mut outbox, Mono::ZERO), [(1, 3, false)]);
    }

    #[test]
    fn what_is_kept_back_waits_in_the_spool_until_it_may_go_and_others_do_not_wait_for_it() {
        let mut outbox = outbox(&[("b", Policy { held: true, ..Policy::default() })], None);
        take(
            &mut outbox,
            &[meta(1, 1, 100, 1000), meta(2, 1, 100, 1000), meta(1, 2, 100, 1000), meta(2, 2, 100, 1000)],
        );
        assert_eq!(sent(&mut outbox, Mono::ZERO), [(1, 1, false), (1, 2, false)]);
        stored(&mut outbox, 1, 1);
        stored(&mut outbox, 1, 2);
        assert_eq!(outbox.mark(), 100, "it stays in the spool");
        assert!(outbox.handle_hold(0, false) && !outbox.handle_hold(0, false));
        assert_eq!(sent(&mut outbox, Mono::ZERO), [(2, 1, false), (2, 2, false)]);
    }

    #[test]
    fn what_waited_too_long_is_told_as_lost_and_its_number_is_filled() {
        let short = Policy { ttl_ms: Some(5_000), ..Policy::default() };
        let mut outbox = outbox(&[("a", short)], None);
        let old = 1_000_000 - 5_001;
        take(&mut outbox, &[meta(1, 1, 100, old), meta(1, 2, 100, old + 1), meta(2, 1, 100, 1)]);
        assert_eq!(sent(&mut outbox, Mono::ZERO), [(1, 1, true), (2, 1, false), (1, 2, false)]);
        let told = outbox.poll_delivered().unwrap().losses;
        assert_eq!(
            told.iter().map(|loss| (loss.reason.as_str(), loss.records, loss.bytes)).collect::<Vec<_>>(),
            [("expired", 10, 100)]
        );
        // What was sent and not answered is asked about, however old it has become.
        outbox.handle_clock(Mono::from_millis(60_000), UnixMs(1_060_000));
        outbox.handle_connected(64, 1 << 20);
        outbox.gates.values_mut().for_each(|gate| gate.open = true);
        take(&mut outbox, &[meta(1, 3, 100, 1_000_000)]);
        let again = sent(&mut outbox, Mono::from_millis(60_000));
        assert_eq!(
            again.iter().filter(|one| one.0 == 1).collect::<Vec<_>>(),
            [&(1, 1, true), &(1, 2, false), &(1, 3, true)]
        );
        assert_eq!(outbox.counts().done_records, 20);
    }

    #[test]
    fn no_more_bytes_are_sent_in_a_second_than_may_be_and_what_is_larger_goes_too() {
        let mut outbox = outbox(&[], Some(1000));
        take(&mut outbox, &(1..=40).map(|n| meta(1, n, 250, 1000)).collect::<Vec<_>>());
        let mut counts = Vec::new();
        for second in 0..4 {
            counts.push(sent(&mut outbox, Mono::from_millis(second * 1000)).len());
        }
        assert_eq!(counts, [4, 4, 4, 4]);
        assert_eq!(outbox.poll_timeout(), Some(Mono::from_millis(3_250)));
        take(&mut outbox, &[meta(2, 1, 5000, 1000)]);
        let late: Vec<u64> =
            (4..30).map(|second| sent(&mut outbox, Mono::from_millis(second * 1000)).len() as u64).collect();
        assert_eq!(late.iter().sum::<u64>(), 25, "{late:?}");
        assert!(late.windows(5).any(|five| five[1..] == [0, 0, 0, 0]), "it is paid for afterwards: {late:?}");
    }

    /// Reaches `FILLERS_MAX`.
    #[test]
    fn for_a_store_that_has_forgotten_a_lane_no_more_empty_batches_are_made_at_once_than_may_be() {
        let id = LaneId { stream: StreamKey(7), lane: 0 };
        let made = |delivered: u64| {
            let mut outbox = Outbox::new(Settings::default(), &State::default(), 1);
            outbox.lanes.insert(id, LaneQueue::new(id, delivered, 0, 1));
            outbox.out_of_sequence(id, delivered + 1, 1, Mono::ZERO);
            outbox.queued() as u64
        };
        assert_eq!(made(FILLERS_MAX), FILLERS_MAX);
        assert_eq!(made(FILLERS_MAX + 1), FILLERS_MAX);
    }
}
