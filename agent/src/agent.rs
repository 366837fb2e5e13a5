//! An agent in this process: its threads are started, watched and ended here. Many may run in one process.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use disk::{DirLock, DirName, RealDisk};
use protocol::name::StreamName;
use protocol::native::call::Producer;

use crate::batcher::Batcher;
use crate::clock::Clock;
use crate::config::{BatchSettings, Config, VideoSource, host_name};
use crate::hub::Hub;
use crate::log::Log;
use crate::pipeline::{Parts, Pipeline};
use crate::routes::Routes;
use crate::send::identity::Identity;
use crate::send::native::{Link, Settings as LinkSettings};
use crate::send::outbox::{Outbox, Settings as OutboxSettings};
use crate::send::policy::Policies;
use crate::send::tls;
use crate::source::file::FileSource;
use crate::source::intake::{Intake, Route};
use crate::source::{mqtt, stdin, video};
use crate::spool::{Settings as SpoolSettings, Spool, SpoolReader};
use crate::spooler::Spooler;
use crate::status::{Snapshot, Stats};

/// An agent that could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Before the spool was touched.
    #[error("{0}")]
    Settings(String),
    /// The spool's folder.
    #[error("{}: {source}", dir.display())]
    Dir {
        /// Which.
        dir: PathBuf,
        /// What failed.
        source: std::io::Error,
    },
    /// The spool.
    #[error(transparent)]
    Spool(#[from] crate::spool::SpoolError),
    /// A thread.
    #[error("a thread can't be started: {0}")]
    Thread(std::io::Error),
}

/// Starts agents.
#[derive(Debug)]
pub struct Agent;

/// A running agent. Dropping it ends it as [`stop`](AgentHandle::stop) does.
#[derive(Debug)]
pub struct AgentHandle {
    hub: Arc<Hub>,
    stats: Arc<Stats>,
    threads: Vec<JoinHandle<()>>,
    _lock: Option<DirLock>,
    clock: Clock,
}

/// How often it is looked whether a full disk has room.
const FULL_PAUSE: Duration = Duration::from_secs(1);

impl Agent {
    /// Starts an agent that says nothing.
    ///
    /// # Errors
    /// When something it needs can't be used.
    pub fn start(config: Config) -> Result<AgentHandle, StartError> {
        Agent::start_with(config, Log::silent())
    }

    /// Starts an agent whose messages go to `log`.
    ///
    /// # Errors
    /// When something it needs can't be used.
    pub fn start_with(config: Config, log: Log) -> Result<AgentHandle, StartError> {
        tls::roots(&config.store.ca).map_err(StartError::Settings)?;
        let dir = config.spool.dir.clone();
        let named = |source| StartError::Dir { dir: dir.clone(), source };
        let real = RealDisk::open(&dir).map_err(named)?;
        let lock = real.lock("kinesin-agent").map_err(named)?;
        let (spool, opened) = open_spool(real, &config, &log)?;
        report_opened(&opened, &dir, &log);
        Starting { config, log, spool, clock: Clock::default() }.start(lock)
    }
}

/// Opens the spool. On a disk that others have filled it waits for room: nothing could be taken before there is some.
fn open_spool(
    mut real: RealDisk,
    config: &Config,
    log: &Log,
) -> Result<(Spool, crate::spool::Opened), StartError> {
    let dir = &config.spool.dir;
    loop {
        match Spool::open(Arc::new(real), log_dir()?, spool_settings(config), random_id()) {
            Err(error) if error.is_full() => {
                log.warn("full", &format!("the disk has no room; waiting for some: {error}"));
                #[expect(clippy::disallowed_methods, reason = "nothing runs yet that could wait instead")]
                std::thread::sleep(FULL_PAUSE);
                // Another one, as after a start: this one trusts no file that an append to has failed.
                real = RealDisk::open(dir).map_err(|source| StartError::Dir { dir: dir.clone(), source })?;
            }
            opened => return Ok(opened?),
        }
    }
}

fn log_dir() -> Result<DirName, StartError> {
    DirName::new("log").map_err(|e| StartError::Settings(e.to_string()))
}

fn spool_settings(config: &Config) -> SpoolSettings {
    SpoolSettings {
        max_bytes: config.spool.max_bytes.0,
        segment_bytes: config.spool.segment_bytes(),
        min_free: config.spool.min_free.0,
    }
}

