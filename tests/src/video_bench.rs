//! The benchmark of video: cameras in real time and as fast as they go, one frame out of many hours, whole films. Over
//! plain HTTP/1.1 on this machine, with pictures of random bytes. It prints figures and judges nothing.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use protocol::rng::Rng;
use protocol::time::UnixMs;
use store::yardstick::Yardstick;
use video::codec;
use video::cut::Cutter;
use video::demux::Demuxer;
use video::fragment::{Clock, Config, Frame};
use video::mux;

use crate::bench::Figures;
use crate::clock;
use crate::harness::process::{StoreProcess, free_port};

/// A film whose configuration all cameras have.
const FILM: &[u8] = include_bytes!("../fuzz/examples/h264.mp4");
const FRAMES_PER_S: u64 = 30;
/// A fragment has two seconds, as cameras are set mostly.
const FRAGMENT_FRAMES: u64 = 60;
const PATIENCE: Duration = Duration::from_secs(60);
/// When streams begin of which frames are asked for by their time.
const START_MS: u64 = 1_795_176_000_000;

pub mod kept;

/// How it is set.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where everything is kept; emptied first.
    pub dir: PathBuf,
    /// How long each part takes.
    pub seconds: u64,
    /// Cameras in real time.
    pub cameras: u64,
    /// What each of them sends.
    pub bits_per_s: u64,
    /// Hours of the stream that single frames are taken from.
    pub hours: u64,
    /// Days of the stream that is kept when the store is started again, in as many segments as a camera's; none: 0.
    pub kept_days: u64,
}

/// Makes fragmented MP4.
#[derive(Clone)]
struct Camera {
    config: Arc<Config>,
    ids: Vec<u32>,
    timescale: u32,
    frame_ticks: u32,
    noise: Vec<u8>,
}

impl Camera {
    fn new() -> io::Result<Camera> {
        let mut demuxer = Demuxer::new(Cutter::new(1, UnixMs(0), Clock::Producer));
        let mut cuts = Vec::new();
        demuxer.push(FILM, &mut cuts).map_err(io::Error::other)?;
        // What the film is cut off at is of no interest.
        let _ = demuxer.finish(&mut cuts);
        let config = cuts.first().ok_or(io::ErrorKind::InvalidData)?.fragment.config.clone();
        let tracks = codec::tracks(&config).map_err(io::Error::other)?;
        let timescale = tracks.first().ok_or(io::ErrorKind::InvalidData)?.timescale;
        let mut noise = vec![0; 4 << 20];
        let mut rng = Rng::new(1);
        noise
            .chunks_mut(8)
            .for_each(|part| part.copy_from_slice(&rng.next_u64().to_le_bytes()[..part.len()]));
        let ids = mux::track_ids(&config).map_err(io::Error::other)?;
        Ok(Camera { config, ids, timescale, frame_ticks: timescale / FRAMES_PER_S as u32, noise })
    }

    fn init(&self) -> Vec<u8> {
        mux::init(&self.config)
    }

    /// The n-th fragment, of frames of so many bytes.
    fn fragment(&self, n: u64, frame_bytes: usize) -> io::Result<Vec<u8>> {
        let frame = |place: u64| Frame {
            track: 0,
            key: place == 0,
            dts: (n * FRAGMENT_FRAMES + place) * u64::from(self.frame_ticks),
            duration: self.frame_ticks,
            offset: 0,
            size: frame_bytes as u32,
        };
        let frames: Vec<Frame> = (0..FRAGMENT_FRAMES).map(frame).collect();
        let from = |place: u64| ((n * 7919 + place * 104_729) as usize) % (self.noise.len() - frame_bytes);
        let data: Vec<&[u8]> =
            (0..FRAGMENT_FRAMES).map(|place| &self.noise[from(place)..from(place) + frame_bytes]).collect();
        mux::segment(n, &self.ids, &frames, &data).map_err(io::Error::other)
    }
}

/// Where the store is, and who asks.
#[derive(Debug, Clone)]
struct Endpoint {
    address: SocketAddr,
    authorization: String,
}

