//! Makes Matroska of fragments, as Kinesis Video Streams gives it: one document for each fragment, with its tags. The
//! same fragment always makes the same bytes. Never: which fragments, over which wire.

#![expect(clippy::big_endian_bytes, reason = "Matroska is written so")]

use mp4_atom::{Atom, Codec};

use super::{MAGIC, id};
use crate::VideoError;
use crate::codec::moov_of;
use crate::fragment::{Config, Frame};

const EBML_VERSION: u32 = 0x4286;
const EBML_READ_VERSION: u32 = 0x42f7;
const EBML_ID_LENGTH: u32 = 0x42f2;
const EBML_SIZE_LENGTH: u32 = 0x42f3;
const DOC_TYPE_VERSION: u32 = 0x4287;
const DOC_TYPE_READ_VERSION: u32 = 0x4285;
const MUXING_APP: u32 = 0x4d80;
const WRITING_APP: u32 = 0x5741;
const TRACK_UID: u32 = 0x73c5;
const TAG_STRING: u32 = 0x4487;
const APP: &str = "kinesin";

fn put_id(id: u32, out: &mut Vec<u8>) {
    let bytes = id.to_be_bytes();
    let skip = bytes.iter().position(|byte| *byte != 0).unwrap_or(3);
    out.extend_from_slice(&bytes[skip..]);
}

/// An element whose content is these bytes.
fn put(id: u32, data: &[u8], out: &mut Vec<u8>) {
    put_head(id, data.len(), out);
    out.extend_from_slice(data);
}

fn put_head(id: u32, size: usize, out: &mut Vec<u8>) {
    put_id(id, out);
    let size = size as u64;
    // As few bytes as say it and are not all ones.
    let length = (1..8).find(|length| size < (1 << (7 * length)) - 1).unwrap_or(8);
    let marked = size | 1 << (7 * length);
    out.extend_from_slice(&marked.to_be_bytes()[8 - length as usize..]);
}

fn put_uint(id: u32, value: u64, out: &mut Vec<u8>) {
    let bytes = value.to_be_bytes();
    let skip = bytes.iter().position(|byte| *byte != 0).unwrap_or(7);
    put(id, &bytes[skip..], out);
}

fn nested(id: u32, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    write(&mut inner);
    put(id, &inner, out);
}

/// A document up to its first cluster: header, a segment without an end, times in milliseconds, tracks.
///
/// # Errors
/// When the configuration is no `moov`, or has a codec that has no name in Matroska.
pub fn head(config: &Config) -> Result<Vec<u8>, VideoError> {
    let moov = moov_of(config)?;
    let mut out = Vec::new();
    nested(u32::from_be_bytes(MAGIC), &mut out, |out| {
        for (id, value) in
            [(EBML_VERSION, 1), (EBML_READ_VERSION, 1), (EBML_ID_LENGTH, 4), (EBML_SIZE_LENGTH, 8)]
        {
            put_uint(id, value, out);
        }
        put(id::DOC_TYPE, b"matroska", out);
        put_uint(DOC_TYPE_VERSION, 4, out);
        put_uint(DOC_TYPE_READ_VERSION, 2, out);
    });
    put_id(id::SEGMENT, &mut out);
    out.extend_from_slice(&[1, 255, 255, 255, 255, 255, 255, 255]);
    nested(id::INFO, &mut out, |out| {
        put_uint(id::TIMECODE_SCALE, 1_000_000, out);
        put(MUXING_APP, APP.as_bytes(), out);
        put(WRITING_APP, APP.as_bytes(), out);
    });
    let mut entries = Vec::new();
    for trak in &moov.trak {
        entry(trak, &mut entries)?;
    }
    put(id::TRACKS, &entries, &mut out);
    Ok(out)
}

fn entry(trak: &mp4_atom::Trak, out: &mut Vec<u8>) -> Result<(), VideoError> {
    let codec = trak.mdia.minf.stbl.stsd.codecs.first();
    let named = codec.and_then(|codec| named(codec).transpose()).transpose()?;
    let (name, private) = named.ok_or(VideoError::Head("its codec has no name in Matroska"))?;
    let number = u64::from(trak.tkhd.track_id);
    nested(id::TRACK_ENTRY, out, |out| {
        put_uint(id::TRACK_NUMBER, number, out);
        put_uint(TRACK_UID, number, out);
        let visual = codec.and_then(Codec::visual);
        put_uint(id::TRACK_TYPE, if visual.is_some() { 1 } else { 2 }, out);
        put(id::CODEC_ID, name.as_bytes(), out);
        if !private.is_empty() {
            put(id::CODEC_PRIVATE, &private, out);
        }
        if let Some(visual) = visual {
            nested(id::VIDEO, out, |out| {
                put_uint(id::PIXEL_WIDTH, u64::from(visual.width), out);
                put_uint(id::PIXEL_HEIGHT, u64::from(visual.height), out);
            });
        }
        if let Some((rate, channels)) = codec.and_then(sound) {
            nested(id::AUDIO, out, |out| {
                put(id::SAMPLING_FREQUENCY, &f64::from(rate).to_be_bytes(), out);
                put_uint(id::CHANNELS, u64::from(channels), out);
            });
        }
    });
    Ok(())
}

fn sound(codec: &Codec) -> Option<(u32, u16)> {
    let audio = match codec {
        Codec::Mp4a(entry) => &entry.audio,
        Codec::Opus(entry) => return Some((48_000, entry.audio.channel_count)),
        Codec::Unknown(..) => return Some((8000, 1)),
        _ => return None,
    };
    Some((u32::from(audio.sample_rate.integer()), audio.channel_count))
}

