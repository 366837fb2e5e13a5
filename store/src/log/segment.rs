//! The embedded engine: one [`disk::SegmentLog`] per stream, in which all shards are interleaved, and an index
//! per segment. The active segment's index is in memory; a sealed one's is a file beside the segment, loaded
//! when asked for and kept while there is room. Driver: reads and writes files, decides nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use disk::{DirName, Disk, FileName, Framing, Position, Scanned, SegmentInfo, SegmentLog, SegmentReader};
use protocol::frame::{FLAG_CONTINUES, Frame, HEADER_BYTES, Header, Kind, MAGIC, at};
use protocol::limit::FRAME_BYTES_MAX;
use protocol::sequence::{SequenceNumber, ShardId};
use protocol::time::UnixMs;

use super::index::{Batch, SegmentIndex, ShardIndex};
use super::waypoints::{self, Target, Waypoint, Waypoints};
use super::{
    Active, Entry, LogError, LogReader, Peek, ReadBatches, ReadError, ReadLimit, Replay, SegmentAge,
    StreamLog,
};

/// Sealed segments' indexes are kept in memory up to this many bytes per stream.
const INDEX_CACHE_BYTES_MAX: usize = 4 << 20;

/// A head that takes less than this part of a segment is written twice: a flipped bit in the one leaves the other.
const SPARE_HEAD_PART: u64 = 256;

/// ... and one of at most this many bytes always.
const SPARE_HEAD_BYTES: usize = 4096;

/// By so much a segment is made longer at once where small batches come: syncing each of them is a third cheaper then.
const RESERVE_BYTES: u64 = 64 << 10;

/// An index file is never longer than this: a segment of the smallest frames.
const INDEX_FILE_BYTES_MAX: u64 = 256 << 20;

/// Our frame, for the disk's framed files.
#[derive(Debug, Clone, Copy)]
pub enum FrameFormat {}

impl Framing for FrameFormat {
    const HEADER_BYTES: usize = HEADER_BYTES;
    const FRAME_BYTES_MAX: usize = FRAME_BYTES_MAX;
    const MAGIC: &'static [u8] = &MAGIC;

    fn frame_len(header: &[u8]) -> Option<usize> {
        Header::parse(header).ok().map(|header| header.total_len as usize)
    }

    fn is_valid(frame: &[u8]) -> bool {
        Frame::parse(frame).is_ok()
    }

    fn continues(header: &[u8]) -> bool {
        header.get(at::FLAGS).is_some_and(|flags| flags & FLAG_CONTINUES != 0)
    }

    fn durable_below(header: &[u8]) -> Option<Position> {
        Header::parse(header).ok().map(|header| Position(header.durable_below))
    }
}

/// The shards, with their next sequence numbers, in the payload of a segment's head.
pub type HeadShards = fn(&[u8]) -> Vec<(ShardId, SequenceNumber)>;

/// The writing side.
pub struct SegmentStreamLog {
    log: SegmentLog<FrameFormat>,
    shared: Arc<Shared>,
    segment_bytes_max: u64,
    /// Appended and not durable: goes into the index with the next sync.
    unsynced: Vec<(Position, Header)>,
}

struct Shared {
    reader: SegmentReader<FrameFormat>,
    dir: DirName,
    head_shards: HeadShards,
    active: RwLock<SegmentIndex>,
    sealed: Mutex<Sealed>,
    waypoints: Mutex<Waypoints>,
}

/// Indexes of sealed segments that are at hand.
#[derive(Default)]
struct Sealed {
    /// The base, the index, and how many bytes it takes; what was asked for last comes last.
    known: Vec<(u64, Arc<SegmentIndex>, usize)>,
    bytes: usize,
}

/// What opening found.
#[derive(Debug)]
pub struct Opened {
    /// As the disk tells it.
    pub recovery: disk::Recovery,
    /// Whether there is a head to go on from; otherwise the caller must start a segment.
    pub has_head: bool,
}

