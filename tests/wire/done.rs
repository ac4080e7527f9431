//! What is done stays done over a restart and a SIGKILL, and what may have been delivered says so.

use amq_protocol::protocol::basic;
use leveret_suite::durable::{Durable, End, as_strs, declare, numbers, publish_confirmed};
use leveret_suite::{Content, say};

#[test]
fn after_a_clean_stop_the_redelivered_flag_is_exact() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    let mut peer = broker.server.peer();
    declare(&mut peer, "q");
    publish_confirmed(&mut peer, "q", &["1", "2", "3", "4", "5", "6"]);
    peer.qos(1, 4, false);
    peer.consume(1, "q", "c");
    peer.expect_deliveries(1, &["1", "2", "3", "4"]);
    peer.send(1, say::ack(2));
    peer.expect_deliveries(1, &["5"]);
    peer.send(1, say::nack(3, true));
    // With one slot free the requeued message comes back at once.
    assert!(peer.expect_deliveries(1, &["3"])[0].redelivered);
    let mut peer = broker.again_with(peer, End::Stop);
    let expected = [("1", true), ("3", true), ("4", true), ("5", true), ("6", false)];
    let expected = expected.map(|(body, again)| (body.to_owned(), again));
    assert_eq!(peer.drain(1, "q"), expected);
}

#[test]
fn a_never_delivered_message_stays_new_over_many_clean_stops() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    let mut peer = broker.server.peer();
    declare(&mut peer, "q");
    publish_confirmed(&mut peer, "q", &["1", "2"]);
    for _ in 0..3 {
        broker.again(End::Stop).close();
    }
    let mut peer = broker.again(End::Stop);
    assert!(!peer.get(1, "q").0.redelivered);
    let mut peer = broker.again(End::Stop);
    assert_eq!(peer.drain(1, "q"), [("1".to_owned(), true), ("2".to_owned(), false)]);
}

#[test]
fn after_a_kill_what_may_have_been_delivered_is_redelivered() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    let mut peer = broker.server.peer();
    for name in ["pushed", "pulled"] {
        declare(&mut peer, name);
        publish_confirmed(&mut peer, name, &as_strs(&numbers(100)));
    }
    peer.qos(1, 10, false);
    peer.consume(1, "pushed", "c");
    peer.expect_deliveries(1, &as_strs(&numbers(10)));
    for _ in 0..3 {
        peer.get(1, "pulled");
    }
    let mut peer = broker.again(End::Kill);
    for (name, delivered) in [("pushed", 10), ("pulled", 3)] {
        let messages = peer.drain(1, name);
        assert_eq!(messages.len(), 100, "everything confirmed and not acked is there once");
        for (index, (body, again)) in messages.iter().enumerate() {
            assert_eq!(*body, (index + 1).to_string(), "in order");
            assert!(*again || index >= delivered, "{body} of {name} was delivered, and comes as new");
        }
        assert!(!messages[99].1, "the last of {name} was certainly never delivered");
    }
}

#[test]
fn a_message_redelivered_before_two_kills_is_redelivered_after_them() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    let mut peer = broker.server.peer();
    declare(&mut peer, "q");
    publish_confirmed(&mut peer, "q", &["1"]);
    peer.get(1, "q");
    drop(broker.again(End::Kill));
    let mut peer = broker.again(End::Kill);
    assert!(peer.get(1, "q").0.redelivered);
}

#[test]
fn done_acks_never_come_back_after_a_kill() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    for round in 0..5 {
        let name = format!("q{round}");
        let mut peer = broker.server.peer();
        declare(&mut peer, &name);
        publish_confirmed(&mut peer, &name, &as_strs(&numbers(20)));
        peer.consume(1, &name, "c");
        peer.expect_deliveries(1, &as_strs(&numbers(20)));
        peer.send(1, say::ack_until(5));
        peer.send(1, say::ack(7));
        peer.send(1, say::nack(9, false));
        peer.send(1, say::reject(20, false));
        // An ack is done once the reply to any later synchronous method of its channel has come.
        peer.qos(1, 0, false);
        let mut peer = broker.again(End::Kill);
        let left: Vec<String> = numbers(20)
            .into_iter()
            .filter(|body| !["1", "2", "3", "4", "5", "7", "9", "20"].contains(&body.as_str()))
            .collect();
        peer.expect_contents(1, &name, &as_strs(&left));
    }
}

