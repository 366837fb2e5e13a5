//! Frames, one by one and many at a time: what a stream has, which fragments and gaps, and the access units themselves.

use std::collections::VecDeque;
use std::fmt::Write as _;

use hyper::{Response, StatusCode, header};
use protocol::sequence::SequenceNumber;
use protocol::time::UnixMs;
use serde_json::{Value, json};
use video::codec::{Track, TrackKind, tracks};
use video::fragment::{Clock, Follows, Frame};
use video::{VideoError, mux};

use super::{Body, Call, Failure, Result, as_json, bad, coming, failure, not_found, picture, set, whole};
use crate::api::pieces::{self, Pieces};
use crate::service::drift::{Clocks, Step};
use crate::service::segments::PARTS_MAX;
use crate::service::video::{At, Stored, Whole};

const COUNT_DEFAULT: u64 = 100;
/// Frames of one list.
const COUNT_MAX: u64 = 100_000;
/// Fragments of one list.
pub(super) const FRAGMENTS_MAX: usize = 5000;
/// Fragments that are looked at together.
const STEP: usize = 256;
const BOUNDARY: &str = "kinesin-frame";
/// A group of pictures that goes over more fragments is not put together ...
const GOP_FRAGMENTS_MAX: usize = PARTS_MAX;
/// ... nor one that has more bytes.
const GOP_BYTES_MAX: usize = 256 << 20;

impl From<VideoError> for Failure {
    fn from(error: VideoError) -> Failure {
        failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

/// A time of a track in milliseconds since 1970.
pub(super) fn ms(time: i64, timescale: u32) -> i64 {
    (i128::from(time) * 1000 / i128::from(timescale.max(1))) as i64
}

/// How long a fragment lasts, in milliseconds, by its first track.
pub(super) fn duration_ms(stored: &Stored, tracks: &[Track]) -> u64 {
    let timescale = tracks.first().map_or(1000, |track| track.timescale);
    (stored.fragment.duration(0) as u128 * 1000 / u128::from(timescale)) as u64
}

fn follows(follows: Follows) -> Value {
    match follows {
        Follows::Run => json!("run"),
        Follows::Previous => json!("previous"),
        Follows::Within => json!("within"),
        Follows::Gap(ms) => json!({ "gap_ms": ms }),
    }
}

fn about_fragment(stored: &Stored) -> Result<Value> {
    let fragment = &stored.fragment;
    let tracks = tracks(&fragment.config)?;
    Ok(json!({
        "fragment": stored.number.0, "ordinal": stored.ordinal, "frames": fragment.frames.len(),
        "bytes": fragment.data_bytes(), "duration_ms": duration_ms(stored, &tracks),
        "producer_time_ms": fragment.producer_time.0, "server_time_ms": stored.arrival.0,
        "clock": if fragment.clock == Clock::Producer { "producer" } else { "arrival" },
        "key": fragment.starts_with_key(), "follows": follows(fragment.follows),
        "run": format!("{:016x}", fragment.run), "config": fragment.config.id(),
    }))
}

/// Two clocks: where the newest fragment has them, and how the producer's went.
fn about_clocks(newest: &Stored, clocks: &Clocks) -> Value {
    let step = |step: &Step| json!({ "before_ms": step.before.0, "forward_ms": step.ms });
    json!({
        "ahead_ms": newest.sample().ahead_ms(),
        "drift_ppm": clocks.drift.map(|drift| (drift.ppm * 10.0).round() / 10.0),
        "drift_ms_per_hour": clocks.drift.map(|drift| (drift.ppm * 36.0).round() / 10.0),
        "over_ms": clocks.drift.map(|drift| drift.over_ms),
        "steps": clocks.steps.iter().map(step).collect::<Vec<_>>(),
    })
}

fn about_track(track: &Track) -> Value {
    json!({
        "kind": track.kind.text(), "codec": track.codec, "timescale": track.timescale,
        "width": track.width, "height": track.height,
    })
}

/// One frame of a fragment that is there.
struct Found<'a> {
    number: SequenceNumber,
    key_number: Option<SequenceNumber>,
    frame: Frame,
    data: &'a [u8],
    track: &'a Track,
    config: String,
}

impl Found<'_> {
    fn about(&self) -> Value {
        let (dts, pts, scale) = (self.frame.dts as i64, self.frame.pts(), self.track.timescale);
        json!({
            "frame": self.number.0, "track": self.frame.track, "kind": self.track.kind.text(),
            "key": self.frame.key, "dts": dts, "pts": pts, "timescale": scale,
            "dts_ms": ms(dts, scale), "pts_ms": ms(pts, scale), "duration": self.frame.duration,
            "size": self.frame.size, "config": self.config,
            "keyframe": self.key_number.map(|number| number.0),
        })
    }

