//! The benchmark of the main job: log lines, tailed by the agent, into the store over TLS, with fsync before every
//! answer. Real processes on this machine. It prints figures and judges nothing.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use protocol::batch::Batch;
use protocol::frame::Frame;
use protocol::name::StreamName;
use protocol::native::call::{Call, Reply};
use protocol::sequence::{SequenceNumber, ShardId};
use protocol::stream::{StartingPosition, StreamConfig};
use store::client::Client;

use crate::clock;
use crate::harness::corpus::{Corpus, write_log};
use crate::harness::process::{AgentProcess, StoreProcess};

pub mod engine;
mod load;

/// How long any part may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// What was measured, line by line.
pub type Figures = Vec<(String, String)>;

/// How a benchmark is set.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where everything is kept; emptied first.
    pub dir: PathBuf,
    /// Bytes of log.
    pub bytes: u64,
    /// `lz4`, `zstd` or `none`.
    pub codec: String,
    /// Lines that are made up even where real logs are there.
    pub generated: bool,
    /// Lines for the latency.
    pub latency_lines: u64,
    /// How long each round of a comparison takes.
    pub seconds: u64,
}

struct Rig {
    store: StoreProcess,
    client: Client,
    name: StreamName,
}

impl Rig {
    async fn start(dir: &Path) -> io::Result<Rig> {
        Rig::start_with(dir, &[]).await
    }

    async fn start_with(dir: &Path, words: &[&str]) -> io::Result<Rig> {
        if dir.exists() {
            std::fs::remove_dir_all(dir)?;
        }
        std::fs::create_dir_all(dir.join("logs"))?;
        let store = StoreProcess::start(dir, words).await?;
        let client = store.client().await?;
        let name = StreamName::new("logs").map_err(io::Error::other)?;
        let config = StreamConfig { shard_rate: None, ..StreamConfig::default() };
        let create = Call::CreateStream { name: name.clone(), shards: 1, config };
        client.call(create).await.map_err(io::Error::other)?;
        Ok(Rig { store, client, name })
    }

    fn agent(&self, dir: &Path, more: &str) -> io::Result<AgentProcess> {
        let sources = format!(
            "[[source.file]]\npaths = [\"{}/logs/*.log\"]\nstream = \"logs\"\npartition_key = \"{{agent}}:{{file}}\"\n{more}",
            dir.display()
        );
        AgentProcess::start(dir, "bench", &self.store, self.store.address, &sources)
    }

    async fn tail(&self) -> io::Result<u64> {
        let describe = Call::DescribeStream { name: self.name.clone() };
        let info = self.client.stream(describe).await.map_err(io::Error::other)?;
        Ok(info.shards.iter().map(|shard| shard.tail.0).sum())
    }

