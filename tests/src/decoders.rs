//! Everything that turns bytes from outside into values, each behind one function that takes any bytes at all: fed by the
//! fuzzer (`tests/fuzz`) and by the `decoders` suite. A new parser is one more line in [`TARGETS`].
//!
//! Where a checksum stands before the parser, it is put right here, or nothing would ever get past it. What is read is
//! written again where that can be done, and must come out the same.

use std::path::Path;

use agent::Config;
use agent::config::RtspUrl;
use agent::spool::{CursorUpdate, DeliveredUpdate, State};
use md5::{Digest, Md5};
use protocol::batch::Batch;
use protocol::compress::Codec;
use protocol::frame::{Frame, HEADER_BYTES, Header};
use protocol::kinesis::arn::Arn;
use protocol::kinesis::iterator::ShardIterator;
use protocol::kinesis::number::Number;
use protocol::kinesis::{cbor, json};
use protocol::limit::MESSAGE_BYTES_MAX;
use protocol::name::StreamName;
use protocol::native::call::{Call, Goodbye, Hello, Reply, StreamInfo, Welcome};
use protocol::native::message::{Ack, Message, ReadHead, Type};
use protocol::native::url::StoreUrl;
use protocol::time::UnixMs;
use protocol::{kpl, sigv4};
use store::catalog::{CatalogState, Change};
use store::closed::Closed;
use store::log::index::SegmentIndex;
use store::shard::state::StreamState;
use video::annexb::{self, Rate};
use video::container::Demuxer;
use video::cut::{Cut, Cutter};
use video::describe::Kind;
use video::film::Film;
use video::fragment::{Clock, Config as VideoConfig, Fragment};
use video::{codec, limit, mkv, mux, ts};

/// A decoder, behind a function that takes anything.
pub type Target = fn(&[u8]);

/// All of them, by name.
pub const TARGETS: [(&str, Target); 22] = [
    ("frame", frame),
    ("batch", batch),
    ("message", message),
    ("catalog", catalog),
    ("stream_state", stream_state),
    ("index", index),
    ("spool", spool),
    ("kpl", kpl_record),
    ("kinesis", kinesis),
    ("signature", signature),
    ("words", words),
    ("config", config),
    ("video_demux", video_demux),
    ("video_fragment", video_fragment),
    ("video_codec", video_codec),
    ("video_film", video_film),
    ("video_mkv", video_mkv),
    ("video_raw", video_raw),
    ("video_asked", video_asked),
    ("video_lists", video_lists),
    ("video_camera", video_camera),
    ("video_ts", video_ts),
];

/// Frames, one after the other, and the batch in each.
pub fn frame(bytes: &[u8]) {
    let mut rest = bytes;
    while let Ok((frame, after)) = Frame::parse_first(rest) {
        assert_eq!(frame.header.encode(), rest[..HEADER_BYTES], "what is read is what was written");
        let _ = Batch::new().open(&frame.header, frame.payload);
        assert!(after.len() < rest.len());
        rest = after;
    }
    let _ = Header::parse(bytes);
}

/// The first 13 bytes choose what the header says, the rest is the payload.
pub fn batch(bytes: &[u8]) {
    let Some((says, payload)) = bytes.split_at_checked(13) else { return };
    let number = |at: usize| u32::from_le_bytes([says[at], says[at + 1], says[at + 2], says[at + 3]]);
    let header = Header {
        codec: [Codec::None, Codec::Lz4, Codec::Zstd][usize::from(says[0]) % 3],
        total_len: u32::try_from(HEADER_BYTES + payload.len()).unwrap_or(u32::MAX),
        raw_len: number(1),
        record_count: number(5),
        user_bytes: number(9),
        ..Header::default()
    };
    // Its bounds are checked there.
    let Ok(header) = Header::parse(&header.encode()) else { return };
    let mut batch = Batch::new();
    if batch.open(&header, payload).is_ok() {
        let sum: usize = batch.records().map(|record| record.data.len() + record.partition_key.len()).sum();
        assert_eq!(batch.records().count(), header.record_count as usize);
        assert!(sum <= header.raw_len as usize * 64, "keys may be shared, and not without end");
    }
}

