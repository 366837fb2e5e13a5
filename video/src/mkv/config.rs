//! What Matroska says about tracks, as the configuration that fragments keep (an MP4 `moov`): the same tracks always make
//! the same bytes. Never: frames, times.

use std::sync::Arc;

use mp4_atom::{
    Atom, Audio, Av01, Av1c, Avc1, Avcc, Codec, Dops, Encode, FourCC, Hvc1, Hvcc, Moov, Mp4a, Mvex, Opus,
    OpusChannelMapping, Smhd, Sowt, Trak, Trex, Visual, Vmhd, esds,
};
use protocol::bytes::Cursor;

use super::ebml::{Element, children};
use super::id;
use crate::VideoError;
use crate::codec::{Track, TrackKind, tracks_of};
use crate::fragment::Config;
use crate::limit::{CONFIG_BYTES_MAX, TRACKS_MAX};

/// One TrackEntry.
#[derive(Debug, Default, Clone)]
pub(super) struct Entry {
    pub(super) number: u64,
    kind: u64,
    codec: String,
    private: Vec<u8>,
    /// Nanoseconds of a frame; 0 where that is not said.
    pub(super) default_ns: u64,
    width: u64,
    height: u64,
    rate: f64,
    channels: u64,
    at: u64,
}

const VIDEO: u64 = 1;
const AUDIO: u64 = 2;

fn invalid(at: u64, why: impl Into<String>) -> VideoError {
    VideoError::Invalid { at, why: why.into() }
}

impl Entry {
    fn read(element: &Element<'_>) -> Result<Entry, VideoError> {
        let mut entry = Entry { at: element.at, rate: 8000.0, channels: 1, ..Entry::default() };
        for child in children(element.data, element.at) {
            let child = child?;
            match child.id {
                id::TRACK_NUMBER => entry.number = child.uint()?,
                id::TRACK_TYPE => entry.kind = child.uint()?,
                id::CODEC_ID => entry.codec = child.text(),
                id::CODEC_PRIVATE => entry.private = child.data.to_vec(),
                id::DEFAULT_DURATION => entry.default_ns = child.uint()?,
                id::CONTENT_ENCODINGS => {
                    return Err(invalid(
                        child.at,
                        "a track that is compressed or encrypted in the container is not taken",
                    ));
                }
                id::VIDEO | id::AUDIO => entry.read_settings(&child)?,
                _ => (),
            }
        }
        Ok(entry)
    }

    fn read_settings(&mut self, element: &Element<'_>) -> Result<(), VideoError> {
        for child in children(element.data, element.at) {
            let child = child?;
            match child.id {
                id::PIXEL_WIDTH => self.width = child.uint()?,
                id::PIXEL_HEIGHT => self.height = child.uint()?,
                id::SAMPLING_FREQUENCY => self.rate = child.float(),
                id::CHANNELS => self.channels = child.uint()?,
                _ => (),
            }
        }
        Ok(())
    }

    pub(super) fn is_video(&self) -> bool {
        self.kind == VIDEO
    }

    fn visual(&self) -> Visual {
        let (width, height) = (self.width.min(65_535) as u16, self.height.min(65_535) as u16);
        Visual { data_reference_index: 1, width, height, ..Visual::default() }
    }

    fn audio(&self) -> Audio {
        // The field has 16 bits; what is faster says 0, and its codec knows.
        let rate = if (1.0..65_536.0).contains(&self.rate) { self.rate as u16 } else { 0 };
        let channel_count = self.channels.clamp(1, 64) as u16;
        Audio { data_reference_index: 1, channel_count, sample_size: 16, sample_rate: rate.into() }
    }

    /// The box that a codec's own description is in.
    fn described<T: Atom>(&self) -> Result<T, VideoError> {
        let why = |error: mp4_atom::Error| {
            let codec = &self.codec;
            invalid(self.at, format!("the CodecPrivate of {codec} can't be read ({error}): players need it"))
        };
        T::decode_body(&mut &self.private[..]).map_err(why)
    }

    /// As MP4 describes it, and the type that stands in the place of one that the writer does not know.
    fn codec(&self) -> Result<(Codec, Option<[u8; 4]>), VideoError> {
        let (visual, audio) = (self.visual(), self.audio());
        let codec = match self.codec.as_str() {
            "V_MPEG4/ISO/AVC" | "V_MPEG/ISO/AVC" => {
                Codec::Avc1(Avc1 { visual, avcc: self.described::<Avcc>()?, ..Avc1::default() })
            }
            "V_MPEGH/ISO/HEVC" => {
                Codec::Hvc1(Hvc1 { visual, hvcc: self.described::<Hvcc>()?, ..Hvc1::default() })
            }
            "V_AV1" => Codec::Av01(Av01 { visual, av1c: self.described::<Av1c>()?, ..Av01::default() }),
            codec if codec == "A_AAC" || codec.starts_with("A_AAC/") => {
                Codec::Mp4a(Mp4a { audio, esds: self.aac()?, btrt: None, taic: None })
            }
            "A_OPUS" => Codec::Opus(Opus { audio, dops: self.opus()?, btrt: None }),
            "A_MS/ACM" => return self.g711(audio),
            other => {
                return Err(invalid(
                    self.at,
                    format!(
                        "track {} is {other:?}: H.264, H.265, AV1, AAC, Opus and G.711 are taken",
                        self.number
                    ),
                ));
            }
        };
        Ok((codec, None))
    }

