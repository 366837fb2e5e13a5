//! The path of a new user: a store, an agent let in by one line, files and topics that arrive.

use std::collections::BTreeMap;

use protocol::compress::Codec;
use tests::harness::consumer::{ByKey, read_stream};
use tests::harness::mosquitto::Mosquitto;
use tests::harness::process::AgentProcess;

use crate::common::{FILES, Rig, Writer, made};
use crate::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn what_serve_and_enroll_print_is_all_that_a_new_user_needs() {
    let Some(rig) = Rig::start(&[]).await else { return };
    for line in
        ["kinesin put hello 'first record'", "kinesin tail hello --from trim-horizon", "export KINESIN_DATA="]
    {
        // It answers before it has printed.
        eventually!(line, rig.store.printed().contains(line));
    }
    rig.store.command(&["put", "hello", "first record"]).unwrap();
    let tailed = rig.kinesin("tail hello --from trim-horizon --no-follow");
    assert_eq!(tailed, "first record\n");

    // What enroll prints is pasted as it is, comments and all.
    let snippet = rig.kinesin("agent enroll truck-1");
    let config = rig.path("agent.toml");
    let rest = "\n[[source.file]]\npaths = [\"logs/*.log\"]\nstream = \"logs\"\npartition_key = \"{host}:{file}\"\n\n\
                [spool]\ndir = \"spool\"\nmax_bytes = \"1 GiB\"\n";
    std::fs::write(&config, format!("{snippet}{rest}")).unwrap();
    let mut log = Writer::new(&rig.path("logs/app.log"));
    log.write(1000);
    let _agent = AgentProcess::start_with(&config).unwrap();
    rig.wait_for("logs", 1000).await;
    log.write(1000);
    rig.wait_for("logs", 2000).await;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let key = format!("{}:{}", host.trim(), rig.path("logs/app.log").display());
    rig.assert_all_stored("logs", &ByKey::from([(key, log.made)])).await;
    let again = rig.store.command(&["agent", "enroll", "bad name"]).unwrap_err().to_string();
    assert!(again.contains("name"), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_followed_through_rotation_by_rename_while_it_is_written() {
    let Some(rig) = Rig::start(&[]).await else { return };
    rig.kinesin("stream create logs --rate off");
    let _agent = rig.agent("a", FILES);
    let mut logs = [Writer::new(&rig.path("logs/a.log")), Writer::new(&rig.path("logs/b.log"))];
    // A file that is there for less than a look may never be seen: so says the README.
    logs.iter_mut().for_each(|log| log.write(1));
    rig.wait_for("logs", 2).await;
    for round in 0..10 {
        for (number, log) in logs.iter_mut().enumerate() {
            log.write(200);
            log.rotate_by_rename(&rig.path(&format!("logs/{number}.{round}")));
            log.write(200);
        }
        let so_far = logs.iter().map(Writer::count).sum();
        rig.wait_for("logs", so_far).await;
    }
    rig.assert_all_stored("logs", &made(&logs)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_followed_through_copytruncate() {
    let Some(rig) = Rig::start(&[]).await else { return };
    rig.kinesin("stream create logs --rate off");
    let _agent = rig.agent("a", FILES);
    let mut log = Writer::new(&rig.path("logs/a.log"));
    for round in 0..10 {
        log.write(300 + round * 50);
        // What is cut off unread is gone for every reader; what was read is not.
        rig.wait_for("logs", log.count()).await;
        log.rotate_by_copytruncate(&rig.path("logs/a.log.1"));
        log.write(100 + round * 100);
    }
    rig.assert_all_stored("logs", &made(&[log])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_codec_stores_the_same_records() {
    let Some(rig) = Rig::start(&[]).await else { return };
    let codecs = [("none", Codec::None), ("lz4", Codec::Lz4), ("zstd", Codec::Zstd)];
    let mut sources = String::new();
    let mut logs = BTreeMap::new();
    for (name, _) in codecs {
        std::fs::create_dir(rig.path(&format!("logs/{name}"))).unwrap();
        let mut log = Writer::new(&rig.path(&format!("logs/{name}/a.log")));
        log.write(500);
        logs.insert(name, log);
        sources += &format!(
            "[[source.file]]\npaths = [\"logs/{name}/*.log\"]\nstream = \"{name}\"\npartition_key = \"{{file_name}}\"\n\
             batch = {{ codec = \"{name}\" }}\n"
        );
    }
    let _agent = rig.agent("a", &sources);
    for (name, codec) in codecs {
        rig.assert_all_stored(name, &made(&[logs.remove(name).unwrap()])).await;
        let records = read_stream(&rig.client, name).await.unwrap();
        assert!(records.iter().all(|record| record.codec == codec), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_a_real_mosquitto_arrive_once_and_in_order_per_key_over_both_versions_of_mqtt() {
    let Some(rig) = Rig::start(&[]).await else { return };
    let Some(mut broker) = Mosquitto::start(rig.home.path()).unwrap() else { return };
    for stream in ["v5", "v311", "by-field"] {
        rig.kinesin(&format!("stream create {stream} --shards 2 --rate off"));
    }
    let source = |topics: &str, stream: &str, key: &str, version: &str| {
        format!(
            "[[source.mqtt]]\nbroker = \"mqtt://127.0.0.1:{}\"\ntopics = [\"{topics}\"]\nstream = \"{stream}\"\n\
             partition_key = \"{key}\"\nversion = \"{version}\"\n",
            broker.port
        )
    };
    let sources = source("five/+/telemetry", "v5", "{topic[1]}", "5")
        + &source("three/+/telemetry", "v311", "{topic[1]}", "3.1.1")
        + &source("any/#", "by-field", "{json.truck.id}", "5");
    let mut agent = rig.agent("a", &sources);
    // Sessions must be there before there is anything to keep for them.
    let probes =
        [("v5", "five/probe/telemetry"), ("v311", "three/probe/telemetry"), ("by-field", "any/probe")];
    for (stream, topic) in probes {
        eventually!(format!("the subscription of {stream}"), {
            let probe = r#"{"truck":{"id":"probe"}}"#.to_owned().into_bytes();
            broker.publish("probe", vec![(topic.to_owned(), probe)]).await.unwrap();
            tests::harness::consumer::count(&rig.client, stream).await > 0
        });
    }
    let mut made: BTreeMap<&str, ByKey> = BTreeMap::new();
    for round in 0..6 {
        let mut messages = Vec::new();
        for n in round * 300..(round + 1) * 300 {
            let truck = format!("truck-{}", n % 7);
            let payload = format!("{{\"truck\":{{\"id\":\"{truck}\"}},\"n\":{n}}}").into_bytes();
            for (stream, topic) in [
                ("v5", format!("five/{truck}/telemetry")),
                ("v311", format!("three/{truck}/telemetry")),
                ("by-field", format!("any/{}", n % 3)),
            ] {
                made.entry(stream).or_default().entry(truck.clone()).or_default().push(payload.clone());
                messages.push((topic, payload.clone()));
            }
        }
        broker.publish("trucks", messages).await.unwrap();
        match round {
            // The broker goes and comes back, and the agent, in order and by kill -9.
            1 => {
                broker.down().unwrap();
                broker.up().unwrap();
            }
            2 => {
                agent.process.take().unwrap().terminate().unwrap();
                agent.up().unwrap();
            }
            3 => {
                agent.kill().unwrap();
                agent.up().unwrap();
            }
            _ => {}
        }
    }
    for (stream, made) in made {
        let want: usize = made.values().map(Vec::len).sum();
        eventually!(format!("all of {stream}"), {
            let mut stored = rig.stored(stream).await;
            stored.remove("probe");
            stored.values().map(Vec::len).sum::<usize>() >= want
        });
        let mut stored = rig.stored(stream).await;
        stored.remove("probe");
        let wrong = tests::harness::consumer::differences(&made, &stored);
        assert_eq!(wrong, Vec::<String>::new(), "{stream}");
    }
}
