//! What is stored against what was made, record by record; and a reader that remembers what it has seen.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use store::client::{Client, Target};
use tests::harness::consumer::{ByKey, Record, by_key, count, differences, gaps, read_stream};
use tests::harness::process::StoreProcess;

use crate::load::Load;

const STREAMS: [&str; 3] = ["lines", "messages", "native"];
const PATIENCE: Duration = Duration::from_secs(60);

type Seen = BTreeMap<(&'static str, u32, u64), Vec<u8>>;

/// See the module.
pub(crate) struct Ledger {
    seen: Arc<Mutex<Seen>>,
    reader: tokio::task::JoinHandle<()>,
}

impl Ledger {
    pub(crate) fn start(store: &StoreProcess) -> Ledger {
        let seen = Arc::new(Mutex::new(Seen::new()));
        let target = Target::of_data_dir(&store.data).unwrap();
        let reader = tokio::spawn(read_on(target, Arc::clone(&seen)));
        Ledger { seen, reader }
    }

    /// The load stands still; waits until all is stored and compares.
    pub(crate) async fn check(&self, client: &Client, load: &Load) -> Result<(), String> {
        for stream in STREAMS {
            let want = made(load, stream).values().map(Vec::len).sum::<usize>() as u64;
            let begin = tests::clock::now();
            let mut stored = count(client, stream).await;
            while stored < want && tests::clock::now().duration_since(begin) < PATIENCE {
                tokio::time::sleep(Duration::from_millis(10)).await;
                stored = count(client, stream).await;
            }
        }
        let mut wrong = Vec::new();
        for stream in STREAMS {
            let records = read_stream(client, stream).await.map_err(|error| format!("{stream}: {error}"))?;
            let differences = differences(&made(load, stream), &by_key(&records));
            wrong.extend(differences.into_iter().map(|what| format!("{stream}: {what}")));
            wrong.extend(gaps(&records).into_iter().map(|what| format!("{stream}: {what}")));
            let places =
                records.into_iter().map(|record| ((record.shard, record.sequence), record)).collect();
            wrong.extend(self.vanished(stream, &places));
            if stream == "native" {
                wrong.extend(misplaced(load, &places));
            }
        }
        let lost = count(client, "_loss").await;
        if lost > 0 {
            let told = read_stream(client, "_loss").await.map_err(|error| error.to_string())?;
            wrong.extend(told.iter().map(|record| String::from_utf8_lossy(&record.data).into_owned()));
        }
        wrong.truncate(20);
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
    }

    /// What was read once and is not there any more, or is something else.
    fn vanished(&self, stream: &'static str, places: &BTreeMap<(u32, u64), Record>) -> Vec<String> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let of_stream = seen.iter().filter(|((of, ..), _)| *of == stream);
        let gone = of_stream.filter(|((_, shard, sequence), data)| {
            places.get(&(*shard, *sequence)).is_none_or(|record| record.data != **data)
        });
        gone.map(|(place, _)| format!("{place:?} was read once and is not there any more")).collect()
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

fn made(load: &Load, stream: &str) -> ByKey {
    let made = load.made();
    match stream {
        "lines" => made.lines.clone(),
        "messages" => made.messages.clone(),
        _ => made.native.clone(),
    }
}

/// Acknowledged records that are not where the store said they are.
fn misplaced(load: &Load, places: &BTreeMap<(u32, u64), Record>) -> Vec<String> {
    let made = load.made();
    let wrong = made
        .places
        .iter()
        .filter(|(place, data)| places.get(*place).is_none_or(|record| record.data != **data));
    wrong
        .map(|(place, data)| format!("acknowledged {} is not at {place:?}", String::from_utf8_lossy(data)))
        .collect()
}

/// Reads everything again and again, over all kills, and remembers a sample of it.
async fn read_on(target: Target, seen: Arc<Mutex<Seen>>) {
    loop {
        if let Ok(client) = Client::connect(&target).await {
            for stream in STREAMS {
                let Ok(records) = read_stream(&client, stream).await else { break };
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                // The newest are those in danger; of the others one in ten.
                let from = records.len().saturating_sub(200);
                let sample = records.into_iter().enumerate().filter(|(at, _)| *at >= from || at % 10 == 0);
                for (_, record) in sample {
                    seen.entry((stream, record.shard, record.sequence)).or_insert(record.data);
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
