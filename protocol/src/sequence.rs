//! Places in a shard. Pure.

use std::fmt;
use std::ops::Add;

use serde::{Deserialize, Serialize};

/// A shard of one stream: `shardId-000000000007` in the Kinesis API is 7 here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShardId(pub u32);

impl ShardId {
    /// No shard yet: what an agent writes into a frame before the store has routed it.
    pub const UNROUTED: ShardId = ShardId(u32::MAX);
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shardId-{:012}", self.0)
    }
}

/// A record's place in its shard: dense within a shard, and greater in a child than anywhere in its parents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SequenceNumber(pub u64);

impl Add<u64> for SequenceNumber {
    type Output = SequenceNumber;
    fn add(self, count: u64) -> SequenceNumber {
        SequenceNumber(self.0 + count)
    }
}

impl fmt::Display for SequenceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
