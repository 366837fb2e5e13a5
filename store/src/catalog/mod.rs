//! Which streams and enrolment tokens exist, and what accounts have asked for. The truth is a log of changes ([`Catalog`]); the state is what the
//! changes come to ([`CatalogState`], pure); [`view`] is the same in sled, derived and thrown away on any doubt.
//! Shards are not in here: they are in their stream's own log, so that a reshard and the records around it can't
//! disagree.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use disk::{DirName, Disk, Position, Scanned, SegmentLog, Settings};
use protocol::frame::{Frame, Header, Kind, put_control};
use protocol::name::StreamName;
use protocol::stream::{Resharded, StreamConfig};
use protocol::time::UnixMs;
use serde::{Deserialize, Serialize};

use crate::log::segment::FrameFormat;
use crate::scale::Peaks;

pub mod view;

/// A catalog log goes on in a new segment after this many bytes.
const SEGMENT_BYTES_MAX: u64 = 1 << 20;

/// One stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamEntry {
    /// Number of its folder.
    pub dir: u32,
    /// When it was made.
    pub created: UnixMs,
    /// How it is set.
    pub config: StreamConfig,
    /// What else is kept about it.
    #[serde(default, skip_serializing_if = "Traits::is_plain")]
    pub traits: Traits,
}

/// What is kept about a stream and given back, most of which does not change how it works.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Traits {
    /// Its owner's marks.
    pub tags: BTreeMap<String, String>,
    /// The name of a key that its owner wants it encrypted with.
    pub encryption_key: Option<String>,
    /// Metrics that are wanted for each shard.
    pub metrics: BTreeSet<String>,
    /// Who else may use it, as its owner wrote it.
    pub policy: Option<String>,
    /// Throughput that is to be there at once, in MiB a second.
    pub warm_mib: Option<u64>,
    /// Records need no partition key.
    pub keyless: bool,
    /// Those who have asked for a place of their own to read at, by name.
    pub consumers: BTreeMap<String, ConsumerEntry>,
    /// Changes of shards that the store made by itself, oldest first.
    pub resharded: Vec<Resharded>,
    /// The peaks that scaling goes by.
    pub peaks: Peaks,
    /// What is said of a stream of video.
    pub video: Option<VideoEntry>,
}

/// What is said of a stream of video and given back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VideoEntry {
    /// The device that sends it.
    pub device_name: Option<String>,
    /// What it carries, such as `video/h264`.
    pub media_type: Option<String>,
    /// For how long it is kept, where that was said in hours: 0 too.
    pub hours: Option<u64>,
    /// How often this was changed.
    pub changes: u64,
}

impl Traits {
    fn is_plain(&self) -> bool {
        *self == Traits::default()
    }
}

/// A registered reader of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConsumerEntry {
    /// When it was registered.
    pub created: UnixMs,
    /// Its owner's marks.
    pub tags: BTreeMap<String, String>,
    /// Who else may use it, as its owner wrote it.
    pub policy: Option<String>,
}

/// One enrolment token, by its hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenEntry {
    /// Which agent it lets in.
    pub agent: String,
    /// Until when.
    pub expires: UnixMs,
    /// How often still.
    pub uses_left: u32,
}

/// What is kept about an account in a region.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AccountEntry {
    /// Since when its owner is committed to a least throughput.
    pub committed: Option<UnixMs>,
    /// Until when.
    pub committed_until: Option<UnixMs>,
}

/// One change. The log holds these as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time")]
pub enum Change {
    /// A stream is made or set otherwise.
    PutStream {
        /// Its name.
        name: StreamName,
        /// All about it.
        entry: StreamEntry,
    },
    /// A stream is no more.
    RemoveStream {
        /// Its name.
        name: StreamName,
    },
    /// A token is made or used.
    PutToken {
        /// SHA-256 of the token, hexadecimal.
        hash: String,
        /// All about it.
        entry: TokenEntry,
    },
    /// A token is used up or expired.
    RemoveToken {
        /// SHA-256 of the token, hexadecimal.
        hash: String,
    },
    /// An account is set otherwise.
    PutAccount {
        /// Its id and the region, `123456789012:eu-west-1`.
        account: String,
        /// All about it.
        entry: AccountEntry,
    },
}

/// What the changes come to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogState {
    /// The number that the next stream's folder gets.
    pub next_dir: u32,
    /// By name.
    pub streams: BTreeMap<StreamName, StreamEntry>,
    /// By hash.
    pub tokens: BTreeMap<String, TokenEntry>,
    /// By id and region.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub accounts: BTreeMap<String, AccountEntry>,
}

