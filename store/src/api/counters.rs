//! What happened at the store's edge, counted by reason, and told on standard error now and then. Never: what
//! happened to records (that is the service).

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use protocol::time::Mono;

use crate::auth::tls::HandshakeFailure;
use crate::clock::Clock;

/// Why a connection was refused or ended by the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Too many connections, in all or from one address, or too many that have not said who they are.
    TooMany,
    /// The TLS handshake took too long.
    SlowHandshake,
    /// The TLS handshake failed.
    Handshake(HandshakeFailure),
    /// The certificate is verified but says no role and name.
    NoPrincipal,
    /// The hello took too long, or was something else.
    NoHello,
    /// A message was no message.
    Malformed,
    /// A message was over its bound.
    TooLong,
    /// A frame was none.
    BadFrame,
    /// It did what it may not do.
    Denied,
    /// Nothing was heard for too long.
    Idle,
    /// It took too long to read what it was sent.
    SlowReader,
    /// The store ends.
    Shutdown,
}

const NAMES: [(Reason, &str); 19] = [
    (Reason::TooMany, "too_many"),
    (Reason::SlowHandshake, "slow_handshake"),
    (Reason::Handshake(HandshakeFailure::Expired), "certificate_expired"),
    (Reason::Handshake(HandshakeFailure::OtherAuthority), "certificate_of_other_ca"),
    (Reason::Handshake(HandshakeFailure::BadCertificate), "certificate_bad"),
    (Reason::Handshake(HandshakeFailure::RefusedByPeer), "refused_by_client"),
    (Reason::Handshake(HandshakeFailure::NoCommonProtocol), "no_common_protocol"),
    (Reason::Handshake(HandshakeFailure::NotTls), "not_tls"),
    (Reason::Handshake(HandshakeFailure::Incompatible), "tls_incompatible"),
    (Reason::Handshake(HandshakeFailure::Broken), "handshake_broken"),
    (Reason::NoPrincipal, "certificate_without_name"),
    (Reason::NoHello, "no_hello"),
    (Reason::Malformed, "malformed"),
    (Reason::TooLong, "too_long"),
    (Reason::BadFrame, "bad_frame"),
    (Reason::Denied, "denied"),
    (Reason::Idle, "idle"),
    (Reason::SlowReader, "slow_reader"),
    (Reason::Shutdown, "shutdown"),
];

impl Reason {
    /// In a word: the code of the goodbye and the end of the counter's name.
    #[must_use]
    pub fn code(self) -> &'static str {
        NAMES.iter().find(|(reason, _)| *reason == self).map_or("unknown", |(_, name)| *name)
    }

    fn index(self) -> usize {
        NAMES.iter().position(|(reason, _)| *reason == self).unwrap_or(0)
    }
}

/// How a request of the Kinesis API ended that was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undone {
    /// Nobody who may.
    Denied,
    /// More than its shard or its account may.
    Throttled,
    /// It can't be done so.
    Invalid,
    /// The store could not.
    Failed,
}

const UNDONE: [(Undone, &str); 4] = [
    (Undone::Denied, "denied"),
    (Undone::Throttled, "throttled"),
    (Undone::Invalid, "invalid"),
    (Undone::Failed, "failed"),
];

/// At most this many lines a second are told; the others are counted only.
const LINES_PER_SECOND: u64 = 5;

/// Counters of the edge.
#[derive(Debug)]
pub struct Counters {
    accepted: AtomicU64,
    open: AtomicI64,
    closed: [AtomicU64; NAMES.len()],
    requests: AtomicU64,
    undone: [AtomicU64; UNDONE.len()],
    line_second: AtomicU64,
    lines: AtomicU64,
    tell: bool,
    clock: Clock,
}

impl Counters {
    /// All zero; `tell` for lines on standard error.
    #[must_use]
    pub fn new(clock: Clock, tell: bool) -> Counters {
        Counters {
            accepted: AtomicU64::new(0),
            open: AtomicI64::new(0),
            closed: std::array::from_fn(|_| AtomicU64::new(0)),
            requests: AtomicU64::new(0),
            undone: std::array::from_fn(|_| AtomicU64::new(0)),
            line_second: AtomicU64::new(0),
            lines: AtomicU64::new(0),
            tell,
            clock,
        }
    }

    pub(crate) fn opened(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn ended(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// A connection was refused or ended by us.
    pub(crate) fn refused(&self, reason: Reason, peer: SocketAddr, detail: &dyn Display) {
        self.closed[reason.index()].fetch_add(1, Ordering::Relaxed);
        if self.tell && reason != Reason::Shutdown {
            self.line(&format_args!("closed {peer} ({}): {detail}", reason.code()));
        }
    }

    /// A request of the Kinesis API was answered.
    pub(crate) fn answered(&self, undone: Option<Undone>) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        for ((how, _), counter) in UNDONE.iter().zip(&self.undone) {
            counter.fetch_add(u64::from(undone == Some(*how)), Ordering::Relaxed);
        }
    }

    /// Tells the operator, but not too often.
    pub(crate) fn line(&self, text: &dyn Display) {
        let second = self.clock.mono().since(Mono::ZERO).as_secs();
        if self.line_second.swap(second, Ordering::Relaxed) != second {
            self.lines.store(0, Ordering::Relaxed);
        }
        if self.lines.fetch_add(1, Ordering::Relaxed) < LINES_PER_SECOND {
            eprintln!("kinesin: {text}");
        }
    }

    /// How often connections were refused or ended for a reason.
    #[must_use]
    pub fn count(&self, reason: Reason) -> u64 {
        self.closed[reason.index()].load(Ordering::Relaxed)
    }

    /// Adds all of them by name.
    pub fn add_to(&self, status: &mut BTreeMap<String, f64>) {
        status.insert("connections".to_owned(), self.open.load(Ordering::Relaxed) as f64);
        status.insert("connections_accepted".to_owned(), self.accepted.load(Ordering::Relaxed) as f64);
        for (reason, name) in NAMES {
            status.insert(format!("connections_closed_{name}"), self.count(reason) as f64);
        }
        let mut put = |name: &str, counter: &AtomicU64| {
            status.insert(format!("kinesis_requests_{name}"), counter.load(Ordering::Relaxed) as f64);
        };
        put("total", &self.requests);
        UNDONE.iter().zip(&self.undone).for_each(|((_, name), counter)| put(name, counter));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_name_and_a_counter_of_its_own() {
        let counters = Counters::new(Clock::start(), false);
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        for (reason, name) in NAMES {
            assert_eq!(reason.code(), name);
            counters.refused(reason, peer, &"");
            assert_eq!(counters.count(reason), 1, "{name}");
        }
    }

    #[test]
    fn requests_are_counted_by_how_they_ended() {
        let counters = Counters::new(Clock::start(), false);
        for undone in [None, None, Some(Undone::Throttled)] {
            counters.answered(undone);
        }
        let mut status = BTreeMap::new();
        counters.add_to(&mut status);
        let count = |name: &str| status[&format!("kinesis_requests_{name}")] as u64;
        assert_eq!([count("total"), count("throttled"), count("invalid")], [3, 1, 0]);
    }
}
