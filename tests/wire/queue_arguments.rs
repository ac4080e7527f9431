//! Queue arguments: which values are refused and with which words, and when two declarations are the same.

use amq_protocol::protocol::queue;
use amq_protocol::types::{AMQPValue, ByteArray, DecimalValue, FieldArray, FieldTable};
use leveret_suite::values::{declare_durable_with, declare_with, int, long, text};
use leveret_suite::{Octets, Peer, Server, differs_from_reference, say, unique};

/// Ten years in milliseconds.
const TEN_YEARS: i64 = 315_360_000_000;

fn peer() -> Peer {
    Server::start().peer()
}

fn bytes(value: &str) -> AMQPValue {
    AMQPValue::ByteArray(ByteArray::from(value.as_bytes().to_vec()))
}

fn invalid(argument: &str, queue: &str, detail: &str) -> String {
    format!("invalid arg '{argument}' for queue '{queue}' in vhost '/': {detail}")
}

/// Declares a new queue with these arguments, which is refused for the one named first.
#[track_caller]
fn expect_invalid(peer: &mut Peer, arguments: &[(&str, AMQPValue)], detail: &str) {
    let name = unique("invalid");
    peer.refused_406(1, declare_with(&name, arguments), &invalid(arguments[0].0, &name, detail));
}

#[track_caller]
fn expect_accepted(peer: &mut Peer, arguments: &[(&str, AMQPValue)]) {
    peer.queue_with(1, arguments);
}

#[test]
fn bad_values_of_arguments_are_406_with_the_reason() {
    let cases = [
        ("x-message-ttl", int(-1), "{value_negative,-1}"),
        ("x-message-ttl", long(TEN_YEARS + 1), "{value_too_large,315360000001}"),
        ("x-message-ttl", text("1"), "\"expected integer, got longstr\""),
        ("x-expires", int(0), "{value_zero,0}"),
        ("x-expires", int(-7), "{value_negative,-7}"),
        ("x-expires", long(TEN_YEARS + 1), "{value_too_large,315360000001}"),
        ("x-max-length", int(-5), "{value_negative,-5}"),
        ("x-max-length-bytes", int(-5), "{value_negative,-5}"),
        ("x-overflow", text("explode"), "invalid_overflow"),
        ("x-overflow", text("Drop-Head"), "invalid_overflow"),
        ("x-max-priority", int(-1), "{value_negative,-1}"),
        ("x-max-priority", int(256), "{max_value_exceeded,256}"),
        ("x-single-active-consumer", int(1), "{unacceptable_type,signedint}"),
        ("x-queue-type", text("foo"), "\"unsupported queue type 'foo'\""),
        ("x-queue-type", text("Classic"), "\"unsupported queue type 'Classic'\""),
        ("x-queue-version", int(-1), "{value_negative,-1}"),
        ("x-queue-version", int(3), "\"unsupported queue version '3'\""),
    ];
    let mut peer = peer();
    for (argument, value, detail) in cases {
        expect_invalid(&mut peer, &[(argument, value)], detail);
    }
}

#[test]
fn the_largest_and_smallest_values_are_accepted() {
    let mut peer = peer();
    for (argument, values) in [
        ("x-message-ttl", [0, TEN_YEARS]),
        ("x-expires", [60_000, TEN_YEARS]),
        ("x-max-length", [0, i64::MAX]),
        ("x-max-length-bytes", [0, i64::MAX]),
        ("x-max-priority", [0, 255]),
        ("x-queue-version", [1, 2]),
    ] {
        for value in values {
            expect_accepted(&mut peer, &[(argument, long(value))]);
        }
    }
}

const INTEGERS: [&str; 5] = ["x-message-ttl", "x-expires", "x-max-length", "x-max-length-bytes", "x-max-priority"];

#[test]
fn an_integer_may_have_any_of_the_eight_tags() {
    let mut peer = peer();
    for argument in INTEGERS {
        let tags: [(u8, &[u8]); 8] = [
            (b'b', &[100]),
            (b'B', &[100]),
            (b's', &[0, 100]),
            (b'u', &[0, 100]),
            (b'I', &[0, 0, 0, 100]),
            (b'i', &[0, 0, 0, 100]),
            (b'l', &[0, 0, 0, 0, 0, 0, 0, 100]),
            (b'L', &[0, 0, 0, 0, 0, 0, 0, 100]),
        ];
        for (tag, value) in tags {
            let arguments = Octets::new().entry(argument, tag, value);
            let declare = Octets::method(50, 10).u16(0).shortstr(unique("tags")).u8(0).longstr(arguments);
            peer.send_payload(1, declare);
            peer.expect::<queue::DeclareOk>(1);
        }
    }
}

