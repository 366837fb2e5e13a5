//! The frame: the one envelope of the wire, of the agent's spool, of the store's log and of its catalog.
//! Pure. What is inside the payload of a data frame is in [`crate::batch`]; other kinds are their owner's.
//!
//! A header of [`HEADER_BYTES`] and a payload. Both have a CRC32C of their own, so that the store can fill in
//! what only it knows (shard, sequence number, arrival) without touching, or even reading, the payload's
//! bytes again. Everything is little-endian. The layout, offset by offset, is the chain of constants in
//! [`at`]; the worked example in this file's test is the same as in `protocol/README.md`.

use crate::compress::Codec;
use crate::limit::{BATCH_RAW_BYTES_MAX, BATCH_RECORDS_MAX, FRAME_BYTES_MAX};
use crate::name::StreamKey;
use crate::sequence::{SequenceNumber, ShardId};
use crate::time::UnixMs;

/// What a frame starts with.
pub const MAGIC: [u8; 4] = *b"KNSN";

/// The only version so far.
pub const VERSION: u8 = 1;

/// Length of every header of version 1.
pub const HEADER_BYTES: usize = at::END;

/// Where each field of the header is. Each offset is the one before plus its width.
pub mod at {
    /// [`super::MAGIC`], 4 bytes.
    pub const MAGIC: usize = 0;
    /// u8.
    pub const VERSION: usize = MAGIC + 4;
    /// u8, [`super::Kind`].
    pub const KIND: usize = VERSION + 1;
    /// u8, [`crate::compress::Codec`].
    pub const CODEC: usize = KIND + 1;
    /// u8, [`super::FLAG_CONTINUES`].
    pub const FLAGS: usize = CODEC + 1;
    /// u32, CRC32C of the header without these four bytes.
    pub const HEADER_CRC: usize = FLAGS + 1;
    /// u16, [`super::HEADER_BYTES`].
    pub const HEADER_LEN: usize = HEADER_CRC + 4;
    /// u16, zero.
    pub const RESERVED: usize = HEADER_LEN + 2;
    /// u32, header and payload.
    pub const TOTAL_LEN: usize = RESERVED + 2;
    /// u32, CRC32C of the payload as stored.
    pub const PAYLOAD_CRC: usize = TOTAL_LEN + 4;
    /// u32, length of the payload before compression.
    pub const RAW_LEN: usize = PAYLOAD_CRC + 4;
    /// u32.
    pub const RECORD_COUNT: usize = RAW_LEN + 4;
    /// u32, bytes of partition keys and data of all records: what a throttle counts.
    pub const USER_BYTES: usize = RECORD_COUNT + 4;
    /// u64, [`crate::name::StreamKey`].
    pub const STREAM: usize = USER_BYTES + 4;
    /// u32.
    pub const SHARD: usize = STREAM + 8;
    /// u32, the producer's lane.
    pub const LANE: usize = SHARD + 4;
    /// u64, contiguous per shard.
    pub const BATCH_NO: usize = LANE + 4;
    /// u64, of the first record; the others follow without gaps.
    pub const FIRST_SEQUENCE: usize = BATCH_NO + 8;
    /// u64 milliseconds, the store's clock.
    pub const ARRIVAL: usize = FIRST_SEQUENCE + 8;
    /// u64 milliseconds, the producer's clock at the first record.
    pub const PRODUCER_TIME: usize = ARRIVAL + 8;
    /// u128.
    pub const PRODUCER_ID: usize = PRODUCER_TIME + 8;
    /// u64, contiguous per producer, stream and lane.
    pub const PRODUCER_SEQUENCE: usize = PRODUCER_ID + 16;
    /// u32.
    pub const PRODUCER_EPOCH: usize = PRODUCER_SEQUENCE + 8;
    /// u64, a place in the log that holds the frame: all below was durable when it was written there.
    pub const DURABLE_BELOW: usize = PRODUCER_EPOCH + 4;
    /// Length of the header.
    pub const END: usize = DURABLE_BELOW + 8;
}

