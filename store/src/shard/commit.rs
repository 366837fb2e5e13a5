//! What a stream's next commit is, and its steps in order: collect, append, sync, answer, begin a segment, trim.
//! Pure: the log is whoever's, time is a value. The driver runs the steps on a thread, the simulator in virtual
//! time; neither decides.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use protocol::frame::Kind;
use protocol::sequence::ShardId;
use protocol::stream::{Fsync, Scaling, StreamConfig};
use protocol::time::Mono;

use super::group::Group;
use super::sequencer::{Now, Rules, Sequencer};
use super::state::{Shard, StreamState};
use crate::log::{LogError, LogReader, Position, StreamLog};

/// The shards as they are durable, and the version of that map.
pub type ShardMap = Arc<(u64, BTreeMap<ShardId, Shard>)>;

/// A state's shards.
#[must_use]
pub fn map_of(state: &StreamState) -> ShardMap {
    Arc::new((state.map_version, state.shards.clone()))
}

/// What of a stream's settings the sequencer needs.
#[must_use]
pub fn rules(config: &StreamConfig) -> Rules {
    Rules {
        shard_rate: config.shard_rate,
        record_bytes_max: config.record_bytes_max as usize,
        observe: config.scaling != Scaling::Provisioned,
    }
}

/// What collects while a commit runs.
#[derive(Debug)]
pub struct Committer<W> {
    /// Decides.
    pub sequencer: Sequencer,
    /// The next group.
    pub group: Group<W>,
    /// Nothing more is taken.
    pub closing: bool,
    fsync: Fsync,
    /// Written and not durable since then; only where the stream is set so.
    dirty_since: Option<Mono>,
    trim_below: Option<Position>,
    roll: bool,
}

/// One commit, beside its group.
#[derive(Debug, Default)]
pub struct Work {
    /// The head of the segment that begins after it.
    pub head: Option<Vec<u8>>,
    /// The shards, where they are others after it.
    pub map: Option<ShardMap>,
    /// Whether it is synced before anybody is answered.
    pub sync: bool,
    /// What is removed after it.
    pub trim_below: Option<Position>,
}

impl<W> Committer<W> {
    /// Goes on from a state.
    #[must_use]
    pub fn new(state: StreamState, config: &StreamConfig) -> Committer<W> {
        Committer {
            sequencer: Sequencer::new(state, rules(config)),
            group: Group::default(),
            closing: false,
            fsync: config.fsync,
            dirty_since: None,
            trim_below: None,
            roll: false,
        }
    }

    /// Settings changed.
    pub fn configure(&mut self, config: &StreamConfig) {
        self.sequencer.set_rules(rules(config));
        self.fsync = config.fsync;
    }

    /// Something waits for a commit at once.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.group.is_empty() || self.trim_below.is_some() || self.roll
    }

    /// When what was written without a sync is to be synced, at the latest so many milliseconds from then.
    #[must_use]
    pub fn sync_due(&self) -> Option<u32> {
        match (self.dirty_since, self.fsync) {
            (Some(_), Fsync::IntervalMs(ms)) if !self.closing => Some(ms),
            _ => None,
        }
    }

    /// Something is written and not durable.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.dirty_since.is_some()
    }

    /// Takes what has collected, in exchange for an empty group; `None` when there is nothing to do.
    /// `known_map` is the version of the map that readers have.
    pub fn take_work(
        &mut self,
        group: &mut Group<W>,
        log: &dyn StreamLog,
        known_map: u64,
        now: Now,
    ) -> Option<Work> {
        let must_sync = self.dirty_since.is_some_and(|since| match self.fsync {
            Fsync::Always => true,
            Fsync::IntervalMs(ms) => {
                now.mono.since(since) >= Duration::from_millis(u64::from(ms)) || self.closing
            }
        });
        if !self.has_work() && !must_sync {
            return None;
        }
        std::mem::swap(&mut self.group, group);
        let roll = std::mem::take(&mut self.roll) || log.needs_head(group.len());
        // The state now is the state after this group, which will be the last of its segment.
        let head = roll.then(|| self.sequencer.head_frame(now.wall, 0));
        let state = self.sequencer.state();
        let map = (state.map_version != known_map).then(|| map_of(state));
        let sync = must_sync
            || self.fsync == Fsync::Always
            || group.entries().iter().any(|e| e.header.kind != Kind::Data);
        if sync {
            self.dirty_since = None;
        } else {
            self.dirty_since.get_or_insert(now.mono);
        }
        Some(Work { head, map, sync, trim_below: self.trim_below.take() })
    }

    /// Segments below a position go, and a new one begins where `roll` says so, with the next commit. Closed shards
    /// of which nothing is left (see [`gone`]) are forgotten at once; the durable map without them is returned. It
    /// has nothing of a split or merge that still waits for its commit.
    pub fn retain(
        &mut self,
        below: Option<Position>,
        roll: bool,
        gone: &[ShardId],
        durable: &ShardMap,
    ) -> Option<ShardMap> {
        self.trim_below = below.or(self.trim_below);
        self.roll |= roll;
        let forgot = self.sequencer.forget_expired(|id, _| gone.contains(&id));
        forgot.then(|| {
            let left = durable.1.iter().filter(|(id, _)| !gone.contains(id));
            Arc::new((durable.0, left.map(|(id, shard)| (*id, shard.clone())).collect()))
        })
    }
}

/// Shards that are durably closed, and of which the log has nothing any more.
#[must_use]
pub fn gone(durable: &ShardMap, reader: &dyn LogReader) -> Vec<ShardId> {
    let closed = durable.1.iter().filter(|(_, shard)| shard.closed.is_some());
    let gone = closed.filter(|(id, shard)| {
        shard.next == shard.first || reader.first(**id).is_ok_and(|first| first >= shard.next)
    });
    gone.map(|(id, _)| *id).collect()
}

impl Work {
    /// The first step: the group is written, and nobody may know.
    ///
    /// # Errors
    /// When the log failed, as in every step: nobody is answered then, and the log is not used again.
    pub fn append<W>(&self, log: &mut dyn StreamLog, group: &mut Group<W>) -> Result<(), LogError> {
        group.finish(log.durable_end().0);
        log.append(&group.pieces(), group.entries())?;
        Ok(())
    }

    /// The second: it is durable. Now whoever waits may be answered.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn sync(&self, log: &mut dyn StreamLog) -> Result<(), LogError> {
        if self.sync {
            log.sync()?;
        }
        Ok(())
    }

    /// The third: the next segment begins, and the oldest go.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn tidy(&self, log: &mut dyn StreamLog) -> Result<(), LogError> {
        if let Some(head) = &self.head {
            log.start_segment(head)?;
        }
        if let Some(below) = self.trim_below {
            log.trim(below)?;
        }
        Ok(())
    }
}
