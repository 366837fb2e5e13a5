//! `kinesin video`: puts, lists, shows and takes out video, frame by frame. A client of the store's video over HTTP, with
//! the operator's certificate. Never: containers, codecs.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use bytes::Bytes;
use clap::{Args, Subcommand, ValueEnum};
use hyper::Method;
use protocol::name::StreamName;
use protocol::time::UnixMs;
use serde_json::Value;
use tokio::sync::mpsc;
use video::cut::Cutter;
use video::film::Film;
use video::fragment::Clock;
use video::mux;

use super::stream::stream_name;
use super::{StoreArgs, out};
use crate::client::http::{Answer, Upload, ask};
use crate::config::show_bytes;

const PIECE_BYTES: usize = 256 << 10;
/// Pieces that were read from the file and not sent yet.
const PIECES_WAITING_MAX: usize = 4;

#[derive(Debug, Subcommand)]
pub(super) enum VideoCommand {
    /// Puts a film into a stream: a file of MP4 (of any kind), Matroska, or H.264 or H.265 alone, or what comes on standard input.
    Put(PutArgs),
    /// Shows what a stream has: its tracks, and its fragments.
    Ls(RangeArgs),
    /// Shows frames: numbers, times, sizes.
    Frames(FramesArgs),
    /// Takes out one frame: the encoded access unit, or a file that plays up to it.
    Get(GetArgs),
    /// Writes frames to standard output as they come, or shows them.
    Follow(FollowArgs),
    /// Takes out a file that plays: everything from one place to another.
    Clip(ClipArgs),
    /// Takes out one frame as a picture. Needs ffmpeg on the store's machine, or for H.264 a store built with openh264.
    Image(ImageArgs),
    /// Shows where something is missing.
    Gaps(RangeArgs),
    /// Prints addresses for players, which work for some time without a key.
    Url(UrlArgs),
}

#[derive(Debug, Args)]
struct Common {
    /// Which stream.
    #[arg(value_parser = stream_name)]
    stream: StreamName,
    #[command(flatten)]
    store: StoreArgs,
}

#[derive(Debug, Args)]
pub(super) struct PutArgs {
    #[command(flatten)]
    common: Common,
    /// MP4, Matroska, or H.264 or H.265 alone; - for standard input, where MP4 must be fragmented.
    #[arg(default_value = "-")]
    file: PathBuf,
    /// When its first frame was made, such as 2026-11-20T12:00:00Z [default: now].
    #[arg(long, value_name = "TIME")]
    producer_time: Option<String>,
    /// Pictures a second, where the file is H.264 or H.265 alone [default: what it says itself; of standard input, when they come].
    #[arg(long, value_name = "NUMBER")]
    fps: Option<String>,
    /// Store what is there of a group of pictures after so many milliseconds (100 to 2000), so that it is seen sooner.
    #[arg(long, value_name = "MS")]
    part_ms: Option<u32>,
    /// Say nothing of each fragment.
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Debug, Args)]
struct Between {
    /// Where to begin: the number of a frame, oldest, newest, TIME by the producer's clock, or server:TIME.
    #[arg(long, value_name = "PLACE")]
    from: Option<String>,
    /// Where to end: a place too; it is not included.
    #[arg(long, value_name = "PLACE")]
    to: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct RangeArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    between: Between,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Track {
    Video,
    Audio,
    All,
}

#[derive(Debug, Args)]
pub(super) struct FramesArgs {
    #[command(flatten)]
    range: RangeArgs,
    /// How many at most [default: 100].
    #[arg(long, value_name = "COUNT")]
    count: Option<u64>,
    /// Of which tracks.
    #[arg(long, value_enum, default_value = "video")]
    track: Track,
}

#[derive(Debug, Args)]
pub(super) struct GetArgs {
    #[command(flatten)]
    common: Common,
    /// Number of the frame.
    frame: u64,
    /// Where to write it [default: standard output].
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// With start codes and parameter sets, as decoders of a byte stream want it.
    #[arg(long)]
    annexb: bool,
    /// A small MP4 from its key frame to it.
    #[arg(long, conflicts_with = "annexb")]
    gop: bool,
}

#[derive(Debug, Args)]
pub(super) struct FollowArgs {
    #[command(flatten)]
    common: Common,
    /// Where to begin [default: newest].
    #[arg(long, value_name = "PLACE")]
    from: Option<String>,
    /// Of which tracks.
    #[arg(long, value_enum, default_value = "video")]
    track: Track,
    /// End after so many.
    #[arg(long, value_name = "COUNT")]
    count: Option<u64>,
}

#[derive(Debug, Args)]
pub(super) struct ClipArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    between: Between,
    /// Where to write it [default: standard output].
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct ImageArgs {
    #[command(flatten)]
    common: Common,
    /// Number of the frame.
    frame: u64,
    /// Where to write it: a name that ends with .png makes PNG, any other JPEG [default: standard output].
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Pixels.
    #[arg(long, value_name = "PIXELS")]
    width: Option<u32>,
}

#[derive(Debug, Args)]
pub(super) struct UrlArgs {
    #[command(flatten)]
    common: Common,
    /// How long they work, in seconds: 60 to 43200.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    ttl: u32,
}

/// A path and what stands behind its question mark.
struct Address {
    text: String,
    begun: bool,
}

impl Address {
    fn new(stream: &StreamName, rest: &str) -> Address {
        Address { text: format!("/v1/video/{stream}{rest}"), begun: false }
    }

