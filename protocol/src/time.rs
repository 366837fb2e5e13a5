//! Time as values. Pure: nobody in here asks what time it is; drivers pass `now`.
//!
//! Two kinds that never mix: [`Mono`] for timers (it only grows), [`UnixMs`] for what people read (it jumps).

use std::ops::{Add, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Monotonic microseconds since some start that only this process knows. For timers and rates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mono(pub u64);

impl Mono {
    /// The start of the process's time.
    pub const ZERO: Mono = Mono(0);

    /// A point `ms` milliseconds after the start.
    #[must_use]
    pub const fn from_millis(ms: u64) -> Mono {
        Mono(ms * 1000)
    }

    /// How long since `earlier`; zero when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Mono) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// The later time after a duration of milliseconds.
    #[must_use]
    pub const fn plus_millis(self, ms: u64) -> Mono {
        Mono(self.0.saturating_add(ms.saturating_mul(1000)))
    }
}

impl Add<Duration> for Mono {
    type Output = Mono;
    fn add(self, d: Duration) -> Mono {
        Mono(self.0.saturating_add(u64::try_from(d.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Mono> for Mono {
    type Output = Duration;
    fn sub(self, earlier: Mono) -> Duration {
        self.since(earlier)
    }
}

/// Wall-clock milliseconds since 1970-01-01 UTC. For arrival times, retention and people; never for timers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixMs(pub u64);

impl UnixMs {
    /// Milliseconds since `earlier`; zero when `earlier` is later (clocks jump).
    #[must_use]
    pub const fn millis_since(self, earlier: UnixMs) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
