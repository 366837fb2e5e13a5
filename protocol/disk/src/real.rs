//! The real disk: a folder of the operating system. The only file of this crate that may use `std::fs`.
//! No decision about formats belongs here; only open files, their limits, and remembering which of them failed.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::FlockOperation;

use crate::{DirName, Disk, Entry, FileName, named};

/// Files kept open for appending, and as many again for reading. Files with unsynced bytes, and failed ones, are
/// kept open beyond it: closing them could lose the error that says so.
const OPEN_FILES_MAX: usize = 256;
const LOCK_FILE: &str = "LOCK";

/// A folder of the operating system as a [`Disk`].
///
/// Once an append to a file or a sync of it failed, every later append and sync of that file fails too, until it is
/// removed or the process starts again: the kernel marks pages clean that it could not write, so a second sync that
/// succeeds would be a lie.
#[derive(Debug)]
pub struct RealDisk {
    root: PathBuf,
    appenders: Mutex<OpenFiles>,
    readers: Mutex<OpenFiles>,
}

/// Held while this process owns the folder; dropping it gives the folder back.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

#[derive(Debug)]
struct Handle {
    file: File,
    unsynced: AtomicBool,
    failed: AtomicBool,
    /// The file is longer than what was appended, which ends where its offset is.
    reserved: AtomicBool,
}

/// Open files, the least recently used closed first.
#[derive(Debug, Default)]
struct OpenFiles {
    by_name: HashMap<FileName, (Arc<Handle>, u64)>,
    uses: u64,
}

impl RealDisk {
    /// Uses `root`, creating it where it is missing.
    pub fn open(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        fs::create_dir_all(&root).map_err(|e| named("create folder", root.display(), e))?;
        if let Some(parent) = root.parent() {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            sync_folder(parent).map_err(|e| named("sync folder", parent.display(), e))?;
        }
        Ok(Self { root, appenders: Mutex::default(), readers: Mutex::default() })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Takes the folder for this process alone, by a lock on `<root>/LOCK` that the kernel drops with the process.
    /// `owner` is written there for whoever finds it taken. `ResourceBusy` where another holds it.
    pub fn lock(&self, owner: &str) -> io::Result<DirLock> {
        let path = self.root.join(LOCK_FILE);
        let mut options = OpenOptions::new();
        let opened = options.read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = opened.map_err(|e| named("open", path.display(), e))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(busy(&self.root, &mut file)),
            Err(error) => return Err(named("lock", path.display(), error.into())),
        }
        // Only a help for the reader of an error message, so a full disk must not stop us here.
        let _ = file.set_len(0);
        let _ = file.rewind();
        let _ = write!(file, "{owner}, process {}", std::process::id());
        Ok(DirLock { _file: file })
    }

    fn path(&self, file: &FileName) -> PathBuf {
        self.root.join(file.as_str())
    }

    fn dir_path(&self, dir: &DirName) -> PathBuf {
        self.root.join(dir.as_str())
    }

    fn named(&self, op: &'static str, file: &FileName, error: io::Error) -> io::Error {
        named(op, self.path(file).display(), error)
    }

    fn appender(&self, file: &FileName, create: bool) -> io::Result<Arc<Handle>> {
        let mut files = locked(&self.appenders);
        if let Some(handle) = files.get(file) {
            return Ok(handle);
        }
        let opened = OpenOptions::new().append(true).create(create).open(self.path(file))?;
        Ok(files.insert(file, opened))
    }

    fn reader(&self, file: &FileName) -> io::Result<Arc<Handle>> {
        if let Some(handle) = locked(&self.readers).get(file) {
            return Ok(handle);
        }
        let mut files = locked(&self.readers);
        let opened = File::open(self.path(file))?;
        Ok(files.insert(file, opened))
    }
}

