//! What a headers binding asks for, and what a message offers: both brought to one form in which equal values are
//! equal bytes, so that they can be compared and looked up.

use std::sync::Arc;

use amq_protocol::types::{AMQPValue, FieldTable};
use leveret_protocol::error::octets;
use leveret_protocol::table::{Table, TableError, Value};
use leveret_protocol::value::{encode_table, show, type_word};

/// Why an exchange refuses a binding. The display is the text of a 406.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindingError {
    /// `x-match` is none of the four words.
    #[error("Invalid x-match field value {0}; expected all, any, all-with-x, or any-with-x")]
    MatchValue(String),
    /// `x-match` is not a long string.
    #[error("Invalid x-match field type {kind} (value {value}); expected longstr")]
    MatchType {
        /// RabbitMQ's word for the type.
        kind: &'static str,
        /// The value as RabbitMQ prints it.
        value: String,
    },
    /// The key of a binding to x-consistent-hash is not a weight.
    #[error("The binding key must be an integer: {0}")]
    WeightNotInteger(String),
    /// The weight is too small.
    #[error("The binding key must be greater than 0")]
    WeightTooSmall,
    /// A binding to x-local-random has a key.
    #[error("Non empty binding '{0}' key not permitted")]
    KeyNotEmpty(String),
    /// The arguments are nested too deeply to be compared; a client cannot send such a table.
    #[error("Invalid arguments: {0}")]
    Table(#[from] TableError),
}

/// How many of the criteria must be met, and which arguments are criteria.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Mode {
    any: bool,
    with_x: bool,
}

impl Mode {
    fn of(arguments: &FieldTable) -> Result<Self, BindingError> {
        let word = match arguments.inner().get("x-match") {
            None => &b"all"[..],
            Some(AMQPValue::LongString(word)) => word.as_bytes(),
            Some(AMQPValue::ByteArray(bytes)) => {
                return Err(BindingError::MatchType { kind: "binary", value: octets(bytes.as_slice()) });
            }
            Some(other) => {
                return Err(BindingError::MatchType { kind: type_word(other), value: show(other) });
            }
        };
        let (any, with_x) = match word {
            b"all" => (false, false),
            b"any" => (true, false),
            b"all-with-x" => (false, true),
            b"any-with-x" => (true, true),
            other => return Err(BindingError::MatchValue(octets(other))),
        };
        Ok(Self { any, with_x })
    }

    fn counts(self, name: &[u8]) -> bool {
        if self.with_x { name != b"x-match" } else { !name.starts_with(b"x-") }
    }
}

/// What the arguments of one binding ask for.
pub(super) struct Criteria {
    pub any: bool,
    pub list: Vec<Criterion>,
}

impl Criteria {
    /// # Errors
    /// As [`super::Router::validate`] says.
    pub fn of(arguments: &FieldTable) -> Result<Self, BindingError> {
        let mode = Mode::of(arguments)?;
        let bytes = encode_table(arguments);
        let table = Table::parse(bytes.get(4..).unwrap_or_default())?;
        let wanted = table.iter().filter(|(name, _)| mode.counts(name));
        Ok(Self { any: mode.any, list: wanted.map(|(name, value)| Criterion::of(name, &value)).collect() })
    }

    /// Matches no message.
    pub fn never() -> Self {
        Self { any: true, list: Vec::new() }
    }

    pub fn met_by(&self, message: &Offer<'_>) -> bool {
        if self.any {
            self.list.iter().any(|one| message.meets(one))
        } else {
            self.list.iter().all(|one| message.meets(one))
        }
    }
}

/// One argument: the name (its length first), and the value in its comparable form, which is empty when any will do.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Criterion {
    name_end: usize,
    bytes: Arc<[u8]>,
}

impl Criterion {
    fn of(name: &[u8], value: &Value<'_>) -> Self {
        let mut bytes = Vec::new();
        put_name(name, &mut bytes);
        let name_end = bytes.len();
        if *value != Value::Void {
            put_comparable(value, &mut bytes);
        }
        Self { name_end, bytes: bytes.into() }
    }

    /// What a message must offer to meet it; as the name of an index entry.
    pub fn key(&self) -> &Arc<[u8]> {
        &self.bytes
    }
}

/// The headers of one message; of several with one name only the last.
pub(super) struct Offer<'a> {
    /// All headers one after the other, each in the form of a [`Criterion`] that wants just its value.
    bytes: Vec<u8>,
    /// Sorted by name.
    headers: Vec<Header<'a>>,
}

struct Header<'a> {
    name: &'a [u8],
    start: usize,
    name_end: usize,
    end: usize,
}

impl<'a> Offer<'a> {
    pub fn of(table: Table<'a>) -> Self {
        let mut entries: Vec<(&[u8], Value<'_>)> = table.iter().collect();
        entries.reverse();
        entries.sort_by_key(|(name, _)| *name); // a stable sort: of equal names the last sent is in front
        entries.dedup_by_key(|(name, _)| *name);

        let mut bytes = Vec::with_capacity(2 * table.bytes().len());
        let mut headers = Vec::with_capacity(entries.len());
        for (name, value) in entries {
            let start = bytes.len();
            put_name(name, &mut bytes);
            let name_end = bytes.len();
            put_comparable(&value, &mut bytes);
            headers.push(Header { name, start, name_end, end: bytes.len() });
        }
        Self { bytes, headers }
    }

    /// The keys of all criteria that this message meets.
    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.headers.iter().flat_map(|header| {
            let by_presence = &self.bytes[header.start..header.name_end];
            [by_presence, &self.bytes[header.start..header.end]]
        })
    }

