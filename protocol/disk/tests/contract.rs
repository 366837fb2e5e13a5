//! What every disk does alike: the same cases on the real one and on the one in memory.

mod common;

use std::io::ErrorKind;
use std::sync::Arc;

use common::{Plain, SETTINGS, dir, file, frame, payloads, put, segment};
use disk::{
    DirName, Disk, MemoryDisk, Position, RealDisk, SegmentLog, Settings, read_all, remove_dir_all, replace,
};

fn on_both(case: impl Fn(Arc<dyn Disk>)) {
    case(Arc::new(MemoryDisk::new(1)));
    let folder = tempfile::tempdir().unwrap();
    case(Arc::new(RealDisk::open(folder.path().join("root")).unwrap()));
}

fn folder(name: &str) -> DirName {
    DirName::new(name).unwrap()
}

#[test]
fn appended_bytes_are_read_back() {
    on_both(|disk| {
        disk.append(&file("x"), b"hello ").unwrap();
        disk.append(&file("x"), b"world").unwrap();
        disk.sync(&file("x")).unwrap();
        disk.sync_dir(&DirName::root()).unwrap();
        disk.forget_cache(&file("x")).unwrap();
        let mut out = [0; 7];
        disk.read_at(&file("x"), 4, &mut out).unwrap();
        assert_eq!(&out, b"o world");
        assert_eq!(disk.len(&file("x")).unwrap(), 11);
        assert_eq!(read_all(&*disk, &file("x"), 11).unwrap(), b"hello world");
        assert_eq!(read_all(&*disk, &file("x"), 10).unwrap_err().kind(), ErrorKind::InvalidData);
    });
}

