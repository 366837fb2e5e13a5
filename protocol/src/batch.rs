//! A batch: the records in the payload of a data frame. Pure. The envelope around it is [`crate::frame`].
//!
//! The payload before compression, all integers LEB128, repeated values as runs so that the thousand lines
//! of one file cost one key and one time:
//!
//! ```text
//! key_count                                 distinct (partition key, explicit hash key) pairs
//!   key_count x  length*2 + explicit?  key bytes  [16 bytes explicit hash key, little-endian]
//! run_count                                 which key: runs over the records
//!   run_count x  key index  run length
//! run_count                                 producer time: runs of steps from the time before
//!   run_count x  zigzag step in ms  run length      the first step counts from the header's producer_time
//! record_count x  data length
//! data                                      one after the other
//! ```

use std::collections::HashMap;
use std::ops::Range;

use crate::bytes::{BytesError, Cursor, put_varint, put_zigzag};
use crate::compress::{Codec, CompressError, Compressor, decompress};
use crate::frame::{HEADER_BYTES, Header, Kind};
use crate::hash::HashKey;
use crate::limit::{
    BATCH_KEYS_MAX, BATCH_RAW_BYTES_MAX, BATCH_RECORDS_MAX, PARTITION_KEY_BYTES_MAX, PARTITION_KEY_CHARS_MAX,
};
use crate::time::UnixMs;

/// Why a payload holds no records, or records no batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The frame holds something else.
    #[error("frame of kind {0:?} holds no records")]
    NotData(Kind),
    /// Compression.
    #[error(transparent)]
    Compress(#[from] CompressError),
    /// The tables end too early or have a bad number.
    #[error("batch table {0}")]
    Table(#[from] BytesError),
    /// A partition key is empty, too long, or no UTF-8.
    #[error("partition key {index}: {why}")]
    Key {
        /// Its place in the table of keys.
        index: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// Numbers in the tables and in the header do not agree.
    #[error("batch {what}: {got}, should be {want}")]
    Disagrees {
        /// Which numbers.
        what: &'static str,
        /// In the table.
        got: u64,
        /// In the header, or the bound.
        want: u64,
    },
}

/// Checks a partition key (Kinesis API, `PartitionKey`: 1 to 256 characters).
///
/// # Errors
/// A short text that says what is wrong.
pub fn check_partition_key(key: &str) -> Result<(), &'static str> {
    if key.is_empty() {
        Err("it is empty")
    } else if key.len() > PARTITION_KEY_CHARS_MAX && key.chars().count() > PARTITION_KEY_CHARS_MAX {
        Err("it has more than 256 characters")
    } else {
        Ok(())
    }
}

/// Place of a key in a batch's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyIndex(u32);

/// Runs of equal values, as they are written.
#[derive(Debug, Default)]
struct Runs {
    closed: Vec<u8>,
    count: u64,
    open: Option<(i64, u64)>,
}

impl Runs {
    #[inline]
    fn push(&mut self, value: i64, put: fn(&mut Vec<u8>, i64)) {
        match &mut self.open {
            Some((v, len)) if *v == value => *len += 1,
            _ => {
                self.close(put);
                self.open = Some((value, 1));
            }
        }
    }

    fn close(&mut self, put: fn(&mut Vec<u8>, i64)) {
        if let Some((value, len)) = self.open.take() {
            put(&mut self.closed, value);
            put_varint(&mut self.closed, len);
            self.count += 1;
        }
    }

    fn write(&mut self, put: fn(&mut Vec<u8>, i64), out: &mut Vec<u8>) {
        self.close(put);
        put_varint(out, self.count);
        out.extend_from_slice(&self.closed);
        self.closed.clear();
        self.count = 0;
    }
}

fn put_index(out: &mut Vec<u8>, value: i64) {
    put_varint(out, value as u64);
}

/// Collects records and makes a frame of them; its memory is used again for the next batch.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    keys: Vec<u8>,
    key_lens: Vec<u32>,
    /// Keys up to the last that has a record, and their bytes in `keys`.
    keys_used: usize,
    keys_used_bytes: usize,
    /// From a key as it is written to its place.
    lookup: HashMap<Box<[u8]>, u32>,
    key_scratch: Vec<u8>,
    /// Where each key ends in `keys`.
    key_ends: Vec<u32>,
    key_runs: Runs,
    time_runs: Runs,
    lengths: Vec<u8>,
    data: Vec<u8>,
    user_bytes: usize,
    record_count: usize,
    first_time: UnixMs,
    last_time: UnixMs,
    raw: Vec<u8>,
}

