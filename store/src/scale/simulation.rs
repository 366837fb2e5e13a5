//! Days of changing load in a moment: a scaler with a sequencer's own splits, merges and throttles.

use std::time::Duration;

use protocol::hash::HashKeyRange;
use protocol::rng::Rng;
use protocol::stream::StreamConfig;

use super::*;
use crate::shard::group::Group;
use crate::shard::sequencer::{NewRecord, Now, Placed, Rules, Sequencer};
use crate::shard::state::StreamState;

/// Few and small records in place of many: a shard takes eight of them a second.
const RATE: ShardRate = ShardRate { bytes_per_second: 8 * 64, records_per_second: 1000 };
const START_MS: u64 = 1_700_000_000_000;

struct World {
    sequencer: Sequencer,
    scaler: Scaler,
    now_ms: u64,
    offered: u64,
    throttled: u64,
    changes: Vec<(u64, Decision)>,
    rng: Rng,
}

impl World {
    fn new(policy: Policy) -> World {
        let rules = Rules { shard_rate: Some(RATE), record_bytes_max: 1 << 20, observe: true };
        World {
            sequencer: Sequencer::new(StreamState::new(SHARDS_MIN as u32, UnixMs(START_MS)), rules),
            scaler: Scaler::new(policy, &Peaks::new()),
            now_ms: 0,
            offered: 0,
            throttled: 0,
            changes: Vec::new(),
            rng: Rng::new(11),
        }
    }

    fn now(&self) -> Now {
        Now { mono: Mono::from_millis(self.now_ms), wall: UnixMs(START_MS + self.now_ms) }
    }

    /// One second in which so many shards' worth of records are offered, each at a key that `place` says.
    fn second(&mut self, shards: f64, place: &mut dyn FnMut(&mut Rng) -> u128) {
        let data = [0; 63];
        // What is not a whole record this second, is one in some seconds.
        let chance = self.rng.next_u64() as f64 / u64::MAX as f64;
        let count = (shards * 8.0 + chance) as usize;
        for step in 0..4 {
            let part = count * (step + 1) / 4 - count * step / 4;
            let records: Vec<NewRecord<'_>> = (0..part)
                .map(|_| {
                    let hash_key = HashKey(place(&mut self.rng));
                    NewRecord { partition_key: "k", explicit_hash_key: Some(hash_key), hash_key, data: &data }
                })
                .collect();
            let now = self.now();
            let mut group = Group::<()>::default();
            let placed =
                self.sequencer.handle_records(protocol::name::StreamKey(1), &records, now, &mut group);
            self.offered += part as u64;
            self.throttled += placed.iter().filter(|p| matches!(p, Placed::Throttled { .. })).count() as u64;
            self.now_ms += 250;
        }
        self.scale();
    }

    /// As [`second`](Self::second) without any records, for as long as one likes.
    fn silence(&mut self, seconds: u64) {
        for _ in 0..seconds / 10 {
            self.now_ms += 10_000;
            self.scale();
        }
    }

    fn scale(&mut self) {
        let now = self.now();
        let loads = self.sequencer.take_loads();
        let shards = self.sequencer.state().shards.clone();
        self.scaler.handle_loads((now.mono, now.wall), RATE, &shards, &loads);
        let Some(decision) = self.scaler.poll(now.mono, &shards) else { return };
        let mut group = Group::<()>::default();
        match &decision {
            Decision::Split { shard, at, .. } => {
                self.sequencer.split(*shard, Some(*at), now, &mut group).unwrap();
            }
            Decision::Merge { shard, adjacent, .. } => {
                self.sequencer.merge(*shard, *adjacent, now, &mut group).unwrap();
            }
            Decision::Stuck { .. } => {}
        }
        self.changes.push((self.now_ms, decision));
        self.check();
    }

    /// The open shards are the key space, whatever was split and merged; closed parents stay closed.
    fn check(&self) {
        let state = self.sequencer.state();
        let mut next = Some(0u128);
        for (id, shard) in open(&state.shards) {
            assert_eq!(next, Some(shard.range.start.0), "{id} does not begin where the one before it ends");
            next = shard.range.end.0.checked_add(1);
            for parent in &shard.parents {
                assert!(state.shards.get(parent).is_none_or(|parent| parent.closed.is_some()));
            }
        }
        assert_eq!(next, None, "the key space has an end that is nobody's");
    }

    fn open(&self) -> usize {
        open(&self.sequencer.state().shards).len()
    }

