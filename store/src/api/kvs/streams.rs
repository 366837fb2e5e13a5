//! Streams as wholes: made, described, listed, changed, deleted, and where to reach them.

use hyper::Response;
use protocol::limit::RECORD_BYTES_MAX;
use protocol::name::StreamName;
use protocol::stream::StreamConfig;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Body, Call, Found, Result, as_json, invalid, refusal, tags};
use crate::catalog::{Traits, VideoEntry};
use crate::service::records::Sketch;

const HOUR_MS: u64 = 3_600_000;
/// Ten years.
const HOURS_MAX: i64 = 87_600;
/// Streams of one answer.
const LIST_MAX: i64 = 10_000;
const APIS: [&str; 9] = [
    "PUT_MEDIA",
    "GET_MEDIA",
    "LIST_FRAGMENTS",
    "GET_MEDIA_FOR_FRAGMENT_LIST",
    "GET_HLS_STREAMING_SESSION_URL",
    "GET_DASH_STREAMING_SESSION_URL",
    "GET_CLIP",
    "GET_IMAGES",
    "JOIN_STORAGE_SESSION",
];

/// What 0 hours, which mean nothing is kept, are here: video is read from where it is kept.
fn retention_ms(hours: i64) -> u64 {
    u64::try_from(hours).unwrap_or(0).max(1) * HOUR_MS
}

fn hours(sketch: &Sketch) -> u64 {
    let said = sketch.traits.video.as_ref().and_then(|video| video.hours);
    said.unwrap_or(sketch.config.retention_ms / HOUR_MS)
}

/// Another one after each change, so that a change that did not see another one is not made.
fn version(found: &Found) -> String {
    let video = found.sketch.traits.video.clone().unwrap_or_default();
    let all = json!([
        found.name.as_str(),
        found.sketch.created.0,
        found.sketch.config.retention_ms,
        video.changes,
        video.device_name,
        video.media_type,
    ]);
    let hash = Sha256::digest(all.to_string().as_bytes());
    hash.iter().take(10).map(|byte| format!("{byte:02X}")).collect()
}

/// Whether a stream is one of video: it was made as one, or is set as one.
fn is_video(sketch: &Sketch) -> bool {
    let config = &sketch.config;
    sketch.traits.video.is_some()
        || config.shard_rate.is_none() && config.record_bytes_max as usize == RECORD_BYTES_MAX
}

fn bounded(name: &str, text: Option<&str>) -> Result<Option<String>> {
    match text {
        Some(text) if text.is_empty() || text.len() > 128 => {
            Err(invalid(format!("{name} has {} characters: 1 to 128 are valid", text.len())))
        }
        text => Ok(text.map(str::to_owned)),
    }
}

impl Call {
    pub(super) async fn create_stream(&self) -> Result<Response<Body>> {
        let text = self.needed("StreamName")?;
        let name = self.within(text)?;
        let hours = self.number("DataRetentionInHours", 0, HOURS_MAX)?.unwrap_or(0);
        let entry = VideoEntry {
            device_name: bounded("DeviceName", self.text("DeviceName"))?,
            media_type: bounded("MediaType", self.text("MediaType"))?,
            hours: Some(hours as u64),
            changes: 0,
        };
        let key = self.text("KmsKeyId").map(str::to_owned);
        let given = tags::given(&self.body)?;
        let config = StreamConfig { retention_ms: retention_ms(hours), ..crate::service::video::config() };
        let (service, principal) = (&self.shared.service, &self.caller.principal);
        service.create_stream(principal, &name, 1, config).await?;
        self.change(&name, |traits| {
            (traits.video, traits.encryption_key) = (Some(entry), key);
            tags::put(&mut traits.tags, given)
        })
        .await?;
        let found = self.find()?;
        Ok(as_json(&json!({ "StreamARN": self.arn(&found) })))
    }

    pub(super) async fn change<R>(
        &self,
        name: &StreamName,
        change: impl FnOnce(&mut Traits) -> Result<R>,
    ) -> Result<R> {
        self.shared.service.change_traits(&self.caller.principal, name, change).await
    }

    fn described(&self, found: &Found) -> Value {
        let sketch = &found.sketch;
        let video = sketch.traits.video.clone().unwrap_or_default();
        let key = sketch.traits.encryption_key.clone().unwrap_or_else(|| {
            format!("arn:aws:kms:{}:{}:alias/aws/kinesisvideo", self.caller.region, self.caller.account)
        });
        let mut told = json!({
            "StreamName": found.name.local(), "StreamARN": self.arn(found), "KmsKeyId": key,
            "Version": version(found), "Status": "ACTIVE", "CreationTime": sketch.created.0 as f64 / 1000.0,
            "DataRetentionInHours": hours(sketch),
        });
        if let Value::Object(members) = &mut told {
            members.extend(video.device_name.map(|name| ("DeviceName".to_owned(), name.into())));
            members.extend(video.media_type.map(|kind| ("MediaType".to_owned(), kind.into())));
        }
        told
    }

