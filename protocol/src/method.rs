//! Methods other than the hot ones, as amq-protocol's types.
//!
//! amq-protocol decodes them, but its errors are all alike, it knows no limit of nesting, and it wants UTF-8 in
//! table keys. So a payload is checked here first, argument by argument, against a table of all methods; after
//! that nothing is left for it to refuse.

use crate::{
    error::AmqpError,
    frame,
    hot::cannot_decode,
    reader::Reader,
    table::{Table, TableError},
    value::encode_table,
};
use amq_protocol::{
    frame::WriteContext,
    protocol::{AMQPClass, gen_class, parse_class},
};

/// The arguments of a method in wire order; neighbouring bits share an octet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arg {
    Bits,
    U8,
    U16,
    U32,
    U64,
    Short,
    Long,
    Table,
}

/// Who may send a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sender {
    Client,
    Server,
    Either,
}

struct Schema {
    ids: (u16, u16),
    sender: Sender,
    args: &'static [Arg],
}

const fn method(class: u16, method: u16, sender: Sender, args: &'static [Arg]) -> Schema {
    Schema { ids: (class, method), sender, args }
}

/// Every method of AMQP 0-9-1 with RabbitMQ's extensions.
#[rustfmt::skip]
static METHODS: &[Schema] = {
    use Arg::*;
    use Sender::*;
    &[
        method(10, 10, Server, &[U8, U8, Table, Long, Long]),
        method(10, 11, Client, &[Table, Short, Long, Short]),
        method(10, 20, Server, &[Long]),
        method(10, 21, Client, &[Long]),
        method(10, 30, Server, &[U16, U32, U16]),
        method(10, 31, Client, &[U16, U32, U16]),
        method(10, 40, Client, &[Short, Short, Bits]),
        method(10, 41, Server, &[Short]),
        method(10, 50, Either, &[U16, Short, U16, U16]),
        method(10, 51, Either, &[]),
        method(10, 60, Server, &[Short]),
        method(10, 61, Server, &[]),
        method(10, 70, Client, &[Long, Short]),
        method(10, 71, Server, &[]),
        method(20, 10, Client, &[Short]),
        method(20, 11, Server, &[Long]),
        method(20, 20, Either, &[Bits]),
        method(20, 21, Either, &[Bits]),
        method(20, 40, Either, &[U16, Short, U16, U16]),
        method(20, 41, Either, &[]),
        method(30, 10, Client, &[Short, Bits]),
        method(30, 11, Server, &[U16]),
        method(40, 10, Client, &[U16, Short, Short, Bits, Table]),
        method(40, 11, Server, &[]),
        method(40, 20, Client, &[U16, Short, Bits]),
        method(40, 21, Server, &[]),
        method(40, 30, Client, &[U16, Short, Short, Short, Bits, Table]),
        method(40, 31, Server, &[]),
        method(40, 40, Client, &[U16, Short, Short, Short, Bits, Table]),
        method(40, 51, Server, &[]),
        method(50, 10, Client, &[U16, Short, Bits, Table]),
        method(50, 11, Server, &[Short, U32, U32]),
        method(50, 20, Client, &[U16, Short, Short, Short, Bits, Table]),
        method(50, 21, Server, &[]),
        method(50, 30, Client, &[U16, Short, Bits]),
        method(50, 31, Server, &[U32]),
        method(50, 40, Client, &[U16, Short, Bits]),
        method(50, 41, Server, &[U32]),
        method(50, 50, Client, &[U16, Short, Short, Short, Table]),
        method(50, 51, Server, &[]),
        method(60, 10, Client, &[U32, U16, Bits]),
        method(60, 11, Server, &[]),
        method(60, 20, Client, &[U16, Short, Short, Bits, Table]),
        method(60, 21, Server, &[Short]),
        method(60, 30, Either, &[Short, Bits]),
        method(60, 31, Either, &[Short]),
        method(60, 40, Client, &[U16, Short, Short, Bits]),
        method(60, 50, Server, &[U16, Short, Short, Short]),
        method(60, 60, Server, &[Short, U64, Bits, Short, Short]),
        method(60, 70, Client, &[U16, Short, Bits]),
        method(60, 71, Server, &[U64, Bits, Short, Short, U32]),
        method(60, 72, Server, &[Short]),
        method(60, 80, Either, &[U64, Bits]),
        method(60, 90, Client, &[U64, Bits]),
        method(60, 100, Client, &[Bits]),
        method(60, 110, Client, &[Bits]),
        method(60, 111, Server, &[]),
        method(60, 120, Either, &[U64, Bits]),
        method(85, 10, Client, &[Bits]),
        method(85, 11, Server, &[]),
        method(90, 10, Client, &[]),
        method(90, 11, Server, &[]),
        method(90, 20, Client, &[]),
        method(90, 21, Server, &[]),
        method(90, 30, Client, &[]),
        method(90, 31, Server, &[]),
    ]
};

