//! Takes MPEG transport streams apart as they come (ISO/IEC 13818-1; 188 bytes a packet, or 192 as recorders write them): the
//! program's H.264 or H.265 and its AAC. The crate `mpeg2ts-reader` reads packets, tables and times. Where packets are missing,
//! what follows begins a fragment that says so; what is there and is not taken is an error, as whoever deletes the film would
//! lose it. Pure. Never: what frames are ([`program`]), clocks.

mod adts;
mod program;

use std::fmt;

use mpeg2ts_reader::StreamType;
use mpeg2ts_reader::demultiplex::{
    Demultiplex, DemuxContext, FilterChangeset, FilterRequest, PacketFilter, PatPacketFilter, PmtPacketFilter,
};
use mpeg2ts_reader::packet::{Packet, Pid};
use mpeg2ts_reader::pes::{ElementaryStreamConsumer, PesContents, PesHeader, PesPacketFilter, PtsDts};

use crate::VideoError;
use crate::cut::{Cut, Cutter};
use crate::describe::Kind;
use program::Program;

/// A packet begins with it.
const SYNC: u8 = 0x47;
/// Bytes of a packet.
const PACKET_BYTES: usize = 188;
/// What comes without a packet, or without a program, is no transport stream after so many bytes.
const LOST_BYTES_MAX: u64 = 4 << 20;

/// How packets follow each other: how many bytes after each other, and what stands before each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    stride: usize,
    before: usize,
}

const LAYOUTS: [Layout; 2] =
    [Layout { stride: PACKET_BYTES, before: 0 }, Layout { stride: PACKET_BYTES + 4, before: 4 }];

fn layout(begin: &[u8]) -> Option<Layout> {
    let fits = |layout: &Layout| {
        let is_sync = |at: usize| begin.get(at) == Some(&SYNC);
        is_sync(layout.before) && is_sync(layout.before + layout.stride)
    };
    LAYOUTS.into_iter().find(fits)
}

/// Whether it is a transport stream that begins so.
#[must_use]
pub fn sniff(begin: &[u8]) -> bool {
    layout(begin).is_some()
}

/// Whether this is too little for [`sniff`], and may be one.
#[must_use]
pub fn wants_more(begin: &[u8]) -> bool {
    let may_be = |layout: &Layout| {
        begin.get(layout.before).is_none_or(|byte| *byte == SYNC)
            && begin.len() <= layout.before + layout.stride
    };
    LAYOUTS.iter().any(may_be)
}

/// Who takes the packets of one id; there is room for one for each id up to the largest, so each is small.
enum Switch {
    Pes(Box<PesPacketFilter<Context, Consumer>>),
    Pat(Box<PatPacketFilter<Context>>),
    Pmt(Box<PmtPacketFilter<Context>>),
    /// Of another program than the first.
    Other,
    Nobody,
}

impl PacketFilter for Switch {
    type Ctx = Context;

    fn consume(&mut self, context: &mut Context, packet: &Packet<'_>) {
        match self {
            Switch::Pes(filter) => filter.consume(context, packet),
            Switch::Pat(filter) => filter.consume(context, packet),
            Switch::Pmt(filter) => filter.consume(context, packet),
            Switch::Other => context.refuse("several programs"),
            Switch::Nobody => {}
        }
    }
}

/// What the packets of the streams come to.
struct Context {
    changes: FilterChangeset<Switch>,
    program: Program,
    /// The first program's table.
    pid: Option<Pid>,
    cuts: Vec<Cut>,
    failed: Option<VideoError>,
}

impl Context {
    fn note(&mut self, done: Result<(), VideoError>) {
        if let Err(error) = done {
            self.failed.get_or_insert(error);
        }
    }

    fn refuse(&mut self, what: &str) {
        let why = format!(
            "the transport stream has {what}: one program of H.264 or H.265 and of AAC (ADTS) is taken, of three streams at most"
        );
        self.note(Err(VideoError::Invalid { at: 0, why }));
    }
}

impl DemuxContext for Context {
    type F = Switch;

    fn filter_changeset(&mut self) -> &mut FilterChangeset<Switch> {
        &mut self.changes
    }

    fn construct(&mut self, asked: FilterRequest<'_, '_>) -> Switch {
        match asked {
            FilterRequest::ByPid(Pid::PAT) => Switch::Pat(Box::default()),
            FilterRequest::Pmt { pid, program_number } if *self.pid.get_or_insert(pid) == pid => {
                Switch::Pmt(Box::new(PmtPacketFilter::new(pid, program_number)))
            }
            FilterRequest::Pmt { .. } => Switch::Other,
            FilterRequest::ByStream { stream_type, stream_info, .. } => {
                let pid = u16::from(stream_info.elementary_pid());
                let kind = match stream_type {
                    StreamType::H264 => Kind::H264,
                    StreamType::H265 => Kind::H265,
                    StreamType::ADTS => Kind::Aac,
                    other => {
                        self.refuse(&format!("{other:?} (stream {pid:#x})"));
                        return Switch::Nobody;
                    }
                };
                if let Some(stream) = self.program.handle_stream(pid, kind) {
                    return Switch::Pes(Box::new(PesPacketFilter::new(Consumer { stream })));
                }
                self.refuse(&format!("one stream too many ({}, {pid:#x})", kind.text()));
                Switch::Nobody
            }
            _ => Switch::Nobody,
        }
    }
}

/// Of one stream.
struct Consumer {
    stream: usize,
}

impl Consumer {
    fn bytes(&self, context: &mut Context, bytes: &[u8]) {
        if context.failed.is_none() {
            let done = context.program.handle_bytes(self.stream, bytes, &mut context.cuts);
            context.note(done);
        }
    }
}

