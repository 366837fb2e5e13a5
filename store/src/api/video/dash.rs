//! Manifests of MPEG-DASH (ISO/IEC 23009-1, profile isoff-live): of what was, and live. A set for each track; what does not
//! go on (another run of the producer, another configuration) is another period. Never: which segments, containers.
//!
//! A list that is live counts its times from `base`, and says how much later than they were made segments came (`shift`):
//! both stay as they were when a player first asked, as the address for its next questions has them.

use std::fmt::Write as _;

use hyper::{Response, StatusCode, header};
use protocol::time::UnixMs;
use video::codec::{Track, TrackKind};

use super::listing::{Listed, lasts_ms, with_tracks};
use super::playlist::time;
use super::query::Query;
use super::{Body, Call, Result, bad, not_found, set, whole};
use crate::api::kvs::fragment_number;
use crate::service::segments::Segment;

const KIND: &str = "application/dash+xml";
/// How often a player asks again, at least and at most.
const UPDATE_MS: (u64, u64) = (1000, 5000);

/// How the times of a live list are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Timeline {
    pub(super) base_ms: u64,
    pub(super) shift_ms: i64,
}

/// What is said of each segment besides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Show {
    number: bool,
    server: bool,
    producer: bool,
}

/// Segments that go on, and where they are on the list's own timeline.
struct Period<'a> {
    id: String,
    start_ms: u64,
    /// The stream's time at `start_ms`.
    offset_ms: u64,
    lasts_ms: Option<u64>,
    segments: &'a [Listed<'a>],
}

fn duration(ms: u64) -> String {
    format!("PT{}.{:03}S", ms / 1000, ms % 1000)
}

fn begins_ms(segment: &Segment) -> u64 {
    segment.producer_time().0
}

fn ends_ms((segment, tracks): &Listed<'_>) -> u64 {
    begins_ms(segment).saturating_add(lasts_ms(segment, tracks))
}

