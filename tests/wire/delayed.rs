//! x-delayed-message exchanges, as RabbitMQ's plugin has them. A given broker need not have the plugin, so this is
//! always about our own. Delays that tests can't wait for are in tests/virtual_time.rs.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use amq_protocol::protocol::{basic, exchange, queue, tx};
use amq_protocol::types::{AMQPValue, FieldTable};
use leveret_suite::durable::{Durable, End};
use leveret_suite::{Content, Octets, Peer, Server, say, unique};

/// A delay that is over while a test waits, in milliseconds.
const SHORT: i32 = 700;
/// One that is not.
const LONG: i32 = 60_000;

fn peer() -> Peer {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::start_with(&["--storage", "memory"])).peer()
}

fn delayed_type(kind: &str) -> FieldTable {
    let mut table = FieldTable::default();
    table.insert("x-delayed-type".into(), AMQPValue::LongString(kind.into()));
    table
}

fn declare(name: &str, kind: &str) -> exchange::Declare {
    say::exchange_with(name, "x-delayed-message", |declare| declare.arguments = delayed_type(kind))
}

/// A new exchange that holds back, and routes as `kind`.
fn new_exchange(peer: &mut Peer, kind: &str) -> String {
    let name = unique("delayed");
    peer.ask::<exchange::DeclareOk>(1, declare(&name, kind));
    name
}

/// Such an exchange with a queue that gets everything.
fn bound(peer: &mut Peer) -> (String, String) {
    let exchange = new_exchange(peer, "fanout");
    let queue = peer.queue(1, "due");
    peer.bind(1, &queue, &exchange, "");
    (exchange, queue)
}

fn delay(milliseconds: i32) -> Octets {
    Octets::new().entry("x-delay", b'I', milliseconds.to_be_bytes())
}

fn after(milliseconds: i32, body: impl AsRef<[u8]>) -> Content {
    Content::with_headers(delay(milliseconds), body)
}

fn publish(peer: &mut Peer, exchange: &str, key: &str, milliseconds: i32, body: &str) {
    peer.publish_content(1, say::publish(exchange, key), &after(milliseconds, body));
}

/// The next delivery, with the text of its body.
#[track_caller]
fn next(peer: &mut Peer, body: &str) -> Content {
    let delivery = peer.expect_delivery(1);
    assert_eq!(delivery.text(), body);
    delivery.content
}

fn consume(peer: &mut Peer, queue: &str) {
    peer.consume_with(1, queue, "c", |consume| consume.no_ack = true);
}

// Declaring

#[test]
fn a_missing_or_unknown_delayed_type_is_406() {
    let name = unique("delayed");
    let refused = |declare: exchange::Declare, text: &str| {
        peer().refused(1, declare, 406, &format!("PRECONDITION_FAILED - {text}"));
    };
    let missing = "Invalid argument, 'x-delayed-type' must be an existing exchange type";
    refused(say::exchange(&name, "x-delayed-message"), missing);
    let mut number = declare(&name, "direct");
    number.arguments.insert("x-delayed-type".into(), AMQPValue::LongInt(1));
    refused(number, missing);
    refused(declare(&name, "nonsense"), "unknown exchange type 'nonsense'");
    let itself = "Invalid argument, 'x-delayed-message' can't be used for 'x-delayed-type'";
    refused(declare(&name, "x-delayed-message"), itself);
}

#[test]
fn what_the_delayed_type_minds_about_arguments_and_bindings_is_minded() {
    let mut peer = peer();
    let mut both = declare(&unique("delayed"), "x-consistent-hash");
    for name in ["hash-header", "hash-property"] {
        both.arguments.insert(name.into(), AMQPValue::LongString("message_id".into()));
    }
    let text = "PRECONDITION_FAILED - hash-header and hash-property are mutually exclusive";
    peer.refused(1, both, 406, text);
    peer.open_channel(1);
    let exchange = new_exchange(&mut peer, "x-consistent-hash");
    let queue = peer.queue(1, "hashed");
    let text = "PRECONDITION_FAILED - The binding key must be greater than 0";
    peer.refused(1, say::bind(&queue, &exchange, "0"), 406, text);
}

