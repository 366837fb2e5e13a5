//! One native connection after its greeting, as one task: acks and answers go out, messages come in, whichever
//! can. Nothing is spawned for an append, and nothing is written before everything that is ready was collected.
//! Never: what an answer says.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use protocol::frame::{HEADER_BYTES, at};
use protocol::limit;
use protocol::native::call::{Call, CallErrorCode};
use protocol::native::message::{Ack, Message, Type, put_json, put_message};
use protocol::time::Mono;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior, Sleep};

use super::buffers::{Incoming, Next};
use super::calls::{self, Answer};
use super::herald::{Control, Named};
use super::{End, Wire};
use crate::api::counters::Reason;
use crate::api::{Limits, Shared};
use crate::principal::Role;
use crate::service::{AckSink, Session};
use crate::shard::driver::CommitOn;

/// While more than this waits to be sent, nothing is read and no answer is taken.
const OUT_BYTES_MAX: usize = 1 << 20;
/// Acks taken at once.
const ACKS_AT_ONCE: usize = 256;
/// What the reads of a connection may hold together.
const READS_BYTES_MAX: usize = 2 * limit::READ_BYTES_MAX;
/// ... of which each gets at least this much.
const READ_BYTES_MIN: usize = 128 * 1024;
/// How long to wait when the memory for batches is used up.
const NO_ROOM_PAUSE: Duration = Duration::from_millis(5);

/// A batch that was handed on and is not answered.
#[derive(Debug, PartialEq, Eq)]
struct Unanswered {
    stream: u64,
    lane: u32,
    producer_sequence: u64,
    bytes: usize,
}

impl Unanswered {
    /// Of a frame that is at least a header long.
    fn of(frame: &[u8]) -> Unanswered {
        let u64_at = |at: usize| frame[at..at + 8].iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
        Unanswered {
            stream: u64_at(at::STREAM),
            lane: u64_at(at::LANE) as u32,
            producer_sequence: u64_at(at::PRODUCER_SEQUENCE),
            bytes: frame.len(),
        }
    }

    fn is_answered_by(&self, ack: &Ack) -> bool {
        self.producer_sequence == ack.producer_sequence
            && self.lane == ack.lane
            && self.stream == ack.stream.0
    }
}

/// What one read may hold: half of what the others have left, so that all of them have something. It is given back once
/// the answer is on its way.
#[derive(Debug)]
struct Share {
    bytes: usize,
    together: Arc<AtomicUsize>,
}

