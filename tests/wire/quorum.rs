//! What a queue of type quorum does differently.

use amq_protocol::protocol::{basic, queue};
use amq_protocol::types::AMQPValue;
use leveret_suite::durable::{Durable, End};
use leveret_suite::values::{declare_durable_with, declare_with, header, history, int, long, table, text};
use leveret_suite::{Peer, Server, differs_from_reference, say, unique};

const QUORUM: &str = "quorum";

fn peer() -> Peer {
    Server::start().peer()
}

fn described(queue: &str) -> String {
    format!("queue '{queue}' in vhost '/'")
}

/// Gets the message and gives it back.
#[track_caller]
fn get_and_return(peer: &mut Peer, queue: &str) -> Option<AMQPValue> {
    let (got, content) = peer.get(1, queue);
    peer.send(1, say::nack(got.delivery_tag, true));
    header(&content, "x-delivery-count")
}

#[test]
fn a_quorum_queue_cannot_be_server_named() {
    let declare = declare_durable_with("", &[("x-queue-type", text(QUORUM))]);
    peer().refused_406(1, declare, "Cannot declare a server-named queue for type rabbit_quorum_queue");
}

#[test]
fn a_quorum_queue_that_is_auto_delete_exclusive_or_not_durable_is_406_in_that_order() {
    let mut peer = peer();
    for (auto_delete, exclusive, property) in
        [(true, true, "auto-delete"), (false, true, "exclusive-owner"), (false, false, "non-durable")]
    {
        let name = unique(QUORUM);
        let declare =
            queue::Declare { auto_delete, exclusive, ..declare_with(&name, &[("x-queue-type", text(QUORUM))]) };
        peer.refused_406(1, declare, &format!("invalid property '{property}' for {}", described(&name)));
    }
}

#[test]
fn the_arguments_of_a_quorum_queue_are_looked_at_before_its_flags() {
    let mut peer = peer();
    let name = unique(QUORUM);
    let declare = |argument| declare_with(&name, &[("x-queue-type", text(QUORUM)), argument]);
    let error = format!("invalid arg 'x-max-priority' for {} of queue type rabbit_quorum_queue", described(&name));
    peer.refused_406(1, declare(("x-max-priority", int(5))), &error);
    let error = format!("invalid arg 'x-message-ttl' for {}: {{value_negative,-1}}", described(&name));
    peer.refused_406(1, declare(("x-message-ttl", int(-1))), &error);
}

#[test]
fn deleting_a_quorum_queue_with_a_condition_is_540() {
    let text = |queue: &str, flag: &str| {
        format!(
            "NOT_IMPLEMENTED - cannot delete {}. queue.delete operations with {flag} flag set are not supported by \
             quorum queues",
            described(queue)
        )
    };
    let mut peer = peer();
    let queue = peer.quorum_queue(1, &[]);
    peer.fails(1, say::delete_with(&queue, |delete| delete.if_unused = true), 540, &text(&queue, "if-unused"));
    let mut peer = self::peer();
    peer.fails(1, say::delete_with(&queue, |delete| delete.if_empty = true), 540, &text(&queue, "if-empty"));
    let mut peer = self::peer();
    peer.publish(1, "", &queue, "x");
    peer.wait_for_count(1, &queue, 1);
    let ok: queue::DeleteOk = peer.ask(1, say::delete(&queue));
    assert_eq!(ok.message_count, 1);
}

#[test]
fn consuming_from_a_quorum_queue_under_a_channel_wide_limit_is_540() {
    let mut peer = peer();
    let queue = peer.quorum_queue(1, &[]);
    peer.qos(1, 10, true);
    let text = format!("NOT_IMPLEMENTED - {} does not support global qos", described(&queue));
    peer.fails(1, say::consume(&queue, "c"), 540, &text);
}

#[test]
fn to_a_quorum_queue_an_exclusive_consumer_is_one_like_any_other() {
    let mut peer = peer();
    for single_active in [false, true] {
        let queue = peer.quorum_queue(1, &[("x-single-active-consumer", AMQPValue::Boolean(single_active))]);
        for (tag, exclusive) in [("shared", false), ("exclusive", true), ("another", false)] {
            let consume = say::consume_with(&queue, &format!("{tag} {single_active}"), |consume| {
                consume.exclusive = exclusive;
            });
            peer.ask::<basic::ConsumeOk>(1, consume);
        }
    }
}

#[test]
fn an_argument_for_streams_is_refused_by_a_quorum_queue_under_its_own_name() {
    let mut peer = peer();
    let queue = peer.quorum_queue(1, &[]);
    let consume =
        basic::Consume { arguments: table(&[("x-stream-offset", text("first"))]), ..say::consume(&queue, "c") };
    let error = format!("invalid arg 'x-stream-offset' for {} of queue type rabbit_quorum_queue", described(&queue));
    peer.refused_406(1, consume, &error);
}

#[test]
fn get_from_a_quorum_queue_with_a_single_active_consumer_is_405() {
    let mut peer = peer();
    let queue = peer.quorum_queue(1, &[("x-single-active-consumer", AMQPValue::Boolean(true))]);
    let text = format!(
        "RESOURCE_LOCKED - cannot obtain access to locked {}. basic.get operations are not supported by quorum queues \
         with single active consumer",
        described(&queue)
    );
    peer.refused(1, say::get(&queue), 405, &text);
    // A classic queue allows it.
    peer.open_channel(1);
    let queue = peer.queue_with(1, &[("x-single-active-consumer", AMQPValue::Boolean(true))]);
    peer.publish(1, "", &queue, "x");
    peer.get(1, &queue);
}

