//! Where the batches of each shard are in one segment. Derived from the log, never evidence about it: rebuilt
//! from the segment on any doubt. Pure: bytes in, values out.
//!
//! As a file (`<segment>.idx`), little-endian:
//!
//! ```text
//! magic "KID2"  u32 CRC32C of all that follows
//! u64 base   u64 begun ms   u32 shard count
//! shard count x: u32 shard  u64 next at start  u64 next at end  u32 batch count
//! for each shard, batch count x: u64 first  u64 arrival ms  u64 producer time ms
//!                                    u32 offset in the segment  u32 length  u32 records
//! ```
//!
//! Every shard that was alive when the segment began has an entry, so that a search by sequence number can step
//! over segments in which the shard got nothing.

use std::collections::BTreeMap;

use protocol::bytes::{BytesError, Cursor};
use protocol::frame::Header;
use protocol::sequence::{SequenceNumber, ShardId};
use protocol::time::UnixMs;

const MAGIC: [u8; 4] = *b"KID2";

/// One batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// Its first sequence number.
    pub first: SequenceNumber,
    /// When it arrived.
    pub arrival: UnixMs,
    /// When its first record was made, by its producer's clock.
    pub producer_time: UnixMs,
    /// Bytes from the start of the segment.
    pub offset: u32,
    /// Bytes of the frame.
    pub len: u32,
    /// Records in it.
    pub count: u32,
}

impl Batch {
    /// The sequence number after its last record. Where the next batch begins later, what was between is damaged.
    #[must_use]
    pub fn end(&self) -> SequenceNumber {
        self.first + u64::from(self.count)
    }
}

/// One shard in a segment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShardIndex {
    /// Its next sequence number when the segment began.
    pub start: SequenceNumber,
    /// Its next sequence number after the last batch here.
    pub end: SequenceNumber,
    /// Its batches, in order.
    pub batches: Vec<Batch>,
}

/// A segment's index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SegmentIndex {
    /// Position of the segment's first byte.
    pub base: u64,
    /// When the segment was begun.
    pub begun: UnixMs,
    /// The shards that were alive when it began, or came in it.
    pub shards: BTreeMap<ShardId, ShardIndex>,
}

/// Why an index file is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// It is no index, or damaged.
    #[error("index is damaged")]
    Damaged,
    /// It ends too early.
    #[error("index {0}")]
    Bytes(#[from] BytesError),
}

impl SegmentIndex {
    /// An index of an empty segment.
    #[must_use]
    pub fn new(base: u64, begun: UnixMs) -> SegmentIndex {
        SegmentIndex { base, begun, shards: BTreeMap::new() }
    }

    /// The segment begins with this shard at this place.
    pub fn begin_shard(&mut self, shard: ShardId, next: SequenceNumber) {
        self.shards.entry(shard).or_insert(ShardIndex { start: next, end: next, batches: Vec::new() });
    }

    /// Adds a batch. Batches without records leave no trace.
    pub fn add(&mut self, header: &Header, offset: u32) {
        if header.record_count == 0 {
            return;
        }
        let first = header.first_sequence;
        let shard = self.shards.entry(header.shard).or_insert(ShardIndex {
            start: first,
            end: first,
            batches: Vec::new(),
        });
        shard.batches.push(Batch {
            first,
            arrival: header.arrival,
            producer_time: header.producer_time,
            offset,
            len: header.total_len,
            count: header.record_count,
        });
        shard.end = header.end_sequence();
    }

    /// Of the segment that follows, where nothing else says how it begins: nothing in it is older than `begun`.
    #[must_use]
    pub fn successor(&self, base: u64, begun: UnixMs) -> SegmentIndex {
        let mut next = SegmentIndex::new(base, begun);
        self.shards.iter().for_each(|(id, shard)| next.begin_shard(*id, shard.end));
        next
    }

    /// When its newest batch came, or when it was begun.
    #[must_use]
    pub fn latest(&self) -> UnixMs {
        let newest = self.shards.values().filter_map(|shard| shard.batches.last());
        newest.map(|batch| batch.arrival).fold(self.begun, UnixMs::max)
    }