    fn with(mut self, name: &str, value: Option<&str>) -> Address {
        let Some(value) = value else { return self };
        self.text.push(if self.begun { '&' } else { '?' });
        self.begun = true;
        self.text += name;
        self.text.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte) {
                self.text.push(char::from(byte));
            } else {
                self.text += &format!("%{byte:02X}");
            }
        }
        self
    }

    fn between(self, between: &Between) -> Address {
        self.with("from", between.from.as_deref()).with("to", between.to.as_deref())
    }
}

impl Common {
    async fn get(&self, path: Address) -> anyhow::Result<Answer> {
        Ok(ask(&self.store.target()?, Method::GET, &path.text, Upload::nothing()).await?)
    }

    async fn json(&self, path: Address) -> anyhow::Result<Value> {
        Ok(serde_json::from_slice(&self.get(path).await?.all().await?)?)
    }
}

fn track(track: Track) -> &'static str {
    match track {
        Track::Video => "video",
        Track::Audio => "audio",
        Track::All => "all",
    }
}

pub(super) async fn run(command: VideoCommand) -> anyhow::Result<()> {
    match command {
        VideoCommand::Put(args) => put(args).await,
        VideoCommand::Ls(args) => ls(args).await,
        VideoCommand::Frames(args) => frames(args).await,
        VideoCommand::Get(args) => {
            let path = Address::new(&args.common.stream, &format!("/frames/{}", args.frame));
            let path =
                path.with("format", args.annexb.then_some("annexb")).with("gop", args.gop.then_some("1"));
            save(args.common.get(path).await?, args.output.as_deref()).await
        }
        VideoCommand::Follow(args) => follow(args).await,
        VideoCommand::Clip(args) => {
            let path = Address::new(&args.common.stream, "/range.mp4").between(&args.between);
            save(args.common.get(path).await?, args.output.as_deref()).await
        }
        VideoCommand::Image(args) => {
            let png = args.output.as_ref().and_then(|file| file.extension()).is_some_and(|end| end == "png");
            let width = args.width.map(|width| width.to_string());
            let path = Address::new(&args.common.stream, &format!("/frames/{}", args.frame))
                .with("image", Some(if png { "png" } else { "jpeg" }))
                .with("width", width.as_deref());
            save(args.common.get(path).await?, args.output.as_deref()).await
        }
        VideoCommand::Gaps(args) => gaps(args).await,
        VideoCommand::Url(args) => url(args).await,
    }
}

