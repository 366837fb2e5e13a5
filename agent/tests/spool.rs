//! The spool over a disk whose crash is a value: what was synced is there, commits are whole, numbers are used once.

use std::collections::BTreeMap;
use std::sync::Arc;

use agent::batcher::Batcher;
use agent::config::BatchSettings;
use agent::lane::{LaneId, StreamMap};
use agent::spool::{CursorUpdate, DeliveredUpdate, Settings, Spool};
use disk::{Crash, DirName, MemoryDisk, Scanned};
use protocol::batch::Batch;
use protocol::frame::{Frame, Kind};
use protocol::name::StreamName;
use protocol::rng::Rng;
use protocol::time::{Mono, UnixMs};

const SETTINGS: Settings = Settings { max_bytes: 1 << 30, segment_bytes: 4096, min_free: 0 };

fn open(disk: &MemoryDisk) -> Spool {
    let disk: Arc<dyn disk::Disk> = Arc::new(disk.clone());
    Spool::open(disk, DirName::new("log").unwrap(), SETTINGS, 7).unwrap().0
}

fn name() -> StreamName {
    StreamName::new("logs").unwrap()
}

/// Every record that is in the spool, by lane and number; and the cursor that goes with them.
fn contents(spool: &Spool) -> (BTreeMap<(u32, u64), Vec<u64>>, u64) {
    let reader = spool.reader();
    let (mut scan, mut batch, mut found) = (reader.scan(reader.start()), Batch::new(), BTreeMap::new());
    while let Some(item) = scan.advance().unwrap() {
        let Scanned::Frame(_, bytes) = item else { panic!("{item:?}") };
        let frame = Frame::parse(bytes).unwrap();
        if frame.header.kind == Kind::Data {
            batch.open(&frame.header, frame.payload).unwrap();
            let numbers =
                batch.records().map(|r| std::str::from_utf8(r.data).unwrap().parse().unwrap()).collect();
            let known = found.insert((frame.header.lane, frame.header.producer_sequence), numbers);
            assert!(known.is_none(), "a number was used twice: {:?}", frame.header);
        }
    }
    let cursor = spool.state().cursors.get("source").map_or(0, |text| text.parse().unwrap());
    (found, cursor)
}

#[test]
fn after_any_crash_the_cursor_and_the_records_agree_and_nothing_synced_is_gone() {
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let mut disk = MemoryDisk::new(seed);
        let (mut synced, mut epoch) = (0u64, 0);
        for _ in 0..6 {
            let mut spool = open(&disk);
            assert!(spool.state().epoch > epoch, "every start is a new epoch");
            epoch = spool.state().epoch;
            let (found, mut cursor) = contents(&spool);
            let mut all: Vec<u64> = found.values().flatten().copied().collect();
            all.sort_unstable();
            assert_eq!(
                all,
                (0..cursor).collect::<Vec<_>>(),
                "seed {seed}: each record once, as the cursor says"
            );
            assert!(cursor >= synced, "seed {seed}: {cursor} of {synced}");
            let mut batcher =
                Batcher::new(&[BatchSettings { records_max: 10, ..Default::default() }], 1 << 20);
            for _ in 0..rng.between(1, 30) {
                for _ in 0..rng.between(1, 40) {
                    let lane = LaneId { stream: name().key(), lane: rng.below(3) as u32 };
                    let text = cursor.to_string();
                    batcher.push(0, lane, "k", UnixMs(1), text.as_bytes(), Mono::ZERO).unwrap();
                    cursor += 1;
                }
                let mut update =
                    CursorUpdate { streams: vec![StreamMap::unknown(name())], ..Default::default() };
                update.cursors.insert("source".into(), Some(cursor.to_string()));
                let mut frames = batcher.take(0, Vec::new()).frames;
                spool.append(&mut frames, update, &mut Vec::new()).unwrap();
                if rng.chance(500) {
                    spool.sync().unwrap();
                    synced = cursor;
                }
            }
            drop(spool);
            disk =
                disk.crash([Crash::Process, Crash::DropUnsynced, Crash::Seeded(seed)][rng.below(3) as usize]);
        }
    }
}

#[test]
fn delivered_segments_are_given_back_and_numbers_go_on_after_a_restart() {
    let disk = MemoryDisk::new(1);
    let mut next = 1;
    for _ in 0..5 {
        let mut spool = open(&disk);
        let lane = LaneId { stream: name().key(), lane: 0 };
        let mut batcher = Batcher::new(&[BatchSettings::default()], 1 << 20);
        for _ in 0..200 {
            batcher.push(0, lane, "k", UnixMs(1), &[b'x'; 300], Mono::ZERO).unwrap();
            let mut metas = Vec::new();
            let mut frames = batcher.take(0, Vec::new()).frames;
            spool.append(&mut frames, CursorUpdate::default(), &mut metas).unwrap();
            spool.sync().unwrap();
            assert_eq!(metas[0].sequence, next);
            next += 1;
            let mark = metas[0].position + u64::from(metas[0].len);
            let update = DeliveredUpdate { mark, lanes: vec![(lane, metas[0].sequence)], losses: Vec::new() };
            spool.delivered(&update).unwrap();
        }
        assert!(spool.bytes() < 4 * SETTINGS.segment_bytes, "{}", spool.bytes());
    }
}

