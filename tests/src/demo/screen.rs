//! What a person sees while the demo runs: one line that is rewritten where the output is a terminal, a line every few
//! seconds where it is not.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use store::service::Service;

use super::fleet::FleetSnapshot;
use super::{admin, stream_names};

/// Where the output is no terminal, a line this often.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

/// How far back the rate looks.
const RATE_WINDOW: Duration = Duration::from_secs(2);

/// The terminal, or a file.
#[derive(Debug)]
pub struct Screen {
    is_terminal: bool,
    /// Lines of the picture that stands there now.
    drawn: usize,
    last_plain: Option<std::time::Instant>,
    rates: Vec<(std::time::Instant, u64)>,
}

impl Default for Screen {
    fn default() -> Screen {
        Screen::new()
    }
}

impl Screen {
    /// On standard output.
    #[must_use]
    pub fn new() -> Screen {
        Screen { is_terminal: std::io::stdout().is_terminal(), drawn: 0, last_plain: None, rates: Vec::new() }
    }

    /// Says something that stays.
    pub fn line(&mut self, text: &str) {
        self.wipe();
        println!("{text}");
    }

    /// Takes the picture away.
    pub fn end(&mut self) {
        self.wipe();
    }

    fn wipe(&mut self) {
        if self.drawn > 0 {
            print!("\x1b[{}A\x1b[J", self.drawn);
            self.drawn = 0;
        }
        let _ = std::io::stdout().flush();
    }

    fn rate(&mut self, records: u64) -> f64 {
        let now = crate::clock::now();
        self.rates.push((now, records));
        self.rates.retain(|(at, _)| now.duration_since(*at) <= RATE_WINDOW);
        let (first_at, first) = self.rates[0];
        let seconds = now.duration_since(first_at).as_secs_f64();
        if seconds > 0.0 { (records.saturating_sub(first)) as f64 / seconds } else { 0.0 }
    }

    /// Shows how things are.
    pub fn show(&mut self, elapsed: Duration, is_cut: bool, service: &Service, fleet: &FleetSnapshot) {
        let rate = self.rate(fleet.stored_records);
        let ratio = fleet.raw_bytes as f64 / (fleet.frame_bytes.max(1)) as f64;
        let network = if is_cut { "CUT" } else { "up" };
        let summary = format!(
            "{:>3} s  network {network:<3}  {rate:>6.0} records/s stored  total {:>7}  lag {:>6} records  \
             lz4 {ratio:.1}x  throttled {:>4}  agents {}/{}",
            elapsed.as_secs(),
            fleet.stored_records,
            fleet.records_in.saturating_sub(fleet.stored_records),
            fleet.throttled,
            fleet.connected,
            fleet.agents,
        );
        if self.is_terminal {
            self.wipe();
            let mut picture = vec![summary];
            picture.extend(shards(service));
            self.drawn = picture.len();
            println!("{}", picture.join("\n"));
        } else if self.last_plain.is_none_or(|at| crate::clock::now().duration_since(at) >= PLAIN_EVERY) {
            self.last_plain = Some(crate::clock::now());
            println!("{summary}");
        }
        let _ = std::io::stdout().flush();
    }
}

/// A bar for each shard: how much of its stream it holds.
fn shards(service: &Service) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, _) in stream_names() {
        let Ok(info) = service.describe_stream(&admin(), &name) else { continue };
        let most = info.shards.iter().map(|shard| shard.tail.0).max().unwrap_or_default().max(1);
        for shard in &info.shards {
            let bar = "#".repeat((shard.tail.0 * 40 / most) as usize);
            lines.push(format!("       {:<10} {} {:>8} {bar}", name.as_str(), shard.id, shard.tail.0));
        }
    }
    lines
}
