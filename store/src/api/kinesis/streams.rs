//! Operations on streams as a whole.

use protocol::kinesis::ApiError;
use protocol::kinesis::number::Number;
use protocol::kinesis::value::Value;
use protocol::name::StreamName;
use protocol::sequence::ShardId;
use protocol::stream::{CallError, CallErrorCode, Scaling, StreamConfig};
use protocol::time::UnixMs;

use super::marks::{metrics, put_tags};
use super::passing::Status;
use super::{Answer, Call, Found, Result, invalid};
use crate::service::records::Sketch;
use crate::shard::state::Shard;

/// Shards of an account.
pub(super) const SHARDS_MAX: usize = 20_000;
/// Streams of an account in on-demand mode.
const ON_DEMAND_MAX: usize = 50;
/// What a stream gets whose owner does not say.
const SHARDS_DEFAULT: u32 = 4;
const HOUR_MS: u64 = 3_600_000;
const HOURS: std::ops::RangeInclusive<i64> = 24..=8760;
const LIMIT_DEFAULT: i64 = 100;
const ON_DEMAND_MIB: u64 = 4;

impl Call<'_> {
    pub(super) async fn create_stream(&self) -> Result<Answer> {
        let text = self.body.str_of("StreamName").unwrap_or_default();
        let name = self.within(text)?;
        let on_demand = self.mode() == Some("ON_DEMAND");
        let asked = self.body.int_of("ShardCount").filter(|_| !on_demand);
        let shards = asked.map_or(SHARDS_DEFAULT, |count| u32::try_from(count).unwrap_or(u32::MAX));
        let taken = || {
            let message = format!("Stream {text} under account {} already exists.", self.caller.account);
            ApiError::new("ResourceInUseException", message)
        };
        if self.api.passing.status(&name, self.api.clock.mono()).is_some() {
            return Err(taken());
        }
        if self.api.service.sketch(&self.caller.principal, &name).is_ok() {
            return Err(taken());
        }
        self.check_shard_limit(shards as usize)?;
        if on_demand {
            self.check_on_demand_limit()?;
        }
        let scaling = if on_demand { Scaling::OnDemand } else { Scaling::Provisioned };
        let mut config = StreamConfig { scaling, ..StreamConfig::default() };
        if let Some(kib) = self.body.int_of("MaxRecordSizeInKiB") {
            config.record_bytes_max = kib as u32 * 1024;
        }
        // Before it is there, so that nobody sees it active in between.
        self.begin(&name, Status::Creating, None);
        let made = self.api.service.create_stream(&self.caller.principal, &name, shards, config).await;
        made.map_err(|error| if error.code == CallErrorCode::Exists { taken() } else { error.into() })?;
        let tags = self.body.texts_of("Tags");
        let warm = self.body.int_of("WarmThroughputMiBps").map(|mib| mib as u64);
        let keyless = self.body.str_of("RecordDistributionStrategy") == Some("AUTO");
        let principal = &self.caller.principal;
        self.api
            .service
            .change_traits(principal, &name, |traits| {
                (traits.warm_mib, traits.keyless) = (warm, keyless);
                put_tags(&mut traits.tags, tags)
            })
            .await?;
        self.begin(&name, Status::Creating, None);
        Ok(Answer::Nothing)
    }

    pub(super) fn mode(&self) -> Option<&str> {
        self.body.get("StreamModeDetails").and_then(|details| details.str_of("StreamMode"))
    }

    pub(super) fn check_shard_limit(&self, more: usize) -> Result<()> {
        let now = self.open_shards()?;
        if now + more <= SHARDS_MAX {
            return Ok(());
        }
        Err(ApiError::new(
            "LimitExceededException",
            format!(
                "This request would exceed the shard limit for the account {} in {}. Current shard count for the \
                 account: {now}. Limit: {SHARDS_MAX}. Number of additional shards that would have resulted from \
                 this request: {more}. Refer to the AWS Service Limits page \
                 (http://docs.aws.amazon.com/general/latest/gr/aws_service_limits.html) for current limits and \
                 how to request higher limits.",
                self.caller.account, self.caller.region
            ),
        ))
    }

    pub(super) fn check_on_demand_limit(&self) -> Result<()> {
        let now = self.all()?.iter().filter(|found| is_on_demand(&found.sketch)).count();
        if now < ON_DEMAND_MAX {
            return Ok(());
        }
        let account = &self.caller.account;
        let message = format!("Account {account} has {ON_DEMAND_MAX} streams in on-demand mode already.");
        Err(ApiError::new("LimitExceededException", message))
    }

    fn all(&self) -> Result<Vec<Found>> {
        let names = self.api.service.stream_names(&self.caller.principal)?;
        let mut all: Vec<Found> = names
            .into_iter()
            .filter(|name| self.owns(name))
            .filter_map(|name| self.find_named(name).ok())
            .collect();
        for (name, sketch) in self.api.passing.deleting(self.api.clock.mono()) {
            if self.owns(&name) && !all.iter().any(|found| found.name == name) {
                all.push(Found { name, sketch, status: Status::Deleting });
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    fn open_shards(&self) -> Result<usize> {
        Ok(self.all()?.iter().map(|found| open_count(&found.sketch)).sum())
    }

    pub(super) async fn delete_stream(&self) -> Result<Answer> {
        let found = self.find()?;
        if found.status == Status::Deleting {
            return Err(self.not_active(&found.name, found.status));
        }
        let enforced = self.body.bool_of("EnforceConsumerDeletion") == Some(true);
        if !found.sketch.traits.consumers.is_empty() && !enforced {
            let message = format!(
                "Stream {} under account {} has registered consumers; set EnforceConsumerDeletion to true, or \
                 deregister them first.",
                found.name.local(),
                self.caller.account
            );
            return Err(ApiError::new("ResourceInUseException", message));
        }
        match self.api.service.delete_stream(&self.caller.principal, &found.name).await {
            Err(CallError { code: CallErrorCode::NotFound, .. }) => {
                return Err(self.stream_not_found(found.name.local()));
            }
            done => done?,
        }
        self.begin(&found.name, Status::Deleting, Some(found.sketch));
        Ok(Answer::Nothing)
    }

    pub(super) fn describe_stream(&self) -> Result<Answer> {
        let found = self.find()?;
        let limit = self.body.int_of("Limit").unwrap_or(LIMIT_DEFAULT) as usize;
        let after = self.body.str_of("ExclusiveStartShardId").and_then(shard_id);
        let creating = found.status == Status::Creating;
        let shards: Vec<_> = found.sketch.shards.1.iter().filter(|_| !creating).collect();
        let rest: Vec<_> =
            shards.into_iter().filter(|(id, _)| after.is_none_or(|after| **id > after)).collect();
        let more = rest.len() > limit;
        let shown = rest.into_iter().take(limit).map(|(id, shard)| describe_shard(*id, shard)).collect();
        let Value::Map(mut members) = self.described(&found) else { return Ok(Answer::Nothing) };
        members.push(("Shards".into(), Value::List(shown)));
        members.push(("HasMoreShards".into(), more.into()));
        Ok(Answer::Value(Value::map([("StreamDescription", Value::Map(members))])))
    }

    pub(super) fn describe_summary(&self) -> Result<Answer> {
        let found = self.find()?;
        let traits = &found.sketch.traits;
        let open = if found.status == Status::Creating { 0 } else { open_count(&found.sketch) };
        let Value::Map(mut members) = self.described(&found) else { return Ok(Answer::Nothing) };
        let mut put = |name: &'static str, value: Value<'static>| {
            if value != Value::Null {
                members.push((name.into(), value));
            }
        };
        put("OpenShardCount", open.into());
        put("ConsumerCount", traits.consumers.len().into());
        put("MaxRecordSizeInKiB", Value::from(u64::from(found.sketch.config.record_bytes_max / 1024)));
        put("WarmThroughput", warm(traits.warm_mib));
        let strategy = if traits.keyless { "AUTO" } else { "USER_PARTITION_KEY" };
        put("RecordDistributionStrategy", strategy.into());
        put("ChannelCount", 0usize.into());
        put("QueueCount", 0usize.into());
        Ok(Answer::Value(Value::map([("StreamDescriptionSummary", Value::Map(members))])))
    }

    fn described(&self, found: &Found) -> Value<'static> {
        let Found { name, sketch, status } = found;
        let key = sketch.traits.encryption_key.clone();
        Value::map([
            ("StreamName", name.local().into()),
            ("StreamARN", self.arn(name.local()).to_string().into()),
            ("StreamStatus", status.text().into()),
            ("StreamModeDetails", mode_details(sketch)),
            ("RetentionPeriodHours", (sketch.config.retention_ms / HOUR_MS).into()),
            ("StreamCreationTimestamp", UnixMs(sketch.created.0 / 1000 * 1000).into()),
            (
                "EnhancedMonitoring",
                Value::List(vec![Value::map([("ShardLevelMetrics", metrics(&sketch.traits.metrics))])]),
            ),
            ("EncryptionType", if key.is_some() { "KMS" } else { "NONE" }.into()),
            ("KeyId", key.into()),
        ])
    }

    pub(super) fn list_streams(&self) -> Result<Answer> {
        let limit = self.body.int_of("Limit").unwrap_or(LIMIT_DEFAULT) as usize;
        let after = match self.body.str_of("NextToken") {
            None => self.body.str_of("ExclusiveStartStreamName").map(str::to_owned),
            Some(token) => Some(self.read_token::<1>(token)?[0].clone()),
        };
        let rest = self.all()?;
        let behind = |found: &Found| after.as_deref().is_none_or(|after| found.name.local() > after);
        let rest: Vec<Found> = rest.into_iter().filter(behind).collect();
        let (shown, more) = (&rest[..rest.len().min(limit)], rest.len() > limit);
        let last = shown.last().filter(|_| more).map(|found| self.token(&[found.name.local()]));
        let summaries = shown.iter().map(|found| {
            Value::map([
                ("StreamName", found.name.local().into()),
                ("StreamARN", self.arn(found.name.local()).to_string().into()),
                ("StreamStatus", found.status.text().into()),
                ("StreamModeDetails", mode_details(&found.sketch)),
                ("StreamCreationTimestamp", UnixMs(found.sketch.created.0 / 1000 * 1000).into()),
            ])
        });
        Ok(Answer::Value(Value::map([
            ("StreamNames", Value::List(shown.iter().map(|found| found.name.local().into()).collect())),
            ("HasMoreStreams", more.into()),
            ("NextToken", last.into()),
            ("StreamSummaries", Value::List(summaries.collect())),
        ])))
    }

    pub(super) fn describe_limits(&self) -> Result<Answer> {
        let all = self.all()?;
        let on_demand = all.iter().filter(|found| is_on_demand(&found.sketch)).count();
        Ok(Answer::Value(Value::map([
            ("ShardLimit", SHARDS_MAX.into()),
            ("OpenShardCount", self.open_shards()?.into()),
            ("OnDemandStreamCount", on_demand.into()),
            ("OnDemandStreamCountLimit", ON_DEMAND_MAX.into()),
        ])))
    }

    pub(super) async fn change_retention(&self, longer: bool) -> Result<Answer> {
        let found = self.find_active()?;
        let hours = self.body.int_of("RetentionPeriodHours").unwrap_or_default();
        let now = (found.sketch.config.retention_ms / HOUR_MS) as i64;
        if hours < *HOURS.start() {
            return Err(invalid(
                "Minimum allowed retention period is 24 hours. Requested retention period (".to_owned()
                    + &format!("{hours} hours) is too short."),
            ));
        }
        if hours > *HOURS.end() {
            return Err(invalid(format!(
                "Maximum allowed retention period is {} hours. Requested retention period ({hours} hours) is too long.",
                HOURS.end()
            )));
        }
        if longer && hours < now || !longer && hours > now {
            let (kind, than) = if longer { ("Increase", "longer") } else { ("Decrease", "shorter") };
            return Err(invalid(format!(
                "Requested retention period ({hours} hours) for stream {} can not be {} than existing retention \
                 period ({now} hours). Use {}RetentionPeriod API.",
                found.name.local(),
                if than == "longer" { "shorter" } else { "longer" },
                if kind == "Increase" { "Decrease" } else { "Increase" },
            )));
        }
        let config = StreamConfig { retention_ms: hours as u64 * HOUR_MS, ..found.sketch.config };
        self.configure(&found.name, config).await
    }

    pub(super) async fn update_record_size(&self) -> Result<Answer> {
        let found = self.find_active()?;
        let kib = self.body.int_of("MaxRecordSizeInKiB").unwrap_or(1024);
        let config = StreamConfig { record_bytes_max: kib as u32 * 1024, ..found.sketch.config };
        self.configure(&found.name, config).await
    }

    pub(super) async fn configure(&self, name: &StreamName, config: StreamConfig) -> Result<Answer> {
        self.api.service.update_stream(&self.caller.principal, name, config).await?;
        self.begin(name, Status::Updating, None);
        Ok(Answer::Nothing)
    }

    pub(super) fn token(&self, parts: &[&str]) -> String {
        protocol::kinesis::iterator::token(self.now, parts)
    }

    pub(super) fn read_token<const N: usize>(&self, text: &str) -> Result<[String; N]> {
        let (made, parts) = protocol::kinesis::iterator::parse_token(text)
            .ok_or_else(|| invalid("Invalid NextToken. The token was not made by this operation."))?;
        if self.now.millis_since(made) > protocol::kinesis::iterator::LIFE_MS {
            let message = "NextToken has expired: it can be used for 300 seconds.";
            return Err(ApiError::new("ExpiredNextTokenException", message));
        }
        Ok(parts)
    }
}

pub(super) fn is_on_demand(sketch: &Sketch) -> bool {
    sketch.config.scaling != Scaling::Provisioned
}

fn mode_details(sketch: &Sketch) -> Value<'static> {
    let mode = if is_on_demand(sketch) { "ON_DEMAND" } else { "PROVISIONED" };
    Value::map([("StreamMode", mode.into())])
}

