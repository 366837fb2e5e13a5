//! Scanning a log in order, across segments and over damage.

use std::marker::PhantomData;

use super::reader::{Nowhere, Place, SegmentReader};
use super::walk::{Step, Walk, Window};
use super::{Damage, Framing, Position, ReadError};

/// What a scan comes upon.
#[derive(Debug, PartialEq, Eq)]
pub enum Scanned<'a> {
    /// A valid frame and where it starts.
    Frame(Position, &'a [u8]),
    /// A range without valid frames; the scan goes on after it. The frames that follow may be the rest of a group
    /// whose beginning is lost.
    Damage(Damage),
}

/// A walk over a log from one position on. See [`SegmentReader::scan`].
pub struct Scan<F> {
    reader: SegmentReader<F>,
    position: Position,
    current: Option<(Place, Window)>,
}

/// What the walk found, without borrowing it.
enum Found {
    Frame(usize),
    Damage(Damage),
    End,
}

impl<F: Framing> Scan<F> {
    pub(super) fn new(reader: SegmentReader<F>, position: Position) -> Self {
        Self { reader, position, current: None }
    }

    /// Where the next item starts.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The next frame or damage; `None` at the durable end, after which it may be called again. `Trimmed` where the
    /// position is gone meanwhile; the next call goes on at the log's start.
    pub fn advance(&mut self) -> Result<Option<Scanned<'_>>, ReadError> {
        match self.find()? {
            Found::End => Ok(None),
            Found::Damage(damage) => {
                self.position = damage.to;
                Ok(Some(Scanned::Damage(damage)))
            }
            Found::Frame(len) => {
                let start = self.position;
                self.position = start.plus(len as u64);
                let (place, window) = self.current.as_mut().expect("a frame was found in it");
                let (at, end) = (start.0 - place.base.0, place.end.0 - place.base.0);
                let frame = window.get(&*self.reader.shared.disk, at, len, end)?;
                Ok(Some(Scanned::Frame(start, frame)))
            }
        }
    }

    fn find(&mut self) -> Result<Found, ReadError> {
        if let Some(found) = self.enter_segment()? {
            return Ok(found);
        }
        let (place, window) = self.current.as_mut().expect("entered above");
        let shared = &self.reader.shared;
        let end = place.end.0 - place.base.0;
        let mut walk = Walk { disk: &*shared.disk, window, end, framing: PhantomData::<F> };
        let at = self.position.0 - place.base.0;
        let found = walk.step(at).and_then(|step| match step {
            Step::Frame { len, .. } => Ok(Found::Frame(len)),
            Step::Invalid { skip } => {
                let next = walk.next_valid(at + skip)?.unwrap_or(end);
                let to = place.base.plus(next);
                Ok(Found::Damage(Damage { file: place.file.clone(), from: self.position, to }))
            }
        });
        found.or_else(|error| self.failed(error))
    }

    /// Makes the segment at the position the current one; or says why there is none.
    fn enter_segment(&mut self) -> Result<Option<Found>, ReadError> {
        if let Some((place, _)) = &self.current
            && self.position >= place.base
            && self.position < place.end
        {
            return Ok(None);
        }
        let place = match self.reader.shared.locate(self.position) {
            Ok(place) => place,
            Err(Nowhere::BeyondEnd(_)) => return Ok(Some(Found::End)),
            Err(Nowhere::Damaged(damage)) => return Ok(Some(Found::Damage(damage))),
            Err(Nowhere::Trimmed(start)) => {
                self.position = start;
                return Err(ReadError::Trimmed { start });
            }
        };
        match &mut self.current {
            Some((old, _)) if old.file == place.file => *old = place,
            current => {
                let window = Window::new(place.file.clone());
                *current = Some((place, window));
            }
        }
        Ok(None)
    }

    fn failed(&mut self, error: std::io::Error) -> Result<Found, ReadError> {
        let error = self.reader.shared.read_error(self.position, error);
        if let ReadError::Trimmed { start } = error {
            self.position = start;
        }
        Err(error)
    }
}
