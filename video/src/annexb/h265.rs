//! What H.265 (ITU-T H.265) says about its pictures: parameter sets as `hvcC`, and of a slice what tells where an access unit
//! begins and when it is shown. Pure. Never: bytes between units, times.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use h264_reader::rbsp::{BitRead, BitReader, BitReaderError, ByteReader};

use super::Rate;
use super::pictures::{About, Place, Unit};
use crate::describe::Kind;

/// Ids of video and sequence parameter sets go up to 15, those of pictures to 63.
const SETS_MAX: u32 = 64;
/// Short-term reference picture sets of a sequence (7.4.3.2.1).
const REFERENCE_SETS_MAX: u32 = 64;
/// Pictures in a reference picture set: the decoded picture buffer has 16 (A.4.2).
const REFERENCES_MAX: u32 = 16;

type Bits<'a> = BitReader<ByteReader<&'a [u8]>>;

fn bits(unit: &[u8]) -> Bits<'_> {
    BitReader::new(ByteReader::skipping_bytes(unit, NonZeroUsize::MIN.saturating_add(1)))
}

/// What is needed of a sequence parameter set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Sequence {
    id: u32,
    /// `general_profile_space` to `general_level_idc`, as they stand in both.
    profile: [u8; 12],
    layers: u32,
    nested: bool,
    chroma: u32,
    planes: bool,
    width: u32,
    height: u32,
    depth: (u32, u32),
    order_bits: u32,
    rate: Option<Rate>,
}

#[derive(Debug)]
struct Picture {
    raw: Vec<u8>,
    of: u32,
    output_flag: bool,
    extra_bits: u32,
}

/// Parameter sets, by their ids.
#[derive(Debug, Default)]
pub(super) struct H265 {
    vps: BTreeMap<u32, Vec<u8>>,
    sps: BTreeMap<u32, (Vec<u8>, Sequence)>,
    pps: BTreeMap<u32, Picture>,
    /// Of the picture before that others may need (8.3.1).
    before: (i64, i64),
    begun: bool,
}

impl H265 {
    /// What a unit is; parameter sets are kept.
    pub(super) fn take(&mut self, unit: &[u8]) -> Result<Unit, String> {
        let [head, next, ..] = unit else { return Ok(Unit::Nothing) };
        let (kind, layer) = (head >> 1 & 0x3f, (head & 1) << 5 | next >> 3);
        if layer > 0 {
            // Of another layer, which nobody who reads this one needs.
            return Ok(Unit::Nothing);
        }
        let set = |what: &str, error: Option<BitReaderError>| match error {
            Some(error) => format!("a {what} parameter set that can't be read ({error:?})"),
            None => format!("a {what} parameter set with values that are not allowed"),
        };
        match kind {
            0..=9 | 16..=21 => self.slice(unit, kind, next & 7),
            32 => {
                let id = bits(unit).read::<u32>(4, "vps_id").map_err(|e| set("video", Some(e)))?;
                let new = self.vps.get(&id).is_none_or(|known| known != unit);
                self.vps.insert(id, unit.to_vec());
                Ok(Unit::Set { new })
            }
            33 => {
                let sps = sequence(unit).map_err(|error| set("sequence", error))?;
                let new = self.sps.get(&sps.id).is_none_or(|known| known.0 != unit);
                self.sps.insert(sps.id, (unit.to_vec(), sps));
                Ok(Unit::Set { new })
            }
            34 => {
                let (id, pps) = picture(unit).map_err(|error| set("picture", error))?;
                let new = self.pps.get(&id).is_none_or(|known| known.raw != pps.raw);
                self.pps.insert(id, pps);
                Ok(Unit::Set { new })
            }
            35 => Ok(Unit::Begin),
            39 => Ok(Unit::Before),
            // After the picture that it is about.
            40 => Ok(Unit::More),
            41..=44 | 48..=55 => Ok(Unit::Begin),
            _ => Ok(Unit::Nothing),
        }
    }

