//! Too many, too slow, too much: connections that idle, crawl, never read or never stop, handshakes without end, writers over
//! their rate. Each is bounded and counted, and an agent beside them notices nothing. Real processes.
//!
//! `KINESIN_CONNECTIONS` says how many idle ones (2000), of which a tenth more are busy; `KINESIN_STORM_SECONDS` how long
//! writers are over their rate (4).

use std::net::SocketAddr;
use std::time::Duration;

use protocol::batch::BatchBuilder;
use protocol::compress::{Codec, Compressor};
use protocol::frame::{Frame, Header};
use protocol::name::StreamName;
use protocol::native::call::{Call, Hello, Producer};
use protocol::native::message::{Ack, Outcome, Type, put_message};
use protocol::sequence::ShardId;
use protocol::stream::StartingPosition;
use protocol::time::UnixMs;
use store::client::{Link, Target};
use tests::clock;
use tests::eventually;
use tests::harness::cgroup::MemoryGroup;
use tests::harness::process::{AgentProcess, StoreProcess, free_port, not_here, ready};
use tests::harness::rig::{FILES, PATIENCE, Rig, Writer, made};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// What a connection may cost the store, TLS and all, on top of what it has without any.
const BYTES_PER_CONNECTION: u64 = 64 << 10;

const MIB: u64 = 1 << 20;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn name() -> StreamName {
    StreamName::new("logs").unwrap()
}

/// A batch with so many records of 100 bytes.
fn batch(producer: u128, sequence: u64, records: u64) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    let key = builder.key(&format!("key-{producer}"), None).unwrap();
    for _ in 0..records {
        builder.push(key, UnixMs(5), &[b'x'; 100]);
    }
    let header = Header {
        stream: name().key(),
        shard: ShardId::UNROUTED,
        producer_id: producer,
        producer_epoch: 1,
        producer_sequence: sequence,
        ..Header::default()
    };
    let (mut frame, mut out) = (Vec::new(), Vec::new());
    builder.seal(header, &mut Compressor::new(Codec::None), &mut frame);
    put_message(Type::Append, &frame, &mut out);
    out
}

async fn connect(target: &Target, producer: u128) -> Link {
    let producer = (producer > 0).then_some(Producer { id: producer, epoch: 1 });
    let hello = Hello { client: "load".to_owned(), producer, streams: Vec::new() };
    Link::connect(target, &hello).await.unwrap()
}

/// So many connections, a few at a time.
async fn connect_all(target: &Target, count: u64) -> Vec<Link> {
    let mut tasks = JoinSet::new();
    for _ in 0..16 {
        let (target, share) = (target.clone(), count / 16 + 1);
        tasks.spawn(async move {
            let mut links = Vec::new();
            for _ in 0..share {
                links.push(connect(&target, 0).await);
            }
            links
        });
    }
    tasks.join_all().await.into_iter().flatten().collect()
}

async fn next_outcome(link: &mut Link) -> Outcome {
    loop {
        let received = tokio::time::timeout(PATIENCE, link.next()).await.expect("an answer").unwrap();
        if received.kind == Type::Ack {
            return Ack::parse(&received.body).unwrap().outcome;
        }
    }
}

/// Puts batch after batch for a while, each after the answer to the one before; returns how many were stored.
async fn work(target: Target, producer: u128, time: Duration, records: u64, pause: Duration) -> u64 {
    let mut link = connect(&target, producer).await;
    let (mut sequence, begin) = (1, clock::now());
    while clock::now().duration_since(begin) < time {
        link.put_raw(&batch(producer, sequence, records));
        link.flush().await.unwrap();
        if matches!(next_outcome(&mut link).await, Outcome::Stored { .. }) {
            sequence += 1;
        }
        tokio::time::sleep(pause).await;
    }
    sequence - 1
}

fn memory(rig: &Rig) -> u64 {
    rig.store.process.as_ref().unwrap().memory_bytes("VmRSS")
}

fn raise_files() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum });
    now.maximum.unwrap_or(u64::MAX)
}

/// A store with an agent beside whatever else happens.
struct World {
    rig: Rig,
    log: Writer,
    _agent: AgentProcess,
    target: Target,
}

impl World {
    async fn start(words: &[&str]) -> Option<World> {
        let rig = Rig::start(words).await?;
        rig.kinesin("stream create logs --rate off");
        rig.kinesin("stream create quiet --rate off");
        let sources = FILES.replace("\"logs\"", "\"quiet\"");
        let agent = rig.agent("a", &sources);
        let mut log = Writer::new(&rig.path("logs/a.log"));
        log.write(100);
        rig.wait_for("quiet", 100).await;
        let target = Target::of_data_dir(&rig.store.data).unwrap();
        Some(World { rig, log, _agent: agent, target })
    }

