//! When the pictures of a raw stream are shown: by their order (picture order count) and a rate, or as they come. Pure. Never:
//! bits of a stream.

use std::collections::VecDeque;

use protocol::time::UnixMs;

use super::{Place, TIMESCALE};
use crate::limit::FRAGMENT_BYTES_MAX;
use crate::live::Shown;

/// Pictures that are looked at to see in which steps their order counts (most write 2 for a picture, some 1), if none that
/// restarts it comes before; no codec reorders more than 16.
const LEARN_MAX: usize = 32;

/// A live stream that is so much slower than its rate stood still: what follows is a gap.
const BEHIND_MS: i64 = 5_000;

/// Pictures a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pictures: u64,
    seconds: u64,
}

impl Rate {
    /// So many pictures in so many seconds; `None` where that is not 0.1 to 1000 a second.
    #[must_use]
    pub fn new(pictures: u64, seconds: u64) -> Option<Rate> {
        let sane =
            seconds > 0 && pictures <= seconds.saturating_mul(1000) && pictures.saturating_mul(10) >= seconds;
        sane.then_some(Rate { pictures, seconds })
    }

    /// As people write it: 25, 12.5; 29.97 and its like are 30000/1001.
    #[must_use]
    pub fn of_fps(fps: f64) -> Option<Rate> {
        if !fps.is_finite() || !(0.1..=1000.0).contains(&fps) {
            return None;
        }
        let slowed = (fps * 1.001).round();
        if (fps - fps.round()).abs() > 0.001 && (slowed / 1.001 - fps).abs() < 0.005 {
            return Rate::new(slowed as u64 * 1000, 1001);
        }
        Rate::new((fps * 1000.0).round() as u64, 1000)
    }

    /// When the n-th picture is shown, without a sum of roundings.
    fn ticks(self, nth: i64) -> i64 {
        let ticks =
            i128::from(nth) * i128::from(self.seconds) * i128::from(TIMESCALE) / i128::from(self.pictures);
        i64::try_from(ticks).unwrap_or(i64::MAX)
    }
}

/// A picture whose time is known.
#[derive(Debug)]
pub(super) struct Due {
    key: bool,
    pts: i64,
    duration: Option<u32>,
    data: Vec<u8>,
}

impl Due {
    pub(super) fn shown(&self) -> Shown<'_> {
        Shown { track: 0, key: self.key, pts: self.pts, duration: self.duration, data: &self.data }
    }
}

