//! The owner of a virtual host's exchanges, queues and bindings: the only one that declares, deletes and binds.
//!
//! It is run in turns, a batch of commands each. What a batch changed is published as one snapshot before anything
//! is answered, and what is durable is in storage before its `-ok`: the answer waits in storage's own line.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use leveret_protocol::AmqpError;
use leveret_protocol::amq::AMQPClass;
use leveret_storage::{Entry, Gauge, Level, Op, Store};

use super::bindings::{Bindings, Bound};
use super::command::*;
use super::definition;
use super::history::Histories;
use super::snapshot::{Destination, Exchange, ExchangeSpec, Name, Snapshot};
use super::{Parts, VHost};
use crate::command::{QueueCommand, Reply, Requester, Segment, Token};
use crate::exchange::{self, ExchangeType, Router};
use crate::mailbox::Owner;
use crate::queue::arguments::{self, Flags, Settings};
use crate::queue::{Origin, Outside, Queue, equivalence};
use crate::timers::Timers;
use crate::{methods, names};

/// Exchange types of RabbitMQ's plugins that are not here yet.
const TYPES_NOT_YET: &[&str] = &["x-delayed-message"];

pub struct TopologyOwner {
    pub vhost: Weak<VHost>,
    name: Arc<str>,
    snapshot: Snapshot,
    changed: bool,
    bindings: Bindings,
    /// Of the x-recent-history exchanges.
    histories: Histories,
    /// What each queue was declared with.
    declared: HashMap<Name, QueueDeclare>,
    /// Exclusive queues by the connection that owns them.
    exclusive: HashMap<u64, HashSet<Name>>,
    next_id: Arc<AtomicU64>,
    store: Store<Token>,
    timers: Arc<Timers>,
    gauge: Arc<Gauge>,
    // What follows from a turn, in the order in which it is handed out.
    entries: Vec<Entry<Token>>,
    replies: Vec<(Requester, Reply)>,
    told: Vec<(Arc<Queue>, QueueCommand)>,
}

impl Owner for TopologyOwner {
    type Command = TopologyCommand;

    fn run(&mut self, commands: &mut Vec<TopologyCommand>) {
        for command in commands.drain(..) {
            self.apply(command);
        }
        // Before new bindings are in force, so that newer messages come behind.
        self.histories.replay();
        self.publish();
        self.hand_out();
    }

    fn fail(&mut self) {
        // The picture that was published last stays in force; the batch that failed has changed nothing in storage.
        tracing::error!(vhost = %self.name, "a change of the topology failed");
        self.histories.forget_replays();
        self.entries.clear();
        self.replies.clear();
        self.told.clear();
    }
}

impl TopologyOwner {
    pub fn new(name: Arc<str>, vhost: Weak<VHost>, parts: Parts) -> TopologyOwner {
        let Parts { next_id, store, gauge, timers, clock } = parts;
        let mut owner = TopologyOwner {
            vhost,
            name,
            snapshot: Snapshot::default(),
            changed: true,
            bindings: Bindings::default(),
            histories: Histories::new(gauge.clone(), clock),
            declared: HashMap::new(),
            exclusive: HashMap::new(),
            next_id,
            store,
            timers,
            gauge,
            entries: Vec::new(),
            replies: Vec::new(),
            told: Vec::new(),
        };
        owner.predeclare();
        owner
    }

    fn predeclare(&mut self) {
        let known = [
            ("", ExchangeType::Direct, false),
            ("amq.direct", ExchangeType::Direct, false),
            ("amq.fanout", ExchangeType::Fanout, false),
            ("amq.topic", ExchangeType::Topic, false),
            ("amq.headers", ExchangeType::Headers, false),
            ("amq.match", ExchangeType::Headers, false),
            ("amq.rabbitmq.trace", ExchangeType::Topic, true),
        ];
        for (name, kind, internal) in known {
            let spec = ExchangeSpec {
                name: name.into(),
                kind,
                durable: true,
                auto_delete: false,
                internal,
                arguments: Default::default(),
                alternate: None,
                history: None,
            };
            self.add_exchange(spec, Router::new(kind));
        }
    }

