//! Time to live, leases and length limits, beyond what dead letters show of them.

use std::time::{Duration, Instant};

use amq_protocol::protocol::{basic, queue, tx};
use leveret_suite::durable::{Durable, End};
use leveret_suite::values::{declare_durable_with, expiring, history, int, table, text};
use leveret_suite::{Content, Octets, Peer, Server, say, unique};

fn peer() -> Peer {
    Server::start().peer()
}

/// Where only the time that passes can show something.
fn milliseconds(count: u64) {
    std::thread::sleep(Duration::from_millis(count));
}

// Time to live

#[test]
fn an_expiration_of_0_is_valid_and_expires_at_once_without_a_waiting_consumer() {
    let mut peer = peer();
    let (queue, grave) = peer.queue_and_grave(1, &[]);
    peer.publish_content(1, say::publish("", &queue), &expiring("0", "nobody waits"));
    assert_eq!(peer.wait_for(1, &grave).1.text(), "nobody waits");
    peer.expect_counts(1, &queue, (0, 0));
    peer.consume(1, &queue, "c");
    peer.publish_content(1, say::publish("", &queue), &expiring("0", "somebody waits"));
    peer.expect_deliveries(1, &["somebody waits"]);
}

#[test]
fn a_message_in_delivery_does_not_expire_and_does_so_when_it_is_requeued() {
    let mut peer = peer();
    let (queue, grave) = peer.queue_and_grave(1, &[("x-message-ttl", int(50))]);
    peer.consume(1, &queue, "c");
    peer.publish(1, "", &queue, "slow");
    let tag = peer.expect_deliveries(1, &["slow"])[0].delivery_tag;
    milliseconds(100);
    peer.expect_counts(1, &grave, (0, 0));
    // The consumer that waits doesn't get it again: the next frame is that of the grave.
    peer.send(1, say::nack(tag, true));
    assert_eq!(peer.wait_for(1, &grave).1.text(), "slow");
}

#[test]
fn a_requeued_message_keeps_its_deadline() {
    let mut peer = peer();
    let (queue, grave) = peer.queue_and_grave(1, &[("x-message-ttl", int(400))]);
    let start = Instant::now();
    peer.publish(1, "", &queue, "x");
    let tag = peer.get(1, &queue).0.delivery_tag;
    milliseconds(200);
    peer.send(1, say::nack(tag, true));
    peer.wait_for(1, &grave);
    let took = start.elapsed();
    assert!(took > Duration::from_millis(390) && took < Duration::from_millis(590), "{took:?}, not 600 ms");
}

#[test]
fn in_a_transaction_the_time_runs_from_the_commit() {
    let mut peer = peer();
    let queue = peer.queue_with(1, &[("x-message-ttl", int(500))]);
    peer.ask::<tx::SelectOk>(1, tx::Select {});
    peer.publish(1, "", &queue, "x");
    milliseconds(600);
    peer.ask::<tx::CommitOk>(1, tx::Commit {});
    assert_eq!(peer.get(1, &queue).1.text(), "x");
}

#[test]
fn expired_followers_go_with_a_head_that_is_consumed() {
    let mut peer = peer();
    let (queue, grave) = peer.queue_and_grave(1, &[]);
    peer.publish_content(1, say::publish("", &queue), &expiring("60000", "head"));
    for body in ["1", "2", "3"] {
        peer.publish_content(1, say::publish("", &queue), &expiring("1", body));
    }
    peer.wait_for_count(1, &queue, 4);
    milliseconds(20);
    peer.consume(1, &queue, "c");
    peer.expect_deliveries(1, &["head"]);
    peer.wait_for_count(1, &grave, 3);
    peer.expect_contents(1, &grave, &["1", "2", "3"]);
}

#[test]
fn expired_followers_of_a_message_that_is_fetched_are_not_counted_as_left() {
    let mut peer = peer();
    let queue = peer.queue(1, "followers");
    peer.publish(1, "", &queue, "head");
    peer.publish_content(1, say::publish("", &queue), &expiring("0", "follower"));
    peer.wait_for_count(1, &queue, 2);
    assert_eq!(peer.get(1, &queue).0.message_count, 0);
}

