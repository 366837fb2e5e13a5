//! Decides what becomes of a batch: duplicate, out of sequence, throttled, or stored, where and under which
//! numbers; and how shards split and merge. Pure: `now` is a value, nothing is written here. The simulator
//! runs this very file.
//!
//! Invariants:
//! 1. Sequence numbers and batch numbers of a shard have no gaps; a child starts after all of its parents.
//! 2. A batch of a producer's lane is stored only when it is the next of the lane; so a lane's order is kept
//!    whatever the network does, and nothing is stored twice.
//! 3. A batch is stored as a whole (its refused records apart) or not at all.

use std::collections::BTreeMap;

use bytes::Bytes;
use protocol::batch::{Batch, BatchBuilder, Record};
use protocol::bucket::{ShardBucket, ShardRate};
use protocol::compress::{Codec, Compressor};
use protocol::frame::{HEADER_BYTES, Header, Kind};
use protocol::hash::{HashKey, HashKeyRange};
use protocol::limit;
use protocol::outcome::{Outcome, RefuseCode, Stored};
use protocol::sequence::ShardId;
use protocol::time::{Mono, UnixMs};

use super::group::Group;
use super::state::{Shard, StreamState};

mod load;
mod records;

pub use load::{Load, Sample};
pub use records::{NewRecord, Placed};

/// A child is at least so much younger than its parents, in milliseconds: names of records grow with a shard's age, and
/// some say it in seconds.
const CHILD_YOUNGER_MS: u64 = 1000;

/// What of a stream's settings the sequencer needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// What a shard takes in a second; `None` for no limit.
    pub shard_rate: Option<ShardRate>,
    /// Longest record data, in bytes.
    pub record_bytes_max: usize,
    /// Whether it is to be known what the shards are asked to take.
    pub observe: bool,
}

/// What to answer, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Now: nothing was put into the group.
    Now(Outcome),
    /// When the group is durable.
    WhenDurable(Outcome),
}

/// Now, by both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For throttles.
    pub mono: Mono,
    /// For arrival times.
    pub wall: UnixMs,
}

/// Why shards can't be split or merged so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReshardError {
    /// It is not there.
    #[error("there is no {0}")]
    NoShard(ShardId),
    /// It takes no more records.
    #[error("{0} is closed: only open shards can be split or merged")]
    Closed(ShardId),
    /// The two have no common border.
    #[error("{0} and {1} are not neighbours in the key space")]
    NotAdjacent(ShardId, ShardId),
    /// One half would be empty.
    #[error("hash key {at} does not divide {shard}, which holds {} to {}", range.start, range.end)]
    BadCut {
        /// Which shard.
        shard: ShardId,
        /// Where it was to be cut.
        at: HashKey,
        /// What it holds.
        range: HashKeyRange,
    },
    /// There are too many.
    #[error("a stream has at most {} open shards", limit::STREAM_SHARDS_MAX)]
    TooMany,
}

/// The deciding part of a stream.
#[derive(Debug)]
pub struct Sequencer {
    state: StreamState,
    rules: Rules,
    buckets: BTreeMap<ShardId, ShardBucket>,
    /// Open shards by the first hash key of their range.
    open: Vec<(HashKey, ShardId)>,
    builder: BatchBuilder,
    scratch: Vec<u8>,
    /// Of the batch in hand: the shard of each of its keys.
    routes: Vec<ShardId>,
    /// Since they were last taken; empty where nobody observes.
    loads: BTreeMap<ShardId, Load>,
}

/// A batch that the store itself has sealed, of records that all have the same partition key.
#[derive(Debug, Clone, Copy)]
pub struct Plain<'a> {
    /// Its header.
    pub header: &'a Header,
    /// The key.
    pub key: &'a str,
    /// The longest of its records.
    pub record_bytes_max: usize,
    /// What comes behind the header.
    pub payload: &'a [Bytes],
}

/// What a batch would put into one shard.
#[derive(Debug, Clone, Copy, Default)]
struct Share {
    bytes: u64,
    records: u64,
}

