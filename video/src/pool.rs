//! Memory for frames that is used again: large pieces of like sizes come and go all the time, and a general allocator cuts
//! up what was given back for small ones, so that the next large piece has to be new. Bounded, shared by whoever has a
//! clone. Pure: it decides nothing.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Memory that nobody uses is kept up to so many bytes.
const IDLE_BYTES_MAX: usize = 16 << 20;
/// Memory is taken in multiples of so many bytes, so that what is nearly as long fits.
const STEP_BYTES: usize = 64 << 10;

/// Memory that is used again.
#[derive(Debug, Clone, Default)]
pub struct Pool(Arc<Mutex<Idle>>);

#[derive(Debug, Default)]
struct Idle {
    /// What was given back last comes last.
    pieces: Vec<Vec<u8>>,
    bytes: usize,
}

/// Goes back when it is dropped.
struct Lent {
    bytes: Vec<u8>,
    pool: Pool,
}

impl Pool {
    /// Empty memory for so many bytes.
    #[must_use]
    pub fn take(&self, bytes: usize) -> Vec<u8> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Not much more than is wanted: it may be held for long.
        let fits = |piece: &Vec<u8>| (bytes..=bytes + bytes / 2 + STEP_BYTES).contains(&piece.capacity());
        if let Some(place) = idle.pieces.iter().rposition(fits) {
            let piece = idle.pieces.remove(place);
            idle.bytes -= piece.capacity();
            return piece;
        }
        drop(idle);
        Vec::with_capacity(bytes.next_multiple_of(STEP_BYTES))
    }

    /// Bytes whose memory comes back here when nobody has them any more.
    #[must_use]
    pub fn lend(&self, bytes: Vec<u8>) -> Bytes {
        Bytes::from_owner(Lent { bytes, pool: self.clone() })
    }

    fn give(&self, mut piece: Vec<u8>) {
        piece.clear();
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        idle.bytes += piece.capacity();
        idle.pieces.push(piece);
        while idle.bytes > IDLE_BYTES_MAX {
            let oldest = idle.pieces.remove(0);
            idle.bytes -= oldest.capacity();
        }
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.pool.give(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle(pool: &Pool) -> (usize, usize) {
        let idle = pool.0.lock().unwrap();
        assert_eq!(idle.bytes, idle.pieces.iter().map(Vec::capacity).sum::<usize>());
        (idle.pieces.len(), idle.bytes)
    }

    #[test]
    fn memory_is_used_again_where_it_fits() {
        let pool = Pool::default();
        let mut piece = pool.take(500_000);
        piece.extend_from_slice(b"frames");
        let lent = pool.lend(piece);
        let part = lent.slice(2..4);
        drop(lent);
        assert_eq!((idle(&pool).0, &part[..]), (0, &b"am"[..]), "somebody has a part of it");
        drop(part);
        assert_eq!(idle(&pool).0, 1);
        for other in [1000, 600_000] {
            assert!(pool.take(other).capacity() >= other);
            assert_eq!(idle(&pool).0, 1, "much too large for {other}, or too small");
        }
        let again = pool.take(499_000);
        assert!(again.is_empty() && again.capacity() >= 500_000);
        assert_eq!(idle(&pool), (0, 0));
    }

    /// Reaches `IDLE_BYTES_MAX`.
    #[test]
    fn no_more_memory_is_kept_for_nobody_than_may_be() {
        let pool = Pool::default();
        let most = IDLE_BYTES_MAX / STEP_BYTES;
        let pieces: Vec<Bytes> = (0..=most).map(|_| pool.lend(pool.take(STEP_BYTES))).collect();
        drop(pieces);
        assert_eq!(idle(&pool), (most, IDLE_BYTES_MAX));
    }
}
