//! Video in and out, with ffmpeg as the camera and as the judge: every frame of every codec comes back as ffprobe saw it
//! before, pictures are the right ones, files play and seek, and what was acknowledged survives.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use hyper::Method;
use serde_json::Value;
use store::client::Target;
use store::client::http::{Upload, ask};
use tests::harness::process::{binary, skip};

use crate::common::{Rig, wait_until};

const NOON: &str = "2026-11-20T12:00:00Z";
const NOON_MS: i64 = 1_795_176_000_000;

pub(crate) async fn rig() -> Option<Rig> {
    if Command::new("ffmpeg").arg("-version").stdout(Stdio::null()).status().is_err() {
        skip("ffmpeg is not installed");
        return None;
    }
    Rig::start(&[]).await
}

pub(crate) fn tool(name: &str, words: &[&str]) -> Vec<u8> {
    let output = Command::new(name).args(["-v", "error"]).args(words).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {words:?}: {said}");
    output.stdout
}

/// Makes a file: what is filmed and how it is encoded, in ffmpeg's words.
pub(crate) fn film(rig: &Rig, name: &str, words: &str) -> String {
    let path = rig.path(name).display().to_string();
    let mut all: Vec<&str> = words.split_whitespace().collect();
    if name.ends_with(".mp4") {
        all.extend(["-movflags", "frag_keyframe+delay_moov+default_base_moof"]);
    }
    all.extend(["-y", &path]);
    tool("ffmpeg", &all);
    path
}

pub(crate) const PICTURES: &str = "-f lavfi -i testsrc2=size=320x180:rate=30";
const SOUND: &str = "-f lavfi -i sine=frequency=440:sample_rate=48000";

/// A packet as ffprobe sees it; times are from the first of its track.
pub(crate) type Packet = (i64, i64, u64, bool, String);

/// The packets of a file, by the kind of their track.
pub(crate) fn packets(path: &str) -> BTreeMap<String, Vec<Packet>> {
    let words = ["-show_packets", "-show_data_hash", "md5", "-of", "json", path];
    let probed: Value = serde_json::from_slice(&tool("ffprobe", &words)).unwrap();
    let mut all = BTreeMap::<String, Vec<Packet>>::new();
    for packet in probed["packets"].as_array().unwrap() {
        let kind = packet["codec_type"].as_str().unwrap().to_owned();
        let size = packet["size"].as_str().unwrap().parse().unwrap();
        let key = packet["flags"].as_str().unwrap().starts_with('K');
        let hash = packet["data_hash"].as_str().unwrap().to_owned();
        let (dts, pts) = (packet["dts"].as_i64().unwrap(), packet["pts"].as_i64().unwrap());
        all.entry(kind).or_default().push((dts, pts, size, key, hash));
    }
    for packets in all.values_mut() {
        packets.sort_by_key(|packet| packet.0);
        let first = packets[0].0;
        packets.iter_mut().for_each(|packet| (packet.0, packet.1) = (packet.0 - first, packet.1 - first));
    }
    all
}

