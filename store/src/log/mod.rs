//! Where a stream's frames are kept: the engine behind the seam [`StreamLog`]. An engine stores and finds
//! frames; it knows neither who writes nor what is in them beyond the header, and decides nothing.
//!
//! [`segment`] is the embedded engine. All engines pass `tests/contract`.

use protocol::frame::Header;
use protocol::sequence::{SequenceNumber, ShardId};
use protocol::time::UnixMs;

pub mod index;
pub mod segment;
mod waypoints;

pub use disk::Position;

/// A frame of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Where it is in the commit's bytes.
    pub offset: usize,
    /// Its header.
    pub header: Header,
}

/// Why a log can't do what it should. Every error is final: the log must not be used again.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk failed, or an earlier call did.
    #[error(
        "log of stream in {dir}: {why}; what was acknowledged before is safe; restart the store to go on"
    )]
    Failed {
        /// Folder of the log.
        dir: String,
        /// What happened.
        why: String,
    },
}

/// How much a read gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadLimit {
    /// At most this many bytes, but at least one batch.
    pub bytes_max: usize,
}

/// Why a read fails; others can go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The disk can't read it.
    #[error("reading {shard} from sequence {from}: {why}")]
    Disk {
        /// Of which shard.
        shard: ShardId,
        /// From where.
        from: SequenceNumber,
        /// What happened.
        why: String,
    },
    /// The bytes are damaged; reading goes on after them.
    #[error(
        "{shard} is damaged from sequence {from} to before {resume}: those records can't be read; read on from {resume}"
    )]
    Damaged {
        /// Of which shard.
        shard: ShardId,
        /// From where.
        from: SequenceNumber,
        /// Where it goes on.
        resume: SequenceNumber,
    },
}

/// Batches of one shard, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadBatches {
    /// Whole frames. The first may begin before the place that was asked for.
    pub frames: Vec<u8>,
    /// After the last record in here; where there is none, where the read began, or the tail where all before it
    /// was trimmed.
    pub next: SequenceNumber,
    /// When the last batch in here arrived.
    pub last_arrival: UnixMs,
}

/// A batch, without most of what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peek {
    /// Its first sequence number.
    pub first: SequenceNumber,
    /// Records in it.
    pub count: u32,
    /// When it arrived.
    pub arrival: UnixMs,
    /// When its first record was made, by its producer's clock.
    pub producer_time: UnixMs,
    /// Bytes of its frame.
    pub len: u32,
    /// The beginning of its frame. Of this the header's checksum was compared with, not the payload's.
    pub start: Vec<u8>,
}

impl Peek {
    /// The sequence number after its last record.
    #[must_use]
    pub fn end(&self) -> SequenceNumber {
        self.first + u64::from(self.count)
    }
}

/// The writing side of an engine. Append is cheap, sync is the promise.
pub trait StreamLog: Send + 'static {
    /// Adds frames after the last ones: the bytes of `frames` one after the other. Not readable and not durable yet.
    ///
    /// # Errors
    /// When the engine failed; it must not be used again.
    fn append(&mut self, frames: &[&[u8]], entries: &[Entry]) -> Result<Position, LogError>;

    /// Makes all that was appended durable (an fsync here, a quorum elsewhere), then readable.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    fn sync(&mut self) -> Result<Position, LogError>;

    /// After the last byte that is durable: what the frames of the next append may call durable.
    fn durable_end(&self) -> Position;

    /// Whether the next `bytes` should go into a new segment.
    fn needs_head(&self, bytes: usize) -> bool;

    /// Seals what is there and goes on in a new segment that starts with this head.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    fn start_segment(&mut self, head: &[u8]) -> Result<(), LogError>;

    /// Removes whole segments that end at or below a position, oldest first. Returns how many.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    fn trim(&mut self, below: Position) -> Result<usize, LogError>;

    /// The reading side, for any number of readers beside the writer.
    fn reader(&self) -> std::sync::Arc<dyn LogReader>;
}

