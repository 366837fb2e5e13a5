//! Fragments of video: what a stream takes and gives where its batches are fragments. How they are stored is the
//! stream's business, what is in them is the `video` crate's. Never: HTTP, containers, players.

use std::sync::Arc;

use bytes::Bytes;
use protocol::batch::{Batch, lengths};
use protocol::frame::{Frame, HEADER_BYTES, Header};
use protocol::hash::HashKey;
use protocol::limit::{RECORD_BYTES_MAX, STREAM_SHARDS_MAX};
use protocol::name::StreamName;
use protocol::outcome::Outcome;
use protocol::sequence::{SequenceNumber, ShardId};
use protocol::stream::{CallError, CallErrorCode, StreamConfig};
use protocol::time::UnixMs;
use tokio::sync::watch;
use video::cut::Cut;
use video::data::Data;
use video::fragment::{Follows, Fragment, PARTITION_KEY, Sealed, data_of};

use super::drift::{Clocks, Sample, clocks};
use super::streams::{may_command, stopped};
use super::{Open, Service, call_error};
use crate::catalog::Traits;
use crate::log::{LogReader, Peek, ReadError, ReadLimit};
use crate::principal::Principal;
use crate::shard::driver::Stream;
use crate::shard::sequencer::Plain;

/// So much of a batch has its tables and the head of its fragment, mostly.
const PEEK_BYTES: usize = 8 << 10;
/// ... and so much surely.
const PEEK_BYTES_MAX: usize = 512 << 10;

/// What is sent again begins as it did, but for the time that its pictures were reordered by then ...
const REORDER_MS_MAX: u64 = 1000;
/// ... and is as long, but for what its times take.
const TIMES_BYTES_MAX: u64 = 1024;

/// Clocks are compared over what came in so long ...
const CLOCKS_MS: u64 = 24 * 3_600_000;
/// ... in so many places of it ...
const CLOCK_WINDOWS: u64 = 48;
/// ... of which each is so many fragments.
const CLOCK_FRAGMENTS: usize = 8;

/// A fragment as it is stored, without the bytes of its frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its number: that of its first frame.
    pub number: SequenceNumber,
    /// Its place among all fragments of its stream: without gaps.
    pub ordinal: u64,
    /// When it came, by the store's clock.
    pub arrival: UnixMs,
    /// What it holds.
    pub fragment: Arc<Fragment>,
}

impl Stored {
    /// The number after its last frame.
    #[must_use]
    pub fn end(&self) -> SequenceNumber {
        self.number + self.fragment.frames.len() as u64
    }

    /// When it ended and when it came.
    #[must_use]
    pub fn sample(&self) -> Sample {
        let fragment = &self.fragment;
        let timescale = u128::from(fragment.config.timescale(0).unwrap_or(1000));
        let lasts = u128::from(fragment.duration(0)) * 1000 / timescale.max(1);
        let end = UnixMs(fragment.producer_time.0.saturating_add(u64::try_from(lasts).unwrap_or(u64::MAX)));
        Sample { end, arrival: self.arrival }
    }

    /// The place of its segment among all segments of its stream.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.ordinal.saturating_sub(self.fragment.within)
    }
}

/// A whole fragment.
#[derive(Debug, Clone)]
pub struct Whole {
    /// All but the bytes.
    pub stored: Stored,
    batch: Arc<Batch<'static>>,
    head_bytes: usize,
}

impl Whole {
    /// The bytes of each frame.
    #[must_use]
    pub fn data(&self) -> Vec<&[u8]> {
        data_of(&self.batch, self.head_bytes).collect()
    }
}

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The oldest fragment.
    Oldest,
    /// After the newest.
    Newest,
    /// The fragment with this frame.
    Frame(SequenceNumber),
    /// The fragment that was being made at this time, by its producer's clock.
    ProducerTime(UnixMs),
    /// The first fragment that came at this time or later, by the store's clock.
    ServerTime(UnixMs),
}

/// What became of a fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It is durable, and has this number.
    Stored(SequenceNumber),
    /// It was there already: a producer sent it again.
    Again(SequenceNumber),
    /// The stream is over its rate: again after so many milliseconds.
    Later(u32),
}

/// How a stream is set that is made for video: frames of any size, as fast as they come.
#[must_use]
pub fn config() -> StreamConfig {
    StreamConfig {
        shard_rate: None,
        record_bytes_max: RECORD_BYTES_MAX as u32,
        retention_ms: 7 * 24 * 3_600_000,
        ..StreamConfig::default()
    }
}