type Named = (&'static str, Vec<u8>);

/// What a codec is called, and its own description.
fn named(codec: &Codec) -> Result<Option<Named>, VideoError> {
    fn body(atom: &impl Atom) -> Result<Vec<u8>, VideoError> {
        let mut out = Vec::new();
        atom.encode_body(&mut out).map_err(|_| VideoError::Head("its codec can't be described"))?;
        Ok(out)
    }
    Ok(Some(match codec {
        Codec::Avc1(entry) => ("V_MPEG4/ISO/AVC", body(&entry.avcc)?),
        Codec::Avc3(entry) => ("V_MPEG4/ISO/AVC", body(&entry.avcc)?),
        Codec::Hvc1(entry) => ("V_MPEGH/ISO/HEVC", body(&entry.hvcc)?),
        Codec::Hev1(entry) => ("V_MPEGH/ISO/HEVC", body(&entry.hvcc)?),
        Codec::Av01(entry) => ("V_AV1", body(&entry.av1c)?),
        Codec::Mp4a(entry) => {
            let specific = &entry.esds.es_desc.dec_config.dec_specific;
            ("A_AAC", specific.as_ref().map(|specific| specific.raw.clone()).unwrap_or_default())
        }
        Codec::Opus(entry) => ("A_OPUS", opus_head(&entry.dops)),
        Codec::Unknown(kind, _) => match &<[u8; 4]>::from(*kind) {
            b"alaw" => ("A_MS/ACM", wave(6)),
            b"ulaw" => ("A_MS/ACM", wave(7)),
            _ => return Ok(None),
        },
        _ => return Ok(None),
    }))
}

/// `WAVEFORMATEX` of G.711.
fn wave(law: u16) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&law.to_le_bytes());
    out.extend_from_slice(&1u16.to_le_bytes());
    out.extend_from_slice(&8000u32.to_le_bytes());
    out.extend_from_slice(&8000u32.to_le_bytes());
    [1u16, 8, 0].iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
    out
}

fn opus_head(dops: &mp4_atom::Dops) -> Vec<u8> {
    let mut out = b"OpusHead\x01".to_vec();
    out.push(dops.output_channel_count);
    out.extend_from_slice(&dops.pre_skip.to_le_bytes());
    out.extend_from_slice(&dops.input_sample_rate.to_le_bytes());
    out.extend_from_slice(&dops.output_gain.to_le_bytes());
    match &dops.channel_mapping {
        None => out.push(0),
        Some(mapping) => {
            out.extend_from_slice(&[mapping.family, mapping.stream_count, mapping.coupled_count]);
            out.extend_from_slice(&mapping.channel_mapping);
        }
    }
    out
}

/// A Tags element with one tag of these names and values.
#[must_use]
pub fn tags(all: &[(String, String)]) -> Vec<u8> {
    let mut out = Vec::new();
    nested(id::TAGS, &mut out, |out| {
        nested(id::TAG, out, |out| {
            for (name, value) in all {
                nested(id::SIMPLE_TAG, out, |out| {
                    put(id::TAG_NAME, name.as_bytes(), out);
                    put(TAG_STRING, value.as_bytes(), out);
                });
            }
        });
    });
    out
}

/// Milliseconds of the first picture that is shown; of the first sound, where there are no pictures.
#[must_use]
pub fn first_shown_ms(frames: &[Frame], tracks: &[(u32, u32)]) -> i64 {
    let first = frames.iter().filter(|frame| frame.track == 0).map(|frame| shown_ms(frame, tracks)).min();
    first.or_else(|| frames.iter().map(|frame| shown_ms(frame, tracks)).min()).unwrap_or(0).max(0)
}

fn shown_ms(frame: &Frame, tracks: &[(u32, u32)]) -> i64 {
    let timescale =
        tracks.get(usize::from(frame.track)).map_or(1000, |(_, timescale)| i128::from(*timescale));
    // To the nearest: what came in milliseconds goes out in the same ones.
    ((i128::from(frame.pts()) * 1000 + timescale / 2).div_euclid(timescale.max(1))) as i64
}

/// A cluster of a fragment's frames: `tracks` are ids and timescales, `data` the frames' bytes. What is shown more than
/// 32 seconds from the first picture is said to be shown then.
#[must_use]
pub fn cluster(tracks: &[(u32, u32)], frames: &[Frame], data: &[&[u8]]) -> Vec<u8> {
    let time = first_shown_ms(frames, tracks);
    let mut inner = Vec::with_capacity(data.iter().map(|data| data.len() + 16).sum::<usize>() + 16);
    put(id::TIMECODE, &time.to_be_bytes(), &mut inner);
    for (frame, data) in frames.iter().zip(data) {
        let number = tracks.get(usize::from(frame.track)).map_or(1, |(id, _)| *id);
        let mut number_bytes = Vec::new();
        let length = (1..5).find(|length| u64::from(number) < (1 << (7 * length)) - 1).unwrap_or(5);
        let marked = u64::from(number) | 1 << (7 * length);
        number_bytes.extend_from_slice(&marked.to_be_bytes()[8 - length as usize..]);
        put_head(id::SIMPLE_BLOCK, number_bytes.len() + 3 + data.len(), &mut inner);
        inner.extend_from_slice(&number_bytes);
        let from = (shown_ms(frame, tracks) - time).clamp(i64::from(i16::MIN), i64::from(i16::MAX));
        inner.extend_from_slice(&(from as i16).to_be_bytes());
        inner.push(if frame.key { 0x80 } else { 0 });
        inner.extend_from_slice(data);
    }
    let mut out = Vec::with_capacity(inner.len() + 12);
    put(id::CLUSTER, &inner, &mut out);
    out
}
