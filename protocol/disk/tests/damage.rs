//! What failing media do to a log: damage is confined to its frames, reported, and never takes the rest with it.

mod common;

use common::{
    Claiming, HEADER, Plain, Rng, SETTINGS, build, dir, frame, open, open_as, part, payloads, put, scan_all,
    segment,
};
use disk::{Crash, Damage, Disk, MemoryDisk, Position, ReadError, SegmentLog, list_segments, scan_segment};

fn three_frames() -> (MemoryDisk, [Position; 4]) {
    let disk = MemoryDisk::new(1);
    let (mut log, _) = open(&disk);
    let at = [put(&mut log, b"one"), put(&mut log, b"two"), put(&mut log, b"three"), log.end()];
    (disk, at)
}

fn fill(log: &mut SegmentLog<Plain>, frames: u64) {
    for n in 0..frames {
        put(log, format!("{n:0100}").as_bytes());
    }
}

#[test]
fn a_torn_tail_is_cut_off() {
    let (disk, at) = three_frames();
    disk.append(&segment(0), &frame(b"never finished")[..30]).unwrap();
    let (log, recovery) = open(&disk);
    assert_eq!((recovery.torn_bytes, recovery.damage.len()), (30, 0));
    assert_eq!((log.end(), disk.len(&segment(0)).unwrap()), (at[3], at[3].0));
    assert_eq!(payloads(&log.reader()), ["one", "two", "three"]);
}

#[test]
fn a_tail_of_zeros_is_cut_off() {
    let (disk, at) = three_frames();
    disk.append(&segment(0), &[0; 3000]).unwrap();
    let (mut log, recovery) = open(&disk);
    assert_eq!(recovery.torn_bytes, 3000);
    assert_eq!(log.end(), at[3]);
    put(&mut log, b"four");
    assert_eq!(payloads(&log.reader()), ["one", "two", "three", "four"]);
}

#[test]
fn a_torn_tail_whose_payload_holds_a_valid_frame_is_still_torn() {
    let (disk, _) = three_frames();
    let mut payload = frame(b"forged by a sender");
    payload.extend([0; 200]);
    let torn = frame(&payload);
    disk.append(&segment(0), &torn[..torn.len() - 1]).unwrap();
    let (log, recovery) = open(&disk);
    assert!(recovery.damage.is_empty());
    assert_eq!(payloads(&log.reader()), ["one", "two", "three"]);
}

#[test]
fn damage_before_valid_frames_is_reported_and_the_rest_stays_readable() {
    for byte in [0, 3, 9, 16, 20, HEADER as u64] {
        let (disk, at) = three_frames();
        disk.flip_bit(&segment(0), (at[1].0 + byte) * 8);
        let before = disk.contents();
        let (log, recovery) = open(&disk);
        let lost = Damage { file: segment(0), from: at[1], to: at[2] };
        assert_eq!((recovery.torn_bytes, &recovery.damage), (0, &vec![lost.clone()]));
        assert_eq!(disk.contents(), before, "damage is never cut off");
        let (frames, damage) = scan_all(&log.reader());
        assert_eq!((frames.len(), damage), (2, vec![lost]));
        let read = log.reader().read(at[1], &mut Vec::new());
        assert!(matches!(read, Err(ReadError::Damaged { from, to }) if from == at[1] && to == at[2]));
        log.reader().read(at[2], &mut Vec::new()).unwrap();
    }
}

#[test]
fn damage_in_a_sealed_segment_is_found_by_readers_and_by_the_check() {
    let disk = MemoryDisk::new(1);
    let (mut log, _) = open(&disk);
    let positions: Vec<_> = (0..100).map(|n| put(&mut log, format!("{n:0100}").as_bytes())).collect();
    disk.flip_bit(&segment(0), (positions[1].0 + 50) * 8);
    let (log, recovery) = open(&disk);
    assert!(recovery.damage.is_empty(), "opening verifies only the newest segment");
    let lost = Damage { file: segment(0), from: positions[1], to: positions[2] };
    let read = log.reader().read(positions[1], &mut Vec::new());
    assert!(matches!(read, Err(ReadError::Damaged { to, .. }) if to == positions[2]));
    log.reader().read_unverified(positions[1], &mut Vec::new()).unwrap();
    let (frames, damage) = scan_all(&log.reader());
    assert_eq!((frames.len(), damage), (99 + log.segments().len() - 1, vec![lost.clone()]));

    let checks: Vec<_> = list_segments(&disk, &dir())
        .unwrap()
        .iter()
        .map(|s| scan_segment::<Plain>(&disk, s).unwrap())
        .collect();
    assert_eq!(checks.iter().map(|check| check.frames).sum::<u64>(), frames.len() as u64);
    let found: Vec<_> = checks.iter().flat_map(|check| check.damage.clone()).collect();
    assert_eq!(found, [lost]);
    assert!(checks.iter().all(|check| check.valid_end == check.segment.end()));
}

