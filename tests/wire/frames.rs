//! Malformed and unexpected input, row by row.

use amq_protocol::protocol::{basic, channel, connection, exchange, queue};
use leveret_suite::peer::{Heard, kind, tune_ok};
use leveret_suite::{Content, Frame, Login, Method, Octets, Peer, Server, differs_from_reference, say};
use std::time::Duration;

const NOT_A_METHOD: &str = "UNEXPECTED_FRAME - expected method frame, got non method frame instead";
const NOT_A_HEADER: &str =
    "UNEXPECTED_FRAME - expected content header for class 60, got non content header frame instead";
const NOT_A_BODY: &str = "UNEXPECTED_FRAME - expected content body, got non content body frame instead";
const NOT_OPEN: &str = "CHANNEL_ERROR - expected 'channel.open'";
const NOT_ON_A_CHANNEL: &str = "COMMAND_INVALID - unimplemented method";
const NOT_WHILE_RUNNING: &str = "CHANNEL_ERROR - unexpected method in connection state running";
const PUBLISH: (u16, u16) = (60, 40);
const NONE: (u16, u16) = (0, 0);

fn peer() -> Peer {
    Server::start().peer()
}

/// A peer that has sent basic.publish and not its content.
fn publishing() -> Peer {
    let mut peer = peer();
    peer.send(1, say::publish("", "nowhere"));
    peer
}

/// The close of a fatal error: the socket goes 3 s later without close-ok, and nothing is read any more.
fn expect_fatal(mut peer: Peer, text: &str) {
    peer.expect_connection_close_frame(501, text, NONE);
    let took = peer.expect_end();
    assert!(took < Duration::from_secs(6), "about 3 s later, not {took:?}");
}

#[test]
fn a_payload_above_frame_max_is_501_on_sight_of_the_frame_header() {
    let mut peer = peer();
    peer.send_octets(Octets::new().u8(kind::METHOD).u16(1).u32(131_073));
    expect_fatal(peer, "FRAME_ERROR - type 1, all octets = <<>>: {frame_too_large,131073,131064}");
}

#[test]
fn a_payload_of_four_gigabytes_is_501_on_sight_of_the_frame_header() {
    let mut peer = peer();
    peer.send_octets(Octets::new().u8(kind::BODY).u16(1).u32(u32::MAX));
    expect_fatal(peer, "FRAME_ERROR - type 3, all octets = <<>>: {frame_too_large,4294967295,131064}");
}

#[test]
fn a_payload_of_exactly_frame_max_is_accepted() {
    let mut peer = peer();
    peer.send(1, say::publish("", "nowhere"));
    peer.send_frame(Frame::new(kind::HEADER, 1, Octets::header(131_072, 0)));
    peer.send_frame(Frame::new(kind::BODY, 1, vec![b'x'; 131_072]));
    peer.in_step(1);
}

#[test]
fn the_negotiated_frame_max_is_the_limit() {
    let mut peer = Server::start().peer_with(&Login { frame_max: 4096, ..Login::default() });
    peer.send_octets(Octets::new().u8(kind::METHOD).u16(1).u32(4097));
    expect_fatal(peer, "FRAME_ERROR - type 1, all octets = <<>>: {frame_too_large,4097,4088}");
}

#[test]
fn a_wrong_end_octet_is_501() {
    let mut peer = peer();
    peer.send_octets(Octets::new().u8(kind::METHOD).u16(1).longstr([0, 20, 0, 10, 0]).u8(0xCD));
    expect_fatal(peer, "FRAME_ERROR - type 1, all octets = <<0,20,0,10,0>>: {invalid_frame_end_marker,205}");
}

#[test]
fn more_than_16_octets_are_shown_by_the_first_16() {
    let mut peer = peer();
    peer.send_octets(Octets::new().u8(kind::BODY).u16(1).longstr("twenty octets of it ").u8(0));
    expect_fatal(
        peer,
        "FRAME_ERROR - type 3, first 16 octets = <<\"twenty octets of\">>: {invalid_frame_end_marker,0}",
    );
}

#[test]
fn a_wrong_end_octet_of_a_large_frame_is_501_however_it_comes() {
    for piece in [100, 30_000, 99_999, 200_000] {
        let mut peer = publishing();
        peer.send_frame(Frame::new(kind::HEADER, 1, Octets::header(200_000, 0)));
        let frame = Octets::new().u8(kind::BODY).u16(1).longstr([b'x'; 100_000]).u8(0xCD);
        frame.0.chunks(piece).for_each(|piece| peer.send_octets(piece));
        let shown = "<<\"xxxxxxxxxxxxxxxx\">>";
        let text = format!("FRAME_ERROR - type 3, first 16 octets = {shown}: {{invalid_frame_end_marker,205}}");
        peer.expect_connection_close_frame(501, &text, NONE);
    }
}

