//! The real agent's machines as a [`Producer`]: batcher, routes, spool and outbox over a disk in memory; what the
//! agent's threads do between them is done here, one step after the other. Pure.

use std::sync::Arc;

use agent::batcher::Batcher;
use agent::config::BatchSettings;
use agent::routes::Routes;
use agent::send::outbox::{self, Outbox, Read, Send};
use agent::spool::{BatchMeta, CursorUpdate, Settings, Spool, SpoolReader};
use disk::{Crash, DirName, MemoryDisk, Position, ReadError};
use protocol::batch::BatchBuilder;
use protocol::compress::{Codec, Compressor};
use protocol::frame::{HEADER_BYTES, Header, Kind};
use protocol::name::StreamName;
use protocol::outcome::{Ack, Outcome};
use protocol::rng::Rng;
use protocol::stream::StreamInfo;
use protocol::time::{Mono, UnixMs};

use super::disk::WorldDisk;
use super::producer::Producer;
use super::record::RecordId;
use super::scenario::{Mutant, Scenario};

/// How often the spool is told what was delivered, in milliseconds.
const TELL_MS: u64 = 50;

/// Under which the place in the source is kept.
const CURSOR: &str = "source";

/// What was taken and waits for room in the spool.
struct Waiting {
    frames: Vec<u8>,
    update: CursorUpdate,
}

/// One life of the agent's process.
struct Running {
    spool: Spool,
    reader: SpoolReader,
    outbox: Outbox,
    batcher: Batcher,
    routes: Routes,
    taken: usize,
    waiting: Option<Waiting>,
    inflight: u32,
    connected: bool,
}

/// See the module.
pub struct RealAgent {
    scenario: Scenario,
    name: StreamName,
    id: u128,
    disk: MemoryDisk,
    running: Running,
    told_at: Mono,
    heard_ack: bool,
    duplicates: bool,
    wall: UnixMs,
    rng: Rng,
    oddity: Option<String>,
}

/// The bounds of its spool.
pub(super) fn settings(scenario: &Scenario) -> Settings {
    let max_bytes = scenario.spool_bytes_max;
    Settings { max_bytes, segment_bytes: (max_bytes / 8).clamp(2048, 16 << 10), min_free: 0 }
}

impl Running {
    fn start(disk: &MemoryDisk, scenario: &Scenario, id: u128, seed: u64) -> Result<(Running, bool), String> {
        let mutant = match scenario.mutant {
            Some(Mutant::AgentSkipsSync) => Some(Mutant::SkipSync),
            _ => None,
        };
        let disk = Arc::new(WorldDisk::new(disk.clone(), mutant));
        let dir = DirName::new("spool").map_err(|e| e.to_string())?;
        let opened = Spool::open(disk, dir, settings(scenario), id);
        let (spool, opened) = opened.map_err(|e| e.to_string())?;
        let outbox = outbox::Settings {
            lane_batches_max: 8,
            batches_max: 64,
            inflight_batches_max: scenario.inflight_max,
            inflight_bytes_max: 1 << 20,
        };
        let batches =
            BatchSettings { records_max: 12, bytes_max: 4000, linger_ms: 6, ..BatchSettings::default() };
        let running = Running {
            reader: spool.reader(),
            outbox: Outbox::new(outbox, spool.state(), seed),
            batcher: Batcher::new(&[batches], (scenario.spool_bytes_max / 8) as usize),
            routes: Routes::new(spool.state()),
            taken: spool.state().cursors.get(CURSOR).and_then(|at| at.parse().ok()).unwrap_or(0),
            waiting: None,
            inflight: 0,
            connected: false,
            spool,
        };
        Ok((running, !opened.damaged.is_empty()))
    }

    /// Takes records, as long as the batcher wants any.
    fn take(&mut self, source: &[RecordId], name: &StreamName, now: Mono, wall: UnixMs) {
        while self.waiting.is_none()
            && !self.batcher.is_full(0)
            && let Some(id) = source.get(self.taken)
        {
            let key = id.partition_key();
            let lane = self.routes.lane(name, &key);
            if self.batcher.push(0, lane, &key, wall, &id.data(), now).is_ok() {
                self.taken += 1;
            }
        }
    }

