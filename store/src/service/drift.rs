//! How far a producer's clock is from the store's, and how that changes: told of what is stored, which stays as it is. Pure.
//! Never: corrects anything; reads what it is made from.
//!
//! A fragment comes when it has ended, and later by what the network takes: never sooner. So of some that follow each other
//! the least late one says most of the clocks; what comes faster than it was filmed waited somewhere, and says nothing.

use protocol::time::UnixMs;

/// Two clocks that differ by more than this are two clocks of which one is set, not two that go unevenly: a step.
const STEP_MS: i64 = 1000;
/// No clock goes this wrong by itself (in millionths): quartz is off by 100 at most.
const PPM_MAX: i64 = 1000;
/// Of less than so much time nothing is said about drift: a millisecond of it is two millionths.
const DRIFT_OVER_MS: i64 = 10 * 60_000;
/// Nor of fewer windows.
const DRIFT_WINDOWS: usize = 4;

/// A fragment: when it ended by its producer's clock, and when it came by the store's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// By the producer's clock.
    pub end: UnixMs,
    /// By the store's.
    pub arrival: UnixMs,
}

impl Sample {
    /// How far the producer's clock is ahead, in milliseconds, less what the way took.
    #[must_use]
    pub fn ahead_ms(self) -> i64 {
        signed(self.end).saturating_sub(signed(self.arrival))
    }

    fn at(self) -> i64 {
        signed(self.arrival)
    }
}

/// A clock was set, the producer's or the store's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Before this, by the store's clock.
    pub before: UnixMs,
    /// By so much was the producer's clock put forward, as the store's has it.
    pub ms: i64,
}

/// How much faster the producer's clock goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drift {
    /// In millionths.
    pub ppm: f64,
    /// Seen over so long.
    pub over_ms: u64,
}

/// Two clocks, as the newest samples have them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Clocks {
    /// Since the last step; nothing where that is too short, or what came did not come as it was filmed.
    pub drift: Option<Drift>,
    /// Oldest first.
    pub steps: Vec<Step>,
}

fn signed(time: UnixMs) -> i64 {
    i64::try_from(time.0).unwrap_or(i64::MAX)
}

/// Of fragments that follow each other the least late one; nothing where they came faster than they were filmed.
fn least_late(window: &[Sample]) -> Option<Sample> {
    let (first, last) = (window.first()?, window.last()?);
    let came = last.at().saturating_sub(first.at());
    let filmed = last.ahead_ms().saturating_sub(first.ahead_ms()).saturating_add(came);
    let waited = window.len() > 1 && came < filmed / 2;
    window.iter().copied().max_by_key(|sample| sample.ahead_ms()).filter(|_| !waited)
}

/// Whether two clocks can have come from the one to the other by themselves.
fn goes_on(from: Sample, to: Sample) -> bool {
    let apart = to.at().saturating_sub(from.at()).abs();
    to.ahead_ms().saturating_sub(from.ahead_ms()).abs() <= STEP_MS + apart / 1_000_000 * PPM_MAX
}

/// Whether what is told of a producer's clock that is behind all at once is that things came late: its times go on, and
/// later ones are as they were.
fn is_late(before: Sample, now: Sample, later: &[Sample]) -> bool {
    now.end >= before.end
        && now.ahead_ms() < before.ahead_ms()
        && later.iter().any(|later| goes_on(before, *later))
}

/// The middle one of all slopes between two of them, in millionths: a few that are late move it little.
fn slope_ppm(points: &[Sample]) -> f64 {
    let mut slopes = Vec::new();
    for (place, from) in points.iter().enumerate() {
        for to in points[place + 1..].iter().filter(|to| to.at() > from.at()) {
            let apart = to.at().saturating_sub(from.at());
            slopes.push(to.ahead_ms().saturating_sub(from.ahead_ms()) as f64 * 1e6 / apart as f64);
        }
    }
    slopes.sort_by(f64::total_cmp);
    slopes.get(slopes.len() / 2).copied().unwrap_or_default()
}

