//! What the demuxer promises, on documents that the writer beside it makes. Never: files, other programs.

use mp4_atom::{Audio, Codec, Decode, Dops, Encode, Moov, Opus};
use proptest::prelude::*;
use protocol::time::UnixMs;

use super::write::{cluster, head, tags};
use super::*;
use crate::fragment::{Clock, Config, Follows, Frame};
use crate::limit::{TRACKS_MAX, WAITING_MAX};

const TRACKS: [(u32, u32); 2] = [(1, 1000), (2, 1000)];

/// H.264 with the smallest description that there is, and Opus.
fn document() -> Vec<u8> {
    let avcc = mp4_atom::Avcc::new(&[0x67, 0x42, 0, 30, 1], &[0x68, 1]).unwrap();
    let visual = mp4_atom::Visual { data_reference_index: 1, width: 64, height: 48, ..Default::default() };
    let audio =
        Audio { data_reference_index: 1, channel_count: 2, sample_size: 16, sample_rate: 48_000.into() };
    let dops = Dops {
        output_channel_count: 2,
        pre_skip: 312,
        input_sample_rate: 48_000,
        output_gain: 0,
        channel_mapping: None,
    };
    let codecs = [
        Codec::Avc1(mp4_atom::Avc1 { visual, avcc, ..Default::default() }),
        Codec::Opus(Opus { audio, dops, btrt: None }),
    ];
    let mut moov = Moov::default();
    for (id, codec) in (1..).zip(codecs) {
        let mut trak = mp4_atom::Trak::default();
        trak.tkhd.track_id = id;
        trak.mdia.minf.stbl.stsd.codecs = vec![codec];
        trak.mdia.minf.stbl.stco = Some(mp4_atom::Stco::default());
        moov.trak.push(trak);
    }
    let mut bytes = Vec::new();
    moov.encode(&mut bytes).unwrap();
    head(&Config::new(bytes)).unwrap()
}

/// Thirty pictures a second in groups of ten, two of three B-frames deep, and sound between them.
fn group(n: u64) -> Vec<Frame> {
    let shown = [0u64, 3, 1, 2, 6, 4, 5, 9, 7, 8];
    let mut frames = Vec::new();
    for (place, nth) in shown.iter().enumerate() {
        let dts = (n * 10 + nth) * 40;
        frames.push(Frame {
            track: 0,
            key: place == 0,
            dts,
            duration: 40,
            offset: 0,
            size: 5 + place as u32,
        });
        let dts = (n * 10 + place as u64) * 40;
        frames.push(Frame { track: 1, key: true, dts, duration: 40, offset: 0, size: 3 });
    }
    frames
}

fn bytes_of(frames: &[Frame]) -> Vec<Vec<u8>> {
    frames.iter().map(|frame| vec![frame.size as u8; frame.size as usize]).collect()
}

