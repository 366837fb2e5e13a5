//! Every byte of a small spool, flipped and cut off: whatever happens to it, the agent goes on, what it still has is whole
//! and there once, and what it has not is in the loss ledger.
//!
//! One bit of each byte; all eight with `KINESIN_DAMAGE=all`.

use std::collections::BTreeSet;
use std::sync::Arc;

use agent::batcher::Batcher;
use agent::config::BatchSettings;
use agent::lane::{LaneId, StreamMap};
use agent::loss::SPOOL_DAMAGED;
use agent::spool::{CursorUpdate, DeliveredUpdate, Opened, Settings, Spool};
use disk::{Crash, DirName, Disk, FileName, MemoryDisk, Position, Scanned};
use protocol::batch::Batch;
use protocol::frame::{Frame, Kind};
use protocol::name::StreamName;
use protocol::time::{Mono, UnixMs};

const SETTINGS: Settings = Settings { max_bytes: 1 << 30, segment_bytes: 4096, min_free: 0 };
const PRODUCER: u128 = 7;

fn name() -> StreamName {
    StreamName::new("logs").unwrap()
}

fn open(disk: &MemoryDisk) -> (Spool, Opened) {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Spool::open(disk, DirName::new("log").unwrap(), SETTINGS, 99).unwrap()
}

/// What was written, beside the disk that it is on.
struct Written {
    disk: MemoryDisk,
    /// Records that the store has.
    delivered: u64,
    /// Records in all.
    count: u64,
    /// Each lane's numbers that were given to batches.
    used: BTreeSet<(u32, u64)>,
}

/// Two lives of an agent: commits of some records over two lanes, of which some were delivered.
fn written(segment_bytes: u64, commits: u64) -> Written {
    let disk = MemoryDisk::new(1);
    let (mut count, mut delivered, mut used) = (0, 0, BTreeSet::new());
    for life in 0..2 {
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let settings = Settings { segment_bytes, ..SETTINGS };
        let (mut spool, _) = Spool::open(shared, DirName::new("log").unwrap(), settings, PRODUCER).unwrap();
        for commit in 0..commits {
            let mut batcher =
                Batcher::new(&[BatchSettings { records_max: 10, ..Default::default() }], 1 << 20);
            for _ in 0..1 + commit % 3 {
                let lane = LaneId { stream: name().key(), lane: (count % 2) as u32 };
                batcher.push(0, lane, "k", UnixMs(1), count.to_string().as_bytes(), Mono::ZERO).unwrap();
                count += 1;
            }
            let mut update = CursorUpdate { streams: vec![StreamMap::unknown(name())], ..Default::default() };
            update.cursors.insert("source".into(), Some(count.to_string()));
            let (mut frames, mut metas) = (batcher.take(0, Vec::new()).frames, Vec::new());
            spool.append(&mut frames, update, &mut metas).unwrap();
            spool.sync().unwrap();
            used.extend(metas.iter().map(|meta| (meta.lane.lane, meta.sequence)));
            if life == 0 && commit == commits / 3 {
                let last = metas.last().unwrap();
                let mark = last.position + u64::from(last.len);
                let lanes = metas.iter().map(|meta| (meta.lane, meta.sequence)).collect();
                spool.delivered(&DeliveredUpdate { mark, lanes, losses: Vec::new() }).unwrap();
                spool.sync().unwrap();
                delivered = count;
            }
        }
    }
    Written { disk: disk.crash(Crash::KeepAll), delivered, count, used }
}

/// Every record that is still to be sent, and whether whoever reads them comes upon damage, which he tells.
fn contents(spool: &Spool) -> (Vec<u64>, bool) {
    let reader = spool.reader();
    let (mut scan, mut batch) = (reader.scan(reader.start().max(Position(spool.state().mark))), Batch::new());
    let (mut records, mut is_damaged) = (Vec::new(), false);
    while let Some(found) = scan.advance().unwrap() {
        let Scanned::Frame(_, bytes) = found else {
            is_damaged = true;
            continue;
        };
        let frame = Frame::parse(bytes).unwrap();
        if frame.header.kind == Kind::Data {
            batch.open(&frame.header, frame.payload).unwrap();
            let data = batch.records().map(|r| std::str::from_utf8(r.data).unwrap().parse::<u64>().unwrap());
            records.extend(data);
        }
    }
    (records, is_damaged)
}

