//! Cameras that speak RTSP at an agent: GStreamer's RTSP server is the camera, ffprobe is the judge. Every access unit arrives as
//! it was encoded, with its times; whatever becomes of the camera or the way to it is told, and survived.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};

use tests::harness::link::Link;
use tests::harness::process::skip;

use crate::cameras::fragments;
use crate::common::{Rig, wait_until};
use crate::video::{PICTURES, film, lines, packets, rig};

/// The Python that Debian's packages of GStreamer are for.
const PYTHON: &str = "/usr/bin/python3";
const SOUND: &str = "-f lavfi -i sine=frequency=440:sample_rate=48000";

/// A camera that plays a film to everybody who connects, from its beginning.
struct Camera {
    process: Child,
    address: SocketAddr,
}

impl Camera {
    /// `None`, after saying so, where GStreamer's server is not installed.
    fn start(film: &str, words: &str) -> Option<Camera> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/rtsp_camera.py");
        let mut command = Command::new(PYTHON);
        command.arg(script).arg(film).args(words.split_whitespace());
        let Ok(mut process) = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn() else {
            skip("python3 is not installed");
            return None;
        };
        let mut line = String::new();
        let _ = BufReader::new(process.stdout.take().unwrap()).read_line(&mut line);
        let Ok(port) = line.trim().parse() else {
            let _ = process.wait();
            skip("gir1.2-gst-rtsp-server-1.0 and the plugins of GStreamer are not installed");
            return None;
        };
        Some(Camera { process, address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)) })
    }
}

