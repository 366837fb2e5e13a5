//! The trucks: what they write and publish, and their agents.
//!
//! Every message and line carries its truck and a number that counts up from 0, so that the ledger can say which one is
//! missing, twice, or out of order; and a running checksum of all of them says whether a byte is wrong.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agent::{Agent, AgentHandle, Config};
use rumqttc::{AsyncClient, Event, MqttOptions, Outgoing, Packet, QoS};
use tokio::task::JoinHandle;

use super::ledger::{Made, Series};
use super::screen::Screen;
use super::{Error, Plan, Store};
use crate::harness::broker::Broker;
use crate::harness::corpus::{Corpus, Counter, Truck};
use crate::harness::link::Link;

/// A truck's log file is renamed away after this many lines.
const LINES_PER_FILE: u64 = 500;

/// How long the agents may take to deliver what is left in the end.
const DRAIN: Duration = Duration::from_secs(90);

/// How long a truck's last messages may take to be taken by the broker.
const PUBLISH_PATIENCE: Duration = Duration::from_secs(10);

/// All trucks at work.
pub struct Fleet {
    stop: Arc<AtomicBool>,
    trucks: Vec<Running>,
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet").field("trucks", &self.trucks.len()).finish_non_exhaustive()
    }
}

struct Running {
    name: String,
    agent: AgentHandle,
    messages: JoinHandle<Series>,
    lines: JoinHandle<Series>,
}

/// All agents together.
#[derive(Debug, Clone, Copy, Default)]
pub struct FleetSnapshot {
    /// Records that the agents took.
    pub records_in: u64,
    /// Records that the store acknowledged.
    pub stored_records: u64,
    /// Bytes of batches before compression.
    pub raw_bytes: u64,
    /// Bytes of batches after it.
    pub frame_bytes: u64,
    /// Batches that were told to wait.
    pub throttled: u64,
    /// Records waiting in the spools.
    pub backlog_records: u64,
    /// Agents with a connection.
    pub connected: usize,
    /// Agents.
    pub agents: usize,
}

impl Fleet {
    /// Starts every truck: its agent, its publisher, its log.
    ///
    /// # Errors
    /// When an agent can't start.
    pub async fn start(
        plan: &Plan,
        dir: &Path,
        store: &Store,
        link: &Link,
        broker: &Broker,
    ) -> Result<Fleet, Error> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut agents = Vec::new();
        for number in 0..plan.trucks {
            let truck = Truck::new(number, 42);
            let home = dir.join("trucks").join(truck.name());
            let logs = home.join("logs");
            std::fs::create_dir_all(&logs)?;
            let token = store.token(truck.name()).await?;
            let config = config(truck.name(), &home, &store.ca, &token, link.address(), broker.addr())?;
            agents.push((number, truck, logs, Agent::start(config)?));
        }
        wait_for_subscriptions(broker, agents.len()).await?;
        let pace = Pace { per_second: plan.per_second, stop: Arc::clone(&stop) };
        let trucks = agents.into_iter().map(|(number, truck, logs, agent)| {
            let name = truck.name().to_owned();
            Running {
                messages: tokio::spawn(publish(truck, broker.addr(), pace.clone())),
                lines: tokio::spawn(write_lines(name.clone(), number, logs, pace.clone())),
                name,
                agent,
            }
        });
        let trucks = trucks.collect();
        Ok(Fleet { stop, trucks })
    }

    /// All agents' counters together.
    #[must_use]
    pub fn snapshot(&self) -> FleetSnapshot {
        let mut sum = FleetSnapshot { agents: self.trucks.len(), ..FleetSnapshot::default() };
        for stats in self.trucks.iter().map(|truck| truck.agent.stats()) {
            sum.records_in += stats.records_in;
            // What was stored and whose answer was lost comes back as a duplicate.
            sum.stored_records += stats.stored_records + stats.duplicate_records;
            sum.raw_bytes += stats.raw_bytes;
            sum.frame_bytes += stats.frame_bytes;
            sum.throttled += stats.throttled;
            sum.backlog_records += stats.backlog_records;
            sum.connected += usize::from(stats.connected);
        }
        sum
    }

    /// Stops making data, and waits until the agents have delivered what there is. Returns what was made.
    pub async fn stop(&mut self, store: &Store, screen: &mut Screen) -> Made {
        self.stop.store(true, Ordering::Relaxed);
        let mut made = Made::default();
        for truck in &mut self.trucks {
            if let (Ok(messages), Ok(lines)) = ((&mut truck.messages).await, (&mut truck.lines).await) {
                made.messages.insert(truck.name.clone(), messages);
                made.lines.insert(truck.name.clone(), lines);
            }
        }
        let want = made.total();
        let begin = crate::clock::now();
        let mut stored = 0;
        while crate::clock::now().duration_since(begin) < DRAIN {
            stored = self.snapshot().stored_records;
            if stored >= want {
                break;
            }
            screen.show(crate::clock::now().duration_since(begin), false, &store.service, &self.snapshot());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        if stored < want {
            screen.line(&format!("after {} s only {stored} of {want} records have arrived", DRAIN.as_secs()));
            for truck in &self.trucks {
                let stats = truck.agent.stats();
                if stats.backlog_records > 0 || stats.last_error.is_some() {
                    screen.line(&format!(
                        "{}: backlog {}, {:?}",
                        truck.name, stats.backlog_records, stats.last_error
                    ));
                }
            }
        }
        let agents: Vec<AgentHandle> = self.trucks.drain(..).map(|truck| truck.agent).collect();
        // Each waits for its threads, so all at once.
        let ends = agents
            .into_iter()
            .map(|agent| tokio::task::spawn_blocking(move || agent.drain_and_stop(Duration::from_secs(5))));
        for end in ends.collect::<Vec<_>>() {
            let _ = end.await;
        }
        made
    }
}

