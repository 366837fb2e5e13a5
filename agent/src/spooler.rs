//! The spool's thread: appends commits, makes them durable together, tells who waits for that, and keeps the
//! spool within its bounds. What a full spool does is decided by its declared policy.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use protocol::time::Mono;

use crate::clock::{Clock, unix_ms};
use crate::config::Overflow;
use crate::hub::{Commit, Hub};
use crate::log::Log;
use crate::loss::LOSS_STREAM;
use crate::spool::{DeliveredUpdate, Spool, SpoolError};
use crate::status::Stats;

/// Losses are told this often.
const TELL_LOSSES_MS: u64 = 1000;

/// Whether a commit can be taken.
enum Room {
    Yes,
    /// By policy, its batches are dropped.
    Drop,
    /// The agent ends first.
    Never,
}

/// See the module.
pub(crate) struct Spooler {
    pub(crate) spool: Spool,
    pub(crate) overflow: Overflow,
    pub(crate) agent: String,
    pub(crate) hub: Arc<Hub>,
    pub(crate) stats: Arc<Stats>,
    pub(crate) log: Log,
    pub(crate) clock: Clock,
}

impl Spooler {
    /// Works until the pipeline has ended and all it handed over is durable.
    pub(crate) fn run(mut self) {
        if let Err(error) = self.work() {
            self.stats.set_fatal(&error.to_string());
            self.log.error("spool", &format!("{error}; the agent ends, nothing that was taken is forgotten"));
            self.hub.close_spool();
            self.hub.stop(true);
        }
        self.hub.close_spool();
    }

    fn work(&mut self) -> Result<(), SpoolError> {
        let mut told_at = Mono::ZERO;
        self.stats.set_spool(&self.spool);
        loop {
            let (commits, delivered) = self.hub.spool_work(Duration::from_millis(500), true);
            if self.hub.killed() {
                return Ok(());
            }
            self.delivered(delivered)?;
            let ending = self.hub.spool_is_closed();
            let any = !commits.is_empty();
            if !self.take(commits)? {
                return Ok(());
            }
            let now = self.clock.now();
            if now >= told_at.plus_millis(TELL_LOSSES_MS) || ending {
                told_at = now;
                self.tell_losses()?;
            }
            if ending && !any {
                // The link may have one more thing to say.
                let (_, delivered) = self.hub.spool_work(Duration::ZERO, false);
                self.delivered(delivered)?;
                return self.spool.sync();
            }
        }
    }

    fn delivered(&mut self, update: Option<DeliveredUpdate>) -> Result<(), SpoolError> {
        if let Some(update) = update {
            self.spool.delivered(&update)?;
            self.stats.set_spool(&self.spool);
        }
        Ok(())
    }

    fn tell_losses(&mut self) -> Result<(), SpoolError> {
        if self.spool.tell_losses(&self.agent, unix_ms(), &mut Vec::new())? {
            self.spool.sync()?;
            self.stats.add_stream(LOSS_STREAM);
            self.stats.set_spool(&self.spool);
            self.hub.link.notify_one();
        }
        Ok(())
    }

    /// Appends all, then syncs once; false when the agent ends while the spool is full.
    fn take(&mut self, commits: VecDeque<Commit>) -> Result<bool, SpoolError> {
        let mut appended = Vec::new();
        for mut commit in commits {
            let room = self.make_room(&commit, &mut appended)?;
            let update = std::mem::take(&mut commit.update);
            match room {
                Room::Never => return Ok(false),
                Room::Drop => self.spool.drop_newest(&commit.sealed.frames, update)?,
                Room::Yes => {
                    self.stats.note_commit(&commit.sealed);
                    self.spool.append(&mut commit.sealed.frames, update, &mut Vec::new())?;
                }
            }
            appended.push(commit);
        }
        self.make_durable(&mut appended)?;
        Ok(true)
    }

    fn make_durable(&mut self, appended: &mut Vec<Commit>) -> Result<(), SpoolError> {
        if appended.is_empty() {
            return Ok(());
        }
        self.spool.sync()?;
        self.stats.set_spool(&self.spool);
        for commit in appended.drain(..) {
            for (source, number) in commit.taken {
                self.hub.durable_messages[source].fetch_max(number, Ordering::AcqRel);
            }
            self.stats.add_commit();
            self.hub.give_back(commit.sealed.frames);
        }
        self.hub.link.notify_one();
        self.hub.acks.notify_one();
        Ok(())
    }

    /// Room for a commit, or what the policy says instead. False when the agent ends before there is any.
    fn make_room(&mut self, commit: &Commit, appended: &mut Vec<Commit>) -> Result<Room, SpoolError> {
        if self.spool.has_room_for(&commit.sealed.frames, &commit.update)? {
            return Ok(Room::Yes);
        }
        self.make_durable(appended)?;
        let policy = match self.overflow {
            Overflow::Block => "sources wait",
            Overflow::DropOldest => "the oldest batches are dropped",
            Overflow::DropNewest => "new batches are dropped",
        };
        self.log.warn("full", &format!("the spool is full ({} bytes): {policy}", self.spool.bytes()));
        let mut room = false;
        while !room {
            // What the store has by now is not lost.
            let (_, delivered) = self.hub.spool_work(Duration::ZERO, false);
            self.delivered(delivered)?;
            match self.overflow {
                // What is on its way may be stored: nothing is given up before the store has answered.
                Overflow::DropOldest
                    if self.hub.hold_below(self.spool.oldest_end()) && self.spool.drop_oldest()? => {}
                Overflow::DropNewest => return Ok(Room::Drop),
                Overflow::Block | Overflow::DropOldest => {
                    self.stats.set_blocked(true);
                    let (_, delivered) = self.hub.spool_work(Duration::from_millis(200), false);
                    self.delivered(delivered)?;
                    if self.hub.stopping() {
                        self.hub.hold_below(0);
                        return Ok(Room::Never);
                    }
                }
            }
            room = self.spool.has_room_for(&commit.sealed.frames, &commit.update)?;
            self.stats.set_spool(&self.spool);
        }
        self.hub.hold_below(0);
        self.hub.link.notify_one();
        self.stats.set_blocked(false);
        Ok(Room::Yes)
    }
}
