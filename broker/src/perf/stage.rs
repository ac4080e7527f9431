//! The queues (and exchange) of a run: declared before it, deleted after it.

use std::time::UNIX_EPOCH;

use leveret_protocol::amq::{AMQPClass, FieldTable, exchange, queue, short};

use super::error::PerfError;
use super::link::{self, Link};
use super::options::Plan;

pub struct Stage {
    /// Empty: the default exchange.
    pub exchange: String,
    /// All of the same length.
    pub queues: Vec<String>,
}

impl Stage {
    /// Names that no other run has.
    pub fn named(plan: &Plan) -> Stage {
        let now = UNIX_EPOCH.elapsed().map_or(0, |time| time.as_nanos() as u64);
        let run = format!("leveret-perf-{:x}-{:x}", std::process::id(), now);
        Stage {
            exchange: if plan.is_fanout() { run.clone() } else { String::new() },
            queues: (0..plan.queues).map(|queue| format!("{run}-{queue:05}")).collect(),
        }
    }

    /// Declares everything.
    ///
    /// # Errors
    /// Then some of it may be there: [`Stage::clear`] is to be called all the same.
    pub fn declare(&self, plan: &Plan) -> Result<(), PerfError> {
        let mut link = Link::open(&plan.url)?;
        if !self.exchange.is_empty() {
            link.call(self.exchange_declare(plan), "exchange.declare")?;
        }
        for name in &self.queues {
            let declare = queue::Declare {
                queue: short(name),
                passive: false,
                durable: plan.durable,
                exclusive: false,
                auto_delete: false,
                nowait: false,
                arguments: plan.arguments.clone(),
            };
            link.call(AMQPClass::Queue(queue::AMQPMethod::Declare(declare)), "queue.declare")?;
            if !self.exchange.is_empty() {
                let bind = queue::Bind {
                    queue: short(name),
                    exchange: short(&self.exchange),
                    routing_key: short(""),
                    nowait: false,
                    arguments: FieldTable::default(),
                };
                link.call(AMQPClass::Queue(queue::AMQPMethod::Bind(bind)), "queue.bind")?;
            }
        }
        link.close()
    }

    fn exchange_declare(&self, plan: &Plan) -> AMQPClass {
        AMQPClass::Exchange(exchange::AMQPMethod::Declare(exchange::Declare {
            exchange: short(&self.exchange),
            kind: short("fanout"),
            passive: false,
            durable: plan.durable,
            auto_delete: false,
            internal: false,
            nowait: false,
            arguments: FieldTable::default(),
        }))
    }

    /// Deletes everything, and says how many messages were left in the queues.
    pub fn clear(&self, plan: &Plan) -> Result<u64, PerfError> {
        // A connection of its own: on an error the broker closes the channel in which it happened.
        let mut link = Link::open(&plan.url)?;
        let mut left = 0;
        for name in &self.queues {
            let delete = queue::Delete { queue: short(name), if_unused: false, if_empty: false, nowait: false };
            match link.call(AMQPClass::Queue(queue::AMQPMethod::Delete(delete)), "queue.delete")? {
                AMQPClass::Queue(queue::AMQPMethod::DeleteOk(ok)) => left += u64::from(ok.message_count),
                other => return Err(link::unexpected(&other)),
            }
        }
        if !self.exchange.is_empty() {
            let delete = exchange::Delete { exchange: short(&self.exchange), if_unused: false, nowait: false };
            link.call(AMQPClass::Exchange(exchange::AMQPMethod::Delete(delete)), "exchange.delete")?;
        }
        link.close()?;
        Ok(left)
    }
}
