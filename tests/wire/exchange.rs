//! Exchanges: declare, delete, bindings.

use amq_protocol::protocol::{exchange, queue};
use leveret_suite::{Octets, Peer, Server, differs_from_reference, say, unique};

const DEFAULT: &str = "ACCESS_REFUSED - operation not permitted on the default exchange";

fn peer() -> Peer {
    Server::start().peer()
}

fn no_exchange(name: &str) -> String {
    format!("NOT_FOUND - no exchange '{name}' in vhost '/'")
}

fn inequivalent(argument: &str, name: &str, received: &str, current: &str) -> String {
    format!(
        "PRECONDITION_FAILED - inequivalent arg '{argument}' for exchange '{name}' in vhost '/': received \
         '{received}' but current is '{current}'"
    )
}

fn bind_with(peer: &mut Peer, queue: &str, exchange: &str, key: &str, arguments: &Octets) {
    let bind = Octets::method(50, 20).u16(0).shortstr(queue).shortstr(exchange).shortstr(key).u8(0);
    peer.send_payload(1, bind.longstr(arguments));
}

fn unbind_with(peer: &mut Peer, queue: &str, exchange: &str, key: &str, arguments: &Octets) {
    let unbind = Octets::method(50, 50).u16(0).shortstr(queue).shortstr(exchange).shortstr(key);
    peer.send_payload(1, unbind.longstr(arguments));
    peer.expect::<queue::UnbindOk>(1);
}

#[test]
fn the_predeclared_exchanges_are_durable_and_of_their_types() {
    let mut peer = peer();
    for (name, kind) in [
        ("amq.direct", "direct"),
        ("amq.fanout", "fanout"),
        ("amq.topic", "topic"),
        ("amq.headers", "headers"),
        ("amq.match", "headers"),
    ] {
        peer.ask::<exchange::DeclareOk>(1, say::exchange_with(name, kind, |declare| declare.durable = true));
        peer.ask::<exchange::DeclareOk>(1, say::exchange_passive(name));
    }
}

#[test]
fn the_trace_exchange_is_an_internal_topic() {
    let declare = say::exchange_with("amq.rabbitmq.trace", "topic", |declare| {
        (declare.durable, declare.internal) = (true, true);
    });
    peer().ask::<exchange::DeclareOk>(1, declare);
}

#[test]
fn the_default_exchange_can_only_be_published_to() {
    let mut peer = peer();
    let queue = peer.queue(1, "default");
    peer.refused(1, say::exchange("", "direct"), 403, DEFAULT);
    peer.open_channel(1);
    peer.refused(1, say::exchange_passive(""), 403, DEFAULT);
    peer.open_channel(1);
    peer.refused(1, say::delete_exchange(""), 403, DEFAULT);
    peer.open_channel(1);
    peer.refused(1, say::bind(&queue, "", "key"), 403, DEFAULT);
    peer.open_channel(1);
    peer.refused(1, say::unbind(&queue, "", &queue), 403, DEFAULT);
    peer.open_channel(1);
    peer.publish(1, "", &queue, "by name");
    peer.take(1, &queue, "by name");
}

#[test]
fn an_unknown_type_is_refused() {
    if differs_from_reference("an_unknown_type_is_refused") {
        return;
    }
    for kind in ["no-such-type", "Direct", ""] {
        let mut peer = peer();
        peer.send(1, say::exchange(&unique("exchange"), kind));
        let close: amq_protocol::protocol::channel::Close = peer.expect(1);
        assert_eq!((close.reply_code, close.class_id, close.method_id), (406, 40, 10));
        let texts = ["unknown", "invalid"].map(|word| format!("PRECONDITION_FAILED - {word} exchange type '{kind}'"));
        assert!(texts.iter().any(|text| text == close.reply_text.as_str()), "{close:?}");
    }
}

#[test]
fn the_type_is_checked_before_the_name() {
    if differs_from_reference("the_type_is_checked_before_the_name") {
        return;
    }
    let mut peer = peer();
    peer.send(1, say::exchange("amq.new", "no-such-type"));
    let close: amq_protocol::protocol::channel::Close = peer.expect(1);
    assert_eq!(close.reply_code, 406);
}

#[test]
fn a_name_that_begins_with_amq_and_a_dot_is_reserved() {
    let text = "ACCESS_REFUSED - exchange name 'amq.new' contains reserved prefix 'amq.*'";
    peer().refused(1, say::exchange("amq.new", "direct"), 403, text);
}

