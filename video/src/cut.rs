//! Cuts the frames of a producer into fragments: at key frames, where nothing better comes when a fragment is full, and
//! where times jump; and fragments into parts, where somebody wants to see them sooner. Says of each whether it goes on where
//! the one before it ended. Pure.

use std::sync::Arc;

use bytes::Bytes;
use protocol::batch::BatchError;
use protocol::frame::Header;
use protocol::time::UnixMs;

use crate::VideoError;
use crate::codec::{Track, TrackKind};
use crate::data::Data;
use crate::fragment::{Clock, Config, Follows, Fragment, Frame};
use crate::limit::{
    AUDIO_FRAGMENT_MS, FRAGMENT_BYTES_MAX, FRAGMENT_FRAMES_MAX, FRAGMENT_MS_MAX, FRAME_BYTES_MAX, GAP_MS,
};

/// A key frame sooner than this after the last cut does not cut: some cameras make nothing but key frames.
const FRAGMENT_MS_MIN: u64 = 400;

/// A frame as a container has it; times are the container's.
#[derive(Debug, Clone, Copy)]
pub struct Sample<'a> {
    /// Place of its track in the configuration.
    pub track: u8,
    /// Decodable alone.
    pub key: bool,
    /// Decode time in its track's timescale.
    pub dts: u64,
    /// How long it lasts, as the container says.
    pub duration: u32,
    /// Presentation time less decode time.
    pub offset: i32,
    /// What it is.
    pub data: &'a [u8],
}

/// A fragment and the bytes of its frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// All but the bytes.
    pub fragment: Fragment,
    /// The frames, one after the other.
    pub data: Data,
}

impl Cut {
    /// Appends it as a frame of the log: see [`Fragment::seal`].
    ///
    /// # Errors
    /// When the partition key is none.
    pub fn seal(&self, key: &str, header: Header, out: &mut Vec<u8>) -> Result<Header, BatchError> {
        let pieces: Vec<&[u8]> = self.data.pieces().iter().map(AsRef::as_ref).collect();
        self.fragment.seal_pieces(key, &pieces, header, out)
    }
}

/// One run of a producer: from where it began to send until it stops.
#[derive(Debug)]
pub struct Cutter {
    run: u64,
    place: u64,
    clock: Clock,
    /// When the first frame was made; kept until it comes.
    start: UnixMs,
    /// Added to a container's times, in milliseconds, to have the stream's; known with the first frame.
    shift_ms: Option<i64>,
    config: Option<Arc<Config>>,
    timescales: Vec<u32>,
    /// Whether the track whose key frames cut has pictures.
    has_video: bool,
    /// By track: where the next frame should begin.
    expected: Vec<Option<u64>>,
    follows: Follows,
    /// Something is missing before the next frame.
    lost: bool,
    /// After so many milliseconds what is there of a fragment is given as a part.
    part_ms: Option<u64>,
    /// The fragment that is open, with the parts of it that were given.
    open: Option<Open>,
    frames: Vec<Frame>,
    data: Data,
    /// What was copied and is not in `data` yet.
    copied: Vec<u8>,
}

/// What there is of a fragment so far.
#[derive(Debug, Clone, Copy)]
struct Open {
    began_ms: u64,
    frames: usize,
    bytes: usize,
}

fn ms_of(time: u64, timescale: u32) -> u64 {
    (u128::from(time) * 1000 / u128::from(timescale)) as u64
}

impl Cutter {
    /// A run whose first frame was made at `start`, by this clock.
    #[must_use]
    pub fn new(run: u64, start: UnixMs, clock: Clock) -> Cutter {
        Cutter {
            run,
            place: 0,
            clock,
            start,
            shift_ms: None,
            config: None,
            timescales: Vec::new(),
            has_video: false,
            expected: Vec::new(),
            follows: Follows::Run,
            lost: false,
            part_ms: None,
            open: None,
            frames: Vec::new(),
            data: Data::default(),
            copied: Vec::new(),
        }
    }

