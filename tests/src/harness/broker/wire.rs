//! MQTT's two wire formats to our own nouns and back. Pure: bytes in, values out; what is a v4 or a v5 packet ends here.
//!
//! The packet codecs are rumqttc's. Where they are stricter than the standard, or take a malformed packet for a short
//! one, this file decides before they are asked.

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use rumqttc::mqttbytes::{self, v4};
use rumqttc::v5::mqttbytes::{self as v5bytes, v5};

/// What was published: shared by all the sessions that it waits in.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) topic: String,
    pub(super) payload: Bytes,
    pub(super) acked: bool,
    pub(super) retain: bool,
    pub(super) properties: Option<Box<v5::PublishProperties>>,
}

/// A client's wish for messages.
#[derive(Debug, Clone)]
pub(super) struct Subscription {
    pub(super) filter: String,
    pub(super) acked: bool,
    pub(super) no_local: bool,
    pub(super) keep_retain: bool,
    pub(super) retained: v5::RetainForwardRule,
    pub(super) id: Option<usize>,
}

/// A message on its way to one client. A packet identifier of zero means QoS 0.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) message: Arc<Message>,
    pub(super) pkid: u16,
    pub(super) again: bool,
    pub(super) retained: bool,
    pub(super) ids: Vec<usize>,
}

/// A client's first packet.
#[derive(Debug)]
pub(super) struct Connect {
    pub(super) client_id: String,
    pub(super) clean: bool,
    /// Seconds that the session outlives its connection; `u32::MAX` is for ever.
    pub(super) expiry_s: u32,
    pub(super) keep_alive_s: u16,
    pub(super) receive_maximum: u16,
    pub(super) max_packet: u32,
    pub(super) will: Option<Message>,
    pub(super) v5: bool,
}

/// What a client sends.
#[derive(Debug)]
pub(super) enum Incoming {
    Connect(Box<Connect>),
    Publish { pkid: u16, message: Message },
    PubAck { pkid: u16, refused: bool },
    Subscribe { pkid: u16, filters: Vec<Subscription> },
    Unsubscribe { pkid: u16, filters: Vec<String> },
    Ping,
    Disconnect { with_will: bool, expiry_s: Option<u32> },
}

