//! `kinesin status`: what a running store is doing.

use clap::Args;
use protocol::native::call::{Call, Reply};

use super::{StoreArgs, out, unexpected};

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: StoreArgs,
}

pub(super) async fn run(args: StatusArgs) -> anyhow::Result<()> {
    let client = args.store.connect().await?;
    let status = match client.call(Call::Status {}).await? {
        Reply::Status(status) => status,
        other => return Err(unexpected(&other)),
    };
    if args.json {
        return Ok(out::print_json(&status)?);
    }
    let mut table = out::Table::new(&["WHAT", "VALUE"]);
    // Refusals that never happened are of no interest.
    let silent = |name: &str, value: f64| name.starts_with("connections_closed_") && value == 0.0;
    for (name, value) in status.iter().filter(|(name, value)| !silent(name, **value)) {
        let shown = match name.as_str() {
            name if name.contains("bytes") => crate::config::show_bytes(*value as u64),
            _ if value.fract() == 0.0 => format!("{value:.0}"),
            _ => format!("{value:.2}"),
        };
        table.row(vec![name.clone(), shown]);
    }
    Ok(out::print(&table.text())?)
}