    /// Gives fragments in parts of about so many milliseconds: see [`part`](Self::part).
    #[must_use]
    pub fn in_parts(self, part_ms: Option<u64>) -> Cutter {
        Cutter { part_ms, ..self }
    }

    /// A run whose container has the producer's times, less so many milliseconds.
    #[must_use]
    pub fn shifted_by(run: u64, shift_ms: i64) -> Cutter {
        Cutter::with_shift(run, shift_ms, Clock::Producer)
    }

    /// A run whose times, plus so many milliseconds, are those of this clock.
    #[must_use]
    pub fn with_shift(run: u64, shift_ms: i64, clock: Clock) -> Cutter {
        Cutter { shift_ms: Some(shift_ms), ..Cutter::new(run, UnixMs(0), clock) }
    }

    /// From the next frame on so many milliseconds are added to the container's times: the clock was set. What that
    /// moves is told as a gap.
    pub fn set_shift(&mut self, shift_ms: i64) {
        self.shift_ms = Some(shift_ms);
    }

    /// Something is missing before the next frame, however short: it begins a fragment that says so.
    pub fn lost(&mut self) {
        self.lost = true;
    }

    /// Whether frames are made with this configuration now.
    #[must_use]
    pub fn has_config(&self, config: &Config) -> bool {
        self.config.as_deref() == Some(config)
    }

    /// What the frames from now on were made with. Another configuration than before ends a fragment.
    pub fn set_config(&mut self, config: Arc<Config>, tracks: &[Track]) -> Option<Cut> {
        if self.config.as_ref() == Some(&config) {
            return None;
        }
        let cut = self.flush();
        self.timescales = tracks.iter().map(|track| track.timescale).collect();
        self.has_video = tracks.first().is_some_and(|track| track.kind == TrackKind::Video);
        self.expected = vec![None; tracks.len()];
        self.config = Some(config);
        cut
    }

    /// The next frame, in the order of decode times. Returns the fragment that it ends.
    ///
    /// # Errors
    /// When it is too large to be kept; nothing changes then.
    pub fn push(&mut self, sample: Sample<'_>) -> Result<Option<Cut>, VideoError> {
        self.push_in(sample, None)
    }

    /// As [`push`](Self::push), but the frame lies in `whole` and stays there.
    ///
    /// # Errors
    /// As there.
    pub fn push_part(&mut self, sample: Sample<'_>, whole: &Bytes) -> Result<Option<Cut>, VideoError> {
        self.push_in(sample, Some(whole))
    }

    fn push_in(&mut self, sample: Sample<'_>, whole: Option<&Bytes>) -> Result<Option<Cut>, VideoError> {
        let Sample { track, key, data, .. } = sample;
        if data.len() > FRAME_BYTES_MAX {
            let (bytes, max) = (data.len() as u64, FRAME_BYTES_MAX as u64);
            return Err(VideoError::TooLarge { what: "a frame", bytes, max });
        }
        let place = usize::from(track);
        let Some(timescale) = self.timescales.get(place).copied() else {
            return Err(VideoError::UnknownTrack { at: 0, track: u32::from(track) });
        };
        let cut = self.make_way(track, key, sample.dts, data.len());
        let dts = self.shifted(sample.dts, timescale);
        if let Some(jump_ms) = self.jump_ms(track, dts, timescale) {
            self.follows = Follows::Gap(jump_ms);
        }
        self.lost = false;
        self.stretch(track, dts, self.expected[place]);
        let began_ms = ms_of(dts, timescale);
        let open = self.open.get_or_insert(Open { began_ms, frames: 0, bytes: 0 });
        open.frames += 1;
        open.bytes += data.len();
        self.frames.push(Frame {
            track,
            key,
            dts: self.next_of(track).unwrap_or(dts),
            duration: sample.duration,
            offset: sample.offset,
            size: data.len() as u32,
        });
        self.put(data, whole);
        self.expected[place] = Some(dts + u64::from(sample.duration));
        Ok(cut)
    }