impl SegmentStreamLog {
    /// Opens or makes the log in a folder and replays the part that recovery needs: from the newest readable
    /// head on.
    ///
    /// # Errors
    /// When the folder can't be read.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: DirName,
        segment_bytes_max: u64,
        head_shards: HeadShards,
        replay: &mut dyn Replay,
    ) -> Result<(SegmentStreamLog, Opened), LogError> {
        let settings = disk::Settings { segment_bytes_max, reserve_bytes: RESERVE_BYTES };
        let failed = |why: String| LogError::Failed { dir: dir.to_string(), why };
        let (log, recovery) =
            SegmentLog::open(disk, dir.clone(), settings).map_err(|e| failed(e.to_string()))?;
        let shared = Arc::new(Shared {
            reader: log.reader(),
            dir: dir.clone(),
            head_shards,
            active: RwLock::new(SegmentIndex::default()),
            sealed: Mutex::default(),
            waypoints: Mutex::default(),
        });
        let segments = log.segments();
        let from = segments.iter().rev().find(|segment| shared.has_head(segment));
        let has_head = from.is_some();
        if let Some(from) = from {
            shared.replay(from.base, log.active_base(), replay).map_err(|e| failed(e.to_string()))?;
        }
        let log = SegmentStreamLog { log, shared, segment_bytes_max, unsynced: Vec::new() };
        Ok((log, Opened { recovery, has_head }))
    }

    /// A head as it is written.
    fn with_spare(&self, head: &[u8]) -> Vec<u8> {
        let small =
            head.len() <= SPARE_HEAD_BYTES || (head.len() as u64) < self.segment_bytes_max / SPARE_HEAD_PART;
        head.repeat(if small { 2 } else { 1 })
    }

    fn failed(&self, error: &disk::LogError) -> LogError {
        LogError::Failed { dir: self.shared.dir.to_string(), why: error.to_string() }
    }
}

impl StreamLog for SegmentStreamLog {
    fn append(&mut self, frames: &[&[u8]], entries: &[Entry]) -> Result<Position, LogError> {
        let start = self.log.append_pieces(frames).map_err(|e| self.failed(&e))?;
        let placed = entries.iter().map(|entry| (start.plus(entry.offset as u64), entry.header));
        self.unsynced.extend(placed.filter(|(_, header)| header.kind == Kind::Data));
        Ok(start)
    }

    fn sync(&mut self) -> Result<Position, LogError> {
        let end = self.log.sync().map_err(|e| self.failed(&e))?;
        let mut active = self.shared.active.write().unwrap_or_else(PoisonError::into_inner);
        for (position, header) in self.unsynced.drain(..) {
            let offset = (position.0 - active.base) as u32;
            active.add(&header, offset);
        }
        Ok(end)
    }

    fn durable_end(&self) -> Position {
        self.log.durable_end()
    }

    fn needs_head(&self, bytes: usize) -> bool {
        self.log.active_len() == 0 || self.log.needs_roll(bytes as u64)
    }

    fn start_segment(&mut self, head: &[u8]) -> Result<(), LogError> {
        self.sync()?;
        let was_empty = self.log.active_len() == 0;
        let base = self.log.roll(&self.with_spare(head)).map_err(|e| self.failed(&e))?;
        let Ok(frame) = Frame::parse(head) else { return Ok(()) };
        let begun = self.shared.begin_index(base, &frame);
        let mut active = self.shared.active.write().unwrap_or_else(PoisonError::into_inner);
        let sealed = Arc::new(std::mem::replace(&mut *active, begun));
        drop(active);
        if !was_empty {
            self.shared.keep_index(&sealed);
        }
        Ok(())
    }

    fn trim(&mut self, below: Position) -> Result<usize, LogError> {
        let removed = self.log.trim(below).map_err(|e| self.failed(&e))?;
        for segment in &removed {
            if let Some(file) = self.shared.index_file(segment.base) {
                // Derived: what is left over is only a file too many, and goes with the stream.
                let _ = self.shared.reader.disk().remove(&file);
            }
        }
        self.shared.waypoints().trim(self.shared.reader.start().0);
        Ok(removed.len())
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::clone(&self.shared) as Arc<dyn LogReader>
    }
}

