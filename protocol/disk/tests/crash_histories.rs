//! Whole histories with crashes at every call and at random ones: what was synced survives, what was not is a
//! prefix, recovery done twice ends in the same bytes, and groups are there whole or not at all.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{Claiming, Plain, Rng, SETTINGS, build, dir, scan_all};
use disk::{Crash, Damage, Disk, Framing, LogError, MemoryDisk, Position, SegmentLog};

/// What a correct log may hold.
#[derive(Clone, Default)]
struct Model {
    /// Every frame that was handed over and may be there, by position.
    frames: BTreeMap<Position, Vec<u8>>,
    /// Below it everything must be there.
    synced: Position,
    /// Below it things may be gone.
    trimmed: Position,
    /// Lost out of order by an earlier crash, before it was synced, and taken for damage ever since.
    damage: Vec<Damage>,
}

impl Model {
    fn note(&mut self, mut at: Position, frames: &[Vec<u8>]) {
        for frame in frames {
            self.frames.insert(at, frame.clone());
            at = at.plus(frame.len() as u64);
        }
    }

    /// One step of a writer's life; stops at the first error, as a writer must.
    fn step<F: Framing>(&mut self, log: &mut SegmentLog<F>, rng: &mut Rng) -> Result<(), LogError> {
        match rng.below(10) {
            0..6 => self.append(log, rng),
            6..9 => {
                self.synced = log.sync()?;
                Ok(())
            }
            _ => {
                let below = Position(rng.below(log.durable_end().0 + 1));
                self.trimmed = self.trimmed.max(below);
                log.trim(below).map(drop)
            }
        }
    }

    fn append<F: Framing>(&mut self, log: &mut SegmentLog<F>, rng: &mut Rng) -> Result<(), LogError> {
        let parts = 1 + rng.below(3);
        let claim = log.durable_end().0;
        let group: Vec<_> = (1..=parts).map(|n| build(&payload(rng), u8::from(n < parts), claim)).collect();
        let bytes = group.concat();
        if log.needs_roll(bytes.len() as u64) {
            // Rolling syncs what is there before it begins.
            let base = log.end();
            let head = build(b"head", 0, base.0);
            self.note(base, std::slice::from_ref(&head));
            log.roll(&head)?;
            self.synced = log.durable_end();
        }
        self.note(log.end(), &group);
        log.append(&bytes).map(drop)
    }

    /// Compares, and takes over what survived.
    fn check<F: Framing>(&mut self, log: &SegmentLog<F>, prefix_only: bool) {
        let (found, damage) = scan_all(&log.reader());
        assert!(log.start() <= self.trimmed, "only what was trimmed may be gone");
        for (position, frame) in &found {
            assert_eq!(self.frames.get(position), Some(frame), "a frame at {position} that nobody wrote");
        }
        let found: BTreeMap<_, _> = found.into_iter().collect();
        for (position, _) in self.frames.range(self.trimmed..self.synced) {
            assert!(found.contains_key(position), "the synced frame at {position} is gone");
        }
        for lost in &damage {
            let unsynced = lost.from >= self.synced || self.damage.contains(lost);
            assert!(unsynced && !prefix_only, "{lost:?}, synced {}", self.synced);
        }
        if let Some((_, last)) = found.last_key_value() {
            assert_eq!(last[2], 0, "the log ends within a group");
        }
        let expected_end =
            found.last_key_value().map_or(log.start(), |(at, last)| at.plus(last.len() as u64));
        assert_eq!(log.end(), expected_end);
        assert_eq!(log.durable_end(), log.end());
        self.frames = found;
        self.damage = damage;
        self.synced = log.end();
    }
}

fn payload(rng: &mut Rng) -> Vec<u8> {
    let len = if rng.below(4) == 0 { rng.below(1500) } else { rng.below(40) };
    // Pieces of the magic, to lead the search for valid frames astray.
    (0..len).map(|_| b"KFx"[rng.below(3) as usize]).collect()
}

