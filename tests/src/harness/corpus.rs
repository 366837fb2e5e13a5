//! Realistic input, the same for the same seed, without any outside data.
//!
//! Access logs, syslog and truck telemetry are generated; real logs are used where there are some: in the folder that the
//! environment variable `KINESIN_CORPUS` names, or in `../shared/data` beside the checkout. Nothing depends on their being
//! there. A line can carry a counter, so that whoever reads it at the other end can tell what is missing, doubled or out
//! of order. No clock is read: generated timestamps begin at a fixed moment.

mod generate;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use generate::{Chance, Truck};

/// Real logs of which more than this is not read into memory.
const MAX_REAL_BYTES: u64 = 256 << 20;

/// Where lines come from.
#[derive(Debug, Clone)]
enum Kind {
    Access,
    Syslog,
    Trucks(u32),
    Real(Arc<Vec<u8>>),
}

/// A line's own number, and where it stands in the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Counter {
    /// Lines as they come.
    #[default]
    None,
    /// `#00000000042 ` before the line.
    Prefix,
    /// ` #00000000042` behind the line.
    Suffix,
}

/// An endless supply of lines: what kind, which seed, with or without a counter.
#[derive(Debug, Clone)]
pub struct Corpus {
    kind: Kind,
    seed: u64,
    counter: Counter,
}

impl Corpus {
    /// A web server's combined access log, about 200 bytes a line.
    pub fn access(seed: u64) -> Corpus {
        Corpus { kind: Kind::Access, seed, counter: Counter::None }
    }

    /// A machine's system log, about 110 bytes a line.
    pub fn syslog(seed: u64) -> Corpus {
        Corpus { kind: Kind::Syslog, seed, counter: Counter::None }
    }

    /// JSON telemetry of so many trucks, in turn; each message has its truck's own counter (`n`) in it.
    pub fn trucks(count: u32, seed: u64) -> Corpus {
        Corpus { kind: Kind::Trucks(count.max(1)), seed, counter: Counter::None }
    }

    /// The real logs that [`real_logs`] finds, one after the other and over again; None if there are none.
    pub fn real() -> Option<Corpus> {
        let mut text = Vec::new();
        for path in real_logs() {
            let size = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
            if text.len() as u64 + size > MAX_REAL_BYTES {
                continue;
            }
            text.extend(std::fs::read(&path).unwrap_or_default());
            if text.last().is_some_and(|byte| *byte != b'\n') {
                text.push(b'\n');
            }
        }
        let kind = Kind::Real(Arc::new(text));
        matches!(&kind, Kind::Real(text) if !text.is_empty()).then_some(Corpus {
            kind,
            seed: 0,
            counter: Counter::None,
        })
    }

    /// Real logs where there are some, a generated access log otherwise.
    pub fn real_or_access(seed: u64) -> Corpus {
        Corpus::real().unwrap_or_else(|| Corpus::access(seed))
    }

    /// The same, every line with its number (from 0).
    #[must_use]
    pub fn counted(self, counter: Counter) -> Corpus {
        Corpus { counter, ..self }
    }

    /// One word for a heading.
    pub fn name(&self) -> &'static str {
        match self.kind {
            Kind::Access => "generated access log",
            Kind::Syslog => "generated system log",
            Kind::Trucks(_) => "generated truck telemetry",
            Kind::Real(_) => "real logs",
        }
    }

    /// The lines, from the first.
    pub fn lines(&self) -> Lines {
        let source = match &self.kind {
            Kind::Access => Source::Access(Box::new(generate::Access::new(self.seed))),
            Kind::Syslog => Source::Syslog(Box::new(generate::Syslog::new(self.seed))),
            Kind::Trucks(count) => {
                Source::Trucks((0..*count).map(|number| Truck::new(number, self.seed)).collect(), 0)
            }
            Kind::Real(text) => Source::Real(Arc::clone(text), 0),
        };
        Lines { source, counter: self.counter, next: 0 }
    }
}

enum Source {
    Access(Box<generate::Access>),
    Syslog(Box<generate::Syslog>),
    Trucks(Vec<Truck>, usize),
    Real(Arc<Vec<u8>>, usize),
}

/// Lines, one after the other; never ends.
pub struct Lines {
    source: Source,
    counter: Counter,
    next: u64,
}

impl Lines {
    /// Appends the next line, without a line feed.
    pub fn next_into(&mut self, out: &mut Vec<u8>) {
        if self.counter == Counter::Prefix {
            out.extend_from_slice(format!("#{:011} ", self.next).as_bytes());
        }
        match &mut self.source {
            Source::Access(access) => access.next_into(out),
            Source::Syslog(syslog) => syslog.next_into(out),
            Source::Trucks(trucks, turn) => {
                trucks[*turn].next_into(out);
                *turn = (*turn + 1) % trucks.len();
            }
            Source::Real(text, at) => {
                let rest = &text[*at..];
                let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
                out.extend_from_slice(&rest[..end]);
                *at = if *at + end + 1 >= text.len() { 0 } else { *at + end + 1 };
            }
        }
        if self.counter == Counter::Suffix {
            out.extend_from_slice(format!(" #{:011}", self.next).as_bytes());
        }
        self.next += 1;
    }
}

impl Iterator for Lines {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let mut line = Vec::with_capacity(256);
        self.next_into(&mut line);
        Some(line)
    }
}

/// What [`write_log`] wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Lines; with a counter they are numbered from 0 to this, exclusive.
    pub lines: u64,
    /// Bytes, line feeds included.
    pub bytes: u64,
}

