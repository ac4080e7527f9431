//! The exchanges of frames that nearly every conversation has, one line each.

use crate::method::{Method, Octets};
use crate::peer::{Frame, Peer, kind};
use crate::say;
use crate::server::Server;
use amq_protocol::protocol::{AMQPClass, basic, channel, confirm, connection, exchange, queue};
use std::time::{Duration, Instant};

/// The default largest payload of a body frame: a frame_max of 131,072 less the frame's own 8 octets.
pub(crate) const BODY_PIECE: usize = 131_072 - 8;

/// What a message consists of besides its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// The property flags and the properties, as on the wire.
    pub properties: Vec<u8>,
    /// The body.
    pub body: Vec<u8>,
}

impl Content {
    /// A body without any property.
    pub fn new(body: impl AsRef<[u8]>) -> Content {
        Content { properties: vec![0, 0], body: body.as_ref().to_vec() }
    }

    /// A body with delivery-mode 2.
    pub fn persistent(body: impl AsRef<[u8]>) -> Content {
        Content::with(1 << 12, [2], body)
    }

    /// A body with headers, given as table entries.
    pub fn with_headers(headers: impl AsRef<[u8]>, body: impl AsRef<[u8]>) -> Content {
        Content::with(1 << 13, Octets::new().longstr(headers), body)
    }

    /// A body with these property flags and the properties' octets.
    pub fn with(flags: u16, properties: impl AsRef<[u8]>, body: impl AsRef<[u8]>) -> Content {
        Content { properties: Octets::new().u16(flags).bytes(properties).0, body: body.as_ref().to_vec() }
    }

    /// The payload of the content header.
    pub fn header(&self) -> Octets {
        Octets::new().u16(60).u16(0).u64(self.body.len() as u64).bytes(&self.properties)
    }

    /// The body, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// basic.deliver and its content.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// To which consumer.
    pub consumer_tag: String,
    /// The number to settle it by.
    pub delivery_tag: u64,
    /// Whether it was given to somebody before.
    pub redelivered: bool,
    /// The exchange it was published to.
    pub exchange: String,
    /// The routing key it was published with.
    pub routing_key: String,
    /// Its properties and body.
    pub content: Content,
}

impl Delivery {
    /// The body, as text.
    pub fn text(&self) -> String {
        self.content.text()
    }
}

/// Channels and connections.
impl Peer {
    /// channel.open, open-ok.
    #[track_caller]
    pub fn open_channel(&mut self, channel: u16) {
        self.send(channel, channel::Open {});
        self.expect::<channel::OpenOk>(channel);
    }

    /// channel.close, close-ok.
    #[track_caller]
    pub fn close_channel(&mut self, channel: u16) {
        self.send(channel, say::close_channel());
        self.expect::<channel::CloseOk>(channel);
    }

    /// connection.close, close-ok, end.
    #[track_caller]
    pub fn close(mut self) {
        self.send(0, connection::Close { reply_code: 200, ..Default::default() });
        self.expect::<connection::CloseOk>(0);
    }

    /// channel.flow, flow-ok: everything sent on the channel before has been looked at, and nothing else has come.
    #[track_caller]
    pub fn in_step(&mut self, channel: u16) {
        self.send(channel, channel::Flow { active: true });
        self.expect::<channel::FlowOk>(channel);
    }

    /// Asks for something and expects the reply next.
    #[track_caller]
    pub fn ask<Reply: Method>(&mut self, channel: u16, method: impl Method) -> Reply {
        self.send(channel, method);
        self.expect(channel)
    }

    /// Sends a method, which must close the channel for this reason.
    #[track_caller]
    pub fn refused(&mut self, channel: u16, method: impl Method, code: u16, text: &str) {
        let payload = method.payload();
        let ids = method_ids(&payload);
        self.send_payload(channel, payload);
        self.expect_channel_close(channel, code, text, ids);
    }

    /// Sends a method, which must close the connection for this reason.
    #[track_caller]
    pub fn fails(&mut self, channel: u16, method: impl Method, code: u16, text: &str) {
        let payload = method.payload();
        let ids = method_ids(&payload);
        self.send_payload(channel, payload);
        self.expect_connection_close(code, text, ids);
    }
}

/// The class and method id that a method frame's payload begins with.
fn method_ids(payload: &[u8]) -> (u16, u16) {
    let ids: &[u8; 4] = payload.first_chunk().expect("a method frame's payload");
    (u16::from_be_bytes([ids[0], ids[1]]), u16::from_be_bytes([ids[2], ids[3]]))
}

/// Queues and exchanges.
impl Peer {
    /// queue.declare of a transient, shared queue of a new name, which is returned.
    #[track_caller]
    pub fn queue(&mut self, channel: u16, name: &str) -> String {
        let name = crate::unique(name);
        self.ask::<queue::DeclareOk>(channel, say::declare(&name));
        name
    }

