//! The bytes of a fragment's frames, one frame after the other, in pieces that stay where they came in: what is not copied
//! costs nothing until it is written. Pure. Never: which frame is where.

use bytes::Bytes;

/// Bytes in pieces; equal to others that are the same bytes in other pieces.
#[derive(Debug, Clone, Default)]
pub struct Data {
    pieces: Vec<Bytes>,
    len: usize,
}

impl Data {
    /// How many bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The pieces, in their order.
    #[must_use]
    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    /// All of it in one.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.pieces.concat()
    }

    /// Adds bytes behind the others.
    pub fn push(&mut self, piece: Bytes) {
        self.len += piece.len();
        if !piece.is_empty() {
            self.pieces.push(piece);
        }
    }

    /// Adds a part of `whole`: one piece with the part before it, where it lies behind that.
    pub fn push_part(&mut self, whole: &Bytes, part: &[u8]) {
        let start = whole.as_ptr().addr();
        let end = part.as_ptr().addr() + part.len();
        let before = self.pieces.last().map(|last| (last.as_ptr().addr(), last.as_ptr().addr() + last.len()));
        match before.filter(|(from, to)| *from >= start && *to == part.as_ptr().addr()) {
            // Two allocations may touch: only what lies in the same one is one piece.
            Some((from, _)) if end <= start + whole.len() => {
                self.pieces.pop();
                self.pieces.push(whole.slice(from - start..end - start));
                self.len += part.len();
            }
            _ => self.push(whole.slice_ref(part)),
        }
    }

    /// Copies all of it, so that nothing else is kept for its sake.
    pub fn detach(&mut self) {
        *self = Data::from(self.to_vec());
    }
}

impl From<Vec<u8>> for Data {
    fn from(bytes: Vec<u8>) -> Data {
        let mut data = Data::default();
        data.push(Bytes::from(bytes));
        data
    }
}

impl PartialEq for Data {
    fn eq(&self, other: &Data) -> bool {
        let all = |data: &Data| data.pieces.iter().flatten().copied().collect::<Vec<u8>>();
        self.len == other.len && (self.pieces == other.pieces || all(self) == all(other))
    }
}

impl Eq for Data {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_lie_behind_each_other_are_one_piece_and_others_are_not() {
        let whole = Bytes::from((0..100).collect::<Vec<u8>>());
        let mut data = Data::default();
        for range in [0..10, 10..20, 30..40, 40..41, 5..6] {
            data.push_part(&whole, &whole[range]);
        }
        let lens: Vec<usize> = data.pieces().iter().map(Bytes::len).collect();
        assert_eq!((lens, data.len()), (vec![20, 11, 1], 32));
        let want: Vec<u8> = (0..20).chain(30..41).chain(5..6).collect();
        assert_eq!(data, Data::from(want.clone()));
        assert_eq!(data.to_vec(), want);
        data.detach();
        assert_eq!((data.pieces().len(), data.to_vec()), (1, want));
        assert_ne!(data, Data::default());
    }

    #[test]
    fn what_only_happens_to_touch_is_never_joined() {
        let all = Bytes::from(vec![7; 20]);
        // Two wholes that are neighbours in memory, as two allocations may be.
        let (one, other) = (all.slice(..10), all.slice(10..));
        let mut data = Data::default();
        data.push_part(&one, &one[..]);
        data.push_part(&other, &other[..]);
        assert_eq!((data.pieces().len(), data.len()), (2, 20));
    }
}
