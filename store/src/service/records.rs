//! Records that come one by one, and what such writers and readers want to know of a stream: its shards without
//! looking at the disk, and what its owner has written about it.

use protocol::name::StreamName;
use protocol::stream::{CallError, CallErrorCode, StreamConfig};
use protocol::time::UnixMs;

use super::streams::{may_command, not_found, stopped};
use super::{Service, call_error, locked};
use crate::catalog::{AccountEntry, Change, StreamEntry, Traits};
use crate::principal::Principal;
use crate::shard::driver::ShardMap;
pub use crate::shard::sequencer::{NewRecord, Placed};

/// A stream without what only the disk knows.
#[derive(Debug, Clone)]
pub struct Sketch {
    /// When it was made.
    pub created: UnixMs,
    /// How it is set.
    pub config: StreamConfig,
    /// What else is kept about it.
    pub traits: Traits,
    /// Its shards, closed ones too.
    pub shards: ShardMap,
}

impl Service {
    /// One stream.
    ///
    /// # Errors
    /// When it is not there, or the principal may not.
    pub fn sketch(&self, principal: &Principal, name: &StreamName) -> Result<Sketch, CallError> {
        may_command(principal)?;
        let stream = self.find_stream(name)?;
        let entry = self.entry(name)?;
        Ok(Sketch {
            created: entry.created,
            config: entry.config,
            traits: entry.traits,
            shards: stream.map(),
        })
    }

    fn entry(&self, name: &StreamName) -> Result<StreamEntry, CallError> {
        locked(&self.inner.catalog).state().streams.get(name).cloned().ok_or_else(|| not_found(name))
    }

    /// How long a record of a stream may be.
    pub(super) fn record_bytes_max(&self, name: &StreamName) -> Result<u32, CallError> {
        let catalog = locked(&self.inner.catalog);
        let entry = catalog.state().streams.get(name).ok_or_else(|| not_found(name))?;
        Ok(entry.config.record_bytes_max)
    }

    /// Names of all streams, in order.
    ///
    /// # Errors
    /// When the principal may not.
    pub fn stream_names(&self, principal: &Principal) -> Result<Vec<StreamName>, CallError> {
        may_command(principal)?;
        Ok(self.open_streams_now().into_iter().map(|open| open.name).collect())
    }

    /// Takes records; each has its own answer, in their order, once it is durable. Also says when they arrived.
    ///
    /// # Errors
    /// When the stream is not there, the principal may not, or the store can't now: nothing was stored then.
    pub async fn put_records(
        &self,
        principal: &Principal,
        name: &StreamName,
        records: &[NewRecord<'_>],
    ) -> Result<(Vec<Placed>, UnixMs), CallError> {
        if !principal.may_write() {
            return Err(call_error(CallErrorCode::Denied, format!("{principal} may not write")));
        }
        let stream = self.find_stream(name)?;
        let busy = || call_error(CallErrorCode::Busy, "the store takes no records now; try again");
        let Some((placed, arrival, done)) = stream.put_records(name.key(), records) else {
            self.may_grow()?;
            return Err(busy());
        };
        done.await.map_err(|_| stopped())?;
        Ok((placed, arrival))
    }

    /// What is kept about an account, such as `123456789012:eu-west-1`.
    ///
    /// # Errors
    /// When the principal may not.
    pub fn account(&self, principal: &Principal, account: &str) -> Result<AccountEntry, CallError> {
        may_command(principal)?;
        Ok(locked(&self.inner.catalog).state().accounts.get(account).cloned().unwrap_or_default())
    }

    /// Changes it, durably.
    ///
    /// # Errors
    /// When the principal may not, or the store can't now.
    pub async fn put_account(
        &self,
        principal: &Principal,
        account: &str,
        entry: AccountEntry,
    ) -> Result<(), CallError> {
        may_command(principal)?;
        let _changing = self.inner.changing.lock().await;
        self.commit_change(Change::PutAccount { account: account.to_owned(), entry }).await
    }

    /// Changes what is kept about a stream, durably.
    ///
    /// # Errors
    /// As `change` says; when the stream is not there or the principal may not.
    pub async fn change_traits<R, E: From<CallError>>(
        &self,
        principal: &Principal,
        name: &StreamName,
        change: impl FnOnce(&mut Traits) -> Result<R, E>,
    ) -> Result<R, E> {
        may_command(principal)?;
        let _changing = self.inner.changing.lock().await;
        let before = self.entry(name)?;
        let mut entry = before.clone();
        let result = change(&mut entry.traits)?;
        if entry != before {
            self.commit_change(Change::PutStream { name: name.clone(), entry }).await?;
        }
        Ok(result)
    }
}
