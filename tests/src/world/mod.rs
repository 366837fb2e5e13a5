//! One world in virtual time: a store, producers, a network and disks, whose whole history follows from a seed, and
//! checkers that watch it. Pure: no real socket, file, thread or clock; no map whose order escapes.
//!
//! [`scenario`] says what kind of world a seed makes and how it may be broken on purpose; [`node`] is the store,
//! [`producer`] the seam for whoever writes and a model of it, [`agent`] the
//! real one, [`follower`] whoever reads, [`net`] and [`disk`] what lies between;
//! [`check`] holds the promises.

use std::collections::BTreeMap;
use std::rc::Rc;

use ::disk::{AppendFault, Crash, DirName, Disk, SyncFault};
use protocol::backoff::Backoff;
use protocol::name::StreamName;
use protocol::outcome::Ack;
use protocol::rng::Rng;
use protocol::stream::StreamInfo;
use protocol::time::{Mono, UnixMs};
use store::log::ReadError;
use store::shard::sequencer::Now;

pub mod agent;
pub mod check;
pub mod disk;
pub mod follower;
pub mod net;
pub mod node;
pub mod producer;
pub mod record;
pub mod scenario;
pub mod trace;

use agent::RealAgent;
use check::{Checks, Ending, Seen, Violation};
use follower::Follower;
use net::{ConnId, Net, Way};
use node::{Died, Effect, Node};
use producer::{Model, Producer};
use record::RecordId;
use scenario::{ProducerKind, Scenario};
use trace::Trace;

/// When the world begins, by the clock on the wall.
const DAWN_MS: u64 = 1_700_000_000_000;

/// When faults have stopped, everything is delivered within this time, throttles included.
const CALM_MS: u64 = 600_000;

/// A history has at most this many events: more, and it goes in circles.
const EVENTS_MAX: u64 = 400_000;

/// A producer that waits for answers takes a silent connection for dead after this time.
const SILENCE_MS: u64 = 3_000;

/// How a run went.
#[derive(Debug, Clone)]
pub struct Report {
    /// The first broken promise.
    pub violation: Option<Violation>,
    /// One number for the whole history.
    pub hash: u64,
    /// Events in it.
    pub events: u64,
    /// How often the store died in it.
    pub store_crashes: u64,
    /// How often a shard was split, or two were merged.
    pub reshards: u64,
}

/// To the store.
#[derive(Debug)]
enum Up {
    Hello(u32),
    Append(Vec<u8>),
}

/// To a producer.
#[derive(Debug)]
enum Down {
    Welcome(Rc<StreamInfo>),
    Stream(Rc<StreamInfo>),
    Ack(Ack),
}

/// What is going to happen.
#[derive(Debug)]
enum Event {
    Make(usize),
    Pump(usize),
    Connect(usize),
    Up(ConnId, Up),
    Down(ConnId, Down),
    Lost(ConnId),
    Silence(ConnId),
    Sync(u64),
    Tidy(u64),
    Start,
    Kill(u64, Option<Crash>),
    Retain,
    Fault(Fault),
    FullOver,
}

/// What goes wrong, again and again until the calm.
#[derive(Debug, Clone, Copy)]
enum Fault {
    StoreCrash,
    ProducerCrash,
    Reset,
    Cut,
    Reshard,
    Full,
    IoError,
}

struct Place {
    producer: Box<dyn Producer>,
    source: Vec<RecordId>,
    made: BTreeMap<u32, u32>,
    conn: Option<ConnId>,
    backoff: Backoff,
    heard: Mono,
    pump_at: Option<Mono>,
    rng: Rng,
}

/// See the module.
pub struct World {
    scenario: Scenario,
    now: Mono,
    events: BTreeMap<(Mono, u64), Event>,
    next_event: u64,
    /// The number of the event that happens now.
    happening: u64,
    net: Net,
    node: Node,
    life: u64,
    committing: bool,
    follower: Follower,
    places: Vec<Place>,
    checks: Checks,
    trace: Trace,
    effects: Vec<Effect>,
    faults: Rng,
    times: Rng,
    reads: Rng,
    store_crashes: u64,
    reshards: u64,
}

