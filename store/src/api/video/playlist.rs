//! Playlists of HTTP Live Streaming (RFC 8216, version 7: fragmented MP4), of what was and live, there with the parts and
//! the waiting of its second edition (RFC 8216bis, low latency) where the producer sends in parts, and its deltas: what a
//! player has been told before is left out where it asks for that. Never: which segments, containers.

use std::fmt::Write as _;

use hyper::{Response, StatusCode, header};
use tokio::time::timeout;
use video::codec::Track;

use super::listing::{Listed, Live, base_s, lasts_ms, with_tracks};
use super::query::Query;
use super::segments::PART_WAIT;
use super::{Body, Call, Result, bad, set, whole};
use crate::service::segments::Segment;
use crate::service::video::Stored;

const KIND: &str = "application/vnd.apple.mpegurl";
/// Parts are listed of so many of the newest segments: players begin there.
const SEGMENTS_WITH_PARTS: usize = 3;
/// What is further from the end than so many times the longest segment may be left out of a delta: as few as may be.
const SKIP_TARGETS: u64 = 6;
/// One may ask for what comes so much later, and no further.
const AHEAD_MAX: u64 = 2;

pub(super) fn time(ms: u64) -> String {
    let time = jiff::Timestamp::from_millisecond(i64::try_from(ms).unwrap_or(i64::MAX)).unwrap_or_default();
    time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

/// What a player waits for: a segment, or one of its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Awaited {
    sequence: u64,
    part: Option<u64>,
}

impl Awaited {
    /// Nobody waits for what is further away than the next few (RFC 8216bis, 6.2.5.2).
    fn is_too_far(self, newest: u64) -> bool {
        self.sequence > newest.saturating_add(AHEAD_MAX)
    }

    fn is_there(&self, live: &Live) -> bool {
        let whole = live.segments.last().is_some_and(|last| last.sequence() >= self.sequence);
        let open = live.open.as_ref().is_some_and(|open| {
            let parts = open.parts().len() as u64;
            open.sequence() > self.sequence
                || open.sequence() == self.sequence && self.part.is_some_and(|part| part < parts)
        });
        whole || open
    }
}

/// A playlist that is being written.
struct Text<'a> {
    text: String,
    token: &'a str,
    before: Option<&'a Segment>,
}

impl<'a> Text<'a> {
    fn begin(&mut self, segment: &'a Segment) {
        if self.before.is_some_and(|before| !segment.goes_on_from(before)) {
            self.text += "#EXT-X-DISCONTINUITY\n";
        }
        if self.before.is_none_or(|before| before.config() != segment.config()) {
            let _ = writeln!(self.text, "#EXT-X-MAP:URI=\"init/{}.mp4{}\"", segment.number(), self.token);
        }
        let at = time(segment.producer_time().0);
        let _ = writeln!(self.text, "#EXT-X-PROGRAM-DATE-TIME:{at}");
        self.before = Some(segment);
    }

    fn segment(&mut self, segment: &Segment, ms: u64) {
        let (from, to, token) = (segment.number(), segment.end(), self.token);
        let _ = writeln!(self.text, "#EXTINF:{},\nsegments/{from}-{to}.m4s{token}", seconds(ms));
    }

    fn parts(&mut self, segment: &Segment, tracks: &[Track]) {
        for part in segment.parts() {
            let (length, number, token) = (seconds(part_ms(part, tracks)), part.number, self.token);
            let key = if part.fragment.starts_with_key() { ",INDEPENDENT=YES" } else { "" };
            let _ =
                writeln!(self.text, "#EXT-X-PART:DURATION={length},URI=\"parts/{number}.m4s{token}\"{key}");
        }
    }
}

/// How long a part lasts: rounded up, as what is promised of parts is their most.
fn part_ms(part: &Stored, tracks: &[Track]) -> u64 {
    let timescale = tracks.first().map_or(1000, |track| track.timescale);
    (u128::from(part.fragment.duration(0)) * 1000).div_ceil(u128::from(timescale)) as u64
}