    fn throttled_share(&mut self) -> f64 {
        let share = self.throttled as f64 / self.offered.max(1) as f64;
        (self.offered, self.throttled) = (0, 0);
        share
    }

    fn changes_within(&self, from_ms: u64, to_ms: u64) -> usize {
        self.changes.iter().filter(|(at, _)| (from_ms..to_ms).contains(at)).count()
    }
}

fn anywhere(rng: &mut Rng) -> u128 {
    u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64())
}

/// A day's wave between `low` and `high`, highest in the middle.
fn wave(second: u64, low: f64, high: f64) -> f64 {
    let turn = (second % 86_400) as f64 / 86_400.0 * std::f64::consts::TAU;
    low + (high - low) * (1.0 - turn.cos()) / 2.0
}

#[test]
fn days_of_a_daily_wave_are_followed_up_and_down_and_hardly_anything_is_turned_away() {
    for policy in [Policy::Immediate, Policy::DoublePeak] {
        let mut world = World::new(policy);
        let (mut most, mut least) = (0, usize::MAX);
        for day in 0..2u64 {
            for second in 0..86_400 {
                world.second(wave(second, 0.5, 12.0), &mut anywhere);
                most = most.max(world.open());
                if day > 0 {
                    least = least.min(world.open());
                }
            }
            let share = world.throttled_share();
            assert!(share < 0.02, "day {day} of {policy:?}: {share} turned away");
        }
        assert!((14..=40).contains(&most), "{policy:?}: {most} shards at most");
        match policy {
            // It comes down every night.
            Policy::Immediate => assert!(least <= 8, "{least} shards at least"),
            // It keeps what the last thirty days' peak asks for.
            Policy::DoublePeak => assert!(least >= 20, "{least} shards at least"),
        }
        assert!(world.changes.len() < 200, "{policy:?}: {} changes in two days", world.changes.len());
        let flaps = (0..48).map(|hour| world.changes_within(hour * 3_600_000, (hour + 1) * 3_600_000)).max();
        assert!(flaps < Some(40), "{policy:?}: {flaps:?} changes in an hour");
    }
}

#[test]
fn a_hot_range_is_divided_where_it_is_hot() {
    let mut world = World::new(Policy::Immediate);
    // Four fifths of the load are in a thousandth of the key space.
    let hot =
        HashKeyRange { start: HashKey(u128::MAX / 10), end: HashKey(u128::MAX / 10 + u128::MAX / 1000) };
    let mut place = |rng: &mut Rng| {
        let key = anywhere(rng);
        if rng.next_u64().is_multiple_of(5) { key } else { hot.start.0 + key % (hot.end.0 - hot.start.0) }
    };
    for _ in 0..60 {
        world.second(4.0, &mut place);
    }
    world.throttled_share();
    for _ in 0..60 {
        world.second(4.0, &mut place);
    }
    let share = world.throttled_share();
    assert!(share < 0.02, "{share} turned away after a minute");
    let inside = open(&world.sequencer.state().shards)
        .iter()
        .filter(|(_, shard)| shard.range.end >= hot.start && shard.range.start <= hot.end)
        .count();
    assert!(inside >= 4 && world.open() <= 16, "{inside} of {} shards are in the hot range", world.open());
}

#[test]
fn a_burst_is_met_within_seconds_by_the_one_rule_and_within_a_minute_or_so_by_the_other() {
    for (policy, settled_s) in [(Policy::Immediate, 40), (Policy::DoublePeak, 120)] {
        let mut world = World::new(policy);
        for _ in 0..settled_s {
            world.second(10.0, &mut anywhere);
        }
        world.throttled_share();
        for _ in 0..60 {
            world.second(10.0, &mut anywhere);
        }
        let share = world.throttled_share();
        assert!(share < 0.03, "{policy:?}: {share} turned away, with {} shards", world.open());
    }
}

#[test]
fn silence_brings_it_back_to_where_it_began() {
    let mut world = World::new(Policy::Immediate);
    for _ in 0..60 {
        world.second(10.0, &mut anywhere);
    }
    assert!(world.open() > 10);
    world.silence(7200);
    assert_eq!(world.open(), SHARDS_MIN);
    let Some((_, Decision::Merge { why, .. })) = world.changes.last() else { panic!("{:?}", world.changes) };
    assert!(why.contains("took 0 % of one shard's rate together"), "{why}");
    // A month later AWS's rule has forgotten the peak too.
    let mut world = World::new(Policy::DoublePeak);
    for _ in 0..300 {
        world.second(10.0, &mut anywhere);
    }
    world.silence(7200);
    assert!((19..=22).contains(&world.open()), "within thirty days it stays: {}", world.open());
    world.now_ms += 31 * DAY_MS;
    world.silence(7200);
    assert_eq!(world.open(), SHARDS_MIN);
}

