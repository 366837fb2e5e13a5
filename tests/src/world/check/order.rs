//! Order per key, effectively once, and numbers that only grow. Pure.

use std::collections::{BTreeMap, BTreeSet};

use protocol::sequence::ShardId;
use store::shard::commit::ShardMap;

use super::{Checker, Ending, Seen};
use crate::world::record::RecordId;

/// Promise 3: a record of a producer with an id is stored once.
#[derive(Debug, Default)]
pub(super) struct Once {
    seen: BTreeSet<RecordId>,
}

impl Checker for Once {
    fn promise(&self) -> &'static str {
        "effectively once: no record is stored twice"
    }

    fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        let Seen::Read(read) = seen else { return Ok(()) };
        for (sequence, id) in read.records {
            if !self.seen.insert(*id) {
                return Err(format!("{id:?} again, at {sequence} of {}", read.shard));
            }
        }
        Ok(())
    }
}

/// Promise 2: the records of a key come in the order they were made, from parents before children, none left out but
/// those that the stream does not take; and in the end all of them.
#[derive(Debug)]
pub(super) struct Order {
    record_bytes_max: usize,
    /// The number that comes next, by producer and key.
    next: BTreeMap<(u32, u32), u32>,
}

impl Order {
    pub(super) fn new(record_bytes_max: usize) -> Order {
        Order { record_bytes_max, next: BTreeMap::new() }
    }

    fn skip_too_long(&self, mut id: RecordId) -> RecordId {
        while id.data_len() > self.record_bytes_max {
            id.number += 1;
        }
        id
    }

    fn end(&self, ending: &Ending<'_>) -> Result<(), String> {
        let mut counts = BTreeMap::<(u32, u32), u32>::new();
        for id in ending.sources.iter().copied().flatten() {
            *counts.entry((id.producer, id.key)).or_default() += 1;
        }
        for ((producer, key), count) in counts {
            let number = self.next.get(&(producer, key)).copied().unwrap_or_default();
            let next = self.skip_too_long(RecordId { producer, key, number });
            if next.number < count {
                return Err(format!("{next:?} never arrived; {count} of its key were made"));
            }
        }
        Ok(())
    }
}

impl Checker for Order {
    fn promise(&self) -> &'static str {
        "order per partition key of a producer, and nothing left out"
    }

    fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Read(read) => {
                for (sequence, id) in read.records {
                    let key = (id.producer, id.key);
                    let number = self.next.get(&key).copied().unwrap_or_default();
                    let want = self.skip_too_long(RecordId { number, ..*id });
                    if *id != want {
                        return Err(format!("{id:?} at {sequence} of {}, {want:?} is next", read.shard));
                    }
                    self.next.insert(key, id.number + 1);
                }
                Ok(())
            }
            Seen::End(ending) if ending.drained => self.end(ending),
            _ => Ok(()),
        }
    }
}

/// Promise 4: sequence numbers and batch numbers of a shard only grow, and a child's are above its parents'.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    shards: BTreeMap<ShardId, (u64, u64)>,
    parents: BTreeMap<ShardId, Vec<ShardId>>,
}

impl Numbers {
    fn learn(&mut self, map: &ShardMap) {
        for (id, shard) in &map.1 {
            if !self.parents.contains_key(id) {
                self.parents.insert(*id, shard.parents.clone());
            }
        }
    }
}

impl Checker for Numbers {
    fn promise(&self) -> &'static str {
        "sequence numbers only grow"
    }

    fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Shards(map) => self.learn(map),
            Seen::Read(read) => {
                let (first, batch_no) = (read.header.first_sequence.0, read.header.batch_no);
                let parents = self.parents.get(&read.shard).into_iter().flatten();
                let above = parents.filter_map(|parent| self.shards.get(parent)).map(|(end, _)| *end).max();
                if above.is_some_and(|end| first < end) {
                    return Err(format!("{} has {first}, its parents end at {above:?}", read.shard));
                }
                if let Some((end, last_no)) = self.shards.get(&read.shard)
                    && (*end > read.records.first().map_or(u64::MAX, |(at, _)| *at) || *last_no > batch_no)
                {
                    return Err(format!("batch {batch_no} at {first} of {} after {end}", read.shard));
                }
                self.shards.insert(read.shard, (read.header.end_sequence().0, batch_no));
            }
            _ => {}
        }
        Ok(())
    }
}
