//! What is made while programs are killed: lines in files, messages over MQTT, batches over the native protocol.
//! Every worker notes what it made before or as it hands it over.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::batch::BatchBuilder;
use protocol::compress::{Codec, Compressor};
use protocol::frame::Header;
use protocol::name::StreamName;
use protocol::native::call::{Call, Hello, Producer};
use protocol::native::message::{Ack, Outcome};
use protocol::rng::Rng;
use protocol::sequence::ShardId;
use protocol::time::UnixMs;
use store::client::{Client, Target};
use tests::harness::consumer::ByKey;
use tests::harness::mosquitto::publish;
use tests::harness::process::StoreProcess;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

const FILES: u64 = 4;
const TRUCKS: u64 = 3;
/// Batches of one lane that are sent before the first answer is waited for.
const WINDOW: u64 = 6;
const LANES: u32 = 2;

/// Everything that was made.
#[derive(Debug, Default)]
pub(crate) struct Made {
    pub(crate) lines: ByKey,
    pub(crate) messages: ByKey,
    pub(crate) native: ByKey,
    /// Records of which the store said where they are.
    pub(crate) places: BTreeMap<(u32, u64), Vec<u8>>,
    pub(crate) recognised: u64,
}

/// See the module.
pub(crate) struct Load {
    made: Arc<Mutex<Made>>,
    turns: Arc<Semaphore>,
    files: Arc<Mutex<Vec<LogFile>>>,
    workers: Vec<tokio::task::JoinHandle<()>>,
}

/// Workers: files, messages, native.
const WORKERS: u32 = 3;

struct LogFile {
    path: PathBuf,
    file: File,
    key: String,
    next: u64,
    rotated: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open(path: &Path) -> File {
    File::options().create(true).append(true).open(path).unwrap()
}

impl LogFile {
    fn new(dir: &Path, number: u64) -> LogFile {
        let key = format!("{number}.log");
        let path = dir.join(&key);
        LogFile { file: open(&path), path, key, next: 0, rotated: 0 }
    }

    fn write(&mut self, lines: u64, made: &mut Made) {
        let mut text = Vec::new();
        let into = made.lines.entry(self.key.clone()).or_default();
        for _ in 0..lines {
            let line = format!("{} line {} {}", self.key, self.next, "x".repeat((self.next % 113) as usize));
            text.extend_from_slice(line.as_bytes());
            text.push(b'\n');
            into.push(line.into_bytes());
            self.next += 1;
        }
        self.file.write_all(&text).unwrap();
    }

    /// To a name that is not looked for; its writer has it a little longer.
    fn rotate(&mut self, made: &mut Made) {
        self.rotated += 1;
        std::fs::rename(&self.path, self.path.with_extension(format!("log.{}", self.rotated))).unwrap();
        self.write(5, made);
        self.file = open(&self.path);
    }
}

impl Load {
    pub(crate) fn start(logs: &Path, broker: u16, store: &StoreProcess) -> Load {
        let made = Arc::new(Mutex::new(Made::default()));
        let turns = Arc::new(Semaphore::new(WORKERS as usize));
        let files: Vec<LogFile> = (0..FILES).map(|number| LogFile::new(logs, number)).collect();
        let files = Arc::new(Mutex::new(files));
        let target = Target::of_data_dir(&store.data).unwrap();
        let workers = vec![
            tokio::spawn(write_lines(Arc::clone(&files), Arc::clone(&made), Arc::clone(&turns))),
            tokio::spawn(send_messages(broker, Arc::clone(&made), Arc::clone(&turns))),
            tokio::spawn(Native::new(target, Arc::clone(&made)).run(Arc::clone(&turns))),
        ];
        Load { made, turns, files, workers }
    }

    /// Waits until every worker is between two steps, and keeps it there.
    pub(crate) async fn pause(&self) -> OwnedSemaphorePermit {
        let all = Arc::clone(&self.turns).acquire_many_owned(WORKERS);
        let paused = tokio::time::timeout(Duration::from_secs(60), all).await;
        assert!(!self.workers.iter().any(tokio::task::JoinHandle::is_finished), "a worker has ended");
        paused.expect("the load does not get to the end of a step").unwrap()
    }

    pub(crate) fn made(&self) -> MutexGuard<'_, Made> {
        lock(&self.made)
    }

    /// While it is paused, and everything is read.
    pub(crate) fn rotate(&self) {
        lock(&self.files).iter_mut().for_each(|file| file.rotate(&mut lock(&self.made)));
    }

