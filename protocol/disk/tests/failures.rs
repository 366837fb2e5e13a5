//! Disks that fail: an error is never retried, and nothing is acknowledged after one.

mod common;

use std::io::ErrorKind;

use common::{SETTINGS, dir, file, frame, open, part, payloads, put, segment};
use disk::{AppendFault, Crash, DirName, Disk, LogError, MemoryDisk, Position, SyncFault, replace};

#[test]
fn a_failed_sync_fails_the_log_for_good_and_acknowledges_nothing() {
    for fault in [SyncFault::Kept, SyncFault::Lost] {
        let disk = MemoryDisk::new(1);
        let (mut log, _) = open(&disk);
        let durable = put(&mut log, b"kept").plus(frame(b"kept").len() as u64);
        log.append(&frame(b"in doubt")).unwrap();
        disk.fail_sync(1, fault);
        assert!(matches!(log.sync(), Err(LogError::Io(_))));
        let syncs = disk.stats().syncs;
        let again =
            [log.sync().unwrap_err(), log.append(&frame(b"x")).unwrap_err(), log.roll(b"").unwrap_err()];
        for error in again {
            assert!(matches!(&error, LogError::Failed { first } if first.contains("sync")), "{error}");
        }
        assert_eq!(disk.stats().syncs, syncs, "a failed sync is not tried again");
        assert_eq!((log.durable_end(), payloads(&log.reader())), (durable, vec!["kept".to_owned()]));
        assert!(log.failure().is_some());

        let (log, _) = open(&disk);
        let seen = payloads(&log.reader());
        let expected: &[&str] = if fault == SyncFault::Kept { &["kept", "in doubt"] } else { &["kept"] };
        assert_eq!(seen, expected, "recovery believes the device, not the cache");
        let (after, _) = open(&disk.crash(Crash::DropUnsynced));
        assert_eq!(payloads(&after.reader()), seen);
    }
}

#[test]
fn a_failed_append_fails_the_log_for_good() {
    for fault in [AppendFault::Nothing, AppendFault::Part] {
        for seed in 0..20 {
            let disk = MemoryDisk::new(seed);
            let (mut log, _) = open(&disk);
            put(&mut log, b"kept");
            let end = log.end();
            disk.fail_append(1, fault);
            assert!(matches!(log.append(&[part(b"a"), frame(b"b")].concat()), Err(LogError::Io(_))));
            assert!(matches!(log.sync(), Err(LogError::Failed { .. })));
            assert_eq!((log.end(), log.durable_end()), (end, end));
            let (mut log, _) = open(&disk);
            assert_eq!(log.end(), end);
            put(&mut log, b"on");
            assert_eq!(payloads(&log.reader()), ["kept", "on"]);
        }
    }
}

#[test]
fn every_sync_of_a_roll_may_fail_without_losing_what_was_acknowledged() {
    for nth in 1..=2 {
        for fault in [SyncFault::Kept, SyncFault::Lost] {
            let disk = MemoryDisk::new(1);
            let (mut log, _) = open(&disk);
            put(&mut log, b"kept");
            log.append(&frame(b"unsynced")).unwrap();
            disk.fail_sync(nth, fault);
            assert!(matches!(log.roll(&frame(b"head")), Err(LogError::Io(_))));
            assert!(matches!(log.append(&frame(b"x")), Err(LogError::Failed { .. })));
            let (mut log, _) = open(&disk);
            put(&mut log, b"after");
            let seen = payloads(&log.reader());
            assert_eq!((seen[0].as_str(), seen[seen.len() - 1].as_str()), ("kept", "after"));
            let (log, recovery) = open(&disk.crash(Crash::DropUnsynced));
            assert!(recovery.damage.is_empty());
            assert_eq!(payloads(&log.reader()), seen);
        }
    }
}

#[test]
fn a_full_disk_says_so_and_the_log_goes_on_after_opening_it_with_room() {
    let disk = MemoryDisk::new(1);
    let (mut log, _) = open(&disk);
    disk.set_capacity(Some(500));
    let mut kept = 0;
    let error = loop {
        match log.append(&frame(&[b'x'; 70])) {
            Ok(_) => kept += 1,
            Err(error) => break error,
        }
        log.sync().unwrap();
    };
    assert!(matches!(&error, LogError::Io(e) if e.kind() == ErrorKind::StorageFull), "{error}");
    assert_eq!((kept, disk.free_bytes().unwrap()), (5, 0));
    assert_eq!(payloads(&log.reader()).len(), kept, "reading goes on");
    // Recovery needs no room, and gives back what the failed append took.
    let (mut log, _) = open(&disk);
    assert!(disk.free_bytes().unwrap() > 0);
    disk.set_capacity(None);
    put(&mut log, b"on");
    assert_eq!(payloads(&log.reader()).len(), kept + 1);
}

#[test]
fn a_failed_trim_leaves_the_log_usable_and_can_be_done_again() {
    let disk = MemoryDisk::new(1);
    let (mut log, _) = open(&disk);
    (0..100).for_each(|_| assert!(put(&mut log, &[b'x'; 100]) < log.end()));
    let all = log.segments();
    disk.crash_after_ops(2);
    assert!(log.trim(log.end()).is_err());
    let disk = disk.crash(Crash::KeepAll);
    let (mut log, recovery) = open(&disk);
    assert!(recovery.damage.is_empty());
    assert_eq!(log.trim(log.end()).unwrap().last().unwrap().file, all[all.len() - 2].file);
    assert_eq!(log.segments().len(), 1);
    put(&mut log, b"on");
}

