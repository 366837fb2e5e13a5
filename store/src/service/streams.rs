//! Making, changing and removing streams, and telling about them.

use std::sync::PoisonError;

use protocol::hash::HashKey;
use protocol::limit;
use protocol::name::{LOSS_STREAM, StreamName};
use protocol::sequence::ShardId;
use protocol::stream::{CallError, CallErrorCode, ShardInfo, StreamConfig, StreamInfo};

use super::{Open, OpenError, Service, call_error, dir, locked, open_error};
use crate::catalog::{Change, StreamEntry, Traits};
use crate::log::StreamLog;
use crate::principal::{Principal, Role};
use crate::shard::driver::{ControlGroup, StateReplay, Stream};
use crate::shard::sequencer::{Now, ReshardError, Rules, Sequencer};
use crate::shard::state::StreamState;

/// Folder of all streams' logs.
const STREAMS: &str = "streams";

pub(super) fn not_found(name: &StreamName) -> CallError {
    call_error(CallErrorCode::NotFound, format!("there is no stream {name}; `kinesin stream list` shows all"))
}

fn denied(principal: &Principal) -> CallError {
    call_error(CallErrorCode::Denied, format!("{principal} may not do that"))
}

pub(super) fn may_command(principal: &Principal) -> Result<(), CallError> {
    if principal.role == Role::Admin {
        return Ok(());
    }
    let message = format!("{principal} may write records, and nothing else: use the admin certificate");
    Err(call_error(CallErrorCode::Denied, message))
}

pub(super) fn stopped() -> CallError {
    call_error(CallErrorCode::Busy, "the store is stopping; nothing was changed")
}

fn check_config(config: &StreamConfig) -> Result<(), CallError> {
    let bad = |why: String| Err(call_error(CallErrorCode::Invalid, why));
    if config.record_bytes_max == 0 || config.record_bytes_max as usize > limit::RECORD_BYTES_MAX {
        return bad(format!(
            "record_bytes_max is {}: 1 to {}",
            config.record_bytes_max,
            limit::RECORD_BYTES_MAX
        ));
    }
    if config.retention_ms == 0 {
        return bad("retention_ms is 0: nothing would be kept".to_owned());
    }
    if config.shard_rate.is_some_and(|rate| rate.bytes_per_second == 0 || rate.records_per_second == 0) {
        return bad("a shard_rate of 0 takes nothing: leave it out for no limit".to_owned());
    }
    Ok(())
}

impl Service {
    /// The streams of these names, made where that is allowed; others are left out.
    pub async fn open_streams(&self, principal: &Principal, names: &[StreamName]) -> Vec<StreamInfo> {
        let mut found = Vec::new();
        for name in names {
            if let Ok(info) = self.open_or_make(principal, name, false).await {
                found.push(info);
            }
        }
        found
    }

    /// What needs more of a disk that is nearly full has to wait; what gives some back never does.
    pub(super) fn may_grow(&self) -> Result<(), CallError> {
        if self.inner.gate.is_disk_full() {
            let why = "the store's disk is nearly full: free space or shorten a retention, and try again";
            return Err(call_error(CallErrorCode::Busy, why));
        }
        Ok(())
    }

    fn may_make(&self, name: &StreamName) -> bool {
        // Those of other accounts and regions are made by their owners, over their own wire.
        let ours = name.local() == name.as_str();
        (self.inner.settings.auto_create && ours) || name.as_str() == LOSS_STREAM
    }

    async fn open_or_make(
        &self,
        principal: &Principal,
        name: &StreamName,
        for_video: bool,
    ) -> Result<StreamInfo, CallError> {
        let config = || if for_video { super::video::config() } else { StreamConfig::default() };
        match self.describe(name) {
            Err(_) if self.may_make(name) && principal.may_write() => {
                match self.create(name, 1, config()).await {
                    Err(CallError { code: CallErrorCode::Exists, .. }) => self.describe(name),
                    made => made,
                }
            }
            found => found,
        }
    }

    /// One stream, if it is there; for telling news to who has opened it.
    #[must_use]
    pub fn known_stream(&self, principal: &Principal, name: &StreamName) -> Option<StreamInfo> {
        principal.may_write().then(|| self.describe(name).ok()).flatten()
    }