    pub(crate) fn counts(&self) -> String {
        let made = self.made();
        let count = |keys: &ByKey| keys.values().map(Vec::len).sum::<usize>();
        format!(
            "{} lines, {} messages, {} records by the native protocol ({} batches recognised)",
            count(&made.lines),
            count(&made.messages),
            count(&made.native),
            made.recognised
        )
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.workers.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

/// A step's rhythm: not as fast as possible, or the checks take longer than the faults.
async fn rest() {
    tokio::time::sleep(Duration::from_millis(15)).await;
}

async fn write_lines(files: Arc<Mutex<Vec<LogFile>>>, made: Arc<Mutex<Made>>, turns: Arc<Semaphore>) {
    let mut rng = Rng::new(1);
    loop {
        {
            let _turn = turns.acquire().await;
            let mut files = lock(&files);
            let file = rng.below(FILES) as usize;
            files[file].write(rng.between(1, 30), &mut lock(&made));
        }
        rest().await;
    }
}

async fn send_messages(broker: u16, made: Arc<Mutex<Made>>, turns: Arc<Semaphore>) {
    let (mut rng, mut next) = (Rng::new(2), 0u64);
    loop {
        {
            let _turn = turns.acquire().await;
            let mut messages = Vec::new();
            for _ in 0..rng.between(1, 20) {
                let truck = format!("truck-{}", next % TRUCKS);
                // Two and two are the same: only the broker's numbers tell them apart.
                let payload = format!("{{\"n\":{}}}", next / TRUCKS / 2).into_bytes();
                lock(&made).messages.entry(truck.clone()).or_default().push(payload.clone());
                messages.push((format!("trucks/{truck}/telemetry"), payload));
                next += 1;
            }
            publish(broker, "trucks", messages).await.unwrap();
        }
        rest().await;
    }
}

struct Native {
    target: Target,
    made: Arc<Mutex<Made>>,
    producer: Producer,
    client: Option<Client>,
    next: [u64; LANES as usize],
    rng: Rng,
}

/// A batch of which the store has not said yet that it has it.
struct Batch {
    frame: Vec<u8>,
    records: Vec<Vec<u8>>,
}

impl Native {
    fn new(target: Target, made: Arc<Mutex<Made>>) -> Native {
        let producer = Producer { id: 77, epoch: 1 };
        Native { target, made, producer, client: None, next: [1; LANES as usize], rng: Rng::new(3) }
    }

    async fn run(mut self, turns: Arc<Semaphore>) {
        loop {
            {
                let _turn = turns.acquire().await;
                let lane = self.rng.below(u64::from(LANES)) as u32;
                let mut window: Vec<Batch> =
                    (0..self.rng.between(1, WINDOW)).map(|_| self.batch(lane)).collect();
                while !window.is_empty() {
                    if self.send(&mut window).await.is_none() {
                        // Nobody knows what became of those: they are sent again, as they are.
                        self.client = None;
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
            }
            rest().await;
        }
    }

    fn batch(&mut self, lane: u32) -> Batch {
        let (key, sequence) = (format!("lane-{lane}"), self.next[lane as usize]);
        self.next[lane as usize] += 1;
        let (mut builder, mut records) = (BatchBuilder::new(), Vec::new());
        let index = builder.key(&key, None).unwrap();
        for number in 0..self.rng.between(1, 20) {
            let record = format!("{key} batch {sequence} record {number}").into_bytes();
            builder.push(index, UnixMs(1_700_000_000_000), &record);
            records.push(record);
        }
        let header = Header {
            stream: StreamName::new("native").unwrap().key(),
            shard: ShardId::UNROUTED,
            lane,
            producer_id: self.producer.id,
            producer_epoch: self.producer.epoch,
            producer_sequence: sequence,
            ..Header::default()
        };
        let mut frame = Vec::new();
        builder.seal(header, &mut Compressor::new(Codec::Lz4), &mut frame);
        lock(&self.made).native.entry(key).or_default().extend(records.iter().cloned());
        Batch { frame, records }
    }

    /// Sends all at once and takes away what the store has from the front; `None` when the connection is lost.
    async fn send(&mut self, window: &mut Vec<Batch>) -> Option<()> {
        if self.client.is_none() {
            let hello =
                Hello { client: "faults".to_owned(), producer: Some(self.producer), streams: Vec::new() };
            let client = Client::connect_as(&self.target, &hello).await.ok()?;
            let name = StreamName::new("native").ok()?;
            client.stream(Call::OpenStream { name, video: false }).await.ok()?;
            self.client = Some(client);
        }
        let client = self.client.clone()?;
        // In order: a future that is spawned later is sent later.
        let mut answers = Vec::new();
        for batch in window.iter() {
            let mut answer = Box::pin({
                let (client, frame) = (client.clone(), batch.frame.clone());
                async move { client.append(frame).await }
            });
            // Queued at its first poll.
            let first = std::future::poll_fn(|cx| std::task::Poll::Ready(answer.as_mut().poll(cx))).await;
            answers.push((first, answer));
        }
        let mut acks = Vec::new();
        for (first, answer) in answers {
            let ack = match first {
                std::task::Poll::Ready(ack) => ack,
                std::task::Poll::Pending => answer.await,
            };
            acks.push(ack);
        }
        self.take(window, acks)
    }

    fn take(
        &mut self,
        window: &mut Vec<Batch>,
        acks: Vec<Result<Ack, store::client::ClientError>>,
    ) -> Option<()> {
        let mut done = 0;
        let mut lost = false;
        for (batch, ack) in window.iter().zip(acks) {
            let Ok(ack) = ack else {
                lost = true;
                break;
            };
            match ack.outcome {
                Outcome::Stored { parts, refused } => {
                    assert!(refused.is_empty() && parts.len() == 1, "{parts:?} {refused:?}");
                    let mut made = lock(&self.made);
                    for (at, record) in batch.records.iter().enumerate() {
                        let place = (parts[0].shard.0, parts[0].first_sequence.0 + at as u64);
                        let other = made.places.insert(place, record.clone());
                        assert!(other.is_none(), "two acknowledged records at {place:?}");
                    }
                }
                Outcome::Duplicate => lock(&self.made).recognised += 1,
                Outcome::OutOfSequence { .. } | Outcome::Busy { .. } => break,
                other => panic!("{other:?}"),
            }
            done += 1;
        }
        window.drain(..done);
        (!lost).then_some(())
    }
}
