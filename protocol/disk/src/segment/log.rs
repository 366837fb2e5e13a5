//! The writer: append, sync, roll, trim. After the first failed write it takes nothing more.

use std::io;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::reader::{SegmentReader, Shared};
use super::recover::recover;
use super::{Framing, LogError, OpenError, Position, Recovery, SegmentInfo, Settings, segment_file};
use crate::{DirName, Disk, FileName};

/// What is appended in pieces of at most so many bytes grows little by little ...
const LITTLE_BYTES: u64 = 4096;
/// ... if so many of them come one after the other.
const LITTLE_APPENDS: u32 = 4;

/// A log in segments, and the only writer of its folder.
///
/// `append` is cheap, [`sync`](Self::sync) is the promise. The log never rolls by itself, because a segment's head
/// is the caller's: where [`needs_roll`](Self::needs_roll), call [`roll`](Self::roll) with it. Where
/// [`active_len`](Self::active_len) is 0, the active segment has no head yet, and the caller's head comes first.
pub struct SegmentLog<F> {
    dir: DirName,
    settings: Settings,
    shared: Arc<Shared>,
    active: FileName,
    base: Position,
    end: Position,
    durable_end: Position,
    failed: Option<Arc<str>>,
    /// How many appends in a row were little.
    little: u32,
    /// Bytes that the active segment's file was asked to have; 0 where it was not asked.
    reserved: u64,
    framing: PhantomData<fn() -> F>,
}

