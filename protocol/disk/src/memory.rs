//! A disk in memory that keeps "live" and "durable" bytes apart, so that a crash is a value: what a power cut may
//! leave behind is chosen by a seed, and the same seed is the same history. Faults are planned by the caller.
//! No clock, no ambient chance, no map whose order could escape; and no decision that a real disk would not make.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{DirName, Disk, Entry, FileName, named};

mod chance;
mod inode;
mod names;

use chance::Chance;
use inode::Inode;
use names::{Names, Node};

/// What a crash leaves of that which was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// Only the process dies: all of it is still there, and still not synced.
    Process,
    /// A power cut leaves nothing of it.
    DropUnsynced,
    /// A power cut, but all of it had reached the device.
    KeepAll,
    /// A power cut whose outcome is chosen by this seed, per file: nothing, all, a prefix torn within a sector's bounds, or any mixture of
    /// 512-byte sectors, where a lost one reads as before or as zeros. Per name: kept or dropped.
    Seeded(u64),
}

/// What a failed sync did with the bytes that it was to make durable. Either way the next sync succeeds without
/// writing them again, as on Linux.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncFault {
    /// They are durable all the same.
    Kept,
    /// They are lost, though reads show them until the cache is forgotten.
    Lost,
}

/// How much of a failed append got into the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendFault {
    /// Nothing.
    Nothing,
    /// Some prefix, chosen by the disk's seed.
    Part,
}

/// What was asked of the disk since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Calls that change something, of any kind.
    pub ops: u64,
    /// Calls of `append`.
    pub appends: u64,
    /// Bytes appended.
    pub appended_bytes: u64,
    /// Calls of `sync`.
    pub syncs: u64,
    /// Calls of `sync_dir`.
    pub dir_syncs: u64,
    /// Calls of `read_at`.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
}

/// A disk in memory. Clones are the same disk.
#[derive(Debug, Clone)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Clone)]
struct State {
    names: Names,
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    chance: Chance,
    stats: Stats,
    plan: Plan,
}

/// Faults to come.
#[derive(Debug, Clone, Default)]
struct Plan {
    capacity: Option<u64>,
    ops_left: Option<u64>,
    stopped: bool,
    sync: Option<(u64, SyncFault)>,
    append: Option<(u64, AppendFault)>,
}

/// Whether a call is carried out, or is the one during which the machine stops.
#[derive(PartialEq)]
enum Admit {
    Whole,
    Interrupted,
}

