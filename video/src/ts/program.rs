//! One program of a transport stream: its streams' packets in, frames of all of them in the order in which they came out, as
//! fragments. It begins once every stream has said what it is made with, or some has not for too long. Pure. Never: packets
//! of the transport stream.

use std::collections::VecDeque;
use std::sync::Arc;

use super::adts::{Adts, SAMPLES, Sound};
use crate::VideoError;
use crate::annexb::{Found, Picture, Pictures, Splitter, TIMESCALE};
use crate::cut::{Cut, Cutter};
use crate::describe::{Description, Kind, configuration};
use crate::limit::{FRAGMENT_BYTES_MAX, TRACKS_MAX};
use crate::live::{Live, Shown};

/// Times are so many bits (ISO/IEC 13818-1, 2.4.3.7): they begin again after 26.5 hours.
const TIME_BITS: u32 = 33;
/// Streams that have not said what they are made with are waited for so long.
const JOIN_TICKS: i64 = 3 * TIMESCALE as i64;
/// Frames that wait for a stream that has not said what it is made with; half of a fragment's bytes are as many.
const JOIN_FRAMES_MAX: usize = 1024;
/// Times of packets whose frames have not come to an end: the oldest is forgotten for one more.
const MARKS_MAX: usize = 64;

/// What a stream is made of.
#[derive(Debug)]
enum Units {
    Pictures(Box<(Splitter, Pictures)>),
    Sound(Adts),
}

#[derive(Debug)]
struct Stream {
    pid: u16,
    kind: Kind,
    units: Units,
    /// Bytes of it that came.
    bytes: u64,
    /// From which byte on a frame that begins is shown when.
    marks: VecDeque<(u64, i64)>,
    /// Of the frame before: when it was shown, and how long after the one before it.
    last: Option<(i64, i64)>,
    description: Option<Description>,
}

/// A frame as it came: of which stream, and when it is shown in its track's timescale.
#[derive(Debug)]
struct Came {
    stream: usize,
    key: bool,
    pts: i64,
    duration: Option<u32>,
    data: Vec<u8>,
}

#[derive(Debug)]
enum State {
    Joining { held: Vec<Came>, bytes: usize },
    Going,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Program {
    streams: Vec<Stream>,
    /// By stream: its track.
    tracks: Vec<Option<u8>>,
    live: Live,
    state: State,
    /// The newest time, of whichever stream.
    newest: Option<i64>,
    /// Another configuration from the next frame on.
    stale: bool,
}

impl Program {
    pub(super) fn new(cutter: Cutter) -> Program {
        Program {
            streams: Vec::new(),
            tracks: Vec::new(),
            live: Live::of(cutter),
            state: State::Joining { held: Vec::new(), bytes: 0 },
            newest: None,
            stale: true,
        }
    }

    /// A stream that the program has. Returns its place; `None` where it is one too many, or was of another kind before.
    pub(super) fn handle_stream(&mut self, pid: u16, kind: Kind) -> Option<usize> {
        if let Some(known) = self.streams.iter().position(|stream| stream.pid == pid) {
            return Some(known).filter(|known| self.streams[*known].kind == kind);
        }
        let has_pictures = self.streams.iter().any(|stream| matches!(stream.units, Units::Pictures(_)));
        if self.streams.len() >= TRACKS_MAX || kind.is_video() && has_pictures {
            return None;
        }
        let units = if kind.is_video() {
            Units::Pictures(Box::new((Splitter::default(), Pictures::new(kind))))
        } else {
            Units::Sound(Adts::default())
        };
        let marks = VecDeque::new();
        self.streams.push(Stream { pid, kind, units, bytes: 0, marks, last: None, description: None });
        self.tracks.push(None);
        Some(self.streams.len() - 1)
    }

    /// Whether there is any stream that is taken.
    pub(super) fn has_streams(&self) -> bool {
        !self.streams.is_empty()
    }

