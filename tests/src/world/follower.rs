//! A reader that follows all shards all the time, parents before children, and now and then looks at everything
//! again. Pure: it reads as any consumer does, through the reading side of the log.

use std::collections::BTreeMap;

use protocol::batch::Batch;
use protocol::frame::{Frame, Header};
use protocol::rng::Rng;
use protocol::sequence::{SequenceNumber, ShardId};
use store::log::{LogReader, ReadError, ReadLimit};
use store::shard::commit::ShardMap;
use store::shard::state::Shard;

use super::check::{Audit, Checks, Read, Seen};
use super::record::RecordId;

/// Takes the records of one frame, with their sequence numbers.
type See<'a> = &'a mut dyn FnMut(&Header, &[(u64, RecordId)]);

/// See the module.
#[derive(Default)]
pub struct Follower {
    next: BTreeMap<ShardId, SequenceNumber>,
    batch: Batch<'static>,
}

impl Follower {
    /// Reads what is new.
    ///
    /// # Errors
    /// The disk can't be read: no wonder where the machine has stopped.
    pub fn poll(
        &mut self,
        map: &ShardMap,
        reader: &dyn LogReader,
        rng: &mut Rng,
        checks: &mut Checks,
    ) -> Result<(), ReadError> {
        checks.see(&Seen::Shards(map));
        for (id, shard) in &map.1 {
            if shard.parents.iter().all(|parent| self.is_done(map, *parent)) {
                self.follow(*id, shard, reader, rng, checks)?;
            }
        }
        Ok(())
    }

    /// All of it was read, or it is so old that nothing of it is left.
    fn is_done(&self, map: &ShardMap, parent: ShardId) -> bool {
        let Some(shard) = map.1.get(&parent) else { return true };
        let next = self.next.get(&parent).copied().unwrap_or(shard.first);
        shard.closed.is_some() && next >= shard.next
    }

    fn follow(
        &mut self,
        id: ShardId,
        shard: &Shard,
        reader: &dyn LogReader,
        rng: &mut Rng,
        checks: &mut Checks,
    ) -> Result<(), ReadError> {
        let mut next = self.next.get(&id).copied().unwrap_or(shard.first);
        while next < reader.tail(id) {
            let limit = ReadLimit { bytes_max: rng.between(1, 8000) as usize };
            let found = reader.read(id, next, limit)?;
            if found.next <= next {
                let why = format!("{id} has nothing at {next}, its tail is {}", reader.tail(id));
                checks.see(&Seen::Problem(&why));
                break;
            }
            let see = &mut |header: &Header, records: &[(u64, RecordId)]| {
                checks.see(&Seen::Read(Read { shard: id, header, records }));
            };
            if let Err(problem) = self.unpack(&found.frames, next.0, see) {
                checks.see(&Seen::Problem(&format!("{id}: {problem}")));
                break;
            }
            if found.frames.is_empty() {
                let why = format!("{id}: nothing from {next} to {}, and nobody trimmed it", found.next);
                checks.see(&Seen::Problem(&why));
            }
            next = found.next;
            self.next.insert(id, next);
        }
        Ok(())
    }

    /// Hands on the records of each frame from a sequence number on.
    fn unpack(&mut self, mut frames: &[u8], from: u64, see: See<'_>) -> Result<(), String> {
        let mut records = Vec::new();
        while !frames.is_empty() {
            let (frame, rest) = Frame::parse_first(frames).map_err(|e| e.to_string())?;
            self.batch.open(&frame.header, frame.payload).map_err(|e| e.to_string())?;
            records.clear();
            for record in self.batch.records() {
                let sequence = frame.header.first_sequence.0 + u64::from(record.index);
                let id = RecordId::of(record.data).ok_or("bytes that nobody made")?;
                if !id.has_partition_key(record.partition_key) {
                    return Err(format!("{id:?} under the key {:?}", record.partition_key));
                }
                if sequence >= from {
                    records.push((sequence, id));
                }
            }
            see(&frame.header, &records);
            frames = rest;
        }
        Ok(())
    }

    /// Reads everything that can be read.
    ///
    /// # Errors
    /// As [`poll`](Self::poll).
    pub fn audit(
        &mut self,
        map: &ShardMap,
        reader: &dyn LogReader,
        checks: &mut Checks,
    ) -> Result<(), ReadError> {
        for (id, shard) in &map.1 {
            let first = reader.first(*id)?.max(shard.first);
            let tail = reader.tail(*id).max(shard.first);
            let (mut next, mut all) = (first, Vec::new());
            while next < tail {
                let found = reader.read(*id, next, ReadLimit { bytes_max: 1 << 20 })?;
                if found.next <= next {
                    checks.see(&Seen::Problem(&format!("{id} has nothing at {next} before {tail}")));
                    break;
                }
                let see = &mut |_: &Header, records: &[(u64, RecordId)]| all.extend_from_slice(records);
                if let Err(problem) = self.unpack(&found.frames, next.0, see) {
                    checks.see(&Seen::Problem(&format!("{id}: {problem}")));
                    break;
                }
                next = found.next;
            }
            checks.see(&Seen::Audit(Audit { shard: *id, first: first.0, tail: tail.0, records: &all }));
        }
        Ok(())
    }
}
