//! What time it is: the only place of the agent where clocks are read. Drivers pass the values on.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use protocol::time::{Mono, UnixMs};

/// A monotonic clock; copies agree.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Instant);

impl Default for Clock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    fn default() -> Clock {
        Clock(Instant::now())
    }
}

impl Clock {
    /// Now, for timers.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn now(&self) -> Mono {
        Mono(u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// A point of it as the operating system's.
    #[must_use]
    pub fn instant(&self, at: Mono) -> Instant {
        self.0 + at.since(Mono::ZERO)
    }
}

/// Now, for people.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub fn unix_ms() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// As `2026-01-31T12:00:00.000Z` (Howard Hinnant, "chrono-compatible low-level date algorithms").
#[must_use]
pub fn utc_text(time: UnixMs) -> String {
    let (days, ms) = (time.0 / 86_400_000, time.0 % 86_400_000);
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + u64::from(month <= 2);
    let (s, ms) = (ms / 1000, ms % 1000);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{ms:03}Z", s / 3600, s / 60 % 60, s % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_people_read_them() {
        assert_eq!(utc_text(UnixMs(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(utc_text(UnixMs(1_709_210_096_789)), "2024-02-29T12:34:56.789Z");
        assert_eq!(utc_text(UnixMs(4_102_444_799_999)), "2099-12-31T23:59:59.999Z");
    }
}
