//! What the shards of a stream were asked to take, and where in their key space: what scaling decides by. Costs a few
//! additions for a batch, and is bounded: keys are sampled evenly by weight. Pure.

use protocol::hash::HashKey;

/// Keys that a sample has at most.
const SAMPLE_MAX: usize = 128;

/// A record weighs its bytes and this much: a thousand records a second and a mebibyte a second are each a whole shard.
pub(super) const RECORD_WEIGHT: u64 = 1024;

/// Of one shard, since it was last asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Load {
    /// Bytes of partition keys and data that were stored.
    pub bytes: u64,
    /// Records that were stored.
    pub records: u64,
    /// Times that something was turned away.
    pub throttled: u64,
    /// Where records were stored.
    pub sample: Sample,
}

/// Keys, each of which stands for the same weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    keys: Vec<HashKey>,
    step: u64,
    open: u64,
}

impl Default for Sample {
    fn default() -> Sample {
        Sample { keys: Vec::new(), step: RECORD_WEIGHT, open: 0 }
    }
}

impl Sample {
    /// The keys, in the order in which they came.
    #[must_use]
    pub fn keys(&self) -> &[HashKey] {
        &self.keys
    }

    /// Something was stored at a key.
    pub fn add(&mut self, key: HashKey, weight: u64) {
        self.open += weight;
        while self.open >= self.step {
            self.open -= self.step;
            self.keys.push(key);
            if self.keys.len() >= SAMPLE_MAX {
                let mut place = 0;
                self.keys.retain(|_| {
                    place += 1;
                    place % 2 == 0
                });
                self.step *= 2;
            }
        }
    }
}

impl Load {
    /// Records were stored.
    pub fn stored(&mut self, bytes: u64, records: u64) {
        self.bytes += bytes;
        self.records += records;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reaches `SAMPLE_MAX`.
    #[test]
    fn a_sample_is_bounded_and_even_by_weight() {
        let mut sample = Sample::default();
        for round in 0..10_000u64 {
            // One key in four weighs as much as the three others together.
            let weight = if round % 4 == 0 { 3000 } else { 1000 };
            sample.add(HashKey(u128::from(round % 4)), weight);
        }
        assert!((SAMPLE_MAX / 2..SAMPLE_MAX).contains(&sample.keys().len()));
        let heavy = sample.keys().iter().filter(|key| key.0 == 0).count();
        let share = heavy as f64 / sample.keys().len() as f64;
        assert!((0.4..0.6).contains(&share), "{share}");
        // Even a single one that is as large as may be costs no more.
        sample.add(HashKey(9), 10 << 20);
        assert!(sample.keys().len() < SAMPLE_MAX);
    }

    /// Reaches `SAMPLE_MAX`.
    #[test]
    fn a_full_sample_keeps_every_second_key() {
        let mut sample = Sample::default();
        (1..SAMPLE_MAX).for_each(|n| sample.add(HashKey(n as u128), RECORD_WEIGHT));
        assert_eq!(sample.keys().len(), SAMPLE_MAX - 1);
        sample.add(HashKey(0), RECORD_WEIGHT);
        assert_eq!(sample.keys().len(), SAMPLE_MAX / 2);
    }
}
