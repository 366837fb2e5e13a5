//! Messages for the operator: a level, a time, a sentence; the same sentence at most once a while.
//! No secrets go in here, and no module decides anything by it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protocol::time::Mono;

use crate::clock::Clock;

/// The same kind of message is written at most this often.
const REPEAT_AFTER: Duration = Duration::from_secs(30);

/// Kinds that are remembered for that.
const KINDS_MAX: usize = 256;

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Good to know.
    Info,
    /// Something is not as it should be, and the agent goes on.
    Warn,
    /// Something needs a person.
    Error,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        })
    }
}

/// Where messages go.
pub type Sink = dyn Fn(Level, &str) + Send + Sync;

/// Writes messages to a sink; clones share it.
#[derive(Clone)]
pub struct Log {
    sink: Arc<Sink>,
    last: Arc<Mutex<HashMap<String, (Mono, u64)>>>,
    clock: Clock,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Log")
    }
}

impl Log {
    /// To a function.
    pub fn to(sink: impl Fn(Level, &str) + Send + Sync + 'static) -> Log {
        Log { sink: Arc::new(sink), last: Arc::default(), clock: Clock::default() }
    }

    /// Nowhere.
    #[must_use]
    pub fn silent() -> Log {
        Log::to(|_, _| {})
    }

    /// To standard error, with the time.
    #[must_use]
    pub fn stderr() -> Log {
        Log::to(|level, text| {
            let time = crate::clock::unix_ms();
            eprintln!("{} {level:5} {text}", crate::clock::utc_text(time));
        })
    }

    /// Good to know.
    pub fn info(&self, text: &str) {
        (self.sink)(Level::Info, text);
    }

    /// Not as it should be. `kind` is what repeats: such messages are written once a while, with a count.
    pub fn warn(&self, kind: &str, text: &str) {
        self.limited(Level::Warn, kind, text);
    }

    /// Needs a person. As [`warn`](Self::warn).
    pub fn error(&self, kind: &str, text: &str) {
        self.limited(Level::Error, kind, text);
    }

    fn limited(&self, level: Level, kind: &str, text: &str) {
        let now = self.clock.now();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() >= KINDS_MAX && !last.contains_key(kind) {
            last.clear();
        }
        let suppressed = match last.get_mut(kind) {
            Some((at, count)) if now.since(*at) < REPEAT_AFTER => {
                *count += 1;
                return;
            }
            Some((_, count)) => *count,
            None => 0,
        };
        last.insert(kind.to_owned(), (now, 0));
        drop(last);
        if suppressed > 0 {
            (self.sink)(level, &format!("{text} ({suppressed} more like it)"));
        } else {
            (self.sink)(level, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reaches `KINDS_MAX`.
    #[test]
    fn what_repeats_is_written_once_and_no_more_kinds_are_remembered_than_may_be() {
        let written = Arc::new(Mutex::new(0));
        let count = Arc::clone(&written);
        let log = Log::to(move |_, _| *count.lock().unwrap() += 1);
        for _ in 0..2 {
            (0..KINDS_MAX).for_each(|n| log.warn(&n.to_string(), "text"));
            assert_eq!((log.last.lock().unwrap().len(), *written.lock().unwrap()), (KINDS_MAX, KINDS_MAX));
        }
        log.warn("one more", "text");
        assert_eq!((log.last.lock().unwrap().len(), *written.lock().unwrap()), (1, KINDS_MAX + 1));
    }
}
