//! What one commit writes: frames, one after the other, and who waits for them. Pure.
//!
//! Frames of one producer's batch are put in as a whole ([`Group::put`] of each part, `continues` on all but
//! the last), so that a commit never ends between them.

use bytes::Bytes;
use protocol::frame::{HEADER_BYTES, Header};

use crate::log::Entry;

/// Frames that will be made durable together, and what to do then. `W` is whatever the driver needs to answer
/// who waits.
#[derive(Debug)]
pub struct Group<W> {
    /// Headers, and the payloads that were copied.
    bytes: Vec<u8>,
    /// Payloads that stay where they are, each with the place in `bytes` before which it comes.
    shared: Vec<(usize, Bytes)>,
    shared_bytes: usize,
    entries: Vec<Entry>,
    /// Where each entry's header is in `bytes`.
    heads: Vec<usize>,
    waiting: Vec<W>,
}

impl<W> Default for Group<W> {
    fn default() -> Group<W> {
        Group {
            bytes: Vec::new(),
            shared: Vec::new(),
            shared_bytes: 0,
            entries: Vec::new(),
            heads: Vec::new(),
            waiting: Vec::new(),
        }
    }
}

impl<W> Group<W> {
    /// Adds a frame with this header and stored payload.
    pub fn put(&mut self, header: Header, payload: &[u8]) {
        debug_assert_eq!(header.payload_len(), payload.len());
        self.begin(header);
        self.bytes.extend_from_slice(payload);
    }

    /// Adds a frame whose payload lies in pieces, and stays there.
    pub fn put_pieces(&mut self, header: Header, payload: &[Bytes]) {
        debug_assert_eq!(header.payload_len(), payload.iter().map(Bytes::len).sum::<usize>());
        self.begin(header);
        for piece in payload {
            self.shared_bytes += piece.len();
            self.shared.push((self.bytes.len(), piece.clone()));
        }
    }

    fn begin(&mut self, header: Header) {
        self.entries.push(Entry { offset: self.len(), header });
        self.heads.push(self.bytes.len());
        self.bytes.extend_from_slice(&[0; HEADER_BYTES]);
    }

    /// Adds somebody who waits until everything put so far is durable.
    pub fn wait(&mut self, waiting: W) {
        self.waiting.push(waiting);
    }

    /// Who waits.
    #[must_use]
    pub fn waiting(&self) -> &[W] {
        &self.waiting
    }

    /// Nothing to write and nobody waiting.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.waiting.is_empty()
    }

    /// Bytes to write.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() + self.shared_bytes
    }

    /// Writes every header, now that it is known what is durable before the group.
    pub fn finish(&mut self, durable_below: u64) {
        for (entry, at) in self.entries.iter_mut().zip(&self.heads) {
            entry.header.durable_below = durable_below;
            self.bytes[*at..*at + HEADER_BYTES].copy_from_slice(&entry.header.encode());
        }
    }

    /// The frames as bytes, one piece after the other; valid after [`finish`](Self::finish).
    #[must_use]
    pub fn pieces(&self) -> Vec<&[u8]> {
        let mut pieces = Vec::with_capacity(2 * self.shared.len() + 1);
        let mut from = 0;
        for (at, piece) in &self.shared {
            if *at > from {
                pieces.push(&self.bytes[from..*at]);
                from = *at;
            }
            pieces.push(piece);
        }
        if from < self.bytes.len() || pieces.is_empty() {
            pieces.push(&self.bytes[from..]);
        }
        pieces
    }

    /// The frames.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Who waits, and an empty group that keeps the memory (up to `keep_bytes`).
    pub fn take_waiting(&mut self, keep_bytes: usize) -> Vec<W> {
        self.bytes.clear();
        self.bytes.shrink_to(keep_bytes);
        self.shared.clear();
        self.shared_bytes = 0;
        self.entries.clear();
        self.heads.clear();
        std::mem::take(&mut self.waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(payload: usize) -> Header {
        Header { total_len: (HEADER_BYTES + payload) as u32, ..Header::default() }
    }

    #[test]
    fn payloads_that_are_copied_and_such_that_are_not_come_out_in_their_order() {
        let mut group = Group::<()>::default();
        assert_eq!(group.pieces().concat(), b"");
        group.put(header(3), b"one");
        group.put_pieces(header(6), &[Bytes::from_static(b"tw"), Bytes::from_static(b"o-th")]);
        group.put(header(2), b"re");
        group.put_pieces(header(1), &[Bytes::from_static(b"e")]);
        group.finish(77);
        let bytes = group.pieces().concat();
        assert_eq!(bytes.len(), group.len());
        let mut seen = Vec::new();
        for entry in group.entries() {
            let head = Header { durable_below: 77, ..entry.header };
            assert_eq!(bytes[entry.offset..entry.offset + HEADER_BYTES], head.encode());
            let payload = entry.offset + HEADER_BYTES..entry.offset + entry.header.total_len as usize;
            seen.push(String::from_utf8(bytes[payload].to_vec()).unwrap());
        }
        assert_eq!(seen, ["one", "two-th", "re", "e"]);
        group.take_waiting(0);
        assert!(group.is_empty());
        assert_eq!((group.len(), group.pieces().concat().len()), (0, 0));
    }
}