#[test]
fn what_was_taken_without_acknowledgement_never_comes_back_after_a_kill() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    let mut peer = broker.server.peer();
    for name in ["pulled", "pushed"] {
        declare(&mut peer, name);
        publish_confirmed(&mut peer, name, &["1", "2", "3"]);
    }
    peer.take(1, "pulled", "1");
    peer.take(1, "pulled", "2");
    peer.consume_with(1, "pushed", "c", |consume| consume.no_ack = true);
    peer.expect_deliveries(1, &["1", "2", "3"]);
    peer.qos(1, 0, false);
    let mut peer = broker.again(End::Kill);
    peer.expect_contents(1, "pulled", &["3"]);
    peer.expect_contents(1, "pushed", &[]);
}

#[test]
fn an_ack_done_while_its_message_was_still_being_written_never_comes_back() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    for round in 0..5 {
        let name = format!("q{round}");
        let mut peer = broker.server.peer();
        declare(&mut peer, &name);
        peer.consume(1, &name, "c");
        for body in numbers(50) {
            peer.publish_content(1, say::publish("", &name), &Content::persistent(body));
        }
        // No confirms: the acks overtake the disk.
        peer.expect_deliveries(1, &as_strs(&numbers(50)));
        peer.send(1, say::ack_until(50));
        peer.qos(1, 0, false);
        let mut peer = broker.again(End::Kill);
        peer.expect_contents(1, &name, &[]);
    }
}

#[test]
fn any_later_synchronous_reply_makes_an_ack_done() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    // The channel's close, a get, a declare, a consume: each in a life of its own.
    for round in 0..4 {
        let name = format!("q{round}");
        let mut peer = broker.server.peer();
        declare(&mut peer, &name);
        publish_confirmed(&mut peer, &name, &["1", "2"]);
        peer.get(1, &name);
        peer.get(1, &name);
        peer.send(1, say::ack(1));
        match round {
            0 => peer.close_channel(1),
            1 => {
                peer.ask::<basic::GetEmpty>(1, say::get(&name));
            }
            2 => declare(&mut peer, &name),
            _ => peer.consume(1, &name, "c"),
        }
        let mut peer = broker.again(End::Kill);
        peer.expect_contents(1, &name, &["2"]);
    }
}

#[test]
fn an_ack_before_connection_close_ok_is_done() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    let mut peer = broker.server.peer();
    declare(&mut peer, "q");
    publish_confirmed(&mut peer, "q", &["1", "2"]);
    peer.get(1, "q");
    peer.send(1, say::ack(1));
    peer.close();
    let mut peer = broker.again(End::Kill);
    peer.expect_contents(1, "q", &["2"]);
}

#[test]
fn an_ack_in_one_queue_leaves_the_copy_in_another() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    let mut peer = broker.server.peer();
    for name in ["one", "two"] {
        declare(&mut peer, name);
        peer.bind(1, name, "amq.fanout", "");
    }
    peer.select_confirms(1);
    for body in ["1", "2"] {
        peer.publish_content(1, say::publish("amq.fanout", ""), &Content::persistent(body));
    }
    peer.expect_confirms(1, 2);
    peer.get(1, "one");
    peer.send(1, say::ack(1));
    peer.qos(1, 0, false);
    let mut peer = broker.again(End::Kill);
    peer.expect_contents(1, "one", &["2"]);
    peer.expect_contents(1, "two", &["1", "2"]);
}
