//! Settling: ack, nack, reject, recover, requeue and the redelivered flag.

use amq_protocol::protocol::{basic, queue};
use leveret_suite::{Peer, Server, say};

fn peer() -> Peer {
    Server::start().peer()
}

/// A peer with a queue of these messages, of which the first `held` have been fetched and not settled.
fn holding(bodies: &[&str], held: usize) -> (Peer, String) {
    let mut peer = peer();
    let queue = peer.queue(1, "held");
    peer.publish_all(1, &queue, bodies);
    for body in &bodies[..held] {
        assert_eq!(peer.get(1, &queue).1.text(), *body);
    }
    (peer, queue)
}

fn unknown(tag: u64) -> String {
    format!("PRECONDITION_FAILED - unknown delivery tag {tag}")
}

/// What a queue holds, each message with its redelivered flag.
fn expect_messages(peer: &mut Peer, queue: &str, expected: &[(&str, bool)]) {
    peer.counts(1, queue);
    let expected: Vec<(String, bool)> = expected.iter().map(|(body, again)| ((*body).to_owned(), *again)).collect();
    assert_eq!(peer.drain(1, queue), expected, "bodies and redelivered flags (left: are, right: expected)");
}

#[test]
fn an_acked_message_is_gone() {
    let (mut peer, queue) = holding(&["1", "2"], 1);
    peer.send(1, say::ack(1));
    peer.close_channel(1);
    peer.open_channel(1);
    expect_messages(&mut peer, &queue, &[("2", false)]);
}

#[test]
fn an_unknown_tag_is_406() {
    peer().refused(1, say::ack(82), 406, &unknown(82));
    peer().refused(1, say::nack(82, true), 406, &unknown(82));
    peer().refused(1, say::reject(82, true), 406, &unknown(82));
}

#[test]
fn a_tag_settled_twice_is_406() {
    let (mut peer, _) = holding(&["1"], 1);
    peer.send(1, say::ack(1));
    peer.refused(1, say::ack(1), 406, &unknown(1));
    let (mut peer, _) = holding(&["1"], 1);
    peer.send(1, say::reject(1, false));
    peer.refused(1, say::nack(1, false), 406, &unknown(1));
}

#[test]
fn a_tag_of_another_channel_is_406() {
    let (mut peer, _) = holding(&["1"], 1);
    peer.open_channel(2);
    peer.refused(2, say::ack(1), 406, &unknown(1));
}

#[test]
fn a_tag_of_a_no_ack_delivery_is_406() {
    let mut peer = peer();
    let queue = peer.queue(1, "no-ack");
    peer.publish(1, "", &queue, "1");
    peer.take(1, &queue, "1");
    peer.refused(1, say::ack(1), 406, &unknown(1));
}

#[test]
fn tag_0_without_multiple_is_406() {
    let (mut peer, _) = holding(&["1"], 1);
    peer.refused(1, say::ack(0), 406, &unknown(0));
}

#[test]
fn tag_0_with_multiple_settles_everything_and_is_fine_without_anything() {
    let (mut peer, queue) = holding(&["1", "2", "3"], 3);
    peer.send(1, say::ack_until(0));
    peer.send(1, say::ack_until(0));
    peer.send(1, say::nack_until(0, true));
    peer.close_channel(1);
    peer.open_channel(1);
    expect_messages(&mut peer, &queue, &[]);
}

#[test]
fn multiple_settles_everything_up_to_the_tag() {
    let (mut peer, queue) = holding(&["1", "2", "3", "4"], 4);
    peer.send(1, say::ack(2));
    peer.send(1, say::ack_until(3));
    peer.close_channel(1);
    peer.open_channel(1);
    expect_messages(&mut peer, &queue, &[("4", true)]);
}

#[test]
fn multiple_up_to_a_tag_that_was_settled_is_406() {
    let (mut peer, queue) = holding(&["1", "2", "3"], 3);
    peer.send(1, say::ack(2));
    peer.refused(1, say::ack_until(2), 406, &unknown(2));
    peer.open_channel(1);
    peer.consume(1, &queue, "c");
    let deliveries = peer.expect_deliveries(1, &["1", "3"]);
    assert!(deliveries.iter().all(|delivery| delivery.redelivered));
}