fn internal(why: impl Into<String>) -> CallError {
    call_error(CallErrorCode::Internal, why)
}

/// When the first frame of a fragment is shown: within it, whichever decode times it was given.
fn shown_first(fragment: &Fragment) -> UnixMs {
    let first = fragment.frames.first();
    let timescale = first.and_then(|frame| fragment.config.timescale(frame.track));
    let (Some(first), Some(timescale)) = (first, timescale) else { return fragment.producer_time };
    UnixMs((i128::from(first.pts().max(0)) * 1000 / i128::from(timescale)) as u64)
}

fn is_same_frame(a: &video::fragment::Frame, b: &video::fragment::Frame) -> bool {
    (a.track, a.key, a.size, a.pts()) == (b.track, b.key, b.size, b.pts())
}

/// The shard that frames go to.
pub(super) fn shard_of(stream: &Stream) -> ShardId {
    let hash = HashKey::of_partition_key(PARTITION_KEY);
    let map = stream.map();
    let mut open = map.1.iter().filter(|(_, shard)| shard.closed.is_none());
    open.find(|(_, shard)| shard.range.contains(hash)).map_or(ShardId(0), |(id, _)| *id)
}

fn fragment_of(peek: &Peek) -> Option<Stored> {
    let header = Header::parse(&peek.start).ok()?;
    let payload = peek.start.get(HEADER_BYTES..)?;
    let (sizes, data_at) = lengths(&header, payload)?;
    let (fragment, _) = Fragment::read(payload.get(data_at..)?, &sizes, header.producer_time).ok()?;
    Some(Stored {
        number: peek.first,
        ordinal: header.batch_no,
        arrival: peek.arrival,
        fragment: Arc::new(fragment),
    })
}

/// What was stored with this frame, and what it is where that is a fragment.
pub(super) fn peek_one(
    stream: &Stream,
    shard: ShardId,
    number: SequenceNumber,
) -> Result<(Option<Peek>, Option<Stored>), ReadError> {
    let mut stored = None;
    let mut peek = None;
    for bytes in [PEEK_BYTES, PEEK_BYTES_MAX] {
        peek = stream.reader().peek(shard, number, 1, bytes)?.into_iter().next();
        stored = peek.as_ref().and_then(fragment_of);
        if peek.is_none() || stored.is_some() {
            break;
        }
    }
    Ok((peek, stored))
}

impl Service {
    pub(super) fn video_stream(&self, principal: &Principal, name: &StreamName) -> Result<Stream, CallError> {
        may_command(principal)?;
        self.find_stream(name)
    }

    /// Makes a stream for video if it is not there.
    ///
    /// # Errors
    /// When the principal may not, or it can't be made.
    pub async fn open_video(&self, principal: &Principal, name: &StreamName) -> Result<(), CallError> {
        if self.find_stream(name).is_ok() {
            return Ok(());
        }
        match self.create_stream(principal, name, 1, config()).await {
            Err(CallError { code: CallErrorCode::Exists, .. }) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => {
                let mark = |traits: &mut Traits| {
                    traits.video.get_or_insert_default();
                    Ok(())
                };
                self.change_traits(principal, name, mark).await
            }
        }
    }

    /// Keeps a fragment. One that is there already (the same frames, made at the same time) is not kept twice.
    ///
    /// # Errors
    /// When the stream is not there or the principal may not; when the stream takes no such frames; when the store
    /// can't now.
    pub async fn put_fragment(
        &self,
        principal: &Principal,
        name: &StreamName,
        cut: &Cut,
    ) -> Result<Kept, CallError> {
        may_command(principal)?;
        let open = self.find(name)?;
        let counted = counted(&open, &cut.fragment).await?;
        let fragment = counted.as_ref().unwrap_or(&cut.fragment);
        let sealed = seal(name, fragment, &cut.data)?;
        self.check_sizes(name, &sealed)?;
        if let Some(number) = known(&open.stream, cut, &sealed.header).await? {
            return Ok(Kept::Again(number));
        }
        let mut payload = Vec::with_capacity(1 + cut.data.pieces().len());
        payload.push(Bytes::from(sealed.front));
        payload.extend_from_slice(cut.data.pieces());
        let Sealed { header, record_bytes_max, .. } = sealed;
        let batch = Plain { header: &header, key: PARTITION_KEY, record_bytes_max, payload: &payload };
        match open.stream.put_plain(&batch).await.ok_or_else(stopped)? {
            Outcome::Stored { parts, .. } => {
                if let [part] = parts.as_slice() {
                    let end = part.first_sequence + u64::from(part.record_count);
                    open.newest.stored(part.shard, end, fragment.within);
                }
                Ok(Kept::Stored(parts.first().map_or(SequenceNumber(0), |part| part.first_sequence)))
            }
            Outcome::Throttled { retry_after_ms, .. } | Outcome::Busy { retry_after_ms } => {
                Ok(Kept::Later(retry_after_ms))
            }
            other => Err(call_error(CallErrorCode::Invalid, format!("stream {name}: {other:?}"))),
        }
    }