    /// A packet of a stream begins, shown then.
    pub(super) fn handle_begin(&mut self, stream: usize, pts: Option<u64>) {
        let Some(pts) = pts else { return };
        let pts = self.unwrapped(pts);
        let stream = &mut self.streams[stream];
        if stream.marks.len() >= MARKS_MAX {
            stream.marks.pop_front();
        }
        stream.marks.push_back((stream.bytes, pts));
    }

    /// More of a stream's packet.
    ///
    /// # Errors
    /// When it is not what the stream says that it is, or too large.
    pub(super) fn handle_bytes(
        &mut self,
        place: usize,
        bytes: &[u8],
        out: &mut Vec<Cut>,
    ) -> Result<(), VideoError> {
        let stream = &mut self.streams[place];
        stream.bytes += bytes.len() as u64;
        match &mut stream.units {
            Units::Pictures(units) => {
                let (splitter, pictures) = &mut **units;
                let mut found = Vec::new();
                let taken = splitter.push(bytes, |unit, at| pictures.unit(unit, at, &mut found));
                self.pictures(place, found, out).and(taken)
            }
            Units::Sound(adts) => {
                let mut sounds = Vec::new();
                let taken = adts.push(bytes, &mut sounds);
                let at = stream.bytes;
                self.sounds(place, sounds, out)?;
                taken.map_err(|why| VideoError::Invalid { at, why })
            }
        }
    }

    /// Something of a stream is missing here.
    ///
    /// # Errors
    /// When what came before can't be kept.
    pub(super) fn handle_lost(&mut self, place: usize, out: &mut Vec<Cut>) -> Result<(), VideoError> {
        let stream = &mut self.streams[place];
        match &mut stream.units {
            Units::Pictures(units) => {
                units.0.lost();
                units.1.lost();
            }
            Units::Sound(adts) => adts.lost(),
        }
        stream.marks.clear();
        stream.last = None;
        match self.state {
            State::Going => self.live.lost(out),
            State::Joining { .. } => Ok(()),
        }
    }

    /// Nothing more comes.
    ///
    /// # Errors
    /// When the last frames can't be kept.
    pub(super) fn finish(&mut self, out: &mut Vec<Cut>) -> Result<(), VideoError> {
        let mut done = Ok(());
        for place in 0..self.streams.len() {
            let Units::Pictures(units) = &mut self.streams[place].units else { continue };
            let (splitter, pictures) = &mut **units;
            let mut found = Vec::new();
            let last = splitter.finish().map_or(Ok(()), |(unit, at)| pictures.unit(&unit, at, &mut found));
            let ended = last.and_then(|()| pictures.end(u64::MAX, &mut found));
            done = done.and(self.pictures(place, found, out)).and(ended);
        }
        if matches!(self.state, State::Joining { .. }) {
            done = done.and(self.go(out));
        }
        done.and(self.live.finish(out)).and(self.unsaid())
    }

    /// Whether there are streams that came and that nothing could be made of.
    fn unsaid(&self) -> Result<(), VideoError> {
        let unsaid = |stream: &&Stream| stream.bytes > 0 && stream.description.is_none();
        let Some(Stream { pid, kind, bytes, .. }) = self.streams.iter().find(unsaid) else { return Ok(()) };
        let why = format!(
            "stream {pid:#x} ({}) had {bytes} bytes, and nothing in them says what it is made with",
            kind.text()
        );
        Err(VideoError::Invalid { at: 0, why })
    }

    /// Bytes that are held.
    pub(super) fn held_bytes(&self) -> usize {
        let waiting = if let State::Joining { bytes, .. } = &self.state { *bytes } else { 0 };
        let of = |stream: &Stream| match &stream.units {
            Units::Pictures(units) => units.0.held_bytes() + units.1.held_bytes(),
            Units::Sound(adts) => adts.held_bytes(),
        };
        self.live.held_bytes() + waiting + self.streams.iter().map(of).sum::<usize>()
    }

