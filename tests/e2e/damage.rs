//! Bytes that changed on the disk: named, counted, and everything around them goes on.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use tests::harness::consumer::{ByKey, read_damaged, status};
use tests::harness::process::run;

use crate::common::{FILES, Rig, Writer, made, wait_until};
use crate::eventually;

/// Files in a folder and below it that end so, by name.
fn files(dir: &Path, end: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    let below: Vec<PathBuf> =
        found.iter().filter(|path| path.is_dir()).flat_map(|dir| files(dir, end)).collect();
    found.retain(|path| path.is_file() && path.to_string_lossy().ends_with(end));
    found.extend(below);
    found.sort();
    found
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

fn check(rig: &Rig, words: &[&str]) -> (Option<i32>, String) {
    let data = rig.store.data.display().to_string();
    let output = run("kinesin", &[&["check", &data], words].concat()).unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_folder_is_clean_and_a_flipped_bit_is_named_and_costs_its_batch_only() {
    let Some(mut rig) = Rig::start(&["--segment-bytes", "64KiB"]).await else { return };
    for stream in ["logs", "other"] {
        rig.kinesin(&format!("stream create {stream} --shards 2 --rate off"));
    }
    let source = FILES.to_owned() + "batch = { records_max = 50, codec = \"none\" }\n";
    let other = "[[source.file]]\npaths = [\"logs/*.txt\"]\nstream = \"other\"\npartition_key = \"k\"\n";
    let agent = rig.agent("a", &(source + other));
    let mut log = Writer::new(&rig.path("logs/a.log"));
    let mut text = Writer::new(&rig.path("logs/b.txt"));
    for _ in 0..40 {
        log.write(100);
        text.write(10);
        rig.wait_for("logs", log.count()).await;
    }
    rig.wait_for("other", text.count()).await;
    rig.kinesin("stream split logs 0");
    log.write(100);
    rig.wait_for("logs", log.count()).await;
    let (code, said) = check(&rig, &[]);
    assert!(code == Some(1) && said.contains("in use"), "of a running store: {said}");
    drop(agent);

    rig.store.process.take().unwrap().terminate().unwrap();
    let (code, said) = check(&rig, &[]);
    assert!(code == Some(0) && said.contains("clean: ") && !said.contains("DAMAGED"), "{said}");
    let (_, json) = check(&rig, &["--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(json["clean"] == true && json["streams"].as_u64() >= Some(2), "{json}");

    let logs = files(&rig.path("data/streams"), ".log");
    let stream = logs[0].parent().unwrap();
    let sealed: Vec<&PathBuf> = logs.iter().filter(|path| path.parent() == Some(stream)).collect();
    assert!(sealed.len() > 3, "{logs:?}");
    let middle = std::fs::metadata(sealed[1]).unwrap().len() as usize / 2;
    flip(sealed[1], middle);
    let (code, said) = check(&rig, &[]);
    let name = sealed[1].file_name().unwrap().to_string_lossy().into_owned();
    assert!(code == Some(1) && said.contains(&name) && said.contains("damaged"), "{said}");

    rig.up().await;
    let (records, said) = read_damaged(&rig.client, "logs").await.unwrap();
    assert_eq!(said.len(), 1, "{said:?}");
    let data = rig.store.data.display().to_string();
    let tailed =
        run("kinesin", &["tail", "logs", "--from", "trim-horizon", "--no-follow", "--data", &data]).unwrap();
    let told = String::from_utf8_lossy(&tailed.stderr).into_owned();
    assert!(told.contains("those records can't be read") && !tailed.status.success(), "{told}");
    let stored: BTreeSet<&[u8]> = records.iter().map(|record| record.data.as_slice()).collect();
    let lost = log.made.iter().filter(|line| !stored.contains(line.as_slice())).count();
    assert!((1..=50).contains(&lost), "{lost} are lost");
    assert_eq!(records.len() + lost, log.made.len(), "nothing is doubled");
    // The other stream knows nothing of it.
    rig.assert_all_stored("other", &ByKey::from([("k".to_owned(), text.made)])).await;
    log.write(100);
    let mut agent = tests::harness::process::AgentProcess::start_with(&rig.path("a.toml")).unwrap();
    rig.wait_for("logs", log.count()).await;
    agent.kill().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn derived_files_may_be_damaged_or_gone_and_nothing_is_lost() {
    let Some(mut rig) = Rig::start(&["--segment-bytes", "64KiB"]).await else { return };
    rig.kinesin("stream create logs --rate off");
    let _agent = rig.agent("a", &(FILES.to_owned() + "batch = { codec = \"none\" }\n"));
    let mut log = Writer::new(&rig.path("logs/a.log"));
    for _ in 0..20 {
        log.write(200);
        rig.wait_for("logs", log.count()).await;
    }
    rig.store.process.take().unwrap().terminate().unwrap();
    let indexes = files(&rig.path("data/streams"), ".idx");
    assert!(indexes.len() > 2, "{indexes:?}");
    flip(&indexes[0], 20);
    std::fs::remove_file(&indexes[1]).unwrap();
    for file in files(&rig.path("data/view"), "") {
        std::fs::write(file, b"nonsense").unwrap();
    }
    let (code, said) = check(&rig, &[]);
    assert!(code == Some(1) && said.contains("derived"), "{said}");
    let (code, said) = check(&rig, &["--repair"]);
    assert!(code == Some(0) && said.contains("repaired"), "{said}");
    flip(&indexes[0], 30);
    rig.up().await;
    rig.assert_all_stored("logs", &made(&[log])).await;
}

/// Reaches `INDEX_FILE_BYTES_MAX` of store/src/log/segment.rs.
/// Reaches `SEGMENT_BYTES_MAX` of store/src/check.rs.
#[tokio::test(flavor = "multi_thread")]
async fn index_files_that_are_longer_than_any_can_be_are_not_read_and_made_anew() {
    let Some(mut rig) = Rig::start(&["--segment-bytes", "64KiB"]).await else { return };
    rig.kinesin("stream create logs --rate off");
    let _agent = rig.agent("a", &(FILES.to_owned() + "batch = { codec = \"none\" }\n"));
    let mut log = Writer::new(&rig.path("logs/a.log"));
    for _ in 0..20 {
        log.write(200);
        rig.wait_for("logs", log.count()).await;
    }
    rig.store.process.take().unwrap().terminate().unwrap();
    let indexes = files(&rig.path("data/streams"), ".idx");
    // Without a byte on the disk: nothing but their length is large.
    for (path, len) in [(&indexes[0], (256 << 20) + 1), (&indexes[1], (4 << 30) + 1)] {
        std::fs::File::options().write(true).open(path).unwrap().set_len(len).unwrap();
    }
    let (code, said) = check(&rig, &[]);
    assert!(code == Some(1) && said.contains("can't be read") && said.contains("derived"), "{said}");
    rig.up().await;
    rig.assert_all_stored("logs", &made(&[log])).await;
    let peak = rig.store.process.as_ref().unwrap().memory_bytes("VmHWM");
    assert!(peak < 200 << 20, "{peak} bytes at most");
    assert!(std::fs::metadata(&indexes[1]).unwrap().len() < 1 << 20, "made anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_spool_is_reported_and_the_agent_goes_on() {
    // Where the damage is, and whether the file only got shorter.
    for (part, cut) in [(0.3, false), (0.9, false), (0.6, true), (0.0, false)] {
        let Some(mut rig) = Rig::start(&[]).await else { return };
        rig.kinesin("stream create logs --rate off");
        let source = FILES.to_owned() + "batch = { records_max = 100, codec = \"none\" }\n";
        let mut agent = rig.agent("a", &source);
        let mut log = Writer::new(&rig.path("logs/a.log"));
        log.write(100);
        rig.wait_for("logs", 100).await;
        rig.store.kill().unwrap();
        log.write(2000);
        wait_until("the lines in the spool", || agent.status().records_in >= log.count());
        agent.kill().unwrap();
        let spool = files(&rig.path("a-spool/log"), "").pop().unwrap();
        let len = std::fs::metadata(&spool).unwrap().len();
        let at = (len as f64 * part) as u64 + 10;
        if cut {
            std::fs::File::options().write(true).open(&spool).unwrap().set_len(at).unwrap();
        } else {
            flip(&spool, at as usize);
        }
        rig.up().await;
        agent.up().unwrap();
        log.write(100);
        let last = log.made.last().unwrap().clone();
        eventually!(format!("the newest line, {part} {cut}; {}", agent.printed()), {
            status(&rig.client, "records_stored_total").await > 0.0
                && rig.stored("logs").await.get("a.log").and_then(|lines| lines.last()) == Some(&last)
        });
        let stored = rig.stored("logs").await.remove("a.log").unwrap();
        let mut once: Vec<&Vec<u8>> = stored.iter().collect();
        once.dedup();
        let lost = log.made.iter().filter(|line| !once.contains(line)).count();
        if lost > 0 && !cut {
            eventually!("the damage in the ledger", !rig.losses("spool_damaged").await.is_empty());
            assert!(agent.printed().contains("damaged from"), "{}", agent.printed());
        }
        assert!(stored.is_sorted() || lost == 0, "{part} {cut}");
    }
}