#[derive(Debug)]
struct Held {
    place: Place,
    now: Option<UnixMs>,
    data: Vec<u8>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pace {
    rate: Option<Rate>,
    /// In which steps the order counts, once that is known.
    step: Option<i64>,
    held: VecDeque<Held>,
    held_bytes: usize,
    /// Which picture of the stream is the one whose order is 0.
    base: i64,
    /// The picture after the last one to be shown.
    next: i64,
    /// When the first picture came.
    first: Option<UnixMs>,
    /// Ticks that it stood still, all together.
    stood: i64,
    /// Of the last picture whose time is when it came.
    last: i64,
}

impl Pace {
    pub(super) fn set_rate(&mut self, rate: Option<Rate>) {
        if self.rate == rate {
            return;
        }
        // Times go on from here.
        match self.rate {
            Some(before) => self.stood += before.ticks(self.next),
            None => self.stood = self.last,
        }
        self.base -= self.next;
        self.next = 0;
        self.rate = rate;
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// The next picture, in the order in which it is decoded.
    pub(super) fn add(
        &mut self,
        place: Place,
        data: Vec<u8>,
        now: Option<UnixMs>,
        out: &mut Vec<Due>,
    ) -> Result<(), String> {
        if self.rate.is_none() {
            return self.add_by_arrival(place, data, now, out);
        }
        if place.restarts {
            self.close(out);
        }
        self.held_bytes += data.len();
        self.held.push_back(Held { place, now, data });
        if place.order.is_none() || self.held.len() >= LEARN_MAX || self.held_bytes > FRAGMENT_BYTES_MAX / 2 {
            self.learn();
            self.step.get_or_insert(1);
        }
        if self.step.is_some() {
            self.pass(out);
        }
        Ok(())
    }

    fn add_by_arrival(
        &mut self,
        place: Place,
        data: Vec<u8>,
        now: Option<UnixMs>,
        out: &mut Vec<Due>,
    ) -> Result<(), String> {
        const SAY: &str = "nothing in this stream says how many pictures a second it has: say it (fps)";
        let now = now.ok_or(SAY)?;
        let order = place.order.unwrap_or(self.next);
        if !place.restarts && order < self.next {
            return Err(format!("{SAY}, since they are not shown in the order in which they come"));
        }
        self.next = order;
        let first = *self.first.get_or_insert(now);
        let pts = (now.0 as i64 - first.0 as i64).saturating_mul(i64::from(TIMESCALE)) / 1000;
        self.last = pts;
        out.push(Due { key: place.key, pts, duration: None, data });
        Ok(())
    }

    /// Nothing waits any longer.
    pub(super) fn close(&mut self, out: &mut Vec<Due>) {
        self.learn();
        self.pass(out);
    }

    /// The greatest step that all of what waits is a multiple of.
    fn learn(&mut self) {
        let mut step = self.step.unwrap_or(0);
        let first = self.held.front().and_then(|held| held.place.order).unwrap_or(0);
        for order in self.held.iter().filter_map(|held| held.place.order) {
            step = gcd(step, (order - first).abs());
        }
        if step > 0 {
            self.step = Some(step);
        }
    }

    fn pass(&mut self, out: &mut Vec<Due>) {
        while let Some(Held { place, now, data }) = self.held.pop_front() {
            self.held_bytes -= data.len();
            let Some(rate) = self.rate else { continue };
            let nth = self.nth(place);
            if place.key
                && let Some(now) = now
            {
                let first = *self.first.get_or_insert(now);
                let came = now.0 as i64 - first.0 as i64;
                let behind = came - (self.stood + rate.ticks(nth)) * 1000 / i64::from(TIMESCALE);
                if behind > BEHIND_MS {
                    self.stood += behind * i64::from(TIMESCALE) / 1000;
                }
            }
            let pts = self.stood.saturating_add(rate.ticks(nth));
            let duration = u32::try_from(rate.ticks(nth + 1) - rate.ticks(nth)).ok();
            self.next = self.next.max(nth + 1);
            out.push(Due { key: place.key, pts, duration, data });
        }
    }

    /// Which picture of the stream it is, in the order in which they are shown.
    fn nth(&mut self, place: Place) -> i64 {
        let Some(order) = place.order else { return self.next };
        if let Some(step) = self.step
            && order % step != 0
        {
            // Finer than it seemed.
            self.step = Some(gcd(step, order.abs()));
        }
        let step = self.step.unwrap_or(1);
        if place.restarts {
            self.base = self.next - order / step;
        }
        self.base.saturating_add(order / step)
    }
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(orders: &[(i64, bool)], rate: Option<Rate>) -> Result<Vec<i64>, String> {
        let (mut pace, mut out) = (Pace::default(), Vec::new());
        pace.set_rate(rate);
        for (n, (order, restarts)) in orders.iter().enumerate() {
            let place = Place { key: *restarts, restarts: *restarts, order: Some(*order) };
            pace.add(place, vec![1], Some(UnixMs(1000 + n as u64 * 40)), &mut out)?;
        }
        pace.close(&mut out);
        Ok(out.iter().map(|due| due.pts).collect())
    }

    #[test]
    fn pictures_are_shown_where_their_order_says_whatever_its_steps() {
        let rate = Rate::new(25, 1);
        let want = vec![0, 14_400, 7200, 3600, 10_800, 18_000, 21_600];
        for step in [1, 2] {
            let orders = [0, 4, 2, 1, 3].map(|n| (n * step, n == 0));
            let orders = [&orders[..], &[(0, true), (step, false)]].concat();
            assert_eq!(times(&orders, rate).unwrap(), want);
        }
    }

    /// Reaches `LEARN_MAX`.
    #[test]
    fn no_more_pictures_wait_for_the_steps_of_their_order_than_may() {
        let (mut pace, mut out) = (Pace::default(), Vec::new());
        pace.set_rate(Rate::new(25, 1));
        for n in 1..=LEARN_MAX {
            assert_eq!((pace.held.len(), out.len()), (n - 1, 0));
            let place = Place { key: n == 1, restarts: n == 1, order: Some(0) };
            pace.add(place, vec![1], None, &mut out).unwrap();
        }
        assert_eq!((pace.held.len(), out.len()), (0, LEARN_MAX));
    }

    #[test]
    fn without_a_rate_they_are_shown_when_they_come_unless_they_are_reordered() {
        assert_eq!(times(&[(0, true), (2, false), (0, true)], None).unwrap(), [0, 3600, 7200]);
        assert!(times(&[(0, true), (4, false), (2, false)], None).unwrap_err().contains("fps"));
    }

    #[test]
    fn what_stood_still_is_a_gap_and_what_comes_at_once_is_not() {
        let (mut pace, mut out) = (Pace::default(), Vec::new());
        pace.set_rate(Rate::new(10, 1));
        let place = Place { key: true, restarts: true, order: Some(0) };
        for ms in [0, 0, 0, 300, 10_400, 10_500] {
            pace.add(place, vec![1], Some(UnixMs(ms)), &mut out).unwrap();
        }
        pace.close(&mut out);
        let ms: Vec<i64> = out.iter().map(|due| due.pts / 90).collect();
        assert_eq!(ms, [0, 100, 200, 300, 10_400, 10_500]);
    }

    #[test]
    fn rates_are_what_people_mean() {
        for (fps, want) in
            [(25.0, Rate::new(25, 1)), (29.97, Rate::new(30_000, 1001)), (12.5, Rate::new(25, 2))]
        {
            let (got, want) = (Rate::of_fps(fps).unwrap(), want.unwrap());
            assert_eq!((got.ticks(1_000_000), got.ticks(7)), (want.ticks(1_000_000), want.ticks(7)), "{fps}");
        }
        for fps in [0.0, -1.0, f64::NAN, 2000.0] {
            assert_eq!(Rate::of_fps(fps), None);
        }
        assert_eq!(Rate::new(1, 0), None);
    }
}
