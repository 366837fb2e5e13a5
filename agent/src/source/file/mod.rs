//! The file source: finds files, follows them through rotation, and hands their lines to the batcher. Driver; runs
//! on the pipeline's thread.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use protocol::time::Mono;

use crate::config::{FileSource as Settings, LongLine, Start};
use crate::log::Log;
use crate::loss::Loss;
use crate::partition::Origin;
use crate::pipeline::Ctx;
use crate::spool::CursorUpdate;

pub mod identity;
pub mod lines;
mod tail;

use identity::{FileCursor, Verdict};
use tail::{CHUNK_BYTES, Tail};

/// Bytes that one file may hand on before the others get their turn.
const TURN_BYTES: usize = 1 << 20;

/// A file without a name that is looked for is let go when nothing came for so long.
const QUIET_MS: u64 = 5_000;

/// See the module.
pub struct FileSource {
    group: usize,
    settings: Settings,
    patterns: Vec<glob::Pattern>,
    prefix: String,
    default_key: String,
    tails: BTreeMap<(u64, u64), Tail>,
    /// From the spool, of files that were not seen yet.
    known: BTreeMap<(u64, u64), (String, FileCursor)>,
    /// Cursors of files that are gone.
    forgotten: Vec<String>,
    losses: Vec<Loss>,
    first_look: bool,
    next_look: Mono,
    log: Log,
}

impl FileSource {
    /// From its settings and the cursors that the spool has.
    #[must_use]
    pub fn new(
        group: usize,
        settings: Settings,
        agent: &str,
        cursors: &BTreeMap<String, String>,
        log: Log,
    ) -> FileSource {
        let prefix = format!("file|{}|{}|", settings.stream, settings.partition_key);
        let mine = cursors.iter().filter(|(id, _)| id.starts_with(&prefix));
        let known = mine.filter_map(|(id, text)| {
            let cursor: FileCursor = serde_json::from_str(text).ok()?;
            Some(((cursor.dev, cursor.ino), (id.clone(), cursor)))
        });
        FileSource {
            group,
            patterns: settings.exclude.iter().filter_map(|p| glob::Pattern::new(p).ok()).collect(),
            default_key: settings.partition_key_default.clone().unwrap_or_else(|| agent.to_owned()),
            known: known.collect(),
            settings,
            prefix,
            tails: BTreeMap::new(),
            forgotten: Vec::new(),
            losses: Vec::new(),
            first_look: true,
            next_look: Mono::ZERO,
            log,
        }
    }

    /// Folders to watch, and those of the files that are followed.
    #[must_use]
    pub fn folders(&self) -> BTreeSet<PathBuf> {
        let bases = self.settings.paths.iter().map(|pattern| fixed_part(pattern));
        let parents = self.tails.values().filter_map(|tail| tail.path.parent().map(Path::to_owned));
        bases.chain(parents).filter(|dir| dir.is_dir()).collect()
    }

    /// When it wants to look at everything again.
    #[must_use]
    pub fn next_look(&self) -> Mono {
        self.next_look
    }

    /// Some file may have something new.
    pub fn handle_changed(&mut self, path: &Path) -> bool {
        let mut known = false;
        for tail in self.tails.values_mut().filter(|tail| tail.path == path) {
            tail.ready = true;
            known = true;
        }
        known
    }

    /// Whether a path is one that it looks for.
    #[must_use]
    pub fn wants(&self, path: &Path) -> bool {
        let matches = |p: &String| glob::Pattern::new(p).is_ok_and(|p| p.matches_path(path));
        self.settings.paths.iter().any(matches) && !self.patterns.iter().any(|p| p.matches_path(path))
    }

    /// Looks for files that appeared, moved or went.
    pub fn look(&mut self, now: Mono) {
        self.next_look = now.plus_millis(self.settings.poll_ms.max(10));
        let found = self.find();
        for (key, tail) in &mut self.tails {
            match found.get(key) {
                Some((path, len)) => {
                    tail.path.clone_from(path);
                    tail.detached = None;
                    // The poll is the truth: hints may have been lost.
                    tail.ready |= *len != tail.cursor.offset;
                }
                None => {
                    tail.detached.get_or_insert(now);
                    tail.ready = true;
                }
            }
        }
        for (key, (path, _)) in &found {
            if !self.tails.contains_key(key) {
                self.add(*key, path, now);
            }
        }
        if std::mem::take(&mut self.first_look) {
            self.look_for_moved(now);
        }
        self.let_go(now);
        self.close_idle();
    }