/// Messages of the native wire, one after the other.
pub fn message(bytes: &[u8]) {
    let mut rest = bytes;
    while let Ok(Some((message, len))) = Message::parse(rest, MESSAGE_BYTES_MAX) {
        one_message(&message);
        rest = &rest[len..];
    }
}

fn one_message(message: &Message<'_>) {
    match message.kind {
        Type::Ack => {
            if let Ok(ack) = Ack::parse(message.body) {
                let mut again = Vec::new();
                ack.put(&mut again);
                let parsed = Message::parse(&again, MESSAGE_BYTES_MAX);
                let Ok(Some((again, _))) = parsed else { panic!("an ack that can't be read again: {ack:?}") };
                assert_eq!(Ack::parse(again.body).as_ref(), Ok(&ack));
            }
        }
        Type::Batches => drop(ReadHead::parse(message.body)),
        Type::Append => frame(message.body),
        _ => {
            let _ = message.call::<Call>();
            let _ = message.call::<Reply>();
            let _ = message.json::<Hello>();
            let _ = message.json::<Welcome>();
            let _ = message.json::<Goodbye>();
            let _ = message.json::<StreamInfo>();
        }
    }
}

/// The catalog's state and a change of it, both JSON.
pub fn catalog(bytes: &[u8]) {
    let mut state = serde_json::from_slice::<CatalogState>(bytes).unwrap_or_default();
    if let Ok(change) = serde_json::from_slice::<Change>(bytes) {
        state.apply(&change);
        let again = serde_json::to_vec(&change).expect("it was JSON before");
        assert_eq!(serde_json::from_slice::<Change>(&again).ok(), Some(change));
    }
    let again = serde_json::to_vec(&state).expect("names and numbers");
    assert_eq!(serde_json::from_slice::<CatalogState>(&again).ok(), Some(state));
    let _ = Closed::decode(bytes);
    let text = [bytes, format!("crc32c {:08x}\n", crc32c::crc32c(bytes)).as_bytes()].concat();
    if let Some(closed) = Closed::decode(&text) {
        assert_eq!(Closed::decode(&closed.encode()), Some(closed));
    }
}

/// A stream's state, as a segment begins with it; a note of where logs ended.
pub fn stream_state(bytes: &[u8]) {
    let Ok(mut state) = StreamState::decode(bytes) else { return };
    let mut again = Vec::new();
    state.encode(&mut again);
    assert_eq!(StreamState::decode(&again).as_ref(), Ok(&state));
    let _ = state.apply_reshard(bytes);
}

/// A sealed segment's index.
pub fn index(bytes: &[u8]) {
    let _ = SegmentIndex::decode(bytes);
    let sum = crc32c::crc32c(bytes);
    let whole = [b"KIDX", &sum.to_le_bytes()[..], bytes].concat();
    if let Ok(index) = SegmentIndex::decode(&whole) {
        assert_eq!(SegmentIndex::decode(&index.encode()).as_ref(), Ok(&index));
    }
}

/// What the agent's spool keeps beside the records.
pub fn spool(bytes: &[u8]) {
    if let Some(state) = State::decode(bytes) {
        // What is history is left out, so it is not the same; but it can be read.
        assert!(State::decode(&state.encode()).is_some());
    }
    let _ = serde_json::from_slice::<CursorUpdate>(bytes);
    if let Ok(mut update) = serde_json::from_slice::<DeliveredUpdate>(bytes) {
        update.merge(update.clone());
    }
}

/// An aggregated record, without its magic and checksum.
pub fn kpl_record(bytes: &[u8]) {
    let _ = kpl::open(bytes);
    let whole = [&kpl::MAGIC[..], bytes, &Md5::digest(bytes)[..]].concat();
    for record in kpl::open(&whole).unwrap_or_default() {
        assert!(record.data.len() <= bytes.len());
    }
}

/// A request in JSON and in CBOR.
pub fn kinesis(bytes: &[u8]) {
    let _ = json::read(bytes);
    let _ = cbor::read(bytes);
}

/// Lines: method, path, query, and headers with a colon.
pub fn signature(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut lines = text.lines();
    let (method, path, query) = (lines.next(), lines.next(), lines.next());
    let headers: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(':')).collect();
    let request = sigv4::Request {
        method: method.unwrap_or_default(),
        path: path.unwrap_or_default(),
        query: query.unwrap_or_default(),
        headers: &headers,
        body: &[],
    };
    let _ = sigv4::Claim::read(&request);
}

