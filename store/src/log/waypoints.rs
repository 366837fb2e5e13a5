//! What is remembered of sealed segments that searches came by, and how a search goes on from there: by a guess, as numbers
//! and times mostly grow evenly, then by halving. Pure. Never: opens a file; whether what it says is still so, the driver checks.

use disk::SegmentInfo;
use protocol::sequence::{SequenceNumber, ShardId};
use protocol::time::UnixMs;

use super::index::SegmentIndex;

/// Segments of which a log remembers where a shard begins and ends: 320 KiB, so 32 MB for a hundred cameras, however long each
/// is kept. One more, and every second one is forgotten: guesses between those that are left are good enough.
const WAYPOINTS_MAX: usize = 4096;

/// A search guesses so often, and then halves: where numbers or times jump about, it is hardly longer than by halving alone.
const GUESSES: u32 = 4;

/// A sealed segment, and what one shard has in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Waypoint {
    shard: ShardId,
    base: u64,
    begun: UnixMs,
    /// `None` where the segment does not know the shard.
    span: Option<Span>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    start: SequenceNumber,
    end: SequenceNumber,
    /// Of the first batch and of the last one, by their producer's clock; `None` where there is no batch.
    times: Option<(UnixMs, UnixMs)>,
}

/// What a segment is looked for by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// The first with something at this sequence number or above.
    Number(SequenceNumber),
    /// The last that begins with something made at this time or before, by its producer's clock.
    Made(UnixMs),
    /// The last that was begun before this time.
    Begun(UnixMs),
}

/// Where a target is, seen from a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// In an earlier segment, or in this one where all earlier ones are too early.
    NotLater,
    Here,
    /// In a later segment; or in this one where all later ones are too late.
    NotEarlier,
    /// It does not say.
    Unknown,
}

/// How a search ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// In this one of the sealed segments.
    At(usize),
    /// In none of them.
    Nowhere,
    /// Some segment does not say where it lies.
    Unclear,
}

impl Waypoint {
    pub(super) fn of(index: &SegmentIndex, shard: ShardId) -> Waypoint {
        let span = index.shards.get(&shard).map(|found| {
            let ends = found.batches.first().zip(found.batches.last());
            let times = ends.map(|(first, last)| (first.producer_time, last.producer_time));
            Span { start: found.start, end: found.end, times }
        });
        Waypoint { shard, base: index.base, begun: index.begun, span }
    }

    /// Where the shard stood when the segment began.
    pub(super) fn start(&self) -> Option<SequenceNumber> {
        self.span.map(|span| span.start)
    }
}

impl Target {
    fn side(self, of: &Waypoint) -> Side {
        match (self, of.span) {
            // A shard that is not in a segment had either not begun or is long gone; the first can't follow the last.
            (Target::Number(_), None) => Side::NotEarlier,
            (Target::Number(from), Some(span)) if span.end <= from => Side::NotEarlier,
            (Target::Number(from), Some(span)) if span.start <= from => Side::Here,
            (Target::Number(_), Some(_)) => Side::NotLater,
            (Target::Made(time), Some(Span { times: Some((first, last)), .. })) => match (first, last) {
                _ if first > time => Side::NotLater,
                _ if last > time => Side::Here,
                _ => Side::NotEarlier,
            },
            (Target::Made(_), _) => Side::Unknown,
            (Target::Begun(time), _) if of.begun < time => Side::NotEarlier,
            (Target::Begun(_), _) => Side::NotLater,
        }
    }

    /// What it is looked for by, here and there.
    fn values(self, there: &Waypoint) -> Option<(u64, u64)> {
        match self {
            Target::Number(from) => there.span.map(|span| (from.0, span.start.0)),
            Target::Made(time) => there.span?.times.map(|(first, _)| (time.0, first.0)),
            Target::Begun(time) => Some((time.0, there.begun.0)),
        }
    }
}

