//! PutMedia: Matroska without end comes, and an acknowledgement of each fragment goes back on the same connection while it
//! does. What is acknowledged as persisted is durable. Never: what a fragment is.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Response;
use hyper::header::HeaderMap;
use protocol::sequence::SequenceNumber;
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use video::VideoError;
use video::cut::Cut;
use video::mkv::{Demuxer, Told};

use super::arn::fragment_number;
use super::{Body, Call, Found, KIND, Result, coming, invalid};
use crate::api::upload::Upload;
use crate::api::video::ingest::{PART_MS, Room};
use crate::service::video::Kept;

/// Silence is told so often ...
const IDLE: Duration = Duration::from_secs(10);
/// ... and ends the connection after so many times.
const IDLES_MAX: u32 = 3;
/// A connection lasts so long (Kinesis Video Streams: 45 min); a producer then makes another one.
const CONNECTION: Duration = Duration::from_secs(45 * 60);
/// Acknowledgements that wait for a producer that does not read them.
const ACKS_MAX: usize = 1024;
/// An acknowledgement, and the end of them, comes so long after the one before.
const ACK_GAP: Duration = Duration::from_millis(20);
/// Acknowledgements come apart unless so many wait: whoever sends faster than that reads them as they come.
const ACKS_APART_MAX: usize = 32;
/// The tag of a stream whose fragments are to be stored in parts: its value is how long they are, in milliseconds.
const PART_TAG: &str = "kinesin:part_ms";
/// For those that wait at the end.
const FAREWELL: Duration = Duration::from_secs(5);
/// Tracks, fragments and everything else that a producer may get wrong has its number; these are the connection's.
const READ_ERROR: (u32, &str) = (4000, "STREAM_READ_ERROR");
const CONNECTION_ERROR: (u32, &str) = (4003, "MAX_CONNECTION_DURATION_REACHED");
const TIMECODE_ERROR: (u32, &str) = (4004, "FRAGMENT_TIMECODE_LESSER_THAN_PREVIOUS");
const INTERNAL_ERROR: (u32, &str) = (5000, "INTERNAL_ERROR");

type Ended = std::result::Result<(), (u32, &'static str)>;

fn of_video(error: &VideoError) -> (u32, &'static str) {
    error.id()
}

/// Seconds since 1970 are what the producer SDK writes, and a date (ISO 8601) the SDK for Java.
fn time_ms(text: &str) -> Option<i64> {
    if let Ok(seconds) = text.parse::<f64>() {
        let is_valid = (0.0..253_402_300_800.0).contains(&seconds);
        return is_valid.then(|| (seconds * 1000.0).round() as i64);
    }
    let time: jiff::Timestamp = text.parse().ok()?;
    Some(time.as_millisecond()).filter(|ms| *ms >= 0)
}

/// What is added to a cluster's times to have the producer's.
fn start_ms(headers: &HeaderMap) -> Result<i64> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    match text("x-amzn-fragment-timecode-type") {
        Some("ABSOLUTE") => Ok(0),
        Some("RELATIVE") => {
            text("x-amzn-producer-start-timestamp").and_then(time_ms).ok_or_else(|| {
                invalid(
                    "x-amzn-producer-start-timestamp: seconds since 1970 or a time such as 2026-11-20T12:00:00.000Z was \
                     expected, as timecodes are RELATIVE",
                )
            })
        }
        other => Err(invalid(format!(
            "x-amzn-fragment-timecode-type is {}: ABSOLUTE and RELATIVE are valid",
            other.unwrap_or("missing")
        ))),
    }
}

/// How long parts are, where the stream's tag says so: what a producer for the service can say without knowing us.
fn part_ms(found: &Found) -> Result<Option<u64>> {
    let Some(text) = found.sketch.traits.tags.get(PART_TAG) else { return Ok(None) };
    let said = text.parse().ok().filter(|ms| (PART_MS.0..=PART_MS.1).contains(ms));
    said.map(Some).ok_or_else(|| {
        let (least, most) = PART_MS;
        invalid(format!("the stream's tag {PART_TAG} is {text:?}: {least} to {most} are valid"))
    })
}

