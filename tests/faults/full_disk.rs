//! A disk with no room left: the store turns writers away before it is full, serves readers, and goes on by itself; the
//! agent waits. Real processes on a small file system in memory.

use std::os::unix::fs::symlink;
use std::time::Duration;

use tests::eventually;
use tests::harness::mounts::Mount;
use tests::harness::process::{not_here, ready};
use tests::harness::rig::{FILES, Rig, Writer, made, wait_until};

const MIB: u64 = 1 << 20;

/// Batches as they are, so that lines fill the disk.
const PLAIN: &str = "batch = { codec = \"none\" }\n";

/// A small file system, where the machine allows one.
fn small(mib: u64) -> Option<Mount> {
    if !ready() {
        return None;
    }
    Mount::memory(mib).map_err(|why| not_here(&why)).ok()
}

/// A store whose data folder is on it, with a stream `logs`.
async fn store_on(disk: &Mount, words: &[&str]) -> Rig {
    let home = tempfile::tempdir().unwrap();
    symlink(disk.path(), home.path().join("data")).unwrap();
    let rig = Rig::start_in(home, words).await;
    rig.kinesin("stream create logs --rate off");
    rig
}

/// Lines of 1 KiB and a little.
fn write_mib(log: &mut Writer, mib: u64) {
    let padding = "z".repeat(1000);
    for _ in 0..mib {
        log.write_with(1024, &padding);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_turns_writers_away_before_its_disk_is_full_and_takes_up_again_by_itself() {
    let Some(disk) = small(64) else { return };
    let filler = disk.fill(40 * MIB).unwrap();
    let mut rig = store_on(&disk, &["--free-bytes-min", "8MiB", "--segment-bytes", "4MiB"]).await;
    let agent = rig.agent("a", &(FILES.to_owned() + PLAIN));
    let mut log = Writer::new(&rig.path("logs/a.log"));
    // Much faster than the store looks at its disk.
    write_mib(&mut log, 48);
    eventually!("a full disk", rig.status("disk_full").await == 1.0);
    wait_until("all in the spool", || agent.status().records_in >= log.count());
    // Nothing of what is kept free was used for records.
    let free = disk.free_bytes().unwrap();
    assert!((6 * MIB..=9 * MIB).contains(&free), "{free} bytes are free");
    assert!(rig.store.printed().contains("the disk is nearly full"), "{}", rig.store.printed());
    // Readers are served, what was taken is whole, and nothing new is begun.
    let half = rig.stored("logs").await.remove("a.log").unwrap();
    assert!(half.len() > 10_000 && log.made.starts_with(&half), "{} of {}", half.len(), log.made.len());
    let refused = rig.store.command(&["stream", "create", "more"]).unwrap_err().to_string();
    assert!(refused.contains("nearly full"), "{refused}");
    // What makes room is done; then everything comes.
    std::fs::remove_file(filler).unwrap();
    rig.assert_all_stored("logs", &made(&[log])).await;
    eventually!("room", rig.status("disk_full").await == 0.0);
    rig.kinesin("stream create more");
    assert_eq!(rig.lost("").await, 0);
    assert!(rig.store.process.as_mut().unwrap().ended().unwrap().is_none(), "it never ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shorter_retention_and_a_deleted_stream_give_a_full_disk_room_again() {
    let Some(disk) = small(48) else { return };
    let rig = store_on(&disk, &["--free-bytes-min", "8MiB", "--segment-bytes", "2MiB"]).await;
    let other = FILES.replace("logs/*.log", "logs/*.txt").replace("\"logs\"", "\"other\"");
    rig.kinesin("stream create other --rate off");
    let _agent = rig.agent("a", &format!("{FILES}{PLAIN}{other}{PLAIN}"));
    let (mut log, mut text) = (Writer::new(&rig.path("logs/a.log")), Writer::new(&rig.path("logs/a.txt")));
    write_mib(&mut text, 20);
    rig.wait_for("other", text.count()).await;
    write_mib(&mut log, 40);
    eventually!("a full disk", rig.status("disk_full").await == 1.0);
    rig.kinesin("stream update logs --retention-bytes 4MiB");
    rig.kinesin("stream delete other --yes");
    // More than the disk holds went through it.
    rig.wait_for("logs", log.count()).await;
    let kept = tests::harness::consumer::read_stream(&rig.client, "logs").await.unwrap();
    let kept: Vec<Vec<u8>> = kept.into_iter().map(|record| record.data).collect();
    assert!(!kept.is_empty() && log.made.ends_with(&kept), "the newest, without a gap");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_whose_disk_others_have_filled_to_the_last_byte_starts_and_serves_readers() {
    let Some(disk) = small(32) else { return };
    let mut rig = store_on(&disk, &["--free-bytes-min", "4MiB", "--segment-bytes", "1MiB"]).await;
    let mut agent = rig.agent("a", &(FILES.to_owned() + PLAIN));
    let mut log = Writer::new(&rig.path("logs/a.log"));
    write_mib(&mut log, 5);
    rig.wait_for("logs", log.count()).await;
    let filler = disk.fill(0).unwrap();
    eventually!("a full disk", rig.status("disk_full").await == 1.0);
    log.write(100);
    for how in ["kill", "end"] {
        match how {
            "kill" => rig.store.kill().unwrap(),
            _ => drop(rig.store.process.take().unwrap().terminate().unwrap()),
        }
        rig.up().await;
        let there = rig.stored("logs").await.remove("a.log").unwrap();
        assert_eq!(there.len(), 5 * 1024, "{how}");
        assert_eq!(rig.status("disk_full").await, 1.0);
    }
    std::fs::remove_file(filler).unwrap();
    rig.assert_all_stored("logs", &made(&[log])).await;
    agent.kill().unwrap();
    rig.store.process.take().unwrap().terminate().unwrap();
    assert!(rig.store.command(&["check"]).unwrap().contains("clean: "));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_disk_is_full_waits_and_loses_nothing_through_kills_and_starts() {
    let Some(disk) = small(24) else { return };
    let Some(mut rig) = Rig::start(&[]).await else { return };
    rig.kinesin("stream create logs --rate off");
    let spool = format!(
        "\n[spool]\ndir = \"{}\"\nmax_bytes = \"1 GiB\"\nmin_free = \"4 MiB\"\n",
        disk.path().join("spool").display()
    );
    let mut agent = rig.agent("a", &format!("{FILES}{PLAIN}{spool}"));
    let mut log = Writer::new(&rig.path("logs/a.log"));
    log.write(100);
    rig.wait_for("logs", 100).await;
    rig.store.kill().unwrap();
    write_mib(&mut log, 40);
    wait_until("a full spool", || agent.status().blocked);
    let free = disk.free_bytes().unwrap();
    assert!(free >= 3 * MIB && agent.status().records_in < log.count(), "{free} are free");
    // Others take the rest, and the agent is killed: it can't even note that it has started.
    let filler = disk.fill(0).unwrap();
    for starts in 2.. {
        agent.kill().unwrap();
        agent.up().unwrap();
        // A few bytes may be left in the last block of its file.
        let waits = |printed: &str| printed.matches("the disk has no room").count();
        let stands = |printed: &str| waits(printed) + printed.matches("the spool is full").count() >= starts;
        wait_until("it says what it waits for", || stands(&agent.printed()));
        if waits(&agent.printed()) > 0 {
            break;
        }
    }
    rig.up().await;
    std::fs::remove_file(filler).unwrap();
    rig.assert_all_stored("logs", &made(&[log])).await;
    assert_eq!(rig.lost("").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_at_work_whose_disk_others_fill_sends_what_it_has_and_then_goes_on() {
    let Some(disk) = small(24) else { return };
    let Some(rig) = Rig::start(&[]).await else { return };
    rig.kinesin("stream create logs --rate off");
    let spool =
        format!("\n[spool]\ndir = \"{}\"\nmin_free = \"2 MiB\"\n", disk.path().join("spool").display());
    let mut agent = rig.agent("a", &format!("{FILES}{PLAIN}{spool}"));
    let mut log = Writer::new(&rig.path("logs/a.log"));
    for _ in 0..3 {
        log.write(1000);
        rig.wait_for("logs", log.count()).await;
        let filler = disk.fill(0).unwrap();
        log.write(1000);
        // The same warning comes at most every 30 s.
        wait_until("it waits", || agent.printed().contains("the spool is full"));
        tokio::time::sleep(Duration::from_millis(300)).await;
        std::fs::remove_file(filler).unwrap();
    }
    rig.assert_all_stored("logs", &made(&[log])).await;
    assert!(agent.process.as_mut().unwrap().ended().unwrap().is_none(), "it never ended");
}
