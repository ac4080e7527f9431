//! The texts with which RabbitMQ closes channels and connections, each provoked once. Those that need a configuration,
//! other users or more than one node are named in docs/support.md.

use amq_protocol::protocol::{basic, channel, connection, exchange, queue, tx};
use amq_protocol::types::AMQPValue;
use leveret_suite::values::{declare_durable_with, declare_with, int, table, text};
use leveret_suite::{Content, Octets, Peer, Server, say, unique};

/// What a row may use: a queue and an exchange that exist, and names that don't.
struct Names {
    queue: String,
    exchange: String,
    missing: String,
}

/// Code, text behind the condition's name, class and method that are to blame, and what provokes it. In the text `{Q}`
/// is the queue and `{X}` the exchange as texts show them, `{MQ}` and `{MX}` those that don't exist, `{q}` the queue's
/// name.
type Row = (u16, &'static str, (u16, u16), fn(&mut Peer, &Names));

fn condition(code: u16) -> &'static str {
    match code {
        403 => "ACCESS_REFUSED",
        404 => "NOT_FOUND",
        405 => "RESOURCE_LOCKED",
        406 => "PRECONDITION_FAILED",
        501 => "FRAME_ERROR",
        503 => "COMMAND_INVALID",
        504 => "CHANNEL_ERROR",
        505 => "UNEXPECTED_FRAME",
        530 => "NOT_ALLOWED",
        540 => "NOT_IMPLEMENTED",
        other => panic!("a code that no row has: {other}"),
    }
}

/// Provokes a row and returns the text that must come.
#[track_caller]
fn provoke(peer: &mut Peer, row: &Row) -> String {
    let names = Names { queue: peer.queue(1, "q"), exchange: peer.exchange(1, "headers"), missing: unique("missing") };
    row.3(peer, &names);
    let queue = |name: &str| format!("queue '{name}' in vhost '/'");
    let exchange = |name: &str| format!("exchange '{name}' in vhost '/'");
    let text = (row.1.replace("{Q}", &queue(&names.queue)).replace("{X}", &exchange(&names.exchange)))
        .replace("{MQ}", &queue(&names.missing))
        .replace("{MX}", &exchange(&names.missing))
        .replace("{q}", &names.queue);
    let mut text = format!("{} - {text}", condition(row.0));
    if text.len() > 255 {
        text.truncate(252);
        text.push_str("...");
    }
    text
}

fn publish(peer: &mut Peer, exchange: &str, content: Content) {
    peer.publish_content(1, say::publish(exchange, "key"), &content);
}

fn declare_missing(peer: &mut Peer, names: &Names, arguments: &[(&str, AMQPValue)]) {
    peer.send(1, declare_with(&names.missing, arguments));
}

fn quorum(peer: &mut Peer, names: &Names, change: impl FnOnce(&mut queue::Declare)) {
    let mut declare = declare_durable_with(&names.missing, &[("x-queue-type", text("quorum"))]);
    change(&mut declare);
    peer.send(1, declare);
}

const DECLARE: (u16, u16) = (50, 10);
const PUBLISH: (u16, u16) = (60, 40);
const CONSUME: (u16, u16) = (60, 20);