/// Runs the world of a seed to its end.
#[must_use]
pub fn run(scenario: &Scenario, verbose: bool) -> Report {
    let mut world = World::new(scenario, verbose);
    world.run();
    Report {
        violation: world.checks.violation().cloned(),
        hash: world.trace.hash(),
        events: world.trace.events(),
        store_crashes: world.store_crashes,
        reshards: world.reshards,
    }
}

impl World {
    fn new(scenario: &Scenario, verbose: bool) -> World {
        let mut rng = Rng::new(scenario.seed);
        let name = StreamName::new("sim").expect("a stream name of ours fits");
        let dir = DirName::new("log").expect("a folder name of ours fits");
        let net = Net::new(scenario.delay_us, rng.fork());
        let node = Node::new(scenario, name.clone(), dir, rng.next_u64());
        let places = (0..scenario.producers).map(|number| {
            let producer: Box<dyn Producer> = match scenario.kind {
                ProducerKind::Model => Box::new(Model::new(number, name.key(), scenario, rng.fork())),
                ProducerKind::Agent => Box::new(RealAgent::new(number, name.clone(), scenario, rng.fork())),
            };
            Place {
                producer,
                source: Vec::new(),
                made: BTreeMap::new(),
                conn: None,
                backoff: Backoff::new(20, 500, rng.next_u64()),
                heard: Mono::ZERO,
                pump_at: None,
                rng: rng.fork(),
            }
        });
        World {
            places: places.collect(),
            scenario: scenario.clone(),
            now: Mono::ZERO,
            events: BTreeMap::new(),
            next_event: 0,
            happening: 0,
            net,
            node,
            life: 0,
            committing: false,
            follower: Follower::default(),
            checks: Checks::new(scenario),
            trace: Trace::new(verbose),
            effects: Vec::new(),
            faults: rng.fork(),
            times: rng.fork(),
            reads: rng.fork(),
            store_crashes: 0,
            reshards: 0,
        }
    }

    fn clock(&self) -> Now {
        Now { mono: self.now, wall: self.wall() }
    }

    fn wall(&self) -> UnixMs {
        UnixMs(DAWN_MS + self.now.0 / 1000)
    }

    fn at(&mut self, when: Mono, event: Event) {
        self.next_event += 1;
        self.events.insert((when, self.next_event), event);
    }

    /// What happens now happens then instead, still before all that was to happen after it: a connection keeps its order,
    /// however many cuts lie one in another.
    fn again(&mut self, when: Mono, event: Event) {
        self.events.insert((when, self.happening), event);
    }

    fn after_us(&mut self, us: u64, event: Event) {
        self.at(Mono(self.now.0 + us), event);
    }

    fn is_calm(&self) -> bool {
        self.now >= Mono::from_millis(self.scenario.chaos_ms)
    }

    fn note(&mut self, what: &'static str, numbers: [u64; 3], detail: impl FnOnce() -> String) {
        self.trace.note(self.now, what, numbers, detail);
    }

    fn run(&mut self) {
        if self.trace.events() == 0 {
            let scenario = format!("{:?}", self.scenario);
            self.note("scenario", [self.scenario.seed, 0, 0], || scenario);
        }
        self.after_us(0, Event::Start);
        self.after_us(50_000, Event::Retain);
        if self.scenario.full_at_dawn {
            self.node.is_full = true;
            self.after_us(self.scenario.chaos_ms * 50, Event::FullOver);
        }
        for place in 0..self.places.len() {
            self.after_us(0, Event::Make(place));
            self.after_us(0, Event::Connect(place));
        }
        let faults = [
            Fault::StoreCrash,
            Fault::ProducerCrash,
            Fault::Reset,
            Fault::Cut,
            Fault::Reshard,
            Fault::Full,
            Fault::IoError,
        ];
        faults.into_iter().for_each(|fault| self.plan(fault));
        let end = Mono::from_millis(self.scenario.chaos_ms + CALM_MS);
        let drained = loop {
            if self.checks.violation().is_some() {
                return;
            }
            if self.is_calm() && self.is_drained() {
                break true;
            }
            let Some(((when, number), event)) = self.events.pop_first() else { break false };
            if when > end || self.trace.events() > EVENTS_MAX {
                break false;
            }
            self.now = self.now.max(when);
            self.happening = number;
            self.happen(event);
        };
        self.end(drained);
    }

