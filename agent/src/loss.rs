//! The loss ledger: what was dropped, cut, refused or found damaged, added up until it is told. Pure.
//! It lives in the spool's state, so that a loss is as durable as what it is about.

use std::collections::BTreeMap;

use protocol::time::UnixMs;
use serde::{Deserialize, Serialize};

/// The stream that losses are told in.
pub use protocol::name::LOSS_STREAM;

/// The reason of what was damaged in the spool.
pub const SPOOL_DAMAGED: &str = "spool_damaged";

/// More kinds than this between two tellings are added up under one name: the ledger is bounded too.
const KINDS_MAX: usize = 256;

/// Something that was lost, or many of a kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// Where: a file, a topic, a stream's lane, a place in the spool.
    pub source: String,
    /// Why, in a word or two: `line_truncated`, `spool_full`, `spool_damaged`, `refused: ...`.
    pub reason: String,
    /// From the first one's place to the last one's, in the source's terms.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub range: String,
    /// Records; 0 where nobody can know.
    pub records: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Loss {
    /// One loss.
    #[must_use]
    pub fn new(source: impl Into<String>, reason: impl Into<String>, records: u64, bytes: u64) -> Loss {
        Loss { source: source.into(), reason: reason.into(), range: String::new(), records, bytes }
    }

    /// With a range.
    #[must_use]
    pub fn at(mut self, from: u64, to: u64) -> Loss {
        self.range = format!("{from}..{to}");
        self
    }
}

/// Losses that were not told yet, and how much was lost in all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    pending: Vec<Loss>,
    /// Records lost since the spool was made.
    pub records: u64,
    /// Bytes lost since the spool was made.
    pub bytes: u64,
    /// By reason, since the spool was made.
    #[serde(default)]
    pub by_reason: BTreeMap<String, u64>,
}

/// What the record of a loss holds, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossRecord {
    /// Whose.
    pub agent: String,
    /// When it was told, by the agent's clock.
    pub time: UnixMs,
    /// What.
    #[serde(flatten)]
    pub loss: Loss,
}

impl Ledger {
    /// Notes a loss.
    pub fn add(&mut self, loss: Loss) {
        self.records += loss.records;
        self.bytes += loss.bytes;
        // The rest of a line that is too long has bytes and no record; of damage nobody knows how many it had.
        let records = if loss.reason == SPOOL_DAMAGED { loss.records.max(1) } else { loss.records };
        *self.by_reason.entry(loss.reason.clone()).or_default() += records;
        let same = |p: &&mut Loss| p.source == loss.source && p.reason == loss.reason;
        if let Some(pending) = self.pending.iter_mut().find(same) {
            pending.records += loss.records;
            pending.bytes += loss.bytes;
            pending.range = join(&pending.range, &loss.range);
        } else if self.pending.len() < KINDS_MAX {
            self.pending.push(loss);
        } else {
            let other = Loss { source: "(others)".to_owned(), range: String::new(), ..loss };
            match self.pending.iter_mut().find(|p| p.source == other.source && p.reason == other.reason) {
                Some(pending) => {
                    pending.records += other.records;
                    pending.bytes += other.bytes;
                }
                None => self.pending.push(other),
            }
        }
    }

    /// Whether there is something to tell.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Keeps what was lost of one source from being told; it stays counted.
    pub fn forget(&mut self, source: &str) {
        self.pending.retain(|loss| loss.source != source);
    }

    /// What there is to tell, which then counts as told.
    pub fn take(&mut self) -> Vec<Loss> {
        std::mem::take(&mut self.pending)
    }
}

/// From the start of one range to the end of the other.
fn join(first: &str, last: &str) -> String {
    match (first.split_once(".."), last.split_once("..")) {
        (Some((from, _)), Some((_, to))) => format!("{from}..{to}"),
        (None, _) => last.to_owned(),
        _ => first.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_of_a_kind_are_added_up_and_told_once() {
        let mut ledger = Ledger::default();
        for n in 0..1000 {
            ledger.add(Loss::new("a.log", "line_truncated", 1, 10).at(n * 100, n * 100 + 10));
        }
        let told = ledger.take();
        let want = Loss::new("a.log", "line_truncated", 1000, 10_000);
        assert_eq!(told, [Loss { range: "0..99910".to_owned(), ..want }]);
        assert!(ledger.is_empty());
        assert_eq!((ledger.records, ledger.by_reason["line_truncated"]), (1000, 1000));
    }

    /// Reaches `KINDS_MAX`.
    #[test]
    fn the_ledger_stays_small_however_many_sources_lose() {
        let mut ledger = Ledger::default();
        for n in 0..10_000 {
            ledger.add(Loss::new(format!("f{n}"), "spool_full", 1, 1));
        }
        let told = ledger.take();
        assert_eq!(told.len(), KINDS_MAX + 1);
        assert_eq!(told.iter().map(|l| l.records).sum::<u64>(), 10_000);
    }
}