impl Shared {
    /// Whether a segment's head can be read, or its spare.
    fn has_head(&self, segment: &SegmentInfo) -> bool {
        let mut frame = Vec::new();
        let read = match self.reader.read(segment.base, &mut frame) {
            Err(disk::ReadError::Damaged { to, .. }) if to < segment.end() => {
                self.reader.read(to, &mut frame)
            }
            read => read,
        };
        read.is_ok() && Header::parse(&frame).is_ok_and(|header| header.kind == Kind::StreamState)
    }

    fn begin_index(&self, base: Position, head: &Frame<'_>) -> SegmentIndex {
        let mut index = SegmentIndex::new(base.0, head.header.arrival);
        for (shard, next) in (self.head_shards)(head.payload) {
            index.begin_shard(shard, next);
        }
        index
    }

    fn replay(
        &self,
        from: Position,
        active: Position,
        replay: &mut dyn Replay,
    ) -> Result<(), disk::ReadError> {
        let mut index = SegmentIndex::default();
        let mut latest = UnixMs(0);
        let mut scan = self.reader.scan(from);
        while let Some(found) = scan.advance()? {
            match found {
                Scanned::Frame(position, bytes) => {
                    let Ok(frame) = Frame::parse(bytes) else { continue };
                    if frame.header.kind == Kind::Data {
                        replay.data(&frame.header);
                    } else {
                        replay.control(&frame.header, frame.payload);
                    }
                    // Its own head may be damaged, or not be there: what came before says where its shards go on.
                    if position >= active && index.base < active.0 {
                        index = index.successor(active.0, latest);
                    }
                    latest = latest.max(frame.header.arrival);
                    if frame.header.kind == Kind::StreamState {
                        index = self.begin_index(position.min(active), &frame);
                    } else {
                        add_to_index(&mut index, position, &frame.header);
                    }
                }
                Scanned::Damage(damage) => replay.damage(&damage),
            }
        }
        if index.base < active.0 {
            index = index.successor(active.0, latest);
        }
        *self.active.write().unwrap_or_else(PoisonError::into_inner) = index;
        Ok(())
    }

    fn index_file(&self, base: Position) -> Option<FileName> {
        self.dir.file(&format!("{:020}.idx", base.0)).ok()
    }

    /// Keeps a sealed segment's index, in memory and as a file. The file is not synced: it is checked when read
    /// and made anew from the segment.
    fn keep_index(&self, index: &Arc<SegmentIndex>) {
        let bytes = index.encode();
        let disk = self.reader.disk();
        let files =
            self.index_file(Position(index.base)).and_then(|f| Some((f.with_suffix(".tmp").ok()?, f)));
        if let Some((tmp, file)) = files {
            let _ = disk.remove(&tmp);
            let written = disk.append(&tmp, &bytes).and_then(|()| disk.rename(&tmp, &file));
            match written {
                Ok(()) => disk.leave_unsynced(&file),
                Err(_) => drop(disk.remove(&tmp)),
            }
        }
        self.cache(index);
    }

    fn cache(&self, index: &Arc<SegmentIndex>) {
        self.sealed.lock().unwrap_or_else(PoisonError::into_inner).keep(index);
    }

    /// The index of a sealed segment: from memory, from its file, or made anew.
    fn index(&self, segment: &SegmentInfo) -> Result<Arc<SegmentIndex>, disk::ReadError> {
        let known = self.sealed.lock().unwrap_or_else(PoisonError::into_inner).find(segment.base.0);
        if let Some(index) = known {
            return Ok(index);
        }
        let disk = self.reader.disk();
        let file = self.index_file(segment.base);
        let bytes = file.and_then(|file| disk::read_all(&**disk, &file, INDEX_FILE_BYTES_MAX).ok());
        let index = bytes.and_then(|bytes| SegmentIndex::decode(&bytes).ok());
        if let Some(index) = index.filter(|index| index.base == segment.base.0) {
            let index = Arc::new(index);
            self.cache(&index);
            return Ok(index);
        }
        let index = Arc::new(self.rebuild(segment)?);
        self.keep_index(&index);
        Ok(index)
    }