/// What the broker sends.
#[derive(Debug)]
pub(super) enum Outgoing<'a> {
    Accept { session_present: bool, client_id: Option<&'a str> },
    Refuse(Refusal),
    Publish(&'a Delivery),
    PubAck { pkid: u16 },
    SubAck { pkid: u16, granted: &'a [Grant] },
    UnsubAck { pkid: u16, existed: &'a [bool] },
    Pong,
    Bye(v5::DisconnectReasonCode),
}

/// Why a client is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    Version,
    ClientId,
    Full,
}

/// The answer to one filter of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grant {
    Granted { acked: bool },
    Invalid,
    SharedUnsupported,
    Full,
}

/// A packet that ends the connection; the text says what was wrong with it.
#[derive(Debug)]
pub(super) struct Malformed {
    pub(super) why: String,
    pub(super) code: v5::DisconnectReasonCode,
    /// Set where the answer is a CONNACK and not a DISCONNECT.
    pub(super) refusal: Option<Refusal>,
}

impl Malformed {
    pub(super) fn new(why: impl ToString, code: v5::DisconnectReasonCode) -> Malformed {
        Malformed { why: why.to_string(), code, refusal: None }
    }
}

fn malformed(why: impl ToString) -> Malformed {
    Malformed::new(why, v5::DisconnectReasonCode::MalformedPacket)
}

fn qos_2() -> Malformed {
    Malformed::new("QoS 2 is not supported", v5::DisconnectReasonCode::QoSNotSupported)
}

/// One connection's reader and writer of packets; knows the version once it has seen CONNECT.
#[derive(Debug)]
pub(super) struct Codec {
    v5: Option<bool>,
    max_incoming: u32,
    max_outgoing: u32,
}

impl Codec {
    pub(super) fn new(max_incoming: u32) -> Codec {
        Codec { v5: None, max_incoming, max_outgoing: u32::MAX }
    }

    /// The next whole packet, if the buffer holds one.
    pub(super) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Incoming>, Malformed> {
        if self.v5.is_none() && buffer.first().is_some_and(|byte| byte >> 4 != 1) {
            return Err(malformed("the first packet is not CONNECT"));
        }
        // Whether the packet is whole is decided here, once: the codecs below call a malformed one "insufficient" too.
        match mqttbytes::check(buffer.iter(), self.max_incoming as usize) {
            Ok(_) => {}
            Err(mqttbytes::Error::InsufficientBytes(_)) => return Ok(None),
            Err(error @ mqttbytes::Error::PayloadSizeLimitExceeded(_)) => {
                return Err(Malformed::new(error, v5::DisconnectReasonCode::PacketTooLarge));
            }
            Err(error) => return Err(malformed(error)),
        }
        let incoming = match self.v5 {
            Some(false) => decode_v4(buffer, self.max_incoming),
            Some(true) => decode_v5(buffer, self.max_incoming),
            None => {
                let connect = decode_connect(buffer, self.max_incoming)?;
                self.v5 = Some(connect.v5);
                self.max_outgoing = connect.max_packet;
                Ok(Incoming::Connect(Box::new(connect)))
            }
        }?;
        Ok(Some(incoming))
    }

    /// Whether the client takes a packet as large as this delivery makes. Generous by the properties' size.
    pub(super) fn fits(&self, delivery: &Delivery) -> bool {
        let size = delivery.message.payload.len() + delivery.message.topic.len() + 16;
        size <= self.max_outgoing as usize
    }

    /// Appends one packet to the buffer.
    pub(super) fn encode(&self, packet: &Outgoing<'_>, out: &mut BytesMut) -> Result<(), Malformed> {
        if self.v5 == Some(true) {
            match v5_packet(packet) {
                Some(packet) => packet.write(out, Some(self.max_outgoing)).map_err(malformed)?,
                None => 0,
            };
        } else if let Some(packet) = v4_packet(packet) {
            packet.write(out, usize::MAX).map_err(malformed)?;
        }
        Ok(())
    }
}

fn decode_connect(buffer: &mut BytesMut, max: u32) -> Result<Connect, Malformed> {
    // Fixed header: one byte of type, one to four of length; then the protocol's name (2 + 4 bytes) and its level.
    let header = 1 + buffer.iter().skip(1).take_while(|byte| **byte & 0x80 != 0).count() + 1;
    match buffer.get(header + 6) {
        Some(4) => match v4::Packet::read(buffer, max as usize).map_err(malformed)? {
            v4::Packet::Connect(connect) => Ok(connect_v4(connect)),
            _ => Err(malformed("the first packet is not CONNECT")),
        },
        Some(5) => match v5::Packet::read(buffer, Some(max)).map_err(malformed)? {
            v5::Packet::Connect(connect, will, _login) => connect_v5(connect, will),
            _ => Err(malformed("the first packet is not CONNECT")),
        },
        level => {
            let why = format!("protocol level {level:?} is neither 4 nor 5");
            Err(Malformed { refusal: Some(Refusal::Version), ..malformed(why) })
        }
    }
}

fn connect_v4(connect: v4::Connect) -> Connect {
    let will = connect.last_will.map(|will| Message {
        topic: will.topic,
        payload: will.message,
        acked: will.qos != mqttbytes::QoS::AtMostOnce,
        retain: will.retain,
        properties: None,
    });
    Connect {
        client_id: connect.client_id,
        clean: connect.clean_session,
        expiry_s: if connect.clean_session { 0 } else { u32::MAX },
        keep_alive_s: connect.keep_alive,
        receive_maximum: u16::MAX,
        max_packet: u32::MAX,
        will,
        v5: false,
    }
}

fn connect_v5(connect: v5::Connect, will: Option<v5::LastWill>) -> Result<Connect, Malformed> {
    let will = match will {
        None => None,
        Some(will) => Some(Message {
            topic: String::from_utf8(will.topic.to_vec()).map_err(malformed)?,
            payload: will.message,
            acked: will.qos != v5bytes::QoS::AtMostOnce,
            retain: will.retain,
            properties: None,
        }),
    };
    let properties = connect.properties;
    let (expiry_s, receive_maximum, max_packet) = properties.map_or((None, None, None), |properties| {
        (properties.session_expiry_interval, properties.receive_maximum, properties.max_packet_size)
    });
    if receive_maximum == Some(0) || max_packet == Some(0) {
        return Err(malformed("a receive maximum or packet size of zero"));
    }
    Ok(Connect {
        client_id: connect.client_id,
        clean: connect.clean_start,
        expiry_s: expiry_s.unwrap_or(0),
        keep_alive_s: connect.keep_alive,
        receive_maximum: receive_maximum.unwrap_or(u16::MAX),
        max_packet: max_packet.unwrap_or(u32::MAX),
        will,
        v5: true,
    })
}

fn decode_v4(buffer: &mut BytesMut, max: u32) -> Result<Incoming, Malformed> {
    Ok(match v4::Packet::read(buffer, max as usize).map_err(malformed)? {
        v4::Packet::Publish(publish) => {
            if publish.qos == mqttbytes::QoS::ExactlyOnce {
                return Err(qos_2());
            }
            let message = Message {
                topic: publish.topic,
                // A copy, so that one message kept does not keep the whole read buffer.
                payload: Bytes::copy_from_slice(&publish.payload),
                acked: publish.qos == mqttbytes::QoS::AtLeastOnce,
                retain: publish.retain,
                properties: None,
            };
            Incoming::Publish { pkid: publish.pkid, message }
        }
        v4::Packet::PubAck(ack) => Incoming::PubAck { pkid: ack.pkid, refused: false },
        v4::Packet::Subscribe(subscribe) => {
            let filters = subscribe.filters.into_iter().map(|filter| Subscription {
                filter: filter.path,
                acked: filter.qos != mqttbytes::QoS::AtMostOnce,
                no_local: false,
                keep_retain: false,
                retained: v5::RetainForwardRule::OnEverySubscribe,
                id: None,
            });
            Incoming::Subscribe { pkid: subscribe.pkid, filters: filters.collect() }
        }
        v4::Packet::Unsubscribe(unsubscribe) => {
            Incoming::Unsubscribe { pkid: unsubscribe.pkid, filters: unsubscribe.topics }
        }
        v4::Packet::PingReq => Incoming::Ping,
        v4::Packet::Disconnect => Incoming::Disconnect { with_will: false, expiry_s: None },
        packet => return Err(unexpected(&packet)),
    })
}

fn unexpected(packet: &impl std::fmt::Debug) -> Malformed {
    let why = format!("a client may not send this now: {packet:?}");
    Malformed::new(why, v5::DisconnectReasonCode::ProtocolError)
}

fn decode_v5(buffer: &mut BytesMut, max: u32) -> Result<Incoming, Malformed> {
    // The two short forms of DISCONNECT, which the codec does not read: no reason, and a reason without properties.
    for (short, with_will) in [(2, false), (3, buffer.get(2) == Some(&0x04))] {
        if buffer[0] == 0xE0 && usize::from(buffer[1]) + 2 == short {
            buffer.advance(short);
            return Ok(Incoming::Disconnect { with_will, expiry_s: None });
        }
    }
    Ok(match v5::Packet::read(buffer, Some(max)).map_err(malformed)? {
        v5::Packet::Publish(publish) => publish_v5(publish)?,
        v5::Packet::PubAck(ack) => Incoming::PubAck {
            pkid: ack.pkid,
            refused: !matches!(
                ack.reason,
                v5::PubAckReason::Success | v5::PubAckReason::NoMatchingSubscribers
            ),
        },
        v5::Packet::Subscribe(subscribe) => {
            let id = subscribe.properties.and_then(|properties| properties.id);
            let filters = subscribe.filters.into_iter().map(|filter| Subscription {
                filter: filter.path,
                acked: filter.qos != v5bytes::QoS::AtMostOnce,
                no_local: filter.nolocal,
                keep_retain: filter.preserve_retain,
                retained: filter.retain_forward_rule,
                id,
            });
            Incoming::Subscribe { pkid: subscribe.pkid, filters: filters.collect() }
        }
        v5::Packet::Unsubscribe(unsubscribe) => {
            Incoming::Unsubscribe { pkid: unsubscribe.pkid, filters: unsubscribe.filters }
        }
        v5::Packet::PingReq(_) => Incoming::Ping,
        v5::Packet::Disconnect(bye) => Incoming::Disconnect {
            with_will: bye.reason_code == v5::DisconnectReasonCode::DisconnectWithWillMessage,
            expiry_s: bye.properties.and_then(|properties| properties.session_expiry_interval),
        },
        packet => return Err(unexpected(&packet)),
    })
}

fn publish_v5(publish: v5::Publish) -> Result<Incoming, Malformed> {
    if publish.qos == v5bytes::QoS::ExactlyOnce {
        return Err(qos_2());
    }
    let mut properties = publish.properties;
    if let Some(properties) = &mut properties {
        if properties.topic_alias.is_some() {
            let code = v5::DisconnectReasonCode::TopicAliasInvalid;
            return Err(Malformed::new("a topic alias, though none is allowed", code));
        }
        // Messages do not expire here, and subscription identifiers are ours to set.
        properties.message_expiry_interval = None;
        properties.subscription_identifiers.clear();
    }
    let message = Message {
        topic: String::from_utf8(publish.topic.to_vec()).map_err(malformed)?,
        payload: Bytes::copy_from_slice(&publish.payload),
        acked: publish.qos == v5bytes::QoS::AtLeastOnce,
        retain: publish.retain,
        properties: properties.map(Box::new),
    };
    Ok(Incoming::Publish { pkid: publish.pkid, message })
}

/// None where 3.1.1 has no such packet.
fn v4_packet(packet: &Outgoing<'_>) -> Option<v4::Packet> {
    Some(match packet {
        Outgoing::Accept { session_present, .. } => {
            v4::Packet::ConnAck(v4::ConnAck::new(v4::ConnectReturnCode::Success, *session_present))
        }
        Outgoing::Refuse(why) => {
            let code = match why {
                Refusal::Version => v4::ConnectReturnCode::RefusedProtocolVersion,
                Refusal::ClientId => v4::ConnectReturnCode::BadClientId,
                Refusal::Full => v4::ConnectReturnCode::ServiceUnavailable,
            };
            v4::Packet::ConnAck(v4::ConnAck::new(code, false))
        }
        Outgoing::Publish(delivery) => v4::Packet::Publish(v4::Publish {
            dup: delivery.again,
            qos: if delivery.pkid == 0 { mqttbytes::QoS::AtMostOnce } else { mqttbytes::QoS::AtLeastOnce },
            retain: delivery.retained,
            topic: delivery.message.topic.clone(),
            pkid: delivery.pkid,
            payload: delivery.message.payload.clone(),
        }),
        Outgoing::PubAck { pkid } => v4::Packet::PubAck(v4::PubAck::new(*pkid)),
        Outgoing::SubAck { pkid, granted } => {
            let codes = granted.iter().map(|grant| match grant {
                Grant::Granted { acked: true } => {
                    v4::SubscribeReasonCode::Success(mqttbytes::QoS::AtLeastOnce)
                }
                Grant::Granted { acked: false } => {
                    v4::SubscribeReasonCode::Success(mqttbytes::QoS::AtMostOnce)
                }
                _ => v4::SubscribeReasonCode::Failure,
            });
            v4::Packet::SubAck(v4::SubAck::new(*pkid, codes.collect()))
        }
        Outgoing::UnsubAck { pkid, .. } => v4::Packet::UnsubAck(v4::UnsubAck::new(*pkid)),
        Outgoing::Pong => v4::Packet::PingResp,
        Outgoing::Bye(_) => return None,
    })
}

fn v5_packet(packet: &Outgoing<'_>) -> Option<v5::Packet> {
    Some(match packet {
        Outgoing::Accept { session_present, client_id } => v5::Packet::ConnAck(v5::ConnAck {
            session_present: *session_present,
            code: v5::ConnectReturnCode::Success,
            properties: Some(v5::ConnAckProperties {
                session_expiry_interval: None,
                receive_max: None,
                max_qos: Some(1),
                retain_available: None,
                max_packet_size: None,
                assigned_client_identifier: client_id.map(str::to_owned),
                topic_alias_max: None,
                reason_string: None,
                user_properties: Vec::new(),
                wildcard_subscription_available: None,
                subscription_identifiers_available: None,
                shared_subscription_available: Some(0),
                server_keep_alive: None,
                response_information: None,
                server_reference: None,
                authentication_method: None,
                authentication_data: None,
            }),
        }),
        Outgoing::Refuse(why) => {
            let code = match why {
                Refusal::Version => v5::ConnectReturnCode::UnsupportedProtocolVersion,
                Refusal::ClientId => v5::ConnectReturnCode::ClientIdentifierNotValid,
                Refusal::Full => v5::ConnectReturnCode::QuotaExceeded,
            };
            v5::Packet::ConnAck(v5::ConnAck { session_present: false, code, properties: None })
        }
        Outgoing::Publish(delivery) => v5::Packet::Publish(v5_publish(delivery)),
        Outgoing::PubAck { pkid } => v5::Packet::PubAck(v5::PubAck::new(*pkid, None)),
        Outgoing::SubAck { pkid, granted } => {
            let codes = granted.iter().map(|grant| match grant {
                Grant::Granted { acked: true } => v5::SubscribeReasonCode::Success(v5bytes::QoS::AtLeastOnce),
                Grant::Granted { acked: false } => v5::SubscribeReasonCode::Success(v5bytes::QoS::AtMostOnce),
                Grant::Invalid => v5::SubscribeReasonCode::TopicFilterInvalid,
                Grant::SharedUnsupported => v5::SubscribeReasonCode::SharedSubscriptionsNotSupported,
                Grant::Full => v5::SubscribeReasonCode::QuotaExceeded,
            });
            let return_codes = codes.collect();
            v5::Packet::SubAck(v5::SubAck { pkid: *pkid, return_codes, properties: None })
        }
        Outgoing::UnsubAck { pkid, existed } => {
            let reasons = existed.iter().map(|existed| match existed {
                true => v5::UnsubAckReason::Success,
                false => v5::UnsubAckReason::NoSubscriptionExisted,
            });
            v5::Packet::UnsubAck(v5::UnsubAck { pkid: *pkid, reasons: reasons.collect(), properties: None })
        }
        Outgoing::Pong => v5::Packet::PingResp(v5::PingResp),
        // With an empty set of properties: without one the codec writes a byte more than it announces.
        Outgoing::Bye(code) => v5::Packet::Disconnect(v5::Disconnect {
            reason_code: *code,
            properties: Some(v5::DisconnectProperties {
                session_expiry_interval: None,
                reason_string: None,
                user_properties: Vec::new(),
                server_reference: None,
            }),
        }),
    })
}

fn v5_publish(delivery: &Delivery) -> v5::Publish {
    let mut properties = delivery.message.properties.as_deref().cloned();
    if !delivery.ids.is_empty() {
        properties.get_or_insert_default().subscription_identifiers.clone_from(&delivery.ids);
    }
    v5::Publish {
        dup: delivery.again,
        qos: if delivery.pkid == 0 { v5bytes::QoS::AtMostOnce } else { v5bytes::QoS::AtLeastOnce },
        retain: delivery.retained,
        topic: Bytes::copy_from_slice(delivery.message.topic.as_bytes()),
        pkid: delivery.pkid,
        payload: delivery.message.payload.clone(),
        properties,
    }
}
