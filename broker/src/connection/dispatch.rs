//! Methods of open channels, one arm each, and those of the connection.

use leveret_protocol::amq::{
    AMQPClass, AMQPValue, FieldTable, access, basic, channel, confirm, connection, exchange, queue, tx,
};
use leveret_protocol::hot::Settle;
use leveret_protocol::{AmqpError, frame, method};

use super::channel::{Channel, Request, State, Wait};
use super::confirms::Confirms;
use super::unacked::Outstanding;
use super::{Connection, Phase};
use crate::command::{ChannelKey, NewConsumer, QueueCommand, Window};
use crate::vhost::command::{BindingSpec, DestinationKind, ExchangeDeclare, QueueDeclare, TopologyCommand};
use crate::vhost::topology::unlocked;
use crate::{methods, names};

type Done = Result<(), AmqpError>;

/// What becomes of deliveries that are settled.
#[derive(Clone, Copy)]
enum How {
    Done,
    Rejected,
    Requeued,
}

impl Connection {
    // Channel 0

    pub(super) fn connection_method(&mut self, payload: &[u8]) {
        let (class, method_id) = method::ids(payload);
        let outcome = match method::decode(payload) {
            Ok(AMQPClass::Connection(connection::AMQPMethod::Close(_))) => {
                self.close(None);
                Ok(())
            }
            Ok(AMQPClass::Connection(connection::AMQPMethod::UpdateSecret(_))) => {
                // The default user's password does not expire: any new secret is accepted.
                self.send(0, &methods::update_secret_ok());
                Ok(())
            }
            Ok(_) => {
                Err(AmqpError::channel_error("unexpected method in connection state running").at(class, method_id))
            }
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            self.raise(0, error);
        }
    }

    /// A frame on a channel that is not open.
    pub(super) fn frame_on_no_channel(&mut self, found: &frame::Frame<'_>) {
        if found.kind != frame::METHOD {
            let text = "expected method frame, got non method frame instead";
            return self.raise(0, AmqpError::unexpected_frame(text));
        }
        let (class, method_id) = method::ids(found.payload);
        match method::decode(found.payload) {
            Ok(AMQPClass::Channel(channel::AMQPMethod::Open(_))) => self.open_channel(found.channel),
            // Clients race their acknowledgements with the close of the channel.
            Ok(AMQPClass::Basic(
                basic::AMQPMethod::Ack(_) | basic::AMQPMethod::Nack(_) | basic::AMQPMethod::Reject(_),
            )) => {}
            Ok(AMQPClass::Basic(basic::AMQPMethod::Publish(_))) => self.publish_on_no_channel(found),
            Ok(AMQPClass::Connection(_)) => {
                self.raise(0, AmqpError::command_invalid("unimplemented method").at(class, method_id))
            }
            Ok(_) => self.raise(0, AmqpError::channel_error("expected 'channel.open'").at(class, method_id)),
            Err(error) => self.raise(0, error),
        }
    }

    /// The content is waited for before the error is raised.
    fn publish_on_no_channel(&mut self, found: &frame::Frame<'_>) {
        let Ok(publish) = leveret_protocol::hot::publish(found.payload) else { return };
        let mut channel = Channel::new(ChannelKey { number: found.channel, epoch: 0 });
        channel.state = State::Unopened;
        channel.assembler.start(&publish, publish.bits());
        self.channels.insert(channel);
    }

    fn open_channel(&mut self, number: u16) {
        if self.channels.len() >= usize::from(self.channel_max) {
            let (open, most) = (self.channels.len(), self.channel_max);
            let text = format!("number of channels opened ({open}) has reached the negotiated channel_max ({most})");
            return self.raise(0, AmqpError::not_allowed(text));
        }
        let key = ChannelKey { number, epoch: self.next_epoch };
        self.next_epoch += 1;
        self.channels.insert(Channel::new(key));
        self.send(number, &methods::channel_open_ok());
    }