async fn put(args: PutArgs) -> anyhow::Result<()> {
    let (pieces, upload) = mpsc::channel(PIECES_WAITING_MAX);
    let source = open(&args.file)?;
    let name = args.file.display().to_string();
    let reading = tokio::task::spawn_blocking(move || match source {
        Source::Bytes(file) => feed(file, &pieces).with_context(|| format!("can't read {name}")),
        Source::Film(film) => {
            feed_film(*film, &pieces).with_context(|| format!("{name} can't be read to its end"))
        }
    });
    // A pipe comes as fast as it is filmed.
    let live = (args.file.as_path() == Path::new("-")).then_some("live");
    let part_ms = args.part_ms.map(|ms| ms.to_string());
    let path = Address::new(&args.common.stream, "")
        .with("producer_time", args.producer_time.as_deref())
        .with("fps", args.fps.as_deref().or(live))
        .with("part_ms", part_ms.as_deref());
    let target = args.common.store.target()?;
    let mut answer = ask(&target, Method::POST, &path.text, Upload::pieces(upload)).await?;
    let mut rest = Vec::new();
    let mut last = Value::Null;
    while let Some(piece) = answer.next().await? {
        rest.extend_from_slice(&piece);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            last = serde_json::from_slice(&line)?;
            if last["fragments"].is_null() && !args.quiet {
                out::print(&String::from_utf8_lossy(&line))?;
            }
        }
    }
    if let Some(error) = last["error"].as_str() {
        anyhow::bail!("{error}; {} fragments before that are kept", last["fragments"]);
    }
    anyhow::ensure!(!last.is_null(), "the store's answer broke off: what it said before is kept");
    reading.await??;
    let stream = &args.common.stream;
    anyhow::ensure!(
        last["fragments"] != 0,
        "nothing came for stream {stream}: kinesin video put STREAM FILE"
    );
    let (fragments, frames, again) = (&last["fragments"], &last["frames"], &last["again"]);
    let bytes = show_bytes(last["bytes"].as_u64().unwrap_or(0));
    eprintln!("{fragments} fragments, {frames} frames, {bytes} are kept; {again} of them were there already");
    Ok(())
}

/// What is put.
enum Source {
    /// A container that can be read from its beginning.
    Bytes(Box<dyn Read + Send>),
    /// MP4 as recorders write it: what it has is found by its tables.
    Film(Box<Film<BufReader<File>>>),
}

fn open(path: &Path) -> anyhow::Result<Source> {
    if path == Path::new("-") {
        return Ok(Source::Bytes(Box::new(std::io::stdin())));
    }
    let name = path.display();
    let file = File::open(path).with_context(|| format!("can't read {name}"))?;
    let about = file.metadata().with_context(|| format!("can't read {name}"))?;
    if !about.is_file() {
        return Ok(Source::Bytes(Box::new(file)));
    }
    let film = Film::open(BufReader::new(file), about.len()).with_context(|| name.to_string())?;
    Ok(match film {
        Some(film) => Source::Film(Box::new(film)),
        None => Source::Bytes(Box::new(File::open(path).with_context(|| format!("can't read {name}"))?)),
    })
}

/// Sends a film as fragmented MP4.
fn feed_film(mut film: Film<BufReader<File>>, pieces: &mpsc::Sender<Bytes>) -> anyhow::Result<()> {
    let mut cutter = Cutter::new(0, UnixMs(0), Clock::Producer);
    let (mut cuts, mut sent, mut more) = (Vec::new(), 0, true);
    while more {
        let next = film.next(&mut cutter, &mut cuts);
        if next.is_err() {
            // What was whole is kept.
            cuts.extend(cutter.flush());
        }
        for cut in cuts.drain(..) {
            let mut bytes = if sent == 0 { mux::init(&cut.fragment.config) } else { Vec::new() };
            sent += 1;
            let data = cut.data.to_vec();
            let mut rest = data.as_slice();
            let frames = cut.fragment.frames.iter().map(|frame| {
                let (data, after) = rest.split_at((frame.size as usize).min(rest.len()));
                rest = after;
                data
            });
            let frames: Vec<&[u8]> = frames.collect();
            let tracks = mux::track_ids(&cut.fragment.config)?;
            bytes.extend(mux::segment(sent, &tracks, &cut.fragment.frames, &frames)?);
            // Where nobody takes it any more, the answer says why.
            if pieces.blocking_send(bytes.into()).is_err() {
                return Ok(());
            }
        }
        more = next?;
    }
    Ok(())
}

