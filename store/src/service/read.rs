//! Reading batches of a shard, and waiting for them.

use std::time::Duration;

use protocol::limit;
use protocol::name::StreamName;
use protocol::sequence::{SequenceNumber, ShardId};
use protocol::stream::{CallError, CallErrorCode, StartingPosition};

use super::{Service, call_error};
use crate::log::{ReadBatches, ReadError, ReadLimit};
use crate::principal::{Principal, Role};
use crate::shard::driver::Stream;

/// At most this many things that are wrong with the data are remembered.
const PROBLEMS_MAX: usize = 1000;

/// What a read found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// Where the next read should start.
    pub next: SequenceNumber,
    /// After the last durable record of the shard.
    pub tail: SequenceNumber,
    /// The shard is closed and this reaches its end.
    pub at_end: bool,
    /// What was asked for is damaged up to `next`, where reading goes on.
    pub damaged: bool,
    /// How far the last record in here is behind the store's clock; 0 at the tail.
    pub behind_ms: u64,
    /// Whole frames. The first may begin before the place that was asked for: skip those records.
    pub frames: Vec<u8>,
}

impl Service {
    /// Batches of a shard from a place on; waits up to `wait_ms` for the first.
    ///
    /// # Errors
    /// When stream or shard are not there, or not for this principal, or what was asked for is damaged.
    pub async fn read(
        &self,
        principal: &Principal,
        name: &StreamName,
        shard: ShardId,
        from: StartingPosition,
        bytes_max: usize,
        wait_ms: u64,
    ) -> Result<Read, CallError> {
        if principal.role != Role::Admin {
            let message = format!("{principal} may not read: use the admin certificate");
            return Err(call_error(CallErrorCode::Denied, message));
        }
        let stream = self.find_stream(name)?;
        let mut committed = stream.committed();
        let from = start(&stream, name, shard, from).await?;
        self.inner.paced.wait(&self.inner.gate, &self.inner.clock).await;
        let limit = ReadLimit { bytes_max: bytes_max.clamp(1, limit::READ_BYTES_MAX) };
        let wait = tokio::time::sleep(wait_of(wait_ms));
        tokio::pin!(wait);
        loop {
            committed.mark_unchanged();
            // Asked before reading, so that `at_end` is never said too early.
            let end = end_of(&stream, name, shard)?;
            let found = match batches(&stream, shard, from, limit).await? {
                Ok(found) => found,
                Err(damage) => return Ok(self.damaged(name, &stream, shard, from, damage)),
            };
            let at_end = end.is_some_and(|end| found.next >= end);
            if !found.frames.is_empty() || at_end || wait.is_elapsed() {
                self.inner.paced.taken(found.frames.len(), &self.inner.clock);
                return Ok(self.answer(&stream, shard, found, at_end));
            }
            tokio::select! {
                biased;
                changed = committed.changed() => if changed.is_err() {
                    return Err(call_error(CallErrorCode::NotFound, format!("stream {name} is gone")));
                },
                () = &mut wait => {}
            }
        }
    }

    /// The record that a position means now.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn position(
        &self,
        principal: &Principal,
        name: &StreamName,
        shard: ShardId,
        from: StartingPosition,
    ) -> Result<SequenceNumber, CallError> {
        super::streams::may_command(principal)?;
        start(&self.find_stream(name)?, name, shard, from).await
    }

    fn answer(&self, stream: &Stream, shard: ShardId, found: ReadBatches, at_end: bool) -> Read {
        let tail = stream.tail(shard);
        let behind = self.inner.clock.wall().millis_since(found.last_arrival);
        let behind_ms = if found.next < tail && !found.frames.is_empty() { behind } else { 0 };
        Read { next: found.next, tail, at_end, damaged: false, behind_ms, frames: found.frames }
    }

    fn damaged(
        &self,
        name: &StreamName,
        stream: &Stream,
        shard: ShardId,
        from: SequenceNumber,
        next: SequenceNumber,
    ) -> Read {
        let problem = format!("stream {name}: {shard} is damaged from sequence {from} to before {next}");
        note(&mut super::locked(&self.inner.problems), problem);
        let tail = stream.tail(shard);
        Read { next, tail, at_end: false, damaged: true, behind_ms: 0, frames: Vec::new() }
    }
}