/// A search among sealed segments, oldest first.
#[derive(Debug)]
pub(super) struct Search {
    target: Target,
    /// All before this one are `NotEarlier`, all from `high` on are `NotLater`.
    low: usize,
    high: usize,
    /// The value of the segment before `low`, and that of `high`.
    values: (Option<u64>, Option<u64>),
    wanted: u64,
    guesses: u32,
    found: Option<Found>,
}

impl Search {
    fn new(target: Target, sealed: usize) -> Search {
        Search { target, low: 0, high: sealed, values: (None, None), wanted: 0, guesses: 0, found: None }
    }

    /// How it ended, or which segment to look at next.
    pub(super) fn next(&mut self) -> Result<Found, usize> {
        if let Some(found) = self.found {
            return Ok(found);
        }
        if self.low < self.high {
            return Err(self.guess().unwrap_or(usize::midpoint(self.low, self.high)));
        }
        Ok(match self.target {
            Target::Number(_) => Found::At(self.low),
            Target::Made(_) | Target::Begun(_) => self.low.checked_sub(1).map_or(Found::Nowhere, Found::At),
        })
    }

    /// Where it would be if the values between those that are known grew evenly.
    fn guess(&mut self) -> Option<usize> {
        let (Some(below), Some(above)) = self.values else { return None };
        if self.guesses >= GUESSES || above <= below {
            return None;
        }
        self.guesses += 1;
        // From the segment before `low`.
        let places = (self.high + 1 - self.low) as u128;
        let share = u128::from(self.wanted.saturating_sub(below)) * places / u128::from(above - below);
        let guess = (self.low as u128 + share).saturating_sub(1) as usize;
        Some(guess.clamp(self.low, self.high - 1))
    }

    /// What is known of a segment at a place within the search.
    pub(super) fn told(&mut self, place: usize, waypoint: &Waypoint) {
        let value = self.target.values(waypoint);
        self.wanted = value.map_or(self.wanted, |(wanted, _)| wanted);
        match self.target.side(waypoint) {
            Side::Here => self.found = Some(Found::At(place)),
            Side::Unknown => self.found = Some(Found::Unclear),
            Side::NotEarlier => {
                self.low = place + 1;
                self.values.0 = value.map(|(_, there)| there);
            }
            Side::NotLater => {
                self.high = place;
                self.values.1 = value.map(|(_, there)| there);
            }
        }
    }
}

/// Waypoints of one log, by shard and place.
#[derive(Debug, Default)]
pub(super) struct Waypoints {
    known: Vec<Waypoint>,
}

impl Waypoints {
    fn place(&self, shard: ShardId, base: u64) -> Result<usize, usize> {
        self.known.binary_search_by_key(&(shard, base), |known| (known.shard, known.base))
    }

    pub(super) fn get(&self, shard: ShardId, base: u64) -> Option<Waypoint> {
        self.place(shard, base).ok().map(|place| self.known[place])
    }

    /// Remembers one; `false` where something else was remembered of that segment.
    pub(super) fn note(&mut self, waypoint: Waypoint) -> bool {
        match self.place(waypoint.shard, waypoint.base) {
            Ok(place) => std::mem::replace(&mut self.known[place], waypoint) == waypoint,
            Err(place) => {
                self.known.insert(place, waypoint);
                if self.known.len() > WAYPOINTS_MAX {
                    let mut odd = false;
                    self.known.retain(|_| {
                        odd = !odd;
                        !odd
                    });
                }
                true
            }
        }
    }

    /// Forgets all segments before a place of the log.
    pub(super) fn trim(&mut self, below: u64) {
        self.known.retain(|known| known.base >= below);
    }