impl Call {
    pub(super) async fn put_media(self, headers: &HeaderMap, body: Upload) -> Result<Response<Body>> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let found = self.find_by(text("x-amzn-stream-name"), text("x-amzn-stream-arn"))?;
        let start = start_ms(headers)?;
        let wanted = text("x-amzn-fragment-acknowledgment-required") != Some("0");
        let mut random = [0; 8];
        // Without randomness two runs look like one, and nothing else is wrong.
        let _ = getrandom::fill(&mut random);
        let part_ms = part_ms(&found)?;
        let demuxer = Demuxer::by_cluster(u64::from_le_bytes(random), start, part_ms);
        let turn = self.shared.producers.begin(found.name.key(), part_ms);
        let room = Room::new(&self.shared);
        let (acks, waiting) = mpsc::channel(ACKS_MAX);
        let (apart, parts) = mpsc::channel(1);
        tokio::spawn(space(waiting, apart, ACK_GAP));
        let run = Run { call: self, found, demuxer, room, acks, wanted, timecode: None, first: None };
        tokio::spawn(Box::pin(run.take(body, turn)));
        Ok(coming(KIND, parts))
    }
}

/// One connection of a producer.
struct Run {
    call: Call,
    found: Found,
    demuxer: Demuxer,
    room: Room,
    acks: mpsc::Sender<Bytes>,
    wanted: bool,
    /// Of the newest cluster.
    timecode: Option<i64>,
    /// The first stored fragment of a cluster.
    first: Option<SequenceNumber>,
}

impl Run {
    async fn take(mut self, mut body: Upload, turn: watch::Receiver<bool>) {
        let ended = match timeout(CONNECTION, self.read(&mut body, turn)).await {
            Ok(ended) => ended,
            Err(_) => Err(CONNECTION_ERROR),
        };
        if let Err((id, code)) = ended {
            let mut told = json!({ "EventType": "ERROR", "ErrorId": id, "ErrorCode": code });
            if let Some(timecode) = self.timecode {
                told["FragmentTimecode"] = timecode.into();
            }
            // One who does not read is not waited for.
            let _ = timeout(FAREWELL, self.acks.send(Bytes::from(told.to_string() + "\n"))).await;
        }
    }

    async fn read(&mut self, body: &mut Upload, mut turn: watch::Receiver<bool>) -> Ended {
        let mut told = Vec::new();
        loop {
            let data = tokio::select! {
                biased;
                _ = turn.wait_for(|over| *over) => return Err(READ_ERROR),
                data = data_of(body, IDLE, || self.tell(json!({ "EventType": "IDLE" }))) => data?,
            };
            let Some(data) = data else { break };
            self.room.hold(self.demuxer.held_bytes() + data.len()).await;
            let pushed = self.demuxer.push_told(&data, &mut told);
            self.keep(&mut told).await?;
            pushed.map_err(|error| of_video(&error))?;
        }
        let finished = self.demuxer.finish_told(&mut told);
        self.keep(&mut told).await?;
        finished.map_err(|error| of_video(&error))
    }

