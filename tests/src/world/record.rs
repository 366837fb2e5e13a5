//! What a simulated record holds: who made it, under which key, its number there, and bytes that follow from those,
//! so that a record proves by itself whether it is whole. Pure.

use protocol::rng::Rng;

/// Bytes before the padding.
const HEAD_BYTES: usize = 12;

/// One record of one key of one producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordId {
    /// Whose.
    pub producer: u32,
    /// Under which of its keys.
    pub key: u32,
    /// From 0, without gaps within the key.
    pub number: u32,
}

impl RecordId {
    /// Its partition key.
    #[must_use]
    pub fn partition_key(self) -> String {
        format!("producer-{}-key-{}", self.producer, self.key)
    }

    fn chance(self) -> Rng {
        let seed = u64::from(self.producer) << 56 ^ u64::from(self.key) << 40 ^ u64::from(self.number);
        let mut rng = Rng::new(seed);
        rng.fork()
    }

    /// Bytes of its data: mostly few, now and then many.
    #[must_use]
    pub fn data_len(self) -> usize {
        let mut rng = self.chance();
        let padding = match rng.below(40) {
            0 => rng.below(3000),
            1..8 => rng.below(400),
            _ => rng.below(40),
        };
        HEAD_BYTES + padding as usize
    }

    /// Its data.
    #[must_use]
    pub fn data(self) -> Vec<u8> {
        let mut data = Vec::with_capacity(self.data_len());
        for field in [self.producer, self.key, self.number] {
            data.extend_from_slice(&field.to_le_bytes());
        }
        let mut rng = self.chance().fork();
        let len = self.data_len();
        while data.len() < len {
            data.extend_from_slice(&rng.next_u64().to_le_bytes());
        }
        data.truncate(len);
        data
    }

    /// The record that has this data; `None` where it is not, byte for byte, what was made.
    #[must_use]
    pub fn of(data: &[u8]) -> Option<RecordId> {
        let field = |at: usize| Some(u32::from_le_bytes(data.get(at..at + 4)?.try_into().ok()?));
        let id = RecordId { producer: field(0)?, key: field(4)?, number: field(8)? };
        (id.data() == data).then_some(id)
    }
}