impl Disk for RealDisk {
    fn create_dir(&self, dir: &DirName) -> io::Result<()> {
        for folder in dir.lineage() {
            let path = self.dir_path(&folder);
            match fs::create_dir(&path) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(named("create folder", path.display(), e));
                }
                _ => self.sync_dir(&folder.parent().unwrap_or_else(DirName::root))?,
            }
        }
        Ok(())
    }

    fn list(&self, dir: &DirName) -> io::Result<Vec<Entry>> {
        let path = self.dir_path(dir);
        let listed = fs::read_dir(&path).and_then(|found| {
            let mut entries = Vec::new();
            for entry in found {
                entries.extend(entry_of(dir, &entry?)?);
            }
            Ok(entries)
        });
        match listed {
            Ok(mut entries) => {
                entries.sort_by(|a, b| a.name.cmp(&b.name));
                Ok(entries)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(named("list", path.display(), e)),
        }
    }

    fn append(&self, file: &FileName, bytes: &[u8]) -> io::Result<()> {
        let appended = self.appender(file, true).and_then(|handle| handle.append(bytes));
        appended.map_err(|e| self.named("append", file, e))
    }

    fn append_pieces(&self, file: &FileName, pieces: &[&[u8]]) -> io::Result<()> {
        let appended = self.appender(file, true).and_then(|handle| handle.append_pieces(pieces));
        appended.map_err(|e| self.named("append", file, e))
    }

    fn read_at(&self, file: &FileName, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let read = self.reader(file).and_then(|handle| handle.file.read_exact_at(out, offset));
        read.map_err(|e| self.named("read", file, e))
    }

    fn len(&self, file: &FileName) -> io::Result<u64> {
        let found = fs::metadata(self.path(file));
        found.map(|m| m.len()).map_err(|e| self.named("stat", file, e))
    }

    fn truncate(&self, file: &FileName, len: u64) -> io::Result<()> {
        let cut = self.appender(file, false).and_then(|handle| handle.truncate(len));
        cut.map_err(|e| self.named("truncate", file, e))
    }

    fn reserve(&self, file: &FileName, len: u64) {
        if let Ok(handle) = self.appender(file, false) {
            handle.reserve(len);
        }
    }

    fn sync(&self, file: &FileName) -> io::Result<()> {
        let synced = self.appender(file, false).and_then(|handle| handle.sync());
        synced.map_err(|e| self.named("sync", file, e))
    }

    fn sync_dir(&self, dir: &DirName) -> io::Result<()> {
        let path = self.dir_path(dir);
        sync_folder(&path).map_err(|e| named("sync folder", path.display(), e))
    }

    fn rename(&self, from: &FileName, to: &FileName) -> io::Result<()> {
        // Held over the rename, so that nobody opens a file under the name it is losing.
        let mut appenders = locked(&self.appenders);
        let mut readers = locked(&self.readers);
        #[expect(clippy::disallowed_methods, reason = "this is the real disk; the caller syncs the folder")]
        fs::rename(self.path(from), self.path(to)).map_err(|e| self.named("rename", from, e))?;
        appenders.rename(from, to);
        readers.rename(from, to);
        Ok(())
    }

    fn remove(&self, file: &FileName) -> io::Result<()> {
        let mut appenders = locked(&self.appenders);
        let mut readers = locked(&self.readers);
        fs::remove_file(self.path(file)).map_err(|e| self.named("remove", file, e))?;
        appenders.by_name.remove(file);
        readers.by_name.remove(file);
        Ok(())
    }

    fn remove_dir(&self, dir: &DirName) -> io::Result<()> {
        let path = self.dir_path(dir);
        fs::remove_dir(&path).map_err(|e| named("remove folder", path.display(), e))
    }

    fn forget_cache(&self, file: &FileName) -> io::Result<()> {
        let forgotten = self.reader(file).and_then(|handle| forget_pages(&handle.file));
        forgotten.map_err(|e| self.named("forget cache of", file, e))
    }

    fn leave_unsynced(&self, file: &FileName) {
        locked(&self.appenders).by_name.remove(file);
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let found = rustix::fs::statvfs(&self.root);
        let found = found.map_err(|e| named("stat file system of", self.root.display(), e.into()))?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }
}

