//! What the store's engine is asked besides the main job: readers of compressed batches, readers beside a producer, many
//! shards, a writer that waits for each answer, starts with much data and many shards, and what is written to the disk for
//! each byte that is kept. Real
//! processes on this machine. It prints figures and judges nothing.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use protocol::compress::Codec;
use protocol::frame::Frame;
use protocol::name::StreamName;
use protocol::native::call::Call;
use protocol::sequence::{SequenceNumber, ShardId};
use protocol::stream::{StartingPosition, StreamConfig};
use store::client::{Client, Target};
use store::yardstick::Yardstick;

use super::load::{Load, Made, median_ms};
use super::{Figures, Plan, Rig, id_of, mebibytes, megabytes};
use crate::clock;
use crate::harness::process::Process;

/// Bytes of log in a batch: what an agent makes.
const BATCH_RAW_BYTES: usize = 1 << 20;
const READERS: usize = 8;
/// Of a producer alone and beside them.
const PAIRS: usize = 7;
const SHARDS: u32 = 512;
/// Of a lone writer and of the disk beside it, in turns.
const TURNS: u32 = 12;
const READ_BYTES: u32 = 8 << 20;

fn line(name: &str, value: String) -> (String, String) {
    (name.to_owned(), value)
}

fn machine(dir: &Path) -> io::Result<(String, String)> {
    Ok(line("this machine", Yardstick::measure(dir)?.text()))
}

impl Rig {
    async fn create(&self, name: &str, shards: u32) -> io::Result<StreamName> {
        let name = StreamName::new(name).map_err(io::Error::other)?;
        let config = StreamConfig { shard_rate: None, ..StreamConfig::default() };
        let create = Call::CreateStream { name: name.clone(), shards, config };
        self.client.call(create).await.map_err(io::Error::other)?;
        Ok(name)
    }

    /// Fills the stream with so many bytes of log, lz4. Returns how long it took.
    async fn fill(&self, bytes: u64, made: &Made) -> io::Result<Duration> {
        let (batches, begin) = (bytes / made.raw_bytes(), clock::now());
        // Another producer each time: the first batch of one that is known would be a duplicate.
        let id = 1 + u128::from(clock::unix_ms());
        let mut load = Load::connect(&self.store, &self.name, id, made).await?;
        load.run(8, |sent| sent < batches).await?;
        Ok(clock::now().duration_since(begin))
    }

    fn process(&self) -> io::Result<&Process> {
        self.store.process.as_ref().ok_or_else(|| io::Error::other("the store is not running"))
    }
}

/// Counts raw bytes of a shard's batches, from the beginning, until it is told to stop or there is nothing more.
async fn read(
    client: &Client,
    name: &StreamName,
    stop: &AtomicBool,
    raw: &AtomicU64,
    follow: bool,
) -> io::Result<u64> {
    let (mut from, mut bytes) = (SequenceNumber(0), 0);
    while !stop.load(Ordering::Relaxed) {
        let wait_ms = if follow { 100 } else { 0 };
        let at = StartingPosition::At(from);
        let read = client.read(name, ShardId(0), at, READ_BYTES, wait_ms).await.map_err(io::Error::other)?;
        let mut rest = read.frames();
        bytes += rest.len() as u64;
        while !rest.is_empty() {
            // Checks both checksums.
            let (frame, after) = Frame::parse_first(rest).map_err(io::Error::other)?;
            raw.fetch_add(u64::from(frame.header.raw_len), Ordering::Relaxed);
            rest = after;
        }
        from = read.head.next;
        if !follow && from >= read.head.tail {
            break;
        }
    }
    Ok(bytes)
}

/// One consumer that takes compressed batches as they are, from the page cache.
///
/// # Errors
/// When a program does not work.
pub async fn reads(plan: &Plan) -> io::Result<Figures> {
    let rig = Rig::start(&plan.dir).await?;
    let made = Made::of_lines(BATCH_RAW_BYTES, Codec::Lz4);
    let took = rig.fill(plan.bytes, &made).await?;
    let machine = machine(&plan.dir)?;
    let mut rates = Vec::new();
    let mut stored = 0;
    for _ in 0..3 {
        let (raw, begin) = (AtomicU64::new(0), clock::now());
        stored = read(&rig.client, &rig.name, &AtomicBool::new(false), &raw, false).await?;
        let seconds = clock::now().duration_since(begin).as_secs_f64();
        rates.push(megabytes(raw.into_inner()) / seconds);
    }
    rates.sort_unstable_by(f64::total_cmp);
    let ratio = made.raw_bytes() as f64 / made.frame_bytes() as f64;
    let fill = megabytes(plan.bytes) / took.as_secs_f64();
    Ok(vec![
        machine,
        line("lz4 batches, one producer", format!("{fill:.0} MB/s of log, {:.0} MB/s stored", fill / ratio)),
        line(
            "one consumer, checksums",
            format!(
                "{:.0} MB/s of log ({:.0} MB/s of lz4, {:.0} MB in all), best of 3 {:.0}",
                rates[1],
                rates[1] / ratio,
                megabytes(stored),
                rates[2]
            ),
        ),
    ])
}

