//! What kind of world a seed makes, and the ways in which a world can be broken on purpose. Pure.

use protocol::bucket::ShardRate;
use protocol::rng::Rng;

/// A defect put in on purpose: a checker that can't catch it is worth nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// The store answers when a batch is written, before it is synced.
    AckBeforeSync,
    /// A sync reports success and does nothing.
    SkipSync,
    /// Making names durable does nothing.
    SkipSyncDir,
    /// After a failed sync the store goes on as if it had worked.
    RetryFailedSync,
    /// The store does not know a batch again.
    NoDedupe,
    /// The head of a segment leaves out how far the producers are.
    ForgetLanesAtHead,
    /// After a split the children begin one too early.
    SplitOffByOne,
    /// Readers are given what is not durable.
    DeliverBeforeDurable,
    /// The store enforces no rate.
    ThrottleIgnored,
    /// One shard over its rate stops all of them.
    ThrottleEverything,
    /// What comes behind a lane's first batch, which was turned away, is taken for the first.
    BusyForgotten,
    /// A batch after a refused one is taken before it.
    NoOrder,
    /// The bound on waiting bytes is not looked at.
    NoPendingBound,
    /// Retention removes what is not old.
    TrimTooMuch,
    /// The store flips a bit on the way to the disk.
    FlipBit,
    /// The producer takes a batch for delivered once it is sent.
    DeliveredOnSend,
    /// The producer never gives back what was delivered.
    SpoolAcksDropped,
    /// The producer does not count what the store refused.
    RefusedNotCounted,
    /// The producer starts again without what it had made durable.
    SpoolForgets,
    /// The agent's spool reports success of syncs that it does not do.
    AgentSkipsSync,
    /// The agent's cursor goes on before what it has passed is in the spool.
    CursorRunsAhead,
}

/// All of them.
pub const MUTANTS: [Mutant; 21] = [
    Mutant::AckBeforeSync,
    Mutant::SkipSync,
    Mutant::SkipSyncDir,
    Mutant::RetryFailedSync,
    Mutant::NoDedupe,
    Mutant::ForgetLanesAtHead,
    Mutant::SplitOffByOne,
    Mutant::DeliverBeforeDurable,
    Mutant::ThrottleIgnored,
    Mutant::ThrottleEverything,
    Mutant::BusyForgotten,
    Mutant::NoOrder,
    Mutant::NoPendingBound,
    Mutant::TrimTooMuch,
    Mutant::FlipBit,
    Mutant::DeliveredOnSend,
    Mutant::SpoolAcksDropped,
    Mutant::RefusedNotCounted,
    Mutant::SpoolForgets,
    Mutant::AgentSkipsSync,
    Mutant::CursorRunsAhead,
];

/// These are in the model.
const IN_MODEL: [Mutant; 4] =
    [Mutant::DeliveredOnSend, Mutant::SpoolAcksDropped, Mutant::RefusedNotCounted, Mutant::SpoolForgets];

/// These are in the agent.
const IN_AGENT: [Mutant; 2] = [Mutant::AgentSkipsSync, Mutant::CursorRunsAhead];

/// Which producers a world has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProducerKind {
    /// A small one that is easily seen to be right.
    Model,
    /// The real agent's machines.
    Agent,
}

/// A world's settings. All of them follow from the seed.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The seed.
    pub seed: u64,
    /// What is broken.
    pub mutant: Option<Mutant>,
    /// Who produces.
    pub kind: ProducerKind,
    /// How many producers.
    pub producers: u32,
    /// Keys of each.
    pub keys: u32,
    /// Lanes of each.
    pub lanes: u32,
    /// Records that each makes.
    pub records: u32,
    /// Milliseconds in which it makes them, and in which things go wrong.
    pub chaos_ms: u64,
    /// Shards at first.
    pub shards: u32,
    /// What a shard takes.
    pub rate: Option<ShardRate>,
    /// One producer that keeps to the rate, and a network that delays evenly: nothing may be throttled.
    pub lone: bool,
    /// Longest record.
    pub record_bytes_max: u32,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Bytes that wait for commits, at most.
    pub pending_max: usize,
    /// How long records are kept, in milliseconds.
    pub retention_ms: u64,
    /// Batches that a producer has on its way, at most.
    pub inflight_max: u32,
    /// Bytes of a producer's spool, at most.
    pub spool_bytes_max: u64,
    /// Mean time between crashes of the store, in milliseconds; 0 for none. The others alike.
    pub store_crash_ms: u64,
    /// ... of a producer.
    pub producer_crash_ms: u64,
    /// ... of a connection.
    pub reset_ms: u64,
    /// ... until the network is cut.
    pub cut_ms: u64,
    /// ... between splits and merges.
    pub reshard_ms: u64,
    /// ... until the disk is full for a while.
    pub full_ms: u64,
    /// It is full in the beginning.
    pub full_at_dawn: bool,
    /// ... until a sync or a write fails.
    pub io_error_ms: u64,
    /// The network's delay, in microseconds: at least, and so much more at most.
    pub delay_us: (u64, u64),
    /// A commit's duration, in microseconds: at least, and so much more at most.
    pub commit_us: (u64, u64),
}

