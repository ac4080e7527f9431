//! Publishing: order of checks, returns, confirms, sizes, properties.

use amq_protocol::protocol::{basic, channel, queue};
use leveret_suite::peer::kind;
use leveret_suite::{Content, Frame, Octets, Peer, Server, differs_from_reference, say, unique};
use std::time::{Duration, Instant};

const PUBLISH: (u16, u16) = (60, 40);
/// The flag of the property `expiration`.
const EXPIRATION: u16 = 1 << 8;

fn peer() -> Peer {
    Server::start().peer()
}

/// Publishes and expects the channel to be closed for this reason.
fn refused(method: basic::Publish, content: &Content, code: u16, text: &str) {
    let mut peer = peer();
    peer.publish_content(1, method, content);
    peer.expect_channel_close(1, code, text, PUBLISH);
}

/// A message with the property `expiration`.
fn expiring(expiration: &str) -> Content {
    Content::with(EXPIRATION, Octets::new().shortstr(expiration), "x")
}

/// A message with the property `user-id`.
fn by_user(user: &str) -> Content {
    Content::with(1 << 4, Octets::new().shortstr(user), "x")
}

/// What comes back when a message is published and fetched again.
fn round_trip(content: &Content) -> Content {
    let mut peer = peer();
    let queue = peer.queue(1, "round-trip");
    peer.publish_content(1, say::publish("", &queue), content);
    peer.get(1, &queue).1
}

#[test]
fn immediate_is_540() {
    let mut peer = peer();
    let publish = basic::Publish { immediate: true, ..say::publish("no-exchange", "") };
    peer.publish_content(1, publish, &Content::new("x"));
    peer.expect_connection_close(540, "NOT_IMPLEMENTED - immediate=true", PUBLISH);
}

#[test]
fn a_body_above_16_mib_is_406_after_it_has_come() {
    if differs_from_reference("a_body_above_16_mib_is_406_after_it_has_come") {
        return;
    }
    let text = "PRECONDITION_FAILED - message size 16777217 is larger than configured max size 16777216";
    // The size is checked before the exchange.
    refused(say::publish("no-exchange", ""), &Content::new(vec![0; 16_777_217]), 406, text);
}

#[test]
fn a_body_of_16_mib_is_fine() {
    let body = vec![7; 16_777_216];
    assert!(round_trip(&Content::new(&body)).body == body);
}

#[test]
fn the_exchange_is_checked_before_the_properties() {
    let name = unique("missing");
    let text = format!("NOT_FOUND - no exchange '{name}' in vhost '/'");
    refused(say::publish(&name, ""), &expiring("abc"), 404, &text);
}

#[test]
fn an_expiration_that_is_no_number_is_406() {
    for (expiration, detail) in [
        ("abc", "no_integer"),
        ("", "no_integer"),
        (" 1", "no_integer"),
        ("100ms", "{leftover_string,\"ms\"}"),
        ("1.5", "{leftover_string,\".5\"}"),
        ("-1", "{value_negative,-1}"),
        ("315360000001", "{value_too_large,315360000001}"),
    ] {
        let text = format!("PRECONDITION_FAILED - invalid expiration '{expiration}': {detail}");
        refused(say::publish("", "nowhere"), &expiring(expiration), 406, &text);
    }
}

#[test]
fn the_expiration_is_checked_before_the_user_id() {
    if differs_from_reference("the_expiration_is_checked_before_the_user_id") {
        return;
    }
    let content = Content::with(EXPIRATION | 1 << 4, Octets::new().shortstr("abc").shortstr("somebody"), "x");
    let text = "PRECONDITION_FAILED - invalid expiration 'abc': no_integer";
    refused(say::publish("", "nowhere"), &content, 406, text);
}

#[test]
fn the_user_id_must_be_the_login_name() {
    for user in ["somebody", "", "Guest"] {
        let text = format!("PRECONDITION_FAILED - user_id property set to '{user}' but authenticated user was 'guest'");
        refused(say::publish("", "nowhere"), &by_user(user), 406, &text);
    }
    assert_eq!(round_trip(&by_user("guest")), by_user("guest"));
}

#[test]
fn an_unroutable_message_is_dropped_in_silence() {
    let mut peer = peer();
    peer.publish(1, "", &unique("missing"), "x");
    peer.in_step(1);
}