impl Sequencer {
    /// Goes on from a state.
    #[must_use]
    pub fn new(state: StreamState, rules: Rules) -> Sequencer {
        Sequencer {
            open: by_start(&state),
            state,
            rules,
            buckets: BTreeMap::new(),
            builder: BatchBuilder::new(),
            scratch: Vec::new(),
            routes: Vec::new(),
            loads: BTreeMap::new(),
        }
    }

    /// All it knows.
    #[must_use]
    pub fn state(&self) -> &StreamState {
        &self.state
    }

    /// Settings changed.
    pub fn set_rules(&mut self, rules: Rules) {
        if rules.shard_rate != self.rules.shard_rate {
            self.buckets.clear();
        }
        if !rules.observe {
            self.loads.clear();
        }
        self.rules = rules;
    }

    /// What the shards were asked to take since this was last asked.
    pub fn take_loads(&mut self) -> BTreeMap<ShardId, Load> {
        std::mem::take(&mut self.loads)
    }

    /// A shard turned something away.
    fn observe_throttled(&mut self, shard: ShardId) {
        if self.rules.observe {
            self.loads.entry(shard).or_default().throttled += 1;
        }
    }

    /// What a batch puts into its shards. Its keys share its weight evenly.
    fn observe_batch(&mut self, batch: &Batch, shares: &BTreeMap<ShardId, Share>) {
        if !self.rules.observe {
            return;
        }
        for (id, share) in shares {
            let load = self.loads.entry(*id).or_default();
            load.stored(share.bytes, share.records);
            let mine = self.routes.iter().filter(|shard| *shard == id).count().max(1) as u64;
            let weight = (share.bytes + share.records * load::RECORD_WEIGHT) / mine;
            for ((key, explicit), _) in batch.keys().zip(&self.routes).filter(|(_, shard)| *shard == id) {
                load.sample.add(explicit.unwrap_or_else(|| HashKey::of_partition_key(key)), weight);
            }
        }
    }

    /// Decides about a batch that was opened and found good; puts what is stored into `group`.
    /// `epoch` is how often the producer of this connection had started.
    pub fn handle_batch<W>(
        &mut self,
        header: &Header,
        payload: &[u8],
        batch: &Batch,
        epoch: u32,
        now: Now,
        group: &mut Group<W>,
    ) -> Decision {
        if let Some(decision) = self.check_lane(header, epoch, now) {
            return decision;
        }
        let refused = self.too_large(header, batch);
        if refused.len() == batch.record_count() as usize {
            return self.put_nothing(header, refused, epoch, now, group);
        }
        let shares = self.share_out(header, batch, &refused);
        if let Some(throttled) = self.check_rate(&shares, now) {
            if let Outcome::Throttled { shard, .. } = throttled {
                self.observe_throttled(shard);
            }
            return Decision::Now(throttled);
        }
        self.observe_batch(batch, &shares);
        self.lane_done(header, epoch, now);
        let header = &Header { producer_epoch: epoch, ..*header };
        let parts = match shares.first_key_value() {
            Some((shard, _)) if shares.len() == 1 && refused.is_empty() => {
                vec![self.put_whole(*shard, header, payload, now, group)]
            }
            _ => self.put_parts(header, batch, &refused, now, group),
        };
        Decision::WhenDurable(Outcome::Stored { parts, refused })
    }

    /// Decides about a batch of one partition key that is nobody's in particular; its payload is not copied.
    pub fn handle_plain<W>(&mut self, batch: &Plain<'_>, now: Now, group: &mut Group<W>) -> Decision {
        let Plain { header, key, record_bytes_max, payload } = batch;
        if *record_bytes_max > self.rules.record_bytes_max {
            return Decision::Now(Outcome::Refused(RefuseCode::RecordTooLarge));
        }
        let hash = HashKey::of_partition_key(key);
        let shard = self.route(hash);
        let share = Share { bytes: u64::from(header.user_bytes), records: u64::from(header.record_count) };
        if let Some(throttled) = self.check_rate(&BTreeMap::from([(shard, share)]), now) {
            self.observe_throttled(shard);
            return Decision::Now(throttled);
        }
        if self.rules.observe {
            let load = self.loads.entry(shard).or_default();
            load.stored(share.bytes, share.records);
            load.sample.add(hash, share.bytes + share.records * load::RECORD_WEIGHT);
        }
        let header = self.number(shard, Header { producer_id: 0, continues: false, ..**header }, now);
        group.put_pieces(header, payload);
        let Header { first_sequence, record_count, .. } = header;
        let parts = vec![Stored { shard, first_sequence, record_count }];
        Decision::WhenDurable(Outcome::Stored { parts, refused: Vec::new() })
    }