    fn aac(&self) -> Result<esds::Esds, VideoError> {
        if self.private.len() < 2 {
            return Err(invalid(self.at, "the CodecPrivate of A_AAC is missing: players need it"));
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
    fn opus(&self) -> Result<Dops, VideoError> {
        let bad = || invalid(self.at, "the CodecPrivate of A_OPUS is no OpusHead");
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

    /// `WAVEFORMATEX`: its first two bytes say which law.
    fn g711(&self, mut audio: Audio) -> Result<(Codec, Option<[u8; 4]>), VideoError> {
        let kind = match self.private.first_chunk::<2>().map(|tag| u16::from_le_bytes(*tag)) {
            Some(6) => *b"alaw",
            Some(7) => *b"ulaw",
            _ => return Err(invalid(self.at, "A_MS/ACM is taken where it is G.711 (a-law or mu-law)")),
        };
        audio.sample_size = 16;
        Ok((Codec::Sowt(Sowt { audio, pcmc: None, chnl: None, btrt: None }), Some(kind)))
    }
}

/// What a Tracks element says.
pub(super) struct Tracks {
    /// In the order in which frames count them: pictures first.
    pub(super) entries: Vec<Entry>,
    pub(super) config: Arc<Config>,
    pub(super) tracks: Vec<Track>,
}

pub(super) fn read(element: &Element<'_>, timescale: u32) -> Result<Tracks, VideoError> {
    let mut entries = Vec::new();
    for child in children(element.data, element.at) {
        let child = child?;
        if child.id == id::TRACK_ENTRY {
            entries.push(Entry::read(&child)?);
        }
        if entries.len() > TRACKS_MAX {
            return Err(VideoError::TooManyTracks(entries.len()));
        }
    }
    if entries.is_empty() {
        return Err(invalid(element.at, "Tracks without a TrackEntry"));
    }
    entries.sort_by_key(|entry| !entry.is_video());
    for (place, entry) in entries.iter().enumerate() {
        let twice = entries[..place].iter().any(|before| before.number == entry.number);
        if twice || entry.number == 0 || entry.number > u64::from(u32::MAX) {
            return Err(invalid(
                entry.at,
                format!("track number {}: each has its own, from 1", entry.number),
            ));
        }
        if entry.kind != VIDEO && entry.kind != AUDIO {
            let why = format!("track {} has neither pictures nor sound (type {})", entry.number, entry.kind);
            return Err(invalid(entry.at, why));
        }
    }
    let (config, tracks) = configuration(&entries, timescale, element.at)?;
    Ok(Tracks { entries, config: Arc::new(config), tracks })
}

fn configuration(entries: &[Entry], timescale: u32, at: u64) -> Result<(Config, Vec<Track>), VideoError> {
    let mut moov = Moov { mvex: Some(Mvex::default()), ..Moov::default() };
    let mut kinds = Vec::new();
    for entry in entries {
        let (codec, kind) = entry.codec()?;
        kinds.extend(kind);
        moov.trak.push(trak(entry, codec, timescale));
        if let Some(mvex) = &mut moov.mvex {
            let trex = Trex {
                track_id: entry.number as u32,
                default_sample_description_index: 1,
                ..Trex::default()
            };
            mvex.trex.push(trex);
        }
    }
    moov.mvhd.timescale = 1000;
    moov.mvhd.next_track_id =
        moov.trak.iter().map(|trak| trak.tkhd.track_id).max().unwrap_or(0).wrapping_add(1);
    let mut bytes = Vec::new();
    moov.encode(&mut bytes).map_err(|error| invalid(at, error.to_string()))?;
    for kind in kinds {
        if let Some(place) = bytes.windows(4).position(|four| four == b"sowt") {
            bytes[place..place + 4].copy_from_slice(&kind);
        }
    }
    if bytes.len() > CONFIG_BYTES_MAX {
        let (bytes, max) = (bytes.len() as u64, CONFIG_BYTES_MAX as u64);
        return Err(VideoError::TooLarge { what: "a description of tracks", bytes, max });
    }
    let config = Config::new(bytes);
    // As everybody who reads it will see it.
    let tracks = crate::codec::tracks(&config).unwrap_or_else(|_| tracks_of(&moov));
    Ok((config, tracks))
}

fn trak(entry: &Entry, codec: Codec, timescale: u32) -> Trak {
    let mut trak = Trak::default();
    trak.tkhd.track_id = entry.number as u32;
    trak.tkhd.enabled = true;
    trak.tkhd.in_movie = true;
    trak.mdia.mdhd.timescale = timescale;
    trak.mdia.mdhd.language = "und".to_owned();
    if entry.is_video() {
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
pub(super) fn reorders(track: &Track) -> bool {
    track.kind == TrackKind::Video && !track.codec.starts_with("av01")
}