/// How much of a playlist is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    All,
    /// Not what a player has that asks again soon.
    Delta,
}

impl Told {
    /// As a player asks for it. There are no date ranges, so those that may be left out too (`v2`) make no difference; what
    /// nobody knows is passed over, as all of it is an answer to everything.
    fn of(asked: Option<&str>) -> Told {
        match asked {
            Some("YES" | "v2") => Told::Delta,
            _ => Told::All,
        }
    }
}

/// How many segments lie before so many milliseconds from the end of the list.
fn may_be_skipped(all: &[Listed<'_>], whole: usize, until_ms: u64) -> usize {
    let mut behind = 0;
    let old = all.iter().rposition(|(segment, tracks)| {
        let is_old = behind >= until_ms;
        behind += lasts_ms(segment, tracks);
        is_old
    });
    old.map_or(0, |last| last + 1).min(whole)
}

/// The whole text; `live` where it has no end.
fn write(segments: &[Segment], live: Option<&Live>, token: &str, told: Told) -> Result<String> {
    let open = live.and_then(|live| live.open.as_ref());
    let all = with_tracks(segments.iter().chain(open))?;
    Ok(written(&all, segments.len(), live, token, told))
}

/// The text of so many whole segments, and of what is open.
pub(super) fn written(
    all: &[Listed<'_>],
    whole: usize,
    live: Option<&Live>,
    token: &str,
    told: Told,
) -> String {
    let longest = all.iter().map(|(segment, tracks)| lasts_ms(segment, tracks)).max().unwrap_or(1000);
    let target = longest.div_ceil(1000).max(1);
    let skip_until = target * SKIP_TARGETS * 1000;
    let old = if live.is_some() { may_be_skipped(all, whole, skip_until) } else { 0 };
    let skipped = if told == Told::Delta { old } else { 0 };
    let (whole, open) = all.split_at(whole);
    let first = all.first().map_or(0, |(first, _)| first.sequence());
    let version = if skipped > 0 { 9 } else { 7 };
    let mut text = format!("#EXTM3U\n#EXT-X-VERSION:{version}\n#EXT-X-TARGETDURATION:{target}\n");
    let _ = writeln!(text, "#EXT-X-MEDIA-SEQUENCE:{first}");
    if let Some(breaks) = live.map(|live| live.breaks).filter(|breaks| *breaks > 0) {
        let _ = writeln!(text, "#EXT-X-DISCONTINUITY-SEQUENCE:{breaks}");
    }
    if all.iter().all(|(segment, _)| segment.first().fragment.starts_with_key()) {
        text += "#EXT-X-INDEPENDENT-SEGMENTS\n";
    }
    let with_parts = whole.len().saturating_sub(SEGMENTS_WITH_PARTS);
    let wanted = live.and_then(|live| live.part_ms);
    let mut control = Vec::new();
    let mut part_target = String::new();
    if let Some(wanted) = wanted {
        let parts = all[with_parts..]
            .iter()
            .flat_map(|(segment, tracks)| segment.parts().iter().map(|part| part_ms(part, tracks)));
        let most = parts.max().unwrap_or(0).max(wanted);
        let (hold, part_hold) = (seconds(target * 3000), seconds(most * 3));
        control.push(format!("CAN-BLOCK-RELOAD=YES,HOLD-BACK={hold},PART-HOLD-BACK={part_hold}"));
        part_target = format!("#EXT-X-PART-INF:PART-TARGET={}\n", seconds(most));
    }
    if old > 0 {
        control.push(format!("CAN-SKIP-UNTIL={}", seconds(skip_until)));
    }
    if !control.is_empty() {
        let _ = writeln!(text, "#EXT-X-SERVER-CONTROL:{}", control.join(","));
    }
    text += &part_target;
    if live.is_none() {
        text += "#EXT-X-PLAYLIST-TYPE:VOD\n";
    }
    if skipped > 0 {
        let _ = writeln!(text, "#EXT-X-SKIP:SKIPPED-SEGMENTS={skipped}");
    }
    // What follows goes on from what the player has: also its configuration.
    let before = skipped.checked_sub(1).map(|last| whole[last].0);
    let mut out = Text { text, token, before };
    for (place, (segment, tracks)) in whole.iter().enumerate().skip(skipped) {
        out.begin(segment);
        if wanted.is_some() && place >= with_parts {
            out.parts(segment, tracks);
        }
        out.segment(segment, lasts_ms(segment, tracks));
    }
    if let Some((segment, tracks)) = open.first() {
        out.begin(segment);
        out.parts(segment, tracks);
    }
    let mut text = out.text;
    if let (Some(_), Some((last, _))) = (wanted, all.last()) {
        let _ = writeln!(text, "#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"parts/{}.m4s{token}\"", last.end());
    }
    if live.is_none() {
        text += "#EXT-X-ENDLIST\n";
    }
    text
}

/// What a player says it waits for.
pub(super) fn awaited(query: &Query) -> Result<Option<Awaited>> {
    let (sequence, part) = (query.number("_HLS_msn", 0, u64::MAX)?, query.number("_HLS_part", 0, u64::MAX)?);
    match (sequence, part) {
        (Some(sequence), part) => Ok(Some(Awaited { sequence, part })),
        (None, None) => Ok(None),
        (None, Some(_)) => Err(bad("_HLS_part without _HLS_msn: of which segment?")),
    }
}

impl Call {
    /// The newest segments, once what was asked for is there.
    pub(super) async fn live_playlist(&self) -> Result<Response<Body>> {
        let live = match awaited(&self.query)? {
            None => self.live().await?,
            Some(awaited) => self.live_with(awaited).await?,
        };
        let told = Told::of(self.query.get("_HLS_skip"));
        let token = self.token_from(self.query.base_s()?);
        playlist(&write(&live.segments, Some(&live), &token, told)?)
    }

    /// From one place to another, and an end.
    pub(super) async fn vod_playlist(&self) -> Result<Response<Body>> {
        let segments = self.segments_between().await?;
        let earliest = segments.iter().map(Segment::producer_time).min();
        let token = self.token_from(self.query.base_s()?.or(earliest.map(base_s)));
        playlist(&write(&segments, None, &token, Told::All)?)
    }

    /// Waits for it; where it does not come, what there is is listed.
    async fn live_with(&self, awaited: Awaited) -> Result<Live> {
        let mut changes = self.shared.service.video_changes(&self.principal, &self.stream)?;
        let coming = async {
            loop {
                changes.mark_unchanged();
                let live = self.live().await?;
                let newest = live.all().next_back().map_or(0, Segment::sequence);
                if awaited.is_too_far(newest) {
                    return Err(bad(format!("_HLS_msn={}: the newest is {newest}", awaited.sequence)));
                }
                if awaited.is_there(&live) || changes.changed().await.is_err() {
                    return Ok(live);
                }
            }
        };
        match timeout(PART_WAIT, Box::pin(coming)).await {
            Ok(live) => live,
            Err(_) => self.live().await,
        }
    }
}

fn playlist(text: &str) -> Result<Response<Body>> {
    let mut response = whole(StatusCode::OK, KIND, text.as_bytes().to_vec());
    set(&mut response, header::CACHE_CONTROL, "no-store");
    Ok(response)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use protocol::sequence::SequenceNumber;
    use protocol::time::UnixMs;
    use video::fragment::{Clock, Config, Follows, Fragment, Frame};

    use super::*;
    use crate::service::segments::together;

    /// A configuration whose one track has units of a millisecond.
    fn config() -> Arc<Config> {
        Arc::new(Config::new(vec![0, 0, 0, 8, b'm', b'o', b'o', b'v']))
    }

    /// Half a second of one picture; the first of a group is a key frame.
    fn part(ordinal: u64, within: u64, follows: Follows) -> Stored {
        let key = follows != Follows::Within;
        let frame = Frame { track: 0, key, dts: ordinal * 500, duration: 500, offset: 0, size: 1 };
        let fragment = Fragment {
            follows,
            run: 1,
            place: ordinal,
            within,
            clock: Clock::Producer,
            producer_time: UnixMs(ordinal * 500),
            config: config(),
            frames: vec![frame],
        };
        Stored { number: SequenceNumber(ordinal), ordinal, arrival: UnixMs(0), fragment: Arc::new(fragment) }
    }

    fn live(part_ms: Option<u64>) -> Live {
        let (mut stored, mut within) = (Vec::new(), 0);
        for ordinal in 0..18 {
            let follows = if ordinal % 4 == 0 { Follows::Previous } else { Follows::Within };
            within += u64::from(follows == Follows::Within);
            stored.push(part(ordinal, within, follows));
        }
        let mut segments = together(stored);
        let open = part_ms.and_then(|_| segments.pop());
        Live { segments, open, part_ms, breaks: 0 }
    }

    fn text(live: &Live) -> String {
        let tracks: Arc<[Track]> = Arc::new([]);
        let all: Vec<_> = live.all().map(|segment| (segment, tracks.clone())).collect();
        written(&all, live.segments.len(), Some(live), "?token=t", Told::All)
    }

    #[test]
    fn how_often_the_stream_did_not_go_on_before_is_said_before_the_first_segment() {
        let said = |breaks| text(&Live { breaks, ..live(None) });
        assert!(!said(0).contains("DISCONTINUITY"), "{}", said(0));
        let text = said(3);
        let (head, _) = text.split_once("#EXT-X-MAP").unwrap();
        assert!(head.contains("#EXT-X-DISCONTINUITY-SEQUENCE:3\n"), "{text}");
    }

    #[test]
    fn parts_are_listed_of_the_newest_segments_and_the_next_one_has_a_name() {
        let text = text(&live(Some(400)));
        assert!(text.contains("#EXT-X-PART-INF:PART-TARGET=0.500\n"), "{text}");
        assert!(text.contains("CAN-BLOCK-RELOAD=YES,HOLD-BACK=6.000,PART-HOLD-BACK=1.500\n"), "{text}");
        // Three whole segments and the one that is being made: the first has its whole name only.
        assert_eq!(text.matches("#EXT-X-PART:").count(), 14, "{text}");
        assert!(text.contains("#EXT-X-PART:DURATION=0.500,URI=\"parts/4.m4s?token=t\",INDEPENDENT=YES\n"));
        assert!(text.contains("#EXTINF:2.000,\nsegments/12-16.m4s?token=t\n"), "{text}");
        assert!(!text.contains("segments/16"), "{text}");
        let end = "#EXT-X-PART:DURATION=0.500,URI=\"parts/17.m4s?token=t\"\n\
                   #EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"parts/18.m4s?token=t\"\n";
        assert!(text.ends_with(end), "{text}");
    }

    #[test]
    fn where_nobody_sends_parts_what_is_there_is_whole() {
        let text = text(&live(None));
        assert!(!text.contains("PART") && !text.contains("HINT") && !text.contains("BLOCK"), "{text}");
        assert!(text.ends_with("#EXTINF:1.000,\nsegments/16-18.m4s?token=t\n"), "{text}");
        assert!(text.contains("#EXT-X-MEDIA-SEQUENCE:0\n"), "{text}");
    }

    #[test]
    fn one_who_waits_hears_when_the_segment_or_its_part_is_there() {
        let live = live(Some(400));
        let there = |sequence, part| Awaited { sequence, part }.is_there(&live);
        assert!(there(3, None) && there(3, Some(99)) && there(4, Some(0)) && there(4, Some(1)));
        assert!(!there(4, None) && !there(4, Some(2)) && !there(5, None) && !there(5, Some(0)));
    }

    /// Reaches `AHEAD_MAX`.
    #[test]
    fn nobody_waits_for_what_is_far_ahead() {
        let is_too_far = |sequence| Awaited { sequence, part: None }.is_too_far(7);
        assert!(!is_too_far(7 + AHEAD_MAX) && is_too_far(8 + AHEAD_MAX) && !is_too_far(0));
    }
}