impl Endpoint {
    fn open(&self) -> io::Result<BufReader<TcpStream>> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(BufReader::with_capacity(256 << 10, stream))
    }

    fn head(&self, method: &str, path: &str, more: &str) -> String {
        let Endpoint { address, authorization } = self;
        format!(
            "{method} /v1/video/{path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Basic {authorization}\r\n{more}\r\n"
        )
    }

    /// Asks, and reads all of the answer: how many bytes it has.
    fn get(&self, connection: &mut BufReader<TcpStream>, path: &str, sink: &mut Vec<u8>) -> io::Result<u64> {
        connection.get_mut().write_all(self.head("GET", path, "").as_bytes())?;
        let length = answer(connection)?.ok_or_else(|| io::Error::other("an answer of no known length"))?;
        sink.resize(1 << 20, 0);
        let mut rest = length;
        while rest > 0 {
            let part = usize::try_from(rest).unwrap_or(usize::MAX).min(sink.len());
            connection.read_exact(&mut sink[..part])?;
            rest -= part as u64;
        }
        Ok(length)
    }
}

/// The head of an answer: how long what follows is, if it says.
fn answer(connection: &mut impl BufRead) -> io::Result<Option<u64>> {
    let (mut line, mut length, mut first) = (String::new(), None, true);
    loop {
        line.clear();
        if connection.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if std::mem::take(&mut first) && !line.starts_with("HTTP/1.1 200") {
            return Err(io::Error::other(line.trim().to_owned()));
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok();
        }
        if line == "\r\n" {
            return Ok(length);
        }
    }
}

/// A producer on a connection of its own: fragments out, a line for each that is durable in.
struct Producer {
    connection: BufReader<TcpStream>,
}

impl Producer {
    fn begin(endpoint: &Endpoint, stream: &str, init: &[u8]) -> io::Result<Producer> {
        let mut connection = endpoint.open()?;
        let more = "content-type: video/mp4\r\ntransfer-encoding: chunked\r\n";
        connection.get_mut().write_all(endpoint.head("POST", stream, more).as_bytes())?;
        let mut producer = Producer { connection };
        producer.send(init)?;
        answer(&mut producer.connection)?;
        Ok(producer)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let socket = self.connection.get_mut();
        socket.write_all(format!("{:x}\r\n", bytes.len()).as_bytes())?;
        socket.write_all(bytes)?;
        socket.write_all(b"\r\n")
    }

    /// Waits for the next line.
    fn line(&mut self) -> io::Result<String> {
        let mut size = String::new();
        self.connection.read_line(&mut size)?;
        let length = usize::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
        let mut text = vec![0; length + 2];
        self.connection.read_exact(&mut text)?;
        let text = String::from_utf8(text).map_err(io::Error::other)?;
        if length == 0 || text.contains("\"error\"") { Err(io::Error::other(text)) } else { Ok(text) }
    }

    /// Ends: waits until the last fragment is durable too.
    fn finish(mut self) -> io::Result<()> {
        self.connection.get_mut().write_all(b"0\r\n\r\n")?;
        while !self.line()?.contains("\"fragments\"") {}
        Ok(())
    }
}

fn at(times: &mut [Duration], share: f64) -> f64 {
    times.sort_unstable();
    let place = (times.len().saturating_sub(1) as f64 * share) as usize;
    times.get(place).map_or(0.0, |time| time.as_secs_f64() * 1e3)
}

fn since(begin: Instant) -> f64 {
    clock::now().duration_since(begin).as_secs_f64()
}

struct Bench<'a> {
    plan: &'a Plan,
    store: &'a StoreProcess,
    endpoint: Endpoint,
    camera: Camera,
    figures: Figures,
}

