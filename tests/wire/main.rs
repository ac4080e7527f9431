//! Conversations over the wire with a raw-frame peer: what RabbitMQ does, sentence by sentence, a module a topic.
//!
//! All in one program: each test has names of its own and shares one broker in memory, unless it needs one of its own.

mod channel;
mod consume;
mod consumer_timeout;
mod definitions;
mod delayed;
mod done;
mod durable;
mod dying;
mod exchange;
mod exchange_e2e;
mod exchange_types;
mod frames;
mod handshake;
mod matching;
mod own;
mod permissions;
mod policy;
mod pressure;
mod publish;
mod queue;
mod ranking;
mod reply_to;
mod settle;
mod shutdown;
mod tx;
