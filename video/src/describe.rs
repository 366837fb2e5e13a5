//! Tracks in words that no container owns, as the configuration that fragments keep (an MP4 `moov`): the same tracks always
//! make the same bytes. Pure. Never: frames, times, where a description comes from.

use mp4_atom::{
    Atom, Audio, Av01, Av1c, Avc1, Avcc, Codec, Dops, Encode, FourCC, Hvc1, Hvcc, Moov, Mp4a, Mvex, Opus,
    OpusChannelMapping, Smhd, Sowt, Trak, Trex, Visual, Vmhd, esds,
};
use protocol::bytes::Cursor;

use crate::codec::{Track, TrackKind, tracks, tracks_of};
use crate::fragment::Config;
use crate::limit::CONFIG_BYTES_MAX;

/// What a track is encoded with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Its private bytes are an `avcC` (ISO/IEC 14496-15, 5.3.3.1.2).
    H264,
    /// Its private bytes are an `hvcC` (ISO/IEC 14496-15, 8.3.3.1.2).
    H265,
    /// Its private bytes are an `av1C`.
    Av1,
    /// Its private bytes are an AudioSpecificConfig (ISO/IEC 14496-3, 1.6.2.1).
    Aac,
    /// Its private bytes are an `OpusHead` (RFC 7845, 5.1).
    Opus,
    /// G.711, a-law; no private bytes.
    Alaw,
    /// G.711, mu-law; no private bytes.
    Mulaw,
}

impl Kind {
    /// As people call it.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Kind::H264 => "H.264",
            Kind::H265 => "H.265",
            Kind::Av1 => "AV1",
            Kind::Aac => "AAC",
            Kind::Opus => "Opus",
            Kind::Alaw | Kind::Mulaw => "G.711",
        }
    }

    /// Whether it has pictures.
    #[must_use]
    pub fn is_video(self) -> bool {
        matches!(self, Kind::H264 | Kind::H265 | Kind::Av1)
    }
}

/// One track.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Its id, from 1; no two have the same.
    pub id: u32,
    /// What it is encoded with.
    pub kind: Kind,
    /// What a decoder wants to know first.
    pub private: Vec<u8>,
    /// Pixels; 0 where it has no pictures.
    pub width: u16,
    /// Pixels; 0 where it has no pictures.
    pub height: u16,
    /// Sound: samples a second; 0 where the field is too small for it.
    pub rate: u16,
    /// Sound: channels.
    pub channels: u16,
    /// Units of its times in a second.
    pub timescale: u32,
}

/// Tracks that can't be described.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DescribeError {
    /// One of them.
    #[error("track {place}: the description of {why}")]
    Track {
        /// Which, from 0.
        place: usize,
        /// The codec, and what is wrong.
        why: String,
    },
    /// All together are longer than is kept.
    #[error("the description of the tracks has {bytes} bytes, at most {max} are taken")]
    TooLarge {
        /// How long.
        bytes: u64,
        /// The bound.
        max: u64,
    },
    /// They can't be written.
    #[error("{0}")]
    Moov(String),
}

/// The configuration of these tracks, and the tracks as everybody who reads it will see them. Pictures come first.
///
/// # Errors
/// When a codec's own description can't be read, or is too long.
pub fn configuration(described: &[Description]) -> Result<(Config, Vec<Track>), DescribeError> {
    let mut moov = Moov { mvex: Some(Mvex::default()), ..Moov::default() };
    let mut kinds = Vec::new();
    for (place, track) in described.iter().enumerate() {
        let (codec, kind) = track.codec().map_err(|why| DescribeError::Track { place, why })?;
        kinds.extend(kind);
        moov.trak.push(trak(track, codec));
        if let Some(mvex) = &mut moov.mvex {
            let trex = Trex { track_id: track.id, default_sample_description_index: 1, ..Trex::default() };
            mvex.trex.push(trex);
        }
    }
    moov.mvhd.timescale = 1000;
    moov.mvhd.next_track_id = described.iter().map(|track| track.id).max().unwrap_or(0).wrapping_add(1);
    let mut bytes = Vec::new();
    moov.encode(&mut bytes).map_err(|error| DescribeError::Moov(error.to_string()))?;
    for kind in kinds {
        if let Some(place) = bytes.windows(4).position(|four| four == b"sowt") {
            bytes[place..place + 4].copy_from_slice(&kind);
        }
    }
    if bytes.len() > CONFIG_BYTES_MAX {
        return Err(DescribeError::TooLarge { bytes: bytes.len() as u64, max: CONFIG_BYTES_MAX as u64 });
    }
    let config = Config::new(bytes);
    let seen = tracks(&config).unwrap_or_else(|_| tracks_of(&moov));
    Ok((config, seen))
}

impl Description {
    fn visual(&self) -> Visual {
        Visual { data_reference_index: 1, width: self.width, height: self.height, ..Visual::default() }
    }

    fn audio(&self) -> Audio {
        Audio {
            data_reference_index: 1,
            channel_count: self.channels,
            sample_size: 16,
            sample_rate: self.rate.into(),
        }
    }

