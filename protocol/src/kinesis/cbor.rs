//! Values as CBOR 1.1, as this API uses it: blobs are byte strings, times are tag 1 with whole milliseconds, and
//! answers have maps and lists of no stated length. Pure.

use std::borrow::Cow;

use super::value::{DEPTH_MAX, VALUES_MAX, Value};
use crate::time::UnixMs;

/// Why bytes are no CBOR that this API uses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("CBOR at byte {at}: {why}")]
pub struct CborError {
    /// Where.
    pub at: usize,
    /// What is wrong.
    pub why: &'static str,
}

/// A list whose end is where [`BREAK`] is.
pub const OPEN_LIST: u8 = 0x9f;
/// A map whose end is where [`BREAK`] is.
pub const OPEN_MAP: u8 = 0xbf;
/// The end of one of these.
pub const BREAK: u8 = 0xff;
/// A length that is not stated.
const OPEN: u8 = 31;

/// Reads a body.
///
/// # Errors
/// When it is cut off, nested too deep, of too many values, has text that is not UTF-8, or goes on behind its end.
pub fn read(bytes: &[u8]) -> Result<Value<'_>, CborError> {
    let mut reader = Reader { bytes, at: 0, left: VALUES_MAX };
    let value = reader.value(0)?;
    if reader.at == bytes.len() { Ok(value) } else { Err(reader.error("it goes on behind its end")) }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Values that may still come.
    left: usize,
}

impl<'a> Reader<'a> {
    fn error(&self, why: &'static str) -> CborError {
        CborError { at: self.at, why }
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8], CborError> {
        let rest = &self.bytes[self.at..];
        let taken = usize::try_from(count).ok().and_then(|count| rest.get(..count));
        let taken = taken.ok_or(self.error("it is cut off"))?;
        self.at += taken.len();
        Ok(taken)
    }

    fn head(&mut self) -> Result<(u8, u8), CborError> {
        let byte = self.take(1)?[0];
        Ok((byte >> 5, byte & 31))
    }

    /// The number behind a head.
    fn argument(&mut self, info: u8) -> Result<u64, CborError> {
        match info {
            0..24 => Ok(u64::from(info)),
            24..28 => {
                let bytes = self.take(1 << (info - 24))?;
                Ok(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
            }
            _ => Err(self.error("a reserved length")),
        }
    }

    /// Consumes the end of something without stated length.
    fn at_break(&mut self) -> bool {
        let end = self.bytes.get(self.at) == Some(&BREAK);
        self.at += usize::from(end);
        end
    }

    fn value(&mut self, depth: usize) -> Result<Value<'a>, CborError> {
        if depth > DEPTH_MAX {
            return Err(self.error("it is nested too deep"));
        }
        self.left = self.left.checked_sub(1).ok_or(self.error("too many values"))?;
        let (major, info) = self.head()?;
        match major {
            0 => Ok(whole(self.argument(info)?, false)),
            1 => Ok(whole(self.argument(info)?, true)),
            2 => Ok(Value::Blob(self.string(2, info)?)),
            3 => self.text(info).map(Value::Text),
            4 => self.list(info, depth),
            5 => self.map(info, depth),
            6 => self.tagged(info, depth),
            _ => self.simple(info),
        }
    }

    fn string(&mut self, major: u8, info: u8) -> Result<Cow<'a, [u8]>, CborError> {
        if info != OPEN {
            let length = self.argument(info)?;
            return self.take(length).map(Cow::Borrowed);
        }
        let mut whole = Vec::new();
        while !self.at_break() {
            let (part, info) = self.head()?;
            if part != major || info == OPEN {
                return Err(self.error("a string of parts that are none"));
            }
            let length = self.argument(info)?;
            whole.extend_from_slice(self.take(length)?);
        }
        Ok(Cow::Owned(whole))
    }

    fn text(&mut self, info: u8) -> Result<Cow<'a, str>, CborError> {
        let bad = self.error("text that is not UTF-8");
        match self.string(3, info)? {
            Cow::Borrowed(bytes) => std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| bad),
            Cow::Owned(bytes) => String::from_utf8(bytes).map(Cow::Owned).map_err(|_| bad),
        }
    }

    /// Whether there is another; `left` counts down where the length was stated.
    fn more(&mut self, left: &mut Option<u64>) -> bool {
        match left {
            None => !self.at_break(),
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
        }
    }

    fn list(&mut self, info: u8, depth: usize) -> Result<Value<'a>, CborError> {
        let mut left = if info == OPEN { None } else { Some(self.argument(info)?) };
        let mut items = Vec::new();
        while self.more(&mut left) {
            items.push(self.value(depth + 1)?);
        }
        Ok(Value::List(items))
    }

    fn map(&mut self, info: u8, depth: usize) -> Result<Value<'a>, CborError> {
        let mut left = if info == OPEN { None } else { Some(self.argument(info)?) };
        let mut members = Vec::new();
        while self.more(&mut left) {
            let (major, info) = self.head()?;
            if major != 3 {
                return Err(self.error("a name that is no text"));
            }
            let name = self.text(info)?;
            members.push((name, self.value(depth + 1)?));
        }
        Ok(Value::Map(members))
    }

    fn tagged(&mut self, info: u8, depth: usize) -> Result<Value<'a>, CborError> {
        let tag = self.argument(info)?;
        let value = self.value(depth + 1)?;
        Ok(match (tag, value) {
            (1, Value::Int(ms)) => Value::Time(UnixMs(u64::try_from(ms).unwrap_or(0))),
            (1, Value::Float(ms)) => Value::Time(UnixMs(ms.max(0.0) as u64)),
            (_, value) => value,
        })
    }

    fn simple(&mut self, info: u8) -> Result<Value<'a>, CborError> {
        match info {
            20 | 21 => Ok(Value::Bool(info == 21)),
            22 | 23 => Ok(Value::Null),
            25 => Ok(Value::Float(half(self.argument(info)? as u16))),
            26 => Ok(Value::Float(f64::from(f32::from_bits(self.argument(info)? as u32)))),
            27 => Ok(Value::Float(f64::from_bits(self.argument(info)?))),
            _ => Err(self.error("a simple value of no meaning here")),
        }
    }
}