#[test]
fn a_single_hot_key_is_told_and_nothing_is_divided_for_it() {
    let mut world = World::new(Policy::Immediate);
    for _ in 0..120 {
        world.second(3.0, &mut |_| 7);
    }
    let stuck: Vec<_> = world.changes.iter().filter(|(_, d)| matches!(d, Decision::Stuck { .. })).collect();
    assert_eq!((stuck.len(), world.open()), (1, SHARDS_MIN), "{:?}", world.changes);
    let Decision::Stuck { why, .. } = &stuck[0].1 else { unreachable!() };
    assert!(why.contains("one partition key's") && why.contains("turned"), "{why}");
}

#[test]
fn whatever_the_load_the_open_shards_are_the_whole_key_space() {
    for seed in 0..20 {
        let mut world = World::new(if seed % 2 == 0 { Policy::Immediate } else { Policy::DoublePeak });
        world.rng = Rng::new(seed);
        for _ in 0..30 {
            let (shards, width) = ((world.rng.next_u64() % 20) as f64, world.rng.next_u64() % 100);
            let from = anywhere(&mut world.rng);
            for _ in 0..world.rng.next_u64() % 30 {
                // As few as one key, and as many as all.
                world.second(shards, &mut |rng| from.wrapping_add(anywhere(rng) >> (width * 5 / 4)));
            }
            world.now_ms += world.rng.next_u64() % 1_000_000;
        }
        world.check();
        assert!((SHARDS_MIN..=SHARDS_MAX).contains(&world.open()));
    }
}

#[test]
fn what_is_not_on_demand_observes_nothing() {
    let rules = crate::shard::commit::rules(&StreamConfig::default());
    assert!(!rules.observe);
    assert!(Duration::from_secs(1) > SPLIT_EVERY, "one change a second");
}

fn shards(count: usize) -> BTreeMap<ShardId, Shard> {
    StreamState::new(count as u32, UnixMs(START_MS)).shards
}

fn loaded(scaler: &mut Scaler, second: u64, shards: &BTreeMap<ShardId, Shard>) {
    let load = |shard: &Shard| {
        let (mut load, width) = (Load::default(), shard.range.end.0 - shard.range.start.0);
        load.stored(1 << 40, 1 << 20);
        (0..100).for_each(|n| load.sample.add(HashKey(shard.range.start.0 + width / 100 * n), 1024));
        load
    };
    let loads = shards.iter().map(|(id, shard)| (*id, load(shard))).collect();
    let at = (Mono::from_millis(second * 1000), UnixMs(START_MS + second * 1000));
    scaler.handle_loads(at, RATE, shards, &loads);
}

/// Reaches `SHARDS_MAX` of store/src/scale/mod.rs.
#[test]
fn a_stream_that_has_as_many_shards_as_it_may_is_not_split_however_hot_it_is() {
    for (count, splits) in [(SHARDS_MAX - 1, true), (SHARDS_MAX, false)] {
        let (mut scaler, shards) = (Scaler::new(Policy::Immediate, &Peaks::new()), shards(count));
        (1..6).for_each(|n| loaded(&mut scaler, n * 10, &shards));
        let decision = scaler.poll(Mono::from_millis(100_000), &shards);
        assert_eq!(matches!(decision, Some(Decision::Split { .. })), splits, "{count} shards");
        assert_eq!(scaler.wanted(), SHARDS_MAX, "it wants no more either");
    }
}

/// Reaches `KEYS_MAX` of store/src/scale/mod.rs.
#[test]
fn so_many_keys_of_a_shard_are_remembered_and_the_oldest_are_forgotten_first() {
    let (mut scaler, shards) = (Scaler::new(Policy::Immediate, &Peaks::new()), shards(1));
    let mut known = |second: u64| {
        loaded(&mut scaler, second, &shards);
        scaler.shards.values().map(|seen| seen.keys.len()).sum::<usize>()
    };
    let counts: Vec<usize> = (1..9).map(&mut known).collect();
    assert_eq!(counts, [100, 200, 300, 400, 500, KEYS_MAX, KEYS_MAX, KEYS_MAX]);
}