    /// The index of a sealed segment, from the segment. One without a head (or whose head and spare are damaged) begins where
    /// the one before it ends, and so on back to one that says itself how it begins.
    fn rebuild(&self, segment: &SegmentInfo) -> Result<SegmentIndex, disk::ReadError> {
        let mut index = SegmentIndex::new(segment.base.0, UnixMs(0));
        if self.has_head(segment) {
            return self.scanned(segment, index);
        }
        let segments = self.reader.listed();
        let upto = segments.partition_point(|other| other.base < segment.base);
        let from = (0..upto).rev().find(|at| self.has_head(&segments[*at])).unwrap_or(0);
        if from < upto {
            index = self.scanned(&segments[from], SegmentIndex::new(segments[from].base.0, UnixMs(0)))?;
            for between in &segments[from + 1..upto] {
                index = self.scanned(between, index.successor(between.base.0, index.latest()))?;
            }
            index = index.successor(segment.base.0, index.latest());
        }
        self.scanned(segment, index)
    }

    /// What a segment has, if it begins with what `index` says; its head knows better.
    fn scanned(
        &self,
        segment: &SegmentInfo,
        mut index: SegmentIndex,
    ) -> Result<SegmentIndex, disk::ReadError> {
        let mut scan = self.reader.scan(segment.base);
        while scan.position() < segment.end() {
            let Some(found) = scan.advance()? else { break };
            if let Scanned::Frame(position, bytes) = found {
                let Ok(frame) = Frame::parse(bytes) else { continue };
                if position >= segment.end() {
                    break;
                } else if frame.header.kind == Kind::StreamState {
                    index = self.begin_index(segment.base, &frame);
                } else {
                    add_to_index(&mut index, position, &frame.header);
                }
            }
        }
        Ok(index)
    }

    /// All segments, and how many of them are sealed: the oldest ones.
    fn sealed_segments(&self) -> (Arc<Vec<SegmentInfo>>, usize) {
        let active = self.active.read().unwrap_or_else(PoisonError::into_inner).base;
        let segments = self.reader.listed();
        let sealed = segments.partition_point(|segment| segment.base.0 < active);
        (segments, sealed)
    }

    fn waypoints(&self) -> MutexGuard<'_, Waypoints> {
        self.waypoints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a shard has in a sealed segment: remembered, or from its index.
    fn waypoint(&self, shard: ShardId, segment: &SegmentInfo) -> Result<Waypoint, disk::ReadError> {
        let known = self.waypoints().get(shard, segment.base.0);
        if let Some(known) = known {
            return Ok(known);
        }
        let waypoint = Waypoint::of(&*self.index(segment)?, shard);
        self.waypoints().note(waypoint);
        Ok(waypoint)
    }

    /// The sealed segment that a shard's target is in. What is remembered is believed on the way, and not of where it leads to.
    fn find_sealed(&self, shard: ShardId, target: Target) -> Result<Sought, disk::ReadError> {
        let (segments, sealed) = self.sealed_segments();
        let sealed = &segments[..sealed];
        loop {
            let mut search = self.waypoints().search(shard, target, sealed);
            let found = loop {
                match search.next() {
                    Ok(found) => break found,
                    Err(place) => search.told(place, &self.waypoint(shard, &sealed[place])?),
                }
            };
            let place = match found {
                waypoints::Found::At(place) if place < sealed.len() => place,
                waypoints::Found::At(_) | waypoints::Found::Nowhere => return Ok(Sought::Nowhere),
                waypoints::Found::Unclear => return Ok(Sought::Unclear),
            };
            let index = self.index(&sealed[place])?;
            // Made anew from a segment that is damaged, an index has less than it had.
            if self.waypoints().note(Waypoint::of(&index, shard)) {
                return Ok(Sought::In(index));
            }
        }
    }

    /// As [`LogReader::at_producer_time`], segment by segment and then within one: each step is an index, not a batch.
    /// Nothing where that does not say it: where the shard has no batch in some segment, or none so old.
    fn by_producer_time(
        &self,
        shard: ShardId,
        time: UnixMs,
    ) -> Result<Option<SequenceNumber>, disk::ReadError> {
        let in_active = self.active_shard(shard, |_, index| index.at_producer_time(time)).flatten();
        if in_active.is_some() {
            return Ok(in_active);
        }
        Ok(match self.find_sealed(shard, Target::Made(time))? {
            Sought::In(index) => index.shards.get(&shard).and_then(|index| index.at_producer_time(time)),
            Sought::Nowhere | Sought::Unclear => None,
        })
    }

