//! What is kept: lists of fragments, and clips.

use hyper::Response;
use protocol::name::StreamName;
use protocol::sequence::SequenceNumber;
use protocol::time::UnixMs;
use serde_json::{Value, json};
use video::codec::tracks;

use super::arn::{fragment_number, read_fragment_number};
use super::get::{producer_ms, time_of};
use super::{Body, Call, Result, as_json, invalid, refusal};
use crate::service::segments::Segment;
use crate::service::video::At;

const LIST_DEFAULT: i64 = 100;
/// Fragments of one answer.
const LIST_MAX: i64 = 1000;
const STEP: usize = 256;
/// A clip has no more fragments ...
const CLIP_FRAGMENTS_MAX: usize = 200;
/// ... and no more bytes.
const CLIP_BYTES_MAX: u64 = 100 << 20;

/// From one time to another, both within, by one of the two clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) by_server: bool,
    pub(super) from: Option<UnixMs>,
    pub(super) to: Option<UnixMs>,
}

impl Span {
    pub(super) fn read(selector: Option<&Value>, needed: bool) -> Result<Span> {
        let none = Span { by_server: true, from: None, to: None };
        let Some(selector) = selector.filter(|selector| !selector.is_null()) else {
            return if needed { Err(invalid("a FragmentSelector is missing")) } else { Ok(none) };
        };
        let by_server = match selector.get("FragmentSelectorType").and_then(Value::as_str) {
            Some("SERVER_TIMESTAMP") | None => true,
            Some("PRODUCER_TIMESTAMP") => false,
            Some(other) => return Err(invalid(format!("FragmentSelectorType is {other}"))),
        };
        let range = selector.get("TimestampRange");
        let bound = |name: &str| time_of(range.and_then(|range| range.get(name)));
        let (from, to) = (bound("StartTimestamp"), bound("EndTimestamp"));
        if needed && (from.is_none() || to.is_none()) {
            return Err(invalid("TimestampRange: a StartTimestamp and an EndTimestamp are needed"));
        }
        if let (Some(from), Some(to)) = (from, to)
            && to < from
        {
            return Err(invalid("TimestampRange: its end is before its start"));
        }
        Ok(Span { by_server, from, to })
    }

    fn place(&self) -> At {
        match (self.from, self.by_server) {
            (None, _) => At::Oldest,
            (Some(from), true) => At::ServerTime(from),
            (Some(from), false) => At::ProducerTime(from),
        }
    }

    fn time(&self, segment: &Segment) -> UnixMs {
        let first = segment.first();
        if self.by_server { first.arrival } else { UnixMs(producer_ms(&first.fragment)) }
    }
}

fn described(segment: &Segment) -> Value {
    let first = segment.first();
    let timescale = tracks(segment.config())
        .ok()
        .and_then(|all| all.first().map(|track| track.timescale))
        .unwrap_or(1000);
    let lasts = u128::from(segment.duration(0)) * 1000 / u128::from(timescale);
    json!({
        "FragmentNumber": fragment_number(segment.number()), "FragmentSizeInBytes": segment.bytes(),
        "ProducerTimestamp": producer_ms(&first.fragment) as f64 / 1000.0,
        "ServerTimestamp": first.arrival.0 as f64 / 1000.0,
        "FragmentLengthInMilliseconds": lasts as u64,
    })
}

impl Call {
    /// At most `max` fragments that begin within a span, and where to go on. One that was stored in parts is one.
    pub(super) async fn within_span(
        &self,
        stream: &StreamName,
        span: &Span,
        after: Option<SequenceNumber>,
        max: usize,
    ) -> Result<(Vec<Segment>, Option<SequenceNumber>)> {
        let (service, principal) = (&self.shared.service, &self.caller.principal);
        let at = after.map_or_else(|| span.place(), At::Frame);
        let place = service.video_place(principal, stream, at).await?;
        let mut next = service.segment_start(principal, stream, place).await?;
        let mut all: Vec<Segment> = Vec::new();
        let mut open: Option<Segment> = None;
        loop {
            let (some, after) = service.fragments(principal, stream, next, STEP).await?;
            let is_end = after == next;
            let mut whole = Vec::new();
            for stored in some {
                let other = match &mut open {
                    Some(open) => open.join(stored),
                    None => Some(stored),
                };
                whole.extend(other.and_then(|other| open.replace(Segment::new(other))));
            }
            if is_end {
                whole.extend(open.take());
            }
            for segment in whole {
                let time = span.time(&segment);
                if span.to.is_some_and(|to| time > to) {
                    return Ok((all, None));
                }
                if span.from.is_some_and(|from| time < from) {
                    continue;
                }
                if all.len() == max {
                    return Ok((all, Some(segment.number())));
                }
                all.push(segment);
            }
            if is_end {
                return Ok((all, None));
            }
            next = after;
        }
    }

    pub(super) async fn list_fragments(&self) -> Result<Response<Body>> {
        let stream = self.find()?.name;
        let max = self.number("MaxResults", 1, LIST_MAX)?.unwrap_or(LIST_DEFAULT) as usize;
        let span = Span::read(self.body.get("FragmentSelector"), false)?;
        let after = match self.text("NextToken") {
            None => None,
            Some(token) => {
                let number = read_fragment_number(token);
                Some(number.ok_or_else(|| invalid("NextToken was not made by this operation"))?)
            }
        };
        let (all, next) = self.within_span(&stream, &span, after, max).await?;
        let mut told = json!({ "Fragments": all.iter().map(described).collect::<Vec<_>>() });
        if let Some(next) = next {
            told["NextToken"] = fragment_number(next).into();
        }
        Ok(as_json(&told))
    }

    pub(super) async fn clip(&self) -> Result<Response<Body>> {
        let stream = self.find()?.name;
        let span = Span::read(self.body.get("ClipFragmentSelector"), true)?;
        let (all, more) = self.within_span(&stream, &span, None, CLIP_FRAGMENTS_MAX).await?;
        let bytes: u64 = all.iter().map(Segment::bytes).sum();
        let (Some(first), Some(last)) = (all.first(), all.last()) else {
            return Err(refusal(
                "ResourceNotFoundException",
                "No fragments were found in the requested range.",
            ));
        };
        check_clip(all.len() + usize::from(more.is_some()), bytes)?;
        let (principal, query) =
            (self.caller.principal.clone(), format!("from={}&to={}", first.number(), last.end()));
        let made = crate::api::video::file(&self.shared, principal, stream, &query).await;
        made.map_err(|message| refusal("InternalFailure", message))
    }
}

/// Whether a clip may have so many fragments, and so many bytes.
fn check_clip(fragments: usize, bytes: u64) -> Result<()> {
    if fragments > CLIP_FRAGMENTS_MAX || bytes > CLIP_BYTES_MAX {
        let message =
            format!("A clip has at most {CLIP_FRAGMENTS_MAX} fragments and {CLIP_BYTES_MAX} bytes.");
        return Err(invalid(message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reaches `CLIP_FRAGMENTS_MAX`, `CLIP_BYTES_MAX`.
    #[test]
    fn a_clip_is_as_large_as_it_may_be_and_no_larger() {
        assert!(check_clip(CLIP_FRAGMENTS_MAX, CLIP_BYTES_MAX).is_ok());
        assert!(check_clip(CLIP_FRAGMENTS_MAX + 1, 0).is_err() && check_clip(1, CLIP_BYTES_MAX + 1).is_err());
    }
}
