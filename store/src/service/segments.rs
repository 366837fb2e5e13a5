//! Segments: what players fetch one by one, a fragment of video with all the parts in which it was stored. They are counted
//! through the whole stream, so that lists that were made at different times agree. Never: playlists, containers.

use std::ops::Range;
use std::sync::Arc;

use protocol::name::StreamName;
use protocol::sequence::SequenceNumber;
use protocol::stream::CallError;
use protocol::time::UnixMs;
use video::fragment::{Config, Follows, Frame};
use video::limit::{FRAGMENT_BYTES_MAX, FRAGMENT_FRAMES_MAX};

use super::Service;
use super::streams::may_command;
use super::video::{Stored, Whole, blocking, peek_one, shard_of};
use crate::log::Peek;
use crate::principal::Principal;

/// A segment has at most so many parts: 20 s of the shortest ones, and as many again where a camera's times jump about.
pub const PARTS_MAX: usize = 400;

/// What is stored as one fragment, or as one and parts that are within it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// At least one.
    parts: Vec<Stored>,
    bytes: u64,
    frames: usize,
}

impl Segment {
    /// A segment of which one part is known.
    #[must_use]
    pub fn new(first: Stored) -> Segment {
        let (bytes, frames) = (first.fragment.data_bytes(), first.fragment.frames.len());
        Segment { parts: vec![first], bytes, frames }
    }

    /// The parts, in their order.
    #[must_use]
    pub fn parts(&self) -> &[Stored] {
        &self.parts
    }

    /// The first part.
    #[must_use]
    pub fn first(&self) -> &Stored {
        &self.parts[0]
    }

    /// The newest part.
    #[must_use]
    pub fn last(&self) -> &Stored {
        &self.parts[self.parts.len() - 1]
    }

    /// Its place among all segments of its stream: without gaps, mostly.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.first().sequence()
    }

    /// The number of its first frame.
    #[must_use]
    pub fn number(&self) -> SequenceNumber {
        self.first().number
    }

    /// The number after its last frame.
    #[must_use]
    pub fn end(&self) -> SequenceNumber {
        self.last().end()
    }

    /// When it was filmed, as its producer says it.
    #[must_use]
    pub fn producer_time(&self) -> UnixMs {
        self.first().fragment.producer_time
    }

    /// What it was made with.
    #[must_use]
    pub fn config(&self) -> &Arc<Config> {
        &self.first().fragment.config
    }

    /// Its frames, as they are stored.
    pub fn frames(&self) -> impl Iterator<Item = &Frame> {
        self.parts.iter().flat_map(|part| &part.fragment.frames)
    }

    /// Bytes of its frames.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How long the frames of a track last, in its timescale.
    #[must_use]
    pub fn duration(&self, track: u8) -> u64 {
        self.parts.iter().map(|part| part.fragment.duration(track)).sum()
    }

    /// Whether a player goes on from the one before without being told of anything.
    #[must_use]
    pub fn goes_on_from(&self, before: &Segment) -> bool {
        let follows = self.first().fragment.follows;
        matches!(follows, Follows::Previous | Follows::Within)
            && self.number() == before.end()
            && self.config() == before.config()
    }

    /// Whether it is the next one by number.
    #[must_use]
    pub fn is_next_of(&self, before: &Segment) -> bool {
        self.sequence() == before.sequence() + 1
    }

    /// Takes a part that is within it; gives back what is not.
    pub fn join(&mut self, part: Stored) -> Option<Stored> {
        let (bytes, frames) = (part.fragment.data_bytes(), part.fragment.frames.len());
        // What the cutter gives has these bounds; what anybody else stored is bounded here.
        let fits = self.parts.len() < PARTS_MAX
            && self.bytes + bytes <= FRAGMENT_BYTES_MAX as u64
            && self.frames + frames <= FRAGMENT_FRAMES_MAX;
        let is_within = part.fragment.follows == Follows::Within
            && part.number == self.end()
            && part.fragment.config == *self.config();
        if !fits || !is_within {
            return Some(part);
        }
        self.bytes += bytes;
        self.frames += frames;
        self.parts.push(part);
        None
    }
}

/// What was stored, in order, as segments.
#[must_use]
pub fn together(all: impl IntoIterator<Item = Stored>) -> Vec<Segment> {
    let mut segments: Vec<Segment> = Vec::new();
    for stored in all {
        let other = match segments.last_mut() {
            Some(last) => last.join(stored),
            None => Some(stored),
        };
        segments.extend(other.map(Segment::new));
    }
    segments
}

