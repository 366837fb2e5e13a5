//! Takes a raw stream of H.264 or H.265 apart as it comes (annex B of either: units after start codes), as cameras' programs
//! write it to a pipe: any cut of the bytes gives the same frames. It has no times: a frame is shown where its picture order
//! says, at the rate that somebody said or that the stream says itself (VUI); else when it came, where frames are shown in the
//! order in which they come. Holds one access unit, and those of which it is not known yet how they are ordered. Pure.
//! Never: clocks; of what `now` is, whoever has the bytes says.

mod h264;
mod h265;
mod pace;
mod pictures;
mod split;

use std::sync::Arc;

use protocol::time::UnixMs;

use crate::VideoError;
use crate::cut::{Cut, Cutter};
use crate::describe::{DescribeError, Kind, configuration};
use crate::live::Live;
use pace::{Due, Pace};
use pictures::Place;

pub use pace::Rate;
pub(crate) use pictures::{About, Found, Picture, Pictures};
pub(crate) use split::Splitter;

/// Units of a second in which frames are kept (RFC 6184, 5.1: cameras use the same).
pub(crate) const TIMESCALE: u32 = 90_000;

/// The picture order count of a picture whose least bits are `lsb`, after one of `before` = (its high bits, its least bits)
/// (H.264, 8.2.1.1; H.265, 8.3.1).
fn order_of(lsb: i64, before: (i64, i64), modulus: i64) -> i64 {
    let (high, last) = before;
    let half = modulus / 2;
    if lsb < last && last - lsb >= half {
        high.saturating_add(modulus) + lsb
    } else if lsb > last && lsb - last > half {
        high.saturating_sub(modulus) + lsb
    } else {
        high + lsb
    }
}

/// Which codec a stream is of that begins so; `None` where it is none of these. More after [`wants_more`] is false makes no
/// difference.
#[must_use]
pub fn sniff(begin: &[u8]) -> Option<Kind> {
    let zeros = zeros(begin);
    let unit = begin.get(zeros..).filter(|_| (2..=ZEROS_MAX).contains(&zeros))?.strip_prefix(&[1])?;
    let [head, next, ..] = unit else { return None };
    // H.265 begins with a delimiter, a parameter set or a message (35, 32 to 34, 39), of layer 0, with temporal id 1.
    if matches!(head >> 1, 32..=35 | 39) && *next == 1 {
        return Some(Kind::H265);
    }
    // H.264 with a delimiter, a parameter set or a message (9, 7, 8, 6); some with a picture.
    (head & 0x80 == 0 && matches!(head & 0x1f, 1 | 5..=9)).then_some(Kind::H264)
}

/// Whether this is too little for [`sniff`]: it wants a start code with all zeros before it (B.1.1), and a header.
#[must_use]
pub fn wants_more(begin: &[u8]) -> bool {
    let zeros = zeros(begin);
    begin.len() < SNIFF_BYTES || zeros <= ZEROS_MAX && begin.len() < zeros + 3
}

fn zeros(begin: &[u8]) -> usize {
    begin.iter().take_while(|byte| **byte == 0).count()
}

/// Enough to tell where few zeros come first; other containers say in as many what they are.
const SNIFF_BYTES: usize = 8;
/// What begins with more zeros than this is taken for no raw stream; the standards allow any number (B.1.1).
pub(crate) const ZEROS_MAX: usize = 64;

/// Fragments out of the bytes of a raw stream.
#[derive(Debug)]
pub struct Demuxer {
    splitter: Splitter,
    pictures: Pictures,
    inner: Inner,
}

#[derive(Debug)]
struct Inner {
    live: Live,
    said: Option<Rate>,
    pace: Pace,
    now: Option<UnixMs>,
    due: Vec<Due>,
    found: Vec<Found>,
}

impl Demuxer {
    /// What comes is one run of this cutter's. `rate` is what somebody said: the stream is not asked then.
    #[must_use]
    pub fn new(kind: Kind, cutter: Cutter, rate: Option<Rate>) -> Demuxer {
        let inner = Inner {
            live: Live::of(cutter),
            said: rate,
            pace: Pace::default(),
            now: None,
            due: Vec::new(),
            found: Vec::new(),
        };
        Demuxer { splitter: Splitter::default(), pictures: Pictures::new(kind), inner }
    }

    /// What is pushed from now on came at this time.
    pub fn handle_time(&mut self, now: UnixMs) {
        self.inner.now = Some(now);
    }

    /// Takes more bytes, and returns the fragments that they complete.
    ///
    /// # Errors
    /// When they are no such stream, or nothing says when its frames are shown; what was complete before is kept by
    /// [`finish`](Self::finish).
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<Cut>) -> Result<(), VideoError> {
        let (pictures, inner) = (&mut self.pictures, &mut self.inner);
        self.splitter.push(bytes, |unit, at| {
            let taken = pictures.unit(unit, at, &mut inner.found);
            inner.take(out).and(taken)
        })
    }

    /// Nothing more comes. Returns the last fragment.
    ///
    /// # Errors
    /// When the last picture can't be kept.
    pub fn finish(&mut self, out: &mut Vec<Cut>) -> Result<(), VideoError> {
        let Demuxer { splitter, pictures, inner } = self;
        let last = splitter.finish().map_or(Ok(()), |(unit, at)| pictures.unit(&unit, at, &mut inner.found));
        let ended = last.and_then(|()| pictures.end(0, &mut inner.found));
        let ended = inner.take(out).and(ended);
        let passed = inner.pass(true, out);
        let finished = inner.live.finish(out);
        ended.and(passed).and(finished)
    }

    /// Bytes that are held.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        let Inner { live, pace, .. } = &self.inner;
        self.splitter.held_bytes() + self.pictures.held_bytes() + live.held_bytes() + pace.held_bytes()
    }
}

impl Inner {
    fn take(&mut self, out: &mut Vec<Cut>) -> Result<(), VideoError> {
        for found in std::mem::take(&mut self.found) {
            match found {
                Found::About(about, at) => self.describe(&about, at, out)?,
                Found::Picture(Picture { place, data, at, .. }) => {
                    let invalid = |why: String| VideoError::Invalid { at, why };
                    self.pace.add(place, data, self.now, &mut self.due).map_err(invalid)?;
                    self.pass(false, out)?;
                }
            }
        }
        Ok(())
    }

    fn pass(&mut self, last: bool, out: &mut Vec<Cut>) -> Result<(), VideoError> {
        if last {
            self.pace.close(&mut self.due);
        }
        for due in self.due.drain(..) {
            self.live.push(&due.shown(), out)?;
        }
        Ok(())
    }

    fn describe(&mut self, about: &About, at: u64, out: &mut Vec<Cut>) -> Result<(), VideoError> {
        // What waits was made with what was described before.
        self.pass(true, out)?;
        self.pace.set_rate(self.said.or(about.rate));
        let described = about.description(1);
        let invalid = |error: DescribeError| VideoError::Invalid { at, why: error.to_string() };
        let (config, tracks) = configuration(&[described]).map_err(invalid)?;
        self.live.set_config(Arc::new(config), &tracks, out)
    }
}

#[cfg(test)]
pub(crate) mod tests;
