//! Aggregated records of the Kinesis Producer Library: many records in the data of one, so that small ones cost less.
//! Pure. The form is that of the library's `aggregation-format.md`:
//!
//! ```text
//! F3 89 9A C2 | message AggregatedRecord | MD5 of the message (16)
//!
//! message Tag              { required string key = 1; optional string value = 2; }
//! message Record           { required uint64 partition_key_index = 1; optional uint64 explicit_hash_key_index = 2;
//!                            required bytes data = 3; repeated Tag tags = 4; }
//! message AggregatedRecord { repeated string partition_key_table = 1; repeated string explicit_hash_key_table = 2;
//!                            repeated Record records = 3; }
//! ```
//!
//! What has the first bytes by chance and not the rest, is a record like any other.

use std::collections::HashMap;

use md5::{Digest, Md5};

use crate::bytes::{Cursor, put_varint};
use crate::hash::HashKey;

/// The first bytes.
pub const MAGIC: [u8; 4] = [0xf3, 0x89, 0x9a, 0xc2];
const DIGEST_BYTES: usize = 16;
/// Wire types of protobuf.
const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const LENGTH: u64 = 2;
const FIXED_32: u64 = 5;

/// A record within an aggregated one. Its tags, which nobody writes, are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubRecord<'a> {
    /// Its own partition key.
    pub partition_key: &'a str,
    /// Where it was to land, if not where its partition key says.
    pub explicit_hash_key: Option<HashKey>,
    /// What it holds.
    pub data: &'a [u8],
}

/// The records in a record's data, in order; `None` for one that is not aggregated.
#[must_use]
pub fn open(data: &[u8]) -> Option<Vec<SubRecord<'_>>> {
    let (message, digest) = data.strip_prefix(&MAGIC)?.split_last_chunk::<DIGEST_BYTES>()?;
    let right: [u8; DIGEST_BYTES] = Md5::digest(message).into();
    if right != *digest {
        return None;
    }
    let (mut keys, mut hash_keys, mut records) = (Vec::new(), Vec::new(), Vec::new());
    for field in fields(message)? {
        match field {
            (1, Field::Bytes(key)) => keys.push(std::str::from_utf8(key).ok()?),
            (2, Field::Bytes(key)) => {
                hash_keys.push(std::str::from_utf8(key).ok()?.parse().ok().map(HashKey)?)
            }
            (3, Field::Bytes(record)) => records.push(record),
            _ => {}
        }
    }
    records.into_iter().map(|record| sub_record(record, &keys, &hash_keys)).collect()
}

fn sub_record<'a>(message: &'a [u8], keys: &[&'a str], hash_keys: &[HashKey]) -> Option<SubRecord<'a>> {
    let (mut key, mut explicit_hash_key, mut data) = (None, None, None);
    for field in fields(message)? {
        match field {
            (1, Field::Number(index)) => key = Some(*keys.get(usize::try_from(index).ok()?)?),
            (2, Field::Number(index)) => {
                explicit_hash_key = Some(*hash_keys.get(usize::try_from(index).ok()?)?);
            }
            (3, Field::Bytes(bytes)) => data = Some(bytes),
            _ => {}
        }
    }
    Some(SubRecord { partition_key: key?, explicit_hash_key, data: data? })
}

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Other,
}

/// The fields of a message; `None` where it is none.
fn fields(message: &[u8]) -> Option<Vec<(u64, Field<'_>)>> {
    let (mut cursor, mut fields) = (Cursor::new(message), Vec::new());
    while !cursor.rest().is_empty() {
        let tag = cursor.varint().ok()?;
        let field = match tag & 7 {
            VARINT => Field::Number(cursor.varint().ok()?),
            LENGTH => {
                let length = usize::try_from(cursor.varint().ok()?).ok()?;
                Field::Bytes(cursor.take(length).ok()?)
            }
            FIXED_64 => cursor.take(8).ok().map(|_| Field::Other)?,
            FIXED_32 => cursor.take(4).ok().map(|_| Field::Other)?,
            _ => return None,
        };
        fields.push((tag >> 3, field));
    }
    Some(fields)
}

/// Makes aggregated records.
#[derive(Debug, Default)]
pub struct Aggregator {
    keys: Table,
    hash_keys: Table,
    records: Vec<u8>,
    count: usize,
}

/// Texts that are written once.
#[derive(Debug, Default)]
struct Table {
    places: HashMap<String, u64>,
    message: Vec<u8>,
}

impl Table {
    fn place(&mut self, field: u64, text: &str) -> u64 {
        if let Some(place) = self.places.get(text) {
            return *place;
        }
        let place = self.places.len() as u64;
        self.places.insert(text.to_owned(), place);
        put_bytes(field, text.as_bytes(), &mut self.message);
        place
    }
}

