//! Looks at a request before anything is done: types first, then every constraint, all of them told at once. Pure.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::ApiError;
use super::model::{Member, Shape};
use super::value::Value;
use crate::time::UnixMs;

/// At most so many constraints are told.
const ERRORS_MAX: usize = 10;

/// A request as its operation wants it: texts that are blobs are bytes, numbers that are times are times, what the
/// operation does not know is gone.
///
/// # Errors
/// `SerializationException` for a wrong type, `ValidationException` for everything out of bounds.
pub fn check<'a>(body: Value<'a>, members: &[Member]) -> Result<Value<'a>, ApiError> {
    let value = convert_struct(body, members)?;
    let mut errors = Vec::new();
    check_struct(&value, members, "", &mut errors);
    if errors.is_empty() {
        return Ok(value);
    }
    let plural = if errors.len() > 1 { "s" } else { "" };
    let message = format!("{} validation error{plural} detected: {}", errors.len(), errors.join("; "));
    Err(ApiError::new("ValidationException", message))
}

fn wrong(message: impl Into<String>) -> ApiError {
    ApiError::new("SerializationException", message)
}

fn convert_struct<'a>(value: Value<'a>, members: &[Member]) -> Result<Value<'a>, ApiError> {
    let given = match value {
        Value::Map(given) => given,
        Value::List(_) => return Err(wrong("Start of list found where not expected")),
        _ => return Err(wrong("Expected null")),
    };
    let mut known = Vec::with_capacity(given.len());
    for (name, value) in given {
        let Some(member) = members.iter().find(|member| member.name == name) else { continue };
        let value = convert(value, member.shape)?;
        // Where a name stands twice the last one counts, even if it takes the first one back.
        known.retain(|(is, _): &(Cow<'_, str>, _)| is != member.name);
        if value != Value::Null {
            known.push((Cow::Borrowed(member.name), value));
        }
    }
    Ok(Value::Map(known))
}

/// What the service calls a type in its messages.
fn called(shape: Shape) -> &'static str {
    match shape {
        Shape::Text(..) | Shape::Enum(_) => "String",
        Shape::Int(..) => "Integer",
        Shape::Bool => "Boolean",
        Shape::Blob(_) => "Blob",
        Shape::Time => "Timestamp",
        _ => "",
    }
}

fn mismatch(value: &Value<'_>, shape: Shape) -> ApiError {
    let is_list = matches!(shape, Shape::List(..));
    match (value, shape) {
        (Value::List(_), _) => return wrong("Start of list found where not expected"),
        (Value::Map(_), _) if is_list => return wrong("Start of structure or map found where not expected."),
        (Value::Map(_), _) => return wrong("Start of structure or map found where not expected."),
        (_, Shape::List(..)) => return wrong("Expected list or null"),
        (_, Shape::Texts(..)) => return wrong("Expected map or null"),
        (Value::Text(text), Shape::Bool) => {
            return wrong(format!("'{}' can not be converted to an Boolean", text.to_uppercase()));
        }
        _ => {}
    }
    let class = match value {
        Value::Bool(_) => "java.lang.Boolean",
        Value::Text(_) => "java.lang.String",
        Value::Blob(_) => "java.nio.HeapByteBuffer",
        Value::Time(_) => "java.util.Date",
        _ => "java.math.BigDecimal",
    };
    let article = if matches!(shape, Shape::Blob(_)) { "a" } else { "an" };
    wrong(format!("class {class} can not be converted to {article} {}", called(shape)))
}