    /// A fragment is kept whole or not at all.
    fn check_sizes(&self, name: &StreamName, sealed: &Sealed) -> Result<(), CallError> {
        let (largest, max) = (sealed.record_bytes_max, self.record_bytes_max(name)? as usize);
        if largest <= max {
            return Ok(());
        }
        let message = format!(
            "stream {name} takes records of {max} bytes at most, this frame has up to {largest}: \
             `kinesin stream update {name} --record-bytes-max 10MiB` lets it take frames of any size"
        );
        Err(call_error(CallErrorCode::Invalid, message))
    }

    /// Where a fragment begins that a place means.
    ///
    /// # Errors
    /// When the stream is not there, the principal may not, or the disk can't.
    pub async fn video_place(
        &self,
        principal: &Principal,
        name: &StreamName,
        at: At,
    ) -> Result<SequenceNumber, CallError> {
        may_command(principal)?;
        let stream = self.find_stream(name)?;
        let shard = shard_of(&stream);
        blocking(&stream, move |stream| match at {
            At::Oldest => stream.first(shard),
            At::Newest => Ok(stream.tail(shard)),
            At::Frame(number) => Ok(number.max(stream.begin(shard))),
            At::ProducerTime(time) => stream.reader().at_producer_time(shard, time),
            At::ServerTime(time) => stream.at_time(shard, time),
        })
        .await
    }

    /// Heads of fragments from a frame on, at most `count`. What is no fragment is left out. Also says where to go on.
    ///
    /// # Errors
    /// When the stream is not there, the principal may not, or the disk can't.
    pub async fn fragments(
        &self,
        principal: &Principal,
        name: &StreamName,
        from: SequenceNumber,
        count: usize,
    ) -> Result<(Vec<Stored>, SequenceNumber), CallError> {
        may_command(principal)?;
        let stream = self.find_stream(name)?;
        let shard = shard_of(&stream);
        blocking(&stream, move |stream| {
            let (mut next, mut found) = (from, Vec::new());
            while found.len() < count {
                let peeks = stream.reader().peek(
                    shard,
                    next,
                    (count - found.len()).min(STREAM_SHARDS_MAX),
                    PEEK_BYTES,
                )?;
                let Some(last) = peeks.last() else { break };
                let after = last.end();
                for peek in &peeks {
                    let stored = fragment_of(peek).or_else(|| {
                        let more = stream.reader().peek(shard, peek.first, 1, PEEK_BYTES_MAX).ok()?;
                        fragment_of(more.first()?)
                    });
                    found.extend(stored);
                }
                next = after;
            }
            Ok((found, next))
        })
        .await
    }

    /// The fragment with a frame; `None` where there is none (yet), or something else than video.
    ///
    /// # Errors
    /// When the stream is not there, the principal may not, or what was asked for is damaged.
    pub async fn fragment(
        &self,
        principal: &Principal,
        name: &StreamName,
        number: SequenceNumber,
    ) -> Result<Option<Whole>, CallError> {
        may_command(principal)?;
        let stream = self.find_stream(name)?;
        let shard = shard_of(&stream);
        if number >= stream.tail(shard) {
            return Ok(None);
        }
        read_fragment(&stream, shard, number).await
    }

    /// How the clock of what sends goes against the store's, over the last day that something came.
    ///
    /// # Errors
    /// When the stream is not there, the principal may not, or the disk can't.
    pub async fn video_clocks(&self, principal: &Principal, name: &StreamName) -> Result<Clocks, CallError> {
        let stream = self.video_stream(principal, name)?;
        let shard = shard_of(&stream);
        let windows = blocking(&stream, move |stream| sampled(&**stream.reader(), shard));
        Ok(clocks(&windows.await?))
    }

