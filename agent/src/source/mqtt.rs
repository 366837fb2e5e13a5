//! The MQTT source: messages of a broker, acknowledged once the spool has them.
//!
//! [`Tracker`] remembers what is to be acknowledged and what a broker may send again (without I/O); [`run`] is the driver on the network thread. Each connection gets a client of its own,
//! so that no acknowledgement of one connection can reach the next, where its number may mean another message.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::backoff::Backoff;
use protocol::time::Mono;
use rumqttc::Transport;
use tokio::time::{sleep, timeout};

use crate::clock::Clock;
use crate::config::{MqttSource as Settings, MqttVersion};
use crate::hub::{Hub, Message, Payload};
use crate::log::Log;
use crate::source::file::identity::hash;
use crate::status::Stats;

/// Messages that are remembered, to know them again.
const RECENT_MAX: usize = 2048;

/// An acknowledgement that was sent so long before a connection broke has arrived.
const ACK_ARRIVED_MS: u64 = 10_000;

/// Unacknowledged messages that a broker may send (MQTT 5). A broker that keeps to 20 drops at its own end while it
/// waits for a commit.
const RECEIVE_MAX: u16 = 1000;

/// More than a broker sends at once, so that an acknowledgement always finds room.
const REQUESTS_MAX: usize = 4096;

/// A message that waits for its acknowledgement. `P` is the client's own publish.
#[derive(Debug)]
struct Pending<P> {
    number: u64,
    hash: u64,
    publish: P,
}

/// What is to be acknowledged, and what was already taken. Pure.
#[derive(Debug)]
pub struct Tracker<P> {
    pending: VecDeque<Pending<P>>,
    /// By hash: when its acknowledgement was sent, if it was.
    known: BTreeMap<u64, Option<Mono>>,
    order: VecDeque<u64>,
    last: u64,
    forget: bool,
}

/// What to do with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrived {
    /// Hand it on, under this number; `forget`: the broker remembers nothing of before.
    New {
        /// Its number.
        number: u64,
        /// See above.
        forget: bool,
    },
    /// It was handed on before.
    Again,
}

impl<P> Tracker<P> {
    /// Remembers what the spool remembers.
    #[must_use]
    pub fn new(recent: impl IntoIterator<Item = u64>) -> Tracker<P> {
        let order: VecDeque<u64> = recent.into_iter().collect();
        let known = order.iter().map(|hash| (*hash, None)).collect();
        Tracker { pending: VecDeque::new(), known, order, last: 0, forget: false }
    }

    /// A connection is up: what was not acknowledged on the one before comes again, if the broker kept the session.
    pub fn handle_connected(&mut self, session_present: bool, now: Mono) {
        self.pending.clear();
        if session_present {
            // What was acknowledged long before will not come again; something that looks like it is new.
            let arrived = |at: &Option<Mono>| at.is_some_and(|at| now >= at.plus_millis(ACK_ARRIVED_MS));
            self.known.retain(|_, at| !arrived(at));
            self.order.retain(|hash| self.known.contains_key(hash));
        } else {
            self.known.clear();
            self.order.clear();
            self.forget = true;
        }
    }

    /// A message has come. `hash` 0 and no `publish` where the broker wants no acknowledgement.
    pub fn handle_message(&mut self, hash: u64, dup: bool, publish: Option<P>) -> Arrived {
        if let Some(publish) = publish {
            if dup && self.known.contains_key(&hash) {
                // It is in the spool, or on its way there before whatever comes now.
                self.known.insert(hash, None);
                self.pending.push_back(Pending { number: self.last, hash, publish });
                return Arrived::Again;
            }
            self.last += 1;
            self.remember(hash);
            self.pending.push_back(Pending { number: self.last, hash, publish });
        } else {
            self.last += 1;
        }
        Arrived::New { number: self.last, forget: std::mem::take(&mut self.forget) }
    }

    fn remember(&mut self, hash: u64) {
        if self.known.insert(hash, None).is_none() {
            self.order.push_back(hash);
        }
        while self.order.len() > RECENT_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }

