//! How long something was being committed: what producers wait for. Pure; all streams of a store together. Never: what
//! follows from it.

use std::time::Duration;

use protocol::time::Mono;

/// Adds up the time in which at least one commit runs.
#[derive(Debug, Default)]
pub struct Busy {
    running: u32,
    since: Mono,
    ended: Duration,
}

impl Busy {
    /// A stream begins to commit.
    pub fn handle_begin(&mut self, now: Mono) {
        if self.running == 0 {
            self.since = now;
        }
        self.running += 1;
    }

    /// A stream has nothing more to commit.
    pub fn handle_end(&mut self, now: Mono) {
        self.running = self.running.saturating_sub(1);
        if self.running == 0 {
            self.ended += now.since(self.since);
        }
    }

    /// All of it until now.
    #[must_use]
    pub fn total(&self, now: Mono) -> Duration {
        self.ended + if self.running > 0 { now.since(self.since) } else { Duration::ZERO }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_that_commit_at_the_same_time_are_counted_once_and_a_pause_is_not() {
        let (mut busy, at) = (Busy::default(), Mono::from_millis);
        busy.handle_begin(at(100));
        assert_eq!(busy.total(at(110)).as_millis(), 10, "it goes on");
        busy.handle_begin(at(120));
        busy.handle_end(at(130));
        busy.handle_end(at(150));
        assert_eq!(busy.total(at(900)).as_millis(), 50);
        busy.handle_begin(at(1000));
        busy.handle_end(at(1001));
        assert_eq!(busy.total(at(2000)).as_millis(), 51);
    }
}
