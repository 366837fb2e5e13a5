//! Whoever misbehaves on the wire of the real store is let go with a reason, counted, and in nobody's way.

use std::io::{Read, Write};
use std::net::TcpStream;

use protocol::batch::BatchBuilder;
use protocol::compress::{Codec, Compressor};
use protocol::frame::{Header, patch_header};
use protocol::name::StreamName;
use protocol::native::call::{Goodbye, Hello, Producer};
use protocol::native::message::{Type, prefix, put_message};
use protocol::sequence::ShardId;
use protocol::time::UnixMs;
use store::client::{ClientError, Link, Target};

use crate::common::{FILES, PATIENCE, Rig, Writer, made};
use crate::eventually;

fn frame(data: &[u8], codec: Codec) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    let key = builder.key("key", None).unwrap();
    builder.push(key, UnixMs(1_700_000_000_000), data);
    let header = Header {
        stream: StreamName::new("logs").unwrap().key(),
        shard: ShardId::UNROUTED,
        producer_id: 7,
        producer_epoch: 1,
        producer_sequence: 1,
        ..Header::default()
    };
    let mut out = Vec::new();
    builder.seal(header, &mut Compressor::new(codec), &mut out);
    out
}

fn message(kind: Type, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_message(kind, body, &mut out);
    out
}

/// Says that it unpacks to `says`, and unpacks to a MiB.
fn bomb(codec: Codec, says: u32) -> Vec<u8> {
    let mut frame = frame(&vec![0; 1 << 20], codec);
    let header = Header { raw_len: says, ..Header::parse(&frame).unwrap() };
    patch_header(&mut frame, &header);
    message(Type::Append, &frame)
}

async fn goodbye(link: &mut Link) -> Goodbye {
    loop {
        match tokio::time::timeout(PATIENCE, link.next()).await.expect("no goodbye came") {
            Ok(_) => {}
            Err(ClientError::Goodbye(goodbye)) => return goodbye,
            Err(other) => panic!("{other} in place of a goodbye"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_oversized_and_bomb_like_messages_end_their_own_connection_and_no_other() {
    let Some(rig) = Rig::start(&[]).await else { return };
    rig.kinesin("stream create logs --rate off");
    let _agent = rig.agent("a", FILES);
    let mut log = Writer::new(&rig.path("logs/a.log"));
    log.write(100);
    rig.wait_for("logs", 100).await;
    let rss = rig.status("process_rss_bytes").await;
    let accepted = rig.status("connections_accepted").await;

    let mut flipped = frame(b"data", Codec::None);
    *flipped.last_mut().unwrap() ^= 1;
    let deep = [b"12345678".as_slice(), &[b'['; 100_000]].concat();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("too_long", vec![0xff; 5]),
        ("malformed", vec![0; 5]),
        ("malformed", vec![1, 0, 0, 0, 99]),
        ("too_long", prefix(Type::Call, 2 << 20).to_vec()),
        ("malformed", message(Type::Call, &deep)),
        ("malformed", message(Type::Call, b"12345678{\"fly\":{}}")),
        ("bad_frame", message(Type::Append, b"KNSN")),
        ("bad_frame", message(Type::Append, &flipped)),
        ("bad_frame", bomb(Codec::Lz4, 1000)),
        ("bad_frame", bomb(Codec::Zstd, 1000)),
        ("bad_frame", bomb(Codec::Lz4, u32::MAX)),
        ("bad_frame", bomb(Codec::Zstd, 10 << 20)),
    ];
    let target = Target::of_data_dir(&rig.store.data).unwrap();
    let producer = Some(Producer { id: 7, epoch: 1 });
    let hello = Hello { client: "bad".to_owned(), producer, streams: Vec::new() };
    for (number, (code, bytes)) in cases.iter().enumerate() {
        let mut link = Link::connect(&target, &hello).await.unwrap();
        link.put_raw(bytes);
        link.flush().await.unwrap();
        let said = goodbye(&mut link).await;
        assert_eq!(said.code, *code, "case {number}: {}", said.message);
        assert!(!said.message.is_empty());
        log.write(10);
    }
    let address = rig.store.address;
    let no_tls = tokio::task::spawn_blocking(move || {
        let mut tcp = TcpStream::connect(address).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        tcp.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let _ = tcp.read_to_end(&mut Vec::new());
    });
    no_tls.await.unwrap();
    for (code, _) in cases.iter().chain(&[("not_tls", Vec::new())]) {
        let counter = format!("connections_closed_{code}");
        let want = cases.iter().filter(|(other, _)| other == code).count().max(1) as f64;
        eventually!(format!("{counter} is {want}"), rig.status(&counter).await == want);
        assert!(rig.kinesin("status").contains(&counter));
    }
    // The agent's one connection has gone through all of it.
    rig.assert_all_stored("logs", &made(&[log])).await;
    let strangers = cases.len() as f64 + 1.0;
    let commands = 3.0 * cases.len() as f64;
    assert!(rig.status("connections_accepted").await <= accepted + strangers + commands);
    assert!(rig.status("process_rss_bytes").await < rss + f64::from(48 << 20));
}
