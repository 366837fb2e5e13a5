//! Values as JSON 1.1: blobs are base64, times are seconds. Pure.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::value::{DEPTH_MAX, VALUES_MAX, Value};

/// Reads a body. Blobs and times are still texts and numbers.
///
/// # Errors
/// When it is no JSON, nested too deep, or of too many values.
pub fn read(bytes: &[u8]) -> Result<Value<'_>, serde_json::Error> {
    let left = Cell::new(VALUES_MAX);
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Any { left: &left, depth: 0 }.deserialize(&mut deserializer)?;
    deserializer.end().map(|()| value)
}

/// Appends a value.
pub fn write(value: &Value<'_>, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(yes) => out.extend_from_slice(if *yes { b"true" } else { b"false" }),
        Value::Int(number) => out.extend_from_slice(number.to_string().as_bytes()),
        // Nothing that is sent has one that JSON can't say.
        Value::Float(number) => out.extend_from_slice(number.to_string().as_bytes()),
        Value::Text(text) => write_text(text, out),
        Value::Blob(bytes) => write_blob(bytes, out),
        Value::Time(time) => {
            out.extend_from_slice(format!("{}.{:03}", time.0 / 1000, time.0 % 1000).as_bytes());
        }
        Value::List(items) => {
            out.push(b'[');
            for (place, item) in items.iter().enumerate() {
                if place > 0 {
                    out.push(b',');
                }
                write(item, out);
            }
            out.push(b']');
        }
        Value::Map(members) => {
            out.push(b'{');
            for (place, (name, member)) in members.iter().enumerate() {
                if place > 0 {
                    out.push(b',');
                }
                write_text(name, out);
                out.push(b':');
                write(member, out);
            }
            out.push(b'}');
        }
    }
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    let plain = text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\');
    if plain {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        // Writing into memory does not fail.
        let _ = serde_json::to_writer(out, text);
    }
}

fn write_blob(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    // The room is exactly what it takes.
    let _ = STANDARD.encode_slice(bytes, &mut out[start..]);
    out.push(b'"');
}

/// One value.
struct Any<'c> {
    /// How many more there may be.
    left: &'c Cell<usize>,
    /// How many it stands within.
    depth: usize,
}

impl<'c> Any<'c> {
    fn within(&self) -> Any<'c> {
        Any { left: self.left, depth: self.depth + 1 }
    }
}

impl<'de> DeserializeSeed<'de> for Any<'_> {
    type Value = Value<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value<'de>, D::Error> {
        if self.depth > DEPTH_MAX {
            return Err(D::Error::custom("it is nested too deep"));
        }
        let left = self.left.get().checked_sub(1).ok_or_else(|| D::Error::custom("too many values"))?;
        self.left.set(left);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Any<'_> {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value<'de>, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, yes: bool) -> Result<Value<'de>, E> {
        Ok(Value::Bool(yes))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value<'de>, E> {
        Ok(Value::Int(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value<'de>, E> {
        Ok(i64::try_from(number).map_or(Value::Float(number as f64), Value::Int))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value<'de>, E> {
        Ok(Value::Float(number))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value<'de>, E> {
        Ok(Value::text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value<'de>, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self.within())? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value<'de>, A::Error> {
        let mut map = Vec::new();
        while let Some(name) = members.next_key::<Name<'de>>()? {
            map.push((name.0, members.next_value_seed(self.within())?));
        }
        Ok(Value::Map(map))
    }
}

/// A member's name, borrowed where it can be.
struct Name<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Name<'a>, D::Error> {
        match deserializer.deserialize_str(Any { left: &Cell::new(0), depth: 0 })? {
            Value::Text(text) => Ok(Name(text)),
            _ => Ok(Name(Cow::Borrowed(""))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::UnixMs;

    #[test]
    fn what_is_written_reads_back_and_times_are_seconds() {
        let value = Value::map([
            ("Text", Value::text("a\"b\n")),
            ("Blob", Value::Blob(Cow::Borrowed(b"hello"))),
            ("Time", Value::Time(UnixMs(1_700_000_000_042))),
            ("None", Value::Null),
            ("List", Value::List(vec![Value::Int(-1), Value::Bool(true)])),
        ]);
        let mut out = Vec::new();
        write(&value, &mut out);
        let text = r#"{"Text":"a\"b\n","Blob":"aGVsbG8=","Time":1700000000.042,"List":[-1,true]}"#;
        assert_eq!(String::from_utf8(out).unwrap(), text);
        let back = read(text.as_bytes()).unwrap();
        assert_eq!(back.get("Time"), Some(&Value::Float(1_700_000_000.042)));
        assert_eq!(back.str_of("Blob"), Some("aGVsbG8="));
    }

    #[test]
    fn bad_bodies_are_refused_and_the_last_of_two_names_counts() {
        for bad in ["", "{", "{\"a\":1}x", "[1,]", "{\"a\":1e999}", "{\"a\":\"\\ud800\"}"] {
            assert!(read(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(read(&[b'"', 0xff, b'"']).is_err(), "invalid UTF-8");
        assert!(read("[".repeat(100_000).as_bytes()).is_err(), "a depth bomb");
        assert!(read(format!("[0{}]", ",0".repeat(VALUES_MAX)).as_bytes()).is_err(), "a breadth bomb");
        assert_eq!(read(br#"{"a":1,"a":2}"#).unwrap().int_of("a"), Some(2));
    }

    /// Reaches `VALUES_MAX`, `DEPTH_MAX` of protocol/src/kinesis/value.rs.
    #[test]
    fn a_body_is_as_wide_and_as_deep_as_it_may_be_and_no_more() {
        // The list is a value too.
        let wide = |values: usize| format!("[0{}]", ",0".repeat(values - 2));
        assert!(read(wide(VALUES_MAX).as_bytes()).is_ok());
        let refused = read(wide(VALUES_MAX + 1).as_bytes()).unwrap_err().to_string();
        assert!(refused.starts_with("too many values"), "{refused}");
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let deep = |depth: usize| open.repeat(depth) + "0" + &close.repeat(depth);
            assert!(read(deep(DEPTH_MAX).as_bytes()).is_ok());
            let refused = read(deep(DEPTH_MAX + 1).as_bytes()).unwrap_err().to_string();
            assert!(refused.starts_with("it is nested too deep"), "{refused}");
        }
    }
}
