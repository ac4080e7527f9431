//! What has happened when an answer comes: orders of events that no other module shows.

use amq_protocol::protocol::{basic, exchange, queue};
use leveret_suite::values::int;
use leveret_suite::{Peer, Server, say, unique};

fn peer() -> Peer {
    Server::start().peer()
}

#[test]
fn a_publish_after_unbind_ok_on_any_connection_is_not_routed() {
    let (mut one, mut two) = (peer(), peer());
    let (queue, exchange) = (one.queue(1, "unbound"), one.exchange(1, "fanout"));
    for number in 0..20 {
        one.bind(1, &queue, &exchange, "");
        two.publish(1, &exchange, "", number.to_string());
        two.in_step(1);
        one.ask::<queue::UnbindOk>(1, say::unbind(&queue, &exchange, ""));
        two.publish(1, &exchange, "", "not routed");
        two.in_step(1);
        one.expect_contents(1, &queue, &[&number.to_string()]);
    }
}

#[test]
fn after_delete_ok_of_an_exchange_it_and_what_went_with_it_are_gone_for_every_connection() {
    let (mut one, mut two) = (peer(), peer());
    let target = one.exchange(1, "fanout");
    let upstream = unique("upstream");
    one.ask::<exchange::DeclareOk>(1, say::exchange_with(&upstream, "fanout", |declare| declare.auto_delete = true));
    let bind =
        exchange::Bind { destination: target.as_str().into(), source: upstream.as_str().into(), ..Default::default() };
    one.ask::<exchange::BindOk>(1, bind);
    one.ask::<exchange::DeleteOk>(1, say::delete_exchange(&target));
    for gone in [&target, &upstream] {
        two.publish(1, gone, "", "x");
        let text = format!("NOT_FOUND - no exchange '{gone}' in vhost '/'");
        two.expect_channel_close(1, 404, &text, (60, 40));
        two.open_channel(1);
    }
}

#[test]
fn what_was_settled_before_a_reply_is_settled_for_every_connection() {
    let (mut one, mut two) = (peer(), peer());
    let queue = one.queue(1, "settled");
    one.publish_all(1, &queue, &["acked", "requeued", "fresh"]);
    for _ in 0..2 {
        one.get(1, &queue);
    }
    one.send(1, say::ack(1));
    one.send(1, say::nack(2, true));
    one.in_step(1);
    let found = two.drain(1, &queue);
    assert_eq!(found, [("requeued".to_owned(), true), ("fresh".to_owned(), false)]);
}

#[test]
fn a_declare_without_an_answer_has_been_applied_before_the_next_answer() {
    let mut peer = peer();
    for _ in 0..20 {
        let (queue, exchange) = (unique("no-wait"), unique("no-wait"));
        peer.send(1, say::declare_with(&queue, |declare| declare.nowait = true));
        peer.send(1, say::exchange_with(&exchange, "fanout", |declare| declare.nowait = true));
        peer.send(1, queue::Bind { nowait: true, ..say::bind(&queue, &exchange, "") });
        peer.publish(1, &exchange, "", "x");
        peer.take(1, &queue, "x");
        peer.send(1, queue::Delete { nowait: true, ..say::delete(&queue) });
        peer.expect_no_queue(1, &queue);
    }
    // Or the channel has been closed.
    let queue = peer.queue(1, "no-wait");
    peer.send(1, say::declare_with(&queue, |declare| (declare.nowait, declare.durable) = (true, true)));
    peer.send(1, say::declare_passive(&queue));
    let text = format!(
        "PRECONDITION_FAILED - inequivalent arg 'durable' for queue '{queue}' in vhost '/': received 'true' but \
         current is 'false'"
    );
    peer.expect_channel_close(1, 406, &text, (50, 10));
}

#[test]
fn messages_keep_their_order_when_confirms_begin_in_their_midst() {
    let mut peer = peer();
    let queue = peer.queue(1, "midst");
    peer.publish_all(1, &queue, &["1", "2"]);
    peer.select_confirms(1);
    peer.publish_all(1, &queue, &["3", "4"]);
    peer.expect_confirms(1, 2);
    peer.expect_contents(1, &queue, &["1", "2", "3", "4"]);
}

#[test]
fn deliveries_that_were_written_before_cancel_ok_are_valid() {
    let mut peer = peer();
    let queue = peer.queue(1, "valid");
    peer.consume(1, &queue, "c");
    peer.publish_all(1, &queue, &["1", "2"]);
    let deliveries = peer.expect_deliveries(1, &["1", "2"]);
    peer.cancel(1, "c");
    for delivery in deliveries {
        peer.send(1, say::ack(delivery.delivery_tag));
    }
    peer.in_step(1);
    peer.close_channel(1);
    peer.open_channel(1);
    peer.expect_contents(1, &queue, &[]);
}

#[test]
fn a_queue_that_expires_cancels_no_consumer_since_it_has_none() {
    let mut peer = peer();
    let queue = peer.queue_with(1, &[("x-expires", int(50))]);
    peer.consume(1, &queue, "c");
    peer.cancel(1, "c");
    let start = std::time::Instant::now();
    loop {
        peer.publish_content(1, say::publish_mandatory("", &queue), &leveret_suite::Content::new("x"));
        peer.send(1, amq_protocol::protocol::channel::Flow { active: true });
        let frame = peer.frame();
        if frame.payload[..4] == [0, 60, 0, 50] {
            // Returned: it is gone, and nothing else was said about it.
            peer.expect_content(1);
            peer.expect::<amq_protocol::protocol::channel::FlowOk>(1);
            return;
        }
        assert_eq!(frame.payload[..4], [0, 20, 0, 21], "{frame:?}");
        assert!(start.elapsed() < std::time::Duration::from_secs(20), "it never expires");
    }
}

#[test]
fn a_get_after_a_publish_on_the_channel_finds_it_however_many_there_are() {
    let mut peer = peer();
    let queue = peer.queue(1, "at-once");
    for number in 0..200 {
        let body = number.to_string();
        peer.publish(1, "", &queue, &body);
        peer.take(1, &queue, &body);
    }
    peer.ask::<basic::GetEmpty>(1, say::get(&queue));
}
