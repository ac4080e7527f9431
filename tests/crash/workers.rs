//! The clients: each does its job until it is told to stop, and connects again whenever the broker has died.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lapin::options::*;
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ExchangeKind};
use tokio::sync::watch;
use tokio_stream::StreamExt;

use crate::Random;
use crate::ledger::{Ledger, Settled, Way};

/// What all workers know.
#[derive(Clone)]
pub struct Site {
    pub address: watch::Receiver<Option<SocketAddr>>,
    pub ledger: Arc<Ledger>,
    pub stop: Arc<AtomicBool>,
}

#[derive(Clone, Copy, Debug)]
pub enum Job {
    /// Publishes with confirms to an exchange; into which queue that leads is known.
    Publish { exchange: &'static str, queue: &'static str, way: Way, largest: u64 },
    /// Publishes in transactions.
    Transact { queue: &'static str },
    /// Acknowledges most, gives some back, rejects some.
    Consume { queue: &'static str },
    /// Fills a queue of its own, then purges or deletes it.
    Clear { queue: &'static str },
}

impl Job {
    pub const ALL: [Job; 12] = [
        Job::Publish { exchange: "", queue: "plain", way: Way::Queue, largest: 100 },
        Job::Publish { exchange: "", queue: "ranked", way: Way::Queue, largest: 100 },
        Job::Publish { exchange: "", queue: "large", way: Way::Queue, largest: 200_000 },
        Job::Publish { exchange: "", queue: "brief", way: Way::DeadLetters, largest: 100 },
        Job::Publish { exchange: "", queue: "dying", way: Way::DeadLetters, largest: 100 },
        Job::Publish { exchange: "later", queue: "delayed", way: Way::DeadLetters, largest: 100 },
        Job::Transact { queue: "committed" },
        Job::Consume { queue: "plain" },
        Job::Consume { queue: "ranked" },
        Job::Consume { queue: "large" },
        Job::Consume { queue: "dying" },
        Job::Clear { queue: "cleared" },
    ];
}

const QUEUES: [&str; 9] = ["plain", "ranked", "large", "brief", "dying", "delayed", "committed", "cleared", "dead"];

type Outcome = Result<(), lapin::Error>;

pub async fn work(job: Job, mut site: Site, mut random: Random) {
    let mut death = site.address.clone();
    while !site.stop.load(Ordering::Relaxed) {
        let address = alive(&mut site.address).await;
        death.mark_unchanged();
        if *death.borrow() != Some(address) {
            continue;
        }
        // The broker's death ends a session; the client library may take its time to notice.
        tokio::select! {
            _ = session(job, &site, address, &mut random) => {}
            _ = death.changed() => {}
        }
    }
}

/// Where the broker listens, once it does.
async fn alive(address: &mut watch::Receiver<Option<SocketAddr>>) -> SocketAddr {
    let found = address.wait_for(Option::is_some).await.ok().and_then(|found| *found);
    match found {
        Some(address) => address,
        None => std::future::pending().await,
    }
}

async fn connect(address: SocketAddr) -> Result<Connection, lapin::Error> {
    Connection::connect(&format!("amqp://{address}/%2f"), ConnectionProperties::default()).await
}

async fn session(job: Job, site: &Site, address: SocketAddr, random: &mut Random) -> Outcome {
    let connection = connect(address).await?;
    let channel = connection.create_channel().await?;
    declare_all(&channel).await?;
    match job {
        Job::Publish { exchange, queue, way, largest } => {
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            while !site.stop.load(Ordering::Relaxed) {
                publish(&channel, site, (exchange, queue), way, largest, random).await?;
            }
        }
        Job::Transact { queue } => {
            channel.tx_select().await?;
            while !site.stop.load(Ordering::Relaxed) {
                let ids: Vec<u64> = (0..5).map(|_| site.ledger.publish(queue, Way::Queue)).collect();
                for id in &ids {
                    drop(send(&channel, ("", queue), *id, 50, BasicProperties::default()).await?);
                }
                channel.tx_commit().await?;
                ids.iter().for_each(|id| site.ledger.confirm(*id));
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        Job::Consume { queue } => consume(&channel, site, queue, random).await?,
        Job::Clear { queue } => {
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            while !site.stop.load(Ordering::Relaxed) {
                publish(&channel, site, ("", queue), Way::Queue, 100, random).await?;
                // Those of earlier sessions too: they have come back.
                let ids = site.ledger.of(queue);
                site.ledger.settle(&ids, Settled::Maybe);
                if random.below(2) == 0 {
                    channel.queue_purge(queue.into(), QueuePurgeOptions::default()).await?;
                } else {
                    channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await?;
                    declare_all(&channel).await?;
                }
                site.ledger.settle(&ids, Settled::Surely);
            }
        }
    }
    Ok(())
}

async fn declare_all(channel: &Channel) -> Outcome {
    let durable = QueueDeclareOptions::durable();
    for queue in QUEUES {
        let mut arguments = FieldTable::default();
        let mut put = |name: &str, value| {
            arguments.insert(name.into(), value);
        };
        match queue {
            "ranked" => put("x-max-priority", AMQPValue::ShortShortUInt(3)),
            "brief" => put("x-message-ttl", AMQPValue::LongInt(30)),
            _ => {}
        }
        if ["brief", "dying"].contains(&queue) {
            put("x-dead-letter-exchange", AMQPValue::LongString(LongString::from("")));
            put("x-dead-letter-routing-key", AMQPValue::LongString(LongString::from("dead")));
        }
        channel.queue_declare(queue.into(), durable, arguments).await?;
    }
    let mut arguments = FieldTable::default();
    arguments.insert("x-delayed-type".into(), AMQPValue::LongString(LongString::from("direct")));
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let kind = ExchangeKind::Custom("x-delayed-message".into());
    channel.exchange_declare("later".into(), kind, options, arguments).await?;
    let bind = QueueBindOptions::default();
    channel.queue_bind("delayed".into(), "later".into(), "delayed".into(), bind, FieldTable::default()).await
}

/// Publishes a few messages and waits for their confirms.
async fn publish(
    channel: &Channel,
    site: &Site,
    (exchange, queue): (&'static str, &'static str),
    way: Way,
    largest: u64,
    random: &mut Random,
) -> Outcome {
    let (mut ids, mut confirms) = (Vec::new(), Vec::new());
    for _ in 0..1 + random.below(20) {
        let id = site.ledger.publish(queue, way);
        let mut properties = BasicProperties::default().with_priority(random.below(5) as u8);
        if exchange == "later" {
            let mut headers = FieldTable::default();
            headers.insert("x-delay".into(), AMQPValue::LongInt(1 + random.below(200) as i32));
            properties = properties.with_headers(headers);
        }
        let size = 1 + random.below(largest) as usize;
        confirms.push(send(channel, (exchange, queue), id, size, properties).await?);
        ids.push(id);
    }
    for (id, confirm) in ids.iter().zip(confirms) {
        if let Confirmation::Ack(_) = confirm.await? {
            site.ledger.confirm(*id);
        }
    }
    Ok(())
}

/// The body is the number, in eight octets, and then filling.
async fn send(
    channel: &Channel,
    (exchange, queue): (&str, &str),
    id: u64,
    filling: usize,
    properties: BasicProperties,
) -> Result<impl Future<Output = Result<Confirmation, lapin::Error>>, lapin::Error> {
    let mut body = id.to_be_bytes().to_vec();
    body.resize(8 + filling, id as u8);
    let properties = properties.with_delivery_mode(2);
    channel.basic_publish(exchange.into(), queue.into(), BasicPublishOptions::default(), &body, properties).await
}

/// The number of a message, whose body must be whole.
fn number(body: &[u8]) -> u64 {
    let (id, filling) = body.split_first_chunk().expect("a body begins with a number");
    let id = u64::from_be_bytes(*id);
    assert!(filling.iter().all(|octet| *octet == id as u8), "the body of {id} is damaged");
    id
}

async fn consume(channel: &Channel, site: &Site, queue: &str, random: &mut Random) -> Outcome {
    channel.basic_qos(20, BasicQosOptions::default()).await?;
    let consume = BasicConsumeOptions::default();
    let mut deliveries = channel.basic_consume(queue.into(), "".into(), consume, FieldTable::default()).await?;
    let mut acknowledged = Vec::new();
    while !site.stop.load(Ordering::Relaxed) {
        let waited = tokio::time::timeout(Duration::from_millis(20), deliveries.next()).await;
        if let Ok(delivery) = waited {
            let Some(delivery) = delivery.transpose()? else { break };
            let id = number(&delivery.data);
            site.ledger.deliver(id, queue, delivery.redelivered);
            match random.below(10) {
                0 => delivery.nack(BasicNackOptions { requeue: true, ..BasicNackOptions::default() }).await?,
                // Dead-lettered where the queue says so; else it is as good as acknowledged.
                1 if queue == "dying" => delivery.reject(BasicRejectOptions { requeue: false }).await?,
                _ => {
                    site.ledger.settle(&[id], Settled::Maybe);
                    acknowledged.push(id);
                    delivery.ack(BasicAckOptions::default()).await?
                }
            };
        }
        if acknowledged.len() >= 10 || waited_in_vain(&acknowledged, random) {
            channel.basic_qos(20, BasicQosOptions::default()).await?;
            site.ledger.settle(&acknowledged, Settled::Surely);
            acknowledged.clear();
        }
    }
    Ok(())
}

fn waited_in_vain(acknowledged: &[u64], random: &mut Random) -> bool {
    !acknowledged.is_empty() && random.below(8) == 0
}

/// Empties every queue, until everything that must be there has come.
pub async fn take_what_is_left(site: &Site, patience: Duration) {
    let mut site = site.clone();
    let address = alive(&mut site.address).await;
    let connection = connect(address).await.expect("a connection at the end");
    let channel = connection.create_channel().await.expect("a channel");
    declare_all(&channel).await.expect("everything is there, or declared again");
    let start = Instant::now();
    loop {
        for queue in QUEUES {
            let get = BasicGetOptions { no_ack: true };
            while let Some(message) = channel.basic_get(queue.into(), get).await.expect("a get") {
                site.ledger.left(number(&message.data), queue);
            }
        }
        // What is delayed, or about to expire, comes a little later.
        if site.ledger.is_complete() || start.elapsed() > patience {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let plain = site.ledger.left_in("plain");
    assert!(plain.is_sorted(), "out of order: {plain:?}");
}
