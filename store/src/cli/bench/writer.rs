//! One writer of the load generator: a connection that keeps a number of batches under way. Batches are made
//! once, before the clock runs; only their headers change.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use protocol::batch::BatchBuilder;
use protocol::compress::{Codec, Compressor};
use protocol::frame::{Header, patch_header};
use protocol::name::StreamName;
use protocol::native::call::{Hello, Producer};
use protocol::native::message::{Ack, Outcome, Type};
use protocol::rng::Rng;
use protocol::sequence::ShardId;
use protocol::time::{Mono, UnixMs};

use crate::client::{Link, Target};
use crate::clock::Clock;

/// Different batches of a writer, each with a partition key of its own, as long as they are small.
const VARIANTS: u64 = 16;
/// Larger batches of a writer are the same one again and again.
const VARIANTS_BYTES_MAX: u64 = 1 << 20;
/// Latencies from a microsecond to a minute, three digits.
const LATENCY_MAX_US: u64 = 60_000_000;

/// What a writer does.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) stream: StreamName,
    pub(super) index: u32,
    pub(super) batch_records: u32,
    pub(super) record_bytes: usize,
    pub(super) in_flight: usize,
    pub(super) codec: Codec,
}

/// What writers saw.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) records: u64,
    pub(super) retried: u64,
    pub(super) latency: Histogram<u64>,
}

impl Tally {
    pub(super) fn new() -> Tally {
        // The bounds are constants that the histogram takes; the other arm can't be reached.
        let latency = Histogram::new_with_bounds(1, LATENCY_MAX_US, 3).unwrap_or_else(|_| unreachable!());
        Tally { records: 0, retried: 0, latency }
    }

    pub(super) fn add(&mut self, other: &Tally) {
        self.records += other.records;
        self.retried += other.retried;
        // Both have the same bounds.
        let _ = self.latency.add(&other.latency);
    }
}

/// A batch under way.
struct Flying {
    sequence: u64,
    variant: usize,
    sent: Mono,
}

pub(super) struct Writer {
    link: Link,
    clock: Clock,
    in_flight: usize,
    records: u64,
    variants: Vec<(Header, Vec<u8>)>,
    next: u64,
    flying: VecDeque<Flying>,
    tally: Tally,
}

impl Writer {
    pub(super) async fn connect(target: &Target, plan: Plan, clock: Clock) -> anyhow::Result<Writer> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).context("no randomness for a producer id")?;
        let producer = Producer { id: u128::from_le_bytes(id).max(1), epoch: 1 };
        let client = concat!("kinesin-bench/", env!("CARGO_PKG_VERSION")).to_owned();
        let link =
            Link::connect(target, &Hello { client, producer: Some(producer), streams: Vec::new() }).await?;
        let most = link.welcome().inflight_batches_max.max(1) as usize;
        Ok(Writer {
            link,
            clock,
            in_flight: plan.in_flight.min(most),
            records: u64::from(plan.batch_records),
            variants: variants(&plan, producer, clock.wall()),
            next: 0,
            flying: VecDeque::new(),
            tally: Tally::new(),
        })
    }

    /// Until the time is over and everything is answered.
    pub(super) async fn run(mut self, until: Mono) -> anyhow::Result<Tally> {
        loop {
            let over = self.clock.mono() >= until;
            while !over && self.flying.len() < self.in_flight {
                let sequence = self.next;
                self.next += 1;
                let variant = (sequence % self.variants.len() as u64) as usize;
                self.send(sequence, variant);
            }
            if self.flying.is_empty() {
                return Ok(self.tally);
            }
            self.link.flush().await?;
            let received = self.link.next().await?;
            let mut wait = self.on_message(&received)?;
            while let Some(received) = self.link.try_next()? {
                wait = wait.max(self.on_message(&received)?);
            }
            if let Some(wait) = wait {
                self.resend(wait).await?;
            }
        }
    }

    fn send(&mut self, sequence: u64, variant: usize) {
        let (header, frame) = &mut self.variants[variant];
        header.producer_sequence = sequence;
        patch_header(frame, header);
        self.link.put_append(frame);
        self.flying.push_back(Flying { sequence, variant, sent: self.clock.mono() });
    }

    /// `Some` when the store sent a batch back: how long to wait.
    fn on_message(&mut self, received: &crate::client::Received) -> anyhow::Result<Option<Duration>> {
        if received.kind != Type::Ack {
            return Ok(None);
        }
        let ack = Ack::parse(&received.body)?;
        match ack.outcome {
            Outcome::Stored { refused, .. } if refused.is_empty() => self.landed(ack.producer_sequence),
            Outcome::Duplicate => self.landed(ack.producer_sequence),
            Outcome::Throttled { retry_after_ms, .. } | Outcome::Busy { retry_after_ms } => {
                return Ok(Some(Duration::from_millis(u64::from(retry_after_ms.max(1)))));
            }
            Outcome::OutOfSequence { .. } => return Ok(Some(Duration::ZERO)),
            Outcome::Stored { refused, .. } => {
                bail!("the store refused {} records of a batch", refused.len())
            }
            Outcome::Refused(code) => bail!("the store refused a batch: {}", code.text()),
        }
        Ok(None)
    }

    fn landed(&mut self, sequence: u64) {
        let Some(index) = self.flying.iter().position(|batch| batch.sequence == sequence) else { return };
        let Some(batch) = self.flying.remove(index) else { return };
        let micros = self.clock.mono().since(batch.sent).as_micros();
        self.tally.latency.saturating_record(u64::try_from(micros).unwrap_or(LATENCY_MAX_US).max(1));
        self.tally.records += self.records;
    }

    /// Sends everything that is under way again, in order, after all of it was answered once.
    async fn resend(&mut self, wait: Duration) -> anyhow::Result<()> {
        tokio::time::sleep(wait).await;
        let again: Vec<Flying> = self.flying.drain(..).collect();
        self.tally.retried += again.len() as u64;
        for batch in again {
            self.send(batch.sequence, batch.variant);
            // Its latency counts from the first time.
            if let Some(last) = self.flying.back_mut() {
                last.sent = batch.sent;
            }
        }
        Ok(())
    }
}

