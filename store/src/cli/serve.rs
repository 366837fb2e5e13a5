//! `kinesin serve`: puts the parts of a store together, tells a new user what to type next, and ends in order.

use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use clap::Args;
use protocol::name::is_region;
use protocol::native::url::StoreUrl;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use super::out;
use crate::api::listener::Server;
use crate::api::{self, Limits};
use crate::auth::files::{self, Access};
use crate::auth::{Auth, ca};
use crate::client::endpoint_file;
use crate::clock::Clock;
use crate::config::{Bytes, Span, show_bytes};
use crate::service::{Service, Settings};

/// Files that are open besides connections: segments, sockets, the runtime's own.
const FILES_BESIDES: u64 = 4096;

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// Folder that holds everything; made on first start, with a certificate authority of its own.
    #[arg(long, env = "KINESIN_DATA", value_name = "DIR")]
    data: PathBuf,
    /// Address and port to listen on; port 0 takes a free one. 0.0.0.0 for all networks of this machine.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:4567")]
    listen: String,
    /// Also take HTTP without TLS at this address, which must be of this machine only (127.0.0.1 or ::1).
    #[arg(long, value_name = "ADDRESS:PORT")]
    insecure_http: Option<String>,
    /// Region of the streams that agents write to, as clients of the Kinesis API name it; other regions are
    /// namespaces of their own.
    #[arg(long, value_name = "REGION", default_value = "local-1", value_parser = region)]
    region: String,
    /// How long a stream made or changed over the Kinesis API says CREATING or UPDATING.
    #[arg(long, value_name = "TIME", default_value = "100ms")]
    status_delay: Span,
    /// A further name or address that clients use for this store (goes into its certificate).
    #[arg(long, value_name = "NAME")]
    san: Vec<String>,
    /// Refuse records for streams that do not exist, instead of making them.
    #[arg(long)]
    no_auto_create: bool,
    /// Size of a log segment; retention removes whole segments.
    #[arg(long, value_name = "SIZE", default_value = "64 MiB")]
    segment_bytes: Bytes,
    /// Take no records while less than this is free on the disk.
    #[arg(long, value_name = "SIZE", default_value = "64 MiB")]
    free_bytes_min: Bytes,
    /// At most this many connections at the same time (and never more than the system allows files). Each takes up to
    /// 64 KiB.
    #[arg(long, value_name = "COUNT", default_value_t = api::Limits::default().connections_max)]
    connections_max: usize,
    /// At most this many of them from one address.
    #[arg(long, value_name = "COUNT", default_value_t = api::Limits::default().per_address_max)]
    connections_per_address: usize,
}

fn region(text: &str) -> Result<String, String> {
    let why = "a region is lower-case letters, digits and '-', such as eu-west-1";
    is_region(text).then(|| text.to_owned()).ok_or_else(|| why.to_owned())
}

pub(super) async fn run(args: ServeArgs) -> anyhow::Result<()> {
    let mut signals = Signals::start()?;
    let clock = Clock::start();
    let listener = bind(&args.listen)?;
    let address = listener.local_addr()?;
    let plain = args.insecure_http.as_deref().map(bind_plain).transpose()?;
    let plain_address = plain.as_ref().map(TcpListener::local_addr).transpose()?;
    files::create_dir(&args.data)?;
    let service = Service::open(settings(&args), clock)?;
    let problems = service.problems();
    let names = ca::server_names(&[address.ip()], &args.san);
    let auth = Arc::new(Auth::open(&args.data, names, api::ALPN.to_vec(), clock)?);
    let limits =
        Limits { status_delay: args.status_delay.0, home_region: args.region.clone(), ..limits(&args) };
    let server =
        Server::start_with_plain(listener, plain, service.clone(), auth.clone(), limits, clock, true)?;
    let url = local_url(address);
    let endpoint = endpoint_file(&args.data);
    if !files::replace_copy(&endpoint, format!("{url}\n").as_bytes(), Access::Everybody)? {
        eprintln!(
            "kinesin: the disk is full: {} does not say {url}; give it to commands",
            endpoint.display()
        );
    }
    problems.iter().for_each(|problem| eprintln!("kinesin: {problem}"));
    out::print(&greeting(&args, &url, &auth))?;
    if let Some(address) = plain_address {
        out::print(&format!("Without TLS, for this machine only: http://{address}\n\n"))?;
    }

    tokio::spawn(tell_of_disk(service.disk_full(), args.free_bytes_min));
    let mut failed = service.failed();
    let reason = tokio::select! {
        () = signals.next() => None,
        reason = failed.wait_for(Option::is_some) => reason.ok().and_then(|reason| reason.clone()),
    };
    if let Some(reason) = reason {
        // Nothing more can be made durable, so nothing more is answered.
        return Err(anyhow!("the store can't go on: {reason}; see to the disk and start it again"));
    }
    eprintln!("kinesin: ending; once more to end at once");
    tokio::select! {
        () = async { server.shutdown().await; service.close().await; } => Ok(()),
        () = signals.next() => Err(anyhow!("ended at once; what was acknowledged is safe")),
    }
}

