//! What becomes of a batch, and the answer that says so. Pure. How an answer is written is a wire's business.

use crate::frame::Header;
use crate::name::StreamKey;
use crate::sequence::{SequenceNumber, ShardId};

/// Where records of a batch were stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// In which shard.
    pub shard: ShardId,
    /// From which sequence number.
    pub first_sequence: SequenceNumber,
    /// How many.
    pub record_count: u32,
}

/// Why a record or a batch can never be stored as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefuseCode {
    /// Its data is longer than the stream takes.
    RecordTooLarge,
    /// The batch does not open: damaged before its checksum was made.
    BadBatch,
    /// There is no such stream, and none may be made.
    NoSuchStream,
    /// The sender may not write there.
    Denied,
}

const REFUSE_CODES: [(RefuseCode, u8, &str); 4] = [
    (RefuseCode::RecordTooLarge, 1, "larger than the stream takes"),
    (RefuseCode::BadBatch, 2, "the batch does not open"),
    (RefuseCode::NoSuchStream, 3, "no such stream"),
    (RefuseCode::Denied, 4, "not allowed"),
];

impl RefuseCode {
    pub(crate) fn to_byte(self) -> u8 {
        REFUSE_CODES.iter().find(|(code, ..)| *code == self).map_or(0, |(_, byte, _)| *byte)
    }

    pub(crate) fn from_byte(byte: u8) -> Option<RefuseCode> {
        REFUSE_CODES.iter().find(|(_, b, _)| *b == byte).map(|(code, ..)| *code)
    }

    /// For people and ledgers.
    #[must_use]
    pub fn text(self) -> &'static str {
        REFUSE_CODES.iter().find(|(code, ..)| *code == self).map_or("", |(.., text)| text)
    }
}

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is durable (or as durable as the stream promises), all but the `refused` records.
    Stored {
        /// Where; more than one entry where the batch straddled shards.
        parts: Vec<Stored>,
        /// Records that were left out, by their place in the batch.
        refused: Vec<(u32, RefuseCode)>,
    },
    /// It had been stored before, and is durable.
    Duplicate,
    /// A shard is over its rate, and nothing was stored. The same for every later batch of the lane that is
    /// on its way.
    Throttled {
        /// When to come back, in milliseconds from now.
        retry_after_ms: u32,
        /// Which shard.
        shard: ShardId,
    },
    /// A batch before this one is missing, so nothing was stored.
    OutOfSequence {
        /// Which one is wanted.
        expected: u64,
    },
    /// The store can't now (disk full, stream not ready), and nothing was stored: try again.
    Busy {
        /// When to come back, in milliseconds from now.
        retry_after_ms: u32,
    },
    /// It never will be stored, and counts as done: put it into the loss ledger.
    Refused(RefuseCode),
}

/// The answer to one append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// Of the batch.
    pub stream: StreamKey,
    /// Of the batch.
    pub lane: u32,
    /// Of the batch.
    pub producer_sequence: u64,
    /// What became of it.
    pub outcome: Outcome,
}

impl Ack {
    /// An answer to the batch with this header.
    #[must_use]
    pub fn to(header: &Header, outcome: Outcome) -> Ack {
        Ack { stream: header.stream, lane: header.lane, producer_sequence: header.producer_sequence, outcome }
    }
}
