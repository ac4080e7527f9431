//! Exchanges as pure routing tables: bindings, a key and headers in, destinations out (AMQP 0-9-1 section 3.1.3 as
//! RabbitMQ extends it). No names, no flags, no waiting.
//!
//! All tables are persistent: a clone costs next to nothing and is a snapshot that later changes do not touch, while
//! a change copies only the path to where it is made. So one owner binds and unbinds, and every reader routes by
//! the last clone it was given.

mod bindings;
mod consistent;
mod criteria;
mod direct;
mod fanout;
mod hash;
mod headers;
mod listed;
mod positions;
mod small_map;
#[cfg(test)]
mod tests;
mod topic;

use std::hash::Hash;

use amq_protocol::types::{AMQPValue, FieldTable};
use leveret_protocol::content::Properties;
use leveret_protocol::error::{octets, text_of};
use leveret_protocol::value::{as_integer, show};

pub use criteria::BindingError;

use bindings::Arguments;
use consistent::{ConsistentTable, HashOn};
use criteria::Criteria;
use direct::DirectTable;
use fanout::FanoutTable;
use headers::HeadersTable;
use listed::ListedTable;
use topic::TopicTable;

/// The headers of a message, as the publisher sent them.
pub type Headers<'a> = leveret_protocol::table::Table<'a>;

/// What a binding leads to: a handle of a queue or of another exchange. Cloned when tables are copied, so it should
/// be cheap to clone.
pub trait Destination: Clone + Eq + Hash {}

impl<D: Clone + Eq + Hash> Destination for D {}

/// The types of exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExchangeType {
    /// The binding key equals the routing key.
    Direct,
    /// Every binding matches.
    Fanout,
    /// Binding keys are patterns of words.
    Topic,
    /// Binding arguments are compared with the message's headers.
    Headers,
    /// One destination, by a hash and by weights; it stays while bindings do.
    ConsistentHash,
    /// One destination, by a hash of the routing keys modulo the number of bindings.
    ModulusHash,
    /// One destination, by chance.
    Random,
    /// One queue, by chance; keys are empty.
    LocalRandom,
    /// Every binding matches, and new ones get the last messages.
    RecentHistory,
}

/// Messages that an x-recent-history exchange keeps unless it is told otherwise.
const HISTORY: usize = 20;

/// Why an exchange's arguments are refused. The display is the text of a 406.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentError {
    /// Both ways of naming what is hashed.
    #[error("hash-header and hash-property are mutually exclusive")]
    HeaderAndProperty,
    /// `hash-property` names none of `message_id`, `correlation_id`, `timestamp`.
    #[error("Unsupported property: {0}")]
    Property(String),
    /// An argument that must be a long string is something else.
    #[error("invalid type '{kind}' for arg '{name}'")]
    Type {
        /// The argument.
        name: &'static str,
        /// RabbitMQ's word for the type it has.
        kind: &'static str,
    },
    /// `x-recent-history-length` is no integer above 0.
    #[error("Invalid argument {0}, 'x-recent-history-length' must be a positive integer")]
    HistoryLength(String),
}

/// How many messages an x-recent-history exchange with these arguments keeps.
///
/// # Errors
/// As [`ArgumentError::HistoryLength`] says.
pub fn history_length(arguments: &FieldTable) -> Result<usize, ArgumentError> {
    let Some(value) = arguments.inner().get("x-recent-history-length") else {
        return Ok(HISTORY);
    };
    let length = as_integer(value).and_then(|length| usize::try_from(length).ok());
    length.filter(|length| *length > 0).ok_or_else(|| {
        ArgumentError::HistoryLength(match value {
            AMQPValue::LongString(text) => octets(text.as_bytes()),
            AMQPValue::ByteArray(bytes) => octets(bytes.as_slice()),
            other => show(other),
        })
    })
}

/// The header with which a publisher keeps a message out of the history.
const NO_STORE: &[u8] = b"x-recent-history-no-store";

