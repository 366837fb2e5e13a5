//! Scales streams in on-demand mode: brings the scaler what the shards were asked to take, does what it decides, and keeps
//! the reasons. Driver: the deciding is in [`crate::scale`].

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::name::StreamKey;
use protocol::stream::{CallError, Resharded, Scaling};

use super::{Open, Service, locked};
use crate::catalog::{Change, StreamEntry};
use crate::scale::{Decision, Policy, Scaler};

/// How often it looks.
const EVERY: Duration = Duration::from_secs(1);

/// Reasons that are kept of a stream.
const REASONS_MAX: usize = 100;

/// Peaks are kept in the catalog when they have grown by this much: thousandths.
const PEAK_STEP: u64 = 1100;

fn policy(scaling: Scaling) -> Option<Policy> {
    match scaling {
        Scaling::Provisioned => None,
        Scaling::OnDemand => Some(Policy::DoublePeak),
        Scaling::Immediate => Some(Policy::Immediate),
    }
}

impl Service {
    pub(super) fn start_scaling(&self) {
        // The task must not keep the store open.
        let weak = std::sync::Arc::downgrade(&self.inner);
        let task = tokio::spawn(async move {
            let mut scalers = BTreeMap::new();
            loop {
                tokio::time::sleep(EVERY).await;
                let Some(inner) = weak.upgrade() else { return };
                Service { inner }.scaling_round(&mut scalers).await;
            }
        });
        locked(&self.inner.upkeep).push(task);
    }

    async fn scaling_round(&self, scalers: &mut BTreeMap<StreamKey, Scaler>) {
        let mut still = BTreeMap::new();
        for open in self.open_streams_now() {
            let key = open.name.key();
            let entry = locked(&self.inner.catalog).state().streams.get(&open.name).cloned();
            let Some((entry, policy)) = entry
                .and_then(|entry| Some((policy(entry.config.scaling)?, entry)))
                .map(|(policy, entry)| (entry, policy))
            else {
                continue;
            };
            let known = scalers.remove(&key).filter(|scaler| scaler.policy() == policy);
            let mut scaler = known.unwrap_or_else(|| Scaler::new(policy, &entry.traits.peaks));
            // What can't be changed now, is decided again.
            let _ = self.scale(&open, &entry, &mut scaler).await;
            still.insert(key, scaler);
        }
        *scalers = still;
    }

    async fn scale(&self, open: &Open, entry: &StreamEntry, scaler: &mut Scaler) -> Result<(), CallError> {
        let rate = entry.config.shard_rate.unwrap_or_default();
        let (map, loads) = (open.stream.map(), open.stream.take_loads());
        let (now, wall) = (self.inner.clock.mono(), self.inner.clock.wall());
        scaler.handle_loads((now, wall), rate, &map.1, &loads);
        let Some(decision) = scaler.poll(now, &map.1) else { return self.keep_peaks(open, scaler).await };
        let (what, why) = match decision {
            Decision::Split { shard, at, why } => {
                self.reshard(&open.name, |sequencer, now, group| {
                    group.split(sequencer, shard, Some(at), now)
                })
                .await?;
                (format!("split {} at {at}", shard.0), why)
            }
            Decision::Merge { shard, adjacent, why } => {
                self.reshard(&open.name, |sequencer, now, group| {
                    group.merge(sequencer, shard, adjacent, now)
                })
                .await?;
                (format!("merged {} and {}", shard.0, adjacent.0), why)
            }
            Decision::Stuck { shard, why } => (format!("left {}", shard.0), why),
        };
        self.keep(open, scaler, Some(Resharded { time: wall, what, why })).await
    }

    async fn keep_peaks(&self, open: &Open, scaler: &Scaler) -> Result<(), CallError> {
        let known =
            locked(&self.inner.catalog).state().streams.get(&open.name).map(|e| e.traits.peaks.clone());
        let most = |peaks: &[(u64, u64)]| peaks.iter().map(|(_, peak)| *peak).max().unwrap_or(0);
        let (known, now) = (known.unwrap_or_default(), scaler.peaks());
        let grown = most(&now) * 1000 > most(&known).max(1000) * PEAK_STEP;
        let days = |peaks: &[(u64, u64)]| peaks.last().map(|(day, _)| *day);
        let another_day = most(&now) > 0 && days(&known).is_some() && days(&known) != days(&now);
        if grown || another_day { self.keep(open, scaler, None).await } else { Ok(()) }
    }

    async fn keep(&self, open: &Open, scaler: &Scaler, reason: Option<Resharded>) -> Result<(), CallError> {
        let _changing = self.inner.changing.lock().await;
        let entry = locked(&self.inner.catalog).state().streams.get(&open.name).cloned();
        // It was removed meanwhile.
        let Some(mut entry) = entry else { return Ok(()) };
        entry.traits.peaks = scaler.peaks();
        add(&mut entry.traits.resharded, reason);
        self.commit_change(Change::PutStream { name: open.name.clone(), entry }).await
    }
}

/// Keeps a reason, and forgets the oldest where there are too many.
fn add(reasons: &mut Vec<Resharded>, reason: Option<Resharded>) {
    reasons.extend(reason);
    let over = reasons.len().saturating_sub(REASONS_MAX);
    reasons.drain(..over);
}

#[cfg(test)]
mod tests {
    use protocol::time::UnixMs;

    use super::*;

    /// Reaches `REASONS_MAX`.
    #[test]
    fn so_many_reasons_are_kept_and_the_oldest_are_forgotten_first() {
        let reason = |n: usize| Resharded { time: UnixMs(n as u64), what: String::new(), why: String::new() };
        let mut reasons = Vec::new();
        (0..REASONS_MAX).for_each(|n| add(&mut reasons, Some(reason(n))));
        assert_eq!((reasons.len(), reasons[0].time.0), (REASONS_MAX, 0));
        add(&mut reasons, Some(reason(REASONS_MAX)));
        assert_eq!((reasons.len(), reasons[0].time.0), (REASONS_MAX, 1));
    }
}
