//! One client's session: what it subscribed to, what waits for it, what it has not acknowledged.
//!
//! Pure: no socket, no clock. Order is one queue's: what was published first is sent first, and what is sent again after
//! a reconnect keeps its order and its packet identifier and carries the duplicate mark.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::topic;
use super::wire::{Delivery, Message, Subscription};

/// How much one session may hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

/// What a message is worth in the session's byte bound: its data and what it takes to hold it.
fn cost(message: &Message) -> usize {
    message.topic.len() + message.payload.len() + 96
}

#[derive(Debug)]
struct Queued {
    message: Arc<Message>,
    acked: bool,
    retained: bool,
    ids: Vec<usize>,
}

#[derive(Debug)]
struct InFlight {
    pkid: u16,
    queued: Queued,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Session {
    subscriptions: BTreeMap<String, Subscription>,
    queue: VecDeque<Queued>,
    /// Sent and not acknowledged, oldest first. The first `sent` of them went out on the present connection.
    in_flight: VecDeque<InFlight>,
    sent: usize,
    last_pkid: u16,
    bytes: usize,
    window: usize,
    bounds: Bounds,
    /// The connection that serves this session now.
    pub(super) link: Option<u64>,
}

impl Session {
    pub(super) fn new(bounds: Bounds) -> Session {
        Session {
            subscriptions: BTreeMap::new(),
            queue: VecDeque::new(),
            in_flight: VecDeque::new(),
            sent: 0,
            last_pkid: 0,
            bytes: 0,
            window: 0,
            bounds,
            link: None,
        }
    }

    /// A connection takes over: everything unacknowledged is to be sent again, at most `window` at a time.
    pub(super) fn attach(&mut self, link: u64, window: u16) {
        self.link = Some(link);
        self.sent = 0;
        self.window = usize::from(window).max(1);
    }

    /// The connection is gone. Returns how many messages are given up: those of QoS 0 do not outlive it.
    pub(super) fn detach(&mut self) -> u64 {
        self.link = None;
        self.sent = 0;
        let before = self.queue.len();
        let bytes = &mut self.bytes;
        self.queue.retain(|queued| {
            if !queued.acked {
                *bytes -= cost(&queued.message);
            }
            queued.acked
        });
        (before - self.queue.len()) as u64
    }

    /// Messages held, sent or not.
    pub(super) fn waiting(&self) -> usize {
        self.queue.len() + self.in_flight.len()
    }

    /// How many filters are subscribed to.
    pub(super) fn subscriptions(&self) -> usize {
        self.subscriptions.len()
    }

    /// True if this is a new subscription, false if it replaced one.
    pub(super) fn subscribe(&mut self, subscription: Subscription) -> bool {
        self.subscriptions.insert(subscription.filter.clone(), subscription).is_none()
    }

    pub(super) fn unsubscribe(&mut self, filter: &str) -> bool {
        self.subscriptions.remove(filter).is_some()
    }

    /// The session's wish for this message: overlapping subscriptions make one copy, with the highest QoS of them.
    fn wants(&self, message: &Message, own: bool) -> Option<Wish> {
        let mut wish: Option<Wish> = None;
        for subscription in self.subscriptions.values() {
            if own && subscription.no_local || !topic::matches(&subscription.filter, &message.topic) {
                continue;
            }
            let wish = wish.get_or_insert_default();
            wish.acked |= subscription.acked && message.acked;
            wish.retained |= subscription.keep_retain && message.retain;
            wish.ids.extend(subscription.id);
        }
        wish
    }

    /// A message was published. `own` says that this session published it.
    pub(super) fn offer(&mut self, message: &Arc<Message>, own: bool) -> Offer {
        match self.wants(message, own) {
            None => Offer::NotWanted,
            Some(Wish { acked, retained, ids }) => {
                self.push(Queued { message: Arc::clone(message), acked, retained, ids })
            }
        }
    }

    /// A retained message, because of a subscription just made.
    pub(super) fn offer_retained(&mut self, message: &Arc<Message>, by: &Subscription) -> Offer {
        let acked = by.acked && message.acked;
        self.push(Queued {
            message: Arc::clone(message),
            acked,
            retained: true,
            ids: by.id.into_iter().collect(),
        })
    }

    fn push(&mut self, queued: Queued) -> Offer {
        let cost = cost(&queued.message);
        let full = self.waiting() >= self.bounds.messages || self.bytes + cost > self.bounds.bytes;
        if full || (self.link.is_none() && !queued.acked) {
            return Offer::Dropped;
        }
        self.bytes += cost;
        self.queue.push_back(queued);
        Offer::Queued
    }

    /// The next message to send on this connection, if the client's window has room.
    pub(super) fn poll(&mut self) -> Option<Delivery> {
        self.link?;
        if self.sent < self.in_flight.len() {
            if self.sent >= self.window {
                return None;
            }
            let again = &self.in_flight[self.sent];
            self.sent += 1;
            return Some(delivery(&again.queued, again.pkid, true));
        }
        if self.queue.front()?.acked && self.in_flight.len() >= self.window {
            return None;
        }
        let queued = self.queue.pop_front()?;
        if !queued.acked {
            self.bytes -= cost(&queued.message);
            return Some(delivery(&queued, 0, false));
        }
        let pkid = self.free_pkid();
        let delivery = delivery(&queued, pkid, false);
        self.in_flight.push_back(InFlight { pkid, queued });
        self.sent += 1;
        Some(delivery)
    }

    /// The client acknowledged; also good for something sent on an earlier connection. False if nothing was waiting for it.
    pub(super) fn ack(&mut self, pkid: u16) -> bool {
        let Some(at) = self.in_flight.iter().position(|sent| sent.pkid == pkid) else { return false };
        if at < self.sent {
            self.sent -= 1;
        }
        if let Some(done) = self.in_flight.remove(at) {
            self.bytes -= cost(&done.queued.message);
        }
        true
    }

    fn free_pkid(&mut self) -> u16 {
        // Ends: the window is a u16, and zero is skipped, so fewer identifiers are taken than exist.
        loop {
            self.last_pkid = self.last_pkid.checked_add(1).unwrap_or(1);
            if !self.in_flight.iter().any(|sent| sent.pkid == self.last_pkid) {
                return self.last_pkid;
            }
        }
    }
}

/// How a session wants a message, all its matching subscriptions taken together.
#[derive(Debug, Default)]
struct Wish {
    acked: bool,
    retained: bool,
    ids: Vec<usize>,
}

/// What became of a message that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offer {
    NotWanted,
    Queued,
    Dropped,
}

fn delivery(queued: &Queued, pkid: u16, again: bool) -> Delivery {
    Delivery {
        message: Arc::clone(&queued.message),
        pkid,
        again,
        retained: queued.retained,
        ids: queued.ids.clone(),
    }
}