#[test]
fn names_like_amqx_are_free() {
    let mut peer = peer();
    let name = unique("amqx");
    peer.ask::<exchange::DeclareOk>(1, say::exchange(&name, "direct"));
    peer.ask::<exchange::DeleteOk>(1, say::delete_exchange(&name));
}

#[test]
fn cr_and_lf_are_removed_from_names() {
    let mut peer = peer();
    let name = unique("two-lines");
    let queue = peer.queue(1, "lines");
    peer.ask::<exchange::DeclareOk>(1, say::exchange(&format!("\r{name}\n"), "fanout"));
    peer.ask::<exchange::DeclareOk>(1, say::exchange_passive(&format!("{name}\n")));
    peer.bind(1, &format!("{queue}\n"), &format!("\n{name}"), "");
    peer.publish(1, &name, "", "x");
    peer.take(1, &queue, "x");
    peer.ask::<exchange::DeleteOk>(1, say::delete_exchange(&format!("{name}\r")));
    peer.refused(1, say::exchange_passive(&name), 404, &no_exchange(&name));
}

#[test]
fn the_name_in_a_publish_is_taken_as_it_is() {
    refused_publish("amq.fanout\n", 404, &no_exchange("amq.fanout\n"));
}

/// Publishes to an exchange, for which the channel must be closed.
fn refused_publish(exchange: &str, code: u16, text: &str) {
    let mut peer = peer();
    peer.publish(1, exchange, "key", "x");
    peer.expect_channel_close(1, code, text, (60, 40));
}

#[test]
fn a_passive_declare_of_a_missing_exchange_is_404() {
    let name = unique("missing");
    peer().refused(1, say::exchange_passive(&name), 404, &no_exchange(&name));
}

#[test]
fn a_passive_declare_ignores_type_and_flags() {
    let mut peer = peer();
    let name = peer.exchange(1, "fanout");
    let declare = say::exchange_with(&name, "no-such-type", |declare| {
        (declare.passive, declare.durable, declare.internal) = (true, true, true);
    });
    peer.ask::<exchange::DeclareOk>(1, declare);
}

#[test]
fn declaring_an_equal_exchange_again_is_fine() {
    let mut peer = peer();
    let name = peer.exchange(1, "topic");
    peer.ask::<exchange::DeclareOk>(1, say::exchange(&name, "topic"));
}

#[test]
fn another_type_is_406() {
    let mut peer = peer();
    let name = peer.exchange(1, "fanout");
    peer.refused(1, say::exchange(&name, "direct"), 406, &inequivalent("type", &name, "direct", "fanout"));
}

#[test]
fn another_flag_is_406_and_the_first_mismatch_wins() {
    let mut peer = peer();
    let name = peer.exchange(1, "fanout");
    let internal = say::exchange_with(&name, "fanout", |declare| declare.internal = true);
    peer.refused(1, internal.clone(), 406, &inequivalent("internal", &name, "true", "false"));
    peer.open_channel(1);
    let auto_delete = exchange::Declare { auto_delete: true, ..internal };
    peer.refused(1, auto_delete.clone(), 406, &inequivalent("auto_delete", &name, "true", "false"));
    peer.open_channel(1);
    let durable = exchange::Declare { durable: true, ..auto_delete };
    peer.refused(1, durable.clone(), 406, &inequivalent("durable", &name, "true", "false"));
    peer.open_channel(1);
    let direct = exchange::Declare { kind: "direct".into(), ..durable };
    peer.refused(1, direct, 406, &inequivalent("type", &name, "direct", "fanout"));
}

#[test]
fn unknown_arguments_never_matter() {
    let mut peer = peer();
    let name = unique("arguments");
    let declare = Octets::method(40, 10).u16(0).shortstr(&name).shortstr("direct").u8(0);
    let arguments = Octets::new().entry("x-mine", b'I', [0, 0, 0, 1]);
    peer.send_payload(1, declare.longstr(arguments));
    peer.expect::<exchange::DeclareOk>(1);
    peer.ask::<exchange::DeclareOk>(1, say::exchange(&name, "direct"));
}

#[test]
fn publishing_to_an_internal_exchange_is_403() {
    let mut peer = peer();
    let name = unique("internal");
    peer.ask::<exchange::DeclareOk>(1, say::exchange_with(&name, "fanout", |declare| declare.internal = true));
    let text = format!("ACCESS_REFUSED - cannot publish to internal exchange '{name}' in vhost '/'");
    refused_publish(&name, 403, &text);
}

#[test]
fn publishing_to_a_missing_exchange_is_404() {
    let name = unique("missing");
    refused_publish(&name, 404, &no_exchange(&name));
}

