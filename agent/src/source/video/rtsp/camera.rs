//! One connection to a camera, as a machine: frames and sender reports in, fragments out. It knows when which tracks are
//! described, where to begin (at a key frame), and whose clock the times are: the camera's, if a sender report (RFC 3550,
//! 6.4.1) says within the first seconds what its time is, else this machine's, of when the first frame came. Pure. Never:
//! packets, sockets, what reads RTSP.

use std::sync::Arc;

use protocol::time::UnixMs;
use video::VideoError;
use video::cut::Cut;
use video::describe::{Description, configuration};
use video::fragment::Clock;
use video::limit::FRAGMENT_BYTES_MAX;
use video::live::{Live, Shown};

pub(super) mod any;

/// A sender report comes within 3.1 s of the first packet (RFC 3550, 6.2 and 6.3.1: half of 5 s, by up to 1.5, divided by
/// 1.218): so much of what a camera sends waits for it.
const REPORT_WITHIN_MS: i64 = 3_500;

/// Frames that wait for a sender report; what comes meanwhile is bounded in bytes as a fragment is.
const WAITING_MAX: usize = 1024;

/// A camera whose clock moved by more against its frames was set; less is the drift of its crystal.
const CLOCK_SET_MS: i64 = 1_000;

/// A camera's clock that says an earlier time (2020-01-01) was never set: it is no clock.
const CLOCK_MIN_MS: i64 = 1_577_836_800_000;

/// Seconds from 1900 to 1970 (RFC 5905).
const NTP_TO_UNIX_S: i64 = 2_208_988_800;

/// Unix milliseconds of an NTP timestamp. Its seconds began again in 2036: those before 1968 are later ones (RFC 4330, 3).
pub(super) fn ntp_ms(ntp: u64) -> i64 {
    let (seconds, fraction) = ((ntp >> 32) as i64, ntp & 0xffff_ffff);
    let seconds = if seconds < 1 << 31 { seconds + (1 << 32) } else { seconds };
    (seconds - NTP_TO_UNIX_S) * 1000 + ((fraction * 1000) >> 32) as i64
}

/// One frame as it came.
#[derive(Debug, Clone)]
pub(super) struct Came {
    /// Place of its track.
    pub(super) track: usize,
    /// Decodable alone.
    pub(super) key: bool,
    /// In its track's timescale.
    pub(super) pts: i64,
    /// In its track's timescale, where that is known.
    pub(super) duration: Option<u32>,
    /// Packets that were lost before it.
    pub(super) lost: u16,
    pub(super) data: Vec<u8>,
}

/// What a camera says that its time is.
#[derive(Debug, Clone, Copy)]
struct Report {
    /// What has to be added to the track's times, in milliseconds, to have the camera's since 1970.
    shift_ms: i64,
}

#[derive(Debug, Default)]
struct Track {
    description: Option<Description>,
    report: Option<Report>,
    /// Added to its times so that it is where its own clock says, not where the first packet came.
    offset: i64,
    /// Something of it came.
    begun: bool,
}

impl Track {
    fn timescale(&self) -> i64 {
        self.description.as_ref().map_or(1000, |description| i64::from(description.timescale.max(1)))
    }

    fn ms(&self, ticks: i64) -> i64 {
        (i128::from(ticks) * 1000 / i128::from(self.timescale())) as i64
    }
}

#[derive(Debug)]
enum State {
    /// Nothing that can be shown came yet.
    Joining,
    /// For a sender report.
    Waiting {
        held: Vec<Came>,
        bytes: usize,
        since: UnixMs,
    },
    Going {
        live: Box<Live>,
        clock: Clock,
        shift_ms: i64,
        set_ms: Option<i64>,
    },
}

/// See the module.
#[derive(Debug)]
pub(super) struct Camera {
    run: u64,
    tracks: Vec<Track>,
    state: State,
    /// The configuration is to be made anew before the next frame.
    stale: bool,
    told: Vec<String>,
}

impl Camera {
    /// A connection with so many tracks; pictures are track 0, if there are any.
    pub(super) fn new(run: u64, tracks: usize) -> Camera {
        let tracks = std::iter::repeat_with(Track::default).take(tracks).collect();
        Camera { run, tracks, state: State::Joining, stale: true, told: Vec::new() }
    }

    /// What a track's frames are made with from now on.
    ///
    /// # Errors
    /// When frames that waited can't be kept.
    pub(super) fn handle_description(
        &mut self,
        track: usize,
        description: Description,
        out: &mut Vec<Cut>,
    ) -> Result<(), VideoError> {
        let same = |known: &Track| known.description.as_ref() == Some(&description);
        if self.tracks.get(track).is_none_or(same) {
            return Ok(());
        }
        if self.holds_any() {
            // What waits was made with what was described before.
            self.go(out)?;
        }
        self.tracks[track].description = Some(description);
        self.stale = true;
        Ok(())
    }

    /// Whether anything is known of what a track's frames are made with.
    pub(super) fn is_described(&self, track: usize) -> bool {
        self.tracks.get(track).is_some_and(|track| track.description.is_some())
    }

    /// A sender report: at this time of its track it was that time for the camera.
    pub(super) fn handle_report(&mut self, track: usize, ticks: i64, ntp: u64) {
        let Some(known) = self.tracks.get_mut(track).filter(|track| track.description.is_some()) else {
            return;
        };
        let ms = ntp_ms(ntp);
        if ms < CLOCK_MIN_MS {
            return;
        }
        let report = Report { shift_ms: ms.saturating_sub(known.ms(ticks)) };
        known.report = Some(report);
        if let State::Going { clock: Clock::Producer, shift_ms, set_ms, .. } = &mut self.state
            && track == 0
        {
            let moved = report.shift_ms - *shift_ms;
            *set_ms = (moved.abs() > CLOCK_SET_MS).then_some(report.shift_ms);
        }
    }

