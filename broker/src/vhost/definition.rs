//! Durable exchanges, queues and bindings as storage keeps them: a key that names the thing, a value that describes it.
//! What administrators set is in `records`, under keys of the same make.
//!
//! Key: kind (1 octet), virtual host, then the names, each with its length (u32, big-endian) before it. Value: one
//! octet of flags, numbers big-endian, argument tables as on the wire.

use leveret_protocol::amq::FieldTable;
use leveret_protocol::value::{decode_table, encode_table};
use thiserror::Error;

use super::command::{BindingSpec, DestinationKind, ExchangeDeclare, QueueDeclare};
use super::records::{self, Record};
use crate::queue::lifetimes::Lifetimes;

/// A definition that cannot be read back.
#[derive(Debug, Error)]
#[error("a stored definition is damaged or of an unknown kind")]
pub struct BadDefinition;

/// Messages of a queue that came back unsettled, as a clean stop notes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Returned {
    pub first: u64,
    pub count: u64,
    /// How often.
    pub returns: u32,
}

/// What recovery finds.
pub enum Definition {
    /// Which messages of the queue with this id were redelivered when the broker was stopped; id 0: every queue was
    /// asked, so that one without an entry has none.
    Returned(u64, Vec<Returned>),
    /// With its id in storage, if it holds messages back.
    Exchange(Option<u64>, ExchangeDeclare),
    Queue(u64, QueueDeclare),
    /// How the time to live of the queue with this id has changed.
    Lifetimes(u64, Lifetimes),
    /// With its place among the bindings of its source, where that matters.
    Binding(Option<u64>, BindingSpec),
    /// What an administrator has set. A user belongs to no virtual host.
    Record(Record),
}

const EXCHANGE: u8 = b'x';
const QUEUE: u8 = b'q';
const BINDING: u8 = b'b';
const RETURNED: u8 = b'r';
const LIFETIMES: u8 = b'l';

// Flags of an exchange.
const AUTO_DELETE: u8 = 1;
const INTERNAL: u8 = 2;
const HAS_ID: u8 = 4;

pub type Key = Box<[u8]>;
pub type Value = Box<[u8]>;

pub fn exchange_key(vhost: &str, name: &str) -> Key {
    key(EXCHANGE, &[vhost.as_bytes(), name.as_bytes()])
}

pub fn queue_key(vhost: &str, name: &str) -> Key {
    key(QUEUE, &[vhost.as_bytes(), name.as_bytes()])
}

pub fn binding_key(vhost: &str, binding: &BindingSpec) -> Key {
    let kind: &[u8] = match binding.kind {
        DestinationKind::Queue => b"q",
        DestinationKind::Exchange => b"x",
    };
    let arguments = encode_table(&binding.arguments);
    key(
        BINDING,
        &[vhost.as_bytes(), binding.source.as_bytes(), kind, binding.destination.as_bytes(), &binding.key, &arguments],
    )
}

pub(super) fn key(kind: u8, parts: &[&[u8]]) -> Key {
    let mut key = vec![kind];
    for part in parts {
        key.extend_from_slice(&(part.len() as u32).to_be_bytes());
        key.extend_from_slice(part);
    }
    key.into()
}

/// `order`: a number larger than those of older bindings, for exchanges to which the order means something.
pub fn binding_value(order: Option<u64>) -> Value {
    order.map_or(Box::default(), |order| Box::new(order.to_be_bytes()))
}

pub fn returned_key(queue: u64) -> Key {
    key(RETURNED, &[b"", &queue.to_be_bytes()])
}

pub fn lifetimes_key(queue: u64) -> Key {
    key(LIFETIMES, &[b"", &queue.to_be_bytes()])
}

pub fn returned_value(returned: &[Returned]) -> Value {
    let entry = |entry: &Returned| {
        let (first, count) = (entry.first.to_be_bytes(), entry.count.to_be_bytes());
        [&first[..], &count, &entry.returns.to_be_bytes()].concat()
    };
    returned.iter().flat_map(entry).collect()
}

fn returned(value: &[u8]) -> Result<Vec<Returned>, BadDefinition> {
    let (entries, rest) = value.as_chunks::<20>();
    if !rest.is_empty() {
        return Err(BadDefinition);
    }
    let number = |octets: &[u8]| octets.iter().fold(0u64, |number, octet| number << 8 | u64::from(*octet));
    let entry = |entry: &[u8; 20]| {
        let (first, count, returns) = (number(&entry[..8]), number(&entry[8..16]), number(&entry[16..]) as u32);
        Returned { first, count, returns }
    };
    Ok(entries.iter().map(entry).collect())
}

/// `id`: of what it holds back, for exchanges that do.
pub fn exchange_value(id: Option<u64>, declare: &ExchangeDeclare) -> Value {
    let flags = [(declare.auto_delete, AUTO_DELETE), (declare.internal, INTERNAL), (id.is_some(), HAS_ID)];
    let mut value = vec![flags.iter().filter(|(set, _)| *set).map(|(_, flag)| flag).sum()];
    value.extend(id.iter().flat_map(|id| id.to_be_bytes()));
    value.extend_from_slice(&(declare.kind.len() as u32).to_be_bytes());
    value.extend_from_slice(declare.kind.as_bytes());
    value.extend_from_slice(&encode_table(&declare.arguments));
    value.into()
}

