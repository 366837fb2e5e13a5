//! Bounds at work: retention, open files, rates, a network that breaks all the time.

use std::time::Duration;

use tests::clock;
use tests::harness::consumer::{self, read_stream};
use tests::harness::link::Link;
use tests::harness::process::AgentProcess;

use crate::common::{FILES, Rig, Writer, made};
use crate::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn retention_deletes_the_oldest_segments_by_size_and_by_age() {
    let Some(rig) = Rig::start(&["--segment-bytes", "64KiB"]).await else { return };
    rig.kinesin("stream create logs --rate off --retention-bytes 256KiB");
    let _agent = rig.agent("a", &(FILES.to_owned() + "batch = { records_max = 100, codec = \"none\" }\n"));
    let mut log = Writer::new(&rig.path("logs/a.log"));
    for _ in 0..30 {
        log.write(500);
        rig.wait_for("logs", log.count()).await;
    }
    let bytes = || async { rig.json("stream describe logs --json")["stored_bytes"].as_u64().unwrap() };
    eventually!("at most 256 KiB and a segment", bytes().await <= (256 + 128) << 10);
    let kept = read_stream(&rig.client, "logs").await.unwrap();
    let kept: Vec<Vec<u8>> = kept.into_iter().map(|record| record.data).collect();
    assert!(!kept.is_empty() && log.made.ends_with(&kept), "the newest are kept, without a gap");
    rig.kinesin("stream update logs --retention 1s");
    eventually!("only the active segment is left", bytes().await <= 128 << 10);
    // What is gone is not read, and what is left goes on.
    log.write(10);
    rig.wait_for("logs", log.count()).await;
    let kept = read_stream(&rig.client, "logs").await.unwrap();
    assert!(kept.last().is_some_and(|record| Some(&record.data) == log.made.last()));
}

#[tokio::test(flavor = "multi_thread")]
async fn however_many_segments_there_are_no_file_stays_open_for_each() {
    let Some(rig) = Rig::start(&["--segment-bytes", "64KiB"]).await else { return };
    rig.kinesin("stream create logs --rate off");
    let _agent = rig.agent("a", &(FILES.to_owned() + "batch = { records_max = 100, codec = \"none\" }\n"));
    let mut log = Writer::new(&rig.path("logs/a.log"));
    let open = || {
        let links = std::fs::read_dir(format!("/proc/{}/fd", rig.store.process.as_ref().unwrap().id()))
            .unwrap()
            .flatten();
        links.filter_map(|link| std::fs::read_link(link.path()).ok()).collect::<Vec<_>>()
    };
    let sealed = || {
        let folders = std::fs::read_dir(rig.store.data.join("streams")).into_iter().flatten().flatten();
        let files = folders.filter_map(|folder| std::fs::read_dir(folder.path()).ok()).flatten().flatten();
        files.filter(|file| file.path().extension().is_some_and(|kind| kind == "idx")).count()
    };
    while sealed() < 100 {
        log.write(5000);
        rig.wait_for("logs", log.count()).await;
    }
    let of_indexes = open().iter().filter(|path| path.to_string_lossy().contains(".idx")).count();
    assert!(of_indexes < 20, "{of_indexes} of {} open files are index files", open().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_agent_keeps_to_its_shard_s_rate_and_is_never_refused() {
    let Some(rig) = Rig::start(&[]).await else { return };
    rig.store.command(&["stream", "create", "logs", "--rate", "1 MiB/s,400/s"]).unwrap();
    rig.store.command(&["stream", "create", "free", "--rate", "off"]).unwrap();
    let other =
        "[[source.file]]\npaths = [\"logs/*.txt\"]\nstream = \"free\"\npartition_key = \"{file_name}\"\n";
    let batch = "\n[batch]\nrecords_max = 50\n";
    let _agent = rig.agent("a", &(FILES.to_owned() + other + batch));
    let (mut log, mut free) = (Writer::new(&rig.path("logs/a.log")), Writer::new(&rig.path("logs/a.txt")));
    log.write(1);
    rig.wait_for("logs", 1).await;
    let begin = clock::now();
    log.write(1600);
    free.write(5000);
    rig.assert_all_stored("free", &made(&[free])).await;
    let free_after = clock::now().duration_since(begin);
    rig.assert_all_stored("logs", &made(&[log])).await;
    let took = clock::now().duration_since(begin);
    // A second's worth may come at once, the rest at the rate.
    assert!(took >= Duration::from_millis(2800), "{took:?}");
    assert!(free_after < took, "a stream that waits is in no other's way");
    assert_eq!(rig.status("batches_throttled_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_share_a_shard_are_told_to_wait_and_everything_arrives_once_in_order() {
    let Some(rig) = Rig::start(&[]).await else { return };
    rig.store.command(&["stream", "create", "logs", "--rate", "1 MiB/s,600/s"]).unwrap();
    let mut logs = Vec::new();
    let mut agents = Vec::new();
    for name in ["a", "b", "c"] {
        std::fs::create_dir(rig.path(&format!("logs/{name}"))).unwrap();
        let mut log = Writer::new(&rig.path(&format!("logs/{name}/{name}.log")));
        log.write(800);
        logs.push(log);
        let source = FILES.replace("logs/*.log", &format!("logs/{name}/*.log"));
        agents.push(rig.agent(name, &(source + "\n[batch]\nrecords_max = 50\n")));
    }
    rig.assert_all_stored("logs", &made(&logs)).await;
    assert!(rig.status("batches_throttled_total").await > 0.0);
    assert_eq!(rig.lost("").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_lost_with_their_connections_double_nothing() {
    let Some(rig) = Rig::start(&[]).await else { return };
    rig.kinesin("stream create logs --shards 3 --rate off");
    let link = Link::start(rig.store.address).await.unwrap();
    let source = FILES.to_owned() + "batch = { records_max = 20, linger_ms = 1 }\n";
    let _agent = AgentProcess::start(rig.home.path(), "a", &rig.store, link.address(), &source).unwrap();
    let mut logs: Vec<Writer> = (0..5).map(|n| Writer::new(&rig.path(&format!("logs/{n}.log")))).collect();
    logs.iter_mut().for_each(|log| log.write(100));
    for round in 0..25 {
        // A connection that is up: answers to its greeting are none to lose.
        logs[0].write(1);
        let before: u64 = logs.iter().map(Writer::count).sum();
        rig.wait_for("logs", before).await;
        // Every other time certainly after the store has it and before the agent knows; else wherever it hits.
        let bytes = link.forwarded_bytes();
        if round % 2 == 0 {
            link.lose_answers();
        }
        logs.iter_mut().for_each(|log| log.write(200));
        eventually!("something stored", consumer::count(&rig.client, "logs").await > before);
        eventually!("traffic", link.forwarded_bytes() > bytes + 500);
        link.cut();
        link.heal();
    }
    rig.assert_all_stored("logs", &made(&logs)).await;
    let again = rig.status("batches_duplicate_total").await;
    assert!(again >= 5.0, "only {again} batches were sent again and recognised");
}