    /// A frame, in the order in which they came. `now` is this machine's time.
    ///
    /// # Errors
    /// When it can't be kept, or nothing describes it.
    pub(super) fn handle_frame(
        &mut self,
        came: Came,
        now: UnixMs,
        out: &mut Vec<Cut>,
    ) -> Result<(), VideoError> {
        // What was lost before a track began is missing nowhere.
        let begun =
            self.tracks.get_mut(came.track).is_some_and(|track| std::mem::replace(&mut track.begun, true));
        if came.lost > 0 && begun {
            self.lost(came.lost, out)?;
        }
        if matches!(self.state, State::Joining) {
            let leads = came.track == 0 && came.key;
            if !leads || self.tracks.iter().any(|track| track.description.is_none()) {
                return Ok(());
            }
            self.state = State::Waiting { held: Vec::new(), bytes: 0, since: now };
        }
        if let State::Waiting { held, bytes, .. } = &mut self.state {
            *bytes += came.data.len();
            held.push(came);
            return if self.may_go() { self.go(out) } else { Ok(()) };
        }
        self.pass(&came, out)
    }

    /// The connection ended: what waits is taken as it is.
    ///
    /// # Errors
    /// When something of it can't be kept.
    pub(super) fn finish(&mut self, out: &mut Vec<Cut>) -> Result<(), VideoError> {
        if self.holds_any() {
            self.go(out)?;
        }
        match &mut self.state {
            State::Going { live, .. } => live.finish(out),
            _ => Ok(()),
        }
    }

    /// Something that people want to know.
    pub(super) fn poll_told(&mut self) -> Option<String> {
        (!self.told.is_empty()).then(|| self.told.remove(0))
    }

    fn holds_any(&self) -> bool {
        matches!(&self.state, State::Waiting { held, .. } if !held.is_empty())
    }

    fn lost(&mut self, packets: u16, out: &mut Vec<Cut>) -> Result<(), VideoError> {
        if self.holds_any() {
            self.go(out)?;
        }
        let State::Going { live, .. } = &mut self.state else { return Ok(()) };
        self.told.push(format!("{packets} packets were lost on the way from the camera"));
        live.lost(out)
    }

    fn may_go(&self) -> bool {
        let State::Waiting { held, bytes, .. } = &self.state else { return false };
        let mut shown = held.iter().filter(|came| came.track == 0).map(|came| came.pts);
        let first = shown.next().unwrap_or(0);
        let last = shown.next_back().unwrap_or(first);
        let waited = self.tracks[0].ms(last - first);
        let full = held.len() >= WAITING_MAX || *bytes >= FRAGMENT_BYTES_MAX / 2;
        full || waited >= REPORT_WITHIN_MS || self.tracks.iter().all(|track| track.report.is_some())
    }

    /// Now it is known whose clock it is: what waits goes on.
    fn go(&mut self, out: &mut Vec<Cut>) -> Result<(), VideoError> {
        let State::Waiting { held, since, .. } = std::mem::replace(&mut self.state, State::Joining) else {
            return Ok(());
        };
        let first = held.first().map_or(0, |came| self.tracks[0].ms(came.pts));
        let arrival_ms = (since.0 as i64).saturating_sub(first);
        let (shift_ms, clock) = match self.tracks[0].report {
            Some(report) => (report.shift_ms, Clock::Producer),
            None => (arrival_ms, Clock::Arrival),
        };
        if clock == Clock::Producer {
            for track in &mut self.tracks {
                let own = track.report.map_or(0, |report| report.shift_ms - shift_ms);
                track.offset = (i128::from(own) * i128::from(track.timescale()) / 1000) as i64;
            }
        }
        self.told.push(match clock {
            Clock::Producer => {
                let ahead = shift_ms - arrival_ms;
                let how = if ahead < 0 { "behind" } else { "ahead of" };
                format!("times are of the camera's clock, {} ms {how} this machine's", ahead.abs())
            }
            Clock::Arrival => {
                "the camera does not tell its time: times are of this machine's clock".to_owned()
            }
        });
        let live = Box::new(Live::new(self.run, shift_ms, clock));
        self.state = State::Going { live, clock, shift_ms, set_ms: None };
        for came in &held {
            self.pass(came, out)?;
        }
        Ok(())
    }

    fn configure(&mut self, out: &mut Vec<Cut>) -> Result<(), VideoError> {
        let State::Going { live, .. } = &mut self.state else { return Ok(()) };
        let described: Vec<Description> =
            self.tracks.iter().filter_map(|track| track.description.clone()).collect();
        let (config, tracks) = configuration(&described)
            .map_err(|error| VideoError::Invalid { at: 0, why: error.to_string() })?;
        live.set_config(Arc::new(config), &tracks, out)
    }

    fn pass(&mut self, came: &Came, out: &mut Vec<Cut>) -> Result<(), VideoError> {
        if std::mem::take(&mut self.stale) {
            self.configure(out)?;
        }
        let offset = self.tracks.get(came.track).map_or(0, |track| track.offset);
        let State::Going { live, shift_ms, set_ms, .. } = &mut self.state else { return Ok(()) };
        if came.track == 0
            && came.key
            && let Some(set) = set_ms.take()
        {
            self.told.push(format!("the camera's clock was set by {} ms", set - *shift_ms));
            *shift_ms = set;
            live.set_shift(set, out)?;
        }
        let shown = Shown {
            track: came.track as u8,
            key: came.key,
            pts: came.pts.saturating_add(offset),
            duration: came.duration,
            data: &came.data,
        };
        live.push(&shown, out)
    }
}

#[cfg(test)]
mod tests;