fn variants(plan: &Plan, producer: Producer, now: UnixMs) -> Vec<(Header, Vec<u8>)> {
    let bytes = plan.record_bytes as u64 * u64::from(plan.batch_records);
    let count = (VARIANTS_BYTES_MAX / bytes.max(1)).clamp(1, VARIANTS);
    (0..count).map(|variant| one(plan, producer, now, variant)).collect()
}

fn one(plan: &Plan, producer: Producer, now: UnixMs, variant: u64) -> (Header, Vec<u8>) {
    let mut rng = Rng::new(u64::from(plan.index) << 32 | variant);
    let mut builder = BatchBuilder::new();
    let text = format!("writer-{}-{variant}", plan.index);
    for _ in 0..plan.batch_records {
        // Half of it can be compressed.
        let data: Vec<u8> = (0..plan.record_bytes)
            .map(|i| if i / 32 % 2 == 0 { rng.next_u64() as u8 } else { b'.' })
            .collect();
        if let Ok(key) = builder.key(&text, None) {
            builder.push(key, now, &data);
        }
    }
    let header = Header {
        stream: plan.stream.key(),
        shard: ShardId::UNROUTED,
        producer_id: producer.id,
        producer_epoch: producer.epoch,
        ..Header::default()
    };
    let mut frame = Vec::new();
    let header = builder.seal(header, &mut Compressor::new(plan.codec), &mut frame);
    (header, frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reaches `VARIANTS_BYTES_MAX`.
    #[test]
    fn batches_of_a_writer_differ_as_long_as_they_are_small() {
        let count = |bytes: u64| {
            let plan = Plan {
                stream: StreamName::new("a").unwrap(),
                index: 0,
                batch_records: 1,
                record_bytes: bytes as usize,
                in_flight: 1,
                codec: Codec::None,
            };
            variants(&plan, Producer { id: 1, epoch: 1 }, UnixMs(1)).len() as u64
        };
        assert_eq!(count(1), VARIANTS);
        assert_eq!(count(VARIANTS_BYTES_MAX / 2), 2);
        assert_eq!((count(VARIANTS_BYTES_MAX / 2 + 1), count(VARIANTS_BYTES_MAX + 1)), (1, 1));
    }

    /// Reaches `LATENCY_MAX_US`.
    #[test]
    fn a_latency_of_more_than_a_minute_counts_as_one() {
        let mut tally = Tally::new();
        assert!(tally.latency.record(LATENCY_MAX_US).is_ok());
        tally.latency.saturating_record(LATENCY_MAX_US * 1000);
        assert_eq!(tally.latency.len(), 2);
        assert!(tally.latency.max() < LATENCY_MAX_US * 2);
    }
}
