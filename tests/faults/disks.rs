//! Disks that fail, and power that goes. A write or an fsync that fails (made to by strace, or by a file system whose device is
//! full) ends the program at once, with a reason and without another acknowledgement; what a cut leaves on the device holds
//! everything that was acknowledged. Real processes; file systems in images. Needs root.
//!
//! `KINESIN_POWER_CYCLES` says how often the power goes for each file system (50).

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protocol::batch::BatchBuilder;
use protocol::compress::{Codec, Compressor};
use protocol::frame::Header;
use protocol::name::StreamName;
use protocol::native::call::{Hello, Producer};
use protocol::native::message::{Ack, Outcome, Type};
use protocol::rng::Rng;
use protocol::sequence::ShardId;
use protocol::time::UnixMs;
use store::client::{Link, Target};
use tests::clock;
use tests::harness::consumer::{gaps, read_stream};
use tests::harness::mounts::{Mount, run};
use tests::harness::process::{AgentProcess, Launch, StoreProcess, free_port, not_here, ready};
use tests::harness::rig::{FILES, Rig, Writer, made, wait_until};
use tokio::sync::watch;

const MIB: u64 = 1 << 20;

/// A system call on a file fails, the `when`th time and only then: the next would succeed.
fn failing(call: &str, error: &str, when: u32, file: &Path) -> Launch {
    let inject = format!("inject={call}:error={error}:when={when}");
    let words = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e"];
    let mut prefix: Vec<String> = words.map(str::to_owned).to_vec();
    prefix.extend([
        format!("trace={call}"),
        "-e".to_owned(),
        inject,
        "-P".to_owned(),
        file.display().to_string(),
    ]);
    Launch { prefix, env: Vec::new() }
}

fn strace_is_there() -> bool {
    match run("strace", &["-qq", "-o", "/dev/null", "true"].map(OsStr::new)) {
        Ok(_) => true,
        Err(why) => {
            not_here(&why);
            false
        }
    }
}

const FAILURES: [(&str, &str); 4] =
    [("fdatasync", "EIO"), ("fdatasync", "ENOSPC"), ("write", "EIO"), ("write", "ENOSPC")];