/// Points between which the clocks went on by themselves; what only came late is left out.
fn runs(points: &[Sample]) -> Vec<Vec<Sample>> {
    let mut runs: Vec<Vec<Sample>> = Vec::new();
    for (place, point) in points.iter().enumerate() {
        match runs.last_mut().and_then(|run| Some((*run.last()?, run))) {
            Some((before, run)) if goes_on(before, *point) => run.push(*point),
            Some((before, _)) if is_late(before, *point, &points[place + 1..]) => {}
            _ => runs.push(vec![*point]),
        }
    }
    // One point alone is no clock: on a line that is too slow each is by itself. The newest may be the first of more, if it can't
    // be late.
    let last = runs.len().saturating_sub(1);
    let may_be_late = |place: usize| {
        let before = runs[..place].last().and_then(|run| run.last());
        before.is_some_and(|before| {
            runs[place][0].ahead_ms() < before.ahead_ms() && runs[place][0].end >= before.end
        })
    };
    let is_kept = |place: usize| runs[place].len() > 1 || place == last && !may_be_late(place);
    let kept = (0..runs.len()).filter(|place| is_kept(*place)).map(|place| runs[place].clone());
    kept.collect()
}

/// Of windows of fragments that follow each other, oldest first.
#[must_use]
pub fn clocks(windows: &[Vec<Sample>]) -> Clocks {
    let points: Vec<Sample> = windows.iter().filter_map(|window| least_late(window)).collect();
    let (mut steps, mut since): (Vec<Step>, Vec<Sample>) = (Vec::new(), Vec::new());
    for run in runs(&points) {
        if let (Some(before), Some(first)) = (since.last().copied(), run.first())
            && !goes_on(before, *first)
        {
            let ms = first.ahead_ms().saturating_sub(before.ahead_ms());
            steps.push(Step { before: first.arrival, ms });
            since.clear();
        }
        since.extend(run);
    }
    let over =
        since.first().zip(since.last()).map_or(0, |(first, last)| last.at().saturating_sub(first.at()));
    let enough = since.len() >= DRIFT_WINDOWS && over >= DRIFT_OVER_MS;
    let drift = enough.then(|| Drift { ppm: slope_ppm(&since), over_ms: over as u64 });
    Clocks { drift: drift.filter(|drift| drift.ppm.abs() <= PPM_MAX as f64), steps }
}

#[cfg(test)]
mod tests {
    use protocol::rng::Rng;

    use super::*;

    const HOUR: u64 = 3_600_000;
    const BEGUN: u64 = 1_795_176_000_000;

    /// Windows of eight fragments of two seconds, each five minutes after the one before; the producer's clock at a time of the
    /// store's, and how late a fragment comes.
    fn windows(hours: u64, clock: impl Fn(u64) -> u64, mut late: impl FnMut(u64) -> u64) -> Vec<Vec<Sample>> {
        let sample = |at: u64| (at, UnixMs(clock(BEGUN + at)));
        (0..hours * 12)
            .map(|window| {
                let ends = (0..8).map(|n| sample(window * 300_000 + n * 2000));
                ends.map(|(at, end)| Sample { end, arrival: UnixMs(BEGUN + at + late(at)) }).collect()
            })
            .collect()
    }

    /// So many millionths faster.
    fn fast(ppm: u64) -> impl Fn(u64) -> u64 {
        move |time| time + (time - BEGUN) * ppm / 1_000_000
    }

    #[test]
    fn a_clock_that_goes_wrong_by_a_hundred_millionths_is_told_to_a_few_whatever_the_way_takes() {
        let mut rng = Rng::new(1);
        // A way that takes 20 to 420 ms, and some seconds at times.
        let told = clocks(&windows(6, fast(100), |_| {
            20 + rng.below(400) + if rng.chance(50) { rng.below(9000) } else { 0 }
        }));
        let drift = told.drift.expect("six hours are enough");
        assert!((drift.ppm - 100.0).abs() < 8.0, "{drift:?}");
        assert_eq!(drift.over_ms / HOUR, 5);
        assert_eq!(told.steps, []);
        // One that is slow is told as one, and one that goes well as one.
        let slow = clocks(&windows(6, |time| time - (time - BEGUN) * 100 / 1_000_000, |_| 50));
        assert!((slow.drift.unwrap().ppm + 100.0).abs() < 1.0, "{slow:?}");
        assert!(clocks(&windows(6, fast(0), |_| 50)).drift.unwrap().ppm.abs() < 0.1);
    }