/// Addresses, names, numbers, iterators: whatever is text.
pub fn words(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = StoreUrl::parse(text);
    let _ = Arn::parse(text);
    let _ = ShardIterator::parse(text);
    let _ = Number::parse(text);
    if let Ok(name) = StreamName::new(text) {
        assert_eq!(name.as_str(), text);
    }
    let _ = agent::config::Size::parse(text);
}

/// What players ask the store, and cameras' addresses: of the former the first byte says what the others are.
pub fn video_asked(bytes: &[u8]) {
    store::api::video_asked(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(url) = RtspUrl::try_from(text.to_owned()) {
        assert_eq!(url.text(), text);
        let (host, said) = (url.host(), format!("{url:?}"));
        assert!(text.contains(host.rsplit_once(':').map_or("", |(host, _)| host)), "{host}");
        assert_eq!(said, format!("RtspUrl({host})"), "nothing but the host is told");
    }
}

/// What players are answered: the lists and manifests of anything that may have been filmed.
pub fn video_lists(bytes: &[u8]) {
    store::api::video_lists(bytes);
}

/// What a camera says by RTSP once its packets are frames: descriptions, frames and clocks in any order.
pub fn video_camera(bytes: &[u8]) {
    let (cuts, came) = agent::source::video::camera_said(bytes);
    let kept: u64 = cuts.iter().map(|cut| cut.data.len() as u64).sum();
    assert!(kept <= came, "{kept} bytes of {came}");
    // What else fragments have to be, `video_demux` looks at.
    assert!(cuts.iter().all(|cut| cut.fragment.data_bytes() == cut.data.len() as u64));
}

/// Packets of a transport stream. The first byte chooses a program, or that the rest is packets as it is, of which only the
/// first byte of each is put right; else each packet has a byte that says of which stream it is, whether a frame begins in it
/// and when, and how much of what follows it has.
pub fn video_ts(bytes: &[u8]) {
    let Some((program, mut rest)) = bytes.split_first() else { return };
    let mut stream = TS_TABLES[usize::from(program % 2)].to_vec();
    if program & 2 == 2 {
        for packet in rest.chunks(TS_PACKET_BYTES - 1) {
            stream.push(0x47);
            stream.extend_from_slice(packet);
        }
    }
    let mut counters = [0u8; 2];
    while let ([says, take, after @ ..], 0) = (rest, program & 2) {
        let (payload, left) = after.split_at(usize::from(*take).min(TS_PACKET_BYTES - 24).min(after.len()));
        rest = left;
        let (track, begins) = (usize::from(says & 1), says & 2);
        // Some are missing.
        counters[track] = counters[track].wrapping_add(if says & 0x1c == 0x1c { 2 } else { 1 });
        let mut packet = vec![0x47, 1 | begins << 5, track as u8, 0x30 | counters[track] & 15];
        let pes = if begins == 0 { Vec::new() } else { ts_head(*says) };
        let fill = TS_PACKET_BYTES - 5 - pes.len() - payload.len();
        packet.extend([fill as u8].into_iter().chain((0..fill).map(|n| if n == 0 { 0 } else { 0xff })));
        stream.extend([packet, pes, payload.to_vec()].concat());
    }
    let (mut demuxer, mut cuts) =
        (ts::Demuxer::new(Cutter::new(7, UnixMs(1_700_000_000_000), Clock::Arrival)), Vec::new());
    let pushed =
        stream.chunks(1 + 7 * usize::from(*program)).try_for_each(|part| demuxer.push(part, &mut cuts));
    let _ = demuxer.finish(&mut cuts);
    drop(pushed);
    assert!(cuts.iter().all(|cut| cut.fragment.data_bytes() == cut.data.len() as u64));
}

/// A packet's bytes.
const TS_PACKET_BYTES: usize = 188;
/// The tables of streams with H.264 or H.265 as stream 0x100 and AAC as 0x101.
const TS_TABLES: [&[u8]; 2] = [
    include_bytes!("../fuzz/examples/h264.ts").split_at(TS_PACKET_BYTES * 3).0,
    include_bytes!("../fuzz/examples/h265.ts").split_at(TS_PACKET_BYTES * 3).0,
];

/// The head of a frame that is shown then.
fn ts_head(says: u8) -> Vec<u8> {
    let pts = u64::from(says >> 2) * 3000;
    let time =
        [0x21, (pts >> 22) as u8, 1 | (pts >> 14) as u8 & 0xfe, (pts >> 7) as u8, 1 | (pts << 1) as u8];
    [&[0, 0, 1, 0xe0, 0, 0, 0x80, 0x80, 5][..], &time].concat()
}

/// An agent's configuration.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Err(error) = Config::parse(text, "agent.toml", Path::new("/")) {
        assert!(error.to_string().starts_with("agent.toml"), "{error}");
    }
}