#[test]
fn redeliveries_count_in_x_delivery_count_which_the_first_does_not_have() {
    if differs_from_reference("redeliveries_count_in_x_delivery_count_which_the_first_does_not_have") {
        return;
    }
    let mut peer = peer();
    let queue = peer.quorum_queue(1, &[]);
    peer.publish(1, "", &queue, "x");
    assert_eq!(get_and_return(&mut peer, &queue), None);
    assert_eq!(get_and_return(&mut peer, &queue), Some(long(1)));
    // A consumer's delivery has it as well, and what its channel's end gives back counts.
    peer.open_channel(2);
    peer.consume(2, &queue, "c");
    assert_eq!(header(&peer.expect_delivery(2).content, "x-delivery-count"), Some(long(2)));
    peer.close_channel(2);
    assert_eq!(get_and_return(&mut peer, &queue), Some(long(3)));
}

#[test]
fn a_limit_of_n_allows_n_plus_1_deliveries_and_then_dead_letters() {
    let mut peer = peer();
    let grave = peer.queue(1, "grave");
    let arguments = [
        ("x-delivery-limit", int(2)),
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text(&grave)),
    ];
    let queue = peer.quorum_queue(1, &arguments);
    peer.publish(1, "", &queue, "poison");
    for _ in 0..3 {
        peer.wait_for_count(1, &queue, 1);
        get_and_return(&mut peer, &queue);
    }
    let (_, content) = peer.wait_for(1, &grave);
    assert_eq!(content.text(), "poison");
    assert_eq!(history(&content), [(queue.clone(), "delivery_limit".into(), 1)]);
    peer.expect_counts(1, &queue, (0, 0));
}

#[test]
fn the_delivery_limit_is_20_by_default() {
    if differs_from_reference("the_delivery_limit_is_20_by_default") {
        return;
    }
    let mut peer = peer();
    let queue = peer.quorum_queue(1, &[]);
    peer.publish(1, "", &queue, "poison");
    for _ in 0..21 {
        get_and_return(&mut peer, &queue);
    }
    peer.ask::<basic::GetEmpty>(1, say::get(&queue));
}

#[test]
fn a_negative_delivery_limit_is_none() {
    if differs_from_reference("a_negative_delivery_limit_is_none") {
        return;
    }
    let mut peer = peer();
    let queue = peer.quorum_queue(1, &[("x-delivery-limit", int(-1))]);
    peer.publish(1, "", &queue, "patient");
    for _ in 0..30 {
        peer.wait_for_count(1, &queue, 1);
        get_and_return(&mut peer, &queue);
    }
    peer.wait_for_count(1, &queue, 1);
}

#[test]
fn a_newcomer_of_higher_priority_becomes_the_single_active_consumer() {
    if differs_from_reference("a_newcomer_of_higher_priority_becomes_the_single_active_consumer") {
        return;
    }
    let mut peer = peer();
    let queue = peer.quorum_queue(1, &[("x-single-active-consumer", AMQPValue::Boolean(true))]);
    peer.consume(1, &queue, "first");
    peer.consume_with(1, &queue, "higher", |consume| consume.arguments = table(&[("x-priority", int(5))]));
    peer.publish(1, "", &queue, "x");
    assert_eq!(peer.expect_delivery(1).consumer_tag, "higher");
}

#[test]
fn a_quorum_queue_rejects_what_is_over_its_limit() {
    let mut peer = peer();
    let queue = peer.quorum_queue(1, &[("x-max-length", int(1)), ("x-overflow", text("reject-publish"))]);
    peer.select_confirms(1);
    peer.publish(1, "", &queue, "1");
    peer.expect_confirms(1, 1);
    if Server::is_given() {
        // RabbitMQ's quorum queues notice a little late that they are full.
        return;
    }
    peer.publish(1, "", &queue, "2");
    let nack: basic::Nack = peer.expect(1);
    assert_eq!((nack.delivery_tag, nack.multiple), (2, false));
}

#[test]
fn what_comes_back_to_a_quorum_queue_is_for_a_waiting_consumer_before_the_limit_is_looked_at() {
    let mut peer = peer();
    let queue = peer.quorum_queue(1, &[("x-max-length", int(0))]);
    peer.consume(1, &queue, "c");
    peer.publish(1, "", &queue, "x");
    let tag = peer.expect_deliveries(1, &["x"])[0].delivery_tag;
    peer.send(1, say::nack(tag, true));
    assert!(peer.expect_deliveries(1, &["x"])[0].redelivered);
}

#[test]
fn a_quorum_queue_keeps_messages_of_every_delivery_mode() {
    let Some(mut broker) = Durable::start() else { return };
    let mut peer = broker.server.peer();
    let queue = peer.quorum_queue(1, &[]);
    peer.select_confirms(1);
    peer.publish(1, "", &queue, "transient");
    peer.expect_confirms(1, 1);
    let mut peer = broker.again(End::Kill);
    peer.expect_contents(1, &queue, &["transient"]);
    peer.publish(1, "", &queue, "again");
    peer.expect_counts(1, &queue, (1, 0));
    let mut peer = broker.again_with(peer, End::Stop);
    peer.expect_contents(1, &queue, &["again"]);
}

#[test]
fn a_quorum_queue_is_purged_like_any_other() {
    let mut peer = peer();
    let queue = peer.quorum_queue(1, &[]);
    peer.publish_all(1, &queue, &["1", "2"]);
    peer.wait_for_count(1, &queue, 2);
    let ok: queue::PurgeOk = peer.ask(1, say::purge(&queue));
    assert_eq!(ok.message_count, 2);
    peer.expect_counts(1, &queue, (0, 0));
}
