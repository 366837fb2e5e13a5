//! Operations on records: putting them in, and getting them out by iterators.

use std::borrow::Cow;

use protocol::batch::{Batch, check_partition_key};
use protocol::frame::{Frame, HEADER_BYTES};
use protocol::hash::HashKey;
use protocol::kinesis::ApiError;
use protocol::kinesis::iterator::{LIFE_MS, ShardIterator};
use protocol::kinesis::number::Number;
use protocol::kinesis::value::Value;
use protocol::limit;
use protocol::name::StreamName;
use protocol::sequence::{SequenceNumber, ShardId};
use protocol::stream::StartingPosition;
use protocol::time::UnixMs;

use super::streams::{hash_range, shard_id};
use super::{Answer, Call, Found, Result, invalid, violates};
use crate::api::pieces::{self, Gone, PIECE_BYTES, Pieces};
use crate::service::records::{NewRecord, Placed, Sketch};
use crate::shard::state::Shard;

/// Data and keys of one request, and data of one answer.
pub(super) const BYTES_MAX: usize = 10 << 20;
/// Records of one answer.
const RECORDS_MAX: i64 = 10_000;
const THROTTLED: &str = "ProvisionedThroughputExceededException";

/// Records of one shard, as they are answered.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) values: Vec<Value<'static>>,
    pub(super) next: SequenceNumber,
    pub(super) behind_ms: u64,
    pub(super) at_end: bool,
    pub(super) bytes: usize,
    /// There is more, for which there was no room.
    pub(super) full: bool,
}

