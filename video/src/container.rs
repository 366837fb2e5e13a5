//! Whatever container comes: Matroska, an MPEG transport stream, or raw H.264 or H.265, which their first bytes tell, or else
//! fragmented MP4. Pure.

use protocol::time::UnixMs;

use crate::VideoError;
use crate::annexb::{self, Rate};
use crate::cut::{Cut, Cutter};
use crate::pool::Pool;
use crate::{demux, mkv, ts};

/// Fragments out of the bytes of a container.
#[derive(Debug)]
pub struct Demuxer {
    kind: Kind,
    /// For a stream without times: what somebody said, and when what comes has come.
    rate: Option<Rate>,
    now: Option<UnixMs>,
    pool: Pool,
}

#[derive(Debug)]
enum Kind {
    /// Not enough came to tell.
    Unknown(Vec<u8>, Option<Box<Cutter>>),
    Mp4(Box<demux::Demuxer>),
    Mkv(Box<mkv::Demuxer>),
    Ts(Box<ts::Demuxer>),
    Raw(Box<annexb::Demuxer>),
}

impl Demuxer {
    /// What comes is one run of this cutter's.
    #[must_use]
    pub fn new(cutter: Cutter) -> Demuxer {
        let kind = Kind::Unknown(Vec::new(), Some(Box::new(cutter)));
        Demuxer { kind, rate: None, now: None, pool: Pool::default() }
    }

    /// The same; where nothing in what comes says when frames are shown, so many are in a second.
    #[must_use]
    pub fn with_rate(self, rate: Option<Rate>) -> Demuxer {
        Demuxer { rate, ..self }
    }

    /// The same, with memory that others use too.
    #[must_use]
    pub fn with_pool(self, pool: Pool) -> Demuxer {
        Demuxer { pool, ..self }
    }

    /// What is pushed from now on came at this time: for streams in which nothing says when frames are shown.
    pub fn handle_time(&mut self, now: UnixMs) {
        self.now = Some(now);
        if let Kind::Raw(demuxer) = &mut self.kind {
            demuxer.handle_time(now);
        }
    }

    /// Takes more bytes, and returns the fragments that they complete.
    ///
    /// # Errors
    /// When they are no such container; what was complete before is kept by [`finish`](Self::finish).
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<Cut>) -> Result<(), VideoError> {
        match &mut self.kind {
            Kind::Mp4(demuxer) => return demuxer.push(bytes, out),
            Kind::Mkv(demuxer) => return demuxer.push(bytes, out),
            Kind::Ts(demuxer) => return demuxer.push(bytes, out),
            Kind::Raw(demuxer) => return demuxer.push(bytes, out),
            Kind::Unknown(begin, _) => {
                begin.extend_from_slice(bytes);
                if annexb::wants_more(begin) || ts::wants_more(begin) {
                    return Ok(());
                }
            }
        }
        let begin = self.decide();
        self.push(&begin, out)
    }

    /// Nothing more comes. Returns the last fragment, and says if something was cut off.
    ///
    /// # Errors
    /// When what came ends in the middle of something: those frames are not in any fragment.
    pub fn finish(&mut self, out: &mut Vec<Cut>) -> Result<(), VideoError> {
        let begin = self.decide();
        if !begin.is_empty() {
            self.push(&begin, out)?;
        }
        match &mut self.kind {
            Kind::Mp4(demuxer) => demuxer.finish(out),
            Kind::Mkv(demuxer) => demuxer.finish(out),
            Kind::Ts(demuxer) => demuxer.finish(out),
            Kind::Raw(demuxer) => demuxer.finish(out),
            Kind::Unknown(..) => Ok(()),
        }
    }

    /// Bytes that are held.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        match &self.kind {
            Kind::Unknown(begin, _) => begin.len(),
            Kind::Mp4(demuxer) => demuxer.held_bytes(),
            Kind::Mkv(demuxer) => demuxer.held_bytes(),
            Kind::Ts(demuxer) => demuxer.held_bytes(),
            Kind::Raw(demuxer) => demuxer.held_bytes(),
        }
    }

    /// Looks at what came first, and gives it back.
    fn decide(&mut self) -> Vec<u8> {
        let Kind::Unknown(begin, cutter) = &mut self.kind else { return Vec::new() };
        let (begin, Some(cutter)) = (std::mem::take(begin), cutter.take()) else { return Vec::new() };
        // A box has its type after its length, which may look like a start code.
        let is_box = begin.get(4..8).is_some_and(|kind| kind.iter().all(u8::is_ascii_lowercase));
        self.kind = match annexb::sniff(&begin) {
            _ if begin.starts_with(&mkv::MAGIC) => Kind::Mkv(Box::new(mkv::Demuxer::new(*cutter))),
            _ if ts::sniff(&begin) => Kind::Ts(Box::new(ts::Demuxer::new(*cutter))),
            Some(codec) if !is_box => {
                let mut demuxer = annexb::Demuxer::new(codec, *cutter, self.rate);
                if let Some(now) = self.now {
                    demuxer.handle_time(now);
                }
                Kind::Raw(Box::new(demuxer))
            }
            _ => Kind::Mp4(Box::new(demux::Demuxer::with_pool(*cutter, self.pool.clone()))),
        };
        begin
    }
}

