//! Which queues a message goes to.

use amq_protocol::protocol::queue;
use leveret_suite::{Content, Octets, Peer, Server, differs_from_reference, say};

fn peer() -> Peer {
    Server::start().peer()
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
    peer.publish_content(1, say::publish(&exchange, "ignored"), &Content::with_headers(headers, "x"));
    !peer.drain(1, &queue).is_empty()
}

fn bind_with(peer: &mut Peer, queue: &str, exchange: &str, key: &str, arguments: &Octets) {
    let bind = Octets::method(50, 20).u16(0).shortstr(queue).shortstr(exchange).shortstr(key).u8(0);
    peer.send_payload(1, bind.longstr(arguments));
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
    let patterns =
        ["a.b.c", "*.b.c", "a.*", "a.*.*", "#", "a.#", "#.c", "a.#.c", "#.b.#", "a.b", "*", "#.#", "*.*.*.#"];
    let matching = ["a.b.c", "*.b.c", "a.*.*", "#", "a.#", "#.c", "a.#.c", "#.b.#", "#.#", "*.*.*.#"];
    assert_eq!(topic_matches("a.b.c", &patterns), matching);
}

#[test]
fn the_empty_topic_key_is_zero_words() {
    assert_eq!(topic_matches("", &["#", "*", "", "#.#", "*.#"]), ["#", "", "#.#"]);
}

#[test]
fn a_topic_hash_matches_zero_words() {
    assert_eq!(topic_matches("a", &["a.#", "#.a", "a.#.#", "a.*", "#.a.#", ""]), ["a.#", "#.a", "a.#.#", "#.a.#"]);
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
    assert_eq!(topic_matches("ab.c", &["a*.c", "a#.c", "ab.c", "*b.c"]), ["ab.c"]);
    assert_eq!(topic_matches("a*.c", &["a*.c", "*.c"]), ["a*.c", "*.c"]);
}

#[test]
fn words_in_topic_messages_are_never_wildcards() {
    assert_eq!(topic_matches("*.#", &["a.b", "*.*", "#", "*.#"]), ["*.*", "#", "*.#"]);
}

#[test]
fn many_topic_hashes_are_matched_in_reasonable_time() {
    if differs_from_reference("many_topic_hashes_are_matched_in_reasonable_time") {
        return;
    }
    // 255 octets of words against as many wildcards: backtracking would never come back.
    let key = "a.".repeat(127);
    assert_eq!(topic_matches(&key, &["#.a.#.a.#.a.#.a.#.a.#.a.#.a.#.a.#.a.#.a.#.a.#.a.#.a.#.a.#.a.#.a.#.b"]), [""; 0]);
}

#[test]
fn headers_match_all_by_default() {
    let arguments = Octets::new().entry_str("a", "1").entry_str("b", "2");
    assert!(headers_match(&arguments, &Octets::new().entry_str("b", "2").entry_str("a", "1").entry_str("c", "3")));
    assert!(!headers_match(&arguments, &Octets::new().entry_str("a", "1")));
    assert!(!headers_match(&arguments, &Octets::new().entry_str("a", "1").entry_str("b", "other")));
}

#[test]
fn headers_match_any_takes_one() {
    let arguments = Octets::new().entry_str("x-match", "any").entry_str("a", "1").entry_str("b", "2");
    assert!(headers_match(&arguments, &Octets::new().entry_str("b", "2")));
    assert!(!headers_match(&arguments, &Octets::new().entry_str("b", "1").entry_str("a", "2")));
}

#[test]
fn all_without_criteria_matches_everything_and_any_nothing() {
    assert!(headers_match(&Octets::new(), &Octets::new()));
    assert!(headers_match(&Octets::new().entry_str("x-match", "all"), &Octets::new().entry_str("a", "1")));
    assert!(!headers_match(&Octets::new().entry_str("x-match", "any"), &Octets::new().entry_str("a", "1")));
}

#[test]
fn arguments_that_begin_with_x_are_ignored_unless_x_match_says_so() {
    let arguments = |how| Octets::new().entry_str("x-match", how).entry_str("x-a", "1").entry_str("b", "2");
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
    assert!(headers_match(&arguments, &Octets::new().entry_str("a", "whatever")));
    assert!(!headers_match(&arguments, &Octets::new().entry_str("b", "whatever")));
}

#[test]
fn headers_are_compared_by_value_not_by_tag() {
    let byte = Octets::new().entry("n", b'b', [1]);
    assert!(headers_match(&byte, &Octets::new().entry("n", b'l', [0, 0, 0, 0, 0, 0, 0, 1])));
    assert!(headers_match(&byte, &Octets::new().entry("n", b'T', [0, 0, 0, 0, 0, 0, 0, 1])));
    assert!(!headers_match(&byte, &Octets::new().entry("n", b'b', [2])));
    assert!(!headers_match(&byte, &Octets::new().entry("n", b't', [1])));
    assert!(!headers_match(&byte, &Octets::new().entry_str("n", "1")));
    let float = Octets::new().entry("n", b'f', 1.5f32.to_be_bytes());
    assert!(headers_match(&float, &Octets::new().entry("n", b'd', 1.5f64.to_be_bytes())));
    let text = Octets::new().entry_str("n", "text");
    assert!(headers_match(&text, &Octets::new().entry("n", b'x', Octets::new().longstr("text"))));
}

#[test]
fn a_float_is_never_equal_to_an_integer() {
    if differs_from_reference("a_float_is_never_equal_to_an_integer") {
        return;
    }
    let one = Octets::new().entry("n", b'I', [0, 0, 0, 1]);
    assert!(!headers_match(&one, &Octets::new().entry("n", b'd', 1.0f64.to_be_bytes())));
}

