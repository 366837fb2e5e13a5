//! Readers: cheap clones that see what is durable, beside the writer. They change nothing and never see a byte that
//! was not synced.

use std::io;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::scan::Scan;
use super::walk::{Walk, Window, frame_len};
use super::{Damage, Framing, Position, ReadError, SegmentInfo};
use crate::{Disk, FileName};

/// Read at once in the hope that it holds the whole frame.
const FIRST_READ_BYTES: u64 = 4096;

/// What the writer and its readers share.
pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) durable_end: AtomicU64,
    list: RwLock<List>,
}

struct List {
    /// Oldest first, at least one. The last one's length is not kept: it ends at the durable end.
    /// Readers take it as it is: copied when it changes while one of them has it.
    segments: Arc<Vec<SegmentInfo>>,
    /// Known damage, by position.
    damage: Vec<Damage>,
}

/// Where a position lies.
pub(super) struct Place {
    pub(super) file: FileName,
    pub(super) base: Position,
    /// The end of what can be read in this segment.
    pub(super) end: Position,
}

/// Why a position lies nowhere.
pub(super) enum Nowhere {
    Trimmed(Position),
    BeyondEnd(Position),
    Damaged(Damage),
}

/// Reads frames of a log by position. Clones are cheap and may be used from any thread, beside the writer.
pub struct SegmentReader<F> {
    pub(super) shared: Arc<Shared>,
    framing: PhantomData<fn() -> F>,
}

impl<F> Clone for SegmentReader<F> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), framing: PhantomData }
    }
}

impl<F: Framing> SegmentReader<F> {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, framing: PhantomData }
    }

    /// Reads the frame that starts at `position`, verified, into `frame`, whose old content is dropped. Returns
    /// nothing unsynced.
    pub fn read(&self, position: Position, frame: &mut Vec<u8>) -> Result<(), ReadError> {
        self.read_frame(position, frame, true)
    }

    /// As [`read`](Self::read), but trusts the payload: only the header is checked.
    pub fn read_unverified(&self, position: Position, frame: &mut Vec<u8>) -> Result<(), ReadError> {
        self.read_frame(position, frame, false)
    }

    /// Reads the header of the frame that starts at `position` and returns the whole frame's length in bytes.
    /// `header` must have `HEADER_BYTES`.
    pub fn read_header(&self, position: Position, header: &mut [u8]) -> Result<usize, ReadError> {
        assert_eq!(header.len(), F::HEADER_BYTES, "a header has HEADER_BYTES");
        let place = self.locate(position)?;
        let left = place.end.0 - position.0;
        if left < header.len() as u64 {
            return Err(self.damaged(&place, position, left));
        }
        self.read_at(&place, position, header)?;
        match frame_len::<F>(header) {
            Some(len) if len as u64 <= left => Ok(len),
            Some(_) => Err(self.damaged(&place, position, left)),
            None => Err(self.damaged(&place, position, 1)),
        }
    }

    /// Raw bytes from `position` on: at most `bytes_max`, never beyond the durable end or the segment's. They are
    /// not verified, and may end within a frame.
    pub fn read_range(&self, position: Position, bytes_max: usize) -> Result<Vec<u8>, ReadError> {
        let place = self.locate(position)?;
        let len = usize::try_from(place.end.0 - position.0).unwrap_or(usize::MAX).min(bytes_max);
        let mut bytes = vec![0; len];
        self.read_at(&place, position, &mut bytes)?;
        Ok(bytes)
    }

    /// All frames from `from` on, verified, in order, over all segments, up to the durable end; and on from there
    /// when that has moved. `from` must be where a frame starts.
    pub fn scan(&self, from: Position) -> Scan<F> {
        Scan::new(self.clone(), from)
    }

    /// The oldest position there is.
    pub fn start(&self) -> Position {
        self.shared.start()
    }

    /// Everything below it can be read.
    pub fn durable_end(&self) -> Position {
        Position(self.shared.durable_end.load(Ordering::Acquire))
    }

    /// All segments, oldest first, the active one without its unsynced bytes.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        self.shared.segments()
    }

    /// All segments, oldest first, as they are now; not copied, however many there are. The last one, which is the active
    /// one, has no length here.
    pub fn listed(&self) -> Arc<Vec<SegmentInfo>> {
        Arc::clone(&self.shared.read().segments)
    }

    /// Damage that opening found. Older segments are not verified by it; reads find theirs.
    pub fn known_damage(&self) -> Vec<Damage> {
        self.shared.read().damage.clone()
    }

    /// The disk that the log is on.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.shared.disk
    }

    fn read_frame(&self, position: Position, frame: &mut Vec<u8>, verify: bool) -> Result<(), ReadError> {
        frame.clear();
        let place = self.locate(position)?;
        let left = place.end.0 - position.0;
        if left < F::HEADER_BYTES as u64 {
            return Err(self.damaged(&place, position, left));
        }
        let first = left.min(FIRST_READ_BYTES.max(F::HEADER_BYTES as u64)) as usize;
        frame.resize(first, 0);
        self.read_at(&place, position, frame)?;
        let Some(len) = frame_len::<F>(&frame[..F::HEADER_BYTES]) else {
            return Err(self.damaged(&place, position, 1));
        };
        if len as u64 > left {
            return Err(self.damaged(&place, position, left));
        }
        frame.resize(len, 0);
        if len > first {
            self.read_at(&place, position.plus(first as u64), &mut frame[first..])?;
        }
        if verify && !F::is_valid(frame) {
            return Err(self.damaged(&place, position, len as u64));
        }
        Ok(())
    }

    fn locate(&self, position: Position) -> Result<Place, ReadError> {
        self.shared.locate(position).map_err(ReadError::from)
    }

    fn read_at(&self, place: &Place, position: Position, out: &mut [u8]) -> Result<(), ReadError> {
        let offset = position.0 - place.base.0;
        let read = self.shared.disk.read_at(&place.file, offset, out);
        read.map_err(|error| self.shared.read_error(position, error))
    }

    /// The error for an invalid frame, after finding out where it goes on.
    fn damaged(&self, place: &Place, position: Position, skip: u64) -> ReadError {
        let mut window = Window::new(place.file.clone());
        let end = place.end.0 - place.base.0;
        let mut walk = Walk { disk: &*self.shared.disk, window: &mut window, end, framing: PhantomData::<F> };
        match walk.next_valid(position.0 - place.base.0 + skip) {
            Ok(next) => ReadError::Damaged { from: position, to: place.base.plus(next.unwrap_or(end)) },
            Err(error) => self.shared.read_error(position, error),
        }
    }
}

