//! Files of a data folder, flipped and cut off: nobody panics, what is lost is named by `kinesin check`, by the store that
//! starts and by whoever reads there, and everything else is as it was.
//!
//! Some places of every file; every byte of all of them with `KINESIN_DAMAGE=all` (an hour).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use protocol::batch::{Batch, BatchBuilder};
use protocol::compress::{Codec, Compressor};
use protocol::frame::{Frame, Header};
use protocol::name::StreamName;
use protocol::sequence::ShardId;
use protocol::stream::{Producer, StartingPosition, StreamConfig};
use protocol::time::UnixMs;
use store::auth::Auth;
use store::check::{self, Report, Severity};
use store::clock::Clock;
use store::principal::{Principal, Role};
use store::service::{Service, Settings};
use store::shard::driver::CommitOn;
use tokio::sync::mpsc;

const STREAMS: [&str; 3] = ["logs", "one", "empty"];

/// What is read of every stream, by stream, shard and sequence number.
type Records = BTreeMap<(String, u32, u64), Vec<u8>>;

fn admin() -> Principal {
    Principal { name: "root".to_owned(), role: Role::Admin }
}

fn open(dir: &Path) -> Result<Service, String> {
    let settings = Settings { segment_bytes_max: 4096, free_bytes_min: 0, ..Settings::new(dir.to_owned()) };
    Service::open(settings, Clock::start()).map_err(|error| error.to_string())
}

fn authority(dir: &Path) -> Result<(), String> {
    let names = vec!["localhost".to_owned()];
    Auth::open(dir, names, store::api::ALPN.to_vec(), Clock::start()).map(drop).map_err(|e| e.to_string())
}

async fn put(service: &Service, name: &StreamName, producer: u128, number: u64, text: &str) -> bool {
    let session = service.begin_session(&admin(), Some(Producer { id: producer, epoch: 1 })).unwrap();
    let (acks, mut answers) = mpsc::unbounded_channel();
    let mut builder = BatchBuilder::new();
    let key = builder.key(&format!("key-{}", number % 7), None).unwrap();
    builder.push(key, UnixMs(number), text.as_bytes());
    let header =
        Header { stream: name.key(), producer_id: producer, producer_sequence: number, ..Header::default() };
    let mut frame = Vec::new();
    builder.seal(header, &mut Compressor::new(Codec::None), &mut frame);
    service.append(&session, &frame, &acks, CommitOn::Pool).unwrap();
    matches!(answers.recv().await.unwrap().outcome, protocol::outcome::Outcome::Stored { .. })
}

/// A folder of a store that has ended in order: many segments with a split, one segment, and nothing yet.
async fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let service = open(dir.path()).unwrap();
    authority(dir.path()).unwrap();
    for name in STREAMS.map(|name| StreamName::new(name).unwrap()) {
        let config = StreamConfig { shard_rate: None, ..StreamConfig::default() };
        service.create_stream(&admin(), &name, 2, config).await.unwrap();
        let records = match name.as_str() {
            "logs" => 40,
            "one" => 5,
            _ => 0,
        };
        for number in 1..=records {
            assert!(put(&service, &name, 7, number, &format!("record {number} {}", "z".repeat(100))).await);
            if number == 20 {
                service.split_shard(&admin(), &name, ShardId(0), None).await.unwrap();
            }
        }
    }
    service.close().await;
    dir
}

struct Read {
    records: Records,
    /// What cannot be read was said to whoever read there.
    damaged: bool,
}

async fn read(service: &Service) -> Read {
    let mut read = Read { records: Records::new(), damaged: false };
    for name in STREAMS.map(|name| StreamName::new(name).unwrap()) {
        let Ok(info) = service.describe_stream(&admin(), &name) else {
            read.damaged = true;
            continue;
        };
        for shard in info.shards {
            let mut from = StartingPosition::TrimHorizon;
            loop {
                let found = service.read(&admin(), &name, shard.id, from, 1 << 20, 0).await.unwrap();
                take(&name, shard.id, &found.frames, &mut read.records);
                read.damaged |= found.damaged;
                if found.next >= found.tail && !found.damaged {
                    break;
                }
                from = StartingPosition::At(found.next);
            }
        }
    }
    read
}