fn schema(class: u16, method: u16) -> Option<&'static Schema> {
    METHODS.iter().find(|schema| schema.ids == (class, method))
}

/// The class and method ids a method frame's payload begins with; 0 for what is missing of them.
#[inline]
pub fn ids(payload: &[u8]) -> (u16, u16) {
    match payload.first_chunk() {
        Some(&[c0, c1, m0, m1]) => (u16::from_be_bytes([c0, c1]), u16::from_be_bytes([m0, m1])),
        None => (0, 0),
    }
}

/// The ids of every method there is, in ascending order.
pub fn known_ids() -> impl Iterator<Item = (u16, u16)> {
    METHODS.iter().map(|schema| schema.ids)
}

/// Whether the ids are those of a method.
pub fn is_known(class: u16, method: u16) -> bool {
    schema(class, method).is_some()
}

/// Whether only a server sends this method, so that from a client on an open channel it is answered with
/// [`unimplemented()`]. A client that gets such a thing wrong is no better with `channel.close-ok`,
/// `channel.flow-ok` or `basic.cancel-ok`, which a server never waits for on a channel it has open.
pub fn is_server_method(class: u16, method: u16) -> bool {
    matches!((class, method), (20, 21) | (20, 41) | (60, 31))
        || schema(class, method).is_some_and(|schema| schema.sender == Sender::Server)
}

/// 503 for a method that exists but cannot be served where it came.
pub fn unimplemented(class: u16, method: u16) -> AmqpError {
    AmqpError::command_invalid("unimplemented method").at(class, method)
}

/// Reads the payload of a method frame, ids included.
///
/// Table keys that are not UTF-8 are taken as Latin-1, and of duplicate keys the first counts. A
/// `basic.publish` whose strings are not UTF-8 is refused here, since these types cannot hold it: read it with
/// [`crate::hot::publish`].
///
/// # Errors
/// 503 for unknown ids; 501 `cannot decode` for arguments too short, too long, or with a table that does not
/// fit the frame; 501 `Malformed UTF-8 in shortstr` (naming no method); 502 for a damaged table, an unknown
/// field type, or more than [`crate::table::MAX_DEPTH`] levels.
pub fn decode(payload: &[u8]) -> Result<AMQPClass, AmqpError> {
    let (class, method) = ids(payload);
    let schema = schema(class, method)
        .ok_or_else(|| AmqpError::command_invalid(format!("unknown method {{{class},{method}}}")).at(class, method))?;
    let found = check(payload, schema.args).ok_or_else(|| cannot_decode(payload, class, method))?;
    if !found.utf8 {
        return Err(AmqpError::frame_error("Malformed UTF-8 in shortstr"));
    }
    let rewritten = match found.table {
        Some(place) => {
            rewrite(payload, place).map_err(|error| AmqpError::syntax_error(error.to_string()).at(class, method))?
        }
        None => None,
    };
    match parse_class(rewritten.as_deref().unwrap_or(payload)) {
        Ok((&[], class)) => Ok(class),
        _ => Err(cannot_decode(payload, class, method)),
    }
}

/// What a first pass over the arguments found.
struct Found {
    utf8: bool,
    /// Where the octets of the table are, without its length. No method has two.
    table: Option<(usize, usize)>,
}

/// `None` when the arguments do not have exactly the lengths they claim.
fn check(payload: &[u8], args: &[Arg]) -> Option<Found> {
    let mut reader = Reader(payload.get(4..)?);
    let mut found = Found { utf8: true, table: None };
    for arg in args {
        match arg {
            Arg::Bits | Arg::U8 => reader.take(1).map(drop)?,
            Arg::U16 => reader.take(2).map(drop)?,
            Arg::U32 => reader.take(4).map(drop)?,
            Arg::U64 => reader.take(8).map(drop)?,
            Arg::Short => found.utf8 &= std::str::from_utf8(reader.short()?).is_ok(),
            Arg::Long => reader.long().map(drop)?,
            Arg::Table => {
                let table = reader.long()?;
                let end = payload.len() - reader.0.len();
                found.table = Some((end - table.len(), end));
            }
        }
    }
    reader.is_empty().then_some(found)
}