    fn headers(&self) -> Vec<(&'static str, String)> {
        let scale = self.track.timescale;
        vec![
            ("x-kinesin-frame", self.number.0.to_string()),
            ("x-kinesin-track", self.frame.track.to_string()),
            ("x-kinesin-codec", self.track.codec.clone()),
            ("x-kinesin-key", u8::from(self.frame.key).to_string()),
            ("x-kinesin-dts-ms", ms(self.frame.dts as i64, scale).to_string()),
            ("x-kinesin-pts-ms", ms(self.frame.pts(), scale).to_string()),
            ("x-kinesin-pts", self.frame.pts().to_string()),
            ("x-kinesin-timescale", scale.to_string()),
            ("x-kinesin-config", self.config.clone()),
            ("x-kinesin-keyframe", self.key_number.map_or(String::new(), |number| number.0.to_string())),
        ]
    }

    fn bytes(&self, format: Format) -> Vec<u8> {
        match format {
            Format::Stored => self.data.to_vec(),
            Format::AnnexB => self.track.annexb(self.data, self.frame.key),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Stored,
    AnnexB,
}

/// Looks at every frame of a fragment.
fn each<'a>(whole: &'a Whole, tracks: &'a [Track], mut look: impl FnMut(Found<'a>)) {
    let fragment = &whole.stored.fragment;
    let config = fragment.config.id();
    let mut keys = vec![None; tracks.len()];
    for (place, (frame, data)) in fragment.frames.iter().zip(whole.data()).enumerate() {
        let number = whole.stored.number + place as u64;
        let Some(track) = tracks.get(usize::from(frame.track)) else { continue };
        if frame.key {
            keys[usize::from(frame.track)] = Some(number);
        }
        let key_number = keys[usize::from(frame.track)];
        look(Found { number, key_number, frame: *frame, data, track, config: config.clone() });
    }
}

/// What many frames are picked by.
#[derive(Debug, Clone, Copy)]
struct Picked {
    from: SequenceNumber,
    /// Made before this, by the producer's clock; came before this, by the store's.
    to: Option<At>,
    /// None is all of them.
    kind: Option<TrackKind>,
    keys_only: bool,
}

impl Picked {
    fn takes(&self, found: &Found<'_>) -> bool {
        found.number >= self.from
            && self.kind.is_none_or(|kind| found.track.kind == kind)
            && (!self.keys_only || found.frame.key)
            && !self.is_past_frame(found)
    }

    fn is_past_frame(&self, found: &Found<'_>) -> bool {
        match self.to {
            Some(At::Frame(number)) => found.number >= number,
            Some(At::ProducerTime(time)) => {
                ms(found.frame.dts as i64, found.track.timescale) >= time.0 as i64
            }
            _ => false,
        }
    }

    fn is_past(&self, stored: &Stored) -> bool {
        match self.to {
            Some(At::Frame(number)) => stored.number >= number,
            Some(At::ProducerTime(time)) => stored.fragment.producer_time >= time,
            Some(At::ServerTime(time)) => stored.arrival >= time,
            _ => false,
        }
    }
}

impl Call {
    /// The fragment where `name` points to; the oldest if nothing is said.
    pub(super) async fn place(&self, name: &str, otherwise: At) -> Result<SequenceNumber> {
        let at = self.query.at(name)?.unwrap_or(otherwise);
        Ok(self.shared.service.video_place(&self.principal, &self.stream, at).await?)
    }

    pub(super) async fn some_fragments(
        &self,
        from: SequenceNumber,
        count: usize,
    ) -> Result<(Vec<Stored>, SequenceNumber)> {
        Ok(self.shared.service.fragments(&self.principal, &self.stream, from, count).await?)
    }

    /// All fragments from one place to another, at most [`FRAGMENTS_MAX`].
    pub(super) async fn fragments_between(&self) -> Result<Vec<Stored>> {
        let from = self.place("from", At::Oldest).await?;
        let count = self.query.number("count", 1, FRAGMENTS_MAX as u64)?.unwrap_or(FRAGMENTS_MAX as u64);
        self.stored_between(from, count as usize).await
    }

