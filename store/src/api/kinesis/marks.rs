//! What is written about a stream and given back: tags, policies, metrics, encryption, mode. Most of it changes nothing
//! about how this store works; the documentation says so.

use std::collections::{BTreeMap, BTreeSet};

use protocol::kinesis::ApiError;
use protocol::kinesis::arn::Arn;
use protocol::kinesis::model::{ALL_METRICS, METRIC_NAMES};
use protocol::kinesis::value::Value;
use protocol::name::StreamName;
use protocol::stream::{Scaling, StreamConfig};

use super::passing::Status;
use super::streams::warm;
use super::{Answer, Call, Found, Result, invalid};
use crate::catalog::Traits;

/// Tags of one stream or consumer.
const TAGS_MAX: usize = 50;
const TAGS_LIMIT: i64 = 50;

type Tags = BTreeMap<String, String>;

/// Adds tags, or changes nothing.
pub(super) fn put_tags(tags: &mut Tags, new: Vec<(String, String)>) -> Result<()> {
    let allowed = |text: &str| {
        text.chars().all(|sign| sign.is_alphanumeric() || sign == ' ' || "_.:/=+-@%".contains(sign))
    };
    if new.iter().any(|(key, value)| !allowed(key) || !allowed(value)) {
        return Err(invalid(
            "Some tags contain invalid characters. Valid characters: Unicode letters, digits, white space, _ . / = + - % @.",
        ));
    }
    if new.iter().any(|(key, _)| key.to_ascii_lowercase().starts_with("aws:")) {
        return Err(invalid("Tag keys that begin with aws: are reserved."));
    }
    let mut all = tags.clone();
    all.extend(new);
    if all.len() > TAGS_MAX {
        let message = format!("Failed to add tags. A resource can have at most {TAGS_MAX} tags.");
        return Err(invalid(message));
    }
    *tags = all;
    Ok(())
}

fn tag_list<'a>(tags: impl Iterator<Item = (&'a String, &'a String)>) -> Value<'static> {
    let tags =
        tags.map(|(key, value)| Value::map([("Key", key.as_str().into()), ("Value", value.as_str().into())]));
    Value::List(tags.collect())
}

pub(super) fn metrics(metrics: &BTreeSet<String>) -> Value<'static> {
    Value::List(metrics.iter().map(|name| name.as_str().into()).collect())
}

/// A stream, or one of its consumers.
struct Resource {
    found: Found,
    arn: Arn,
}

impl Resource {
    /// The tags and the policy of it; `None` for a consumer that is not there.
    fn marks<'t>(&self, traits: &'t mut Traits) -> Option<(&'t mut Tags, &'t mut Option<String>)> {
        match &self.arn.consumer {
            None => Some((&mut traits.tags, &mut traits.policy)),
            Some((name, created)) => {
                let consumer = traits.consumers.get_mut(name)?;
                (consumer.created.0 / 1000 == *created).then_some((&mut consumer.tags, &mut consumer.policy))
            }
        }
    }
}