#[test]
fn of_priority_levels_only_the_head_of_the_highest_is_looked_at() {
    let mut peer = peer();
    let (queue, grave) = peer.queue_and_grave(1, &[("x-max-priority", int(5))]);
    let with = |priority: u8, milliseconds: &str, body: &str| {
        Content::with(1 << 11 | 1 << 8, Octets::new().u8(priority).shortstr(milliseconds), body)
    };
    peer.publish_content(1, say::publish("", &queue), &with(5, "60000", "high"));
    peer.publish_content(1, say::publish("", &queue), &with(1, "1", "low"));
    peer.wait_for_count(1, &queue, 2);
    milliseconds(50);
    peer.expect_counts(1, &queue, (2, 0));
    peer.take(1, &queue, "high");
    assert_eq!(peer.wait_for(1, &grave).1.text(), "low");
}

#[test]
fn time_runs_on_while_the_broker_is_down() {
    let Some(mut broker) = Durable::start() else { return };
    let mut peer = broker.server.peer();
    let (queue, grave) = (unique("timed"), unique("grave"));
    peer.ask::<queue::DeclareOk>(1, declare_durable_with(&grave, &[]));
    let arguments = [
        ("x-message-ttl", int(200)),
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text(&grave)),
    ];
    peer.ask::<queue::DeclareOk>(1, declare_durable_with(&queue, &arguments));
    peer.select_confirms(1);
    peer.publish_content(1, say::publish("", &queue), &Content::persistent("old"));
    peer.expect_confirms(1, 1);
    broker.server.kill9();
    milliseconds(200);
    broker.server.restart();
    let mut peer = broker.server.peer();
    assert_eq!(peer.wait_for(1, &grave).1.text(), "old");
    // The arguments have survived as well.
    peer.ask::<queue::DeclareOk>(1, declare_durable_with(&queue, &arguments));
    // So does what has been written into the dead letter.
    peer.send(1, say::recover(true));
    peer.expect::<basic::RecoverOk>(1);
    let mut peer = broker.again(End::Kill);
    let (_, content) = peer.get(1, &grave);
    assert_eq!(history(&content), [(queue, "expired".into(), 1)]);
}

// Leases

#[test]
fn declaring_again_passively_or_not_and_getting_renew_a_lease() {
    let mut peer = peer();
    let arguments = table(&[("x-expires", int(600))]);
    let name = unique("leased");
    let declare = say::declare_with(&name, |declare| declare.arguments = arguments);
    for renew in 0..3 {
        peer.ask::<queue::DeclareOk>(1, declare.clone());
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(900) {
            milliseconds(150);
            match renew {
                0 => drop(peer.ask::<queue::DeclareOk>(1, declare.clone())),
                1 => drop(peer.counts(1, &name)),
                _ => drop(peer.ask::<basic::GetEmpty>(1, say::get(&name))),
            }
        }
    }
    peer.ask::<queue::DeleteOk>(1, say::delete(&name));
}

#[test]
fn publishing_binding_and_purging_do_not_renew_a_lease() {
    let mut peer = peer();
    let name = peer.queue_with(1, &[("x-expires", int(400))]);
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(300) {
        peer.publish(1, "", &name, "x");
        peer.bind(1, &name, "amq.direct", &unique("key"));
        peer.ask::<queue::PurgeOk>(1, say::purge(&name));
        milliseconds(50);
    }
    milliseconds(350);
    peer.expect_no_queue(1, &name);
}

#[test]
fn a_lease_runs_from_the_end_of_the_last_consumer() {
    let mut peer = peer();
    let name = peer.queue_with(1, &[("x-expires", int(300))]);
    peer.consume(1, &name, "c");
    milliseconds(450);
    peer.cancel(1, "c");
    milliseconds(100);
    peer.publish_content(1, say::publish_mandatory("", &name), &Content::new("still there"));
    peer.in_step(1);
    milliseconds(450);
    peer.publish_content(1, say::publish_mandatory("", &name), &Content::new("gone"));
    assert_eq!(peer.expect_return(1).1.text(), "gone");
}

