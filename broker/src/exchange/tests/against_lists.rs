//! Random binds and unbinds, with every type compared to a plain list of bindings after each step, and snapshots
//! compared to the list as it was when they were taken.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// (key, which arguments, destination)
type Binding = (String, usize, u32);

#[derive(Clone, Debug)]
enum Step {
    Bind(Binding),
    Unbind(Binding),
    Snapshot,
}

/// Steps over few enough bindings that they meet again, and enough of them that lists become maps and maps lists.
fn steps(key: impl Strategy<Value = String> + Clone + 'static) -> impl Strategy<Value = Vec<Step>> {
    let binding = move || (key.clone(), 0..arguments().len(), 0..4_u32);
    let step = prop_oneof![
        4 => binding().prop_map(Step::Bind),
        2 => binding().prop_map(Step::Unbind),
        1 => Just(Step::Snapshot),
    ];
    prop::collection::vec(step, 1..120)
}

/// Argument tables to choose from; all are bindings for any type of exchange.
fn arguments() -> Vec<FieldTable> {
    let number = |n| AMQPValue::LongInt(n);
    vec![
        none(),
        table(&[("a", number(1))]),
        table(&[("a", number(1)), ("b", text("x"))]),
        table(&[("x-match", text("any")), ("a", number(2)), ("b", text("x"))]),
        table(&[("x-match", text("any")), ("b", AMQPValue::Void)]),
        table(&[("x-match", text("any")), ("x-c", number(1))]),
        table(&[("x-match", text("any-with-x")), ("x-c", number(1)), ("a", number(1))]),
        table(&[("x-match", text("all-with-x")), ("x-c", number(1)), ("a", number(1))]),
        table(&[("x-c", number(1))]),
    ]
}

type Matches<'a> = &'a dyn Fn(&Binding) -> bool;

fn expected(list: &BTreeSet<Binding>, matches: Matches<'_>) -> Vec<u32> {
    let to: BTreeSet<u32> = list.iter().filter(|binding| matches(binding)).map(|binding| binding.2).collect();
    to.into_iter().collect()
}

/// Does the steps on a router and on a list; `check` compares the two after each.
fn run(
    kind: ExchangeType,
    steps: &[Step],
    check: impl Fn(&Small, &BTreeSet<Binding>) -> Result<(), TestCaseError>,
) -> Result<(), TestCaseError> {
    let tables = arguments();
    let mut router = Small::new(kind);
    let mut list = BTreeSet::new();
    let mut snapshots = Vec::new();
    for step in steps {
        match step {
            Step::Bind(binding) => {
                let (key, at, to) = binding;
                let new = router.bind(key.as_bytes(), &tables[*at], *to);
                prop_assert_eq!(new, list.insert(binding.clone()));
            }
            Step::Unbind(binding) => {
                let (key, at, to) = binding;
                let was_there = router.unbind(key.as_bytes(), &tables[*at], to);
                prop_assert_eq!(was_there, list.remove(binding));
            }
            Step::Snapshot => snapshots.push((router.clone(), list.clone())),
        }
        prop_assert_eq!(router.is_empty(), list.is_empty());
        check(&router, &list)?;
    }
    for (router, list) in &snapshots {
        check(router, list)?;
    }
    for (key, at, to) in &list {
        prop_assert!(router.unbind(key.as_bytes(), &tables[*at], to));
    }
    prop_assert!(router.is_empty());
    Ok(())
}

/// Topic matching as its definition reads.
fn naive_topic(pattern: &[&str], words: &[&str]) -> bool {
    match (pattern.split_first(), words.split_first()) {
        (None, None) => true,
        (Some((&"#", rest)), None) => naive_topic(rest, words),
        (Some((&"#", rest)), Some((_, after))) => naive_topic(rest, words) || naive_topic(pattern, after),
        (Some((p, rest)), Some((w, after))) => (*p == "*" || p == w) && naive_topic(rest, after),
        (None, Some(_)) | (Some(_), None) => false,
    }
}

fn split(key: &str) -> Vec<&str> {
    if key.is_empty() { Vec::new() } else { key.split('.').collect() }
}

fn pattern() -> impl Strategy<Value = String> + Clone {
    let word = prop::sample::select(vec!["a", "b", "", "*", "#", "#", "a*"]);
    prop::collection::vec(word, 0..6).prop_map(|words| words.join("."))
}

fn key() -> impl Strategy<Value = String> + Clone {
    let word = prop::sample::select(vec!["a", "b", "c", "", "*", "#"]);
    prop::collection::vec(word, 0..7).prop_map(|words| words.join("."))
}

/// Many different words, so that nodes have many children.
fn wide_pattern() -> impl Strategy<Value = String> + Clone {
    ("[a-t]", prop::sample::select(vec!["", ".#", ".a", ".*", ".#.b"]))
        .prop_map(|(first, rest)| format!("{first}{rest}"))
}

fn wide_key() -> impl Strategy<Value = String> + Clone {
    "[a-t](\\.[ab]){0,3}"
}

