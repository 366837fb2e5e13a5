//! Producers: the seam, and a model of one that is small enough to be seen to be right. Pure.
//!
//! A producer has a source (records in a fixed order, that stay there), a spool that survives its own crashes with
//! the place in the source that goes with it, lanes, and one connection at a time.

use std::collections::{BTreeMap, VecDeque};

use protocol::batch::BatchBuilder;
use protocol::bucket::TokenBucket;
use protocol::compress::{Codec, Compressor};
use protocol::frame::Header;
use protocol::name::StreamKey;
use protocol::outcome::{Ack, Outcome};
use protocol::rng::Rng;
use protocol::stream::StreamInfo;
use protocol::time::{Mono, UnixMs};

use super::record::RecordId;
use super::scenario::{Mutant, Scenario};

/// What the world asks of a producer.
pub trait Producer {
    /// By what the store knows it again.
    fn id(&self) -> u128;
    /// How often it has started.
    fn epoch(&self) -> u32;
    /// Takes what it has room for from its source, and makes durable what is due.
    fn pump(&mut self, source: &[RecordId], now: Mono, wall: UnixMs);
    /// A connection is there; the store has told of the stream.
    fn connected(&mut self, stream: &StreamInfo, now: Mono);
    /// The store tells that the stream has other shards.
    fn stream_changed(&mut self, stream: &StreamInfo, now: Mono);
    /// The connection is gone.
    fn disconnected(&mut self, now: Mono);
    /// The next frame to send.
    fn poll_send(&mut self, now: Mono) -> Option<Vec<u8>>;
    /// When there may be more to do, if nothing else happens.
    fn poll_timeout(&self, now: Mono) -> Option<Mono>;
    /// The store has answered.
    fn ack(&mut self, ack: &Ack, now: Mono);
    /// It dies and starts again with what its spool kept; `chance` says how it dies.
    fn crash(&mut self, chance: u64, now: Mono);
    /// All of its source is taken, and the store has or refused all of it.
    fn is_drained(&self, source: &[RecordId]) -> bool;
    /// Bytes in its spool.
    fn spool_bytes(&self) -> u64;
    /// Batches on their way.
    fn inflight(&self) -> u32;
    /// Records in its loss ledger.
    fn lost_records(&self) -> u64;
    /// The answer that named refused records may have been lost, and the store does not name them again.
    fn may_miss_refusals(&self) -> bool {
        false
    }
    /// Something that a right store never does to it.
    fn oddity(&self) -> Option<&str>;
}

/// Records of a batch at most.
const BATCH_RECORDS: usize = 12;

/// Bytes at which open batches are closed.
const BATCH_BYTES: u64 = 4000;

/// How long a record waits for others, in milliseconds.
const LINGER_MS: u64 = 8;

/// How long after an answer the spool knows of it, in milliseconds: a crash in between sends again.
const TELL_MS: u64 = 40;

#[derive(Debug)]
struct Entry {
    sequence: u64,
    frame: Vec<u8>,
    ids: Vec<RecordId>,
    user_bytes: u64,
    done: bool,
}

#[derive(Debug, Default)]
struct Lane {
    /// From the first that the spool does not know to be delivered.
    queue: VecDeque<Entry>,
    next_sequence: u64,
    /// Place in the queue of the next to send.
    next: usize,
    outstanding: u32,
    rewind_to: Option<u64>,
    wait_until: Mono,
}

impl Lane {
    fn place(&self, sequence: u64) -> Option<usize> {
        self.queue.iter().position(|entry| entry.sequence == sequence)
    }

    fn go_back(&mut self, sequence: u64) {
        self.rewind_to = Some(self.rewind_to.map_or(sequence, |to| to.min(sequence)));
    }

    fn settle(&mut self) {
        if self.outstanding == 0
            && let Some(to) = self.rewind_to.take()
        {
            self.next = self.place(to).unwrap_or(0);
        }
    }

