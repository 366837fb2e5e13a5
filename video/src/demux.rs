//! Takes fragmented MP4 (ISO/IEC 14496-12, CMAF) apart as it comes: any cut of the bytes gives the same frames. Holds one
//! `moof` and its frames at most. Pure.

use std::sync::Arc;

use mp4_atom::{Atom, Decode, Encode, Moof, Moov, Tfhd, Trex};

use crate::VideoError;
use crate::codec::{TrackKind, kind, tracks_of};
use crate::cut::{Cut, Cutter, Sample};
use crate::fragment::Config;
use crate::limit::{CONFIG_BYTES_MAX, MDAT_BYTES_MAX, MOOF_BYTES_MAX, MOOF_FRAMES_MAX, TRACKS_MAX};
use crate::pool::Pool;
use crate::tree;

/// A sample that can't be decoded alone (ISO/IEC 14496-12, `sample_flags`).
const NON_SYNC: u32 = 0x0001_0000;

#[derive(Debug, Clone, Copy)]
struct Known {
    id: u32,
    timescale: u32,
    is_video: bool,
    duration: u32,
    size: u32,
    flags: u32,
    /// Where its next run begins, if it does not say.
    next: u64,
}

/// The buffer's memory is kept up to this many bytes: an ordinary `moof`.
const BUFFER_BYTES_KEPT: usize = 4 << 10;

/// Where a frame of a `moof` is.
#[derive(Debug, Clone, Copy)]
struct Place {
    track: u8,
    key: bool,
    dts: u64,
    duration: u32,
    offset: i32,
    at: u64,
    size: u32,
}

/// The frames of a `moof`: its `mdat`, as far as it has come, its head with it.
#[derive(Debug)]
struct Mdat {
    bytes: Vec<u8>,
    head: usize,
    size: usize,
    places: Vec<Place>,
}

/// Memory for frames is taken in steps of so much at least: who says that many come need not send them.
const MDAT_STEP_BYTES: usize = 512 << 10;

impl Mdat {
    /// Takes what is its own: how many bytes.
    fn take(&mut self, bytes: &[u8]) -> usize {
        let used = bytes.len().min(self.size - self.bytes.len());
        if self.bytes.len() + used > self.bytes.capacity() {
            let step = used.max(self.bytes.len()).max(MDAT_STEP_BYTES);
            self.bytes.reserve_exact(step.min(self.size - self.bytes.len()));
        }
        self.bytes.extend_from_slice(&bytes[..used]);
        used
    }

    fn is_whole(&self) -> bool {
        self.bytes.len() == self.size
    }
}

/// Fragments out of the bytes of fragmented MP4.
#[derive(Debug)]
pub struct Demuxer {
    cutter: Cutter,
    pool: Pool,
    /// What has come of a box that is not whole yet.
    buffer: Vec<u8>,
    /// Bytes before the buffer, or before the frames.
    at: u64,
    /// Frames that come.
    mdat: Option<Mdat>,
    /// Bytes of a box that nobody needs and that have not come yet.
    skip: u64,
    tracks: Vec<Known>,
    /// A `moof` that waits for its frames, and where it began.
    moof: Option<(Moof, u64)>,
    begun: bool,
}

impl Demuxer {
    /// What comes is one run of this cutter's.
    #[must_use]
    pub fn new(cutter: Cutter) -> Demuxer {
        Demuxer::with_pool(cutter, Pool::default())
    }

    /// As [`new`](Self::new), with memory that others use too.
    #[must_use]
    pub fn with_pool(cutter: Cutter, pool: Pool) -> Demuxer {
        let (buffer, tracks) = (Vec::new(), Vec::new());
        Demuxer { cutter, pool, buffer, at: 0, mdat: None, skip: 0, tracks, moof: None, begun: false }
    }

    /// Takes more bytes, and returns the fragments that they complete.
    ///
    /// # Errors
    /// When they are no fragmented MP4; what was complete before is kept by [`finish`](Self::finish).
    pub fn push(&mut self, mut bytes: &[u8], out: &mut Vec<Cut>) -> Result<(), VideoError> {
        while !bytes.is_empty() {
            let used = self.take(bytes, out)?;
            bytes = &bytes[used..];
        }
        Ok(())
    }

