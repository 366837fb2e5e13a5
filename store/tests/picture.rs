//! Pictures that `kinesin` decodes itself (`--features openh264`), with ffmpeg as the judge: each is the one that ffmpeg shows in
//! that place, from files with and without B-frames; what it can't decode it says.

use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn has_ffmpeg() -> bool {
    let found = Command::new("ffmpeg").arg("-version").stdout(Stdio::null()).status().is_ok();
    // The suite that installs everything may not skip.
    assert!(found || std::env::var_os("KINESIN_TESTS_ALL").is_none(), "ffmpeg is not installed");
    found
}

fn ffmpeg(words: &str, input: &[u8]) -> Vec<u8> {
    fed(Command::new("ffmpeg").args(["-v", "error"]).args(words.split_whitespace()), input).stdout
}

fn fed(program: &mut Command, input: &[u8]) -> Output {
    let mut child =
        program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut to = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeder = std::thread::spawn(move || drop(to.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    output
}

/// Fragmented MP4 of numbered pictures.
fn film(words: &str) -> Vec<u8> {
    let source = "-f lavfi -i testsrc=size=320x180:rate=30 -t 1 -pix_fmt yuv420p";
    ffmpeg(
        &format!("{source} {words} -g 30 -f mp4 -movflags frag_keyframe+empty_moov+default_base_moof -"),
        &[],
    )
}

fn picture(film: &[u8], words: &str) -> Output {
    fed(Command::new(env!("CARGO_BIN_EXE_kinesin")).arg("picture").args(words.split_whitespace()), film)
}

/// Pixels of a picture, three bytes each, as ffmpeg reads its file.
fn pixels(file: &[u8], width: usize) -> Vec<u8> {
    ffmpeg(&format!("-f image2pipe -i - -vf scale={width}:-2 -f rawvideo -pix_fmt rgb24 -"), file)
}

/// How far two pictures are from each other, by the mean of all bytes.
fn distance(one: &[u8], other: &[u8]) -> f64 {
    assert!(one.len() == other.len() && !one.is_empty(), "{} and {} bytes", one.len(), other.len());
    one.iter().zip(other).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / one.len() as f64
}

#[test]
fn each_picture_is_the_one_that_is_shown_there() {
    if !has_ffmpeg() {
        return;
    }
    for words in
        ["-c:v libx264 -preset veryfast -bf 0", "-c:v libx264 -bf 3", "-c:v libx264 -profile:v baseline"]
    {
        let film = film(words);
        for place in [0, 1, 13, 29] {
            let made = picture(&film, &format!("--place {place} --format png"));
            assert!(made.status.success(), "{words}: {}", String::from_utf8_lossy(&made.stderr));
            let shown = |place: usize| {
                let filter = format!("-i - -vf select=eq(n\\,{place}) -frames:v 1");
                ffmpeg(&format!("{filter} -f rawvideo -pix_fmt rgb24 -"), &film)
            };
            let found = pixels(&made.stdout, 320);
            let (here, next) =
                (distance(&found, &shown(place)), distance(&found, &shown(if place == 0 { 5 } else { 0 })));
            assert!(here < 4.0 && here < next, "{words}: {place} is {here} away, another one {next}");
        }
    }
}

#[test]
fn a_picture_is_as_wide_as_was_asked_for() {
    if !has_ffmpeg() {
        return;
    }
    let film = film("-c:v libx264");
    let whole = picture(&film, "--place 7 --format png").stdout;
    for (width, format) in [(160, "png"), (101, "jpeg"), (640, "jpeg")] {
        let made = picture(&film, &format!("--place 7 --format {format} --width {width}"));
        assert!(made.status.success());
        let height = (180 * width / 320_usize).next_multiple_of(2);
        let found = pixels(&made.stdout, width);
        assert_eq!(found.len(), width * height * 3, "{width}");
        let scaled = ffmpeg(
            &format!("-f image2pipe -i - -vf scale={width}:{height} -f rawvideo -pix_fmt rgb24 -"),
            &whole,
        );
        assert!(distance(&found, &scaled) < 8.0, "{width}: {}", distance(&found, &scaled));
    }
}

#[test]
fn what_cannot_be_decoded_here_is_said_by_the_exit_code() {
    if !has_ffmpeg() {
        return;
    }
    let film = film("-c:v libx264");
    let other = film_of_another_codec();
    for (what, input, words) in [
        ("nothing", &[][..], "--place 0 --format png"),
        ("no film", b"no film at all", "--place 0 --format png"),
        ("another codec", &other, "--place 0 --format png"),
        ("a film that is cut off", &film[..film.len() / 4], "--place 29 --format jpeg"),
        ("a picture too far", &film, "--place 30 --format png"),
    ] {
        let made = picture(input, words);
        assert_eq!((made.status.code(), made.stdout.len()), (Some(3), 0), "{what}");
        assert!(!made.stderr.is_empty(), "{what}");
    }
}

/// The words of a command, run against the store of a folder.
fn kinesin(data: &Path, words: &str, input: &[u8]) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_kinesin"));
    fed(program.args(words.split_whitespace()).arg("--data").arg(data), input)
}

#[test]
fn a_store_beside_which_there_is_no_ffmpeg_makes_pictures_of_what_it_can_decode() {
    if !has_ffmpeg() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut store = Command::new(env!("CARGO_BIN_EXE_kinesin"))
        .args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--data"])
        .arg(&data)
        .env("PATH", home.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    assert!((0..5000).any(|_| kinesin(&data, "status", &[]).status.success()), "the store does not answer");
    for (name, film) in [("h264", film("-c:v libx264 -bf 2")), ("other", film_of_another_codec())] {
        let put = kinesin(&data, &format!("video put {name} - --quiet"), &film);
        assert!(put.status.success(), "{name}: {}", String::from_utf8_lossy(&put.stderr));
    }
    let made = home.path().join("picture.png");
    let asked = kinesin(&data, &format!("video image h264 17 --width 160 -o {}", made.display()), &[]);
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    assert_eq!(pixels(&std::fs::read(&made).unwrap(), 160).len(), 160 * 90 * 3);
    let asked = kinesin(&data, &format!("video image other 17 -o {}", made.display()), &[]);
    let said = String::from_utf8_lossy(&asked.stderr).into_owned();
    assert!(!asked.status.success() && said.contains("ffmpeg"), "{said}");
    store.kill().unwrap();
    store.wait().unwrap();
}

fn film_of_another_codec() -> Vec<u8> {
    film("-c:v libx265 -x265-params log-level=none -tag:v hvc1")
}