fn cluster_of(frames: &[Frame]) -> Vec<u8> {
    let bytes = bytes_of(frames);
    cluster(&TRACKS, frames, &bytes.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

fn film(groups: u64) -> Vec<u8> {
    let mut out = document();
    (0..groups).for_each(|n| out.extend(cluster_of(&group(n))));
    out
}

fn plain() -> Demuxer {
    Demuxer::new(Cutter::new(1, UnixMs(5_000_000), Clock::Producer))
}

fn taken_apart(bytes: &[u8], piece: usize) -> Vec<Cut> {
    let (mut demuxer, mut cuts) = (plain(), Vec::new());
    for part in bytes.chunks(piece) {
        demuxer.push(part, &mut cuts).unwrap();
    }
    demuxer.finish(&mut cuts).unwrap();
    cuts
}

fn told(bytes: &[u8]) -> Result<usize, VideoError> {
    let (mut demuxer, mut cuts) = (plain(), Vec::new());
    let pushed = demuxer.push(bytes, &mut cuts);
    pushed.and_then(|()| demuxer.finish(&mut cuts)).map(|()| cuts.len())
}

fn error(bytes: &[u8]) -> String {
    told(bytes).unwrap_err().to_string()
}

#[test]
fn frames_come_with_the_decode_times_that_their_order_has_in_pieces_of_any_size() {
    let film = film(4);
    let whole = taken_apart(&film, film.len());
    let frames: Vec<Frame> = whole.iter().flat_map(|cut| cut.fragment.frames.clone()).collect();
    let pictures: Vec<&Frame> = frames.iter().filter(|frame| frame.track == 0).collect();
    assert_eq!(pictures.len(), 40);
    let first = pictures[0].dts;
    assert_eq!(first, 5_000_000, "the first picture is decoded when the run began");
    for (nth, picture) in pictures.iter().enumerate() {
        assert_eq!((picture.dts - first, picture.duration), (nth as u64 * 40, 40), "{nth}");
        let shown = [0, 3, 1, 2, 6, 4, 5, 9, 7, 8][nth % 10] + nth / 10 * 10;
        assert_eq!(picture.pts() as u64 - first, shown as u64 * 40 + 80, "{nth}");
        assert_eq!(picture.key, nth % 10 == 0);
    }
    assert_eq!(whole.iter().map(|cut| cut.fragment.frames.len()).collect::<Vec<_>>(), [20; 4]);
    assert!(whole[1..].iter().all(|cut| cut.fragment.follows == Follows::Previous));
    let tracks = crate::codec::tracks(&whole[0].fragment.config).unwrap();
    assert_eq!((tracks[0].codec.as_str(), tracks[1].codec.as_str()), ("avc1.42001e", "opus"));
    assert_eq!((tracks[0].width, tracks[0].timescale), (64, 1000));
    for piece in [1, 2, 3, 7, 64, 1000] {
        assert_eq!(taken_apart(&film, piece), whole, "pieces of {piece}");
    }
    // Another document goes on: the same tracks, and times that follow.
    let mut two = film.clone();
    two.extend(document());
    two.extend(cluster_of(&group(4)));
    assert_eq!(taken_apart(&two, 100).len(), 5);
}

#[test]
fn a_producer_hears_of_its_clusters_and_the_end_tag_ends_one() {
    let mut film = film(2);
    film.extend(tags(&[("AWS_KINESISVIDEO_END_OF_FRAGMENT".to_owned(), String::new())]));
    let (mut demuxer, mut out) = (Demuxer::by_cluster(1, 1_000_000, None), Vec::new());
    demuxer.push_told(&film, &mut out).unwrap();
    let seen: Vec<String> = out
        .iter()
        .map(|told| match told {
            Told::Begun(time) => format!("begun {time}"),
            Told::Cut(cut) => format!("cut {}", cut.fragment.frames.len()),
            Told::Ended(time) => format!("ended {time}"),
        })
        .collect();
    assert_eq!(seen, ["begun 0", "begun 400", "cut 20", "ended 0", "cut 20", "ended 400"]);
    let Told::Cut(second) = &out[4] else { panic!("no cut") };
    let key = second.fragment.frames.iter().find(|frame| frame.track == 0).unwrap();
    assert_eq!(key.pts(), 1_000_400, "the time that the cluster says, from the producer's start");
}

#[test]
fn what_is_no_matroska_is_told_with_its_place() {
    let film = film(1);
    assert_eq!(told(&film), Ok(1));
    assert_eq!(told(&[]), Ok(0));
    let raw = cluster_of(&group(0));
    assert!(error(&raw).contains("byte 0: it does not begin like Matroska"), "{}", error(&raw));
    assert_eq!(told(&raw).unwrap_err().id(), (4006, "INVALID_MKV_DATA"));
    assert!(error(b"GET / HTTP/1.1").contains("does not begin like Matroska"));
    assert!(error(&film[..film.len() - 1]).contains("in the middle of an element"));
    let head = document();
    let after = |more: &[u8]| [&head[..], more].concat();
    let cluster = |more: &[u8]| after(&[&[0x1f, 0x43, 0xb6, 0x75, 0xff, 0xe7, 0x81, 9][..], more].concat());
    let at = format!("byte {}:", head.len());
    assert!(error(&after(&[0x00])).starts_with(&at));
    assert!(error(&after(&[0x9f, 0x81, 1])).contains("none of Matroska's"));
    assert!(error(&after(&[0xa3, 0x84, 0x81, 0, 0, 0])).contains("outside of a Cluster"));
    assert!(error(&cluster(&[0xa3, 0x80])).contains("shorter than its head"));
    assert!(error(&cluster(&[0xe7, 0x81, 9])).contains("a second Timecode"));
    assert!(error(&cluster(&[0xa3, 0xff])).contains("have no size"));
    let large = told(&cluster(&[0xa3, 0x08, 0xff, 0xff, 0xff, 0xff])).unwrap_err();
    assert_eq!(large.id().0, 4001, "four gigabytes: {large}");
    let void = told(&after(&[0xec, 0x08, 0xff, 0xff, 0xff, 0xff])).unwrap_err();
    assert_eq!(void.id().0, 4001, "four gigabytes of nothing: {void}");
    let stranger = told(&cluster(&[0xa3, 0x84, 0x87, 0, 0, 0])).unwrap_err();
    assert_eq!(stranger.id(), (4010, "TRACK_NUMBER_MISMATCH"));
    let no_tracks = [&head[..60], &[0x1f, 0x43, 0xb6, 0x75, 0xff]].concat();
    assert!(told(&no_tracks).is_err());
    let late = [&[0x1f, 0x43, 0xb6, 0x75, 0xff, 0xe7, 0x88][..], &[0x7f; 8]].concat();
    assert!(error(&after(&late)).contains("after the year 9999"));
}

#[test]
fn what_is_missing_is_a_gap_and_long_frames_are_none() {
    let mut film = document();
    for n in [0, 1, 50] {
        film.extend(cluster_of(&group(n)));
    }
    let cuts = taken_apart(&film, 1 << 20);
    assert_eq!(cuts[2].fragment.follows, Follows::Gap(48 * 400));
    let slow: Vec<Frame> = (0..5)
        .map(|n| Frame { track: 0, key: n % 2 == 0, dts: n * 5000, duration: 0, offset: 0, size: 4 })
        .collect();
    let cuts = taken_apart(&[document(), cluster_of(&slow)].concat(), 1 << 20);
    assert!(cuts[1..].iter().all(|cut| cut.fragment.follows == Follows::Previous), "{cuts:?}");
}

proptest! {
    #[test]
    fn damaged_documents_are_no_reason_to_panic_or_to_hold_much(
        flips in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..6),
        piece in 1usize..500,
        by_cluster in any::<bool>(),
    ) {
        let mut bytes = film(3);
        for (place, value) in flips {
            let place = place % bytes.len();
            bytes[place] = value;
        }
        let mut demuxer = if by_cluster { Demuxer::by_cluster(1, 0, None) } else { plain() };
        let mut out = Vec::new();
        for part in bytes.chunks(piece) {
            if demuxer.push_told(part, &mut out).is_err() {
                break;
            }
        }
        let _ = demuxer.finish_told(&mut out);
        prop_assert!(demuxer.held_bytes() < 1 << 20);
        for told in &out {
            if let Told::Cut(cut) = told {
                prop_assert_eq!(cut.fragment.data_bytes(), cut.data.len() as u64);
                prop_assert!(Moov::decode(&mut cut.fragment.config.moov()).is_ok());
            }
        }
    }

    #[test]
    fn bytes_of_any_kind_are_no_reason_to_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = told(&bytes);
        let _ = told(&[&document()[..], &bytes].concat());
        let _ = told(&[&document()[..], &[0x1f, 0x43, 0xb6, 0x75, 0xff, 0xe7, 0x81, 9], &bytes].concat());
    }
}

