//! What stands behind the question mark: places, times, counts. Pure.

use protocol::sequence::SequenceNumber;
use protocol::time::UnixMs;
use video::annexb::Rate;

use super::{Result, bad};
use crate::service::video::At;

/// The parameters of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, String)>);

/// All that any request knows: one that is misspelt is told.
pub(super) const KNOWN: [&str; 23] = [
    "from",
    "to",
    "count",
    "format",
    "gop",
    "image",
    "width",
    "meta",
    "follow",
    "track",
    "token",
    "ttl",
    "producer_time",
    "fps",
    "window",
    "part_ms",
    "replay",
    "timeline",
    "base",
    "show",
    "_HLS_msn",
    "_HLS_part",
    "_HLS_skip",
];

fn decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(out).ok()
}

impl Query {
    pub(super) fn parse(text: &str) -> Result<Query> {
        let mut pairs = Vec::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value =
                decoded(value).ok_or_else(|| bad(format!("{name}: {value:?} is not well encoded")))?;
            if !KNOWN.contains(&name) {
                return Err(bad(format!("there is no parameter {name:?}; there are {}", KNOWN.join(", "))));
            }
            pairs.push((name.to_owned(), value));
        }
        Ok(Query(pairs))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(is, _)| is == name).map(|(_, value)| value.as_str())
    }

    /// Whether a switch is on: `follow=1`, `follow=true` or `follow`.
    pub(super) fn is_on(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| !matches!(value, "0" | "false"))
    }

    /// A number within bounds.
    pub(super) fn number(&self, name: &str, min: u64, max: u64) -> Result<Option<u64>> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let number = text.parse().ok().filter(|number| (min..=max).contains(number));
        number
            .map(Some)
            .ok_or_else(|| bad(format!("{name}={text}: a number from {min} to {max} was expected")))
    }

    /// Where the times of a list's segments begin, in seconds since 1970.
    pub(super) fn base_s(&self) -> Result<Option<u64>> {
        self.number("base", 0, u64::from(u32::MAX))
    }

    /// How fast pictures come that do not say it themselves; and whether each is of when it came (`fps=live`).
    pub(super) fn rate(&self) -> Result<(Option<Rate>, bool)> {
        let Some(text) = self.get("fps") else { return Ok((None, false)) };
        if text == "live" {
            return Ok((None, true));
        }
        let rate = text.parse().ok().and_then(Rate::of_fps);
        rate.map(|rate| (Some(rate), false))
            .ok_or_else(|| bad(format!("fps={text}: pictures a second, 0.1 to 1000, or live was expected")))
    }

    /// A place.
    pub(super) fn at(&self, name: &str) -> Result<Option<At>> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let at = match text.split_once(':') {
            _ if text == "oldest" => Some(At::Oldest),
            _ if text == "newest" => Some(At::Newest),
            Some(("frame", number)) => number.parse().ok().map(|number| At::Frame(SequenceNumber(number))),
            Some(("server", time_text)) => time(time_text).map(At::ServerTime),
            Some(("producer", time_text)) => time(time_text).map(At::ProducerTime),
            _ if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                text.parse().ok().map(|number| At::Frame(SequenceNumber(number)))
            }
            _ => time(text).map(At::ProducerTime),
        };
        at.map(Some).ok_or_else(|| {
            bad(format!(
                "{name}={text}: write the number of a frame, oldest, newest, or a time such as \
                 2026-11-20T12:00:00Z, producer:TIME or server:TIME (also in milliseconds since 1970)"
            ))
        })
    }

    /// What is replayed: whether by the store's clock, and how many milliseconds later.
    pub(super) fn replay(&self) -> Result<Option<(bool, u64)>> {
        let Some(text) = self.get("replay") else { return Ok(None) };
        let replay = match text.split_once(':') {
            Some(("server", ms)) => ms.parse().ok().map(|ms| (true, ms)),
            Some(("producer", ms)) => ms.parse().ok().map(|ms| (false, ms)),
            _ => None,
        };
        replay.map(Some).ok_or_else(|| {
            bad(format!("replay={text}: server: or producer: and how many milliseconds later were expected"))
        })
    }

    /// A time in milliseconds since 1970, or as RFC 3339 writes it.
    pub(super) fn time(&self, name: &str) -> Result<Option<UnixMs>> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let what = "a time such as 2026-11-20T12:00:00Z or 1795176000000 was expected";
        time(text).map(Some).ok_or_else(|| bad(format!("{name}={text}: {what}")))
    }
}

fn time(text: &str) -> Option<UnixMs> {
    if let Ok(ms) = text.parse() {
        return Some(UnixMs(ms));
    }
    let time: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(time.as_millisecond()).ok().map(UnixMs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_numbers_words_and_times() {
        let at = |text: &str| Query::parse(&format!("from={text}")).unwrap().at("from");
        let good = |text: &str| at(text).unwrap().unwrap();
        assert_eq!(good("12"), At::Frame(SequenceNumber(12)));
        assert_eq!(good("frame:12"), At::Frame(SequenceNumber(12)));
        assert_eq!(good("oldest"), At::Oldest);
        assert_eq!(good("1970-01-01T00:00:01Z"), At::ProducerTime(UnixMs(1000)));
        assert_eq!(good("producer%3A2000"), At::ProducerTime(UnixMs(2000)));
        assert_eq!(good("server:1970-01-01T00:00:03.5Z"), At::ServerTime(UnixMs(3500)));
        for wrong in ["x", "frame:x", "server:", "2026-13-01T00:00:00Z"] {
            assert!(at(wrong).is_err(), "{wrong}");
        }
        assert!(Query::parse("form=1").unwrap_err().message.contains("no parameter \"form\""));
        assert!(Query::parse("from=%zz").is_err());
        let query = Query::parse("follow&count=5").unwrap();
        assert!(query.is_on("follow") && !query.is_on("meta"));
        assert_eq!(Query::parse("replay=server:5").unwrap().replay().unwrap(), Some((true, 5)));
        assert!(Query::parse("replay=5").unwrap().replay().is_err());
        assert!(query.number("count", 1, 4).is_err());
        assert_eq!(query.number("count", 1, 5).unwrap(), Some(5));
    }
}
