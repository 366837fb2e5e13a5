//! `kinesin tail`: the records of a stream in the order of their shards, parents before children.

use std::collections::{HashMap, HashSet};
use std::io::{self, Write};
use std::time::Duration;

use anyhow::{Context, anyhow};
use base64::Engine as _;
use clap::Args;
use protocol::batch::Batch;
use protocol::frame::Frame;
use protocol::hash::HashKey;
use protocol::kpl;
use protocol::name::StreamName;
use protocol::native::call::{Call, CallErrorCode, StartingPosition, StreamInfo};
use protocol::sequence::{SequenceNumber, ShardId};
use protocol::time::UnixMs;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::StoreArgs;
use super::stream::{shard_id, stream_name};
use crate::client::{Batches, Client, ClientError};

const READ_BYTES: u32 = 1 << 20;
const WAIT_MS: u32 = 10_000;
/// The store answers only so many reads of a connection at a time; more shards take turns.
const READS_AT_ONCE: usize = 48;
const BUSY_PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(super) struct TailArgs {
    /// Which stream.
    #[arg(value_parser = stream_name)]
    stream: StreamName,
    /// Where to start: trim-horizon, latest, at-time=2026-11-20T12:00:00Z, or sequence=NUMBER with one --shard.
    #[arg(long, value_name = "PLACE", default_value = "latest", value_parser = place)]
    from: Place,
    /// Only this shard, by number; may be given more than once. Its children are not followed.
    #[arg(long, value_name = "SHARD", value_parser = shard_id)]
    shard: Vec<ShardId>,
    /// A JSON object a line, with key, sequence number and times; data that is not UTF-8 as data_base64.
    #[arg(long)]
    json: bool,
    /// Print records that producers have aggregated (as the Kinesis Producer Library does) as they are stored, not one by
    /// one.
    #[arg(long)]
    raw: bool,
    /// End after this many records.
    #[arg(long, value_name = "COUNT")]
    limit: Option<u64>,
    /// End when everything that is there has been printed.
    #[arg(long)]
    no_follow: bool,
    #[command(flatten)]
    store: StoreArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    TrimHorizon,
    Latest,
    AtTime(UnixMs),
    Sequence(SequenceNumber),
}

fn place(text: &str) -> Result<Place, String> {
    let bad = || {
        format!("{text:?} is no place: trim-horizon, latest, at-time=2026-11-20T12:00:00Z or sequence=NUMBER")
    };
    match text.split_once('=') {
        None if text == "trim-horizon" => Ok(Place::TrimHorizon),
        None if text == "latest" => Ok(Place::Latest),
        Some(("at-time", time)) => {
            let time: jiff::Timestamp = time.parse().map_err(|_| bad())?;
            Ok(Place::AtTime(UnixMs(u64::try_from(time.as_millisecond()).map_err(|_| bad())?)))
        }
        Some(("sequence", number)) => Ok(Place::Sequence(SequenceNumber(number.parse().map_err(|_| bad())?))),
        _ => Err(bad()),
    }
}

impl Place {
    fn position(self) -> StartingPosition {
        match self {
            Place::TrimHorizon => StartingPosition::TrimHorizon,
            Place::Latest => StartingPosition::Latest,
            Place::AtTime(time) => StartingPosition::AtTime(time),
            Place::Sequence(sequence) => StartingPosition::At(sequence),
        }
    }
}

