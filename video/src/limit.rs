//! Every bound of video, each with its sentence.

use protocol::limit::{BATCH_RAW_BYTES_MAX, RECORD_BYTES_MAX};

/// A stream has at most three tracks (Kinesis Video Streams, PutMedia limits).
pub const TRACKS_MAX: usize = 3;

/// A fragment is cut at the next keyframe; where none comes, after this long (Kinesis Video Streams: 20 s).
pub const FRAGMENT_MS_MAX: u64 = 20_000;

/// ... or when it has this many bytes: what is larger is cut between frames and goes on in the next fragment.
pub const FRAGMENT_BYTES_MAX: usize = BATCH_RAW_BYTES_MAX - 768 * 1024;

/// ... or this many frames, so that its index is small.
pub const FRAGMENT_FRAMES_MAX: usize = 8192;

/// Without a video track a fragment is cut after this long.
pub const AUDIO_FRAGMENT_MS: u64 = 2000;

/// A frame is never longer than a record may be, with the head of a fragment before it.
pub const FRAME_BYTES_MAX: usize = RECORD_BYTES_MAX - HEAD_BYTES_MAX;

/// The head of a fragment: its configuration, and a few bytes for each frame.
pub const HEAD_BYTES_MAX: usize = 256 * 1024;

/// A configuration (`moov`) is never longer.
pub const CONFIG_BYTES_MAX: usize = 128 * 1024;

/// What describes the frames of a whole film (its `moov`) is never longer: days of it.
pub const FILM_MOOV_BYTES_MAX: usize = 64 << 20;

/// What describes frames (`moof`) is never longer: it is held until they are there.
pub const MOOF_BYTES_MAX: usize = 4 << 20;

/// One `moof` describes at most this many frames: a few bytes may stand for millions that are all alike.
pub const MOOF_FRAMES_MAX: usize = MOOF_BYTES_MAX / 16;

/// Descriptions of groups of frames (`sgpd`): frames name them by 16 bits. They may be empty, so their count is no matter of
/// bytes.
pub const GROUPS_MAX: u32 = 65_535;

/// Frames of one `moof` together are never longer: they are held until all of them are there.
pub const MDAT_BYTES_MAX: usize = 52 << 20;

/// Boxes within boxes.
pub const BOX_DEPTH_MAX: usize = 16;

/// Boxes of one tree.
pub const BOXES_MAX: usize = 100_000;

/// Where decode times of frames that follow differ by more, something is missing (Kinesis Video Streams, HLS: 50 ms).
pub const GAP_MS: i64 = 50;

/// The header of a Matroska document, and what says how its times count, are never longer.
pub const MKV_HEAD_BYTES_MAX: usize = 4096;

/// Tags are read up to this length (a fragment of Kinesis Video Streams has ten of them); longer ones are passed over.
pub const MKV_TAGS_BYTES_MAX: usize = 64 * 1024;

/// An element that nobody here reads (attachments, cues) is passed over if it is not longer.
pub const MKV_SKIP_BYTES_MAX: u64 = 64 << 20;

/// Times end with the year 9999: what is later is no time.
pub const MKV_TIME_MS_MAX: i64 = 253_402_300_799_999;

/// Frames that wait for their decode time, of all tracks: where one track stops, the others do not wait for ever.
pub const WAITING_MAX: usize = 2048;