#[test]
fn an_unroutable_mandatory_message_is_returned_as_it_was() {
    let mut peer = peer();
    let content = Content::with(1 << 15 | 1 << 12, Octets::new().shortstr("text/plain").u8(2), "whole");
    let key = unique("nobody");
    peer.publish_content(1, say::publish_mandatory("amq.direct", &key), &content);
    let (method, returned) = peer.expect_return(1);
    assert_eq!((method.reply_code, method.reply_text.as_str()), (312, "NO_ROUTE"));
    assert_eq!((method.exchange.as_str(), method.routing_key.as_str()), ("amq.direct", key.as_str()));
    assert_eq!(returned, content);
}

#[test]
fn an_empty_mandatory_message_is_returned_without_a_body_frame() {
    let mut peer = peer();
    peer.publish_content(1, say::publish_mandatory("", &unique("missing")), &Content::new(""));
    peer.expect_return(1);
    peer.in_step(1);
}

#[test]
fn a_routable_mandatory_message_is_not_returned() {
    let mut peer = peer();
    let queue = peer.queue(1, "routable");
    peer.publish_content(1, say::publish_mandatory("", &queue), &Content::new("x"));
    peer.in_step(1);
    peer.take(1, &queue, "x");
}

#[test]
fn a_return_comes_before_the_confirm_of_its_message() {
    let mut peer = peer();
    peer.select_confirms(1);
    peer.publish_content(1, say::publish_mandatory("", &unique("missing")), &Content::new("x"));
    peer.expect_return(1);
    assert_eq!(peer.expect::<basic::Ack>(1).delivery_tag, 1);
}

#[test]
fn a_return_comes_before_the_confirm_among_many() {
    let mut peer = peer();
    let queue = peer.queue(1, "many");
    let missing = unique("missing");
    peer.select_confirms(1);
    for number in 1..=100 {
        let key = if number % 10 == 0 { &missing } else { &queue };
        peer.publish_content(1, say::publish_mandatory("", key), &Content::new(number.to_string()));
    }
    let (mut returned, mut confirmed) = (Vec::new(), std::collections::BTreeSet::new());
    while confirmed.len() < 100 {
        let frame = peer.frame();
        let Some(method) = frame.method() else { panic!("a return or a confirm, came {frame:?}") };
        match method {
            amq_protocol::protocol::AMQPClass::Basic(basic::AMQPMethod::Return(_)) => {
                let number: u64 = peer.expect_content(1).text().parse().expect("a number");
                assert!(!confirmed.contains(&number), "{number} was confirmed before it was returned");
                returned.push(number);
            }
            amq_protocol::protocol::AMQPClass::Basic(basic::AMQPMethod::Ack(ack)) if ack.multiple => {
                confirmed.extend(1..=ack.delivery_tag);
            }
            amq_protocol::protocol::AMQPClass::Basic(basic::AMQPMethod::Ack(ack)) => {
                assert!(confirmed.insert(ack.delivery_tag), "{} was confirmed twice", ack.delivery_tag);
            }
            other => panic!("a return or a confirm, came {other:?}"),
        }
    }
    assert_eq!(returned, (1..=10).map(|n| n * 10).collect::<Vec<u64>>());
}

#[test]
fn confirms_are_numbered_from_select_on() {
    let mut peer = peer();
    let queue = peer.queue(1, "numbers");
    peer.publish(1, "", &queue, "before");
    peer.select_confirms(1);
    peer.publish(1, "", &queue, "1");
    assert_eq!(peer.expect::<basic::Ack>(1).delivery_tag, 1);
    peer.publish(1, "", &queue, "2");
    assert_eq!(peer.expect::<basic::Ack>(1).delivery_tag, 2);
}

#[test]
fn selecting_again_does_not_reset_the_counter() {
    let mut peer = peer();
    let queue = peer.queue(1, "numbers");
    peer.select_confirms(1);
    peer.publish(1, "", &queue, "1");
    assert_eq!(peer.expect::<basic::Ack>(1).delivery_tag, 1);
    peer.select_confirms(1);
    peer.publish(1, "", &queue, "2");
    assert_eq!(peer.expect::<basic::Ack>(1).delivery_tag, 2);
}

