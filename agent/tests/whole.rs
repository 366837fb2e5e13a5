//! The whole agent against a small store: real files, a real spool, real TLS; record by record.

#![expect(clippy::disallowed_methods, reason = "a test of the whole: real files, real time")]

mod common;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use agent::Agent;
use common::{Behaviour, FILES, FakeStore, config};

const LONG: Duration = Duration::from_secs(20);

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("logs")).unwrap();
    dir
}

fn append(file: &Path, from: u64, to: u64) {
    let mut out = fs::OpenOptions::new().create(true).append(true).open(file).unwrap();
    let text: String = (from..to).map(|n| format!("line {n}\n")).collect();
    out.write_all(text.as_bytes()).unwrap();
}

fn want(from: u64, to: u64) -> Vec<String> {
    (from..to).map(|n| format!("line {n}")).collect()
}

#[test]
fn a_new_agent_enrolls_and_forwards_every_line_in_order() {
    let dir = folder();
    let store = FakeStore::start(dir.path(), Behaviour::default());
    append(&dir.path().join("logs/a.log"), 0, 1000);
    let agent = Agent::start(config(&store, dir.path(), FILES)).unwrap();
    store.wait("the first lines", LONG, |s| s.counts()[0] == 1000);
    append(&dir.path().join("logs/a.log"), 1000, 2000);
    store.wait("the next lines", LONG, |s| s.counts()[0] == 2000);
    assert!(agent.drain_and_stop(LONG));
    assert_eq!(store.lines("logs"), want(0, 2000));
    assert_eq!(store.enrolled(), 1);

    append(&dir.path().join("logs/a.log"), 2000, 2100);
    let agent = Agent::start(config(&store, dir.path(), FILES)).unwrap();
    assert!(agent.drain_and_stop(LONG));
    assert_eq!(store.lines("logs"), want(0, 2100));
    assert_eq!(store.enrolled(), 1, "the certificate is kept");
    assert_eq!(agent_stats_are_clean(&store), [0, 0]);
}

fn agent_stats_are_clean(store: &FakeStore) -> [u64; 2] {
    let [_, _, throttled, _, out_of_sequence, _] = store.counts();
    [throttled, out_of_sequence]
}

