//! What a stored fragment is: a batch whose records are the frames (access units), in the order of their decode times.
//! The first record begins with the fragment's head, so that the batch describes itself:
//!
//! ```text
//! "KVF1"   u32 bytes of all that follows in the head   u32 CRC32C of it
//! varint follows (0 first of a run, 1 goes on, 2 after a gap, 3 within; and 4 where a count comes)
//!        [zigzag gap in ms] [varint count of those within, so far]
//! u64 run   varint place in the run   u8 clock
//! varint length, configuration (an MP4 `moov`), lz4
//! u8 track count   for each track: varint decode time of its first frame, in its timescale
//! varint frame count
//! for each frame: u8 flags   [varint duration]   [zigzag composition offset]
//! ```
//!
//! Flags: two bits for the track, then key, duration as the frame before on this track, offset as the frame before on
//! this track, offset in units of the duration. How long a frame is, is in the batch's own table. Little-endian.

use std::sync::{Arc, OnceLock};

use protocol::batch::{self, Batch, BatchError};
use protocol::bytes::{Cursor, put_varint, put_zigzag};

use protocol::frame::Header;
use protocol::time::UnixMs;
use sha2::{Digest, Sha256};

use crate::VideoError;
use crate::codec;
use crate::limit::{CONFIG_BYTES_MAX, FRAGMENT_FRAMES_MAX, HEAD_BYTES_MAX, TRACKS_MAX};

const MAGIC: [u8; 4] = *b"KVF1";
/// Magic, length and checksum.
const PREAMBLE_BYTES: usize = 12;

const TRACK_MASK: u8 = 0b11;
const KEY: u8 = 1 << 2;
const SAME_DURATION: u8 = 1 << 3;
const SAME_OFFSET: u8 = 1 << 4;
const OFFSET_IN_DURATIONS: u8 = 1 << 5;

/// What frames were made with: tracks, codecs, timescales.
#[derive(Debug)]
pub struct Config {
    moov: Vec<u8>,
    /// What is made of it, once somebody asks: every fragment of a camera asks again.
    id: OnceLock<u64>,
    packed: OnceLock<Vec<u8>>,
    timescales: OnceLock<Vec<u32>>,
}

impl PartialEq for Config {
    fn eq(&self, other: &Config) -> bool {
        self.moov == other.moov
    }
}

impl Eq for Config {}

impl Config {
    /// Of an MP4 `moov` box, as [`crate::demux`] writes it.
    #[must_use]
    pub fn new(moov: Vec<u8>) -> Config {
        Config { moov, id: OnceLock::new(), packed: OnceLock::new(), timescales: OnceLock::new() }
    }

    /// The `moov` box.
    #[must_use]
    pub fn moov(&self) -> &[u8] {
        &self.moov
    }

    /// The same for the same configuration, in every stream.
    #[must_use]
    pub fn id(&self) -> String {
        let id = self.id.get_or_init(|| {
            let mut id = [0; 8];
            id.copy_from_slice(&Sha256::digest(&self.moov)[..8]);
            u64::from_le_bytes(id)
        });
        format!("{id:016x}")
    }

    /// As it stands in heads.
    fn packed(&self) -> &[u8] {
        self.packed.get_or_init(|| lz4_flex::compress_prepend_size(&self.moov))
    }

    /// In how many units a second is counted on a track; nothing where there is no such track.
    #[must_use]
    pub fn timescale(&self, track: u8) -> Option<u32> {
        let timescales = self.timescales.get_or_init(|| {
            let tracks = codec::tracks(self).unwrap_or_default();
            tracks.iter().map(|track| track.timescale).collect()
        });
        timescales.get(usize::from(track)).copied()
    }
}

/// Whether a fragment goes on where the one before it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follows {
    /// The first of its run: a producer began to send.
    Run,
    /// It goes on.
    Previous,
    /// The producer's times jump by this many milliseconds; back, where it is negative.
    Gap(i64),
    /// It is a further part of what the one before it began: stored before its end came, so that it can be read sooner.
    Within,
}

/// In `follows`: how many of its stream are within others is said after it.
const COUNTED: u64 = 4;

/// Whose clock the producer time is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// The camera's or the producer's own.
    Producer,
    /// Whoever took the video noted when it came: the producer said nothing.
    Arrival,
}