/// When the last frame was shown: later than it was decoded, where frames are reordered.
fn shown_ms((segment, tracks): &Listed<'_>) -> u64 {
    let end = |track: &Track, place: usize| {
        let frames = segment.frames().filter(|frame| usize::from(frame.track) == place);
        let last = frames.map(|frame| frame.pts() + i64::from(frame.duration)).max().unwrap_or(0);
        (i128::from(last) * 1000 / i128::from(track.timescale)) as u64
    };
    tracks.iter().enumerate().map(|(place, track)| end(track, place)).max().unwrap_or(0)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

/// Whether a segment is in the period of the one before it. Where times jump forward in what is live, it is: whoever
/// plays it waits as long as the camera did.
fn is_same_period(before: &Segment, after: &Segment, is_live: bool) -> bool {
    let run = |segment: &Segment| segment.first().fragment.run;
    after.is_next_of(before)
        && after.config() == before.config()
        && if is_live { run(after) == run(before) } else { after.goes_on_from(before) }
}

fn divided<'a>(all: &'a [Listed<'a>], is_live: bool) -> impl Iterator<Item = &'a [Listed<'a>]> {
    all.chunk_by(move |before, after| is_same_period(before.0, after.0, is_live))
}

impl Period<'_> {
    fn write(&self, out: &mut String, token: &str, show: Show) {
        let lasts = self.lasts_ms.map(|ms| format!(" duration=\"{}\"", duration(ms))).unwrap_or_default();
        let start = duration(self.start_ms);
        let _ = writeln!(out, " <Period id=\"{}\" start=\"{start}\"{lasts}>", self.id);
        if let Some((_, tracks)) = self.segments.first() {
            for (place, track) in tracks.iter().enumerate() {
                if track.kind != TrackKind::Data {
                    self.write_track(out, place as u8, track, token, show);
                }
            }
        }
        out.push_str(" </Period>\n");
    }

    fn write_track(&self, out: &mut String, place: u8, track: &Track, token: &str, show: Show) {
        let Some((first, _)) = self.segments.first() else { return };
        let kind = track.kind.text();
        let bits = self.segments.iter().flat_map(|(segment, _)| segment.frames());
        let bits = bits.filter(|frame| frame.track == place).map(|frame| u128::from(frame.size) * 8);
        let units: u128 = self.segments.iter().map(|(one, _)| u128::from(one.duration(place))).sum();
        let bandwidth = (bits.sum::<u128>() * u128::from(track.timescale)).div_ceil(units.max(1)).max(1);
        let about = if track.kind == TrackKind::Video {
            format!(" width=\"{}\" height=\"{}\"", track.width, track.height)
        } else {
            String::new()
        };
        let offset = u128::from(self.offset_ms) * u128::from(track.timescale) / 1000;
        let token = escaped(token);
        let more = if token.is_empty() { '?'.to_string() } else { format!("{token}&amp;") };
        let _ = writeln!(
            out,
            "  <AdaptationSet id=\"{place}\" contentType=\"{kind}\" mimeType=\"{kind}/mp4\" segmentAlignment=\"true\">\n   \
             <Representation id=\"{place}\" bandwidth=\"{bandwidth}\" codecs=\"{}\"{about}>\n    \
             <SegmentTemplate timescale=\"{}\" presentationTimeOffset=\"{offset}\" startNumber=\"{}\" \
             initialization=\"init/{}.mp4{more}track={place}\" media=\"sequence/$Number$.m4s{more}track={place}\">\n     \
             <SegmentTimeline>",
            escaped(&track.codec),
            track.timescale,
            first.sequence(),
            first.number(),
        );
        let mut next = None;
        for (segment, tracks) in self.segments {
            next = Some(write_s(out, segment, tracks, place, next, show));
        }
        out.push_str(
            "     </SegmentTimeline>\n    </SegmentTemplate>\n   </Representation>\n  </AdaptationSet>\n",
        );
    }
}

/// Where a segment is on its track's timeline; says where the next one is.
fn write_s(
    out: &mut String,
    segment: &Segment,
    tracks: &[Track],
    place: u8,
    next: Option<u64>,
    show: Show,
) -> u64 {
    let timescale = tracks.get(usize::from(place)).map_or(1000, |track| track.timescale);
    let scaled = |ms: u64| (u128::from(ms) * u128::from(timescale) / 1000) as u64;
    // A segment without frames of this track has its place all the same: they are counted.
    let begins = segment.frames().find(|frame| frame.track == place).map(|frame| frame.dts);
    let begins = begins.or(next).unwrap_or_else(|| scaled(begins_ms(segment)));
    let lasts = match segment.duration(place) {
        0 => scaled(lasts_ms(segment, tracks)).max(1),
        lasts => lasts,
    };
    let at = if next == Some(begins) { String::new() } else { format!(" t=\"{begins}\"") };
    let mut more = String::new();
    if show.producer || show.server {
        let first = segment.first();
        let ms = if show.server { first.arrival.0 } else { first.fragment.producer_time.0 };
        let _ = write!(more, " kvs:ts=\"{}.{:03}\"", ms / 1000, ms % 1000);
    }
    if show.number {
        let _ = write!(more, " kvs:fn=\"{}\"", fragment_number(segment.number()));
    }
    let _ = writeln!(out, "      <S{at} d=\"{lasts}\"{more}/>");
    begins.saturating_add(lasts)
}

const XMLNS: &str = "xmlns=\"urn:mpeg:dash:schema:mpd:2011\" xmlns:kvs=\"urn:kinesin:kinesis-video-streams\" \
                     profiles=\"urn:mpeg:dash:profile:isoff-live:2011\"";

fn closed(head: String, periods: &[Period<'_>], token: &str, show: Show, tail: &str) -> String {
    let mut out = head;
    periods.iter().for_each(|period| period.write(&mut out, token, show));
    out + tail + "</MPD>\n"
}

/// Of what was: periods lie one after the other, and what is missing between them is not waited for.
pub(super) fn of_the_past(all: &[Listed<'_>], token: &str, show: Show) -> String {
    let (mut start_ms, mut periods) = (0, Vec::new());
    for segments in divided(all, false) {
        let (Some((first, _)), Some(last)) = (segments.first(), segments.last()) else { continue };
        let offset_ms = begins_ms(first);
        let lasts = shown_ms(last).max(ends_ms(last)).saturating_sub(offset_ms).max(1);
        let id = first.number().to_string();
        periods.push(Period { id, start_ms, offset_ms, lasts_ms: Some(lasts), segments });
        start_ms += lasts;
    }
    let longest = all.iter().map(|(segment, tracks)| lasts_ms(segment, tracks)).max().unwrap_or(1000);
    let head = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<MPD {XMLNS} type=\"static\" minBufferTime=\"{}\" \
         mediaPresentationDuration=\"{}\">\n",
        duration(longest),
        duration(start_ms),
    );
    closed(head, &periods, token, show, "")
}

/// What is live: `first` is where the period of its first segment began, if that is after the base.
pub(super) struct Now<'a> {
    pub(super) all: &'a [Listed<'a>],
    pub(super) first: Option<(String, u64)>,
    pub(super) timeline: Timeline,
    pub(super) now: UnixMs,
    pub(super) location: &'a str,
}

