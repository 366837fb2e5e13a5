//! The ids of the elements of Matroska that anything here reads, writes or may pass over (RFC 9559, section 5.1).

pub(super) const EBML: u32 = 0x1a45_dfa3;
pub(super) const DOC_TYPE: u32 = 0x4282;
pub(super) const SEGMENT: u32 = 0x1853_8067;
pub(super) const INFO: u32 = 0x1549_a966;
pub(super) const TIMECODE_SCALE: u32 = 0x2a_d7b1;
pub(super) const TRACKS: u32 = 0x1654_ae6b;
pub(super) const TRACK_ENTRY: u32 = 0xae;
pub(super) const TRACK_NUMBER: u32 = 0xd7;
pub(super) const TRACK_TYPE: u32 = 0x83;
pub(super) const CODEC_ID: u32 = 0x86;
pub(super) const CODEC_PRIVATE: u32 = 0x63a2;
pub(super) const DEFAULT_DURATION: u32 = 0x23_e383;
pub(super) const CONTENT_ENCODINGS: u32 = 0x6d80;
pub(super) const VIDEO: u32 = 0xe0;
pub(super) const PIXEL_WIDTH: u32 = 0xb0;
pub(super) const PIXEL_HEIGHT: u32 = 0xba;
pub(super) const AUDIO: u32 = 0xe1;
pub(super) const SAMPLING_FREQUENCY: u32 = 0xb5;
pub(super) const CHANNELS: u32 = 0x9f;
pub(super) const CLUSTER: u32 = 0x1f43_b675;
pub(super) const TIMECODE: u32 = 0xe7;
pub(super) const SIMPLE_BLOCK: u32 = 0xa3;
pub(super) const BLOCK_GROUP: u32 = 0xa0;
pub(super) const BLOCK: u32 = 0xa1;
pub(super) const BLOCK_DURATION: u32 = 0x9b;
pub(super) const REFERENCE_BLOCK: u32 = 0xfb;
pub(super) const TAGS: u32 = 0x1254_c367;
pub(super) const TAG: u32 = 0x7373;
pub(super) const SIMPLE_TAG: u32 = 0x67c8;
pub(super) const TAG_NAME: u32 = 0x45a3;

const VOID: u32 = 0xec;
const CRC32: u32 = 0xbf;
const SEEK_HEAD: u32 = 0x114d_9b74;
const CUES: u32 = 0x1c53_bb6b;
const CHAPTERS: u32 = 0x1043_a770;
const ATTACHMENTS: u32 = 0x1941_a469;
const POSITION: u32 = 0xa7;
const PREV_SIZE: u32 = 0xab;
const SILENT_TRACKS: u32 = 0x5854;

/// What an element is called that may stand in a document, a segment or a cluster; nothing for any other.
pub(super) fn name(id: u32) -> &'static str {
    match id {
        EBML => "the EBML header",
        SEGMENT => "a Segment",
        INFO => "an Info",
        TRACKS => "a Tracks",
        CLUSTER => "a Cluster",
        TIMECODE => "a Timecode",
        SIMPLE_BLOCK => "a SimpleBlock",
        BLOCK_GROUP => "a BlockGroup",
        TAGS => "a Tags",
        VOID => "a Void",
        CRC32 => "a CRC-32",
        SEEK_HEAD => "a SeekHead",
        CUES => "a Cues",
        CHAPTERS => "a Chapters",
        ATTACHMENTS => "an Attachments",
        POSITION => "a Position",
        PREV_SIZE => "a PrevSize",
        SILENT_TRACKS => "a SilentTracks",
        _ => "",
    }
}

/// Elements that may stand anywhere.
pub(super) fn is_anywhere(id: u32) -> bool {
    matches!(id, VOID | CRC32)
}

/// Elements of a cluster.
pub(super) fn is_in_cluster(id: u32) -> bool {
    matches!(id, TIMECODE | SIMPLE_BLOCK | BLOCK_GROUP | POSITION | PREV_SIZE | SILENT_TRACKS)
}
