//! The store is away: the agent keeps what it takes, as long as its bound allows, and then does what it was told.

use crate::common::{FILES, Rig, Writer, made, wait_until};
use crate::eventually;

const SMALL: &str = "\n[batch]\nbytes_max = \"16 KiB\"\ncodec = \"none\"\n";

fn spool(rig: &Rig, policy: &str) -> String {
    let dir = rig.path("spool");
    format!("\n[spool]\ndir = \"{}\"\nmax_bytes = \"4 MiB\"\noverflow = \"{policy}\"\n", dir.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_taken_while_the_store_was_away_arrives_in_order_when_it_is_back() {
    let Some(mut rig) = Rig::start(&[]).await else { return };
    rig.kinesin("stream create logs --shards 2 --rate off");
    let agent = rig.agent("a", FILES);
    let mut logs: Vec<Writer> = (0..4).map(|n| Writer::new(&rig.path(&format!("logs/{n}.log")))).collect();
    let mut write_all = |lines: u64| {
        logs.iter_mut().for_each(|log| log.write(lines));
        logs.iter().map(Writer::count).sum::<u64>()
    };
    let so_far = write_all(300);
    rig.wait_for("logs", so_far).await;
    for round in 0..3 {
        match round {
            0 => drop(rig.store.process.take().unwrap().terminate().unwrap()),
            _ => rig.store.kill().unwrap(),
        }
        let so_far = write_all(1000);
        wait_until("everything in the spool", || agent.status().records_in >= so_far);
        rig.up().await;
        write_all(100);
    }
    rig.assert_all_stored("logs", &made(&logs)).await;
    assert_eq!(rig.lost("").await, 0);
}

/// Fills the spool while the store is away; returns what was written.
async fn overflow(rig: &mut Rig, policy: &str) -> (tests::harness::process::AgentProcess, Writer) {
    rig.kinesin("stream create logs --rate off");
    let sources = format!("{FILES}{SMALL}{}", spool(rig, policy));
    let mut log = Writer::new(&rig.path("logs/a.log"));
    let agent = rig.agent("a", &sources);
    log.write(100);
    rig.wait_for("logs", 100).await;
    // An answer that is lost with its connection leaves the agent in doubt: what it then gives up may be stored.
    wait_until("the agent has heard of them", || agent.status().backlog_records == 0);
    rig.store.kill().unwrap();
    for _ in 0..10 {
        log.write(20_000);
    }
    (agent, log)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_spool_that_blocks_reads_no_further_and_loses_nothing() {
    let Some(mut rig) = Rig::start(&[]).await else { return };
    let (agent, log) = overflow(&mut rig, "block").await;
    wait_until("a full spool", || agent.status().blocked);
    let status = agent.status();
    assert!(status.records_in < log.count() && status.spool_bytes <= 4 << 20, "{status:?}");
    rig.up().await;
    rig.assert_all_stored("logs", &made(&[log])).await;
    assert_eq!(rig.lost("").await, 0);
}

async fn dropping(policy: &str) {
    let Some(mut rig) = Rig::start(&[]).await else { return };
    let (agent, log) = overflow(&mut rig, policy).await;
    wait_until("all taken", || agent.status().records_in >= log.count());
    assert!(agent.status().spool_bytes <= 4 << 20);
    rig.up().await;
    eventually!(format!("{policy}: stored and lost are all that was written"), {
        let stored = tests::harness::consumer::count(&rig.client, "logs").await;
        let lost = rig.lost("spool_full").await;
        assert!(stored + lost <= log.count(), "{stored} stored, {lost} lost, {} written", log.count());
        stored + lost == log.count()
    });
    let stored = rig.stored("logs").await.remove("a.log").unwrap();
    assert!(stored.is_sorted() && stored.len() < log.made.len());
    let (first, last) = (&log.made[100..200], log.made.last().unwrap());
    match policy {
        "drop_oldest" => assert!(stored.last() == Some(last), "the newest is there"),
        _ => assert!(stored.windows(100).any(|part| part == first), "the oldest are there"),
    }
    let losses = rig.losses("spool_full").await;
    assert!(losses.iter().all(|loss| loss["agent"] == "a" && loss["source"] == "logs"), "{losses:?}");
    let _ = agent;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_spool_that_drops_the_oldest_says_exactly_how_much() {
    dropping("drop_oldest").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_spool_that_drops_the_newest_says_exactly_how_much() {
    dropping("drop_newest").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_its_way_to_a_slow_store_is_never_counted_as_lost_too() {
    let Some(rig) = Rig::start(&[]).await else { return };
    // A store that takes far less than is written: batches are under way all the time while others are dropped.
    rig.store.command(&["stream", "create", "logs", "--rate", "1 MiB/s,3000/s"]).unwrap();
    let sources = format!("{FILES}line_bytes_max = 1000\n{SMALL}{}", spool(&rig, "drop_oldest"));
    let agent = rig.agent("a", &sources.replace("4 MiB", "1 MiB").replace("16 KiB", "4 KiB"));
    let mut log = Writer::new(&rig.path("logs/a.log"));
    for _ in 0..10 {
        log.write(10_000);
    }
    wait_until("all taken", || agent.status().records_in >= log.count());
    let mut settled: (u64, u64);
    eventually!("stored and lost are all that was written", {
        let stored = tests::harness::consumer::count(&rig.client, "logs").await;
        let lost = rig.lost("spool_full").await;
        assert!(stored + lost <= log.count(), "{stored} stored, {lost} lost, {} written", log.count());
        settled = (stored, lost);
        stored + lost == log.count()
    });
    assert!(settled.0 > 0 && settled.1 > 0, "{settled:?}; {:?}; {}", agent.status(), agent.printed());
    assert!(rig.stored("logs").await.remove("a.log").unwrap().is_sorted());
}
