//! The simulated store: a driver in virtual time over the real [`Sequencer`], [`Committer`] and [`SegmentStreamLog`].
//! Pure: it does in steps what the store's driver does on a thread, and says what it did to the checkers.
//!
//! [`Sequencer`]: store::shard::sequencer::Sequencer

use std::collections::BTreeMap;
use std::sync::Arc;

use disk::{Crash, DirName, MemoryDisk};
use protocol::batch::Batch;
use protocol::frame::{Frame, Header};
use protocol::hash::HashKey;
use protocol::name::StreamName;
use protocol::outcome::{Ack, Outcome};
use protocol::rng::Rng;
use protocol::sequence::ShardId;
use protocol::stream::{ShardInfo, StreamConfig, StreamInfo};
use protocol::time::UnixMs;
use store::log::segment::SegmentStreamLog;
use store::log::{LogReader, StreamLog};
use store::retain;
use store::shard::commit::{Committer, ShardMap, Work, gone, map_of, rules};
use store::shard::driver::{StateReplay, head_shards};
use store::shard::group::Group;
use store::shard::sequencer::{Decision, Now, Sequencer};
use store::shard::state::StreamState;

use super::check::{Checks, Decided, Seen};
use super::disk::WorldDisk;
use super::net::ConnId;
use super::record::RecordId;
use super::scenario::{Mutant, Scenario};

/// Answer of a store that is full.
const BUSY_RETRY_MS: u32 = 20;

/// Who waits for a commit.
#[derive(Debug)]
pub enum Waiting {
    /// A producer.
    Ack(ConnId, Ack),
    /// Whoever split or merged shards.
    Reshard,
}

/// What the world has to carry on.
#[derive(Debug)]
pub enum Effect {
    /// Send an answer.
    Answer(ConnId, Ack),
    /// Tell everybody about the stream.
    StreamChanged,
}

/// The store is dead.
#[derive(Debug)]
pub struct Died(pub String);

/// One life of the store's process.
pub struct Running {
    committer: Committer<Waiting>,
    log: Option<Box<dyn StreamLog>>,
    /// The commit that is running, and the log that it has.
    flying: Option<(Group<Waiting>, Work)>,
    committing: Option<Box<dyn StreamLog>>,
    spare: Group<Waiting>,
    /// The reading side.
    pub reader: Arc<dyn LogReader>,
    /// The shards as they are durable.
    pub map: ShardMap,
    pending: usize,
    epochs: BTreeMap<ConnId, u32>,
    throttled: Option<(u64, Outcome)>,
}

/// See the module.
pub struct Node {
    scenario: Scenario,
    name: StreamName,
    config: StreamConfig,
    dir: DirName,
    /// What survives.
    pub disk: MemoryDisk,
    /// Unless it is dead.
    pub running: Option<Running>,
    born: bool,
    /// New appends are answered `Busy`.
    pub is_full: bool,
    batch: Batch<'static>,
}

impl Node {
    /// A store that was never started.
    #[must_use]
    pub fn new(scenario: &Scenario, name: StreamName, dir: DirName, seed: u64) -> Node {
        let mutant = |m| scenario.mutant == Some(m);
        let config = StreamConfig {
            retention_ms: scenario.retention_ms,
            shard_rate: scenario.rate.filter(|_| !mutant(Mutant::ThrottleIgnored)),
            record_bytes_max: scenario.record_bytes_max,
            ..StreamConfig::default()
        };
        Node {
            scenario: scenario.clone(),
            name,
            config,
            dir,
            disk: MemoryDisk::new(seed),
            running: None,
            born: false,
            is_full: false,
            batch: Batch::new(),
        }
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.scenario.mutant == Some(mutant)
    }

