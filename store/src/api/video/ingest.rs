//! Takes fragmented MP4 or Matroska as it comes, and answers for each fragment once it is durable: a line of JSON each, where the
//! request comes in chunks without end; one answer at the end, where its length was said. Never: what a fragment is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body as _;
use hyper::{Response, StatusCode};
use protocol::name::StreamKey;
use protocol::stream::CallError;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use video::VideoError;
use video::container::Demuxer;
use video::cut::{Cut, Cutter};
use video::fragment::Clock;

use super::{Body, Call, Failure, Result, coming, failure, whole};
use crate::api::Shared;
use crate::api::upload::Upload;
use crate::service::video::Kept;

/// A producer that says nothing for so long is gone (Kinesis Video Streams: 30 s).
const SILENCE: Duration = Duration::from_secs(30);
/// Milliseconds of a part: shorter ones cost an `fdatasync` each, longer ones are fragments.
pub(in crate::api) const PART_MS: (u64, u64) = (100, 2000);
/// Lines that wait for a producer that does not read them: more are left out, the last one is not.
const LINES_MAX: usize = 256;
/// For the last line.
const FAREWELL: Duration = Duration::from_secs(5);
/// While there is no memory for what comes.
const WAIT: Duration = Duration::from_millis(50);

/// Who sends to which stream: one producer each, the newest.
#[derive(Debug, Default)]
pub(crate) struct Producers(Mutex<BTreeMap<StreamKey, Producer>>);

#[derive(Debug)]
struct Producer {
    turn: watch::Sender<bool>,
    part_ms: Option<u64>,
}

impl Producers {
    /// The one that was sending until now hears that it is over. `part_ms` is how long its parts are, if it makes parts.
    pub(in crate::api) fn begin(&self, stream: StreamKey, part_ms: Option<u64>) -> watch::Receiver<bool> {
        let mut producers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        producers.retain(|_, producer| producer.turn.receiver_count() > 0);
        let (turn, mine) = watch::channel(false);
        if let Some(before) = producers.insert(stream, Producer { turn, part_ms }) {
            let _ = before.turn.send(true);
        }
        mine
    }

    /// How long parts are, where somebody is sending some now: then what is newest may go on.
    pub(in crate::api) fn part_ms(&self, stream: &StreamKey) -> Option<u64> {
        let producers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let producer = producers.get(stream).filter(|producer| producer.turn.receiver_count() > 0);
        producer.and_then(|producer| producer.part_ms)
    }
}

/// What a run came to.
#[derive(Debug, Default)]
struct Sum {
    fragments: u64,
    frames: u64,
    bytes: u64,
    again: u64,
}

enum End {
    Video(VideoError),
    Call(CallError),
    TakenOver,
    Silent,
    Broken(String),
}

impl From<VideoError> for End {
    fn from(error: VideoError) -> End {
        End::Video(error)
    }
}

impl End {
    /// As the Kinesis Video Streams API numbers them, where it has a number.
    fn told(&self) -> (u32, &'static str, String) {
        match self {
            End::Video(error) => (error.id().0, error.id().1, error.to_string()),
            End::Call(error) => (5000, "INTERNAL_ERROR", error.message.clone()),
            End::TakenOver => {
                (4000, "STREAM_READ_ERROR", "another producer began to send to this stream".to_owned())
            }
            End::Silent => (4000, "STREAM_READ_ERROR", "nothing came for 30 seconds".to_owned()),
            End::Broken(why) => (4000, "STREAM_READ_ERROR", why.clone()),
        }
    }

    fn failure(&self) -> Failure {
        match self {
            End::Call(error) => Failure::from(error.clone()),
            End::TakenOver => failure(StatusCode::CONFLICT, self.told().2),
            End::Silent => failure(StatusCode::REQUEST_TIMEOUT, self.told().2),
            _ => failure(StatusCode::BAD_REQUEST, self.told().2),
        }
    }
}

/// Memory that is held for what came, given back at the end.
pub(in crate::api) struct Room {
    shared: Arc<Shared>,
    held: usize,
}

impl Room {
    pub(in crate::api) fn new(shared: &Arc<Shared>) -> Room {
        Room { shared: shared.clone(), held: 0 }
    }