    /// A batch is answered `Busy` without having been looked at. Where its lane is new, it is the lane's first: what
    /// comes behind it must not be taken for that, or it would be a duplicate when it is sent again.
    pub fn turn_away(&mut self, header: &Header, epoch: u32, now: Now) {
        let key = (header.producer_id, header.lane);
        if header.producer_id != 0 && !self.state.lanes.contains_key(&key) {
            self.state.advance_lane(key.0, key.1, epoch, header.producer_sequence, now.wall);
        }
    }

    fn check_lane(&mut self, header: &Header, epoch: u32, now: Now) -> Option<Decision> {
        if header.producer_id == 0 {
            return None;
        }
        let key = (header.producer_id, header.lane);
        let Some(lane) = self.state.lanes.get(&key) else {
            // Never heard of, or forgotten long ago: a connection begins with the first that is not stored.
            self.state.advance_lane(key.0, key.1, epoch, header.producer_sequence, now.wall);
            return None;
        };
        if epoch < lane.epoch {
            return Some(Decision::Now(Outcome::Refused(RefuseCode::Denied)));
        }
        match header.producer_sequence.cmp(&lane.expected) {
            std::cmp::Ordering::Less => Some(Decision::WhenDurable(Outcome::Duplicate)),
            std::cmp::Ordering::Greater => {
                Some(Decision::Now(Outcome::OutOfSequence { expected: lane.expected }))
            }
            std::cmp::Ordering::Equal => None,
        }
    }

    fn lane_done(&mut self, header: &Header, epoch: u32, now: Now) {
        if header.producer_id != 0 {
            let next = header.producer_sequence + 1;
            self.state.advance_lane(header.producer_id, header.lane, epoch, next, now.wall);
        }
    }

    fn too_large(&self, header: &Header, batch: &Batch) -> Vec<(u32, RefuseCode)> {
        if header.user_bytes as usize <= self.rules.record_bytes_max {
            return Vec::new();
        }
        let too_large = batch.records().filter(|r| r.data.len() > self.rules.record_bytes_max);
        too_large.map(|r| (r.index, RefuseCode::RecordTooLarge)).collect()
    }

    fn route(&self, key: HashKey) -> ShardId {
        let place = self.open.partition_point(|(start, _)| *start <= key);
        self.open[place.saturating_sub(1)].1
    }

    /// Fills `routes` and counts what each shard gets.
    fn share_out(
        &mut self,
        header: &Header,
        batch: &Batch,
        refused: &[(u32, RefuseCode)],
    ) -> BTreeMap<ShardId, Share> {
        self.routes.clear();
        for (key, explicit) in batch.keys() {
            let shard = self.route(explicit.unwrap_or_else(|| HashKey::of_partition_key(key)));
            self.routes.push(shard);
        }
        let first = self.routes[0];
        let mut shares = BTreeMap::<ShardId, Share>::new();
        if refused.is_empty() && self.routes.iter().all(|shard| *shard == first) {
            let whole =
                Share { bytes: u64::from(header.user_bytes), records: u64::from(header.record_count) };
            shares.insert(first, whole);
            return shares;
        }
        for record in batch.records() {
            if refused.binary_search_by_key(&record.index, |(index, _)| *index).is_err() {
                let share = shares.entry(self.routes[record.key_index as usize]).or_default();
                share.bytes += record.user_bytes() as u64;
                share.records += 1;
            }
        }
        shares
    }

