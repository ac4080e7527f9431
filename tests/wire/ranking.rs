//! Who goes first: priorities of messages and consumers, single active consumer, and what a quorum queue adds
//! (contract, sections 5.7, 5.9 and 8.4).

use amq_protocol::protocol::{basic, queue};
use amq_protocol::types::{AMQPValue, FieldTable, LongString, ShortString};
use leveret_suite::{Content, Peer, Server, say, unique};

fn peer() -> Peer {
    Server::start().peer()
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(value))
}

fn queue_with(peer: &mut Peer, durable: bool, entries: &[(&str, AMQPValue)]) -> String {
    let name = unique("ranking");
    let mut arguments = FieldTable::default();
    for (key, value) in entries {
        arguments.insert(ShortString::try_new(*key).expect("short"), value.clone());
    }
    let declare = say::declare_with(&name, |declare| {
        declare.arguments = arguments;
        declare.durable = durable;
    });
    peer.ask::<queue::DeclareOk>(1, declare);
    name
}

/// A message with the property `priority`.
fn ranked(priority: u8, body: &str) -> Content {
    Content::with(1 << 11, [priority], body)
}

#[test]
fn higher_priorities_go_first_and_equal_ones_in_order() {
    let mut peer = peer();
    let queue = queue_with(&mut peer, false, &[("x-max-priority", AMQPValue::LongInt(5))]);
    for (priority, body) in [(1, "low"), (5, "high 1"), (9, "high 2"), (3, "middle"), (5, "high 3")] {
        peer.publish_content(1, say::publish("", &queue), &ranked(priority, body));
    }
    peer.publish(1, "", &queue, "none");
    peer.expect_contents(1, &queue, &["high 1", "high 2", "high 3", "middle", "low", "none"]);
}

#[test]
fn a_requeued_message_returns_to_its_level_and_place() {
    let mut peer = peer();
    let queue = queue_with(&mut peer, false, &[("x-max-priority", AMQPValue::LongInt(5))]);
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
    let with_priority = |priority: i32| {
        move |consume: &mut basic::Consume| {
            consume.arguments.insert(ShortString::try_new("x-priority").expect("short"), AMQPValue::LongInt(priority));
        }
    };
    peer.qos(1, 2, false);
    peer.consume_with(1, &queue, "low", with_priority(-1));
    peer.consume_with(1, &queue, "high", with_priority(7));
    peer.publish_all(1, &queue, &["1", "2", "3"]);
    let tags: Vec<String> = (0..3).map(|_| peer.expect_delivery(1).consumer_tag).collect();
    assert_eq!(tags, ["high", "high", "low"]);
}

#[test]
fn only_the_first_consumer_is_active_and_its_end_makes_the_next_one_so() {
    let mut peer = peer();
    let queue = queue_with(&mut peer, false, &[("x-single-active-consumer", AMQPValue::Boolean(true))]);
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
    let queue = queue_with(&mut peer, false, &[("x-single-active-consumer", AMQPValue::Boolean(true))]);
    let consume = say::consume_with(&queue, "c", |consume| consume.exclusive = true);
    peer.refused(1, consume, 403, &format!("ACCESS_REFUSED - queue '{queue}' in vhost '/' in exclusive use"));
}

#[test]
fn a_quorum_queue_counts_deliveries_and_gives_up_at_its_limit() {
    let mut peer = peer();
    let entries = [("x-queue-type", text("quorum")), ("x-delivery-limit", AMQPValue::LongInt(2))];
    let queue = queue_with(&mut peer, true, &entries);
    peer.publish(1, "", &queue, "poison");
    for returned in 0..3 {
        let (got, content) = peer.get(1, &queue);
        let (_, properties) = basic::parse_properties(&content.properties[..]).expect("properties");
        let count = properties.headers().as_ref().and_then(|h| h.inner().get("x-delivery-count").cloned());
        assert_eq!(count, (returned > 0).then_some(AMQPValue::LongLongInt(returned)));
        peer.send(1, say::nack(got.delivery_tag, true));
    }
    peer.expect_counts(1, &queue, (0, 0));
}

#[test]
fn a_quorum_queue_that_is_not_durable_is_406() {
    let mut peer = peer();
    let name = unique("quorum");
    let declare = say::declare_with(&name, |declare| {
        declare.arguments.insert(ShortString::try_new("x-queue-type").expect("short"), text("quorum"));
    });
    let error = format!("PRECONDITION_FAILED - invalid property 'non-durable' for queue '{name}' in vhost '/'");
    peer.refused(1, declare, 406, &error);
}