impl BatchBuilder {
    /// An empty one.
    #[must_use]
    pub fn new() -> BatchBuilder {
        BatchBuilder::default()
    }

    /// Records so far.
    #[must_use]
    pub fn record_count(&self) -> usize {
        self.record_count
    }

    /// Bytes of partition keys and data so far.
    #[must_use]
    pub fn user_bytes(&self) -> usize {
        self.user_bytes
    }

    /// Whether nothing was pushed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.record_count == 0
    }

    /// Whether one more record with this much data and a new key keeps the batch inside the format's bounds.
    #[must_use]
    pub fn has_room(&self, data_len: usize) -> bool {
        let raw = self.keys.len() + self.key_runs.closed.len() + self.time_runs.closed.len();
        let raw = raw + self.lengths.len() + self.data.len() + data_len + PARTITION_KEY_BYTES_MAX + 128;
        self.record_count < BATCH_RECORDS_MAX
            && self.key_lens.len() < BATCH_KEYS_MAX
            && raw <= BATCH_RAW_BYTES_MAX
    }

    /// The place of a key, for [`push`](Self::push); it counts for this batch only.
    ///
    /// # Errors
    /// When it is no partition key.
    pub fn key(&mut self, key: &str, explicit: Option<HashKey>) -> Result<KeyIndex, BatchError> {
        self.key_scratch.clear();
        put_varint(&mut self.key_scratch, (key.len() as u64) << 1 | u64::from(explicit.is_some()));
        self.key_scratch.extend_from_slice(key.as_bytes());
        if let Some(explicit) = explicit {
            self.key_scratch.extend_from_slice(&explicit.0.to_le_bytes());
        }
        if let Some(index) = self.lookup.get(self.key_scratch.as_slice()) {
            return Ok(KeyIndex(*index));
        }
        let index = self.key_lens.len();
        check_partition_key(key).map_err(|why| BatchError::Key { index, why })?;
        self.keys.extend_from_slice(&self.key_scratch);
        self.key_lens.push(key.len() as u32);
        self.key_ends.push(self.keys.len() as u32);
        self.lookup.insert(self.key_scratch.as_slice().into(), index as u32);
        Ok(KeyIndex(index as u32))
    }

    /// Adds a record. The caller has asked [`has_room`](Self::has_room).
    #[inline]
    pub fn push(&mut self, key: KeyIndex, time: UnixMs, data: &[u8]) {
        if self.record_count == 0 {
            self.first_time = time;
            self.last_time = time;
        }
        if key.0 as usize >= self.keys_used {
            self.keys_used = key.0 as usize + 1;
            self.keys_used_bytes = self.key_ends[key.0 as usize] as usize;
        }
        self.key_runs.push(i64::from(key.0), put_index);
        self.time_runs.push(time.0.wrapping_sub(self.last_time.0) as i64, put_zigzag);
        self.last_time = time;
        put_varint(&mut self.lengths, data.len() as u64);
        self.data.extend_from_slice(data);
        self.user_bytes += data.len() + self.key_lens[key.0 as usize] as usize;
        self.record_count += 1;
    }

    /// Appends the finished frame to `out` and empties the builder. Of `header` the stream, lane, producer
    /// and (in the store) shard, sequence and arrival fields are taken as they are; the rest is filled in.
    pub fn seal(&mut self, header: Header, compressor: &mut Compressor, out: &mut Vec<u8>) -> Header {
        self.raw.clear();
        // A key whose record then found no room is left out: a batch has no more keys than records.
        put_varint(&mut self.raw, self.keys_used as u64);
        self.raw.extend_from_slice(&self.keys[..self.keys_used_bytes]);
        self.key_runs.write(put_index, &mut self.raw);
        self.time_runs.write(put_zigzag, &mut self.raw);
        self.raw.extend_from_slice(&self.lengths);
        self.raw.extend_from_slice(&self.data);
        let start = out.len();
        out.resize(start + HEADER_BYTES, 0);
        let header = Header {
            codec: compressor.compress(&self.raw, out),
            raw_len: self.raw.len() as u32,
            record_count: self.record_count as u32,
            user_bytes: self.user_bytes as u32,
            producer_time: self.first_time,
            ..header
        };
        let header = finish(header, start, out);
        self.clear();
        header
    }

    /// Forgets everything but the memory.
    pub fn clear(&mut self) {
        self.keys.clear();
        self.key_lens.clear();
        self.key_ends.clear();
        self.keys_used = 0;
        self.keys_used_bytes = 0;
        self.lookup.clear();
        self.key_runs = Runs { closed: std::mem::take(&mut self.key_runs.closed), ..Runs::default() };
        self.time_runs = Runs { closed: std::mem::take(&mut self.time_runs.closed), ..Runs::default() };
        self.key_runs.closed.clear();
        self.time_runs.closed.clear();
        self.lengths.clear();
        self.data.clear();
        self.user_bytes = 0;
        self.record_count = 0;
    }
}