fn reopen<F: Framing>(disk: &MemoryDisk) -> Option<SegmentLog<F>> {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    SegmentLog::open(shared, dir(), SETTINGS).ok().map(|(log, _)| log)
}

fn any_crash(rng: &mut Rng) -> Crash {
    if rng.below(4) == 0 { Crash::Process } else { Crash::Seeded(rng.below(u64::MAX)) }
}

/// Opens after a crash, crashing during recovery too until it gets through.
fn recover<F: Framing>(mut disk: MemoryDisk, rng: &mut Rng) -> (MemoryDisk, SegmentLog<F>) {
    for _ in 0..rng.below(3) {
        disk.crash_after_ops(rng.below(8));
        let _ = reopen::<F>(&disk);
        disk = disk.crash(any_crash(rng));
    }
    let log = reopen::<F>(&disk).expect("nothing is in the way of recovery");
    let once = disk.contents();
    let unplugged = disk.crash(Crash::DropUnsynced);
    assert_eq!(unplugged.contents(), once, "what recovery accepts is durable");
    drop(reopen::<F>(&unplugged).unwrap());
    assert_eq!(unplugged.contents(), once, "recovery done twice ends in the same bytes");
    (disk, log)
}

fn history<F: Framing>(seed: u64, crashes: u64, prefix_only: bool) {
    let mut rng = Rng(seed);
    let mut model = Model::default();
    let mut disk = MemoryDisk::new(seed);
    for _ in 0..crashes {
        let (now, mut log) = recover::<F>(disk, &mut rng);
        disk = now;
        model.check(&log, prefix_only);
        disk.crash_after_ops(rng.below(40));
        while model.step(&mut log, &mut rng).is_ok() {}
        disk = disk.crash(any_crash(&mut rng));
    }
    let (_, log) = recover::<F>(disk, &mut rng);
    model.check(&log, prefix_only);
}

#[test]
fn synced_frames_survive_thousands_of_random_crash_histories() {
    for seed in 0..1500 {
        history::<Plain>(seed, 4, false);
    }
}

#[test]
fn a_format_that_names_the_durable_end_leaves_an_exact_prefix_and_no_false_damage() {
    for seed in 0..1500 {
        history::<Claiming>(seed, 4, true);
    }
}

/// The same short life, stopped at every call it makes, each with several outcomes.
fn crash_at_every_op<F: Framing>(prefix_only: bool) {
    let mut ops = 0;
    loop {
        let disk = MemoryDisk::new(7);
        let (mut model, mut rng) = (Model::default(), Rng(7));
        disk.crash_after_ops(ops);
        if let Some(mut log) = reopen::<F>(&disk) {
            for _ in 0..60 {
                if model.step(&mut log, &mut rng).is_err() {
                    break;
                }
            }
        }
        let finished = disk.ops() <= ops;
        let outcomes =
            (0..12).map(Crash::Seeded).chain([Crash::Process, Crash::DropUnsynced, Crash::KeepAll]);
        for how in outcomes {
            let mut model = model.clone();
            let after = disk.crash(how);
            model.check(&reopen::<F>(&after).expect("nothing is in the way of recovery"), prefix_only);
        }
        if finished {
            break;
        }
        ops += 1;
    }
    assert!(ops > 50, "the life was longer than {ops} calls");
}

#[test]
fn a_crash_at_any_call_keeps_what_was_synced() {
    crash_at_every_op::<Plain>(false);
}

#[test]
fn a_crash_at_any_call_leaves_an_exact_prefix_where_the_format_names_the_durable_end() {
    crash_at_every_op::<Claiming>(true);
}

#[test]
fn the_same_seed_is_the_same_history() {
    let run = |seed| {
        let disk = MemoryDisk::new(seed);
        let mut log = reopen::<Plain>(&disk).unwrap();
        let (mut model, mut rng) = (Model::default(), Rng(seed));
        disk.crash_after_ops(30);
        while model.step(&mut log, &mut rng).is_ok() {}
        (disk.stats(), disk.crash(Crash::Seeded(seed)).contents())
    };
    for seed in 0..50 {
        assert_eq!(run(seed), run(seed));
    }
}
