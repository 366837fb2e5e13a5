//! GetMedia and GetMediaForFragmentList: fragments as Matroska, a document each, with the tags of the service.

use std::time::Duration;

use hyper::Response;
use protocol::sequence::SequenceNumber;
use protocol::time::UnixMs;
use serde_json::Value;
use tokio::time::timeout;
use video::codec::tracks;
use video::fragment::Frame;
use video::mkv::write::{cluster, first_shown_ms, head, tags};

use super::arn::{fragment_number, read_fragment_number};
use super::{Body, Call, Result, coming, invalid};
use crate::api::pieces::{self, Pieces};
use crate::service::segments::{PARTS_MAX, Segment, together};
use crate::service::video::{At, Whole};

/// Fragments that one request names.
const LIST_MAX: usize = 1000;
const KIND: &str = "video/x-matroska";
/// A producer that sends parts is looked for this often while nothing comes.
const PART_WAIT: Duration = Duration::from_secs(1);

/// Seconds with their milliseconds, as the tags write them.
fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

fn tag(name: &str, value: impl Into<String>) -> (String, String) {
    (format!("AWS_KINESISVIDEO_{name}"), value.into())
}

/// A time in seconds since 1970.
pub(super) fn time_of(value: Option<&Value>) -> Option<UnixMs> {
    let seconds = value?.as_f64().filter(|seconds| (0.0..253_402_300_800.0).contains(seconds))?;
    Some(UnixMs((seconds * 1000.0).round() as u64))
}

/// When the first picture was made.
pub(super) fn producer_ms(fragment: &video::fragment::Fragment) -> u64 {
    let all = tracks(&fragment.config).unwrap_or_default();
    let all: Vec<(u32, u32)> = all.iter().map(|track| (track.id, track.timescale)).collect();
    first_shown_ms(&fragment.frames, &all) as u64
}

/// The document of a fragment, with all of its parts: its head with the tags before its frames, and its frames.
fn document(parts: &[Whole], before: &[(String, String)]) -> Option<Vec<u8>> {
    let config = &parts.first()?.stored.fragment.config;
    let all = tracks(config).ok()?;
    let all: Vec<(u32, u32)> = all.iter().map(|track| (track.id, track.timescale)).collect();
    let mut out = head(config).ok()?;
    out.extend(tags(before));
    let frames: Vec<Frame> = parts.iter().flat_map(|part| part.stored.fragment.frames.clone()).collect();
    let data: Vec<&[u8]> = parts.iter().flat_map(Whole::data).collect();
    out.extend(cluster(&all, &frames, &data));
    Some(out)
}

struct Sender {
    call: Call,
    stream: protocol::name::StreamName,
    parts: Pieces,
}

impl Call {
    pub(super) async fn get_media(self) -> Result<Response<Body>> {
        let stream = self.find()?.name;
        let selector = self.body.get("StartSelector").ok_or_else(|| invalid("StartSelector is missing"))?;
        let text = |name: &str| selector.get(name).and_then(Value::as_str);
        let after = |name: &str| {
            let number = text(name).and_then(read_fragment_number);
            number.ok_or_else(|| invalid(format!("{name} is no number of a fragment")))
        };
        let time = || {
            time_of(selector.get("StartTimestamp"))
                .ok_or_else(|| invalid("StartTimestamp: a time was expected"))
        };
        let mut behind = None;
        let at = match text("StartSelectorType") {
            Some("NOW") => At::Newest,
            Some("EARLIEST") => At::Oldest,
            Some("SERVER_TIMESTAMP") => At::ServerTime(time()?),
            Some("PRODUCER_TIMESTAMP") => At::ProducerTime(time()?),
            Some(kind @ ("FRAGMENT_NUMBER" | "CONTINUATION_TOKEN")) => {
                let name =
                    if kind == "FRAGMENT_NUMBER" { "AfterFragmentNumber" } else { "ContinuationToken" };
                let number = after(name)?;
                behind = Some(number);
                At::Frame(number)
            }
            other => return Err(invalid(format!("StartSelectorType is {}", other.unwrap_or("missing")))),
        };
        let (service, principal) = (&self.shared.service, &self.caller.principal);
        let mut from = service.video_place(principal, &stream, at).await?;
        if let At::Newest = at
            && let Some(last) = from.0.checked_sub(1)
        {
            // What is live begins with the newest fragment.
            let newest = service.fragment(principal, &stream, SequenceNumber(last)).await?;
            from = newest.map_or(from, |newest| newest.stored.number);
        }
        from = service.segment_start(principal, &stream, from).await?;
        if let Some(number) = behind.filter(|number| *number == from) {
            let (there, _) = service.fragments(principal, &stream, number, PARTS_MAX).await?;
            from = together(there).first().map_or(from, Segment::end);
        }
        let since = if let At::ProducerTime(time) = at { Some(time) } else { None };
        let (parts, answer) = pieces::channel();
        let sender = Sender { call: self, stream, parts };
        tokio::spawn(Box::pin(async move {
            // Whoever reads sees that it ended early.
            let _ = sender.follow(from, since).await;
        }));
        Ok(coming(KIND, answer))
    }

