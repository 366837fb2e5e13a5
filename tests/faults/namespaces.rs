//! A network of the kernel's own, in namespaces that the test makes: lost packets, a slow line, an interface that goes down,
//! an address that changes. Needs root, `ip`, `tc` and `nft`; where they are not to be had, it says so and passes.
//!
//! The test starts itself again inside a namespace of its own, so that nothing of it can be seen from outside.

use std::ffi::OsStr;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tests::clock;
use tests::harness::mounts::run;
use tests::harness::process::{AgentProcess, Launch, Process, StoreProcess, not_here, ready};
use tests::harness::rig::{FILES, Rig, Writer, made};

const INSIDE: &str = "KINESIN_INSIDE_NAMESPACE";
const STORE: &str = "10.77.0.1";

fn system(line: &str) -> io::Result<String> {
    let mut words = line.split_whitespace().map(OsStr::new);
    let program = words.next().unwrap_or_default().to_string_lossy().into_owned();
    run(&program, &words.collect::<Vec<_>>())
}

/// What makes a namespace and runs this test in it.
fn outside(name: &str) {
    if !ready() {
        return;
    }
    if let Err(why) = ["unshare --net true", "ip -V", "tc -V", "nft -v", "nsenter -V"]
        .map(system)
        .into_iter()
        .collect::<io::Result<Vec<_>>>()
    {
        return not_here(&why);
    }
    let me = std::env::current_exe().unwrap();
    let words =
        ["--net", "--", &me.display().to_string(), "--exact", name, "--include-ignored", "--nocapture"];
    let output = std::process::Command::new("unshare")
        .args(words)
        .env(INSIDE, "1")
        .output()
        .expect("unshare is there");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
}

/// The device's side: a namespace that is there as long as this is.
struct Device {
    holder: Process,
}

impl Device {
    fn start(home: &Path) -> io::Result<Device> {
        system("ip link set lo up")?;
        let words = ["--net", "--", "sleep", "1000000"];
        let holder = Process::start_program(Path::new("unshare"), &words, &home.join("holder.out"))?;
        let device = Device { holder };
        // It is in its own namespace once it has become `sleep`.
        let own = || std::fs::read_link(format!("/proc/{}/ns/net", device.holder.id())).ok();
        let mine = std::fs::read_link("/proc/self/ns/net")?;
        assert!(clock::eventually(Duration::from_secs(10), || own().is_some_and(|own| own != mine)));
        system(&format!("ip link add store0 type veth peer name device0 netns {}", device.holder.id()))?;
        system(&format!("ip addr add {STORE}/24 dev store0"))?;
        system("ip link set store0 up")?;
        device.run("ip link set lo up")?;
        device.run("ip addr add 10.77.0.2/24 dev device0")?;
        device.run("ip link set device0 up")?;
        Ok(device)
    }

    fn enter(&self) -> Vec<String> {
        let namespace = format!("--net=/proc/{}/ns/net", self.holder.id());
        ["nsenter", &namespace, "--"].map(str::to_owned).to_vec()
    }

    fn run(&self, line: &str) -> io::Result<String> {
        system(&format!("{} {line}", self.enter().join(" ")))
    }
}

struct World {
    rig: Rig,
    device: Device,
    agent: AgentProcess,
    log: Writer,
}

impl World {
    async fn start() -> World {
        let home = tempfile::tempdir().unwrap();
        let device = Device::start(home.path()).unwrap();
        let address: SocketAddr = format!("{STORE}:4567").parse().unwrap();
        let store = StoreProcess::start_at(Launch::default(), home.path(), address, &[]).await.unwrap();
        let rig = Rig::of(home, store).await;
        rig.kinesin("stream create logs --rate off");
        let launch = Launch { prefix: device.enter(), env: Vec::new() };
        let sources = FILES.to_owned() + "batch = { records_max = 100 }\n";
        let agent =
            AgentProcess::start_by(launch, rig.home.path(), "a", &rig.store, address, &sources).unwrap();
        let mut log = Writer::new(&rig.path("logs/a.log"));
        log.write(100);
        rig.wait_for("logs", 100).await;
        World { rig, device, agent, log }
    }

    async fn all_is_there(&mut self) {
        self.log.write(100);
        self.rig.wait_for("logs", self.log.count()).await;
    }
}

fn outage() -> Duration {
    let seconds = std::env::var("KINESIN_NETWORK_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(2))
}

#[test]
#[ignore = "half a minute: tests/all runs it"]
fn lost_packets_a_slow_line_a_dead_interface_and_another_address_lose_nothing() {
    const NAME: &str =
        "namespaces::lost_packets_a_slow_line_a_dead_interface_and_another_address_lose_nothing";
    if std::env::var_os(INSIDE).is_none() {
        return outside(NAME);
    }
    tokio::runtime::Runtime::new().unwrap().block_on(inside());
}

async fn inside() {
    let mut world = World::start().await;
    // One packet in ten is lost, each way.
    for line in [
        "nft add table inet weather",
        "nft add chain inet weather in { type filter hook input priority 0 ; }",
        "nft add rule inet weather in numgen random mod 100 < 10 drop",
    ] {
        world.device.run(line).unwrap();
        system(line).unwrap();
    }
    for _ in 0..10 {
        world.log.write(300);
        tokio::time::sleep(outage() / 10).await;
    }
    world.all_is_there().await;
    world.device.run("nft delete table inet weather").unwrap();
    system("nft delete table inet weather").unwrap();
    // One megabit a second.
    world.device.run("tc qdisc add dev device0 root tbf rate 1mbit burst 16kb latency 400ms").unwrap();
    world.log.write(10_000);
    world.all_is_there().await;
    world.device.run("tc qdisc del dev device0 root").unwrap();
    // The line is dead, and alive again.
    for _ in 0..3 {
        world.device.run("ip link set device0 down").unwrap();
        world.log.write(500);
        tokio::time::sleep(outage()).await;
        world.device.run("ip link set device0 up").unwrap();
        world.all_is_there().await;
    }
    // Another address: what was connected from the old one is dead and does not know it.
    world.device.run("ip addr del 10.77.0.2/24 dev device0").unwrap();
    world.device.run("ip addr add 10.77.0.3/24 dev device0").unwrap();
    world.log.write(500);
    world.all_is_there().await;
    let World { rig, log, agent, .. } = &world;
    rig.assert_all_stored("logs", &made(std::slice::from_ref(log))).await;
    assert_eq!(rig.lost("").await, 0, "{}", agent.printed());
}
