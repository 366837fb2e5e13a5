//! Every command of the operator, as `kinesin help` and the README say, for people and with `--json`.

use std::process::{Command, Stdio};

use tests::harness::process::{binary, run};

use crate::common::{FILES, Rig, Writer, made, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_made_shown_changed_and_removed() {
    let Some(rig) = Rig::start(&[]).await else { return };
    assert!(rig.kinesin("stream list").contains("no streams yet"));
    assert_eq!(rig.json("stream list --json"), serde_json::json!([]));
    let made = rig.store.command(&[
        "stream",
        "create",
        "logs",
        "--shards",
        "4",
        "--retention",
        "7d",
        "--rate",
        "2 MiB/s,2000/s",
        "--json",
    ]);
    let made: serde_json::Value = serde_json::from_str(&made.unwrap()).unwrap();
    assert_eq!((made["name"].as_str(), made["shards"].as_array().unwrap().len()), (Some("logs"), 4));
    assert_eq!(made["config"]["retention_ms"], 7 * 24 * 3_600_000_u64);
    let again = rig.store.command(&["stream", "create", "logs"]).unwrap_err().to_string();
    assert!(again.contains("logs"), "{again}");

    let described = rig.kinesin("stream describe logs");
    for part in ["retention  7d", "2 MiB/s, 2000/s per shard", "SHARD", "25.0%"] {
        assert!(described.contains(part), "{part}: {described}");
    }
    let listed = rig.kinesin("stream list");
    assert!(listed.contains("NAME") && listed.contains("logs"), "{listed}");
    let updated = rig.json("stream update logs --rate off --fsync 5ms --json");
    assert!(updated["config"]["shard_rate"].is_null() && updated["config"]["retention_ms"] == 604_800_000);
    let split = rig.json("stream split logs 0 --json");
    assert_eq!(split["shards"].as_array().unwrap().len(), 6);
    let merged = rig.json("stream merge logs 1 2 --json");
    let shards = merged["shards"].as_array().unwrap();
    assert_eq!((shards.len(), &shards[6]["parents"]), (7, &serde_json::json!([1, 2])));
    assert!(rig.kinesin("stream describe logs").contains("closed"));

    let unasked = rig.store.command(&["stream", "delete", "logs"]).unwrap_err().to_string();
    assert!(unasked.contains("--yes"), "{unasked}");
    assert_eq!(rig.kinesin("stream delete logs --yes"), "stream logs is deleted\n");
    assert!(rig.store.command(&["stream", "describe", "logs"]).unwrap_err().to_string().contains("logs"));
    assert!(rig.kinesin("stream list").contains("no streams yet"));
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_put_from_arguments_and_lines_and_tailed_from_four_places() {
    let Some(rig) = Rig::start(&[]).await else { return };
    rig.store.command(&["put", "hello", "one", "two", "--key", "k"]).unwrap();
    wait_until("a moment between", {
        let before = tests::clock::unix_ms();
        move || tests::clock::unix_ms() > before + 1
    });
    let first = rig.json("tail hello --from trim-horizon --json --limit 1");
    assert_eq!((first["data"].as_str(), first["partition_key"].as_str()), (Some("one"), Some("k")));
    assert_eq!((first["sequence"].as_u64(), first["shard"].as_u64()), (Some(0), Some(0)));

    // From standard input, a line each, and bytes that are no text.
    let mut put = Command::new(binary("kinesin").unwrap())
        .args(["put", "hello", "--key", "k", "--data"])
        .arg(&rig.store.data)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(put.stdin.as_mut().unwrap(), b"three\r\nfo\xffur\nlast").unwrap();
    drop(put.stdin.take());
    assert!(put.wait().unwrap().success());
    let from =
        |place: &str, more: &str| rig.kinesin(&format!("tail hello --from {place} --no-follow {more}"));
    let lines =
        rig.store.command(&["tail", "hello", "--from", "trim-horizon", "--no-follow", "--json"]).unwrap();
    let lines: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), &lines[3]["data_base64"]), (5, &serde_json::json!("Zm//dXI=")));

    // at-time: what arrived at that time and later; a batch has one time of arrival.
    let arrival = lines[2]["arrival_ms"].as_u64().unwrap();
    assert!(lines[1]["arrival_ms"].as_u64().unwrap() < arrival);
    let time = format!("at-time={}", rfc3339(arrival));
    assert_eq!(from(&time, "--limit 1"), "three\n");
    assert_eq!(from("at-time=2020-01-01T00:00:00Z", "--limit 2"), "one\ntwo\n");
    assert_eq!(from("sequence=1", "--shard 0 --limit 2"), "two\nthree\n");
    assert_eq!(from("latest", ""), "");
    let unclear = rig.store.command(&["tail", "hello", "--from", "sequence=1"]).unwrap_err().to_string();
    assert!(unclear.contains("--shard"), "{unclear}");

    // Following from the latest: only what comes after.
    let out = rig.path("tail.out");
    let file = std::fs::File::create(&out).unwrap();
    let mut tail = Command::new(binary("kinesin").unwrap())
        .args(["tail", "hello", "--limit", "1", "--data"])
        .arg(&rig.store.data)
        .stdout(file)
        .spawn()
        .unwrap();
    // It reads from the moment when it is connected, which is not to be seen from here.
    let mut number = 0;
    wait_until("a new record", || {
        number += 1;
        rig.store.command(&["put", "hello", &format!("new {number}"), "--key", "k"]).unwrap();
        tail.try_wait().unwrap().is_some()
    });
    let tailed = std::fs::read_to_string(&out).unwrap();
    assert!(tailed.starts_with("new ") && tailed.lines().count() == 1, "{tailed:?}");
}

