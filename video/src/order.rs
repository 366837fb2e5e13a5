//! Decode times for what has presentation times only, as Matroska has. The rule: frames of a track come in the order in
//! which they are decoded, and the n-th of them is decoded when the n-th to be shown is shown, less a delay; the delay is
//! the least with which no frame is shown before it is decoded, as far as was seen until then, and never shrinks. All
//! frames before a key frame are shown before it and before those that follow it. How far a track reorders, its first
//! frames between two key frames show, which are all looked at before the first has a time: no fragment ends before that
//! anyway; one that reorders at all is given the delay of two frames, since encoders begin with less than they use. Where a
//! track later reorders farther, one frame may be shown before it is decoded. Never: bytes, containers, clocks.

use std::collections::VecDeque;

/// No codec reorders more frames than this (H.264 and H.265: 16).
const REORDER_MAX: usize = 16;
/// Frames that are looked at to see how far a track reorders, if no key frame ends them.
const LEARN_MAX: usize = 256;

/// The times of one track, in any unit.
#[derive(Debug)]
pub(crate) struct Order {
    reorders: bool,
    /// Frames that wait at most, once it is known how this track reorders; sound does not.
    depth: Option<usize>,
    delay: i64,
    /// A frame that is shown so much before the newest is a step back of the clock, not another order.
    step: i64,
    /// Presentation times in the order of decoding, of those that have no decode time yet.
    waiting: VecDeque<i64>,
    /// The same, sorted.
    shown: Vec<i64>,
    last: Option<i64>,
}

impl Order {
    pub(crate) fn new(reorders: bool, second: i64) -> Order {
        Order {
            reorders,
            depth: (!reorders).then_some(0),
            delay: 0,
            step: second.saturating_mul(2),
            waiting: VecDeque::new(),
            shown: Vec::new(),
            last: None,
        }
    }

    /// The next frame. Appends the decode times that are known now, in the order of the frames.
    pub(crate) fn add(&mut self, pts: i64, key: bool, out: &mut Vec<i64>) {
        let newest = self.shown.last().copied().or(self.last);
        let back = newest.is_some_and(|newest| pts < newest.saturating_sub(self.step));
        if key || back {
            self.close(out);
        }
        if back {
            self.last = None;
        }
        self.waiting.push_back(pts);
        let place = self.shown.partition_point(|shown| *shown <= pts);
        self.shown.insert(place, pts);
        // Only once: of a few frames of many it would seem that those reorder farther which are still to come.
        if self.depth.is_none() && self.waiting.len() > LEARN_MAX {
            self.depth = Some(self.learn());
        }
        while self.depth.is_some_and(|depth| self.waiting.len() > depth) {
            self.resolve(out);
        }
    }

    /// Nothing more is shown before what came.
    pub(crate) fn close(&mut self, out: &mut Vec<i64>) {
        let (depth, enough) = (self.learn(), self.waiting.len() > REORDER_MAX);
        if enough {
            self.depth.get_or_insert(depth);
        }
        while !self.waiting.is_empty() {
            self.resolve(out);
        }
    }

    /// Sees how the frames that wait are reordered: how many stand at most before one that is shown earlier.
    fn learn(&mut self) -> usize {
        let (mut depth, mut second) = (0, 0);
        for (place, (pts, shown)) in self.waiting.iter().zip(&self.shown).enumerate() {
            self.delay = self.delay.max(shown - pts);
            depth = depth.max(self.waiting.iter().take(place).filter(|before| *before > pts).count());
            second = second.max(self.shown.get(place + 1).map_or(0, |next| next - pts));
        }
        if depth == 1 && self.depth.is_none() {
            self.delay = self.delay.max(second);
            return 2;
        }
        depth
    }

    fn resolve(&mut self, out: &mut Vec<i64>) {
        let Some(pts) = self.waiting.pop_front() else { return };
        let shown = self.shown.remove(0);
        if self.last.is_some_and(|last| shown < last) || shown - pts > self.delay {
            // Farther than it seemed: it is looked at anew, but for what is only rounded.
            let rounded =
                self.last.is_none_or(|last| shown >= last) && shown - pts <= self.delay + self.step / 1000;
            self.delay = self.delay.max(shown - pts);
            if rounded {
                return self.give(shown, out);
            }
            self.depth = self.depth.filter(|depth| *depth == 0 && !self.reorders);
        }
        self.give(shown, out);
    }