/// More parts of the same producer's batch follow at once: they are kept together or not at all.
pub const FLAG_CONTINUES: u8 = 1;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Records: [`crate::batch`].
    Data,
    /// The state of a stream at the head of a segment of its log (store).
    StreamState,
    /// A split or a merge in a stream's log (store).
    Reshard,
    /// A change of the catalog (store).
    Catalog,
    /// The state of the catalog at the head of a segment (store).
    CatalogState,
    /// How far a source has been taken (agent's spool).
    Cursor,
    /// How far the store has acknowledged (agent's spool).
    Delivered,
    /// The state of a spool at the head of a segment (agent).
    SpoolState,
}

const KINDS: [(Kind, u8); 8] = [
    (Kind::Data, 1),
    (Kind::StreamState, 2),
    (Kind::Reshard, 3),
    (Kind::Catalog, 4),
    (Kind::CatalogState, 5),
    (Kind::Cursor, 6),
    (Kind::Delivered, 7),
    (Kind::SpoolState, 8),
];

impl Kind {
    /// The byte in the header.
    #[must_use]
    pub fn to_byte(self) -> u8 {
        KINDS.iter().find(|(kind, _)| *kind == self).map_or(0, |(_, byte)| *byte)
    }

    /// The kind of a byte, if there is one.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Kind> {
        KINDS.iter().find(|(_, b)| *b == byte).map(|(kind, _)| *kind)
    }
}

/// A header as values. `Default` is an empty data frame of nobody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the payload is.
    pub kind: Kind,
    /// How the payload is stored.
    pub codec: Codec,
    /// More parts of the same batch follow ([`FLAG_CONTINUES`]).
    pub continues: bool,
    /// Header and payload, in bytes.
    pub total_len: u32,
    /// CRC32C of the stored payload.
    pub payload_crc: u32,
    /// Bytes of the payload before compression.
    pub raw_len: u32,
    /// Records in the payload.
    pub record_count: u32,
    /// Bytes of partition keys and data of all records.
    pub user_bytes: u32,
    /// Which stream.
    pub stream: StreamKey,
    /// Which shard; [`ShardId::UNROUTED`] until the store knows.
    pub shard: ShardId,
    /// The producer's lane: batches of a lane are stored in order.
    pub lane: u32,
    /// Number of the batch in its shard, from 0, without gaps.
    pub batch_no: u64,
    /// Sequence number of the first record.
    pub first_sequence: SequenceNumber,
    /// When the store took it, by the store's clock.
    pub arrival: UnixMs,
    /// When its first record was made, by the producer's clock.
    pub producer_time: UnixMs,
    /// Who made it; 0 is nobody who can be recognised again.
    pub producer_id: u128,
    /// Number of the batch in its producer's lane, from 1, without gaps.
    pub producer_sequence: u64,
    /// How often the producer had started.
    pub producer_epoch: u32,
    /// A place in the log (or spool) that holds the frame: all below was durable when the frame was written
    /// there. It tells bytes that never became durable from bytes that were damaged later.
    pub durable_below: u64,
}

impl Default for Header {
    fn default() -> Header {
        Header {
            kind: Kind::Data,
            codec: Codec::None,
            continues: false,
            total_len: HEADER_BYTES as u32,
            payload_crc: 0,
            raw_len: 0,
            record_count: 0,
            user_bytes: 0,
            stream: StreamKey::NONE,
            shard: ShardId::UNROUTED,
            lane: 0,
            batch_no: 0,
            first_sequence: SequenceNumber(0),
            arrival: UnixMs(0),
            producer_time: UnixMs(0),
            producer_id: 0,
            producer_sequence: 0,
            producer_epoch: 0,
            durable_below: 0,
        }
    }
}