#[test]
fn declared_again_it_is_equivalent_by_its_own_type() {
    let mut peer = peer();
    let name = new_exchange(&mut peer, "direct");
    peer.ask::<exchange::DeclareOk>(1, declare(&name, "direct"));
    peer.ask::<exchange::DeclareOk>(1, declare(&name, "topic"));
    let text = format!(
        "PRECONDITION_FAILED - inequivalent arg 'type' for exchange '{name}' in vhost '/': received 'direct' but \
         current is 'x-delayed-message'"
    );
    peer.refused(1, say::exchange(&name, "direct"), 406, &text);
}

// Delaying

#[test]
fn the_header_x_delay_delays_routing() {
    let mut peer = peer();
    let (exchange, queue) = bound(&mut peer);
    consume(&mut peer, &queue);
    let start = Instant::now();
    publish(&mut peer, &exchange, "", SHORT, "delayed");
    peer.expect_no_delivery(1, &queue);
    next(&mut peer, "delayed");
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(SHORT as u64), "after {took:?} already");
}

#[test]
fn without_the_header_it_routes_at_once() {
    let mut peer = peer();
    let (exchange, queue) = bound(&mut peer);
    peer.publish(1, &exchange, "", "no headers");
    let other = Octets::new().entry_str("other", "header");
    peer.publish_content(1, say::publish(&exchange, ""), &Content::with_headers(other, "another header"));
    publish(&mut peer, &exchange, "", 0, "zero");
    publish(&mut peer, &exchange, "", -SHORT, "below zero");
    peer.expect_contents(1, &queue, &["no headers", "another header", "zero", "below zero"]);
}

#[test]
fn strings_and_floats_are_converted_and_anything_else_is_no_delay() {
    let mut peer = peer();
    let (exchange, queue) = bound(&mut peer);
    let values = [
        ("text", Octets::new().entry_str("x-delay", &SHORT.to_string())),
        ("double", Octets::new().entry("x-delay", b'd', f64::from(SHORT).to_be_bytes())),
        ("long", Octets::new().entry("x-delay", b'l', i64::from(SHORT).to_be_bytes())),
        ("no number", Octets::new().entry_str("x-delay", "soon")),
        ("boolean", Octets::new().entry("x-delay", b't', [1])),
        ("too long", Octets::new().entry("x-delay", b'l', (1i64 << 32).to_be_bytes())),
        ("void", Octets::new().entry("x-delay", b'V', [])),
    ];
    for (body, headers) in values {
        peer.publish_content(1, say::publish(&exchange, ""), &Content::with_headers(headers, body));
    }
    peer.expect_contents(1, &queue, &["no number", "boolean", "too long", "void"]);
    consume(&mut peer, &queue);
    for body in ["text", "double", "long"] {
        let content = next(&mut peer, body);
        assert_eq!(content, after(-SHORT, body));
    }
}

#[test]
fn the_header_is_delivered_with_its_sign_inverted_and_all_else_as_it_was() {
    let mut peer = peer();
    let (exchange, queue) = bound(&mut peer);
    consume(&mut peer, &queue);
    let with = |milliseconds: i32| {
        let headers = Octets::new().entry_str("a", "1").bytes(delay(milliseconds));
        let properties = Octets::new().shortstr("type").longstr(headers).u8(2).u8(7);
        Content::with(1 << 15 | 1 << 13 | 1 << 12 | 1 << 11, properties, "body")
    };
    peer.publish_content(1, say::publish(&exchange, "key"), &with(SHORT));
    let delivery = peer.expect_delivery(1);
    assert_eq!(delivery.content, with(-SHORT));
    assert_eq!((delivery.exchange, delivery.routing_key, delivery.redelivered), (exchange, "key".into(), false));
}

#[test]
fn what_is_due_first_is_routed_first_and_equal_delays_keep_the_order_of_publishes() {
    let mut peer = peer();
    let (exchange, queue) = bound(&mut peer);
    consume(&mut peer, &queue);
    for (milliseconds, body) in [(1500, "f"), (600, "b"), (1000, "d"), (600, "c"), (300, "a"), (1000, "e")] {
        publish(&mut peer, &exchange, "", milliseconds, body);
    }
    peer.expect_deliveries(1, &["a", "b", "c", "d", "e", "f"]);
}

