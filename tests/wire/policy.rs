//! Policies and operator policies: what they do to queues and exchanges, when they are declared and when a policy
//! changes.

use std::time::{Duration, Instant};

use amq_protocol::protocol::{basic, exchange, queue};
use amq_protocol::types::AMQPValue;
use leveret::serde_json::json;
use leveret_suite::values::{int, table, text};
use leveret_suite::{Peer, say};

use crate::own::Own;

fn declare(peer: &mut Peer, name: &str, arguments: &[(&str, AMQPValue)]) {
    let arguments = table(arguments);
    peer.ask::<queue::DeclareOk>(1, say::declare_with(name, |declare| declare.arguments = arguments));
}

#[test]
fn a_policy_applies_to_queues_that_match_when_they_are_declared() {
    let own = Own::start();
    own.policy("two", json!({"pattern": "^short\\.", "definition": {"max-length": 2}}));
    let mut peer = own.peer();
    declare(&mut peer, "short.1", &[]);
    declare(&mut peer, "long", &[]);
    peer.publish_all(1, "short.1", &["a", "b", "c"]);
    peer.publish_all(1, "long", &["a", "b", "c"]);
    peer.expect_contents(1, "short.1", &["b", "c"]);
    peer.expect_contents(1, "long", &["a", "b", "c"]);
}

#[test]
fn a_new_length_limit_drops_and_dead_letters_the_surplus_at_once() {
    let own = Own::start();
    let mut peer = own.peer();
    declare(&mut peer, "grave", &[]);
    declare(&mut peer, "q", &[("x-dead-letter-exchange", text("")), ("x-dead-letter-routing-key", text("grave"))]);
    peer.publish_all(1, "q", &["a", "b", "c"]);
    peer.expect_counts(1, "q", (3, 0));
    own.policy("two", json!({"pattern": "^q$", "definition": {"max-length": 2}}));
    peer.wait_for_count(1, "grave", 1);
    peer.expect_contents(1, "grave", &["a"]);
    peer.expect_contents(1, "q", &["b", "c"]);
}

#[test]
fn a_new_limit_in_bytes_counts_what_is_there() {
    let own = Own::start();
    let mut peer = own.peer();
    declare(&mut peer, "q", &[]);
    peer.publish_all(1, "q", &["12345", "1234", "123"]);
    peer.expect_counts(1, "q", (3, 0));
    own.policy("bytes", json!({"pattern": "^q$", "definition": {"max-length-bytes": 7}}));
    peer.expect_contents(1, "q", &["1234", "123"]);
}

#[test]
fn policies_never_take_part_in_declare_equivalence() {
    let own = Own::start();
    own.policy("all", json!({"pattern": "", "apply-to": "queues", "definition": {"max-length": 5, "message-ttl": 1}}));
    let mut peer = own.peer();
    declare(&mut peer, "q", &[("x-max-length", int(7))]);
    declare(&mut peer, "q", &[("x-max-length", int(7))]);
    let declare = say::declare_with("q", |declare| declare.arguments = table(&[("x-max-length", int(5))]));
    let reason = "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'q' in vhost '/': received '5' but \
                  current is '7'";
    peer.refused(1, declare, 406, reason);
}

#[test]
fn of_policy_operator_policy_and_argument_the_smallest_limit_holds() {
    let own = Own::start();
    own.policy("users", json!({"pattern": "", "apply-to": "queues", "definition": {"max-length": 3}}));
    let mut peer = own.peer();
    declare(&mut peer, "by-argument", &[("x-max-length", int(1))]);
    declare(&mut peer, "by-operator", &[("x-max-length", int(5))]);
    own.operator_policy("operators", json!({"pattern": "", "apply-to": "queues", "definition": {"max-length": 2}}));
    for (queue, ready) in [("by-argument", 1), ("by-operator", 2)] {
        peer.publish_all(1, queue, &["a", "b", "c", "d"]);
        peer.expect_counts(1, queue, (ready, 0));
    }
}

#[test]
fn a_policy_that_is_removed_leaves_the_arguments() {
    let own = Own::start();
    own.policy("one", json!({"pattern": "", "apply-to": "queues", "definition": {"max-length": 1}}));
    let mut peer = own.peer();
    declare(&mut peer, "free", &[]);
    declare(&mut peer, "two", &[("x-max-length", int(2))]);
    own.clear_policy("one");
    for (queue, ready) in [("free", 3), ("two", 2)] {
        peer.publish_all(1, queue, &["a", "b", "c"]);
        peer.expect_counts(1, queue, (ready, 0));
    }
}