#[tokio::test(flavor = "multi_thread")]
async fn a_store_whose_write_or_fsync_fails_once_ends_with_a_reason_and_has_all_it_acknowledged() {
    if !ready() || !strace_is_there() {
        return;
    }
    for (call, error) in FAILURES {
        let home = tempfile::tempdir().unwrap();
        let log = home.path().join("data/streams/000000/00000000000000000000.log");
        let address = ([127, 0, 0, 1], free_port().unwrap()).into();
        let launch = failing(call, error, 20, &log);
        let store = StoreProcess::start_at(launch, home.path(), address, &[]).await.unwrap();
        let mut rig = Rig::of(home, store).await;
        rig.kinesin("stream create logs --rate off");
        let _agent = rig.agent("a", &(FILES.to_owned() + "batch = { records_max = 10, linger_ms = 1 }\n"));
        let mut log = Writer::new(&rig.path("logs/a.log"));
        let process = rig.store.process.as_mut().unwrap();
        let ended = clock::eventually(Duration::from_secs(60), || {
            log.write(20);
            clock::sleep(Duration::from_millis(5));
            process.ended().unwrap().is_some()
        });
        assert!(ended, "{call} {error}: it goes on");
        assert_eq!(process.wait().unwrap().code(), Some(1));
        let said = rig.store.printed();
        assert!(
            said.contains("the store can't go on") && said.contains("00000000000000000000.log"),
            "{said}"
        );
        rig.store.launch = Launch::default();
        rig.up().await;
        rig.assert_all_stored("logs", &made(&[log])).await;
        rig.store.process.take().unwrap().terminate().unwrap();
        assert!(rig.store.command(&["check"]).unwrap().contains("clean: "), "{call} {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_write_or_fsync_fails_once_ends_with_a_reason_and_has_all_it_took() {
    if !ready() || !strace_is_there() {
        return;
    }
    for (call, error) in FAILURES {
        let Some(rig) = Rig::start(&[]).await else { return };
        rig.kinesin("stream create logs --rate off");
        let spool = rig.path("a-spool/log/00000000000000000000.log");
        let launch = failing(call, error, 15, &spool);
        let started =
            AgentProcess::start_by(launch, rig.home.path(), "a", &rig.store, rig.store.address, FILES);
        let mut agent = started.unwrap();
        let mut log = Writer::new(&rig.path("logs/a.log"));
        let process = agent.process.as_mut().unwrap();
        let ended = clock::eventually(Duration::from_secs(60), || {
            log.write(20);
            clock::sleep(Duration::from_millis(5));
            process.ended().unwrap().is_some()
        });
        assert!(ended, "{call} {error}: it goes on");
        assert_ne!(process.wait().unwrap().code(), Some(0));
        let said = agent.printed();
        assert!(said.contains("the spool can't be written") && said.contains("a-spool/log"), "{said}");
        agent.launch = Launch::default();
        agent.up().unwrap();
        rig.assert_all_stored("logs", &made(&[log])).await;
        assert_eq!(rig.lost("").await, 0, "{call} {error}");
    }
}

/// Makes an image file with a file system in it.
fn image(path: &Path, mib: u64, kind: &str) -> io::Result<()> {
    std::fs::File::create(path)?.set_len(mib * MIB)?;
    let force = if kind == "ext4" { "-F" } else { "-f" };
    run(&format!("mkfs.{kind}"), &[OsStr::new("-q"), OsStr::new(force), path.as_os_str()]).map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_full_before_its_file_system_knows_costs_nothing_that_was_acknowledged() {
    if !ready() {
        return;
    }
    // The file system believes in 64 MiB; behind it there are 20.
    let below = match Mount::memory(20) {
        Ok(below) => below,
        Err(why) => return not_here(&why),
    };
    let file = below.path().join("image");
    let disk = match image(&file, 64, "ext4").and_then(|()| Mount::image(&file)) {
        Ok(disk) => disk,
        Err(why) => return not_here(&why),
    };
    let home = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(disk.path(), home.path().join("data")).unwrap();
    let words = ["--free-bytes-min", "1MiB", "--segment-bytes", "4MiB"];
    let mut rig = Rig::start_in(home, &words).await;
    rig.kinesin("stream create logs --rate off");
    let mut agent = rig.agent("a", &(FILES.to_owned() + "batch = { codec = \"none\" }\n"));
    let mut log = Writer::new(&rig.path("logs/a.log"));
    let padding = "y".repeat(1000);
    (0..30).for_each(|_| log.write_with(1024, &padding));
    let process = rig.store.process.as_mut().unwrap();
    wait_until("it ends", || process.ended().unwrap().is_some());
    assert_eq!(process.wait().unwrap().code(), Some(1));
    let said = rig.store.printed();
    assert!(said.contains("the store can't go on"), "{said}");
    agent.kill().unwrap();
    // A larger device, and the file system mounted anew: its cache is gone with what never reached the device.
    run("umount", &[disk.path().as_os_str()]).unwrap();
    let larger = ["-o", "remount,size=100m"].map(OsStr::new);
    run("mount", &[&larger[..], &[below.path().as_os_str()]].concat()).unwrap();
    let _ = run("e2fsck", &[OsStr::new("-fy"), file.as_os_str()]);
    run("mount", &[OsStr::new("-o"), OsStr::new("loop"), file.as_os_str(), disk.path().as_os_str()]).unwrap();
    rig.up().await;
    agent.up().unwrap();
    rig.assert_all_stored("logs", &made(&[log])).await;
    assert_eq!(rig.lost("").await, 0);
    rig.store.kill().unwrap();
}

/// Puts records one batch after the other while it may, and remembers which were acknowledged.
async fn put_for_ever(target: Target, acked: Arc<Mutex<Vec<Vec<u8>>>>, mut may: watch::Receiver<bool>) {
    let hello = Hello {
        client: "load".to_owned(),
        producer: Some(Producer { id: 5, epoch: 1 }),
        streams: Vec::new(),
    };
    let mut link = Link::connect(&target, &hello).await.unwrap();
    for sequence in 1.. {
        if may.wait_for(|may| *may).await.is_err() {
            return;
        }
        let mut builder = BatchBuilder::new();
        let key = builder.key("key", None).unwrap();
        let records: Vec<Vec<u8>> = (0..1 + sequence % 20)
            .map(|n| format!("{sequence} {n} {}", "p".repeat((sequence * 7 % 300) as usize)).into_bytes())
            .collect();
        records.iter().for_each(|record| builder.push(key, UnixMs(sequence), record));
        let header = Header {
            stream: StreamName::new("logs").unwrap().key(),
            shard: ShardId::UNROUTED,
            producer_id: 5,
            producer_epoch: 1,
            producer_sequence: sequence,
            ..Header::default()
        };
        let mut frame = Vec::new();
        builder.seal(header, &mut Compressor::new(Codec::None), &mut frame);
        link.put_append(&frame);
        // The store is killed in the end.
        let Ok(()) = link.flush().await else { return };
        let Ok(received) = link.next().await else { return };
        if received.kind == Type::Ack
            && matches!(Ack::parse(&received.body).unwrap().outcome, Outcome::Stored { .. })
        {
            acked.lock().unwrap_or_else(PoisonError::into_inner).extend(records);
        }
    }
}

/// The device at this moment, without what is only in memory: a copy of the image that shares its blocks.
fn snapshot(image: &Path, to: &Path) -> io::Result<()> {
    run("cp", &[OsStr::new("--reflink=always"), image.as_os_str(), to.as_os_str()]).map(drop)
}

/// What a cut leaves must hold all that was acknowledged before it, in order.
async fn verify(snap: &Path, kind: &str, acked: &[Vec<u8>], what: &str) {
    let disk = Mount::copy_of_image(snap, kind).unwrap();
    let home = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(disk.path(), home.path().join("data")).unwrap();
    let mut store = StoreProcess::start(home.path(), &["--free-bytes-min", "1MiB"]).await.unwrap();
    let client = store.client().await.unwrap();
    let records = read_stream(&client, "logs").await.unwrap();
    assert_eq!(gaps(&records), Vec::<String>::new(), "{what}");
    let stored: Vec<Vec<u8>> = records.into_iter().map(|record| record.data).collect();
    assert!(stored.starts_with(acked), "{what}: {} stored, {} acknowledged", stored.len(), acked.len());
    drop(client);
    store.process.take().unwrap().terminate().unwrap();
    let data = store.data.display().to_string();
    // Indexes of sealed segments are derived, and not synced for themselves.
    let checked = tests::harness::process::run("kinesin", &["check", &data, "--repair"]).unwrap();
    assert!(checked.status.success(), "{what}: {}", String::from_utf8_lossy(&checked.stdout));
}

/// A quarter of a second at most, at 16 MiB/s.
const MIB_PER_CUT: u64 = 4;

async fn cut_the_power(kind: &str, mib: u64) {
    if !ready() {
        return;
    }
    let below = tempfile::tempdir().unwrap();
    let outer = below.path().join("outer");
    let cycles: u64 =
        std::env::var("KINESIN_POWER_CYCLES").ok().and_then(|text| text.parse().ok()).unwrap_or(50);
    // So that what is written between two cuts finds room, however fast the machine is.
    let mib = mib + cycles * MIB_PER_CUT;
    // Two mounts, one in the other: the outer one can copy a file at once, by sharing its blocks.
    let outer = match image(&outer, 2048 + 2 * mib, "xfs").and_then(|()| Mount::image(&outer)) {
        Ok(outer) => outer,
        Err(why) => return not_here(&why),
    };
    let inner: PathBuf = outer.path().join("inner");
    let disk = image(&inner, mib, kind).and_then(|()| Mount::image(&inner)).unwrap();
    let home = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(disk.path(), home.path().join("data")).unwrap();
    let words = ["--free-bytes-min", "1MiB", "--segment-bytes", "256KiB"];
    let store = StoreProcess::start(home.path(), &words).await.unwrap();
    store.command(&["stream", "create", "logs", "--rate", "off"]).unwrap();
    let acked = Arc::new(Mutex::new(Vec::new()));
    let (go, may) = watch::channel(false);
    let load = tokio::spawn(put_for_ever(Target::of_data_dir(&store.data).unwrap(), Arc::clone(&acked), may));
    let mut rng = Rng::new(11);
    for cycle in 0..cycles {
        go.send_replace(true);
        tokio::time::sleep(Duration::from_millis(rng.between(20, 250))).await;
        let process = store.process.as_ref().unwrap();
        process.pause().unwrap();
        let before = acked.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let snap = outer.path().join("snap");
        snapshot(&inner, &snap).unwrap();
        go.send_replace(false);
        process.resume().unwrap();
        verify(&snap, kind, &before, &format!("{kind}, cut {cycle}")).await;
        std::fs::remove_file(&snap).unwrap();
        // A stream that is made just before a cut is there after it, too.
        if cycle % 4 == 0 {
            store.command(&["stream", "create", &format!("more-{cycle}")]).unwrap();
        }
    }
    load.abort();
    let count = acked.lock().unwrap_or_else(PoisonError::into_inner).len();
    assert!(count > 100, "{count} records were acknowledged");
    drop(store);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "images of file systems: tests/all runs it"]
async fn a_power_cut_on_ext4_loses_nothing_that_was_acknowledged() {
    cut_the_power("ext4", 128).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "images of file systems: tests/all runs it"]
async fn a_power_cut_on_xfs_loses_nothing_that_was_acknowledged() {
    cut_the_power("xfs", 320).await;
}
