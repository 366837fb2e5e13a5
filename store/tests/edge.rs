//! What the store's edge promises: who gets in and who does not, and that nobody who misbehaves is in anybody
//! else's way. A real store, real sockets, short time limits.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use protocol::batch::BatchBuilder;
use protocol::compress::{Codec, Compressor};
use protocol::frame::{Frame, Header, patch_header};
use protocol::limit;
use protocol::name::StreamName;
use protocol::native::call::{
    Call, CallErrorCode, Goodbye, Hello, Producer, Reply, StartingPosition, StreamConfig,
};
use protocol::native::message::{Outcome, Type, prefix, put_message};
use protocol::native::url::StoreUrl;
use protocol::sequence::ShardId;
use protocol::sigv4;
use protocol::time::UnixMs;
use store::api::counters::Reason;
use store::api::listener::Server;
use store::api::{ALPN, Limits};
use store::auth::ca::server_names;
use store::auth::tls::HandshakeFailure;
use store::auth::{Auth, TOKEN_TTL_S_MAX, TOKEN_USES_MAX};
use store::client::{Client, ClientError, Identity, Link, Target};
use store::clock::Clock;
use store::principal::{Principal, Role};
use store::service::{Service, Settings};

const PATIENCE: Duration = Duration::from_secs(20);

struct Edge {
    _dir: tempfile::TempDir,
    server: Server,
    auth: Arc<Auth>,
    service: Service,
    address: SocketAddr,
}

fn short() -> Limits {
    Limits {
        handshake: Duration::from_millis(400),
        hello: Duration::from_millis(400),
        idle: Duration::from_millis(600),
        stall: Duration::from_millis(400),
        farewell: Duration::from_secs(2),
        ..Limits::default()
    }
}

impl Edge {
    async fn start(limits: Limits) -> Edge {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::start();
        let settings = Settings { free_bytes_min: 0, ..Settings::new(dir.path().join("data")) };
        let data = settings.data_dir.clone();
        store::auth::files::create_dir(&data).unwrap();
        let service = Service::open(settings, clock).unwrap();
        let auth = Auth::open(&data, server_names(&[], &[]), ALPN.to_vec(), clock).unwrap();
        let auth = Arc::new(auth);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Server::start(listener, service.clone(), auth.clone(), limits, clock, false).unwrap();
        let address = server.address();
        Edge { _dir: dir, server, auth, service, address }
    }

    fn target(&self, identity: Option<Identity>) -> Target {
        Target {
            url: StoreUrl { host: "127.0.0.1".to_owned(), port: self.address.port() },
            ca_name: "ca.pem".to_owned(),
            ca_pem: self.auth.authority().pem().to_owned(),
            identity,
        }
    }

    fn identity(&self, name: &str, role: Role, life: Duration) -> Identity {
        let principal = Principal { name: name.to_owned(), role };
        let (certificate_pem, key_pem) = self.auth.authority().new_client(&principal, life).unwrap();
        Identity { name: format!("{name}.pem"), certificate_pem, key_pem }
    }

    fn admin(&self) -> Target {
        self.target(Some(self.identity("boss", Role::Admin, Duration::from_secs(600))))
    }

    fn agent(&self) -> Target {
        self.target(Some(self.identity("truck-1", Role::Agent, Duration::from_secs(600))))
    }

    /// Everything ordinary still works.
    async fn assert_well(&self) {
        let client = Client::connect(&self.admin()).await.unwrap();
        assert!(matches!(client.call(Call::ListStreams {}).await.unwrap(), Reply::Streams(_)));
    }

    async fn wait_count(&self, reason: Reason) {
        let seen = async {
            while self.server.counters().count(reason) == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, seen).await.is_ok(), "{} was never counted", reason.code());
    }
}

fn hello(streams: &[&str]) -> Hello {
    Hello {
        client: "test".to_owned(),
        producer: Some(Producer { id: 7, epoch: 1 }),
        streams: streams.iter().map(|name| StreamName::new(name).unwrap()).collect(),
    }
}

fn frame(stream: &str, sequence: u64, data: &[u8], codec: Codec) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    let key = builder.key("key", None).unwrap();
    builder.push(key, UnixMs(1_700_000_000_000), data);
    let header = Header {
        stream: StreamName::new(stream).unwrap().key(),
        shard: ShardId::UNROUTED,
        producer_id: 7,
        producer_epoch: 1,
        producer_sequence: sequence,
        ..Header::default()
    };
    let mut out = Vec::new();
    builder.seal(header, &mut Compressor::new(codec), &mut out);
    out
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

