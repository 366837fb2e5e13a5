//! Which file this is, whatever its name. Pure: bytes and numbers in, a verdict out.
//!
//! Device and inode say it, and are checked by two hashes, because an inode is used again and a file is emptied in
//! place: one of the file's head, which grows with what was read until 1 KiB, one of the last bytes before the
//! place that was read to.

use serde::{Deserialize, Serialize};

/// Bytes of a file's head that are compared.
pub const HEAD_BYTES_MAX: u64 = 1024;

/// Bytes before the offset that are compared.
pub const MARKER_BYTES_MAX: u64 = 64;

/// How far a file was taken, and how to know it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileCursor {
    /// Its path when it was found: its lines keep that origin when it is renamed.
    pub path: String,
    /// Device.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// After the last line that was taken.
    pub offset: u64,
    /// Bytes of the head that were hashed.
    pub head_len: u64,
    /// Their hash.
    pub head: u64,
    /// Hash of the bytes before the offset.
    pub marker: u64,
    /// The offset is inside of a line that is too long, and whose rest is to be passed over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skipping: bool,
}

impl FileCursor {
    /// At the beginning.
    #[must_use]
    pub fn new(path: String, dev: u64, ino: u64) -> FileCursor {
        FileCursor {
            path,
            dev,
            ino,
            offset: 0,
            head_len: 0,
            head: hash(&[]),
            marker: hash(&[]),
            skipping: false,
        }
    }

    /// How many bytes before the offset the marker covers.
    #[must_use]
    pub fn marker_len(&self) -> u64 {
        self.offset.min(MARKER_BYTES_MAX)
    }

    /// Begins again, as another file under the same inode.
    pub fn restart(&mut self) {
        *self = FileCursor::new(std::mem::take(&mut self.path), self.dev, self.ino);
    }
}

/// What is there now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observed<'a> {
    /// Bytes in the file.
    pub len: u64,
    /// Its first bytes: as many as the cursor's `head_len`, or fewer where it is shorter.
    pub head: &'a [u8],
    /// The bytes before the cursor's offset, as many as the cursor's `marker_len`.
    pub marker: &'a [u8],
}

/// Whether it is the same file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is: go on where the cursor is.
    Same,
    /// It was emptied in place: begin again.
    Truncated,
    /// Its bytes are others: another file with the same inode, or rewritten. Begin again.
    Other,
}

/// Judges a file that has the cursor's device and inode.
#[must_use]
pub fn judge(cursor: &FileCursor, now: &Observed<'_>) -> Verdict {
    if now.len < cursor.offset {
        return Verdict::Truncated;
    }
    let same_head = now.head.len() as u64 == cursor.head_len && hash(now.head) == cursor.head;
    let same_marker = now.marker.len() as u64 == cursor.marker_len() && hash(now.marker) == cursor.marker;
    if same_head && same_marker { Verdict::Same } else { Verdict::Other }
}

/// FNV-1a, 64 bits: the same on every machine and in every version.
#[must_use]
pub fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cursor that has taken `offset` bytes of a file with this content.
    fn cursor(content: &[u8], offset: usize) -> FileCursor {
        let head_len = offset.min(HEAD_BYTES_MAX as usize);
        let from = offset.saturating_sub(MARKER_BYTES_MAX as usize);
        FileCursor {
            offset: offset as u64,
            head_len: head_len as u64,
            head: hash(&content[..head_len]),
            marker: hash(&content[from..offset]),
            ..FileCursor::new("a".into(), 1, 2)
        }
    }

    fn look(cursor: &FileCursor, content: &[u8]) -> Verdict {
        let (offset, len) = (cursor.offset as usize, content.len());
        let marker = &content[(offset - cursor.marker_len() as usize).min(len)..offset.min(len)];
        let head = &content[..(cursor.head_len as usize).min(len)];
        judge(cursor, &Observed { len: len as u64, head, marker })
    }

    #[test]
    fn a_file_that_only_grew_is_the_same() {
        let content: Vec<u8> = (0..5000u32).map(|n| (n * 7 % 251) as u8).collect();
        for offset in [0, 1, 63, 64, 65, 1023, 1024, 1025, 4000] {
            let cursor = cursor(&content, offset);
            for len in [offset, offset + 1, 5000] {
                assert_eq!(look(&cursor, &content[..len]), Verdict::Same, "{offset} {len}");
            }
        }
    }

    #[test]
    fn a_file_that_shrank_was_emptied() {
        let content = vec![b'x'; 3000];
        assert_eq!(look(&cursor(&content, 2000), &content[..1999]), Verdict::Truncated);
        assert_eq!(look(&cursor(&content, 2000), b""), Verdict::Truncated);
    }

    #[test]
    fn an_inode_that_is_used_again_is_noticed_though_the_new_file_is_longer() {
        let old = b"line 1\nline 2\n".repeat(10);
        let new = b"other 1\nother 2\nother 3\n".repeat(20);
        assert_eq!(look(&cursor(&old, 70), &new), Verdict::Other);
    }

    #[test]
    fn a_new_file_with_the_same_header_line_is_noticed_by_what_follows_it() {
        let header = b"time;truck;speed;fuel\n".repeat(60);
        let old = [header.clone(), b"1;a;10;3\n".repeat(100)].concat();
        let new = [header, b"2;b;20;4\n".repeat(200)].concat();
        assert_eq!(look(&cursor(&old, old.len()), &new), Verdict::Other);
    }
}
