//! Headers exchanges: x-match, and when two values are equal.

use amq_protocol::types::{ByteArray, DecimalValue, FieldArray};

use super::*;
use AMQPValue::{
    Boolean, ByteArray as Bytes, DecimalValue as Decimal, Double, FieldArray as Array, FieldTable as Table, Float,
    LongInt, LongLongInt, LongUInt, ShortInt, ShortShortInt, ShortShortUInt, ShortUInt, Timestamp, Void,
};

/// Whether a binding with these arguments takes a message with these headers.
fn takes(arguments: &FieldTable, headers: &FieldTable) -> bool {
    takes_raw(arguments, &raw(headers))
}

fn takes_raw(arguments: &FieldTable, headers: &[u8]) -> bool {
    let mut router = Small::new(ExchangeType::Headers);
    assert!(router.bind(b"", arguments, 1));
    let headers = Headers::parse(headers).expect("well-formed");
    !routed(&router, b"ignored", Some(headers)).is_empty()
}

/// Whether an argument and a header with these values are equal.
fn equal(argument: AMQPValue, header: AMQPValue) -> bool {
    takes(&table(&[("h", argument)]), &table(&[("h", header)]))
}

fn mode(word: &str, more: &[(&str, AMQPValue)]) -> FieldTable {
    let mut arguments = table(more);
    arguments.insert("x-match".into(), text(word));
    arguments
}

fn bytes(bytes: &[u8]) -> AMQPValue {
    Bytes(ByteArray::from(bytes))
}

fn list(items: &[AMQPValue]) -> AMQPValue {
    Array(FieldArray::from(items.to_vec()))
}

#[test]
fn all_is_the_default_and_wants_every_argument() {
    for arguments in
        [table(&[("a", LongInt(1)), ("b", text("x"))]), mode("all", &[("a", LongInt(1)), ("b", text("x"))])]
    {
        assert!(takes(&arguments, &table(&[("b", text("x")), ("a", LongInt(1)), ("c", Void)])));
        assert!(!takes(&arguments, &table(&[("a", LongInt(1))])));
        assert!(!takes(&arguments, &table(&[("a", LongInt(1)), ("b", text("y"))])));
        assert!(!takes(&arguments, &none()));
    }
}

#[test]
fn any_wants_one_argument() {
    let arguments = mode("any", &[("a", LongInt(1)), ("b", text("x"))]);
    assert!(takes(&arguments, &table(&[("a", LongInt(1))])));
    assert!(takes(&arguments, &table(&[("a", LongInt(2)), ("b", text("x"))])));
    assert!(!takes(&arguments, &table(&[("a", LongInt(2)), ("b", text("y"))])));
    assert!(!takes(&arguments, &none()));
}

#[test]
fn all_and_any_ignore_arguments_that_begin_with_x() {
    let headers = table(&[("a", LongInt(1)), ("x-b", LongInt(2))]);
    assert!(takes(&mode("all", &[("a", LongInt(1)), ("x-b", LongInt(3))]), &headers));
    assert!(!takes(&mode("any", &[("x-b", LongInt(2))]), &headers));
    // A capital letter or another sign does not make it one of them.
    assert!(!takes(&mode("all", &[("X-b", LongInt(2))]), &headers));
    assert!(!takes(&mode("all", &[("x", LongInt(2))]), &headers));
}

#[test]
fn the_with_x_forms_ignore_only_x_match() {
    let headers = table(&[("a", LongInt(1)), ("x-b", LongInt(2))]);
    let both = |value| [("a", LongInt(1)), ("x-b", LongInt(value))];
    assert!(takes(&mode("all-with-x", &both(2)), &headers));
    assert!(!takes(&mode("all-with-x", &both(3)), &headers));
    assert!(takes(&mode("any-with-x", &both(3)), &headers));
    assert!(takes(&mode("any-with-x", &[("x-b", LongInt(2))]), &headers));
    assert!(!takes(&mode("any-with-x", &[("x-b", LongInt(3))]), &headers));
    // x-match itself is no criterion even when the message has that header.
    assert!(!takes(&mode("any-with-x", &[]), &table(&[("x-match", text("any-with-x"))])));
}

#[test]
fn without_criteria_all_matches_everything_and_any_nothing() {
    for headers in [none(), table(&[("a", LongInt(1))])] {
        assert!(takes(&none(), &headers));
        assert!(takes(&mode("all", &[]), &headers));
        assert!(takes(&mode("all", &[("x-a", LongInt(1))]), &headers));
        assert!(takes(&mode("all-with-x", &[]), &headers));
        assert!(!takes(&mode("any", &[]), &headers));
        assert!(!takes(&mode("any", &[("x-a", LongInt(1))]), &headers));
        assert!(!takes(&mode("any-with-x", &[]), &headers));
    }
}

