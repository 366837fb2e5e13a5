//! The note of where each log ended when the store was closed in order. Driver: what it says is in [`crate::closed`].

use std::io;

use disk::{DirName, Disk, FileName};

use super::streams::stream_dir;
use super::{Open, Service, locked};
use crate::closed::{self, Closed};

/// What the last store in this folder noted; nothing where it did not end in order.
pub(crate) fn read(disk: &dyn Disk) -> Closed {
    let bytes = file().and_then(|file| disk::read_all(disk, &file, closed::BYTES_MAX));
    bytes.ok().and_then(|bytes| Closed::decode(&bytes)).unwrap_or_default()
}

/// From here on the logs grow, and the note says nothing.
pub(super) fn forget(disk: &dyn Disk) -> io::Result<()> {
    match disk.remove(&file()?) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Err(_) => Ok(()),
        Ok(()) => disk.sync_dir(&DirName::root()),
    }
}

fn file() -> io::Result<FileName> {
    DirName::root().file(closed::FILE).map_err(io::Error::other)
}

impl Service {
    /// Notes it for the next start. Best effort: without it, a torn tail is taken for one that a crash left.
    pub(super) fn note_ends(&self) {
        if self.inner.gate.failed().borrow().is_some() {
            return;
        }
        let mut closed = Closed::default();
        let catalog = locked(&self.inner.catalog);
        closed.note("catalog", catalog.start()..catalog.end());
        for Open { name, stream, .. } in self.open_streams_now() {
            if let Some(entry) = catalog.state().streams.get(&name) {
                closed.note(&stream_dir(entry.dir).to_string(), stream.reader().holds());
            }
        }
        drop(catalog);
        let written = file().and_then(|file| disk::replace(&*self.inner.disk, &file, &closed.encode()));
        drop(written);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use disk::Position;

    /// Reaches `BYTES_MAX` of store/src/closed.rs.
    #[test]
    fn a_note_is_read_up_to_its_longest_and_a_longer_one_is_none() {
        let read_of = |bytes: u64| {
            let note = |name: usize| {
                let mut closed = Closed::default();
                closed.note(&"d".repeat(name), Position(0)..Position(1));
                closed
            };
            let rest = note(1).encode().len() - 1;
            let (disk, closed) = (disk::MemoryDisk::new(1), note(bytes as usize - rest));
            let encoded = closed.encode();
            assert_eq!(encoded.len() as u64, bytes);
            disk.append(&file().unwrap(), &encoded).unwrap();
            read(&disk) == closed
        };
        assert!(read_of(closed::BYTES_MAX) && !read_of(closed::BYTES_MAX + 1));
    }
}