impl CatalogState {
    /// One change more.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::PutStream { name, entry } => {
                self.next_dir = self.next_dir.max(entry.dir + 1);
                self.streams.insert(name.clone(), entry.clone());
            }
            Change::RemoveStream { name } => drop(self.streams.remove(name)),
            Change::PutToken { hash, entry } => drop(self.tokens.insert(hash.clone(), entry.clone())),
            Change::RemoveToken { hash } => drop(self.tokens.remove(hash)),
            Change::PutAccount { account, entry } => {
                self.accounts.insert(account.clone(), entry.clone());
            }
        }
    }

    fn entries(&self) -> usize {
        self.streams.len() + self.tokens.len() + self.accounts.len()
    }
}

/// Why the catalog can't be read or written. Writing is over after one of these.
#[derive(Debug, thiserror::Error)]
#[error("catalog: {0}")]
pub struct CatalogError(pub String);

/// The catalog at work. Blocking: every change is durable when it returns.
pub struct Catalog {
    log: SegmentLog<FrameFormat>,
    state: CatalogState,
    view: Option<view::View>,
    /// What opening found wrong, for people.
    pub problems: Vec<String>,
    /// What the log held when it was opened.
    pub recovered: Range<Position>,
}

impl std::fmt::Debug for Catalog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Catalog").field("state", &self.state).finish_non_exhaustive()
    }
}

fn error(why: &dyn std::fmt::Display) -> CatalogError {
    CatalogError(why.to_string())
}

impl Catalog {
    /// Opens or makes the catalog in a folder. The view is opened beside it, or made anew.
    ///
    /// # Errors
    /// When the folder can't be read or written.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: DirName,
        view: Option<view::View>,
        now: UnixMs,
    ) -> Result<Catalog, CatalogError> {
        let settings = Settings { segment_bytes_max: SEGMENT_BYTES_MAX, reserve_bytes: 0 };
        let (mut log, recovery) = SegmentLog::open(disk, dir, settings).map_err(|e| error(&e))?;
        let mut problems: Vec<String> =
            recovery.damage.iter().map(|d| format!("catalog log: {d:?}")).collect();
        let recovered = log.start()..log.end();
        let known = view.as_ref().and_then(view::View::load).filter(|(_, at)| *at >= log.active_base());
        let (state, from) = match known {
            Some((state, at)) => (Some(state), at),
            None => (None, log.start()),
        };
        // The view follows the log: where it is ahead, the log has lost what was durable, and the view is all there is.
        let is_ahead = from > log.end();
        if is_ahead {
            let end = log.end();
            problems.push(format!(
                "catalog log: bytes {end} to {from} are lost; the view still had what they said"
            ));
        }
        let (state, from_head) = replay(&log, state, from.min(log.end()), &mut problems)?;
        let is_damaged = recovery.damage.iter().any(|damage| damage.to > log.active_base());
        if log.active_len() == 0 || !from_head || is_ahead || is_damaged {
            // Whole again in a new segment, whatever becomes of the view; the damaged one stays until the next.
            log.roll(&head(&state, now, log.durable_end().0)).map_err(|e| error(&e))?;
        }
        if let Some(view) = &view {
            view.replace(&state, log.durable_end());
        }
        Ok(Catalog { log, state, view, problems, recovered })
    }

    /// What exists.
    #[must_use]
    pub fn state(&self) -> &CatalogState {
        &self.state
    }

    /// Makes a change: durable, then applied.
    ///
    /// # Errors
    /// When it could not be made durable; nothing was applied then, and no further change will be.
    pub fn commit(&mut self, change: &Change, now: UnixMs) -> Result<(), CatalogError> {
        let payload = serde_json::to_vec(change).map_err(|e| error(&e))?;
        let mut frame = Vec::new();
        let durable_below = self.log.durable_end().0;
        let header = Header { kind: Kind::Catalog, arrival: now, durable_below, ..Header::default() };
        put_control(header, &payload, &mut frame);
        if self.log.needs_roll(frame.len() as u64) {
            self.log.roll(&head(&self.state, now, durable_below)).map_err(|e| error(&e))?;
            let _ = self.log.trim(self.log.active_base());
        }
        self.log.append(&frame).map_err(|e| error(&e))?;
        self.log.sync().map_err(|e| error(&e))?;
        self.state.apply(change);
        if let Some(view) = &self.view {
            view.apply(change, self.log.durable_end());
        }
        Ok(())
    }

    /// The oldest byte of the log.
    #[must_use]
    pub fn start(&self) -> Position {
        self.log.start()
    }

    /// After the last durable byte of the log.
    #[must_use]
    pub fn end(&self) -> Position {
        self.log.durable_end()
    }

    /// Lets the view reach the disk. The log needs no closing.
    pub fn close(&self) {
        if let Some(view) = &self.view {
            view.flush();
        }
    }
}

