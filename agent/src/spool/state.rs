//! What a spool knows beside its batches: who it is, cursors, numbers, what was delivered, losses. Pure.
//! Written whole at the head of every segment, and as changes in between.

use std::collections::{BTreeMap, VecDeque};

use protocol::frame::Header;
use protocol::name::{StreamKey, StreamName};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::BatchMeta;
use crate::lane::{LaneId, StreamMap};
use crate::loss::{LOSS_STREAM, Ledger, Loss};

/// Messages of one source that are remembered, to know them again when a broker sends them twice.
const RECENT_MAX: usize = 2048;

/// What goes with a commit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CursorUpdate {
    /// Cursors by their source's id, in the source's own words; `None` forgets one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub cursors: BTreeMap<String, Option<String>>,
    /// Hashes of the messages in this commit, by source.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub recent: BTreeMap<String, Vec<u64>>,
    /// Sources whose remembered messages mean nothing any more; done before `recent` is added.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forget_recent: Vec<String>,
    /// What was lost on the way here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub losses: Vec<Loss>,
    /// The batches of this commit tell all losses that were pending.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub losses_told: bool,
    /// Streams as they are known from here on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub streams: Vec<StreamMap>,
}

impl CursorUpdate {
    /// As the payload of a frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// How far the store has everything.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DeliveredUpdate {
    /// Everything below this position is done with.
    pub mark: u64,
    /// Lanes that got further, and their last number that is done with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lanes: Vec<(LaneId, u64)>,
    /// What the store refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub losses: Vec<Loss>,
}

impl DeliveredUpdate {
    /// As the payload of a frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Adds a later update to this one.
    pub fn merge(&mut self, later: DeliveredUpdate) {
        self.mark = self.mark.max(later.mark);
        self.losses.extend(later.losses);
        for (lane, sequence) in later.lanes {
            match self.lanes.iter_mut().find(|(l, _)| *l == lane) {
                Some((_, known)) => *known = sequence.max(*known),
                None => self.lanes.push((lane, sequence)),
            }
        }
    }
}

/// Numbers of one lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneState {
    /// Which lane.
    pub lane: LaneId,
    /// The number of its next batch.
    pub next: u64,
    /// The last number that is done with; all before it are too.
    pub delivered: u64,
    /// Where its last batch is.
    pub last_position: u64,
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    /// Random, made once.
    pub producer: u128,
    /// How often the spool was opened.
    pub epoch: u32,
    /// Cursors of sources.
    pub cursors: BTreeMap<String, String>,
    /// Hashes of the last messages of each source.
    pub recent: BTreeMap<String, VecDeque<u64>>,
    /// Numbers of lanes.
    pub lanes: BTreeMap<LaneId, LaneState>,
    /// Streams.
    pub streams: BTreeMap<StreamKey, StreamMap>,
    /// Everything below this position is done with.
    pub mark: u64,
    /// Losses.
    pub ledger: Ledger,
}

#[derive(Serialize, Deserialize)]
struct Written {
    producer: String,
    epoch: u32,
    cursors: BTreeMap<String, String>,
    recent: BTreeMap<String, VecDeque<u64>>,
    lanes: Vec<LaneState>,
    streams: Vec<StreamMap>,
    mark: u64,
    ledger: Ledger,
}

