//! What survives a restart, and a SIGKILL (contract, section 9): durable is what was promised, and nothing comes back
//! that was done.
//!
//! Each test runs a broker of its own on a directory of its own. They can't be tried against a given broker, which
//! can't be stopped from here, and pass without a word there.

use amq_protocol::protocol::{basic, connection, exchange, queue};
use leveret_suite::{Content, Octets, Peer, Server, say};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How a broker ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Stop,
    Kill,
}

/// A broker on a directory of its own; both go with this value.
struct Durable {
    server: Server,
    _directory: TempDir,
}

impl Durable {
    /// None when the tests run against a given broker.
    fn start() -> Option<Durable> {
        if Server::is_given() {
            return None;
        }
        let directory = tempfile::tempdir().expect("a directory for the broker's data");
        let server = Server::start_durable(directory.path());
        Some(Durable {
            server,
            _directory: directory,
        })
    }

    /// Ends the broker like this and starts it again; returns a connection to the new one.
    fn again(&mut self, end: End) -> Peer {
        match end {
            End::Stop => assert!(self.server.stop().success(), "a clean stop exits with 0"),
            End::Kill => self.server.kill9(),
        }
        self.server.restart();
        self.server.peer()
    }
}

/// queue.declare of a durable queue.
fn declare(peer: &mut Peer, name: &str) {
    peer.ask::<queue::DeclareOk>(1, say::declare_with(name, |declare| declare.durable = true));
}

/// Publishes persistent messages straight into a queue, on a channel of their own, and waits for their confirms.
fn publish_confirmed(peer: &mut Peer, queue: &str, bodies: &[&str]) {
    peer.open_channel(9);
    peer.select_confirms(9);
    for body in bodies {
        peer.publish_content(9, say::publish("", queue), &Content::persistent(body));
    }
    peer.expect_confirms(9, bodies.len() as u64);
    peer.close_channel(9);
}

/// Numbers as bodies.
fn numbers(count: usize) -> Vec<String> {
    (1..=count).map(|number| number.to_string()).collect()
}

fn as_strs(bodies: &[String]) -> Vec<&str> {
    bodies.iter().map(String::as_str).collect()
}

#[test]
fn durable_exchanges_queues_and_bindings_survive_a_kill() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    let mut peer = broker.server.peer();
    let durable =
        |kind: &'static str| say::exchange_with(kind, kind, |declare| declare.durable = true);
    for kind in ["direct", "fanout", "topic", "headers"] {
        peer.ask::<exchange::DeclareOk>(1, durable(kind));
        declare(&mut peer, &format!("q-{kind}"));
    }
    peer.bind(1, "q-direct", "direct", "key");
    peer.bind(1, "q-fanout", "fanout", "");
    peer.bind(1, "q-topic", "topic", "a.#");
    let arguments = Octets::new()
        .entry_str("x-match", "any")
        .entry_str("colour", "red")
        .entry_str("size", "small");
    let bind = Octets::method(50, 20)
        .u16(0)
        .shortstr("q-headers")
        .shortstr("headers")
        .shortstr("")
        .u8(0);
    peer.send_payload(1, bind.longstr(arguments));
    peer.expect::<queue::BindOk>(1);
    let mut peer = broker.again(End::Kill);
    for kind in ["direct", "fanout", "topic", "headers"] {
        // An equal declare says that type and flags are what they were.
        peer.ask::<exchange::DeclareOk>(1, durable(kind));
        declare(&mut peer, &format!("q-{kind}"));
    }
    peer.publish(1, "direct", "key", "direct");
    peer.publish(1, "fanout", "any", "fanout");
    peer.publish(1, "topic", "a.b", "topic");
    let small = Content::with_headers(Octets::new().entry_str("size", "small"), "headers");
    peer.publish_content(1, say::publish("headers", ""), &small);
    peer.publish(1, "headers", "", "matches nothing");
    for kind in ["direct", "fanout", "topic", "headers"] {
        peer.expect_contents(1, &format!("q-{kind}"), &[kind]);
    }
}

