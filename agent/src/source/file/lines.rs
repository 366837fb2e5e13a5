//! Lines out of bytes. Pure. Binary safe: a record is whatever is between two line feeds, without a carriage
//! return before the second; empty lines are left out.

use crate::config::LongLine;

/// What a line that was cut ends with.
pub const CUT_MARK: &[u8] = b" [cut]";

/// How lines are cut out.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Longest record.
    pub line_bytes_max: usize,
    /// What becomes of longer lines.
    pub long_line: LongLine,
}

/// What was found in some bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Found {
    /// Bytes that are done with.
    pub used: usize,
    /// They end inside of a line that is too long, whose rest is to be passed over.
    pub skipping: bool,
    /// Lines that were cut or left out for their length.
    pub long_lines: u64,
    /// Bytes that were left out.
    pub long_bytes: u64,
    /// The receiver took no more.
    pub stopped: bool,
}

/// Hands each whole line of `bytes` to `take`, until it says false; that line then is not used. `scratch` is for
/// lines that are cut.
pub fn split(
    bytes: &[u8],
    skipping: bool,
    rules: Rules,
    scratch: &mut Vec<u8>,
    mut take: impl FnMut(&[u8]) -> bool,
) -> Found {
    let mut found = Found { skipping, ..Found::default() };
    for end in memchr::memchr_iter(b'\n', bytes) {
        let line = &bytes[found.used..end];
        if found.skipping {
            found.skipping = false;
            found.long_bytes += line.len() as u64;
        } else if line.len() > rules.line_bytes_max {
            if !take_long(line, rules, scratch, &mut found, &mut take) {
                found.stopped = true;
                return found;
            }
        } else {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if !line.is_empty() && !take(line) {
                found.stopped = true;
                return found;
            }
        }
        found.used = end + 1;
    }
    let rest = &bytes[found.used..];
    if found.skipping {
        found.long_bytes += rest.len() as u64;
        found.used = bytes.len();
    } else if rest.len() > rules.line_bytes_max {
        if take_long(rest, rules, scratch, &mut found, &mut take) {
            found.skipping = true;
            found.used = bytes.len();
        } else {
            found.stopped = true;
        }
    }
    found
}

fn take_long(
    line: &[u8],
    rules: Rules,
    scratch: &mut Vec<u8>,
    found: &mut Found,
    take: &mut impl FnMut(&[u8]) -> bool,
) -> bool {
    let kept = match rules.long_line {
        LongLine::Drop => 0,
        LongLine::Truncate => {
            let kept = rules.line_bytes_max.saturating_sub(CUT_MARK.len());
            scratch.clear();
            scratch.extend_from_slice(&line[..kept]);
            scratch.extend_from_slice(CUT_MARK);
            if !take(scratch) {
                return false;
            }
            kept
        }
    };
    found.long_lines += 1;
    found.long_bytes += (line.len() - kept) as u64;
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::rng::Rng;

    const RULES: Rules = Rules { line_bytes_max: 20, long_line: LongLine::Truncate };

    /// Reads a text in pieces of these lengths, as a file that grows is read.
    fn read(text: &[u8], mut piece: impl FnMut() -> usize, rules: Rules) -> (Vec<Vec<u8>>, u64, usize) {
        let (mut lines, mut at, mut end, mut skipping, mut long) = (Vec::new(), 0, 0, false, 0);
        while end < text.len() {
            end = (end + piece()).min(text.len());
            let found = split(&text[at..end], skipping, rules, &mut Vec::new(), |line| {
                lines.push(line.to_vec());
                true
            });
            at += found.used;
            skipping = found.skipping;
            long += found.long_lines;
        }
        (lines, long, at)
    }

    #[test]
    fn lines_are_the_same_however_the_file_grows() {
        let text = b"one\ntwo\r\n\n\r\nthree is twenty long\nfour is far longer than twenty\nfive\nhalf";
        let want = (
            ["one", "two", "three is twenty long", "four is far lo [cut]", "five"]
                .map(|l| l.as_bytes().to_vec())
                .to_vec(),
            1,
            text.len() - 4,
        );
        assert_eq!(read(text, || 1000, RULES), want);
        let mut rng = Rng::new(1);
        for _ in 0..500 {
            assert_eq!(read(text, || rng.between(1, 9) as usize, RULES), want);
        }
    }

    #[test]
    fn a_long_line_can_be_left_out_and_the_file_goes_on() {
        let text = [b"a\n".to_vec(), vec![0xff; 5000], b"\nb\n".to_vec()].concat();
        let rules = Rules { long_line: LongLine::Drop, ..RULES };
        let (lines, long, at) = read(&text, || 7, rules);
        assert_eq!((lines, long, at), (vec![b"a".to_vec(), b"b".to_vec()], 1, text.len()));
    }

    #[test]
    fn a_line_that_was_not_taken_is_there_the_next_time() {
        let found = split(b"a\nb\nc\n", false, RULES, &mut Vec::new(), |line| line != b"b");
        assert_eq!((found.used, found.stopped), (2, true));
    }
}
