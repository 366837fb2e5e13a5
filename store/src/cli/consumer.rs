//! `kinesin consumer`: registered consumers of a stream, each of which has a read rate of its own over HTTP.

use clap::{Args, Subcommand};
use protocol::name::StreamName;
use serde_json::{Value, json};

use super::stream::stream_name;
use super::{StoreArgs, api, marks, out};
use crate::client::Client;

#[derive(Debug, Subcommand)]
pub(super) enum ConsumerCommand {
    /// Registers a consumer.
    Register(OneArgs),
    /// Shows the consumers of a stream.
    List(AllArgs),
    /// Shows one consumer.
    Describe(OneArgs),
    /// Removes a consumer; its subscriptions end.
    Deregister(OneArgs),
}

#[derive(Debug, Args)]
pub(super) struct AllArgs {
    /// Of which stream.
    #[arg(value_parser = stream_name)]
    stream: StreamName,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: StoreArgs,
}

#[derive(Debug, Args)]
pub(super) struct OneArgs {
    /// Of which stream.
    #[arg(value_parser = stream_name)]
    stream: StreamName,
    /// Its name: 1 to 128 of letters, digits, '_', '.', '-'.
    consumer: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: StoreArgs,
}

pub(super) async fn run(command: ConsumerCommand) -> anyhow::Result<()> {
    match command {
        ConsumerCommand::Register(args) => {
            let answer = one(&args, "RegisterStreamConsumer").await?;
            show(args.json, &[answer["Consumer"].clone()])
        }
        ConsumerCommand::Describe(args) => {
            let answer = one(&args, "DescribeStreamConsumer").await?;
            show(args.json, &[answer["ConsumerDescription"].clone()])
        }
        ConsumerCommand::Deregister(args) => {
            one(&args, "DeregisterStreamConsumer").await?;
            let name = &args.consumer;
            if args.json {
                return Ok(out::print_json(&json!({ "deregistered": name }))?);
            }
            Ok(out::print(&format!("consumer {name} of {} is gone\n", args.stream))?)
        }
        ConsumerCommand::List(args) => {
            let client = args.store.connect().await?;
            let all = all(&client, &args.stream).await?;
            if args.json {
                return Ok(out::print_json(&all)?);
            }
            if all.is_empty() {
                let hint =
                    format!("no consumers; `kinesin consumer register {} NAME` registers one\n", args.stream);
                return Ok(out::print(&hint)?);
            }
            show(false, &all)
        }
    }
}

async fn one(args: &OneArgs, operation: &str) -> anyhow::Result<Value> {
    let client = args.store.connect().await?;
    let arn = marks::arn(&client, &args.stream).await?;
    let request = json!({ "StreamARN": arn, "ConsumerName": args.consumer });
    api::on(&client, operation, &args.stream, request).await
}

async fn all(client: &Client, stream: &StreamName) -> anyhow::Result<Vec<Value>> {
    let arn = marks::arn(client, stream).await?;
    let mut all = Vec::new();
    let mut request = json!({ "StreamARN": arn });
    loop {
        let mut answer = api::on(client, "ListStreamConsumers", stream, request).await?;
        if let Value::Array(some) = answer["Consumers"].take() {
            all.extend(some);
        }
        match answer["NextToken"].take() {
            Value::Null => return Ok(all),
            token => request = json!({ "StreamARN": arn, "NextToken": token }),
        }
    }
}

fn show(json: bool, consumers: &[Value]) -> anyhow::Result<()> {
    if let (true, [one]) = (json, consumers) {
        return Ok(out::print_json(one)?);
    }
    let mut table = out::Table::new(&["CONSUMER", "STATUS", "ARN"]);
    for consumer in consumers {
        let cell = |name: &str| consumer[name].as_str().unwrap_or("?").to_owned();
        table.row(vec![cell("ConsumerName"), cell("ConsumerStatus"), cell("ConsumerARN")]);
    }
    Ok(out::print(&table.text())?)
}
