//! Templates: which stream a record goes to and under which partition key. Pure.
//! Where the values come from (paths, topics, the host's name) is the sources' business.

use std::fmt;

use protocol::limit::{PARTITION_KEY_CHARS_MAX, STREAM_NAME_CHARS_MAX};
use protocol::name::StreamName;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

/// Where a record came from, and who reads it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Origin<'a> {
    /// The machine's name.
    pub host: &'a str,
    /// The agent's name.
    pub agent: &'a str,
    /// The file's path.
    pub file: &'a str,
    /// The MQTT topic.
    pub topic: &'a str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Host,
    Agent,
    File,
    FileName,
    Topic,
    TopicLevel(usize),
    Json(Vec<String>),
}

/// Why a text is no template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A placeholder that nobody knows.
    #[error("{{{name}}} is not a placeholder{}", suggestion.map(|s| format!("; did you mean {{{s}}}?")).unwrap_or_else(|| format!("; there are {KNOWN}")))]
    Unknown {
        /// As written.
        name: String,
        /// The nearest one that there is.
        suggestion: Option<&'static str>,
    },
    /// A brace without its partner.
    #[error("a brace is not closed in {text:?}; write {{{{ for a brace itself")]
    Brace {
        /// The template.
        text: String,
    },
    /// Nothing in it.
    #[error("a template must not be empty")]
    Empty,
}

const KNOWN: &str = "{host}, {agent}, {file}, {file_name}, {topic}, {topic[N]} and {json.FIELD}";
const NAMES: [&str; 6] = ["host", "agent", "file", "file_name", "topic", "json"];

/// Literal text with placeholders.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Template {
    pieces: Vec<Piece>,
    text: String,
}

impl TryFrom<String> for Template {
    type Error = TemplateError;
    fn try_from(text: String) -> Result<Template, TemplateError> {
        Template::parse(&text)
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// When a placeholder is unknown (with a suggestion) or a brace is not closed.
    pub fn parse(text: &str) -> Result<Template, TemplateError> {
        if text.is_empty() {
            return Err(TemplateError::Empty);
        }
        let brace = || TemplateError::Brace { text: text.to_owned() };
        let (mut pieces, mut literal, mut rest) = (Vec::new(), String::new(), text);
        while let Some(at) = rest.find(['{', '}']) {
            literal.push_str(&rest[..at]);
            let brace_char = &rest[at..=at];
            let after = &rest[at + 1..];
            if after.starts_with(brace_char) {
                literal.push_str(brace_char);
                rest = &after[1..];
                continue;
            }
            if brace_char == "}" {
                return Err(brace());
            }
            let (name, tail) = after.split_once('}').ok_or_else(brace)?;
            if !literal.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut literal)));
            }
            pieces.push(placeholder(name)?);
            rest = tail;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(Template { pieces, text: text.to_owned() })
    }

    /// Whether the value can differ from record to record of one file or topic.
    #[must_use]
    pub fn depends_on_data(&self) -> bool {
        self.pieces.iter().any(|p| matches!(p, Piece::Json(_)))
    }

    /// Whether it uses the topic of an MQTT message.
    #[must_use]
    pub fn depends_on_topic(&self) -> bool {
        self.pieces.iter().any(|p| matches!(p, Piece::Topic | Piece::TopicLevel(_)))
    }

    /// Whether it is the same text for every record.
    #[must_use]
    pub fn as_literal(&self) -> Option<&str> {
        match self.pieces.as_slice() {
            [Piece::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// Writes the value into `out` (cleared first). False when a placeholder had no value, and so left a gap.
    pub fn render(&self, origin: &Origin<'_>, data: &[u8], out: &mut String) -> bool {
        out.clear();
        let mut whole = true;
        for piece in &self.pieces {
            let text = match piece {
                Piece::Literal(text) => text.as_str(),
                Piece::Host => origin.host,
                Piece::Agent => origin.agent,
                Piece::File => origin.file,
                Piece::FileName => origin.file.rsplit('/').next().unwrap_or_default(),
                Piece::Topic => origin.topic,
                Piece::TopicLevel(level) => origin.topic.split('/').nth(*level).unwrap_or_default(),
                Piece::Json(path) => {
                    whole &= json_text(data, path, out);
                    continue;
                }
            };
            whole &= !text.is_empty();
            out.push_str(text);
        }
        whole && !out.is_empty()
    }

    /// The value as a partition key: at most 256 characters, and `fallback` where it has a gap (`false` then).
    pub fn partition_key(&self, origin: &Origin<'_>, data: &[u8], fallback: &str, out: &mut String) -> bool {
        let whole = self.render(origin, data, out);
        if !whole {
            out.clear();
            out.push_str(fallback);
        }
        if out.is_empty() {
            out.push('-');
        }
        cut_chars(out, PARTITION_KEY_CHARS_MAX);
        whole
    }

    /// The value as a stream's name: what a name can't hold becomes `_`, and it is cut to 128.
    pub fn stream_name(&self, origin: &Origin<'_>, data: &[u8], out: &mut String) -> StreamName {
        self.render(origin, data, out);
        let good = |c: char| if c.is_ascii_alphanumeric() || "_.-".contains(c) { c } else { '_' };
        let mut name: String = out.chars().map(good).take(STREAM_NAME_CHARS_MAX).collect();
        if name.is_empty() {
            name.push('_');
        }
        StreamName::new(&name).unwrap_or_else(|_| unreachable!("every character was made to fit"))
    }
}

fn cut_chars(text: &mut String, most: usize) {
    if text.len() > most
        && let Some((at, _)) = text.char_indices().nth(most)
    {
        text.truncate(at);
    }
}

fn placeholder(name: &str) -> Result<Piece, TemplateError> {
    if let Some(path) = name.strip_prefix("json.") {
        let path: Vec<String> = path.split('.').map(str::to_owned).collect();
        if path.iter().all(|p| !p.is_empty()) {
            return Ok(Piece::Json(path));
        }
    }
    if let Some(level) = name.strip_prefix("topic[").and_then(|t| t.strip_suffix(']'))
        && let Ok(level) = level.parse()
    {
        return Ok(Piece::TopicLevel(level));
    }
    match name {
        "host" => Ok(Piece::Host),
        "agent" => Ok(Piece::Agent),
        "file" => Ok(Piece::File),
        "file_name" => Ok(Piece::FileName),
        "topic" => Ok(Piece::Topic),
        _ => {
            let word = name.split(['.', '[']).next().unwrap_or_default();
            let near = NAMES.iter().map(|n| (strsim::jaro_winkler(word, n), *n));
            let best = near.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(score, _)| *score > 0.75);
            let suggestion = best.map(|(_, n)| if n == "json" { "json.FIELD" } else { n });
            Err(TemplateError::Unknown { name: name.to_owned(), suggestion })
        }
    }
}

/// Appends the text of a scalar deep in a JSON object; false when it is not there. Reads no further than it must
/// allocate: everything beside the path is skipped.
fn json_text(data: &[u8], path: &[String], out: &mut String) -> bool {
    let mut deserializer = serde_json::Deserializer::from_slice(data);
    Seek { path, out }.deserialize(&mut deserializer).unwrap_or(false)
}

struct Seek<'a> {
    path: &'a [String],
    out: &'a mut String,
}

