//! `kill -9` of the store, of the agent and of both, at random moments, under load from files, MQTT and the native
//! protocol; then the ledger, record by record. Real processes, a real disk, real time: what a seed repeats is the
//! plan (who is killed, when, for how long), not the scheduler.
//!
//! Every check stops the load, waits until everything is stored, and asks of everything ever made:
//!
//! - each acknowledged record is at its sequence number, byte for byte, and numbers have no gaps;
//! - lines and messages are there once, in the order of their keys;
//! - a batch that was sent again after a lost answer is there once;
//! - what a reader has once seen is still there;
//! - nothing is there that was never made.
//!
//! `KINESIN_FAULT_CYCLES` says how many kills (100), `KINESIN_FAULT_SEED` repeats a plan.

use std::io::Write;
use std::time::Duration;

use protocol::rng::Rng;
use tests::harness::broker::Broker;
use tests::harness::process::{AgentProcess, StoreProcess, ready};

use crate::ledger::Ledger;
use crate::load::Load;

/// A check after so many kills.
const CHECK_EVERY: u64 = 10;

/// Open shards of a stream, at most.
const SHARDS_MAX: usize = 6;

const SOURCES: &str = r#"
[[source.file]]
paths = ["LOGS/*.log"]
stream = "lines"
partition_key = "{file_name}"
poll_ms = 200

[[source.mqtt]]
broker = "mqtt://BROKER"
topics = ["trucks/+/telemetry"]
stream = "messages"
partition_key = "{topic[1]}"

[batch]
linger_ms = 2
records_max = 200

[spool]
dir = "SPOOL"
max_bytes = "64 MiB"
segment_bytes = "128 KiB"
"#;

#[derive(Debug, Default)]
struct Kills {
    store: u64,
    agent: u64,
    both: u64,
    while_starting: u64,
    splits: u64,
}

struct World {
    rng: Rng,
    store: StoreProcess,
    agent: AgentProcess,
    load: Load,
    ledger: Ledger,
    kills: Kills,
    broker: Broker,
    home: tempfile::TempDir,
}

impl World {
    async fn start(seed: u64) -> World {
        let home = tempfile::tempdir().unwrap();
        let logs = home.path().join("logs");
        std::fs::create_dir(&logs).unwrap();
        let store = StoreProcess::start(home.path(), &["--segment-bytes", "256KiB"]).await.unwrap();
        for (stream, shards) in [("lines", "2"), ("messages", "2"), ("native", "1")] {
            store.command(&["stream", "create", stream, "--shards", shards, "--rate", "off"]).unwrap();
        }
        let broker = Broker::start(([127, 0, 0, 1], 0).into()).unwrap();
        let sources = SOURCES
            .replace("LOGS", &logs.display().to_string())
            .replace("BROKER", &broker.addr().to_string())
            .replace("SPOOL", &home.path().join("spool").display().to_string());
        let agent = AgentProcess::start(home.path(), "a", &store, store.address, &sources).unwrap();
        let subscribed = || broker.stats().subscriptions > 0;
        assert!(tests::clock::eventually(Duration::from_secs(30), subscribed), "{}", agent.printed());
        let load = Load::start(&logs, broker.addr().port(), &store);
        let ledger = Ledger::start(&store);
        World { rng: Rng::new(seed), store, agent, load, ledger, kills: Kills::default(), broker, home }
    }

    /// Lets the load run for a while.
    async fn run(&mut self, ms_max: u64) {
        tokio::time::sleep(Duration::from_millis(self.rng.below(ms_max))).await;
    }

    async fn kill_store(&mut self) {
        self.store.kill().unwrap();
        self.run(150).await;
        while self.rng.chance(250) {
            self.kills.while_starting += 1;
            self.store.spawn().unwrap();
            self.run(60).await;
            self.store.kill().unwrap();
        }
    }

    async fn kill_agent(&mut self) {
        self.agent.kill().unwrap();
        self.run(150).await;
        while self.rng.chance(250) {
            self.kills.while_starting += 1;
            self.agent.up().unwrap();
            self.run(60).await;
            self.agent.kill().unwrap();
        }
    }