/// Measures this store.
///
/// # Errors
/// When it can't be started, or refuses something.
pub async fn run(plan: &Plan) -> io::Result<Figures> {
    if plan.dir.exists() {
        std::fs::remove_dir_all(&plan.dir)?;
    }
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let store = StoreProcess::start(&plan.dir, &["--insecure-http", &address.to_string()]).await?;
    let endpoint = endpoint_of(&store, address)?;
    let camera = Camera::new()?;
    let mut bench = Bench { plan, store: &store, endpoint, camera, figures: Figures::new() };
    if plan.seconds > 0 {
        bench.cameras()?;
        bench.flat_out()?;
        bench.films()?;
        bench.hours(1)?;
        bench.hours(plan.hours)?;
    }
    let mut figures = std::mem::take(&mut bench.figures);
    if plan.kept_days > 0 {
        drop(store);
        figures.extend(days(plan).await?);
    }
    Ok(figures)
}

/// One frame out of many days, and starts after kill -9 with them.
async fn days(plan: &Plan) -> io::Result<Figures> {
    if plan.dir.exists() {
        std::fs::remove_dir_all(&plan.dir)?;
    }
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()?)).to_string();
    let segment_bytes = kept::segment_bytes(plan.bits_per_s).to_string();
    let args = ["--insecure-http", &address, "--segment-bytes", &segment_bytes];
    let mut store = StoreProcess::start(&plan.dir, &args).await?;
    let endpoint = endpoint_of(&store, address.parse().map_err(io::Error::other)?)?;
    let camera = Camera::new()?;
    let mut figures = Figures::new();
    for (name, fragments) in [("hour", 3600), ("days", plan.kept_days * 86_400)] {
        let fragments = fragments * FRAMES_PER_S / FRAGMENT_FRAMES;
        kept::fill(&store, name, fragments, 1).await?;
        let mut bench =
            Bench { plan, store: &store, endpoint: endpoint.clone(), camera: camera.clone(), figures };
        bench.one_frame(name, &format!("{name} kept"), fragments)?;
        figures = bench.figures;
    }
    let mut times = Vec::new();
    for _ in 0..5 {
        store.kill()?;
        let begin = clock::now();
        store.up().await?;
        times.push(clock::now().duration_since(begin));
    }
    let memory = store.process.as_ref().map_or(0, |process| process.memory_bytes("VmRSS") >> 20);
    let said = format!(
        "{:.0} ms until it answers (of 5: {:.0} at most), {memory} MiB",
        at(&mut times, 0.5),
        at(&mut times, 1.0)
    );
    figures.push((format!("a start with {} days kept", plan.kept_days), said));
    Ok(figures)
}

fn endpoint_of(store: &StoreProcess, address: SocketAddr) -> io::Result<Endpoint> {
    let credentials = std::fs::read_to_string(store.data.join("admin.credentials"))?;
    let mut values =
        credentials.lines().filter_map(|line| line.split_once('=')).map(|(_, value)| value.trim());
    let pair = [values.next().unwrap_or_default(), values.next().unwrap_or_default()].join(":");
    Ok(Endpoint { address, authorization: STANDARD.encode(pair) })
}

