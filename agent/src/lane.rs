//! Lanes: a stream's batches, divided as the agent believes the store's shards to be. Pure.
//! What a lane has to send is in `send/outbox.rs`; here is only which lane a key belongs to.

use protocol::hash::{HashKey, HashKeyRange};
use protocol::name::{StreamKey, StreamName};
use protocol::native::call::StreamInfo;
use serde::{Deserialize, Serialize};

/// One lane of one stream: its batches are numbered without gaps and stored in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LaneId {
    /// Which stream.
    pub stream: StreamKey,
    /// `generation << 16 | index`.
    pub lane: u32,
}

impl LaneId {
    /// Of which shard map. Everything of an older generation is stored before anything of a newer one is sent,
    /// so that a key stays in order when it moves to another lane.
    #[must_use]
    pub fn generation(self) -> u16 {
        (self.lane >> 16) as u16
    }

    /// Place of the shard in that map, by hash key.
    #[must_use]
    pub fn index(self) -> u16 {
        self.lane as u16
    }
}

/// What the agent believes about a stream's shards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamMap {
    /// The stream.
    pub name: StreamName,
    /// Grows whenever the ranges change; 0 before first contact.
    pub generation: u16,
    /// Hash key ranges of the open shards, in order; empty before first contact.
    pub ranges: Vec<HashKeyRange>,
}

impl StreamMap {
    /// Nothing known yet: one lane.
    #[must_use]
    pub fn unknown(name: StreamName) -> StreamMap {
        StreamMap { name, generation: 0, ranges: Vec::new() }
    }

    /// The lane of a partition key.
    #[must_use]
    pub fn lane_of(&self, partition_key: &str) -> u32 {
        let base = u32::from(self.generation) << 16;
        if self.ranges.len() < 2 {
            return base;
        }
        let hash = HashKey::of_partition_key(partition_key);
        let after = self.ranges.partition_point(|range| range.start <= hash);
        base | after.saturating_sub(1) as u32
    }

    /// Takes what the store says; true when the lanes are others from now on.
    pub fn update(&mut self, info: &StreamInfo) -> bool {
        let mut ranges: Vec<_> = info.shards.iter().filter(|s| !s.closed).map(|s| s.range).collect();
        ranges.sort_by_key(|range| range.start);
        if ranges.is_empty() || ranges == self.ranges {
            return false;
        }
        // One shard for all keys is what one lane was already good for.
        let same = self.ranges.is_empty() && ranges.len() == 1;
        self.ranges = ranges;
        if !same {
            self.renew();
        }
        !same
    }

    /// Begins a generation: no number of an older lane is used again.
    pub fn renew(&mut self) {
        self.generation = self.generation.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::native::call::{ShardInfo, StreamConfig};
    use protocol::sequence::{SequenceNumber, ShardId};
    use protocol::time::UnixMs;

    /// A stream of this many even shards, as a store tells of it.
    fn info(shards: u32) -> StreamInfo {
        let name = StreamName::new("s").unwrap();
        let shard = |(id, range)| ShardInfo {
            id: ShardId(id),
            range,
            parents: Vec::new(),
            first: SequenceNumber(0),
            tail: SequenceNumber(0),
            closed: false,
            created: UnixMs(0),
        };
        StreamInfo {
            key: name.key(),
            name,
            created: UnixMs(0),
            config: StreamConfig::default(),
            map_version: 1,
            shards: (0..).zip(HashKeyRange::split_evenly(shards)).map(shard).collect(),
            stored_bytes: 0,
            resharded: Vec::new(),
        }
    }

    #[test]
    fn a_key_is_in_the_lane_of_the_shard_that_has_its_hash() {
        let mut map = StreamMap::unknown(StreamName::new("s").unwrap());
        assert_eq!(map.lane_of("a"), 0);
        assert!(map.update(&info(8)));
        for n in 0..200 {
            let key = format!("k{n}");
            let lane = map.lane_of(&key);
            let id = LaneId { stream: StreamKey(1), lane };
            assert_eq!(id.generation(), 1);
            assert!(map.ranges[usize::from(id.index())].contains(HashKey::of_partition_key(&key)));
        }
    }

    #[test]
    fn only_other_ranges_begin_a_generation() {
        let mut map = StreamMap::unknown(StreamName::new("s").unwrap());
        assert!(!map.update(&info(1)));
        assert!(map.update(&info(2)));
        assert!(!map.update(&info(2)));
        assert!(map.update(&info(3)));
        assert_eq!(map.generation, 2);
    }
}
