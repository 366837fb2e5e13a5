//! Cuts a byte stream with start codes (H.264 and H.265, annex B) into NAL units, however it comes. Holds one unit. Pure.
//! Never: what is in a unit.

use memchr::memmem;

use crate::VideoError;
use crate::limit::FRAME_BYTES_MAX;

const START: &[u8] = &[0, 0, 1];

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    /// From the first byte of a unit on, once `begun`.
    buffer: Vec<u8>,
    /// Up to here there is no start code in the buffer.
    looked: usize,
    begun: bool,
    /// Bytes before the buffer.
    at: u64,
}

impl Splitter {
    /// Takes more bytes, and hands each unit that they end to `unit`, with where it began.
    pub(crate) fn push(
        &mut self,
        bytes: &[u8],
        mut unit: impl FnMut(&[u8], u64) -> Result<(), VideoError>,
    ) -> Result<(), VideoError> {
        self.buffer.extend_from_slice(bytes);
        let mut from = 0;
        let mut done = Ok(());
        while let Some(found) = memmem::find(&self.buffer[self.looked..], START) {
            let start = self.looked + found;
            if std::mem::replace(&mut self.begun, true) {
                done = unit(trimmed(&self.buffer[from..start]), self.at + from as u64);
            }
            from = start + START.len();
            self.looked = from;
            if done.is_err() {
                break;
            }
        }
        if !self.begun {
            // Only the end of it may belong to a start code.
            from = self.buffer.len().saturating_sub(START.len() - 1);
        }
        if done.is_err() {
            // Nothing of what follows is taken any more, however much of it came with this.
            from = self.buffer.len();
            self.begun = false;
        }
        self.buffer.drain(..from);
        self.at += from as u64;
        self.looked = self.buffer.len().saturating_sub(START.len() - 1);
        done?;
        if self.buffer.len() > FRAME_BYTES_MAX {
            let (bytes, max) = (self.buffer.len() as u64, FRAME_BYTES_MAX as u64);
            return Err(VideoError::TooLarge { what: "a NAL unit", bytes, max });
        }
        Ok(())
    }

    /// Nothing more comes: what is left is the last unit.
    pub(crate) fn finish(&mut self) -> Option<(Vec<u8>, u64)> {
        let rest = std::mem::take(&mut self.buffer);
        let at = self.at;
        self.at += rest.len() as u64;
        self.looked = 0;
        (std::mem::take(&mut self.begun) && !rest.is_empty()).then(|| (trimmed(&rest).to_vec(), at))
    }

    /// Something is missing here: the unit that is open is not whole.
    pub(crate) fn lost(&mut self) {
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        (self.looked, self.begun) = (0, false);
    }

    /// Bytes that are held.
    pub(crate) fn held_bytes(&self) -> usize {
        self.buffer.capacity()
    }
}

/// A unit never ends with a zero byte (H.264, 7.4.1); those belong to the start code that follows.
fn trimmed(unit: &[u8]) -> &[u8] {
    let end = unit.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    &unit[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_the_same_however_they_come() {
        let stream =
            [&[0, 0, 0, 1, 9, 16][..], &[0, 0, 1, 0x67, 1, 0, 2, 0, 0, 0, 1], &[0x65, 0, 0, 3, 7, 0]]
                .concat();
        for piece in 1..=stream.len() {
            let (mut splitter, mut units) = (Splitter::default(), Vec::new());
            for part in stream.chunks(piece) {
                let kept = splitter.push(part, |unit, at| {
                    units.push((unit.to_vec(), at));
                    Ok(())
                });
                kept.unwrap();
            }
            units.extend(splitter.finish());
            let want = [(vec![9, 16], 4), (vec![0x67, 1, 0, 2], 9), (vec![0x65, 0, 0, 3, 7], 17)];
            assert_eq!(units, want, "pieces of {piece}");
        }
    }

    #[test]
    fn a_unit_that_never_ends_is_refused_and_what_is_no_unit_is_not_kept() {
        let mut splitter = Splitter::default();
        let nothing = vec![7; 1 << 20];
        for _ in 0..20 {
            splitter.push(&nothing, |_, _| Ok(())).unwrap();
        }
        assert!(splitter.buffer.len() < 3);
        splitter.push(&[0, 0, 1], |_, _| Ok(())).unwrap();
        let error = (0..20).find_map(|_| splitter.push(&nothing, |_, _| Ok(())).err()).unwrap();
        assert_eq!(error.id().0, 4001);
    }
}