fn report_opened(opened: &crate::spool::Opened, dir: &Path, log: &Log) {
    if opened.torn_bytes > 0 {
        let bytes = opened.torn_bytes;
        log.info(&format!("{}: {bytes} bytes of an unfinished commit were cut off", dir.display()));
    }
    for (from, to) in &opened.damaged {
        let text = format!("{}: damaged from {from} to {to}; the rest goes on", dir.display());
        log.error(&format!("damage {from}"), &text);
    }
}

fn random_id() -> u128 {
    let mut bytes = [0; 16];
    // Without the system's randomness nothing that needs a key would work either; time is the next best.
    if getrandom::fill(&mut bytes).is_err() {
        return u128::from(crate::clock::unix_ms().0) << 64 | u128::from(std::process::id());
    }
    u128::from_le_bytes(bytes)
}

struct Starting {
    config: Config,
    log: Log,
    spool: Spool,
    clock: Clock,
}

impl Starting {
    fn start(self, lock: DirLock) -> Result<AgentHandle, StartError> {
        let Starting { config, log, spool, clock } = self;
        let agent = config.agent_name();
        let before_video = config.source.mqtt.len() + usize::from(config.source.stdin.is_some());
        let before_events = before_video + config.source.video.len();
        let message_sources = before_events + events_of(&config).count();
        let hub = Arc::new(Hub::new(message_sources));
        let stats = Arc::new(Stats::default());
        for map in spool.state().streams.values() {
            stats.add_stream(map.name.as_str());
        }
        let parts = pipeline_parts(&config, &spool, &hub, &stats, &log, clock);
        let link = link(&config, &spool, &hub, &stats, &log, clock);
        let videos = video_parts(&config, &spool, &hub, &log, clock, before_video);
        let events = event_parts(&config, &spool, &hub, &log, clock, before_events);
        let (mark, readers) = (spool.state().mark, events.iter().map(|_| spool.reader()).collect::<Vec<_>>());
        let mut handle = AgentHandle {
            hub: Arc::clone(&hub),
            stats: Arc::clone(&stats),
            threads: Vec::new(),
            clock,
            _lock: Some(lock),
        };
        let recent = spool.state().recent.clone();
        let spooler = Spooler {
            spool,
            overflow: config.spool.overflow,
            agent,
            hub: Arc::clone(&hub),
            stats,
            log: log.clone(),
            clock,
        };
        handle.spawn("spool", move || spooler.run())?;
        handle.spawn("pipeline", move || Pipeline::new(parts).run())?;
        if let Some(settings) = &config.source.stdin {
            let (hub, max) = (Arc::clone(&hub), settings.line_bytes_max.0);
            let source = config.source.mqtt.len();
            // Not joined: nothing can interrupt a read of standard input.
            std::thread::spawn(move || stdin::read(&hub, source, max));
        }
        for parts in videos {
            handle.spawn("video", move || video::run(parts))?;
        }
        for ((parts, camera), reader) in events.into_iter().zip(readers) {
            handle.spawn("event", move || video::event::run(&parts, &camera, reader, mark))?;
        }
        let mqtt = mqtt_parts(&config, &recent, &hub, &handle.stats, &log, clock);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(StartError::Thread)?;
        handle.spawn("link", move || {
            runtime.block_on(async move {
                let sources: Vec<_> = mqtt.into_iter().map(|parts| tokio::spawn(mqtt::run(parts))).collect();
                link.run().await;
                sources.into_iter().for_each(|source| source.abort());
            });
        })?;
        Ok(handle)
    }
}