pub(super) fn of_now(live: &Now<'_>, token: &str, show: Show) -> String {
    let base = live.timeline.base_ms;
    let mut periods: Vec<Period<'_>> = Vec::new();
    for segments in divided(live.all, true) {
        let Some((first, _)) = segments.first() else { continue };
        let (id, at) = match (&live.first, periods.is_empty()) {
            (Some((id, at)), true) => (id.clone(), *at),
            (None, true) => ("0".to_owned(), base),
            (_, false) => (first.number().to_string(), begins_ms(first)),
        };
        let at = at.max(base);
        if let Some(before) = periods.last_mut() {
            // One that goes on at once ends where this one begins.
            let end = before.segments.last().map_or(0, ends_ms).min(at);
            before.lasts_ms = Some(end.saturating_sub(before.offset_ms).max(1));
        }
        periods.push(Period { id, start_ms: at - base, offset_ms: at, lasts_ms: None, segments });
    }
    let longest = live.all.iter().map(|(segment, tracks)| lasts_ms(segment, tracks)).max().unwrap_or(1000);
    let (first, last) = (live.all.first(), live.all.last());
    let depth = last.map_or(0, ends_ms).saturating_sub(first.map_or(0, |(first, _)| begins_ms(first)));
    let available = base.saturating_add_signed(live.timeline.shift_ms);
    let head = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<MPD {XMLNS} type=\"dynamic\" minBufferTime=\"{}\" \
         availabilityStartTime=\"{}\" publishTime=\"{}\" minimumUpdatePeriod=\"{}\" \
         timeShiftBufferDepth=\"{}\" suggestedPresentationDelay=\"{}\">\n <Location>{}</Location>\n",
        duration(longest),
        time(available),
        time(live.now.0),
        duration(longest.clamp(UPDATE_MS.0, UPDATE_MS.1)),
        duration(depth),
        duration(2 * longest + 1000),
        escaped(live.location),
    );
    let clock = format!(
        " <UTCTiming schemeIdUri=\"urn:mpeg:dash:utc:direct:2014\" value=\"{}\"/>\n",
        time(live.now.0)
    );
    closed(head, &periods, token, show, &clock)
}

/// The timeline that a player was given.
pub(super) fn timeline(query: &Query) -> Result<Option<Timeline>> {
    let Some(text) = query.get("timeline") else { return Ok(None) };
    let parts =
        text.split_once('.').and_then(|(base, shift)| Some((base.parse().ok()?, shift.parse().ok()?)));
    let (base_ms, shift_ms) = parts.ok_or_else(|| {
        bad(format!("timeline={text}: leave it out; the manifest says how it goes on in its Location"))
    })?;
    Ok(Some(Timeline { base_ms, shift_ms }))
}