    /// A frame on a channel that the broker has closed: thrown away until close-ok.
    pub(super) fn frame_on_closed(&mut self, found: &frame::Frame<'_>) {
        if found.kind != frame::METHOD {
            return;
        }
        match method::decode(found.payload) {
            Ok(AMQPClass::Channel(channel::AMQPMethod::Close(_))) => {
                self.send(found.channel, &methods::channel_close_ok());
            }
            Ok(AMQPClass::Channel(channel::AMQPMethod::CloseOk(_))) => {
                if self.channels.get(found.channel).is_some_and(|c| matches!(c.state, State::Closed)) {
                    self.channels.remove(found.channel);
                }
            }
            Ok(AMQPClass::Channel(channel::AMQPMethod::Open(_))) => {
                self.raise(0, AmqpError::channel_error("second 'channel.open' seen").at(20, 10));
            }
            Ok(_) => {}
            Err(error) => self.raise(0, error),
        }
    }

    // Open channels

    pub(super) fn dispatch(&mut self, number: u16, class: AMQPClass) -> Done {
        match class {
            AMQPClass::Basic(method) => self.basic(number, method),
            AMQPClass::Queue(method) => self.queue_class(number, method),
            AMQPClass::Exchange(method) => self.exchange_class(number, method),
            AMQPClass::Channel(channel::AMQPMethod::Open(_)) => {
                Err(AmqpError::channel_error("second 'channel.open' seen"))
            }
            AMQPClass::Channel(channel::AMQPMethod::Flow(flow)) => {
                if !flow.active {
                    return Err(AmqpError::not_implemented("active=false"));
                }
                self.send(number, &methods::channel_flow_ok(true));
                Ok(())
            }
            AMQPClass::Channel(channel::AMQPMethod::Close(_)) => {
                self.client_closes_channel(number);
                Ok(())
            }
            AMQPClass::Confirm(confirm::AMQPMethod::Select(select)) => {
                let Some(channel) = self.channels.get(number) else {
                    return Ok(());
                };
                channel.confirms.get_or_insert_with(Confirms::default);
                self.send_unless(select.nowait, number, methods::confirm_select_ok());
                Ok(())
            }
            AMQPClass::Access(access::AMQPMethod::Request(_)) => {
                self.send(number, &methods::access_request_ok());
                Ok(())
            }
            AMQPClass::Tx(tx::AMQPMethod::Select(_) | tx::AMQPMethod::Commit(_) | tx::AMQPMethod::Rollback(_)) => {
                Err(AmqpError::not_implemented("transactions (tx class) are not supported yet"))
            }
            _ => Err(AmqpError::command_invalid("unimplemented method")),
        }
    }

    fn basic(&mut self, number: u16, method: basic::AMQPMethod) -> Done {
        match method {
            basic::AMQPMethod::Qos(qos) => self.qos(number, &qos),
            basic::AMQPMethod::Consume(consume) => self.consume(number, consume),
            basic::AMQPMethod::Cancel(cancel) => self.cancel(number, &cancel),
            basic::AMQPMethod::Get(get) => self.get(number, &get),
            basic::AMQPMethod::Recover(recover) => {
                self.recover(number, recover.requeue)?;
                self.send(number, &methods::recover_ok());
                Ok(())
            }
            basic::AMQPMethod::RecoverAsync(recover) => self.recover(number, recover.requeue),
            _ => Err(AmqpError::command_invalid("unimplemented method")),
        }
    }

