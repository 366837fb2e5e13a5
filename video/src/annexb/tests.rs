//! Raw streams made of films: the same frames and times come back, however they come and whatever is damaged.

use super::*;
use crate::codec::{Track, tracks};
use crate::fragment::{Clock, Frame};

pub(crate) const FILMS: [(&str, &[u8]); 2] = [
    ("H.264", include_bytes!("../../../tests/fuzz/examples/h264.mp4")),
    ("H.265", include_bytes!("../../../tests/fuzz/examples/h265.mp4")),
];

/// Bits of a unit, one after the other.
pub(super) struct Written {
    head: Vec<u8>,
    bits: Vec<bool>,
}

impl Written {
    pub(super) fn after(head: &[u8]) -> Written {
        Written { head: head.to_vec(), bits: Vec::new() }
    }

    /// A number of so many bits.
    pub(super) fn one(mut self, count: u32, value: u32) -> Written {
        self.bits.extend((0..count).rev().map(|at| value >> at & 1 == 1));
        self
    }

    /// Exponential Golomb.
    pub(super) fn ue(self, value: u32) -> Written {
        let length = u32::BITS - (value + 1).leading_zeros();
        self.one(length - 1, 0).one(length, value + 1)
    }

    /// With the bit that ends it, and as a stream has it: no three bytes that look like a start code.
    pub(super) fn bytes(self) -> Vec<u8> {
        let mut all = self.one(1, 1);
        while !all.bits.len().is_multiple_of(8) {
            all.bits.push(false);
        }
        let (mut out, mut zeros) = (all.head, 0);
        for byte in all.bits.chunks(8).map(|bits| bits.iter().fold(0u8, |all, bit| all << 1 | u8::from(*bit)))
        {
            if zeros == 2 && byte <= 3 {
                out.push(3);
                zeros = 0;
            }
            zeros = if byte == 0 { zeros + 1 } else { 0 };
            out.push(byte);
        }
        out
    }
}

pub(crate) fn cutter() -> Cutter {
    Cutter::new(7, UnixMs(1_790_000_000_000), Clock::Producer)
}

/// The pictures of a film, and its track.
pub(crate) fn pictures(film: &[u8]) -> (Vec<(Frame, Vec<u8>)>, Track) {
    let (mut demuxer, mut cuts) = (crate::demux::Demuxer::new(cutter()), Vec::new());
    demuxer.push(film, &mut cuts).unwrap();
    demuxer.finish(&mut cuts).unwrap();
    let mut track = tracks(&cuts[0].fragment.config).unwrap().remove(0);
    // x265 writes a message beside them, which would become a part of the first picture.
    track.parameter_sets.retain(|set| set[0] >> 1 != 39);
    (frames(&cuts), track)
}

pub(crate) fn frames(cuts: &[Cut]) -> Vec<(Frame, Vec<u8>)> {
    let mut all = Vec::new();
    for cut in cuts {
        let whole = cut.data.to_vec();
        let mut rest = &whole[..];
        for frame in &cut.fragment.frames {
            let (data, after) = rest.split_at(frame.size as usize);
            rest = after;
            if frame.track == 0 {
                all.push((*frame, data.to_vec()));
            }
        }
    }
    all
}

fn raw(pictures: &[(Frame, Vec<u8>)], track: &Track) -> Vec<u8> {
    pictures.iter().flat_map(|(frame, data)| track.annexb(data, frame.key)).collect()
}

fn taken(bytes: &[u8], track: &Track, piece: usize, rate: Option<Rate>) -> Result<Vec<Cut>, VideoError> {
    let kind = if track.codec.starts_with("avc1") { Kind::H264 } else { Kind::H265 };
    let (mut demuxer, mut cuts) = (Demuxer::new(kind, cutter(), rate), Vec::new());
    for part in bytes.chunks(piece) {
        demuxer.push(part, &mut cuts)?;
    }
    demuxer.finish(&mut cuts)?;
    Ok(cuts)
}

/// Times since the first picture that is shown, in units of so many milliseconds.
fn times(pictures: &[(Frame, Vec<u8>)], ms: i64) -> Vec<i64> {
    let first = pictures.iter().map(|(frame, _)| frame.pts()).min().unwrap();
    pictures.iter().map(|(frame, _)| (frame.pts() - first) / 90 / ms).collect()
}

/// Which place each picture has among those that are shown.
fn places(pictures: &[(Frame, Vec<u8>)]) -> Vec<i64> {
    let mut shown: Vec<i64> = pictures.iter().map(|(frame, _)| frame.pts()).collect();
    shown.sort_unstable();
    pictures.iter().map(|(frame, _)| shown.binary_search(&frame.pts()).unwrap() as i64).collect()
}

