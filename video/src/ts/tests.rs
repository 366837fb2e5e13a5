//! Transport streams made of films: the same frames and times come back, however they come and whatever is missing.

use super::*;
use crate::annexb::tests::{FILMS, cutter, frames, pictures};
use crate::codec::tracks;
use crate::fragment::{Follows, Frame};

const PICTURES: u16 = 0x100;
const SOUND: u16 = 0x101;
const PROGRAM: u16 = 0x1000;
/// Twenty-one milliseconds and a third of AAC, made up.
const SOUND_TICKS: u64 = 1920;

/// Packets of a stream, one after the other.
#[derive(Default)]
struct Written {
    bytes: Vec<u8>,
    counters: std::collections::BTreeMap<u16, u8>,
}

impl Written {
    /// A payload as packets, the last one filled up with nothing.
    fn payload(&mut self, pid: u16, payload: &[u8]) {
        let mut rest = payload;
        let mut first = true;
        while !rest.is_empty() {
            let counter = self.counters.entry(pid).or_insert(15);
            *counter = (*counter + 1) & 15;
            let take = rest.len().min(184);
            let fill = 184 - take;
            let start = u8::from(first) << 6;
            let control = if fill > 0 { 0x30 } else { 0x10 } | *counter;
            self.bytes.extend([SYNC, start | (pid >> 8) as u8, pid as u8, control]);
            if fill > 0 {
                self.bytes.push(fill as u8 - 1);
                if fill > 1 {
                    self.bytes.push(0);
                    self.bytes.extend(std::iter::repeat_n(0xff, fill - 2));
                }
            }
            self.bytes.extend_from_slice(&rest[..take]);
            (rest, first) = (&rest[take..], false);
        }
    }

    /// A table (ISO/IEC 13818-1, 2.4.4): of programs, or of a program's streams.
    fn table(&mut self, pid: u16, id: u8, of: u16, version: u8, body: &[u8]) {
        let length = body.len() + 9;
        let mut section = vec![
            id,
            0xb0 | (length >> 8) as u8,
            length as u8,
            (of >> 8) as u8,
            of as u8,
            0xc1 | version << 1,
            0,
            0,
        ];
        section.extend_from_slice(body);
        let crc = section.iter().fold(u32::MAX, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte) << 24, |crc, _| {
                if crc >> 31 == 1 { crc << 1 ^ 0x04c1_1db7 } else { crc << 1 }
            })
        });
        section.extend_from_slice(&[24, 16, 8, 0].map(|shift| (crc >> shift) as u8));
        self.payload(pid, &[&[0], &section[..]].concat());
    }

    fn tables(&mut self, streams: &[(u8, u16)]) {
        self.table(0, 0, 1, 0, &[0, 1, 0xe0 | (PROGRAM >> 8) as u8, PROGRAM as u8]);
        let mut body = vec![0xe1, 0, 0xf0, 0];
        for (kind, pid) in streams {
            body.extend([*kind, 0xe0 | (pid >> 8) as u8, *pid as u8, 0xf0, 0]);
        }
        self.table(PROGRAM, 2, 1, 0, &body);
    }

    /// One packet of a stream, shown then.
    fn packet(&mut self, pid: u16, pts: u64, data: &[u8]) {
        let pts = pts & ((1 << 33) - 1);
        let id = if pid == SOUND { 0xc0 } else { 0xe0 };
        let mut packet = vec![0, 0, 1, id, 0, 0, 0x80, 0x80, 5];
        packet.extend([
            0x21 | (pts >> 29) as u8 & 0x0e,
            (pts >> 22) as u8,
            1 | (pts >> 14) as u8 & 0xfe,
            (pts >> 7) as u8,
            1 | (pts << 1) as u8,
        ]);
        packet.extend_from_slice(data);
        self.payload(pid, &packet);
    }
}

/// AAC-LC of 48,000 Hz and two channels.
pub(super) fn sound(n: usize) -> Vec<u8> {
    let data = vec![n as u8; 50 + n % 7];
    let length = data.len() + 7;
    [&[0xff, 0xf1, 0x4c, 0x80, (length >> 3) as u8, (length << 5) as u8 | 0x1f, 0xfc], &data[..]].concat()
}

/// A film as a transport stream whose first picture is decoded at `from`, with sound or without.
fn stream(film: &[u8], from: u64, with_sound: bool) -> (Vec<u8>, Vec<(Frame, Vec<u8>)>) {
    let (want, track) = pictures(film);
    let kind = if track.codec.starts_with("avc1") { 0x1b } else { 0x24 };
    let mut written = Written::default();
    let streams = [(0x0f, SOUND), (kind, PICTURES)];
    written.tables(if with_sound { &streams } else { &streams[1..] });
    let first = want[0].0.dts;
    let ticks = |frame: &Frame| {
        from.wrapping_add_signed((frame.pts() - first as i64) * 90_000 / i64::from(track.timescale))
    };
    for (n, (frame, data)) in want.iter().enumerate() {
        written.packet(PICTURES, ticks(frame), &track.annexb(data, frame.key));
        if with_sound {
            let two = [sound(2 * n), sound(2 * n + 1)].concat();
            written.packet(SOUND, from + 2 * n as u64 * SOUND_TICKS, &two);
        }
    }
    (written.bytes, want)
}

