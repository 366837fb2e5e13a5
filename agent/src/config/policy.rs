//! `[[policy]]`: what goes first, what is kept back, what is not worth sending any more. Pure. Never: what becomes of it.

use std::path::PathBuf;

use serde::Deserialize;

use crate::send::policy::{PRIORITY_MAX, PRIORITY_USUAL, Policy, Rule};

/// `[[policy]]`; of those that match a stream the first holds.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicySection {
    /// Glob of streams' names.
    pub streams: String,
    /// 0 to 9: streams with a higher one are sent first.
    #[serde(default = "usual")]
    pub priority: u8,
    /// What waited for longer is not sent, and told as lost.
    pub ttl_s: Option<u64>,
    /// Nothing is sent while this file is not there.
    pub hold_until: Option<PathBuf>,
}

fn usual() -> u8 {
    PRIORITY_USUAL
}

impl PolicySection {
    /// As a rule. What waits for a file waits until somebody has looked for it.
    ///
    /// # Errors
    /// The key that is wrong, and why.
    pub fn rule(&self) -> Result<Rule, (&'static str, String)> {
        let PolicySection { streams, priority, ttl_s, hold_until } = self;
        let bad = |error| ("streams", format!("streams = {streams:?} is no glob of streams' names: {error}"));
        let glob = glob::Pattern::new(streams).map_err(bad)?;
        if *priority > PRIORITY_MAX {
            return Err(("priority", format!("priority must be 0 to {PRIORITY_MAX}")));
        }
        if *ttl_s == Some(0) {
            return Err(("ttl_s", "ttl_s must be at least 1; leave it out for what is always sent".into()));
        }
        let ttl_ms = ttl_s.map(|seconds| seconds.saturating_mul(1000));
        Ok(Rule { streams: glob, policy: Policy { priority: *priority, ttl_ms, held: hold_until.is_some() } })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Config, ConfigError};

    fn of(keys: &str) -> Result<Config, ConfigError> {
        let text = format!(
            "[store]\nurl = \"kinesin://127.0.0.1:4567\"\nca = \"ca.pem\"\n[source.stdin]\nstream = \"s\"\n\
             partition_key = \"k\"\n[[policy]]\n{keys}\n[spool]\ndir = \"spool\"\n"
        );
        Config::parse(&text, "agent.toml", Path::new("/etc/kinesin"))
    }

    /// Reaches `PRIORITY_MAX` of agent/src/send/policy.rs.
    #[test]
    fn a_policy_has_a_glob_and_values_that_can_work_and_its_file_is_below_the_configuration() {
        let config = of("streams = \"cam-*\"\npriority = 1\nttl_s = 60\nhold_until = \"depot\"").unwrap();
        assert_eq!(config.policy[0].hold_until.as_deref(), Some(Path::new("/etc/kinesin/depot")));
        let policy = config.policy[0].rule().unwrap().policy;
        assert_eq!((policy.priority, policy.ttl_ms, policy.held), (1, Some(60_000), true));
        assert_eq!(of("streams = \"*\"\npriority = 9").unwrap().policy[0].priority, 9);
        assert!(!of("streams = \"*\"").unwrap().policy[0].rule().unwrap().policy.held);
        for (keys, say) in [
            ("priority = 1", "missing field `streams`"),
            ("streams = \"a***\"", "no glob"),
            ("streams = \"*\"\npriority = 10", "0 to 9"),
            ("streams = \"*\"\nttl_s = 0", "at least 1"),
            ("streams = \"*\"\nttl = 1", "did you mean `ttl_s`?"),
        ] {
            let error = of(keys).unwrap_err();
            assert!(error.message.contains(say) && error.line.is_some(), "{keys}: {error}");
        }
    }
}
