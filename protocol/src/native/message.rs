//! The envelope of every message on the native wire, and the messages of the hot path. Pure.
//!
//! A message is `u32 length` (little-endian, of what follows), `u8 type`, and its body. Lengths are checked
//! against a bound that depends on whether the other side is known yet, before anything is allocated.

use crate::bytes::{BytesError, Cursor, put_varint};
use crate::name::StreamKey;
use crate::sequence::{SequenceNumber, ShardId};

pub use crate::outcome::{Ack, Outcome, RefuseCode, Stored};

/// Length of the envelope before the type.
pub const PREFIX_BYTES: usize = 4;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Type {
    /// Client first: who it is and what it speaks (JSON [`super::call::Hello`]).
    Hello,
    /// The store's answer to a hello (JSON [`super::call::Welcome`]).
    Welcome,
    /// One batch: the body is a frame ([`crate::frame`]).
    Append,
    /// The answer to one append ([`Ack`]).
    Ack,
    /// A rare request: `u64 id`, JSON [`super::call::Call`].
    Call,
    /// Its answer: `u64 id`, JSON [`super::call::Reply`].
    Reply,
    /// The answer to a read call: [`ReadHead`], then whole frames.
    Batches,
    /// The store tells of a changed stream (JSON [`super::call::StreamInfo`]).
    StreamChanged,
    /// The last message before the connection closes (JSON [`super::call::Goodbye`]).
    Goodbye,
    /// Are you there? Empty.
    Ping,
    /// I am. Empty.
    Pong,
}

const TYPES: [(Type, u8); 11] = [
    (Type::Hello, 1),
    (Type::Welcome, 2),
    (Type::Append, 3),
    (Type::Ack, 4),
    (Type::Call, 5),
    (Type::Reply, 6),
    (Type::Batches, 7),
    (Type::StreamChanged, 8),
    (Type::Goodbye, 9),
    (Type::Ping, 10),
    (Type::Pong, 11),
];

impl Type {
    fn to_byte(self) -> u8 {
        TYPES.iter().find(|(kind, _)| *kind == self).map_or(0, |(_, byte)| *byte)
    }

    fn from_byte(byte: u8) -> Option<Type> {
        TYPES.iter().find(|(_, b)| *b == byte).map(|(kind, _)| *kind)
    }
}

/// Why bytes are no message. The connection can't go on after one of these.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Its length is over the bound that holds now.
    #[error("message of {len} bytes; at most {max} are taken here")]
    TooLong {
        /// What it says.
        len: usize,
        /// What is allowed.
        max: usize,
    },
    /// It has no type.
    #[error("message without a type")]
    Empty,
    /// Its type is not known.
    #[error("message of unknown type {0}")]
    UnknownType(u8),
    /// Its body can't be read.
    #[error("{kind:?} message {why}")]
    Body {
        /// Of which type.
        kind: Type,
        /// Where it ends too early.
        why: BytesError,
    },
    /// Its body has a value that means nothing.
    #[error("{kind:?} message: {what} is {value}")]
    Value {
        /// Of which type.
        kind: Type,
        /// Which field.
        what: &'static str,
        /// What it holds.
        value: u64,
    },
    /// Its JSON can't be read.
    #[error("{kind:?} message: {why}")]
    Json {
        /// Of which type.
        kind: Type,
        /// What the parser says.
        why: String,
    },
}

/// Appends a message.
pub fn put_message(kind: Type, body: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&prefix(kind, body.len()));
    out.extend_from_slice(body);
}

/// The bytes before a body of `body_len`, for senders that do not want to copy it.
#[must_use]
pub fn prefix(kind: Type, body_len: usize) -> [u8; PREFIX_BYTES + 1] {
    let mut out = [0; PREFIX_BYTES + 1];
    out[..PREFIX_BYTES].copy_from_slice(&((body_len + 1) as u32).to_le_bytes());
    out[PREFIX_BYTES] = kind.to_byte();
    out
}