    fn check_rate(&mut self, shares: &BTreeMap<ShardId, Share>, now: Now) -> Option<Outcome> {
        let rate = self.rules.shard_rate?;
        let mut worst = None;
        for (shard, share) in shares {
            let bucket = self.buckets.entry(*shard).or_insert_with(|| ShardBucket::new(rate, now.mono));
            let wait = bucket.wait_for(share.bytes, share.records, now.mono);
            if !wait.is_zero() && worst.is_none_or(|(_, longest)| wait > longest) {
                worst = Some((*shard, wait));
            }
        }
        if let Some((shard, wait)) = worst {
            let retry_after_ms = u32::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(u32::MAX);
            return Some(Outcome::Throttled { retry_after_ms, shard });
        }
        for (shard, share) in shares {
            if let Some(bucket) = self.buckets.get_mut(shard) {
                bucket.take(share.bytes, share.records, now.mono);
            }
        }
        None
    }

    /// No record of the batch can be stored, or its producer has lost them and says so. An empty batch takes its
    /// place in the log, so that the lane goes on after it, whatever crashes.
    fn put_nothing<W>(
        &mut self,
        header: &Header,
        refused: Vec<(u32, RefuseCode)>,
        epoch: u32,
        now: Now,
        group: &mut Group<W>,
    ) -> Decision {
        let outcome = match refused.first() {
            Some((_, code)) => Outcome::Refused(*code),
            None => Outcome::Stored { parts: Vec::new(), refused },
        };
        if header.producer_id == 0 {
            return Decision::Now(outcome);
        }
        self.lane_done(header, epoch, now);
        self.scratch.clear();
        let header = Header { producer_epoch: epoch, continues: false, ..*header };
        let sealed = self.builder.seal(header, &mut Compressor::new(Codec::None), &mut self.scratch);
        let sealed = self.number(self.open[0].1, sealed, now);
        group.put(sealed, &self.scratch[HEADER_BYTES..]);
        Decision::WhenDurable(outcome)
    }

    /// The batch goes to one shard as it is: only its header is written anew.
    fn put_whole<W>(
        &mut self,
        id: ShardId,
        header: &Header,
        payload: &[u8],
        now: Now,
        group: &mut Group<W>,
    ) -> Stored {
        let header = self.number(id, Header { continues: false, ..*header }, now);
        group.put(header, payload);
        Stored { shard: id, first_sequence: header.first_sequence, record_count: header.record_count }
    }

