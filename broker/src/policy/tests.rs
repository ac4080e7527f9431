//! Policies: parsed, matched and merged as section "Policies" of RabbitMQ's documentation has it.

use leveret_protocol::amq::{AMQPValue, FieldTable};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::queue::arguments::{Flags, Overflow, Settings};

fn policy(json: Value) -> Policy {
    Policy::parse(Kind::User, "p", &json).unwrap_or_else(|error| panic!("{error}"))
}

fn refused(kind: Kind, json: Value) -> String {
    Policy::parse(kind, "p", &json).expect_err("a bad policy").to_string()
}

/// The only problem of a policy with this definition.
fn bad(definition: Value) -> String {
    refused(Kind::User, json!({"pattern": "", "definition": definition}))
}

#[test]
fn a_policy_without_a_definition_is_refused() {
    assert_eq!(bad(json!({})), "no policy provided");
    assert_eq!(refused(Kind::User, json!({"pattern": "x"})), "Key \"definition\" not found in p");
    assert_eq!(bad(json!([1])), "definition must be a dictionary: [1]");
}

#[test]
fn unknown_keys_are_named() {
    assert_eq!(bad(json!({"foo": 1})), "[<<\"foo\">>] are not recognised policy settings");
    assert_eq!(bad(json!({"ha-mode": "all"})), "[<<\"ha-mode\">>] are not recognised policy settings");
}

#[test]
fn an_operator_policy_has_fewer_keys() {
    let dlx = json!({"pattern": "", "definition": {"dead-letter-exchange": "x"}});
    policy(dlx.clone());
    assert_eq!(refused(Kind::Operator, dlx), "[<<\"dead-letter-exchange\">>] are not recognised policy settings");
}

#[test]
fn a_pattern_must_be_there_and_compile() {
    assert_eq!(refused(Kind::User, json!({"definition": {"max-length": 1}})), "Key \"pattern\" not found in p");
    let text = refused(Kind::User, json!({"pattern": "(", "definition": {"max-length": 1}}));
    assert!(text.starts_with("pattern should be regular expression but is invalid: "), "{text}");
}

#[test]
fn apply_to_and_priority_are_checked() {
    let text = refused(Kind::User, json!({"pattern": "", "apply-to": "x", "definition": {"max-length": 1}}));
    assert_eq!(
        text,
        "apply-to 'x' unrecognised; should be one of: 'queues', 'classic_queues',  'quorum_queues', 'streams', \
         'exchanges', or 'all'"
    );
    let text = refused(Kind::User, json!({"pattern": "", "priority": "high", "definition": {"max-length": 1}}));
    assert_eq!(text, "priority should be a number, actually was <<\"high\">>");
}

#[test]
fn several_problems_are_joined_by_newlines() {
    let text = refused(Kind::User, json!({"priority": "1", "definition": {"foo": 1, "max-length": -1}}));
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        lines,
        [
            "priority should be a number, actually was <<\"1\">>",
            "-1 is not a valid maximum length",
            "[<<\"foo\">>] are not recognised policy settings",
            "Key \"pattern\" not found in p",
        ]
    );
}

#[test]
fn each_key_is_checked_and_named_by_its_noun() {
    let cases = [
        (json!({"message-ttl": -1}), "-1 is not a valid message TTL"),
        (json!({"message-ttl": "1"}), "<<\"1\">> is not a valid message TTL"),
        (json!({"message-ttl": 1.5}), "1.5 is not a valid message TTL"),
        (json!({"expires": 0}), "0 is not a valid queue expiry"),
        (json!({"max-length": true}), "true is not a valid maximum length"),
        (json!({"max-length-bytes": -5}), "-5 is not a valid maximum length in bytes"),
        (json!({"max-in-memory-bytes": -5}), "-5 is not a valid maximum memory in bytes"),
        (json!({"dead-letter-exchange": 1}), "1 is not a valid dead letter exchange name"),
        (json!({"dead-letter-routing-key": [1]}), "[1] is not a valid dead letter routing key"),
        (json!({"dead-letter-strategy": "x"}), "<<\"x\">> is not a valid dead letter strategy"),
        (json!({"alternate-exchange": {}}), "#{} is not a valid alternate exchange name"),
        (json!({"overflow": "x"}), "<<\"x\">> is not a valid overflow value"),
        (json!({"delivery-limit": "x"}), "<<\"x\">> is not a valid delivery limit"),
        (json!({"consumer-timeout": -1}), "-1 is not a valid consumer timeout"),
        (json!({"queue-mode": "x"}), "<<\"x\">> is not a valid queue-mode value"),
        (json!({"queue-version": 3}), "3 is not a valid queue-version value"),
        (json!({"max-age": "1y"}), "<<\"1y\">> is not a valid max age"),
        (json!({"stream-filter-size-bytes": 8}), "8 is not a valid filter size"),
        (json!({"queue-leader-locator": "x"}), "<<\"x\">> is not a valid queue leader locator value"),
        (json!({"initial-cluster-size": 0}), "0 is not a valid cluster size"),
    ];
    for (definition, text) in cases {
        assert_eq!(bad(definition), text);
    }
}

