//! What the agent is doing, in numbers: counters that every thread adds to, and snapshots for people and tests.
//! Nothing is decided by them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::send::outbox::{Counts, Outbox};
use crate::spool::Spool;

/// Counters of one agent.
#[derive(Debug, Default)]
pub struct Stats {
    records_in: AtomicU64,
    bytes_in: AtomicU64,
    batches: AtomicU64,
    raw_bytes: AtomicU64,
    frame_bytes: AtomicU64,
    wire_bytes: AtomicU64,
    spool_bytes: AtomicU64,
    spool_undelivered_bytes: AtomicU64,
    commits: AtomicU64,
    lost_records: AtomicU64,
    lost_bytes: AtomicU64,
    keys_missing: AtomicU64,
    redelivered: AtomicU64,
    blocked: AtomicBool,
    connected: AtomicBool,
    idle: AtomicBool,
    looks: AtomicU64,
    text: Mutex<Text>,
}

#[derive(Debug, Default)]
struct Text {
    error: Option<String>,
    fatal: Option<String>,
    counts: Counts,
    outbox_idle: bool,
    outbox_ahead: u64,
    durable_end: u64,
    streams: Vec<String>,
    new_streams: Vec<String>,
    losses: BTreeMap<String, u64>,
    lags: BTreeMap<String, u64>,
}

/// The counters at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    /// Records that sources handed on.
    pub records_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Batches made.
    pub batches: u64,
    /// Bytes of batches before compression.
    pub raw_bytes: u64,
    /// Bytes of batches after it, headers included.
    pub frame_bytes: u64,
    /// Bytes of batches sent, again or not.
    pub wire_bytes: u64,
    /// Commits made durable.
    pub commits: u64,
    /// Batches stored.
    pub stored_batches: u64,
    /// Records stored.
    pub stored_records: u64,
    /// Records that the store had already when they were sent again.
    pub duplicate_records: u64,
    /// Answers that said to wait.
    pub throttled: u64,
    /// Records that the store refused.
    pub refused_records: u64,
    /// Answers that made no sense.
    pub odd_answers: u64,
    /// Bytes of the spool on disk.
    pub spool_bytes: u64,
    /// Bytes of it that the store does not have.
    pub backlog_bytes: u64,
    /// Records that the store does not have, as far as the spool was read.
    pub backlog_records: u64,
    /// Records lost since the spool was made.
    pub lost_records: u64,
    /// Bytes lost since the spool was made.
    pub lost_bytes: u64,
    /// Losses by reason.
    pub losses: BTreeMap<String, u64>,
    /// Records without the value that their partition key is made of.
    pub keys_missing: u64,
    /// Messages that a broker sent twice and that were recognised.
    pub redelivered: u64,
    /// The spool is full, and sources wait.
    pub blocked: bool,
    /// There is a connection to the store.
    pub connected: bool,
    /// The last thing that went wrong.
    pub last_error: Option<String>,
    /// What ended the agent.
    pub fatal: Option<String>,
    /// Bytes not read yet, by file, where there are any.
    pub lag_bytes: BTreeMap<String, u64>,
}

impl Stats {
    fn text(&self) -> std::sync::MutexGuard<'_, Text> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add_in(&self, records: u64, bytes: u64) {
        self.records_in.fetch_add(records, Ordering::Relaxed);
        self.bytes_in.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn add_keys_missing(&self) {
        self.keys_missing.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn add_redelivered(&self) {
        self.redelivered.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn add_wire(&self, bytes: u64) {
        self.wire_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn note_commit(&self, sealed: &crate::batcher::Sealed) {
        self.batches.fetch_add(sealed.batches, Ordering::Relaxed);
        self.raw_bytes.fetch_add(sealed.raw_bytes, Ordering::Relaxed);
        self.frame_bytes.fetch_add(sealed.frames.len() as u64, Ordering::Relaxed);
    }

    pub(crate) fn add_commit(&self) {
        self.commits.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Acquire)
    }

    /// Whether the pipeline has nothing to do, and how often it has looked everywhere.
    pub(crate) fn set_idle(&self, idle: bool, looks: u64) {
        self.idle.store(idle, Ordering::Release);
        self.looks.store(looks, Ordering::Release);
    }

    /// See [`set_idle`](Self::set_idle).
    pub(crate) fn idle(&self) -> (bool, u64) {
        (self.idle.load(Ordering::Acquire), self.looks.load(Ordering::Acquire))
    }

    pub(crate) fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Release);
        if connected {
            self.text().error = None;
        }
    }

