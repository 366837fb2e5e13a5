//! Enrolment tokens: kept by their hash, used up one by one, durably.

use protocol::stream::{CallError, CallErrorCode};
use protocol::time::UnixMs;

use super::{Service, call_error, locked};
use crate::catalog::{Change, TokenEntry};

/// There are at most this many unused tokens.
const TOKENS_MAX: usize = 100_000;

fn hex(hash: &[u8; 32]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Service {
    /// Keeps the hash (SHA-256) of an enrolment token, durably.
    ///
    /// # Errors
    /// When there are too many, or it can't be kept.
    pub async fn put_token(
        &self,
        agent: &str,
        hash: [u8; 32],
        expires: UnixMs,
        uses: u32,
    ) -> Result<(), CallError> {
        let _changing = self.inner.changing.lock().await;
        self.drop_expired_tokens().await?;
        check_room(locked(&self.inner.catalog).state().tokens.len())?;
        let entry = TokenEntry { agent: agent.to_owned(), expires, uses_left: uses };
        self.commit_change(Change::PutToken { hash: hex(&hash), entry }).await
    }

    /// Uses a token up by one, durably, and says which agent it lets in.
    ///
    /// # Errors
    /// When it is unknown, used up or expired (one answer for all three).
    pub async fn redeem_token(&self, hash: [u8; 32]) -> Result<String, CallError> {
        let _changing = self.inner.changing.lock().await;
        let hash = hex(&hash);
        let entry = locked(&self.inner.catalog).state().tokens.get(&hash).cloned();
        let now = self.inner.clock.wall();
        let Some(entry) = entry.filter(|entry| entry.expires > now && entry.uses_left > 0) else {
            let message =
                "this token is not known, used up or expired: make another with `kinesin agent enroll NAME`";
            return Err(call_error(CallErrorCode::Denied, message));
        };
        let agent = entry.agent.clone();
        let change = match entry.uses_left - 1 {
            0 => Change::RemoveToken { hash },
            uses_left => Change::PutToken { hash, entry: TokenEntry { uses_left, ..entry } },
        };
        self.commit_change(change).await.map(|()| agent)
    }

    async fn drop_expired_tokens(&self) -> Result<(), CallError> {
        let now = self.inner.clock.wall();
        let expired: Vec<String> = {
            let catalog = locked(&self.inner.catalog);
            let tokens = catalog.state().tokens.iter();
            tokens.filter(|(_, entry)| entry.expires <= now).map(|(hash, _)| hash.clone()).collect()
        };
        for hash in expired {
            self.commit_change(Change::RemoveToken { hash }).await?;
        }
        Ok(())
    }
}

/// Whether there may be another token beside so many.
fn check_room(unused: usize) -> Result<(), CallError> {
    if unused >= TOKENS_MAX {
        return Err(call_error(CallErrorCode::Limit, format!("there are {TOKENS_MAX} unused tokens")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reaches `TOKENS_MAX`.
    #[test]
    fn there_are_as_many_unused_tokens_as_there_may_be_and_no_more() {
        assert!(check_room(TOKENS_MAX - 1).is_ok());
        assert_eq!(check_room(TOKENS_MAX).unwrap_err().code, CallErrorCode::Limit);
    }
}
