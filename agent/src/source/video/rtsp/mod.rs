//! A camera by RTSP (RFC 2326): connects, asks for its pictures and its sound, and connects again whenever that ends. What is
//! sent becomes frames in `retina`, and fragments in [`camera`]. Never: what a frame is, whose clock its time is; and no
//! user, password or path in any message.

mod camera;

use std::future::poll_fn;
use std::num::NonZeroU16;
use std::pin::{Pin, pin};
use std::time::Duration;

use futures_core::Stream as _;
use protocol::backoff::Backoff;
use protocol::time::Mono;
use retina::client::{
    Credentials, Demuxed, InitialTimestampPolicy, PlayOptions, Session, SessionOptions, SetupOptions, Stream,
    TcpTransportOptions, Transport, UdpTransportOptions,
};
use retina::codec::{CodecItem, FrameFormat, ParametersRef};
use tokio::time::{sleep, timeout};
use video::codec::h265_may_begin;
use video::cut::Cut;
use video::describe::{Description, Kind};

pub use self::camera::any::said as camera_said;
use self::camera::{Came, Camera};
use super::Parts;
use super::command::{hand_on, random};
use super::feed::Feeder;
use crate::clock::unix_ms;
use crate::config::{RtspTransport, RtspUrl};

/// A camera answers all questions before the first frame within this.
const BEGIN_WITHIN: Duration = Duration::from_secs(15);
/// How often it is looked whether the agent ends.
const LOOK: Duration = Duration::from_millis(100);
/// Between two connections.
const AGAIN_MS: (u64, u64) = (500, 30_000);
/// Cameras lock users out whose password is wrong again and again.
const REFUSED_MS: u64 = 60_000;
/// A connection that was this long was a good one: the next attempt is soon.
const GOOD_RUN_MS: u64 = 60_000;

/// Why a connection ended.
struct End {
    why: String,
    /// The user or the password is wrong.
    refused: bool,
}

impl From<String> for End {
    fn from(why: String) -> End {
        End { why, refused: false }
    }
}

/// What `retina` says, in one line and without where the camera's path might be.
fn told(error: &retina::Error, url: &RtspUrl) -> End {
    if error.status_code() == Some(401) {
        return End { why: "the camera refuses the user or the password (401)".to_owned(), refused: true };
    }
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default().replace(url.text(), "the camera's address");
    End::from(line)
}

/// Works until the agent ends.
pub(super) fn run(parts: &Parts, url: &RtspUrl) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            let text = format!("stream {}: nothing can be read from {}: {error}", parts.stream, url.host());
            return parts.log.error(&format!("video {}", parts.stream), &text);
        }
    };
    let mut feeder = Feeder::new(&parts.hub, parts.source, &parts.stream);
    let mut backoff = Backoff::new(AGAIN_MS.0, AGAIN_MS.1, random());
    while !feeder.stopping() {
        let begun = parts.clock.now();
        let end = runtime.block_on(Box::pin(connection(parts, url, &mut feeder)));
        if feeder.stopping() {
            return;
        }
        if parts.clock.now().since(begun).as_millis() as u64 >= GOOD_RUN_MS {
            backoff.reset();
        }
        let wait = backoff.next_wait().as_millis() as u64;
        let ms = if end.refused { wait.max(REFUSED_MS) } else { wait };
        let text =
            format!("stream {}: {}: {}; connected again in {ms} ms", parts.stream, url.host(), end.why);
        parts.log.warn(&format!("video {}", parts.stream), &text);
        feeder.wait(Duration::from_millis(ms));
    }
}

/// One connection, from the first question to its end.
async fn connection(parts: &Parts, url: &RtspUrl, feeder: &mut Feeder) -> End {
    let mut begin = pin!(timeout(BEGIN_WITHIN, begin(parts, url)));
    let begun = loop {
        tokio::select! {
            begun = &mut begin => break begun,
            () = sleep(LOOK) => if feeder.stopping() { return End::from(String::new()) },
        }
    };
    let (mut session, chosen) = match begun {
        Err(_) => return End::from(format!("no answer within {} s", BEGIN_WITHIN.as_secs())),
        Ok(Err(end)) => return end,
        Ok(Ok(begun)) => begun,
    };
    let mut camera = Camera::new(random(), chosen.len());
    let mut cuts = Vec::new();
    let end = frames(parts, url, feeder, &mut session, &chosen, &mut camera).await;
    // What was whole when it ended is kept.
    let finished = camera.finish(&mut cuts);
    hand_on(feeder, &mut cuts);
    match finished {
        Ok(()) => end,
        Err(error) => End::from(format!("{}; {error}", end.why)),
    }
}

