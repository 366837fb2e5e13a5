//! What the newest fragment of a stream said, so that it need not be read again for the next one. Derived, one for each open
//! stream, and gone with it: it counts only while nothing came after that fragment. Never: what a fragment is, the log.

use std::sync::{Arc, Mutex};

use protocol::sequence::{SequenceNumber, ShardId};

use super::locked;

/// A fragment that was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    shard: ShardId,
    /// The number after its last frame.
    end: SequenceNumber,
    /// How many of its stream were within others, with it.
    within: u64,
}

/// The newest fragment that was stored since the stream was opened.
#[derive(Debug, Clone, Default)]
pub(super) struct Newest(Arc<Mutex<Option<Seen>>>);

impl Newest {
    /// How many were within others up to the fragment that ends at a shard's tail. Nothing where that is not the one which
    /// is known here.
    pub(super) fn within(&self, shard: ShardId, tail: SequenceNumber) -> Option<u64> {
        let seen = (*locked(&self.0))?;
        ((seen.shard, seen.end) == (shard, tail)).then_some(seen.within)
    }

    /// A fragment is durable. Two writers may hear of theirs in any order.
    pub(super) fn stored(&self, shard: ShardId, end: SequenceNumber, within: u64) {
        let mut seen = locked(&self.0);
        if seen.is_none_or(|seen| seen.shard != shard || seen.end < end) {
            *seen = Some(Seen { shard, end, within });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_fragment_at_the_tail_is_known_whoever_heard_of_theirs_first() {
        let newest = Newest::default();
        let (shard, end) = (ShardId(0), SequenceNumber);
        assert_eq!(newest.within(shard, end(0)), None);
        newest.stored(shard, end(20), 2);
        newest.stored(shard, end(10), 1);
        assert_eq!(newest.within(shard, end(20)), Some(2));
        assert_eq!(newest.within(shard, end(30)), None, "something came after it");
        assert_eq!(newest.within(ShardId(1), end(20)), None);
    }
}
