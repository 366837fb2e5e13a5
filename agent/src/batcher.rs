//! The batcher: records in, sealed frames out. Pure: no clock, no files.
//!
//! A group is what is committed together: one configured source with its settings. A commit closes all open
//! batches of its group, so that the group's cursors may go with it: what the cursors have passed is in the
//! frames, and nothing else is.

use std::collections::BTreeMap;

use protocol::batch::{BatchBuilder, BatchError, KeyIndex, check_partition_key};
use protocol::compress::Compressor;
use protocol::frame::{FrameError, HEADER_BYTES, Header};
use protocol::name::StreamKey;
use protocol::time::{Mono, UnixMs};

use crate::aggregate::Aggregates;
use crate::config::{Aggregate, BatchSettings};
use crate::lane::LaneId;

/// A group has at most this many batches open; one more closes the oldest.
const OPEN_BATCHES_MAX: usize = 128;

/// A group's open batches hold at most this many bytes; more, and a commit is due.
const OPEN_BYTES_MAX: usize = 2 << 20;

/// A group's sealed frames come to about this much; more, and a commit is due.
const SEALED_BYTES_MAX: usize = 1 << 20;

/// Builders that wait for work keep their memory; this many.
const SPARE_BUILDERS_MAX: usize = 2;

/// Frames of one commit, and what is in them.
#[derive(Debug, Default)]
pub struct Sealed {
    /// Whole data frames, one after the other; stream and lane are filled in, the producer is not.
    pub frames: Vec<u8>,
    /// How many frames.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Their bytes before compression.
    pub raw_bytes: u64,
}

#[derive(Debug)]
struct Open {
    builder: BatchBuilder,
    /// Where records are aggregated: those that are not in the builder yet.
    aggregates: Option<Aggregates>,
    since: Mono,
}

impl Open {
    fn records(&self) -> usize {
        self.builder.record_count() + self.aggregates.as_ref().map_or(0, Aggregates::keys)
    }

    fn bytes(&self) -> usize {
        self.builder.user_bytes() + self.aggregates.as_ref().map_or(0, Aggregates::bytes)
    }

    fn has_room(&self) -> bool {
        let waiting = self.aggregates.as_ref().map_or(0, Aggregates::bytes);
        self.builder.has_room(waiting) && self.aggregates.as_ref().is_none_or(Aggregates::has_room)
    }
}

struct Group {
    settings: BatchSettings,
    compressor: Compressor,
    open: BTreeMap<LaneId, Open>,
    open_bytes: usize,
    sealed: Sealed,
    /// When the first record of the next commit came.
    since: Option<Mono>,
}

/// See the module.
pub struct Batcher {
    groups: Vec<Group>,
    spare: Vec<BatchBuilder>,
    open_bytes_max: usize,
    sealed_bytes_max: usize,
}

/// A batch that is being filled with records of one key.
pub struct Writer<'a> {
    open: &'a mut Open,
    open_bytes: &'a mut usize,
    key: &'a str,
    /// Once there is a record of this key: the store wants no keys without records.
    index: Option<KeyIndex>,
    records_max: usize,
    bytes_max: usize,
}

impl Writer<'_> {
    /// Adds a record. False, and nothing added, when the batch is full: ask the batcher for a new writer.
    #[inline]
    pub fn push(&mut self, time: UnixMs, data: &[u8]) -> bool {
        if self.open.aggregates.is_some() {
            return self.push_aggregated(time, data);
        }
        let builder = &mut self.open.builder;
        let count = builder.record_count();
        let fits = count < self.records_max && builder.user_bytes() + data.len() <= self.bytes_max;
        if (count > 0 && !fits) || !builder.has_room(data.len()) {
            return false;
        }
        let index = match self.index {
            Some(index) => index,
            // The key was checked when the writer was made, and there is room for it.
            None => match builder.key(self.key, None) {
                Ok(index) => *self.index.insert(index),
                Err(_) => return false,
            },
        };
        builder.push(index, time, data);
        *self.open_bytes += data.len();
        true
    }

    fn push_aggregated(&mut self, time: UnixMs, data: &[u8]) -> bool {
        let (count, bytes) = (self.open.records(), self.open.bytes() + data.len());
        let fits = count < self.records_max && bytes <= self.bytes_max && self.open.has_room();
        let Open { builder, aggregates: Some(aggregates), .. } = &mut *self.open else { return false };
        if count > 0 && !fits {
            return false;
        }
        aggregates.push(builder, self.key, time, data);
        *self.open_bytes += data.len();
        true
    }
}

