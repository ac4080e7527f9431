//! The delivery acknowledgement timeout. On a clock that stands still: tests/virtual_time.rs.

use std::sync::OnceLock;

use amq_protocol::protocol::{basic, queue};
use leveret_suite::{Octets, Peer, Server, say, unique};

/// A broker whose deliveries may wait for 300 ms, and which looks every 50. None: a given broker's cannot be set.
fn impatient() -> Option<Peer> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    let start = || {
        let arguments = ["--storage", "memory", "--consumer-timeout", "300", "--channel-tick-interval", "50"];
        (!Server::is_given()).then(|| Server::start_with(&arguments))
    };
    SERVER.get_or_init(start).as_ref().map(Server::peer)
}

/// queue.declare of a transient queue with this timeout of its own.
fn declare(name: &str, timeout: Octets) -> Octets {
    Octets::method(50, 10).u16(0).shortstr(name).u8(0).longstr(timeout)
}

fn milliseconds(timeout: i32) -> Octets {
    Octets::new().entry("x-consumer-timeout", b'I', timeout.to_be_bytes())
}

#[track_caller]
fn queue_with(peer: &mut Peer, timeout: i32) -> String {
    let name = unique("timeout");
    peer.send_payload(1, declare(&name, milliseconds(timeout)));
    peer.expect::<queue::DeclareOk>(1);
    name
}

#[test]
fn a_channel_whose_oldest_delivery_is_older_than_the_timeout_is_closed() {
    let Some(mut peer) = impatient() else { return };
    let queue = peer.queue(1, "late");
    peer.publish_all(1, &queue, &["a", "b"]);
    peer.open_channel(2);
    peer.consume(2, &queue, "c");
    peer.expect_deliveries(2, &["a", "b"]);
    peer.expect_delivery_timeout(2, 300);
    let messages = peer.drain(1, &queue);
    assert_eq!(messages, [("a".into(), true), ("b".into(), true)], "they are ready again");
}

#[test]
fn a_message_that_was_fetched_counts_as_well() {
    let Some(mut peer) = impatient() else { return };
    let queue = peer.queue(1, "late");
    peer.publish(1, "", &queue, "a");
    peer.get(1, &queue);
    peer.expect_delivery_timeout(1, 300);
}

#[test]
fn a_queues_argument_goes_over_the_servers_default() {
    let Some(mut peer) = impatient() else { return };
    let (shorter, never) = (queue_with(&mut peer, 100), queue_with(&mut peer, 0));
    peer.open_channel(2);
    peer.open_channel(3);
    for (channel, queue) in [(2, &shorter), (3, &never)] {
        peer.publish(1, "", queue, "a");
        peer.consume(channel, queue, "c");
        peer.expect_deliveries(channel, &["a"]);
    }
    peer.expect_delivery_timeout(2, 100);
    let other = peer.queue(1, "late");
    peer.publish(1, "", &other, "b");
    peer.get(1, &other);
    peer.expect_delivery_timeout(1, 300);
    peer.send(3, say::ack(1));
    peer.in_step(3);
}

#[test]
fn no_ack_deliveries_and_acknowledged_ones_never_time_out() {
    let Some(mut peer) = impatient() else { return };
    let queue = peer.queue(1, "done");
    peer.open_channel(2);
    peer.consume_with(2, &queue, "c", |consume| consume.no_ack = true);
    peer.publish(1, "", &queue, "a");
    peer.expect_deliveries(2, &["a"]);
    peer.cancel(2, "c");
    peer.consume(2, &queue, "d");
    peer.publish(1, "", &queue, "b");
    let delivery = peer.expect_delivery(2);
    peer.send(2, say::ack(delivery.delivery_tag));
    peer.in_step(2);
    // Another channel's timeout says that the time is over.
    peer.publish(1, "", &queue, "c");
    peer.expect_deliveries(2, &["c"]);
    peer.send(2, basic::Ack { delivery_tag: 0, multiple: true });
    let late = peer.queue(1, "late");
    peer.publish(1, "", &late, "x");
    peer.get(1, &late);
    peer.expect_delivery_timeout(1, 300);
    peer.in_step(2);
}

#[test]
fn x_consumer_timeout_is_an_integer() {
    if Server::is_given() {
        return; // 3.10 does not know it
    }
    let mut peer = Server::start().peer();
    for timeout in [0, 1, i32::MAX, -1] {
        queue_with(&mut peer, timeout);
    }
    let name = unique("timeout");
    let mut refused = |declare: Octets, detail: &str| {
        peer.send_payload(1, declare);
        let text =
            format!("PRECONDITION_FAILED - invalid arg 'x-consumer-timeout' for queue '{name}' in vhost '/': {detail}");
        peer.expect_channel_close(1, 406, &text, (50, 10));
        peer.open_channel(1);
    };
    let text = Octets::new().entry_str("x-consumer-timeout", "60000");
    refused(declare(&name, text), "\"expected integer, got longstr\"");
    // A classic queue takes a negative number; a quorum queue does not.
    let quorum = milliseconds(-1).entry_str("x-queue-type", "quorum");
    refused(Octets::method(50, 10).u16(0).shortstr(&name).u8(2).longstr(quorum), "{value_negative,-1}");
}
