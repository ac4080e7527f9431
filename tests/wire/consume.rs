//! Consumers: qos, consume, choosing the consumer, cancel.

use amq_protocol::protocol::{basic, queue};
use leveret_suite::peer::kind;
use leveret_suite::{Content, Delivery, Frame, Login, Octets, Peer, Server, say, unique};

fn peer() -> Peer {
    Server::start().peer()
}

fn exclusive_use(queue: &str) -> String {
    format!("ACCESS_REFUSED - queue '{queue}' in vhost '/' in exclusive use")
}

/// The next deliveries as (consumer tag, body).
fn served(peer: &mut Peer, channel: u16, count: usize) -> Vec<(String, String)> {
    let deliveries = (0..count).map(|_| peer.expect_delivery(channel));
    deliveries.map(|delivery: Delivery| (delivery.consumer_tag.clone(), delivery.text())).collect()
}

#[test]
fn a_prefetch_size_is_540() {
    let mut peer = peer();
    peer.send_payload(1, Octets::method(60, 10).u32(1000).u16(0).u8(0));
    peer.expect_connection_close(540, "NOT_IMPLEMENTED - prefetch_size!=0 (1000)", (60, 10));
}

#[test]
fn a_consumer_gets_no_more_than_its_prefetch_unacked() {
    let mut peer = peer();
    let queue = peer.queue(1, "prefetch");
    peer.publish_all(1, &queue, &["1", "2", "3", "4"]);
    peer.qos(1, 2, false);
    peer.consume(1, &queue, "c");
    let first = peer.expect_deliveries(1, &["1", "2"]);
    peer.expect_no_delivery(1, &queue);
    peer.send(1, say::ack(first[0].delivery_tag));
    peer.expect_deliveries(1, &["3"]);
    peer.expect_no_delivery(1, &queue);
    peer.send(1, say::ack_until(0));
    peer.expect_deliveries(1, &["4"]);
}

#[test]
fn nack_and_reject_free_the_slots_too() {
    let mut peer = peer();
    let queue = peer.queue(1, "prefetch");
    peer.publish_all(1, &queue, &["1", "2", "3"]);
    peer.qos(1, 1, false);
    peer.consume(1, &queue, "c");
    peer.expect_deliveries(1, &["1"]);
    peer.send(1, say::nack(1, false));
    peer.expect_deliveries(1, &["2"]);
    peer.send(1, say::reject(2, false));
    peer.expect_deliveries(1, &["3"]);
}

#[test]
fn qos_applies_to_consumers_created_afterwards() {
    let mut peer = peer();
    let (early, late) = (peer.queue(1, "early"), peer.queue(1, "late"));
    peer.consume(1, &early, "early");
    peer.qos(1, 1, false);
    peer.consume(1, &late, "late");
    peer.publish_all(1, &early, &["e1", "e2", "e3"]);
    peer.expect_deliveries(1, &["e1", "e2", "e3"]);
    peer.publish_all(1, &late, &["l1", "l2"]);
    peer.expect_deliveries(1, &["l1"]);
    peer.expect_no_delivery(1, &late);
}

#[test]
fn each_consumer_has_its_own_limit() {
    let mut peer = peer();
    let queue = peer.queue(1, "limits");
    peer.qos(1, 1, false);
    peer.consume(1, &queue, "one");
    peer.qos(1, 2, false);
    peer.consume(1, &queue, "two");
    peer.publish_all(1, &queue, &["1", "2", "3", "4", "5"]);
    let mut tags: Vec<String> = served(&mut peer, 1, 3).into_iter().map(|(tag, _)| tag).collect();
    tags.sort();
    assert_eq!(tags, ["one", "two", "two"]);
    peer.expect_no_delivery(1, &queue);
}

#[test]
fn a_count_of_0_is_unlimited() {
    let mut peer = peer();
    let queue = peer.queue(1, "unlimited");
    peer.qos(1, 1, false);
    peer.qos(1, 0, false);
    peer.consume(1, &queue, "c");
    peer.publish_all(1, &queue, &["1", "2", "3"]);
    peer.expect_deliveries(1, &["1", "2", "3"]);
}

