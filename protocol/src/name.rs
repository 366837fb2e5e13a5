//! Names of streams, checked once, where they enter. Pure. Names are never used as paths.

use std::fmt;
use std::sync::Arc;

use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};

use crate::limit::STREAM_NAME_CHARS_MAX;

/// A stream's name: 1 to 128 of `[a-zA-Z0-9_.-]` (Kinesis API, `StreamName`). A stream of another account or region
/// than the store's own has them before its name: `123456789012:eu-west-1:orders`.
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

/// Letters of a region's name.
const REGION_CHARS_MAX: usize = 64;
/// Digits of an account's id.
const ACCOUNT_DIGITS: usize = 12;

fn is_local(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= STREAM_NAME_CHARS_MAX
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// Whether a text can be a region: 1 to 64 of `[a-z0-9-]`.
#[must_use]
pub fn is_region(text: &str) -> bool {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.len() <= REGION_CHARS_MAX && text.bytes().all(good)
}

/// Whether a text can be an account: twelve digits.
#[must_use]
pub fn is_account(text: &str) -> bool {
    text.len() == ACCOUNT_DIGITS && text.bytes().all(|b| b.is_ascii_digit())
}

/// Where agents put what they had to drop. Made for them even where streams are not made by themselves: a loss that
/// can't be reported is the worst kind.
pub const LOSS_STREAM: &str = "_loss";

impl StreamName {
    /// Checks a text.
    ///
    /// # Errors
    /// When it is empty, too long, or has a character outside `[a-zA-Z0-9_.-]`, but for an account and a region.
    pub fn new(text: &str) -> Result<StreamName, NotAStreamName> {
        let parts: Vec<&str> = text.splitn(3, ':').collect();
        let good = match parts.as_slice() {
            [name] => is_local(name),
            [account, region, name] => is_account(account) && is_region(region) && is_local(name),
            _ => false,
        };
        if good {
            Ok(StreamName(text.into()))
        } else {
            Err(NotAStreamName { text: text.chars().take(STREAM_NAME_CHARS_MAX + 1).collect() })
        }
    }

    /// A stream of another account or region.
    ///
    /// # Errors
    /// When one of the three is none.
    pub fn within(account: &str, region: &str, name: &str) -> Result<StreamName, NotAStreamName> {
        StreamName::new(&format!("{account}:{region}:{name}"))
    }

    /// The name within its account and region.
    #[must_use]
    pub fn local(&self) -> &str {
        self.0.rsplit(':').next().unwrap_or_default()
    }

    /// Its account and region, if it is not of the store's own.
    #[must_use]
    pub fn namespace(&self) -> Option<(&str, &str)> {
        let (account, rest) = self.0.split_once(':')?;
        rest.split_once(':').map(|(region, _)| (account, region))
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
    fn a_stream_of_another_account_or_region_is_another_stream_with_the_same_local_name() {
        let name = StreamName::within("123456789012", "eu-west-1", "orders").unwrap();
        assert_eq!((name.as_str(), name.local()), ("123456789012:eu-west-1:orders", "orders"));
        assert_eq!(StreamName::new(name.as_str()).unwrap(), name);
        assert_ne!(StreamName::new("orders").unwrap().key(), name.key());
        assert_eq!(StreamName::new("orders").unwrap().local(), "orders");
        for bad in [
            "1:eu:x",
            "123456789012:EU:x",
            "123456789012:eu:",
            "123456789012::x",
            "123456789012:eu:a:b",
            "a:b",
        ] {
            assert!(StreamName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_key_is_the_first_half_of_the_md5() {
        // printf logs | md5sum -> 2165e4e6e7b8c3b4..., read as little-endian.
        let name = StreamName::new("logs").unwrap();
        assert_eq!(name.key().0.to_le_bytes()[..], md5::Md5::digest(b"logs")[..8]);
    }

    /// Reaches `REGION_CHARS_MAX`.
    /// Reaches `STREAM_NAME_CHARS_MAX` of protocol/src/limit.rs.
    #[test]
    fn names_of_regions_and_streams_are_as_long_as_they_may_be_and_no_longer() {
        for (region, name, good) in [(0, 0, true), (1, 0, false), (0, 1, false)] {
            let region = "r".repeat(REGION_CHARS_MAX + region);
            let name = "n".repeat(STREAM_NAME_CHARS_MAX + name);
            assert_eq!(StreamName::within("123456789012", &region, &name).is_ok(), good);
        }
    }
}
