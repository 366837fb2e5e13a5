//! `cargo run --release -p tests --bin bench`: the benchmark of the main job, see `tests/src/bench.rs`. Only the
//! command line is in here.

use std::path::Path;
use std::process::ExitCode;

use tests::bench::{Figures, Plan, backlog, engine, latency, throughput};

const HELP: &str = "\
cargo build --release && cargo run --release -p tests --bin bench -- [PART...] [OPTION...]

Real processes on this machine: kinesin serve, kinesin-agent, TLS, fsync before every answer.
PART: throughput, backlog, latency; these where none is named. And of the store alone: reads, consumers, shards,
lone, starts, wear.

  --bytes N       bytes of log (1073741824)
  --codec NAME    lz4, zstd or none (lz4)
  --generated     make lines up even where real logs are there
  --lines N       lines for the latency (20000)
  --seconds N     how long each round of a comparison takes (3)
  --dir DIR       where everything is kept; emptied first (target/bench-data)
";

const PARTS: [&str; 9] =
    ["throughput", "backlog", "latency", "reads", "consumers", "shards", "lone", "starts", "wear"];

fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<(Plan, Vec<String>)>, String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench-data");
    let mut plan = Plan {
        dir,
        bytes: 1 << 30,
        codec: "lz4".to_owned(),
        generated: false,
        latency_lines: 20_000,
        seconds: 3,
    };
    let mut parts = Vec::new();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} wants a value"));
        match word.as_str() {
            "--bytes" => plan.bytes = value()?.parse().map_err(|_| "--bytes wants a number")?,
            "--lines" => plan.latency_lines = value()?.parse().map_err(|_| "--lines wants a number")?,
            "--seconds" => plan.seconds = value()?.parse().map_err(|_| "--seconds wants a number")?,
            "--codec" => plan.codec = value()?,
            "--dir" => plan.dir = value()?.into(),
            "--generated" => plan.generated = true,
            "--help" | "-h" => return Ok(None),
            name if PARTS.contains(&name) => parts.push(word),
            other => return Err(format!("unknown {other}; --help shows all")),
        }
    }
    if parts.is_empty() {
        parts = PARTS[..3].iter().map(|name| (*name).to_owned()).collect();
    }
    Ok(Some((plan, parts)))
}

async fn part(name: &str, plan: &Plan) -> std::io::Result<Figures> {
    match name {
        "throughput" => throughput(plan).await,
        "backlog" => backlog(plan).await,
        "latency" => latency(plan).await,
        "reads" => engine::reads(plan).await,
        "consumers" => engine::consumers(plan).await,
        "shards" => engine::shards(plan).await,
        "lone" => engine::lone(plan).await,
        "starts" => engine::starts(plan).await,
        _ => engine::wear(plan).await,
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let (plan, parts) = match parse(std::env::args().skip(1)) {
        Ok(Some(parsed)) => parsed,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(why) => {
            eprintln!("bench: {why}");
            return ExitCode::from(2);
        }
    };
    for name in parts {
        println!("{name}");
        match part(&name, &plan).await {
            Ok(figures) => figures.iter().for_each(|(name, value)| println!("  {name:<26} {value}")),
            Err(error) => {
                eprintln!("bench: {name}: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    let _ = std::fs::remove_dir_all(&plan.dir);
    ExitCode::SUCCESS
}
