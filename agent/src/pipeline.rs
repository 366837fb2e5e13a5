//! The pipeline's thread: reads sources, routes and batches, and commits to the spool. The only place that knows
//! every stage up to there.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use protocol::name::StreamName;
use protocol::time::{Mono, UnixMs};
use video::fragment::PARTITION_KEY;

use crate::batcher::{Batcher, Sealed};
use crate::clock::{Clock, unix_ms};
use crate::hub::{Commit, Hub, PipeNews};
use crate::log::Log;
use crate::routes::Routes;
use crate::source::file::FileSource;
use crate::source::intake::Intake;
use crate::spool::CursorUpdate;
use crate::status::Stats;
use crate::watch::Watcher;

/// Hints that say where something appeared make it look everywhere at most this often.
const LOOK_AGAIN_MS: u64 = 50;

/// How often lags are written down.
const LAGS_EVERY_MS: u64 = 1000;

/// What a source needs to hand on a record.
pub(crate) struct Ctx<'a> {
    pub(crate) batcher: &'a mut Batcher,
    pub(crate) routes: &'a mut Routes,
    pub(crate) stats: &'a Stats,
    pub(crate) buffer: &'a mut Vec<u8>,
    pub(crate) scratch: &'a mut Vec<u8>,
    pub(crate) host: &'a str,
    pub(crate) agent: &'a str,
    pub(crate) now: Mono,
    pub(crate) unix: UnixMs,
}

impl Ctx<'_> {
    /// Hands on one record.
    pub(crate) fn push(&mut self, group: usize, stream: &StreamName, key: &str, data: &[u8]) {
        let lane = self.routes.lane(stream, key);
        // Keys are cut to what is allowed when they are made, so there is nothing to refuse.
        let pushed = self.batcher.push(group, lane, key, self.unix, data, self.now);
        debug_assert!(pushed.is_ok(), "{pushed:?}");
        self.stats.add_in(1, data.len() as u64);
    }

    /// Hands on a batch that is sealed already.
    pub(crate) fn push_fragment(&mut self, group: usize, stream: &StreamName, frame: &[u8]) {
        let lane = self.routes.lane(stream, PARTITION_KEY);
        // Its maker has just sealed it, so there is nothing to refuse.
        let pushed = self.batcher.push_sealed(group, lane, frame, self.now);
        debug_assert!(pushed.is_ok(), "{pushed:?}");
        if let Ok(header) = pushed {
            self.stats.add_in(u64::from(header.record_count), u64::from(header.user_bytes));
        }
    }
}

/// What the pipeline is made of.
pub(crate) struct Parts {
    pub(crate) batcher: Batcher,
    pub(crate) routes: Routes,
    pub(crate) files: Vec<FileSource>,
    pub(crate) intakes: Vec<Intake>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) stats: Arc<Stats>,
    pub(crate) clock: Clock,
    pub(crate) host: String,
    pub(crate) agent: String,
    pub(crate) log: Log,
}

/// See the module.
pub(crate) struct Pipeline {
    parts: Parts,
    watcher: Watcher,
    buffer: Vec<u8>,
    scratch: Vec<u8>,
    look_at: Option<Mono>,
    lags_at: Mono,
    handed: u64,
    looks: u64,
}

impl Pipeline {
    pub(crate) fn new(parts: Parts) -> Pipeline {
        let watcher = Watcher::new(Arc::clone(&parts.hub), parts.log.clone(), !parts.files.is_empty());
        Pipeline {
            parts,
            watcher,
            buffer: Vec::new(),
            scratch: Vec::new(),
            look_at: Some(Mono::ZERO),
            lags_at: Mono::ZERO,
            handed: 0,
            looks: 0,
        }
    }

    /// Works until the agent ends; what was taken is committed then, unless it was killed.
    pub(crate) fn run(mut self) {
        while !self.parts.hub.stopping() {
            let wait = self.wait();
            let full = (0..self.parts.intakes.len()).any(|i| self.is_intake_full(i));
            let news = self.parts.hub.pipe_work(wait, !full);
            let now = self.parts.clock.now();
            self.take(news, now);
            self.look(now);
            self.read(now);
            if !self.commit_due() {
                break;
            }
            self.write_down(now);
        }
        if !self.parts.hub.killed() {
            self.commit_all();
        }
        self.parts.hub.close_spool();
    }

    fn groups(&self) -> usize {
        self.parts.files.len() + self.parts.intakes.len()
    }

    fn is_intake_full(&self, intake: usize) -> bool {
        self.parts.batcher.is_full(self.parts.intakes[intake].group())
    }

    /// How long nothing has to be done.
    fn wait(&self) -> Duration {
        if self.parts.files.iter().any(FileSource::is_ready) {
            return Duration::ZERO;
        }
        let now = self.parts.clock.now();
        let due = (0..self.groups()).filter_map(|group| self.parts.batcher.due(group));
        let looks = self.parts.files.iter().map(FileSource::next_look).chain(self.look_at);
        let lags = std::iter::once(self.lags_at);
        due.chain(looks).chain(lags).min().map_or(Duration::from_secs(1), |at| at.since(now))
    }

