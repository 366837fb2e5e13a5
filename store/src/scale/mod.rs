//! Decides when a stream in on-demand mode gets more shards or fewer, and where it is cut. It is told what each shard was
//! asked to take ([`Load`]) and answers with one change at a time and the reason for it. Pure: no clock, no files, and it
//! changes nothing itself.
//!
//! A shard is divided at the median of the hash keys that were seen in it, so that one hot range is divided where it is
//! hot. A shard whose load is one key's can't be divided; that is said, once in a while, and nothing is done.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use protocol::bucket::ShardRate;
use protocol::hash::HashKey;
use protocol::sequence::ShardId;
use protocol::time::{Mono, UnixMs};

use crate::shard::sequencer::Load;
use crate::shard::state::Shard;

/// Open shards that such a stream has at least, and begins with: 4 MiB/s.
pub const SHARDS_MIN: usize = 4;
/// Open shards that it has at most.
pub const SHARDS_MAX: usize = 1024;
/// Days whose peaks count.
const PEAK_DAYS: u64 = 30;
const DAY_MS: u64 = 24 * 3_600_000;
/// Keys of a shard that are remembered.
const KEYS_MAX: usize = 512;
/// What a shard's load is averaged over: short to see that it is hot, long to see that it is cold.
const HOT_OVER: Duration = Duration::from_secs(5);
const COLD_OVER: Duration = Duration::from_secs(300);
/// What the whole stream's is averaged over for its peak.
const PEAK_OVER: Duration = Duration::from_secs(60);
/// A shard is looked at for this long before it is divided or merged.
const SETTLE: Duration = Duration::from_secs(3);
const COLD_AFTER: Duration = Duration::from_secs(600);
const MERGE_EVERY: Duration = Duration::from_secs(30);
const SPLIT_EVERY: Duration = Duration::from_millis(900);
/// Shares of a shard's rate: above the first it is hot; two neighbours below the second together are cold.
const HOT: f64 = 0.75;
const COLD: f64 = 0.3;
/// With AWS's rule the capacity is this many times the peak.
const HEADROOM: f64 = 2.0;
/// It is not said again so soon that a shard can't be divided.
const STUCK_EVERY: Duration = Duration::from_secs(3600);

/// By which rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Capacity is twice the peak of the last thirty days.
    DoublePeak,
    /// Capacity follows the load within seconds, and goes back within minutes.
    Immediate,
}

/// The peaks of the last days: day since 1970, and thousandths of a shard's rate.
pub type Peaks = Vec<(u64, u64)>;

/// What to do to a stream, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Divide a shard: the upper child begins at `at`.
    Split {
        /// Which.
        shard: ShardId,
        /// Where.
        at: HashKey,
        /// For people.
        why: String,
    },
    /// Make one of two neighbours.
    Merge {
        /// One.
        shard: ShardId,
        /// The other.
        adjacent: ShardId,
        /// For people.
        why: String,
    },
    /// Nothing can be done about a hot shard.
    Stuck {
        /// Which.
        shard: ShardId,
        /// For people.
        why: String,
    },
}

#[derive(Debug)]
struct Seen {
    since: Mono,
    hot: f64,
    cold: f64,
    throttled: u64,
    keys: VecDeque<HashKey>,
    stuck: Option<Mono>,
}

impl Seen {
    fn new(since: Mono, share: f64) -> Seen {
        Seen { since, hot: share, cold: share, throttled: 0, keys: VecDeque::new(), stuck: None }
    }

    /// The lowest key of the upper half of the load; `None` where all of it is one key's.
    fn median(&self) -> Option<HashKey> {
        let mut keys: Vec<HashKey> = self.keys.iter().copied().collect();
        keys.sort_unstable();
        let (first, middle) = (*keys.first()?, *keys.get(keys.len() / 2)?);
        if middle > first { Some(middle) } else { keys.into_iter().find(|key| *key > first) }
    }
}

/// One stream's.
#[derive(Debug)]
pub struct Scaler {
    policy: Policy,
    shards: BTreeMap<ShardId, Seen>,
    peaks: BTreeMap<u64, u64>,
    total: f64,
    looked: Option<Mono>,
    changed: Option<Mono>,
    merged: Option<Mono>,
}