fn put_bytes(field: u64, bytes: &[u8], out: &mut Vec<u8>) {
    put_varint(out, field << 3 | LENGTH);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

impl Aggregator {
    /// Records in it.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes that it will have as it is.
    #[must_use]
    pub fn bytes(&self) -> usize {
        MAGIC.len()
            + self.keys.message.len()
            + self.hash_keys.message.len()
            + self.records.len()
            + DIGEST_BYTES
    }

    /// Bytes that it will have at most with this record too.
    #[must_use]
    pub fn bytes_with(&self, record: &SubRecord<'_>) -> usize {
        // Tags, lengths and places have 10 bytes each at most, a hash key 39 digits.
        self.bytes() + record.partition_key.len() + record.data.len() + 39 + 7 * 10
    }

    /// One record more.
    pub fn push(&mut self, record: &SubRecord<'_>) {
        let mut message = Vec::with_capacity(record.data.len() + 24);
        put_varint(&mut message, 1 << 3 | VARINT);
        put_varint(&mut message, self.keys.place(1, record.partition_key));
        if let Some(key) = record.explicit_hash_key {
            put_varint(&mut message, 2 << 3 | VARINT);
            put_varint(&mut message, self.hash_keys.place(2, &key.to_string()));
        }
        put_bytes(3, record.data, &mut message);
        put_bytes(3, &message, &mut self.records);
        self.count += 1;
    }

    /// The data of the aggregated record; it is empty again afterwards. `None` while there is nothing in it.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        if self.count == 0 {
            return None;
        }
        let mut out = Vec::with_capacity(self.bytes());
        out.extend_from_slice(&MAGIC);
        let full = std::mem::take(self);
        for part in [full.keys.message, full.hash_keys.message, full.records] {
            out.extend_from_slice(&part);
        }
        let digest = Md5::digest(&out[MAGIC.len()..]);
        out.extend_from_slice(&digest);
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
    }

    fn some() -> Vec<SubRecord<'static>> {
        let record = |partition_key, explicit: Option<u128>, data| SubRecord {
            partition_key,
            explicit_hash_key: explicit.map(HashKey),
            data,
        };
        vec![
            record("k1", None, b"one".as_slice()),
            record("k2", Some(7), b""),
            record("k1", Some(u128::MAX), b"\x00\xff"),
            record("k1", None, b"four"),
        ]
    }

    #[test]
    fn what_goes_in_comes_out_in_order() {
        let mut aggregator = Aggregator::default();
        assert_eq!(aggregator.take(), None);
        for record in some() {
            let most = aggregator.bytes_with(&record);
            aggregator.push(&record);
            assert!(aggregator.bytes() <= most);
        }
        let bytes = aggregator.bytes();
        let data = aggregator.take().unwrap();
        assert_eq!((data.len(), aggregator.count()), (bytes, 0));
        assert_eq!(open(&data).unwrap(), some());
    }

    #[test]
    fn what_the_library_of_others_makes_is_the_same_byte_for_byte() {
        // aws_kinesis_agg.aggregator.RecordAggregator of PyPI's aws-kinesis-agg 1.2.3:
        // add_user_record("k1", b"one"), add_user_record("k2", b"two", "7"), add_user_record("k1", b"three").
        let theirs = unhex(
            "f3899ac20a026b310a026b321201371a0708001a036f6e651a09080110001a0374776f1a0908001a057468726565\
             cf5d41ef5ecea9b336348a1af3fd20aa",
        );
        let records = open(&theirs).unwrap();
        let shown: Vec<_> = records.iter().map(|r| (r.partition_key, r.explicit_hash_key, r.data)).collect();
        assert_eq!(
            shown,
            [("k1", None, b"one".as_slice()), ("k2", Some(HashKey(7)), b"two"), ("k1", None, b"three")]
        );
        let mut aggregator = Aggregator::default();
        records.iter().for_each(|record| aggregator.push(record));
        assert_eq!(aggregator.take().unwrap(), theirs);
    }

    #[test]
    fn anything_else_is_a_record_like_any_other() {
        let mut aggregator = Aggregator::default();
        some().iter().for_each(|record| aggregator.push(record));
        let good = aggregator.take().unwrap();
        for cut in 0..good.len() {
            assert_eq!(open(&good[..cut]), None, "cut at {cut}");
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert_eq!(open(&bad), None, "flipped at {at}");
        }
        // A digest that is right proves nothing about what it is of.
        let mut rng = Rng::new(5);
        for round in 0..20_000usize {
            let mut message = good[4..good.len() - 16].to_vec();
            for _ in 0..=round % 4 {
                let at = rng.next_u64() as usize % message.len();
                message[at] = rng.next_u64() as u8;
            }
            let data = [MAGIC.as_slice(), &message, &Md5::digest(&message)].concat();
            if let Some(records) = open(&data) {
                assert!(records.len() <= message.len());
            }
        }
    }
}