    /// As [`LogReader::at_time`].
    fn find_time(&self, shard: ShardId, time: UnixMs) -> Result<SequenceNumber, ReadError> {
        let from = SequenceNumber(0);
        let disk_error = |e: disk::ReadError| ReadError::Disk { shard, from, why: e.to_string() };
        let tail = self.tail(shard);
        // By when segments were begun, which is one order for all shards; then by arrival within the shard.
        let mut next = None;
        if let Sought::In(index) = self.find_sealed(shard, Target::Begun(time)).map_err(disk_error)?
            && let Some(entry) = index.shards.get(&shard)
        {
            if let Some(found) = entry.at_time(time) {
                return Ok(found);
            }
            next = Some(entry.end);
        }
        let one = ReadLimit { bytes_max: 0 };
        let from = next.unwrap_or_default();
        let mut chosen = self.choose(shard, from, one).map_err(disk_error)?;
        if chosen.as_ref().is_some_and(|c| c.batches[0].arrival < time) {
            let active = self.active_shard(shard, |_, index| index.at_time(time).unwrap_or(index.end));
            return Ok(active.unwrap_or_default());
        }
        Ok(chosen.take().map_or(tail, |c| c.batches[0].first))
    }

    fn active_shard<T>(&self, shard: ShardId, ask: impl FnOnce(u64, &ShardIndex) -> T) -> Option<T> {
        let active = self.active.read().unwrap_or_else(PoisonError::into_inner);
        active.shards.get(&shard).map(|index| ask(active.base, index))
    }

    /// Which batches to read: the base of their segment, and a run of them within the limit.
    fn choose(
        &self,
        shard: ShardId,
        from: SequenceNumber,
        limit: ReadLimit,
    ) -> Result<Option<Chosen>, disk::ReadError> {
        let chosen = self.choose_from(shard, from, limit)?;
        match chosen {
            Found::Batches(chosen) => Ok(Some(chosen)),
            // Nothing of it lies below, so that is where it begins.
            Found::EmptyUpTo(next) => match self.choose_from(shard, next, limit)? {
                Found::Batches(chosen) => Ok(Some(chosen)),
                _ => Ok(None),
            },
            Found::Nothing => Ok(None),
        }
    }

    fn choose_from(
        &self,
        shard: ShardId,
        from: SequenceNumber,
        limit: ReadLimit,
    ) -> Result<Found, disk::ReadError> {
        let in_active = self.active_shard(shard, |base, index| {
            (from >= index.start).then(|| Chosen::of(base, index, from, limit))
        });
        if let Some(Some(chosen)) = in_active {
            return Ok(chosen.map_or(Found::Nothing, Found::Batches));
        }
        self.unsealed(|| self.choose_below(shard, from, limit))
    }

    /// The same where it does not lie in the active segment alone.
    fn choose_below(
        &self,
        shard: ShardId,
        from: SequenceNumber,
        limit: ReadLimit,
    ) -> Result<Found, disk::ReadError> {
        if let Sought::In(index) = self.find_sealed(shard, Target::Number(from))?
            && let Some(entry) = index.shards.get(&shard)
        {
            // It may have got nothing in this segment, being older than what is kept, or a child.
            let chosen = Chosen::of(index.base, entry, from, limit);
            return Ok(chosen.map_or(Found::EmptyUpTo(entry.end), Found::Batches));
        }
        let active = self.active_shard(shard, |base, index| Chosen::of(base, index, from, limit));
        Ok(active.flatten().map_or(Found::Nothing, Found::Batches))
    }

    /// Asks again where the active segment was sealed meanwhile: whoever looks at the sealed ones first and at the active one
    /// then has not looked at that.
    fn unsealed<T, E>(&self, ask: impl Fn() -> Result<T, E>) -> Result<T, E> {
        let active = || self.active.read().unwrap_or_else(PoisonError::into_inner).base;
        loop {
            let base = active();
            let answer = ask()?;
            if active() == base {
                return Ok(answer);
            }
        }
    }

