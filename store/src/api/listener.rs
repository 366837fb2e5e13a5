//! The one port: takes connections, keeps them within bounds before anybody is known, speaks TLS, and passes
//! each on to the API that it asked for (ALPN). Never: what is said inside a connection.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::counters::{Counters, Reason};
use super::{Budget, Limits, Shared, kinesis, native};
use crate::auth::tls::{self, HandshakeFailure};
use crate::auth::{Auth, AuthError};
use crate::clock::Clock;
use crate::principal::Principal;
use crate::service::Service;

/// TLS reads from the socket in small steps; this buffer makes them few.
const SOCKET_BUFFER_BYTES: usize = 32 * 1024;
/// How long to wait after the operating system had no connection to give (too many files).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections that the operating system takes before we do, as far as it lets us.
const BACKLOG: i32 = 4096;
/// How often it is looked whether certificates are due.
const RENEW_CHECK: Duration = Duration::from_secs(60);
/// A clock that was set back by more than this has made certificates that are not valid yet.
const RENEW_BACK_MS: u64 = 30 * 60 * 1000;
/// How long a refused connection may take to hear why.
const LINGER: Duration = Duration::from_millis(500);

/// A connection as APIs see it.
pub(crate) type Stream = TlsStream<BufReader<TcpStream>>;

/// A running edge.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    done: mpsc::Receiver<()>,
}

impl Server {
    /// Begins to take connections.
    ///
    /// # Errors
    /// When the socket can't be used.
    pub fn start(
        listener: std::net::TcpListener,
        service: Service,
        auth: Arc<Auth>,
        limits: Limits,
        clock: Clock,
        tell: bool,
    ) -> io::Result<Server> {
        Server::start_with_plain(listener, None, service, auth, limits, clock, tell)
    }

    /// As [`start`](Self::start), and takes HTTP without TLS at a second socket, which must be of the loopback
    /// interface.
    ///
    /// # Errors
    /// When a socket can't be used, others could reach the second, or there are no more threads.
    pub fn start_with_plain(
        listener: std::net::TcpListener,
        plain: Option<std::net::TcpListener>,
        service: Service,
        auth: Arc<Auth>,
        limits: Limits,
        clock: Clock,
        tell: bool,
    ) -> io::Result<Server> {
        let listener = listening(listener)?;
        let address = listener.local_addr()?;
        let pending = Budget::new(limits.pending_bytes_max);
        let counters = Counters::new(clock, tell);
        let home = kinesis::Home {
            account: auth.keys().home_account().to_owned(),
            region: limits.home_region.clone(),
        };
        let kinesis = Arc::new(kinesis::Kinesis::new(service.clone(), clock, limits.status_delay, home));
        let producers = super::video::ingest::Producers::default();
        let readers = super::readers::Readers::start()?;
        let frames = ::video::pool::Pool::default();
        let shared = Arc::new(Shared {
            service,
            auth,
            limits,
            counters,
            pending,
            clock,
            kinesis,
            producers,
            readers,
            frames,
        });
        let (stop, stopped) = watch::channel(false);
        let (alive, done) = mpsc::channel(1);
        tokio::spawn(renew_certificates(shared.clone(), stopped.clone()));
        let listener = Listener::new(listener, shared.clone(), stopped, alive);
        if let Some(plain) = plain {
            tokio::spawn(listener.beside(plain)?.run());
        }
        tokio::spawn(listener.run());
        Ok(Server { address, shared, stop, done })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What happened at the edge.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Bytes of batches that are being received or are not answered.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.shared.pending.used()
    }

    /// Takes no more connections, lets what is under way finish within the farewell time, says goodbye.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        // Every connection holds a sender; the channel ends with the last of them.
        let _ = timeout(self.shared.limits.farewell * 2, self.done.recv()).await;
    }
}