    /// At most so many fragments from a frame on, to where the request says.
    pub(super) async fn stored_between(&self, from: SequenceNumber, count: usize) -> Result<Vec<Stored>> {
        let picked = Picked { from, to: self.query.at("to")?, kind: None, keys_only: false };
        let (mut next, mut all) = (from, Vec::<Stored>::new());
        while all.len() < count {
            let (some, after) = self.some_fragments(next, STEP.min(count - all.len())).await?;
            let before = all.len() + some.len();
            all.extend(some.into_iter().take_while(|stored| !picked.is_past(stored)));
            if after == next || all.len() < before {
                break;
            }
            next = after;
        }
        Ok(all)
    }

    pub(super) async fn whole(&self, number: SequenceNumber) -> Result<Whole> {
        let found = self.shared.service.fragment(&self.principal, &self.stream, number).await?;
        found.ok_or_else(|| {
            not_found(format!(
                "stream {} has no frame {number} of video: it is not there yet, or not any more",
                self.stream
            ))
        })
    }

    pub(super) async fn about(&self) -> Result<Response<Body>> {
        let from = self.place("from", At::Oldest).await?;
        let (first, _) = self.some_fragments(from, 1).await?;
        let end = self.place("to", At::Newest).await?;
        let last = match end.0.checked_sub(1) {
            Some(last) => self.some_fragments(SequenceNumber(last), 1).await?.0,
            None => Vec::new(),
        };
        let (Some(first), Some(last)) = (first.first(), last.first()) else {
            return Err(not_found(format!("stream {} has no video", self.stream)));
        };
        let tracks = tracks(&last.fragment.config)?;
        let clocks = self.shared.service.video_clocks(&self.principal, &self.stream).await?;
        Ok(as_json(&json!({
            "stream": self.stream.as_str(), "first_frame": first.number.0, "next_frame": end.0,
            "fragments": last.ordinal + 1 - first.ordinal,
            "tracks": tracks.iter().map(about_track).collect::<Vec<_>>(),
            "oldest": about_fragment(first)?, "newest": about_fragment(last)?,
            "clocks": about_clocks(last, &clocks),
        })))
    }

    pub(super) async fn fragments(&self) -> Result<Response<Body>> {
        let all = self.fragments_between().await?;
        let all = all.iter().map(about_fragment).collect::<Result<Vec<_>>>()?;
        Ok(as_json(&json!({ "fragments": all })))
    }

    /// Where something is missing, or may be: between runs, and where times jump.
    pub(super) async fn gaps(&self) -> Result<Response<Body>> {
        let all = self.fragments_between().await?;
        let mut gaps = Vec::new();
        for pair in all.windows(2) {
            let [before, after] = pair else { continue };
            let end =
                before.fragment.producer_time.0 + duration_ms(before, &tracks(&before.fragment.config)?);
            let missing = after.fragment.producer_time.0 as i64 - end as i64;
            let why = match after.fragment.follows {
                Follows::Previous | Follows::Within if missing.abs() <= video::limit::GAP_MS => continue,
                Follows::Previous | Follows::Within => "fragments between are not kept",
                Follows::Run => "the producer began again",
                Follows::Gap(_) => "the producer's times jump",
            };
            gaps.push(json!({
                "after": before.number.0, "before": after.number.0, "missing_ms": missing, "why": why,
                "from_ms": end, "to_ms": after.fragment.producer_time.0,
            }));
        }
        Ok(as_json(&json!({ "gaps": gaps })))
    }

    fn format(&self) -> Result<Format> {
        match self.query.get("format") {
            None | Some("stored" | "avcc") => Ok(Format::Stored),
            Some("annexb") => Ok(Format::AnnexB),
            Some(other) => Err(bad(format!("format={other}: avcc (as stored) or annexb was expected"))),
        }
    }

    pub(super) async fn frame(&self, number: SequenceNumber) -> Result<Response<Body>> {
        let whole_fragment = self.whole(number).await?;
        let format = self.format()?;
        if self.query.get("image").is_some() {
            let (file, place) = self.group(&whole_fragment, number).await?;
            return picture::make(&self.query, file, place).await;
        }
        if self.query.is_on("gop") {
            let (file, _) = self.group(&whole_fragment, number).await?;
            let mut response = whole(StatusCode::OK, "video/mp4", file);
            set(&mut response, header::CACHE_CONTROL, "private, max-age=31536000, immutable");
            return Ok(response);
        }
        let tracks = tracks(&whole_fragment.stored.fragment.config)?;
        let mut answer = None;
        each(&whole_fragment, &tracks, |found| {
            if found.number == number {
                answer = Some(if self.query.is_on("meta") {
                    as_json(&found.about())
                } else {
                    let mut response = whole(StatusCode::OK, "application/octet-stream", found.bytes(format));
                    for (name, value) in found.headers() {
                        set(&mut response, header::HeaderName::from_static(name), &value);
                    }
                    set(&mut response, header::CACHE_CONTROL, "private, max-age=31536000, immutable");
                    response
                });
            }
        });
        answer.ok_or_else(|| not_found(format!("stream {} has no frame {number}", self.stream)))
    }