impl State {
    /// As the payload of a frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let written = Written {
            producer: self.producer.to_string(),
            epoch: self.epoch,
            cursors: self.cursors.clone(),
            recent: self.recent.clone(),
            lanes: self.lanes.values().filter(|lane| !self.is_history(lane)).copied().collect(),
            streams: self.streams.values().cloned().collect(),
            mark: self.mark,
            ledger: self.ledger.clone(),
        };
        serde_json::to_vec(&written).unwrap_or_default()
    }

    /// Reads what [`encode`](Self::encode) wrote.
    #[must_use]
    pub fn decode(body: &[u8]) -> Option<State> {
        let written: Written = read(body)?;
        Some(State {
            producer: written.producer.parse().ok()?,
            epoch: written.epoch,
            cursors: written.cursors,
            recent: written.recent,
            lanes: written.lanes.into_iter().map(|lane| (lane.lane, lane)).collect(),
            streams: written.streams.into_iter().map(|map| (map.name.key(), map)).collect(),
            mark: written.mark,
            ledger: written.ledger,
        })
    }

    /// A lane that nothing will be written to and nothing read from again.
    fn is_history(&self, lane: &LaneState) -> bool {
        let current = self.streams.get(&lane.lane.stream).map_or(0, |map| map.generation);
        lane.lane.generation() < current && lane.delivered + 1 >= lane.next && lane.last_position < self.mark
    }

    /// The number for the next batch of a lane, which then is taken.
    pub fn next_sequence(&mut self, lane: LaneId) -> u64 {
        let state = self.lane_mut(lane);
        state.next += 1;
        state.next - 1
    }

    fn lane_mut(&mut self, lane: LaneId) -> &mut LaneState {
        self.lanes.entry(lane).or_insert(LaneState { lane, next: 1, delivered: 0, last_position: 0 })
    }

    /// Notes where a batch is.
    pub fn note_position(&mut self, meta: &BatchMeta) {
        let lane = self.lane_mut(meta.lane);
        lane.last_position = meta.position;
        lane.next = lane.next.max(meta.sequence + 1);
    }

    /// Whether the store is done with a batch.
    #[must_use]
    pub fn is_delivered(&self, meta: &BatchMeta) -> bool {
        self.lanes.get(&meta.lane).is_some_and(|lane| meta.sequence <= lane.delivered)
    }

    /// Takes what goes with a commit.
    pub fn apply_cursor(&mut self, update: &CursorUpdate) {
        for (id, cursor) in &update.cursors {
            match cursor {
                Some(cursor) => drop(self.cursors.insert(id.clone(), cursor.clone())),
                None => drop(self.cursors.remove(id)),
            }
        }
        for source in &update.forget_recent {
            self.recent.remove(source);
        }
        for (source, hashes) in &update.recent {
            let recent = self.recent.entry(source.clone()).or_default();
            recent.extend(hashes);
            recent.drain(..recent.len().saturating_sub(RECENT_MAX));
        }
        if update.losses_told {
            self.ledger.take();
        }
        update.losses.iter().for_each(|loss| self.ledger.add(loss.clone()));
        for map in &update.streams {
            self.streams.insert(map.name.key(), map.clone());
        }
    }

    /// Takes what the store has.
    pub fn apply_delivered(&mut self, update: &DeliveredUpdate) {
        self.mark = self.mark.max(update.mark);
        for (lane, sequence) in &update.lanes {
            let lane = self.lane_mut(*lane);
            lane.delivered = lane.delivered.max(*sequence);
            lane.next = lane.next.max(*sequence + 1);
        }
        // What was lost of the ledger's own stream is only counted: telling it would be lost as well.
        for loss in &update.losses {
            self.ledger.add(loss.clone());
        }
        self.ledger.forget(LOSS_STREAM);
    }

    /// What is known of a stream.
    ///
    /// # Panics
    /// Never: the name is a constant of ours that fits.
    #[must_use]
    pub fn stream_map(&self, name: &'static str) -> StreamMap {
        let name = StreamName::new(name).expect("a stream name of ours fits");
        self.streams.get(&name.key()).cloned().unwrap_or_else(|| StreamMap::unknown(name))
    }

    /// A stream's name, or its key where the name is not known.
    #[must_use]
    pub fn stream_text(&self, stream: StreamKey) -> String {
        self.streams.get(&stream).map_or_else(|| stream.to_string(), |map| map.name.to_string())
    }

    /// The loss of a whole batch.
    #[must_use]
    pub fn loss_of(&self, header: &Header, reason: &str) -> Loss {
        let source = self.stream_text(header.stream);
        Loss::new(source, reason, u64::from(header.record_count), u64::from(header.user_bytes))
    }
}

/// Reads a payload of this spool; `None` where it is not what is wanted.
pub(super) fn read<T: DeserializeOwned>(body: &[u8]) -> Option<T> {
    serde_json::from_slice(body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reaches `RECENT_MAX`.
    #[test]
    fn so_many_messages_of_a_source_are_remembered_and_the_oldest_are_forgotten_first() {
        let mut state = State::default();
        let mut seen = |hashes: std::ops::Range<u64>| {
            let recent = [("mqtt".to_owned(), hashes.collect())].into();
            state.apply_cursor(&CursorUpdate { recent, ..CursorUpdate::default() });
            let recent = &state.recent["mqtt"];
            (recent.len(), recent.iter().next().copied())
        };
        let most = RECENT_MAX as u64;
        assert_eq!(seen(0..most), (RECENT_MAX, Some(0)));
        assert_eq!(seen(most..most + 1), (RECENT_MAX, Some(1)));
    }
}
