//! `kinesin check`: proves the invariants of a data folder that no store has open. What is checked, and how, is
//! in [`crate::check`].

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use super::out;
use crate::check::{self, Finding, Report, Severity};
use crate::config::show_bytes;

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// Data folder of a store that is not running.
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The same.
    #[arg(long, env = "KINESIN_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Make anew what is derived from the logs and wrong. Records are never touched.
    #[arg(long)]
    repair: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: CheckArgs) -> anyhow::Result<()> {
    let dir = args.dir.or(args.data).context("which folder? Give DIR, or set KINESIN_DATA")?;
    let bar = out::progress(None, "{spinner} {msg}");
    let report = check::run(&dir, args.repair, &mut |done, all| {
        bar.set_message(format!("{} of {} checked", show_bytes(done), show_bytes(all)));
        bar.tick();
    });
    bar.finish_and_clear();
    let report = report.map_err(anyhow::Error::new)?;
    if args.json {
        let mut value = serde_json::to_value(&report)?;
        value["clean"] = report.is_clean().into();
        out::print_json(&value)?;
    } else {
        out::print(&text(&report))?;
    }
    let open = report.findings.iter().filter(|finding| is_open(finding)).count();
    if open > 0 {
        anyhow::bail!("{}: {open} findings are not as they should be", dir.display());
    }
    Ok(())
}

fn is_open(finding: &Finding) -> bool {
    !finding.repaired && finding.severity != Severity::Note
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        let word = match finding.severity {
            Severity::Loss => "DAMAGED",
            Severity::Derived if finding.repaired => "repaired",
            Severity::Derived => "derived",
            Severity::Note => "note",
        };
        text += &format!("{word:<8}  {}: {}\n", finding.place, finding.what);
    }
    let verdict = if report.is_clean() { "clean" } else { "NOT CLEAN" };
    text + &format!(
        "{verdict}: {} streams, {} segments, {} frames, {} records, {} read\n",
        report.streams,
        report.segments,
        report.frames,
        report.records,
        show_bytes(report.bytes)
    )
}