/// The head of an element that says that it has so many bytes.
fn says(id: &[u8], size: u64) -> Vec<u8> {
    // Matroska says lengths in big-endian order.
    [id, &(size | 1 << 56).swap_bytes().to_le_bytes()].concat()
}

/// What a demuxer says to the head of an element of so many bytes, and the demuxer.
fn says_to(before: &[u8], id: &[u8], size: u64) -> (Result<(), VideoError>, Demuxer) {
    let mut demuxer = plain();
    (demuxer.push(&[before, &says(id, size)].concat(), &mut Vec::new()), demuxer)
}

/// Reaches `MKV_HEAD_BYTES_MAX`, `CONFIG_BYTES_MAX`, `FRAME_BYTES_MAX`, `MKV_SKIP_BYTES_MAX` of video/src/limit.rs.
#[test]
fn elements_are_as_long_as_they_may_be_and_no_longer() {
    let head = document();
    let in_cluster = [&head[..], &[0x1f, 0x43, 0xb6, 0x75, 0xff, 0xe7, 0x81, 9]].concat();
    let block = (FRAME_BYTES_MAX + MKV_HEAD_BYTES_MAX) as u64;
    let rows: [(&[u8], &[u8], u64); 6] = [
        (&[], &MAGIC, MKV_HEAD_BYTES_MAX as u64),
        (&head, &[0x15, 0x49, 0xa9, 0x66], MKV_HEAD_BYTES_MAX as u64),
        (&head, &[0x16, 0x54, 0xae, 0x6b], CONFIG_BYTES_MAX as u64),
        (&in_cluster, &[0xa3], block),
        (&in_cluster, &[0xa0], block),
        (&head, &[0xec], MKV_SKIP_BYTES_MAX),
    ];
    for (before, id, max) in rows {
        assert_eq!(says_to(before, id, max).0, Ok(()), "{id:02x?}");
        let refused = says_to(before, id, max + 1).0.unwrap_err();
        assert!(
            matches!(refused, VideoError::TooLarge { bytes, max: is, .. } if (bytes, is) == (max + 1, max)),
            "{id:02x?}: {refused}"
        );
    }
}

