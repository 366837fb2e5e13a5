//! GetImages: pictures at regular times. Decoding is done where `/v1/video` does it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Response;
use protocol::name::StreamName;
use protocol::sequence::SequenceNumber;
use protocol::time::UnixMs;
use serde_json::{Value, json};
use video::codec::tracks;

use super::get::time_of;
use super::{Body, Call, Result, as_json, invalid};
use crate::service::video::{At, Whole};

/// Pictures of one answer.
const LIST_MAX: i64 = 100;
const LIST_DEFAULT: i64 = 25;
/// Milliseconds between pictures: at least, if nothing is said, at most.
const INTERVAL: (i64, i64, i64) = (200, 3000, 20_000);
/// Pictures of one request are from at most so long a time.
const SPAN_MS_MAX: u64 = 300_000;

/// What is asked for.
struct Wanted {
    by_server: bool,
    from: UnixMs,
    to: UnixMs,
    interval: u64,
    query: String,
}

/// The picture that is shown at a time: the last one that is shown no later.
fn shown_at(part: &Whole, time: UnixMs) -> Option<SequenceNumber> {
    let fragment = &part.stored.fragment;
    let timescale = i128::from(tracks(&fragment.config).ok()?.first()?.timescale);
    let shown = |pts: i64| i128::from(pts) * 1000 / timescale;
    let pictures = fragment.frames.iter().enumerate().filter(|(_, frame)| frame.track == 0);
    let now = pictures.clone().filter(|(_, frame)| shown(frame.pts()) <= i128::from(time.0));
    let place =
        now.max_by_key(|(_, frame)| frame.pts()).or_else(|| pictures.min_by_key(|(_, frame)| frame.pts()));
    place.map(|(place, _)| part.stored.number + place as u64)
}

impl Call {
    fn wanted(&self) -> Result<Wanted> {
        let by_server = match self.needed("ImageSelectorType")? {
            "SERVER_TIMESTAMP" => true,
            "PRODUCER_TIMESTAMP" => false,
            other => return Err(invalid(format!("ImageSelectorType is {other}"))),
        };
        let time = |name: &str| {
            time_of(self.body.get(name)).ok_or_else(|| invalid(format!("{name}: a time was expected")))
        };
        let (from, to) = (time("StartTimestamp")?, time("EndTimestamp")?);
        if to < from || to.millis_since(from) > SPAN_MS_MAX {
            return Err(invalid("from StartTimestamp to EndTimestamp are 0 to 300 seconds"));
        }
        let interval = self.number("SamplingInterval", INTERVAL.0, INTERVAL.2)?.unwrap_or(INTERVAL.1) as u64;
        let format = match self.needed("Format")? {
            "JPEG" => "jpeg",
            "PNG" => "png",
            other => return Err(invalid(format!("Format is {other}: JPEG and PNG are valid"))),
        };
        let width = self.number("WidthPixels", 16, 3840)?.map(|width| format!("&width={width}"));
        let query = format!("image={format}{}", width.unwrap_or_default());
        Ok(Wanted { by_server, from, to, interval, query })
    }

    pub(super) async fn images(&self) -> Result<Response<Body>> {
        let stream = self.find()?.name;
        let wanted = self.wanted()?;
        let max = self.number("MaxResults", 1, LIST_MAX)?.unwrap_or(LIST_DEFAULT) as usize;
        let first = match self.text("NextToken") {
            None => wanted.from,
            Some(token) => {
                let time = token.parse().map_err(|_| invalid("NextToken was not made by this operation"))?;
                UnixMs(time).max(wanted.from)
            }
        };
        let (mut images, mut time) = (Vec::new(), first);
        while time <= wanted.to && images.len() < max {
            images.push(self.image(&stream, &wanted, time).await?);
            time = UnixMs(time.0 + wanted.interval);
        }
        let mut told = json!({ "Images": images });
        if time <= wanted.to {
            told["NextToken"] = time.0.to_string().into();
        }
        Ok(as_json(&told))
    }

    async fn image(&self, stream: &StreamName, wanted: &Wanted, time: UnixMs) -> Result<Value> {
        let (service, principal) = (&self.shared.service, &self.caller.principal);
        let at = if wanted.by_server { At::ServerTime(time) } else { At::ProducerTime(time) };
        let place = service.video_place(principal, stream, at).await?;
        let told = time.0 as f64 / 1000.0;
        let none = || Ok(json!({ "TimeStamp": told, "Error": "NO_MEDIA" }));
        let Some(part) = service.fragment(principal, stream, place).await? else { return none() };
        let fragment = &part.stored.fragment;
        let scale = tracks(&fragment.config).ok().and_then(|all| all.first().map(|track| track.timescale));
        let lasts = fragment.duration(0) * 1000 / u64::from(scale.unwrap_or(1000));
        let end = fragment.producer_time.0 + lasts + INTERVAL.1 as u64;
        if !wanted.by_server && !(fragment.producer_time.0.saturating_sub(1000)..end).contains(&time.0) {
            return none();
        }
        let time_in_it = if wanted.by_server { UnixMs(0) } else { time };
        let Some(number) = shown_at(&part, time_in_it) else { return none() };
        let made =
            crate::api::video::picture(&self.shared, principal.clone(), stream, number, &wanted.query).await;
        Ok(match made {
            Ok(picture) => json!({ "TimeStamp": told, "ImageContent": STANDARD.encode(&picture) }),
            Err(_) => json!({ "TimeStamp": told, "Error": "MEDIA_ERROR" }),
        })
    }
}
