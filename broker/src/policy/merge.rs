//! What a policy, an operator policy and a queue's own arguments come to together.

use std::sync::Arc;

use leveret_protocol::amq::FieldTable;
use serde_json::{Map, Value};

use super::keys::integer;
use crate::queue::arguments::{self, DeadLetterTo, Overflow, Settings};

/// A policy's definition, or what two of them come to.
pub type Definition = Map<String, Value>;

/// Limits of which the smaller one holds, wherever they come from.
const SMALLER: &[&str] =
    &["message-ttl", "expires", "max-length", "max-length-bytes", "max-in-memory-length", "max-in-memory-bytes"];
/// Keys of which the operator's value holds.
const OPERATORS: &[&str] = &["overflow", "queue-version"];

/// The user's policy and the operator's as one. A key that only one of them has is taken as it is.
pub fn merged(user: Option<&Definition>, operator: Option<&Definition>) -> Definition {
    let mut merged = user.cloned().unwrap_or_default();
    for (key, operators) in operator.into_iter().flatten() {
        let value = match merged.get(key) {
            Some(users) => both(key, users, operators),
            None => operators.clone(),
        };
        merged.insert(key.clone(), value);
    }
    merged
}

fn both(key: &str, users: &Value, operators: &Value) -> Value {
    let numbers = integer(users).zip(integer(operators));
    match numbers {
        Some((user, operator)) if key == "delivery-limit" => smaller_limit(user, operator).into(),
        Some((user, operator)) if SMALLER.contains(&key) => user.min(operator).into(),
        _ if OPERATORS.contains(&key) || operators.is_boolean() => operators.clone(),
        _ => users.clone(),
    }
}

/// Of two limits of deliveries: a negative one means no limit, and gives way.
fn smaller_limit(a: i64, b: i64) -> i64 {
    if a < 0 || b < 0 { a.max(b) } else { a.min(b) }
}

/// The settings of a queue that was declared with `arguments`, from which `declared` was read, under a policy.
pub fn settings(declared: &Settings, arguments: &FieldTable, policy: &Definition) -> Settings {
    let number = |key: &str| policy.get(key).and_then(integer).and_then(|number| u64::try_from(number).ok());
    let smaller = |own: Option<u64>, key: &str| own.into_iter().chain(number(key)).min();
    let mut settings = declared.clone();
    settings.message_ttl = smaller(declared.message_ttl, "message-ttl");
    settings.expires = smaller(declared.expires, "expires");
    settings.max_length = smaller(declared.max_length, "max-length");
    settings.max_bytes = smaller(declared.max_bytes, "max-length-bytes");
    settings.consumer_timeout = smaller(declared.consumer_timeout, "consumer-timeout");
    if arguments::get(arguments, "x-overflow").is_none()
        && let Some(overflow) = policy.get("overflow").and_then(Value::as_str).and_then(Overflow::parse)
    {
        settings.overflow = overflow;
    }
    settings.dead_letter = dead_letter(declared, policy);
    settings.delivery_limit = delivery_limit(declared, arguments, policy);
    settings
}

/// Exchange and key each come from the arguments if they have it.
fn dead_letter(declared: &Settings, policy: &Definition) -> Option<Arc<DeadLetterTo>> {
    let text = |key: &str| policy.get(key).and_then(Value::as_str).map(|text| Box::from(text.as_bytes()));
    let own = declared.dead_letter.as_deref();
    let exchange = own.map(|own| own.exchange.clone()).or_else(|| text("dead-letter-exchange"))?;
    let key = own.and_then(|own| own.key.clone()).or_else(|| text("dead-letter-routing-key"));
    Some(Arc::new(DeadLetterTo { exchange, key }))
}

fn delivery_limit(declared: &Settings, arguments: &FieldTable, policy: &Definition) -> Option<u32> {
    let Some(policy) = policy.get("delivery-limit").and_then(integer) else {
        return declared.delivery_limit;
    };
    // Without the argument, what the settings say is the default, which does not compete.
    let own = match (arguments::get(arguments, "x-delivery-limit"), declared.delivery_limit) {
        (None, _) => None,
        (Some(_), limit) => Some(limit.map_or(-1, i64::from)),
    };
    let limit = own.map_or(policy, |own| smaller_limit(own, policy));
    (limit >= 0).then(|| u32::try_from(limit).unwrap_or(u32::MAX))
}

/// Where an exchange's unroutable messages go by its policy.
pub fn alternate(policy: &Definition) -> Option<&str> {
    policy.get("alternate-exchange")?.as_str()
}
