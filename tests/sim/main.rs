//! The simulated world, thousands of times: every seed is another history of crashes, lost answers, resets, splits,
//! full disks and failing syncs, and in every one all promises hold. One seed is replayed with its story by
//! `SIM_SEED=<seed> cargo test -p tests --test sim`.

use tests::world::check::Violation;
use tests::world::run;
use tests::world::scenario::{MUTANTS, Mutant, Scenario};

/// Histories; the program `sim` runs as many as somebody wants.
const SEEDS: u64 = 2000;

/// A broken world is found out within this many.
const MUTANT_SEEDS: u64 = 2000;

/// So many broken histories are told of at once.
const BROKEN_MAX: usize = 12;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn replay_line(seed: u64) -> String {
    format!("SIM_SEED={seed} cargo test -p tests --test sim every_promise -- --nocapture")
}

#[test]
fn every_promise_holds_in_every_history() {
    if let Some(seed) = number("SIM_SEED") {
        let report = run(&Scenario::new(seed, None), true);
        assert_eq!(report.violation, None, "seed {seed}");
        return;
    }
    let (from, count) = (number("SIM_FROM").unwrap_or(0), SEEDS);
    let (mut events, mut crashes, mut broken) = (0, 0, Vec::new());
    for seed in from..from + count {
        let report = run(&Scenario::new(seed, None), false);
        events += report.events;
        crashes += report.store_crashes;
        if let Some(violation) = report.violation {
            let Violation { promise, what } = violation;
            broken.push(format!("seed {seed}: {promise}: {what}\n  replay: {}", replay_line(seed)));
        }
        if broken.len() >= BROKEN_MAX {
            break;
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
    eprintln!("{count} histories from seed {from} on, {events} events, {crashes} crashes of the store");
    assert!(crashes > count, "histories without crashes prove little");
}

#[test]
fn ten_minutes_of_splits_merges_retention_and_readers_break_no_promise() {
    for seed in 0..number("SIM_RESHARD_SEEDS").unwrap_or(4) {
        let report = run(&Scenario::resharding(seed, seed % 2 == 1), false);
        assert_eq!(report.violation, None, "seed {seed}");
        assert!(report.reshards > 400, "seed {seed}: {} splits and merges", report.reshards);
        assert_eq!(report.store_crashes > 10, seed % 2 == 1, "seed {seed}: {} crashes", report.store_crashes);
    }
}

#[test]
fn the_same_seed_is_the_same_history() {
    for seed in 0..20 {
        let scenario = Scenario::new(seed, None);
        let (first, second) = (run(&scenario, false), run(&scenario, false));
        assert_eq!((first.hash, first.events), (second.hash, second.events), "seed {seed}");
    }
}

/// The first seed in which a mutant is caught, and by which promise.
fn caught(mutant: Mutant) -> Option<(u64, &'static str)> {
    (0..MUTANT_SEEDS).find_map(|seed| {
        let report = run(&Scenario::new(seed, Some(mutant)), false);
        report.violation.map(|violation| (seed, violation.promise))
    })
}

#[test]
fn every_deliberate_defect_is_caught() {
    let mut survived = Vec::new();
    for mutant in MUTANTS {
        match caught(mutant) {
            Some((seed, promise)) => eprintln!("{mutant:?}: seed {seed}: {promise}"),
            None => survived.push(mutant),
        }
    }
    assert!(survived.is_empty(), "nobody noticed {survived:?} in {MUTANT_SEEDS} histories");
}
