//! Only the segment engine has index files. They are derived: whatever becomes of them, every read is the same.

use protocol::rng::Rng;
use protocol::sequence::ShardId;

use crate::compare;
use crate::place::{Place, Writer, on_all};

fn written(place: &Place) -> Writer {
    let mut writer = Writer::new(place, 3);
    for round in 0..30 {
        writer.append(ShardId(round % 3), 1 + round % 4);
        writer.sync();
        if round % 7 == 6 {
            writer.roll();
        }
    }
    writer
}

/// Spoils the index files while the log is closed, and compares.
fn unharmed_by(spoil: impl Fn(&Place)) {
    on_all(|place| {
        let mut writer = written(place);
        let (batches, now) = (std::mem::take(&mut writer.batches), writer.now);
        drop(writer);
        spoil(place);
        let writer = Writer { batches, now, ..Writer::open(place).expect("it has a head") };
        compare(place, &writer, &mut Rng::new(3));
        compare(place, &writer, &mut Rng::new(4));
    });
}

#[test]
fn a_missing_index_is_made_anew() {
    unharmed_by(|place| {
        let files = place.files(".idx");
        assert_eq!(files.len(), 4, "one for each sealed segment");
        files.iter().for_each(|file| place.disk.remove(file).expect("it is there"));
    });
}

#[test]
fn a_damaged_index_is_made_anew_wherever_it_is_damaged() {
    for byte in [0, 5, 9, 17, 33, 60] {
        unharmed_by(|place| place.files(".idx").iter().for_each(|file| place.flip_in(file, byte)));
    }
    unharmed_by(|place| {
        place.files(".idx").iter().for_each(|file| place.disk.truncate(file, 40).expect("it is longer"));
    });
}

#[test]
fn the_index_of_another_segment_is_not_believed() {
    unharmed_by(|place| {
        let files = place.files(".idx");
        let bytes = disk::read_all(&*place.disk, &files[0], 1 << 20).expect("an index");
        for file in &files[1..] {
            disk::replace(&*place.disk, file, &bytes).expect("a file");
        }
    });
}

#[test]
fn what_is_left_of_an_index_that_was_being_written_is_in_nobodys_way() {
    unharmed_by(|place| {
        for file in place.files(".idx") {
            let tmp = file.with_suffix(".tmp").expect("a name");
            place.disk.append(&tmp, b"half an ind").expect("a file");
        }
    });
}