/// Writes the header before a payload that ends with `out`.
fn finish(header: Header, start: usize, out: &mut [u8]) -> Header {
    let header = Header {
        kind: Kind::Data,
        total_len: (out.len() - start) as u32,
        payload_crc: crc32c::crc32c(&out[start + HEADER_BYTES..]),
        ..header
    };
    out[start..start + HEADER_BYTES].copy_from_slice(&header.encode());
    header
}

/// The header of a frame that is not compressed, of records that have one key and one time, and its tables: the same bytes
/// as a [`BatchBuilder`] makes, which copies the data twice more. The records lie one after the other in `pieces`, each as
/// long as `lengths` says; the caller keeps to the format's bounds, and puts the pieces behind the tables.
///
/// # Errors
/// When it is no partition key.
pub fn plain(
    header: Header,
    key: &str,
    time: UnixMs,
    lengths: impl IntoIterator<Item = usize>,
    pieces: &[&[u8]],
) -> Result<(Header, Vec<u8>), BatchError> {
    let mut builder = BatchBuilder::new();
    let index = builder.key(key, None)?;
    let (mut table, mut count) = (Vec::new(), 0);
    for length in lengths {
        builder.key_runs.push(i64::from(index.0), put_index);
        builder.time_runs.push(0, put_zigzag);
        put_varint(&mut table, length as u64);
        count += 1;
    }
    let mut tables = Vec::with_capacity(builder.keys.len() + 64 + table.len());
    put_varint(&mut tables, 1);
    tables.extend_from_slice(&builder.keys);
    builder.key_runs.write(put_index, &mut tables);
    builder.time_runs.write(put_zigzag, &mut tables);
    tables.extend_from_slice(&table);
    let data_bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
    let crc = crc32c::crc32c(&tables);
    let header = Header {
        kind: Kind::Data,
        codec: Codec::None,
        total_len: (HEADER_BYTES + tables.len() + data_bytes) as u32,
        payload_crc: pieces.iter().fold(crc, |crc, piece| crc32c::crc32c_append(crc, piece)),
        raw_len: (tables.len() + data_bytes) as u32,
        record_count: count,
        user_bytes: (data_bytes + key.len() * count as usize) as u32,
        producer_time: time,
        ..header
    };
    Ok((header, tables))
}

/// One record, borrowed from its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Place in the batch, from 0: its sequence number is the batch's first plus this.
    pub index: u32,
    /// Place of its key in the batch's keys.
    pub key_index: u32,
    /// Partition key.
    pub partition_key: &'a str,
    /// Where it wants to land, if not where its partition key says.
    pub explicit_hash_key: Option<HashKey>,
    /// When it was made, by the producer's clock.
    pub time: UnixMs,
    /// What it holds.
    pub data: &'a [u8],
}

#[derive(Debug, Clone)]
struct Key {
    bytes: Range<u32>,
    explicit: Option<HashKey>,
}

/// A batch, unpacked and checked from end to end: whatever passes [`Batch::open`] can be read to the last
/// record without another error. Its memory is used again by the next `open`.
#[derive(Debug, Default)]
pub struct Batch<'p> {
    /// What was unpacked, or copied.
    unpacked: Vec<u8>,
    /// What is read where it is instead.
    in_place: Option<&'p [u8]>,
    keys: Vec<Key>,
    key_runs: Range<usize>,
    time_runs: Range<usize>,
    lengths: Range<usize>,
    data_at: usize,
    record_count: u32,
    first_time: UnixMs,
}

