//! Where an engine is tried, and a writer that remembers what it wrote.

use std::fmt;
use std::sync::Arc;

use disk::{DirName, Disk, FileName, MemoryDisk, RealDisk};
use protocol::batch::BatchBuilder;
use protocol::compress::{Codec, Compressor};
use protocol::frame::{self, Frame, Header};
use protocol::sequence::{SequenceNumber, ShardId};
use protocol::time::UnixMs;
use store::log::segment::SegmentStreamLog;
use store::log::{Entry, ReadBatches, StreamLog};
use store::shard::driver::{StateReplay, head_shards};
use store::shard::sequencer::{Rules, Sequencer};
use store::shard::state::StreamState;

/// Flips a bit of this byte of a file.
type Flip = Box<dyn Fn(&FileName, u64)>;

/// An engine on a disk.
pub(crate) struct Place {
    name: &'static str,
    pub(crate) disk: Arc<dyn Disk>,
    flip: Flip,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

fn dir() -> DirName {
    DirName::new("log").expect("a folder name")
}

/// Tries a case with every engine on every disk.
pub(crate) fn on_all(case: impl Fn(&Place)) {
    let memory = MemoryDisk::new(1);
    let disk = Arc::new(memory.clone());
    let flip = Box::new(move |file: &FileName, byte: u64| memory.flip_bit(file, byte * 8));
    case(&Place { name: "segments in memory", disk, flip });
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().join("root");
    let disk = Arc::new(RealDisk::open(&root).expect("a disk"));
    let flip = Box::new(move |file: &FileName, byte: u64| {
        let path = root.join(file.as_str());
        let mut bytes = std::fs::read(&path).expect("the file");
        bytes[byte as usize] ^= 1;
        std::fs::write(&path, bytes).expect("the file");
    });
    case(&Place { name: "segments on a real disk", disk, flip });
}

impl Place {
    /// Files of the log whose names end so, by name.
    pub(crate) fn files(&self, suffix: &str) -> Vec<FileName> {
        let all = self.disk.list(&dir()).expect("the folder").into_iter().map(|entry| entry.name);
        all.filter(|name| name.as_str().ends_with(suffix)).collect()
    }

    /// Flips a bit of the byte at this position of the log.
    pub(crate) fn flip_bit(&self, position: u64) {
        let segments = self.files(".log");
        let base = |name: &FileName| name.base().trim_end_matches(".log").parse::<u64>().expect("a position");
        let segment = segments.iter().rfind(|name| base(name) <= position).expect("a segment");
        self.flip_in(segment, position - base(segment));
    }

    /// Flips a bit of this byte of a file.
    pub(crate) fn flip_in(&self, file: &FileName, byte: u64) {
        (self.flip)(file, byte);
    }
}

/// A batch as it was written.
pub(crate) struct Written {
    pub(crate) header: Header,
    pub(crate) frame: Vec<u8>,
    position: u64,
}

/// Writes batches of made-up records, and remembers what is kept.
pub(crate) struct Writer {
    pub(crate) log: Box<dyn StreamLog>,
    pub(crate) state: StreamState,
    pub(crate) now: UnixMs,
    pub(crate) batches: Vec<Written>,
}

impl Writer {
    /// A new log of a stream with so many shards.
    pub(crate) fn new(place: &Place, shards: u32) -> Writer {
        let (mut writer, has_head) = Writer::try_open(place);
        assert!(!has_head, "the place is empty");
        writer.state = StreamState::new(shards, writer.now);
        let head = writer.head();
        writer.log.start_segment(&head).expect("a first segment");
        writer
    }

    /// The log that is there, unless it is empty.
    pub(crate) fn open(place: &Place) -> Option<Writer> {
        let (writer, has_head) = Writer::try_open(place);
        has_head.then_some(writer)
    }

    fn try_open(place: &Place) -> (Writer, bool) {
        let mut replay = StateReplay::default();
        let disk = Arc::clone(&place.disk);
        let opened = SegmentStreamLog::open(disk, dir(), 1 << 20, head_shards, &mut replay);
        let (log, opened) = opened.expect("it opens");
        let state = replay.state.unwrap_or_default();
        let log: Box<dyn StreamLog> = Box::new(log);
        let writer = Writer { log, state, now: UnixMs(1), batches: Vec::new() };
        (writer, opened.has_head)
    }

    fn head(&self) -> Vec<u8> {
        let rules = Rules { shard_rate: None, record_bytes_max: 0, observe: false };
        Sequencer::new(self.state.clone(), rules).head_frame(self.now, self.log.durable_end().0)
    }

    /// Appends one batch of so many records; time goes on a little.
    pub(crate) fn append(&mut self, id: ShardId, records: u32) {
        self.now = UnixMs(self.now.0 + 1 + u64::from(records % 3));
        let shard = self.state.shards.get(&id).expect("a shard");
        let header = Header {
            shard: id,
            batch_no: shard.next_batch,
            first_sequence: shard.next,
            arrival: self.now,
            durable_below: self.log.durable_end().0,
            ..Header::default()
        };
        let mut builder = BatchBuilder::new();
        let key = builder.key("k", None).expect("a key");
        (0..records).for_each(|n| builder.push(key, self.now, &vec![n as u8; 20 + n as usize]));
        let mut frame = Vec::new();
        let header = builder.seal(header, &mut Compressor::new(Codec::None), &mut frame);
        frame::patch_header(&mut frame, &header);
        self.state.apply_data(&header).expect("it follows");
        // However many pieces it comes in.
        let (one, other) = frame.split_at(frame.len() * (records as usize % 4) / 3);
        let at = self.log.append(&[one, other], &[Entry { offset: 0, header }]).expect("a write");
        self.batches.push(Written { header, frame, position: at.0 });
    }

    pub(crate) fn sync(&mut self) {
        self.log.sync().expect("a sync");
    }

    /// Begins the next segment.
    pub(crate) fn roll(&mut self) {
        let head = self.head();
        self.log.start_segment(&head).expect("a segment");
    }

    /// Removes all but the newest `keep` of the sealed segments, and forgets what was in the others.
    pub(crate) fn trim_to(&mut self, keep: usize) {
        let segments = self.log.reader().segments(usize::MAX).expect("segments");
        let sealed = segments.len() - 1;
        let Some(last) = sealed.checked_sub(keep + 1).map(|place| &segments[place]) else { return };
        let start = last.end.0;
        self.log.trim(last.end).expect("a trim");
        self.batches.retain(|batch| batch.position >= start);
    }

    /// Where the batch that begins with this record is in the log.
    pub(crate) fn position_of(&self, shard: ShardId, first: u64) -> u64 {
        let found = self.batches.iter().find(|batch| {
            (batch.header.shard, batch.header.first_sequence) == (shard, SequenceNumber(first))
        });
        found.expect("such a batch").position
    }
}

/// First sequence number and count of each batch in a read.
pub(crate) fn frames_of(read: &ReadBatches) -> Vec<(u64, u64)> {
    let (mut rest, mut found) = (read.frames.as_slice(), Vec::new());
    while !rest.is_empty() {
        let (frame, after) = Frame::parse_first(rest).expect("a whole frame");
        found.push((frame.header.first_sequence.0, u64::from(frame.header.record_count)));
        rest = after;
    }
    found
}
