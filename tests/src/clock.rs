//! The one place in this crate that reads the clock or waits for it.
//!
//! Suites with virtual time must not name this module.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Now, on a clock that never goes back.
#[expect(clippy::disallowed_methods, reason = "the one place of this crate that reads the monotonic clock")]
pub fn now() -> Instant {
    Instant::now()
}

/// Milliseconds since the epoch, on the wall clock.
#[expect(clippy::disallowed_methods, reason = "the one place of this crate that reads the wall clock")]
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Blocks this thread.
#[expect(clippy::disallowed_methods, reason = "the one place of this crate that blocks a thread")]
pub fn sleep(duration: Duration) {
    std::thread::sleep(duration);
}

/// Asks again and again until the answer is yes; false when it was still no after `patience`.
pub fn eventually(patience: Duration, mut yes: impl FnMut() -> bool) -> bool {
    let deadline = now() + patience;
    loop {
        if yes() {
            return true;
        }
        if now() >= deadline {
            return false;
        }
        sleep(Duration::from_millis(5));
    }
}
