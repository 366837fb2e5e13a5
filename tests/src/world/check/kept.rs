//! Acked means kept; read once, read for ever; nothing unsynced is read. Pure.

use std::collections::BTreeMap;

use protocol::frame::{Frame, Kind};
use protocol::outcome::Outcome;
use protocol::sequence::ShardId;
use protocol::time::UnixMs;

use super::{Checker, Decided, Seen};
use crate::world::record::RecordId;

type BatchKey = (u128, u32, u64);

#[derive(Debug, Clone, Copy)]
struct Kept {
    id: RecordId,
    arrival: UnixMs,
}

/// Promise 1: every acknowledged record is readable, at its sequence number, until retention takes it.
#[derive(Debug)]
pub(super) struct Acked {
    retention_ms: u64,
    decided: BTreeMap<BatchKey, Vec<(ShardId, u64, Kept)>>,
    kept: BTreeMap<ShardId, BTreeMap<u64, Kept>>,
    latest: UnixMs,
}

impl Acked {
    pub(super) fn new(retention_ms: u64) -> Acked {
        Acked { retention_ms, decided: BTreeMap::new(), kept: BTreeMap::new(), latest: UnixMs(0) }
    }

    fn decide(&mut self, decided: &Decided<'_>) -> Result<(), String> {
        let Outcome::Stored { parts, .. } = decided.outcome else { return Ok(()) };
        let mut placed = Vec::new();
        for part in parts {
            let mine = decided.records.iter().filter(|(_, shard, _)| *shard == part.shard);
            let before = placed.len();
            for (place, (id, shard, _)) in mine.enumerate() {
                let kept = Kept { id: *id, arrival: decided.now.wall };
                placed.push((*shard, part.first_sequence.0 + place as u64, kept));
            }
            if placed.len() - before != part.record_count as usize {
                return Err(format!(
                    "{part:?} of {:?} should have {}",
                    decided.header,
                    placed.len() - before
                ));
            }
        }
        if placed.len() != decided.records.len() {
            return Err(format!("{} of {} records were placed", placed.len(), decided.records.len()));
        }
        let header = decided.header;
        self.decided.insert((header.producer_id, header.lane, header.producer_sequence), placed);
        Ok(())
    }
}

impl Checker for Acked {
    fn promise(&self) -> &'static str {
        "acked means kept"
    }

    fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Decided(decided) => {
                // An answer does not say whose it is; a connection does. One number is enough: producers differ
                // in their records.
                return self.decide(decided);
            }
            Seen::Answered(ack) => {
                if !matches!(ack.outcome, Outcome::Stored { .. }) {
                    return Ok(());
                }
                let Outcome::Stored { parts, .. } = &ack.outcome else { return Ok(()) };
                let mine = self.decided.iter().find(|((_, lane, sequence), placed)| {
                    let first = placed.first().map(|(shard, sequence, _)| (*shard, *sequence));
                    let said = parts.first().map(|part| (part.shard, part.first_sequence.0));
                    (*lane, *sequence, first) == (ack.lane, ack.producer_sequence, said)
                });
                let key = mine.map(|(key, _)| *key).ok_or_else(|| format!("nobody decided {ack:?}"))?;
                for (shard, sequence, kept) in self.decided.remove(&key).unwrap_or_default() {
                    self.kept.entry(shard).or_default().insert(sequence, kept);
                }
            }
            Seen::Wall(now) => self.latest = self.latest.max(*now),
            Seen::Started(state) => {
                self.decided.clear();
                for (shard, kept) in &self.kept {
                    let (Some(known), Some((last, kept))) = (state.shards.get(shard), kept.last_key_value())
                    else {
                        continue;
                    };
                    if known.next.0 <= *last {
                        let id = kept.id;
                        return Err(format!("{shard} goes on at {}; {id:?} was acked at {last}", known.next));
                    }
                }
            }
            Seen::Audit(audit) => {
                let kept = self.kept.entry(audit.shard).or_default();
                for (sequence, kept) in kept.iter() {
                    let due = kept.arrival.0 + self.retention_ms;
                    if *sequence < audit.first {
                        if due >= self.latest.0 {
                            return Err(format!("{:?} at {sequence} was trimmed too early", kept.id));
                        }
                        continue;
                    }
                    let place = (sequence - audit.first) as usize;
                    match audit.records.get(place) {
                        Some((at, id)) if (*at, *id) == (*sequence, kept.id) => {}
                        other => {
                            let shard = audit.shard;
                            return Err(format!("{:?} at {sequence} of {shard}: found {other:?}", kept.id));
                        }
                    }
                }
                kept.retain(|sequence, _| *sequence >= audit.first);
            }
            _ => {}
        }
        Ok(())
    }
}

