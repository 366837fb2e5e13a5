//! The agent at a real mosquitto, where there is one.

#![expect(clippy::disallowed_methods, reason = "a test with a real broker: real files, real time")]

mod common;

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use agent::Agent;
use common::{Behaviour, FakeStore, config};

const LONG: Duration = Duration::from_secs(30);

struct Mosquitto {
    port: u16,
    dir: std::path::PathBuf,
    child: Option<Child>,
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Mosquitto {
    fn start(dir: &std::path::Path) -> Option<Mosquitto> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\npersistence true\npersistence_location {}/\n\
             max_queued_messages 100000\n",
            dir.display()
        );
        std::fs::write(dir.join("mosquitto.conf"), text).unwrap();
        let mut broker = Mosquitto { port, dir: dir.to_owned(), child: None };
        broker.run().then_some(broker)
    }

    fn run(&mut self) -> bool {
        let binary = ["mosquitto", "/usr/sbin/mosquitto"].into_iter().find_map(|name| {
            let mut command = Command::new(name);
            command.arg("-c").arg(self.dir.join("mosquitto.conf"));
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()
        });
        let Some(child) = binary else { return false };
        self.child = Some(child);
        let until = Instant::now() + LONG;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(Instant::now() < until, "mosquitto does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Publishes `line {n}` at QoS 1 and waits until the broker has them.
    fn publish(&self, topic: &str, from: u64, to: u64) {
        let (topic, port) = (topic.to_owned(), self.port);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let id = format!("publisher-{topic}-{from}").replace('/', "-");
            let options = rumqttc::MqttOptions::new(id, "127.0.0.1", port);
            let (client, mut events) = rumqttc::AsyncClient::new(options, 100_000);
            for n in from..to {
                client.try_publish(&topic, rumqttc::QoS::AtLeastOnce, false, format!("line {n}")).unwrap();
            }
            let mut acked = 0;
            while acked < to - from {
                let event = events.poll().await.unwrap();
                if let rumqttc::Event::Incoming(rumqttc::Incoming::PubAck(_)) = event {
                    acked += 1;
                }
            }
        });
    }
}

fn source(port: u16, version: &str) -> String {
    format!(
        r#"
[[source.mqtt]]
broker = "mqtt://127.0.0.1:{port}"
topics = ["trucks/+/telemetry"]
stream = "telemetry"
partition_key = "{{topic[1]}}"
version = "{version}"
"#
    )
}

fn want(from: u64, to: u64) -> Vec<String> {
    (from..to).map(|n| format!("line {n}")).collect()
}

fn lines_of(store: &FakeStore, key: &str) -> Vec<String> {
    let records = store.of("telemetry").into_iter().filter(|r| r.key == key);
    records.map(|r| String::from_utf8_lossy(&r.data).into_owned()).collect()
}

#[test]
fn messages_arrive_once_and_in_order_over_cuts_restarts_and_a_dead_agent() {
    for version in ["5", "3.1.1"] {
        let dir = tempfile::tempdir().unwrap();
        let store = FakeStore::start(dir.path(), Behaviour::default());
        let Some(broker) = Mosquitto::start(dir.path()) else {
            eprintln!("no mosquitto here: not tested");
            return;
        };
        let more = source(broker.port, version);
        let agent = Agent::start(config(&store, dir.path(), &more)).unwrap();
        // A session must be there before there is anything to keep for it.
        store.wait("the subscription", LONG, |s| {
            broker.publish("trucks/0/telemetry", 0, 1);
            std::thread::sleep(Duration::from_millis(50));
            !lines_of(s, "0").is_empty()
        });
        broker.publish("trucks/17/telemetry", 0, 2000);
        store.wait("the first", LONG, |s| lines_of(s, "17").len() >= 2000);
        store.set_down(true);
        broker.publish("trucks/17/telemetry", 2000, 3000);
        agent.stop();
        broker.publish("trucks/17/telemetry", 3000, 4000);
        store.set_down(false);
        let mut agent = Agent::start(config(&store, dir.path(), &more)).unwrap();
        for round in 4..9u64 {
            broker.publish("trucks/17/telemetry", round * 1000, round * 1000 + 1000);
            agent.kill();
            agent = Agent::start(config(&store, dir.path(), &more)).unwrap();
        }
        store.wait("all", LONG, |s| lines_of(s, "17").len() >= 9000);
        std::thread::sleep(Duration::from_millis(300));
        let lines = lines_of(&store, "17");
        assert_eq!(lines.len(), 9000, "version {version}: {:?}", agent.stats());
        assert!(lines == want(0, 9000), "version {version}: out of order");
        agent.stop();
    }
}

#[test]
fn a_broker_that_was_restarted_and_forgot_the_session_is_subscribed_to_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = FakeStore::start(dir.path(), Behaviour::default());
    let Some(mut broker) = Mosquitto::start(dir.path()) else { return };
    let agent = Agent::start(config(&store, dir.path(), &source(broker.port, "5"))).unwrap();
    for round in 0..3u64 {
        let mut n = 0;
        store.wait("a message", LONG, |s| {
            broker.publish(&format!("trucks/r{round}/telemetry"), n, n + 1);
            n += 1;
            std::thread::sleep(Duration::from_millis(100));
            !lines_of(s, &format!("r{round}")).is_empty()
        });
        broker.stop();
        let _ = std::fs::remove_file(dir.path().join("mosquitto.db"));
        assert!(broker.run());
    }
    agent.stop();
}

#[test]
fn a_message_over_the_bound_goes_to_the_ledger_and_the_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = FakeStore::start(dir.path(), Behaviour::default());
    let Some(broker) = Mosquitto::start(dir.path()) else { return };
    let more = source(broker.port, "5") + "message_bytes_max = 64\n";
    let agent = Agent::start(config(&store, dir.path(), &more)).unwrap();
    store.wait("the subscription", LONG, |s| {
        broker.publish("trucks/0/telemetry", 0, 1);
        std::thread::sleep(Duration::from_millis(50));
        !lines_of(s, "0").is_empty()
    });
    let mut long = Command::new("mosquitto_pub");
    let port = broker.port.to_string();
    long.args(["-p", &port, "-q", "1", "-t", "trucks/1/telemetry", "-s"]).stdin(Stdio::piped());
    let Ok(mut child) = long.spawn() else { return };
    child.stdin.take().unwrap().write_all(&[b'x'; 20_000]).unwrap();
    assert!(child.wait().unwrap().success());
    broker.publish("trucks/1/telemetry", 0, 1);
    store.wait("the next one", LONG, |s| lines_of(s, "1") == ["line 0"]);
    store.wait("the loss", LONG, |s| !s.of("_loss").is_empty());
    assert_eq!(agent.stats().losses["message_too_long"], 1);
}
