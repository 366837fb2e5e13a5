//! `kinesin put`: records from arguments or lines, batched, sent in order, resent until the store has them.

use std::io::{self, BufRead, IsTerminal};
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use protocol::batch::BatchBuilder;
use protocol::compress::{Codec, Compressor};
use protocol::frame::Header;
use protocol::name::StreamName;
use protocol::native::call::{Call, Hello, Producer};
use protocol::native::message::{Ack, Outcome};
use protocol::sequence::ShardId;

use super::stream::stream_name;
use super::{StoreArgs, out};
use crate::client::Client;
use crate::clock::Clock;
use crate::config::show_bytes;

const BATCH_BYTES: usize = 512 * 1024;
const BATCH_RECORDS: usize = 1000;
/// Longest line that is taken from standard input.
const LINE_BYTES_MAX: usize = protocol::limit::RECORD_BYTES_MAX;

#[derive(Debug, Args)]
pub(super) struct PutArgs {
    /// Which stream; made if it is missing and the store allows it.
    #[arg(value_parser = stream_name)]
    stream: StreamName,
    /// A record each. Without any, or with -, one record for each line of standard input.
    #[arg(value_name = "RECORD")]
    records: Vec<String>,
    /// Partition key of all records: those with the same key keep their order. Without it they are spread.
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    #[command(flatten)]
    store: StoreArgs,
}

pub(super) async fn run(args: PutArgs) -> anyhow::Result<()> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).context("no randomness for a producer id")?;
    let producer = Producer { id: u128::from_le_bytes(id).max(1), epoch: 1 };
    let client = concat!("kinesin-put/", env!("CARGO_PKG_VERSION")).to_owned();
    let hello = Hello { client, producer: Some(producer), streams: Vec::new() };
    let client = Client::connect_as(&args.store.target()?, &hello).await?;
    let stream = client.stream(Call::OpenStream { name: args.stream.clone(), video: false }).await?;
    let mut putter = Putter::new(client, stream.name, producer, args.key);
    let from_stdin = args.records.is_empty() || args.records == ["-"];
    if from_stdin {
        if io::stdin().is_terminal() {
            eprintln!("kinesin: a record a line; Ctrl-D ends");
        }
        putter.put_lines().await?;
    } else {
        for data in &args.records {
            putter.put(data.as_bytes()).await?;
        }
    }
    putter.finish().await
}

struct Putter {
    client: Client,
    stream: StreamName,
    producer: Producer,
    key: Option<String>,
    builder: BatchBuilder,
    compressor: Compressor,
    next_sequence: u64,
    records: u64,
    refused: u64,
    bytes: u64,
    clock: Clock,
    bar: indicatif::ProgressBar,
}

impl Putter {
    fn new(client: Client, stream: StreamName, producer: Producer, key: Option<String>) -> Putter {
        Putter {
            client,
            stream,
            producer,
            key,
            builder: BatchBuilder::new(),
            compressor: Compressor::new(Codec::Lz4),
            next_sequence: 0,
            records: 0,
            refused: 0,
            bytes: 0,
            clock: Clock::start(),
            bar: out::progress(None, "{spinner} {msg}"),
        }
    }

    /// Lines may be waited for, so they are read beside the sending; a line that waits alone is sent alone.
    async fn put_lines(&mut self) -> anyhow::Result<()> {
        let (send, mut lines) = tokio::sync::mpsc::channel(BATCH_RECORDS);
        std::thread::spawn(move || {
            let mut input = io::stdin().lock();
            while let Some(line) = read_line(&mut input).transpose() {
                let failed = line.is_err();
                if send.blocking_send(line).is_err() || failed {
                    return;
                }
            }
        });
        while let Some(line) = lines.recv().await {
            self.put(&line.context("can't read standard input")?).await?;
            if lines.is_empty() {
                self.send().await?;
            }
        }
        Ok(())
    }

