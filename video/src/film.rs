//! A whole film: an MP4 file whose `moov` says where its frames are (ISO/IEC 14496-12), as recorders and editors write it.
//! The `mp4` crate walks its tables; since that may loop or panic over tables that are wrong, the boxes are checked before
//! and what it reads is counted. Never: files, and MP4 that is fragmented (see [`demux`](crate::demux)).

use std::io::{Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mp4::{Mp4Reader, Mp4Sample};
use mp4_atom::{Decode, Encode, Moov, Mvex, Trak, Trex};

use crate::VideoError;
use crate::codec::{Track, TrackKind, kind, tracks_of};
use crate::cut::{Cut, Cutter, Sample};
use crate::demux::strip;
use crate::fragment::Config;
use crate::limit::{CONFIG_BYTES_MAX, FILM_MOOV_BYTES_MAX, FRAME_BYTES_MAX, TRACKS_MAX};
use crate::tree;

/// Boxes that a film begins with; anything else is something else.
const FIRST: [&[u8; 4]; 7] = [b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"uuid"];
/// Boxes beside each other in a film.
const TOP_BOXES_MAX: usize = 1000;

/// Why a film can't be read.
#[derive(Debug, thiserror::Error)]
pub enum FilmError {
    /// It is no film, or one that is not taken.
    #[error(transparent)]
    Video(#[from] VideoError),
    /// It can't be read now.
    #[error(transparent)]
    Read(#[from] std::io::Error),
}

fn invalid(at: u64, why: impl Into<String>) -> FilmError {
    FilmError::Video(VideoError::Invalid { at, why: why.into() })
}

/// Counts what is read: whoever reads without end is stopped.
#[derive(Debug)]
struct Counted<R> {
    inner: R,
    reads_left: Arc<AtomicU64>,
}

impl<R> Counted<R> {
    fn count(&self) -> std::io::Result<()> {
        let before =
            self.reads_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        before.map(drop).map_err(|_| std::io::ErrorKind::TimedOut.into())
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.count()?;
        self.inner.read(buffer)
    }
}

impl<R: Seek> Seek for Counted<R> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.count()?;
        self.inner.seek(to)
    }
}

#[derive(Debug)]
struct Known {
    id: u32,
    timescale: u32,
    is_video: bool,
    /// Number of the sample that is read next, from 1.
    next: u32,
    count: u32,
    /// Read, and not handed on.
    waiting: Option<Mp4Sample>,
}

/// See the module.
#[derive(Debug)]
pub struct Film<R> {
    reader: Mp4Reader<Counted<R>>,
    moov_at: u64,
    config: Arc<Config>,
    described: Vec<Track>,
    tracks: Vec<Known>,
    length_ms: u64,
}

/// Where the `moov` is, and how long. `None` where this is no whole film.
fn find_moov<R: Read + Seek>(source: &mut R, size: u64) -> Result<Option<(u64, u64)>, FilmError> {
    let mut at = 0;
    for place in 0..TOP_BOXES_MAX {
        if at >= size {
            return Err(invalid(
                at,
                "it has no moov, without which its frames can't be found: it was not finished",
            ));
        }
        let mut head = [0; 16];
        let length = (size - at).min(16) as usize;
        source.seek(SeekFrom::Start(at))?;
        source.read_exact(&mut head[..length])?;
        let known = head.get(4..8).is_some_and(|kind| FIRST.iter().any(|first| first[..] == *kind));
        if place == 0 && !known {
            return Ok(None);
        }
        let Some(head) = tree::box_head(&head[..length], at)? else {
            return Err(invalid(at, "a box is cut off"));
        };
        match &head.kind {
            b"moof" => return Ok(None),
            _ if head.size > size - at => {
                let name = tree::name(head.kind);
                return Err(invalid(
                    at,
                    format!("box {name} goes on after the end of the file: it was cut off"),
                ));
            }
            b"moov" => return Ok(Some((at, head.size))),
            _ => at += head.size,
        }
    }
    Err(invalid(at, "boxes without end"))
}

/// What the frames are made with, as a fragmented film has it; and the tracks that are taken, the pictures first.
fn config_of(mut moov: Moov, at: u64) -> Result<(Config, Vec<Track>, u64), FilmError> {
    moov.trak.retain(|trak| kind(trak.mdia.hdlr.handler) != TrackKind::Data);
    if moov.trak.is_empty() {
        return Err(invalid(at, "it has neither pictures nor sound"));
    }
    if moov.trak.len() > TRACKS_MAX {
        return Err(VideoError::TooManyTracks(moov.trak.len()).into());
    }
    for trak in &moov.trak {
        check_tables(trak, at)?;
    }
    let length_ms = moov.trak.iter().map(length_ms).max().unwrap_or(0);
    strip(&mut moov);
    for trak in &mut moov.trak {
        // Of a film it says how long it is; of a stream nobody knows.
        if let Some(list) = trak.edts.as_mut().and_then(|edts| edts.elst.as_mut()) {
            list.entries.iter_mut().for_each(|entry| entry.segment_duration = 0);
            if list.entries.len() != 1 {
                trak.edts = None;
            }
        }
    }
    let trex = |trak: &Trak| Trex {
        track_id: trak.tkhd.track_id,
        default_sample_description_index: 1,
        ..Trex::default()
    };
    moov.mvex = Some(Mvex { mehd: None, trex: moov.trak.iter().map(trex).collect() });
    let mut bytes = Vec::new();
    let written = moov.encode(&mut bytes);
    written.map_err(|error| invalid(at, format!("a codec that is not known here ({error})")))?;
    if bytes.len() > CONFIG_BYTES_MAX {
        let (bytes, max) = (bytes.len() as u64, CONFIG_BYTES_MAX as u64);
        return Err(VideoError::TooLarge { what: "a moov without tables", bytes, max }.into());
    }
    let tracks = tracks_of(&moov);
    Ok((Config::new(bytes), tracks, length_ms))
}

/// What the `mp4` crate divides by, takes memory for, or takes for granted.
fn check_tables(trak: &Trak, at: u64) -> Result<(), FilmError> {
    let stbl = &trak.mdia.minf.stbl;
    let id = trak.tkhd.track_id;
    if id == 0 || trak.mdia.mdhd.timescale == 0 {
        return Err(invalid(at, format!("track {id} has no id or no timescale")));
    }
    if stbl.stsc.entries.iter().any(|entry| entry.samples_per_chunk == 0 || entry.first_chunk == 0) {
        return Err(invalid(at, format!("track {id}: chunks without frames")));
    }
    let (timed, frames) = (frames_timed(trak), frames_count(trak));
    if timed < frames || timed >= u64::from(u32::MAX) {
        return Err(invalid(
            at,
            format!("track {id}: times (stts) of {timed} frames, sizes (stsz) of {frames}"),
        ));
    }
    let largest = match &stbl.stsz.samples {
        mp4_atom::StszSamples::Identical { size, .. } => *size,
        mp4_atom::StszSamples::Different { sizes } => sizes.iter().copied().max().unwrap_or(0),
    };
    if largest as usize > FRAME_BYTES_MAX {
        let (bytes, max) = (u64::from(largest), FRAME_BYTES_MAX as u64);
        return Err(VideoError::TooLarge { what: "a frame", bytes, max }.into());
    }
    Ok(())
}

fn frames_count(trak: &Trak) -> u64 {
    match &trak.mdia.minf.stbl.stsz.samples {
        mp4_atom::StszSamples::Identical { count, .. } => u64::from(*count),
        mp4_atom::StszSamples::Different { sizes } => sizes.len() as u64,
    }
}

fn frames_timed(trak: &Trak) -> u64 {
    trak.mdia.minf.stbl.stts.entries.iter().map(|entry| u64::from(entry.sample_count)).sum()
}

fn frames_bytes(trak: &Trak) -> u64 {
    match &trak.mdia.minf.stbl.stsz.samples {
        mp4_atom::StszSamples::Identical { count, size } => u64::from(*count) * u64::from((*size).max(1)),
        mp4_atom::StszSamples::Different { sizes } => sizes.iter().map(|size| u64::from(*size)).sum(),
    }
}

fn length_ms(trak: &Trak) -> u64 {
    let each = trak.mdia.minf.stbl.stts.entries.iter();
    let ticks: u128 = each.map(|entry| u128::from(entry.sample_count) * u128::from(entry.sample_delta)).sum();
    u64::try_from(ticks * 1000 / u128::from(trak.mdia.mdhd.timescale.max(1))).unwrap_or(u64::MAX)
}

/// What the `mp4` crate says, or that it panicked.
fn guarded<T>(at: u64, work: impl FnOnce() -> mp4::Result<T>) -> Result<T, FilmError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(mp4::Error::IoError(error))) => Err(match error.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                invalid(at, "frames that are not in the file: it was cut off")
            }
            std::io::ErrorKind::TimedOut => invalid(at, "its tables have no end"),
            _ => FilmError::Read(error),
        }),
        Ok(Err(error)) => Err(invalid(at, error.to_string())),
        Err(_) => Err(invalid(at, "its tables can't be followed")),
    }
}

