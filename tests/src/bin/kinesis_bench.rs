//! `cargo run --release -p tests --bin kinesis_bench`: the benchmark of the Kinesis API, see
//! `tests/src/kinesis_bench.rs`. Only the command line is in here.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tests::bench::Figures;
use tests::kinesis_bench::{Plan, ours, peer};

const HELP: &str = "\
cargo build --release && cargo run --release -p tests --bin kinesis_bench -- [OPTION...]

The same requests to `kinesin serve` and to other servers of the Kinesis API, over plain HTTP/1.1 on this machine.
Ours answers after fdatasync; the peers keep everything in memory. Those that are not installed are left out:
  npm install --prefix target/peers kinesalite
  python3 -m venv target/peers/venv && target/peers/venv/bin/pip install 'moto[server]'

  --seconds N     how long each part takes (5)
  --records N     records of a PutRecords (500)
  --bytes N       bytes of a record (1024)
  --shards N      shards, and connections that read (8)
  --no-peers      ours only
  --dir DIR       where everything is kept; emptied first (target/kinesis-bench-data)
";

fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<(Plan, bool)>, String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/kinesis-bench-data");
    let mut plan = Plan { dir, seconds: 5, records: 500, record_bytes: 1024, shards: 8 };
    let mut peers = true;
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} wants a value"));
        let number = |text: String| text.parse().map_err(|_| format!("{word} wants a number"));
        match word.as_str() {
            "--seconds" => plan.seconds = number(value()?)? as u64,
            "--records" => plan.records = number(value()?)?,
            "--bytes" => plan.record_bytes = number(value()?)?,
            "--shards" => plan.shards = number(value()?)?,
            "--dir" => plan.dir = value()?.into(),
            "--no-peers" => peers = false,
            "--help" | "-h" => return Ok(None),
            other => return Err(format!("unknown {other}; --help shows all")),
        }
    }
    Ok(Some((plan, peers)))
}

fn show(name: &str, figures: std::io::Result<Figures>) -> bool {
    println!("{name}");
    match figures {
        Ok(figures) => figures.iter().for_each(|(what, value)| println!("  {what:28} {value}")),
        Err(error) => {
            println!("  failed: {error}");
            return false;
        }
    }
    true
}

fn peers() -> Vec<(&'static str, Vec<String>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/peers");
    let known: [(&str, PathBuf, &[&str]); 2] = [
        (
            "kinesalite",
            root.join("node_modules/.bin/kinesalite"),
            &["--port", "{port}", "--shardLimit", "100"],
        ),
        ("moto", root.join("venv/bin/moto_server"), &["-p", "{port}"]),
    ];
    known
        .into_iter()
        .filter(|(_, program, _)| program.exists())
        .map(|(name, program, words)| {
            let program = program.display().to_string();
            (name, std::iter::once(program).chain(words.iter().map(|word| (*word).to_owned())).collect())
        })
        .collect()
}

#[tokio::main]
async fn main() -> ExitCode {
    let (plan, with_peers) = match parse(std::env::args().skip(1)) {
        Ok(Some(parsed)) => parsed,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(why) => {
            eprintln!("kinesis_bench: {why}");
            return ExitCode::FAILURE;
        }
    };
    let mut good = show("kinesin", ours(&plan).await);
    if with_peers {
        for (name, command) in peers() {
            good &= show(name, peer(&plan, name, &command));
        }
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
