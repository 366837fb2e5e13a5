//! Makes containers: the initialization segment of a configuration, and media segments (CMAF) of its frames. The same
//! frames always make the same bytes, so that a length is known before anything is made, and a range is a range. Pure.

use mp4_atom::{Encode, FourCC, Ftyp, Mfhd, Moof, Tfdt, Tfhd, Traf, Trun, TrunEntry, TrunSamples};

use crate::VideoError;
use crate::codec::moov_of;
use crate::fragment::{Config, Frame};
use crate::limit::TRACKS_MAX;

const SYNC: u32 = 0x0200_0000;
const NON_SYNC: u32 = 0x0101_0000;
/// Head of a box.
const HEAD_BYTES: usize = 8;
/// `moof` and `mfhd`.
const MOOF_BYTES: usize = 8 + 16;
/// `traf`, `tfhd`, `tfdt`, `trun` without frames.
const TRAF_BYTES: usize = 8 + 16 + 20 + 20;
/// Of each frame in a `trun`.
const FRAME_BYTES: usize = 16;

/// The initialization segment: `ftyp` and `moov`.
#[must_use]
pub fn init(config: &Config) -> Vec<u8> {
    let brands = [b"iso6", b"cmfc", b"mp41"].map(FourCC::new).to_vec();
    let ftyp = Ftyp { major_brand: FourCC::new(b"iso6"), minor_version: 0, compatible_brands: brands };
    let mut out = Vec::new();
    // Writing into memory does not fail.
    let _ = ftyp.encode(&mut out);
    out.extend_from_slice(config.moov());
    out
}

/// The initialization segment of one track alone, by its place in the configuration.
///
/// # Errors
/// When the configuration is no `moov`, or has no such track.
pub fn init_of_track(config: &Config, track: u8) -> Result<Vec<u8>, VideoError> {
    let mut moov = moov_of(config)?;
    let missing = VideoError::Head("its configuration has no such track");
    let id = moov.trak.get(usize::from(track)).map(|trak| trak.tkhd.track_id).ok_or(missing)?;
    moov.trak.retain(|trak| trak.tkhd.track_id == id);
    if let Some(mvex) = &mut moov.mvex {
        mvex.trex.retain(|trex| trex.track_id == id);
    }
    let mut bytes = Vec::new();
    moov.encode(&mut bytes).map_err(|_| VideoError::Head("its track makes no moov of its own"))?;
    Ok(init(&Config::new(bytes)))
}

/// Track ids of a configuration, in the order in which frames count them.
///
/// # Errors
/// When the configuration is no `moov`.
pub fn track_ids(config: &Config) -> Result<Vec<u32>, VideoError> {
    Ok(moov_of(config)?.trak.iter().map(|trak| trak.tkhd.track_id).collect())
}

/// How long [`segment`] of these frames will be.
#[must_use]
pub fn segment_bytes(frames: &[Frame]) -> u64 {
    let tracks =
        (0..TRACKS_MAX as u8).filter(|track| frames.iter().any(|frame| frame.track == *track)).count();
    let head = MOOF_BYTES + tracks * TRAF_BYTES + frames.len() * FRAME_BYTES + HEAD_BYTES;
    head as u64 + frames.iter().map(|frame| u64::from(frame.size)).sum::<u64>()
}

/// A media segment: `moof` and `mdat`. The frames of a track come together, in their order; `data` are their bytes.
///
/// # Errors
/// When there are more bytes than a box has.
pub fn segment(
    number: u64,
    track_ids: &[u32],
    frames: &[Frame],
    data: &[&[u8]],
) -> Result<Vec<u8>, VideoError> {
    let whole = segment_bytes(frames);
    let max = u64::from(u32::MAX);
    if whole > max {
        return Err(VideoError::TooLarge { what: "a segment", bytes: whole, max });
    }
    let mut moof = Moof { mfhd: Mfhd { sequence_number: number as u32 }, traf: Vec::new() };
    let tracks = track_ids.iter().enumerate().map(|(track, id)| (track as u8, *id));
    let present = tracks.filter(|(track, _)| frames.iter().any(|frame| frame.track == *track));
    let present: Vec<(u8, u32)> = present.collect();
    let mut at = MOOF_BYTES + present.len() * TRAF_BYTES + frames.len() * FRAME_BYTES + HEAD_BYTES;
    for (track, id) in &present {
        let of_track: Vec<&Frame> = frames.iter().filter(|frame| frame.track == *track).collect();
        moof.traf.push(traf(*id, &of_track, at));
        at += of_track.iter().map(|frame| frame.size as usize).sum::<usize>();
    }
    let mut out = Vec::with_capacity(whole as usize);
    moof.encode(&mut out).map_err(|_| VideoError::Head("its frames make no moof"))?;
    let mdat = whole - out.len() as u64;
    // A box says its length in big-endian order.
    out.extend_from_slice(&[(mdat >> 24) as u8, (mdat >> 16) as u8, (mdat >> 8) as u8, mdat as u8]);
    out.extend_from_slice(b"mdat");
    for (track, _) in &present {
        let of_track = frames.iter().zip(data).filter(|(frame, _)| frame.track == *track);
        of_track.for_each(|(_, bytes)| out.extend_from_slice(bytes));
    }
    Ok(out)
}

