//! Many producers, each with its own key, are gathered into one queue with one consumer.
//!
//! Producers send heartbeats. A supervisor that misses a producer's heartbeat for its time-to-live cancels it and
//! starts a new one; nothing already sent is lost, and everything is drained before the end.
//!
//! A worker that hangs is another matter: its socket stays open but silent. Here it is a process, stopped with
//! SIGSTOP; the broker misses its AMQP heartbeats, drops it, and gives its unacked tasks to another worker.

mod support;

#[path = "support/hang.rs"]
mod hang;

use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
    ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection, Consumer, ExchangeKind};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use support::{Outcome, PATIENCE, address, connect, ensure, next, text};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_stream::StreamExt;

const EXCHANGE: &str = "fan_in";
const GATHERED: &str = "fan_in.gathered";
const PRODUCERS: u32 = 8;
/// What each producer has to send.
const QUOTA: u32 = 100;
const HEARTBEAT: Duration = Duration::from_millis(100);
/// How long a producer may be silent before the supervisor gives it up.
const TIME_TO_LIVE: Duration = Duration::from_millis(1500);
/// These hang after so many messages, once.
const HANGS: [(u32, u32); 2] = [(2, 30), (5, 99)];

#[tokio::main]
async fn main() -> Outcome {
    if std::env::args().nth(1).as_deref() == Some("worker") {
        return hang::work().await;
    }
    gather().await?;
    hang::take_over().await?;
    println!("nothing lost, everything drained");
    Ok(())
}

async fn gather() -> Outcome {
    let connection = connect(&address(), "fan_in: consumer").await?;
    let channel = connection.create_channel().await?;
    let heartbeats = declare(&channel).await?;
    let gathered = consume(&channel, GATHERED, false).await?;
    let collecting = tokio::spawn(collect(gathered));

    let replaced = supervise(consume(&channel, heartbeats.as_str(), true).await?).await?;
    ensure(replaced.keys().copied().eq(HANGS.map(|(name, _)| name)), "exactly those that hung were replaced")?;

    let received = timeout(PATIENCE, collecting).await???;
    for name in 0..PRODUCERS {
        let numbers = received.get(&name).map(Vec::as_slice).unwrap_or_default();
        ensure(numbers.iter().copied().eq(1..=QUOTA), format!("producer {name}, all of it in order: {numbers:?}"))?;
    }
    // Whatever came too often would be here now.
    let left = channel.queue_delete(GATHERED.into(), QueueDeleteOptions::default()).await?;
    ensure(left == 0, format!("{left} messages were left in the queue"))?;
    channel.exchange_delete(EXCHANGE.into(), ExchangeDeleteOptions::default()).await?;
    println!("gathered {} messages of {PRODUCERS} producers", PRODUCERS * QUOTA);
    Ok(())
}

/// The exchange, the queue of everything, and the supervisor's queue of heartbeats.
async fn declare(channel: &Channel) -> Outcome<String> {
    channel.queue_delete(GATHERED.into(), QueueDeleteOptions::default()).await?;
    channel.exchange_delete(EXCHANGE.into(), ExchangeDeleteOptions::default()).await?;
    let (options, none) = (ExchangeDeclareOptions::default(), FieldTable::default());
    channel.exchange_declare(EXCHANGE.into(), ExchangeKind::Topic, options, none.clone()).await?;
    channel.queue_declare(GATHERED.into(), QueueDeclareOptions::durable(), none.clone()).await?;
    let heartbeats = channel.queue_declare("".into(), QueueDeclareOptions::exclusive(), none.clone()).await?;
    let bind = QueueBindOptions::default();
    channel.queue_bind(GATHERED.into(), EXCHANGE.into(), "data.*".into(), bind, none.clone()).await?;
    channel.queue_bind(heartbeats.name().clone(), EXCHANGE.into(), "heartbeat.*".into(), bind, none).await?;
    Ok(heartbeats.name().to_string())
}

async fn consume(channel: &Channel, queue: &str, no_ack: bool) -> Outcome<Consumer> {
    let options = BasicConsumeOptions { no_ack, ..BasicConsumeOptions::default() };
    Ok(channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await?)
}

/// The one consumer: takes what comes until it has everything that all producers together have to send.
async fn collect(mut gathered: Consumer) -> Outcome<BTreeMap<u32, Vec<u32>>> {
    let mut received: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let mut count = 0;
    while count < PRODUCERS * QUOTA {
        let delivery = next(&mut gathered).await?;
        let numbers = received.entry(name_in_key(&delivery)?).or_default();
        let number = text(&delivery)?.parse()?;
        // A producer cancelled between a message and its confirm leaves it to its successor to send it again.
        if numbers.last() != Some(&number) {
            numbers.push(number);
            count += 1;
        }
        delivery.ack(BasicAckOptions::default()).await?;
    }
    Ok(received)
}