#[test]
fn a_message_without_headers_has_an_empty_table() {
    let mut router = Small::new(ExchangeType::Headers);
    router.bind(b"", &none(), 1);
    router.bind(b"", &table(&[("a", Void)]), 2);
    router.bind(b"", &mode("any", &[("a", Void)]), 3);
    assert_eq!(routed(&router, b"", None), [1]);
}

#[test]
fn a_void_argument_matches_when_the_header_is_present() {
    for value in [LongInt(1), text(""), Void, Boolean(false), list(&[])] {
        assert!(equal(Void, value));
    }
    assert!(!takes(&table(&[("h", Void)]), &table(&[("hh", LongInt(1))])));
    assert!(!equal(text(""), Void));
    assert!(!equal(LongInt(0), Void));
    assert!(!equal(Boolean(false), Void));
}

#[test]
fn integers_and_timestamps_compare_by_number() {
    let ones = [
        ShortShortInt(1),
        ShortShortUInt(1),
        ShortInt(1),
        ShortUInt(1),
        LongInt(1),
        LongUInt(1),
        LongLongInt(1),
        Timestamp(1),
    ];
    for argument in &ones {
        for header in &ones {
            assert!(equal(argument.clone(), header.clone()), "{argument:?} {header:?}");
        }
        assert!(!equal(argument.clone(), LongInt(2)));
        assert!(!equal(argument.clone(), LongInt(-1)));
    }
    assert!(equal(ShortShortInt(-1), LongLongInt(-1)));
    assert!(!equal(ShortShortInt(-1), ShortShortUInt(255)));
    assert!(!equal(LongLongInt(-1), Timestamp(u64::MAX)));
    assert!(equal(Timestamp(u64::MAX), Timestamp(u64::MAX)));
}

#[test]
fn strings_and_byte_arrays_compare_by_bytes() {
    assert!(equal(text("a"), bytes(b"a")));
    assert!(equal(bytes(b"\xFF\0"), bytes(b"\xFF\0")));
    assert!(!equal(text("a"), text("A")));
    assert!(!equal(text("a"), text("ab")));
    assert!(!equal(text("1"), LongInt(1)));
    assert!(!equal(text(""), list(&[])));
}

#[test]
fn floats_equal_doubles_but_never_integers() {
    assert!(equal(Float(1.5), Double(1.5)));
    assert!(equal(Double(1.5), Float(1.5)));
    assert!(!equal(Float(0.1), Double(0.1))); // not the same number
    assert!(equal(Double(0.0), Double(-0.0)));
    assert!(!equal(Double(1.0), LongInt(1)));
    assert!(!equal(LongInt(1), Float(1.0)));
}

#[test]
fn booleans_equal_only_booleans_and_decimals_only_decimals() {
    let decimal = |scale, value| Decimal(DecimalValue { scale, value });
    assert!(equal(Boolean(true), Boolean(true)));
    assert!(!equal(Boolean(true), Boolean(false)));
    assert!(!equal(Boolean(true), LongInt(1)));
    assert!(!equal(Boolean(true), text("true")));
    assert!(equal(decimal(1, 15), decimal(1, 15)));
    assert!(!equal(decimal(1, 10), decimal(0, 1)));
    assert!(!equal(decimal(0, 1), LongInt(1)));
    assert!(!equal(decimal(1, 15), Double(1.5)));
}

#[test]
fn a_true_boolean_may_be_any_octet_but_0() {
    let arguments = table(&[("h", Boolean(true))]);
    assert!(takes_raw(&arguments, b"\x01ht\x07"));
    assert!(!takes_raw(&arguments, b"\x01ht\x00"));
}

#[test]
fn an_unsigned_long_header_is_read_as_signed() {
    assert!(takes_raw(&table(&[("h", LongInt(-1))]), b"\x01hL\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF"));
}

#[test]
fn inside_tables_and_arrays_the_tags_count() {
    assert!(equal(list(&[LongInt(1)]), list(&[LongInt(1)])));
    assert!(!equal(list(&[LongInt(1)]), list(&[LongLongInt(1)])));
    assert!(!equal(list(&[text("a")]), list(&[bytes(b"a")])));
    assert!(!equal(list(&[Float(1.0)]), list(&[Double(1.0)])));
    assert!(!equal(list(&[LongInt(1), LongInt(2)]), list(&[LongInt(2), LongInt(1)])));
    let nested = |value: AMQPValue| Table(table(&[("k", list(&[value])), ("j", Void)]));
    assert!(equal(nested(LongInt(1)), nested(LongInt(1))));
    assert!(!equal(nested(LongInt(1)), nested(ShortInt(1))));
    assert!(!equal(nested(LongInt(1)), Table(table(&[("j", Void)]))));
    assert!(!equal(list(&[LongInt(1)]), LongInt(1)));
    // A void inside is a value like any other.
    assert!(!equal(list(&[Void]), list(&[LongInt(1)])));
    assert!(equal(list(&[Void]), list(&[Void])));
}

