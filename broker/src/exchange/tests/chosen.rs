//! The types that choose one destination of several: by hash or by chance.

use std::collections::HashMap;

use leveret_protocol::table::Table;
use proptest::prelude::*;

use super::*;
use crate::exchange::{ArgumentError, BindingError, history_length};

fn consistent(arguments: &[(&str, AMQPValue)]) -> Small {
    Router::declared(ExchangeType::ConsistentHash, &table(arguments)).expect("valid arguments")
}

/// Destinations `0..weights.len()` with these weights.
fn weighted(weights: &[&str]) -> Small {
    let mut router = consistent(&[]);
    for (to, weight) in (0..).zip(weights) {
        assert!(router.bind(weight.as_bytes(), &none(), to));
    }
    router
}

/// Where each of `count` keys goes.
fn choices(router: &Small, count: usize) -> Vec<u32> {
    (0..count)
        .map(|n| match *by_key(router, &format!("order-{n}")) {
            [one] => one,
            ref others => panic!("one destination per message, not {others:?}"),
        })
        .collect()
}

fn counts(choices: &[u32]) -> HashMap<u32, usize> {
    let mut counts = HashMap::new();
    choices.iter().for_each(|to| *counts.entry(*to).or_default() += 1);
    counts
}

/// `found` of `all` lie within a tenth of the expected share.
fn assert_share(counts: &HashMap<u32, usize>, to: u32, share: f64, all: usize) {
    let found = counts.get(&to).copied().unwrap_or(0) as f64;
    let expected = share * all as f64;
    assert!((found - expected).abs() < expected / 10.0, "{to} has {found} of {all}, expected {expected}");
}

fn refused(kind: ExchangeType, arguments: &[(&str, AMQPValue)]) -> String {
    match Small::declared(kind, &table(arguments)) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("{arguments:?} are accepted"),
    }
}

fn refused_key(kind: ExchangeType, key: &[u8]) -> String {
    match Small::validate(kind, key, &none()) {
        Err(error) => error.to_string(),
        Ok(()) => panic!("{key:?} is accepted"),
    }
}

#[test]
fn a_consistent_hash_spreads_by_weight() {
    let router = weighted(&["1", "2", "1", "4"]);
    let counts = counts(&choices(&router, 20_000));
    for (to, share) in [(0, 0.125), (1, 0.25), (2, 0.125), (3, 0.5)] {
        assert_share(&counts, to, share, 20_000);
    }
}

#[test]
fn a_consistent_hash_is_the_same_whatever_the_order_of_the_bindings() {
    let forwards = weighted(&["1", "2", "3"]);
    let mut backwards = consistent(&[]);
    for (to, weight) in [(2, "3"), (1, "2"), (0, "1")] {
        backwards.bind(weight.as_bytes(), &none(), to);
    }
    assert_eq!(choices(&forwards, 500), choices(&backwards, 500));
}

#[test]
fn a_hash_is_the_same_in_every_run() {
    let router = weighted(&["1", "1", "1", "1"]);
    assert_eq!(choices(&router, 16), AS_EVER);
}

/// Found once. Another sequence means that every user's keys move to other queues with an upgrade.
const AS_EVER: [u32; 16] = [3, 1, 2, 2, 1, 1, 0, 0, 0, 1, 0, 2, 2, 0, 0, 1];

#[test]
fn a_new_destination_takes_its_share_and_moves_nothing_else() {
    let mut router = weighted(&["1", "1", "1"]);
    let before = choices(&router, 10_000);
    router.bind(b"1", &none(), 3);
    let after = choices(&router, 10_000);
    let moved = before.iter().zip(&after).filter(|(a, b)| a != b);
    assert!(moved.clone().all(|(_, now)| *now == 3));
    assert_share(&counts(&after), 3, 0.25, 10_000);

    router.unbind(b"1", &none(), &3);
    assert_eq!(choices(&router, 10_000), before);
}

#[test]
fn only_the_first_binding_per_destination_counts() {
    let mut router = weighted(&["1", "1"]);
    let before = choices(&router, 2_000);
    assert!(router.bind(b"100", &none(), 0));
    assert_eq!(choices(&router, 2_000), before);
    // The next one is the first then.
    assert!(router.unbind(b"1", &none(), &0));
    assert_share(&counts(&choices(&router, 2_000)), 0, 0.99, 2_000);
    assert!(router.unbind(b"100", &none(), &0));
    assert_eq!(counts(&choices(&router, 100)), HashMap::from([(1, 100)]));
}

