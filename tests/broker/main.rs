//! The in-process broker against rumqttc's clients (3.1.1 and 5) and against hand-made bytes.
//!
//! The demo's ledger and every suite that runs without mosquitto stand on these promises.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use tests::clock;
use tests::harness::broker::{Broker, Config, Stats};

const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
const PATIENCE: Duration = Duration::from_secs(20);

fn settled(broker: &Broker, what: &str, yes: impl Fn(Stats) -> bool) {
    assert!(clock::eventually(PATIENCE, || yes(broker.stats())), "{what}: {:?}", broker.stats());
}

/// The same tests for both versions of the protocol; what differs between rumqttc's modules is in `$options` and `$text`.
macro_rules! with_rumqttc {
    ($version:ident, $root:path, $packet:path, $qos:path, $options:expr, $connack:path, $publish:path) => {
        mod $version {
            use std::collections::VecDeque;
            use std::time::Duration;

            use tests::harness::broker::{Broker, Config};
            use $connack as ConnAck;
            use $packet as Packet;
            use $publish as Publish;
            use $qos as QoS;
            use $root as mqtt;

            use super::{LOCAL, PATIENCE, settled};
            use mqtt::{AsyncClient, Event, EventLoop, MqttOptions};

            fn connect(broker: &Broker, id: &str, clean: bool) -> (AsyncClient, EventLoop) {
                let mut options = MqttOptions::new(id, broker.addr().ip().to_string(), broker.addr().port());
                options.set_manual_acks(true);
                let configure: fn(&mut MqttOptions, bool) = $options;
                configure(&mut options, clean);
                // Room for all acknowledgements of a test: it acknowledges and polls in one task.
                AsyncClient::new(options, 10_000)
            }

            /// The next packet; after a broken connection, of the next one.
            async fn packet(events: &mut EventLoop) -> Packet {
                let next = async {
                    loop {
                        match events.poll().await {
                            Ok(Event::Incoming(packet)) => return packet,
                            Ok(Event::Outgoing(_)) => {}
                            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                        }
                    }
                };
                tokio::time::timeout(PATIENCE, next).await.expect("a packet in time")
            }

            async fn connack(events: &mut EventLoop) -> ConnAck {
                loop {
                    if let Packet::ConnAck(connack) = packet(events).await {
                        return connack;
                    }
                }
            }

            async fn publish(events: &mut EventLoop) -> (Publish, String) {
                loop {
                    if let Packet::Publish(publish) = packet(events).await {
                        let text = String::from_utf8(publish.payload.to_vec()).unwrap();
                        return (publish, text);
                    }
                }
            }

            async fn subscribe(client: &AsyncClient, events: &mut EventLoop, filter: &str) {
                client.subscribe(filter, QoS::AtLeastOnce).await.unwrap();
                while !matches!(packet(events).await, Packet::SubAck(_)) {}
            }

            /// Publishes and waits until the broker has taken everything.
            async fn send(broker: &Broker, topic: &str, numbers: std::ops::Range<u64>) {
                let (client, mut events) = connect(broker, &format!("publisher of {topic}"), true);
                let count = numbers.end - numbers.start;
                let feed = async {
                    for number in numbers {
                        let payload = number.to_string();
                        client.publish(topic, QoS::AtLeastOnce, false, payload).await.unwrap();
                    }
                };
                let drain = async {
                    let mut acks = 0;
                    while acks < count {
                        acks += u64::from(matches!(packet(&mut events).await, Packet::PubAck(_)));
                    }
                };
                tokio::join!(feed, drain);
            }

            #[tokio::test]
            async fn messages_arrive_once_and_in_order_per_topic() {
                let broker = Broker::start(LOCAL).unwrap();
                let (client, mut events) = connect(&broker, "agent", true);
                subscribe(&client, &mut events, "trucks/+/telemetry").await;
                let receive = async {
                    let mut next = [0_u64; 3];
                    while next != [500; 3] {
                        let (publish, text) = publish(&mut events).await;
                        let topic = String::from_utf8(publish.topic.clone().into()).unwrap();
                        let truck: usize = topic.split('/').nth(1).unwrap().parse().unwrap();
                        assert_eq!(text, next[truck].to_string(), "{topic}");
                        assert!(!publish.dup);
                        next[truck] += 1;
                        client.try_ack(&publish).unwrap();
                    }
                };
                let trucks = async {
                    tokio::join!(
                        send(&broker, "trucks/0/telemetry", 0..500),
                        send(&broker, "trucks/1/telemetry", 0..500),
                        send(&broker, "trucks/2/telemetry", 0..500),
                        send(&broker, "trucks/2/door", 0..10),
                    )
                };
                tokio::join!(receive, trucks);
                let stats = broker.stats();
                assert_eq!((stats.published, stats.matched, stats.dropped), (1510, 1500, 0));
                assert_eq!(stats.protocol_errors, 0, "{:?}", broker.last_error());
            }

            #[tokio::test]
            async fn what_was_not_acknowledged_comes_again_in_order_after_a_cut() {
                let broker = Broker::start(LOCAL).unwrap();
                let (client, mut events) = connect(&broker, "agent", false);
                assert!(!connack(&mut events).await.session_present);
                subscribe(&client, &mut events, "t").await;
                send(&broker, "t", 0..10).await;
                for want in 0..10 {
                    let (publish, text) = publish(&mut events).await;
                    assert_eq!(text, want.to_string());
                    if want < 4 {
                        client.try_ack(&publish).unwrap();
                    }
                }
                // Acknowledgements go out while the client polls.
                let mut polls = tokio::time::interval(Duration::from_millis(5));
                while broker.stats().delivered < 4 {
                    tokio::select! { _ = polls.tick() => {}, _ = events.poll() => {} }
                }
                broker.kill_connections();
                assert!(connack(&mut events).await.session_present);
                for want in 4..10 {
                    let (publish, text) = publish(&mut events).await;
                    assert_eq!((text, publish.dup), (want.to_string(), true));
                    client.try_ack(&publish).unwrap();
                }
                client.disconnect().await.unwrap();
                while events.poll().await.is_ok() {}
                settled(&broker, "all delivered, goodbye heard", |stats| {
                    stats.delivered == 10 && stats.connected == 0 && stats.redelivered == 6
                });
                assert_eq!(broker.stats().protocol_errors, 0, "{:?}", broker.last_error());
            }

            #[tokio::test]
            async fn messages_for_an_absent_session_wait_and_a_clean_one_forgets() {
                let broker = Broker::start(LOCAL).unwrap();
                let (client, mut events) = connect(&broker, "agent", false);
                subscribe(&client, &mut events, "#").await;
                drop((client, events));
                settled(&broker, "gone", |stats| stats.connected == 0);
                send(&broker, "t", 0..3).await;
                assert_eq!(broker.stats().waiting, 3);
                let (client, mut events) = connect(&broker, "agent", false);
                for want in 0..3 {
                    let (publish, text) = publish(&mut events).await;
                    assert_eq!((text, publish.dup), (want.to_string(), false));
                }
                drop((client, events));
                settled(&broker, "gone again", |stats| stats.connected == 0);
                let (_client, mut events) = connect(&broker, "agent", true);
                assert!(!connack(&mut events).await.session_present);
                let stats = broker.stats();
                assert_eq!((stats.dropped, stats.waiting, stats.delivered), (3, 0, 0));
            }

            #[tokio::test]
            async fn a_slow_reader_fills_its_own_queue_and_no_other() {
                let bounds = Config { max_queued: 50, ..Config::default() };
                let broker = Broker::start_with(LOCAL, bounds).unwrap();
                let (slow, mut slow_events) = connect(&broker, "slow", false);
                subscribe(&slow, &mut slow_events, "t").await;
                let (fast, mut fast_events) = connect(&broker, "fast", false);
                subscribe(&fast, &mut fast_events, "t").await;
                let read = async {
                    for want in 0..200 {
                        let (publish, text) = publish(&mut fast_events).await;
                        assert_eq!(text, want.to_string());
                        fast.try_ack(&publish).unwrap();
                    }
                };
                let write = async {
                    for number in 0..200 {
                        send(&broker, "t", number..number + 1).await;
                    }
                };
                tokio::join!(read, write);
                let stats = broker.stats();
                assert_eq!((stats.matched, stats.dropped), (400, 150));
            }

            #[tokio::test]
            async fn every_message_arrives_through_many_cuts_and_first_arrivals_are_in_order() {
                let bounds = Config { max_inflight: 50, ..Config::default() };
                let broker = Broker::start_with(LOCAL, bounds).unwrap();
                let (client, mut events) = connect(&broker, "agent", false);
                subscribe(&client, &mut events, "t").await;
                // Publish first, then cut while it is read: a publisher that is cut repeats itself, which is its right
                // and not what is tested here.
                send(&broker, "t", 0..3000).await;
                let (mut next, mut unacked) = (0_u64, VecDeque::new());
                for turn in 0_u64.. {
                    let (publish, text) = publish(&mut events).await;
                    let number: u64 = text.parse().unwrap();
                    assert!(number <= next, "{number} came before {next}");
                    next = next.max(number + 1);
                    unacked.push_back(publish);
                    if unacked.len() > 20 {
                        client.try_ack(&unacked.pop_front().unwrap()).unwrap();
                    }
                    if turn % 301 == 300 {
                        broker.kill_connections();
                        unacked.clear();
                    }
                    if next == 3000 {
                        break;
                    }
                }
                let stats = broker.stats();
                assert_eq!((stats.published, stats.dropped), (3000, 0));
                assert_eq!(stats.matched, stats.delivered + stats.waiting);
                assert_eq!(stats.protocol_errors, 0, "{:?}", broker.last_error());
            }

            #[tokio::test]
            async fn a_second_client_with_the_same_name_takes_the_session_over() {
                let broker = Broker::start(LOCAL).unwrap();
                let (client, mut events) = connect(&broker, "agent", false);
                subscribe(&client, &mut events, "t").await;
                let (_other, mut other_events) = connect(&broker, "agent", false);
                assert!(connack(&mut other_events).await.session_present);
                let ended = tokio::time::timeout(PATIENCE, async { while events.poll().await.is_ok() {} });
                ended.await.expect("the first one is closed");
                send(&broker, "t", 0..1).await;
                assert_eq!(publish(&mut other_events).await.1, "0");
                drop(client);
            }

            #[tokio::test]
            async fn a_retained_message_greets_a_new_subscriber() {
                let broker = Broker::start(LOCAL).unwrap();
                let (client, mut events) = connect(&broker, "agent", true);
                client.publish("state/7", QoS::AtLeastOnce, true, "parked").await.unwrap();
                while !matches!(packet(&mut events).await, Packet::PubAck(_)) {}
                client.subscribe("state/#", QoS::AtLeastOnce).await.unwrap();
                let (publish, text) = publish(&mut events).await;
                assert_eq!((text.as_str(), publish.retain), ("parked", true));
                client.try_ack(&publish).unwrap();
            }
        }
    };
}

