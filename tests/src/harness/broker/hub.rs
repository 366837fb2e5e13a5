//! All sessions, what is retained, and the counters. Pure: told what happened and when, it says whom to wake.
//!
//! Every message that matched a session's subscriptions is in exactly one of three places:
//! `matched == delivered + dropped + waiting`. A connection is a number; what it says after another one took its session
//! is not heard.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rumqttc::v5::mqttbytes::v5::RetainForwardRule;

use super::session::{Bounds, Offer, Session};
use super::wire::{Connect, Delivery, Grant, Message, Refusal, Subscription};
use super::{Config, Stats, topic};

#[derive(Debug)]
struct Entry {
    session: Session,
    expiry_s: u32,
    /// Set while nobody is connected and the session does not last for ever.
    ends: Option<Instant>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Hub {
    config: Config,
    sessions: BTreeMap<String, Entry>,
    retained: BTreeMap<String, Arc<Message>>,
    stats: Stats,
    last_link: u64,
    last_error: Option<String>,
}

/// A connection that was let in.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) link: u64,
    pub(super) client_id: String,
    pub(super) session_present: bool,
    /// The connection that had the session until now.
    pub(super) ousted: Option<u64>,
}

impl Hub {
    pub(super) fn new(config: Config) -> Hub {
        Hub {
            config,
            sessions: BTreeMap::new(),
            retained: BTreeMap::new(),
            stats: Stats::default(),
            last_link: 0,
            last_error: None,
        }
    }

    pub(super) fn handle_connect(&mut self, connect: &Connect, now: Instant) -> Result<Accepted, Refusal> {
        self.end_expired(now);
        self.last_link += 1;
        let link = self.last_link;
        let client_id = match connect.client_id.as_str() {
            "" if !connect.v5 && !connect.clean => return Err(Refusal::ClientId),
            "" => format!("broker-assigned-{link}"),
            given => given.to_owned(),
        };
        let mut ousted = None;
        if let Some(entry) = self.sessions.get_mut(&client_id) {
            ousted = entry.session.link;
            self.stats.dropped += entry.session.detach();
            if connect.clean {
                self.end(&client_id);
            }
        }
        let session_present = self.sessions.contains_key(&client_id);
        if !session_present && self.sessions.len() >= self.config.max_sessions {
            return Err(Refusal::Full);
        }
        let bounds = Bounds { messages: self.config.max_queued, bytes: self.config.max_queued_bytes };
        let entry = self.sessions.entry(client_id.clone()).or_insert_with(|| Entry {
            session: Session::new(bounds),
            expiry_s: 0,
            ends: None,
        });
        entry.expiry_s = connect.expiry_s;
        entry.ends = None;
        entry.session.attach(link, connect.receive_maximum.min(self.config.max_inflight));
        self.stats.connects += 1;
        Ok(Accepted { link, client_id, session_present, ousted })
    }

    /// The connection is gone, in whatever way.
    pub(super) fn handle_close(&mut self, id: &str, link: u64, expiry_s: Option<u32>, now: Instant) {
        let Some(entry) = self.linked(id, link) else { return };
        let expiry_s = expiry_s.unwrap_or(entry.expiry_s);
        let dropped = entry.session.detach();
        entry.ends = match expiry_s {
            u32::MAX => None,
            seconds => Some(now + Duration::from_secs(seconds.into())),
        };
        self.stats.dropped += dropped;
        self.end_expired(now);
    }

    /// A message arrived. `wake` gets the connections that now have something to send.
    pub(super) fn handle_publish(&mut self, from: &str, message: Message, wake: &mut Vec<u64>) {
        self.stats.published += 1;
        let message = Arc::new(message);
        for (id, entry) in &mut self.sessions {
            match entry.session.offer(&message, id == from) {
                Offer::NotWanted => continue,
                Offer::Dropped => self.stats.dropped += 1,
                Offer::Queued => wake.extend(entry.session.link),
            }
            self.stats.matched += 1;
        }
        if message.retain {
            let known = self.retained.contains_key(&message.topic);
            if message.payload.is_empty() {
                self.retained.remove(&message.topic);
            } else if known || self.retained.len() < self.config.max_retained {
                self.retained.insert(message.topic.clone(), message);
            }
        }
    }