#[test]
fn a_lease_starts_again_with_the_broker() {
    let Some(mut broker) = Durable::start() else { return };
    let mut peer = broker.server.peer();
    let name = unique("leased");
    peer.ask::<queue::DeclareOk>(1, declare_durable_with(&name, &[("x-expires", int(4000))]));
    milliseconds(2500);
    let mut peer = broker.again(End::Kill);
    milliseconds(2000);
    // More than 4 s after the declaration.
    peer.expect_counts(1, &name, (0, 0));
}

// Length

#[test]
fn unacked_messages_do_not_count_and_a_requeue_pushes_the_head_out() {
    let mut peer = peer();
    let (queue, grave) = peer.queue_and_grave(1, &[("x-max-length", int(1))]);
    peer.publish(1, "", &queue, "held");
    let tag = peer.get(1, &queue).0.delivery_tag;
    peer.publish(1, "", &queue, "ready");
    peer.expect_counts(1, &queue, (1, 0));
    peer.expect_counts(1, &grave, (0, 0));
    peer.send(1, say::nack(tag, true));
    // It is the oldest again, so the head.
    assert_eq!(peer.wait_for(1, &grave).1.text(), "held");
    peer.expect_contents(1, &queue, &["ready"]);
}

#[test]
fn a_length_of_0_lets_messages_only_through_to_a_waiting_consumer() {
    let mut peer = peer();
    let (queue, grave) = peer.queue_and_grave(1, &[("x-max-length", int(0))]);
    peer.publish(1, "", &queue, "nobody waits");
    assert_eq!(peer.wait_for(1, &grave).1.text(), "nobody waits");
    peer.consume(1, &queue, "c");
    peer.publish(1, "", &queue, "somebody waits");
    peer.expect_deliveries(1, &["somebody waits"]);
}

#[test]
fn what_is_requeued_over_the_limit_goes_before_a_waiting_consumer_can_take_it() {
    let mut peer = peer();
    for (limit, bodies) in [("x-max-length", 1), ("x-max-length-bytes", 5)] {
        let (queue, grave) = peer.queue_and_grave(1, &[(limit, int(bodies))]);
        peer.consume(1, &queue, "c");
        peer.publish_all(1, &queue, &["first", "again"]);
        let last = peer.expect_deliveries(1, &["first", "again"])[1].delivery_tag;
        peer.send(1, say::nack_until(last, true));
        // There is room for one of them.
        assert!(peer.expect_deliveries(1, &["again"])[0].redelivered);
        assert_eq!(peer.wait_for(1, &grave).1.text(), "first");
        peer.cancel(1, "c");
    }
}

#[test]
fn what_the_end_of_a_channel_gives_back_counts_against_the_limit_first() {
    let mut peer = peer();
    let (queue, grave) = peer.queue_and_grave(1, &[("x-max-length", int(0))]);
    peer.open_channel(2);
    peer.consume(2, &queue, "holds");
    peer.publish(1, "", &queue, "x");
    peer.expect_deliveries(2, &["x"]);
    peer.consume(1, &queue, "waits");
    peer.close_channel(2);
    assert_eq!(peer.wait_for(1, &grave).1.text(), "x");
}

#[test]
fn over_the_limit_comes_before_expired_at_once() {
    let mut peer = peer();
    let (queue, grave) = peer.queue_and_grave(1, &[("x-max-length", int(0)), ("x-message-ttl", int(0))]);
    peer.publish_all(1, &queue, &["1", "2"]);
    peer.wait_for_count(1, &grave, 2);
    for _ in 0..2 {
        assert_eq!(history(&peer.get(1, &grave).1), [(queue.clone(), "maxlen".into(), 1)]);
    }
    let (queue, grave) = peer.queue_and_grave(1, &[("x-max-length", int(1)), ("x-message-ttl", int(0))]);
    peer.publish_all(1, &queue, &["1", "2"]);
    peer.wait_for_count(1, &grave, 2);
    for _ in 0..2 {
        assert_eq!(history(&peer.get(1, &grave).1), [(queue.clone(), "expired".into(), 1)]);
    }
}

