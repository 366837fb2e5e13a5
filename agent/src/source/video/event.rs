//! What happened around an event, in a stream of its own: whenever somebody touches a file, the fragments of a camera from a
//! while before until a while after are taken out of the spool and into that stream too. So they can be sent at once while all
//! the others wait for the depot, and both streams are in order. [`Around`] decides (pure), [`run`] reads. Never: when what
//! is sent (policies), what a fragment is made of.

use std::collections::VecDeque;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use disk::{Position, ReadError};
use protocol::batch::Batch;
use protocol::frame::{Frame, HEADER_BYTES, Header, Kind};
use protocol::name::StreamName;
use protocol::time::UnixMs;
use serde::{Deserialize, Serialize};
use video::codec::tracks;
use video::cut::Cut;
use video::fragment::{Follows, Fragment, data_of};

use super::Parts;
use super::feed::Feeder;
use crate::clock::unix_ms;
use crate::spool::{BatchMeta, SpoolReader};

/// How often it is looked for an event, and for what the spool got.
const LOOK: Duration = Duration::from_millis(200);
/// Fragments of one camera that are remembered for an event to come, by their places in the spool.
const REMEMBERED_MAX: usize = 4096;

/// How far a camera's events were dealt with: what the spool remembers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Cursor {
    /// Modification time of the file at the last event.
    seen_ms: u64,
    /// What is wanted, by when it was taken.
    from_ms: u64,
    until_ms: u64,
    /// All of the spool below it was dealt with, if wanted.
    position: u64,
    /// The run of the last fragment that was handed on.
    run: u64,
    /// When that ends, in the camera's time.
    end_ms: u64,
}

/// Which fragments are wanted. Times are this machine's, of when fragments were taken.
#[derive(Debug)]
struct Around {
    before_ms: u64,
    after_ms: u64,
    cursor: Cursor,
    /// Place in the spool and time of those that were not handed on.
    known: VecDeque<(u64, u64)>,
}

impl Around {
    fn new(before_s: u64, after_s: u64, cursor: Cursor) -> Around {
        Around { before_ms: before_s * 1000, after_ms: after_s * 1000, cursor, known: VecDeque::new() }
    }

    /// The file was touched at this time; true where that is news.
    fn handle_event(&mut self, touched_ms: u64, now_ms: u64) -> bool {
        if touched_ms == self.cursor.seen_ms {
            return false;
        }
        self.cursor.seen_ms = touched_ms;
        // A time to come is none that this machine's clock has given.
        let at = touched_ms.min(now_ms);
        let from = at.saturating_sub(self.before_ms);
        let joins = (self.cursor.from_ms..=self.cursor.until_ms).contains(&from);
        self.cursor.from_ms = if joins { self.cursor.from_ms } else { from };
        self.cursor.until_ms = at.saturating_add(self.after_ms);
        true
    }

    /// A fragment is in the spool, at a place behind all those before.
    fn handle_fragment(&mut self, position: u64, taken_ms: u64) {
        if position < self.cursor.position {
            return;
        }
        if self.known.len() >= REMEMBERED_MAX {
            self.known.pop_front();
        }
        self.known.push_back((position, taken_ms));
    }

    /// The next one to be handed on.
    fn poll(&mut self, now_ms: u64) -> Option<u64> {
        let wanted = self.cursor.from_ms..=self.cursor.until_ms;
        let place = self.known.iter().position(|(_, taken)| wanted.contains(taken));
        if let Some((position, _)) = place.and_then(|place| self.known.remove(place)) {
            self.cursor.position = self.cursor.position.max(position + 1);
            return Some(position);
        }
        // No event to come wants these.
        let old = |taken: u64| taken.saturating_add(self.before_ms) < now_ms;
        while self.known.front().is_some_and(|(_, taken)| old(*taken)) {
            self.known.pop_front();
        }
        None
    }

    /// How a fragment follows those that were handed on before it. Its length is in milliseconds.
    fn follow(&mut self, fragment: &mut Fragment, length_ms: u64) {
        let begin = fragment.producer_time.0;
        let same = self.cursor.run == fragment.run && self.cursor.end_ms > 0;
        let jump = begin as i64 - self.cursor.end_ms as i64;
        fragment.follows = match fragment.follows {
            _ if !same => Follows::Run,
            // Their times are rounded to milliseconds.
            Follows::Previous if jump.abs() <= 2 => Follows::Previous,
            Follows::Gap(ms) if (jump - ms).abs() <= 2 => Follows::Gap(ms),
            _ => Follows::Gap(jump),
        };
        (self.cursor.run, self.cursor.end_ms) = (fragment.run, begin.saturating_add(length_ms));
    }
}

