//! Containers for players: initialization segments, media segments, and files of any length whose bytes are known before
//! they are made, so that ranges work. Never: playlists, what is in a fragment.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{self, HeaderMap};
use hyper::{Response, StatusCode};
use protocol::sequence::SequenceNumber;
use tokio::time::timeout;
use video::codec::Track;
use video::fragment::{Config, Frame};
use video::mux;

use super::{Body, Call, Result, bad, coming, failure, not_found, set, whole};
use crate::api::pieces::{self, Pieces};
use crate::service::video::{At, Stored, Whole};

const IMMUTABLE: &str = "private, max-age=31536000, immutable";
/// One who waits for what comes next waits so long, as a playlist of low latency promises it; then it asks again.
pub(super) const PART_WAIT: Duration = Duration::from_secs(10);

/// What a range of a whole is.
pub(super) enum Range {
    All,
    /// From, and after the last.
    Part(u64, u64),
    Unsatisfiable,
}

/// RFC 9110, section 14: one range; several are answered with all, as one may.
pub(super) fn range_of(headers: &HeaderMap, etag: &str, length: u64) -> Range {
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if text(header::IF_RANGE).is_some_and(|is| is != etag) {
        return Range::All;
    }
    let Some(spec) = text(header::RANGE).and_then(|text| text.trim().strip_prefix("bytes=")) else {
        return Range::All;
    };
    let Some((first, last)) = spec.split_once('-') else { return Range::All };
    let (first, last) = (first.trim(), last.trim());
    let number = |text: &str| text.parse::<u64>().ok();
    let range = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => (first, last.saturating_add(1).min(length)),
        (Some(first), None) if last.is_empty() => (first, length),
        (None, Some(suffix)) if first.is_empty() => (length.saturating_sub(suffix), length),
        _ => return Range::All,
    };
    if range.0 >= length || range.0 >= range.1 { Range::Unsatisfiable } else { Range::Part(range.0, range.1) }
}

/// The head of an answer that may be a range, and which bytes it has.
fn ranged(headers: &HeaderMap, etag: &str, length: u64, kind: &str) -> (Response<Body>, u64, u64) {
    let mut response = whole(StatusCode::OK, kind, Vec::new());
    set(&mut response, header::ACCEPT_RANGES, "bytes");
    set(&mut response, header::ETAG, etag);
    set(&mut response, header::CACHE_CONTROL, IMMUTABLE);
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    if known.is_some_and(|known| known.split(',').any(|known| known.trim() == etag)) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response.headers_mut().remove(header::CONTENT_LENGTH);
        return (response, 0, 0);
    }
    let (from, to) = match range_of(headers, etag, length) {
        Range::All => (0, length),
        Range::Part(from, to) => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            set(&mut response, header::CONTENT_RANGE, &format!("bytes {from}-{}/{length}", to - 1));
            (from, to)
        }
        Range::Unsatisfiable => {
            *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            set(&mut response, header::CONTENT_RANGE, &format!("bytes */{length}"));
            (0, 0)
        }
    };
    set(&mut response, header::CONTENT_LENGTH, &(to - from).to_string());
    (response, from, to)
}

/// The frames of a fragment as a segment has them: on a timeline that begins at `base_ms`.
fn frames_from(frames: &[Frame], tracks: &[Track], base_ms: u64) -> Vec<Frame> {
    let shifted = |frame: &Frame| {
        let timescale = tracks.get(usize::from(frame.track)).map_or(1000, |track| track.timescale);
        let base = u128::from(base_ms) * u128::from(timescale) / 1000;
        Frame { dts: u128::from(frame.dts).saturating_sub(base) as u64, ..*frame }
    };
    frames.iter().map(shifted).collect()
}

/// The same, in whole seconds; what begins before stays where it is.
fn frames_after(frames: Vec<Frame>, tracks: &[Track], base_s: u64) -> Vec<Frame> {
    let scale = |frame: &Frame| tracks.get(usize::from(frame.track)).map_or(1000, |track| track.timescale);
    if frames.iter().any(|frame| frame.dts < base_s * u64::from(scale(frame))) {
        return frames;
    }
    frames_from(&frames, tracks, base_s * 1000)
}

fn segment_of(part: &Whole, tracks: &[Track], ids: &[u32], base_ms: u64) -> Result<Vec<u8>> {
    let frames = frames_from(&part.stored.fragment.frames, tracks, base_ms);
    Ok(mux::segment(part.stored.ordinal + 1, ids, &frames, &part.data())?)
}

