//! Good examples for each decoder, from which mutations begin.

use agent::spool::{CursorUpdate, DeliveredUpdate, State};
use protocol::batch::BatchBuilder;
use protocol::compress::{Codec, Compressor};
use protocol::frame::{HEADER_BYTES, Header};
use protocol::kpl::{Aggregator, MAGIC, SubRecord};
use protocol::name::StreamName;
use protocol::native::call::{Call, Hello, Producer};
use protocol::native::message::{Ack, Outcome, RefuseCode, Type, put_call, put_json, put_message};
use protocol::sequence::ShardId;
use protocol::stream::StreamConfig;
use protocol::time::UnixMs;
use store::catalog::{CatalogState, Change, StreamEntry, Traits};
use store::log::index::SegmentIndex;
use store::shard::state::StreamState;
use video::cut::{Cut, Cutter};
use video::demux::Demuxer;
use video::fragment::Clock;

fn name() -> StreamName {
    StreamName::new("logs").unwrap()
}

fn frames() -> Vec<Vec<u8>> {
    let frame = |codec| {
        let mut builder = BatchBuilder::new();
        for n in 0..5u64 {
            let key = builder.key(&format!("key-{}", n % 2), None).unwrap();
            builder.push(key, UnixMs(n), format!("record {n} of a batch").as_bytes());
        }
        let header =
            Header { stream: name().key(), producer_id: 7, producer_sequence: 3, ..Header::default() };
        let mut out = Vec::new();
        builder.seal(header, &mut Compressor::new(codec), &mut out);
        out
    };
    [Codec::None, Codec::Lz4, Codec::Zstd].map(frame).to_vec()
}

/// As the decoder `batch` wants it: what the header says, and the payload.
fn batches() -> Vec<Vec<u8>> {
    let of = |frame: Vec<u8>| {
        let header = Header::parse(&frame).unwrap();
        let mut out = vec![
            [Codec::None, Codec::Lz4, Codec::Zstd].iter().position(|c| *c == header.codec).unwrap() as u8,
        ];
        for value in [header.raw_len, header.record_count, header.user_bytes] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        out.extend_from_slice(&frame[HEADER_BYTES..]);
        out
    };
    frames().into_iter().map(of).collect()
}

fn messages() -> Vec<Vec<u8>> {
    let mut all = vec![Vec::new(); 4];
    put_message(Type::Append, &frames()[1], &mut all[0]);
    put_call(
        Type::Call,
        9,
        &Call::CreateStream { name: name(), shards: 2, config: StreamConfig::default() },
        &mut all[1],
    );
    let hello =
        Hello { client: "x".to_owned(), producer: Some(Producer { id: 7, epoch: 2 }), streams: vec![name()] };
    put_json(Type::Hello, &hello, &mut all[2]);
    let header = Header::parse(&frames()[0]).unwrap();
    for outcome in [
        Outcome::Duplicate,
        Outcome::Busy { retry_after_ms: 20 },
        Outcome::OutOfSequence { expected: 9 },
        Outcome::Stored { parts: Vec::new(), refused: vec![(3, RefuseCode::Denied)] },
    ] {
        Ack::to(&header, outcome).put(&mut all[3]);
    }
    all
}

fn catalogs() -> Vec<Vec<u8>> {
    let entry = StreamEntry {
        dir: 3,
        created: UnixMs(1),
        config: StreamConfig::default(),
        traits: Traits::default(),
    };
    let change = Change::PutStream { name: name(), entry };
    let mut state = CatalogState::default();
    state.apply(&change);
    let remove = Change::RemoveStream { name: name() };
    let mut all = vec![serde_json::to_vec(&state).unwrap()];
    all.extend([change, remove].map(|change| serde_json::to_vec(&change).unwrap()));
    all.push(b"catalog 0 500\nstreams/000001 20 70\n".to_vec());
    all
}

fn stream_states() -> Vec<Vec<u8>> {
    let mut state = StreamState::new(3, UnixMs(5));
    state.advance_lane(7, 1, 2, 99, UnixMs(6));
    let mut bytes = Vec::new();
    state.encode(&mut bytes);
    vec![bytes]
}