#[test]
fn multiple_up_to_a_tag_never_given_is_406() {
    let (mut peer, _) = holding(&["1"], 1);
    peer.refused(1, say::nack_until(5, false), 406, &unknown(5));
}

#[test]
fn an_ack_after_an_error_has_no_effect() {
    let (mut peer, queue) = holding(&["1", "2"], 2);
    peer.send(1, say::ack(9));
    peer.send(1, say::ack(1));
    peer.expect_channel_close(1, 406, &unknown(9), (60, 80));
    peer.open_channel(1);
    peer.consume(1, &queue, "c");
    peer.expect_deliveries(1, &["1", "2"]);
}

#[test]
fn a_requeued_message_goes_back_to_its_place_and_is_redelivered() {
    let (mut peer, queue) = holding(&["1", "2", "3"], 1);
    peer.send(1, say::nack(1, true));
    expect_messages(&mut peer, &queue, &[("1", true), ("2", false), ("3", false)]);
}

#[test]
fn reject_with_requeue_does_the_same() {
    let (mut peer, queue) = holding(&["1", "2", "3"], 2);
    peer.send(1, say::reject(2, true));
    expect_messages(&mut peer, &queue, &[("2", true), ("3", false)]);
}

#[test]
fn requeued_messages_keep_their_order_whatever_the_order_of_the_nacks() {
    let (mut peer, queue) = holding(&["1", "2", "3", "4", "5"], 3);
    for tag in [2, 3, 1] {
        peer.send(1, say::nack(tag, true));
    }
    expect_messages(&mut peer, &queue, &[("1", true), ("2", true), ("3", true), ("4", false), ("5", false)]);
}

#[test]
fn closing_a_channel_puts_everything_back_in_order() {
    let (mut peer, queue) = holding(&["1", "2", "3", "4", "5"], 0);
    peer.open_channel(2);
    peer.qos(2, 3, false);
    peer.consume(2, &queue, "c");
    peer.expect_deliveries(2, &["1", "2", "3"]);
    peer.close_channel(2);
    expect_messages(&mut peer, &queue, &[("1", true), ("2", true), ("3", true), ("4", false), ("5", false)]);
}

#[test]
fn two_channels_give_back_to_one_order() {
    let (mut peer, queue) = holding(&["1", "2", "3", "4", "5"], 0);
    peer.open_channel(2);
    peer.qos(1, 2, false);
    peer.qos(2, 2, false);
    peer.consume(1, &queue, "one");
    peer.expect_deliveries(1, &["1", "2"]);
    peer.consume(2, &queue, "two");
    peer.expect_deliveries(2, &["3", "4"]);
    peer.cancel(1, "one");
    peer.send(2, say::close_channel());
    peer.expect::<amq_protocol::protocol::channel::CloseOk>(2);
    peer.send(1, say::nack_until(0, true));
    expect_messages(&mut peer, &queue, &[("1", true), ("2", true), ("3", true), ("4", true), ("5", false)]);
}

#[test]
fn a_message_rejected_for_good_is_gone() {
    let (mut peer, queue) = holding(&["1", "2", "3"], 2);
    peer.send(1, say::reject(1, false));
    peer.send(1, say::nack(2, false));
    expect_messages(&mut peer, &queue, &[("3", false)]);
}

#[test]
fn nack_with_multiple_requeues_everything_up_to_the_tag() {
    let (mut peer, queue) = holding(&["1", "2", "3", "4"], 3);
    peer.send(1, say::nack_until(2, true));
    peer.close_channel(1);
    peer.open_channel(1);
    peer.consume(1, &queue, "c");
    peer.expect_deliveries(1, &["1", "2", "3", "4"]);
}

#[test]
fn a_requeued_message_may_come_to_the_same_consumer_again() {
    let mut peer = peer();
    let queue = peer.queue(1, "again");
    peer.consume(1, &queue, "only");
    peer.publish(1, "", &queue, "x");
    assert!(!peer.expect_delivery(1).redelivered);
    for tag in 1..=3 {
        peer.send(1, say::nack(tag, true));
        let delivery = peer.expect_delivery(1);
        assert_eq!((delivery.delivery_tag, delivery.redelivered), (tag + 1, true));
    }
}

