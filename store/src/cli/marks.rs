//! `kinesin stream tag`, `policy`, `encrypt`, `monitor` and `reshard`: what the Kinesis API keeps about a stream.

use anyhow::Context;
use clap::Args;
use protocol::name::StreamName;
use serde_json::{Value, json};

use super::stream::{Common, stream_name};
use super::{api, out};
use crate::client::Client;

/// `KEY=VALUE` of a tag.
fn tag(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a tag is KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

#[derive(Debug, Args)]
pub(super) struct TagArgs {
    /// Which stream.
    #[arg(value_parser = stream_name)]
    name: StreamName,
    /// Tags to set; with none (and no --remove) they are shown only.
    #[arg(value_name = "KEY=VALUE", value_parser = tag)]
    tags: Vec<(String, String)>,
    /// A tag to take away; may be said several times.
    #[arg(long, value_name = "KEY")]
    remove: Vec<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(super) struct PolicyArgs {
    /// Which stream.
    #[arg(value_parser = stream_name)]
    name: StreamName,
    /// A policy to keep: JSON, @FILE, or - for standard input. It is kept and given back; nothing is decided by it.
    #[arg(long, value_name = "JSON")]
    set: Option<String>,
    /// Take the policy away.
    #[arg(long, conflicts_with = "set")]
    remove: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true))]
pub(super) struct EncryptArgs {
    /// Which stream.
    #[arg(value_parser = stream_name)]
    name: StreamName,
    /// Key that the stream says it is encrypted with. It is kept and given back; the store does not encrypt by it.
    #[arg(long, value_name = "ID", group = "what")]
    key: Option<String>,
    /// The stream says that it is not encrypted.
    #[arg(long, group = "what")]
    off: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(super) struct MonitorArgs {
    /// Which stream.
    #[arg(value_parser = stream_name)]
    name: StreamName,
    /// A metric of each shard, such as IncomingBytes, or ALL; may be said several times.
    #[arg(long, value_name = "METRIC", conflicts_with = "off")]
    on: Vec<String>,
    /// A metric that is not wanted any more.
    #[arg(long, value_name = "METRIC")]
    off: Vec<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(super) struct ReshardArgs {
    /// Which stream.
    #[arg(value_parser = stream_name)]
    name: StreamName,
    /// How many open shards there shall be, of equal shares; at most twice and at least half of now.
    shards: u32,
    #[command(flatten)]
    common: Common,
}

/// The stream's ARN, as the Kinesis API writes it.
pub(super) async fn arn(client: &Client, stream: &StreamName) -> anyhow::Result<String> {
    let summary = summary(client, stream).await?;
    let arn = summary["StreamARN"].as_str();
    arn.map(str::to_owned).context("the store told no ARN: is it newer?")
}

async fn summary(client: &Client, stream: &StreamName) -> anyhow::Result<Value> {
    let request = json!({ "StreamName": stream.local() });
    let mut answer = api::on(client, "DescribeStreamSummary", stream, request).await?;
    Ok(answer["StreamDescriptionSummary"].take())
}

pub(super) async fn tag_stream(args: TagArgs) -> anyhow::Result<()> {
    let client = args.common.store.connect().await?;
    let arn = arn(&client, &args.name).await?;
    if !args.remove.is_empty() {
        let request = json!({ "ResourceARN": arn, "TagKeys": args.remove });
        api::on(&client, "UntagResource", &args.name, request).await?;
    }
    if !args.tags.is_empty() {
        let tags: serde_json::Map<_, _> =
            args.tags.into_iter().map(|(key, value)| (key, Value::from(value))).collect();
        let request = json!({ "ResourceARN": arn, "Tags": tags });
        api::on(&client, "TagResource", &args.name, request).await?;
    }
    let answer = api::on(&client, "ListTagsForResource", &args.name, json!({ "ResourceARN": arn })).await?;
    let tags = answer["Tags"].as_array().map(Vec::as_slice).unwrap_or_default();
    if args.common.json {
        let pairs = tags.iter().filter_map(|tag| Some((tag["Key"].as_str()?, &tag["Value"])));
        return Ok(out::print_json(&pairs.collect::<std::collections::BTreeMap<_, _>>())?);
    }
    let mut table = out::Table::new(&["TAG", "VALUE"]);
    for tag in tags {
        let cell = |name: &str| tag[name].as_str().unwrap_or("?").to_owned();
        table.row(vec![cell("Key"), cell("Value")]);
    }
    Ok(out::print(&if tags.is_empty() { "no tags\n".to_owned() } else { table.text() })?)
}

pub(super) async fn policy(args: PolicyArgs) -> anyhow::Result<()> {
    let client = args.common.store.connect().await?;
    let arn = arn(&client, &args.name).await?;
    if let Some(policy) = &args.set {
        let request = json!({ "ResourceARN": arn, "Policy": api::text(policy)? });
        api::on(&client, "PutResourcePolicy", &args.name, request).await?;
    }
    if args.remove {
        api::on(&client, "DeleteResourcePolicy", &args.name, json!({ "ResourceARN": arn })).await?;
    }
    let answer = api::on(&client, "GetResourcePolicy", &args.name, json!({ "ResourceARN": arn })).await?;
    let policy = answer["Policy"].as_str().unwrap_or("{}");
    // Whatever is kept is a JSON object.
    Ok(out::print_json(&serde_json::from_str::<Value>(policy)?)?)
}

pub(super) async fn encrypt(args: EncryptArgs) -> anyhow::Result<()> {
    let client = args.common.store.connect().await?;
    let (operation, key) = match &args.key {
        Some(key) => ("StartStreamEncryption", key.as_str()),
        None => ("StopStreamEncryption", "none"),
    };
    let request = json!({ "StreamName": args.name.local(), "EncryptionType": "KMS", "KeyId": key });
    api::on(&client, operation, &args.name, request).await?;
    let summary = summary(&client, &args.name).await?;
    if args.common.json {
        let shown = json!({ "encryption": summary["EncryptionType"], "key": summary["KeyId"] });
        return Ok(out::print_json(&shown)?);
    }
    let says = match &args.key {
        Some(key) => format!("stream {} says that it is encrypted with {key}\n", args.name),
        None => format!("stream {} says that it is not encrypted\n", args.name),
    };
    Ok(out::print(&says)?)
}

pub(super) async fn monitor(args: MonitorArgs) -> anyhow::Result<()> {
    let client = args.common.store.connect().await?;
    let changes = [("EnableEnhancedMonitoring", &args.on), ("DisableEnhancedMonitoring", &args.off)];
    for (operation, metrics) in changes.into_iter().filter(|(_, metrics)| !metrics.is_empty()) {
        let request = json!({ "StreamName": args.name.local(), "ShardLevelMetrics": metrics });
        api::on(&client, operation, &args.name, request).await?;
    }
    let summary = summary(&client, &args.name).await?;
    let metrics = &summary["EnhancedMonitoring"][0]["ShardLevelMetrics"];
    if args.common.json {
        return Ok(out::print_json(metrics)?);
    }
    let names: Vec<&str> = metrics.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    Ok(out::print(&if names.is_empty() { "no metrics\n".to_owned() } else { names.join("\n") + "\n" })?)
}

pub(super) async fn reshard(args: ReshardArgs) -> anyhow::Result<()> {
    let client = args.common.store.connect().await?;
    let request = json!({
        "StreamName": args.name.local(), "TargetShardCount": args.shards, "ScalingType": "UNIFORM_SCALING",
    });
    api::on(&client, "UpdateShardCount", &args.name, request).await?;
    super::stream::show_now(&client, args.name, &args.common).await
}