fn take(name: &StreamName, shard: ShardId, mut rest: &[u8], into: &mut Records) {
    let mut batch = Batch::new();
    while !rest.is_empty() {
        let (frame, after) = Frame::parse_first(rest).unwrap();
        batch.open(&frame.header, frame.payload).unwrap();
        for record in batch.records() {
            let sequence = frame.header.first_sequence.0 + u64::from(record.index);
            into.insert((name.to_string(), shard.0, sequence), record.data.to_vec());
        }
        rest = after;
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// All files in a folder and below, by their names from there.
fn files(dir: &Path, below: &Path, into: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            files(&path, below, into);
        } else {
            into.push(path.strip_prefix(below).unwrap().to_owned());
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Harm {
    Flip(u64),
    Cut(u64),
    Gone,
}

impl Harm {
    #[expect(clippy::disallowed_methods, reason = "it damages files on purpose")]
    fn do_to(self, path: &Path) {
        let mut bytes = std::fs::read(path).unwrap();
        match self {
            Harm::Flip(at) => bytes[at as usize] ^= 1 << (at % 8),
            Harm::Cut(len) => bytes.truncate(len as usize),
            Harm::Gone => return std::fs::remove_file(path).unwrap(),
        }
        std::fs::write(path, bytes).unwrap();
    }

    /// Some of what can be done to a file of this length; everything where that is asked for.
    fn all(len: u64) -> Vec<Harm> {
        let (flips, cuts) = match std::env::var("KINESIN_DAMAGE").is_ok_and(|how| how == "all") {
            // Half a megabyte of derived data is not worth a day.
            true if len > 64 << 10 => (4096, 512),
            true => (len, len),
            false => (40, 12),
        };
        let places = |count: u64| (0..count.min(len)).map(move |n| n * len / count.min(len).max(1));
        let last = len.saturating_sub(1);
        let mut harms: Vec<Harm> = places(flips).chain((len > 0).then_some(last)).map(Harm::Flip).collect();
        harms.extend(places(cuts).chain((len > 0).then_some(last)).map(Harm::Cut));
        harms.push(Harm::Gone);
        harms
    }
}

/// Says what was done, should somebody panic over it.
struct Context(String);

impl Drop for Context {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("after {}", self.0);
        }
    }
}

fn losses(report: &Report) -> Vec<String> {
    let lost = report.findings.iter().filter(|finding| finding.severity == Severity::Loss);
    lost.map(|finding| format!("{}: {}", finding.place, finding.what)).collect()
}

/// Nothing that was not there is read, nothing is missing without a word, and everybody goes on.
async fn judge(dir: &Path, file: &Path, whole: &Records) {
    let report = check::run(dir, false, &mut |_, _| {});
    let named = match &report {
        Ok(report) => losses(report),
        Err(error) => vec![error.to_string()],
    };
    let service = match open(dir) {
        Ok(service) => service,
        Err(error) => panic!("the store does not start: {error}"),
    };
    if let Err(error) = authority(dir) {
        let name = file.file_name().unwrap().to_string_lossy();
        assert!(error.contains(&*name) || error.contains("ca."), "{error}");
        assert!(!named.is_empty(), "check finds nothing of: {error}");
    }
    let found = read(&service).await;
    for (place, data) in &found.records {
        assert_eq!(whole.get(place), Some(data), "{place:?} was never written");
    }
    let missing = whole.len() - found.records.len();
    let problems = service.problems();
    if missing > 0 {
        assert!(!named.is_empty(), "{missing} records are missing, and check says nothing");
        assert!(found.damaged || !problems.is_empty(), "{missing} records are missing without a word");
    }
    // It goes on, also with streams that have lost something.
    for name in STREAMS.map(|name| StreamName::new(name).unwrap()) {
        if service.describe_stream(&admin(), &name).is_ok() {
            assert!(put(&service, &name, 8, 1, "after it").await, "{name} takes nothing more");
        }
    }
    service.close().await;
    drop(service);
    let repaired = check::run(dir, true, &mut |_, _| {}).unwrap();
    let left = repaired.findings.iter().find(|f| f.severity == Severity::Derived && !f.repaired);
    assert!(left.is_none(), "{left:?}");
}

async fn harm_files(which: impl Fn(&Path) -> bool) -> usize {
    let origin = folder().await;
    let service = open(origin.path()).unwrap();
    let whole = read(&service).await.records;
    assert_eq!(whole.len(), 45);
    service.close().await;
    drop(service);
    let mut names = Vec::new();
    files(origin.path(), origin.path(), &mut names);
    names.retain(|name| which(name));
    let mut done = 0;
    for name in names {
        let len = std::fs::metadata(origin.path().join(&name)).unwrap().len();
        for harm in Harm::all(len) {
            let _context = Context(format!("{harm:?} of {}", name.display()));
            let home = tempfile::tempdir_in(memory()).unwrap();
            let dir = home.path().join("data");
            copy(origin.path(), &dir);
            harm.do_to(&dir.join(&name));
            judge(&dir, &name, &whole).await;
            done += 1;
        }
    }
    done
}

/// A folder in memory where there is one: nothing of this needs to survive.
fn memory() -> PathBuf {
    let shm = PathBuf::from("/dev/shm");
    if shm.is_dir() { shm } else { std::env::temp_dir() }
}

fn is_log(path: &Path) -> bool {
    path.starts_with("streams") && path.extension().is_some_and(|end| end == "log")
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_to_a_stream_s_log_costs_the_records_in_it_and_is_named() {
    assert!(harm_files(is_log).await > 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_to_the_catalog_its_view_and_the_indexes_costs_nothing_that_is_not_named() {
    let derived = |path: &Path| {
        path.starts_with("catalog")
            || path.starts_with("view")
            || path.starts_with("streams") && !is_log(path)
    };
    assert!(harm_files(derived).await > 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_to_keys_certificates_and_notes_is_healed_or_named() {
    let others = |path: &Path| {
        !path.starts_with("catalog") && !path.starts_with("view") && !path.starts_with("streams")
    };
    assert!(harm_files(others).await > 50);
}
