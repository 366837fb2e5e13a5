//! Shard iterators and paging tokens: all that is needed to go on stands in them, so that they outlive a restart.
//! Opaque to clients; whoever forges one gets nothing that a new one would not give. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::bytes::{Cursor, put_varint};
use crate::sequence::{SequenceNumber, ShardId};
use crate::time::UnixMs;

/// An iterator can be used this long.
pub const LIFE_MS: u64 = 300_000;

const PREFIX: [u8; 8] = [0, 0, 0, 0, 0, 0, 0, 1];
/// Clients of the service know iterators of at least so many bytes.
const BODY_BYTES_MIN: usize = 112;
const BLOCK_BYTES: usize = 16;

/// Where to read on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardIterator {
    /// When it was made.
    pub made: UnixMs,
    /// Name of the stream.
    pub stream: String,
    /// When the stream was made: another one of the same name is not meant.
    pub stream_created: UnixMs,
    /// Which shard.
    pub shard: ShardId,
    /// From which record on.
    pub from: SequenceNumber,
}

impl ShardIterator {
    /// As it is sent.
    #[must_use]
    pub fn text(&self) -> String {
        let mut body = Vec::with_capacity(BODY_BYTES_MIN);
        for value in [self.made.0, self.stream_created.0, u64::from(self.shard.0), self.from.0] {
            put_varint(&mut body, value);
        }
        put_varint(&mut body, self.stream.len() as u64);
        body.extend_from_slice(self.stream.as_bytes());
        let length = (body.len() + 4).next_multiple_of(BLOCK_BYTES).max(BODY_BYTES_MIN);
        body.resize(length - 4, 0);
        body.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
        STANDARD.encode([&PREFIX[..], &body].concat())
    }

    /// Reads one; quotes around it are forgiven, as by the service.
    #[must_use]
    pub fn parse(text: &str) -> Option<ShardIterator> {
        let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
        let bytes = STANDARD.decode(text).ok()?;
        let body = bytes.strip_prefix(&PREFIX[..])?;
        let (body, sum) = body.split_last_chunk::<4>()?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*sum) {
            return None;
        }
        let mut cursor = Cursor::new(body);
        let mut next = || cursor.varint().ok();
        let (made, stream_created) = (UnixMs(next()?), UnixMs(next()?));
        let (shard, from) = (ShardId(u32::try_from(next()?).ok()?), SequenceNumber(next()?));
        let length = usize::try_from(next()?).ok()?;
        let stream = std::str::from_utf8(cursor.take(length).ok()?).ok()?.to_owned();
        Some(ShardIterator { made, stream, stream_created, shard, from })
    }
}

/// A paging token: some texts and when it was made.
#[must_use]
pub fn token(made: UnixMs, parts: &[&str]) -> String {
    let mut body = Vec::new();
    put_varint(&mut body, made.0);
    for part in parts {
        put_varint(&mut body, part.len() as u64);
        body.extend_from_slice(part.as_bytes());
    }
    body.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
    STANDARD.encode(body)
}

/// Reads what [`token`] made of so many parts.
#[must_use]
pub fn parse_token<const N: usize>(text: &str) -> Option<(UnixMs, [String; N])> {
    let bytes = STANDARD.decode(text).ok()?;
    let (body, sum) = bytes.split_last_chunk::<4>()?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*sum) {
        return None;
    }
    let mut cursor = Cursor::new(body);
    let made = UnixMs(cursor.varint().ok()?);
    let mut parts = std::array::from_fn(|_| String::new());
    for part in &mut parts {
        let length = usize::try_from(cursor.varint().ok()?).ok()?;
        *part = std::str::from_utf8(cursor.take(length).ok()?).ok()?.to_owned();
    }
    cursor.rest().is_empty().then_some((made, parts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_iterator_reads_back_even_in_quotes_and_no_other_text_does() {
        for name in ["a", &"x".repeat(128)] {
            let iterator = ShardIterator {
                made: UnixMs(1_700_000_000_000),
                stream: name.to_owned(),
                stream_created: UnixMs(5),
                shard: ShardId(7),
                from: SequenceNumber(99),
            };
            let text = iterator.text();
            assert!((152..=280).contains(&text.len()), "{}", text.len());
            assert_eq!(ShardIterator::parse(&text), Some(iterator.clone()));
            assert_eq!(ShardIterator::parse(&format!("\"{text}\"")), Some(iterator));
            assert_eq!(ShardIterator::parse(&text[..text.len() - 4]), None);
            assert_eq!(ShardIterator::parse(&text.replacen("AAAA", "AAAB", 1)), None);
        }
    }

    #[test]
    fn a_token_reads_back_as_what_it_was() {
        let text = token(UnixMs(9), &["stream", ""]);
        assert_eq!(parse_token(&text), Some((UnixMs(9), ["stream".to_owned(), String::new()])));
        assert_eq!(parse_token::<1>(&text), None);
        assert_eq!(parse_token::<2>("AAAA"), None);
    }
}