    /// The snapshot as it now is.
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot.clone()
    }

    /// Puts what has changed in force.
    pub fn publish(&mut self) {
        if std::mem::take(&mut self.changed)
            && let Some(vhost) = self.vhost.upgrade()
        {
            vhost.publish(self.snapshot.clone());
        }
    }

    fn hand_out(&mut self) {
        if !self.entries.is_empty() {
            self.store.submit(&mut self.entries);
        }
        for (to, reply) in self.replies.drain(..) {
            to.reply(reply);
        }
        for (queue, command) in std::mem::take(&mut self.told) {
            queue.push(command);
        }
    }

    fn apply(&mut self, command: TopologyCommand) {
        let (from, outcome) = match command {
            TopologyCommand::DeclareExchange { from, declare } => {
                let outcome = self.declare_exchange(&from, declare);
                (from, outcome)
            }
            TopologyCommand::CheckExchange { from, name } => {
                let outcome = self.check_exchange(&from, &name);
                (from, outcome)
            }
            TopologyCommand::DeleteExchange { from, name, if_unused } => {
                let outcome = self.delete_exchange(&from, &name, if_unused);
                (from, outcome)
            }
            TopologyCommand::Bind { from, binding } => {
                let outcome = self.bind(&from, binding);
                (from, outcome)
            }
            TopologyCommand::Unbind { from, binding } => {
                let outcome = self.unbind(&from, binding);
                (from, outcome)
            }
            TopologyCommand::DeclareQueue { from, declare } => {
                let outcome = self.declare_queue(&from, declare);
                (from, outcome)
            }
            TopologyCommand::DeleteQueue { from, name, if_unused, if_empty } => {
                let outcome = self.delete_queue(&from, &name, if_unused, if_empty);
                (from, outcome)
            }
            TopologyCommand::QueueDead { name, id, then } => {
                return self.queue_dead(&name, id, then);
            }
            TopologyCommand::Remember { exchange, messages } => {
                return self.histories.remember(&exchange, messages);
            }
            TopologyCommand::Relay { to, reply, stored } => return self.reply_as(stored, to, reply),
            TopologyCommand::ConnectionGone { id, from } => return self.connection_gone(id, from),
        };
        if let Err(error) = outcome {
            self.replies.push((from, Reply::Error(error)));
        }
    }

    /// What the queues of this virtual host reach beyond themselves.
    fn outside(&self) -> Outside {
        Outside {
            store: self.store.clone(),
            vhost: self.vhost.clone(),
            timers: self.timers.clone(),
            gauge: self.gauge.clone(),
        }
    }

    fn answer(&mut self, to: &Requester, method: AMQPClass) {
        self.replies.push((to.clone(), Reply::Method(Box::new(method))));
    }

    /// Answers once everything submitted so far is on disk.
    fn answer_stored(&mut self, to: &Requester, method: AMQPClass) {
        let reply = Reply::Method(Box::new(method));
        self.entries.push(Entry::Notify(Level::Synced, Token::Reply { to: to.clone(), reply }));
    }

    fn answer_as(&mut self, durable: bool, to: &Requester, method: AMQPClass) {
        if durable { self.answer_stored(to, method) } else { self.answer(to, method) }
    }

    fn exchange(&self, name: &str) -> Result<&Arc<Exchange>, AmqpError> {
        (self.snapshot.exchanges.get(name.as_bytes()))
            .ok_or_else(|| AmqpError::not_found(format!("no {}", names::exchange(name, &self.name))))
    }

    fn queue(&self, name: &str) -> Result<&Arc<Queue>, AmqpError> {
        (self.snapshot.queues.get(name.as_bytes()))
            .ok_or_else(|| AmqpError::not_found(format!("no {}", names::queue(name, &self.name))))
    }

    // Exchanges

    fn add_exchange(&mut self, spec: ExchangeSpec, router: Router<Destination>) {
        let name: Name = spec.name.as_bytes().into();
        if let Some(length) = spec.history {
            self.histories.add(name.clone(), length);
        }
        self.snapshot.exchanges.insert(name, Arc::new(Exchange { spec: Arc::new(spec), router }));
        self.changed = true;
    }

    fn declare_exchange(&mut self, from: &Requester, declare: ExchangeDeclare) -> Result<(), AmqpError> {
        let kind = ExchangeType::parse(&declare.kind);
        if kind.is_none() && TYPES_NOT_YET.contains(&&*declare.kind) {
            let text = format!("exchange type '{}' is not supported yet", declare.kind);
            return Err(AmqpError::not_implemented(text));
        }
        let Some(kind) = kind else {
            return Err(AmqpError::precondition_failed(format!("unknown exchange type '{}'", declare.kind)));
        };
        not_default(&declare.name)?;
        let described = names::exchange(&declare.name, &self.name);
        if let Ok(existing) = self.exchange(&declare.name) {
            equivalent_exchange(&existing.spec, &declare, &described)?;
            let durable = existing.spec.durable;
            self.answer_as(durable, from, methods::exchange_declare_ok());
            return Ok(());
        }
        if declare.name.starts_with("amq.") {
            let text = format!("exchange name '{}' contains reserved prefix 'amq.*'", declare.name);
            return Err(AmqpError::access_refused(text));
        }
        let (spec, router) = exchange_spec(&declare, kind, &described)?;
        if spec.durable {
            self.entries.push(Entry::Op(Op::PutDefinition {
                key: definition::exchange_key(&self.name, &declare.name),
                value: definition::exchange_value(&declare),
            }));
        }
        self.answer_as(spec.durable, from, methods::exchange_declare_ok());
        self.add_exchange(spec, router);
        Ok(())
    }

    fn check_exchange(&mut self, from: &Requester, name: &str) -> Result<(), AmqpError> {
        not_default(name)?;
        self.exchange(name)?;
        self.answer(from, methods::exchange_declare_ok());
        Ok(())
    }

    fn delete_exchange(&mut self, from: &Requester, name: &str, if_unused: bool) -> Result<(), AmqpError> {
        not_default(name)?;
        if name.starts_with("amq.") {
            let text = format!("deletion of system {} not allowed", names::exchange(name, &self.name));
            return Err(AmqpError::access_refused(text));
        }
        let Ok(exchange) = self.exchange(name) else {
            self.answer(from, methods::exchange_delete_ok());
            return Ok(());
        };
        let durable = exchange.spec.durable;
        if if_unused && self.bindings.has_source(name.as_bytes()) {
            let text = format!("{} in use", names::exchange(name, &self.name));
            return Err(AmqpError::precondition_failed(text));
        }
        self.remove_exchange(name);
        self.answer_as(durable, from, methods::exchange_delete_ok());
        Ok(())
    }

    /// Removes the exchange with all bindings from and to it, and the auto-delete exchanges upstream that lose their
    /// last binding by that. A client may chain them without end, so this does not recurse.
    fn remove_exchange(&mut self, name: &str) {
        let mut doomed: Vec<Box<str>> = vec![name.into()];
        while let Some(name) = doomed.pop() {
            self.remove_one_exchange(&name, &mut doomed);
        }
    }

    fn remove_one_exchange(&mut self, name: &str, doomed: &mut Vec<Box<str>>) {
        let Some(exchange) = self.snapshot.exchanges.remove(name.as_bytes()) else {
            return;
        };
        self.changed = true;
        self.histories.remove(name.as_bytes());
        if exchange.spec.durable {
            let key = definition::exchange_key(&self.name, name);
            self.entries.push(Entry::Op(Op::DeleteDefinition { key }));
        }
        for bound in self.bindings.take_source(name.as_bytes()) {
            self.forget(&bound);
        }
        self.remove_bindings_to(DestinationKind::Exchange, name, doomed);
    }

    // Bindings

    fn bind(&mut self, from: &Requester, binding: BindingSpec) -> Result<(), AmqpError> {
        let exchange = self.bindable(&binding)?.clone();
        let (destination, destination_durable) = self.destination(from, &binding)?;
        Router::<Destination>::validate(exchange.spec.kind, &binding.key, &binding.arguments)
            .map_err(|error| AmqpError::precondition_failed(error.to_string()))?;
        if exchange.spec.kind == ExchangeType::LocalRandom {
            self.classic_queue(&destination)?;
        }
        let durable = exchange.spec.durable && destination_durable;
        let ok = methods::bind_ok(binding.kind);
        self.add_binding(binding, destination, durable, true);
        self.answer_as(durable, from, ok);
        Ok(())
    }

    /// The source of a binding, which must exist and not be the default exchange.
    fn bindable(&self, binding: &BindingSpec) -> Result<&Arc<Exchange>, AmqpError> {
        not_default(&binding.source)?;
        if binding.kind == DestinationKind::Exchange {
            not_default(&binding.destination)?;
        }
        self.exchange(&binding.source)
    }

    fn destination(&self, from: &Requester, binding: &BindingSpec) -> Result<(Destination, bool), AmqpError> {
        match binding.kind {
            DestinationKind::Queue => {
                let queue = self.queue(&binding.destination)?;
                unlocked(queue, from, &self.name)?;
                Ok((Destination::Queue(queue.clone()), queue.durable))
            }
            DestinationKind::Exchange => {
                let exchange = self.exchange(&binding.destination)?;
                Ok((Destination::Exchange(binding.destination.as_bytes().into()), exchange.spec.durable))
            }
        }
    }

    /// What alone may be bound to x-local-random.
    fn classic_queue(&self, destination: &Destination) -> Result<(), AmqpError> {
        use leveret_protocol::amq::AMQPValue;
        let Destination::Queue(queue) = destination else {
            return Err(AmqpError::precondition_failed("Destination not found"));
        };
        let declared = self.declared.get(queue.name.as_bytes());
        match declared.and_then(|declare| arguments::get(&declare.arguments, "x-queue-type")) {
            Some(AMQPValue::LongString(kind)) if kind.as_bytes() != b"classic" => {
                let kind = leveret_protocol::error::text_of(kind.as_bytes());
                let text = format!("Queue type rabbit_{kind}_queue not valid for this exchange type");
                Err(AmqpError::precondition_failed(text))
            }
            _ => Ok(()),
        }
    }

    fn add_binding(&mut self, binding: BindingSpec, to: Destination, durable: bool, store: bool) {
        let name = binding.source.as_bytes();
        let Some(exchange) = self.snapshot.exchanges.get_mut(name) else {
            return;
        };
        if !Arc::make_mut(exchange).router.bind(&binding.key, &binding.arguments, to.clone()) {
            return;
        }
        self.changed = true;
        if durable && store {
            let key = definition::binding_key(&self.name, &binding);
            // Queues are numbered by the same counter, which recovery sets beyond both.
            let ordered = exchange.spec.kind == ExchangeType::ConsistentHash;
            let order = ordered.then(|| self.next_id.fetch_add(1, Ordering::Relaxed));
            let value = definition::binding_value(order);
            self.entries.push(Entry::Op(Op::PutDefinition { key, value }));
        }
        (self.histories).recall(&self.snapshot, binding.source.as_bytes(), &to);
        self.bindings.add(Bound::new(&self.name, binding, to, durable));
    }

    fn unbind(&mut self, from: &Requester, binding: BindingSpec) -> Result<(), AmqpError> {
        not_default(&binding.source)?;
        if binding.kind == DestinationKind::Exchange {
            not_default(&binding.destination)?;
        }
        let ok = methods::unbind_ok(binding.kind);
        let Some(bound) = self.bindings.find(&self.name, &binding) else {
            self.answer(from, ok);
            return Ok(());
        };
        if let Destination::Queue(queue) = &bound.to {
            unlocked(queue, from, &self.name)?;
        }
        self.bindings.remove(&bound);
        self.forget(&bound);
        let durable = bound.durable;
        if self.is_over(&binding.source) {
            self.remove_exchange(&binding.source);
        }
        self.answer_as(durable, from, ok);
        Ok(())
    }

    /// A binding that has left the lists leaves the router and storage too.
    fn forget(&mut self, bound: &Bound) {
        self.changed = true;
        if let Some(exchange) = self.snapshot.exchanges.get_mut(bound.spec.source.as_bytes()) {
            Arc::make_mut(exchange).router.unbind(&bound.spec.key, &bound.spec.arguments, &bound.to);
        }
        if bound.durable {
            let key = (&*bound.identity).into();
            self.entries.push(Entry::Op(Op::DeleteDefinition { key }));
        }
    }

    /// Adds the sources that are over by this to `doomed`.
    fn remove_bindings_to(&mut self, kind: DestinationKind, name: &str, doomed: &mut Vec<Box<str>>) {
        let gone = self.bindings.take_destination(kind, name.as_bytes());
        for bound in &gone {
            self.forget(bound);
        }
        let sources = gone.iter().map(|bound| &bound.spec.source);
        doomed.extend(sources.filter(|source| self.is_over(source)).cloned());
    }

    /// For an exchange that has just lost a binding as source: an auto-delete exchange without any goes.
    fn is_over(&self, name: &str) -> bool {
        !self.bindings.has_source(name.as_bytes())
            && self.exchange(name).is_ok_and(|exchange| exchange.spec.auto_delete)
    }

    // Queues

    fn declare_queue(&mut self, from: &Requester, declare: QueueDeclare) -> Result<(), AmqpError> {
        let described = names::queue(&declare.name, &self.name);
        let existing = self.snapshot.queues.get(declare.name.as_bytes()).cloned();
        if let Some(queue) = existing {
            unlocked(&queue, from, &self.name)?;
            let passive = declare.passive;
            if !passive {
                self.equivalent_queue(&queue, &declare, &described)?;
            }
            let again = Box::new(TopologyCommand::DeclareQueue { from: from.clone(), declare });
            self.told.push((queue, QueueCommand::Status { from: from.clone(), stored: !passive, again }));
            return Ok(());
        }
        if declare.passive {
            return Err(AmqpError::not_found(format!("no {described}")));
        }
        let settings = arguments::parse(&declare.arguments, flags(&declare), &described)?;
        self.create_queue(from, declare, settings)
    }

    fn equivalent_queue(&self, queue: &Queue, new: &QueueDeclare, described: &str) -> Result<(), AmqpError> {
        let Some(current) = self.declared.get(new.name.as_bytes()) else {
            return Ok(());
        };
        if new.exclusive != queue.exclusive_to.is_some() {
            return Err(locked(&new.name, &self.name));
        }
        // An exclusive queue is never durable, whatever was asked for.
        let durable = new.durable && !new.exclusive;
        flag("durable", described, durable, queue.durable)?;
        flag("auto_delete", described, new.auto_delete, current.auto_delete)?;
        equivalence::equivalent(&current.arguments, &new.arguments, described)
    }

    fn create_queue(&mut self, from: &Requester, declare: QueueDeclare, settings: Settings) -> Result<(), AmqpError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let durable = declare.durable && !declare.exclusive;
        let mark = if durable {
            Some(self.store.mark(id).map_err(|error| {
                tracing::error!(%error, "cannot create a durable queue");
                AmqpError::internal_error("")
            })?)
        } else {
            None
        };
        let exclusive_to = declare.exclusive.then_some(from.peer.id);
        let origin = Origin {
            id,
            name: declare.name.clone(),
            vhost: self.name.clone(),
            durable,
            auto_delete: declare.auto_delete,
            settings,
            next_sequence: 1,
            messages: Vec::new(),
            now: self.timers.now(),
        };
        let queue = Queue::new(origin, exclusive_to, mark, self.outside());
        let name: Name = declare.name.as_bytes().into();
        if let Some(owner) = exclusive_to {
            self.exclusive.entry(owner).or_default().insert(name.clone());
        }
        let reply = Reply::Declared { queue: declare.name.clone(), messages: 0, consumers: 0 };
        if durable {
            self.entries.push(Entry::Op(Op::PutDefinition {
                key: definition::queue_key(&self.name, &declare.name),
                value: definition::queue_value(id, &declare),
            }));
            self.entries.push(Entry::Notify(Level::Synced, Token::Reply { to: from.clone(), reply }));
        } else {
            self.replies.push((from.clone(), reply));
        }
        // Its lease begins.
        self.told.push((queue.clone(), QueueCommand::Tick));
        self.snapshot.queues.insert(name.clone(), queue);
        self.declared.insert(name, declare);
        self.changed = true;
        Ok(())
    }

    fn delete_queue(&mut self, from: &Requester, name: &str, if_unused: bool, if_empty: bool) -> Result<(), AmqpError> {
        let Ok(queue) = self.queue(name).cloned() else {
            self.answer(from, methods::delete_ok(0));
            return Ok(());
        };
        unlocked(&queue, from, &self.name)?;
        self.told.push((queue, QueueCommand::Delete { from: from.clone(), if_unused, if_empty }));
        Ok(())
    }

    fn queue_dead(&mut self, name: &str, id: u64, then: Option<(Requester, Reply)>) {
        let durable = match self.snapshot.queues.get(name.as_bytes()) {
            Some(queue) if queue.id == id => {
                let durable = queue.durable;
                self.remove_queue(name);
                durable
            }
            // Removed already, or a new one of that name.
            _ => false,
        };
        if let Some((to, reply)) = then {
            self.reply_as(durable, to, reply);
        }
    }

    /// Answers at once, or once everything submitted so far is on disk.
    fn reply_as(&mut self, stored: bool, to: Requester, reply: Reply) {
        if stored {
            self.entries.push(Entry::Notify(Level::Synced, Token::Reply { to, reply }));
        } else {
            self.replies.push((to, reply));
        }
    }

    fn remove_queue(&mut self, name: &str) -> Option<Arc<Queue>> {
        let queue = self.snapshot.queues.remove(name.as_bytes())?;
        self.changed = true;
        self.declared.remove(name.as_bytes());
        if let Some(owner) = queue.exclusive_to
            && let Some(names) = self.exclusive.get_mut(&owner)
        {
            names.remove(name.as_bytes());
        }
        if queue.durable {
            let key = definition::queue_key(&self.name, name);
            self.entries.push(Entry::Op(Op::DeleteDefinition { key }));
        }
        let mut doomed = Vec::new();
        self.remove_bindings_to(DestinationKind::Queue, name, &mut doomed);
        for exchange in doomed {
            self.remove_exchange(&exchange);
        }
        Some(queue)
    }

    fn connection_gone(&mut self, id: u64, from: Option<Requester>) {
        for name in self.exclusive.remove(&id).unwrap_or_default() {
            let Ok(name) = std::str::from_utf8(&name) else {
                continue;
            };
            if let Some(queue) = self.remove_queue(name) {
                self.told.push((queue, QueueCommand::Kill));
            }
        }
        if let Some(from) = from {
            self.replies.push((from, Reply::Done));
        }
    }

    // Recovery

    /// Brings back a durable exchange.
    pub fn recover_exchange(&mut self, declare: &ExchangeDeclare) -> Result<(), AmqpError> {
        let described = names::exchange(&declare.name, &self.name);
        let kind = ExchangeType::parse(&declare.kind)
            .ok_or_else(|| AmqpError::precondition_failed(format!("unknown exchange type '{}'", declare.kind)))?;
        let (spec, router) = exchange_spec(declare, kind, &described)?;
        self.add_exchange(spec, router);
        Ok(())
    }

    /// Brings back a durable queue with its messages.
    pub fn recover_queue(
        &mut self,
        id: u64,
        declare: QueueDeclare,
        next_sequence: u64,
        messages: Vec<Segment>,
    ) -> Result<(), leveret_storage::StorageError> {
        let described = names::queue(&declare.name, &self.name);
        let settings = arguments::parse(&declare.arguments, flags(&declare), &described).unwrap_or_else(|error| {
            tracing::error!(queue = &*declare.name, "arguments are left out: {}", error.reply_text());
            Settings::default()
        });
        let mark = self.store.mark(id)?;
        let origin = Origin {
            id,
            name: declare.name.clone(),
            vhost: self.name.clone(),
            durable: true,
            auto_delete: declare.auto_delete,
            settings,
            next_sequence,
            messages,
            now: self.timers.now(),
        };
        let queue = Queue::new(origin, None, Some(mark), self.outside());
        let name: Name = declare.name.as_bytes().into();
        self.snapshot.queues.insert(name.clone(), queue);
        self.declared.insert(name, declare);
        Ok(())
    }

    /// Brings back a durable binding. False when one of its ends is gone.
    pub fn recover_binding(&mut self, binding: BindingSpec) -> bool {
        let to = match binding.kind {
            DestinationKind::Queue => self.queue(&binding.destination).ok().cloned().map(Destination::Queue),
            DestinationKind::Exchange => {
                let name = || Destination::Exchange(binding.destination.as_bytes().into());
                self.exchange(&binding.destination).ok().map(|_| name())
            }
        };
        let found = self.exchange(&binding.source).is_ok();
        match to {
            Some(to) if found => self.add_binding(binding, to, true, false),
            _ => return false,
        }
        true
    }
}