fn head(state: &CatalogState, now: UnixMs, durable_below: u64) -> Vec<u8> {
    let mut frame = Vec::new();
    // Our own type has nothing that JSON can't write.
    let payload = serde_json::to_vec(state).unwrap_or_default();
    let header = Header { kind: Kind::CatalogState, arrival: now, durable_below, ..Header::default() };
    put_control(header, &payload, &mut frame);
    frame
}

fn replay(
    log: &SegmentLog<FrameFormat>,
    known: Option<CatalogState>,
    from: Position,
    problems: &mut Vec<String>,
) -> Result<(CatalogState, bool), CatalogError> {
    let mut has_head = known.is_some();
    let mut state = known.unwrap_or_default();
    let mut scan = log.reader().scan(from);
    while let Some(found) = scan.advance().map_err(|e| error(&e))? {
        match found {
            Scanned::Frame(_, bytes) => has_head |= replay_frame(bytes, &mut state, problems),
            Scanned::Damage(damage) => problems.push(format!("catalog log: {damage:?}")),
        }
    }
    Ok((state, has_head))
}

fn replay_frame(bytes: &[u8], state: &mut CatalogState, problems: &mut Vec<String>) -> bool {
    let Ok(frame) = Frame::parse(bytes) else { return false };
    let result = match frame.header.kind {
        Kind::CatalogState => serde_json::from_slice(frame.payload).map(|new| *state = new),
        Kind::Catalog => serde_json::from_slice(frame.payload).map(|change| state.apply(&change)),
        other => {
            problems.push(format!("catalog log holds a frame of kind {other:?}"));
            return false;
        }
    };
    if let Err(why) = result {
        problems.push(format!("catalog log: {why}"));
        return false;
    }
    frame.header.kind == Kind::CatalogState
}

/// The state that a catalog log comes to and from where to where it is, without touching it: for `kinesin check`.
///
/// # Errors
/// When the folder can't be read.
pub fn read_only(
    disk: &dyn Disk,
    dir: &DirName,
) -> Result<(CatalogState, Range<Position>, Vec<String>), CatalogError> {
    let (mut state, mut problems, mut valid_end) = (CatalogState::default(), Vec::new(), Position(0));
    let segments = disk::list_segments(disk, dir).map_err(|e| error(&e))?;
    let start = segments.first().map_or(Position(0), |oldest| oldest.base);
    for segment in segments {
        let bytes = disk::read_all(disk, &segment.file, 64 << 20).map_err(|e| error(&e))?;
        let scanned = disk::scan_segment::<FrameFormat>(disk, &segment).map_err(|e| error(&e))?;
        let mut at = 0;
        while at < bytes.len() {
            if let Ok((frame, _)) = Frame::parse_first(&bytes[at..]) {
                let end = at + frame.header.total_len as usize;
                replay_frame(&bytes[at..end], &mut state, &mut problems);
                at = end;
                valid_end = segment.base.plus(end as u64);
                continue;
            }
            let position = segment.base.plus(at as u64);
            let Some(damage) = scanned.damage.iter().find(|d| d.from <= position && position < d.to) else {
                break;
            };
            at = (damage.to.0 - segment.base.0) as usize;
        }
    }
    Ok((state, start..valid_end, problems))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reaches `SEGMENT_BYTES_MAX`.
    #[test]
    fn a_log_of_the_catalog_goes_on_in_a_new_segment_when_one_is_full() {
        let disk: Arc<dyn Disk> = Arc::new(disk::MemoryDisk::new(1));
        let mut catalog = Catalog::open(disk, DirName::new("catalog").unwrap(), None, UnixMs(1)).unwrap();
        let mut segments = |bytes: u64| {
            let token = TokenEntry { agent: "a".repeat(bytes as usize), expires: UnixMs(2), uses_left: 1 };
            let change = Change::PutToken { hash: "h".to_owned(), entry: token };
            catalog.commit(&change, UnixMs(1)).unwrap();
            // Begins with a whole picture of the catalog, so that older segments may go.
            (catalog.log.active_base(), catalog.end().0 - catalog.log.active_base().0)
        };
        let (first, _) = segments(1);
        let (same, filled) = segments(SEGMENT_BYTES_MAX / 2);
        assert!(same == first && filled < SEGMENT_BYTES_MAX);
        assert_eq!(segments(1).0, first);
        assert!(segments(SEGMENT_BYTES_MAX / 2).0 > first);
    }
}
