//! What goes first, what is kept back, and what is not worth sending any more: rules for streams, by their names; and how old a
//! batch is. Pure. Never: files, sockets, which lane is next (the outbox knows).

use protocol::time::{Mono, UnixMs};

/// The priority of what no rule names.
pub const PRIORITY_USUAL: u8 = 5;
/// The highest priority; 0 is the lowest.
pub const PRIORITY_MAX: u8 = 9;

/// A wall clock that moved by more against the monotonic one was set.
const CLOCK_SET_MS: u64 = 10_000;

/// What holds for one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Batches of streams with a higher one are sent first.
    pub priority: u8,
    /// A batch that was taken longer ago is not sent; what it held is told as lost.
    pub ttl_ms: Option<u64>,
    /// Nothing is sent now.
    pub held: bool,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy { priority: PRIORITY_USUAL, ttl_ms: None, held: false }
    }
}

/// A policy for all streams whose names match.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Names of streams.
    pub streams: glob::Pattern,
    /// What holds for them.
    pub policy: Policy,
}

/// All rules; of those that match a stream the first holds.
#[derive(Debug, Clone, Default)]
pub struct Policies {
    rules: Vec<Rule>,
}

impl Policies {
    /// In the order in which somebody wrote them.
    #[must_use]
    pub fn new(rules: Vec<Rule>) -> Policies {
        Policies { rules }
    }

    /// What holds for a stream.
    #[must_use]
    pub fn of(&self, stream: &str) -> Policy {
        let rule = self.rules.iter().find(|rule| rule.streams.matches(stream));
        rule.map_or_else(Policy::default, |rule| rule.policy)
    }

    /// The streams of a rule are kept back, or are not any more; true where that is news.
    pub fn handle_hold(&mut self, rule: usize, held: bool) -> bool {
        let Some(rule) = self.rules.get_mut(rule).filter(|rule| rule.policy.held != held) else {
            return false;
        };
        rule.policy.held = held;
        true
    }
}

/// How old batches are, though the wall clock may be set: a device without a battery for its clock begins in 1970. What is in
/// the spool when the clock is set counts as taken then, so a step makes nothing old.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ages {
    clock: Option<(Mono, UnixMs)>,
    /// Everything below this position of the spool was taken at this time or later.
    set: Option<(u64, UnixMs)>,
}

impl Ages {
    /// Both clocks now; the spool is known up to `end`.
    pub fn handle_clock(&mut self, now: Mono, unix: UnixMs, end: u64) {
        if let Some((then, before)) = self.clock {
            let expected = before.0.saturating_add(now.since(then).as_millis() as u64);
            if expected.abs_diff(unix.0) > CLOCK_SET_MS {
                self.set = Some((end, unix));
            }
        }
        self.clock = Some((now, unix));
    }

    /// Milliseconds since a batch was taken; 0 where nobody can know.
    #[must_use]
    pub fn age_ms(&self, position: u64, taken: UnixMs) -> u64 {
        let Some((_, unix)) = self.clock else { return 0 };
        let since = match self.set {
            Some((below, at)) if position < below => at.max(taken.min(unix)),
            _ => taken,
        };
        unix.millis_since(since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(streams: &str, policy: Policy) -> Rule {
        Rule { streams: glob::Pattern::new(streams).unwrap(), policy }
    }

    #[test]
    fn the_first_rule_that_matches_holds_and_what_none_names_is_usual() {
        let low = Policy { priority: 1, ttl_ms: Some(60_000), held: true };
        let mut policies = Policies::new(vec![
            rule("cam-front", Policy { priority: 9, ..Policy::default() }),
            rule("cam-*", low),
        ]);
        assert_eq!(policies.of("cam-front").priority, 9);
        assert_eq!(policies.of("cam-rear"), low);
        assert_eq!(policies.of("telemetry"), Policy::default());
        assert!(
            !policies.handle_hold(1, true)
                && policies.handle_hold(1, false)
                && !policies.handle_hold(7, true)
        );
        assert!(!policies.of("cam-rear").held);
    }

    #[test]
    fn batches_grow_old_and_a_clock_that_is_set_makes_none_old() {
        let mut ages = Ages::default();
        assert_eq!(ages.age_ms(0, UnixMs(0)), 0, "no clock was told");
        ages.handle_clock(Mono::from_millis(0), UnixMs(1_000), 0);
        ages.handle_clock(Mono::from_millis(60_000), UnixMs(61_500), 500);
        assert_eq!(ages.age_ms(100, UnixMs(2_000)), 59_500);
        // From 1970 to now: what is there counts as taken now, what comes is as old as it is.
        let now = 1_795_000_000_000;
        ages.handle_clock(Mono::from_millis(61_000), UnixMs(now), 500);
        assert_eq!(ages.age_ms(100, UnixMs(2_000)), 0);
        ages.handle_clock(Mono::from_millis(71_000), UnixMs(now + 10_000), 900);
        assert_eq!((ages.age_ms(100, UnixMs(2_000)), ages.age_ms(600, UnixMs(now + 4_000))), (10_000, 6_000));
        // And back again: what comes from the future is new.
        ages.handle_clock(Mono::from_millis(72_000), UnixMs(5_000), 900);
        assert_eq!((ages.age_ms(600, UnixMs(now)), ages.age_ms(950, UnixMs(6_000))), (0, 0));
        ages.handle_clock(Mono::from_millis(75_000), UnixMs(8_000), 900);
        assert_eq!(ages.age_ms(600, UnixMs(now)), 0);
    }
}
