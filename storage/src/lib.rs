//! "Make this batch durable, and give me back what you had." Knows records, not AMQP.
//!
//! * [`block`]: blocks and runs of messages, shared with the broker.
//! * [`store`]: the handle the broker uses, and the writer thread behind it (group commit).
//! * `backend`: the seam, [`Backend`]: one blocking call per batch. Two bodies: `sled_store` and `memory`.
//! * `record`: keys and values on disk.
//! * `marks`: how far each queue has been delivered.
//! * `conformance`: one suite that every backend passes.

pub mod block;

pub use block::{Block, Gauge, Run, Span};