    /// Changes whenever something was stored in the stream.
    ///
    /// # Errors
    /// When the stream is not there, or the principal may not.
    pub fn video_changes(
        &self,
        principal: &Principal,
        name: &StreamName,
    ) -> Result<watch::Receiver<u64>, CallError> {
        may_command(principal)?;
        Ok(self.find_stream(name)?.committed())
    }
}

/// A fragment as a frame of a stream's log, checked like one that comes from elsewhere.
fn seal(name: &StreamName, fragment: &Fragment, data: &Data) -> Result<Sealed, CallError> {
    let pieces: Vec<&[u8]> = data.pieces().iter().map(AsRef::as_ref).collect();
    let header = Header { stream: name.key(), ..Header::default() };
    let sealed =
        fragment.sealed(PARTITION_KEY, &pieces, header).map_err(|error| internal(error.to_string()))?;
    Header::parse(&sealed.header.encode()).map_err(|error| internal(error.to_string()))?;
    if fragment.data_bytes() != data.len() as u64 {
        return Err(internal("a fragment whose frames are not its bytes"));
    }
    Ok(sealed)
}

/// The fragment with the same frames of the same time. Only what is not newer than all that is kept is looked for.
/// Decode times don't matter: of a container that has none they depend on what came before.
async fn known(stream: &Stream, cut: &Cut, header: &Header) -> Result<Option<SequenceNumber>, CallError> {
    let shard = shard_of(stream);
    let (begun, shown) = (cut.fragment.producer_time, shown_first(&cut.fragment));
    let time = begun.max(shown);
    let newest = stream.reader().newest(shard).filter(|newest| newest.producer_time <= time);
    let found = match newest {
        Some(newest) => Some(newest),
        None => {
            let find = move |stream: &Stream| {
                let at = stream.reader().at_producer_time(shard, time)?;
                stream.reader().peek(shard, at, 1, 0)
            };
            blocking(stream, find).await?.into_iter().next()
        }
    };
    let may_be = |peek: &Peek| {
        peek.count as usize == cut.fragment.frames.len()
            && is_near((u64::from(peek.len), peek.producer_time), (u64::from(header.total_len), begun))
    };
    let Some(peek) = found.filter(may_be) else { return Ok(None) };
    let Some(whole) = read_fragment(stream, shard, peek.first).await? else { return Ok(None) };
    let kept = &whole.stored.fragment;
    let same = kept.frames.iter().zip(&cut.fragment.frames).all(|(a, b)| is_same_frame(a, b))
        && whole.data().concat() == cut.data.to_vec()
        && kept.config == cut.fragment.config;
    Ok(same.then_some(whole.stored.number))
}

async fn read_fragment(
    stream: &Stream,
    shard: ShardId,
    number: SequenceNumber,
) -> Result<Option<Whole>, CallError> {
    let read =
        blocking(stream, move |stream| stream.reader().read(shard, number, ReadLimit { bytes_max: 0 }));
    let read = read.await?;
    let Ok((frame, _)) = Frame::parse_first(&read.frames) else { return Ok(None) };
    let mut batch = Batch::new();
    batch.open(&frame.header, frame.payload).map_err(|error| internal(error.to_string()))?;
    let header = &frame.header;
    let Ok((fragment, head_bytes)) = Fragment::of_batch(&batch, header.producer_time) else {
        return Ok(None);
    };
    let stored = Stored {
        number: header.first_sequence,
        ordinal: header.batch_no,
        arrival: header.arrival,
        fragment: Arc::new(fragment),
    };
    Ok(Some(Whole { stored, batch: Arc::new(batch), head_bytes }))
}

/// Some fragments from each of some places of the last day that something came, evenly by their numbers.
fn sampled(log: &dyn LogReader, shard: ShardId) -> Result<Vec<Vec<Sample>>, ReadError> {
    let last = SequenceNumber(log.tail(shard).0.saturating_sub(1));
    let Some(newest) = log.peek(shard, last, 1, 0)?.pop() else { return Ok(Vec::new()) };
    let since = UnixMs(newest.arrival.0.saturating_sub(CLOCKS_MS));
    let (start, end) = (log.at_time(shard, since)?.0, newest.end().0);
    let (mut windows, mut next) = (Vec::new(), SequenceNumber(start));
    for window in 0..CLOCK_WINDOWS {
        let from = next.max(SequenceNumber(start + end.saturating_sub(start) / CLOCK_WINDOWS * window));
        if from.0 >= end {
            break;
        }
        let peeks = log.peek(shard, from, CLOCK_FRAGMENTS, PEEK_BYTES)?;
        let Some(last) = peeks.last() else { break };
        next = last.end();
        windows.push(peeks.iter().filter_map(fragment_of).map(|stored| stored.sample()).collect());
    }
    Ok(windows)
}