    fn is_drained(&self) -> bool {
        self.node.running.is_some()
            && self.places.iter().all(|place| place.producer.is_drained(&place.source))
    }

    fn end(&mut self, drained: bool) {
        // One more power cut: what was acknowledged was durable.
        if drained {
            self.crash(Crash::DropUnsynced);
            self.start();
        }
        let stuck = format!("after {} ms and {} events", self.now.0 / 1000, self.trace.events());
        let ending = Ending {
            sources: self.places.iter().map(|place| place.source.as_slice()).collect(),
            lost: self.places.iter().map(|place| place.producer.lost_records()).collect(),
            may_miss: self.places.iter().map(|place| place.producer.may_miss_refusals()).collect(),
            drained,
            stuck,
        };
        self.checks.see(&Seen::End(&ending));
        if let Some(violation) = self.checks.violation() {
            let violation = format!("{violation:?}");
            self.note("violation", [0; 3], || violation);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Make(place) => self.make(place),
            Event::Pump(place) => {
                if self.places[place].pump_at == Some(self.now) {
                    self.places[place].pump_at = None;
                }
                self.pump(place);
            }
            Event::Connect(place) => self.connect(place),
            Event::Up(conn, message) => self.arrived(conn, message),
            Event::Down(conn, message) => self.returned(conn, message),
            Event::Lost(conn) => self.lost(conn),
            Event::Silence(conn) => self.silence(conn),
            Event::Sync(life) if life == self.life => self.sync(),
            Event::Tidy(life) if life == self.life => self.tidy(),
            Event::Start => self.start(),
            Event::Kill(life, how) if life == self.life && self.node.running.is_some() => {
                let how = how.unwrap_or(Crash::Process);
                self.crash_and_restart(how);
            }
            Event::Retain => {
                // What is trimmed was read before, so that the checkers know all there ever was.
                self.follow();
                let roll = self.faults.chance(100) && !self.is_calm();
                self.node.retain(roll, self.clock(), &mut self.checks);
                self.kick();
                if !self.is_calm() {
                    self.after_us(100_000, Event::Retain);
                }
            }
            Event::Fault(fault) => {
                if !self.is_calm() {
                    self.fault(fault);
                    self.plan(fault);
                }
            }
            Event::FullOver => self.node.is_full = false,
            Event::Sync(_) | Event::Tidy(_) | Event::Kill(..) => {}
        }
    }

    // ---- producers ----

    fn make(&mut self, at: usize) {
        let (records, keys) = (self.scenario.records, self.scenario.keys);
        let place = &mut self.places[at];
        let burst = place.rng.between(1, 8);
        for _ in 0..burst {
            if place.source.len() as u32 >= records {
                break;
            }
            let key = place.rng.below(u64::from(keys)) as u32;
            let number = place.made.entry(key).or_default();
            place.source.push(RecordId { producer: at as u32, key, number: *number });
            *number += 1;
        }
        let done = place.source.len() as u32 >= records;
        let mean_us = self.scenario.chaos_ms * 1000 * 4 / u64::from(records.max(1));
        let gap = place.rng.below(2 * mean_us + 1);
        if !done && !self.is_calm() {
            self.after_us(gap, Event::Make(at));
        }
        self.pump(at);
    }

    fn pump(&mut self, at: usize) {
        let (now, wall) = (self.now, self.wall());
        let place = &mut self.places[at];
        place.producer.pump(&place.source, now, wall);
        while let Some(frame) = self.places[at].producer.poll_send(now) {
            self.send_up(at, frame);
        }
        let place = &mut self.places[at];
        self.checks.see(&Seen::Spool(place.producer.spool_bytes(), place.producer.inflight()));
        if let Some(oddity) = place.producer.oddity() {
            self.checks.see(&Seen::Problem(oddity));
        }
        if let Some(due) = place.producer.poll_timeout(now) {
            let due = due.max(Mono(now.0 + 100));
            if place.pump_at.is_none_or(|at| due < at || at <= now) {
                place.pump_at = Some(due);
                self.at(due, Event::Pump(at));
            }
        }
    }