impl<'p> Batch<'p> {
    /// An empty one.
    #[must_use]
    pub fn new() -> Batch<'p> {
        Batch::default()
    }

    /// An empty one with the memory of this, if that is not more than `bytes_max`.
    #[must_use]
    pub fn emptied(self, bytes_max: usize) -> Batch<'static> {
        let Batch { unpacked, mut keys, .. } = self;
        keys.clear();
        let unpacked = if unpacked.capacity() > bytes_max { Vec::new() } else { unpacked };
        Batch { unpacked, keys, ..Batch::default() }
    }

    /// Unpacks and checks the payload of a data frame.
    ///
    /// # Errors
    /// When anything about it is wrong: see [`BatchError`]. Allocates at most the header's (bounded) raw
    /// length and a table of the (bounded) keys.
    pub fn open(&mut self, header: &Header, payload: &[u8]) -> Result<(), BatchError> {
        self.forget();
        if header.kind != Kind::Data {
            return Err(BatchError::NotData(header.kind));
        }
        decompress(header.codec, payload, header.raw_len as usize, &mut self.unpacked)?;
        self.opened(header)
    }

    /// As [`open`](Self::open), but a payload that is not compressed is read where it is.
    ///
    /// # Errors
    /// As there.
    pub fn open_in_place(&mut self, header: &Header, payload: &'p [u8]) -> Result<(), BatchError> {
        let is_plain = header.kind == Kind::Data && header.codec == Codec::None;
        if !is_plain || payload.len() != header.raw_len as usize {
            return self.open(header, payload);
        }
        self.forget();
        self.in_place = Some(payload);
        self.opened(header)
    }

    /// What can't be opened has no records, and none of what was opened before.
    fn forget(&mut self) {
        let Batch { unpacked, keys, .. } = std::mem::take(self);
        *self = Batch { unpacked, keys, ..Batch::default() };
        self.unpacked.clear();
        self.keys.clear();
    }

    fn raw(&self) -> &[u8] {
        self.in_place.unwrap_or(&self.unpacked)
    }

    fn opened(&mut self, header: &Header) -> Result<(), BatchError> {
        self.check(header)?;
        self.first_time = header.producer_time;
        self.record_count = header.record_count;
        Ok(())
    }

    fn check(&mut self, header: &Header) -> Result<(), BatchError> {
        let count = u64::from(header.record_count);
        let mut cursor = Cursor::new(self.in_place.unwrap_or(&self.unpacked));
        self.keys.clear();
        let key_count = bounded("keys", cursor.varint()?, count.min(BATCH_KEYS_MAX as u64))?;
        for index in 0..key_count as usize {
            self.keys.push(read_key(&mut cursor, index)?);
        }
        let keys = &self.keys;
        let mut user_bytes = 0u64;
        self.key_runs = read_runs(&mut cursor, count, |cursor| {
            let (index, run) = (cursor.varint()?, cursor.varint()?);
            let key = keys.get(index as usize).ok_or(disagrees("key index", index, key_count))?;
            user_bytes =
                user_bytes.saturating_add(u64::from(key.bytes.end - key.bytes.start).saturating_mul(run));
            Ok(run)
        })?;
        self.time_runs = read_runs(&mut cursor, count, |cursor| {
            cursor.zigzag()?;
            Ok(cursor.varint()?)
        })?;
        let start = cursor.at();
        let mut data_bytes = 0u64;
        for _ in 0..count {
            data_bytes = data_bytes.saturating_add(cursor.varint()?);
        }
        self.lengths = start..cursor.at();
        self.data_at = cursor.at();
        agree("data bytes", cursor.rest().len() as u64, data_bytes)?;
        agree("user bytes", user_bytes.saturating_add(data_bytes), u64::from(header.user_bytes))
    }

    /// Records in it.
    #[must_use]
    pub fn record_count(&self) -> u32 {
        self.record_count
    }

    /// The distinct partition keys, with their explicit hash keys.
    pub fn keys(&self) -> impl Iterator<Item = (&str, Option<HashKey>)> {
        self.keys.iter().map(|key| (key_text(self.raw(), key), key.explicit))
    }

    /// The records, first to last.
    #[must_use]
    pub fn records(&self) -> Records<'_> {
        let raw = self.raw();
        Records {
            batch: self,
            left: self.record_count,
            keys: RunCursor::new(&raw[self.key_runs.clone()]),
            times: RunCursor::new(&raw[self.time_runs.clone()]),
            lengths: Cursor::new(&raw[self.lengths.clone()]),
            data: &raw[self.data_at..],
            time: self.first_time.0,
        }
    }
}

