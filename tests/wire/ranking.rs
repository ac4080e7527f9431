//! Who goes first: priorities of messages and consumers, single active consumer, and what a quorum queue adds.

use amq_protocol::protocol::basic;
use amq_protocol::types::AMQPValue;
use leveret_suite::values::{int, long, table, text};
use leveret_suite::{Content, Peer, Server, say};

fn peer() -> Peer {
    Server::start().peer()
}

fn with_priority(priority: AMQPValue) -> impl FnOnce(&mut basic::Consume) {
    move |consume| consume.arguments = table(&[("x-priority", priority)])
}

fn single_active(peer: &mut Peer) -> String {
    peer.queue_with(1, &[("x-single-active-consumer", AMQPValue::Boolean(true))])
}

/// A message with the property `priority`.
fn ranked(priority: u8, body: &str) -> Content {
    Content::with(1 << 11, [priority], body)
}

#[test]
fn higher_priorities_go_first_and_equal_ones_in_order() {
    let mut peer = peer();
    let queue = peer.queue_with(1, &[("x-max-priority", int(5))]);
    for (priority, body) in [(1, "low"), (5, "high 1"), (9, "high 2"), (3, "middle"), (5, "high 3")] {
        peer.publish_content(1, say::publish("", &queue), &ranked(priority, body));
    }
    peer.publish(1, "", &queue, "none");
    peer.expect_contents(1, &queue, &["high 1", "high 2", "high 3", "middle", "low", "none"]);
}

#[test]
fn a_requeued_message_returns_to_its_level_and_place() {
    let mut peer = peer();
    let queue = peer.queue_with(1, &[("x-max-priority", int(5))]);
    for (priority, body) in [(1, "low"), (5, "high 1"), (5, "high 2")] {
        peer.publish_content(1, say::publish("", &queue), &ranked(priority, body));
    }
    let tag = peer.get(1, &queue).0.delivery_tag;
    peer.send(1, say::nack(tag, true));
    peer.expect_contents(1, &queue, &["high 1", "high 2", "low"]);
}

#[test]
fn the_consumer_of_higher_priority_is_served_while_it_has_room() {
    let mut peer = peer();
    let queue = peer.queue(1, "consumers");
    peer.qos(1, 2, false);
    peer.consume_with(1, &queue, "low", with_priority(int(-1)));
    peer.consume_with(1, &queue, "high", with_priority(int(7)));
    peer.publish_all(1, &queue, &["1", "2", "3"]);
    let tags: Vec<String> = (0..3).map(|_| peer.expect_delivery(1).consumer_tag).collect();
    assert_eq!(tags, ["high", "high", "low"]);
}

#[test]
fn only_the_first_consumer_is_active_and_its_end_makes_the_next_one_so() {
    let mut peer = peer();
    let queue = peer.queue_with(1, &[("x-single-active-consumer", AMQPValue::Boolean(true))]);
    peer.consume(1, &queue, "first");
    peer.consume(1, &queue, "second");
    peer.publish_all(1, &queue, &["1", "2"]);
    for _ in 0..2 {
        assert_eq!(peer.expect_delivery(1).consumer_tag, "first");
    }
    peer.cancel(1, "first");
    peer.publish(1, "", &queue, "3");
    assert_eq!(peer.expect_delivery(1).consumer_tag, "second");
}

#[test]
fn an_exclusive_consumer_of_a_single_active_queue_is_403() {
    let mut peer = peer();
    let queue = peer.queue_with(1, &[("x-single-active-consumer", AMQPValue::Boolean(true))]);
    let consume = say::consume_with(&queue, "c", |consume| consume.exclusive = true);
    peer.refused(1, consume, 403, &format!("ACCESS_REFUSED - queue '{queue}' in vhost '/' in exclusive use"));
}

#[test]
fn the_priority_property_is_delivered_as_it_was_published() {
    let mut peer = peer();
    let queue = peer.queue_with(1, &[("x-max-priority", int(2))]);
    for priority in [0, 2, 200] {
        peer.publish_content(1, say::publish("", &queue), &ranked(priority, "x"));
        assert_eq!(peer.get(1, &queue).1, ranked(priority, "x"));
    }
}

#[test]
fn what_a_consumer_has_prefetched_is_not_sorted_again() {
    let mut peer = peer();
    let queue = peer.queue_with(1, &[("x-max-priority", int(5))]);
    peer.qos(1, 2, false);
    peer.consume(1, &queue, "c");
    for (priority, body) in [(1, "1"), (2, "2"), (3, "3"), (4, "4")] {
        peer.publish_content(1, say::publish("", &queue), &ranked(priority, body));
        if priority <= 2 {
            peer.expect_deliveries(1, &[body]);
        }
    }
    // 3 and 4 wait in the queue, where they are sorted.
    peer.expect_counts(1, &queue, (2, 1));
    peer.send(1, say::ack(1));
    peer.expect_deliveries(1, &["4"]);
}