    pub(super) fn handle_subscribe(&mut self, id: &str, link: u64, wanted: Vec<Subscription>) -> Vec<Grant> {
        let max = self.config.max_subscriptions;
        let mut grants = Vec::with_capacity(wanted.len());
        let (mut matched, mut dropped) = (0, 0);
        let Some(entry) = self.sessions.get_mut(id).filter(|entry| entry.session.link == Some(link)) else {
            return grants;
        };
        for wish in wanted {
            let grant = if !topic::is_filter(&wish.filter) {
                Grant::Invalid
            } else if wish.filter.starts_with("$share/") {
                Grant::SharedUnsupported
            } else if entry.session.subscriptions() >= max {
                Grant::Full
            } else {
                Grant::Granted { acked: wish.acked }
            };
            grants.push(grant);
            if !matches!(grant, Grant::Granted { .. }) {
                continue;
            }
            let new = entry.session.subscribe(wish.clone());
            let send = match wish.retained {
                RetainForwardRule::OnEverySubscribe => true,
                RetainForwardRule::OnNewSubscribe => new,
                RetainForwardRule::Never => false,
            };
            for message in self.retained.values().filter(|_| send) {
                if topic::matches(&wish.filter, &message.topic) {
                    matched += 1;
                    let offer = entry.session.offer_retained(message, &wish);
                    dropped += u64::from(offer == Offer::Dropped);
                }
            }
        }
        self.stats.matched += matched;
        self.stats.dropped += dropped;
        grants
    }

    pub(super) fn handle_unsubscribe(&mut self, id: &str, link: u64, filters: &[String]) -> Vec<bool> {
        match self.linked(id, link) {
            Some(entry) => filters.iter().map(|filter| entry.session.unsubscribe(filter)).collect(),
            None => Vec::new(),
        }
    }

    /// The client took a message, or (`refused`) said that it never will.
    pub(super) fn handle_puback(&mut self, id: &str, link: u64, pkid: u16, refused: bool) {
        let known = self.linked(id, link).is_some_and(|entry| entry.session.ack(pkid));
        match (known, refused) {
            (true, false) => self.stats.delivered += 1,
            (true, true) => self.stats.dropped += 1,
            (false, _) => self.stats.stray_acks += 1,
        }
    }

    /// The next message for this connection.
    pub(super) fn poll_delivery(&mut self, id: &str, link: u64) -> Option<Delivery> {
        let delivery = self.linked(id, link)?.session.poll()?;
        self.stats.delivered += u64::from(delivery.pkid == 0);
        self.stats.redelivered += u64::from(delivery.again);
        Some(delivery)
    }

    /// A delivery that this client can never take, because it is larger than it accepts.
    pub(super) fn handle_too_large(&mut self, id: &str, link: u64, pkid: u16) {
        if pkid == 0 {
            self.stats.delivered -= 1;
            self.stats.dropped += 1;
        } else {
            self.handle_puback(id, link, pkid, true);
        }
    }

    pub(super) fn handle_protocol_error(&mut self, why: String) {
        self.stats.protocol_errors += 1;
        self.last_error = Some(why);
    }

    pub(super) fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    pub(super) fn stats(&self) -> Stats {
        let sessions = self.sessions.values();
        Stats {
            waiting: sessions.clone().map(|entry| entry.session.waiting() as u64).sum(),
            sessions: self.sessions.len() as u64,
            subscriptions: sessions.clone().map(|entry| entry.session.subscriptions() as u64).sum(),
            connected: sessions.filter(|entry| entry.session.link.is_some()).count() as u64,
            ..self.stats
        }
    }

    fn linked(&mut self, id: &str, link: u64) -> Option<&mut Entry> {
        self.sessions.get_mut(id).filter(|entry| entry.session.link == Some(link))
    }

