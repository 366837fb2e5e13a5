//! The rare messages of the native wire, as JSON: greetings, control calls and their replies. Pure.
//!
//! A field that a newer program adds has a default here, so that old and new can talk.

use serde::{Deserialize, Serialize};

use crate::hash::HashKey;
use crate::name::StreamName;
use crate::sequence::ShardId;
use crate::time::UnixMs;

pub use crate::stream::{
    CallError, CallErrorCode, Fsync, Producer, ShardInfo, StartingPosition, StreamConfig, StreamInfo,
};

/// The first message of a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Program and version, for the operator's eyes.
    pub client: String,
    /// Who produces; `None` for a client that only reads or commands. Hexadecimal in JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub producer: Option<Producer>,
    /// Streams that it wants to write to, so that it hears of their shards.
    #[serde(default)]
    pub streams: Vec<StreamName>,
}

/// The store's answer to a hello.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Program and version.
    pub server: String,
    /// The store's clock.
    pub now: UnixMs,
    /// As whom the store knows the client.
    pub principal: String,
    /// Most batches that may be sent and not answered.
    pub inflight_batches_max: u32,
    /// Most bytes of batches that may be sent and not answered.
    pub inflight_bytes_max: u32,
    /// The streams that were asked for and exist (or were made).
    pub streams: Vec<StreamInfo>,
}

/// Why the connection closes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goodbye {
    /// In a word, for programs.
    pub code: String,
    /// In a sentence, for people.
    pub message: String,
}

/// A rare request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Call {
    /// Makes a stream: [`Reply::Stream`].
    CreateStream {
        /// Its name.
        name: StreamName,
        /// How many shards to start with.
        shards: u32,
        /// How it is set.
        config: StreamConfig,
    },
    /// Removes a stream with all its records: [`Reply::Done`].
    DeleteStream {
        /// Which.
        name: StreamName,
    },
    /// All streams: [`Reply::Streams`].
    ListStreams {},
    /// One stream, made if this client may: [`Reply::Stream`].
    OpenStream {
        /// Which.
        name: StreamName,
        /// One that is made is set for video: records of any size, at any rate.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        video: bool,
    },
    /// One stream: [`Reply::Stream`].
    DescribeStream {
        /// Which.
        name: StreamName,
    },
    /// Changes how a stream is set: [`Reply::Stream`].
    UpdateStream {
        /// Which.
        name: StreamName,
        /// All of its settings.
        config: StreamConfig,
    },
    /// Divides a shard in two: [`Reply::Stream`].
    SplitShard {
        /// Of which stream.
        name: StreamName,
        /// Which shard.
        shard: ShardId,
        /// First hash key of the upper child; the middle where it is not said.
        at: Option<HashKey>,
    },
    /// Makes one shard of two neighbours: [`Reply::Stream`].
    MergeShards {
        /// Of which stream.
        name: StreamName,
        /// One of them.
        shard: ShardId,
        /// The other.
        adjacent: ShardId,
    },
    /// Batches of a shard; answered with [`super::message::Type::Batches`].
    Read {
        /// Of which stream.
        name: StreamName,
        /// Of which shard.
        shard: ShardId,
        /// From where.
        from: StartingPosition,
        /// At most this many bytes, but at least one batch.
        bytes_max: u32,
        /// How long to wait for something, in milliseconds.
        wait_ms: u32,
    },
    /// A token that lets a new agent in: [`Reply::Token`].
    CreateEnrollToken {
        /// Name that the agent will have.
        agent: String,
        /// How long the token can be used, in seconds.
        ttl_s: u64,
        /// How often the token can be used.
        uses: u32,
    },
    /// Turns a token and a certificate request into a certificate: [`Reply::Certificate`].
    Enroll {
        /// As `kinesin agent enroll` printed it.
        token: String,
        /// PKCS#10 in PEM.
        csr_pem: String,
    },
    /// A fresh certificate for the one that this connection uses: [`Reply::Certificate`].
    Renew {
        /// PKCS#10 in PEM.
        csr_pem: String,
    },
    /// What the store is doing: [`Reply::Status`].
    Status {},
    /// An operation of the Kinesis API, for operators: [`Reply::Kinesis`].
    Kinesis {
        /// Its name, such as `ListShards`.
        operation: String,
        /// Its request, in the API's JSON.
        body: String,
        /// In whose name; the store's own account where it is not said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        account: Option<String>,
        /// In which region; the store's own where it is not said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        region: Option<String>,
    },
}

/// What a call is answered with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// It was done.
    Done {},
    /// One stream.
    Stream(StreamInfo),
    /// Streams, by name.
    Streams(Vec<StreamInfo>),
    /// An enrolment token, shown once.
    Token {
        /// The secret.
        token: String,
        /// When it stops working.
        expires: UnixMs,
    },
    /// A client certificate.
    Certificate {
        /// In PEM.
        certificate_pem: String,
        /// The authority that signed it, in PEM.
        ca_pem: String,
    },
    /// Counters and gauges by name.
    Status(std::collections::BTreeMap<String, f64>),
    /// What an operation of the Kinesis API answered.
    Kinesis {
        /// In the API's JSON; empty where it answers nothing.
        body: String,
    },
    /// It was not done.
    Error(CallError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sequence::SequenceNumber;

    #[test]
    fn calls_read_back_and_unknown_fields_are_refused() {
        let call = Call::Read {
            name: StreamName::new("logs").unwrap(),
            shard: ShardId(2),
            from: StartingPosition::At(SequenceNumber(9)),
            bytes_max: 100,
            wait_ms: 0,
        };
        let text = serde_json::to_string(&call).unwrap();
        assert_eq!(serde_json::from_str::<Call>(&text).unwrap(), call);
        assert!(serde_json::from_str::<Call>(r#"{"delete_stream":{"name":"a","nmae":"b"}}"#).is_err());
        assert!(serde_json::from_str::<Call>(r#"{"delete_stream":{"name":"a/b"}}"#).is_err());
    }

    #[test]
    fn a_producer_id_is_text_because_json_numbers_are_not_that_long() {
        let producer = Producer { id: u128::MAX, epoch: 1 };
        let text = serde_json::to_string(&producer).unwrap();
        assert!(text.contains("\"340282366920938463463374607431768211455\""));
        assert_eq!(serde_json::from_str::<Producer>(&text).unwrap(), producer);
    }
}