    /// Opens the log and goes on from what it holds.
    ///
    /// # Errors
    /// When the disk is in the way: the process ends.
    pub fn start(&mut self, now: Now, checks: &mut Checks) -> Result<(), Died> {
        let disk = Arc::new(WorldDisk::new(self.disk.clone(), self.scenario.mutant));
        let mut replay = StateReplay::default();
        let opened = SegmentStreamLog::open(
            disk,
            self.dir.clone(),
            self.scenario.segment_bytes,
            head_shards,
            &mut replay,
        );
        let (mut log, opened) = opened.map_err(|e| Died(e.to_string()))?;
        let fresh = (!self.born).then(|| StreamState::new(self.scenario.shards, now.wall));
        for damage in &opened.recovery.damage {
            replay.problems.push(format!("{damage:?}"));
        }
        let Some(state) = replay.state.or(fresh) else {
            checks.see(&Seen::Problem("no segment has a readable head"));
            return Err(Died("no head".to_owned()));
        };
        if !opened.has_head {
            let head =
                Sequencer::new(state.clone(), rules(&self.config)).head_frame(now.wall, log.durable_end().0);
            log.start_segment(&head).map_err(|e| Died(e.to_string()))?;
        }
        self.born = true;
        for problem in &replay.problems {
            checks.see(&Seen::Problem(problem));
        }
        checks.see(&Seen::Started(&state));
        self.running = Some(Running {
            reader: log.reader(),
            map: map_of(&state),
            committer: Committer::new(state, &self.config),
            log: Some(Box::new(log)),
            flying: None,
            committing: None,
            spare: Group::default(),
            pending: 0,
            epochs: BTreeMap::new(),
            throttled: None,
        });
        Ok(())
    }

    /// The process ends, the machine perhaps with it.
    pub fn die(&mut self, how: Crash) {
        self.running = None;
        self.disk = self.disk.crash(how);
    }

    /// A producer has connected.
    pub fn hello(&mut self, conn: ConnId, epoch: u32) {
        if let Some(running) = &mut self.running {
            running.epochs.insert(conn, epoch);
        }
    }

    /// The stream, as others see it.
    #[must_use]
    pub fn info(&self) -> Option<StreamInfo> {
        let running = self.running.as_ref()?;
        let shard = |(id, shard): (&ShardId, &store::shard::state::Shard)| ShardInfo {
            id: *id,
            range: shard.range,
            parents: shard.parents.clone(),
            first: shard.first,
            tail: running.reader.tail(*id).max(shard.first),
            closed: shard.closed.is_some(),
            created: shard.created,
        };
        Some(StreamInfo {
            name: self.name.clone(),
            key: self.name.key(),
            created: UnixMs(0),
            config: self.config.clone(),
            map_version: running.map.0,
            shards: running.map.1.iter().map(shard).collect(),
            stored_bytes: running.reader.stored_bytes(),
            resharded: Vec::new(),
        })
    }

    /// A frame came in. `Err` where it is none: the connection is closed then.
    ///
    /// # Errors
    /// The bytes are no frame, or no batch.
    pub fn append(
        &mut self,
        conn: ConnId,
        bytes: &[u8],
        now: Now,
        checks: &mut Checks,
        effects: &mut Vec<Effect>,
    ) -> Result<(), String> {
        let frame = Frame::parse(bytes).map_err(|e| e.to_string())?;
        self.batch.open(&frame.header, frame.payload).map_err(|e| e.to_string())?;
        let (ignore_bound, no_dedupe) = (self.is(Mutant::NoPendingBound), self.is(Mutant::NoDedupe));
        let no_order = self.is(Mutant::NoOrder);
        let throttle_all = self.is(Mutant::ThrottleEverything);
        let Some(running) = &mut self.running else { return Err("dead".to_owned()) };
        let Some(epoch) = running.epochs.get(&conn).copied() else { return Err("no hello".to_owned()) };
        let header = frame.header;
        let waiting = running.pending + bytes.len();
        if self.is_full || (waiting > self.scenario.pending_max && !ignore_bound) {
            if !self.scenario.mutant.is_some_and(|m| m == Mutant::BusyForgotten) {
                running.committer.sequencer.turn_away(&header, epoch, now);
            }
            let outcome = Outcome::Busy { retry_after_ms: BUSY_RETRY_MS };
            effects.push(Effect::Answer(conn, Ack::to(&header, outcome)));
            return Ok(());
        }
        if let Some((until, outcome)) = running.throttled.clone().filter(|_| throttle_all)
            && now.mono.0 < until
        {
            let records = where_to(&self.batch, running.committer.sequencer.state(), u32::MAX);
            checks.see(&Seen::Decided(&Decided {
                header: &header,
                records: &records,
                outcome: &outcome,
                now,
            }));
            effects.push(Effect::Answer(conn, Ack::to(&header, outcome)));
            return Ok(());
        }
        let Committer { sequencer, group, .. } = &mut running.committer;
        let before = group.len();
        let records = where_to(&self.batch, sequencer.state(), self.scenario.record_bytes_max);
        let known = Header { producer_id: if no_dedupe { 0 } else { header.producer_id }, ..header };
        let mut decision = sequencer.handle_batch(&known, frame.payload, &self.batch, epoch, now, group);
        if no_order && matches!(decision, Decision::Now(Outcome::OutOfSequence { .. })) {
            let known = Header { producer_id: 0, ..header };
            decision = sequencer.handle_batch(&known, frame.payload, &self.batch, epoch, now, group);
        }
        let added = group.len() - before;
        let (Decision::Now(outcome) | Decision::WhenDurable(outcome)) = &decision;
        checks.see(&Seen::Decided(&Decided { header: &header, records: &records, outcome, now }));
        if let Outcome::Throttled { retry_after_ms, .. } = outcome {
            running.throttled = Some((now.mono.0 + u64::from(*retry_after_ms) * 1000, outcome.clone()));
        }
        let ack = Ack::to(&header, outcome.clone());
        match decision {
            Decision::Now(_) => effects.push(Effect::Answer(conn, ack)),
            Decision::WhenDurable(_) => {
                running.pending += added;
                group.wait(Waiting::Ack(conn, ack));
            }
        }
        checks.see(&Seen::Pending(running.pending));
        Ok(())
    }

