//! `kinesin stream`: makes, shows, changes and removes streams.

use std::io::{BufRead, IsTerminal, Write};

use anyhow::Context;
use clap::{Args, Subcommand};
use protocol::hash::HashKey;
use protocol::name::StreamName;
use protocol::native::call::{Call, Reply, ShardInfo, StreamConfig, StreamInfo};
use protocol::sequence::ShardId;

use super::{StoreArgs, marks, out, unexpected};
use protocol::stream::Scaling;

use crate::client::Client;
use crate::config::{Bytes, FsyncWhen, Rate, Span, show_bytes, show_rate, show_span};
use crate::scale::SHARDS_MIN;

#[derive(Debug, Subcommand)]
pub(super) enum StreamCommand {
    /// Makes a stream.
    Create(CreateArgs),
    /// Shows all streams.
    List(ListArgs),
    /// Shows one stream with its shards.
    Describe(NameArgs),
    /// Changes how a stream is set; what is not said stays as it is.
    Update(UpdateArgs),
    /// Divides a shard in two.
    Split(SplitArgs),
    /// Makes one shard of two neighbours.
    Merge(MergeArgs),
    /// Gives a stream another number of shards, of equal shares.
    Reshard(marks::ReshardArgs),
    /// Shows, sets and takes away the tags of a stream.
    Tag(marks::TagArgs),
    /// Shows, sets and takes away the resource policy of a stream.
    Policy(marks::PolicyArgs),
    /// Says by which key a stream is encrypted, for clients that ask.
    Encrypt(marks::EncryptArgs),
    /// Shows and chooses the metrics of each shard.
    Monitor(marks::MonitorArgs),
    /// Removes a stream with all its records.
    Delete(DeleteArgs),
}

#[derive(Debug, Args)]
pub(super) struct Common {
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) store: StoreArgs,
}

#[derive(Debug, Args)]
struct ConfigArgs {
    /// How long records are kept [default of a new stream: 24h].
    #[arg(long, value_name = "TIME")]
    retention: Option<Span>,
    /// How many bytes of log are kept at most; oldest go first [default: no bound].
    #[arg(long, value_name = "SIZE")]
    retention_bytes: Option<Bytes>,
    /// What each shard takes a second, such as "1 MiB/s,1000/s" (the default), or off.
    #[arg(long, value_name = "RATE")]
    rate: Option<Rate>,
    /// Longest record [default: 1 MiB].
    #[arg(long, value_name = "SIZE")]
    record_bytes_max: Option<Bytes>,
    /// Acknowledge after fdatasync (always, the default), or let it happen within a time, such as 5ms.
    #[arg(long, value_name = "WHEN")]
    fsync: Option<FsyncWhen>,
    /// Whose business the number of shards is: provisioned (yours, the default), on-demand (the store's: twice the peak
    /// of 30 days) or immediate (the store's: as the load is now).
    #[arg(long, value_name = "MODE", value_parser = scaling)]
    mode: Option<Scaling>,
}

fn scaling(text: &str) -> Result<Scaling, String> {
    match text {
        "provisioned" => Ok(Scaling::Provisioned),
        "on-demand" => Ok(Scaling::OnDemand),
        "immediate" => Ok(Scaling::Immediate),
        _ => Err("a mode is provisioned, on-demand or immediate".to_owned()),
    }
}

fn show_scaling(scaling: Scaling) -> &'static str {
    match scaling {
        Scaling::Provisioned => "provisioned",
        Scaling::OnDemand => "on-demand",
        Scaling::Immediate => "immediate",
    }
}