impl Bench<'_> {
    fn say(&mut self, what: impl Into<String>, value: String) {
        self.figures.push((what.into(), value));
    }

    fn cpu_seconds(&self) -> f64 {
        self.store.process.as_ref().map_or(0.0, |process| process.cpu_seconds())
    }

    fn memory_mib(&self) -> u64 {
        self.store.process.as_ref().map_or(0, |process| process.memory_bytes("VmHWM") >> 20)
    }

    fn frame_bytes(&self) -> usize {
        (self.plan.bits_per_s / 8 / FRAMES_PER_S) as usize
    }

    /// Cameras in real time: from a fragment's last byte until it is durable. A fragment is whole when the next one
    /// begins, so what is timed is the next one's way.
    fn cameras(&mut self) -> io::Result<()> {
        let (plan, endpoint, camera) = (self.plan, &self.endpoint, &self.camera);
        let (init, frame_bytes) = (camera.init(), self.frame_bytes());
        let rounds = (plan.seconds / 2).max(2);
        let times = Mutex::new(Vec::new());
        let cpu = self.cpu_seconds();
        let begin = clock::now();
        let work = |n: u64| -> io::Result<()> {
            let mut producer = Producer::begin(endpoint, &format!("camera-{n}"), &init)?;
            let mut mine = Vec::new();
            for round in 0..=rounds {
                let due =
                    Duration::from_secs(2 * round) + Duration::from_secs(2) * n as u32 / plan.cameras as u32;
                clock::sleep((begin + due).saturating_duration_since(clock::now()));
                let sent = clock::now();
                producer.send(&camera.fragment(round, frame_bytes)?)?;
                if round > 0 {
                    producer.line()?;
                    mine.push(clock::now().duration_since(sent));
                }
            }
            producer.finish()?;
            times.lock().map_err(|_| io::Error::other("a thread broke"))?.extend(mine);
            Ok(())
        };
        together(plan.cameras, &work)?;
        let took = since(begin);
        let cpu = self.cpu_seconds() - cpu;
        let mut times = times.into_inner().map_err(|_| io::Error::other("a thread broke"))?;
        let gigabytes = (plan.cameras * (rounds + 1) * FRAGMENT_FRAMES) as f64 * frame_bytes as f64 / 1e9;
        let (p50, p99) = (at(&mut times, 0.5), at(&mut times, 0.99));
        let name = format!("{} cameras of {} kbit/s", plan.cameras, plan.bits_per_s / 1000);
        let rate = gigabytes * 1e3 / took;
        self.say(name, format!("{rate:.0} MB/s; sent -> durable p50 {p50:.1} ms, p99 {p99:.1} ms"));
        let memory = self.memory_mib();
        self.say("  the store's work", format!("{:.2} CPU s per GB, {memory} MiB at most", cpu / gigabytes));
        Ok(())
    }

    fn flat_out(&mut self) -> io::Result<()> {
        const PRODUCERS: u64 = 8;
        let (plan, endpoint, camera) = (self.plan, &self.endpoint, &self.camera);
        let (init, frame_bytes) = (camera.init(), self.frame_bytes());
        let before = Yardstick::measure(&plan.dir)?;
        let cpu = self.cpu_seconds();
        let begin = clock::now();
        let total = Mutex::new(0);
        let work = |n: u64| -> io::Result<()> {
            // Made before, so that the store is measured.
            let fragments: Vec<Vec<u8>> =
                (0..32).map(|place| camera.fragment(place, frame_bytes)).collect::<io::Result<_>>()?;
            let mut sent = 0;
            let mut run = 0;
            while since(begin) < plan.seconds as f64 {
                let mut producer = Producer::begin(endpoint, &format!("fast-{n}"), &init)?;
                for (place, fragment) in fragments.iter().enumerate() {
                    producer.send(fragment)?;
                    sent += fragment.len() as u64;
                    if place > 3 {
                        producer.line()?;
                    }
                }
                producer.finish()?;
                run += 1;
            }
            *total.lock().map_err(|_| io::Error::other("a thread broke"))? += sent;
            if run == 0 { Err(io::Error::other("nothing was sent")) } else { Ok(()) }
        };
        together(PRODUCERS, &work)?;
        let took = since(begin);
        let gigabytes = *total.lock().map_err(|_| io::Error::other("a thread broke"))? as f64 / 1e9;
        let cpu = (self.cpu_seconds() - cpu) / gigabytes;
        let rate = gigabytes * 1e3 / took;
        self.say(
            format!("{PRODUCERS} producers, flat out"),
            format!("{rate:.0} MB/s, {cpu:.2} CPU s per GB"),
        );
        // Before and after, since disks of clouds have moods.
        let after = Yardstick::measure(&plan.dir)?;
        let disk = [before, after].map(|measured| measured.disk_megabytes_per_second);
        let share = rate / f64::midpoint(disk[0], disk[1]) * 100.0;
        let said = format!(
            "{share:.0} % of 256 MiB in a row and one fdatasync: {:.0} and {:.0} MB/s",
            disk[0], disk[1]
        );
        self.say("  of the disk", said);
        Ok(())
    }

    /// One frame out of so many hours; the frames are small, so that this is soon made.
    fn hours(&mut self, hours: u64) -> io::Result<()> {
        const FRAME_BYTES: usize = 64;
        let stream = format!("hours-{hours}");
        let fragments = hours * 3600 * FRAMES_PER_S / FRAGMENT_FRAMES;
        let mut producer = Producer::begin(
            &self.endpoint,
            &format!("{stream}?producer_time={START_MS}"),
            &self.camera.init(),
        )?;
        for n in 0..fragments {
            producer.send(&self.camera.fragment(n, FRAME_BYTES)?)?;
            // Behind by some, as nobody is faster who waits for each.
            if n > 64 {
                producer.line()?;
            }
        }
        producer.finish()?;
        self.one_frame(&stream, &format!("{hours} h"), fragments)
    }

    /// One frame by its number, and by its time, out of so many fragments.
    fn one_frame(&mut self, stream: &str, of: &str, fragments: u64) -> io::Result<()> {
        const ASKED: u64 = 2000;
        let mut connection = self.endpoint.open()?;
        let (mut rng, mut sink) = (Rng::new(3), Vec::new());
        for by_time in [false, true] {
            let mut times = Vec::new();
            for _ in 0..ASKED {
                let number = rng.below(fragments * FRAGMENT_FRAMES);
                let path = if by_time {
                    let ticks = number * u64::from(self.camera.frame_ticks);
                    let time = START_MS + ticks * 1000 / u64::from(self.camera.timescale);
                    format!("{stream}/frames?from=producer:{time}&count=1&meta=1")
                } else {
                    format!("{stream}/frames/{number}")
                };
                let begin = clock::now();
                if by_time {
                    let told = self.endpoint.chunked(&mut connection, &path)?;
                    // A millisecond is less than a frame, and may be the one before.
                    let is = |n: u64| told.contains(&format!("\"frame\":{n},"));
                    if !is(number) && !is(number.saturating_sub(1)) {
                        return Err(io::Error::other(format!("frame {number} was asked for: {told}")));
                    }
                } else {
                    self.endpoint.get(&mut connection, &path, &mut sink)?;
                }
                times.push(clock::now().duration_since(begin));
            }
            let by = if by_time { "time" } else { "number" };
            let said =
                format!("p50 {:.2} ms, p99 {:.2} ms over HTTP", at(&mut times, 0.5), at(&mut times, 0.99));
            self.say(format!("a frame by its {by}, of {of}"), said);
        }
        Ok(())
    }

    /// A whole stream as one file.
    fn films(&mut self) -> io::Result<()> {
        let (mut connection, mut sink) = (self.endpoint.open()?, Vec::new());
        let cpu = self.cpu_seconds();
        let (begin, mut bytes) = (clock::now(), 0);
        while since(begin) < self.plan.seconds as f64 {
            bytes += self.endpoint.get(&mut connection, "fast-0/range.mp4", &mut sink)?;
        }
        let (rate, cpu) = (bytes as f64 / since(begin) / 1e6, self.cpu_seconds() - cpu);
        let per_core = bytes as f64 / cpu.max(0.01) / 1e6;
        self.say("a stream as one file", format!("{rate:.0} MB/s, {per_core:.0} MB per CPU s of the store"));
        Ok(())
    }
}

impl Endpoint {
    /// Asks, and reads an answer that comes in chunks.
    fn chunked(&self, connection: &mut BufReader<TcpStream>, path: &str) -> io::Result<String> {
        connection.get_mut().write_all(self.head("GET", path, "").as_bytes())?;
        answer(connection)?;
        let mut told = String::new();
        loop {
            let mut size = String::new();
            connection.read_line(&mut size)?;
            let length = usize::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
            let mut part = vec![0; length + 2];
            connection.read_exact(&mut part)?;
            if length == 0 {
                return Ok(told);
            }
            told += &String::from_utf8_lossy(&part[..length]);
        }
    }
}

/// The same work so many times at once.
fn together(count: u64, work: &(impl Fn(u64) -> io::Result<()> + Sync)) -> io::Result<()> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|n| scope.spawn(move || work(n))).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| io::Error::other("a thread broke"))?)
    })
}
