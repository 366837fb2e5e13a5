//! The MQTT source: messages of a broker, acknowledged once the spool has them.

use crate::hub::Message;
use crate::partition::{Origin, Template};
use crate::pipeline::Ctx;
use crate::spool::CursorUpdate;

/// The pipeline's side: where messages of one source go.
pub struct Intake {
    source: usize,
    group: usize,
    id: String,
    stream: Template,
    partition_key: Template,
    default_key: String,
    bytes_max: usize,
    key: String,
    taken: u64,
    told: u64,
    hashes: Vec<u64>,
    forget: bool,
    losses: Vec<crate::loss::Loss>,
}

impl Intake {
    /// For one source.
    #[must_use]
    pub fn new(
        source: usize,
        group: usize,
        id: String,
        templates: (Template, Template),
        default_key: String,
        bytes_max: usize,
    ) -> Intake {
        let (stream, partition_key) = templates;
        Intake {
            source,
            group,
            id,
            stream,
            partition_key,
            default_key,
            bytes_max,
            key: String::new(),
            taken: 0,
            told: 0,
            hashes: Vec::new(),
            forget: false,
            losses: Vec::new(),
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
        if message.payload.len() > self.bytes_max {
            let bytes = message.payload.len() as u64;
            self.losses.push(crate::loss::Loss::new(message.topic, "message_too_long", 1, bytes));
            return;
        }
        let origin = Origin { host: ctx.host, agent: ctx.agent, file: "", topic: &message.topic };
        let stream = self.stream.stream_name(&origin, &message.payload, &mut self.key);
        let whole =
            self.partition_key.partition_key(&origin, &message.payload, &self.default_key, &mut self.key);
        if !whole {
            ctx.stats.add_keys_missing();
        }
        ctx.push(self.group, &stream, &self.key, &message.payload);
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
        self.told = self.taken;
        (self.taken > 0).then_some((self.source, self.taken))
    }

    /// Whether there is something that is not in the spool.
    #[must_use]
    pub fn has_update(&self) -> bool {
        self.told != self.taken
    }
}