#[test]
fn deletions_and_unbindings_survive_a_kill() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    let mut peer = broker.server.peer();
    for name in ["stays", "deleted"] {
        declare(&mut peer, name);
        peer.ask::<exchange::DeclareOk>(
            1,
            say::exchange_with(name, "fanout", |declare| declare.durable = true),
        );
        peer.bind(1, name, "amq.direct", name);
    }
    peer.bind(1, "stays", "stays", "");
    publish_confirmed(&mut peer, "deleted", &["goes with its queue"]);
    peer.ask::<queue::UnbindOk>(1, say::unbind("stays", "amq.direct", "stays"));
    peer.ask::<queue::DeleteOk>(1, say::delete("deleted"));
    peer.ask::<exchange::DeleteOk>(1, say::delete_exchange("deleted"));
    let mut peer = broker.again(End::Kill);
    peer.expect_no_queue(1, "deleted");
    peer.refused(
        1,
        say::exchange_passive("deleted"),
        404,
        "NOT_FOUND - no exchange 'deleted' in vhost '/'",
    );
    peer.open_channel(1);
    declare(&mut peer, "deleted");
    peer.publish(1, "amq.direct", "stays", "unbound");
    peer.publish(1, "amq.direct", "deleted", "unbound");
    peer.publish(1, "stays", "", "bound");
    peer.expect_contents(1, "deleted", &[]);
    peer.expect_contents(1, "stays", &["bound"]);
}

#[test]
fn transient_queues_and_their_bindings_are_gone() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    for end in [End::Stop, End::Kill] {
        let mut peer = broker.server.peer();
        peer.ask::<queue::DeclareOk>(1, say::declare("transient"));
        peer.bind(1, "transient", "amq.fanout", "");
        peer.publish_content(
            1,
            say::publish("", "transient"),
            &Content::persistent("lost"),
        );
        let exclusive = say::declare_with("exclusive", |declare| {
            (declare.durable, declare.exclusive) = (true, true)
        });
        peer.ask::<queue::DeclareOk>(1, exclusive);
        let mut peer = broker.again(end);
        peer.expect_no_queue(1, "transient");
        peer.expect_no_queue(1, "exclusive");
        peer.ask::<queue::DeclareOk>(1, say::declare("transient"));
        peer.publish(1, "amq.fanout", "", "not bound");
        peer.expect_contents(1, "transient", &[]);
    }
}

#[test]
fn confirmed_persistent_messages_survive_a_kill_in_order() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    let mut peer = broker.server.peer();
    declare(&mut peer, "q");
    let bodies = numbers(500);
    publish_confirmed(&mut peer, "q", &as_strs(&bodies));
    let mut peer = broker.again(End::Kill);
    peer.expect_contents(1, "q", &as_strs(&bodies));
}

#[test]
fn transient_messages_are_gone_even_from_a_durable_queue() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    for end in [End::Stop, End::Kill] {
        let mut peer = broker.server.peer();
        declare(&mut peer, "q");
        peer.publish(1, "", "q", "without a mode");
        peer.publish_content(
            1,
            say::publish("", "q"),
            &Content::with(1 << 12, [1], "mode 1"),
        );
        publish_confirmed(&mut peer, "q", &["mode 2"]);
        let mut peer = broker.again(end);
        peer.expect_contents(1, "q", &["mode 2"]);
    }
}

#[test]
fn properties_and_bodies_come_back_byte_for_byte() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    let mut peer = broker.server.peer();
    declare(&mut peer, "q");
    let headers = Octets::new()
        .entry_str("z", "1")
        .entry_str("a", "2")
        .entry_str("z", "3")
        .entry("L", b'L', [0xFF; 8]);
    let properties = Octets::new()
        .shortstr("type")
        .longstr(headers)
        .u8(2)
        .shortstr([0xFF]);
    let large: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let contents = [
        Content::with(1 << 15 | 1 << 13 | 1 << 12 | 1 << 10, properties, "small"),
        Content::persistent(large),
        Content::persistent(""),
    ];
    peer.select_confirms(1);
    for content in &contents {
        peer.publish_content(1, say::publish("", "q"), content);
    }
    peer.expect_confirms(1, 3);
    for end in [End::Kill, End::Stop] {
        let mut peer = broker.again(end);
        for content in &contents {
            let (ok, got) = peer.get(1, "q");
            assert!(got == *content, "message {} after {end:?}", ok.delivery_tag);
            assert_eq!((ok.exchange.as_str(), ok.routing_key.as_str()), ("", "q"));
        }
    }
}

#[test]
fn a_message_remembers_its_exchange_and_key() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    let mut peer = broker.server.peer();
    declare(&mut peer, "q");
    peer.bind(1, "q", "amq.topic", "#");
    peer.select_confirms(1);
    peer.publish_content(
        1,
        say::publish("amq.topic", "some.key"),
        &Content::persistent("x"),
    );
    peer.expect_confirms(1, 1);
    let mut peer = broker.again(End::Kill);
    let ok = peer.take(1, "q", "x");
    assert_eq!(
        (ok.exchange.as_str(), ok.routing_key.as_str()),
        ("amq.topic", "some.key")
    );
}