#[test]
fn it_routes_as_its_delayed_type_says() {
    let mut peer = peer();
    let of = |peer: &mut Peer, kind: &str, key: &str| {
        let exchange = new_exchange(peer, kind);
        let queue = peer.queue(1, kind);
        peer.bind(1, &queue, &exchange, key);
        (exchange, queue)
    };
    let (direct, direct_queue) = of(&mut peer, "direct", "key");
    let (topic, topic_queue) = of(&mut peer, "topic", "a.*");
    let headers = new_exchange(&mut peer, "headers");
    let headers_queue = peer.queue(1, "headers");
    let bind = Octets::method(50, 20).u16(0).shortstr(&headers_queue).shortstr(&headers).shortstr("").u8(0);
    peer.send_payload(1, bind.longstr(Octets::new().entry_str("colour", "red")));
    peer.expect::<queue::BindOk>(1);
    for (exchange, key) in [(&direct, "key"), (&direct, "other"), (&topic, "a.b"), (&topic, "b.a")] {
        publish(&mut peer, exchange, key, SHORT, key);
    }
    let red = delay(SHORT).entry_str("colour", "red");
    peer.publish_content(1, say::publish(&headers, ""), &Content::with_headers(red, "red"));
    publish(&mut peer, &headers, "", SHORT, "colourless");
    // What is due last says that all the others were routed.
    let (last, last_queue) = bound(&mut peer);
    consume(&mut peer, &last_queue);
    publish(&mut peer, &last, "", SHORT + 200, "last");
    next(&mut peer, "last");
    peer.expect_contents(1, &direct_queue, &["key"]);
    peer.expect_contents(1, &topic_queue, &["a.b"]);
    peer.expect_contents(1, &headers_queue, &["red"]);
}

#[test]
fn it_is_routed_by_the_bindings_there_are_when_it_is_due() {
    let mut peer = peer();
    let (exchange, before) = bound(&mut peer);
    publish(&mut peer, &exchange, "", SHORT, "late");
    peer.ask::<queue::UnbindOk>(1, say::unbind(&before, &exchange, ""));
    let bound_since = peer.queue(1, "since");
    peer.bind(1, &bound_since, &exchange, "");
    consume(&mut peer, &bound_since);
    next(&mut peer, "late");
    peer.expect_contents(1, &before, &[]);
}

// With everything else

#[test]
fn a_mandatory_message_that_is_delayed_is_returned_at_once_and_routed_all_the_same() {
    let mut peer = peer();
    let (exchange, queue) = bound(&mut peer);
    consume(&mut peer, &queue);
    peer.select_confirms(1);
    peer.publish_content(1, say::publish_mandatory(&exchange, "k"), &after(SHORT, "returned"));
    let (returned, content) = peer.expect_return(1);
    assert_eq!((returned.reply_code, returned.reply_text.as_str()), (312, "NO_ROUTE"));
    assert_eq!(content, after(SHORT, "returned"));
    peer.expect_confirms(1, 1);
    next(&mut peer, "returned");
}

#[test]
fn the_alternate_exchange_gets_a_delayed_message_at_once_and_again_if_it_is_unroutable_when_due() {
    let mut peer = peer();
    let alternate = peer.exchange(1, "fanout");
    let queue = peer.queue(1, "alternate");
    peer.bind(1, &queue, &alternate, "");
    let exchange = unique("delayed");
    let mut with_alternate = declare(&exchange, "direct");
    with_alternate.arguments.insert("alternate-exchange".into(), AMQPValue::LongString(alternate.as_str().into()));
    peer.ask::<exchange::DeclareOk>(1, with_alternate);
    consume(&mut peer, &queue);
    publish(&mut peer, &exchange, "nowhere", SHORT, "unroutable");
    assert_eq!(next(&mut peer, "unroutable"), after(SHORT, "unroutable"));
    assert_eq!(next(&mut peer, "unroutable"), after(-SHORT, "unroutable"));
}

#[test]
fn an_internal_one_is_not_published_to_and_holds_back_what_comes_by_a_binding() {
    let mut peer = peer();
    let internal = unique("delayed");
    let mut declare = declare(&internal, "fanout");
    declare.internal = true;
    peer.ask::<exchange::DeclareOk>(1, declare);
    let queue = peer.queue(1, "due");
    peer.bind(1, &queue, &internal, "");
    let source = peer.exchange(1, "fanout");
    let bind =
        exchange::Bind { source: source.as_str().into(), destination: internal.as_str().into(), ..Default::default() };
    peer.ask::<exchange::BindOk>(1, bind);
    consume(&mut peer, &queue);
    publish(&mut peer, &source, "key", SHORT, "by a binding");
    peer.expect_no_delivery(1, &queue);
    let delivery = peer.expect_delivery(1);
    assert_eq!((delivery.text(), delivery.exchange), ("by a binding".into(), source), "the exchange published to");
    publish(&mut peer, &internal, "", SHORT, "refused");
    let text = format!("ACCESS_REFUSED - cannot publish to internal exchange '{internal}' in vhost '/'");
    peer.expect_channel_close(1, 403, &text, (60, 40));
}