/// The lengths of the records, and where the first one begins, from the beginning of a payload that is not compressed;
/// `None` where it is compressed, or the beginning is too short.
#[must_use]
pub fn lengths(header: &Header, payload: &[u8]) -> Option<(Vec<u32>, usize)> {
    if header.kind != Kind::Data || header.codec != Codec::None {
        return None;
    }
    let count = u64::from(header.record_count);
    let mut cursor = Cursor::new(payload);
    let key_count = bounded("keys", cursor.varint().ok()?, count.min(BATCH_KEYS_MAX as u64)).ok()?;
    for index in 0..key_count as usize {
        read_key(&mut cursor, index).ok()?;
    }
    let run = |cursor: &mut Cursor<'_>| {
        cursor.varint()?;
        Ok(cursor.varint()?)
    };
    read_runs(&mut cursor, count, run).ok()?;
    read_runs(&mut cursor, count, run).ok()?;
    let mut lengths = Vec::new();
    for _ in 0..count {
        lengths.push(u32::try_from(cursor.varint().ok()?).ok()?);
    }
    Some((lengths, cursor.at()))
}

fn key_text<'a>(raw: &'a [u8], key: &Key) -> &'a str {
    // Checked when the batch was opened; an empty text can only mean that it never was.
    std::str::from_utf8(&raw[key.bytes.start as usize..key.bytes.end as usize]).unwrap_or_default()
}

fn read_key(cursor: &mut Cursor<'_>, index: usize) -> Result<Key, BatchError> {
    let bad = |why| BatchError::Key { index, why };
    let head = cursor.varint()?;
    if head >> 1 > PARTITION_KEY_BYTES_MAX as u64 {
        return Err(bad("it is too long"));
    }
    let start = cursor.at() as u32;
    let text = std::str::from_utf8(cursor.take((head >> 1) as usize)?).map_err(|_| bad("it is not UTF-8"))?;
    check_partition_key(text).map_err(bad)?;
    let bytes = start..cursor.at() as u32;
    let explicit = if head & 1 == 1 { Some(HashKey(cursor.u128()?)) } else { None };
    Ok(Key { bytes, explicit })
}

/// Reads a run count and that many runs, whose lengths must be positive and come to `want` records.
fn read_runs(
    cursor: &mut Cursor<'_>,
    want: u64,
    mut read_run: impl FnMut(&mut Cursor<'_>) -> Result<u64, BatchError>,
) -> Result<Range<usize>, BatchError> {
    let run_count = bounded("runs", cursor.varint()?, want)?;
    let start = cursor.at();
    let mut got = 0u64;
    for _ in 0..run_count {
        let run = read_run(cursor)?;
        if run == 0 {
            return Err(disagrees("run length", 0, 1));
        }
        got = got.saturating_add(run);
    }
    agree("records in runs", got, want)?;
    Ok(start..cursor.at())
}

fn disagrees(what: &'static str, got: u64, want: u64) -> BatchError {
    BatchError::Disagrees { what, got, want }
}

fn agree(what: &'static str, got: u64, want: u64) -> Result<(), BatchError> {
    if got == want { Ok(()) } else { Err(disagrees(what, got, want)) }
}

fn bounded(what: &'static str, got: u64, most: u64) -> Result<u64, BatchError> {
    if got <= most { Ok(got) } else { Err(disagrees(what, got, most)) }
}

#[derive(Debug, Clone)]
struct RunCursor<'a> {
    cursor: Cursor<'a>,
    value: u64,
    left: u64,
}