/// Once read by anybody, a record stays where it was and what it was.
#[derive(Debug, Default)]
pub(super) struct Stable {
    read: BTreeMap<ShardId, (u64, Vec<RecordId>)>,
}

impl Checker for Stable {
    fn promise(&self) -> &'static str {
        "once read, a record never disappears or changes"
    }

    fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Read(read) => {
                let Some((first, _)) = read.records.first() else { return Ok(()) };
                let (start, known) = self.read.entry(read.shard).or_insert((*first, Vec::new()));
                for (sequence, id) in read.records {
                    if *sequence != *start + known.len() as u64 {
                        let end = *start + known.len() as u64;
                        return Err(format!("{} goes on at {sequence} after {end}", read.shard));
                    }
                    known.push(*id);
                }
            }
            Seen::Audit(audit) => {
                let Some((start, known)) = self.read.get(&audit.shard) else { return Ok(()) };
                let end = start + known.len() as u64;
                if audit.tail < end {
                    return Err(format!("{} ends at {}, {end} was read", audit.shard, audit.tail));
                }
                for (sequence, id) in audit.records.iter().filter(|(at, _)| (*start..end).contains(at)) {
                    let was = known[(sequence - start) as usize];
                    if was != *id {
                        return Err(format!("{} at {sequence}: {id:?}, it was {was:?}", audit.shard));
                    }
                }
                let whole = audit.records.len() as u64 == audit.tail - audit.first;
                if !whole {
                    let (shard, count) = (audit.shard, audit.records.len());
                    return Err(format!("{shard}: {count} records from {} to {}", audit.first, audit.tail));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Nothing that is not synced is ever read.
#[derive(Debug, Default)]
pub(super) struct Durable {
    synced: BTreeMap<ShardId, u64>,
}

impl Durable {
    fn check(&self, shard: ShardId, end: u64) -> Result<(), String> {
        let synced = self.synced.get(&shard).copied().unwrap_or_default();
        if end <= synced { Ok(()) } else { Err(format!("{shard} was read to {end}, synced to {synced}")) }
    }
}

impl Checker for Durable {
    fn promise(&self) -> &'static str {
        "nothing unsynced is ever read"
    }

    fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Started(state) => {
                self.synced = state.shards.iter().map(|(id, shard)| (*id, shard.next.0)).collect();
                Ok(())
            }
            Seen::Synced(entries) => {
                for entry in entries.iter().filter(|entry| entry.header.kind == Kind::Data) {
                    let end = entry.header.end_sequence().0;
                    let synced = self.synced.entry(entry.header.shard).or_default();
                    *synced = (*synced).max(end);
                }
                Ok(())
            }
            Seen::Read(read) => self.check(read.shard, read.header.end_sequence().0),
            Seen::Leaked(bytes) => {
                let mut rest = *bytes;
                while let Ok((frame, after)) = Frame::parse_first(rest) {
                    if frame.header.kind == Kind::Data {
                        self.check(frame.header.shard, frame.header.end_sequence().0)?;
                    }
                    rest = after;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