fn pipeline_parts(
    config: &Config,
    spool: &Spool,
    hub: &Arc<Hub>,
    stats: &Arc<Stats>,
    log: &Log,
    clock: Clock,
) -> Parts {
    let agent = config.agent_name();
    let base = config.batch.over(BatchSettings::default());
    let mut batches = Vec::new();
    let mut files = Vec::new();
    for settings in &config.source.file {
        let cursors = &spool.state().cursors;
        files.push(FileSource::new(batches.len(), settings.clone(), &agent, cursors, log.clone()));
        batches.push(settings.batch.over(base));
    }
    let mut intakes = Vec::new();
    for settings in &config.source.mqtt {
        let route = Route {
            stream: settings.stream.clone(),
            partition_key: settings.partition_key.clone(),
            default_key: settings.partition_key_default.clone().unwrap_or_else(|| agent.clone()),
            bytes_max: settings.message_bytes_max.0 as usize,
        };
        let id = client_id(config, intakes.len());
        intakes.push(Intake::new(intakes.len(), batches.len(), id, Some(route)));
        batches.push(settings.batch.over(base));
    }
    if let Some(settings) = &config.source.stdin {
        let route = Route {
            stream: settings.stream.clone(),
            partition_key: settings.partition_key.clone(),
            default_key: agent.clone(),
            bytes_max: settings.line_bytes_max.0 as usize,
        };
        intakes.push(Intake::new(intakes.len(), batches.len(), "stdin".to_owned(), Some(route)));
        batches.push(settings.batch.over(base));
    }
    for place in 0..config.source.video.len() {
        intakes.push(Intake::new(intakes.len(), batches.len(), format!("video-{place}"), None));
        batches.push(base);
    }
    for (_, _, stream) in events_of(config) {
        intakes.push(Intake::new(intakes.len(), batches.len(), format!("event-{stream}"), None));
        batches.push(base);
    }
    Parts {
        batcher: Batcher::new(&batches, (config.spool.max_bytes.0 / 8) as usize),
        routes: Routes::new(spool.state()),
        files,
        intakes,
        hub: Arc::clone(hub),
        stats: Arc::clone(stats),
        clock,
        host: host_name(),
        agent,
        log: log.clone(),
    }
}

fn video_parts(
    config: &Config,
    spool: &Spool,
    hub: &Arc<Hub>,
    log: &Log,
    clock: Clock,
    first_source: usize,
) -> Vec<video::Parts> {
    let agent = config.agent_name();
    let mut all = Vec::new();
    for (place, settings) in config.source.video.iter().enumerate() {
        // The configuration was checked for it.
        let Some(stream) = settings.stream_name(&agent) else { continue };
        let mine = |id: &str| settings.folder.as_ref().is_some_and(|folder| video::is_cursor(id, folder));
        let cursors = spool.state().cursors.iter().filter(|(id, _)| mine(id));
        all.push(video::Parts {
            source: first_source + place,
            settings: settings.clone(),
            stream,
            hub: Arc::clone(hub),
            log: log.clone(),
            clock,
            cursors: cursors.map(|(id, text)| (id.clone(), text.clone())).collect(),
        });
    }
    all
}

/// Sources of video whose events have a stream of their own: their settings, their stream, the other one.
fn events_of(config: &Config) -> impl Iterator<Item = (&VideoSource, StreamName, StreamName)> {
    let agent = config.agent_name();
    let of =
        move |settings: &VideoSource| settings.stream_name(&agent).zip(settings.event_stream_name(&agent));
    config
        .source
        .video
        .iter()
        .filter_map(move |settings| of(settings).map(|(camera, event)| (settings, camera, event)))
}

fn event_parts(
    config: &Config,
    spool: &Spool,
    hub: &Arc<Hub>,
    log: &Log,
    clock: Clock,
    first_source: usize,
) -> Vec<(video::Parts, StreamName)> {
    let part = |(place, (settings, camera, stream)): (usize, (&VideoSource, StreamName, StreamName))| {
        let cursors = spool.state().cursors.iter().filter(|(id, _)| video::event::is_cursor(id, &stream));
        let parts = video::Parts {
            source: first_source + place,
            settings: settings.clone(),
            cursors: cursors.map(|(id, text)| (id.clone(), text.clone())).collect(),
            stream,
            hub: Arc::clone(hub),
            log: log.clone(),
            clock,
        };
        (parts, camera)
    };
    events_of(config).enumerate().map(part).collect()
}

/// The name of a source's session at its broker; also that of its memory in the spool.
fn client_id(config: &Config, source: usize) -> String {
    let settings = &config.source.mqtt[source];
    let before = config.source.mqtt[..source].iter().filter(|s| s.broker == settings.broker).count();
    let made = || {
        let agent = config.agent_name();
        if before == 0 { format!("kinesin-{agent}") } else { format!("kinesin-{agent}-{}", before + 1) }
    };
    settings.client_id.clone().unwrap_or_else(made)
}