    /// A time as a number that goes on: the nearest to the newest one.
    fn unwrapped(&mut self, pts: u64) -> i64 {
        let pts = (pts & ((1 << TIME_BITS) - 1)) as i64;
        let newest = self.newest.unwrap_or(pts);
        let apart = pts.wrapping_sub(newest) << (64 - TIME_BITS) >> (64 - TIME_BITS);
        let pts = newest.saturating_add(apart);
        self.newest = Some(pts);
        pts
    }

    fn pictures(&mut self, place: usize, found: Vec<Found>, out: &mut Vec<Cut>) -> Result<(), VideoError> {
        for found in found {
            match found {
                Found::About(about, _) => self.describe(place, about.description(place as u32 + 1), out)?,
                Found::Picture(Picture { place: shown, data, began, .. }) => {
                    let pts = self.streams[place].pts_of(began, None);
                    let came = Came { stream: place, key: shown.key, pts, duration: None, data };
                    self.frame(came, out)?;
                }
            }
        }
        Ok(())
    }

    fn sounds(&mut self, place: usize, sounds: Vec<Sound>, out: &mut Vec<Cut>) -> Result<(), VideoError> {
        for Sound { about, began, data } in sounds {
            self.describe(place, about.description(place as u32 + 1), out)?;
            let pts = self.streams[place].pts_of(began, Some(about.rate));
            let came = Came { stream: place, key: true, pts, duration: Some(SAMPLES), data };
            self.frame(came, out)?;
        }
        Ok(())
    }

    fn describe(&mut self, place: usize, said: Description, out: &mut Vec<Cut>) -> Result<(), VideoError> {
        if self.streams[place].description.as_ref() == Some(&said) {
            return Ok(());
        }
        // What waits was made with what was said before.
        if self.streams[place].description.is_some() && matches!(self.state, State::Joining { .. }) {
            self.go(out)?;
        }
        self.streams[place].description = Some(said);
        self.stale = true;
        Ok(())
    }

    fn frame(&mut self, came: Came, out: &mut Vec<Cut>) -> Result<(), VideoError> {
        let State::Joining { held, bytes } = &mut self.state else { return self.pass(&came, out) };
        *bytes += came.data.len();
        held.push(came);
        if self.may_go() { self.go(out) } else { Ok(()) }
    }

    fn may_go(&self) -> bool {
        let State::Joining { held, bytes } = &self.state else { return false };
        if self.streams.iter().all(|stream| stream.description.is_some()) {
            return true;
        }
        let first = held.first();
        let waited = first.map_or(0, |first| {
            let of_it = held.iter().filter(|came| came.stream == first.stream);
            of_it.map(|came| came.pts.saturating_sub(first.pts)).max().unwrap_or(0)
        });
        let timescale = first.and_then(|first| self.streams[first.stream].description.as_ref());
        let ticks = i128::from(timescale.map_or(TIMESCALE, |said| said.timescale.max(1)));
        let waited = i128::from(waited) * i128::from(TIMESCALE) / ticks;
        held.len() >= JOIN_FRAMES_MAX || *bytes >= FRAGMENT_BYTES_MAX / 2 || waited >= i128::from(JOIN_TICKS)
    }

    fn go(&mut self, out: &mut Vec<Cut>) -> Result<(), VideoError> {
        let State::Joining { held, .. } = std::mem::replace(&mut self.state, State::Going) else {
            return Ok(());
        };
        held.iter().try_for_each(|came| self.pass(came, out))
    }

    fn pass(&mut self, came: &Came, out: &mut Vec<Cut>) -> Result<(), VideoError> {
        if std::mem::take(&mut self.stale) {
            self.configure(out)?;
        }
        let Some(track) = self.tracks[came.stream] else { return Ok(()) };
        let Came { key, pts, duration, ref data, .. } = *came;
        self.live.push(&Shown { track, key, pts, duration, data }, out)
    }

