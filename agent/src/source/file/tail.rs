//! One file that is followed: open, read, judge, read again. Driver; which lines are in its bytes and whether it is
//! still the same file is decided in [`super::lines`] and [`super::identity`].

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use protocol::time::Mono;

use super::identity::{FileCursor, HEAD_BYTES_MAX, MARKER_BYTES_MAX, Observed, Verdict, hash, judge};

/// Bytes read at once.
pub(super) const CHUNK_BYTES: usize = 256 << 10;

/// A file that is followed.
pub(super) struct Tail {
    /// Under which its cursor is in the spool.
    pub(super) id: String,
    /// Where it is now.
    pub(super) path: PathBuf,
    pub(super) file: Option<File>,
    pub(super) cursor: FileCursor,
    /// The last bytes before the offset.
    marker: Vec<u8>,
    /// It has no name that is looked for any more, since then.
    pub(super) detached: Option<Mono>,
    /// When something was last read.
    pub(super) active_at: Mono,
    /// Bytes in it when it was last looked at.
    pub(super) len: u64,
    /// Its cursor is not in the spool yet.
    pub(super) dirty: bool,
    /// It waits to be read.
    pub(super) ready: bool,
    /// Its last line has no end, and this length, since then.
    pub(super) partial: Option<(Mono, u64)>,
    /// It can't be read; told once.
    pub(super) failing: bool,
}

/// Bytes of a file, ready to be cut into lines.
pub(super) struct Chunk {
    /// Where they are in the buffer.
    pub(super) from: usize,
    pub(super) to: usize,
    /// There is more behind them.
    pub(super) more: bool,
    /// The file was emptied or replaced, and is read from its beginning.
    pub(super) restarted: Option<Verdict>,
}

impl Tail {
    /// Opens a file from its beginning, or from where the cursor says when it is the same file.
    pub(super) fn open(
        path: &Path,
        id: String,
        known: Option<FileCursor>,
        now: Mono,
    ) -> io::Result<(Tail, Option<Verdict>)> {
        let file = File::open(path)?;
        let meta = file.metadata()?;
        let fresh = || FileCursor::new(path.to_string_lossy().into_owned(), meta.dev(), meta.ino());
        let verdict = known.as_ref().map(|cursor| look(&file, cursor, meta.len())).transpose()?;
        let cursor = known.filter(|_| verdict == Some(Verdict::Same)).unwrap_or_else(fresh);
        let mut marker = vec![0; cursor.marker_len() as usize];
        file.read_exact_at(&mut marker, cursor.offset - cursor.marker_len())?;
        let tail = Tail {
            id,
            path: path.to_owned(),
            file: Some(file),
            cursor,
            marker,
            detached: None,
            active_at: now,
            len: meta.len(),
            dirty: true,
            ready: true,
            partial: None,
            failing: false,
        };
        Ok((tail, verdict))
    }

    /// It had another name when it was found.
    pub(super) fn is_moved(&self) -> bool {
        self.detached.is_some() || self.path.as_os_str() != self.cursor.path.as_str()
    }

    /// Older files first: those that were moved away, and those found earlier (the id ends with when that was).
    pub(super) fn rank(&self) -> (bool, u64) {
        let found = self.id.rsplit_once('-').and_then(|(_, ms)| ms.parse().ok());
        (!self.is_moved(), found.unwrap_or_default())
    }

