//! Why a run could not be made. Each is one line for the user.

use std::fmt;
use std::io;

use leveret_protocol::AmqpError;
use thiserror::Error;

use super::url::Url;

#[derive(Debug, Error)]
pub enum PerfError {
    #[error("cannot connect to {to}: {source}")]
    Connect { to: Url, source: io::Error },
    #[error("the broker has closed the {scope}: {code} {text}")]
    Closed { scope: Scope, code: u16, text: String },
    #[error("{0} is not an AMQP 0-9-1 broker")]
    NotAmqp(Url),
    #[error("the connection was dropped during the login, as brokers do with a wrong user or password")]
    DroppedInLogin,
    #[error("the broker has dropped the connection")]
    Dropped,
    #[error("the broker does not answer {0}")]
    Silent(&'static str),
    #[error("the connection to the broker failed: {0}")]
    Io(#[from] io::Error),
    #[error("the broker sent what is not AMQP 0-9-1: {0}")]
    Malformed(#[from] AmqpError),
    #[error("the broker sent what was not expected: {0}")]
    Unexpected(String),
    #[error("the broker has cancelled a consumer: its queue is gone")]
    Cancelled,
    #[error("{0} messages were not confirmed within {1} s of the last confirm")]
    Unconfirmed(u64, u64),
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    #[error("process {pid} cannot be watched: {source}")]
    Process { pid: u32, source: io::Error },
    #[error("{0}")]
    Options(OptionsError),
}

impl PerfError {
    /// Whether it says why something happened rather than only that: such an error is reported before others.
    pub fn is_cause(&self) -> bool {
        !matches!(self, PerfError::Io(_) | PerfError::Dropped)
    }
}

/// Options that are well-formed each, and make no sense together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OptionsError {
    #[error("--ack {every} with --prefetch {prefetch}: the broker would wait for an ack that never comes")]
    AckBeyondPrefetch { every: u32, prefetch: u16 },
    #[error("latency needs at least one consumer")]
    NoConsumers,
    #[error("--messages must be at least the number of producers")]
    FewMessages,
    #[error("--duration 0: there would be no time to measure")]
    NoTime,
    #[error("latency needs a rate above 0: it is counted from when a message is due")]
    NoRate,
    #[error("confirms needs at least one publish outstanding: --confirm 1 or more")]
    NoConfirms,
    #[error("--prefetch {0} without acks limits nothing: give --ack too")]
    PrefetchWithoutAcks(u16),
    #[error("--backlog {0} with a rate: messages are sent when they are due, however many are under way")]
    BacklogWithRate(u64),
    #[error("--backlog {0} without consumers: nobody would take messages away")]
    BacklogWithoutConsumers(u64),
}

/// What the broker has closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Connection,
    Channel,
}

impl fmt::Display for Scope {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Scope::Connection => "connection",
            Scope::Channel => "channel",
        })
    }
}