fn traf(track_id: u32, frames: &[&Frame], data_at: usize) -> Traf {
    let entry = |frame: &&Frame| TrunEntry {
        duration: Some(frame.duration),
        size: Some(frame.size),
        flags: Some(if frame.key { SYNC } else { NON_SYNC }),
        cts: Some(i64::from(frame.offset)),
    };
    let entries = frames.iter().map(entry).collect();
    let base = frames.first().map_or(0, |frame| frame.dts);
    Traf {
        tfhd: Tfhd { track_id, default_base_is_moof: true, ..Tfhd::default() },
        tfdt: Some(Tfdt { base_media_decode_time: base }),
        trun: vec![Trun { data_offset: Some(data_at as i32), samples: TrunSamples::Explicit(entries) }],
        ..Traf::default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mp4_atom::{Audio, Codec, Dops, Moov, Mvex, Opus, Trak, Trex};
    use proptest::prelude::*;
    use protocol::time::UnixMs;

    use super::*;
    use crate::cut::{Cut, Cutter};
    use crate::demux::Demuxer;
    use crate::fragment::Clock;
    use crate::limit::MOOF_FRAMES_MAX;

    /// Two tracks: one of pictures that nobody can decode, one of sound.
    fn config() -> Config {
        let mut moov = Moov { mvex: Some(Mvex::default()), ..Moov::default() };
        for (track_id, handler, timescale) in [(1, b"vide", 90_000), (2, b"soun", 48_000)] {
            let mut trak = Trak::default();
            trak.tkhd.track_id = track_id;
            trak.mdia.hdlr.handler = FourCC::new(handler);
            trak.mdia.mdhd.timescale = timescale;
            let audio = Audio {
                data_reference_index: 1,
                channel_count: 2,
                sample_size: 16,
                sample_rate: 48_000.into(),
            };
            let dops = Dops {
                output_channel_count: 2,
                pre_skip: 0,
                input_sample_rate: 48_000,
                output_gain: 0,
                channel_mapping: None,
            };
            trak.mdia.minf.stbl.stsd.codecs = vec![Codec::Opus(Opus { audio, dops, btrt: None })];
            trak.mdia.minf.stbl.stco = Some(mp4_atom::Stco::default());
            moov.trak.push(trak);
            if let Some(mvex) = &mut moov.mvex {
                mvex.trex.push(Trex { track_id, ..Trex::default() });
            }
        }
        let mut bytes = Vec::new();
        moov.encode(&mut bytes).unwrap();
        Config::new(bytes)
    }

    fn taken_apart(bytes: &[u8], piece: usize) -> Vec<Cut> {
        let mut demuxer = Demuxer::new(Cutter::new(1, UnixMs(0), Clock::Producer));
        let mut cuts = Vec::new();
        for part in bytes.chunks(piece) {
            demuxer.push(part, &mut cuts).unwrap();
        }
        demuxer.finish(&mut cuts).unwrap();
        cuts
    }

    #[test]
    fn what_is_made_is_taken_apart_again_in_pieces_of_any_size() {
        let config = config();
        let frames: Vec<Frame> = (0..40)
            .map(|n| Frame {
                track: (n % 2) as u8,
                key: n % 20 == 0 || n % 2 == 1,
                dts: if n % 2 == 0 { n / 2 * 3000 } else { n / 2 * 1600 },
                duration: if n % 2 == 0 { 3000 } else { 1600 },
                offset: if n % 2 == 0 { 3000 - 500 * (n % 7) as i32 } else { 0 },
                size: 5 + n as u32,
            })
            .collect();
        let bytes: Vec<Vec<u8>> =
            frames.iter().map(|frame| vec![frame.size as u8; frame.size as usize]).collect();
        let data: Vec<&[u8]> = bytes.iter().map(Vec::as_slice).collect();
        let ids = track_ids(&config).unwrap();
        assert_eq!(ids, [1, 2]);
        let made = segment(7, &ids, &frames, &data).unwrap();
        assert_eq!(made.len() as u64, segment_bytes(&frames));
        let one = segment(7, &ids, &frames[..1], &data[..1]).unwrap();
        assert_eq!(one.len() as u64, segment_bytes(&frames[..1]));
        let whole = [init(&config), made].concat();
        for piece in [1, 2, 3, 7, 64, 1000, whole.len()] {
            let cuts = taken_apart(&whole, piece);
            let got: Vec<Frame> = cuts.iter().flat_map(|cut| cut.fragment.frames.clone()).collect();
            assert_eq!(got, frames, "pieces of {piece}");
            let read: Vec<u8> = cuts.iter().flat_map(|cut| cut.data.to_vec()).collect();
            assert_eq!(read, bytes.concat());
            // A configuration that went through a container is the same one.
            assert_eq!(*cuts[0].fragment.config, *Arc::new(config_of(&cuts[0])));
        }
    }

    #[test]
    fn a_fragment_is_given_in_one_piece_when_the_next_one_is_announced() {
        let config = config();
        let frames = |from: u64| -> Vec<Frame> {
            let frame = |n: u64| Frame {
                track: 0,
                key: n == 0,
                dts: (from + n) * 3000,
                duration: 3000,
                offset: 0,
                size: 100,
            };
            (0..30).map(frame).collect()
        };
        let data = [[7; 100]; 30];
        let data: Vec<&[u8]> = data.iter().map(<[u8; 100]>::as_slice).collect();
        let parts = [0, 30, 60].map(|from| segment(from, &[1, 2], &frames(from), &data).unwrap());
        let mut demuxer = Demuxer::new(Cutter::new(1, UnixMs(0), Clock::Producer));
        let mut cuts = Vec::new();
        demuxer.push(&init(&config), &mut cuts).unwrap();
        for (n, part) in parts.iter().enumerate() {
            // All that describes the frames, and none of them.
            let (announced, rest) = part.split_at(part.len() - 3000);
            demuxer.push(announced, &mut cuts).unwrap();
            assert_eq!(cuts.len(), n);
            rest.chunks(999).for_each(|rest| demuxer.push(rest, &mut cuts).unwrap());
            assert_eq!(cuts.len(), n, "it may go on");
        }
        demuxer.finish(&mut cuts).unwrap();
        assert!(cuts.iter().all(|cut| cut.data.pieces().len() == 1 && cut.fragment.frames.len() == 30));
    }

    #[test]
    fn a_track_alone_is_initialized_alone() {
        let config = config();
        for (track, id) in [(0, 1), (1, 2)] {
            let frame = Frame { track: 0, key: true, dts: 9, duration: 1, offset: 0, size: 4 };
            let bytes =
                [init_of_track(&config, track).unwrap(), segment(0, &[id], &[frame], &[b"data"]).unwrap()]
                    .concat();
            let cuts = taken_apart(&bytes, 100);
            assert_eq!(track_ids(&cuts[0].fragment.config).unwrap(), [id]);
        }
        assert!(init_of_track(&config, 2).is_err());
    }

    fn config_of(cut: &Cut) -> Config {
        let again = taken_apart(
            &[
                init(&cut.fragment.config),
                segment(0, &[1, 2], &cut.fragment.frames[..1], &[&[0; 5]]).unwrap(),
            ]
            .concat(),
            100,
        );
        Config::new(again[0].fragment.config.moov().to_vec())
    }

    #[test]
    fn a_few_bytes_that_stand_for_millions_of_frames_are_refused() {
        let run = || Trun {
            data_offset: None,
            samples: TrunSamples::Inherited { count: MOOF_FRAMES_MAX as u32 / 2 + 1, first_flags: None },
        };
        let traf = Traf {
            tfhd: Tfhd { track_id: 1, ..Tfhd::default() },
            trun: vec![run(), run()],
            ..Traf::default()
        };
        let moof = Moof { mfhd: Mfhd { sequence_number: 0 }, traf: vec![traf] };
        let mut bytes = init(&config());
        moof.encode(&mut bytes).unwrap();
        bytes.extend_from_slice(&[0, 0, 0, 8]);
        bytes.extend_from_slice(b"mdat");
        let mut demuxer = Demuxer::new(Cutter::new(1, UnixMs(0), Clock::Producer));
        let refused = demuxer.push(&bytes, &mut Vec::new()).unwrap_err().to_string();
        assert!(refused.contains("frames in one moof"), "{refused}");
    }

    #[test]
    fn a_configuration_whose_boxes_have_no_size_is_refused_at_once() {
        let mut bytes = config().moov().to_vec();
        bytes[8..12].fill(0);
        assert!(track_ids(&Config::new(bytes)).is_err());
    }

    #[test]
    fn what_is_no_fragmented_mp4_is_told_with_its_place() {
        let config = config();
        let frame = Frame { track: 0, key: true, dts: 0, duration: 1, offset: 0, size: 4 };
        let good = [init(&config), segment(0, &[1, 2], &[frame], &[&[1; 4]]).unwrap()].concat();
        let told = |bytes: &[u8]| {
            let mut demuxer = Demuxer::new(Cutter::new(1, UnixMs(0), Clock::Producer));
            let mut cuts = Vec::new();
            let pushed = demuxer.push(bytes, &mut cuts);
            pushed.and_then(|()| demuxer.finish(&mut cuts)).map(|()| cuts.len()).map_err(|e| e.to_string())
        };
        assert_eq!(told(&good), Ok(1));
        let error = |bytes: &[u8]| told(bytes).unwrap_err();
        assert!(error(b"GET / HTTP/1.1").contains("not like fragmented MP4"), "{}", error(b"GET / HTTP/1.1"));
        assert!(error(&good[..good.len() - 1]).contains("in the middle of a box"));
        let frames_first = [&init(&config)[..], &[0, 0, 0, 8], b"mdat"].concat();
        assert!(error(&frames_first).contains("not fragmented"));
        let large = [&init(&config)[..], &[0x7f, 0, 0, 0], b"moof"].concat();
        assert!(error(&large).contains("at most"));
        let endless = [&init(&config)[..], &[0, 0, 0, 0], b"moof"].concat();
        assert!(error(&endless).contains("has no size"));
    }

    proptest! {
        #[test]
        fn damaged_containers_are_no_reason_to_panic_or_to_hold_much(
            flips in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..6),
            piece in 1usize..500,
        ) {
            let config = config();
            let frames: Vec<Frame> = (0..10)
                .map(|n| Frame { track: 0, key: n == 0, dts: n * 3000, duration: 3000, offset: 0, size: 9 })
                .collect();
            let made = segment(1, &[1, 2], &frames, &[&[7; 9][..]; 10]).unwrap();
            let mut bytes = [init(&config), made.clone(), made].concat();
            for (place, value) in flips {
                let place = place % bytes.len();
                bytes[place] = value;
            }
            let mut demuxer = Demuxer::new(Cutter::new(1, UnixMs(0), Clock::Producer));
            let mut cuts = Vec::new();
            for part in bytes.chunks(piece) {
                if demuxer.push(part, &mut cuts).is_err() {
                    break;
                }
            }
            let _ = demuxer.finish(&mut cuts);
            prop_assert!(demuxer.held_bytes() < 1 << 20);
        }
    }

    /// Reaches `MOOF_FRAMES_MAX` of video/src/limit.rs.
    #[test]
    fn one_moof_stands_for_as_many_frames_as_it_may_and_no_more() {
        let pushed = |count: usize| {
            let samples = TrunSamples::Inherited { count: count as u32, first_flags: None };
            let trun = vec![Trun { data_offset: None, samples }];
            let traf = Traf { tfhd: Tfhd { track_id: 1, ..Tfhd::default() }, trun, ..Traf::default() };
            let moof = Moof { mfhd: Mfhd { sequence_number: 0 }, traf: vec![traf] };
            let mut bytes = init(&config());
            moof.encode(&mut bytes).unwrap();
            bytes.extend_from_slice(&[0, 0, 0, 8]);
            bytes.extend_from_slice(b"mdat");
            let mut demuxer = Demuxer::new(Cutter::new(1, UnixMs(0), Clock::Producer));
            demuxer.push(&bytes, &mut Vec::new()).map_err(|error| error.to_string())
        };
        assert_eq!(pushed(MOOF_FRAMES_MAX), Ok(()));
        assert!(pushed(MOOF_FRAMES_MAX + 1).unwrap_err().contains("frames in one moof"));
    }
}