#[test]
fn a_huge_weight_costs_nothing() {
    let router = weighted(&["1", &"9".repeat(255)]);
    assert_eq!(counts(&choices(&router, 100)), HashMap::from([(1, 100)]));
}

#[test]
fn further_keys_do_not_move_a_consistent_hash() {
    let router = weighted(&["1", "1", "1", "1"]);
    for n in 0..100 {
        let key = format!("order-{n}");
        let mut found = Vec::new();
        let keys = [key.as_bytes(), b"copy"];
        router.route(&keys, &with(None), &mut |to| found.push(*to));
        assert_eq!(found, by_key(&router, &key));
    }
}

#[test]
fn hash_header_hashes_the_header_instead_of_the_key() {
    let mut router = consistent(&[("hash-header", text("customer"))]);
    (0..8).for_each(|to| assert!(router.bind(b"1", &none(), to)));
    let of = |key: &str, customer: i32| {
        let headers = raw(&table(&[("customer", AMQPValue::LongInt(customer))]));
        let headers = Table::parse(&headers).expect("a table");
        routed(&router, key.as_bytes(), Some(headers))
    };
    assert!((0..50).all(|n| of("a", n) == of("b", n) && of("a", n).len() == 1));
    assert!((1..50).any(|n| of("a", n) != of("a", 0)));
    assert!(router.beyond_keys());
}

#[test]
fn messages_without_the_header_have_one_destination() {
    let mut router = consistent(&[("hash-header", text("customer"))]);
    (0..8).for_each(|to| assert!(router.bind(b"1", &none(), to)));
    let counts = counts(&choices(&router, 50));
    assert_eq!(counts.len(), 1);
}

#[test]
fn hash_property_hashes_one_of_three_properties() {
    let properties = |n: u64, id: &'static [u8]| Properties {
        message_id: Some(id),
        correlation_id: Some(id),
        timestamp: Some(n),
        ..Default::default()
    };
    for property in ["message_id", "correlation_id", "timestamp"] {
        let mut router = consistent(&[("hash-property", text(property))]);
        (0..8).for_each(|to| assert!(router.bind(b"1", &none(), to)));
        let of = |key: &[u8], properties: &Properties<'_>| {
            let mut found = Vec::new();
            router.route(&[key], properties, &mut |to| found.push(*to));
            found
        };
        let ids: [&'static [u8]; 8] = [b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"8"];
        let all: Vec<_> = (0..).zip(ids).map(|(n, id)| properties(n, id)).collect();
        assert!(all.iter().all(|p| of(b"a", p) == of(b"b", p) && of(b"a", p).len() == 1));
        assert!(all.iter().any(|p| of(b"a", p) != of(b"a", &all[0])), "{property}");
    }
}

#[test]
fn a_weight_is_a_whole_number_above_0() {
    let kind = ExchangeType::ConsistentHash;
    for key in ["1", "+7", "007", "18446744073709551616"] {
        assert_eq!(Small::validate(kind, key.as_bytes(), &none()), Ok(()));
    }
    let not_integer = |shown: &str| format!("The binding key must be an integer: {shown}");
    assert_eq!(refused_key(kind, b"abc"), not_integer("<<\"abc\">>"));
    assert_eq!(refused_key(kind, b""), not_integer("<<>>"));
    assert_eq!(refused_key(kind, b"1.5"), not_integer("<<\"1.5\">>"));
    assert_eq!(refused_key(kind, b" 1"), not_integer("<<\" 1\">>"));
    assert_eq!(refused_key(kind, b"-"), not_integer("<<\"-\">>"));
    for key in ["0", "-1", "-0", "00"] {
        let text = "The binding key must be greater than 0";
        assert_eq!(refused_key(kind, key.as_bytes()), text);
    }
    assert_eq!(Small::validate(kind, b"0", &none()), Err(BindingError::WeightTooSmall));
}

#[test]
fn arguments_of_a_consistent_hash_are_checked() {
    let kind = ExchangeType::ConsistentHash;
    let both = [("hash-header", text("a")), ("hash-property", text("message_id"))];
    assert_eq!(refused(kind, &both), "hash-header and hash-property are mutually exclusive");
    assert_eq!(refused(kind, &[("hash-property", text("app_id"))]), "Unsupported property: app_id");
    assert_eq!(
        refused(kind, &[("hash-header", AMQPValue::LongInt(1))]),
        "invalid type 'signedint' for arg 'hash-header'"
    );
}