/// The name of a camera's cursor in the spool.
fn cursor_id(stream: &StreamName) -> String {
    format!("event:{stream}")
}

/// Whether a cursor is of this stream's events.
pub(crate) fn is_cursor(id: &str, stream: &StreamName) -> bool {
    id == cursor_id(stream)
}

fn touched_ms(file: &Path) -> Option<u64> {
    let about = std::fs::metadata(file).ok()?;
    u64::try_from(about.mtime() * 1000 + about.mtime_nsec() / 1_000_000).ok().filter(|ms| *ms > 0)
}

/// Works until the agent ends. `parts` are of the stream of events; `camera` is the stream that they are taken from.
pub(crate) fn run(parts: &Parts, camera: &StreamName, spool: SpoolReader, from: u64) {
    let Some(file) = parts.settings.event.clone() else { return };
    let known = parts.cursors.first().and_then(|(_, text)| serde_json::from_str::<Cursor>(text).ok());
    let mut work = Work {
        around: Around::new(
            parts.settings.event_before_s,
            parts.settings.event_after_s,
            known.unwrap_or_default(),
        ),
        feeder: Feeder::new(&parts.hub, parts.source, &parts.stream),
        id: cursor_id(&parts.stream),
        camera,
        parts,
        spool,
        ahead: from,
        bytes: Vec::new(),
    };
    if known.is_none() {
        // A file that was there before anybody looked is no event.
        work.around.cursor.seen_ms = touched_ms(&file).unwrap_or(0);
        let cursor = work.cursor();
        work.feeder.remember(cursor);
    }
    while !work.feeder.stopping() {
        if let Some(touched) = touched_ms(&file)
            && work.around.handle_event(touched, unix_ms().0)
        {
            let Cursor { from_ms, until_ms, .. } = work.around.cursor;
            let text = format!(
                "stream {}: an event: {} s of {camera} are taken",
                parts.stream,
                (until_ms - from_ms) / 1000
            );
            parts.log.info(&text);
            let cursor = work.cursor();
            work.feeder.remember(cursor);
        }
        work.look();
        work.feeder.wait(LOOK);
    }
}

struct Work<'a> {
    around: Around,
    feeder: Feeder,
    id: String,
    camera: &'a StreamName,
    parts: &'a Parts,
    spool: SpoolReader,
    /// All of the spool below it was looked at.
    ahead: u64,
    bytes: Vec<u8>,
}

impl Work<'_> {
    fn cursor(&self) -> (String, Option<String>) {
        (self.id.clone(), serde_json::to_string(&self.around.cursor).ok())
    }

    fn say(&self, why: &str) {
        let text = format!("stream {}: an event's fragment is not there any more: {why}", self.parts.stream);
        self.parts.log.warn(&format!("event {}", self.parts.stream), &text);
    }

    /// Looks at what the spool got, and hands on what is wanted of it.
    fn look(&mut self) {
        let mut header = [0u8; HEADER_BYTES];
        while !self.feeder.stopping() {
            match self.spool.read_header(Position(self.ahead), &mut header) {
                Ok(length) => {
                    if let Ok(header) = Header::parse(&header)
                        && header.kind == Kind::Data
                        && header.stream == self.camera.key()
                    {
                        let meta = BatchMeta::of(self.ahead, &header);
                        self.around.handle_fragment(meta.position, meta.taken.0);
                    }
                    self.ahead += length as u64;
                }
                Err(ReadError::Trimmed { start }) if start.0 > self.ahead => self.ahead = start.0,
                Err(ReadError::Damaged { to, .. }) if to.0 > self.ahead => self.ahead = to.0,
                Err(_) => break,
            }
            self.hand_on();
        }
        self.hand_on();
    }

    fn hand_on(&mut self) {
        while let Some(position) = self.around.poll(unix_ms().0) {
            if let Err(error) = self.spool.read(Position(position), &mut self.bytes) {
                self.say(&error.to_string());
                continue;
            }
            let Some((mut cut, taken)) = cut_of(&self.bytes) else {
                self.say("it is damaged");
                continue;
            };
            let length_ms = length_ms(&cut.fragment);
            self.around.follow(&mut cut.fragment, length_ms);
            let cursor = self.cursor();
            if !self.feeder.fragment_taken(&cut, taken, Some(cursor)) {
                return;
            }
        }
        if self.bytes.capacity() > 1 << 20 {
            self.bytes = Vec::new();
        }
    }
}

