//! The immutable picture of a virtual host that publishers route by.
//!
//! All maps are persistent: the topology's owner changes its own copy in time that does not grow with the number of
//! entries, and publishes it by swapping one pointer.

use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use leveret_protocol::amq::FieldTable;
use leveret_protocol::content::Properties;

use crate::delayed::{Delayed, header};
use crate::exchange::{self, ExchangeType, Router};
use crate::policy::Policies;
use crate::queue::Queue;

/// A name as a key: any bytes, cheap to copy.
pub type Name = Arc<[u8]>;

#[derive(Clone, Default)]
pub struct Snapshot {
    pub exchanges: imbl::HashMap<Name, Arc<Exchange>>,
    pub queues: imbl::HashMap<Name, Arc<Queue>>,
    /// Already applied to both.
    pub policies: Policies,
}

/// What was declared of an exchange.
pub struct ExchangeSpec {
    pub name: Box<str>,
    /// How it routes; what a client declared is [`ExchangeSpec::type_name`].
    pub kind: ExchangeType,
    pub durable: bool,
    pub auto_delete: bool,
    pub internal: bool,
    pub arguments: FieldTable,
    /// Where messages go that match no binding, by its own argument.
    pub alternate: Option<Name>,
    /// x-recent-history: how many messages it keeps.
    pub history: Option<usize>,
    /// x-delayed-message: what it holds back.
    pub delayed: Option<Arc<Delayed>>,
}

impl ExchangeSpec {
    /// The type of exchanges that hold messages back, and route them as another type then.
    pub const DELAYED: &str = "x-delayed-message";

    /// It was declared as a topic exchange: topic permissions are for those.
    pub fn is_topic(&self) -> bool {
        self.kind == ExchangeType::Topic && self.delayed.is_none()
    }

    /// The type that it was declared with.
    pub fn type_name(&self) -> &'static str {
        if self.delayed.is_some() { ExchangeSpec::DELAYED } else { self.kind.as_str() }
    }
}

#[derive(Clone)]
pub struct Exchange {
    pub spec: Arc<ExchangeSpec>,
    pub router: Router<Destination>,
    /// Where messages go that match no binding, by argument or policy.
    pub alternate: Option<Name>,
}

/// What a binding leads to.
#[derive(Clone)]
pub enum Destination {
    Queue(Arc<Queue>),
    Exchange(Name),
}

impl PartialEq for Destination {
    fn eq(&self, other: &Destination) -> bool {
        match (self, other) {
            (Destination::Queue(a), Destination::Queue(b)) => a.id == b.id,
            (Destination::Exchange(a), Destination::Exchange(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Destination {}

impl Hash for Destination {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            // By name, so that a queue that comes back gets its share of a hashing exchange back.
            Destination::Queue(queue) => queue.name.hash(state),
            Destination::Exchange(name) => name.hash(state),
        }
    }
}

/// An exchange that holds a message back.
pub struct Hold {
    pub by: Arc<Delayed>,
    /// Milliseconds.
    pub delay: u64,
}

/// Where a message goes.
#[derive(Default)]
pub struct Found {
    /// Each once, in the order of their ids.
    pub queues: Vec<Arc<Queue>>,
    /// The x-recent-history exchanges that keep it; the topology's owner must be told.
    pub histories: Vec<Arc<Exchange>>,
    /// The x-delayed-message exchanges that hold it back; they route it when it is due.
    pub delayed: Vec<Hold>,
    /// More than the routing keys had a say: the answer holds for this message only.
    pub once: bool,
}

impl Found {
    pub fn clear(&mut self) {
        self.queues.clear();
        self.histories.clear();
        self.delayed.clear();
        self.once = false;
    }
}

impl Snapshot {
    /// Adds to `found` what a message reaches that is published to `exchange` with `keys`: that of the publish first,
    /// then those of CC and BCC.
    pub fn route(&self, exchange: &Arc<Exchange>, keys: &[&[u8]], properties: &Properties<'_>, found: &mut Found) {
        if exchange.spec.name.is_empty() {
            for queue in keys.iter().filter_map(|key| self.queues.get(*key)) {
                found.queues.push(queue.clone());
            }
        } else {
            self.route_bindings(exchange, keys, properties, found);
        }
        found.queues.sort_unstable_by_key(|queue| queue.id);
        found.queues.dedup_by_key(|queue| queue.id);
    }

    fn route_bindings(&self, exchange: &Arc<Exchange>, keys: &[&[u8]], properties: &Properties<'_>, found: &mut Found) {
        let mut path = Path::from(exchange);
        while let Some(exchange) = path.next() {
            if let Some(by) = &exchange.spec.delayed {
                // Not remembered, since the headers of each message have a say.
                found.once = true;
                if let Some(delay) = header::delay_of(properties.headers) {
                    found.delayed.push(Hold { by: by.clone(), delay });
                    // RabbitMQ's plugin lets it match nothing now, so that the alternate exchange gets it at once too.
                    path.follow_alternate(self, &exchange);
                    continue;
                }
            }
            found.once |= exchange.router.beyond_keys();
            if exchange.spec.history.is_some() {
                // Not remembered, so that the headers of each message are looked at.
                found.once = true;
                if exchange::is_history(properties.headers) {
                    found.histories.push(exchange.clone());
                }
            }
            let mut matched = false;
            exchange.router.route(keys, properties, &mut |destination| {
                matched = true;
                match destination {
                    Destination::Queue(queue) => found.queues.push(queue.clone()),
                    Destination::Exchange(name) => path.follow(self, name),
                }
            });
            if !matched {
                path.follow_alternate(self, &exchange);
            }
        }
    }
}

/// The exchanges that one message comes by. Each is looked at once, so that cycles of bindings and of alternates end.
struct Path {
    exchanges: Vec<Arc<Exchange>>,
    /// How many have been looked at.
    done: usize,
    /// The names of all, once there are more than are quickly compared.
    names: HashSet<Name>,
}

/// Names that are compared one by one before a set is made of them: nearly all paths have one or two.
const SHORT: usize = 8;

impl Path {
    fn from(exchange: &Arc<Exchange>) -> Path {
        Path { exchanges: vec![exchange.clone()], done: 0, names: HashSet::new() }
    }

    fn next(&mut self) -> Option<Arc<Exchange>> {
        let next = self.exchanges.get(self.done).cloned();
        self.done += 1;
        next
    }

    /// The message also goes to what takes over where `exchange` leads nowhere.
    fn follow_alternate(&mut self, snapshot: &Snapshot, exchange: &Exchange) {
        if let Some(alternate) = &exchange.alternate {
            self.follow(snapshot, alternate);
        }
    }

    /// The message also goes to the exchange of that name, if there is one; never to the default exchange.
    fn follow(&mut self, snapshot: &Snapshot, name: &Name) {
        if name.is_empty() || self.has(name) {
            return;
        }
        let Some(exchange) = snapshot.exchanges.get(name) else {
            return;
        };
        self.exchanges.push(exchange.clone());
        if self.exchanges.len() > SHORT {
            if self.names.is_empty() {
                let names = self.exchanges.iter().map(|e| e.spec.name.as_bytes().into());
                self.names.extend(names);
            }
            self.names.insert(name.clone());
        }
    }

    fn has(&self, name: &Name) -> bool {
        if self.names.is_empty() {
            return (self.exchanges.iter()).any(|e| e.spec.name.as_bytes() == &**name);
        }
        self.names.contains(name)
    }
}