#[test]
fn a_purge_survives_a_kill() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    let mut peer = broker.server.peer();
    declare(&mut peer, "q");
    publish_confirmed(&mut peer, "q", &["1", "2", "3"]);
    peer.get(1, "q");
    let ok: queue::PurgeOk = peer.ask(1, say::purge("q"));
    assert_eq!(ok.message_count, 2);
    publish_confirmed(&mut peer, "q", &["4"]);
    let mut peer = broker.again(End::Kill);
    peer.expect_contents(1, "q", &["1", "4"]);
}

#[test]
fn an_auto_delete_durable_queue_comes_back_and_goes_with_its_next_last_consumer() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    let mut peer = broker.server.peer();
    let auto = say::declare_with("auto", |declare| {
        (declare.durable, declare.auto_delete) = (true, true)
    });
    peer.ask::<queue::DeclareOk>(1, auto);
    publish_confirmed(&mut peer, "auto", &["1"]);
    let mut peer = broker.again(End::Stop);
    peer.consume(1, "auto", "c");
    peer.expect_deliveries(1, &["1"]);
    peer.cancel(1, "c");
    peer.expect_no_queue(1, "auto");
    let mut peer = broker.again(End::Kill);
    peer.expect_no_queue(1, "auto");
}

#[test]
fn after_a_clean_stop_the_redelivered_flag_is_exact() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    let mut peer = broker.server.peer();
    declare(&mut peer, "q");
    publish_confirmed(&mut peer, "q", &["1", "2", "3", "4", "5", "6"]);
    peer.qos(1, 4, false);
    peer.consume(1, "q", "c");
    peer.expect_deliveries(1, &["1", "2", "3", "4"]);
    peer.send(1, say::ack(2));
    peer.expect_deliveries(1, &["5"]);
    peer.send(1, say::nack(3, true));
    // With one slot free the requeued message comes back at once.
    assert!(peer.expect_deliveries(1, &["3"])[0].redelivered);
    let mut peer = broker.again(End::Stop);
    let expected = [
        ("1", true),
        ("3", true),
        ("4", true),
        ("5", true),
        ("6", false),
    ];
    let expected = expected.map(|(body, again)| (body.to_owned(), again));
    assert_eq!(peer.drain(1, "q"), expected);
}

#[test]
fn a_never_delivered_message_stays_new_over_many_clean_stops() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    let mut peer = broker.server.peer();
    declare(&mut peer, "q");
    publish_confirmed(&mut peer, "q", &["1", "2"]);
    for _ in 0..3 {
        broker.again(End::Stop).close();
    }
    let mut peer = broker.again(End::Stop);
    assert!(!peer.get(1, "q").0.redelivered);
    let mut peer = broker.again(End::Stop);
    assert_eq!(
        peer.drain(1, "q"),
        [("1".to_owned(), true), ("2".to_owned(), false)]
    );
}

#[test]
fn after_a_kill_what_may_have_been_delivered_is_redelivered() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    let mut peer = broker.server.peer();
    for name in ["pushed", "pulled"] {
        declare(&mut peer, name);
        publish_confirmed(&mut peer, name, &as_strs(&numbers(100)));
    }
    peer.qos(1, 10, false);
    peer.consume(1, "pushed", "c");
    peer.expect_deliveries(1, &as_strs(&numbers(10)));
    for _ in 0..3 {
        peer.get(1, "pulled");
    }
    let mut peer = broker.again(End::Kill);
    for (name, delivered) in [("pushed", 10), ("pulled", 3)] {
        let messages = peer.drain(1, name);
        assert_eq!(
            messages.len(),
            100,
            "everything confirmed and not acked is there once"
        );
        for (index, (body, again)) in messages.iter().enumerate() {
            assert_eq!(*body, (index + 1).to_string(), "in order");
            assert!(
                *again || index >= delivered,
                "{body} of {name} was delivered, and comes as new"
            );
        }
        assert!(
            !messages[99].1,
            "the last of {name} was certainly never delivered"
        );
    }
}

#[test]
fn a_message_redelivered_before_two_kills_is_redelivered_after_them() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    let mut peer = broker.server.peer();
    declare(&mut peer, "q");
    publish_confirmed(&mut peer, "q", &["1"]);
    peer.get(1, "q");
    drop(broker.again(End::Kill));
    let mut peer = broker.again(End::Kill);
    assert!(peer.get(1, "q").0.redelivered);
}

