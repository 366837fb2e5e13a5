//! What passes: statuses that streams have for a moment, how much readers have read lately, and who is subscribed. It
//! is in memory only, and reads no clock.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::bucket::TokenBucket;
use protocol::name::{StreamKey, StreamName};
use protocol::sequence::ShardId;
use protocol::time::{Mono, UnixMs};
use tokio::sync::watch;

use crate::service::records::Sketch;

/// Reads of a shard in a second.
const READS_PER_SECOND: u64 = 5;
/// Bytes of a shard in a second.
const READ_BYTES_PER_SECOND: u64 = 2 << 20;
/// Shards whose readers are remembered; the rate of one that is forgotten begins anew.
const SHARDS_MAX: usize = 100_000;

/// What a stream says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Creating,
    Deleting,
    Active,
    Updating,
}

impl Status {
    pub(super) fn text(self) -> &'static str {
        match self {
            Status::Creating => "CREATING",
            Status::Deleting => "DELETING",
            Status::Active => "ACTIVE",
            Status::Updating => "UPDATING",
        }
    }
}

#[derive(Debug)]
struct Phase {
    status: Status,
    until: Mono,
    /// What a stream was that is gone.
    sketch: Option<Box<Sketch>>,
}

#[derive(Debug)]
struct Reads {
    calls: TokenBucket,
    bytes: TokenBucket,
}

/// A subscription younger than this keeps others away; an older one gives way.
pub(super) const TAKE_OVER: Duration = Duration::from_secs(5);

/// A shard, and the consumer that it is read for, by its name and when it was registered.
type Place = (StreamKey, (String, UnixMs), ShardId);

#[derive(Debug)]
struct Subscriber {
    since: Mono,
    /// Whoever holds the other end is the subscriber.
    turn: watch::Sender<bool>,
}

/// The right to one place, until it is taken over or dropped.
#[derive(Debug)]
pub(super) struct Turn(watch::Receiver<bool>);

impl Turn {
    pub(super) async fn taken_over(mut self) {
        // The sender is gone with its entry, which another one has replaced.
        let _ = self.0.wait_for(|taken| *taken).await;
    }
}