#[test]
fn a_failed_replace_leaves_the_old_file_and_works_the_next_time() {
    let disk = MemoryDisk::new(1);
    replace(&disk, &file("x"), b"old").unwrap();
    disk.fail_sync(1, SyncFault::Lost);
    assert!(replace(&disk, &file("x"), b"new").is_err());
    disk.fail_append(1, AppendFault::Part);
    assert!(replace(&disk, &file("x"), b"new").is_err());
    assert_eq!(disk::read_all(&disk, &file("x"), 9).unwrap(), b"old");
    replace(&disk, &file("x"), b"new").unwrap();
    assert_eq!(disk::read_all(&disk.crash(Crash::DropUnsynced), &file("x"), 9).unwrap(), b"new");
}

#[test]
fn a_replaced_file_is_the_old_or_the_new_one_after_a_crash_at_any_call() {
    for ops in 0..6 {
        for seed in 0..200 {
            let disk = MemoryDisk::new(seed);
            replace(&disk, &file("x"), &[1; 2000]).unwrap();
            disk.crash_after_ops(ops);
            let done = replace(&disk, &file("x"), &[2; 3000]).is_ok();
            let after = disk::read_all(&disk.crash(Crash::Seeded(seed)), &file("x"), 9999).unwrap();
            assert!(after == [2; 3000] || (after == [1; 2000] && !done));
        }
    }
}

#[test]
fn an_unopenable_log_names_its_folder() {
    let disk = MemoryDisk::new(1);
    disk.crash_after_ops(0);
    let shared = std::sync::Arc::new(disk);
    let error = disk::SegmentLog::<common::Plain>::open(shared, dir(), SETTINGS).err().unwrap();
    assert_eq!(error.to_string(), "open log logs/a: create folder logs/a: crashed");
}

#[test]
fn unsynced_files_and_names_do_not_survive_a_power_cut_but_do_survive_a_kill() {
    let disk = MemoryDisk::new(1);
    disk.append(&file("x"), b"synced").unwrap();
    disk.sync(&file("x")).unwrap();
    let gone = disk.crash(Crash::DropUnsynced);
    assert!(gone.contents().is_empty(), "the name was not synced");
    disk.sync_dir(&DirName::root()).unwrap();
    disk.append(&file("x"), b", not synced").unwrap();
    disk.append(&file("y"), b"").unwrap();
    assert_eq!(disk.crash(Crash::DropUnsynced).contents()[&file("x")], b"synced");
    assert_eq!(disk.crash(Crash::KeepAll).contents(), disk.contents());
    let killed = disk.crash(Crash::Process);
    assert_eq!(killed.contents(), disk.contents());
    assert_eq!(killed.crash(Crash::DropUnsynced).contents()[&file("x")], b"synced");
    disk.rename(&file("x"), &file("z")).unwrap();
    let names = |seed| disk.crash(Crash::Seeded(seed)).contents().into_keys().collect::<Vec<_>>();
    for seed in 0..200 {
        let names = names(seed);
        assert!(names.contains(&file("x")) != names.contains(&file("z")), "a rename happens whole or not");
    }
}

#[test]
fn seeded_crashes_reach_every_kind_of_outcome() {
    let disk = MemoryDisk::new(1);
    let x = file("x");
    disk.append(&x, &[1; 700]).unwrap();
    disk.sync(&x).unwrap();
    disk.sync_dir(&DirName::root()).unwrap();
    disk.append(&x, &[2; 3000]).unwrap();
    let outcomes: Vec<_> =
        (0..300).map(|seed| disk.crash(Crash::Seeded(seed)).contents()[&x].clone()).collect();
    assert!(outcomes.iter().all(|bytes| bytes[..700] == [1; 700]), "synced bytes are never touched");
    assert!(outcomes.iter().any(|bytes| bytes.len() == 700));
    assert!(outcomes.iter().any(|bytes| bytes.len() == 3700 && bytes[700..] == [2; 3000]));
    let torn = |bytes: &Vec<u8>| bytes.len() > 700 && bytes.len() < 3700 && !bytes.contains(&0);
    assert!(outcomes.iter().any(torn));
    let holed = |bytes: &Vec<u8>| bytes.windows(2).any(|pair| pair == [0, 2]);
    assert!(outcomes.iter().any(holed), "a later sector without an earlier one");
}

#[test]
fn a_failed_create_of_the_first_segment_can_be_opened_again() {
    for ops in 0..5 {
        let disk = MemoryDisk::new(1);
        disk.crash_after_ops(ops);
        let shared = std::sync::Arc::new(disk.clone());
        let _ = disk::SegmentLog::<common::Plain>::open(shared, dir(), SETTINGS);
        let disk = disk.crash(Crash::Seeded(ops));
        let (mut log, _) = open(&disk);
        assert_eq!(put(&mut log, b"one"), Position(0));
        assert_eq!(disk.crash(Crash::DropUnsynced).len(&segment(0)).unwrap(), log.end().0);
    }
}