#[cfg(test)]
mod tests {
    use protocol::time::UnixMs;

    use super::*;
    use crate::annexb::ZEROS_MAX;
    use crate::fragment::Clock;

    fn told(bytes: &[u8], piece: usize) -> String {
        let mut demuxer = Demuxer::new(Cutter::new(1, UnixMs(0), Clock::Producer));
        let mut cuts = Vec::new();
        let pushed = bytes.chunks(piece).try_for_each(|part| demuxer.push(part, &mut cuts));
        pushed
            .and_then(|()| demuxer.finish(&mut cuts))
            .map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[test]
    fn the_first_bytes_say_what_it_is_however_they_come() {
        let mkv = [&mkv::MAGIC[..], &[0x80, 0xa3, 0x80]].concat();
        for piece in [1, 3, 4, 100] {
            assert!(told(&mkv, piece).contains("outside of a Segment"), "{}", told(&mkv, piece));
            assert!(told(b"GET / HTTP/1.1", piece).contains("MP4"));
            assert!(told(&[0, 0, 0, 1, 0x09, 0x10, 0, 0, 1, 0x65, 0x88, 0x84, 0, 1], piece).is_empty());
            assert!(told(&[0, 0, 1, 0x67, 0x64, 0, 0, 0, 1, 0x41], piece).contains("parameter set"));
            assert_eq!(told(&[], piece), "");
            assert!(told(&mkv[..3], piece).contains("in the middle of a box"));
        }
    }

    /// Reaches `ZEROS_MAX` of video/src/annexb/mod.rs.
    #[test]
    fn a_raw_stream_may_begin_with_zeros_however_they_come_and_not_with_ever_so_many() {
        let pictures = [1, 0x09, 0x10, 0, 0, 1, 0x67, 0x64, 0, 0, 0, 1, 0x41];
        for piece in [1, 3, 8, 100] {
            for zeros in [2, 3, 4, 6, 7, 8, ZEROS_MAX] {
                let said = told(&[&vec![0; zeros][..], &pictures].concat(), piece);
                assert!(said.contains("parameter set"), "{zeros} in pieces of {piece}: {said}");
            }
            for zeros in [0, 1, ZEROS_MAX + 1, 1000] {
                let said = told(&[&vec![0; zeros][..], &pictures].concat(), piece);
                assert!(!said.contains("parameter set"), "{zeros} in pieces of {piece}: {said}");
            }
            assert!(!told(&[0; 50], piece).is_empty(), "nothing but zeros is nothing");
        }
    }
}
