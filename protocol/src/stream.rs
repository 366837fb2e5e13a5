//! The nouns that a store and everybody who talks to it share: streams, shards, settings, producers, errors. Pure.
//! They are serialisable because several wires write them as JSON; no wire is named here.

use serde::{Deserialize, Serialize};

use crate::bucket::ShardRate;
use crate::hash::HashKeyRange;
use crate::name::{StreamKey, StreamName};
use crate::sequence::{SequenceNumber, ShardId};
use crate::time::UnixMs;

/// A producer that can be recognised again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Producer {
    /// Made at random, once, and kept with the spool. A decimal string in JSON.
    #[serde(with = "u128_text")]
    pub id: u128,
    /// How often it has started; an older epoch is refused once a newer one was seen.
    pub epoch: u32,
}

mod u128_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(value: &u128, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&value.to_string())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u128, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

/// What a stream is told to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamConfig {
    /// How long records are kept, in milliseconds.
    pub retention_ms: u64,
    /// How many bytes of log are kept at most; oldest go first. `None`: as many as retention wants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_bytes: Option<u64>,
    /// What a shard takes in a second; `None` for no limit.
    pub shard_rate: Option<ShardRate>,
    /// Longest record data, in bytes.
    pub record_bytes_max: u32,
    /// When an acknowledgement is given.
    pub fsync: Fsync,
    /// Whose business the number of shards is.
    #[serde(default, skip_serializing_if = "Scaling::is_provisioned")]
    pub scaling: Scaling,
}

impl Default for StreamConfig {
    fn default() -> StreamConfig {
        StreamConfig {
            retention_ms: 24 * 3600 * 1000,
            retention_bytes: None,
            shard_rate: Some(ShardRate::default()),
            record_bytes_max: crate::limit::RECORD_BYTES_MAX_DEFAULT as u32,
            fsync: Fsync::Always,
            scaling: Scaling::Provisioned,
        }
    }
}

/// When an acknowledgement is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fsync {
    /// After `fdatasync`.
    Always,
    /// After the operating system has it; `fdatasync` at least this often, in milliseconds.
    IntervalMs(u32),
}

/// Whose business the number of shards is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scaling {
    /// The owner's.
    #[default]
    Provisioned,
    /// The store's: twice the peak of the last thirty days, as Kinesis does it.
    OnDemand,
    /// The store's: as the load is now.
    Immediate,
}

impl Scaling {
    fn is_provisioned(&self) -> bool {
        *self == Scaling::Provisioned
    }
}

/// A change of shards that the store made by itself, or could not make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resharded {
    /// When.
    pub time: UnixMs,
    /// What was done, for people.
    pub what: String,
    /// Why, for people.
    pub why: String,
}

/// One shard, as others see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardInfo {
    /// Which.
    pub id: ShardId,
    /// Its part of the key space.
    pub range: HashKeyRange,
    /// The shards that it came from.
    #[serde(default)]
    pub parents: Vec<ShardId>,
    /// Oldest sequence number that can be read.
    pub first: SequenceNumber,
    /// After the last durable record.
    pub tail: SequenceNumber,
    /// It takes no more records.
    pub closed: bool,
    /// When it was made.
    pub created: UnixMs,
}

/// One stream, as others see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamInfo {
    /// Its name.
    pub name: StreamName,
    /// What frames carry in place of the name.
    pub key: StreamKey,
    /// When it was made.
    pub created: UnixMs,
    /// How it is set.
    pub config: StreamConfig,
    /// Grows with every split and merge.
    pub map_version: u64,
    /// All shards that can be read, closed ones too, by id.
    pub shards: Vec<ShardInfo>,
    /// Bytes of its log on disk.
    #[serde(default)]
    pub stored_bytes: u64,
    /// The last changes of shards that the store made by itself, oldest first; only where one stream is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resharded: Vec<Resharded>,
}

/// Where to start reading a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartingPosition {
    /// At the oldest record.
    TrimHorizon,
    /// After the newest.
    Latest,
    /// At this sequence number, or the next that is there.
    At(SequenceNumber),
    /// At the first record that arrived at this time or later.
    AtTime(UnixMs),
}

/// Why a call was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct CallError {
    /// For programs.
    pub code: CallErrorCode,
    /// For people: what, where, and what to do next.
    pub message: String,
}

/// Kinds of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallErrorCode {
    /// The named thing is not there.
    NotFound,
    /// The named thing is there already.
    Exists,
    /// The request can't be done as it is written.
    Invalid,
    /// Not for this client.
    Denied,
    /// A bound was reached.
    Limit,
    /// Something in the way that may pass.
    Busy,
    /// The store is at fault.
    Internal,
}