pub(super) fn warm(mib: Option<u64>) -> Value<'static> {
    mib.map_or(Value::Null, |mib| {
        Value::map([("TargetMiBps", mib.into()), ("CurrentMiBps", mib.max(ON_DEMAND_MIB).into())])
    })
}

pub(super) fn open_count(sketch: &Sketch) -> usize {
    sketch.shards.1.values().filter(|shard| shard.closed.is_none()).count()
}

/// `shardId-000000000007`, or only the number.
pub(super) fn shard_id(text: &str) -> Option<ShardId> {
    let digits = text.split_once('-').map_or(text, |(_, digits)| digits);
    let number =
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse::<u32>().ok()).flatten();
    number.filter(|number| i32::try_from(*number).is_ok()).map(ShardId)
}

pub(super) fn hash_range(shard: &Shard) -> Value<'static> {
    Value::map([
        ("StartingHashKey", shard.range.start.to_string().into()),
        ("EndingHashKey", shard.range.end.to_string().into()),
    ])
}

pub(super) fn describe_shard(id: ShardId, shard: &Shard) -> Value<'static> {
    let parent = |place: usize| shard.parents.get(place).map(ToString::to_string).into();
    let ending = shard.closed.map(|_| Number::ending(shard.created, id).text());
    Value::map([
        ("ShardId", id.to_string().into()),
        ("ParentShardId", parent(0)),
        ("AdjacentParentShardId", parent(1)),
        ("HashKeyRange", hash_range(shard)),
        (
            "SequenceNumberRange",
            Value::map([
                ("StartingSequenceNumber", Number::starting(shard.created, id).text().into()),
                ("EndingSequenceNumber", ending.into()),
            ]),
        ),
    ])
}
