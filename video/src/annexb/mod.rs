//! Takes a raw stream of H.264 or H.265 apart as it comes (annex B of either: units after start codes), as cameras' programs
//! write it to a pipe: any cut of the bytes gives the same frames. It has no times: a frame is shown where its picture order
//! says, at the rate that somebody said or that the stream says itself (VUI); else when it came, where frames are shown in the
//! order in which they come. Holds one access unit, and those of which it is not known yet how they are ordered. Pure.
//! Never: clocks; of what `now` is, whoever has the bytes says.

mod h264;
mod h265;
mod pace;
mod split;

use std::sync::Arc;

use protocol::time::UnixMs;

use crate::VideoError;
use crate::cut::{Cut, Cutter};
use crate::describe::{Description, Kind, configuration};
use crate::limit::FRAME_BYTES_MAX;
use crate::live::Live;
use h264::H264;
use h265::H265;
use pace::{Due, Pace};
use split::Splitter;

pub use pace::Rate;

/// Units of a second in which frames are kept (RFC 6184, 5.1: cameras use the same).
const TIMESCALE: u32 = 90_000;

/// What a unit is for whoever puts access units together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    /// Nothing that is kept.
    Nothing,
    /// An access unit begins, and the unit itself is not kept.
    Begin,
    /// An access unit begins with it, if the one before has its picture.
    Before,
    /// A parameter set, kept elsewhere; whether it is another one than before.
    Set { new: bool },
    /// The first slice of a picture.
    First(Place),
    /// The first slice of a picture whose parameter sets have not come.
    Unknown,
    /// More of the picture that is open.
    More,
}

/// Where a picture is in its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    /// Decodable alone.
    key: bool,
    /// The order begins anew.
    restarts: bool,
    /// Picture order count; `None` where pictures are shown as they are decoded.
    order: Option<i64>,
}

/// What the parameter sets say.
#[derive(Debug, Clone, PartialEq, Eq)]
struct About {
    private: Vec<u8>,
    width: u32,
    height: u32,
    rate: Option<Rate>,
}

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

#[derive(Debug)]
enum Codec {
    H264(H264),
    H265(H265),
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
    inner: Inner,
}

#[derive(Debug)]
struct Inner {
    codec: Codec,
    live: Live,
    /// The picture that is open: lengths and units.
    open: Vec<u8>,
    place: Option<Place>,
    /// Parameter sets changed: the next picture is made with others.
    stale: bool,
    about: Option<About>,
    said: Option<Rate>,
    pace: Pace,
    now: Option<UnixMs>,
    due: Vec<Due>,
}

impl Demuxer {
    /// What comes is one run of this cutter's. `rate` is what somebody said: the stream is not asked then.
    #[must_use]
    pub fn new(kind: Kind, cutter: Cutter, rate: Option<Rate>) -> Demuxer {
        let codec =
            if kind == Kind::H265 { Codec::H265(H265::default()) } else { Codec::H264(H264::default()) };
        let inner = Inner {
            codec,
            live: Live::of(cutter),
            open: Vec::new(),
            place: None,
            stale: false,
            about: None,
            said: rate,
            pace: Pace::default(),
            now: None,
            due: Vec::new(),
        };
        Demuxer { splitter: Splitter::default(), inner }
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
        let inner = &mut self.inner;
        self.splitter.push(bytes, |unit, at| inner.unit(unit, at, out))
    }

    /// Nothing more comes. Returns the last fragment.
    ///
    /// # Errors
    /// When the last picture can't be kept.
    pub fn finish(&mut self, out: &mut Vec<Cut>) -> Result<(), VideoError> {
        let last = self.splitter.finish().map_or(Ok(()), |(unit, at)| self.inner.unit(&unit, at, out));
        let ended = last.and_then(|()| self.inner.end_picture(0, out));
        let passed = self.inner.pass(true, out);
        let finished = self.inner.live.finish(out);
        ended.and(passed).and(finished)
    }