    fn reset(&mut self) {
        self.next = 0;
        self.outstanding = 0;
        self.rewind_to = None;
    }
}

struct Open {
    builder: BatchBuilder,
    ids: Vec<RecordId>,
}

/// A little below what one shard takes, so that nothing is ever refused.
struct Pace {
    bytes: TokenBucket,
    records: TokenBucket,
}

/// See the module.
pub struct Model {
    number: u32,
    epoch: u32,
    stream: StreamKey,
    lanes: Vec<Lane>,
    open: BTreeMap<u32, Open>,
    open_since: Option<Mono>,
    open_bytes: u64,
    /// Place in the source: taken, and durably so.
    taken: usize,
    durable: usize,
    told_at: Mono,
    connected: bool,
    pace: Option<Pace>,
    paced_until: Mono,
    lost: u64,
    rng: Rng,
    oddity: Option<String>,
    turn: usize,
    scenario: Scenario,
}

impl Model {
    /// The producer with this number.
    #[must_use]
    pub fn new(number: u32, stream: StreamKey, scenario: &Scenario, rng: Rng) -> Model {
        let lane = || Lane { next_sequence: 1, ..Lane::default() };
        let mut model = Model {
            number,
            epoch: 1,
            stream,
            lanes: (0..scenario.lanes).map(|_| lane()).collect(),
            open: BTreeMap::new(),
            open_since: None,
            open_bytes: 0,
            taken: 0,
            durable: 0,
            told_at: Mono::ZERO,
            connected: false,
            pace: None,
            paced_until: Mono::ZERO,
            lost: 0,
            rng,
            oddity: None,
            turn: 0,
            scenario: scenario.clone(),
        };
        model.fill_pace(Mono::ZERO);
        model
    }

    fn fill_pace(&mut self, now: Mono) {
        let bucket = |rate: u64| TokenBucket::new(rate * 97 / 100, rate * 80 / 100, now);
        let rate = self.scenario.rate.filter(|_| self.scenario.lone);
        self.pace = rate.map(|rate| Pace {
            bytes: bucket(rate.bytes_per_second),
            records: bucket(rate.records_per_second),
        });
    }

    fn has_room(&self, id: RecordId) -> bool {
        let frames = 250 * (self.open.len() as u64 + 1);
        let more = self.open_bytes + id.data_len() as u64 + 60 + frames;
        self.spool_bytes() + more <= self.scenario.spool_bytes_max
    }

    /// Closes all open batches: they are durable, and with them the place in the source.
    fn commit(&mut self, wall: UnixMs) {
        for (lane, mut open) in std::mem::take(&mut self.open) {
            let place = &mut self.lanes[lane as usize];
            let header = Header {
                stream: self.stream,
                lane,
                producer_id: u128::from(self.number) + 1,
                producer_sequence: place.next_sequence,
                producer_time: wall,
                ..Header::default()
            };
            let mut frame = Vec::new();
            let codec = if self.rng.chance(300) { Codec::None } else { Codec::Lz4 };
            let header = open.builder.seal(header, &mut Compressor::new(codec), &mut frame);
            let user_bytes = u64::from(header.user_bytes);
            let sequence = place.next_sequence;
            place.queue.push_back(Entry { sequence, frame, ids: open.ids, user_bytes, done: false });
            place.next_sequence += 1;
        }
        self.durable = self.taken;
        self.open_since = None;
        self.open_bytes = 0;
    }

    /// The spool gets to know what was delivered.
    fn tell(&mut self, now: Mono) {
        if now < self.told_at.plus_millis(TELL_MS) || self.scenario.mutant == Some(Mutant::SpoolAcksDropped) {
            return;
        }
        self.told_at = now;
        for lane in &mut self.lanes {
            while lane.queue.front().is_some_and(|entry| entry.done) {
                lane.queue.pop_front();
                lane.next = lane.next.saturating_sub(1);
            }
        }
    }