impl MemoryDisk {
    /// An empty disk whose chances follow from `seed`.
    pub fn new(seed: u64) -> Self {
        let state = State {
            names: Names::default(),
            inodes: BTreeMap::new(),
            next_inode: 1,
            chance: Chance::new(seed),
            stats: Stats::default(),
            plan: Plan::default(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// The disk that is found after a crash at this moment. This one stays as it is, so several outcomes may be
    /// tried. Its capacity is kept; planned faults and counters are not.
    pub fn crash(&self, how: Crash) -> MemoryDisk {
        let mut state = self.lock().clone();
        match how {
            Crash::Process => state.inodes.values_mut().for_each(Inode::reopen),
            Crash::DropUnsynced => state.lose_power(None, false),
            Crash::KeepAll => state.lose_power(None, true),
            Crash::Seeded(seed) => state.lose_power(Some(Chance::new(seed)), false),
        }
        state.stats = Stats::default();
        state.plan = Plan { capacity: state.plan.capacity, ..Plan::default() };
        MemoryDisk { state: Arc::new(Mutex::new(state)) }
    }

    /// After `ops` more changing calls the machine stops: the call that follows is carried out without being made
    /// durable, and it and all others fail with `Other`.
    pub fn crash_after_ops(&self, ops: u64) {
        self.lock().plan.ops_left = Some(ops);
    }

    /// Fails the `nth` sync from now, 1 being the next, once.
    pub fn fail_sync(&self, nth: u64, fault: SyncFault) {
        self.lock().plan.sync = Some((nth, fault));
    }

    /// Fails the `nth` append from now, 1 being the next, once.
    pub fn fail_append(&self, nth: u64, fault: AppendFault) {
        self.lock().plan.append = Some((nth, fault));
    }

    /// Bytes that all files together may have; `None` for no bound. An append beyond it fails with `StorageFull`
    /// after writing what fits.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock().plan.capacity = bytes;
    }

    /// Flips one bit of a file, bit 0 being the lowest of the first byte, in cache and on the device. Panics where
    /// there is no such file or bit.
    pub fn flip_bit(&self, file: &FileName, bit: u64) {
        let mut state = self.lock();
        let inode = state.inode_of(file).expect("the file exists");
        inode.change(bit / 8, |byte| byte ^ (1 << (bit % 8)));
    }

    /// Overwrites a part of a file, in cache and on the device, as a failing device may. Panics beyond its end.
    pub fn corrupt(&self, file: &FileName, offset: u64, bytes: &[u8]) {
        let mut state = self.lock();
        let inode = state.inode_of(file).expect("the file exists");
        for (at, new) in (offset..).zip(bytes) {
            inode.change(at, |_| *new);
        }
    }

    /// Changing calls so far.
    pub fn ops(&self) -> u64 {
        self.lock().stats.ops
    }

    /// Counters since the disk was made.
    pub fn stats(&self) -> Stats {
        self.lock().stats
    }

    /// Every file with its live bytes, sorted by name: to compare two disks with.
    pub fn contents(&self) -> BTreeMap<FileName, Vec<u8>> {
        let state = self.lock();
        let files = state.names.files();
        files.map(|(name, inode)| (name, state.inodes[&inode].live().to_vec())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk for MemoryDisk {
    fn create_dir(&self, dir: &DirName) -> io::Result<()> {
        let mut state = self.lock();
        let admit = state.admit("create folder", dir)?;
        state.names.create_dir(dir, admit == Admit::Whole).map_err(|e| named("create folder", dir, e))?;
        admit.finish("create folder", dir)
    }

    fn list(&self, dir: &DirName) -> io::Result<Vec<Entry>> {
        let state = self.lock();
        state.alive("list", dir)?;
        let listed = state.names.list(dir).map_err(|e| named("list", dir, e))?;
        let entry = |(name, node): (FileName, Node)| match node {
            Node::Dir => Entry { name, len: 0, is_dir: true },
            Node::File(inode) => Entry { name, len: state.inodes[&inode].len(), is_dir: false },
        };
        Ok(listed.into_iter().map(entry).collect())
    }

    fn append(&self, file: &FileName, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        let admit = state.admit("append", file)?;
        state.stats.appends += 1;
        let fault = take_due(&mut state.plan.append);
        let room = state.room();
        let inode = state.file_or_new(file).map_err(|e| named("append", file, e))?;
        let written = match fault {
            None => bytes.len(),
            Some(AppendFault::Nothing) => 0,
            Some(AppendFault::Part) => state.chance.below(bytes.len() as u64) as usize,
        };
        let written = written.min(usize::try_from(room).unwrap_or(usize::MAX));
        state.inodes.get_mut(&inode).expect("a named inode exists").append(&bytes[..written]);
        state.stats.appended_bytes += written as u64;
        if fault.is_some() {
            return Err(named("append", file, device_error()));
        }
        if written < bytes.len() {
            return Err(named("append", file, io::ErrorKind::StorageFull.into()));
        }
        admit.finish("append", file)
    }

    fn read_at(&self, file: &FileName, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.lock();
        state.alive("read", file)?;
        state.stats.reads += 1;
        state.stats.read_bytes += out.len() as u64;
        let inode = state.inode_of(file).map_err(|e| named("read", file, e))?;
        inode.read(offset, out).map_err(|e| named("read", file, e))
    }

    fn len(&self, file: &FileName) -> io::Result<u64> {
        let mut state = self.lock();
        state.alive("stat", file)?;
        Ok(state.inode_of(file).map_err(|e| named("stat", file, e))?.len())
    }

    fn truncate(&self, file: &FileName, len: u64) -> io::Result<()> {
        let mut state = self.lock();
        let admit = state.admit("truncate", file)?;
        let cut = state.inode_of(file).and_then(|inode| inode.truncate(len));
        cut.map_err(|e| named("truncate", file, e))?;
        admit.finish("truncate", file)
    }

    fn reserve(&self, file: &FileName, len: u64) {
        let mut state = self.lock();
        let room = state.room();
        // Counted like whatever changes something: the machine may stop during it.
        let Ok(Admit::Whole) = state.admit("reserve", file) else { return };
        if let Ok(inode) = state.inode_of(file)
            && len.saturating_sub(inode.len()) <= room
        {
            inode.reserve(len);
        }
    }

    fn sync(&self, file: &FileName) -> io::Result<()> {
        let mut state = self.lock();
        let admit = state.admit("sync", file)?;
        state.stats.syncs += 1;
        let fault = take_due(&mut state.plan.sync);
        let inode = state.inode_of(file).map_err(|e| named("sync", file, e))?;
        match (fault, &admit) {
            (None, Admit::Whole) | (Some(SyncFault::Kept), _) => inode.sync(),
            (Some(SyncFault::Lost), _) => inode.lose_unsynced(),
            (None, Admit::Interrupted) => {}
        }
        if fault.is_some() {
            return Err(named("sync", file, device_error()));
        }
        admit.finish("sync", file)
    }

    fn sync_dir(&self, dir: &DirName) -> io::Result<()> {
        let mut state = self.lock();
        let admit = state.admit("sync folder", dir)?;
        state.stats.dir_syncs += 1;
        if admit == Admit::Whole {
            let removed = state.names.sync_dir(dir).map_err(|e| named("sync folder", dir, e))?;
            if removed {
                state.drop_unnamed();
            }
        }
        admit.finish("sync folder", dir)
    }

    fn rename(&self, from: &FileName, to: &FileName) -> io::Result<()> {
        let mut state = self.lock();
        let admit = state.admit("rename", from)?;
        state.names.rename(from, to).map_err(|e| named("rename", from, e))?;
        admit.finish("rename", from)
    }

    fn remove(&self, file: &FileName) -> io::Result<()> {
        let mut state = self.lock();
        let admit = state.admit("remove", file)?;
        state.names.remove(file).map_err(|e| named("remove", file, e))?;
        admit.finish("remove", file)
    }

    fn remove_dir(&self, dir: &DirName) -> io::Result<()> {
        let mut state = self.lock();
        let admit = state.admit("remove folder", dir)?;
        state.names.remove_dir(dir).map_err(|e| named("remove folder", dir, e))?;
        admit.finish("remove folder", dir)
    }

    fn forget_cache(&self, file: &FileName) -> io::Result<()> {
        let mut state = self.lock();
        state.alive("forget cache of", file)?;
        state.inode_of(file).map_err(|e| named("forget cache of", file, e))?.forget_cache();
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.lock().room())
    }
}

impl State {
    fn alive(&self, op: &'static str, path: impl std::fmt::Display) -> io::Result<()> {
        if self.plan.stopped { Err(named(op, path, stopped())) } else { Ok(()) }
    }

    /// Counts a changing call, and says whether the machine stops during it.
    fn admit(&mut self, op: &'static str, path: impl std::fmt::Display) -> io::Result<Admit> {
        self.alive(op, path)?;
        self.stats.ops += 1;
        match &mut self.plan.ops_left {
            None => Ok(Admit::Whole),
            Some(0) => {
                self.plan.stopped = true;
                Ok(Admit::Interrupted)
            }
            Some(left) => {
                *left -= 1;
                Ok(Admit::Whole)
            }
        }
    }

    fn inode_of(&mut self, file: &FileName) -> io::Result<&mut Inode> {
        let inode = self.names.file(file)?;
        Ok(self.inodes.get_mut(&inode).expect("a named inode exists"))
    }

    fn file_or_new(&mut self, file: &FileName) -> io::Result<u64> {
        match self.names.file(file) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            found => return found,
        }
        self.names.create(file, self.next_inode)?;
        self.inodes.insert(self.next_inode, Inode::default());
        self.next_inode += 1;
        Ok(self.next_inode - 1)
    }

    fn room(&self) -> u64 {
        let Some(capacity) = self.plan.capacity else { return u64::MAX / 2 };
        let used: u64 = self.names.files().map(|(_, inode)| self.inodes[&inode].len()).sum();
        capacity.saturating_sub(used)
    }

    /// Lets chance decide over what was not synced, or keeps all or nothing of it.
    fn lose_power(&mut self, mut chance: Option<Chance>, keep: bool) {
        self.names.crash(chance.as_mut(), keep);
        for inode in self.inodes.values_mut() {
            inode.crash(chance.as_mut(), keep);
        }
        self.drop_unnamed();
    }

    fn drop_unnamed(&mut self) {
        let named = self.names.inodes();
        self.inodes.retain(|inode, _| named.contains(inode));
    }
}

impl Admit {
    fn finish(self, op: &'static str, path: impl std::fmt::Display) -> io::Result<()> {
        if self == Admit::Whole { Ok(()) } else { Err(named(op, path, stopped())) }
    }
}

/// Counts a planned fault down, and takes it when its turn has come.
fn take_due<T: Copy>(planned: &mut Option<(u64, T)>) -> Option<T> {
    let (left, fault) = planned.as_mut()?;
    *left = left.saturating_sub(1);
    let (left, fault) = (*left, *fault);
    if left > 0 {
        return None;
    }
    *planned = None;
    Some(fault)
}

fn device_error() -> io::Error {
    io::Error::other("input/output error, as planned")
}

fn stopped() -> io::Error {
    io::Error::other("crashed")
}
