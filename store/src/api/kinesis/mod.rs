//! The Kinesis Data Streams API: turns its requests into calls of the service, and the service's words into its own.
//! [`http`] is the connection, [`operator`] the operator's way in; each other module is some operations. What only this API knows of (statuses that pass,
//! the rates of readers) lives in [`passing`] and is gone after a restart.

use protocol::kinesis::ApiError;
use protocol::kinesis::arn::Arn;
use protocol::kinesis::value::Value;
use protocol::name::StreamName;
use protocol::stream::{CallError, CallErrorCode};
use protocol::time::UnixMs;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

use crate::clock::Clock;
use crate::principal::Principal;
use crate::service::Service;
use crate::service::records::Sketch;

mod accounts;
mod consumers;
pub(crate) mod http;
mod linger;
mod marks;
mod operator;
mod passing;
mod records;
mod shards;
mod streams;
mod subscribe;

use http::Encoding;
use passing::{Passing, Status};

/// The API, for all connections.
#[derive(Debug)]
pub(crate) struct Kinesis {
    service: Service,
    clock: Clock,
    delay: Duration,
    home: Home,
    passing: Passing,
}

/// Whose streams have no account and region in their names: those of agents and of `kinesin`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Home {
    pub(crate) account: String,
    pub(crate) region: String,
}

/// Who signed a request.
#[derive(Debug, Clone)]
pub(in crate::api) struct Caller {
    pub(in crate::api) principal: Principal,
    pub(in crate::api) account: String,
    pub(in crate::api) region: String,
    /// The id of the key that it was signed with.
    pub(in crate::api) access_key: String,
}

/// What an operation answers with.
pub(super) enum Answer {
    Nothing,
    Value(Value<'static>),
    Events(mpsc::Receiver<bytes::Bytes>),
    /// A value whose end is not made yet.
    Pieces(mpsc::Receiver<bytes::Bytes>),
}

type Result<T> = std::result::Result<T, ApiError>;

/// One request.
struct Call<'a> {
    api: &'a Arc<Kinesis>,
    caller: &'a Caller,
    body: &'a Value<'a>,
    encoding: Encoding,
    now: UnixMs,
}

/// A stream that a request names.
struct Found {
    name: StreamName,
    sketch: Sketch,
    status: Status,
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new("InvalidArgumentException", message)
}

/// A constraint that only the operation knows.
fn violates(value: &str, member: &str, constraint: &str) -> ApiError {
    let value = if value == "null" { value.to_owned() } else { format!("'{value}'") };
    ApiError::new(
        "ValidationException",
        format!(
            "1 validation error detected: Value {value} at '{member}' failed to satisfy constraint: {constraint}"
        ),
    )
}

impl Kinesis {
    pub(crate) fn new(service: Service, clock: Clock, delay: Duration, home: Home) -> Kinesis {
        Kinesis { service, clock, delay, home, passing: Passing::default() }
    }

    /// The stream of a caller's account and region with this name; `None` where that is no name.
    pub(in crate::api) fn name_within(&self, caller: &Caller, text: &str) -> Option<StreamName> {
        let Caller { account, region, .. } = caller;
        if (account, region) == (&self.home.account, &self.home.region) {
            StreamName::new(text).ok().filter(|name| name.local() == text)
        } else {
            StreamName::within(account, region, text).ok()
        }
    }

    /// Does one operation, whose request was looked at.
    async fn call(
        self: &Arc<Self>,
        name: &str,
        caller: &Caller,
        body: &Value<'_>,
        encoding: Encoding,
    ) -> Result<Answer> {
        let call = Call { api: self, caller, body, encoding, now: self.clock.wall() };
        if body.bool_of("DryRun") == Some(true) {
            return Err(ApiError::new(
                "DryRunOperationException",
                "Request would have succeeded, but DryRun flag is set.",
            ));
        }
        match name {
            "AddTagsToStream" => call.add_tags_to_stream().await,
            "CreateStream" => call.create_stream().await,
            "DecreaseStreamRetentionPeriod" => call.change_retention(false).await,
            "DeleteResourcePolicy" => call.put_policy(false).await,
            "DeleteStream" => call.delete_stream().await,
            "DeregisterStreamConsumer" => call.deregister_consumer().await,
            "DescribeAccountSettings" => call.describe_account_settings(),
            "DescribeLimits" => call.describe_limits(),
            "DescribeStream" => call.describe_stream(),
            "DescribeStreamConsumer" => call.describe_consumer(),
            "DescribeStreamSummary" => call.describe_summary(),
            "DisableEnhancedMonitoring" => call.monitor(false).await,
            "EnableEnhancedMonitoring" => call.monitor(true).await,
            "GetRecords" => call.get_records().await,
            "GetResourcePolicy" => call.get_policy(),
            "GetShardIterator" => call.get_shard_iterator().await,
            "IncreaseStreamRetentionPeriod" => call.change_retention(true).await,
            "ListShards" => call.list_shards(),
            "ListStreamConsumers" => call.list_consumers(),
            "ListStreams" => call.list_streams(),
            "ListTagsForResource" => call.list_tags_for_resource(),
            "ListTagsForStream" => call.list_tags_for_stream(),
            "MergeShards" => call.merge_shards().await,
            "PutRecord" => call.put_record().await,
            "PutRecords" => call.put_records().await,
            "PutResourcePolicy" => call.put_policy(true).await,
            "RegisterStreamConsumer" => call.register_consumer().await,
            "RemoveTagsFromStream" => call.remove_tags_from_stream().await,
            "SplitShard" => call.split_shard().await,
            "StartStreamEncryption" => call.encrypt(true).await,
            "StopStreamEncryption" => call.encrypt(false).await,
            "SubscribeToShard" => call.subscribe_to_shard().await,
            "TagResource" => call.tag_resource().await,
            "UntagResource" => call.untag_resource().await,
            "UpdateAccountSettings" => call.update_account_settings().await,
            "UpdateMaxRecordSize" => call.update_record_size().await,
            "UpdateShardCount" => call.update_shard_count().await,
            "UpdateStreamMode" => call.update_mode().await,
            "UpdateStreamRecordDistributionStrategy" => call.update_strategy().await,
            "UpdateStreamWarmThroughput" => call.update_warm_throughput().await,
            _ => Err(ApiError::new("UnknownOperationException", format!("{name} is not done here yet."))),
        }
    }
}