fn convert<'a>(value: Value<'a>, shape: Shape) -> Result<Value<'a>, ApiError> {
    match (shape, value) {
        (Shape::Text(..) | Shape::Enum(_), value @ Value::Text(_))
        | (Shape::Int(..), value @ Value::Int(_))
        | (Shape::Bool, value @ Value::Bool(_))
        | (Shape::Blob(_), value @ Value::Blob(_))
        | (Shape::Time, value @ Value::Time(_)) => Ok(value),
        (Shape::Int(..), Value::Float(number)) if number.is_finite() => Ok(Value::Int(number.floor() as i64)),
        (Shape::Time, Value::Int(seconds)) => {
            Ok(Value::Time(UnixMs(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000))))
        }
        (Shape::Time, Value::Float(seconds)) => {
            Ok(Value::Time(UnixMs((seconds.max(0.0) * 1000.0).round() as u64)))
        }
        (Shape::Blob(_), Value::Text(text)) => blob(&text),
        (Shape::List(_, _, shape, _), Value::List(items)) => {
            items.into_iter().map(|item| convert(item, *shape)).collect::<Result<_, _>>().map(Value::List)
        }
        (Shape::Texts(..), Value::Map(members)) => {
            let texts = members.into_iter().filter(|(_, value)| *value != Value::Null);
            let texts = texts.map(|(name, value)| match value {
                value @ Value::Text(_) => Ok((name, value)),
                other => Err(mismatch(&other, Shape::Text(0, 0, None))),
            });
            texts.collect::<Result<_, _>>().map(Value::Map)
        }
        (Shape::Struct(members), value) => convert_struct(value, members),
        (_, Value::Null) => Ok(Value::Null),
        (shape, value) => Err(mismatch(&value, shape)),
    }
}

fn blob<'a>(text: &str) -> Result<Value<'a>, ApiError> {
    STANDARD.decode(text.as_bytes()).map(|bytes| Value::Blob(Cow::Owned(bytes))).map_err(|_| {
        let shown: String = text.chars().take(256).collect();
        let why = if !text.len().is_multiple_of(4) {
            format!("Base64 encoded length is expected a multiple of 4 bytes but found: {}", text.len())
        } else if let Some(bad) =
            text.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '+' | '/' | '='))
        {
            format!("Invalid Base64 character: '{bad}'")
        } else {
            "Invalid last non-pad Base64 character dectected".to_owned()
        };
        wrong(format!("'{shown}' can not be converted to a Blob: {why}"))
    })
}

