//! What an account has asked for: a commitment to a least throughput, which is kept and given back, and is charged by
//! nobody.

use protocol::kinesis::value::Value;
use protocol::time::UnixMs;

use super::{Answer, Call, Result};
use crate::catalog::AccountEntry;

/// A commitment lasts at least this long.
const COMMITMENT_MS: u64 = 24 * 3_600_000;

/// Asks for a commitment, or for its end as early as may be.
fn commit(entry: &AccountEntry, on: bool, now: UnixMs) -> AccountEntry {
    let active = entry.committed.is_some() && entry.committed_until.is_none_or(|until| until > now);
    match (on, entry.committed) {
        (true, Some(since)) if active => AccountEntry { committed: Some(since), committed_until: None },
        (true, _) => AccountEntry { committed: Some(now), committed_until: None },
        (false, Some(since)) if active => {
            AccountEntry { committed_until: Some(UnixMs(since.0 + COMMITMENT_MS).max(now)), ..entry.clone() }
        }
        (false, _) => entry.clone(),
    }
}

fn described(entry: &AccountEntry, now: UnixMs) -> Value<'static> {
    let ended = entry.committed_until.filter(|until| *until <= now);
    let status = match (entry.committed, entry.committed_until) {
        (None, _) => "DISABLED",
        _ if ended.is_some() => "DISABLED",
        (Some(_), None) => "ENABLED",
        (Some(_), Some(_)) => "ENABLED_UNTIL_EARLIEST_ALLOWED_END",
    };
    let earliest = entry.committed.filter(|_| ended.is_none()).map(|since| UnixMs(since.0 + COMMITMENT_MS));
    Value::map([
        ("Status", status.into()),
        ("StartedAt", entry.committed.into()),
        ("EndedAt", ended.into()),
        ("EarliestAllowedEndAt", earliest.into()),
    ])
}

impl Call<'_> {
    fn account_key(&self) -> String {
        format!("{}:{}", self.caller.account, self.caller.region)
    }

    fn account(&self) -> Result<AccountEntry> {
        Ok(self.api.service.account(&self.caller.principal, &self.account_key())?)
    }

    pub(super) fn describe_account_settings(&self) -> Result<Answer> {
        let told = described(&self.account()?, self.now);
        Ok(Answer::Value(Value::map([("MinimumThroughputBillingCommitment", told)])))
    }

    pub(super) async fn update_account_settings(&self) -> Result<Answer> {
        let asked =
            self.body.get("MinimumThroughputBillingCommitment").and_then(|asked| asked.str_of("Status"));
        let (before, now) = (self.account()?, self.now);
        let entry = commit(&before, asked == Some("ENABLED"), now);
        if entry != before {
            let (principal, key) = (&self.caller.principal, self.account_key());
            self.api.service.put_account(principal, &key, entry.clone()).await?;
        }
        let told = described(&entry, now);
        Ok(Answer::Value(Value::map([("MinimumThroughputBillingCommitment", told)])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commitment_ends_no_earlier_than_a_day_after_it_began() {
        let at = |hours: u64| UnixMs(hours * 3_600_000);
        let status = |entry: &AccountEntry, now| described(entry, now).str_of("Status").unwrap().to_owned();
        let none = AccountEntry::default();
        assert_eq!(status(&none, at(1)), "DISABLED");
        assert_eq!(commit(&none, false, at(1)), none);
        let on = commit(&none, true, at(1));
        assert_eq!(status(&on, at(2)), "ENABLED");
        let ending = commit(&on, false, at(2));
        assert_eq!(status(&ending, at(24)), "ENABLED_UNTIL_EARLIEST_ALLOWED_END");
        assert_eq!(status(&ending, at(25)), "DISABLED");
        assert_eq!(commit(&ending, true, at(3)), on, "asked for again, it goes on");
        assert_eq!(commit(&ending, true, at(30)).committed, Some(at(30)));
        assert_eq!(status(&commit(&on, false, at(40)), at(40)), "DISABLED");
    }
}
