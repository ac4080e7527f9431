//! "Make this batch durable, and give me back what you had." Knows records, not AMQP.
//!
//! * [`block`]: blocks and runs of messages, shared with the broker. `gauge`: the memory that they take, and give back.
//! * [`store`]: the handle the broker uses: submit, mark, read back, close.
//! * `writer`: the thread behind it (group commit). `fold`: what it need not write.
//! * [`backend`]: the seam, one blocking call per batch. Two bodies: [`disk`] and [`memory`]; [`faulty`] wraps
//!   either and fails on command.
//! * `log`: messages in append-only files. [`definitions`]: the rest, in sled. `keys`: its keys; `load`: reading them.
//! * `record`: messages as format 1 kept them. `sequences`, `removed`: which messages a record has.
//! * `copy`: the definitions a second time. `making`: databases made beside their place.
//! * `directory`: the files beside the database.
//! * [`marks`]: how far each queue has been delivered.
//! * [`conformance`]: one suite that every backend passes.
//!
//! A confirm is a promise: a token submitted with [`Level::Synced`] comes back after everything before it is on the
//! device, or never. docs/storage.md describes the format and the guarantees.

pub mod backend;
pub mod block;
mod bytes;
pub mod conformance;
mod copy;
pub mod definitions;
mod directory;
pub mod disk;
pub mod error;
pub mod faulty;
mod fold;
mod gauge;
mod keys;
mod load;
mod log;
mod making;
pub mod marks;
pub mod memory;
mod record;
mod removed;
mod sequences;
pub mod store;
mod window;
mod writer;

pub use backend::{
    Backend, Batch, Bytes, Note, Op, Outline, Quarantined, QueueBatch, Reader, Recovered, RecoveredQueue, Stored,
};
pub use block::{Block, Run, Span};
pub use disk::open_disk;
pub use error::StorageError;
pub use gauge::Gauge;
pub use marks::{Mark, Marks};
pub use memory::open_memory;
pub use store::{Entry, Level, Store, StoreOptions};