    fn end(&mut self, id: &str) {
        if let Some(entry) = self.sessions.remove(id) {
            self.stats.dropped += entry.session.waiting() as u64;
        }
    }

    fn end_expired(&mut self, now: Instant) {
        let over = |entry: &Entry| entry.ends.is_some_and(|ends| ends <= now);
        let ended: Vec<_> =
            self.sessions.iter().filter(|(_, entry)| over(entry)).map(|(id, _)| id.clone()).collect();
        for id in ended {
            self.end(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(id: &str, clean: bool, window: u16) -> Connect {
        Connect {
            client_id: id.to_owned(),
            clean,
            expiry_s: if clean { 0 } else { u32::MAX },
            keep_alive_s: 0,
            receive_maximum: window,
            max_packet: u32::MAX,
            will: None,
            v5: true,
        }
    }

    fn message(topic: &str, number: u32, acked: bool) -> Message {
        let payload = number.to_string().into();
        Message { topic: topic.to_owned(), payload, acked, retain: false, properties: None }
    }

    fn all(filter: &str) -> Vec<Subscription> {
        vec![Subscription {
            filter: filter.to_owned(),
            acked: true,
            no_local: false,
            keep_retain: false,
            retained: RetainForwardRule::OnEverySubscribe,
            id: None,
        }]
    }

    fn sent(hub: &mut Hub, id: &str, link: u64) -> Vec<(u16, bool, String)> {
        let mut all = Vec::new();
        while let Some(delivery) = hub.poll_delivery(id, link) {
            let text = String::from_utf8_lossy(&delivery.message.payload).into_owned();
            all.push((delivery.pkid, delivery.again, text));
        }
        all
    }

    fn texts(sent: &[(u16, bool, String)]) -> Vec<&str> {
        sent.iter().map(|(_, _, text)| text.as_str()).collect()
    }

    #[test]
    fn what_was_not_acknowledged_is_sent_again_in_order_and_marked_within_the_new_window() {
        let now = clock();
        let mut hub = Hub::new(Config::default());
        let first = hub.handle_connect(&connect("agent", false, 4), now).unwrap();
        hub.handle_subscribe("agent", first.link, all("#"));
        for number in 0..6 {
            hub.handle_publish("truck", message("t", number, true), &mut Vec::new());
        }
        let before = sent(&mut hub, "agent", first.link);
        assert_eq!(texts(&before), ["0", "1", "2", "3"], "no more than the window");
        hub.handle_puback("agent", first.link, before[1].0, false);
        assert_eq!(texts(&sent(&mut hub, "agent", first.link)), ["4"]);
        hub.handle_close("agent", first.link, None, now);

        let second = hub.handle_connect(&connect("agent", false, 2), now).unwrap();
        assert!(second.session_present);
        let again = sent(&mut hub, "agent", second.link);
        assert_eq!(texts(&again), ["0", "2"]);
        assert!(again.iter().all(|(_, again, _)| *again));
        assert_eq!(again[0].0, before[0].0, "the same packet identifier");
        hub.handle_puback("agent", first.link, again[0].0, false);
        assert_eq!(hub.stats().stray_acks, 1, "what the earlier connection still says is not heard");
        for (pkid, ..) in again {
            hub.handle_puback("agent", second.link, pkid, false);
        }
        let rest = sent(&mut hub, "agent", second.link);
        assert_eq!(texts(&rest), ["3", "4"]);
        for (pkid, ..) in rest {
            hub.handle_puback("agent", second.link, pkid, false);
        }
        let last = sent(&mut hub, "agent", second.link);
        assert_eq!((texts(&last), last[0].1), (vec!["5"], false), "sent for the first time: not marked");
    }

    #[test]
    fn a_full_queue_drops_the_newest_and_says_so() {
        let mut hub = Hub::new(Config { max_queued: 3, ..Config::default() });
        let link = hub.handle_connect(&connect("agent", false, 10), clock()).unwrap().link;
        hub.handle_subscribe("agent", link, all("#"));
        for number in 0..5 {
            hub.handle_publish("truck", message("t", number, true), &mut Vec::new());
        }
        assert_eq!(texts(&sent(&mut hub, "agent", link)), ["0", "1", "2"]);
        let stats = hub.stats();
        assert_eq!((stats.matched, stats.dropped, stats.waiting), (5, 2, 3));
    }

    #[test]
    fn overlapping_subscriptions_make_one_copy() {
        let mut hub = Hub::new(Config::default());
        let link = hub.handle_connect(&connect("agent", true, 10), clock()).unwrap().link;
        hub.handle_subscribe("agent", link, all("a/+"));
        hub.handle_subscribe("agent", link, all("a/#"));
        hub.handle_publish("truck", message("a/b", 1, true), &mut Vec::new());
        assert_eq!(sent(&mut hub, "agent", link).len(), 1);
    }

    #[test]
    fn a_session_ends_when_its_time_is_over_and_its_messages_are_counted() {
        let now = clock();
        let mut hub = Hub::new(Config::default());
        let link =
            hub.handle_connect(&Connect { expiry_s: 60, ..connect("agent", false, 1) }, now).unwrap().link;
        hub.handle_subscribe("agent", link, all("#"));
        hub.handle_close("agent", link, None, now);
        hub.handle_publish("truck", message("t", 1, true), &mut Vec::new());
        let later = now + Duration::from_secs(61);
        assert!(!hub.handle_connect(&connect("agent", false, 1), later).unwrap().session_present);
        assert_eq!((hub.stats().dropped, hub.stats().waiting), (1, 0));
    }

    /// Whatever happens, in whatever order, every message that matched is in exactly one place, and QoS 1 arrives in order.
    #[test]
    fn nothing_is_lost_or_counted_twice_in_ten_thousand_random_histories() {
        for seed in 0..10_000_u64 {
            let mut chance = crate::harness::corpus::Chance::new(seed);
            let now = clock();
            let max_queued = 3 + chance.below(20) as usize;
            let mut hub = Hub::new(Config { max_queued, max_inflight: 5, ..Config::default() });
            let (mut link, mut unacked, mut number, mut newest) = (None, Vec::new(), 0, None);
            for _ in 0..60 {
                match (chance.below(8), link) {
                    (0, None) => {
                        let window = 1 + chance.below(8) as u16;
                        let clean = chance.below(8) == 0;
                        let accepted = hub.handle_connect(&connect("agent", clean, window), now).unwrap();
                        if !accepted.session_present {
                            hub.handle_subscribe("agent", accepted.link, all("#"));
                        }
                        // A clean session here has no expiry, so what came before it may not come again.
                        link = Some(accepted.link);
                    }
                    (1, Some(gone)) => {
                        hub.handle_close("agent", gone, None, now);
                        (link, unacked) = (None, Vec::new());
                    }
                    (2..=4, _) => {
                        hub.handle_publish(
                            "truck",
                            message("t", number, chance.below(4) != 0),
                            &mut Vec::new(),
                        );
                        number += 1;
                    }
                    (5 | 6, Some(link)) => {
                        for (pkid, again, text) in sent(&mut hub, "agent", link) {
                            let number: u32 = text.parse().unwrap();
                            assert!(again || newest < Some(number), "seed {seed}: {number} after {newest:?}");
                            newest = newest.max(Some(number));
                            if pkid != 0 {
                                unacked.push(pkid);
                            }
                        }
                        assert!(unacked.len() <= 5, "seed {seed}: window");
                    }
                    (7, Some(link)) if !unacked.is_empty() => {
                        let at = chance.below(unacked.len() as u64) as usize;
                        hub.handle_puback("agent", link, unacked.remove(at), chance.below(9) == 0);
                    }
                    _ => {}
                }
                let stats = hub.stats();
                assert_eq!(stats.matched, stats.delivered + stats.dropped + stats.waiting, "seed {seed}");
                assert_eq!(stats.stray_acks, 0, "seed {seed}");
                assert!(stats.waiting <= max_queued as u64, "seed {seed}");
            }
        }
    }

    fn clock() -> Instant {
        crate::clock::now()
    }
}
