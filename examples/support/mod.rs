//! What the examples share. Not every one of them needs everything.
#![allow(dead_code)]

use lapin::message::Delivery;
use lapin::{Connection, ConnectionProperties, Consumer};
use std::time::Duration;
use tokio::time::timeout;
use tokio_stream::StreamExt;

/// What an example ends with: exit status 0, or 1 and the reason.
pub type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Nothing here takes long; whoever waits longer than this has lost a message.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The broker's address: `AMQP_ADDR`, or the one on this machine.
pub fn address() -> String {
    std::env::var("AMQP_ADDR").unwrap_or_else(|_| "amqp://guest:guest@127.0.0.1:5672/%2f".to_owned())
}

/// A connection that carries a name, for whoever looks at the broker.
pub async fn connect(address: &str, name: &str) -> Outcome<Connection> {
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    Ok(timeout(PATIENCE, Connection::connect(address, properties)).await??)
}

/// The consumer's next delivery.
pub async fn next(consumer: &mut Consumer) -> Outcome<Delivery> {
    let next = timeout(PATIENCE, consumer.next()).await.map_err(|_| "no delivery came in time")?;
    Ok(next.ok_or("the consumer was cancelled")??)
}

/// The body as text.
pub fn text(delivery: &Delivery) -> Outcome<String> {
    Ok(String::from_utf8(delivery.data.clone())?)
}

/// Ends the example unless this holds.
pub fn ensure(holds: bool, what: impl Into<String>) -> Outcome {
    if holds { Ok(()) } else { Err(format!("wrong: {}", what.into()).into()) }
}
