//! Routing as RabbitMQ has it: `key_types` and `headers` read like the specification, `against_lists` compares every type
//! with a plain list of bindings.

mod against_lists;
mod chosen;
mod headers;
mod key_types;

use amq_protocol::types::{AMQPValue, FieldTable};
use leveret_protocol::content::Properties;
use leveret_protocol::value::encode_table;

use super::{ExchangeType, Headers, Router};

type Small = Router<u32>;

/// What an unroutable message reaches.
const NOWHERE: [u32; 0] = [];

fn table(entries: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert((*name).into(), value.clone());
    }
    table
}

fn none() -> FieldTable {
    FieldTable::default()
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.as_bytes().into())
}

/// The properties of a message with these headers.
fn with(headers: Option<Headers<'_>>) -> Properties<'_> {
    Properties { headers, ..Default::default() }
}

/// All destinations found, sorted, without repetitions: what a caller makes of them.
fn routed(router: &Small, key: &[u8], headers: Option<Headers<'_>>) -> Vec<u32> {
    let mut found = Vec::new();
    router.route(&[key], &with(headers), &mut |to| found.push(*to));
    found.sort_unstable();
    found.dedup();
    found
}

fn by_key(router: &Small, key: &str) -> Vec<u32> {
    routed(router, key.as_bytes(), None)
}

/// A router with one binding without arguments per pattern, to 0, 1, 2 and so on.
fn bound(kind: ExchangeType, keys: &[&str]) -> Small {
    let mut router = Router::new(kind);
    for (to, key) in (0..).zip(keys) {
        assert!(router.bind(key.as_bytes(), &none(), to));
    }
    router
}

/// The entries of a table, as a message carries them.
fn raw(headers: &FieldTable) -> Vec<u8> {
    encode_table(headers).split_off(4)
}