impl Call<'_> {
    /// A record of a request, checked.
    fn record<'r>(&self, value: &'r Value<'_>, found: &Found, at: &str) -> Result<NewRecord<'r>> {
        let data = value.blob_of("Data").unwrap_or_default();
        let key = match value.str_of("PartitionKey") {
            Some(key) => key,
            // Any place will do.
            None if found.sketch.traits.keyless => "-",
            None => return Err(violates("null", &format!("{at}partitionKey"), "Member must not be null")),
        };
        check_partition_key(key).map_err(|why| invalid(format!("Invalid PartitionKey: {why}.")))?;
        let explicit = match value.str_of("ExplicitHashKey") {
            None if value.str_of("PartitionKey").is_none() => {
                let mut bytes = [0; 16];
                // Without randomness all land in one place, and nothing else is wrong.
                let _ = getrandom::fill(&mut bytes);
                Some(HashKey(u128::from_le_bytes(bytes)))
            }
            None => None,
            Some(text) => Some(HashKey(text.parse().map_err(|_| {
                invalid(format!(
                    "Invalid ExplicitHashKey. ExplicitHashKey must be in the range: [0, 2^128-1]. Specified value \
                     was {text}"
                ))
            })?)),
        };
        let most = found.sketch.config.record_bytes_max as usize;
        if data.len() > most {
            let shown = format!("java.nio.HeapByteBuffer[pos=0 lim={0} cap={0}]", data.len());
            let rule = format!("Member must have length less than or equal to {most}");
            return Err(violates(&shown, &format!("{at}data"), &rule));
        }
        let hash_key = explicit.unwrap_or_else(|| HashKey::of_partition_key(key));
        Ok(NewRecord { partition_key: key, explicit_hash_key: explicit, hash_key, data })
    }

    fn throttled(&self, stream: &StreamName, shard: ShardId) -> String {
        let stream = stream.local();
        format!("Rate exceeded for shard {shard} in stream {stream} under account {}.", self.caller.account)
    }

    pub(super) async fn put_record(&self) -> Result<Answer> {
        let found = self.find_usable()?;
        let record = self.record(self.body, &found, "")?;
        if let Some(text) = self.body.str_of("SequenceNumberForOrdering") {
            let good =
                text == "0" || Number::parse(text).is_some_and(|n| n.arrival_s <= self.now.0 / 1000 + 1);
            if !good {
                return Err(invalid(format!(
                    "ExclusiveMinimumSequenceNumber {text} used in PutRecord on stream {} under account {} is \
                     invalid.",
                    found.name.local(),
                    self.caller.account
                )));
            }
        }
        let (placed, arrival) =
            self.api.service.put_records(&self.caller.principal, &found.name, &[record]).await?;
        match placed.first() {
            Some(Placed::Stored { shard, created, sequence }) => Ok(Answer::Value(Value::map([
                ("ShardId", shard.to_string().into()),
                ("SequenceNumber", Number::of(*created, *shard, *sequence, arrival).text().into()),
                ("EncryptionType", encryption(&found.sketch)),
            ]))),
            Some(Placed::Throttled { shard }) => {
                Err(ApiError::new(THROTTLED, self.throttled(&found.name, *shard)))
            }
            None => Ok(Answer::Nothing),
        }
    }

    pub(super) async fn put_records(&self) -> Result<Answer> {
        let found = self.find_usable()?;
        let values = self.body.list_of("Records");
        let mut records = Vec::with_capacity(values.len());
        let mut bytes = 0;
        for (place, value) in values.iter().enumerate() {
            let record = self.record(value, &found, "").map_err(|error| self.in_list(error, place))?;
            bytes += record.data.len() + record.partition_key.len();
            records.push(record);
        }
        check_bytes(bytes)?;
        let (placed, arrival) =
            self.api.service.put_records(&self.caller.principal, &found.name, &records).await?;
        let mut failed = 0usize;
        let results = placed.iter().map(|placed| match placed {
            Placed::Stored { shard, created, sequence } => Value::map([
                ("SequenceNumber", Number::of(*created, *shard, *sequence, arrival).text().into()),
                ("ShardId", shard.to_string().into()),
            ]),
            Placed::Throttled { shard } => {
                failed += 1;
                Value::map([
                    ("ErrorCode", THROTTLED.into()),
                    ("ErrorMessage", self.throttled(&found.name, *shard).into()),
                ])
            }
        });
        let results = Value::List(results.collect());
        Ok(Answer::Value(Value::map([
            ("FailedRecordCount", failed.into()),
            ("Records", results),
            ("EncryptionType", encryption(&found.sketch)),
        ])))
    }

    /// Says which record of the list it was.
    fn in_list(&self, error: ApiError, place: usize) -> ApiError {
        let message = ["partitionKey", "data"].iter().fold(error.message, |text, member| {
            text.replace(&format!(" at '{member}'"), &format!(" at 'records.{}.member.{member}'", place + 1))
        });
        ApiError { message, ..error }
    }

    fn shard_missing(&self, stream: &str, shard: ShardId) -> ApiError {
        let account = &self.caller.account;
        let message = format!("Shard {shard} in stream {stream} under account {account} does not exist");
        ApiError::new("ResourceNotFoundException", message)
    }

    pub(super) async fn get_shard_iterator(&self) -> Result<Answer> {
        let name = self.stream_name()?;
        let text = self.body.str_of("ShardId").unwrap_or_default();
        let id = shard_id(text).ok_or_else(|| {
            let account = &self.caller.account;
            let message =
                format!("Could not find shard {text} in stream {} under account {account}.", name.local());
            ApiError::new("ResourceNotFoundException", message)
        })?;
        let found = self.find_usable().map_err(|error| match error.kind {
            "ResourceNotFoundException" => self.shard_missing(name.local(), id),
            _ => error,
        })?;
        let shard = found.sketch.shards.1.get(&id).ok_or_else(|| self.shard_missing(name.local(), id))?;
        let kind = self.body.str_of("ShardIteratorType").unwrap_or_default();
        let sequence = self.body.str_of("StartingSequenceNumber");
        let start = self.start(&found, id, shard, kind, sequence, self.body.time_of("Timestamp")).await?;
        let iterator = self.iterator(&found, id, start);
        Ok(Answer::Value(Value::map([("ShardIterator", iterator.into())])))
    }

    fn iterator(&self, found: &Found, shard: ShardId, from: SequenceNumber) -> String {
        let iterator = ShardIterator {
            made: self.now,
            stream: found.name.as_str().to_owned(),
            stream_created: found.sketch.created,
            shard,
            from,
        };
        iterator.text()
    }

    /// The record that a starting position means.
    pub(super) async fn start(
        &self,
        found: &Found,
        id: ShardId,
        shard: &Shard,
        kind: &str,
        sequence: Option<&str>,
        time: Option<UnixMs>,
    ) -> Result<SequenceNumber> {
        let by_number = matches!(kind, "AT_SEQUENCE_NUMBER" | "AFTER_SEQUENCE_NUMBER");
        if by_number != sequence.is_some() {
            let said = if by_number { "no" } else { "also a" };
            return Err(invalid(format!(
                "Must either specify (1) AT_SEQUENCE_NUMBER or AFTER_SEQUENCE_NUMBER and StartingSequenceNumber or \
                 (2) TRIM_HORIZON or LATEST and no StartingSequenceNumber. Request specified {kind} and {said} \
                 StartingSequenceNumber."
            )));
        }
        let (service, principal) = (&self.api.service, &self.caller.principal);
        let at = |position| service.position(principal, &found.name, id, position);
        match (kind, sequence) {
            ("TRIM_HORIZON", _) => Ok(shard.first),
            ("AT_TIMESTAMP", _) => {
                let time = time.ok_or_else(|| {
                    invalid("Must specify timestampInMillis parameter for iterator of type AT_TIMESTAMP. Current request has no timestamp parameter.")
                })?;
                if time > self.now {
                    return Err(invalid(format!(
                        "The timestampInMillis parameter cannot be greater than the currentTimestampInMillis. \
                         timestampInMillis: {}, currentTimestampInMillis: {}",
                        time.0, self.now.0
                    )));
                }
                self.at_time(found, id, time).await
            }
            (_, Some(text)) => {
                let number = self.number(found, id, shard, text)?;
                let wanted = if kind == "AT_SEQUENCE_NUMBER" { number.at() } else { number.after() };
                // A number that no record has yet means the next record.
                Ok(wanted.max(shard.first).min(at(StartingPosition::Latest).await?))
            }
            _ => Ok(at(StartingPosition::Latest).await?),
        }
    }

    fn number(&self, found: &Found, id: ShardId, shard: &Shard, text: &str) -> Result<Number> {
        let about = || {
            format!(
                "StartingSequenceNumber {text} used in GetShardIterator on shard {id} in stream {} under account {} \
                 is invalid",
                found.name.local(),
                self.caller.account
            )
        };
        let number = Number::parse(text).ok_or_else(|| invalid(format!("{}.", about())))?;
        if number.shard != id {
            return Err(invalid(format!(
                "Invalid StartingSequenceNumber. It encodes {}, while it was used in a call to a shard with {id}",
                number.shard
            )));
        }
        if number.created_s != shard.created.0 / 1000 {
            return Err(invalid(format!("{} because it did not come from this stream.", about())));
        }
        Ok(number)
    }

    /// The first record that arrived at a time or later: the log knows when batches did.
    async fn at_time(&self, found: &Found, id: ShardId, time: UnixMs) -> Result<SequenceNumber> {
        let position = StartingPosition::AtTime(time);
        Ok(self.api.service.position(&self.caller.principal, &found.name, id, position).await?)
    }

    pub(super) async fn get_records(&self) -> Result<Answer> {
        // The service takes it in quotation marks too, as some clients copy it out of JSON.
        let text = self.body.str_of("ShardIterator").unwrap_or_default().trim_matches('"');
        let iterator = ShardIterator::parse(text).ok_or_else(|| invalid("Invalid ShardIterator."))?;
        if self.now.millis_since(iterator.made) > LIFE_MS {
            return Err(ApiError::new(
                "ExpiredIteratorException",
                format!(
                    "Iterator expired. The iterator was created at time {} while right now it is {} which is \
                     further in the future than the tolerated delay of {LIFE_MS} milliseconds.",
                    java_date(iterator.made),
                    java_date(self.now)
                ),
            ));
        }
        if self.body.get("StreamARN").is_some() && self.stream_name()?.as_str() != iterator.stream {
            return Err(invalid("Invalid ShardIterator. It is of another stream than StreamARN."));
        }
        let name = StreamName::new(&iterator.stream).map_err(|_| invalid("Invalid ShardIterator."))?;
        let local = name.local().to_owned();
        let missing = || self.shard_missing(&local, iterator.shard);
        let found = self.find_named(name).map_err(|_| missing())?;
        let shard = found.sketch.shards.1.get(&iterator.shard).ok_or_else(missing)?;
        if found.sketch.created != iterator.stream_created || found.status == super::Status::Deleting {
            return Err(missing());
        }
        let (key, now) = (found.name.key(), self.api.clock.mono());
        if found.sketch.config.shard_rate.is_some() && !self.api.passing.may_read(key, iterator.shard, now) {
            return Err(ApiError::new(THROTTLED, self.throttled(&found.name, iterator.shard)));
        }
        let limit = self.body.int_of("Limit").unwrap_or(RECORDS_MAX) as usize;
        let read = self.read(&found, iterator.shard, shard, iterator.from, (limit, PIECE_BYTES), 0).await?;
        self.api.passing.was_read(key, iterator.shard, read.bytes as u64, now);
        let left = (limit - read.values.len(), BYTES_MAX.saturating_sub(read.bytes));
        if read.full && left.0 > 0 {
            return Ok(self.answer_in_pieces(found, iterator.shard, read, left));
        }
        let rest = self.behind_records(&found, iterator.shard, &read);
        let records = [("Records".into(), Value::List(read.values))];
        Ok(Answer::Value(Value::Map(records.into_iter().chain(rest).collect())))
    }

    /// What an answer says after its records.
    fn behind_records(
        &self,
        found: &Found,
        shard: ShardId,
        read: &Records,
    ) -> Vec<(Cow<'static, str>, Value<'static>)> {
        let next = (!read.at_end).then(|| self.iterator(found, shard, read.next));
        let children = if read.at_end { children(&found.sketch, shard) } else { Value::Null };
        let Value::Map(members) = Value::map([
            ("NextShardIterator", next.into()),
            ("MillisBehindLatest", read.behind_ms.into()),
            ("ChildShards", children),
        ]) else {
            return Vec::new();
        };
        members
    }

    /// The rest of a large answer is read while its beginning is sent, so that it needs no more memory than a small one.
    fn answer_in_pieces(&self, found: Found, id: ShardId, first: Records, left: (usize, usize)) -> Answer {
        let (pieces, parts) = pieces::channel();
        let (api, caller, encoding, now) = (self.api.clone(), self.caller.clone(), self.encoding, self.now);
        tokio::spawn(async move {
            let body = Value::empty();
            let call = Call { api: &api, caller: &caller, body: &body, encoding, now };
            // Whoever does not read on has no use for the rest.
            let _ = Box::pin(call.send_pieces(&found, id, first, left, &pieces)).await;
        });
        Answer::Pieces(parts)
    }

    async fn send_pieces(
        &self,
        found: &Found,
        id: ShardId,
        mut read: Records,
        (mut records, mut bytes): (usize, usize),
        pieces: &Pieces,
    ) -> std::result::Result<(), Gone> {
        let mut out = self.encoding.list_head("Records");
        let mut begun = false;
        loop {
            self.encoding.list_items(&std::mem::take(&mut read.values), begun, &mut out);
            begun = true;
            let Some(shard) = found.sketch.shards.1.get(&id) else { break };
            if !read.full || records == 0 || bytes == 0 {
                break;
            }
            pieces.send(std::mem::take(&mut out)).await?;
            // What can't be read now, the next request finds where this one ended.
            let most = (records, bytes.min(PIECE_BYTES));
            let Ok(more) = self.read(found, id, shard, read.next, most, 0).await else { break };
            self.api.passing.was_read(found.name.key(), id, more.bytes as u64, self.api.clock.mono());
            (records, bytes) = (records - more.values.len(), bytes.saturating_sub(more.bytes));
            // One that is larger than what is left would be the first of its piece.
            if bytes == 0 && more.bytes > most.1 {
                break;
            }
            read = more;
        }
        self.encoding.list_tail(&self.behind_records(found, id, &read), &mut out);
        pieces.send(out).await
    }

    /// Records from a place on: at most so many, and so many bytes; waits for the first.
    pub(super) async fn read(
        &self,
        found: &Found,
        id: ShardId,
        shard: &Shard,
        from: SequenceNumber,
        (count_max, bytes_max): (usize, usize),
        wait_ms: u64,
    ) -> Result<Records> {
        let mut records = Records { next: from, ..Records::default() };
        let mut batch = Batch::new();
        loop {
            let left = count_max - records.values.len();
            let room = bytes_max - records.bytes.min(bytes_max);
            let ask = (left * 2048).min(room + room / 4).clamp(64 << 10, limit::READ_BYTES_MAX);
            let at = StartingPosition::At(records.next);
            let wait = if records.values.is_empty() { wait_ms } else { 0 };
            let read = self.api.service.read(&self.caller.principal, &found.name, id, at, ask, wait).await?;
            let empty = read.frames.is_empty();
            let full = take(
                &read.frames,
                id,
                shard,
                found,
                (count_max, bytes_max),
                &mut batch,
                &mut records,
                self.now,
            )?;
            if !full {
                records.next = records.next.max(read.next);
                (records.behind_ms, records.at_end) = (read.behind_ms, read.at_end);
            }
            if full || empty || read.at_end || records.next >= read.tail || records.values.len() >= count_max
            {
                records.at_end &= !full;
                records.full = full;
                return Ok(records);
            }
        }
    }
}

