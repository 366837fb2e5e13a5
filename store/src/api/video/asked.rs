//! What players ask and are answered, from any bytes at all: a function for each, for the fuzzer and the tests. They say what
//! has to hold of parameters and ranges, and of playlists and manifests. They serve nobody. Never: in what does serve.

use std::sync::Arc;

use hyper::header::{self, HeaderMap, HeaderValue};
use protocol::sequence::SequenceNumber;
use protocol::time::UnixMs;
use video::codec::Track;
use video::fragment::{Clock, Config, Follows, Fragment, Frame};

use super::dash::{Now, Show, Timeline};
use super::listing::{Listed, Live};
use super::playlist::{Told, awaited, written};
use super::query::{KNOWN, Query};
use super::segments::{Range, range_of};
use super::{dash, parse_number};
use crate::service::segments::{Segment, together};
use crate::service::video::Stored;

/// No history is longer: enough for segments of several parts to be left out, of which six stay.
const FRAGMENTS: usize = 48;
/// A line of a playlist is no longer than this, but for what the player sent itself.
const LINE_BYTES: usize = 200;

/// The first byte says what the others are.
///
/// # Panics
/// When something does not hold.
pub fn asked(bytes: &[u8]) {
    let Some((which, rest)) = bytes.split_first() else { return };
    if which % 2 == 0 { parameters(rest) } else { range(rest) }
}

/// What stands behind the question mark, and then names in the path.
fn parameters(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = parse_number(text);
    let Ok(query) = Query::parse(text) else { return };
    let _ = (query.rate(), query.replay(), awaited(&query), dash::show(&query), dash::timeline(&query));
    for name in KNOWN {
        let (at, time) = (query.at(name), query.time(name));
        assert!(!query.is_on(name) || query.get(name).is_some());
        if let Ok(Some(number)) = query.number(name, 5, 50) {
            assert!((5..=50).contains(&number));
            assert!(at.is_ok() && time.is_ok(), "a number is a place and a time");
        }
        assert!(at.is_err() || query.get(name).is_some() == at.is_ok_and(|at| at.is_some()));
    }
}

/// Eight bytes are the length of the whole, the others what is asked for of it.
fn range(bytes: &[u8]) {
    let Some((length, text)) = bytes.split_first_chunk() else { return };
    let (length, mut headers) = (u64::from_le_bytes(*length), HeaderMap::new());
    let Ok(value) = HeaderValue::from_bytes(text) else { return };
    headers.insert(header::RANGE, value);
    if let Range::Part(from, to) = range_of(&headers, "\"e\"", length) {
        assert!(from < to && to <= length, "{from} to {to} of {length}");
    }
}

/// What was filmed: of two bytes each what a fragment is and how long it lasts. All is counted in milliseconds.
fn filmed(bytes: &[u8], in_parts: bool) -> Vec<Stored> {
    let (mut stored, mut within, mut now, mut codec) = (Vec::new(), 0, 1_000_000, 0);
    for (ordinal, pair) in bytes.chunks_exact(2).take(FRAGMENTS).enumerate() {
        let (kind, lasts) = (pair[0], u64::from(pair[1]) * 40 + 1);
        let follows = match kind % 16 {
            0 => Follows::Run,
            1 => Follows::Gap(i64::from(kind)),
            2..10 if in_parts && ordinal > 0 => Follows::Within,
            _ => Follows::Previous,
        };
        within += u64::from(follows == Follows::Within);
        codec = if follows == Follows::Within { codec } else { kind / 128 };
        now += lasts + if matches!(follows, Follows::Gap(_)) { u64::from(kind) * 100 } else { 0 };
        let frame =
            Frame { track: 0, key: kind & 16 == 0, dts: now, duration: lasts as u32, offset: 0, size: 1 };
        let fragment = Fragment {
            follows,
            run: 1,
            place: ordinal as u64,
            within,
            clock: Clock::Producer,
            producer_time: UnixMs(now),
            config: Arc::new(Config::new(vec![0, 0, 0, 9, b'm', b'o', b'o', b'v', codec])),
            frames: vec![frame],
        };
        let ordinal = ordinal as u64;
        let number = SequenceNumber(ordinal);
        stored.push(Stored { number, ordinal, arrival: UnixMs(now + 50), fragment: Arc::new(fragment) });
    }
    stored
}

/// The newest segments of what there was at some time.
fn live(stored: &[Stored], window: usize, part_ms: Option<u64>) -> Live {
    let mut segments = together(stored.iter().cloned());
    segments.drain(..segments.len().saturating_sub(window));
    let open = part_ms.and_then(|_| segments.pop());
    Live { segments, open, part_ms, breaks: u64::from(window == 7) }
}

fn listed<'a>(segments: impl Iterator<Item = &'a Segment>) -> Vec<Listed<'a>> {
    let tracks: Arc<[Track]> = Arc::new([]);
    segments.map(|segment| (segment, tracks.clone())).collect()
}