/// One access unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Place of its track in the configuration.
    pub track: u8,
    /// Decodable alone.
    pub key: bool,
    /// Decode time in its track's timescale, on the stream's timeline: 0 is 1970.
    pub dts: u64,
    /// How long until the next one of its track.
    pub duration: u32,
    /// Presentation time less decode time.
    pub offset: i32,
    /// Bytes.
    pub size: u32,
}

impl Frame {
    /// Presentation time in its track's timescale.
    #[must_use]
    pub fn pts(&self) -> i64 {
        self.dts as i64 + i64::from(self.offset)
    }
}

/// All of a fragment but the frames' bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fragment {
    /// Whether something is missing before it.
    pub follows: Follows,
    /// Which run of its producer: from one connection, or one start of an agent.
    pub run: u64,
    /// Place in the run.
    pub place: u64,
    /// How many of its stream so far, with this one, were [`Follows::Within`]. The store counts, as it knows them all.
    pub within: u64,
    /// Whose clock `producer_time` is.
    pub clock: Clock,
    /// When its first frame was made.
    pub producer_time: UnixMs,
    /// What the frames were made with.
    pub config: Arc<Config>,
    /// The frames, in the order in which they are stored.
    pub frames: Vec<Frame>,
}

impl Fragment {
    /// Whether it begins with a frame of the first track that can be decoded alone.
    #[must_use]
    pub fn starts_with_key(&self) -> bool {
        self.frames.iter().find(|frame| frame.track == 0).is_some_and(|frame| frame.key)
    }

    /// Bytes of all frames.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.frames.iter().map(|frame| u64::from(frame.size)).sum()
    }

    /// How long the frames of a track last, in its timescale.
    #[must_use]
    pub fn duration(&self, track: u8) -> u64 {
        self.frames.iter().filter(|frame| frame.track == track).map(|frame| u64::from(frame.duration)).sum()
    }

    /// The head, as the first record begins with it.
    #[must_use]
    pub fn head(&self) -> Vec<u8> {
        let mut out = vec![0; PREAMBLE_BYTES];
        let counted = if self.within > 0 { COUNTED } else { 0 };
        match self.follows {
            Follows::Run => put_varint(&mut out, counted),
            Follows::Previous => put_varint(&mut out, counted | 1),
            Follows::Gap(ms) => {
                put_varint(&mut out, counted | 2);
                put_zigzag(&mut out, ms);
            }
            Follows::Within => put_varint(&mut out, counted | 3),
        }
        if self.within > 0 {
            put_varint(&mut out, self.within);
        }
        out.extend_from_slice(&self.run.to_le_bytes());
        put_varint(&mut out, self.place);
        out.push(u8::from(self.clock == Clock::Arrival));
        let config = self.config.packed();
        put_varint(&mut out, config.len() as u64);
        out.extend_from_slice(config);
        let tracks = self.frames.iter().map(|frame| frame.track + 1).max().unwrap_or(0);
        out.push(tracks);
        for track in 0..tracks {
            let first = self.frames.iter().find(|frame| frame.track == track);
            put_varint(&mut out, first.map_or(0, |frame| frame.dts));
        }
        put_varint(&mut out, self.frames.len() as u64);
        let mut before = [(0u32, 0i32); TRACKS_MAX + 1];
        for frame in &self.frames {
            put_frame(frame, &mut before[usize::from(frame.track & TRACK_MASK)], &mut out);
        }
        let length = (out.len() - PREAMBLE_BYTES) as u32;
        let crc = crc32c::crc32c(&out[PREAMBLE_BYTES..]);
        out[..4].copy_from_slice(&MAGIC);
        out[4..8].copy_from_slice(&length.to_le_bytes());
        out[8..12].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Appends the whole fragment as a frame of the log: `data` is the bytes of all frames, one after the other.
    ///
    /// # Errors
    /// When the partition key is none.
    pub fn seal(
        &self,
        key: &str,
        data: &[u8],
        header: Header,
        out: &mut Vec<u8>,
    ) -> Result<Header, BatchError> {
        self.seal_pieces(key, &[data], header, out)
    }

    /// As [`seal`](Self::seal), of frames that lie in pieces.
    ///
    /// # Errors
    /// As there.
    pub fn seal_pieces(
        &self,
        key: &str,
        data: &[&[u8]],
        header: Header,
        out: &mut Vec<u8>,
    ) -> Result<Header, BatchError> {
        let Sealed { header, front, .. } = self.sealed(key, data, header)?;
        out.reserve(header.total_len as usize);
        out.extend_from_slice(&header.encode());
        out.extend_from_slice(&front);
        data.iter().for_each(|piece| out.extend_from_slice(piece));
        Ok(header)
    }

    /// What a frame of the log is made of, but the frames' bytes, which stay where they are.
    ///
    /// # Errors
    /// When the partition key is none.
    pub fn sealed(&self, key: &str, data: &[&[u8]], header: Header) -> Result<Sealed, BatchError> {
        let head = self.head();
        let lengths = self.frames.iter().enumerate();
        let lengths = lengths.map(|(n, frame)| frame.size as usize + if n == 0 { head.len() } else { 0 });
        let record_bytes_max = lengths.clone().max().unwrap_or(0);
        let pieces = [&[head.as_slice()], data].concat();
        // What cameras make is compressed already.
        let (header, mut front) = batch::plain(header, key, self.producer_time, lengths, &pieces)?;
        front.extend_from_slice(&head);
        Ok(Sealed { header, front, record_bytes_max })
    }

    /// Reads the head at the beginning of a first record. `sizes` are the lengths of the records. Returns also how
    /// many bytes of the first record are the head.
    ///
    /// # Errors
    /// When it is no head of a fragment, or damaged.
    pub fn read(
        first_record: &[u8],
        sizes: &[u32],
        producer_time: UnixMs,
    ) -> Result<(Fragment, usize), VideoError> {
        let bad = VideoError::Head;
        let mut preamble = Cursor::new(first_record);
        if preamble.take(4).ok() != Some(&MAGIC) {
            return Err(bad("this record is no fragment of video"));
        }
        let (length, crc) = (preamble.u32().unwrap_or(0) as usize, preamble.u32().unwrap_or(0));
        let body = first_record.get(PREAMBLE_BYTES..PREAMBLE_BYTES + length.min(HEAD_BYTES_MAX));
        let body = body.filter(|body| body.len() == length).ok_or(bad("it ends too early"))?;
        if crc32c::crc32c(body) != crc {
            return Err(bad("its checksum is wrong"));
        }
        let fragment = read_body(body, sizes, PREAMBLE_BYTES + length, producer_time);
        fragment.map(|fragment| (fragment, PREAMBLE_BYTES + length))
    }

    /// Reads the fragment in a batch; then [`data_of`] gives the bytes of a frame.
    ///
    /// # Errors
    /// When it is no fragment, or damaged.
    pub fn of_batch(batch: &Batch, producer_time: UnixMs) -> Result<(Fragment, usize), VideoError> {
        let sizes: Vec<u32> = batch.records().map(|record| record.data.len() as u32).collect();
        let first = batch.records().next().map(|record| record.data).unwrap_or_default();
        Fragment::read(first, &sizes, producer_time)
    }
}