fn taken(bytes: &[u8], piece: usize) -> Result<Vec<Cut>, VideoError> {
    let (mut demuxer, mut cuts) = (Demuxer::new(cutter()), Vec::new());
    let pushed = bytes.chunks(piece).try_for_each(|part| demuxer.push(part, &mut cuts));
    let finished = demuxer.finish(&mut cuts);
    pushed.and(finished).map(|()| cuts)
}

/// When pictures are shown, from the first that is, in ticks of 90,000 a second.
fn times(pictures: &[(Frame, Vec<u8>)], timescale: i64) -> Vec<i64> {
    let first = pictures.iter().map(|(frame, _)| frame.pts()).min().unwrap();
    pictures.iter().map(|(frame, _)| (frame.pts() - first) * 90_000 / timescale).collect()
}

fn of_track(cuts: &[Cut], track: u8) -> usize {
    cuts.iter().flat_map(|cut| &cut.fragment.frames).filter(|frame| frame.track == track).count()
}

#[test]
fn a_stream_has_the_frames_and_the_times_that_its_film_had_however_it_comes() {
    for (name, film) in FILMS {
        let (_, track) = pictures(film);
        for with_sound in [true, false] {
            let (bytes, want) = stream(film, 900_000, with_sound);
            let recorded: Vec<u8> =
                bytes.chunks(PACKET_BYTES).flat_map(|packet| [&[1, 2, 3, 4], packet].concat()).collect();
            for (bytes, piece) in [(&bytes, 1), (&bytes, 189), (&bytes, usize::MAX), (&recorded, 1000)] {
                let cuts = taken(bytes, piece).unwrap();
                let got = frames(&cuts);
                let data = |all: &[(Frame, Vec<u8>)]| {
                    all.iter().map(|(frame, data)| (frame.key, data.clone())).collect::<Vec<_>>()
                };
                assert_eq!(data(&got), data(&want), "{name}");
                assert_eq!(times(&got, 90_000), times(&want, i64::from(track.timescale)), "{name}");
                let described = tracks(&cuts[0].fragment.config).unwrap();
                assert_eq!(described.len(), 1 + usize::from(with_sound), "{name}");
                assert_eq!(of_track(&cuts, 1), if with_sound { want.len() * 2 } else { 0 });
            }
        }
    }
}

#[test]
fn times_go_on_where_their_bits_end() {
    let (bytes, want) = stream(FILMS[0].1, (1 << 33) - 20_000, true);
    let (plain, _) = stream(FILMS[0].1, 900_000, true);
    let shown = |bytes: &[u8]| times(&frames(&taken(bytes, 4096).unwrap()), 90_000);
    assert_eq!(shown(&bytes), shown(&plain));
    assert_eq!(shown(&bytes).len(), want.len());
}

#[test]
fn what_is_missing_is_told_and_the_rest_is_kept() {
    let (want, track) = pictures(FILMS[0].1);
    let mut written = Written::default();
    written.tables(&[(0x1b, PICTURES)]);
    let tables = written.bytes.len() / PACKET_BYTES;
    for (n, (frame, data)) in want.iter().cycle().take(want.len() * 3).enumerate() {
        written.packet(PICTURES, n as u64 * 9000, &track.annexb(data, frame.key));
    }
    let packets: Vec<&[u8]> = written.bytes.chunks(PACKET_BYTES).collect();
    let all = want.len() * 3;
    for missing in tables..packets.len() {
        let left = [&packets[..missing], &packets[missing + 1..]].concat().concat();
        let cuts = taken(&left, 1000).unwrap();
        let kept = of_track(&cuts, 0);
        // Without the first key frame nothing that follows it can be shown.
        assert!((all - want.len()..all).contains(&kept), "{kept} of {all}, without packet {missing}");
        let whole: usize = cuts.iter().take_while(|cut| cut.fragment.frames.len() == want.len()).count();
        let told = cuts.iter().any(|cut| matches!(cut.fragment.follows, Follows::Gap(_)));
        assert!(told || whole == 2, "without packet {missing} of {}", packets.len());
    }
    // Bytes that are no packets, between packets.
    let noise = [&packets[..4].concat()[..], &[9; 77], &packets[4..].concat()].concat();
    assert_eq!(of_track(&taken(&noise, 500).unwrap(), 0), all);
}