#[test]
fn of_two_matching_policies_the_higher_priority_applies_alone() {
    let own = Own::start();
    let policy = |priority: u8, limit: u8| json!({"pattern": "", "apply-to": "queues", "priority": priority, "definition": {"max-length": limit}});
    own.policy("strict", policy(1, 1));
    own.policy("mild", policy(2, 3));
    let mut peer = own.peer();
    declare(&mut peer, "q", &[]);
    peer.publish_all(1, "q", &["a", "b", "c", "d"]);
    peer.expect_counts(1, "q", (3, 0));
    own.clear_policy("mild");
    peer.expect_counts(1, "q", (1, 0));
}

#[test]
fn a_policy_with_a_key_that_classic_queues_do_not_support_leaves_them_to_the_next() {
    let own = Own::start();
    let definition = json!({"delivery-limit": 3, "max-length": 1});
    own.policy("quorum", json!({"pattern": "", "apply-to": "queues", "priority": 9, "definition": definition}));
    own.policy("any", json!({"pattern": "", "apply-to": "queues", "definition": {"max-length": 2}}));
    let mut peer = own.peer();
    declare(&mut peer, "q", &[]);
    peer.publish_all(1, "q", &["a", "b", "c"]);
    peer.expect_counts(1, "q", (2, 0));
}

#[test]
fn a_policy_of_another_virtual_host_does_not_apply() {
    let own = Own::start();
    own.vhost("other", Default::default());
    let one = json!({"pattern": "", "definition": {"max-length": 1}});
    own.runtime.block_on(own.broker.set_policy("other", "one", &one)).expect("a policy");
    let mut peer = own.peer();
    declare(&mut peer, "q", &[]);
    peer.publish_all(1, "q", &["a", "b"]);
    peer.expect_counts(1, "q", (2, 0));
}

#[test]
fn a_new_message_ttl_is_for_messages_that_arrive_from_now_on() {
    let own = Own::start();
    let mut peer = own.peer();
    declare(&mut peer, "q", &[]);
    declare(&mut peer, "young", &[]);
    peer.publish_all(1, "q", &["old"]);
    peer.expect_counts(1, "q", (1, 0));
    own.policy("ttl", json!({"pattern": "", "apply-to": "queues", "definition": {"message-ttl": 50}}));
    peer.publish_all(1, "young", &["new"]);
    peer.expect_counts(1, "young", (1, 0));
    peer.wait_for_count(1, "young", 0);
    peer.expect_counts(1, "q", (1, 0));
}