#[test]
fn of_several_bad_values_rabbitmqs_first_is_told() {
    let mut peer = peer();
    let bad = [
        ("x-expires", int(0), "{value_zero,0}"),
        ("x-message-ttl", int(-1), "{value_negative,-1}"),
        ("x-max-length", int(-1), "{value_negative,-1}"),
        ("x-max-length-bytes", int(-1), "{value_negative,-1}"),
        ("x-max-priority", int(-1), "{value_negative,-1}"),
        ("x-overflow", text("away"), "invalid_overflow"),
        ("x-queue-version", int(9), "\"unsupported queue version '9'\""),
        ("x-single-active-consumer", int(1), "{unacceptable_type,signedint}"),
    ];
    for from in 0..bad.len() {
        let (argument, _, detail) = &bad[from];
        let arguments: Vec<_> = bad[from..].iter().map(|(name, value, _)| (*name, value.clone())).collect();
        let name = unique("bad");
        peer.refused_406(1, declare_with(&name, &arguments), &invalid(argument, &name, detail));
    }
}

#[test]
fn what_is_no_integer_is_said_to_be_none() {
    let mut peer = peer();
    for argument in INTEGERS {
        for (value, word) in [
            (AMQPValue::Double(5.0), "double"),
            (AMQPValue::Float(5.0), "float"),
            (AMQPValue::Timestamp(5), "timestamp"),
            (AMQPValue::DecimalValue(DecimalValue { scale: 0, value: 5 }), "decimal"),
            (AMQPValue::Boolean(true), "bool"),
            (AMQPValue::Void, "void"),
            (bytes("5"), "binary"),
        ] {
            let detail = format!("\"expected integer, got {word}\"");
            expect_invalid(&mut peer, &[(argument, value)], &detail);
        }
    }
}

#[test]
fn what_must_be_a_longstr_or_a_bool_is_unacceptable_as_anything_else() {
    let mut peer = peer();
    for argument in ["x-overflow", "x-queue-type"] {
        expect_invalid(&mut peer, &[(argument, bytes("classic"))], "{unacceptable_type,binary}");
        expect_invalid(&mut peer, &[(argument, int(1))], "{unacceptable_type,signedint}");
    }
    let key = [("x-dead-letter-routing-key", bytes("k")), ("x-dead-letter-exchange", text(""))];
    expect_invalid(&mut peer, &key, "{unacceptable_type,binary}");
    expect_invalid(&mut peer, &[("x-single-active-consumer", text("true"))], "{unacceptable_type,longstr}");
}

#[test]
fn a_dead_letter_exchange_must_be_a_longstr() {
    let mut peer = peer();
    for (value, word) in [(bytes("x"), "binary"), (int(1), "signedint"), (AMQPValue::Boolean(true), "bool")] {
        let name = unique("dlx");
        let text = format!("invalid type '{word}' for arg 'x-dead-letter-exchange' in queue '{name}' in vhost '/'");
        peer.refused_406(1, declare_with(&name, &[("x-dead-letter-exchange", value)]), &text);
    }
}

#[test]
fn a_dead_letter_key_needs_a_dead_letter_exchange_which_need_not_exist() {
    let mut peer = peer();
    expect_invalid(&mut peer, &[("x-dead-letter-routing-key", text("k"))], "routing_key_but_no_dlx_defined");
    let missing = text(&unique("missing"));
    expect_accepted(&mut peer, &[("x-dead-letter-routing-key", text("k")), ("x-dead-letter-exchange", missing)]);
    expect_accepted(&mut peer, &[("x-dead-letter-routing-key", text("k")), ("x-dead-letter-exchange", text(""))]);
}