    /// exchange.declare of a transient exchange of a new name, which is returned.
    #[track_caller]
    pub fn exchange(&mut self, channel: u16, kind: &str) -> String {
        let name = crate::unique(kind);
        self.ask::<exchange::DeclareOk>(channel, say::exchange(&name, kind));
        name
    }

    /// queue.bind, bind-ok.
    #[track_caller]
    pub fn bind(&mut self, channel: u16, queue: &str, exchange: &str, key: &str) {
        self.ask::<queue::BindOk>(channel, say::bind(queue, exchange, key));
    }

    /// queue.declare, passive: ready messages and consumers.
    #[track_caller]
    pub fn counts(&mut self, channel: u16, queue: &str) -> (u32, u32) {
        let ok: queue::DeclareOk = self.ask(channel, say::declare_passive(queue));
        (ok.message_count, ok.consumer_count)
    }

    /// The queue must have that many ready messages and consumers. RabbitMQ answers ahead of work that still waits, so a
    /// given broker is asked again for a while; ours is asked once.
    #[track_caller]
    pub fn expect_counts(&mut self, channel: u16, queue: &str, expected: (u32, u32)) {
        let start = Instant::now();
        let mut counts = self.counts(channel, queue);
        while Server::is_given() && counts != expected && start.elapsed() < Duration::from_secs(2) {
            counts = self.counts(channel, queue);
        }
        assert_eq!(counts, expected, "ready messages and consumers of {queue} (left: are, right: expected)");
    }

    /// queue.declare, passive, must give 404.
    #[track_caller]
    pub fn expect_no_queue(&mut self, channel: u16, queue: &str) {
        let text = format!("NOT_FOUND - no queue '{queue}' in vhost '/'");
        self.refused(channel, say::declare_passive(queue), 404, &text);
        self.open_channel(channel);
    }
}

/// Messages.
impl Peer {
    /// basic.publish without any property or flag.
    #[track_caller]
    pub fn publish(&mut self, channel: u16, exchange: &str, key: &str, body: impl AsRef<[u8]>) {
        self.publish_content(channel, say::publish(exchange, key), &Content::new(body));
    }

    /// basic.publish straight into a queue, one message for each body.
    #[track_caller]
    pub fn publish_all(&mut self, channel: u16, queue: &str, bodies: &[&str]) {
        for body in bodies {
            self.publish(channel, "", queue, body);
        }
    }

    /// basic.publish with its content, in as few frames as the default frame_max allows.
    #[track_caller]
    pub fn publish_content(&mut self, channel: u16, method: basic::Publish, content: &Content) {
        let mut octets = Frame::new(kind::METHOD, channel, method.payload()).octets();
        octets.extend(Frame::new(kind::HEADER, channel, content.header()).octets());
        for piece in content.body.chunks(BODY_PIECE) {
            octets.extend(Frame::new(kind::BODY, channel, piece).octets());
        }
        self.send_octets(octets);
    }

    /// The content that follows a method: a header frame, then as many body frames as its size asks for.
    #[track_caller]
    pub fn expect_content(&mut self, channel: u16) -> Content {
        self.expect_content_in_pieces(channel).0
    }

    /// As [`Peer::expect_content`], with the sizes of the body frames.
    #[track_caller]
    pub fn expect_content_in_pieces(&mut self, channel: u16) -> (Content, Vec<usize>) {
        let header = self.expect_frame(kind::HEADER, channel);
        assert_eq!(header[..4], [0, 60, 0, 0], "class basic, weight 0");
        let size = u64::from_be_bytes(header[4..12].try_into().expect("eight octets")) as usize;
        let mut content = Content { properties: header[12..].to_vec(), body: Vec::new() };
        let mut pieces = Vec::new();
        while content.body.len() < size {
            let piece = self.expect_frame(kind::BODY, channel);
            pieces.push(piece.len());
            content.body.extend(piece);
        }
        assert_eq!(content.body.len(), size, "no more body than the header has announced");
        (content, pieces)
    }

    /// basic.consume with acknowledgements under a tag, consume-ok.
    #[track_caller]
    pub fn consume(&mut self, channel: u16, queue: &str, tag: &str) {
        self.consume_with(channel, queue, tag, |_| {});
    }

    /// basic.consume changed by `change`, consume-ok.
    #[track_caller]
    pub fn consume_with(&mut self, channel: u16, queue: &str, tag: &str, change: impl FnOnce(&mut basic::Consume)) {
        let ok: basic::ConsumeOk = self.ask(channel, say::consume_with(queue, tag, change));
        assert_eq!(ok.consumer_tag.as_str(), tag, "consume-ok for the same tag");
    }