#[test]
fn a_new_lease_ends_a_queue_that_nobody_uses() {
    let own = Own::start();
    let mut peer = own.peer();
    declare(&mut peer, "q", &[]);
    let set = Instant::now();
    own.policy("lease", json!({"pattern": "^q$", "definition": {"expires": 200}}));
    // A declaration would renew it: publishing with mandatory does not.
    loop {
        peer.publish_content(1, say::publish_mandatory("", "q"), &leveret_suite::Content::new("x"));
        peer.send(1, amq_protocol::protocol::channel::Flow { active: true });
        match peer.frame().method() {
            Some(amq_protocol::protocol::AMQPClass::Channel(_)) => {}
            _ => break,
        }
        assert!(set.elapsed() < Duration::from_secs(10), "the queue is still there");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(set.elapsed() >= Duration::from_millis(195), "{:?}", set.elapsed());
}

#[test]
fn a_dead_letter_exchange_by_policy_is_used_for_the_next_dead_letter() {
    let own = Own::start();
    let mut peer = own.peer();
    for queue in ["q", "grave", "own-grave"] {
        declare(&mut peer, queue, &[]);
    }
    let dlx = [("x-dead-letter-exchange", text("")), ("x-dead-letter-routing-key", text("own-grave"))];
    declare(&mut peer, "with-argument", &dlx);
    peer.publish_all(1, "q", &["before", "after"]);
    let (got, _) = peer.get(1, "q");
    peer.send(1, say::reject(got.delivery_tag, false));
    peer.expect_counts(1, "q", (1, 0));
    let definition = json!({"dead-letter-exchange": "", "dead-letter-routing-key": "grave"});
    own.policy("dlx", json!({"pattern": "^(q|with-argument)$", "definition": definition}));
    peer.publish_all(1, "with-argument", &["argument"]);
    for queue in ["q", "with-argument"] {
        let (got, _) = peer.get(1, queue);
        peer.send(1, say::reject(got.delivery_tag, false));
    }
    peer.wait_for_count(1, "grave", 1);
    peer.expect_contents(1, "grave", &["after"]);
    peer.wait_for_count(1, "own-grave", 1);
    peer.expect_contents(1, "own-grave", &["argument"]);
}

#[test]
fn overflow_by_policy_refuses_from_the_next_publish_on_and_no_longer_when_it_is_removed() {
    let own = Own::start();
    let mut peer = own.peer();
    declare(&mut peer, "q", &[("x-max-length", int(1))]);
    peer.select_confirms(1);
    peer.publish(1, "", "q", "first");
    peer.expect_confirms(1, 1);
    own.policy("full", json!({"pattern": "^q$", "definition": {"overflow": "reject-publish"}}));
    peer.publish(1, "", "q", "refused");
    let nack: basic::Nack = peer.expect(1);
    assert_eq!(nack.delivery_tag, 2);
    own.clear_policy("full");
    peer.publish(1, "", "q", "last");
    let ack: basic::Ack = peer.expect(1);
    assert_eq!(ack.delivery_tag, 3);
    peer.expect_contents(1, "q", &["last"]);
}

#[test]
fn the_arguments_overflow_wins_over_the_policys() {
    let own = Own::start();
    own.policy("full", json!({"pattern": "^q$", "definition": {"overflow": "reject-publish"}}));
    let mut peer = own.peer();
    declare(&mut peer, "q", &[("x-max-length", int(1)), ("x-overflow", text("drop-head"))]);
    peer.publish_all(1, "q", &["first", "last"]);
    peer.expect_contents(1, "q", &["last"]);
}

#[test]
fn an_alternate_exchange_by_policy_gets_the_next_unroutable_message_unless_an_argument_names_another() {
    let own = Own::start();
    let mut peer = own.peer();
    peer.ask::<exchange::DeclareOk>(1, say::exchange("by-policy", "fanout"));
    peer.ask::<exchange::DeclareOk>(1, say::exchange("by-argument", "fanout"));
    declare(&mut peer, "policys", &[]);
    declare(&mut peer, "arguments", &[]);
    peer.bind(1, "policys", "by-policy", "");
    peer.bind(1, "arguments", "by-argument", "");
    peer.ask::<exchange::DeclareOk>(1, say::exchange("x.plain", "direct"));
    let with_argument = say::exchange_with("x.own", "direct", |declare| {
        declare.arguments = table(&[("alternate-exchange", text("by-argument"))]);
    });
    peer.ask::<exchange::DeclareOk>(1, with_argument.clone());
    peer.publish(1, "x.plain", "k", "nowhere");
    peer.in_step(1);
    own.policy(
        "ae",
        json!({"pattern": "^x\\.", "apply-to": "exchanges", "definition": {"alternate-exchange": "by-policy"}}),
    );
    peer.publish(1, "x.plain", "k", "somewhere");
    peer.publish(1, "x.own", "k", "elsewhere");
    peer.expect_contents(1, "policys", &["somewhere"]);
    peer.expect_contents(1, "arguments", &["elsewhere"]);
    // Neither takes part in equivalence.
    peer.ask::<exchange::DeclareOk>(1, say::exchange("x.plain", "direct"));
    peer.ask::<exchange::DeclareOk>(1, with_argument);
    own.clear_policy("ae");
    peer.publish(1, "x.plain", "k", "nowhere again");
    peer.expect_contents(1, "policys", &[]);
}

#[test]
fn a_delivery_limit_by_policy_is_for_quorum_queues() {
    let own = Own::start();
    own.policy("poison", json!({"pattern": "", "apply-to": "queues", "definition": {"delivery-limit": 1}}));
    let mut peer = own.peer();
    let quorum = say::declare_with("q", |declare| {
        declare.durable = true;
        declare.arguments = table(&[("x-queue-type", text("quorum"))]);
    });
    peer.ask::<queue::DeclareOk>(1, quorum);
    declare(&mut peer, "classic", &[]);
    for (queue, left) in [("q", 0), ("classic", 1)] {
        peer.publish_all(1, queue, &["poison"]);
        for _ in 0..2 {
            let (got, _) = peer.get(1, queue);
            peer.send(1, say::nack(got.delivery_tag, true));
        }
        peer.expect_counts(1, queue, (left, 0));
    }
}

#[test]
fn a_consumer_timeout_by_policy_closes_the_channel_of_a_delivery_that_waits_for_too_long() {
    let own = Own::start_with(|config| config.channel_tick_interval = 50);
    let mut peer = own.peer();
    declare(&mut peer, "q", &[]);
    peer.publish_all(1, "q", &["a"]);
    peer.get(1, "q");
    own.policy("timeout", json!({"pattern": "^q$", "definition": {"consumer-timeout": 100}}));
    peer.expect_delivery_timeout(1, 100);
}

#[test]
fn a_bad_policy_is_refused_with_rabbitmqs_words_and_changes_nothing() {
    let own = Own::start();
    let bad = json!({"pattern": "", "definition": {"foo": 1}});
    let error = own.runtime.block_on(own.broker.set_policy("/", "p", &bad)).expect_err("a bad policy");
    assert_eq!(error.to_string(), "[<<\"foo\">>] are not recognised policy settings");
    let error = own.runtime.block_on(own.broker.clear_policy("/", "p")).expect_err("no policy");
    assert_eq!(error.to_string(), "Policy 'p' does not exist");
    assert!(own.broker.policies().is_empty());
}
