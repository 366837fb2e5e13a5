//! The benchmark of the Kinesis API: the same requests to this store and to what else speaks that API on one machine,
//! over plain HTTP/1.1. Requests are made and signed before the clock starts, so that the servers are measured and not
//! their client. It prints figures and judges nothing.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use protocol::rng::Rng;
use protocol::sigv4::{Request, authorization, date_header};
use protocol::time::UnixMs;
use serde_json::{Value, json};

use crate::bench::Figures;
use crate::clock;
use crate::harness::process::{Process, StoreProcess, free_port};

/// One that the peers know.
const REGION: &str = "us-east-1";
/// Different requests of one connection; they are sent in turn.
const REQUESTS: u64 = 16;
const STREAM: &str = "bench";
const START: Duration = Duration::from_secs(30);
/// Longest head of an answer.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// How it is set.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where everything is kept; emptied first.
    pub dir: PathBuf,
    /// How long each part takes.
    pub seconds: u64,
    /// Records of a PutRecords.
    pub records: usize,
    /// Bytes of a record.
    pub record_bytes: usize,
    /// Shards, and connections that read.
    pub shards: usize,
}

/// Who is asked, and with which key.
#[derive(Debug, Clone)]
struct Endpoint {
    address: SocketAddr,
    access_key: String,
    secret: String,
}

impl Endpoint {
    /// A signed request.
    fn request(&self, operation: &str, body: &[u8]) -> Vec<u8> {
        let (host, now) = (self.address.to_string(), UnixMs(clock::unix_ms()));
        let (date, target) = (date_header(now), format!("Kinesis_20131202.{operation}"));
        let headers = [
            ("content-type", "application/x-amz-json-1.1"),
            ("host", host.as_str()),
            ("x-amz-date", date.as_str()),
            ("x-amz-target", target.as_str()),
        ];
        let request = Request { method: "POST", path: "/", query: "", headers: &headers, body };
        let signed = authorization(&request, &self.access_key, &self.secret, REGION, "kinesis", now);
        let mut out = b"POST / HTTP/1.1\r\n".to_vec();
        let length = body.len().to_string();
        let more = [("authorization", signed.as_str()), ("content-length", length.as_str())];
        for (name, value) in headers.iter().chain(&more) {
            out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(body);
        out
    }
}

/// A connection that is kept; one request at a time.
struct Connection {
    stream: TcpStream,
    endpoint: Endpoint,
    body: Vec<u8>,
    /// The server closes it after this answer.
    closes: bool,
}

impl Connection {
    fn open(endpoint: &Endpoint) -> io::Result<Connection> {
        let stream = TcpStream::connect(endpoint.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(START))?;
        Ok(Connection { stream, endpoint: endpoint.clone(), body: Vec::new(), closes: false })
    }

    /// Sends a request; the answer's body, if its status is 200.
    fn send(&mut self, request: &[u8]) -> io::Result<&[u8]> {
        if self.closes {
            *self = Connection::open(&self.endpoint)?;
        }
        self.stream.write_all(request)?;
        let (status, length) = self.head()?;
        match length {
            Some(length) => self.fill(length)?,
            None => self.chunks()?,
        }
        if status == 200 {
            return Ok(&self.body);
        }
        Err(io::Error::other(format!("status {status}: {}", String::from_utf8_lossy(&self.body))))
    }