#[test]
fn a_second_delayed_exchange_does_not_delay_again() {
    let mut peer = peer();
    let (second, queue) = bound(&mut peer);
    let first = new_exchange(&mut peer, "fanout");
    let bind =
        exchange::Bind { source: first.as_str().into(), destination: second.as_str().into(), ..Default::default() };
    peer.ask::<exchange::BindOk>(1, bind);
    consume(&mut peer, &queue);
    let start = Instant::now();
    publish(&mut peer, &first, "", 3000, "once");
    assert_eq!(next(&mut peer, "once"), after(-3000, "once"));
    assert!(start.elapsed() < Duration::from_millis(6000), "held back twice");
}

#[test]
fn cc_and_bcc_are_routing_keys_when_it_is_due_and_bcc_is_never_seen() {
    let mut peer = peer();
    let exchange = new_exchange(&mut peer, "direct");
    let queues: Vec<String> = ["key", "copy", "hidden"]
        .iter()
        .map(|key| {
            let queue = peer.queue(1, key);
            peer.bind(1, &queue, &exchange, key);
            queue
        })
        .collect();
    let list = |key: &str| Octets::new().u8(b'S').longstr(key);
    let cc = Octets::new().entry("CC", b'A', Octets::new().longstr(list("copy")));
    let bcc = Octets::new().entry("BCC", b'A', Octets::new().longstr(list("hidden")));
    let sent = Octets::new().bytes(&cc).bytes(bcc).bytes(delay(SHORT));
    peer.publish_content(1, say::publish(&exchange, "key"), &Content::with_headers(sent, "copied"));
    let seen = Content::with_headers(Octets::new().bytes(cc).bytes(delay(-SHORT)), "copied");
    for (channel, queue) in (2u16..).zip(&queues) {
        peer.open_channel(channel);
        peer.consume(channel, queue, "c");
        assert_eq!(peer.expect_delivery(channel).content, seen);
        peer.close_channel(channel);
    }
}

#[test]
fn in_a_transaction_it_is_delayed_from_its_publish_and_only_if_that_is_committed() {
    let mut peer = peer();
    let (exchange, queue) = bound(&mut peer);
    consume(&mut peer, &queue);
    peer.open_channel(2);
    peer.ask::<tx::SelectOk>(2, tx::Select {});
    let delayed = |peer: &mut Peer, body: &str| {
        peer.publish_content(2, say::publish(&exchange, ""), &after(SHORT, body));
    };
    delayed(&mut peer, "rolled back");
    peer.ask::<tx::RollbackOk>(2, tx::Rollback {});
    delayed(&mut peer, "committed");
    peer.ask::<tx::CommitOk>(2, tx::Commit {});
    next(&mut peer, "committed");
    peer.expect_no_delivery(1, &queue);
}

#[test]
fn the_time_to_live_begins_when_it_is_due() {
    let mut peer = peer();
    let (exchange, queue) = bound(&mut peer);
    consume(&mut peer, &queue);
    let with = |milliseconds: i32| {
        let properties = Octets::new().longstr(delay(milliseconds)).shortstr("250");
        Content::with(1 << 13 | 1 << 8, properties, "short-lived")
    };
    peer.publish_content(1, say::publish(&exchange, ""), &with(2 * SHORT));
    assert_eq!(next(&mut peer, "short-lived"), with(-2 * SHORT));
}

#[test]
fn a_dead_letter_with_the_header_is_delayed_too() {
    let mut peer = peer();
    let (exchange, queue) = bound(&mut peer);
    consume(&mut peer, &queue);
    let source = unique("source");
    let dead_lettering = say::declare_with(&source, |declare| {
        declare.arguments.insert("x-dead-letter-exchange".into(), AMQPValue::LongString(exchange.as_str().into()));
    });
    peer.ask::<queue::DeclareOk>(1, dead_lettering);
    publish(&mut peer, "", &source, SHORT, "dead");
    let ok: basic::GetOk = peer.ask(1, say::get(&source));
    peer.expect_content(1);
    let start = Instant::now();
    peer.send(1, say::reject(ok.delivery_tag, false));
    next(&mut peer, "dead");
    assert!(start.elapsed() >= Duration::from_millis(SHORT as u64));
}