#[test]
fn a_global_limit_is_shared_by_the_channels_consumers() {
    let mut peer = peer();
    let (one, two) = (peer.queue(1, "one"), peer.queue(1, "two"));
    peer.qos(1, 2, true);
    peer.consume(1, &one, "one");
    peer.consume(1, &two, "two");
    peer.publish_all(1, &one, &["1", "2"]);
    peer.expect_deliveries(1, &["1", "2"]);
    peer.publish(1, "", &two, "3");
    peer.expect_no_delivery(1, &two);
    peer.send(1, say::ack(1));
    peer.expect_deliveries(1, &["3"]);
}

#[test]
fn a_global_limit_applies_at_once_to_old_consumers() {
    let mut peer = peer();
    let queue = peer.queue(1, "global");
    peer.consume(1, &queue, "c");
    peer.publish(1, "", &queue, "1");
    peer.expect_deliveries(1, &["1"]);
    peer.qos(1, 1, true);
    peer.publish(1, "", &queue, "2");
    peer.expect_no_delivery(1, &queue);
    peer.send(1, say::ack(1));
    peer.expect_deliveries(1, &["2"]);
}

#[test]
fn a_global_limit_of_0_removes_it() {
    let mut peer = peer();
    let queue = peer.queue(1, "global");
    peer.qos(1, 1, true);
    peer.consume(1, &queue, "c");
    peer.publish_all(1, &queue, &["1", "2", "3"]);
    peer.expect_deliveries(1, &["1"]);
    peer.expect_no_delivery(1, &queue);
    peer.send(1, say::qos(0, true));
    let mut got = Vec::new();
    let mut answered = false;
    while got.len() < 2 || !answered {
        let frame = peer.frame();
        match frame.payload.first_chunk() {
            Some([0, 60, 0, 11]) => answered = true,
            Some([0, 60, 0, 60]) => got.push(peer.expect_content(1).text()),
            _ => panic!("qos-ok or a delivery, came {frame:?}"),
        }
    }
    assert_eq!(got, ["2", "3"]);
}

#[test]
fn with_both_limits_both_apply() {
    let mut peer = peer();
    let (one, two) = (peer.queue(1, "one"), peer.queue(1, "two"));
    peer.qos(1, 1, false);
    peer.qos(1, 2, true);
    peer.consume(1, &one, "one");
    peer.publish_all(1, &one, &["1", "2"]);
    peer.expect_deliveries(1, &["1"]);
    peer.expect_no_delivery(1, &one);
    peer.qos(1, 5, false);
    peer.qos(1, 2, true);
    peer.consume(1, &two, "two");
    peer.publish_all(1, &two, &["3", "4"]);
    peer.expect_deliveries(1, &["3"]);
    peer.expect_no_delivery(1, &two);
}

#[test]
fn a_no_ack_consumer_ignores_its_own_limit() {
    let mut peer = peer();
    let queue = peer.queue(1, "no-ack");
    peer.qos(1, 1, false);
    peer.consume_with(1, &queue, "c", |consume| consume.no_ack = true);
    peer.publish_all(1, &queue, &["1", "2", "3"]);
    peer.expect_deliveries(1, &["1", "2", "3"]);
}

#[test]
fn get_ignores_limits() {
    let mut peer = peer();
    let queue = peer.queue(1, "get");
    peer.qos(1, 1, true);
    peer.publish_all(1, &queue, &["1", "2"]);
    peer.get(1, &queue);
    peer.get(1, &queue);
}

#[test]
fn cancelling_a_consumer_keeps_its_unacked_in_the_global_count() {
    let mut peer = peer();
    let (one, two) = (peer.queue(1, "one"), peer.queue(1, "two"));
    peer.qos(1, 1, true);
    peer.consume(1, &one, "one");
    peer.publish(1, "", &one, "1");
    peer.expect_deliveries(1, &["1"]);
    peer.cancel(1, "one");
    peer.consume(1, &two, "two");
    peer.publish(1, "", &two, "2");
    peer.expect_no_delivery(1, &two);
    peer.send(1, say::ack(1));
    peer.expect_deliveries(1, &["2"]);
}

#[test]
fn consuming_from_a_missing_queue_is_404() {
    let name = unique("missing");
    let text = format!("NOT_FOUND - no queue '{name}' in vhost '/'");
    peer().refused(1, say::consume(&name, "c"), 404, &text);
}

#[test]
fn an_empty_tag_gets_a_generated_one() {
    let mut peer = peer();
    let queue = peer.queue(1, "generated");
    let ok: basic::ConsumeOk = peer.ask(1, say::consume(&queue, ""));
    let tag = ok.consumer_tag.to_string();
    let random = tag.strip_prefix("amq.ctag-").expect("a tag that begins with amq.ctag-");
    assert_eq!(random.len(), 22, "{tag}");
    peer.publish(1, "", &queue, "x");
    assert_eq!(peer.expect_delivery(1).consumer_tag, tag);
}