#[test]
fn an_unknown_frame_type_is_501() {
    for (kind, payload, shown) in [(4, "abcd", "<<\"abcd\">>"), (0, "", "<<>>"), (9, "\u{1}", "<<1>>")] {
        let mut peer = peer();
        peer.send_frame(Frame::new(kind, 1, payload));
        let text = format!("FRAME_ERROR - type {kind}, all octets = {shown}: unknown_frame");
        peer.expect_connection_close(501, &text, NONE);
    }
}

#[test]
fn a_method_frame_below_4_octets_is_501() {
    let mut peer = peer();
    peer.send_frame(Frame::new(kind::METHOD, 1, [0, 60, 0]));
    peer.expect_connection_close(501, "FRAME_ERROR - type 1, all octets = <<0,60,0>>: unknown_frame", NONE);
}

#[test]
fn a_header_frame_below_12_octets_is_501() {
    let mut peer = publishing();
    peer.send_frame(Frame::new(kind::HEADER, 1, [0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
    let text = "FRAME_ERROR - type 2, all octets = <<0,60,0,0,0,0,0,0,0,0,0>>: unknown_frame";
    peer.expect_connection_close(501, text, NONE);
}

#[test]
fn a_heartbeat_with_a_payload_is_501() {
    let mut peer = peer();
    peer.send_frame(Frame::new(kind::HEARTBEAT, 0, "x"));
    peer.expect_connection_close(501, "FRAME_ERROR - type 8, all octets = <<\"x\">>: unknown_frame", NONE);
}

#[test]
fn a_heartbeat_on_another_channel_is_505() {
    let mut peer = peer();
    peer.send_frame(Frame::new(kind::HEARTBEAT, 1, ""));
    peer.expect_connection_close(505, "UNEXPECTED_FRAME - type 8, all octets = <<>>", NONE);
}

#[test]
fn a_header_or_body_frame_on_channel_0_is_505() {
    let mut one = peer();
    one.send_frame(Frame::new(kind::HEADER, 0, Octets::header(0, 0)));
    let text = "UNEXPECTED_FRAME - type 2, all octets = <<0,60,0,0,0,0,0,0,0,0,0,0,0,0>>";
    one.expect_connection_close(505, text, NONE);
    let mut other = peer();
    other.send_frame(Frame::new(kind::BODY, 0, "abc"));
    other.expect_connection_close(505, "UNEXPECTED_FRAME - type 3, all octets = <<\"abc\">>", NONE);
}

#[test]
fn an_unknown_method_id_is_503() {
    if differs_from_reference("an_unknown_method_id_is_503") {
        return;
    }
    for (class, method) in [(60, 99), (50, 12), (77, 10)] {
        let mut peer = peer();
        peer.send_payload(1, Octets::method(class, method));
        let close: connection::Close = peer.expect(0);
        assert_eq!((close.reply_code, close.class_id, close.method_id), (503, class, method));
        assert!(close.reply_text.as_str().starts_with("COMMAND_INVALID - "), "{}", close.reply_text);
    }
}

#[test]
fn arguments_that_are_too_short_are_501() {
    let mut peer = peer();
    peer.send_payload(1, Octets::method(60, 80).bytes([0, 0, 0]));
    peer.expect_connection_close(501, "FRAME_ERROR - cannot decode <<0,0,0>>", (60, 80));
}

#[test]
fn arguments_with_octets_left_over_are_501() {
    let mut peer = peer();
    peer.send_payload(1, Octets::method(20, 20).bytes([1, 7]));
    peer.expect_connection_close(501, "FRAME_ERROR - cannot decode <<1,7>>", (20, 20));
}

#[test]
fn a_table_longer_than_its_frame_is_501() {
    let mut peer = peer();
    peer.send_payload(1, Octets::method(50, 10).u16(0).shortstr("q").u8(0).u32(9).bytes([1, b'a']));
    let text = "FRAME_ERROR - cannot decode <<0,0,1,113,0,0,0,0,9,1,97>>";
    peer.expect_connection_close(501, text, (50, 10));
}

#[test]
fn a_name_that_is_not_utf_8_is_501() {
    let mut peer = peer();
    peer.send_payload(1, Octets::method(50, 10).u16(0).shortstr([0xFF, 0xFE]).u8(0).u32(0));
    peer.expect_connection_close(501, "FRAME_ERROR - Malformed UTF-8 in shortstr", NONE);
}

#[test]
fn the_routing_key_of_a_publish_may_be_any_bytes() {
    let mut peer = peer();
    let queue = peer.queue(1, "bytes");
    peer.bind(1, &queue, "amq.fanout", "");
    peer.send_payload(1, Octets::method(60, 40).u16(0).shortstr("amq.fanout").shortstr([0xFF, 0x00, 0xFE]).u8(0));
    peer.send_frame(Frame::new(kind::HEADER, 1, Octets::header(0, 0)));
    peer.in_step(1);
    peer.send(1, say::get(&queue));
    let got = peer.expect_frame(kind::METHOD, 1);
    let key = Octets::new().shortstr([0xFF, 0x00, 0xFE]).0;
    assert!(got.windows(key.len()).any(|window| window == key), "the key as it was sent in {got:?}");
}

#[test]
fn an_unknown_tag_in_a_methods_table_ends_the_connection() {
    if differs_from_reference("an_unknown_tag_in_a_methods_table_ends_the_connection") {
        return;
    }
    let table = Octets::new().entry("a", b'?', [1]);
    expect_malformed_table(table.0);
}

#[test]
fn a_value_that_runs_past_its_table_ends_the_connection() {
    if differs_from_reference("a_value_that_runs_past_its_table_ends_the_connection") {
        return;
    }
    let table = Octets::new().entry("a", b'S', Octets::new().u32(100).bytes("short"));
    expect_malformed_table(table.0);
}

#[test]
fn a_table_nested_beyond_reason_ends_the_connection_and_nothing_else() {
    if differs_from_reference("a_table_nested_beyond_reason_ends_the_connection_and_nothing_else") {
        return;
    }
    let mut table = Vec::new();
    for _ in 0..10_000 {
        table = Octets::new().entry("", b'F', Octets::new().longstr(table)).0;
    }
    expect_malformed_table(table);
    peer().close();
}

fn expect_malformed_table(table: Vec<u8>) {
    let mut peer = peer();
    // As octets, for a frame would be decoded to be remembered.
    let declare = Octets::method(50, 10).u16(0).shortstr("q").u8(0).longstr(table);
    peer.send_octets(Frame::new(kind::METHOD, 1, declare).octets());
    let close: connection::Close = peer.expect(0);
    assert!(matches!(close.reply_code, 501 | 502), "{close:?}");
    assert_eq!((close.class_id, close.method_id), (50, 10));
}

#[test]
fn properties_that_do_not_parse_end_the_connection() {
    let unknown_tag = Octets::new().longstr(Octets::new().entry("a", b'?', [1]));
    let truncated = Octets::new().u8(20).bytes("short");
    let left_over = Octets::new().u8(2).bytes("more");
    for (flags, properties) in [(1 << 13, unknown_tag), (1 << 15, truncated), (1 << 12, left_over)] {
        let mut peer = publishing();
        peer.send_frame(Frame::new(kind::HEADER, 1, Octets::header(0, flags).bytes(properties)));
        let close: connection::Close = peer.expect(0);
        assert!(matches!(close.reply_code, 501 | 502 | 541), "{close:?}");
    }
}

#[test]
fn bits_1_and_0_of_the_property_flags_are_ignored() {
    if differs_from_reference("bits_1_and_0_of_the_property_flags_are_ignored") {
        return;
    }
    let mut peer = peer();
    let queue = peer.queue(1, "flags");
    peer.publish_content(1, say::publish("", &queue), &Content::with(1 << 12 | 3, [2], "x"));
    let (_, content) = peer.get(1, &queue);
    assert_eq!(content, Content::persistent("x"));
}

#[test]
fn a_header_or_body_without_a_publish_is_505() {
    for frame in [Frame::new(kind::HEADER, 1, Octets::header(0, 0)), Frame::new(kind::BODY, 1, "x")] {
        let mut peer = peer();
        peer.send_frame(frame);
        peer.expect_connection_close(505, NOT_A_METHOD, NONE);
    }
}

#[test]
fn a_body_where_the_header_is_expected_is_505() {
    let mut peer = publishing();
    peer.send_frame(Frame::new(kind::BODY, 1, "x"));
    peer.expect_connection_close(505, NOT_A_HEADER, PUBLISH);
}

#[test]
fn a_method_where_the_header_is_expected_is_505() {
    let mut peer = publishing();
    peer.send(1, say::ack(1));
    peer.expect_connection_close(505, NOT_A_HEADER, PUBLISH);
}

#[test]
fn a_method_where_the_body_is_expected_is_505() {
    let mut peer = publishing();
    peer.send_frame(Frame::new(kind::HEADER, 1, Octets::header(5, 0)));
    peer.send(1, say::ack(1));
    peer.expect_connection_close(505, NOT_A_BODY, PUBLISH);
}

#[test]
fn a_second_header_where_the_body_is_expected_is_505() {
    let mut peer = publishing();
    peer.send_frame(Frame::new(kind::HEADER, 1, Octets::header(5, 0)));
    peer.send_frame(Frame::new(kind::HEADER, 1, Octets::header(5, 0)));
    peer.expect_connection_close(505, NOT_A_BODY, PUBLISH);
}

#[test]
fn a_content_header_of_another_class_is_505() {
    let mut peer = publishing();
    peer.send_frame(Frame::new(kind::HEADER, 1, Octets::new().u16(10).u16(0).u64(0).u16(0)));
    let text = "UNEXPECTED_FRAME - expected content header for class 60, got one for class 10 instead";
    peer.expect_connection_close(505, text, PUBLISH);
}

#[test]
fn a_content_header_with_a_weight_is_505() {
    let mut peer = publishing();
    peer.send_frame(Frame::new(kind::HEADER, 1, Octets::new().u16(60).u16(1).u64(0).u16(0)));
    peer.expect_connection_close(505, NOT_A_HEADER, PUBLISH);
}

#[test]
fn a_body_longer_than_announced_is_501() {
    if differs_from_reference("a_body_longer_than_announced_is_501") {
        return;
    }
    let mut peer = publishing();
    peer.send_frame(Frame::new(kind::HEADER, 1, Octets::header(3, 0)));
    peer.send_frame(Frame::new(kind::BODY, 1, "four"));
    peer.expect_connection_close(501, "FRAME_ERROR - content body frame exceeds remaining content size", PUBLISH);
}

#[test]
fn an_announced_body_above_512_mib_is_501_on_sight_of_the_header() {
    if differs_from_reference("an_announced_body_above_512_mib_is_501_on_sight_of_the_header") {
        return;
    }
    let mut peer = publishing();
    peer.send_frame(Frame::new(kind::HEADER, 1, Octets::header(536_870_913, 0)));
    let text = "FRAME_ERROR - content body size 536870913 exceeds maximum allowed size 536870912";
    peer.expect_connection_close(501, text, PUBLISH);
}

#[test]
fn an_empty_body_frame_in_the_middle_of_a_body_is_accepted() {
    let mut peer = peer();
    let queue = peer.queue(1, "pieces");
    peer.send(1, say::publish("", &queue));
    peer.send_frame(Frame::new(kind::HEADER, 1, Octets::header(6, 0)));
    for piece in ["", "ab", "", "", "c", "def"] {
        peer.send_frame(Frame::new(kind::BODY, 1, piece));
    }
    peer.take(1, &queue, "abcdef");
}

#[test]
fn a_body_of_size_0_needs_no_body_frame() {
    let mut peer = peer();
    let queue = peer.queue(1, "empty");
    peer.publish(1, "", &queue, "");
    peer.take(1, &queue, "");
}

#[test]
fn a_body_frame_after_a_complete_content_is_505_even_when_empty() {
    let mut empty = publishing();
    empty.send_frame(Frame::new(kind::HEADER, 1, Octets::header(0, 0)));
    empty.send_frame(Frame::new(kind::BODY, 1, ""));
    empty.expect_connection_close(505, NOT_A_METHOD, NONE);
    let mut full = peer();
    full.publish(1, "", "nowhere", "complete");
    full.send_frame(Frame::new(kind::BODY, 1, "more"));
    full.expect_connection_close(505, NOT_A_METHOD, NONE);
}

#[test]
fn content_may_be_mixed_with_frames_of_other_channels() {
    let mut peer = peer();
    peer.open_channel(2);
    let queue = peer.queue(1, "mixed");
    peer.send(1, say::publish("", &queue));
    peer.send(2, say::publish("", &queue));
    peer.send_frame(Frame::new(kind::HEADER, 2, Octets::header(3, 0)));
    peer.send_frame(Frame::new(kind::HEADER, 1, Octets::header(3, 0)));
    peer.send_frame(Frame::new(kind::BODY, 1, "on"));
    peer.send_frame(Frame::new(kind::BODY, 2, "two"));
    peer.in_step(2);
    peer.send_frame(Frame::new(kind::BODY, 1, "e"));
    peer.in_step(1);
    peer.expect_contents(1, &queue, &["two", "one"]);
}

#[test]
fn frames_may_come_octet_by_octet() {
    let mut peer = peer();
    let queue = peer.queue(1, "octets");
    let mut octets = Frame::new(kind::METHOD, 1, leveret_suite::Method::payload(say::publish("", &queue))).octets();
    octets.extend(Frame::new(kind::HEADER, 1, Octets::header(2, 0)).octets());
    octets.extend(Frame::new(kind::BODY, 1, "ab").octets());
    for octet in octets {
        peer.send_octets([octet]);
    }
    peer.take(1, &queue, "ab");
}

/// Bodies from a few octets to several frames, on two channels in turns, in pieces of all sizes: each message comes as it
/// was sent.
#[test]
fn large_bodies_may_come_in_pieces_and_mixed_with_those_of_other_channels() {
    const FRAME: usize = 131_064;
    let mut peer = peer();
    peer.open_channel(2);
    let queue = peer.queue(1, "pieces");
    peer.consume_with(1, &queue, "tag", |consume| consume.no_ack = true);
    for size in [10, 17_000, 66_000, FRAME, FRAME + 13, 300_000, 1_000_001] {
        for piece in [1_000, 16_411, 70_001, 1_000_000] {
            let bodies: [Vec<u8>; 2] =
                [size, piece].map(|seed| (0..size).map(|n| (n / 251 + n + seed) as u8).collect());
            let mut octets = Vec::new();
            for (channel, body) in (1..).zip(&bodies) {
                octets.extend(Frame::new(kind::METHOD, channel, say::publish("", &queue).payload()).octets());
                octets.extend(Frame::new(kind::HEADER, channel, Content::new(body).header()).octets());
            }
            for (one, other) in bodies[0].chunks(FRAME).zip(bodies[1].chunks(FRAME)) {
                octets.extend(Frame::new(kind::BODY, 1, one).octets());
                octets.extend(Frame::new(kind::BODY, 2, other).octets());
            }
            octets.chunks(piece).for_each(|piece| peer.send_octets(piece));
            for body in &bodies {
                assert!(peer.expect_delivery(1).content.body == *body, "{size} octets in pieces of {piece}");
            }
        }
    }
}

#[test]
fn large_bodies_are_got_and_returned_as_they_were_sent() {
    let mut peer = peer();
    let queue = peer.queue(1, "large");
    let body: Vec<u8> = (0..300_000u32).map(|n| (n / 251 + n) as u8).collect();
    peer.publish(1, "", &queue, &body);
    assert!(peer.get(1, &queue).1.body == body);
    peer.publish_content(1, basic::Publish { mandatory: true, ..say::publish("", "nowhere") }, &Content::new(&body));
    assert!(peer.expect_return(1).1.body == body);
}

#[test]
fn a_method_on_a_channel_that_was_never_opened_is_504() {
    peer().fails(7, say::declare("q"), 504, NOT_OPEN);
    peer().fails(7, say::close_channel(), 504, NOT_OPEN);
    peer().fails(7, channel::CloseOk {}, 504, NOT_OPEN);
    peer().fails(7, connection::CloseOk {}, 504, NOT_OPEN);
}

#[test]
fn a_method_on_a_closed_channel_is_504() {
    let mut peer = peer();
    peer.close_channel(1);
    peer.fails(1, say::declare("q"), 504, NOT_OPEN);
}

#[test]
fn a_publish_on_a_channel_that_was_never_opened_is_504_once_its_content_is_complete() {
    let mut peer = peer();
    peer.send(7, say::publish("", "q"));
    peer.send_frame(Frame::new(kind::HEADER, 7, Octets::header(1, 0)));
    peer.in_step(1);
    peer.send_frame(Frame::new(kind::BODY, 7, "x"));
    peer.expect_connection_close(504, NOT_OPEN, PUBLISH);
}

#[test]
fn a_lone_header_or_body_on_a_channel_that_was_never_opened_is_505() {
    for frame in [Frame::new(kind::HEADER, 7, Octets::header(0, 0)), Frame::new(kind::BODY, 7, "x")] {
        let mut peer = peer();
        peer.send_frame(frame);
        peer.expect_connection_close(505, NOT_A_METHOD, NONE);
    }
}

#[test]
fn opening_an_open_channel_is_504() {
    peer().fails(1, channel::Open {}, 504, "CHANNEL_ERROR - second 'channel.open' seen");
}

#[test]
fn opening_a_channel_that_the_server_has_closed_is_504_before_close_ok() {
    let mut peer = peer();
    peer.send(1, say::declare_passive("missing"));
    peer.expect::<channel::Close>(1);
    peer.fails(1, channel::Open {}, 504, "CHANNEL_ERROR - second 'channel.open' seen");
}

#[test]
fn a_connection_method_on_a_channel_is_503() {
    peer().fails(1, connection::CloseOk {}, 503, NOT_ON_A_CHANNEL);
    peer().fails(1, tune_ok(&Login::default()), 503, NOT_ON_A_CHANNEL);
}

#[test]
fn a_method_that_only_servers_send_is_503() {
    peer().fails(1, basic::ConsumeOk::default(), 503, NOT_ON_A_CHANNEL);
    peer().fails(1, basic::CancelOk::default(), 503, NOT_ON_A_CHANNEL);
    peer().fails(1, queue::DeclareOk::default(), 503, NOT_ON_A_CHANNEL);
    peer().fails(1, exchange::DeclareOk {}, 503, NOT_ON_A_CHANNEL);
    peer().fails(1, channel::CloseOk {}, 503, NOT_ON_A_CHANNEL);
    peer().fails(1, channel::FlowOk { active: true }, 503, NOT_ON_A_CHANNEL);
    peer().fails(1, basic::GetEmpty {}, 503, NOT_ON_A_CHANNEL);
}

#[test]
fn a_deliver_from_a_client_is_503() {
    let mut peer = peer();
    peer.send(1, basic::Deliver::default());
    peer.send_frame(Frame::new(kind::HEADER, 1, Octets::header(0, 0)));
    peer.expect_connection_close(503, NOT_ON_A_CHANNEL, (60, 60));
}

#[test]
fn another_classs_method_on_channel_0_is_504() {
    peer().fails(0, say::declare("q"), 504, NOT_WHILE_RUNNING);
    peer().fails(0, channel::Open {}, 504, NOT_WHILE_RUNNING);
    peer().fails(0, say::publish("", "q"), 504, NOT_WHILE_RUNNING);
}

#[test]
fn a_handshake_method_after_the_handshake_is_504() {
    peer().fails(0, tune_ok(&Login::default()), 504, NOT_WHILE_RUNNING);
    peer().fails(0, leveret_suite::peer::open("/"), 504, NOT_WHILE_RUNNING);
    peer().fails(0, connection::CloseOk {}, 504, NOT_WHILE_RUNNING);
}

#[test]
fn one_channel_more_than_channel_max_is_530() {
    let mut peer = Server::start().peer_with(&Login { channel_max: 3, ..Login::default() });
    for channel in 1..=3 {
        peer.open_channel(channel);
    }
    peer.send(4, channel::Open {});
    let text = "NOT_ALLOWED - number of channels opened (3) has reached the negotiated channel_max (3)";
    peer.expect_connection_close(530, text, NONE);
}

#[test]
fn channel_numbers_may_be_above_channel_max() {
    let mut peer = Server::start().peer_with(&Login { channel_max: 3, ..Login::default() });
    peer.open_channel(65_535);
}

#[test]
fn frames_after_the_servers_connection_close_are_ignored_until_close_ok() {
    let mut peer = peer();
    peer.send(1, channel::Open {});
    peer.expect::<connection::Close>(0);
    peer.send(1, say::declare("q"));
    peer.publish(1, "", "q", "x");
    peer.send(0, connection::Close { reply_code: 200, ..Default::default() });
    peer.expect::<connection::CloseOk>(0);
    peer.send(0, connection::CloseOk {});
    peer.expect_end();
}

#[test]
fn a_channel_close_of_another_connection_is_not_heard_here() {
    let mut here = peer();
    let mut there = peer();
    there.fails(1, channel::Open {}, 504, "CHANNEL_ERROR - second 'channel.open' seen");
    here.in_step(1);
    assert!(matches!(here.hear(Duration::from_millis(50)), Heard::Silence));
}
