//! One client's socket: bytes in to the hub, deliveries and answers out. One task reads and writes at the same time, so
//! that two sides which both write first can't wait for each other.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use rumqttc::v5::mqttbytes::v5::DisconnectReasonCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::wire::{Codec, Connect, Incoming, Malformed, Message, Outgoing};
use super::{Shared, Signals, State, topic, wake_all};
use crate::clock;

/// How long a client may take to say CONNECT, and to take the broker's last words.
const PATIENCE: Duration = Duration::from_secs(10);
/// Above this much unsent, deliveries wait in their sessions.
const OUT_SOFT_BYTES: usize = 64 << 10;
/// Above this much unsent, nothing more is read from the client.
const OUT_HARD_BYTES: usize = 1 << 20;
/// Room for at least one read.
const READ_BYTES: usize = 8 << 10;

/// Who is at the other end, once it has said CONNECT.
#[derive(Debug)]
struct Client {
    id: String,
    link: u64,
    will: Option<Message>,
    keep_alive: Option<Duration>,
}

/// Why a connection ends.
#[derive(Debug)]
enum End {
    /// The client said goodbye, perhaps changing how long its session lasts. What it is owed is still written.
    Goodbye { expiry_s: Option<u32> },
    /// It went without a word, or is made to.
    Gone,
    /// It is sent away; what is in the output is still to be written.
    Dismissed,
}

/// See the module.
pub(super) struct Connection {
    shared: Arc<Shared>,
    signals: Arc<Signals>,
    codec: Codec,
    client: Option<Client>,
    input: BytesMut,
    output: BytesMut,
}

impl Connection {
    pub(super) fn new(shared: Arc<Shared>, signals: Arc<Signals>) -> Connection {
        let codec = Codec::new(shared.max_packet);
        Connection { shared, signals, codec, client: None, input: BytesMut::new(), output: BytesMut::new() }
    }

    pub(super) async fn run(mut self, mut socket: TcpStream) {
        let end = self.serve(&mut socket).await;
        if let Some(client) = self.client.take() {
            let mut wake = Vec::new();
            let mut state = self.shared.lock();
            let expiry_s = if let End::Goodbye { expiry_s } = end { expiry_s } else { None };
            state.hub.handle_close(&client.id, client.link, expiry_s, clock::now());
            state.links.remove(&client.link);
            if let Some(will) = client.will {
                state.hub.handle_publish(&client.id, will, &mut wake);
            }
            wake_all(&state, &wake);
        }
        if !matches!(end, End::Gone) {
            let last_words = async {
                socket.write_all(&self.output).await?;
                socket.shutdown().await
            };
            // It may have gone already; nothing more is owed to it.
            let _ = tokio::time::timeout(PATIENCE, last_words).await;
        }
    }

    async fn serve(&mut self, socket: &mut TcpStream) -> End {
        let (mut reader, mut writer) = socket.split();
        let mut heard = clock::now();
        loop {
            self.fill_output();
            self.input.reserve(READ_BYTES);
            let silence = self.client.as_ref().map_or(Some(PATIENCE), |client| client.keep_alive);
            let deadline = (heard + silence.unwrap_or_default()).into();
            tokio::select! {
                read = reader.read_buf(&mut self.input), if self.output.len() < OUT_HARD_BYTES => {
                    if !matches!(read, Ok(1..)) {
                        return End::Gone;
                    }
                    heard = clock::now();
                    match self.handle_input() {
                        Ok(None) => {}
                        Ok(Some(end)) => return end,
                        Err(malformed) => return self.refuse(malformed),
                    }
                }
                written = writer.write(&self.output), if !self.output.is_empty() => match written {
                    Ok(written @ 1..) => self.output.advance(written),
                    _ => return End::Gone,
                },
                () = self.signals.wake.notified() => {}
                () = self.signals.kill.notified() => return End::Gone,
                () = self.signals.ousted.notified() => {
                    return self.dismiss(DisconnectReasonCode::SessionTakenOver);
                }
                () = tokio::time::sleep_until(deadline), if silence.is_some() => {
                    return self.dismiss(DisconnectReasonCode::KeepAliveTimeout);
                }
            }
        }
    }

    /// Moves deliveries from the session to the output, as many as fit.
    fn fill_output(&mut self) {
        let Some(client) = &self.client else { return };
        if self.output.len() >= OUT_SOFT_BYTES {
            return;
        }
        let mut state = self.shared.lock();
        while self.output.len() < OUT_SOFT_BYTES {
            let Some(delivery) = state.hub.poll_delivery(&client.id, client.link) else { return };
            let before = self.output.len();
            let fits = self.codec.fits(&delivery)
                && self.codec.encode(&Outgoing::Publish(&delivery), &mut self.output).is_ok();
            if !fits {
                self.output.truncate(before);
                state.hub.handle_too_large(&client.id, client.link, delivery.pkid);
            }
        }
    }