    pub(super) fn describe_stream(&self) -> Result<Response<Body>> {
        let found = self.find()?;
        Ok(as_json(&json!({ "StreamInfo": self.described(&found) })))
    }

    pub(super) fn list_streams(&self) -> Result<Response<Body>> {
        let max = self.number("MaxResults", 1, LIST_MAX)?.unwrap_or(LIST_MAX) as usize;
        let prefix = match self.body.get("StreamNameCondition").filter(|condition| !condition.is_null()) {
            None => "",
            Some(condition) => {
                let operator = condition.get("ComparisonOperator").and_then(Value::as_str);
                if operator.is_some_and(|operator| operator != "BEGINS_WITH") {
                    return Err(invalid("ComparisonOperator: BEGINS_WITH is valid"));
                }
                condition.get("ComparisonValue").and_then(Value::as_str).unwrap_or_default()
            }
        };
        let after = self.text("NextToken").unwrap_or_default();
        let names = self.shared.service.stream_names(&self.caller.principal)?;
        let mine = names.iter().filter(|name| {
            self.kinesis().name_within(&self.caller, name.local()).as_ref() == Some(*name)
                && name.local().starts_with(prefix)
                && name.local() > after
        });
        let mut all: Vec<Found> =
            mine.filter_map(|name| self.find_by(Some(name.local()), None).ok()).collect();
        all.retain(|found| is_video(&found.sketch));
        all.sort_by(|a, b| a.name.cmp(&b.name));
        let shown = &all[..all.len().min(max)];
        let mut told = json!({
            "StreamInfoList": shown.iter().map(|found| self.described(found)).collect::<Vec<_>>(),
        });
        if let (Some(last), true) = (shown.last(), all.len() > max) {
            told["NextToken"] = last.name.local().into();
        }
        Ok(as_json(&told))
    }

    /// The stream, if nothing changed since `CurrentVersion` was told.
    fn find_unchanged(&self, needed: bool) -> Result<Found> {
        let found = self.find()?;
        match self.text("CurrentVersion") {
            None if needed => Err(invalid("CurrentVersion is missing")),
            Some(told) if told != version(&found) => Err(refusal(
                "VersionMismatchException",
                "The stream was changed since its version was told: describe it again.",
            )),
            _ => Ok(found),
        }
    }

    pub(super) async fn update_stream(&self) -> Result<Response<Body>> {
        let found = self.find_unchanged(true)?;
        let device = bounded("DeviceName", self.text("DeviceName"))?;
        let media = bounded("MediaType", self.text("MediaType"))?;
        self.change(&found.name, |traits| {
            let video = traits.video.get_or_insert_default();
            video.changes += 1;
            video.device_name = device.or(video.device_name.take());
            video.media_type = media.or(video.media_type.take());
            Ok(())
        })
        .await?;
        Ok(as_json(&json!({})))
    }

    pub(super) async fn delete_stream(&self) -> Result<Response<Body>> {
        let found = self.find_unchanged(false)?;
        self.shared.service.delete_stream(&self.caller.principal, &found.name).await?;
        Ok(as_json(&json!({})))
    }

    pub(super) async fn update_retention(&self) -> Result<Response<Body>> {
        let found = self.find_unchanged(true)?;
        let by = self.number("DataRetentionChangeInHours", 1, HOURS_MAX)?;
        let by = by.ok_or_else(|| invalid("DataRetentionChangeInHours is missing"))?;
        let now = hours(&found.sketch) as i64;
        let then = match self.needed("Operation")? {
            "INCREASE_DATA_RETENTION" => now + by,
            "DECREASE_DATA_RETENTION" => now - by,
            other => {
                let valid = "INCREASE_DATA_RETENTION and DECREASE_DATA_RETENTION are valid";
                return Err(invalid(format!("Operation is {other}: {valid}")));
            }
        };
        if !(0..=HOURS_MAX).contains(&then) {
            return Err(invalid(format!("{then} hours: a stream keeps 0 to {HOURS_MAX} hours")));
        }
        let config = StreamConfig { retention_ms: retention_ms(then), ..found.sketch.config };
        self.shared.service.update_stream(&self.caller.principal, &found.name, config).await?;
        self.change(&found.name, |traits| {
            let video = traits.video.get_or_insert_default();
            (video.hours, video.changes) = (Some(then as u64), video.changes + 1);
            Ok(())
        })
        .await?;
        Ok(as_json(&json!({})))
    }

    /// This store, as it was reached.
    pub(super) fn data_endpoint(&self) -> Result<Response<Body>> {
        let api = self.needed("APIName")?;
        if !APIS.contains(&api) {
            return Err(invalid(format!("APIName is {api}: {} are valid", APIS.join(", "))));
        }
        self.find()?;
        Ok(as_json(&json!({ "DataEndpoint": self.endpoint })))
    }
}
