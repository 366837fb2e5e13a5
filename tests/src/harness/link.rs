//! A network between two programs that can be cut: a TCP forwarder on loopback. Never: what is inside the bytes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// One hop's memory per direction, in bytes.
const BUFFER_BYTES: usize = 64 << 10;

#[derive(Debug, Default)]
struct Traffic {
    forwarded: AtomicU64,
    answers_lost: AtomicBool,
    answers_spoilt: AtomicBool,
}

/// A link that forwards while it is up. Ends when it is dropped.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    up: watch::Sender<bool>,
    traffic: Arc<Traffic>,
    task: tokio::task::JoinHandle<()>,
}

impl Link {
    /// Listens on a free port of 127.0.0.1 and forwards to `to`.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(to: SocketAddr) -> io::Result<Link> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (up, watching) = watch::channel(true);
        let traffic = Arc::new(Traffic::default());
        let task = tokio::spawn(accept(listener, to, watching, Arc::clone(&traffic)));
        Ok(Link { address, up, traffic, task })
    }

    /// Where to connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts every connection, in the middle of whatever it is doing, and closes new ones at once.
    pub fn cut(&self) {
        self.up.send_replace(false);
    }

    /// From now until [`heal`](Self::heal), what comes back from the far end goes nowhere. A cut must follow: bytes are
    /// missing in the middle of it.
    pub fn lose_answers(&self) {
        self.traffic.answers_lost.store(true, Ordering::Release);
    }

    /// From now until [`heal`](Self::heal), what comes back from the far end is other bytes, as many.
    pub fn spoil_answers(&self) {
        self.traffic.answers_spoilt.store(true, Ordering::Release);
    }

    /// Forwards again.
    pub fn heal(&self) {
        self.traffic.answers_spoilt.store(false, Ordering::Release);
        self.traffic.answers_lost.store(false, Ordering::Release);
        self.up.send_replace(true);
    }

    /// Bytes forwarded, both ways.
    #[must_use]
    pub fn forwarded_bytes(&self) -> u64 {
        self.traffic.forwarded.load(Ordering::Relaxed)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.up.send_replace(false);
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, to: SocketAddr, up: watch::Receiver<bool>, traffic: Arc<Traffic>) {
    loop {
        let Ok((near, _)) = listener.accept().await else { continue };
        if !*up.borrow() {
            drop(near);
            continue;
        }
        let (mut up, traffic) = (up.clone(), Arc::clone(&traffic));
        tokio::spawn(async move {
            tokio::select! {
                _ = up.wait_for(|up| !*up) => {}
                result = forward(near, to, traffic) => drop(result),
            }
        });
    }
}

async fn forward(near: TcpStream, to: SocketAddr, traffic: Arc<Traffic>) -> io::Result<()> {
    let far = TcpStream::connect(to).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    tokio::try_join!(
        pump(near_read, far_write, &traffic, false),
        pump(far_read, near_write, &traffic, true)
    )?;
    Ok(())
}

async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    traffic: &Traffic,
    is_answer: bool,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let len = from.read(&mut buffer).await?;
        if len == 0 {
            return to.shutdown().await;
        }
        if is_answer && traffic.answers_lost.load(Ordering::Acquire) {
            continue;
        }
        if is_answer && traffic.answers_spoilt.load(Ordering::Acquire) {
            buffer[..len].iter_mut().for_each(|byte| *byte = byte.rotate_left(3) ^ 0x5a);
        }
        to.write_all(&buffer[..len]).await?;
        traffic.forwarded.fetch_add(len as u64, Ordering::Relaxed);
    }
}
