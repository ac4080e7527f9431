//! Limits of prefetch where they meet: gets, no-ack, lowering, removal, several queues.

use leveret_suite::{Peer, Server, say};

fn peer() -> Peer {
    Server::start().peer()
}

#[test]
fn a_no_ack_consumer_made_under_a_channel_wide_limit_waits_while_the_channel_is_full() {
    let mut peer = peer();
    let (one, two) = (peer.queue(1, "one"), peer.queue(1, "two"));
    peer.qos(1, 1, true);
    peer.consume(1, &one, "acks");
    peer.publish(1, "", &one, "1");
    let tag = peer.expect_deliveries(1, &["1"])[0].delivery_tag;
    peer.consume_with(1, &two, "no-ack", |consume| consume.no_ack = true);
    peer.publish_all(1, &two, &["2", "3"]);
    peer.expect_no_delivery(1, &two);
    // Its own deliveries are not counted: with room for one it gets both.
    peer.send(1, say::ack(tag));
    peer.expect_deliveries(1, &["2", "3"]);
}

#[test]
fn a_no_ack_consumer_that_was_there_before_the_channel_wide_limit_waits_too() {
    let mut peer = peer();
    let (one, two) = (peer.queue(1, "one"), peer.queue(1, "two"));
    peer.consume(1, &one, "acks");
    peer.consume_with(1, &two, "no-ack", |consume| consume.no_ack = true);
    peer.qos(1, 1, true);
    peer.publish(1, "", &one, "1");
    let tag = peer.expect_deliveries(1, &["1"])[0].delivery_tag;
    peer.publish_all(1, &two, &["2", "3"]);
    peer.expect_no_delivery(1, &two);
    peer.send(1, say::ack(tag));
    peer.expect_deliveries(1, &["2", "3"]);
}

#[test]
fn a_limit_for_each_consumer_removes_the_channel_wide_one() {
    let mut peer = peer();
    let queue = peer.queue(1, "limits");
    peer.qos(1, 1, true);
    peer.qos(1, 2, false);
    peer.consume(1, &queue, "c");
    peer.publish_all(1, &queue, &["1", "2", "3"]);
    peer.expect_deliveries(1, &["1", "2"]);
    peer.expect_no_delivery(1, &queue);
}

#[test]
fn a_channel_wide_limit_counts_what_was_fetched_with_get_before() {
    let mut peer = peer();
    let queue = peer.queue(1, "fetched");
    peer.publish_all(1, &queue, &["fetched", "next"]);
    let tag = peer.get(1, &queue).0.delivery_tag;
    peer.qos(1, 1, true);
    peer.consume(1, &queue, "c");
    peer.expect_no_delivery(1, &queue);
    if Server::is_given() {
        // RabbitMQ never frees the slots of gets; here an ack frees them, as it does with deliveries.
        return;
    }
    peer.send(1, say::ack(tag));
    peer.expect_deliveries(1, &["next"]);
}

#[test]
fn a_lowered_channel_wide_limit_takes_nothing_back_and_waits_until_there_is_room() {
    let mut peer = peer();
    let queue = peer.queue(1, "lowered");
    peer.qos(1, 3, true);
    peer.consume(1, &queue, "c");
    peer.publish_all(1, &queue, &["1", "2", "3", "4"]);
    peer.expect_deliveries(1, &["1", "2", "3"]);
    peer.qos(1, 1, true);
    peer.send(1, say::ack(1));
    peer.send(1, say::ack(2));
    peer.expect_no_delivery(1, &queue);
    peer.send(1, say::ack(3));
    peer.expect_deliveries(1, &["4"]);
}

#[test]
fn a_raised_channel_wide_limit_lets_messages_flow_at_once() {
    let mut peer = peer();
    let queue = peer.queue(1, "raised");
    peer.qos(1, 1, true);
    peer.consume(1, &queue, "c");
    peer.publish_all(1, &queue, &["1", "2"]);
    peer.expect_deliveries(1, &["1"]);
    peer.qos(1, 2, true);
    peer.expect_deliveries(1, &["2"]);
}

#[test]
fn recover_and_reject_free_the_slots_of_a_channel_wide_limit() {
    let mut peer = peer();
    let queue = peer.queue(1, "freed");
    peer.qos(1, 1, true);
    peer.consume(1, &queue, "c");
    peer.publish_all(1, &queue, &["1", "2"]);
    let tag = peer.expect_deliveries(1, &["1"])[0].delivery_tag;
    peer.send(1, say::nack(tag, true));
    assert!(peer.expect_deliveries(1, &["1"])[0].redelivered);
    peer.send(1, say::recover_async(true));
    let tag = peer.expect_deliveries(1, &["1"])[0].delivery_tag;
    peer.send(1, say::reject(tag, false));
    peer.expect_deliveries(1, &["2"]);
}

#[test]
fn under_a_limit_of_1_every_queue_and_every_consumer_gets_on() {
    let mut peer = peer();
    let queues: Vec<String> = (0..3).map(|_| peer.queue(1, "fair")).collect();
    peer.qos(1, 1, true);
    for (index, queue) in queues.iter().enumerate() {
        for half in ["a", "b"] {
            peer.consume(1, queue, &format!("{index}{half}"));
        }
    }
    peer.open_channel(2);
    for number in 0..30 {
        for queue in &queues {
            peer.publish(2, "", queue, number.to_string());
        }
    }
    let mut served = std::collections::BTreeMap::<String, u32>::new();
    // Half of the messages: whoever always went first would leave others without any.
    for _ in 0..45 {
        let delivery = peer.expect_delivery(1);
        *served.entry(delivery.consumer_tag).or_default() += 1;
        peer.send(1, say::ack(delivery.delivery_tag));
    }
    assert_eq!(served.len(), 6, "{served:?}");
}