    /// About how much memory it takes, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.shards.values().map(|s| 64 + s.batches.len() * size_of::<Batch>()).sum()
    }

    /// As a file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32 + self.memory_bytes());
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.base.to_le_bytes());
        out.extend_from_slice(&self.begun.0.to_le_bytes());
        out.extend_from_slice(&(self.shards.len() as u32).to_le_bytes());
        for (id, shard) in &self.shards {
            out.extend_from_slice(&id.0.to_le_bytes());
            out.extend_from_slice(&shard.start.0.to_le_bytes());
            out.extend_from_slice(&shard.end.0.to_le_bytes());
            out.extend_from_slice(&(shard.batches.len() as u32).to_le_bytes());
        }
        for batch in self.shards.values().flat_map(|shard| &shard.batches) {
            out.extend_from_slice(&batch.first.0.to_le_bytes());
            out.extend_from_slice(&batch.arrival.0.to_le_bytes());
            out.extend_from_slice(&batch.producer_time.0.to_le_bytes());
            out.extend_from_slice(&batch.offset.to_le_bytes());
            out.extend_from_slice(&batch.len.to_le_bytes());
            out.extend_from_slice(&batch.count.to_le_bytes());
        }
        let crc = crc32c::crc32c(&out[8..]);
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// From a file.
    ///
    /// # Errors
    /// When it is no index or damaged: make it anew from the segment.
    pub fn decode(bytes: &[u8]) -> Result<SegmentIndex, IndexError> {
        let mut cursor = Cursor::new(bytes);
        let magic = cursor.take(4)? == MAGIC;
        if !magic || cursor.u32()? != crc32c::crc32c(cursor.rest()) {
            return Err(IndexError::Damaged);
        }
        let mut index = SegmentIndex::new(cursor.u64()?, UnixMs(cursor.u64()?));
        let mut counts = Vec::new();
        for _ in 0..cursor.u32()? {
            let id = ShardId(cursor.u32()?);
            let (start, end) = (SequenceNumber(cursor.u64()?), SequenceNumber(cursor.u64()?));
            counts.push((id, cursor.u32()?));
            index.shards.insert(id, ShardIndex { start, end, batches: Vec::new() });
        }
        for (id, count) in counts {
            let batches = &mut index.shards.entry(id).or_default().batches;
            for _ in 0..count {
                batches.push(Batch {
                    first: SequenceNumber(cursor.u64()?),
                    arrival: UnixMs(cursor.u64()?),
                    producer_time: UnixMs(cursor.u64()?),
                    offset: cursor.u32()?,
                    len: cursor.u32()?,
                    count: cursor.u32()?,
                });
            }
        }
        Ok(index)
    }
}

impl ShardIndex {
    /// The place among `batches` of the one that holds a sequence number, or of the next after it.
    #[must_use]
    pub fn find(&self, from: SequenceNumber) -> usize {
        self.batches.partition_point(|batch| batch.end() <= from)
    }

    /// The last batch whose first record was made at a time or before it.
    #[must_use]
    pub fn at_producer_time(&self, time: UnixMs) -> Option<SequenceNumber> {
        let after = self.batches.partition_point(|batch| batch.producer_time <= time);
        after.checked_sub(1).map(|place| self.batches[place].first)
    }

    /// The first batch that arrived at a time or later.
    #[must_use]
    pub fn at_time(&self, time: UnixMs) -> Option<SequenceNumber> {
        let place = self.batches.partition_point(|batch| batch.arrival < time);
        self.batches.get(place).map(|batch| batch.first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> SegmentIndex {
        let mut index = SegmentIndex::new(4096, UnixMs(77));
        index.begin_shard(ShardId(9), SequenceNumber(3));
        for i in 0..10u64 {
            let header = Header {
                shard: ShardId((i % 2) as u32),
                first_sequence: SequenceNumber(i / 2 * 10),
                record_count: 10,
                arrival: UnixMs(1000 + i),
                producer_time: UnixMs(900 + i),
                ..Header::default()
            };
            index.add(&header, 200 * i as u32);
        }
        index
    }

    #[test]
    fn an_index_survives_the_round_trip_and_no_damage_goes_unnoticed() {
        let index = example();
        let bytes = index.encode();
        assert_eq!(SegmentIndex::decode(&bytes), Ok(index));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentIndex::decode(&bad).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(SegmentIndex::decode(&bytes[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn a_record_in_the_middle_of_a_batch_is_found_by_its_batch() {
        let shard = &example().shards[&ShardId(1)];
        for sequence in 0..50u64 {
            assert_eq!(shard.find(SequenceNumber(sequence)), (sequence / 10) as usize);
        }
        assert_eq!(shard.find(SequenceNumber(50)), 5);
        assert_eq!(shard.at_time(UnixMs(1002)), Some(SequenceNumber(10)));
    }
}