/// One of these, each as likely.
fn one_of<T: Copy>(rng: &mut Rng, choices: &[T]) -> T {
    choices[rng.below(choices.len() as u64) as usize]
}

impl Scenario {
    /// The scenario of a seed. Each kind of fault is left out in some of them, so that it does not always hide
    /// the others.
    #[must_use]
    pub fn new(seed: u64, mutant: Option<Mutant>) -> Scenario {
        let mut rng = Rng::new(seed ^ 0x5EED);
        let lone = rng.chance(150);
        let rate = match rng.below(4) {
            _ if lone => 1,
            n => n,
        };
        let bytes_per_second = rng.between(2_000, 20_000);
        let records_per_second = rng.between(20, 400);
        let rate = (rate > 0).then_some(ShardRate { bytes_per_second, records_per_second });
        let kind = match mutant {
            Some(mutant) if IN_MODEL.contains(&mutant) => ProducerKind::Model,
            Some(mutant) if IN_AGENT.contains(&mutant) => ProducerKind::Agent,
            _ if rng.chance(600) => ProducerKind::Agent,
            _ => ProducerKind::Model,
        };
        let full_at_dawn = rng.chance(100);
        let mut some = |choices: &[u64]| one_of(&mut rng, choices);
        let mut scenario = Scenario {
            seed,
            mutant,
            kind,
            producers: some(&[1, 1, 2, 3]) as u32,
            keys: some(&[1, 2, 3, 6]) as u32,
            lanes: some(&[1, 1, 2, 3]) as u32,
            records: some(&[60, 150, 300]) as u32,
            chaos_ms: some(&[1_500, 4_000, 10_000]),
            shards: some(&[1, 1, 2, 4]) as u32,
            rate,
            lone,
            record_bytes_max: some(&[600, 1500, 4096]) as u32,
            segment_bytes: some(&[1500, 4096, 4096, 12_000]),
            pending_max: some(&[9_000, 20_000, 1 << 20]) as usize,
            retention_ms: some(&[2_000, 10_000, 3_600_000]),
            inflight_max: some(&[1, 4, 16]) as u32,
            spool_bytes_max: some(&[6_000, 20_000, 1 << 20]),
            store_crash_ms: some(&[0, 300, 700, 2_000]),
            producer_crash_ms: some(&[0, 0, 500, 1_500]),
            reset_ms: some(&[0, 100, 400, 1_500]),
            cut_ms: some(&[0, 0, 1_000]),
            reshard_ms: some(&[0, 0, 150, 600]),
            full_ms: some(&[0, 0, 700]),
            full_at_dawn,
            io_error_ms: some(&[0, 0, 800]),
            delay_us: (some(&[10, 200, 5_000]), some(&[0, 500, 20_000, 80_000])),
            commit_us: (some(&[50, 1_000]), some(&[100, 4_000, 60_000])),
        };
        if kind == ProducerKind::Agent {
            // Its spool keeps room for its own frames.
            scenario.spool_bytes_max = scenario.spool_bytes_max.max(14_000) * 3;
        }
        if lone {
            scenario.producers = 1;
            scenario.lanes = 1;
            scenario.shards = 1;
            scenario.reshard_ms = 0;
            scenario.cut_ms = 0;
            // What the network delays unevenly arrives closer together than it was sent.
            scenario.delay_us.1 = scenario.delay_us.1.min(20_000);
        }
        scenario
    }

    /// Ten minutes of splits and merges, one a second, of records that expire after ten seconds, and of readers; with
    /// crashes of the store as well, or without any other fault.
    #[must_use]
    pub fn resharding(seed: u64, with_crashes: bool) -> Scenario {
        Scenario {
            kind: ProducerKind::Agent,
            producers: 2,
            keys: 6,
            lanes: 2,
            records: 5_000,
            chaos_ms: 600_000,
            shards: 2,
            rate: None,
            lone: false,
            record_bytes_max: 4096,
            segment_bytes: 12_000,
            pending_max: 1 << 20,
            retention_ms: 10_000,
            inflight_max: 4,
            spool_bytes_max: 1 << 20,
            store_crash_ms: if with_crashes { 20_000 } else { 0 },
            producer_crash_ms: 0,
            reset_ms: if with_crashes { 10_000 } else { 0 },
            cut_ms: 0,
            reshard_ms: 1_000,
            full_ms: 0,
            full_at_dawn: false,
            io_error_ms: 0,
            delay_us: (200, 500),
            commit_us: (1_000, 4_000),
            ..Scenario::new(seed, None)
        }
    }
}