/// Asks the camera what it has, and for the tracks that can be taken. Returns their places in its description, pictures first.
async fn begin(parts: &Parts, url: &RtspUrl) -> Result<(Demuxed, Vec<usize>), End> {
    let settings = &parts.settings;
    let credentials = settings.username.clone().zip(settings.password.clone());
    let credentials = credentials.map(|(username, password)| Credentials { username, password: password.0 });
    let options = SessionOptions::default()
        .creds(credentials)
        .user_agent(format!("kinesin-agent {}", env!("CARGO_PKG_VERSION")));
    let address = url::Url::parse(url.text()).map_err(|error| format!("rtsp is no address: {error}"))?;
    let mut session = Session::describe(address, options).await.map_err(|error| told(&error, url))?;
    let chosen = choose(session.streams())?;
    for place in &chosen {
        let transport = match settings.transport {
            RtspTransport::Tcp => Transport::Tcp(TcpTransportOptions::default()),
            RtspTransport::Udp => Transport::Udp(UdpTransportOptions::default()),
        };
        let options = SetupOptions::default().transport(transport).frame_format(FrameFormat::MP4);
        session.setup(*place, options).await.map_err(|error| told(&error, url))?;
    }
    let options = PlayOptions::default().initial_timestamp(InitialTimestampPolicy::Permissive);
    let session = session.play(options).await.map_err(|error| told(&error, url))?;
    let demuxed = session.demuxed().map_err(|error| told(&error, url))?;
    Ok((demuxed, chosen))
}

/// The first pictures and the first sound that can be kept.
fn choose(streams: &[Stream]) -> Result<Vec<usize>, String> {
    let of = |media: &str, encodings: &[&str]| {
        streams
            .iter()
            .position(|stream| stream.media() == media && encodings.contains(&stream.encoding_name()))
    };
    let pictures = of("video", &["h264", "h265"]);
    // What is not described at once is never.
    let sound = of("audio", &["mpeg4-generic", "pcma", "pcmu"])
        .filter(|place| streams[*place].parameters().is_some());
    let chosen: Vec<usize> = pictures.into_iter().chain(sound).collect();
    if !chosen.is_empty() {
        return Ok(chosen);
    }
    let name = |stream: &Stream| format!("{}/{}", stream.media(), stream.encoding_name());
    let offers: Vec<String> = streams.iter().take(8).map(name).collect();
    Err(format!("it has {offers:?}; H.264, H.265, AAC and G.711 are taken: change the camera's settings"))
}

async fn frames(
    parts: &Parts,
    url: &RtspUrl,
    feeder: &mut Feeder,
    session: &mut Demuxed,
    chosen: &[usize],
    camera: &mut Camera,
) -> End {
    let silence = Duration::from_secs(parts.settings.silence_s);
    let mut since = parts.clock.now();
    let mut cuts = Vec::new();
    for (track, place) in chosen.iter().enumerate() {
        if let Err(why) = describe(camera, track, &session.streams()[*place], &mut cuts) {
            return End::from(why);
        }
    }
    loop {
        let next = timeout(LOOK, poll_fn(|context| Pin::new(&mut *session).poll_next(context))).await;
        if feeder.stopping() {
            return End::from(String::new());
        }
        let item = match next {
            Err(_) => {
                if let Some(end) = too_silent(parts.clock.now(), since, silence) {
                    return end;
                }
                continue;
            }
            Ok(None) => return End::from("the camera ended the connection".to_owned()),
            Ok(Some(Err(error))) => return told(&error, url),
            Ok(Some(Ok(item))) => item,
        };
        let taken = take(item, session, chosen, camera, &mut cuts);
        let is_frame = matches!(taken, Ok(true));
        hand_on(feeder, &mut cuts);
        while let Some(text) = camera.poll_told() {
            let text = format!("stream {}: {}: {text}", parts.stream, url.host());
            // The same news with other numbers is the same news.
            let kind: String = text.chars().filter(|c| !c.is_ascii_digit()).collect();
            parts.log.warn(&kind, &text);
        }
        if let Err(why) = taken {
            return End::from(why);
        }
        if is_frame {
            // What had to wait for room is no silence.
            since = parts.clock.now();
        } else if let Some(end) = too_silent(parts.clock.now(), since, silence) {
            return end;
        }
    }
}