    fn meets(&self, criterion: &Criterion) -> bool {
        let (name, wanted) = criterion.bytes.split_at(criterion.name_end);
        let name = &name[NAME_LENGTH..];
        let Ok(at) = self.headers.binary_search_by_key(&name, |h| h.name) else {
            return false;
        };
        let header = &self.headers[at];
        wanted.is_empty() || *wanted == self.bytes[header.name_end..header.end]
    }
}

/// Octets of the length before a name.
const NAME_LENGTH: usize = 4;

fn put_name(name: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(name.len() as u32).to_be_bytes());
    out.extend_from_slice(name);
}

/// Appends `value` so that the bytes are equal exactly if a headers exchange calls the values equal: by what was
/// decoded, not by how it was tagged. An empty table equals an empty array then, as both are an empty list.
fn put_comparable(value: &Value<'_>, out: &mut Vec<u8>) {
    match *value {
        Value::I8(v) => put_number(v.into(), out),
        Value::U8(v) => put_number(v.into(), out),
        Value::I16(v) => put_number(v.into(), out),
        Value::U16(v) => put_number(v.into(), out),
        Value::I32(v) => put_number(v.into(), out),
        Value::U32(v) => put_number(v.into(), out),
        Value::I64(v) => put_number(v.into(), out),
        Value::Timestamp(v) => put_number(v.into(), out),
        Value::F32(v) => put_float(v.into(), out),
        Value::F64(v) => put_float(v, out),
        Value::LongStr(v) | Value::Bytes(v) => {
            out.push(b'S');
            out.extend_from_slice(v);
        }
        Value::Array(v) if v.is_empty() => out.push(b'A'),
        Value::Table(v) if v.is_empty() => out.push(b'A'),
        Value::Bool(_) | Value::Decimal { .. } | Value::Array(_) | Value::Table(_) | Value::Void => {
            put_tagged(value, out)
        }
    }
}

/// The bytes of a value alone, as [`put_comparable`] makes them.
pub(super) fn comparable(value: &Value<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_comparable(value, &mut bytes);
    bytes
}

fn put_number(number: i128, out: &mut Vec<u8>) {
    out.push(b'n');
    out.extend_from_slice(&number.to_be_bytes());
}

fn put_float(number: f64, out: &mut Vec<u8>) {
    out.push(b'd');
    out.extend_from_slice(&(number + 0.0).to_be_bytes()); // adding 0.0 makes -0.0, which equals it, 0.0
}

/// Appends `value` with its tag, which counts inside tables and arrays. Tables are sorted by name.
fn put_tagged(value: &Value<'_>, out: &mut Vec<u8>) {
    let mut put = |tag: u8, bytes: &[u8]| {
        out.push(tag);
        out.extend_from_slice(bytes);
    };
    match *value {
        Value::Bool(v) => put(b't', &[v.into()]),
        Value::I8(v) => put(b'b', &v.to_be_bytes()),
        Value::U8(v) => put(b'B', &v.to_be_bytes()),
        Value::I16(v) => put(b's', &v.to_be_bytes()),
        Value::U16(v) => put(b'u', &v.to_be_bytes()),
        Value::I32(v) => put(b'I', &v.to_be_bytes()),
        Value::U32(v) => put(b'i', &v.to_be_bytes()),
        Value::I64(v) => put(b'l', &v.to_be_bytes()),
        Value::Timestamp(v) => put(b'T', &v.to_be_bytes()),
        Value::F32(v) => put(b'f', &(v + 0.0).to_be_bytes()),
        Value::F64(v) => put(b'd', &(v + 0.0).to_be_bytes()),
        Value::Decimal { scale, value } => {
            put(b'D', &[scale]);
            out.extend_from_slice(&value.to_be_bytes());
        }
        Value::LongStr(v) => with_length(b'S', out, |out| out.extend_from_slice(v)),
        Value::Bytes(v) => with_length(b'x', out, |out| out.extend_from_slice(v)),
        Value::Array(v) => with_length(b'A', out, |out| {
            v.iter().for_each(|item| put_tagged(&item, out));
        }),
        Value::Table(v) => with_length(b'F', out, |out| {
            let mut entries: Vec<(&[u8], Value<'_>)> = v.iter().collect();
            entries.sort_by_key(|(name, _)| *name);
            for (name, value) in entries {
                put_name(name, out);
                put_tagged(&value, out);
            }
        }),
        Value::Void => put(b'V', &[]),
    }
}

fn with_length(tag: u8, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    let start = out.len() + 4;
    out.extend_from_slice(&[0; 4]);
    write(out);
    let length = (out.len() - start) as u32;
    out[start - 4..start].copy_from_slice(&length.to_be_bytes());
}
