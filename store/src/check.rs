//! Proves the invariants of a data folder that no store has open: `kinesin check`. Reads everything, changes
//! nothing unless asked to repair, and then only what is derived: indexes and the view. What is damaged in a log
//! stays as it is, is told with its sequence numbers, and is stepped over by readers.
//!
//! The invariants, by number, are in `store/DESIGN.md`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use disk::{DirName, Disk, Position, RealDisk, SegmentInfo};
use protocol::frame::{Frame, Header, Kind};
use protocol::hash::HashKey;
use protocol::sequence::ShardId;
use protocol::time::UnixMs;
use serde::Serialize;

use crate::catalog::{self, Catalog, CatalogState, StreamEntry, view::View};
use crate::closed::Closed;
use crate::log::index::SegmentIndex;
use crate::log::segment::FrameFormat;
use crate::service::streams::stream_dir;
use crate::shard::state::StreamState;

/// A segment is read whole, up to this many bytes.
const SEGMENT_BYTES_MAX: u64 = 4 << 30;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Records can't be read.
    Loss,
    /// Something derived is wrong; it is made anew by itself, or with `--repair`.
    Derived,
    /// Worth knowing, and harmless.
    Note,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// Which file or stream.
    pub place: String,
    /// What, with sequence numbers where records are concerned.
    pub what: String,
    /// Whether it was put right.
    pub repaired: bool,
}

/// What a check came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Streams looked at.
    pub streams: u64,
    /// Segments read.
    pub segments: u64,
    /// Frames found valid.
    pub frames: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes read.
    pub bytes: u64,
    /// What is not as it should be.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Nothing is lost and nothing is left to repair.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.iter().all(|f| f.repaired || f.severity == Severity::Note)
    }
}

/// Why a folder can't be checked at all.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CheckError(pub String);

struct Check<'a> {
    disk: Arc<dyn Disk>,
    repair: bool,
    /// Where the logs ended when the store was closed, if it was.
    closed: Closed,
    report: Report,
    /// Told bytes done and bytes in all.
    progress: &'a mut dyn FnMut(u64, u64),
    bytes_all: u64,
}

/// Checks a data folder; with `repair`, puts right what is derived. `progress` hears bytes done and bytes in all.
///
/// # Errors
/// When the folder is not there, in use, or can't be read.
pub fn run(data_dir: &Path, repair: bool, progress: &mut dyn FnMut(u64, u64)) -> Result<Report, CheckError> {
    let failed = |e: &dyn std::fmt::Display| CheckError(format!("{}: {e}", data_dir.display()));
    if !data_dir.join("catalog").is_dir() {
        return Err(failed(&"no store's data folder: it has no catalog"));
    }
    let disk = RealDisk::open(data_dir).map_err(|e| failed(&e))?;
    let _lock = disk.lock("kinesin check").map_err(|e| failed(&e))?;
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let closed = crate::service::closed(&*disk);
    let mut check = Check { disk, repair, closed, report: Report::default(), progress, bytes_all: 0 };
    let state = check.catalog(data_dir).map_err(|e| failed(&e))?;
    check.authority(data_dir);
    check.folders(&state).map_err(|e| failed(&e))?;
    for (name, entry) in &state.streams {
        check.stream(name.as_str(), entry).map_err(|e| failed(&e))?;
    }
    Ok(check.report)
}

