//! Looks at a tree of MP4 boxes before anything reads it: every box is as long as its head and ends within its parent,
//! none is too deep, there are not too many, and none says that it holds more than it can. Other people's parsers loop, panic
//! or take all memory where that is not so.

use crate::VideoError;
use crate::limit::{BOX_DEPTH_MAX, BOXES_MAX, GROUPS_MAX};

/// Boxes that hold boxes, with how many bytes stand before the first of them.
const PARENTS: [(&[u8; 4], usize); 14] = [
    (b"moov", 0),
    (b"trak", 0),
    (b"mdia", 0),
    (b"minf", 0),
    (b"stbl", 0),
    (b"dinf", 0),
    (b"edts", 0),
    (b"mvex", 0),
    (b"moof", 0),
    (b"traf", 0),
    (b"udta", 0),
    (b"stsd", 8),
    (b"dref", 8),
    (b"meta", 4),
];

/// The head of a box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoxHead {
    /// Its type.
    pub kind: [u8; 4],
    /// Bytes of the head.
    pub head: usize,
    /// Bytes of all of it.
    pub size: u64,
}

/// The head of the box that `bytes` begin with; `None` where more bytes are needed to know.
///
/// # Errors
/// When it says that it is shorter than its head, or goes on to the end of the file.
pub fn box_head(bytes: &[u8], at: u64) -> Result<Option<BoxHead>, VideoError> {
    let Some(head) = bytes.first_chunk::<8>() else { return Ok(None) };
    let (size, kind) = (be32(&head[..4]), [head[4], head[5], head[6], head[7]]);
    let invalid = |why: &str| VideoError::Invalid { at, why: format!("box {}: {why}", name(kind)) };
    let (head, size) = match size {
        0 => return Err(invalid("it has no size: write fragmented MP4, whose boxes have one")),
        1 => {
            let Some(large) = bytes.get(8..16) else { return Ok(None) };
            (16, u64::from(be32(&large[..4])) << 32 | u64::from(be32(&large[4..])))
        }
        size => (8, u64::from(size)),
    };
    if size < head as u64 {
        return Err(invalid("it is shorter than its own head"));
    }
    Ok(Some(BoxHead { kind, head, size }))
}

fn be32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |all, byte| all << 8 | u32::from(*byte))
}

/// A type as text.
#[must_use]
pub fn name(kind: [u8; 4]) -> String {
    kind.iter().map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '?' }).collect()
}

/// Checks whole boxes and all that is in them. `at` is where they are, for messages.
///
/// # Errors
/// When a box does not fit where it is, or there are too many.
pub fn check(bytes: &[u8], at: u64) -> Result<(), VideoError> {
    check_groups(bytes, at)?;
    let mut left = BOXES_MAX;
    check_level(bytes, at, BOX_DEPTH_MAX, &mut left)
}

fn check_level(mut bytes: &[u8], mut at: u64, depth: usize, left: &mut usize) -> Result<(), VideoError> {
    let invalid = |at, why: String| Err(VideoError::Invalid { at, why });
    while !bytes.is_empty() {
        if depth == 0 || *left == 0 {
            return invalid(at, "boxes within boxes without end".to_owned());
        }
        *left -= 1;
        let Some(head) = box_head(bytes, at)? else {
            // QuickTime ends some lists with four zero bytes.
            let end = bytes.len() == 4 && bytes == [0; 4];
            return if end { Ok(()) } else { invalid(at, "a box is cut off".to_owned()) };
        };
        let Some(whole) = usize::try_from(head.size).ok().and_then(|size| bytes.get(..size)) else {
            return invalid(at, format!("box {} goes on after the end of its parent", name(head.kind)));
        };
        if let Some((_, skip)) = PARENTS.iter().find(|(kind, _)| **kind == head.kind) {
            let start = head.head + skip;
            let Some(inner) = whole.get(start..) else {
                return invalid(at, format!("box {} is cut off", name(head.kind)));
            };
            check_level(inner, at + start as u64, depth - 1, left)?;
        }
        bytes = &bytes[whole.len()..];
        at += whole.len() as u64;
    }
    Ok(())
}

/// Descriptions of groups that are empty take no bytes and may be as many as a number can say; here there are no more than bytes
/// around them. They are looked for everywhere, as parsers read boxes also where this one does not look into: in descriptions
/// of samples, wherever those stand.
fn check_groups(bytes: &[u8], at: u64) -> Result<(), VideoError> {
    let kind = b"sgpd";
    let most = u64::from(GROUPS_MAX).min(bytes.len() as u64);
    let mut found = bytes.windows(kind.len()).enumerate().filter(|(_, window)| window == kind);
    let mut all = 0u64;
    let wrong = found.find(|(place, _)| {
        all += u64::from(groups(&bytes[place + kind.len()..]));
        all > most
    });
    wrong.map_or(Ok(()), |(place, _)| {
        let at = at + (place as u64).saturating_sub(4);
        let why = format!("box sgpd: with its groups there are more than {most}");
        Err(VideoError::Invalid { at, why })
    })
}

