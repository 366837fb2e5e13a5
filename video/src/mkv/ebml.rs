//! Heads of EBML elements (RFC 8794) and the values in them. Never: what an element means, what has not come yet.

#![expect(clippy::big_endian_bytes, reason = "Matroska is written so")]

use crate::VideoError;

/// The head of an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// Its id, with the marker bit, as documents write it.
    pub(super) id: u32,
    /// Bytes of the head.
    pub(super) head: usize,
    /// Bytes of its content; `None` where that is not known.
    pub(super) size: Option<u64>,
}

fn invalid(at: u64, why: impl Into<String>) -> VideoError {
    VideoError::Invalid { at, why: why.into() }
}

/// A number whose first byte says how long it is: its value with the marker, and its bytes.
fn number(bytes: &[u8], bytes_max: usize) -> Option<Result<(u64, usize), ()>> {
    let first = *bytes.first()?;
    let length = first.leading_zeros() as usize + 1;
    if length > bytes_max {
        return Some(Err(()));
    }
    let all = bytes.get(..length)?;
    Some(Ok((all.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)), length)))
}

/// A length, or the number of a track; `None` within where all bits are set.
pub(super) fn length(bytes: &[u8]) -> Option<Result<(Option<u64>, usize), ()>> {
    let parsed = number(bytes, 8)?;
    Some(parsed.map(|(value, length)| {
        let all = (1u64 << (7 * length)) - 1;
        let value = value & all;
        ((value != all).then_some(value), length)
    }))
}

/// The head of the element that `bytes` begin with; `None` where more bytes are needed to know.
///
/// # Errors
/// When no element begins like that.
pub(super) fn head(bytes: &[u8], at: u64) -> Result<Option<Head>, VideoError> {
    let Some(id) = number(bytes, 4) else { return Ok(None) };
    let bad = || invalid(at, format!("no element of Matroska begins with {:02x}", bytes[0]));
    let (id, id_bytes) = id.map_err(|()| bad())?;
    let Some(size) = length(&bytes[id_bytes..]) else { return Ok(None) };
    let long = || invalid(at, format!("element {id:x}: a length of more than eight bytes"));
    let (size, size_bytes) = size.map_err(|()| long())?;
    Ok(Some(Head { id: id as u32, head: id_bytes + size_bytes, size }))
}

/// An element that is there as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Element<'a> {
    pub(super) id: u32,
    pub(super) data: &'a [u8],
    /// Where its content begins.
    pub(super) at: u64,
}

/// The elements in one, in their order. Ends with the first that does not fit.
pub(super) struct Children<'a> {
    rest: &'a [u8],
    at: u64,
}

pub(super) fn children(data: &[u8], at: u64) -> Children<'_> {
    Children { rest: data, at }
}

impl<'a> Iterator for Children<'a> {
    type Item = Result<Element<'a>, VideoError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let rest = std::mem::take(&mut self.rest);
        let head = match head(rest, self.at) {
            Ok(Some(head)) => head,
            Ok(None) => return Some(Err(invalid(self.at, "an element is cut off"))),
            Err(error) => return Some(Err(error)),
        };
        let size = head.size.and_then(|size| usize::try_from(size).ok());
        let data = size.and_then(|size| rest[head.head..].get(..size));
        let Some(data) = data else {
            let why = format!("element {:x} goes on after the end of its parent", head.id);
            return Some(Err(invalid(self.at, why)));
        };
        let at = self.at + head.head as u64;
        self.rest = &rest[head.head + data.len()..];
        self.at = at + data.len() as u64;
        Some(Ok(Element { id: head.id, data, at }))
    }
}

impl Element<'_> {
    /// An unsigned number.
    pub(super) fn uint(&self) -> Result<u64, VideoError> {
        if self.data.len() > 8 {
            return Err(invalid(
                self.at,
                format!("element {:x}: a number of more than eight bytes", self.id),
            ));
        }
        Ok(self.data.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    /// A number with a fraction; 0 where it is none.
    pub(super) fn float(&self) -> f64 {
        if let Ok(four) = <[u8; 4]>::try_from(self.data) {
            return f64::from(f32::from_be_bytes(four));
        }
        <[u8; 8]>::try_from(self.data).map_or(0.0, f64::from_be_bytes)
    }

    /// Text, without the zero bytes that may end it.
    pub(super) fn text(&self) -> String {
        let end = self.data.iter().position(|byte| *byte == 0).unwrap_or(self.data.len());
        String::from_utf8_lossy(&self.data[..end]).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_say_how_long_they_are_or_that_more_must_come() {
        let read = |bytes: &[u8]| head(bytes, 7);
        assert_eq!(read(&[0x1a, 0x45, 0xdf]), Ok(None));
        let ebml = Head { id: 0x1a45_dfa3, head: 5, size: Some(3) };
        assert_eq!(read(&[0x1a, 0x45, 0xdf, 0xa3, 0x83]), Ok(Some(ebml)));
        let endless = Head { id: 0x1f43_b675, head: 12, size: None };
        let bytes = [0x1f, 0x43, 0xb6, 0x75, 0x01, 255, 255, 255, 255, 255, 255, 255];
        assert_eq!(read(&bytes), Ok(Some(endless)));
        assert_eq!(read(&bytes[..11]), Ok(None));
        assert_eq!(read(&[0xa3, 0x40, 0x05]), Ok(Some(Head { id: 0xa3, head: 3, size: Some(5) })));
        assert!(read(&[0x00]).unwrap_err().to_string().starts_with("byte 7: no element"));
        assert!(read(&[0xa3, 0x00]).unwrap_err().to_string().contains("more than eight bytes"));
    }

    #[test]
    fn children_end_within_their_parent() {
        let good = [0xd7, 0x81, 5, 0x86, 0x82, b'h', 0];
        let all: Vec<_> = children(&good, 10).map(Result::unwrap).collect();
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].uint().unwrap(), all[1].text().as_str(), all[1].at), (5, "h", 15));
        for length in 1..good.len() {
            let told: Vec<_> = children(&good[..length], 0).collect();
            assert!(told.last().unwrap().is_err() || length == 3, "{length} bytes");
        }
    }
}
