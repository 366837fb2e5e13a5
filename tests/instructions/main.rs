//! What a record costs on each hot path, in instructions as `valgrind` counts them: the same on a busy machine and on an
//! idle one. Held against `tests/INSTRUCTIONS.md` within 5 %; `KINESIN_WRITE_INSTRUCTIONS=1` writes that page anew.

use std::process::{Command, Stdio};

use tests::harness::process::{binary, not_here, skip};
use tests::hot::{PATHS, RECORDS};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/INSTRUCTIONS.md");

const HEAD: &str = "# Instructions a record\n\nCounted by `valgrind --tool=callgrind` in the release build, batches and \
                    requests of 100 records of log (200 bytes each on\naverage; 150 in PutRecords). Held to 5 % by \
                    `cargo test -p tests --test instructions` (after `cargo build --release`, with `KINESIN_BIN_DIR`)\nwhere \
                    the compiler is the one that is named below; written anew by `KINESIN_WRITE_INSTRUCTIONS=1`.\n`valgrind` has no SHA \
                    instructions: on a CPU that does, a signature costs a fraction.\n\n";

/// Rounds of a long run; the start of the program is what the short one costs too.
const ROUNDS: [u32; 2] = [20, 120];

/// How far a figure may be from the page's.
const TOLERANCE: f64 = 0.05;

fn compiler() -> String {
    let output = Command::new("rustc").arg("-V").output().expect("rustc");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Instructions of a whole run; `None` where the program is not a release build.
fn count(place: usize, rounds: u32) -> Option<f64> {
    let program = binary("hot").expect("it was looked for");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args([place.to_string(), rounds.to_string()])
        .stdin(Stdio::null())
        .output()
        .expect("valgrind runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let found = said.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    assert!(found.is_some(), "{said}");
    found.filter(|_| output.stdout.starts_with(b"release"))
}

fn per_record(place: usize) -> Option<f64> {
    let [short, long] = ROUNDS;
    let more = count(place, long)? - count(place, short)?;
    Some(more / f64::from(long - short) / RECORDS as f64)
}

/// What the page says of a path.
fn expected(page: &str, name: &str) -> Option<f64> {
    let line = page.lines().find(|line| line.starts_with(&format!("| {name} |")))?;
    line.split('|').nth(2)?.trim().parse().ok()
}

#[test]
fn a_record_costs_as_many_instructions_as_before() {
    if Command::new("valgrind").arg("--version").stdout(Stdio::null()).status().is_err() {
        return skip("valgrind is not installed");
    }
    if binary("hot").is_err() {
        return skip("hot is not built (`cargo build --release`, KINESIN_BIN_DIR)");
    }
    let mut page = format!("{HEAD}{}\n\n| hot path | instructions a record |\n| --- | --- |\n", compiler());
    let there = std::fs::read_to_string(PAGE).unwrap_or_default();
    let mut off = Vec::new();
    for (place, (name, _)) in PATHS.iter().enumerate() {
        let Some(now) = per_record(place) else {
            return not_here(&"hot is a debug build, whose instructions say nothing");
        };
        page += &format!("| {name} | {now:.0} |\n");
        let before = expected(&there, name).unwrap_or(0.0);
        if (now - before).abs() > before * TOLERANCE {
            off.push(format!("{name}: {now:.0} instructions, {before:.0} before"));
        }
    }
    if std::env::var_os("KINESIN_WRITE_INSTRUCTIONS").is_some() {
        return std::fs::write(PAGE, page).unwrap();
    }
    if !there.contains(&compiler()) {
        return not_here(&format!("{} has made other figures than those of the page:\n{page}", compiler()));
    }
    assert!(off.is_empty(), "\n{}\nif that is meant, write the page anew", off.join("\n"));
}