#[test]
fn an_auto_delete_exchange_goes_with_its_last_binding() {
    let mut peer = peer();
    let name = unique("auto");
    let queue = peer.queue(1, "bound");
    peer.ask::<exchange::DeclareOk>(1, say::exchange_with(&name, "direct", |declare| declare.auto_delete = true));
    peer.bind(1, &queue, &name, "a");
    peer.bind(1, &queue, &name, "b");
    peer.ask::<queue::UnbindOk>(1, say::unbind(&queue, &name, "a"));
    peer.ask::<exchange::DeclareOk>(1, say::exchange_passive(&name));
    peer.ask::<queue::UnbindOk>(1, say::unbind(&queue, &name, "b"));
    peer.refused(1, say::exchange_passive(&name), 404, &no_exchange(&name));
}

#[test]
fn an_auto_delete_exchange_goes_with_its_last_queue() {
    let mut peer = peer();
    let name = unique("auto");
    let queue = peer.queue(1, "bound");
    peer.ask::<exchange::DeclareOk>(1, say::exchange_with(&name, "fanout", |declare| declare.auto_delete = true));
    peer.bind(1, &queue, &name, "");
    peer.ask::<queue::DeleteOk>(1, say::delete(&queue));
    peer.refused(1, say::exchange_passive(&name), 404, &no_exchange(&name));
}

#[test]
fn an_auto_delete_exchange_that_never_had_a_binding_stays() {
    let mut peer = peer();
    let name = unique("auto");
    let queue = peer.queue(1, "unbound");
    peer.ask::<exchange::DeclareOk>(1, say::exchange_with(&name, "fanout", |declare| declare.auto_delete = true));
    peer.ask::<queue::UnbindOk>(1, say::unbind(&queue, &name, "never bound"));
    peer.ask::<exchange::DeclareOk>(1, say::exchange_passive(&name));
    peer.ask::<exchange::DeleteOk>(1, say::delete_exchange(&name));
}

#[test]
fn deleting_a_missing_exchange_is_fine() {
    peer().ask::<exchange::DeleteOk>(1, say::delete_exchange(&unique("missing")));
}

#[test]
fn deleting_a_system_exchange_is_403() {
    let text = "ACCESS_REFUSED - deletion of system exchange 'amq.direct' in vhost '/' not allowed";
    peer().refused(1, say::delete_exchange("amq.direct"), 403, text);
}

#[test]
fn delete_if_unused_of_a_bound_exchange_is_406() {
    let mut peer = peer();
    let (name, queue) = (peer.exchange(1, "fanout"), peer.queue(1, "bound"));
    peer.bind(1, &queue, &name, "");
    let text = format!("PRECONDITION_FAILED - exchange '{name}' in vhost '/' in use");
    let delete = exchange::Delete { if_unused: true, ..say::delete_exchange(&name) };
    peer.refused(1, delete.clone(), 406, &text);
    peer.open_channel(1);
    peer.ask::<queue::UnbindOk>(1, say::unbind(&queue, &name, ""));
    peer.ask::<exchange::DeleteOk>(1, delete);
}

#[test]
fn a_deleted_exchanges_bindings_go_with_it() {
    let mut peer = peer();
    let (name, queue) = (peer.exchange(1, "fanout"), peer.queue(1, "bound"));
    peer.bind(1, &queue, &name, "");
    peer.ask::<exchange::DeleteOk>(1, say::delete_exchange(&name));
    peer.ask::<exchange::DeclareOk>(1, say::exchange(&name, "fanout"));
    peer.publish(1, &name, "", "x");
    peer.expect_counts(1, &queue, (0, 0));
}

#[test]
fn binding_to_a_missing_exchange_is_404() {
    let mut peer = peer();
    let (queue, name) = (peer.queue(1, "bound"), unique("missing"));
    peer.refused(1, say::bind(&queue, &name, ""), 404, &no_exchange(&name));
}

#[test]
fn binding_a_missing_queue_is_404() {
    let name = unique("missing");
    let text = format!("NOT_FOUND - no queue '{name}' in vhost '/'");
    peer().refused(1, say::bind(&name, "amq.direct", ""), 404, &text);
}

#[test]
fn with_both_missing_the_exchange_is_named() {
    let name = unique("missing");
    peer().refused(1, say::bind(&unique("missing"), &name, ""), 404, &no_exchange(&name));
}

