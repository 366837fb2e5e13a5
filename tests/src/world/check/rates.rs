//! A shard takes what its rate allows and no more; who is turned away was really over it, in that very shard. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::bucket::ShardRate;
use protocol::outcome::Outcome;
use protocol::sequence::ShardId;
use protocol::time::Mono;

use super::{Checker, Decided, Seen};
use crate::world::scenario::Scenario;

/// How much a shard has taken above its rate: a leaky bucket, counted in another way than the store does.
#[derive(Debug, Clone, Copy, Default)]
struct Above {
    amount: f64,
    at: Mono,
}

impl Above {
    fn now(&self, rate: f64, now: Mono) -> f64 {
        (self.amount - rate * now.since(self.at).as_secs_f64()).max(0.0)
    }
}

/// Promise 5.
#[derive(Debug)]
pub(super) struct Rates {
    rate: Option<ShardRate>,
    lone: bool,
    /// Of two batches that are sent at the right distance the second may have been faster on its way, by so many seconds: it is
    /// too early by no fault of its sender.
    jitter: f64,
    shards: BTreeMap<ShardId, (Above, Above)>,
    /// What was stored took a shard further than a second's worth, as one large batch may, and it has not been at rest since.
    in_debt: bool,
    /// The producer began anew since, and can't know that: it takes the shard to be ahead of where it is.
    forgot: bool,
}

/// Rounding: of the store's waits up to whole milliseconds, and of ours.
const TOLERANCE: f64 = 2.0;

impl Rates {
    pub(super) fn new(scenario: &Scenario) -> Rates {
        let (rate, lone) = (scenario.rate, scenario.lone);
        let jitter = Duration::from_micros(scenario.delay_us.1).as_secs_f64();
        Rates { rate, lone, jitter, shards: BTreeMap::new(), in_debt: false, forgot: false }
    }

    fn decide(&mut self, decided: &Decided<'_>, rate: ShardRate) -> Result<(), String> {
        let rates = (rate.bytes_per_second as f64, rate.records_per_second as f64);
        let now = decided.now.mono;
        let mut shares = BTreeMap::<ShardId, (f64, f64)>::new();
        for (_, shard, bytes) in decided.records {
            let share = shares.entry(*shard).or_default();
            *share = (share.0 + *bytes as f64, share.1 + 1.0);
        }
        // A bucket saves one second's worth; more than that at once is let through when it is full.
        let over = |above: Above, share: f64, rate: f64| above.now(rate, now) + share.min(rate) - rate;
        match decided.outcome {
            Outcome::Stored { .. } => {
                let at_rest = |(bytes, records): &(Above, Above)| {
                    bytes.now(rates.0, now) == 0.0 && records.now(rates.1, now) == 0.0
                };
                self.in_debt &= !self.shards.values().all(at_rest);
                self.forgot &= self.in_debt;
                for (shard, share) in shares {
                    let (bytes, records) = self.shards.entry(shard).or_default();
                    let over = over(*bytes, share.0, rates.0).max(over(*records, share.1, rates.1));
                    if over > TOLERANCE {
                        return Err(format!("{shard} took {share:?}, {over} more than its rate allows"));
                    }
                    *bytes = Above { amount: bytes.now(rates.0, now) + share.0, at: now };
                    *records = Above { amount: records.now(rates.1, now) + share.1, at: now };
                    self.in_debt |= bytes.amount > rates.0 || records.amount > rates.1;
                }
                Ok(())
            }
            Outcome::Throttled { shard, .. } => {
                let Some(share) = shares.get(shard) else {
                    return Err(format!("{shard} turned away a batch that has nothing for it"));
                };
                let (bytes, records) = self.shards.entry(*shard).or_default();
                let over = [over(*bytes, share.0, rates.0), over(*records, share.1, rates.1)];
                let late = over[0] > rates.0 * self.jitter + TOLERANCE
                    || over[1] > rates.1 * self.jitter + TOLERANCE;
                if self.lone && late && !(self.in_debt && self.forgot) {
                    return Err(format!("{shard} turned away a producer that keeps to the rate"));
                }
                let over = over[0].max(over[1]);
                if over < -TOLERANCE {
                    return Err(format!("{shard} turned away {share:?} with {} to spare", -over));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl Checker for Rates {
    fn promise(&self) -> &'static str {
        "a throttled shard delays its own keys and nobody else's, and the rate holds"
    }

    fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        match (seen, self.rate) {
            // A new process has full buckets.
            (Seen::Started(_), _) => self.shards.clear(),
            (Seen::Restarted, _) => self.forgot = true,
            (Seen::Decided(decided), Some(rate)) => return self.decide(decided, rate),
            _ => {}
        }
        Ok(())
    }
}