#[test]
fn a_damaged_spool_goes_on_with_new_lanes_and_says_what_is_lost() {
    let disk = MemoryDisk::new(1);
    let mut spool = open(&disk);
    let lane = LaneId { stream: name().key(), lane: 0 };
    let mut batcher = Batcher::new(&[BatchSettings::default()], 1 << 20);
    let mut metas = Vec::new();
    for n in 0..4u64 {
        batcher.push(0, lane, "k", UnixMs(1), n.to_string().as_bytes(), Mono::ZERO).unwrap();
        let update = CursorUpdate { streams: vec![StreamMap::unknown(name())], ..Default::default() };
        let mut frames = batcher.take(0, Vec::new()).frames;
        spool.append(&mut frames, update, &mut metas).unwrap();
        spool.sync().unwrap();
    }
    let segment = spool.reader().segments()[0].clone();
    drop(spool);
    disk.corrupt(&segment.file, metas[1].position - segment.base.0 + 30, b"????");
    let spool = open(&disk);
    assert_eq!(spool.state().ledger.by_reason["spool_damaged"], 1);
    assert_eq!(spool.state().streams[&name().key()].generation, 1, "no number can be used twice");
}

#[test]
fn what_is_noted_about_dropped_batches_is_bounded_however_long_the_store_is_away() {
    let disk = MemoryDisk::new(1);
    let settings = Settings { max_bytes: 64 << 10, ..SETTINGS };
    let shared: Arc<dyn disk::Disk> = Arc::new(disk.clone());
    let (mut spool, _) = Spool::open(shared, DirName::new("log").unwrap(), settings, 7).unwrap();
    let lane = LaneId { stream: name().key(), lane: 0 };
    let mut batcher = Batcher::new(&[BatchSettings::default()], 1 << 20);
    for n in 1..=20_000u64 {
        batcher.push(0, lane, "k", UnixMs(1), b"dropped", Mono::ZERO).unwrap();
        let mut update = CursorUpdate { streams: vec![StreamMap::unknown(name())], ..Default::default() };
        update.cursors.insert("source".into(), Some(n.to_string()));
        let frames = batcher.take(0, Vec::new()).frames;
        spool.drop_newest(&frames, update).unwrap();
        assert_eq!(spool.state().ledger.by_reason["spool_full"], n);
    }
    assert!(spool.bytes() < (64 << 10) + (1 << 20) + (16 << 10), "{}", spool.bytes());
    spool.sync().unwrap();
    drop(spool);
    // A crash goes back to what was noted, cursor and ledger together.
    let spool = open(&disk.crash(Crash::DropUnsynced));
    let cursor: u64 = spool.state().cursors["source"].parse().unwrap();
    assert_eq!(spool.state().ledger.by_reason["spool_full"], cursor);
}

/// While one lane waits, others go on: what the store has of them is noted again and again, and nothing is given back.
#[test]
fn notes_of_what_was_delivered_never_take_a_full_spool_over_its_bound() {
    let disk = MemoryDisk::new(1);
    let settings = Settings { max_bytes: 12 << 10, ..SETTINGS };
    let shared: Arc<dyn disk::Disk> = Arc::new(disk.clone());
    let (mut spool, _) = Spool::open(shared, DirName::new("log").unwrap(), settings, 7).unwrap();
    let mut batcher = Batcher::new(&[BatchSettings::default()], 1 << 20);
    let lane = |n| LaneId { stream: name().key(), lane: n };
    let mut put = |spool: &mut Spool, n| {
        batcher.push(0, lane(n), "k", UnixMs(1), &[b'x'; 300], Mono::ZERO).unwrap();
        let update = CursorUpdate { streams: vec![StreamMap::unknown(name())], ..Default::default() };
        spool.append(&mut batcher.take(0, Vec::new()).frames, update, &mut Vec::new()).unwrap();
    };
    put(&mut spool, 0);
    let mut put_of_one = 0;
    while spool.has_room(1024).unwrap() {
        put(&mut spool, 1);
        put_of_one += 1;
    }
    for sequence in (1..=put_of_one).cycle().take(2000) {
        let lanes = vec![(lane(1), sequence)];
        spool.delivered(&DeliveredUpdate { mark: 0, lanes, ..Default::default() }).unwrap();
        assert!(spool.bytes() <= settings.max_bytes, "{}", spool.bytes());
    }
    // What gives a segment back takes with it what was not noted.
    let mark = spool.oldest_end();
    spool.delivered(&DeliveredUpdate { mark, lanes: vec![(lane(0), 1)], ..Default::default() }).unwrap();
    assert!(spool.bytes() < settings.max_bytes);
    spool.sync().unwrap();
    drop(spool);
    let spool = open(&disk.crash(Crash::DropUnsynced));
    let delivered = |n| spool.state().lanes[&lane(n)].delivered;
    assert_eq!((delivered(0), delivered(1)), (1, put_of_one));
}