fn mqtt_parts(
    config: &Config,
    recent: &BTreeMap<String, VecDeque<u64>>,
    hub: &Arc<Hub>,
    stats: &Arc<Stats>,
    log: &Log,
    clock: Clock,
) -> Vec<mqtt::Parts> {
    let part = |(source, settings): (usize, &crate::config::MqttSource)| {
        let client_id = client_id(config, source);
        mqtt::Parts {
            source,
            settings: settings.clone(),
            recent: recent.get(&client_id).into_iter().flatten().copied().collect(),
            client_id,
            hub: Arc::clone(hub),
            stats: Arc::clone(stats),
            log: log.clone(),
            clock,
        }
    };
    config.source.mqtt.iter().enumerate().map(part).collect()
}

fn link(config: &Config, spool: &Spool, hub: &Arc<Hub>, stats: &Arc<Stats>, log: &Log, clock: Clock) -> Link {
    let (state, reader): (_, SpoolReader) = (spool.state(), spool.reader());
    let url = config.store.url.0.clone();
    let agent = config.agent_name();
    let cameras = config.source.video.iter().filter_map(|settings| settings.stream_name(&agent));
    let holds = config.policy.iter().enumerate().filter_map(|(place, policy)| {
        policy.hold_until.as_ref().map(|file| (place, policy.streams.clone(), file.clone()))
    });
    let settings = LinkSettings {
        server_name: config.store.server_name.clone().unwrap_or_else(|| url.host.clone()),
        url,
        ca: config.store.ca.clone(),
        token: config.store.token.clone(),
        agent: config.agent_name(),
        videos: cameras.chain(events_of(config).map(|(_, _, stream)| stream)).collect(),
        producer: Producer { id: state.producer, epoch: state.epoch },
        holds: holds.collect(),
    };
    let outbox_settings = OutboxSettings {
        inflight_batches_max: config.store.inflight_batches_max,
        inflight_bytes_max: config.store.inflight_bytes_max.0,
        ..OutboxSettings::default()
    };
    let seed = state.producer as u64 ^ u64::from(state.epoch);
    let mut outbox = Outbox::new(outbox_settings, state, seed);
    // They were checked with the rest of the configuration.
    let rules = config.policy.iter().filter_map(|policy| policy.rule().ok()).collect();
    outbox.set_policies(
        Policies::new(rules),
        config.store.bytes_per_second_max.map(|size| size.0),
        clock.now(),
    );
    let identity = Identity::in_dir(&config.spool.dir.join("identity"));
    Link::new(settings, identity, Arc::clone(hub), Arc::clone(stats), log.clone(), clock, outbox, reader)
}

impl AgentHandle {
    fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), StartError> {
        let thread = std::thread::Builder::new().name(format!("agent-{name}")).stack_size(512 << 10);
        self.threads.push(thread.spawn(work).map_err(StartError::Thread)?);
        Ok(())
    }

    /// The counters now.
    #[must_use]
    pub fn stats(&self) -> Snapshot {
        self.stats.snapshot()
    }

    /// Whether it has ended by itself.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.hub.stopping()
    }

    /// Waits until all that is in the sources now is stored; false when that took longer than `timeout`.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the caller's thread waits, which is what it asked for")]
    pub fn drain(&self, timeout: Duration) -> bool {
        let until = self.clock.now() + timeout;
        let (_, looks) = self.stats.idle();
        self.hub.file_changed(None);
        while self.clock.now() < until && !self.hub.stopping() {
            let (idle, looked) = self.stats.idle();
            if idle && looked > looks && self.stats.is_delivered() {
                return true;
            }
            self.hub.link.notify_one();
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    /// Waits until all is stored, at most so long, and ends. False when something is still in the spool, from
    /// where the next start goes on.
    #[must_use]
    pub fn drain_and_stop(self, timeout: Duration) -> bool {
        let drained = self.drain(timeout);
        self.stop();
        drained
    }

    /// Ends: what was taken is made durable, nothing more is sent.
    pub fn stop(mut self) {
        self.end(false);
    }

    /// Ends as a crash would: whatever is not durable is forgotten.
    pub fn kill(mut self) {
        self.end(true);
    }

    fn end(&mut self, kill: bool) {
        self.hub.stop(kill);
        for thread in self.threads.drain(..) {
            // A thread that panicked has ended, which is what is wanted.
            let _ = thread.join();
        }
    }
}

impl Drop for AgentHandle {
    fn drop(&mut self) {
        self.end(false);
    }
}
