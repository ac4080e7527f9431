//! Tutorial 2, the producer: puts tasks into the queue that `worker` reads.
//!
//! ```text
//! cargo run --example new_task -- [--durable] [--queue NAME] TASK...
//! ```
//!
//! A task is a text; every dot in it is a piece of work. With `--durable` the queue and the tasks outlive a restart of
//! the broker: when this program says `sent`, the broker has promised so.

mod support;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Confirmation};
use support::{Outcome, PATIENCE, address, connect, ensure};
use tokio::time::timeout;

#[tokio::main]
async fn main() -> Outcome {
    let mut durable = false;
    let mut queue = "tasks".to_owned();
    let mut tasks = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--durable" => durable = true,
            "--queue" => queue = arguments.next().ok_or("--queue needs a name")?,
            option if option.starts_with("--") => {
                return Err(format!("unknown option {option}").into());
            }
            _ => tasks.push(argument),
        }
    }
    ensure(!tasks.is_empty(), "there is no task to send")?;

    let connection = connect(&address(), "new_task").await?;
    let channel = connection.create_channel().await?;
    let options = QueueDeclareOptions { durable, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.as_str().into(), options, FieldTable::default()).await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    for task in tasks {
        // 2 is persistent, 1 is not.
        let properties = BasicProperties::default().with_delivery_mode(if durable { 2 } else { 1 });
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let published =
            channel.basic_publish("".into(), queue.as_str().into(), options, task.as_bytes(), properties).await?;
        let confirm = timeout(PATIENCE, published).await??;
        ensure(confirm == Confirmation::Ack(None), format!("'{task}' is in the queue: {confirm:?}"))?;
        println!("sent '{task}'");
    }
    connection.close(200, "done".into()).await?;
    Ok(())
}
