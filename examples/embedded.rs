//! The broker inside a test: started in this process, in memory, on a free port; used through lapin; let go.

mod support;

use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Confirmation};
use leveret::config::StorageKind;
use std::time::Instant;
use support::{Outcome, PATIENCE, connect, ensure, next, text};
use tokio::net::TcpStream;
use tokio::time::timeout;

#[tokio::main]
async fn main() -> Outcome {
    let began = Instant::now();
    let config = leveret::Config {
        listen: vec!["127.0.0.1:0".parse()?],
        storage: StorageKind::Memory,
        ..leveret::Config::default()
    };
    let broker = leveret::Broker::start(config).await?;
    let start = began.elapsed();
    let address = broker.addresses()[0];
    println!("a broker listens on {address}");

    let connection = connect(&format!("amqp://guest:guest@{address}/%2f"), "embedded").await?;
    let channel = connection.create_channel().await?;
    let queue = channel.queue_declare("".into(), QueueDeclareOptions::exclusive(), FieldTable::default()).await?;
    let queue = queue.name();
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    let mut consumer = channel.basic_consume(queue.clone(), "".into(), options, FieldTable::default()).await?;
    for n in 1..=10 {
        let (options, body) = (BasicPublishOptions::default(), format!("message {n}"));
        let properties = BasicProperties::default();
        let published = channel.basic_publish("".into(), queue.clone(), options, body.as_bytes(), properties).await?;
        let confirm = timeout(PATIENCE, published).await??;
        ensure(confirm == Confirmation::Ack(None), format!("{body} is confirmed"))?;
    }
    for n in 1..=10 {
        let delivery = next(&mut consumer).await?;
        ensure(text(&delivery)? == format!("message {n}"), "in order")?;
        delivery.ack(BasicAckOptions::default()).await?;
    }
    connection.close(200, "done".into()).await?;
    println!("ten messages went through it, in order");

    let began = Instant::now();
    broker.shutdown().await?;
    let stop = began.elapsed();
    ensure(TcpStream::connect(address).await.is_err(), "nobody listens any more")?;
    println!("start took {start:.1?}, stop took {stop:.1?}");
    Ok(())
}
