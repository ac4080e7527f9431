//! What the broker passes on as it came, and what it never adds.

use amq_protocol::protocol::{basic, queue};
use leveret_suite::values::{declare_with, int, text};
use leveret_suite::{Content, Login, Octets, Peer, Server, differs_from_reference, say, unique};

const DELIVERY_MODE: u16 = 1 << 12;
const EXPIRATION: u16 = 1 << 8;

fn peer() -> Peer {
    Server::start().peer()
}

/// The content as a get finds it.
#[track_caller]
fn through_a_queue(content: &Content) -> Content {
    let mut peer = peer();
    let queue = peer.queue(1, "through");
    peer.publish_content(1, say::publish("", &queue), content);
    peer.get(1, &queue).1
}

#[test]
fn a_delivery_mode_of_1_or_2_comes_back_and_none_stays_absent() {
    for mode in [1, 2] {
        let content = Content::with(DELIVERY_MODE, [mode], "x");
        assert_eq!(through_a_queue(&content), content);
    }
    assert_eq!(through_a_queue(&Content::new("x")), Content::new("x"));
}

#[test]
fn any_other_delivery_mode_is_transient_and_comes_back_as_it_was() {
    if differs_from_reference("any_other_delivery_mode_is_transient_and_comes_back_as_it_was") {
        return;
    }
    for mode in [0, 3, 7, 255] {
        let content = Content::with(DELIVERY_MODE, [mode], "x");
        assert_eq!(through_a_queue(&content), content);
    }
}

#[test]
fn an_expiration_may_have_a_sign_and_zeros() {
    for (sent, number) in [("+100000", "100000"), ("0100000", "100000"), ("-0", "0"), ("315360000000", "315360000000")]
    {
        let mut peer = peer();
        let queue = peer.queue(1, "expiration");
        // A consumer waits, so that even 0 milliseconds are enough.
        peer.consume(1, &queue, "c");
        let content = Content::with(EXPIRATION, Octets::new().shortstr(sent), "x");
        peer.publish_content(1, say::publish("", &queue), &content);
        let got = peer.expect_delivery(1).content;
        let read = Content::with(EXPIRATION, Octets::new().shortstr(number), "x");
        assert!(got == content || got == read, "as it came, or the number that was read: {got:?}");
    }
}

#[test]
fn a_property_that_is_present_and_empty_stays_so() {
    let content_type = Content::with(1 << 15, Octets::new().shortstr(""), "x");
    assert_eq!(through_a_queue(&content_type), content_type);
    let headers = Content::with_headers("", "x");
    assert_eq!(through_a_queue(&headers), headers);
}

#[test]
fn the_reserved_cluster_id_comes_back() {
    let content = Content::with(1 << 2, Octets::new().shortstr("mine"), "x");
    assert_eq!(through_a_queue(&content), content);
}

#[test]
fn the_properties_of_a_returned_message_come_back_too() {
    let mut peer = peer();
    let content = Content::with(DELIVERY_MODE | EXPIRATION, Octets::new().u8(2).shortstr("5000"), "x");
    peer.publish_content(1, say::publish_mandatory("", &unique("nowhere")), &content);
    assert_eq!(peer.expect_return(1).1, content);
}

#[test]
fn frames_of_one_content_follow_each_other_whatever_else_the_channel_has_to_say() {
    let mut peer = peer();
    let (one, two) = (peer.queue(1, "one"), peer.queue(1, "two"));
    peer.select_confirms(1);
    peer.consume(1, &one, "one");
    peer.consume(1, &two, "two");
    let body = vec![b'x'; 400_000];
    for queue in [&one, &two, &one, &two] {
        peer.publish_content(1, say::publish("", queue), &Content::new(&body));
        peer.publish_content(1, say::publish_mandatory("", &unique("nowhere")), &Content::new("returned"));
    }
    let (mut delivered, mut returned) = (0, 0);
    while delivered < 4 || returned < 4 {
        let frame = peer.frame();
        match frame.payload.first_chunk() {
            // A content is asked for whole: a frame of another kind between its own would fail here.
            Some([0, 60, 0, 60]) => {
                assert_eq!(peer.expect_content(1).body.len(), body.len());
                delivered += 1;
            }
            Some([0, 60, 0, 50]) => {
                assert_eq!(peer.expect_content(1).text(), "returned");
                returned += 1;
            }
            Some([0, 60, 0, 80]) => {}
            _ => panic!("a delivery, a return or a confirm, came {frame:?}"),
        }
    }
}

#[test]
fn nacks_are_sent_to_a_client_that_announced_no_capability() {
    let mut peer = Server::start().peer_with(&Login { capabilities: &[], ..Login::default() });
    peer.open_channel(1);
    let queue = peer.queue_with(1, &[("x-max-length", int(0)), ("x-overflow", text("reject-publish"))]);
    peer.select_confirms(1);
    peer.publish(1, "", &queue, "x");
    let nack: basic::Nack = peer.expect(1);
    assert_eq!(nack.delivery_tag, 1);
}

#[test]
fn the_requeue_bit_of_a_nack_to_a_publisher_is_0() {
    if differs_from_reference("the_requeue_bit_of_a_nack_to_a_publisher_is_0") {
        return;
    }
    let mut peer = peer();
    let queue = peer.queue_with(1, &[("x-max-length", int(0)), ("x-overflow", text("reject-publish"))]);
    peer.select_confirms(1);
    peer.publish(1, "", &queue, "x");
    let nack: basic::Nack = peer.expect(1);
    assert!(!nack.requeue);
}

#[test]
fn get_consume_and_purge_take_a_queues_name_as_it_is() {
    let mut peer = peer();
    let name = format!("{}\n", peer.queue(1, "one-line"));
    let text = format!("NOT_FOUND - no queue '{name}' in vhost '/'");
    peer.refused(1, say::get(&name), 404, &text);
    peer.open_channel(1);
    peer.refused(1, say::consume(&name, "c"), 404, &text);
    peer.open_channel(1);
    peer.refused(1, say::purge(&name), 404, &text);
}

#[test]
fn an_exclusive_queue_outlives_its_last_consumer() {
    let mut peer = peer();
    let name = unique("exclusive");
    peer.ask::<queue::DeclareOk>(1, say::declare_with(&name, |declare| declare.exclusive = true));
    peer.consume(1, &name, "c");
    peer.cancel(1, "c");
    peer.expect_counts(1, &name, (0, 0));
}

#[test]
fn a_get_is_no_consumer_of_an_auto_delete_queue() {
    let mut peer = peer();
    let name = unique("auto-delete");
    let declare = queue::Declare { auto_delete: true, ..declare_with(&name, &[]) };
    peer.ask::<queue::DeclareOk>(1, declare);
    peer.publish(1, "", &name, "x");
    let tag = peer.get(1, &name).0.delivery_tag;
    peer.send(1, say::ack(tag));
    peer.open_channel(2);
    peer.close_channel(2);
    peer.expect_counts(1, &name, (0, 0));
}

#[test]
fn a_heartbeat_above_the_offer_is_taken() {
    let mut peer = Server::start().peer_with(&Login { heartbeat: 65_535, ..Login::default() });
    peer.open_channel(1);
}

#[test]
fn channel_max_may_be_1() {
    let mut peer = Server::start().peer_with(&Login { channel_max: 1, ..Login::default() });
    peer.open_channel(7);
    let text = "NOT_ALLOWED - number of channels opened (1) has reached the negotiated channel_max (1)";
    peer.send(8, amq_protocol::protocol::channel::Open {});
    peer.expect_connection_close(530, text, (0, 0));
}