/// How a producer does alone and beside eight consumers of its shard.
///
/// # Errors
/// When a program does not work.
pub async fn consumers(plan: &Plan) -> io::Result<Figures> {
    let rig = Rig::start(&plan.dir).await?;
    let made = Made::of_lines(BATCH_RAW_BYTES / 16, Codec::Lz4);
    let mut figures = vec![machine(&plan.dir)?];
    let mut load = Load::connect(&rig.store, &rig.name, 1, &made).await?;
    let part = Duration::from_secs(plan.seconds);
    // 16 MB/s of log: as much as sixteen shards of Kinesis.
    let every = Duration::from_secs_f64(made.raw_bytes() as f64 / 16e6);
    for is_paced in [true, false] {
        let mut delays = [Vec::new(), Vec::new()];
        let mut rates = [Vec::new(), Vec::new()];
        for round in 0..2 * PAIRS {
            // Alone, with, with, alone: what else the machine does meets both.
            let place = (round + round / 2) % 2;
            let crowd = Crowd::start(&rig, place * READERS).await?;
            load.delays.clear();
            let (begin, until) = (clock::now(), clock::now() + part);
            if is_paced {
                load.run_paced(every, until).await?;
            } else {
                load.run(8, |_| clock::now() < until).await?;
            }
            let seconds = clock::now().duration_since(begin).as_secs_f64();
            rates[place].push(load.delays.len() as f64 * made.raw_bytes() as f64 / 1e6 / seconds);
            delays[place].push(median_ms(&load.delays));
            crowd.stop().await?;
        }
        let name = if is_paced { "at 16 MB/s" } else { "as fast as it goes" };
        figures.push(line(name, beside(&rates, &delays)));
    }
    Ok(figures)
}

/// In pairs that came one after the other: the machine is not as fast from minute to minute.
fn beside(rates: &[Vec<f64>; 2], delays: &[Vec<f64>; 2]) -> String {
    let sorted = |mut all: Vec<f64>| {
        all.sort_unstable_by(f64::total_cmp);
        all
    };
    let middle = |all: &[f64]| sorted(all.to_vec()).get(all.len() / 2).copied().unwrap_or(0.0);
    let ratios = sorted(rates[0].iter().zip(&rates[1]).map(|(alone, with)| with / alone).collect());
    format!(
        "alone {:.0} MB/s, ack p50 {:.2} ms; with {READERS} consumers {:.0} MB/s, {:.2} ms: {:.2} times ({:.2} to {:.2}, {PAIRS} \
         pairs) and {:.2} times",
        middle(&rates[0]),
        middle(&delays[0]),
        middle(&rates[1]),
        middle(&delays[1]),
        middle(&ratios),
        ratios.first().copied().unwrap_or(0.0),
        ratios.last().copied().unwrap_or(0.0),
        middle(&delays[1]) / middle(&delays[0])
    )
}

/// Consumers of the one shard, each with a connection of its own, at its end. On threads of their own, as other programs
/// would be.
struct Crowd {
    threads: Option<tokio::runtime::Runtime>,
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<io::Result<()>>>,
}

impl Crowd {
    async fn start(rig: &Rig, readers: usize) -> io::Result<Crowd> {
        // Consumers are elsewhere, mostly: here they leave the producer what it needs of the two cores that all share.
        let threads = tokio::runtime::Builder::new_multi_thread()
            .on_thread_start(|| {
                let _ = rustix::process::setpriority_process(None, 10);
            })
            .enable_all()
            .build()?;
        let spawner = threads.handle().clone();
        let mut crowd = Crowd { threads: Some(threads), stop: Arc::default(), tasks: Vec::new() };
        for _ in 0..readers {
            let data = rig.store.data.clone();
            let client = spawner.spawn(async move {
                let target = Target::of_data_dir(&data).map_err(io::Error::other)?;
                Client::connect(&target).await.map_err(io::Error::other)
            });
            let (client, name, stop) = (client.await??, rig.name.clone(), Arc::clone(&crowd.stop));
            let mut from = StartingPosition::Latest;
            crowd.tasks.push(spawner.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let read = client.read(&name, ShardId(0), from, READ_BYTES, 100).await;
                    from = StartingPosition::At(read.map_err(io::Error::other)?.head.next);
                }
                Ok(())
            }));
        }
        Ok(crowd)
    }

    async fn stop(mut self) -> io::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks.drain(..) {
            task.await.map_err(io::Error::other)??;
        }
        Ok(())
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
    }
}

