//! A command that writes fragmented MP4, Matroska, or raw H.264 or H.265 to its standard output, for as long as it runs: ffmpeg at
//! a camera, mostly. It is
//! started again whenever it ends, and when nothing comes from it. Also a command that reads one film and ends. Never:
//! what the command is.

use std::io::Read;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use protocol::backoff::Backoff;
use protocol::time::{Mono, UnixMs};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use video::container::Demuxer;
use video::cut::{Cut, Cutter};
use video::fragment::Clock as Times;

use super::Parts;
use super::feed::{Feeder, pause};
use crate::clock::{Clock, unix_ms};

const PIECE_BYTES: usize = 256 << 10;
/// How often it is looked whether the agent ends.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// A command that has closed its output ends soon.
const LAST_LOOKS: usize = 200;
const LAST_PAUSE: Duration = Duration::from_millis(5);
/// Between two starts of the command.
const AGAIN_MS: (u64, u64) = (500, 30_000);
/// A run that was this long was a good one: the next start is soon.
const GOOD_RUN_MS: u64 = 60_000;

/// A command that runs; ended when this is dropped.
pub(super) struct Running {
    child: Child,
    out: ChildStdout,
    clock: Clock,
    silence: Duration,
}

/// What [`Running::next`] has.
pub(super) enum Next<'a> {
    Bytes(&'a [u8]),
    /// Nothing yet.
    Nothing,
    End,
    Failed(String),
}

impl Running {
    pub(super) fn start(words: &[String], clock: Clock, silence: Duration) -> Result<Running, String> {
        let (program, rest) = words.split_first().ok_or("command is empty")?;
        let child = Command::new(program).args(rest).stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut child = child.map_err(|error| format!("{program} can't be started: {error}"))?;
        let out = child.stdout.take().ok_or("the command has no standard output")?;
        Ok(Running { child, out, clock, silence })
    }

    /// Waits a little for more. `since` is when something came last.
    pub(super) fn next<'a>(&mut self, buffer: &'a mut [u8], since: Mono) -> Next<'a> {
        match poll(&mut [PollFd::new(&self.out, PollFlags::IN)], Some(&LOOK)) {
            Ok(0) if self.clock.now().since(since) >= self.silence => {
                Next::Failed(format!("nothing came for {} s", self.silence.as_secs()))
            }
            Ok(0) | Err(rustix::io::Errno::INTR) => Next::Nothing,
            Err(error) => Next::Failed(error.to_string()),
            Ok(_) => match self.out.read(buffer) {
                Ok(0) => self.ended(),
                Ok(count) => Next::Bytes(&buffer[..count]),
                Err(error) => Next::Failed(error.to_string()),
            },
        }
    }

    fn ended(&mut self) -> Next<'static> {
        // One that goes on without an output is ended with this.
        let mut status = self.child.try_wait();
        for _ in 0..LAST_LOOKS {
            if !matches!(status, Ok(None)) {
                break;
            }
            pause(LAST_PAUSE);
            status = self.child.try_wait();
        }
        match status {
            Ok(Some(status)) if status.success() => Next::End,
            Ok(Some(status)) => Next::Failed(format!("it ended with {status}")),
            Ok(None) => Next::Failed("it closed its output, and goes on".to_owned()),
            Err(error) => Next::Failed(error.to_string()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A number that no other run has.
pub(super) fn random() -> u64 {
    let mut bytes = [0; 8];
    // Without randomness two runs look like one, and nothing else is wrong.
    let _ = getrandom::fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

/// Works until the agent ends.
pub(super) fn run(parts: &Parts) {
    let mut feeder = Feeder::new(&parts.hub, parts.source, &parts.stream);
    let mut backoff = Backoff::new(AGAIN_MS.0, AGAIN_MS.1, random());
    let name = parts.settings.command.first().cloned().unwrap_or_default();
    while !feeder.stopping() {
        let begun = parts.clock.now();
        let why = match film(parts, &mut feeder) {
            Ok(()) => "it ended".to_owned(),
            Err(why) => why,
        };
        if feeder.stopping() {
            return;
        }
        if parts.clock.now().since(begun).as_millis() as u64 >= GOOD_RUN_MS {
            backoff.reset();
        }
        let ms = backoff.next_wait().as_millis() as u64;
        let text = format!("stream {}: {name}: {why}; started again in {ms} ms", parts.stream);
        parts.log.warn(&format!("video {}", parts.stream), &text);
        feeder.wait(Duration::from_millis(ms));
    }
}

/// One run of the command, from its first byte to its last.
fn film(parts: &Parts, feeder: &mut Feeder) -> Result<(), String> {
    let silence = Duration::from_secs(parts.settings.silence_s);
    let mut running = Running::start(&parts.settings.command, parts.clock, silence)?;
    let (mut buffer, mut cuts) = (vec![0; PIECE_BYTES], Vec::new());
    let (mut since, mut demuxer) = (parts.clock.now(), None);
    let ended = loop {
        if feeder.stopping() {
            return Ok(());
        }
        let bytes = match running.next(&mut buffer, since) {
            Next::Nothing => continue,
            Next::End => break Ok(()),
            Next::Failed(why) => break Err(why),
            Next::Bytes(bytes) => bytes,
        };
        // What the first frame's time is on this machine's clock is known when it is there.
        let now = unix_ms();
        let demuxer = demuxer.get_or_insert_with(|| fresh(parts, now));
        demuxer.handle_time(now);
        let pushed = demuxer.push(bytes, &mut cuts);
        hand_on(feeder, &mut cuts);
        // What had to wait for room is no silence.
        since = parts.clock.now();
        if let Err(error) = pushed {
            break Err(format!("{error}; {HINT}"));
        }
    };
    let finished = demuxer.as_mut().map_or(Ok(()), |demuxer| demuxer.finish(&mut cuts));
    hand_on(feeder, &mut cuts);
    ended.and(finished.map_err(|error| error.to_string()))
}

/// What usually helps.
pub(super) const HINT: &str =
    "of ffmpeg it is: -f mp4 -movflags +frag_keyframe+empty_moov+default_base_moof+delay_moov -";

fn fresh(parts: &Parts, start: UnixMs) -> Demuxer {
    Demuxer::new(Cutter::new(random(), start, Times::Producer)).with_rate(parts.settings.rate())
}

/// Hands on what is whole.
pub(super) fn hand_on(feeder: &mut Feeder, cuts: &mut Vec<Cut>) {
    for cut in cuts.drain(..) {
        if !feeder.fragment(&cut, None) {
            return;
        }
    }
}
