//! What `kinesin check` promises: it says clean of what is clean, and names what is not.

use std::path::{Path, PathBuf};

use protocol::batch::BatchBuilder;
use protocol::compress::{Codec, Compressor};
use protocol::frame::Header;
use protocol::name::StreamName;
use protocol::sequence::ShardId;
use protocol::stream::{Producer, StartingPosition, StreamConfig};
use protocol::time::UnixMs;
use store::check::{self, Report, Severity};
use store::clock::Clock;
use store::principal::{Principal, Role};
use store::service::{Service, Settings};
use store::shard::driver::CommitOn;
use tokio::sync::mpsc;

fn admin() -> Principal {
    Principal { name: "root".to_owned(), role: Role::Admin }
}

fn open(dir: &Path) -> Service {
    let settings = Settings { segment_bytes_max: 4096, free_bytes_min: 0, ..Settings::new(dir.to_owned()) };
    Service::open(settings, Clock::start()).unwrap()
}

/// A folder with one stream of two shards, a split, and several segments.
async fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let service = open(dir.path());
    let name = StreamName::new("logs").unwrap();
    let config = StreamConfig { shard_rate: None, ..StreamConfig::default() };
    service.create_stream(&admin(), &name, 2, config).await.unwrap();
    let session = service.begin_session(&admin(), Some(Producer { id: 7, epoch: 1 })).unwrap();
    let (acks, mut answers) = mpsc::unbounded_channel();
    for i in 1..=100u64 {
        let mut builder = BatchBuilder::new();
        let key = builder.key(&format!("key-{}", i % 7), None).unwrap();
        builder.push(key, UnixMs(i), format!("record {i} {}", "z".repeat(100)).as_bytes());
        let header = Header { stream: name.key(), producer_id: 7, producer_sequence: i, ..Header::default() };
        let mut frame = Vec::new();
        builder.seal(header, &mut Compressor::new(Codec::None), &mut frame);
        service.append(&session, &frame, &acks, CommitOn::Pool).unwrap();
        answers.recv().await.unwrap();
        if i == 50 {
            service.split_shard(&admin(), &name, ShardId(0), None).await.unwrap();
        }
    }
    service.close().await;
    dir
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir.join("streams/000000")).unwrap();
    let mut logs: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    logs.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    logs.sort();
    logs
}

fn run(dir: &Path, repair: bool) -> Report {
    check::run(dir, repair, &mut |_, _| {}).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "it damages files on purpose")]
fn flip(path: &Path, byte: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[byte] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn a_whole_folder_is_clean_and_nothing_in_it_is_changed() {
    let dir = folder().await;
    let before: Vec<Vec<u8>> = segments(dir.path()).iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert!(before.len() > 3, "several segments");
    let report = run(dir.path(), false);
    assert_eq!(report.findings, Vec::new());
    assert_eq!((report.records, report.streams), (100, 1));
    let after: Vec<Vec<u8>> = segments(dir.path()).iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert_eq!(before, after);
}

#[tokio::test]
async fn zeros_at_the_end_of_the_newest_segment_were_reserved_and_anything_else_there_is_told() {
    let dir = folder().await;
    let newest = segments(dir.path()).pop().unwrap();
    let bytes = std::fs::read(&newest).unwrap();
    assert!(bytes.ends_with(&[0; 64]), "small batches made it longer beforehand");
    assert_eq!(run(dir.path(), false).findings, Vec::new());
    flip(&newest, bytes.len() - 1);
    let report = run(dir.path(), false);
    assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
    assert_eq!(report.findings[0].severity, Severity::Note);
    assert!(report.findings[0].what.contains("are no frame"), "{:?}", report.findings);
}

#[tokio::test]
async fn a_flipped_bit_in_a_sealed_segment_is_named_and_everything_else_is_readable() {
    let dir = folder().await;
    let damaged = &segments(dir.path())[1];
    let middle = std::fs::metadata(damaged).unwrap().len() as usize / 2;
    flip(damaged, middle);
    let report = run(dir.path(), true);
    assert!(!report.is_clean());
    let loss = report.findings.iter().filter(|f| f.severity == Severity::Loss);
    let name = damaged.file_name().unwrap().to_string_lossy().into_owned();
    assert!(loss.clone().any(|f| f.what.contains(&name)), "{:?}", report.findings);
    assert!(loss.clone().any(|f| f.what.contains("sequence")), "{:?}", report.findings);
    let service = open(dir.path());
    let stream = StreamName::new("logs").unwrap();
    let info = service.describe_stream(&admin(), &stream).unwrap();
    let (mut records, mut gaps) = (0, 0);
    for shard in &info.shards {
        let mut from = StartingPosition::TrimHorizon;
        loop {
            let read = service.read(&admin(), &stream, shard.id, from, 1, 0).await.unwrap();
            if !read.frames.is_empty() {
                records += u64::from(Header::parse(&read.frames).unwrap().record_count);
            }
            gaps += u64::from(read.damaged);
            if read.next >= read.tail && !read.damaged {
                break;
            }
            from = StartingPosition::At(read.next);
        }
    }
    assert_eq!((records, gaps), (99, 1));
}

#[tokio::test]
async fn a_wrong_index_is_found_and_put_right() {
    let dir = folder().await;
    let index = segments(dir.path())[0].with_extension("idx");
    flip(&index, 40);
    let report = run(dir.path(), false);
    assert!(!report.is_clean() && report.findings.iter().all(|f| f.severity == Severity::Derived));
    assert!(run(dir.path(), true).is_clean());
    assert_eq!(run(dir.path(), false).findings, Vec::new());
}

#[tokio::test]
async fn a_folder_in_use_or_of_somebody_else_is_not_checked() {
    let dir = folder().await;
    let _service = open(dir.path());
    let error = check::run(dir.path(), false, &mut |_, _| {}).unwrap_err();
    assert!(error.to_string().contains("kinesin"), "{error}");
    let other = tempfile::tempdir().unwrap();
    let error = check::run(other.path(), false, &mut |_, _| {}).unwrap_err();
    assert!(error.to_string().contains("catalog"), "{error}");
}