#[test]
fn an_argument_of_another_queue_type_is_refused() {
    let mut peer = peer();
    for (argument, value) in [
        ("x-max-age", text("1h")),
        ("x-stream-max-segment-size-bytes", int(1000)),
        ("x-delivery-limit", int(5)),
        ("x-dead-letter-strategy", text("at-most-once")),
    ] {
        let name = unique("foreign");
        let text =
            format!("invalid arg '{argument}' for queue '{name}' in vhost '/' of queue type rabbit_classic_queue");
        peer.refused_406(1, declare_with(&name, &[(argument, value)]), &text);
    }
    for (argument, value) in [
        ("x-max-priority", int(5)),
        ("x-max-age", text("1h")),
        ("x-stream-max-segment-size-bytes", int(1000)),
        ("x-initial-cluster-size", int(1)),
    ] {
        let name = unique("foreign");
        let error =
            format!("invalid arg '{argument}' for queue '{name}' in vhost '/' of queue type rabbit_quorum_queue");
        let arguments = [(argument, value), ("x-queue-type", text("quorum"))];
        peer.refused_406(1, declare_durable_with(&name, &arguments), &error);
    }
}

#[test]
fn bad_values_of_quorum_arguments_are_406_with_the_reason() {
    let mut peer = peer();
    for (argument, value, detail) in [
        ("x-dead-letter-strategy", text("twice"), "invalid_dlx_strategy"),
        ("x-dead-letter-strategy", int(1), "{unacceptable_type,signedint}"),
        ("x-quorum-initial-group-size", int(0), "{value_zero,0}"),
    ] {
        let name = unique("quorum");
        let arguments = [(argument, value), ("x-queue-type", text("quorum"))];
        peer.refused_406(1, declare_durable_with(&name, &arguments), &invalid(argument, &name, detail));
    }
    for (argument, value) in [
        ("x-dead-letter-strategy", text("at-most-once")),
        ("x-quorum-initial-group-size", int(1)),
        ("x-delivery-limit", int(-1)),
        ("x-overflow", text("reject-publish-dlx")),
    ] {
        peer.quorum_queue(1, &[(argument, value)]);
    }
}

#[test]
fn arguments_without_effect_on_one_node_are_accepted() {
    let mut peer = peer();
    expect_accepted(&mut peer, &[("x-queue-master-locator", text("min-masters"))]);
    expect_accepted(&mut peer, &[("x-queue-mode", text("lazy"))]);
    expect_accepted(&mut peer, &[("x-queue-mode", text("default"))]);
}

#[test]
fn a_leader_locator_is_one_of_four_on_every_type_of_queue() {
    if differs_from_reference("a_leader_locator_is_one_of_four_on_every_type_of_queue") {
        return;
    }
    const LOCATOR: &str = "x-queue-leader-locator";
    let mut peer = peer();
    for locator in ["client-local", "balanced", "random", "least-leaders"] {
        expect_accepted(&mut peer, &[(LOCATOR, text(locator))]);
        peer.quorum_queue(1, &[(LOCATOR, text(locator))]);
    }
    expect_invalid(&mut peer, &[(LOCATOR, text("here"))], "invalid_queue_locator_arg");
    expect_invalid(&mut peer, &[(LOCATOR, bytes("balanced"))], "{unacceptable_type,binary}");
}

#[test]
fn any_queue_mode_is_accepted() {
    if differs_from_reference("any_queue_mode_is_accepted") {
        return;
    }
    expect_accepted(&mut peer(), &[("x-queue-mode", text("eager"))]);
    expect_accepted(&mut peer(), &[("x-queue-mode", int(1))]);
}

#[test]
fn an_empty_or_undefined_queue_type_is_the_default() {
    if differs_from_reference("an_empty_or_undefined_queue_type_is_the_default") {
        return;
    }
    let mut peer = peer();
    for kind in ["", "undefined"] {
        let name = peer.queue_with(1, &[("x-queue-type", text(kind))]);
        peer.ask::<queue::DeclareOk>(1, declare_with(&name, &[("x-queue-type", text("classic"))]));
    }
}

/// Each argument that takes part in equivalence, with two values that differ.
fn compared() -> Vec<(&'static str, AMQPValue, AMQPValue)> {
    vec![
        ("x-expires", int(60_000), int(60_001)),
        ("x-message-ttl", int(10), int(20)),
        ("x-dead-letter-exchange", text("one"), text("two")),
        ("x-max-length", int(1), int(2)),
        ("x-max-length-bytes", int(1), int(2)),
        ("x-max-priority", int(1), int(2)),
        ("x-overflow", text("drop-head"), text("reject-publish")),
        ("x-queue-mode", text("default"), text("lazy")),
        ("x-queue-version", int(1), int(2)),
        ("x-single-active-consumer", AMQPValue::Boolean(true), AMQPValue::Boolean(false)),
    ]
}