impl Service {
    /// At most so many segments that end before a frame and begin at another one or later, the newest last.
    ///
    /// # Errors
    /// When the stream is not there, the principal may not, or the disk can't.
    pub async fn segments_before(
        &self,
        principal: &Principal,
        name: &StreamName,
        between: Range<SequenceNumber>,
        count: usize,
    ) -> Result<Vec<Segment>, CallError> {
        let stream = self.video_stream(principal, name)?;
        let shard = shard_of(&stream);
        let found = blocking(&stream, move |stream| {
            let (mut end, mut begun, mut all) = (between.end, 0, Vec::new());
            while begun < count && all.len() < count.saturating_mul(PARTS_MAX) {
                let Some(last) = end.0.checked_sub(1) else { break };
                let (peek, stored) = peek_one(stream, shard, SequenceNumber(last))?;
                let Some(Peek { first, .. }) =
                    peek.filter(|peek| (between.start.0..=last).contains(&peek.first.0))
                else {
                    break;
                };
                end = first;
                let Some(stored) = stored else { continue };
                begun += usize::from(stored.fragment.follows != Follows::Within);
                all.push(stored);
            }
            Ok(all)
        });
        Ok(together(found.await?.into_iter().rev()))
    }

    /// How many times the stream did not go on before a list of its newest segments begins. Nothing else may be asked, see
    /// [`super::breaks`].
    ///
    /// # Errors
    /// When the stream is not there, or the principal may not.
    pub fn breaks_before<'a>(
        &self,
        principal: &Principal,
        name: &StreamName,
        newest: impl Iterator<Item = &'a Segment> + Clone,
    ) -> Result<u64, CallError> {
        may_command(principal)?;
        let open = self.find(name)?;
        let first = newest.clone().next().map_or(0, Segment::sequence);
        let pairs = newest.clone().zip(newest.skip(1));
        let breaks = pairs.filter(|(before, next)| !next.goes_on_from(before));
        Ok(open.breaks.handle_list(first, breaks.map(|(_, next)| next.sequence())))
    }

    /// Where the segment with a frame begins.
    ///
    /// # Errors
    /// When the stream is not there, the principal may not, or the disk can't.
    pub async fn segment_start(
        &self,
        principal: &Principal,
        name: &StreamName,
        number: SequenceNumber,
    ) -> Result<SequenceNumber, CallError> {
        let stream = self.video_stream(principal, name)?;
        let shard = shard_of(&stream);
        blocking(&stream, move |stream| {
            let mut at = number;
            for _ in 0..PARTS_MAX {
                let (_, Some(stored)) = peek_one(stream, shard, at)? else { break };
                if !(stored.number..stored.end()).contains(&at) {
                    break;
                }
                at = stored.number;
                if stored.fragment.follows != Follows::Within || at == stream.first(shard)? {
                    return Ok(at);
                }
                at = SequenceNumber(at.0 - 1);
            }
            Ok(number)
        })
        .await
    }

    /// The segment with this place among all of its stream; `None` where there is none, or not any more.
    ///
    /// # Errors
    /// When the stream is not there, the principal may not, or the disk can't.
    pub async fn segment_at(
        &self,
        principal: &Principal,
        name: &StreamName,
        sequence: u64,
    ) -> Result<Option<Segment>, CallError> {
        let stream = self.video_stream(principal, name)?;
        let shard = shard_of(&stream);
        let start = blocking(&stream, move |stream| {
            let (mut low, mut high) = (stream.first(shard)?, stream.tail(shard));
            let mut found = None;
            while low < high {
                let middle = SequenceNumber(u64::midpoint(low.0, high.0));
                let (_, Some(stored)) = peek_one(stream, shard, middle)? else { return Ok(None) };
                if stored.sequence() < sequence {
                    low = stored.end().max(middle + 1);
                    continue;
                }
                found = (stored.sequence() == sequence).then_some(stored.number).or(found);
                high = stored.number.min(middle);
            }
            Ok(found)
        });
        let Some(start) = start.await? else { return Ok(None) };
        let (mut next, mut all) = (start, Vec::new());
        loop {
            let (some, after) = self.fragments(principal, name, next, 8).await?;
            all.extend(some);
            let mut segments = together(all.clone());
            if after == next || segments.len() > 1 {
                return Ok((!segments.is_empty()).then(|| segments.swap_remove(0)));
            }
            next = after;
        }
    }

    /// The first fragment of the run and configuration that a frame is of, if it began after a time by its producer's
    /// clock and is still kept.
    ///
    /// # Errors
    /// When the stream is not there, the principal may not, or the disk can't.
    pub async fn run_begun(
        &self,
        principal: &Principal,
        name: &StreamName,
        number: SequenceNumber,
        after: UnixMs,
    ) -> Result<Option<Stored>, CallError> {
        let stream = self.video_stream(principal, name)?;
        let shard = shard_of(&stream);
        blocking(&stream, move |stream| {
            let (_, Some(mut known)) = peek_one(stream, shard, number)? else { return Ok(None) };
            let oldest = stream.first(shard)?;
            let (run, config) = (known.fragment.run, known.fragment.config.clone());
            let is_same = |other: &Stored| other.fragment.run == run && other.fragment.config == config;
            // Twice as far back each time, until it is another one; then what is between is halved.
            let (mut low, mut step) = (known.number, 1);
            loop {
                if known.fragment.producer_time <= after || known.number <= oldest {
                    return Ok(None);
                }
                low = SequenceNumber(low.0.saturating_sub(step)).max(oldest);
                step *= 2;
                match peek_one(stream, shard, low)?.1.filter(is_same) {
                    Some(stored) => known = stored,
                    None => break,
                }
            }
            while low < known.number {
                let middle = SequenceNumber(u64::midpoint(low.0, known.number.0));
                match peek_one(stream, shard, middle)?.1 {
                    Some(stored) if is_same(&stored) => known = stored,
                    Some(stored) => low = stored.end().max(middle + 1),
                    None => low = middle + 1,
                }
            }
            Ok(Some(known))
        })
        .await
    }

    /// All that was stored from one frame to another; `None` where fragments don't begin and end there.
    ///
    /// # Errors
    /// When the stream is not there, the principal may not, or what was asked for is damaged.
    pub async fn wholes(
        &self,
        principal: &Principal,
        name: &StreamName,
        from: SequenceNumber,
        to: SequenceNumber,
    ) -> Result<Option<Vec<Whole>>, CallError> {
        let (mut next, mut bytes, mut all) = (from, 0, Vec::<Whole>::new());
        while next < to && all.len() < PARTS_MAX && bytes <= FRAGMENT_BYTES_MAX as u64 {
            let Some(whole) = self.fragment(principal, name, next).await? else { return Ok(None) };
            let config = &whole.stored.fragment.config;
            if whole.stored.number != next
                || all.first().is_some_and(|one| one.stored.fragment.config != *config)
            {
                return Ok(None);
            }
            next = whole.stored.end();
            bytes += whole.stored.fragment.data_bytes();
            all.push(whole);
        }
        Ok((next == to && !all.is_empty()).then_some(all))
    }
}

