//! Which segments a playlist or a manifest lists: those of a time that is over, or the newest, and what may still go on.
//! Never: how they are written.

use std::sync::Arc;

use protocol::sequence::SequenceNumber;
use protocol::time::UnixMs;
use video::codec::{Track, tracks};

use super::frames::FRAGMENTS_MAX;
use super::{Call, Result, not_found};
use crate::service::segments::{Segment, together};
use crate::service::video::At;

/// Segments of a list that is live, where nothing is said.
const WINDOW_DEFAULT: u64 = 6;
/// A list is made of so many fragments and parts at most.
const STORED_MAX: usize = 8 * FRAGMENTS_MAX;
const DAY_S: u64 = 24 * 3600;

/// What a list that is live has.
#[derive(Debug, Clone)]
pub(super) struct Live {
    /// Whole segments, counted without gaps, the newest last.
    pub(super) segments: Vec<Segment>,
    /// The one that may go on.
    pub(super) open: Option<Segment>,
    /// How long parts are, where somebody sends parts now.
    pub(super) part_ms: Option<u64>,
    /// How many times the stream did not go on before this list begins; counted for lists that end with the newest.
    pub(super) breaks: u64,
}

impl Live {
    /// All of them.
    pub(super) fn all(&self) -> impl DoubleEndedIterator<Item = &Segment> + Clone {
        self.segments.iter().chain(&self.open)
    }
}

/// Where a player's times may begin that plays from here on: at midnight, a day or two before, so that no segment of the
/// list comes before it and the addresses of a day are the same for all. Players reckon in floating point: times since 1970
/// are too large for them to be exact to the microsecond, and hls.js moves a first picture to just before zero, where a
/// browser drops it, and all that needs it.
pub(in crate::api) fn base_s(earliest: UnixMs) -> u64 {
    (earliest.0 / 1000 / DAY_S).saturating_sub(1) * DAY_S
}

/// How long a segment lasts, in milliseconds, by its first track.
pub(super) fn lasts_ms(segment: &Segment, tracks: &[Track]) -> u64 {
    let timescale = tracks.first().map_or(1000, |track| track.timescale);
    (u128::from(segment.duration(0)) * 1000 / u128::from(timescale)) as u64
}

impl Call {
    fn nothing(&self) -> super::Failure {
        not_found(format!("stream {} has no video there", self.stream))
    }

    /// The query that goes with every address that is listed.
    pub(super) fn token(&self) -> String {
        self.query.get("token").map(|token| format!("?token={token}")).unwrap_or_default()
    }

    /// The same, where times are told from a base on.
    pub(super) fn token_from(&self, base_s: Option<u64>) -> String {
        let token = self.token();
        let mark = if token.is_empty() { '?' } else { '&' };
        base_s.map(|base_s| format!("{token}{mark}base={base_s}")).unwrap_or(token)
    }

    /// The newest segments, or all from one place on (the newest of those).
    pub(super) async fn live(&self) -> Result<Live> {
        let service = &self.shared.service;
        let most = FRAGMENTS_MAX as u64;
        let since = match self.query.at("from")? {
            Some(at) => {
                let place = service.video_place(&self.principal, &self.stream, at).await?;
                Some(service.segment_start(&self.principal, &self.stream, place).await?)
            }
            None => None,
        };
        let otherwise = if since.is_some() { most } else { WINDOW_DEFAULT };
        let window = self.query.number("window", 2, most)?.unwrap_or(otherwise) as usize;
        let mut part_ms = self.shared.producers.part_ms(&self.stream.key());
        let mut end = self.place("to", At::Newest).await?;
        let mut is_newest = self.query.get("to").is_none() && since.is_none();
        if let Some((by_server, late_ms)) = self.query.replay()? {
            let then = UnixMs(self.shared.clock.wall().0.saturating_sub(late_ms));
            let then = if by_server { At::ServerTime(then) } else { At::ProducerTime(then) };
            end = end.min(service.video_place(&self.principal, &self.stream, then).await?);
            part_ms = None;
            is_newest = false;
        }
        let between = since.unwrap_or(SequenceNumber(0))..end;
        let mut segments = service.segments_before(&self.principal, &self.stream, between, window).await?;
        // Where they are not counted without gaps, a list can only begin after that.
        let from = segments.windows(2).rposition(|two| !two[1].is_next_of(&two[0])).map_or(0, |at| at + 1);
        segments.drain(..from);
        if segments.is_empty() {
            return Err(self.nothing());
        }
        let open = if part_ms.is_some() { segments.pop() } else { None };
        let mut live = Live { segments, open, part_ms, breaks: 0 };
        if is_newest {
            live.breaks = service.breaks_before(&self.principal, &self.stream, live.all())?;
        }
        Ok(live)
    }

    /// The segments from one place to another.
    pub(super) async fn segments_between(&self) -> Result<Vec<Segment>> {
        let place = self.place("from", At::Oldest).await?;
        let start = self.shared.service.segment_start(&self.principal, &self.stream, place).await?;
        let count = self.query.number("count", 1, FRAGMENTS_MAX as u64)?.unwrap_or(FRAGMENTS_MAX as u64);
        let mut segments = together(self.stored_between(start, STORED_MAX).await?);
        segments.truncate(count as usize);
        if segments.is_empty() { Err(self.nothing()) } else { Ok(segments) }
    }
}

/// A segment and its tracks.
pub(super) type Listed<'a> = (&'a Segment, Arc<[Track]>);

/// The tracks of each segment: read once for all that have the same configuration.
pub(super) fn with_tracks<'a>(segments: impl IntoIterator<Item = &'a Segment>) -> Result<Vec<Listed<'a>>> {
    let mut all: Vec<Listed<'a>> = Vec::new();
    for segment in segments {
        let known = all.last().filter(|(last, _)| last.config() == segment.config());
        let tracks = match known {
            Some((_, tracks)) => tracks.clone(),
            None => tracks(segment.config())?.into(),
        };
        all.push((segment, tracks));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_is_a_midnight_a_day_or_two_before() {
        assert_eq!(base_s(UnixMs(20_000 * DAY_S * 1000)), 19_999 * DAY_S);
        assert_eq!(base_s(UnixMs(20_001 * DAY_S * 1000 - 1)), 19_999 * DAY_S);
        assert_eq!([base_s(UnixMs(0)), base_s(UnixMs(1000 * DAY_S))], [0, 0]);
    }
}
