//! The owner of a virtual host's exchanges, queues and bindings: the only one that declares, deletes and binds.
//!
//! It is run in turns, a batch of commands each. What a batch changed is published as one snapshot before anything
//! is answered, and what is durable is in storage before its `-ok`: the answer waits in storage's own line.

mod binding;
mod exchanges;
mod import;
mod policies;
mod queues;
mod recovery;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use leveret_protocol::AmqpError;
use leveret_protocol::amq::AMQPClass;
use leveret_storage::{Entry, Gauge, Level, Op, Store};

pub use self::exchanges::check_type;
use self::exchanges::exchange_spec;
use self::policies::{Declared, alternate};
use self::queues::flags;
use super::bindings::{Bindings, Bound};
use super::command::*;
use super::definition;
use super::history::Histories;
use super::snapshot::{Destination, Exchange, ExchangeSpec, Name, Snapshot};
use super::{Parts, VHost};
use crate::command::{QueueCommand, Reply, Requester, Segment, Token};
use crate::delayed::{Delayed, DelayedCommand};
use crate::exchange::{self, ExchangeType, Router};
use crate::mailbox::Owner;
use crate::paging::Paging;
use crate::queue::arguments::{self, Flags, Settings};
use crate::queue::lifetimes::Lifetimes;
use crate::queue::{Origin, Outside, Queue, equivalence};
use crate::timers::Timers;
use crate::{methods, names};

pub struct TopologyOwner {
    pub vhost: Weak<VHost>,
    name: Arc<str>,
    snapshot: Snapshot,
    changed: bool,
    /// The virtual host is no more.
    deleted: bool,
    bindings: Bindings,
    /// Of the x-recent-history exchanges.
    histories: Histories,
    /// What each queue was declared with.
    declared: HashMap<Name, Declared>,
    /// Exclusive queues by the connection that owns them.
    exclusive: HashMap<u64, HashSet<Name>>,
    next_id: Arc<AtomicU64>,
    store: Store<Token>,
    timers: Arc<Timers>,
    gauge: Arc<Gauge>,
    paging: Arc<Paging>,
    // What follows from a turn, in the order in which it is handed out.
    entries: Vec<Entry<Token>>,
    replies: Vec<(Requester, Reply)>,
    told: Vec<(Arc<Queue>, QueueCommand)>,
    done: Vec<Entry<Token>>,
    /// What exchanges held back that are gone.
    dropped: Vec<Arc<Delayed>>,
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
        self.done.clear();
        self.dropped.clear();
    }
}

impl TopologyOwner {
    pub fn new(name: Arc<str>, vhost: Weak<VHost>, parts: Parts) -> TopologyOwner {
        let Parts { next_id, store, gauge, timers, clock, paging } = parts;
        let mut owner = TopologyOwner {
            vhost,
            name,
            snapshot: Snapshot::default(),
            changed: true,
            deleted: false,
            bindings: Bindings::default(),
            histories: Histories::new(gauge.clone(), clock),
            declared: HashMap::new(),
            exclusive: HashMap::new(),
            next_id,
            store,
            timers,
            gauge,
            paging,
            entries: Vec::new(),
            replies: Vec::new(),
            told: Vec::new(),
            done: Vec::new(),
            dropped: Vec::new(),
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
                delayed: None,
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

    pub(super) fn hand_out(&mut self) {
        if !self.entries.is_empty() {
            self.store.submit(&mut self.entries);
        }
        for (to, reply) in self.replies.drain(..) {
            to.reply(reply);
        }
        for (queue, command) in std::mem::take(&mut self.told) {
            queue.push(command);
        }
        for delayed in self.dropped.drain(..) {
            delayed.push(DelayedCommand::Drop);
        }
        if !self.done.is_empty() {
            self.store.submit(&mut self.done);
        }
    }

    fn apply(&mut self, command: TopologyCommand) {
        if self.deleted
            && let Some(from) = command.from()
        {
            let text = format!("vhost '{}' is deleted", self.name);
            return self.replies.push((from.clone(), Reply::Error(AmqpError::connection_forced(text))));
        }
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
            TopologyCommand::Remember { exchange, run } => return self.histories.remember(&exchange, &run),
            TopologyCommand::Relay { to, reply, stored } => return self.reply_as(unmade(stored), to, reply),
            TopologyCommand::ConnectionGone { id, from } => return self.connection_gone(id, from),
            TopologyCommand::SetPolicy { kind, policy, done } => return self.set_policy(kind, *policy, done),
            TopologyCommand::ClearPolicy { kind, name, done } => return self.clear_policy(kind, &name, done),
            TopologyCommand::DeleteAll { done } => return self.delete_all(done),
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
            paging: self.paging.clone(),
        }
    }

    fn answer(&mut self, to: &Requester, method: AMQPClass) {
        self.replies.push((to.clone(), Reply::Method(Box::new(method))));
    }

    /// Answers what is durable once everything submitted so far has reached the level.
    fn answer_as(&mut self, durable: Option<Level>, to: &Requester, method: AMQPClass) {
        self.reply_as(durable, to.clone(), Reply::Method(Box::new(method)));
    }

    fn exchange(&self, name: &str) -> Result<&Arc<Exchange>, AmqpError> {
        (self.snapshot.exchanges.get(name.as_bytes()))
            .ok_or_else(|| AmqpError::not_found(format!("no {}", names::exchange(name, &self.name))))
    }

    fn queue(&self, name: &str) -> Result<&Arc<Queue>, AmqpError> {
        (self.snapshot.queues.get(name.as_bytes()))
            .ok_or_else(|| AmqpError::not_found(format!("no {}", names::queue(name, &self.name))))
    }

    /// Answers at once, or once everything submitted so far has reached a level.
    fn reply_as(&mut self, stored: Option<Level>, to: Requester, reply: Reply) {
        match stored {
            Some(level) => self.entries.push(Entry::Notify(level, Token::Reply { to, reply })),
            None => self.replies.push((to, reply)),
        }
    }
}

/// When something made is answered.
fn made(durable: bool) -> Option<Level> {
    durable.then_some(Level::Synced)
}

/// When something unmade is answered: on a full disk too.
fn unmade(durable: bool) -> Option<Level> {
    durable.then_some(Level::Removed)
}

fn not_default(name: &str) -> Result<(), AmqpError> {
    if name.is_empty() {
        return Err(AmqpError::access_refused("operation not permitted on the default exchange"));
    }
    Ok(())
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