    /// Nothing more comes. Returns the last fragment, and says if something was cut off.
    ///
    /// # Errors
    /// When what came ends in the middle of a box: those frames are not in any fragment.
    pub fn finish(&mut self, out: &mut Vec<Cut>) -> Result<(), VideoError> {
        out.extend(self.cutter.flush());
        if self.buffer.is_empty() && self.skip == 0 && self.moof.is_none() && self.mdat.is_none() {
            return Ok(());
        }
        let bytes = self.buffer.len() + self.mdat.as_ref().map_or(0, |mdat| mdat.bytes.len());
        let why = format!("it ends in the middle of a box: its last {bytes} bytes are not kept");
        Err(VideoError::Invalid { at: self.at, why })
    }

    /// Bytes that are held.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.buffer.capacity() + self.mdat.as_ref().map_or(0, |mdat| mdat.bytes.capacity())
    }

    /// Uses what comes next: how many bytes, at least one.
    fn take(&mut self, bytes: &[u8], out: &mut Vec<Cut>) -> Result<usize, VideoError> {
        if self.skip > 0 {
            let skipped = (bytes.len() as u64).min(self.skip);
            self.skip -= skipped;
            self.at += skipped;
            return Ok(skipped as usize);
        }
        if let Some(mdat) = &mut self.mdat {
            let used = mdat.take(bytes);
            self.end_mdat(out)?;
            return Ok(used);
        }
        let want = self.want()?;
        let used = bytes.len().min(want - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..used]);
        if self.buffer.len() == want {
            self.step(out)?;
        }
        Ok(used)
    }

    /// So long the buffer is to become: more than it is.
    fn want(&self) -> Result<usize, VideoError> {
        let Some(head) = tree::box_head(&self.buffer, self.at)? else {
            return Ok(if self.buffer.len() < 8 { 8 } else { 16 });
        };
        // What is looked at as a whole is not longer than a moof, and nothing else gets here.
        Ok(usize::try_from(head.size).unwrap_or(MOOF_BYTES_MAX))
    }

    /// The buffer has the head of a box, or all of one.
    fn step(&mut self, out: &mut Vec<Cut>) -> Result<(), VideoError> {
        let at = self.at;
        let Some(head) = tree::box_head(&self.buffer, at)? else { return Ok(()) };
        let invalid = |why: String| VideoError::Invalid { at, why };
        if !self.begun
            && !matches!(&head.kind, b"ftyp" | b"styp" | b"moov" | b"sidx" | b"prft" | b"emsg" | b"free")
        {
            let name = tree::name(head.kind);
            return Err(invalid(format!(
                "it begins with {name:?}, not like fragmented MP4 (ftyp, moov, moof, mdat)"
            )));
        }
        self.begun = true;
        let max = match &head.kind {
            // One that is not fragmented describes all of its frames in here.
            b"moov" | b"moof" => MOOF_BYTES_MAX,
            b"mdat" if self.moof.is_some() => MDAT_BYTES_MAX,
            b"mdat" => {
                return Err(invalid(
                    "frames before what describes them: this MP4 is not fragmented; write it with \
                     -movflags frag_keyframe+empty_moov, or let `kinesin video put` read the file"
                        .to_owned(),
                ));
            }
            kind if kind.iter().all(u8::is_ascii_graphic) => {
                self.skip = head.size - head.head as u64;
                self.done();
                return Ok(());
            }
            kind => {
                return Err(invalid(format!(
                    "a box of type {kind:02x?}: something else than MP4 begins here"
                )));
            }
        };
        if head.size > max as u64 {
            let what = if &head.kind == b"mdat" { "the mdat of one moof" } else { "a moov or moof" };
            return Err(VideoError::TooLarge { what, bytes: head.size, max: max as u64 });
        }
        let size = head.size as usize;
        if &head.kind == b"mdat" {
            return self.begin_mdat(head.head, size, out);
        }
        if self.buffer.len() < size {
            return Ok(());
        }
        if &head.kind == b"moov" {
            self.on_moov(size, at, out)?;
        } else {
            self.moof = Some((decode::<Moof>(&self.buffer, at)?, at));
        }
        self.done();
        Ok(())
    }

    /// The buffer is used up.
    fn done(&mut self) {
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_BYTES_KEPT);
    }

    fn on_moov(&mut self, size: usize, at: u64, out: &mut Vec<Cut>) -> Result<(), VideoError> {
        let mut moov = decode::<Moov>(&self.buffer[..size], at)?;
        let invalid = |why: &str| VideoError::Invalid { at, why: why.to_owned() };
        if moov.trak.is_empty() {
            return Err(invalid("a moov without tracks"));
        }
        if moov.trak.len() > TRACKS_MAX {
            return Err(VideoError::TooManyTracks(moov.trak.len()));
        }
        let Some(mvex) = moov.mvex.clone() else {
            return Err(invalid(
                "this MP4 is not fragmented (its moov has no mvex); write it with -movflags \
                 frag_keyframe+empty_moov, or let `kinesin video put` read the file",
            ));
        };
        strip(&mut moov);
        let mut bytes = Vec::new();
        if moov.encode(&mut bytes).is_err() {
            // With a codec that nobody here knows: as it came.
            bytes = self.buffer[..size].to_vec();
        }
        if bytes.len() > CONFIG_BYTES_MAX {
            let (bytes, max) = (bytes.len() as u64, CONFIG_BYTES_MAX as u64);
            return Err(VideoError::TooLarge { what: "a moov without tables", bytes, max });
        }
        let tracks = tracks_of(&moov);
        let known = tracks.iter().map(|track| {
            let trex = mvex.trex.iter().find(|trex| trex.track_id == track.id).cloned();
            let trex = trex.unwrap_or(Trex { track_id: track.id, ..Trex::default() });
            Known {
                id: track.id,
                timescale: track.timescale,
                is_video: track.kind == TrackKind::Video,
                duration: trex.default_sample_duration,
                size: trex.default_sample_size,
                flags: trex.default_sample_flags,
                next: 0,
            }
        });
        self.tracks = known.collect();
        out.extend(self.cutter.set_config(Arc::new(Config::new(bytes)), &tracks));
        Ok(())
    }

    /// The frames come now; where they will be is known.
    fn begin_mdat(&mut self, head: usize, size: usize, out: &mut Vec<Cut>) -> Result<(), VideoError> {
        let Some((moof, moof_at)) = self.moof.take() else { return Ok(()) };
        let places = self.places(&moof, moof_at, self.at + head as u64)?;
        if let Some(first) = places.first() {
            // What is there need not wait for these.
            out.extend(self.cutter.make_way(first.track, first.key, first.dts, first.size as usize));
        }
        let bytes = self.pool.take(size.min(MDAT_STEP_BYTES));
        let mut mdat = Mdat { bytes, head, size, places };
        mdat.take(&self.buffer);
        self.buffer.clear();
        self.mdat = Some(mdat);
        self.end_mdat(out)
    }

    /// Takes the frames of an `mdat`, once it is whole.
    fn end_mdat(&mut self, out: &mut Vec<Cut>) -> Result<(), VideoError> {
        let Some(Mdat { bytes, head, size, places }) = self.mdat.take_if(|mdat| mdat.is_whole()) else {
            return Ok(());
        };
        let mdat = self.pool.lend(bytes);
        for place in places {
            let start = place.at.checked_sub(self.at).and_then(|start| usize::try_from(start).ok());
            let data = start.and_then(|start| mdat.get(start..start.checked_add(place.size as usize)?));
            let Some(data) = data.filter(|_| start >= Some(head)) else {
                let why = format!("a frame of {} bytes that is not in the mdat after its moof", place.size);
                return Err(VideoError::Invalid { at: place.at, why });
            };
            let Place { track, key, dts, duration, offset, .. } = place;
            out.extend(self.cutter.push_part(Sample { track, key, dts, duration, offset, data }, &mdat)?);
            out.extend(self.cutter.part());
        }
        self.cutter.settle(size);
        self.at += size as u64;
        Ok(())
    }

    /// Where the frames of a `moof` are, in the order of their decode times.
    fn places(&mut self, moof: &Moof, moof_at: u64, data_at: u64) -> Result<Vec<Place>, VideoError> {
        let mut places: Vec<Place> = Vec::new();
        let mut end = moof_at;
        let mut first = true;
        for traf in &moof.traf {
            let id = traf.tfhd.track_id;
            let track = self.tracks.iter().position(|track| track.id == id);
            let track = track.ok_or(VideoError::UnknownTrack { at: moof_at, track: id })?;
            let known = &mut self.tracks[track];
            let mut dts = traf.tfdt.as_ref().map_or(known.next, |tfdt| tfdt.base_media_decode_time);
            // Where nothing is said, the first track counts from the moof, others from the end of the one before.
            let relative = traf.tfhd.default_base_is_moof || first;
            let base = traf.tfhd.base_data_offset.unwrap_or(if relative { moof_at } else { end });
            first = false;
            let mut at =
                if traf.trun.first().is_some_and(|run| run.data_offset.is_none()) { data_at } else { base };
            for run in &traf.trun {
                if let Some(offset) = run.data_offset {
                    at = base.saturating_add_signed(i64::from(offset));
                }
                let frames = places.len() + run.samples.len();
                if frames > MOOF_FRAMES_MAX {
                    let why = format!("{frames} frames in one moof, at most {MOOF_FRAMES_MAX} are taken");
                    return Err(VideoError::Invalid { at: moof_at, why });
                }
                for entry in run.samples.iter() {
                    let place = place(&entry, known, &traf.tfhd, track as u8, dts, at);
                    dts = dts.saturating_add(u64::from(place.duration));
                    at = at.saturating_add(u64::from(place.size));
                    places.push(place);
                }
            }
            known.next = dts;
            end = at;
        }
        let scale: Vec<u128> = self.tracks.iter().map(|track| u128::from(track.timescale)).collect();
        // By decode time; the sort is stable, and pictures come before the sound that goes with them.
        places.sort_by(|a, b| {
            let (left, right) = (scale[usize::from(b.track)], scale[usize::from(a.track)]);
            (u128::from(a.dts) * left).cmp(&(u128::from(b.dts) * right)).then(a.track.cmp(&b.track))
        });
        Ok(places)
    }
}