    /// The header of a slice segment (7.3.6.1), as far as it is needed.
    fn slice(&mut self, unit: &[u8], kind: u8, temporal: u8) -> Result<Unit, String> {
        let why = |error| format!("a slice header that can't be read ({error:?})");
        let mut bits = bits(unit);
        if !bits.read_bool("first_slice_segment_in_pic_flag").map_err(why)? {
            return Ok(Unit::More);
        }
        let key = (16..=23).contains(&kind);
        if key {
            bits.skip(1, "no_output_of_prior_pics_flag").map_err(why)?;
        }
        let pps = bits.read_ue("slice_pic_parameter_set_id").map_err(why)?;
        let Some(pps) = self.pps.get(&pps) else { return Ok(Unit::Unknown) };
        let Some((_, sps)) = self.sps.get(&pps.of) else { return Ok(Unit::Unknown) };
        bits.skip(pps.extra_bits, "slice_reserved_flag").map_err(why)?;
        let _ = bits.read_ue("slice_type").map_err(why)?;
        if pps.output_flag {
            bits.skip(1, "pic_output_flag").map_err(why)?;
        }
        if sps.planes {
            bits.skip(2, "colour_plane_id").map_err(why)?;
        }
        let idr = matches!(kind, 19 | 20);
        let lsb =
            if idr { 0 } else { bits.read::<u32>(sps.order_bits, "slice_pic_order_cnt_lsb").map_err(why)? };
        let lsb = i64::from(lsb);
        // Order begins anew at these, and at the first picture (8.1.3, NoRaslOutputFlag).
        let restarts = idr || (16..=18).contains(&kind) || key && !self.begun;
        let order = if restarts { lsb } else { super::order_of(lsb, self.before, 1 << sps.order_bits) };
        self.begun |= key;
        let counts = temporal == 1 && !(6..=9).contains(&kind) && (kind >= 16 || kind & 1 == 1);
        if counts {
            self.before = (order - lsb, lsb);
        }
        Ok(Unit::First(Place { key, restarts, order: Some(order) }))
    }

    /// What the pictures are made with; `None` while parameter sets are missing.
    pub(super) fn about(&self) -> Option<About> {
        let (_, (_, sps)) = self.sps.first_key_value()?;
        if self.pps.is_empty() || self.vps.is_empty() {
            return None;
        }
        // ISO/IEC 14496-15, 8.3.3.1.2.
        let mut private = vec![1];
        private.extend_from_slice(&sps.profile);
        private.extend_from_slice(&[0xf0, 0, 0xfc, 0xfc | sps.chroma as u8]);
        private.extend_from_slice(&[0xf8 | sps.depth.0 as u8 & 7, 0xf8 | sps.depth.1 as u8 & 7, 0, 0]);
        private.push((sps.layers as u8 & 7) << 3 | u8::from(sps.nested) << 2 | 3);
        private.push(3);
        put(&mut private, 32, self.vps.values());
        put(&mut private, 33, self.sps.values().map(|known| &known.0));
        put(&mut private, 34, self.pps.values().map(|known| &known.raw));
        Some(About { kind: Kind::H265, private, width: sps.width, height: sps.height, rate: sps.rate })
    }
}

/// All sets of a kind.
fn put<'a>(out: &mut Vec<u8>, kind: u8, sets: impl ExactSizeIterator<Item = &'a Vec<u8>>) {
    out.extend_from_slice(&[0x80 | kind, 0, sets.len() as u8]);
    for set in sets {
        let length = set.len().min(usize::from(u16::MAX));
        out.extend_from_slice(&[(length >> 8) as u8, length as u8]);
        out.extend_from_slice(&set[..length]);
    }
}

fn picture(unit: &[u8]) -> Result<(u32, Picture), Option<BitReaderError>> {
    let mut bits = bits(unit);
    let id = ue(&mut bits, "pps_pic_parameter_set_id", SETS_MAX - 1)?;
    let of = ue(&mut bits, "pps_seq_parameter_set_id", 15)?;
    bits.skip(1, "dependent_slice_segments_enabled_flag")?;
    let output_flag = bits.read_bool("output_flag_present_flag")?;
    let extra_bits = bits.read::<u32>(3, "num_extra_slice_header_bits")?;
    Ok((id, Picture { raw: unit.to_vec(), of, output_flag, extra_bits }))
}

/// A number that is bounded.
fn ue(bits: &mut Bits<'_>, name: &'static str, max: u32) -> Result<u32, Option<BitReaderError>> {
    let value = bits.read_ue(name)?;
    if value > max { Err(None) } else { Ok(value) }
}

