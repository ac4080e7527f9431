//! AMQP 0-9-1 on the wire: bytes to meaning and back. No I/O, no async, no broker words.
//!
//! Nothing here panics, recurses without bound or allocates by a length it was merely told, whatever the bytes.
//!
//! * [`frame`] splits whole frames off a read buffer, as slices.
//! * [`hot`] reads and writes `publish`, `ack`, `nack`, `reject` in place.
//! * [`method`] does all other methods, as amq-protocol's types, with RabbitMQ's errors.
//! * [`table`] reads field tables in place, checked once; [`value`] turns them into values and back.
//! * [`content`] reads and edits content headers and properties.
//! * [`assembler`] joins publish, header and body into a message; [`message`] says how one is laid out.
//! * [`deliver`] writes messages to consumers.
//! * [`error`] has the errors a peer is told, one constructor per reply code.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod assembler;
pub mod content;
pub mod deliver;
mod edit;
pub mod error;
pub mod frame;
pub mod hot;
pub mod message;
pub mod method;
pub mod pattern;
mod reader;
pub mod table;
pub mod value;

pub use assembler::{Assembler, Complete, Progress, Whole};
pub use content::{ContentHeader, Properties};
pub use error::{AmqpError, Scope, octets, text_of};
pub use frame::Frame;
pub use hot::{Publish, Settle};
pub use message::{ADDRESS_GAP, Message};
pub use pattern::Pattern;
pub use table::{Array, Table, TableError, Value};

/// The types and rarely used methods, which are amq-protocol's.
pub mod amq {
    pub use crate::value::short;
    pub use amq_protocol::protocol::{
        self, AMQPClass, access, basic, channel, confirm, connection, exchange, queue, tx,
    };
    pub use amq_protocol::types::{
        AMQPType, AMQPValue, ByteArray, DecimalValue, FieldArray, FieldTable, LongString, ShortString,
    };
}