    /// The box that a codec's own description is in.
    fn described<T: Atom>(&self) -> Result<T, String> {
        let codec = self.kind.text();
        let why = |error: mp4_atom::Error| format!("{codec} can't be read ({error}): players need it");
        T::decode_body(&mut &self.private[..]).map_err(why)
    }

    /// As MP4 describes it, and the type that stands in the place of one that the writer does not know.
    fn codec(&self) -> Result<(Codec, Option<[u8; 4]>), String> {
        let (visual, audio) = (self.visual(), self.audio());
        let codec = match self.kind {
            Kind::H264 => Codec::Avc1(Avc1 { visual, avcc: self.described::<Avcc>()?, ..Avc1::default() }),
            Kind::H265 => Codec::Hvc1(Hvc1 { visual, hvcc: self.described::<Hvcc>()?, ..Hvc1::default() }),
            Kind::Av1 => Codec::Av01(Av01 { visual, av1c: self.described::<Av1c>()?, ..Av01::default() }),
            Kind::Aac => Codec::Mp4a(Mp4a { audio, esds: self.aac()?, btrt: None, taic: None }),
            Kind::Opus => Codec::Opus(Opus { audio, dops: self.opus()?, btrt: None }),
            Kind::Alaw => return Ok((g711(audio), Some(*b"alaw"))),
            Kind::Mulaw => return Ok((g711(audio), Some(*b"ulaw"))),
        };
        Ok((codec, None))
    }

    fn aac(&self) -> Result<esds::Esds, String> {
        if self.private.len() < 2 {
            return Err("AAC is missing: players need it".to_owned());
        }
        let (first, second) = (self.private[0], self.private[1]);
        let specific = esds::DecoderSpecific {
            profile: first >> 3,
            freq_index: (first & 7) << 1 | second >> 7,
            chan_conf: second >> 3 & 15,
            raw: self.private.clone(),
        };
        let dec_config = esds::DecoderConfig {
            object_type_indication: 0x40,
            stream_type: 5,
            dec_specific: Some(specific),
            ..Default::default()
        };
        Ok(esds::Esds { es_desc: esds::EsDescriptor { es_id: 1, dec_config, ..Default::default() } })
    }

    /// `OpusHead` (RFC 7845): as `dOps`, but little-endian.
    fn opus(&self) -> Result<Dops, String> {
        let bad = || "Opus is no OpusHead".to_owned();
        let mut head = Cursor::new(self.private.strip_prefix(b"OpusHead").ok_or_else(bad)?);
        let read = (|| {
            let _version = head.u8()?;
            Ok::<_, protocol::bytes::BytesError>((
                head.u8()?,
                head.u16()?,
                head.u32()?,
                head.u16()?,
                head.u8()?,
            ))
        })();
        let (channels, pre_skip, input_sample_rate, gain, family) = read.map_err(|_| bad())?;
        let channel_mapping = if family == 0 {
            None
        } else {
            let counts = (head.u8().map_err(|_| bad())?, head.u8().map_err(|_| bad())?);
            let channel_mapping = head.take(usize::from(channels)).map_err(|_| bad())?.to_vec();
            Some(OpusChannelMapping {
                family,
                stream_count: counts.0,
                coupled_count: counts.1,
                channel_mapping,
            })
        };
        let output_gain = gain as i16;
        Ok(Dops { output_channel_count: channels, pre_skip, input_sample_rate, output_gain, channel_mapping })
    }
}

fn g711(audio: Audio) -> Codec {
    Codec::Sowt(Sowt { audio, pcmc: None, chnl: None, btrt: None })
}

fn trak(track: &Description, codec: Codec) -> Trak {
    let mut trak = Trak::default();
    trak.tkhd.track_id = track.id;
    trak.tkhd.enabled = true;
    trak.tkhd.in_movie = true;
    trak.mdia.mdhd.timescale = track.timescale;
    trak.mdia.mdhd.language = "und".to_owned();
    if track.kind.is_video() {
        trak.mdia.hdlr.handler = FourCC::new(b"vide");
        trak.mdia.minf.vmhd = Some(Vmhd::default());
        if let Some(visual) = codec.visual() {
            trak.tkhd.width = visual.width.into();
            trak.tkhd.height = visual.height.into();
        }
    } else {
        trak.mdia.hdlr.handler = FourCC::new(b"soun");
        trak.mdia.minf.smhd = Some(Smhd::default());
        trak.tkhd.volume = 1.into();
    }
    trak.mdia.minf.dinf.dref.entries = vec![mp4_atom::DrefEntry::Url(mp4_atom::Url::default())];
    trak.mdia.minf.stbl.stsd.codecs = vec![codec];
    trak.mdia.minf.stbl.stco = Some(mp4_atom::Stco::default());
    trak
}

/// Whether frames of this kind may be shown in another order than they are decoded.
#[must_use]
pub fn reorders(track: &Track) -> bool {
    track.kind == TrackKind::Video && !track.codec.starts_with("av01")
}