impl Drop for Camera {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn source(stream: &str, address: SocketAddr, more: &str) -> String {
    format!(
        "[[source.video]]\nstream = \"{stream}\"\nrtsp = \"rtsp://{address}/live\"\nsilence_s = 2\n{more}\n"
    )
}

/// Frames of the runs of a stream, by kind: presentation times since the first picture, sizes, keys.
type Seen = BTreeMap<String, Vec<(i64, i64, u64, bool)>>;

fn runs(rig: &Rig, stream: &str) -> Vec<Seen> {
    let words = ["video", "frames", stream, "--track", "all", "--count", "100000", "--json"];
    let Ok(frames) = rig.store.command(&words) else { return Vec::new() };
    let mut firsts: Vec<(u64, String)> = Vec::new();
    for fragment in fragments(rig, stream) {
        let run = fragment["run"].to_string();
        if firsts.last().is_none_or(|last| last.1 != run) {
            firsts.push((fragment["fragment"].as_u64().unwrap(), run));
        }
    }
    let mut all: Vec<Seen> = firsts.iter().map(|_| Seen::new()).collect();
    for frame in lines(&frames) {
        let number = frame["frame"].as_u64().unwrap();
        let Some(place) = firsts.iter().rposition(|first| first.0 <= number) else { continue };
        let (dts, pts) = (frame["dts"].as_i64().unwrap(), frame["pts"].as_i64().unwrap());
        let one = (dts, pts, frame["size"].as_u64().unwrap(), frame["key"] == true);
        all[place].entry(frame["kind"].as_str().unwrap().to_owned()).or_default().push(one);
    }
    all
}

fn count(run: &Seen, kind: &str) -> usize {
    run.get(kind).map_or(0, Vec::len)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_frame_of_a_camera_comes_as_it_was_encoded_with_its_times_and_its_sound() {
    let Some(rig) = rig().await else { return };
    let pictures = format!("{PICTURES} {SOUND} -t 6 -c:a aac");
    let films = [
        ("h264-b", "h264", "", format!("{pictures} -c:v libx264 -preset veryfast -bf 3 -g 30")),
        (
            "h264-udp",
            "h264",
            "transport = \"udp\"",
            format!("{pictures} -c:v libx264 -preset veryfast -bf 0 -g 30"),
        ),
        (
            "h265",
            "h265",
            "",
            format!(
                "{pictures} -c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=30 -tag:v hvc1"
            ),
        ),
    ];
    let (mut cameras, mut sources) = (Vec::new(), String::new());
    for (name, codec, more, words) in &films {
        let file = film(&rig, &format!("{name}.mp4"), words);
        let Some(camera) = Camera::start(&file, &format!("{codec} --sound")) else { return };
        sources += &source(name, camera.address, more);
        cameras.push((camera, file));
    }
    let _agent = rig.agent("truck", &sources);
    for ((name, ..), (_, file)) in films.iter().zip(&cameras) {
        let want = packets(file);
        wait_until(name, || runs(&rig, name).len() > 1);
        let got = runs(&rig, name).remove(0);
        let (pictures, first) = (&got["video"], got["video"][0].0);
        let brief = |all: &[(i64, i64, u64, bool)]| all.iter().map(|one| (one.2, one.3)).collect::<Vec<_>>();
        let wanted: Vec<_> = want["video"].iter().map(|one| (one.0, one.1, one.2, one.3)).collect();
        assert_eq!(brief(pictures), brief(&wanted), "{name}");
        for (one, other) in pictures.iter().zip(&wanted) {
            // ffmpeg writes 15,360 to a second, a camera sends 90,000.
            let off = |got: i64, want: i64| ((got - first) * 1000 / 90_000 - want * 1000 / 15_360).abs();
            assert!(off(one.0, other.0) <= 2 && off(one.1, other.1) <= 2, "{name}: {one:?} {other:?}");
        }
        // Sound before the first picture is left out.
        let (sound, all): (Vec<u64>, Vec<u64>) =
            (got["audio"].iter().map(|one| one.2).collect(), want["audio"].iter().map(|one| one.2).collect());
        assert!(
            all.len() - sound.len() < 10 && all.ends_with(&sound),
            "{name}: {} sounds of {}",
            sound.len(),
            all.len()
        );
        // The runs after it may be cut off before the camera has said its time.
        let all = fragments(&rig, name);
        for fragment in all.iter().take_while(|fragment| fragment["run"] == all[0]["run"]) {
            assert_eq!(fragment["clock"], "producer", "{name}: the camera tells its time");
            let (made, stored) = (fragment["producer_time_ms"].as_i64(), fragment["server_time_ms"].as_i64());
            assert!(stored > made && stored < made.map(|made| made + 60_000), "{name}: {fragment}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_camera_that_stops_in_a_frame_is_cut_off_or_talks_nonsense_is_told_and_taken_again() {
    let Some(rig) = rig().await else { return };
    let file = film(&rig, "film.mp4", &format!("{PICTURES} -t 40 -c:v libx264 -preset veryfast -bf 0 -g 15"));
    let Some(camera) = Camera::start(&file, "h264") else { return };
    let names = ["silent", "cut", "nonsense"];
    let (mut links, mut sources) = (Vec::new(), source("well", camera.address, ""));
    for name in names {
        let link = Link::start(camera.address).await.unwrap();
        sources += &source(name, link.address(), "");
        links.push(link);
    }
    let agent = rig.agent("truck", &sources);
    let pictures = |name: &str| runs(&rig, name).iter().map(|run| count(run, "video")).collect::<Vec<_>>();
    for name in names {
        wait_until(name, || pictures(name).first().is_some_and(|count| *count > 20));
    }
    links[0].lose_answers();
    links[1].cut();
    links[2].spoil_answers();
    for (name, link) in names.into_iter().zip(&links) {
        let says =
            |line: &str| line.contains(&format!("stream {name}: ")) && line.contains("connected again in");
        wait_until(name, || agent.printed().lines().any(says));
        link.cut();
        link.heal();
        wait_until(name, || pictures(name).len() > 1);
        assert!(
            fragments(&rig, name).iter().filter(|fragment| fragment["follows"] == "run").count() > 1,
            "{name}"
        );
    }
    assert!(agent.printed().contains("stream silent: ") && agent.printed().contains("no frame came for 2 s"));
    let well = fragments(&rig, "well");
    let unbroken = well.iter().skip(1).take_while(|fragment| fragment["follows"] != "run");
    assert!(
        unbroken.clone().count() > 3 && unbroken.clone().all(|fragment| fragment["follows"] == "previous")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_camera_that_is_away_and_one_that_wants_another_password_are_told_without_it() {
    let Some(rig) = rig().await else { return };
    let file = film(&rig, "film.mp4", &format!("{PICTURES} -t 3 -c:v libx264 -preset veryfast -bf 0 -g 15"));
    let Some(camera) = Camera::start(&file, "h264 --user keeper --password hush-right") else { return };
    let away = Link::start(camera.address).await.unwrap();
    away.cut();
    let login = |password: &str| format!("username = \"keeper\"\npassword = \"{password}\"");
    let sources = source("right", camera.address, &login("hush-right"))
        + &source("wrong", camera.address, &login("hush-wrong"))
        + &source("away", away.address(), &login("hush-right"));
    let agent = rig.agent("truck", &sources);
    wait_until("pictures", || runs(&rig, "right").first().is_some_and(|run| count(run, "video") > 20));
    let told = |name: &str, what: &str| {
        let text = agent.printed();
        text.lines().any(|line| line.contains(&format!("stream {name}: ")) && line.contains(what))
    };
    wait_until("a word of the wrong one", || told("wrong", "refuses the user or the password (401)"));
    wait_until("a word of the one that is away", || told("away", "connected again in"));
    away.heal();
    wait_until("the one that was away", || {
        runs(&rig, "away").first().is_some_and(|run| count(run, "video") > 20)
    });
    assert!(runs(&rig, "wrong").is_empty());
    assert!(!agent.printed().contains("hush") && !agent.printed().contains("/live"), "{}", agent.printed());
}
