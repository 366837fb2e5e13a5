//! A store, a folder and a client of it; writers of log files; what every test asks again and again.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::clock;
use crate::harness::consumer::{self, ByKey, by_key, differences, gaps};
use crate::harness::process::{AgentProcess, StoreProcess, ready};
use store::client::Client;

/// How long anything may take, with room for a machine that does other things too.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Files below `logs/`, by name, with room for more keys of the same source.
pub const FILES: &str = "[[source.file]]\npaths = [\"logs/*.log\"]\nstream = \"logs\"\n\
                                partition_key = \"{file_name}\"\npoll_ms = 100\n";

/// A store with an empty folder of its own.
pub struct Rig {
    /// The store.
    pub store: StoreProcess,
    /// A client of it.
    pub client: Client,
    /// The folder.
    pub home: tempfile::TempDir,
}

impl Rig {
    /// `None`, after saying so, where the programs are not built.
    pub async fn start(words: &[&str]) -> Option<Rig> {
        if !ready() {
            return None;
        }
        Some(Rig::start_in(tempfile::tempdir().unwrap(), words).await)
    }

    /// The same in a folder that is there, with whatever is in it.
    pub async fn start_in(home: tempfile::TempDir, words: &[&str]) -> Rig {
        let store = StoreProcess::start(home.path(), words).await.unwrap();
        Rig::of(home, store).await
    }

    /// Of a store that runs in a folder.
    pub async fn of(home: tempfile::TempDir, store: StoreProcess) -> Rig {
        std::fs::create_dir(home.path().join("logs")).unwrap();
        let client = store.client().await.unwrap();
        Rig { store, client, home }
    }

    /// Of a file in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// An agent that connects to the store itself.
    pub fn agent(&self, name: &str, sources: &str) -> AgentProcess {
        AgentProcess::start(self.home.path(), name, &self.store, self.store.address, sources).unwrap()
    }

    /// Runs a command of the operator, which must do it.
    pub fn kinesin(&self, words: &str) -> String {
        self.store.command(&words.split_whitespace().collect::<Vec<_>>()).unwrap()
    }

    /// Runs a command of the operator and reads its JSON.
    pub fn json(&self, words: &str) -> serde_json::Value {
        let printed = self.kinesin(words);
        serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{words}: {error}: {printed}"))
    }

    /// Starts the store again and connects to it.
    pub async fn up(&mut self) {
        self.store.up().await.unwrap();
        self.client = self.store.client().await.unwrap();
    }

    /// Waits until a stream has had so many records.
    pub async fn wait_for(&self, stream: &str, records: u64) {
        consumer::wait_for(&self.client, stream, records, PATIENCE).await.unwrap();
    }

    /// One of the store's counters.
    pub async fn status(&self, counter: &str) -> f64 {
        consumer::status(&self.client, counter).await
    }

    /// All records of a stream, by key.
    pub async fn stored(&self, stream: &str) -> ByKey {
        let records = consumer::read_stream(&self.client, stream).await.unwrap();
        assert_eq!(gaps(&records), Vec::<String>::new());
        by_key(&records)
    }

    /// Waits until as much is stored as was made, and compares all of it.
    pub async fn assert_all_stored(&self, stream: &str, made: &ByKey) {
        let count = made.values().map(Vec::len).sum::<usize>() as u64;
        self.wait_for(stream, count).await;
        assert_eq!(differences(made, &self.stored(stream).await), Vec::<String>::new(), "{stream}");
    }

    /// What was told in the loss ledger, for one reason.
    pub async fn losses(&self, reason: &str) -> Vec<serde_json::Value> {
        if consumer::count(&self.client, "_loss").await == 0 {
            return Vec::new();
        }
        let records = consumer::read_stream(&self.client, "_loss").await.unwrap();
        let parsed = records.iter().map(|record| serde_json::from_slice(&record.data).unwrap());
        parsed
            .filter(|loss: &serde_json::Value| loss["reason"].as_str().unwrap().starts_with(reason))
            .collect()
    }

    /// Records in the loss ledger, for one reason.
    pub async fn lost(&self, reason: &str) -> u64 {
        self.losses(reason).await.iter().map(|loss| loss["records"].as_u64().unwrap()).sum()
    }
}

/// Asks again and again until the answer is yes.
#[macro_export]
macro_rules! eventually {
    ($what:expr, $yes:expr) => {{
        let begin = $crate::clock::now();
        loop {
            let yes = $yes;
            if yes {
                break;
            }
            let late = $crate::clock::now().duration_since(begin) > $crate::harness::rig::PATIENCE;
            assert!(!late, "never came: {}", $what);
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }};
}

/// Whether it becomes so in time, for what blocks.
pub fn wait_until(what: &str, yes: impl FnMut() -> bool) {
    assert!(clock::eventually(PATIENCE, yes), "never came: {what}");
}

/// One log file, and every line that was written to it.
pub struct Writer {
    path: PathBuf,
    file: File,
    key: String,
    next: u64,
    /// Every line.
    pub made: Vec<Vec<u8>>,
}

impl Writer {
    /// A file of this name, made or gone on with.
    pub fn new(path: &Path) -> Writer {
        let key = path.file_name().unwrap().to_string_lossy().into_owned();
        Writer { path: path.to_owned(), file: open(path), key, next: 0, made: Vec::new() }
    }

    /// Writes so many lines, at once.
    pub fn write(&mut self, lines: u64) {
        self.write_with(lines, "");
    }

    /// The same with so much more on each line.
    pub fn write_with(&mut self, lines: u64, more: &str) {
        let mut text = Vec::new();
        for _ in 0..lines {
            let line =
                format!("{} line {:06} {}{more}", self.key, self.next, "x".repeat((self.next % 97) as usize));
            text.extend_from_slice(line.as_bytes());
            text.push(b'\n');
            self.made.push(line.into_bytes());
            self.next += 1;
        }
        self.file.write_all(&text).unwrap();
    }

    /// As logrotate does by default: the file gets another name, a new one takes its place.
    pub fn rotate_by_rename(&mut self, to: &Path) {
        std::fs::rename(&self.path, to).unwrap();
        self.file = open(&self.path);
    }

    /// As logrotate does with `copytruncate`.
    pub fn rotate_by_copytruncate(&mut self, to: &Path) {
        std::fs::copy(&self.path, to).unwrap();
        self.file.set_len(0).unwrap();
    }

    /// How many lines were written.
    pub fn count(&self) -> u64 {
        self.next
    }
}

fn open(path: &Path) -> File {
    File::options().create(true).append(true).open(path).unwrap()
}

/// What several files came to, by file name.
pub fn made(writers: &[Writer]) -> ByKey {
    writers.iter().map(|writer| (writer.key.clone(), writer.made.clone())).collect()
}
