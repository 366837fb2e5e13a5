//! Readers beside the writer: what they see, what they are told where there is nothing to see, and that trimming
//! under their feet is no harm.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{HEADER, Plain, SETTINGS, dir, frame, open, payloads, put, scan_all, segment};
use disk::{Disk, MemoryDisk, Position, ReadError, RealDisk, Scanned, SegmentLog, Settings};

#[test]
fn nothing_unsynced_is_ever_read() {
    let disk = MemoryDisk::new(1);
    let (mut log, _) = open(&disk);
    let reader = log.reader();
    let at = log.append(&frame(b"one")).unwrap();
    let mut out = Vec::new();
    assert!(matches!(reader.read(at, &mut out), Err(ReadError::BeyondEnd { end: Position(0) })));
    assert!(matches!(reader.read_range(at, 10), Err(ReadError::BeyondEnd { .. })));
    assert!(payloads(&reader).is_empty());
    assert_eq!((log.segments()[0].len, reader.segments()[0].len), (log.end().0, 0));
    log.sync().unwrap();
    reader.read(at, &mut out).unwrap();
    assert_eq!(out, frame(b"one"));
    assert_eq!(reader.durable_end(), log.end());
}

#[test]
fn a_sync_with_nothing_new_asks_nothing_of_the_disk() {
    let disk = MemoryDisk::new(1);
    let (mut log, _) = open(&disk);
    put(&mut log, b"one");
    let before = disk.stats();
    assert_eq!(log.sync().unwrap(), log.end());
    assert_eq!(log.append(b"").unwrap(), log.end());
    assert_eq!(disk.stats(), before);
}

#[test]
fn an_append_is_one_write_and_a_small_read_is_one_read() {
    let disk = MemoryDisk::new(1);
    let (mut log, _) = open(&disk);
    let before = disk.stats();
    let at = log.append(&[frame(b"one"), frame(b"two")].concat()).unwrap();
    assert_eq!(disk.stats().ops, before.ops + 1);
    log.sync().unwrap();
    log.reader().read(at, &mut Vec::new()).unwrap();
    assert_eq!(disk.stats().reads, before.reads + 1);
}

#[test]
fn headers_and_ranges_are_read_without_payloads() {
    let disk = MemoryDisk::new(1);
    let (mut log, _) = open(&disk);
    let first = put(&mut log, b"one");
    let second = put(&mut log, b"second");
    log.roll(&frame(b"head")).unwrap();
    let reader = log.reader();
    let mut header = [0; HEADER];
    assert_eq!(reader.read_header(second, &mut header).unwrap(), HEADER + 6);
    assert_eq!(header, frame(b"second")[..HEADER]);
    assert_eq!(reader.read_range(first, 5).unwrap(), frame(b"one")[..5]);
    let whole = [frame(b"one"), frame(b"second")].concat();
    assert_eq!(reader.read_range(first, 10_000).unwrap(), whole, "a range ends with its segment");
    assert!(
        matches!(reader.read_header(Position(1), &mut header), Err(ReadError::Damaged { to, .. }) if to == second)
    );
}

#[test]
fn frames_of_any_size_are_read_whole() {
    let disk = MemoryDisk::new(1);
    let (mut log, _) = open(&disk);
    for len in [0, 1, 4072, 4073, 4074, 8192, 60_000] {
        let payload = vec![b'x'; len];
        let at = put(&mut log, &payload);
        let mut out = vec![1; 5];
        log.reader().read(at, &mut out).unwrap();
        assert_eq!(out, frame(&payload));
    }
    let (found, _) = scan_all(&log.reader());
    assert_eq!(found.iter().map(|(_, frame)| frame.len() - HEADER).filter(|len| *len != 4).count(), 7);
}

#[test]
fn a_scan_goes_on_where_the_log_grew() {
    let disk = MemoryDisk::new(1);
    let (mut log, _) = open(&disk);
    let mut scan = log.reader().scan(Position(0));
    assert_eq!(scan.advance().unwrap(), None);
    for n in 0..200u32 {
        let payload = n.to_le_bytes().repeat(20);
        let at = put(&mut log, &payload);
        loop {
            let Some(Scanned::Frame(position, bytes)) = scan.advance().unwrap() else { panic!("no frame") };
            if position == at {
                assert_eq!(bytes, frame(&payload));
                break;
            }
            assert_eq!(bytes, frame(b"head"));
        }
        assert_eq!(scan.advance().unwrap(), None);
        assert_eq!(scan.position(), log.end());
    }
}

