//! Token buckets: how much, how fast, and when to come back. Pure: `now` is a value.
//!
//! A request larger than the burst is let through when the bucket is full, and leaves a debt that must be
//! worked off first; so the long-run rate holds for requests of any size and nothing starves.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limit;
use crate::time::Mono;

const MICRO: i128 = 1_000_000;

/// `rate` tokens a second, at most `burst` of them saved.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    rate_per_second: u64,
    burst: u64,
    /// Tokens in millionths, negative when in debt.
    level: i128,
    at: Mono,
}

impl TokenBucket {
    /// A full bucket.
    #[must_use]
    pub fn new(rate_per_second: u64, burst: u64, now: Mono) -> TokenBucket {
        let (rate_per_second, burst) = (rate_per_second.max(1), burst.max(1));
        TokenBucket { rate_per_second, burst, level: i128::from(burst) * MICRO, at: now }
    }

    fn refill(&mut self, now: Mono) {
        let micros = now.since(self.at).as_micros() as i128;
        self.level =
            (self.level + micros * i128::from(self.rate_per_second)).min(i128::from(self.burst) * MICRO);
        self.at = self.at.max(now);
    }

    /// How long until `tokens` could be taken; zero when they can be now.
    pub fn wait_for(&mut self, tokens: u64, now: Mono) -> Duration {
        self.refill(now);
        let missing = i128::from(tokens.min(self.burst)) * MICRO - self.level;
        if missing <= 0 {
            return Duration::ZERO;
        }
        let rate = i128::from(self.rate_per_second);
        Duration::from_micros(u64::try_from((missing + rate - 1) / rate).unwrap_or(u64::MAX))
    }

    /// Tokens that it owes.
    pub fn debt(&mut self, now: Mono) -> u64 {
        self.refill(now);
        u64::try_from((MICRO - 1 - self.level) / MICRO).unwrap_or(0)
    }

    /// Takes them, into debt if need be: call it after [`wait_for`](Self::wait_for) said zero.
    pub fn take(&mut self, tokens: u64, now: Mono) {
        self.refill(now);
        self.level -= i128::from(tokens) * MICRO;
    }
}

/// What a shard takes in a second. `None` where no limit is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardRate {
    /// Bytes of partition keys and data, before compression.
    pub bytes_per_second: u64,
    /// Records.
    pub records_per_second: u64,
}

impl Default for ShardRate {
    fn default() -> ShardRate {
        ShardRate {
            bytes_per_second: limit::SHARD_BYTES_PER_SECOND,
            records_per_second: limit::SHARD_RECORDS_PER_SECOND,
        }
    }
}

/// Both buckets of a shard. The burst is one second's worth.
#[derive(Debug, Clone)]
pub struct ShardBucket {
    bytes: TokenBucket,
    records: TokenBucket,
}

impl ShardBucket {
    /// Full buckets.
    #[must_use]
    pub fn new(rate: ShardRate, now: Mono) -> ShardBucket {
        ShardBucket {
            bytes: TokenBucket::new(rate.bytes_per_second, rate.bytes_per_second, now),
            records: TokenBucket::new(rate.records_per_second, rate.records_per_second, now),
        }
    }

    /// How long until this much may come; zero when it may come now.
    pub fn wait_for(&mut self, bytes: u64, records: u64, now: Mono) -> Duration {
        self.bytes.wait_for(bytes, now).max(self.records.wait_for(records, now))
    }

    /// Takes from both.
    pub fn take(&mut self, bytes: u64, records: u64, now: Mono) {
        self.bytes.take(bytes, now);
        self.records.take(records, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn the_rate_holds_over_time_for_requests_of_any_size() {
        let mut rng = Rng::new(1);
        for _ in 0..200 {
            let (rate, mut now, mut taken) = (1000u64, Mono::ZERO, 0u64);
            let mut bucket = TokenBucket::new(rate, rate, now);
            let mut largest = 0;
            while now < Mono::from_millis(20_000) {
                let want = rng.between(1, 5000);
                let wait = bucket.wait_for(want, now);
                now = now + wait;
                assert_eq!(
                    bucket.wait_for(want, now),
                    Duration::ZERO,
                    "a wait that was waited for is enough"
                );
                bucket.take(want, now);
                largest = largest.max(want);
                taken += want;
            }
            let seconds = now.0 as f64 / 1e6;
            assert!(taken as f64 <= rate as f64 * seconds + (rate + largest) as f64);
        }
    }

    #[test]
    fn a_request_above_the_burst_waits_for_a_full_bucket_and_leaves_a_debt() {
        let mut bucket = TokenBucket::new(100, 100, Mono::ZERO);
        assert_eq!(bucket.wait_for(1000, Mono::ZERO), Duration::ZERO);
        bucket.take(1000, Mono::ZERO);
        assert_eq!(bucket.wait_for(1, Mono::ZERO), Duration::from_micros(9_010_000));
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing() {
        let mut bucket = TokenBucket::new(100, 100, Mono::from_millis(5000));
        bucket.take(100, Mono::from_millis(5000));
        assert!(bucket.wait_for(1, Mono::ZERO) > Duration::ZERO);
    }
}