#[test]
fn a_get_after_a_nack_on_the_channel_finds_the_message() {
    let (mut peer, queue) = holding(&["1", "2"], 1);
    peer.send(1, say::nack(1, true));
    let ok = peer.take(1, &queue, "1");
    assert!(ok.redelivered);
}

#[test]
fn a_requeued_message_goes_to_a_waiting_consumer() {
    let (mut peer, queue) = holding(&["1"], 1);
    let mut other = Server::start().peer();
    other.consume(1, &queue, "waiting");
    peer.send(1, say::nack(1, true));
    assert!(other.expect_deliveries(1, &["1"])[0].redelivered);
}

#[test]
fn recover_requeues_everything_unacked_of_the_channel() {
    let (mut peer, queue) = holding(&["1", "2", "3"], 2);
    peer.ask::<basic::RecoverOk>(1, say::recover(true));
    expect_messages(&mut peer, &queue, &[("1", true), ("2", true), ("3", false)]);
}

#[test]
fn recover_gives_a_consumer_its_messages_again() {
    let mut peer = peer();
    let queue = peer.queue(1, "recovered");
    peer.consume(1, &queue, "c");
    peer.publish_all(1, &queue, &["1", "2"]);
    peer.expect_deliveries(1, &["1", "2"]);
    peer.ask::<basic::RecoverOk>(1, say::recover(true));
    let deliveries = peer.expect_deliveries(1, &["1", "2"]);
    assert!(deliveries.iter().all(|delivery| delivery.redelivered));
    assert_eq!(deliveries[0].delivery_tag, 3);
    // The old tags are settled.
    peer.refused(1, say::ack(1), 406, &unknown(1));
}

#[test]
fn recover_frees_the_slots() {
    let mut peer = peer();
    let queue = peer.queue(1, "slots");
    peer.qos(1, 1, false);
    peer.consume(1, &queue, "c");
    peer.publish_all(1, &queue, &["1", "2"]);
    peer.expect_deliveries(1, &["1"]);
    peer.ask::<basic::RecoverOk>(1, say::recover(true));
    let again = peer.expect_deliveries(1, &["1"]);
    peer.send(1, say::ack(again[0].delivery_tag));
    peer.expect_deliveries(1, &["2"]);
}

#[test]
fn recover_async_is_recover_without_an_answer() {
    let (mut peer, queue) = holding(&["1", "2"], 1);
    peer.send(1, basic::RecoverAsync { requeue: true });
    peer.in_step(1);
    expect_messages(&mut peer, &queue, &[("1", true), ("2", false)]);
}

#[test]
fn recover_without_requeue_is_540() {
    peer().fails(1, say::recover(false), 540, "NOT_IMPLEMENTED - requeue=false");
    peer().fails(1, basic::RecoverAsync { requeue: false }, 540, "NOT_IMPLEMENTED - requeue=false");
}

#[test]
fn a_purge_leaves_unacked_messages_which_can_come_back() {
    let (mut peer, queue) = holding(&["1", "2", "3"], 1);
    let ok: queue::PurgeOk = peer.ask(1, say::purge(&queue));
    assert_eq!(ok.message_count, 2);
    peer.publish(1, "", &queue, "4");
    peer.send(1, say::nack(1, true));
    expect_messages(&mut peer, &queue, &[("1", true), ("4", false)]);
}

#[test]
fn settling_may_be_pipelined_by_the_thousand() {
    let mut peer = peer();
    let queue = peer.queue(1, "thousand");
    let bodies: Vec<String> = (1..=1000).map(|n| n.to_string()).collect();
    for body in &bodies {
        peer.publish(1, "", &queue, body);
    }
    peer.consume(1, &queue, "c");
    for body in &bodies {
        assert_eq!(peer.expect_delivery(1).text(), *body);
    }
    peer.cancel(1, "c");
    for tag in (1..=1000).rev() {
        match tag % 3 {
            0 => peer.send(1, say::ack(tag)),
            1 => peer.send(1, say::nack(tag, true)),
            _ => peer.send(1, say::reject(tag, true)),
        }
    }
    let expected: Vec<&str> =
        bodies.iter().map(String::as_str).filter(|body| body.parse::<u32>().is_ok_and(|n| n % 3 != 0)).collect();
    peer.expect_contents(1, &queue, &expected);
}
