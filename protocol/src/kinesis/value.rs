//! A request's or an answer's body, whichever encoding it has. Pure.

use std::borrow::Cow;

use crate::time::UnixMs;

/// Nothing is nested deeper than this.
pub const DEPTH_MAX: usize = 64;

/// A body has at most so many values: 500 records take 2,000. More would take many times the memory of the body.
pub const VALUES_MAX: usize = 20_000;

/// A value. Blobs and times exist in what is sent, and in what was received once [`super::check`] has looked at it.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// Nothing: as if the member were not there.
    Null,
    /// A boolean.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// A text.
    Text(Cow<'a, str>),
    /// Bytes.
    Blob(Cow<'a, [u8]>),
    /// A time.
    Time(UnixMs),
    /// Some values.
    List(Vec<Value<'a>>),
    /// Named values, in the order in which they came.
    Map(Vec<(Cow<'a, str>, Value<'a>)>),
}

impl<'a> Value<'a> {
    /// An empty structure.
    #[must_use]
    pub fn empty() -> Value<'a> {
        Value::Map(Vec::new())
    }

    /// A structure; members that are [`Value::Null`] are left out.
    #[must_use]
    pub fn map<const N: usize>(members: [(&'static str, Value<'a>); N]) -> Value<'a> {
        let there = members.into_iter().filter(|(_, value)| *value != Value::Null);
        Value::Map(there.map(|(name, value)| (Cow::Borrowed(name), value)).collect())
    }

    /// A text that is the value's own.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Value<'a> {
        Value::Text(Cow::Owned(text.into()))
    }

    /// A member of a structure, if it is there. The last one counts where a name stands twice.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value<'a>> {
        let Value::Map(members) = self else { return None };
        members.iter().rev().find(|(is, _)| is == name).map(|(_, value)| value).filter(|v| **v != Value::Null)
    }

    /// A member that is a text.
    #[must_use]
    pub fn str_of(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(Value::as_str)
    }

    /// A member that is a whole number.
    #[must_use]
    pub fn int_of(&self, name: &str) -> Option<i64> {
        match self.get(name)? {
            Value::Int(number) => Some(*number),
            _ => None,
        }
    }

    /// A member that is a boolean.
    #[must_use]
    pub fn bool_of(&self, name: &str) -> Option<bool> {
        match self.get(name)? {
            Value::Bool(yes) => Some(*yes),
            _ => None,
        }
    }

    /// A member that is a time.
    #[must_use]
    pub fn time_of(&self, name: &str) -> Option<UnixMs> {
        match self.get(name)? {
            Value::Time(time) => Some(*time),
            _ => None,
        }
    }

    /// A member that is bytes.
    #[must_use]
    pub fn blob_of(&self, name: &str) -> Option<&[u8]> {
        match self.get(name)? {
            Value::Blob(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// A member that is a list; empty where it is not there.
    #[must_use]
    pub fn list_of(&self, name: &str) -> &[Value<'a>] {
        match self.get(name) {
            Some(Value::List(items)) => items,
            _ => &[],
        }
    }

    /// A member that is a map of texts; empty where it is not there.
    #[must_use]
    pub fn texts_of(&self, name: &str) -> Vec<(String, String)> {
        match self.get(name) {
            Some(Value::Map(members)) => members
                .iter()
                .map(|(key, value)| (key.to_string(), value.as_str().unwrap_or_default().to_owned()))
                .collect(),
            _ => Vec::new(),
        }
    }

    /// The text that it is.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl From<&str> for Value<'_> {
    fn from(text: &str) -> Self {
        Value::text(text)
    }
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Value::text(text)
    }
}

impl From<u64> for Value<'_> {
    fn from(number: u64) -> Self {
        Value::Int(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<usize> for Value<'_> {
    fn from(number: usize) -> Self {
        Value::from(number as u64)
    }
}

impl From<bool> for Value<'_> {
    fn from(yes: bool) -> Self {
        Value::Bool(yes)
    }
}

impl From<UnixMs> for Value<'_> {
    fn from(time: UnixMs) -> Self {
        Value::Time(time)
    }
}

impl<'a, T: Into<Value<'a>>> From<Option<T>> for Value<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::Null, Into::into)
    }
}