    /// Gives the fragment that is open where the frame which comes next does not belong to it: as soon as its place is
    /// known, before its bytes are there.
    pub fn make_way(&mut self, track: u8, key: bool, dts: u64, bytes: usize) -> Option<Cut> {
        self.open?;
        let timescale = self.timescales.get(usize::from(track)).copied()?;
        let dts = self.shifted(dts, timescale);
        let ends =
            self.jump_ms(track, dts, timescale).is_some() || self.cuts((track, key), dts, timescale, bytes);
        if ends { self.flush() } else { None }
    }

    /// How far times jump to this one, where those of the first track do, or something was lost before it.
    fn jump_ms(&self, track: u8, dts: u64, timescale: u32) -> Option<i64> {
        let jump_ms = self.expected[usize::from(track)].map_or(0, |expected| {
            ((i128::from(dts) - i128::from(expected)) * 1000 / i128::from(timescale)) as i64
        });
        let lost = self.lost && self.place + self.frames.len() as u64 > 0;
        (lost || track == 0 && jump_ms.abs() > GAP_MS).then_some(jump_ms)
    }

    fn put(&mut self, data: &[u8], whole: Option<&Bytes>) {
        match whole {
            None => self.copied.extend_from_slice(data),
            Some(whole) => {
                self.gather();
                self.data.push_part(whole, data);
            }
        }
    }

    /// What was copied comes behind what was not.
    fn gather(&mut self) {
        if !self.copied.is_empty() {
            self.data.push(std::mem::take(&mut self.copied).into());
        }
    }

    /// Keeps no more of `whole_bytes`, in which frames lie, than it needs, where that is much more.
    pub fn settle(&mut self, whole_bytes: usize) {
        if self.data.len() < whole_bytes / 2 {
            self.data.detach();
        }
    }

    /// A container's time on the stream's timeline.
    fn shifted(&mut self, dts: u64, timescale: u32) -> u64 {
        let start = self.start.0 as i64;
        let shift = *self.shift_ms.get_or_insert_with(|| start - ms_of(dts, timescale) as i64);
        let shift = i128::from(shift) * i128::from(timescale) / 1000;
        u64::try_from(i128::from(dts) + shift).unwrap_or(0)
    }

    fn cuts(&self, (track, key): (u8, bool), dts: u64, timescale: u32, bytes: usize) -> bool {
        let Some(open) = &self.open else { return false };
        let lasts = ms_of(dts, timescale).saturating_sub(open.began_ms);
        let full = open.bytes + bytes > FRAGMENT_BYTES_MAX
            || open.frames >= FRAGMENT_FRAMES_MAX
            || lasts >= FRAGMENT_MS_MAX;
        let leads = track == 0 && key;
        let at_key =
            if self.has_video { leads && lasts >= FRAGMENT_MS_MIN } else { lasts >= AUDIO_FRAGMENT_MS };
        full || at_key
    }

    /// Where the next frame of a track begins in the fragment that is open.
    fn next_of(&self, track: u8) -> Option<u64> {
        let last = self.frames.iter().rev().find(|frame| frame.track == track);
        last.map(|frame| frame.dts + u64::from(frame.duration))
    }

    /// A frame lasts until the next one of its track begins, whatever its container said.
    fn stretch(&mut self, track: u8, dts: u64, expected: Option<u64>) {
        if expected.is_none_or(|expected| expected == dts) {
            return;
        }
        if let Some(last) = self.frames.iter_mut().rev().find(|frame| frame.track == track) {
            last.duration = u32::try_from(dts.saturating_sub(last.dts)).unwrap_or(u32::MAX);
        }
    }

    /// What is there of the fragment that is open, where that is long enough for a part. Where parts end, times say and
    /// not when frames came: the same frames make the same parts again.
    pub fn part(&mut self) -> Option<Cut> {
        let part_ms = self.part_ms?;
        let last = self.frames.last()?;
        if self.has_video && last.track != 0 {
            return None;
        }
        let first = self.frames.iter().find(|frame| frame.track == last.track)?;
        let timescale = self.timescales[usize::from(last.track)];
        if ms_of(last.dts + u64::from(last.duration) - first.dts, timescale) < part_ms {
            return None;
        }
        self.take(Follows::Within)
    }

