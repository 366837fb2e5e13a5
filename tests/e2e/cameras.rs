//! Cameras at an agent: films that appear in a folder, and commands that never end. Each frame arrives once and in order,
//! whoever is killed meanwhile; what can't be read stays where it is.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::common::{Rig, wait_until};
use crate::video::{PICTURES, film, lines, packets, rig, tool};

/// Sizes of all frames of a stream, in order.
pub(crate) fn sizes(rig: &Rig, stream: &str) -> Vec<u64> {
    let Ok(frames) = rig.store.command(&["video", "frames", stream, "--count", "100000", "--json"]) else {
        return Vec::new();
    };
    lines(&frames).iter().map(|frame| frame["size"].as_u64().unwrap()).collect()
}

fn sizes_of_film(path: &str) -> Vec<u64> {
    packets(path)["video"].iter().map(|packet| packet.2).collect()
}

pub(crate) fn fragments(rig: &Rig, stream: &str) -> Vec<Value> {
    let Ok(all) = rig.store.command(&["video", "ls", stream, "--json"]) else { return Vec::new() };
    let all: Value = serde_json::from_str(&all).unwrap();
    all["fragments"].as_array().unwrap().clone()
}

fn folder(rig: &Rig, more: &str) -> String {
    let path = rig.path("films");
    std::fs::create_dir_all(&path).unwrap();
    format!(
        "[[source.video]]\nstream = \"dashcam\"\nfolder = \"{}\"\nsettled_ms = 100\n{more}",
        path.display()
    )
}

/// Puts a film into the folder, as a recorder does that has finished it.
fn finish(rig: &Rig, from: &str, name: &str) {
    std::fs::copy(from, rig.path("films.part")).unwrap();
    std::fs::rename(rig.path("films.part"), rig.path("films").join(name)).unwrap();
}