const CHANNEL_ERRORS: &[Row] = &[
    (403, "operation not permitted on the default exchange", (40, 20), |peer, _| {
        peer.send(1, say::delete_exchange(""));
    }),
    (403, "exchange name 'amq.x' contains reserved prefix 'amq.*'", (40, 10), |peer, _| {
        peer.send(1, say::exchange("amq.x", "direct"));
    }),
    (403, "queue name 'amq.x' contains reserved prefix 'amq.*'", DECLARE, |peer, _| {
        peer.send(1, say::declare("amq.x"))
    }),
    (403, "deletion of system exchange 'amq.direct' in vhost '/' not allowed", (40, 20), |peer, _| {
        peer.send(1, say::delete_exchange("amq.direct"));
    }),
    (403, "cannot publish to internal {MX}", PUBLISH, |peer, names| {
        let declare = say::exchange_with(&names.missing, "direct", |declare| declare.internal = true);
        peer.ask::<exchange::DeclareOk>(1, declare);
        publish(peer, &names.missing, Content::new("x"));
    }),
    (403, "{Q} in exclusive use", CONSUME, |peer, names| {
        peer.consume_with(1, &names.queue, "first", |consume| consume.exclusive = true);
        peer.send(1, say::consume(&names.queue, "second"));
    }),
    (404, "no {MQ}", DECLARE, |peer, names| peer.send(1, say::declare_passive(&names.missing))),
    (404, "no {MQ}", (50, 20), |peer, names| peer.send(1, say::bind(&names.missing, &names.exchange, ""))),
    (404, "no {MQ}", (50, 30), |peer, names| peer.send(1, say::purge(&names.missing))),
    (404, "no {MQ}", CONSUME, |peer, names| peer.send(1, say::consume(&names.missing, "c"))),
    (404, "no {MQ}", (60, 70), |peer, names| peer.send(1, say::get(&names.missing))),
    (404, "no {MX}", (40, 10), |peer, names| peer.send(1, say::exchange_passive(&names.missing))),
    (404, "no {MX}", (50, 20), |peer, names| peer.send(1, say::bind(&names.queue, &names.missing, ""))),
    (404, "no {MX}", (40, 30), |peer, names| {
        let bind = exchange::Bind {
            destination: names.exchange.as_str().into(),
            source: names.missing.as_str().into(),
            ..Default::default()
        };
        peer.send(1, bind);
    }),
    (404, "no {MX}", PUBLISH, |peer, names| publish(peer, &names.missing, Content::new("x"))),
    (404, "no previously declared queue", (60, 70), |peer, _| {
        peer.close_channel(1);
        peer.open_channel(1);
        peer.send(1, say::get(""));
    }),
    (
        405,
        "cannot obtain exclusive access to locked {Q}. It could be originally declared on another connection or the \
         exclusive property value does not match that of the original declaration.",
        DECLARE,
        |peer, names| peer.send(1, say::declare_with(&names.queue, |declare| declare.exclusive = true)),
    ),
    (
        405,
        "cannot obtain access to locked {MQ}. basic.get operations are not supported by quorum queues with single \
         active consumer",
        (60, 70),
        |peer, names| {
            let single = [("x-queue-type", text("quorum")), ("x-single-active-consumer", AMQPValue::Boolean(true))];
            peer.ask::<queue::DeclareOk>(1, declare_durable_with(&names.missing, &single));
            peer.send(1, say::get(&names.missing));
        },
    ),
    (406, "inequivalent arg 'durable' for {Q}: received 'true' but current is 'false'", DECLARE, |peer, names| {
        peer.send(1, declare_durable_with(&names.queue, &[]));
    }),
    (
        406,
        "inequivalent arg 'x-max-length' for {Q}: received the value '1' of type 'signedint' but current is none",
        DECLARE,
        |peer, names| peer.send(1, declare_with(&names.queue, &[("x-max-length", int(1))])),
    ),
    (406, "inequivalent arg 'type' for {X}: received 'direct' but current is 'headers'", (40, 10), |peer, names| {
        peer.send(1, say::exchange(&names.exchange, "direct"));
    }),
    (406, "invalid arg 'x-max-length' for {MQ}: {value_negative,-1}", DECLARE, |peer, names| {
        declare_missing(peer, names, &[("x-max-length", int(-1))]);
    }),
    (406, "invalid arg 'x-max-age' for {MQ} of queue type rabbit_classic_queue", DECLARE, |peer, names| {
        declare_missing(peer, names, &[("x-max-age", text("1h"))]);
    }),
    (406, "invalid arg 'x-stream-offset' for {Q} of queue type rabbit_classic_queue", CONSUME, |peer, names| {
        let consume = say::consume_with(&names.queue, "c", |consume| {
            consume.arguments = table(&[("x-stream-offset", text("first"))]);
        });
        peer.send(1, consume);
    }),
    (406, "invalid type 'signedint' for arg 'x-dead-letter-exchange' in {MQ}", DECLARE, |peer, names| {
        declare_missing(peer, names, &[("x-dead-letter-exchange", int(1))]);
    }),
    (406, "invalid type 'signedint' for arg 'alternate-exchange' in {MX}", (40, 10), |peer, names| {
        let declare = say::exchange_with(&names.missing, "direct", |declare| {
            declare.arguments = table(&[("alternate-exchange", int(1))]);
        });
        peer.send(1, declare);
    }),
    (406, "invalid property 'auto-delete' for {MQ}", DECLARE, |peer, names| {
        quorum(peer, names, |declare| declare.auto_delete = true);
    }),
    (406, "Cannot declare a server-named queue for type rabbit_quorum_queue", DECLARE, |peer, names| {
        quorum(peer, names, |declare| declare.queue = "".into());
    }),
    (406, "{X} in use", (40, 20), |peer, names| {
        peer.bind(1, &names.queue, &names.exchange, "");
        let delete = exchange::Delete { exchange: names.exchange.as_str().into(), if_unused: true, nowait: false };
        peer.send(1, delete);
    }),
    (406, "{Q} in use", (50, 40), |peer, names| {
        peer.consume(1, &names.queue, "c");
        peer.send(1, say::delete_with(&names.queue, |delete| delete.if_unused = true));
    }),
    (406, "{Q} not empty", (50, 40), |peer, names| {
        peer.publish(1, "", &names.queue, "x");
        peer.expect_counts(1, &names.queue, (1, 0));
        peer.send(1, say::delete_with(&names.queue, |delete| delete.if_empty = true));
    }),
    (406, "unknown delivery tag 82", (60, 80), |peer, _| peer.send(1, say::ack(82))),
    (406, "unknown delivery tag 82", (60, 120), |peer, _| peer.send(1, say::nack(82, true))),
    (406, "unknown delivery tag 82", (60, 90), |peer, _| peer.send(1, say::reject(82, true))),
    (406, "invalid expiration 'e': no_integer", PUBLISH, |peer, names| {
        publish(peer, &names.exchange, Content::with(1 << 8, Octets::new().shortstr("e"), "x"));
    }),
    (406, "invalid message: {unacceptable_type_in_header,\"CC\",signedint}", PUBLISH, |peer, names| {
        publish(peer, &names.exchange, Content::with_headers(Octets::new().entry("CC", b'I', [0; 4]), "x"));
    }),
    (406, "user_id property set to 'x' but authenticated user was 'guest'", PUBLISH, |peer, names| {
        publish(peer, &names.exchange, Content::with(1 << 4, Octets::new().shortstr("x"), "x"));
    }),
    (406, "reply consumer already set", CONSUME, |peer, _| {
        let consume = |tag| say::consume_with("amq.rabbitmq.reply-to", tag, |consume| consume.no_ack = true);
        peer.ask::<basic::ConsumeOk>(1, consume("one"));
        peer.send(1, consume("two"));
    }),
    (406, "reply consumer cannot acknowledge", CONSUME, |peer, _| {
        peer.send(1, say::consume("amq.rabbitmq.reply-to", "c"));
    }),
    (406, "fast reply consumer does not exist", PUBLISH, |peer, names| {
        let reply_to = Octets::new().shortstr("amq.rabbitmq.reply-to");
        publish(peer, &names.exchange, Content::with(1 << 9, reply_to, "x"));
    }),
    (406, "cannot switch from tx to confirm mode", (85, 10), |peer, _| {
        peer.ask::<tx::SelectOk>(1, tx::Select {});
        peer.send(1, say::confirm());
    }),
    (406, "cannot switch from confirm to tx mode", (90, 10), |peer, _| {
        peer.select_confirms(1);
        peer.send(1, tx::Select {});
    }),
    (406, "channel is not transactional", (90, 20), |peer, _| peer.send(1, tx::Commit {})),
    (406, "channel is not transactional", (90, 30), |peer, _| peer.send(1, tx::Rollback {})),
    (406, "partial tx completion", (90, 20), |peer, names| {
        let full = [("x-max-length", int(0)), ("x-overflow", text("reject-publish"))];
        peer.ask::<queue::DeclareOk>(1, declare_with(&names.missing, &full));
        peer.ask::<tx::SelectOk>(1, tx::Select {});
        peer.publish(1, "", &names.missing, "x");
        peer.send(1, tx::Commit {});
    }),
    (
        406,
        "Invalid x-match field value <<\"v\">>; expected all, any, all-with-x, or any-with-x",
        (50, 20),
        |peer, names| bind_with(peer, names, text("v")),
    ),
    (406, "Invalid x-match field type signedint (value 5); expected longstr", (50, 20), |peer, names| {
        bind_with(peer, names, int(5));
    }),
];