/// Whether a message goes into the history of the x-recent-history exchanges that it comes by.
pub fn is_history(headers: Option<Headers<'_>>) -> bool {
    let value = headers.and_then(|headers| headers.get_last(NO_STORE));
    !matches!(value, Some(leveret_protocol::table::Value::Bool(true)))
}

impl ExchangeType {
    /// The type with that name, as in exchange.declare. Case matters.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "direct" => Self::Direct,
            "fanout" => Self::Fanout,
            "topic" => Self::Topic,
            "headers" => Self::Headers,
            "x-consistent-hash" => Self::ConsistentHash,
            "x-modulus-hash" => Self::ModulusHash,
            "x-random" => Self::Random,
            "x-local-random" => Self::LocalRandom,
            "x-recent-history" => Self::RecentHistory,
            _ => return None,
        })
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Fanout => "fanout",
            Self::Topic => "topic",
            Self::Headers => "headers",
            Self::ConsistentHash => "x-consistent-hash",
            Self::ModulusHash => "x-modulus-hash",
            Self::Random => "x-random",
            Self::LocalRandom => "x-local-random",
            Self::RecentHistory => "x-recent-history",
        }
    }
}

/// The bindings of one exchange as source, arranged for routing. A clone is a snapshot and costs O(1); a change
/// costs O(log bindings), for a topic O(words of the key), whether or not clones are alive.
///
/// Keys are bytes. Binding keys are expected to be short strings, of at most 255 octets.
#[derive(Clone)]
pub struct Router<D> {
    table: Table<D>,
}

#[derive(Clone)]
enum Table<D> {
    Direct(DirectTable<D>),
    Fanout(FanoutTable<D>),
    Topic(TopicTable<D>),
    Headers(HeadersTable<D>),
    ConsistentHash(ConsistentTable<D>),
    ModulusHash(ListedTable<D>),
    Random(ListedTable<D>),
    RecentHistory(FanoutTable<D>),
}

impl<D: Destination> Router<D> {
    /// A table without bindings, for an exchange declared without arguments.
    pub fn new(kind: ExchangeType) -> Self {
        Self::of(kind, HashOn::RoutingKey)
    }

    /// A table without bindings, for an exchange declared with `arguments`.
    ///
    /// # Errors
    /// The arguments say something that this type of exchange minds; others are not looked at.
    pub fn declared(kind: ExchangeType, arguments: &FieldTable) -> Result<Self, ArgumentError> {
        match kind {
            ExchangeType::ConsistentHash => return Ok(Self::of(kind, HashOn::of(arguments)?)),
            ExchangeType::RecentHistory => drop(history_length(arguments)?),
            _ => {}
        }
        Ok(Self::new(kind))
    }

    fn of(kind: ExchangeType, on: HashOn) -> Self {
        let table = match kind {
            ExchangeType::Direct => Table::Direct(DirectTable::new()),
            ExchangeType::Fanout => Table::Fanout(FanoutTable::new()),
            ExchangeType::Topic => Table::Topic(TopicTable::new()),
            ExchangeType::Headers => Table::Headers(HeadersTable::new()),
            ExchangeType::ConsistentHash => Table::ConsistentHash(ConsistentTable::new(on)),
            ExchangeType::ModulusHash => Table::ModulusHash(ListedTable::new()),
            ExchangeType::Random | ExchangeType::LocalRandom => Table::Random(ListedTable::new()),
            ExchangeType::RecentHistory => Table::RecentHistory(FanoutTable::new()),
        };
        Self { table }
    }