    /// One stream, made if that is allowed.
    ///
    /// # Errors
    /// When it is not there and may not be made.
    pub async fn open_stream(
        &self,
        principal: &Principal,
        name: &StreamName,
        for_video: bool,
    ) -> Result<StreamInfo, CallError> {
        if !principal.may_write() {
            return Err(denied(principal));
        }
        self.open_or_make(principal, name, for_video).await
    }

    /// All streams, by name.
    ///
    /// # Errors
    /// When the principal may not.
    pub fn list_streams(&self, principal: &Principal) -> Result<Vec<StreamInfo>, CallError> {
        may_command(principal)?;
        Ok(self.open_streams_now().iter().filter_map(|open| self.info(open)).collect())
    }

    /// One stream.
    ///
    /// # Errors
    /// When it is not there, or the principal may not.
    pub fn describe_stream(&self, principal: &Principal, name: &StreamName) -> Result<StreamInfo, CallError> {
        may_command(principal)?;
        self.describe_whole(name)
    }

    /// Makes a stream, durably.
    ///
    /// # Errors
    /// When it is there already, can't be so, or the principal may not.
    pub async fn create_stream(
        &self,
        principal: &Principal,
        name: &StreamName,
        shards: u32,
        config: StreamConfig,
    ) -> Result<StreamInfo, CallError> {
        may_command(principal)?;
        self.create(name, shards, config).await
    }

    /// Removes a stream with all its records.
    ///
    /// # Errors
    /// When it is not there, or the principal may not.
    pub async fn delete_stream(&self, principal: &Principal, name: &StreamName) -> Result<(), CallError> {
        may_command(principal)?;
        self.delete(name).await
    }

    /// Changes how a stream is set.
    ///
    /// # Errors
    /// When it is not there, can't be so, or the principal may not.
    pub async fn update_stream(
        &self,
        principal: &Principal,
        name: &StreamName,
        config: StreamConfig,
    ) -> Result<StreamInfo, CallError> {
        may_command(principal)?;
        self.update(name, config).await
    }

    /// Divides a shard at the first hash key of its upper child; in the middle where none is said.
    ///
    /// # Errors
    /// When there is no such open shard, it can't be cut there, or the principal may not.
    pub async fn split_shard(
        &self,
        principal: &Principal,
        name: &StreamName,
        shard: ShardId,
        at: Option<HashKey>,
    ) -> Result<StreamInfo, CallError> {
        may_command(principal)?;
        self.reshard(name, |sequencer, now, group| group.split(sequencer, shard, at, now)).await
    }

    /// Makes one shard of two neighbours.
    ///
    /// # Errors
    /// When they are not open or no neighbours, or the principal may not.
    pub async fn merge_shards(
        &self,
        principal: &Principal,
        name: &StreamName,
        shard: ShardId,
        adjacent: ShardId,
    ) -> Result<StreamInfo, CallError> {
        may_command(principal)?;
        self.reshard(name, |sequencer, now, group| group.merge(sequencer, shard, adjacent, now)).await
    }

    pub(super) fn find(&self, name: &StreamName) -> Result<Open, CallError> {
        let streams = self.inner.streams.read().unwrap_or_else(PoisonError::into_inner);
        streams.get(&name.key()).filter(|open| open.name == *name).cloned().ok_or_else(|| not_found(name))
    }

    pub(super) fn find_stream(&self, name: &StreamName) -> Result<Stream, CallError> {
        self.find(name).map(|open| open.stream)
    }

    /// With what only whoever asks for one stream wants to know.
    fn describe_whole(&self, name: &StreamName) -> Result<StreamInfo, CallError> {
        let info = self.describe(name)?;
        let entry = locked(&self.inner.catalog).state().streams.get(name).cloned();
        Ok(StreamInfo { resharded: entry.map(|entry| entry.traits.resharded).unwrap_or_default(), ..info })
    }

    fn describe(&self, name: &StreamName) -> Result<StreamInfo, CallError> {
        self.info(&self.find(name)?).ok_or_else(|| not_found(name))
    }

