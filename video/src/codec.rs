//! What a configuration says about its tracks: kinds, timescales, codec names as players write them (RFC 6381), and the
//! two ways in which H.264 and H.265 write access units: with lengths (as stored) and with start codes (Annex B).

use mp4_atom::{Codec, Decode, FourCC, Moov};

use crate::VideoError;
use crate::fragment::Config;
use crate::tree;

/// What a track carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrackKind {
    /// Pictures.
    Video,
    /// Sound.
    Audio,
    /// Anything else, such as positions.
    Data,
}

impl TrackKind {
    /// In a word.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            TrackKind::Video => "video",
            TrackKind::Audio => "audio",
            TrackKind::Data => "data",
        }
    }
}

/// One track of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Track {
    /// Its id in containers.
    pub id: u32,
    /// What it carries.
    pub kind: TrackKind,
    /// Units of its times in a second.
    pub timescale: u32,
    /// Its codec, such as `avc1.64001f`.
    pub codec: String,
    /// Pixels; 0 where it has no pictures.
    pub width: u16,
    /// Pixels; 0 where it has no pictures.
    pub height: u16,
    /// Bytes of the length before each NAL unit, where it has NAL units.
    pub nal_length_bytes: Option<usize>,
    /// Parameter sets that a decoder needs before the first key frame, where they are not in the frames.
    pub parameter_sets: Vec<Vec<u8>>,
}

/// The kind of a track by its handler.
#[must_use]
pub fn kind(handler: FourCC) -> TrackKind {
    match &<[u8; 4]>::from(handler) {
        b"vide" => TrackKind::Video,
        b"soun" => TrackKind::Audio,
        _ => TrackKind::Data,
    }
}

/// The tracks of a configuration, in the order in which frames count them.
///
/// # Errors
/// When the configuration is no `moov`.
pub fn tracks(config: &Config) -> Result<Vec<Track>, VideoError> {
    Ok(tracks_of(&moov_of(config)?))
}

/// The `moov` of a configuration. Anybody may have written it: its boxes are checked first.
pub(crate) fn moov_of(config: &Config) -> Result<Moov, VideoError> {
    let bad = VideoError::Head("its configuration is no moov");
    tree::check(config.moov(), 0).map_err(|_| bad.clone())?;
    Moov::decode(&mut config.moov()).map_err(|_| bad)
}

/// The tracks of a `moov`.
#[must_use]
pub fn tracks_of(moov: &Moov) -> Vec<Track> {
    let track = |trak: &mp4_atom::Trak| {
        let entry = trak.mdia.minf.stbl.stsd.codecs.first();
        let (codec, nal_length_bytes, parameter_sets) = entry.map(describe).unwrap_or_default();
        let visual = entry.and_then(Codec::visual);
        Track {
            id: trak.tkhd.track_id,
            kind: kind(trak.mdia.hdlr.handler),
            timescale: trak.mdia.mdhd.timescale.max(1),
            codec,
            width: visual.map_or(0, |visual| visual.width),
            height: visual.map_or(0, |visual| visual.height),
            nal_length_bytes,
            parameter_sets,
        }
    };
    moov.trak.iter().map(track).collect()
}

fn describe(codec: &Codec) -> (String, Option<usize>, Vec<Vec<u8>>) {
    let h264 = |name: &str, avcc: &mp4_atom::Avcc| {
        let (profile, compatible, level) =
            (avcc.avc_profile_indication, avcc.profile_compatibility, avcc.avc_level_indication);
        let sets = avcc.sequence_parameter_sets.iter().chain(&avcc.picture_parameter_sets).cloned().collect();
        let text = format!("{name}.{profile:02x}{compatible:02x}{level:02x}");
        (text, Some(usize::from(avcc.length_size)), sets)
    };
    let h265 = |name: &str, hvcc: &mp4_atom::Hvcc| {
        let sets = hvcc.arrays.iter().flat_map(|array| array.nalus.iter().cloned()).collect();
        (h265_name(name, hvcc), Some(usize::from(hvcc.length_size_minus_one) + 1), sets)
    };
    let plain = |text: String| (text, None, Vec::new());
    match codec {
        Codec::Avc1(entry) => h264("avc1", &entry.avcc),
        Codec::Avc3(entry) => h264("avc3", &entry.avcc),
        Codec::Hvc1(entry) => h265("hvc1", &entry.hvcc),
        Codec::Hev1(entry) => h265("hev1", &entry.hvcc),
        Codec::Av01(entry) => {
            let av1c = &entry.av1c;
            let depth = if av1c.twelve_bit {
                12
            } else if av1c.high_bitdepth {
                10
            } else {
                8
            };
            let tier = if av1c.seq_tier_0 { 'H' } else { 'M' };
            plain(format!("av01.{}.{:02}{tier}.{depth:02}", av1c.seq_profile, av1c.seq_level_idx_0))
        }
        Codec::Mp4a(entry) => {
            let decoder = &entry.esds.es_desc.dec_config;
            let object = decoder.dec_specific.as_ref().map_or(2, |specific| specific.profile);
            plain(format!("mp4a.{:x}.{object}", decoder.object_type_indication))
        }
        Codec::Opus(_) => plain("opus".to_owned()),
        Codec::Flac(_) => plain("flac".to_owned()),
        Codec::Vp08(_) => plain("vp8".to_owned()),
        Codec::Vp09(_) => plain("vp09".to_owned()),
        Codec::Ac3(_) => plain("ac-3".to_owned()),
        Codec::Eac3(_) => plain("ec-3".to_owned()),
        Codec::Mp3(_) => plain("mp3".to_owned()),
        Codec::Unknown(kind, _) => plain(kind.to_string()),
        _ => plain("unknown".to_owned()),
    }
}