#[test]
fn lost_answers_throttles_and_cuts_lose_nothing_double_nothing_and_keep_the_order() {
    let dir = folder();
    let behaviour =
        Behaviour { cut_after: Some(7), throttle_every: Some(5), shards: 4, ..Behaviour::default() };
    let store = FakeStore::start(dir.path(), behaviour);
    let batch = "[batch]\nrecords_max = 50\n";
    let agent = Agent::start(config(&store, dir.path(), &format!("{FILES}{batch}"))).unwrap();
    for round in 0..20u64 {
        for file in 0..5 {
            append(&dir.path().join(format!("logs/{file}.log")), round * 50, round * 50 + 50);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    store.wait("all lines", LONG * 3, |s| s.counts()[0] >= 5000);
    store.set(|b| b.cut_after = None);
    assert!(agent.drain_and_stop(LONG));
    let records = store.of("logs");
    assert_eq!(records.len(), 5000);
    for file in 0..5 {
        let key = format!("{file}.log");
        let lines: Vec<_> = records.iter().filter(|r| r.key == key).collect();
        let lines: Vec<_> = lines.iter().map(|r| String::from_utf8_lossy(&r.data).into_owned()).collect();
        assert_eq!(lines, want(0, 1000), "{key}");
    }
    assert!(store.counts()[3] > 0, "batches were sent again");
}

#[test]
fn killed_again_and_again_it_goes_on_where_it_was() {
    let dir = folder();
    let store = FakeStore::start(dir.path(), Behaviour { shards: 2, ..Behaviour::default() });
    let file = dir.path().join("logs/a.log");
    for round in 0..15u64 {
        let agent = Agent::start(config(&store, dir.path(), FILES)).unwrap();
        for step in 0..10 {
            append(&file, round * 1000 + step * 100, round * 1000 + step * 100 + 100);
            std::thread::sleep(Duration::from_millis(round % 5));
        }
        agent.kill();
    }
    let agent = Agent::start(config(&store, dir.path(), FILES)).unwrap();
    assert!(agent.drain_and_stop(LONG), "{:?}", store.counts());
    assert_eq!(store.lines("logs"), want(0, 15_000));
}

#[test]
fn a_file_is_followed_through_rotation_by_rename_and_deletion() {
    let dir = folder();
    let store = FakeStore::start(dir.path(), Behaviour::default());
    let agent = Agent::start(config(&store, dir.path(), FILES)).unwrap();
    let file = dir.path().join("logs/a.log");
    for round in 0..10u64 {
        append(&file, round * 100, round * 100 + 60);
        if round == 0 {
            store.wait("the first lines", LONG, |s| s.counts()[0] == 60);
        }
        if round % 2 == 0 {
            std::thread::sleep(Duration::from_millis(50));
        }
        let old = fs::OpenOptions::new().append(true).open(&file).unwrap();
        fs::rename(&file, dir.path().join(format!("logs/a.log.{round}"))).unwrap();
        // The writer still has the old file for a while.
        let mut old = old;
        let text: String = (round * 100 + 60..round * 100 + 100).map(|n| format!("line {n}\n")).collect();
        old.write_all(text.as_bytes()).unwrap();
        fs::write(&file, "").unwrap();
        // A file that is there for less than a poll may never be seen.
        std::thread::sleep(Duration::from_millis(300));
    }
    assert!(agent.drain_and_stop(LONG));
    let mut lines = store.lines("logs");
    lines.sort_by_key(|l| l[5..].parse::<u64>().unwrap());
    assert!(lines == want(0, 1000), "{} lines, from {:?}", lines.len(), lines.first());
}

#[test]
fn a_file_that_is_emptied_in_place_is_read_from_its_start_again() {
    let dir = folder();
    let store = FakeStore::start(dir.path(), Behaviour::default());
    let agent = Agent::start(config(&store, dir.path(), FILES)).unwrap();
    let file = dir.path().join("logs/a.log");
    for round in 0..10u64 {
        append(&file, round * 100, round * 100 + 100);
        store.wait("a round", LONG, |s| s.counts()[0] == round * 100 + 100);
        fs::copy(&file, dir.path().join("logs/a.log.1")).unwrap();
        fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(0).unwrap();
        if round % 2 == 0 {
            std::thread::sleep(Duration::from_millis(120));
        }
    }
    assert!(agent.drain_and_stop(LONG));
    assert_eq!(store.lines("logs"), want(0, 1000));
}

#[test]
fn a_renamed_file_that_still_matches_is_not_read_again() {
    let dir = folder();
    let store = FakeStore::start(dir.path(), Behaviour::default());
    let agent = Agent::start(config(&store, dir.path(), FILES)).unwrap();
    append(&dir.path().join("logs/a.log"), 0, 100);
    store.wait("the lines", LONG, |s| s.counts()[0] == 100);
    fs::rename(dir.path().join("logs/a.log"), dir.path().join("logs/b.log")).unwrap();
    append(&dir.path().join("logs/b.log"), 100, 120);
    assert!(agent.drain_and_stop(LONG));
    assert_eq!(store.lines("logs"), want(0, 120));
    fs::rename(dir.path().join("logs/b.log"), dir.path().join("logs/c.log")).unwrap();
    let agent = Agent::start(config(&store, dir.path(), FILES)).unwrap();
    append(&dir.path().join("logs/c.log"), 120, 130);
    assert!(agent.drain_and_stop(LONG));
    assert_eq!(store.lines("logs"), want(0, 130));
}

#[test]
fn keys_stay_in_order_while_the_shards_change() {
    let dir = folder();
    let store = FakeStore::start(dir.path(), Behaviour::default());
    let source = FILES.replace("{file_name}", "{json.k}");
    let agent = Agent::start(config(&store, dir.path(), &source)).unwrap();
    let file = dir.path().join("logs/a.log");
    let mut out = fs::OpenOptions::new().create(true).append(true).open(&file).unwrap();
    let mut n = 0u64;
    for shards in [1, 4, 2, 7, 3] {
        store.reshard(shards);
        for _ in 0..20 {
            let text: String =
                (n..n + 50).map(|n| format!("{{\"k\":\"key{}\",\"n\":{n}}}\n", n % 11)).collect();
            out.write_all(text.as_bytes()).unwrap();
            n += 50;
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    assert!(agent.drain_and_stop(LONG));
    let records = store.of("logs");
    assert_eq!(records.len() as u64, n);
    let mut last: std::collections::HashMap<String, u64> = Default::default();
    for record in records {
        let value: serde_json::Value = serde_json::from_slice(&record.data).unwrap();
        let n = value["n"].as_u64().unwrap();
        assert_eq!(record.key, value["k"].as_str().unwrap());
        if let Some(before) = last.insert(record.key.clone(), n) {
            assert!(before < n, "{} after {before} in {}", n, record.key);
        }
    }
}

#[test]
fn offline_with_a_small_spool_it_waits_and_then_everything_arrives() {
    let dir = folder();
    let store = FakeStore::start(dir.path(), Behaviour::default());
    store.set_down(true);
    let more = "max_bytes = \"4 MiB\"\n[batch]\nbytes_max = \"16 KiB\"\ncodec = \"none\"\n";
    let agent = Agent::start(config(&store, dir.path(), &format!("{more}{FILES}"))).unwrap();
    let file = dir.path().join("logs/a.log");
    append(&file, 0, 900_000);
    let until = std::time::Instant::now() + LONG;
    while !agent.stats().blocked {
        assert!(std::time::Instant::now() < until, "{:?}", agent.stats());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(agent.stats().spool_bytes <= 4 << 20);
    store.set_down(false);
    assert!(agent.drain_and_stop(LONG * 2));
    assert_eq!(store.lines("logs"), want(0, 900_000));
}

#[test]
fn what_a_full_spool_drops_is_in_the_ledger_to_the_record() {
    for policy in ["drop_oldest", "drop_newest"] {
        let dir = folder();
        let store = FakeStore::start(dir.path(), Behaviour::default());
        store.set_down(true);
        let more = format!(
            "max_bytes = \"4 MiB\"\noverflow = \"{policy}\"\n[batch]\nbytes_max = \"16 KiB\"\ncodec = \"none\"\n"
        );
        let agent = Agent::start(config(&store, dir.path(), &format!("{more}{FILES}"))).unwrap();
        append(&dir.path().join("logs/a.log"), 0, 600_000);
        let until = std::time::Instant::now() + LONG;
        while agent.stats().records_in < 600_000 {
            assert!(std::time::Instant::now() < until, "{:?}", agent.stats());
            std::thread::sleep(Duration::from_millis(10));
        }
        let settled = |stats: &agent::Snapshot| stats.batches > 0 && stats.lost_records > 0;
        let mut before = agent.stats();
        loop {
            std::thread::sleep(Duration::from_millis(500));
            let now = agent.stats();
            if settled(&now) && (now.lost_records, now.commits) == (before.lost_records, before.commits) {
                break;
            }
            before = now;
        }
        store.set_down(false);
        assert!(agent.drain(LONG), "{policy}: {:?} {:?}", agent.stats(), store.counts());
        let most = LONG * 2;
        store.wait("every record stored or in the ledger", most, |s| {
            std::thread::sleep(Duration::from_millis(100));
            let told: u64 = s.of("_loss").iter().map(|r| lost(&r.data)).sum();
            let stored = s.of("logs").len() as u64;
            assert!(
                told + stored <= 600_000,
                "{policy}: {told} in the ledger, {stored} stored, {:?}",
                agent.stats()
            );
            told + s.of("logs").len() as u64 == 600_000
        });
        let lines = store.lines("logs");
        assert!(lines.len() < 600_000 && lines.is_sorted_by_key(|l| l[5..].parse::<u64>().unwrap()));
        agent.stop();
    }
}

fn lost(data: &[u8]) -> u64 {
    let value: serde_json::Value = serde_json::from_slice(data).unwrap();
    assert_eq!(value["agent"], "test");
    value["records"].as_u64().unwrap()
}

#[test]
fn a_lone_agent_that_knows_the_rate_is_never_refused() {
    let dir = folder();
    let rate = protocol::bucket::ShardRate { bytes_per_second: 1 << 20, records_per_second: 2000 };
    let store =
        FakeStore::start(dir.path(), Behaviour { rate: Some(rate), shards: 2, ..Behaviour::default() });
    let source = FILES.replace("{file_name}", "{json.k}");
    let batch = "[batch]\nrecords_max = 500\n";
    let agent = Agent::start(config(&store, dir.path(), &format!("{source}{batch}"))).unwrap();
    store.wait("a connection", LONG, |_| agent.stats().connected);
    let text: String = (0..10_000).map(|n| format!("{{\"k\":\"key{}\"}}\n", n % 100)).collect();
    fs::write(dir.path().join("logs/a.log"), text).unwrap();
    assert!(agent.drain_and_stop(LONG));
    assert_eq!(store.counts()[0], 10_000);
    assert_eq!(store.counts()[2], 0, "throttled");
}

#[test]
fn a_stream_that_the_store_refuses_waits_and_others_go_on() {
    let dir = folder();
    let store = FakeStore::start(
        dir.path(),
        Behaviour { refuse_stream: Some("logs-bad".into()), ..Behaviour::default() },
    );
    let source = FILES.replace("\"logs\"", "\"logs-{json.s}\"");
    let agent = Agent::start(config(&store, dir.path(), &source)).unwrap();
    let text: String = (0..100)
        .map(|n| format!("{{\"s\":\"{}\",\"n\":{n}}}\n", if n % 2 == 0 { "good" } else { "bad" }))
        .collect();
    fs::write(dir.path().join("logs/a.log"), text).unwrap();
    store.wait("the good ones", LONG, |s| s.of("logs-good").len() == 50);
    assert!(agent.stats().last_error.unwrap().contains("logs-bad"));
    assert_eq!(store.of("logs-bad").len(), 0);
    store.set(|b| b.refuse_stream = None);
    assert!(agent.drain_and_stop(LONG));
    assert_eq!(store.of("logs-bad").len(), 50);
}

#[test]
fn records_that_the_store_refuses_go_to_the_ledger_and_the_lane_goes_on() {
    let dir = folder();
    let store = FakeStore::start(dir.path(), Behaviour { record_bytes_max: 1000, ..Behaviour::default() });
    let agent = Agent::start(config(&store, dir.path(), FILES)).unwrap();
    let text = format!("a\n{}\nb\n", "x".repeat(2000));
    fs::write(dir.path().join("logs/a.log"), text).unwrap();
    store.wait("the loss", LONG, |s| s.of("_loss").iter().map(|r| lost(&r.data)).sum::<u64>() == 1);
    assert_eq!(store.lines("logs"), ["a", "b"]);
    assert_eq!(agent.stats().refused_records, 1);
}

#[test]
fn a_wrong_authority_or_token_is_said_clearly_and_nothing_is_sent() {
    let dir = folder();
    let store = FakeStore::start(dir.path(), Behaviour::default());
    append(&dir.path().join("logs/a.log"), 0, 10);
    let bad_token = |c: &mut agent::Config| c.store.token = Some("bad".into());
    let no_token = |c: &mut agent::Config| c.store.token = None;
    let other = tempfile::tempdir().unwrap();
    let _other_store = FakeStore::start(other.path(), Behaviour::default());
    let other_ca = other.path().join("ca.pem");
    let bad_ca = |c: &mut agent::Config| c.store.ca.clone_from(&other_ca);
    type Change<'a> = &'a dyn Fn(&mut agent::Config);
    let cases: [(Change<'_>, &str); 3] = [
        (&bad_token, "the token is used up"),
        (&no_token, "kinesin agent enroll"),
        (&bad_ca, "was not made by the authority"),
    ];
    for (change, say) in cases {
        let mut config = config(&store, dir.path(), FILES);
        change(&mut config);
        let agent = Agent::start(config).unwrap();
        store.wait(say, LONG, |_| agent.stats().last_error.is_some_and(|e| e.contains(say)));
        agent.stop();
    }
    assert_eq!(store.counts()[0], 0);
}

#[test]
fn a_certificate_is_renewed_before_it_expires() {
    let dir = folder();
    let ttl = Duration::from_secs(10);
    let store = FakeStore::start(dir.path(), Behaviour { certificate_ttl: ttl, ..Behaviour::default() });
    let agent = Agent::start(config(&store, dir.path(), FILES)).unwrap();
    store.wait("the first certificate", LONG, |s| s.enrolled() >= 1);
    // Valid since a minute ago and for ten seconds: two thirds are over.
    store.set(|b| b.certificate_ttl = Duration::from_secs(3600));
    store.wait("a renewal", LONG, |s| s.enrolled() >= 2);
    append(&dir.path().join("logs/a.log"), 0, 10);
    assert!(agent.drain_and_stop(LONG));
    assert_eq!(store.lines("logs"), want(0, 10));
}
