//! A worker that hangs with tasks in its hands, seen from the one who takes them over.

use crate::support::{Outcome, PATIENCE, address, connect, ensure, next, text};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::time::timeout;

const TASKS: &str = "fan_in.tasks";
/// So many tasks does the hanging worker hold.
const HELD: u32 = 3;
/// What the worker asks for as AMQP heartbeat, in seconds.
const HEARTBEAT: u64 = 1;

/// The worker, in a process of its own: takes as many tasks as it may, acknowledges none, says what it holds.
pub async fn work() -> Outcome {
    let address = address();
    let mark = if address.contains('?') { '&' } else { '?' };
    let connection = connect(&format!("{address}{mark}heartbeat={HEARTBEAT}"), "fan_in: hanging worker").await?;
    let channel = connection.create_channel().await?;
    channel.basic_qos(HELD as u16, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    let mut consumer = channel.basic_consume(TASKS.into(), "".into(), options, FieldTable::default()).await?;
    for _ in 0..HELD {
        let delivery = next(&mut consumer).await?;
        ensure(!delivery.redelivered, "nobody had this task before")?;
        println!("{}", text(&delivery)?);
    }
    std::future::pending().await
}

/// Starts that worker, stops it when it holds its tasks, and takes them over as soon as the broker gives it up.
pub async fn take_over() -> Outcome {
    let connection = connect(&address(), "fan_in: second worker").await?;
    let channel = connection.create_channel().await?;
    channel.queue_delete(TASKS.into(), QueueDeleteOptions::default()).await?;
    channel.queue_declare(TASKS.into(), QueueDeclareOptions::durable(), FieldTable::default()).await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    for task in 1..=HELD + 2 {
        publish(&channel, task).await?;
    }

    let mut worker = Worker::start()?;
    let held = tokio::task::spawn_blocking(move || worker.holds(HELD).map(|held| (worker, held)));
    let (worker, held) = timeout(PATIENCE, held).await???;
    ensure(held.iter().copied().eq(1..=HELD), format!("the first worker holds {held:?}"))?;
    worker.signal("STOP")?;
    let stopped = Instant::now();
    println!("the worker holds tasks {held:?} and is stopped");

    let options = BasicConsumeOptions::default();
    let mut consumer = channel.basic_consume(TASKS.into(), "".into(), options, FieldTable::default()).await?;
    // What nobody holds comes at once; what the stopped worker holds, when the broker has given it up.
    for task in HELD + 1..=HELD + 2 {
        let delivery = next(&mut consumer).await?;
        ensure(text(&delivery)? == task.to_string() && !delivery.redelivered, "the free tasks come first")?;
        delivery.ack(BasicAckOptions::default()).await?;
    }
    for task in held {
        let delivery = next(&mut consumer).await?;
        let waited = stopped.elapsed();
        let found = text(&delivery)?;
        ensure(found == task.to_string(), format!("task {task} is taken over, not {found}"))?;
        ensure(delivery.redelivered, "a task that somebody may have begun is marked as redelivered")?;
        ensure(waited >= Duration::from_secs(HEARTBEAT), "not given up before two heartbeats are missed")?;
        println!("task {task} was taken over {waited:.1?} after the worker stopped");
        delivery.ack(BasicAckOptions::default()).await?;
    }
    let left = channel.queue_delete(TASKS.into(), QueueDeleteOptions::default()).await?;
    ensure(left == 0, format!("{left} tasks were left in the queue"))
}

async fn publish(channel: &Channel, task: u32) -> Outcome {
    let properties = BasicProperties::default().with_delivery_mode(2);
    let (options, body) = (BasicPublishOptions::default(), task.to_string());
    let published = channel.basic_publish("".into(), TASKS.into(), options, body.as_bytes(), properties).await?;
    let confirm = timeout(PATIENCE, published).await??;
    ensure(confirm == Confirmation::Ack(None), format!("task {task} is confirmed"))
}

/// The worker's process; killed when this goes.
struct Worker(Child);

impl Worker {
    fn start() -> Outcome<Worker> {
        let mut command = Command::new(std::env::current_exe()?);
        Ok(Worker(command.arg("worker").stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?))
    }

    /// Waits until it says that it holds so many tasks.
    fn holds(&mut self, count: u32) -> Outcome<Vec<u32>> {
        let output = self.0.stdout.take().ok_or("a piped stdout")?;
        let lines = BufReader::new(output).lines().take(count as usize);
        lines.map(|line| Ok(line?.parse()?)).collect()
    }

    fn signal(&self, name: &str) -> Outcome {
        let kill = format!("kill -s {name} {}", self.0.id());
        let status = Command::new("sh").args(["-c", &kill]).status()?;
        ensure(status.success(), format!("{kill}: {status}"))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Both fail only if it is gone already. SIGKILL ends a stopped process too.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