/// An average that forgets.
fn blend(average: &mut f64, now: f64, passed: Duration, over: Duration) {
    let keep = (-passed.as_secs_f64() / over.as_secs_f64()).exp();
    *average = *average * keep + now * (1.0 - keep);
}

fn open(shards: &BTreeMap<ShardId, Shard>) -> Vec<(ShardId, &Shard)> {
    let mut open: Vec<_> =
        shards.iter().filter(|(_, shard)| shard.closed.is_none()).map(|(id, shard)| (*id, shard)).collect();
    open.sort_by_key(|(_, shard)| shard.range.start);
    open
}

fn since(now: Mono, then: Option<Mono>, span: Duration) -> bool {
    then.is_none_or(|then| now.since(then) >= span)
}

impl Scaler {
    /// Goes on with the peaks of before.
    #[must_use]
    pub fn new(policy: Policy, peaks: &Peaks) -> Scaler {
        Scaler {
            policy,
            shards: BTreeMap::new(),
            peaks: peaks.iter().copied().collect(),
            total: 0.0,
            looked: None,
            changed: None,
            merged: None,
        }
    }

    /// By which rule.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// What to keep for the next start.
    #[must_use]
    pub fn peaks(&self) -> Peaks {
        self.peaks.iter().map(|(day, peak)| (*day, *peak)).collect()
    }

    /// What the shards were asked to take since this was last said.
    pub fn handle_loads(
        &mut self,
        (now, wall): (Mono, UnixMs),
        rate: ShardRate,
        shards: &BTreeMap<ShardId, Shard>,
        loads: &BTreeMap<ShardId, Load>,
    ) {
        let passed = self.looked.map_or(Duration::from_secs(1), |looked| now.since(looked));
        self.looked = Some(now);
        if passed.is_zero() {
            return;
        }
        self.meet(now, shards);
        let (none, mut total) = (Load::default(), 0.0);
        for (id, seen) in &mut self.shards {
            let load = loads.get(id).unwrap_or(&none);
            let a_second = |amount: u64, rate: u64| amount as f64 / passed.as_secs_f64() / rate.max(1) as f64;
            let stored = a_second(load.bytes, rate.bytes_per_second)
                .max(a_second(load.records, rate.records_per_second));
            // Who is turned away wants more than there is.
            let share = if load.throttled > 0 { stored.max(1.0) } else { stored };
            blend(&mut seen.hot, share, passed, HOT_OVER);
            blend(&mut seen.cold, share, passed, COLD_OVER);
            seen.throttled =
                if load.throttled > 0 { seen.throttled + load.throttled } else { seen.throttled / 2 };
            seen.keys.extend(load.sample.keys());
            let over = seen.keys.len().saturating_sub(KEYS_MAX);
            seen.keys.drain(..over);
            total += share;
        }
        blend(&mut self.total, total, passed, PEAK_OVER);
        self.note_peak(wall);
    }

    /// Forgets shards that are closed, and meets new ones: a child begins with its part of its parents' load.
    fn meet(&mut self, now: Mono, shards: &BTreeMap<ShardId, Shard>) {
        for (id, shard) in open(shards) {
            if !self.shards.contains_key(&id) {
                let parents: f64 = shard
                    .parents
                    .iter()
                    .filter_map(|parent| self.shards.get(parent))
                    .map(|seen| seen.cold)
                    .sum();
                let children = shards.values().filter(|other| other.parents == shard.parents).count();
                let share = if shard.parents.is_empty() { 0.0 } else { parents / children as f64 };
                self.shards.insert(id, Seen::new(now, share));
            }
        }
        self.shards.retain(|id, _| shards.get(id).is_some_and(|shard| shard.closed.is_none()));
    }

    fn note_peak(&mut self, wall: UnixMs) {
        let day = wall.0 / DAY_MS;
        let peak = self.peaks.entry(day).or_default();
        *peak = (*peak).max((self.total * 1000.0) as u64);
        self.peaks.retain(|then, _| then + PEAK_DAYS > day);
    }

    /// Open shards that the peak asks for.
    fn wanted(&self) -> usize {
        let peak = self.peaks.values().max().copied().unwrap_or(0);
        ((peak as f64 / 1000.0 * HEADROOM).ceil() as usize).clamp(SHARDS_MIN, SHARDS_MAX)
    }