    /// Holds as much as is needed now; waits where there is none.
    pub(in crate::api) async fn hold(&mut self, bytes: usize) {
        self.shared.pending.give(self.held.saturating_sub(bytes));
        self.held = self.held.min(bytes);
        while self.held < bytes {
            if self.shared.pending.try_take(bytes - self.held) {
                self.held = bytes;
            } else {
                tokio::time::sleep(WAIT).await;
            }
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.shared.pending.give(self.held);
    }
}

struct Run {
    call: Call,
    /// What comes is of now.
    live: bool,
    sum: Sum,
    lines: Option<mpsc::Sender<Bytes>>,
    room: Room,
}

pub(super) async fn take(call: Call, body: Upload) -> Result<Response<Body>> {
    call.shared.service.open_video(&call.principal, &call.stream).await?;
    let now = call.shared.clock.wall();
    let said = call.query.time("producer_time")?;
    let clock = if said.is_some() { Clock::Producer } else { Clock::Arrival };
    let mut random = [0; 8];
    // Without randomness two runs look like one, and nothing else is wrong.
    let _ = getrandom::fill(&mut random);
    let (rate, live) = call.query.rate()?;
    let part_ms = call.query.number("part_ms", PART_MS.0, PART_MS.1)?;
    let cutter = Cutter::new(u64::from_le_bytes(random), said.unwrap_or(now), clock).in_parts(part_ms);
    let demuxer = Demuxer::new(cutter).with_rate(rate).with_pool(call.shared.frames.clone());
    let turn = call.shared.producers.begin(call.stream.key(), part_ms);
    let room = Room::new(&call.shared);
    if body.size_hint().exact().is_some() {
        let mut run = Run { call, live, sum: Sum::default(), lines: None, room };
        let ended = Box::pin(run.take(demuxer, body, turn)).await;
        return match ended {
            Ok(()) => Ok(whole(StatusCode::OK, "application/json", run.last_line(None))),
            Err(end) => {
                let kept = format!("; {} fragments before that are kept", run.sum.fragments);
                let Failure { status, message } = end.failure();
                Err(failure(status, message + &kept))
            }
        };
    }
    let (lines, parts) = mpsc::channel(LINES_MAX);
    tokio::spawn(Box::pin(async move {
        let mut run = Run { call, live, sum: Sum::default(), lines: Some(lines.clone()), room };
        let ended = run.take(demuxer, body, turn).await;
        let last = run.last_line(ended.err().as_ref());
        // One who does not read is not waited for.
        let _ = timeout(FAREWELL, lines.send(last.into())).await;
    }));
    Ok(coming("application/x-ndjson", parts))
}

impl Run {
    async fn take(
        &mut self,
        mut demuxer: Demuxer,
        mut body: Upload,
        mut turn: watch::Receiver<bool>,
    ) -> std::result::Result<(), End> {
        let mut cuts = Vec::new();
        let ended = loop {
            let frame = tokio::select! {
                biased;
                _ = turn.wait_for(|over| *over) => break Err(End::TakenOver),
                frame = timeout(SILENCE, body.frame()) => frame,
            };
            let data = match frame {
                Err(_) => break Err(End::Silent),
                Ok(None) => break Ok(()),
                Ok(Some(Err(error))) => break Err(End::Broken(format!("the connection broke: {error}"))),
                Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
            };
            self.room.hold(demuxer.held_bytes() + data.len()).await;
            if self.live {
                demuxer.handle_time(self.call.shared.clock.wall());
            }
            let pushed = demuxer.push(&data, &mut cuts);
            self.keep(&mut cuts).await?;
            if let Err(error) = pushed {
                break Err(error.into());
            }
        };
        // What was whole when it ended is kept, however it ended.
        let finished = demuxer.finish(&mut cuts);
        self.keep(&mut cuts).await?;
        ended.and(finished.map_err(End::from))
    }

    async fn keep(&mut self, cuts: &mut Vec<Cut>) -> std::result::Result<(), End> {
        for cut in cuts.drain(..) {
            let (number, again) = loop {
                let service = &self.call.shared.service;
                let kept = service.put_fragment(&self.call.principal, &self.call.stream, &cut).await;
                match kept.map_err(End::Call)? {
                    Kept::Stored(number) => break (number, false),
                    Kept::Again(number) => break (number, true),
                    Kept::Later(ms) => tokio::time::sleep(Duration::from_millis(u64::from(ms))).await,
                }
            };
            self.sum.fragments += 1;
            self.sum.again += u64::from(again);
            self.sum.frames += cut.fragment.frames.len() as u64;
            self.sum.bytes += cut.data.len() as u64;
            if let Some(lines) = &self.lines {
                let line = json!({
                    "fragment": number.0, "frames": cut.fragment.frames.len(), "bytes": cut.data.len(),
                    "producer_time_ms": cut.fragment.producer_time.0, "again": again,
                });
                tell(lines, &line);
            }
        }
        Ok(())
    }

    fn last_line(&self, end: Option<&End>) -> Vec<u8> {
        let Sum { fragments, frames, bytes, again } = self.sum;
        let mut line = json!({ "fragments": fragments, "frames": frames, "bytes": bytes, "again": again });
        if let (Some(end), Value::Object(members)) = (end, &mut line) {
            let (id, code, message) = end.told();
            members.insert("error".to_owned(), message.into());
            members.insert("error_id".to_owned(), id.into());
            members.insert("error_code".to_owned(), code.into());
        }
        (line.to_string() + "\n").into_bytes()
    }
}

/// Whoever wants every line reads as they come.
fn tell(lines: &mpsc::Sender<Bytes>, line: &Value) {
    let _ = lines.try_send(Bytes::from(line.to_string() + "\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reaches `LINES_MAX`.
    #[test]
    fn as_many_lines_wait_as_may_and_others_are_left_out() {
        let (lines, parts) = mpsc::channel(LINES_MAX);
        for n in 0..LINES_MAX {
            assert_eq!(parts.len(), n);
            tell(&lines, &json!(n));
        }
        tell(&lines, &json!("one more"));
        assert_eq!(parts.len(), LINES_MAX);
    }
}
