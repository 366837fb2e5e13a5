//! What comes live and says only when a frame is to be shown (RTP, raw H.264 and H.265): its frames become fragments as
//! those of a container without decode times do. Pure. Never: where frames come from, clocks.

use std::sync::Arc;

use crate::VideoError;
use crate::codec::Track;
use crate::cut::{Cut, Cutter};
use crate::fragment::{Clock, Config};
use crate::lane::{BIAS_MS, Came, Lane};
use crate::mkv::{Told, cuts};

/// A frame, in the order in which it is decoded.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'a> {
    /// Place of its track in the configuration.
    pub track: u8,
    /// Decodable alone.
    pub key: bool,
    /// When it is shown, in its track's timescale, since any moment.
    pub pts: i64,
    /// How long it lasts in its track's timescale, where that was said.
    pub duration: Option<u32>,
    /// What it is.
    pub data: &'a [u8],
}

/// One run of a live producer.
#[derive(Debug)]
pub struct Live {
    lane: Lane,
}

impl Live {
    /// A run whose times, plus so many milliseconds, are those of this clock since 1970.
    #[must_use]
    pub fn new(run: u64, shift_ms: i64, clock: Clock) -> Live {
        Live { lane: Lane::new(Cutter::with_shift(run, shift_ms.saturating_sub(BIAS_MS), clock)) }
    }

    /// A run whose first frame was made when this cutter says.
    #[must_use]
    pub fn of(cutter: Cutter) -> Live {
        Live { lane: Lane::new(cutter) }
    }

    /// What the frames from now on were made with.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn set_config(
        &mut self,
        config: Arc<Config>,
        tracks: &[Track],
        out: &mut Vec<Cut>,
    ) -> Result<(), VideoError> {
        let mut told = Vec::new();
        let done = self.lane.set_config(config, tracks, &vec![None; tracks.len()], &mut told);
        give(told, out, done)
    }

    /// The next frame. Returns the fragments that it ends.
    ///
    /// # Errors
    /// When a frame is too large to be kept, or of no track.
    pub fn push(&mut self, frame: &Shown<'_>, out: &mut Vec<Cut>) -> Result<(), VideoError> {
        let Shown { track, key, pts, duration, data } = *frame;
        let mut told = Vec::new();
        let done = self.lane.push(&Came { track, key, pts, duration, data }, &mut told);
        give(told, out, done)
    }

    /// Something is missing before the next frame.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn lost(&mut self, out: &mut Vec<Cut>) -> Result<(), VideoError> {
        let mut told = Vec::new();
        let done = self.lane.lost(&mut told);
        give(told, out, done)
    }

    /// The clock was set: from the next frame on so many milliseconds are added to the times of frames.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn set_shift(&mut self, shift_ms: i64, out: &mut Vec<Cut>) -> Result<(), VideoError> {
        let mut told = Vec::new();
        let done = self.lane.set_shift(shift_ms, &mut told);
        give(told, out, done)
    }

    /// Nothing more comes. Returns the last fragment.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn finish(&mut self, out: &mut Vec<Cut>) -> Result<(), VideoError> {
        let mut told = Vec::new();
        let done = self.lane.finish(&mut told);
        give(told, out, done)
    }

    /// Bytes that are held.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.lane.held_bytes()
    }
}

fn give(told: Vec<Told>, out: &mut Vec<Cut>, done: Result<(), VideoError>) -> Result<(), VideoError> {
    out.extend(cuts(told));
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::describe::{Description, Kind, configuration};
    use crate::fragment::Follows;

    fn live(out: &mut Vec<Cut>) -> Live {
        let track = Description {
            id: 1,
            kind: Kind::Alaw,
            private: Vec::new(),
            width: 0,
            height: 0,
            rate: 8000,
            channels: 1,
            timescale: 8000,
        };
        let (config, tracks) = configuration(&[track]).unwrap();
        let mut live = Live::new(7, 1_700_000_000_000, Clock::Arrival);
        live.set_config(Arc::new(config), &tracks, out).unwrap();
        live
    }

    fn sound(n: i64) -> Shown<'static> {
        Shown { track: 0, key: true, pts: n * 160, duration: Some(160), data: b"sound" }
    }

    #[test]
    fn times_are_those_of_the_clock_and_what_is_lost_or_set_is_a_gap() {
        let mut cuts = Vec::new();
        let mut live = live(&mut cuts);
        (0..10).for_each(|n| live.push(&sound(n), &mut cuts).unwrap());
        live.lost(&mut cuts).unwrap();
        (12..20).for_each(|n| live.push(&sound(n), &mut cuts).unwrap());
        live.set_shift(1_700_000_003_000, &mut cuts).unwrap();
        (20..30).for_each(|n| live.push(&sound(n), &mut cuts).unwrap());
        live.finish(&mut cuts).unwrap();
        let seen: Vec<_> = cuts
            .iter()
            .map(|cut| (cut.fragment.producer_time.0 - 1_700_000_000_000, cut.fragment.follows))
            .collect();
        assert_eq!(seen, [(0, Follows::Run), (240, Follows::Gap(40)), (3400, Follows::Gap(3000))]);
        assert!(cuts.iter().all(|cut| cut.fragment.clock == Clock::Arrival && cut.fragment.run == 7));
        assert_eq!(live.held_bytes(), 0);
    }
}