/// A fragment of a stream in which parts are stored says how many there were so far: the newest one knows.
async fn counted(open: &Open, fragment: &Fragment) -> Result<Option<Fragment>, CallError> {
    let stream = &open.stream;
    let shard = shard_of(stream);
    let tail = stream.tail(shard);
    let Some(last) = tail.0.checked_sub(1) else { return Ok(None) };
    let before = match open.newest.within(shard, tail) {
        Some(within) => within,
        None => within_at(stream, shard, SequenceNumber(last)).await?,
    };
    let within = before + u64::from(fragment.follows == Follows::Within);
    Ok((within > 0).then(|| Fragment { within, ..fragment.clone() }))
}

/// What the fragment with this frame says; 0 where it is none.
async fn within_at(stream: &Stream, shard: ShardId, number: SequenceNumber) -> Result<u64, CallError> {
    let stored = blocking(stream, move |stream| Ok(peek_one(stream, shard, number)?.1)).await?;
    Ok(stored.map_or(0, |stored| stored.fragment.within))
}

pub(super) async fn blocking<T: Send + 'static>(
    stream: &Stream,
    work: impl FnOnce(&Stream) -> Result<T, ReadError> + Send + 'static,
) -> Result<T, CallError> {
    let stream = stream.clone();
    let done = tokio::task::spawn_blocking(move || work(&stream)).await;
    done.map_err(|error| internal(error.to_string()))?.map_err(|error| internal(error.to_string()))
}