/// A frame of the log, but for the bytes of its fragment's frames, which come behind `front`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The header, with the checksum of all that comes behind it.
    pub header: Header,
    /// The batch's tables and the fragment's head.
    pub front: Vec<u8>,
    /// The longest of its records.
    pub record_bytes_max: usize,
}

/// The partition key of all frames: a stream of video is one order.
pub const PARTITION_KEY: &str = "video";

/// The bytes of each frame of a batch that [`Fragment::of_batch`] has read, whose head has `head_bytes`.
pub fn data_of<'a>(batch: &'a Batch<'_>, head_bytes: usize) -> impl Iterator<Item = &'a [u8]> {
    batch.records().enumerate().map(move |(place, record)| {
        if place == 0 { record.data.get(head_bytes..).unwrap_or_default() } else { record.data }
    })
}

fn put_frame(frame: &Frame, before: &mut (u32, i32), out: &mut Vec<u8>) {
    let mut flags = frame.track & TRACK_MASK;
    let divides =
        frame.duration > 0 && i64::from(frame.offset) % i64::from(frame.duration) == 0 && frame.offset != 0;
    for (bit, yes) in [
        (KEY, frame.key),
        (SAME_DURATION, frame.duration == before.0),
        (SAME_OFFSET, frame.offset == before.1),
        (OFFSET_IN_DURATIONS, divides),
    ] {
        flags |= if yes { bit } else { 0 };
    }
    out.push(flags);
    if flags & SAME_DURATION == 0 {
        put_varint(out, u64::from(frame.duration));
    }
    if flags & SAME_OFFSET == 0 {
        let unit = if divides { i64::from(frame.duration) } else { 1 };
        put_zigzag(out, i64::from(frame.offset) / unit);
    }
    *before = (frame.duration, frame.offset);
}