    /// Asks again where segments were removed meanwhile: whoever was about to read one of those is told of no fault.
    fn untrimmed<T, E>(&self, ask: impl Fn() -> Result<T, E>) -> Result<T, E> {
        loop {
            let start = self.reader.start();
            let answer = ask();
            if answer.is_ok() || self.reader.start() == start {
                return answer;
            }
        }
    }

    /// Below this nothing of a shard is kept; from here on, what is missing is damaged. 0 where the oldest segment
    /// does not know the shard: then all of it is younger.
    fn horizon(&self, shard: ShardId) -> Result<SequenceNumber, disk::ReadError> {
        let (segments, sealed) = self.sealed_segments();
        match segments.first().filter(|_| sealed > 0) {
            Some(oldest) => Ok(self.waypoint(shard, oldest)?.start().unwrap_or_default()),
            None => Ok(self.active_shard(shard, |_, index| index.start).unwrap_or_default()),
        }
    }

    fn read_chosen(&self, shard: ShardId, chosen: &Chosen, out: &mut ReadBatches) -> Result<(), ReadError> {
        let mut frame = Vec::new();
        for (place, batch) in chosen.batches.iter().enumerate() {
            let position = Position(chosen.base + u64::from(batch.offset));
            match self.reader.read(position, &mut frame) {
                Ok(()) => {
                    out.frames.extend_from_slice(&frame);
                    out.last_arrival = batch.arrival;
                    out.next = batch.end();
                }
                Err(_) if place > 0 => return Ok(()),
                Err(disk::ReadError::Damaged { .. }) => {
                    return Err(ReadError::Damaged { shard, from: batch.first, resume: batch.end() });
                }
                Err(error) => {
                    return Err(ReadError::Disk { shard, from: batch.first, why: error.to_string() });
                }
            }
        }
        Ok(())
    }

    fn read_once(
        &self,
        shard: ShardId,
        from: SequenceNumber,
        limit: ReadLimit,
    ) -> Result<ReadBatches, ReadError> {
        let mut out = ReadBatches { next: from, ..ReadBatches::default() };
        let disk_error = |e: disk::ReadError| ReadError::Disk { shard, from, why: e.to_string() };
        // Asked first: what is below it and not found was trimmed, or is damaged.
        let tail = self.tail(shard);
        let Some(chosen) = self.choose(shard, from, limit).map_err(disk_error)? else {
            if from < tail && from >= self.horizon(shard).map_err(disk_error)? {
                return Err(ReadError::Damaged { shard, from, resume: tail });
            }
            out.next = from.max(tail);
            return Ok(out);
        };
        let resume = chosen.batches[0].first;
        if from < resume && from >= self.horizon(shard).map_err(disk_error)? {
            return Err(ReadError::Damaged { shard, from, resume });
        }
        if !self.read_run(&chosen, &mut out) {
            out = ReadBatches { next: from, ..ReadBatches::default() };
            self.read_chosen(shard, &chosen, &mut out)?;
        }
        Ok(out)
    }

    fn peek_once(
        &self,
        shard: ShardId,
        from: SequenceNumber,
        count: usize,
        bytes: usize,
    ) -> Result<Vec<Peek>, ReadError> {
        let disk_error = |e: disk::ReadError| ReadError::Disk { shard, from, why: e.to_string() };
        let limit = ReadLimit { bytes_max: if count <= 1 { 0 } else { usize::MAX } };
        let Some(chosen) = self.choose(shard, from, limit).map_err(disk_error)? else {
            return Ok(Vec::new());
        };
        let base = chosen.base;
        let peek = |batch: &Batch| {
            let want = bytes.min(batch.len as usize);
            let position = Position(base + u64::from(batch.offset));
            let start = if want == 0 {
                Vec::new()
            } else {
                self.reader.read_range(position, want).map_err(disk_error)?
            };
            if want >= HEADER_BYTES && Header::parse(&start).is_err() {
                return Err(ReadError::Damaged { shard, from: batch.first, resume: batch.end() });
            }
            Ok(peeked(batch, start))
        };
        chosen.batches.iter().take(count.max(1)).map(peek).collect()
    }