    async fn keep(&mut self, told: &mut Vec<Told>) -> Ended {
        for told in told.drain(..) {
            match told {
                Told::Begun(timecode) => {
                    if self.timecode.is_some_and(|before| timecode < before) {
                        return Err(TIMECODE_ERROR);
                    }
                    self.timecode = Some(timecode);
                    self.tell(json!({ "EventType": "BUFFERING", "FragmentTimecode": timecode }));
                }
                Told::Cut(cut) => {
                    let number = self.store(&cut).await?;
                    self.first.get_or_insert(number);
                }
                Told::Ended(timecode) => {
                    // A cluster without frames is nothing that could be kept.
                    let Some(number) = self.first.take().map(fragment_number) else { continue };
                    for event in ["RECEIVED", "PERSISTED"] {
                        self.tell(json!({
                            "EventType": event, "FragmentTimecode": timecode, "FragmentNumber": number,
                        }));
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns once it is durable.
    async fn store(&mut self, cut: &Cut) -> std::result::Result<SequenceNumber, (u32, &'static str)> {
        loop {
            let service = &self.call.shared.service;
            let kept = service.put_fragment(&self.call.caller.principal, &self.found.name, cut).await;
            match kept.map_err(|_| INTERNAL_ERROR)? {
                Kept::Stored(number) | Kept::Again(number) => return Ok(number),
                Kept::Later(ms) => tokio::time::sleep(Duration::from_millis(u64::from(ms))).await,
            }
        }
    }

    fn tell(&self, event: serde_json::Value) {
        if self.wanted {
            tell(&self.acks, &event);
        }
    }
}

/// The next bytes of a body, `None` at its end; whoever sends it is told of silence.
async fn data_of(
    body: &mut (impl hyper::body::Body<Data = Bytes> + Unpin),
    idle: Duration,
    tell: impl Fn(),
) -> std::result::Result<Option<Bytes>, (u32, &'static str)> {
    for silence in 1.. {
        match timeout(idle, body.frame()).await {
            Ok(None) => return Ok(None),
            // What was not whole comes again: its producer was not told that it is kept.
            Ok(Some(Err(_))) => break,
            Ok(Some(Ok(frame))) => return Ok(Some(frame.into_data().unwrap_or_default())),
            Err(_) if silence >= IDLES_MAX => break,
            Err(_) => tell(),
        }
    }
    Err(READ_ERROR)
}

/// The producer SDK (for Java, 1.12.0) no longer knows whose an acknowledgement is that comes with another one in what it reads,
/// keeps what that says is persisted, and waits for it at the end; and it sees no end that comes with one.
async fn space(mut waiting: mpsc::Receiver<Bytes>, apart: mpsc::Sender<Bytes>, gap: Duration) {
    while let Some(ack) = waiting.recv().await {
        if apart.send(ack).await.is_err() {
            return;
        }
        if waiting.len() < ACKS_APART_MAX {
            tokio::time::sleep(gap).await;
        }
    }
}

/// Whoever wants every one reads as they come.
fn tell(acks: &mpsc::Sender<Bytes>, event: &serde_json::Value) {
    let _ = acks.try_send(Bytes::from(event.to_string() + "\n"));
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::clock::Clock;

    /// Reaches `IDLES_MAX`.
    #[tokio::test]
    async fn a_silent_producer_is_told_so_as_often_as_may_be_and_is_let_go_then() {
        let idles = AtomicU32::new(0);
        let told = || {
            idles.fetch_add(1, Ordering::Relaxed);
        };
        let (to, from) = mpsc::channel(1);
        let mut body = Body::Coming(from);
        to.send(Bytes::from_static(b"x")).await.unwrap();
        let moment = Duration::from_millis(5);
        assert_eq!(data_of(&mut body, IDLE, told).await, Ok(Some(Bytes::from_static(b"x"))));
        assert_eq!(data_of(&mut body, moment, told).await, Err(READ_ERROR));
        assert_eq!(idles.load(Ordering::Relaxed), IDLES_MAX - 1);
        drop(to);
        assert_eq!(data_of(&mut body, IDLE, told).await, Ok(None));
    }

    #[test]
    fn a_producer_begins_at_a_number_of_seconds_or_at_a_date() {
        assert_eq!(time_ms("1795176000.25"), Some(1_795_176_000_250));
        assert_eq!(time_ms("2026-11-20T12:00:00.250Z"), Some(1_795_176_000_250));
        for wrong in ["", "-1", "NaN", "1e15", "1969-12-31T23:59:59Z", "2026-11-20", "yesterday"] {
            assert_eq!(time_ms(wrong), None, "{wrong}");
        }
    }

    /// Reaches `ACKS_APART_MAX`.
    #[tokio::test]
    async fn acknowledgements_come_apart_and_so_does_their_end_unless_too_many_wait() {
        let (acks, waiting) = mpsc::channel(ACKS_MAX);
        let (apart, mut parts) = mpsc::channel(1);
        let gap = Duration::from_millis(30);
        let clock = Clock::start();
        let begun = clock.mono();
        for n in 0..2 {
            tell(&acks, &json!(n));
        }
        drop(acks);
        tokio::spawn(space(waiting, apart, gap));
        for n in 0..3 {
            assert_eq!(parts.recv().await.is_some(), n < 2);
            assert!(clock.mono().since(begun) >= gap * n, "{n}");
        }

        let (acks, waiting) = mpsc::channel(ACKS_MAX);
        let (apart, mut parts) = mpsc::channel(1);
        for n in 0..ACKS_APART_MAX + 3 {
            tell(&acks, &json!(n));
        }
        tokio::spawn(space(waiting, apart, Duration::from_hours(1)));
        for n in 0..4 {
            assert_eq!(parts.recv().await, Some(Bytes::from(format!("{n}\n"))));
        }
        assert!(timeout(gap, parts.recv()).await.is_err());
    }

    /// Reaches `ACKS_MAX`.
    #[test]
    fn as_many_acknowledgements_wait_as_may_and_others_are_left_out() {
        let (acks, parts) = mpsc::channel(ACKS_MAX);
        for n in 0..ACKS_MAX {
            assert_eq!(parts.len(), n);
            tell(&acks, &json!(n));
        }
        tell(&acks, &json!("one more"));
        assert_eq!(parts.len(), ACKS_MAX);
    }
}
