//! The way of frames from a container without decode times to the fragments: they wait here, all tracks in the order in
//! which they came, until it is known when each is decoded and how long it lasts. Never: elements of a container.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::VideoError;
use crate::codec::Track;
use crate::cut::{Cutter, Sample};
use crate::describe::reorders;
use crate::fragment::Config;
use crate::limit::{FRAGMENT_BYTES_MAX, WAITING_MAX};
use crate::mkv::Told;
use crate::order::Order;

/// Decode times before the first presentation time are numbers too: all times are a day later here.
const BIAS_S: i64 = 86_400;
/// ... in milliseconds, for whoever sets the stream's times.
pub(crate) const BIAS_MS: i64 = BIAS_S * 1000;

/// A frame as it came.
#[derive(Debug)]
pub(crate) struct Came<'a> {
    /// Place of its track in the configuration.
    pub(crate) track: u8,
    pub(crate) key: bool,
    pub(crate) pts: i64,
    /// How long it lasts, where that was said.
    pub(crate) duration: Option<u32>,
    pub(crate) data: &'a [u8],
}

#[derive(Debug)]
struct Held {
    track: u8,
    key: bool,
    pts: i64,
    dts: Option<i64>,
    /// Until the next one of its track; known when that has its decode time.
    duration: Option<u32>,
    said: Option<u32>,
    data: Vec<u8>,
}

#[derive(Debug)]
enum Item {
    Frame(Held),
    /// Here a cluster ended that a fragment has to end with.
    End(i64),
}

#[derive(Debug)]
struct Way {
    order: Order,
    /// Units of its times in a second.
    timescale: i64,
    /// How long a frame lasts where nothing says it.
    usual: Option<u32>,
    default: Option<u32>,
}

/// Frames that wait, and the fragment that they go to.
#[derive(Debug)]
pub(crate) struct Lane {
    cutter: Cutter,
    ways: Vec<Way>,
    queue: VecDeque<Item>,
    held_bytes: usize,
}

impl Lane {
    pub(crate) fn new(cutter: Cutter) -> Lane {
        Lane { cutter, ways: Vec::new(), queue: VecDeque::new(), held_bytes: 0 }
    }

    pub(crate) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// What the frames from now on were made with. `defaults` is how long a frame of each track lasts, if it was said.
    pub(crate) fn set_config(
        &mut self,
        config: Arc<Config>,
        tracks: &[Track],
        defaults: &[Option<u32>],
        out: &mut Vec<Told>,
    ) -> Result<(), VideoError> {
        // Its timescales are part of a configuration.
        if self.cutter.has_config(&config) && self.ways.len() == tracks.len() {
            return Ok(());
        }
        self.close(out)?;
        let way = |(track, default): (&Track, &Option<u32>)| Way {
            order: Order::new(reorders(track), i64::from(track.timescale)),
            timescale: i64::from(track.timescale),
            usual: *default,
            default: *default,
        };
        self.ways = tracks.iter().zip(defaults).map(way).collect();
        out.extend(self.cutter.set_config(config, tracks).map(Told::Cut));
        Ok(())
    }

    pub(crate) fn push(&mut self, came: &Came<'_>, out: &mut Vec<Told>) -> Result<(), VideoError> {
        let Came { track, key, pts, duration: said, data } = *came;
        self.held_bytes += data.len();
        let held = Held { track, key, pts, dts: None, duration: None, said, data: data.to_vec() };
        self.queue.push_back(Item::Frame(held));
        let mut known = Vec::new();
        if let Some(way) = self.ways.get_mut(usize::from(track)) {
            way.order.add(pts, key, &mut known);
        }
        self.set_times(track, &known);
        self.go_within_bounds(out)
    }

    /// A cluster ended, and so does a fragment.
    pub(crate) fn end(&mut self, timecode: i64, out: &mut Vec<Told>) -> Result<(), VideoError> {
        self.queue.push_back(Item::End(timecode));
        self.go_within_bounds(out)
    }

    /// Passes on what is known, and everything where too much waits.
    fn go_within_bounds(&mut self, out: &mut Vec<Told>) -> Result<(), VideoError> {
        self.go(out)?;
        if self.queue.len() > WAITING_MAX || self.held_bytes > FRAGMENT_BYTES_MAX {
            self.close(out)?;
        }
        Ok(())
    }