/// What is to be told of each segment.
pub(super) fn show(query: &Query) -> Result<Show> {
    let mut show = Show::default();
    for word in query.get("show").into_iter().flat_map(|text| text.split(',')) {
        match word {
            "number" => show.number = true,
            "server" => show.server = true,
            "producer" => show.producer = true,
            _ => return Err(bad(format!("show={word}: number, server or producer was expected"))),
        }
    }
    Ok(show)
}

impl Call {
    /// From one place to another, where an end is said, or else what is live.
    pub(super) async fn manifest(&self) -> Result<Response<Body>> {
        let (token, show) = (self.token(), show(&self.query)?);
        let text = if self.query.at("to")?.is_some() && self.query.replay()?.is_none() {
            let segments = self.segments_between().await?;
            of_the_past(&with_tracks(&segments)?, &token, show)
        } else {
            self.live_manifest(&token, show).await?
        };
        let mut response = whole(StatusCode::OK, KIND, text.into_bytes());
        set(&mut response, header::CACHE_CONTROL, "no-store");
        Ok(response)
    }

    async fn live_manifest(&self, token: &str, show: Show) -> Result<String> {
        let mut segments = self.live().await?.segments;
        // Where a producer's clock was set back, what is live begins after that.
        let back = segments.windows(2).rposition(|two| begins_ms(&two[1]) < begins_ms(&two[0]));
        segments.drain(..back.map_or(0, |at| at + 1));
        let all = with_tracks(&segments)?;
        let (Some((first, _)), Some(last)) = (all.first(), all.last()) else {
            return Err(not_found(format!("stream {}: its first segment is still being made", self.stream)));
        };
        let arrival = last.0.last().arrival.0;
        let came_ms = match self.query.replay()? {
            None => arrival,
            Some((by_server, late)) => late.saturating_add(if by_server { arrival } else { ends_ms(last) }),
        };
        let timeline = timeline(&self.query)?.unwrap_or_else(|| Timeline {
            base_ms: begins_ms(first),
            shift_ms: came_ms as i64 - ends_ms(last) as i64,
        });
        let service = &self.shared.service;
        let base = UnixMs(timeline.base_ms);
        let begun = service.run_begun(&self.principal, &self.stream, first.number(), base).await?;
        let begun = begun.map(|stored| (stored.number.to_string(), stored.fragment.producer_time.0));
        let now = self.shared.clock.wall();
        let location = self.location(timeline);
        Ok(of_now(&Now { all: &all, first: begun, timeline, now, location: &location }, token, show))
    }