/// A lone producer's commits of 512 records: to one shard, and one to each of 512.
///
/// # Errors
/// When a program does not work.
pub async fn shards(plan: &Plan) -> io::Result<Figures> {
    let rig = Rig::start(&plan.dir).await?;
    let mut figures = vec![machine(&plan.dir)?];
    let made = Made::spread(SHARDS, 1024);
    let one = rig.create("one", 1).await?;
    let many = rig.create("many", SHARDS).await?;
    let mut loads = Vec::new();
    for name in [&one, &many] {
        loads.push(Load::connect(&rig.store, name, 1, &made).await?);
    }
    for round in 0..6 {
        let until = clock::now() + Duration::from_secs(plan.seconds);
        loads[round % 2].run(1, |_| clock::now() < until).await?;
    }
    let [one, many] = [median_ms(&loads[0].delays), median_ms(&loads[1].delays)];
    figures.push(line(
        "commit of 512 x 1 KiB",
        format!("one shard p50 {one:.2} ms, {SHARDS} shards p50 {many:.2} ms: {:.2} times", many / one),
    ));
    Ok(figures)
}

/// A writer that waits for each answer before it sends the next record, in turns with a file beside the store's that the same
/// bytes are appended to, each synced: what the network, TLS and the store add to the disk.
///
/// # Errors
/// When a program does not work.
pub async fn lone(plan: &Plan) -> io::Result<Figures> {
    let rig = Rig::start(&plan.dir).await?;
    let made = Made::spread(1, 1024);
    let name = rig.create("lone", 1).await?;
    let mut load = Load::connect(&rig.store, &name, 1, &made).await?;
    let mut beside = File::options().create(true).append(true).open(plan.dir.join("beside"))?;
    let turn = Duration::from_secs(plan.seconds) / 6;
    let (mut disk, mut answers, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TURNS {
        let alone = synced(&mut beside, &vec![7; made.frame_bytes() as usize], clock::now() + turn)?;
        let until = clock::now() + turn;
        // On a worker, which is told of the answer first.
        let writing = tokio::spawn(async move { load.run(1, |_| clock::now() < until).await.map(|()| load) });
        load = writing.await.map_err(io::Error::other)??;
        let answered = std::mem::take(&mut load.delays);
        ratios.push(median_ms(&answered) / median_ms(&alone));
        disk.extend(alone);
        answers.extend(answered);
    }
    ratios.sort_by(f64::total_cmp);
    let [disk, answer] = [median_ms(&disk), median_ms(&answers)];
    let [least, half, most] = [ratios[0], ratios[ratios.len() / 2], ratios[ratios.len() - 1]];
    Ok(vec![
        machine(&plan.dir)?,
        line("append and fdatasync", format!("p50 {disk:.3} ms of {} bytes", made.frame_bytes())),
        line("a record of 1 KiB, alone", format!("ack p50 {answer:.3} ms: {:.2} times", answer / disk)),
        line("... turn by turn", format!("{half:.2} times (of {TURNS}: {least:.2} to {most:.2})")),
    ])
}

/// How long it takes to append bytes to a file and to sync it, again and again until then.
fn synced(file: &mut File, bytes: &[u8], until: Instant) -> io::Result<Vec<Duration>> {
    let mut took = Vec::new();
    while clock::now() < until {
        let begin = clock::now();
        file.write_all(bytes)?;
        file.sync_data()?;
        took.push(clock::now().duration_since(begin));
    }
    Ok(took)
}

/// Kills the store and starts it again: how long until it answers, and how much memory it takes.
async fn start_again(rig: &mut Rig) -> io::Result<String> {
    let mut times = Vec::new();
    for _ in 0..3 {
        rig.store.kill()?;
        let begin = clock::now();
        rig.store.up().await?;
        times.push(clock::now().duration_since(begin));
    }
    times.sort_unstable();
    rig.client = rig.store.client().await?;
    let memory = rig.process()?.memory_bytes("VmRSS");
    Ok(format!(
        "{:.0} ms until it answers (of 3: {:.0} at most), {:.1} MiB RSS",
        times[1].as_secs_f64() * 1e3,
        times[2].as_secs_f64() * 1e3,
        mebibytes(memory)
    ))
}

/// Starts after kill -9: with little and with much data, with many segments, with 10,000 shards.
///
/// # Errors
/// When a program does not work.
pub async fn starts(plan: &Plan) -> io::Result<Figures> {
    let mut figures = Vec::new();
    let made = Made::of_lines(BATCH_RAW_BYTES, Codec::None);
    let mut rig = Rig::start(&plan.dir).await?;
    figures.push(machine(&plan.dir)?);
    figures.push(line("nothing kept", start_again(&mut rig).await?));
    let mut kept = 0;
    for bytes in [plan.bytes / 20, plan.bytes] {
        rig.fill(bytes - kept, &made).await?;
        kept = bytes;
        figures.push(line(&format!("{:.0} MB kept", megabytes(kept)), start_again(&mut rig).await?));
    }
    drop(rig);
    // As many segments as 1 TB has by default (64 MiB each), but small ones.
    let mut rig = Rig::start_with(&plan.dir, &["--segment-bytes", "64KiB"]).await?;
    let small = Made::of_lines(64 << 10, Codec::None);
    rig.fill(small.raw_bytes() * 14_902, &small).await?;
    figures.push(line("segments of 1 TB (14,902)", start_again(&mut rig).await?));
    drop(rig);
    let mut rig = Rig::start(&plan.dir).await?;
    for n in 0..10 {
        rig.create(&format!("stream-{n}"), 1000).await?;
    }
    figures.push(line("10 streams of 1,000 shards", start_again(&mut rig).await?));
    rig.create("large", 10_000).await?;
    figures.push(line("another of 10,000 shards", start_again(&mut rig).await?));
    Ok(figures)
}

/// Bytes that a process gave to disks, by proc(5).
fn written_bytes(process: &Process) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{}/io", process.id())).unwrap_or_default();
    let found = text.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok());
    found.unwrap_or_default()
}