fn name_in_key(delivery: &Delivery) -> Outcome<u32> {
    let (_, name) = delivery.routing_key.as_str().split_once('.').ok_or("a key of two words")?;
    Ok(name.parse()?)
}

/// Starts all producers and replaces those that fall silent, until every one of them has finished. Returns how often
/// which one was replaced.
async fn supervise(mut heartbeats: Consumer) -> Outcome<BTreeMap<u32, u32>> {
    let mut producers = BTreeMap::new();
    for name in 0..PRODUCERS {
        let hangs_at = HANGS.iter().find(|(hanging, _)| *hanging == name).map(|(_, at)| *at);
        producers.insert(name, Producer::start(name, Arc::default(), hangs_at).await?);
    }
    let mut replaced = BTreeMap::new();
    while !producers.is_empty() {
        if let Ok(heartbeat) = timeout(HEARTBEAT, heartbeats.next()).await {
            let heartbeat = heartbeat.ok_or("the supervisor's consumer was cancelled")??;
            let name = name_in_key(&heartbeat)?;
            if let Some(producer) = producers.get_mut(&name) {
                producer.last_heartbeat = Instant::now();
                if text(&heartbeat)? == "finished" {
                    let producer = producers.remove(&name).ok_or("just seen")?;
                    timeout(PATIENCE, producer.running).await???;
                }
            }
        }
        let silent = |producer: &Producer| producer.last_heartbeat.elapsed() > TIME_TO_LIVE;
        let given_up: Vec<u32> = producers.iter().filter(|(_, p)| silent(p)).map(|(name, _)| *name).collect();
        for name in given_up {
            let old = producers.remove(&name).ok_or("just seen")?;
            let sent = old.cancel().await;
            let count = sent.load(Ordering::SeqCst);
            println!("producer {name} fell silent after {count} messages: cancelled, and a new one started");
            producers.insert(name, Producer::start(name, sent, None).await?);
            *replaced.entry(name).or_default() += 1;
        }
    }
    Ok(replaced)
}

struct Producer {
    last_heartbeat: Instant,
    /// How far it is: what has been confirmed. Its successor goes on from here.
    sent: Arc<AtomicU32>,
    running: JoinHandle<Outcome>,
}

impl Producer {
    async fn start(name: u32, sent: Arc<AtomicU32>, hangs_at: Option<u32>) -> Outcome<Producer> {
        let connection = connect(&address(), &format!("fan_in: producer {name}")).await?;
        let running = tokio::spawn(produce(connection, name, Arc::clone(&sent), hangs_at));
        Ok(Producer { last_heartbeat: Instant::now(), sent, running })
    }

    async fn cancel(self) -> Arc<AtomicU32> {
        self.running.abort();
        // It says that it was cancelled, which is known. Awaited all the same: there are never two of a name.
        let _ = self.running.await;
        self.sent
    }
}

/// Sends what is still to be sent, and heartbeats meanwhile, until it hangs.
async fn produce(connection: Connection, name: u32, sent: Arc<AtomicU32>, hangs_at: Option<u32>) -> Outcome {
    let data = connection.create_channel().await?;
    data.confirm_select(ConfirmSelectOptions::default()).await?;
    let heartbeats = connection.create_channel().await?;
    let last = hangs_at.unwrap_or(QUOTA);
    tokio::select! {
        ended = send(&data, name, &sent, last) => ended?,
        ended = beat(&heartbeats, name) => ended?,
    }
    if hangs_at.is_some() {
        println!("producer {name} hangs");
        std::future::pending::<()>().await;
    }
    heartbeat(&heartbeats, name, "finished").await?;
    connection.close(200, "finished".into()).await?;
    Ok(())
}

async fn send(channel: &Channel, name: u32, sent: &AtomicU32, last: u32) -> Outcome {
    while sent.load(Ordering::SeqCst) < last {
        let number = sent.load(Ordering::SeqCst) + 1;
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let properties = BasicProperties::default().with_delivery_mode(2);
        let (key, body) = (format!("data.{name}"), number.to_string());
        let published =
            channel.basic_publish(EXCHANGE.into(), key.as_str().into(), options, body.as_bytes(), properties).await?;
        let confirm = timeout(PATIENCE, published).await??;
        ensure(confirm == Confirmation::Ack(None), format!("{key} {number} is routed and confirmed"))?;
        sent.store(number, Ordering::SeqCst);
    }
    Ok(())
}

async fn beat(channel: &Channel, name: u32) -> Outcome {
    loop {
        heartbeat(channel, name, "alive").await?;
        sleep(HEARTBEAT).await;
    }
}

async fn heartbeat(channel: &Channel, name: u32, state: &str) -> Outcome {
    let (key, options) = (format!("heartbeat.{name}").into(), BasicPublishOptions::default());
    let properties = BasicProperties::default();
    channel.basic_publish(EXCHANGE.into(), key, options, state.as_bytes(), properties).await?.await?;
    Ok(())
}