/// Appends a message whose body is JSON.
pub fn put_json<T: serde::Serialize>(kind: Type, value: &T, out: &mut Vec<u8>) {
    // Our own types have string keys and no failing serializers, so there is no error to report.
    let body = serde_json::to_vec(value).unwrap_or_default();
    put_message(kind, &body, out);
}

/// Appends a call or a reply.
pub fn put_call<T: serde::Serialize>(kind: Type, id: u64, value: &T, out: &mut Vec<u8>) {
    let mut body = id.to_le_bytes().to_vec();
    body.extend_from_slice(&serde_json::to_vec(value).unwrap_or_default());
    put_message(kind, &body, out);
}

/// A message, borrowed from the bytes that came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// What it is.
    pub kind: Type,
    /// What it holds.
    pub body: &'a [u8],
}

impl<'a> Message<'a> {
    /// The message that `bytes` starts with and its whole length; `Ok(None)` where more bytes are wanted.
    ///
    /// # Errors
    /// As soon as the length or the type is wrong, however little has arrived.
    pub fn parse(bytes: &'a [u8], len_max: usize) -> Result<Option<(Message<'a>, usize)>, MessageError> {
        let Some(total) = Message::len(bytes, len_max)? else { return Ok(None) };
        let kind = bytes.get(PREFIX_BYTES).map(|b| Type::from_byte(*b).ok_or(MessageError::UnknownType(*b)));
        let Some(kind) = kind.transpose()? else { return Ok(None) };
        if bytes.len() < total {
            return Ok(None);
        }
        Ok(Some((Message { kind, body: &bytes[PREFIX_BYTES + 1..total] }, total)))
    }

    /// Length of the message that `bytes` starts with, prefix included, as soon as it is known.
    ///
    /// # Errors
    /// When it is over `len_max`, or zero.
    pub fn len(bytes: &[u8], len_max: usize) -> Result<Option<usize>, MessageError> {
        let mut prefix = [0u8; PREFIX_BYTES];
        let Some(found) = bytes.get(..PREFIX_BYTES) else { return Ok(None) };
        prefix.copy_from_slice(found);
        match u32::from_le_bytes(prefix) as usize {
            0 => Err(MessageError::Empty),
            len if len > len_max => Err(MessageError::TooLong { len, max: len_max }),
            len => Ok(Some(PREFIX_BYTES + len)),
        }
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// When it is not what is wanted.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, MessageError> {
        read_json(self.kind, self.body)
    }

    /// The body as an id and JSON, of a call or a reply.
    ///
    /// # Errors
    /// When it is not what is wanted.
    pub fn call<T: serde::de::DeserializeOwned>(&self) -> Result<(u64, T), MessageError> {
        let mut cursor = Cursor::new(self.body);
        let id = cursor.u64().map_err(|why| MessageError::Body { kind: self.kind, why })?;
        Ok((id, read_json(self.kind, cursor.rest())?))
    }
}

fn read_json<T: serde::de::DeserializeOwned>(kind: Type, body: &[u8]) -> Result<T, MessageError> {
    serde_json::from_slice(body).map_err(|e| MessageError::Json { kind, why: e.to_string() })
}

impl Ack {
    /// Appends the whole message.
    pub fn put(&self, out: &mut Vec<u8>) {
        let mut body = Vec::with_capacity(48);
        body.extend_from_slice(&self.stream.0.to_le_bytes());
        put_varint(&mut body, u64::from(self.lane));
        put_varint(&mut body, self.producer_sequence);
        match &self.outcome {
            Outcome::Stored { parts, refused } => {
                body.push(0);
                put_varint(&mut body, parts.len() as u64);
                for part in parts {
                    put_varint(&mut body, u64::from(part.shard.0));
                    put_varint(&mut body, part.first_sequence.0);
                    put_varint(&mut body, u64::from(part.record_count));
                }
                put_varint(&mut body, refused.len() as u64);
                for (index, code) in refused {
                    put_varint(&mut body, u64::from(*index));
                    body.push(code.to_byte());
                }
            }
            Outcome::Duplicate => body.push(1),
            Outcome::Throttled { retry_after_ms, shard } => {
                body.push(2);
                put_varint(&mut body, u64::from(*retry_after_ms));
                put_varint(&mut body, u64::from(shard.0));
            }
            Outcome::OutOfSequence { expected } => {
                body.push(3);
                put_varint(&mut body, *expected);
            }
            Outcome::Busy { retry_after_ms } => {
                body.push(4);
                put_varint(&mut body, u64::from(*retry_after_ms));
            }
            Outcome::Refused(code) => {
                body.push(5);
                body.push(code.to_byte());
            }
        }
        put_message(Type::Ack, &body, out);
    }

