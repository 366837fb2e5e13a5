//! SubscribeToShard: records as they come, as events of one long answer, for five minutes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use protocol::bucket::TokenBucket;
use protocol::kinesis::event::{put_event, put_exception};
use protocol::kinesis::number::Number;
use protocol::kinesis::value::Value;
use protocol::kinesis::{ApiError, event};
use protocol::sequence::{SequenceNumber, ShardId};
use protocol::time::UnixMs;
use tokio::time::timeout;

use super::passing::TAKE_OVER;
use super::records::children;
use super::streams::shard_id;
use super::{Answer, Call, Caller, Found, Kinesis, Result};
use crate::api::kinesis::http::Encoding;
use crate::api::pieces::{self, Pieces};
use crate::catalog::ConsumerEntry;

/// A subscription lasts this long.
const LIFE: Duration = Duration::from_secs(300);
/// An event comes at least this often.
const QUIET_MS: u64 = 5000;
/// Bytes of a shard for one consumer in a second.
const BYTES_PER_SECOND: u64 = 2 << 20;
/// For the last word to somebody who does not read.
const FAREWELL: Duration = Duration::from_secs(5);
/// Records and bytes of one event.
const EVENT_MAX: (usize, usize) = (10_000, 1 << 20);

impl Call<'_> {
    pub(super) async fn subscribe_to_shard(&self) -> Result<Answer> {
        let (found, name, ConsumerEntry { created, .. }) = self.consumer()?;
        let text = self.body.str_of("ShardId").unwrap_or_default();
        let id = shard_id(text).filter(|id| found.sketch.shards.1.contains_key(id)).ok_or_else(|| {
            let (stream, account) = (found.name.local(), &self.caller.account);
            let message = format!("Could not find shard {text} in stream {stream} under account {account}.");
            ApiError::new("ResourceNotFoundException", message)
        })?;
        let Some(shard) = found.sketch.shards.1.get(&id) else { return Ok(Answer::Nothing) };
        let position = self.body.get("StartingPosition").cloned().unwrap_or(Value::Null);
        let kind = position.str_of("Type").unwrap_or_default();
        let (sequence, time) = (position.str_of("SequenceNumber"), position.time_of("Timestamp"));
        let from = self.start(&found, id, shard, kind, sequence, time).await?;
        let place = (found.name.key(), (name.clone(), created), id);
        let now = self.api.clock.mono();
        let turn = self.api.passing.subscribe(place, now).ok_or_else(|| {
            let account = &self.caller.account;
            let stream = found.name.local();
            ApiError::new(
                "ResourceInUseException",
                format!(
                    "Another active subscription exists for this consumer: Consumer {name} of stream {stream} under \
                     account {account}, shard {id}; it can be taken over after {} s.",
                    TAKE_OVER.as_secs()
                ),
            )
        })?;
        let (events, parts) = pieces::channel();
        let bucket =
            found.sketch.config.shard_rate.map(|_| TokenBucket::new(BYTES_PER_SECOND, BYTES_PER_SECOND, now));
        let subscription = Subscription {
            api: self.api.clone(),
            bucket,
            caller: self.caller.clone(),
            encoding: self.encoding,
            consumer: name,
            created,
            found,
            id,
            events,
        };
        let (events, encoding) = (subscription.events.clone(), self.encoding);
        let message = format!("Consumer {} has subscribed to shard {id} again.", subscription.consumer);
        tokio::spawn(async move {
            tokio::select! {
                // Whoever hears it reconnects.
                _ = timeout(LIFE, Box::pin(subscription.run(from))) => {}
                () = events.closed() => {}
                () = turn.taken_over() => {
                    // The last word; somebody who does not read is not waited for.
                    let said = exception(encoding, &ApiError::new("ResourceInUseException", message));
                    let _ = timeout(FAREWELL, events.send_whole(said)).await;
                }
            }
        });
        Ok(Answer::Events(parts))
    }
}

fn exception(encoding: Encoding, error: &ApiError) -> Bytes {
    let mut out = Vec::new();
    let payload = encoding.bytes(&Value::map([("message", error.message.as_str().into())]));
    put_exception(error.kind, encoding.event_type(), &payload, &mut out);
    out.into()
}

struct Subscription {
    api: Arc<Kinesis>,
    /// Bytes that it may have now; `None` without a rate.
    bucket: Option<TokenBucket>,
    caller: Caller,
    encoding: Encoding,
    consumer: String,
    /// When it was registered: one that is registered later is another one.
    created: UnixMs,
    found: Found,
    id: ShardId,
    events: Pieces,
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
        if self.events.send_whole(first).await.is_err() {
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
                    let _ = self.events.send_whole(exception(self.encoding, &error)).await;
                    return;
                }
            };
            if self.events.send_whole(out).await.is_err() || ended {
                return;
            }
        }
    }

    /// What was read too much, keeps the next event waiting.
    async fn wait_for_turn(&mut self) {
        if let Some(bucket) = &mut self.bucket {
            let wait = bucket.wait_for(1, self.api.clock.mono());
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
        }
    }

    /// The stream as it is now, if it is the same one and the consumer is registered as it was.
    fn still(&self, call: &Call<'_>) -> Result<Found> {
        let found = call.find_named(self.found.name.clone())?;
        let consumer = found.sketch.traits.consumers.get(&self.consumer);
        if found.sketch.created == self.found.sketch.created
            && consumer.is_some_and(|entry| entry.created == self.created)
        {
            return Ok(found);
        }
        let message = format!("Consumer {} of stream {} is gone.", self.consumer, self.found.name.local());
        Err(ApiError::new("ResourceNotFoundException", message))
    }

    /// The next event, and whether it is the last.
    async fn next(&mut self, from: &mut SequenceNumber) -> Result<(Value<'static>, bool)> {
        self.wait_for_turn().await;
        let body = Value::empty();
        let call = Call {
            api: &self.api,
            caller: &self.caller,
            body: &body,
            encoding: self.encoding,
            now: self.api.clock.wall(),
        };
        let found = self.still(&call)?;
        let gone = || ApiError::new("ResourceNotFoundException", format!("{} is gone.", self.id));
        let shard = found.sketch.shards.1.get(&self.id).ok_or_else(gone)?;
        let read = call.read(&found, self.id, shard, *from, EVENT_MAX, QUIET_MS).await?;
        // Whoever is not registered any more gets nothing, and that a shard was divided may be new.
        let now = self.still(&call)?;
        *from = read.next;
        if let Some(bucket) = &mut self.bucket {
            bucket.take(read.bytes as u64, self.api.clock.mono());
        }
        // The place before the next record: going on after it misses nothing and repeats nothing.
        let reached = Number { place: read.next.0, ..Number::starting(shard.created, self.id) };
        let reached = Number { arrival_s: call.now.0 / 1000, ..reached };
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