/// Makes (or replaces) a file of whole lines: as many as it takes to have at least so many bytes.
pub fn write_log(path: &Path, bytes: u64, corpus: &Corpus) -> io::Result<Written> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut lines = corpus.lines();
    let mut written = Written { lines: 0, bytes: 0 };
    let mut line = Vec::with_capacity(512);
    while written.bytes < bytes {
        line.clear();
        lines.next_into(&mut line);
        line.push(b'\n');
        file.write_all(&line)?;
        written.lines += 1;
        written.bytes += line.len() as u64;
    }
    file.into_inner().map_err(io::IntoInnerError::into_error)?;
    Ok(written)
}

/// The number that a [`Counter`] put into a line.
pub fn counter_of(line: &[u8]) -> Option<u64> {
    let parse = |digits: &[u8]| std::str::from_utf8(digits).ok()?.parse().ok();
    let before = line.strip_prefix(b"#").and_then(|rest| rest.get(..11));
    if let Some(number) = before.filter(|_| line.get(12) == Some(&b' ')).and_then(parse) {
        return Some(number);
    }
    let (_, behind) = line.split_at_checked(line.len().checked_sub(13)?)?;
    behind.strip_prefix(b" #").and_then(parse)
}

/// Real log files, in the order of their names; empty where there are none.
pub fn real_logs() -> Vec<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    let folder = std::env::var_os("KINESIN_CORPUS").map_or_else(beside, PathBuf::from);
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let is_log = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        path.is_file() && matches!(extension, Some("log" | "jsonl"))
    };
    let mut logs: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(is_log).collect();
    logs.sort();
    logs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(corpus: &Corpus, bytes: usize) -> (Vec<u8>, u64) {
        let (mut text, mut lines, mut count) = (Vec::new(), corpus.lines(), 0);
        while text.len() < bytes {
            lines.next_into(&mut text);
            text.push(b'\n');
            count += 1;
        }
        (text, count)
    }

    fn ratio(text: &[u8]) -> f64 {
        text.len() as f64 / lz4_flex::block::compress(text).len() as f64
    }

    #[test]
    fn the_same_seed_is_the_same_text_and_another_seed_another() {
        for make in [Corpus::access, Corpus::syslog, |seed| Corpus::trucks(20, seed)] {
            assert_eq!(text(&make(7), 50_000), text(&make(7), 50_000));
            assert_ne!(text(&make(7), 50_000), text(&make(8), 50_000));
        }
    }

    #[test]
    fn generated_access_logs_have_the_length_and_the_redundancy_of_real_ones() {
        let (access, lines) = text(&Corpus::access(1), 1 << 20);
        let mean = access.len() as u64 / lines;
        assert!((180..=230).contains(&mean), "{mean} bytes a line");
        let ratio = ratio(&access);
        assert!((2.3..=4.0).contains(&ratio), "lz4 makes it {ratio:.2} times smaller");
        for line in access.split(|byte| *byte == b'\n') {
            assert!(line.is_ascii());
        }
    }

    #[test]
    fn telemetry_is_json_and_each_truck_counts_its_own_messages() {
        let lines: Vec<_> = Corpus::trucks(3, 1).lines().take(300).collect();
        let mut counters = [0_u64; 3];
        for (at, line) in lines.iter().enumerate() {
            let value: serde_json::Value = serde_json::from_slice(line).unwrap();
            assert_eq!(value["n"], counters[at % 3]);
            assert_eq!(value["truck"], format!("truck-{:03}", at % 3));
            let (lat, lon) = (value["lat"].as_f64().unwrap(), value["lon"].as_f64().unwrap());
            assert!((40.0..60.0).contains(&lat) && (0.0..20.0).contains(&lon), "{lat} {lon}");
            assert!(value["engine"]["coolant_c"].is_number() && value["fuel_pct"].is_number());
            counters[at % 3] += 1;
        }
    }

    #[test]
    fn a_line_s_counter_is_found_again_at_either_end() {
        for counter in [Counter::Prefix, Counter::Suffix] {
            for (at, line) in Corpus::syslog(3).counted(counter).lines().take(50).enumerate() {
                assert_eq!(counter_of(&line), Some(at as u64), "{}", String::from_utf8_lossy(&line));
            }
        }
        let lines = ["", "#", "#12 x", "no counter here at all", "# 0000000000 x", " #0000000001x"];
        for line in lines {
            assert_eq!(counter_of(line.as_bytes()), None, "{line:?}");
        }
    }

    #[test]
    fn a_written_log_is_whole_lines_of_at_least_the_wanted_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let corpus = Corpus::real_or_access(5).counted(Counter::Suffix);
        let written = write_log(&path, 300_000, &corpus).unwrap();
        let text = std::fs::read(&path).unwrap();
        assert!(text.len() as u64 == written.bytes && written.bytes >= 300_000 && text.ends_with(b"\n"));
        let numbers =
            text.split_inclusive(|byte| *byte == b'\n').map(|line| counter_of(line.trim_ascii_end()));
        assert!(numbers.eq((0..written.lines).map(Some)));
    }

    #[test]
    fn real_logs_repeat_from_the_beginning_when_they_end() {
        let real = Corpus { kind: Kind::Real(Arc::new(b"one\ntwo\n".to_vec())), ..Corpus::access(0) };
        let lines: Vec<_> = real.lines().take(5).collect();
        assert_eq!(lines, [&b"one"[..], b"two", b"one", b"two", b"one"]);
    }
}