impl Handle {
    fn usable(&self) -> io::Result<()> {
        if self.failed.load(Ordering::Acquire) {
            return Err(io::Error::other(
                "an earlier write or sync of this file failed, and is never retried",
            ));
        }
        Ok(())
    }

    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        self.usable()?;
        self.unsynced.store(true, Ordering::Release);
        // `write_all` goes on after short writes and EINTR; O_APPEND keeps the offset.
        (&self.file).write_all(bytes).inspect_err(|_| self.failed.store(true, Ordering::Release))
    }

    fn append_pieces(&self, pieces: &[&[u8]]) -> io::Result<()> {
        self.usable()?;
        self.unsynced.store(true, Ordering::Release);
        let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        write_all_vectored(&self.file, &mut slices)
            .inspect_err(|_| self.failed.store(true, Ordering::Release))
    }

    fn sync(&self) -> io::Result<()> {
        self.usable()?;
        // Cleared before, so that an append which runs beside the sync is not taken for synced.
        self.unsynced.store(false, Ordering::Release);
        self.file.sync_data().inspect_err(|_| self.failed.store(true, Ordering::Release))?;
        Ok(())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.usable()?;
        if self.appended()? < len {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "shorter than the length to cut to"));
        }
        self.unsynced.store(true, Ordering::Release);
        self.file.set_len(len)?;
        if self.reserved.swap(false, Ordering::AcqRel) {
            (&self.file).seek(SeekFrom::Start(len))?;
        }
        Ok(())
    }

    /// Bytes that were appended.
    fn appended(&self) -> io::Result<u64> {
        if self.reserved.load(Ordering::Acquire) {
            (&self.file).stream_position()
        } else {
            self.file.metadata().map(|found| found.len())
        }
    }

    fn reserve(&self, len: u64) {
        if self.usable().is_err() {
            return;
        }
        // From now on it is the file's offset that says where its end is.
        let at_offset = |mut file: &File, end: u64| {
            file.seek(SeekFrom::Start(end))?;
            write_at_offset(file)
        };
        let Ok(end) = self.appended() else { return };
        if !self.reserved.load(Ordering::Acquire) && at_offset(&self.file, end).is_err() {
            return;
        }
        self.reserved.store(true, Ordering::Release);
        // As long as it was where there is no room, or no such call.
        let _ = make_longer(&self.file, len);
    }

    /// Gives back what is reserved; false where it can't be.
    fn give_back(&self) -> bool {
        !self.reserved.load(Ordering::Acquire)
            || self.appended().and_then(|len| self.file.set_len(len)).is_ok()
    }

    fn is_idle(&self) -> bool {
        !self.unsynced.load(Ordering::Acquire) && !self.failed.load(Ordering::Acquire)
    }
}

impl OpenFiles {
    fn get(&mut self, file: &FileName) -> Option<Arc<Handle>> {
        self.uses += 1;
        let (handle, used) = self.by_name.get_mut(file)?;
        *used = self.uses;
        Some(Arc::clone(handle))
    }

    fn insert(&mut self, name: &FileName, file: File) -> Arc<Handle> {
        if self.by_name.len() >= OPEN_FILES_MAX {
            self.close_least_used();
        }
        self.uses += 1;
        let handle =
            Arc::new(Handle { file, unsynced: false.into(), failed: false.into(), reserved: false.into() });
        self.by_name.insert(name.clone(), (Arc::clone(&handle), self.uses));
        handle
    }

