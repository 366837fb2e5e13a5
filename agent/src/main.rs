//! The agent's process: arguments, signals, and the status file. Everything else is in the library.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use agent::log::Log;
use agent::{Agent, AgentHandle, Config, Snapshot};
use anyhow::{Context, Result, bail};

const HELP: &str = "\
Tails files and MQTT topics and forwards them to a Kinesin store.

usage: kinesin-agent --config FILE            run
       kinesin-agent --config FILE --check    read the configuration, say what is wrong, touch nothing
       kinesin-agent status --config FILE     what the running agent is doing, as JSON
       kinesin-agent --version | --help
";

#[derive(Debug, Default)]
struct Args {
    config: Option<PathBuf>,
    check: bool,
    status: bool,
}

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("kinesin-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let Some(args) = args(std::env::args().skip(1))? else { return Ok(ExitCode::SUCCESS) };
    let path = args.config.context("--config FILE is missing; see --help")?;
    let config = Config::load(&path)?;
    let status = config.spool.dir.join("status.json");
    if args.check {
        println!("{}: good", path.display());
        return Ok(ExitCode::SUCCESS);
    }
    if args.status {
        let text = std::fs::read_to_string(&status);
        print!("{}", text.with_context(|| format!("{}: is the agent running?", status.display()))?);
        return Ok(ExitCode::SUCCESS);
    }
    let log = Log::stderr();
    log.info(&format!("kinesin-agent {} starts as {}", env!("CARGO_PKG_VERSION"), config.agent_name()));
    let handle = Agent::start_with(config, log.clone())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let fatal = runtime.block_on(wait(&handle, &status, &log))?;
    // A second signal ends the process where it is: the spool is made for that.
    std::thread::spawn(move || {
        let _ = runtime.block_on(signal());
        exit_now();
    });
    let snapshot = handle.stats();
    handle.stop();
    let _ = write_status(&status, &snapshot);
    match fatal {
        Some(why) => bail!("{why}"),
        None => {
            log.info("stopped; what the store does not have is in the spool");
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn args(mut given: impl Iterator<Item = String>) -> Result<Option<Args>> {
    let mut args = Args::default();
    while let Some(arg) = given.next() {
        match arg.as_str() {
            "--config" | "-c" => args.config = Some(given.next().context("--config wants a file")?.into()),
            "--check" => args.check = true,
            "status" => args.status = true,
            "--version" | "-V" => {
                println!("kinesin-agent {}", env!("CARGO_PKG_VERSION"));
                return Ok(None);
            }
            "--help" | "-h" => {
                print!("{HELP}");
                return Ok(None);
            }
            other => bail!("{other:?} is not understood; see --help"),
        }
    }
    Ok(Some(args))
}

/// Until a signal (`None`) or the agent's own end (why).
async fn wait(handle: &AgentHandle, status: &Path, log: &Log) -> Result<Option<String>> {
    let mut every = tokio::time::interval(Duration::from_secs(2));
    let mut signalled = std::pin::pin!(signal());
    loop {
        tokio::select! {
            result = &mut signalled => {
                result?;
                log.info("stopping");
                return Ok(None);
            }
            _ = every.tick() => {
                let snapshot = handle.stats();
                if let Err(error) = write_status(status, &snapshot) {
                    log.warn("status", &format!("{}: {error}", status.display()));
                }
                if handle.has_ended() {
                    return Ok(Some(snapshot.fatal.unwrap_or_else(|| "the agent ended".to_owned())));
                }
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "asked for twice; nothing is lost that was acknowledged")]
fn exit_now() {
    std::process::exit(130);
}

async fn signal() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "for people, and made anew every second")]
fn write_status(file: &Path, snapshot: &Snapshot) -> std::io::Result<()> {
    let tmp = file.with_extension("tmp");
    let mut text = serde_json::to_string_pretty(snapshot)?;
    text.push('\n');
    std::fs::write(&tmp, text)?;
    std::fs::rename(&tmp, file)
}