impl Check<'_> {
    fn find(&mut self, severity: Severity, place: impl Into<String>, what: impl Into<String>) {
        self.report.findings.push(Finding {
            severity,
            place: place.into(),
            what: what.into(),
            repaired: false,
        });
    }

    fn find_derived(&mut self, place: impl Into<String>, what: impl Into<String>, repaired: bool) {
        self.report.findings.push(Finding {
            severity: Severity::Derived,
            place: place.into(),
            what: what.into(),
            repaired,
        });
    }

    fn damage_of(&mut self, place: &str, dir: &DirName) -> std::io::Result<()> {
        for segment in disk::list_segments(&*self.disk, dir)? {
            let found = disk::scan_segment::<FrameFormat>(&*self.disk, &segment)?;
            for damage in &found.damage {
                self.find(
                    Severity::Loss,
                    place,
                    format!("{}: bytes {} to {} are damaged", damage.file, damage.from, damage.to),
                );
            }
        }
        Ok(())
    }

    /// The catalog by its log; by the view where that has more, because the log has lost something.
    fn catalog(&mut self, data_dir: &Path) -> std::io::Result<CatalogState> {
        let (dir, path) = (crate::service::dir("catalog"), data_dir.join("view"));
        let read = catalog::read_only(&*self.disk, &dir).map_err(std::io::Error::other)?;
        let (mut state, holds, problems) = read;
        let end = holds.end;
        let found_before = self.report.findings.len();
        for what in problems {
            self.find(Severity::Loss, "catalog", what);
        }
        self.damage_of("catalog", &dir)?;
        if let Some(what) = self.closed.missing("catalog", holds) {
            self.find(Severity::Loss, "catalog", what);
        }
        let known = if path.exists() { known_view(&path) } else { None };
        let is_whole = self.report.findings.len() == found_before;
        match known {
            Some((known, at)) if at > end || (!is_whole && at == end) => {
                let what = "has what the damaged catalog log has lost; the next start goes by it";
                self.find(Severity::Note, "view", what);
                state = known;
            }
            known => self.view(&path, &state, known),
        }
        if self.repair && !(is_whole && self.report.findings.len() == found_before) {
            // As a start does it: the view is made anew, and a damaged log goes on with a whole head.
            let repaired = Catalog::open(Arc::clone(&self.disk), dir, View::open(&path), UnixMs(0))
                .map_err(std::io::Error::other)?;
            repaired.close();
        }
        Ok(state)
    }

    /// Certificates and keys, as far as they can be proved to belong together.
    fn authority(&mut self, data_dir: &Path) {
        for (file, what, is_renewed) in crate::auth::ca::inspect(data_dir) {
            if is_renewed {
                self.find_derived(file, format!("{what}; the next start makes another"), true);
            } else {
                self.find(Severity::Loss, file, what);
            }
        }
        if let Err(error) = crate::auth::keys::inspect(data_dir) {
            self.find(Severity::Loss, "admin.credentials", error.to_string());
        }
    }

    fn view(&mut self, path: &Path, state: &CatalogState, known: Option<(CatalogState, Position)>) {
        if !path.exists() {
            return self.find_derived("view", "is not there; it is made anew at the next start", true);
        }
        match known {
            Some((known, _)) if known == *state => {}
            // The next start replays the catalog log from the view's place on, or from the beginning.
            Some(_) => {
                self.find_derived("view", "is behind the catalog log; the next start brings it up", true)
            }
            None => self.find_derived("view", "is empty or damaged; the next start makes it anew", true),
        }
    }

    fn folders(&mut self, state: &CatalogState) -> std::io::Result<()> {
        let known: Vec<DirName> = state.streams.values().map(|entry| stream_dir(entry.dir)).collect();
        for entry in self.disk.list(&crate::service::dir("streams"))? {
            if entry.is_dir && !known.contains(&entry.dir()) {
                let what = "belongs to no stream: left over from one that was being made or removed";
                self.find(Severity::Note, entry.name.to_string(), what);
            }
        }
        for dir in known {
            for entry in self.disk.list(&dir)? {
                self.bytes_all += if entry.name.as_str().ends_with(".log") { entry.len } else { 0 };
            }
        }
        Ok(())
    }

    fn stream(&mut self, name: &str, entry: &StreamEntry) -> std::io::Result<()> {
        self.report.streams += 1;
        let dir = stream_dir(entry.dir);
        let segments = disk::list_segments(&*self.disk, &dir)?;
        if segments.is_empty() {
            self.find(Severity::Loss, format!("stream {name}"), format!("{dir} has no log"));
        }
        let mut walk = Walk { name, state: None, valid_end: Position(0) };
        for (place, segment) in segments.iter().enumerate() {
            if let Some(before) = place.checked_sub(1).map(|before| &segments[before])
                && before.end() != segment.base
            {
                let what =
                    format!("bytes {} to {} are missing before {}", before.end(), segment.base, segment.file);
                self.find(Severity::Loss, format!("stream {name}"), what);
            }
            self.segment(&mut walk, segment, place + 1 == segments.len())?;
        }
        let start = segments.first().map_or(Position(0), |oldest| oldest.base);
        if let Some(what) = self.closed.missing(dir.as_str(), start..walk.valid_end) {
            self.find(Severity::Loss, format!("stream {name}"), what);
        }
        if let Some(state) = &walk.state {
            self.shard_map(name, state);
        }
        Ok(())
    }

    fn segment(&mut self, walk: &mut Walk<'_>, segment: &SegmentInfo, is_last: bool) -> std::io::Result<()> {
        let bytes = disk::read_all(&*self.disk, &segment.file, SEGMENT_BYTES_MAX)?;
        let scanned = disk::scan_segment::<FrameFormat>(&*self.disk, segment)?;
        let mut index = SegmentIndex::new(segment.base.0, UnixMs(0));
        let mut at = 0usize;
        while at < bytes.len() {
            let Ok((frame, _)) = Frame::parse_first(&bytes[at..]) else {
                let position = segment.base.plus(at as u64);
                let damage = scanned.damage.iter().find(|d| d.from <= position && position < d.to);
                let Some(damage) = damage else {
                    let is_reserved = is_last && bytes[at..].iter().all(|byte| *byte == 0);
                    if !is_reserved {
                        self.tail(walk, segment, at, bytes.len(), is_last);
                    }
                    break;
                };
                let what = format!("{}: bytes {} to {} are damaged", segment.file, damage.from, damage.to);
                self.find(Severity::Loss, format!("stream {}", walk.name), what);
                at = (damage.to.0 - segment.base.0) as usize;
                continue;
            };
            self.frame(walk, segment, &frame, at, &mut index);
            at += frame.header.total_len as usize;
        }
        walk.valid_end = segment.base.plus(at as u64);
        self.report.segments += 1;
        self.report.bytes += bytes.len() as u64;
        (self.progress)(self.report.bytes, self.bytes_all);
        if !is_last {
            self.index(segment, &index);
        }
        Ok(())
    }

    fn tail(&mut self, walk: &Walk<'_>, segment: &SegmentInfo, at: usize, len: usize, is_last: bool) {
        let place = format!("stream {}", walk.name);
        let what = format!("{}: {} bytes at its end are no frame", segment.file, len - at);
        if is_last {
            self.find(
                Severity::Note,
                place,
                format!("{what}: a write that was never acknowledged; the next start cuts it"),
            );
        } else {
            self.find(Severity::Loss, place, what);
        }
    }

    fn frame(
        &mut self,
        walk: &mut Walk<'_>,
        segment: &SegmentInfo,
        frame: &Frame<'_>,
        at: usize,
        index: &mut SegmentIndex,
    ) {
        self.report.frames += 1;
        self.report.records += u64::from(frame.header.record_count);
        match frame.header.kind {
            Kind::StreamState => {
                index.begun = frame.header.arrival;
                for (shard, next) in crate::shard::driver::head_shards(frame.payload) {
                    index.begin_shard(shard, next);
                }
            }
            Kind::Data => index.add(&frame.header, at as u32),
            _ => {}
        }
        if at == 0 && frame.header.kind != Kind::StreamState {
            let what = format!("{} begins with a frame of kind {:?}", segment.file, frame.header.kind);
            self.find(Severity::Loss, format!("stream {}", walk.name), what);
        }
        if let Some(what) = walk.step(&frame.header, frame.payload) {
            self.find(
                Severity::Loss,
                format!("stream {}", walk.name),
                format!("{} at byte {at}: {what}", segment.file),
            );
        }
        if frame.header.kind == Kind::Data
            && let Err(why) = protocol::batch::Batch::new().open(&frame.header, frame.payload)
        {
            self.find(
                Severity::Loss,
                format!("stream {}", walk.name),
                format!("{} at byte {at}: {why}", segment.file),
            );
        }
    }

    /// A sealed segment's index must be what the segment comes to.
    fn index(&mut self, segment: &SegmentInfo, want: &SegmentIndex) {
        let Ok(file) = segment.file.parent().file(&format!("{:020}.idx", segment.base.0)) else { return };
        let what = match disk::read_all(&*self.disk, &file, SEGMENT_BYTES_MAX) {
            Ok(bytes) => match SegmentIndex::decode(&bytes) {
                Ok(index) if index == *want => return,
                Ok(_) => "says something else than its segment",
                Err(_) => "is damaged",
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => "is not there",
            Err(_) => "can't be read",
        };
        let repaired = self.repair && disk::replace(&*self.disk, &file, &want.encode()).is_ok();
        self.find_derived(file.to_string(), what, repaired);
    }

    /// The open shards hold every hash key exactly once.
    fn shard_map(&mut self, name: &str, state: &StreamState) {
        let mut ranges: BTreeMap<HashKey, (ShardId, HashKey)> = BTreeMap::new();
        for (id, shard) in state.open_shards() {
            ranges.insert(shard.range.start, (id, shard.range.end));
        }
        let mut want = Some(HashKey::MIN);
        for (start, (id, end)) in ranges {
            if want != Some(start) {
                self.find(
                    Severity::Loss,
                    format!("stream {name}"),
                    format!("{id} begins at hash key {start}, not where the one before ends"),
                );
            }
            want = end.0.checked_add(1).map(HashKey);
        }
        if want.is_some() {
            self.find(
                Severity::Loss,
                format!("stream {name}"),
                "its open shards do not reach the last hash key",
            );
        }
    }
}