    /// A small file that plays: from the key frame before a frame to that frame. Also says as which one of its frames
    /// that one is shown.
    async fn group(&self, last: &Whole, number: SequenceNumber) -> Result<(Vec<u8>, usize)> {
        let place = (number.0 - last.stored.number.0) as usize;
        let fragment = &last.stored.fragment;
        let track = fragment.frames.get(place).map_or(0, |frame| frame.track);
        // With sound, the pictures that go with it are meant.
        let has_pictures =
            tracks(&fragment.config)?.first().is_some_and(|track| track.kind == TrackKind::Video);
        let track = if has_pictures { 0 } else { track };
        let mut parts = VecDeque::from([last.clone()]);
        let mut back = Back::new(track, &fragment.frames[..(place + 1).min(fragment.frames.len())]);
        // A fragment that was cut where there was no key frame goes on from the one before it.
        while !back.begun {
            let first = parts.front().map_or(0, |part| part.stored.number.0);
            let before = first.checked_sub(1).filter(|_| back.may_go_on());
            let before =
                before.ok_or_else(|| not_found(format!("no key frame is kept before frame {number}")))?;
            let part = self.whole(SequenceNumber(before)).await?;
            back.add(&part.stored.fragment.frames);
            parts.push_front(part);
        }
        let (mut frames, mut data): (Vec<Frame>, Vec<&[u8]>) = (Vec::new(), Vec::new());
        for part in &parts {
            for (at, (frame, bytes)) in part.stored.fragment.frames.iter().zip(part.data()).enumerate() {
                if part.stored.number + at as u64 > number || frame.track != track {
                    continue;
                }
                if frame.key {
                    frames.clear();
                    data.clear();
                }
                frames.push(*frame);
                data.push(bytes);
            }
        }
        let ids = mux::track_ids(&fragment.config)?;
        let mut file = mux::init(&fragment.config);
        let base = frames.first().map_or(0, |frame| frame.dts);
        frames.iter_mut().for_each(|frame| frame.dts -= base);
        file.extend(mux::segment(1, &ids, &frames, &data)?);
        let shown = frames.last().map_or(0, |last| last.pts());
        Ok((file, frames.iter().filter(|frame| frame.pts() < shown).count()))
    }

    fn picked(&self, from: SequenceNumber) -> Result<Picked> {
        let kind = match self.query.get("track") {
            None | Some("video") => Some(TrackKind::Video),
            Some("audio") => Some(TrackKind::Audio),
            Some("all") => None,
            Some(other) => return Err(bad(format!("track={other}: video, audio or all was expected"))),
        };
        let keys_only = self.query.get("gop") == Some("keys");
        Ok(Picked { from, to: self.query.at("to")?, kind, keys_only })
    }

    /// Many frames: as parts of one answer, or what is known of them.
    pub(super) async fn frames(&self) -> Result<Response<Body>> {
        let follow = self.query.is_on("follow");
        let start = self.query.at("from")?.unwrap_or(if follow { At::Newest } else { At::Oldest });
        let from = self.shared.service.video_place(&self.principal, &self.stream, start).await?;
        // A time means its frame, not the beginning of its fragment.
        let since = match start {
            At::ProducerTime(time) => Some(time),
            _ => None,
        };
        let picked = self.picked(from)?;
        let count = match self.query.number("count", 1, COUNT_MAX)? {
            Some(count) => count,
            None if follow => u64::MAX,
            None if picked.to.is_some() => COUNT_MAX,
            None => COUNT_DEFAULT,
        };
        let (format, meta) = (self.format()?, self.query.is_on("meta"));
        let (parts, answer) = pieces::channel();
        let reader = Reader {
            shared: self.shared.clone(),
            principal: self.principal.clone(),
            stream: self.stream.clone(),
            picked,
            since,
            format,
            meta,
            follow,
            parts,
        };
        if !self.head {
            tokio::spawn(Box::pin(reader.run(count)));
        }
        let kind = if meta {
            "application/x-ndjson".to_owned()
        } else {
            format!("multipart/mixed; boundary={BOUNDARY}")
        };
        let mut response = coming(&kind, answer);
        set(&mut response, header::CACHE_CONTROL, "no-store");
        Ok(response)
    }
}

