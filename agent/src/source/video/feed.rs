//! Hands fragments to the pipeline, one after the other, waiting for room; and knows which of them are durable. Never:
//! where they come from.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use protocol::frame::Header;
use protocol::name::StreamName;
use protocol::time::UnixMs;
use video::cut::Cut;
use video::fragment::PARTITION_KEY;

use crate::clock::unix_ms;
use crate::hub::{Fragment, Hub, Message, Payload};

/// How often it is looked whether there is room, something is durable, or the agent ends.
const PAUSE: Duration = Duration::from_millis(5);

/// A cursor's id, and its text, or that it is to be forgotten.
pub(super) type Cursor = (String, Option<String>);

/// See the module.
pub(super) struct Feeder {
    hub: Arc<Hub>,
    source: usize,
    stream: StreamName,
    number: u64,
}

/// Lets time pass.
#[expect(
    clippy::disallowed_methods,
    reason = "a thread of its own, which has nothing else to do than wait for a camera, for room, or for the spool"
)]
pub(super) fn pause(time: Duration) {
    std::thread::sleep(time);
}

impl Feeder {
    pub(super) fn new(hub: &Arc<Hub>, source: usize, stream: &StreamName) -> Feeder {
        Feeder { hub: Arc::clone(hub), source, stream: stream.clone(), number: 0 }
    }

    pub(super) fn stopping(&self) -> bool {
        self.hub.stopping()
    }

    /// Lets time pass, or less when the agent ends.
    pub(super) fn wait(&self, time: Duration) {
        let mut rest = time;
        while !rest.is_zero() && !self.stopping() {
            let step = rest.min(PAUSE * 10);
            pause(step);
            rest -= step;
        }
    }

    /// Hands on a fragment that was taken now, with what is to be remembered once it is durable. False when the agent ends.
    pub(super) fn fragment(&mut self, cut: &Cut, cursor: Option<Cursor>) -> bool {
        self.fragment_taken(cut, unix_ms(), cursor)
    }

    /// The same of one that was taken then, by this machine's clock.
    pub(super) fn fragment_taken(&mut self, cut: &Cut, taken: UnixMs, cursor: Option<Cursor>) -> bool {
        let mut frame = Vec::with_capacity(cut.data.len() + 64 * 1024);
        // The store notes there when it came; until then it is when it came here.
        let header = Header { stream: self.stream.key(), arrival: taken, ..Header::default() };
        // The key is a partition key, so there is nothing to refuse.
        let sealed = cut.seal(PARTITION_KEY, header, &mut frame);
        debug_assert!(sealed.is_ok(), "{sealed:?}");
        self.hand(frame, cursor)
    }

    /// Has a cursor remembered, after all that was handed on before. False when the agent ends.
    pub(super) fn remember(&mut self, cursor: Cursor) -> bool {
        self.hand(Vec::new(), Some(cursor))
    }

    fn hand(&mut self, frame: Vec<u8>, cursor: Option<Cursor>) -> bool {
        while !self.hub.has_message_room() {
            if self.stopping() {
                return false;
            }
            pause(PAUSE);
        }
        self.number += 1;
        let fragment = Fragment { stream: self.stream.clone(), frame, cursor };
        self.hub.message(Message {
            source: self.source,
            number: self.number,
            topic: String::new(),
            payload: Payload::Fragment(Box::new(fragment)),
            hash: 0,
            forget: false,
        });
        !self.stopping()
    }

    /// Waits until all that was handed on is durable. False when the agent ends before.
    pub(super) fn all_durable(&self) -> bool {
        loop {
            let durable = self.hub.durable_messages.get(self.source).map_or(0, |n| n.load(Ordering::Acquire));
            if durable >= self.number {
                return true;
            }
            if self.stopping() {
                return false;
            }
            pause(PAUSE);
        }
    }
}
