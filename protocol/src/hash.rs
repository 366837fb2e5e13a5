//! Hash keys: where in the key space a partition key lands, and who owns that place. Pure.
//!
//! MD5 of the partition key as a 128-bit unsigned integer (Kinesis Data Streams, "Partition Key").

use std::fmt;

use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};

/// A place in the key space, `0 ..= 2^128 - 1`. In JSON a decimal string, as the Kinesis API writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HashKey(pub u128);

impl HashKey {
    /// The smallest.
    pub const MIN: HashKey = HashKey(0);
    /// The largest.
    pub const MAX: HashKey = HashKey(u128::MAX);

    /// Where a partition key lands.
    #[must_use]
    #[expect(clippy::big_endian_bytes, reason = "Kinesis reads the MD5 digest as a big-endian integer")]
    pub fn of_partition_key(key: &str) -> HashKey {
        HashKey(u128::from_be_bytes(Md5::digest(key.as_bytes()).into()))
    }
}

impl fmt::Display for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<HashKey> for String {
    fn from(key: HashKey) -> String {
        key.0.to_string()
    }
}

impl TryFrom<String> for HashKey {
    type Error = String;
    fn try_from(text: String) -> Result<HashKey, String> {
        let canonical = text == "0" || (!text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit()));
        match text.parse::<u128>() {
            Ok(value) if canonical => Ok(HashKey(value)),
            _ => Err(format!("{text:?} is not a hash key: a decimal number below 2^128 is wanted")),
        }
    }
}

/// An inclusive range of the key space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HashKeyRange {
    /// First hash key of the range.
    pub start: HashKey,
    /// Last hash key of the range, inclusive.
    pub end: HashKey,
}

impl HashKeyRange {
    /// The whole key space.
    pub const ALL: HashKeyRange = HashKeyRange { start: HashKey::MIN, end: HashKey::MAX };

    /// Whether a hash key lands in here.
    #[must_use]
    pub fn contains(&self, key: HashKey) -> bool {
        self.start <= key && key <= self.end
    }

    /// Cuts the key space into `count` even ranges, as Kinesis does on CreateStream.
    #[must_use]
    pub fn split_evenly(count: u32) -> Vec<HashKeyRange> {
        let count = u128::from(count.max(1));
        let step = u128::MAX / count;
        (0..count)
            .map(|i| HashKeyRange {
                start: HashKey(i * step + i.min(u128::MAX % count)),
                end: if i + 1 == count {
                    HashKey::MAX
                } else {
                    HashKey((i + 1) * step + (i + 1).min(u128::MAX % count) - 1)
                },
            })
            .collect()
    }

    /// The two halves that meet at `at`, the first key of the upper one; `None` when one half would be empty.
    #[must_use]
    pub fn split_at(&self, at: HashKey) -> Option<(HashKeyRange, HashKeyRange)> {
        let cut = self.start < at && at <= self.end;
        cut.then(|| {
            (
                HashKeyRange { start: self.start, end: HashKey(at.0 - 1) },
                HashKeyRange { start: at, end: self.end },
            )
        })
    }

    /// The middle, first key of the upper half; `None` for a range of one key.
    #[must_use]
    pub fn middle(&self) -> Option<HashKey> {
        let width = self.end.0 - self.start.0;
        (width > 0).then(|| HashKey(self.start.0 + width / 2 + 1))
    }

    /// One range out of two neighbours.
    #[must_use]
    pub fn join(&self, other: &HashKeyRange) -> Option<HashKeyRange> {
        let (low, high) = if self.start <= other.start { (self, other) } else { (other, self) };
        (low.end.0.checked_add(1) == Some(high.start.0))
            .then_some(HashKeyRange { start: low.start, end: high.end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_ranges_cover_the_key_space_without_gap_or_overlap() {
        for count in [1, 2, 3, 7, 64, 1000] {
            let ranges = HashKeyRange::split_evenly(count);
            assert_eq!(ranges.len(), count as usize);
            assert_eq!(ranges[0].start, HashKey::MIN);
            assert_eq!(ranges[ranges.len() - 1].end, HashKey::MAX);
            for pair in ranges.windows(2) {
                assert_eq!(pair[0].end.0 + 1, pair[1].start.0);
            }
        }
    }

    #[test]
    fn a_partition_key_lands_where_kinesis_puts_it() {
        // md5("user-1") read as a big-endian number.
        let digest = Md5::digest(b"user-1");
        let expected = digest.iter().fold(0u128, |n, b| (n << 8) | u128::from(*b));
        assert_eq!(HashKey::of_partition_key("user-1").0, expected);
    }

    #[test]
    fn split_and_join_are_inverse() {
        let (low, high) = HashKeyRange::ALL.split_at(HashKeyRange::ALL.middle().unwrap()).unwrap();
        assert_eq!(low.join(&high), Some(HashKeyRange::ALL));
        assert_eq!(high.join(&low), Some(HashKeyRange::ALL));
        assert_eq!(HashKeyRange::ALL.split_at(HashKey(0)), None);
    }

    #[test]
    fn hash_keys_in_json_are_canonical_decimal_strings() {
        assert!(serde_json::from_str::<HashKey>("\"340282366920938463463374607431768211455\"").is_ok());
        for bad in ["\"340282366920938463463374607431768211456\"", "\"01\"", "\"\"", "\"-1\"", "\"+1\"", "7"]
        {
            assert!(serde_json::from_str::<HashKey>(bad).is_err(), "{bad}");
        }
    }
}