/// How far a group of pictures reaches back, from its last fragment to the one with its key frame.
struct Back {
    track: u8,
    fragments: usize,
    bytes: u64,
    begun: bool,
}

impl Back {
    /// From these frames of the last fragment.
    fn new(track: u8, frames: &[Frame]) -> Back {
        let mut back = Back { track, fragments: 0, bytes: 0, begun: false };
        back.add(frames);
        back
    }

    fn add(&mut self, frames: &[Frame]) {
        self.fragments += 1;
        self.bytes += frames.iter().map(|frame| u64::from(frame.size)).sum::<u64>();
        self.begun |= frames.iter().any(|frame| frame.track == self.track && frame.key);
    }

    fn may_go_on(&self) -> bool {
        self.fragments < GOP_FRAGMENTS_MAX && self.bytes <= GOP_BYTES_MAX as u64
    }
}

/// Gives frames as they are there, and waits for those that come.
struct Reader {
    shared: std::sync::Arc<crate::api::Shared>,
    principal: crate::principal::Principal,
    stream: protocol::name::StreamName,
    picked: Picked,
    since: Option<UnixMs>,
    format: Format,
    meta: bool,
    follow: bool,
    parts: Pieces,
}

impl Reader {
    async fn run(self, mut left: u64) {
        let mut next = self.picked.from;
        let Ok(mut changes) = self.shared.service.video_changes(&self.principal, &self.stream) else {
            return;
        };
        while left > 0 {
            changes.mark_unchanged();
            // Whoever reads sees that it ended early, as there is no closing boundary.
            let Ok(found) = self.shared.service.fragment(&self.principal, &self.stream, next).await else {
                return;
            };
            let Some(found) = found else {
                if !self.follow {
                    break;
                }
                tokio::select! {
                    changed = changes.changed() => if changed.is_err() { return },
                    () = self.parts.closed() => return,
                }
                continue;
            };
            if self.picked.is_past(&found.stored) {
                break;
            }
            let Ok(tracks) = tracks(&found.stored.fragment.config) else { return };
            if self.parts.send(self.parts_of(&found, &tracks, &mut left)).await.is_err() {
                return;
            }
            next = found.stored.end();
        }
        if !self.meta {
            let _ = self.parts.send(format!("--{BOUNDARY}--\r\n")).await;
        }
    }

    fn parts_of(&self, whole: &Whole, tracks: &[Track], left: &mut u64) -> Vec<u8> {
        let mut parts = Vec::new();
        each(whole, tracks, |found| {
            let early = self.since.is_some_and(|since| {
                let end = found.frame.dts + u64::from(found.frame.duration);
                ms(end as i64, found.track.timescale) <= since.0 as i64
            });
            if *left == 0 || early || !self.picked.takes(&found) {
                return;
            }
            *left -= 1;
            if self.meta {
                parts.extend_from_slice((found.about().to_string() + "\n").as_bytes());
            } else {
                self.part(&found, &mut parts);
            }
        });
        parts
    }

    fn part(&self, found: &Found<'_>, out: &mut Vec<u8>) {
        let bytes = found.bytes(self.format);
        let mut head = format!("--{BOUNDARY}\r\nContent-Type: application/octet-stream\r\n");
        for (name, value) in found.headers() {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        let _ = write!(head, "Content-Length: {}\r\n\r\n", bytes.len());
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(&bytes);
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many frames of a track that is no key.
    fn frames(count: usize, size: u32) -> Vec<Frame> {
        vec![Frame { track: 0, key: false, dts: 0, duration: 1, offset: 0, size }; count]
    }

    /// Reaches `GOP_FRAGMENTS_MAX`.
    /// Reaches `GOP_BYTES_MAX`.
    #[test]
    fn a_key_frame_is_looked_for_in_as_many_fragments_and_bytes_as_may_be() {
        let mut back = Back::new(0, &frames(10, 100));
        for fragment in 1..GOP_FRAGMENTS_MAX {
            assert!(back.may_go_on() && !back.begun, "{fragment}");
            back.add(&frames(10, 100));
        }
        assert!(!back.may_go_on());
        let quarter = frames(4, (GOP_BYTES_MAX / 16) as u32);
        let mut back = Back::new(0, &quarter);
        (0..3).for_each(|_| back.add(&quarter));
        assert!(back.may_go_on(), "just so many bytes");
        back.add(&frames(1, 1));
        assert!(!back.may_go_on());
        let of_sound = Frame { key: true, track: 1, ..frames(1, 1)[0] };
        back.add(&[of_sound]);
        assert!(!back.begun);
        back.add(&[Frame { track: 0, ..of_sound }]);
        assert!(back.begun);
    }
}