fn read_body(
    body: &[u8],
    sizes: &[u32],
    head_bytes: usize,
    producer_time: UnixMs,
) -> Result<Fragment, VideoError> {
    let bad = VideoError::Head;
    let short = |_| bad("it ends too early");
    let mut cursor = Cursor::new(body);
    let code = cursor.varint().map_err(short)?;
    let follows = match code {
        0 | 4 => Follows::Run,
        1 | 5 => Follows::Previous,
        2 | 6 => Follows::Gap(cursor.zigzag().map_err(short)?),
        3 | 7 => Follows::Within,
        _ => {
            return Err(bad(
                "it follows in a way that this program does not know: it is older than the data",
            ));
        }
    };
    let within = if code & COUNTED == 0 { 0 } else { cursor.varint().map_err(short)? };
    let (run, place) = (cursor.u64().map_err(short)?, cursor.varint().map_err(short)?);
    let clock = if cursor.u8().map_err(short)? == 0 { Clock::Producer } else { Clock::Arrival };
    let length = cursor.varint().map_err(short)?;
    let packed = cursor.take(length.min(CONFIG_BYTES_MAX as u64 + 1024) as usize).map_err(short)?;
    let claimed = Cursor::new(packed).u32().unwrap_or(u32::MAX) as usize;
    if claimed > CONFIG_BYTES_MAX {
        return Err(bad("its configuration is too long"));
    }
    let moov =
        lz4_flex::decompress_size_prepended(packed).map_err(|_| bad("its configuration is damaged"))?;
    let tracks = usize::from(cursor.u8().map_err(short)?);
    if tracks > TRACKS_MAX {
        return Err(bad("it has too many tracks"));
    }
    let mut next = [0u64; TRACKS_MAX + 1];
    for dts in next.iter_mut().take(tracks) {
        *dts = cursor.varint().map_err(short)?;
    }
    let count = cursor.varint().map_err(short)? as usize;
    if count != sizes.len() || count > FRAGMENT_FRAMES_MAX {
        return Err(bad("it has another number of frames than its batch"));
    }
    let mut frames = Vec::with_capacity(count);
    let mut before = [(0u32, 0i32); TRACKS_MAX + 1];
    for (place, size) in sizes.iter().enumerate() {
        let flags = cursor.u8().map_err(short)?;
        let track = usize::from(flags & TRACK_MASK);
        if track >= tracks {
            return Err(bad("a frame is of no track"));
        }
        let (duration, offset) = read_times(flags, &mut cursor, before[track])?;
        before[track] = (duration, offset);
        let head = if place == 0 { head_bytes as u32 } else { 0 };
        let size = size.checked_sub(head).ok_or(bad("it is longer than its record"))?;
        let key = flags & KEY != 0;
        frames.push(Frame { track: track as u8, key, dts: next[track], duration, offset, size });
        next[track] = next[track].saturating_add(u64::from(duration));
    }
    let config = Arc::new(Config::new(moov));
    Ok(Fragment { follows, run, place, within, clock, producer_time, config, frames })
}