fn sequence(unit: &[u8]) -> Result<Sequence, Option<BitReaderError>> {
    let mut bits = bits(unit);
    bits.skip(4, "sps_video_parameter_set_id")?;
    let more_layers = bits.read::<u32>(3, "sps_max_sub_layers_minus1")?;
    let nested = bits.read_bool("sps_temporal_id_nesting_flag")?;
    let mut profile = [0; 12];
    for byte in &mut profile {
        *byte = bits.read::<u8>(8, "profile_tier_level")?;
    }
    sub_layers(&mut bits, more_layers)?;
    let mut sps = Sequence { profile, layers: more_layers + 1, nested, ..Sequence::default() };
    sps.id = ue(&mut bits, "sps_seq_parameter_set_id", 15)?;
    sps.chroma = ue(&mut bits, "chroma_format_idc", 3)?;
    if sps.chroma == 3 {
        sps.planes = bits.read_bool("separate_colour_plane_flag")?;
    }
    sps.width = ue(&mut bits, "pic_width_in_luma_samples", 65_535)?;
    sps.height = ue(&mut bits, "pic_height_in_luma_samples", 65_535)?;
    if bits.read_bool("conformance_window_flag")? {
        let mut window = [0; 4];
        for side in &mut window {
            *side = ue(&mut bits, "conf_win_offset", 65_535)?;
        }
        // Table 6-1.
        let (across, down) =
            (if matches!(sps.chroma, 1 | 2) { 2 } else { 1 }, if sps.chroma == 1 { 2 } else { 1 });
        sps.width = sps.width.saturating_sub(across * (window[0] + window[1]));
        sps.height = sps.height.saturating_sub(down * (window[2] + window[3]));
    }
    sps.depth = (ue(&mut bits, "bit_depth_luma_minus8", 8)?, ue(&mut bits, "bit_depth_chroma_minus8", 8)?);
    sps.order_bits = ue(&mut bits, "log2_max_pic_order_cnt_lsb_minus4", 12)? + 4;
    // What follows is only for how fast pictures come: where it can't be read, nothing says it.
    sps.rate = rate(&mut bits, more_layers, sps.order_bits).unwrap_or(None);
    Ok(sps)
}

/// What `profile_tier_level` says of temporal layers (7.3.3).
fn sub_layers(bits: &mut Bits<'_>, count: u32) -> Result<(), BitReaderError> {
    let mut present = [(false, false); 8];
    for layer in present.iter_mut().take(count as usize) {
        *layer = (
            bits.read_bool("sub_layer_profile_present_flag")?,
            bits.read_bool("sub_layer_level_present_flag")?,
        );
    }
    if count > 0 {
        bits.skip(2 * (8 - count), "reserved_zero_2bits")?;
    }
    for (profile, level) in present.into_iter().take(count as usize) {
        bits.skip(if profile { 88 } else { 0 } + if level { 8 } else { 0 }, "sub_layer")?;
    }
    Ok(())
}

/// The rest of a sequence parameter set, up to `vui_timing_info` (7.3.2.2, E.2.1).
fn rate(
    bits: &mut Bits<'_>,
    more_layers: u32,
    order_bits: u32,
) -> Result<Option<Rate>, Option<BitReaderError>> {
    let all = bits.read_bool("sps_sub_layer_ordering_info_present_flag")?;
    for _ in if all { 0 } else { more_layers }..=more_layers {
        for name in
            ["sps_max_dec_pic_buffering_minus1", "sps_max_num_reorder_pics", "sps_max_latency_increase_plus1"]
        {
            let _ = bits.read_ue(name)?;
        }
    }
    for _ in 0..6 {
        let _ = bits.read_ue("block sizes")?;
    }
    if bits.read_bool("scaling_list_enabled_flag")? && bits.read_bool("sps_scaling_list_data_present_flag")? {
        scaling_lists(bits)?;
    }
    bits.skip(2, "amp, sample_adaptive_offset")?;
    if bits.read_bool("pcm_enabled_flag")? {
        bits.skip(8, "pcm_sample_bit_depth")?;
        let _ = bits.read_ue("log2_min_pcm_luma_coding_block_size_minus3")?;
        let _ = bits.read_ue("log2_diff_max_min_pcm_luma_coding_block_size")?;
        bits.skip(1, "pcm_loop_filter_disabled_flag")?;
    }
    let sets = ue(bits, "num_short_term_ref_pic_sets", REFERENCE_SETS_MAX)?;
    let mut before = 0;
    for place in 0..sets {
        before = reference_set(bits, place > 0, before)?;
    }
    if bits.read_bool("long_term_ref_pics_present_flag")? {
        for _ in 0..ue(bits, "num_long_term_ref_pics_sps", 32)? {
            bits.skip(order_bits + 1, "lt_ref_pic_poc_lsb_sps")?;
        }
    }
    bits.skip(2, "sps_temporal_mvp, strong_intra_smoothing")?;
    if !bits.read_bool("vui_parameters_present_flag")? {
        return Ok(None);
    }
    if bits.read_bool("aspect_ratio_info_present_flag")? && bits.read::<u8>(8, "aspect_ratio_idc")? == 255 {
        bits.skip(32, "sar")?;
    }
    if bits.read_bool("overscan_info_present_flag")? {
        bits.skip(1, "overscan_appropriate_flag")?;
    }
    if bits.read_bool("video_signal_type_present_flag")? {
        bits.skip(4, "video_format")?;
        if bits.read_bool("colour_description_present_flag")? {
            bits.skip(24, "colour_description")?;
        }
    }
    if bits.read_bool("chroma_loc_info_present_flag")? {
        let _ = (bits.read_ue("chroma_sample_loc_top")?, bits.read_ue("chroma_sample_loc_bottom")?);
    }
    bits.skip(3, "neutral_chroma, field_seq, frame_field_info")?;
    if bits.read_bool("default_display_window_flag")? {
        for _ in 0..4 {
            let _ = bits.read_ue("def_disp_win_offset")?;
        }
    }
    if !bits.read_bool("vui_timing_info_present_flag")? {
        return Ok(None);
    }
    let units = bits.read::<u32>(32, "vui_num_units_in_tick")?;
    let scale = bits.read::<u32>(32, "vui_time_scale")?;
    Ok(Rate::new(u64::from(scale), u64::from(units)))
}