    /// The store has a batch, or will never have it. Too long records are in the ledger then, and only then.
    fn finish(&mut self, lane: usize, sequence: u64) {
        let max = self.scenario.record_bytes_max as usize;
        let Some(place) = self.lanes[lane].place(sequence) else { return };
        let entry = &mut self.lanes[lane].queue[place];
        if !std::mem::replace(&mut entry.done, true)
            && self.scenario.mutant != Some(Mutant::RefusedNotCounted)
        {
            self.lost += entry.ids.iter().filter(|id| id.data_len() > max).count() as u64;
        }
    }

    fn odd(&mut self, ack: &Ack) {
        self.oddity.get_or_insert_with(|| format!("producer {} can't make sense of {ack:?}", self.number));
    }

    fn take_turn(&mut self, now: Mono) -> Option<usize> {
        let count = self.lanes.len();
        let pace = &mut self.pace;
        for step in 0..count {
            let at = (self.turn + step) % count;
            let lane = &mut self.lanes[at];
            while lane.queue.get(lane.next).is_some_and(|entry| entry.done) {
                lane.next += 1;
            }
            if lane.rewind_to.is_some() || now < lane.wait_until {
                continue;
            }
            let Some(entry) = lane.queue.get(lane.next) else { continue };
            if let Some(pace) = pace {
                let records = entry.ids.len() as u64;
                let wait = pace.bytes.wait_for(entry.user_bytes, now);
                let wait = wait.max(pace.records.wait_for(records, now));
                if !wait.is_zero() {
                    self.paced_until = now + wait;
                    continue;
                }
                pace.bytes.take(entry.user_bytes, now);
                pace.records.take(records, now);
            }
            self.turn = at + 1;
            return Some(at);
        }
        None
    }
}

impl Producer for Model {
    fn id(&self) -> u128 {
        u128::from(self.number) + 1
    }

    fn epoch(&self) -> u32 {
        self.epoch
    }

    fn pump(&mut self, source: &[RecordId], now: Mono, wall: UnixMs) {
        self.tell(now);
        while let Some(id) = source.get(self.taken).copied().filter(|id| self.has_room(*id)) {
            let lane = id.key % self.scenario.lanes;
            let open = self
                .open
                .entry(lane)
                .or_insert_with(|| Open { builder: BatchBuilder::new(), ids: Vec::new() });
            if let Ok(key) = open.builder.key(&id.partition_key(), None) {
                open.builder.push(key, wall, &id.data());
            }
            open.ids.push(id);
            self.taken += 1;
            self.open_bytes += id.data_len() as u64 + 60;
            let full = open.ids.len() >= BATCH_RECORDS || self.open_bytes > BATCH_BYTES;
            self.open_since.get_or_insert(now);
            if full {
                self.commit(wall);
            }
        }
        if self.open_since.is_some_and(|since| now >= since.plus_millis(LINGER_MS)) {
            self.commit(wall);
        }
    }

    fn connected(&mut self, _stream: &StreamInfo, _now: Mono) {
        self.lanes.iter_mut().for_each(Lane::reset);
        self.connected = true;
    }

    fn stream_changed(&mut self, _stream: &StreamInfo, _now: Mono) {}

    fn disconnected(&mut self, _now: Mono) {
        self.lanes.iter_mut().for_each(Lane::reset);
        self.connected = false;
    }

    fn poll_send(&mut self, now: Mono) -> Option<Vec<u8>> {
        if !self.connected || self.inflight() >= self.scenario.inflight_max {
            return None;
        }
        let at = self.take_turn(now)?;
        let lane = &mut self.lanes[at];
        let entry = &mut lane.queue[lane.next];
        if self.scenario.mutant == Some(Mutant::DeliveredOnSend) {
            entry.done = true;
        }
        let frame = entry.frame.clone();
        lane.next += 1;
        lane.outstanding += 1;
        Some(frame)
    }