fn left(rig: &Rig) -> usize {
    std::fs::read_dir(rig.path("films")).unwrap().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn films_of_a_folder_arrive_whole_and_once_whoever_is_killed_and_are_deleted_then() {
    let Some(mut rig) = rig().await else { return };
    let mut films = Vec::new();
    for n in 0..6 {
        let words =
            format!("{PICTURES} -t {} -c:v libx264 -preset veryfast -bf 0 -g 15 -crf {}", 2 + n % 3, 20 + n);
        films.push(film(&rig, &format!("{n}.mp4"), &words));
    }
    let want: Vec<u64> = films.iter().flat_map(|film| sizes_of_film(film)).collect();
    // The second time that a film is read (the first is for its length) only most of it comes, until the test says so.
    let script = "marks=\"$(dirname \"$0\")/$(basename \"$1\")\"; most=$(($(wc -c < \"$1\") * 9 / 10))\n\
                  if [ -e \"$marks.go\" ] || ! [ -e \"$marks.seen\" ]; then touch \"$marks.seen\"; exec cat \"$1\"; fi\n\
                  head -c $most \"$1\"; while ! [ -e \"$marks.go\" ]; do sleep 0.02; done\n\
                  tail -c +$((most + 1)) \"$1\"\n";
    std::fs::write(rig.path("slow.sh"), script).unwrap();
    let slowly = format!("command = [\"sh\", \"{}\", \"{{file}}\"]\n", rig.path("slow.sh").display());
    let mut agent = rig.agent("truck", &folder(&rig, &format!("{slowly}after = \"delete\"\n")));
    for (n, film) in films.iter().enumerate() {
        finish(&rig, film, &format!("film-{n}.mp4"));
        wait_until("the beginning of a film", || agent.status().records_in >= 15);
        match n % 3 {
            0 => rig.store.kill().unwrap(),
            1 => rig.up().await,
            _ => {}
        }
        agent.process.take().unwrap().kill().unwrap();
        std::fs::write(rig.path(&format!("film-{n}.mp4.go")), "").unwrap();
        agent.up().unwrap();
        wait_until("the rest of it", || left(&rig) == 0);
    }
    wait_until("all frames", || sizes(&rig, "dashcam").len() >= want.len());
    assert!(sizes(&rig, "dashcam") == want, "every frame of every film, once, in order");
    // Each film is one run, whatever happened while it was read.
    let mut runs = BTreeMap::<String, Vec<String>>::new();
    for fragment in fragments(&rig, "dashcam") {
        runs.entry(fragment["run"].to_string()).or_default().push(fragment["follows"].to_string());
    }
    assert_eq!(runs.len(), films.len(), "{runs:?}");
    for follows in runs.values() {
        assert!(follows[0].contains("run"), "{follows:?}");
        assert!(follows[1..].iter().all(|how| how.contains("previous")), "{follows:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_film_that_is_kept_is_taken_once_and_one_that_cannot_be_read_stays_and_is_told() {
    let Some(rig) = rig().await else { return };
    let words = format!("{PICTURES} -t 4 -c:v libx264 -preset veryfast -bf 0 -g 15");
    let good = film(&rig, "good.mp4", &words);
    let agent = rig.agent("truck", &folder(&rig, ""));
    finish(&rig, &good, "good.mp4");
    let want = sizes_of_film(&good);
    wait_until("the film", || sizes(&rig, "dashcam").len() == want.len());
    // A recorder that lost its power, and what is no film at all.
    let bytes = std::fs::read(&good).unwrap();
    std::fs::write(rig.path("cut.mp4"), &bytes[..bytes.len() / 2]).unwrap();
    finish(&rig, &rig.path("cut.mp4").display().to_string(), "cut.mp4");
    wait_until("a word about the cut one", || agent.printed().contains("cut.mp4: byte"));
    std::fs::write(rig.path("text.mp4"), "no film").unwrap();
    finish(&rig, &rig.path("text.mp4").display().to_string(), "text.mp4");
    std::fs::write(rig.path("films/notes.txt"), "not asked for").unwrap();
    wait_until("a word about the other", || agent.printed().contains("text.mp4: byte"));
    wait_until("half of the cut one", || sizes(&rig, "dashcam").len() > want.len());
    wait_until("all of it durable", || agent.status().records_in as usize == sizes(&rig, "dashcam").len());
    // As most recorders write them.
    let plain = rig.path("plain.mp4").display().to_string();
    tool("ffmpeg", &["-i", &good, "-c", "copy", "-y", &plain]);
    let before = sizes(&rig, "dashcam").len();
    finish(&rig, &plain, "plain.mp4");
    wait_until("a plain one", || sizes(&rig, "dashcam").len() == before + want.len());
    drop(agent);
    // Whoever starts again knows what was taken.
    let agent = rig.agent("truck", &folder(&rig, ""));
    let after = film(&rig, "after.mp4", &words.replace("-t 4", "-t 1"));
    let before = sizes(&rig, "dashcam").len();
    finish(&rig, &after, "z.mp4");
    wait_until("one more", || sizes(&rig, "dashcam").len() == before + sizes_of_film(&after).len());
    assert_eq!(left(&rig), 6, "nothing is deleted that was not to be");
    drop(agent);
}

#[tokio::test(flavor = "multi_thread")]
async fn matroska_and_transport_streams_in_a_folder_arrive_whole_and_are_deleted_then() {
    let Some(rig) = rig().await else { return };
    let words = format!("{PICTURES} -t 3 -c:v libx264 -preset veryfast -bf 2 -g 30");
    let fragmented = film(&rig, "film.mp4", &words);
    let kinds = [("mkv", "-f matroska"), ("ts", "-f mpegts"), ("m2ts", "-f mpegts -mpegts_m2ts_mode 1")];
    let _agent = rig.agent("truck", &folder(&rig, "files = \"a.*\"\nafter = \"delete\"\n"));
    let mut want = Vec::new();
    for (kind, words) in kinds {
        let to = rig.path("remuxed").display().to_string();
        let mut remux = vec!["-i", &fragmented, "-c", "copy"];
        remux.extend(words.split_whitespace().chain(["-y", &to]));
        tool("ffmpeg", &remux);
        finish(&rig, &to, &format!("a.{kind}"));
        want.extend(sizes_of_film(&fragmented));
        wait_until("all frames", || sizes(&rig, "dashcam").len() == want.len());
        wait_until("an empty folder", || left(&rig) == 0);
    }
    assert_eq!(sizes(&rig, "dashcam"), want);
    let clip = rig.path("clip.mp4").display().to_string();
    rig.kinesin(&format!("video clip dashcam -o {clip}"));
    tool("ffmpeg", &["-xerror", "-i", &clip, "-f", "null", "-"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn films_of_other_kinds_are_read_by_a_command() {
    let Some(rig) = rig().await else { return };
    let words = format!("{PICTURES} -t 3 -c:v libx264 -preset veryfast -bf 2 -g 30");
    let fragmented = film(&rig, "film.mp4", &words);
    for (kind, more) in [("mkv", None), ("ts", Some("h264_mp4toannexb"))] {
        let to = rig.path(&format!("film.{kind}")).display().to_string();
        let mut words = vec!["-i", &fragmented, "-c", "copy"];
        if let Some(filter) = more {
            words.extend(["-bsf:v", filter]);
        }
        words.extend(["-y", &to]);
        tool("ffmpeg", &words);
    }
    let command = "command = [\"ffmpeg\", \"-v\", \"error\", \"-i\", \"{file}\", \"-c\", \"copy\", \"-f\", \"mp4\", \
                   \"-movflags\", \"+frag_keyframe+empty_moov+default_base_moof+delay_moov\", \"-\"]\n";
    let _agent =
        rig.agent("truck", &folder(&rig, &format!("files = \"*.[mt][ks]*\"\n{command}after = \"delete\"\n")));
    for kind in ["mkv", "ts"] {
        finish(&rig, &rig.path(&format!("film.{kind}")).display().to_string(), &format!("a.{kind}"));
    }
    wait_until("an empty folder", || left(&rig) == 0);
    wait_until("all frames", || sizes(&rig, "dashcam").len() == 180);
    let clip = rig.path("clip.mp4").display().to_string();
    rig.kinesin(&format!("video clip dashcam -o {clip}"));
    tool("ffmpeg", &["-xerror", "-i", &clip, "-f", "null", "-"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_camera_s_command_is_started_again_and_an_outage_of_the_store_costs_no_frame() {
    let Some(mut rig) = rig().await else { return };
    let words = format!("{PICTURES} -t 3 -c:v libx264 -preset veryfast -bf 0 -g 15");
    let file = film(&rig, "film.mp4", &words);
    let want = sizes_of_film(&file);
    let camera = |stream: &str, command: &str| {
        format!("[[source.video]]\nstream = \"{stream}\"\ncommand = {command}\n")
    };
    let sources =
        camera("cam-{agent}", &format!("[\"cat\", \"{file}\"]")) + &camera("nobody", "[\"no-such-camera\"]");
    let agent = rig.agent("truck", &sources);
    wait_until("frames", || sizes(&rig, "cam-truck").len() >= want.len());
    assert!(
        agent.printed().contains("stream cam-truck: cat: it ended; started again in"),
        "{}",
        agent.printed()
    );
    wait_until("a word of the other", || agent.printed().contains("no-such-camera can't be started"));
    rig.store.kill().unwrap();
    let before = agent.status().records_in;
    wait_until("frames in the spool", || agent.status().records_in > before + 100);
    rig.up().await;
    wait_until("what was spooled", || sizes(&rig, "cam-truck").len() > before as usize + 100);
    drop(agent);
    let all = sizes(&rig, "cam-truck");
    for (n, run) in all.chunks(want.len()).enumerate() {
        assert!(run == &want[..run.len()], "run {n}");
    }
    let about = rig.json("stream describe cam-truck --json");
    assert_eq!(about["config"]["record_bytes_max"], 10 << 20, "made for video");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_of_raw_h264_is_a_camera_too() {
    let Some(rig) = rig().await else { return };
    let words = format!("{PICTURES} -t 3 -c:v libx264 -preset veryfast -bf 2 -g 15");
    let file = film(&rig, "film.h264", &words);
    let sources = format!("[[source.video]]\nstream = \"pi\"\ncommand = [\"cat\", \"{file}\"]\nfps = 12.5\n");
    let agent = rig.agent("truck", &sources);
    wait_until("frames", || sizes(&rig, "pi").len() >= 90);
    drop(agent);
    let first = lines(&rig.kinesin("video frames pi --count 90 --json"));
    let mut shown: Vec<i64> = first.iter().map(|frame| frame["pts"].as_i64().unwrap()).collect();
    shown.sort_unstable();
    assert!(shown.windows(2).all(|pair| pair[1] - pair[0] == 7200), "as fast as was said: {shown:?}");
}