    fn take(&mut self, news: PipeNews, now: Mono) {
        let parts = &mut self.parts;
        for info in &news.streams {
            if parts.routes.update(info) {
                parts.batcher.close_stream(info.key);
            }
        }
        if news.look_everywhere {
            self.look_soon(now);
        }
        for path in &news.dirty {
            self.changed(path, now);
        }
        let parts = &mut self.parts;
        let unix = unix_ms();
        for message in news.messages {
            let mut ctx = Ctx {
                batcher: &mut parts.batcher,
                routes: &mut parts.routes,
                stats: &parts.stats,
                buffer: &mut self.buffer,
                scratch: &mut self.scratch,
                host: &parts.host,
                agent: &parts.agent,
                now,
                unix,
            };
            parts.intakes[message.source].take(message, &mut ctx);
        }
    }

    fn changed(&mut self, path: &Path, now: Mono) {
        let mut known = false;
        for source in &mut self.parts.files {
            known |= source.handle_changed(path);
        }
        if !known && self.parts.files.iter().any(|source| source.wants(path)) {
            self.look_soon(now);
        }
    }

    fn look_soon(&mut self, now: Mono) {
        self.look_at.get_or_insert(now.plus_millis(LOOK_AGAIN_MS));
    }

    fn look(&mut self, now: Mono) {
        let all = self.look_at.is_some_and(|at| at <= now);
        if all {
            self.look_at = None;
        }
        let mut looked = false;
        for source in &mut self.parts.files {
            if all || source.next_look() <= now {
                source.look(now);
                looked = true;
            }
        }
        if looked {
            self.watcher.watch(self.parts.files.iter().flat_map(FileSource::folders));
            self.looks += 1;
        }
    }

    fn read(&mut self, now: Mono) {
        let parts = &mut self.parts;
        let unix = unix_ms();
        for source in &mut parts.files {
            let mut ctx = Ctx {
                batcher: &mut parts.batcher,
                routes: &mut parts.routes,
                stats: &parts.stats,
                buffer: &mut self.buffer,
                scratch: &mut self.scratch,
                host: &parts.host,
                agent: &parts.agent,
                now,
                unix,
            };
            source.read(&mut ctx);
        }
    }

    /// Commits what is full, and what has waited long enough; false when the spool takes no more.
    fn commit_due(&mut self) -> bool {
        let now = self.parts.clock.now();
        let busy = self.parts.files.iter().any(FileSource::is_ready);
        if self.parts.routes.has_changed() && !self.commit(0) {
            return false;
        }
        for group in 0..self.groups() {
            let waited = match self.parts.batcher.due(group) {
                Some(due) => due <= now,
                None => self.has_update(group),
            };
            // While there is something to read, waiting for the spool only makes larger batches.
            let due = waited && (!busy || self.parts.hub.spool_is_ready());
            if (due || self.parts.batcher.is_full(group)) && !self.commit(group) {
                return false;
            }
        }
        true
    }

    fn commit_all(&mut self) {
        for group in 0..self.groups() {
            if (!self.parts.batcher.is_empty(group) || self.has_update(group)) && !self.commit(group) {
                return;
            }
        }
    }

    fn has_update(&self, group: usize) -> bool {
        match self.parts.files.get(group) {
            Some(source) => source.has_update(),
            None => self.parts.intakes[group - self.parts.files.len()].has_update(),
        }
    }

    fn commit(&mut self, group: usize) -> bool {
        let parts = &mut self.parts;
        let mut update = CursorUpdate { streams: parts.routes.take_changed(), ..CursorUpdate::default() };
        update.streams.iter().for_each(|map| parts.stats.add_stream(map.name.as_str()));
        let mut taken = Vec::new();
        match group.checked_sub(parts.files.len()) {
            None => drop(parts.files[group].take_update(&mut update)),
            Some(intake) => taken.extend(parts.intakes[intake].take_update(&mut update)),
        }
        let sealed: Sealed = parts.batcher.take(group, parts.hub.spare());
        self.handed += 1;
        parts.hub.commit(Commit { sealed, update, taken })
    }

    fn write_down(&mut self, now: Mono) {
        if now >= self.lags_at {
            self.lags_at = now.plus_millis(LAGS_EVERY_MS);
            let mut lags = BTreeMap::new();
            self.parts.files.iter().for_each(|source| source.lags(&mut lags));
            self.parts.stats.set_lags(lags);
        }
        let busy = self.parts.files.iter().any(FileSource::is_ready);
        let open = (0..self.groups()).any(|group| !self.parts.batcher.is_empty(group));
        let all_durable = self.parts.stats.commits() >= self.handed;
        self.parts.stats.set_idle(!busy && !open && all_durable, self.looks);
    }
}
