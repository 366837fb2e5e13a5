//! Operations on shards: listing, splitting, merging, scaling.

use protocol::hash::{HashKey, HashKeyRange};
use protocol::kinesis::ApiError;
use protocol::kinesis::value::Value;
use protocol::name::StreamName;
use protocol::sequence::ShardId;
use protocol::time::UnixMs;

use super::passing::Status;
use super::streams::{describe_shard, is_on_demand, open_count, shard_id};
use super::{Answer, Call, Found, Result, invalid};
use crate::service::records::Sketch;
use crate::shard::state::Shard;

/// Shards of one answer.
const LIST_MAX: i64 = 1000;

impl Call<'_> {
    pub(super) fn list_shards(&self) -> Result<Answer> {
        let limit = self.body.int_of("MaxResults").unwrap_or(LIST_MAX).min(LIST_MAX) as usize;
        let (found, after, filter) = match self.body.str_of("NextToken") {
            Some(token) => {
                for other in ["StreamName", "StreamARN", "StreamCreationTimestamp", "ExclusiveStartShardId"] {
                    if self.body.get(other).is_some() {
                        return Err(invalid(format!("NextToken and {other} cannot be provided together.")));
                    }
                }
                let [stream, after, kind, value] = self.read_token(token)?;
                let name = StreamName::new(&stream).map_err(|_| self.stream_not_found(&stream))?;
                (self.find_named(name)?, after.parse().ok().map(ShardId), (kind, value.parse().unwrap_or(0)))
            }
            None => (self.find_of_its_time()?, self.after_shard(), self.filter()?),
        };
        let wanted = self.filtered(&found.sketch, &filter.0, filter.1);
        let rest: Vec<_> = wanted
            .into_iter()
            .filter(|(id, _)| found.status != Status::Creating && after.is_none_or(|after| *id > after))
            .collect();
        let next = rest.get(limit.wrapping_sub(1)).filter(|_| rest.len() > limit).map(|(last, _)| {
            let last = last.0.to_string();
            self.token(&[found.name.as_str(), &last, &filter.0, &filter.1.to_string()])
        });
        let shards = rest.iter().take(limit).map(|(id, shard)| describe_shard(*id, shard)).collect();
        Ok(Answer::Value(Value::map([("Shards", Value::List(shards)), ("NextToken", next.into())])))
    }

    fn after_shard(&self) -> Option<ShardId> {
        self.body.str_of("ExclusiveStartShardId").and_then(shard_id)
    }

    /// Its type, and the shard or the time that goes with it.
    fn filter(&self) -> Result<(String, u64)> {
        let Some(filter) = self.body.get("ShardFilter") else { return Ok((String::new(), 0)) };
        let kind = filter.str_of("Type").unwrap_or_default();
        let value = match kind {
            "AFTER_SHARD_ID" => {
                let text = filter.str_of("ShardId");
                let text = text.ok_or_else(|| invalid("ShardId must be provided for AFTER_SHARD_ID."))?;
                shard_id(text)
                    .map(|id| u64::from(id.0))
                    .ok_or_else(|| invalid(format!("Invalid ShardId {text}.")))?
            }
            "AT_TIMESTAMP" | "FROM_TIMESTAMP" => {
                let time = filter.time_of("Timestamp");
                time.ok_or_else(|| invalid(format!("Timestamp must be provided for {kind}.")))?.0
            }
            _ => 0,
        };
        Ok((kind.to_owned(), value))
    }

    fn filtered<'s>(&self, sketch: &'s Sketch, kind: &str, value: u64) -> Vec<(ShardId, &'s Shard)> {
        let shards = &sketch.shards.1;
        let horizon = UnixMs(self.now.0.saturating_sub(sketch.config.retention_ms)).max(sketch.created);
        // A child says that it is a second younger than its parents; it takes records from when they were closed.
        let born = |shard: &Shard| {
            let closed = shard.parents.iter().filter_map(|parent| shards.get(parent)?.closed).max();
            closed.map_or(shard.created, |closed| closed.min(shard.created))
        };
        let open_at = |shard: &Shard, time: UnixMs| {
            born(shard) <= time && shard.closed.is_none_or(|closed| closed > time)
        };
        let fits = |id: ShardId, shard: &Shard| match kind {
            "AFTER_SHARD_ID" => u64::from(id.0) > value,
            "AT_LATEST" => shard.closed.is_none(),
            "AT_TRIM_HORIZON" => open_at(shard, horizon),
            "AT_TIMESTAMP" => open_at(shard, UnixMs(value).max(horizon)),
            "FROM_TIMESTAMP" => shard.closed.is_none_or(|closed| closed >= UnixMs(value)),
            _ => true,
        };
        shards.iter().filter(|(id, shard)| fits(**id, shard)).map(|(id, shard)| (*id, shard)).collect()
    }

    /// A shard that can be split or merged.
    fn eligible(&self, found: &Found, text: &str) -> Result<ShardId> {
        let (name, account) = (found.name.local(), &self.caller.account);
        let missing = |shown: &str| {
            let message = format!("Could not find shard {shown} in stream {name} under account {account}.");
            ApiError::new("ResourceNotFoundException", message)
        };
        let id = shard_id(text).ok_or_else(|| missing(text))?;
        let shard = found.sketch.shards.1.get(&id).ok_or_else(|| missing(&id.to_string()))?;
        if shard.closed.is_some() {
            return Err(invalid(format!(
                "Shard {id} in stream {name} under account {account} has already been merged or split, and thus is \
                 not eligible for merging or splitting."
            )));
        }
        Ok(id)
    }

    pub(super) async fn split_shard(&self) -> Result<Answer> {
        let found = self.find()?;
        self.must_be_provisioned(&found)?;
        let id = self.eligible(&found, self.body.str_of("ShardToSplit").unwrap_or_default())?;
        self.check_shard_limit(1)?;
        let text = self.body.str_of("NewStartingHashKey").unwrap_or_default();
        let range = found.sketch.shards.1.get(&id).map_or(HashKeyRange::ALL, |shard| shard.range);
        let at = text.parse::<u128>().ok();
        let at = at.filter(|at| *at > range.start.0.saturating_add(1) && *at < range.end.0).ok_or_else(|| {
            invalid(format!(
                "NewStartingHashKey {text} used in SplitShard() on shard {id} in stream {} under account {} is not \
                 both greater than one plus the shard's StartingHashKey {} and less than the shard's EndingHashKey \
                 {}.",
                found.name.local(), self.caller.account, range.start, range.end
            ))
        })?;
        self.must_be_active(&found)?;
        let principal = &self.caller.principal;
        self.api.service.split_shard(principal, &found.name, id, Some(HashKey(at))).await?;
        self.begin(&found.name, Status::Updating, None);
        Ok(Answer::Nothing)
    }

    /// The shards of a stream in on-demand mode are not its owner's business.
    fn must_be_provisioned(&self, found: &Found) -> Result<()> {
        if !is_on_demand(&found.sketch) {
            return Ok(());
        }
        let (stream, account) = (found.name.local(), &self.caller.account);
        let message =
            format!("Request is invalid. Stream {stream} under account {account} is in On-Demand mode.");
        Err(ApiError::new("ValidationException", message))
    }

    fn must_be_active(&self, found: &Found) -> Result<()> {
        if found.status == Status::Active { Ok(()) } else { Err(self.not_active(&found.name, found.status)) }
    }

    pub(super) async fn merge_shards(&self) -> Result<Answer> {
        let found = self.find()?;
        self.must_be_provisioned(&found)?;
        let one = self.eligible(&found, self.body.str_of("ShardToMerge").unwrap_or_default())?;
        let other = self.eligible(&found, self.body.str_of("AdjacentShardToMerge").unwrap_or_default())?;
        let range = |id: ShardId| found.sketch.shards.1.get(&id).map(|shard| shard.range);
        let adjacent = match (range(one), range(other)) {
            (Some(one), Some(other)) => one.end.0.checked_add(1) == Some(other.start.0),
            _ => false,
        };
        if !adjacent {
            return Err(invalid(format!(
                "Shards {one} and {other} in stream {} under account {} are not an adjacent pair of shards eligible \
                 for merging",
                found.name.local(),
                self.caller.account
            )));
        }
        self.must_be_active(&found)?;
        self.api.service.merge_shards(&self.caller.principal, &found.name, one, other).await?;
        self.begin(&found.name, Status::Updating, None);
        Ok(Answer::Nothing)
    }

    pub(super) async fn update_shard_count(&self) -> Result<Answer> {
        let found = self.find_active()?;
        self.must_be_provisioned(&found)?;
        let target = self.body.int_of("TargetShardCount").unwrap_or(1) as usize;
        let now = open_count(&found.sketch);
        let refuse = |how: &str| {
            Err(invalid(format!(
                "UpdateShardCount cannot scale {how} your current open shard count. Current open shard count: {now} \
                 Target shard count: {target}"
            )))
        };
        if target > now * 2 {
            return refuse("up over double");
        }
        if target < now.div_ceil(2) {
            return refuse("down below half");
        }
        self.check_shard_limit(target.saturating_sub(now))?;
        self.begin(&found.name, Status::Updating, None);
        self.scale(&found.name, target as u32).await?;
        self.begin(&found.name, Status::Updating, None);
        Ok(Answer::Value(Value::map([
            ("StreamName", found.name.local().into()),
            ("CurrentShardCount", now.into()),
            ("TargetShardCount", target.into()),
            ("StreamARN", self.arn(found.name.local()).to_string().into()),
        ])))
    }

    /// Cuts wherever an even range begins, then joins what lies within one.
    async fn scale(&self, name: &StreamName, target: u32) -> Result<()> {
        let (service, principal) = (&self.api.service, &self.caller.principal);
        let open = || -> Result<Vec<(HashKeyRange, ShardId)>> {
            let sketch = service.sketch(principal, name)?;
            let open = sketch.shards.1.iter().filter(|(_, shard)| shard.closed.is_none());
            let mut open: Vec<_> = open.map(|(id, shard)| (shard.range, *id)).collect();
            open.sort_by_key(|(range, _)| range.start);
            Ok(open)
        };
        let even = HashKeyRange::split_evenly(target);
        for range in &even {
            let around = open()?.into_iter().find(|(is, _)| is.contains(range.start));
            if let Some((is, id)) = around.filter(|(is, _)| is.start != range.start) {
                debug_assert!(is.contains(range.start));
                service.split_shard(principal, name, id, Some(range.start)).await?;
            }
        }
        for range in &even {
            loop {
                let within: Vec<_> = open()?.into_iter().filter(|(is, _)| range.contains(is.start)).collect();
                let [(_, one), (_, other), ..] = within.as_slice() else { break };
                service.merge_shards(principal, name, *one, *other).await?;
            }
        }
        Ok(())
    }
}
