//! The spool: the agent's durable queue, over any [`disk::Disk`]. It has no clock, no threads and no network.
//!
//! A commit is data frames and the cursor frame that closes them, written at once: after a crash all of it is
//! there, or none. So what a source's cursor has passed is in the spool exactly once. Format and rules are in
//! `agent/DESIGN.md`.

use std::sync::Arc;

use disk::{DirName, Disk, LogError, OpenError, Position, ReadError, SegmentLog, SegmentReader};
use protocol::batch::BatchBuilder;
use protocol::compress::{Codec, Compressor};
use protocol::frame::{self, Frame, HEADER_BYTES, Header, Kind};
use protocol::sequence::SequenceNumber;
use protocol::time::UnixMs;

use crate::lane::{LaneId, StreamMap};
use crate::loss::{LOSS_STREAM, Loss, LossRecord};

mod recover;
mod state;

pub use state::{CursorUpdate, DeliveredUpdate, LaneState, State};

/// Frames as [`disk`] sees them. Data frames are parts of the group that the next cursor frame ends.
pub struct SpoolFraming;

impl disk::Framing for SpoolFraming {
    const HEADER_BYTES: usize = HEADER_BYTES;
    const FRAME_BYTES_MAX: usize = protocol::limit::FRAME_BYTES_MAX;
    const MAGIC: &'static [u8] = &frame::MAGIC;

    fn frame_len(header: &[u8]) -> Option<usize> {
        Header::parse(header).ok().map(|header| header.total_len as usize)
    }

    fn is_valid(bytes: &[u8]) -> bool {
        Frame::parse(bytes).is_ok()
    }

    fn continues(header: &[u8]) -> bool {
        header.get(frame::at::KIND) == Some(&Kind::Data.to_byte())
    }

    fn durable_below(header: &[u8]) -> Option<Position> {
        let header = Header::parse(header).ok()?;
        // Frames of our own have no sequence number, so the field says what was durable when they were made.
        (header.kind != Kind::Data).then_some(Position(header.first_sequence.0))
    }
}

/// Reads the spool beside its writer.
pub type SpoolReader = SegmentReader<SpoolFraming>;

/// Bounds of a spool.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Most bytes on disk.
    pub max_bytes: u64,
    /// Bytes of one segment.
    pub segment_bytes: u64,
    /// Bytes of the file system that stay free.
    pub min_free: u64,
}

/// Where a batch is in the spool, and what is needed to send it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchMeta {
    /// Of its frame.
    pub position: u64,
    /// Of its frame.
    pub len: u32,
    /// Its lane.
    pub lane: LaneId,
    /// Its number in the lane.
    pub sequence: u64,
    /// Records.
    pub records: u32,
    /// Bytes that a throttle counts.
    pub user_bytes: u32,
    /// When it was taken, by this machine's clock.
    pub taken: UnixMs,
}

impl BatchMeta {
    /// Of a data frame's header.
    #[must_use]
    pub fn of(position: u64, header: &Header) -> BatchMeta {
        BatchMeta {
            position,
            len: header.total_len,
            lane: LaneId { stream: header.stream, lane: header.lane },
            sequence: header.producer_sequence,
            records: header.record_count,
            user_bytes: header.user_bytes,
            // The producer's clock is this machine's, but for cameras that have their own.
            taken: if header.arrival.0 > 0 { header.arrival } else { header.producer_time },
        }
    }
}

/// A spool that can't go on.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// Opening.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Writing. Nothing is retried: what is on the disk is known only after opening it again.
    #[error("the spool can't be written: {0}")]
    Log(#[from] LogError),
    /// Reading.
    #[error("the spool can't be read: {0}")]
    Read(#[from] ReadError),
}

impl SpoolError {
    /// Whether it is only that the disk has no room: opening again may work when there is some.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let source = match self {
            SpoolError::Open(OpenError::Io { source, .. }) | SpoolError::Log(LogError::Io(source)) => source,
            _ => return false,
        };
        source.kind() == std::io::ErrorKind::StorageFull
    }
}

/// What the spool writes for itself beside a commit.
const OWN_BYTES: usize = 16 << 10;

/// The file system's last bytes: less than this, and what is only noted is not written down.
const LAST_BYTES: u64 = 256 << 10;

/// What is noted about dropped batches may take this part of the spool's bound on top of it ...
const NOTES_PART: u64 = 16;

/// ... and at least this much.
const NOTES_BYTES_MIN: u64 = 1 << 20;

/// A state that takes less than this part of a segment is written twice at its head ...
const SPARE_HEAD_PART: u64 = 64;

/// ... and one of at most this many bytes always.
const SPARE_HEAD_BYTES: u64 = 4096;

