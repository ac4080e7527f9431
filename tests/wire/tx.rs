//! Transactions.

use amq_protocol::protocol::{AMQPClass, basic, connection, queue, tx};
use leveret_suite::durable::{Durable, End, declare};
use leveret_suite::{Content, Frame, Method, Peer, Server, differs_from_reference, peer::kind, say, unique};

/// A peer with channel 1 in transaction mode, channel 2 not, and a queue.
fn transactional() -> (Peer, String) {
    let mut peer = Server::start().peer();
    peer.open_channel(2);
    let queue = peer.queue(2, "tx");
    select(&mut peer);
    (peer, queue)
}

/// As [`transactional`], with messages in the queue of which channel 1 has fetched the first `held`.
fn holding(bodies: &[&str], held: usize) -> (Peer, String) {
    let (mut peer, queue) = transactional();
    peer.publish_all(2, &queue, bodies);
    peer.in_step(2);
    for body in &bodies[..held] {
        assert_eq!(peer.get(1, &queue).1.text(), *body);
    }
    (peer, queue)
}

fn select(peer: &mut Peer) {
    peer.ask::<tx::SelectOk>(1, tx::Select {});
}

fn commit(peer: &mut Peer) {
    peer.ask::<tx::CommitOk>(1, tx::Commit {});
}

fn rollback(peer: &mut Peer) {
    peer.ask::<tx::RollbackOk>(1, tx::Rollback {});
}

/// What a queue without consumers holds, each message with its redelivered flag.
fn expect_messages(peer: &mut Peer, queue: &str, expected: &[(&str, bool)]) {
    peer.expect_counts(2, queue, (expected.len() as u32, 0));
    let expected: Vec<(String, bool)> = expected.iter().map(|(body, again)| ((*body).to_owned(), *again)).collect();
    assert_eq!(peer.drain(2, queue), expected, "bodies and redelivered flags (left: are, right: expected)");
}

// Modes

#[test]
fn a_repeated_select_keeps_the_open_transaction() {
    let (mut peer, queue) = transactional();
    peer.publish(1, "", &queue, "1");
    select(&mut peer);
    peer.publish(1, "", &queue, "2");
    commit(&mut peer);
    peer.expect_contents(2, &queue, &["1", "2"]);
}

#[test]
fn commit_and_rollback_without_select_are_406() {
    let text = "PRECONDITION_FAILED - channel is not transactional";
    Server::start().peer().refused(1, tx::Commit {}, 406, text);
    Server::start().peer().refused(1, tx::Rollback {}, 406, text);
}

#[test]
fn confirms_and_transactions_exclude_each_other() {
    let mut peer = Server::start().peer();
    select(&mut peer);
    peer.refused(1, say::confirm(), 406, "PRECONDITION_FAILED - cannot switch from tx to confirm mode");
    let mut peer = Server::start().peer();
    peer.select_confirms(1);
    peer.refused(1, tx::Select {}, 406, "PRECONDITION_FAILED - cannot switch from confirm to tx mode");
}

// Publishing

#[test]
fn queues_see_nothing_of_a_publish_before_commit() {
    let (mut peer, queue) = transactional();
    peer.publish_all(1, &queue, &["1", "2"]);
    peer.in_step(1);
    peer.expect_counts(2, &queue, (0, 0));
    commit(&mut peer);
    peer.expect_contents(2, &queue, &["1", "2"]);
}

#[test]
fn the_next_transaction_starts_with_the_commit() {
    let (mut peer, queue) = transactional();
    peer.publish(1, "", &queue, "1");
    commit(&mut peer);
    peer.publish(1, "", &queue, "2");
    peer.in_step(1);
    peer.expect_counts(2, &queue, (1, 0));
    commit(&mut peer);
    peer.expect_contents(2, &queue, &["1", "2"]);
}

#[test]
fn an_empty_commit_and_an_empty_rollback_are_answered() {
    let (mut peer, _) = transactional();
    commit(&mut peer);
    rollback(&mut peer);
    commit(&mut peer);
}

