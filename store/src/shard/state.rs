//! What a stream knows: its shards and its producers' lanes, and how that is written at the head of every
//! segment of its log. Pure: no clock, no files; the same bytes are the same state.
//!
//! The head of a segment is a frame of kind `StreamState` with this payload (varints unless said otherwise):
//!
//! ```text
//! format (1)   map version   next shard id
//! shard count  x: id, start u128, end u128, parent count, parents, created ms, first sequence, next sequence,
//!                 next batch number, closed at ms + 1 (0: open)
//! lane count   x: producer u128, lane, epoch, next producer sequence, last seen ms
//! ```
//!
//! A `Reshard` frame has the same payload, without lanes: it replaces the shards.

use std::collections::BTreeMap;

use protocol::bytes::{BytesError, Cursor, put_varint};
use protocol::frame::Header;
use protocol::hash::{HashKey, HashKeyRange};
use protocol::sequence::{SequenceNumber, ShardId};
use protocol::time::UnixMs;

/// The only format so far.
const FORMAT: u64 = 1;

/// A stream remembers at most this many lanes of producers; the one unseen for longest is forgotten first.
pub const LANES_MAX: usize = 200_000;

/// One shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// Its part of the key space.
    pub range: HashKeyRange,
    /// The shards that it came from.
    pub parents: Vec<ShardId>,
    /// When it was made.
    pub created: UnixMs,
    /// Its first sequence number, whether still readable or not.
    pub first: SequenceNumber,
    /// The sequence number that the next record gets.
    pub next: SequenceNumber,
    /// The number that the next batch gets.
    pub next_batch: u64,
    /// When it was closed by a split or a merge.
    pub closed: Option<UnixMs>,
}

/// One lane of one producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lane {
    /// Highest epoch seen.
    pub epoch: u32,
    /// The producer sequence that comes next.
    pub expected: u64,
    /// When it was last heard of, by the store's clock.
    pub seen: UnixMs,
}

/// Producer and lane.
pub type LaneKey = (u128, u32);

/// All that a stream knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamState {
    /// Grows with every split and merge.
    pub map_version: u64,
    /// The id that the next shard gets.
    pub next_shard: u32,
    /// All shards that may still have records, by id.
    pub shards: BTreeMap<ShardId, Shard>,
    /// All lanes that are remembered.
    pub lanes: BTreeMap<LaneKey, Lane>,
}

/// Why a state can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// It ends too early.
    #[error("stream state {0}")]
    Bytes(#[from] BytesError),
    /// Made by a newer program.
    #[error("stream state has format {0}; this program reads format {FORMAT}: it is older than the data")]
    Format(u64),
    /// A number is out of its range.
    #[error("stream state: {what} is {value}")]
    Value {
        /// Which.
        what: &'static str,
        /// What it is.
        value: u64,
    },
    /// A frame of the log does not fit the state before it.
    #[error("batch {batch_no} at sequence {first} in shard {shard}, where {next} was expected")]
    Gap {
        /// In which shard.
        shard: ShardId,
        /// Number of the batch.
        batch_no: u64,
        /// Where it starts.
        first: SequenceNumber,
        /// Where it should start.
        next: SequenceNumber,
    },
}

impl StreamState {
    /// A stream with `count` even shards.
    #[must_use]
    pub fn new(count: u32, now: UnixMs) -> StreamState {
        let shards = HashKeyRange::split_evenly(count).into_iter().zip(0..);
        let shards =
            shards.map(|(range, id)| (ShardId(id), Shard::new(range, Vec::new(), SequenceNumber(0), now)));
        StreamState {
            map_version: 1,
            next_shard: count.max(1),
            shards: shards.collect(),
            lanes: BTreeMap::new(),
        }
    }

    /// Shards that take records.
    pub fn open_shards(&self) -> impl Iterator<Item = (ShardId, &Shard)> {
        self.shards.iter().filter(|(_, s)| s.closed.is_none()).map(|(id, s)| (*id, s))
    }