/// What was stored in parts, as one segment: of all tracks, or of one, with times from a base on.
fn joined(parts: &[Whole], only: Option<u8>, base_s: u64) -> Result<Vec<u8>> {
    let Some(first) = parts.first() else { return Err(not_found("no fragment")) };
    let tracks = video::codec::tracks(&first.stored.fragment.config)?;
    let ids: Vec<u32> = tracks.iter().map(|track| track.id).collect();
    let (mut frames, mut data): (Vec<Frame>, Vec<&[u8]>) = (Vec::new(), Vec::new());
    for part in parts {
        for (frame, bytes) in part.stored.fragment.frames.iter().zip(part.data()) {
            if only.is_none_or(|only| only == frame.track) {
                frames.push(*frame);
                data.push(bytes);
            }
        }
    }
    let frames = frames_after(frames, &tracks, base_s);
    Ok(mux::segment(first.stored.ordinal + 1, &ids, &frames, &data)?)
}

/// One file of many fragments.
struct Plan {
    config: Arc<Config>,
    init: Vec<u8>,
    parts: Vec<(SequenceNumber, u64)>,
    base_ms: u64,
}

impl Plan {
    fn of(all: &[Stored]) -> Option<(Plan, usize)> {
        let first = all.first()?;
        let config = first.fragment.config.clone();
        // A file has one configuration: it ends where another one begins.
        let same = all.iter().take_while(|stored| stored.fragment.config == config);
        let parts: Vec<_> =
            same.map(|stored| (stored.number, mux::segment_bytes(&stored.fragment.frames))).collect();
        let count = parts.len();
        let init = mux::init(&config);
        Some((Plan { config, init, parts, base_ms: first.fragment.producer_time.0 }, count))
    }

    fn length(&self) -> u64 {
        self.init.len() as u64 + self.parts.iter().map(|(_, length)| length).sum::<u64>()
    }
}

impl Call {
    /// The track that is meant, by its place in the configuration or by what it carries; none is all of them.
    fn one_track(&self, config: &Config) -> Result<Option<u8>> {
        let Some(text) = self.query.get("track") else { return Ok(None) };
        let all = video::codec::tracks(config)?;
        let mut places = all.iter().enumerate();
        let found = places.find(|(place, track)| track.kind.text() == text || place.to_string() == text);
        let found = found.map(|(place, _)| Some(place as u8));
        found.or((text == "all").then_some(None)).ok_or_else(|| {
            bad(format!(
                "track={text}: video, audio, all, or its place from 0 to {} was expected",
                all.len() - 1
            ))
        })
    }

    /// The configuration of the fragment with a frame.
    pub(super) async fn init(&self, number: SequenceNumber) -> Result<Response<Body>> {
        let (some, _) = self.some_fragments(number, 1).await?;
        let Some(stored) = some.first().filter(|stored| (stored.number..stored.end()).contains(&number))
        else {
            return Err(not_found(format!("stream {} has no frame {number} of video", self.stream)));
        };
        let config = &stored.fragment.config;
        Ok(match self.one_track(config)? {
            None => self.slice(&format!("\"{}\"", config.id()), "video/mp4", mux::init(config)),
            Some(track) => {
                let bytes = mux::init_of_track(config, track)?;
                self.slice(&format!("\"{}-{track}\"", config.id()), "video/mp4", bytes)
            }
        })
    }

    /// A fragment, or a part of one, as a media segment.
    pub(super) async fn segment(&self, number: SequenceNumber) -> Result<Response<Body>> {
        let part = self.whole(number).await?;
        self.container(&[part])
    }

    /// All that was stored from one frame to another as one media segment.
    pub(super) async fn segment_between(&self, text: &str) -> Result<Response<Body>> {
        let bounds = text.split_once('-').and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
        let Some((from, to)) = bounds else {
            return Err(bad(format!(
                "{text:?}: the numbers of a frame and of the one after the last, such as 0-60"
            )));
        };
        let (service, from, to) = (&self.shared.service, SequenceNumber(from), SequenceNumber(to));
        let parts = service.wholes(&self.principal, &self.stream, from, to).await?;
        let parts = parts.ok_or_else(|| {
            let stream = &self.stream;
            not_found(format!(
                "stream {stream} has no segment from frame {from} to {to}: a playlist names those that it has"
            ))
        })?;
        self.container(&parts)
    }