impl Call<'_> {
    fn arn(&self, stream: &str) -> Arn {
        Arn {
            region: self.caller.region.clone(),
            account: self.caller.account.clone(),
            stream: stream.to_owned(),
            consumer: None,
        }
    }

    fn stream_not_found(&self, stream: &str) -> ApiError {
        let account = &self.caller.account;
        ApiError::new(
            "ResourceNotFoundException",
            format!("Stream {stream} under account {account} not found."),
        )
    }

    fn not_active(&self, name: &StreamName, status: Status) -> ApiError {
        let (account, status) = (&self.caller.account, status.text());
        let message =
            format!("Stream {} under account {account} not ACTIVE, instead in state {status}", name.local());
        ApiError::new("ResourceInUseException", message)
    }

    /// The name in `StreamName`, `StreamARN` or both.
    fn stream_name(&self) -> Result<StreamName> {
        let given = self.body.str_of("StreamName");
        let name = match self.body.str_of("StreamARN") {
            None => given.map(str::to_owned),
            Some(text) => {
                let arn = Arn::parse(text).ok_or_else(|| invalid(format!("{text} is not a stream ARN.")))?;
                if given.is_some_and(|given| given != arn.stream) {
                    return Err(invalid(format!(
                        "StreamName {} and StreamARN {text} do not name the same stream.",
                        given.unwrap_or_default()
                    )));
                }
                self.own(&arn)?;
                Some(arn.stream)
            }
        };
        let name = name.ok_or_else(|| invalid("Either StreamName or StreamARN must be provided."))?;
        self.within(&name)
    }

    /// Whether something is in the caller's account and region.
    fn own(&self, arn: &Arn) -> Result<()> {
        if arn.account == self.caller.account && arn.region == self.caller.region {
            return Ok(());
        }
        let message = format!("Stream {arn} under account {} not found.", self.caller.account);
        Err(ApiError::new("ResourceNotFoundException", message))
    }

    fn find(&self) -> Result<Found> {
        self.find_named(self.stream_name()?)
    }

    /// A stream of the caller's account and region.
    fn within(&self, text: &str) -> Result<StreamName> {
        self.api.name_within(self.caller, text).ok_or_else(|| self.stream_not_found(text))
    }

    fn owns(&self, name: &StreamName) -> bool {
        self.within(name.local()).is_ok_and(|mine| mine == *name)
    }

    /// A stream that was made at `StreamCreationTimestamp`, where the request says it.
    fn find_of_its_time(&self) -> Result<Found> {
        let found = self.find()?;
        let meant = self.body.time_of("StreamCreationTimestamp");
        if meant.is_none_or(|meant| meant.0 / 1000 == found.sketch.created.0 / 1000) {
            return Ok(found);
        }
        Err(self.stream_not_found(found.name.local()))
    }

    fn find_named(&self, name: StreamName) -> Result<Found> {
        if !self.owns(&name) {
            return Err(self.stream_not_found(name.local()));
        }
        let status = self.api.passing.status(&name, self.api.clock.mono());
        if let Some((Status::Deleting, Some(sketch))) = status {
            return Ok(Found { name, sketch: *sketch, status: Status::Deleting });
        }
        let status = status.map_or(Status::Active, |(status, _)| status);
        match self.api.service.sketch(&self.caller.principal, &name) {
            Ok(sketch) => Ok(Found { name, sketch, status }),
            Err(CallError { code: CallErrorCode::NotFound, .. }) => Err(self.stream_not_found(name.local())),
            Err(error) => Err(error.into()),
        }
    }

    /// A stream that nothing is being done to.
    fn find_active(&self) -> Result<Found> {
        let found = self.find()?;
        match found.status {
            Status::Active => Ok(found),
            status => Err(self.not_active(&found.name, status)),
        }
    }

    /// A stream that records can be written to and read from.
    fn find_usable(&self) -> Result<Found> {
        let found = self.find()?;
        match found.status {
            Status::Active | Status::Updating => Ok(found),
            _ => Err(self.stream_not_found(found.name.local())),
        }
    }

    fn begin(&self, name: &StreamName, status: Status, sketch: Option<Sketch>) {
        let now = self.api.clock.mono();
        self.api.passing.begin(name, status, (now, now + self.api.delay), sketch);
    }
}