#[test]
fn a_missing_segment_is_reported_as_a_gap_and_skipped() {
    let disk = MemoryDisk::new(1);
    let (mut log, _) = open(&disk);
    fill(&mut log, 100);
    let segments = log.segments();
    disk.remove(&segments[1].file).unwrap();
    let (log, recovery) = open(&disk);
    let gap = Damage { file: segments[0].file.clone(), from: segments[1].base, to: segments[1].end() };
    assert_eq!(recovery.damage, std::slice::from_ref(&gap));
    let (frames, damage) = scan_all(&log.reader());
    assert_eq!(damage, [gap]);
    assert_eq!(frames.last().unwrap().0.plus(HEADER as u64 + 100), log.end());
    assert!(matches!(log.reader().read(segments[1].base, &mut Vec::new()), Err(ReadError::Damaged { .. })));
}

#[test]
fn an_incomplete_group_at_the_end_is_torn_and_never_surfaces() {
    let (disk, at) = three_frames();
    disk.append(&segment(0), &[part(b"a"), part(b"b")].concat()).unwrap();
    let (mut log, recovery) = open(&disk);
    assert_eq!((log.end(), recovery.torn_bytes), (at[3], 2 * (HEADER as u64 + 1)));
    log.append(&[part(b"a"), part(b"b"), frame(b"c")].concat()).unwrap();
    log.sync().unwrap();
    let (log, recovery) = open(&disk);
    assert_eq!(recovery.torn_bytes, 0);
    assert_eq!(payloads(&log.reader()), ["one", "two", "three", "a", "b", "c"]);
}

#[test]
fn a_newest_segment_without_a_head_is_removed_and_the_one_before_goes_on() {
    for torn in [0, 10, 26] {
        let (disk, at) = three_frames();
        disk.append(&segment(at[3].0), &frame(b"head")[..torn]).unwrap();
        let (mut log, recovery) = open(&disk);
        assert_eq!((recovery.segments, recovery.torn_bytes), (1, torn as u64));
        assert_eq!((log.active_base(), log.end()), (Position(0), at[3]));
        log.roll(&frame(b"head again")).unwrap();
        put(&mut log, b"four");
        let (log, _) = open(&disk.crash(Crash::DropUnsynced));
        assert_eq!(payloads(&log.reader()), ["one", "two", "three", "head again", "four"]);
    }
}

#[test]
fn a_damaged_end_before_a_headless_segment_is_damage_and_its_positions_are_not_used_again() {
    let (disk, at) = three_frames();
    disk.append(&segment(at[3].0), &[]).unwrap();
    disk.flip_bit(&segment(0), (at[2].0 + 25) * 8);
    for _ in 0..2 {
        let (log, recovery) = open(&disk);
        assert_eq!(recovery.damage, [Damage { file: segment(0), from: at[2], to: at[3] }]);
        assert_eq!((log.active_base(), log.active_len(), log.end()), (at[3], 0, at[3]));
        assert_eq!(payloads(&log.reader()), ["one", "two"]);
    }
    let (mut log, _) = open(&disk);
    log.roll(&frame(b"head")).unwrap();
    let (log, _) = open(&disk);
    assert_eq!(payloads(&log.reader()), ["one", "two", "head"]);
}

#[test]
fn bytes_lost_out_of_order_before_the_first_sync_are_torn_where_the_format_can_tell() {
    let disk = MemoryDisk::new(1);
    let (mut log, _) = open_as::<Claiming>(&disk);
    let kept = log.append(&build(b"kept", 0, 0)).unwrap();
    let synced = log.sync().unwrap();
    let lost = log.append(&build(b"lost", 0, synced.0)).unwrap();
    log.append(&build(b"later", 0, synced.0)).unwrap();
    log.sync().unwrap();
    disk.corrupt(&segment(0), lost.0, &[0; 27]);
    let (log, recovery) = open_as::<Claiming>(&disk);
    assert_eq!((log.end(), recovery.damage.len()), (synced, 0));
    assert_eq!(payloads(&log.reader()), ["kept"]);

    // The same bytes lost below what a later frame knows to be durable are damage.
    let (mut log, _) = open_as::<Claiming>(&disk);
    log.append(&build(b"later", 0, synced.0)).unwrap();
    log.sync().unwrap();
    disk.corrupt(&segment(0), kept.0, &[0; 27]);
    let (log, recovery) = open_as::<Claiming>(&disk);
    assert_eq!(recovery.damage, [Damage { file: segment(0), from: kept, to: synced }]);
    assert_eq!(payloads(&log.reader()), ["later"]);
}