/// The fragment in a frame of the spool, and when it was taken.
fn cut_of(bytes: &[u8]) -> Option<(Cut, UnixMs)> {
    let frame = Frame::parse(bytes).ok()?;
    let mut batch = Batch::default();
    batch.open_in_place(&frame.header, frame.payload).ok()?;
    let (fragment, head_bytes) = Fragment::of_batch(&batch, frame.header.producer_time).ok()?;
    let data = data_of(&batch, head_bytes).collect::<Vec<_>>().concat();
    Some((Cut { fragment, data: data.into() }, frame.header.arrival))
}

fn length_ms(fragment: &Fragment) -> u64 {
    let timescale =
        tracks(&fragment.config).ok().and_then(|tracks| tracks.first().map(|track| track.timescale));
    fragment.duration(0).saturating_mul(1000) / u64::from(timescale.unwrap_or(1000).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(around: &mut Around, now_ms: u64) -> Vec<u64> {
        std::iter::from_fn(|| around.poll(now_ms)).collect()
    }

    /// A camera with a fragment a second, at places 10, 20, 30 ... of the spool.
    fn second(around: &mut Around, n: u64) -> Vec<u64> {
        around.handle_fragment(n * 10, n * 1000);
        all(around, n * 1000)
    }

    #[test]
    fn what_was_before_and_what_comes_after_an_event_is_wanted_once() {
        let mut around = Around::new(3, 2, Cursor::default());
        assert!((1..=100).all(|n| second(&mut around, n).is_empty()));
        assert!(around.known.len() <= 4, "nothing older than what an event wants is remembered");
        assert!(around.handle_event(100_000, 100_100) && !around.handle_event(100_000, 100_300));
        assert_eq!(all(&mut around, 100_100), [970, 980, 990, 1000]);
        assert_eq!((101..110).flat_map(|n| second(&mut around, n)).collect::<Vec<_>>(), [1010, 1020]);
        // Another one, whose time before is partly there already.
        assert!(around.handle_event(109_000, 109_000));
        assert!(around.handle_event(111_000, 111_000));
        assert_eq!(all(&mut around, 111_000), [1060, 1070, 1080, 1090]);
        assert_eq!(
            (110..120).flat_map(|n| second(&mut around, n)).collect::<Vec<_>>(),
            [1100, 1110, 1120, 1130]
        );
    }

    #[test]
    fn after_a_restart_it_goes_on_where_it_was_and_an_event_that_nobody_saw_is_seen() {
        let mut first = Around::new(3, 5, Cursor::default());
        (1..=10).for_each(|n| drop(second(&mut first, n)));
        first.handle_event(10_000, 10_000);
        assert_eq!(first.poll(10_000), Some(70));
        assert_eq!(first.poll(10_000), Some(80));
        let text = serde_json::to_string(&first.cursor).unwrap();
        let mut again = Around::new(3, 5, serde_json::from_str(&text).unwrap());
        assert!(!again.handle_event(10_000, 60_000));
        (1..=50).for_each(|n| again.handle_fragment(n * 10, n * 1000));
        assert_eq!(all(&mut again, 60_000), [90, 100, 110, 120, 130, 140, 150]);
        let mut later = Around::new(3, 5, again.cursor);
        assert!(later.handle_event(30_000, 60_000), "the file was touched while nobody looked");
        let handed: Vec<u64> = (1..=50)
            .flat_map(|n| {
                later.handle_fragment(n * 10, n * 1000);
                all(&mut later, 60_000)
            })
            .collect();
        assert_eq!(handed, (27..=35).map(|n| n * 10).collect::<Vec<_>>());
    }

    /// Reaches `REMEMBERED_MAX`.
    #[test]
    fn no_more_places_are_remembered_than_may_be() {
        let mut around = Around::new(100_000, 1, Cursor::default());
        for n in 0..REMEMBERED_MAX as u64 + 10 {
            around.handle_fragment(n, n);
        }
        assert_eq!((around.known.len(), around.known[0].0), (REMEMBERED_MAX, 10));
    }
}