impl Batcher {
    /// One group for each of these; a commit is due at about `commit_bytes_max`, however large it might be.
    #[must_use]
    pub fn new(settings: &[BatchSettings], commit_bytes_max: usize) -> Batcher {
        let group = |settings: &BatchSettings| Group {
            settings: *settings,
            compressor: Compressor::new(settings.codec),
            open: BTreeMap::new(),
            open_bytes: 0,
            sealed: Sealed::default(),
            since: None,
        };
        Batcher {
            groups: settings.iter().map(group).collect(),
            spare: Vec::new(),
            open_bytes_max: OPEN_BYTES_MAX.min(commit_bytes_max),
            sealed_bytes_max: SEALED_BYTES_MAX.min(commit_bytes_max),
        }
    }

    /// A writer into the open batch of a lane, which is closed first where it is full.
    ///
    /// # Errors
    /// When `key` is no partition key.
    pub fn writer<'a>(
        &'a mut self,
        group: usize,
        lane: LaneId,
        key: &'a str,
        now: Mono,
    ) -> Result<Writer<'a>, BatchError> {
        check_partition_key(key).map_err(|why| BatchError::Key { index: 0, why })?;
        let spare = &mut self.spare;
        let group = &mut self.groups[group];
        group.close_if_full(lane, spare);
        if !group.open.contains_key(&lane) && group.open.len() >= OPEN_BATCHES_MAX {
            group.close_oldest(spare);
        }
        group.since.get_or_insert(now);
        let settings = group.settings;
        let open = group.open.entry(lane).or_insert_with(|| Open {
            builder: spare.pop().unwrap_or_default(),
            aggregates: (settings.aggregate == Aggregate::Kpl).then(Aggregates::default),
            since: now,
        });
        Ok(Writer {
            open,
            open_bytes: &mut group.open_bytes,
            key,
            index: None,
            records_max: settings.records_max,
            bytes_max: settings.bytes_max,
        })
    }

    /// Adds one record.
    ///
    /// # Errors
    /// When `key` is no partition key.
    pub fn push(
        &mut self,
        group: usize,
        lane: LaneId,
        key: &str,
        time: UnixMs,
        data: &[u8],
        now: Mono,
    ) -> Result<(), BatchError> {
        if self.writer(group, lane, key, now)?.push(time, data) {
            return Ok(());
        }
        self.close(group, lane);
        self.writer(group, lane, key, now)?.push(time, data);
        Ok(())
    }

    /// Adds a batch that is sealed already, as the next of its lane.
    ///
    /// # Errors
    /// When `frame` is no frame.
    pub fn push_sealed(
        &mut self,
        group: usize,
        lane: LaneId,
        frame: &[u8],
        now: Mono,
    ) -> Result<Header, FrameError> {
        let header = Header { stream: lane.stream, lane: lane.lane, ..Header::parse(frame)? };
        self.close(group, lane);
        let group = &mut self.groups[group];
        group.since.get_or_insert(now);
        let sealed = &mut group.sealed;
        sealed.frames.extend_from_slice(&header.encode());
        sealed.frames.extend_from_slice(frame.get(HEADER_BYTES..).unwrap_or_default());
        sealed.batches += 1;
        sealed.records += u64::from(header.record_count);
        sealed.raw_bytes += u64::from(header.raw_len);
        Ok(header)
    }

    /// Closes the open batch of a lane.
    pub fn close(&mut self, group: usize, lane: LaneId) {
        self.groups[group].close(lane, &mut self.spare);
    }

    /// Closes all open batches of a stream: its lanes are about to be others.
    pub fn close_stream(&mut self, stream: StreamKey) {
        let all = LaneId { stream, lane: 0 }..=LaneId { stream, lane: u32::MAX };
        for group in &mut self.groups {
            let lanes: Vec<LaneId> = group.open.range(all.clone()).map(|(lane, _)| *lane).collect();
            lanes.into_iter().for_each(|lane| group.close(lane, &mut self.spare));
        }
    }

    /// When a group's next commit is due, if it has anything.
    #[must_use]
    pub fn due(&self, group: usize) -> Option<Mono> {
        let group = &self.groups[group];
        group.since.map(|since| since.plus_millis(group.settings.linger_ms))
    }

    /// Whether a group holds as much as a commit should.
    #[must_use]
    pub fn is_full(&self, group: usize) -> bool {
        let group = &self.groups[group];
        group.sealed.frames.len() >= self.sealed_bytes_max || group.open_bytes >= self.open_bytes_max
    }

    /// Whether a group has nothing to commit.
    #[must_use]
    pub fn is_empty(&self, group: usize) -> bool {
        self.groups[group].since.is_none()
    }

    /// Closes everything of a group and hands it out. `spare` is memory for the next commit.
    pub fn take(&mut self, group: usize, mut spare: Vec<u8>) -> Sealed {
        let group = &mut self.groups[group];
        while let Some((lane, _)) = group.open.first_key_value() {
            let lane = *lane;
            group.close(lane, &mut self.spare);
        }
        group.since = None;
        spare.clear();
        std::mem::replace(&mut group.sealed, Sealed { frames: spare, ..Sealed::default() })
    }
}