#[test]
fn every_key_of_rabbitmq_is_accepted() {
    let definition = json!({
        "message-ttl": 0, "expires": 1, "max-length": 0, "max-length-bytes": 0, "max-in-memory-length": 1,
        "max-in-memory-bytes": 1, "dead-letter-exchange": "", "dead-letter-routing-key": "k",
        "dead-letter-strategy": "at-least-once", "alternate-exchange": "ae", "overflow": "reject-publish-dlx",
        "delivery-limit": -1, "consumer-timeout": 0, "queue-mode": "lazy", "queue-version": 2, "max-age": "7D",
        "stream-max-segment-size-bytes": 1, "stream-filter-size-bytes": 16, "queue-leader-locator": "balanced",
        "initial-cluster-size": 3, "target-group-size": 3, "federation-upstream": "u", "federation-upstream-set": "all",
        "federation-upstream-pattern": ".*",
    });
    let json = json!({"pattern": "", "priority": 2, "apply-to": "queues", "definition": definition});
    assert_eq!(policy(json.clone()).to_json(), json);
}

fn policies(of: &[(Kind, &str, Value)]) -> Policies {
    let mut policies = Policies::default();
    for (kind, name, json) in of {
        policies.set(*kind, Policy::parse(*kind, name, json).unwrap_or_else(|error| panic!("{error}")));
    }
    policies
}

#[test]
fn of_several_matching_policies_the_one_with_the_highest_priority_applies_alone() {
    let policies = policies(&[
        (Kind::User, "low", json!({"pattern": "q", "priority": 1, "definition": {"max-length": 1, "expires": 5}})),
        (Kind::User, "high", json!({"pattern": "^q", "priority": 2, "definition": {"message-ttl": 7}})),
        (Kind::User, "other", json!({"pattern": "^z", "priority": 9, "definition": {"message-ttl": 1}})),
    ]);
    let found = policies.of(Object::ClassicQueue, "q1");
    assert_eq!(found.policy.as_deref(), Some("high"));
    assert_eq!(Value::Object(found.definition), json!({"message-ttl": 7}));
    assert_eq!(policies.of(Object::ClassicQueue, "aq").policy.as_deref(), Some("low"));
}

#[test]
fn apply_to_says_which_objects_a_policy_is_for() {
    use Object::{ClassicQueue, Exchange, QuorumQueue};
    let cases: [(&str, &[Object]); 6] = [
        ("all", &[Exchange, ClassicQueue, QuorumQueue]),
        ("queues", &[ClassicQueue, QuorumQueue]),
        ("exchanges", &[Exchange]),
        ("classic_queues", &[ClassicQueue]),
        ("quorum_queues", &[QuorumQueue]),
        ("streams", &[]),
    ];
    for (to, objects) in cases {
        let one = [(Kind::User, "p", json!({"pattern": "", "apply-to": to, "definition": {"max-length": 1}}))];
        for object in [Exchange, ClassicQueue, QuorumQueue] {
            let found = policies(&one).of(object, "x");
            assert_eq!(found.policy.is_some(), objects.contains(&object), "{to} and {object:?}");
        }
    }
}

#[test]
fn a_policy_with_a_key_that_the_queue_type_does_not_support_does_not_match_at_all() {
    let json = |priority: u8, definition: Value| json!({"pattern": "", "priority": priority, "definition": definition});
    let policies = policies(&[
        (Kind::User, "streams", json(9, json!({"max-age": "1D", "max-length": 1}))),
        (Kind::User, "quorum", json(8, json!({"delivery-limit": 3, "max-length": 2}))),
        (Kind::User, "classic", json(7, json!({"queue-mode": "lazy", "max-length": 3}))),
    ]);
    assert_eq!(policies.of(Object::QuorumQueue, "q").policy.as_deref(), Some("quorum"));
    assert_eq!(policies.of(Object::ClassicQueue, "q").policy.as_deref(), Some("classic"));
}

/// What the two definitions come to.
fn merged(user: Value, operator: Value) -> Value {
    Value::Object(merge::merged(user.as_object(), operator.as_object()))
}

#[test]
fn policy_and_operator_policy_are_joined_with_the_smaller_limit() {
    let user = json!({"max-length": 10, "message-ttl": 5, "dead-letter-exchange": "x", "overflow": "reject-publish"});
    let operator = json!({"max-length": 7, "message-ttl": 9, "expires": 3, "overflow": "drop-head"});
    assert_eq!(
        merged(user, operator),
        json!({"max-length": 7, "message-ttl": 5, "dead-letter-exchange": "x", "expires": 3, "overflow": "drop-head"})
    );
}

#[test]
fn of_two_delivery_limits_the_smaller_holds_unless_one_means_no_limit() {
    for (user, operator, both) in [(5, 3, 3), (3, 5, 3), (-1, 5, 5), (5, -1, 5), (-1, -2, -1), (0, 4, 0)] {
        let limit = |limit: i64| json!({"delivery-limit": limit});
        assert_eq!(merged(limit(user), limit(operator)), limit(both), "{user} and {operator}");
    }
}