    /// A search that has gone as far as what is remembered goes.
    pub(super) fn search(&self, shard: ShardId, target: Target, sealed: &[SegmentInfo]) -> Search {
        let mut search = Search::new(target, sealed.len());
        let (Some(first), Some(last)) = (sealed.first(), sealed.last()) else { return search };
        let rank = |known: &Waypoint, base: u64| (known.shard, known.base) < (shard, base);
        let mut low = self.known.partition_point(|known| rank(known, first.base.0));
        let mut high = self.known.partition_point(|known| rank(known, last.base.0.saturating_add(1)));
        while low < high && search.found.is_none() {
            let middle = usize::midpoint(low, high);
            let known = &self.known[middle];
            let Ok(place) = sealed.binary_search_by_key(&known.base, |segment| segment.base.0) else { break };
            search.told(place, known);
            if search.low > place { low = middle + 1 } else { high = middle }
        }
        search
    }
}

#[cfg(test)]
mod tests {
    use disk::{DirName, Position};
    use protocol::rng::Rng;

    use super::*;

    const SHARD: ShardId = ShardId(3);

    /// Segments that follow each other; of each how many records it has, and its batches' times.
    fn log(all: &[(u64, &[u64])]) -> (Vec<SegmentInfo>, Vec<Waypoint>) {
        let file = DirName::new("d").unwrap().file("f").unwrap();
        let mut next = 0;
        let waypoint = |(place, (records, times)): (usize, &(u64, &[u64]))| {
            let start = SequenceNumber(next);
            next += records;
            let ends = times.first().zip(times.last());
            let times = ends.map(|(first, last)| (UnixMs(*first), UnixMs(*last)));
            let span = Some(Span { start, end: SequenceNumber(next), times });
            Waypoint { shard: SHARD, base: 100 * place as u64, begun: UnixMs(10 * place as u64), span }
        };
        let waypoints: Vec<_> = all.iter().enumerate().map(waypoint).collect();
        let info = |w: &Waypoint| SegmentInfo { base: Position(w.base), len: 100, file: file.clone() };
        (waypoints.iter().map(info).collect(), waypoints)
    }

    /// Searches and remembers; also how many segments had to be looked at.
    fn search(
        table: &mut Waypoints,
        target: Target,
        sealed: &[SegmentInfo],
        all: &[Waypoint],
    ) -> (Found, u32) {
        let (mut search, mut asked) = (table.search(SHARD, target, sealed), 0);
        loop {
            let place = match search.next() {
                Ok(found) => return (found, asked),
                Err(place) => place,
            };
            let waypoint = table.get(SHARD, all[place].base).unwrap_or_else(|| {
                asked += 1;
                all[place]
            });
            assert!(table.note(waypoint));
            search.told(place, &waypoint);
        }
    }

    /// As a plain list would be looked through.
    fn plain(target: Target, all: &[Waypoint]) -> Found {
        let last =
            |is: &dyn Fn(&Waypoint) -> bool| all.iter().rposition(is).map_or(Found::Nowhere, Found::At);
        let span = |w: &Waypoint| w.span.unwrap();
        match target {
            Target::Number(from) => {
                Found::At(all.iter().position(|w| span(w).end > from).unwrap_or(all.len()))
            }
            Target::Made(time) => last(&|w| span(w).times.unwrap().0 <= time),
            Target::Begun(time) => last(&|w| w.begun < time),
        }
    }