/// The reading side of an engine.
pub trait LogReader: Send + Sync + 'static {
    /// Batches of a shard from a sequence number on; empty at the tail, and where all up to it was trimmed.
    ///
    /// # Errors
    /// When the disk fails, or what was asked for is damaged.
    fn read(&self, shard: ShardId, from: SequenceNumber, limit: ReadLimit) -> Result<ReadBatches, ReadError>;

    /// After the last record of a shard that can be read.
    fn tail(&self, shard: ShardId) -> SequenceNumber;

    /// The oldest record of a shard that can be read; its tail where there is none.
    ///
    /// # Errors
    /// When the disk fails.
    fn first(&self, shard: ShardId) -> Result<SequenceNumber, ReadError>;

    /// The first record of a shard that arrived at a time or later; its tail where there is none.
    ///
    /// # Errors
    /// When the disk fails.
    fn at_time(&self, shard: ShardId, time: UnixMs) -> Result<SequenceNumber, ReadError>;

    /// The beginnings of batches from the one that holds a sequence number on: at least one if there is any, at most
    /// `count`, each with at most `bytes` of its frame (none of it: 0).
    ///
    /// # Errors
    /// When the disk fails, or a header is damaged.
    fn peek(
        &self,
        shard: ShardId,
        from: SequenceNumber,
        count: usize,
        bytes: usize,
    ) -> Result<Vec<Peek>, ReadError>;

    /// The newest batch of a shard, nothing of its frame; none where it is not at hand without the disk.
    fn newest(&self, shard: ShardId) -> Option<Peek>;

    /// The last batch whose first record was made at a time or before it, by its producer's clock; the oldest batch
    /// where there is none, the tail where there is no batch. Right where that clock never went back.
    ///
    /// # Errors
    /// When the disk fails.
    fn at_producer_time(&self, shard: ShardId, time: UnixMs) -> Result<SequenceNumber, ReadError> {
        search_producer_time(self, shard, time)
    }

    /// Segments, oldest first: where each ends and when it was sealed (`None` for the active one).
    ///
    /// # Errors
    /// When the disk fails.
    fn segments(&self, limit: usize) -> Result<Vec<SegmentAge>, ReadError>;

    /// From the oldest byte that is kept to after the last durable one.
    fn holds(&self) -> std::ops::Range<Position>;

    /// The active segment.
    fn active(&self) -> Active;

    /// Bytes on disk.
    fn stored_bytes(&self) -> u64;
}

/// [`LogReader::at_producer_time`] by halving, of any log.
fn search_producer_time(
    log: &(impl LogReader + ?Sized),
    shard: ShardId,
    time: UnixMs,
) -> Result<SequenceNumber, ReadError> {
    let (mut low, mut high) = (log.first(shard)?, log.tail(shard));
    let mut found = low;
    while low < high {
        let middle = SequenceNumber(u64::midpoint(low.0, high.0));
        match log.peek(shard, middle, 1, 0)?.first() {
            Some(batch) if batch.producer_time <= time => {
                found = batch.first;
                low = batch.end().max(middle + 1);
            }
            Some(batch) => high = batch.first.min(middle),
            None => high = middle,
        }
    }
    Ok(found)
}

/// The segment that is being written, for retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Active {
    /// When it was begun.
    pub begun: UnixMs,
    /// Whether it has records.
    pub used: bool,
}

/// A segment, for retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentAge {
    /// Where it ends.
    pub end: Position,
    /// Its length in bytes.
    pub len: u64,
    /// When the next one was begun: all of its records are older.
    pub sealed: Option<UnixMs>,
}

/// What a log held when it was opened, in order.
pub trait Replay {
    /// A frame that is no data: the payload is its own.
    fn control(&mut self, header: &Header, payload: &[u8]);
    /// A data frame.
    fn data(&mut self, header: &Header);
    /// A range of the log that can't be read.
    fn damage(&mut self, damage: &disk::Damage);
}