#[test]
fn a_consumers_priority_may_be_any_integer() {
    let mut peer = peer();
    let queue = peer.queue(1, "priorities");
    let values =
        [int(1), long(-1), AMQPValue::ShortInt(3), AMQPValue::ShortShortUInt(4), AMQPValue::LongUInt(2), long(1 << 40)];
    peer.qos(1, 1, false);
    for (number, value) in values.into_iter().enumerate() {
        peer.consume_with(1, &queue, &number.to_string(), with_priority(value));
    }
    // Each in turn of its priority, as those above it have no room.
    for tag in ["5", "3", "2", "4", "0", "1"] {
        peer.publish(1, "", &queue, "x");
        assert_eq!(peer.expect_delivery(1).consumer_tag, tag);
    }
}

#[test]
fn a_consumers_priority_that_is_no_integer_is_406() {
    let mut peer = peer();
    let queue = peer.queue(1, "priorities");
    for (value, word) in [
        (text("1"), "longstr"),
        (AMQPValue::Void, "void"),
        (AMQPValue::FieldTable(table(&[])), "table"),
        (AMQPValue::FieldArray(Default::default()), "array"),
        (AMQPValue::Double(1.0), "double"),
    ] {
        let error =
            format!("invalid arg 'x-priority' for queue '{queue}' in vhost '/': \"expected integer, got {word}\"");
        peer.refused_406(1, say::consume_with(&queue, "c", with_priority(value)), &error);
    }
}

#[test]
fn a_consumer_that_has_room_again_is_seen_by_the_next_message() {
    let mut peer = peer();
    let queue = peer.queue(1, "room");
    peer.qos(1, 1, false);
    peer.consume_with(1, &queue, "high", with_priority(int(5)));
    peer.qos(1, 0, false);
    peer.consume(1, &queue, "low");
    peer.publish(1, "", &queue, "1");
    let first = peer.expect_delivery(1);
    peer.publish(1, "", &queue, "2");
    let second = peer.expect_delivery(1);
    assert_eq!((&*first.consumer_tag, &*second.consumer_tag), ("high", "low"));
    peer.send(1, say::ack(first.delivery_tag));
    peer.publish(1, "", &queue, "3");
    assert_eq!(peer.expect_delivery(1).consumer_tag, "high");
}

#[test]
fn the_successor_of_a_single_active_consumer_has_the_highest_priority_then_the_longest_wait() {
    let mut peer = peer();
    let queue = single_active(&mut peer);
    for (tag, priority) in [("first", 0), ("second", 1), ("third", 5), ("fourth", 5)] {
        peer.consume_with(1, &queue, tag, with_priority(int(priority)));
    }
    // A newcomer of higher priority does not take over.
    for (number, tag) in ["first", "third", "fourth", "second"].into_iter().enumerate() {
        peer.publish(1, "", &queue, "x");
        let delivery = peer.expect_delivery(1);
        assert_eq!((delivery.consumer_tag.as_str(), delivery.delivery_tag), (tag, number as u64 + 1));
        peer.cancel(1, tag);
    }
}

#[test]
fn a_single_active_consumer_without_room_keeps_its_role() {
    let mut peer = peer();
    let queue = single_active(&mut peer);
    peer.qos(1, 1, false);
    peer.consume(1, &queue, "active");
    peer.consume(1, &queue, "waiting");
    peer.publish_all(1, &queue, &["1", "2"]);
    let tag = peer.expect_delivery(1).delivery_tag;
    peer.expect_no_delivery(1, &queue);
    peer.expect_counts(1, &queue, (1, 2));
    peer.send(1, say::ack(tag));
    assert_eq!(peer.expect_delivery(1).consumer_tag, "active");
}

#[test]
fn the_end_of_its_channel_ends_a_single_active_consumer_and_requeues_for_the_next() {
    let mut peer = peer();
    let queue = single_active(&mut peer);
    peer.open_channel(2);
    peer.consume(2, &queue, "active");
    peer.consume(1, &queue, "waiting");
    peer.publish(1, "", &queue, "x");
    assert!(!peer.expect_delivery(2).redelivered);
    peer.send(2, say::close_channel());
    let (mut closed, mut delivered) = (false, None);
    while !closed || delivered.is_none() {
        let frame = peer.frame();
        match frame.payload.first_chunk() {
            Some([0, 20, 0, 41]) => closed = true,
            Some([0, 60, 0, 60]) => delivered = Some(peer.expect_content(1).text()),
            _ => panic!("close-ok or a delivery, came {frame:?}"),
        }
    }
    assert_eq!(delivered.as_deref(), Some("x"));
}
