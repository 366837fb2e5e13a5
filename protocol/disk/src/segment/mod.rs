//! A log in segments: append-only files of frames, one after the other, with recovery, trimming and readers that run
//! beside the writer. The frame format is the caller's ([`Framing`]); no format, no index and no clock belongs here.
//!
//! A segment is `<dir>/<20-digit position of its first byte>.log` and holds frames and nothing else. A position, once
//! durable, means the same bytes for ever.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::{DirName, Disk, FileName};

mod log;
mod reader;
mod recover;
mod scan;
mod walk;

pub use log::SegmentLog;
pub use reader::SegmentReader;
pub use scan::{Scan, Scanned};
pub use walk::scan_segment;

/// How frames look; supplied by the owner of the format, so that this crate names none.
pub trait Framing: Send + Sync + 'static {
    /// Fixed header size in bytes, enough to know the frame's length.
    const HEADER_BYTES: usize;
    /// Longest legal frame in bytes, header included; bounds every allocation.
    const FRAME_BYTES_MAX: usize;
    /// Bytes a frame starts with, at least one; used to search for the next valid frame after damage.
    const MAGIC: &'static [u8];

    /// Bytes of the whole frame, header included, that starts with this header of `HEADER_BYTES`; `None` where the
    /// header is not valid. It must hold a checksum of its own: a length that is believed decides what is torn.
    fn frame_len(header: &[u8]) -> Option<usize>;

    /// Whether a whole frame is valid, payload included.
    fn is_valid(frame: &[u8]) -> bool;

    /// Whether the frame is one part of a group that must be there whole or not at all, and more parts follow.
    fn continues(header: &[u8]) -> bool {
        let _ = header;
        false
    }

    /// A position (see [`SegmentLog::durable_end`]) below which the log was durable when this frame was made, where
    /// the format says so. With it, recovery can tell unsynced bytes that were lost out of order, which it cuts off,
    /// from media damage, which it keeps around. Without it, whatever has a valid frame after it counts as damage.
    fn durable_below(header: &[u8]) -> Option<Position> {
        let _ = header;
        None
    }
}

/// Bytes since the log began, over all segments; never used twice once durable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

impl Position {
    /// The position `bytes` further on.
    pub fn plus(self, bytes: u64) -> Self {
        Self(self.0 + bytes)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How a log is cut into segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Bytes at which the caller should roll, see [`SegmentLog::needs_roll`].
    pub segment_bytes_max: u64,
    /// Bytes by which a segment is made longer at once where it grows little by little, see [`Disk::reserve`]; 0 for never.
    pub reserve_bytes: u64,
}

/// One segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Position of its first byte.
    pub base: Position,
    /// Bytes in it.
    pub len: u64,
    /// Its file.
    pub file: FileName,
}

impl SegmentInfo {
    /// The position after its last byte.
    pub fn end(&self) -> Position {
        self.base.plus(self.len)
    }
}

/// A range that holds no valid frames though it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The segment that holds the range, or that ends where it starts, for a range no segment holds.
    pub file: FileName,
    /// The first position that cannot be read.
    pub from: Position,
    /// The next position that can.
    pub to: Position,
}

/// What [`SegmentLog::open`] found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Bytes after the last valid frame that were cut off: what a crash left of writes that were never acknowledged.
    /// Damage to the very last frames looks the same and is cut off too, which is why it is counted; and so does what
    /// was reserved.
    pub torn_bytes: u64,
    /// Ranges that are lost in the verified segment, and gaps between segments.
    pub damage: Vec<Damage>,
    /// Bytes read to verify.
    pub scanned_bytes: u64,
    /// Segments there are now.
    pub segments: usize,
    /// Bytes of a segment that lie beyond the next one's start, and are never read. Not 0 only where files were
    /// tampered with.
    pub overlap_bytes: u64,
}

/// What [`scan_segment`] found in one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentCheck {
    /// The segment.
    pub segment: SegmentInfo,
    /// Valid frames.
    pub frames: u64,
    /// Bytes in valid frames.
    pub frame_bytes: u64,
    /// Invalid ranges with valid frames after them.
    pub damage: Vec<Damage>,
    /// The position after the last valid frame of a complete group. Bytes after it are torn in the newest segment,
    /// and damage in any other.
    pub valid_end: Position,
}

/// A log that could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk failed.
    #[error("open log {dir}: {source}")]
    Io {
        /// The log's folder.
        dir: DirName,
        /// What failed.
        source: io::Error,
    },
}

/// A change that was refused.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk failed. Unless it was in `trim`, the log is now failed for good: nothing is retried, because the
    /// operating system may have dropped what it could not write.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// An earlier change failed; only opening the log again can tell what is on the disk.
    #[error("the log failed earlier and takes nothing more: {first}")]
    Failed {
        /// The text of the first error.
        first: Arc<str>,
    },
}

/// A read that found no frame.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The position was trimmed.
    #[error("trimmed: the log starts at {start}")]
    Trimmed {
        /// Where the log starts now.
        start: Position,
    },
    /// The position is not durable yet.
    #[error("beyond the durable end {end}")]
    BeyondEnd {
        /// The durable end.
        end: Position,
    },
    /// No valid frame starts there.
    #[error("damaged from {from} to {to}")]
    Damaged {
        /// The first position that cannot be read.
        from: Position,
        /// Where to go on.
        to: Position,
    },
    /// The disk failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

const SUFFIX: &str = ".log";
const DIGITS: usize = 20;

/// The segments in a folder, by position. Other files are left alone.
pub fn list_segments(disk: &dyn Disk, dir: &DirName) -> io::Result<Vec<SegmentInfo>> {
    let entries = disk.list(dir)?;
    let files = entries.into_iter().filter(|entry| !entry.is_dir);
    let known = files.filter_map(|entry| Some((base_of(&entry.name)?, entry)));
    Ok(known.map(|(base, entry)| SegmentInfo { base, len: entry.len, file: entry.name }).collect())
}

fn base_of(file: &FileName) -> Option<Position> {
    let digits = file.base().strip_suffix(SUFFIX)?;
    let numeric = digits.len() == DIGITS && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|_| numeric).map(Position)
}

fn segment_file(dir: &DirName, base: Position) -> io::Result<FileName> {
    dir.file(&format!("{:020}{SUFFIX}", base.0)).map_err(io::Error::other)
}
