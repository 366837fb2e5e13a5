//! Which segments have outlived their stream's retention. Pure: it plans, the driver trims.

use protocol::stream::StreamConfig;
use protocol::time::{Mono, UnixMs};

use crate::log::{Position, SegmentAge};

/// What to do about a stream's old records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Plan {
    /// Segments that end at or below can go.
    pub trim_below: Option<Position>,
    /// The active segment is so old that it should be sealed, for its records to be able to go.
    pub roll: bool,
}

/// A segment is sealed by age after this part of the retention, so that records outlive it by little ...
const ROLLS_PER_RETENTION: u64 = 24;

/// ... but not more often than once a minute.
const ROLL_MS_MIN: u64 = 60_000;

/// A clock that moves by more than this against the monotonic one was set ...
const STEP_MS: u64 = 3_600_000;

/// ... and one that is so far ahead of the newest segment when a store starts may have been.
const AHEAD_MS: u64 = 30 * 24 * 3_600_000;

/// What was set is believed after so long: time enough for a time server, or for a person.
const DOUBT_MS: u64 = 3_600_000;

/// Whether the clock says how old something is. In doubt nothing is deleted for its age: a wrong clock is put right sooner
/// or later, and a deleted record never is.
#[derive(Debug, Default)]
pub struct ClockWatch {
    last: Option<(Mono, UnixMs)>,
    doubt_until: Option<Mono>,
}

impl ClockWatch {
    /// Looks at the clocks; `newest` is when the newest segment was begun, if there is one.
    pub fn look(&mut self, mono: Mono, wall: UnixMs, newest: Option<UnixMs>) {
        let is_odd = match self.last {
            None => newest.is_some_and(|newest| wall.millis_since(newest) > AHEAD_MS),
            Some((then, before)) => {
                let passed = u64::try_from(mono.since(then).as_millis()).unwrap_or(u64::MAX);
                wall.millis_since(before) > passed.saturating_add(STEP_MS)
            }
        };
        self.last = Some((mono, wall));
        if is_odd {
            self.doubt_until = Some(mono.plus_millis(DOUBT_MS));
        }
        self.doubt_until = self.doubt_until.filter(|until| mono < *until);
    }

    /// Whether it is in doubt.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        self.doubt_until.is_some()
    }
}

/// Plans for the oldest segments (`ages`, oldest first, may stop short of the active one). `active_since` is when
/// the active segment was begun, `active_used` whether it holds more than its head.
#[must_use]
pub fn plan(
    config: &StreamConfig,
    ages: &[SegmentAge],
    stored_bytes: u64,
    active_since: UnixMs,
    active_used: bool,
    now: UnixMs,
) -> Plan {
    let mut left = stored_bytes;
    let mut trim_below = None;
    for (place, segment) in ages.iter().enumerate() {
        // One whose age can't be read (its successor's head is damaged) is older than those after it.
        let Some(sealed) = ages[place..].iter().find_map(|segment| segment.sealed) else { break };
        let too_old = now.millis_since(sealed) > config.retention_ms;
        let too_much = config.retention_bytes.is_some_and(|max| left > max);
        if !too_old && !too_much {
            break;
        }
        left -= segment.len.min(left);
        trim_below = Some(segment.end);
    }
    let roll_ms = (config.retention_ms / ROLLS_PER_RETENTION).max(ROLL_MS_MIN);
    Plan { trim_below, roll: active_used && now.millis_since(active_since) > roll_ms }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ages(sealed: &[Option<u64>]) -> Vec<SegmentAge> {
        let age = |(i, s): (usize, &Option<u64>)| SegmentAge {
            end: Position((i as u64 + 1) * 100),
            len: 100,
            sealed: s.map(UnixMs),
        };
        sealed.iter().enumerate().map(age).collect()
    }

    fn config(retention_ms: u64, retention_bytes: Option<u64>) -> StreamConfig {
        StreamConfig { retention_ms, retention_bytes, ..StreamConfig::default() }
    }

    #[test]
    fn a_segment_whose_age_cannot_be_read_goes_with_the_next_and_holds_nothing_up() {
        let ages = ages(&[Some(10), None, Some(900), None]);
        let plan = |now| plan(&config(1000, None), &ages, 400, UnixMs(900), true, UnixMs(now)).trim_below;
        assert_eq!((plan(1500), plan(1901)), (Some(Position(100)), Some(Position(300))));
    }

    #[test]
    fn a_segment_goes_when_its_youngest_record_is_too_old_and_the_active_one_never() {
        let ages = ages(&[Some(10), Some(500), Some(900), None]);
        let plan = |now| plan(&config(1000, None), &ages, 400, UnixMs(900), true, UnixMs(now)).trim_below;
        assert_eq!(plan(1010), None);
        assert_eq!(plan(1011), Some(Position(100)));
        assert_eq!(plan(1501), Some(Position(200)));
        assert_eq!(plan(u64::MAX), Some(Position(300)));
    }

    #[test]
    fn a_clock_that_jumps_ahead_is_not_believed_for_an_hour_and_one_that_runs_is() {
        const YEARS: u64 = 20 * 365 * 24 * 3_600_000;
        let at = |ms| Mono::ZERO.plus_millis(ms);
        let mut clock = ClockWatch::default();
        clock.look(at(0), UnixMs(YEARS), Some(UnixMs(YEARS - 5)));
        clock.look(at(1000), UnixMs(YEARS + 1000), None);
        assert!(!clock.is_in_doubt());
        clock.look(at(2000), UnixMs(2 * YEARS), None);
        assert!(clock.is_in_doubt());
        clock.look(at(3000), UnixMs(2 * YEARS + 1000), None);
        clock.look(at(DOUBT_MS), UnixMs(2 * YEARS + DOUBT_MS), None);
        assert!(clock.is_in_doubt());
        clock.look(at(2 * DOUBT_MS), UnixMs(2 * YEARS + 2 * DOUBT_MS), None);
        assert!(!clock.is_in_doubt());
        // A store that starts with a clock far from what it wrote; a new one has nothing to doubt it by.
        let mut started = ClockWatch::default();
        started.look(at(0), UnixMs(2 * YEARS), Some(UnixMs(YEARS)));
        assert!(started.is_in_doubt());
        let mut new = ClockWatch::default();
        new.look(at(0), UnixMs(YEARS), None);
        assert!(!new.is_in_doubt());
    }

    #[test]
    fn what_is_over_the_bytes_goes_oldest_first() {
        let ages = ages(&[Some(1), Some(2), Some(3), None]);
        let below =
            |max| plan(&config(u64::MAX, Some(max)), &ages, 400, UnixMs(3), true, UnixMs(4)).trim_below;
        assert_eq!(
            [below(400), below(399), below(250), below(0)],
            [None, Some(Position(100)), Some(Position(200)), Some(Position(300))]
        );
    }

    #[test]
    fn a_clock_that_was_set_back_deletes_nothing() {
        let ages = ages(&[Some(5000), None]);
        assert_eq!(plan(&config(10, None), &ages, 200, UnixMs(5000), true, UnixMs(0)), Plan::default());
    }
}
