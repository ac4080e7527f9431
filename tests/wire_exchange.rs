//! Exchanges: declare, delete, bindings, matching (contract, sections 3.1 to 3.6).

use amq_protocol::protocol::{exchange, queue};
use leveret_suite::{Content, Octets, Peer, Server, differs_from_reference, say, unique};

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

/// Binds one queue with each of these keys in turn to a topic exchange, and says which of them match a routing key.
fn topic_matches(routing_key: &str, patterns: &[&'static str]) -> Vec<&'static str> {
    let mut peer = peer();
    let topic = peer.exchange(1, "topic");
    let queue = peer.queue(1, "topic");
    let mut matching = Vec::new();
    for pattern in patterns {
        peer.bind(1, &queue, &topic, pattern);
        peer.publish(1, &topic, routing_key, pattern);
        if !peer.drain(1, &queue).is_empty() {
            matching.push(*pattern);
        }
        peer.ask::<queue::UnbindOk>(1, say::unbind(&queue, &topic, pattern));
    }
    matching
}

/// Whether a headers binding with these arguments takes a message with these headers.
fn headers_match(arguments: &Octets, headers: &Octets) -> bool {
    let mut peer = peer();
    let exchange = peer.exchange(1, "headers");
    let queue = peer.queue(1, "headers");
    bind_with(&mut peer, &queue, &exchange, "", arguments);
    peer.expect::<queue::BindOk>(1);
    peer.publish_content(
        1,
        say::publish(&exchange, "ignored"),
        &Content::with_headers(headers, "x"),
    );
    !peer.drain(1, &queue).is_empty()
}

fn bind_with(peer: &mut Peer, queue: &str, exchange: &str, key: &str, arguments: &Octets) {
    let bind = Octets::method(50, 20)
        .u16(0)
        .shortstr(queue)
        .shortstr(exchange)
        .shortstr(key)
        .u8(0);
    peer.send_payload(1, bind.longstr(arguments));
}

fn unbind_with(peer: &mut Peer, queue: &str, exchange: &str, key: &str, arguments: &Octets) {
    let unbind = Octets::method(50, 50)
        .u16(0)
        .shortstr(queue)
        .shortstr(exchange)
        .shortstr(key);
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
        peer.ask::<exchange::DeclareOk>(
            1,
            say::exchange_with(name, kind, |declare| declare.durable = true),
        );
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
        assert_eq!(
            (close.reply_code, close.class_id, close.method_id),
            (406, 40, 10)
        );
        let texts = ["unknown", "invalid"]
            .map(|word| format!("PRECONDITION_FAILED - {word} exchange type '{kind}'"));
        assert!(
            texts.iter().any(|text| text == close.reply_text.as_str()),
            "{close:?}"
        );
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
    peer.refused(
        1,
        say::exchange(&name, "direct"),
        406,
        &inequivalent("type", &name, "direct", "fanout"),
    );
}

#[test]
fn another_flag_is_406_and_the_first_mismatch_wins() {
    let mut peer = peer();
    let name = peer.exchange(1, "fanout");
    let internal = say::exchange_with(&name, "fanout", |declare| declare.internal = true);
    peer.refused(
        1,
        internal.clone(),
        406,
        &inequivalent("internal", &name, "true", "false"),
    );
    peer.open_channel(1);
    let auto_delete = exchange::Declare {
        auto_delete: true,
        ..internal
    };
    peer.refused(
        1,
        auto_delete.clone(),
        406,
        &inequivalent("auto_delete", &name, "true", "false"),
    );
    peer.open_channel(1);
    let durable = exchange::Declare {
        durable: true,
        ..auto_delete
    };
    peer.refused(
        1,
        durable.clone(),
        406,
        &inequivalent("durable", &name, "true", "false"),
    );
    peer.open_channel(1);
    let direct = exchange::Declare {
        kind: "direct".into(),
        ..durable
    };
    peer.refused(
        1,
        direct,
        406,
        &inequivalent("type", &name, "direct", "fanout"),
    );
}

#[test]
fn unknown_arguments_never_matter() {
    let mut peer = peer();
    let name = unique("arguments");
    let declare = Octets::method(40, 10)
        .u16(0)
        .shortstr(&name)
        .shortstr("direct")
        .u8(0);
    let arguments = Octets::new().entry("x-mine", b'I', [0, 0, 0, 1]);
    peer.send_payload(1, declare.longstr(arguments));
    peer.expect::<exchange::DeclareOk>(1);
    peer.ask::<exchange::DeclareOk>(1, say::exchange(&name, "direct"));
}

#[test]
fn publishing_to_an_internal_exchange_is_403() {
    let mut peer = peer();
    let name = unique("internal");
    peer.ask::<exchange::DeclareOk>(
        1,
        say::exchange_with(&name, "fanout", |declare| declare.internal = true),
    );
    let text =
        format!("ACCESS_REFUSED - cannot publish to internal exchange '{name}' in vhost '/'");
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
    peer.ask::<exchange::DeclareOk>(
        1,
        say::exchange_with(&name, "direct", |declare| declare.auto_delete = true),
    );
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
    peer.ask::<exchange::DeclareOk>(
        1,
        say::exchange_with(&name, "fanout", |declare| declare.auto_delete = true),
    );
    peer.bind(1, &queue, &name, "");
    peer.ask::<queue::DeleteOk>(1, say::delete(&queue));
    peer.refused(1, say::exchange_passive(&name), 404, &no_exchange(&name));
}

#[test]
fn an_auto_delete_exchange_that_never_had_a_binding_stays() {
    let mut peer = peer();
    let name = unique("auto");
    let queue = peer.queue(1, "unbound");
    peer.ask::<exchange::DeclareOk>(
        1,
        say::exchange_with(&name, "fanout", |declare| declare.auto_delete = true),
    );
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
    let delete = exchange::Delete {
        if_unused: true,
        ..say::delete_exchange(&name)
    };
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
    peer().refused(
        1,
        say::bind(&unique("missing"), &name, ""),
        404,
        &no_exchange(&name),
    );
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
    let long = Octets::new()
        .entry("a", b'l', [0, 0, 0, 0, 0, 0, 0, 1])
        .entry_str("b", "2");
    let int = Octets::new()
        .entry("a", b'I', [0, 0, 0, 1])
        .entry_str("b", "2");
    let swapped = Octets::new()
        .entry_str("b", "2")
        .entry("a", b'l', [0, 0, 0, 0, 0, 0, 0, 1]);
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

#[test]
fn direct_matches_keys_byte_for_byte() {
    let mut peer = peer();
    let (direct, queue) = (peer.exchange(1, "direct"), peer.queue(1, "direct"));
    peer.bind(1, &queue, &direct, "a.#");
    for key in ["a.#", "a.b", "A.#", "a.# ", ""] {
        peer.publish(1, &direct, key, key);
    }
    peer.expect_contents(1, &queue, &["a.#"]);
}

#[test]
fn fanout_ignores_the_key() {
    let mut peer = peer();
    let fanout = peer.exchange(1, "fanout");
    let queues: Vec<String> = (0..3).map(|_| peer.queue(1, "fanout")).collect();
    for queue in &queues {
        peer.bind(1, queue, &fanout, "some key");
    }
    peer.publish(1, &fanout, "another", "to all");
    for queue in &queues {
        peer.expect_contents(1, queue, &["to all"]);
    }
}

#[test]
fn topic_words_are_matched_by_star_and_hash() {
    let patterns = [
        "a.b.c", "*.b.c", "a.*", "a.*.*", "#", "a.#", "#.c", "a.#.c", "#.b.#", "a.b", "*", "#.#",
        "*.*.*.#",
    ];
    let matching = [
        "a.b.c", "*.b.c", "a.*.*", "#", "a.#", "#.c", "a.#.c", "#.b.#", "#.#", "*.*.*.#",
    ];
    assert_eq!(topic_matches("a.b.c", &patterns), matching);
}

#[test]
fn the_empty_topic_key_is_zero_words() {
    assert_eq!(
        topic_matches("", &["#", "*", "", "#.#", "*.#"]),
        ["#", "", "#.#"]
    );
}

#[test]
fn a_topic_hash_matches_zero_words() {
    assert_eq!(
        topic_matches("a", &["a.#", "#.a", "a.#.#", "a.*", "#.a.#", ""]),
        ["a.#", "#.a", "a.#.#", "#.a.#"]
    );
}

#[test]
fn a_topic_star_matches_an_empty_word() {
    assert_eq!(
        topic_matches("a..b", &["a.*.b", "a.b", "a.#.b", "a..b", "*.*.*", "*.*"]),
        ["a.*.b", "a.#.b", "a..b", "*.*.*"]
    );
}

#[test]
fn topic_wildcards_count_only_as_whole_words() {
    assert_eq!(
        topic_matches("ab.c", &["a*.c", "a#.c", "ab.c", "*b.c"]),
        ["ab.c"]
    );
    assert_eq!(topic_matches("a*.c", &["a*.c", "*.c"]), ["a*.c", "*.c"]);
}

#[test]
fn words_in_topic_messages_are_never_wildcards() {
    assert_eq!(
        topic_matches("*.#", &["a.b", "*.*", "#", "*.#"]),
        ["*.*", "#", "*.#"]
    );
}

#[test]
fn many_topic_hashes_are_matched_in_reasonable_time() {
    if differs_from_reference("many_topic_hashes_are_matched_in_reasonable_time") {
        return;
    }
    // 255 octets of words against as many wildcards: backtracking would never come back.
    let key = "a.".repeat(127);
    assert_eq!(
        topic_matches(
            &key,
            &["#.a.#.a.#.a.#.a.#.a.#.a.#.a.#.a.#.a.#.a.#.a.#.a.#.a.#.a.#.a.#.a.#.b"]
        ),
        [""; 0]
    );
}

#[test]
fn headers_match_all_by_default() {
    let arguments = Octets::new().entry_str("a", "1").entry_str("b", "2");
    assert!(headers_match(
        &arguments,
        &Octets::new()
            .entry_str("b", "2")
            .entry_str("a", "1")
            .entry_str("c", "3")
    ));
    assert!(!headers_match(
        &arguments,
        &Octets::new().entry_str("a", "1")
    ));
    assert!(!headers_match(
        &arguments,
        &Octets::new().entry_str("a", "1").entry_str("b", "other")
    ));
}

#[test]
fn headers_match_any_takes_one() {
    let arguments = Octets::new()
        .entry_str("x-match", "any")
        .entry_str("a", "1")
        .entry_str("b", "2");
    assert!(headers_match(
        &arguments,
        &Octets::new().entry_str("b", "2")
    ));
    assert!(!headers_match(
        &arguments,
        &Octets::new().entry_str("b", "1").entry_str("a", "2")
    ));
}

#[test]
fn all_without_criteria_matches_everything_and_any_nothing() {
    assert!(headers_match(&Octets::new(), &Octets::new()));
    assert!(headers_match(
        &Octets::new().entry_str("x-match", "all"),
        &Octets::new().entry_str("a", "1")
    ));
    assert!(!headers_match(
        &Octets::new().entry_str("x-match", "any"),
        &Octets::new().entry_str("a", "1")
    ));
}

#[test]
fn arguments_that_begin_with_x_are_ignored_unless_x_match_says_so() {
    let arguments = |how| {
        Octets::new()
            .entry_str("x-match", how)
            .entry_str("x-a", "1")
            .entry_str("b", "2")
    };
    let only_b = Octets::new().entry_str("b", "2");
    let only_x = Octets::new().entry_str("x-a", "1");
    assert!(headers_match(&arguments("all"), &only_b));
    assert!(!headers_match(&arguments("all-with-x"), &only_b));
    assert!(!headers_match(&arguments("any"), &only_x));
    assert!(headers_match(&arguments("any-with-x"), &only_x));
}

#[test]
fn a_void_argument_matches_when_the_header_is_present() {
    let arguments = Octets::new().entry("a", b'V', "");
    assert!(headers_match(
        &arguments,
        &Octets::new().entry_str("a", "whatever")
    ));
    assert!(!headers_match(
        &arguments,
        &Octets::new().entry_str("b", "whatever")
    ));
}

#[test]
fn headers_are_compared_by_value_not_by_tag() {
    let byte = Octets::new().entry("n", b'b', [1]);
    assert!(headers_match(
        &byte,
        &Octets::new().entry("n", b'l', [0, 0, 0, 0, 0, 0, 0, 1])
    ));
    assert!(headers_match(
        &byte,
        &Octets::new().entry("n", b'T', [0, 0, 0, 0, 0, 0, 0, 1])
    ));
    assert!(!headers_match(&byte, &Octets::new().entry("n", b'b', [2])));
    assert!(!headers_match(&byte, &Octets::new().entry("n", b't', [1])));
    assert!(!headers_match(&byte, &Octets::new().entry_str("n", "1")));
    let float = Octets::new().entry("n", b'f', 1.5f32.to_be_bytes());
    assert!(headers_match(
        &float,
        &Octets::new().entry("n", b'd', 1.5f64.to_be_bytes())
    ));
    let text = Octets::new().entry_str("n", "text");
    assert!(headers_match(
        &text,
        &Octets::new().entry("n", b'x', Octets::new().longstr("text"))
    ));
}

#[test]
fn a_float_is_never_equal_to_an_integer() {
    if differs_from_reference("a_float_is_never_equal_to_an_integer") {
        return;
    }
    let one = Octets::new().entry("n", b'I', [0, 0, 0, 1]);
    assert!(!headers_match(
        &one,
        &Octets::new().entry("n", b'd', 1.0f64.to_be_bytes())
    ));
}

#[test]
fn a_header_that_occurs_twice_counts_with_its_last_value() {
    if differs_from_reference("a_header_that_occurs_twice_counts_with_its_last_value") {
        return;
    }
    let arguments = Octets::new().entry_str("a", "last");
    assert!(headers_match(
        &arguments,
        &Octets::new().entry_str("a", "first").entry_str("a", "last")
    ));
    assert!(!headers_match(
        &arguments,
        &Octets::new().entry_str("a", "last").entry_str("a", "first")
    ));
}

#[test]
fn a_message_without_headers_has_an_empty_table() {
    let mut peer = peer();
    let (exchange, queue) = (peer.exchange(1, "headers"), peer.queue(1, "headers"));
    peer.bind(1, &queue, &exchange, "");
    peer.publish(1, &exchange, "", "no headers");
    peer.take(1, &queue, "no headers");
}

#[test]
fn an_unknown_x_match_is_406() {
    let mut peer = peer();
    let queue = peer.queue(1, "headers");
    bind_with(
        &mut peer,
        &queue,
        "amq.headers",
        "",
        &Octets::new().entry_str("x-match", "some"),
    );
    let text = "PRECONDITION_FAILED - Invalid x-match field value <<\"some\">>; expected all, any, all-with-x, or \
                any-with-x";
    peer.expect_channel_close(1, 406, text, (50, 20));
    peer.open_channel(1);
    bind_with(
        &mut peer,
        &queue,
        "amq.headers",
        "",
        &Octets::new().entry("x-match", b'I', [0, 0, 0, 1]),
    );
    let text =
        "PRECONDITION_FAILED - Invalid x-match field type signedint (value 1); expected longstr";
    peer.expect_channel_close(1, 406, text, (50, 20));
}
