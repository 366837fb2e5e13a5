//! Registered consumers of a stream.

use protocol::kinesis::ApiError;
use protocol::kinesis::arn::Arn;
use protocol::kinesis::value::Value;
use protocol::time::UnixMs;

use super::marks::put_tags;
use super::passing::Status;
use super::{Answer, Call, Found, Result, invalid};
use crate::catalog::ConsumerEntry;

/// Consumers of one stream.
const CONSUMERS_MAX: usize = 20;
const LIST_DEFAULT: i64 = 100;

impl Call<'_> {
    fn consumer_value(
        &self,
        found: &Found,
        name: &str,
        entry: &ConsumerEntry,
        whole: bool,
    ) -> Value<'static> {
        let stream = self.arn(found.name.local());
        let arn = Arn { consumer: Some((name.to_owned(), entry.created.0 / 1000)), ..stream.clone() };
        let young = u128::from(self.now.millis_since(entry.created)) < self.api.delay.as_millis();
        let status = if young { Status::Creating } else { Status::Active };
        Value::map([
            ("ConsumerName", name.into()),
            ("ConsumerARN", arn.to_string().into()),
            ("ConsumerStatus", status.text().into()),
            ("ConsumerCreationTimestamp", UnixMs(entry.created.0 / 1000 * 1000).into()),
            ("StreamARN", if whole { stream.to_string().into() } else { Value::Null }),
        ])
    }

    pub(super) async fn register_consumer(&self) -> Result<Answer> {
        let found = self.find_usable()?;
        let name = self.body.str_of("ConsumerName").unwrap_or_default().to_owned();
        let entry = self
            .api
            .service
            .change_traits(&self.caller.principal, &found.name, |traits| {
                let account = &self.caller.account;
                if traits.consumers.contains_key(&name) {
                    let message = format!(
                        "Consumer {name} of stream {} under account {account} already exists.",
                        found.name.local()
                    );
                    return Err(ApiError::new("ResourceInUseException", message));
                }
                if traits.consumers.len() >= CONSUMERS_MAX {
                    let message = format!(
                        "Stream {} under account {account} has {CONSUMERS_MAX} consumers.",
                        found.name.local()
                    );
                    return Err(ApiError::new("LimitExceededException", message));
                }
                let mut entry = ConsumerEntry { created: self.now, ..ConsumerEntry::default() };
                put_tags(&mut entry.tags, self.body.texts_of("Tags"))?;
                traits.consumers.insert(name.clone(), entry.clone());
                Ok(entry)
            })
            .await?;
        let mut consumer = self.consumer_value(&found, &name, &entry, false);
        if let Value::Map(members) = &mut consumer {
            members.iter_mut().filter(|(name, _)| name == "ConsumerStatus").for_each(|(_, value)| {
                *value = Status::Creating.text().into();
            });
        }
        Ok(Answer::Value(Value::map([("Consumer", consumer)])))
    }

    /// The consumer that a request names, by its ARN or by stream and name.
    pub(super) fn consumer(&self) -> Result<(Found, String, ConsumerEntry)> {
        let (found, name, created) = match self.body.str_of("ConsumerARN") {
            Some(text) => {
                let arn = Arn::parse(text).ok_or_else(|| invalid(format!("{text} is no consumer ARN.")))?;
                self.own(&arn)?;
                let stream = self.within(&arn.stream)?;
                let (name, created) =
                    arn.consumer.ok_or_else(|| invalid(format!("{text} is no consumer ARN.")))?;
                (self.find_named(stream)?, name, Some(created))
            }
            None => {
                let named = self.body.str_of("ConsumerName").filter(|_| self.body.get("StreamARN").is_some());
                let name = named.ok_or_else(|| {
                    invalid("Either ConsumerARN, or StreamARN and ConsumerName must be provided.")
                })?;
                (self.find()?, name.to_owned(), None)
            }
        };
        let entry = found.sketch.traits.consumers.get(&name).cloned();
        let entry = entry.filter(|entry| {
            created.is_none_or(|created| created == entry.created.0 / 1000)
                && found.status != Status::Deleting
        });
        match entry {
            Some(entry) => Ok((found, name, entry)),
            None => Err(ApiError::new(
                "ResourceNotFoundException",
                format!(
                    "Consumer {name} of stream {} under account {} not found.",
                    found.name.local(),
                    self.caller.account
                ),
            )),
        }
    }

    pub(super) async fn deregister_consumer(&self) -> Result<Answer> {
        let (found, name, _) = self.consumer()?;
        let principal = &self.caller.principal;
        self.api
            .service
            .change_traits(principal, &found.name, |traits| {
                traits.consumers.remove(&name);
                Ok::<(), ApiError>(())
            })
            .await?;
        Ok(Answer::Nothing)
    }

    pub(super) fn describe_consumer(&self) -> Result<Answer> {
        let (found, name, entry) = self.consumer()?;
        let described = self.consumer_value(&found, &name, &entry, true);
        Ok(Answer::Value(Value::map([("ConsumerDescription", described)])))
    }

    pub(super) fn list_consumers(&self) -> Result<Answer> {
        let found = self.find_of_its_time()?;
        let limit = self.body.int_of("MaxResults").unwrap_or(LIST_DEFAULT) as usize;
        let after = match self.body.str_of("NextToken") {
            Some(token) => Some(self.read_token::<1>(token)?[0].clone()),
            None => None,
        };
        let all = found.sketch.traits.consumers.iter();
        let rest: Vec<_> = all.filter(|(name, _)| after.as_ref().is_none_or(|after| *name > after)).collect();
        let last = rest
            .get(limit.wrapping_sub(1))
            .filter(|_| rest.len() > limit)
            .map(|(name, _)| self.token(&[name]));
        let shown =
            rest.iter().take(limit).map(|(name, entry)| self.consumer_value(&found, name, entry, false));
        Ok(Answer::Value(Value::map([
            ("Consumers", Value::List(shown.collect())),
            ("NextToken", last.into()),
        ])))
    }
}