/// The payload with its table written anew from our own reading, which takes any octets as keys and keeps the
/// first of duplicates; `None` when the table is empty and may stay.
fn rewrite(payload: &[u8], (start, end): (usize, usize)) -> Result<Option<Vec<u8>>, TableError> {
    let table = Table::parse(payload.get(start..end).unwrap_or_default())?;
    if table.is_empty() {
        return Ok(None);
    }
    let before = payload.get(..start.saturating_sub(4)).unwrap_or_default();
    let after = payload.get(end..).unwrap_or_default();
    Ok(Some([before, &encode_table(&table.to_amq()), after].concat()))
}

/// Appends a whole method frame.
///
/// The caller keeps it within the peer's `frame_max`: only tables and long strings of its own making could
/// exceed it.
pub fn encode(out: &mut Vec<u8>, channel: u16, method: &AMQPClass) {
    // Writing to memory fails only for a table above 4 GiB, which nobody here makes.
    if let Ok(written) = gen_class(method)(WriteContext::from(Vec::with_capacity(64))) {
        frame::encode(out, frame::METHOD, channel, &written.write);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use amq_protocol::{protocol::queue, types::AMQPValue};

    /// queue.declare of `q` with these octets as the arguments table, its length included.
    fn declare(queue: &[u8], table: &[u8]) -> Vec<u8> {
        let length = u8::try_from(queue.len()).expect("short");
        [&[0, 50, 0, 10, 0, 0, length][..], queue, &[0], table].concat()
    }

    fn table(entries: &[u8]) -> Vec<u8> {
        [&u32::try_from(entries.len()).expect("small").to_be_bytes()[..], entries].concat()
    }

    #[track_caller]
    fn refused(payload: &[u8], text: &str, ids: (u16, u16)) {
        let error = decode(payload).expect_err("must be refused");
        assert_eq!((error.reply_text().as_str(), (error.class, error.method)), (text, ids));
        assert!(!error.fatal);
    }

    #[test]
    fn unknown_ids_are_refused_with_those_ids() {
        refused(&[0, 60, 0, 99], "COMMAND_INVALID - unknown method {60,99}", (60, 99));
        refused(&[0, 77, 0, 10], "COMMAND_INVALID - unknown method {77,10}", (77, 10));
    }

    #[test]
    fn arguments_too_short_or_too_long_cannot_be_decoded() {
        refused(&[0, 20, 0, 10], "FRAME_ERROR - cannot decode <<>>", (20, 10));
        refused(&[0, 20, 0, 10, 0, 7], "FRAME_ERROR - cannot decode <<0,7>>", (20, 10));
        refused(&declare(b"q", &[0, 0, 0, 1]), "FRAME_ERROR - cannot decode <<0,0,1,113,0,0,0,0,1>>", (50, 10));
    }

    #[test]
    fn short_strings_must_be_utf8() {
        refused(&declare(b"\xFF", &table(b"")), "FRAME_ERROR - Malformed UTF-8 in shortstr", (0, 0));
    }

    #[test]
    fn a_damaged_table_is_a_syntax_error() {
        refused(&declare(b"q", &table(b"\x01kU\0\0")), "SYNTAX_ERROR - unknown field type 85", (50, 10));
        refused(
            &declare(b"q", &table(b"\x01kS\0\0\0\x09")),
            "SYNTAX_ERROR - field runs past the end of its table",
            (50, 10),
        );
    }

    #[test]
    fn table_keys_may_be_any_octets() {
        let decoded = decode(&declare(b"q", &table(b"\x02\xFF\xFEt\x01\x01kI\0\0\0\x05"))).expect("well-formed");
        let AMQPClass::Queue(queue::AMQPMethod::Declare(declare)) = decoded else { panic!("{decoded:?}") };
        assert_eq!(declare.arguments.inner().get("ÿþ"), Some(&AMQPValue::Boolean(true)));
        assert_eq!(declare.arguments.inner().get("k"), Some(&AMQPValue::LongInt(5)));
    }

    #[test]
    fn server_methods_are_told_apart() {
        for ids in [(60, 60), (60, 71), (60, 21), (50, 11), (10, 10), (20, 41), (20, 21), (60, 31)] {
            assert!(is_server_method(ids.0, ids.1), "{ids:?}");
        }
        for ids in [(60, 80), (60, 120), (60, 30), (20, 40), (20, 20), (10, 50), (10, 51), (60, 40)] {
            assert!(!is_server_method(ids.0, ids.1), "{ids:?}");
        }
    }
}
