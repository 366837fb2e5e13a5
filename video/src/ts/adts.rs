//! Sound in ADTS (ISO/IEC 14496-3, 1.A.3) as frames of AAC, however it comes. Holds one frame. Pure. Never: times.

use adts_reader::{AdtsHeader, AdtsHeaderError};

use crate::describe::{Description, Kind};

/// Samples of a frame (ISO/IEC 14496-3, 4.5.1.1); it has one block of them.
pub(super) const SAMPLES: u32 = 1024;
/// The shortest header.
const HEADER_BYTES: usize = 7;

/// What frames are made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct About {
    /// An AudioSpecificConfig (ISO/IEC 14496-3, 1.6.2.1).
    private: [u8; 2],
    /// Samples a second.
    pub(super) rate: u32,
    channels: u16,
}

impl About {
    /// As a track of this id.
    pub(super) fn description(&self, id: u32) -> Description {
        Description {
            id,
            kind: Kind::Aac,
            private: self.private.to_vec(),
            width: 0,
            height: 0,
            // What the field is too small for, the codec knows.
            rate: u16::try_from(self.rate).unwrap_or(0),
            channels: self.channels,
            timescale: self.rate,
        }
    }
}

/// One frame, and where it began.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sound {
    pub(super) about: About,
    pub(super) began: u64,
    pub(super) data: Vec<u8>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Adts {
    buffer: Vec<u8>,
    /// Bytes before the buffer.
    at: u64,
}

impl Adts {
    /// Takes more bytes, and gives the frames that they complete. What is no frame is passed over.
    ///
    /// # Errors
    /// When frames are of a kind that is not taken.
    pub(super) fn push(&mut self, bytes: &[u8], out: &mut Vec<Sound>) -> Result<(), String> {
        self.buffer.extend_from_slice(bytes);
        let mut from = 0;
        let mut done = Ok(());
        while self.buffer.len() - from >= HEADER_BYTES {
            let rest = &self.buffer[from..];
            let header = match AdtsHeader::from_bytes(rest) {
                // Of layer 0, as all of them; the crate does not look.
                Ok(header) if rest[1] & 6 == 0 => header,
                Err(AdtsHeaderError::NotEnoughData { .. }) => break,
                _ => {
                    from += 1;
                    continue;
                }
            };
            let length = usize::from(header.frame_length());
            let Ok(data) = header.payload() else { break };
            match about(&header, rest) {
                Ok(about) => {
                    out.push(Sound { about, began: self.at + from as u64, data: data.to_vec() });
                }
                Err(why) => done = Err(why),
            }
            from += length;
            if done.is_err() {
                break;
            }
        }
        self.buffer.drain(..from);
        self.at += from as u64;
        done
    }

    /// Something is missing: what is open is not whole.
    pub(super) fn lost(&mut self) {
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
    }

    /// Bytes that are held.
    pub(super) fn held_bytes(&self) -> usize {
        self.buffer.capacity()
    }
}

fn about(header: &AdtsHeader<'_>, bytes: &[u8]) -> Result<About, String> {
    if header.number_of_raw_data_blocks_in_frame() != 1 {
        return Err("AAC with several blocks in a frame is not taken".to_owned());
    }
    let rate = header.sampling_frequency().freq().ok_or("AAC of a sampling rate that is none")?;
    let (object, index) = ((bytes[2] >> 6) + 1, bytes[2] >> 2 & 15);
    let channels = (bytes[2] & 1) << 2 | bytes[3] >> 6;
    if channels == 0 {
        return Err("AAC that tells its channels in its frames is not taken".to_owned());
    }
    let private = [object << 3 | index >> 1, (index & 1) << 7 | channels << 3];
    Ok(About { private, rate, channels: if channels == 7 { 8 } else { u16::from(channels) } })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// AAC-LC, 48,000 Hz, two channels.
    fn frame(data: &[u8]) -> Vec<u8> {
        let length = HEADER_BYTES + data.len();
        let mut bytes = vec![
            0xff,
            0xf1,
            0x4c,
            0x80 | (length >> 11) as u8,
            (length >> 3) as u8,
            (length << 5) as u8 | 0x1f,
            0xfc,
        ];
        bytes.extend_from_slice(data);
        bytes
    }

    #[test]
    fn frames_are_the_same_however_they_come_and_what_is_none_is_passed_over() {
        let stream =
            [&[1, 2, 0xff][..], &frame(&[7; 20]), &frame(&[8; 300]), &[0xff, 3], &frame(&[9])].concat();
        let about = About { private: [0x11, 0x90], rate: 48_000, channels: 2 };
        for piece in 1..=stream.len() {
            let (mut adts, mut sounds) = (Adts::default(), Vec::new());
            stream.chunks(piece).for_each(|part| adts.push(part, &mut sounds).unwrap());
            let told: Vec<(u64, usize)> =
                sounds.iter().map(|sound| (sound.began, sound.data.len())).collect();
            assert_eq!(told, [(3, 20), (30, 300), (339, 1)], "pieces of {piece}");
            assert!(sounds.iter().all(|sound| sound.about == about));
        }
    }

    #[test]
    fn what_is_not_taken_is_said() {
        let mut blocks = frame(&[7; 20]);
        blocks[6] |= 1;
        let mut inside = frame(&[7; 20]);
        inside[3] &= 0x3f;
        for (bytes, why) in [(blocks, "several blocks"), (inside, "its channels")] {
            let told = Adts::default().push(&bytes, &mut Vec::new()).unwrap_err();
            assert!(told.contains(why), "{told}");
        }
    }
}