    fn send_up(&mut self, at: usize, mut frame: Vec<u8>) {
        let Some(conn) = self.places[at].conn else { return };
        let torn = self.scenario.reset_ms > 0 && !self.is_calm() && self.faults.chance(4);
        if torn {
            // The connection breaks in the middle of it.
            frame.truncate(self.faults.below(frame.len() as u64) as usize);
        }
        if let Some(when) = self.net.arrival(conn, Way::Up, self.now) {
            self.at(when, Event::Up(conn, Up::Append(frame)));
        }
    }

    fn connect(&mut self, at: usize) {
        if self.places[at].conn.is_some() {
            return;
        }
        let conn = self.net.open(at, self.now);
        let epoch = self.places[at].producer.epoch();
        let place = &mut self.places[at];
        place.conn = Some(conn);
        place.heard = self.now;
        self.note("connect", [at as u64, conn.0, u64::from(epoch)], String::new);
        if let Some(when) = self.net.arrival(conn, Way::Up, self.now) {
            self.at(when, Event::Up(conn, Up::Hello(epoch)));
        }
        self.after_us(SILENCE_MS * 1000, Event::Silence(conn));
    }

    fn silence(&mut self, conn: ConnId) {
        let Some(at) = self.net.client_of(conn).filter(|at| self.places[*at].conn == Some(conn)) else {
            return;
        };
        let dead = self.now.since(self.places[at].heard).as_millis() as u64 >= SILENCE_MS;
        if dead {
            // Nothing is on its way, or all of it is lost: a real one pings, which comes to the same.
            self.lost(conn);
        } else {
            self.after_us(SILENCE_MS * 1000, Event::Silence(conn));
        }
    }

    fn lost(&mut self, conn: ConnId) {
        let Some(at) = self.net.client_of(conn) else { return };
        self.net.close_client(conn);
        let place = &mut self.places[at];
        if place.conn != Some(conn) {
            return;
        }
        place.conn = None;
        place.producer.disconnected(self.now);
        let wait = place.backoff.next_wait();
        self.note("lost", [at as u64, conn.0, 0], String::new);
        self.at(self.now + wait, Event::Connect(at));
    }

    fn returned(&mut self, conn: ConnId, message: Down) {
        if let Some(until) = self.net.held(self.now) {
            return self.again(until, Event::Down(conn, message));
        }
        let Some(at) = self.net.client_of(conn).filter(|at| self.places[*at].conn == Some(conn)) else {
            return;
        };
        let now = self.now;
        let place = &mut self.places[at];
        place.heard = now;
        match message {
            Down::Welcome(info) => {
                place.backoff.reset();
                place.producer.connected(&info, now);
            }
            Down::Stream(info) => place.producer.stream_changed(&info, now),
            Down::Ack(ack) => {
                place.producer.ack(&ack, now);
                let number = [at as u64, u64::from(ack.lane), ack.producer_sequence];
                self.note("ack", number, || format!("{:?}", ack.outcome));
            }
        }
        self.pump(at);
    }

    // ---- the store ----

    fn arrived(&mut self, conn: ConnId, message: Up) {
        if let Some(until) = self.net.held(self.now) {
            return self.again(until, Event::Up(conn, message));
        }
        if !self.net.server_open(conn) {
            return;
        }
        if self.node.running.is_none() {
            return self.break_off(conn);
        }
        match message {
            Up::Hello(epoch) => {
                self.node.hello(conn, epoch);
                if let Some(info) = self.node.info() {
                    self.send_down(conn, Down::Welcome(Rc::new(info)));
                }
            }
            Up::Append(bytes) => {
                let now = self.clock();
                let took = self.node.append(conn, &bytes, now, &mut self.checks, &mut self.effects);
                self.note("append", [conn.0, bytes.len() as u64, u64::from(took.is_ok())], || {
                    let header = protocol::frame::Header::parse(&bytes);
                    let what = header.map_or_else(
                        |e| e.to_string(),
                        |h| format!("{} lane {} sequence {}", h.producer_id, h.lane, h.producer_sequence),
                    );
                    format!("{what} {}", took.as_ref().err().map_or("", String::as_str))
                });
                if took.is_err() {
                    self.break_off(conn);
                }
                self.carry_on();
                self.kick();
            }
        }
    }

