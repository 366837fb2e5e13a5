//! Takes fragmented MP4 (ISO/IEC 14496-12, CMAF) apart as it comes: any cut of the bytes gives the same frames. Holds one
//! `moof` and its frames at most. Pure.

use std::sync::Arc;

use mp4_atom::{Atom, Decode, Encode, Moof, Moov, Tfhd, Trex};

use crate::VideoError;
use crate::codec::{TrackKind, kind, tracks_of};
use crate::cut::{Cut, Cutter, Sample};
use crate::fragment::Config;
use crate::limit::{CONFIG_BYTES_MAX, MDAT_BYTES_MAX, MOOF_BYTES_MAX, MOOF_FRAMES_MAX, TRACKS_MAX};
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

/// Fragments out of the bytes of fragmented MP4.
#[derive(Debug)]
pub struct Demuxer {
    cutter: Cutter,
    /// What has come and was not used yet.
    buffer: Vec<u8>,
    /// Bytes before the buffer.
    at: u64,
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
        Demuxer { cutter, buffer: Vec::new(), at: 0, skip: 0, tracks: Vec::new(), moof: None, begun: false }
    }

    /// Takes more bytes, and returns the fragments that they complete.
    ///
    /// # Errors
    /// When they are no fragmented MP4; what was complete before is kept by [`finish`](Self::finish).
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<Cut>) -> Result<(), VideoError> {
        self.buffer.extend_from_slice(bytes);
        let mut used = 0usize;
        let result = loop {
            match self.step(used, out) {
                Ok(0) => break Ok(()),
                Ok(more) => used += more,
                Err(error) => break Err(error),
            }
        };
        self.buffer.drain(..used);
        self.at += used as u64;
        result
    }

    /// Nothing more comes. Returns the last fragment, and says if something was cut off.
    ///
    /// # Errors
    /// When what came ends in the middle of a box: those frames are not in any fragment.
    pub fn finish(&mut self, out: &mut Vec<Cut>) -> Result<(), VideoError> {
        out.extend(self.cutter.flush());
        if self.buffer.is_empty() && self.skip == 0 && self.moof.is_none() {
            return Ok(());
        }
        let bytes = self.buffer.len();
        let why = format!("it ends in the middle of a box: its last {bytes} bytes are not kept");
        Err(VideoError::Invalid { at: self.at, why })
    }

    /// Bytes that are held.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    /// Uses what stands at `from` in the buffer: how many bytes; 0 where more must come.
    fn step(&mut self, from: usize, out: &mut Vec<Cut>) -> Result<usize, VideoError> {
        let at = self.at + from as u64;
        let rest = &self.buffer[from..];
        if self.skip > 0 {
            let skipped = (rest.len() as u64).min(self.skip);
            self.skip -= skipped;
            return Ok(skipped as usize);
        }
        let Some(head) = tree::box_head(rest, at)? else { return Ok(0) };
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
                return Ok(head.head);
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
        if rest.len() < size {
            return Ok(0);
        }
        match &head.kind {
            b"moov" => self.on_moov(from, size, at, out)?,
            b"moof" => {
                let bytes = &self.buffer[from..from + size];
                self.moof = Some((decode::<Moof>(bytes, at)?, at));
            }
            _ => self.on_mdat(from, head.head, size, out)?,
        }
        Ok(size)
    }

    fn on_moov(&mut self, from: usize, size: usize, at: u64, out: &mut Vec<Cut>) -> Result<(), VideoError> {
        let mut moov = decode::<Moov>(&self.buffer[from..from + size], at)?;
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
            bytes = self.buffer[from..from + size].to_vec();
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

    fn on_mdat(
        &mut self,
        from: usize,
        head: usize,
        size: usize,
        out: &mut Vec<Cut>,
    ) -> Result<(), VideoError> {
        let Some((moof, moof_at)) = self.moof.take() else { return Ok(()) };
        let mdat_at = self.at + from as u64;
        let places = self.places(&moof, moof_at, mdat_at + head as u64)?;
        let mdat = &self.buffer[from..from + size];
        for place in places {
            let start = place.at.checked_sub(mdat_at).and_then(|start| usize::try_from(start).ok());
            let data = start.and_then(|start| mdat.get(start..start.checked_add(place.size as usize)?));
            let Some(data) = data.filter(|_| start >= Some(head)) else {
                let why = format!("a frame of {} bytes that is not in the mdat after its moof", place.size);
                return Err(VideoError::Invalid { at: place.at, why });
            };
            let Place { track, key, dts, duration, offset, .. } = place;
            out.extend(self.cutter.push(Sample { track, key, dts, duration, offset, data })?);
            out.extend(self.cutter.part());
        }
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
