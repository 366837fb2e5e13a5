//! The network between agent and store: slow, jittery, stalled, swallowed, reset, up and down. Nothing is lost or doubled,
//! the order is kept, and everything is there soon after the weather is good again. Real processes, a proxy on loopback.
//!
//! `KINESIN_NETWORK_SECONDS` says how long the bad times last (3).

use std::time::Duration;

use protocol::rng::Rng;
use tests::clock;
use tests::eventually;
use tests::harness::chaos::{Chaos, Weather};
use tests::harness::process::AgentProcess;
use tests::harness::rig::{FILES, Rig, Writer, made};

const BATCH: &str = "batch = { records_max = 50, linger_ms = 1 }\n";

/// Two shards, two files, an agent behind a network with weather.
struct World {
    rig: Rig,
    chaos: Chaos,
    agent: AgentProcess,
    logs: Vec<Writer>,
}

fn bad_times() -> Duration {
    let seconds = std::env::var("KINESIN_NETWORK_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(3))
}

impl World {
    async fn start() -> Option<World> {
        let rig = Rig::start(&[]).await?;
        rig.kinesin("stream create logs --shards 2 --rate off");
        let chaos = Chaos::start(rig.store.address, 1).await.unwrap();
        let sources = FILES.to_owned() + BATCH;
        let agent = AgentProcess::start(rig.home.path(), "a", &rig.store, chaos.address(), &sources).unwrap();
        let logs = (0..2).map(|n| Writer::new(&rig.path(&format!("logs/{n}.log")))).collect();
        let mut world = World { rig, chaos, agent, logs };
        world.write(50);
        world.rig.wait_for("logs", world.count()).await;
        Some(world)
    }

    fn write(&mut self, lines: u64) {
        self.logs.iter_mut().for_each(|log| log.write(lines));
    }

    fn count(&self) -> u64 {
        self.logs.iter().map(Writer::count).sum()
    }

    /// Writes a little again and again for a while.
    async fn write_for(&mut self, time: Duration) {
        let begin = clock::now();
        while clock::now().duration_since(begin) < time {
            self.write(20);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Good weather: everything arrives, once and in order.
    async fn end(mut self) {
        self.chaos.set(Weather::default());
        self.write(20);
        self.rig.assert_all_stored("logs", &made(&self.logs)).await;
        assert_eq!(self.rig.lost("").await, 0);
        let ended = self.agent.process.as_mut().unwrap().ended().unwrap();
        assert!(ended.is_none(), "{}", self.agent.printed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_takes_its_time_costs_nothing_but_that() {
    let Some(mut world) = World::start().await else { return };
    let (latency, jitter) = (Duration::from_millis(300), Duration::from_millis(100));
    world.chaos.set(Weather { latency, jitter, ..Weather::default() });
    world.write_for(bad_times()).await;
    let before = world.count();
    // Still in bad weather: batches are on their way side by side, or this would take minutes.
    world.write(5000);
    world.rig.wait_for("logs", before + 10_000).await;
    assert_eq!(world.chaos.connections(), 2, "one to enrol, one to work: nobody gave up");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_reset_wherever_they_are_lose_and_double_nothing() {
    let Some(mut world) = World::start().await else { return };
    let mut rng = Rng::new(7);
    for _ in 0..15 {
        let connections = world.chaos.connections();
        world.write(500);
        tokio::time::sleep(Duration::from_millis(rng.below(60))).await;
        world.chaos.reset_all();
        eventually!("another connection", world.chaos.connections() > connections);
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_up_and_down_all_the_time_carries_everything_in_the_end() {
    let Some(mut world) = World::start().await else { return };
    // On demand as long as it takes a truck through a town; here ten times as fast.
    let times = bad_times();
    let period = times.min(Duration::from_secs(30)) / 10;
    let begin = clock::now();
    let mut down = false;
    while clock::now().duration_since(begin) < times {
        down = !down;
        world.chaos.set(Weather { down, ..Weather::default() });
        world.write_for(period).await;
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_partition_everything_comes_within_a_step_of_the_backoff() {
    let Some(mut world) = World::start().await else { return };
    world.chaos.set(Weather { down: true, ..Weather::default() });
    world.write_for(bad_times()).await;
    let (tries, healed) = (world.chaos.connections(), clock::now());
    world.chaos.set(Weather::default());
    eventually!("it tries again", world.chaos.connections() > tries);
    let took = clock::now().duration_since(healed);
    // The longest step is 10 s, and a quarter of it by chance.
    assert!(took < Duration::from_secs(20), "{took:?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stall_is_waited_for_on_the_same_connection() {
    let Some(mut world) = World::start().await else { return };
    let connections = world.chaos.connections();
    world.chaos.set(Weather { stalled: true, ..Weather::default() });
    world.write_for(bad_times().min(Duration::from_secs(20))).await;
    world.chaos.set(Weather::default());
    world.rig.wait_for("logs", world.count()).await;
    assert_eq!(world.chaos.connections(), connections);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "half a minute: tests/all runs it"]
async fn a_connection_whose_other_end_is_gone_without_a_word_is_given_up() {
    let Some(mut world) = World::start().await else { return };
    let connections = world.chaos.connections();
    world.chaos.set(Weather { half_open: true, ..Weather::default() });
    world.write(100);
    eventually!("it is given up", world.chaos.connections() > connections);
    let said = world.agent.printed();
    assert!(said.contains("silent for 30 s"), "{said}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crawling_link_costs_no_memory_and_keeps_nobody_else_waiting() {
    let Some(mut world) = World::start().await else { return };
    let sources = FILES.replace("logs/*.log", "logs/*.txt").replace("\"logs\"", "\"other\"");
    let _other = world.rig.agent("b", &sources);
    world.chaos.set(Weather { bytes_per_second: Some(64 << 10), ..Weather::default() });
    world.write(30_000);
    let mut text = Writer::new(&world.rig.path("logs/b.txt"));
    text.write(5000);
    world.rig.wait_for("other", 5000).await;
    tokio::time::sleep(bad_times()).await;
    let peak = world.agent.process.as_ref().unwrap().memory_bytes("VmHWM");
    assert!(peak < 48 << 20, "{peak} bytes");
    world.end().await;
}
