//! The two ends of a native connection's bytes: messages coming in, each body read into its own memory once,
//! and messages waiting to go out. Bounded by what the caller allows. Never: what a message means.

use std::collections::VecDeque;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use protocol::native::message::{Message, MessageError, PREFIX_BYTES, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// A message longer than this is read straight into its own memory.
const BUFFER_BYTES: usize = 32 * 1024;
/// Small messages are collected into pieces of about this size.
const PIECE_BYTES: usize = 64 * 1024;

/// A message that came in.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) kind: Type,
    pub(crate) body: Vec<u8>,
}

/// What [`Inbox::next`] found.
#[derive(Debug)]
pub(crate) enum Next {
    Message(Incoming),
    /// More bytes are wanted.
    More,
    /// There is a message, but `admit` has no room for it now.
    NoRoom,
}

#[derive(Debug)]
struct Large {
    kind: Type,
    body: Vec<u8>,
    len: usize,
}

/// Bytes coming in.
#[derive(Debug)]
pub(crate) struct Inbox {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    large: Option<Large>,
}

impl Inbox {
    pub(crate) fn new() -> Inbox {
        Inbox { buffer: vec![0; BUFFER_BYTES], start: 0, end: 0, large: None }
    }

    /// The next whole message. `admit` is asked once for each, with type and length, before memory is taken.
    pub(crate) fn next(
        &mut self,
        len_max: impl Fn(Type) -> usize,
        admit: impl FnOnce(Type, usize) -> bool,
    ) -> Result<Next, MessageError> {
        if let Some(large) = self.large.take() {
            if large.body.len() < large.len {
                self.large = Some(large);
                return Ok(Next::More);
            }
            return Ok(Next::Message(Incoming { kind: large.kind, body: large.body }));
        }
        let bytes = &self.buffer[self.start..self.end];
        let Some(kind) = kind_of(bytes)? else {
            // The length alone may already be too much for any type.
            Message::len(bytes, protocol::limit::MESSAGE_BYTES_MAX)?;
            return Ok(Next::More);
        };
        let Some(total) = Message::len(bytes, len_max(kind))? else { return Ok(Next::More) };
        if bytes.len() < total && total <= BUFFER_BYTES {
            return Ok(Next::More);
        }
        let len = total - PREFIX_BYTES - 1;
        if !admit(kind, len) {
            return Ok(Next::NoRoom);
        }
        let have = bytes.len().min(total);
        let mut body = Vec::with_capacity(len);
        body.extend_from_slice(&bytes[PREFIX_BYTES + 1..have]);
        self.start += have;
        if body.len() == len {
            return Ok(Next::Message(Incoming { kind, body }));
        }
        self.large = Some(Large { kind, body, len });
        Ok(Next::More)
    }

    /// Whether nothing came that was not taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.large.is_none() && self.start == self.end
    }

    /// Bytes of a message that was admitted and has not come whole.
    pub(crate) fn admitted(&self) -> Option<(Type, usize)> {
        self.large.as_ref().map(|large| (large.kind, large.len))
    }

    /// Reads what is there; 0 at the end of the stream.
    pub(crate) fn poll_fill<R: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
    ) -> Poll<io::Result<usize>> {
        if let Some(large) = &mut self.large {
            let missing = (large.len - large.body.len()) as u64;
            let mut limited = from.take(missing);
            let read = pin!(limited.read_buf(&mut large.body));
            return read.poll(cx);
        }
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let mut into = ReadBuf::new(&mut self.buffer[self.end..]);
        ready!(Pin::new(from).poll_read(cx, &mut into))?;
        let read = into.filled().len();
        self.end += read;
        Poll::Ready(Ok(read))
    }
}

/// The type of the message that `bytes` starts with, as soon as its byte is there.
fn kind_of(bytes: &[u8]) -> Result<Option<Type>, MessageError> {
    let Some(byte) = bytes.get(PREFIX_BYTES) else { return Ok(None) };
    Message::len(bytes, protocol::limit::MESSAGE_BYTES_MAX)?;
    // A message of this type without a body.
    let alone = [1, 0, 0, 0, *byte];
    Ok(Message::parse(&alone, 1)?.map(|(message, _)| message.kind))
}

/// Bytes going out.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pieces: VecDeque<Vec<u8>>,
    written: usize,
    len: usize,
    flush: bool,
}

