//! Sizes, times and rates as people write them on the command line, and as they like to read them. Pure.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use protocol::bucket::ShardRate;
use protocol::native::call::Fsync;

/// A number of bytes: `1048576`, `64 MiB`, `1.5GB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes(pub u64);

const UNITS: [(&str, u64); 9] = [
    ("", 1),
    ("b", 1),
    ("kb", 1000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
];

impl FromStr for Bytes {
    type Err = String;
    fn from_str(text: &str) -> Result<Bytes, String> {
        let bad = || format!("{text:?} is no size: write a number and a unit, such as 64 MiB or 1.5 GB");
        let (number, unit) = split_unit(text);
        let factor = UNITS.iter().find(|(name, _)| *name == unit.to_ascii_lowercase()).ok_or_else(bad)?.1;
        scale(number, factor).map(Bytes).ok_or_else(bad)
    }
}

/// A time: `500ms`, `5s`, `10m`, `24h`, `7d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

const SPANS_MS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

impl FromStr for Span {
    type Err = String;
    fn from_str(text: &str) -> Result<Span, String> {
        let bad = || format!("{text:?} is no time: write a number and a unit (ms, s, m, h, d), such as 24h");
        let (number, unit) = split_unit(text);
        let factor = SPANS_MS.iter().find(|(name, _)| *name == unit).ok_or_else(bad)?.1;
        scale(number, factor).map(|ms| Span(Duration::from_millis(ms))).ok_or_else(bad)
    }
}

impl Span {
    /// In milliseconds.
    #[must_use]
    pub fn millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

fn split_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

fn scale(number: &str, factor: u64) -> Option<u64> {
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor);
    }
    let value = number.parse::<f64>().ok()? * factor as f64;
    (0.0..9e15).contains(&value).then_some(value.round() as u64)
}

/// What a shard takes: `1 MiB/s,1000/s`, or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate(pub Option<ShardRate>);

impl FromStr for Rate {
    type Err = String;
    fn from_str(text: &str) -> Result<Rate, String> {
        if text.trim() == "off" {
            return Ok(Rate(None));
        }
        let bad = || {
            format!("{text:?} is no rate: write bytes and records a second, such as 1 MiB/s,1000/s, or off")
        };
        let (bytes, records) = text.split_once(',').ok_or_else(bad)?;
        let per_second = |part: &str| part.trim().strip_suffix("/s").map(str::to_owned).ok_or_else(bad);
        let bytes_per_second = per_second(bytes)?.parse::<Bytes>().map_err(|_| bad())?.0;
        let records_per_second = per_second(records)?.trim().parse().map_err(|_| bad())?;
        if bytes_per_second == 0 || records_per_second == 0 {
            return Err(format!("{text:?} takes nothing: write off for no limit"));
        }
        Ok(Rate(Some(ShardRate { bytes_per_second, records_per_second })))
    }
}

/// When an acknowledgement is given: `always`, or a time such as `5ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FsyncWhen(pub Fsync);

impl FromStr for FsyncWhen {
    type Err = String;
    fn from_str(text: &str) -> Result<FsyncWhen, String> {
        if text.trim() == "always" {
            return Ok(FsyncWhen(Fsync::Always));
        }
        let ms =
            text.parse::<Span>().map_err(|_| format!("{text:?}: write always, or a time such as 5ms"))?;
        let ms = u32::try_from(ms.millis()).ok().filter(|ms| *ms > 0);
        let ms = ms.ok_or_else(|| format!("{text:?}: at least 1ms, or always"))?;
        Ok(FsyncWhen(Fsync::IntervalMs(ms)))
    }
}

/// Bytes for people.
#[must_use]
pub fn show_bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 || unit == "TiB" {
            let digits = if unit == "B" || value.fract() < 0.05 { 0 } else { 1 };
            return format!("{value:.digits$} {unit}");
        }
        value /= 1024.0;
    }
    String::new()
}

/// A time for people: the largest unit that is exact.
#[must_use]
pub fn show_span(ms: u64) -> String {
    let whole = SPANS_MS.iter().rev().find(|(name, factor)| {
        ms.is_multiple_of(*factor) && (ms >= *factor) && !(*name == "d" && ms < 2 * factor)
    });
    whole.map_or_else(|| format!("{ms}ms"), |(name, factor)| format!("{}{name}", ms / factor))
}

/// A shard's rate for people.
#[must_use]
pub fn show_rate(rate: Option<ShardRate>) -> String {
    rate.map_or_else(
        || "off".to_owned(),
        |rate| format!("{}/s, {}/s", show_bytes(rate.bytes_per_second), rate.records_per_second),
    )
}

impl fmt::Display for FsyncWhen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Fsync::Always => f.write_str("always"),
            Fsync::IntervalMs(ms) => f.write_str(&show_span(u64::from(ms))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_read() {
        assert_eq!("64 MiB".parse(), Ok(Bytes(64 << 20)));
        assert_eq!("1.5gb".parse(), Ok(Bytes(1_500_000_000)));
        assert_eq!("7".parse(), Ok(Bytes(7)));
        assert_eq!("24h".parse(), Ok(Span(Duration::from_secs(86_400))));
        let rate = ShardRate { bytes_per_second: 1 << 20, records_per_second: 1000 };
        assert_eq!("1 MiB/s,1000/s".parse(), Ok(Rate(Some(rate))));
        assert_eq!("off".parse(), Ok(Rate(None)));
        assert_eq!("5ms".parse(), Ok(FsyncWhen(Fsync::IntervalMs(5))));
    }

    #[test]
    fn what_means_nothing_is_refused_with_an_example() {
        for bad in ["", "x", "1 parsec", "-1", "99999999999999999999", "1e3 GiB"] {
            assert!(bad.parse::<Bytes>().unwrap_err().contains("64 MiB"), "{bad}");
        }
        assert!("24".parse::<Span>().is_err() && "1 MiB/s".parse::<Rate>().is_err());
        assert!("0/s,1/s".parse::<Rate>().is_err() && "0ms".parse::<FsyncWhen>().is_err());
    }

    #[test]
    fn what_is_shown_reads_well() {
        assert_eq!((show_bytes(0), show_bytes(1536)), ("0 B".to_owned(), "1.5 KiB".to_owned()));
        assert_eq!((show_bytes(64 << 20), show_span(86_400_000)), ("64 MiB".to_owned(), "24h".to_owned()));
        assert_eq!((show_span(7 * 86_400_000), show_span(1500)), ("7d".to_owned(), "1500ms".to_owned()));
        assert_eq!(show_rate(Some(ShardRate::default())), "1 MiB/s, 1000/s");
    }
}