fn lower_first(name: &str) -> String {
    let mut chars = name.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

fn check_struct(value: &Value<'_>, members: &[Member], path: &str, errors: &mut Vec<String>) {
    for member in members {
        let at = || {
            let name = lower_first(member.name);
            if path.is_empty() { name } else { format!("{path}.{name}") }
        };
        match value.get(member.name) {
            None if member.required => put("null", &at(), "Member must not be null", errors),
            None => {}
            Some(value) => check_one(value, member.shape, &at, errors),
        }
    }
}

fn put(value: &str, at: &str, constraint: &str, errors: &mut Vec<String>) {
    if errors.len() < ERRORS_MAX {
        let value = if value == "null" { value.to_owned() } else { format!("'{value}'") };
        errors.push(format!("Value {value} at '{at}' failed to satisfy constraint: {constraint}"));
    }
}

fn length(value: &str, at: &str, got: u64, least: u64, most: u64, errors: &mut Vec<String>) {
    if got < least {
        put(value, at, &format!("Member must have length greater than or equal to {least}"), errors);
    }
    if got > most {
        put(value, at, &format!("Member must have length less than or equal to {most}"), errors);
    }
}

fn characters(text: &str) -> u64 {
    // Java counts in UTF-16; a text that is short in bytes is short either way.
    text.encode_utf16().count() as u64
}

fn check_one(value: &Value<'_>, shape: Shape, at: &dyn Fn() -> String, errors: &mut Vec<String>) {
    match (shape, value) {
        (Shape::Text(least, most, pattern), Value::Text(text)) => {
            if let Some(pattern) = pattern.filter(|pattern| !(pattern.fits)(text)) {
                let rule = format!("Member must satisfy regular expression pattern: {}", pattern.text);
                put(text, &at(), &rule, errors);
            }
            if (text.len() as u64) < least.max(1) || text.len() as u64 > most {
                length(text, &at(), characters(text), least, most, errors);
            }
        }
        (Shape::Enum(allowed), Value::Text(text)) if !allowed.contains(&text.as_ref()) => {
            put(text, &at(), &one_of(allowed), errors);
        }
        (Shape::Int(least, most), Value::Int(number)) => {
            if *number < least {
                let rule = format!("Member must have value greater than or equal to {least}");
                put(&number.to_string(), &at(), &rule, errors);
            }
            if *number > most {
                let rule = format!("Member must have value less than or equal to {most}");
                put(&number.to_string(), &at(), &rule, errors);
            }
        }
        (Shape::Blob(most), Value::Blob(bytes)) if bytes.len() as u64 > most => {
            let count = bytes.len();
            let shown = format!("java.nio.HeapByteBuffer[pos=0 lim={count} cap={count}]");
            length(&shown, &at(), count as u64, 0, most, errors);
        }
        (Shape::List(least, most, item, named), Value::List(items)) => {
            let count = items.len() as u64;
            if count < least || count > most {
                let shown: Vec<&str> = items.iter().map(|item| item.as_str().unwrap_or(named)).collect();
                length(&format!("[{}]", shown.join(", ")), &at(), count, least, most, errors);
            }
            check_items(items, *item, at, errors);
        }
        (Shape::Texts(least, most, names, texts), Value::Map(members)) => {
            check_texts(members, (least, most), names, texts, &at(), errors);
        }
        (Shape::Struct(members), value) => check_struct(value, members, &at(), errors),
        _ => {}
    }
}

fn one_of(allowed: &[&str]) -> String {
    format!("Member must satisfy enum value set: [{}]", allowed.join(", "))
}

fn check_items(items: &[Value<'_>], item: Shape, at: &dyn Fn() -> String, errors: &mut Vec<String>) {
    let shown = || {
        let texts: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
        format!("[{}]", texts.join(", "))
    };
    match item {
        Shape::Struct(members) => {
            for (place, item) in items.iter().enumerate() {
                if errors.len() >= ERRORS_MAX {
                    return;
                }
                check_item(item, members, place, at, errors);
            }
        }
        Shape::Text(least, most, _) => {
            let fits = |text: &str| (least..=most).contains(&characters(text));
            if !items.iter().filter_map(Value::as_str).all(fits) {
                put(&shown(), &at(), &lengths("Member must satisfy constraint", least, most), errors);
            }
        }
        Shape::Enum(allowed)
            if !items.iter().filter_map(Value::as_str).all(|text| allowed.contains(&text)) =>
        {
            let rule = format!("Member must satisfy constraint: [{}]", one_of(allowed));
            put(&shown(), &at(), &rule, errors);
        }
        _ => {}
    }
}

/// The path is only written where something is wrong: there may be 500 records.
fn check_item(
    item: &Value<'_>,
    members: &[Member],
    place: usize,
    at: &dyn Fn() -> String,
    errors: &mut Vec<String>,
) {
    let path = |name: &str| format!("{}.{}.member.{}", at(), place + 1, lower_first(name));
    for member in members {
        match item.get(member.name) {
            None if member.required => put("null", &path(member.name), "Member must not be null", errors),
            None => {}
            Some(value) => check_one(value, member.shape, &|| path(member.name), errors),
        }
    }
}

fn lengths(what: &str, least: u64, most: u64) -> String {
    format!(
        "{what}: [Member must have length less than or equal to {most}, \
         Member must have length greater than or equal to {least}]"
    )
}

fn check_texts(
    members: &[(Cow<'_, str>, Value<'_>)],
    (least, most): (u64, u64),
    names: (u64, u64),
    texts: (u64, u64),
    at: &str,
    errors: &mut Vec<String>,
) {
    let shown = || {
        let pairs =
            members.iter().map(|(name, text)| format!("{name}={}", text.as_str().unwrap_or_default()));
        format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "))
    };
    let count = members.len() as u64;
    if count < least || count > most {
        length(&shown(), at, count, least, most, errors);
    }
    let fits = |text: &str, (least, most): (u64, u64)| (least..=most).contains(&characters(text));
    if !members.iter().all(|(name, _)| fits(name, names)) {
        put(&shown(), at, &lengths("Map keys must satisfy constraint", names.0, names.1), errors);
    }
    if !members.iter().all(|(_, text)| fits(text.as_str().unwrap_or_default(), texts)) {
        put(&shown(), at, &lengths("Map value must satisfy constraint", texts.0, texts.1), errors);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{json, model};
    use super::*;

    fn run(operation: &str, body: &str) -> Result<String, String> {
        let members = model::operation(operation).unwrap().1;
        let checked = check(json::read(body.as_bytes()).unwrap(), members);
        checked.map(|value| format!("{value:?}")).map_err(|e| e.to_string())
    }

    #[test]
    fn every_violation_is_told_in_the_service_s_words() {
        assert_eq!(
            run("CreateStream", r#"{"StreamName":"","ShardCount":0}"#).unwrap_err(),
            "ValidationException: 3 validation errors detected: Value '' at 'streamName' failed to satisfy \
             constraint: Member must satisfy regular expression pattern: [a-zA-Z0-9_.-]+; Value '' at \
             'streamName' failed to satisfy constraint: Member must have length greater than or equal to 1; \
             Value '0' at 'shardCount' failed to satisfy constraint: Member must have value greater than or \
             equal to 1"
        );
        assert_eq!(
            run("PutRecords", r#"{"StreamName":"a","Records":[{"Data":""},{"PartitionKey":""}]}"#)
                .unwrap_err(),
            "ValidationException: 2 validation errors detected: Value null at 'records.2.member.data' failed to \
             satisfy constraint: Member must not be null; Value '' at 'records.2.member.partitionKey' failed to \
             satisfy constraint: Member must have length greater than or equal to 1"
        );
        assert!(
            run("AddTagsToStream", r#"{"StreamName":"a","Tags":{"":"x"}}"#)
                .unwrap_err()
                .contains("Value '{=x}' at 'tags' failed to satisfy constraint: Map keys must satisfy")
        );
    }

    #[test]
    fn wrong_types_come_before_constraints() {
        for (body, want) in [
            (r#"{"StreamName":1}"#, "class java.math.BigDecimal can not be converted to an String"),
            (r#"{"StreamName":[]}"#, "Start of list found where not expected"),
            (
                r#"{"StreamName":"","ShardCount":"1"}"#,
                "class java.lang.String can not be converted to an Integer",
            ),
            (r#"{"StreamModeDetails":1}"#, "Expected null"),
        ] {
            let error = run("CreateStream", body).unwrap_err();
            assert_eq!(error, format!("SerializationException: {want}"), "{body}");
        }
        let error = run("PutRecord", r#"{"Data":"abc"}"#).unwrap_err();
        assert!(error.ends_with("Base64 encoded length is expected a multiple of 4 bytes but found: 3"));
    }

    #[test]
    fn blobs_and_times_are_what_they_are_and_unknown_members_are_gone() {
        let value = run("PutRecord", r#"{"Data":"aGk=","Other":1,"PartitionKey":null}"#).unwrap();
        assert_eq!(value, r#"Map([("Data", Blob([104, 105]))])"#);
        let twice = run("PutRecord", r#"{"PartitionKey":"a","PartitionKey":null,"Data":"","Data":"aGk="}"#);
        assert_eq!(twice.unwrap(), r#"Map([("Data", Blob([104, 105]))])"#);
        let value =
            run("GetShardIterator", r#"{"Timestamp":1.5,"ShardId":"a","ShardIteratorType":"LATEST"}"#);
        assert!(value.unwrap().contains("Time(UnixMs(1500))"));
    }

    /// Reaches `ERRORS_MAX`.
    #[test]
    fn no_more_violations_are_told_than_somebody_reads() {
        let told = |count: usize| {
            let records = vec![r#"{"PartitionKey":"a"}"#; count].join(",");
            run("PutRecords", &format!(r#"{{"StreamName":"a","Records":[{records}]}}"#)).unwrap_err()
        };
        let counted = |errors: usize| format!("ValidationException: {errors} validation errors detected: ");
        assert!(told(ERRORS_MAX - 1).starts_with(&counted(ERRORS_MAX - 1)));
        let most = told(ERRORS_MAX);
        assert!(most.starts_with(&counted(ERRORS_MAX)), "{most}");
        assert_eq!(told(ERRORS_MAX + 1), most);
    }
}
