//! Whatever container comes: Matroska, which its first bytes tell, or else fragmented MP4. Pure.

use crate::VideoError;
use crate::cut::{Cut, Cutter};
use crate::pool::Pool;
use crate::{demux, mkv};

/// Fragments out of the bytes of a container.
#[derive(Debug)]
pub struct Demuxer {
    kind: Kind,
    pool: Pool,
}

#[derive(Debug)]
enum Kind {
    /// Not enough came to tell.
    Unknown(Vec<u8>, Option<Box<Cutter>>),
    Mp4(Box<demux::Demuxer>),
    Mkv(Box<mkv::Demuxer>),
}

impl Demuxer {
    /// What comes is one run of this cutter's.
    #[must_use]
    pub fn new(cutter: Cutter) -> Demuxer {
        Demuxer::with_pool(cutter, Pool::default())
    }

    /// As [`new`](Self::new), with memory that others use too.
    #[must_use]
    pub fn with_pool(cutter: Cutter, pool: Pool) -> Demuxer {
        Demuxer { kind: Kind::Unknown(Vec::new(), Some(Box::new(cutter))), pool }
    }

    /// Takes more bytes, and returns the fragments that they complete.
    ///
    /// # Errors
    /// When they are no such container; what was complete before is kept by [`finish`](Self::finish).
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<Cut>) -> Result<(), VideoError> {
        match &mut self.kind {
            Kind::Mp4(demuxer) => return demuxer.push(bytes, out),
            Kind::Mkv(demuxer) => return demuxer.push(bytes, out),
            Kind::Unknown(begin, _) => begin.extend_from_slice(bytes),
        }
        if self.held_bytes() < mkv::MAGIC.len() {
            return Ok(());
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
        }
    }

    /// Looks at what came first, and gives it back.
    fn decide(&mut self) -> Vec<u8> {
        let Kind::Unknown(begin, cutter) = &mut self.kind else { return Vec::new() };
        let (begin, Some(cutter)) = (std::mem::take(begin), cutter.take()) else { return Vec::new() };
        self.kind = if begin.starts_with(&mkv::MAGIC) {
            Kind::Mkv(Box::new(mkv::Demuxer::new(*cutter)))
        } else {
            Kind::Mp4(Box::new(demux::Demuxer::with_pool(*cutter, self.pool.clone())))
        };
        begin
    }
}

#[cfg(test)]
mod tests {
    use protocol::time::UnixMs;

    use super::*;
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
            assert_eq!(told(&[], piece), "");
            assert!(told(&mkv[..3], piece).contains("in the middle of a box"));
        }
    }
}