/// Whether a fragment of this length and time may be another one again.
fn is_near((len, time): (u64, UnixMs), (bytes, begun): (u64, UnixMs)) -> bool {
    len.abs_diff(bytes) <= TIMES_BYTES_MAX && time.0.abs_diff(begun.0) <= REORDER_MS_MAX
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::segment::SegmentStreamLog;
    use crate::log::{Entry, StreamLog};
    use crate::shard::driver::{StateReplay, head_shards};
    use crate::shard::sequencer::{Rules, Sequencer};
    use crate::shard::state::StreamState;

    /// Reaches `TIMES_BYTES_MAX`, `REORDER_MS_MAX`.
    #[test]
    fn what_may_be_the_same_fragment_again_is_as_near_as_its_times_can_differ() {
        let (len, time) = (100_000, 5_000_000);
        let near = |more: u64, later: u64| {
            let there = (len, UnixMs(time));
            let sides = [((len + more), (time + later)), (len - more, time - later)];
            sides.map(|(len, time)| is_near(there, (len, UnixMs(time))))
        };
        assert_eq!(near(TIMES_BYTES_MAX, REORDER_MS_MAX), [true; 2]);
        assert_eq!(near(TIMES_BYTES_MAX + 1, 0), [false; 2]);
        assert_eq!(near(0, REORDER_MS_MAX + 1), [false; 2]);
    }

    /// A log of fragments of two seconds, two of them each minute, by a producer whose clock says this at a time of the store's.
    fn filmed(hours: u64, clock: impl Fn(u64) -> u64) -> Box<dyn StreamLog> {
        let disk = Arc::new(disk::MemoryDisk::new(1));
        let dir = disk::DirName::new("log").unwrap();
        let mut replay = StateReplay::default();
        let (mut log, _) = SegmentStreamLog::open(disk, dir, 1 << 20, head_shards, &mut replay).unwrap();
        let rules = Rules { shard_rate: None, record_bytes_max: 0, observe: false };
        let mut state = StreamState::new(1, UnixMs(1));
        let config = Arc::new(video::fragment::Config::new(vec![0, 0, 0, 8, b'm', b'o', b'o', b'v']));
        for n in 0..hours * 120 {
            let arrival = UnixMs(1_795_176_000_000 + n / 2 * 60_000 + n % 2 * 2000);
            if n % 50 == 0 {
                let head = Sequencer::new(state.clone(), rules).head_frame(arrival, log.durable_end().0);
                log.start_segment(&head).unwrap();
            }
            let begun = clock(arrival.0) - 2000;
            let frame = video::fragment::Frame {
                track: 0,
                key: true,
                dts: begun,
                duration: 2000,
                offset: 0,
                size: 1,
            };
            let fragment = Fragment {
                follows: Follows::Previous,
                run: 1,
                place: n,
                within: 0,
                clock: video::fragment::Clock::Producer,
                producer_time: UnixMs(begun),
                config: config.clone(),
                frames: vec![frame],
            };
            let (first_sequence, durable_below) = (SequenceNumber(n), log.durable_end().0);
            let header = Header {
                shard: ShardId(0),
                first_sequence,
                batch_no: n,
                arrival,
                durable_below,
                ..Header::default()
            };
            let mut bytes = Vec::new();
            let header = fragment.seal(PARTITION_KEY, &[7], header, &mut bytes).unwrap();
            state.apply_data(&header).unwrap();
            log.append(&[&bytes], &[Entry { offset: 0, header }]).unwrap();
            log.sync().unwrap();
        }
        Box::new(log)
    }

    #[test]
    fn a_producer_whose_clock_goes_a_hundred_millionths_fast_or_is_set_is_told_of_what_is_stored() {
        const BEGUN: u64 = 1_795_176_000_000;
        const HOUR: u64 = 3_600_000;
        let told = |log: Box<dyn StreamLog>| clocks(&sampled(&*log.reader(), ShardId(0)).unwrap());
        let fast = told(filmed(30, |time| time + (time - BEGUN) / 10_000));
        let drift = fast.drift.expect("a day is enough");
        assert!((drift.ppm - 100.0).abs() < 1.0 && fast.steps.is_empty(), "{fast:?}");
        // Of the last day only.
        assert!((22 * HOUR..=24 * HOUR).contains(&drift.over_ms), "{fast:?}");
        let set = told(filmed(30, |time| time + if time < BEGUN + 20 * HOUR { 0 } else { HOUR }));
        let [step] = set.steps[..] else { panic!("{set:?}") };
        assert_eq!(step.ms, HOUR as i64);
        assert!(step.before.0.abs_diff(BEGUN + 20 * HOUR) < HOUR, "{set:?}");
        assert!(set.drift.unwrap().ppm.abs() < 0.1, "{set:?}");
        assert_eq!(told(filmed(0, |time| time)), Clocks::default());
    }

    /// Reaches `PEEK_BYTES_MAX`.
    #[test]
    fn the_largest_head_there_is_lies_within_what_is_looked_at() {
        let mut rng = protocol::rng::Rng::new(1);
        // Nothing of it can be made shorter, and no frame is shorter than what says how long it is.
        let moov = (0..video::limit::CONFIG_BYTES_MAX).map(|_| rng.next_u64() as u8).collect();
        let frame = |n: u32| video::fragment::Frame {
            track: 0,
            key: true,
            dts: u64::from(n) << 28,
            duration: (1 << 28) + n,
            offset: (1 << 30) + n as i32,
            size: 1 << 7,
        };
        let fragment = Fragment {
            follows: video::fragment::Follows::Run,
            run: u64::MAX,
            place: u64::MAX,
            within: u64::MAX,
            clock: video::fragment::Clock::Producer,
            producer_time: UnixMs(1),
            config: Arc::new(video::fragment::Config::new(moov)),
            frames: (0..video::limit::FRAGMENT_FRAMES_MAX as u32).map(frame).collect(),
        };
        let data = vec![7; fragment.data_bytes() as usize];
        let mut start = Vec::new();
        fragment.seal(video::fragment::PARTITION_KEY, &data, Header::default(), &mut start).unwrap();
        assert!(start.len() > PEEK_BYTES_MAX);
        let mut seen = |bytes: usize| {
            start.truncate(bytes);
            let (first, start, count) = (SequenceNumber(0), start.clone(), fragment.frames.len() as u32);
            let peek = Peek { first, count, arrival: UnixMs(1), producer_time: UnixMs(1), len: 0, start };
            fragment_of(&peek).is_some_and(|stored| stored.fragment.frames.len() == fragment.frames.len())
        };
        assert!(seen(PEEK_BYTES_MAX) && !seen(PEEK_BYTES));
    }
}