fn text(live: &Live, told: Told) -> String {
    written(&listed(live.all()), live.segments.len(), Some(live), "?token=t", told)
}

/// How many milliseconds before the end a player may be that asks for a delta (RFC 8216bis, 6.3.7): half of the boundary.
fn may_be_behind(text: &str) -> Option<u64> {
    let (_, until) = text.split_once("CAN-SKIP-UNTIL=")?;
    let seconds = until.split('.').next()?.parse::<u64>().ok()?;
    Some(seconds * 1000 / 2)
}

/// Parts or none, how many are listed, when a player asks and how much earlier it did before, and what was filmed: now it hears what it
/// has not heard yet in a delta.
///
/// # Panics
/// When something does not hold.
pub fn lists(bytes: &[u8]) {
    left_out(bytes);
}

/// Whether the player had something that it was not told again.
fn left_out(bytes: &[u8]) -> bool {
    let Some(([parts, window, moments @ ..], rest)) = bytes.split_first_chunk::<4>() else { return false };
    let part_ms = (parts % 2 == 1).then_some(500);
    let stored = filmed(rest, part_ms.is_some());
    if stored.is_empty() {
        return false;
    }
    let window = 2 + usize::from(*window) % FRAGMENTS;
    let now = 1 + usize::from(moments[0]) % stored.len();
    let then = now.saturating_sub(usize::from(moments[1]) % 8).max(1);
    let [then, now] = [then, now].map(|count| Heard::of(&stored[..count], window, part_ms));
    manifests(&now.live);
    heard_again(&then, &now)
}

/// The whole list at some moment.
struct Heard {
    at: u64,
    live: Live,
    full: String,
    known: List,
    stored: Vec<Stored>,
}

impl Heard {
    fn of(stored: &[Stored], window: usize, part_ms: Option<u64>) -> Heard {
        let at = stored.last().map_or(0, |one| one.fragment.producer_time.0 + one.fragment.duration(0));
        let live = live(stored, window, part_ms);
        let full = text(&live, Told::All);
        let most = (live.all().map(|one| one.parts().len() + 4).sum::<usize>() + 10) * LINE_BYTES;
        assert!(full.len() <= most, "{} bytes", full.len());
        let known = List::read(&full, None).expect("what has no delta in it needs nothing else");
        Heard { at, live, known: known.with_maps_of(stored), full, stored: stored.to_vec() }
    }
}

/// A player that has the list of then asks for what is new.
fn heard_again(then: &Heard, now: &Heard) -> bool {
    let delta = text(&now.live, Told::Delta);
    let Some(behind_ms) = may_be_behind(&now.full) else {
        assert_eq!(delta, now.full, "nothing to leave out");
        return false;
    };
    assert!(delta.len() < now.full.len() && delta.contains("\n#EXT-X-SKIP:"), "{delta}");
    let before = &then.known;
    let applied = List::read(&delta, Some(before)).map(|list| list.with_maps_of(&now.stored));
    assert!(applied.is_some() || now.at - then.at > behind_ms, "{before:?}\nis not enough for\n{delta}");
    let same = applied.as_ref().is_none_or(|applied| *applied == now.known);
    assert!(same, "{before:?}\nand\n{delta}\nis not\n{}", now.full);
    applied.is_some()
}

fn manifests(live: &Live) {
    let (all, show) = (listed(live.segments.iter()), Show::default());
    let most = (all.len() * 8 + 20) * LINE_BYTES;
    let timeline = Timeline { base_ms: 900_000, shift_ms: -5 };
    let now = Now { all: &all, first: None, timeline, now: UnixMs(2_000_000), location: "manifest.mpd" };
    for text in [dash::of_the_past(&all, "?token=t", show), dash::of_now(&now, "?token=t", show)] {
        assert!(text.len() <= most && text.ends_with("</MPD>\n"), "{} bytes", text.len());
    }
}

/// What a configuration is called there, however it is named: by any segment that has it, as any list begins with a name of its own.
fn map_of(name: &str, stored: &[Stored]) -> Option<String> {
    let number = name.strip_prefix("URI=\"init/")?.split('.').next()?;
    Some(stored.get(number.parse::<usize>().ok()?)?.fragment.config.id())
}

/// A playlist as a player has it: of each segment the lines that are its own, and what is true of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct List {
    head: Vec<String>,
    segments: Vec<Listing>,
    /// What is not whole yet.
    open: Listing,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Listing {
    sequence: u64,
    lines: Vec<String>,
    begins_anew: bool,
    map: String,
}

impl List {
    fn with_maps_of(mut self, stored: &[Stored]) -> List {
        for one in self.segments.iter_mut().chain([&mut self.open]) {
            one.map = map_of(&one.map, stored).unwrap_or(std::mem::take(&mut one.map));
        }
        self
    }