/// ISO/IEC 14496-15, annex E.
fn h265_name(name: &str, hvcc: &mp4_atom::Hvcc) -> String {
    let space = ["", "A", "B", "C"][usize::from(hvcc.general_profile_space & 3)];
    let flags = hvcc.general_profile_compatibility_flags;
    // Written in reverse bit order.
    let flags = flags.iter().rev().fold(0u32, |all, byte| all << 8 | u32::from(byte.reverse_bits()));
    let tier = if hvcc.general_tier_flag { 'H' } else { 'L' };
    let mut text =
        format!("{name}.{space}{}.{flags:x}.{tier}{}", hvcc.general_profile_idc, hvcc.general_level_idc);
    let constraints = hvcc.general_constraint_indicator_flags;
    let used = constraints.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    for byte in &constraints[..used] {
        text += &format!(".{byte:x}");
    }
    text
}

const START_CODE: [u8; 4] = [0, 0, 0, 1];

impl Track {
    /// An access unit with start codes in place of lengths; a key frame gets its parameter sets. What has no NAL
    /// units stays as it is.
    #[must_use]
    pub fn annexb(&self, frame: &[u8], key: bool) -> Vec<u8> {
        let Some(length_bytes) = self.nal_length_bytes else { return frame.to_vec() };
        let mut out = Vec::with_capacity(frame.len() + 256);
        if key {
            for set in &self.parameter_sets {
                out.extend_from_slice(&START_CODE);
                out.extend_from_slice(set);
            }
        }
        for unit in units(frame, length_bytes) {
            out.extend_from_slice(&START_CODE);
            out.extend_from_slice(unit);
        }
        out
    }
}

/// The NAL units of an access unit, before each of which its length stands.
fn units(frame: &[u8], length_bytes: usize) -> impl Iterator<Item = &[u8]> {
    let mut rest = frame;
    std::iter::from_fn(move || {
        let (length, after) = rest.split_at_checked(length_bytes)?;
        let length = length.iter().fold(0usize, |all, byte| all << 8 | usize::from(*byte));
        let (unit, after) = after.split_at(length.min(after.len()));
        rest = after;
        Some(unit)
    })
}

/// Whether decoding may begin with this access unit of H.265, whose lengths have four bytes: its first picture is a random
/// access point (ITU-T H.265, 7.4.2.2), which is not always one that ends all reference to what was before.
#[must_use]
pub fn h265_may_begin(frame: &[u8]) -> bool {
    let kinds = units(frame, 4).filter_map(|unit| unit.first().map(|head| head >> 1 & 0x3f));
    kinds.into_iter().find(|kind| *kind < 32).is_some_and(|kind| (16..=23).contains(&kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_become_start_codes_and_key_frames_have_their_parameter_sets() {
        let track = Track {
            id: 1,
            kind: TrackKind::Video,
            timescale: 90_000,
            codec: "avc1.64001f".to_owned(),
            width: 1,
            height: 1,
            nal_length_bytes: Some(4),
            parameter_sets: vec![vec![0x67, 1], vec![0x68]],
        };
        let frame = [0, 0, 0, 2, 0x65, 9, 0, 0, 0, 1, 0x06];
        assert_eq!(track.annexb(&frame, false), [0, 0, 0, 1, 0x65, 9, 0, 0, 0, 1, 0x06]);
        let key = track.annexb(&frame, true);
        assert!(key.starts_with(&[0, 0, 0, 1, 0x67, 1, 0, 0, 0, 1, 0x68, 0, 0, 0, 1, 0x65]));
        // A length that lies ends with the frame.
        assert_eq!(track.annexb(&[255, 255, 255, 255, 7], false), [0, 0, 0, 1, 7]);
        let sound = Track { nal_length_bytes: None, ..track };
        assert_eq!(sound.annexb(&frame, true), frame);
    }

    #[test]
    fn an_access_unit_of_h265_may_be_the_first_where_its_picture_is_a_random_access_point() {
        let frame =
            |kinds: &[u8]| kinds.iter().flat_map(|kind| [0, 0, 0, 2, kind << 1, 1]).collect::<Vec<u8>>();
        for (kinds, may) in [
            (&[19][..], true),
            (&[32, 33, 34, 39, 21, 21], true),
            (&[39, 1], false),
            (&[9, 21], false),
            (&[32], false),
            (&[], false),
        ] {
            assert_eq!(h265_may_begin(&frame(kinds)), may, "{kinds:?}");
        }
    }
}