fn shown(value: &AMQPValue) -> (String, &'static str) {
    match value {
        AMQPValue::LongInt(number) => (number.to_string(), "signedint"),
        AMQPValue::Boolean(value) => (value.to_string(), "bool"),
        AMQPValue::LongString(text) => (text.to_string(), "longstr"),
        other => panic!("{other:?}"),
    }
}

fn inequivalent(argument: &str, queue: &str, received: &str, current: &str) -> String {
    format!(
        "inequivalent arg '{argument}' for queue '{queue}' in vhost '/': received {received} but current is {current}"
    )
}

#[test]
fn another_value_of_an_argument_is_406() {
    let mut peer = peer();
    for (argument, one, two) in compared() {
        let name = peer.queue_with(1, &[(argument, one.clone())]);
        let error = inequivalent(argument, &name, &format!("'{}'", shown(&two).0), &format!("'{}'", shown(&one).0));
        peer.refused_406(1, declare_with(&name, &[(argument, two)]), &error);
        peer.ask::<queue::DeclareOk>(1, declare_with(&name, &[(argument, one)]));
    }
}

#[test]
fn another_dead_letter_key_is_406() {
    let mut peer = peer();
    let with = |key: &str| [("x-dead-letter-exchange", text("")), ("x-dead-letter-routing-key", text(key))];
    let name = peer.queue_with(1, &with("one"));
    let error = inequivalent("x-dead-letter-routing-key", &name, "'two'", "'one'");
    peer.refused_406(1, declare_with(&name, &with("two")), &error);
}

#[test]
fn an_argument_that_only_one_declaration_has_is_406() {
    let mut peer = peer();
    for (argument, value, _) in compared() {
        let (shown, kind) = shown(&value);
        let value_text = format!("the value '{shown}' of type '{kind}'");
        let name = peer.queue_with(1, &[(argument, value.clone())]);
        peer.refused_406(1, say::declare(&name), &inequivalent(argument, &name, "none", &value_text));
        // A missing argument is never equal to its default either: drop-head, default, version 1.
        let name = peer.queue(1, "without");
        let error = inequivalent(argument, &name, &value_text, "none");
        peer.refused_406(1, declare_with(&name, &[(argument, value)]), &error);
    }
}

#[test]
fn equal_numbers_of_other_integer_types_are_equivalent() {
    let mut peer = peer();
    let name = peer.queue_with(1, &[("x-max-length", AMQPValue::ShortShortInt(10))]);
    for same in [
        AMQPValue::ShortShortUInt(10),
        AMQPValue::ShortInt(10),
        AMQPValue::ShortUInt(10),
        AMQPValue::LongInt(10),
        AMQPValue::LongUInt(10),
        AMQPValue::LongLongInt(10),
    ] {
        peer.ask::<queue::DeclareOk>(1, declare_with(&name, &[("x-max-length", same)]));
    }
}

#[test]
fn a_float_is_not_equivalent_to_an_integer() {
    let mut peer = peer();
    let name = peer.queue_with(1, &[("x-max-length", int(100))]);
    let error = inequivalent("x-max-length", &name, "'100.0'", "'100'");
    peer.refused_406(1, declare_with(&name, &[("x-max-length", AMQPValue::Double(100.0))]), &error);
}

#[test]
fn types_have_the_words_of_rabbitmq() {
    let mut peer = peer();
    let name = peer.queue(1, "words");
    for (value, shown, word) in [
        (text("a"), "a", "longstr"),
        (int(20), "20", "signedint"),
        (AMQPValue::LongUInt(20), "20", "unsignedint"),
        (long(20), "20", "long"),
        (AMQPValue::ShortInt(20), "20", "short"),
        (AMQPValue::ShortUInt(20), "20", "unsignedshort"),
        (AMQPValue::ShortShortInt(20), "20", "byte"),
        (AMQPValue::ShortShortUInt(20), "20", "unsignedbyte"),
        (AMQPValue::Float(100.0), "100.0", "float"),
        (AMQPValue::Double(100.0), "100.0", "double"),
        (AMQPValue::Boolean(true), "true", "bool"),
        (AMQPValue::Timestamp(20), "20", "timestamp"),
        (bytes("a"), "a", "binary"),
        (AMQPValue::Void, "undefined", "void"),
    ] {
        let value_text = format!("the value '{shown}' of type '{word}'");
        let error = inequivalent("x-message-ttl", &name, &value_text, "none");
        peer.refused_406(1, declare_with(&name, &[("x-message-ttl", value)]), &error);
    }
    for (value, word) in [
        (AMQPValue::DecimalValue(DecimalValue { scale: 1, value: 5 }), "decimal"),
        (AMQPValue::FieldTable(FieldTable::default()), "table"),
        (AMQPValue::FieldArray(FieldArray::default()), "array"),
    ] {
        peer.send(1, declare_with(&name, &[("x-message-ttl", value)]));
        let close: amq_protocol::protocol::channel::Close = peer.expect(1);
        assert!(close.reply_text.as_str().ends_with(&format!("' of type '{word}' but current is none")), "{close:?}");
        peer.close_ok_and_open(1);
    }
}