    /// Appends the payload of a `StreamState` frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.encode_shards(out);
        put_varint(out, self.lanes.len() as u64);
        for ((producer, lane), state) in &self.lanes {
            out.extend_from_slice(&producer.to_le_bytes());
            for value in [u64::from(*lane), u64::from(state.epoch), state.expected, state.seen.0] {
                put_varint(out, value);
            }
        }
    }

    /// Appends the payload of a `Reshard` frame.
    pub fn encode_shards(&self, out: &mut Vec<u8>) {
        for value in [FORMAT, self.map_version, u64::from(self.next_shard), self.shards.len() as u64] {
            put_varint(out, value);
        }
        for (id, shard) in &self.shards {
            put_varint(out, u64::from(id.0));
            out.extend_from_slice(&shard.range.start.0.to_le_bytes());
            out.extend_from_slice(&shard.range.end.0.to_le_bytes());
            put_varint(out, shard.parents.len() as u64);
            shard.parents.iter().for_each(|parent| put_varint(out, u64::from(parent.0)));
            let closed = shard.closed.map_or(0, |at| at.0 + 1);
            for value in [shard.created.0, shard.first.0, shard.next.0, shard.next_batch, closed] {
                put_varint(out, value);
            }
        }
    }

    /// Reads the payload of a `StreamState` frame.
    ///
    /// # Errors
    /// When it ends too early, is of another format, or has a number out of range.
    pub fn decode(bytes: &[u8]) -> Result<StreamState, StateError> {
        let mut cursor = Cursor::new(bytes);
        let mut state = decode_shards(&mut cursor)?;
        for _ in 0..cursor.varint()? {
            let producer = cursor.u128()?;
            let lane = narrow("lane", cursor.varint()?)?;
            let epoch = narrow("epoch", cursor.varint()?)?;
            let (expected, seen) = (cursor.varint()?, UnixMs(cursor.varint()?));
            state.lanes.insert((producer, lane), Lane { epoch, expected, seen });
        }
        Ok(state)
    }

    /// Puts the shards of a `Reshard` frame in the place of its own.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn apply_reshard(&mut self, payload: &[u8]) -> Result<(), StateError> {
        let new = decode_shards(&mut Cursor::new(payload))?;
        *self = StreamState { lanes: std::mem::take(&mut self.lanes), ..new };
        Ok(())
    }

    /// Counts a data frame that the log has. Gaps are told, and counted over: what is readable stays so.
    ///
    /// # Errors
    /// When it does not follow on what was before.
    pub fn apply_data(&mut self, header: &Header) -> Result<(), StateError> {
        if header.producer_id != 0 && !header.continues {
            self.advance_lane(
                header.producer_id,
                header.lane,
                header.producer_epoch,
                header.producer_sequence + 1,
                header.arrival,
            );
        }
        let Some(shard) = self.shards.get_mut(&header.shard) else {
            return Err(StateError::Value { what: "shard of a batch", value: u64::from(header.shard.0) });
        };
        let fits = shard.next == header.first_sequence && shard.next_batch == header.batch_no;
        let gap = StateError::Gap {
            shard: header.shard,
            batch_no: header.batch_no,
            first: header.first_sequence,
            next: shard.next,
        };
        shard.next = shard.next.max(header.end_sequence());
        shard.next_batch = shard.next_batch.max(header.batch_no + 1);
        if fits { Ok(()) } else { Err(gap) }
    }

    /// Remembers how far a lane is.
    pub fn advance_lane(&mut self, producer: u128, lane: u32, epoch: u32, expected: u64, now: UnixMs) {
        let key = (producer, lane);
        if !self.lanes.contains_key(&key) && self.lanes.len() >= LANES_MAX {
            self.forget_oldest_lane();
        }
        let entry = self.lanes.entry(key).or_insert(Lane { epoch, expected, seen: now });
        *entry = Lane { epoch: entry.epoch.max(epoch), expected: entry.expected.max(expected), seen: now };
    }

    fn forget_oldest_lane(&mut self) {
        if let Some(key) = self.lanes.iter().min_by_key(|(_, lane)| lane.seen).map(|(key, _)| *key) {
            self.lanes.remove(&key);
        }
    }
}

