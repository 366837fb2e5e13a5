//! What every engine behind [`StreamLog`] and [`LogReader`] does alike, whatever it stores on. An engine that is added
//! gets one more line in [`places`]; what only the segment engine has (index files) is in `segment`.

mod place;
mod segment;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use place::{Place, Writer, frames_of, on_all};
use protocol::frame::{HEADER_BYTES, Header};
use protocol::rng::Rng;
use protocol::sequence::{SequenceNumber, ShardId};
use protocol::time::UnixMs;
use store::log::{ReadError, ReadLimit};

const ALL: ReadLimit = ReadLimit { bytes_max: 1 << 20 };
const A: ShardId = ShardId(0);
const B: ShardId = ShardId(1);

fn at(sequence: u64) -> SequenceNumber {
    SequenceNumber(sequence)
}

#[test]
fn nothing_is_read_before_it_is_synced_and_everything_after() {
    on_all(|place| {
        let mut writer = Writer::new(place, 2);
        let reader = writer.log.reader();
        writer.append(A, 3);
        assert_eq!(reader.tail(A), at(0));
        assert!(reader.read(A, at(0), ALL).unwrap().frames.is_empty());
        writer.sync();
        assert_eq!(reader.tail(A), at(3));
        assert_eq!(frames_of(&reader.read(A, at(0), ALL).unwrap()), [(0, 3)]);
        assert_eq!(reader.tail(B), at(0));
    });
}

#[test]
fn a_read_begins_with_the_batch_that_holds_the_record_and_says_where_to_go_on() {
    on_all(|place| {
        let mut writer = Writer::new(place, 2);
        for _ in 0..5 {
            writer.append(A, 4);
            writer.append(B, 2);
        }
        writer.sync();
        let reader = writer.log.reader();
        for from in 0..20 {
            let found = reader.read(A, at(from), ALL).unwrap();
            assert_eq!(frames_of(&found)[0].0, from / 4 * 4, "from {from}");
            assert_eq!(found.next, at(20));
        }
        let end = reader.read(A, at(20), ALL).unwrap();
        assert!(end.frames.is_empty());
        assert_eq!(end.next, at(20));
    });
}

#[test]
fn a_limit_is_kept_but_for_the_first_batch() {
    on_all(|place| {
        let mut writer = Writer::new(place, 1);
        (0..10).for_each(|_| writer.append(A, 3));
        writer.sync();
        let reader = writer.log.reader();
        let one = reader.read(A, at(0), ReadLimit { bytes_max: 0 }).unwrap();
        assert_eq!(frames_of(&one), [(0, 3)]);
        assert_eq!(one.next, at(3));
        let some = reader.read(A, at(3), ReadLimit { bytes_max: one.frames.len() * 3 + 1 }).unwrap();
        assert!(frames_of(&some).len() <= 3 && some.frames.len() <= one.frames.len() * 3 + 1);
    });
}

#[test]
fn a_shard_that_got_nothing_in_a_segment_is_found_in_a_later_one() {
    on_all(|place| {
        let mut writer = Writer::new(place, 2);
        (0..3).for_each(|_| writer.append(A, 5));
        writer.sync();
        writer.roll();
        // The oldest that is kept knows A, which has nothing in it; then A goes on.
        writer.append(B, 1);
        writer.sync();
        writer.roll();
        writer.append(A, 2);
        writer.sync();
        writer.roll();
        let first_end = writer.log.reader().segments(10).unwrap()[0].end;
        assert_eq!(writer.log.trim(first_end).unwrap(), 1);
        let reader = writer.log.reader();
        assert_eq!(reader.first(A), Ok(at(15)));
        assert_eq!(frames_of(&reader.read(A, at(0), ALL).unwrap()), [(15, 2)]);
        assert_eq!(reader.first(B), Ok(at(0)));
    });
}

#[test]
fn trimming_removes_whole_segments_oldest_first_and_never_the_active_one() {
    on_all(|place| {
        let mut writer = Writer::new(place, 1);
        for _ in 0..4 {
            writer.append(A, 2);
            writer.sync();
            writer.roll();
        }
        writer.append(A, 1);
        writer.sync();
        let reader = writer.log.reader();
        let segments = reader.segments(10).unwrap();
        assert_eq!(segments.len(), 5);
        assert!(segments[..4].iter().all(|segment| segment.sealed.is_some()));
        assert_eq!(segments[4].sealed, None);
        let within = disk::Position(segments[1].end.0 - 1);
        assert_eq!(writer.log.trim(within).unwrap(), 1);
        assert_eq!(reader.first(A), Ok(at(2)));
        assert_eq!(writer.log.trim(disk::Position(u64::MAX)).unwrap(), 3);
        assert_eq!((reader.first(A), reader.tail(A)), (Ok(at(8)), at(9)));
        assert_eq!(reader.segments(10).unwrap().len(), 1);
    });
}