pub(super) async fn run(args: TailArgs) -> anyhow::Result<()> {
    if matches!(args.from, Place::Sequence(_)) && args.shard.len() != 1 {
        anyhow::bail!("sequence numbers count for one shard: say which with one --shard");
    }
    let client = args.store.connect().await?;
    tokio::select! {
        done = Box::pin(tail(client, &args)) => done,
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

async fn tail(client: Client, args: &TailArgs) -> anyhow::Result<()> {
    let info = client.stream(Call::DescribeStream { name: args.stream.clone() }).await?;
    let (send, mut found) = mpsc::channel(4);
    let mut walk = Walk::new(client, args, send);
    walk.start(&info, true)?;
    let mut printer = Printer::new(args);
    loop {
        tokio::select! {
            biased;
            part = found.recv() => {
                let Some(part) = part else { return Ok(()) };
                if printer.print(&part)? {
                    return Ok(());
                }
            }
            done = walk.tasks.join_next() => match done {
                Some(done) => walk.on_done(done.context("a reader broke")??).await?,
                None => {
                    // What the last readers sent is still to be printed.
                    while let Ok(part) = found.try_recv() {
                        if printer.print(&part)? {
                            return Ok(());
                        }
                    }
                    anyhow::ensure!(!walk.damaged, "not all could be read; `kinesin check` names what is damaged");
                    return Ok(());
                }
            },
        }
    }
}

/// Batches of one shard, and where the wanted records begin.
struct Part {
    shard: ShardId,
    batches: Batches,
    from: SequenceNumber,
}

/// Which shards are being read, and which are read to their end.
struct Walk {
    client: Client,
    name: StreamName,
    only: HashSet<ShardId>,
    from: Place,
    follow: bool,
    send: mpsc::Sender<Part>,
    turns: std::sync::Arc<tokio::sync::Semaphore>,
    started: HashSet<ShardId>,
    ended: HashSet<ShardId>,
    tasks: JoinSet<anyhow::Result<Done>>,
    damaged: bool,
}

/// A reader that came to an end.
struct Done {
    shard: ShardId,
    /// The shard is closed and was read to its end.
    at_end: bool,
    /// Records of it could not be read.
    damaged: bool,
}

impl Walk {
    fn new(client: Client, args: &TailArgs, send: mpsc::Sender<Part>) -> Walk {
        Walk {
            client,
            name: args.stream.clone(),
            only: args.shard.iter().copied().collect(),
            from: args.from,
            follow: !args.no_follow,
            send,
            turns: std::sync::Arc::new(tokio::sync::Semaphore::new(READS_AT_ONCE)),
            started: HashSet::new(),
            ended: HashSet::new(),
            tasks: JoinSet::new(),
            damaged: false,
        }
    }

    /// Starts all shards whose parents were read to the end (or are not there any more).
    fn start(&mut self, info: &StreamInfo, first_time: bool) -> anyhow::Result<()> {
        let known: HashMap<ShardId, bool> = info.shards.iter().map(|s| (s.id, s.closed)).collect();
        if let Some(missing) = self.only.iter().find(|id| !known.contains_key(id)) {
            anyhow::bail!(
                "stream {} has no shard {}; `kinesin stream describe {0}` shows all",
                self.name,
                missing.0
            );
        }
        let latest = first_time && self.from == Place::Latest;
        for shard in &info.shards {
            let wanted = self.only.is_empty() || self.only.contains(&shard.id);
            if latest && shard.closed && wanted {
                // Nothing comes there any more.
                self.started.insert(shard.id);
                self.ended.insert(shard.id);
            }
            let waits = |parent: &ShardId| {
                self.only.is_empty() && known.contains_key(parent) && !self.ended.contains(parent)
            };
            let ready = latest || !shard.parents.iter().any(waits);
            if wanted && ready && self.started.insert(shard.id) {
                let from = match self.from {
                    Place::Latest if !first_time => Place::TrimHorizon,
                    from => from,
                };
                self.spawn(shard.id, from);
            }
        }
        Ok(())
    }

    fn spawn(&mut self, shard: ShardId, from: Place) {
        let reader = Reader {
            client: self.client.clone(),
            name: self.name.clone(),
            shard,
            follow: self.follow,
            send: self.send.clone(),
            turns: self.turns.clone(),
        };
        self.tasks.spawn(reader.run(from.position()));
    }

    async fn on_done(&mut self, Done { shard, at_end, damaged }: Done) -> anyhow::Result<()> {
        self.damaged |= damaged;
        if at_end && self.ended.insert(shard) && self.only.is_empty() {
            let info = self.client.stream(Call::DescribeStream { name: self.name.clone() }).await?;
            self.start(&info, false)?;
        }
        Ok(())
    }
}

struct Reader {
    client: Client,
    name: StreamName,
    shard: ShardId,
    follow: bool,
    send: mpsc::Sender<Part>,
    turns: std::sync::Arc<tokio::sync::Semaphore>,
}

impl Reader {
    async fn run(self, mut from: StartingPosition) -> anyhow::Result<Done> {
        let mut damaged = false;
        loop {
            let batches = self.read(from).await?;
            let head = batches.head;
            let begin = match from {
                StartingPosition::At(sequence) => sequence,
                _ => SequenceNumber(0),
            };
            let empty = batches.frames().is_empty();
            if !empty {
                let part = Part { shard: self.shard, batches, from: begin };
                self.send.send(part).await.map_err(|_| anyhow!("nobody prints any more"))?;
            }
            if head.damaged {
                damaged = true;
                eprintln!(
                    "kinesin: stream {}: {} is damaged from sequence {begin} to before {}: those records can't be read",
                    self.name, self.shard, head.next
                );
            } else if head.at_end || (!self.follow && (empty || head.next >= head.tail)) {
                return Ok(Done { shard: self.shard, at_end: head.at_end, damaged });
            }
            from = StartingPosition::At(head.next);
        }
    }

    async fn read(&self, from: StartingPosition) -> anyhow::Result<Batches> {
        loop {
            let turn = self.turns.acquire().await?;
            // Where others wait for their turn, nobody waits long for records.
            let crowded = self.turns.available_permits() == 0;
            let wait_ms = match (self.follow, crowded) {
                (false, _) => 0,
                (true, true) => 100,
                (true, false) => WAIT_MS,
            };
            let read = self.client.read(&self.name, self.shard, from, READ_BYTES, wait_ms).await;
            drop(turn);
            match read {
                Err(ClientError::Refused(error))
                    if matches!(error.code, CallErrorCode::Busy | CallErrorCode::Limit) =>
                {
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                other => return Ok(other?),
            }
        }
    }
}

struct Printer {
    batch: Batch<'static>,
    line: Vec<u8>,
    stream: StreamName,
    json: bool,
    raw: bool,
    left: u64,
}

/// What is printed: a record, or one within it.
struct Shown<'a> {
    shard: ShardId,
    sequence: SequenceNumber,
    /// Place within an aggregated record.
    subsequence: Option<usize>,
    arrival: UnixMs,
    time: UnixMs,
    partition_key: &'a str,
    explicit_hash_key: Option<HashKey>,
    data: &'a [u8],
}

impl Printer {
    fn new(args: &TailArgs) -> Printer {
        let left = args.limit.unwrap_or(u64::MAX);
        Printer {
            batch: Batch::new(),
            line: Vec::new(),
            stream: args.stream.clone(),
            json: args.json,
            raw: args.raw,
            left,
        }
    }

    /// True when enough was printed.
    fn print(&mut self, part: &Part) -> anyhow::Result<bool> {
        let mut rest = part.batches.frames();
        let mut out = io::stdout().lock();
        while !rest.is_empty() && self.left > 0 {
            let (frame, after) = Frame::parse_first(rest).context("the store sent a damaged batch")?;
            rest = after;
            let wrong = || format!("a batch of shard {} does not open", part.shard.0);
            self.batch.open(&frame.header, frame.payload).with_context(wrong)?;
            for record in self.batch.records() {
                let sequence = frame.header.first_sequence + u64::from(record.index);
                if sequence < part.from || self.left == 0 {
                    continue;
                }
                self.left -= 1;
                let whole = Shown {
                    shard: part.shard,
                    sequence,
                    subsequence: None,
                    arrival: frame.header.arrival,
                    time: record.time,
                    partition_key: record.partition_key,
                    explicit_hash_key: record.explicit_hash_key,
                    data: record.data,
                };
                match kpl::open(record.data).filter(|_| !self.raw) {
                    None => put(&mut self.line, &self.stream, self.json, &whole, &mut out)?,
                    Some(records) => {
                        for (place, sub) in records.iter().enumerate() {
                            let shown = Shown {
                                subsequence: Some(place),
                                partition_key: sub.partition_key,
                                explicit_hash_key: sub.explicit_hash_key,
                                data: sub.data,
                                ..whole
                            };
                            put(&mut self.line, &self.stream, self.json, &shown, &mut out)?;
                        }
                    }
                }
            }
        }
        out.flush()?;
        Ok(self.left == 0)
    }
}

fn put(
    line: &mut Vec<u8>,
    stream: &StreamName,
    json: bool,
    shown: &Shown<'_>,
    out: &mut impl Write,
) -> io::Result<()> {
    line.clear();
    if json {
        put_json(line, stream, shown);
    } else {
        line.extend_from_slice(shown.data);
    }
    line.push(b'\n');
    out.write_all(line)
}

fn put_json(out: &mut Vec<u8>, stream: &StreamName, shown: &Shown<'_>) {
    let mut object = serde_json::json!({
        "stream": stream, "shard": shown.shard.0, "sequence": shown.sequence.0,
        "partition_key": shown.partition_key, "time_ms": shown.time.0, "arrival_ms": shown.arrival.0,
    });
    if let Some(place) = shown.subsequence {
        object["subsequence"] = place.into();
    }
    if let Some(explicit) = shown.explicit_hash_key {
        object["explicit_hash_key"] = explicit.to_string().into();
    }
    match std::str::from_utf8(shown.data) {
        Ok(text) => object["data"] = text.into(),
        Err(_) => {
            let text = base64::engine::general_purpose::STANDARD.encode(shown.data);
            object["data_base64"] = text.into();
        }
    }
    out.extend_from_slice(object.to_string().as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read() {
        assert_eq!(place("latest"), Ok(Place::Latest));
        assert_eq!(place("at-time=1970-01-01T00:00:01Z"), Ok(Place::AtTime(UnixMs(1000))));
        assert_eq!(place("sequence=7"), Ok(Place::Sequence(SequenceNumber(7))));
        for bad in ["", "newest", "at-time=noon", "sequence=x", "latest=1"] {
            assert!(place(bad).is_err(), "{bad}");
        }
    }
}
