//! The operator's way to the API: one operation over a native connection, whose certificate stands for the signature.
//! Never: what an operation does.

use std::sync::Arc;
use std::time::Duration;

use protocol::kinesis::{ApiError, check, json, model};
use protocol::limit::CALL_BYTES_MAX;
use protocol::name::{is_account, is_region};

use super::http::Encoding;
use super::{Answer, Caller, Kinesis, Result, invalid};
use crate::principal::{Principal, Role};

/// JSON in JSON at most doubles: each character of it is one that is escaped.
const ANSWER_BYTES_MAX: usize = (CALL_BYTES_MAX - 1024) / 2;

/// What a stream answers for a moment after it was made or changed.
const PASSES: [&str; 2] = ["ResourceInUseException", "ResourceNotFoundException"];
/// A stream that something is being done to is waited for at most this long.
const WAIT_MAX: Duration = Duration::from_secs(5);

impl Kinesis {
    /// Does an operation in any account and region. The answer is the API's, as JSON; empty where there is none.
    pub(crate) async fn for_operator(
        self: &Arc<Self>,
        principal: Principal,
        operation: &str,
        body: &[u8],
        account: Option<String>,
        region: Option<String>,
    ) -> Result<String> {
        if principal.role != Role::Admin {
            let message = format!("{principal} may not use the Kinesis API: use the admin certificate");
            return Err(ApiError::new("AccessDeniedException", message));
        }
        let (account, region) = self.namespace(account, region)?;
        let Some((name, members)) = model::operation(operation) else {
            let message = format!("{operation:?} is no operation of the Kinesis API, such as ListShards");
            return Err(ApiError::new("UnknownOperationException", message));
        };
        if *name == "SubscribeToShard" {
            return Err(invalid("SubscribeToShard needs HTTP; `kinesin tail` follows a stream here."));
        }
        let value = json::read(body)
            .map_err(|error| ApiError::new("SerializationException", format!("not JSON: {error}")))?;
        let value = check::check(value, members)?;
        let caller = Caller { principal, account, region, access_key: String::new() };
        let mut answer = self.call(name, &caller, &value, Encoding::Json).await;
        if answer.as_ref().is_err_and(|error| PASSES.contains(&error.kind)) {
            // What was done just before passes; an operator's script need not know of it.
            tokio::time::sleep(wait(self.delay)).await;
            answer = self.call(name, &caller, &value, Encoding::Json).await;
        }
        match answer? {
            Answer::Nothing => Ok(String::new()),
            Answer::Value(value) => text(Encoding::Json.bytes(&value)),
            Answer::Events(mut parts) | Answer::Pieces(mut parts) => {
                let mut all = Vec::new();
                while let Some(part) = parts.recv().await {
                    all.extend_from_slice(&part);
                    if all.len() > ANSWER_BYTES_MAX {
                        break;
                    }
                }
                text(all)
            }
        }
    }

    fn namespace(&self, account: Option<String>, region: Option<String>) -> Result<(String, String)> {
        let account = account.unwrap_or_else(|| self.home.account.clone());
        let region = region.unwrap_or_else(|| self.home.region.clone());
        if !is_account(&account) {
            return Err(invalid(format!("{account:?} is no account: twelve digits")));
        }
        if !is_region(&region) {
            return Err(invalid(format!("{region:?} is no region: letters a to z, digits and '-'")));
        }
        Ok((account, region))
    }
}

/// How long is waited for a stream whose status passes after so long.
fn wait(delay: Duration) -> Duration {
    delay.min(WAIT_MAX)
}

fn text(bytes: Vec<u8>) -> Result<String> {
    if bytes.len() > ANSWER_BYTES_MAX {
        return Err(invalid(format!(
            "The answer is longer than {ANSWER_BYTES_MAX} bytes: ask for less with Limit, or over HTTP."
        )));
    }
    String::from_utf8(bytes).map_err(|error| ApiError::new("InternalFailure", error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reaches `ANSWER_BYTES_MAX`.
    #[test]
    fn an_answer_fits_into_a_reply_however_it_is_written_and_a_longer_one_is_told() {
        assert_eq!(text(vec![b'"'; ANSWER_BYTES_MAX]).map(|text| text.len()).unwrap(), ANSWER_BYTES_MAX);
        assert!(text(vec![b'"'; ANSWER_BYTES_MAX + 1]).unwrap_err().message.contains("Limit"));
        let quoted = serde_json::to_string(&"\"".repeat(ANSWER_BYTES_MAX)).unwrap();
        assert!(quoted.len() < CALL_BYTES_MAX);
    }

    /// Reaches `WAIT_MAX`.
    #[test]
    fn a_stream_is_not_waited_for_longer_than_an_operator_waits() {
        assert_eq!(wait(WAIT_MAX), WAIT_MAX);
        assert_eq!(wait(WAIT_MAX + Duration::from_millis(1)), WAIT_MAX);
    }
}
