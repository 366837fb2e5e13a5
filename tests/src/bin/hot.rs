//! Runs one of the hot paths so many times, for `valgrind` to count: see `tests/src/hot.rs`. Prints how it was built.

use std::process::ExitCode;

use tests::hot::PATHS;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let asked = words.first().and_then(|place| PATHS.get(place.parse::<usize>().ok()?));
    let rounds = words.get(1).and_then(|rounds| rounds.parse().ok());
    let (Some((_, run)), Some(rounds)) = (asked, rounds) else {
        eprintln!("hot PLACE ROUNDS: one of {} hot paths; see the suite `instructions`", PATHS.len());
        return ExitCode::from(2);
    };
    let dir = tempfile::tempdir().expect("a temporary folder");
    run(rounds, dir.path());
    println!("{}", if cfg!(debug_assertions) { "debug" } else { "release" });
    ExitCode::SUCCESS
}
