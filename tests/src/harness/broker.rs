//! A small MQTT broker inside the process, on real TCP sockets: MQTT 3.1.1 and 5, QoS 0 and 1.
//!
//! For the demo and for suites that must run with nothing installed. It keeps sessions in memory by client identifier,
//! sends again in order what was not acknowledged, honours the client's receive maximum, bounds every queue and counts
//! what it gives up. So a ledger can trust it: `matched == delivered + dropped + waiting`, always.
//!
//! Not here, on purpose: QoS 2 (refused), shared subscriptions (refused), topic aliases (none allowed), message expiry,
//! TLS, passwords (not looked at), delayed wills (published at once). Deciding is done in `broker/` by pure machines
//! (`hub`, `session`, `topic`, `wire`); this file and `connection` only move bytes.

mod connection;
mod hub;
mod session;
mod topic;
mod wire;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Notify;

use connection::Connection;
use hub::Hub;

/// The broker's bounds.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Messages that one session may hold, sent and unsent. More are dropped and counted.
    pub max_queued: usize,
    /// The same in bytes, topics and a fixed cost for each message included.
    pub max_queued_bytes: usize,
    /// Messages sent to one client and not acknowledged, if the client itself does not ask for fewer.
    pub max_inflight: u16,
    /// The largest packet taken from a client.
    pub max_packet: u32,
    /// Sessions, connected or not. More clients are refused.
    pub max_sessions: usize,
    /// Filters of one session.
    pub max_subscriptions: usize,
    /// Topics with a retained message. More are not retained.
    pub max_retained: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            max_queued: 4_000_000,
            max_queued_bytes: 1 << 30,
            max_inflight: 1000,
            max_packet: 1 << 20,
            max_sessions: 10_000,
            max_subscriptions: 1000,
            max_retained: 10_000,
        }
    }
}

/// What the broker has counted since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Messages that came in from clients (a will counts; a publisher's repetition counts again).
    pub published: u64,
    /// Messages times the sessions that wanted them.
    pub matched: u64,
    /// Of these, acknowledged by the subscriber (QoS 1) or sent to it (QoS 0).
    pub delivered: u64,
    /// Of these, given up: a full queue, QoS 0 to nobody connected, larger than the client takes, refused by the client, or
    /// the session ended with them still waiting.
    pub dropped: u64,
    /// Of these, still held.
    pub waiting: u64,
    /// Sent again after a reconnect.
    pub redelivered: u64,
    /// Acknowledgements of nothing.
    pub stray_acks: u64,
    /// Clients let in.
    pub connects: u64,
    /// Connections closed because of what the client sent.
    pub protocol_errors: u64,
    /// Sessions now, connected or not.
    pub sessions: u64,
    /// Subscriptions of all sessions now.
    pub subscriptions: u64,
    /// Sessions connected now.
    pub connected: u64,
}

/// A running broker. It stops when dropped.
#[derive(Debug)]
pub struct Broker {
    addr: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    stop: Notify,
    max_packet: u32,
}

#[derive(Debug)]
struct State {
    hub: Hub,
    /// Everybody connected, by the number of the socket; those who said CONNECT have their link's number too.
    sockets: BTreeMap<u64, Arc<Signals>>,
    links: BTreeMap<u64, Arc<Signals>>,
    last_socket: u64,
    online: bool,
}

#[derive(Debug, Default)]
struct Signals {
    wake: Notify,
    kill: Notify,
    ousted: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Broker {
    /// Listens at the address (port 0 picks one) on a thread of its own, with bounds that are ample for tests.
    pub fn start(bind: SocketAddr) -> io::Result<Broker> {
        Broker::start_with(bind, Config::default())
    }

    /// Listens at the address, with these bounds. Works inside and outside of an async runtime.
    pub fn start_with(bind: SocketAddr, config: Config) -> io::Result<Broker> {
        let listener = StdListener::bind(bind)?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let state = State {
            hub: Hub::new(config),
            sockets: BTreeMap::new(),
            links: BTreeMap::new(),
            last_socket: 0,
            online: true,
        };
        let shared =
            Arc::new(Shared { state: Mutex::new(state), stop: Notify::new(), max_packet: config.max_packet });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _guard = runtime.enter();
            TcpListener::from_std(listener)?
        };
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("mqtt-broker".to_owned()).spawn(move || {
            runtime.block_on(accept(listener, for_thread));
            // Dropping the runtime drops every connection's task, and with it its socket.
        })?;
        Ok(Broker { addr, shared, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Closes the port and all connections, and forgets everything. Returns what was counted.
    pub fn stop(mut self) -> Stats {
        self.shut_down();
        self.stats()
    }

    /// Cuts all connections without a word, as a network does. Sessions stay. Returns how many there were.
    pub fn kill_connections(&self) -> usize {
        let state = self.shared.lock();
        state.sockets.values().for_each(|signals| signals.kill.notify_one());
        state.sockets.len()
    }

    /// Off the network (connections are cut, new ones are cut at once; sessions stay), or back on it.
    pub fn set_online(&self, online: bool) {
        self.shared.lock().online = online;
        if !online {
            self.kill_connections();
        }
    }

    /// Everything counted, at one moment.
    pub fn stats(&self) -> Stats {
        self.shared.lock().hub.stats()
    }

    /// What the last client did that was closed for [`Stats::protocol_errors`].
    pub fn last_error(&self) -> Option<String> {
        self.shared.lock().hub.last_error().map(str::to_owned)
    }

    /// See [`Stats::published`].
    pub fn published(&self) -> u64 {
        self.stats().published
    }

    /// See [`Stats::delivered`].
    pub fn delivered(&self) -> u64 {
        self.stats().delivered
    }

    /// See [`Stats::dropped`].
    pub fn dropped(&self) -> u64 {
        self.stats().dropped
    }

    fn shut_down(&mut self) {
        self.shared.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic on that thread has been printed; there is nobody to hand it to.
            let _ = thread.join();
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.shut_down();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let socket = tokio::select! {
            () = shared.stop.notified() => return,
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => socket,
                Err(_) => {
                    // Out of file descriptors, most likely: those that are open go on.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let signals = Arc::new(Signals::default());
        let number = {
            let mut state = shared.lock();
            if !state.online {
                continue;
            }
            state.last_socket += 1;
            let number = state.last_socket;
            state.sockets.insert(number, Arc::clone(&signals));
            number
        };
        // The answer to a small packet must not wait for another one.
        let _ = socket.set_nodelay(true);
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            Connection::new(Arc::clone(&shared), signals).run(socket).await;
            shared.lock().sockets.remove(&number);
        });
    }
}

fn wake_all(state: &State, links: &[u64]) {
    for signals in links.iter().filter_map(|link| state.links.get(link)) {
        signals.wake.notify_one();
    }
}
