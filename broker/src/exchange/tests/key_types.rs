//! Direct, fanout and topic, and what all types share.

use super::*;
use ExchangeType::{Direct, Fanout, Topic};

const ALL: [ExchangeType; 4] = [Direct, Fanout, Topic, ExchangeType::Headers];

fn topic(pattern: &str) -> impl Fn(&str) -> bool {
    let router = bound(Topic, &[pattern]);
    move |key| !by_key(&router, key).is_empty()
}

#[test]
fn type_names_are_known_and_case_sensitive() {
    for kind in ALL {
        assert_eq!(ExchangeType::parse(kind.as_str()), Some(kind));
    }
    for unknown in ["Direct", "FANOUT", "foo", "", "topic ", "x-match"] {
        assert_eq!(ExchangeType::parse(unknown), None, "{unknown}");
    }
}

#[test]
fn binding_twice_is_a_no_op() {
    for kind in ALL {
        let mut router = bound(kind, &["k"]);
        assert!(!router.bind(b"k", &none(), 0), "{kind:?}");
        assert!(router.unbind(b"k", &none(), &0), "{kind:?}");
        assert!(router.is_empty(), "{kind:?}");
    }
}

#[test]
fn unbinding_what_is_not_bound_changes_nothing() {
    for kind in ALL {
        let mut router = bound(kind, &["a.b"]);
        let arguments = table(&[("n", AMQPValue::LongInt(1))]);
        assert!(!router.unbind(b"a.c", &none(), &0), "{kind:?}");
        assert!(!router.unbind(b"a", &none(), &0), "{kind:?}");
        assert!(!router.unbind(b"a.b", &none(), &1), "{kind:?}");
        assert!(!router.unbind(b"a.b", &arguments, &0), "{kind:?}");
        assert!(!router.is_empty(), "{kind:?}");
    }
}

#[test]
fn bindings_that_differ_in_arguments_only_are_distinct() {
    let one = table(&[("n", AMQPValue::LongInt(1))]);
    let other = table(&[("n", AMQPValue::LongLongInt(1))]); // types count
    for kind in [Direct, Fanout, Topic] {
        let mut router = Small::new(kind);
        assert!(router.bind(b"k", &none(), 7));
        assert!(router.bind(b"k", &one, 7));
        assert!(router.bind(b"k", &other, 7));
        assert!(router.unbind(b"k", &one, &7));
        assert!(!router.unbind(b"k", &one, &7));
        assert_eq!(by_key(&router, "k"), [7]);
        assert!(router.unbind(b"k", &none(), &7));
        assert_eq!(by_key(&router, "k"), [7]);
        assert!(router.unbind(b"k", &other, &7));
        assert!(router.is_empty(), "{kind:?}");
    }
}

#[test]
fn the_order_of_arguments_does_not_matter() {
    let entries = [("a", AMQPValue::LongInt(1)), ("b", text("x")), ("c", AMQPValue::Double(f64::NAN))];
    let mut reversed = entries.clone();
    reversed.reverse();
    for kind in ALL {
        let mut router = Small::new(kind);
        assert!(router.bind(b"k", &table(&entries), 7));
        assert!(!router.bind(b"k", &table(&reversed), 7));
        assert!(router.unbind(b"k", &table(&reversed), &7));
        assert!(router.is_empty(), "{kind:?}");
    }
}

#[test]
fn bindings_that_differ_in_key_only_are_distinct() {
    for kind in ALL {
        let mut router = Small::new(kind);
        assert!(router.bind(b"j", &none(), 7));
        assert!(router.bind(b"k", &none(), 7));
        assert!(router.unbind(b"j", &none(), &7));
        assert_eq!(by_key(&router, "k"), [7], "{kind:?}");
    }
}

#[test]
fn a_clone_does_not_see_later_changes() {
    for kind in ALL {
        let mut router = bound(kind, &["k", "k"]);
        let before = router.clone();
        router.unbind(b"k", &none(), &0);
        router.bind(b"k", &none(), 2);
        assert_eq!(by_key(&before, "k"), [0, 1], "{kind:?}");
        assert_eq!(by_key(&router, "k"), [1, 2], "{kind:?}");
    }
}

#[test]
fn a_snapshot_may_be_read_by_any_thread() {
    let mut router = bound(Topic, &["a.#"]);
    let snapshot = router.clone();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| by_key(&snapshot, "a.b"));
        router.unbind(b"a.#", &none(), &0);
        assert_eq!(reader.join().expect("no panic"), [0]);
    });
    assert!(router.is_empty());
}

#[test]
fn direct_compares_byte_for_byte() {
    let mut router = bound(Direct, &["a", "A", "a.b", "", "*", "#", "a"]);
    assert_eq!(by_key(&router, "a"), [0, 6]);
    assert_eq!(by_key(&router, "A"), [1]);
    assert_eq!(by_key(&router, "a.b"), [2]);
    assert_eq!(by_key(&router, ""), [3]);
    assert_eq!(by_key(&router, "b"), NOWHERE);
    assert_eq!(by_key(&router, "a "), NOWHERE);
    router.bind(b"\xFF\0", &none(), 9);
    assert_eq!(routed(&router, b"\xFF\0", None), [9]);
    assert_eq!(routed(&router, b"\xFF", None), NOWHERE);
}