/// Where a closed shard ends; `None` for an open one.
fn end_of(stream: &Stream, name: &StreamName, shard: ShardId) -> Result<Option<SequenceNumber>, CallError> {
    let map = stream.map();
    let found = map.1.get(&shard).ok_or_else(|| no_shard(name, shard))?;
    Ok(found.closed.map(|_| stream.tail(shard)))
}

fn no_shard(name: &StreamName, shard: ShardId) -> CallError {
    call_error(
        CallErrorCode::NotFound,
        format!("stream {name} has no {shard}; `kinesin stream describe {name}` shows all"),
    )
}

async fn start(
    stream: &Stream,
    name: &StreamName,
    shard: ShardId,
    from: StartingPosition,
) -> Result<SequenceNumber, CallError> {
    end_of(stream, name, shard)?;
    let stream = stream.clone();
    blocking(move || match from {
        StartingPosition::At(sequence) => Ok(sequence.max(stream.begin(shard))),
        StartingPosition::Latest => Ok(stream.tail(shard)),
        StartingPosition::TrimHorizon => stream.first(shard),
        StartingPosition::AtTime(time) => stream.at_time(shard, time),
    })
    .await
}

async fn batches(
    stream: &Stream,
    shard: ShardId,
    from: SequenceNumber,
    limit: ReadLimit,
) -> Result<Result<ReadBatches, SequenceNumber>, CallError> {
    if from >= stream.tail(shard) {
        return Ok(Ok(ReadBatches { next: from, ..ReadBatches::default() }));
    }
    let reader = std::sync::Arc::clone(stream.reader());
    blocking(move || match reader.read(shard, from, limit) {
        Err(ReadError::Damaged { resume, .. }) => Ok(Err(resume)),
        found => found.map(Ok),
    })
    .await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
) -> Result<T, CallError> {
    let done = tokio::task::spawn_blocking(work).await;
    let internal = |why: String| call_error(CallErrorCode::Internal, why);
    done.map_err(|e| internal(e.to_string()))?.map_err(|e| internal(e.to_string()))
}

/// How long a read waits that asks for so much.
fn wait_of(ms: u64) -> Duration {
    Duration::from_millis(ms.min(limit::READ_WAIT_MS_MAX))
}

/// Remembers what is wrong, once.
fn note(problems: &mut Vec<String>, problem: String) {
    if problems.len() < PROBLEMS_MAX && !problems.contains(&problem) {
        problems.push(problem);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reaches `PROBLEMS_MAX`.
    #[test]
    fn as_many_problems_are_remembered_as_may_be_and_each_once() {
        let mut problems = Vec::new();
        (0..PROBLEMS_MAX - 1).for_each(|n| note(&mut problems, n.to_string()));
        note(&mut problems, "0".to_owned());
        assert_eq!(problems.len(), PROBLEMS_MAX - 1);
        (0..2).for_each(|n| note(&mut problems, format!("one more: {n}")));
        assert_eq!(problems.len(), PROBLEMS_MAX);
    }

    /// Reaches `READ_WAIT_MS_MAX` of protocol/src/limit.rs.
    #[test]
    fn a_read_waits_as_long_as_it_may_and_no_longer() {
        let longest = Duration::from_millis(limit::READ_WAIT_MS_MAX);
        assert_eq!(wait_of(limit::READ_WAIT_MS_MAX - 1), longest - Duration::from_millis(1));
        assert_eq!([limit::READ_WAIT_MS_MAX + 1, u64::MAX].map(wait_of), [longest; 2]);
    }
}
