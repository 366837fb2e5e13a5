//! Walking over the frames of one file: what is valid, what is not, and where it goes on after damage. Reads in
//! large pieces; decides nothing about what becomes of damage.

use std::io;
use std::marker::PhantomData;

use super::{Damage, Framing, Position, SegmentCheck, SegmentInfo};
use crate::{Disk, FileName};

/// Bytes read at once, or one frame where that is longer.
const CHUNK_BYTES: usize = 1 << 20;

/// A piece of one file in memory; offsets are those of the file.
pub(super) struct Window {
    file: FileName,
    start: u64,
    bytes: Vec<u8>,
    /// Bytes read from the disk so far.
    pub(super) read_bytes: u64,
}

impl Window {
    pub(super) fn new(file: FileName) -> Self {
        Self { file, start: 0, bytes: Vec::new(), read_bytes: 0 }
    }

    /// Bytes `at..at + len`, read if need be, with more after them, but none at or beyond `end`.
    pub(super) fn get(&mut self, disk: &dyn Disk, at: u64, len: usize, end: u64) -> io::Result<&[u8]> {
        if !self.holds(at, len) {
            let ahead = usize::try_from(end - at).unwrap_or(usize::MAX).min(CHUNK_BYTES);
            self.bytes.resize(len.max(ahead), 0);
            self.start = at;
            let filled = disk.read_at(&self.file, at, &mut self.bytes);
            // A failed read may have left anything there.
            filled.inspect_err(|_| self.bytes.clear())?;
            self.read_bytes += self.bytes.len() as u64;
        }
        let from = (at - self.start) as usize;
        Ok(&self.bytes[from..from + len])
    }

    /// All that is in memory from `at` on; empty where nothing is.
    fn rest(&self, at: u64) -> &[u8] {
        if self.holds(at, 0) { &self.bytes[(at - self.start) as usize..] } else { &[] }
    }

    fn holds(&self, at: u64, len: usize) -> bool {
        at >= self.start && at + len as u64 <= self.start + self.bytes.len() as u64
    }
}

/// What starts at an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// A valid frame.
    Frame { len: usize, continues: bool, durable_below: Option<Position> },
    /// No valid frame; the next may start `skip` bytes further on.
    Invalid { skip: u64 },
}

/// Frames of one file, from offset 0 to `end`.
pub(super) struct Walk<'a, F> {
    pub(super) disk: &'a dyn Disk,
    pub(super) window: &'a mut Window,
    pub(super) end: u64,
    pub(super) framing: PhantomData<F>,
}

impl<F: Framing> Walk<'_, F> {
    /// Looks at one offset before the end.
    pub(super) fn step(&mut self, at: u64) -> io::Result<Step> {
        let left = self.end - at;
        if left < F::HEADER_BYTES as u64 {
            return Ok(Step::Invalid { skip: 1 });
        }
        let header = self.window.get(self.disk, at, F::HEADER_BYTES, self.end)?;
        let Some(len) = frame_len::<F>(header) else { return Ok(Step::Invalid { skip: 1 }) };
        let (continues, durable_below) = (F::continues(header), F::durable_below(header));
        // The header's checksum vouches for the length, so what lies within is the frame's own and no other frame,
        // whatever a sender put into it.
        if len as u64 > left {
            return Ok(Step::Invalid { skip: left });
        }
        if !F::is_valid(self.window.get(self.disk, at, len, self.end)?) {
            return Ok(Step::Invalid { skip: len as u64 });
        }
        Ok(Step::Frame { len, continues, durable_below })
    }

    /// The first offset at or after `at` where a valid frame starts.
    pub(super) fn next_valid(&mut self, mut at: u64) -> io::Result<Option<u64>> {
        while at + F::HEADER_BYTES as u64 <= self.end {
            self.window.get(self.disk, at, F::HEADER_BYTES, self.end)?;
            let rest = self.window.rest(at);
            let Some(found) = find(rest, F::MAGIC) else {
                // The magic may lie across the end of what is in memory.
                at += (rest.len() - (F::MAGIC.len() - 1).min(rest.len() - 1)) as u64;
                continue;
            };
            at += found as u64;
            if at >= self.end {
                break;
            }
            match self.step(at)? {
                Step::Frame { .. } => return Ok(Some(at)),
                Step::Invalid { skip } => at += skip,
            }
        }
        Ok(None)
    }
}

