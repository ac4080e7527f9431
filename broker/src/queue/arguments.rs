//! Queue arguments: which are known, which are refused, and when two declarations are the same.

use leveret_protocol::AmqpError;
use leveret_protocol::amq::{AMQPValue, FieldTable};
use leveret_protocol::value::{as_integer, show, type_word};

/// Arguments that RabbitMQ acts on and this broker does not yet: refused by name, never ignored.
const NOT_YET: &[&str] = &[
    "x-message-ttl",
    "x-expires",
    "x-max-length",
    "x-max-length-bytes",
    "x-overflow",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-max-priority",
    "x-single-active-consumer",
    "x-consumer-timeout",
];

/// Arguments that a classic queue does not have.
const NOT_CLASSIC: &[&str] = &[
    "x-max-age",
    "x-stream-max-segment-size-bytes",
    "x-stream-filter-size-bytes",
    "x-initial-cluster-size",
    "x-quorum-initial-group-size",
    "x-delivery-limit",
    "x-dead-letter-strategy",
];

/// Arguments that take part in equivalence; any other is stored and never compared.
const COMPARED: &[&str] = &[
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
    "x-queue-type",
    "x-queue-leader-locator",
    "x-queue-master-locator",
];

const TYPE: &str = "x-queue-type";
const CLASSIC: &str = "classic";

/// The argument of that name.
pub fn get<'a>(arguments: &'a FieldTable, name: &str) -> Option<&'a AMQPValue> {
    arguments.inner().get(name)
}

/// Refuses what a new queue cannot have. `described` is the queue as reply texts show it.
pub fn check(arguments: &FieldTable, described: &str) -> Result<(), AmqpError> {
    let invalid = |name: &str, detail: String| {
        Err(AmqpError::precondition_failed(format!(
            "invalid arg '{name}' for {described}: {detail}"
        )))
    };
    for (name, value) in arguments.inner() {
        let name = name.as_str();
        let text = match value {
            AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes())),
            _ => None,
        };
        let unacceptable = || format!("{{unacceptable_type,{}}}", type_word(value));
        match (name, text.as_deref()) {
            (TYPE, Some(CLASSIC | "undefined" | "")) => {}
            (TYPE, Some(kind @ ("quorum" | "stream"))) => {
                return Err(AmqpError::not_implemented(format!(
                    "queue type '{kind}' is not supported yet"
                )));
            }
            (TYPE, Some(kind)) => {
                return invalid(name, format!("\"unsupported queue type '{kind}'\""));
            }
            (TYPE | "x-queue-leader-locator", None) => return invalid(name, unacceptable()),
            (
                "x-queue-leader-locator",
                Some("client-local" | "balanced" | "random" | "least-leaders"),
            ) => {}
            ("x-queue-leader-locator", Some(_)) => {
                return invalid(name, "invalid_queue_locator_arg".into());
            }
            ("x-queue-version", _) => match as_integer(value) {
                Some(1 | 2) => {}
                Some(other) => {
                    return invalid(name, format!("\"unsupported queue version '{other}'\""));
                }
                None => {
                    return invalid(
                        name,
                        format!("\"expected integer, got {}\"", type_word(value)),
                    );
                }
            },
            _ if NOT_CLASSIC.contains(&name) => {
                return Err(AmqpError::precondition_failed(format!(
                    "invalid arg '{name}' for {described} of queue type rabbit_classic_queue"
                )));
            }
            _ if NOT_YET.contains(&name) => {
                return Err(AmqpError::not_implemented(format!(
                    "queue argument '{name}' is not supported yet"
                )));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Refuses a declaration whose arguments are not those of the existing queue.
pub fn equivalent(
    current: &FieldTable,
    received: &FieldTable,
    described: &str,
) -> Result<(), AmqpError> {
    for name in COMPARED {
        let pair = (get(received, name), get(current, name));
        let same = if *name == TYPE {
            queue_type(pair.0) == queue_type(pair.1)
        } else {
            same(pair.0, pair.1)
        };
        if same {
            continue;
        }
        if *name == TYPE {
            return Err(inequivalent(
                name,
                described,
                &queue_type(pair.0),
                &queue_type(pair.1),
            ));
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

/// Equal values of the same class: integers of any width are one class, floats another (contract of RabbitMQ's
/// equivalence check).
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
    let of_type =
        |value: &AMQPValue| format!("the value '{}' of type '{}'", show(value), type_word(value));
    let (received, current) = match (received, current) {
        (Some(received), Some(current)) => {
            return inequivalent(name, described, &show(received), &show(current));
        }
        (received, current) => (
            received.map_or("none".to_owned(), of_type),
            current.map_or("none".to_owned(), of_type),
        ),
    };
    AmqpError::precondition_failed(format!(
        "inequivalent arg '{name}' for {described}: received {received} but current is {current}"
    ))
}