    /// Where a player asks again.
    fn location(&self, timeline: Timeline) -> String {
        let mut text = format!("manifest.mpd?timeline={}.{}", timeline.base_ms, timeline.shift_ms);
        for name in ["from", "to", "replay", "window", "show", "token"] {
            if let Some(value) = self.query.get(name) {
                let _ = write!(text, "&{name}={value}");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use protocol::sequence::SequenceNumber;
    use video::fragment::{Clock, Config, Follows, Fragment, Frame};

    use super::*;
    use crate::service::segments::together;
    use crate::service::video::Stored;

    fn track(kind: TrackKind, timescale: u32) -> Track {
        Track {
            id: 1,
            kind,
            timescale,
            codec: "a&b".to_owned(),
            width: 2,
            height: 1,
            nal_length_bytes: None,
            parameter_sets: Vec::new(),
        }
    }

    /// Two seconds of pictures, and of sound where there is some; begun at so many milliseconds.
    fn stored(ordinal: u64, at_ms: u64, follows: Follows, run: u64, sound: bool) -> Stored {
        let picture =
            Frame { track: 0, key: true, dts: at_ms * 90, duration: 90_000, offset: 90, size: 1000 };
        let next = Frame { dts: picture.dts + 90_000, ..picture };
        let other = Frame { track: 1, dts: at_ms * 48, duration: 96_000, offset: 0, ..picture };
        let half = Frame { duration: 45_000, ..next };
        let last = Frame { dts: half.dts + 45_000, ..half };
        let frames = if sound { vec![picture, next, other] } else { vec![picture, half, last] };
        let fragment = Fragment {
            follows,
            run,
            place: 0,
            within: 0,
            clock: Clock::Producer,
            producer_time: UnixMs(at_ms),
            config: Arc::new(Config::new(vec![1])),
            frames,
        };
        let number = SequenceNumber(ordinal * 3);
        Stored { number, ordinal, arrival: UnixMs(at_ms), fragment: Arc::new(fragment) }
    }

    fn listed(segments: &[Segment]) -> Vec<Listed<'_>> {
        let tracks: Arc<[Track]> =
            Arc::new([track(TrackKind::Video, 90_000), track(TrackKind::Audio, 48_000)]);
        segments.iter().map(|segment| (segment, tracks.clone())).collect()
    }

    #[test]
    fn what_does_not_go_on_is_another_period_and_what_is_missing_is_not_waited_for() {
        let segments = together([
            stored(3, 10_000, Follows::Previous, 1, true),
            stored(4, 12_000, Follows::Previous, 1, false),
            stored(5, 14_000, Follows::Previous, 1, true),
            stored(6, 90_000, Follows::Run, 2, true),
        ]);
        let text = of_the_past(&listed(&segments), "?token=a&b", Show { number: true, ..Show::default() });
        assert_eq!(text.matches("<Period ").count(), 2, "{text}");
        assert!(text.contains("<Period id=\"9\" start=\"PT0.000S\" duration=\"PT6.001S\">"), "{text}");
        assert!(text.contains("<Period id=\"18\" start=\"PT6.001S\""), "{text}");
        assert!(text.contains("type=\"static\"") && text.contains("mediaPresentationDuration=\"PT8.002S\""));
        // A segment without sound has its place among those of the sound: they are counted.
        assert!(text.contains("<S t=\"480000\" d=\"96000\""), "{text}");
        assert_eq!(text.matches("<S ").count(), 8);
        assert!(text.contains("presentationTimeOffset=\"8100000\" startNumber=\"6\""), "{text}");
        assert!(text.contains("?token=a&amp;b&amp;track=1\"") && text.contains("codecs=\"a&amp;b\""));
        assert!(text.contains(&format!("kvs:fn=\"{}\"", fragment_number(SequenceNumber(18)))), "{text}");
    }

    #[test]
    fn what_is_live_stays_where_it_was_on_its_timeline() {
        let timeline = Timeline { base_ms: 10_000, shift_ms: 500 };
        let live = |segments: &[Segment], first: Option<(String, u64)>| {
            let all = listed(segments);
            let now =
                Now { all: &all, first, timeline, now: UnixMs(20_000), location: "manifest.mpd?a=1&b=2" };
            of_now(&now, "", Show::default())
        };
        let all = [
            stored(3, 10_000, Follows::Run, 1, true),
            // Where nothing came for a while, it is waited for as long.
            stored(4, 15_000, Follows::Gap(3000), 1, true),
            stored(5, 20_000, Follows::Run, 2, true),
            stored(6, 22_000, Follows::Previous, 2, true),
        ];
        let text = live(&together(all.clone()), None);
        assert!(text.contains("<Period id=\"0\" start=\"PT0.000S\" duration=\"PT7.000S\">"), "{text}");
        assert!(text.contains("<Period id=\"15\" start=\"PT10.000S\">"), "{text}");
        assert!(text.contains("<S t=\"1350000\" d=\"180000\"/>"), "{text}");
        assert!(text.contains("availabilityStartTime=\"1970-01-01T00:00:10.500Z\""), "{text}");
        assert!(text.contains("<Location>manifest.mpd?a=1&amp;b=2</Location>"), "{text}");
        // Later, when its beginning is not listed any more: the same period.
        let later = live(&together(all[3..].to_vec()), Some(("15".to_owned(), 20_000)));
        assert!(later.contains("<Period id=\"15\" start=\"PT10.000S\">"), "{later}");
        assert!(later.contains("presentationTimeOffset=\"1800000\" startNumber=\"6\""), "{later}");
    }
}
