//! The command line: the server, and the operator's commands, which are clients like any other. The doc comments
//! of the arguments are the help that users read. Never in here: what a stream is.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use protocol::native::url::StoreUrl;

use crate::client::{Client, ClientError, Target};

mod api;
mod bench;
mod check;
mod consumer;
mod enroll;
mod marks;
mod out;
#[cfg(feature = "openh264")]
mod picture;
mod put;
mod serve;
mod status;
mod stream;
mod tail;
mod video;

/// Kinesin: ordered, durable streams of records behind one TLS port.
#[derive(Debug, Parser)]
#[command(name = "kinesin", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a store.
    Serve(serve::ServeArgs),
    /// Lets agents in.
    #[command(subcommand)]
    Agent(enroll::AgentCommand),
    /// Makes, shows, changes and removes streams.
    #[command(subcommand)]
    Stream(stream::StreamCommand),
    /// Registers, shows and removes consumers that have a read rate of their own.
    #[command(subcommand)]
    Consumer(consumer::ConsumerCommand),
    /// Does an operation of the Kinesis API as the operator.
    Api(api::ApiArgs),
    /// Puts records into a stream.
    Put(put::PutArgs),
    /// Prints the records of a stream, and those that come.
    Tail(tail::TailArgs),
    /// Puts, lists, shows and takes out video, frame by frame.
    #[command(subcommand)]
    Video(video::VideoCommand),
    /// Shows what a running store is doing.
    Status(status::StatusArgs),
    /// Proves that a data folder is whole; for a store that is not running.
    Check(check::CheckArgs),
    /// Measures a store: puts records as fast as it takes them.
    Bench(bench::BenchArgs),
    /// Decodes a picture for the store.
    #[cfg(feature = "openh264")]
    #[command(hide = true)]
    Picture(picture::PictureArgs),
}

/// Which store, and as whom.
#[derive(Debug, Clone, Args)]
struct StoreArgs {
    /// Data folder of a store on this machine; its address and the operator's certificate are in there.
    #[arg(long, env = "KINESIN_DATA", value_name = "DIR", help_heading = "Which store")]
    data: Option<PathBuf>,
    /// A store elsewhere, such as kinesin://store.example:4567; needs --ca, --cert and --cert-key.
    #[arg(long, env = "KINESIN_STORE", value_name = "URL", help_heading = "Which store")]
    store: Option<String>,
    /// The store's ca.pem.
    #[arg(long, env = "KINESIN_CA", value_name = "FILE", help_heading = "Which store")]
    ca: Option<PathBuf>,
    /// The operator's certificate: a copy of the store's admin.pem.
    #[arg(
        long,
        env = "KINESIN_CERT",
        value_name = "FILE",
        help_heading = "Which store",
        requires = "cert_key"
    )]
    cert: Option<PathBuf>,
    /// The operator's key: a copy of the store's admin.key.
    #[arg(
        long,
        env = "KINESIN_CERT_KEY",
        value_name = "FILE",
        help_heading = "Which store",
        requires = "cert"
    )]
    cert_key: Option<PathBuf>,
}

impl StoreArgs {
    fn target(&self) -> anyhow::Result<Target> {
        let Some(url) = &self.store else {
            let Some(dir) = &self.data else {
                anyhow::bail!(
                    "which store? Give --data DIR (or set KINESIN_DATA) for one on this machine, \
                     or --store URL with --ca, --cert and --cert-key"
                );
            };
            return Ok(Target::of_data_dir(dir)?);
        };
        let url = StoreUrl::parse(url)?;
        let in_data = |name: &str| self.data.as_ref().map(|dir| dir.join(name));
        let ca = self.ca.clone().or_else(|| in_data("ca.pem"));
        let ca = ca.context("--store needs --ca FILE: a copy of the store's ca.pem")?;
        let cert = self.cert.clone().or_else(|| in_data("admin.pem"));
        let key = self.cert_key.clone().or_else(|| in_data("admin.key"));
        let (Some(cert), Some(key)) = (cert, key) else {
            anyhow::bail!(
                "--store needs --cert FILE and --cert-key FILE: copies of the store's admin.pem and admin.key"
            );
        };
        Ok(Target::of_files(url, &ca, Some((&cert, &key)))?)
    }

    async fn connect(&self) -> anyhow::Result<Client> {
        Ok(Client::connect(&self.target()?).await?)
    }
}

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    // A wrong use of the command line ends here, with exit code 2.
    let cli = Cli::parse();
    #[cfg(feature = "openh264")]
    if let Command::Picture(args) = &cli.command {
        return picture::run(args);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("kinesin: can't start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(Box::pin(run(cli.command)));
    // Whatever still runs (a second signal, a broken store) must not keep the process.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kinesin: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve(args) => Box::pin(serve::run(args)).await,
        Command::Agent(command) => enroll::run(command).await,
        Command::Stream(command) => stream::run(command).await,
        Command::Consumer(command) => consumer::run(command).await,
        Command::Api(args) => api::run(args).await,
        Command::Put(args) => Box::pin(put::run(args)).await,
        Command::Tail(args) => Box::pin(tail::run(args)).await,
        Command::Video(command) => Box::pin(video::run(command)).await,
        Command::Status(args) => status::run(args).await,
        Command::Check(args) => check::run(args),
        Command::Bench(args) => Box::pin(bench::run(args)).await,
        #[cfg(feature = "openh264")]
        Command::Picture(_) => Ok(()),
    }
}

/// Whoever read our output has seen enough.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |e: &io::Error| e.kind() == io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref::<io::Error>().is_some_and(broken))
}

fn one_line(error: &anyhow::Error) -> String {
    format!("{error:#}").replace('\n', " ")
}

/// What a command did not expect the store to answer.
fn unexpected(reply: &protocol::native::call::Reply) -> anyhow::Error {
    ClientError::Nonsense(format!("{reply:?} is not what was asked for")).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_lines_of_the_readme_parse() {
        for line in [
            "kinesin serve --data data --listen 0.0.0.0:4567 --san store.example --segment-bytes 64MiB",
            "kinesin agent enroll truck-1 --ttl 1h --uses 1 --data data",
            "kinesin stream create logs --shards 4 --retention 24h --rate off --fsync 5ms --data data",
            "kinesin stream update logs --rate 1MiB/s,1000/s --data data",
            "kinesin stream split logs 0 --data data",
            "kinesin stream reshard logs 8 --data data",
            "kinesin stream tag logs fleet=north --remove old --data data",
            "kinesin stream policy logs --set @policy.json --data data",
            "kinesin stream encrypt logs --key alias/fleet --data data",
            "kinesin stream monitor logs --on ALL --data data",
            "kinesin consumer register logs dashboard --data data",
            "kinesin api ListShards {\"StreamName\":\"logs\"} --data data",
            "kinesin put logs hello world --key k --data data",
            "kinesin tail logs --from at-time=2026-11-20T12:00:00Z --shard 0 --shard 1 --json --data data",
            "kinesin bench --writers 64 --seconds 10 --spawn",
            "kinesin status --json --data data",
            "kinesin check data --repair --json",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
    }
}
