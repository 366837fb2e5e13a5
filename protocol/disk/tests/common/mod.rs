//! A tiny frame format and helpers that the families of tests share.
#![allow(dead_code, unreachable_pub)]

use std::sync::Arc;

use disk::{
    Damage, DirName, Disk, FileName, Framing, MemoryDisk, Position, Recovery, Scanned, SegmentLog,
    SegmentReader, Settings,
};

pub const HEADER: usize = 23;
pub const SEGMENT_BYTES_MAX: u64 = 4096;
const CONTINUES: u8 = 1;

/// magic 2, flags 1, length 4, durable end 8, payload CRC 4, header CRC 4; little-endian. With `CLAIMS` it tells
/// recovery about the durable end it holds.
pub struct Tiny<const CLAIMS: bool>;
pub type Plain = Tiny<false>;
pub type Claiming = Tiny<true>;

impl<const CLAIMS: bool> Framing for Tiny<CLAIMS> {
    const HEADER_BYTES: usize = HEADER;
    const FRAME_BYTES_MAX: usize = 1 << 16;
    const MAGIC: &'static [u8] = b"KF";

    fn frame_len(header: &[u8]) -> Option<usize> {
        let stored = u32::from_le_bytes(header[19..23].try_into().unwrap());
        let whole = header.starts_with(b"KF") && stored == crc32c::crc32c(&header[..19]);
        whole.then(|| u32::from_le_bytes(header[3..7].try_into().unwrap()) as usize)
    }

    fn is_valid(frame: &[u8]) -> bool {
        let stored = u32::from_le_bytes(frame[15..19].try_into().unwrap());
        stored == crc32c::crc32c(&frame[HEADER..])
    }

    fn continues(header: &[u8]) -> bool {
        header[2] & CONTINUES != 0
    }

    fn durable_below(header: &[u8]) -> Option<Position> {
        CLAIMS.then(|| Position(u64::from_le_bytes(header[7..15].try_into().unwrap())))
    }
}

pub fn frame(payload: &[u8]) -> Vec<u8> {
    build(payload, 0, 0)
}

pub fn part(payload: &[u8]) -> Vec<u8> {
    build(payload, CONTINUES, 0)
}

pub fn build(payload: &[u8], flags: u8, durable_end: u64) -> Vec<u8> {
    let mut frame = Vec::from(*b"KF");
    frame.push(flags);
    frame.extend(((HEADER + payload.len()) as u32).to_le_bytes());
    frame.extend(durable_end.to_le_bytes());
    frame.extend(crc32c::crc32c(payload).to_le_bytes());
    frame.extend(crc32c::crc32c(&frame).to_le_bytes());
    frame.extend(payload);
    frame
}

pub fn dir() -> DirName {
    DirName::new("logs/a").unwrap()
}

pub fn file(name: &str) -> FileName {
    FileName::new(name).unwrap()
}

pub fn segment(base: u64) -> FileName {
    dir().file(&format!("{base:020}.log")).unwrap()
}

pub const SETTINGS: Settings = Settings { segment_bytes_max: SEGMENT_BYTES_MAX, reserve_bytes: 600 };

pub fn open(disk: &MemoryDisk) -> (SegmentLog<Plain>, Recovery) {
    open_as(disk)
}

pub fn open_as<F: Framing>(disk: &MemoryDisk) -> (SegmentLog<F>, Recovery) {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    SegmentLog::open(disk, dir(), SETTINGS).unwrap()
}

/// Appends and syncs one frame, rolling first where it has to; returns where it is.
pub fn put(log: &mut SegmentLog<Plain>, payload: &[u8]) -> Position {
    let frame = frame(payload);
    if log.needs_roll(frame.len() as u64) {
        log.roll(&self::frame(b"head")).unwrap();
    }
    let position = log.append(&frame).unwrap();
    log.sync().unwrap();
    position
}

/// Everything a reader finds: frames with their positions, and damage.
pub fn scan_all<F: Framing>(reader: &SegmentReader<F>) -> (Vec<(Position, Vec<u8>)>, Vec<Damage>) {
    let (mut frames, mut damage) = (Vec::new(), Vec::new());
    let mut scan = reader.scan(reader.start());
    while let Some(item) = scan.advance().unwrap() {
        match item {
            Scanned::Frame(position, bytes) => frames.push((position, bytes.to_vec())),
            Scanned::Damage(lost) => damage.push(lost),
        }
    }
    (frames, damage)
}

pub fn payloads<F: Framing>(reader: &SegmentReader<F>) -> Vec<String> {
    let (frames, _) = scan_all(reader);
    frames.iter().map(|(_, frame)| String::from_utf8_lossy(&frame[HEADER..]).into_owned()).collect()
}

/// splitmix64, so that a seed is a history.
pub struct Rng(pub u64);

impl Rng {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }
}