    fn commit_due(&mut self, now: Mono, scenario: &Scenario) -> Result<(), String> {
        let due = self.batcher.is_full(0) || self.batcher.due(0).is_some_and(|due| now >= due);
        if self.waiting.is_none() && (due || self.routes.has_changed()) {
            let ahead = usize::from(scenario.mutant == Some(Mutant::CursorRunsAhead));
            let sealed = self.batcher.take(0, Vec::new());
            let mut update = CursorUpdate { streams: self.routes.take_changed(), ..CursorUpdate::default() };
            update.cursors.insert(CURSOR.to_owned(), Some((self.taken + ahead).to_string()));
            self.waiting = Some(Waiting { frames: sealed.frames, update });
        }
        let Some(mut waiting) = self.waiting.take() else { return Ok(()) };
        let room = self.spool.has_room_for(&waiting.frames, &waiting.update);
        if !room.map_err(|e| e.to_string())? {
            self.waiting = Some(waiting);
            return Ok(());
        }
        let appended = self.spool.append(&mut waiting.frames, waiting.update, &mut Vec::new());
        appended.and_then(|()| self.spool.sync()).map_err(|e| e.to_string())
    }

    fn tell(&mut self) -> Result<(), String> {
        match self.outbox.poll_delivered() {
            Some(update) => self.spool.delivered(&update).map_err(|e| e.to_string()),
            None => Ok(()),
        }
    }

