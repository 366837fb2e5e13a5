//! Reading a spool's state back: the newest state frame, and every change after it.

use disk::{Position, Recovery, Scanned, SegmentInfo, SegmentLog};
use protocol::frame::{Frame, HEADER_BYTES, Header, Kind};

use super::state::{CursorUpdate, DeliveredUpdate, State, read};
use super::{BatchMeta, Opened, SpoolError, SpoolFraming};
use crate::loss::{Loss, SPOOL_DAMAGED};

/// The state of an opened log.
pub(super) fn recover(
    log: &SegmentLog<SpoolFraming>,
    recovery: &Recovery,
    new_id: u128,
) -> Result<(State, Opened), SpoolError> {
    let mut opened = Opened::default();
    let Some((from, mut state)) = newest_state(log)? else {
        return Ok((first_state(log, new_id, &mut opened), opened));
    };
    let reader = log.reader();
    let mut scan = reader.scan(from);
    loop {
        match scan.advance()? {
            None => break,
            Some(Scanned::Damage(damage)) => opened.damaged.push((damage.from.0, damage.to.0)),
            Some(Scanned::Frame(position, bytes)) => apply(&mut state, position, bytes),
        }
    }
    for damage in recovery.damage.iter().filter(|d| d.to <= from) {
        opened.damaged.push((damage.from.0, damage.to.0));
    }
    if state.mark < log.start().0 {
        // A segment goes only once it is durable that it is done with.
        opened.damaged.push((state.mark, log.start().0));
        opened.damaged.sort_unstable();
    }
    note_damage(&mut state, &opened.damaged, from.0);
    state.mark = state.mark.clamp(log.start().0, log.end().0);
    if recovery.torn_bytes > 0 {
        // Left by a crash, or a commit that was durable and sent, and is damaged: its numbers may be used.
        state.streams.values_mut().for_each(super::StreamMap::renew);
    }
    Ok((state, opened))
}

/// A spool that begins. What is in it already can't be read, so all of it is passed over.
fn first_state(log: &SegmentLog<SpoolFraming>, producer: u128, opened: &mut Opened) -> State {
    opened.is_new = true;
    let mut state = State { producer, mark: log.end().0, ..State::default() };
    let lost = log.end().0 - log.start().0;
    if lost > 0 {
        opened.damaged.push((log.start().0, log.end().0));
        state.ledger.add(Loss::new("spool", SPOOL_DAMAGED, 0, lost).at(log.start().0, log.end().0));
    }
    state
}

/// The first state in the newest segment that has one, and where it is.
fn newest_state(log: &SegmentLog<SpoolFraming>) -> Result<Option<(Position, State)>, SpoolError> {
    for segment in log.segments().iter().rev().filter(|s| s.len >= HEADER_BYTES as u64) {
        if let Some(found) = first_state_in(log, segment)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// A segment's head; where that is damaged its spare, or the state that a later start has written.
fn first_state_in(
    log: &SegmentLog<SpoolFraming>,
    segment: &SegmentInfo,
) -> Result<Option<(Position, State)>, SpoolError> {
    let mut scan = log.reader().scan(segment.base);
    while scan.position() < segment.end() {
        let Some(found) = scan.advance()? else { break };
        if let Scanned::Frame(position, bytes) = found
            && let Ok(frame) = Frame::parse(bytes)
            && frame.header.kind == Kind::SpoolState
            && let Some(state) = State::decode(frame.payload)
        {
            return Ok(Some((position, state)));
        }
    }
    Ok(None)
}

fn apply(state: &mut State, position: Position, bytes: &[u8]) {
    let Ok(header) = Header::parse(bytes) else { return };
    let body = &bytes[HEADER_BYTES..];
    match header.kind {
        Kind::Data => state.note_position(&BatchMeta::of(position.0, &header)),
        Kind::Cursor => {
            if let Some(update) = read::<CursorUpdate>(body) {
                state.apply_cursor(&update);
            }
        }
        Kind::Delivered => {
            if let Some(update) = read::<DeliveredUpdate>(body) {
                state.apply_delivered(&update);
            }
        }
        Kind::SpoolState => {
            if let Some(later) = State::decode(body) {
                *state = later;
            }
        }
        _ => {}
    }
}

/// Damage after the state that was read may hide batches whose numbers were used. So every stream gets new lanes,
/// where no number was used before. Damage of what is not delivered is a loss; how many records it held nobody
/// can know.
fn note_damage(state: &mut State, damaged: &[(u64, u64)], state_at: u64) {
    for (from, to) in damaged {
        if *to > state.mark {
            let from = (*from).max(state.mark);
            state.ledger.add(Loss::new("spool", SPOOL_DAMAGED, 0, to - from).at(from, *to));
        }
    }
    if damaged.iter().any(|(_, to)| *to > state_at) {
        state.streams.values_mut().for_each(super::StreamMap::renew);
    }
}