impl<'de> DeserializeSeed<'de> for Seek<'_> {
    type Value = bool;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<bool, D::Error> {
        d.deserialize_any(self)
    }
}

impl Seek<'_> {
    fn take(self, text: &str) -> bool {
        if self.path.is_empty() && !text.is_empty() {
            self.out.push_str(text);
            return true;
        }
        false
    }
}

impl<'de> Visitor<'de> for Seek<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let Some((first, rest)) = self.path.split_first() else {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(false);
        };
        let (mut found, mut sought) = (false, Some(self.out));
        while let Some(key) = map.next_key::<std::borrow::Cow<'_, str>>()? {
            match sought.take_if(|_| key == first.as_str()) {
                Some(out) => found = map.next_value_seed(Seek { path: rest, out })?,
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found)
    }

    fn visit_str<E>(self, text: &str) -> Result<bool, E> {
        Ok(self.take(text))
    }

    fn visit_u64<E>(self, value: u64) -> Result<bool, E> {
        Ok(self.take(&value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<bool, E> {
        Ok(self.take(&value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<bool, E> {
        Ok(self.take(&value.to_string()))
    }

    fn visit_bool<E>(self, value: bool) -> Result<bool, E> {
        Ok(self.take(if value { "true" } else { "false" }))
    }

    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<bool, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(template: &str, data: &str) -> (String, bool) {
        let origin =
            Origin { host: "box", agent: "a7", file: "/var/log/app.log", topic: "trucks/17/telemetry" };
        let mut out = String::new();
        let whole =
            Template::parse(template).unwrap().partition_key(&origin, data.as_bytes(), "none", &mut out);
        (out, whole)
    }

    #[test]
    fn placeholders_take_their_values_from_origin_and_record() {
        let data = r#"{"a":[1,{"id":0}],"truck":{"id":42,"name":"x\ny"},"on":true}"#;
        for (template, want) in [
            ("{host}:{file}", "box:/var/log/app.log"),
            ("{file_name}", "app.log"),
            ("{topic}/{agent}", "trucks/17/telemetry/a7"),
            ("{topic[1]}", "17"),
            ("t{json.truck.id}-{json.on}", "t42-true"),
            ("{json.truck.name}", "x\ny"),
            ("{{{host}}}", "{box}"),
            ("plain", "plain"),
        ] {
            assert_eq!(key(template, data), (want.to_owned(), true), "{template}");
        }
    }

    #[test]
    fn what_has_no_value_falls_back_and_is_reported() {
        for (template, data) in [
            ("{json.truck.id}", "{}"),
            ("{json.truck.id}", r#"{"truck":{"id":null}}"#),
            ("{json.truck.id}", r#"{"truck":{"id":{"x":1}}}"#),
            ("{json.truck}", "not json"),
            ("{topic[9]}", "{}"),
            ("{json.a}", r#"{"a":1"#),
        ] {
            assert_eq!(key(template, data), ("none".to_owned(), false), "{template} {data}");
        }
    }

    #[test]
    fn unknown_placeholders_are_refused_with_a_suggestion() {
        for (bad, near) in [("{hots}", "host"), ("{filename}", "file_name"), ("{jsn.x}", "json.FIELD")] {
            let error = Template::parse(bad).unwrap_err().to_string();
            assert!(error.contains(&format!("did you mean {{{near}}}")), "{error}");
        }
        for bad in ["{", "a}", "{topic[x]}", "{json.}", ""] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_are_cut_to_256_characters_and_stream_names_to_what_fits() {
        let long = "\u{e9}".repeat(300);
        assert_eq!(key(&long, "").0.chars().count(), 256);
        let template = Template::parse("trucks-{topic[1]}").unwrap();
        let origin = Origin { topic: "a/b c\u{e9}/d", ..Origin::default() };
        assert_eq!(template.stream_name(&origin, b"", &mut String::new()).as_str(), "trucks-b_c_");
    }
}