    async fn cycle(&mut self) {
        self.run(500).await;
        match self.rng.below(10) {
            0..=3 => {
                self.kills.store += 1;
                self.kill_store().await;
                self.store.up().await.unwrap();
            }
            4..=7 => {
                self.kills.agent += 1;
                self.kill_agent().await;
                self.agent.up().unwrap();
            }
            _ => {
                self.kills.both += 1;
                self.agent.kill().unwrap();
                self.kill_store().await;
                self.kill_agent_again();
                self.store.up().await.unwrap();
                self.agent.up().unwrap();
            }
        }
        if self.rng.chance(60) {
            self.split().await;
        }
    }

    /// It is down already; nothing must be left of it.
    fn kill_agent_again(&mut self) {
        self.agent.kill().unwrap();
    }

    async fn split(&mut self) {
        let stream = ["lines", "messages", "native"][self.rng.below(3) as usize];
        let info = self.store.command(&["stream", "describe", stream, "--json"]).unwrap();
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        let shards = info["shards"].as_array().unwrap();
        let open: Vec<&serde_json::Value> = shards.iter().filter(|shard| shard["closed"] == false).collect();
        if open.len() < SHARDS_MAX {
            let shard = open[self.rng.below(open.len() as u64) as usize]["id"].to_string();
            self.store.command(&["stream", "split", stream, &shard]).unwrap();
            self.kills.splits += 1;
        }
    }

    /// Stops the load, compares everything, and lets it go on.
    async fn check(&mut self) -> Result<(), String> {
        let pause = self.load.pause().await;
        let client = self.store.client().await.map_err(|e| e.to_string())?;
        self.ledger.check(&client, &self.load).await?;
        let broker = self.broker.stats();
        if broker.dropped > 0 || broker.protocol_errors > 0 {
            return Err(format!("the broker gave up messages: {broker:?} {:?}", self.broker.last_error()));
        }
        // Names change while everything is read, so that what belongs to which file is never in doubt.
        self.load.rotate();
        drop(pause);
        Ok(())
    }
}

async fn survive(cycles: u64) {
    if !ready() {
        return;
    }
    let from_env = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = from_env("KINESIN_FAULT_SEED").unwrap_or_else(tests::clock::unix_ms);
    let cycles = from_env("KINESIN_FAULT_CYCLES").unwrap_or(cycles);
    say(&format!("{cycles} kills by KINESIN_FAULT_SEED={seed}"));
    let begin = tests::clock::now();
    let mut world = World::start(seed).await;
    for cycle in 1..=cycles {
        world.cycle().await;
        if (cycle % CHECK_EVERY == 0 || cycle == cycles)
            && let Err(wrong) = world.check().await
        {
            let (store, agent) = (world.store.printed(), world.agent.printed());
            let home = world.home.keep();
            panic!(
                "after {cycle} kills ({:?}): {wrong}\n\nrepeat: KINESIN_FAULT_SEED={seed} KINESIN_FAULT_CYCLES={cycles}; \
                 everything is kept in {}\n\nstore:\n{}\n\nagent:\n{}",
                world.kills,
                home.display(),
                end_of(&store),
                end_of(&agent),
            );
        }
    }
    let counts = world.load.counts();
    world.agent.process.take().unwrap().terminate().unwrap();
    world.store.process.take().unwrap().terminate().unwrap();
    let checked = world.store.command(&["check"]).unwrap();
    assert!(checked.contains("clean: "), "{checked}");
    say(&format!(
        "{:?}; {counts}: nothing lost, doubled or out of order in {:.0} s; {}",
        world.kills,
        tests::clock::now().duration_since(begin).as_secs_f64(),
        checked.trim()
    ));
}

/// On standard error, whoever listens.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "faults: {text}");
}

fn end_of(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_few_kills_lose_nothing_double_nothing_and_keep_the_order() {
    survive(5).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes: tests/all runs it"]
async fn a_hundred_kills_lose_nothing_double_nothing_and_keep_the_order() {
    survive(100).await;
}
