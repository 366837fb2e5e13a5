//! What only the real disk has: the lock, the bound on open files, and remembering which file failed.

mod common;

use std::io::ErrorKind;

use common::file;
use disk::{DirName, Disk, RealDisk, read_all};

#[test]
fn a_folder_has_one_owner_and_the_refusal_names_both() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (RealDisk::open(folder.path()).unwrap(), RealDisk::open(folder.path()).unwrap());
    let held = one.lock("the first").unwrap();
    let error = two.lock("the second").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceBusy);
    let text = error.to_string();
    assert!(
        text.contains(&folder.path().display().to_string()) && text.contains("the first, process "),
        "{text}"
    );
    drop(held);
    two.lock("the second").unwrap();
}

#[test]
fn more_files_than_may_be_open_are_all_served() {
    let folder = tempfile::tempdir().unwrap();
    let disk = RealDisk::open(folder.path()).unwrap();
    let name = |n| file(&format!("f{n}"));
    for round in 0..2u8 {
        for n in 0..700 {
            disk.append(&name(n), &[round, (n % 251) as u8]).unwrap();
            if n % 2 == 0 {
                disk.sync(&name(n)).unwrap();
            }
        }
    }
    for n in 0..700 {
        let byte = (n % 251) as u8;
        assert_eq!(read_all(&disk, &name(n), 9).unwrap(), [0, byte, 1, byte]);
    }
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    // Half of them have unsynced bytes, and those stay open.
    assert!(open < 350 + 256 + 100, "{open} files are open");
    assert_eq!(disk.list(&DirName::root()).unwrap().len(), 700);
}

#[test]
#[cfg(target_os = "linux")]
fn a_file_whose_write_failed_takes_nothing_more_until_it_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/full", folder.path().join("x")).unwrap();
    let disk = RealDisk::open(folder.path()).unwrap();
    let first = disk.append(&file("x"), b"bytes").unwrap_err();
    assert_eq!(first.kind(), ErrorKind::StorageFull);
    assert!(first.to_string().starts_with(&format!("append {}/x: ", folder.path().display())), "{first}");
    for later in [disk.append(&file("x"), b""), disk.sync(&file("x")), disk.truncate(&file("x"), 0)] {
        let text = later.unwrap_err().to_string();
        assert!(text.contains("never retried"), "{text}");
    }
    disk.rename(&file("x"), &file("y")).unwrap();
    assert!(disk.append(&file("y"), b"").is_err(), "another name is the same file");
    disk.remove(&file("y")).unwrap();
    disk.append(&file("y"), b"new").unwrap();
    disk.sync(&file("y")).unwrap();
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a file that is not ours")]
fn names_that_are_not_ours_are_not_listed() {
    let folder = tempfile::tempdir().unwrap();
    let disk = RealDisk::open(folder.path()).unwrap();
    std::fs::write(folder.path().join("with space"), b"").unwrap();
    std::os::unix::fs::symlink("nowhere", folder.path().join("link")).unwrap();
    disk.append(&file("x"), b"").unwrap();
    let names: Vec<_> = disk.list(&DirName::root()).unwrap().into_iter().map(|e| e.name).collect();
    assert_eq!(names, [file("x")]);
}
