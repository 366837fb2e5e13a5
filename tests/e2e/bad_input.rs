//! Input that is wrong, on the agent's side: its configuration, its certificates, its lines.

use std::io::Write;
use std::time::Duration;

use store::auth::Auth;
use store::auth::ca::server_names;
use store::clock::Clock;
use store::principal::{Principal, Role};
use tests::clock;
use tests::harness::process::{AgentProcess, run};

use crate::common::{FILES, Rig, Writer, made, wait_until};
use crate::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn a_misspelt_key_is_refused_with_file_line_and_suggestion_before_anything_is_touched() {
    let Some(rig) = Rig::start(&[]).await else { return };
    let config = rig.path("agent.toml");
    let text = format!(
        "[store]\nurl = \"kinesin://{}\"\nca = \"data/ca.pem\"\n\n[[source.file]]\npaths = [\"logs/*.log\"]\n\
         stream = \"logs\"\npartition_kye = \"{{host}}\"\n\n[spool]\ndir = \"spool\"\n",
        rig.store.address
    );
    std::fs::write(&config, text).unwrap();
    for more in [&["--check"][..], &[]] {
        let words = [&["--config", config.to_str().unwrap()], more].concat();
        let output = run("kinesin-agent", &words).unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("agent.toml:8: "), "{said}");
        assert!(said.contains("did you mean `partition_key`?"), "{said}");
    }
    assert!(!rig.path("spool").exists());
    let unknown = run("kinesin", &["serve", "--dta", "x"]).unwrap();
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert_eq!(unknown.status.code(), Some(2), "{said}");
    assert!(said.contains("--data"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wrong_authority_and_a_bad_token_are_said_clearly_and_nothing_is_sent() {
    let (Some(rig), Some(other)) = (Rig::start(&[]).await, Rig::start(&[]).await) else { return };
    let mut log = Writer::new(&rig.path("logs/a.log"));
    log.write(10);
    // Trusts another store.
    let wrong = AgentProcess::start(rig.home.path(), "a", &other.store, rig.store.address, FILES).unwrap();
    wait_until("the wrong authority", || wrong.printed().contains("was not made by the authority in"));
    // Has a token of another store.
    std::fs::copy(other.path("data/ca.pem"), rig.path("other.pem")).unwrap();
    drop(wrong);
    let config = std::fs::read_to_string(rig.path("a.toml")).unwrap();
    let ca = |rig: &Rig| rig.path("data/ca.pem").display().to_string();
    std::fs::write(rig.path("b.toml"), config.replace(&ca(&other), &ca(&rig))).unwrap();
    let stranger = AgentProcess::start_with(&rig.path("b.toml")).unwrap();
    wait_until("the wrong token", || stranger.printed().contains("the store refuses to enroll this agent"));
    assert_eq!(rig.status("records_stored_total").await, 0.0);
    eventually!("the refusal in the status", rig.status("connections_closed_refused_by_client").await >= 1.0);
    assert!(rig.kinesin("status").contains("connections_closed_refused_by_client"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_is_said_clearly_and_a_new_token_heals_it() {
    let Some(rig) = Rig::start(&[]).await else { return };
    let mut log = Writer::new(&rig.path("logs/a.log"));
    let mut agent = rig.agent("a", FILES);
    log.write(10);
    rig.wait_for("logs", 10).await;
    agent.process.take().unwrap().terminate().unwrap();
    let auth = Auth::open(&rig.path("data"), server_names(&[], &[]), Vec::new(), Clock::start()).unwrap();
    let principal = Principal { name: "a".to_owned(), role: Role::Agent };
    let (certificate, key) = auth.authority().new_client(&principal, Duration::ZERO).unwrap();
    std::fs::write(rig.path("a-spool/identity/cert.pem"), certificate).unwrap();
    std::fs::write(rig.path("a-spool/identity/key.pem"), key).unwrap();
    log.write(10);
    let made_at = clock::unix_ms();
    wait_until("the end of its time, in whole seconds", || clock::unix_ms() > made_at + 2000);
    agent.up().unwrap();
    eventually!(
        "the store finds it expired",
        rig.status("connections_closed_certificate_expired").await >= 1.0
    );
    wait_until("a clear error", || {
        let printed = agent.printed();
        printed.contains("CertificateExpired") && printed.contains("kinesin agent enroll")
    });
    assert_eq!(tests::harness::consumer::count(&rig.client, "logs").await, 10);
    // As the error says: a new token, and the certificate removed.
    agent.process.take().unwrap().terminate().unwrap();
    let config = std::fs::read_to_string(rig.path("a.toml")).unwrap();
    let old = config.lines().find(|line| line.starts_with("token = ")).unwrap().to_owned();
    let new = format!("token = \"{}\"", rig.store.token("a").unwrap());
    std::fs::write(rig.path("a.toml"), config.replace(&old, &new)).unwrap();
    std::fs::remove_file(rig.path("a-spool/identity/cert.pem")).unwrap();
    agent.up().unwrap();
    rig.assert_all_stored("logs", &made(&[log])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_is_too_long_is_cut_or_left_out_as_configured_and_counted() {
    for policy in ["truncate", "drop"] {
        let Some(rig) = Rig::start(&[]).await else { return };
        let source = format!("{FILES}line_bytes_max = 1000\nlong_line = \"{policy}\"\n");
        let agent = rig.agent("a", &source);
        let mut file = std::fs::File::create(rig.path("logs/a.log")).unwrap();
        // The last one is longer than anything is read at once, and not UTF-8.
        let lines: [&[u8]; 5] = [b"before", &[b'x'; 1001], b"between", &[0xff; 3 << 20], b"after"];
        for line in lines {
            file.write_all(line).unwrap();
            file.write_all(b"\n").unwrap();
        }
        let (want, reason) = if policy == "drop" { (3, "line_too_long") } else { (5, "line_truncated") };
        rig.wait_for("logs", want).await;
        let stored = rig.stored("logs").await.remove("a.log").unwrap();
        assert_eq!(stored.len() as u64, want);
        let whole: Vec<&[u8]> = stored.iter().map(Vec::as_slice).filter(|line| line.len() < 100).collect();
        assert_eq!(whole, [&b"before"[..], b"between", b"after"]);
        for cut in stored.iter().filter(|line| line.len() > 100) {
            assert!(cut.len() <= 1000 && cut.ends_with(b" [cut]"));
        }
        eventually!("both lines in the ledger", rig.lost(reason).await == 2);
        wait_until("and in the status", || agent.status().losses.get(reason) == Some(&2));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_its_stream_does_not_take_goes_to_the_ledger_and_the_lane_goes_on() {
    let Some(rig) = Rig::start(&[]).await else { return };
    rig.kinesin("stream create logs --record-bytes-max 1KiB");
    let agent = rig.agent("a", FILES);
    let mut file = std::fs::File::create(rig.path("logs/a.log")).unwrap();
    for n in 0..100 {
        let size = if n % 10 == 5 { 2000 } else { 10 };
        writeln!(file, "{n:04} {}", "x".repeat(size)).unwrap();
    }
    rig.wait_for("logs", 90).await;
    eventually!("all ten in the ledger", rig.lost("refused").await == 10);
    let stored = rig.stored("logs").await.remove("a.log").unwrap();
    assert!(stored.len() == 90 && stored.is_sorted());
    wait_until("all ten in the status", || agent.status().refused_records == 10);
    assert_eq!(rig.status("records_refused_total").await, 10.0);
}