    fn give(&mut self, shown: i64, out: &mut Vec<i64>) {
        let least = self.last.map_or(i64::MIN, |last| last.saturating_add(1));
        let dts = (shown - self.delay).max(least).min(shown);
        let dts = dts.max(self.last.unwrap_or(dts));
        self.last = Some(dts);
        out.push(dts);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn times(groups: &[&[i64]]) -> Vec<i64> {
        let (mut order, mut out) = (Order::new(true, 1000), Vec::new());
        for group in groups {
            for (place, pts) in group.iter().enumerate() {
                order.add(*pts, place == 0, &mut out);
            }
        }
        order.close(&mut out);
        out
    }

    #[test]
    fn frames_that_are_shown_in_their_order_are_decoded_when_they_are_shown() {
        assert_eq!(times(&[&[0, 33, 67], &[100, 133]]), [0, 33, 67, 100, 133]);
    }

    #[test]
    fn frames_that_are_reordered_are_decoded_before_they_are_shown() {
        // I P B b b, then a group that begins with pictures that are shown before its key frame.
        let got = times(&[&[0, 160, 80, 40, 120], &[240, 200, 280]]);
        assert_eq!(got, [-80, -40, 0, 40, 80, 120, 160, 200]);
    }

    #[test]
    fn a_deeper_order_than_before_moves_what_follows_and_a_step_back_begins_anew() {
        let got = times(&[&[0, 40, 80], &[120, 240, 160, 200]]);
        assert!(got.windows(2).all(|pair| pair[0] < pair[1]), "{got:?}");
        assert_eq!(times(&[&[10_000, 10_040], &[500, 540]]), [10_000, 10_040, 500, 540]);
    }

    #[test]
    fn times_that_are_rounded_do_not_make_a_track_seem_to_reorder_farther() {
        let (mut order, mut out) = (Order::new(true, 90_000), Vec::new());
        for n in 0..39i64 {
            // P B P B, thirty a second; some of them a tick late.
            let shown = if n == 0 {
                0
            } else if n % 2 == 1 {
                n + 1
            } else {
                n - 1
            };
            order.add(shown * 3000 + i64::from(n % 5 == 4), n == 0, &mut out);
            assert!(order.waiting.len() <= if n < 20 { 40 } else { 3 }, "{n}");
            if n == 18 {
                order.close(&mut out);
            }
        }
        order.close(&mut out);
        assert!(out.windows(2).all(|pair| (2998..=3002).contains(&(pair[1] - pair[0]))), "{out:?}");
    }

    proptest! {
        #[test]
        fn no_frame_is_shown_before_it_is_decoded_and_times_never_go_back(
            groups in proptest::collection::vec((1usize..40, 1i64..100), 1..6),
            depth in 0usize..4,
        ) {
            // Each group shows every frame once; within runs of `depth` the last one is decoded first.
            let (mut pts, mut at) = (Vec::new(), 0);
            for (count, each) in groups {
                let mut shown: Vec<i64> = (0..count as i64).map(|n| at + n * each).collect();
                at += count as i64 * each;
                shown[1..].chunks_mut(depth + 1).for_each(|run| run.rotate_right(1));
                pts.push(shown);
            }
            let groups: Vec<&[i64]> = pts.iter().map(Vec::as_slice).collect();
            let got = times(&groups);
            let all = pts.concat();
            prop_assert_eq!(got.len(), all.len());
            for (dts, pts) in got.iter().zip(&all) {
                prop_assert!(dts <= pts);
            }
            prop_assert!(got.windows(2).all(|pair| pair[0] <= pair[1]));
        }

        #[test]
        fn times_of_any_kind_all_come_back(
            frames in proptest::collection::vec((-1_000_000_000_000i64..1_000_000_000_000, any::<bool>()), 0..80)
        ) {
            let (mut order, mut out) = (Order::new(true, 1000), Vec::new());
            for (pts, key) in &frames {
                order.add(*pts, *key, &mut out);
                prop_assert!(order.waiting.len() <= LEARN_MAX);
            }
            order.close(&mut out);
            prop_assert_eq!(out.len(), frames.len());
        }
    }

    /// Reaches `LEARN_MAX`.
    #[test]
    fn no_more_frames_wait_to_see_how_they_are_reordered_than_may() {
        let (mut order, mut out) = (Order::new(true, 1000), Vec::new());
        for n in 0..LEARN_MAX as i64 {
            order.add(n * 40, n == 0, &mut out);
        }
        assert_eq!((order.waiting.len(), out.len()), (LEARN_MAX, 0));
        order.add(LEARN_MAX as i64 * 40, false, &mut out);
        assert_eq!((order.waiting.len(), out.len()), (0, LEARN_MAX + 1));
    }

    /// Reaches `REORDER_MAX`.
    #[test]
    fn a_group_tells_how_frames_are_reordered_if_it_is_longer_than_any_codec_reorders() {
        let learnt = |count: usize| {
            let (mut order, mut out) = (Order::new(true, 1000), Vec::new());
            (0..count as i64).for_each(|n| order.add(n * 40, n == 0, &mut out));
            order.close(&mut out);
            order.depth
        };
        assert_eq!((learnt(REORDER_MAX), learnt(REORDER_MAX + 1)), (None, Some(0)));
    }
}
