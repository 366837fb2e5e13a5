//! SubscribeToShard: records as they come, as events of one long answer, for five minutes.

use std::time::Duration;

use bytes::Bytes;
use protocol::kinesis::event::{put_event, put_exception};
use protocol::kinesis::number::Number;
use protocol::kinesis::value::Value;
use protocol::kinesis::{ApiError, event};
use protocol::sequence::{SequenceNumber, ShardId};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::records::children;
use super::streams::shard_id;
use super::{Answer, Call, Caller, Found, Kinesis, Result};
use crate::api::kinesis::http::Encoding;

/// A subscription lasts this long.
const LIFE: Duration = Duration::from_secs(300);
/// An event comes at least this often.
const QUIET_MS: u64 = 5000;
/// Records and bytes of one event.
const EVENT_MAX: (usize, usize) = (10_000, 1 << 20);
/// Events that wait for a client that does not read.
const WAITING_MAX: usize = 2;

impl Call<'_> {
    pub(super) async fn subscribe_to_shard(&self) -> Result<Answer> {
        let (found, name, _) = self.consumer()?;
        let text = self.body.str_of("ShardId").unwrap_or_default();
        let id = shard_id(text).filter(|id| found.sketch.shards.1.contains_key(id)).ok_or_else(|| {
            let (stream, account) = (&found.name, &self.caller.account);
            let message = format!("Could not find shard {text} in stream {stream} under account {account}.");
            ApiError::new("ResourceNotFoundException", message)
        })?;
        let Some(shard) = found.sketch.shards.1.get(&id) else { return Ok(Answer::Nothing) };
        let position = self.body.get("StartingPosition").cloned().unwrap_or(Value::Null);
        let kind = position.str_of("Type").unwrap_or_default();
        let (sequence, time) = (position.str_of("SequenceNumber"), position.time_of("Timestamp"));
        let from = self.start(&found, id, shard, kind, sequence, time).await?;
        let (events, parts) = mpsc::channel(WAITING_MAX);
        let api = Kinesis {
            service: self.api.service.clone(),
            clock: self.api.clock,
            delay: self.api.delay,
            passing: super::Passing::default(),
        };
        let subscription = Subscription {
            api,
            caller: self.caller.clone(),
            encoding: self.encoding,
            consumer: name,
            found,
            id,
            events,
        };
        tokio::spawn(async move {
            // Whoever hears it is gone by then, or reconnects.
            let _ = timeout(LIFE, Box::pin(subscription.run(from))).await;
        });
        Ok(Answer::Events(parts))
    }
}

struct Subscription {
    api: Kinesis,
    caller: Caller,
    encoding: Encoding,
    consumer: String,
    found: Found,
    id: ShardId,
    events: mpsc::Sender<Bytes>,
}

impl Subscription {
    async fn run(mut self, mut from: SequenceNumber) {
        let mut first = Vec::new();
        let headers = [
            (":event-type", "initial-response"),
            (":content-type", self.encoding.event_type()),
            (":message-type", "event"),
        ];
        event::put(&headers, &self.encoding.bytes(&Value::empty()), &mut first);
        if self.events.send(first.into()).await.is_err() {
            return;
        }
        loop {
            let mut out = Vec::new();
            let ended = match self.next(&mut from).await {
                Ok((value, ended)) => {
                    let payload = self.encoding.bytes(&value);
                    put_event("SubscribeToShardEvent", self.encoding.event_type(), &payload, &mut out);
                    ended
                }
                Err(error) => {
                    let payload = self.encoding.bytes(&Value::map([("message", error.message.into())]));
                    put_exception(error.kind, self.encoding.event_type(), &payload, &mut out);
                    true
                }
            };
            if self.events.send(out.into()).await.is_err() || ended {
                return;
            }
        }
    }

    /// The next event, and whether it is the last.
    async fn next(&mut self, from: &mut SequenceNumber) -> Result<(Value<'static>, bool)> {
        let body = Value::empty();
        let call = Call {
            api: &self.api,
            caller: &self.caller,
            body: &body,
            encoding: self.encoding,
            now: self.api.clock.wall(),
        };
        // What is registered and how shards lie may have changed meanwhile.
        let found = call.find_named(self.found.name.clone())?;
        let same = found.sketch.created == self.found.sketch.created;
        if !same || !found.sketch.traits.consumers.contains_key(&self.consumer) {
            let message = format!("Consumer {} of stream {} is gone.", self.consumer, self.found.name);
            return Err(ApiError::new("ResourceNotFoundException", message));
        }
        let gone = || ApiError::new("ResourceNotFoundException", format!("{} is gone.", self.id));
        let shard = found.sketch.shards.1.get(&self.id).ok_or_else(gone)?;
        let read = call.read(&found, self.id, shard, *from, EVENT_MAX, QUIET_MS).await?;
        *from = read.next;
        // The place before the next record: going on after it misses nothing and repeats nothing.
        let reached = Number { place: read.next.0, ..Number::starting(shard.created, self.id) };
        let reached = Number { arrival_s: call.now.0 / 1000, ..reached };
        let now = call.find_named(self.found.name.clone())?;
        let (children, next) = if read.at_end {
            (children(&now.sketch, self.id), Value::Null)
        } else {
            (Value::Null, reached.text().into())
        };
        let event = Value::map([
            ("Records", Value::List(read.values)),
            ("ContinuationSequenceNumber", next),
            ("MillisBehindLatest", read.behind_ms.into()),
            ("ChildShards", children),
        ]);
        Ok((event, read.at_end))
    }
}