#[test]
fn each_channel_numbers_its_own_confirms() {
    let mut peer = peer();
    peer.open_channel(2);
    let queue = peer.queue(1, "numbers");
    peer.select_confirms(1);
    peer.select_confirms(2);
    peer.publish(1, "", &queue, "1");
    assert_eq!(peer.expect::<basic::Ack>(1).delivery_tag, 1);
    peer.publish(2, "", &queue, "1");
    assert_eq!(peer.expect::<basic::Ack>(2).delivery_tag, 1);
}

#[test]
fn an_unroutable_publish_is_confirmed_at_once() {
    let mut peer = peer();
    peer.select_confirms(1);
    peer.publish(1, "", &unique("missing"), "x");
    peer.expect_confirms(1, 1);
}

#[test]
fn unroutable_publishes_are_confirmed_each_by_itself_and_after_its_return() {
    let mut peer = peer();
    peer.select_confirms(1);
    let missing = unique("missing");
    for _ in 0..10 {
        peer.publish(1, "", &missing, "dropped");
        peer.publish_content(1, say::publish_mandatory("", &missing), &Content::new("returned"));
    }
    for pair in 0..10 {
        let dropped: basic::Ack = peer.expect(1);
        peer.expect::<basic::Return>(1);
        assert_eq!(peer.expect_content(1).text(), "returned");
        let returned: basic::Ack = peer.expect(1);
        assert_eq!((dropped.delivery_tag, dropped.multiple), (2 * pair + 1, false));
        assert_eq!((returned.delivery_tag, returned.multiple), (2 * pair + 2, false));
    }
}

#[test]
fn a_publish_to_several_queues_is_confirmed_once() {
    let mut peer = peer();
    let fanout = peer.exchange(1, "fanout");
    for _ in 0..3 {
        let queue = peer.queue(1, "several");
        peer.bind(1, &queue, &fanout, "");
    }
    peer.select_confirms(1);
    peer.publish(1, &fanout, "", "x");
    peer.expect_confirms(1, 1);
    peer.in_step(1);
}

#[test]
fn a_persistent_message_to_a_durable_queue_is_confirmed() {
    let mut peer = peer();
    let name = unique("durable");
    peer.ask::<queue::DeclareOk>(1, say::declare_with(&name, |declare| declare.durable = true));
    peer.select_confirms(1);
    let start = Instant::now();
    peer.publish_content(1, say::publish("", &name), &Content::persistent("x"));
    peer.expect_confirms(1, 1);
    assert!(start.elapsed() < Duration::from_secs(5), "a single one doesn't wait for others");
    peer.ask::<queue::DeleteOk>(1, say::delete(&name));
}

#[test]
fn under_load_every_publish_is_confirmed_and_several_at_a_time() {
    let mut peer = peer();
    let queue = peer.queue(1, "load");
    peer.select_confirms(1);
    let mut octets = Vec::new();
    for number in 0..2000 {
        let content = Content::new(number.to_string());
        octets.extend(Frame::new(kind::METHOD, 1, leveret_suite::Method::payload(say::publish("", &queue))).octets());
        octets.extend(Frame::new(kind::HEADER, 1, content.header()).octets());
        octets.extend(Frame::new(kind::BODY, 1, &content.body).octets());
    }
    peer.send_octets(octets);
    let (mut confirmed, mut several) = (0, false);
    let mut single = std::collections::BTreeSet::new();
    while confirmed < 2000 {
        let ack: basic::Ack = peer.expect(1);
        if ack.multiple {
            several = true;
            confirmed = ack.delivery_tag;
        } else {
            assert!(single.insert(ack.delivery_tag), "{} was confirmed twice", ack.delivery_tag);
        }
        while single.remove(&(confirmed + 1)) {
            confirmed += 1;
        }
    }
    assert!(several, "no confirm with multiple=true among 2000");
}

#[test]
fn a_deleted_queues_outstanding_publishes_are_acked() {
    let mut peer = peer();
    let queue = peer.queue(1, "deleted");
    peer.select_confirms(1);
    for _ in 0..50 {
        peer.publish(1, "", &queue, "x");
    }
    peer.send(1, say::delete(&queue));
    let mut confirmed = std::collections::BTreeSet::new();
    let mut deleted = false;
    while confirmed.len() < 50 || !deleted {
        let frame = peer.frame();
        match frame.method() {
            Some(amq_protocol::protocol::AMQPClass::Queue(queue::AMQPMethod::DeleteOk(_))) => deleted = true,
            Some(amq_protocol::protocol::AMQPClass::Basic(basic::AMQPMethod::Ack(ack))) if ack.multiple => {
                confirmed.extend(1..=ack.delivery_tag);
            }
            Some(amq_protocol::protocol::AMQPClass::Basic(basic::AMQPMethod::Ack(ack))) => {
                confirmed.insert(ack.delivery_tag);
            }
            _ => panic!("a confirm or delete-ok, came {frame:?}"),
        }
    }
}

