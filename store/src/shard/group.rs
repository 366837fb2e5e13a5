//! What one commit writes: frames, one after the other, and who waits for them. Pure.
//!
//! Frames of one producer's batch are put in as a whole ([`Group::put`] of each part, `continues` on all but
//! the last), so that a commit never ends between them.

use protocol::frame::{HEADER_BYTES, Header};

use crate::log::Entry;

/// Frames that will be made durable together, and what to do then. `W` is whatever the driver needs to answer
/// who waits.
#[derive(Debug)]
pub struct Group<W> {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    waiting: Vec<W>,
}

impl<W> Default for Group<W> {
    fn default() -> Group<W> {
        Group { bytes: Vec::new(), entries: Vec::new(), waiting: Vec::new() }
    }
}

impl<W> Group<W> {
    /// Adds a frame with this header and stored payload.
    pub fn put(&mut self, header: Header, payload: &[u8]) {
        debug_assert_eq!(header.payload_len(), payload.len());
        self.entries.push(Entry { offset: self.bytes.len(), header });
        self.bytes.extend_from_slice(&[0; HEADER_BYTES]);
        self.bytes.extend_from_slice(payload);
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
        self.bytes.len()
    }

    /// Writes every header, now that it is known what is durable before the group.
    pub fn finish(&mut self, durable_below: u64) {
        for entry in &mut self.entries {
            entry.header.durable_below = durable_below;
            let at = entry.offset;
            self.bytes[at..at + HEADER_BYTES].copy_from_slice(&entry.header.encode());
        }
    }

    /// The frames as bytes; valid after [`finish`](Self::finish).
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
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
        self.entries.clear();
        std::mem::take(&mut self.waiting)
    }
}
