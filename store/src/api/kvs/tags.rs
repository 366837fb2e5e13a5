//! Tags of streams: by the names of streams and by those of resources, which write lists in place of maps.

use std::collections::BTreeMap;

use hyper::Response;
use serde_json::{Value, json};

use super::{Body, Call, Result, as_json, invalid, refusal};

/// Tags of one stream.
const TAGS_MAX: usize = 50;
/// A tag's key has at most so many characters.
const KEY_CHARS_MAX: usize = 128;
/// A tag's value has at most so many characters.
const VALUE_CHARS_MAX: usize = 256;

type Tags = BTreeMap<String, String>;

/// The tags of a request: a map, or a list of keys and values.
pub(super) fn given(body: &Value) -> Result<Tags> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let pair = |tag: &Value| Some((text(tag.get("Key")?)?, text(tag.get("Value")?)?));
    let all = match body.get("Tags") {
        None | Some(Value::Null) => Some(Tags::new()),
        Some(Value::Object(map)) => {
            map.iter().map(|(key, value)| Some((key.clone(), text(value)?))).collect()
        }
        Some(Value::Array(list)) => list.iter().map(pair).collect(),
        Some(_) => None,
    };
    let all = all.ok_or_else(|| invalid("Tags: keys and values were expected"))?;
    let long = |(key, value): (&String, &String)| {
        let chars = key.chars().count();
        !(1..=KEY_CHARS_MAX).contains(&chars) || value.chars().count() > VALUE_CHARS_MAX
    };
    if all.iter().any(long) {
        return Err(invalid(format!(
            "a tag has 1 to {KEY_CHARS_MAX} characters, its value up to {VALUE_CHARS_MAX}"
        )));
    }
    if all.keys().any(|key| key.to_ascii_lowercase().starts_with("aws:")) {
        return Err(invalid("Tag keys that begin with aws: are reserved."));
    }
    Ok(all)
}

/// Adds tags, or changes nothing.
pub(super) fn put(tags: &mut Tags, new: Tags) -> Result<()> {
    let mut all = tags.clone();
    all.extend(new);
    if all.len() > TAGS_MAX {
        let message = format!("A stream has at most {TAGS_MAX} tags.");
        return Err(refusal("TagsPerResourceExceededLimitException", message));
    }
    *tags = all;
    Ok(())
}

impl Call {
    pub(super) async fn tag(&self) -> Result<Response<Body>> {
        let (found, new) = (self.find()?, given(&self.body)?);
        self.change(&found.name, |traits| put(&mut traits.tags, new)).await?;
        Ok(as_json(&json!({})))
    }

    pub(super) async fn untag(&self) -> Result<Response<Body>> {
        let found = self.find()?;
        let keys = self.body.get("TagKeyList").or_else(|| self.body.get("TagKeys")).and_then(Value::as_array);
        let keys = keys.ok_or_else(|| invalid("TagKeyList is missing"))?;
        let keys: Vec<&str> = keys.iter().filter_map(Value::as_str).collect();
        self.change(&found.name, |traits| {
            traits.tags.retain(|key, _| !keys.contains(&key.as_str()));
            Ok(())
        })
        .await?;
        Ok(as_json(&json!({})))
    }

    pub(super) fn list_tags(&self) -> Result<Response<Body>> {
        Ok(as_json(&json!({ "Tags": self.find()?.sketch.traits.tags })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reaches `KEY_CHARS_MAX`, `VALUE_CHARS_MAX`.
    #[test]
    fn keys_and_values_are_as_long_as_they_may_be_and_no_longer() {
        let text = |chars: usize| "\u{e9}".repeat(chars);
        let given = |key: usize, value: usize| given(&json!({ "Tags": { text(key): text(value) } })).is_ok();
        assert!(given(KEY_CHARS_MAX, VALUE_CHARS_MAX));
        assert!(!given(KEY_CHARS_MAX + 1, 0) && !given(1, VALUE_CHARS_MAX + 1));
    }

    /// Reaches `TAGS_MAX`.
    #[test]
    fn a_stream_has_as_many_tags_as_it_may_have_and_no_more() {
        let some = |from: usize, count: usize| {
            (from..from + count).map(|n| (n.to_string(), String::new())).collect()
        };
        let mut tags = Tags::default();
        assert!(put(&mut tags, some(0, TAGS_MAX)).is_ok() && put(&mut tags, some(0, 1)).is_ok());
        assert!(put(&mut tags, some(TAGS_MAX, 1)).is_err());
        assert_eq!(tags.len(), TAGS_MAX);
    }
}