#[test]
fn done_acks_never_come_back_after_a_kill() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    for round in 0..5 {
        let name = format!("q{round}");
        let mut peer = broker.server.peer();
        declare(&mut peer, &name);
        publish_confirmed(&mut peer, &name, &as_strs(&numbers(20)));
        peer.consume(1, &name, "c");
        peer.expect_deliveries(1, &as_strs(&numbers(20)));
        peer.send(1, say::ack_until(5));
        peer.send(1, say::ack(7));
        peer.send(1, say::nack(9, false));
        peer.send(1, say::reject(20, false));
        // An ack is done once the reply to any later synchronous method of its channel has come.
        peer.qos(1, 0, false);
        let mut peer = broker.again(End::Kill);
        let left: Vec<String> = numbers(20)
            .into_iter()
            .filter(|body| !["1", "2", "3", "4", "5", "7", "9", "20"].contains(&body.as_str()))
            .collect();
        peer.expect_contents(1, &name, &as_strs(&left));
    }
}

#[test]
fn what_was_taken_without_acknowledgement_never_comes_back_after_a_kill() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    let mut peer = broker.server.peer();
    for name in ["pulled", "pushed"] {
        declare(&mut peer, name);
        publish_confirmed(&mut peer, name, &["1", "2", "3"]);
    }
    peer.take(1, "pulled", "1");
    peer.take(1, "pulled", "2");
    peer.consume_with(1, "pushed", "c", |consume| consume.no_ack = true);
    peer.expect_deliveries(1, &["1", "2", "3"]);
    peer.qos(1, 0, false);
    let mut peer = broker.again(End::Kill);
    peer.expect_contents(1, "pulled", &["3"]);
    peer.expect_contents(1, "pushed", &[]);
}

#[test]
fn an_ack_done_while_its_message_was_still_being_written_never_comes_back() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    for round in 0..5 {
        let name = format!("q{round}");
        let mut peer = broker.server.peer();
        declare(&mut peer, &name);
        peer.consume(1, &name, "c");
        for body in numbers(50) {
            peer.publish_content(1, say::publish("", &name), &Content::persistent(body));
        }
        // No confirms: the acks overtake the disk.
        peer.expect_deliveries(1, &as_strs(&numbers(50)));
        peer.send(1, say::ack_until(50));
        peer.qos(1, 0, false);
        let mut peer = broker.again(End::Kill);
        peer.expect_contents(1, &name, &[]);
    }
}

#[test]
fn an_ack_in_one_queue_leaves_the_copy_in_another() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    let mut peer = broker.server.peer();
    for name in ["one", "two"] {
        declare(&mut peer, name);
        peer.bind(1, name, "amq.fanout", "");
    }
    peer.select_confirms(1);
    for body in ["1", "2"] {
        peer.publish_content(
            1,
            say::publish("amq.fanout", ""),
            &Content::persistent(body),
        );
    }
    peer.expect_confirms(1, 2);
    peer.get(1, "one");
    peer.send(1, say::ack(1));
    peer.qos(1, 0, false);
    let mut peer = broker.again(End::Kill);
    peer.expect_contents(1, "one", &["2"]);
    peer.expect_contents(1, "two", &["1", "2"]);
}

#[test]
fn requeued_messages_keep_their_place_over_a_restart() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    for end in [End::Stop, End::Kill] {
        let mut peer = broker.server.peer();
        declare(&mut peer, "q");
        publish_confirmed(&mut peer, "q", &["1", "2", "3", "4"]);
        for _ in 0..3 {
            peer.get(1, "q");
        }
        peer.send(1, say::nack(2, true));
        peer.send(1, say::ack(1));
        peer.in_step(1);
        let mut peer = broker.again(end);
        peer.expect_contents(1, "q", &["2", "3", "4"]);
    }
}