    /// Ends the fragment that is open.
    pub fn flush(&mut self) -> Option<Cut> {
        let cut = self.take(Follows::Previous);
        self.open = None;
        // Also where all of it was given as parts.
        if self.follows == Follows::Within {
            self.follows = Follows::Previous;
        }
        cut
    }

    /// Gives what is there; what comes next follows it in this way.
    fn take(&mut self, next: Follows) -> Option<Cut> {
        let (config, first) = (self.config.clone()?, self.frames.first()?);
        let timescale = self.timescales[usize::from(first.track)];
        let producer_time = UnixMs(ms_of(first.dts, timescale));
        let fragment = Fragment {
            follows: self.follows,
            run: self.run,
            place: self.place,
            within: 0,
            clock: self.clock,
            producer_time,
            config,
            frames: std::mem::take(&mut self.frames),
        };
        self.follows = next;
        self.place += 1;
        // The next one will be about as long: grown from nothing it would be copied as it grows.
        let next = Vec::with_capacity(self.copied.len() + self.copied.len() / 8);
        self.gather();
        self.copied = next;
        Some(Cut { fragment, data: std::mem::take(&mut self.data) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn track(kind: TrackKind, timescale: u32) -> Track {
        Track {
            id: 1,
            kind,
            timescale,
            codec: String::new(),
            width: 0,
            height: 0,
            nal_length_bytes: None,
            parameter_sets: Vec::new(),
        }
    }

    fn cutter(tracks: &[Track]) -> Cutter {
        let mut cutter = Cutter::new(1, UnixMs(1_700_000_000_000), Clock::Producer);
        assert_eq!(cutter.set_config(Arc::new(Config::new(vec![1])), tracks), None);
        cutter
    }

    fn picture(n: u64, key: bool) -> Sample<'static> {
        Sample { track: 0, key, dts: n * 3000, duration: 3000, offset: 0, data: b"picture" }
    }

    #[test]
    fn fragments_begin_at_key_frames_and_go_on_where_the_last_one_ended() {
        let mut cutter = cutter(&[track(TrackKind::Video, 90_000), track(TrackKind::Audio, 48_000)]);
        let mut cuts = Vec::new();
        for n in 0..90 {
            cuts.extend(cutter.push(picture(n, n % 30 == 0)).unwrap());
            let sound = Sample { track: 1, dts: n * 1600, duration: 1600, ..picture(n, true) };
            cuts.extend(cutter.push(sound).unwrap());
        }
        cuts.extend(cutter.flush());
        let seen: Vec<_> =
            cuts.iter().map(|cut| (cut.fragment.frames.len(), cut.fragment.starts_with_key())).collect();
        assert_eq!(seen, [(60, true); 3]);
        let follows: Vec<_> = cuts.iter().map(|cut| cut.fragment.follows).collect();
        assert_eq!(follows, [Follows::Run, Follows::Previous, Follows::Previous]);
        let times: Vec<_> = cuts.iter().map(|cut| cut.fragment.producer_time.0 - 1_700_000_000_000).collect();
        assert_eq!(times, [0, 1000, 2000]);
        assert_eq!(cuts[1].data.len(), 60 * 7);
    }

    #[test]
    fn what_is_missing_is_told_and_frames_last_until_the_next_one() {
        let mut cutter = cutter(&[track(TrackKind::Video, 90_000)]);
        assert_eq!(cutter.push(picture(0, true)).unwrap(), None);
        // Half a frame late: within the fragment.
        let late = Sample { dts: 4500, ..picture(1, false) };
        assert_eq!(cutter.push(late).unwrap(), None);
        let after = cutter.push(picture(100, false)).unwrap().unwrap();
        assert_eq!(after.fragment.frames[0].duration, 4500);
        let back = cutter.push(picture(10, true)).unwrap().unwrap();
        assert_eq!(back.fragment.follows, Follows::Gap(3250));
        assert_eq!(cutter.flush().unwrap().fragment.follows, Follows::Gap(-3033));
    }

    #[test]
    fn a_fragment_without_key_frames_ends_when_it_is_full() {
        let mut long = cutter(&[track(TrackKind::Video, 90_000)]);
        let cut = (0..).find_map(|n| long.push(picture(n, n == 0)).unwrap()).unwrap();
        assert_eq!(cut.fragment.frames.len(), 600);
        assert!(
            !(600..).find_map(|n| long.push(picture(n, false)).unwrap()).unwrap().fragment.starts_with_key()
        );
        let large = vec![0; FRAME_BYTES_MAX];
        let mut wide = cutter(&[track(TrackKind::Video, 90_000)]);
        assert_eq!(wide.push(Sample { data: &large, ..picture(0, true) }).unwrap(), None);
        assert!(wide.push(Sample { data: &large, ..picture(1, false) }).unwrap().is_some());
        let larger = vec![0; FRAME_BYTES_MAX + 1];
        assert_eq!(wide.push(Sample { data: &larger, ..picture(2, true) }).unwrap_err().id().0, 4001);
        let mut sound = cutter(&[track(TrackKind::Audio, 90_000)]);
        let cut = (0..).find_map(|n| sound.push(picture(n, true)).unwrap()).unwrap();
        assert_eq!(cut.fragment.frames.len(), 60);
    }

    #[test]
    fn parts_are_given_before_their_fragment_ends_and_make_the_same_fragments_together() {
        let tracks = [track(TrackKind::Video, 90_000), track(TrackKind::Audio, 48_000)];
        let cut_up = |part_ms| {
            let (mut cutter, mut cuts) = (cutter(&tracks).in_parts(part_ms), Vec::new());
            // A key frame every second, a jump, and no key frame for long.
            for n in (0..75).chain(105..800) {
                let sound = Sample { track: 1, dts: n * 1600, duration: 1600, ..picture(n, true) };
                for sample in [picture(n, n % 30 == 0 && n < 120), sound] {
                    cuts.extend(cutter.push(sample).unwrap());
                    cuts.extend(cutter.part());
                }
            }
            cuts.extend(cutter.flush());
            cuts
        };
        let whole = cut_up(None);
        for part_ms in [1, 100, 250, 900, 5000] {
            let mut together: Vec<Cut> = Vec::new();
            let parts = cut_up(Some(part_ms));
            assert_eq!(parts, cut_up(Some(part_ms)));
            assert!(parts.len() > whole.len());
            for part in parts {
                if part.fragment.follows == Follows::Within {
                    let last = together.last_mut().unwrap();
                    last.fragment.frames.extend(part.fragment.frames);
                    part.data.pieces().iter().for_each(|piece| last.data.push(piece.clone()));
                } else {
                    together.push(part);
                }
            }
            together
                .iter_mut()
                .zip(&whole)
                .for_each(|(part, whole)| part.fragment.place = whole.fragment.place);
            // How long the frame before a jump lasted can't be known before the jump.
            together[2].fragment.frames.iter_mut().for_each(|frame| frame.duration = 0);
            let mut whole = whole.clone();
            whole[2].fragment.frames.iter_mut().for_each(|frame| frame.duration = 0);
            assert_eq!(together, whole, "{part_ms}");
        }
    }

    #[test]
    fn another_configuration_begins_another_fragment() {
        let tracks = [track(TrackKind::Video, 90_000)];
        let mut cutter = cutter(&tracks);
        cutter.push(picture(0, true)).unwrap();
        assert_eq!(cutter.set_config(Arc::new(Config::new(vec![1])), &tracks), None);
        assert!(cutter.set_config(Arc::new(Config::new(vec![2])), &tracks).is_some());
        assert_eq!(cutter.push(picture(1, true)).unwrap(), None);
        assert_eq!(cutter.flush().unwrap().fragment.config.moov(), [2]);
    }
}