#[test]
fn a_reader_of_what_was_trimmed_goes_on_at_the_tail_and_so_reaches_the_end_of_a_closed_shard() {
    on_all(|place| {
        let mut writer = Writer::new(place, 2);
        writer.append(A, 4);
        writer.sync();
        writer.roll();
        writer.log.trim(disk::Position(u64::MAX)).unwrap();
        let found = writer.log.reader().read(A, at(1), ALL).unwrap();
        assert_eq!((found.frames.len(), found.next), (0, at(4)));
    });
}

#[test]
fn what_was_synced_is_there_after_opening_again_with_the_state_that_goes_with_it() {
    on_all(|place| {
        let mut writer = Writer::new(place, 3);
        for round in 0..7 {
            writer.append(ShardId(round % 3), 1 + round);
            writer.sync();
            if round % 2 == 0 {
                writer.roll();
            }
        }
        let state = writer.state.clone();
        drop(writer);
        let writer = Writer::open(place).expect("it has a head");
        assert_eq!(writer.state, state);
        let reader = writer.log.reader();
        for (id, shard) in &state.shards {
            assert_eq!(reader.tail(*id), shard.next);
            assert_eq!(reader.first(*id), Ok(at(0)));
            assert_eq!(frames_of(&reader.read(*id, at(0), ALL).unwrap())[0].0, 0);
        }
    });
}

#[test]
fn damage_is_told_with_its_sequence_numbers_and_the_rest_stays_readable() {
    on_all(|place| {
        let mut writer = Writer::new(place, 2);
        for _ in 0..6 {
            writer.append(A, 5);
            writer.append(B, 5);
        }
        writer.sync();
        writer.roll();
        writer.append(A, 5);
        writer.sync();
        let third = writer.position_of(A, 10);
        drop(writer);
        place.flip_bit(third + 130);
        let writer = Writer::open(place).expect("it has a head");
        let reader = writer.log.reader();
        let before = reader.read(A, at(0), ALL).unwrap();
        assert_eq!(frames_of(&before), [(0, 5), (5, 5)]);
        assert_eq!(before.next, at(10));
        let damaged = ReadError::Damaged { shard: A, from: at(10), resume: at(15) };
        assert_eq!(reader.read(A, at(10), ALL), Err(damaged));
        assert_eq!(frames_of(&reader.read(A, at(15), ALL).unwrap())[0], (15, 5));
        let mut next = at(0);
        while next < reader.tail(B) {
            next = reader.read(B, next, ALL).expect("the other shard is whole").next;
        }
        assert_eq!((next, reader.tail(A)), (at(30), at(35)));
    });
}

#[test]
fn a_reader_beside_the_writer_sees_whole_batches_and_never_goes_back() {
    on_all(|place| {
        let mut writer = Writer::new(place, 1);
        let reader = writer.log.reader();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let follower = scope.spawn(|| {
                let (mut next, mut batches) = (at(0), Vec::new());
                while !done.load(Ordering::Acquire) || next < reader.tail(A) {
                    let found = reader.read(A, next, ALL).expect("nothing is damaged");
                    assert!(found.next >= next);
                    batches.extend(frames_of(&found));
                    next = found.next;
                }
                batches
            });
            for round in 0..200 {
                writer.append(A, 1 + round % 5);
                writer.sync();
                if round % 20 == 19 {
                    writer.roll();
                }
            }
            done.store(true, Ordering::Release);
            let batches = follower.join().expect("the reader ends well");
            assert_eq!(batches.len(), 200);
            assert!(batches.windows(2).all(|pair| pair[0].0 + pair[0].1 == pair[1].0));
        });
    });
}

#[test]
fn a_shard_begins_with_its_first_record_whoever_asks_while_that_is_written_or_its_segment_sealed() {
    const SHARDS: u32 = 300;
    on_all(|place| {
        let mut writer = Writer::new(place, SHARDS);
        let reader = writer.log.reader();
        let (asked, done) = (AtomicU32::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let asker = scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    let shard = ShardId(asked.load(Ordering::Acquire));
                    assert_eq!(reader.first(shard).expect("a beginning"), at(0), "{shard}");
                    assert_eq!(reader.at_time(shard, UnixMs(0)).expect("a beginning"), at(0), "{shard}");
                    let found =
                        reader.read(shard, at(0), ReadLimit { bytes_max: 0 }).expect("nothing is damaged");
                    assert!(frames_of(&found).first().is_none_or(|first| first.0 == 0), "{shard}");
                }
            });
            for shard in 0..SHARDS {
                asked.store(shard, Ordering::Release);
                for round in 0..3 {
                    writer.append(ShardId(shard), 2);
                    writer.sync();
                    if (shard + round) % 3 == 0 {
                        writer.roll();
                    }
                }
            }
            done.store(true, Ordering::Release);
            asker.join().expect("nothing is skipped");
        });
    });
}