#[cfg(test)]
mod tests {
    use video::fragment::{Clock, Fragment};

    use super::*;

    /// Two frames each.
    fn stored(ordinal: u64, within: u64, follows: Follows) -> Stored {
        let frame = Frame { track: 0, key: true, dts: 0, duration: 10, offset: 0, size: 5 };
        let fragment = Fragment {
            follows,
            run: 1,
            place: ordinal,
            within,
            clock: Clock::Producer,
            producer_time: UnixMs(0),
            config: Arc::new(Config::new(vec![1])),
            frames: vec![frame; 2],
        };
        let number = SequenceNumber(ordinal * 2);
        Stored { number, ordinal, arrival: UnixMs(0), fragment: Arc::new(fragment) }
    }

    /// Reaches `PARTS_MAX`.
    #[test]
    fn parts_join_the_fragment_that_they_are_within_and_segments_are_counted_without_them() {
        let all = [
            stored(5, 2, Follows::Previous),
            stored(6, 3, Follows::Within),
            stored(7, 4, Follows::Within),
            stored(8, 4, Follows::Previous),
            stored(9, 4, Follows::Gap(100)),
            stored(10, 5, Follows::Within),
        ];
        let segments = together(all.clone());
        let told: Vec<_> = segments.iter().map(|one| (one.sequence(), one.number().0, one.end().0)).collect();
        assert_eq!(told, [(3, 10, 16), (4, 16, 18), (5, 18, 22)]);
        assert_eq!(segments[0].duration(0), 60);
        assert_eq!((segments[0].bytes(), segments[0].frames().count()), (30, 6));
        assert!(segments[1].goes_on_from(&segments[0]) && !segments[2].goes_on_from(&segments[1]));
        assert!(segments[1].is_next_of(&segments[0]));
        // One that is missing between: what is within it is a segment of its own.
        let holed = together([all[0].clone(), all[2].clone()]);
        assert_eq!(holed.len(), 2);
        assert!(!holed[1].goes_on_from(&holed[0]));
        // Nobody makes a segment that never ends.
        let endless = (0..1000).map(|n| stored(n, n, if n == 0 { Follows::Run } else { Follows::Within }));
        assert_eq!(together(endless).iter().map(|segment| segment.parts().len()).max(), Some(PARTS_MAX));
    }
}
