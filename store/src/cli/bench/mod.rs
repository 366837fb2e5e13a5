//! `kinesin bench`: puts records as fast as a store takes them, through the native protocol over TLS, and says
//! how fast that was and what it cost the store.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use hdrhistogram::Histogram;
use protocol::compress::Codec;
use protocol::name::StreamName;
use protocol::native::call::{Call, Reply, StreamConfig};
use serde::Serialize;
use tokio::task::JoinSet;

use super::stream::stream_name;
use super::{StoreArgs, out, unexpected};
use crate::client::{Client, Target, endpoint_file};
use crate::clock::Clock;
use crate::config::{Bytes, FsyncWhen, Span, show_bytes};
use crate::yardstick::Yardstick;

mod writer;

use writer::{Plan, Tally, Writer};

/// How long a store that was just started may take to answer.
const SPAWN_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, ValueEnum)]
enum CodecName {
    None,
    Lz4,
    Zstd,
}

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// How many connections write at the same time.
    #[arg(long, value_name = "COUNT", default_value_t = 64)]
    writers: u32,
    /// Records in a batch.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    batch_records: u32,
    /// Bytes of a record.
    #[arg(long, value_name = "SIZE", default_value = "1024")]
    record_bytes: Bytes,
    /// How long.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    seconds: u32,
    /// Batches of a writer that are sent and not answered.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    in_flight: u32,
    /// Compression of the batches; the data is half random.
    #[arg(long, value_enum, default_value = "none")]
    codec: CodecName,
    /// Stream to write to; made before and removed afterwards.
    #[arg(long, value_name = "NAME", default_value = "bench", value_parser = stream_name)]
    stream: StreamName,
    /// Shards of that stream.
    #[arg(long, value_name = "COUNT", default_value_t = 8)]
    shards: u32,
    /// When the store acknowledges: always (after fdatasync), or a time such as 5ms.
    #[arg(long, value_name = "WHEN", default_value = "always")]
    fsync: FsyncWhen,
    /// Start a store of its own for the time of the measurement, in a temporary folder here.
    #[arg(long, conflicts_with_all = ["data", "store"])]
    spawn: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: StoreArgs,
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Report {
    writers: u32,
    batch_records: u32,
    record_bytes: u64,
    in_flight: u32,
    codec: String,
    fsync: String,
    shards: u32,
    seconds: f64,
    records: u64,
    records_per_second: f64,
    megabytes_per_second: f64,
    ack_ms_p50: f64,
    ack_ms_p99: f64,
    ack_ms_p999: f64,
    ack_ms_max: f64,
    retried_batches: u64,
    store_cpu_seconds: Option<f64>,
    store_rss_bytes: Option<f64>,
    /// What this machine can do, where the store is on it.
    machine: Option<Yardstick>,
}