    fn find(&self) -> BTreeMap<(u64, u64), (PathBuf, u64)> {
        let mut found = BTreeMap::new();
        for pattern in &self.settings.paths {
            let Ok(paths) = glob::glob(pattern) else { continue };
            for path in paths.flatten() {
                if self.patterns.iter().any(|p| p.matches_path(&path)) {
                    continue;
                }
                if let Ok(meta) = std::fs::metadata(&path)
                    && meta.is_file()
                {
                    found.entry((meta.dev(), meta.ino())).or_insert((path, meta.len()));
                }
            }
        }
        found
    }

    fn add(&mut self, key: (u64, u64), path: &Path, now: Mono) {
        let (id, cursor) = match self.known.remove(&key) {
            Some((id, cursor)) => (Some(id), Some(cursor)),
            None => (None, None),
        };
        let known = cursor.is_some();
        let new_id = || format!("{}{:x}-{:x}-{}", self.prefix, key.0, key.1, crate::clock::unix_ms().0);
        match Tail::open(path, id.unwrap_or_else(new_id), cursor, now) {
            Ok((mut tail, verdict)) => {
                if let Some(Verdict::Truncated | Verdict::Other) = verdict {
                    self.log
                        .info(&format!("{}: another file than before, read from the start", path.display()));
                }
                if !known && self.first_look && self.settings.start == Start::End {
                    // A file that can't be read here says so when it is read for its lines.
                    let _ = tail.skip_to_end();
                }
                self.tails.insert(key, tail);
            }
            Err(error) => {
                let text = format!("{}: {error}; it is tried again", path.display());
                self.log.warn(&format!("open {}", path.display()), &text);
            }
        }
    }

    /// Files that were renamed out of the globs while nobody looked: their rest is still wanted.
    fn look_for_moved(&mut self, now: Mono) {
        for (key, (id, cursor)) in std::mem::take(&mut self.known) {
            let dir = Path::new(&cursor.path).parent().map(Path::to_owned).unwrap_or_default();
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            let moved = entries
                .map(|e| e.path())
                .find(|path| std::fs::metadata(path).is_ok_and(|m| m.is_file() && (m.dev(), m.ino()) == key));
            let opened = moved.map(|path| Tail::open(&path, id.clone(), Some(cursor.clone()), now));
            match opened {
                Some(Ok((mut tail, Some(Verdict::Same)))) => {
                    tail.detached = Some(now);
                    self.tails.insert(key, tail);
                }
                _ => self.forgotten.push(id),
            }
        }
    }

    /// Files that have no name any more and nothing new.
    fn let_go(&mut self, now: Mono) {
        let gone = |tail: &Tail| {
            tail.detached.is_some_and(|since| {
                let quiet = since.max(tail.active_at).plus_millis(QUIET_MS);
                now >= quiet && !tail.dirty && (tail.failing || tail.len <= tail.cursor.offset)
            })
        };
        let keys: Vec<_> = self.tails.iter().filter(|(_, tail)| gone(tail)).map(|(key, _)| *key).collect();
        for key in keys {
            if let Some(tail) = self.tails.remove(&key) {
                self.forgotten.push(tail.id);
            }
        }
    }

    /// Keeps the number of open files within its bound: those that were quiet longest are closed.
    fn close_idle(&mut self) {
        let idle = |tail: &Tail| tail.file.is_some() && tail.detached.is_none() && !tail.ready && !tail.dirty;
        let open = self.tails.values().filter(|tail| tail.file.is_some()).count();
        let over = open.saturating_sub(self.settings.files_open_max.max(1));
        if over == 0 {
            return;
        }
        let mut idle: Vec<_> = self.tails.values_mut().filter(|tail| idle(tail)).collect();
        idle.sort_by_key(|tail| tail.active_at);
        idle.into_iter().take(over).for_each(|tail| tail.file = None);
    }