    /// The next thing to do, if there is one. It counts as done.
    pub fn poll(&mut self, now: Mono, shards: &BTreeMap<ShardId, Shard>) -> Option<Decision> {
        let open = open(shards);
        let decision = self.split(now, &open).or_else(|| self.merge(now, &open))?;
        match &decision {
            Decision::Split { .. } => self.changed = Some(now),
            Decision::Merge { .. } => (self.changed, self.merged) = (Some(now), Some(now)),
            Decision::Stuck { shard, .. } => {
                if let Some(seen) = self.shards.get_mut(shard) {
                    seen.stuck = Some(now);
                }
            }
        }
        Some(decision)
    }

    fn split(&self, now: Mono, open: &[(ShardId, &Shard)]) -> Option<Decision> {
        if open.len() >= SHARDS_MAX || !since(now, self.changed, SPLIT_EVERY) {
            return None;
        }
        let wanted = self.wanted();
        let grows = self.policy == Policy::DoublePeak && open.len() < wanted;
        let candidates = self.shards.iter().filter(|(_, seen)| {
            let settled = now.since(seen.since) >= SETTLE;
            settled && (seen.hot > HOT || grows) && since(now, seen.stuck, STUCK_EVERY)
        });
        let (id, seen) = candidates.max_by(|(_, a), (_, b)| a.hot.total_cmp(&b.hot))?;
        let range = open.iter().find(|(open, _)| open == id)?.1.range;
        let loaded = format!("{id} took {:.0} % of its rate", seen.hot * 100.0);
        let turned = if seen.throttled > 0 {
            format!(", and turned {} requests away lately", seen.throttled)
        } else {
            String::new()
        };
        let reason = if seen.hot > HOT {
            format!("{loaded}{turned}")
        } else {
            let peak = self.peaks.values().max().copied().unwrap_or(0) as f64 / 1000.0;
            format!(
                "the peak of the last {PEAK_DAYS} days is {peak:.1} shards, twice that is {wanted}; {loaded}"
            )
        };
        let inside = |at: &HashKey| range.start < *at && range.contains(*at);
        if let Some(at) = seen.median().filter(inside) {
            let why = format!("{reason}; divided at the median of {} keys seen", seen.keys.len());
            return Some(Decision::Split { shard: *id, at, why });
        }
        if seen.hot <= HOT {
            // It is to grow, and nothing was seen in here: in the middle, if there is one.
            let at = HashKey(range.start.0 + (range.end.0 - range.start.0) / 2 + 1);
            let why = format!("{reason}; divided in the middle, as no keys were seen");
            return inside(&at).then_some(Decision::Split { shard: *id, at, why });
        }
        let why =
            format!("{reason}; all of it is one partition key's, so dividing the shard would help nobody");
        Some(Decision::Stuck { shard: *id, why })
    }

    fn merge(&self, now: Mono, open: &[(ShardId, &Shard)]) -> Option<Decision> {
        if open.len() <= SHARDS_MIN
            || !since(now, self.merged, MERGE_EVERY)
            || !since(now, self.changed, MERGE_EVERY)
        {
            return None;
        }
        let shrinks = match self.policy {
            Policy::DoublePeak => open.len() > self.wanted(),
            Policy::Immediate => true,
        };
        if !shrinks {
            return None;
        }
        let pairs = open.windows(2).filter_map(|pair| {
            let (one, other) = (self.shards.get(&pair[0].0)?, self.shards.get(&pair[1].0)?);
            let old = |seen: &Seen| now.since(seen.since) >= COLD_AFTER;
            let load = one.cold.max(one.hot) + other.cold.max(other.hot);
            (old(one) && old(other) && load < COLD).then_some((pair[0].0, pair[1].0, load))
        });
        let (shard, adjacent, load) = pairs.min_by(|a, b| a.2.total_cmp(&b.2))?;
        let why = format!(
            "{shard} and {adjacent} took {:.0} % of one shard's rate together for {} minutes",
            load * 100.0,
            COLD_AFTER.as_secs() / 60
        );
        Some(Decision::Merge { shard, adjacent, why })
    }
}

#[cfg(test)]
mod simulation;