    /// The next message to acknowledge, where the spool has all up to `durable`. False from `ack`: not now.
    pub fn acknowledge(&mut self, durable: u64, now: Mono, mut ack: impl FnMut(&P) -> bool) {
        while let Some(first) = self.pending.front() {
            if first.number > durable || !ack(&first.publish) {
                return;
            }
            if let Some(at) = self.known.get_mut(&first.hash) {
                *at = Some(now);
            }
            self.pending.pop_front();
        }
    }

    /// Messages that wait for their acknowledgement.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.pending.len()
    }
}

/// What the driver of one source needs.
pub(crate) struct Parts {
    pub(crate) source: usize,
    pub(crate) settings: Settings,
    pub(crate) client_id: String,
    pub(crate) recent: Vec<u64>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) stats: Arc<Stats>,
    pub(crate) log: Log,
    pub(crate) clock: Clock,
}

/// Connects and takes messages until the agent ends.
pub(crate) async fn run(parts: Parts) {
    match parts.settings.version {
        MqttVersion::V5 => v5::run(parts).await,
        MqttVersion::V311 => v4::run(parts).await,
    }
}

fn message_hash(topic: &str, payload: &[u8], pkid: u16) -> u64 {
    let head = hash(topic.as_bytes()).rotate_left(17) ^ u64::from(pkid).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    // 0 is for messages that nobody remembers.
    (head ^ hash(payload)).max(1)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Parts {
    fn transport(&self) -> Result<Transport, String> {
        let settings = &self.settings;
        if !settings.broker.tls {
            return Ok(Transport::Tcp);
        }
        let Some(ca) = &settings.ca else {
            return Err("mqtts needs `ca`, the file of the broker's authority".to_owned());
        };
        let pair = match (&settings.certificate, &settings.key) {
            (Some(cert), Some(key)) => Some(crate::send::tls::pair(cert, key)?),
            _ => None,
        };
        let config = crate::send::tls::client(ca, pair, &[])?;
        Ok(Transport::tls_with_config(rumqttc::TlsConfiguration::Rustls(config)))
    }

    fn name(&self) -> String {
        format!("{}:{}", self.settings.broker.host, self.settings.broker.port)
    }

    /// Waits until the pipeline has room, or the agent ends.
    async fn room(&self) {
        while !self.hub.has_message_room() && !self.hub.stopping() {
            let _ = timeout(Duration::from_millis(50), self.hub.messages_room.notified()).await;
        }
    }

    fn hand_on(&self, arrived: Arrived, topic: String, payload: Vec<u8>, hash: u64) {
        match arrived {
            Arrived::New { number, forget } => {
                let payload = Payload::Record(payload);
                self.hub.message(Message { source: self.source, number, topic, payload, hash, forget });
            }
            Arrived::Again => {
                self.stats.add_redelivered();
                // Perhaps it is durable already, and nothing else will wake the acknowledgements.
                self.hub.acks.notify_one();
            }
        }
    }

    fn durable(&self) -> u64 {
        self.hub.durable_messages[self.source].load(Ordering::Acquire)
    }
}

/// The same driver for both versions of the protocol: the client has two APIs that differ in their types only.
macro_rules! driver {
    ($module:ident, $client:path, $event:path, $eventloop:path, $incoming:path, $publish:path, $qos:path,
     $options:expr, $filters:expr, $topic:expr) => {
        mod $module {
            use $client as AsyncClient;
            use $event as Event;
            use $eventloop as EventLoop;
            use $incoming as Incoming;
            use $publish as Publish;
            use $qos as QoS;

            use super::*;

            type Shared = Arc<Mutex<Tracker<Publish>>>;

            pub(super) async fn run(parts: Parts) {
                let tracker: Shared = Arc::new(Mutex::new(Tracker::new(parts.recent.iter().copied())));
                let parts = Arc::new(parts);
                let mut backoff = Backoff::new(200, 10_000, hash(parts.client_id.as_bytes()));
                let mut subscribed = false;
                while !parts.hub.stopping() {
                    match connection(&parts, &tracker, &mut subscribed, &mut backoff).await {
                        Ok(()) => return,
                        Err(why) => {
                            let name = parts.name();
                            parts.stats.set_error(&format!("mqtt {name}: {why}"));
                            let text = format!("mqtt {name}: {why}; trying again");
                            parts.log.warn(&format!("mqtt {name}: {why}"), &text);
                        }
                    }
                    let mut left = backoff.next_wait();
                    while !left.is_zero() && !parts.hub.stopping() {
                        let step = left.min(Duration::from_millis(100));
                        sleep(step).await;
                        left -= step;
                    }
                }
            }

            async fn connection(
                parts: &Arc<Parts>,
                tracker: &Shared,
                subscribed: &mut bool,
                backoff: &mut Backoff,
            ) -> Result<(), String> {
                let make: fn(&Parts) -> Result<_, String> = $options;
                let (client, mut events): (AsyncClient, EventLoop) =
                    AsyncClient::new(make(parts)?, REQUESTS_MAX);
                let acks = tokio::spawn(acknowledge(Arc::clone(parts), Arc::clone(tracker), client.clone()));
                let result = poll(parts, tracker, &client, &mut events, subscribed, backoff).await;
                acks.abort();
                result
            }

            async fn poll(
                parts: &Parts,
                tracker: &Shared,
                client: &AsyncClient,
                events: &mut EventLoop,
                subscribed: &mut bool,
                backoff: &mut Backoff,
            ) -> Result<(), String> {
                loop {
                    // Never interrupted but by the end of the agent: it may be half way through a handshake.
                    let event = events.poll().await.map_err(|e| e.to_string())?;
                    match event {
                        Event::Incoming(Incoming::ConnAck(ack)) => {
                            lock(tracker).handle_connected(ack.session_present, parts.clock.now());
                            if !ack.session_present || !*subscribed {
                                let filters: fn(&Parts) -> _ = $filters;
                                client.try_subscribe_many(filters(parts)).map_err(|e| e.to_string())?;
                                *subscribed = true;
                            }
                            backoff.reset();
                            parts.log.info(&format!("mqtt {}: connected", parts.name()));
                        }
                        Event::Incoming(Incoming::Publish(publish)) => {
                            parts.room().await;
                            if parts.hub.stopping() {
                                return Ok(());
                            }
                            take(parts, tracker, publish);
                        }
                        _ => {}
                    }
                }
            }

            fn take(parts: &Parts, tracker: &Shared, publish: Publish) {
                let text: fn(&Publish) -> String = $topic;
                let topic = text(&publish);
                let payload = publish.payload.to_vec();
                let wanted = publish.qos != QoS::AtMostOnce;
                let hash = if wanted { message_hash(&topic, &payload, publish.pkid) } else { 0 };
                let dup = publish.dup;
                let arrived = lock(tracker).handle_message(hash, dup, wanted.then_some(publish));
                parts.hand_on(arrived, topic, payload, hash);
            }

            async fn acknowledge(parts: Arc<Parts>, tracker: Shared, client: AsyncClient) {
                loop {
                    // The time-out is for what found no room in the client the last time.
                    let _ = timeout(Duration::from_millis(20), parts.hub.acks.notified()).await;
                    let (durable, now) = (parts.durable(), parts.clock.now());
                    lock(&tracker).acknowledge(durable, now, |publish| client.try_ack(publish).is_ok());
                }
            }
        }
    };
}

driver!(
    v5,
    rumqttc::v5::AsyncClient,
    rumqttc::v5::Event,
    rumqttc::v5::EventLoop,
    rumqttc::v5::Incoming,
    rumqttc::v5::mqttbytes::v5::Publish,
    rumqttc::v5::mqttbytes::QoS,
    |parts: &Parts| {
        let broker = &parts.settings.broker;
        let mut options = rumqttc::v5::MqttOptions::new(&parts.client_id, &broker.host, broker.port);
        options.set_transport(parts.transport()?);
        options.set_keep_alive(Duration::from_secs(30));
        options.set_clean_start(false);
        options.set_session_expiry_interval(Some(u32::MAX));
        options.set_receive_maximum(Some(RECEIVE_MAX));
        options.set_max_packet_size(Some(PACKET_BYTES_MAX as u32));
        options.set_manual_acks(true);
        if let Some(user) = &parts.settings.username {
            options.set_credentials(user, parts.settings.password.clone().unwrap_or_default());
        }
        Ok(options)
    },
    |parts: &Parts| {
        use rumqttc::v5::mqttbytes::v5::{Filter, RetainForwardRule};
        let filter = |topic: &String| {
            let mut filter = Filter::new(topic.clone(), rumqttc::v5::mqttbytes::QoS::AtLeastOnce);
            filter.retain_forward_rule = RetainForwardRule::OnNewSubscribe;
            filter
        };
        parts.settings.topics.iter().map(filter).collect::<Vec<_>>()
    },
    |publish: &rumqttc::v5::mqttbytes::v5::Publish| String::from_utf8_lossy(&publish.topic).into_owned()
);

driver!(
    v4,
    rumqttc::AsyncClient,
    rumqttc::Event,
    rumqttc::EventLoop,
    rumqttc::Incoming,
    rumqttc::Publish,
    rumqttc::QoS,
    |parts: &Parts| {
        let broker = &parts.settings.broker;
        let mut options = rumqttc::MqttOptions::new(&parts.client_id, &broker.host, broker.port);
        options.set_transport(parts.transport()?);
        options.set_keep_alive(Duration::from_secs(30));
        options.set_clean_session(false);
        options.set_max_packet_size(PACKET_BYTES_MAX, PACKET_BYTES_MAX);
        options.set_manual_acks(true);
        if let Some(user) = &parts.settings.username {
            options.set_credentials(user, parts.settings.password.clone().unwrap_or_default());
        }
        Ok(options)
    },
    |parts: &Parts| {
        let filter = |topic: &String| rumqttc::SubscribeFilter::new(topic.clone(), rumqttc::QoS::AtLeastOnce);
        parts.settings.topics.iter().map(filter).collect::<Vec<_>>()
    },
    |publish: &rumqttc::Publish| publish.topic.clone()
);

/// The largest packet there is. A client that refuses one gets it again for ever; the bound that counts is
/// `message_bytes_max`, over which a message goes into the loss ledger and is acknowledged.
const PACKET_BYTES_MAX: usize = 268_435_455;

#[cfg(test)]
mod tests {
    use super::*;

    fn acked(tracker: &mut Tracker<u16>, durable: u64) -> Vec<u16> {
        let mut out = Vec::new();
        tracker.acknowledge(durable, Mono::ZERO, |pkid| {
            out.push(*pkid);
            true
        });
        out
    }

    #[test]
    fn nothing_is_acknowledged_before_it_is_durable_and_then_in_order() {
        let mut tracker: Tracker<u16> = Tracker::new([]);
        tracker.handle_connected(true, Mono::ZERO);
        for pkid in 1..=3 {
            tracker.handle_message(u64::from(pkid) * 10, false, Some(pkid));
        }
        assert_eq!(acked(&mut tracker, 0), [0u16; 0]);
        assert_eq!(acked(&mut tracker, 2), [1, 2]);
        assert_eq!(acked(&mut tracker, 9), [3]);
    }

    #[test]
    fn a_message_that_comes_again_is_only_acknowledged_also_after_a_restart() {
        let mut tracker = Tracker::new([77]);
        tracker.handle_connected(true, Mono::ZERO);
        assert_eq!(tracker.handle_message(77, true, Some(5)), Arrived::Again);
        let first = tracker.handle_message(10, false, Some(1));
        assert_eq!(first, Arrived::New { number: 1, forget: false });
        tracker.handle_connected(true, Mono::ZERO);
        assert_eq!(tracker.handle_message(10, true, Some(1)), Arrived::Again);
        assert_eq!(acked(&mut tracker, 0), [0u16; 0], "not before the first one is durable");
        assert_eq!(acked(&mut tracker, 1), [1]);
    }

    #[test]
    fn the_same_message_sent_anew_is_taken_anew() {
        let mut tracker: Tracker<u16> = Tracker::new([]);
        tracker.handle_connected(true, Mono::ZERO);
        tracker.handle_message(10, false, Some(1));
        acked(&mut tracker, 1);
        assert_eq!(tracker.handle_message(10, false, Some(1)), Arrived::New { number: 2, forget: false });
        acked(&mut tracker, 2);
        // Long after, the broker repeats something that looks like it: the first was acknowledged, so it is new.
        tracker.handle_connected(true, Mono::from_millis(ACK_ARRIVED_MS));
        assert!(matches!(tracker.handle_message(10, true, Some(1)), Arrived::New { .. }));
        // A broker that lost the session numbers anew.
        tracker.handle_connected(false, Mono::ZERO);
        assert_eq!(tracker.handle_message(10, true, Some(1)), Arrived::New { number: 4, forget: true });
    }

    /// Reaches `RECENT_MAX`.
    #[test]
    fn so_many_messages_are_known_again_and_the_oldest_is_forgotten_first() {
        for (count, again) in [(RECENT_MAX, true), (RECENT_MAX + 1, false)] {
            let mut tracker: Tracker<u16> = Tracker::new([]);
            for hash in 1..=count as u64 {
                tracker.handle_message(hash, false, Some(1));
            }
            assert_eq!(tracker.handle_message(1, true, Some(1)) == Arrived::Again, again, "{count} messages");
        }
    }

    /// Reaches `REQUESTS_MAX`, `RECEIVE_MAX`.
    #[test]
    fn an_acknowledgement_of_every_message_that_a_broker_may_send_finds_room() {
        let options = rumqttc::MqttOptions::new("a", "localhost", 1);
        let (client, _events) = rumqttc::AsyncClient::new(options, REQUESTS_MAX);
        let ack = || client.try_subscribe("a", rumqttc::QoS::AtMostOnce).is_ok();
        assert_eq!((0..=REQUESTS_MAX).filter(|_| ack()).count(), REQUESTS_MAX);
        assert!(REQUESTS_MAX > usize::from(RECEIVE_MAX));
    }

    /// What a source says to a broker first.
    fn greeting() -> Vec<u8> {
        use tokio::io::AsyncReadExt;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let settings = format!(
                "broker = \"mqtt://127.0.0.1:{port}\"\ntopics = [\"t\"]\nstream = \"s\"\npartition_key = \"k\""
            );
            let parts = Parts {
                source: 0,
                settings: toml::from_str(&settings).unwrap(),
                client_id: "c".to_owned(),
                recent: Vec::new(),
                hub: Arc::new(Hub::new(1)),
                stats: Arc::default(),
                log: Log::silent(),
                clock: Clock::default(),
            };
            let source = tokio::spawn(run(parts));
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut packet = Vec::new();
            // A short packet: its second byte says how many follow.
            while packet.len() < 2 || packet.len() < 2 + usize::from(packet[1]) {
                assert_ne!(stream.read_buf(&mut packet).await.unwrap(), 0);
            }
            source.abort();
            packet
        })
    }

    /// Reaches `RECEIVE_MAX`, `PACKET_BYTES_MAX`.
    #[test]
    fn a_broker_is_told_how_many_messages_it_may_send_and_how_long_they_may_be() {
        let greeting = greeting();
        let has = |property: &[u8]| greeting.windows(property.len()).any(|window| window == property);
        // MQTT says numbers in big-endian order.
        assert!(has(&[&[0x21][..], &RECEIVE_MAX.swap_bytes().to_le_bytes()].concat()), "{greeting:02x?}");
        let packet = (PACKET_BYTES_MAX as u32).swap_bytes().to_le_bytes();
        assert!(has(&[&[0x27][..], &packet].concat()), "{greeting:02x?}");
    }
}
