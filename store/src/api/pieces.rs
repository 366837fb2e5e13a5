//! Answers that are made while they are sent: in pieces, of which few wait for a client that reads slowly. Never: what the bytes
//! are, headers.

use bytes::Bytes;
use tokio::sync::mpsc;

/// Pieces of an answer that wait for a client, beside the one that is on its way and the one that is being made.
const PIECES_WAITING_MAX: usize = 2;
/// Bytes of a piece.
pub(super) const PIECE_BYTES: usize = 256 << 10;

/// Nobody reads the answer any more.
#[derive(Debug)]
pub(super) struct Gone;

/// Where the pieces go.
#[derive(Debug, Clone)]
pub(super) struct Pieces(mpsc::Sender<Bytes>);

/// An answer's pieces, and where they come out.
pub(super) fn channel() -> (Pieces, mpsc::Receiver<Bytes>) {
    let (to, from) = mpsc::channel(PIECES_WAITING_MAX);
    (Pieces(to), from)
}

impl Pieces {
    /// Cuts bytes into pieces; waits until there is room for all of them.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub(super) async fn send(&self, bytes: impl Into<Bytes>) -> Result<(), Gone> {
        let mut rest = bytes.into();
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(PIECE_BYTES));
            self.0.send(piece).await.map_err(|_| Gone)?;
        }
        Ok(())
    }

    /// Sends bytes as one piece, however many: for what something else may follow at any moment, such as an event that is to be
    /// whole or not there at all when its sender is stopped.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub(super) async fn send_whole(&self, bytes: impl Into<Bytes>) -> Result<(), Gone> {
        self.0.send(bytes.into()).await.map_err(|_| Gone)
    }

    /// Until nobody reads any more.
    pub(super) async fn closed(&self) {
        self.0.closed().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reaches `PIECES_WAITING_MAX`.
    #[tokio::test]
    async fn for_a_client_that_does_not_read_few_pieces_wait_and_whoever_makes_them_waits_too() {
        let (pieces, mut answer) = channel();
        let all: Vec<u8> = (0..5 * PIECE_BYTES + 7).map(|n| (n % 251) as u8).collect();
        let made = all.clone();
        let maker = tokio::spawn(async move { pieces.send(made).await });
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(answer.len() == PIECES_WAITING_MAX && !maker.is_finished());
        let mut read = Vec::new();
        while let Some(piece) = answer.recv().await {
            assert!(piece.len() <= PIECE_BYTES && answer.len() <= PIECES_WAITING_MAX);
            read.extend_from_slice(&piece);
        }
        assert!(read == all && maker.await.is_ok_and(|sent| sent.is_ok()));
    }

    #[tokio::test]
    async fn what_is_sent_whole_is_never_there_in_part() {
        let (pieces, mut answer) = channel();
        for _ in 0..PIECES_WAITING_MAX {
            pieces.send_whole(vec![7; 3 * PIECE_BYTES]).await.unwrap();
        }
        // Stopped while it waits for room: nothing of it was sent.
        let stopped = pieces.send_whole(vec![8; 3 * PIECE_BYTES]);
        assert!(tokio::time::timeout(std::time::Duration::from_millis(1), stopped).await.is_err());
        drop(pieces);
        while let Some(piece) = answer.recv().await {
            assert!(piece.len() == 3 * PIECE_BYTES && piece[0] == 7);
        }
    }

    #[tokio::test]
    async fn whoever_makes_an_answer_that_nobody_reads_hears_of_it() {
        let (pieces, answer) = channel();
        drop(answer);
        pieces.closed().await;
        assert!(pieces.send(vec![1]).await.is_err());
    }
}