    /// The store closes a connection.
    fn break_off(&mut self, conn: ConnId) {
        self.net.close_server(conn);
        if let Some(when) = self.net.arrival(conn, Way::Down, self.now) {
            self.at(when, Event::Lost(conn));
        }
    }

    fn send_down(&mut self, conn: ConnId, message: Down) {
        if !self.net.server_open(conn) {
            return;
        }
        if let Some(when) = self.net.arrival(conn, Way::Down, self.now) {
            self.at(when, Event::Down(conn, message));
        }
    }

    /// Sends what the store wants to send.
    fn carry_on(&mut self) {
        for effect in std::mem::take(&mut self.effects) {
            match effect {
                Effect::Answer(conn, ack) => self.send_down(conn, Down::Ack(ack)),
                Effect::StreamChanged => {
                    let Some(info) = self.node.info().map(Rc::new) else { continue };
                    for conn in self.net.at_server() {
                        self.send_down(conn, Down::Stream(Rc::clone(&info)));
                    }
                }
            }
        }
    }

    fn kick(&mut self) {
        if self.committing {
            return;
        }
        let now = self.clock();
        let began = self.node.begin_commit(now, &mut self.checks, &mut self.effects);
        match began {
            Ok(true) => {
                self.committing = true;
                let (least, more) = self.scenario.commit_us;
                let took = least + self.times.below(more + 1);
                self.after_us(took, Event::Sync(self.life));
            }
            Ok(false) => {}
            Err(died) => return self.died(&died),
        }
        self.carry_on();
    }

    fn sync(&mut self) {
        let done = self.node.sync_commit(&mut self.checks, &mut self.effects);
        self.note("sync", [self.life, u64::from(done.is_ok()), 0], String::new);
        match done {
            Ok(()) => {
                let took = self.times.below(self.scenario.commit_us.0 + 1);
                self.after_us(took, Event::Tidy(self.life));
            }
            Err(died) => return self.died(&died),
        }
        self.carry_on();
        if self.reads.chance(700) {
            self.follow();
        }
    }

    fn tidy(&mut self) {
        if let Err(died) = self.node.end_commit() {
            return self.died(&died);
        }
        self.committing = false;
        if self.reads.chance(300) {
            self.follow();
        }
        self.kick();
    }

    fn follow(&mut self) {
        let Some(running) = &self.node.running else { return };
        let (map, reader) = (&running.map, &*running.reader);
        let read = self.follower.poll(map, reader, &mut self.reads, &mut self.checks);
        self.check_read(read);
    }

    /// Looks at everything.
    fn audit(&mut self) {
        let Some(running) = &self.node.running else { return };
        let read = self.follower.audit(&running.map, &*running.reader, &mut self.checks);
        self.check_read(read);
    }

    /// A machine that has stopped can't be read; one that runs can.
    fn check_read(&mut self, read: Result<(), ReadError>) {
        if let Err(error) = read
            && self.node.disk.list(&DirName::root()).is_ok()
        {
            self.checks.see(&Seen::Problem(&error.to_string()));
        }
    }

    fn start(&mut self) {
        if self.node.running.is_some() {
            return;
        }
        if !self.is_calm() && self.faults.chance(150) && self.scenario.store_crash_ms > 0 {
            // It may die while it recovers, too.
            self.node.disk.crash_after_ops(self.faults.below(8));
        }
        let now = self.clock();
        let started = self.node.start(now, &mut self.checks);
        self.note("start", [self.life, u64::from(started.is_ok()), 0], String::new);
        match started {
            Err(died) => self.died(&died),
            Ok(()) => {
                self.follow();
                self.audit();
            }
        }
    }

    fn died(&mut self, died: &Died) {
        let why = died.0.clone();
        self.note("died", [self.life, 0, 0], || why);
        if self.checks.violation().is_some() {
            return;
        }
        // A process that ends by itself leaves the page cache; but what ended it may have been the machine's end.
        let how = if self.faults.chance(500) { Crash::Process } else { self.any_power_cut() };
        self.crash_and_restart(how);
    }