#[test]
fn a_channel_without_confirms_hears_none() {
    let mut peer = peer();
    let queue = peer.queue(1, "silent");
    peer.publish(1, "", &queue, "x");
    peer.in_step(1);
}

#[test]
fn the_properties_come_back_as_they_were() {
    let headers = Octets::new().longstr(Octets::new().entry_str("h", "v"));
    let properties = Octets::new()
        .shortstr("content/type")
        .shortstr("encoding")
        .bytes(headers)
        .u8(1)
        .u8(9)
        .shortstr([0xFF, 0xFE])
        .shortstr("reply-to")
        .shortstr("message-id")
        .u64(1_700_000_000)
        .shortstr("type")
        .shortstr("guest")
        .shortstr("app-id")
        .shortstr("cluster-id");
    let content = Content::with(0xFFFC & !EXPIRATION, properties, "body");
    assert_eq!(round_trip(&content), content);
}

#[test]
fn headers_of_every_type_come_back_byte_for_byte() {
    let array = Octets::new().u8(b'I').u32(1).u8(b'S').longstr("two").u8(b'A').longstr("").u8(b'V');
    let nested = Octets::new().entry_str("inner", "é").entry("deeper", b'F', Octets::new().longstr(""));
    let headers = Octets::new()
        .entry_str("S", "text")
        .entry("I", b'I', (-7i32).to_be_bytes())
        .entry("D", b'D', Octets::new().u8(2).u32(12_345))
        .entry("T", b'T', Octets::new().u64(1_700_000_000))
        .entry("F", b'F', Octets::new().longstr(nested))
        .entry("b", b'b', [0x80])
        .entry("d", b'd', 2.5f64.to_be_bytes())
        .entry("f", b'f', 1.5f32.to_be_bytes())
        .entry("l", b'l', i64::MIN.to_be_bytes())
        .entry("s", b's', (-2i16).to_be_bytes())
        .entry("t", b't', [1])
        .entry("x", b'x', Octets::new().longstr([0, 0xFF]))
        .entry("V", b'V', "")
        .entry("A", b'A', Octets::new().longstr(array))
        .entry("B", b'B', [0xFF])
        .entry("u", b'u', [0xFF, 0xFF])
        .entry("i", b'i', [0xFF; 4]);
    let content = Content::with_headers(headers, "typed");
    assert_eq!(round_trip(&content), content);
}

#[test]
fn headers_keep_their_order_and_their_duplicates() {
    let headers = Octets::new()
        .entry_str("z", "first")
        .entry_str("a", "second")
        .entry_str("z", "again")
        .entry_str("", "an empty name")
        .entry([0xFF, 0x00], b'V', "");
    let content = Content::with_headers(headers, "ordered");
    assert_eq!(round_trip(&content), content);
}

#[test]
fn an_unsigned_long_and_a_true_of_7_come_back_as_they_came() {
    let headers = Octets::new().entry("L", b'L', [0xFF; 8]).entry("t", b't', [7]);
    let content = Content::with_headers(headers, "rare");
    assert_eq!(round_trip(&content), content);
}

#[test]
fn a_header_frame_as_large_as_a_frame_may_be_is_passed_on() {
    let text = "h".repeat(131_072 - 8 - 14 - 4 - 7);
    let content = Content::with_headers(Octets::new().entry_str("h", &text), "large header");
    let mut peer = peer();
    let queue = peer.queue(1, "large");
    peer.publish_content(1, say::publish("", &queue), &content);
    assert!(peer.get(1, &queue).1 == content);
}