pub(crate) fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What the store tells of its frames, in the same words.
fn listed(rig: &Rig, stream: &str) -> BTreeMap<String, Vec<(i64, i64, u64, bool)>> {
    let mut all = BTreeMap::<String, Vec<_>>::new();
    for frame in lines(&rig.kinesin(&format!("video frames {stream} --track all --count 100000 --json"))) {
        let (dts, pts) = (frame["dts"].as_i64().unwrap(), frame["pts"].as_i64().unwrap());
        let size = frame["size"].as_u64().unwrap();
        let kind = frame["kind"].as_str().unwrap().to_owned();
        all.entry(kind).or_default().push((dts, pts, size, frame["key"] == true));
    }
    for frames in all.values_mut() {
        let first = frames[0].0;
        frames.iter_mut().for_each(|frame| (frame.0, frame.1) = (frame.0 - first, frame.1 - first));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn every_frame_of_every_codec_comes_back_as_ffprobe_saw_it() {
    let Some(rig) = rig().await else { return };
    for (name, words) in [
        ("h264", format!("{PICTURES} -t 6 -c:v libx264 -preset veryfast -bf 0 -g 30")),
        ("h264-b-aac", format!("{PICTURES} {SOUND} -t 6 -c:v libx264 -preset veryfast -bf 3 -g 60 -c:a aac")),
        (
            "h265-aac",
            format!(
                "{PICTURES} {SOUND} -t 4 -c:v libx265 -x265-params log-level=none:keyint=30 -tag:v hvc1 -c:a aac"
            ),
        ),
        ("av1-opus", format!("{PICTURES} {SOUND} -t 2 -c:v libaom-av1 -cpu-used 8 -g 30 -c:a libopus")),
        (
            "variable",
            format!(
                "{PICTURES} -t 6 -vf select='not(mod(n\\,7))+not(mod(n\\,3))' -vsync vfr -c:v libx264 -preset veryfast -g 30"
            ),
        ),
        ("sound-only", format!("{SOUND} -t 9 -c:a aac -frag_duration 1000000")),
    ] {
        let file = film(&rig, &format!("{name}.mp4"), &words);
        rig.kinesin(&format!("video put {name} {file} --producer-time {NOON} --quiet"));
        let before = packets(&file);
        let told: BTreeMap<String, Vec<_>> = before
            .iter()
            .map(|(kind, all)| (kind.clone(), all.iter().map(|p| (p.0, p.1, p.2, p.3)).collect()))
            .collect();
        assert_eq!(listed(&rig, name), told, "{name}: what is listed");
        let clip = rig.path("clip.mp4").display().to_string();
        rig.kinesin(&format!("video clip {name} -o {clip}"));
        assert_eq!(packets(&clip), before, "{name}: what is taken out");
        tool("ffmpeg", &["-xerror", "-i", &clip, "-f", "null", "-"]);
        let about = rig.json(&format!("video ls {name} --json"));
        assert_eq!(about["about"]["oldest"]["producer_time_ms"].as_i64(), Some(NOON_MS));
        assert_eq!(rig.kinesin(&format!("video gaps {name}")), "nothing is missing\n", "{name}");
    }
}

/// Matroska has presentation times only: what is stored is compared with those, frame by frame.
#[tokio::test(flavor = "multi_thread")]
async fn every_frame_of_matroska_comes_back_as_ffprobe_saw_it() {
    let Some(rig) = rig().await else { return };
    let h264 = "-c:v libx264 -preset veryfast";
    for (name, words) in [
        ("mkv-h264", format!("{PICTURES} -t 5 {h264} -bf 0 -g 30")),
        ("mkv-h264-b-aac", format!("{PICTURES} {SOUND} -t 6 {h264} -bf 3 -g 60 -c:a aac")),
        ("mkv-open-b", format!("{PICTURES} -t 4 {h264} -bf 2 -g 24 -x264-params open-gop=1")),
        (
            "mkv-h265-opus",
            format!(
                "{PICTURES} {SOUND} -t 4 -c:v libx265 -x265-params log-level=none:keyint=30 -c:a libopus"
            ),
        ),
        ("mkv-live", format!("{PICTURES} {SOUND} -t 4 {h264} -g 30 -c:a aac -live 1")),
        ("mkv-g711", format!("{PICTURES} {SOUND} -t 3 {h264} -g 30 -c:a pcm_mulaw -ar 8000 -ac 1")),
        ("mkv-sound", format!("{SOUND} -t 9 -c:a aac")),
    ] {
        let file = film(&rig, &format!("{name}.mkv"), &words);
        rig.kinesin(&format!("video put {name} {file} --producer-time {NOON} --quiet"));
        let sorted = |mut all: BTreeMap<String, Vec<(i64, u64, bool)>>| {
            all.values_mut().for_each(|frames| {
                let first = frames.iter().map(|frame| frame.0).min().unwrap();
                frames.iter_mut().for_each(|frame| frame.0 -= first);
            });
            all
        };
        let before = shown(&file);
        let told = before
            .iter()
            .map(|(kind, all)| (kind.clone(), all.iter().map(|p| (p.0, p.1, p.2)).collect()))
            .collect();
        let listed = listed(&rig, name)
            .into_iter()
            .map(|(kind, all)| (kind, all.into_iter().map(|f| (f.1, f.2, f.3)).collect()))
            .collect();
        assert_eq!(sorted(listed), sorted(told), "{name}: what is listed");
        let clip = rig.path("clip.mp4").display().to_string();
        rig.kinesin(&format!("video clip {name} -o {clip}"));
        let hashes = |all: BTreeMap<String, Vec<(i64, u64, bool, String)>>| -> Vec<Vec<String>> {
            all.into_values().map(|all| all.into_iter().map(|packet| packet.3).collect()).collect()
        };
        assert_eq!(hashes(shown(&clip)), hashes(before), "{name}: what is taken out");
        tool("ffmpeg", &["-xerror", "-i", &clip, "-f", "null", "-"]);
        assert_eq!(rig.kinesin(&format!("video gaps {name}")), "nothing is missing\n", "{name}");
    }
}

/// A transport stream has the frames of the film that it was made of, to the byte, and its times.
#[tokio::test(flavor = "multi_thread")]
async fn every_frame_of_a_transport_stream_comes_back_as_its_film_had_it() {
    let Some(rig) = rig().await else { return };
    let (h264, h265) =
        ("-c:v libx264 -preset veryfast", "-c:v libx265 -x265-params log-level=none:keyint=30:info=0");
    for (name, words) in [
        ("ts-h264", format!("{PICTURES} -t 5 {h264} -bf 0 -g 30")),
        ("ts-h264-b-aac", format!("{PICTURES} {SOUND} -t 6 {h264} -bf 3 -g 60 -c:a aac")),
        ("ts-h265-aac", format!("{PICTURES} {SOUND} -t 4 {h265} -tag:v hvc1 -c:a aac")),
        ("ts-sound", format!("{SOUND} -t 9 -c:a aac -frag_duration 1000000")),
    ] {
        let film = film(&rig, &format!("{name}.mp4"), &words);
        let file = rig.path("film.ts").display().to_string();
        tool("ffmpeg", &["-i", &film, "-c", "copy", "-f", "mpegts", "-y", &file]);
        for layout in ["", "-recorder"] {
            let stream = format!("{name}{layout}");
            if !layout.is_empty() {
                // With four bytes before each packet, as recorders write them.
                let packets = std::fs::read(&file).unwrap();
                let packets = packets.chunks(188).flat_map(|packet| [&[0; 4], packet].concat());
                std::fs::write(&file, packets.collect::<Vec<u8>>()).unwrap();
            }
            rig.kinesin(&format!("video put {stream} {file} --producer-time {NOON} --quiet"));
            let clip = rig.path("clip.mp4").display().to_string();
            rig.kinesin(&format!("video clip {stream} -o {clip}"));
            let (before, after) = (shown(&film), shown(&clip));
            assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>(), "{stream}");
            for (kind, before) in &before {
                let data = |all: &[(i64, u64, bool, String)]| -> Vec<_> {
                    all.iter().map(|packet| (packet.1, packet.2, packet.3.clone())).collect()
                };
                assert_eq!(data(&after[kind]), data(before), "{stream}: {kind}");
                let times = |all: &[(i64, u64, bool, String)], unit: i64| -> Vec<i64> {
                    let first = all.iter().map(|packet| packet.0).min().unwrap();
                    all.iter().map(|packet| (packet.0 - first) / unit).collect()
                };
                // A picture is 512 units long in the film, and 3000 in the stream.
                let units = if kind == "video" { (512, 3000) } else { (1, 1) };
                assert_eq!(times(&after[kind], units.1), times(before, units.0), "{stream}: {kind}");
            }
            tool("ffmpeg", &["-xerror", "-i", &clip, "-f", "null", "-"]);
            assert_eq!(rig.kinesin(&format!("video gaps {stream}")), "nothing is missing\n", "{stream}");
        }
    }
}

/// The packets of a file in their order: presentation time, size, key flag, hash.
fn shown(path: &str) -> BTreeMap<String, Vec<(i64, u64, bool, String)>> {
    let words = ["-show_packets", "-show_data_hash", "md5", "-of", "json", path];
    let probed: Value = serde_json::from_slice(&tool("ffprobe", &words)).unwrap();
    let mut all = BTreeMap::<String, Vec<_>>::new();
    for packet in probed["packets"].as_array().unwrap() {
        let size = packet["size"].as_str().unwrap().parse().unwrap();
        let key = packet["flags"].as_str().unwrap().starts_with('K');
        let hash = packet["data_hash"].as_str().unwrap().to_owned();
        let kind = packet["codec_type"].as_str().unwrap().to_owned();
        all.entry(kind).or_default().push((packet["pts"].as_i64().unwrap(), size, key, hash));
    }
    all
}

/// A film in which each picture is as bright as its number.
fn numbered(rig: &Rig, seconds: u32) -> String {
    let words = "-f lavfi -i nullsrc=size=64x64:rate=30,geq=lum='16+mod(N\\,100)*2':cb=128:cr=128 -t {s} \
                 -c:v libx264 -preset veryfast -bf 2 -g 30 -qp 4 -pix_fmt yuv420p";
    film(rig, "numbered.mp4", &words.replace("{s}", &seconds.to_string()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_is_found_by_number_and_by_time_and_its_picture_is_the_right_one() {
    let Some(rig) = rig().await else { return };
    let file = numbered(&rig, 5);
    rig.kinesin(&format!("video put cam {file} --producer-time {NOON} --quiet"));
    let frames = lines(&rig.kinesin("video frames cam --json --count 1000"));
    assert_eq!(frames.len(), 150);
    let first_shown = frames.iter().map(|frame| frame["pts"].as_i64().unwrap()).min().unwrap();
    for number in [0usize, 1, 29, 30, 31, 77, 100, 149] {
        let frame = &frames[number];
        let picture = rig.path("picture.png").display().to_string();
        rig.kinesin(&format!("video image cam {number} -o {picture}"));
        let gray = tool("ffmpeg", &["-i", &picture, "-f", "rawvideo", "-pix_fmt", "gray", "-"]);
        let mean = gray.iter().map(|byte| f64::from(*byte)).sum::<f64>() / gray.len() as f64;
        // Which picture it is, its presentation time says.
        let timescale = frame["timescale"].as_i64().unwrap();
        let shown = (frame["pts"].as_i64().unwrap() - first_shown) * 30 / timescale;
        let want = (shown % 100 * 2) as f64 * 255.0 / 219.0;
        assert!((mean - want).abs() < 3.0, "frame {number}, shown as {shown}: {mean} in place of {want}");
        // The encoded picture, alone and with what it needs.
        let bytes = std::process::Command::new(binary("kinesin").unwrap())
            .args(["video", "get", "cam", &number.to_string(), "--data"])
            .arg(&rig.store.data)
            .output()
            .unwrap();
        assert_eq!(bytes.stdout.len() as u64, frame["size"].as_u64().unwrap());
        let gop = rig.path("gop.mp4").display().to_string();
        rig.kinesin(&format!("video get cam {number} --gop -o {gop}"));
        tool("ffmpeg", &["-xerror", "-i", &gop, "-f", "null", "-"]);
        assert_eq!(packets(&gop)["video"].len(), number % 30 + 1);
    }
    let stream = rig.path("all.h264").display().to_string();
    rig.kinesin(&format!("video get cam 30 --annexb -o {stream}"));
    tool("ffmpeg", &["-xerror", "-i", &stream, "-f", "null", "-"]);
    let at = |from: &str| {
        lines(&rig.kinesin(&format!("video frames cam --json --count 1 --from {from}")))[0].clone()
    };
    assert_eq!(at("2026-11-20T12:00:03Z")["frame"], 90);
    assert_eq!(at(&format!("producer:{}", NOON_MS + 3016))["frame"], 90, "what was being made then");
    assert_eq!(at("frame:45")["frame"], 45);
    assert_eq!(at("oldest")["frame"], 0);
    assert_eq!(at("server:2020-01-01T00:00:00Z")["frame"], 0);
    let beyond = rig.store.command(&["video", "get", "cam", "150"]).unwrap_err().to_string();
    assert!(beyond.contains("no frame 150"), "{beyond}");
}

async fn get(rig: &Rig, path: &str) -> Vec<u8> {
    let target = Target::of_data_dir(&rig.store.data).unwrap();
    ask(&target, Method::GET, path, Upload::nothing()).await.unwrap().all().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn players_get_playlists_segments_and_files_that_seek() {
    let Some(rig) = rig().await else { return };
    let port = tests::harness::process::free_port().unwrap();
    let mut rig = rig;
    drop(rig.store.kill());
    rig.store = tests::harness::process::StoreProcess::start(
        rig.home.path(),
        &["--insecure-http", &format!("127.0.0.1:{port}")],
    )
    .await
    .unwrap();
    let words = format!("{PICTURES} {SOUND} -t 8 -c:v libx264 -preset veryfast -g 60 -c:a aac");
    let file = film(&rig, "film.mp4", &words);
    rig.kinesin(&format!("video put cam {file} --producer-time {NOON} --quiet"));
    let urls = rig.kinesin("video url cam");
    let token = urls.split("token=").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    let base = format!("http://127.0.0.1:{port}/v1/video/cam");
    let url = format!("{base}/vod.m3u8?token={token}");
    tool("ffmpeg", &["-xerror", "-i", &url, "-f", "null", "-"]);
    let played = packets(&url);
    assert_eq!((played["video"].len(), played["audio"].len()), (240, packets(&file)["audio"].len()));
    // Its times are small, and the same ones where it is played as what is live.
    let probe = ["-v", "error", "-show_entries", "format=start_time", "-of", "csv=p=0", url.as_str()];
    let first: f64 = String::from_utf8(tool("ffprobe", &probe)).unwrap().trim().parse().unwrap();
    assert!((first - 36.0 * 3600.0).abs() < 1.0, "{first}");
    let live = urls.lines().find(|line| line.contains("live.m3u8")).and_then(|line| line.split_once("base="));
    let from = live.map(|(_, base)| format!("base={base}")).expect("where its times begin");
    let list = get(&rig, &format!("/v1/video/cam/live.m3u8?window=100&{from}")).await;
    let vod = get(&rig, "/v1/video/cam/vod.m3u8").await;
    let segments = |list: Vec<u8>| -> Vec<String> {
        let lines = String::from_utf8(list).unwrap();
        lines.lines().filter(|line| line.starts_with("segments/")).map(str::to_owned).collect()
    };
    assert_eq!(segments(list), segments(vod));
    let url = format!("{base}/manifest.mpd?to=newest&token={token}");
    tool("ffmpeg", &["-xerror", "-i", &url, "-f", "null", "-"]);
    let played = packets(&url);
    assert_eq!((played["video"].len(), played["audio"].len()), (240, packets(&file)["audio"].len()));
    // One that is live has no end, and begins where the newest fragments do.
    let live = String::from_utf8(get(&rig, "/v1/video/cam/live.m3u8?window=2").await).unwrap();
    assert!(live.contains("#EXT-X-MEDIA-SEQUENCE:2\n") && !live.contains("ENDLIST"), "{live}");
    let segments: Vec<&str> = live.lines().filter(|line| line.starts_with("segments/")).collect();
    assert_eq!(segments.len(), 2);
    let init = live.split("URI=\"").nth(1).unwrap().split('"').next().unwrap();
    let mut file_of_it = get(&rig, &format!("/v1/video/cam/{init}")).await;
    for segment in segments {
        file_of_it.extend(get(&rig, &format!("/v1/video/cam/{segment}")).await);
    }
    let path = rig.path("live.mp4").display().to_string();
    std::fs::write(&path, file_of_it).unwrap();
    assert_eq!(packets(&path)["video"].len(), 120);
    // A player that seeks: ranges of a file that is made as it is read.
    let url = format!("{base}/range.mp4?token={token}");
    tool("ffmpeg", &["-xerror", "-ss", "5", "-i", &url, "-frames:v", "3", "-f", "null", "-"]);
    let whole = get(&rig, "/v1/video/cam/range.mp4").await;
    for range in ["0-99", "1000-1999", "100000-", "-500"] {
        let bounds = ["-H", &format!("Range: bytes={range}")].map(str::to_owned);
        let output = Command::new("curl").args(["-s", "-f"]).args(bounds).arg(&url).output();
        let Ok(output) = output else { return skip("curl is not installed") };
        let (first, last) = range.split_once('-').unwrap();
        let length = whole.len();
        let want = match (first.parse::<usize>(), last.parse::<usize>()) {
            (Ok(first), Ok(last)) => &whole[first..=last],
            (Ok(first), _) => &whole[first..],
            (_, Ok(last)) => &whole[length - last..],
            _ => unreachable!(),
        };
        assert!(output.stdout == want, "{range}: {} bytes, not {}", output.stdout.len(), want.len());
    }
    let status = |words: &[&str]| {
        let output =
            Command::new("curl").args(["-s", "-o", "/dev/null", "-w", "%{http_code}"]).args(words).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    assert_eq!(status(&[&base]), "401");
    assert_eq!(status(&["-u", "KEY:wrong", &base]), "401");
    assert_eq!(
        status(&[&format!("{}?token={token}", base.replace("cam", "other"))]),
        "401",
        "of another stream"
    );
    assert_eq!(status(&["-X", "POST", "--data", "x", &format!("{base}?token={token}")]), "403");
    assert_eq!(status(&[&format!("{base}/nothing?token={token}")]), "404");
    assert_eq!(status(&[&format!("{base}/frames?token={token}&form=1")]), "400");
    assert_eq!(status(&["-r", "99999999-", &url]), "416");
}

#[tokio::test(flavor = "multi_thread")]
async fn live_frames_come_as_they_are_stored_and_an_older_producer_gives_way() {
    let Some(rig) = rig().await else { return };
    let words = format!("{PICTURES} -t 3 -c:v libx264 -preset veryfast -g 15");
    let file = film(&rig, "film.mp4", &words);
    rig.kinesin(&format!("video put cam {file} --quiet"));
    let kinesin = || {
        let mut command = Command::new(binary("kinesin").unwrap());
        command.env("KINESIN_DATA", &rig.store.data).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    // From the first frame that is not there yet, however late this begins to wait for it.
    let next = lines(&rig.kinesin("video frames cam --json")).len().to_string();
    let follow = ["video", "follow", "cam", "--from", &next, "--count", "45"];
    let follower = kinesin().args(follow).spawn().unwrap();
    // A camera that never stops.
    let mut first = kinesin().args(["video", "put", "cam"]).stdin(Stdio::piped()).spawn().unwrap();
    let film = std::fs::read(&file).unwrap();
    let camera = first.stdin.as_mut().unwrap();
    camera.write_all(&film).unwrap();
    camera.flush().unwrap();
    let output = follower.wait_with_output().unwrap();
    let frames = lines(&String::from_utf8(output.stdout).unwrap());
    assert_eq!(frames.len(), 45);
    let numbers: Vec<u64> = frames.iter().map(|frame| frame["frame"].as_u64().unwrap()).collect();
    assert_eq!(numbers[0].to_string(), next);
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{numbers:?}");
    rig.kinesin(&format!("video put cam {file} --quiet"));
    let ended = first.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!ended.status.success() && said.contains("another producer"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn films_as_recorders_write_them_are_put_frame_by_frame() {
    let Some(rig) = rig().await else { return };
    for (name, words) in [
        ("b-aac", format!("{PICTURES} {SOUND} -t 6 -c:v libx264 -preset veryfast -bf 3 -g 60 -c:a aac")),
        ("h265", format!("{PICTURES} -t 3 -c:v libx265 -x265-params log-level=none:keyint=30 -tag:v hvc1")),
        ("opus", format!("{PICTURES} {SOUND} -t 2 -c:v libaom-av1 -cpu-used 8 -g 30 -c:a libopus")),
    ] {
        let file = rig.path("plain.mp4").display().to_string();
        let mut words: Vec<&str> = words.split_whitespace().collect();
        words.extend(["-y", &file]);
        tool("ffmpeg", &words);
        rig.kinesin(&format!("video put {name} {file} --producer-time {NOON} --quiet"));
        let clip = rig.path("clip.mp4").display().to_string();
        rig.kinesin(&format!("video clip {name} -o {clip}"));
        assert_eq!(packets(&clip), packets(&file), "{name}");
        tool("ffmpeg", &["-xerror", "-i", &clip, "-f", "null", "-"]);
        // On its way through a pipe it can't be read so, and that is said.
        let mut put = Command::new(binary("kinesin").unwrap());
        put.env("KINESIN_DATA", &rig.store.data).args(["video", "put", "piped"]);
        let put = put.stdin(std::fs::File::open(&file).unwrap()).output().unwrap();
        let said = String::from_utf8_lossy(&put.stderr);
        assert!(said.contains("not fragmented"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_video_is_told_what_was_whole_is_kept_and_what_comes_again_is_not_kept_twice() {
    let Some(rig) = rig().await else { return };
    let words = format!("{PICTURES} -t 4 -c:v libx264 -preset veryfast -g 30");
    let file = film(&rig, "film.mp4", &words);
    let film = std::fs::read(&file).unwrap();
    let put = |name: &str, bytes: &[u8]| {
        let path = rig.path("part.mp4").display().to_string();
        std::fs::write(&path, bytes).unwrap();
        rig.store.command(&["video", "put", name, &path, "--producer-time", NOON, "--quiet"])
    };
    let count =
        |name: &str| rig.json(&format!("video ls {name} --json"))["fragments"].as_array().unwrap().len();
    let nothing = rig.store.command(&["video", "put", "film.mp4"]).unwrap_err().to_string();
    assert!(nothing.contains("nothing came for stream film.mp4: kinesin video put STREAM FILE"), "{nothing}");
    // A camera that stops in the middle of a frame, and then sends all of it again.
    let cut = put("cam", &film[..film.len() * 3 / 4]).unwrap_err().to_string();
    assert!(cut.contains("in the middle of a box"), "{cut}");
    let kept = count("cam");
    assert!((1..4).contains(&kept), "{kept}");
    put("cam", &film).unwrap();
    put("cam", &film).unwrap();
    // Of the two that overlap, the one that was cut short is another one.
    assert!(count("cam") <= 5, "{}", count("cam"));
    for (bytes, says) in [
        (&b"not a film at all, but a text"[..], "not like fragmented MP4"),
        (&[0, 0, 0, 0, b'm', b'o', b'o', b'v'], "no size"),
        (&[0xff, 0xff, 0xff, 0xff, b'm', b'o', b'o', b'v'], "it was cut off"),
    ] {
        // However much more there is: the answer comes, and not a broken connection.
        for more in [0, 30 << 20] {
            let error = put("bad", &[bytes, &vec![b'.'; more]].concat()).unwrap_err().to_string();
            assert!(error.contains(says), "{says}: {error}");
        }
    }
    let four =
        format!("{PICTURES} {SOUND} -t 1 -map 0 -map 1 -map 1 -map 1 -c:v libx264 -preset veryfast -c:a aac");
    let four = std::fs::read(self::film(&rig, "four.mp4", &four)).unwrap();
    let error = put("bad", &four).unwrap_err().to_string();
    assert!(error.contains("4 tracks, at most 3"), "{error}");
    // Frames larger than the stream takes: told before anything is stored.
    rig.kinesin("stream create small --rate off --record-bytes-max 1KiB");
    let error = put("small", &film).unwrap_err().to_string();
    assert!(error.contains("--record-bytes-max 10MiB"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn fragments_that_were_acknowledged_survive_kill_9_and_gaps_are_facts() {
    let Some(mut rig) = rig().await else { return };
    let words = format!("{PICTURES} -t 6 -c:v libx264 -preset veryfast -g 30");
    let file = film(&rig, "film.mp4", &words);
    let film = std::fs::read(&file).unwrap();
    let mut camera = Command::new(binary("kinesin").unwrap())
        .args(["video", "put", "cam", "--producer-time", NOON, "--data"])
        .arg(&rig.store.data)
        .stdin(Stdio::piped())
        .stdout(std::fs::File::create(rig.path("acks")).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = camera.stdin.take().unwrap();
    input.write_all(&film[..film.len() * 2 / 3]).unwrap();
    input.flush().unwrap();
    let acks = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let path = rig.path("acks");
    wait_until("two fragments are acknowledged", || acks(&path).lines().count() >= 2);
    rig.store.kill().unwrap();
    drop(input);
    camera.wait().unwrap();
    let acked = lines(&acks(&path));
    rig.up().await;
    let kept = rig.json("video ls cam --json");
    let kept: Vec<&Value> = kept["fragments"].as_array().unwrap().iter().collect();
    assert!(kept.len() >= acked.len(), "{} of {}", kept.len(), acked.len());
    for (ack, fragment) in acked.iter().zip(&kept) {
        assert_eq!((&ack["fragment"], &ack["frames"]), (&fragment["fragment"], &fragment["frames"]));
    }
    // The same film an hour later: what is between is told.
    rig.kinesin(&format!("video put cam {file} --producer-time 2026-11-20T13:00:00Z --quiet"));
    let gaps = rig.json("video gaps cam --json");
    assert_eq!(gaps.as_array().unwrap().len(), 1, "{gaps}");
    assert_eq!(gaps[0]["to_ms"].as_i64(), Some(NOON_MS + 3_600_000));
    assert_eq!(gaps[0]["why"], "the producer began again");
    rig.store.kill().unwrap();
    let output = Command::new(binary("kinesin").unwrap()).arg("check").arg(&rig.store.data).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_streams_are_taken_at_their_rate_and_in_their_order_from_a_file() {
    let Some(rig) = rig().await else { return };
    let x265 = "-c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=30:bframes=4";
    for (name, kind, words) in [
        (
            "h264",
            "h264",
            format!("{PICTURES} -t 4 -c:v libx264 -preset veryfast -bf 3 -b-pyramid normal -g 30"),
        ),
        (
            "h264-open",
            "h264",
            format!("{PICTURES} -t 4 -c:v libx264 -preset veryfast -bf 2 -g 30 -slices 4 -aud 1"),
        ),
        ("h265-open", "hevc", format!("{PICTURES} -t 4 {x265}:open-gop=1")),
        ("h265-closed", "hevc", format!("{PICTURES} -t 4 {x265}:open-gop=0:b-pyramid=1:aud=1")),
    ] {
        let raw = film(&rig, &format!("{name}.{kind}"), &words);
        rig.kinesin(&format!("video put {name} {raw} --producer-time {NOON} --quiet"));
        let frames = lines(&rig.kinesin(&format!("video frames {name} --count 1000 --json")));
        assert_eq!(frames.len(), 120, "{name}");
        let number = |frame: &Value, key: &str| frame[key].as_i64().unwrap();
        let mut shown: Vec<i64> = frames.iter().map(|frame| number(frame, "pts")).collect();
        shown.sort_unstable();
        assert!(shown.windows(2).all(|pair| pair[1] - pair[0] == 3000), "{name}: thirty a second, each once");
        let dts: Vec<i64> = frames.iter().map(|frame| number(frame, "dts")).collect();
        assert!(dts.windows(2).all(|pair| pair[1] > pair[0]), "{name}: {dts:?}");
        assert!(frames.iter().all(|frame| number(frame, "pts") >= number(frame, "dts")), "{name}");
        // The pictures are those of the stream, in the order in which ffmpeg shows them.
        let clip = rig.path(&format!("{name}-clip.mp4")).display().to_string();
        rig.kinesin(&format!("video clip {name} -o {clip}"));
        let pictures = |path: &str| {
            let text = tool(
                "ffmpeg",
                &["-xerror", "-i", path, "-map", "0:v", "-vsync", "passthrough", "-f", "framemd5", "-"],
            );
            let text = String::from_utf8(text).unwrap();
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            lines.map(|line| line.rsplit(", ").next().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(pictures(&clip), pictures(&raw), "{name}");
        let gaps = rig.json(&format!("video gaps {name} --json"));
        assert!(!gaps.to_string().contains("why"), "{name}: {gaps}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fragments_in_parts_are_the_same_fragments_and_frames_to_everybody() {
    let Some(mut rig) = rig().await else { return };
    let words = format!("{PICTURES} {SOUND} -t 6 -c:v libx264 -preset veryfast -g 60 -c:a aac");
    let file = film(&rig, "film.mp4", &words);
    for (name, part) in [("whole", ""), ("parts", "--part-ms 250")] {
        rig.kinesin(&format!("video put {name} {file} --producer-time {NOON} --quiet {part}"));
    }
    let stored =
        |name: &str| rig.json(&format!("video ls {name} --json"))["fragments"].as_array().unwrap().clone();
    let parts = stored("parts");
    let within = parts.iter().filter(|part| part["follows"] == "within").count();
    assert_eq!(parts.len() - within, stored("whole").len());
    assert!(within >= 3 * stored("whole").len(), "{within}");
    assert_eq!(listed(&rig, "parts"), listed(&rig, "whole"));
    assert_eq!(rig.kinesin("video gaps parts"), "nothing is missing\n");
    // What comes again is known.
    let again = rig.kinesin(&format!("video put parts {file} --producer-time {NOON} --part-ms 250"));
    assert!(again.lines().all(|line| line.contains("\"again\":true")), "{again}");
    assert_eq!(stored("parts").len(), parts.len());
    // Players see whole segments: the same ones, with the same bytes, found by number and by place.
    let playlist =
        async |name: &str| String::from_utf8(get(&rig, &format!("/v1/video/{name}/vod.m3u8")).await).unwrap();
    let one = playlist("parts").await;
    assert_eq!(one, playlist("whole").await);
    for (place, line) in one.lines().filter(|line| line.starts_with("segments/")).enumerate() {
        let whole = packets_of(&rig, &get(&rig, &format!("/v1/video/whole/{line}")).await).await;
        assert_eq!(packets_of(&rig, &get(&rig, &format!("/v1/video/parts/{line}")).await).await, whole);
        let by_place = get(&rig, &format!("/v1/video/parts/sequence/{place}.m4s")).await;
        assert_eq!(packets_of(&rig, &by_place).await, whole, "{place}");
    }
    let manifest = async |name: &str| {
        String::from_utf8(get(&rig, &format!("/v1/video/{name}/manifest.mpd?to=newest")).await).unwrap()
    };
    assert_eq!(manifest("parts").await, manifest("whole").await);
    // A frame far into a group is decoded with all parts before it; a clip has everything.
    for number in [100, 299] {
        let gop = rig.path("gop.mp4").display().to_string();
        rig.kinesin(&format!("video get parts {number} --gop -o {gop}"));
        tool("ffmpeg", &["-xerror", "-i", &gop, "-f", "null", "-"]);
    }
    let clip = rig.path("clip.mp4").display().to_string();
    rig.kinesin(&format!("video clip parts -o {clip}"));
    assert_eq!(packets(&clip), packets(&file));
    let segments = stored("whole").len();
    // Numbers go on after a crash, and where another producer sends whole fragments.
    rig.store.kill().unwrap();
    rig.up().await;
    rig.kinesin(&format!("video put parts {file} --producer-time 2026-11-20T13:00:00Z --quiet"));
    let live = String::from_utf8(get(&rig, "/v1/video/parts/live.m3u8?window=100").await).unwrap();
    let count = live.lines().filter(|line| line.starts_with("segments/")).count();
    assert!(live.contains("#EXT-X-MEDIA-SEQUENCE:0\n") && live.contains("#EXT-X-DISCONTINUITY\n"), "{live}");
    assert_eq!(count, 2 * segments);
    assert!(!live.contains("EXT-X-PART") && !live.contains("DISCONTINUITY-SEQUENCE"), "nobody sends parts");
    // The break has left the list: a player that knows it counts on.
    let live = String::from_utf8(get(&rig, "/v1/video/parts/live.m3u8?window=2").await).unwrap();
    assert!(
        live.contains("#EXT-X-DISCONTINUITY-SEQUENCE:1\n") && !live.contains("DISCONTINUITY\n"),
        "{live}"
    );
}

/// The packets of a segment of the film in `fragments_in_parts_…`, after its configuration.
async fn packets_of(rig: &Rig, segment: &[u8]) -> BTreeMap<String, Vec<Packet>> {
    let path = rig.path("segment.mp4").display().to_string();
    let init = get(rig, "/v1/video/whole/init/0.mp4").await;
    std::fs::write(&path, [&init, segment].concat()).unwrap();
    packets(&path)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_says_how_far_ahead_its_producers_clock_is_and_a_long_list_leaves_out_what_a_player_has() {
    let Some(rig) = rig().await else { return };
    let file = film(&rig, "film.mp4", &format!("{PICTURES} -t 20 -c:v libx264 -preset veryfast -g 15"));
    let ahead = tests::clock::unix_ms() + 3_600_000;
    rig.kinesin(&format!("video put cam {file} --producer-time {ahead} --quiet"));
    let clocks = rig.json("video ls cam --json")["about"]["clocks"].clone();
    let ms = clocks["ahead_ms"].as_i64().expect("it says its time");
    assert!((3_500_000..3_700_000).contains(&ms), "{clocks}");
    // A film comes faster than it was made: that says nothing of how clocks go.
    assert!(clocks["drift_ppm"].is_null() && clocks["steps"] == serde_json::json!([]), "{clocks}");
    let told = rig.kinesin("video ls cam");
    assert!(told.contains(" ms ahead of its arrival\n"), "{told}");
    let list = async |query: &str| {
        String::from_utf8(get(&rig, &format!("/v1/video/cam/live.m3u8?{query}")).await).unwrap()
    };
    let (full, delta) = (list("window=100").await, list("window=100&_HLS_skip=YES").await);
    assert!(full.contains("CAN-SKIP-UNTIL=6.000\n") && !full.contains("EXT-X-SKIP"), "{full}");
    let left = delta.lines().filter(|line| line.starts_with("segments/")).count();
    let all = full.lines().filter(|line| line.starts_with("segments/")).count();
    assert!(delta.contains(&format!("#EXT-X-SKIP:SKIPPED-SEGMENTS={}\n", all - left)), "{delta}");
    assert!((12..16).contains(&left) && delta.contains("#EXT-X-VERSION:9\n"), "{delta}");
    assert_eq!(delta, list("window=100&_HLS_skip=v2").await);
    let end = delta.split_once("EXT-X-SKIP").and_then(|(_, rest)| rest.split_once('\n')).unwrap().1;
    assert!(full.ends_with(end), "what is left is as it is in the whole list");
    assert_eq!(list("_HLS_skip=YES").await, list("").await, "a short list leaves nothing out");
}