#[test]
fn a_dead_letter_with_a_routing_key_of_its_own_is_not_routed_by_cc_when_it_is_due() {
    let mut peer = peer();
    let exchange = new_exchange(&mut peer, "direct");
    let [grave, copies] = ["grave", "copy"].map(|key| {
        let queue = peer.queue(1, key);
        peer.bind(1, &queue, &exchange, key);
        queue
    });
    let source = unique("source");
    let dead_lettering = say::declare_with(&source, |declare| {
        let mut put = |name: &str, value: &str| {
            declare.arguments.insert(name.into(), AMQPValue::LongString(value.into()));
        };
        put("x-dead-letter-exchange", &exchange);
        put("x-dead-letter-routing-key", "grave");
    });
    peer.ask::<queue::DeclareOk>(1, dead_lettering);
    let list = Octets::new().u8(b'S').longstr("copy");
    let headers = delay(SHORT).entry("CC", b'A', Octets::new().longstr(list));
    peer.publish_content(1, say::publish("", &source), &Content::with_headers(headers, "dead"));
    let ok: basic::GetOk = peer.ask(1, say::get(&source));
    peer.expect_content(1);
    peer.send(1, say::reject(ok.delivery_tag, false));
    consume(&mut peer, &grave);
    next(&mut peer, "dead");
    peer.expect_contents(1, &copies, &[]);
}

#[test]
fn an_exchange_that_is_deleted_drops_what_it_held_back() {
    let mut peer = peer();
    let (exchange, queue) = bound(&mut peer);
    consume(&mut peer, &queue);
    publish(&mut peer, &exchange, "", SHORT, "dropped");
    peer.ask::<exchange::DeleteOk>(1, say::delete_exchange(&exchange));
    peer.ask::<exchange::DeclareOk>(1, declare(&exchange, "fanout"));
    peer.bind(1, &queue, &exchange, "");
    publish(&mut peer, &exchange, "", SHORT + 200, "of the new one");
    next(&mut peer, "of the new one");
}

// What survives

const EXCHANGE: &str = "delayed";

/// A durable exchange that holds back, with a durable queue of the same name.
fn durable(peer: &mut Peer) {
    let mut declare = declare(EXCHANGE, "fanout");
    declare.durable = true;
    peer.ask::<exchange::DeclareOk>(1, declare);
    leveret_suite::durable::declare(peer, EXCHANGE);
    peer.bind(1, EXCHANGE, EXCHANGE, "");
}

fn persistent(milliseconds: i32, body: &str) -> Content {
    let properties = Octets::new().longstr(delay(milliseconds)).u8(2);
    Content::with(1 << 13 | 1 << 12, properties, body)
}

/// Publishes persistent messages with delays and waits for their confirms.
fn publish_confirmed(peer: &mut Peer, messages: &[(i32, &str)]) {
    peer.open_channel(9);
    peer.select_confirms(9);
    for (milliseconds, body) in messages {
        peer.publish_content(9, say::publish(EXCHANGE, ""), &persistent(*milliseconds, body));
    }
    peer.expect_confirms(9, messages.len() as u64);
    peer.close_channel(9);
}

#[test]
fn confirmed_persistent_messages_survive_a_kill_and_are_delivered_when_due() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    for end in [End::Kill, End::Stop] {
        let mut peer = broker.server.peer();
        durable(&mut peer);
        let start = Instant::now();
        publish_confirmed(&mut peer, &[(2500, "second"), (1, "overdue"), (2000, "first"), (2500, "third")]);
        peer.publish_content(1, say::publish(EXCHANGE, ""), &after(SHORT, "transient"));
        // It is overdue, but whether it went on before the end is open: it must come in either case, and once.
        let mut peer = broker.again(end);
        consume(&mut peer, EXCHANGE);
        next(&mut peer, "overdue");
        for body in ["first", "second", "third"] {
            next(&mut peer, body);
        }
        assert!(start.elapsed() >= Duration::from_millis(2500), "delivered before they were due");
        peer.expect_no_delivery(1, EXCHANGE);
        peer.cancel(1, "c");
        let mut peer = broker.again(end);
        peer.expect_counts(1, EXCHANGE, (0, 0));
    }
}

