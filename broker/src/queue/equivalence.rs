//! When two declarations of a queue or an exchange are the same, and what is said when they are not.

use leveret_protocol::AmqpError;
use leveret_protocol::amq::{AMQPValue, FieldTable};
use leveret_protocol::value::{as_integer, show, type_word};

use super::arguments::get;

/// Arguments of a classic queue that take part in equivalence; any other is stored and never compared.
const CLASSIC_COMPARES: &[&str] = &[
    "x-expires",
    "x-message-ttl",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-priority",
    "x-overflow",
    "x-queue-mode",
    "x-queue-version",
    "x-single-active-consumer",
    TYPE,
    "x-queue-leader-locator",
    "x-queue-master-locator",
];

/// Those of a quorum queue.
const QUORUM_COMPARES: &[&str] = &[
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-dead-letter-strategy",
    "x-expires",
    "x-max-length",
    "x-max-length-bytes",
    "x-overflow",
    "x-single-active-consumer",
    TYPE,
    "x-quorum-initial-group-size",
    "x-delivery-limit",
    "x-message-ttl",
    "x-queue-leader-locator",
];

const TYPE: &str = "x-queue-type";
const CLASSIC: &str = "classic";

/// Refuses a declaration whose arguments are not those of the existing queue.
pub fn equivalent(current: &FieldTable, received: &FieldTable, described: &str) -> Result<(), AmqpError> {
    let compared = if queue_type(get(current, TYPE)) == CLASSIC { CLASSIC_COMPARES } else { QUORUM_COMPARES };
    for name in compared {
        let pair = (get(received, name), get(current, name));
        let same = if *name == TYPE { queue_type(pair.0) == queue_type(pair.1) } else { same(pair.0, pair.1) };
        if same {
            continue;
        }
        if *name == TYPE {
            return Err(inequivalent(name, described, &queue_type(pair.0), &queue_type(pair.1)));
        }
        return Err(inequivalent_argument(name, described, pair.0, pair.1));
    }
    Ok(())
}

fn queue_type(value: Option<&AMQPValue>) -> String {
    match value.map(show).as_deref() {
        None | Some("" | "undefined") => CLASSIC.to_owned(),
        Some(kind) => kind.to_owned(),
    }
}

/// Equal values of the same class: integers of any width are one class, floats another (as RabbitMQ
/// compares them).
pub fn same(a: Option<&AMQPValue>, b: Option<&AMQPValue>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => match (as_integer(a), as_integer(b)) {
            (Some(a), Some(b)) => a == b,
            (None, None) => match (as_float(a), as_float(b)) {
                (Some(a), Some(b)) => a == b,
                _ => a == b,
            },
            _ => false,
        },
        _ => false,
    }
}

fn as_float(value: &AMQPValue) -> Option<f64> {
    match value {
        AMQPValue::Float(value) => Some(f64::from(*value)),
        AMQPValue::Double(value) => Some(*value),
        _ => None,
    }
}

/// A flag or a value that differs: both are shown.
pub fn inequivalent(name: &str, described: &str, received: &str, current: &str) -> AmqpError {
    AmqpError::precondition_failed(format!(
        "inequivalent arg '{name}' for {described}: received '{received}' but current is '{current}'"
    ))
}

/// An argument that differs, or that only one side has.
pub fn inequivalent_argument(
    name: &str,
    described: &str,
    received: Option<&AMQPValue>,
    current: Option<&AMQPValue>,
) -> AmqpError {
    let of_type = |value: &AMQPValue| format!("the value '{}' of type '{}'", show(value), type_word(value));
    let (received, current) = match (received, current) {
        (Some(received), Some(current)) => {
            return inequivalent(name, described, &show(received), &show(current));
        }
        (received, current) => {
            (received.map_or("none".to_owned(), of_type), current.map_or("none".to_owned(), of_type))
        }
    };
    AmqpError::precondition_failed(format!(
        "inequivalent arg '{name}' for {described}: received {received} but current is {current}"
    ))
}
