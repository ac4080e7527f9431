//! Channels of one connection: what one does in plenty does not keep the others from theirs.

use crate::load::{Drain, Flood, Progress, begin_to_consume};
use crate::{Alone, broker};
use leveret_suite::values::int;
use leveret_suite::{Peer, say};

/// What a busy channel may get done while another one gets a message: some twenty times what it takes.
const MESSAGES_PER_DELIVERY: u64 = 200_000;
/// Deliveries waited for, one after the other.
const DELIVERIES: u64 = 200;

/// A queue that keeps the newest messages only.
fn limited(peer: &mut Peer) -> String {
    peer.queue_with(1, &[("x-max-length", int(100_000))])
}

/// Publishes one message after the other to the quiet queue, each when the one before has come. Meanwhile the busy ones
/// may do a bounded amount.
#[track_caller]
fn expect_progress(broker: &Alone, quiet: &str, received: &Progress, busy: &Progress) {
    let mut publisher = broker.peer();
    busy.wait_for(200_000);
    let before = busy.now();
    for count in 1..=DELIVERIES {
        publisher.publish(1, "", quiet, "one");
        received.wait_for(count);
    }
    let each = (busy.now() - before) / DELIVERIES;
    assert!(each <= MESSAGES_PER_DELIVERY, "{each} messages of the busy channel for each delivery");
    busy.wait_for(busy.now() + 100_000);
}

#[test]
fn one_that_publishes_without_pause_does_not_starve_a_consumer() {
    let broker = broker();
    let mut peer = broker.peer();
    peer.open_channel(2);
    let (busy, quiet) = (limited(&mut peer), peer.queue(2, "quiet"));
    begin_to_consume(&mut peer, 2, &quiet);
    let drain = Drain::over(&peer, 2);
    let flood = Flood::over(&peer, 1, &busy, &[b'x'; 16]);
    expect_progress(&broker, &quiet, drain.received(), flood.published());
}

#[test]
fn one_that_consumes_without_pause_does_not_starve_another() {
    let broker = broker();
    let mut peer = broker.peer();
    peer.open_channel(2);
    let (busy, quiet) = (limited(&mut peer), peer.queue(2, "quiet"));
    begin_to_consume(&mut peer, 1, &busy);
    begin_to_consume(&mut peer, 2, &quiet);
    let drain = Drain::over(&peer, 2);
    let flood = Flood::into_queue(&broker, &busy, &[b'x'; 16]);
    expect_progress(&broker, &quiet, drain.received(), flood.published());
}

#[test]
fn one_that_does_not_acknowledge_does_not_hold_up_another() {
    let broker = broker();
    let (mut peer, mut publisher) = (broker.peer(), broker.peer());
    peer.open_channel(2);
    let (slow, fast) = (peer.queue(1, "slow"), peer.queue(2, "fast"));
    for (channel, queue) in [(1, &slow), (2, &fast)] {
        peer.qos(channel, 10, false);
        peer.consume(channel, queue, "consumer");
    }
    for _ in 0..1_000 {
        publisher.publish(1, "", &slow, "slow");
    }
    publisher.in_step(1);
    for _ in 0..10 {
        peer.expect_delivery(1);
    }
    for _ in 0..1_000 {
        publisher.publish(1, "", &fast, "fast");
        let delivery = peer.expect_delivery(2);
        peer.send(2, say::ack(delivery.delivery_tag));
    }
    publisher.expect_counts(1, &slow, (990, 1));
}