/// Why bytes are no frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Fewer bytes than a header.
    #[error("{got} bytes are no frame header, which has {HEADER_BYTES}")]
    Short {
        /// How many there are.
        got: usize,
    },
    /// It does not start with [`MAGIC`].
    #[error("not a frame: it starts with {0:02x?}")]
    Magic([u8; 4]),
    /// Of a version that this program does not know.
    #[error("frame version {0}; this program reads version {VERSION}: it is older than the data")]
    Version(u8),
    /// The header was damaged.
    #[error("frame header checksum is {stored:08x}, its bytes give {computed:08x}")]
    HeaderCrc {
        /// In the header.
        stored: u32,
        /// Of the bytes.
        computed: u32,
    },
    /// The payload was damaged.
    #[error("frame payload checksum is {stored:08x}, its bytes give {computed:08x}")]
    PayloadCrc {
        /// In the header.
        stored: u32,
        /// Of the bytes.
        computed: u32,
    },
    /// A field is out of its range although the checksum is right: made by something else, or on purpose.
    #[error("frame field {field} is {value}, {want}")]
    Field {
        /// Its name.
        field: &'static str,
        /// What it holds.
        value: u64,
        /// What it may hold.
        want: &'static str,
    },
    /// The frame is longer or shorter than its header says.
    #[error("frame is {got} bytes, its header says {want}")]
    Length {
        /// By the header.
        want: usize,
        /// How many there are.
        got: usize,
    },
}

fn put<const N: usize>(out: &mut [u8; HEADER_BYTES], at: usize, bytes: [u8; N]) {
    out[at..at + N].copy_from_slice(&bytes);
}

fn get<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

fn header_crc(bytes: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&bytes[..at::HEADER_CRC]);
    crc32c::crc32c_append(crc, &bytes[at::HEADER_LEN..at::END])
}