    fn poll_timeout(&self, now: Mono) -> Option<Mono> {
        let may_send = self.connected && self.inflight() < self.scenario.inflight_max;
        let ready = |lane: &&Lane| may_send && lane.rewind_to.is_none() && lane.next < lane.queue.len();
        let waits = self.lanes.iter().filter(ready).map(|lane| lane.wait_until.max(self.paced_until));
        let waits = waits.filter(|due| *due > now);
        let linger = self.open_since.map(|since| since.plus_millis(LINGER_MS));
        let told = self.lanes.iter().any(|lane| lane.queue.front().is_some_and(|entry| entry.done));
        let tell = told.then(|| self.told_at.plus_millis(TELL_MS));
        waits.chain(linger).chain(tell).min()
    }

    fn ack(&mut self, ack: &Ack, now: Mono) {
        let at = ack.lane as usize;
        let sequence = ack.producer_sequence;
        if self.lanes.get(at).is_none_or(|lane| lane.place(sequence).is_none()) {
            // Of a connection before: the spool is done with it.
            return;
        }
        let jitter = self.rng.below(10);
        let lane = &mut self.lanes[at];
        lane.outstanding = lane.outstanding.saturating_sub(1);
        match &ack.outcome {
            Outcome::Stored { .. } | Outcome::Duplicate => self.finish(at, sequence),
            Outcome::Throttled { retry_after_ms, .. } | Outcome::Busy { retry_after_ms } => {
                lane.go_back(sequence);
                let wait = u64::from(*retry_after_ms) + jitter;
                lane.wait_until = lane.wait_until.max(now.plus_millis(wait));
            }
            Outcome::OutOfSequence { expected } => {
                let first = lane.queue.iter().find(|entry| !entry.done).map_or(0, |entry| entry.sequence);
                lane.go_back(*expected.min(&sequence));
                if *expected < first || *expected > sequence {
                    self.odd(ack);
                }
            }
            Outcome::Refused(code) => match code {
                protocol::outcome::RefuseCode::RecordTooLarge => self.finish(at, sequence),
                _ => self.odd(ack),
            },
        }
        self.lanes[at].settle();
    }

    fn crash(&mut self, _chance: u64, now: Mono) {
        self.tell(now);
        let max = self.scenario.record_bytes_max as usize;
        if self.scenario.mutant == Some(Mutant::SpoolForgets) {
            self.lanes.iter_mut().for_each(|lane| drop(lane.queue.pop_back()));
        }
        for lane in &mut self.lanes {
            lane.reset();
            for entry in lane.queue.iter_mut().filter(|entry| entry.done) {
                // The ledger is as durable as the mark: both are lost.
                entry.done = false;
                let again = entry.ids.iter().filter(|id| id.data_len() > max).count() as u64;
                self.lost = self.lost.saturating_sub(again);
            }
        }
        self.epoch += 1;
        self.connected = false;
        self.taken = self.durable;
        self.open.clear();
        self.open_since = None;
        self.open_bytes = 0;
        self.fill_pace(now);
        if let (Some(pace), Some(rate)) = (&mut self.pace, self.scenario.rate) {
            // It can't know what it sent before.
            pace.bytes.take(rate.bytes_per_second * 80 / 100, now);
            pace.records.take(rate.records_per_second * 80 / 100, now);
        }
    }

    fn is_drained(&self, source: &[RecordId]) -> bool {
        self.durable == source.len() && self.lanes.iter().all(|lane| lane.queue.is_empty())
    }

    fn spool_bytes(&self) -> u64 {
        self.lanes.iter().flat_map(|lane| &lane.queue).map(|entry| entry.frame.len() as u64).sum()
    }

    fn inflight(&self) -> u32 {
        self.lanes.iter().map(|lane| lane.outstanding).sum()
    }

    fn lost_records(&self) -> u64 {
        self.lost
    }

    fn oddity(&self) -> Option<&str> {
        self.oddity.as_deref()
    }
}