#[test]
fn a_stream_that_never_comes_is_not_waited_for_for_ever() {
    let (want, track) = pictures(FILMS[0].1);
    let mut written = Written::default();
    written.tables(&[(0x1b, PICTURES), (0x0f, SOUND)]);
    let (mut demuxer, mut cuts, mut from) = (Demuxer::new(cutter()), Vec::new(), 0);
    for second in 0..6 {
        for (n, (frame, data)) in want.iter().enumerate() {
            let pts = second * 90_000 + n as u64 * 90_000 / want.len() as u64;
            written.packet(PICTURES, pts, &track.annexb(data, frame.key));
        }
        demuxer.push(&written.bytes[from..], &mut cuts).unwrap();
        from = written.bytes.len();
        assert_eq!(cuts.is_empty(), second < 3, "after second {second}");
    }
    demuxer.finish(&mut cuts).unwrap();
    assert_eq!(frames(&cuts).len(), want.len() * 6);
    assert_eq!(tracks(&cuts[0].fragment.config).unwrap().len(), 1);
}

#[test]
fn sound_without_pictures_is_kept_as_long_as_its_samples_last() {
    let mut written = Written::default();
    written.tables(&[(0x0f, SOUND)]);
    for n in 0..200 {
        // Rounded to a millisecond, as some write it.
        written.packet(SOUND, (n as u64 * SOUND_TICKS).div_ceil(90) * 90, &sound(n));
    }
    let cuts = taken(&written.bytes, 4096).unwrap();
    let frames: Vec<Frame> = cuts.iter().flat_map(|cut| cut.fragment.frames.clone()).collect();
    assert_eq!(frames.len(), 200);
    assert!(frames.iter().all(|frame| frame.duration == 1024));
    assert!(cuts.iter().skip(1).all(|cut| cut.fragment.follows == Follows::Previous));
}

/// Reaches `LOST_BYTES_MAX` of video/src/ts/mod.rs.
#[test]
fn what_is_no_stream_or_has_what_is_not_taken_is_refused_and_says_what() {
    let told = |streams: &[(u8, u16)], more: &dyn Fn(&mut Written)| {
        let mut written = Written::default();
        written.tables(streams);
        more(&mut written);
        taken(&written.bytes, 188).unwrap_err().to_string()
    };
    let nothing = |_: &mut Written| {};
    for (streams, want) in [
        (&[(0x1b, PICTURES), (0x02, SOUND)][..], "H262 (stream 0x101)"),
        (&[(0x1b, PICTURES), (0x24, SOUND)], "one stream too many (H.265, 0x101)"),
        (&[(0x0f, 1), (0x0f, 2), (0x0f, 3), (0x0f, 4)], "one stream too many (AAC, 0x4)"),
        (&[], "do not say what their program is made of"),
    ] {
        let told = told(streams, &nothing);
        assert!(told.contains(want), "{told}");
    }
    // Nothing is kept of what comes after that, though it has come already.
    let (film, _) = stream(FILMS[0].1, 0, false);
    let mut refused = Written::default();
    refused.tables(&[(0x1b, PICTURES), (0x02, SOUND)]);
    let bytes = [&refused.bytes, &film[2 * PACKET_BYTES..]].concat();
    let (mut demuxer, mut cuts) = (Demuxer::new(cutter()), Vec::new());
    assert!(demuxer.push(&bytes, &mut cuts).is_err());
    demuxer.finish(&mut cuts).unwrap();
    assert_eq!(cuts.len(), 0);
    // Another program's table, where it comes.
    let another = told(&[(0x1b, PICTURES)], &|written| {
        let of = |program: u8, pid: u16| [0, program, 0xe0 | (pid >> 8) as u8, pid as u8];
        written.table(0, 0, 1, 1, &[of(1, PROGRAM), of(2, PROGRAM + 1)].concat());
        written.table(PROGRAM + 1, 2, 2, 0, &[0xe1, 0, 0xf0, 0]);
    });
    assert!(another.contains("several programs"), "{another}");
    // Such as what is scrambled.
    let scrambled = told(&[(0x1b, PICTURES)], &|written| written.packet(PICTURES, 0, &[9; 500]));
    assert!(scrambled.contains("stream 0x100 (H.264) had 500 bytes, and nothing"), "{scrambled}");
    let (mut demuxer, mut cuts) = (Demuxer::new(cutter()), Vec::new());
    demuxer.push(&vec![9; LOST_BYTES_MAX as usize], &mut cuts).unwrap();
    let told = demuxer.push(&[9; 2 * PACKET_BYTES], &mut cuts).unwrap_err().to_string();
    assert!(told.contains("no packets"), "{told}");
    assert!(!sniff(b"ftyp") && !wants_more(b"\0\0\0\x18ftyp"));
}

#[test]
fn two_packets_tell_a_stream_and_one_may_begin_one() {
    let (bytes, _) = stream(FILMS[0].1, 0, false);
    assert!(sniff(&bytes) && !wants_more(&bytes[..189]) && wants_more(&bytes[..188]));
}
