//! The hot paths, each behind one function that does it so many times: run by `valgrind` in the suite `instructions`, which
//! counts what a record costs. No clock, no thread, no chance: the same rounds are the same instructions.

use std::path::Path;
use std::sync::Arc;

use disk::{DirName, RealDisk};
use protocol::batch::{Batch, BatchBuilder};
use protocol::compress::{Codec, Compressor};
use protocol::frame::{Frame, Header};
use protocol::hash::HashKey;
use protocol::kinesis::{check, json, model};
use protocol::kpl::{self, Aggregator, SubRecord};
use protocol::name::StreamName;
use protocol::sigv4::{Claim, Request, authorization, date_header};
use protocol::stream::StreamConfig;
use protocol::time::{Mono, UnixMs};
use store::log::StreamLog;
use store::log::segment::SegmentStreamLog;
use store::shard::commit::{Committer, rules};
use store::shard::driver::{StateReplay, head_shards};
use store::shard::group::Group;
use store::shard::sequencer::{Now, Sequencer};
use store::shard::state::StreamState;

use crate::harness::corpus::Corpus;

/// Records in a batch, a request, an aggregate.
pub const RECORDS: usize = 100;

const NOW: UnixMs = UnixMs(1_795_176_000_000);

/// A hot path: its name, and what does it so many times for [`RECORDS`] records. The folder is empty.
pub type HotPath = (&'static str, fn(u32, &Path));

/// All of them.
pub const PATHS: [HotPath; 10] = [
    ("key routing: MD5 of a partition key", route),
    ("batch built, not compressed", build),
    ("batch built, lz4", build_lz4),
    ("frame parsed and batch opened", open),
    ("frame parsed and batch opened, lz4", open_lz4),
    ("append: sequencer, group, log, index", append),
    ("append of a batch that is divided among 8 shards", append_divided),
    ("PutRecords: JSON, base64, constraints", put_records),
    ("PutRecords: signature checked", signature),
    ("KPL aggregate taken apart", aggregate),
];

fn lines() -> Vec<Vec<u8>> {
    Corpus::access(1).lines().take(RECORDS).collect()
}

/// Partition keys of a batch, in turn.
const KEYS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

fn batch(codec: Codec, lines: &[Vec<u8>], builder: &mut BatchBuilder, out: &mut Vec<u8>) -> Header {
    for (n, line) in lines.iter().enumerate() {
        if let Ok(key) = builder.key(KEYS[n % KEYS.len()], None) {
            builder.push(key, NOW, line);
        }
    }
    let header = Header { stream: name().key(), producer_id: 7, producer_epoch: 1, ..Header::default() };
    builder.seal(header, &mut Compressor::new(codec), out)
}

fn name() -> StreamName {
    StreamName::new("logs").expect("a name")
}

fn route(rounds: u32, _: &Path) {
    let keys: Vec<String> = (0..RECORDS).map(|n| format!("partition-key-{n}")).collect();
    let mut sum = 0u128;
    for _ in 0..rounds {
        for key in &keys {
            sum ^= HashKey::of_partition_key(key).0;
        }
    }
    std::hint::black_box(sum);
}

fn build_with(codec: Codec, rounds: u32) {
    let (lines, mut builder, mut out) = (lines(), BatchBuilder::new(), Vec::new());
    for _ in 0..rounds {
        out.clear();
        batch(codec, &lines, &mut builder, &mut out);
    }
}

fn build(rounds: u32, _: &Path) {
    build_with(Codec::None, rounds);
}

fn build_lz4(rounds: u32, _: &Path) {
    build_with(Codec::Lz4, rounds);
}

fn open_with(codec: Codec, rounds: u32) {
    let mut bytes = Vec::new();
    batch(codec, &lines(), &mut BatchBuilder::new(), &mut bytes);
    let (mut batch, mut sum) = (Batch::new(), 0);
    for _ in 0..rounds {
        let frame = Frame::parse(&bytes).expect("a frame");
        batch.open(&frame.header, frame.payload).expect("a batch");
        sum += batch.records().map(|record| record.data.len()).sum::<usize>();
    }
    std::hint::black_box(sum);
}

fn open(rounds: u32, _: &Path) {
    open_with(Codec::None, rounds);
}

fn open_lz4(rounds: u32, _: &Path) {
    open_with(Codec::Lz4, rounds);
}

fn append(rounds: u32, dir: &Path) {
    append_to(1, rounds, dir);
}

fn append_divided(rounds: u32, dir: &Path) {
    append_to(8, rounds, dir);
}

/// A batch that was opened before, through the sequencer into a group, which is written to a file and indexed.
fn append_to(shards: u32, rounds: u32, dir: &Path) {
    let disk = Arc::new(RealDisk::open(dir).expect("a folder"));
    let root = DirName::new("log").expect("a name");
    let config = StreamConfig { shard_rate: None, ..StreamConfig::default() };
    let opened = SegmentStreamLog::open(disk, root, 1 << 30, head_shards, &mut StateReplay::default());
    let (mut log, _) = opened.expect("a log");
    let state = StreamState::new(shards, NOW);
    let head = Sequencer::new(state.clone(), rules(&config)).head_frame(NOW, log.durable_end().0);
    log.start_segment(&head).expect("a segment");
    let mut committer: Committer<()> = Committer::new(state, &config);
    let mut bytes = Vec::new();
    let mut header = batch(Codec::Lz4, &lines(), &mut BatchBuilder::new(), &mut bytes);
    let frame = Frame::parse(&bytes).expect("a frame");
    let mut batch = Batch::new();
    batch.open(&frame.header, frame.payload).expect("a batch");
    let (now, mut spare) = (Now { mono: Mono::ZERO, wall: NOW }, Group::default());
    for round in 0..rounds {
        header.producer_sequence = u64::from(round);
        let Committer { sequencer, group, .. } = &mut committer;
        sequencer.handle_batch(&header, frame.payload, &batch, 1, now, group);
        group.wait(());
        let mut work = committer.take_work(&mut spare, &log, 0, now).expect("work");
        // The disk's time is nobody's instructions.
        work.sync = false;
        work.append(&mut log, &mut spare).expect("an append");
        spare.take_waiting(1 << 16);
    }
}

fn body() -> Vec<u8> {
    // "aGVsbG8g": "hello ".
    let record = |n: usize| format!(r#"{{"Data":"{}","PartitionKey":"key-{n}"}}"#, "aGVsbG8g".repeat(25));
    let records: Vec<String> = (0..RECORDS).map(record).collect();
    format!(r#"{{"StreamName":"logs","Records":[{}]}}"#, records.join(",")).into_bytes()
}

fn put_records(rounds: u32, _: &Path) {
    let (body, mut sum) = (body(), 0);
    let (_, members) = model::operation("PutRecords").expect("an operation");
    for _ in 0..rounds {
        let value = check::check(json::read(&body).expect("JSON"), members).expect("a request");
        sum += value
            .list_of("Records")
            .iter()
            .filter_map(|record| record.blob_of("Data"))
            .map(<[u8]>::len)
            .sum::<usize>();
    }
    std::hint::black_box(sum);
}

fn signature(rounds: u32, _: &Path) {
    let (body, date) = (body(), date_header(NOW));
    let mut headers = vec![
        ("content-type", "application/x-amz-json-1.1"),
        ("host", "localhost:4567"),
        ("x-amz-date", date.as_str()),
        ("x-amz-target", "Kinesis_20131202.PutRecords"),
    ];
    let request = Request { method: "POST", path: "/", query: "", headers: &headers, body: &body };
    let signed = authorization(&request, "AKIA", "secret", "local-1", "kinesis", NOW);
    headers.push(("authorization", &signed));
    let request = Request { method: "POST", path: "/", query: "", headers: &headers, body: &body };
    for _ in 0..rounds {
        let claim = Claim::read(&request).expect("a signature");
        claim.verify(&request, "secret", "kinesis", NOW).expect("the right one");
    }
}

fn aggregate(rounds: u32, _: &Path) {
    let mut aggregator = Aggregator::default();
    for line in lines() {
        aggregator.push(&SubRecord { partition_key: "key", explicit_hash_key: None, data: &line });
    }
    let (data, mut sum) = (aggregator.take().expect("records"), 0);
    for _ in 0..rounds {
        sum += kpl::open(&data).expect("an aggregate").len();
    }
    std::hint::black_box(sum);
}