#[test]
fn a_tag_in_use_on_the_channel_is_530_even_for_a_missing_queue() {
    let mut peer = peer();
    let queue = peer.queue(1, "tags");
    peer.consume(1, &queue, "x");
    peer.fails(1, say::consume(&unique("missing"), "x"), 530, "NOT_ALLOWED - attempt to reuse consumer tag 'x'");
}

#[test]
fn an_empty_queue_name_that_means_nothing_is_404_even_for_a_tag_in_use() {
    let mut peer = peer();
    let queue = peer.queue(1, "tags");
    peer.open_channel(2);
    peer.consume(2, &queue, "x");
    peer.refused(2, say::consume("", "x"), 404, "NOT_FOUND - no previously declared queue");
}

#[test]
fn two_channels_may_use_the_same_tag() {
    let mut peer = peer();
    peer.open_channel(2);
    let queue = peer.queue(1, "tags");
    peer.consume(1, &queue, "x");
    peer.consume(2, &queue, "x");
}

#[test]
fn a_tag_is_free_again_after_cancel() {
    let mut peer = peer();
    let queue = peer.queue(1, "tags");
    peer.consume(1, &queue, "x");
    peer.cancel(1, "x");
    peer.consume(1, &queue, "x");
}

#[test]
fn exclusive_is_refused_while_the_queue_has_a_consumer() {
    let mut peer = peer();
    peer.open_channel(2);
    let queue = peer.queue(1, "exclusive");
    peer.consume(1, &queue, "first");
    let exclusive = say::consume_with(&queue, "second", |consume| consume.exclusive = true);
    peer.refused(2, exclusive, 403, &exclusive_use(&queue));
}

#[test]
fn an_exclusive_consumer_refuses_all_others() {
    let mut owner = peer();
    let mut other = peer();
    let queue = owner.queue(1, "exclusive");
    owner.consume_with(1, &queue, "only", |consume| consume.exclusive = true);
    other.refused(1, say::consume(&queue, "c"), 403, &exclusive_use(&queue));
    owner.cancel(1, "only");
    other.open_channel(1);
    other.consume(1, &queue, "c");
}

#[test]
fn an_exclusive_consumer_does_not_stop_others_from_get() {
    let mut owner = peer();
    let mut other = peer();
    let queue = owner.queue(1, "exclusive");
    owner.qos(1, 1, false);
    owner.consume_with(1, &queue, "only", |consume| consume.exclusive = true);
    owner.publish_all(1, &queue, &["1", "2"]);
    owner.expect_deliveries(1, &["1"]);
    // The second one has been looked at too.
    owner.in_step(1);
    other.take(1, &queue, "2");
}

#[test]
fn consume_ok_comes_before_the_first_delivery() {
    let mut peer = peer();
    let queue = peer.queue(1, "waiting");
    peer.publish_all(1, &queue, &["1", "2"]);
    peer.in_step(1);
    // `consume` takes nothing but consume-ok for an answer.
    peer.consume(1, &queue, "c");
    peer.expect_deliveries(1, &["1", "2"]);
}

#[test]
fn unknown_consume_arguments_and_no_local_are_ignored() {
    let mut peer = peer();
    let queue = peer.queue(1, "arguments");
    let arguments = Octets::new().entry("x-cancel-on-ha-failover", b't', [1]).entry_str("mine", "value");
    let consume = Octets::method(60, 20).u16(0).shortstr(&queue).shortstr("c").u8(0b0001);
    peer.send_payload(1, consume.longstr(arguments));
    peer.expect::<basic::ConsumeOk>(1);
    peer.publish(1, "", &queue, "from the same connection");
    peer.expect_deliveries(1, &["from the same connection"]);
}

#[test]
fn consumers_are_served_in_turn() {
    let mut peer = peer();
    let queue = peer.queue(1, "turns");
    for tag in ["a", "b", "c"] {
        peer.consume(1, &queue, tag);
    }
    peer.publish_all(1, &queue, &["1", "2", "3", "4", "5", "6"]);
    let tags: Vec<String> = served(&mut peer, 1, 6).into_iter().map(|(tag, _)| tag).collect();
    assert_eq!(tags[..3], tags[3..], "the second round is as the first");
    let mut round = tags[..3].to_vec();
    round.sort();
    assert_eq!(round, ["a", "b", "c"], "each gets one message of a round");
}