fn read_times(flags: u8, cursor: &mut Cursor<'_>, before: (u32, i32)) -> Result<(u32, i32), VideoError> {
    let short = |_| VideoError::Head("it ends too early");
    let duration = if flags & SAME_DURATION == 0 {
        u32::try_from(cursor.varint().map_err(short)?)
            .map_err(|_| VideoError::Head("a frame lasts too long"))?
    } else {
        before.0
    };
    if flags & SAME_OFFSET != 0 {
        return Ok((duration, before.1));
    }
    let unit = if flags & OFFSET_IN_DURATIONS == 0 { 1 } else { i64::from(duration) };
    let offset = cursor.zigzag().map_err(short)?.saturating_mul(unit);
    let offset = i32::try_from(offset).map_err(|_| VideoError::Head("a frame is shown too late"))?;
    Ok((duration, offset))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fragment(frames: Vec<Frame>) -> Fragment {
        Fragment {
            follows: Follows::Gap(-40),
            run: 7,
            place: 3,
            within: 0,
            clock: Clock::Arrival,
            producer_time: UnixMs(1_700_000_000_000),
            config: Arc::new(Config::new(b"moov of some camera".to_vec())),
            frames,
        }
    }

    /// Frames as a camera sends them: thirty a second, with or without B-frames, with sound between them.
    fn camera(count: u64, offsets: &[i32], audio: bool) -> Vec<Frame> {
        let mut frames = Vec::new();
        for n in 0..count {
            let offset = offsets[n as usize % offsets.len()] * 3000;
            let (key, size) = (n == 0, 8000 + n as u32);
            frames.push(Frame { track: 0, key, dts: 9_000_000 + n * 3000, duration: 3000, offset, size });
            if audio {
                let dts = 48_000_000 + n * 1024;
                frames.push(Frame { track: 1, key: true, dts, duration: 1024, offset: 0, size: 300 });
            }
        }
        frames
    }

    fn stored(fragment: &Fragment) -> (Vec<u8>, Header) {
        let data: Vec<u8> = (0..fragment.data_bytes()).map(|n| n as u8).collect();
        let mut out = Vec::new();
        let header = fragment.seal("video", &data, Header::default(), &mut out).unwrap();
        (out, header)
    }

    #[test]
    fn a_fragment_is_a_batch_whose_records_are_its_frames() {
        let fragment = fragment(camera(60, &[2, 4, 2, 0], true));
        let (bytes, header) = stored(&fragment);
        let frame = protocol::frame::Frame::parse(&bytes).unwrap();
        let mut batch = Batch::new();
        batch.open(&header, frame.payload).unwrap();
        let (read, head) = Fragment::of_batch(&batch, header.producer_time).unwrap();
        assert_eq!(read, fragment);
        let mut at = 0u64;
        for (data, frame) in data_of(&batch, head).zip(&fragment.frames) {
            assert_eq!(data.len(), frame.size as usize);
            assert!(data.iter().enumerate().all(|(n, byte)| *byte == (at + n as u64) as u8));
            at += u64::from(frame.size);
        }
    }

    #[test]
    fn the_index_of_a_frame_takes_four_bytes_at_most() {
        for (offsets, audio) in
            [(&[0][..], false), (&[0], true), (&[2, 4, 2, 0], false), (&[1, 3, 0, 1], true)]
        {
            let whole = fragment(camera(600, offsets, audio));
            let one = fragment(whole.frames[..1].to_vec());
            let in_head = whole.head().len() - one.head().len();
            let lengths: usize = whole.frames.iter().map(|f| if f.size < 16_384 { 2 } else { 3 }).sum();
            let each = (in_head + lengths) as f64 / whole.frames.len() as f64;
            assert!(each <= 4.0, "{offsets:?} {audio}: {each} bytes");
        }
    }

    #[test]
    fn how_it_follows_and_how_many_are_within_others_comes_back() {
        for follows in [Follows::Run, Follows::Previous, Follows::Gap(7), Follows::Gap(-7), Follows::Within] {
            for within in [0, 1, 127, 128, u64::MAX] {
                let fragment = Fragment { follows, within, ..fragment(camera(1, &[0], false)) };
                let head = fragment.head();
                let (read, _) =
                    Fragment::read(&head, &[head.len() as u32 + 8000], fragment.producer_time).unwrap();
                assert_eq!(read, fragment);
            }
        }
    }

    #[test]
    fn a_damaged_head_is_told() {
        let fragment = fragment(camera(10, &[0], false));
        let head = fragment.head();
        let sizes: Vec<u32> = (0..10).map(|n| if n == 0 { head.len() as u32 } else { 1 }).collect();
        assert!(Fragment::read(&head, &sizes, UnixMs(0)).is_ok());
        for bit in 0..head.len() * 8 {
            let mut bad = head.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Fragment::read(&bad, &sizes, UnixMs(0)).is_err(), "bit {bit}");
        }
        for length in 0..head.len() {
            assert!(Fragment::read(&head[..length], &sizes, UnixMs(0)).is_err(), "{length} bytes");
        }
        assert!(Fragment::read(&head, &sizes[1..], UnixMs(0)).is_err());
    }

    proptest! {
        #[test]
        fn any_frames_come_back_as_they_were(
            frames in proptest::collection::vec(
                (0u8..3, any::<bool>(), 0u32..1_000_000, -100_000i32..100_000, 0u32..100_000), 1..200)
        ) {
            let mut next = [1_000u64, 2_000, 3_000];
            let mut frames: Vec<Frame> = frames.into_iter().map(|(track, key, duration, offset, size)| {
                let dts = next[usize::from(track)];
                next[usize::from(track)] += u64::from(duration);
                Frame { track, key, dts, duration, offset, size }
            }).collect();
            let tracks = frames.iter().map(|f| f.track).max().unwrap();
            for track in 0..=tracks {
                if !frames.iter().any(|f| f.track == track) {
                    frames.push(Frame { track, key: true, dts: 5, duration: 1, offset: 0, size: 1 });
                }
            }
            let fragment = fragment(frames);
            let head = fragment.head();
            let sizes: Vec<u32> = fragment.frames.iter().enumerate()
                .map(|(n, f)| f.size + if n == 0 { head.len() as u32 } else { 0 }).collect();
            let (read, length) = Fragment::read(&head, &sizes, fragment.producer_time).unwrap();
            prop_assert_eq!(length, head.len());
            prop_assert_eq!(read, fragment);
        }

        #[test]
        fn bytes_of_any_kind_are_no_reason_to_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..400),
            sizes in proptest::collection::vec(any::<u32>(), 0..20),
            sound in any::<bool>(),
        ) {
            if sound && bytes.len() > PREAMBLE_BYTES {
                let crc = crc32c::crc32c(&bytes[PREAMBLE_BYTES..]);
                let length = (bytes.len() - PREAMBLE_BYTES) as u32;
                bytes[..4].copy_from_slice(&MAGIC);
                bytes[4..8].copy_from_slice(&length.to_le_bytes());
                bytes[8..12].copy_from_slice(&crc.to_le_bytes());
            }
            let _ = Fragment::read(&bytes, &sizes, UnixMs(0));
        }
    }

    /// A head with these bytes behind its preamble.
    fn headed(body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u32).to_le_bytes();
        [&MAGIC[..], &length, &crc32c::crc32c(body).to_le_bytes(), body].concat()
    }

    /// Reaches `HEAD_BYTES_MAX`, `CONFIG_BYTES_MAX`, `FRAGMENT_FRAMES_MAX` of video/src/limit.rs.
    #[test]
    fn the_largest_head_there_is_can_be_read_and_a_larger_one_is_refused() {
        let mut rng = protocol::rng::Rng::new(1);
        let read = |fragment: &Fragment| {
            let head = fragment.head();
            let mut sizes: Vec<u32> = fragment.frames.iter().map(|frame| frame.size).collect();
            sizes[0] += head.len() as u32;
            Fragment::read(&head, &sizes, fragment.producer_time).map(|(read, _)| read == *fragment)
        };
        // Nothing of it can be made shorter.
        let mut frames = Vec::new();
        let mut dts = 1;
        for n in 0..FRAGMENT_FRAMES_MAX as u32 + 1 {
            let duration = (1 << 28) + n;
            frames.push(Frame { track: 0, key: true, dts, duration, offset: (1 << 30) + n as i32, size: 1 });
            dts += u64::from(duration);
        }
        let config = (0..=CONFIG_BYTES_MAX).map(|_| rng.next_u64() as u8).collect::<Vec<_>>();
        let mut largest = fragment(frames);
        assert!(read(&largest).is_err(), "a frame more than there may be");
        largest.frames.pop();
        largest.config = Arc::new(Config::new(config.clone()));
        assert_eq!(read(&largest), Err(VideoError::Head("its configuration is too long")));
        largest.config = Arc::new(Config::new(config[1..].to_vec()));
        assert_eq!(read(&largest), Ok(true));
        let mut body = largest.head().split_off(PREAMBLE_BYTES);
        assert!(body.len() < HEAD_BYTES_MAX, "{} bytes", body.len());
        // What later programs may put behind it.
        body.resize(HEAD_BYTES_MAX, 0);
        let mut sizes = vec![1; FRAGMENT_FRAMES_MAX];
        sizes[0] = (PREAMBLE_BYTES + HEAD_BYTES_MAX + 1) as u32;
        assert!(Fragment::read(&headed(&body), &sizes, UnixMs(0)).is_ok());
        body.push(0);
        sizes[0] += 1;
        assert!(Fragment::read(&headed(&body), &sizes, UnixMs(0)).is_err());
    }
}
