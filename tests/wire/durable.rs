//! What survives a restart, and a SIGKILL: definitions, messages, and what was said about both.

use amq_protocol::protocol::{basic, exchange, queue};
use leveret_suite::durable::{Durable, End, as_strs, declare, numbers, publish_confirmed};
use leveret_suite::{Content, Octets, say};

#[test]
fn durable_exchanges_queues_and_bindings_survive_a_kill() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    let mut peer = broker.server.peer();
    let durable = |kind: &'static str| say::exchange_with(kind, kind, |declare| declare.durable = true);
    for kind in ["direct", "fanout", "topic", "headers"] {
        peer.ask::<exchange::DeclareOk>(1, durable(kind));
        declare(&mut peer, &format!("q-{kind}"));
    }
    peer.bind(1, "q-direct", "direct", "key");
    peer.bind(1, "q-fanout", "fanout", "");
    peer.bind(1, "q-topic", "topic", "a.#");
    let arguments = Octets::new().entry_str("x-match", "any").entry_str("colour", "red").entry_str("size", "small");
    let bind = Octets::method(50, 20).u16(0).shortstr("q-headers").shortstr("headers").shortstr("").u8(0);
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
        peer.ask::<exchange::DeclareOk>(1, say::exchange_with(name, "fanout", |declare| declare.durable = true));
        peer.bind(1, name, "amq.direct", name);
    }
    peer.bind(1, "stays", "stays", "");
    publish_confirmed(&mut peer, "deleted", &["goes with its queue"]);
    peer.ask::<queue::UnbindOk>(1, say::unbind("stays", "amq.direct", "stays"));
    peer.ask::<queue::DeleteOk>(1, say::delete("deleted"));
    peer.ask::<exchange::DeleteOk>(1, say::delete_exchange("deleted"));
    let mut peer = broker.again(End::Kill);
    peer.expect_no_queue(1, "deleted");
    peer.refused(1, say::exchange_passive("deleted"), 404, "NOT_FOUND - no exchange 'deleted' in vhost '/'");
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
        peer.publish_content(1, say::publish("", "transient"), &Content::persistent("lost"));
        let exclusive = say::declare_with("exclusive", |declare| (declare.durable, declare.exclusive) = (true, true));
        peer.ask::<queue::DeclareOk>(1, exclusive);
        let mut peer = broker.again_with(peer, end);
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
        peer.publish_content(1, say::publish("", "q"), &Content::with(1 << 12, [1], "mode 1"));
        publish_confirmed(&mut peer, "q", &["mode 2"]);
        let mut peer = broker.again_with(peer, end);
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
    let headers = Octets::new().entry_str("z", "1").entry_str("a", "2").entry_str("z", "3").entry("L", b'L', [0xFF; 8]);
    let properties = Octets::new().shortstr("type").longstr(headers).u8(2).shortstr([0xFF]);
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
    peer.publish_content(1, say::publish("amq.topic", "some.key"), &Content::persistent("x"));
    peer.expect_confirms(1, 1);
    let mut peer = broker.again(End::Kill);
    let ok = peer.take(1, "q", "x");
    assert_eq!((ok.exchange.as_str(), ok.routing_key.as_str()), ("amq.topic", "some.key"));
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
    let auto = say::declare_with("auto", |declare| (declare.durable, declare.auto_delete) = (true, true));
    peer.ask::<queue::DeclareOk>(1, auto);
    publish_confirmed(&mut peer, "auto", &["1"]);
    let mut peer = broker.again_with(peer, End::Stop);
    peer.consume(1, "auto", "c");
    peer.expect_deliveries(1, &["1"]);
    peer.cancel(1, "c");
    peer.expect_no_queue(1, "auto");
    let mut peer = broker.again(End::Kill);
    peer.expect_no_queue(1, "auto");
}