#[test]
fn consumers_of_several_connections_are_served_in_turn() {
    let mut publisher = peer();
    let queue = publisher.queue(1, "turns");
    let mut consumers: Vec<Peer> = (0..3).map(|_| peer()).collect();
    for consumer in &mut consumers {
        consumer.consume(1, &queue, "c");
    }
    let bodies: Vec<String> = (0..30).map(|n| n.to_string()).collect();
    for body in &bodies {
        publisher.publish(1, "", &queue, body);
    }
    publisher.in_step(1);
    let mut all = Vec::new();
    for consumer in &mut consumers {
        let numbers: Vec<u32> =
            (0..10).map(|_| consumer.expect_delivery(1).text().parse().expect("a number")).collect();
        assert!(numbers.is_sorted(), "each hears its messages in order: {numbers:?}");
        consumer.expect_no_delivery(1, &queue);
        all.extend(numbers);
    }
    all.sort_unstable();
    assert!(all.into_iter().eq(0..30), "every message once");
}

#[test]
fn a_consumer_without_room_is_passed_over() {
    let mut peer = peer();
    let queue = peer.queue(1, "room");
    peer.qos(1, 1, false);
    peer.consume(1, &queue, "small");
    peer.qos(1, 0, false);
    peer.consume(1, &queue, "large");
    peer.publish_all(1, &queue, &["1", "2", "3", "4", "5"]);
    let tags: Vec<String> = served(&mut peer, 1, 5).into_iter().map(|(tag, _)| tag).collect();
    assert_eq!(tags.iter().filter(|tag| *tag == "small").count(), 1, "{tags:?}");
}

#[test]
fn a_delivery_names_exchange_key_and_is_new() {
    let mut peer = peer();
    let queue = peer.queue(1, "fields");
    let topic = peer.exchange(1, "topic");
    peer.bind(1, &queue, &topic, "#");
    peer.consume(1, &queue, "tag");
    peer.publish(1, &topic, "some.key", "x");
    let delivery = peer.expect_delivery(1);
    assert_eq!((delivery.exchange, delivery.routing_key), (topic, "some.key".to_owned()));
    assert_eq!((delivery.consumer_tag.as_str(), delivery.delivery_tag, delivery.redelivered), ("tag", 1, false));
}

#[test]
fn a_body_of_size_0_is_delivered_without_a_body_frame() {
    let mut peer = peer();
    let queue = peer.queue(1, "empty");
    peer.consume(1, &queue, "c");
    peer.publish(1, "", &queue, "");
    peer.expect::<basic::Deliver>(1);
    assert_eq!(peer.expect_frame(kind::HEADER, 1), Octets::header(0, 0).0);
    peer.in_step(1);
}

#[test]
fn a_large_body_is_cut_to_frame_max() {
    let mut peer = peer();
    let queue = peer.queue(1, "large");
    let body: Vec<u8> = (0..1_000_000u32).map(|n| n as u8).collect();
    peer.publish(1, "", &queue, &body);
    peer.send(1, say::get(&queue));
    peer.expect::<basic::GetOk>(1);
    let (content, pieces) = peer.expect_content_in_pieces(1);
    assert!(content.body == body, "the body as it was sent");
    assert!(pieces.iter().all(|piece| *piece <= 131_064), "{pieces:?}");
}

#[test]
fn absent_properties_stay_absent() {
    let mut peer = peer();
    let queue = peer.queue(1, "plain");
    peer.publish(1, "", &queue, "x");
    assert_eq!(peer.get(1, &queue).1, Content::new("x"));
}

#[test]
fn cancelling_an_unknown_tag_is_fine() {
    peer().cancel(1, "never heard of");
}

#[test]
fn no_delivery_follows_cancel_ok_and_unacked_messages_stay_with_the_channel() {
    let mut peer = peer();
    let queue = peer.queue(1, "cancelled");
    peer.consume(1, &queue, "c");
    peer.publish_all(1, &queue, &["1", "2"]);
    peer.expect_deliveries(1, &["1", "2"]);
    peer.cancel(1, "c");
    peer.publish(1, "", &queue, "3");
    peer.expect_no_delivery(1, &queue);
    peer.expect_counts(1, &queue, (1, 0));
    peer.send(1, say::ack(1));
    peer.close_channel(1);
    peer.open_channel(1);
    peer.expect_contents(1, &queue, &["2", "3"]);
}