#[derive(Debug, Default)]
pub(super) struct Passing {
    subscribers: Mutex<BTreeMap<Place, Subscriber>>,
    phases: Mutex<BTreeMap<StreamName, Phase>>,
    reads: Mutex<BTreeMap<(StreamKey, ShardId), Reads>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Passing {
    /// A status other than active, if the stream has one now; with what it was, where it is gone.
    pub(super) fn status(&self, name: &StreamName, now: Mono) -> Option<(Status, Option<Box<Sketch>>)> {
        let mut phases = locked(&self.phases);
        let phase = phases.get(name)?;
        if phase.until <= now {
            phases.remove(name);
            return None;
        }
        Some((phase.status, phase.sketch.clone()))
    }

    /// Begins what passes, and forgets what has passed: nobody may ever ask for it again.
    pub(super) fn begin(
        &self,
        name: &StreamName,
        status: Status,
        (now, until): (Mono, Mono),
        sketch: Option<Sketch>,
    ) {
        let phase = Phase { status, until, sketch: sketch.map(Box::new) };
        let mut phases = locked(&self.phases);
        phases.retain(|_, phase| phase.until > now);
        phases.insert(name.clone(), phase);
    }

    /// Streams that are gone and not forgotten.
    pub(super) fn deleting(&self, now: Mono) -> Vec<(StreamName, Sketch)> {
        let mut phases = locked(&self.phases);
        phases.retain(|_, phase| phase.until > now);
        let gone = phases.iter().filter_map(|(name, phase)| {
            phase.sketch.as_ref().map(|sketch| (name.clone(), (**sketch).clone()))
        });
        gone.collect()
    }

    /// The turn of a new subscriber; `None` while another one is new. Its predecessor hears that it is over.
    pub(super) fn subscribe(&self, place: Place, now: Mono) -> Option<Turn> {
        let mut subscribers = locked(&self.subscribers);
        subscribers.retain(|_, subscriber| subscriber.turn.receiver_count() > 0);
        if let Some(before) = subscribers.get(&place) {
            if now.since(before.since) < TAKE_OVER {
                return None;
            }
            let _ = before.turn.send(true);
        }
        let (turn, mine) = watch::channel(false);
        subscribers.insert(place, Subscriber { since: now, turn });
        Some(Turn(mine))
    }

    /// Whether a shard may be read now; if so, it counts as a read.
    pub(super) fn may_read(&self, stream: StreamKey, shard: ShardId, now: Mono) -> bool {
        let mut reads = locked(&self.reads);
        if reads.len() >= SHARDS_MAX && !reads.contains_key(&(stream, shard)) {
            reads.clear();
        }
        let reads = reads.entry((stream, shard)).or_insert_with(|| Reads {
            calls: TokenBucket::new(READS_PER_SECOND, READS_PER_SECOND, now),
            bytes: TokenBucket::new(READ_BYTES_PER_SECOND, READ_BYTES_PER_SECOND, now),
        });
        let free = reads.calls.wait_for(1, now).is_zero() && reads.bytes.wait_for(1, now).is_zero();
        if free {
            reads.calls.take(1, now);
        }
        free
    }

    /// A read gave so much: more than a second's worth keeps the next ones waiting.
    pub(super) fn was_read(&self, stream: StreamKey, shard: ShardId, bytes: u64, now: Mono) {
        if let Some(reads) = locked(&self.reads).get_mut(&(stream, shard)) {
            reads.bytes.take(bytes, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_read_five_times_a_second_and_two_mebibytes_a_second() {
        let (passing, key, shard) = (Passing::default(), StreamKey(1), ShardId(0));
        let at = Mono::from_millis;
        assert_eq!((0..6).filter(|_| passing.may_read(key, shard, at(0))).count(), 5);
        assert!(passing.may_read(key, shard, at(1000)));
        passing.was_read(key, shard, 10 << 20, at(1000));
        assert!(!passing.may_read(key, shard, at(4900)) && passing.may_read(key, shard, at(6000)));
        assert!(passing.may_read(key, ShardId(1), at(1000)), "another shard is another matter");
    }

    #[tokio::test]
    async fn a_new_subscription_keeps_others_away_and_an_older_one_gives_way() {
        let passing = Passing::default();
        let consumer = |name: &str, created| (StreamKey(1), (name.to_owned(), UnixMs(created)), ShardId(0));
        let place = || consumer("c", 1);
        let first = passing.subscribe(place(), Mono::from_millis(0)).unwrap();
        assert!(passing.subscribe(place(), Mono::from_millis(4999)).is_none());
        assert!(passing.subscribe(consumer("d", 1), Mono::from_millis(0)).is_some());
        assert!(passing.subscribe(consumer("c", 2), Mono::from_millis(0)).is_some(), "registered anew");
        let second = passing.subscribe(place(), Mono::from_millis(5000)).unwrap();
        first.taken_over().await;
        // One that has ended keeps nobody away.
        drop(second);
        assert!(passing.subscribe(place(), Mono::from_millis(5001)).is_some());
    }

    #[test]
    fn a_status_passes() {
        let (passing, name) = (Passing::default(), StreamName::new("a").unwrap());
        passing.begin(&name, Status::Creating, (Mono::ZERO, Mono::from_millis(10)), None);
        assert_eq!(passing.status(&name, Mono::from_millis(9)).unwrap().0, Status::Creating);
        assert!(passing.status(&name, Mono::from_millis(10)).is_none());
    }

    #[test]
    fn what_has_passed_is_forgotten_though_nobody_asks_for_it() {
        let passing = Passing::default();
        for n in 0..100 {
            let (name, now) = (StreamName::new(&format!("s{n}")).unwrap(), Mono::from_millis(n * 10));
            passing.begin(&name, Status::Deleting, (now, now + Duration::from_millis(20)), None);
        }
        assert_eq!(locked(&passing.phases).len(), 2);
    }

    /// Reaches `SHARDS_MAX`.
    #[test]
    fn so_many_shards_are_remembered_and_one_more_begins_anew() {
        let passing = Passing::default();
        let read = |n: u64| passing.may_read(StreamKey(n), ShardId(0), Mono::ZERO);
        let most = SHARDS_MAX as u64;
        assert!((0..most).all(read) && (0..4).all(|_| read(7)));
        // One that is known forgets nothing.
        assert!(!read(7));
        assert_eq!(locked(&passing.reads).len(), SHARDS_MAX);
        assert!(read(most));
        assert_eq!(locked(&passing.reads).len(), 1);
    }
}