fn folder_bytes(dir: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        sum += if meta.is_dir() { folder_bytes(&entry.path())? } else { meta.len() };
    }
    Ok(sum)
}

/// What is on the disk, and what was written to it, for each byte of a batch: as fast as it goes, and for a device whose
/// log grows by a megabyte a second.
///
/// # Errors
/// When a program does not work.
pub async fn wear(plan: &Plan) -> io::Result<Figures> {
    let rig = Rig::start(&plan.dir).await?;
    let mut figures = vec![machine(&plan.dir)?];
    let made = Made::of_lines(BATCH_RAW_BYTES, Codec::Lz4);
    rig.fill(plan.bytes, &made).await?;
    let stored = (plan.bytes / made.raw_bytes() * made.frame_bytes()) as f64;
    let folder = folder_bytes(&rig.store.data)? as f64;
    let device = written_bytes(rig.process()?);
    figures.push(line(
        "batches of 1 MiB of log",
        format!("{:.3} bytes on disk, {:.3} written per stored byte", folder / stored, device / stored),
    ));
    drop(rig);
    let rig = Rig::start(&plan.dir).await?;
    std::fs::write(plan.dir.join("logs/app.log"), b"first\n")?;
    let agent = rig.agent(&plan.dir, "\n[batch]\ncodec = \"lz4\"\n")?;
    rig.wait_for(1).await?;
    let stored = rig.status("log_bytes_written_total").await;
    let before = [written_bytes(rig.process()?), written_bytes(id_of(&agent)?)];
    let folder = folder_bytes(&rig.store.data)? as f64;
    let lines = append_slowly(&plan.dir, plan.seconds * 10)?;
    rig.wait_for(1 + lines).await?;
    let stored = rig.status("log_bytes_written_total").await - stored;
    let folder = folder_bytes(&rig.store.data)? as f64 - folder;
    let [store, agent] =
        [written_bytes(rig.process()?) - before[0], written_bytes(id_of(&agent)?) - before[1]];
    let days = plan.seconds as f64 * 10.0 / 86_400.0;
    figures.push(line(
        "a device of 1 MB/s of log",
        format!(
            "{:.2} GB a day stored; the store writes {:.2} GB a day ({:.2} per stored byte, {:.3} kept), the agent {:.2} GB",
            stored / 1e9 / days,
            store / 1e9 / days,
            store / stored,
            folder / stored,
            agent / 1e9 / days
        ),
    ));
    Ok(figures)
}

/// A tenth of a megabyte of log every tenth of a second. Returns lines.
fn append_slowly(dir: &Path, seconds: u64) -> io::Result<u64> {
    use std::io::Write;
    let mut file = std::fs::File::options().append(true).open(dir.join("logs/app.log"))?;
    let mut lines = crate::harness::corpus::Corpus::access(1).lines();
    let (begin, mut count) = (clock::now(), 0);
    for tenth in 1..=seconds * 10 {
        let mut text = Vec::new();
        while text.len() < 100_000 {
            lines.next_into(&mut text);
            text.push(b'\n');
            count += 1;
        }
        file.write_all(&text)?;
        let due = begin + Duration::from_millis(100) * u32::try_from(tenth).unwrap_or(u32::MAX);
        clock::sleep(due.saturating_duration_since(clock::now()));
    }
    Ok(count)
}
