//! The store's edge: one port with TLS ([`listener`]), and behind it one module for each wire format. An API
//! turns bytes into calls of [`crate::service`] and back. Never in here: what a stream is, files.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use protocol::limit;

use crate::auth::Auth;
use crate::clock::Clock;
use crate::service::Service;

pub mod calls;
pub mod counters;
pub(crate) mod kinesis;
mod kvs;
pub mod listener;
pub mod native;
mod pieces;
mod readers;
mod upload;
pub(crate) mod video;

use counters::Counters;
pub use video::{asked as video_asked, lists as video_lists};

/// The protocols inside TLS that the listener can pass on.
pub const ALPN: [&[u8]; 3] = [protocol::native::ALPN, b"h2", b"http/1.1"];

/// Bounds of the edge. `Default` is what `kinesin serve` uses; tests use shorter times.
#[derive(Debug, Clone)]
pub struct Limits {
    /// For the TLS handshake.
    pub handshake: Duration,
    /// From the end of the handshake to the end of the hello.
    pub hello: Duration,
    /// Without a message (a ping counts) before the connection is closed.
    pub idle: Duration,
    /// Without progress while something waits to be sent.
    pub stall: Duration,
    /// How long a stream that was made or changed over HTTP says so before it is active.
    pub status_delay: Duration,
    /// Region of the streams that agents write to, as requests over HTTP name it.
    pub home_region: String,
    /// For the goodbye, and for what is under way when the store ends.
    pub farewell: Duration,
    /// Connections that have not finished their handshake and hello.
    pub half_open_max: usize,
    /// Connections in all.
    pub connections_max: usize,
    /// Connections from one address.
    pub per_address_max: usize,
    /// Calls of one connection at the same time.
    pub calls_max: usize,
    /// Bytes of batches that are being received or are not answered, of all connections together.
    pub pending_bytes_max: usize,
    /// Batches of one connection that are not answered.
    pub inflight_batches_max: usize,
    /// Bytes of one connection's batches that are not answered.
    pub inflight_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            handshake: Duration::from_secs(10),
            hello: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            stall: Duration::from_secs(30),
            status_delay: Duration::from_millis(100),
            home_region: "local-1".to_owned(),
            farewell: Duration::from_secs(5),
            half_open_max: 1024,
            connections_max: 8192,
            per_address_max: 2048,
            calls_max: 64,
            pending_bytes_max: 256 << 20,
            inflight_batches_max: limit::INFLIGHT_BATCHES_MAX,
            inflight_bytes_max: limit::INFLIGHT_BYTES_MAX,
        }
    }
}

/// What every connection of the edge has in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) service: Service,
    pub(crate) auth: Arc<Auth>,
    pub(crate) limits: Limits,
    pub(crate) counters: Counters,
    pub(crate) pending: Budget,
    pub(crate) clock: Clock,
    pub(crate) kinesis: Arc<kinesis::Kinesis>,
    pub(crate) producers: video::ingest::Producers,
    pub(crate) readers: readers::Readers,
    /// Memory for the frames that producers send.
    pub(crate) frames: ::video::pool::Pool,
}

/// Bytes that all connections together may hold.
#[derive(Debug)]
pub(crate) struct Budget {
    used: AtomicUsize,
    max: usize,
}

impl Budget {
    pub(crate) fn new(max: usize) -> Budget {
        Budget { used: AtomicUsize::new(0), max }
    }

    /// Takes `bytes`, or says no. Something larger than the whole budget is let through when it is unused.
    pub(crate) fn try_take(&self, bytes: usize) -> bool {
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        let fits = before == 0 || before + bytes <= self.max;
        if !fits {
            self.give(bytes);
        }
        fits
    }

    pub(crate) fn give(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_never_overdrawn_and_never_starves_a_large_message() {
        let budget = Budget::new(100);
        assert!(budget.try_take(60));
        assert!(!budget.try_take(60));
        budget.give(60);
        assert!(budget.try_take(1000), "larger than all of it, but alone");
        budget.give(1000);
        assert_eq!(budget.used(), 0);
    }
}