pub(super) async fn run(args: BenchArgs) -> anyhow::Result<()> {
    check(&args)?;
    let spawned = if args.spawn { Some(Spawned::start().await?) } else { None };
    let target = match &spawned {
        Some(spawned) => Target::of_data_dir(&spawned.data())?,
        None => args.store.target()?,
    };
    let machine = spawned.as_ref().and_then(|spawned| Yardstick::measure(spawned.dir.path()).ok());
    let client = Client::connect(&target).await?;
    let config = StreamConfig {
        shard_rate: None,
        fsync: args.fsync.0,
        retention_ms: Span(Duration::from_secs(3600)).millis(),
        ..StreamConfig::default()
    };
    let create = Call::CreateStream { name: args.stream.clone(), shards: args.shards, config };
    client.stream(create).await.with_context(|| format!("can't make stream {}", args.stream))?;
    let measured = tokio::select! {
        measured = measure(&args, &target, &client) => measured,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    // Also after a failure: what the measurement made must not stay.
    let deleted = client.call(Call::DeleteStream { name: args.stream.clone() }).await;
    if let Some(spawned) = spawned {
        spawned.stop().await;
    }
    let report = Report { machine, ..measured? };
    deleted.with_context(|| format!("can't delete stream {}", args.stream))?;
    if args.json { Ok(out::print_json(&report)?) } else { Ok(out::print(&text(&report))?) }
}

fn check(args: &BenchArgs) -> anyhow::Result<()> {
    if args.writers == 0 || args.batch_records == 0 || args.in_flight == 0 || args.seconds == 0 {
        bail!("--writers, --batch-records, --in-flight and --seconds are at least 1");
    }
    let raw = args.record_bytes.0.saturating_add(16).saturating_mul(u64::from(args.batch_records));
    if raw > protocol::limit::RECORD_BYTES_MAX_DEFAULT as u64 * 8 || args.record_bytes.0 > 1 << 20 {
        bail!("a record has at most 1 MiB, and a batch 8 MiB: less --record-bytes or --batch-records");
    }
    Ok(())
}

async fn status(client: &Client) -> anyhow::Result<std::collections::BTreeMap<String, f64>> {
    match client.call(Call::Status {}).await? {
        Reply::Status(status) => Ok(status),
        other => Err(unexpected(&other)),
    }
}

async fn measure(args: &BenchArgs, target: &Target, client: &Client) -> anyhow::Result<Report> {
    let clock = Clock::start();
    let mut writers = Vec::new();
    for index in 0..args.writers {
        let plan = Plan {
            stream: args.stream.clone(),
            index,
            batch_records: args.batch_records,
            record_bytes: usize::try_from(args.record_bytes.0)?,
            in_flight: args.in_flight as usize,
            codec: codec(args.codec),
        };
        writers.push(Writer::connect(target, plan, clock).await?);
    }
    let before = status(client).await?;
    let started = clock.mono();
    let until = started.plus_millis(u64::from(args.seconds) * 1000);
    let mut tasks = JoinSet::new();
    writers.into_iter().for_each(|writer| drop(tasks.spawn(writer.run(until))));
    let bar = out::progress(Some(u64::from(args.seconds)), "{bar:40} {pos}/{len} s  {msg}");
    let watch = tokio::spawn(watch(client.clone(), bar.clone(), clock, args.seconds));
    let mut tally = Tally::new();
    while let Some(done) = tasks.join_next().await {
        tally.add(&done.context("a writer broke")??);
    }
    let seconds = clock.mono().since(started).as_secs_f64();
    watch.abort();
    bar.finish_and_clear();
    let after = status(client).await?;
    Ok(report(args, &tally, seconds, &before, &after))
}

async fn watch(client: Client, bar: indicatif::ProgressBar, clock: Clock, seconds: u32) {
    if bar.is_hidden() {
        return;
    }
    let start = clock.mono();
    let mut last = (start, 0.0);
    for second in 1..=u64::from(seconds) {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let Ok(now) = status(&client).await else { return };
        let stored = now.get("records_stored_total").copied().unwrap_or(0.0);
        let at = clock.mono();
        if second > 1 {
            let rate = (stored - last.1) / at.since(last.0).as_secs_f64();
            bar.set_message(format!("{rate:.0} records/s"));
        }
        last = (at, stored);
        bar.set_position(second);
    }
}

fn codec(name: CodecName) -> Codec {
    match name {
        CodecName::None => Codec::None,
        CodecName::Lz4 => Codec::Lz4,
        CodecName::Zstd => Codec::Zstd,
    }
}

type Status = std::collections::BTreeMap<String, f64>;

fn report(args: &BenchArgs, tally: &Tally, seconds: f64, before: &Status, after: &Status) -> Report {
    let cpu = |status: &Status| status.get("process_cpu_seconds").copied();
    let ms = |quantile: f64| micros(&tally.latency, quantile) / 1000.0;
    Report {
        writers: args.writers,
        batch_records: args.batch_records,
        record_bytes: args.record_bytes.0,
        in_flight: args.in_flight,
        codec: format!("{:?}", args.codec).to_lowercase(),
        fsync: args.fsync.to_string(),
        shards: args.shards,
        seconds,
        records: tally.records,
        records_per_second: tally.records as f64 / seconds,
        megabytes_per_second: (tally.records * args.record_bytes.0) as f64 / 1e6 / seconds,
        ack_ms_p50: ms(0.5),
        ack_ms_p99: ms(0.99),
        ack_ms_p999: ms(0.999),
        ack_ms_max: ms(1.0),
        retried_batches: tally.retried,
        store_cpu_seconds: cpu(after).zip(cpu(before)).map(|(after, before)| after - before),
        store_rss_bytes: after.get("process_rss_bytes").copied(),
        machine: None,
    }
}

fn micros(latency: &Histogram<u64>, quantile: f64) -> f64 {
    latency.value_at_quantile(quantile) as f64
}

fn text(report: &Report) -> String {
    let cpu = report.store_cpu_seconds.map_or_else(
        || "not told".to_owned(),
        |cpu| format!("{cpu:.2} s ({:.2} µs a record)", cpu * 1e6 / report.records.max(1) as f64),
    );
    let machine =
        report.machine.map_or_else(String::new, |machine| format!("machine     {}\n", machine.text()));
    let rss = report.store_rss_bytes.map_or_else(|| "not told".to_owned(), |rss| show_bytes(rss as u64));
    format!(
        "{} writers, {} record(s) of {} in a batch, {} in flight, codec {}, fsync {}, {} shards, {:.1} s\n\n\
         records     {:>12.0} /s\ndata        {:>12.1} MB/s\nack p50     {:>12.2} ms\nack p99     {:>12.2} ms\n\
         ack p99.9   {:>12.2} ms\nack max     {:>12.2} ms\nretried     {:>12} batches\nstore CPU   {cpu}\n\
         store RSS   {rss}\n{machine}",
        report.writers,
        report.batch_records,
        show_bytes(report.record_bytes),
        report.in_flight,
        report.codec,
        report.fsync,
        report.shards,
        report.seconds,
        report.records_per_second,
        report.megabytes_per_second,
        report.ack_ms_p50,
        report.ack_ms_p99,
        report.ack_ms_p999,
        report.ack_ms_max,
        report.retried_batches,
    )
}

/// A store that lives as long as the measurement.
struct Spawned {
    dir: tempfile::TempDir,
    child: std::process::Child,
}

impl Spawned {
    async fn start() -> anyhow::Result<Spawned> {
        // Here, not where the system keeps temporary files: that is often memory, which proves nothing.
        let dir = tempfile::Builder::new()
            .prefix("kinesin-bench-")
            .tempdir_in(".")
            .context("can't make a temporary folder here")?;
        let child = std::process::Command::new(std::env::current_exe()?)
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(dir.path().join("data"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("can't start a store")?;
        let mut spawned = Spawned { dir, child };
        let clock = Clock::start();
        let file = endpoint_file(&spawned.data());
        while !file.exists() {
            if let Some(status) = spawned.child.try_wait()? {
                bail!("the store that was started ended at once ({status})");
            }
            if clock.mono().since(protocol::time::Mono::ZERO) > SPAWN_TIMEOUT {
                bail!("the store that was started does not answer");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(spawned)
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    async fn stop(mut self) {
        let ended = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = ended {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        for _ in 0..500 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