    /// basic.cancel, cancel-ok.
    #[track_caller]
    pub fn cancel(&mut self, channel: u16, tag: &str) {
        let ok: basic::CancelOk = self.ask(channel, say::cancel(tag));
        assert_eq!(ok.consumer_tag.as_str(), tag, "cancel-ok for the same tag");
    }

    /// basic.qos, qos-ok.
    #[track_caller]
    pub fn qos(&mut self, channel: u16, count: u16, global: bool) {
        self.ask::<basic::QosOk>(channel, say::qos(count, global));
    }

    /// The next frames must be a delivery.
    #[track_caller]
    pub fn expect_delivery(&mut self, channel: u16) -> Delivery {
        let deliver: basic::Deliver = self.expect(channel);
        let content = self.expect_content(channel);
        Delivery {
            consumer_tag: deliver.consumer_tag.to_string(),
            delivery_tag: deliver.delivery_tag,
            redelivered: deliver.redelivered,
            exchange: deliver.exchange.to_string(),
            routing_key: deliver.routing_key.to_string(),
            content,
        }
    }

    /// The next frames must be deliveries with exactly these bodies.
    #[track_caller]
    pub fn expect_deliveries(&mut self, channel: u16, bodies: &[&str]) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        for body in bodies {
            let delivery = self.expect_delivery(channel);
            assert_eq!(delivery.text(), *body, "the next delivery's body, after {} others", deliveries.len());
            deliveries.push(delivery);
        }
        deliveries
    }

    /// No consumer of this peer gets anything now from the queue: its answer comes first.
    #[track_caller]
    pub fn expect_no_delivery(&mut self, channel: u16, queue: &str) {
        self.counts(channel, queue);
        self.in_step(channel);
    }

    /// basic.get, which must find a message; with acknowledgement.
    #[track_caller]
    pub fn get(&mut self, channel: u16, queue: &str) -> (basic::GetOk, Content) {
        let ok = self.ask(channel, say::get(queue));
        (ok, self.expect_content(channel))
    }

    /// basic.get without acknowledgement, which must find a message with this body.
    #[track_caller]
    pub fn take(&mut self, channel: u16, queue: &str, body: &str) -> basic::GetOk {
        let ok: basic::GetOk = self.ask(channel, say::get_no_ack(queue));
        assert_eq!(self.expect_content(channel).text(), body, "the body that basic.get finds");
        ok
    }

    /// The ready messages of a queue, all of them, by basic.get without acknowledgement: bodies and redelivered flags.
    #[track_caller]
    pub fn drain(&mut self, channel: u16, queue: &str) -> Vec<(String, bool)> {
        let mut messages = Vec::new();
        loop {
            self.send(channel, say::get_no_ack(queue));
            let frame = self.frame();
            match frame.method() {
                Some(AMQPClass::Basic(basic::AMQPMethod::GetOk(ok))) => {
                    messages.push((self.expect_content(channel).text(), ok.redelivered));
                }
                Some(AMQPClass::Basic(basic::AMQPMethod::GetEmpty(_))) => return messages,
                _ => {
                    panic!("expected basic.GetOk or GetEmpty on channel {channel}, came {frame:?}")
                }
            }
        }
    }

    /// The bodies of a queue's ready messages must be these; they are gone afterwards.
    #[track_caller]
    pub fn expect_contents(&mut self, channel: u16, queue: &str, bodies: &[&str]) {
        let found: Vec<String> = self.drain(channel, queue).into_iter().map(|(body, _)| body).collect();
        assert_eq!(found, bodies, "the messages of {queue} (left: are, right: expected)");
    }

    /// confirm.select, select-ok.
    #[track_caller]
    pub fn select_confirms(&mut self, channel: u16) {
        self.ask::<confirm::SelectOk>(channel, say::confirm());
    }

    /// Confirms until the last of `count` publishes has got one; there must be no other frame and no nack.
    #[track_caller]
    pub fn expect_confirms(&mut self, channel: u16, count: u64) {
        let mut open: std::collections::BTreeSet<u64> = (1..=count).collect();
        while !open.is_empty() {
            let ack: basic::Ack = self.expect(channel);
            if ack.multiple {
                open.retain(|number| *number > ack.delivery_tag);
            } else {
                assert!(open.remove(&ack.delivery_tag), "a second confirm for {}", ack.delivery_tag);
            }
        }
    }

    /// The next frames must be basic.return: its method and content.
    #[track_caller]
    pub fn expect_return(&mut self, channel: u16) -> (basic::Return, Content) {
        let method = self.expect(channel);
        (method, self.expect_content(channel))
    }
}