#[test]
fn unbinding_what_is_not_there_is_fine() {
    let mut peer = peer();
    let queue = peer.queue(1, "unbound");
    peer.ask::<queue::UnbindOk>(1, say::unbind(&queue, "amq.direct", "never bound"));
    peer.ask::<queue::UnbindOk>(1, say::unbind(&queue, &unique("missing"), ""));
    peer.ask::<queue::UnbindOk>(1, say::unbind(&unique("missing"), "amq.direct", ""));
}

#[test]
fn a_queue_bound_twice_gets_one_copy() {
    let mut peer = peer();
    let queue = peer.queue(1, "twice");
    let topic = peer.exchange(1, "topic");
    for key in ["a.b", "a.b", "a.*", "#"] {
        peer.bind(1, &queue, &topic, key);
    }
    peer.publish(1, &topic, "a.b", "once");
    peer.expect_contents(1, &queue, &["once"]);
}

#[test]
fn bindings_with_other_arguments_are_other_bindings() {
    let mut peer = peer();
    let (queue, direct) = (peer.queue(1, "arguments"), peer.exchange(1, "direct"));
    let long = Octets::new().entry("a", b'l', [0, 0, 0, 0, 0, 0, 0, 1]).entry_str("b", "2");
    let int = Octets::new().entry("a", b'I', [0, 0, 0, 1]).entry_str("b", "2");
    let swapped = Octets::new().entry_str("b", "2").entry("a", b'l', [0, 0, 0, 0, 0, 0, 0, 1]);
    bind_with(&mut peer, &queue, &direct, "key", &long);
    peer.expect::<queue::BindOk>(1);
    // Another type of the same number: not this binding.
    unbind_with(&mut peer, &queue, &direct, "key", &int);
    peer.publish(1, &direct, "key", "still bound");
    peer.take(1, &queue, "still bound");
    // Another order of the same arguments: this binding.
    unbind_with(&mut peer, &queue, &direct, "key", &swapped);
    peer.publish(1, &direct, "key", "not bound");
    peer.expect_counts(1, &queue, (0, 0));
}

#[test]
fn a_publish_after_bind_ok_on_any_connection_is_routed() {
    let mut one = peer();
    let mut other = peer();
    let (queue, key) = (one.queue(1, "bound"), unique("key"));
    one.bind(1, &queue, "amq.direct", &key);
    other.publish(1, "amq.direct", &key, "x");
    other.in_step(1);
    one.take(1, &queue, "x");
    one.ask::<queue::UnbindOk>(1, say::unbind(&queue, "amq.direct", &key));
    other.publish(1, "amq.direct", &key, "y");
    other.in_step(1);
    one.expect_counts(1, &queue, (0, 0));
}

/// exchange.bind.
fn bind_exchange(destination: &str, source: &str, key: &str) -> exchange::Bind {
    exchange::Bind {
        destination: destination.into(),
        source: source.into(),
        routing_key: key.into(),
        ..Default::default()
    }
}

/// exchange.unbind.
fn unbind_exchange(destination: &str, source: &str, key: &str) -> exchange::Unbind {
    exchange::Unbind {
        destination: destination.into(),
        source: source.into(),
        routing_key: key.into(),
        ..Default::default()
    }
}

#[test]
fn a_bound_exchange_routes_the_same_message_with_the_same_key() {
    let mut peer = peer();
    let (source, inner) = (peer.exchange(1, "topic"), peer.exchange(1, "direct"));
    let queue = peer.queue(1, "inner");
    peer.ask::<exchange::BindOk>(1, bind_exchange(&inner, &source, "a.*"));
    peer.bind(1, &queue, &inner, "a.b");
    peer.publish(1, &source, "a.b", "both match");
    peer.publish(1, &source, "a.c", "only the outer matches");
    peer.publish(1, &source, "b.b", "none matches");
    let ok = peer.take(1, &queue, "both match");
    assert_eq!(ok.exchange.as_str(), source, "the exchange it was published to");
    peer.expect_contents(1, &queue, &[]);
}

#[test]
fn exchange_unbind_ok_is_method_51_and_ends_the_routing() {
    let mut peer = peer();
    let (source, inner) = (peer.exchange(1, "fanout"), peer.exchange(1, "fanout"));
    let queue = peer.queue(1, "inner");
    peer.bind(1, &queue, &inner, "");
    peer.ask::<exchange::BindOk>(1, bind_exchange(&inner, &source, ""));
    peer.send(1, unbind_exchange(&inner, &source, ""));
    assert_eq!(peer.expect_frame(leveret_suite::peer::kind::METHOD, 1), [0, 40, 0, 51]);
    peer.publish(1, &source, "", "not routed");
    peer.expect_contents(1, &queue, &[]);
}

