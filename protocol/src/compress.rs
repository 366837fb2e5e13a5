//! Compression of a batch's payload, once, by whoever makes the batch. Pure.
//!
//! lz4 is the block format without a size prefix (the frame's header has the size); zstd is one frame.

use serde::{Deserialize, Serialize};

/// How a payload is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// As it is.
    None,
    /// lz4 block (`lz4_flex`): where CPU costs more than bytes.
    #[default]
    Lz4,
    /// zstd level 1: where bytes cost more than CPU.
    Zstd,
}

impl Codec {
    /// The byte in the frame's header.
    #[must_use]
    pub const fn to_byte(self) -> u8 {
        match self {
            Codec::None => 0,
            Codec::Lz4 => 1,
            Codec::Zstd => 2,
        }
    }

    /// The codec of a byte, if there is one.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Codec> {
        match byte {
            0 => Some(Codec::None),
            1 => Some(Codec::Lz4),
            2 => Some(Codec::Zstd),
            _ => None,
        }
    }
}

/// What can be wrong with a compressed payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompressError {
    /// It does not decode.
    #[error("{codec:?} payload does not decode: {why}")]
    Corrupt {
        /// Which codec.
        codec: Codec,
        /// What its library says.
        why: String,
    },
    /// It decodes to another length than the header says.
    #[error("payload is {got} bytes long after {codec:?}, its header says {want}")]
    WrongLength {
        /// Which codec.
        codec: Codec,
        /// By the header.
        want: usize,
        /// By the data.
        got: usize,
    },
}

/// A compressor with its working memory, so that a batch costs no allocation.
pub struct Compressor {
    codec: Codec,
    zstd: Option<zstd::bulk::Compressor<'static>>,
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compressor").field("codec", &self.codec).finish_non_exhaustive()
    }
}

impl Compressor {
    /// A compressor for one codec.
    #[must_use]
    pub fn new(codec: Codec) -> Compressor {
        Compressor { codec, zstd: None }
    }

    /// Appends `raw` to `out`, compressed; as it is where compression does not make it smaller.
    /// Returns what was done.
    pub fn compress(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Codec {
        let start = out.len();
        let done = match self.codec {
            Codec::None => None,
            Codec::Lz4 => {
                out.resize(start + lz4_flex::block::get_maximum_output_size(raw.len()), 0);
                lz4_flex::block::compress_into(raw, &mut out[start..]).ok()
            }
            Codec::Zstd => {
                out.resize(start + zstd::zstd_safe::compress_bound(raw.len()), 0);
                self.zstd().and_then(|z| z.compress_to_buffer(raw, &mut out[start..]).ok())
            }
        };
        match done {
            Some(len) if len < raw.len() => {
                out.truncate(start + len);
                self.codec
            }
            _ => {
                out.truncate(start);
                out.extend_from_slice(raw);
                Codec::None
            }
        }
    }

    fn zstd(&mut self) -> Option<&mut zstd::bulk::Compressor<'static>> {
        if self.zstd.is_none() {
            self.zstd = zstd::bulk::Compressor::new(1).ok();
        }
        self.zstd.as_mut()
    }
}

/// A byte of an LZ4 block stands for at most so many.
const LZ4_RATIO_MAX: usize = 255;

/// What can't come to the length that it says is refused before anything is allocated for it: a few bytes should not cost
/// ten MiB of cleared memory.
fn refuse_lie(codec: Codec, stored: &[u8], raw_len: usize) -> Result<(), CompressError> {
    let got = match codec {
        Codec::None => return Ok(()),
        Codec::Lz4 => raw_len.min(stored.len().saturating_mul(LZ4_RATIO_MAX)),
        // Its own header may say it; where it does not, unpacking tells.
        Codec::Zstd => match zstd::zstd_safe::get_frame_content_size(stored) {
            Ok(Some(says)) => usize::try_from(says).unwrap_or(usize::MAX),
            _ => return Ok(()),
        },
    };
    if got == raw_len { Ok(()) } else { Err(CompressError::WrongLength { codec, want: raw_len, got }) }
}

/// Decodes a payload into `out` (cleared first), which must come to exactly `raw_len` bytes. The caller has
/// bounded `raw_len`; a bomb fails as too long without being unpacked further.
///
/// # Errors
/// When it does not decode, or to another length.
pub fn decompress(
    codec: Codec,
    stored: &[u8],
    raw_len: usize,
    out: &mut Vec<u8>,
) -> Result<(), CompressError> {
    let corrupt = |why: String| CompressError::Corrupt { codec, why };
    out.clear();
    refuse_lie(codec, stored, raw_len)?;
    let got = match codec {
        Codec::None => {
            if stored.len() == raw_len {
                out.extend_from_slice(stored);
            }
            stored.len()
        }
        Codec::Lz4 => {
            out.resize(raw_len, 0);
            lz4_flex::block::decompress_into(stored, out).map_err(|e| corrupt(e.to_string()))?
        }
        Codec::Zstd => {
            out.resize(raw_len, 0);
            zstd::bulk::decompress_to_buffer(stored, out.as_mut_slice())
                .map_err(|e| corrupt(e.to_string()))?
        }
    };
    if got == raw_len { Ok(()) } else { Err(CompressError::WrongLength { codec, want: raw_len, got }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn sample(len: usize, seed: u64) -> Vec<u8> {
        let mut rng = Rng::new(seed);
        (0..len).map(|i| if i % 3 == 0 { rng.below(256) as u8 } else { b'a' + (i % 7) as u8 }).collect()
    }

    #[test]
    fn every_codec_gives_back_what_it_took() {
        for codec in [Codec::None, Codec::Lz4, Codec::Zstd] {
            let mut compressor = Compressor::new(codec);
            for len in [0, 1, 20, 1000, 300_000] {
                let raw = sample(len, len as u64);
                let (mut stored, mut back) = (vec![9, 9], Vec::new());
                let used = compressor.compress(&raw, &mut stored);
                decompress(used, &stored[2..], raw.len(), &mut back).unwrap();
                assert_eq!(back, raw);
            }
        }
    }

    #[test]
    fn a_payload_that_is_longer_or_shorter_than_it_says_is_refused() {
        for codec in [Codec::None, Codec::Lz4, Codec::Zstd] {
            let raw = vec![7u8; 100_000];
            let (mut stored, mut out) = (Vec::new(), Vec::new());
            let used = Compressor::new(codec).compress(&raw, &mut stored);
            for wrong in [0, 10, 99_999, 100_001] {
                assert!(decompress(used, &stored, wrong, &mut out).is_err(), "{codec:?} {wrong}");
            }
        }
    }

    /// Reaches `LZ4_RATIO_MAX`.
    #[test]
    fn lz4_is_believed_as_much_as_its_bytes_can_stand_for_and_no_more() {
        let (stored, most) = ([0; 10], 10 * LZ4_RATIO_MAX);
        assert_eq!(refuse_lie(Codec::Lz4, &stored, most), Ok(()));
        let refused = CompressError::WrongLength { codec: Codec::Lz4, want: most + 1, got: most };
        assert_eq!(refuse_lie(Codec::Lz4, &stored, most + 1), Err(refused));
        // Nothing comes closer to the ratio than bytes that are all the same.
        let (raw, mut packed, mut back) = (vec![0; 10 << 20], Vec::new(), Vec::new());
        assert_eq!(Compressor::new(Codec::Lz4).compress(&raw, &mut packed), Codec::Lz4);
        assert!(packed.len() < raw.len() / 250);
        decompress(Codec::Lz4, &packed, raw.len(), &mut back).unwrap();
    }
}
