//! What the tests over the wire share.
//!
//! - [`server`]: a broker to talk to: the real binary as a child process, or any broker named by `LEVERET_AGAINST`.
//! - [`durable`]: a broker that can be killed and started again on its data.
//! - [`peer`]: a blocking client that speaks single frames, so that a test can also say what no stock client would.
//! - [`talk`]: the exchanges of frames that nearly every conversation has, one line each.
//! - [`say`]: methods as a client says them.
//! - [`bulk`]: many publishes in few writes.
//! - [`method`]: methods as values, and a builder of octets for everything malformed.
//! - [`values`]: field tables, and what a message's properties say.
//! - [`java`]: Java programs, compiled and run.
//! - [`reference`]: the tests in which the broker is meant to differ from the RabbitMQ they were tried against.

pub mod binary;
pub mod bulk;
pub mod durable;
pub mod java;
pub mod method;
pub mod peer;
pub mod reference;
pub mod say;
pub mod server;
pub mod talk;
pub mod values;

pub use binary::binary;
pub use method::{Method, Octets};
pub use peer::{Frame, Login, Peer};
pub use reference::differs_from_reference;
pub use server::{Server, unique};
pub use talk::{Content, Delivery};
