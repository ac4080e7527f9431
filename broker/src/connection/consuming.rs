//! Consumers and what they settle: `basic.qos`, `consume`, `cancel`, `get`, `recover`, `ack`, `nack`, `reject`.

use std::collections::HashSet;
use std::sync::Arc;

use leveret_protocol::AmqpError;
use leveret_protocol::amq::{AMQPValue, FieldTable, basic};
use leveret_protocol::hot::Settle;

use super::Connection;
use super::channel::{Channel, Wait, note_settled};
use super::dispatch::Done;
use super::unacked::Outstanding;
use crate::access::rights::{Resource, Right};
use crate::command::{NewConsumer, QueueCommand, Reply, Window};
use crate::queue::Queue;
use crate::{methods, names};

/// What becomes of deliveries that are settled.
#[derive(Clone, Copy, Debug)]
pub(super) enum How {
    Done,
    Rejected,
    Requeued,
}

impl Connection {
    pub(super) fn qos(&mut self, number: u16, qos: &basic::Qos) -> Done {
        let Some(channel) = self.channels.get(number) else {
            return Ok(());
        };
        let was_set = channel.limit.is_set();
        if qos.global {
            channel.limit.set(qos.prefetch_count.into());
            if !was_set && channel.limit.is_set() {
                let fetched = channel.unacked.iter_mut().filter(|o| o.consumer.is_none() && !o.counted);
                for outstanding in fetched {
                    outstanding.counted = true;
                    channel.limit.add(outstanding.segment.count());
                }
            }
        } else {
            channel.prefetch = qos.prefetch_count;
            channel.limit.set(0);
        }
        self.send(number, &methods::qos_ok());
        // A limit that was widened or removed lets messages flow at once.
        self.wake_channel(number);
        Ok(())
    }

    pub(super) fn consume(&mut self, number: u16, consume: basic::Consume) -> Done {
        let name = self.queue_name(number, consume.queue.as_str())?;
        let prefetch_and_limit = {
            let Some(channel) = self.channels.get(number) else {
                return Ok(());
            };
            if channel.tags.contains_key(consume.consumer_tag.as_str()) {
                let text = format!("attempt to reuse consumer tag '{}'", consume.consumer_tag);
                return Err(AmqpError::not_allowed(text));
            }
            (u32::from(channel.prefetch), channel.limit.clone(), channel.key)
        };
        if &*name == names::REPLY_TO {
            return self.consume_replies(number, &consume);
        }
        self.rights.check(Right::Read, Resource::Queue(&name))?;
        let queue = self.usable_queue(&name)?;
        let priority = consume_arguments(&consume.arguments, &queue, &self.vhost.name)?;
        let tag: Box<str> = match consume.consumer_tag.as_str() {
            "" => names::generated_tag().into(),
            tag => tag.into(),
        };
        let (prefetch, limit, key) = prefetch_and_limit;
        let window = Arc::<Window>::default();
        let (no_ack, exclusive) = (consume.no_ack, consume.exclusive);
        let wait = Wait::Consume { tag, queue: queue.clone(), window: window.clone() };
        self.wait(number, wait, (60, 20), consume.nowait);
        let from = self.requester(key);
        let new = NewConsumer { from, no_ack, exclusive, priority, prefetch, window, limit };
        queue.push(QueueCommand::Consume(Box::new(new)));
        Ok(())
    }

    pub(super) fn cancel(&mut self, number: u16, cancel: &basic::Cancel) -> Done {
        let tag = cancel.consumer_tag.as_str();
        let Some(channel) = self.channels.get(number) else {
            return Ok(());
        };
        if channel.replies.as_ref().is_some_and(|c| &*c.tag == tag) {
            channel.replies = None;
            self.send_unless(cancel.nowait, number, methods::cancel_ok(tag));
            return Ok(());
        }
        let key = channel.key;
        let serial = channel.tags.remove(tag);
        let Some((serial, consumer)) = serial.and_then(|s| Some((s, self.consumers.get(&s)?))) else {
            self.send_unless(cancel.nowait, number, methods::cancel_ok(tag));
            return Ok(());
        };
        let (queue, consumer) = (consumer.queue.clone(), consumer.key);
        self.wait(number, Wait::Cancel { serial }, (60, 30), cancel.nowait);
        let reply = Reply::Method(Box::new(methods::cancel_ok(tag)));
        let then = Some((self.requester(key), reply));
        queue.push(QueueCommand::Cancel { consumer, then });
        Ok(())
    }

    pub(super) fn get(&mut self, number: u16, get: &basic::Get) -> Done {
        let name = self.queue_name(number, get.queue.as_str())?;
        self.rights.check(Right::Read, Resource::Queue(&name))?;
        let queue = self.usable_queue(&name)?;
        let Some(from) = self.asker(number) else {
            return Ok(());
        };
        let wait = Wait::Get { no_ack: get.no_ack, queue: queue.clone() };
        self.wait(number, wait, (60, 70), false);
        queue.push(QueueCommand::Get { from, no_ack: get.no_ack });
        Ok(())
    }

    pub(super) fn recover(&mut self, number: u16, requeue: bool) -> Done {
        if !requeue {
            return Err(AmqpError::not_implemented("requeue=false"));
        }
        let Some(channel) = self.channels.get(number) else {
            return Ok(());
        };
        let all = channel.unacked.take_all();
        self.settle_all(number, all, How::Requeued);
        self.flush();
        Ok(())
    }

