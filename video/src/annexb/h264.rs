//! What H.264 (ITU-T H.264) says about its pictures: parameter sets as `avcC`, and of a slice what tells where an access unit
//! begins and when it is shown. Pure. Never: bytes between units, times.

use std::collections::BTreeMap;

use h264_reader::nal::sps::{ChromaFormat, FrameMbsFlags, PicOrderCntType, SeqParameterSet};
use h264_reader::rbsp::{BitRead, BitReader, ByteReader};

use super::Rate;
use super::pictures::{About, Place, Unit};
use crate::describe::Kind;

/// Pictures of one stream use a few; ids up to 31 and 255 are allowed.
const SETS_MAX: usize = 64;

/// Parameter sets, by their ids.
#[derive(Debug, Default)]
pub(super) struct H264 {
    sps: BTreeMap<u32, (Vec<u8>, SeqParameterSet)>,
    /// With the id of the sequence parameter set that each refers to.
    pps: BTreeMap<u32, (Vec<u8>, u32)>,
    /// Of the reference picture before (8.2.1.1).
    before: (i64, i64),
}

fn bits(unit: &[u8]) -> BitReader<ByteReader<&[u8]>> {
    BitReader::new(ByteReader::skipping_h264_header(unit))
}

impl H264 {
    /// What a unit is; parameter sets are kept.
    pub(super) fn take(&mut self, unit: &[u8]) -> Result<Unit, String> {
        let Some(head) = unit.first() else { return Ok(Unit::Nothing) };
        match head & 0x1f {
            1 | 5 => self.slice(unit),
            2..=4 => Err("H.264 with data partitioning is not taken".to_owned()),
            6 => Ok(Unit::Before),
            7 => self.sequence(unit),
            8 => self.picture(unit),
            9 => Ok(Unit::Begin),
            // Ends and filling.
            10..=12 => Ok(Unit::Nothing),
            14..=18 => Ok(Unit::Begin),
            _ => Ok(Unit::Nothing),
        }
    }

    fn sequence(&mut self, unit: &[u8]) -> Result<Unit, String> {
        let sps = SeqParameterSet::from_bits(bits(unit))
            .map_err(|error| format!("a sequence parameter set that can't be read ({error:?})"))?;
        let id = u32::from(sps.seq_parameter_set_id.id());
        if self.sps.len() >= SETS_MAX && !self.sps.contains_key(&id) {
            return Err("too many sequence parameter sets".to_owned());
        }
        let new = self.sps.get(&id).is_none_or(|known| known.0 != unit);
        if new {
            self.sps.insert(id, (unit.to_vec(), sps));
        }
        Ok(Unit::Set { new })
    }

    fn picture(&mut self, unit: &[u8]) -> Result<Unit, String> {
        let why = |error| format!("a picture parameter set that can't be read ({error:?})");
        let mut bits = bits(unit);
        let id = bits.read_ue("pic_parameter_set_id").map_err(why)?;
        let of = bits.read_ue("seq_parameter_set_id").map_err(why)?;
        if id > 255 || self.pps.len() >= SETS_MAX && !self.pps.contains_key(&id) {
            return Err("too many picture parameter sets".to_owned());
        }
        let new = self.pps.get(&id).is_none_or(|known| known.0 != unit);
        if new {
            self.pps.insert(id, (unit.to_vec(), of));
        }
        Ok(Unit::Set { new })
    }