    fn info(&self, open: &Open) -> Option<StreamInfo> {
        let entry = locked(&self.inner.catalog).state().streams.get(&open.name)?.clone();
        let map = open.stream.map();
        let reader = open.stream.reader();
        let shards = map.1.iter().map(|(id, shard)| ShardInfo {
            id: *id,
            range: shard.range,
            parents: shard.parents.clone(),
            first: open.stream.first(*id).unwrap_or(shard.first),
            tail: open.stream.tail(*id),
            closed: shard.closed.is_some(),
            created: shard.created,
        });
        Some(StreamInfo {
            name: open.name.clone(),
            key: open.name.key(),
            created: entry.created,
            config: entry.config,
            map_version: map.0,
            shards: shards.collect(),
            stored_bytes: reader.stored_bytes(),
            resharded: Vec::new(),
        })
    }

    async fn create(
        &self,
        name: &StreamName,
        shards: u32,
        config: StreamConfig,
    ) -> Result<StreamInfo, CallError> {
        check_config(&config)?;
        self.may_grow()?;
        if shards == 0 || shards as usize > limit::STREAM_SHARDS_MAX {
            let message = format!("a stream has 1 to {} shards, not {shards}", limit::STREAM_SHARDS_MAX);
            return Err(call_error(CallErrorCode::Invalid, message));
        }
        let _changing = self.inner.changing.lock().await;
        if self.stream_of(name.key()).is_some() {
            let message = match self.find(name) {
                Ok(_) => format!("there is a stream {name} already"),
                Err(_) => format!("{name} has the same key as another stream: choose another name"),
            };
            return Err(call_error(CallErrorCode::Exists, message));
        }
        let (service, stream_name) = (self.clone(), name.clone());
        let made = tokio::task::spawn_blocking(move || service.make(&stream_name, shards, config)).await;
        let stream = made.map_err(|_| stopped())??;
        self.put_open(name.clone(), stream);
        let info = self.describe(name)?;
        let _ = self.inner.changes.send(info.clone());
        Ok(info)
    }

    fn make(&self, name: &StreamName, shards: u32, config: StreamConfig) -> Result<Stream, CallError> {
        let internal = |why: String| call_error(CallErrorCode::Internal, why);
        let now = self.inner.clock.wall();
        let number = self.free_dir().map_err(|e| internal(e.to_string()))?;
        let entry = StreamEntry { dir: number, created: now, config, traits: Traits::default() };
        let stream = self
            .open_stream_log(name, &entry, Some(StreamState::new(shards, now)))
            .map_err(|e| internal(e.to_string()))?;
        let change = Change::PutStream { name: name.clone(), entry };
        self.commit(&change)?;
        Ok(stream)
    }

    /// A folder number that neither the catalog nor the disk has.
    fn free_dir(&self) -> std::io::Result<u32> {
        let mut number = locked(&self.inner.catalog).state().next_dir;
        while !self.inner.disk.list(&stream_dir(number))?.is_empty() {
            number += 1;
        }
        Ok(number)
    }

    fn commit(&self, change: &Change) -> Result<(), CallError> {
        let now = self.inner.clock.wall();
        locked(&self.inner.catalog).commit(change, now).map_err(|error| {
            self.inner.gate.fail(error.to_string());
            call_error(CallErrorCode::Internal, error.to_string())
        })
    }

    pub(super) async fn commit_change(&self, change: Change) -> Result<(), CallError> {
        let service = self.clone();
        tokio::task::spawn_blocking(move || service.commit(&change)).await.map_err(|_| stopped())?
    }