impl Header {
    /// The header's bytes, checksum included.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0u8; HEADER_BYTES];
        put(&mut out, at::MAGIC, MAGIC);
        out[at::VERSION] = VERSION;
        out[at::KIND] = self.kind.to_byte();
        out[at::CODEC] = self.codec.to_byte();
        out[at::FLAGS] = if self.continues { FLAG_CONTINUES } else { 0 };
        put(&mut out, at::HEADER_LEN, (HEADER_BYTES as u16).to_le_bytes());
        put(&mut out, at::TOTAL_LEN, self.total_len.to_le_bytes());
        put(&mut out, at::PAYLOAD_CRC, self.payload_crc.to_le_bytes());
        put(&mut out, at::RAW_LEN, self.raw_len.to_le_bytes());
        put(&mut out, at::RECORD_COUNT, self.record_count.to_le_bytes());
        put(&mut out, at::USER_BYTES, self.user_bytes.to_le_bytes());
        put(&mut out, at::STREAM, self.stream.0.to_le_bytes());
        put(&mut out, at::SHARD, self.shard.0.to_le_bytes());
        put(&mut out, at::LANE, self.lane.to_le_bytes());
        put(&mut out, at::BATCH_NO, self.batch_no.to_le_bytes());
        put(&mut out, at::FIRST_SEQUENCE, self.first_sequence.0.to_le_bytes());
        put(&mut out, at::ARRIVAL, self.arrival.0.to_le_bytes());
        put(&mut out, at::PRODUCER_TIME, self.producer_time.0.to_le_bytes());
        put(&mut out, at::PRODUCER_ID, self.producer_id.to_le_bytes());
        put(&mut out, at::PRODUCER_SEQUENCE, self.producer_sequence.to_le_bytes());
        put(&mut out, at::PRODUCER_EPOCH, self.producer_epoch.to_le_bytes());
        put(&mut out, at::DURABLE_BELOW, self.durable_below.to_le_bytes());
        let crc = header_crc(&out);
        put(&mut out, at::HEADER_CRC, crc.to_le_bytes());
        out
    }

    /// Reads and checks a header; `bytes` may go on behind it.
    ///
    /// # Errors
    /// When it is short, no frame, of another version, damaged, or has a field out of range.
    pub fn parse(bytes: &[u8]) -> Result<Header, FrameError> {
        if bytes.len() < HEADER_BYTES {
            return Err(FrameError::Short { got: bytes.len() });
        }
        let magic = get(bytes, at::MAGIC);
        if magic != MAGIC {
            return Err(FrameError::Magic(magic));
        }
        let (stored, computed) = (u32::from_le_bytes(get(bytes, at::HEADER_CRC)), header_crc(bytes));
        if stored != computed {
            return Err(FrameError::HeaderCrc { stored, computed });
        }
        if bytes[at::VERSION] != VERSION {
            return Err(FrameError::Version(bytes[at::VERSION]));
        }
        let u32_at = |at| u32::from_le_bytes(get(bytes, at));
        let u64_at = |at| u64::from_le_bytes(get(bytes, at));
        let header = Header {
            kind: Kind::from_byte(bytes[at::KIND]).ok_or(field("kind", bytes[at::KIND], "1 to 8"))?,
            codec: Codec::from_byte(bytes[at::CODEC]).ok_or(field("codec", bytes[at::CODEC], "0 to 2"))?,
            continues: bytes[at::FLAGS] & FLAG_CONTINUES != 0,
            total_len: u32_at(at::TOTAL_LEN),
            payload_crc: u32_at(at::PAYLOAD_CRC),
            raw_len: u32_at(at::RAW_LEN),
            record_count: u32_at(at::RECORD_COUNT),
            user_bytes: u32_at(at::USER_BYTES),
            stream: StreamKey(u64_at(at::STREAM)),
            shard: ShardId(u32_at(at::SHARD)),
            lane: u32_at(at::LANE),
            batch_no: u64_at(at::BATCH_NO),
            first_sequence: SequenceNumber(u64_at(at::FIRST_SEQUENCE)),
            arrival: UnixMs(u64_at(at::ARRIVAL)),
            producer_time: UnixMs(u64_at(at::PRODUCER_TIME)),
            producer_id: u128::from_le_bytes(get(bytes, at::PRODUCER_ID)),
            producer_sequence: u64_at(at::PRODUCER_SEQUENCE),
            producer_epoch: u32_at(at::PRODUCER_EPOCH),
            durable_below: u64_at(at::DURABLE_BELOW),
        };
        header.check_ranges(bytes)?;
        Ok(header)
    }

    fn check_ranges(&self, bytes: &[u8]) -> Result<(), FrameError> {
        let header_len = u16::from_le_bytes(get(bytes, at::HEADER_LEN));
        if usize::from(header_len) != HEADER_BYTES {
            return Err(field("header_len", header_len, "the length of version 1"));
        }
        if bytes[at::FLAGS] & !FLAG_CONTINUES != 0 {
            return Err(field("flags", bytes[at::FLAGS], "no flag but CONTINUES"));
        }
        if self.total_len < HEADER_BYTES as u32 || self.total_len as usize > FRAME_BYTES_MAX {
            return Err(field("total_len", self.total_len, "at least a header, at most FRAME_BYTES_MAX"));
        }
        if self.raw_len as usize > BATCH_RAW_BYTES_MAX {
            return Err(field("raw_len", self.raw_len, "at most BATCH_RAW_BYTES_MAX"));
        }
        if self.record_count as usize > BATCH_RECORDS_MAX {
            return Err(field("record_count", self.record_count, "at most BATCH_RECORDS_MAX"));
        }
        Ok(())
    }

    /// Bytes of the payload as stored.
    #[must_use]
    pub fn payload_len(&self) -> usize {
        self.total_len as usize - HEADER_BYTES
    }

    /// Sequence number after the last record.
    #[must_use]
    pub fn end_sequence(&self) -> SequenceNumber {
        self.first_sequence + u64::from(self.record_count)
    }
}

fn field(field: &'static str, value: impl Into<u64>, want: &'static str) -> FrameError {
    FrameError::Field { field, value: value.into(), want }
}

/// Appends a frame whose payload is the caller's own, uncompressed: state, cursors, catalog changes. The
/// lengths and the payload's checksum in `header` are filled in.
pub fn put_control(header: Header, payload: &[u8], out: &mut Vec<u8>) {
    let header = Header {
        codec: Codec::None,
        total_len: (HEADER_BYTES + payload.len()) as u32,
        raw_len: payload.len() as u32,
        payload_crc: crc32c::crc32c(payload),
        ..header
    };
    out.extend_from_slice(&header.encode());
    out.extend_from_slice(payload);
}