/// 7.3.4.
fn scaling_lists(bits: &mut Bits<'_>) -> Result<(), Option<BitReaderError>> {
    for size in 0..4u32 {
        let step = if size == 3 { 3 } else { 1 };
        for _ in (0..6).step_by(step) {
            if !bits.read_bool("scaling_list_pred_mode_flag")? {
                let _ = bits.read_ue("scaling_list_pred_matrix_id_delta")?;
                continue;
            }
            if size > 1 {
                let _ = bits.read_se("scaling_list_dc_coef_minus8")?;
            }
            for _ in 0..64.min(1u32 << (4 + (size << 1))) {
                let _ = bits.read_se("scaling_list_delta_coef")?;
            }
        }
    }
    Ok(())
}

/// 7.3.7; returns how many pictures it has.
fn reference_set(bits: &mut Bits<'_>, may_predict: bool, before: u32) -> Result<u32, Option<BitReaderError>> {
    if may_predict && bits.read_bool("inter_ref_pic_set_prediction_flag")? {
        bits.skip(1, "delta_rps_sign")?;
        let _ = bits.read_ue("abs_delta_rps_minus1")?;
        let mut count = 0;
        for _ in 0..=before {
            let used = bits.read_bool("used_by_curr_pic_flag")?;
            count += u32::from(used || bits.read_bool("use_delta_flag")?);
        }
        return if count > REFERENCES_MAX { Err(None) } else { Ok(count) };
    }
    let negative = ue(bits, "num_negative_pics", REFERENCES_MAX)?;
    let positive = ue(bits, "num_positive_pics", REFERENCES_MAX)?;
    for _ in 0..negative + positive {
        let _ = bits.read_ue("delta_poc_minus1")?;
        bits.skip(1, "used_by_curr_pic_flag")?;
    }
    if negative + positive > REFERENCES_MAX { Err(None) } else { Ok(negative + positive) }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Written;
    use super::*;

    const HEAD: [u8; 2] = [0x44, 1];

    /// Reaches `SETS_MAX`.
    #[test]
    fn no_more_picture_parameter_sets_are_kept_than_there_are_ids() {
        let mut known = H265::default();
        let set = |id: u32| Written::after(&HEAD).ue(id).ue(0).one(5, 0).bytes();
        for id in 0..SETS_MAX {
            assert_eq!(known.take(&set(id)), Ok(Unit::Set { new: true }));
        }
        assert!(known.take(&set(SETS_MAX)).is_err());
        assert_eq!(known.pps.len(), SETS_MAX as usize);
    }

    /// Reaches `REFERENCES_MAX`.
    #[test]
    fn a_picture_refers_to_as_many_as_it_may_and_no_more() {
        let read = |negative: u32, positive: u32| {
            let mut unit = Written::after(&HEAD).ue(negative).ue(positive);
            for _ in 0..negative + positive {
                unit = unit.ue(0).one(1, 1);
            }
            let unit = unit.bytes();
            reference_set(&mut bits(&unit), false, 0).ok()
        };
        assert_eq!(read(REFERENCES_MAX, 0), Some(REFERENCES_MAX));
        assert_eq!(read(REFERENCES_MAX - 1, 1), Some(REFERENCES_MAX));
        assert_eq!(read(REFERENCES_MAX + 1, 0), None);
        assert_eq!(read(REFERENCES_MAX, 1), None);
    }

    /// Reaches `REFERENCE_SETS_MAX`.
    #[test]
    fn a_stream_has_as_many_sets_of_references_as_it_may_and_no_more() {
        let reads = |sets: u32| {
            // Up to the sets: orders of one layer, sizes of blocks, and nothing that is optional.
            let mut unit =
                (0..9).fold(Written::after(&HEAD).one(1, 1), |unit, _| unit.ue(0)).one(4, 0).ue(sets);
            for place in 0..sets {
                unit = if place > 0 { unit.one(1, 0) } else { unit }.ue(0).ue(0);
            }
            let unit = unit.one(4, 0).bytes();
            matches!(rate(&mut bits(&unit), 0, 4), Ok(None))
        };
        assert!(reads(REFERENCE_SETS_MAX));
        assert!(!reads(REFERENCE_SETS_MAX + 1));
    }
}