/// How many groups an `sgpd` says that it describes (ISO/IEC 14496-12, 8.9.3): after version and flags, the type, and two
/// fields that later versions have.
fn groups(body: &[u8]) -> u32 {
    let fields = body.first().map_or(0, |version| usize::from(*version).min(2));
    body.get(8 + 4 * fields..).and_then(|rest| rest.first_chunk::<4>()).map_or(0, |count| be32(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(kind: &[u8; 4], inner: &[u8]) -> Vec<u8> {
        let mut out = vec![0, 0, 0, (8 + inner.len()) as u8];
        out.extend_from_slice(kind);
        out.extend_from_slice(inner);
        out
    }

    /// The same, with so many bytes of another box after it.
    fn padded(bytes: &[u8], padding: u32) -> Vec<u8> {
        let size = padding + 8;
        let head = [(size >> 24) as u8, (size >> 16) as u8, (size >> 8) as u8, size as u8];
        [bytes, &head, b"free", &vec![0; padding as usize]].concat()
    }

    #[test]
    fn boxes_that_fit_are_good_and_others_are_told() {
        let good = put(b"moov", &[put(b"mvhd", &[1, 2, 3]), put(b"trak", &put(b"tkhd", &[]))].concat());
        assert_eq!(check(&good, 0), Ok(()));
        for at in 0..good.len() {
            let mut bad = good.clone();
            for value in [0, 1, 7, 255] {
                bad[at] = value;
                let _ = check(&bad, 0);
            }
            assert!(check(&good[..at], 0).is_err() || at == 0, "{at} bytes");
        }
        // The size of a child of zero: where others loop.
        let mut zero = good.clone();
        zero[8..12].fill(0);
        assert!(check(&zero, 100).unwrap_err().to_string().starts_with("byte 108: box mvhd"));
        let mut long = good;
        long[11] = 200;
        assert!(check(&long, 0).unwrap_err().to_string().contains("after the end of its parent"));
    }

    /// Reaches `GROUPS_MAX` of video/src/limit.rs.
    #[test]
    fn empty_groups_are_not_counted_by_the_thousand_million() {
        for version in 0..4 {
            let fields = vec![0; 4 * usize::from(version).min(2)];
            let groups = |count: u32| {
                let body = [
                    &[version, 0, 0, 0][..],
                    b"roll",
                    &fields,
                    &[0, (count >> 16) as u8, (count >> 8) as u8, count as u8],
                ];
                put(b"sgpd", &body.concat())
            };
            let inside = |count| padded(&put(b"moov", &groups(count)), 70_000);
            assert_eq!(check(&inside(65_535), 0), Ok(()));
            let error = check(&inside(65_536), 0).unwrap_err().to_string();
            assert!(
                error.starts_with("byte 8: box sgpd: with its groups there are more than 65535"),
                "{error}"
            );
            // Also of several together.
            let two = |count| padded(&put(b"moov", &[groups(65_000), groups(count)].concat()), 70_000);
            assert_eq!(check(&two(535), 0), Ok(()));
            assert!(check(&two(536), 0).is_err());
            // In the description of a sample, which holds boxes after its fields.
            let entry = |count| put(b"mett", &[&[0; 10], &groups(count)[..]].concat());
            let deep = |count| put(b"moov", &put(b"udta", &entry(count)));
            assert_eq!(check(&deep(40), 0), Ok(()), "a few may be empty");
            assert!(check(&deep(100), 0).is_err(), "more than there are bytes");
            assert_eq!(check(&padded(&deep(65_535), 70_000), 0), Ok(()));
            let error = check(&padded(&deep(65_536), 70_000), 0).unwrap_err().to_string();
            assert!(
                error.starts_with("byte 34: box sgpd: with its groups there are more than 65535"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_tree_without_end_is_given_up() {
        let deep = (0..20).fold(Vec::new(), |inner, _| put(b"trak", &inner));
        assert!(check(&deep, 0).unwrap_err().to_string().contains("without end"));
        let large = [&[0, 0, 0, 1][..], b"mdat", &[0, 0, 0, 0, 0, 0, 0, 4]].concat();
        assert!(box_head(&large, 0).unwrap_err().to_string().contains("shorter than its own head"));
        assert_eq!(box_head(&large[..12], 0), Ok(None));
    }
}