    /// The agent writes and is heard all the while.
    async fn goes_on(&mut self) {
        self.log.write(200);
        self.rig.wait_for("quiet", self.log.count()).await;
    }

    async fn end(mut self) {
        self.goes_on().await;
        self.rig.assert_all_stored("quiet", &made(&[self.log])).await;
        assert_eq!(self.rig.lost("").await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "many connections: tests/all runs it"]
async fn thousands_of_idle_and_hundreds_of_busy_connections_fit_into_a_stated_memory() {
    let count = number("KINESIN_CONNECTIONS", 2000);
    let files = raise_files();
    if count + count / 10 + 200 > files {
        return not_here(&format!("{count} connections: a process may have {files} files"));
    }
    let Some(mut world) =
        World::start(&["--connections-max", "16000", "--connections-per-address", "16000"]).await
    else {
        return;
    };
    let before = memory(&world.rig);
    let idle = connect_all(&world.target, count).await;
    let with_idle = memory(&world.rig);
    let mut busy = JoinSet::new();
    for producer in 1..=u128::from(count / 10) {
        let pause = Duration::from_millis(200);
        busy.spawn(work(world.target.clone(), producer, Duration::from_secs(5), 5, pause));
    }
    for _ in 0..5 {
        world.goes_on().await;
    }
    let stored: u64 = busy.join_all().await.into_iter().sum();
    let peak = world.rig.store.process.as_ref().unwrap().memory_bytes("VmHWM");
    let all = count + count / 10;
    eprintln!(
        "{count} idle: {} KiB each; {} busy: {} MiB at most, {} MiB before",
        (with_idle - before) / 1024 / count,
        count / 10,
        peak / MIB,
        before / MIB
    );
    assert!(stored >= count / 10, "each of them got something stored: {stored}");
    assert!(peak <= before + all * BYTES_PER_CONNECTION + 64 * MIB, "{} MiB", peak / MIB);
    assert!(world.rig.status("connections").await >= count as f64);
    drop(idle);
    eventually!("they are gone", world.rig.status("connections").await < 20.0);
    world.end().await;
}

/// Connects and sends a byte a second of what begins like a handshake, until it is thrown out.
async fn crawl(address: SocketAddr, says_anything: bool) -> u64 {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    let mut sent = 0;
    loop {
        if says_anything && tcp.write_all(&[[0x16, 3, 1, 2, 0][sent as usize % 5]]).await.is_err() {
            return sent;
        }
        sent += 1;
        let mut answer = [0; 64];
        match tokio::time::timeout(Duration::from_secs(1), tcp.read(&mut answer)).await {
            Ok(Ok(0) | Err(_)) => return sent,
            _ => assert!(sent < 60, "{says_anything}: it is still there"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "waits for time limits: tests/all runs it"]
async fn whoever_says_nothing_crawls_never_reads_or_never_stops_is_let_go_and_nobody_else_notices() {
    let Some(mut world) = World::start(&[]).await else { return };
    let address = world.rig.store.address;
    let mut slow = JoinSet::new();
    for n in 0..400 {
        slow.spawn(crawl(address, n % 2 == 0));
    }
    // Known, asking for all there is again and again, and never reading an answer.
    let mut deaf = connect(&world.target, 0).await;
    work(world.target.clone(), 99, Duration::from_secs(2), 2000, Duration::ZERO).await;
    let from = StartingPosition::TrimHorizon;
    let mut asked = 0;
    // Its own socket is full at some time; then the store has stopped taking questions.
    while asked < 20_000 {
        let call = Call::Read { name: name(), shard: ShardId(0), from, bytes_max: 4 << 20, wait_ms: 0 };
        deaf.put_call(asked, &call);
        asked += 1;
        if tokio::time::timeout(Duration::from_millis(300), deaf.flush()).await.is_err() {
            break;
        }
    }
    // Known, and sending without waiting for a single answer.
    let mut greedy = connect(&world.target, 100).await;
    for sequence in 1..=3000 {
        greedy.put_raw(&batch(100, sequence, 1000));
        if tokio::time::timeout(Duration::from_secs(2), greedy.flush()).await.is_err() {
            break;
        }
    }
    for _ in 0..5 {
        world.goes_on().await;
    }
    let peak = world.rig.store.process.as_ref().unwrap().memory_bytes("VmHWM");
    assert!(peak < 384 * MIB, "{} MiB", peak / MIB);
    slow.join_all().await;
    eventually!("all counted", world.rig.status("connections_closed_slow_handshake").await >= 400.0);
    drop((deaf, greedy));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_handshakes_is_survived_and_an_agent_is_heard_all_the_while() {
    let Some(mut world) = World::start(&[]).await else { return };
    let before = memory(&world.rig);
    let mut flood = JoinSet::new();
    for n in 0..32 {
        let (target, address) = (world.target.clone(), world.rig.store.address);
        flood.spawn(async move {
            let (begin, mut count) = (clock::now(), 0u64);
            while clock::now().duration_since(begin) < Duration::from_secs(3) {
                if n % 2 == 0 {
                    // Whoever floods may be turned away; the agent, which was there before, may not.
                    let hello = Hello { client: "flood".to_owned(), producer: None, streams: Vec::new() };
                    drop(Link::connect(&target, &hello).await);
                } else if let Ok(mut tcp) = TcpStream::connect(address).await {
                    // Half a handshake, and gone.
                    let _ = tcp.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]).await;
                }
                count += 1;
            }
            count
        });
    }
    for _ in 0..5 {
        world.goes_on().await;
    }
    let count: u64 = flood.join_all().await.into_iter().sum();
    let after = memory(&world.rig);
    eprintln!("{count} handshakes; memory {} -> {} MiB", before / MIB, after / MIB);
    assert!(count > 100 && after < before + 128 * MIB, "{} MiB", after / MIB);
    eventually!("all are let go", world.rig.status("connections").await < 20.0);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_stays_flat_while_many_writers_are_far_over_their_rate() {
    let Some(mut world) = World::start(&[]).await else { return };
    world.rig.kinesin("stream update logs --rate 1MiB/s,1000/s");
    let time = Duration::from_secs(number("KINESIN_STORM_SECONDS", 4));
    let mut storm = JoinSet::new();
    for producer in 1..=64 {
        storm.spawn(work(world.target.clone(), producer, time, 100, Duration::ZERO));
    }
    tokio::time::sleep(time / 4).await;
    let early = memory(&world.rig);
    world.goes_on().await;
    let stored: u64 = storm.join_all().await.into_iter().sum();
    let late = memory(&world.rig);
    let throttled = world.rig.status("batches_throttled_total").await;
    eprintln!("{stored} stored, {throttled} throttled; memory {} -> {} MiB", early / MIB, late / MIB);
    assert!(throttled > 200.0, "{throttled}");
    // No more than the rate allows, with a second's worth at once.
    assert!(stored <= 10 * (time.as_secs() + 3), "{stored} of 100 records in {time:?}");
    assert!(late <= early + 16 * MIB, "{} MiB after {} MiB", late / MIB, early / MIB);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_within_128_mb_and_agents_within_32_mb_carry_a_fleet() {
    if !ready() {
        return;
    }
    let groups = || -> std::io::Result<_> { Ok((MemoryGroup::new(128 * MIB)?, MemoryGroup::new(32 * MIB)?)) };
    let (of_store, of_agent) = match groups() {
        Ok(groups) => groups,
        Err(why) => return not_here(&why),
    };
    let home = tempfile::tempdir().unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()));
    let store = StoreProcess::start_at(of_store.launch(), home.path(), address, &[]).await.unwrap();
    let mut rig = Rig::of(home, store).await;
    rig.kinesin("stream create logs --shards 4 --rate off");
    let mut logs = Vec::new();
    let mut agents = Vec::new();
    for n in 0..6 {
        std::fs::create_dir(rig.path(&format!("logs/{n}"))).unwrap();
        logs.push(Writer::new(&rig.path(&format!("logs/{n}/{n}.log"))));
        let sources = FILES.replace("logs/*.log", &format!("logs/{n}/*.log"));
        // One of them bounded by the kernel; the others are load.
        let launch = if n == 0 { of_agent.launch() } else { Default::default() };
        let started = AgentProcess::start_by(
            launch,
            rig.home.path(),
            &format!("agent-{n}"),
            &rig.store,
            address,
            &sources,
        );
        agents.push(started.unwrap());
    }
    for _ in 0..10 {
        logs.iter_mut().for_each(|log| log.write(5000));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    rig.assert_all_stored("logs", &made(&logs)).await;
    assert!(rig.store.process.as_mut().unwrap().ended().unwrap().is_none(), "{}", rig.store.printed());
    for agent in &mut agents {
        assert!(agent.process.as_mut().unwrap().ended().unwrap().is_none(), "{}", agent.printed());
    }
    // All of it can be read within the bound, too.
    let frames =
        rig.client.read(&name(), ShardId(0), StartingPosition::TrimHorizon, 4 << 20, 0).await.unwrap();
    assert!(Frame::parse_first(frames.frames()).is_ok());
    drop(agents);
    rig.store.kill().unwrap();
}
