//! Bounds hold, what is refused is counted, and in the end everything drains. Pure.

use super::{Checker, Seen};
use crate::world::scenario::{ProducerKind, Scenario};

/// A batch that is divided gets a header for each part: what is let in may grow by so much.
const PENDING_SLACK: usize = 1500;

/// The agent's spool writes its whole state whenever it is opened, whether there is room or not.
const SPOOL_RESTART_BYTES: u64 = 4096;

/// What the store has refused is noted at once, whether there is room or not: nobody says it again.
const SPOOL_REFUSED_BYTES: u64 = 2048;

/// Promise 6.
#[derive(Debug)]
pub(super) struct Bounds {
    pending_max: usize,
    spool_max: u64,
    inflight_max: u32,
    kind: ProducerKind,
}

impl Bounds {
    pub(super) fn new(scenario: &Scenario) -> Bounds {
        Bounds {
            pending_max: scenario.pending_max,
            spool_max: match scenario.kind {
                ProducerKind::Agent => scenario.spool_bytes_max + SPOOL_REFUSED_BYTES,
                _ => scenario.spool_bytes_max,
            },
            kind: scenario.kind,
            inflight_max: scenario.inflight_max,
        }
    }
}

impl Checker for Bounds {
    fn promise(&self) -> &'static str {
        "memory, spool and what is on its way never exceed their bounds"
    }

    fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        match *seen {
            Seen::Restarted if self.kind == ProducerKind::Agent => {
                self.spool_max += SPOOL_RESTART_BYTES;
                Ok(())
            }
            Seen::Pending(bytes) if bytes > self.pending_max + PENDING_SLACK => {
                Err(format!("{bytes} bytes wait for a commit, {} may", self.pending_max))
            }
            Seen::Spool(bytes, _) if bytes > self.spool_max => {
                Err(format!("{bytes} bytes in a spool of {}", self.spool_max))
            }
            Seen::Spool(_, inflight) if inflight > self.inflight_max => {
                Err(format!("{inflight} batches on their way, {} may be", self.inflight_max))
            }
            _ => Ok(()),
        }
    }
}

/// Promise 7: every record that the stream does not take is in its producer's ledger, and nothing else is.
#[derive(Debug)]
pub(super) struct Counted {
    record_bytes_max: usize,
}

impl Counted {
    pub(super) fn new(record_bytes_max: usize) -> Counted {
        Counted { record_bytes_max }
    }
}

impl Checker for Counted {
    fn promise(&self) -> &'static str {
        "whatever is refused is counted"
    }

    fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        let too_long = |id: &crate::world::record::RecordId| id.data_len() > self.record_bytes_max;
        match seen {
            Seen::Read(read) => match read.records.iter().find(|(_, id)| too_long(id)) {
                Some((_, id)) => Err(format!("{id:?} is too long and was stored")),
                None => Ok(()),
            },
            Seen::End(ending) if ending.drained => {
                for (place, (source, lost)) in ending.sources.iter().zip(&ending.lost).enumerate() {
                    let want = source.iter().filter(|id| too_long(id)).count() as u64;
                    let may_miss = ending.may_miss.get(place).copied().unwrap_or_default();
                    if *lost > want || (*lost < want && !may_miss) {
                        return Err(format!("producer {place}: {want} were refused, its ledger has {lost}"));
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Promise 8.
#[derive(Debug)]
pub(super) struct Drained;

impl Checker for Drained {
    fn promise(&self) -> &'static str {
        "when faults stop, everything drains"
    }

    fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::End(ending) if !ending.drained => Err(ending.stuck.clone()),
            _ => Ok(()),
        }
    }
}
