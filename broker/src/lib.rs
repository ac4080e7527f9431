//! leveret: a message broker that speaks AMQP 0-9-1 as RabbitMQ speaks it.
//!
//! [`Broker`] is the whole: started from a [`Config`] in any process, shut down cleanly. Inside, every piece of mutable
//! state has one owner; owners talk through mailboxes, in batches; only who reads a socket ever waits.
//!
//! * [`server`]: the broker's start and end; `listener`: from a socket to connections.
//! * `connection`: a task per client: frames in, deliveries and answers out. The only place that waits.
//! * `queue`: the rules of a queue, a synchronous state machine run in turns by whoever brings it a batch.
//! * `delayed`: what x-delayed-message exchanges hold back, run in the same way.
//! * `vhost`: exchanges, queues and bindings; their one owner, and the snapshots that publishers route by.
//! * [`exchange`]: routing tables, pure.
//! * `command`: what owners say to each other, `segment`s of messages above all. `mailbox`: how; `window`: how far.
//!   `lone`: a confirm that goes past both.
//! * `message`: blocks of messages; `outbox`: a turn's share for each queue; `tidy`: frees blocks of little use.
//! * `paging`: moves messages between memory and storage. `pressure`: the gate that publishers stop at. `give_back`: returns
//!   memory to the system.
//! * `threads`: the event loops that connections live on; `spread`: who lives on which.
//! * `timers`: when owners look for what is due.
//! * `recovery`: from what storage held to virtual hosts that serve.
//! * [`access`]: users and what they may do. [`policy`]: settings for objects by name. [`admin`]: how both are changed;
//!   [`definitions`]: from a file.
//! * [`config`], `auth`, `pattern`, [`clock`], `names`, `methods`: what the rest is made with.

#![recursion_limit = "256"] // the persistent maps of a snapshot nest deeply

pub mod access;
pub mod admin;
mod auth;
pub mod clock;
mod command;
pub mod config;
mod connection;
pub mod definitions;
mod delayed;
pub mod exchange;
mod expiration;
mod give_back;
mod listener;
mod lone;
mod mailbox;
mod message;
mod methods;
mod names;
mod outbox;
mod paging;
mod pattern;
pub mod policy;
mod pressure;
mod queue;
mod recovery;
mod segment;
pub mod server;
mod spread;
pub mod start;
#[cfg(test)]
mod testing;
mod threads;
mod tidy;
mod timers;
mod vhost;
mod window;

pub use config::Config;
pub use serde_json;
pub use server::{Broker, BrokerError};
pub use start::StartError;
