//! The store's disk in the simulated world: a [`MemoryDisk`], and the ways in which a mutant abuses it. Pure.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use disk::{DirName, Disk, Entry, FileName, MemoryDisk};

use super::scenario::Mutant;

/// A disk that does what it is told, except where the mutant says otherwise.
#[derive(Debug, Clone)]
pub struct WorldDisk {
    memory: MemoryDisk,
    mutant: Option<Mutant>,
    appends: Arc<AtomicU64>,
}

impl WorldDisk {
    /// Over a disk in memory.
    #[must_use]
    pub fn new(memory: MemoryDisk, mutant: Option<Mutant>) -> WorldDisk {
        WorldDisk { memory, mutant, appends: Arc::default() }
    }
}

impl Disk for WorldDisk {
    fn create_dir(&self, dir: &DirName) -> io::Result<()> {
        self.memory.create_dir(dir)
    }

    fn list(&self, dir: &DirName) -> io::Result<Vec<Entry>> {
        self.memory.list(dir)
    }

    fn append(&self, file: &FileName, bytes: &[u8]) -> io::Result<()> {
        let nth = self.appends.fetch_add(1, Ordering::Relaxed);
        if self.mutant == Some(Mutant::FlipBit) && nth % 16 == 11 && bytes.len() > 300 {
            let mut bytes = bytes.to_vec();
            bytes[200] ^= 4;
            return self.memory.append(file, &bytes);
        }
        self.memory.append(file, bytes)
    }

    fn read_at(&self, file: &FileName, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.memory.read_at(file, offset, out)
    }

    fn len(&self, file: &FileName) -> io::Result<u64> {
        self.memory.len(file)
    }

    fn truncate(&self, file: &FileName, len: u64) -> io::Result<()> {
        self.memory.truncate(file, len)
    }

    fn sync(&self, file: &FileName) -> io::Result<()> {
        match self.mutant {
            Some(Mutant::SkipSync) => Ok(()),
            Some(Mutant::RetryFailedSync) => self.memory.sync(file).or(Ok(())),
            _ => self.memory.sync(file),
        }
    }

    fn sync_dir(&self, dir: &DirName) -> io::Result<()> {
        if self.mutant == Some(Mutant::SkipSyncDir) { Ok(()) } else { self.memory.sync_dir(dir) }
    }

    fn rename(&self, from: &FileName, to: &FileName) -> io::Result<()> {
        self.memory.rename(from, to)
    }

    fn remove(&self, file: &FileName) -> io::Result<()> {
        self.memory.remove(file)
    }

    fn remove_dir(&self, dir: &DirName) -> io::Result<()> {
        self.memory.remove_dir(dir)
    }

    fn forget_cache(&self, file: &FileName) -> io::Result<()> {
        self.memory.forget_cache(file)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.memory.free_bytes()
    }
}