    /// Opens a stream's log; `new` is its first state where it is being made.
    pub(super) fn open_stream_log(
        &self,
        name: &StreamName,
        entry: &StreamEntry,
        new: Option<StreamState>,
    ) -> Result<Stream, OpenError> {
        let mut replay = StateReplay::default();
        let what = format!("stream {name}");
        let (mut log, opened) =
            self.stream_log(&stream_dir(entry.dir), &mut replay).map_err(|e| open_error(&what, &e))?;
        let mut problems = replay.problems;
        problems.extend(opened.recovery.damage.iter().map(|damage| format!("{damage:?}")));
        problems.dedup();
        locked(&self.inner.problems).extend(problems.into_iter().map(|why| format!("{what}: {why}")));
        let state = match (replay.state, new) {
            (Some(state), _) | (None, Some(state)) => state,
            (None, None) => {
                let why = "no segment of its log has a readable head; run `kinesin check` on the data folder";
                return Err(open_error(&what, &why));
            }
        };
        if !opened.has_head {
            let rules = Rules { shard_rate: None, record_bytes_max: 0, observe: false };
            let head =
                Sequencer::new(state.clone(), rules).head_frame(self.inner.clock.wall(), log.durable_end().0);
            log.start_segment(&head).map_err(|e| open_error(&what, &e))?;
        }
        let gate = std::sync::Arc::clone(&self.inner.gate);
        // Whoever asks for a stream, its commits run where the store was opened.
        let _within = self.inner.runtime.enter();
        Ok(Stream::start(Box::new(log), state, &entry.config, gate, self.inner.clock))
    }

    async fn delete(&self, name: &StreamName) -> Result<(), CallError> {
        let _changing = self.inner.changing.lock().await;
        let open = self.find(name)?;
        let entry =
            locked(&self.inner.catalog).state().streams.get(name).cloned().ok_or_else(|| not_found(name))?;
        self.commit_change(Change::RemoveStream { name: name.clone() }).await?;
        self.inner.streams.write().unwrap_or_else(PoisonError::into_inner).remove(&name.key());
        open.stream.close().await;
        let service = self.clone();
        // What can't be removed now is removed at the next start.
        let _ = tokio::task::spawn_blocking(move || {
            disk::remove_dir_all(&*service.inner.disk, &stream_dir(entry.dir))
        })
        .await;
        Ok(())
    }

    async fn update(&self, name: &StreamName, config: StreamConfig) -> Result<StreamInfo, CallError> {
        check_config(&config)?;
        let _changing = self.inner.changing.lock().await;
        let open = self.find(name)?;
        let entry =
            locked(&self.inner.catalog).state().streams.get(name).cloned().ok_or_else(|| not_found(name))?;
        let entry = StreamEntry { config: config.clone(), ..entry };
        self.commit_change(Change::PutStream { name: name.clone(), entry }).await?;
        open.stream.configure(&config);
        let info = self.describe(name)?;
        let _ = self.inner.changes.send(info.clone());
        Ok(info)
    }

    pub(super) async fn reshard(
        &self,
        name: &StreamName,
        change: impl FnOnce(&mut Sequencer, Now, &mut ControlGroup<'_>) -> Result<(), ReshardError>,
    ) -> Result<StreamInfo, CallError> {
        self.may_grow()?;
        let stream = self.find_stream(name)?;
        let done = stream.change(change).await.map_err(|error| {
            let code = match error {
                ReshardError::NoShard(_) => CallErrorCode::NotFound,
                ReshardError::TooMany => CallErrorCode::Limit,
                _ => CallErrorCode::Invalid,
            };
            call_error(code, format!("stream {name}: {error}"))
        })?;
        done.ok_or_else(stopped)?;
        let info = self.describe(name)?;
        let _ = self.inner.changes.send(info.clone());
        Ok(info)
    }

    /// Removes folders of streams that the catalog no longer has because a removal was cut short.
    pub(super) fn remove_leftovers(&self) -> Result<(), OpenError> {
        let known: Vec<u32> = {
            let catalog = locked(&self.inner.catalog);
            if !catalog.problems.is_empty() {
                // A catalog with damage is no evidence that a folder is nobody's.
                return Ok(());
            }
            let next = catalog.state().next_dir;
            let used: Vec<u32> = catalog.state().streams.values().map(|entry| entry.dir).collect();
            (0..next).filter(|number| !used.contains(number)).collect()
        };
        for number in known {
            disk::remove_dir_all(&*self.inner.disk, &stream_dir(number))
                .map_err(|e| open_error("removing a deleted stream", &e))?;
        }
        Ok(())
    }
}

/// The folder of a stream's log.
pub(crate) fn stream_dir(number: u32) -> disk::DirName {
    dir(&format!("{STREAMS}/{number:06}"))
}