fn check_topic(router: &Small, list: &BTreeSet<Binding>, keys: &[String]) -> Result<(), TestCaseError> {
    for key in keys {
        let words = split(key);
        let matches = |binding: &Binding| naive_topic(&split(&binding.0), &words);
        prop_assert_eq!(by_key(router, key), expected(list, &matches), "key {}", key);
        let mut calls = 0;
        router.route(&[key.as_bytes()], &with(None), &mut |_| calls += 1);
        let matching = list.iter().filter(|binding| matches(binding)).count();
        prop_assert_eq!(calls, matching, "each binding once");
    }
    Ok(())
}

/// A header of a message: its name, and the value both as a plain one and as its bytes.
fn naive_headers(arguments: &FieldTable, headers: &[(&str, AMQPValue)]) -> bool {
    let word = match arguments.inner().get("x-match") {
        Some(AMQPValue::LongString(word)) => String::from_utf8_lossy(word.as_bytes()).into_owned(),
        _ => "all".to_owned(),
    };
    let mut met = arguments
        .inner()
        .iter()
        .filter(|(name, _)| match word.ends_with("-with-x") {
            true => name.as_str() != "x-match",
            false => !name.as_str().starts_with("x-"),
        })
        .map(|(name, wanted)| {
            let header = headers.iter().rev().find(|(has, _)| *has == name.as_str());
            header.is_some_and(|(_, value)| *wanted == AMQPValue::Void || value == wanted)
        });
    if word.starts_with("any") { met.any(|met| met) } else { met.all(|met| met) }
}

fn header() -> impl Strategy<Value = (&'static str, AMQPValue)> {
    (
        prop::sample::select(vec!["a", "b", "x-c", "d"]),
        prop::sample::select(vec![AMQPValue::LongInt(1), AMQPValue::LongInt(2), text("x")]),
    )
}

/// The entries one after the other, duplicates and all.
fn raw_entries(entries: &[(&str, AMQPValue)]) -> Vec<u8> {
    let one = |entry: &(&str, AMQPValue)| raw(&table(std::slice::from_ref(entry)));
    entries.iter().flat_map(one).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn topic_equals_the_naive_matcher(
        steps in steps(pattern()),
        keys in prop::collection::vec(key(), 3),
    ) {
        run(ExchangeType::Topic, &steps, |router, list| check_topic(router, list, &keys))?;
    }

    #[test]
    fn topic_with_many_words_equals_the_naive_matcher(
        steps in steps(wide_pattern()),
        keys in prop::collection::vec(wide_key(), 3),
    ) {
        run(ExchangeType::Topic, &steps, |router, list| check_topic(router, list, &keys))?;
    }

    /// Around the length at which sets of positions take more than one machine word.
    #[test]
    fn topic_with_long_keys_equals_the_naive_matcher(
        patterns in prop::collection::vec(pattern(), 1..8),
        start in prop::collection::vec(prop::sample::select(vec!["a", "b"]), 0..4),
        filling in 55..75_usize,
        end in prop::collection::vec(prop::sample::select(vec!["a", "b"]), 0..4),
    ) {
        let words = [start, vec!["c"; filling], end].concat();
        let router = bound(ExchangeType::Topic, &patterns.iter().map(String::as_str).collect::<Vec<_>>());
        let matching: Vec<u32> = (0..)
            .zip(&patterns)
            .filter(|(_, pattern)| naive_topic(&split(pattern), &words))
            .map(|(to, _)| to)
            .collect();
        prop_assert_eq!(by_key(&router, &words.join(".")), matching);
    }

    #[test]
    fn direct_equals_a_list(steps in steps("[a-t]{0,1}"), keys in prop::collection::vec("[a-t]{0,1}", 3)) {
        run(ExchangeType::Direct, &steps, |router, list| {
            for key in &keys {
                let matches = |binding: &Binding| binding.0 == *key;
                prop_assert_eq!(by_key(router, key), expected(list, &matches));
            }
            Ok(())
        })?;
    }

    #[test]
    fn fanout_equals_a_list(steps in steps("[a-c]{0,1}")) {
        run(ExchangeType::Fanout, &steps, |router, list| {
            prop_assert_eq!(by_key(router, "k"), expected(list, &|_| true));
            Ok(())
        })?;
    }

    #[test]
    fn headers_equals_a_list(
        steps in steps("[ab]{0,1}"),
        messages in prop::collection::vec(prop::collection::vec(header(), 0..5), 3),
    ) {
        let tables = arguments();
        run(ExchangeType::Headers, &steps, |router, list| {
            for message in &messages {
                let bytes = raw_entries(message);
                let headers = Headers::parse(&bytes).expect("well-formed");
                let matches = |binding: &Binding| naive_headers(&tables[binding.1], message);
                prop_assert_eq!(routed(router, b"", Some(headers)), expected(list, &matches));
            }
            Ok(())
        })?;
    }
}