impl ConfigArgs {
    fn over(&self, old: StreamConfig) -> anyhow::Result<StreamConfig> {
        let record_bytes_max = match self.record_bytes_max {
            Some(bytes) => u32::try_from(bytes.0).context("--record-bytes-max is at most 10 MiB")?,
            None => old.record_bytes_max,
        };
        Ok(StreamConfig {
            retention_ms: self.retention.map_or(old.retention_ms, Span::millis),
            retention_bytes: self.retention_bytes.map(|bytes| bytes.0).or(old.retention_bytes),
            shard_rate: self.rate.map_or(old.shard_rate, |rate| rate.0),
            record_bytes_max,
            fsync: self.fsync.map_or(old.fsync, |when| when.0),
            scaling: self.mode.unwrap_or(old.scaling),
        })
    }
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// Its name: 1 to 128 of letters, digits, '_', '.', '-'.
    #[arg(value_parser = stream_name)]
    name: StreamName,
    /// How many shards to start with [default: 1; with another mode than provisioned 4]: each is an order of its own, and
    /// has a rate of its own.
    #[arg(long, value_name = "COUNT")]
    shards: Option<u32>,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(super) struct NameArgs {
    /// Which stream.
    #[arg(value_parser = stream_name)]
    name: StreamName,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(super) struct UpdateArgs {
    /// Which stream.
    #[arg(value_parser = stream_name)]
    name: StreamName,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(super) struct SplitArgs {
    /// Of which stream.
    #[arg(value_parser = stream_name)]
    name: StreamName,
    /// Which shard, by number.
    #[arg(value_parser = shard_id)]
    shard: ShardId,
    /// First hash key (a decimal number) of the upper child [default: the middle].
    #[arg(long, value_name = "HASH", value_parser = hash_key)]
    at: Option<HashKey>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(super) struct MergeArgs {
    /// Of which stream.
    #[arg(value_parser = stream_name)]
    name: StreamName,
    /// One shard, by number.
    #[arg(value_parser = shard_id)]
    shard: ShardId,
    /// Its neighbour.
    #[arg(value_parser = shard_id)]
    adjacent: ShardId,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(super) struct DeleteArgs {
    /// Which stream.
    #[arg(value_parser = stream_name)]
    name: StreamName,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    common: Common,
}

pub(super) fn stream_name(text: &str) -> Result<StreamName, String> {
    StreamName::new(text).map_err(|e| e.to_string())
}

/// `3`, or as the tables show it.
pub(super) fn shard_id(text: &str) -> Result<ShardId, String> {
    let digits = text.trim_start_matches(|c: char| !c.is_ascii_digit());
    let number = digits.parse().map_err(|_| format!("{text:?} is no shard: write its number, such as 0"))?;
    Ok(ShardId(number))
}

fn hash_key(text: &str) -> Result<HashKey, String> {
    HashKey::try_from(text.to_owned())
}

pub(super) async fn run(command: StreamCommand) -> anyhow::Result<()> {
    match command {
        StreamCommand::Create(args) => create(args).await,
        StreamCommand::List(args) => list(args).await,
        StreamCommand::Describe(args) => {
            let client = args.common.store.connect().await?;
            show_now(&client, args.name, &args.common).await
        }
        StreamCommand::Update(args) => update(args).await,
        StreamCommand::Split(args) => {
            let client = args.common.store.connect().await?;
            let call = Call::SplitShard { name: args.name, shard: args.shard, at: args.at };
            show(&args.common, &client.stream(call).await?)
        }
        StreamCommand::Merge(args) => {
            let client = args.common.store.connect().await?;
            let call = Call::MergeShards { name: args.name, shard: args.shard, adjacent: args.adjacent };
            show(&args.common, &client.stream(call).await?)
        }
        StreamCommand::Reshard(args) => marks::reshard(args).await,
        StreamCommand::Tag(args) => marks::tag_stream(args).await,
        StreamCommand::Policy(args) => marks::policy(args).await,
        StreamCommand::Encrypt(args) => marks::encrypt(args).await,
        StreamCommand::Monitor(args) => marks::monitor(args).await,
        StreamCommand::Delete(args) => delete(args).await,
    }
}

/// Shows a stream as it is now.
pub(super) async fn show_now(client: &Client, name: StreamName, common: &Common) -> anyhow::Result<()> {
    show(common, &client.stream(Call::DescribeStream { name }).await?)
}

async fn create(args: CreateArgs) -> anyhow::Result<()> {
    let client = args.common.store.connect().await?;
    let config = args.config.over(StreamConfig::default())?;
    let least = if config.scaling == Scaling::Provisioned { 1 } else { SHARDS_MIN as u32 };
    let call = Call::CreateStream { name: args.name, shards: args.shards.unwrap_or(least), config };
    show(&args.common, &client.stream(call).await?)
}

async fn update(args: UpdateArgs) -> anyhow::Result<()> {
    let client = args.common.store.connect().await?;
    let now = client.stream(Call::DescribeStream { name: args.name.clone() }).await?;
    let config = args.config.over(now.config)?;
    show(&args.common, &client.stream(Call::UpdateStream { name: args.name, config }).await?)
}

async fn list(args: ListArgs) -> anyhow::Result<()> {
    let client = args.common.store.connect().await?;
    let streams = all_streams(&client).await?;
    if args.common.json {
        return Ok(out::print_json(&streams)?);
    }
    if streams.is_empty() {
        return Ok(out::print("no streams yet; `kinesin stream create NAME` makes one\n")?);
    }
    let mut table = out::Table::new(&["NAME", "SHARDS", "RETENTION", "RATE PER SHARD", "STORED", "CREATED"]);
    for stream in &streams {
        let open = stream.shards.iter().filter(|shard| !shard.closed).count();
        table.row(vec![
            stream.name.to_string(),
            open.to_string(),
            show_span(stream.config.retention_ms),
            show_rate(stream.config.shard_rate),
            show_bytes(stream.stored_bytes),
            out::show_time(stream.created),
        ]);
    }
    Ok(out::print(&table.text())?)
}

async fn all_streams(client: &Client) -> anyhow::Result<Vec<StreamInfo>> {
    match client.call(Call::ListStreams {}).await? {
        Reply::Streams(streams) => Ok(streams),
        other => Err(unexpected(&other)),
    }
}

async fn delete(args: DeleteArgs) -> anyhow::Result<()> {
    if !args.yes {
        confirm(&args.name)?;
    }
    let client = args.common.store.connect().await?;
    match client.call(Call::DeleteStream { name: args.name.clone() }).await? {
        Reply::Done {} if args.common.json => {
            Ok(out::print_json(&serde_json::json!({ "deleted": args.name }))?)
        }
        Reply::Done {} => Ok(out::print(&format!("stream {} is deleted\n", args.name))?),
        other => Err(unexpected(&other)),
    }
}

fn confirm(name: &StreamName) -> anyhow::Result<()> {
    if !std::io::stdin().is_terminal() {
        anyhow::bail!("deleting {name} removes all its records: say --yes");
    }
    eprint!("delete stream {name} with all its records? Type its name: ");
    std::io::stderr().flush()?;
    let mut typed = String::new();
    std::io::stdin().lock().read_line(&mut typed)?;
    if typed.trim() == name.as_str() { Ok(()) } else { anyhow::bail!("nothing was deleted") }
}

fn show(common: &Common, stream: &StreamInfo) -> anyhow::Result<()> {
    if common.json {
        return Ok(out::print_json(stream)?);
    }
    let config = &stream.config;
    let bound = config.retention_bytes.map_or_else(String::new, |b| format!(", at most {}", show_bytes(b)));
    let rate = config
        .shard_rate
        .map_or_else(|| "no limit".to_owned(), |rate| format!("{} per shard", show_rate(Some(rate))));
    let mut text = format!(
        "stream     {}\ncreated    {}\nretention  {}{bound}\nrate       {rate}\n\
         records    at most {}\nfsync      {}\nmode       {}\nstored     {}\n\n",
        stream.name,
        out::show_time(stream.created),
        show_span(config.retention_ms),
        show_bytes(u64::from(config.record_bytes_max)),
        FsyncWhen(config.fsync),
        show_scaling(config.scaling),
        show_bytes(stream.stored_bytes),
    );
    let mut table = out::Table::new(&["SHARD", "STATE", "CREATED", "SHARE", "FIRST", "NEXT", "PARENTS"]);
    stream.shards.iter().for_each(|shard| table.row(shard_row(shard)));
    text += &table.text();
    if !stream.resharded.is_empty() {
        text += "\nWhat the store did about its shards, and why:\n";
    }
    for done in &stream.resharded {
        text += &format!("  {}  {}: {}\n", out::show_time(done.time), done.what, done.why);
    }
    Ok(out::print(&text)?)
}

fn shard_row(shard: &ShardInfo) -> Vec<String> {
    let parents: Vec<String> = shard.parents.iter().map(|id| id.0.to_string()).collect();
    let width = (shard.range.end.0 - shard.range.start.0) as f64 + 1.0;
    vec![
        shard.id.0.to_string(),
        if shard.closed { "closed" } else { "open" }.to_owned(),
        out::show_time(shard.created),
        format!("{:.1}%", width / u128::MAX as f64 * 100.0),
        shard.first.0.to_string(),
        shard.tail.0.to_string(),
        if parents.is_empty() { "-".to_owned() } else { parents.join(" ") },
    ]
}