/// The standard library lets 128 wait, which is fewer than come back at once after an outage: to those beyond, it
/// looks as if they were connected, and nobody is there.
fn listening(listener: std::net::TcpListener) -> io::Result<TcpListener> {
    rustix::net::listen(&listener, BACKLOG)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

async fn renew_certificates(shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let life_ms = u64::try_from(Auth::renew_every().as_millis()).unwrap_or(u64::MAX);
    let mut made = shared.clock.wall();
    while timeout(RENEW_CHECK, stopped.changed()).await.is_err() {
        let now = shared.clock.wall();
        if now.millis_since(made) < life_ms && made.millis_since(now) < RENEW_BACK_MS {
            continue;
        }
        match shared.auth.renew() {
            Ok(()) => made = shared.clock.wall(),
            Err(error) => shared.counters.line(&format_args!("certificates not renewed: {error}")),
        }
    }
}

struct Listener {
    listener: TcpListener,
    shared: Arc<Shared>,
    stopped: watch::Receiver<bool>,
    alive: mpsc::Sender<()>,
    /// HTTP without TLS.
    plain: bool,
    all: Arc<Semaphore>,
    half_open: Arc<Semaphore>,
    addresses: Arc<Addresses>,
}

impl Listener {
    fn new(
        listener: TcpListener,
        shared: Arc<Shared>,
        stopped: watch::Receiver<bool>,
        alive: mpsc::Sender<()>,
    ) -> Listener {
        let all = Arc::new(Semaphore::new(shared.limits.connections_max));
        let half_open = Arc::new(Semaphore::new(shared.limits.half_open_max));
        let addresses = Arc::new(Addresses::default());
        Listener { listener, shared, stopped, alive, plain: false, all, half_open, addresses }
    }

    /// Another socket, without TLS, whose connections count with those of this one.
    fn beside(&self, plain: std::net::TcpListener) -> io::Result<Listener> {
        if !plain.local_addr()?.ip().is_loopback() {
            let why = "HTTP without TLS is for loopback addresses only";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        Ok(Listener {
            listener: listening(plain)?,
            shared: self.shared.clone(),
            stopped: self.stopped.clone(),
            alive: self.alive.clone(),
            plain: true,
            all: self.all.clone(),
            half_open: self.half_open.clone(),
            addresses: self.addresses.clone(),
        })
    }

    async fn run(mut self) {
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                _ = self.stopped.wait_for(|stop| *stop) => return,
            };
            match accepted {
                Ok((tcp, peer)) => self.admit(tcp, peer),
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    self.shared.counters.line(&format_args!("can't take a connection: {error}"));
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit(&self, tcp: TcpStream, peer: SocketAddr) {
        let limits = &self.shared.limits;
        let all = self.all.clone().try_acquire_owned();
        let half_open = self.half_open.clone().try_acquire_owned();
        let address = self.addresses.clone().enter(peer.ip(), limits.per_address_max);
        let (Ok(all), Ok(half_open), Some(address)) = (all, half_open, address) else {
            self.shared.counters.refused(Reason::TooMany, peer, &"too many connections");
            return;
        };
        let guard =
            Guard { shared: self.shared.clone(), _alive: self.alive.clone(), _all: all, _address: address };
        guard.shared.counters.opened();
        let (stopped, plain) = (self.stopped.clone(), self.plain);
        tokio::spawn(async move {
            let shared = guard.shared.clone();
            let _ = tcp.set_nodelay(true);
            if plain {
                kinesis::http::serve(shared, tcp, None, false, half_open, stopped).await;
            } else if let Some((stream, principal)) = handshake(&shared, tcp, peer).await {
                dispatch(shared, stream, peer, principal, half_open, stopped).await;
            }
            drop(guard);
        });
    }
}

/// Holds a connection's place in all counts.
struct Guard {
    shared: Arc<Shared>,
    _alive: mpsc::Sender<()>,
    _all: OwnedSemaphorePermit,
    _address: AddressGuard,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.shared.counters.ended();
    }
}

async fn handshake(
    shared: &Shared,
    tcp: TcpStream,
    peer: SocketAddr,
) -> Option<(Stream, Result<Principal, AuthError>)> {
    let acceptor = TlsAcceptor::from(shared.auth.server_config());
    let accept = acceptor.accept(BufReader::with_capacity(SOCKET_BUFFER_BYTES, tcp)).into_fallible();
    match timeout(shared.limits.handshake, accept).await {
        Err(_) => {
            shared.counters.refused(Reason::SlowHandshake, peer, &"the TLS handshake took too long");
            None
        }
        Ok(Err((error, socket))) => {
            let failure = HandshakeFailure::of(&error);
            shared.counters.refused(
                Reason::Handshake(failure),
                peer,
                &format_args!("{} ({error})", failure.text()),
            );
            linger(socket).await;
            None
        }
        Ok(Ok(stream)) => {
            let principal = tls::principal_of(stream.get_ref().1.peer_certificates());
            Some((stream, principal))
        }
    }
}

/// Lets the other side read the alert: closing a socket with unread bytes would destroy it.
pub(crate) async fn linger<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(mut socket: S) {
    let _ = timeout(LINGER, async {
        socket.shutdown().await?;
        let mut sink = [0; 4096];
        let mut left = 64;
        while left > 0 && socket.read(&mut sink).await? > 0 {
            left -= 1;
        }
        io::Result::Ok(())
    })
    .await;
}

/// One line for each API.
async fn dispatch(
    shared: Arc<Shared>,
    stream: Stream,
    peer: SocketAddr,
    principal: Result<Principal, AuthError>,
    half_open: OwnedSemaphorePermit,
    stopped: watch::Receiver<bool>,
) {
    let wanted = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    match wanted.as_deref() {
        Some(name) if name == protocol::native::ALPN => {
            native::serve(shared, stream, peer, principal, half_open, stopped).await;
        }
        // Some clients that speak HTTP ask for nothing; which version it is, the first bytes say.
        _ => kinesis::http::serve(shared, stream, principal.ok(), true, half_open, stopped).await,
    }
}

/// Connections by address.
#[derive(Debug, Default)]
struct Addresses {
    open: Mutex<HashMap<IpAddr, usize>>,
}

struct AddressGuard {
    addresses: Arc<Addresses>,
    ip: IpAddr,
}

impl Addresses {
    fn enter(self: Arc<Self>, ip: IpAddr, max: usize) -> Option<AddressGuard> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(ip).or_insert(0);
        if *count >= max {
            return None;
        }
        *count += 1;
        drop(open);
        Some(AddressGuard { addresses: self, ip })
    }
}

impl Drop for AddressGuard {
    fn drop(&mut self) {
        let mut open = self.addresses.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.ip);
            }
        }
    }
}
