//! The simulated network: connections that keep their order and lose it among each other, that are delayed, reset
//! with whatever is on the way, and cut off for a while. Pure: it only says when what arrives.

use std::collections::BTreeMap;

use protocol::rng::Rng;
use protocol::time::Mono;

/// One connection of one producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnId(pub u64);

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the store.
    Up,
    /// To the producer.
    Down,
}

#[derive(Debug)]
struct Conn {
    producer: usize,
    base_us: u64,
    up_clear: Mono,
    down_clear: Mono,
    /// Whether each end still believes in it.
    client: bool,
    server: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Net {
    conns: BTreeMap<ConnId, Conn>,
    next: u64,
    cut_until: Mono,
    delay_us: (u64, u64),
    rng: Rng,
}

impl Net {
    /// Without connections.
    #[must_use]
    pub fn new(delay_us: (u64, u64), rng: Rng) -> Net {
        Net { conns: BTreeMap::new(), next: 1, cut_until: Mono::ZERO, delay_us, rng }
    }

    /// A connection for a producer.
    pub fn open(&mut self, producer: usize, now: Mono) -> ConnId {
        let id = ConnId(self.next);
        self.next += 1;
        let base_us = self.delay_us.0 + self.rng.below(self.delay_us.1 / 2 + 1);
        let conn = Conn { producer, base_us, up_clear: now, down_clear: now, client: true, server: true };
        self.conns.insert(id, conn);
        id
    }

    /// When something sent now arrives; after all that was sent before it.
    pub fn arrival(&mut self, id: ConnId, way: Way, now: Mono) -> Option<Mono> {
        let jitter = self.rng.below(self.delay_us.1 / 2 + 1);
        let conn = self.conns.get_mut(&id)?;
        let mut at = Mono(now.0 + conn.base_us + jitter);
        if now < self.cut_until {
            at = at.max(Mono(self.cut_until.0 + 1));
        }
        let clear = if way == Way::Up { &mut conn.up_clear } else { &mut conn.down_clear };
        *clear = (*clear).max(at);
        Some(*clear)
    }

    /// Nothing arrives before this time.
    pub fn cut(&mut self, until: Mono) {
        self.cut_until = self.cut_until.max(until);
    }

    /// When what arrives now really arrives; `None`: now.
    #[must_use]
    pub fn held(&self, now: Mono) -> Option<Mono> {
        (now < self.cut_until).then_some(self.cut_until)
    }

    /// Whether the store's end is open.
    #[must_use]
    pub fn server_open(&self, id: ConnId) -> bool {
        self.conns.get(&id).is_some_and(|conn| conn.server)
    }

    /// The producer at the other end, where it still believes in the connection.
    #[must_use]
    pub fn client_of(&self, id: ConnId) -> Option<usize> {
        self.conns.get(&id).filter(|conn| conn.client).map(|conn| conn.producer)
    }

    /// The store's end is gone; what is on the way up is lost.
    pub fn close_server(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.server = false;
        }
        self.forget(id);
    }

    /// The producer's end is gone; what is on the way down is lost.
    pub fn close_client(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.client = false;
        }
        self.forget(id);
    }

    fn forget(&mut self, id: ConnId) {
        if self.conns.get(&id).is_some_and(|conn| !conn.client && !conn.server) {
            self.conns.remove(&id);
        }
    }

    /// Connections that are open at the store.
    #[must_use]
    pub fn at_server(&self) -> Vec<ConnId> {
        self.conns.iter().filter(|(_, conn)| conn.server).map(|(id, _)| *id).collect()
    }

    /// Any connection, by chance.
    pub fn any(&mut self) -> Option<ConnId> {
        let place = self.rng.below(self.conns.len() as u64) as usize;
        self.conns.keys().nth(place).copied()
    }
}