    /// Reaches `PPM_MAX`.
    #[test]
    fn a_clock_goes_as_wrong_as_one_can_and_what_is_more_is_no_drift() {
        let told = |ppm: i64| clocks(&windows(6, fast(ppm as u64), |_| 20)).drift;
        assert!(told(PPM_MAX - 1).is_some_and(|drift| drift.ppm > PPM_MAX as f64 - 2.0));
        assert_eq!(told(PPM_MAX + 2), None);
    }

    #[test]
    fn a_clock_that_is_set_is_told_as_a_step_and_not_as_drift() {
        let set = BEGUN + 2 * HOUR;
        for hour in [HOUR as i64, -(HOUR as i64)] {
            let clock = |time: u64| if time < set { time } else { time.saturating_add_signed(hour) };
            let mut rng = Rng::new(2);
            let told = clocks(&windows(6, clock, |_| 20 + rng.below(100)));
            let [step] = told.steps[..] else { panic!("{told:?}") };
            assert!((step.ms - hour).abs() < 200, "{told:?}");
            assert!((set..=set + 301_000).contains(&step.before.0), "{told:?}");
            let drift = told.drift.expect("four hours after it are enough");
            assert!(drift.ppm.abs() < 10.0 && drift.over_ms < 4 * HOUR, "{told:?}");
        }
        // Set back again: two steps.
        let clock = |time: u64| time - if (set..set + HOUR).contains(&time) { HOUR } else { 0 };
        let told = clocks(&windows(6, clock, |_| 20));
        let by: Vec<i64> = told.steps.iter().map(|step| step.ms).collect();
        assert_eq!(by, [-(HOUR as i64), HOUR as i64]);
    }

    #[test]
    fn an_outage_after_which_everything_comes_is_no_step_and_no_drift() {
        // For an hour nothing gets through; after that all of it comes, ten times as fast as it was filmed.
        let waits = |at: u64| {
            let since = at.saturating_sub(2 * HOUR);
            if at < 2 * HOUR { 20 } else { (HOUR + 20).saturating_sub(since * 9 / 10).max(20) }
        };
        let told = clocks(&windows(6, fast(40), waits));
        assert_eq!(told.steps, []);
        assert!((told.drift.unwrap().ppm - 40.0).abs() < 2.0, "{told:?}");
        // Late, as long as it was filmed: then as before.
        let told =
            clocks(&windows(6, fast(40), |at| if (HOUR..2 * HOUR).contains(&at) { 90_000 } else { 20 }));
        assert_eq!(told.steps, []);
        assert!((told.drift.unwrap().ppm - 40.0).abs() < 2.0, "{told:?}");
    }

    #[test]
    fn nothing_is_said_of_a_film_that_was_put_of_a_line_that_is_too_slow_or_of_a_few_minutes() {
        let film = windows(6, fast(0), |at| (7 * HOUR).saturating_sub(at * 99 / 100));
        assert_eq!(clocks(&film), Clocks::default());
        // A tenth slower than it is filmed: later and later, and no clock is so.
        assert_eq!(clocks(&windows(2, fast(0), |at| at / 10)).drift, None);
        assert_eq!(clocks(&windows(1, fast(100), |_| 20)[..2]).drift, None);
        assert_eq!(clocks(&[]), Clocks::default());
        assert_eq!(clocks(&[vec![Sample { end: UnixMs(u64::MAX), arrival: UnixMs(0) }]]), Clocks::default());
    }
}
