//! `kinesin api`: any operation of the Kinesis API as the operator, and the one way in which the other commands use
//! that API. Never: what an operation means.

use std::io::Read;

use anyhow::Context;
use clap::Args;
use protocol::limit::CALL_BYTES_MAX;
use protocol::name::StreamName;
use protocol::native::call::{Call, Reply};
use serde_json::Value;

use super::{StoreArgs, out, unexpected};
use crate::client::Client;

#[derive(Debug, Args)]
pub(super) struct ApiArgs {
    /// Such as ListShards: any operation but SubscribeToShard.
    operation: String,
    /// Its request as JSON, @FILE, or - for standard input.
    #[arg(default_value = "{}", value_name = "JSON")]
    request: String,
    /// In the name of this account, twelve digits [default: the store's own].
    #[arg(long, value_name = "ID")]
    account: Option<String>,
    /// In this region [default: the store's own].
    #[arg(long, value_name = "NAME")]
    region: Option<String>,
    #[command(flatten)]
    store: StoreArgs,
}

pub(super) async fn run(args: ApiArgs) -> anyhow::Result<()> {
    let body = text(&args.request)?;
    let client = args.store.connect().await?;
    let call = Call::Kinesis { operation: args.operation, body, account: args.account, region: args.region };
    match ask(&client, call).await? {
        Value::Null => Ok(()),
        answer => Ok(out::print_json(&answer)?),
    }
}

/// What an argument says: itself, what is in a file, or what comes on standard input.
pub(super) fn text(argument: &str) -> anyhow::Result<String> {
    let file = match argument.strip_prefix('@') {
        Some(path) => path,
        None if argument == "-" => "/dev/stdin",
        None => return Ok(argument.to_owned()),
    };
    let mut text = String::new();
    let opened = std::fs::File::open(file).with_context(|| format!("can't read {file}"))?;
    let read = read_call(opened, &mut text);
    read.with_context(|| format!("can't read {file}"))?;
    Ok(text)
}

/// Reads a call whole; what is longer than one may be is told, and not cut.
fn read_call(from: impl Read, text: &mut String) -> std::io::Result<()> {
    if from.take(CALL_BYTES_MAX as u64 + 1).read_to_string(text)? > CALL_BYTES_MAX {
        return Err(std::io::Error::other(format!("it has more than {CALL_BYTES_MAX} bytes")));
    }
    Ok(())
}

/// One operation on a stream, in the account and region that its name says. The answer is null where there is none.
pub(super) async fn on(
    client: &Client,
    operation: &str,
    stream: &StreamName,
    request: Value,
) -> anyhow::Result<Value> {
    let (account, region) = stream.namespace().unzip();
    let call = Call::Kinesis {
        operation: operation.to_owned(),
        body: request.to_string(),
        account: account.map(str::to_owned),
        region: region.map(str::to_owned),
    };
    ask(client, call).await
}

async fn ask(client: &Client, call: Call) -> anyhow::Result<Value> {
    match client.call(call).await? {
        Reply::Kinesis { body } if body.is_empty() => Ok(Value::Null),
        Reply::Kinesis { body } => {
            serde_json::from_str(&body).context("the store's answer is no JSON: is it newer?")
        }
        other => Err(unexpected(&other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reaches `CALL_BYTES_MAX` of protocol/src/limit.rs.
    #[test]
    fn a_call_from_a_file_is_read_whole_or_told_to_be_too_long() {
        let read = |bytes: usize| {
            let mut text = String::new();
            read_call(std::io::repeat(b'x').take(bytes as u64), &mut text).map(|()| text.len()).ok()
        };
        assert_eq!(read(CALL_BYTES_MAX), Some(CALL_BYTES_MAX));
        assert_eq!(read(CALL_BYTES_MAX + 1), None);
    }
}