impl<R: Read + Seek> Film<R> {
    /// Opens a film of so many bytes. `None` where it is fragmented, or something else than MP4.
    ///
    /// # Errors
    /// When it can't be read, is damaged or was not finished.
    pub fn open(mut source: R, size: u64) -> Result<Option<Film<R>>, FilmError> {
        let Some((moov_at, moov_size)) = find_moov(&mut source, size)? else { return Ok(None) };
        if moov_size > FILM_MOOV_BYTES_MAX as u64 {
            let max = FILM_MOOV_BYTES_MAX as u64;
            return Err(VideoError::TooLarge { what: "a moov", bytes: moov_size, max }.into());
        }
        let mut bytes = vec![0; moov_size as usize];
        source.seek(SeekFrom::Start(moov_at))?;
        source.read_exact(&mut bytes)?;
        tree::check(&bytes, moov_at)?;
        let moov = Moov::decode(&mut &bytes[..]).map_err(|error| invalid(moov_at, error.to_string()))?;
        if moov.mvex.is_some() {
            return Ok(None);
        }
        drop(bytes);
        // Tables may let many frames be the same bytes: a small file that is a large film.
        let bytes: u64 = moov.trak.iter().map(frames_bytes).fold(0, u64::saturating_add);
        if bytes > size {
            return Err(invalid(moov_at, format!("its frames come to {bytes} bytes, the file has {size}")));
        }
        let (config, described, length_ms) = config_of(moov, moov_at)?;
        source.seek(SeekFrom::Start(0))?;
        let reads_left = Arc::new(AtomicU64::new(moov_size + 100_000));
        let counted = Counted { inner: source, reads_left: Arc::clone(&reads_left) };
        let reader = guarded(moov_at, || Mp4Reader::read_header(counted, size))?;
        let mut tracks = Vec::new();
        for track in &described {
            let count = guarded(moov_at, || reader.sample_count(track.id))?;
            let (id, timescale, is_video) = (track.id, track.timescale, track.kind == TrackKind::Video);
            tracks.push(Known { id, timescale, is_video, next: 1, count, waiting: None });
        }
        // From here on so many reads are a matter of how many frames there are.
        let frames: u64 = tracks.iter().map(|track| u64::from(track.count)).sum();
        reads_left.store(frames.saturating_mul(100_000), Ordering::Relaxed);
        Ok(Some(Film { reader, moov_at, config: Arc::new(config), described, tracks, length_ms }))
    }

