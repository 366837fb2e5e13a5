//! Records that come one by one, each with an answer of its own: each goes to its shard or is throttled, and those that
//! go to the same shard are one batch. Pure.

use std::collections::BTreeMap;

use protocol::bucket::ShardBucket;
use protocol::compress::{Codec, Compressor};
use protocol::frame::{HEADER_BYTES, Header};
use protocol::hash::HashKey;
use protocol::name::StreamKey;
use protocol::sequence::{SequenceNumber, ShardId};
use protocol::time::UnixMs;

use super::load::RECORD_WEIGHT;
use super::{Now, Sequencer};
use crate::shard::group::Group;

/// A record that has no place yet. Whoever makes one has checked its bounds.
#[derive(Debug, Clone, Copy)]
pub struct NewRecord<'a> {
    /// Partition key.
    pub partition_key: &'a str,
    /// Where it wants to land, if not where its partition key says.
    pub explicit_hash_key: Option<HashKey>,
    /// Where it lands.
    pub hash_key: HashKey,
    /// What it holds.
    pub data: &'a [u8],
}

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed {
    /// It has a place, and is durable with its group.
    Stored {
        /// In which shard.
        shard: ShardId,
        /// When that shard was made.
        created: UnixMs,
        /// As which record.
        sequence: SequenceNumber,
    },
    /// Its shard is over its rate.
    Throttled {
        /// Which shard.
        shard: ShardId,
    },
}

impl Sequencer {
    /// Places records in order. A throttled one holds no other up.
    pub fn handle_records<W>(
        &mut self,
        stream: StreamKey,
        records: &[NewRecord<'_>],
        now: Now,
        group: &mut Group<W>,
    ) -> Vec<Placed> {
        let mut by_shard = BTreeMap::<ShardId, Vec<usize>>::new();
        let mut placed = Vec::with_capacity(records.len());
        for (place, record) in records.iter().enumerate() {
            let shard = self.route(record.hash_key);
            if self.admit(shard, (record.data.len() + record.partition_key.len()) as u64, now) {
                by_shard.entry(shard).or_default().push(place);
                self.observe_record(shard, record);
            } else {
                self.observe_throttled(shard);
            }
            placed.push(Placed::Throttled { shard });
        }
        for (shard, places) in by_shard {
            for place in &places {
                let record = &records[*place];
                // The key was checked by whoever made the record.
                if let Ok(key) = self.builder.key(record.partition_key, record.explicit_hash_key) {
                    self.builder.push(key, now.wall, record.data);
                }
            }
            self.scratch.clear();
            let header = Header { stream, ..Header::default() };
            let sealed = self.builder.seal(header, &mut Compressor::new(Codec::None), &mut self.scratch);
            let sealed = self.number(shard, sealed, now);
            group.put(sealed, &self.scratch[HEADER_BYTES..]);
            let created = self.state.shards.get(&shard).map_or(now.wall, |shard| shard.created);
            for (place, sequence) in places.iter().zip(sealed.first_sequence.0..) {
                placed[*place] = Placed::Stored { shard, created, sequence: SequenceNumber(sequence) };
            }
        }
        placed
    }

    fn observe_record(&mut self, shard: ShardId, record: &NewRecord<'_>) {
        if self.rules.observe {
            let bytes = (record.data.len() + record.partition_key.len()) as u64;
            let load = self.loads.entry(shard).or_default();
            load.stored(bytes, 1);
            load.sample.add(record.hash_key, bytes + RECORD_WEIGHT);
        }
    }

    fn admit(&mut self, shard: ShardId, bytes: u64, now: Now) -> bool {
        let Some(rate) = self.rules.shard_rate else { return true };
        let bucket = self.buckets.entry(shard).or_insert_with(|| ShardBucket::new(rate, now.mono));
        let free = bucket.wait_for(bytes, 1, now.mono).is_zero();
        if free {
            bucket.take(bytes, 1, now.mono);
        }
        free
    }
}

#[cfg(test)]
mod tests {
    use protocol::bucket::ShardRate;
    use protocol::time::Mono;

    use super::super::Rules;
    use super::*;
    use crate::shard::state::StreamState;

    #[test]
    fn each_record_has_its_place_or_is_throttled_alone_and_a_shard_gets_one_batch() {
        let rate = ShardRate { bytes_per_second: 1000, records_per_second: 3 };
        let rules = Rules { shard_rate: Some(rate), record_bytes_max: 1000, observe: true };
        let mut sequencer = Sequencer::new(StreamState::new(2, UnixMs(0)), rules);
        let mut group = Group::<()>::default();
        let low =
            |data| NewRecord { partition_key: "a", explicit_hash_key: None, hash_key: HashKey::MIN, data };
        let high = NewRecord { hash_key: HashKey::MAX, ..low(b"y") };
        let records = [low(b"1"), high, low(b"2"), low(b"3"), low(b"4"), high];
        let now = Now { mono: Mono::ZERO, wall: UnixMs(7) };
        let placed = sequencer.handle_records(StreamKey(1), &records, now, &mut group);
        let stored = |shard, sequence| Placed::Stored {
            shard: ShardId(shard),
            created: UnixMs(0),
            sequence: SequenceNumber(sequence),
        };
        let throttled = Placed::Throttled { shard: ShardId(0) };
        assert_eq!(placed, [stored(0, 0), stored(1, 0), stored(0, 1), stored(0, 2), throttled, stored(1, 1)]);
        let loads = sequencer.take_loads();
        let seen = |shard| (loads[&ShardId(shard)].records, loads[&ShardId(shard)].throttled);
        assert_eq!((seen(0), seen(1)), ((3, 1), (2, 0)));
        assert!(sequencer.take_loads().is_empty());
        let counts: Vec<_> =
            group.entries().iter().map(|e| (e.header.shard.0, e.header.record_count)).collect();
        assert_eq!(counts, [(0, 3), (1, 2)]);
    }
}