#[test]
fn messages_that_became_due_while_the_broker_was_down_are_delivered_at_its_start() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    let mut peer = broker.server.peer();
    durable(&mut peer);
    publish_confirmed(&mut peer, &[(LONG, "not yet"), (700, "overdue"), (600, "more so")]);
    broker.server.kill9();
    std::thread::sleep(Duration::from_millis(800)); // the broker is down: there is nothing to wait for but time
    broker.server.restart();
    broker.server.log_until("recovered 3 delayed messages");
    let mut peer = broker.server.peer();
    consume(&mut peer, EXCHANGE);
    next(&mut peer, "more so");
    next(&mut peer, "overdue");
    peer.expect_no_delivery(1, EXCHANGE);
}

#[test]
fn a_kill_while_messages_go_on_loses_none() {
    const COUNT: usize = 4_000;
    let Some(mut broker) = Durable::start() else {
        return;
    };
    let mut peer = broker.server.peer();
    durable(&mut peer);
    peer.select_confirms(1);
    let start = Instant::now();
    let (least, step) = (2000, 4);
    for number in 0..COUNT {
        // Due one after the other, some together, over seconds.
        let since = start.elapsed().as_millis() as i32;
        let due = least + (number / step) as i32 * step as i32;
        let content = persistent((due - since).max(1), &number.to_string());
        peer.publish_content(1, say::publish(EXCHANGE, ""), &content);
    }
    peer.expect_confirms(1, COUNT as u64);
    for _ in 0..4 {
        // The queue has got some more: kill it in the middle.
        let before = peer.counts(1, EXCHANGE).0;
        while peer.counts(1, EXCHANGE).0 <= before + 50 && start.elapsed() < Duration::from_secs(20) {
            std::thread::yield_now();
        }
        peer = broker.again(End::Kill);
    }
    consume(&mut peer, EXCHANGE);
    let mut times = vec![0; COUNT];
    while times.contains(&0) {
        let number: usize = peer.expect_delivery(1).text().parse().expect("a number");
        times[number] += 1;
    }
    let twice = times.iter().filter(|times| **times > 1).count();
    assert!(times.iter().all(|times| *times <= 2) && twice < COUNT / 4, "{twice} came again");
}

#[test]
fn a_message_that_is_unroutable_when_due_is_gone() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    let mut peer = broker.server.peer();
    durable(&mut peer);
    publish_confirmed(&mut peer, &[(1, "routed")]);
    consume(&mut peer, EXCHANGE);
    next(&mut peer, "routed");
    peer.ask::<queue::UnbindOk>(1, say::unbind(EXCHANGE, EXCHANGE, ""));
    publish_confirmed(&mut peer, &[(1, "unroutable"), (LONG, "waits")]);
    // Bound again, it gets what comes later only.
    let (later, queue) = bound(&mut peer);
    peer.cancel(1, "c");
    consume(&mut peer, &queue);
    publish(&mut peer, &later, "", SHORT, "later");
    next(&mut peer, "later");
    broker.again(End::Kill);
    broker.server.log_until("recovered 1 delayed messages");
}

#[test]
fn a_deleted_exchange_leaves_nothing_behind_for_the_next_start() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    let mut peer = broker.server.peer();
    durable(&mut peer);
    publish_confirmed(&mut peer, &[(LONG, "dropped"), (LONG, "dropped too")]);
    peer.ask::<exchange::DeleteOk>(1, say::delete_exchange(EXCHANGE));
    let mut peer = broker.again(End::Kill);
    durable(&mut peer);
    publish_confirmed(&mut peer, &[(LONG, "new")]);
    broker.again(End::Kill);
    broker.server.log_until("recovered 1 delayed messages");
}

#[test]
fn definitions_and_routing_types_survive_a_restart() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    let mut peer = broker.server.peer();
    let mut topic = declare(EXCHANGE, "topic");
    topic.durable = true;
    peer.ask::<exchange::DeclareOk>(1, topic.clone());
    leveret_suite::durable::declare(&mut peer, "q");
    peer.bind(1, "q", EXCHANGE, "a.*");
    let mut peer = broker.again(End::Kill);
    peer.ask::<exchange::DeclareOk>(1, topic);
    consume(&mut peer, "q");
    publish(&mut peer, EXCHANGE, "b.c", 1, "elsewhere");
    publish(&mut peer, EXCHANGE, "a.b", SHORT, "here");
    next(&mut peer, "here");
}