    /// The batch straddles shards, or some of it is refused: it is made anew, one part a shard.
    fn put_parts<W>(
        &mut self,
        header: &Header,
        batch: &Batch,
        refused: &[(u32, RefuseCode)],
        now: Now,
        group: &mut Group<W>,
    ) -> Vec<Stored> {
        let is_stored = |index| refused.binary_search_by_key(&index, |(index, _)| *index).is_err();
        let records = batch.records().filter(|record| is_stored(record.index));
        let mut records: Vec<(ShardId, Record<'_>)> =
            records.map(|record| (self.routes[record.key_index as usize], record)).collect();
        // A shard's records stay in their order.
        records.sort_by_key(|(shard, _)| *shard);
        let mut parts = records.chunk_by(|(one, _), (other, _)| one == other).peekable();
        let (mut stored, mut compressor) = (Vec::new(), Compressor::new(header.codec));
        while let Some(part) = parts.next() {
            let id = part[0].0;
            for (_, record) in part {
                // The key was checked when the batch was opened.
                if let Ok(key) = self.builder.key(record.partition_key, record.explicit_hash_key) {
                    self.builder.push(key, record.time, record.data);
                }
            }
            self.scratch.clear();
            let sealed = self.builder.seal(*header, &mut compressor, &mut self.scratch);
            let sealed = self.number(id, Header { continues: parts.peek().is_some(), ..sealed }, now);
            group.put(sealed, &self.scratch[HEADER_BYTES..]);
            stored.push(Stored {
                shard: id,
                first_sequence: sealed.first_sequence,
                record_count: sealed.record_count,
            });
        }
        stored
    }

    fn number(&mut self, id: ShardId, header: Header, now: Now) -> Header {
        let Some(shard) = self.state.shards.get_mut(&id) else { return header };
        let header = Header {
            shard: id,
            batch_no: shard.next_batch,
            first_sequence: shard.next,
            arrival: now.wall,
            ..header
        };
        shard.next = header.end_sequence();
        shard.next_batch += 1;
        header
    }

    fn open_shard(&self, id: ShardId) -> Result<&Shard, ReshardError> {
        let shard = self.state.shards.get(&id).ok_or(ReshardError::NoShard(id))?;
        if shard.closed.is_some() { Err(ReshardError::Closed(id)) } else { Ok(shard) }
    }

    /// Divides a shard at the first hash key of the upper child (the middle where none is said). Puts the new
    /// shard map into `group`: it holds from there on.
    ///
    /// # Errors
    /// When there is no such open shard, or it can't be cut there.
    pub fn split<W>(
        &mut self,
        id: ShardId,
        at: Option<HashKey>,
        now: Now,
        group: &mut Group<W>,
    ) -> Result<(), ReshardError> {
        let range = self.open_shard(id)?.range;
        if self.state.open_shards().count() >= limit::STREAM_SHARDS_MAX {
            return Err(ReshardError::TooMany);
        }
        let at = at.or_else(|| range.middle()).unwrap_or(range.end);
        let (low, high) = range.split_at(at).ok_or(ReshardError::BadCut { shard: id, at, range })?;
        self.replace(&[id], &[low, high], now, group);
        Ok(())
    }

    /// Makes one shard of two neighbours. Puts the new shard map into `group`: it holds from there on.
    ///
    /// # Errors
    /// When one of them is not there or not open, or they are no neighbours.
    pub fn merge<W>(
        &mut self,
        a: ShardId,
        b: ShardId,
        now: Now,
        group: &mut Group<W>,
    ) -> Result<(), ReshardError> {
        let joined = self.open_shard(a)?.range.join(&self.open_shard(b)?.range);
        let range = joined.ok_or(ReshardError::NotAdjacent(a, b))?;
        self.replace(&[a, b], &[range], now, group);
        Ok(())
    }

    fn replace<W>(&mut self, parents: &[ShardId], ranges: &[HashKeyRange], now: Now, group: &mut Group<W>) {
        let mut first = protocol::sequence::SequenceNumber(0);
        let mut created = now.wall;
        for parent in parents {
            if let Some(shard) = self.state.shards.get_mut(parent) {
                created = created.max(UnixMs(shard.created.0.saturating_add(CHILD_YOUNGER_MS)));
                shard.closed = Some(now.wall);
                first = first.max(shard.next);
            }
            self.buckets.remove(parent);
        }
        for range in ranges {
            let id = ShardId(self.state.next_shard);
            self.state.next_shard += 1;
            self.state.shards.insert(id, Shard::new(*range, parents.to_vec(), first, created));
        }
        self.state.map_version += 1;
        self.open = by_start(&self.state);
        let mut payload = Vec::new();
        self.state.encode_shards(&mut payload);
        put_control(Kind::Reshard, &payload, now, group);
    }

    /// Forgets closed shards whose last record is gone. They are still named as parents.
    pub fn forget_expired(&mut self, is_gone: impl Fn(ShardId, &Shard) -> bool) -> bool {
        let before = self.state.shards.len();
        self.state.shards.retain(|id, shard| shard.closed.is_none() || !is_gone(*id, shard));
        let changed = self.state.shards.len() != before;
        self.state.map_version += u64::from(changed);
        changed
    }

    /// The frame that the next segment starts with.
    #[must_use]
    pub fn head_frame(&self, now: UnixMs, durable_below: u64) -> Vec<u8> {
        let (mut payload, mut out) = (Vec::new(), Vec::new());
        self.state.encode(&mut payload);
        let header = Header { kind: Kind::StreamState, arrival: now, durable_below, ..Header::default() };
        protocol::frame::put_control(header, &payload, &mut out);
        out
    }
}

fn by_start(state: &StreamState) -> Vec<(HashKey, ShardId)> {
    let mut open: Vec<_> = state.open_shards().map(|(id, shard)| (shard.range.start, id)).collect();
    open.sort_unstable();
    open
}

fn put_control<W>(kind: Kind, payload: &[u8], now: Now, group: &mut Group<W>) {
    let mut bytes = Vec::new();
    protocol::frame::put_control(
        Header { kind, arrival: now.wall, ..Header::default() },
        payload,
        &mut bytes,
    );
    if let Ok(header) = Header::parse(&bytes) {
        group.put(header, payload);
    }
}