#[test]
fn strings_inside_a_list_are_shown_as_such() {
    let mut peer = peer();
    let name = peer.queue(1, "list");
    let mut items = FieldArray::default();
    for item in [text("a"), int(1), bytes("b")] {
        items.push(item);
    }
    let shown = "the value '[{longstr,<<\"a\">>},{signedint,1},{binary,<<\"b\">>}]' of type 'array'";
    let error = inequivalent("x-max-length", &name, shown, "none");
    peer.refused_406(1, declare_with(&name, &[("x-max-length", AMQPValue::FieldArray(items))]), &error);
}

#[test]
fn another_queue_type_is_reported_against_the_default() {
    if differs_from_reference("another_queue_type_is_reported_against_the_default") {
        return;
    }
    let mut peer = peer();
    let name = unique("type");
    peer.ask::<queue::DeclareOk>(1, declare_durable_with(&name, &[]));
    let error = inequivalent("x-queue-type", &name, "'quorum'", "'classic'");
    peer.refused_406(1, declare_durable_with(&name, &[("x-queue-type", text("quorum"))]), &error);
    let name = peer.quorum_queue(1, &[]);
    let error = inequivalent("x-queue-type", &name, "'classic'", "'quorum'");
    peer.refused_406(1, declare_durable_with(&name, &[]), &error);
}

#[test]
fn a_quorum_queue_compares_the_arguments_that_quorum_queues_have() {
    let mut peer = peer();
    for (argument, one, two) in [
        ("x-delivery-limit", int(1), int(2)),
        ("x-dead-letter-strategy", text("at-most-once"), text("at-least-once")),
        ("x-quorum-initial-group-size", int(1), int(3)),
        ("x-message-ttl", int(10_000), int(20_000)),
    ] {
        let of = |value: &AMQPValue| [("x-queue-type", text("quorum")), (argument, value.clone())];
        let name = peer.quorum_queue(1, &[(argument, one.clone())]);
        let error = inequivalent(argument, &name, &format!("'{}'", shown(&two).0), &format!("'{}'", shown(&one).0));
        peer.refused_406(1, declare_durable_with(&name, &of(&two)), &error);
        let error = inequivalent(
            argument,
            &name,
            "none",
            &format!("the value '{}' of type '{}'", shown(&one).0, shown(&one).1),
        );
        peer.refused_406(1, declare_durable_with(&name, &[("x-queue-type", text("quorum"))]), &error);
        peer.ask::<queue::DeclareOk>(1, declare_durable_with(&name, &of(&one)));
    }
    // What only classic queues have is not looked at.
    let name = peer.quorum_queue(1, &[]);
    for (argument, value) in [("x-max-priority", int(5)), ("x-queue-mode", text("lazy")), ("x-queue-version", int(2))] {
        let arguments = [("x-queue-type", text("quorum")), (argument, value)];
        peer.ask::<queue::DeclareOk>(1, declare_durable_with(&name, &arguments));
    }
}

#[test]
fn flags_are_compared_before_arguments_and_values_are_not_checked_again() {
    let mut peer = peer();
    let name = peer.queue_with(1, &[("x-message-ttl", int(10))]);
    let arguments = [("x-message-ttl", text("nonsense"))];
    let error = inequivalent("durable", &name, "'true'", "'false'");
    peer.refused_406(1, declare_durable_with(&name, &arguments), &error);
    let error = inequivalent("auto_delete", &name, "'true'", "'false'");
    let declare = queue::Declare { auto_delete: true, ..declare_with(&name, &arguments) };
    peer.refused_406(1, declare, &error);
    let error = inequivalent("x-message-ttl", &name, "'nonsense'", "'10'");
    peer.refused_406(1, declare_with(&name, &arguments), &error);
}
