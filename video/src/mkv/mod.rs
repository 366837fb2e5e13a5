//! Takes Matroska (RFC 9559) apart as it comes, as encoders, ffmpeg and the producers of Kinesis Video Streams write it:
//! clusters and segments of unknown size, several documents in a row. Any cut of the bytes gives the same frames. Holds
//! one element, and a few frames whose decode time is not known yet ([`crate::order`]). Never: what becomes of a fragment.

use crate::VideoError;
use crate::cut::{Cut, Cutter};
use crate::lane::{self, Came, Lane};
use crate::limit::{
    CONFIG_BYTES_MAX, FRAME_BYTES_MAX, MKV_HEAD_BYTES_MAX, MKV_SKIP_BYTES_MAX, MKV_TAGS_BYTES_MAX,
    MKV_TIME_MS_MAX,
};

mod block;
mod config;
mod ebml;
mod id;
pub mod write;

use config::Entry;
use ebml::{Element, Head, children};

/// What a document in EBML begins with.
pub const MAGIC: [u8; 4] = [0x1a, 0x45, 0xdf, 0xa3];

/// The tag with which a producer ends a fragment before the next one begins.
const END_OF_FRAGMENT: &str = "AWS_KINESISVIDEO_END_OF_FRAGMENT";

/// What came of some bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// A cluster began: its time in milliseconds, as it says it.
    Begun(i64),
    /// A fragment is whole.
    Cut(Cut),
    /// The cluster of this time is whole, and all of its fragments were told.
    Ended(i64),
}

/// A unit of time of a document, in what fragments count in.
#[derive(Debug, Clone, Copy)]
struct Scale {
    /// Nanoseconds of a unit.
    ns: u64,
    timescale: u32,
}

impl Scale {
    /// Milliseconds and what divides a second are kept as they are; what is finer or odd is kept in microseconds.
    fn new(ns: u64) -> Scale {
        let whole = ns >= 1000 && 1_000_000_000 % ns == 0;
        Scale { ns, timescale: if whole { (1_000_000_000 / ns) as u32 } else { 1_000_000 } }
    }

    fn ticks(self, units: i64) -> i64 {
        (i128::from(units) * i128::from(self.ns) * i128::from(self.timescale) / 1_000_000_000) as i64
    }

    fn ms(self, units: i64) -> i64 {
        (i128::from(units) * i128::from(self.ns) / 1_000_000) as i64
    }

    fn ticks_of_ns(self, ns: u64) -> Option<u32> {
        let ticks = (u128::from(ns) * u128::from(self.timescale) + 500_000_000) / 1_000_000_000;
        u32::try_from(ticks).ok().filter(|ticks| *ticks > 0)
    }
}

#[derive(Debug)]
struct Cluster {
    time: Option<i64>,
    end: Option<u64>,
}

/// Fragments out of the bytes of Matroska.
#[derive(Debug)]
pub struct Demuxer {
    lane: Lane,
    /// What has come and was not used yet.
    buffer: Vec<u8>,
    /// Bytes before the buffer.
    at: u64,
    /// Bytes of an element that nobody needs and that have not come yet.
    skip: u64,
    begun: bool,
    /// Within a segment: where it ends, if that is known.
    segment: Option<Option<u64>>,
    cluster: Option<Cluster>,
    scale: Scale,
    entries: Vec<Entry>,
    by_cluster: bool,
}

impl Demuxer {
    /// What comes is one run of this cutter's.
    #[must_use]
    pub fn new(cutter: Cutter) -> Demuxer {
        Demuxer {
            lane: Lane::new(cutter),
            buffer: Vec::new(),
            at: 0,
            skip: 0,
            begun: false,
            segment: None,
            cluster: None,
            scale: Scale::new(1_000_000),
            entries: Vec::new(),
            by_cluster: false,
        }
    }

    /// The same, of a producer whose clusters are fragments (PutMedia): `start_ms` is added to all times. With `part_ms`
    /// a cluster is given in parts of about so many milliseconds, while it comes.
    #[must_use]
    pub fn by_cluster(run: u64, start_ms: i64, part_ms: Option<u64>) -> Demuxer {
        let cutter = Cutter::shifted_by(run, start_ms.saturating_sub(lane::BIAS_MS));
        Demuxer { by_cluster: true, ..Demuxer::new(cutter.in_parts(part_ms)) }
    }