#[test]
fn publishes_keep_their_order_across_queues_sizes_and_transactions() {
    let (mut peer, queue) = transactional();
    let other = peer.queue(2, "tx-other");
    let mut expected = Vec::new();
    for (number, size) in [10, 300_000, 0, 700_000, 20, 20, 200_000].into_iter().enumerate() {
        let body = format!("{number}{}", "x".repeat(size));
        let content = if number % 2 == 0 { Content::new(&body) } else { Content::persistent(&body) };
        peer.publish_content(1, say::publish("", &queue), &content);
        peer.publish(1, "", &other, number.to_string());
        expected.push(body);
        if number == 3 {
            commit(&mut peer);
        }
    }
    commit(&mut peer);
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    peer.expect_contents(2, &queue, &expected);
    peer.expect_contents(2, &other, &["0", "1", "2", "3", "4", "5", "6"]);
}

#[test]
fn the_checks_of_a_publish_are_made_at_once() {
    let (mut peer, _) = transactional();
    let missing = unique("missing");
    peer.publish(1, &missing, "", "x");
    let text = format!("NOT_FOUND - no exchange '{missing}' in vhost '/'");
    peer.expect_channel_close(1, 404, &text, (60, 40));
}

#[test]
fn a_message_is_routed_when_it_is_published() {
    if differs_from_reference("a_message_is_routed_when_it_is_published") {
        return;
    }
    let (mut peer, queue) = transactional();
    peer.bind(2, &queue, "amq.direct", &queue);
    peer.publish(1, "amq.direct", &queue, "1");
    peer.in_step(1);
    peer.ask::<queue::UnbindOk>(2, say::unbind(&queue, "amq.direct", &queue));
    commit(&mut peer);
    peer.expect_contents(2, &queue, &["1"]);
}

#[test]
fn a_queue_that_is_gone_at_commit_is_no_error() {
    let (mut peer, queue) = transactional();
    peer.publish_content(1, say::publish_mandatory("", &queue), &Content::persistent("1"));
    peer.in_step(1);
    peer.ask::<queue::DeleteOk>(2, say::delete(&queue));
    peer.send(1, tx::Commit {});
    // RabbitMQ before 3.13 routes at commit, and returns it.
    if Server::is_given() {
        peer.expect_return(1);
    }
    peer.expect::<tx::CommitOk>(1);
}

#[test]
fn mandatory_messages_are_returned_at_commit_before_commit_ok() {
    let (mut peer, queue) = transactional();
    let nowhere = unique("nowhere");
    peer.publish_content(1, say::publish_mandatory("", &nowhere), &Content::new("lost"));
    peer.publish(1, "", &queue, "arrived");
    peer.publish_content(1, say::publish_mandatory("", &nowhere), &Content::persistent("lost too"));
    // Nothing comes before its answer.
    peer.in_step(1);
    peer.send(1, tx::Commit {});
    for content in [Content::new("lost"), Content::persistent("lost too")] {
        let (method, returned) = peer.expect_return(1);
        assert_eq!((method.reply_code, method.routing_key.as_str()), (312, nowhere.as_str()));
        assert_eq!(returned, content);
    }
    peer.expect::<tx::CommitOk>(1);
    peer.expect_contents(2, &queue, &["arrived"]);
}

#[test]
fn rollback_drops_publishes_and_returns_nothing() {
    let (mut peer, queue) = transactional();
    peer.publish(1, "", &queue, "1");
    peer.publish_content(1, say::publish_mandatory("", &unique("nowhere")), &Content::new("x"));
    rollback(&mut peer);
    commit(&mut peer);
    peer.expect_counts(2, &queue, (0, 0));
}

#[test]
fn a_refused_publish_fails_the_commit() {
    let (mut peer, _) = transactional();
    let name = unique("full");
    let arguments = leveret_suite::Octets::new().entry("x-max-length", b'I', [0, 0, 0, 1]);
    let declare = leveret_suite::Octets::method(50, 10).u16(0).shortstr(&name).u8(0);
    let arguments = arguments.entry_str("x-overflow", "reject-publish");
    peer.send_payload(2, declare.longstr(arguments));
    peer.expect::<queue::DeclareOk>(2);
    peer.publish_all(1, &name, &["1", "2"]);
    peer.send(1, tx::Commit {});
    peer.expect_channel_close(1, 406, "PRECONDITION_FAILED - partial tx completion", (90, 20));
    peer.expect_contents(2, &name, &["1"]);
}