impl<F: Framing> SegmentLog<F> {
    /// Opens the log in `dir`, creating it where it is missing, and recovers it from the device: the torn tail of
    /// the newest segment is cut off, damage is reported and kept around. All that is accepted is durable.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: DirName,
        settings: Settings,
    ) -> Result<(Self, Recovery), OpenError> {
        let recovered = recover::<F>(&*disk, &dir);
        let (segments, recovery) = recovered.map_err(|source| OpenError::Io { dir: dir.clone(), source })?;
        let newest = segments.last().expect("recovery leaves at least one segment").clone();
        let end = newest.end();
        let log = Self {
            dir,
            settings,
            shared: Arc::new(Shared::new(disk, segments, recovery.damage.clone(), end)),
            active: newest.file,
            base: newest.base,
            end,
            durable_end: end,
            failed: None,
            little: 0,
            reserved: 0,
            framing: PhantomData,
        };
        Ok((log, recovery))
    }

    /// Writes whole frames at the end and returns where they start. They are neither durable nor readable before
    /// the next `sync`. One call is one write.
    pub fn append(&mut self, frames: &[u8]) -> Result<Position, LogError> {
        self.append_pieces(&[frames])
    }

    /// As [`append`](Self::append), of frames that lie in pieces.
    pub fn append_pieces(&mut self, pieces: &[&[u8]]) -> Result<Position, LogError> {
        self.check_usable()?;
        debug_assert!(
            pieces.first().is_none_or(|first| first.is_empty() || first.starts_with(F::MAGIC)),
            "appended bytes must be whole frames"
        );
        let (start, len) = (self.end, pieces.iter().map(|piece| piece.len() as u64).sum::<u64>());
        if len > 0 {
            self.reserve(len);
            let appended = match pieces {
                [frames] => self.shared.disk.append(&self.active, frames),
                pieces => self.shared.disk.append_pieces(&self.active, pieces),
            };
            self.remember(appended)?;
            self.end = start.plus(len);
        }
        Ok(start)
    }

    /// Makes all that was appended durable and readable, and returns the durable end: everything below it survives.
    pub fn sync(&mut self) -> Result<Position, LogError> {
        self.check_usable()?;
        if self.durable_end < self.end {
            let synced = self.shared.disk.sync(&self.active);
            self.remember(synced)?;
            self.publish();
        }
        Ok(self.durable_end)
    }

    /// Whether `bytes` more would take the active segment over its limit. Never where it is empty.
    pub fn needs_roll(&self, bytes: u64) -> bool {
        self.active_len() > 0 && self.active_len() + bytes > self.settings.segment_bytes_max
    }

    /// Seals the active segment and begins the next with `head`, whole frames; all of it durable. Where the active
    /// one is still empty, it gets the head and stays.
    pub fn roll(&mut self, head: &[u8]) -> Result<Position, LogError> {
        self.sync()?;
        if self.active_len() == 0 {
            let start = self.append(head)?;
            self.sync()?;
            return Ok(start);
        }
        self.give_back()?;
        let base = self.end;
        let begun = segment_file(&self.dir, base).and_then(|file| self.begin_segment(file, head));
        let segment = self.remember(begun)?;
        self.active = segment.file.clone();
        self.base = base;
        self.end = segment.end();
        self.shared.seal_and_add(segment);
        self.publish();
        Ok(base)
    }

    /// Removes the segments that end at or below `below`, oldest first, but never the active one, and returns them.
    /// An error here does not fail the log; what is left over is removed by the next call.
    pub fn trim(&mut self, below: Position) -> Result<Vec<SegmentInfo>, LogError> {
        let mut removed = Vec::new();
        while let Some(oldest) = self.shared.take_oldest(below) {
            if let Err(error) = self.shared.disk.remove(&oldest.file)
                && error.kind() != io::ErrorKind::NotFound
            {
                self.shared.put_back(oldest);
                return Err(error.into());
            }
            // One by one, so that a crash cannot leave an older segment without a newer one.
            self.shared.disk.sync_dir(&self.dir)?;
            removed.push(oldest);
        }
        Ok(removed)
    }

    /// The oldest position there is.
    pub fn start(&self) -> Position {
        self.shared.start()
    }

    /// Where the next frame will start.
    pub fn end(&self) -> Position {
        self.end
    }

    /// Everything below it survives a crash, and can be read.
    pub fn durable_end(&self) -> Position {
        self.durable_end
    }

    /// Bytes in the active segment, synced or not.
    pub fn active_len(&self) -> u64 {
        self.end.0 - self.base.0
    }

    /// Where the active segment starts.
    pub fn active_base(&self) -> Position {
        self.base
    }

    /// All segments, oldest first, the active one with its unsynced bytes.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let mut segments = self.shared.segments();
        if let Some(active) = segments.last_mut() {
            active.len = self.active_len();
        }
        segments
    }

    /// The log's folder.
    pub fn dir(&self) -> &DirName {
        &self.dir
    }

    /// The text of the error that failed this log, if one did.
    pub fn failure(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    /// A reader that may be cloned and used from anywhere, beside this writer.
    pub fn reader(&self) -> SegmentReader<F> {
        SegmentReader::new(Arc::clone(&self.shared))
    }

    /// Makes the file longer than it has to be where little is appended each time.
    fn reserve(&mut self, len: u64) {
        self.little = if len <= LITTLE_BYTES { self.little.saturating_add(1) } else { 0 };
        let needed = self.active_len() + len;
        if self.little <= LITTLE_APPENDS || needed <= self.reserved || self.settings.reserve_bytes == 0 {
            return;
        }
        let reserved = (needed + self.settings.reserve_bytes).min(self.settings.segment_bytes_max);
        if reserved > needed {
            self.shared.disk.reserve(&self.active, reserved);
            self.reserved = reserved;
        }
    }

    /// Makes the file as long as what is in it, durably.
    fn give_back(&mut self) -> Result<(), LogError> {
        if std::mem::take(&mut self.reserved) > 0 {
            let disk = &self.shared.disk;
            let cut = disk.truncate(&self.active, self.active_len()).and_then(|()| disk.sync(&self.active));
            self.remember(cut)?;
        }
        Ok(())
    }

    fn begin_segment(&self, file: FileName, head: &[u8]) -> io::Result<SegmentInfo> {
        debug_assert!(head.is_empty() || head.starts_with(F::MAGIC), "a head must be whole frames");
        let disk = &self.shared.disk;
        disk.append(&file, head)?;
        disk.sync(&file)?;
        disk.sync_dir(&self.dir)?;
        Ok(SegmentInfo { base: self.end, len: head.len() as u64, file })
    }

    fn publish(&mut self) {
        self.durable_end = self.end;
        self.shared.durable_end.store(self.end.0, Ordering::Release);
    }

    fn check_usable(&self) -> Result<(), LogError> {
        match &self.failed {
            None => Ok(()),
            Some(first) => Err(LogError::Failed { first: Arc::clone(first) }),
        }
    }

    fn remember<T>(&mut self, result: io::Result<T>) -> Result<T, LogError> {
        result.map_err(|error| {
            self.failed = Some(error.to_string().into());
            error.into()
        })
    }
}
