//! Whether the user may do what a method of the classes `queue` and `exchange` asks for. Refusals are 403, and come
//! before the answer to whether the thing exists.

use leveret_protocol::amq::{AMQPValue, FieldTable, queue};

use super::Connection;
use super::dispatch::Done;
use crate::access::rights::{Resource, Right};
use crate::queue::arguments::{self, Flags};
use crate::vhost::command::{BindingSpec, DestinationKind, ExchangeDeclare, QueueDeclare};
use crate::vhost::topology::check_type;

impl Connection {
    /// A new exchange must also be readable if it has an alternate, and that one writable.
    pub(super) fn may_declare_exchange(&mut self, declare: &ExchangeDeclare) -> Done {
        // What RabbitMQ looks at before is looked at before here too.
        check_type(&declare.kind)?;
        if declare.name.is_empty() {
            return Ok(());
        }
        let exchange = Resource::Exchange(&declare.name);
        self.rights.check(Right::Configure, exchange)?;
        let new = !self.vhost.snapshot().exchanges.contains_key(declare.name.as_bytes());
        match long_string(&declare.arguments, "alternate-exchange") {
            Some(alternate) if new && !declare.name.starts_with("amq.") => {
                self.rights.check(Right::Read, exchange)?;
                self.rights.check(Right::Write, Resource::Exchange(&alternate))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn may_check_exchange(&mut self, name: &str) -> Done {
        // Refused for another reason by the topology.
        if name.is_empty() { Ok(()) } else { self.rights.check_any(Resource::Exchange(name)) }
    }

    pub(super) fn may_delete_exchange(&mut self, name: &str) -> Done {
        if name.is_empty() || name.starts_with("amq.") {
            return Ok(());
        }
        self.rights.check(Right::Configure, Resource::Exchange(name))
    }

    /// A new queue must also be readable if it has a dead-letter exchange, and that one writable.
    pub(super) fn may_declare_queue(&mut self, declare: &QueueDeclare) -> Done {
        let queue = Resource::Queue(&declare.name);
        if declare.passive {
            return self.rights.check_any(queue);
        }
        self.rights.check(Right::Configure, queue)?;
        let new = !self.vhost.snapshot().queues.contains_key(declare.name.as_bytes());
        match long_string(&declare.arguments, "x-dead-letter-exchange") {
            Some(exchange) if new => {
                self.rights.check(Right::Read, queue)?;
                self.rights.check(Right::Write, Resource::Exchange(&exchange))
            }
            _ => Ok(()),
        }
    }

    /// Bound or unbound: the destination is written to, the source read from, and with a topic exchange as source its
    /// key too.
    pub(super) fn may_bind(&mut self, binding: &BindingSpec) -> Done {
        let destination = match binding.kind {
            DestinationKind::Queue => Resource::Queue(&binding.destination),
            DestinationKind::Exchange => Resource::Exchange(&binding.destination),
        };
        self.rights.check(Right::Write, destination)?;
        let default = binding.kind == DestinationKind::Exchange && binding.destination.is_empty();
        if binding.source.is_empty() || default {
            return Ok(());
        }
        self.rights.check(Right::Read, Resource::Exchange(&binding.source))?;
        let snapshot = self.vhost.snapshot();
        let source = snapshot.exchanges.get(binding.source.as_bytes());
        if source.is_some_and(|source| source.spec.is_topic()) {
            self.rights.check_topic(Right::Read, &binding.source, &binding.key)?;
        }
        Ok(())
    }

    /// A queue that is declared without a type gets its virtual host's default one.
    pub(super) fn with_queue_type(&self, declare: &mut queue::Declare) {
        let metadata = self.vhost.metadata();
        let Some(default) = metadata.default_queue_type.as_deref() else { return };
        if !declare.passive {
            let queue::Declare { durable, exclusive, auto_delete, .. } = *declare;
            let flags = Flags { durable, exclusive, auto_delete };
            arguments::insert_default_type(&mut declare.arguments, default, flags);
        }
    }
}

/// The argument of that name, if it is what it has to be; what is not is refused later.
fn long_string(arguments: &FieldTable, name: &str) -> Option<String> {
    match arguments::get(arguments, name)? {
        AMQPValue::LongString(text) => Some(leveret_protocol::error::text_of(text.as_bytes()).to_string()),
        _ => None,
    }
}