#[test]
fn both_limits_apply() {
    let mut peer = peer();
    let queue = peer.queue_with(1, &[("x-max-length", int(2)), ("x-max-length-bytes", int(5))]);
    peer.publish_all(1, &queue, &["a", "b", "c"]);
    peer.in_step(1);
    peer.expect_counts(1, &queue, (2, 0));
    peer.publish(1, "", &queue, "12345");
    peer.in_step(1);
    peer.expect_contents(1, &queue, &["12345"]);
}

#[test]
fn bytes_are_those_of_bodies_alone() {
    let mut peer = peer();
    let queue = peer.queue_with(1, &[("x-max-length-bytes", int(4))]);
    let headers = Octets::new().entry_str("large", &"x".repeat(1000));
    peer.publish_content(1, say::publish("", &queue), &Content::with_headers(headers, "1234"));
    peer.publish(1, "", &queue, "");
    peer.wait_for_count(1, &queue, 2);
}

#[test]
fn of_priorities_the_head_of_the_highest_level_is_dropped_first() {
    let mut peer = peer();
    let queue = peer.queue_with(1, &[("x-max-length", int(2)), ("x-max-priority", int(5))]);
    for (priority, body) in [(1, "low"), (5, "high 1"), (5, "high 2")] {
        peer.publish_content(1, say::publish("", &queue), &Content::with(1 << 11, [priority], body));
    }
    peer.in_step(1);
    peer.expect_contents(1, &queue, &["high 2", "low"]);
}

#[test]
fn without_confirms_a_refused_publish_is_discarded_in_silence() {
    let mut peer = peer();
    let queue = peer.queue_with(1, &[("x-max-length", int(1)), ("x-overflow", text("reject-publish"))]);
    peer.publish_all(1, &queue, &["taken", "refused"]);
    peer.in_step(1);
    peer.expect_contents(1, &queue, &["taken"]);
}

#[test]
fn one_queue_that_refuses_makes_it_a_nack_and_the_others_keep_their_copy() {
    let mut peer = peer();
    let fanout = peer.exchange(1, "fanout");
    let full = peer.queue_with(1, &[("x-max-length", int(0)), ("x-overflow", text("reject-publish"))]);
    let other = peer.queue(1, "other");
    peer.bind(1, &full, &fanout, "");
    peer.bind(1, &other, &fanout, "");
    peer.select_confirms(1);
    peer.publish(1, &fanout, "", "x");
    let nack: basic::Nack = peer.expect(1);
    assert_eq!(nack.delivery_tag, 1);
    peer.expect_contents(1, &other, &["x"]);
}

#[test]
fn a_full_queue_refuses_even_what_a_consumer_waits_for() {
    let mut peer = peer();
    let queue = peer.queue_with(1, &[("x-max-length", int(0)), ("x-overflow", text("reject-publish"))]);
    peer.consume(1, &queue, "c");
    peer.select_confirms(1);
    peer.publish(1, "", &queue, "x");
    let nack: basic::Nack = peer.expect(1);
    assert_eq!(nack.delivery_tag, 1);
}

#[test]
fn a_requeue_is_never_refused() {
    let mut peer = peer();
    let queue = peer.queue_with(1, &[("x-max-length", int(1)), ("x-overflow", text("reject-publish"))]);
    peer.publish(1, "", &queue, "1");
    let tag = peer.get(1, &queue).0.delivery_tag;
    peer.publish(1, "", &queue, "2");
    peer.in_step(1);
    peer.send(1, say::nack(tag, true));
    peer.wait_for_count(1, &queue, 2);
    peer.expect_contents(1, &queue, &["1", "2"]);
}

#[test]
fn a_byte_limit_refuses_what_would_exceed_it() {
    let mut peer = peer();
    let queue = peer.queue_with(1, &[("x-max-length-bytes", int(5)), ("x-overflow", text("reject-publish"))]);
    peer.select_confirms(1);
    peer.publish(1, "", &queue, "1234");
    peer.expect_confirms(1, 1);
    peer.publish(1, "", &queue, "56");
    let nack: basic::Nack = peer.expect(1);
    assert_eq!(nack.delivery_tag, 2);
    peer.publish(1, "", &queue, "5");
    let ack: basic::Ack = peer.expect(1);
    assert_eq!(ack.delivery_tag, 3);
}
