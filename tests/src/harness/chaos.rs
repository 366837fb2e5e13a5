//! A network with weather: a TCP forwarder on loopback that delays, stalls, swallows, resets and crawls, as it is told while
//! it runs. What is in the bytes is nobody's business here. For a link that is only up or down, see `link`.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use protocol::rng::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::clock;

/// One hop's memory per direction, in bytes: what a slow link holds back is felt at the other end.
const HELD_BYTES_MAX: usize = 256 << 10;

/// Read and written at once.
const CHUNK_BYTES: usize = 16 << 10;

/// What becomes of bytes on their way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Weather {
    /// Each way.
    pub latency: Duration,
    /// More or less than that, by chance; bytes stay in order.
    pub jitter: Duration,
    /// Each way; no bound where there is none.
    pub bytes_per_second: Option<u64>,
    /// Nothing moves; connections stay.
    pub stalled: bool,
    /// Bytes and ends of connections are swallowed: each side believes that the other is there.
    pub half_open: bool,
    /// Connections are reset, and new ones too.
    pub down: bool,
}

#[derive(Debug)]
struct Shared {
    weather: watch::Sender<Weather>,
    resets: watch::Sender<u64>,
    connections: AtomicU64,
    forwarded: AtomicU64,
    rng: Mutex<Rng>,
}

/// See the module. Ends when it is dropped.
#[derive(Debug)]
pub struct Chaos {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Chaos {
    /// Listens on a free port of 127.0.0.1 and forwards to `to`, in good weather.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(to: SocketAddr, seed: u64) -> io::Result<Chaos> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            weather: watch::channel(Weather::default()).0,
            resets: watch::channel(0).0,
            connections: AtomicU64::new(0),
            forwarded: AtomicU64::new(0),
            rng: Mutex::new(Rng::new(seed)),
        });
        let task = tokio::spawn(accept(listener, to, Arc::clone(&shared)));
        Ok(Chaos { address, shared, task })
    }

    /// Where to connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on.
    pub fn set(&self, weather: Weather) {
        self.shared.weather.send_replace(weather);
    }

    /// Resets every connection (RST), in the middle of whatever it is doing.
    pub fn reset_all(&self) {
        self.shared.resets.send_modify(|resets| *resets += 1);
    }

    /// Connections taken so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Bytes forwarded, both ways.
    #[must_use]
    pub fn forwarded_bytes(&self) -> u64 {
        self.shared.forwarded.load(Ordering::Relaxed)
    }
}

impl Drop for Chaos {
    fn drop(&mut self) {
        self.task.abort();
        self.reset_all();
    }
}

async fn accept(listener: TcpListener, to: SocketAddr, shared: Arc<Shared>) {
    loop {
        let Ok((near, _)) = listener.accept().await else { continue };
        shared.connections.fetch_add(1, Ordering::Relaxed);
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let mut resets = shared.resets.subscribe();
            let mut weather = shared.weather.subscribe();
            let _ = near.set_zero_linger();
            tokio::select! {
                biased;
                _ = resets.changed() => {}
                _ = weather.wait_for(|weather| weather.down) => {}
                done = forward(near, to, &shared) => drop(done),
            }
        });
    }
}

async fn forward(near: TcpStream, to: SocketAddr, shared: &Shared) -> io::Result<()> {
    let far = TcpStream::connect(to).await?;
    let _ = far.set_zero_linger();
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    tokio::try_join!(one_way(near_read, far_write, shared), one_way(far_read, near_write, shared))?;
    Ok(())
}

/// Bytes, and when they are due. Nothing at all is the end.
type Part = (Instant, Vec<u8>);

/// Bytes that are on their way.
#[derive(Debug, Default)]
struct Way {
    /// And how many they are together.
    parts: Mutex<(VecDeque<Part>, usize)>,
    moved: Notify,
}

impl Way {
    fn put(&self, due: Instant, part: Vec<u8>) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        // Never before what was sent before.
        let due = parts.0.back().map_or(due, |(last, _)| due.max(*last));
        parts.1 += part.len();
        parts.0.push_back((due, part));
        drop(parts);
        self.moved.notify_one();
    }

    fn take(&self) -> Option<Part> {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let part = parts.0.pop_front()?;
        parts.1 -= part.1.len();
        Some(part)
    }

    fn held(&self) -> usize {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).1
    }
}

async fn one_way(from: OwnedReadHalf, to: OwnedWriteHalf, shared: &Shared) -> io::Result<()> {
    let (way, room) = (Way::default(), Notify::new());
    tokio::try_join!(take_in(from, &way, &room, shared), put_out(to, &way, &room, shared))?;
    Ok(())
}

async fn take_in(mut from: OwnedReadHalf, way: &Way, room: &Notify, shared: &Shared) -> io::Result<()> {
    let mut weather = shared.weather.subscribe();
    loop {
        while way.held() >= HELD_BYTES_MAX {
            room.notified().await;
        }
        let mut part = vec![0; CHUNK_BYTES];
        let len = from.read(&mut part).await?;
        // What arrives in a stall waits with it.
        let now = *weather.wait_for(|weather| !weather.stalled).await.map_err(io::Error::other)?;
        if now.half_open {
            if len > 0 {
                continue;
            }
            weather.wait_for(|weather| !weather.half_open).await.map_err(io::Error::other)?;
        }
        part.truncate(len);
        let jitter = u64::try_from(now.jitter.as_micros()).unwrap_or(0);
        let by_chance = shared.rng.lock().unwrap_or_else(PoisonError::into_inner).below(2 * jitter + 1);
        let delay = (now.latency + Duration::from_micros(by_chance)).saturating_sub(now.jitter);
        way.put(clock::now() + delay, part);
        if len == 0 {
            return Ok(());
        }
    }
}

async fn put_out(mut to: OwnedWriteHalf, way: &Way, room: &Notify, shared: &Shared) -> io::Result<()> {
    let mut weather = shared.weather.subscribe();
    loop {
        let Some((due, part)) = way.take() else {
            way.moved.notified().await;
            continue;
        };
        room.notify_one();
        tokio::time::sleep_until(due.into()).await;
        let now = *weather.wait_for(|weather| !weather.stalled).await.map_err(io::Error::other)?;
        if part.is_empty() {
            return to.shutdown().await;
        }
        if let Some(rate) = now.bytes_per_second {
            tokio::time::sleep(Duration::from_secs_f64(part.len() as f64 / rate.max(1) as f64)).await;
        }
        to.write_all(&part).await?;
        shared.forwarded.fetch_add(part.len() as u64, Ordering::Relaxed);
    }
}
