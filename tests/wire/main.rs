//! Conversations over the wire with a raw-frame peer: what RabbitMQ does, sentence by sentence, a module a topic.
//!
//! All in one program: each test has names of its own and shares one broker in memory, unless it needs one of its own.

mod backlog;
mod channel;
mod close_texts;
mod consume;
mod consumer_timeout;
mod dead_letters;
mod definitions;
mod delayed;
mod done;
mod durable;
mod dying;
mod events;
mod exchange;
mod exchange_e2e;
mod exchange_types;
mod frames;
mod handshake;
mod hidden_keys;
mod limits;
mod matching;
mod own;
mod passed_on;
mod permissions;
mod policy;
mod pressure;
mod publish;
mod qos;
mod queue;
mod queue_arguments;
mod quorum;
mod ranking;
mod reply_to;
mod settle;
mod shutdown;
mod tx;