    /// Skips what is there.
    pub(super) fn skip_to_end(&mut self) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        self.cursor.offset = self.len;
        self.marker = vec![0; self.cursor.marker_len() as usize];
        file.read_exact_at(&mut self.marker, self.cursor.offset - self.cursor.marker_len())?;
        // What is before may end inside of a line, whose rest nobody wants.
        self.cursor.skipping = self.marker.last().is_some_and(|last| *last != b'\n');
        Ok(())
    }

    /// Reads on: bytes after the offset, into `buffer`. Checks that it is still the same file first.
    pub(super) fn read(&mut self, buffer: &mut Vec<u8>, chunk_bytes: usize) -> io::Result<Chunk> {
        self.reopen()?;
        let Some(file) = &self.file else { return Err(io::ErrorKind::NotFound.into()) };
        self.len = file.metadata()?.len();
        let mut restarted = None;
        if self.len < self.cursor.offset {
            restarted = Some(Verdict::Truncated);
        }
        loop {
            if restarted.is_some() {
                self.cursor.restart();
                self.marker.clear();
                self.dirty = true;
                self.partial = None;
            }
            // The bytes before the offset are read with those after it, to see whether they are what they were.
            let marker_len = self.marker.len();
            let want = marker_len + chunk_bytes;
            if buffer.len() < want {
                buffer.resize(want, 0);
            }
            let start = self.cursor.offset - marker_len as u64;
            let got = read_up_to(file, &mut buffer[..want], start)?;
            if restarted.is_none() && (got < marker_len || buffer[..marker_len] != self.marker) {
                let shorter = got < marker_len;
                restarted = Some(if shorter { Verdict::Truncated } else { Verdict::Other });
                self.len = file.metadata()?.len();
                continue;
            }
            return Ok(Chunk { from: marker_len, to: got.max(marker_len), more: got == want, restarted });
        }
    }

    /// The first `used` bytes of what was read are done with.
    pub(super) fn advance(&mut self, read: &[u8], used: usize, now: Mono) {
        if used == 0 {
            return;
        }
        let (done, most) = (&read[..used], MARKER_BYTES_MAX as usize);
        if done.len() >= most {
            self.marker.clear();
            self.marker.extend_from_slice(&done[done.len() - most..]);
        } else {
            self.marker.extend_from_slice(done);
            self.marker.drain(..self.marker.len().saturating_sub(most));
        }
        self.cursor.offset += used as u64;
        self.active_at = now;
        self.dirty = true;
        self.partial = None;
    }

    /// The cursor with its hashes up to date, for the spool.
    pub(super) fn cursor_text(&mut self) -> String {
        self.cursor.marker = hash(&self.marker);
        let head_len = self.cursor.offset.min(HEAD_BYTES_MAX);
        if self.cursor.head_len < head_len
            && let Some(file) = &self.file
        {
            let mut head = vec![0; head_len as usize];
            if file.read_exact_at(&mut head, 0).is_ok() {
                self.cursor.head_len = head_len;
                self.cursor.head = hash(&head);
            }
        }
        serde_json::to_string(&self.cursor).unwrap_or_default()
    }

    fn reopen(&mut self) -> io::Result<()> {
        if self.file.is_some() {
            return Ok(());
        }
        let file = File::open(&self.path)?;
        let meta = file.metadata()?;
        if (meta.dev(), meta.ino()) != (self.cursor.dev, self.cursor.ino) {
            return Err(io::Error::new(io::ErrorKind::NotFound, "another file has its name"));
        }
        self.file = Some(file);
        Ok(())
    }
}

/// What is in the file where the cursor says something was.
fn look(file: &File, cursor: &FileCursor, len: u64) -> io::Result<Verdict> {
    let mut head = vec![0; cursor.head_len as usize];
    let got = read_up_to(file, &mut head, 0)?;
    head.truncate(got);
    let mut marker = vec![0; cursor.marker_len() as usize];
    let got = read_up_to(file, &mut marker, cursor.offset - cursor.marker_len())?;
    marker.truncate(got);
    Ok(judge(cursor, &Observed { len, head: &head, marker: &marker }))
}

fn read_up_to(file: &File, out: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut got = 0;
    while got < out.len() {
        match file.read_at(&mut out[got..], offset + got as u64) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::io::Write;

    /// Reaches `HEAD_BYTES_MAX`, `MARKER_BYTES_MAX` of agent/src/source/file/identity.rs.
    #[test]
    fn no_more_of_a_file_is_compared_than_its_head_and_a_few_bytes_before_the_offset() {
        let content: Vec<u8> = (0..3000u32).map(|n| (n * 7 % 251) as u8).collect();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&content).unwrap();
        let compared = |offset: u64| {
            let (mut tail, _) = Tail::open(file.path(), "a".to_owned(), None, Mono::ZERO).unwrap();
            // In pieces, as they are read.
            for piece in content[..offset as usize].chunks(50) {
                tail.advance(piece, piece.len(), Mono::ZERO);
            }
            let known: FileCursor = serde_json::from_str(&tail.cursor_text()).unwrap();
            assert_eq!((known.offset, known.marker_len()), (offset, tail.marker.len() as u64));
            let (_, verdict) = Tail::open(file.path(), "a".to_owned(), Some(known), Mono::ZERO).unwrap();
            assert_eq!(verdict, Some(Verdict::Same));
            (tail.cursor.head_len, tail.marker.len() as u64)
        };
        for over in [0, 1] {
            assert_eq!(compared(MARKER_BYTES_MAX + over).1, MARKER_BYTES_MAX);
            assert_eq!(compared(HEAD_BYTES_MAX + over).0, HEAD_BYTES_MAX);
        }
        assert_eq!(compared(MARKER_BYTES_MAX - 1), (MARKER_BYTES_MAX - 1, MARKER_BYTES_MAX - 1));
        assert_eq!(compared(HEAD_BYTES_MAX - 1), (HEAD_BYTES_MAX - 1, MARKER_BYTES_MAX));
    }
}