fn whole<'a>(number: u64, negative: bool) -> Value<'a> {
    match i64::try_from(number) {
        Ok(number) if negative => Value::Int(-1 - number),
        Ok(number) => Value::Int(number),
        Err(_) => Value::Float(if negative { -1.0 - number as f64 } else { number as f64 }),
    }
}

fn half(bits: u16) -> f64 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    let size = match exponent {
        0 => fraction * 2f64.powi(-24),
        31 => f64::INFINITY,
        _ => (1024.0 + fraction) * 2f64.powi(exponent - 25),
    };
    if bits >> 15 == 1 { -size } else { size }
}

fn put_head(major: u8, number: u64, out: &mut Vec<u8>) {
    let major = major << 5;
    let size: usize = match number {
        0..24 => {
            out.push(major | number as u8);
            return;
        }
        24..0x100 => 0,
        0x100..0x1_0000 => 1,
        0x1_0000..0x1_0000_0000 => 2,
        _ => 3,
    };
    out.push(major | (24 + size as u8));
    let mut bytes = number.to_le_bytes();
    bytes.reverse();
    out.extend_from_slice(&bytes[8 - (1 << size)..]);
}

/// Appends a value.
pub fn write(value: &Value<'_>, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.push(0xf6),
        Value::Bool(yes) => out.push(0xf4 + u8::from(*yes)),
        Value::Int(number) if *number < 0 => put_head(1, !*number as u64, out),
        Value::Int(number) => put_head(0, *number as u64, out),
        Value::Float(number) => {
            let mut bytes = number.to_le_bytes();
            bytes.reverse();
            out.push(0xfb);
            out.extend_from_slice(&bytes);
        }
        Value::Text(text) => put_text(text, out),
        Value::Blob(bytes) => {
            put_head(2, bytes.len() as u64, out);
            out.extend_from_slice(bytes);
        }
        Value::Time(time) => {
            out.push(0xc1);
            put_head(0, time.0, out);
        }
        Value::List(items) => {
            out.push(OPEN_LIST);
            items.iter().for_each(|item| write(item, out));
            out.push(BREAK);
        }
        Value::Map(members) => {
            out.push(OPEN_MAP);
            for (name, member) in members {
                put_text(name, out);
                write(member, out);
            }
            out.push(BREAK);
        }
    }
}

fn put_text(text: &str, out: &mut Vec<u8>) {
    put_head(3, text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn what_is_written_reads_back_and_times_are_milliseconds() {
        let value = Value::map([
            ("Data", Value::Blob(Cow::Borrowed(&[0, 255]))),
            ("At", Value::Time(UnixMs(1_700_000_000_042))),
            ("Name", Value::text("x".repeat(300))),
            (
                "List",
                Value::List(vec![Value::Int(-300), Value::Bool(false), Value::Null, Value::Int(70_000)]),
            ),
            ("Part", Value::Float(0.5)),
        ]);
        let mut out = Vec::new();
        write(&value, &mut out);
        assert_eq!(read(&out).unwrap(), value);
        assert!(out.windows(3).any(|at| at == [0xc1, 0x1b, 0]), "tag 1 and a whole number");
        for length in 0..out.len() {
            assert!(read(&out[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn examples_of_the_standard_are_read() {
        // RFC 8949, appendix A.
        let map = [0xbf, 0x63, 0x46, 0x75, 0x6e, 0xf5, 0x63, 0x41, 0x6d, 0x74, 0x21, 0xff];
        assert_eq!(read(&map).unwrap(), Value::map([("Fun", Value::Bool(true)), ("Amt", Value::Int(-2))]));
        assert_eq!(read(&[0xf9, 0x3e, 0x00]).unwrap(), Value::Float(1.5));
        assert_eq!(read(&[0x5f, 0x42, 1, 2, 0x41, 3, 0xff]).unwrap(), Value::Blob(vec![1, 2, 3].into()));
    }

    #[test]
    fn nothing_makes_it_panic_and_bombs_are_refused() {
        assert!(read(&[0x9f; 100_000]).is_err());
        let wide = [&[0x9f][..], &vec![0; VALUES_MAX], &[BREAK]].concat();
        assert_eq!(read(&wide).unwrap_err().why, "too many values");
        assert!(read(&[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).is_err());
        let mut rng = Rng::new(5);
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..rng.below(40)).map(|_| rng.next_u64() as u8).collect();
            let _ = read(&bytes);
        }
    }

    /// Reaches `VALUES_MAX` of protocol/src/kinesis/value.rs.
    #[test]
    fn a_body_has_as_many_values_as_it_may_have_and_no_more() {
        // The list is a value too.
        let wide = |values: usize| [&[0x9f][..], &vec![0; values - 1], &[BREAK]].concat();
        assert!(read(&wide(VALUES_MAX)).is_ok());
        assert_eq!(read(&wide(VALUES_MAX + 1)).unwrap_err().why, "too many values");
    }
}