    /// Whether a file waits to be read.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.tails.values().any(|tail| tail.ready)
    }

    /// Bytes that are not read yet, by file.
    pub fn lags(&self, out: &mut BTreeMap<String, u64>) {
        for tail in self.tails.values() {
            let lag = tail.len.saturating_sub(tail.cursor.offset);
            if lag > 0 {
                out.insert(tail.path.display().to_string(), lag);
            }
        }
    }

    /// Reads every file that waits, a turn each. Of files that had the same name one after the other, the older one is
    /// read to its end before the younger one: their lines have the same key.
    pub(crate) fn read(&mut self, ctx: &mut Ctx<'_>) {
        let ready = self.tails.iter().filter(|(_, tail)| tail.ready);
        let mut ready: Vec<_> = ready.map(|(key, tail)| (tail.rank(), *key)).collect();
        ready.sort_unstable();
        let mut unfinished = BTreeSet::new();
        for (_, key) in ready {
            if ctx.batcher.is_full(self.group) {
                return;
            }
            if self.tails.get(&key).is_some_and(|tail| unfinished.contains(&tail.cursor.path)) {
                continue;
            }
            self.read_one(key, ctx);
            if let Some(tail) = self.tails.get(&key).filter(|tail| tail.ready && tail.is_moved()) {
                unfinished.insert(tail.cursor.path.clone());
            }
        }
    }

    fn read_one(&mut self, key: (u64, u64), ctx: &mut Ctx<'_>) {
        let Some(mut tail) = self.tails.remove(&key) else { return };
        match self.read_turn(&mut tail, ctx) {
            Ok(()) => tail.failing = false,
            Err(error) => {
                tail.ready = false;
                tail.failing = true;
                let text = format!("{}: {error}; it is tried again", tail.path.display());
                self.log.warn(&format!("read {}", tail.path.display()), &text);
            }
        }
        self.tails.insert(key, tail);
    }

    fn read_turn(&mut self, tail: &mut Tail, ctx: &mut Ctx<'_>) -> io::Result<()> {
        let max = self.settings.line_bytes_max.0 as usize;
        let (mut turn, mut chunk_bytes) = (0, CHUNK_BYTES);
        let mut buffer = std::mem::take(ctx.buffer);
        loop {
            let chunk = match tail.read(&mut buffer, chunk_bytes) {
                Ok(chunk) => chunk,
                Err(error) => {
                    *ctx.buffer = buffer;
                    return Err(error);
                }
            };
            if let Some(verdict) = chunk.restarted {
                self.restarted(tail, verdict);
            }
            let bytes = &buffer[chunk.from..chunk.to];
            let used = self.take_lines(tail, bytes, ctx);
            tail.advance(bytes, used, ctx.now);
            turn += used;
            let stuck = used == 0;
            if !chunk.more {
                tail.ready = false;
                let rest = bytes.len() - used;
                self.take_rest(tail, &buffer[chunk.from + used..chunk.to], rest, ctx);
                break;
            }
            if stuck && chunk_bytes <= max {
                // One line is longer than what was read.
                chunk_bytes = (chunk_bytes * 2).min(max + 1).max(CHUNK_BYTES);
                continue;
            }
            if turn >= TURN_BYTES || ctx.batcher.is_full(self.group) {
                break;
            }
        }
        if buffer.len() > CHUNK_BYTES * 2 {
            buffer = Vec::new();
        }
        *ctx.buffer = buffer;
        Ok(())
    }

    fn restarted(&mut self, tail: &Tail, verdict: Verdict) {
        let what = if verdict == Verdict::Truncated { "emptied" } else { "replaced" };
        self.log.info(&format!("{}: was {what}, read from the start", tail.path.display()));
    }

    /// A last line without its end: it waits, unless nothing will follow it.
    fn take_rest(&mut self, tail: &mut Tail, bytes: &[u8], rest: usize, ctx: &mut Ctx<'_>) {
        if rest == 0 {
            return;
        }
        let len = rest as u64;
        match &mut tail.partial {
            Some((_, known)) if *known == len => {}
            partial => *partial = Some((ctx.now, len)),
        }
        let since = tail.partial.map_or(ctx.now, |(since, _)| since);
        let over = self.settings.partial_line_ms.is_some_and(|ms| ctx.now >= since.plus_millis(ms));
        let quiet = |since: Mono| ctx.now >= since.max(tail.active_at).plus_millis(QUIET_MS);
        let gone = tail.detached.is_some_and(quiet);
        if !over && !gone {
            return;
        }
        let line = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        let mut key = String::new();
        let origin = Origin { host: ctx.host, agent: ctx.agent, file: &tail.cursor.path, topic: "" };
        if !line.is_empty() && !tail.cursor.skipping {
            self.push_record(line, &origin, &mut key, ctx);
        }
        let bytes = bytes.to_vec();
        tail.advance(&bytes, rest, ctx.now);
    }

    fn take_lines(&mut self, tail: &mut Tail, bytes: &[u8], ctx: &mut Ctx<'_>) -> usize {
        let settings = &self.settings;
        let path = tail.cursor.path.clone();
        let origin = Origin { host: ctx.host, agent: ctx.agent, file: &path, topic: "" };
        let varies = settings.partition_key.depends_on_data() || settings.stream.depends_on_data();
        let (used, found) = if varies {
            self.take_each(tail, bytes, &origin, ctx)
        } else {
            self.take_all(tail, bytes, &origin, ctx)
        };
        tail.cursor.skipping = found.skipping;
        if found.long_lines + found.long_bytes > 0 {
            let reason = match self.settings.long_line {
                LongLine::Truncate => "line_truncated",
                LongLine::Drop => "line_too_long",
            };
            let at = tail.cursor.offset;
            let loss = Loss::new(path, reason, found.long_lines, found.long_bytes);
            self.losses.push(loss.at(at, at + used as u64));
        }
        used
    }

    fn rules(&self) -> lines::Rules {
        let settings = &self.settings;
        lines::Rules { line_bytes_max: settings.line_bytes_max.0 as usize, long_line: settings.long_line }
    }

    /// All lines have one stream and one key: found once for as many as a batch holds.
    fn take_all(
        &self,
        tail: &Tail,
        bytes: &[u8],
        origin: &Origin<'_>,
        ctx: &mut Ctx<'_>,
    ) -> (usize, lines::Found) {
        let mut key = String::new();
        let stream = self.settings.stream.stream_name(origin, b"", &mut key);
        if !self.settings.partition_key.partition_key(origin, b"", &self.default_key, &mut key) {
            ctx.stats.add_keys_missing();
        }
        let lane = ctx.routes.lane(&stream, &key);
        let (mut used, mut total) =
            (0, lines::Found { skipping: tail.cursor.skipping, ..Default::default() });
        let (mut records, mut size) = (0, 0);
        while let Ok(mut writer) = ctx.batcher.writer(self.group, lane, &key, ctx.now) {
            let time = ctx.unix;
            let found = lines::split(&bytes[used..], total.skipping, self.rules(), ctx.scratch, |line| {
                let taken = writer.push(time, line);
                records += u64::from(taken);
                size += if taken { line.len() as u64 } else { 0 };
                taken
            });
            used += found.used;
            total.skipping = found.skipping;
            total.long_lines += found.long_lines;
            total.long_bytes += found.long_bytes;
            if !found.stopped {
                break;
            }
            ctx.batcher.close(self.group, lane);
        }
        ctx.stats.add_in(records, size);
        (used, total)
    }

    /// Every line may have a stream and a key of its own.
    fn take_each(
        &self,
        tail: &Tail,
        bytes: &[u8],
        origin: &Origin<'_>,
        ctx: &mut Ctx<'_>,
    ) -> (usize, lines::Found) {
        let mut scratch = std::mem::take(ctx.scratch);
        let mut key = String::new();
        let found = lines::split(bytes, tail.cursor.skipping, self.rules(), &mut scratch, |line| {
            self.push_record(line, origin, &mut key, ctx);
            true
        });
        *ctx.scratch = scratch;
        (found.used, found)
    }

    fn push_record(&self, line: &[u8], origin: &Origin<'_>, key: &mut String, ctx: &mut Ctx<'_>) {
        let stream = self.settings.stream.stream_name(origin, line, key);
        if !self.settings.partition_key.partition_key(origin, line, &self.default_key, key) {
            ctx.stats.add_keys_missing();
        }
        ctx.push(self.group, &stream, key, line);
    }

    /// What goes into the spool with the lines that were handed on since the last time; false for nothing.
    pub fn take_update(&mut self, update: &mut CursorUpdate) -> bool {
        let mut any = false;
        for id in self.forgotten.drain(..) {
            update.cursors.insert(id, None);
            any = true;
        }
        for tail in self.tails.values_mut().filter(|tail| tail.dirty) {
            tail.dirty = false;
            update.cursors.insert(tail.id.clone(), Some(tail.cursor_text()));
            any = true;
        }
        any |= !self.losses.is_empty();
        update.losses.append(&mut self.losses);
        any
    }

    /// Whether [`take_update`](Self::take_update) would give something.
    #[must_use]
    pub fn has_update(&self) -> bool {
        !self.forgotten.is_empty() || !self.losses.is_empty() || self.tails.values().any(|tail| tail.dirty)
    }
}

/// The folder below which a glob begins.
fn fixed_part(pattern: &str) -> PathBuf {
    let fixed = pattern.split(['*', '?', '[']).next().unwrap_or_default();
    let dir = if fixed.len() == pattern.len() {
        Path::new(pattern).parent().map(Path::to_owned)
    } else {
        Some(PathBuf::from(&fixed[..fixed.rfind('/').map_or(0, |at| at + 1)]))
    };
    let dir = dir.unwrap_or_default();
    if dir.as_os_str().is_empty() { PathBuf::from(".") } else { dir }
}