    /// Tracks are the streams that are described, pictures first.
    fn configure(&mut self, out: &mut Vec<Cut>) -> Result<(), VideoError> {
        let mut order: Vec<usize> =
            (0..self.streams.len()).filter(|place| self.streams[*place].description.is_some()).collect();
        order.sort_by_key(|place| matches!(self.streams[*place].units, Units::Sound(_)));
        self.tracks.fill(None);
        for (track, place) in order.iter().enumerate() {
            self.tracks[*place] = Some(track as u8);
        }
        let described: Vec<Description> =
            order.iter().filter_map(|place| self.streams[*place].description.clone()).collect();
        let (config, tracks) = configuration(&described)
            .map_err(|error| VideoError::Invalid { at: 0, why: error.to_string() })?;
        self.live.set_config(Arc::new(config), &tracks, out)
    }
}

impl Stream {
    /// When a frame that begins there is shown: as its packet says, or as long after the one before as that was after its own.
    fn pts_of(&mut self, began: u64, rate: Option<u32>) -> i64 {
        let mut said = None;
        while let Some(&(_, pts)) = self.marks.front().filter(|(from, _)| *from <= began) {
            said = Some(pts);
            self.marks.pop_front();
        }
        // A frame of sound lasts as long as its samples, and packets' times are rounded.
        let scale = rate.map_or(TIMESCALE, |rate| rate);
        let said = said.map(|pts| (i128::from(pts) * i128::from(scale) / i128::from(TIMESCALE)) as i64);
        let step = self.last.map_or(i64::from(scale / 25), |(_, step)| step);
        let next =
            self.last.map(|(before, step)| before + if rate.is_some() { i64::from(SAMPLES) } else { step });
        let pts = match (said, next) {
            (Some(said), Some(next)) if rate.is_some() && (said - next).abs() <= i64::from(scale / 1000) => {
                next
            }
            (Some(said), _) => said,
            (None, Some(next)) => next,
            (None, None) => 0,
        };
        let step = self.last.map_or(step, |(before, _)| (pts - before).abs());
        self.last = Some((pts, step));
        pts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::annexb::tests::cutter;
    use crate::ts::tests::sound;

    /// Reaches `JOIN_FRAMES_MAX`.
    #[test]
    fn so_many_frames_wait_for_a_stream_that_never_comes() {
        let (mut program, mut cuts) = (Program::new(cutter()), Vec::new());
        let place = program.handle_stream(0x101, Kind::Aac).unwrap();
        program.handle_stream(0x100, Kind::H264).unwrap();
        // All at the same time, so that it is not how long they wait that counts.
        let mut push = |program: &mut Program, n: usize| {
            program.handle_begin(place, Some(0));
            program.handle_bytes(place, &sound(n), &mut cuts).unwrap();
            matches!(program.state, State::Joining { .. })
        };
        assert!((1..JOIN_FRAMES_MAX).all(|n| push(&mut program, n)));
        assert!(!push(&mut program, 0));
        program.finish(&mut cuts).unwrap();
        assert_eq!(cuts.iter().map(|cut| cut.fragment.frames.len()).sum::<usize>(), JOIN_FRAMES_MAX);
    }

    /// Reaches `MARKS_MAX`.
    #[test]
    fn so_many_times_are_remembered_whose_frames_have_not_come() {
        let mut program = Program::new(cutter());
        let sound = program.handle_stream(0x101, Kind::Aac).unwrap();
        let marks = |program: &Program| program.streams[sound].marks.iter().map(|(_, pts)| *pts).collect();
        for pts in 0..MARKS_MAX as u64 {
            program.handle_begin(sound, Some(pts));
        }
        let all: Vec<i64> = marks(&program);
        assert_eq!(all, (0..MARKS_MAX as i64).collect::<Vec<_>>());
        program.handle_begin(sound, Some(MARKS_MAX as u64));
        let left: Vec<i64> = marks(&program);
        assert_eq!(left, (1..=MARKS_MAX as i64).collect::<Vec<_>>());
    }
}