    /// Begins a commit unless one is running or there is nothing to do: true when one began.
    ///
    /// # Errors
    /// The log failed.
    pub fn begin_commit(
        &mut self,
        now: Now,
        checks: &mut Checks,
        effects: &mut Vec<Effect>,
    ) -> Result<bool, Died> {
        let early = self.is(Mutant::AckBeforeSync);
        let forget = self.is(Mutant::ForgetLanesAtHead);
        let leak = self.is(Mutant::DeliverBeforeDurable);
        let Some(running) = &mut self.running else { return Ok(false) };
        let Some(mut log) = running.log.take() else { return Ok(false) };
        let mut group = std::mem::take(&mut running.spare);
        let Some(mut work) = running.committer.take_work(&mut group, &*log, running.map.0, now) else {
            running.log = Some(log);
            return Ok(false);
        };
        if forget && work.head.is_some() {
            let state = StreamState { lanes: BTreeMap::new(), ..running.committer.sequencer.state().clone() };
            work.head = Some(Sequencer::new(state, rules(&self.config)).head_frame(now.wall, 0));
        }
        work.append(&mut *log, &mut group).map_err(|e| Died(e.to_string()))?;
        if leak {
            checks.see(&Seen::Leaked(&group.pieces().concat()));
        }
        if early {
            let len = group.len();
            checks.see(&Seen::Synced(group.entries()));
            answer(group.take_waiting(1 << 16), checks, effects);
            running.pending -= len;
        }
        running.flying = Some((group, work));
        running.committing = Some(log);
        Ok(true)
    }

    /// Makes the commit durable, answers, and lets readers see it.
    ///
    /// # Errors
    /// The log failed.
    pub fn sync_commit(&mut self, checks: &mut Checks, effects: &mut Vec<Effect>) -> Result<(), Died> {
        let Some(running) = &mut self.running else { return Ok(()) };
        let Some((mut group, work)) = running.flying.take() else { return Ok(()) };
        let Some(log) = running.committing.as_mut() else { return Ok(()) };
        work.sync(&mut **log).map_err(|e| Died(e.to_string()))?;
        checks.see(&Seen::Synced(group.entries()));
        if let Some(map) = &work.map {
            running.map = Arc::clone(map);
        }
        running.pending -= group.len();
        answer(group.take_waiting(1 << 16), checks, effects);
        running.flying = Some((group, work));
        Ok(())
    }

