//! `cargo demo`: the whole in one process. A store with TLS, an MQTT broker, and trucks, each with its own agent
//! that tails a log file and listens to its telemetry. Half way the network between agents and store is cut. In the
//! end everything that was produced is compared with everything that is stored, record by record.
//!
//! [`fleet`] makes the data, [`ledger`] compares, [`screen`] shows. Never in here: a shortcut around the network, the
//! broker, TLS or the disk.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use protocol::bucket::ShardRate;
use protocol::name::StreamName;
use protocol::native::call::Reply;
use protocol::stream::StreamConfig;
use store::api::listener::Server;
use store::api::{ALPN, Limits};
use store::auth::Auth;
use store::auth::ca::server_names;
use store::clock::Clock;
use store::principal::{Principal, Role};
use store::service::{Service, Settings};

use crate::harness::broker::Broker;
use crate::harness::link::Link;

pub mod fleet;
pub mod ledger;
pub mod screen;

/// What went wrong, for people.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// The port that the demo's store prefers, so that the lines it prints at the end can be typed again.
const PORT: u16 = 4567;

/// How many shards the trucks' telemetry goes to.
const TELEMETRY_SHARDS: u32 = 4;

/// How many shards the trucks' logs go to.
const LOG_SHARDS: u32 = 2;

/// How the demo is set.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Ends by itself.
    pub once: bool,
    /// How long data is made; without `once`, until Ctrl-C.
    pub seconds: u64,
    /// How many trucks there are.
    pub trucks: u32,
    /// Messages and lines of each truck a second, each.
    pub per_second: u32,
    /// How long the network is cut, in seconds.
    pub cut_seconds: u64,
    /// Where everything is kept. Emptied at the start.
    pub dir: PathBuf,
}

impl Default for Plan {
    fn default() -> Plan {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/demo");
        Plan { once: false, seconds: 60, trucks: 24, per_second: 50, cut_seconds: 5, dir }
    }
}

/// The store of the demo, in this process, on a real port.
pub struct Store {
    /// Its inside, for the ledger and the screen.
    pub service: Service,
    server: Server,
    auth: Arc<Auth>,
    /// Its certificate authority's file.
    pub ca: PathBuf,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("ca", &self.ca).finish_non_exhaustive()
    }
}

/// Who may do everything.
#[must_use]
pub fn admin() -> Principal {
    Principal { name: "demo".to_owned(), role: Role::Admin }
}

/// The streams of the demo.
#[must_use]
pub fn stream_names() -> [(StreamName, u32); 2] {
    let name = |text| StreamName::new(text).unwrap_or_else(|_| unreachable!("a plain name"));
    [(name("telemetry"), TELEMETRY_SHARDS), (name("logs"), LOG_SHARDS)]
}

