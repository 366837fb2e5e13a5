//! Blocks: frames of one track that have a time, alone or laced (RFC 9559, section 10). Never: what the times mean.

#![expect(clippy::big_endian_bytes, reason = "Matroska is written so")]

use super::ebml::{Element, children, length};
use super::{id, invalid};
use crate::VideoError;

const KEY: u8 = 0x80;
const LACING: u8 = 0x06;
const XIPH: u8 = 0x02;
const FIXED: u8 = 0x04;

/// What a SimpleBlock or a BlockGroup holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Block<'a> {
    pub(super) track: u64,
    /// From the time of the cluster.
    pub(super) time: i16,
    pub(super) key: bool,
    pub(super) duration: Option<u64>,
    pub(super) frames: Vec<&'a [u8]>,
}

pub(super) fn read<'a>(element: &Element<'a>) -> Result<Block<'a>, VideoError> {
    if element.id == id::SIMPLE_BLOCK {
        let (mut block, flags) = parse(element)?;
        block.key = flags & KEY != 0;
        return Ok(block);
    }
    let (mut found, mut duration, mut refers) = (None, None, false);
    for child in children(element.data, element.at) {
        let child = child?;
        match child.id {
            id::BLOCK => found = Some(parse(&child)?.0),
            id::BLOCK_DURATION => duration = Some(child.uint()?),
            id::REFERENCE_BLOCK => refers = true,
            _ => (),
        }
    }
    let found = found.ok_or_else(|| invalid(element.at, "a BlockGroup without a Block"))?;
    Ok(Block { duration, key: !refers, ..found })
}

fn parse<'a>(element: &Element<'a>) -> Result<(Block<'a>, u8), VideoError> {
    let short = || invalid(element.at, "a block that is shorter than its head");
    let Some(Ok((Some(track), bytes))) = length(element.data) else { return Err(short()) };
    let [high, low, flags, ..] = element.data[bytes..] else { return Err(short()) };
    let time = i16::from_be_bytes([high, low]);
    let data = &element.data[bytes + 3..];
    let frames = if flags & LACING == 0 {
        vec![data]
    } else {
        laced(data, flags & LACING)
            .ok_or_else(|| invalid(element.at, "frames in a block that are longer than it"))?
    };
    Ok((Block { track, time, key: false, duration: None, frames }, flags))
}

fn laced(data: &[u8], lacing: u8) -> Option<Vec<&[u8]>> {
    let (count, mut rest) = data.split_first()?;
    let count = usize::from(*count) + 1;
    let mut sizes = Vec::with_capacity(count);
    match lacing {
        FIXED if rest.len() % count == 0 => sizes = vec![rest.len() / count; count - 1],
        FIXED => return None,
        XIPH => {
            for _ in 1..count {
                let end = rest.iter().position(|byte| *byte != 255)?;
                sizes.push(end * 255 + usize::from(rest[end]));
                rest = &rest[end + 1..];
            }
        }
        _ => {
            for nth in 1..count {
                let (value, bytes) = length(rest)?.ok()?;
                // All sizes but the first are differences, with half of what their bytes can say taken away.
                let half = (1i64 << (7 * bytes - 1)) - 1;
                let value = i64::try_from(value.unwrap_or((1 << (7 * bytes)) - 1)).ok()?;
                let before = sizes.last().map_or(0, |size: &usize| *size as i64);
                let size = if nth == 1 { value } else { before.checked_add(value - half)? };
                sizes.push(usize::try_from(size).ok()?);
                rest = &rest[bytes..];
            }
        }
    }
    let mut frames = Vec::with_capacity(count);
    for size in sizes {
        let (frame, after) = rest.split_at_checked(size)?;
        frames.push(frame);
        rest = after;
    }
    frames.push(rest);
    Some(frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn simple(data: &[u8]) -> Result<Block<'_>, VideoError> {
        read(&Element { id: id::SIMPLE_BLOCK, data, at: 0 })
    }

    #[test]
    fn a_block_is_one_frame_or_several() {
        let one = simple(&[0x81, 0xff, 0xfe, 0x80, 1, 2]).unwrap();
        assert_eq!((one.track, one.time, one.key, one.frames), (1, -2, true, vec![&[1u8, 2][..]]));
        let three = vec![&[1u8][..], &[2, 2], &[3, 3, 3]];
        assert_eq!(simple(&[0x81, 0, 0, 0x02, 2, 1, 2, 1, 2, 2, 3, 3, 3]).unwrap().frames, three);
        // 0x81 is one byte, 0xc0 one more than before.
        assert_eq!(simple(&[0x81, 0, 0, 0x06, 2, 0x81, 0xc0, 1, 2, 2, 3, 3, 3]).unwrap().frames, three);
        assert_eq!(simple(&[0x81, 0, 0, 0x04, 1, 5, 6]).unwrap().frames, vec![&[5u8][..], &[6]]);
        for bad in [
            &[0x81, 0, 0][..],
            &[],
            &[0x81, 0, 0, 0x02],
            &[0x81, 0, 0, 0x02, 1, 9, 1],
            &[0x81, 0, 0, 4, 1, 5],
        ] {
            assert!(simple(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_group_says_how_long_its_block_lasts_and_whether_it_needs_others() {
        let group = [0xa1, 0x85, 0x82, 0, 7, 0, 9, 0x9b, 0x81, 40, 0xfb, 0x81, 0xd8];
        let block = read(&Element { id: id::BLOCK_GROUP, data: &group, at: 0 }).unwrap();
        assert_eq!((block.track, block.time, block.key, block.duration), (2, 7, false, Some(40)));
        let alone = read(&Element { id: id::BLOCK_GROUP, data: &group[..10], at: 0 }).unwrap();
        assert!(alone.key);
        assert!(read(&Element { id: id::BLOCK_GROUP, data: &group[7..], at: 0 }).is_err());
    }
}