    pub(crate) fn set_blocked(&self, blocked: bool) {
        self.blocked.store(blocked, Ordering::Release);
    }

    pub(crate) fn set_error(&self, why: &str) {
        self.text().error = Some(why.to_owned());
    }

    pub(crate) fn set_fatal(&self, why: &str) {
        self.text().fatal.get_or_insert_with(|| why.to_owned());
    }

    pub(crate) fn set_outbox(&self, outbox: &Outbox) {
        let mut text = self.text();
        text.counts = outbox.counts();
        text.outbox_idle = outbox.is_idle();
        text.outbox_ahead = outbox.ahead();
    }

    pub(crate) fn set_spool(&self, spool: &Spool) {
        self.spool_bytes.store(spool.bytes(), Ordering::Relaxed);
        self.spool_undelivered_bytes.store(spool.undelivered_bytes(), Ordering::Relaxed);
        self.lost_records.store(spool.state().ledger.records, Ordering::Relaxed);
        self.lost_bytes.store(spool.state().ledger.bytes, Ordering::Relaxed);
        let mut text = self.text();
        text.durable_end = spool.durable_end();
        if text.losses != spool.state().ledger.by_reason {
            text.losses.clone_from(&spool.state().ledger.by_reason);
        }
    }

    pub(crate) fn set_lags(&self, lags: BTreeMap<String, u64>) {
        self.text().lags = lags;
    }

    /// A stream that is written to.
    pub(crate) fn add_stream(&self, name: &str) {
        let mut text = self.text();
        if !text.streams.iter().any(|known| known == name) {
            text.streams.push(name.to_owned());
            text.new_streams.push(name.to_owned());
        }
    }

    pub(crate) fn stream_names(&self) -> Vec<String> {
        self.text().streams.clone()
    }

    pub(crate) fn take_new_streams(&self) -> Vec<String> {
        std::mem::take(&mut self.text().new_streams)
    }

    /// Whether the store has everything that is in the spool.
    pub(crate) fn is_delivered(&self) -> bool {
        let text = self.text();
        text.outbox_idle && text.outbox_ahead >= text.durable_end
    }

    /// All counters.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let text = self.text();
        let counts = text.counts;
        Snapshot {
            records_in: get(&self.records_in),
            bytes_in: get(&self.bytes_in),
            batches: get(&self.batches),
            raw_bytes: get(&self.raw_bytes),
            frame_bytes: get(&self.frame_bytes),
            wire_bytes: get(&self.wire_bytes),
            commits: get(&self.commits),
            stored_batches: counts.stored_batches,
            stored_records: counts.stored_records,
            duplicate_records: counts.duplicate_records,
            throttled: counts.throttled,
            refused_records: counts.refused_records,
            odd_answers: counts.odd_answers,
            spool_bytes: get(&self.spool_bytes),
            backlog_bytes: get(&self.spool_undelivered_bytes),
            backlog_records: counts.seen_records.saturating_sub(counts.done_records),
            lost_records: get(&self.lost_records),
            lost_bytes: get(&self.lost_bytes),
            losses: text.losses.clone(),
            keys_missing: get(&self.keys_missing),
            redelivered: get(&self.redelivered),
            blocked: self.blocked.load(Ordering::Acquire),
            connected: self.connected.load(Ordering::Acquire),
            last_error: text.error.clone(),
            fatal: text.fatal.clone(),
            lag_bytes: text.lags.clone(),
        }
    }
}
