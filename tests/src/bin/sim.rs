//! `cargo run --release -p tests --bin sim`: histories of the simulated world without end or as many as are asked for, on as
//! many cores, told as they go. The `sim` suite runs two thousand of them. Only the command line is in here.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use tests::clock;
use tests::world::run;
use tests::world::scenario::Scenario;

const HELP: &str = "\
cargo run --release -p tests --bin sim -- [OPTION...]

Each seed is a history of crashes, lost answers, splits, full disks and failing syncs in which every promise has to hold;
the first seeds are those of the suite. Ends with 1 where one does not, and says how to replay it.

  --from N     the first seed (0)
  --count N    histories (1000000)
  --jobs N     cores (1)
";

/// What is told of: a line after so many.
const TOLD: u64 = 50_000;

struct Plan {
    from: u64,
    count: u64,
    jobs: u64,
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Plan>, String> {
    let mut plan = Plan { from: 0, count: 1_000_000, jobs: 1 };
    while let Some(word) = words.next() {
        let mut number = || {
            let value = words.next().and_then(|value| value.parse::<u64>().ok());
            value.ok_or(format!("{word} wants a number; --help shows all"))
        };
        match word.as_str() {
            "--from" => plan.from = number()?,
            "--count" => plan.count = number()?,
            "--jobs" => plan.jobs = number()?.max(1),
            "--help" | "-h" => return Ok(None),
            other => return Err(format!("unknown {other}; --help shows all")),
        }
    }
    Ok(Some(plan))
}

#[derive(Default)]
struct Sums {
    next: AtomicU64,
    done: AtomicU64,
    crashes: AtomicU64,
    broken: AtomicU64,
}

/// Takes seeds until there are none.
fn work(plan: &Plan, sums: &Sums) {
    loop {
        let ordinal = sums.next.fetch_add(1, Ordering::Relaxed);
        if ordinal >= plan.count {
            return;
        }
        let seed = plan.from + ordinal;
        let report = run(&Scenario::new(seed, None), false);
        sums.crashes.fetch_add(report.store_crashes, Ordering::Relaxed);
        if let Some(violation) = report.violation {
            sums.broken.fetch_add(1, Ordering::Relaxed);
            println!("seed {seed}: {}: {}", violation.promise, violation.what);
            println!("  replay: SIM_SEED={seed} cargo test -p tests --test sim every_promise -- --nocapture");
        }
        if (sums.done.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(TOLD) {
            tell(sums);
        }
    }
}

fn tell(sums: &Sums) {
    let load = |sum: &AtomicU64| sum.load(Ordering::Relaxed);
    println!(
        "{} histories, {} crashes of the store, {} broken",
        load(&sums.done),
        load(&sums.crashes),
        load(&sums.broken)
    );
}

fn main() -> ExitCode {
    let plan = match parse(std::env::args().skip(1)) {
        Ok(Some(plan)) => plan,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let (sums, begin) = (Sums::default(), clock::now());
    std::thread::scope(|scope| {
        for _ in 0..plan.jobs {
            scope.spawn(|| work(&plan, &sums));
        }
    });
    tell(&sums);
    let took = clock::now().duration_since(begin).as_secs_f64();
    println!("seeds from {}, {took:.0} s on {} cores", plan.from, plan.jobs);
    ExitCode::from(u8::from(sums.broken.into_inner() > 0))
}