#[test]
fn the_order_inside_a_nested_table_does_not_matter() {
    let argument = Table(table(&[("a", ShortShortInt(1)), ("b", ShortShortInt(2))]));
    assert!(takes_raw(&table(&[("h", argument)]), b"\x01hF\0\0\0\x08\x01bb\x02\x01ab\x01"));
}

#[test]
fn an_empty_table_equals_an_empty_array() {
    assert!(equal(Table(none()), list(&[])));
    assert!(!equal(list(&[Table(none())]), list(&[list(&[])])));
}

#[test]
fn a_header_that_occurs_twice_counts_with_its_last_value() {
    let twice = b"\x01hb\x01\x01gb\x05\x01hb\x02";
    assert!(!takes_raw(&table(&[("h", LongInt(1))]), twice));
    assert!(takes_raw(&table(&[("h", LongInt(2))]), twice));
    assert!(takes_raw(&table(&[("h", LongInt(2)), ("g", LongInt(5))]), twice));
    assert!(!takes_raw(&mode("any", &[("h", LongInt(1))]), twice));
}

#[test]
fn the_name_of_a_header_is_compared_whole() {
    let arguments = table(&[("ab", LongInt(1))]);
    assert!(!takes(&arguments, &table(&[("a", LongInt(1))])));
    assert!(!takes(&arguments, &table(&[("abc", LongInt(1))])));
    assert!(!takes(&arguments, &table(&[("AB", LongInt(1))])));
}

#[test]
fn a_binding_with_another_x_match_or_other_arguments_is_another_binding() {
    let mut router = Small::new(ExchangeType::Headers);
    let pair = [("a", LongInt(1)), ("b", LongInt(2))];
    assert!(router.bind(b"", &mode("all", &pair), 1));
    assert!(router.bind(b"", &mode("any", &pair), 1));
    let bytes = raw(&table(&[("a", LongInt(1))]));
    let headers = Headers::parse(&bytes).expect("well-formed");
    assert_eq!(routed(&router, b"", Some(headers)), [1]);
    assert!(router.unbind(b"", &mode("any", &pair), &1));
    assert_eq!(routed(&router, b"", Some(headers)), NOWHERE);
    assert!(router.unbind(b"", &mode("all", &pair), &1));
    assert!(router.is_empty());
}

fn refused(arguments: &FieldTable) -> String {
    match Small::validate(ExchangeType::Headers, b"", arguments) {
        Ok(()) => "accepted".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_four_words_of_x_match_are_accepted() {
    for word in ["all", "any", "all-with-x", "any-with-x"] {
        assert_eq!(refused(&mode(word, &[("a", Void)])), "accepted");
    }
    assert_eq!(refused(&none()), "accepted");
}

#[test]
fn another_word_for_x_match_is_refused() {
    let text_of =
        |shown: &str| format!("Invalid x-match field value {shown}; expected all, any, all-with-x, or any-with-x");
    assert_eq!(refused(&mode("some", &[])), text_of("<<\"some\">>"));
    assert_eq!(refused(&mode("ALL", &[])), text_of("<<\"ALL\">>"));
    assert_eq!(refused(&mode("", &[])), text_of("<<>>"));
    assert_eq!(refused(&mode("a\"b\n", &[])), text_of(r#"<<"a\"b\n">>"#));
    assert_eq!(refused(&mode("\0\u{1}", &[])), text_of("<<0,1>>"));
}

#[test]
fn another_type_of_x_match_is_refused() {
    let refused = |value| refused(&table(&[("x-match", value)]));
    let text_of =
        |kind: &str, shown: &str| format!("Invalid x-match field type {kind} (value {shown}); expected longstr");
    assert_eq!(refused(LongInt(1)), text_of("signedint", "1"));
    assert_eq!(refused(bytes(b"all")), text_of("binary", "<<\"all\">>"));
    assert_eq!(refused(Boolean(true)), text_of("bool", "true"));
    assert_eq!(refused(Void), text_of("void", "undefined"));
}

#[test]
fn other_types_do_not_mind_x_match() {
    for kind in [ExchangeType::Direct, ExchangeType::Fanout, ExchangeType::Topic] {
        assert_eq!(Small::validate(kind, b"", &mode("some", &[])), Ok(()));
    }
}