/// Says when the disk gets full, and when it is no more.
async fn tell_of_disk(mut full: watch::Receiver<bool>, least: Bytes) {
    let mut was_full = false;
    loop {
        let is_full = *full.borrow_and_update();
        let (least, twice) = (show_bytes(least.0), show_bytes(least.0.saturating_mul(2)));
        match (was_full, is_full) {
            (false, true) => eprintln!(
                "kinesin: the disk is nearly full: records are turned away (to be sent again) until {twice} are free; \
                 {least} are kept for what reading, deleting and retention write"
            ),
            (true, false) => eprintln!("kinesin: the disk has room again: records are taken"),
            _ => {}
        }
        was_full = is_full;
        if full.changed().await.is_err() {
            return;
        }
    }
}

fn settings(args: &ServeArgs) -> Settings {
    Settings {
        auto_create: !args.no_auto_create,
        segment_bytes_max: args.segment_bytes.0,
        free_bytes_min: args.free_bytes_min.0,
        ..Settings::new(args.data.clone())
    }
}

fn bind(listen: &str) -> anyhow::Result<TcpListener> {
    let addresses: Vec<SocketAddr> = listen
        .to_socket_addrs()
        .with_context(|| format!("--listen {listen} is no address and port, such as 127.0.0.1:4567"))?
        .collect();
    TcpListener::bind(addresses.as_slice()).with_context(|| {
        format!("can't listen on {listen}; another --listen, such as 127.0.0.1:0, takes a free port")
    })
}

/// HTTP without TLS must not leave the machine: a signature protects a request from change, and nothing from being read.
fn bind_plain(listen: &str) -> anyhow::Result<TcpListener> {
    let addresses: Vec<SocketAddr> = listen
        .to_socket_addrs()
        .with_context(|| format!("--insecure-http {listen} is no address and port, such as 127.0.0.1:4568"))?
        .collect();
    if let Some(address) = addresses.iter().find(|address| !address.ip().is_loopback()) {
        return Err(anyhow!(
            "--insecure-http {address}: only addresses of this machine, such as 127.0.0.1:4568; others use TLS"
        ));
    }
    TcpListener::bind(addresses.as_slice()).with_context(|| format!("can't listen on {listen}"))
}

/// No more connections than the system has files for.
fn limits(args: &ServeArgs) -> Limits {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let mut limits = Limits {
        connections_max: args.connections_max.max(1),
        per_address_max: args.connections_per_address.max(1),
        ..Limits::default()
    };
    let now = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: now.maximum, maximum: now.maximum };
    let files = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => now.maximum,
        Err(_) => now.current,
    };
    if let Some(files) = files {
        let room = files.saturating_sub(FILES_BESIDES).max(files / 2);
        limits.connections_max = limits.connections_max.min(usize::try_from(room).unwrap_or(usize::MAX));
    }
    limits
}

/// As a client on this machine reaches it.
fn local_url(address: SocketAddr) -> StoreUrl {
    let host = match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => "127.0.0.1".to_owned(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => "::1".to_owned(),
        _ => address.ip().to_string(),
    };
    StoreUrl { host, port: address.port() }
}

fn greeting(args: &ServeArgs, url: &StoreUrl, auth: &Auth) -> String {
    let dir = args.data.display();
    let paths = auth.authority().paths();
    format!(
        "kinesin {version} listens at {url}\n\
         \n  data folder  {dir}\n  trust        {ca}\n               sha256 {fingerprint}\n  \
         operator     {admin}, {key}\n\
         \nNext, in another terminal:\n\
         \n  export KINESIN_DATA={dir}\n  kinesin put hello 'first record'\n  kinesin tail hello --from trim-horizon\n  \
         kinesin agent enroll NAME        lets an agent in\n\n  \
         AWS_SHARED_CREDENTIALS_FILE={dir}/admin.credentials AWS_CA_BUNDLE={dir}/ca.pem AWS_REGION=local-1 \\\n    \
         aws --endpoint-url https://localhost:{port} kinesis list-streams\n\n",
        port = url.port,
        version = env!("CARGO_PKG_VERSION"),
        ca = paths.ca.display(),
        fingerprint = auth.authority().fingerprint(),
        admin = paths.admin.display(),
        key = paths.admin_key.display(),
    )
}

/// Interrupts and requests to end, one after the other.
struct Signals {
    seen: mpsc::Receiver<()>,
}

impl Signals {
    fn start() -> anyhow::Result<Signals> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let (tell, seen) = mpsc::channel(4);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if tell.send(()).await.is_err() {
                    return;
                }
            }
        });
        Ok(Signals { seen })
    }

    async fn next(&mut self) {
        let _ = self.seen.recv().await;
    }
}