    /// Nothing waits any longer.
    pub(crate) fn close(&mut self, out: &mut Vec<Told>) -> Result<(), VideoError> {
        for track in 0..self.ways.len() {
            let mut known = Vec::new();
            self.ways[track].order.close(&mut known);
            self.set_times(track as u8, &known);
        }
        for item in &mut self.queue {
            if let Item::Frame(held) = item {
                let way = &self.ways[usize::from(held.track)];
                let guess = held.said.or(way.usual).unwrap_or((way.timescale / 25) as u32);
                held.duration.get_or_insert(guess);
            }
        }
        self.go(out)
    }

    /// Something is missing here: nothing waits any longer, and what follows begins a fragment that says so.
    pub(crate) fn lost(&mut self, out: &mut Vec<Told>) -> Result<(), VideoError> {
        self.close(out)?;
        self.cutter.lost();
        Ok(())
    }

    /// From here on these milliseconds are added to the times of frames: the producer's clock was set.
    pub(crate) fn set_shift(&mut self, shift_ms: i64, out: &mut Vec<Told>) -> Result<(), VideoError> {
        self.close(out)?;
        self.cutter.set_shift(shift_ms.saturating_sub(BIAS_MS));
        Ok(())
    }

    /// Ends the last fragment.
    pub(crate) fn finish(&mut self, out: &mut Vec<Told>) -> Result<(), VideoError> {
        let closed = self.close(out);
        out.extend(self.cutter.flush().map(Told::Cut));
        closed
    }

    fn set_times(&mut self, track: u8, known: &[i64]) {
        let Some(way) = self.ways.get_mut(usize::from(track)).filter(|_| !known.is_empty()) else { return };
        let mut known = known.iter();
        let mut before: Option<&mut Held> = None;
        for item in &mut self.queue {
            let Item::Frame(held) = item else { continue };
            if held.track != track {
                continue;
            }
            if held.dts.is_none() {
                let Some(dts) = known.next() else { break };
                held.dts = Some(*dts);
                if let Some(before) = before {
                    let lasts = dts - before.dts.unwrap_or(*dts);
                    before.duration = Some(way.lasts(lasts));
                }
            }
            before = Some(held);
        }
    }

    /// Passes on what stands first and is known.
    fn go(&mut self, out: &mut Vec<Told>) -> Result<(), VideoError> {
        while let Some(item) = self.queue.front() {
            if let Item::Frame(held) = item {
                // Only the first track's durations matter before the next frame: gaps are told by them.
                if held.dts.is_none() || held.track == 0 && held.duration.is_none() {
                    return Ok(());
                }
            }
            match self.queue.pop_front() {
                Some(Item::Frame(held)) => self.pass(held, out)?,
                Some(Item::End(timecode)) => {
                    out.extend(self.cutter.flush().map(Told::Cut));
                    out.push(Told::Ended(timecode));
                }
                None => return Ok(()),
            }
        }
        Ok(())
    }

    fn pass(&mut self, held: Held, out: &mut Vec<Told>) -> Result<(), VideoError> {
        self.held_bytes -= held.data.len();
        let dts = held.dts.unwrap_or(held.pts);
        let way = &self.ways[usize::from(held.track)];
        let guess = held.said.or(way.usual).unwrap_or((way.timescale / 50) as u32);
        let offset = (held.pts - dts).clamp(i64::from(i32::MIN), i64::from(i32::MAX));
        let sample = Sample {
            track: held.track,
            key: held.key,
            dts: u64::try_from(dts + BIAS_S * way.timescale).unwrap_or(0),
            duration: held.duration.unwrap_or(guess),
            offset: offset as i32,
            data: &held.data,
        };
        out.extend(self.cutter.push(sample)?.map(Told::Cut));
        out.extend(self.cutter.part().map(Told::Cut));
        Ok(())
    }
}

impl Way {
    /// How long a frame lasts whose next one is so much later: that long, but not through what is missing, and not
    /// backwards.
    fn lasts(&mut self, lasts: i64) -> u32 {
        let timescale = self.timescale;
        let usual = self.usual.or(self.default);
        let longest = usual.map_or(i64::MAX, |usual| (2 * timescale).max(4 * i64::from(usual)));
        match u32::try_from(lasts) {
            Ok(time) if lasts <= longest => {
                if self.default.is_none() && time > 0 {
                    self.usual = Some(time);
                }
                time
            }
            _ => usual.unwrap_or((timescale / 25) as u32),
        }
    }
}