impl Store {
    /// Starts a store in a folder. `busy` streams get a rate that the trucks reach after an outage, so that one sees
    /// throttles.
    ///
    /// # Errors
    /// When the folder or a port can't be used.
    pub async fn start(dir: &Path, rate: ShardRate) -> Result<Store, Error> {
        let clock = Clock::start();
        let service = Service::open(Settings::new(dir.to_owned()), clock)?;
        let listener =
            TcpListener::bind(("127.0.0.1", PORT)).or_else(|_| TcpListener::bind(("127.0.0.1", 0)))?;
        let names = server_names(&[listener.local_addr()?.ip()], &[]);
        let auth = Arc::new(Auth::open(dir, names, ALPN.to_vec(), clock)?);
        let ca = auth.authority().paths().ca.clone();
        let server =
            Server::start(listener, service.clone(), Arc::clone(&auth), Limits::default(), clock, false)?;
        for (name, shards) in stream_names() {
            let config = StreamConfig { shard_rate: Some(rate), ..StreamConfig::default() };
            service.create_stream(&admin(), &name, shards, config).await?;
        }
        Ok(Store { service, server, auth, ca })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Lets an agent in.
    ///
    /// # Errors
    /// When the store does not want to.
    pub async fn token(&self, agent: &str) -> Result<String, Error> {
        match self.auth.create_token(&self.service, &admin(), agent, 3600, 1).await {
            Reply::Token { token, .. } => Ok(token),
            other => Err(format!("no token for {agent}: {other:?}").into()),
        }
    }

    /// Ends it: everything acknowledged is on the disk.
    pub async fn stop(self) {
        self.server.shutdown().await;
        self.service.close().await;
    }
}

/// Runs the demo. `Ok(true)` when the ledger is clean.
///
/// # Errors
/// When something could not even start.
pub async fn run(plan: Plan) -> Result<bool, Error> {
    if plan.dir.exists() {
        std::fs::remove_dir_all(&plan.dir)?;
    }
    std::fs::create_dir_all(&plan.dir)?;
    let dir = plan.dir.canonicalize()?;
    let mut screen = screen::Screen::new();
    let store_dir = dir.join("store");
    let rate = ShardRate { bytes_per_second: 1 << 20, records_per_second: 1000 };
    let store = Store::start(&store_dir, rate).await?;
    let broker = Broker::start(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let link = Link::start(store.address()).await?;
    screen.line(&format!(
        "store on {} with TLS; broker on {}; {} trucks, each with an agent, a log file and {} messages + {} lines a second",
        store.address(),
        broker.addr(),
        plan.trucks,
        plan.per_second,
        plan.per_second
    ));
    let mut fleet = fleet::Fleet::start(&plan, &dir, &store, &link, &broker).await?;
    drive(&plan, &store, &link, &mut fleet, &mut screen).await;
    // Ctrl-C may come while the network is cut.
    link.heal();
    screen.line(
        "stopping the trucks; waiting until everything they made has arrived (Ctrl-C again: ends at once)",
    );
    let made = fleet.stop(&store, &mut screen).await;
    let found = ledger::read(&store.service).await?;
    let verdict = ledger::compare(&made, &found);
    screen.end();
    print!("{}", verdict.text(&broker.stats(), &store.service.status()));
    let clean = verdict.is_clean();
    store.stop().await;
    drop((link, broker));
    further(&store_dir);
    Ok(clean)
}

/// Lets time pass: shows what happens, cuts the network half way, ends after the time or with Ctrl-C.
async fn drive(
    plan: &Plan,
    store: &Store,
    link: &Link,
    fleet: &mut fleet::Fleet,
    screen: &mut screen::Screen,
) {
    let begin = tokio::time::Instant::from_std(crate::clock::now());
    let (cut_at, end_at) = (Duration::from_secs(plan.seconds / 2), Duration::from_secs(plan.seconds));
    let heal_at = cut_at + Duration::from_secs(plan.cut_seconds);
    let (mut cut, mut healed) = (false, false);
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    let interrupt = tokio::signal::ctrl_c();
    tokio::pin!(interrupt);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            _ = &mut interrupt => return,
        }
        let elapsed = begin.elapsed();
        if !cut && elapsed >= cut_at {
            cut = true;
            link.cut();
            screen.line(&format!(
                "network between agents and store CUT for {} s: agents go on into their spools",
                plan.cut_seconds
            ));
        }
        if cut && !healed && elapsed >= heal_at {
            healed = true;
            link.heal();
            screen.line("network is back: agents catch up, as fast as the shards' rate allows");
        }
        screen.show(elapsed, cut && !healed, &store.service, &fleet.snapshot());
        if plan.once && elapsed >= end_at {
            return;
        }
    }
}

fn further(store_dir: &Path) {
    let dir =
        store_dir.strip_prefix(std::env::current_dir().unwrap_or_default()).unwrap_or(store_dir).display();
    println!(
        "\nLook further (the data stays in {dir} until the next demo):\n\
         \n  cargo build --release && export PATH=$PWD/target/release:$PATH KINESIN_DATA={dir}\n  \
         kinesin check {dir}                           proves that the data is whole\n  \
         kinesin serve --data {dir} &                  starts a store on it\n  \
         kinesin stream describe telemetry             its shards\n  \
         kinesin tail telemetry --from trim-horizon --no-follow | head\n"
    );
}