    /// Takes more bytes, and returns the fragments that they complete.
    ///
    /// # Errors
    /// When they are no Matroska; what was complete before is kept by [`finish`](Self::finish).
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<Cut>) -> Result<(), VideoError> {
        let mut told = Vec::new();
        let pushed = self.push_told(bytes, &mut told);
        out.extend(cuts(told));
        pushed
    }

    /// The same, and tells where clusters begin and end.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn push_told(&mut self, bytes: &[u8], out: &mut Vec<Told>) -> Result<(), VideoError> {
        self.buffer.extend_from_slice(bytes);
        let mut used = 0usize;
        let result = loop {
            match self.step(used, out) {
                Ok(0) => break Ok(()),
                Ok(more) => used += more,
                Err(error) => break Err(error),
            }
        };
        self.buffer.drain(..used);
        self.at += used as u64;
        result
    }

    /// Nothing more comes. Returns the last fragment, and says if something was cut off.
    ///
    /// # Errors
    /// When what came ends in the middle of an element: those frames are not in any fragment.
    pub fn finish(&mut self, out: &mut Vec<Cut>) -> Result<(), VideoError> {
        let mut told = Vec::new();
        let finished = self.finish_told(&mut told);
        out.extend(cuts(told));
        finished
    }

    /// The same, and tells the end of the last cluster.
    ///
    /// # Errors
    /// As [`finish`](Self::finish).
    pub fn finish_told(&mut self, out: &mut Vec<Told>) -> Result<(), VideoError> {
        let (bytes, known) = (self.buffer.len(), self.cluster.as_ref().and_then(|cluster| cluster.end));
        let short = known.or(self.segment.flatten()).is_some_and(|end| end > self.at);
        self.end_cluster(out)?;
        self.lane.finish(out)?;
        if bytes == 0 && self.skip == 0 && !short {
            return Ok(());
        }
        let why = format!("it ends in the middle of an element: its last {bytes} bytes are not kept");
        Err(VideoError::Invalid { at: self.at, why })
    }

    /// Bytes that are held.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.buffer.capacity() + self.lane.held_bytes()
    }

    /// Uses what stands at `from` in the buffer: how many bytes; 0 where more must come.
    fn step(&mut self, from: usize, out: &mut Vec<Told>) -> Result<usize, VideoError> {
        let at = self.at + from as u64;
        let rest = &self.buffer[from..];
        if self.skip > 0 {
            let skipped = (rest.len() as u64).min(self.skip);
            self.skip -= skipped;
            return Ok(skipped as usize);
        }
        let Some(head) = ebml::head(rest, at)? else { return Ok(0) };
        self.check_place(&head, at, out)?;
        let come = self.buffer.len() - from;
        let max = match head.id {
            id::SEGMENT => {
                self.segment = Some(head.size.map(|size| at + head.head as u64 + size));
                return Ok(head.head);
            }
            id::CLUSTER => {
                let end = head.size.map(|size| at + head.head as u64 + size);
                self.cluster = Some(Cluster { time: None, end });
                return Ok(head.head);
            }
            id::EBML | id::INFO => MKV_HEAD_BYTES_MAX,
            id::TIMECODE => 8,
            id::TRACKS => CONFIG_BYTES_MAX,
            id::SIMPLE_BLOCK | id::BLOCK_GROUP => FRAME_BYTES_MAX + MKV_HEAD_BYTES_MAX,
            id::TAGS if head.size <= Some(MKV_TAGS_BYTES_MAX as u64) => MKV_TAGS_BYTES_MAX,
            _ => return self.skip(&head, at),
        };
        let Some(size) = head.size else {
            return Err(invalid(at, "only a Segment and a Cluster have no size"));
        };
        if size > max as u64 {
            return Err(VideoError::TooLarge { what: id::name(head.id), bytes: size, max: max as u64 });
        }
        let whole = head.head + size as usize;
        if come < whole {
            return Ok(0);
        }
        self.take(from + head.head, head, at, out)?;
        Ok(whole)
    }

    /// Whether an element may stand here. Ends what it ends.
    fn check_place(&mut self, head: &Head, at: u64, out: &mut Vec<Told>) -> Result<(), VideoError> {
        if self.cluster.as_ref().and_then(|cluster| cluster.end).is_some_and(|end| at >= end) {
            self.end_cluster(out)?;
        }
        if self.segment.flatten().is_some_and(|end| at >= end) {
            self.segment = None;
        }
        if head.id == id::EBML {
            self.begun = true;
            return self.leave_segment(at, out);
        }
        if !self.begun {
            let why = "it does not begin like Matroska: the EBML header is missing";
            return Err(invalid(at, why));
        }
        let name = id::name(head.id);
        if head.id == id::SEGMENT {
            let again = self.segment.is_some();
            return if again { Err(invalid(at, "a Segment in a Segment")) } else { Ok(()) };
        }
        if name.is_empty() {
            return Err(invalid(at, format!("element {:x} is none of Matroska's here", head.id)));
        }
        if self.segment.is_none() && !id::is_anywhere(head.id) {
            return Err(invalid(at, format!("{name} outside of a Segment")));
        }
        if id::is_in_cluster(head.id) {
            if self.cluster.is_none() {
                return Err(invalid(at, format!("{name} outside of a Cluster")));
            }
        } else if !id::is_anywhere(head.id) {
            if self.cluster.as_ref().is_some_and(|cluster| cluster.end.is_some()) {
                return Err(invalid(at, format!("{name} in a Cluster")));
            }
            self.end_cluster(out)?;
        }
        let end = head.size.map(|size| (at + head.head as u64).saturating_add(size));
        let parent = self.cluster.as_ref().and_then(|cluster| cluster.end).or(self.segment.flatten());
        if let (Some(end), Some(parent)) = (end, parent)
            && end > parent
        {
            return Err(invalid(at, format!("{name} goes on after the end of its parent")));
        }
        if head.id == id::CLUSTER && self.entries.is_empty() {
            return Err(invalid(at, "a Cluster before Tracks has said what is in it"));
        }
        Ok(())
    }

    /// Another document begins.
    fn leave_segment(&mut self, at: u64, out: &mut Vec<Told>) -> Result<(), VideoError> {
        let open = self.cluster.as_ref().and_then(|cluster| cluster.end).or(self.segment.flatten());
        if open.is_some() {
            return Err(invalid(at, "an EBML header within a Segment whose end is not there yet"));
        }
        self.end_cluster(out)?;
        self.segment = None;
        self.entries.clear();
        self.scale = Scale::new(1_000_000);
        Ok(())
    }

    fn end_cluster(&mut self, out: &mut Vec<Told>) -> Result<(), VideoError> {
        match self.cluster.take() {
            Some(Cluster { time: Some(time), .. }) if self.by_cluster => {
                self.lane.end(self.scale.ms(time), out)
            }
            _ => Ok(()),
        }
    }

    fn skip(&mut self, head: &Head, at: u64) -> Result<usize, VideoError> {
        let Some(size) = head.size else {
            return Err(invalid(at, "only a Segment and a Cluster have no size"));
        };
        if size > MKV_SKIP_BYTES_MAX {
            return Err(VideoError::TooLarge {
                what: id::name(head.id),
                bytes: size,
                max: MKV_SKIP_BYTES_MAX,
            });
        }
        self.skip = size;
        Ok(head.head)
    }

    /// An element that is there as a whole, whose content begins at `from`.
    fn take(&mut self, from: usize, head: Head, at: u64, out: &mut Vec<Told>) -> Result<(), VideoError> {
        let size = head.size.unwrap_or(0) as usize;
        // Taken out for as long as it is read: everything else may change meanwhile.
        let buffer = std::mem::take(&mut self.buffer);
        let data = &buffer[from..from + size];
        let element = Element { id: head.id, data, at: at + head.head as u64 };
        let taken = match head.id {
            id::EBML => check_header(&element),
            id::INFO => self.on_info(&element),
            id::TRACKS => self.on_tracks(&element, out),
            id::TIMECODE => self.on_time(&element, out),
            id::TAGS => self.on_tags(&element, out),
            _ => self.on_block(&element, out),
        };
        self.buffer = buffer;
        taken
    }

    fn on_info(&mut self, info: &Element<'_>) -> Result<(), VideoError> {
        for child in children(info.data, info.at) {
            let child = child?;
            if child.id == id::TIMECODE_SCALE {
                let ns = child.uint()?;
                if !(1..=1_000_000_000).contains(&ns) {
                    return Err(invalid(
                        child.at,
                        format!("a TimecodeScale of {ns} ns: 1 to a second are taken"),
                    ));
                }
                self.scale = Scale::new(ns);
            }
        }
        Ok(())
    }

    fn on_tracks(&mut self, element: &Element<'_>, out: &mut Vec<Told>) -> Result<(), VideoError> {
        let read = config::read(element, self.scale.timescale)?;
        let defaults: Vec<Option<u32>> =
            read.entries.iter().map(|entry| self.scale.ticks_of_ns(entry.default_ns)).collect();
        self.lane.set_config(read.config, &read.tracks, &defaults, out)?;
        self.entries = read.entries;
        Ok(())
    }

    fn on_time(&mut self, element: &Element<'_>, out: &mut Vec<Told>) -> Result<(), VideoError> {
        let units = element.uint()?;
        let time = i64::try_from(units).ok().filter(|units| self.scale.ms(*units) <= MKV_TIME_MS_MAX);
        let Some(time) = time else {
            return Err(invalid(element.at, format!("a Timecode of {units}: that is after the year 9999")));
        };
        if let Some(cluster) = &mut self.cluster {
            if cluster.time.is_some() {
                return Err(invalid(element.at, "a second Timecode in a Cluster"));
            }
            cluster.time = Some(time);
        }
        out.push(Told::Begun(self.scale.ms(time)));
        Ok(())
    }

    /// Of all tags only the one that ends a fragment means something here.
    fn on_tags(&mut self, tags: &Element<'_>, out: &mut Vec<Told>) -> Result<(), VideoError> {
        for tag in children(tags.data, tags.at) {
            let tag = tag?;
            for simple in children(tag.data, tag.at).filter(|_| tag.id == id::TAG) {
                let simple = simple?;
                for name in children(simple.data, simple.at).filter(|_| simple.id == id::SIMPLE_TAG) {
                    let name = name?;
                    if name.id == id::TAG_NAME && name.text() == END_OF_FRAGMENT && self.by_cluster {
                        self.end_cluster(out)?;
                        self.lane.close(out)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn on_block(&mut self, element: &Element<'_>, out: &mut Vec<Told>) -> Result<(), VideoError> {
        let time = self.cluster.as_ref().and_then(|cluster| cluster.time);
        let time = time.ok_or_else(|| invalid(element.at, "frames before the Timecode of their Cluster"))?;
        let block = block::read(element)?;
        let place = self.entries.iter().position(|entry| entry.number == block.track);
        let Some(place) = place else {
            let track = u32::try_from(block.track).unwrap_or(u32::MAX);
            return Err(VideoError::UnknownTrack { at: element.at, track });
        };
        let entry = &self.entries[place];
        let each = self.scale.ticks_of_ns(entry.default_ns);
        if block.frames.len() > 1 && each.is_none() {
            let why =
                "several frames in one block, and nothing says how long each lasts: write it without lacing";
            return Err(invalid(element.at, why));
        }
        let said =
            block.duration.map(|units| u32::try_from(self.scale.ticks(units as i64)).unwrap_or(u32::MAX));
        let first = self.scale.ticks(time.saturating_add(i64::from(block.time)));
        let key = block.key || !entry.is_video();
        for (nth, data) in block.frames.iter().enumerate() {
            let pts = first.saturating_add(nth as i64 * i64::from(each.unwrap_or(0)));
            let duration = if block.frames.len() == 1 { said } else { each };
            self.lane.push(&Came { track: place as u8, key, pts, duration, data }, out)?;
        }
        Ok(())
    }
}

fn invalid(at: u64, why: impl Into<String>) -> VideoError {
    VideoError::Invalid { at, why: why.into() }
}

pub(crate) fn cuts(told: Vec<Told>) -> impl Iterator<Item = Cut> {
    told.into_iter().filter_map(|told| if let Told::Cut(cut) = told { Some(cut) } else { None })
}

fn check_header(header: &Element<'_>) -> Result<(), VideoError> {
    for child in children(header.data, header.at) {
        let child = child?;
        let kind = child.text();
        if child.id == id::DOC_TYPE && kind != "matroska" && kind != "webm" {
            return Err(invalid(child.at, format!("a document of type {kind:?}, not matroska")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
