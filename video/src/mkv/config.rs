//! What Matroska says about tracks, as the configuration that fragments keep (an MP4 `moov`): the same tracks always make
//! the same bytes. Never: frames, times.

use std::sync::Arc;

use super::ebml::{Element, children};
use super::id;
use crate::VideoError;
use crate::codec::Track;
use crate::describe::{self, DescribeError, Description, Kind};
use crate::fragment::Config;
use crate::limit::TRACKS_MAX;

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

    /// The same in words that no container owns.
    fn description(&self, timescale: u32) -> Result<Description, VideoError> {
        let kind = match self.codec.as_str() {
            "V_MPEG4/ISO/AVC" | "V_MPEG/ISO/AVC" => Kind::H264,
            "V_MPEGH/ISO/HEVC" => Kind::H265,
            "V_AV1" => Kind::Av1,
            codec if codec == "A_AAC" || codec.starts_with("A_AAC/") => Kind::Aac,
            "A_OPUS" => Kind::Opus,
            // `WAVEFORMATEX`: its first two bytes say which law.
            "A_MS/ACM" => match self.private.first_chunk::<2>().map(|tag| u16::from_le_bytes(*tag)) {
                Some(6) => Kind::Alaw,
                Some(7) => Kind::Mulaw,
                _ => return Err(invalid(self.at, "A_MS/ACM is taken where it is G.711 (a-law or mu-law)")),
            },
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
        Ok(Description {
            id: self.number as u32,
            kind,
            private: self.private.clone(),
            width: self.width.min(65_535) as u16,
            height: self.height.min(65_535) as u16,
            // The field has 16 bits; what is faster says 0, and its codec knows.
            rate: if (1.0..65_536.0).contains(&self.rate) { self.rate as u16 } else { 0 },
            channels: self.channels.clamp(1, 64) as u16,
            timescale,
        })
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
    let described =
        entries.iter().map(|entry| entry.description(timescale)).collect::<Result<Vec<_>, _>>()?;
    let (config, tracks) = describe::configuration(&described).map_err(|error| match error {
        DescribeError::TooLarge { bytes, max } => {
            VideoError::TooLarge { what: "a description of tracks", bytes, max }
        }
        DescribeError::Track { place, why } => {
            invalid(entries[place].at, format!("the CodecPrivate of {why}"))
        }
        DescribeError::Moov(why) => invalid(element.at, why),
    })?;
    Ok(Tracks { entries, config: Arc::new(config), tracks })
}