#[test]
fn a_raw_stream_has_the_frames_and_the_times_that_its_film_had_however_it_comes() {
    for (name, film) in FILMS {
        let (want, track) = pictures(film);
        let bytes = raw(&want, &track);
        for piece in [1, 7, 4096, usize::MAX] {
            let cuts = taken(&bytes, &track, piece, None).unwrap();
            let got = frames(&cuts);
            let data = |all: &[(Frame, Vec<u8>)]| {
                all.iter().map(|one| (one.0.key, one.1.clone())).collect::<Vec<_>>()
            };
            assert!(data(&got) == data(&want), "{name} in pieces of {piece}");
            assert_eq!(times(&got, 100), places(&want), "{name} in pieces of {piece}");
            assert!(sniff(&bytes).is_some());
            let about = tracks(&cuts[0].fragment.config).unwrap().remove(0);
            assert_eq!(
                (about.codec, about.width, about.height),
                (track.codec.replace("hev1", "hvc1"), track.width, track.height)
            );
            assert_eq!(about.parameter_sets, track.parameter_sets);
            assert!(cuts.iter().all(|cut| cut.fragment.starts_with_key()));
            assert!(got.iter().all(|(frame, _)| frame.offset >= 0));
        }
        let slow = frames(&taken(&bytes, &track, 1000, Rate::of_fps(5.0)).unwrap());
        assert_eq!(times(&slow, 200), places(&want), "as it was said");
    }
}

#[test]
fn a_stream_that_is_joined_in_the_middle_begins_with_its_next_key_frame() {
    for (name, film) in FILMS {
        let (want, track) = pictures(film);
        let key = want.iter().rposition(|(frame, _)| frame.key).unwrap();
        let bytes = [track.annexb(&want[1].1, false), raw(&want[key..], &track)].concat();
        assert_eq!(
            frames(&taken(&bytes, &track, 100, Rate::new(25, 1)).unwrap()).len(),
            want.len() - key,
            "{name}"
        );
    }
}

#[test]
fn other_parameter_sets_begin_a_fragment_of_another_configuration() {
    let (want, track) = pictures(FILMS[0].1);
    let mut other = track.clone();
    // Another level.
    other.parameter_sets[0][3] += 1;
    let bytes = [raw(&want, &track), raw(&want, &other)].concat();
    let cuts = taken(&bytes, &track, 500, None).unwrap();
    let codecs: std::collections::BTreeSet<_> = cuts.iter().map(|cut| cut.fragment.config.id()).collect();
    assert_eq!((codecs.len(), frames(&cuts).len()), (2, want.len() * 2));
}

#[test]
fn order_goes_on_over_its_modulus_in_both_directions() {
    assert_eq!(order_of(2, (0, 14), 16), 18);
    assert_eq!(order_of(14, (16, 2), 16), 14);
    assert_eq!(order_of(6, (16, 2), 16), 22);
}

#[test]
fn streams_tell_what_they_are() {
    for (begin, want) in [
        (&[0, 0, 0, 1, 0x67, 0x64, 0, 0x1f][..], Some(Kind::H264)),
        (&[0, 0, 1, 0x09, 0xf0, 0, 0, 1], Some(Kind::H264)),
        (&[0, 0, 0, 0, 1, 0x40, 0x01, 0x0c], Some(Kind::H265)),
        (&[0, 0, 1, 0x46, 0x01, 0x50, 0, 0], Some(Kind::H265)),
        (&[0, 0, 0, 0x18, b'f', b't', b'y', b'p'], None),
        (&[0x1a, 0x45, 0xdf, 0xa3, 0, 0, 0, 0], None),
        (&[0, 0, 1], None),
    ] {
        assert_eq!(sniff(begin), want, "{begin:02x?}");
    }
}

#[test]
fn damage_of_any_kind_is_no_reason_to_panic_and_is_bounded() {
    let mut rng = protocol::rng::Rng::new(3);
    for (_, film) in FILMS {
        let (want, track) = pictures(film);
        let bytes = raw(&want[..want.len().min(40)], &track);
        for _ in 0..300 {
            let mut bad = bytes.clone();
            for _ in 0..1 + rng.below(6) {
                // Most of it where parameter sets and slice headers are.
                let most = if rng.chance(50) { 200.min(bad.len() as u64) } else { bad.len() as u64 };
                let place = rng.below(most) as usize;
                bad[place] ^= 1 << rng.below(8);
            }
            bad.truncate(rng.below(bad.len() as u64 + 1) as usize);
            let Some(kind) = sniff(&bad) else { continue };
            let (mut demuxer, mut cuts) = (Demuxer::new(kind, cutter(), Rate::new(25, 1)), Vec::new());
            let _ = bad.chunks(777).try_for_each(|part| demuxer.push(part, &mut cuts));
            let _ = demuxer.finish(&mut cuts);
            assert!(cuts.iter().map(|cut| cut.data.len()).sum::<usize>() <= bad.len() * 3);
        }
    }
}