    fn qos(&mut self, number: u16, qos: &basic::Qos) -> Done {
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

    fn consume(&mut self, number: u16, consume: basic::Consume) -> Done {
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
        if consume.queue.as_str().starts_with("amq.rabbitmq.reply-to") {
            return Err(AmqpError::not_implemented("direct reply-to is not supported yet"));
        }
        let name = self.queue_name(number, consume.queue.as_str())?;
        let queue = self.usable_queue(&name)?;
        let priority = consume_arguments(&consume.arguments, &names::queue(&name, &self.vhost.name))?;
        let tag: Box<str> = match consume.consumer_tag.as_str() {
            "" => names::generated_tag().into(),
            tag => tag.into(),
        };
        let (prefetch, limit, key) = prefetch_and_limit;
        let window = std::sync::Arc::<Window>::default();
        let (no_ack, exclusive) = (consume.no_ack, consume.exclusive);
        let wait = Wait::Consume { tag, queue: queue.clone(), window: window.clone() };
        self.wait(number, wait, (60, 20), consume.nowait);
        let from = self.requester(key);
        let new = NewConsumer { from, no_ack, exclusive, priority, prefetch, window, limit };
        queue.push(QueueCommand::Consume(Box::new(new)));
        Ok(())
    }

    fn cancel(&mut self, number: u16, cancel: &basic::Cancel) -> Done {
        let tag = cancel.consumer_tag.as_str();
        let Some(channel) = self.channels.get(number) else {
            return Ok(());
        };
        let key = channel.key;
        let serial = channel.tags.remove(tag);
        let Some((serial, consumer)) = serial.and_then(|s| Some((s, self.consumers.get(&s)?))) else {
            self.send_unless(cancel.nowait, number, methods::cancel_ok(tag));
            return Ok(());
        };
        let (queue, consumer) = (consumer.queue.clone(), consumer.key);
        self.wait(number, Wait::Cancel { serial }, (60, 30), cancel.nowait);
        let reply = crate::command::Reply::Method(Box::new(methods::cancel_ok(tag)));
        let then = Some((self.requester(key), reply));
        queue.push(QueueCommand::Cancel { consumer, then });
        Ok(())
    }

    fn get(&mut self, number: u16, get: &basic::Get) -> Done {
        let name = self.queue_name(number, get.queue.as_str())?;
        let queue = self.usable_queue(&name)?;
        let Some(from) = self.asker(number) else {
            return Ok(());
        };
        let wait = Wait::Get { no_ack: get.no_ack, queue: queue.clone() };
        self.wait(number, wait, (60, 70), false);
        queue.push(QueueCommand::Get { from, no_ack: get.no_ack });
        Ok(())
    }

    fn recover(&mut self, number: u16, requeue: bool) -> Done {
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
            let one = channel.unacked.take_one(tag).ok_or_else(unknown)?;
            self.settle_all(number, [one], how);
            return Ok(());
        }
        let taken = match tag {
            0 => channel.unacked.take_all(),
            tag => channel.unacked.take_through(tag).ok_or_else(unknown)?,
        };
        self.settle_all(number, taken, how);
        Ok(())
    }

