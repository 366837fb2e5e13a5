//! `kinesin check`: proves the invariants of a data folder that no store has open.

use std::path::PathBuf;

use clap::Args;

use super::out;
use crate::check::{self, Report, Severity};
use crate::config::show_bytes;

/// Arguments of `kinesin check`.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The data folder; no store may have it open.
    #[arg(env = "KINESIN_DATA", value_name = "DIR")]
    dir: PathBuf,
    /// Writes anew what is derived and wrong. Damaged records stay as they are, and are stepped over by readers.
    #[arg(long)]
    repair: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Checks; an error where records can't be read or something is left to repair.
pub(super) fn run(args: &CheckArgs) -> anyhow::Result<()> {
    let bar = out::progress(Some(0), "{bytes} of {total_bytes} read {wide_bar} {eta}");
    let report = check::run(&args.dir, args.repair, &mut |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    if args.json {
        out::print(&(serde_json::to_string_pretty(&report)? + "\n"))?;
    } else {
        out::print(&text(args, &report))?;
    }
    let bad = report.findings.iter().filter(|f| !f.repaired && f.severity != Severity::Note).count();
    match bad {
        0 => Ok(()),
        1 => anyhow::bail!("{}: 1 finding", args.dir.display()),
        _ => anyhow::bail!("{}: {bad} findings", args.dir.display()),
    }
}

fn text(args: &CheckArgs, report: &Report) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        let severity = match finding.severity {
            Severity::Loss => "LOSS",
            Severity::Derived => "derived",
            Severity::Note => "note",
        };
        let repaired = if finding.repaired { " (put right)" } else { "" };
        text += &format!("{severity:<8} {}: {}{repaired}\n", finding.place, finding.what);
    }
    let lost = report.findings.iter().any(|f| f.severity == Severity::Loss);
    let verdict = if lost {
        "some records can't be read; everything else can"
    } else if report.is_clean() {
        "everything is whole"
    } else {
        "all records are whole; run again with --repair"
    };
    text + &format!(
        "{}: {} streams, {} segments, {} batches, {} records, {} read: {verdict}\n",
        args.dir.display(),
        report.streams,
        report.segments,
        report.frames,
        report.records,
        show_bytes(report.bytes),
    )
}
