//! A real mosquitto as a process, with a session store on disk, and a publisher for it.

use std::io;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};

use super::process::{free_port, skip};
use crate::clock;

const PATIENCE: Duration = Duration::from_secs(20);

/// A broker. Killed when it is dropped.
#[derive(Debug)]
pub struct Mosquitto {
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
    config: PathBuf,
    child: Option<Child>,
}

impl Mosquitto {
    /// Starts one with its files in `home`; `None`, after saying so, where mosquitto is not installed.
    ///
    /// # Errors
    /// When it does not come up.
    ///
    /// # Panics
    /// As [`skip`].
    pub fn start(home: &Path) -> io::Result<Option<Mosquitto>> {
        let port = free_port()?;
        let dir = home.join("mosquitto");
        std::fs::create_dir_all(&dir)?;
        let config = dir.join("mosquitto.conf");
        // Run by root, it would change to a user that has no right to a private folder.
        let user = if rustix::process::getuid().is_root() { "user root\n" } else { "" };
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\n{user}persistence true\npersistence_location {}/\n\
             max_queued_messages 0\nmax_inflight_messages 0\n",
            dir.display()
        );
        std::fs::write(&config, text)?;
        let mut broker = Mosquitto { port, config, child: None };
        if !broker.up()? {
            skip("mosquitto is not installed (Debian: `apt-get install mosquitto`)");
            return Ok(None);
        }
        Ok(Some(broker))
    }

    /// Starts it (again); false where there is no such program.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn up(&mut self) -> io::Result<bool> {
        let start = |name: &str| {
            let mut command = Command::new(name);
            command
                .arg("-c")
                .arg(&self.config)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            command.spawn().ok()
        };
        let Some(child) = ["mosquitto", "/usr/sbin/mosquitto"].into_iter().find_map(start) else {
            return Ok(false);
        };
        self.child = Some(child);
        if clock::eventually(PATIENCE, || TcpStream::connect(("127.0.0.1", self.port)).is_ok()) {
            return Ok(true);
        }
        Err(io::Error::other("mosquitto does not listen"))
    }

    /// Asks it to end, and waits: its sessions are on disk then.
    ///
    /// # Errors
    /// When it can't be asked.
    pub fn down(&mut self) -> io::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let id = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(id) = id {
            rustix::process::kill_process(id, rustix::process::Signal::TERM)?;
        }
        child.wait().map(drop)
    }

    /// As [`publish`], to this broker.
    ///
    /// # Errors
    /// As [`publish`].
    pub async fn publish(&self, client: &str, messages: Vec<(String, Vec<u8>)>) -> io::Result<()> {
        publish(self.port, client, messages).await
    }
}

/// Publishes to a broker on 127.0.0.1 at QoS 1, in order, and returns when the broker has them all.
///
/// # Errors
/// When the broker can't be reached or takes too long.
pub async fn publish(port: u16, client: &str, messages: Vec<(String, Vec<u8>)>) -> io::Result<()> {
    let (mut options, count) = (MqttOptions::new(client, "127.0.0.1", port), messages.len());
    options.set_inflight(100);
    let (client, mut events) = AsyncClient::new(options, 100);
    let sending = tokio::spawn(async move {
        for (topic, payload) in messages {
            if client.publish(topic, QoS::AtLeastOnce, false, payload).await.is_err() {
                return;
            }
        }
        // Kept until all are acknowledged: without it the events end.
        std::future::pending::<()>().await;
    });
    let acknowledged = async {
        let mut left = count;
        while left > 0 {
            if let Event::Incoming(Packet::PubAck(_)) = events.poll().await.map_err(io::Error::other)? {
                left -= 1;
            }
        }
        Ok(())
    };
    let done = tokio::time::timeout(PATIENCE, acknowledged).await;
    sending.abort();
    done.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