#[test]
fn reading_beyond_the_end_says_so_and_names_the_file() {
    on_both(|disk| {
        disk.append(&file("x"), b"abc").unwrap();
        for (offset, len) in [(0, 4), (3, 1), (100, 1)] {
            let error = disk.read_at(&file("x"), offset, &mut vec![0; len]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
            assert!(error.to_string().starts_with("read ") && error.to_string().contains('x'), "{error}");
        }
        disk.read_at(&file("x"), 3, &mut []).unwrap();
    });
}

#[test]
fn what_is_not_there_is_not_found() {
    on_both(|disk| {
        let (x, root) = (file("x"), DirName::root());
        let kinds = [
            disk.len(&x).unwrap_err().kind(),
            disk.read_at(&x, 0, &mut [0]).unwrap_err().kind(),
            disk.sync(&x).unwrap_err().kind(),
            disk.truncate(&x, 0).unwrap_err().kind(),
            disk.remove(&x).unwrap_err().kind(),
            disk.rename(&x, &file("y")).unwrap_err().kind(),
            disk.forget_cache(&x).unwrap_err().kind(),
            disk.append(&file("no/folder"), b"").unwrap_err().kind(),
            disk.sync_dir(&folder("no")).unwrap_err().kind(),
            disk.remove_dir(&folder("no")).unwrap_err().kind(),
        ];
        assert_eq!(kinds, [ErrorKind::NotFound; 10]);
        assert!(disk.list(&root).unwrap().is_empty());
        assert!(disk.list(&folder("no")).unwrap().is_empty());
    });
}

#[test]
fn an_empty_append_creates_the_file() {
    on_both(|disk| {
        disk.append(&file("x"), b"").unwrap();
        assert_eq!(disk.len(&file("x")).unwrap(), 0);
    });
}

#[test]
fn listing_is_sorted_and_tells_files_from_folders() {
    on_both(|disk| {
        disk.create_dir(&folder("a/b/c")).unwrap();
        disk.create_dir(&folder("a/b/c")).unwrap();
        disk.append(&file("a/z"), b"123").unwrap();
        disk.append(&file("a/b.x"), b"").unwrap();
        disk.append(&file("a/b-x"), b"1").unwrap();
        disk.append(&file("a/b/inner"), b"1").unwrap();
        let entries = disk.list(&folder("a")).unwrap();
        let seen: Vec<_> = entries.iter().map(|e| (e.name.as_str(), e.len, e.is_dir)).collect();
        assert_eq!(seen, [("a/b", 0, true), ("a/b-x", 1, false), ("a/b.x", 0, false), ("a/z", 3, false)]);
        assert_eq!(entries[0].dir(), folder("a/b"));
        assert!(disk.list(&file("a/z").parent().dir("z").unwrap()).is_err(), "a file is no folder");
    });
}

#[test]
fn truncation_cuts_and_never_extends() {
    on_both(|disk| {
        disk.append(&file("x"), b"abcdef").unwrap();
        disk.truncate(&file("x"), 2).unwrap();
        disk.append(&file("x"), b"!").unwrap();
        assert_eq!(read_all(&*disk, &file("x"), 10).unwrap(), b"ab!");
        assert_eq!(disk.truncate(&file("x"), 4).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(disk.len(&file("x")).unwrap(), 3);
    });
}

#[test]
fn what_is_reserved_reads_as_zeros_and_appending_goes_on_where_it_was() {
    on_both(|disk| {
        disk.append(&file("x"), b"abc").unwrap();
        disk.reserve(&file("x"), 100);
        disk.append_pieces(&file("x"), &[b"d", b"ef"]).unwrap();
        disk.sync(&file("x")).unwrap();
        assert_eq!(disk.len(&file("x")).unwrap(), 100);
        let mut out = [1; 8];
        disk.read_at(&file("x"), 0, &mut out).unwrap();
        assert_eq!(&out, b"abcdef\0\0");
        assert_eq!(disk.read_at(&file("x"), 99, &mut [0; 2]).unwrap_err().kind(), ErrorKind::UnexpectedEof);
        assert_eq!(disk.truncate(&file("x"), 7).unwrap_err().kind(), ErrorKind::InvalidInput);
        disk.reserve(&file("x"), 50);
        disk.truncate(&file("x"), 6).unwrap();
        disk.append(&file("x"), b"g").unwrap();
        assert_eq!(read_all(&*disk, &file("x"), 7).unwrap(), b"abcdefg");
    });
}

#[test]
fn a_log_that_grows_little_by_little_is_reserved_for_and_sealed_without() {
    on_both(|disk| {
        let settings = Settings { segment_bytes_max: 4096, reserve_bytes: 1000 };
        let (mut log, _) = SegmentLog::<Plain>::open(Arc::clone(&disk), dir(), settings).unwrap();
        for n in 0..10 {
            put(&mut log, &[n; 20]);
        }
        let len = |base: u64| disk.len(&segment(base)).unwrap();
        assert!((log.end().0 + 500..=log.end().0 + 1000).contains(&len(0)), "{} of {}", len(0), log.end());
        let next = log.roll(&frame(b"head")).unwrap();
        assert_eq!(len(0), next.0, "what is sealed is as long as what is in it");
        // The end of a segment is no farther than it may be.
        for n in 0..100 {
            put(&mut log, &[n; 20]);
        }
        assert!(disk.list(&dir()).unwrap().iter().all(|entry| entry.len <= 4096));
        let (end, all) = (log.end(), payloads(&log.reader()));
        drop(log);
        let (log, recovery) = SegmentLog::<Plain>::open(Arc::clone(&disk), dir(), settings).unwrap();
        assert_eq!((log.end(), payloads(&log.reader())), (end, all));
        assert!(recovery.damage.is_empty() && recovery.overlap_bytes == 0);
    });
}

#[test]
fn renaming_replaces_and_open_files_follow() {
    on_both(|disk| {
        disk.append(&file("x"), b"new").unwrap();
        disk.append(&file("y"), b"old").unwrap();
        disk.read_at(&file("y"), 0, &mut [0; 3]).unwrap();
        disk.rename(&file("x"), &file("y")).unwrap();
        disk.append(&file("y"), b"er").unwrap();
        assert_eq!(read_all(&*disk, &file("y"), 10).unwrap(), b"newer");
        assert_eq!(disk.len(&file("x")).unwrap_err().kind(), ErrorKind::NotFound);
        disk.append(&file("x"), b"another").unwrap();
        assert_eq!(read_all(&*disk, &file("y"), 10).unwrap(), b"newer");
    });
}

#[test]
fn a_removed_file_is_gone_and_its_name_starts_afresh() {
    on_both(|disk| {
        disk.append(&file("x"), b"old").unwrap();
        disk.read_at(&file("x"), 0, &mut [0]).unwrap();
        disk.remove(&file("x")).unwrap();
        assert_eq!(disk.read_at(&file("x"), 0, &mut [0]).unwrap_err().kind(), ErrorKind::NotFound);
        disk.append(&file("x"), b"n").unwrap();
        assert_eq!(read_all(&*disk, &file("x"), 10).unwrap(), b"n");
    });
}

#[test]
fn folders_go_only_when_empty_or_as_a_whole() {
    on_both(|disk| {
        disk.create_dir(&folder("a/b")).unwrap();
        disk.append(&file("a/b/x"), b"1").unwrap();
        disk.append(&file("a/y"), b"1").unwrap();
        assert_eq!(disk.remove_dir(&folder("a/b")).unwrap_err().kind(), ErrorKind::DirectoryNotEmpty);
        remove_dir_all(&*disk, &folder("a")).unwrap();
        assert!(disk.list(&DirName::root()).unwrap().is_empty());
        remove_dir_all(&*disk, &folder("a")).unwrap();
    });
}

#[test]
fn a_folder_is_not_a_file_nor_a_file_a_folder() {
    on_both(|disk| {
        disk.create_dir(&folder("a")).unwrap();
        disk.append(&file("f"), b"1").unwrap();
        assert_eq!(disk.append(&file("a"), b"1").unwrap_err().kind(), ErrorKind::IsADirectory);
        assert_eq!(disk.append(&file("f/x"), b"1").unwrap_err().kind(), ErrorKind::NotADirectory);
        assert_eq!(disk.rename(&file("f"), &file("a")).unwrap_err().kind(), ErrorKind::IsADirectory);
        assert_eq!(disk.remove(&file("a")).unwrap_err().kind(), ErrorKind::IsADirectory);
    });
}

#[test]
fn replacing_a_file_leaves_the_new_one_and_no_leftovers() {
    on_both(|disk| {
        disk.append(&file("x.tmp"), b"left by a crash").unwrap();
        replace(&*disk, &file("x"), b"first").unwrap();
        replace(&*disk, &file("x"), b"2nd").unwrap();
        assert_eq!(read_all(&*disk, &file("x"), 10).unwrap(), b"2nd");
        assert_eq!(disk.list(&DirName::root()).unwrap().len(), 1);
    });
}

#[test]
fn there_is_room() {
    on_both(|disk| assert!(disk.free_bytes().unwrap() > 0));
}

#[test]
fn a_log_lives_on_either() {
    on_both(|disk| {
        let open = || SegmentLog::<Plain>::open(Arc::clone(&disk), dir(), SETTINGS).unwrap().0;
        let mut log = open();
        (0..300).for_each(|n| assert!(put(&mut log, format!("{n:0100}").as_bytes()) < log.end()));
        disk.append(&log.segments().last().unwrap().file, &frame(b"torn")[..20]).unwrap();
        let kept = log.segments()[5].base;
        log.trim(kept).unwrap();
        let (log, seen) = (open(), payloads(&log.reader()));
        assert_eq!((log.start(), payloads(&log.reader())), (kept, seen));
        assert!(log.start() > Position(0));
    });
}