#[test]
fn who_asks_by_number_or_time_while_segments_are_sealed_and_trimmed_hears_of_the_right_batch() {
    const BATCHES: u64 = 1200;
    // Of two records each, made three milliseconds apart.
    let made = |first: u64| UnixMs(1 + 3 * (first / 2 + 1));
    on_all(|place| {
        let mut writer = Writer::new(place, 1);
        let reader = writer.log.reader();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let asker = scope.spawn(|| {
                let mut rng = Rng::new(7);
                while !done.load(Ordering::Acquire) {
                    let tail = reader.tail(A).0;
                    let number = rng.below(tail.max(1));
                    let found = reader.read(A, at(number), ReadLimit { bytes_max: 0 }).expect("no damage");
                    let kept = frames_of(&found).first().copied();
                    assert!(kept.is_none_or(|(first, _)| first + 2 > number), "{number}: {kept:?}");
                    let found = reader.at_producer_time(A, made(number)).expect("a place").0;
                    let oldest = reader.first(A).expect("a beginning").0;
                    // What was trimmed meanwhile is not there; all else is where it was.
                    for found in [kept.map_or(oldest, |(first, _)| first), found] {
                        assert!(found == number / 2 * 2 || number < oldest, "{number}: {found}, {oldest}");
                    }
                }
            });
            for batch in 0..BATCHES {
                writer.append(A, 2);
                writer.sync();
                if batch % 3 == 0 {
                    writer.roll();
                }
                if batch % 100 == 99 {
                    writer.trim_to(if batch % 200 == 99 { 60 } else { 250 });
                }
            }
            done.store(true, Ordering::Release);
            asker.join().expect("right answers");
        });
    });
}

/// Spoils the newest segment, which has these batches of A in it, while the log is closed; nothing else changes.
fn unharmed_by(newest: &[u32], spoil: impl Fn(&Place, u64)) {
    on_all(|place| {
        let mut writer = Writer::new(place, 2);
        for round in 0..4 {
            writer.append(A, 3);
            writer.append(B, 1 + round);
            writer.sync();
            if round == 2 {
                writer.roll();
            }
        }
        let last = writer.batches.last().expect("batches").header.arrival;
        writer.roll();
        newest.iter().for_each(|records| writer.append(A, *records));
        writer.sync();
        let base = writer.log.reader().segments(9).expect("segments")[1].end;
        let (batches, now) = (std::mem::take(&mut writer.batches), writer.now);
        drop(writer);
        spoil(place, base.0);
        let mut writer = Writer { batches, now, ..Writer::open(place).expect("it has a head") };
        let reader = writer.log.reader();
        assert_eq!(
            (reader.tail(A), reader.tail(B)),
            (at(12 + u64::from(newest.iter().sum::<u32>())), at(10))
        );
        compare(place, &writer, &mut Rng::new(9));
        // Retention must not think that what lies before it is of 1970.
        let sealed = reader.segments(9).expect("segments")[1].sealed.expect("it is sealed");
        assert!(sealed >= last, "{sealed:?}, and its newest batch came at {last:?}");
        assert!(reader.active().begun >= last);
        // The same once others follow it, and what was noted of it is gone.
        writer.roll();
        writer.append(A, 1);
        writer.sync();
        writer.roll();
        let (batches, now) = (std::mem::take(&mut writer.batches), writer.now);
        drop((writer, reader));
        place.files(".idx").iter().for_each(|file| place.disk.remove(file).expect("it is there"));
        let writer = Writer { batches, now, ..Writer::open(place).expect("it has a head") };
        compare(place, &writer, &mut Rng::new(9));
        let ages = writer.log.reader().segments(9).expect("segments");
        assert!(ages.iter().all(|age| age.sealed.is_none_or(|sealed| sealed > UnixMs(0))), "{ages:?}");
    });
}

#[test]
fn a_segment_of_which_only_the_file_is_there_changes_nothing_for_readers_and_for_retention() {
    unharmed_by(&[], |place, base| {
        let files = place.files(".log");
        assert!(files[2].as_str().contains(&base.to_string()));
        place.disk.truncate(&files[2], 0).expect("it is there");
        // What an error left in an older one is never read, and keeps recovery from taking the file away.
        place.disk.append(&files[0], b"left over").expect("it is there");
        files.iter().for_each(|file| place.disk.sync(file).expect("a sync"));
    });
}