    /// `basic.ack`, `basic.nack` and `basic.reject`.
    pub(super) fn settle(&mut self, number: u16, settle: Settle) -> Done {
        let (tag, multiple, how) = match settle {
            Settle::Ack { tag, multiple } => (tag, multiple, How::Done),
            Settle::Nack { tag, multiple, requeue: true } => (tag, multiple, How::Requeued),
            Settle::Nack { tag, multiple, requeue: false } => (tag, multiple, How::Rejected),
            Settle::Reject { tag, requeue: true } => (tag, false, How::Requeued),
            Settle::Reject { tag, requeue: false } => (tag, false, How::Rejected),
        };
        let Some(channel) = self.channels.get(number) else { return Ok(()) };
        let unknown = || AmqpError::precondition_failed(format!("unknown delivery tag {tag}"));
        if !multiple {
            if matches!(how, How::Done) && channel.transaction.is_none() && self.acked_in_place(number, tag) {
                return Ok(());
            }
            let Some(channel) = self.channels.get(number) else { return Ok(()) };
            let one = channel.unacked.take_one(tag).ok_or_else(unknown)?;
            self.settled(number, [one], how);
            return Ok(());
        }
        let taken = match tag {
            0 => channel.unacked.take_all(),
            tag => channel.unacked.take_through(tag).ok_or_else(unknown)?,
        };
        self.settled(number, taken, how);
        Ok(())
    }

    /// Acknowledges one delivery, if it is the first of several that came together: nothing is copied, and no count
    /// touched that the publisher's core uses too.
    fn acked_in_place(&mut self, number: u16, tag: u64) -> bool {
        let Some(Channel { unacked, unstored, .. }) = self.channels.get(number) else { return false };
        let Some(outstanding) = unacked.beginning_with(tag) else { return false };
        let Outstanding { queue, consumer, segment, counted, .. } = &*outstanding;
        let freed = u32::from(*counted);
        if segment.persistent {
            note_settled(unstored, queue);
        }
        self.outbox.settle(queue, *consumer, segment, 1);
        outstanding.drop_first();
        self.free_channel_room(number, freed);
        true
    }

    /// Deliveries that are no longer outstanding: what becomes of them does so now, or when the transaction is
    /// committed.
    fn settled(&mut self, number: u16, taken: impl IntoIterator<Item = Outstanding>, how: How) {
        match self.channels.get(number).and_then(Channel::transaction) {
            Some(transaction) => transaction.hold_settled(how, taken),
            None => self.settle_all(number, taken, how),
        }
    }

    /// Lets `how` have its effect.
    pub(super) fn settle_all(&mut self, number: u16, taken: impl IntoIterator<Item = Outstanding>, how: How) {
        let mut freed = 0;
        for Outstanding { queue, consumer, segment, counted, .. } in taken {
            freed += if counted { segment.count() } else { 0 };
            if segment.persistent
                && !matches!(how, How::Requeued)
                && let Some(channel) = self.channels.get(number)
            {
                channel.settled_in(&queue);
            }
            match how {
                How::Done => self.outbox.settle(&queue, consumer, &segment, segment.count()),
                How::Rejected => self.outbox.push(&queue, QueueCommand::Reject { consumer, segment }),
                How::Requeued => self.outbox.push(&queue, QueueCommand::Requeue { consumer, segment, seen: true }),
            }
        }
        self.free_channel_room(number, freed);
    }

    /// Settled deliveries make room under the channel-wide limit.
    fn free_channel_room(&mut self, number: u16, count: u32) {
        if count == 0 {
            return;
        }
        let Some(channel) = self.channels.get(number) else {
            return;
        };
        channel.limit.free(count);
        if channel.limit.take_starved() {
            self.wake_channel(number);
        }
    }

    /// Has the queues of a channel's consumers look for room again, once they have heard of what was settled.
    fn wake_channel(&mut self, number: u16) {
        if !self.waking.contains(&number) {
            self.waking.push(number);
        }
    }

    /// Tells the queues of the channels that have room again, past the outbox, which has an order of its own: each time
    /// another one goes first, since who looks first may take all there is.
    pub(super) fn send_wakes(&mut self) {
        for number in std::mem::take(&mut self.waking) {
            let Some(channel) = self.channels.get(number) else { continue };
            let first = channel.woken.checked_rem(channel.tags.len()).unwrap_or(0);
            channel.woken = channel.woken.wrapping_add(1);
            let (last, rest) = (channel.tags.values().take(first), channel.tags.values().skip(first));
            let mut told = HashSet::new();
            for serial in rest.chain(last) {
                if let Some(consumer) = self.consumers.get(serial)
                    && told.insert(consumer.queue.id)
                {
                    consumer.queue.push(QueueCommand::Wake);
                }
            }
        }
    }
}

/// Checks the arguments of `basic.consume` and answers the consumer's priority.
fn consume_arguments(arguments: &FieldTable, queue: &Queue, vhost: &str) -> Result<i64, AmqpError> {
    let described = names::queue(&queue.name, vhost);
    for name in ["x-stream-offset", "x-stream-filter", "x-stream-match-unfiltered"] {
        if arguments.inner().get(name).is_some() {
            let kind = queue.kind();
            let text = format!("invalid arg '{name}' for {described} of queue type rabbit_{kind}_queue");
            return Err(AmqpError::precondition_failed(text));
        }
    }
    let Some(value) = arguments.inner().get("x-priority") else { return Ok(0) };
    let integer = match value {
        AMQPValue::DecimalValue(_) | AMQPValue::Timestamp(_) => None,
        other => leveret_protocol::value::as_integer(other),
    };
    integer.ok_or_else(|| {
        let kind = leveret_protocol::value::type_word(value);
        let detail = format!("\"expected integer, got {kind}\"");
        AmqpError::precondition_failed(format!("invalid arg 'x-priority' for {described}: {detail}"))
    })
}
