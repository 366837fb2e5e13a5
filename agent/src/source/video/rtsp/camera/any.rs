//! A camera that says anything, in any order and at any time: bytes as what came, for whoever looks for what breaks over it
//! (the fuzzer). Pure. Never: what has to hold of what comes out.

use protocol::time::UnixMs;
use video::cut::Cut;
use video::describe::{Description, Kind};

use super::{Came, Camera};

const NOW_MS: u64 = 1_790_000_000_000;
/// Milliseconds from 1900 to then.
const NTP_MS: i64 = 3_998_988_800_000;
/// Sixteen pixels by sixteen.
const AVCC: [u8; 44] = [
    1, 100, 0, 10, 255, 225, 0, 23, 103, 100, 0, 10, 172, 228, 123, 1, 16, 0, 0, 3, 0, 16, 0, 0, 3, 1, 64,
    241, 34, 81, 32, 1, 0, 6, 104, 235, 224, 101, 44, 139, 253, 248, 248, 0,
];
/// AAC-LC, 48,000 Hz, two channels.
const AAC: [u8; 2] = [0x11, 0x90];

/// Some bytes, as long as there are any.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut taken = [0; N];
        let count = self.0.len().min(N);
        taken[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        taken
    }

    fn byte(&mut self) -> u8 {
        self.take::<1>()[0]
    }
}

fn description(track: usize, says: u8) -> Description {
    let (kind, private, timescale): (_, &[u8], _) = match says % 4 {
        0 => (Kind::H264, &AVCC, 90_000),
        1 => (Kind::Aac, &AAC, 48_000),
        2 => (Kind::Alaw, &[], 8_000),
        // What does not describe anything.
        _ => (Kind::H265, &AVCC, 0),
    };
    let pixels = if kind.is_video() { 16 << (says >> 6) } else { 0 };
    Description {
        id: track as u32 + 1,
        kind,
        private: private.to_vec(),
        width: pixels,
        height: pixels,
        rate: if kind.is_video() { 0 } else { 8_000 },
        channels: u16::from(!kind.is_video()),
        timescale,
    }
}

/// The fragments that a connection with such a camera gives, whatever the bytes say that it sends, and how many bytes of frames
/// came.
#[must_use]
pub fn said(bytes: &[u8]) -> (Vec<Cut>, u64) {
    let mut bytes = Bytes(bytes);
    let count = 1 + usize::from(bytes.byte() % 3);
    let (mut camera, mut cuts) = (Camera::new(7, count), Vec::new());
    let (mut now, mut pts, mut came) = (UnixMs(NOW_MS), vec![0; count], 0);
    while !bytes.0.is_empty() {
        let says = bytes.byte();
        let track = usize::from(says >> 6) % count;
        let done = match says % 8 {
            0..=3 => {
                let [step, long] = bytes.take();
                pts[track] += i64::from(step as i8) * 300;
                let data = vec![says; usize::from(long)];
                came += data.len() as u64;
                let (key, lost) = (says & 8 != 0, u16::from(says & 16 != 0));
                let duration = (says & 32 != 0).then_some(u32::from(step) * 300);
                camera.handle_frame(
                    Came { track, key, pts: pts[track], duration, lost, data },
                    now,
                    &mut cuts,
                )
            }
            // RTP's clock has 32 bits, and is taken on from the nearest (RFC 3550, A.1).
            4 => {
                pts[track] += i64::from(i32::from_le_bytes(bytes.take()));
                Ok(())
            }
            5 if says & 8 == 0 => {
                camera.handle_report(track, pts[track], u64::from_le_bytes(bytes.take()));
                Ok(())
            }
            5 => {
                let ms = NTP_MS + (now.0 - NOW_MS) as i64 + i64::from(i16::from_le_bytes(bytes.take())) * 10;
                camera.handle_report(track, pts[track], ((ms / 1000) as u64) << 32);
                Ok(())
            }
            6 => camera.handle_description(track, description(track, bytes.byte()), &mut cuts),
            _ => {
                now = UnixMs(NOW_MS + u64::from(u16::from_le_bytes(bytes.take())) * 100);
                Ok(())
            }
        };
        // As the driver does, which then takes the camera anew.
        if done.is_err() {
            break;
        }
        while camera.poll_told().is_some() {}
    }
    let _ = camera.finish(&mut cuts);
    (cuts, came)
}
