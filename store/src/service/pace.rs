//! How fast readers may take what is stored: as they like, unless producers and they want more of the processors than there
//! is. Then producers go first: what they bring exists nowhere else, what is read can be read later. A lower priority
//! of threads (`api::readers`) does not do it alone, as what is sent passes through the kernel's queues, which have none.
//! Pure. Never: where the figures come from ([`super::load`]), what is read.

use std::time::Duration;

use protocol::time::Mono;

/// All readers together have this much a second even so: of most links and disks that is all there is.
const LEAST_BYTES: u64 = 32 << 20;
/// A rate above this is none.
const MOST_BYTES: u64 = 8 << 30;
/// How often it is looked at what the machine does: the system counts in hundredths of a second.
const LOOK_MS: u64 = 50;
/// Between the turns of two readers: a read takes about so long.
const TURN_MS: u64 = 1;
/// What was seen so long ago says nothing.
const OLD_MS: u64 = 1000;
/// Producers wait for the store where something is being committed for this part of the time ...
const COMMITTING_PERCENT: u64 = 80;
/// ... and processors are what they wait for, not the disk, where less than this part of them is left: one that commits as fast as
/// it can is at its disk for a third of the time.
const IDLE_PERCENT: u64 = 50;

/// What was seen, as sums since some beginning.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Seen {
    /// How long something was being committed.
    pub committing: Duration,
    /// Time of all processors together, in a unit of the system's ...
    pub processors: u64,
    /// ... and how much of it nobody wanted.
    pub idle: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Bytes a second; none is as fast as it goes.
    rate: Option<u64>,
    /// When what was taken is worked off.
    free_at: Mono,
    seen: Option<(Mono, Seen)>,
}

impl Pace {
    /// Whether somebody should look at what the machine does.
    pub(crate) fn wants_look(&self, now: Mono) -> bool {
        self.seen.is_none_or(|(at, _)| now >= at.plus_millis(LOOK_MS))
    }

    /// What was seen.
    pub(crate) fn handle_seen(&mut self, seen: Seen, now: Mono) {
        let Some((at, before)) = self.seen.replace((now, seen)) else { return };
        let since = now.since(at);
        let processors = seen.processors.saturating_sub(before.processors);
        if since > Duration::from_millis(OLD_MS) || processors == 0 {
            self.rate = None;
            return;
        }
        let millis = (since.as_millis() as u64).max(1);
        let committing = seen.committing.saturating_sub(before.committing).as_millis() as u64;
        let idle = seen.idle.saturating_sub(before.idle);
        if committing * 100 >= millis * COMMITTING_PERCENT && idle * 100 < processors * IDLE_PERCENT {
            // At once: if that was wrong, they have it back within a second or two.
            self.rate = Some(LEAST_BYTES);
        } else if let Some(rate) = self.rate {
            self.rate = Some(rate + rate / 8).filter(|rate| *rate < MOST_BYTES);
        }
    }

    /// How long whoever wants to read waits before it asks again; nothing where it is its turn. What it then takes is known only
    /// afterwards, so the next one's turn comes a little later: not all who wait go at once.
    pub(crate) fn poll_turn(&mut self, now: Mono) -> Option<Duration> {
        self.rate?;
        let wait = self.free_at.since(now);
        if wait.is_zero() {
            self.free_at = now.plus_millis(TURN_MS);
            return None;
        }
        Some(wait)
    }

    /// Bytes a second that readers may take; none is as fast as it goes, or nobody has read lately.
    pub(crate) fn rate(&self, now: Mono) -> Option<u64> {
        let (at, _) = self.seen?;
        self.rate.filter(|_| now <= at.plus_millis(OLD_MS))
    }

    /// So much was read.
    pub(crate) fn handle_taken(&mut self, bytes: usize, now: Mono) {
        if let Some(rate) = self.rate {
            let micros = (bytes as u64).saturating_mul(1_000_000) / rate.max(1);
            // In place of the time of its turn.
            let from = Mono(self.free_at.0.saturating_sub(TURN_MS * 1000));
            self.free_at = from.max(now) + Duration::from_micros(micros);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Readers who take all that they may, for so many milliseconds: how much that is. `part` is for how much of the time
    /// something is being committed, and how much of the processors nobody wants, in percent.
    fn read(pace: &mut Pace, from: &mut Seen, at: &mut u64, millis: u64, part: (u64, u64)) -> u64 {
        let mut bytes = 0;
        for _ in 0..millis {
            *at += 1;
            let now = Mono::from_millis(*at);
            from.committing += Duration::from_micros(part.0 * 10);
            from.processors += 100;
            from.idle += part.1;
            if pace.wants_look(now) {
                pace.handle_seen(*from, now);
            }
            // A GiB a second is all that goes.
            if pace.poll_turn(now).is_none() {
                pace.handle_taken(1 << 20, now);
                bytes += 1 << 20;
            }
        }
        bytes
    }

    #[test]
    fn readers_slow_down_only_where_producers_wait_for_a_processor_and_come_back_by_themselves() {
        let (mut pace, mut seen, mut at) = (Pace::default(), Seen::default(), 0);
        let mut run = |millis, part| read(&mut pace, &mut seen, &mut at, millis, part) >> 20;
        assert_eq!(run(1000, (100, 60)), 1000, "the disk is what producers wait for");
        assert_eq!(run(1000, (20, 0)), 1000, "nobody waits for the store");
        assert!(run(1000, (100, 0)) < 130, "within a tenth of a second");
        let least = run(10_000, (100, 0));
        assert!((300..=320).contains(&least), "{least} MiB: and not to nothing");
        let back = run(2000, (20, 0));
        assert!((400..1500).contains(&back), "{back} MiB: it grows step by step");
        assert_eq!(run(2000, (20, 0)), 2000);
    }

    #[test]
    fn a_crowd_that_waited_together_takes_its_turns() {
        let (mut pace, mut seen, mut at) = (Pace::default(), Seen::default(), 0);
        read(&mut pace, &mut seen, &mut at, 3000, (100, 0));
        pace.handle_taken(8 << 20, Mono::from_millis(at));
        let mut waiting = 100;
        for late in 1..2000 {
            let now = Mono::from_millis(at + late);
            let crowd = waiting;
            for _ in 0..crowd {
                if pace.poll_turn(now).is_none() {
                    pace.handle_taken(1 << 20, now);
                    waiting -= 1;
                }
            }
        }
        assert!((40..60).contains(&waiting), "{waiting} of 100 wait still: 32 MiB a second, a MiB each");
    }

    #[test]
    fn what_was_seen_long_ago_holds_nobody_up() {
        let (mut pace, mut seen, mut at) = (Pace::default(), Seen::default(), 0);
        read(&mut pace, &mut seen, &mut at, 3000, (100, 0));
        assert_eq!(pace.rate(Mono::from_millis(at)), Some(LEAST_BYTES));
        at += 5000;
        assert_eq!(pace.rate(Mono::from_millis(at)), None);
        assert!(read(&mut pace, &mut seen, &mut at, 50, (0, 50)) > 40 << 20, "nobody has read for a while");
    }

    #[test]
    fn a_system_that_does_not_say_what_it_does_holds_nobody_up() {
        let (mut pace, mut seen) = (Pace::default(), Seen::default());
        for at in 0..5000 {
            let now = Mono::from_millis(at);
            seen.committing += Duration::from_millis(1);
            pace.handle_seen(seen, now);
            assert_eq!(pace.poll_turn(now), None);
            pace.handle_taken(1 << 20, now);
        }
    }
}
