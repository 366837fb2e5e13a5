//! What the disk holds after a start, a clean one or not: the longest valid prefix, with damage in it kept around.
//! Everything here may be interrupted and done again, and ends in the same bytes. Looks at the newest segment only
//! (and the one before it where the newest has no head), so that it takes no longer the more is kept.

use std::io;

use super::walk::{Invalid, damages, verify};
use super::{Damage, Framing, Position, Recovery, SegmentInfo, list_segments, segment_file};
use crate::{DirName, Disk};

/// The segments, at least one, the last of them being the one to append to; all of it durable.
pub(super) fn recover<F: Framing>(
    disk: &dyn Disk,
    dir: &DirName,
) -> io::Result<(Vec<SegmentInfo>, Recovery)> {
    let mut recovery = Recovery::default();
    disk.create_dir(dir)?;
    let mut segments = list_segments(disk, dir)?;
    if segments.is_empty() {
        segments.push(create_first(disk, dir)?);
    }
    // Names may come from a process that died before it made them durable.
    disk.sync_dir(dir)?;
    check_joints(&mut segments, &mut recovery);
    recover_newest::<F>(disk, dir, &mut segments, &mut recovery)?;
    recovery.damage.sort_by_key(|damage| damage.from);
    recovery.segments = segments.len();
    Ok((segments, recovery))
}

fn create_first(disk: &dyn Disk, dir: &DirName) -> io::Result<SegmentInfo> {
    let base = Position(0);
    let file = segment_file(dir, base)?;
    disk.append(&file, &[])?;
    Ok(SegmentInfo { base, len: 0, file })
}

/// Each segment should end where the next begins. Missing bytes are damage; bytes too many are never read.
fn check_joints(segments: &mut [SegmentInfo], recovery: &mut Recovery) {
    for i in 1..segments.len() {
        let next = segments[i].base;
        let segment = &mut segments[i - 1];
        if segment.end() < next {
            let damage = Damage { file: segment.file.clone(), from: segment.end(), to: next };
            recovery.damage.push(damage);
        } else if segment.end() > next {
            recovery.overlap_bytes += segment.end().0 - next.0;
            segment.len = next.0 - segment.base.0;
        }
    }
}

fn recover_newest<F: Framing>(
    disk: &dyn Disk,
    dir: &DirName,
    segments: &mut Vec<SegmentInfo>,
    recovery: &mut Recovery,
) -> io::Result<()> {
    let newest = segments.last_mut().expect("there is at least one segment");
    cut_torn_tail::<F>(disk, newest, recovery)?;
    let headless = newest.len == 0;
    if !headless || segments.len() == 1 {
        return Ok(());
    }
    // A crash came between creating the segment and syncing its head. The one before was synced first, so an invalid
    // tail there is damage, not a torn write, and its positions are taken.
    let base = segments[segments.len() - 1].base;
    let before = &segments[segments.len() - 2];
    let found = verify::<F>(disk, &before.file, before.len)?;
    recovery.scanned_bytes += found.read_bytes;
    recovery.damage.extend(damages(before, &found.damage));
    let whole = found.valid_end == before.len;
    if !whole {
        let lost = Invalid { from: found.valid_end, to: before.len, group_start: found.valid_end };
        recovery.damage.extend(damages(before, &[lost]));
    }
    if whole && before.end() == base && recovery.overlap_bytes == 0 {
        let removed = segments.pop().expect("there are two");
        disk.remove(&removed.file)?;
        disk.sync_dir(dir)?;
    }
    Ok(())
}

/// Verifies a segment from the device and cuts off what a crash tore.
fn cut_torn_tail<F: Framing>(
    disk: &dyn Disk,
    segment: &mut SegmentInfo,
    recovery: &mut Recovery,
) -> io::Result<()> {
    // What a process left in the cache when it died becomes durable, or turns out not to be on the device.
    disk.sync(&segment.file)?;
    disk.forget_cache(&segment.file)?;
    let mut found = verify::<F>(disk, &segment.file, segment.len)?;
    recovery.scanned_bytes += found.read_bytes;
    let end = match found.durable_below {
        None => found.valid_end,
        Some(durable) => {
            // Cutting goes back to the start of a group, and that too must not have been durable.
            let unsynced = |range: &Invalid| segment.base.plus(range.group_start) >= durable;
            let first = found.damage.iter().position(unsynced);
            let end = first.map_or(found.valid_end, |first| found.damage[first].group_start);
            found.damage.truncate(first.unwrap_or(found.damage.len()));
            end
        }
    };
    recovery.damage.extend(damages(segment, &found.damage));
    if end < segment.len {
        recovery.torn_bytes += segment.len - end;
        disk.truncate(&segment.file, end)?;
        disk.sync(&segment.file)?;
        segment.len = end;
    }
    Ok(())
}