    fn any_power_cut(&mut self) -> Crash {
        match self.faults.below(10) {
            0 => Crash::DropUnsynced,
            1 => Crash::KeepAll,
            _ => Crash::Seeded(self.faults.next_u64()),
        }
    }

    fn crash(&mut self, how: Crash) {
        self.store_crashes += 1;
        self.node.die(how);
        self.life += 1;
        self.committing = false;
        self.effects.clear();
        self.note("crash", [self.life, 0, 0], || format!("{how:?}"));
        for conn in self.net.at_server() {
            // Sometimes nobody tells the other end.
            if self.faults.chance(700) {
                self.break_off(conn);
            } else {
                self.net.close_server(conn);
            }
        }
    }

    fn crash_and_restart(&mut self, how: Crash) {
        self.crash(how);
        let down = self.faults.between(1_000, 200_000);
        self.after_us(down, Event::Start);
    }

    // ---- faults ----

    fn plan(&mut self, fault: Fault) {
        let scenario = &self.scenario;
        let mean_ms = match fault {
            Fault::StoreCrash => scenario.store_crash_ms,
            Fault::ProducerCrash => scenario.producer_crash_ms,
            Fault::Reset => scenario.reset_ms,
            Fault::Cut => scenario.cut_ms,
            Fault::Reshard => scenario.reshard_ms,
            Fault::Full => scenario.full_ms,
            Fault::IoError => scenario.io_error_ms,
        };
        if mean_ms > 0 {
            let wait = self.faults.below(2 * mean_ms * 1000);
            self.after_us(wait, Event::Fault(fault));
        }
    }

    fn fault(&mut self, fault: Fault) {
        match fault {
            Fault::StoreCrash if self.node.running.is_some() => {
                let how = if self.faults.chance(300) { Crash::Process } else { self.any_power_cut() };
                if self.faults.chance(500) {
                    // In the middle of whatever the disk is told next.
                    self.node.disk.crash_after_ops(self.faults.below(6));
                    self.after_us(60_000, Event::Kill(self.life, Some(how)));
                } else {
                    self.crash_and_restart(how);
                }
            }
            Fault::StoreCrash => {}
            Fault::ProducerCrash => {
                let at = self.faults.below(self.places.len() as u64) as usize;
                let chance = self.faults.next_u64();
                let now = self.now;
                let place = &mut self.places[at];
                place.producer.crash(chance, now);
                self.note("restart", [at as u64, 0, 0], String::new);
                self.checks.see(&Seen::Restarted);
                if let Some(conn) = self.places[at].conn.take() {
                    self.net.close_client(conn);
                }
                let wait = self.faults.between(1_000, 100_000);
                self.after_us(wait, Event::Connect(at));
                self.pump(at);
            }
            Fault::Reset => {
                if let Some(conn) = self.net.any() {
                    self.note("reset", [conn.0, 0, 0], String::new);
                    self.break_off(conn);
                }
            }
            Fault::Cut => {
                let long = if self.faults.chance(200) { 6_000_000 } else { 300_000 };
                let until = Mono(self.now.0 + self.faults.below(long));
                self.note("cut", [until.0, 0, 0], String::new);
                self.net.cut(until);
            }
            Fault::Reshard => {
                let now = self.clock();
                if let Some(done) = self.node.reshard(&mut self.faults, now) {
                    self.reshards += 1;
                    self.note("reshard", [self.life, 0, 0], || done);
                    self.kick();
                }
            }
            Fault::Full => {
                self.node.is_full = true;
                self.note("full", [0; 3], String::new);
                let wait = self.faults.below(100_000);
                self.after_us(wait, Event::FullOver);
            }
            Fault::IoError => {
                let kind = self.faults.below(4);
                self.note("io error", [kind, 0, 0], String::new);
                let nth = self.faults.between(1, 3);
                match kind {
                    0 => self.node.disk.fail_sync(nth, SyncFault::Kept),
                    1 => self.node.disk.fail_sync(nth, SyncFault::Lost),
                    2 => self.node.disk.fail_append(nth, AppendFault::Nothing),
                    _ => self.node.disk.fail_append(nth, AppendFault::Part),
                }
            }
        }
    }
}