fn not_default(name: &str) -> Result<(), AmqpError> {
    if name.is_empty() {
        return Err(AmqpError::access_refused("operation not permitted on the default exchange"));
    }
    Ok(())
}

fn exchange_spec(
    declare: &ExchangeDeclare,
    kind: ExchangeType,
    described: &str,
) -> Result<(ExchangeSpec, Router<Destination>), AmqpError> {
    use leveret_protocol::amq::AMQPValue;
    let alternate = match arguments::get(&declare.arguments, ALTERNATE) {
        None => None,
        Some(AMQPValue::LongString(name)) => Some(name.as_bytes().into()),
        Some(other) => {
            let kind = leveret_protocol::value::type_word(other);
            let text = format!("invalid type '{kind}' for arg '{ALTERNATE}' in {described}");
            return Err(AmqpError::precondition_failed(text));
        }
    };
    let refused = |error: exchange::ArgumentError| AmqpError::precondition_failed(error.to_string());
    let router = Router::declared(kind, &declare.arguments).map_err(refused)?;
    let history = match kind {
        ExchangeType::RecentHistory => Some(exchange::history_length(&declare.arguments).map_err(refused)?),
        _ => None,
    };
    let spec = ExchangeSpec {
        name: declare.name.clone(),
        kind,
        durable: declare.durable,
        auto_delete: declare.auto_delete,
        internal: declare.internal,
        arguments: declare.arguments.clone(),
        alternate,
        history,
    };
    Ok((spec, router))
}