    /// The header of a slice (7.3.3), as far as it is needed.
    fn slice(&mut self, unit: &[u8]) -> Result<Unit, String> {
        let why = |error| format!("a slice header that can't be read ({error:?})");
        let (idr, reference) = (unit[0] & 0x1f == 5, unit[0] & 0x60 != 0);
        let mut bits = bits(unit);
        let first = bits.read_ue("first_mb_in_slice").map_err(why)? == 0;
        if !first {
            return Ok(Unit::More);
        }
        let _ = bits.read_ue("slice_type").map_err(why)?;
        let pps = bits.read_ue("pic_parameter_set_id").map_err(why)?;
        // A picture whose parameter sets have not come yet can't be shown.
        let Some((_, of)) = self.pps.get(&pps) else { return Ok(Unit::Unknown) };
        let Some((_, sps)) = self.sps.get(of) else { return Ok(Unit::Unknown) };
        if sps.chroma_info.separate_colour_plane_flag {
            bits.skip(2, "colour_plane_id").map_err(why)?;
        }
        bits.skip(u32::from(sps.log2_max_frame_num()), "frame_num").map_err(why)?;
        if sps.frame_mbs_flags != FrameMbsFlags::Frames && bits.read_bool("field_pic_flag").map_err(why)? {
            return Err(
                "H.264 whose pictures are single fields (PAFF) is not taken: set the camera to progressive"
                    .into(),
            );
        }
        if idr {
            let _ = bits.read_ue("idr_pic_id").map_err(why)?;
        }
        let order = match sps.pic_order_cnt {
            PicOrderCntType::TypeZero { log2_max_pic_order_cnt_lsb_minus4 } => {
                let length = u32::from(log2_max_pic_order_cnt_lsb_minus4) + 4;
                let lsb = i64::from(bits.read::<u32>(length, "pic_order_cnt_lsb").map_err(why)?);
                let before = if idr { (0, 0) } else { self.before };
                let order = super::order_of(lsb, before, 1 << length);
                if reference {
                    self.before = (order - lsb, lsb);
                }
                Some(order)
            }
            // Shown in the order in which they are decoded (8.2.1.3).
            PicOrderCntType::TypeTwo => None,
            PicOrderCntType::TypeOne { .. } => {
                return Err("H.264 with picture order count type 1 is not taken".to_owned());
            }
        };
        Ok(Unit::First(Place { key: idr, restarts: idr, order }))
    }

    /// What the pictures are made with; `None` while parameter sets are missing.
    pub(super) fn about(&self) -> Option<About> {
        let (_, (raw, sps)) = self.sps.first_key_value()?;
        if self.pps.is_empty() || raw.len() < 4 {
            return None;
        }
        let (width, height) = sps.pixel_dimensions().ok()?;
        // ISO/IEC 14496-15, 5.3.3.1.2.
        let mut private = vec![1, raw[1], raw[2], raw[3], 0xff, 0xe0 | self.sps.len().min(31) as u8];
        for (set, _) in self.sps.values().take(31) {
            put(&mut private, set);
        }
        private.push(self.pps.len() as u8);
        for (set, _) in self.pps.values() {
            put(&mut private, set);
        }
        if matches!(raw[1], 100 | 110 | 122 | 144 | 244 | 44 | 83 | 86 | 118 | 128 | 134 | 138 | 139) {
            let chroma = match sps.chroma_info.chroma_format {
                ChromaFormat::Monochrome => 0,
                ChromaFormat::YUV422 => 2,
                ChromaFormat::YUV444 => 3,
                _ => 1,
            };
            let (luma, other) =
                (sps.chroma_info.bit_depth_luma_minus8, sps.chroma_info.bit_depth_chroma_minus8);
            private.extend_from_slice(&[0xfc | chroma, 0xf8 | luma & 7, 0xf8 | other & 7, 0]);
        }
        let timing = sps.vui_parameters.as_ref().and_then(|vui| vui.timing_info.as_ref());
        // A tick is a field (E.2.1).
        let rate = timing.and_then(|timing| {
            Rate::new(u64::from(timing.time_scale), u64::from(timing.num_units_in_tick) * 2)
        });
        Some(About { kind: Kind::H264, private, width, height, rate })
    }
}

fn put(out: &mut Vec<u8>, set: &[u8]) {
    let length = set.len().min(usize::from(u16::MAX));
    out.extend_from_slice(&[(length >> 8) as u8, length as u8]);
    out.extend_from_slice(&set[..length]);
}

#[cfg(test)]
mod tests {
    use super::super::tests::Written;
    use super::*;

    /// Reaches `SETS_MAX`.
    #[test]
    fn no_more_parameter_sets_are_kept_than_may_be() {
        let mut known = H264::default();
        let set = |id: usize| Written::after(&[0x68]).ue(id as u32).ue(0).one(1, 1).bytes();
        for id in 0..SETS_MAX {
            assert_eq!(known.take(&set(id)), Ok(Unit::Set { new: true }));
        }
        assert!(known.take(&set(SETS_MAX)).unwrap_err().contains("too many"));
        assert_eq!((known.take(&set(0)), known.pps.len()), (Ok(Unit::Set { new: false }), SETS_MAX));
    }
}
