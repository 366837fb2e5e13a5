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

    /// Whether that is its partition key. Asked of every record that is read, so nothing is allocated for it.
    #[must_use]
    pub fn has_partition_key(self, key: &str) -> bool {
        let numbers = key.strip_prefix("producer-").and_then(|rest| rest.split_once("-key-"));
        let is = |text: &str, number: u32| {
            !text.starts_with(['0', '+']) | (text == "0") && text.parse() == Ok(number)
        };
        numbers.is_some_and(|(producer, of_it)| is(producer, self.producer) && is(of_it, self.key))
    }

    fn chance(self) -> Rng {
        let seed = u64::from(self.producer) << 56 ^ u64::from(self.key) << 40 ^ u64::from(self.number);
        let mut rng = Rng::new(seed);
        rng.fork()
    }

    /// Bytes of its data: mostly few, now and then many.
    #[must_use]
    pub fn data_len(self) -> usize {
        data_len(&mut self.chance())
    }

    /// Its data, piece by piece.
    fn pieces(self) -> impl Iterator<Item = ([u8; 8], usize)> {
        let mut rng = self.chance();
        let mut bytes = rng.clone().fork();
        let mut left = data_len(&mut rng);
        let mut head = [self.producer, self.key, self.number].into_iter();
        std::iter::from_fn(move || {
            let mut piece = [0; 8];
            let len = if let Some(field) = head.next() {
                piece[..4].copy_from_slice(&field.to_le_bytes());
                4
            } else {
                piece = bytes.next_u64().to_le_bytes();
                left.min(8)
            };
            left -= len;
            (len > 0).then_some((piece, len))
        })
    }

    /// Its data.
    #[must_use]
    pub fn data(self) -> Vec<u8> {
        let mut data = Vec::with_capacity(self.data_len());
        self.pieces().for_each(|(piece, len)| data.extend_from_slice(&piece[..len]));
        data
    }

    /// The record that has this data; `None` where it is not, byte for byte, what was made.
    #[must_use]
    pub fn of(data: &[u8]) -> Option<RecordId> {
        let field = |at: usize| Some(u32::from_le_bytes(data.get(at..at + 4)?.try_into().ok()?));
        let id = RecordId { producer: field(0)?, key: field(4)?, number: field(8)? };
        let mut rest = data;
        for (piece, len) in id.pieces() {
            rest = rest.strip_prefix(&piece[..len])?;
        }
        rest.is_empty().then_some(id)
    }
}

fn data_len(rng: &mut Rng) -> usize {
    let padding = match rng.below(40) {
        0 => rng.below(3000),
        1..8 => rng.below(400),
        _ => rng.below(40),
    };
    HEAD_BYTES + padding as usize
}