    /// Reads a message's body.
    ///
    /// # Errors
    /// When it ends too early or has a value that means nothing.
    pub fn parse(body: &[u8]) -> Result<Ack, MessageError> {
        let kind = Type::Ack;
        let mut cursor = Cursor::new(body);
        Ack::read(&mut cursor).map_err(|error| match error {
            AckError::Bytes(why) => MessageError::Body { kind, why },
            AckError::Value(what, value) => MessageError::Value { kind, what, value },
        })
    }

    fn read(cursor: &mut Cursor<'_>) -> Result<Ack, AckError> {
        let stream = StreamKey(cursor.u64()?);
        let lane = small("lane", cursor.varint()?)?;
        let producer_sequence = cursor.varint()?;
        let outcome = match cursor.u8()? {
            0 => Outcome::Stored { parts: read_parts(cursor)?, refused: read_refused(cursor)? },
            1 => Outcome::Duplicate,
            2 => Outcome::Throttled {
                retry_after_ms: small("retry_after_ms", cursor.varint()?)?,
                shard: ShardId(small("shard", cursor.varint()?)?),
            },
            3 => Outcome::OutOfSequence { expected: cursor.varint()? },
            4 => Outcome::Busy { retry_after_ms: small("retry_after_ms", cursor.varint()?)? },
            5 => Outcome::Refused(read_code(cursor)?),
            other => return Err(AckError::Value("outcome", u64::from(other))),
        };
        Ok(Ack { stream, lane, producer_sequence, outcome })
    }
}

enum AckError {
    Bytes(BytesError),
    Value(&'static str, u64),
}

impl From<BytesError> for AckError {
    fn from(error: BytesError) -> AckError {
        AckError::Bytes(error)
    }
}

fn small(what: &'static str, value: u64) -> Result<u32, AckError> {
    u32::try_from(value).map_err(|_| AckError::Value(what, value))
}

fn read_code(cursor: &mut Cursor<'_>) -> Result<RefuseCode, AckError> {
    let byte = cursor.u8()?;
    RefuseCode::from_byte(byte).ok_or(AckError::Value("refuse code", u64::from(byte)))
}

// Counts are bounded by the bytes that are there: each entry takes at least two.
fn read_parts(cursor: &mut Cursor<'_>) -> Result<Vec<Stored>, AckError> {
    let count = cursor.varint()?;
    if count > cursor.rest().len() as u64 {
        return Err(AckError::Value("part count", count));
    }
    (0..count)
        .map(|_| {
            Ok(Stored {
                shard: ShardId(small("shard", cursor.varint()?)?),
                first_sequence: SequenceNumber(cursor.varint()?),
                record_count: small("record count", cursor.varint()?)?,
            })
        })
        .collect()
}

fn read_refused(cursor: &mut Cursor<'_>) -> Result<Vec<(u32, RefuseCode)>, AckError> {
    let count = cursor.varint()?;
    if count > cursor.rest().len() as u64 {
        return Err(AckError::Value("refused count", count));
    }
    (0..count).map(|_| Ok((small("refused index", cursor.varint()?)?, read_code(cursor)?))).collect()
}

/// What a [`Type::Batches`] message starts with; whole frames follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadHead {
    /// Of the call that this answers.
    pub id: u64,
    /// Where the next read should start.
    pub next: SequenceNumber,
    /// After the last durable record of the shard.
    pub tail: SequenceNumber,
    /// The shard is closed and this answer reaches its end.
    pub at_end: bool,
    /// The records up to `next` are damaged and can't be read. No frames follow; reading goes on at `next`.
    pub damaged: bool,
    /// How far the last record in here is behind the store's clock, in milliseconds; 0 at the tail.
    pub behind_ms: u64,
}

