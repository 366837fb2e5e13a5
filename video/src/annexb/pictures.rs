//! Units of H.264 or H.265 as pictures: where access units begin, what they are made with. Pure. Never: times, bytes between
//! units.

use super::h264::H264;
use super::h265::H265;
use super::{Rate, TIMESCALE};
use crate::VideoError;
use crate::describe::{Description, Kind};
use crate::limit::FRAME_BYTES_MAX;

/// What a unit is for whoever puts access units together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
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
pub(crate) struct Place {
    /// Decodable alone.
    pub(crate) key: bool,
    /// The order begins anew.
    pub(super) restarts: bool,
    /// Picture order count; `None` where pictures are shown as they are decoded.
    pub(super) order: Option<i64>,
}

/// What the parameter sets say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct About {
    pub(super) kind: Kind,
    pub(super) private: Vec<u8>,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) rate: Option<Rate>,
}

/// A whole picture: lengths and units.
#[derive(Debug)]
pub(crate) struct Picture {
    pub(crate) place: Place,
    pub(crate) data: Vec<u8>,
    /// Where its access unit begins.
    pub(crate) began: u64,
    /// Where the next one does.
    pub(super) at: u64,
}

/// What units turned out to be.
#[derive(Debug)]
pub(crate) enum Found {
    /// What the pictures after it are made with; and where that was.
    About(About, u64),
    /// A whole picture that can be shown.
    Picture(Picture),
}

#[derive(Debug)]
enum Codec {
    H264(H264),
    H265(H265),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Pictures {
    codec: Codec,
    /// The picture that is open: lengths and units.
    open: Vec<u8>,
    place: Option<Place>,
    /// Where the access unit began that is open.
    began: Option<u64>,
    /// Parameter sets changed: the next picture is made with others.
    stale: bool,
    about: Option<About>,
}

impl About {
    /// As a track of this id.
    pub(crate) fn description(&self, id: u32) -> Description {
        let narrow = |pixels: u32| u16::try_from(pixels).unwrap_or(u16::MAX);
        Description {
            id,
            kind: self.kind,
            private: self.private.clone(),
            width: narrow(self.width),
            height: narrow(self.height),
            rate: 0,
            channels: 0,
            timescale: TIMESCALE,
        }
    }
}

impl Pictures {
    pub(crate) fn new(kind: Kind) -> Pictures {
        let codec =
            if kind == Kind::H265 { Codec::H265(H265::default()) } else { Codec::H264(H264::default()) };
        Pictures { codec, open: Vec::new(), place: None, began: None, stale: false, about: None }
    }

    /// Bytes that are held.
    pub(crate) fn held_bytes(&self) -> usize {
        self.open.capacity()
    }

    /// Something is missing: the picture that is open is not whole.
    pub(crate) fn lost(&mut self) {
        (self.place, self.began) = (None, None);
        self.open.clear();
    }

    /// The next unit, which begins there.
    ///
    /// # Errors
    /// When it is none, or makes a picture too large.
    pub(crate) fn unit(&mut self, unit: &[u8], at: u64, out: &mut Vec<Found>) -> Result<(), VideoError> {
        let taken = match &mut self.codec {
            Codec::H264(codec) => codec.take(unit),
            Codec::H265(codec) => codec.take(unit),
        };
        match taken.map_err(|why| VideoError::Invalid { at, why })? {
            Unit::Nothing => Ok(()),
            Unit::Begin => self.begin(at, out),
            Unit::Before => {
                self.begin(at, out)?;
                self.keep(unit)
            }
            Unit::Set { new } => {
                // The open picture was made with the sets before.
                let stale = self.stale;
                self.begin(at, out)?;
                self.stale = new || stale && self.stale;
                Ok(())
            }
            Unit::First(place) => {
                self.begin(at, out)?;
                self.place = Some(place);
                self.keep(unit)
            }
            Unit::Unknown => {
                self.begin(at, out)?;
                self.open.clear();
                Ok(())
            }
            Unit::More if self.place.is_some() => self.keep(unit),
            Unit::More => Ok(()),
        }
    }

    fn begin(&mut self, at: u64, out: &mut Vec<Found>) -> Result<(), VideoError> {
        self.end(at, out)?;
        self.began.get_or_insert(at);
        Ok(())
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
    ///
    /// # Errors
    /// When nothing says what it is made with.
    pub(crate) fn end(&mut self, at: u64, out: &mut Vec<Found>) -> Result<(), VideoError> {
        let Some(place) = self.place.take() else { return Ok(()) };
        let (data, began) = (std::mem::take(&mut self.open), self.began.take().unwrap_or(at));
        if self.about.is_none() && !place.key {
            return Ok(());
        }
        if std::mem::take(&mut self.stale) || self.about.is_none() {
            self.describe(at, out)?;
        }
        out.push(Found::Picture(Picture { place, data, began, at }));
        Ok(())
    }

    fn describe(&mut self, at: u64, out: &mut Vec<Found>) -> Result<(), VideoError> {
        let about = match &self.codec {
            Codec::H264(codec) => codec.about(),
            Codec::H265(codec) => codec.about(),
        };
        let why = || "a picture without parameter sets".to_owned();
        let about = about.ok_or_else(|| VideoError::Invalid { at, why: why() })?;
        if self.about.as_ref() != Some(&about) {
            self.about = Some(about.clone());
            out.push(Found::About(about, at));
        }
        Ok(())
    }
}