/// Reaches `MKV_TAGS_BYTES_MAX` of video/src/limit.rs.
#[test]
fn tags_that_are_too_long_to_be_read_are_passed_over() {
    let tags = [0x12, 0x54, 0xc3, 0x67];
    let (read, max) = (says_to(&document(), &tags, MKV_TAGS_BYTES_MAX as u64), MKV_TAGS_BYTES_MAX as u64);
    assert_eq!((read.0, read.1.skip), (Ok(()), 0));
    let passed = says_to(&document(), &tags, max + 1);
    assert_eq!((passed.0, passed.1.skip), (Ok(()), max + 1));
}

/// Reaches `MKV_TIME_MS_MAX` of video/src/limit.rs.
#[test]
fn times_end_with_the_year_9999() {
    let at = |time: u64| {
        let cluster = says(&[0x1f, 0x43, 0xb6, 0x75], 17);
        let bytes = [document(), cluster, says(&[0xe7], 8), time.swap_bytes().to_le_bytes().to_vec()];
        plain().push(&bytes.concat(), &mut Vec::new()).map_err(|error| error.to_string())
    };
    assert_eq!(at(MKV_TIME_MS_MAX as u64), Ok(()));
    assert!(at(MKV_TIME_MS_MAX as u64 + 1).unwrap_err().contains("after the year 9999"));
}

/// One picture, whose decode time is not known before others come.
fn picture() -> Frame {
    Frame { track: 0, key: true, dts: 0, duration: 40, offset: 0, size: 1 }
}

/// Reaches `WAITING_MAX` of video/src/limit.rs.
#[test]
fn where_pictures_stop_the_sound_does_not_wait_for_ever() {
    let sound = (0..=WAITING_MAX as u64).map(|n| Frame { track: 1, dts: n * 10, ..picture() });
    let frames: Vec<Frame> = std::iter::once(picture()).chain(sound).collect();
    let held = |count: usize| {
        let mut demuxer = plain();
        demuxer.push(&[document(), cluster_of(&frames[..count])].concat(), &mut Vec::new()).unwrap();
        demuxer.lane.held_bytes()
    };
    assert_eq!((held(WAITING_MAX), held(WAITING_MAX + 1)), (WAITING_MAX, 0));
}

/// Reaches `WAITING_MAX` of video/src/limit.rs.
#[test]
fn ends_of_clusters_without_frames_do_not_wait_for_ever() {
    let empty = [0x1f, 0x43, 0xb6, 0x75, 0x83, 0xe7, 0x81, 9];
    let held = |count: usize| {
        let mut demuxer = Demuxer::by_cluster(1, 0, None);
        let bytes = [document(), cluster_of(&[picture()]), empty.repeat(count)].concat();
        demuxer.push_told(&bytes, &mut Vec::new()).unwrap();
        demuxer.lane.held_bytes()
    };
    // The picture and the ends of all clusters but the last, which is open.
    assert_eq!((held(WAITING_MAX - 1), held(WAITING_MAX)), (1, 0));
}

/// Reaches `TRACKS_MAX` of video/src/limit.rs.
#[test]
fn a_document_has_as_many_tracks_as_it_may_have_and_no_more() {
    let tracks = |count: usize| {
        let mut moov = Moov::decode(&mut taken_apart(&film(1), 1000)[0].fragment.config.moov()).unwrap();
        let sound = moov.trak[1].clone();
        moov.trak = (1..=count as u32).map(|_| sound.clone()).collect();
        (1..).zip(&mut moov.trak).for_each(|(id, trak)| trak.tkhd.track_id = id);
        let mut bytes = Vec::new();
        moov.encode(&mut bytes).unwrap();
        told(&head(&Config::new(bytes)).unwrap())
    };
    assert_eq!(tracks(TRACKS_MAX), Ok(0));
    assert_eq!(tracks(TRACKS_MAX + 1), Err(VideoError::TooManyTracks(TRACKS_MAX + 1)));
}
