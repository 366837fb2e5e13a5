//! Names of streams, checked once, where they enter. Pure. Names are never used as paths.

use std::fmt;
use std::sync::Arc;

use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};

use crate::limit::STREAM_NAME_CHARS_MAX;

/// A stream's name: 1 to 128 of `[a-zA-Z0-9_.-]` (Kinesis API, `StreamName`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StreamName(Arc<str>);

/// Why a text is no stream name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a stream name: 1 to {STREAM_NAME_CHARS_MAX} of letters, digits, '_', '.' and '-'")]
pub struct NotAStreamName {
    /// What was offered, cut to a printable length.
    pub text: String,
}

/// Where agents put what they had to drop. Made for them even where streams are not made by themselves: a loss that
/// can't be reported is the worst kind.
pub const LOSS_STREAM: &str = "_loss";

impl StreamName {
    /// Checks a text.
    ///
    /// # Errors
    /// When it is empty, too long, or has a character outside `[a-zA-Z0-9_.-]`.
    pub fn new(text: &str) -> Result<StreamName, NotAStreamName> {
        let good = !text.is_empty()
            && text.len() <= STREAM_NAME_CHARS_MAX
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
        if good {
            Ok(StreamName(text.into()))
        } else {
            Err(NotAStreamName { text: text.chars().take(STREAM_NAME_CHARS_MAX + 1).collect() })
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What frames carry in place of the name.
    #[must_use]
    pub fn key(&self) -> StreamKey {
        StreamKey::of(self)
    }
}

impl TryFrom<String> for StreamName {
    type Error = NotAStreamName;
    fn try_from(text: String) -> Result<StreamName, NotAStreamName> {
        StreamName::new(&text)
    }
}

impl From<StreamName> for String {
    fn from(name: StreamName) -> String {
        name.0.as_ref().to_owned()
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A stream's name in eight bytes: the first half of its MD5. An agent that has never met its store can
/// make frames with it; a store refuses to create a stream whose key another one has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StreamKey(pub u64);

impl StreamKey {
    /// No stream: frames that belong to a spool or to a catalog.
    pub const NONE: StreamKey = StreamKey(0);

    fn of(name: &StreamName) -> StreamKey {
        let digest: [u8; 16] = Md5::digest(name.as_str().as_bytes()).into();
        let mut half = [0u8; 8];
        half.copy_from_slice(&digest[..8]);
        StreamKey(u64::from_le_bytes(half))
    }
}

impl fmt::Display for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_outside_the_pattern_are_refused() {
        for bad in ["", "a/b", "..\\", "a b", "\u{e9}", "a\0", &"x".repeat(129)] {
            assert!(StreamName::new(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "trucks.v1", "_loss", "A-Z_0.9", &"x".repeat(128)] {
            assert_eq!(StreamName::new(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn the_key_is_the_first_half_of_the_md5() {
        // printf logs | md5sum -> 2165e4e6e7b8c3b4..., read as little-endian.
        let name = StreamName::new("logs").unwrap();
        assert_eq!(name.key().0.to_le_bytes()[..], md5::Md5::digest(b"logs")[..8]);
    }
}