/// What a view says, by a copy of it: opening changes it.
fn known_view(path: &Path) -> Option<(CatalogState, Position)> {
    let copy = tempfile::tempdir().ok()?;
    let to = copy.path().join("view");
    copy_folder(path, &to).ok()?;
    View::open(&to)?.load()
}

fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

struct Walk<'a> {
    name: &'a str,
    state: Option<StreamState>,
    valid_end: Position,
}

impl Walk<'_> {
    /// Takes one more frame; says what does not fit.
    fn step(&mut self, header: &Header, payload: &[u8]) -> Option<String> {
        match header.kind {
            Kind::StreamState => match StreamState::decode(payload) {
                Ok(new) => {
                    let differs = self.state.replace(new.clone()).filter(|known| known.shards_differ(&new));
                    differs.map(|_| "the head of the segment disagrees with the records before it".to_owned())
                }
                Err(error) => Some(error.to_string()),
            },
            Kind::Reshard => {
                self.state.as_mut().and_then(|s| s.apply_reshard(payload).err()).map(|e| e.to_string())
            }
            Kind::Data => self.state.as_mut().and_then(|s| s.apply_data(header).err()).map(|e| e.to_string()),
            other => Some(format!("a frame of kind {other:?} has no place in a stream's log")),
        }
    }
}

impl StreamState {
    /// Whether a later head has other numbers for a shard that both know. (Shards may be forgotten.)
    fn shards_differ(&self, later: &StreamState) -> bool {
        later.shards.iter().any(|(id, shard)| {
            self.shards
                .get(id)
                .is_some_and(|known| known.next != shard.next || known.next_batch != shard.next_batch)
        })
    }
}
