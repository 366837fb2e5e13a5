//! Clocks that are wrong or jump: on the device, and on the store. Real processes with a false clock (libfaketime); where it
//! is not installed, a test says so and passes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tests::eventually;
use tests::harness::process::{AgentProcess, Launch, StoreProcess, ready, skip};
use tests::harness::rig::{FILES, Rig, Writer, made, wait_until};

const LIBRARY: &str = "libfaketime.so.1";

fn library() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
    let found = folders.map(|folder| folder.join("faketime").join(LIBRARY)).find(|path| path.is_file());
    if found.is_none() {
        skip("libfaketime is not installed (Debian: faketime)");
    }
    found
}

/// A wall clock that shows what a file says: `+0`, `-20y`, `+20y`.
struct FalseClock {
    file: PathBuf,
    launch: Launch,
}

impl FalseClock {
    fn new(home: &Path) -> Option<FalseClock> {
        if !ready() {
            return None;
        }
        let file = home.join("clock");
        let env = [
            ("LD_PRELOAD", library()?.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ];
        let env = env.map(|(name, value)| (name.to_owned(), value)).to_vec();
        let clock = FalseClock { file, launch: Launch { env, prefix: Vec::new() } };
        clock.set("+0");
        Some(clock)
    }

    fn set(&self, offset: &str) {
        let next = self.file.with_extension("next");
        std::fs::write(&next, format!("{offset}\n")).unwrap();
        std::fs::rename(next, &self.file).unwrap();
    }
}

fn agent_with(rig: &Rig, clock: &FalseClock) -> AgentProcess {
    let launch = clock.launch.clone();
    AgentProcess::start_by(launch, rig.home.path(), "a", &rig.store, rig.store.address, FILES).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_starts_twenty_years_ago_delivers_as_if_it_knew_the_time() {
    let Some(rig) = Rig::start(&[]).await else { return };
    let Some(clock) = FalseClock::new(rig.home.path()) else { return };
    clock.set("-20y");
    let mut agent = agent_with(&rig, &clock);
    let mut log = Writer::new(&rig.path("logs/a.log"));
    log.write(500);
    rig.wait_for("logs", log.count()).await;
    // It restarts, and its clock is set while it works.
    agent.kill().unwrap();
    log.write(500);
    agent.up().unwrap();
    rig.wait_for("logs", log.count()).await;
    for offset in ["+0", "-1d", "+3d", "-20y", "+0"] {
        clock.set(offset);
        log.write(200);
        rig.wait_for("logs", log.count()).await;
    }
    rig.assert_all_stored("logs", &made(&[log])).await;
    assert_eq!(rig.lost("").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_twenty_years_ahead_says_so_keeps_everything_and_delivers_once_its_clock_is_set() {
    let Some(rig) = Rig::start(&[]).await else { return };
    let Some(clock) = FalseClock::new(rig.home.path()) else { return };
    clock.set("+20y");
    let agent = agent_with(&rig, &clock);
    let mut log = Writer::new(&rig.path("logs/a.log"));
    log.write(500);
    wait_until("it says why", || agent.printed().contains("set this machine's clock"));
    wait_until("all in the spool", || agent.status().records_in >= log.count());
    clock.set("+0");
    rig.assert_all_stored("logs", &made(&[log])).await;
    assert_eq!(rig.lost("").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_whose_clock_jumps_deletes_nothing_for_it_and_goes_on() {
    let home = tempfile::tempdir().unwrap();
    let Some(clock) = FalseClock::new(home.path()) else { return };
    let address = ([127, 0, 0, 1], tests::harness::process::free_port().unwrap()).into();
    let words = ["--segment-bytes", "64KiB"];
    let store = StoreProcess::start_at(clock.launch.clone(), home.path(), address, &words).await.unwrap();
    let mut rig = Rig::of(home, store).await;
    rig.kinesin("stream create logs --rate off --retention 1h");
    let _agent = rig.agent("a", &(FILES.to_owned() + "batch = { codec = \"none\" }\n"));
    let mut log = Writer::new(&rig.path("logs/a.log"));
    for offset in ["+0", "+20y", "-20y", "+0"] {
        clock.set(offset);
        log.write(2000);
        rig.wait_for("logs", log.count()).await;
        // Retention looks every second.
        tokio::time::sleep(Duration::from_millis(1500)).await;
    }
    rig.assert_all_stored("logs", &made(std::slice::from_ref(&log))).await;
    // And one that starts with a wrong clock.
    rig.store.kill().unwrap();
    clock.set("+20y");
    rig.store.spawn().unwrap();
    eventually!(
        "it is in doubt",
        match rig.store.client().await {
            Ok(client) => {
                rig.client = client;
                rig.status("clock_in_doubt").await == 1.0
            }
            // Our own clock is right, and finds its certificate not valid yet.
            Err(_) => rig.store.command(&["status"]).is_ok() || rig.store.printed().contains("listens at"),
        }
    );
    tokio::time::sleep(Duration::from_millis(1500)).await;
    rig.store.kill().unwrap();
    clock.set("+0");
    rig.up().await;
    rig.assert_all_stored("logs", &made(&[log])).await;
}