impl ElementaryStreamConsumer<Context> for Consumer {
    fn start_stream(&mut self, _: &mut Context) {}

    fn begin_packet(&mut self, context: &mut Context, header: PesHeader<'_>) {
        match header.contents() {
            PesContents::Parsed(Some(parsed)) => {
                let pts = match parsed.pts_dts() {
                    Ok(PtsDts::PtsOnly(Ok(pts)) | PtsDts::Both { pts: Ok(pts), .. }) => Some(pts.value()),
                    _ => None,
                };
                context.program.handle_begin(self.stream, pts);
                self.bytes(context, parsed.payload());
            }
            PesContents::Parsed(None) => {}
            PesContents::Payload(payload) => self.bytes(context, payload),
        }
    }

    fn continue_packet(&mut self, context: &mut Context, bytes: &[u8]) {
        self.bytes(context, bytes);
    }

    fn end_packet(&mut self, _: &mut Context) {}

    fn continuity_error(&mut self, context: &mut Context) {
        if context.failed.is_none() {
            let done = context.program.handle_lost(self.stream, &mut context.cuts);
            context.note(done);
        }
    }
}

/// Fragments out of the bytes of a transport stream.
pub struct Demuxer {
    /// What is less than a packet.
    buffer: Vec<u8>,
    /// Bytes before the buffer.
    at: u64,
    layout: Option<Layout>,
    /// Since when no packet was found, or no program.
    since: u64,
    demultiplex: Demultiplex<Context>,
    context: Context,
}

impl fmt::Debug for Demuxer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ts::Demuxer")
            .field("at", &self.at)
            .field("program", &self.context.program)
            .finish_non_exhaustive()
    }
}

impl Demuxer {
    /// What comes is one run of this cutter's.
    #[must_use]
    pub fn new(cutter: Cutter) -> Demuxer {
        let mut context = Context {
            changes: FilterChangeset::default(),
            program: Program::new(cutter),
            pid: None,
            cuts: Vec::new(),
            failed: None,
        };
        let demultiplex = Demultiplex::new(&mut context);
        Demuxer { buffer: Vec::new(), at: 0, layout: None, since: 0, demultiplex, context }
    }

    /// Takes more bytes, and returns the fragments that they complete.
    ///
    /// # Errors
    /// When they are no such stream, or frames in it can't be kept; what was complete before is kept by
    /// [`finish`](Self::finish).
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<Cut>) -> Result<(), VideoError> {
        self.buffer.extend_from_slice(bytes);
        let mut from = 0;
        while self.context.failed.is_none() && self.take(&mut from) {}
        self.buffer.drain(..from);
        self.at += from as u64;
        out.append(&mut self.context.cuts);
        self.failed()?;
        if self.context.program.has_streams() && self.layout.is_some() {
            self.since = self.at;
        } else if self.at - self.since > LOST_BYTES_MAX {
            return Err(self.nothing());
        }
        Ok(())
    }

    /// Takes the packet that is there, or looks for one; false where more has to come first.
    fn take(&mut self, from: &mut usize) -> bool {
        let rest = &self.buffer[*from..];
        let Some(Layout { stride, before }) = self.layout else {
            // Two that follow each other.
            let most = LAYOUTS.iter().map(|layout| layout.before + layout.stride).max().unwrap_or(0);
            if rest.len() <= most {
                return false;
            }
            self.layout = layout(rest);
            *from += usize::from(self.layout.is_none());
            return true;
        };
        let Some(packet) = rest.get(before..before + PACKET_BYTES).filter(|_| rest.len() >= stride) else {
            return false;
        };
        if packet[0] == SYNC {
            self.demultiplex.push(&mut self.context, packet);
            *from += stride;
        } else {
            self.layout = None;
        }
        true
    }

    /// Nothing more comes. Returns the last fragment, and says if something was cut off.
    ///
    /// # Errors
    /// When the last frames can't be kept, or there was nothing that could be.
    pub fn finish(&mut self, out: &mut Vec<Cut>) -> Result<(), VideoError> {
        self.last_packets();
        let done = self.context.program.finish(&mut self.context.cuts);
        out.append(&mut self.context.cuts);
        self.failed()?;
        done.map_err(|error| self.here(error))?;
        if self.context.program.has_streams() { Ok(()) } else { Err(self.nothing()) }
    }

    /// What is left is too short for two packets, but not for one.
    fn last_packets(&mut self) {
        let mut from = 0;
        self.layout = self
            .layout
            .or_else(|| LAYOUTS.into_iter().find(|layout| self.buffer.get(layout.before) == Some(&SYNC)));
        while self.layout.is_some() && self.context.failed.is_none() && self.take(&mut from) {}
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
    }

    fn failed(&mut self) -> Result<(), VideoError> {
        let Some(error) = self.context.failed.take() else { return Ok(()) };
        // What has come after it is not taken either.
        self.buffer.clear();
        Err(self.here(error))
    }

    /// Where in all that came, not in one stream of it.
    fn here(&self, error: VideoError) -> VideoError {
        match error {
            VideoError::Invalid { why, .. } => VideoError::Invalid { at: self.at, why },
            other => other,
        }
    }

    fn nothing(&self) -> VideoError {
        let why = match self.context.pid {
            None => "no packets of an MPEG transport stream that say which program it has",
            Some(_) => "packets of an MPEG transport stream that do not say what their program is made of",
        };
        VideoError::Invalid { at: self.at, why: why.to_owned() }
    }

    /// Bytes that are held.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.buffer.capacity() + self.context.program.held_bytes()
    }
}

#[cfg(test)]
mod tests;