#[test]
fn trimmed_positions_say_where_the_log_starts_now() {
    let disk = MemoryDisk::new(1);
    let (mut log, _) = open(&disk);
    (0..100).for_each(|_| assert!(put(&mut log, &[b'x'; 100]) < log.end()));
    let reader = log.reader();
    let mut scan = reader.scan(Position(0));
    assert!(scan.advance().unwrap().is_some());
    let segments = log.segments();

    assert!(log.trim(Position(segments[0].len - 1)).unwrap().is_empty(), "only whole segments go");
    assert_eq!(log.trim(segments[1].end()).unwrap(), segments[..2]);
    let start = segments[2].base;
    assert_eq!((log.start(), reader.start()), (start, start));
    let read = reader.read(Position(0), &mut Vec::new());
    assert!(matches!(read, Err(ReadError::Trimmed { start: s }) if s == start));
    let mut moved = false;
    while let Some(step) = scan.advance().transpose() {
        match step {
            Err(ReadError::Trimmed { start: s }) => moved = s == start,
            step => assert!(matches!(step.unwrap(), Scanned::Frame(..))),
        }
    }
    assert!(moved && scan.position() == log.end());

    assert_eq!(log.trim(Position(u64::MAX)).unwrap().len(), segments.len() - 3, "the active one stays");
    let (log, recovery) = open(&disk);
    assert_eq!((log.segments().len(), recovery.damage.len()), (1, 0));
    assert_eq!(log.start(), segments.last().unwrap().base);
}

#[test]
fn other_files_in_the_folder_are_left_alone() {
    let disk = MemoryDisk::new(1);
    drop(open(&disk));
    for name in ["00000000000000000000.idx", "7.log", "0000000000000000000x.log", "notes"] {
        disk.append(&dir().file(name).unwrap(), b"mine").unwrap();
    }
    let (mut log, _) = open(&disk);
    put(&mut log, b"one");
    assert_eq!(log.segments().len(), 1);
    assert_eq!(disk.list(&dir()).unwrap().len(), 5);
}

/// Larger than what is read at once, so that frames, damage and the magic lie across the pieces.
#[test]
fn scans_cross_the_pieces_they_read() {
    let disk = MemoryDisk::new(1);
    let settings = Settings { segment_bytes_max: 1 << 30, reserve_bytes: 0 };
    let open = || SegmentLog::<Plain>::open(Arc::new(disk.clone()), dir(), settings).unwrap();
    let (mut log, _) = open();
    let mut bytes = Vec::new();
    let mut written = Vec::new();
    while bytes.len() < 5 << 20 {
        written.push(Position(bytes.len() as u64));
        bytes.extend(frame(&vec![b'K'; written.len() * 7919 % 60_000]));
    }
    log.append(&bytes).unwrap();
    log.sync().unwrap();
    let (found, _) = scan_all(&log.reader());
    assert!(found.iter().map(|(at, _)| *at).eq(written.iter().copied()));

    // Zeros over more than two pieces, ending anywhere.
    for end in [0, 1, 2, 3, 22, 23, 500] {
        let (from, to) = (written[9].0 + 5, (3 << 20) + end);
        disk.corrupt(&segment(0), from, &vec![0; (to - from) as usize]);
        let (log, recovery) = open();
        let next = written.iter().find(|at| at.0 >= to).copied().unwrap();
        let lost: Vec<_> = recovery.damage.iter().map(|damage| (damage.from, damage.to)).collect();
        assert_eq!(lost, [(written[9], next)]);
        let (found, damage) = scan_all(&log.reader());
        assert_eq!((damage, found[9].0), (recovery.damage, next));
    }
}

fn read_while_writing(disk: Arc<dyn Disk>, rounds: u32) {
    let (mut log, _) = SegmentLog::<Plain>::open(disk, dir(), SETTINGS).unwrap();
    let reader = log.reader();
    let done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                let (mut scan, mut last) = (reader.scan(Position(0)), Position(0));
                loop {
                    let finished = done.load(Ordering::Acquire);
                    match scan.advance() {
                        Ok(Some(Scanned::Frame(at, _))) => last = last.max(at),
                        Ok(Some(Scanned::Damage(damage))) => panic!("{damage:?}"),
                        Ok(None) if finished => break,
                        Ok(None) => std::thread::yield_now(),
                        Err(ReadError::Trimmed { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                    match reader.clone().read(last, &mut Vec::new()) {
                        Ok(()) | Err(ReadError::Trimmed { .. } | ReadError::BeyondEnd { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                assert_eq!(scan.position(), reader.durable_end());
            });
        }
        for n in 0..rounds {
            put(&mut log, &n.to_le_bytes().repeat(25));
            if n % 50 == 0 {
                log.trim(Position(log.end().0.saturating_sub(10_000))).unwrap();
            }
        }
        done.store(true, Ordering::Release);
    });
}

#[test]
fn readers_run_beside_the_writer_and_its_trimming() {
    read_while_writing(Arc::new(MemoryDisk::new(1)), 5000);
    let folder = tempfile::tempdir().unwrap();
    read_while_writing(Arc::new(RealDisk::open(folder.path()).unwrap()), 300);
}