    /// A segment by its place among all of the stream.
    pub(super) async fn segment_at(&self, sequence: &str) -> Result<Response<Body>> {
        let sequence: u64 =
            sequence.parse().map_err(|_| bad(format!("{sequence:?} is no number of a segment")))?;
        let service = &self.shared.service;
        let missing = || not_found(format!("stream {} has no segment {sequence}", self.stream));
        let segment = service.segment_at(&self.principal, &self.stream, sequence).await?;
        let segment = segment.ok_or_else(missing)?;
        let parts = service.wholes(&self.principal, &self.stream, segment.number(), segment.end()).await?;
        let mut response = self.container(&parts.ok_or_else(missing)?)?;
        let newest = service.video_place(&self.principal, &self.stream, At::Newest).await?;
        if segment.end() >= newest && self.shared.producers.part_ms(&self.stream.key()).is_some() {
            // It may go on.
            set(&mut response, header::CACHE_CONTROL, "no-store");
        }
        Ok(response)
    }

    /// What goes on after a frame, once it is there.
    pub(super) async fn part(&self, number: SequenceNumber) -> Result<Response<Body>> {
        let mut changes = self.shared.service.video_changes(&self.principal, &self.stream)?;
        let next = async {
            loop {
                changes.mark_unchanged();
                let newest = At::Newest;
                let tail = self.shared.service.video_place(&self.principal, &self.stream, newest).await?;
                // Further on nobody can know what comes.
                if number != tail || changes.changed().await.is_err() {
                    return self.segment(number).await;
                }
            }
        };
        let late = || failure(StatusCode::SERVICE_UNAVAILABLE, "nothing came; ask again");
        timeout(PART_WAIT, Box::pin(next)).await.map_err(|_| late())?
    }

    fn container(&self, parts: &[Whole]) -> Result<Response<Body>> {
        let (Some(first), Some(last)) = (parts.first(), parts.last()) else {
            return Err(not_found("no fragment"));
        };
        let config = &first.stored.fragment.config;
        let only = self.one_track(config)?;
        let base_s = self.query.base_s()?;
        let bytes = joined(parts, only, base_s.unwrap_or(0))?;
        let track = only.map(|track| format!("-{track}")).unwrap_or_default();
        let base = base_s.map(|base_s| format!("-{base_s}")).unwrap_or_default();
        let (from, to, arrival) = (first.stored.number, last.stored.end(), first.stored.arrival.0);
        let etag = format!("\"{from}-{to}-{arrival}{track}{base}\"");
        let mut response = self.slice(&etag, "video/iso.segment", bytes);
        // What plays it goes on with the next one, and initializes where this is another one.
        for (name, value) in [("x-kinesin-next", to.to_string()), ("x-kinesin-config", config.id())] {
            set(&mut response, header::HeaderName::from_static(name), &value);
        }
        Ok(response)
    }

    fn slice(&self, etag: &str, kind: &str, bytes: Vec<u8>) -> Response<Body> {
        let (mut response, from, to) = ranged(&self.headers, etag, bytes.len() as u64, kind);
        if to > from {
            *response.body_mut() = Body::Whole(Some(Bytes::from(bytes).slice(from as usize..to as usize)));
        }
        response
    }

    /// All fragments from one place to another as one file that plays and seeks.
    pub(super) async fn range(&self) -> Result<Response<Body>> {
        let all = self.fragments_between().await?;
        let Some((plan, count)) = Plan::of(&all) else {
            return Err(not_found(format!("stream {} has no video there", self.stream)));
        };
        let last = &all[count - 1];
        let etag = format!("\"{}-{}-{}\"", all[0].number, last.end(), all[0].arrival.0);
        let (mut response, from, to) = ranged(&self.headers, &etag, plan.length(), "video/mp4");
        if count < all.len() {
            let name = header::HeaderName::from_static("x-kinesin-continues");
            set(
                &mut response,
                name,
                &format!("frame {}: its configuration is another one", all[count].number),
            );
        }
        if to > from && !self.head {
            let (pieces, body) = pieces::channel();
            let sender = Sender {
                shared: self.shared.clone(),
                principal: self.principal.clone(),
                stream: self.stream.clone(),
                pieces,
            };
            tokio::spawn(Box::pin(async move {
                // A file that breaks off is shorter than its length said: its reader knows.
                let _ = sender.send(plan, from, to).await;
            }));
            let made = coming("video/mp4", body);
            *response.body_mut() = made.into_body();
        }
        Ok(response)
    }
}