    /// Bytes that are held.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        let Inner { open, live, pace, .. } = &self.inner;
        self.splitter.held_bytes() + open.capacity() + live.held_bytes() + pace.held_bytes()
    }
}

impl Inner {
    fn unit(&mut self, unit: &[u8], at: u64, out: &mut Vec<Cut>) -> Result<(), VideoError> {
        let taken = match &mut self.codec {
            Codec::H264(codec) => codec.take(unit),
            Codec::H265(codec) => codec.take(unit),
        };
        match taken.map_err(|why| VideoError::Invalid { at, why })? {
            Unit::Nothing => Ok(()),
            Unit::Begin => self.end_picture(at, out),
            Unit::Before => {
                self.end_picture(at, out)?;
                self.keep(unit)
            }
            Unit::Set { new } => {
                // The open picture was made with the sets before.
                let stale = self.stale;
                self.end_picture(at, out)?;
                self.stale = new || stale && self.stale;
                Ok(())
            }
            Unit::First(place) => {
                self.end_picture(at, out)?;
                self.place = Some(place);
                self.keep(unit)
            }
            Unit::Unknown => {
                self.end_picture(at, out)?;
                self.open.clear();
                Ok(())
            }
            Unit::More if self.place.is_some() => self.keep(unit),
            Unit::More => Ok(()),
        }
    }

    fn keep(&mut self, unit: &[u8]) -> Result<(), VideoError> {
        let bytes = self.open.len() + 4 + unit.len();
        if bytes > FRAME_BYTES_MAX {
            let (bytes, max) = (bytes as u64, FRAME_BYTES_MAX as u64);
            return Err(VideoError::TooLarge { what: "a picture", bytes, max });
        }
        let length = unit.len() as u32;
        self.open.extend([24, 16, 8, 0].map(|shift| (length >> shift) as u8));
        self.open.extend_from_slice(unit);
        Ok(())
    }

    /// The picture that is open, if one is, is whole. What came before the first key frame can't be shown.
    fn end_picture(&mut self, at: u64, out: &mut Vec<Cut>) -> Result<(), VideoError> {
        let Some(place) = self.place.take() else { return Ok(()) };
        let data = std::mem::take(&mut self.open);
        if self.about.is_none() && !place.key {
            return Ok(());
        }
        if std::mem::take(&mut self.stale) || self.about.is_none() {
            self.describe(at, out)?;
        }
        let invalid = |why: String| VideoError::Invalid { at, why };
        self.pace.add(place, data, self.now, &mut self.due).map_err(invalid)?;
        self.pass(false, out)
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

    fn describe(&mut self, at: u64, out: &mut Vec<Cut>) -> Result<(), VideoError> {
        let about = match &self.codec {
            Codec::H264(codec) => codec.about(),
            Codec::H265(codec) => codec.about(),
        };
        let invalid = |why: String| VideoError::Invalid { at, why };
        let about = about.ok_or_else(|| invalid("a picture without parameter sets".to_owned()))?;
        if self.about.as_ref() == Some(&about) {
            return Ok(());
        }
        // What waits was made with what was described before.
        self.pass(true, out)?;
        self.pace.set_rate(self.said.or(about.rate));
        let narrow = |pixels: u32| u16::try_from(pixels).unwrap_or(u16::MAX);
        let description = Description {
            id: 1,
            kind: if matches!(self.codec, Codec::H264(_)) { Kind::H264 } else { Kind::H265 },
            private: about.private.clone(),
            width: narrow(about.width),
            height: narrow(about.height),
            rate: 0,
            channels: 0,
            timescale: TIMESCALE,
        };
        let (config, tracks) = configuration(&[description]).map_err(|error| invalid(error.to_string()))?;
        self.about = Some(about);
        self.live.set_config(Arc::new(config), &tracks, out)
    }
}

#[cfg(test)]
mod tests;