#[test]
fn a_segment_whose_head_and_spare_are_damaged_changes_nothing_for_readers_and_for_retention() {
    unharmed_by(&[2, 1], |place, base| {
        let file = place.files(".log").pop().expect("segments");
        let mut head = [0; HEADER_BYTES];
        place.disk.read_at(&file, 0, &mut head).expect("a head");
        let head = Header::parse(&head).expect("a head").total_len;
        place.flip_bit(base + 1);
        place.flip_bit(base + u64::from(head) + 1);
    });
}

/// Compares everything that a reader can ask with what was written.
fn compare(place: &Place, writer: &Writer, rng: &mut Rng) {
    let reader = writer.log.reader();
    for (id, shard) in &writer.state.shards {
        let kept: Vec<_> = writer.batches.iter().filter(|batch| batch.header.shard == *id).collect();
        let (tail, first) = (shard.next, kept.first().map_or(shard.next, |b| b.header.first_sequence));
        assert_eq!(reader.tail(*id), tail, "{place:?}");
        assert_eq!(reader.first(*id), Ok(first), "{place:?}");
        for _ in 0..4 {
            let time = UnixMs(rng.between(0, writer.now.0 + 2));
            let due = kept.iter().find(|batch| batch.header.arrival >= time);
            let want = due.map_or(tail, |batch| batch.header.first_sequence);
            assert_eq!(reader.at_time(*id, time), Ok(want), "{place:?}: {id} at {time:?}");
            let made = kept.iter().rfind(|batch| batch.header.producer_time <= time);
            let want = made.map_or(first, |batch| batch.header.first_sequence);
            assert_eq!(reader.at_producer_time(*id, time), Ok(want), "{place:?}: {id} made at {time:?}");
        }
        for _ in 0..4 {
            let from = at(rng.between(0, tail.0));
            let limit = ReadLimit { bytes_max: rng.between(0, 3000) as usize };
            let found = reader.read(*id, from, limit).expect("nothing is damaged");
            let start = kept.iter().position(|batch| batch.header.end_sequence() > from);
            let Some(start) = start else {
                assert!(found.frames.is_empty() && found.next == tail, "{place:?}: {id} at {from}");
                continue;
            };
            let count = frames_of(&found).len();
            let run = &kept[start..start + count];
            let bytes: Vec<u8> = run.iter().flat_map(|batch| batch.frame.clone()).collect();
            assert!(count > 0, "{place:?}: {id} has nothing at {from}");
            assert_eq!(found.frames, bytes, "{place:?}");
            assert_eq!(found.next, run[count - 1].header.end_sequence());
            assert_eq!(found.last_arrival, run[count - 1].header.arrival);
            assert!(count == 1 || bytes.len() <= limit.bytes_max);
        }
    }
}

#[test]
fn every_question_has_the_same_answer_as_a_plain_list_in_random_histories() {
    for seed in 0..25 {
        on_all(|place| {
            let mut rng = Rng::new(seed);
            let shards = rng.between(1, 5) as u32;
            let mut writer = Writer::new(place, shards);
            for _ in 0..60 {
                match rng.below(20) {
                    0..12 => {
                        for _ in 0..rng.between(1, 4) {
                            writer.append(
                                ShardId(rng.below(u64::from(shards)) as u32),
                                rng.between(1, 9) as u32,
                            );
                        }
                        writer.sync();
                    }
                    12..16 => writer.roll(),
                    16 => writer.trim_to(rng.below(4) as usize),
                    17 => {
                        let batches = std::mem::take(&mut writer.batches);
                        let now = writer.now;
                        drop(writer);
                        writer = Writer { batches, now, ..Writer::open(place).expect("it has a head") };
                    }
                    _ => compare(place, &writer, &mut rng),
                }
            }
            compare(place, &writer, &mut rng);
        });
    }
}

#[test]
fn every_question_has_the_same_answer_of_hundreds_of_segments_while_they_are_sealed_and_trimmed() {
    for seed in 0..4 {
        on_all(|place| {
            let mut rng = Rng::new(seed);
            let mut writer = Writer::new(place, 2);
            for round in 0..400 {
                // One shard gets something in every segment, the other one in few, and time leaps at times.
                let shard = if rng.chance(80) { B } else { A };
                writer.append(shard, rng.between(1, 9) as u32);
                writer.append(A, 1);
                writer.sync();
                if rng.chance(33) {
                    writer.now = UnixMs(writer.now.0 + rng.below(3000));
                }
                writer.roll();
                if round % 25 == 24 {
                    compare(place, &writer, &mut rng);
                }
                if rng.chance(17) {
                    writer.trim_to(rng.below(200) as usize);
                }
            }
        });
    }
}