    pub(super) fn media_for_list(self) -> Result<Response<Body>> {
        let stream = self.find()?.name;
        let list = self.body.get("Fragments").and_then(Value::as_array);
        let list = list.filter(|list| (1..=LIST_MAX).contains(&list.len()));
        let list = list.ok_or_else(|| invalid(format!("Fragments: 1 to {LIST_MAX} numbers are valid")))?;
        let numbers: Option<Vec<SequenceNumber>> =
            list.iter().map(|text| text.as_str().and_then(read_fragment_number)).collect();
        let numbers = numbers.ok_or_else(|| invalid("Fragments: one is no number of a fragment"))?;
        let (parts, answer) = pieces::channel();
        let sender = Sender { call: self, stream, parts };
        tokio::spawn(Box::pin(async move {
            let _ = sender.list(numbers).await;
        }));
        Ok(coming(KIND, answer))
    }
}

impl Sender {
    /// `None` where nobody reads any more.
    async fn send(&self, bytes: Vec<u8>) -> Option<()> {
        self.parts.send(bytes).await.ok()
    }

    /// A fragment and all parts that are within it: as they are, or, where more may come, once they are there.
    async fn parts(&self, first: Whole, may_wait: bool) -> Option<Vec<Whole>> {
        let Call { shared, caller, .. } = &self.call;
        let mut changes = shared.service.video_changes(&caller.principal, &self.stream).ok()?;
        let mut segment = Segment::new(first.stored.clone());
        let mut parts = vec![first];
        loop {
            changes.mark_unchanged();
            let end = segment.end();
            let (next, _) = shared.service.fragments(&caller.principal, &self.stream, end, 1).await.ok()?;
            match next.into_iter().next() {
                Some(next) => {
                    if segment.join(next).is_some() {
                        return Some(parts);
                    }
                    parts.push(shared.service.fragment(&caller.principal, &self.stream, end).await.ok()??);
                }
                None if may_wait && shared.producers.part_ms(&self.stream.key()).is_some() => {
                    // One that stops in the middle makes no change.
                    let _ = timeout(PART_WAIT, changes.changed()).await;
                }
                None => return Some(parts),
            }
        }
    }

    /// All fragments from one on, and those that come.
    async fn follow(self, mut next: SequenceNumber, mut since: Option<UnixMs>) -> Option<()> {
        let Call { shared, caller, .. } = &self.call;
        let mut changes = shared.service.video_changes(&caller.principal, &self.stream).ok()?;
        loop {
            changes.mark_unchanged();
            let found = shared.service.fragment(&caller.principal, &self.stream, next).await;
            let Ok(found) = found else {
                let error = vec![tag("ERROR_CODE", "5000"), tag("ERROR_ID", "5000")];
                return self.send(tags(&error)).await;
            };
            let Some(found) = found else {
                tokio::select! {
                    changed = changes.changed() => changed.ok()?,
                    () = self.parts.closed() => return None,
                }
                continue;
            };
            let parts = self.parts(found, true).await?;
            let (Some(found), Some(last)) = (parts.first(), parts.last()) else { return None };
            next = last.stored.end();
            let producer = producer_ms(&found.stored.fragment);
            // What was being made then began before: only what begins then or later is meant.
            if since.is_some_and(|since| producer < since.0) {
                continue;
            }
            since = None;
            let number = fragment_number(found.stored.number);
            let before = [
                tag("FRAGMENT_NUMBER", number.clone()),
                tag("SERVER_TIMESTAMP", seconds(found.stored.arrival.0)),
                tag("PRODUCER_TIMESTAMP", seconds(producer)),
            ];
            let mut bytes = document(&parts, &before)?;
            let behind = shared.clock.wall().millis_since(found.stored.arrival);
            bytes.extend(tags(&[tag("MILLIS_BEHIND_NOW", behind.to_string())]));
            bytes.extend(tags(&[tag("CONTINUATION_TOKEN", number)]));
            self.send(bytes).await?;
        }
    }

    async fn list(self, numbers: Vec<SequenceNumber>) -> Option<()> {
        let Call { shared, caller, .. } = &self.call;
        for number in numbers {
            let found = shared.service.fragment(&caller.principal, &self.stream, number).await;
            let found = found.ok().flatten().filter(|found| found.stored.number == number);
            let text = fragment_number(number);
            let bytes = match found {
                Some(found) => {
                    let server = seconds(found.stored.arrival.0);
                    let producer = seconds(producer_ms(&found.stored.fragment));
                    let before = [
                        tag("FRAGMENT_NUMBER", text),
                        tag("SERVER_SIDE_TIMESTAMP", server.clone()),
                        tag("PRODUCER_SIDE_TIMESTAMP", producer.clone()),
                        // The names above are the documented ones, these those that the parser library looks for.
                        tag("SERVER_TIMESTAMP", server),
                        tag("PRODUCER_TIMESTAMP", producer),
                    ];
                    document(&self.parts(found, false).await?, &before)?
                }
                None => tags(&[
                    tag("FRAGMENT_NUMBER", text),
                    tag("EXCEPTION_ERROR_CODE", "ResourceNotFoundException"),
                    tag("EXCEPTION_MESSAGE", "This fragment is not kept, or not any more."),
                ]),
            };
            self.send(bytes).await?;
        }
        Some(())
    }
}