/// As `--from at-time=` wants it; the calendar by Howard Hinnant's days algorithm.
fn rfc3339(ms: u64) -> String {
    let (days, rest) = ((ms / 86_400_000) as i64, ms % 86_400_000);
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days - era * 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (h, m, s, ms) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1000 % 60, rest % 1000);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{ms:03}Z")
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_bench_and_enroll_speak_to_people_and_to_programs() {
    let Some(rig) = Rig::start(&[]).await else { return };
    rig.store.command(&["put", "hello", "x"]).unwrap();
    let status = rig.json("status --json");
    assert_eq!((status["records_stored_total"].as_f64(), status["streams"].as_f64()), (Some(1.0), Some(1.0)));
    assert!(rig.kinesin("status").contains("records_stored_total"));
    let token = rig.json("agent enroll truck-1 --ttl 1h --uses 2 --json");
    assert!(token["token"].as_str().unwrap().len() > 20 && token["agent"] == "truck-1");
    let bench = rig.json("bench --writers 4 --seconds 1 --json");
    assert!(bench.as_object().is_some_and(|figures| !figures.is_empty()), "{bench}");
    // From elsewhere, with copies of the files.
    let copy = |name: &str| std::fs::copy(rig.store.data.join(name), rig.path(name)).unwrap();
    for name in ["ca.pem", "admin.pem", "admin.key"] {
        copy(name);
    }
    let (url, path) =
        (format!("kinesin://{}", rig.store.address), |name: &str| rig.path(name).display().to_string());
    let (ca, cert, key) = (path("ca.pem"), path("admin.pem"), path("admin.key"));
    let words = ["status", "--store", &url, "--ca", &ca, "--cert", &cert, "--cert-key", &key];
    let output = run("kinesin", &words).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let nobody = run("kinesin", &["status", "--data", &rig.path("nothing").display().to_string()]).unwrap();
    let said = String::from_utf8_lossy(&nobody.stderr).into_owned();
    assert!(nobody.status.code() == Some(1) && said.contains("kinesin serve --data"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_kinesis_api_keeps_of_a_stream_has_commands_too() {
    let Some(rig) = Rig::start(&[]).await else { return };
    rig.kinesin("stream create logs --shards 2");
    let tags = rig.json("stream tag logs fleet=north a=b --json");
    assert_eq!(tags, serde_json::json!({ "fleet": "north", "a": "b" }));
    assert_eq!(rig.json("stream tag logs --remove a --json"), serde_json::json!({ "fleet": "north" }));
    let policy = r#"{"Version":"2012-10-17"}"#;
    rig.store.command(&["stream", "policy", "logs", "--set", policy]).unwrap();
    assert_eq!(rig.json("stream policy logs"), serde_json::json!({ "Version": "2012-10-17" }));
    assert_eq!(rig.json("stream policy logs --remove"), serde_json::json!({}));
    let encrypted = rig.json("stream encrypt logs --key alias/fleet --json");
    assert_eq!(
        (encrypted["encryption"].as_str(), encrypted["key"].as_str()),
        (Some("KMS"), Some("alias/fleet"))
    );
    assert_eq!(rig.json("stream encrypt logs --off --json")["encryption"], "NONE");
    assert_eq!(
        rig.json("stream monitor logs --on IncomingBytes --json"),
        serde_json::json!(["IncomingBytes"])
    );
    assert_eq!(rig.json("stream monitor logs --off ALL --json"), serde_json::json!([]));
    let open = |stream: &serde_json::Value| {
        stream["shards"].as_array().unwrap().iter().filter(|shard| shard["closed"] == false).count()
    };
    assert_eq!(open(&rig.json("stream reshard logs 4 --json")), 4);

    assert!(rig.kinesin("consumer list logs").contains("no consumers"));
    let made = rig.json("consumer register logs dash --json");
    assert!(made["ConsumerARN"].as_str().unwrap().contains("stream/logs/consumer/dash:"), "{made}");
    let twice = rig.store.command(&["consumer", "register", "logs", "dash"]).unwrap_err().to_string();
    assert!(twice.contains("already exists"), "{twice}");
    assert_eq!(rig.json("consumer list logs --json").as_array().unwrap().len(), 1);
    assert_eq!(rig.json("consumer describe logs dash --json")["ConsumerName"], "dash");
    rig.kinesin("consumer deregister logs dash");
    assert!(rig.kinesin("consumer list logs").contains("no consumers"));
}

#[tokio::test(flavor = "multi_thread")]
async fn any_operation_of_the_kinesis_api_is_the_operators_and_no_agents() {
    let Some(rig) = Rig::start(&[]).await else { return };
    let api = |words: &[&str]| rig.store.command(&[&["api"], words].concat());
    let json = |text: String| serde_json::from_str::<serde_json::Value>(&text).unwrap();
    api(&["CreateStream", r#"{"StreamName":"logs","ShardCount":1}"#]).unwrap();
    let record = r#"{"StreamName":"logs","PartitionKey":"k","Data":"aGVsbG8="}"#;
    assert_eq!(json(api(&["PutRecord", record]).unwrap())["ShardId"], "shardId-000000000000");
    assert_eq!(rig.json("tail logs --from trim-horizon --limit 1 --json")["data"], "hello");
    let iterator =
        r#"{"StreamName":"logs","ShardId":"shardId-000000000000","ShardIteratorType":"TRIM_HORIZON"}"#;
    let iterator = json(api(&["GetShardIterator", iterator]).unwrap());
    let got = json(api(&["GetRecords", &iterator.to_string()]).unwrap());
    assert_eq!(got["Records"][0]["Data"], "aGVsbG8=");

    // Another account's streams are told apart by their names.
    let elsewhere = ["--account", "123456789012", "--region", "eu-west-1"];
    api(&[&["CreateStream", r#"{"StreamName":"logs","ShardCount":3}"#], &elsewhere[..]].concat()).unwrap();
    assert_eq!(json(api(&[&["ListStreams"], &elsewhere[..]].concat()).unwrap())["StreamNames"][0], "logs");
    let tags = rig.json("stream tag 123456789012:eu-west-1:logs whose=theirs --json");
    assert_eq!(tags["whose"], "theirs");
    assert_eq!(rig.json("stream tag logs --json"), serde_json::json!({}));

    for (words, says) in [
        (&["Nonsense"][..], "no operation"),
        (&["PutRecord", "{"], "not JSON"),
        (&["PutRecord"], "Member must not be null"),
        (&["SubscribeToShard"], "kinesin tail"),
        (&["ListStreams", "{}", "--account", "1"], "twelve digits"),
        (&["ListStreams", "@/nothing/here"], "/nothing/here"),
    ] {
        let error = api(words).unwrap_err().to_string();
        assert!(error.contains(says), "{says}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_stay_in_order_while_shards_are_split_and_merged_under_writing() {
    let Some(rig) = Rig::start(&[]).await else { return };
    rig.kinesin("stream create logs --rate off");
    let source = FILES.to_owned() + "batch = { records_max = 40, linger_ms = 1 }\n";
    let _agents = ["a", "b"].map(|name| {
        std::fs::create_dir(rig.path(&format!("logs/{name}"))).unwrap();
        rig.agent(name, &source.replace("logs/*.log", &format!("logs/{name}/*.log")))
    });
    let mut logs: Vec<Writer> = (0..12)
        .map(|n| Writer::new(&rig.path(&format!("logs/{}/{n}.log", if n % 2 == 0 { "a" } else { "b" }))))
        .collect();
    let open = || {
        let info = rig.json("stream describe logs --json");
        let mut open: Vec<(u128, u64)> = Vec::new();
        for shard in info["shards"].as_array().unwrap().iter().filter(|shard| shard["closed"] == false) {
            let start = shard["range"]["start"].as_str().unwrap().parse().unwrap();
            open.push((start, shard["id"].as_u64().unwrap()));
        }
        open.sort_unstable();
        open
    };
    for round in 0..12 {
        logs.iter_mut().for_each(|log| log.write(100));
        let shards = open();
        if round % 3 < 2 {
            rig.kinesin(&format!("stream split logs {}", shards[round % shards.len()].1));
        } else {
            rig.kinesin(&format!("stream merge logs {} {}", shards[0].1, shards[1].1));
        }
        logs.iter_mut().for_each(|log| log.write(100));
        let written: u64 = logs.iter().map(Writer::count).sum();
        // Half of it, so that there is always something under way.
        rig.wait_for("logs", written / 2).await;
    }
    rig.assert_all_stored("logs", &made(&logs)).await;
    assert!(open().len() > 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_in_immediate_mode_gets_the_shards_that_it_needs_and_says_why() {
    let Some(rig) = Rig::start(&[]).await else { return };
    rig.kinesin("stream create hot --mode immediate --rate 4KiB/s,1000/s");
    assert_eq!(rig.json("stream describe hot --json")["shards"].as_array().unwrap().len(), 4);
    let record = "x".repeat(1500);
    let mut told = serde_json::Value::Null;
    for round in 0..2000 {
        rig.kinesin(&format!("put hot {record} --key k{}", round % 16));
        told = rig.json("stream describe hot --json");
        if told["resharded"].is_array() {
            break;
        }
    }
    let first = &told["resharded"][0];
    assert!(first["what"].as_str().unwrap().starts_with("split "), "{told}");
    assert!(first["why"].as_str().unwrap().contains("divided at the median of"), "{told}");
    assert!(told["shards"].as_array().unwrap().len() >= 6, "{told}");
    let shown = rig.kinesin("stream describe hot");
    assert!(shown.contains("mode       immediate") && shown.contains("and why:\n"), "{shown}");
    // The owner takes it back; what was done stays told.
    let back = rig.json("stream update hot --mode provisioned --json");
    assert!(back["config"].get("scaling").is_none(), "{back}");
}
