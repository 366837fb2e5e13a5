//! A store, a folder and a client of it; writers of log files; what every test asks again and again.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use store::client::Client;
use tests::clock;
use tests::harness::consumer::{self, ByKey, by_key, differences, gaps};
use tests::harness::process::{AgentProcess, StoreProcess, ready};

/// How long anything may take, with room for a machine that does other things too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Files below `logs/`, by name, with room for more keys of the same source.
pub(crate) const FILES: &str = "[[source.file]]\npaths = [\"logs/*.log\"]\nstream = \"logs\"\n\
                                partition_key = \"{file_name}\"\npoll_ms = 100\n";

/// A store with an empty folder of its own.
pub(crate) struct Rig {
    pub(crate) store: StoreProcess,
    pub(crate) client: Client,
    pub(crate) home: tempfile::TempDir,
}

impl Rig {
    /// `None`, after saying so, where the programs are not built.
    pub(crate) async fn start(words: &[&str]) -> Option<Rig> {
        if !ready() {
            return None;
        }
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("logs")).unwrap();
        let store = StoreProcess::start(home.path(), words).await.unwrap();
        let client = store.client().await.unwrap();
        Some(Rig { store, client, home })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// An agent that connects to the store itself.
    pub(crate) fn agent(&self, name: &str, sources: &str) -> AgentProcess {
        AgentProcess::start(self.home.path(), name, &self.store, self.store.address, sources).unwrap()
    }

    /// Runs a command of the operator, which must do it.
    pub(crate) fn kinesin(&self, words: &str) -> String {
        self.store.command(&words.split_whitespace().collect::<Vec<_>>()).unwrap()
    }

    /// Runs a command of the operator and reads its JSON.
    pub(crate) fn json(&self, words: &str) -> serde_json::Value {
        let printed = self.kinesin(words);
        serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{words}: {error}: {printed}"))
    }

    /// Starts the store again and connects to it.
    pub(crate) async fn up(&mut self) {
        self.store.up().await.unwrap();
        self.client = self.store.client().await.unwrap();
    }

    pub(crate) async fn wait_for(&self, stream: &str, records: u64) {
        consumer::wait_for(&self.client, stream, records, PATIENCE).await.unwrap();
    }

    pub(crate) async fn status(&self, counter: &str) -> f64 {
        consumer::status(&self.client, counter).await
    }

    pub(crate) async fn stored(&self, stream: &str) -> ByKey {
        let records = consumer::read_stream(&self.client, stream).await.unwrap();
        assert_eq!(gaps(&records), Vec::<String>::new());
        by_key(&records)
    }

    /// Waits until as much is stored as was made, and compares all of it.
    pub(crate) async fn assert_all_stored(&self, stream: &str, made: &ByKey) {
        let count = made.values().map(Vec::len).sum::<usize>() as u64;
        self.wait_for(stream, count).await;
        assert_eq!(differences(made, &self.stored(stream).await), Vec::<String>::new(), "{stream}");
    }

    /// What was told in the loss ledger, for one reason.
    pub(crate) async fn losses(&self, reason: &str) -> Vec<serde_json::Value> {
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
    pub(crate) async fn lost(&self, reason: &str) -> u64 {
        self.losses(reason).await.iter().map(|loss| loss["records"].as_u64().unwrap()).sum()
    }
}

/// Asks again and again until the answer is yes.
#[macro_export]
macro_rules! eventually {
    ($what:expr, $yes:expr) => {{
        let begin = tests::clock::now();
        loop {
            let yes = $yes;
            if yes {
                break;
            }
            let late = tests::clock::now().duration_since(begin) > $crate::common::PATIENCE;
            assert!(!late, "never came: {}", $what);
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }};
}

/// Whether it becomes so in time, for what blocks.
pub(crate) fn wait_until(what: &str, yes: impl FnMut() -> bool) {
    assert!(clock::eventually(PATIENCE, yes), "never came: {what}");
}

/// One log file, and every line that was written to it.
pub(crate) struct Writer {
    path: PathBuf,
    file: File,
    key: String,
    next: u64,
    pub(crate) made: Vec<Vec<u8>>,
}

impl Writer {
    pub(crate) fn new(path: &Path) -> Writer {
        let key = path.file_name().unwrap().to_string_lossy().into_owned();
        Writer { path: path.to_owned(), file: open(path), key, next: 0, made: Vec::new() }
    }

    /// Writes so many lines, at once.
    pub(crate) fn write(&mut self, lines: u64) {
        let mut text = Vec::new();
        for _ in 0..lines {
            let line =
                format!("{} line {:06} {}", self.key, self.next, "x".repeat((self.next % 97) as usize));
            text.extend_from_slice(line.as_bytes());
            text.push(b'\n');
            self.made.push(line.into_bytes());
            self.next += 1;
        }
        self.file.write_all(&text).unwrap();
    }

    /// As logrotate does by default: the file gets another name, a new one takes its place.
    pub(crate) fn rotate_by_rename(&mut self, to: &Path) {
        std::fs::rename(&self.path, to).unwrap();
        self.file = open(&self.path);
    }

    /// As logrotate does with `copytruncate`.
    pub(crate) fn rotate_by_copytruncate(&mut self, to: &Path) {
        std::fs::copy(&self.path, to).unwrap();
        self.file.set_len(0).unwrap();
    }

    pub(crate) fn count(&self) -> u64 {
        self.next
    }
}

fn open(path: &Path) -> File {
    File::options().create(true).append(true).open(path).unwrap()
}

/// What several files came to, by file name.
pub(crate) fn made(writers: &[Writer]) -> ByKey {
    writers.iter().map(|writer| (writer.key.clone(), writer.made.clone())).collect()
}
