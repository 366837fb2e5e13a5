//! What the machine does, as the system says it: the driver of [`super::pace`]. Never: what follows from it.

use std::sync::{Mutex, PoisonError};

use super::pace::{Pace, Seen};
use crate::clock::Clock;
use crate::shard::driver::Gate;

/// Where Linux says how long its processors did what: proc_stat(5), the first line.
const PROCESSORS: &str = "/proc/stat";

/// Of all readers of a store.
#[derive(Debug, Default)]
pub(crate) struct Paced {
    pace: Mutex<Pace>,
}

impl Paced {
    /// Waits until there is something left for readers.
    pub(crate) async fn wait(&self, gate: &Gate, clock: &Clock) {
        while let Some(wait) = self.poll(gate, clock) {
            tokio::time::sleep(wait).await;
        }
    }

    fn poll(&self, gate: &Gate, clock: &Clock) -> Option<std::time::Duration> {
        let now = clock.mono();
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        if pace.wants_look(now) {
            let (processors, idle) = std::fs::read_to_string(PROCESSORS).map_or((0, 0), |text| read(&text));
            pace.handle_seen(Seen { committing: gate.committing(now), processors, idle }, now);
        }
        pace.poll_turn(now)
    }

    /// Bytes a second that readers may take; none is as fast as it goes.
    pub(crate) fn rate(&self, clock: &Clock) -> Option<u64> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner).rate(clock.mono())
    }

    /// So much was read.
    pub(crate) fn taken(&self, bytes: usize, clock: &Clock) {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner).handle_taken(bytes, clock.mono());
    }
}

/// Time of all processors together, and how much of it nobody wanted; nothing where it does not say.
fn read(text: &str) -> (u64, u64) {
    let Some(times) = text.lines().next().and_then(|line| line.strip_prefix("cpu ")) else { return (0, 0) };
    // user, nice, system, idle, iowait, irq, softirq, steal; what follows is in user and nice already.
    let times: Vec<u64> =
        times.split_ascii_whitespace().take(8).map_while(|time| time.parse().ok()).collect();
    let idle = times.get(3..5).unwrap_or_default();
    (times.iter().sum(), idle.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_a_disk_is_idle_and_what_guests_take_is_not_counted_twice() {
        let text = "cpu  10 20 30 400 50 6 7 8 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        assert_eq!(read(text), (531, 450));
        assert_eq!(read("cpu  10 20"), (30, 0), "a system that says less");
        assert_eq!(read("intr 5"), (0, 0));
        assert_eq!(read(""), (0, 0));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_system_says_it() {
        let (all, idle) = read(&std::fs::read_to_string(PROCESSORS).unwrap());
        assert!(all > 0 && idle <= all, "{idle} of {all}");
    }
}