#[test]
fn what_was_not_confirmed_at_the_kill_is_there_at_most_once_and_in_order() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    for round in 0..5 {
        let name = format!("q{round}");
        let mut peer = broker.server.peer();
        declare(&mut peer, &name);
        peer.select_confirms(1);
        for body in numbers(300) {
            peer.publish_content(1, say::publish("", &name), &Content::persistent(body));
        }
        let first: basic::Ack = peer.expect(1);
        let confirmed = if first.multiple {
            first.delivery_tag
        } else {
            0
        };
        let mut peer = broker.again(End::Kill);
        let found = peer.drain(1, &name);
        let found: Vec<u64> = found
            .into_iter()
            .map(|(body, _)| body.parse().expect("a number"))
            .collect();
        assert!(
            found.len() as u64 >= confirmed,
            "{confirmed} were confirmed, {} are there",
            found.len()
        );
        assert!(
            found.iter().copied().eq(1..=found.len() as u64),
            "a beginning of what was sent: {found:?}"
        );
    }
}

#[test]
fn many_kills_lose_and_double_nothing() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    let mut peer = broker.server.peer();
    declare(&mut peer, "q");
    let (mut next_in, mut next_out) = (1, 1);
    for round in 0..10 {
        let bodies: Vec<String> = (next_in..next_in + 30)
            .map(|n: u64| n.to_string())
            .collect();
        publish_confirmed(&mut peer, "q", &as_strs(&bodies));
        next_in += 30;
        for _ in 0..20 {
            let (ok, content) = peer.get(1, "q");
            assert_eq!(content.text(), next_out.to_string());
            peer.send(1, say::ack(ok.delivery_tag));
            next_out += 1;
        }
        peer.in_step(1);
        peer = broker.again(if round % 3 == 0 { End::Stop } else { End::Kill });
    }
    let rest: Vec<String> = (next_out..next_in).map(|n| n.to_string()).collect();
    peer.expect_contents(1, "q", &as_strs(&rest));
}

#[test]
fn sigterm_tells_every_client_320_and_exits_with_0_within_10_seconds() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    let mut peers: Vec<Peer> = (0..5).map(|_| broker.server.peer()).collect();
    broker.server.signal("TERM");
    for peer in &mut peers {
        let text = "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'";
        peer.expect_connection_close_frame(320, text, (0, 0));
        peer.send(0, connection::CloseOk {});
        peer.expect_end();
    }
    let start = Instant::now();
    assert!(broker.server.wait_for_end().success());
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn sigterm_does_not_wait_for_clients_that_stay_silent() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    let mut peer = broker.server.peer();
    declare(&mut peer, "q");
    let start = Instant::now();
    assert!(broker.server.stop().success());
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "took {:?}",
        start.elapsed()
    );
}

#[test]
fn sigterm_finishes_pending_confirms_first() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    let mut peer = broker.server.peer();
    declare(&mut peer, "q");
    peer.select_confirms(1);
    for body in numbers(200) {
        peer.publish_content(1, say::publish("", "q"), &Content::persistent(body));
    }
    // The broker has read them all, or this would not be answered.
    peer.send(1, say::qos(0, false));
    let (mut confirmed, mut signalled) = (std::collections::BTreeSet::new(), false);
    loop {
        let frame = peer.frame();
        match frame.method() {
            Some(amq_protocol::protocol::AMQPClass::Basic(basic::AMQPMethod::Ack(ack)))
                if ack.multiple =>
            {
                confirmed.extend(1..=ack.delivery_tag);
            }
            Some(amq_protocol::protocol::AMQPClass::Basic(basic::AMQPMethod::Ack(ack))) => {
                confirmed.insert(ack.delivery_tag);
            }
            Some(amq_protocol::protocol::AMQPClass::Basic(basic::AMQPMethod::QosOk(_)))
                if !signalled =>
            {
                broker.server.signal("TERM");
                signalled = true;
            }
            Some(amq_protocol::protocol::AMQPClass::Connection(connection::AMQPMethod::Close(
                _,
            ))) => break,
            _ => panic!("a confirm, qos-ok or connection.close, came {frame:?}"),
        }
    }
    peer.send(0, connection::CloseOk {});
    assert_eq!(confirmed.len(), 200, "all confirms before the close");
    assert!(broker.server.wait_for_end().success());
    broker.server.restart();
    let mut peer = broker.server.peer();
    peer.expect_contents(1, "q", &as_strs(&numbers(200)));
}

#[test]
fn recovery_says_what_it_found() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    let mut peer = broker.server.peer();
    declare(&mut peer, "q");
    publish_confirmed(&mut peer, "q", &["1", "2", "3"]);
    broker.again(End::Kill).close();
    let log = broker.server.log();
    assert!(
        log.lines()
            .any(|line| line.to_lowercase().contains("recover")),
        "no line about recovery in\n{log}"
    );
    assert!(
        log.contains("Server startup complete; 0 plugins started."),
        "{log}"
    );
}
