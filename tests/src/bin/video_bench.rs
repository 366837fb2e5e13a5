//! `cargo run --release -p tests --bin video_bench`: the benchmark of video, see `tests/src/video_bench.rs`. Only the
//! command line is in here.

use std::path::Path;
use std::process::ExitCode;

use tests::video_bench::{Plan, run};

const HELP: &str = "\
cargo build --release && cargo run --release -p tests --bin video_bench -- [OPTION...]

Cameras that send fragmented MP4 to `kinesin serve` over plain HTTP/1.1 on this machine, and readers of what is stored
then. Every answer comes after fdatasync.

  --seconds N     how long each part takes (10); 0 leaves all of this out but --kept-days
  --cameras N     cameras in real time (200)
  --kbit N        what each of them sends in a second (2000)
  --hours N       of the stream that single frames are taken from (24)
  --kept-days N   also: a frame out of so many days of tiny frames in as many segments as --kbit makes, and starts with them
  --dir DIR       where everything is kept; emptied first (target/video-bench-data)
";

fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Plan>, String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/video-bench-data");
    let mut plan = Plan { dir, seconds: 10, cameras: 200, bits_per_s: 2_000_000, hours: 24, kept_days: 0 };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} wants a value"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("{word} wants a number"));
        match word.as_str() {
            "--seconds" => plan.seconds = number(value()?)?,
            "--cameras" => plan.cameras = number(value()?)?.max(1),
            "--kbit" => plan.bits_per_s = number(value()?)? * 1000,
            "--hours" => plan.hours = number(value()?)?.max(1),
            "--kept-days" => plan.kept_days = number(value()?)?,
            "--dir" => plan.dir = value()?.into(),
            "--help" | "-h" => return Ok(None),
            other => return Err(format!("unknown {other}; --help shows all")),
        }
    }
    Ok(Some(plan))
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
            eprintln!("video_bench: {why}");
            return ExitCode::FAILURE;
        }
    };
    match run(&plan).await {
        Ok(figures) => figures.iter().for_each(|(what, value)| println!("  {what:32} {value}")),
        Err(error) => {
            eprintln!("video_bench: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