    fn close_least_used(&mut self) {
        // One that somebody else holds is in use this moment; what becomes of it must be remembered.
        let idle =
            self.by_name.iter().filter(|(_, (handle, _))| handle.is_idle() && Arc::strong_count(handle) == 1);
        let least = idle.min_by_key(|(_, (_, used))| *used);
        // Whoever opens it again goes on where it ends.
        let least = least.filter(|(_, (handle, _))| handle.give_back()).map(|(name, _)| name.clone());
        if let Some(name) = least {
            self.by_name.remove(&name);
        }
    }

    fn rename(&mut self, from: &FileName, to: &FileName) {
        self.by_name.remove(to);
        if let Some(moved) = self.by_name.remove(from) {
            self.by_name.insert(to.clone(), moved);
        }
    }
}

/// As `write_all`: goes on after short writes and EINTR.
fn write_all_vectored(mut file: &File, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    // What is empty is no short write.
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match file.write_vectored(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut slices, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A panic elsewhere leaves these tables whole: each change is one call.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn busy(root: &Path, file: &mut File) -> io::Error {
    let mut owner = String::new();
    let _ = file.take(200).read_to_string(&mut owner);
    let owner = if owner.is_empty() { "another process" } else { &owner };
    let text = format!("folder {} is already in use by {owner}", root.display());
    io::Error::new(io::ErrorKind::ResourceBusy, text)
}

fn entry_of(dir: &DirName, found: &fs::DirEntry) -> io::Result<Option<Entry>> {
    let Some(name) = found.file_name().to_str().and_then(|name| dir.file(name).ok()) else { return Ok(None) };
    let meta = match found.metadata() {
        Ok(meta) => meta,
        // Removed between the listing and here.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let known = meta.is_dir() || meta.is_file();
    let len = if meta.is_file() { meta.len() } else { 0 };
    Ok(known.then(|| Entry { name, len, is_dir: meta.is_dir() }))
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(target_os = "linux")]
fn forget_pages(file: &File) -> io::Result<()> {
    Ok(rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed)?)
}

#[cfg(not(target_os = "linux"))]
fn forget_pages(_file: &File) -> io::Result<()> {
    Ok(())
}

/// What is written goes to the file's offset, and no longer to its end.
fn write_at_offset(file: &File) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(file)?;
    Ok(rustix::fs::fcntl_setfl(file, flags - rustix::fs::OFlags::APPEND)?)
}

/// With zeros, of which none is written.
#[cfg(target_os = "linux")]
fn make_longer(file: &File, len: u64) -> io::Result<()> {
    Ok(rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, len)?)
}

#[cfg(not(target_os = "linux"))]
fn make_longer(_file: &File, _len: u64) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_left_unsynced_does_not_stay_open() {
        let home = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(home.path()).unwrap();
        for n in 0..OPEN_FILES_MAX + 10 {
            let file = FileName::new(&format!("f{n}")).unwrap();
            disk.append(&file, b"made anew").unwrap();
            disk.leave_unsynced(&file);
        }
        assert_eq!(locked(&disk.appenders).by_name.len(), 0);
    }

    /// Reaches `OPEN_FILES_MAX`.
    #[test]
    fn no_more_files_stay_open_than_may_be_but_those_that_could_lose_an_error() {
        let name = |n: usize| FileName::new(&format!("f{n}")).unwrap();
        let open = || File::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
        let mut files = OpenFiles::default();
        for n in 0..OPEN_FILES_MAX {
            files.insert(&name(n), open());
        }
        assert_eq!(files.by_name.len(), OPEN_FILES_MAX);
        assert!(files.get(&name(0)).is_some());
        files.insert(&name(OPEN_FILES_MAX), open());
        assert_eq!(files.by_name.len(), OPEN_FILES_MAX);
        assert!(files.get(&name(1)).is_none(), "the least recently used one is closed");
        assert!(files.get(&name(0)).is_some());
        files.by_name.values().for_each(|(handle, _)| handle.unsynced.store(true, Ordering::Release));
        files.insert(&name(OPEN_FILES_MAX + 1), open());
        assert_eq!(files.by_name.len(), OPEN_FILES_MAX + 1);
    }
}