    /// How long it says that it is.
    #[must_use]
    pub fn length_ms(&self) -> u64 {
        self.length_ms
    }

    /// Hands on the next frame, in the order of decode times; fragments that it ends go to `out`. False at the end: then
    /// the last fragment is in there too.
    ///
    /// # Errors
    /// When it can't be read, or is damaged: what was whole before is in `out`, and in the cutter.
    pub fn next(&mut self, cutter: &mut Cutter, out: &mut Vec<Cut>) -> Result<bool, FilmError> {
        out.extend(cutter.set_config(Arc::clone(&self.config), &self.described));
        for track in &mut self.tracks {
            if track.waiting.is_none() && track.next <= track.count {
                let (reader, id, number) = (&mut self.reader, track.id, track.next);
                track.waiting = guarded(self.moov_at, || reader.read_sample(id, number))?;
                let missing = || invalid(self.moov_at, format!("track {id} has no frame {number}"));
                track.waiting.as_ref().ok_or_else(missing)?;
                track.next += 1;
            }
        }
        // By decode time; pictures before the sound that goes with them.
        let at = |track: &Known| {
            let sample = track.waiting.as_ref()?;
            Some(u128::from(sample.start_time) * 1_000_000_000 / u128::from(track.timescale.max(1)))
        };
        let ready = self.tracks.iter().enumerate().filter_map(|(place, track)| Some((at(track)?, place)));
        let Some((_, place)) = ready.min() else {
            out.extend(cutter.flush());
            return Ok(false);
        };
        let track = &mut self.tracks[place];
        let Some(sample) = track.waiting.take() else { return Ok(true) };
        out.extend(cutter.push(Sample {
            track: place as u8,
            key: !track.is_video || sample.is_sync,
            dts: sample.start_time,
            duration: sample.duration,
            offset: sample.rendering_offset,
            data: &sample.bytes,
        })?);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use mp4::{AvcConfig, MediaConfig, Mp4Config, Mp4Writer, TrackConfig, TrackType};
    use proptest::prelude::*;
    use protocol::time::UnixMs;

    use super::*;
    use crate::fragment::Clock;

    /// Duration, offset, whether it is a key frame, and the bytes of a frame.
    type Made = (u32, i32, bool, Vec<u8>);

    fn write(frames: &[Made]) -> Vec<u8> {
        let brand = "isom".parse().unwrap();
        let config = Mp4Config {
            major_brand: brand,
            minor_version: 0,
            compatible_brands: vec![brand],
            timescale: 1000,
        };
        let mut writer = Mp4Writer::write_start(Cursor::new(Vec::new()), &config).unwrap();
        let avc = AvcConfig {
            width: 64,
            height: 48,
            seq_param_set: vec![0x67, 0x42, 0, 0x1e, 1, 2],
            pic_param_set: vec![0x68, 1, 2],
        };
        let track = TrackConfig {
            track_type: TrackType::Video,
            timescale: 90_000,
            language: "und".to_owned(),
            media_conf: MediaConfig::AvcConfig(avc),
        };
        writer.add_track(&track).unwrap();
        let mut start_time = 0;
        for (duration, rendering_offset, is_sync, bytes) in frames {
            let (duration, rendering_offset, is_sync) = (*duration, *rendering_offset, *is_sync);
            let bytes = bytes.clone().into();
            writer
                .write_sample(1, &Mp4Sample { start_time, duration, rendering_offset, is_sync, bytes })
                .unwrap();
            start_time += u64::from(duration);
        }
        writer.write_end().unwrap();
        writer.into_writer().into_inner()
    }

    fn read(bytes: &[u8]) -> Result<Vec<Cut>, FilmError> {
        let film = Film::open(Cursor::new(bytes), bytes.len() as u64)?;
        let Some(mut film) = film else { return Err(invalid(0, "no film")) };
        let mut cutter = Cutter::new(1, UnixMs(0), Clock::Producer);
        let mut cuts = Vec::new();
        while film.next(&mut cutter, &mut cuts)? {}
        Ok(cuts)
    }

    fn frames() -> impl Strategy<Value = Vec<Made>> {
        let frame = (1u32..9000, 0i32..9000, any::<bool>(), proptest::collection::vec(any::<u8>(), 1..60));
        proptest::collection::vec(frame, 1..50)
    }

    proptest! {
        #[test]
        fn every_frame_of_a_film_comes_back_in_order(mut made in frames()) {
            made[0].2 = true;
            let cuts = read(&write(&made)).unwrap();
            let got: Vec<_> = cuts.iter().flat_map(|cut| cut.fragment.frames.iter()).collect();
            prop_assert_eq!(got.len(), made.len());
            let mut dts = 0;
            for (frame, (duration, offset, key, bytes)) in got.iter().zip(&made) {
                prop_assert_eq!((frame.dts, frame.offset, frame.key), (dts, *offset, *key));
                prop_assert_eq!(frame.size as usize, bytes.len());
                dts += u64::from(*duration);
            }
            let want: Vec<u8> = made.iter().flat_map(|(_, _, _, bytes)| bytes.clone()).collect();
            let data: Vec<u8> = cuts.iter().flat_map(|cut| cut.data.to_vec()).collect();
            prop_assert_eq!(data, want);
        }

        #[test]
        fn a_damaged_film_is_told_or_read_and_never_without_end(
            made in frames(), places in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        ) {
            let mut bytes = write(&made);
            for (place, value) in places {
                let place = place.index(bytes.len());
                bytes[place] = value;
            }
            let _ = read(&bytes);
        }
    }

    #[test]
    fn what_is_cut_off_or_no_film_is_told() {
        let made: Vec<Made> = (0..30).map(|n| (3000, 0, n % 10 == 0, vec![n as u8; 100])).collect();
        let bytes = write(&made);
        assert_eq!(read(&bytes).unwrap().len(), 2, "a key frame sooner than 400 ms does not cut");
        for end in [20, bytes.len() / 2, bytes.len() - 1] {
            let error = read(&bytes[..end]).unwrap_err().to_string();
            assert!(error.contains("cut off") || error.contains("not finished"), "{end}: {error}");
        }
        assert!(Film::open(Cursor::new(b"plain text, no film"), 19).unwrap().is_none());
        let mut zero = bytes.clone();
        let mdhd = bytes.windows(4).position(|window| window == b"mdhd").unwrap();
        zero[mdhd - 4..mdhd].fill(0);
        assert!(read(&zero).unwrap_err().to_string().contains("mdhd"), "where the crate would loop for ever");
    }

    #[test]
    fn times_of_fewer_frames_than_there_are_sizes_of_are_told_before_anything_is_read() {
        let made: Vec<Made> = (0..30).map(|n| (3000, 0, n % 10 == 0, vec![n as u8; 100])).collect();
        let mut bytes = write(&made);
        let stts = bytes.windows(4).position(|window| window == b"stts").unwrap();
        // Kind, version and flags, how many entries, and how many frames the first one is for.
        assert_eq!(bytes[stts + 12..stts + 16], [0, 0, 0, 30]);
        bytes[stts + 15] = 29;
        let told = read(&bytes).unwrap_err().to_string();
        assert!(told.contains("track 1: times (stts) of 29 frames, sizes (stsz) of 30"), "{told}");
    }

    /// Boxes that say so many bytes, and nothing in them.
    fn boxed(kind: &[u8; 4], size: u32) -> Vec<u8> {
        // Boxes say their length in big-endian order.
        [&size.swap_bytes().to_le_bytes()[..], kind].concat()
    }

    /// Reaches `FILM_MOOV_BYTES_MAX` of video/src/limit.rs.
    #[test]
    fn what_describes_a_film_is_as_long_as_it_may_be_and_no_longer() {
        let open = |size: usize| {
            let bytes = [boxed(b"ftyp", 8), boxed(b"moov", size as u32), vec![0; 8]].concat();
            Film::open(Cursor::new(bytes), 1 << 40).unwrap_err()
        };
        // It is looked for then, and is not there.
        assert!(matches!(open(FILM_MOOV_BYTES_MAX), FilmError::Read(_)));
        let refused = open(FILM_MOOV_BYTES_MAX + 1);
        assert!(matches!(refused, FilmError::Video(VideoError::TooLarge { .. })), "{refused}");
    }

    /// Reaches `TOP_BOXES_MAX`.
    #[test]
    fn boxes_without_end_are_not_all_looked_at() {
        let found = |count: usize| {
            let between = boxed(b"free", 8).repeat(count - 2);
            let bytes = [boxed(b"ftyp", 8), between, boxed(b"moov", 8)].concat();
            let size = bytes.len() as u64;
            find_moov(&mut Cursor::new(bytes), size).map_err(|error| error.to_string())
        };
        assert_eq!(found(TOP_BOXES_MAX), Ok(Some((TOP_BOXES_MAX as u64 * 8 - 8, 8))));
        assert!(found(TOP_BOXES_MAX + 1).unwrap_err().contains("boxes without end"));
    }
}