#[test]
fn bindings_between_durable_exchanges_survive_a_kill() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    let mut peer = broker.server.peer();
    let fanout = |name: &str| say::exchange_with(name, "fanout", |declare| declare.durable = true);
    for name in ["outer", "inner"] {
        peer.ask::<exchange::DeclareOk>(1, fanout(name));
    }
    declare(&mut peer, "q");
    let bind = exchange::Bind { destination: "inner".into(), source: "outer".into(), ..Default::default() };
    peer.ask::<exchange::BindOk>(1, bind);
    peer.bind(1, "q", "inner", "");
    let mut peer = broker.again(End::Kill);
    peer.publish(1, "outer", "", "through both");
    peer.expect_contents(1, "q", &["through both"]);
    let unbind = exchange::Unbind { destination: "inner".into(), source: "outer".into(), ..Default::default() };
    peer.ask::<exchange::UnbindOk>(1, unbind);
    let mut peer = broker.again(End::Kill);
    peer.publish(1, "outer", "", "nowhere");
    peer.expect_contents(1, "q", &[]);
}

#[test]
fn an_exchange_that_went_with_its_last_binding_stays_away_after_a_kill() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    let mut peer = broker.server.peer();
    let auto = say::exchange_with("auto", "fanout", |declare| {
        (declare.durable, declare.auto_delete) = (true, true);
    });
    peer.ask::<exchange::DeclareOk>(1, auto);
    declare(&mut peer, "q");
    peer.bind(1, "q", "auto", "");
    let mut peer = broker.again(End::Kill);
    peer.ask::<exchange::DeclareOk>(1, say::exchange_passive("auto"));
    peer.ask::<queue::DeleteOk>(1, say::delete("q"));
    let mut peer = broker.again(End::Kill);
    let text = "NOT_FOUND - no exchange 'auto' in vhost '/'";
    peer.refused(1, say::exchange_passive("auto"), 404, text);
}

#[test]
fn several_publishers_and_consumers_over_kills_lose_and_double_nothing_that_was_told() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    let names = ["a", "b", "c"];
    let mut peer = broker.server.peer();
    for name in names {
        declare(&mut peer, name);
    }
    // Per queue: the bodies that must be there, and those that may be.
    let mut expected: Vec<Vec<String>> = vec![Vec::new(); names.len()];
    for round in 0..4 {
        let workers: Vec<_> = names
            .into_iter()
            .zip(expected)
            .map(|(name, mut there)| {
                let mut peer = broker.server.peer();
                std::thread::spawn(move || {
                    let bodies: Vec<String> = (0..60).map(|n| format!("{round}-{n}")).collect();
                    publish_confirmed(&mut peer, name, &as_strs(&bodies));
                    there.extend(bodies);
                    for body in there.drain(..25) {
                        let (ok, content) = peer.get(1, name);
                        assert_eq!(content.text(), body, "in order, from {name}");
                        peer.send(1, say::ack(ok.delivery_tag));
                    }
                    peer.in_step(1);
                    there
                })
            })
            .collect();
        let joined = workers.into_iter().map(|worker| worker.join().expect("a worker"));
        expected = joined.collect();
        peer = broker.again(End::Kill);
    }
    for (name, there) in names.iter().zip(&expected) {
        peer.expect_contents(1, name, &as_strs(there));
    }
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
        let mut peer = broker.again_with(peer, end);
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
        let confirmed = if first.multiple { first.delivery_tag } else { 0 };
        let mut peer = broker.again(End::Kill);
        let found = peer.drain(1, &name);
        let found: Vec<u64> = found.into_iter().map(|(body, _)| body.parse().expect("a number")).collect();
        assert!(found.len() as u64 >= confirmed, "{confirmed} were confirmed, {} are there", found.len());
        assert!(found.iter().copied().eq(1..=found.len() as u64), "a beginning of what was sent: {found:?}");
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
        let bodies: Vec<String> = (next_in..next_in + 30).map(|n: u64| n.to_string()).collect();
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