    /// Checks what only this type of exchange minds about a binding: for headers, that `x-match` is a long string
    /// and one of `all`, `any`, `all-with-x`, `any-with-x`; for x-consistent-hash, that the key is a weight; for
    /// x-local-random, that it is empty.
    ///
    /// # Errors
    /// The display of the error is the text of a channel error 406.
    pub fn validate(kind: ExchangeType, key: &[u8], arguments: &FieldTable) -> Result<(), BindingError> {
        match kind {
            ExchangeType::Headers => Criteria::of(arguments).map(drop),
            ExchangeType::ConsistentHash => consistent::weight(key).map(drop),
            ExchangeType::LocalRandom if !key.is_empty() => Err(BindingError::KeyNotEmpty(text_of(key))),
            _ => Ok(()),
        }
    }

    /// Adds a binding. False: there is one already with this destination, key and arguments (as a set of name, type
    /// and value), and nothing has changed. A binding that [`Router::validate`] refuses is kept but matches nothing.
    pub fn bind(&mut self, key: &[u8], arguments: &FieldTable, to: D) -> bool {
        match &mut self.table {
            Table::Direct(table) => table.bind(key, (to, Arguments::of(arguments))),
            Table::Topic(table) => table.bind(key, (to, Arguments::of(arguments))),
            Table::Headers(table) => table.bind(key, arguments, to),
            Table::ConsistentHash(table) => table.bind(key, (to, Arguments::of(arguments))),
            Table::ModulusHash(table) | Table::Random(table) => table.bind(key, (to, Arguments::of(arguments))),
            Table::Fanout(table) | Table::RecentHistory(table) => table.bind(key, (to, Arguments::of(arguments))),
        }
    }

    /// Removes a binding. False: there was none with this destination, key and arguments.
    pub fn unbind(&mut self, key: &[u8], arguments: &FieldTable, to: &D) -> bool {
        let to = to.clone();
        match &mut self.table {
            Table::Direct(table) => table.unbind(key, &(to, Arguments::of(arguments))),
            Table::Topic(table) => table.unbind(key, &(to, Arguments::of(arguments))),
            Table::Headers(table) => table.unbind(key, arguments, to),
            Table::ConsistentHash(table) => table.unbind(key, (to, Arguments::of(arguments))),
            Table::ModulusHash(table) | Table::Random(table) => table.unbind(key, (to, Arguments::of(arguments))),
            Table::Fanout(table) | Table::RecentHistory(table) => table.unbind(key, (to, Arguments::of(arguments))),
        }
    }

    /// Calls `found` for the destination of each binding that matches a message with these routing keys (that of the
    /// publish first, then CC and BCC), in no particular order; a destination with several matching bindings may
    /// come several times.
    pub fn route(&self, keys: &[&[u8]], properties: &Properties<'_>, found: &mut dyn FnMut(&D)) {
        match &self.table {
            Table::Direct(table) => keys.iter().for_each(|key| table.route(key, found)),
            Table::Topic(table) => keys.iter().for_each(|key| table.route(key, found)),
            Table::Headers(table) => table.route(properties.headers, found),
            Table::ConsistentHash(table) => table.route(keys, properties, found),
            Table::ModulusHash(table) => table.route_by_keys(keys, found),
            Table::Random(table) => table.route_by_chance(found),
            Table::Fanout(table) | Table::RecentHistory(table) => table.route(found),
        }
    }

    /// Whether messages with the same routing keys may go different ways.
    pub fn beyond_keys(&self) -> bool {
        match &self.table {
            Table::Direct(_) | Table::Fanout(_) | Table::Topic(_) => false,
            Table::ModulusHash(_) | Table::RecentHistory(_) => false,
            Table::ConsistentHash(table) => table.beyond_key(),
            Table::Headers(_) | Table::Random(_) => true,
        }
    }

    /// Whether there are no bindings.
    pub fn is_empty(&self) -> bool {
        match &self.table {
            Table::Direct(table) => table.is_empty(),
            Table::Topic(table) => table.is_empty(),
            Table::Headers(table) => table.is_empty(),
            Table::ConsistentHash(table) => table.is_empty(),
            Table::ModulusHash(table) | Table::Random(table) => table.is_empty(),
            Table::Fanout(table) | Table::RecentHistory(table) => table.is_empty(),
        }
    }
}