// Settling

#[test]
fn a_tag_settled_twice_in_a_transaction_is_406_at_once() {
    let text = "PRECONDITION_FAILED - unknown delivery tag 1";
    let (mut peer, _) = holding(&["1"], 1);
    peer.send(1, say::ack(1));
    peer.refused(1, say::ack(1), 406, text);
    let (mut peer, _) = holding(&["1"], 1);
    peer.send(1, say::nack(1, true));
    peer.refused(1, say::reject(1, false), 406, text);
}

#[test]
fn an_ack_has_its_effect_at_commit() {
    let (mut peer, queue) = holding(&["1", "2"], 2);
    peer.send(1, say::ack(1));
    commit(&mut peer);
    peer.send(1, say::ack(2));
    peer.close_channel(1);
    expect_messages(&mut peer, &queue, &[("2", true)]);
}

#[test]
fn a_requeue_has_its_effect_at_commit() {
    let (mut peer, queue) = holding(&["1", "2", "3"], 2);
    peer.send(1, say::nack_until(2, true));
    peer.in_step(1);
    peer.expect_counts(2, &queue, (1, 0));
    commit(&mut peer);
    expect_messages(&mut peer, &queue, &[("1", true), ("2", true), ("3", false)]);
}

#[test]
fn a_reject_has_its_effect_at_commit() {
    let (mut peer, queue) = holding(&["1", "2"], 1);
    peer.send(1, say::reject(1, false));
    commit(&mut peer);
    peer.close_channel(1);
    expect_messages(&mut peer, &queue, &[("2", false)]);
}

#[test]
fn rollback_makes_settled_tags_outstanding_again_and_redelivers_nothing() {
    let (mut peer, queue) = holding(&["1", "2", "3", "4"], 4);
    for settle in [say::nack(3, true), say::nack(1, true)] {
        peer.send(1, settle);
    }
    peer.send(1, say::ack(2));
    rollback(&mut peer);
    peer.expect_counts(2, &queue, (0, 0));
    // In the order of their tags: all up to the second.
    peer.send(1, say::ack_until(2));
    commit(&mut peer);
    peer.refused(1, say::ack(1), 406, "PRECONDITION_FAILED - unknown delivery tag 1");
    expect_messages(&mut peer, &queue, &[("3", true), ("4", true)]);
}

#[test]
fn recover_leaves_out_what_a_transaction_has_settled() {
    let (mut peer, queue) = holding(&["1", "2"], 2);
    peer.send(1, say::ack(1));
    peer.ask::<basic::RecoverOk>(1, say::recover(true));
    expect_messages(&mut peer, &queue, &[("2", true)]);
    commit(&mut peer);
    peer.close_channel(1);
    expect_messages(&mut peer, &queue, &[]);
}

#[test]
fn acks_free_prefetch_only_at_commit() {
    for global in [false, true] {
        let (mut peer, queue) = transactional();
        peer.qos(1, 1, global);
        peer.consume(1, &queue, "c");
        peer.publish_all(2, &queue, &["1", "2"]);
        peer.expect_deliveries(1, &["1"]);
        peer.send(1, say::ack(1));
        peer.expect_no_delivery(1, &queue);
        commit(&mut peer);
        peer.expect_deliveries(1, &["2"]);
    }
}

#[test]
fn deliveries_are_no_part_of_the_transaction() {
    let (mut peer, queue) = transactional();
    peer.consume(1, &queue, "c");
    peer.publish(2, "", &queue, "1");
    peer.expect_deliveries(1, &["1"]);
    peer.publish(1, "", &queue, "2");
    peer.send(1, say::ack(1));
    rollback(&mut peer);
    peer.cancel(1, "c");
    peer.send(1, say::nack(1, true));
    peer.publish(1, "", &queue, "3");
    commit(&mut peer);
    expect_messages(&mut peer, &queue, &[("1", true), ("3", false)]);
}

// Ends

#[test]
fn closing_the_channel_rolls_back() {
    let (mut peer, queue) = holding(&["1", "2"], 2);
    peer.send(1, say::ack(1));
    peer.publish(1, "", &queue, "never");
    peer.close_channel(1);
    expect_messages(&mut peer, &queue, &[("1", true), ("2", true)]);
}