    /// Batches that lie one after the other in the segment, with one read. `false` where that is not so, or
    /// where anything is wrong: then they are read one by one.
    fn read_run(&self, chosen: &Chosen, out: &mut ReadBatches) -> bool {
        let [first, .., last] = chosen.batches.as_slice() else { return false };
        let whole = (last.offset + last.len - first.offset) as usize;
        if whole != chosen.batches.iter().map(|b| b.len as usize).sum::<usize>() {
            return false;
        }
        let position = Position(chosen.base + u64::from(first.offset));
        let Ok(bytes) = self.reader.read_range(position, whole) else { return false };
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let Ok((_, after)) = Frame::parse_first(rest) else { return false };
            rest = after;
        }
        *out = ReadBatches { frames: bytes, next: last.end(), last_arrival: last.arrival };
        out.frames.len() == whole
    }
}

fn add_to_index(index: &mut SegmentIndex, position: Position, header: &Header) {
    if header.kind == Kind::Data {
        index.add(header, (position.0 - index.base) as u32);
    }
}

fn peeked(batch: &Batch, start: Vec<u8>) -> Peek {
    let Batch { first, count, arrival, producer_time, len, .. } = *batch;
    Peek { first, count, arrival, producer_time, len, start }
}

/// Which sealed segment something is in.
enum Sought {
    In(Arc<SegmentIndex>),
    Nowhere,
    /// Some segment does not say.
    Unclear,
}

/// Where batches of a shard are.
enum Found {
    Batches(Chosen),
    /// Not before this sequence number.
    EmptyUpTo(SequenceNumber),
    Nothing,
}

/// A run of batches of one shard in one segment.
struct Chosen {
    base: u64,
    batches: Vec<Batch>,
}

impl Chosen {
    fn of(base: u64, index: &ShardIndex, from: SequenceNumber, limit: ReadLimit) -> Option<Chosen> {
        let start = index.find(from);
        let mut bytes = 0usize;
        let mut follows = None;
        let fits = |batch: &&Batch| {
            bytes += batch.len as usize;
            // A run ends before a gap, so that the next read begins there and tells.
            let contiguous = follows.is_none_or(|end| end == batch.first);
            follows = Some(batch.end());
            contiguous && bytes <= limit.bytes_max
        };
        let count = index.batches[start..].iter().take_while(fits).count().max(1);
        let batches: Vec<Batch> = index.batches[start..].iter().take(count).copied().collect();
        (!batches.is_empty()).then_some(Chosen { base, batches })
    }
}

impl LogReader for Shared {
    fn read(&self, shard: ShardId, from: SequenceNumber, limit: ReadLimit) -> Result<ReadBatches, ReadError> {
        self.untrimmed(|| self.read_once(shard, from, limit))
    }

    fn tail(&self, shard: ShardId) -> SequenceNumber {
        self.active_shard(shard, |_, index| index.end).unwrap_or_default()
    }

    fn first(&self, shard: ShardId) -> Result<SequenceNumber, ReadError> {
        let from = SequenceNumber(0);
        let disk_error = |e: disk::ReadError| ReadError::Disk { shard, from, why: e.to_string() };
        // Asked first: what comes while it is looked for is not to be skipped.
        let tail = self.tail(shard);
        let chosen = self.untrimmed(|| self.choose(shard, from, ReadLimit { bytes_max: 0 }));
        Ok(chosen.map_err(disk_error)?.map_or(tail, |chosen| chosen.batches[0].first))
    }

    fn at_time(&self, shard: ShardId, time: UnixMs) -> Result<SequenceNumber, ReadError> {
        self.untrimmed(|| self.unsealed(|| self.find_time(shard, time)))
    }

    fn at_producer_time(&self, shard: ShardId, time: UnixMs) -> Result<SequenceNumber, ReadError> {
        match self.by_producer_time(shard, time) {
            Ok(Some(found)) => Ok(found),
            // What can't be read now is told there.
            _ => super::search_producer_time(self, shard, time),
        }
    }