/// What opening found.
#[derive(Debug, Default)]
pub struct Opened {
    /// Bytes of an unfinished commit that were cut off.
    pub torn_bytes: u64,
    /// Ranges that are damaged.
    pub damaged: Vec<(u64, u64)>,
    /// The spool was empty, or nothing of it could be read.
    pub is_new: bool,
}

/// See the module.
pub struct Spool {
    log: SegmentLog<SpoolFraming>,
    disk: Arc<dyn Disk>,
    settings: Settings,
    state: State,
    /// What the store has and no frame says yet.
    unnoted: DeliveredUpdate,
}

impl Spool {
    /// Opens the spool in `dir`, begins a new epoch, and makes that durable. `new_id` is the producer's id
    /// where there is none yet: random, and not from a seed.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: DirName,
        settings: Settings,
        new_id: u128,
    ) -> Result<(Spool, Opened), SpoolError> {
        let log_settings = disk::Settings { segment_bytes_max: settings.segment_bytes, reserve_bytes: 0 };
        let (log, recovery) = SegmentLog::open(Arc::clone(&disk), dir, log_settings)?;
        let (mut state, mut opened) = recover::recover(&log, &recovery, new_id)?;
        opened.torn_bytes = recovery.torn_bytes;
        state.epoch += 1;
        let mut spool = Spool { log, disk, settings, state, unnoted: DeliveredUpdate::default() };
        // What the store has makes room for what is written next, on a disk that others have filled.
        spool.trim()?;
        spool.write_state()?;
        Ok((spool, opened))
    }

    /// Everything but the batches.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// A reader beside this writer.
    #[must_use]
    pub fn reader(&self) -> SpoolReader {
        self.log.reader()
    }

    /// Everything below it survives a crash.
    #[must_use]
    pub fn durable_end(&self) -> u64 {
        self.log.durable_end().0
    }

    /// Bytes on disk.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.log.end().0 - self.log.start().0
    }

    /// Bytes that the store does not have yet, as far as is known here.
    #[must_use]
    pub fn undelivered_bytes(&self) -> u64 {
        self.log.end().0 - self.state.mark.max(self.log.start().0).min(self.log.end().0)
    }

    /// Whether a commit is within the bounds: whole data frames, and what goes with them. One without frames may use what
    /// is kept for the spool's own notes.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn has_room_for(&mut self, frames: &[u8], update: &CursorUpdate) -> Result<bool, SpoolError> {
        let more = if frames.is_empty() { HEADER_BYTES + update.encode().len() } else { OWN_BYTES };
        self.has_room((frames.len() + more) as u64)
    }

    /// Whether `bytes` more are within the bounds. Gives back delivered segments first, the active one too
    /// where all of it is delivered.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn has_room(&mut self, bytes: u64) -> Result<bool, SpoolError> {
        if self.fits(bytes) {
            return Ok(true);
        }
        // What is delivered of the active segment can only go once it is not the active one. Not where it holds little
        // more than its head: whoever waits asks again and again, and each time would cost another one. And not where
        // there is no room for that head, unless there is no older segment that goes first.
        let head = self.head().len() as u64;
        if self.log.active_len() > (self.settings.segment_bytes / 4).max(2 * head)
            && (self.bytes() + head <= self.settings.max_bytes || self.log.segments().len() == 1)
        {
            self.write_head()?;
        }
        self.trim()?;
        Ok(self.fits(bytes))
    }

    fn fits(&mut self, bytes: u64) -> bool {
        // Where the file system can't say, max_bytes alone decides.
        let free = self.disk.free_bytes().unwrap_or(u64::MAX);
        // A segment that is full is followed by another one, whose head is what the spool knows.
        let head = if self.log.needs_roll(bytes) { self.head().len() as u64 } else { 0 };
        let more = bytes.saturating_add(head);
        self.bytes().saturating_add(more) <= self.settings.max_bytes
            && free >= self.settings.min_free.saturating_add(more)
    }

    /// Room for what is only noted: others have filled the disk where there is none.
    fn has_last_bytes(&self) -> bool {
        self.disk.free_bytes().unwrap_or(u64::MAX) >= LAST_BYTES
    }

    /// Appends a commit: whole data frames, which get their producer and numbers here, and the cursors that go
    /// with them. Durable after [`sync`](Self::sync). `metas` gets one entry a batch.
    ///
    /// # Errors
    /// When the disk fails; the spool then takes nothing more.
    pub fn append(
        &mut self,
        frames: &mut Vec<u8>,
        update: CursorUpdate,
        metas: &mut Vec<BatchMeta>,
    ) -> Result<(), SpoolError> {
        let first = metas.len();
        let body = update.encode();
        if self.log.needs_roll((frames.len() + body.len() + HEADER_BYTES) as u64) {
            self.write_head()?;
            self.trim()?;
        }
        self.number(frames, metas);
        self.state.apply_cursor(&update);
        self.put_frame(Kind::Cursor, &body, frames);
        let start = self.log.append(frames)?;
        for meta in &mut metas[first..] {
            meta.position += start.0;
            self.state.note_position(meta);
        }
        Ok(())
    }

    /// Makes all that was appended durable.
    ///
    /// # Errors
    /// When the disk fails; the spool then takes nothing more.
    pub fn sync(&mut self) -> Result<(), SpoolError> {
        self.log.sync()?;
        Ok(())
    }

    /// Notes what the store has, and gives back what is not needed any more. Not synced by itself: after a
    /// crash it is only sent once more, and recognised. So a spool without room waits with a note that gives nothing
    /// back; it goes with the next one.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn delivered(&mut self, update: &DeliveredUpdate) -> Result<(), SpoolError> {
        self.state.apply_delivered(update);
        self.unnoted.merge(update.clone());
        let mut must = !self.unnoted.losses.is_empty();
        if !must && !self.has_last_bytes() {
            // No room even for the note: it follows at once, in what is given back.
            must = self.gives_back();
            self.trim()?;
            if !must || !self.has_last_bytes() {
                return Ok(());
            }
        }
        let mut frames = Vec::new();
        self.put_frame(Kind::Delivered, &self.unnoted.encode(), &mut frames);
        if !must && !self.gives_back() && !self.fits(frames.len() as u64) {
            return Ok(());
        }
        if self.log.needs_roll(frames.len() as u64) {
            self.write_head()?;
        } else {
            self.log.append(&frames)?;
            self.unnoted = DeliveredUpdate::default();
        }
        if must {
            self.log.sync()?;
        }
        self.trim()
    }

    /// Notes what is known of a stream's shards, durably: lanes are numbered by it.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn set_stream(&mut self, map: StreamMap) -> Result<(), SpoolError> {
        let update = CursorUpdate { streams: vec![map], ..CursorUpdate::default() };
        self.append(&mut Vec::new(), update, &mut Vec::new())?;
        self.sync()
    }

    /// Where the segment ends that [`drop_oldest`](Self::drop_oldest) gives up.
    #[must_use]
    pub fn oldest_end(&self) -> u64 {
        self.log.segments().first().map_or(0, |oldest| oldest.end().0)
    }

    /// Gives up the oldest segment with all that is undelivered in it, and writes that into the loss ledger
    /// first. False when there is only the active one.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn drop_oldest(&mut self) -> Result<bool, SpoolError> {
        if self.log.segments().len() < 2 {
            if self.log.active_len() <= self.settings.segment_bytes / 4 {
                return Ok(false);
            }
            self.write_head()?;
        }
        let Some(oldest) = self.log.segments().first().cloned() else { return Ok(false) };
        let losses = self.undelivered_in(oldest.base, oldest.end())?;
        let mark = self.state.mark.max(oldest.end().0);
        let update = DeliveredUpdate { mark, losses, ..DeliveredUpdate::default() };
        self.delivered(&update)?;
        self.log.sync()?;
        Ok(true)
    }

    /// Losses, one a stream, for what is undelivered between two positions.
    fn undelivered_in(&self, from: Position, to: Position) -> Result<Vec<Loss>, SpoolError> {
        let reader = self.log.reader();
        let (mut at, mut header, mut losses) = (from, [0u8; HEADER_BYTES], Vec::<Loss>::new());
        while at < to {
            let len = match reader.read_header(at, &mut header) {
                Ok(len) => len as u64,
                Err(ReadError::Damaged { to, .. }) => {
                    at = to;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if let Ok(header) = Header::parse(&header)
                && header.kind == Kind::Data
                && !self.state.is_delivered(&BatchMeta::of(at.0, &header))
            {
                let loss = self.state.loss_of(&header, "spool_full").at(at.0, at.0 + len);
                merge(&mut losses, loss);
            }
            at = at.plus(len);
        }
        Ok(losses)
    }

    /// Drops a commit's batches because the spool is full, into the loss ledger; its cursors go on.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn drop_newest(&mut self, frames: &[u8], mut update: CursorUpdate) -> Result<(), SpoolError> {
        let mut rest = frames;
        while let Ok(header) = Header::parse(rest) {
            merge(&mut update.losses, self.state.loss_of(&header, "spool_full"));
            rest = rest.get(header.total_len as usize..).unwrap_or_default();
        }
        if !self.has_room_for_notes() {
            // Written with the next head. After a crash files are read and counted again; messages that are
            // acknowledged by now are not: the one case in which the ledger may say too little.
            self.state.apply_cursor(&update);
            return Ok(());
        }
        self.append(&mut Vec::new(), update, &mut Vec::new())
    }

    /// Notes about what is dropped may take the spool over its bound by this much and no further, however long the store
    /// is away.
    fn has_room_for_notes(&self) -> bool {
        let more = (self.settings.max_bytes / NOTES_PART).max(NOTES_BYTES_MIN);
        self.bytes() < self.settings.max_bytes.saturating_add(more) && self.has_last_bytes()
    }

    /// Makes records of the losses that were not told yet, in the spool like any other batch.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn tell_losses(
        &mut self,
        agent: &str,
        time: UnixMs,
        metas: &mut Vec<BatchMeta>,
    ) -> Result<bool, SpoolError> {
        if self.state.ledger.is_empty() || !self.has_last_bytes() {
            return Ok(false);
        }
        let mut builder = BatchBuilder::new();
        let map = self.state.stream_map(LOSS_STREAM);
        let key: String = agent.chars().take(protocol::limit::PARTITION_KEY_CHARS_MAX).collect();
        let Ok(index) = builder.key(&key, None) else { return Ok(false) };
        for loss in self.state.ledger.clone().take() {
            let record = LossRecord { agent: agent.to_owned(), time, loss };
            builder.push(index, time, &serde_json::to_vec(&record).unwrap_or_default());
        }
        let header = Header { stream: map.name.key(), lane: map.lane_of(&key), ..Header::default() };
        let mut frames = Vec::new();
        builder.seal(header, &mut Compressor::new(Codec::Lz4), &mut frames);
        let update = CursorUpdate { losses_told: true, streams: vec![map], ..CursorUpdate::default() };
        self.append(&mut frames, update, metas)?;
        Ok(true)
    }

    /// Gives producer and number to each frame.
    fn number(&mut self, frames: &mut [u8], metas: &mut Vec<BatchMeta>) {
        let mut at = 0;
        while at < frames.len() {
            let Ok(mut header) = Header::parse(&frames[at..]) else { break };
            let lane = LaneId { stream: header.stream, lane: header.lane };
            header.producer_id = self.state.producer;
            header.producer_epoch = self.state.epoch;
            header.producer_sequence = self.state.next_sequence(lane);
            frame::patch_header(&mut frames[at..], &header);
            metas.push(BatchMeta::of(at as u64, &header));
            at += header.total_len as usize;
        }
    }

    fn write_head(&mut self) -> Result<(), SpoolError> {
        let head = self.head();
        self.log.roll(&head)?;
        self.unnoted = DeliveredUpdate::default();
        Ok(())
    }

    fn write_state(&mut self) -> Result<(), SpoolError> {
        if self.log.active_len() == 0 {
            return self.write_head();
        }
        let frame = self.state_frame();
        self.log.append(&frame)?;
        self.log.sync()?;
        Ok(())
    }

    /// What a segment begins with: the state, twice where it is small, so that a flipped bit in the one leaves the
    /// other.
    fn head(&mut self) -> Vec<u8> {
        let frame = self.state_frame();
        let small =
            frame.len() as u64 <= (self.settings.segment_bytes / SPARE_HEAD_PART).max(SPARE_HEAD_BYTES);
        frame.repeat(if small { 2 } else { 1 })
    }

    fn state_frame(&mut self) -> Vec<u8> {
        let mut frame = Vec::new();
        let body = self.state.encode();
        self.put_frame(Kind::SpoolState, &body, &mut frame);
        frame
    }

    fn put_frame(&mut self, kind: Kind, body: &[u8], out: &mut Vec<u8>) {
        let header = Header {
            kind,
            first_sequence: SequenceNumber(self.log.durable_end().0),
            producer_id: self.state.producer,
            producer_epoch: self.state.epoch,
            ..Header::default()
        };
        frame::put_control(header, body, out);
    }

    /// Whether the oldest segment is done with.
    fn gives_back(&self) -> bool {
        matches!(self.log.segments()[..], [ref oldest, _, ..] if oldest.end().0 <= self.state.mark)
    }

    /// Gives back what is done with, once it is durable that it is: so that a segment which is gone without that is
    /// known to be missing.
    fn trim(&mut self) -> Result<(), SpoolError> {
        if !self.gives_back() {
            return Ok(());
        }
        self.log.sync()?;
        self.log.trim(Position(self.state.mark))?;
        Ok(())
    }
}

fn merge(losses: &mut Vec<Loss>, loss: Loss) {
    match losses.iter_mut().find(|l| l.source == loss.source && l.reason == loss.reason) {
        Some(same) => {
            same.records += loss.records;
            same.bytes += loss.bytes;
        }
        None => losses.push(loss),
    }
}