impl Share {
    fn of(together: &Arc<AtomicUsize>) -> Share {
        let held = together.load(Ordering::Relaxed);
        let bytes = (READS_BYTES_MAX.saturating_sub(held) / 2).max(READ_BYTES_MIN);
        together.fetch_add(bytes, Ordering::Relaxed);
        Share { bytes, together: Arc::clone(together) }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.together.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

pub(super) struct Connection<'a, S> {
    shared: &'a Arc<Shared>,
    wire: &'a mut Wire<S>,
    session: Session,
    named: Named,
    control: mpsc::Receiver<Control>,
    acks: AckSink,
    acked: mpsc::UnboundedReceiver<Ack>,
    taken: Vec<Ack>,
    unanswered: VecDeque<Unanswered>,
    unanswered_bytes: usize,
    calls: JoinSet<(Answer, Option<Share>)>,
    /// What reads hold together.
    reads: Arc<AtomicUsize>,
    tick: Interval,
    no_room: Option<std::pin::Pin<Box<Sleep>>>,
    began: Mono,
    heard: Mono,
    moved: Mono,
    stopping: Option<Mono>,
}

impl<S> Drop for Connection<'_, S> {
    fn drop(&mut self) {
        let receiving = self.wire.inbox.admitted().filter(|(kind, _)| *kind == Type::Append);
        self.shared.pending.give(self.unanswered_bytes + receiving.map_or(0, |(_, len)| len));
    }
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin + Send> Connection<'a, S> {
    pub(super) fn new(
        shared: &'a Arc<Shared>,
        wire: &'a mut Wire<S>,
        session: Session,
        named: Named,
        control: mpsc::Receiver<Control>,
    ) -> Connection<'a, S> {
        let (acks, acked) = mpsc::unbounded_channel();
        let shortest = shared.limits.idle.min(shared.limits.stall).min(shared.limits.farewell);
        let period = (shortest / 4).clamp(Duration::from_millis(10), Duration::from_secs(1));
        let mut tick = tokio::time::interval(period);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let now = shared.clock.mono();
        Connection {
            shared,
            wire,
            session,
            named,
            control,
            acks,
            acked,
            taken: Vec::new(),
            unanswered: VecDeque::new(),
            unanswered_bytes: 0,
            calls: JoinSet::new(),
            reads: Arc::default(),
            tick,
            no_room: None,
            began: now,
            heard: now,
            moved: now,
            stopping: None,
        }
    }

    /// Until it ends.
    pub(super) async fn run(mut self) -> End {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        match self.try_poll(cx) {
            Ok(()) => Poll::Pending,
            Err(end) => Poll::Ready(end),
        }
    }

    /// Does all that can be done now, and has asked to be woken for everything else.
    fn try_poll(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        self.poll_control(cx);
        loop {
            self.poll_acks(cx);
            self.poll_calls(cx);
            self.poll_out(cx)?;
            if !self.poll_in(cx)? {
                break;
            }
        }
        while self.tick.poll_tick(cx).is_ready() {
            self.check_times()?;
        }
        self.check_stopped()
    }

    fn poll_control(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(control)) = self.control.poll_recv(cx) {
            match control {
                Control::Changed(info) => {
                    self.wire.outbox.put(|out| put_json(Type::StreamChanged, &*info, out))
                }
                Control::Stop => self.stopping = Some(self.shared.clock.mono()),
            }
        }
    }

    fn poll_acks(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(count) = self.acked.poll_recv_many(cx, &mut self.taken, ACKS_AT_ONCE) {
            if count == 0 {
                return;
            }
            let mut taken = std::mem::take(&mut self.taken);
            for ack in taken.drain(..) {
                self.settle(&ack);
                self.wire.outbox.put(|out| ack.put(out));
            }
            self.taken = taken;
        }
    }

    /// Forgets the batch that an ack answers. They are answered nearly in order, so it is near the front.
    fn settle(&mut self, ack: &Ack) {
        let found = self.unanswered.iter().position(|batch| batch.is_answered_by(ack));
        if let Some(batch) = found.and_then(|index| self.unanswered.remove(index)) {
            self.unanswered_bytes -= batch.bytes;
            self.shared.pending.give(batch.bytes);
        }
    }

    fn poll_calls(&mut self, cx: &mut Context<'_>) {
        while self.wire.outbox.len() < OUT_BYTES_MAX {
            let Poll::Ready(Some(done)) = self.calls.poll_join_next(cx) else { return };
            // A call that panicked or was cancelled leaves its caller without an answer, and nobody else.
            if let Ok((answer, _share)) = done {
                self.put_answer(answer);
            }
        }
    }

    fn put_answer(&mut self, answer: Answer) {
        self.wire.outbox.put(|out| out.extend_from_slice(&answer.head));
        if !answer.frames.is_empty() {
            self.wire.outbox.push(answer.frames);
        }
    }

    fn poll_out(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        let mut wrote = false;
        let waited = self.wire.outbox.len() > 0;
        let done = self.wire.outbox.poll_write(cx, &mut self.wire.stream, &mut wrote);
        if wrote || !waited {
            self.moved = self.shared.clock.mono();
        }
        match done {
            Poll::Ready(Err(error)) => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Takes messages; true where something happened that may have made something to send.
    fn poll_in(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if !self.may_read(cx) {
            return Ok(false);
        }
        let mut taken = false;
        loop {
            let (shared, known) = (self.shared, self.session.principal.role != Role::Anonymous);
            let admit = |kind, len| kind != Type::Append || shared.pending.try_take(len);
            match self.wire.inbox.next(|kind| len_max(kind, known), admit)? {
                Next::Message(message) => self.on_message(message)?,
                Next::NoRoom => {
                    self.pause(cx);
                    return Ok(taken);
                }
                Next::More if taken => return Ok(true),
                Next::More => match self.wire.inbox.poll_fill(cx, &mut self.wire.stream) {
                    Poll::Pending => return Ok(false),
                    Poll::Ready(read) => {
                        if read? == 0 {
                            return Err(End::Gone);
                        }
                        self.heard = self.shared.clock.mono();
                        continue;
                    }
                },
            }
            taken = true;
            if !self.has_room() {
                return Ok(true);
            }
        }
    }

    fn has_room(&self) -> bool {
        let unanswered = (self.unanswered.len(), self.unanswered_bytes);
        has_room(&self.shared.limits, unanswered, self.wire.outbox.len())
    }

    fn may_read(&mut self, cx: &mut Context<'_>) -> bool {
        if let Some(sleep) = &mut self.no_room {
            if sleep.as_mut().poll(cx).is_pending() {
                return false;
            }
            self.no_room = None;
        }
        self.stopping.is_none() && self.has_room()
    }

    fn pause(&mut self, cx: &mut Context<'_>) {
        let mut sleep = Box::pin(tokio::time::sleep(NO_ROOM_PAUSE));
        if sleep.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        self.no_room = Some(sleep);
    }

    fn on_message(&mut self, message: Incoming) -> Result<(), End> {
        match message.kind {
            Type::Append => self.on_append(message.body),
            Type::Call => self.on_call(&message),
            Type::Ping => {
                self.wire.outbox.put(|out| put_message(Type::Pong, &[], out));
                Ok(())
            }
            Type::Pong => Ok(()),
            Type::Goodbye => Err(End::Gone),
            kind => Err(End::refused(
                Reason::Malformed,
                format!("{kind:?} is not for clients to send, or not now"),
            )),
        }
    }

    fn on_append(&mut self, frame: Vec<u8>) -> Result<(), End> {
        if frame.len() < HEADER_BYTES || !self.session.principal.may_write() {
            self.shared.pending.give(frame.len());
            return Err(if frame.len() < HEADER_BYTES {
                protocol::frame::FrameError::Short { got: frame.len() }.into()
            } else {
                End::refused(Reason::Denied, "a client without a certificate may only enrol")
            });
        }
        // Whoever waits for each answer before the next batch is served best where it is.
        let is_lone = self.unanswered.is_empty() && self.calls.is_empty() && self.wire.inbox.is_empty();
        let on = if is_lone { CommitOn::Caller } else { CommitOn::Pool };
        let batch = Unanswered::of(&frame);
        self.unanswered_bytes += batch.bytes;
        self.unanswered.push_back(batch);
        let taken = self.shared.service.append(&self.session, &frame, &self.acks, on);
        taken.map_err(|e| End::refused(Reason::BadFrame, e))
    }

    fn on_call(&mut self, message: &Incoming) -> Result<(), End> {
        let (id, call): (u64, Call) = Message { kind: message.kind, body: &message.body }.call()?;
        if !calls::is_allowed(&self.session.principal, &call) {
            let text = "a client without a certificate may only enrol: use a token of `kinesin agent enroll`";
            self.put_answer(Answer::error(id, CallErrorCode::Denied, text));
            return Ok(());
        }
        if self.calls.len() >= self.shared.limits.calls_max {
            let text = "too many calls at the same time on this connection; wait for answers";
            self.put_answer(Answer::error(id, CallErrorCode::Limit, text));
            return Ok(());
        }
        self.named.add(calls::named(&call).cloned());
        let share = matches!(call, Call::Read { .. }).then(|| Share::of(&self.reads));
        let bytes = share.as_ref().map_or(0, |share| share.bytes);
        let principal = self.session.principal.clone();
        let answer = calls::answer(self.shared.clone(), principal, id, call, bytes);
        self.calls.spawn(async move { (answer.await, share) });
        Ok(())
    }

    fn check_times(&self) -> Result<(), End> {
        let now = self.shared.clock.mono();
        let limits = &self.shared.limits;
        let waits = self.wire.outbox.len() > 0;
        if waits && now.since(self.moved) > limits.stall {
            return Err(End::refused(Reason::SlowReader, "it does not read what it is sent"));
        }
        let busy = waits || !self.unanswered.is_empty() || !self.calls.is_empty();
        if !busy && now.since(self.heard) > limits.idle {
            return Err(End::refused(
                Reason::Idle,
                "nothing was heard for too long; send a ping now and then",
            ));
        }
        // Time for an enrolment, not for a stay.
        if self.session.principal.role == Role::Anonymous && now.since(self.began) > limits.idle {
            return Err(End::refused(Reason::Idle, "a client without a certificate may not stay"));
        }
        Ok(())
    }

    /// After the store was told to end: what was taken is answered, within the time for that.
    fn check_stopped(&self) -> Result<(), End> {
        let Some(since) = self.stopping else { return Ok(()) };
        let late = self.shared.clock.mono().since(since) > self.shared.limits.farewell;
        if late || (self.unanswered.is_empty() && self.wire.outbox.len() == 0) {
            return Err(End::refused(Reason::Shutdown, "the store ends; come back later"));
        }
        Ok(())
    }
}

/// Whether there is room for a message beside so many batches of so many bytes that are not answered, and so much that
/// waits to be sent.
fn has_room(limits: &Limits, (batches, bytes): (usize, usize), out: usize) -> bool {
    batches < limits.inflight_batches_max && bytes < limits.inflight_bytes_max && out < OUT_BYTES_MAX
}

fn len_max(kind: Type, known: bool) -> usize {
    match kind {
        _ if !known => limit::MESSAGE_BYTES_MAX_BEFORE_AUTH,
        Type::Append => limit::MESSAGE_BYTES_MAX,
        Type::Ping | Type::Pong => 1,
        _ => limit::CALL_BYTES_MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reaches `MESSAGE_BYTES_MAX`, `MESSAGE_BYTES_MAX_BEFORE_AUTH`, `CALL_BYTES_MAX` of protocol/src/limit.rs.
    #[test]
    fn a_message_is_as_long_as_its_kind_and_its_sender_allow_and_no_longer() {
        for (kind, known, max) in [
            (Type::Append, true, limit::MESSAGE_BYTES_MAX),
            (Type::Call, true, limit::CALL_BYTES_MAX),
            (Type::Append, false, limit::MESSAGE_BYTES_MAX_BEFORE_AUTH),
            (Type::Call, false, limit::MESSAGE_BYTES_MAX_BEFORE_AUTH),
        ] {
            let says = |len: usize| Message::len(&(len as u32).to_le_bytes(), len_max(kind, known)).is_ok();
            assert!(says(max) && !says(max + 1), "{kind:?} {known}");
        }
    }

    /// Reaches `READS_BYTES_MAX`.
    #[test]
    fn the_reads_of_a_connection_hold_no_more_together_than_they_may() {
        let together = Arc::default();
        let mut shares: Vec<Share> = (0..5).map(|_| Share::of(&together)).collect();
        let sizes: Vec<usize> = shares.iter().map(|share| share.bytes).collect();
        assert_eq!(sizes[..2], [READS_BYTES_MAX / 2, READS_BYTES_MAX / 4]);
        assert!(sizes.iter().sum::<usize>() < READS_BYTES_MAX);
        shares.extend((0..59).map(|_| Share::of(&together)));
        // Each gets something, and no more than that where there is no more.
        assert!(shares.iter().all(|share| share.bytes >= READ_BYTES_MIN));
        let held: usize = shares.iter().map(|share| share.bytes).sum();
        assert!(held < READS_BYTES_MAX + shares.len() * READ_BYTES_MIN);
        drop(shares);
        assert_eq!(Share::of(&together).bytes, READS_BYTES_MAX / 2, "what was given back is there again");
    }

    /// Reaches `INFLIGHT_BATCHES_MAX`, `INFLIGHT_BYTES_MAX` of protocol/src/limit.rs.
    /// Reaches `OUT_BYTES_MAX`.
    #[test]
    fn nothing_is_read_while_as_much_is_not_answered_or_not_sent_as_may_be() {
        let limits = Limits::default();
        let (batches, bytes) = (limit::INFLIGHT_BATCHES_MAX, limit::INFLIGHT_BYTES_MAX);
        assert!(has_room(&limits, (batches - 1, bytes - 1), OUT_BYTES_MAX - 1));
        assert!(!has_room(&limits, (batches, 0), 0));
        assert!(!has_room(&limits, (0, bytes), 0));
        assert!(!has_room(&limits, (0, 0), OUT_BYTES_MAX));
    }
}