impl Shard {
    /// An open shard without records.
    #[must_use]
    pub fn new(range: HashKeyRange, parents: Vec<ShardId>, first: SequenceNumber, now: UnixMs) -> Shard {
        Shard { range, parents, created: now, first, next: first, next_batch: 0, closed: None }
    }
}

fn narrow(what: &'static str, value: u64) -> Result<u32, StateError> {
    u32::try_from(value).map_err(|_| StateError::Value { what, value })
}

fn decode_shards(cursor: &mut Cursor<'_>) -> Result<StreamState, StateError> {
    match cursor.varint()? {
        FORMAT => {}
        other => return Err(StateError::Format(other)),
    }
    let map_version = cursor.varint()?;
    let next_shard = narrow("next shard", cursor.varint()?)?;
    let mut shards = BTreeMap::new();
    for _ in 0..cursor.varint()? {
        let id = ShardId(narrow("shard id", cursor.varint()?)?);
        let range = HashKeyRange { start: HashKey(cursor.u128()?), end: HashKey(cursor.u128()?) };
        let parent_count = cursor.varint()?;
        if parent_count > 2 {
            return Err(StateError::Value { what: "parent count", value: parent_count });
        }
        let mut parents = Vec::new();
        for _ in 0..parent_count {
            parents.push(ShardId(narrow("parent", cursor.varint()?)?));
        }
        let shard = Shard {
            range,
            parents,
            created: UnixMs(cursor.varint()?),
            first: SequenceNumber(cursor.varint()?),
            next: SequenceNumber(cursor.varint()?),
            next_batch: cursor.varint()?,
            closed: cursor.varint()?.checked_sub(1).map(UnixMs),
        };
        shards.insert(id, shard);
    }
    Ok(StreamState { map_version, next_shard, shards, lanes: BTreeMap::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> StreamState {
        let mut state = StreamState::new(3, UnixMs(5));
        state.advance_lane(7, 1, 2, 99, UnixMs(6));
        state.shards.get_mut(&ShardId(1)).unwrap().closed = Some(UnixMs(0));
        state.shards.get_mut(&ShardId(2)).unwrap().parents = vec![ShardId(0), ShardId(1)];
        state
    }

    #[test]
    fn a_state_survives_the_round_trip_and_every_truncation_is_refused() {
        let state = example();
        let mut bytes = Vec::new();
        state.encode(&mut bytes);
        assert_eq!(StreamState::decode(&bytes), Ok(state));
        for len in 0..bytes.len() {
            assert!(StreamState::decode(&bytes[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn a_reshard_replaces_the_shards_and_keeps_the_lanes() {
        let (mut state, mut bytes) = (example(), Vec::new());
        StreamState::new(5, UnixMs(9)).encode_shards(&mut bytes);
        state.apply_reshard(&bytes).unwrap();
        assert_eq!((state.shards.len(), state.lanes.len()), (5, 1));
    }

    #[test]
    fn every_hash_key_has_exactly_one_open_shard() {
        let state = StreamState::new(7, UnixMs(0));
        for key in (0..1000u128).map(|i| HashKey(i * (u128::MAX / 1000))) {
            assert_eq!(state.open_shards().filter(|(_, s)| s.range.contains(key)).count(), 1);
        }
    }

    /// Reaches `LANES_MAX`.
    #[test]
    fn lanes_are_bounded_and_the_one_that_was_silent_longest_goes() {
        let mut state = StreamState::new(1, UnixMs(0));
        // Filled directly: to go through all of them for each that is forgotten takes its time.
        let lane = Lane { epoch: 1, expected: 2, seen: UnixMs(10) };
        state.lanes = (0..LANES_MAX as u128).map(|producer| ((producer, 0), lane)).collect();
        state.lanes.insert((5, 0), Lane { seen: UnixMs(9), ..lane });
        state.advance_lane(u128::MAX, 0, 1, 2, UnixMs(11));
        assert_eq!(state.lanes.len(), LANES_MAX);
        assert!(!state.lanes.contains_key(&(5, 0)) && state.lanes.contains_key(&(u128::MAX, 0)));
    }
}