impl Shared {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        segments: Vec<SegmentInfo>,
        damage: Vec<Damage>,
        end: Position,
    ) -> Self {
        let list = RwLock::new(List { segments: Arc::new(segments), damage });
        Self { disk, durable_end: AtomicU64::new(end.0), list }
    }

    pub(super) fn start(&self) -> Position {
        self.read().segments[0].base
    }

    pub(super) fn segments(&self) -> Vec<SegmentInfo> {
        let list = self.read();
        // Read under the lock: the list names the segment that this end lies in.
        let durable_end = self.durable_end.load(Ordering::Acquire);
        let mut segments = Vec::clone(&list.segments);
        if let Some(active) = segments.last_mut() {
            active.len = durable_end.saturating_sub(active.base.0);
        }
        segments
    }

    pub(super) fn locate(&self, position: Position) -> Result<Place, Nowhere> {
        // Before the list, which then is no older than it.
        let durable_end = Position(self.durable_end.load(Ordering::Acquire));
        let list = self.read();
        let start = list.segments[0].base;
        if position < start {
            return Err(Nowhere::Trimmed(start));
        }
        if position >= durable_end {
            return Err(Nowhere::BeyondEnd(durable_end));
        }
        if let Some(damage) = list.damage_at(position) {
            return Err(Nowhere::Damaged(damage));
        }
        let after = list.segments.partition_point(|segment| segment.base <= position);
        let segment = &list.segments[after - 1];
        let sealed = after < list.segments.len();
        let end = if sealed { segment.end() } else { durable_end };
        Ok(Place { file: segment.file.clone(), base: segment.base, end })
    }

    /// Seals the active segment at the start of `next`, which becomes the active one.
    pub(super) fn seal_and_add(&self, next: SegmentInfo) {
        let mut list = self.write();
        let segments = Arc::make_mut(&mut list.segments);
        if let Some(active) = segments.last_mut() {
            active.len = next.base.0 - active.base.0;
        }
        segments.push(next);
    }

    /// Takes the oldest segment off the list where it ends at or below `below` and is not the active one.
    pub(super) fn take_oldest(&self, below: Position) -> Option<SegmentInfo> {
        let mut list = self.write();
        let trimmed = list.segments.len() > 1 && list.segments[0].end() <= below;
        if !trimmed {
            return None;
        }
        let oldest = Arc::make_mut(&mut list.segments).remove(0);
        let start = list.segments[0].base;
        list.damage.retain(|damage| damage.to > start);
        Some(oldest)
    }

    pub(super) fn put_back(&self, oldest: SegmentInfo) {
        Arc::make_mut(&mut self.write().segments).insert(0, oldest);
    }

    /// A file that is gone was trimmed meanwhile.
    pub(super) fn read_error(&self, position: Position, error: io::Error) -> ReadError {
        let start = self.start();
        if error.kind() == io::ErrorKind::NotFound && position < start {
            return ReadError::Trimmed { start };
        }
        ReadError::Io(error)
    }

    fn read(&self) -> RwLockReadGuard<'_, List> {
        // Each change is made by one call that cannot panic half way.
        self.list.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, List> {
        self.list.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl List {
    fn damage_at(&self, position: Position) -> Option<Damage> {
        let after = self.damage.partition_point(|damage| damage.from <= position);
        let damage = &self.damage[after.checked_sub(1)?];
        (position < damage.to).then(|| damage.clone())
    }
}

impl From<Nowhere> for ReadError {
    fn from(nowhere: Nowhere) -> Self {
        match nowhere {
            Nowhere::Trimmed(start) => ReadError::Trimmed { start },
            Nowhere::BeyondEnd(end) => ReadError::BeyondEnd { end },
            Nowhere::Damaged(damage) => ReadError::Damaged { from: damage.from, to: damage.to },
        }
    }
}
