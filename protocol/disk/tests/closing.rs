//! What is closed for other files goes on where it ended. Apart from `real_disk`, which counts the files that its process has open.

mod common;

use common::file;
use disk::{Disk, RealDisk};

#[test]
fn a_file_that_is_closed_while_it_is_reserved_goes_on_where_it_ended() {
    let folder = tempfile::tempdir().unwrap();
    let disk = RealDisk::open(folder.path()).unwrap();
    let name = |n| file(&format!("f{n}"));
    for round in 0..2u8 {
        for n in 0..400 {
            disk.append(&name(n), &[round]).unwrap();
            disk.reserve(&name(n), 1000);
            disk.append(&name(n), &[n as u8]).unwrap();
            disk.sync(&name(n)).unwrap();
        }
    }
    let lens: Vec<u64> = (0..400).map(|n| disk.len(&name(n)).unwrap()).collect();
    assert!(lens.iter().all(|len| [4, 1000].contains(len)), "{lens:?}");
    assert!(lens.iter().filter(|len| **len == 4).count() > 100, "the least recently used were closed");
    for n in 0..400 {
        disk.append(&name(n), b"end").unwrap();
        let mut bytes = [0; 7];
        disk.read_at(&name(n), 0, &mut bytes).unwrap();
        assert_eq!(bytes, [0, n as u8, 1, n as u8, b'e', b'n', b'd']);
    }
}