#[test]
fn a_modulus_hash_chooses_one_binding_and_ignores_binding_keys() {
    let router = bound(ExchangeType::ModulusHash, &["", "x", "1", "order-1"]);
    let choices = choices(&router, 8_000);
    let counts = counts(&choices);
    (0..4).for_each(|to| assert_share(&counts, to, 0.25, 8_000));
    assert!(!router.beyond_keys());
}

#[test]
fn a_modulus_hash_counts_every_binding_of_a_destination() {
    let mut router = bound(ExchangeType::ModulusHash, &["a", "a"]);
    assert!(router.bind(b"b", &none(), 1));
    assert!(!router.bind(b"b", &none(), 1));
    let counts = counts(&choices(&router, 8_000));
    assert_share(&counts, 0, 1.0 / 3.0, 8_000);
    assert_share(&counts, 1, 2.0 / 3.0, 8_000);
}

#[test]
fn random_takes_one_binding_each_as_likely() {
    let router = bound(ExchangeType::Random, &["", "x", "y", "z"]);
    let counts = counts(&choices(&router, 8_000));
    (0..4).for_each(|to| assert_share(&counts, to, 0.25, 8_000));
    assert!(router.beyond_keys());
}

#[test]
fn local_random_minds_its_binding_keys() {
    let kind = ExchangeType::LocalRandom;
    assert_eq!(Small::validate(kind, b"", &none()), Ok(()));
    assert_eq!(refused_key(kind, b"k"), "Non empty binding 'k' key not permitted");
}

#[test]
fn a_history_is_a_positive_number_of_messages() {
    let length = |value| history_length(&table(&[("x-recent-history-length", value)]));
    let refused = |shown: &str| Err(ArgumentError::HistoryLength(shown.into()));
    assert_eq!(history_length(&none()), Ok(20));
    assert_eq!(length(AMQPValue::ShortShortUInt(3)), Ok(3));
    assert_eq!(length(AMQPValue::LongLongInt(70_000)), Ok(70_000));
    assert_eq!(length(AMQPValue::LongInt(0)), refused("0"));
    assert_eq!(length(AMQPValue::LongInt(-2)), refused("-2"));
    assert_eq!(length(text("3")), refused("<<\"3\">>"));
    assert_eq!(length(AMQPValue::Double(3.5)), refused("3.5"));
    assert_eq!(
        refused_text(AMQPValue::LongInt(0)),
        "Invalid argument 0, 'x-recent-history-length' must be a positive integer"
    );
}

fn refused_text(length: AMQPValue) -> String {
    refused(ExchangeType::RecentHistory, &[("x-recent-history-length", length)])
}

proptest! {
    /// Whatever has been bound and unbound: one destination if there is a binding, and one that has a binding.
    #[test]
    fn one_destination_of_those_bound(
        steps in prop::collection::vec((any::<bool>(), 0u32..12, 1u32..4), 1..60),
        kind in prop::sample::select(vec![
            ExchangeType::ConsistentHash, ExchangeType::ModulusHash, ExchangeType::Random,
        ]),
    ) {
        let mut router = Small::new(kind);
        let mut model: Vec<(u32, u32)> = Vec::new();
        for (bind, to, weight) in steps {
            let key = weight.to_string();
            let known = model.iter().position(|one| *one == (to, weight));
            if bind {
                prop_assert_eq!(router.bind(key.as_bytes(), &none(), to), known.is_none());
                if known.is_none() { model.push((to, weight)); }
            } else {
                prop_assert_eq!(router.unbind(key.as_bytes(), &none(), &to), known.is_some());
                known.map(|at| model.remove(at));
            }
            prop_assert_eq!(router.is_empty(), model.is_empty());
            for key in ["", "a", "b", "c"] {
                let mut found = Vec::new();
                router.route(&[key.as_bytes()], &with(None), &mut |to| found.push(*to));
                prop_assert_eq!(found.len(), usize::from(!model.is_empty()));
                prop_assert!(found.iter().all(|to| model.iter().any(|one| one.0 == *to)));
            }
        }
    }
}