fn indexes() -> Vec<Vec<u8>> {
    let mut index = SegmentIndex::new(4096, UnixMs(5));
    for frame in frames() {
        index.add(&Header::parse(&frame).unwrap(), 300);
    }
    index.begin_shard(ShardId(7), Default::default());
    // Without magic and checksum.
    vec![index.encode()[8..].to_vec()]
}

fn spools() -> Vec<Vec<u8>> {
    let mut state = State { producer: 7, epoch: 2, ..State::default() };
    let mut update = CursorUpdate { losses_told: true, ..CursorUpdate::default() };
    update.cursors.insert("source".to_owned(), Some("17".to_owned()));
    update.recent.insert("mqtt".to_owned(), vec![1, 2, u64::MAX]);
    state.apply_cursor(&update);
    vec![state.encode(), update.encode(), DeliveredUpdate { mark: 9, ..Default::default() }.encode()]
}

fn aggregates() -> Vec<Vec<u8>> {
    let mut aggregator = Aggregator::default();
    for n in 0..4u128 {
        let explicit_hash_key = (n % 2 == 0).then_some(protocol::hash::HashKey(n));
        aggregator.push(&SubRecord { partition_key: "key", explicit_hash_key, data: b"some data" });
    }
    let whole = aggregator.take().unwrap();
    // The decoder puts magic and digest around it.
    vec![whole[MAGIC.len()..whole.len() - 16].to_vec(), whole]
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// Half a second of a test picture, as ffmpeg writes it: H.264 with B-frames and sound, and H.265.
fn films() -> [&'static [u8]; 2] {
    [include_bytes!("../fuzz/examples/h264.mp4"), include_bytes!("../fuzz/examples/h265.mp4")]
}

/// Heads of fragments without magic, length and checksum, as the decoder wants them.
fn fragments(film: &[u8]) -> Vec<Vec<u8>> {
    let mut demuxer = Demuxer::new(Cutter::new(7, UnixMs(1), Clock::Producer));
    let mut cuts = Vec::new();
    demuxer.push(film, &mut cuts).unwrap();
    let _ = demuxer.finish(&mut cuts);
    let bytes = |cut: &Cut| [&[cut.fragment.frames.len() as u8, 9], &cut.fragment.head()[12..]].concat();
    cuts.iter().map(bytes).collect()
}

fn moov(film: &[u8]) -> Vec<u8> {
    let mut rest = film;
    while let Ok(Some(head)) = video::tree::box_head(rest, 0) {
        if &head.kind == b"moov" {
            return rest[..head.size as usize].to_vec();
        }
        rest = &rest[head.size as usize..];
    }
    Vec::new()
}

/// The pictures of a film as a raw stream.
fn raw(codec: u8, film: &[u8]) -> Vec<u8> {
    let mut demuxer = Demuxer::new(Cutter::new(7, UnixMs(1_700_000_000_000), Clock::Producer));
    let mut cuts = Vec::new();
    demuxer.push(film, &mut cuts).unwrap();
    demuxer.finish(&mut cuts).unwrap();
    let mut out = vec![70, codec];
    for cut in &cuts {
        let tracks = video::codec::tracks(&cut.fragment.config).unwrap();
        let whole = cut.data.to_vec();
        let mut rest = &whole[..];
        for frame in &cut.fragment.frames {
            let (data, after) = rest.split_at(frame.size as usize);
            rest = after;
            if frame.track == 0 {
                out.extend(tracks[0].annexb(data, frame.key));
            }
        }
    }
    out
}

/// For a decoder.
pub(crate) fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "frame" => frames(),
        "batch" => batches(),
        "message" => messages(),
        "catalog" => catalogs(),
        "stream_state" => stream_states(),
        "index" => indexes(),
        "spool" => spools(),
        "kpl" => aggregates(),
        "kinesis" => {
            let mut all = texts(&[
                r#"{"StreamName":"logs","Records":[{"Data":"aGVsbG8=","PartitionKey":"k"}],"Limit":10,"x":1.5e3}"#,
                r#"[null,true,{"a":"\u00e9\ud83d\ude00"}]"#,
            ]);
            all.push([&[0xbf, 0x64][..], b"Data", &[0x45], b"hello", &[0xfa, 0, 0, 0, 1, 0xff]].concat());
            all
        }
        "signature" => texts(&[
            "POST\n/\n\nhost:localhost\nx-amz-date:20261120T120000Z\nauthorization:AWS4-HMAC-SHA256 Credential=AKIA/20261120/local-1/kinesis/aws4_request, SignedHeaders=host;x-amz-date, Signature=00ff",
            "POST\n/\nX-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIA%2F20261120%2Flocal-1%2Fkinesis%2Faws4_request&X-Amz-Date=20261120T120000Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=00\nhost:x",
        ]),
        "words" => texts(&[
            "kinesin://localhost:4567",
            "arn:aws:kinesis:local-1:000000000000:stream/logs",
            "49546986683135544286507457936321625675700192471156785154",
            "111122223333:eu-west-1:orders",
            "1.5 GiB",
        ]),
        "video_asked" => texts(&[
            "\0from=2026-11-20T12:00:00Z&to=newest&count=5&track=video&format=annexb&gop=keys",
            "\0_HLS_msn=7&_HLS_part=2&_HLS_skip=YES&window=30&token=a.b.c",
            "\0timeline=1795176000000.-250&show=number,server&replay=server:60000",
            "\0from=server:1795176000000&fps=29.97&part_ms=200&follow&meta=1",
            "\u{1}\u{10}\0\0\0\0\0\0\0bytes=2-5",
            "\u{1}\u{10}\0\0\0\0\0\0\0bytes=-5",
            "rtsp://camera.example:8554/live/main",
            "rtsp://[::1]/a?b#c",
        ]),
        "video_lists" => {
            let even = |head: [u8; 4], of: &[u8]| [&head, &of.repeat(24)[..48]].concat();
            let (plain, parts) =
                (even([0, 20, 22, 23], &[10, 50]), even([1, 24, 20, 23], &[10, 10, 4, 10, 4, 10]));
            vec![plain, parts, even([0, 9, 5, 20], &[0, 9, 139, 3])]
        }
        "video_ts" => {
            let films =
                [&include_bytes!("../fuzz/examples/h264.ts")[..], include_bytes!("../fuzz/examples/h265.ts")];
            let whole = |(n, film): (usize, &[u8])| {
                let packets = film.chunks(188).skip(3).flat_map(|packet| packet[1..].to_vec());
                [n as u8 | 2].into_iter().chain(packets).collect()
            };
            films.into_iter().enumerate().map(whole).collect()
        }
        "video_camera" => {
            // Described; a second of pictures, of which the first is a key frame; its clock; pictures; another clock; pictures.
            let film = |tracks: u8, described: &[u8]| {
                let pictures =
                    |track: u8| (0..30).flat_map(move |n| [track << 6 | u8::from(n == 0) << 3, 10, 40]);
                let report = |ms: i16| [&[13u8][..], &ms.to_le_bytes()].concat();
                let mut said = [&[tracks], described].concat();
                said.extend(pictures(0));
                said.extend(report(20));
                said.extend((1..=tracks).flat_map(pictures).chain(pictures(0)));
                said.extend(report(9_000));
                said.extend(pictures(0));
                said
            };
            vec![film(0, &[6, 0]), film(1, &[6, 0, 6 | 1 << 6, 1]), film(0, &[6, 2])]
        }
        "config" => texts(&[
            "[agent]\nname = \"a\"\n[store]\nurl = \"kinesin://x:1\"\nca = \"ca.pem\"\n[[source.file]]\npaths = [\"*.log\"]\nstream = \"logs\"\npartition_key = \"{host}:{file}\"\n[spool]\ndir = \"spool\"\nmax_bytes = \"1 GiB\"\n",
        ]),
        "video_demux" => {
            let mkv = &include_bytes!("../fuzz/examples/h264.mkv")[..];
            films().into_iter().chain([mkv]).map(|film| [&[70], film].concat()).collect()
        }
        "video_fragment" => films().into_iter().flat_map(fragments).collect(),
        "video_film" => vec![include_bytes!("../fuzz/examples/film.mp4").to_vec()],
        "video_mkv" => vec![[&[70], &include_bytes!("../fuzz/examples/h264.mkv")[..]].concat()],
        "video_raw" => films().into_iter().enumerate().map(|(codec, film)| raw(codec as u8, film)).collect(),
        "video_codec" => films().map(moov).to_vec(),
        _ => Vec::new(),
    }
}