    /// Begins the next segment and removes old ones; then the log is free for the next commit.
    ///
    /// # Errors
    /// The log failed.
    pub fn end_commit(&mut self) -> Result<(), Died> {
        let Some(running) = &mut self.running else { return Ok(()) };
        let Some((group, work)) = running.flying.take() else { return Ok(()) };
        let Some(mut log) = running.committing.take() else { return Ok(()) };
        work.tidy(&mut *log).map_err(|e| Died(e.to_string()))?;
        running.spare = group;
        running.log = Some(log);
        Ok(())
    }

    /// Splits or merges what chance says.
    pub fn reshard(&mut self, rng: &mut Rng, now: Now) -> Option<String> {
        let off_by_one = self.is(Mutant::SplitOffByOne);
        let running = self.running.as_mut()?;
        let Committer { sequencer, group, .. } = &mut running.committer;
        let mut open: Vec<_> = sequencer.state().open_shards().map(|(id, s)| (s.range, id)).collect();
        open.sort_by_key(|(range, _)| range.start);
        let place = rng.below(open.len() as u64) as usize;
        let (range, id) = open[place];
        let before = group.len();
        let merge = open.len() >= 2 && (open.len() >= 6 || rng.chance(500));
        let done = if merge {
            let place = place.min(open.len() - 2);
            sequencer.merge(open[place].1, open[place + 1].1, now, group)
        } else {
            let width = range.end.0 - range.start.0;
            let share = u128::from(rng.between(1, 9));
            let at = rng.chance(500).then(|| HashKey(range.start.0 + width / 10 * share));
            sequencer.split(id, at, now, group)
        };
        done.ok()?;
        running.pending += group.len() - before;
        group.wait(Waiting::Reshard);
        if off_by_one {
            let mut state = sequencer.state().clone();
            for shard in state.shards.values_mut().filter(|s| s.closed.is_none() && s.next == s.first) {
                shard.first.0 = shard.first.0.saturating_sub(1);
                shard.next = shard.first;
            }
            *sequencer = Sequencer::new(state, rules(&self.config));
        }
        Some(format!("{} {id}", if merge { "merge at" } else { "split" }))
    }

    /// What retention does now and then.
    pub fn retain(&mut self, roll: bool, now: Now, checks: &mut Checks) {
        let too_much = self.is(Mutant::TrimTooMuch);
        let Some(running) = &mut self.running else { return };
        let Ok(ages) = running.reader.segments(64) else { return };
        let active = running.reader.active();
        let stored = running.reader.stored_bytes();
        let plan = retain::plan(&self.config, &ages, stored, active.begun, active.used, now.wall);
        let mut below = plan.trim_below;
        if too_much {
            below = ages.iter().filter(|age| age.sealed.is_some()).map(|age| age.end).max();
        }
        checks.see(&Seen::Wall(now.wall));
        let gone = gone(&running.map, &*running.reader);
        let forgot = running.committer.retain(below, (plan.roll || roll) && active.used, &gone, &running.map);
        if let Some(map) = forgot {
            running.map = map;
        }
    }
}

fn answer(waiting: Vec<Waiting>, checks: &mut Checks, effects: &mut Vec<Effect>) {
    for waiting in waiting {
        match waiting {
            Waiting::Ack(conn, ack) => {
                checks.see(&Seen::Answered(&ack));
                effects.push(Effect::Answer(conn, ack));
            }
            Waiting::Reshard => effects.push(Effect::StreamChanged),
        }
    }
}

/// The records that can be stored, in order, and the shard of each.
fn where_to(batch: &Batch, state: &StreamState, record_bytes_max: u32) -> Vec<(RecordId, ShardId, u64)> {
    let route = |key: &str| {
        let hash = HashKey::of_partition_key(key);
        let shard = state.open_shards().find(|(_, shard)| shard.range.contains(hash));
        shard.map_or(ShardId::UNROUTED, |(id, _)| id)
    };
    let shards: Vec<ShardId> = batch.keys().map(|(key, _)| route(key)).collect();
    let fits = batch.records().filter(|record| record.data.len() <= record_bytes_max as usize);
    let found = fits.filter_map(|record| {
        let id = RecordId::of(record.data)?;
        let bytes = record.data.len() + record.partition_key.len();
        Some((id, shards[record.key_index as usize], bytes as u64))
    });
    found.collect()
}