/// The first byte says in pieces of how many bytes the rest comes. What comes out is made into MP4 again, and that is
/// taken apart into as many bytes.
pub fn video_demux(bytes: &[u8]) {
    let Some((piece, rest)) = bytes.split_first() else { return };
    let cuts = demuxed(rest, usize::from(*piece) + 1);
    // How it comes makes no difference.
    assert_eq!(cuts, demuxed(rest, rest.len().max(1)));
    for cut in &cuts {
        assert_eq!(cut.fragment.data_bytes(), cut.data.len() as u64);
        let head = cut.fragment.head();
        let sizes: Vec<u32> = cut.fragment.frames.iter().map(|frame| frame.size).collect();
        let read = read_head(&head, sizes, cut.fragment.producer_time);
        assert_eq!(read.as_ref(), Some(&cut.fragment), "what is written can be read");
        told(&cut.fragment, &cut.data.to_vec());
    }
}

fn demuxed(bytes: &[u8], piece: usize) -> Vec<Cut> {
    let mut demuxer = Demuxer::new(Cutter::new(7, UnixMs(1_700_000_000_000), Clock::Arrival));
    let mut cuts = Vec::new();
    for piece in bytes.chunks(piece) {
        if demuxer.push(piece, &mut cuts).is_err() {
            break;
        }
    }
    let _ = demuxer.finish(&mut cuts);
    cuts
}

fn read_head(head: &[u8], mut sizes: Vec<u32>, time: UnixMs) -> Option<Fragment> {
    if let Some(first) = sizes.first_mut() {
        *first = first.saturating_add(head.len() as u32);
    }
    Fragment::read(head, &sizes, time).ok().map(|(fragment, _)| fragment)
}

/// All that is ever asked of a fragment that was read.
fn told(fragment: &Fragment, data: &[u8]) {
    let _ = (fragment.starts_with_key(), fragment.duration(0));
    let Ok(tracks) = codec::tracks(&fragment.config) else { return };
    let ids = mux::track_ids(&fragment.config).expect("it has tracks");
    assert!(mux::init(&fragment.config).len() > fragment.config.moov().len());
    let mut rest = data;
    let mut frames = Vec::new();
    for frame in &fragment.frames {
        let (bytes, after) = rest.split_at((frame.size as usize).min(rest.len()));
        rest = after;
        if let Some(track) = tracks.get(usize::from(frame.track)) {
            assert!(track.annexb(bytes, false).len() <= bytes.len() * 5 + 8);
        }
        frames.push(bytes);
    }
    if frames.iter().zip(&fragment.frames).all(|(bytes, frame)| bytes.len() == frame.size as usize) {
        let made = mux::segment(1, &ids, &fragment.frames, &frames).map(|made| made.len() as u64);
        let of_tracks = fragment.frames.iter().all(|frame| usize::from(frame.track) < ids.len());
        assert!(!of_tracks || made == Ok(mux::segment_bytes(&fragment.frames)), "{made:?}");
    }
}

/// The head of a fragment without magic, length and checksum; before it two bytes, how many records there are, and how
/// long those after the first.
pub fn video_fragment(bytes: &[u8]) {
    let Some((says, body)) = bytes.split_at_checked(2) else { return };
    let sum = crc32c::crc32c(body);
    let head = [b"KVF1", &(body.len() as u32).to_le_bytes()[..], &sum.to_le_bytes()[..], body].concat();
    let sizes = vec![u32::from(says[1]); usize::from(says[0])];
    let _ = Fragment::read(body, &sizes, UnixMs(1));
    let Some(fragment) = read_head(&head, sizes.clone(), UnixMs(1)) else { return };
    let again = read_head(&fragment.head(), sizes, UnixMs(1));
    assert_eq!(again.as_ref(), Some(&fragment), "what is read can be written");
    told(&fragment, &[]);
}