    /// Reads one; what it leaves out is taken from the one before. Nothing where that has not got it.
    pub(super) fn read(text: &str, before: Option<&List>) -> Option<List> {
        let mut list = List { head: Vec::new(), segments: Vec::new(), open: Listing::default() };
        let mut next = Listing::default();
        for line in text.lines() {
            let value = |name: &str| line.strip_prefix(name)?.strip_prefix(':');
            if let Some(sequence) = value("#EXT-X-MEDIA-SEQUENCE") {
                next.sequence = sequence.parse().ok()?;
                list.head.push(line.to_owned());
            } else if let Some(count) = value("#EXT-X-SKIP") {
                let count: u64 = count.strip_prefix("SKIPPED-SEGMENTS=")?.parse().ok()?;
                for sequence in next.sequence..next.sequence + count {
                    let mut known = before?.segments.iter();
                    let mut known = known.find(|known| known.sequence == sequence)?.clone();
                    // Parts of what is old are not listed any more.
                    known.lines.retain(|line| !line.starts_with("#EXT-X-PART:"));
                    next = Listing { sequence: sequence + 1, map: known.map.clone(), ..Listing::default() };
                    list.segments.push(known);
                }
            } else if line == "#EXT-X-DISCONTINUITY" {
                next.begins_anew = true;
            } else if let Some(map) = value("#EXT-X-MAP") {
                map.clone_into(&mut next.map);
            } else if ["#EXTINF", "#EXT-X-PART", "#EXT-X-PROGRAM-DATE-TIME", "#EXT-X-PRELOAD-HINT"]
                .iter()
                .any(|name| value(name).is_some())
            {
                next.lines.push(line.to_owned());
            } else if line.starts_with('#') {
                // The number of the version is another one where something is left out.
                list.head.extend(value("#EXT-X-VERSION").is_none().then(|| line.to_owned()));
            } else {
                next.lines.push(line.to_owned());
                let (sequence, map) = (next.sequence + 1, next.map.clone());
                list.segments
                    .push(std::mem::replace(&mut next, Listing { sequence, map, ..Listing::default() }));
            }
        }
        list.open = next;
        // Of the first one nobody knows what was before it.
        list.segments.first_mut().into_iter().for_each(|first| first.begins_anew = false);
        Some(list)
    }
}

#[cfg(test)]
mod tests {
    use protocol::rng::Rng;

    use super::*;

    #[test]
    fn a_delta_and_the_list_before_it_are_the_new_list_in_random_histories() {
        // Without parts, and with them.
        let mut deltas = [0, 0];
        for seed in 0..4000 {
            let mut rng = Rng::new(seed);
            let mut bytes: Vec<u8> = (0..4).map(|_| rng.next_u64() as u8).collect();
            // Mostly even, as cameras are; some have all kinds of lengths, other codecs, and gaps.
            let lasts = rng.between(5, 60);
            let odd = rng.below(300);
            for _ in 0..rng.between(12, FRAGMENTS as u64) {
                let plain = [10 + rng.below(3) as u8 - u8::from(rng.chance(500)) * 8, lasts as u8];
                let any = [rng.next_u64() as u8, rng.next_u64() as u8];
                bytes.extend(if rng.chance(odd) { any } else { plain });
            }
            deltas[usize::from(bytes[0] % 2)] += usize::from(left_out(&bytes));
        }
        assert!(deltas.iter().all(|count| *count > 40), "{deltas:?} of 4000 were worth it");
    }

    #[test]
    fn a_list_that_is_long_enough_says_what_may_be_left_out_and_leaves_it_out() {
        let stored = filmed(&[11, 49].repeat(FRAGMENTS), false);
        let live = live(&stored, 20, None);
        let (full, delta) = (text(&live, Told::All), text(&live, Told::Delta));
        assert!(full.contains("#EXT-X-SERVER-CONTROL:CAN-SKIP-UNTIL=12.000\n"), "{full}");
        assert!(full.contains("#EXT-X-VERSION:7\n") && !full.contains("#EXT-X-SKIP"), "{full}");
        let head = "#EXTM3U\n#EXT-X-VERSION:9\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:28\n";
        assert!(delta.starts_with(head), "{delta}");
        // Seven last longer than six that last as long as the longest may.
        assert!(delta.contains("#EXT-X-SKIP:SKIPPED-SEGMENTS=13\n#EXT-X-PROGRAM-DATE-TIME"), "{delta}");
        assert_eq!(delta.matches("#EXTINF").count(), 7);
        assert!(!delta.contains("#EXT-X-MAP"), "what goes on goes on with what it had: {delta}");
        let before = List::read(&full, None).unwrap();
        assert_eq!(List::read(&delta, Some(&before)), Some(before));
        assert_eq!(List::read(&delta, None), None, "nobody who has heard nothing can use it");
    }
}