    fn handle_input(&mut self) -> Result<Option<End>, Malformed> {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        let mut wake = Vec::new();
        let mut answer = Ok(None);
        while let Ok(None) = answer {
            answer = match self.codec.decode(&mut self.input) {
                Ok(None) => break,
                Ok(Some(packet)) => self.handle_packet(packet, &mut state, &mut wake),
                Err(malformed) => Err(malformed),
            };
        }
        wake.sort_unstable();
        wake.dedup();
        wake_all(&state, &wake);
        answer
    }

    fn handle_packet(
        &mut self,
        packet: Incoming,
        state: &mut State,
        wake: &mut Vec<u64>,
    ) -> Result<Option<End>, Malformed> {
        let Some(client) = &mut self.client else {
            return match packet {
                Incoming::Connect(connect) => self.handle_connect(*connect, state),
                _ => Ok(Some(End::Gone)),
            };
        };
        let (id, link, output) = (client.id.as_str(), client.link, &mut self.output);
        match packet {
            Incoming::Connect(_) => return Ok(Some(End::Gone)),
            Incoming::Publish { pkid, message } => {
                if !topic::is_topic(&message.topic) {
                    let code = DisconnectReasonCode::TopicNameInvalid;
                    return Err(Malformed::new(format!("not a topic: {:?}", message.topic), code));
                }
                state.hub.handle_publish(id, message, wake);
                if pkid != 0 {
                    self.codec.encode(&Outgoing::PubAck { pkid }, output)?;
                }
            }
            Incoming::PubAck { pkid, refused } => state.hub.handle_puback(id, link, pkid, refused),
            Incoming::Subscribe { pkid, filters } => {
                let granted = state.hub.handle_subscribe(id, link, filters);
                self.codec.encode(&Outgoing::SubAck { pkid, granted: &granted }, output)?;
            }
            Incoming::Unsubscribe { pkid, filters } => {
                let existed = state.hub.handle_unsubscribe(id, link, &filters);
                self.codec.encode(&Outgoing::UnsubAck { pkid, existed: &existed }, output)?;
            }
            Incoming::Ping => self.codec.encode(&Outgoing::Pong, output)?,
            Incoming::Disconnect { with_will, expiry_s } => {
                if !with_will {
                    client.will = None;
                }
                return Ok(Some(End::Goodbye { expiry_s }));
            }
        }
        Ok(None)
    }

    fn handle_connect(&mut self, connect: Connect, state: &mut State) -> Result<Option<End>, Malformed> {
        let accepted = match state.hub.handle_connect(&connect, clock::now()) {
            Ok(accepted) => accepted,
            Err(refusal) => {
                self.codec.encode(&Outgoing::Refuse(refusal), &mut self.output)?;
                return Ok(Some(End::Dismissed));
            }
        };
        if let Some(other) = accepted.ousted.and_then(|link| state.links.remove(&link)) {
            other.ousted.notify_one();
        }
        state.links.insert(accepted.link, Arc::clone(&self.signals));
        let client_id = (accepted.client_id != connect.client_id).then_some(accepted.client_id.as_str());
        let answer = Outgoing::Accept { session_present: accepted.session_present, client_id };
        self.codec.encode(&answer, &mut self.output)?;
        let keep_alive = Duration::from_secs(connect.keep_alive_s.into()) * 3 / 2;
        self.client = Some(Client {
            id: accepted.client_id,
            link: accepted.link,
            will: connect.will,
            keep_alive: (!keep_alive.is_zero()).then_some(keep_alive),
        });
        Ok(None)
    }

    fn refuse(&mut self, malformed: Malformed) -> End {
        self.shared.lock().hub.handle_protocol_error(malformed.why);
        match malformed.refusal {
            Some(refusal) => self.say_last(&Outgoing::Refuse(refusal)),
            None if self.client.is_some() => self.say_last(&Outgoing::Bye(malformed.code)),
            None => End::Gone,
        }
    }

    fn dismiss(&mut self, code: DisconnectReasonCode) -> End {
        if self.client.is_some() { self.say_last(&Outgoing::Bye(code)) } else { End::Gone }
    }

    fn say_last(&mut self, words: &Outgoing<'_>) -> End {
        match self.codec.encode(words, &mut self.output) {
            Ok(()) => End::Dismissed,
            Err(_) => End::Gone,
        }
    }
}
