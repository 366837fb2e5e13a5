//! The operating system's files, for us: the trait [`Disk`], a real one, one in memory whose crash is a value, and
//! [`SegmentLog`], the segmented, framed, append-only log over them that spool and store share.
//!
//! This is the bottom: it names nothing else of ours, knows no frame format (see [`Framing`]), has no clock, no
//! threads and no async runtime. `std::fs` appears in `real.rs` only.

use std::io;

mod memory;
mod name;
mod real;
mod segment;

pub use memory::{AppendFault, Crash, MemoryDisk, Stats, SyncFault};
pub use name::{COMPONENT_BYTES_MAX, DirName, FileName, NAME_BYTES_MAX, NameError};
pub use real::{DirLock, RealDisk};
pub use segment::{
    Damage, Framing, LogError, OpenError, Position, ReadError, Recovery, Scan, Scanned, SegmentCheck,
    SegmentInfo, SegmentLog, SegmentReader, Settings, list_segments, scan_segment,
};

/// One name in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The whole name relative to the disk's root.
    pub name: FileName,
    /// Bytes in the file; 0 for a folder.
    pub len: u64,
    /// Whether it is a folder.
    pub is_dir: bool,
}

impl Entry {
    /// The entry's name as that of a folder. It says nothing about whether it is one.
    pub fn dir(&self) -> DirName {
        self.name.parent().dir(self.name.base()).expect("a checked file name is a checked folder name")
    }
}

/// The operating system, for us.
///
/// What was appended survives a crash only after [`sync`](Disk::sync); a name that was created, renamed or removed
/// only after [`sync_dir`](Disk::sync_dir) of its folder. Errors name the operation and the file and keep their kind.
/// One writer a file; readers may run beside it.
pub trait Disk: Send + Sync + 'static {
    /// Creates a folder and those above it, durably. No error where they exist.
    fn create_dir(&self, dir: &DirName) -> io::Result<()>;

    /// Files and folders in `dir`, sorted by name; empty where there is no such folder. Names that [`FileName`]
    /// refuses, and what is neither file nor folder, are left out.
    fn list(&self, dir: &DirName) -> io::Result<Vec<Entry>>;

    /// Adds bytes to the end of a file, creating it where it is missing. After an error some of them may be there,
    /// and the file must not be appended to again.
    fn append(&self, file: &FileName, bytes: &[u8]) -> io::Result<()>;

    /// As [`append`](Disk::append), of bytes that lie in pieces: in their order, without a gap.
    fn append_pieces(&self, file: &FileName, pieces: &[&[u8]]) -> io::Result<()> {
        self.append(file, &pieces.concat())
    }

    /// Fills `out` from `offset` on; `UnexpectedEof` where the file ends before.
    fn read_at(&self, file: &FileName, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// Bytes in the file.
    fn len(&self, file: &FileName) -> io::Result<u64>;

    /// Cuts the file to `len` bytes; `InvalidInput` where it is shorter. Durable after `sync`.
    fn truncate(&self, file: &FileName, len: u64) -> io::Result<()>;

    /// Makes the file's bytes and length durable. An error is final: the operating system may have dropped what it
    /// could not write, and a second call may well succeed without having written it. Never call again.
    fn sync(&self, file: &FileName) -> io::Result<()>;

    /// Makes the names in a folder durable.
    fn sync_dir(&self, dir: &DirName) -> io::Result<()>;

    /// Renames, replacing `to` atomically. Durable after `sync_dir` of both folders.
    fn rename(&self, from: &FileName, to: &FileName) -> io::Result<()>;

    /// Removes a file. Durable after `sync_dir`.
    fn remove(&self, file: &FileName) -> io::Result<()>;

    /// Removes an empty folder. Durable after `sync_dir` of the folder above.
    fn remove_dir(&self, dir: &DirName) -> io::Result<()>;

    /// Little by little the file will be appended to until it has `len` bytes: it may be made so long now, with zeros behind
    /// what was appended, as a file whose length need not change is synced sooner (ext4: 65 us in place of 100). What is
    /// left of it goes with [`truncate`](Disk::truncate); a process that ends leaves it. Until then [`len`](Disk::len) counts
    /// it. A wish: nothing happens where it can't be, or room is short.
    fn reserve(&self, _file: &FileName, _len: u64) {}

    /// Drops the operating system's cached copy, so that the next reads come from the device. What was not yet
    /// synced stays cached, so sync first. Does nothing where the platform has no such call.
    fn forget_cache(&self, file: &FileName) -> io::Result<()>;

    /// Nobody will ask whether this file is durable, though something was appended to it: what can be made anew needs no
    /// sync, and nothing stays open to remember that one failed.
    fn leave_unsynced(&self, _file: &FileName) {}

    /// Bytes that may still be written.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// Replaces a whole file atomically and durably: write `<file>.tmp`, sync, rename, sync the folder. After an error
/// the file is either the old or the new one.
pub fn replace(disk: &dyn Disk, file: &FileName, bytes: &[u8]) -> io::Result<()> {
    let tmp = file.with_suffix(".tmp").map_err(io::Error::other)?;
    remove_if_present(disk, &tmp)?;
    let written = disk.append(&tmp, bytes).and_then(|()| disk.sync(&tmp));
    if let Err(error) = written {
        // The next call would clear it away too; this gives the space back now.
        let _ = disk.remove(&tmp);
        return Err(error);
    }
    disk.rename(&tmp, file)?;
    disk.sync_dir(&file.parent())
}

/// Reads a whole file of at most `bytes_max` bytes; `InvalidData` where it is longer.
pub fn read_all(disk: &dyn Disk, file: &FileName, bytes_max: u64) -> io::Result<Vec<u8>> {
    let len = disk.len(file)?;
    if len > bytes_max {
        let text = format!("read {file}: {len} bytes, more than the {bytes_max} allowed");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    disk.read_at(file, 0, &mut bytes)?;
    Ok(bytes)
}

/// Removes a folder with all that is in it, innermost first, durably. No error where it does not exist.
pub fn remove_dir_all(disk: &dyn Disk, dir: &DirName) -> io::Result<()> {
    for entry in disk.list(dir)? {
        if entry.is_dir { remove_dir_all(disk, &entry.dir())? } else { disk.remove(&entry.name)? }
    }
    let Some(parent) = dir.parent() else { return disk.sync_dir(dir) };
    match disk.remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => disk.sync_dir(&parent),
    }
}

fn remove_if_present(disk: &dyn Disk, file: &FileName) -> io::Result<()> {
    match disk.remove(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// An I/O error with the operation and the file it happened to.
#[derive(Debug, thiserror::Error)]
#[error("{op} {path}: {source}")]
struct FileError {
    op: &'static str,
    path: String,
    source: io::Error,
}

/// Adds operation and file to an error and keeps its kind.
fn named(op: &'static str, path: impl std::fmt::Display, source: io::Error) -> io::Error {
    io::Error::new(source.kind(), FileError { op, path: path.to_string(), source })
}