impl Outbox {
    /// Bytes that wait.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Adds what `put` appends: small messages, which are collected.
    pub(crate) fn put(&mut self, put: impl FnOnce(&mut Vec<u8>)) {
        let joins = self.pieces.back().is_some_and(|piece| piece.len() < PIECE_BYTES);
        if !joins {
            self.pieces.push_back(Vec::with_capacity(1024));
        }
        if let Some(piece) = self.pieces.back_mut() {
            let before = piece.len();
            put(piece);
            self.len += piece.len() - before;
        }
    }

    /// Adds a large piece without copying it.
    pub(crate) fn push(&mut self, piece: Vec<u8>) {
        self.len += piece.len();
        self.pieces.push_back(piece);
    }

    /// Writes what can be written. Ready when nothing is left; `wrote` is set when something went out.
    pub(crate) fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
        wrote: &mut bool,
    ) -> Poll<io::Result<()>> {
        while let Some(piece) = self.pieces.front_mut() {
            while self.written < piece.len() {
                let len = ready!(Pin::new(&mut *to).poll_write(cx, &piece[self.written..]))?;
                if len == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.written += len;
                self.len -= len;
                (self.flush, *wrote) = (true, true);
            }
            self.written = 0;
            // The memory of the last small piece serves the next messages.
            piece.clear();
            let keep = piece.capacity() <= PIECE_BYTES * 2;
            if self.pieces.len() == 1 && keep {
                break;
            }
            self.pieces.pop_front();
        }
        if self.flush {
            ready!(Pin::new(to).poll_flush(cx))?;
            self.flush = false;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::limit::MESSAGE_BYTES_MAX;
    use protocol::native::message::put_message;
    use protocol::rng::Rng;
    use std::future::poll_fn;

    async fn read_all(mut bytes: &[u8]) -> Vec<Incoming> {
        let (mut inbox, mut found) = (Inbox::new(), Vec::new());
        loop {
            match inbox.next(|_| MESSAGE_BYTES_MAX, |_, _| true).unwrap() {
                Next::Message(message) => found.push(message),
                _ if poll_fn(|cx| inbox.poll_fill(cx, &mut bytes)).await.unwrap() == 0 => return found,
                _ => {}
            }
        }
    }

    #[tokio::test]
    async fn messages_of_every_size_come_out_as_they_went_in() {
        let mut rng = Rng::new(3);
        for _ in 0..50 {
            let mut wire = Vec::new();
            let bodies: Vec<Vec<u8>> = (0..rng.between(1, 20))
                .map(|_| {
                    let most = [10, 2000, 40_000, 300_000][rng.below(4) as usize];
                    vec![rng.below(256) as u8; rng.between(0, most) as usize]
                })
                .collect();
            bodies.iter().for_each(|body| put_message(Type::Append, body, &mut wire));
            let mut outbox = Outbox::default();
            for (i, piece) in wire.chunks(70_001).enumerate() {
                if i % 2 == 0 { outbox.push(piece.to_vec()) } else { outbox.put(|out| out.extend(piece)) }
            }
            let (mut sent, mut wrote) = (Vec::new(), false);
            poll_fn(|cx| outbox.poll_write(cx, &mut sent, &mut wrote)).await.unwrap();
            assert_eq!((sent == wire, outbox.len()), (true, 0));
            let found: Vec<Vec<u8>> = read_all(&sent).await.into_iter().map(|m| m.body).collect();
            assert_eq!(found, bodies);
        }
    }

    #[tokio::test]
    async fn a_message_is_not_taken_while_there_is_no_room_and_its_memory_is_not_either() {
        let mut wire = Vec::new();
        put_message(Type::Append, &vec![1; 5_000_000], &mut wire);
        let mut inbox = Inbox::new();
        poll_fn(|cx| inbox.poll_fill(cx, &mut wire.as_slice())).await.unwrap();
        assert!(matches!(inbox.next(|_| MESSAGE_BYTES_MAX, |_, _| false).unwrap(), Next::NoRoom));
        assert_eq!(inbox.admitted(), None);
        assert!(matches!(inbox.next(|_| MESSAGE_BYTES_MAX, |_, _| true).unwrap(), Next::More));
        assert_eq!(inbox.admitted(), Some((Type::Append, 5_000_000)));
    }

    #[tokio::test]
    async fn the_bound_of_a_type_holds_as_soon_as_the_type_is_known() {
        let mut wire = Vec::new();
        put_message(Type::Call, &[0; 100], &mut wire);
        let mut inbox = Inbox::new();
        poll_fn(|cx| inbox.poll_fill(cx, &mut &wire[..5])).await.unwrap();
        assert!(inbox.next(|kind| if kind == Type::Call { 50 } else { 1000 }, |_, _| true).is_err());
    }
}