impl Group {
    fn close_if_full(&mut self, lane: LaneId, spare: &mut Vec<BatchBuilder>) {
        let settings = self.settings;
        let full = self.open.get(&lane).is_some_and(|open| {
            open.records() >= settings.records_max || open.bytes() >= settings.bytes_max || !open.has_room()
        });
        if full {
            self.close(lane, spare);
        }
    }

    fn close_oldest(&mut self, spare: &mut Vec<BatchBuilder>) {
        if let Some(lane) = self.open.iter().min_by_key(|(_, open)| open.since).map(|(lane, _)| *lane) {
            self.close(lane, spare);
        }
    }

    fn close(&mut self, lane: LaneId, spare: &mut Vec<BatchBuilder>) {
        let Some(mut open) = self.open.remove(&lane) else { return };
        if let Some(aggregates) = &mut open.aggregates {
            aggregates.flush(&mut open.builder);
        }
        if !open.builder.is_empty() {
            let header = Header { stream: lane.stream, lane: lane.lane, ..Header::default() };
            let header = open.builder.seal(header, &mut self.compressor, &mut self.sealed.frames);
            self.sealed.batches += 1;
            self.sealed.records += u64::from(header.record_count);
            self.sealed.raw_bytes += u64::from(header.raw_len);
        }
        if spare.len() < SPARE_BUILDERS_MAX {
            spare.push(open.builder);
        }
        self.open_bytes = if self.open.is_empty() { 0 } else { self.open.values().map(Open::bytes).sum() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::batch::Batch;
    use protocol::frame::Frame;
    use protocol::rng::Rng;

    fn lane(n: u32) -> LaneId {
        LaneId { stream: StreamKey(7), lane: n }
    }

    fn settings(records_max: usize, bytes_max: usize) -> BatchSettings {
        BatchSettings { records_max, bytes_max, linger_ms: 5, ..BatchSettings::default() }
    }

    #[test]
    fn records_of_a_key_are_aggregated_in_order_and_one_alone_stays_as_it_is() {
        let mut rng = Rng::new(8);
        for round in 0..50u64 {
            let bytes_max = [900, 60_000, 1 << 20][round as usize % 3];
            let settings = BatchSettings { aggregate: Aggregate::Kpl, ..settings(200, bytes_max) };
            let mut batcher = Batcher::new(&[settings], 64 << 20);
            let mut made = BTreeMap::<String, Vec<Vec<u8>>>::new();
            for n in 0..rng.next_u64() % 3000 {
                // Most are small; some are larger than an aggregated record may be.
                let length = if rng.next_u64().is_multiple_of(200) { 60_000 } else { rng.next_u64() % 60 };
                let (key, data) = (format!("k{}", rng.next_u64() % 9), vec![n as u8; length as usize]);
                batcher.push(0, lane(0), &key, UnixMs(n), &data, Mono::ZERO).unwrap();
                made.entry(key).or_default().push(data);
            }
            batcher.push(0, lane(0), "alone", UnixMs(1), b"alone", Mono::ZERO).unwrap();
            let sealed = batcher.take(0, Vec::new());
            let (mut frames, mut batch, mut records) = (sealed.frames.as_slice(), Batch::new(), 0);
            let mut got = BTreeMap::<String, Vec<Vec<u8>>>::new();
            while !frames.is_empty() {
                let (frame, rest) = Frame::parse_first(frames).unwrap();
                batch.open(&frame.header, frame.payload).unwrap();
                for record in batch.records() {
                    records += 1;
                    let key = got.entry(record.partition_key.to_owned()).or_default();
                    match protocol::kpl::open(record.data) {
                        None => key.push(record.data.to_vec()),
                        Some(subs) => {
                            assert!(subs.len() > 1 && record.data.len() <= 51_200);
                            assert!(subs.iter().all(|sub| sub.partition_key == record.partition_key));
                            key.extend(subs.iter().map(|sub| sub.data.to_vec()));
                        }
                    }
                }
                frames = rest;
            }
            assert_eq!(got.remove("alone"), Some(vec![b"alone".to_vec()]));
            assert!(got == made, "round {round}");
            assert_eq!(sealed.records, records);
        }
    }

    fn unpack(mut frames: &[u8]) -> Vec<(u32, Vec<Vec<u8>>)> {
        let (mut out, mut batch) = (Vec::new(), Batch::new());
        while !frames.is_empty() {
            let (frame, rest) = Frame::parse_first(frames).unwrap();
            batch.open(&frame.header, frame.payload).unwrap();
            out.push((frame.header.lane, batch.records().map(|r| r.data.to_vec()).collect()));
            frames = rest;
        }
        out
    }

    #[test]
    fn a_key_without_a_record_is_in_no_batch() {
        let settings = BatchSettings { bytes_max: 1024, ..BatchSettings::default() };
        let mut batcher = Batcher::new(&[settings], 1 << 20);
        // A file of which only half a line is there, and one that finds no room.
        let _ = batcher.writer(0, lane(0), "half a line", Mono::ZERO).unwrap();
        batcher.push(0, lane(0), "a", UnixMs(1), &[b'x'; 1000], Mono::ZERO).unwrap();
        assert!(!batcher.writer(0, lane(0), "no room", Mono::ZERO).unwrap().push(UnixMs(1), &[b'x'; 100]));
        let sealed = batcher.take(0, Vec::new());
        let (frame, rest) = Frame::parse_first(&sealed.frames).unwrap();
        let mut batch = Batch::new();
        batch.open(&frame.header, frame.payload).unwrap();
        assert_eq!(batch.keys().map(|(key, _)| key).collect::<Vec<_>>(), ["a"]);
        assert!(rest.is_empty() && batcher.writer(0, lane(0), "", Mono::ZERO).is_err());
    }

    #[test]
    fn a_batch_closes_by_count_by_bytes_and_at_a_commit() {
        let mut batcher = Batcher::new(&[settings(3, 1000)], 1 << 20);
        for n in 0..7u8 {
            batcher.push(0, lane(0), "k", UnixMs(1), &[n], Mono::ZERO).unwrap();
        }
        for n in 0..3u8 {
            batcher.push(0, lane(1), "k", UnixMs(1), &[n; 600], Mono::ZERO).unwrap();
        }
        assert_eq!(batcher.due(0), Some(Mono::from_millis(5)));
        let sealed = batcher.take(0, Vec::new());
        let sizes: Vec<(u32, usize)> =
            unpack(&sealed.frames).into_iter().map(|(lane, records)| (lane, records.len())).collect();
        assert_eq!(sizes.iter().filter(|s| s.0 == 0).map(|s| s.1).collect::<Vec<_>>(), [3, 3, 1]);
        assert_eq!(sizes.iter().filter(|s| s.0 == 1).map(|s| s.1).collect::<Vec<_>>(), [1, 1, 1]);
        assert_eq!((sealed.records, sealed.batches), (10, 6));
        assert!(batcher.is_empty(0) && batcher.due(0).is_none());
    }

    #[test]
    fn every_record_comes_out_once_and_in_its_lanes_order() {
        let mut rng = Rng::new(5);
        for _ in 0..50 {
            let mut batcher = Batcher::new(&[settings(20, 2000)], 1 << 20);
            let mut want: BTreeMap<u32, Vec<Vec<u8>>> = BTreeMap::new();
            let mut got: BTreeMap<u32, Vec<Vec<u8>>> = BTreeMap::new();
            for n in 0..2000u32 {
                let to = rng.below(200) as u32;
                let mut data = n.to_le_bytes().to_vec();
                data.resize(4 + rng.below(300) as usize, b'x');
                batcher.push(0, lane(to), "k", UnixMs(1), &data, Mono(u64::from(n))).unwrap();
                want.entry(to).or_default().push(data);
                if rng.chance(10) || n == 1999 {
                    for (lane, records) in unpack(&batcher.take(0, Vec::new()).frames) {
                        got.entry(lane).or_default().extend(records);
                    }
                }
                assert!(batcher.groups[0].open.len() <= OPEN_BATCHES_MAX);
            }
            assert_eq!(got, want);
        }
    }

    #[test]
    fn a_record_larger_than_a_batch_gets_one_of_its_own() {
        let mut batcher = Batcher::new(&[settings(100, 1024)], 1 << 20);
        batcher.push(0, lane(0), "k", UnixMs(1), b"a", Mono::ZERO).unwrap();
        batcher.push(0, lane(0), "k", UnixMs(1), &[b'x'; 1 << 20], Mono::ZERO).unwrap();
        batcher.push(0, lane(0), "k", UnixMs(1), b"b", Mono::ZERO).unwrap();
        let sizes: Vec<usize> =
            unpack(&batcher.take(0, Vec::new()).frames).iter().map(|(_, r)| r.len()).collect();
        assert_eq!(sizes, [1, 1, 1]);
    }

    /// Reaches `OPEN_BATCHES_MAX`.
    #[test]
    fn one_batch_more_than_may_be_open_closes_the_oldest() {
        let mut batcher = Batcher::new(&[settings(10, 1000)], 1 << 20);
        let mut push = |n: usize| {
            batcher.push(0, lane(n as u32), "k", UnixMs(1), b"x", Mono(n as u64)).unwrap();
            (batcher.groups[0].open.len(), batcher.groups[0].sealed.batches)
        };
        for n in 0..OPEN_BATCHES_MAX - 1 {
            assert_eq!(push(n), (n + 1, 0));
        }
        assert_eq!(push(OPEN_BATCHES_MAX - 1), (OPEN_BATCHES_MAX, 0));
        assert_eq!(push(OPEN_BATCHES_MAX), (OPEN_BATCHES_MAX, 1));
        assert_eq!(unpack(&batcher.take(0, Vec::new()).frames)[0].0, 0);
    }

    /// Reaches `OPEN_BYTES_MAX`, `SEALED_BYTES_MAX`.
    #[test]
    fn a_commit_is_due_when_open_or_sealed_batches_have_as_many_bytes_as_they_may() {
        let mut batcher = Batcher::new(&[settings(10, 1 << 20)], 64 << 20);
        let data = vec![0; OPEN_BYTES_MAX - 1];
        batcher.push(0, lane(0), "k", UnixMs(1), &data, Mono::ZERO).unwrap();
        assert!(!batcher.is_full(0));
        batcher.push(0, lane(1), "k", UnixMs(1), b"x", Mono::ZERO).unwrap();
        assert!(batcher.is_full(0));
        batcher.take(0, Vec::new());
        batcher.groups[0].sealed.frames = vec![0; SEALED_BYTES_MAX - 1];
        assert!(!batcher.is_full(0));
        batcher.groups[0].sealed.frames.push(0);
        assert!(batcher.is_full(0));
        // A commit that may be smaller is due sooner.
        let mut small = Batcher::new(&[settings(10, 1 << 20)], 10);
        small.push(0, lane(0), "k", UnixMs(1), &[0; 10], Mono::ZERO).unwrap();
        assert!(small.is_full(0));
    }

    /// Reaches `SPARE_BUILDERS_MAX`.
    #[test]
    fn only_a_few_builders_keep_their_memory() {
        let mut batcher = Batcher::new(&[settings(10, 1000)], 1 << 20);
        for count in [SPARE_BUILDERS_MAX, SPARE_BUILDERS_MAX + 1] {
            for n in 0..count {
                batcher.push(0, lane(n as u32), "k", UnixMs(1), b"x", Mono::ZERO).unwrap();
            }
            batcher.take(0, Vec::new());
            assert_eq!(batcher.spare.len(), SPARE_BUILDERS_MAX);
        }
    }
}