    #[test]
    fn a_search_finds_what_a_plain_list_would_whatever_is_remembered() {
        for seed in 0..200 {
            let mut rng = Rng::new(seed);
            let mut now = rng.below(50);
            let lengths: Vec<(u64, Vec<u64>)> = (0..rng.between(1, 90))
                .map(|_| {
                    let mut time = || {
                        now += if rng.chance(110) { rng.below(5000) } else { rng.below(4) };
                        now
                    };
                    let times = vec![time(), time(), time()];
                    (rng.below(6) * rng.below(40), times)
                })
                .collect();
            let lengths: Vec<(u64, &[u64])> = lengths.iter().map(|(n, times)| (*n, &times[..])).collect();
            let (sealed, all) = log(&lengths);
            let records: u64 = lengths.iter().map(|(records, _)| records).sum();
            let mut table = Waypoints::default();
            for _ in 0..200 {
                let target = match rng.below(3) {
                    0 => Target::Number(SequenceNumber(rng.below(records + 2))),
                    1 => Target::Made(UnixMs(rng.below(now + 3))),
                    _ => Target::Begun(UnixMs(rng.below(10 * all.len() as u64 + 3))),
                };
                // What is remembered of other shards, and of segments that are gone, says nothing.
                let gone = rng.below(all.len() as u64) as usize;
                let found = search(&mut table, target, &sealed, &all).0;
                assert_eq!(found, plain(target, &all), "seed {seed}: {target:?}");
                table.note(Waypoint { shard: ShardId(rng.below(5) as u32 / 4 * 9), ..all[gone] });
                if rng.chance(50) {
                    table.trim(all[gone].base);
                }
                let found = search(&mut table, target, &sealed[gone..], &all[gone..]).0;
                assert_eq!(
                    found,
                    plain(target, &all[gone..]),
                    "seed {seed}: {target:?} after {gone} are gone"
                );
            }
        }
    }

    #[test]
    fn of_any_number_of_segments_hardly_more_than_one_is_opened_where_numbers_and_times_grow_evenly() {
        let mut rng = Rng::new(1);
        let times: Vec<Vec<u64>> = (0..30_000u64).map(|n| vec![1000 * n, 1000 * n + 900]).collect();
        let lengths: Vec<(u64, &[u64])> =
            times.iter().map(|times| (rng.between(90, 110), &times[..])).collect();
        let (sealed, all) = log(&lengths);
        let mut table = Waypoints::default();
        let mut opened = [0; 2];
        for round in 0..6000 {
            for (which, opened) in opened.iter_mut().enumerate() {
                let target = if which == 0 {
                    Target::Number(SequenceNumber(rng.below(2_900_000)))
                } else {
                    Target::Made(UnixMs(rng.below(30_000_000)))
                };
                let asked = search(&mut table, target, &sealed, &all).1;
                *opened += if round >= 2000 { asked } else { 0 };
            }
        }
        assert!(opened.iter().all(|opened| *opened < 4000 * 3 / 2), "{opened:?} in 4000 searches each");
    }

    #[test]
    fn a_segment_that_says_nothing_of_times_leaves_the_search_by_time_without_an_answer() {
        let (sealed, all) = log(&[(5, &[1, 2]), (5, &[]), (5, &[7, 9])]);
        let mut table = Waypoints::default();
        assert_eq!(search(&mut table, Target::Made(UnixMs(8)), &sealed, &all).0, Found::Unclear);
        assert_eq!(search(&mut table, Target::Number(SequenceNumber(7)), &sealed, &all).0, Found::At(1));
    }

    /// Reaches `WAYPOINTS_MAX`.
    #[test]
    fn so_many_segments_are_remembered_and_then_every_second_one_is_forgotten() {
        let waypoint = |n: u64| Waypoint { shard: SHARD, base: n, begun: UnixMs(0), span: None };
        let mut table = Waypoints::default();
        for n in 0..WAYPOINTS_MAX as u64 {
            assert!(table.note(waypoint(n)));
        }
        assert_eq!(table.known.len(), WAYPOINTS_MAX);
        assert!(table.note(waypoint(WAYPOINTS_MAX as u64)));
        assert_eq!(table.known.len(), WAYPOINTS_MAX / 2);
        assert!(table.get(SHARD, 0).is_none() && table.get(SHARD, 1).is_some());
        assert!(table.known.capacity() * size_of::<Waypoint>() * 100 <= 64_000_000);
        assert!(!table.note(Waypoint { begun: UnixMs(1), ..waypoint(1) }), "it was something else");
        table.trim(1001);
        assert_eq!(table.known.first().map(|known| known.base), Some(1001));
    }
}