const ALTERNATE: &str = "alternate-exchange";

fn equivalent_exchange(current: &ExchangeSpec, new: &ExchangeDeclare, described: &str) -> Result<(), AmqpError> {
    if current.kind.as_str() != &*new.kind {
        return Err(equivalence::inequivalent("type", described, &new.kind, current.kind.as_str()));
    }
    flag("durable", described, new.durable, current.durable)?;
    flag("auto_delete", described, new.auto_delete, current.auto_delete)?;
    flag("internal", described, new.internal, current.internal)?;
    let pair = (arguments::get(&new.arguments, ALTERNATE), arguments::get(&current.arguments, ALTERNATE));
    if equivalence::same(pair.0, pair.1) {
        return Ok(());
    }
    Err(equivalence::inequivalent_argument(ALTERNATE, described, pair.0, pair.1))
}

fn flag(name: &str, described: &str, received: bool, current: bool) -> Result<(), AmqpError> {
    if received == current {
        return Ok(());
    }
    Err(equivalence::inequivalent(name, described, &received.to_string(), &current.to_string()))
}

/// Refuses the use of another connection's exclusive queue.
pub fn unlocked(queue: &Queue, from: &Requester, vhost: &str) -> Result<(), AmqpError> {
    match queue.exclusive_to {
        Some(owner) if owner != from.peer.id => Err(locked(&queue.name, vhost)),
        _ => Ok(()),
    }
}

fn locked(name: &str, vhost: &str) -> AmqpError {
    AmqpError::resource_locked(format!(
        "cannot obtain exclusive access to locked {}. It could be originally declared on another connection or the \
         exclusive property value does not match that of the original declaration.",
        names::queue(name, vhost)
    ))
}

fn flags(declare: &QueueDeclare) -> Flags {
    Flags { durable: declare.durable, exclusive: declare.exclusive, auto_delete: declare.auto_delete }
}