#[test]
fn cutting_off_lost_bytes_never_goes_back_below_what_was_durable() {
    let disk = MemoryDisk::new(1);
    let (mut log, _) = open_as::<Claiming>(&disk);
    let first = log.append(&build(b"first", 0, 0)).unwrap();
    let second = log.append(&build(b"second", 0, 0)).unwrap();
    let durable = log.sync().unwrap();
    let begun = build(b"begun", 1, durable.0);
    let lost = log.append(&begun).unwrap().plus(begun.len() as u64);
    log.append(&build(b"lost", 1, durable.0)).unwrap();
    log.append(&build(b"last", 0, durable.0)).unwrap();
    let end = log.sync().unwrap();
    for at in [second, lost] {
        disk.corrupt(&segment(0), at.0, &[0; 20]);
    }
    // The group began before the lost bytes, and what is before it is damaged too: going back would go to `second`.
    let (log, recovery) = open_as::<Claiming>(&disk);
    assert_eq!((log.start(), log.end()), (first, end));
    assert_eq!((recovery.torn_bytes, recovery.damage.len()), (SETTINGS.reserve_bytes, 2));
    assert_eq!(payloads(&log.reader()), ["first", "begun", "last"]);
}

#[test]
fn the_next_frame_is_found_wherever_the_pieces_that_are_read_end() {
    for zeros in (1 << 20) - 70..(1 << 20) + 10 {
        let disk = MemoryDisk::new(1);
        let (mut log, _) = open(&disk);
        put(&mut log, b"before");
        disk.append(&segment(0), &vec![0; zeros]).unwrap();
        disk.append(&segment(0), &frame(b"after")).unwrap();
        let (log, recovery) = open(&disk);
        assert_eq!((recovery.torn_bytes, recovery.damage.len()), (0, 1), "{zeros}");
        assert_eq!(payloads(&log.reader()), ["before", "after"]);
    }
}

#[test]
fn a_segment_longer_than_its_place_is_read_only_up_to_the_next() {
    let (disk, at) = three_frames();
    let (mut log, _) = open(&disk);
    log.roll(&frame(b"head")).unwrap();
    disk.append(&segment(0), &frame(b"ghost")).unwrap();
    let (log, recovery) = open(&disk);
    assert_eq!(recovery.overlap_bytes, HEADER as u64 + 5);
    assert_eq!(log.segments()[0].end(), at[3]);
    assert_eq!(payloads(&log.reader()), ["one", "two", "three", "head"]);
}

#[test]
fn recovery_reads_no_more_the_more_is_kept() {
    let disk = MemoryDisk::new(1);
    let (mut log, _) = open(&disk);
    let mut scanned = Vec::new();
    for _ in 0..5 {
        fill(&mut log, 200);
        scanned.push(open(&disk).1.scanned_bytes);
    }
    assert!(log.segments().len() > 20);
    assert!(scanned.iter().all(|bytes| *bytes <= common::SEGMENT_BYTES_MAX), "{scanned:?}");
}

/// Flips, zeros, cuts and removes at random, then reads everything: no panic, nothing that nobody wrote, and every
/// frame that was not touched is still there unless it was in the end that recovery takes for torn.
#[test]
fn random_damage_never_surfaces_and_never_spreads() {
    for seed in 0..3000 {
        let mut rng = Rng(seed);
        let disk = MemoryDisk::new(seed);
        let (mut log, _) = open(&disk);
        for _ in 0..rng.below(60) {
            let payload: Vec<u8> = (0..rng.below(300)).map(|_| b"KFx"[rng.below(3) as usize]).collect();
            put(&mut log, &payload);
        }
        let (written, _) = scan_all(&log.reader());
        let touched = wreck(&disk, &log, &mut rng);
        let (log, recovery) = open(&disk);
        let (found, damage) = scan_all(&log.reader());
        let whole = |at: &Position, len: usize| touched.iter().all(|t| *t < at.0 || *t >= at.0 + len as u64);
        for item in &found {
            assert!(written.contains(item), "seed {seed}: a frame nobody wrote at {}", item.0);
        }
        let kept = written
            .iter()
            .filter(|(at, frame)| whole(at, frame.len()) && at.plus(frame.len() as u64) <= log.end());
        for item in kept {
            assert!(found.contains(item), "seed {seed}: the whole frame at {} is gone", item.0);
        }
        for damaged in &damage {
            assert!(damaged.from < damaged.to);
        }
        assert!(recovery.damage.iter().all(|d| damage.contains(d)), "seed {seed}: {recovery:?} {damage:?}");
    }
}

/// Changes one to eight bytes or stretches; returns the positions of all changed bytes.
fn wreck(disk: &MemoryDisk, log: &SegmentLog<Plain>, rng: &mut Rng) -> Vec<u64> {
    let segments: Vec<_> = log.segments().into_iter().filter(|segment| segment.len > 0).collect();
    let mut touched = Vec::new();
    if segments.is_empty() {
        return touched;
    }
    for _ in 0..1 + rng.below(8) {
        let segment = &segments[rng.below(segments.len() as u64) as usize];
        let at = rng.below(segment.len);
        let len = if rng.below(2) == 0 { 1 } else { rng.below(700).min(segment.len - at) };
        if len == 1 {
            disk.flip_bit(&segment.file, at * 8 + rng.below(8));
        } else {
            disk.corrupt(&segment.file, at, &vec![0; len as usize]);
        }
        touched.extend((segment.base.0 + at)..(segment.base.0 + at + len));
    }
    touched
}