/// Adds the records of frames; whether the answer is full before their end.
#[expect(clippy::too_many_arguments, reason = "one loop's state, in one place")]
fn take(
    mut frames: &[u8],
    id: ShardId,
    shard: &Shard,
    found: &Found,
    (count_max, bytes_max): (usize, usize),
    batch: &mut Batch,
    records: &mut Records,
    now: UnixMs,
) -> Result<bool> {
    let damaged = |why: String| ApiError::new("InternalFailure", why);
    while frames.len() >= HEADER_BYTES {
        let (frame, rest) = Frame::parse_first(frames).map_err(|e| damaged(e.to_string()))?;
        frames = rest;
        batch.open(&frame.header, frame.payload).map_err(|e| damaged(e.to_string()))?;
        let arrival = frame.header.arrival;
        for record in batch.records() {
            let sequence = frame.header.first_sequence + u64::from(record.index);
            if sequence < records.next {
                continue;
            }
            let bytes = record.user_bytes();
            let over = !records.values.is_empty() && records.bytes + bytes > bytes_max;
            if over || records.values.len() >= count_max {
                records.behind_ms = now.millis_since(arrival);
                return Ok(true);
            }
            records.bytes += bytes;
            records.next = sequence + 1;
            records.values.push(Value::map([
                ("SequenceNumber", Number::of(shard.created, id, sequence, arrival).text().into()),
                ("ApproximateArrivalTimestamp", arrival.into()),
                ("Data", Value::Blob(record.data.to_vec().into())),
                ("PartitionKey", record.partition_key.into()),
                ("EncryptionType", encryption(&found.sketch)),
            ]));
        }
    }
    Ok(false)
}