impl ReadHead {
    /// Length of a head.
    pub const BYTES: usize = 8 * 4 + 1;

    /// Appends the head's bytes (not the envelope).
    pub fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&self.next.0.to_le_bytes());
        out.extend_from_slice(&self.tail.0.to_le_bytes());
        out.push(u8::from(self.at_end) | u8::from(self.damaged) << 1);
        out.extend_from_slice(&self.behind_ms.to_le_bytes());
    }

    /// Reads a head; what follows it are frames.
    ///
    /// # Errors
    /// When the body is too short.
    pub fn parse(body: &[u8]) -> Result<(ReadHead, &[u8]), MessageError> {
        let mut cursor = Cursor::new(body);
        let mut read = || {
            let (id, next, tail) =
                (cursor.u64()?, SequenceNumber(cursor.u64()?), SequenceNumber(cursor.u64()?));
            let flags = cursor.u8()?;
            let (at_end, damaged) = (flags & 1 != 0, flags & 2 != 0);
            Ok(ReadHead { id, next, tail, at_end, damaged, behind_ms: cursor.u64()? })
        };
        let head = read().map_err(|why| MessageError::Body { kind: Type::Batches, why })?;
        Ok((head, cursor.rest()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn examples() -> Vec<Ack> {
        let outcomes = [
            Outcome::Stored {
                parts: vec![Stored {
                    shard: ShardId(1),
                    first_sequence: SequenceNumber(900),
                    record_count: 3,
                }],
                refused: vec![(2, RefuseCode::RecordTooLarge)],
            },
            Outcome::Duplicate,
            Outcome::Throttled { retry_after_ms: 1500, shard: ShardId(4) },
            Outcome::OutOfSequence { expected: 8 },
            Outcome::Busy { retry_after_ms: 20 },
            Outcome::Refused(RefuseCode::BadBatch),
        ];
        outcomes
            .into_iter()
            .map(|outcome| Ack { stream: StreamKey(7), lane: 2, producer_sequence: 1 << 40, outcome })
            .collect()
    }

    #[test]
    fn acks_survive_the_round_trip_and_every_truncation_is_refused() {
        for ack in examples() {
            let mut out = Vec::new();
            ack.put(&mut out);
            let (message, len) = Message::parse(&out, 1000).unwrap().unwrap();
            assert_eq!((message.kind, len), (Type::Ack, out.len()));
            assert_eq!(Ack::parse(message.body), Ok(ack));
            for cut in 0..message.body.len() {
                assert!(Ack::parse(&message.body[..cut]).is_err());
            }
        }
    }

    #[test]
    fn a_message_over_the_bound_is_refused_by_its_first_four_bytes() {
        assert_eq!(
            Message::parse(&[0xff; 4], 100),
            Err(MessageError::TooLong { len: u32::MAX as usize, max: 100 })
        );
        assert_eq!(Message::parse(&[0, 0, 0, 0], 100), Err(MessageError::Empty));
        assert_eq!(Message::parse(&[9, 0, 0, 0, 200], 100), Err(MessageError::UnknownType(200)));
        assert_eq!(Message::parse(&[9, 0, 0], 100), Ok(None));
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut rng = Rng::new(9);
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..rng.below(40)).map(|_| rng.next_u64() as u8).collect();
            let _ = Ack::parse(&bytes);
            let _ = ReadHead::parse(&bytes);
            let _ = Message::parse(&bytes, 1 << 20);
        }
    }
}