fn config(
    name: &str,
    home: &Path,
    ca: &Path,
    token: &str,
    link: SocketAddr,
    broker: SocketAddr,
) -> Result<Config, Error> {
    let (ca, home_text) = (ca.display(), home.display());
    let text = format!(
        r#"
[agent]
name = "{name}"

[store]
url = "kinesin://{link}"
ca = "{ca}"
token = "{token}"

[[source.file]]
paths = ["{home_text}/logs/*.log", "{home_text}/logs/*.log.1"]
stream = "logs"
partition_key = "{{agent}}"

[[source.mqtt]]
broker = "mqtt://{broker}"
topics = ["trucks/{name}/telemetry"]
stream = "telemetry"
partition_key = "{{topic[1]}}"

[batch]
linger_ms = 200

[spool]
dir = "{home_text}/spool"
max_bytes = "64 MiB"
"#
    );
    let file = home.join("agent.toml");
    std::fs::write(&file, &text)?;
    Ok(Config::load(&file)?)
}

/// Trucks begin to publish when their agents listen: what nobody has subscribed to, no broker keeps.
async fn wait_for_subscriptions(broker: &Broker, agents: usize) -> Result<(), Error> {
    for _ in 0..1000 {
        if broker.stats().subscriptions as usize >= agents {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err(format!("only {} of {agents} agents have subscribed", broker.stats().subscriptions).into())
}

#[derive(Clone)]
struct Pace {
    per_second: u32,
    stop: Arc<AtomicBool>,
}

impl Pace {
    fn go_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn interval(&self) -> tokio::time::Interval {
        let mut interval = tokio::time::interval(Duration::from_secs(1) / self.per_second.max(1));
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        interval
    }
}

/// Publishes telemetry at QoS 1 and ends when the broker has acknowledged all of it.
async fn publish(mut truck: Truck, broker: SocketAddr, pace: Pace) -> Series {
    let name = truck.name().to_owned();
    let mut options = MqttOptions::new(&name, broker.ip().to_string(), broker.port());
    options.set_keep_alive(Duration::from_secs(30)).set_inflight(100).set_clean_session(false);
    let (client, mut events) = AsyncClient::new(options, 1000);
    let acknowledged = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let seen = Arc::clone(&acknowledged);
    let polling = tokio::spawn(async move {
        loop {
            match events.poll().await {
                Ok(Event::Incoming(Packet::PubAck(_))) => drop(seen.fetch_add(1, Ordering::Relaxed)),
                Ok(Event::Outgoing(Outgoing::Disconnect)) => return,
                Ok(_) => {}
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    });
    let (topic, mut series, mut interval) =
        (format!("trucks/{name}/telemetry"), Series::default(), pace.interval());
    while pace.go_on() {
        interval.tick().await;
        let message = truck.next_message();
        series.add(&message);
        if client.publish(&topic, QoS::AtLeastOnce, false, message).await.is_err() {
            break;
        }
    }
    let begin = crate::clock::now();
    while acknowledged.load(Ordering::Relaxed) < series.count
        && crate::clock::now().duration_since(begin) < PUBLISH_PATIENCE
    {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let _ = client.disconnect().await;
    polling.abort();
    series
}

/// Writes a log and renames it away now and then, as logrotate does.
async fn write_lines(name: String, number: u32, dir: PathBuf, pace: Pace) -> Series {
    let mut lines = Corpus::access(u64::from(number)).counted(Counter::Prefix).lines();
    let (mut series, mut interval, mut line) = (Series::default(), pace.interval(), Vec::new());
    let path = dir.join("app.log");
    let mut file = None;
    while pace.go_on() {
        interval.tick().await;
        line.clear();
        lines.next_into(&mut line);
        line.extend_from_slice(format!(" {name}").as_bytes());
        series.add(&line);
        line.push(b'\n');
        if series.count % LINES_PER_FILE == 0 {
            file = None;
            let _ = std::fs::rename(&path, dir.join("app.log.1"));
        }
        let open = || std::fs::OpenOptions::new().create(true).append(true).open(&path);
        if file.is_none() {
            file = open().ok();
        }
        if let Some(file) = &mut file {
            let _ = file.write_all(&line);
        }
    }
    series
}
