//! `kinesin agent`: lets agents in.

use clap::{Args, Subcommand};
use protocol::native::call::{Call, Reply};

use super::{StoreArgs, out, unexpected};
use crate::config::Span;

#[derive(Debug, Subcommand)]
pub(super) enum AgentCommand {
    /// Prints a token that lets a new agent in, and the configuration to paste.
    Enroll(EnrollArgs),
}

#[derive(Debug, Args)]
pub(super) struct EnrollArgs {
    /// Name that the agent will have: letters, digits, '_', '.', '-'.
    name: String,
    /// How long the token can be used.
    #[arg(long, value_name = "TIME", default_value = "1h")]
    ttl: Span,
    /// How often the token can be used.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    uses: u32,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: StoreArgs,
}

pub(super) async fn run(command: AgentCommand) -> anyhow::Result<()> {
    let AgentCommand::Enroll(args) = command;
    let target = args.store.target()?;
    let client = args.store.connect().await?;
    let ttl_s = args.ttl.millis().div_ceil(1000);
    let call = Call::CreateEnrollToken { agent: args.name.clone(), ttl_s, uses: args.uses };
    let (token, expires) = match client.call(call).await? {
        Reply::Token { token, expires } => (token, expires),
        other => return Err(unexpected(&other)),
    };
    let url = target.url.to_string();
    if args.json {
        return Ok(out::print_json(&serde_json::json!({
            "agent": args.name, "token": token, "expires_ms": expires.0, "url": url, "ca": target.ca_name,
        }))?);
    }
    let uses = if args.uses == 1 { "once".to_owned() } else { format!("{} times", args.uses) };
    Ok(out::print(&format!(
        "# Lets {name} in, {uses}, until {until}. The token is not shown again.\n\
         # Paste this into agent.toml; elsewhere, copy {ca} there first and use the store's address.\n\
         [store]\nurl = {url:?}\nca = {ca:?}\ntoken = {token:?}\n",
        name = args.name,
        until = out::show_time(expires),
        ca = target.ca_name,
    ))?)
}