pub fn queue_value(id: u64, declare: &QueueDeclare) -> Value {
    let mut value = vec![u8::from(declare.auto_delete)];
    value.extend_from_slice(&id.to_be_bytes());
    value.extend_from_slice(&encode_table(&declare.arguments));
    value.into()
}

/// The virtual host and the definition.
pub fn decode(key: &[u8], value: &[u8]) -> Result<(Box<str>, Definition), BadDefinition> {
    let (kind, mut rest) = key.split_first().ok_or(BadDefinition)?;
    let vhost = text(part(&mut rest)?)?;
    let definition = match *kind {
        EXCHANGE => {
            let name = text(part(&mut rest)?)?;
            let (flags, mut value) = value.split_first().ok_or(BadDefinition)?;
            let mut id = None;
            if flags & HAS_ID != 0 {
                let (octets, rest) = value.split_first_chunk().ok_or(BadDefinition)?;
                (id, value) = (Some(u64::from_be_bytes(*octets)), rest);
            }
            let declare = ExchangeDeclare {
                name,
                kind: text(part(&mut value)?)?,
                durable: true,
                auto_delete: flags & AUTO_DELETE != 0,
                internal: flags & INTERNAL != 0,
                arguments: table(value)?,
            };
            Definition::Exchange(id, declare)
        }
        QUEUE => {
            let name = text(part(&mut rest)?)?;
            let (flags, value) = value.split_first().ok_or(BadDefinition)?;
            let (id, arguments) = value.split_first_chunk::<8>().ok_or(BadDefinition)?;
            let declare = QueueDeclare {
                name,
                passive: false,
                durable: true,
                exclusive: false,
                auto_delete: flags & 1 != 0,
                arguments: table(arguments)?,
            };
            Definition::Queue(u64::from_be_bytes(*id), declare)
        }
        BINDING => {
            let order = value.first_chunk().map(|octets| u64::from_be_bytes(*octets));
            let binding = BindingSpec {
                source: text(part(&mut rest)?)?,
                kind: match part(&mut rest)? {
                    b"q" => DestinationKind::Queue,
                    b"x" => DestinationKind::Exchange,
                    _ => return Err(BadDefinition),
                },
                destination: text(part(&mut rest)?)?,
                key: part(&mut rest)?.into(),
                arguments: table(part(&mut rest)?)?,
            };
            Definition::Binding(order, binding)
        }
        RETURNED => {
            let id = part(&mut rest)?.try_into().map_err(|_| BadDefinition)?;
            Definition::Returned(u64::from_be_bytes(id), returned(value)?)
        }
        LIFETIMES => {
            let id = part(&mut rest)?.try_into().map_err(|_| BadDefinition)?;
            Definition::Lifetimes(u64::from_be_bytes(id), Lifetimes::read(value).ok_or(BadDefinition)?)
        }
        kind @ (records::USER
        | records::VHOST
        | records::PERMISSIONS
        | records::TOPIC_PERMISSIONS
        | records::POLICY
        | records::OPERATOR_POLICY) => {
            let mut names = Vec::new();
            while !rest.is_empty() {
                names.push(text(part(&mut rest)?)?);
            }
            Definition::Record(Record::read(kind, &names, value)?)
        }
        _ => return Err(BadDefinition),
    };
    Ok((vhost, definition))
}

fn part<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], BadDefinition> {
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or(BadDefinition)?;
    let (part, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or(BadDefinition)?;
    *bytes = rest;
    Ok(part)
}

fn text(bytes: &[u8]) -> Result<Box<str>, BadDefinition> {
    std::str::from_utf8(bytes).map(Box::from).map_err(|_| BadDefinition)
}

fn table(bytes: &[u8]) -> Result<FieldTable, BadDefinition> {
    decode_table(bytes).map_err(|_| BadDefinition)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declare() -> ExchangeDeclare {
        let mut arguments = FieldTable::default();
        arguments.insert("x-delayed-type".into(), leveret_protocol::amq::AMQPValue::LongString("topic".into()));
        let (name, kind) = ("x".into(), "x-delayed-message".into());
        ExchangeDeclare { name, kind, durable: true, auto_delete: true, internal: false, arguments }
    }

    fn read(value: &[u8]) -> (Option<u64>, ExchangeDeclare) {
        match decode(&exchange_key("/", "x"), value) {
            Ok((_, Definition::Exchange(id, declare))) => (id, declare),
            _ => panic!("an exchange"),
        }
    }

    #[test]
    fn an_exchange_comes_back_with_the_id_of_what_it_holds_back_if_it_has_one() {
        for id in [None, Some(0x0102_0304_0506_0708)] {
            let (found, read) = read(&exchange_value(id, &declare()));
            assert_eq!(found, id);
            assert_eq!(
                (&*read.name, &*read.kind, read.auto_delete, read.internal),
                ("x", "x-delayed-message", true, false)
            );
            assert_eq!(read.arguments, declare().arguments);
        }
    }

    #[test]
    fn exchanges_written_before_there_were_ids_are_read() {
        let (id, declare) = read(b"\x03\0\0\0\x06fanout\0\0\0\0");
        assert_eq!((id, &*declare.kind, declare.auto_delete, declare.internal), (None, "fanout", true, true));
    }
}