#[test]
fn an_error_of_the_channel_rolls_back() {
    let (mut peer, queue) = holding(&["1"], 1);
    peer.send(1, say::ack(1));
    peer.publish(1, "", &queue, "never");
    peer.refused(1, say::ack(7), 406, "PRECONDITION_FAILED - unknown delivery tag 7");
    expect_messages(&mut peer, &queue, &[("1", true)]);
}

#[test]
fn the_end_of_the_connection_rolls_back() {
    let mut other = Server::start().peer();
    other.open_channel(2);
    let (mut peer, queue) = holding(&["1"], 1);
    peer.send(1, say::ack(1));
    peer.publish(1, "", &queue, "never");
    peer.in_step(1);
    peer.close();
    expect_messages(&mut other, &queue, &[("1", true)]);
}

#[test]
fn a_transaction_above_half_of_the_memory_limit_is_406_and_let_go() {
    if Server::is_given() {
        return;
    }
    let server = Server::start_with(&["--storage", "memory", "--memory-limit", "16MB"]);
    let mut peer = server.peer();
    select(&mut peer);
    let queue = peer.queue(1, "small");
    for _ in 0..9 {
        peer.publish(1, "", &queue, vec![0; 1_000_000]);
    }
    let text = "PRECONDITION_FAILED - transaction exceeds half of the memory limit";
    peer.expect_channel_close(1, 406, text, (60, 40));
    peer.open_channel(1);
    peer.expect_counts(1, &queue, (0, 0));
    peer.publish(1, "", &queue, "small");
    peer.take(1, &queue, "small");
}

// On disk

#[test]
fn commit_ok_means_that_publishes_and_acks_survive_a_kill() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    let mut peer = broker.server.peer();
    for queue in ["from", "to", "also"] {
        declare(&mut peer, queue);
    }
    peer.select_confirms(1);
    for body in ["1", "2"] {
        peer.publish_content(1, say::publish("", "from"), &Content::persistent(body));
    }
    peer.expect_confirms(1, 2);
    peer.close_channel(1);
    peer.open_channel(1);
    select(&mut peer);
    peer.get(1, "from");
    peer.send(1, say::ack(1));
    for queue in ["to", "also", "to"] {
        peer.publish_content(1, say::publish("", queue), &Content::persistent("kept"));
    }
    commit(&mut peer);
    // Never committed.
    peer.publish_content(1, say::publish("", "to"), &Content::persistent("lost"));
    peer.get(1, "from");
    peer.send(1, say::ack(2));
    peer.in_step(1);
    let mut peer = broker.again(End::Kill);
    peer.expect_contents(1, "from", &["2"]);
    peer.expect_contents(1, "to", &["kept", "kept"]);
    peer.expect_contents(1, "also", &["kept"]);
}

#[test]
fn what_comes_while_a_commit_is_pending_is_504() {
    let Some(broker) = Durable::start() else {
        return;
    };
    let mut octets = Frame::new(kind::METHOD, 1, tx::Commit {}.payload()).octets();
    octets.extend(Frame::new(kind::METHOD, 1, say::declare_passive("q").payload()).octets());
    let text = "CHANNEL_ERROR - unexpected command while processing 'tx.commit'";
    // A commit that is over before the broker looks at the next method is nothing to complain of: then try again.
    for _ in 0..50 {
        let mut peer = broker.server.peer();
        declare(&mut peer, "q");
        select(&mut peer);
        peer.publish_content(1, say::publish("", "q"), &Content::persistent("x"));
        peer.send_octets(&octets);
        match peer.frame().method() {
            Some(AMQPClass::Connection(connection::AMQPMethod::Close(close))) => {
                assert_eq!((close.reply_code, close.reply_text.as_str()), (504, text));
                assert_eq!((close.class_id, close.method_id), (50, 10));
                return;
            }
            Some(AMQPClass::Tx(tx::AMQPMethod::CommitOk(_))) => {}
            other => panic!("expected a close or commit-ok, came {other:?}"),
        }
    }
    panic!("no commit was pending when the next method came");
}