fn place(entry: &mp4_atom::TrunEntry, known: &Known, tfhd: &Tfhd, track: u8, dts: u64, at: u64) -> Place {
    let flags = entry.flags.or(tfhd.default_sample_flags).unwrap_or(known.flags);
    Place {
        track,
        key: !known.is_video || flags & NON_SYNC == 0,
        dts,
        duration: entry.duration.or(tfhd.default_sample_duration).unwrap_or(known.duration),
        offset: entry.cts.unwrap_or(0).clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32,
        at,
        size: entry.size.or(tfhd.default_sample_size).unwrap_or(known.size),
    }
}

fn decode<T: Atom>(bytes: &[u8], at: u64) -> Result<T, VideoError> {
    tree::check(bytes, at)?;
    T::decode(&mut &bytes[..]).map_err(|error| VideoError::Invalid { at, why: error.to_string() })
}

/// What says how frames are decoded stays; tables, lengths, dates and comments go, so that the same camera has the same
/// configuration whenever it connects. Pictures come first.
pub(crate) fn strip(moov: &mut Moov) {
    moov.trak.sort_by_key(|trak| kind(trak.mdia.hdlr.handler) != TrackKind::Video);
    moov.meta = None;
    moov.udta = None;
    moov.ainf = None;
    (moov.mvhd.creation_time, moov.mvhd.modification_time, moov.mvhd.duration) = (0, 0, 0);
    if let Some(mvex) = &mut moov.mvex {
        mvex.mehd = None;
    }
    for trak in &mut moov.trak {
        (trak.tkhd.creation_time, trak.tkhd.modification_time, trak.tkhd.duration) = (0, 0, 0);
        let mdhd = &mut trak.mdia.mdhd;
        (mdhd.creation_time, mdhd.modification_time, mdhd.duration) = (0, 0, 0);
        trak.meta = None;
        trak.udta = None;
        trak.senc = None;
        trak.tref = None;
        let stsd = std::mem::take(&mut trak.mdia.minf.stbl.stsd);
        trak.mdia.minf.stbl =
            mp4_atom::Stbl { stsd, stco: Some(mp4_atom::Stco::default()), ..Default::default() };
    }
}