fn encryption(sketch: &Sketch) -> Value<'static> {
    if sketch.traits.encryption_key.is_some() { "KMS".into() } else { Value::Null }
}

/// The shards that go on where one ends.
pub(super) fn children(sketch: &Sketch, parent: ShardId) -> Value<'static> {
    let children = sketch.shards.1.iter().filter(|(_, shard)| shard.parents.contains(&parent));
    let children = children.map(|(id, shard)| {
        let parents = shard.parents.iter().map(|parent| parent.to_string().into()).collect();
        Value::map([
            ("ShardId", id.to_string().into()),
            ("ParentShards", Value::List(parents)),
            ("HashKeyRange", hash_range(shard)),
        ])
    });
    Value::List(children.collect())
}

/// `Thu Jan 22 01:22:02 UTC 2015`.
fn java_date(time: UnixMs) -> String {
    let seconds = i64::try_from(time.0 / 1000).unwrap_or(0);
    let time = jiff::Timestamp::from_second(seconds).unwrap_or_default();
    time.strftime("%a %b %d %H:%M:%S UTC %Y").to_string()
}

/// Data and keys of one request.
fn check_bytes(bytes: usize) -> Result<()> {
    if bytes > BYTES_MAX { Err(invalid("Records size exceeds 10 MB limit")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reaches `BYTES_MAX`.
    #[test]
    fn a_request_has_as_many_bytes_as_it_may_have_and_no_more() {
        assert!(check_bytes(BYTES_MAX).is_ok());
        assert!(check_bytes(BYTES_MAX + 1).unwrap_err().message.contains("10 MB"));
    }
}
