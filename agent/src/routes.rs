//! Which lane a record goes to: what is known of every stream's shards. Pure.

use std::collections::HashMap;

use protocol::name::{StreamKey, StreamName};
use protocol::native::call::StreamInfo;

use crate::lane::{LaneId, StreamMap};
use crate::spool::State;

/// See the module.
#[derive(Debug, Default)]
pub struct Routes {
    maps: HashMap<StreamKey, StreamMap>,
    /// Changed, and not in the spool yet.
    changed: Vec<StreamMap>,
}

impl Routes {
    /// As the spool remembers them.
    #[must_use]
    pub fn new(state: &State) -> Routes {
        Routes { maps: state.streams.clone().into_iter().collect(), changed: Vec::new() }
    }

    /// The lane of a key.
    pub fn lane(&mut self, stream: &StreamName, partition_key: &str) -> LaneId {
        let key = stream.key();
        let map = self.maps.entry(key).or_insert_with(|| {
            let map = StreamMap::unknown(stream.clone());
            self.changed.push(map.clone());
            map
        });
        LaneId { stream: key, lane: map.lane_of(partition_key) }
    }

    /// Takes what the store says; true when the stream's lanes are others from now on.
    pub fn update(&mut self, info: &StreamInfo) -> bool {
        let map = self.maps.entry(info.key).or_insert_with(|| StreamMap::unknown(info.name.clone()));
        let before = map.clone();
        let other = map.update(info);
        if *map != before {
            let changed = map.clone();
            self.changed.retain(|known| known.name != changed.name);
            self.changed.push(changed);
        }
        other
    }

    /// What the spool must know before anything that was routed by it.
    pub fn take_changed(&mut self) -> Vec<StreamMap> {
        std::mem::take(&mut self.changed)
    }

    /// Whether there is something that the spool does not know.
    #[must_use]
    pub fn has_changed(&self) -> bool {
        !self.changed.is_empty()
    }
}
