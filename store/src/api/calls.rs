//! The rare requests of the native wire, in the service's words.

use protocol::native::call::{Call, Reply};
use protocol::stream::{CallError, CallErrorCode};

use crate::principal::{Principal, Role};
use crate::service::Service;

/// Does every call but `Read`, `Enroll`, `Renew`, `CreateEnrollToken` and `Kinesis`, which the connection answers itself.
pub async fn answer(service: &Service, principal: &Principal, call: Call) -> Reply {
    try_answer(service, principal, call).await.unwrap_or_else(Reply::Error)
}

async fn try_answer(service: &Service, principal: &Principal, call: Call) -> Result<Reply, CallError> {
    Ok(match call {
        Call::CreateStream { name, shards, config } => {
            Reply::Stream(service.create_stream(principal, &name, shards, config).await?)
        }
        Call::DeleteStream { name } => {
            service.delete_stream(principal, &name).await?;
            Reply::Done {}
        }
        Call::ListStreams {} => Reply::Streams(service.list_streams(principal)?),
        Call::OpenStream { name, video } => {
            Reply::Stream(service.open_stream(principal, &name, video).await?)
        }
        Call::DescribeStream { name } => Reply::Stream(service.describe_stream(principal, &name)?),
        Call::UpdateStream { name, config } => {
            Reply::Stream(service.update_stream(principal, &name, config).await?)
        }
        Call::SplitShard { name, shard, at } => {
            Reply::Stream(service.split_shard(principal, &name, shard, at).await?)
        }
        Call::MergeShards { name, shard, adjacent } => {
            Reply::Stream(service.merge_shards(principal, &name, shard, adjacent).await?)
        }
        Call::Status {} if principal.role == Role::Admin => Reply::Status(service.status()),
        Call::Status {} => {
            let message = format!("{principal} may not see the store's status: use the admin certificate");
            return Err(CallError { code: CallErrorCode::Denied, message });
        }
        Call::Read { .. }
        | Call::CreateEnrollToken { .. }
        | Call::Enroll { .. }
        | Call::Renew { .. }
        | Call::Kinesis { .. } => {
            let message = "this call is answered by the connection".to_owned();
            return Err(CallError { code: CallErrorCode::Internal, message });
        }
    })
}
