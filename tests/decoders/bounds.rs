//! What a bound allows is taken, and one more is refused: for each bound that a value from outside can come to. Those of
//! queues and connections are reached where there are any, in `faults` and `conformance`.

use std::sync::Arc;

use disk::{COMPONENT_BYTES_MAX, NAME_BYTES_MAX};
use protocol::batch::{BatchBuilder, check_partition_key};
use protocol::frame::Header;
use protocol::kinesis::value::DEPTH_MAX;
use protocol::kinesis::{cbor, json};
use protocol::limit::{
    BATCH_KEYS_MAX, BATCH_RAW_BYTES_MAX, BATCH_RECORDS_MAX, FRAME_BYTES_MAX, MESSAGE_BYTES_MAX,
    MESSAGE_BYTES_MAX_BEFORE_AUTH, PARTITION_KEY_CHARS_MAX, STREAM_NAME_CHARS_MAX,
};
use protocol::name::StreamName;
use protocol::native::message::Message;
use protocol::time::UnixMs;
use video::VideoError;
use video::codec::{Track, TrackKind};
use video::cut::{Cut, Cutter, Sample};
use video::demux::Demuxer;
use video::fragment::{Clock, Config};
use video::limit;

/// `takes` is asked for the bound and for one more.
fn holds(name: &str, bound: usize, takes: impl Fn(usize) -> bool) {
    assert!(takes(bound), "{name}: {bound} is refused");
    assert!(!takes(bound + 1), "{name}: {} is taken", bound + 1);
}

/// Reaches `STREAM_NAME_CHARS_MAX`, `PARTITION_KEY_CHARS_MAX` of protocol/src/limit.rs.
/// Reaches `COMPONENT_BYTES_MAX`, `NAME_BYTES_MAX` of protocol/disk/src/name.rs.
#[test]
fn names_and_keys_are_as_long_as_they_may_be_and_no_longer() {
    holds("stream name", STREAM_NAME_CHARS_MAX, |len| StreamName::new(&"n".repeat(len)).is_ok());
    // Four bytes each.
    holds("partition key", PARTITION_KEY_CHARS_MAX, |len| {
        check_partition_key(&"\u{1f69a}".repeat(len)).is_ok()
    });
    holds("component", COMPONENT_BYTES_MAX, |len| disk::FileName::new(&"n".repeat(len)).is_ok());
    let long = "a/".repeat(NAME_BYTES_MAX);
    // The bound is even, and a name does not end with a separator.
    let name = |len: usize| long[..len - 1].to_owned() + "a";
    holds("name", NAME_BYTES_MAX, |len| disk::FileName::new(&name(len)).is_ok());
}

/// Reaches `FRAME_BYTES_MAX`, `BATCH_RAW_BYTES_MAX`, `BATCH_RECORDS_MAX` of protocol/src/limit.rs.
/// Reaches `MESSAGE_BYTES_MAX`, `MESSAGE_BYTES_MAX_BEFORE_AUTH` of protocol/src/limit.rs.
#[test]
fn headers_and_messages_say_as_much_as_they_may_and_no_more() {
    let parses = |header: Header| Header::parse(&header.encode()).is_ok();
    let good = Header { total_len: 200, ..Header::default() };
    holds("frame", FRAME_BYTES_MAX, |len| parses(Header { total_len: len as u32, ..good }));
    holds("batch", BATCH_RAW_BYTES_MAX, |len| parses(Header { raw_len: len as u32, ..good }));
    holds("records", BATCH_RECORDS_MAX, |count| parses(Header { record_count: count as u32, ..good }));
    for max in [MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX_BEFORE_AUTH] {
        // Of a message that has not come yet only the length is there: refused at once, or waited for.
        holds("message", max, |len| Message::parse(&(len as u32).to_le_bytes(), max) == Ok(None));
    }
}

/// Reaches `BATCH_KEYS_MAX`, `BATCH_RECORDS_MAX` of protocol/src/limit.rs.
#[test]
fn a_builder_has_no_room_above_the_bounds_of_a_batch() {
    let mut builder = BatchBuilder::new();
    for n in 0..BATCH_KEYS_MAX {
        assert!(builder.has_room(1), "{n} keys");
        let key = builder.key(&format!("{n}"), None).unwrap();
        builder.push(key, UnixMs(1), b"x");
    }
    assert!(!builder.has_room(1));
    builder.clear();
    for n in 0..BATCH_RECORDS_MAX {
        assert!(builder.has_room(1), "{n} records");
        let key = builder.key("key", None).unwrap();
        builder.push(key, UnixMs(1), b"x");
    }
    assert!(!builder.has_room(1));
    builder.clear();
    assert!(!builder.has_room(BATCH_RAW_BYTES_MAX));
}

