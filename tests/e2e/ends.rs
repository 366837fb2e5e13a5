//! How programs end: asked to, in each other's way, and when the disk fails.

use std::fs::File;
use std::io::Read;
use std::process::{Child, Command, Stdio};

use tests::harness::process::{Process, run, skip};

use crate::common::{FILES, Rig, Writer, made, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_and_ctrl_c_end_store_and_agent_with_zero_and_nothing_is_lost() {
    let Some(mut rig) = Rig::start(&[]).await else { return };
    rig.kinesin("stream create logs --rate off");
    let mut agent = rig.agent("a", FILES);
    let mut log = Writer::new(&rig.path("logs/a.log"));
    let ends = [Process::terminate, Process::interrupt];
    for round in 0..6 {
        log.write(3000);
        // In the middle of it.
        rig.wait_for("logs", log.count() - 2900).await;
        let end = ends[round % 2];
        if round % 3 != 1 {
            let status = end(agent.process.as_mut().unwrap()).unwrap();
            assert_eq!(status.code(), Some(0), "{}", agent.printed());
            assert!(agent.printed().contains("stopped; what the store does not have is in the spool"));
        }
        if round % 3 != 0 {
            let status = end(rig.store.process.as_mut().unwrap()).unwrap();
            assert_eq!(status.code(), Some(0), "{}", rig.store.printed());
            rig.up().await;
        }
        if round % 3 != 1 {
            agent.up().unwrap();
        }
    }
    rig.assert_all_stored("logs", &made(&[log])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_program_on_the_same_folder_is_refused_and_the_first_goes_on() {
    let Some(rig) = Rig::start(&[]).await else { return };
    let _agent = rig.agent("a", FILES);
    let mut log = Writer::new(&rig.path("logs/a.log"));
    log.write(10);
    rig.wait_for("logs", 10).await;
    let second = rig.store.start_second().unwrap();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(second.status.code() == Some(1) && said.contains("in use"), "{said}");
    let config = rig.path("a.toml").display().to_string();
    let second = run("kinesin-agent", &["--config", &config]).unwrap();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(second.status.code() == Some(1) && said.contains("in use"), "{said}");
    let taken = rig.store.address.to_string();
    let other = rig.path("other").display().to_string();
    let third = run("kinesin", &["serve", "--data", &other, "--listen", &taken]).unwrap();
    let said = String::from_utf8_lossy(&third.stderr).into_owned();
    assert!(third.status.code() == Some(1) && said.contains("can't listen on"), "{said}");
    // The endpoint is still that of the first.
    log.write(10);
    rig.assert_all_stored("logs", &made(&[log])).await;
    assert!(rig.kinesin("status").contains("records_stored_total"));
}

/// strace at a process, making a system call fail; ends with that process.
struct Fault(Child);

impl Fault {
    /// `None`, after saying so, where strace is not installed or not allowed.
    fn inject(rig: &Rig, id: u32, fault: &str) -> Option<Fault> {
        let said = rig.path("strace.err");
        let call = fault.split(':').next().unwrap();
        let child = Command::new("strace")
            .args(["-f", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &format!("inject={fault}")])
            .args(["-p", &id.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&said).unwrap())
            .spawn();
        let Ok(child) = child else {
            skip("strace is not installed (Debian: `apt-get install strace`)");
            return None;
        };
        let mut fault = Fault(child);
        let mut text = String::new();
        wait_until("strace at its work", || {
            text.clear();
            File::open(&said).unwrap().read_to_string(&mut text).unwrap();
            text.contains("attached") || fault.0.try_wait().unwrap().is_some()
        });
        if !text.contains("attached") || text.contains("not permitted") {
            skip(&format!("strace may not look at other processes here: {text}"));
            return None;
        }
        Some(fault)
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_fsync_ends_the_store_with_a_reason_and_nothing_acknowledged_is_lost() {
    for fault in ["fdatasync:error=EIO", "fdatasync:error=ENOSPC"] {
        let Some(mut rig) = Rig::start(&[]).await else { return };
        rig.kinesin("stream create logs --rate off");
        let agent = rig.agent("a", FILES);
        let mut log = Writer::new(&rig.path("logs/a.log"));
        log.write(500);
        rig.wait_for("logs", 500).await;
        let Some(fault) = Fault::inject(&rig, rig.store.process.as_ref().unwrap().id(), fault) else {
            return;
        };
        log.write(500);
        let status = rig.store.process.as_mut().unwrap().wait().unwrap();
        let said = rig.store.printed();
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains("the store can't go on: "), "{said}");
        drop(fault);
        rig.up().await;
        rig.assert_all_stored("logs", &made(&[log])).await;
        drop(agent);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_fsync_of_the_spool_ends_the_agent_with_a_reason_and_loses_nothing() {
    let Some(rig) = Rig::start(&[]).await else { return };
    rig.kinesin("stream create logs --rate off");
    let mut agent = rig.agent("a", FILES);
    let mut log = Writer::new(&rig.path("logs/a.log"));
    log.write(500);
    rig.wait_for("logs", 500).await;
    let id = agent.process.as_ref().unwrap().id();
    let Some(fault) = Fault::inject(&rig, id, "fdatasync:error=EIO") else { return };
    log.write(500);
    let status = agent.process.as_mut().unwrap().wait().unwrap();
    assert_eq!(status.code(), Some(1), "{}", agent.printed());
    assert!(agent.printed().contains("the spool can't be written"), "{}", agent.printed());
    drop(fault);
    agent.up().unwrap();
    rig.assert_all_stored("logs", &made(&[log])).await;
}