    async fn wait_for(&self, lines: u64) -> io::Result<()> {
        let begin = clock::now();
        while self.tail().await? < lines {
            if clock::now().duration_since(begin) > PATIENCE {
                return Err(io::Error::other(format!(
                    "{} of {lines} lines after {PATIENCE:?}",
                    self.tail().await?
                )));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    async fn status(&self, name: &str) -> f64 {
        match self.client.call(Call::Status {}).await {
            Ok(Reply::Status(status)) => status.get(name).copied().unwrap_or_default(),
            _ => 0.0,
        }
    }
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / 1048576.0
}

fn id_of(agent: &AgentProcess) -> io::Result<&crate::harness::process::Process> {
    agent.process.as_ref().ok_or_else(|| io::Error::other("the agent is not running"))
}

/// A log file, whole before the agent starts, tailed into the store.
///
/// # Errors
/// When a program does not work.
pub async fn throughput(plan: &Plan) -> io::Result<Figures> {
    let rig = Rig::start(&plan.dir).await?;
    let corpus = if plan.generated { Corpus::access(1) } else { Corpus::real_or_access(1) };
    let written = write_log(&plan.dir.join("logs/app.log"), plan.bytes, &corpus)?;
    let more = format!("\n[batch]\ncodec = \"{}\"\n", plan.codec);
    let (store_cpu, begin) = (rig.status("process_cpu_seconds").await, clock::now());
    let agent = rig.agent(&plan.dir, &more)?;
    rig.wait_for(written.lines).await?;
    let seconds = clock::now().duration_since(begin).as_secs_f64();
    let process = id_of(&agent)?;
    let (agent_cpu, agent_peak) = (process.cpu_seconds(), process.memory_bytes("VmHWM"));
    let store_cpu = rig.status("process_cpu_seconds").await - store_cpu;
    let stored = rig.status("log_bytes_written_total").await;
    let store = rig.store.process.as_ref().map_or(0, |process| process.memory_bytes("VmHWM"));
    let line = |name: &str, value: String| (name.to_owned(), value);
    Ok(vec![
        line(
            "log",
            format!(
                "{:.0} MB, {} lines of {}, codec {}",
                megabytes(written.bytes),
                written.lines,
                corpus.name(),
                plan.codec
            ),
        ),
        line(
            "tail -> durable ack",
            format!("{:.1} MB/s of log ({seconds:.2} s)", megabytes(written.bytes) / seconds),
        ),
        line(
            "agent CPU",
            format!(
                "{:.0} MB per CPU second ({agent_cpu:.2} s)",
                megabytes(written.bytes) / agent_cpu.max(0.01)
            ),
        ),
        line("agent memory", format!("{:.1} MiB RSS at most", mebibytes(agent_peak))),
        line(
            "store CPU",
            format!(
                "{:.0} MB per CPU second ({store_cpu:.2} s)",
                megabytes(written.bytes) / store_cpu.max(0.01)
            ),
        ),
        line("store memory", format!("{:.1} MiB RSS at most", mebibytes(store))),
        line(
            "compression",
            format!("{:.2} times smaller in the store's log", written.bytes as f64 / stored.max(1.0)),
        ),
    ])
}

/// A log file tailed while the store is away; then the store comes back.
///
/// # Errors
/// When a program does not work.
pub async fn backlog(plan: &Plan) -> io::Result<Figures> {
    let mut rig = Rig::start(&plan.dir).await?;
    let agent = rig.agent(&plan.dir, "\n")?;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let idle = id_of(&agent)?.memory_bytes("VmRSS");
    let idle_cpu = id_of(&agent)?.cpu_seconds();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let idle_cpu = id_of(&agent)?.cpu_seconds() - idle_cpu;
    rig.store.kill()?;
    let corpus = if plan.generated { Corpus::access(1) } else { Corpus::real_or_access(1) };
    let written = write_log(&plan.dir.join("logs/app.log"), plan.bytes, &corpus)?;
    // Quiet for a while: everything is in the spool.
    let (mut last, mut quiet) = (0.0, clock::now());
    while clock::now().duration_since(quiet) < Duration::from_secs(3) {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let cpu = id_of(&agent)?.cpu_seconds();
        if cpu > last + 0.05 {
            (last, quiet) = (cpu, clock::now());
        }
    }
    let offline = id_of(&agent)?.memory_bytes("VmRSS");
    rig.store.up().await?;
    rig.client = rig.store.client().await?;
    let begin = clock::now();
    rig.wait_for(written.lines).await?;
    let seconds = clock::now().duration_since(begin).as_secs_f64();
    let peak = id_of(&agent)?.memory_bytes("VmHWM");
    let line = |name: &str, value: String| (name.to_owned(), value);
    Ok(vec![
        line("agent idle", format!("{:.1} MiB RSS, {:.2} % CPU", mebibytes(idle), idle_cpu / 5.0 * 100.0)),
        line(
            "agent with backlog",
            format!(
                "{:.1} MiB RSS with {:.0} MB of log in the spool",
                mebibytes(offline),
                megabytes(written.bytes)
            ),
        ),
        line("agent at most", format!("{:.1} MiB RSS", mebibytes(peak))),
        line(
            "backlog delivered",
            format!("{:.1} MB/s of log ({seconds:.2} s)", megabytes(written.bytes) / seconds),
        ),
    ])
}

/// 1,000 lines a second, each with the time at which it was appended; how long until a consumer has it.
///
/// # Errors
/// When a program does not work.
pub async fn latency(plan: &Plan) -> io::Result<Figures> {
    let rig = Rig::start(&plan.dir).await?;
    let path = plan.dir.join("logs/app.log");
    let mut file = File::options().create(true).append(true).open(&path)?;
    file.write_all(b"first\n")?;
    let agent = rig.agent(&plan.dir, "\n")?;
    rig.wait_for(1).await?;
    let start = clock::now();
    let lines = plan.latency_lines;
    let writer = std::thread::spawn(move || write_paced(&mut file, start, lines));
    let mut delays = Vec::new();
    let (mut from, mut batch) = (SequenceNumber(1), Batch::new());
    while (delays.len() as u64) < lines {
        let read = rig.client.read(&rig.name, ShardId(0), StartingPosition::At(from), 1 << 20, 5000).await;
        let read = read.map_err(io::Error::other)?;
        let now = clock::now().duration_since(start);
        let mut rest = read.frames();
        while !rest.is_empty() {
            let (frame, after) = Frame::parse_first(rest).map_err(io::Error::other)?;
            batch.open(&frame.header, frame.payload).map_err(io::Error::other)?;
            delays.extend(batch.records().filter_map(|record| delay_of(record.data, now)));
            rest = after;
        }
        from = read.head.next;
        if clock::now().duration_since(start) > PATIENCE {
            return Err(io::Error::other(format!("{} of {lines} lines arrived", delays.len())));
        }
    }
    let _ = writer.join();
    delays.sort_unstable();
    let at = |per_mille: usize| {
        delays[(delays.len() * per_mille / 1000).min(delays.len() - 1)].as_secs_f64() * 1e3
    };
    let seconds = clock::now().duration_since(start).as_secs_f64();
    let cpu = id_of(&agent)?.cpu_seconds() / seconds * 100.0;
    Ok(vec![
        (
            "line appended -> readable".to_owned(),
            format!(
                "p50 {:.1} ms, p99 {:.1} ms, p99.9 {:.1} ms, max {:.1} ms (1,000 lines/s, {lines} lines)",
                at(500),
                at(990),
                at(999),
                at(1000)
            ),
        ),
        ("agent CPU at that".to_owned(), format!("{cpu:.1} % of a core")),
    ])
}

fn write_paced(file: &mut File, start: Instant, lines: u64) {
    let filler = "x".repeat(170);
    for number in 0..lines {
        let due = Duration::from_micros(1000) * u32::try_from(number).unwrap_or(u32::MAX);
        let now = clock::now().duration_since(start);
        if due > now {
            clock::sleep(due - now);
        }
        let now = clock::now().duration_since(start).as_nanos();
        let _ = file.write_all(format!("{now:020} {filler}\n").as_bytes());
    }
}

fn delay_of(line: &[u8], now: Duration) -> Option<Duration> {
    let nanos = std::str::from_utf8(line.get(..20)?).ok()?.parse::<u64>().ok()?;
    Some(now.saturating_sub(Duration::from_nanos(nanos)))
}
