//! Classes `queue` and `exchange`: asked of the virtual host's topology, or of the queue itself.

use std::sync::Arc;

use leveret_protocol::AmqpError;
use leveret_protocol::amq::{AMQPValue, FieldTable, ShortString, exchange, queue};

use super::Connection;
use super::channel::Wait;
use super::dispatch::Done;
use crate::access::rights::{Resource, Right};
use crate::command::QueueCommand;
use crate::queue::Queue;
use crate::vhost::command::{BindingSpec, DestinationKind, ExchangeDeclare, QueueDeclare, TopologyCommand};
use crate::vhost::topology::unlocked;
use crate::{methods, names};

impl Connection {
    pub(super) fn queue_class(&mut self, number: u16, method: queue::AMQPMethod) -> Done {
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
                self.may_bind(&binding)?;
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
                self.may_bind(&binding)?;
                self.wait(number, Wait::Method, (50, 50), false);
                self.vhost.push(TopologyCommand::Unbind { from, binding });
                Ok(())
            }
            queue::AMQPMethod::Purge(purge) => {
                let name = self.queue_name(number, purge.queue.as_str())?;
                self.rights.check(Right::Read, Resource::Queue(&name))?;
                let queue = self.usable_queue(&name)?;
                self.wait(number, Wait::Method, (50, 30), purge.nowait);
                queue.push(QueueCommand::Purge { from });
                Ok(())
            }
            queue::AMQPMethod::Delete(delete) => {
                let name = names::strip(&self.queue_name(number, delete.queue.as_str())?);
                self.rights.check(Right::Configure, Resource::Queue(&name))?;
                self.wait(number, Wait::Method, (50, 40), delete.nowait);
                let (if_unused, if_empty) = (delete.if_unused, delete.if_empty);
                self.vhost.push(TopologyCommand::DeleteQueue { from, name, if_unused, if_empty });
                Ok(())
            }
            _ => Err(AmqpError::command_invalid("unimplemented method")),
        }
    }

    fn declare_queue(&mut self, number: u16, mut declare: queue::Declare) -> Done {
        let Some(from) = self.asker(number) else {
            return Ok(());
        };
        let mut name = names::strip(declare.queue.as_str());
        if &*name == names::REPLY_TO || names::is_reply_address(name.as_bytes()) {
            return self.declare_reply_consumer(number, name, declare.nowait);
        }
        self.with_queue_type(&mut declare);
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
        let nowait = declare.nowait;
        let declare = QueueDeclare {
            name,
            passive: declare.passive,
            durable: declare.durable,
            exclusive: declare.exclusive,
            auto_delete: declare.auto_delete,
            arguments: declare.arguments,
        };
        self.may_declare_queue(&declare)?;
        self.wait(number, Wait::Declare, (50, 10), nowait);
        self.vhost.push(TopologyCommand::DeclareQueue { from, declare });
        Ok(())
    }

    /// `queue.declare` of the name of direct replies, passive or not, or of a reply consumer's own name.
    fn declare_reply_consumer(&mut self, number: u16, name: Box<str>, nowait: bool) -> Done {
        if &*name != names::REPLY_TO && self.vhost.replies.find(name.as_bytes()).is_none() {
            let described = names::queue(&name, &self.vhost.name);
            return Err(AmqpError::not_found(format!("no {described}")));
        }
        self.send_unless(nowait, number, methods::queue_declare_ok(&name, 0, 1));
        if let Some(channel) = self.channels.get(number) {
            channel.last_queue = Some(name);
        }
        Ok(())
    }

    pub(super) fn exchange_class(&mut self, number: u16, method: exchange::AMQPMethod) -> Done {
        let Some(from) = self.asker(number) else {
            return Ok(());
        };
        match method {
            exchange::AMQPMethod::Declare(declare) => {
                let name = names::strip(declare.exchange.as_str());
                let nowait = declare.nowait;
                if declare.passive {
                    self.may_check_exchange(&name)?;
                    self.wait(number, Wait::Method, (40, 10), nowait);
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
                self.may_declare_exchange(&declare)?;
                self.wait(number, Wait::Method, (40, 10), nowait);
                self.vhost.push(TopologyCommand::DeclareExchange { from, declare });
                Ok(())
            }
            exchange::AMQPMethod::Delete(delete) => {
                let name = names::strip(delete.exchange.as_str());
                self.may_delete_exchange(&name)?;
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
                self.may_bind(&binding)?;
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
                self.may_bind(&binding)?;
                self.wait(number, Wait::Method, (40, 40), unbind.nowait);
                self.vhost.push(TopologyCommand::Unbind { from, binding });
                Ok(())
            }
            _ => Err(AmqpError::command_invalid("unimplemented method")),
        }
    }

    /// The queue that a name means: an empty one is the channel's last declared queue.
    pub(super) fn queue_name(&mut self, number: u16, name: &str) -> Result<Box<str>, AmqpError> {
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
        key: &ShortString,
    ) -> Result<(Box<str>, Box<[u8]>), AmqpError> {
        let name = self.queue_name(number, queue)?;
        let key = match (queue, key.as_str().as_bytes()) {
            ("", b"") => name.as_bytes().into(),
            (_, key) => key.into(),
        };
        Ok((name, key))
    }

    /// The queue of that name, if it exists and this connection may use it.
    pub(super) fn usable_queue(&self, name: &str) -> Result<Arc<Queue>, AmqpError> {
        let snapshot = self.vhost.snapshot();
        let queue = snapshot
            .queues
            .get(name.as_bytes())
            .ok_or_else(|| AmqpError::not_found(format!("no {}", names::queue(name, &self.vhost.name))))?;
        unlocked(queue, &self.as_requester(), &self.vhost.name)?;
        Ok(queue.clone())
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

fn is_quorum(arguments: &FieldTable) -> bool {
    matches!(arguments.inner().get("x-queue-type"), Some(AMQPValue::LongString(kind)) if kind.as_bytes() == b"quorum")
}
