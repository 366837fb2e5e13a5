//! The promises, each as a small machine that watches a run and says when it is broken. Pure.

use protocol::frame::Header;
use protocol::outcome::{Ack, Outcome};
use protocol::sequence::ShardId;
use protocol::time::UnixMs;
use store::log::Entry;
use store::shard::commit::ShardMap;
use store::shard::sequencer::Now;
use store::shard::state::StreamState;

use super::record::RecordId;
use super::scenario::Scenario;

mod bounds;
mod kept;
mod order;
mod rates;

/// What the store decided about a batch.
#[derive(Debug)]
pub struct Decided<'a> {
    /// Of the batch.
    pub header: &'a Header,
    /// Those of its records that can be stored: shard, and bytes that count.
    pub records: &'a [(RecordId, ShardId, u64)],
    /// The decision.
    pub outcome: &'a Outcome,
    /// When.
    pub now: Now,
}

/// Records that a reader got: those it had not had before.
#[derive(Debug)]
pub struct Read<'a> {
    /// From where.
    pub shard: ShardId,
    /// Of their batch.
    pub header: &'a Header,
    /// With their sequence numbers.
    pub records: &'a [(u64, RecordId)],
}

/// All that can be read of a shard now.
#[derive(Debug)]
pub struct Audit<'a> {
    /// Which.
    pub shard: ShardId,
    /// Where it begins.
    pub first: u64,
    /// Where it ends.
    pub tail: u64,
    /// What there is, from `first` on.
    pub records: &'a [(u64, RecordId)],
}

/// How a run ended.
#[derive(Debug)]
pub struct Ending<'a> {
    /// What each producer's source held.
    pub sources: Vec<&'a [RecordId]>,
    /// Records in each producer's loss ledger.
    pub lost: Vec<u64>,
    /// Whether it may have fewer there than were refused.
    pub may_miss: Vec<bool>,
    /// Everything was delivered in time.
    pub drained: bool,
    /// Where it was stuck, if it was.
    pub stuck: String,
}

/// What happened.
#[derive(Debug)]
pub enum Seen<'a> {
    /// The store started with this state.
    Started(&'a StreamState),
    /// The store decided.
    Decided(&'a Decided<'a>),
    /// These frames are synced, as far as the store knows.
    Synced(&'a [Entry]),
    /// The store answered that something is durable.
    Answered(&'a Ack),
    /// Somebody was shown these frames.
    Leaked(&'a [u8]),
    /// The shards as readers know them.
    Shards(&'a ShardMap),
    /// A reader that follows.
    Read(Read<'a>),
    /// A look at everything.
    Audit(Audit<'a>),
    /// Bytes that wait for commits.
    Pending(usize),
    /// Bytes in a producer's spool, and batches on their way.
    Spool(u64, u32),
    /// A producer has started again.
    Restarted,
    /// The store's clock when it decides what is old.
    Wall(UnixMs),
    /// Something that must not be: damage after a mere crash, an answer that makes no sense, an odd byte.
    Problem(&'a str),
    /// The end.
    End(&'a Ending<'a>),
}

/// One promise.
pub(crate) trait Checker {
    /// Which.
    fn promise(&self) -> &'static str;
    /// Looks at what happened.
    fn see(&mut self, seen: &Seen<'_>) -> Result<(), String>;
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which promise.
    pub promise: &'static str,
    /// What happened.
    pub what: String,
}

/// All promises.
pub struct Checks {
    checkers: Vec<Box<dyn Checker>>,
    violation: Option<Violation>,
}

/// What should never come up.
struct Sound;

impl Checker for Sound {
    fn promise(&self) -> &'static str {
        "a crash damages nothing, and every byte that is read was written"
    }

    fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        if let Seen::Problem(problem) = seen { Err((*problem).to_owned()) } else { Ok(()) }
    }
}

impl Checks {
    /// For this scenario.
    #[must_use]
    pub fn new(scenario: &Scenario) -> Checks {
        let checkers: Vec<Box<dyn Checker>> = vec![
            Box::new(Sound),
            Box::new(kept::Acked::new(scenario.retention_ms)),
            Box::new(kept::Stable::default()),
            Box::new(kept::Durable::default()),
            Box::new(order::Once::default()),
            Box::new(order::Order::new(scenario.record_bytes_max as usize)),
            Box::new(order::Numbers::default()),
            Box::new(rates::Rates::new(scenario)),
            Box::new(bounds::Bounds::new(scenario)),
            Box::new(bounds::Counted::new(scenario.record_bytes_max as usize)),
            Box::new(bounds::Drained),
        ];
        Checks { checkers, violation: None }
    }

    /// Shows it to all; the first objection stays.
    pub fn see(&mut self, seen: &Seen<'_>) {
        for checker in &mut self.checkers {
            if let Err(what) = checker.see(seen)
                && self.violation.is_none()
            {
                self.violation = Some(Violation { promise: checker.promise(), what });
            }
        }
    }

    /// The first objection.
    #[must_use]
    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }
}