/// The length of a frame with this header, where both are legal.
pub(super) fn frame_len<F: Framing>(header: &[u8]) -> Option<usize> {
    let legal = |len: &usize| (F::HEADER_BYTES.max(1)..=F::FRAME_BYTES_MAX).contains(len);
    header.starts_with(F::MAGIC).then(|| F::frame_len(header)).flatten().filter(legal)
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut from = 0;
    while let Some(found) = haystack[from..].iter().position(|byte| *byte == first) {
        if haystack[from + found..].starts_with(needle) {
            return Some(from + found);
        }
        from += found + 1;
    }
    None
}

/// What one file holds, as offsets in it.
#[derive(Debug, Default)]
pub(super) struct Verified {
    pub(super) frames: u64,
    pub(super) frame_bytes: u64,
    /// Invalid ranges, each with a complete group after it.
    pub(super) damage: Vec<Invalid>,
    /// After the last complete group.
    pub(super) valid_end: u64,
    /// The highest promise that a complete group made about what was durable before it.
    pub(super) durable_below: Option<Position>,
    pub(super) read_bytes: u64,
}

/// An invalid range of one file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Invalid {
    pub(super) from: u64,
    pub(super) to: u64,
    /// After the last complete group before it.
    pub(super) group_start: u64,
}

/// Verifies every frame in the first `len` bytes of a file.
pub(super) fn verify<F: Framing>(disk: &dyn Disk, file: &FileName, len: u64) -> io::Result<Verified> {
    let mut window = Window::new(file.clone());
    let mut walk = Walk { disk, window: &mut window, end: len, framing: PhantomData::<F> };
    let mut found = Verified::default();
    let (mut at, mut pending) = (0, Pending::default());
    while at < len {
        match walk.step(at)? {
            Step::Frame { len, continues, durable_below } => {
                at += len as u64;
                pending.frames += 1;
                pending.frame_bytes += len as u64;
                pending.durable_below = pending.durable_below.max(durable_below);
                if !continues {
                    std::mem::take(&mut pending).settle(&mut found, at);
                }
            }
            Step::Invalid { skip } => {
                let next = walk.next_valid(at + skip)?.unwrap_or(len);
                pending.damage.push(Invalid { from: at, to: next, group_start: found.valid_end });
                at = next;
            }
        }
    }
    found.read_bytes = window.read_bytes;
    Ok(found)
}

/// What was seen since the last complete group.
#[derive(Default)]
struct Pending {
    frames: u64,
    frame_bytes: u64,
    damage: Vec<Invalid>,
    durable_below: Option<Position>,
}

impl Pending {
    fn settle(self, found: &mut Verified, end: u64) {
        found.frames += self.frames;
        found.frame_bytes += self.frame_bytes;
        found.damage.extend(self.damage);
        found.durable_below = found.durable_below.max(self.durable_below);
        found.valid_end = end;
    }
}

/// Verifies every frame of a segment and changes nothing: for checking, not for opening.
pub fn scan_segment<F: Framing>(disk: &dyn Disk, segment: &SegmentInfo) -> io::Result<SegmentCheck> {
    let found = verify::<F>(disk, &segment.file, segment.len)?;
    Ok(SegmentCheck {
        segment: segment.clone(),
        frames: found.frames,
        frame_bytes: found.frame_bytes,
        damage: damages(segment, &found.damage),
        valid_end: segment.base.plus(found.valid_end),
    })
}

/// Ranges of a file as ranges of the log.
pub(super) fn damages(segment: &SegmentInfo, ranges: &[Invalid]) -> Vec<Damage> {
    let damage = |range: &Invalid| Damage {
        file: segment.file.clone(),
        from: segment.base.plus(range.from),
        to: segment.base.plus(range.to),
    };
    ranges.iter().map(damage).collect()
}