fn table(entries: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert(crate::methods::short(name), value.clone());
    }
    table
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

/// The settings of a queue with these arguments under this policy.
fn under(arguments: &[(&str, AMQPValue)], policy: Value) -> Settings {
    let arguments = table(arguments);
    let flags = Flags { durable: true, exclusive: false, auto_delete: false };
    let declared = crate::queue::arguments::parse(&arguments, flags, "queue 'q' in vhost '/'")
        .unwrap_or_else(|error| panic!("{error:?}"));
    let Value::Object(policy) = policy else { panic!("no definition") };
    merge::settings(&declared, &arguments, &policy)
}

#[test]
fn of_policy_and_argument_the_smaller_limit_holds() {
    let policy = json!({"message-ttl": 10, "expires": 20, "max-length": 30, "max-length-bytes": 40});
    let alone = under(&[], policy.clone());
    assert_eq!(
        (alone.message_ttl, alone.expires, alone.max_length, alone.max_bytes),
        (Some(10), Some(20), Some(30), Some(40))
    );
    let small = [("x-message-ttl", AMQPValue::LongInt(1)), ("x-max-length", AMQPValue::LongInt(99))];
    let both = under(&small, policy);
    assert_eq!((both.message_ttl, both.max_length, both.expires), (Some(1), Some(30), Some(20)));
}

#[test]
fn of_policy_and_argument_the_argument_wins_for_dead_letters_and_overflow() {
    let policy = json!({"dead-letter-exchange": "p", "dead-letter-routing-key": "pk", "overflow": "reject-publish"});
    let by_policy = under(&[], policy.clone());
    let to = by_policy.dead_letter.expect("a dead-letter exchange");
    assert_eq!((&*to.exchange, to.key.as_deref()), (&b"p"[..], Some(&b"pk"[..])));
    assert_eq!(by_policy.overflow, Overflow::RejectPublish);
    let own = [("x-dead-letter-exchange", text("a")), ("x-overflow", text("drop-head"))];
    let both = under(&own, policy);
    let to = both.dead_letter.expect("a dead-letter exchange");
    assert_eq!((&*to.exchange, to.key.as_deref()), (&b"a"[..], Some(&b"pk"[..])), "the key is the policy's");
    assert_eq!(both.overflow, Overflow::DropHead);
}

#[test]
fn a_dead_letter_routing_key_alone_does_nothing() {
    assert_eq!(under(&[], json!({"dead-letter-routing-key": "k"})).dead_letter, None);
}

#[test]
fn of_two_delivery_limits_of_policy_and_argument_the_smaller_non_negative_holds() {
    let quorum = ("x-queue-type", text("quorum"));
    let limit = |limit: i32| ("x-delivery-limit", AMQPValue::LongInt(limit));
    let policy = |limit: i64| json!({"delivery-limit": limit});
    assert_eq!(under(std::slice::from_ref(&quorum), json!({})).delivery_limit, Some(20));
    assert_eq!(under(std::slice::from_ref(&quorum), policy(50)).delivery_limit, Some(50));
    assert_eq!(under(std::slice::from_ref(&quorum), policy(-1)).delivery_limit, None);
    assert_eq!(under(&[quorum.clone(), limit(5)], policy(3)).delivery_limit, Some(3));
    assert_eq!(under(&[quorum.clone(), limit(-1)], policy(3)).delivery_limit, Some(3));
    assert_eq!(under(&[quorum, limit(5)], policy(-1)).delivery_limit, Some(5));
}

proptest! {
    /// Whatever is merged, a limit is never looser than any of its sources, and there is none without a source.
    #[test]
    fn a_merged_limit_is_the_smallest_of_its_sources(
        user in proptest::option::of(0..1000i64),
        operator in proptest::option::of(0..1000i64),
        argument in proptest::option::of(0..1000i32),
    ) {
        let side = |limit: Option<i64>| limit.map(|limit| json!({"max-length": limit}));
        let (users, operators) = (side(user), side(operator));
        let of = |side: &Option<Value>| side.as_ref().and_then(Value::as_object).cloned();
        let policy = merge::merged(of(&users).as_ref(), of(&operators).as_ref());
        let arguments: Vec<_> = argument.map(|limit| ("x-max-length", AMQPValue::LongInt(limit))).into_iter().collect();
        let expected = [user, operator, argument.map(i64::from)].into_iter().flatten().min();
        prop_assert_eq!(under(&arguments, Value::Object(policy)).max_length, expected.map(|limit| limit as u64));
    }

    /// A policy that is written out and read back is the same one.
    #[test]
    fn a_policy_survives_being_stored(
        pattern in "[a-z.^$*]{0,8}", priority in -5..5i64, limit in 0..100u32, to in 0..6usize,
    ) {
        let json = json!({
            "pattern": pattern, "priority": priority, "apply-to": APPLY_TO[to].0, "definition": {"max-length": limit},
        });
        if let Ok(policy) = Policy::parse(Kind::User, "p", &json) {
            let back = Policy::parse(Kind::User, "p", &policy.to_json());
            prop_assert_eq!(back, Ok(policy));
        }
    }
}
