//! How messages leave a queue without being acknowledged: time to live, limits, leases, dead letters.

use std::time::{Duration, Instant};

use amq_protocol::protocol::{basic, queue};
use amq_protocol::types::AMQPValue;
use leveret_suite::values::{expiring, headers, history, int, properties, table, text};
use leveret_suite::{Peer, Server, say, unique};

fn peer() -> Peer {
    Server::start().peer()
}

#[test]
fn a_message_older_than_the_queues_ttl_is_dead_lettered_as_expired() {
    let mut peer = peer();
    let (queue, grave) = peer.queue_and_grave(1, &[("x-message-ttl", int(100))]);
    let start = Instant::now();
    peer.publish(1, "", &queue, "late");
    let (got, content) = peer.wait_for(1, &grave);
    let waited = start.elapsed();
    assert!(waited >= Duration::from_millis(95) && waited < Duration::from_millis(1000), "{waited:?}");
    assert_eq!((content.text(), got.exchange.as_str(), got.routing_key.as_str()), ("late".into(), "", &*grave));
    assert!(!got.redelivered);
    assert_eq!(history(&content), [(queue.clone(), "expired".into(), 1)]);
    let headers = headers(&content);
    for (name, value) in
        [("x-first-death-queue", &*queue), ("x-first-death-reason", "expired"), ("x-first-death-exchange", "")]
    {
        assert_eq!(headers.inner().get(name), Some(&text(value)), "{name}");
    }
    peer.expect_counts(1, &queue, (0, 0));
}

#[test]
fn a_messages_own_expiration_is_removed_and_recorded_when_it_dies() {
    let mut peer = peer();
    let (queue, grave) = peer.queue_and_grave(1, &[]);
    peer.publish_content(1, say::publish("", &queue), &expiring("50", "x"));
    let (_, content) = peer.wait_for(1, &grave);
    assert_eq!(properties(&content).expiration(), &None);
    let headers = headers(&content);
    let Some(AMQPValue::FieldArray(entries)) = headers.inner().get("x-death") else { panic!("{headers:?}") };
    let AMQPValue::FieldTable(entry) = &entries.as_slice()[0] else { panic!("{entries:?}") };
    assert_eq!(entry.inner().get("original-expiration"), Some(&text("50")));
}

