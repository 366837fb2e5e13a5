//! Video as records: a fragment is a batch whose records are its frames. What a fragment holds ([`fragment`]), how
//! containers are taken apart ([`demux`], [`film`], [`mkv`], [`ts`], [`annexb`]) and made ([`mux`]), and what codecs want ([`codec`]). Pure: bytes in,
//! values out. Never in here: streams, sockets, files, clocks.

pub mod annexb;
pub mod codec;
pub mod container;
pub mod cut;
pub mod data;
pub mod demux;
pub mod describe;
pub mod film;
pub mod fragment;
mod lane;
pub mod limit;
pub mod live;
pub mod mkv;
pub mod mux;
mod order;
pub mod pool;
pub mod tree;
pub mod ts;

/// Why video can't be taken. The number is what the Kinesis Video Streams API calls it (PutMedia, `ErrorId`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VideoError {
    /// A frame, or what surrounds frames, is larger than it may be.
    #[error("{what} has {bytes} bytes, at most {max} are taken")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large it says that it is.
        bytes: u64,
        /// The bound.
        max: u64,
    },
    /// More tracks than [`limit::TRACKS_MAX`].
    #[error("{0} tracks, at most {max} are taken", max = limit::TRACKS_MAX)]
    TooManyTracks(usize),
    /// What comes is not what it should be.
    #[error("byte {at}: {why}")]
    Invalid {
        /// Where, from the start of what came.
        at: u64,
        /// What is wrong, and what to do.
        why: String,
    },
    /// Frames of a track that was never described.
    #[error("byte {at}: frames of track {track}, which nothing has described")]
    UnknownTrack {
        /// Where, from the start of what came.
        at: u64,
        /// Its id.
        track: u32,
    },
    /// A stored fragment can't be read.
    #[error("fragment head: {0}")]
    Head(&'static str),
}

impl VideoError {
    /// What the Kinesis Video Streams API calls it.
    #[must_use]
    pub fn id(&self) -> (u32, &'static str) {
        match self {
            VideoError::TooLarge { .. } => (4001, "MAX_FRAGMENT_SIZE_REACHED"),
            VideoError::TooManyTracks(_) => (4005, "MORE_THAN_ALLOWED_TRACKS_FOUND"),
            VideoError::UnknownTrack { .. } => (4010, "TRACK_NUMBER_MISMATCH"),
            VideoError::Invalid { .. } | VideoError::Head(_) => (4006, "INVALID_MKV_DATA"),
        }
    }
}
