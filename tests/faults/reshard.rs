//! Splits, merges, retention and readers, all at once under load: a reader that goes from parents to children sees every
//! record once and in the order of its key. Real processes, in real time; `sim` does the same in virtual time.
//!
//! `KINESIN_RESHARD_SECONDS` says for how long (15).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protocol::batch::Batch;
use protocol::frame::Frame;
use protocol::name::StreamName;
use protocol::native::call::Call;
use protocol::rng::Rng;
use protocol::sequence::{SequenceNumber, ShardId};
use protocol::stream::{ShardInfo, StartingPosition};
use store::client::Client;
use tests::clock;
use tests::harness::consumer::{ByKey, differences};
use tests::harness::process::AgentProcess;
use tests::harness::rig::{FILES, PATIENCE, Rig, Writer, made};

/// Lines that readers may be behind: less than what retention keeps.
const BEHIND_MAX: u64 = 2000;

const SHARDS_MAX: usize = 8;

fn name() -> StreamName {
    StreamName::new("logs").unwrap()
}

/// Reads a stream from its beginning, parents before children, for as long as it is to.
struct Reader {
    seen: Arc<Mutex<ByKey>>,
    count: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Reader {
    fn start(client: Client) -> Reader {
        let (seen, count, stop) = (Arc::default(), Arc::default(), Arc::default());
        let task = tokio::spawn(follow(client, Arc::clone(&seen), Arc::clone(&count), Arc::clone(&stop)));
        Reader { seen, count, stop, task }
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    async fn end(self) -> ByKey {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Where a reader is in a shard; at the end of a closed one it is done with it.
#[derive(Clone, Copy)]
enum Place {
    At(SequenceNumber),
    Done,
}

async fn shards(client: &Client) -> Vec<ShardInfo> {
    client.stream(Call::DescribeStream { name: name() }).await.unwrap().shards
}

async fn follow(client: Client, seen: Arc<Mutex<ByKey>>, count: Arc<AtomicU64>, stop: Arc<AtomicBool>) {
    let mut places: BTreeMap<ShardId, Place> = BTreeMap::new();
    while !stop.load(Ordering::Relaxed) {
        for shard in shards(&client).await {
            // A parent that is forgotten was read to its end before, or has nothing any more.
            let waits = |parent: &ShardId| matches!(places.get(parent), Some(Place::At(_)));
            if shard.parents.iter().any(waits) {
                continue;
            }
            let place = *places.entry(shard.id).or_insert(Place::At(shard.first));
            let Place::At(from) = place else { continue };
            let next = read(&client, shard.id, from, &seen, &count).await;
            let is_done = shard.closed && next >= shard.tail;
            places.insert(shard.id, if is_done { Place::Done } else { Place::At(next) });
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Reads a shard up to its tail.
async fn read(
    client: &Client,
    shard: ShardId,
    mut from: SequenceNumber,
    seen: &Mutex<ByKey>,
    count: &AtomicU64,
) -> SequenceNumber {
    let mut batch = Batch::new();
    loop {
        let read = client.read(&name(), shard, StartingPosition::At(from), 1 << 20, 0).await.unwrap();
        assert!(!read.head.damaged, "{shard} at {from}");
        let mut rest = read.frames();
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        while !rest.is_empty() {
            let (frame, after) = Frame::parse_first(rest).unwrap();
            batch.open(&frame.header, frame.payload).unwrap();
            let first = frame.header.first_sequence;
            for record in batch.records().filter(|record| first + u64::from(record.index) >= from) {
                seen.entry(record.partition_key.to_owned()).or_default().push(record.data.to_vec());
                count.fetch_add(1, Ordering::Relaxed);
            }
            rest = after;
        }
        from = read.head.next;
        if from >= read.head.tail {
            return from;
        }
    }
}

/// Divides a shard, or makes one of two neighbours.
async fn reshard(client: &Client, rng: &mut Rng) {
    let mut open: Vec<ShardInfo> = shards(client).await.into_iter().filter(|shard| !shard.closed).collect();
    open.sort_by_key(|shard| shard.range.start);
    let at = rng.below(open.len() as u64) as usize;
    let call = if open.len() < 2 || (open.len() < SHARDS_MAX && rng.chance(500)) {
        Call::SplitShard { name: name(), shard: open[at].id, at: None }
    } else {
        let at = at.min(open.len() - 2);
        Call::MergeShards { name: name(), shard: open[at].id, adjacent: open[at + 1].id }
    };
    client.stream(call).await.unwrap();
}

/// What each of them lacks, what the agent says of itself, and the shards: so that one failure in a thousand tells who stood still.
async fn stuck(rig: &Rig, agent: &AgentProcess, logs: &[Writer], readers: &[Reader]) -> String {
    let mut told = String::new();
    for (n, reader) in readers.iter().enumerate() {
        let seen = reader.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let lacks: Vec<String> = differences(&made(logs), &seen).into_iter().take(20).collect();
        told += &format!(
            "\nreader {n} has {}, of {}: {lacks:?}",
            reader.count(),
            logs.iter().map(Writer::count).sum::<u64>()
        );
    }
    told += &format!("\nthe agent: {:?}\n{}\nshards:", agent.status(), agent.printed());
    for shard in shards(&rig.client).await {
        told += &format!("\n{shard:?}");
    }
    told + "\nthe store: " + &rig.store.printed()
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_see_every_record_once_and_in_order_through_splits_merges_and_retention() {
    let seconds =
        std::env::var("KINESIN_RESHARD_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(15);
    let Some(rig) = Rig::start(&["--segment-bytes", "64KiB"]).await else { return };
    rig.kinesin("stream create logs --shards 2 --rate off --retention-bytes 1MiB");
    let agent = rig.agent("a", &(FILES.to_owned() + "batch = { codec = \"none\", records_max = 100 }\n"));
    let readers: Vec<Reader> = {
        let mut readers = Vec::new();
        for _ in 0..2 {
            readers.push(Reader::start(rig.store.client().await.unwrap()));
        }
        readers
    };
    let mut logs: Vec<Writer> = (0..8).map(|n| Writer::new(&rig.path(&format!("logs/{n}.log")))).collect();
    let (mut rng, begin, mut changes) = (Rng::new(3), clock::now(), 0);
    while clock::now().duration_since(begin) < Duration::from_secs(seconds) {
        logs.iter_mut().for_each(|log| log.write(40));
        let written: u64 = logs.iter().map(Writer::count).sum();
        let slowest = || readers.iter().map(Reader::count).min().unwrap_or(0);
        if !clock::eventually(PATIENCE, || slowest() + BEHIND_MAX >= written) {
            panic!("readers don't keep up: {}", stuck(&rig, &agent, &logs, &readers).await);
        }
        if rng.chance(100) {
            reshard(&rig.client, &mut rng).await;
            changes += 1;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let written: u64 = logs.iter().map(Writer::count).sum();
    let at_the_end = || readers.iter().all(|reader| reader.count() >= written);
    if !clock::eventually(PATIENCE, at_the_end) {
        panic!("readers never came to the end: {}", stuck(&rig, &agent, &logs, &readers).await);
    }
    let trimmed = shards(&rig.client).await.iter().any(|shard| shard.first > SequenceNumber(0));
    for reader in readers {
        assert_eq!(differences(&made(&logs), &reader.end().await), Vec::<String>::new());
    }
    eprintln!("{written} records, {changes} splits and merges");
    assert!(changes > 3 && trimmed, "{changes} splits and merges; trimmed: {trimmed}");
}