impl Call<'_> {
    async fn change<R>(&self, name: &StreamName, change: impl FnOnce(&mut Traits) -> Result<R>) -> Result<R> {
        self.api.service.change_traits(&self.caller.principal, name, change).await
    }

    fn resource(&self) -> Result<Resource> {
        let text = self.body.str_of("ResourceARN").unwrap_or_default();
        let missing = || {
            let account = &self.caller.account;
            ApiError::new(
                "ResourceNotFoundException",
                format!("Resource {text} under account {account} not found."),
            )
        };
        let arn = Arn::parse(text).ok_or_else(missing)?;
        self.own(&arn)?;
        let name = self.within(&arn.stream).map_err(|_| missing())?;
        let resource = Resource { found: self.find_named(name)?, arn };
        let mut traits = resource.found.sketch.traits.clone();
        if resource.found.status == Status::Deleting || resource.marks(&mut traits).is_none() {
            return Err(missing());
        }
        Ok(resource)
    }

    async fn change_marks(
        &self,
        resource: &Resource,
        change: impl FnOnce(&mut Tags, &mut Option<String>) -> Result<()>,
    ) -> Result<Answer> {
        self.change(&resource.found.name, |traits| match resource.marks(traits) {
            Some((tags, policy)) => change(tags, policy),
            None => Err(self.stream_not_found(&resource.arn.to_string())),
        })
        .await?;
        Ok(Answer::Nothing)
    }

    pub(super) async fn add_tags_to_stream(&self) -> Result<Answer> {
        let found = self.find_usable()?;
        self.change(&found.name, |traits| put_tags(&mut traits.tags, self.body.texts_of("Tags"))).await?;
        Ok(Answer::Nothing)
    }

    fn tag_keys(&self) -> Vec<&str> {
        self.body.list_of("TagKeys").iter().filter_map(Value::as_str).collect()
    }

    pub(super) async fn remove_tags_from_stream(&self) -> Result<Answer> {
        let found = self.find_usable()?;
        let keys = self.tag_keys();
        self.change(&found.name, |traits| {
            traits.tags.retain(|key, _| !keys.contains(&key.as_str()));
            Ok(())
        })
        .await?;
        Ok(Answer::Nothing)
    }

    pub(super) fn list_tags_for_stream(&self) -> Result<Answer> {
        let found = self.find()?;
        let limit = self.body.int_of("Limit").unwrap_or(TAGS_LIMIT) as usize;
        let after = self.body.str_of("ExclusiveStartTagKey");
        let rest = found.sketch.traits.tags.iter();
        let rest: Vec<_> = rest.filter(|(key, _)| after.is_none_or(|after| key.as_str() > after)).collect();
        Ok(Answer::Value(Value::map([
            ("Tags", tag_list(rest.iter().take(limit).copied())),
            ("HasMoreTags", (rest.len() > limit).into()),
        ])))
    }

    pub(super) async fn tag_resource(&self) -> Result<Answer> {
        let new = self.body.texts_of("Tags");
        self.change_marks(&self.resource()?, |tags, _| put_tags(tags, new)).await
    }

    pub(super) async fn untag_resource(&self) -> Result<Answer> {
        let keys = self.tag_keys();
        self.change_marks(&self.resource()?, |tags, _| {
            tags.retain(|key, _| !keys.contains(&key.as_str()));
            Ok(())
        })
        .await
    }

    pub(super) fn list_tags_for_resource(&self) -> Result<Answer> {
        let resource = self.resource()?;
        let mut traits = resource.found.sketch.traits.clone();
        let tags = resource.marks(&mut traits).map(|(tags, _)| tags.clone()).unwrap_or_default();
        Ok(Answer::Value(Value::map([("Tags", tag_list(tags.iter()))])))
    }

    pub(super) fn get_policy(&self) -> Result<Answer> {
        let resource = self.resource()?;
        let mut traits = resource.found.sketch.traits.clone();
        let policy = resource.marks(&mut traits).and_then(|(_, policy)| policy.take());
        Ok(Answer::Value(Value::map([("Policy", policy.unwrap_or_else(|| "{}".to_owned()).into())])))
    }

    pub(super) async fn put_policy(&self, keep: bool) -> Result<Answer> {
        let new = self.body.str_of("Policy").filter(|_| keep).map(str::to_owned);
        if new.as_ref().is_some_and(|text| {
            serde_json::from_str::<serde_json::Value>(text).map_or(true, |policy| !policy.is_object())
        }) {
            return Err(invalid("The policy is not a JSON object."));
        }
        let resource = self.resource()?;
        self.change_marks(&resource, |_, policy| match (new, policy) {
            (None, None) => {
                let message = format!("No resource policy found for resource ARN {}", resource.arn);
                Err(ApiError::new("ResourceNotFoundException", message))
            }
            (new, policy) => {
                *policy = new;
                Ok(())
            }
        })
        .await
    }

    pub(super) async fn monitor(&self, on: bool) -> Result<Answer> {
        let found = self.find_active()?;
        let named: Vec<&str> =
            self.body.list_of("ShardLevelMetrics").iter().filter_map(Value::as_str).collect();
        let all = || METRIC_NAMES.iter().copied().filter(|name| *name != ALL_METRICS).collect();
        let named = if named.contains(&ALL_METRICS) { all() } else { named };
        let (before, after) = self
            .change(&found.name, |traits| {
                let before = traits.metrics.clone();
                for name in named {
                    if on {
                        traits.metrics.insert(name.to_owned());
                    } else {
                        traits.metrics.remove(name);
                    }
                }
                Ok((before, traits.metrics.clone()))
            })
            .await?;
        self.begin(&found.name, Status::Updating, None);
        Ok(Answer::Value(Value::map([
            ("StreamName", found.name.local().into()),
            ("CurrentShardLevelMetrics", metrics(&before)),
            ("DesiredShardLevelMetrics", metrics(&after)),
            ("StreamARN", self.arn(found.name.local()).to_string().into()),
        ])))
    }

    pub(super) async fn encrypt(&self, on: bool) -> Result<Answer> {
        let found = self.find_active()?;
        if self.body.str_of("EncryptionType") != Some("KMS") {
            return Err(invalid("EncryptionType must be KMS."));
        }
        let key = self.body.str_of("KeyId").filter(|_| on).map(str::to_owned);
        self.set(&found.name, |traits| traits.encryption_key = key).await
    }

    /// Changes the traits of a stream, which then says that it is being updated.
    async fn set(&self, name: &StreamName, set: impl FnOnce(&mut Traits)) -> Result<Answer> {
        self.change(name, |traits| {
            set(traits);
            Ok(())
        })
        .await?;
        self.begin(name, Status::Updating, None);
        Ok(Answer::Nothing)
    }

    pub(super) async fn update_mode(&self) -> Result<Answer> {
        let found = self.find_active()?;
        let on_demand = self.mode() == Some("ON_DEMAND");
        let mib = self.body.int_of("WarmThroughputMiBps").map(|mib| mib as u64);
        let scaling = match (on_demand, found.sketch.config.scaling) {
            (false, _) => Scaling::Provisioned,
            (true, Scaling::Provisioned) => {
                self.check_on_demand_limit()?;
                Scaling::OnDemand
            }
            (true, already) => already,
        };
        self.set(&found.name, |traits| traits.warm_mib = mib.or(traits.warm_mib)).await?;
        let config = StreamConfig { scaling, ..found.sketch.config };
        self.configure(&found.name, config).await
    }

    pub(super) async fn update_strategy(&self) -> Result<Answer> {
        let found = self.find_active()?;
        let keyless = self.body.str_of("RecordDistributionStrategy") == Some("AUTO");
        self.set(&found.name, |traits| traits.keyless = keyless).await
    }

    pub(super) async fn update_warm_throughput(&self) -> Result<Answer> {
        let found = self.find_active()?;
        let mib = self.body.int_of("WarmThroughputMiBps").map(|mib| mib as u64);
        self.set(&found.name, |traits| traits.warm_mib = mib).await?;
        Ok(Answer::Value(Value::map([
            ("StreamARN", self.arn(found.name.local()).to_string().into()),
            ("StreamName", found.name.local().into()),
            ("WarmThroughput", warm(mib)),
        ])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reaches `TAGS_MAX`.
    #[test]
    fn there_are_as_many_tags_as_there_may_be_and_no_more() {
        let tag = |n: usize| (n.to_string(), String::new());
        let mut tags = Tags::default();
        assert!(put_tags(&mut tags, (0..TAGS_MAX).map(tag).collect()).is_ok());
        assert!(put_tags(&mut tags, vec![tag(0)]).is_ok(), "one that is there already");
        assert!(put_tags(&mut tags, vec![tag(TAGS_MAX)]).is_err());
        assert_eq!(tags.len(), TAGS_MAX);
    }
}
