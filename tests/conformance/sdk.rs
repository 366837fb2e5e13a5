//! The AWS SDK for Rust against a real store, over HTTP/1.1 and over HTTP/2 without asking first. Its requests travel by
//! hyper, without TLS, as it brings none that is wanted here.

use std::net::SocketAddr;
use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::http::{HttpRequest, HttpResponse};
use aws_sdk_kinesis::config::{Credentials, Region};
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::{
    PutRecordsRequestEntry, ShardIteratorType, StartingPosition, StreamStatus, SubscribeToShardEventStream,
};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

/// A connection for every request.
#[derive(Debug, Clone)]
struct Plain {
    address: SocketAddr,
    http2: bool,
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

impl Plain {
    async fn send(self, request: HttpRequest) -> Result<HttpResponse, Failed> {
        let mut request = request.try_into_http1x()?;
        let stream = TokioIo::new(TcpStream::connect(self.address).await?);
        let response = if self.http2 {
            let (mut send, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await?;
            tokio::spawn(connection);
            send.send_request(request).await?
        } else {
            // What a proxy wants in full, a server wants without its own name.
            let host = self.address.to_string().parse()?;
            request.headers_mut().insert(hyper::header::HOST, host);
            *request.uri_mut() = request.uri().path().parse()?;
            let (mut send, connection) = hyper::client::conn::http1::handshake(stream).await?;
            tokio::spawn(connection);
            send.send_request(request).await?
        };
        Ok(HttpResponse::try_from(response.map(SdkBody::from_body_1_x))?)
    }
}

impl HttpConnector for Plain {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let sent = self.clone().send(request);
        HttpConnectorFuture::new(async move { sent.await.map_err(ConnectorError::io) })
    }
}

impl HttpClient for Plain {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

fn client(address: SocketAddr, http2: bool, credentials: &str) -> Client {
    let value = |name: &str| {
        let mut pairs = credentials.lines().filter_map(|line| line.split_once('='));
        pairs.find(|(is, _)| is.trim() == name).map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let key =
        Credentials::new(value("aws_access_key_id"), value("aws_secret_access_key"), None, None, "a file");
    let config = aws_sdk_kinesis::Config::builder()
        .behavior_version_latest()
        .endpoint_url(format!("http://{address}"))
        .region(Region::new("local-1"))
        .credentials_provider(key)
        .http_client(Plain { address, http2 });
    Client::from_conf(config.build())
}

async fn active(client: &Client, stream: &str) -> String {
    for _ in 0..200 {
        let told = client.describe_stream_summary().stream_name(stream).send().await.unwrap();
        let told = told.stream_description_summary.unwrap();
        if told.stream_status == StreamStatus::Active {
            return told.stream_arn;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{stream} does not become active");
}

/// Makes a stream, puts, gets, splits, subscribes, and removes it.
pub(crate) async fn run(address: SocketAddr, http2: bool, credentials: &str) {
    let client = client(address, http2, credentials);
    let stream = if http2 { "rust-2" } else { "rust-1" };
    client.create_stream().stream_name(stream).shard_count(1).send().await.unwrap();
    let arn = active(&client, stream).await;
    let put = client.put_record().stream_name(stream).partition_key("a").data(Blob::new("one"));
    assert_eq!(put.send().await.unwrap().sequence_number.len(), 56);
    let entry = |data: &str| {
        PutRecordsRequestEntry::builder().partition_key("a").data(Blob::new(data)).build().unwrap()
    };
    let many = client.put_records().stream_arn(&arn).records(entry("two")).records(entry("three"));
    assert_eq!(many.send().await.unwrap().failed_record_count, Some(0));

    let shard = "shardId-000000000000";
    let iterator = client.get_shard_iterator().stream_name(stream).shard_id(shard);
    let iterator = iterator.shard_iterator_type(ShardIteratorType::TrimHorizon).send().await.unwrap();
    let got = client.get_records().set_shard_iterator(iterator.shard_iterator).send().await.unwrap();
    let data: Vec<&[u8]> = got.records.iter().map(|record| record.data.as_ref()).collect();
    assert_eq!(data, [b"one".as_slice(), b"two", b"three"]);

    let consumer =
        client.register_stream_consumer().stream_arn(&arn).consumer_name("c").send().await.unwrap();
    let consumer = consumer.consumer.unwrap().consumer_arn;
    let from = StartingPosition::builder().r#type(ShardIteratorType::TrimHorizon).build().unwrap();
    let subscribed = client.subscribe_to_shard().consumer_arn(consumer).shard_id(shard);
    let mut events = subscribed.starting_position(from).send().await.unwrap().event_stream;
    let (mut data, mut children) = (Vec::new(), Vec::new());
    while let Some(event) = events.recv().await.unwrap() {
        let SubscribeToShardEventStream::SubscribeToShardEvent(event) = event else { panic!("{event:?}") };
        data.extend(event.records.iter().map(|record| record.data.as_ref().to_vec()));
        if data.len() == 3 && children.is_empty() && event.child_shards.is_none() {
            let half = (1u128 << 127).to_string();
            let split = client.split_shard().stream_name(stream).shard_to_split(shard);
            // Asked for once more, it is closed already.
            let _ = split.new_starting_hash_key(half).send().await;
        }
        children = event.child_shards.unwrap_or(children);
    }
    assert_eq!((data.len(), children.len()), (3, 2), "a split shard ends its subscription with its children");

    let nothing = client.describe_stream_summary().stream_name("nothing").send().await.unwrap_err();
    assert!(nothing.into_service_error().is_resource_not_found_exception());
    active(&client, stream).await;
    client.delete_stream().stream_name(stream).enforce_consumer_deletion(true).send().await.unwrap();
    println!("ok      the SDK for Rust over HTTP/{}", if http2 { "2" } else { "1.1" });
}