/// Opens what is left and holds it against what was written. `is_cut` where bytes are missing at the end of a file.
fn judge(written: &Written, disk: &MemoryDisk, is_cut: bool, what: &str) {
    let (mut spool, opened) = open(disk);
    let state = spool.state().clone();
    let (records, is_damaged) = contents(&spool);
    let cursor: u64 = state.cursors.get("source").map_or(0, |text| text.parse().unwrap());
    let there: BTreeSet<u64> = records.iter().copied().collect();
    assert_eq!(there.len(), records.len(), "{what}: a record is there twice");
    // What is behind the cursor is read again; so it must not be here.
    assert!(there.iter().all(|record| *record < cursor), "{what}: {there:?} and the cursor {cursor}");
    assert!(cursor <= written.count, "{what}");
    let lost = (written.delivered..cursor).any(|record| !there.contains(&record));
    let told = is_damaged || state.ledger.by_reason.get(SPOOL_DAMAGED).copied().unwrap_or_default() > 0;
    assert!(!lost || told, "{what}: lost without a word; damaged {:?}", opened.damaged);
    assert!(opened.is_new == (state.producer != PRODUCER), "{what}");
    assert!(is_cut || !opened.is_new, "{what}: one flipped bit makes nobody forget who he is");
    if opened.is_new {
        return;
    }
    // A number that was used, and whose batch is not here any more, is not used again: the store may have it.
    let base = state.streams.get(&name().key()).map_or(0, |map| map.lane_of("k"));
    let mut batcher = Batcher::new(&[BatchSettings::default()], 1 << 20);
    for lane in [base, base + 1] {
        let lane = LaneId { stream: name().key(), lane };
        batcher.push(0, lane, "k", UnixMs(1), b"0", Mono::ZERO).unwrap();
    }
    let (mut frames, mut metas) = (batcher.take(0, Vec::new()).frames, Vec::new());
    spool.append(&mut frames, CursorUpdate::default(), &mut metas).unwrap();
    let reused = metas.iter().any(|meta| written.used.contains(&(meta.lane.lane, meta.sequence)));
    // Bytes that are cut off at the very end leave no trace; then the store's answer does (`sequence_conflict`).
    assert!(!reused || is_cut, "{what}: {:?} were used before", metas);
}

fn bits() -> std::ops::Range<u64> {
    if std::env::var("KINESIN_DAMAGE").is_ok_and(|how| how == "all") { 0..8 } else { 0..1 }
}

fn for_every_byte(written: &Written, mut damage: impl FnMut(&MemoryDisk, &FileName, u64)) {
    for (file, bytes) in written.disk.contents() {
        for at in 0..bytes.len() as u64 {
            let disk = written.disk.crash(Crash::Process);
            damage(&disk, &file, at);
        }
    }
}

/// Many segments, and one.
fn spools() -> [Written; 2] {
    [written(4096, 24), written(1 << 20, 12)]
}

#[test]
fn any_flipped_bit_in_a_spool_is_harmless_or_told() {
    for written in spools() {
        for bit in bits() {
            for_every_byte(&written, |disk, file, at| {
                let bit = if bits().count() == 1 { at % 8 } else { bit };
                disk.flip_bit(file, at * 8 + bit);
                judge(&written, disk, false, &format!("bit {bit} of byte {at} of {file}"));
            });
        }
    }
}

#[test]
fn any_file_of_a_spool_may_be_cut_short_anywhere_and_what_is_lost_is_told() {
    for written in spools() {
        for_every_byte(&written, |disk, file, at| {
            disk.truncate(file, at).unwrap();
            disk.sync(file).unwrap();
            judge(&written, disk, true, &format!("{file} cut to {at} bytes"));
        });
    }
}

#[test]
fn any_file_of_a_spool_may_be_gone_and_what_is_lost_is_told() {
    let written = written(4096, 24);
    let files: Vec<FileName> = written.disk.contents().into_keys().collect();
    assert!(files.len() > 3);
    for file in files {
        let disk = written.disk.crash(Crash::Process);
        disk.remove(&file).unwrap();
        disk.sync_dir(&file.parent()).unwrap();
        judge(&written, &disk, true, &format!("{file} gone"));
    }
}