impl<'a> RunCursor<'a> {
    fn new(bytes: &'a [u8]) -> RunCursor<'a> {
        RunCursor { cursor: Cursor::new(bytes), value: 0, left: 0 }
    }

    #[inline]
    fn next(&mut self) -> Option<u64> {
        if self.left == 0 {
            self.value = self.cursor.varint().ok()?;
            self.left = self.cursor.varint().ok()?;
        }
        self.left -= 1;
        Some(self.value)
    }
}

/// Iterates over the records of a [`Batch`].
#[derive(Debug, Clone)]
pub struct Records<'a> {
    batch: &'a Batch<'a>,
    left: u32,
    keys: RunCursor<'a>,
    times: RunCursor<'a>,
    lengths: Cursor<'a>,
    data: &'a [u8],
    time: u64,
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    #[inline]
    fn next(&mut self) -> Option<Record<'a>> {
        if self.left == 0 {
            return None;
        }
        let key_index = self.keys.next()? as u32;
        let step = self.times.next()?;
        self.time = self.time.wrapping_add(((step >> 1) as i64 ^ -((step & 1) as i64)) as u64);
        let (data, rest) = self.data.split_at_checked(self.lengths.varint().ok()? as usize)?;
        self.data = rest;
        let index = self.batch.record_count - self.left;
        self.left -= 1;
        let key = &self.batch.keys[key_index as usize];
        Some(Record {
            index,
            key_index,
            partition_key: key_text(self.batch.raw(), key),
            explicit_hash_key: key.explicit,
            time: UnixMs(self.time),
            data,
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

impl Record<'_> {
    /// Where the record lands in the key space.
    #[must_use]
    pub fn hash_key(&self) -> HashKey {
        self.explicit_hash_key.unwrap_or_else(|| HashKey::of_partition_key(self.partition_key))
    }

    /// What a throttle counts.
    #[must_use]
    pub fn user_bytes(&self) -> usize {
        self.partition_key.len() + self.data.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::frame::Frame;
    use crate::rng::Rng;

    type Plain = (String, Option<HashKey>, UnixMs, Vec<u8>);

    fn random_records(rng: &mut Rng) -> Vec<Plain> {
        let mut time = 1_700_000_000_000u64;
        (0..rng.between(1, 300))
            .map(|_| {
                time = time.wrapping_add(rng.below(3)).wrapping_sub(rng.below(2));
                let key = format!("truck-{}", rng.below(5));
                let explicit = rng.chance(100).then(|| HashKey(u128::from(rng.next_u64())));
                let data = (0..rng.below(200)).map(|_| b'a' + rng.below(4) as u8).collect();
                (key, explicit, UnixMs(time), data)
            })
            .collect()
    }

    fn seal(records: &[Plain], codec: Codec, builder: &mut BatchBuilder) -> Vec<u8> {
        for (key, explicit, time, data) in records {
            let key = builder.key(key, *explicit).unwrap();
            builder.push(key, *time, data);
        }
        let mut out = Vec::new();
        builder.seal(Header::default(), &mut Compressor::new(codec), &mut out);
        out
    }

    #[test]
    fn what_is_sealed_without_a_builder_is_the_same_to_the_byte() {
        let mut rng = Rng::new(5);
        for _ in 0..50 {
            let records = random_records(&mut rng);
            let all: Vec<u8> = records.iter().flat_map(|(.., data)| data.clone()).collect();
            let alike: Vec<Plain> =
                records.into_iter().map(|(.., data)| ("video".to_owned(), None, UnixMs(77), data)).collect();
            let lengths = alike.iter().map(|(.., data)| data.len());
            let (one, two) = all.split_at(all.len() / 3);
            let (header, tables) =
                plain(Header::default(), "video", UnixMs(77), lengths, &[one, two]).unwrap();
            let whole = [&header.encode()[..], &tables, one, two].concat();
            assert_eq!(whole, seal(&alike, Codec::None, &mut BatchBuilder::new()));
        }
        let none = plain(Header::default(), "", UnixMs(1), [], &[]);
        assert!(none.is_err(), "an empty text is no key");
    }

    #[test]
    fn what_is_read_where_it_is_is_the_same_as_a_copy_of_it() {
        let (mut rng, mut builder) = (Rng::new(6), BatchBuilder::new());
        for codec in [Codec::None, Codec::Lz4, Codec::None] {
            let bytes = seal(&random_records(&mut rng), codec, &mut builder);
            let frame = Frame::parse(&bytes).unwrap();
            let (mut copied, mut there) = (Batch::new(), Batch::new());
            copied.open(&frame.header, frame.payload).unwrap();
            there.open_in_place(&frame.header, frame.payload).unwrap();
            assert!(copied.records().eq(there.records()) && copied.keys().eq(there.keys()));
            let short = there.open_in_place(&frame.header, &frame.payload[1..]);
            assert!(short.is_err() && there.records().count() == 0, "{codec:?}");
            assert_eq!(there.emptied(10).unpacked.capacity(), 0);
        }
    }

    #[test]
    fn a_key_whose_record_found_no_room_is_not_in_the_batch() {
        let mut builder = BatchBuilder::new();
        let key = builder.key("a", None).unwrap();
        builder.push(key, UnixMs(1), b"x");
        builder.key("b", None).unwrap();
        builder.key("c", None).unwrap();
        let mut out = Vec::new();
        builder.seal(Header::default(), &mut Compressor::new(Codec::None), &mut out);
        let frame = crate::frame::Frame::parse(&out).unwrap();
        let mut batch = Batch::new();
        batch.open(&frame.header, frame.payload).unwrap();
        assert_eq!(batch.keys().map(|(key, _)| key).collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn records_come_out_as_they_went_in() {
        let (mut rng, mut builder, mut batch) = (Rng::new(3), BatchBuilder::new(), Batch::new());
        for round in 0..300 {
            let records = random_records(&mut rng);
            let codec = [Codec::None, Codec::Lz4, Codec::Zstd][round % 3];
            let bytes = seal(&records, codec, &mut builder);
            let frame = Frame::parse(&bytes).unwrap();
            batch.open(&frame.header, frame.payload).unwrap();
            let back: Vec<Plain> = batch
                .records()
                .map(|r| (r.partition_key.to_owned(), r.explicit_hash_key, r.time, r.data.to_vec()))
                .collect();
            assert_eq!(back, records);
        }
    }

    /// Damage behind a valid checksum: made on purpose, or by a broken producer.
    #[test]
    fn no_payload_makes_it_panic_or_disagree_with_its_header() {
        let (mut rng, mut builder, mut batch) = (Rng::new(4), BatchBuilder::new(), Batch::new());
        for _ in 0..3000 {
            let bytes = seal(&random_records(&mut rng), Codec::None, &mut builder);
            let header = Header::parse(&bytes).unwrap();
            let mut payload = bytes[HEADER_BYTES..].to_vec();
            for _ in 0..rng.between(1, 4) {
                let at = rng.below(payload.len().min(64) as u64) as usize;
                payload[at] = rng.next_u64() as u8;
            }
            if batch.open(&header, &payload).is_ok() {
                assert_eq!(batch.records().count(), header.record_count as usize);
            }
        }
    }

    #[test]
    fn a_key_of_256_wide_characters_is_taken_and_one_more_is_not() {
        let mut builder = BatchBuilder::new();
        assert!(builder.key(&"\u{10348}".repeat(256), None).is_ok());
        assert!(builder.key(&"\u{10348}".repeat(257), None).is_err());
        assert!(builder.key("", None).is_err());
    }

    #[test]
    fn a_thousand_lines_of_one_file_cost_two_bytes_of_table_each() {
        let mut builder = BatchBuilder::new();
        let key = builder.key("host:app.log", None).unwrap();
        let line = [b'x'; 200];
        for _ in 0..1000 {
            builder.push(key, UnixMs(1), &line);
        }
        let mut out = Vec::new();
        let header = builder.seal(Header::default(), &mut Compressor::new(Codec::None), &mut out);
        assert!(header.raw_len < 200 * 1000 + 2 * 1000 + 40);
    }

    /// Reaches `PARTITION_KEY_CHARS_MAX`, `PARTITION_KEY_BYTES_MAX` of protocol/src/limit.rs.
    #[test]
    fn a_key_of_a_table_is_as_long_as_it_may_be_and_no_longer() {
        let read = |bytes: usize, text: &str| {
            let mut table = Vec::new();
            put_varint(&mut table, (bytes as u64) << 1);
            table.extend_from_slice(text.as_bytes());
            read_key(&mut Cursor::new(&table), 0).map(|key| key.bytes.len())
        };
        let widest = "\u{10348}".repeat(PARTITION_KEY_CHARS_MAX);
        assert_eq!(widest.len(), PARTITION_KEY_BYTES_MAX);
        assert_eq!(read(PARTITION_KEY_BYTES_MAX, &widest), Ok(PARTITION_KEY_BYTES_MAX));
        let refused = read(PARTITION_KEY_BYTES_MAX + 1, &(widest + "a"));
        assert_eq!(refused, Err(BatchError::Key { index: 0, why: "it is too long" }));
    }
}
