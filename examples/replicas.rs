//! Replicas of a consumer share one queue. One after another is told to die after a task: it settles the task and
//! closes its channel first. With none left, tasks wait in the queue; new replicas do exactly those.
//!
//! Every task is done once: none is lost when a replica dies, none is done twice.

mod support;

use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::{Outcome, PATIENCE, address, connect, ensure, next, text};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

const QUEUE: &str = "replicas.tasks";
/// What a task takes, so that one replica alone is not done before the others are there.
const WORK: Duration = Duration::from_millis(20);

/// What a replica tells the one who watches.
struct Done {
    by: String,
    task: u32,
    /// It was told to die, and closes its channel now.
    last: bool,
}

#[tokio::main]
async fn main() -> Outcome {
    let boss = Boss::new().await?;
    let mut watch = Watch::new();

    let mut replicas = Vec::new();
    for name in ["replica 1", "replica 2", "replica 3"] {
        replicas.push(Replica::start(name, watch.sender.clone()).await?);
    }
    let mut tasks = 0;
    for _ in 0..6 {
        tasks += 1;
        boss.publish(tasks).await?;
    }
    watch.until(tasks).await?;

    for replica in replicas {
        println!("{} is told to die after a task", replica.name);
        replica.die_after_task.store(true, Ordering::SeqCst);
        // The broker chooses who gets a task: publish until the condemned one had its last.
        loop {
            tasks += 1;
            boss.publish(tasks).await?;
            let done = watch.next().await?;
            ensure(done.task == tasks, format!("task {tasks} is the only one there, not {}", done.task))?;
            if done.last {
                ensure(done.by == replica.name, format!("{} dies, not {}", replica.name, done.by))?;
                break;
            }
        }
        replica.running.await??;
    }

    ensure(boss.state().await? == (0, 0), "no task and no consumer is left")?;
    let old = tasks;
    for _ in 0..5 {
        tasks += 1;
        boss.publish(tasks).await?;
    }
    ensure(boss.state().await? == (5, 0), "five tasks wait, for nobody yet")?;
    println!("no replica is left, five tasks wait");

    println!("three new replicas start");
    let mut replicas = Vec::new();
    for name in ["replica 4", "replica 5", "replica 6"] {
        replicas.push(Replica::start(name, watch.sender.clone()).await?);
    }
    for _ in old..tasks {
        let done = watch.next().await?;
        ensure(done.task > old, format!("the new replicas do what waited, not task {}", done.task))?;
    }
    for replica in replicas {
        replica.running.abort();
        // A cancelled task reports so; its connection goes with it.
        let _ = replica.running.await;
    }

    ensure(watch.done.keys().copied().eq(1..=tasks), "every task is done")?;
    ensure(watch.done.values().all(|times| *times == 1), format!("none is done twice: {:?}", watch.done))?;
    boss.end().await?;
    println!("{tasks} tasks done, each of them once");
    Ok(())
}

/// Who publishes the tasks and asks the broker about the queue.
struct Boss {
    channel: Channel,
}

impl Boss {
    async fn new() -> Outcome<Boss> {
        let connection = connect(&address(), "replicas: boss").await?;
        let channel = connection.create_channel().await?;
        channel.queue_delete(QUEUE.into(), QueueDeleteOptions::default()).await?;
        channel.queue_declare(QUEUE.into(), QueueDeclareOptions::durable(), FieldTable::default()).await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Boss { channel })
    }

    async fn publish(&self, task: u32) -> Outcome {
        let properties = BasicProperties::default().with_delivery_mode(2);
        let (body, options) = (task.to_string(), BasicPublishOptions::default());
        let published = self.channel.basic_publish("".into(), QUEUE.into(), options, body.as_bytes(), properties);
        let confirm = timeout(PATIENCE, published.await?).await??;
        ensure(confirm == Confirmation::Ack(None), format!("task {task} is confirmed"))
    }

    /// Ready tasks and consumers.
    async fn state(&self) -> Outcome<(u32, u32)> {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue = self.channel.queue_declare(QUEUE.into(), passive, FieldTable::default()).await?;
        Ok((queue.message_count(), queue.consumer_count()))
    }

    async fn end(self) -> Outcome {
        let left = self.channel.queue_delete(QUEUE.into(), QueueDeleteOptions::default()).await?;
        ensure(left == 0, format!("{left} tasks were still in the queue"))
    }
}

/// Counts what has been done, and how often.
struct Watch {
    sender: UnboundedSender<Done>,
    receiver: UnboundedReceiver<Done>,
    done: BTreeMap<u32, u32>,
}

impl Watch {
    fn new() -> Watch {
        let (sender, receiver) = unbounded_channel();
        Watch { sender, receiver, done: BTreeMap::new() }
    }

    async fn next(&mut self) -> Outcome<Done> {
        let done = timeout(PATIENCE, self.receiver.recv()).await?.ok_or("nobody works any more")?;
        println!("{} did task {}", done.by, done.task);
        *self.done.entry(done.task).or_default() += 1;
        Ok(done)
    }

    async fn until(&mut self, tasks: u32) -> Outcome {
        while self.done.len() < tasks as usize {
            self.next().await?;
        }
        Ok(())
    }
}

struct Replica {
    name: String,
    die_after_task: Arc<AtomicBool>,
    running: JoinHandle<Outcome>,
}

impl Replica {
    /// Starts a replica on a connection of its own; it takes one task at a time.
    async fn start(name: &str, watch: UnboundedSender<Done>) -> Outcome<Replica> {
        let connection = connect(&address(), name).await?;
        let channel = connection.create_channel().await?;
        channel.basic_qos(1, BasicQosOptions::default()).await?;
        let options = BasicConsumeOptions::default();
        let mut consumer = channel.basic_consume(QUEUE.into(), name.into(), options, FieldTable::default()).await?;
        let die_after_task = Arc::new(AtomicBool::new(false));
        let (condemned, own_name) = (Arc::clone(&die_after_task), name.to_owned());
        let running = tokio::spawn(async move {
            loop {
                let delivery = next(&mut consumer).await?;
                let task = text(&delivery)?.parse()?;
                sleep(WORK).await;
                delivery.ack(BasicAckOptions::default()).await?;
                let last = condemned.load(Ordering::SeqCst);
                if last {
                    channel.close(200, "told to die".into()).await?;
                    connection.close(200, "told to die".into()).await?;
                }
                watch.send(Done { by: own_name.clone(), task, last })?;
                if last {
                    println!("{own_name} dies");
                    return Ok(());
                }
            }
        });
        Ok(Replica { name: name.to_owned(), die_after_task, running })
    }
}