fn too_silent(now: Mono, since: Mono, silence: Duration) -> Option<End> {
    (now.since(since) >= silence).then(|| End::from(format!("no frame came for {} s", silence.as_secs())))
}

/// Takes what came; true where it was a frame.
fn take(
    item: CodecItem,
    session: &Demuxed,
    chosen: &[usize],
    camera: &mut Camera,
    cuts: &mut Vec<Cut>,
) -> Result<bool, String> {
    let track = |place: usize| chosen.iter().position(|chosen| *chosen == place);
    let came = match item {
        CodecItem::VideoFrame(frame) => {
            let Some(track) = track(frame.stream_id()) else { return Ok(false) };
            if frame.has_new_parameters() || !camera.is_described(track) {
                describe(camera, track, &session.streams()[frame.stream_id()], cuts)?;
            }
            let (closed, pts, lost) =
                (frame.is_random_access_point(), frame.timestamp().elapsed(), frame.loss());
            let data = frame.into_data();
            // Open groups of pictures begin at others than what `retina` means, which is an IDR picture.
            let is_h265 = session.streams()[chosen[track]].encoding_name() == "h265";
            let key = closed || is_h265 && h265_may_begin(&data);
            Came { track, key, pts, duration: None, lost, data }
        }
        CodecItem::AudioFrame(frame) => {
            let Some(track) = track(frame.stream_id()) else { return Ok(false) };
            let (pts, duration) = (frame.timestamp().elapsed(), Some(frame.frame_length().get()));
            Came { track, key: true, pts, duration, lost: frame.loss(), data: frame.data().to_vec() }
        }
        CodecItem::Rtcp(packet) => {
            let report = packet.pkts().next().and_then(|packet| packet.as_sender_report().ok().flatten());
            if let (Some(track), Some(at), Some(report)) =
                (track(packet.stream_id()), packet.rtp_timestamp(), report)
            {
                camera.handle_report(track, at.elapsed(), report.ntp_timestamp().0);
            }
            return Ok(false);
        }
        _ => return Ok(false),
    };
    camera.handle_frame(came, unix_ms(), cuts).map_err(|error| error.to_string())?;
    Ok(true)
}

/// Tells the machine what a track's frames are made with, where that is known.
fn describe(camera: &mut Camera, track: usize, stream: &Stream, cuts: &mut Vec<Cut>) -> Result<(), String> {
    let narrow = |pixels: u32| u16::try_from(pixels).unwrap_or(u16::MAX);
    let description = match stream.parameters() {
        Some(ParametersRef::Video(video)) => Description {
            id: track as u32 + 1,
            kind: if stream.encoding_name() == "h265" { Kind::H265 } else { Kind::H264 },
            private: video.extra_data().to_vec(),
            width: narrow(video.pixel_dimensions().0),
            height: narrow(video.pixel_dimensions().1),
            rate: 0,
            channels: 0,
            timescale: stream.clock_rate_hz(),
        },
        Some(ParametersRef::Audio(audio)) => Description {
            id: track as u32 + 1,
            kind: match stream.encoding_name() {
                "pcma" => Kind::Alaw,
                "pcmu" => Kind::Mulaw,
                _ => Kind::Aac,
            },
            private: audio.extra_data().to_vec(),
            width: 0,
            height: 0,
            // What the field is too small for, the codec knows.
            rate: u16::try_from(audio.clock_rate()).unwrap_or(0),
            channels: NonZeroU16::get(audio.channels()),
            timescale: stream.clock_rate_hz(),
        },
        _ => return Ok(()),
    };
    camera.handle_description(track, description, cuts).map_err(|error| error.to_string())
}