    /// Reads the head of an answer; what comes of the body with it is in `self.body`.
    fn head(&mut self) -> io::Result<(u16, Option<usize>)> {
        let mut head = Vec::new();
        let mut part = vec![0; 64 << 10];
        let end = loop {
            let got = self.stream.read(&mut part)?;
            head.extend_from_slice(&part[..got]);
            if let Some(at) = find(&head, b"\r\n\r\n") {
                break at + 4;
            }
            if got == 0 || head.len() > HEAD_BYTES_MAX {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        self.body = head.split_off(end);
        let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
        self.closes = text.starts_with("http/1.0") || text.contains("connection: close");
        let chunked = text.contains("transfer-encoding: chunked");
        if length.is_none() && !chunked {
            return Err(io::Error::other("an answer of no known length"));
        }
        Ok((status, length))
    }

    /// Reads until `self.body` has so many bytes.
    fn fill(&mut self, length: usize) -> io::Result<()> {
        let there = self.body.len();
        if there < length {
            self.body.resize(length, 0);
            self.stream.read_exact(&mut self.body[there..])?;
        }
        Ok(())
    }

    /// Reads a chunked body (RFC 9112, 7.1), and leaves its content in `self.body`.
    fn chunks(&mut self) -> io::Result<()> {
        let (mut at, mut end) = (0, 0);
        loop {
            let line = loop {
                if let Some(length) = find(&self.body[at..], b"\r\n") {
                    break length;
                }
                let there = self.body.len();
                self.body.resize(there + (64 << 10), 0);
                let got = self.stream.read(&mut self.body[there..])?;
                self.body.truncate(there + got);
                if got == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            };
            let text = std::str::from_utf8(&self.body[at..at + line]).map_err(io::Error::other)?;
            let length = usize::from_str_radix(text, 16).map_err(io::Error::other)?;
            at += line + 2;
            self.fill(at + length + 2)?;
            if length == 0 {
                self.body.truncate(end);
                return Ok(());
            }
            self.body.copy_within(at..at + length, end);
            end += length;
            at += length + 2;
        }
    }

    fn call(&mut self, operation: &str, body: &Value) -> io::Result<Value> {
        let request = self.endpoint.request(operation, &serde_json::to_vec(body)?);
        let answer = self.send(&request)?;
        if answer.is_empty() {
            return Ok(Value::Null);
        }
        Ok(serde_json::from_slice(answer)?)
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

/// Some server under test.
enum Server {
    Ours(StoreProcess),
    Peer(Process),
}

impl Server {
    fn process(&self) -> Option<&Process> {
        match self {
            Server::Ours(store) => store.process.as_ref(),
            Server::Peer(process) => Some(process),
        }
    }
}

/// Measures this store.
///
/// # Errors
/// When it can't be started, or refuses something.
pub async fn ours(plan: &Plan) -> io::Result<Figures> {
    let dir = plan.dir.join("kinesin");
    empty(&dir)?;
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let store = StoreProcess::start(&dir, &["--insecure-http", &address.to_string()]).await?;
    let shards = plan.shards.to_string();
    let name = format!("000000000000:{REGION}:{STREAM}");
    store.command(&["stream", "create", &name, "--shards", &shards, "--rate", "off"])?;
    let credentials = std::fs::read_to_string(store.data.join("admin.credentials"))?;
    let value = |name: &str| {
        let line =
            credentials.lines().find_map(|line| line.split_once('=').filter(|(is, _)| is.trim() == name));
        line.map(|(_, value)| value.trim().to_owned()).ok_or_else(|| io::Error::other(format!("no {name}")))
    };
    let endpoint = Endpoint {
        address,
        access_key: value("aws_access_key_id")?,
        secret: value("aws_secret_access_key")?,
    };
    let server = Server::Ours(store);
    let mut figures = measure(plan, &endpoint, &server)?;
    let times = subscribe(&endpoint)?;
    let said =
        format!("p50 {:.2} ms, p99 {:.2} ms, {} records", at(&times, 0.5), at(&times, 0.99), times.len());
    figures.push(("SubscribeToShard, put -> there".to_owned(), said));
    figures.extend(many(&endpoint, &server)?);
    Ok(figures)
}

/// Milliseconds.
fn at(times: &[Duration], share: f64) -> f64 {
    times
        .get((times.len().saturating_sub(1) as f64 * share) as usize)
        .map_or(0.0, |time| time.as_secs_f64() * 1e3)
}

/// The ARN of a new, active consumer.
fn consumer(connection: &mut Connection, stream: &str, name: &str) -> io::Result<String> {
    let told = connection.call("DescribeStreamSummary", &json!({"StreamName": stream}))?;
    let arn = &told["StreamDescriptionSummary"]["StreamARN"];
    let made = connection.call("RegisterStreamConsumer", &json!({"StreamARN": arn, "ConsumerName": name}))?;
    let arn = made["Consumer"]["ConsumerARN"].as_str().unwrap_or_default().to_owned();
    let active = clock::eventually(START, || {
        let told = connection.call("DescribeStreamConsumer", &json!({"ConsumerARN": arn}));
        told.is_ok_and(|told| told["ConsumerDescription"]["ConsumerStatus"] == "ACTIVE")
    });
    if active { Ok(arn) } else { Err(io::Error::other("a consumer does not become active")) }
}

fn subscription(endpoint: &Endpoint, consumer: &str) -> io::Result<TcpStream> {
    let body = json!({
        "ConsumerARN": consumer, "ShardId": "shardId-000000000000", "StartingPosition": {"Type": "LATEST"},
    });
    let mut stream = TcpStream::connect(endpoint.address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(START))?;
    stream.write_all(&endpoint.request("SubscribeToShard", body.to_string().as_bytes()))?;
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    if head.ends_with(b"200") { Ok(stream) } else { Err(io::Error::other("a subscription was refused")) }
}

/// How long each of some records took from before it was put until a subscriber had it, in order.
fn subscribe(endpoint: &Endpoint) -> io::Result<Vec<Duration>> {
    const RECORDS: usize = 1000;
    let mut connection = Connection::open(endpoint)?;
    let consumer = consumer(&mut connection, STREAM, "c")?;
    let mut events = subscription(endpoint, &consumer)?;
    let came = std::thread::scope(|scope| {
        let reader = scope.spawn(move || -> io::Result<(Vec<Instant>, TcpStream)> {
            let (mut came, mut text, mut part) = (Vec::new(), Vec::new(), vec![0; 64 << 10]);
            while came.len() < RECORDS {
                let got = events.read(&mut part)?;
                text.extend_from_slice(&part[..got]);
                // In order, as they are of one key.
                while let Some(place) = find(&text, format!("\"at-{:06}\"", came.len()).as_bytes()) {
                    text.drain(..place);
                    came.push(clock::now());
                }
                if got == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            Ok((came, events))
        });
        let mut sent = Vec::new();
        for n in 0..RECORDS {
            let body = json!({
                "StreamName": STREAM, "Data": "eA==", "PartitionKey": format!("at-{n:06}"), "ExplicitHashKey": "0",
            });
            sent.push(clock::now());
            connection.call("PutRecord", &body)?;
            clock::sleep(Duration::from_millis(2));
        }
        let (came, _) = reader.join().map_err(|_| io::Error::other("a thread broke"))??;
        Ok::<_, io::Error>(sent.into_iter().zip(came).map(|(sent, came)| came.duration_since(sent)).collect())
    });
    let mut times: Vec<Duration> = came?;
    times.sort_unstable();
    Ok(times)
}

/// A thousand streams, ten thousand shards, five hundred subscriptions; a record for each of them.
fn many(endpoint: &Endpoint, server: &Server) -> io::Result<Figures> {
    const STREAMS: usize = 1000;
    const CONSUMERS: usize = 20;
    const SUBSCRIPTIONS: usize = 500;
    let begin = clock::now();
    let mut connection = Connection::open(endpoint)?;
    for n in 0..STREAMS {
        connection.call("CreateStream", &json!({"StreamName": format!("many-{n}"), "ShardCount": 10}))?;
    }
    let made = seconds_since(begin);
    clock::sleep(Duration::from_millis(500));
    let mut subscriptions = Vec::new();
    for n in 0..SUBSCRIPTIONS {
        let stream = format!("many-{}", n / CONSUMERS);
        let consumer = consumer(&mut connection, &stream, &format!("c{n}"))?;
        subscriptions.push(subscription(endpoint, &consumer)?);
    }
    let begin = clock::now();
    for n in 0..SUBSCRIPTIONS / CONSUMERS {
        let body = json!({
            "StreamName": format!("many-{n}"), "Data": "eA==", "PartitionKey": "to-all", "ExplicitHashKey": "0",
        });
        connection.call("PutRecord", &body)?;
    }
    for events in &mut subscriptions {
        let (mut text, mut part) = (Vec::new(), vec![0; 4096]);
        while find(&text, b"\"to-all\"").is_none() {
            let got = events.read(&mut part)?;
            if got == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            text.extend_from_slice(&part[..got]);
        }
    }
    let all = seconds_since(begin);
    let now = server.process().map_or(0, |process| process.memory_bytes("VmRSS"));
    let said = format!(
        "made in {made:.1} s; {SUBSCRIPTIONS} subscribers all had a record {:.0} ms after the first of {} was put; {:.1} MiB RSS",
        all * 1e3,
        SUBSCRIPTIONS / CONSUMERS,
        now as f64 / f64::from(1 << 20)
    );
    Ok(vec![(format!("{STREAMS} streams, {} shards", STREAMS * 10), said)])
}

/// Measures another server: `command` with `{port}` replaced.
///
/// # Errors
/// When it can't be started, or refuses something.
pub fn peer(plan: &Plan, name: &str, command: &[String]) -> io::Result<Figures> {
    let dir = plan.dir.join(name);
    empty(&dir)?;
    let port = free_port()?;
    let words: Vec<String> = command.iter().map(|word| word.replace("{port}", &port.to_string())).collect();
    let process = Process::start_program(Path::new(&words[0]), &words[1..], &dir.join("out"))?;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    if !clock::eventually(START, || TcpStream::connect(address).is_ok()) {
        return Err(io::Error::other(format!("{name} does not listen; it printed {}", process.printed())));
    }
    let endpoint = Endpoint { address, access_key: "AKID".to_owned(), secret: "secret".to_owned() };
    let mut connection = Connection::open(&endpoint)?;
    connection.call("CreateStream", &json!({"StreamName": STREAM, "ShardCount": plan.shards}))?;
    let active = clock::eventually(START, || {
        let described = connection.call("DescribeStreamSummary", &json!({"StreamName": STREAM}));
        described.is_ok_and(|told| told["StreamDescriptionSummary"]["StreamStatus"] == "ACTIVE")
    });
    if !active {
        return Err(io::Error::other(format!("{name} makes no stream")));
    }
    measure(plan, &endpoint, &Server::Peer(process))
}

fn empty(dir: &Path) -> io::Result<()> {
    if dir.exists() {
        std::fs::remove_dir_all(dir)?;
    }
    std::fs::create_dir_all(dir)
}

fn measure(plan: &Plan, endpoint: &Endpoint, server: &Server) -> io::Result<Figures> {
    let mut figures = Figures::new();
    let mut say = |what: &str, value: String| figures.push((what.to_owned(), value));
    let memory = || {
        let most = server.process().map_or(0, |process| process.memory_bytes("VmHWM"));
        format!("{:.1} MiB", most as f64 / f64::from(1 << 20))
    };
    for connections in [1, 8] {
        let cpu = server.process().map_or(0.0, Process::cpu_seconds);
        let (records, seconds) = put(plan, endpoint, connections)?;
        let cpu = server.process().map_or(0.0, Process::cpu_seconds) - cpu;
        say(
            &format!("PutRecords, {connections} connection(s)"),
            format!(
                "{:.0} records/s of {} bytes, {:.1} us of server CPU each, {} RSS at most",
                records as f64 / seconds,
                plan.record_bytes,
                cpu * 1e6 / records.max(1) as f64,
                memory()
            ),
        );
    }
    let times = put_one(plan, endpoint)?;
    say(
        "PutRecord, 1 connection",
        format!("p50 {:.2} ms, p99 {:.2} ms, {} answers", at(&times, 0.5), at(&times, 0.99), times.len()),
    );
    let read = match get(plan, endpoint) {
        Ok((bytes, seconds)) => {
            format!("{:.0} MB/s of data, {} RSS at most", bytes as f64 / seconds / 1e6, memory())
        }
        // A peer that can't do one part is still measured in the others.
        Err(error) => format!("failed: {}", error.to_string().lines().next().unwrap_or_default()),
    };
    say(&format!("GetRecords, {} connections", plan.shards), read);
    Ok(figures)
}

/// Data that does not repeat, in base64.
fn data(rng: &mut Rng, bytes: usize) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text: String =
        (0..bytes.div_ceil(3) * 4).map(|_| char::from(DIGITS[(rng.next_u64() % 64) as usize])).collect();
    // What the last group of four says too much, is padding.
    match bytes % 3 {
        1 => text.replace_range(text.len() - 3.., "A=="),
        2 => text.replace_range(text.len() - 2.., "A="),
        _ => {}
    }
    text
}

fn record(rng: &mut Rng, bytes: usize) -> Value {
    json!({"Data": data(rng, bytes), "PartitionKey": format!("key-{:016x}", rng.next_u64())})
}

/// Records that were put, and in how many seconds.
fn put(plan: &Plan, endpoint: &Endpoint, connections: u64) -> io::Result<(u64, f64)> {
    let make = |seed| -> io::Result<(Connection, Vec<Vec<u8>>)> {
        let mut rng = Rng::new(seed);
        let request = |_| {
            let records: Vec<Value> =
                (0..plan.records).map(|_| record(&mut rng, plan.record_bytes)).collect();
            let body = json!({"StreamName": STREAM, "Records": records});
            endpoint.request("PutRecords", body.to_string().as_bytes())
        };
        let requests = (0..REQUESTS).map(request).collect();
        Ok((Connection::open(endpoint)?, requests))
    };
    let ready = (0..connections).map(make).collect::<io::Result<Vec<_>>>()?;
    let (stored, begin) = (AtomicU64::new(0), clock::now());
    let end = begin + Duration::from_secs(plan.seconds);
    on_threads(ready, |(mut connection, requests)| {
        for request in requests.iter().cycle() {
            let answer: Value = serde_json::from_slice(connection.send(request)?)?;
            let failed = answer["FailedRecordCount"].as_u64().unwrap_or(0);
            stored.fetch_add(plan.records as u64 - failed, Ordering::Relaxed);
            if clock::now() > end {
                break;
            }
        }
        Ok(())
    })?;
    Ok((stored.into_inner(), seconds_since(begin)))
}

fn seconds_since(begin: Instant) -> f64 {
    clock::now().duration_since(begin).as_secs_f64()
}

fn on_threads<T: Send>(parts: Vec<T>, work: impl Fn(T) -> io::Result<()> + Sync) -> io::Result<()> {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = parts.into_iter().map(|part| scope.spawn(move || work(part))).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(done) => done,
            Err(_) => Err(io::Error::other("a thread broke")),
        })
    })
}

/// How long each answer took, in order.
fn put_one(plan: &Plan, endpoint: &Endpoint) -> io::Result<Vec<Duration>> {
    let mut rng = Rng::new(7);
    let mut connection = Connection::open(endpoint)?;
    let requests: Vec<Vec<u8>> = (0..REQUESTS)
        .map(|_| {
            let mut body = record(&mut rng, plan.record_bytes);
            body["StreamName"] = STREAM.into();
            endpoint.request("PutRecord", body.to_string().as_bytes())
        })
        .collect();
    let end = clock::now() + Duration::from_secs(plan.seconds);
    let mut times = Vec::new();
    for request in requests.iter().cycle() {
        let begin = clock::now();
        connection.send(request)?;
        times.push(clock::now().duration_since(begin));
        if clock::now() > end {
            break;
        }
    }
    times.sort_unstable();
    Ok(times)
}

/// Bytes of data that were read, and in how many seconds.
fn get(plan: &Plan, endpoint: &Endpoint) -> io::Result<(u64, f64)> {
    let mut connection = Connection::open(endpoint)?;
    let described = connection.call("DescribeStream", &json!({"StreamName": STREAM}))?;
    let shards = described["StreamDescription"]["Shards"].as_array().cloned().unwrap_or_default();
    let ready = shards
        .iter()
        .map(|shard| Ok((Connection::open(endpoint)?, shard["ShardId"].clone())))
        .collect::<io::Result<Vec<_>>>()?;
    let (read, begin) = (AtomicU64::new(0), clock::now());
    let end = begin + Duration::from_secs(plan.seconds);
    on_threads(ready, |(mut connection, shard)| {
        let start = json!({"StreamName": STREAM, "ShardId": shard, "ShardIteratorType": "TRIM_HORIZON"});
        let mut begin = String::new();
        let mut next = None;
        while clock::now() < end {
            if begin.is_empty() {
                begin = connection.call("GetShardIterator", &start)?["ShardIterator"]
                    .as_str()
                    .unwrap_or("")
                    .into();
            }
            let iterator = next.take().unwrap_or_else(|| begin.clone());
            let body = format!("{{\"ShardIterator\":\"{iterator}\",\"Limit\":10000}}");
            let request = connection.endpoint.request("GetRecords", body.as_bytes());
            let answer = connection.send(&request)?;
            // Counted by what stands around it: all records of a shard are written alike.
            let records = answer.len() / answer_bytes(plan, answer)?;
            read.fetch_add((records * plan.record_bytes) as u64, Ordering::Relaxed);
            next = text_after(answer, b"\"NextShardIterator\":").filter(|_| records > 0);
        }
        Ok(())
    })?;
    Ok((read.into_inner(), seconds_since(begin)))
}

/// What one record takes of an answer: the way from one partition key to the next.
fn answer_bytes(plan: &Plan, answer: &[u8]) -> io::Result<usize> {
    let window = &answer[..answer.len().min(8 * (plan.record_bytes + 512))];
    let text = String::from_utf8_lossy(window);
    let places: Vec<usize> = text.match_indices("\"PartitionKey\"").map(|(at, _)| at).collect();
    match places.as_slice() {
        [first, second, ..] => Ok(second - first),
        _ => Ok(usize::MAX),
    }
}

/// The text that follows, near the beginning or near the end.
fn text_after(answer: &[u8], name: &[u8]) -> Option<String> {
    let (head, tail) = (&answer[..answer.len().min(4096)], &answer[answer.len().saturating_sub(4096)..]);
    let after = [tail, head].into_iter().find_map(|part| Some(&part[find(part, name)? + name.len()..]))?;
    // Some write a space behind the colon.
    let after = &after[after.iter().position(|byte| *byte == b'"')? + 1..];
    let end = after.iter().position(|byte| *byte == b'"')?;
    String::from_utf8(after[..end].to_vec()).ok()
}
