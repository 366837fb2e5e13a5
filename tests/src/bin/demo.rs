//! `cargo demo`: see `tests/src/demo/mod.rs`. Only the command line is in here.

use std::process::ExitCode;

use tests::demo::{Plan, run};

const HELP: &str = "\
cargo demo [--once] [--seconds N] [--trucks N] [--per-second N] [--cut-seconds N] [--dir DIR]

A store with TLS, an MQTT broker and a fleet of trucks with agents, all in one process. Half way the network is cut;
at the end a ledger says whether everything arrived, once and in order. Exit code 0 only if it did.

  --once           end by itself after --seconds; otherwise Ctrl-C ends it
  --seconds N      how long data is made (60)
  --trucks N       how many trucks (24)
  --per-second N   messages, and lines, of each truck a second (50)
  --cut-seconds N  how long the network is cut (5)
  --dir DIR        where everything is kept; emptied at the start (target/demo)
";

fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Plan>, String> {
    let mut plan = Plan::default();
    while let Some(word) = words.next() {
        let mut number = || {
            let value = words.next().and_then(|text| text.parse::<u32>().ok()).filter(|n| *n > 0);
            value.ok_or(format!("{word} wants a number above 0"))
        };
        match word.as_str() {
            "--once" => plan.once = true,
            "--seconds" => plan.seconds = number()?.into(),
            "--trucks" => plan.trucks = number()?,
            "--per-second" => plan.per_second = number()?,
            "--cut-seconds" => plan.cut_seconds = number()?.into(),
            "--dir" => plan.dir = words.next().ok_or("--dir wants a folder")?.into(),
            "--help" | "-h" => return Ok(None),
            other => return Err(format!("unknown option {other}; --help shows all")),
        }
    }
    Ok(Some(plan))
}

/// The first Ctrl-C ends the demo in order; whoever does not want to wait presses it again.
async fn interrupted_twice() {
    for _ in 0..2 {
        let _ = tokio::signal::ctrl_c().await;
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let plan = match parse(std::env::args().skip(1)) {
        Ok(Some(plan)) => plan,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(why) => {
            eprintln!("demo: {why}");
            return ExitCode::from(2);
        }
    };
    let result = tokio::select! {
        result = run(plan) => result,
        () = interrupted_twice() => Err("ended at once, without a ledger".into()),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}