    async fn put(&mut self, data: &[u8]) -> anyhow::Result<()> {
        if data.len() > LINE_BYTES_MAX {
            anyhow::bail!("a record of {} is more than any stream takes", show_bytes(data.len() as u64));
        }
        let full = self.builder.record_count() >= BATCH_RECORDS
            || self.builder.user_bytes() + data.len() > BATCH_BYTES
            || !self.builder.has_room(data.len());
        if full {
            self.send().await?;
        }
        // Other keys in every run, so that runs of one record are spread too.
        let spread = (self.producer.id as u64).wrapping_add(self.records).to_string();
        let key = self.builder.key(self.key.as_deref().unwrap_or(&spread), None).context("--key")?;
        self.builder.push(key, self.clock.wall(), data);
        self.records += 1;
        self.bytes += data.len() as u64;
        Ok(())
    }

    async fn send(&mut self) -> anyhow::Result<()> {
        if self.builder.is_empty() {
            return Ok(());
        }
        let header = Header {
            stream: self.stream.key(),
            shard: ShardId::UNROUTED,
            lane: 0,
            producer_id: self.producer.id,
            producer_epoch: self.producer.epoch,
            producer_sequence: self.next_sequence,
            ..Header::default()
        };
        let mut frame = Vec::new();
        self.builder.seal(header, &mut self.compressor, &mut frame);
        loop {
            let ack = self.client.append(frame.clone()).await?;
            let Some(wait_ms) = self.settle(&ack)? else { break };
            tokio::time::sleep(Duration::from_millis(u64::from(wait_ms).max(1))).await;
        }
        self.next_sequence += 1;
        self.bar.set_message(format!("{} records, {}", self.records, show_bytes(self.bytes)));
        self.bar.tick();
        Ok(())
    }

    /// `Some` time to wait before the batch is sent again.
    fn settle(&mut self, ack: &Ack) -> anyhow::Result<Option<u32>> {
        match &ack.outcome {
            Outcome::Stored { refused, .. } => {
                for (index, code) in refused {
                    eprintln!("kinesin: record {index} of a batch was not stored: {}", code.text());
                }
                self.refused += refused.len() as u64;
                Ok(None)
            }
            Outcome::Duplicate => Ok(None),
            Outcome::Throttled { retry_after_ms, .. } | Outcome::Busy { retry_after_ms } => {
                Ok(Some(*retry_after_ms))
            }
            Outcome::OutOfSequence { expected } => {
                Err(anyhow!("the store wants batch {expected} of this producer first: try again"))
            }
            Outcome::Refused(code) => Err(anyhow!("the store refused the records: {}", code.text())),
        }
    }

    async fn finish(mut self) -> anyhow::Result<()> {
        self.send().await?;
        self.bar.finish_and_clear();
        if self.refused > 0 {
            anyhow::bail!("{} of {} records were not stored", self.refused, self.records);
        }
        if io::stderr().is_terminal() {
            eprintln!("{} records, {} put into {}", self.records, show_bytes(self.bytes), self.stream);
        }
        Ok(())
    }
}

/// A line without its end; `None` at the end of the input. Never more than a record's bound in memory.
fn read_line(input: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let read = io::Read::take(&mut *input, LINE_BYTES_MAX as u64 + 2).read_until(b'\n', &mut line)?;
    if read == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
    }
    Ok(Some(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reaches `LINE_BYTES_MAX`.
    #[test]
    fn no_more_of_a_line_is_in_memory_than_shows_that_it_is_too_long() {
        let read = |len: usize, end: &str| {
            let text = [vec![b'x'; len], end.as_bytes().to_vec()].concat();
            read_line(&mut text.as_slice()).unwrap().unwrap().len()
        };
        for end in ["", "\n", "\r\n"] {
            assert_eq!(read(LINE_BYTES_MAX, end), LINE_BYTES_MAX);
        }
        assert_eq!(read(LINE_BYTES_MAX + 1, "\n"), LINE_BYTES_MAX + 1);
        assert_eq!(read(LINE_BYTES_MAX + 1000, "\n"), LINE_BYTES_MAX + 2);
    }
}
