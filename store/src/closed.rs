//! Where each log of a data folder began and ended when the store was closed: what a start finds shorter than that was lost while
//! nobody wrote, and a torn tail looks the same without it. Pure: text in, values out; the service reads and writes it.
//!
//! The file `closed` is there between an end in order and the next start only. Its absence says nothing; a damaged one is
//! not believed.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Range;

use disk::Position;

/// Its name in the data folder.
pub const FILE: &str = "closed";

/// It is never longer than this: a line for each of very many streams.
pub const BYTES_MAX: u64 = 16 << 20;

/// Where it began and where it ended, by folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Closed(BTreeMap<String, Range<Position>>);

impl Closed {
    /// Notes what the log in a folder holds.
    pub fn note(&mut self, dir: &str, holds: Range<Position>) {
        self.0.insert(dir.to_owned(), holds);
    }

    /// What is missing of the log in a folder, which holds this now: a sentence, or nothing.
    #[must_use]
    pub fn missing(&self, dir: &str, holds: Range<Position>) -> Option<String> {
        let closed = self.0.get(dir)?;
        let lost = [closed.start..holds.start.min(closed.end), holds.end.max(closed.start)..closed.end];
        let lost: Vec<String> = lost
            .iter()
            .filter(|lost| !lost.is_empty())
            .map(|l| format!("{} to {}", l.start, l.end))
            .collect();
        let lost = (!lost.is_empty()).then(|| lost.join(" and "))?;
        Some(format!(
            "{dir}: bytes {lost} are lost: they were there when the store was closed, and were damaged or cut off since"
        ))
    }

    /// As a file: a line `FOLDER BEGIN END` each, and at last the CRC32C of them.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut text = String::new();
        for (dir, holds) in &self.0 {
            // Writing into a string can't fail.
            let _ = writeln!(text, "{dir} {} {}", holds.start, holds.end);
        }
        let sum = crc32c::crc32c(text.as_bytes());
        let _ = writeln!(text, "crc32c {sum:08x}");
        text.into_bytes()
    }

    /// Reads the file; `None` where it is damaged.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Closed> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (lines, sum) = text.strip_suffix('\n')?.rsplit_once("crc32c ")?;
        if sum.len() != 8 || u32::from_str_radix(sum, 16).ok()? != crc32c::crc32c(lines.as_bytes()) {
            return None;
        }
        let mut closed = Closed::default();
        for line in lines.lines() {
            let (rest, end) = line.rsplit_once(' ')?;
            let (dir, start) = rest.rsplit_once(' ')?;
            closed.note(dir, Position(start.parse().ok()?)..Position(end.parse().ok()?));
        }
        Some(closed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shorter_than_it_was_is_missing_and_a_damaged_file_says_nothing() {
        let mut closed = Closed::default();
        let of = |from, to| Position(from)..Position(to);
        closed.note("catalog", of(0, 500));
        closed.note("streams/000001", of(20, 70));
        let bytes = closed.encode();
        assert_eq!(Closed::decode(&bytes), Some(closed.clone()));
        assert_eq!(closed.missing("catalog", of(0, 500)), None);
        assert_eq!(closed.missing("another", of(0, 0)), None);
        let missing = |from, to| closed.missing("streams/000001", of(from, to)).unwrap();
        assert!(missing(20, 60).contains("streams/000001: bytes 60 to 70 are lost"), "{}", missing(20, 60));
        assert!(missing(30, 60).contains("bytes 20 to 30 and 60 to 70 are lost"), "{}", missing(30, 60));
        assert!(missing(0, 0).contains("bytes 20 to 70 are lost"), "{}", missing(0, 0));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(Closed::decode(&damaged).is_none_or(|read| read == closed), "byte {at}");
            assert_eq!(Closed::decode(&bytes[..at]), None, "{at} bytes");
        }
    }
}