#[test]
fn the_smaller_of_queue_ttl_and_expiration_counts() {
    let mut peer = peer();
    let (queue, grave) = peer.queue_and_grave(1, &[("x-message-ttl", int(60_000))]);
    let start = Instant::now();
    peer.publish_content(1, say::publish("", &queue), &expiring("50", "x"));
    peer.wait_for(1, &grave);
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_long_ttl_at_the_head_keeps_a_short_one_behind_it() {
    let mut peer = peer();
    let queue = peer.queue(1, "head");
    peer.publish_content(1, say::publish("", &queue), &expiring("60000", "long"));
    peer.publish_content(1, say::publish("", &queue), &expiring("1", "short"));
    peer.in_step(1);
    std::thread::sleep(Duration::from_millis(50));
    peer.expect_counts(1, &queue, (2, 0));
    // When the head is delivered, expired followers go at once.
    assert_eq!(peer.get(1, &queue).1.text(), "long");
    peer.expect_counts(1, &queue, (0, 0));
}

#[test]
fn a_ttl_of_zero_reaches_a_waiting_consumer_and_nobody_else() {
    let mut peer = peer();
    let (queue, grave) = peer.queue_and_grave(1, &[("x-message-ttl", int(0))]);
    peer.publish(1, "", &queue, "nobody");
    assert_eq!(peer.wait_for(1, &grave).1.text(), "nobody");
    peer.consume(1, &queue, "c");
    peer.publish(1, "", &queue, "somebody");
    let delivery = peer.expect_delivery(1);
    assert_eq!(delivery.text(), "somebody");
    // Requeued, it has expired.
    peer.send(1, say::reject(2, true));
    assert_eq!(peer.wait_for(1, &grave).1.text(), "somebody");
}

#[test]
fn a_rejected_message_is_dead_lettered_and_one_that_is_requeued_is_not() {
    let mut peer = peer();
    let (queue, grave) = peer.queue_and_grave(1, &[]);
    peer.publish_all(1, &queue, &["again", "never"]);
    peer.get(1, &queue);
    peer.get(1, &queue);
    peer.send(1, say::nack(1, true));
    peer.send(1, say::reject(2, false));
    let (_, content) = peer.wait_for(1, &grave);
    assert_eq!((content.text(), history(&content)), ("never".into(), vec![(queue.clone(), "rejected".into(), 1)]));
    peer.take(1, &queue, "again");
}

#[test]
fn without_a_dead_letter_key_the_messages_own_keys_are_used() {
    let mut peer = peer();
    let exchange = peer.exchange(1, "direct");
    let queue = peer.queue_with(1, &[("x-dead-letter-exchange", text(&exchange)), ("x-message-ttl", int(1))]);
    let grave = peer.queue(1, "grave");
    peer.bind(1, &grave, &exchange, &queue);
    peer.publish(1, "", &queue, "x");
    let (got, _) = peer.wait_for(1, &grave);
    assert_eq!((got.exchange.as_str(), got.routing_key.as_str()), (&*exchange, &*queue));
}

#[test]
fn a_cycle_without_a_reject_is_cut() {
    const TTL: Duration = Duration::from_millis(20);
    let mut peer = peer();
    let (first, second) = (unique("cycle"), unique("cycle"));
    for (name, next) in [(&first, &second), (&second, &first)] {
        let arguments = table(&[
            ("x-message-ttl", int(TTL.as_millis() as i32)),
            ("x-dead-letter-exchange", text("")),
            ("x-dead-letter-routing-key", text(next)),
        ]);
        peer.ask::<queue::DeclareOk>(1, say::declare_with(name, |declare| declare.arguments = arguments));
    }
    peer.publish(1, "", &first, "x");
    // One that goes round can be missed by a look at each queue, but not by all looks while it would go round five times.
    let patience = Instant::now() + Duration::from_secs(10);
    let (mut empty_since, mut empty_looks) = (Instant::now(), 0);
    while empty_looks < 20 || empty_since.elapsed() < 10 * TTL {
        assert!(Instant::now() < patience, "it still goes round");
        if peer.counts(1, &first).0 + peer.counts(1, &second).0 == 0 {
            empty_looks += 1;
        } else {
            (empty_since, empty_looks) = (Instant::now(), 0);
        }
        std::thread::sleep(TTL / 4);
    }
}

#[test]
fn a_dead_letter_exchange_that_is_missing_loses_the_message_silently() {
    let mut peer = peer();
    let queue = peer.queue_with(1, &[("x-dead-letter-exchange", text("no-such-exchange")), ("x-max-length", int(0))]);
    peer.publish(1, "", &queue, "x");
    peer.expect_counts(1, &queue, (0, 0));
}

#[test]
fn a_full_queue_drops_from_its_head() {
    let mut peer = peer();
    let (queue, grave) = peer.queue_and_grave(1, &[("x-max-length", int(2))]);
    peer.publish_all(1, &queue, &["1", "2", "3", "4"]);
    peer.expect_counts(1, &queue, (2, 0));
    peer.expect_contents(1, &grave, &["1", "2"]);
    peer.expect_contents(1, &queue, &["3", "4"]);
}

#[test]
fn a_limit_in_bytes_counts_bodies() {
    let mut peer = peer();
    let queue = peer.queue_with(1, &[("x-max-length-bytes", int(10))]);
    peer.publish_all(1, &queue, &["1234", "56789", "abc"]);
    peer.in_step(1);
    peer.expect_contents(1, &queue, &["56789", "abc"]);
}

#[test]
fn a_full_queue_that_rejects_nacks_the_publish() {
    let mut peer = peer();
    let queue = peer.queue_with(1, &[("x-max-length", int(1)), ("x-overflow", text("reject-publish"))]);
    peer.select_confirms(1);
    peer.publish(1, "", &queue, "1");
    peer.expect_confirms(1, 1);
    peer.publish(1, "", &queue, "2");
    let nack: basic::Nack = peer.expect(1);
    assert_eq!(nack.delivery_tag, 2);
    peer.take(1, &queue, "1");
    peer.publish(1, "", &queue, "3");
    let ack: basic::Ack = peer.expect(1);
    assert_eq!(ack.delivery_tag, 3);
}

#[test]
fn a_queue_without_use_for_as_long_as_its_lease_is_gone() {
    let mut peer = peer();
    let queue = peer.queue_with(1, &[("x-expires", int(200))]);
    // Looking is using: each look renews the lease, so look once, when it is over.
    std::thread::sleep(Duration::from_millis(400));
    peer.expect_no_queue(1, &queue);
}

#[test]
fn a_consumer_keeps_the_lease() {
    let mut peer = peer();
    let queue = peer.queue_with(1, &[("x-expires", int(100))]);
    peer.consume(1, &queue, "c");
    std::thread::sleep(Duration::from_millis(300));
    peer.expect_counts(1, &queue, (0, 1));
}