fn feed(mut file: Box<dyn Read + Send>, pieces: &mpsc::Sender<Bytes>) -> std::io::Result<()> {
    loop {
        let mut piece = vec![0; PIECE_BYTES];
        let read = file.read(&mut piece)?;
        piece.truncate(read);
        // Where nobody takes it any more, the answer says why.
        if read == 0 || pieces.blocking_send(piece.into()).is_err() {
            return Ok(());
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a file that its user named, and can make again")]
async fn save(mut answer: Answer, output: Option<&Path>) -> anyhow::Result<()> {
    let mut file: Box<dyn Write + Send> = match output {
        Some(path) => {
            let name = path.display();
            Box::new(File::create(path).with_context(|| format!("can't write {name}"))?)
        }
        None => Box::new(std::io::stdout()),
    };
    while let Some(piece) = answer.next().await? {
        file.write_all(&piece)?;
    }
    file.flush()?;
    Ok(())
}

fn time(value: &Value) -> String {
    let ms = value.as_u64().unwrap_or(0);
    jiff::Timestamp::from_millisecond(i64::try_from(ms).unwrap_or(i64::MAX))
        .map_or_else(|_| "?".to_owned(), |t| t.strftime("%Y-%m-%d %H:%M:%S%.3fZ").to_string())
}

/// How the producer's clock goes against the store's.
fn clocks_told(clocks: &Value) -> String {
    let Some(ahead) = clocks["ahead_ms"].as_i64() else { return String::new() };
    let side = if ahead > 0 { "ahead of" } else { "behind" };
    let mut told = format!("newest: producer's clock {} ms {side} its arrival", ahead.abs());
    if let Some(ppm) = clocks["drift_ppm"].as_f64() {
        let (per_hour, over) = (&clocks["drift_ms_per_hour"], clocks["over_ms"].as_u64().unwrap_or(0));
        told += &format!("; drift {ppm:+} ppm ({per_hour} ms an hour) over {} min", over / 60_000);
    }
    told.push('\n');
    for step in clocks["steps"].as_array().into_iter().flatten() {
        let by = step["forward_ms"].as_i64().unwrap_or(0);
        let way = if by > 0 { "forward" } else { "back" };
        told += &format!("clock put {way} by {} ms before {}\n", by.abs(), time(&step["before_ms"]));
    }
    told
}

async fn ls(args: RangeArgs) -> anyhow::Result<()> {
    let stream = &args.common.stream;
    let about = args.common.json(Address::new(stream, "")).await?;
    let list = args.common.json(Address::new(stream, "/fragments").between(&args.between)).await?;
    if args.json {
        return Ok(out::print_json(&serde_json::json!({ "about": about, "fragments": list["fragments"] }))?);
    }
    let tracks = about["tracks"].as_array().map(Vec::as_slice).unwrap_or_default();
    let tracks: Vec<String> = tracks
        .iter()
        .map(|track| {
            let text = |name: &str| track[name].as_str().unwrap_or("?").to_owned();
            match track["width"].as_u64() {
                Some(0) | None => format!("{} {}", text("kind"), text("codec")),
                Some(width) => format!("{} {} {width}x{}", text("kind"), text("codec"), track["height"]),
            }
        })
        .collect();
    let clocks = clocks_told(&about["clocks"]);
    let mut table = out::Table::new(&["FRAME", "FRAMES", "MS", "SIZE", "PRODUCER TIME", "STORED", "FOLLOWS"]);
    for fragment in list["fragments"].as_array().into_iter().flatten() {
        let follows = match &fragment["follows"] {
            Value::String(text) => text.clone(),
            gap => format!("gap of {} ms", gap["gap_ms"]),
        };
        table.row(vec![
            fragment["fragment"].to_string(),
            fragment["frames"].to_string(),
            fragment["duration_ms"].to_string(),
            show_bytes(fragment["bytes"].as_u64().unwrap_or(0)),
            time(&fragment["producer_time_ms"]),
            time(&fragment["server_time_ms"]),
            follows,
        ]);
    }
    Ok(out::print(&format!("{stream}: {}\n{clocks}\n{}", tracks.join(", "), table.text()))?)
}

async fn frames(args: FramesArgs) -> anyhow::Result<()> {
    let count = args.count.map(|count| count.to_string());
    let path = Address::new(&args.range.common.stream, "/frames")
        .between(&args.range.between)
        .with("count", count.as_deref())
        .with("track", Some(track(args.track)))
        .with("meta", Some("1"));
    let answer = args.range.common.get(path).await?.all().await?;
    if args.range.json {
        return Ok(out::print(&String::from_utf8_lossy(&answer))?);
    }
    let mut table = out::Table::new(&["FRAME", "TRACK", "KEY", "SHOWN AT", "DURATION", "SIZE", "KEY FRAME"]);
    for line in answer.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let frame: Value = serde_json::from_slice(line)?;
        table.row(vec![
            frame["frame"].to_string(),
            frame["kind"].as_str().unwrap_or("?").to_owned(),
            if frame["key"] == true { "key" } else { "-" }.to_owned(),
            time(&frame["pts_ms"]),
            frame["duration"].to_string(),
            frame["size"].to_string(),
            frame["keyframe"].to_string(),
        ]);
    }
    Ok(out::print(&table.text())?)
}

async fn follow(args: FollowArgs) -> anyhow::Result<()> {
    let count = args.count.map(|count| count.to_string());
    let path = Address::new(&args.common.stream, "/frames")
        .with("from", args.from.as_deref())
        .with("count", count.as_deref())
        .with("track", Some(track(args.track)))
        .with("follow", Some("1"))
        .with("meta", Some("1"));
    save(args.common.get(path).await?, None).await
}

async fn gaps(args: RangeArgs) -> anyhow::Result<()> {
    let gaps = args.common.json(Address::new(&args.common.stream, "/gaps").between(&args.between)).await?;
    if args.json {
        return Ok(out::print_json(&gaps["gaps"])?);
    }
    let list = gaps["gaps"].as_array().map(Vec::as_slice).unwrap_or_default();
    if list.is_empty() {
        return Ok(out::print("nothing is missing\n")?);
    }
    let mut table = out::Table::new(&["BEFORE FRAME", "MISSING MS", "FROM", "TO", "WHY"]);
    for gap in list {
        table.row(vec![
            gap["before"].to_string(),
            gap["missing_ms"].to_string(),
            time(&gap["from_ms"]),
            time(&gap["to_ms"]),
            gap["why"].as_str().unwrap_or("?").to_owned(),
        ]);
    }
    Ok(out::print(&table.text())?)
}

async fn url(args: UrlArgs) -> anyhow::Result<()> {
    let target = args.common.store.target()?;
    let ttl = args.ttl.to_string();
    let path = Address::new(&args.common.stream, "/session").with("ttl", Some(&ttl));
    let mut answer = ask(&target, Method::POST, &path.text, Upload::nothing()).await?;
    let session: Value = serde_json::from_slice(&answer.all().await?)?;
    let base = format!("https://{}:{}", target.url.host, target.url.port);
    let mut text = String::new();
    for name in ["player", "live", "vod", "dash", "file"] {
        text += &format!("{name:<7} {base}{}\n", session[name].as_str().unwrap_or("?"));
    }
    Ok(out::print(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reaches `PIECES_WAITING_MAX`.
    #[test]
    fn no_more_of_a_file_is_read_than_may_wait_while_nobody_takes_it() {
        let (pieces, mut upload) = mpsc::channel(PIECES_WAITING_MAX);
        let reader = std::thread::spawn(move || feed(Box::new(std::io::repeat(7)), &pieces).is_ok());
        while upload.len() < PIECES_WAITING_MAX {
            std::thread::yield_now();
        }
        // It waits with the next one in hand, and ends once nobody will take it.
        upload.close();
        assert!(reader.join().unwrap());
        let taken = std::iter::from_fn(|| upload.blocking_recv()).count();
        assert_eq!(taken, PIECES_WAITING_MAX);
    }
}
