//! Consumers that are slow in one way or another, and a fast one beside them.

use crate::broker;
use crate::load::Drain;
use leveret_suite::bulk::publish_many;
use leveret_suite::{Content, Peer, say};

/// A consumer with acknowledgements and without a limit, whose client reads the beginning of its first delivery and then
/// no more.
#[track_caller]
fn stops_reading(peer: &mut Peer, queue: &str) {
    peer.consume(1, queue, "stuck");
    peer.publish(1, "", queue, "the first");
    peer.frame();
}

/// What a connection that is not read can hold, in octets, with plenty to spare: windows and buffers of the broker, and
/// those of the kernel on both sides.
const HELD: usize = 32 << 20;

/// `count` messages of `size` octets into a queue of which one consumer has stopped reading.
fn one_of_two_is_stuck(size: usize, count: usize) {
    let broker = broker();
    let (mut stuck, publisher) = (broker.peer(), broker.peer());
    let queue = stuck.queue(1, "shared");
    stops_reading(&mut stuck, &queue);
    let fast = Drain::of(&broker, &queue);
    publish_many(&publisher, 1, &[&queue], &Content::new(vec![b'x'; size]), count);
    // All but what lies between the queue and the client that doesn't read.
    fast.received().wait_for((count - HELD / size) as u64);
    drop(stuck);
    fast.received().wait_for(count as u64 + 1);
}

#[test]
fn one_that_stops_reading_does_not_hold_up_its_queue() {
    one_of_two_is_stuck(1 << 10, 100_000);
}

#[test]
fn one_that_stops_reading_large_messages_does_not_hold_up_its_queue() {
    one_of_two_is_stuck(1 << 20, 150);
}

#[test]
fn one_that_stops_reading_does_not_hold_up_another_queue_of_the_same_publisher() {
    const COUNT: usize = 50_000;
    let broker = broker();
    let (mut stuck, mut publisher) = (broker.peer(), broker.peer());
    let (slow, other) = (stuck.queue(1, "slow"), stuck.queue(1, "other"));
    stops_reading(&mut stuck, &slow);
    let fast = Drain::of(&broker, &other);
    publish_many(&publisher, 1, &[&slow, &other], &Content::new([b'x'; 1024]), COUNT);
    fast.received().wait_for(COUNT as u64);
    publisher.in_step(1);
    let (ready, _) = publisher.counts(1, &slow);
    assert!(ready as usize > COUNT - HELD / 1024, "{ready} messages wait for the consumer that doesn't read");
}

#[test]
fn one_that_acknowledges_seldom_does_not_hold_up_another() {
    const PREFETCH: u16 = 100;
    let broker = broker();
    let (mut slow, mut fast, publisher) = (broker.peer(), broker.peer(), broker.peer());
    let queue = slow.queue(1, "shared");
    for peer in [&mut slow, &mut fast] {
        peer.qos(1, PREFETCH, false);
        peer.consume(1, &queue, "consumer");
    }
    publish_many(&publisher, 1, &[&queue], &Content::new("x"), 5_000);
    // The slow one acknowledges when the other has got a thousand more: four times, before there is nothing left.
    for received in 1..=4_500 {
        let delivery = fast.expect_delivery(1);
        fast.send(1, say::ack(delivery.delivery_tag));
        if received % 1_000 == 0 {
            let tags = (0..PREFETCH).map(|_| slow.expect_delivery(1).delivery_tag);
            let last = tags.last().expect("a prefetch above zero");
            slow.send(1, say::ack_until(last));
        }
    }
    fast.expect_no_delivery(1, &queue);
    fast.expect_counts(1, &queue, (0, 2));
}