#[test]
fn a_cycle_of_exchanges_is_walked_once() {
    let mut peer = peer();
    let (one, two) = (peer.exchange(1, "fanout"), peer.exchange(1, "fanout"));
    let queue = peer.queue(1, "cycle");
    for (destination, source) in [(&one, &two), (&two, &one), (&one, &one)] {
        peer.ask::<exchange::BindOk>(1, bind_exchange(destination, source, ""));
    }
    peer.bind(1, &queue, &one, "");
    peer.bind(1, &queue, &two, "");
    peer.publish(1, &one, "", "once");
    peer.expect_contents(1, &queue, &["once"]);
}

#[test]
fn an_internal_exchange_is_reached_through_a_binding() {
    let mut peer = peer();
    let (source, inner, queue) = (peer.exchange(1, "fanout"), unique("internal"), peer.queue(1, "inner"));
    peer.ask::<exchange::DeclareOk>(1, say::exchange_with(&inner, "fanout", |declare| declare.internal = true));
    peer.ask::<exchange::BindOk>(1, bind_exchange(&inner, &source, ""));
    peer.bind(1, &queue, &inner, "");
    peer.publish(1, &source, "", "inside");
    peer.expect_contents(1, &queue, &["inside"]);
}

#[test]
fn exchange_bind_names_the_missing_exchange() {
    let mut peer = peer();
    let (there, missing) = (peer.exchange(1, "fanout"), unique("missing"));
    let other = unique("other");
    peer.refused(1, bind_exchange(&missing, &there, ""), 404, &no_exchange(&missing));
    peer.open_channel(1);
    peer.refused(1, bind_exchange(&there, &missing, ""), 404, &no_exchange(&missing));
    peer.open_channel(1);
    peer.refused(1, bind_exchange(&other, &missing, ""), 404, &no_exchange(&missing));
    peer.open_channel(1);
    peer.refused(1, bind_exchange("", &there, ""), 403, DEFAULT);
    peer.open_channel(1);
    peer.refused(1, bind_exchange(&there, "", ""), 403, DEFAULT);
    peer.open_channel(1);
    peer.ask::<exchange::UnbindOk>(1, unbind_exchange(&missing, &there, ""));
}

#[test]
fn auto_delete_cascades_upstream() {
    let mut peer = peer();
    let names: Vec<String> = (0..3).map(|_| unique("chain")).collect();
    let queue = peer.queue(1, "end");
    for name in &names {
        peer.ask::<exchange::DeclareOk>(1, say::exchange_with(name, "fanout", |declare| declare.auto_delete = true));
    }
    peer.ask::<exchange::BindOk>(1, bind_exchange(&names[1], &names[0], ""));
    peer.ask::<exchange::BindOk>(1, bind_exchange(&names[2], &names[1], ""));
    peer.bind(1, &queue, &names[2], "");
    peer.ask::<queue::DeleteOk>(1, say::delete(&queue));
    for name in &names {
        peer.refused(1, say::exchange_passive(name), 404, &no_exchange(name));
        peer.open_channel(1);
    }
}

#[test]
fn a_bound_exchange_is_in_use() {
    let mut peer = peer();
    let (source, inner) = (peer.exchange(1, "fanout"), peer.exchange(1, "fanout"));
    peer.ask::<exchange::BindOk>(1, bind_exchange(&inner, &source, ""));
    let delete = |name: &str| exchange::Delete { if_unused: true, ..say::delete_exchange(name) };
    let text = format!("PRECONDITION_FAILED - exchange '{source}' in vhost '/' in use");
    peer.refused(1, delete(&source), 406, &text);
    peer.open_channel(1);
    // Only bindings as a source count.
    peer.ask::<exchange::DeleteOk>(1, delete(&inner));
    peer.ask::<exchange::DeleteOk>(1, delete(&source));
}

#[test]
fn a_name_that_is_not_utf_8_is_shown_as_latin_1() {
    if differs_from_reference("a_name_that_is_not_utf_8_is_shown_as_latin_1") {
        return;
    }
    let mut peer = peer();
    peer.send_payload(1, Octets::method(60, 40).u16(0).shortstr([0xFF, 0xFE]).shortstr("").u8(0));
    let header = leveret_suite::Frame::new(leveret_suite::peer::kind::HEADER, 1, Octets::header(0, 0));
    peer.send_frame(header);
    peer.expect_channel_close(1, 404, &no_exchange("ÿþ"), (60, 40));
}