    /// Reads headers ahead, as the link does.
    fn read_spool(&mut self) -> Result<(), String> {
        while let Some(read) = self.outbox.poll_read() {
            let (Read::Ahead(at) | Read::Again(at)) = read;
            let mut header = [0u8; HEADER_BYTES];
            match self.reader.read_header(Position(at), &mut header) {
                Ok(len) => {
                    let header = Header::parse(&header).ok().filter(|header| header.kind == Kind::Data);
                    let meta = header.map(|header| BatchMeta::of(at, &header));
                    self.outbox.handle_read(read, meta.as_ref(), at + len as u64);
                }
                Err(ReadError::BeyondEnd { .. }) => match read {
                    Read::Again(_) => self.outbox.handle_read(read, None, at),
                    Read::Ahead(_) => return Ok(()),
                },
                Err(ReadError::Trimmed { start }) => self.outbox.handle_read(read, None, start.0),
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    }

    fn frame_of(&mut self, send: Send, id: u128, epoch: u32) -> Result<Vec<u8>, String> {
        let mut frame = Vec::new();
        match send {
            Send::Batch(meta) => {
                let read = self.reader.read(Position(meta.position), &mut frame);
                read.map_err(|e| format!("a batch that is not delivered is gone: {e}"))?;
            }
            Send::Filler { lane, sequence } => {
                let header = Header {
                    stream: lane.stream,
                    lane: lane.lane,
                    producer_id: id,
                    producer_epoch: epoch,
                    producer_sequence: sequence,
                    ..Header::default()
                };
                BatchBuilder::new().seal(header, &mut Compressor::new(Codec::None), &mut frame);
            }
        }
        Ok(frame)
    }
}

impl RealAgent {
    /// The agent with this number, started for the first time.
    ///
    /// # Panics
    /// When an empty disk can't be written: never.
    #[must_use]
    pub fn new(number: u32, name: StreamName, scenario: &Scenario, mut rng: Rng) -> RealAgent {
        let disk = MemoryDisk::new(rng.next_u64());
        let id = u128::from(number) + 1;
        let (running, _) =
            Running::start(&disk, scenario, id, rng.next_u64()).expect("a disk without faults");
        RealAgent {
            scenario: scenario.clone(),
            name,
            id,
            disk,
            running,
            told_at: Mono::ZERO,
            heard_ack: false,
            duplicates: false,
            wall: UnixMs(0),
            rng,
            oddity: None,
        }
    }

    fn check(&mut self, done: Result<(), String>) {
        if let Err(why) = done {
            self.oddity.get_or_insert(why);
        }
    }
}

impl Producer for RealAgent {
    fn id(&self) -> u128 {
        self.running.spool.state().producer
    }

    fn epoch(&self) -> u32 {
        self.running.spool.state().epoch
    }

    fn pump(&mut self, source: &[RecordId], now: Mono, wall: UnixMs) {
        self.wall = wall;
        if now >= self.told_at.plus_millis(TELL_MS) {
            self.told_at = now;
            self.heard_ack = false;
            let done = self.running.tell();
            self.check(done);
        }
        loop {
            self.running.take(source, &self.name, now, wall);
            let before = self.running.batcher.is_full(0) && self.running.waiting.is_none();
            let done = self.running.commit_due(now, &self.scenario);
            self.check(done);
            if !before || self.running.waiting.is_some() {
                break;
            }
        }
        let done = self.running.read_spool();
        self.check(done);
    }

    fn connected(&mut self, stream: &StreamInfo, now: Mono) {
        self.running.inflight = 0;
        self.running.connected = true;
        self.running.outbox.handle_connected(u32::MAX, u32::MAX);
        self.stream_changed(stream, now);
    }

    fn stream_changed(&mut self, stream: &StreamInfo, _now: Mono) {
        self.running.outbox.handle_stream(stream);
        if self.running.routes.update(stream) {
            self.running.batcher.close_stream(stream.key);
        }
    }

    fn disconnected(&mut self, _now: Mono) {
        self.running.inflight = 0;
        self.running.connected = false;
        self.running.outbox.handle_disconnected();
    }

    fn poll_send(&mut self, now: Mono) -> Option<Vec<u8>> {
        if !self.running.connected {
            return None;
        }
        let send = self.running.outbox.poll_send(now)?;
        self.running.inflight += 1;
        let epoch = self.epoch();
        match self.running.frame_of(send, self.id, epoch) {
            Ok(frame) => Some(frame),
            Err(why) => {
                self.oddity.get_or_insert(why);
                None
            }
        }
    }

    fn poll_timeout(&self, now: Mono) -> Option<Mono> {
        let running = &self.running;
        let waits = running.waiting.is_some() || self.heard_ack;
        let tell = waits.then(|| self.told_at.plus_millis(TELL_MS).max(now.plus_millis(1)));
        let send = running.outbox.poll_timeout().filter(|_| running.connected);
        [tell, running.batcher.due(0), send].into_iter().flatten().min()
    }

    fn ack(&mut self, ack: &Ack, now: Mono) {
        self.heard_ack = true;
        self.duplicates |= ack.outcome == Outcome::Duplicate;
        self.running.inflight = self.running.inflight.saturating_sub(1);
        let before = self.running.outbox.counts().odd_answers;
        self.running.outbox.handle_ack(ack, now);
        if self.running.outbox.counts().odd_answers > before {
            self.oddity.get_or_insert(format!("agent {} can't make sense of {ack:?}", self.id));
        }
    }

    fn crash(&mut self, chance: u64, now: Mono) {
        let mut rng = Rng::new(chance);
        if rng.chance(600) {
            // In the middle of whatever it writes.
            self.disk.crash_after_ops(rng.below(6));
            let _ = self.running.tell();
            let _ = self.running.commit_due(Mono(u64::MAX / 2), &self.scenario);
        }
        let power_cut = rng.chance(700);
        loop {
            let how = if power_cut { Crash::Seeded(rng.next_u64()) } else { Crash::Process };
            self.disk = self.disk.crash(how);
            if rng.chance(200) {
                self.disk.crash_after_ops(rng.below(6));
            }
            let started = Running::start(&self.disk, &self.scenario, self.id, self.rng.next_u64());
            if let Ok((running, damaged)) = started {
                self.running = running;
                if damaged {
                    self.oddity.get_or_insert("a mere crash damaged the spool".to_owned());
                }
                break;
            }
        }
        // Whatever was planned and did not happen while it started.
        self.disk.crash_after_ops(u64::MAX);
        self.told_at = now;
    }

    fn is_drained(&self, source: &[RecordId]) -> bool {
        let running = &self.running;
        running.taken == source.len()
            && running.waiting.is_none()
            && running.batcher.is_empty(0)
            && running.outbox.is_idle()
            && running.outbox.ahead() >= running.spool.durable_end()
            && !self.heard_ack
    }

    fn spool_bytes(&self) -> u64 {
        self.running.spool.bytes()
    }

    fn inflight(&self) -> u32 {
        self.running.inflight
    }

    fn lost_records(&self) -> u64 {
        self.running.spool.state().ledger.records
    }

    fn may_miss_refusals(&self) -> bool {
        self.duplicates
    }

    fn oddity(&self) -> Option<&str> {
        self.oddity.as_deref()
    }
}
