//! How fast the agent takes a file and how much processor time that costs, into a store that keeps nothing and
//! answers at once. `cargo run --release -p agent --example speed -- [MiB]`
#![expect(clippy::disallowed_methods, reason = "a benchmark: real files, real time")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::io::Write;
use std::time::{Duration, Instant};

use agent::Agent;
use common::{Behaviour, FILES, FakeStore, config};

fn cpu_of(thread: &str) -> f64 {
    let mut ticks = 0.0;
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        let (name, rest) = stat.split_once(')').unwrap_or_default();
        if name.contains(thread) {
            let fields: Vec<&str> = rest.split_whitespace().collect();
            ticks += fields[11].parse::<f64>().unwrap_or(0.0) + fields[12].parse::<f64>().unwrap_or(0.0);
        }
    }
    ticks / 100.0
}

fn main() {
    let mib: usize = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(512);
    let dir = tempfile::tempdir_in(".").unwrap();
    std::fs::create_dir(dir.path().join("logs")).unwrap();
    let mut out = std::io::BufWriter::new(std::fs::File::create(dir.path().join("logs/a.log")).unwrap());
    let (mut bytes, mut n) = (0usize, 0u64);
    while bytes < mib << 20 {
        let line = format!(
            "10.0.{}.{} - - [12/Mar/2026:10:{:02}:{:02} +0000] \"GET /api/v1/trucks/{}/telemetry?from={} HTTP/1.1\" 200 \
             {} \"https://example.org/fleet/{}\" \"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36\" rt={}\n",
            n % 255,
            n * 7 % 253,
            n / 60 % 60,
            n % 60,
            n * 31 % 997,
            n * 1_000_003 % 99_991,
            n * 17 % 4096,
            n % 20,
            n * 13 % 1000
        );
        bytes += line.len();
        n += 1;
        out.write_all(line.as_bytes()).unwrap();
    }
    out.flush().unwrap();
    drop(out);
    let store = FakeStore::start(dir.path(), Behaviour { keep_data: false, ..Behaviour::default() });
    let start = Instant::now();
    let agent = Agent::start(config(&store, dir.path(), FILES)).unwrap();
    while store.counts()[0] < n {
        std::thread::sleep(Duration::from_millis(2));
    }
    let took = start.elapsed().as_secs_f64();
    let (pipe, spool, link) = (cpu_of("agent-pipeline"), cpu_of("agent-spool"), cpu_of("agent-link"));
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let rss = status.lines().find(|l| l.starts_with("VmHWM")).unwrap_or_default();
    let (mb, cpu) = (bytes as f64 / 1e6, pipe + spool + link);
    println!("{n} lines, {mb:.0} MB in {took:.2} s: {:.0} MB/s", mb / took);
    println!(
        "agent CPU {cpu:.2} s (pipeline {pipe:.2}, spool {spool:.2}, link {link:.2}): {:.0} MB/CPU s",
        mb / cpu
    );
    println!("agent and store in one process: {rss}; {:?}", agent.stats());
    agent.stop();
}