    fn settle_all(&mut self, number: u16, taken: impl IntoIterator<Item = Outstanding>, how: How) {
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
                How::Done => self.outbox.settle(&queue, consumer, &segment),
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

    /// Lets the queues of a channel's consumers look for room again.
    fn wake_channel(&mut self, number: u16) {
        let Some(channel) = self.channels.get(number) else {
            return;
        };
        for serial in channel.tags.values() {
            if let Some(consumer) = self.consumers.get(serial) {
                self.outbox.push(&consumer.queue, QueueCommand::Wake);
            }
        }
    }

    fn queue_class(&mut self, number: u16, method: queue::AMQPMethod) -> Done {
        let Some(from) = self.asker(number) else {
            return Ok(());
        };
        match method {
            queue::AMQPMethod::Declare(declare) => self.declare_queue(number, declare),
            queue::AMQPMethod::Bind(bind) => {
                let (queue, key) = self.binding_names(number, &names::strip(bind.queue.as_str()), &bind.routing_key)?;
                let binding = BindingSpec {
                    source: names::strip(bind.exchange.as_str()),
                    kind: DestinationKind::Queue,
                    destination: queue,
                    key,
                    arguments: bind.arguments,
                };
                self.wait(number, Wait::Method, (50, 20), bind.nowait);
                self.vhost.push(TopologyCommand::Bind { from, binding });
                Ok(())
            }
            queue::AMQPMethod::Unbind(unbind) => {
                let name = names::strip(unbind.queue.as_str());
                let (queue, key) = self.binding_names(number, &name, &unbind.routing_key)?;
                let binding = BindingSpec {
                    source: names::strip(unbind.exchange.as_str()),
                    kind: DestinationKind::Queue,
                    destination: queue,
                    key,
                    arguments: unbind.arguments,
                };
                self.wait(number, Wait::Method, (50, 50), false);
                self.vhost.push(TopologyCommand::Unbind { from, binding });
                Ok(())
            }
            queue::AMQPMethod::Purge(purge) => {
                let name = self.queue_name(number, purge.queue.as_str())?;
                let queue = self.usable_queue(&name)?;
                self.wait(number, Wait::Method, (50, 30), purge.nowait);
                queue.push(QueueCommand::Purge { from });
                Ok(())
            }
            queue::AMQPMethod::Delete(delete) => {
                let name = self.queue_name(number, &names::strip(delete.queue.as_str()))?;
                self.wait(number, Wait::Method, (50, 40), delete.nowait);
                let (if_unused, if_empty) = (delete.if_unused, delete.if_empty);
                self.vhost.push(TopologyCommand::DeleteQueue { from, name, if_unused, if_empty });
                Ok(())
            }
            _ => Err(AmqpError::command_invalid("unimplemented method")),
        }
    }

    fn declare_queue(&mut self, number: u16, declare: queue::Declare) -> Done {
        let Some(from) = self.asker(number) else {
            return Ok(());
        };
        let mut name = names::strip(declare.queue.as_str());
        if name.starts_with("amq.rabbitmq.reply-to") {
            return Err(AmqpError::not_implemented("direct reply-to is not supported yet"));
        }
        if !declare.passive {
            if name.is_empty() {
                if is_quorum(&declare.arguments) {
                    let text = "Cannot declare a server-named queue for type rabbit_quorum_queue";
                    return Err(AmqpError::precondition_failed(text));
                }
                name = names::generated_queue().into();
            } else if name.starts_with("amq.") {
                let text = format!("queue name '{name}' contains reserved prefix 'amq.*'");
                return Err(AmqpError::access_refused(text));
            }
        }
        self.wait(number, Wait::Declare, (50, 10), declare.nowait);
        let declare = QueueDeclare {
            name,
            passive: declare.passive,
            durable: declare.durable,
            exclusive: declare.exclusive,
            auto_delete: declare.auto_delete,
            arguments: declare.arguments,
        };
        self.vhost.push(TopologyCommand::DeclareQueue { from, declare });
        Ok(())
    }

    fn exchange_class(&mut self, number: u16, method: exchange::AMQPMethod) -> Done {
        let Some(from) = self.asker(number) else {
            return Ok(());
        };
        match method {
            exchange::AMQPMethod::Declare(declare) => {
                let name = names::strip(declare.exchange.as_str());
                self.wait(number, Wait::Method, (40, 10), declare.nowait);
                if declare.passive {
                    self.vhost.push(TopologyCommand::CheckExchange { from, name });
                    return Ok(());
                }
                let declare = ExchangeDeclare {
                    name,
                    kind: declare.kind.as_str().into(),
                    durable: declare.durable,
                    auto_delete: declare.auto_delete,
                    internal: declare.internal,
                    arguments: declare.arguments,
                };
                self.vhost.push(TopologyCommand::DeclareExchange { from, declare });
                Ok(())
            }
            exchange::AMQPMethod::Delete(delete) => {
                let name = names::strip(delete.exchange.as_str());
                self.wait(number, Wait::Method, (40, 20), delete.nowait);
                self.vhost.push(TopologyCommand::DeleteExchange { from, name, if_unused: delete.if_unused });
                Ok(())
            }
            exchange::AMQPMethod::Bind(bind) => {
                let binding = exchange_binding(
                    bind.source.as_str(),
                    bind.destination.as_str(),
                    bind.routing_key.as_str(),
                    bind.arguments,
                );
                self.wait(number, Wait::Method, (40, 30), bind.nowait);
                self.vhost.push(TopologyCommand::Bind { from, binding });
                Ok(())
            }
            exchange::AMQPMethod::Unbind(unbind) => {
                let binding = exchange_binding(
                    unbind.source.as_str(),
                    unbind.destination.as_str(),
                    unbind.routing_key.as_str(),
                    unbind.arguments,
                );
                self.wait(number, Wait::Method, (40, 40), unbind.nowait);
                self.vhost.push(TopologyCommand::Unbind { from, binding });
                Ok(())
            }
            _ => Err(AmqpError::command_invalid("unimplemented method")),
        }
    }

    // Helpers

    fn asker(&mut self, number: u16) -> Option<crate::command::Requester> {
        let key = self.channels.get(number)?.key;
        Some(self.requester(key))
    }

    /// The channel waits for an answer; what else it sends is deferred.
    fn wait(&mut self, number: u16, wait: Wait, (class, method): (u16, u16), nowait: bool) {
        if let Some(channel) = self.channels.get(number) {
            channel.state = State::Waiting(Request { wait, class, method, nowait });
        }
    }

    fn send_unless(&mut self, nowait: bool, number: u16, class: AMQPClass) {
        if !nowait {
            self.send(number, &class);
        }
    }

    /// The queue that a name means: an empty one is the channel's last declared queue.
    fn queue_name(&mut self, number: u16, name: &str) -> Result<Box<str>, AmqpError> {
        if !name.is_empty() {
            return Ok(name.into());
        }
        let last = self.channels.get(number).and_then(|channel| channel.last_queue.clone());
        last.ok_or_else(|| AmqpError::not_found("no previously declared queue"))
    }

    /// Queue and key of a binding; with both empty, the key too is the last declared queue's name.
    fn binding_names(
        &mut self,
        number: u16,
        queue: &str,
        key: &leveret_protocol::amq::ShortString,
    ) -> Result<(Box<str>, Box<[u8]>), AmqpError> {
        let name = self.queue_name(number, queue)?;
        let key = match (queue, key.as_str().as_bytes()) {
            ("", b"") => name.as_bytes().into(),
            (_, key) => key.into(),
        };
        Ok((name, key))
    }

    /// The queue of that name, if it exists and this connection may use it.
    fn usable_queue(&self, name: &str) -> Result<std::sync::Arc<crate::queue::Queue>, AmqpError> {
        let snapshot = self.vhost.snapshot();
        let queue = snapshot
            .queues
            .get(name.as_bytes())
            .ok_or_else(|| AmqpError::not_found(format!("no {}", names::queue(name, &self.vhost.name))))?;
        unlocked(queue, &self.as_requester(), &self.vhost.name)?;
        Ok(queue.clone())
    }

    /// A frame while the connection closes: only the close handshake matters.
    pub(super) fn frame_while_closing(&mut self, found: &frame::Frame<'_>) {
        if found.kind != frame::METHOD || found.channel != 0 {
            return;
        }
        match method::decode(found.payload) {
            Ok(AMQPClass::Connection(connection::AMQPMethod::Close(_))) => {
                self.send(0, &methods::connection_close_ok());
            }
            Ok(AMQPClass::Connection(connection::AMQPMethod::CloseOk(_)))
                if matches!(self.phase, Phase::AwaitingCloseOk) =>
            {
                self.phase = Phase::Ended;
            }
            _ => {}
        }
    }
}

fn exchange_binding(source: &str, destination: &str, key: &str, arguments: FieldTable) -> BindingSpec {
    BindingSpec {
        source: names::strip(source),
        kind: DestinationKind::Exchange,
        destination: names::strip(destination),
        key: key.as_bytes().into(),
        arguments,
    }
}

/// Checks the arguments of `basic.consume` and answers the consumer's priority.
fn consume_arguments(arguments: &FieldTable, described: &str) -> Result<i64, AmqpError> {
    for name in ["x-stream-offset", "x-stream-filter", "x-stream-match-unfiltered"] {
        if arguments.inner().get(name).is_some() {
            let text = format!("invalid arg '{name}' for {described} of queue type rabbit_classic_queue");
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

fn is_quorum(arguments: &FieldTable) -> bool {
    matches!(arguments.inner().get("x-queue-type"), Some(AMQPValue::LongString(kind)) if kind.as_bytes() == b"quorum")
}
