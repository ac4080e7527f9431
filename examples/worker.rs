//! Tutorial 2, the worker: does the tasks that `new_task` sends.
//!
//! ```text
//! cargo run --example worker -- [--durable] [--auto-ack] [--prefetch N] [--dot MILLISECONDS] [--count N] [--queue NAME]
//! ```
//!
//! With `--auto-ack` a task counts as done when it is sent to the worker, and dies with it. Without, the worker
//! acknowledges a task when it has done it; if it dies before, another one gets the task. With `--prefetch 1` it gets a
//! new one only after that. A dot in a task is a second of work, unless `--dot` says otherwise. It ends after `--count`
//! tasks, or never.

mod support;

use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use std::time::Duration;
use support::{Outcome, address, connect, text};
use tokio::time::sleep;
use tokio_stream::StreamExt;

struct Options {
    durable: bool,
    auto_ack: bool,
    prefetch: u16,
    dot: Duration,
    count: Option<u32>,
    queue: String,
}

impl Options {
    fn from_arguments() -> Outcome<Options> {
        let mut options = Options {
            durable: false,
            auto_ack: false,
            prefetch: 0,
            dot: Duration::from_secs(1),
            count: None,
            queue: "tasks".to_owned(),
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                "--durable" => options.durable = true,
                "--auto-ack" => options.auto_ack = true,
                "--prefetch" => options.prefetch = value()?.parse()?,
                "--dot" => options.dot = Duration::from_millis(value()?.parse()?),
                "--count" => options.count = Some(value()?.parse()?),
                "--queue" => options.queue = value()?,
                other => return Err(format!("unknown argument {other}").into()),
            }
        }
        Ok(options)
    }
}

#[tokio::main]
async fn main() -> Outcome {
    let options = Options::from_arguments()?;
    let connection = connect(&address(), "worker").await?;
    let channel = connection.create_channel().await?;
    let declare = QueueDeclareOptions { durable: options.durable, ..QueueDeclareOptions::default() };
    channel.queue_declare(options.queue.as_str().into(), declare, FieldTable::default()).await?;
    channel.basic_qos(options.prefetch, BasicQosOptions::default()).await?;
    let consume = BasicConsumeOptions { no_ack: options.auto_ack, ..BasicConsumeOptions::default() };
    let mut tasks =
        channel.basic_consume(options.queue.as_str().into(), "".into(), consume, FieldTable::default()).await?;
    println!("ready");

    let mut done = 0;
    while options.count != Some(done) {
        // Tasks may come tomorrow: there is no limit to this wait.
        let delivery = tasks.next().await.ok_or("the broker cancelled the consumer")??;
        let task = text(&delivery)?;
        println!("received '{task}'{}", if delivery.redelivered { ", redelivered" } else { "" });
        sleep(options.dot * task.matches('.').count() as u32).await;
        println!("done '{task}'");
        if !options.auto_ack {
            delivery.ack(BasicAckOptions::default()).await?;
        }
        done += 1;
    }
    // Sends what is still to be sent, the last acknowledgement too.
    connection.close(200, "done".into()).await?;
    Ok(())
}