with_rumqttc!(
    v4,
    rumqttc,
    rumqttc::mqttbytes::v4::Packet,
    rumqttc::mqttbytes::QoS,
    |options, clean| {
        options.set_clean_session(clean);
    },
    rumqttc::mqttbytes::v4::ConnAck,
    rumqttc::mqttbytes::v4::Publish
);
with_rumqttc!(
    v5,
    rumqttc::v5,
    rumqttc::v5::mqttbytes::v5::Packet,
    rumqttc::v5::mqttbytes::QoS,
    |options, clean| {
        options.set_clean_start(clean);
        options.set_session_expiry_interval(if clean { None } else { Some(u32::MAX) });
    },
    rumqttc::v5::mqttbytes::v5::ConnAck,
    rumqttc::v5::mqttbytes::v5::Publish
);

fn shake_hands(broker: &Broker, hello: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(broker.addr()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.write_all(hello).unwrap();
    socket
}

fn rest(mut socket: TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    // A reset is an end too.
    let _ = socket.read_to_end(&mut rest);
    rest
}

const HELLO_V4: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01a";
/// Receive maximum 2.
const HELLO_V5: &[u8] = b"\x10\x11\x00\x04MQTT\x05\x02\x00\x00\x03\x21\x00\x02\x00\x01b";

#[test]
fn malformed_input_closes_its_own_connection_and_no_other() {
    let broker = Broker::start(LOCAL).unwrap();
    let mut good = shake_hands(&broker, HELLO_V4);
    let mut answer = [0; 4];
    good.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [0x20, 2, 0, 0]);
    let bad: [(&str, &[u8]); 6] = [
        ("not MQTT at all", b"GET / HTTP/1.1\r\n\r\n"),
        ("an endless length", b"\x10\xff\xff\xff\xff\xff\xff"),
        ("larger than allowed", b"\x10\xff\xff\xff\x7f"),
        ("an unknown protocol level", b"\x10\x0d\x00\x04MQTT\x09\x02\x00\x00\x00\x01c"),
        ("a string beyond its packet", b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\xff\xffa"),
        ("a packet before CONNECT", b"\xc0\x00\xc0\x00"),
    ];
    for (count, (what, bytes)) in bad.into_iter().enumerate() {
        let _ = rest(shake_hands(&broker, bytes));
        assert_eq!(broker.stats().protocol_errors, count as u64 + 1, "{what}");
    }
    // Inside a version 5 session: a property length beyond the packet, which codecs take for a short read.
    let _ = rest(shake_hands(&broker, &[HELLO_V5, b"\x30\x04\x00\x01t\xff"].concat()));
    assert_eq!(broker.stats().protocol_errors, 7, "{:?}", broker.last_error());
    good.write_all(b"\xc0\x00").unwrap();
    good.read_exact(&mut answer[..2]).unwrap();
    assert_eq!(answer[..2], [0xd0, 0], "still served");
}

#[test]
fn no_more_goes_out_unacknowledged_than_the_client_asked_for() {
    let broker = Broker::start(LOCAL).unwrap();
    // Subscribe to `t` with QoS 1, then publish five to it, all in one write.
    let subscribe = b"\x82\x07\x00\x01\x00\x00\x01t\x01";
    let publish = b"\x32\x07\x00\x01t\x00\x09\x00x".repeat(5);
    let mut socket = shake_hands(&broker, &[HELLO_V5, subscribe, &publish].concat());
    settled(&broker, "published", |stats| stats.published == 5);
    let mut read = Vec::new();
    let mut deliveries = |socket: &mut TcpStream, patience: Duration| {
        socket.set_read_timeout(Some(patience)).unwrap();
        let mut chunk = [0; 512];
        while let Ok(count @ 1..) = socket.read(&mut chunk) {
            read.extend_from_slice(&chunk[..count]);
        }
        read.windows(2).filter(|bytes| *bytes == b"\x32\x07").count()
    };
    assert_eq!(deliveries(&mut socket, Duration::from_millis(300)), 2);
    socket.write_all(b"\x40\x02\x00\x01").unwrap();
    assert_eq!(deliveries(&mut socket, Duration::from_millis(300)), 3);
    assert_eq!(broker.stats().waiting, 4);
}

#[test]
fn all_forms_of_goodbye_are_understood_and_only_silence_sends_the_will() {
    let broker = Broker::start(LOCAL).unwrap();
    // Will: topic `w`, message `x`, QoS 0.
    let with_will = b"\x10\x15\x00\x04MQTT\x05\x06\x00\x00\x00\x00\x01d\x00\x00\x01w\x00\x01x";
    let goodbyes: [(&[u8], u64); 5] =
        [(b"\xe0\x00", 0), (b"\xe0\x01\x00", 0), (b"\xe0\x02\x00\x00", 0), (b"\xe0\x01\x04", 1), (b"", 1)];
    let mut wills = 0;
    for (goodbye, will) in goodbyes {
        let mut socket = shake_hands(&broker, &[&with_will[..with_will.len()], goodbye].concat());
        socket.read_exact(&mut [0; 1]).unwrap();
        drop(socket);
        wills += will;
        settled(&broker, "gone", |stats| stats.connected == 0 && stats.sessions == 0);
        assert_eq!(broker.published(), wills, "{goodbye:?}: {:?}", broker.last_error());
    }
    assert_eq!(broker.stats().protocol_errors, 0);
}

#[test]
fn a_client_that_falls_silent_is_let_go_and_one_beyond_the_bound_is_refused() {
    let broker = Broker::start_with(LOCAL, Config { max_sessions: 1, ..Config::default() }).unwrap();
    // Keep alive: one second.
    let hello = b"\x10\x0d\x00\x04MQTT\x04\x00\x00\x01\x00\x01e";
    let socket = shake_hands(&broker, hello);
    settled(&broker, "connected", |stats| stats.connected == 1);
    assert_eq!(rest(shake_hands(&broker, HELLO_V4)), [0x20, 2, 0, 3], "the server is unavailable");
    assert_eq!(rest(socket), [0x20, 2, 0, 0], "accepted, and closed after a second and a half");
}

#[test]
fn off_the_network_nobody_gets_in_and_sessions_stay() {
    let broker = Broker::start(LOCAL).unwrap();
    let hello = b"\x10\x0d\x00\x04MQTT\x04\x00\x00\x00\x00\x01e";
    let socket = shake_hands(&broker, hello);
    settled(&broker, "connected", |stats| stats.connected == 1);
    broker.set_online(false);
    let _ = rest(socket);
    assert!(rest(shake_hands(&broker, hello)).is_empty());
    broker.set_online(true);
    let mut socket = shake_hands(&broker, hello);
    let mut answer = [0; 4];
    socket.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [0x20, 2, 1, 0], "the session is present");
    assert_eq!(broker.stop().connects, 2);
}
