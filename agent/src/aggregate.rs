//! Packs the records of one partition key into aggregated ones, as the Kinesis Producer Library does. Pure.
//!
//! One key an aggregated record: it lands where its records would, whatever becomes of the shards, and the order of a key
//! is kept. (The library packs all keys of one shard, and its readers drop what a reshard has moved.)

use std::collections::BTreeMap;

use protocol::batch::BatchBuilder;
use protocol::kpl::{Aggregator, SubRecord};
use protocol::time::UnixMs;

/// An aggregated record is no longer than this: the library's default.
const BYTES_MAX: usize = 51_200;

/// Keys whose records wait.
const KEYS_MAX: usize = 4096;

/// Records that wait for others of their key.
#[derive(Debug, Default)]
pub(crate) struct Aggregates {
    by_key: BTreeMap<String, Pending>,
    bytes: usize,
}

#[derive(Debug)]
struct Pending {
    aggregator: Aggregator,
    /// The first record, which stays as it is where no other joins it.
    first: Vec<u8>,
    time: UnixMs,
}

impl Aggregates {
    /// Keys whose records wait: each will be a record.
    pub(crate) fn keys(&self) -> usize {
        self.by_key.len()
    }

    /// Bytes that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether one record more may come.
    pub(crate) fn has_room(&self) -> bool {
        self.by_key.len() < KEYS_MAX
    }

    /// One record more. What is complete goes into the batch, whose caller has looked whether there is room.
    pub(crate) fn push(&mut self, builder: &mut BatchBuilder, key: &str, time: UnixMs, data: &[u8]) {
        let record = SubRecord { partition_key: key, explicit_hash_key: None, data };
        let full = |pending: &Pending| pending.aggregator.bytes_with(&record) > BYTES_MAX;
        if self.by_key.get(key).is_some_and(full)
            && let Some((key, pending)) = self.by_key.remove_entry(key)
        {
            self.bytes -= pending.aggregator.bytes();
            pending.put(&key, builder);
        }
        let pending = self.by_key.entry(key.to_owned()).or_insert_with(|| Pending {
            aggregator: Aggregator::default(),
            first: Vec::new(),
            time,
        });
        let before = if pending.aggregator.count() == 0 { 0 } else { pending.aggregator.bytes() };
        if before == 0 {
            pending.first.extend_from_slice(data);
        }
        pending.aggregator.push(&record);
        self.bytes += pending.aggregator.bytes() - before;
    }

    /// Puts all that waits into the batch.
    pub(crate) fn flush(&mut self, builder: &mut BatchBuilder) {
        for (key, pending) in std::mem::take(&mut self.by_key) {
            pending.put(&key, builder);
        }
        self.bytes = 0;
    }
}

impl Pending {
    fn put(mut self, key: &str, builder: &mut BatchBuilder) {
        let alone = self.aggregator.count() == 1;
        let Some(data) = self.aggregator.take() else { return };
        // The key was checked when its first record came.
        if let Ok(index) = builder.key(key, None) {
            builder.push(index, self.time, if alone { &self.first } else { &data });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reaches `KEYS_MAX`.
    #[test]
    fn records_of_so_many_keys_wait_and_then_there_is_no_room() {
        let (mut waiting, mut batch) = (Aggregates::default(), BatchBuilder::new());
        for n in 0..KEYS_MAX {
            assert!(waiting.has_room(), "{n} keys");
            waiting.push(&mut batch, &n.to_string(), UnixMs(1), b"x");
        }
        assert!(!waiting.has_room());
        waiting.flush(&mut batch);
        assert!(waiting.has_room() && batch.record_count() == KEYS_MAX);
    }

    /// Reaches `BYTES_MAX`.
    #[test]
    fn records_of_a_key_are_one_record_up_to_its_longest_and_then_another_one() {
        let (first, second) = (vec![1; 50_000], vec![2; 2000]);
        let record = |data| SubRecord { partition_key: "k", explicit_hash_key: None, data };
        let mut one = Aggregator::default();
        one.push(&record(&first));
        let fits =
            (0..second.len()).rfind(|len| one.bytes_with(&record(&second[..*len])) <= BYTES_MAX).unwrap();
        assert_eq!(one.bytes_with(&record(&second[..fits])), BYTES_MAX);
        for (len, complete) in [(fits, 0), (fits + 1, 1)] {
            let (mut waiting, mut batch) = (Aggregates::default(), BatchBuilder::new());
            waiting.push(&mut batch, "k", UnixMs(1), &first);
            waiting.push(&mut batch, "k", UnixMs(1), &second[..len]);
            assert_eq!(batch.record_count(), complete, "{len} bytes");
        }
    }
}
