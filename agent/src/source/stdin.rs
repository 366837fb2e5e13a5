//! Standard input as a source of lines. It has no cursor: what was read and not yet durable when the agent dies is
//! lost with the pipe it came from.

use std::io::{BufRead, Read};
use std::sync::Arc;

use crate::hub::{Hub, Message, Payload};

/// Reads lines on a thread of its own until the end, as messages of one source.
#[expect(
    clippy::disallowed_methods,
    reason = "a thread of its own, which has nothing else to do than wait for room"
)]
pub(crate) fn read(hub: &Arc<Hub>, source: usize, line_bytes_max: u64) {
    let mut input = std::io::stdin().lock();
    let (mut number, mut line) = (0, Vec::new());
    loop {
        line.clear();
        let got = input.by_ref().take(line_bytes_max).read_until(b'\n', &mut line);
        if !matches!(got, Ok(n) if n > 0) || hub.stopping() {
            return;
        }
        let end = line.iter().rposition(|b| !matches!(b, b'\n' | b'\r')).map_or(0, |at| at + 1);
        while !hub.has_message_room() && !hub.stopping() {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        number += 1;
        let payload = Payload::Record(line[..end].to_vec());
        hub.message(Message { source, number, topic: String::new(), payload, hash: 0, forget: false });
    }
}
