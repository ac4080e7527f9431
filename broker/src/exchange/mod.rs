//! Exchanges as pure routing tables: bindings, a key and headers in, destinations out (AMQP 0-9-1 section 3.1.3 as
//! RabbitMQ extends it). No names, no flags, no waiting.
//!
//! All tables are persistent: a clone costs next to nothing and is a snapshot that later changes do not touch, while
//! a change copies only the path to where it is made. So one owner binds and unbinds, and every reader routes by
//! the last clone it was given.

mod bindings;
mod criteria;
mod direct;
mod fanout;
mod headers;
mod positions;
mod small_map;
#[cfg(test)]
mod tests;
mod topic;

use std::hash::Hash;

use amq_protocol::types::FieldTable;

pub use criteria::BindingError;

use bindings::Arguments;
use criteria::Criteria;
use direct::DirectTable;
use fanout::FanoutTable;
use headers::HeadersTable;
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
}

impl ExchangeType {
    /// The type with that name, as in exchange.declare. Case matters.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "direct" => Self::Direct,
            "fanout" => Self::Fanout,
            "topic" => Self::Topic,
            "headers" => Self::Headers,
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
}

impl<D: Destination> Router<D> {
    /// A table without bindings.
    pub fn new(kind: ExchangeType) -> Self {
        let table = match kind {
            ExchangeType::Direct => Table::Direct(DirectTable::new()),
            ExchangeType::Fanout => Table::Fanout(FanoutTable::new()),
            ExchangeType::Topic => Table::Topic(TopicTable::new()),
            ExchangeType::Headers => Table::Headers(HeadersTable::new()),
        };
        Self { table }
    }

    /// Checks what only this type of exchange minds about a binding: for headers, that `x-match` is a long string
    /// and one of `all`, `any`, `all-with-x`, `any-with-x`.
    ///
    /// # Errors
    /// The display of the error is the text of a channel error 406.
    pub fn validate(kind: ExchangeType, arguments: &FieldTable) -> Result<(), BindingError> {
        match kind {
            ExchangeType::Headers => Criteria::of(arguments).map(drop),
            ExchangeType::Direct | ExchangeType::Fanout | ExchangeType::Topic => Ok(()),
        }
    }

    /// Adds a binding. False: there is one already with this destination, key and arguments (as a set of name, type
    /// and value), and nothing has changed. Arguments that [`Router::validate`] refuses are kept but match nothing.
    pub fn bind(&mut self, key: &[u8], arguments: &FieldTable, to: D) -> bool {
        match &mut self.table {
            Table::Direct(table) => table.bind(key, (to, Arguments::of(arguments))),
            Table::Fanout(table) => table.bind(key, (to, Arguments::of(arguments))),
            Table::Topic(table) => table.bind(key, (to, Arguments::of(arguments))),
            Table::Headers(table) => table.bind(key, arguments, to),
        }
    }

    /// Removes a binding. False: there was none with this destination, key and arguments.
    pub fn unbind(&mut self, key: &[u8], arguments: &FieldTable, to: &D) -> bool {
        let to = to.clone();
        match &mut self.table {
            Table::Direct(table) => table.unbind(key, &(to, Arguments::of(arguments))),
            Table::Fanout(table) => table.unbind(key, (to, Arguments::of(arguments))),
            Table::Topic(table) => table.unbind(key, &(to, Arguments::of(arguments))),
            Table::Headers(table) => table.unbind(key, arguments, to),
        }
    }

    /// Calls `found` for the destination of each binding that matches, in no particular order; a destination with
    /// several matching bindings may come several times. Only a headers exchange looks at `headers`, and it does
    /// not look at the key. None stands for a message without headers.
    pub fn route(&self, key: &[u8], headers: Option<Headers<'_>>, found: &mut dyn FnMut(&D)) {
        match &self.table {
            Table::Direct(table) => table.route(key, found),
            Table::Fanout(table) => table.route(found),
            Table::Topic(table) => table.route(key, found),
            Table::Headers(table) => table.route(headers, found),
        }
    }

    /// Whether there are no bindings.
    pub fn is_empty(&self) -> bool {
        match &self.table {
            Table::Direct(table) => table.is_empty(),
            Table::Fanout(table) => table.is_empty(),
            Table::Topic(table) => table.is_empty(),
            Table::Headers(table) => table.is_empty(),
        }
    }
}