fn bind_with(peer: &mut Peer, names: &Names, x_match: AMQPValue) {
    let arguments = table(&[("x-match", x_match)]);
    peer.send(1, queue::Bind { arguments, ..say::bind(&names.queue, &names.exchange, "") });
}

const CONNECTION_ERRORS: &[Row] = &[
    (503, "unimplemented method", (10, 50), |peer, _| {
        peer.send(1, connection::Close { reply_code: 200, ..Default::default() });
    }),
    (504, "expected 'channel.open'", (50, 10), |peer, _| peer.send(2, say::declare("q"))),
    (504, "second 'channel.open' seen", (20, 10), |peer, _| peer.send(1, channel::Open {})),
    (504, "unexpected method in connection state running", (50, 10), |peer, _| peer.send(0, say::declare("q"))),
    (505, "expected method frame, got non method frame instead", (0, 0), |peer, _| {
        peer.send_frame(leveret_suite::Frame::new(leveret_suite::peer::kind::BODY, 1, "x"));
    }),
    (505, "expected content header for class 60, got non content header frame instead", PUBLISH, |peer, _| {
        peer.send(1, say::publish("", ""));
        peer.send(1, say::declare("q"));
    }),
    (505, "expected content header for class 60, got one for class 10 instead", PUBLISH, |peer, _| {
        peer.send(1, say::publish("", ""));
        let header = Octets::new().u16(10).u16(0).u64(1).u16(0);
        peer.send_frame(leveret_suite::Frame::new(leveret_suite::peer::kind::HEADER, 1, header));
    }),
    (505, "expected content body, got non content body frame instead", PUBLISH, |peer, _| {
        peer.send(1, say::publish("", ""));
        peer.send_frame(leveret_suite::Frame::new(leveret_suite::peer::kind::HEADER, 1, Octets::header(1, 0)));
        peer.send(1, say::declare("q"));
    }),
    (530, "attempt to reuse consumer tag 't'", CONSUME, |peer, names| {
        peer.consume(1, &names.queue, "t");
        peer.send(1, say::consume(&names.queue, "t"));
    }),
    (540, "immediate=true", PUBLISH, |peer, _| {
        let publish = basic::Publish { immediate: true, ..say::publish("", "key") };
        peer.publish_content(1, publish, &Content::new("x"));
    }),
    (540, "prefetch_size!=0 (7)", (60, 10), |peer, _| {
        peer.send_payload(1, Octets::method(60, 10).u32(7).u16(0).u8(0));
    }),
    (540, "active=false", (20, 20), |peer, _| peer.send(1, channel::Flow { active: false })),
    (540, "requeue=false", (60, 110), |peer, _| peer.send(1, say::recover(false))),
    (540, "requeue=false", (60, 100), |peer, _| peer.send(1, say::recover_async(false))),
    (540, "{MQ} does not support global qos", CONSUME, |peer, names| {
        quorum(peer, names, |_| {});
        peer.expect::<queue::DeclareOk>(1);
        peer.qos(1, 1, true);
        peer.send(1, say::consume(&names.missing, "c"));
    }),
    (
        540,
        "cannot delete {MQ}. queue.delete operations with if-unused flag set are not supported by quorum queues",
        (50, 40),
        |peer, names| {
            quorum(peer, names, |_| {});
            peer.expect::<queue::DeclareOk>(1);
            peer.send(1, say::delete_with(&names.missing, |delete| delete.if_unused = true));
        },
    ),
];

#[test]
fn every_text_of_a_channel_error_comes_with_the_method_that_failed() {
    let mut peer = Server::start().peer();
    for row in CHANNEL_ERRORS {
        let text = provoke(&mut peer, row);
        peer.expect_channel_close(1, row.0, &text, row.2);
        peer.open_channel(1);
    }
}

#[test]
fn every_text_of_a_connection_error_comes_with_the_method_that_failed() {
    for row in CONNECTION_ERRORS {
        let mut peer = Server::start().peer();
        let text = provoke(&mut peer, row);
        peer.expect_connection_close(row.0, &text, row.2);
    }
}
