//! How long to wait before the next try: exponential with full jitter (AWS Architecture Blog, "Exponential
//! Backoff and Jitter"). Pure: chance comes from a seed, time from the caller.

use std::time::Duration;

use crate::rng::Rng;

/// Waits that grow from `base` to `cap`, each drawn uniformly from `0..=ceiling`.
#[derive(Debug, Clone)]
pub struct Backoff {
    base_ms: u64,
    cap_ms: u64,
    attempts: u32,
    rng: Rng,
}

impl Backoff {
    /// `base_ms` is the first ceiling, `cap_ms` the last.
    #[must_use]
    pub fn new(base_ms: u64, cap_ms: u64, seed: u64) -> Backoff {
        Backoff { base_ms, cap_ms, attempts: 0, rng: Rng::new(seed) }
    }

    /// The wait after one more failure.
    pub fn next_wait(&mut self) -> Duration {
        let ceiling = self.base_ms.saturating_mul(1u64 << self.attempts.min(20)).min(self.cap_ms);
        self.attempts = self.attempts.saturating_add(1);
        Duration::from_millis(self.rng.below(ceiling + 1))
    }

    /// It worked: start over.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }

    /// Failures since the last success.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_cap_and_never_beyond() {
        let mut backoff = Backoff::new(100, 10_000, 7);
        for attempt in 0..200u32 {
            let ceiling = (100u64 << attempt.min(20)).min(10_000);
            assert!(backoff.next_wait() <= Duration::from_millis(ceiling));
        }
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_millis(100));
    }
}