#[test]
fn deleting_the_queue_cancels_its_consumers_everywhere() {
    let mut owner = peer();
    let mut other = peer();
    let queue = owner.queue(1, "deleted");
    owner.open_channel(2);
    owner.consume(2, &queue, "near");
    other.consume(1, &queue, "far");
    owner.send(1, say::delete(&queue));
    let mut heard = [owner.frame(), owner.frame()];
    heard.sort_by_key(|frame| frame.channel);
    assert_eq!(heard[0].payload, Octets::method(50, 41).u32(0).0);
    let cancel = |tag: &str| Octets::method(60, 30).shortstr(tag).u8(1).0;
    assert_eq!(heard[1], Frame::new(kind::METHOD, 2, cancel("near")), "basic.cancel with nowait");
    assert_eq!(other.expect_frame(kind::METHOD, 1), cancel("far"));
}

#[test]
fn for_a_queue_deleted_on_the_consuming_channel_itself_delete_ok_comes_first_and_basic_cancel_follows() {
    let mut peer = peer();
    for durable in [false, true] {
        let queue = unique("deleted");
        peer.ask::<queue::DeclareOk>(1, say::declare_with(&queue, |declare| declare.durable = durable));
        peer.consume(1, &queue, "first");
        peer.consume(1, &queue, "second");
        peer.ask::<queue::DeleteOk>(1, say::delete(&queue));
        let mut tags = [peer.expect::<basic::Cancel>(1), peer.expect::<basic::Cancel>(1)]
            .map(|cancel| cancel.consumer_tag.to_string());
        tags.sort();
        assert_eq!(tags, ["first", "second"]);
    }
}

#[test]
fn a_tag_cancelled_by_the_server_is_free_at_once() {
    let mut peer = peer();
    peer.open_channel(2);
    let (queue, next) = (peer.queue(1, "deleted"), peer.queue(1, "next"));
    peer.consume(2, &queue, "x");
    let mut other = Server::start().peer();
    other.ask::<queue::DeleteOk>(1, say::delete(&queue));
    peer.expect::<basic::Cancel>(2);
    peer.cancel(2, "x");
    peer.consume(2, &next, "x");
}

#[test]
fn a_client_that_does_not_know_server_cancels_is_told_nothing() {
    let mut peer = Server::start().peer_with(&Login { capabilities: &[], ..Login::default() });
    peer.open_channel(1);
    let queue = peer.queue(1, "deleted");
    peer.consume(1, &queue, "x");
    let mut other = Server::start().peer();
    other.ask::<queue::DeleteOk>(1, say::delete(&queue));
    other.expect_no_queue(1, &queue);
    peer.expect_no_queue(1, &queue);
}

#[test]
fn cancelling_with_messages_on_their_way_loses_none() {
    let mut peer = peer();
    let queue = peer.queue(1, "busy");
    let bodies: Vec<String> = (0..200).map(|n| n.to_string()).collect();
    peer.consume_with(1, &queue, "c", |consume| consume.no_ack = true);
    for body in &bodies {
        peer.publish(1, "", &queue, body);
    }
    peer.send(1, say::cancel("c"));
    let mut got = Vec::new();
    loop {
        let frame = peer.frame();
        match frame.payload.first_chunk() {
            Some([0, 60, 0, 60]) => got.push(peer.expect_content(1).text()),
            Some([0, 60, 0, 31]) => break,
            _ => panic!("a delivery or cancel-ok, came {frame:?}"),
        }
    }
    got.extend(peer.drain(1, &queue).into_iter().map(|(body, _)| body));
    assert_eq!(got, bodies);
}

#[test]
fn a_consumer_priority_that_is_no_integer_is_406() {
    let mut peer = peer();
    let queue = peer.queue(1, "priority");
    let arguments = Octets::new().entry_str("x-priority", "high");
    let consume = Octets::method(60, 20).u16(0).shortstr(&queue).shortstr("c").u8(0);
    peer.send_payload(1, consume.longstr(arguments));
    let text = format!(
        "PRECONDITION_FAILED - invalid arg 'x-priority' for queue '{queue}' in vhost '/': \"expected integer, got longstr\""
    );
    peer.expect_channel_close(1, 406, &text, (60, 20));
}
