//! The bytes of one file: as the processes see them, as the device has them, and what lies between.

use std::io;

use super::chance::Chance;

/// What a device writes whole or not at all.
const SECTOR_BYTES: u64 = 512;

#[derive(Debug, Clone, Default)]
pub(super) struct Inode {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// Changes since the last sync, in order: applied to `durable` they give `live`, but for bytes that a failed
    /// sync lost.
    pending: Vec<Change>,
    /// The file has so many bytes where it is longer than what was appended.
    reserved: u64,
}

#[derive(Debug, Clone)]
enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    Truncate(u64),
}

impl Inode {
    pub(super) fn len(&self) -> u64 {
        self.appended().max(self.reserved)
    }

    fn appended(&self) -> u64 {
        self.live.len() as u64
    }

    pub(super) fn reserve(&mut self, len: u64) {
        self.reserved = self.reserved.max(len);
    }

    /// The process that reserved it is gone: whoever opens it finds zeros.
    pub(super) fn reopen(&mut self) {
        let left = std::mem::take(&mut self.reserved).saturating_sub(self.appended());
        if left > 0 {
            self.append(&vec![0; left as usize]);
        }
    }

    pub(super) fn live(&self) -> &[u8] {
        &self.live
    }

    pub(super) fn append(&mut self, bytes: &[u8]) {
        self.pending.push(Change::Write { offset: self.appended(), bytes: bytes.to_vec() });
        self.live.extend_from_slice(bytes);
    }

    pub(super) fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(out.len() as u64).filter(|end| *end <= self.len());
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        out.fill(0);
        let live = &self.live[(offset as usize).min(self.live.len())..(end as usize).min(self.live.len())];
        out[..live.len()].copy_from_slice(live);
        Ok(())
    }

    pub(super) fn truncate(&mut self, len: u64) -> io::Result<()> {
        if len > self.appended() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.reserved = 0;
        self.live.truncate(len as usize);
        self.pending.push(Change::Truncate(len));
        Ok(())
    }

    pub(super) fn sync(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            apply(&mut self.durable, &change);
        }
    }

    /// A failed sync that marks as clean what it did not write.
    pub(super) fn lose_unsynced(&mut self) {
        self.pending.clear();
    }

    /// Clean pages come from the device again; the length is the file system's and stays.
    pub(super) fn forget_cache(&mut self) {
        let len = self.live.len();
        self.live = self.durable.clone();
        for change in &self.pending {
            apply(&mut self.live, change);
        }
        self.live.resize(len, 0);
    }

    /// Changes one byte wherever it is kept.
    pub(super) fn change(&mut self, at: u64, new: impl Fn(u8) -> u8) {
        let index = at as usize;
        self.live[index] = new(self.live[index]);
        if let Some(byte) = self.durable.get_mut(index) {
            *byte = new(*byte);
        }
        for change in &mut self.pending {
            if let Change::Write { offset, bytes } = change
                && let Some(byte) = at.checked_sub(*offset).and_then(|i| bytes.get_mut(i as usize))
            {
                *byte = new(*byte);
            }
        }
    }

    /// Leaves what a power cut leaves: chosen by chance, or all or nothing.
    pub(super) fn crash(&mut self, chance: Option<&mut Chance>, keep: bool) {
        self.reopen();
        let pending = std::mem::take(&mut self.pending);
        match chance {
            None if keep => pending.iter().for_each(|change| apply(&mut self.durable, change)),
            None => {}
            Some(chance) => match chance.below(4) {
                0 => {}
                1 => pending.iter().for_each(|change| apply(&mut self.durable, change)),
                2 => keep_prefix(&mut self.durable, &pending, chance),
                _ => keep_sectors(&mut self.durable, &pending, chance),
            },
        }
        self.live = self.durable.clone();
    }
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write { offset, bytes: new } => write(bytes, *offset, new),
        Change::Truncate(len) => bytes.truncate(*len as usize),
    }
}

/// Writes over old bytes and past the end; a hole before it reads as zeros.
fn write(bytes: &mut Vec<u8>, offset: u64, new: &[u8]) {
    let (start, end) = (offset as usize, offset as usize + new.len());
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[start..end].copy_from_slice(new);
}

/// Some changes from the first on; the last of them torn, at a sector's bound or at any byte.
fn keep_prefix(durable: &mut Vec<u8>, pending: &[Change], chance: &mut Chance) {
    let kept = chance.below(pending.len() as u64 + 1) as usize;
    pending[..kept].iter().for_each(|change| apply(durable, change));
    if let Some(Change::Write { offset, bytes }) = pending.get(kept) {
        let mut end = offset + chance.below(bytes.len() as u64 + 1);
        if chance.coin() {
            end = (end - end % SECTOR_BYTES).max(*offset);
        }
        write(durable, *offset, &bytes[..(end - offset) as usize]);
    }
}

/// Any mixture of sectors: later ones may be there where earlier ones are not.
fn keep_sectors(durable: &mut Vec<u8>, pending: &[Change], chance: &mut Chance) {
    for change in pending {
        match change {
            Change::Truncate(_) if chance.coin() => apply(durable, change),
            Change::Truncate(_) => {}
            Change::Write { offset, bytes } => keep_some_sectors(durable, *offset, bytes, chance),
        }
    }
}

fn keep_some_sectors(durable: &mut Vec<u8>, offset: u64, bytes: &[u8], chance: &mut Chance) {
    let end = offset + bytes.len() as u64;
    let mut at = offset;
    while at < end {
        let next = ((at / SECTOR_BYTES + 1) * SECTOR_BYTES).min(end);
        if chance.coin() {
            write(durable, at, &bytes[(at - offset) as usize..(next - offset) as usize]);
        }
        at = next;
    }
    // The length may be there without the bytes.
    if chance.coin() && (durable.len() as u64) < end {
        durable.resize(end as usize, 0);
    }
}