    fn newest(&self, shard: ShardId) -> Option<Peek> {
        self.active_shard(shard, |_, index| index.batches.last().map(|batch| peeked(batch, Vec::new())))?
    }

    fn peek(
        &self,
        shard: ShardId,
        from: SequenceNumber,
        count: usize,
        bytes: usize,
    ) -> Result<Vec<Peek>, ReadError> {
        self.untrimmed(|| self.peek_once(shard, from, count, bytes))
    }

    fn segments(&self, limit: usize) -> Result<Vec<SegmentAge>, ReadError> {
        // In this order: where a segment is sealed in between, the one before it seems younger, never older.
        let segments = self.reader.segments();
        let active_begun = self.active.read().unwrap_or_else(PoisonError::into_inner).begun;
        let mut ages = Vec::new();
        for (place, segment) in segments.iter().enumerate().take(limit) {
            let next = segments.get(place + 1);
            let sealed = match next {
                None => None,
                Some(_) if place + 2 == segments.len() => Some(active_begun),
                Some(next) => {
                    let mut header = [0; HEADER_BYTES];
                    let begun = self.reader.read_header(next.base, &mut header).ok();
                    begun.and_then(|_| Header::parse(&header).ok()).map(|header| header.arrival)
                }
            };
            ages.push(SegmentAge { end: segment.end(), len: segment.len, sealed });
        }
        Ok(ages)
    }

    fn holds(&self) -> std::ops::Range<Position> {
        self.reader.start()..self.reader.durable_end()
    }

    fn active(&self) -> Active {
        let active = self.active.read().unwrap_or_else(PoisonError::into_inner);
        Active { begun: active.begun, used: active.shards.values().any(|shard| !shard.batches.is_empty()) }
    }

    fn stored_bytes(&self) -> u64 {
        self.reader.segments().iter().map(|segment| segment.len).sum()
    }
}

impl Sealed {
    /// What is asked for again and again, as the middle of a search is, stays.
    fn find(&mut self, base: u64) -> Option<Arc<SegmentIndex>> {
        let place = self.known.iter().position(|(known, ..)| *known == base)?;
        self.known[place..].rotate_left(1);
        self.known.last().map(|(_, index, _)| Arc::clone(index))
    }

    /// Keeps an index at hand, and forgets those that were not asked for longest where they take too much; not the only one.
    fn keep(&mut self, index: &Arc<SegmentIndex>) {
        if self.find(index.base).is_some() {
            self.forget(self.known.len() - 1);
        }
        let bytes = index.memory_bytes();
        self.known.push((index.base, Arc::clone(index), bytes));
        self.bytes += bytes;
        while self.known.len() > 1 && self.bytes > INDEX_CACHE_BYTES_MAX {
            self.forget(0);
        }
    }

    fn forget(&mut self, place: usize) {
        let (_, _, bytes) = self.known.remove(place);
        self.bytes -= bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reaches `INDEX_CACHE_BYTES_MAX`.
    #[test]
    fn indexes_are_kept_at_hand_up_to_what_they_may_take_and_what_nobody_asks_for_goes_first() {
        let mut large = SegmentIndex::new(0, UnixMs(0));
        let header = Header { record_count: 1, ..Header::default() };
        (0..10_000).for_each(|n| large.add(&header, n));
        let fit = INDEX_CACHE_BYTES_MAX / large.memory_bytes();
        let mut sealed = Sealed::default();
        let mut bases = |base: usize| {
            sealed.keep(&Arc::new(SegmentIndex { base: base as u64, ..large.clone() }));
            (sealed.known.len(), sealed.known[0].0)
        };
        for base in 0..fit {
            assert_eq!(bases(base), (base + 1, 0));
        }
        // One that is kept again counts once.
        assert_eq!(bases(fit - 1), (fit, 0));
        assert_eq!(bases(fit), (fit, 1));
        assert_eq!(sealed.find(1).map(|index| index.base), Some(1), "asked for, and so the last to go");
        sealed.keep(&Arc::new(SegmentIndex { base: fit as u64 + 1, ..large.clone() }));
        assert_eq!((sealed.find(1).is_some(), sealed.find(2).is_some()), (true, false));
    }
}