/// A film that is not fragmented: an MP4 file with its frames wherever its tables say.
pub fn video_film(bytes: &[u8]) {
    let Ok(Some(mut film)) = Film::open(std::io::Cursor::new(bytes), bytes.len() as u64) else { return };
    let mut cutter = Cutter::new(7, UnixMs(1_700_000_000_000), Clock::Arrival);
    let mut cuts = Vec::new();
    // Tables may let all frames be the same bytes: what they come to is bounded here as it is by whoever reads a film.
    for _ in 0..10_000 {
        if !matches!(film.next(&mut cutter, &mut cuts), Ok(true)) {
            break;
        }
    }
    for cut in &cuts {
        assert_eq!(cut.fragment.data_bytes(), cut.data.len() as u64);
        told(&cut.fragment, &cut.data.to_vec());
    }
}

/// Matroska as a producer sends it whose clusters are fragments. The first byte says in pieces of how many bytes it comes.
pub fn video_mkv(bytes: &[u8]) {
    let Some((piece, rest)) = bytes.split_first() else { return };
    let read = |piece: usize| {
        let (mut demuxer, mut told) = (mkv::Demuxer::by_cluster(7, 1_700_000_000_000, Some(200)), Vec::new());
        let pushed = rest.chunks(piece).try_for_each(|part| demuxer.push_told(part, &mut told));
        let finished = demuxer.finish_told(&mut told);
        (told, pushed.is_ok(), pushed.and(finished).is_ok())
    };
    let (all, ..) = read(usize::from(*piece) + 1);
    assert_eq!(all, read(rest.len().max(1)).0, "how it comes makes no difference");
    for one in &all {
        if let mkv::Told::Cut(cut) = one {
            assert_eq!(cut.fragment.data_bytes(), cut.data.len() as u64);
            told(&cut.fragment, &cut.data.to_vec());
        }
    }
}

/// Raw H.264 or H.265: parameter sets, slice headers and what is between them. The first byte says in pieces of how many bytes it
/// comes, the second which codec it is, and whether somebody says its rate or only when it comes.
pub fn video_raw(bytes: &[u8]) {
    let Some((says, rest)) = bytes.split_at_checked(2) else { return };
    let read = |piece: usize| {
        let kind = if says[1] & 1 == 0 { Kind::H264 } else { Kind::H265 };
        let rate = (says[1] & 2 == 0).then(|| Rate::of_fps(25.0)).flatten();
        let cutter = Cutter::new(7, UnixMs(1_700_000_000_000), Clock::Arrival);
        let (mut demuxer, mut cuts) = (annexb::Demuxer::new(kind, cutter, rate), Vec::new());
        if says[1] & 4 == 0 {
            demuxer.handle_time(UnixMs(1_700_000_000_000));
        }
        let _ = rest.chunks(piece).try_for_each(|part| demuxer.push(part, &mut cuts));
        let _ = demuxer.finish(&mut cuts);
        cuts
    };
    let cuts = read(usize::from(says[0]) + 1);
    assert_eq!(cuts, read(rest.len().max(1)), "how it comes makes no difference");
    let kept: usize = cuts.iter().map(|cut| cut.data.len()).sum();
    // A start code of three bytes becomes a length of four.
    assert!(kept <= rest.len() * 2, "what is kept has come");
    for cut in &cuts {
        assert_eq!(cut.fragment.data_bytes(), cut.data.len() as u64);
        told(&cut.fragment, &cut.data.to_vec());
    }
}

/// A configuration, and the same bytes as a frame of its tracks.
pub fn video_codec(bytes: &[u8]) {
    let config = VideoConfig::new(bytes[..bytes.len().min(limit::CONFIG_BYTES_MAX)].to_vec());
    for track in codec::tracks(&config).unwrap_or_default() {
        let sets: usize = track.parameter_sets.iter().map(|set| set.len() + 4).sum();
        assert!(sets <= bytes.len() * 5, "parameter sets are in the configuration");
        assert!(track.annexb(bytes, true).len() <= sets + bytes.len() * 5 + 8);
    }
    let _ = mux::track_ids(&config);
}
