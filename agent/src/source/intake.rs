//! The pipeline's side of sources that hand on messages: where the messages of one source go, and what the spool is to
//! remember with them. Never: where messages come from.

use std::collections::BTreeMap;

use crate::hub::{Fragment, Message, Payload};
use crate::loss::Loss;
use crate::partition::{Origin, Template};
use crate::pipeline::Ctx;
use crate::spool::CursorUpdate;

/// How messages become records.
#[derive(Debug)]
pub struct Route {
    /// Template of the stream's name.
    pub stream: Template,
    /// Template of the partition key.
    pub partition_key: Template,
    /// Where that has no value.
    pub default_key: String,
    /// Longer ones are lost, and told.
    pub bytes_max: usize,
}

/// See the module.
#[derive(Debug)]
pub struct Intake {
    source: usize,
    group: usize,
    id: String,
    /// None where all that comes are fragments of video.
    route: Option<Route>,
    key: String,
    taken: u64,
    told: u64,
    hashes: Vec<u64>,
    forget: bool,
    losses: Vec<Loss>,
    cursors: BTreeMap<String, Option<String>>,
}

impl Intake {
    /// For one source: its place among the message sources, its group in the batcher, its name in the spool.
    #[must_use]
    pub fn new(source: usize, group: usize, id: String, route: Option<Route>) -> Intake {
        Intake {
            source,
            group,
            id,
            route,
            key: String::new(),
            taken: 0,
            told: 0,
            hashes: Vec::new(),
            forget: false,
            losses: Vec::new(),
            cursors: BTreeMap::new(),
        }
    }

    /// Its group in the batcher.
    #[must_use]
    pub fn group(&self) -> usize {
        self.group
    }

    /// Hands on a message.
    pub(crate) fn take(&mut self, message: Message, ctx: &mut Ctx<'_>) {
        self.taken = message.number;
        if message.forget {
            self.forget = true;
            self.hashes.clear();
        }
        if message.hash != 0 {
            self.hashes.push(message.hash);
        }
        match message.payload {
            Payload::Record(data) => self.take_record(message.topic, &data, ctx),
            Payload::Fragment(fragment) => self.take_fragment(*fragment, ctx),
        }
    }

    fn take_fragment(&mut self, fragment: Fragment, ctx: &mut Ctx<'_>) {
        self.cursors.extend(fragment.cursor);
        if !fragment.frame.is_empty() {
            ctx.push_fragment(self.group, &fragment.stream, &fragment.frame);
        }
    }

    fn take_record(&mut self, topic: String, data: &[u8], ctx: &mut Ctx<'_>) {
        let Some(route) = &self.route else { return };
        if data.len() > route.bytes_max {
            self.losses.push(Loss::new(topic, "message_too_long", 1, data.len() as u64));
            return;
        }
        let origin = Origin { host: ctx.host, agent: ctx.agent, file: "", topic: &topic };
        let stream = route.stream.stream_name(&origin, data, &mut self.key);
        let whole = route.partition_key.partition_key(&origin, data, &route.default_key, &mut self.key);
        if !whole {
            ctx.stats.add_keys_missing();
        }
        ctx.push(self.group, &stream, &self.key, data);
    }

    /// What goes into the spool with the messages since the last time, and their number.
    pub fn take_update(&mut self, update: &mut CursorUpdate) -> Option<(usize, u64)> {
        if std::mem::take(&mut self.forget) {
            update.forget_recent.push(self.id.clone());
        }
        if !self.hashes.is_empty() {
            update.recent.insert(self.id.clone(), std::mem::take(&mut self.hashes));
        }
        update.losses.append(&mut self.losses);
        update.cursors.append(&mut self.cursors);
        self.told = self.taken;
        (self.taken > 0).then_some((self.source, self.taken))
    }

    /// Whether there is something that is not in the spool.
    #[must_use]
    pub fn has_update(&self) -> bool {
        self.told != self.taken
    }
}