#[test]
fn fanout_ignores_the_key() {
    let router = bound(Fanout, &["", "a", "a.b"]);
    for key in ["", "a", "x"] {
        assert_eq!(by_key(&router, key), [0, 1, 2]);
    }
}

#[test]
fn a_star_is_exactly_one_word() {
    let star = topic("*");
    assert!(star("a") && star("ab-c"));
    assert!(!star("a.b") && !star("a.b.c"));
    let middle = topic("a.*.c");
    assert!(middle("a.b.c"));
    assert!(!middle("a.c") && !middle("a.b.b.c") && !middle("b.b.c"));
    let two = topic("*.*");
    assert!(two("a.b") && !two("a") && !two("a.b.c"));
}

#[test]
fn a_hash_is_zero_or_more_words() {
    let all = topic("#");
    assert!(all("") && all("a") && all("a.b.c") && all("."));
    let start = topic("a.#");
    assert!(start("a") && start("a.b") && start("a.b.c") && !start("b.a") && !start(""));
    let end = topic("#.c");
    assert!(end("c") && end("a.c") && end("a.c.c") && !end("c.a") && !end(""));
    let middle = topic("a.#.c");
    assert!(middle("a.c") && middle("a.b.c") && middle("a.c.b.c") && !middle("a") && !middle("c"));
}

#[test]
fn the_empty_key_is_zero_words() {
    assert!(topic("#")(""));
    assert!(!topic("*")(""));
    let empty = topic("");
    assert!(empty("") && !empty("a") && !empty("."));
}

#[test]
fn two_dots_have_an_empty_word_between_them() {
    assert!(topic("a.*.b")("a..b"));
    assert!(topic("a..b")("a..b"));
    assert!(!topic("a.b")("a..b"));
    assert!(topic("*.*")("."));
    assert!(topic("*.a")(".a"));
    assert!(topic(".")("."));
    assert!(!topic("*")("."));
}

#[test]
fn wildcards_count_only_as_whole_words() {
    assert!(topic("a*")("a*") && !topic("a*")("ab"));
    assert!(topic("#a")("#a") && !topic("#a")("b.a"));
    assert!(topic("**")("**") && !topic("**")("ab"));
    assert!(topic("##")("##") && !topic("##")("a.b"));
}

#[test]
fn several_hashes_are_legal() {
    let two = topic("#.#");
    assert!(two("") && two("a") && two("a.b.c"));
    let at_least_one = topic("#.*.#");
    assert!(!at_least_one("") && at_least_one("a") && at_least_one("a.b"));
    let between = topic("#.a.#.b.#");
    assert!(between("a.b") && between("x.a.y.b.z") && between("b.a.a.b"));
    assert!(!between("b.a") && !between("a"));
}

#[test]
fn words_in_messages_are_never_wildcards() {
    assert!(!topic("a.b")("a.*") && !topic("a.b")("#"));
    assert!(topic("a.*")("a.*") && topic("*")("#") && topic("#")("#"));
    assert!(!topic("*")("#.#"));
}

#[test]
fn keys_may_have_255_octets_and_any_number_of_words() {
    let dots = ".".repeat(255); // 256 empty words
    assert!(topic(&dots)(&dots));
    assert!(topic("#..#")(&dots));
    assert!(!topic("#.a.#")(&dots));
    let letters = ["a"; 128].join("."); // 255 octets
    assert!(topic(&letters)(&letters));
    assert!(topic("#.a.a")(&letters));
    assert!(!topic("*.#.b")(&letters));
    // CC carries longer ones.
    let long = vec!["word"; 1_000].join(".");
    assert!(topic("word.#.word")(&long));
    assert!(!topic("word.*")(&long));
}

/// Takes longer than anyone waits if the visits are not limited to one per node.
#[test]
fn many_hashes_do_not_multiply() {
    let patterns: Vec<String> = (1..=60).map(|n| vec!["#.a"; n].join(".") + ".#.b").collect();
    let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
    let router = bound(Topic, &patterns);
    let short = vec!["a"; 60].join(".");
    let long = vec!["a"; 128].join(".");
    assert_eq!(by_key(&router, &short), NOWHERE);
    assert_eq!(by_key(&router, &long), NOWHERE);
    assert_eq!(by_key(&router, &format!("{short}.b")).len(), 60);
}

#[test]
fn a_matching_topic_binding_is_found_once() {
    let router = bound(Topic, &["#.#.a.#.#", "#.a.#", "a.*.#"]);
    let mut found = Vec::new();
    router.route(&[b"a.a.a.a"], &with(None), &mut |to| found.push(*to));
    found.sort_unstable();
    assert_eq!(found, [0, 1, 2]);
}