/// A whole frame, both checksums right.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// Its header.
    pub header: Header,
    /// Its payload as stored.
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Reads one frame that is exactly `bytes`.
    ///
    /// # Errors
    /// As [`Header::parse`], and when the length or the payload's checksum is wrong.
    pub fn parse(bytes: &'a [u8]) -> Result<Frame<'a>, FrameError> {
        let (frame, rest) = Frame::parse_first(bytes)?;
        if rest.is_empty() {
            Ok(frame)
        } else {
            Err(FrameError::Length { want: bytes.len() - rest.len(), got: bytes.len() })
        }
    }

    /// Reads the frame that `bytes` starts with; also returns what follows it.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn parse_first(bytes: &'a [u8]) -> Result<(Frame<'a>, &'a [u8]), FrameError> {
        let header = Header::parse(bytes)?;
        let want = header.total_len as usize;
        if bytes.len() < want {
            return Err(FrameError::Length { want, got: bytes.len() });
        }
        let payload = &bytes[HEADER_BYTES..want];
        let computed = crc32c::crc32c(payload);
        if computed != header.payload_crc {
            return Err(FrameError::PayloadCrc { stored: header.payload_crc, computed });
        }
        Ok((Frame { header, payload }, &bytes[want..]))
    }
}

/// Writes a changed header over the one that a frame's bytes start with. The payload is not looked at.
///
/// # Panics
/// When `frame` is shorter than a header: the caller parsed it before.
pub fn patch_header(frame: &mut [u8], header: &Header) {
    frame[..HEADER_BYTES].copy_from_slice(&header.encode());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Vec<u8> {
        let mut out = Vec::new();
        let header = Header {
            kind: Kind::Cursor,
            stream: StreamKey(0x0102_0304_0506_0708),
            shard: ShardId(3),
            lane: 2,
            batch_no: 9,
            first_sequence: SequenceNumber(1000),
            arrival: UnixMs(1_700_000_000_000),
            producer_time: UnixMs(1_600_000_000_000),
            producer_id: 0xAB,
            producer_sequence: 77,
            producer_epoch: 5,
            durable_below: 4096,
            ..Header::default()
        };
        put_control(header, b"hello", &mut out);
        out
    }

    #[test]
    fn the_worked_example_of_the_readme_is_what_the_code_writes() {
        let hex: String = example().iter().map(|b| format!("{b:02x}")).collect();
        let readme = include_str!("../README.md");
        let shown: String = readme
            .split("```frame-example")
            .nth(1)
            .and_then(|rest| rest.split("```").next())
            .unwrap_or_default()
            .lines()
            .filter_map(|line| line.split('#').next())
            .flat_map(str::chars)
            .filter(char::is_ascii_hexdigit)
            .collect();
        assert_eq!(shown, hex);
    }

    #[test]
    fn a_frame_survives_the_round_trip() {
        let bytes = example();
        let frame = Frame::parse(&bytes).unwrap();
        assert_eq!(frame.payload, b"hello");
        assert_eq!(frame.header.first_sequence, SequenceNumber(1000));
        assert_eq!(Header::parse(&frame.header.encode()), Ok(frame.header));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = example();
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Frame::parse(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_truncation_is_noticed() {
        let bytes = example();
        for len in 0..bytes.len() {
            assert!(Frame::parse(&bytes[..len]).is_err(), "{len} bytes");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(Frame::parse(&longer).is_err());
    }

    #[test]
    fn lengths_are_bounded_before_anything_is_allocated() {
        let good = Frame::parse(&example()).unwrap().header;
        for bad in [
            Header { total_len: 0, ..good },
            Header { total_len: u32::MAX, ..good },
            Header { raw_len: u32::MAX, ..good },
            Header { record_count: u32::MAX, ..good },
        ] {
            assert!(matches!(Header::parse(&bad.encode()), Err(FrameError::Field { .. })));
        }
    }
}
