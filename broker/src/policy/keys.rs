//! The keys of a policy's definition: what each may hold, and which types of queue know it.

use serde_json::{Map, Value};

use super::{Kind, Object, Problem};

/// What a value must be.
#[derive(Clone, Copy)]
enum Rule {
    /// A whole number, at least this.
    AtLeast(i64),
    Integer,
    Between(i64, i64),
    Text,
    OneOf(&'static [&'static str]),
    /// A number and one of Y, M, D, h, m, s.
    Age,
}

struct Key {
    name: &'static str,
    rule: Rule,
    /// How an error calls it.
    noun: &'static str,
    /// An operator policy may have it.
    operator: bool,
}

const fn key(name: &'static str, rule: Rule, noun: &'static str, operator: bool) -> Key {
    Key { name, rule, noun, operator }
}

const KEYS: &[Key] = &[
    key("message-ttl", Rule::AtLeast(0), "message TTL", true),
    key("expires", Rule::AtLeast(1), "queue expiry", true),
    key("max-length", Rule::AtLeast(0), "maximum length", true),
    key("max-length-bytes", Rule::AtLeast(0), "maximum length in bytes", true),
    key("max-in-memory-length", Rule::AtLeast(0), "maximum memory in bytes", true),
    key("max-in-memory-bytes", Rule::AtLeast(0), "maximum memory in bytes", true),
    key("dead-letter-exchange", Rule::Text, "dead letter exchange name", false),
    key("dead-letter-routing-key", Rule::Text, "dead letter routing key", false),
    key("dead-letter-strategy", Rule::OneOf(&["at-most-once", "at-least-once"]), "dead letter strategy", false),
    key("alternate-exchange", Rule::Text, "alternate exchange name", false),
    key("overflow", Rule::OneOf(&["drop-head", "reject-publish", "reject-publish-dlx"]), "overflow value", true),
    key("delivery-limit", Rule::Integer, "delivery limit", true),
    key("consumer-timeout", Rule::AtLeast(0), "consumer timeout", false),
    key("queue-mode", Rule::OneOf(&["default", "lazy"]), "queue-mode value", false),
    key("queue-version", Rule::Between(1, 2), "queue-version value", true),
    key("max-age", Rule::Age, "max age", false),
    key("stream-max-segment-size-bytes", Rule::AtLeast(0), "segment size", false),
    key("stream-filter-size-bytes", Rule::Between(16, 255), "filter size", false),
    key(
        "queue-leader-locator",
        Rule::OneOf(&["client-local", "balanced", "random", "least-leaders"]),
        "queue leader locator value",
        false,
    ),
    key("initial-cluster-size", Rule::AtLeast(1), "cluster size", false),
    key("target-group-size", Rule::AtLeast(1), "target group size", true),
    key("federation-upstream", Rule::Text, "federation upstream name", false),
    key("federation-upstream-set", Rule::Text, "federation upstream set name", false),
    key("federation-upstream-pattern", Rule::Text, "federation upstream pattern", false),
];

/// Keys that a classic queue does not know: a policy with one of them does not match it.
const NOT_CLASSIC: &[&str] = &[
    "max-age",
    "stream-max-segment-size-bytes",
    "initial-cluster-size",
    "delivery-limit",
    "dead-letter-strategy",
    "max-in-memory-length",
    "max-in-memory-bytes",
    "target-group-size",
];
/// The same for a quorum queue.
const NOT_QUORUM: &[&str] = &["queue-mode", "max-age", "stream-max-segment-size-bytes", "initial-cluster-size"];

/// Whether an object of that type knows all keys of the definition.
pub(super) fn known_to(object: Object, definition: &Map<String, Value>) -> bool {
    let foreign = match object {
        Object::Exchange => return true,
        Object::ClassicQueue => NOT_CLASSIC,
        Object::QuorumQueue => NOT_QUORUM,
    };
    !foreign.iter().any(|key| definition.contains_key(*key))
}

/// Checks a definition; every problem is added.
pub(super) fn check(kind: Kind, definition: &Map<String, Value>, problems: &mut Vec<Problem>) {
    let mut unrecognised = Vec::new();
    for (name, value) in definition {
        let known = KEYS.iter().find(|key| key.name == name && (key.operator || kind == Kind::User));
        match known {
            None => unrecognised.push(format!("<<\"{name}\">>")),
            Some(key) if key.rule.admits(value) => {}
            Some(key) => problems.push(Problem::Value { shown: shown(value), noun: key.noun }),
        }
    }
    if !unrecognised.is_empty() {
        problems.push(Problem::Unrecognised(unrecognised.join(",")));
    }
}

impl Rule {
    fn admits(self, value: &Value) -> bool {
        match self {
            Rule::AtLeast(least) => integer(value).is_some_and(|number| number >= least),
            Rule::Integer => integer(value).is_some(),
            Rule::Between(least, most) => integer(value).is_some_and(|number| (least..=most).contains(&number)),
            Rule::Text => value.is_string(),
            Rule::OneOf(texts) => value.as_str().is_some_and(|text| texts.contains(&text)),
            Rule::Age => value.as_str().is_some_and(is_age),
        }
    }
}

fn is_age(text: &str) -> bool {
    let number = text.strip_suffix(['Y', 'M', 'D', 'h', 'm', 's']);
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|octet| octet.is_ascii_digit()))
}

/// The whole number that a value is; one beyond 63 bits counts as the largest there is.
pub(super) fn integer(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_u64().map(|_| i64::MAX))
}

/// A value as RabbitMQ's error texts show it: an Erlang term.
pub(super) fn shown(value: &Value) -> String {
    let list = |items: &mut dyn Iterator<Item = String>| items.collect::<Vec<_>>().join(",");
    match value {
        Value::String(text) => format!("<<\"{text}\">>"),
        Value::Array(items) => format!("[{}]", list(&mut items.iter().map(shown))),
        Value::Object(entries) => {
            let entry = |(name, value): (&String, &Value)| format!("<<\"{name}\">> => {}", shown(value));
            format!("#{{{}}}", list(&mut entries.iter().map(entry)))
        }
        plain => plain.to_string(),
    }
}