/// Reaches `DEPTH_MAX` of protocol/src/kinesis/value.rs.
#[test]
fn json_and_cbor_are_as_deep_as_they_may_be_and_no_deeper() {
    holds("CBOR", DEPTH_MAX, |depth| cbor::read(&[vec![0x81; depth], vec![0]].concat()).is_ok());
    let nested = |depth: usize| "[".repeat(depth) + "0" + &"]".repeat(depth);
    holds("JSON", DEPTH_MAX, |depth| json::read(nested(depth).as_bytes()).is_ok());
}

fn boxed(kind: &[u8; 4], size: usize, inner: &[u8]) -> Vec<u8> {
    // Boxes say their length in big-endian order.
    [&(size as u32).swap_bytes().to_le_bytes()[..], kind, inner].concat()
}

/// Whether a box that says that it has so many bytes is waited for.
fn waits_for(before: &[u8], kind: &[u8; 4], size: usize) -> bool {
    let mut demuxer = Demuxer::new(Cutter::new(1, UnixMs(1), Clock::Producer));
    demuxer.push(&[before, &boxed(kind, size, &[])].concat(), &mut Vec::new()).is_ok()
}

/// Reaches `MOOF_BYTES_MAX`, `MDAT_BYTES_MAX`, `BOX_DEPTH_MAX`, `BOXES_MAX` of video/src/limit.rs.
#[test]
fn boxes_are_as_large_as_deep_and_as_many_as_they_may_be_and_no_more() {
    let begin = boxed(b"ftyp", 8, &[]);
    holds("moof", limit::MOOF_BYTES_MAX, |size| waits_for(&begin, b"moof", size));
    let moof = [begin, boxed(b"moof", 24, &boxed(b"mfhd", 16, &[0; 8]))].concat();
    holds("mdat", limit::MDAT_BYTES_MAX, |size| waits_for(&moof, b"mdat", size));
    let nested =
        |depth: usize| (0..depth).fold(Vec::new(), |inner, _| boxed(b"trak", inner.len() + 8, &inner));
    holds("depth", limit::BOX_DEPTH_MAX, |depth| video::tree::check(&nested(depth), 0).is_ok());
    holds("boxes", limit::BOXES_MAX, |count| {
        video::tree::check(&boxed(b"free", 8, &[]).repeat(count), 0).is_ok()
    });
}

/// Cuts frames without any key frame among them, each of so many bytes and milliseconds.
fn cut(count: usize, bytes: usize, ms: u32) -> Result<Vec<Cut>, VideoError> {
    let track = Track {
        id: 1,
        kind: TrackKind::Video,
        timescale: 1000,
        codec: String::new(),
        width: 1,
        height: 1,
        nal_length_bytes: None,
        parameter_sets: Vec::new(),
    };
    let mut cutter = Cutter::new(1, UnixMs(1), Clock::Producer);
    cutter.set_config(Arc::new(Config::new(Vec::new())), &[track]);
    let (data, mut cuts) = (vec![7; bytes], Vec::new());
    for n in 0..count as u64 {
        let dts = n * u64::from(ms);
        let sample = Sample { track: 0, key: n == 0, dts, duration: ms, offset: 0, data: &data };
        cuts.extend(cutter.push(sample)?);
    }
    cuts.extend(cutter.flush());
    Ok(cuts)
}

/// Reaches `FRAGMENT_FRAMES_MAX`, `FRAGMENT_BYTES_MAX`, `FRAGMENT_MS_MAX`, `FRAME_BYTES_MAX` of video/src/limit.rs.
#[test]
fn fragments_are_cut_before_they_are_larger_than_they_may_be() {
    let is_one = |count, bytes, ms| cut(count, bytes, ms).unwrap().len() == 1;
    holds("frames of a fragment", limit::FRAGMENT_FRAMES_MAX, |count| is_one(count, 1, 1));
    holds("bytes of a fragment", limit::FRAGMENT_BYTES_MAX / 2, |bytes| is_one(2, bytes, 1));
    holds("seconds of a fragment", limit::FRAGMENT_MS_MAX as usize / 1000, |count| is_one(count, 1, 1000));
    holds("bytes of a frame", limit::FRAME_BYTES_MAX, |bytes| cut(1, bytes, 1).is_ok());
}