async fn connect_error(target: &Target) -> String {
    Link::connect(target, &hello(&[])).await.expect_err("should have been refused").to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_appends_an_operator_reads() {
    let edge = Edge::start(Limits::default()).await;
    let agent = Client::connect_as(&edge.agent(), &hello(&["logs"])).await.unwrap();
    assert_eq!(agent.welcome().principal, "truck-1");
    assert_eq!(agent.welcome().streams.len(), 1);
    for sequence in 0..20 {
        let big = vec![sequence as u8; 1 << (sequence % 20)];
        let ack = agent.append(frame("logs", sequence, &big, Codec::Lz4)).await.unwrap();
        assert!(matches!(ack.outcome, Outcome::Stored { .. }), "{ack:?}");
    }
    let again = agent.append(frame("logs", 3, b"again", Codec::None)).await.unwrap();
    assert_eq!(again.outcome, Outcome::Duplicate);
    let reader = Client::connect(&edge.admin()).await.unwrap();
    let (name, mut from, mut records) = (StreamName::new("logs").unwrap(), StartingPosition::TrimHorizon, 0);
    loop {
        let read = reader.read(&name, ShardId(0), from, 1 << 20, 0).await.unwrap();
        let mut rest = read.frames();
        while !rest.is_empty() {
            let (frame, after) = Frame::parse_first(rest).unwrap();
            (rest, records) = (after, records + frame.header.record_count);
        }
        from = StartingPosition::At(read.head.next);
        if read.head.next >= read.head.tail {
            break;
        }
    }
    assert_eq!(records, 20);
    assert_eq!(edge.server.pending_bytes(), 0, "what was answered is held no longer");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_certificate_may_only_enrol() {
    let edge = Edge::start(Limits::default()).await;
    let stranger = Client::connect(&edge.target(None)).await.unwrap();
    assert_eq!(stranger.welcome().principal, "anonymous");
    for call in [Call::ListStreams {}, Call::Status {}, Call::Renew { csr_pem: String::new() }] {
        let error = stranger.call(call).await.unwrap_err();
        let ClientError::Refused(error) = error else { panic!("{error}") };
        assert_eq!(error.code, CallErrorCode::Denied);
    }
    let mut link = Link::connect(&edge.target(None), &hello(&["made-by-nobody"])).await.unwrap();
    assert!(link.welcome().streams.is_empty());
    link.put_append(&frame("logs", 0, b"x", Codec::None));
    link.flush().await.unwrap();
    assert_eq!(goodbye(&mut link).await.code, "denied");
    let admin = Client::connect(&edge.admin()).await.unwrap();
    assert_eq!(admin.call(Call::ListStreams {}).await.unwrap(), Reply::Streams(Vec::new()));
}

fn request() -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
    (csr.pem().unwrap(), key.serialize_pem())
}

async fn token(edge: &Edge, uses: u32) -> String {
    let admin = Client::connect(&edge.admin()).await.unwrap();
    let call = Call::CreateEnrollToken { agent: "truck-9".to_owned(), ttl_s: 60, uses };
    match admin.call(call).await.unwrap() {
        Reply::Token { token, .. } => token,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_lets_an_agent_in_once_and_its_certificate_renews_itself() {
    let edge = Edge::start(Limits::default()).await;
    let token = token(&edge, 1).await;
    let stranger = Client::connect(&edge.target(None)).await.unwrap();
    let bad = Call::Enroll { token: token.clone(), csr_pem: "nonsense".to_owned() };
    stranger.call(bad).await.expect_err("a bad request is refused and does not use the token up");
    let (csr_pem, key_pem) = request();
    let enroll = Call::Enroll { token, csr_pem };
    let Reply::Certificate { certificate_pem, ca_pem } = stranger.call(enroll.clone()).await.unwrap() else {
        panic!("no certificate")
    };
    assert_eq!(ca_pem, edge.auth.authority().pem());
    stranger.call(enroll).await.expect_err("a second time");
    let identity = Identity { name: "new".to_owned(), certificate_pem, key_pem };
    let agent = Client::connect_as(&edge.target(Some(identity)), &hello(&[])).await.unwrap();
    assert_eq!(agent.welcome().principal, "truck-9");
    let (csr_pem, key_pem) = request();
    let Reply::Certificate { certificate_pem, .. } = agent.call(Call::Renew { csr_pem }).await.unwrap()
    else {
        panic!("no certificate")
    };
    let identity = Identity { name: "newer".to_owned(), certificate_pem, key_pem };
    let agent = Client::connect_as(&edge.target(Some(identity)), &hello(&[])).await.unwrap();
    assert_eq!(agent.welcome().principal, "truck-9");
    let more = Call::CreateEnrollToken { agent: "x".to_owned(), ttl_s: 60, uses: 1 };
    assert!(agent.call(more).await.unwrap_err().to_string().contains("only an admin"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_another_store_says_so() {
    let (one, two) = (Edge::start(Limits::default()).await, Edge::start(Limits::default()).await);
    let token = token(&one, 1).await;
    let stranger = Client::connect(&two.target(None)).await.unwrap();
    let error = stranger.call(Call::Enroll { token, csr_pem: request().0 }).await.unwrap_err().to_string();
    assert!(error.contains(&one.auth.authority().fingerprint()[..16]), "{error}");
    let none = Call::Enroll { token: "kt1.x.y".to_owned(), csr_pem: request().0 };
    assert!(stranger.call(none).await.unwrap_err().to_string().contains("no enrolment token"));
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_another_authority_are_refused_with_a_reason_on_both_ends() {
    let (one, two) = (Edge::start(Limits::default()).await, Edge::start(Limits::default()).await);
    let foreign = two.identity("truck-1", Role::Agent, Duration::from_secs(600));
    let error = connect_error(&one.target(Some(foreign))).await;
    assert!(error.contains("another authority") && error.contains("truck-1.pem"), "{error}");
    one.wait_count(Reason::Handshake(HandshakeFailure::OtherAuthority)).await;
    let wrong_ca = Target { ca_pem: two.auth.authority().pem().to_owned(), ..one.agent() };
    let error = connect_error(&wrong_ca).await;
    assert!(error.contains("is not the one that ca.pem belongs to"), "{error}");
    one.wait_count(Reason::Handshake(HandshakeFailure::RefusedByPeer)).await;
    one.assert_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_is_refused_with_a_reason_on_both_ends() {
    let edge = Edge::start(Limits::default()).await;
    let expired = edge.target(Some(edge.identity("truck-1", Role::Agent, Duration::ZERO)));
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let error = connect_error(&expired).await;
    assert!(error.contains("expired"), "{error}");
    edge.wait_count(Reason::Handshake(HandshakeFailure::Expired)).await;
    edge.assert_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_there_and_a_wrong_name_are_said_in_a_sentence() {
    let edge = Edge::start(Limits::default()).await;
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut nobody = edge.admin();
    nobody.url.port = free;
    assert!(connect_error(&nobody).await.contains("kinesin serve"));
    let mut other_name = edge.admin();
    other_name.url.host = "127.0.0.2".to_owned();
    let error = connect_error(&other_name).await;
    assert!(error.contains("--san 127.0.0.2") || error.contains("no store answers"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_no_message_ends_its_own_connection_with_a_reason_and_no_other() {
    let edge = Edge::start(Limits::default()).await;
    let bystander = Client::connect_as(&edge.agent(), &hello(&["logs"])).await.unwrap();
    let good = frame("logs", 0, b"data", Codec::None);
    let flipped = |at: usize| {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        message(Type::Append, &bad)
    };
    let cases: Vec<(&str, &str, Vec<u8>)> = vec![
        ("endless length", "too_long", vec![0xff; 5]),
        ("no type", "malformed", vec![0; 5]),
        ("unknown type", "malformed", vec![1, 0, 0, 0, 99]),
        ("a call that is too long", "too_long", prefix(Type::Call, 2 << 20).to_vec()),
        ("a ping with a load", "too_long", message(Type::Ping, &[0; 100])),
        ("a second hello", "malformed", message(Type::Hello, b"{}")),
        ("a message of the store", "malformed", message(Type::Ack, &[0; 20])),
        ("no json", "malformed", message(Type::Call, b"12345678{")),
        ("an unknown call", "malformed", message(Type::Call, b"12345678{\"fly\":{}}")),
        ("deep json", "malformed", message(Type::Call, &[b"12345678".as_slice(), &[b'['; 100_000]].concat())),
        ("a short frame", "bad_frame", message(Type::Append, b"KNSN")),
        ("a flipped bit in the header", "bad_frame", flipped(30)),
        ("a flipped bit in the payload", "bad_frame", flipped(good.len() - 1)),
        ("a bomb", "bad_frame", message(Type::Append, &bomb())),
        ("a frame of somebody else", "bad_frame", message(Type::Append, &stolen())),
    ];
    for (what, code, bytes) in cases {
        let mut link = Link::connect(&edge.agent(), &hello(&[])).await.unwrap();
        link.put_raw(&bytes);
        link.flush().await.unwrap();
        let said = goodbye(&mut link).await;
        assert_eq!(said.code, code, "{what}: {}", said.message);
    }
    assert_eq!(edge.server.counters().count(Reason::BadFrame), 5);
    let ack = bystander.append(good).await.unwrap();
    assert!(matches!(ack.outcome, Outcome::Stored { .. }));
    assert_eq!(edge.server.pending_bytes(), 0);
}

fn message(kind: Type, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_message(kind, body, &mut out);
    out
}

/// Says that it unpacks to little, and unpacks to much.
fn bomb() -> Vec<u8> {
    let mut frame = frame("logs", 0, &vec![0; 1 << 20], Codec::Zstd);
    let header = Header { raw_len: 1000, ..Header::parse(&frame).unwrap() };
    patch_header(&mut frame, &header);
    frame
}

fn stolen() -> Vec<u8> {
    let mut frame = frame("logs", 0, b"x", Codec::None);
    let header = Header { producer_id: 8, ..Header::parse(&frame).unwrap() };
    patch_header(&mut frame, &header);
    frame
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_hello_little_is_taken_and_nothing_but_a_hello() {
    let edge = Edge::start(Limits::default()).await;
    for (first, code) in [
        (prefix(Type::Hello, 20_000).to_vec(), "too_long"),
        (message(Type::Call, b"12345678{}"), "no_hello"),
        (message(Type::Hello, b"not json"), "malformed"),
    ] {
        // TLS by hand, because a client greets at once.
        let bytes = raw_tls(&edge, Some(protocol::native::ALPN), &first).await;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(text.contains(&format!("\"code\":\"{code}\"")), "{text}");
    }
    edge.assert_well().await;
}

/// Speaks TLS without a certificate, sends bytes, and returns what came back until the end.
async fn raw_tls(edge: &Edge, alpn: Option<&[u8]>, send: &[u8]) -> Vec<u8> {
    raw_tls_until(edge, alpn, send, |_| false).await
}

/// The same, until it was enough.
async fn raw_tls_until(
    edge: &Edge,
    alpn: Option<&[u8]>,
    send: &[u8],
    enough: impl Fn(&[u8]) -> bool,
) -> Vec<u8> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(edge.auth.authority().certificate().clone()).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(store::auth::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let tcp = tokio::net::TcpStream::connect(edge.address).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
    let connected = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await;
    let Ok(mut tls) = connected else { return Vec::new() };
    let mut bytes = Vec::new();
    let _ = tls.write_all(send).await;
    let _ = tls.flush().await;
    let read =
        async { while !enough(&bytes) && tls.read_buf(&mut bytes).await.is_ok_and(|read| read > 0) {} };
    tokio::time::timeout(PATIENCE, read).await.expect("it stayed open");
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_slow_to_say_who_it_is_is_let_go() {
    let edge = Edge::start(short()).await;
    let address = edge.address;
    let silent = tokio::task::spawn_blocking(move || {
        let mut tcp = TcpStream::connect(address).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        tcp.read(&mut [0; 10])
    });
    edge.wait_count(Reason::SlowHandshake).await;
    assert!(matches!(silent.await.unwrap(), Ok(0) | Err(_)));
    let text = raw_tls(&edge, Some(protocol::native::ALPN), &[9, 0]).await;
    assert!(String::from_utf8_lossy(&text).contains("no_hello"));
    edge.assert_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_speak_tls_or_none_of_our_protocols_is_let_go() {
    let edge = Edge::start(Limits::default()).await;
    let address = edge.address;
    tokio::task::spawn_blocking(move || {
        let mut tcp = TcpStream::connect(address).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        tcp.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let _ = tcp.read_to_end(&mut Vec::new());
    })
    .await
    .unwrap();
    edge.wait_count(Reason::Handshake(HandshakeFailure::NotTls)).await;
    raw_tls(&edge, Some(b"spdy/3"), b"").await;
    edge.wait_count(Reason::Handshake(HandshakeFailure::NoCommonProtocol)).await;
    edge.assert_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_client_is_let_go_and_one_that_pings_is_not() {
    let edge = Edge::start(short()).await;
    let mut silent = Link::connect(&edge.admin(), &hello(&[])).await.unwrap();
    let mut half = Link::connect(&edge.agent(), &hello(&[])).await.unwrap();
    half.put_raw(&prefix(Type::Append, 1_000_000));
    half.flush().await.unwrap();
    let mut pinging = Link::connect(&edge.admin(), &hello(&[])).await.unwrap();
    let (mut left, mut half_left) = (false, false);
    for _ in 0..20 {
        pinging.put_ping();
        pinging.flush().await.unwrap();
        let answer = tokio::time::timeout(Duration::from_millis(80), pinging.next()).await;
        assert!(answer.is_err(), "pongs are not messages: {answer:?}");
    }
    left |= goodbye(&mut silent).await.code == "idle";
    half_left |= goodbye(&mut half).await.code == "idle";
    assert!(left && half_left);
    assert_eq!(edge.server.pending_bytes(), 0, "half a message is forgotten");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_its_answers_is_let_go_and_others_are_served_meanwhile() {
    let edge = Edge::start(short()).await;
    let name = StreamName::new("big").unwrap();
    let admin = Client::connect_as(&edge.admin(), &hello(&[])).await.unwrap();
    let config = StreamConfig { shard_rate: None, ..StreamConfig::default() };
    admin.stream(Call::CreateStream { name: name.clone(), shards: 1, config }).await.unwrap();
    for sequence in 0..8 {
        admin.append(frame("big", sequence, &vec![sequence as u8; 1 << 20], Codec::None)).await.unwrap();
    }
    let mut deaf = Link::connect(&edge.admin(), &hello(&[])).await.unwrap();
    for id in 0..10 {
        let call = Call::Read {
            name: name.clone(),
            shard: ShardId(0),
            from: StartingPosition::TrimHorizon,
            bytes_max: 8 << 20,
            wait_ms: 0,
        };
        deaf.put_call(id, &call);
    }
    deaf.flush().await.unwrap();
    edge.wait_count(Reason::SlowReader).await;
    edge.assert_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_from_one_address_are_bounded_and_their_places_come_back() {
    let edge = Edge::start(Limits { per_address_max: 2, ..Limits::default() }).await;
    let one = Link::connect(&edge.admin(), &hello(&[])).await.unwrap();
    let _two = Link::connect(&edge.admin(), &hello(&[])).await.unwrap();
    Link::connect(&edge.admin(), &hello(&[])).await.expect_err("a third");
    edge.wait_count(Reason::TooMany).await;
    drop(one);
    let again = async {
        while Link::connect(&edge.admin(), &hello(&[])).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("the place never came back");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_calls_at_once_are_answered_so_and_the_connection_goes_on() {
    let edge = Edge::start(Limits { calls_max: 2, ..Limits::default() }).await;
    let client = Client::connect_as(&edge.admin(), &hello(&["logs"])).await.unwrap();
    let name = StreamName::new("logs").unwrap();
    let wait = || client.read(&name, ShardId(0), StartingPosition::Latest, 1000, 500);
    let (one, two, three) = tokio::join!(wait(), wait(), wait());
    assert!(one.is_ok() && two.is_ok());
    let ClientError::Refused(error) = three.unwrap_err() else { panic!("not refused") };
    assert_eq!(error.code, CallErrorCode::Limit);
    assert!(wait().await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_hears_of_changes_of_the_streams_that_it_named_only() {
    let edge = Edge::start(Limits::default()).await;
    let agent = Client::connect_as(&edge.agent(), &hello(&["named", "other"])).await.unwrap();
    let stranger = Client::connect_as(&edge.agent(), &hello(&["other"])).await.unwrap();
    let (mut heard, mut unheard) = (agent.changes(), stranger.changes());
    let admin = Client::connect(&edge.admin()).await.unwrap();
    let split = Call::SplitShard { name: StreamName::new("named").unwrap(), shard: ShardId(0), at: None };
    admin.stream(split).await.unwrap();
    let mut next = async || tokio::time::timeout(PATIENCE, heard.recv()).await.unwrap().unwrap();
    let mut change = next().await;
    // That its streams were made for it, it may hear as well.
    while change.shards.len() == 1 {
        change = next().await;
    }
    assert_eq!((change.name.as_str(), change.shards.len()), ("named", 3));
    while let Ok(other) = unheard.try_recv() {
        assert_eq!(other.name.as_str(), "other");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_ends_answers_what_it_took_and_says_goodbye() {
    let edge = Edge::start(Limits::default()).await;
    let mut link = Link::connect(&edge.agent(), &hello(&["logs"])).await.unwrap();
    for sequence in 0..50 {
        link.put_append(&frame("logs", sequence, &[7; 1000], Codec::None));
    }
    link.flush().await.unwrap();
    while link.next().await.unwrap().kind != Type::Ack {}
    let Edge { server, service, _dir, .. } = edge;
    let ended = tokio::spawn(async move {
        server.shutdown().await;
        service.close().await;
        drop(_dir);
    });
    let said = goodbye(&mut link).await;
    assert_eq!(said.code, "shutdown");
    ended.await.unwrap();
}

/// Reaches `READ_BYTES_MAX` of protocol/src/limit.rs.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_answers_with_as_many_bytes_as_it_may_and_no_more() {
    let edge = Edge::start(Limits::default()).await;
    let admin = Client::connect_as(&edge.admin(), &hello(&[])).await.unwrap();
    let mib = frame("full", 0, &[7; 1 << 20], Codec::None);
    let left = limit::READ_BYTES_MAX - 7 * mib.len();
    let around = mib.len() - (1 << 20);
    for (stream, more) in [("full", 0), ("over", 1)] {
        let name = StreamName::new(stream).unwrap();
        let config = StreamConfig { shard_rate: None, ..StreamConfig::default() };
        admin.stream(Call::CreateStream { name: name.clone(), shards: 1, config }).await.unwrap();
        for sequence in 0..7 {
            admin.append(frame(stream, sequence, &[7; 1 << 20], Codec::None)).await.unwrap();
        }
        let last = frame(stream, 7, &vec![7; left - around + more], Codec::None);
        assert_eq!(last.len(), left + more);
        admin.append(last).await.unwrap();
        let read = admin.read(&name, ShardId(0), StartingPosition::TrimHorizon, u32::MAX, 0).await.unwrap();
        let want = if more == 0 { limit::READ_BYTES_MAX } else { limit::READ_BYTES_MAX - left };
        assert_eq!(read.frames().len(), want, "{stream}");
    }
}

/// Reaches `TOKEN_TTL_S_MAX`, `TOKEN_USES_MAX` of store/src/auth/mod.rs.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_usable_for_as_long_and_as_often_as_it_may_be_and_no_more() {
    let edge = Edge::start(Limits::default()).await;
    let admin = Client::connect(&edge.admin()).await.unwrap();
    let make = async |ttl_s: u64, uses: u32| {
        let call = Call::CreateEnrollToken { agent: "truck-9".to_owned(), ttl_s, uses };
        matches!(admin.call(call).await, Ok(Reply::Token { .. }))
    };
    assert!(make(TOKEN_TTL_S_MAX, TOKEN_USES_MAX).await);
    assert!(!make(TOKEN_TTL_S_MAX + 1, 1).await && !make(1, TOKEN_USES_MAX + 1).await);
}

/// An operation of the Kinesis API: what it answers, or what it is refused with.
async fn kinesis(client: &Client, operation: &str, body: &str) -> Result<String, String> {
    let (operation, body) = (operation.to_owned(), body.to_owned());
    match client.call(Call::Kinesis { operation, body, account: None, region: None }).await {
        Ok(Reply::Kinesis { body }) => Ok(body),
        other => Err(format!("{other:?}")),
    }
}

/// Reaches `CONSUMERS_MAX` of store/src/api/kinesis/consumers.rs.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_has_as_many_consumers_as_it_may_have_and_no_more() {
    let edge = Edge::start(Limits { status_delay: Duration::ZERO, ..Limits::default() }).await;
    let admin = Client::connect(&edge.admin()).await.unwrap();
    kinesis(&admin, "CreateStream", r#"{"StreamName":"a","ShardCount":1}"#).await.unwrap();
    let found = kinesis(&admin, "DescribeStreamSummary", r#"{"StreamName":"a"}"#).await.unwrap();
    let arn = found.split('"').find(|text| text.starts_with("arn:")).unwrap().to_owned();
    for n in 0..20 {
        let body = format!(r#"{{"StreamARN":"{arn}","ConsumerName":"c{n}"}}"#);
        kinesis(&admin, "RegisterStreamConsumer", &body).await.unwrap();
    }
    let body = format!(r#"{{"StreamARN":"{arn}","ConsumerName":"one-more"}}"#);
    let refused = kinesis(&admin, "RegisterStreamConsumer", &body).await.unwrap_err();
    assert!(refused.contains("has 20 consumers"), "{refused}");
}

/// Reaches `ON_DEMAND_MAX` of store/src/api/kinesis/streams.rs.
#[tokio::test(flavor = "multi_thread")]
async fn as_many_streams_are_in_on_demand_mode_as_may_be_and_no_more() {
    let edge = Edge::start(Limits { status_delay: Duration::ZERO, ..Limits::default() }).await;
    let admin = Client::connect(&edge.admin()).await.unwrap();
    let mode = r#""StreamModeDetails":{"StreamMode":"ON_DEMAND"}"#;
    for n in 0..50 {
        kinesis(&admin, "CreateStream", &format!(r#"{{"StreamName":"s{n}",{mode}}}"#)).await.unwrap();
    }
    let refused = kinesis(&admin, "CreateStream", &format!(r#"{{"StreamName":"s50",{mode}}}"#)).await;
    assert!(refused.unwrap_err().contains("has 50 streams in on-demand mode"));
    kinesis(&admin, "CreateStream", r#"{"StreamName":"s50","ShardCount":1}"#).await.unwrap();
    let found = kinesis(&admin, "DescribeStreamSummary", r#"{"StreamName":"s50"}"#).await.unwrap();
    let arn = found.split('"').find(|text| text.starts_with("arn:")).unwrap().to_owned();
    let refused = kinesis(&admin, "UpdateStreamMode", &format!(r#"{{"StreamARN":"{arn}",{mode}}}"#)).await;
    assert!(refused.unwrap_err().contains("has 50 streams in on-demand mode"));
}

/// Reaches `LIST_MAX` of store/src/api/kinesis/shards.rs.
/// Reaches `SHARDS_MAX` of store/src/api/kinesis/streams.rs.
#[tokio::test(flavor = "multi_thread")]
async fn an_account_has_as_many_shards_as_it_may_have_and_an_answer_a_part_of_them() {
    let edge = Edge::start(Limits { status_delay: Duration::ZERO, ..Limits::default() }).await;
    let admin = Client::connect(&edge.admin()).await.unwrap();
    let create = async |name: &str, shards: usize| {
        kinesis(&admin, "CreateStream", &format!(r#"{{"StreamName":"{name}","ShardCount":{shards}}}"#)).await
    };
    create("a", 1000).await.unwrap();
    create("b", 1001).await.unwrap();
    for (stream, more) in [("a", false), ("b", true)] {
        let body = format!(r#"{{"StreamName":"{stream}","MaxResults":10000}}"#);
        let listed = kinesis(&admin, "ListShards", &body).await.unwrap();
        assert_eq!(listed.matches("\"ShardId\"").count(), 1000);
        assert_eq!(listed.contains("NextToken\":\""), more, "{stream}");
    }
    create("c", 9000).await.unwrap();
    create("d", 20_000 - 9000 - 2001).await.unwrap();
    let refused = create("e", 1).await.unwrap_err();
    assert!(refused.contains("Limit: 20000"), "{refused}");
}

/// A request over HTTP/1.1 with a body of so many bytes; what is answered.
async fn posted(edge: &Edge, path: &str, bytes: usize) -> String {
    let head =
        format!("POST {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {bytes}\r\n\r\n");
    let answer = raw_tls(edge, Some(b"http/1.1"), &[head.into_bytes(), vec![b' '; bytes]].concat()).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// Reaches `BODY_BYTES_MAX` of store/src/api/kinesis/http.rs.
/// Reaches `BODY_BYTES_MAX` of store/src/api/kvs/mod.rs.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_has_a_body_as_long_as_it_may_be_and_no_longer() {
    let edge = Edge::start(Limits::default()).await;
    let (most, refused) = (posted(&edge, "/", 16 << 20).await, posted(&edge, "/", (16 << 20) + 1).await);
    assert!(most.starts_with("HTTP/1.1 4") && !most.starts_with("HTTP/1.1 413"), "{most}");
    assert!(refused.starts_with("HTTP/1.1 413"), "{refused}");
    let (path, max) = ("/describeStream", 256 << 10);
    let (most, refused) = (posted(&edge, path, max).await, posted(&edge, path, max + 1).await);
    assert!(most.starts_with("HTTP/1.1 4") && !most.contains("a request of more than"), "{most}");
    assert!(refused.contains("a request of more than 262144 bytes"), "{refused}");
}

/// Reaches `STREAMS_MAX`, `HEADER_BYTES_MAX` of store/src/api/kinesis/http.rs.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_told_how_many_requests_there_may_be_at_a_time_and_how_long_their_headers() {
    let edge = Edge::start(short()).await;
    // Settings of a stream, which there are none of: an error that ends the connection.
    let hello = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &[0, 0, 0, 4, 0, 0, 0, 0, 1]].concat();
    let said = raw_tls(&edge, Some(b"h2"), &hello).await;
    let (length, kind) = (usize::from(said[2]) | usize::from(said[1]) << 8, said[3]);
    assert_eq!(kind, 4, "settings come first");
    let settings: Vec<&[u8]> = said[9..9 + length].chunks(6).collect();
    assert!(settings.contains(&&[0, 3, 0, 0, 1, 0][..]), "256 requests: {settings:?}");
    assert!(settings.contains(&&[0, 6, 0, 1, 0, 0][..]), "64 KiB of headers: {settings:?}");
}

/// What is answered to a request that is signed with the store's own access key.
async fn signed(edge: &Edge, service: &str, place: (&str, &str), body: &str) -> String {
    let request = signed_request(edge, service, place, body);
    let answer = raw_tls(edge, Some(b"http/1.1"), request.as_bytes()).await;
    String::from_utf8_lossy(&answer).into_owned()
}

fn signed_request(edge: &Edge, service: &str, (path, target): (&str, &str), body: &str) -> String {
    let now = Clock::start().wall();
    let date = sigv4::date_header(now);
    let headers = [("host", "a"), ("x-amz-date", date.as_str()), ("x-amz-target", target)];
    let request =
        sigv4::Request { method: "POST", path, query: "", headers: &headers, body: body.as_bytes() };
    let (id, key) = edge.auth.keys().first().unwrap();
    let signature = sigv4::authorization(&request, id, &key.secret, "local-1", service, now);
    let length = body.len();
    format!(
        "POST {path} HTTP/1.0\r\nhost: a\r\nx-amz-date: {date}\r\nx-amz-target: {target}\r\n\
         authorization: {signature}\r\ncontent-type: application/x-amz-json-1.1\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

/// Reaches `LIST_MAX`, `HOURS_MAX` of store/src/api/kvs/streams.rs.
/// Reaches `LIST_MAX` of store/src/api/kvs/archive.rs.
/// Reaches `LIST_MAX` of store/src/api/kvs/get.rs.
/// Reaches `LIST_MAX`, `SPAN_MS_MAX` of store/src/api/kvs/images.rs.
/// Reaches `FRAGMENTS_MAX` of store/src/api/kvs/session.rs.
/// Reaches `COUNT_MAX`, `FRAGMENTS_MAX` of store/src/api/video/frames.rs.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_about_video_asks_for_as_much_as_it_may_and_no_more() {
    let edge = Edge::start(Limits::default()).await;
    let images = |to: &str, max: u64| {
        format!(
            r#"{{"StreamName":"v","ImageSelectorType":"SERVER_TIMESTAMP","StartTimestamp":1000,
                "EndTimestamp":{to},"Format":"JPEG","MaxResults":{max}}}"#
        )
    };
    let max = |name: &str, value: u64| format!(r#"{{"StreamName":"v","{name}":{value}}}"#);
    let list =
        |count: usize| format!(r#"{{"StreamName":"v","Fragments":[{}]}}"#, vec!["\"1\""; count].join(","));
    let hls = "MaxMediaPlaylistFragmentResults";
    for (path, most, more, why) in [
        (
            "/createStream",
            max("DataRetentionInHours", 87_600),
            max("DataRetentionInHours", 87_601),
            "is valid",
        ),
        ("/listStreams", max("MaxResults", 10_000), max("MaxResults", 10_001), "is valid"),
        ("/listFragments", max("MaxResults", 1000), max("MaxResults", 1001), "is valid"),
        ("/getMediaForFragmentList", list(1000), list(1001), "numbers are valid"),
        ("/getImages", images("1300", 100), images("1300", 101), "is valid"),
        ("/getImages", images("1300", 1), images("1301", 1), "0 to 300 seconds"),
        ("/getHLSStreamingSessionURL", max(hls, 5000), max(hls, 5001), "is valid"),
    ] {
        let most = signed(&edge, "kinesisvideo", (path, ""), &most).await;
        assert!(
            most.starts_with("HTTP/1.") && !most.starts_with("HTTP/1.0 403") && !most.contains(why),
            "{path}: {most}"
        );
        let more = signed(&edge, "kinesisvideo", (path, ""), &more).await;
        assert!(more.starts_with("HTTP/1.0 400") && more.contains(why), "{path}: {more}");
    }
    let (id, key) = edge.auth.keys().first().unwrap();
    let basic = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, format!("{id}:{}", key.secret));
    for (what, max) in [("frames", 100_000), ("vod.m3u8", 5000), ("live.m3u8", 5000)] {
        let name = if what == "live.m3u8" { "window" } else { "count" };
        for (count, refused) in [(max, false), (max + 1, true)] {
            let head = format!(
                "GET /v1/video/v/{what}?{name}={count} HTTP/1.0\r\nhost: a\r\nauthorization: Basic {basic}\r\n\r\n"
            );
            let said = raw_tls(&edge, Some(b"http/1.1"), head.as_bytes()).await;
            let said = String::from_utf8_lossy(&said).into_owned();
            assert!(said.starts_with("HTTP/1.") && !said.starts_with("HTTP/1.0 401"), "{said}");
            assert_eq!(said.split(' ').nth(1) == Some("400"), refused, "{what} {count}: {said}");
        }
    }
}

/// Makes a stream `many`, with so many records.
async fn append_many(admin: &Client, count: usize) {
    let name = StreamName::new("many").unwrap();
    let config = StreamConfig { shard_rate: None, ..StreamConfig::default() };
    admin.stream(Call::CreateStream { name, shards: 1, config }).await.unwrap();
    let mut builder = BatchBuilder::new();
    let key = builder.key("key", None).unwrap();
    (0..count).for_each(|_| builder.push(key, UnixMs(1), b"x"));
    let header = Header::parse(&frame("many", 0, b"", Codec::None)).unwrap();
    let header = Header { stream: header.stream, shard: header.shard, producer_id: 7, ..Header::default() };
    let mut batch = Vec::new();
    builder.seal(Header { producer_epoch: 1, ..header }, &mut Compressor::new(Codec::None), &mut batch);
    admin.append(batch).await.unwrap();
}

/// Reaches `EVENT_MAX` of store/src/api/kinesis/subscribe.rs.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_has_as_many_records_as_it_may_have_and_no_more() {
    let edge = Edge::start(Limits { status_delay: Duration::ZERO, ..Limits::default() }).await;
    let admin = Client::connect_as(&edge.admin(), &hello(&[])).await.unwrap();
    append_many(&admin, 10_001).await;
    let found = kinesis(&admin, "DescribeStreamSummary", r#"{"StreamName":"many"}"#).await.unwrap();
    let arn = |text: &str| text.split('"').find(|text| text.starts_with("arn:")).unwrap().to_owned();
    let body = format!(r#"{{"StreamARN":"{}","ConsumerName":"c"}}"#, arn(&found));
    let consumer = arn(&kinesis(&admin, "RegisterStreamConsumer", &body).await.unwrap());
    let body = format!(
        r#"{{"ConsumerARN":"{consumer}","ShardId":"shardId-000000000000","StartingPosition":{{"Type":"TRIM_HORIZON"}}}}"#
    );
    let request = signed_request(&edge, "kinesis", ("/", "Kinesis_20131202.SubscribeToShard"), &body);
    let events = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let events = text.split("SubscribeToShardEvent").skip(1);
        events.map(|event| event.matches("\"PartitionKey\"").count()).collect::<Vec<_>>()
    };
    let all = |bytes: &[u8]| bytes.len() > 1_000_000 && events(bytes).iter().sum::<usize>() > 10_000;
    let said = raw_tls_until(&edge, Some(b"http/1.1"), request.as_bytes(), all).await;
    assert_eq!(events(&said)[..2], [10_000, 1]);
}

/// Reaches `RECORDS_MAX` of store/src/api/kinesis/records.rs.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_has_as_many_records_as_it_may_have_and_no_more() {
    let edge = Edge::start(Limits { status_delay: Duration::ZERO, ..Limits::default() }).await;
    let admin = Client::connect_as(&edge.admin(), &hello(&[])).await.unwrap();
    append_many(&admin, 10_001).await;
    let first =
        r#"{"StreamName":"many","ShardId":"shardId-000000000000","ShardIteratorType":"TRIM_HORIZON"}"#;
    let mut iterator = kinesis(&admin, "GetShardIterator", first).await.unwrap();
    for count in [10_000, 1] {
        let at = iterator.split("ShardIterator\":\"").nth(1).unwrap().split('"').next().unwrap();
        let body = format!(r#"{{"ShardIterator":"{at}"}}"#);
        let answer = signed(&edge, "kinesis", ("/", "Kinesis_20131202.GetRecords"), &body).await;
        assert_eq!(answer.matches("\"PartitionKey\"").count(), count, "{}", &answer[..answer.len().min(500)]);
        iterator = answer;
    }
}
