//! Methods as a client says them: the fields that a test is about as arguments, all others as zeros.

use amq_protocol::protocol::{basic, channel, confirm, exchange, queue};

/// queue.declare of a transient, shared queue, changed by `change`.
pub fn declare_with(name: &str, change: impl FnOnce(&mut queue::Declare)) -> queue::Declare {
    let mut method = queue::Declare { queue: name.into(), ..Default::default() };
    change(&mut method);
    method
}

/// queue.declare of a transient, shared queue.
pub fn declare(name: &str) -> queue::Declare {
    declare_with(name, |_| {})
}

/// queue.declare, passive.
pub fn declare_passive(name: &str) -> queue::Declare {
    declare_with(name, |declare| declare.passive = true)
}

/// exchange.declare of a transient exchange, changed by `change`.
pub fn exchange_with(name: &str, kind: &str, change: impl FnOnce(&mut exchange::Declare)) -> exchange::Declare {
    let mut method = exchange::Declare { exchange: name.into(), kind: kind.into(), ..Default::default() };
    change(&mut method);
    method
}

/// exchange.declare of a transient exchange.
pub fn exchange(name: &str, kind: &str) -> exchange::Declare {
    exchange_with(name, kind, |_| {})
}

/// exchange.declare, passive.
pub fn exchange_passive(name: &str) -> exchange::Declare {
    exchange_with(name, "", |declare| declare.passive = true)
}

/// exchange.delete, whatever is bound to it.
pub fn delete_exchange(name: &str) -> exchange::Delete {
    exchange::Delete { exchange: name.into(), ..Default::default() }
}

/// queue.bind.
pub fn bind(queue: &str, exchange: &str, key: &str) -> queue::Bind {
    queue::Bind { queue: queue.into(), exchange: exchange.into(), routing_key: key.into(), ..Default::default() }
}

/// queue.unbind.
pub fn unbind(queue: &str, exchange: &str, key: &str) -> queue::Unbind {
    queue::Unbind { queue: queue.into(), exchange: exchange.into(), routing_key: key.into(), ..Default::default() }
}

/// queue.purge.
pub fn purge(queue: &str) -> queue::Purge {
    queue::Purge { queue: queue.into(), nowait: false }
}

/// queue.delete, changed by `change`.
pub fn delete_with(queue: &str, change: impl FnOnce(&mut queue::Delete)) -> queue::Delete {
    let mut method = queue::Delete { queue: queue.into(), ..Default::default() };
    change(&mut method);
    method
}

/// queue.delete, whatever is in it.
pub fn delete(queue: &str) -> queue::Delete {
    delete_with(queue, |_| {})
}

/// basic.qos of class basic's two kinds: for each new consumer, or (`global`) for the channel.
pub fn qos(prefetch_count: u16, global: bool) -> basic::Qos {
    basic::Qos { prefetch_count, global }
}

/// basic.consume with acknowledgements, changed by `change`.
pub fn consume_with(queue: &str, tag: &str, change: impl FnOnce(&mut basic::Consume)) -> basic::Consume {
    let mut method = basic::Consume { queue: queue.into(), consumer_tag: tag.into(), ..Default::default() };
    change(&mut method);
    method
}

/// basic.consume with acknowledgements.
pub fn consume(queue: &str, tag: &str) -> basic::Consume {
    consume_with(queue, tag, |_| {})
}

/// basic.cancel.
pub fn cancel(tag: &str) -> basic::Cancel {
    basic::Cancel { consumer_tag: tag.into(), nowait: false }
}

/// basic.get with acknowledgement.
pub fn get(queue: &str) -> basic::Get {
    basic::Get { queue: queue.into(), no_ack: false }
}

/// basic.get without acknowledgement.
pub fn get_no_ack(queue: &str) -> basic::Get {
    basic::Get { queue: queue.into(), no_ack: true }
}

/// basic.publish without any flag.
pub fn publish(exchange: &str, key: &str) -> basic::Publish {
    basic::Publish { exchange: exchange.into(), routing_key: key.into(), ..Default::default() }
}

/// basic.publish, mandatory.
pub fn publish_mandatory(exchange: &str, key: &str) -> basic::Publish {
    basic::Publish { mandatory: true, ..publish(exchange, key) }
}

/// basic.ack of one delivery.
pub fn ack(delivery_tag: u64) -> basic::Ack {
    basic::Ack { delivery_tag, multiple: false }
}

/// basic.ack of everything up to and including a delivery.
pub fn ack_until(delivery_tag: u64) -> basic::Ack {
    basic::Ack { delivery_tag, multiple: true }
}

/// basic.nack of one delivery.
pub fn nack(delivery_tag: u64, requeue: bool) -> basic::Nack {
    basic::Nack { delivery_tag, multiple: false, requeue }
}

/// basic.nack of everything up to and including a delivery.
pub fn nack_until(delivery_tag: u64, requeue: bool) -> basic::Nack {
    basic::Nack { delivery_tag, multiple: true, requeue }
}

/// basic.reject.
pub fn reject(delivery_tag: u64, requeue: bool) -> basic::Reject {
    basic::Reject { delivery_tag, requeue }
}

/// basic.recover.
pub fn recover(requeue: bool) -> basic::Recover {
    basic::Recover { requeue }
}

/// basic.recover-async.
pub fn recover_async(requeue: bool) -> basic::RecoverAsync {
    basic::RecoverAsync { requeue }
}

/// confirm.select.
pub fn confirm() -> confirm::Select {
    confirm::Select { nowait: false }
}

/// channel.close for no reason.
pub fn close_channel() -> channel::Close {
    channel::Close { reply_code: 200, ..Default::default() }
}
