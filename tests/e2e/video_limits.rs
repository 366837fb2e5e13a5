//! What answers about video are bounded by, reached with a real store: lists of very many parts, a decoder that never ends.

use std::os::unix::fs::PermissionsExt;

use hyper::Method;
use store::client::http::{Upload, ask};
use store::client::{ClientError, Target};
use tests::eventually;
use tests::harness::process::{Launch, StoreProcess, free_port, ready};
use tests::video_bench::kept;

use crate::common::Rig;

/// What the store answers, or why it refuses.
async fn get(rig: &Rig, path: &str) -> Result<String, ClientError> {
    let target = Target::of_data_dir(&rig.store.data).unwrap();
    let bytes = ask(&target, Method::GET, path, Upload::nothing()).await?.all().await?;
    Ok(String::from_utf8(bytes).unwrap())
}

/// Reaches `STORED_MAX` of store/src/api/video/listing.rs.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_made_of_as_many_parts_as_may_be_and_goes_on_where_it_ended() {
    const STORED_MAX: u64 = 40_000;
    let (parts, segments) = (10, 4200);
    let Some(rig) = Rig::start(&[]).await else { return };
    kept::fill(&rig.store, "cam", segments * parts, parts).await.unwrap();
    let listed = async |from: &str| {
        let list = get(&rig, &format!("/v1/video/cam/vod.m3u8{from}")).await.unwrap();
        list.lines().filter(|line| line.starts_with("segments/")).count() as u64
    };
    assert_eq!(listed("").await, STORED_MAX / parts);
    let frames = 60 * parts;
    assert_eq!(
        listed(&format!("?from={}", STORED_MAX / parts * frames)).await,
        segments - STORED_MAX / parts
    );
    assert_eq!(listed(&format!("?from={frames}&count=7")).await, 7);
}

/// Reaches `TIME_MAX` of store/src/api/video/picture.rs.
#[tokio::test(flavor = "multi_thread")]
async fn a_decoder_that_never_ends_is_ended_and_whoever_asked_is_told() {
    const TIME_MAX: &str = "decoding took too long";
    if !ready() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let (program, process) = (home.path().join("bin/ffmpeg"), home.path().join("process"));
    std::fs::create_dir(home.path().join("bin")).unwrap();
    std::fs::write(&program, format!("#!/bin/sh\necho $$ > {}\nexec sleep 600\n", process.display()))
        .unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", home.path().join("bin").display(), std::env::var("PATH").unwrap());
    let launch = Launch { env: vec![("PATH".to_owned(), path)], ..Launch::default() };
    let address = ([127, 0, 0, 1], free_port().unwrap()).into();
    let store = StoreProcess::start_at(launch, home.path(), address, &[]).await.unwrap();
    let rig = Rig::of(home, store).await;
    kept::fill(&rig.store, "cam", 1, 1).await.unwrap();
    let said = get(&rig, "/v1/video/cam/frames/0?image=jpeg").await.unwrap_err().to_string();
    assert!(said.contains(TIME_MAX), "{said}");
    let process = std::fs::read_to_string(process).unwrap();
    let its_words = format!("/proc/{}/cmdline", process.trim());
    eventually!("the decoder is ended", std::fs::read(&its_words).unwrap_or_default().is_empty());
    // Nobody else waits for it.
    assert!(get(&rig, "/v1/video/cam/frames/0?meta=1").await.unwrap().contains("\"key\":true"));
}