#[test]
fn a_body_may_be_cut_in_any_way() {
    let mut peer = peer();
    let queue = peer.queue(1, "pieces");
    let body: Vec<u8> = (0..=255).cycle().take(5000).collect();
    for size in [1, 7, 4999, 5000] {
        peer.send(1, say::publish("", &queue));
        peer.send_frame(Frame::new(kind::HEADER, 1, Octets::header(5000, 0)));
        let pieces: Vec<u8> = body.chunks(size).flat_map(|piece| Frame::new(kind::BODY, 1, piece).octets()).collect();
        peer.send_octets(pieces);
        assert!(peer.get(1, &queue).1.body == body, "in pieces of {size}");
    }
}

#[test]
fn keys_of_255_bytes_are_routed() {
    let mut peer = peer();
    let queue = peer.queue(1, "long-key");
    let key = format!("{:k<255}", unique("key"));
    peer.bind(1, &queue, "amq.direct", &key);
    peer.publish(1, "amq.direct", &key, "x");
    let (ok, _) = peer.get(1, &queue);
    assert_eq!(ok.routing_key.as_str(), key);
}

#[test]
fn get_of_an_empty_queue_is_get_empty() {
    let mut peer = peer();
    let queue = peer.queue(1, "empty");
    peer.send(1, say::get(&queue));
    assert_eq!(peer.expect_frame(kind::METHOD, 1), [0, 60, 0, 72, 0]);
}

#[test]
fn get_ok_counts_the_messages_left() {
    let mut peer = peer();
    let queue = peer.queue(1, "left");
    peer.publish_all(1, &queue, &["1", "2", "3"]);
    for left in [2, 1, 0] {
        let (ok, _) = peer.get(1, &queue);
        assert_eq!((ok.message_count, ok.redelivered, ok.exchange.as_str()), (left, false, ""));
    }
}

#[test]
fn get_from_a_missing_queue_is_404() {
    let name = unique("missing");
    let text = format!("NOT_FOUND - no queue '{name}' in vhost '/'");
    peer().refused(1, say::get(&name), 404, &text);
}

#[test]
fn a_channel_close_ends_its_confirms() {
    let mut peer = peer();
    let queue = peer.queue(1, "closed");
    peer.select_confirms(1);
    peer.publish(1, "", &queue, "1");
    peer.expect_confirms(1, 1);
    peer.close_channel(1);
    peer.open_channel(1);
    peer.publish(1, "", &queue, "2");
    peer.in_step(1);
}

#[test]
fn a_failed_publish_closes_only_its_channel() {
    let mut peer = peer();
    peer.open_channel(2);
    peer.publish(1, &unique("missing"), "", "x");
    let close: channel::Close = peer.expect(1);
    assert_eq!(close.reply_code, 404);
    peer.in_step(2);
}

#[test]
fn messages_that_are_alike_each_go_where_the_bindings_of_their_moment_lead() {
    let mut peer = peer();
    let exchange = peer.exchange(1, "direct");
    let (first, second) = (peer.queue(1, "first"), peer.queue(1, "second"));
    let publish = |peer: &mut Peer, body: &str| {
        // More than one, so that there is one like the one before.
        for _ in 0..3 {
            peer.publish_content(1, say::publish_mandatory(&exchange, "k"), &Content::new(body));
        }
    };
    peer.bind(1, &first, &exchange, "k");
    publish(&mut peer, "to the first");
    peer.bind(1, &second, &exchange, "k");
    publish(&mut peer, "to both");
    peer.ask::<queue::DeleteOk>(1, say::delete(&second));
    publish(&mut peer, "to the first again");
    let mut got: Vec<String> = peer.drain(1, &first).into_iter().map(|(body, _)| body).collect();
    got.dedup();
    assert_eq!(got, ["to the first", "to both", "to the first again"]);
    peer.ask::<queue::DeleteOk>(1, say::delete(&first));
    publish(&mut peer, "to nobody");
    for _ in 0..3 {
        let (returned, content) = peer.expect_return(1);
        assert_eq!((returned.reply_code, content.text().as_str()), (312, "to nobody"));
    }
}

#[test]
fn messages_that_are_alike_are_confirmed_on_the_channel_that_is_open_now() {
    let mut peer = peer();
    let queue = peer.queue(1, "q");
    for round in 1..=2 {
        peer.select_confirms(1);
        for _ in 0..5 {
            peer.publish(1, "", &queue, "alike");
        }
        peer.expect_confirms(1, 5);
        peer.close_channel(1);
        peer.open_channel(1);
        peer.expect_counts(1, &queue, (5 * round, 0));
    }
}
