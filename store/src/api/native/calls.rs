//! The rare requests of a native connection, each answered on its own. Never: the connection's own bytes.

use std::sync::Arc;

use protocol::limit;
use protocol::name::StreamName;
use protocol::native::call::{Call, CallError, CallErrorCode, Reply, StartingPosition};
use protocol::native::message::{PREFIX_BYTES, ReadHead, Type, prefix, put_call};
use protocol::sequence::ShardId;

use crate::api::Shared;
use crate::principal::{Principal, Role};

/// What goes out for one call: a message, or the start of one with its frames.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: Vec<u8>,
    pub(crate) frames: Vec<u8>,
}

impl Answer {
    pub(crate) fn reply(id: u64, reply: &Reply) -> Answer {
        let mut head = Vec::new();
        put_call(Type::Reply, id, reply, &mut head);
        Answer { head, frames: Vec::new() }
    }

    pub(crate) fn error(id: u64, code: CallErrorCode, message: &str) -> Answer {
        Answer::reply(id, &Reply::Error(CallError { code, message: message.to_owned() }))
    }
}

/// Whether the principal may ask this at all; what it may do to which stream is the service's to say.
pub(crate) fn is_allowed(principal: &Principal, call: &Call) -> bool {
    principal.role != Role::Anonymous || matches!(call, Call::Enroll { .. })
}

/// The stream whose changes the caller wants to hear of from now on.
pub(crate) fn named(call: &Call) -> Option<&StreamName> {
    match call {
        Call::OpenStream { name, .. } | Call::DescribeStream { name } | Call::CreateStream { name, .. } => {
            Some(name)
        }
        _ => None,
    }
}

/// Does one call. `share` is the most that a read may hold, so that all reads of a connection are bounded.
pub(crate) async fn answer(
    shared: Arc<Shared>,
    principal: Principal,
    id: u64,
    call: Call,
    share: usize,
) -> Answer {
    match call {
        Call::Read { name, shard, from, bytes_max, wait_ms } => {
            let bytes_max = (bytes_max as usize).min(share).min(limit::READ_BYTES_MAX);
            let wait_ms = u64::from(wait_ms).min(limit::READ_WAIT_MS_MAX);
            read(&shared, &principal, id, &name, shard, from, bytes_max, wait_ms).await
        }
        Call::Enroll { token, csr_pem } => {
            Answer::reply(id, &shared.auth.enroll(&shared.service, &token, &csr_pem).await)
        }
        Call::Renew { csr_pem } => Answer::reply(id, &shared.auth.renew_client(&principal, &csr_pem)),
        Call::CreateEnrollToken { agent, ttl_s, uses } => {
            let reply = shared.auth.create_token(&shared.service, &principal, &agent, ttl_s, uses).await;
            Answer::reply(id, &reply)
        }
        Call::Kinesis { operation, body, account, region } => {
            // Finished even if the connection goes away meanwhile.
            let done = tokio::spawn(async move {
                shared.kinesis.for_operator(principal, &operation, body.as_bytes(), account, region).await
            });
            let reply = match done.await {
                Ok(Ok(body)) => Reply::Kinesis { body },
                Ok(Err(error)) => Reply::Error(error.into()),
                Err(broke) => Reply::Error(broken(&broke)),
            };
            Answer::reply(id, &reply)
        }
        call => Answer::reply(id, &command(shared, principal, call).await),
    }
}

fn broken(error: &tokio::task::JoinError) -> CallError {
    CallError { code: CallErrorCode::Internal, message: format!("the call broke: {error}") }
}

/// What changes something is finished even if the connection goes away meanwhile.
async fn command(shared: Arc<Shared>, principal: Principal, call: Call) -> Reply {
    let wants_status = matches!(call, Call::Status {});
    let inside = shared.clone();
    let done =
        tokio::spawn(async move { crate::api::calls::answer(&inside.service, &principal, call).await }).await;
    let mut reply = done.unwrap_or_else(|error| Reply::Error(broken(&error)));
    if let (true, Reply::Status(status)) = (wants_status, &mut reply) {
        shared.counters.add_to(status);
        status.insert("receiving_bytes".to_owned(), shared.pending.used() as f64);
    }
    reply
}

#[expect(clippy::too_many_arguments, reason = "the fields of one call")]
async fn read(
    shared: &Shared,
    principal: &Principal,
    id: u64,
    name: &StreamName,
    shard: ShardId,
    from: StartingPosition,
    bytes_max: usize,
    wait_ms: u64,
) -> Answer {
    let read = shared.service.read(principal, name, shard, from, bytes_max, wait_ms).await;
    let read = match read {
        Ok(read) => read,
        Err(error) => return Answer::reply(id, &Reply::Error(error)),
    };
    let mut head = Vec::with_capacity(PREFIX_BYTES + 1 + ReadHead::BYTES);
    head.extend_from_slice(&prefix(Type::Batches, ReadHead::BYTES + read.frames.len()));
    let (next, tail) = (read.next, read.tail);
    ReadHead { id, next, tail, at_end: read.at_end, damaged: read.damaged, behind_ms: read.behind_ms }
        .put(&mut head);
    Answer { head, frames: read.frames }
}