/// Sends a part of a file as it is made.
struct Sender {
    shared: Arc<crate::api::Shared>,
    principal: crate::principal::Principal,
    stream: protocol::name::StreamName,
    pieces: Pieces,
}

impl Sender {
    async fn send(&self, plan: Plan, from: u64, to: u64) -> Result<()> {
        let tracks = video::codec::tracks(&plan.config)?;
        let ids: Vec<u32> = tracks.iter().map(|track| track.id).collect();
        let mut at = 0u64;
        let length = plan.init.len() as u64;
        self.part(plan.init.into(), at, from, to).await?;
        at += length;
        for (number, length) in plan.parts {
            if at < to && at + length > from {
                let found = self.shared.service.fragment(&self.principal, &self.stream, number).await?;
                let found = found.ok_or_else(|| not_found("it is not kept any more"))?;
                let bytes = segment_of(&found, &tracks, &ids, plan.base_ms)?;
                if bytes.len() as u64 != length {
                    return Err(failure(StatusCode::INTERNAL_SERVER_ERROR, "a segment of another length"));
                }
                self.part(bytes.into(), at, from, to).await?;
            }
            at += length;
        }
        Ok(())
    }

    /// The bytes of a part that are within what is wanted.
    async fn part(&self, bytes: Bytes, at: u64, from: u64, to: u64) -> Result<()> {
        let start = from.saturating_sub(at).min(bytes.len() as u64) as usize;
        let end = to.saturating_sub(at).min(bytes.len() as u64) as usize;
        let wanted = bytes.slice(start..end.max(start));
        self.pieces.send(wanted).await.map_err(|_| not_found("nobody reads any more"))
    }
}

#[cfg(test)]
mod tests {
    use video::codec::TrackKind;

    use super::*;

    fn range(text: &str) -> Option<(u64, u64)> {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, text.parse().unwrap());
        match range_of(&headers, "\"e\"", 100) {
            Range::All => Some((0, 100)),
            Range::Part(from, to) => Some((from, to)),
            Range::Unsatisfiable => None,
        }
    }

    #[test]
    fn times_begin_at_the_base_unless_a_frame_comes_before_it() {
        let track = |id, timescale| Track {
            id,
            kind: TrackKind::Data,
            timescale,
            codec: String::new(),
            width: 0,
            height: 0,
            nal_length_bytes: None,
            parameter_sets: Vec::new(),
        };
        let tracks = [track(1, 15_360), track(2, 44_100)];
        let frame = |track, dts| Frame { track, key: true, dts, duration: 1, offset: 0, size: 1 };
        let times = |frames: Vec<Frame>, base_s| -> Vec<u64> {
            frames_after(frames, &tracks, base_s).iter().map(|frame| frame.dts).collect()
        };
        let both = || vec![frame(0, 15_360 * 100 + 7), frame(1, 44_100 * 100)];
        assert_eq!(times(both(), 0), [15_360 * 100 + 7, 44_100 * 100]);
        assert_eq!(times(both(), 90), [15_360 * 10 + 7, 44_100 * 10]);
        assert_eq!(times(both(), 100), [7, 0]);
        assert_eq!(times(both(), 101), [15_360 * 100 + 7, 44_100 * 100]);
        let sound_first = vec![frame(0, 15_360 * 100), frame(1, 44_100 * 100 - 1)];
        assert_eq!(times(sound_first, 100), [15_360 * 100, 44_100 * 100 - 1]);
        assert_eq!(times(both(), u64::from(u32::MAX)), [15_360 * 100 + 7, 44_100 * 100]);
    }

    #[test]
    fn ranges_are_those_of_the_rfc() {
        assert_eq!(range("bytes=0-0"), Some((0, 1)));
        assert_eq!(range("bytes=10-"), Some((10, 100)));
        assert_eq!(range("bytes=10-1000"), Some((10, 100)));
        assert_eq!(range("bytes=-10"), Some((90, 100)));
        assert_eq!(range("bytes=-1000"), Some((0, 100)));
        assert_eq!(range("bytes=100-"), None);
        assert_eq!(range("bytes=-0"), None);
        for all in ["bytes=5-1", "bytes=a-b", "bytes=", "lines=1-2", "bytes=0-1,5-6"] {
            assert_eq!(range(all), Some((0, 100)), "{all}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, "bytes=1-2".parse().unwrap());
        headers.insert(header::IF_RANGE, "\"other\"".parse().unwrap());
        assert!(matches!(range_of(&headers, "\"e\"", 100), Range::All));
    }
}