#[test]
fn a_header_that_occurs_twice_counts_with_its_last_value() {
    if differs_from_reference("a_header_that_occurs_twice_counts_with_its_last_value") {
        return;
    }
    let arguments = Octets::new().entry_str("a", "last");
    assert!(headers_match(&arguments, &Octets::new().entry_str("a", "first").entry_str("a", "last")));
    assert!(!headers_match(&arguments, &Octets::new().entry_str("a", "last").entry_str("a", "first")));
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
    bind_with(&mut peer, &queue, "amq.headers", "", &Octets::new().entry_str("x-match", "some"));
    let text = "PRECONDITION_FAILED - Invalid x-match field value <<\"some\">>; expected all, any, all-with-x, or \
                any-with-x";
    peer.expect_channel_close(1, 406, text, (50, 20));
    peer.open_channel(1);
    bind_with(&mut peer, &queue, "amq.headers", "", &Octets::new().entry("x-match", b'I', [0, 0, 0, 1]));
    let text = "PRECONDITION_FAILED - Invalid x-match field type signedint (value 1); expected longstr";
    peer.expect_channel_close(1, 406, text, (50, 20));
}

#[test]
fn a_bad_binding_to_a_locked_queue_is_406() {
    let mut peer = peer();
    let declare = say::declare_with("", |declare| declare.exclusive = true);
    let queue = peer.ask::<queue::DeclareOk>(1, declare).queue;
    let mut other = self::peer();
    bind_with(&mut other, queue.as_str(), "amq.headers", "", &Octets::new().entry_str("x-match", "some"));
    let text = "PRECONDITION_FAILED - Invalid x-match field value <<\"some\">>; expected all, any, all-with-x, or \
                any-with-x";
    other.expect_channel_close(1, 406, text, (50, 20));
}

/// A table entry of an array of long strings.
fn keys(name: &str, keys: &[&str]) -> Octets {
    let items = keys.iter().fold(Octets::new(), |items, key| items.u8(b'S').longstr(key));
    Octets::new().entry(name, b'A', Octets::new().longstr(items))
}

#[test]
fn entries_of_cc_and_bcc_are_further_routing_keys() {
    let mut peer = peer();
    let queues: Vec<String> = (0..4).map(|_| peer.queue(1, "copies")).collect();
    let headers =
        keys("CC", &[&queues[1], &queues[0]]).bytes(keys("BCC", &[&queues[2]])).bytes(keys("cc", &[&queues[3]]));
    peer.publish_content(1, say::publish("", &queues[0]), &Content::with_headers(headers, "copied"));
    for queue in &queues[..3] {
        peer.expect_contents(1, queue, &["copied"]);
    }
    peer.expect_contents(1, &queues[3], &[]);
}

#[test]
fn cc_stays_and_bcc_is_removed() {
    let mut peer = peer();
    let queue = peer.queue(1, "copies");
    let cc = keys("CC", &["elsewhere"]);
    let headers = Octets::new().entry_str("a", "1").bytes(&cc).bytes(keys("BCC", &["hidden"])).entry_str("z", "2");
    peer.publish_content(1, say::publish("", &queue), &Content::with_headers(headers, "copied"));
    let (ok, content) = peer.get(1, &queue);
    assert_eq!(ok.routing_key.as_str(), queue, "the first key");
    let left = Octets::new().entry_str("a", "1").bytes(&cc).entry_str("z", "2");
    // RabbitMQ writes the table anew and may sort it; all but the order is promised.
    let sorted = Octets::new().bytes(&cc).entry_str("a", "1").entry_str("z", "2");
    let expected = [left, sorted].map(|headers| Content::with_headers(headers, "copied"));
    assert!(expected.contains(&content), "{content:?}");
}

#[test]
fn headers_of_nothing_but_bcc_stay_empty() {
    let mut peer = peer();
    let queue = peer.queue(1, "copies");
    peer.publish_content(1, say::publish("", &queue), &Content::with_headers(keys("BCC", &["hidden"]), "x"));
    assert_eq!(peer.get(1, &queue).1, Content::with_headers("", "x"));
}

#[test]
fn a_cc_that_is_no_array_is_406() {
    for (name, tag, value, kind) in
        [("CC", b'I', vec![0, 0, 0, 1], "signedint"), ("BCC", b'S', vec![0, 0, 0, 0], "longstr")]
    {
        let mut peer = peer();
        let content = Content::with_headers(Octets::new().entry(name, tag, value), "x");
        peer.publish_content(1, say::publish("", "nowhere"), &content);
        let text = format!("PRECONDITION_FAILED - invalid message: {{unacceptable_type_in_header,\"{name}\",{kind}}}");
        peer.expect_channel_close(1, 406, &text, (60, 40));
    }
}

#[test]
fn entries_of_cc_that_are_no_longstr_are_skipped() {
    let mut peer = peer();
    let queue = peer.queue(1, "copies");
    let items = Octets::new().u8(b'I').u32(7).u8(b'S').longstr(&queue).u8(b'V');
    let headers = Octets::new().entry("CC", b'A', Octets::new().longstr(items));
    let content = Content::with_headers(headers, "x");
    peer.publish_content(1, say::publish("", "nowhere"), &content);
    assert_eq!(peer.get(1, &queue).1, content, "passed on unchanged");
}

#[test]
fn an_unroutable_message_is_returned_without_its_bcc() {
    let mut peer = peer();
    let headers = Octets::new().entry_str("a", "1").bytes(keys("BCC", &["hidden"]));
    let publish = say::publish_mandatory("amq.direct", &leveret_suite::unique("nobody"));
    peer.publish_content(1, publish, &Content::with_headers(headers, "x"));
    let (_, content) = peer.expect_return(1);
    assert_eq!(content, Content::with_headers(Octets::new().entry_str("a", "1"), "x"));
}
