//! Sequence numbers as the API shows them: 56 decimal digits of a 186-bit number, in whose hexadecimal form stand
//!
//! ```text
//! 2 | seconds of the shard's creation (9 digits) | shard, lowest digit (1) | place (16) | 00 |
//! seconds of arrival (9) | shard (8) | version 2 (1)
//! ```
//!
//! The place is the dense sequence number plus one, so that a shard's starting number (place 0) is below its records.
//! A child is created at least a second after its parents, so that numbers grow from parents to children. Pure.

use crate::sequence::{SequenceNumber, ShardId};
use crate::time::UnixMs;

/// The place in the ending number of a closed shard.
const ENDING_PLACE: u64 = 0x7fff_ffff_ffff_ffff;

/// A number, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Number {
    /// When its shard was created, in seconds.
    pub created_s: u64,
    /// Its shard.
    pub shard: ShardId,
    /// Zero before the first record; otherwise the dense sequence number plus one.
    pub place: u64,
    /// When the record arrived, in seconds.
    pub arrival_s: u64,
}

const SECONDS_MASK: u64 = 0xf_ffff_ffff;

impl Number {
    /// Of a record.
    #[must_use]
    pub fn of(created: UnixMs, shard: ShardId, sequence: SequenceNumber, arrival: UnixMs) -> Number {
        Number { created_s: created.0 / 1000, shard, place: sequence.0 + 1, arrival_s: arrival.0 / 1000 }
    }

    /// Where a shard starts.
    #[must_use]
    pub fn starting(created: UnixMs, shard: ShardId) -> Number {
        Number { created_s: created.0 / 1000, shard, place: 0, arrival_s: created.0 / 1000 }
    }

    /// Where a closed shard ends.
    #[must_use]
    pub fn ending(created: UnixMs, shard: ShardId) -> Number {
        Number { place: ENDING_PLACE, ..Number::starting(created, shard) }
    }

    /// The record that it names, or the first at or after it.
    #[must_use]
    pub fn at(&self) -> SequenceNumber {
        SequenceNumber(self.place.saturating_sub(1))
    }

    /// The first record after the one that it names.
    #[must_use]
    pub fn after(&self) -> SequenceNumber {
        SequenceNumber(self.place)
    }

    /// As it is written.
    #[must_use]
    pub fn text(&self) -> String {
        let (created, arrival) = (self.created_s & SECONDS_MASK, self.arrival_s & SECONDS_MASK);
        let shard = u64::from(self.shard.0);
        // The lower 128 bits begin with the lowest 40 of the place.
        let low = u128::from(self.place & 0xff_ffff_ffff) << 80
            | u128::from(arrival) << 36
            | u128::from(shard) << 4
            | 2;
        let low = low & ((1 << 120) - 1);
        let high = u128::from(2u8) << 64 | u128::from(created) << 28 | u128::from(shard & 15) << 24;
        let high = high | u128::from(self.place >> 40);
        decimal(high, low)
    }

    /// Reads what [`text`](Self::text) wrote; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Number> {
        let (high, low) = binary(text)?;
        let digit = |value: u128, from: u32, bits: u32| (value >> from & ((1 << bits) - 1)) as u64;
        let number = Number {
            created_s: digit(high, 28, 36),
            shard: ShardId(digit(low, 4, 32) as u32),
            place: digit(high, 0, 24) << 40 | digit(low, 80, 40),
            arrival_s: digit(low, 36, 36),
        };
        let whole = high >> 64 == 2
            && digit(low, 0, 4) == 2
            && digit(low, 72, 8) == 0
            && digit(high, 24, 4) == u64::from(number.shard.0 & 15);
        whole.then_some(number)
    }
}

/// Bits of the lower part.
const LOW_BITS: u32 = 120;
const DIGITS: u128 = 10u128.pow(15);

/// `high * 2^120 + low` in decimal.
fn decimal(high: u128, low: u128) -> String {
    // Words of 30 bits, the highest first: a remainder of 50 bits and a word fit into 128.
    let mask = (1u128 << 30) - 1;
    let word = |value: u128, place: u32| value >> (30 * place) & mask;
    let mut words =
        [word(high, 2), word(high, 1), word(high, 0), word(low, 3), word(low, 2), word(low, 1), word(low, 0)];
    let mut groups = Vec::new();
    while words.iter().any(|word| *word != 0) {
        let mut rest = 0;
        for word in &mut words {
            let value = rest << 30 | *word;
            *word = value / DIGITS;
            rest = value % DIGITS;
        }
        groups.push(rest);
    }
    let mut text = groups.pop().unwrap_or(0).to_string();
    for group in groups.iter().rev() {
        text.push_str(&format!("{group:015}"));
    }
    text
}

fn binary(text: &str) -> Option<(u128, u128)> {
    if text.len() > 57 || text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (mut high, mut low) = (0u128, 0u128);
    for byte in text.bytes() {
        let value = low * 10 + u128::from(byte - b'0');
        low = value & ((1 << LOW_BITS) - 1);
        high = high * 10 + (value >> LOW_BITS);
    }
    Some((high, low))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn a_number_has_the_service_s_layout_and_56_digits() {
        let number =
            Number { created_s: 1_421_376_801, shard: ShardId(0), place: 0, arrival_s: 1_421_376_801 };
        // 2 | 054b87521... as hexadecimal digits, see above.
        let hex = format!("2{:09x}{:x}{:016x}00{:09x}{:08x}2", 1_421_376_801u64, 0, 0, 1_421_376_801u64, 0);
        let (mut high, mut low) = (0u128, 0u128);
        for digit in hex.chars() {
            high = high << 4 | low >> 116;
            low = low << 4 & ((1 << 120) - 1) | u128::from(digit.to_digit(16).unwrap());
        }
        assert_eq!(number.text(), decimal(high, low));
        assert_eq!(number.text().len(), 56);
    }

    /// Published by AWS in the API reference of PutRecord.
    #[test]
    fn a_number_of_the_documentation_reads_as_one() {
        let number = Number::parse("49543463076548007577105092703039560359975228518395019266").unwrap();
        assert_eq!(number.shard, ShardId(0));
        assert_eq!(number.text(), "49543463076548007577105092703039560359975228518395019266");
    }

    #[test]
    fn numbers_round_trip_and_grow_with_place_and_with_the_shard_s_age() {
        let mut rng = Rng::new(8);
        for _ in 0..5000 {
            let number = Number {
                created_s: 1_400_000_000 + rng.below(1_000_000_000),
                shard: ShardId(rng.below(1 << 31) as u32),
                place: rng.below(1 << 62),
                arrival_s: 1_400_000_000 + rng.below(1_000_000_000),
            };
            assert_eq!(Number::parse(&number.text()), Some(number));
            let later = Number { place: number.place + 1, arrival_s: rng.below(1 << 31), ..number };
            assert!(later.text() > number.text());
            let child = Number { created_s: number.created_s + 1, place: 0, ..number };
            assert!(child.text() > number.text());
        }
    }

    #[test]
    fn what_is_no_number_of_ours_is_refused() {
        for bad in ["", "0", "1", "x", &"9".repeat(57), &"9".repeat(129), &"1".repeat(56)] {
            assert_eq!(Number::parse(bad), None, "{bad}");
        }
    }
}
