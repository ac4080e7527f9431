//! The immutable picture of a virtual host that publishers route by.
//!
//! All maps are persistent: the topology's owner changes its own copy in time that does not grow with the number of
//! entries, and publishes it by swapping one pointer.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use leveret_protocol::amq::FieldTable;

use crate::exchange::{ExchangeType, Headers, Router};
use crate::queue::Queue;

/// A name as a key: any bytes, cheap to copy.
pub type Name = Arc<[u8]>;

#[derive(Clone, Default)]
pub struct Snapshot {
    pub exchanges: imbl::HashMap<Name, Arc<Exchange>>,
    pub queues: imbl::HashMap<Name, Arc<Queue>>,
}

/// What was declared of an exchange.
pub struct ExchangeSpec {
    pub name: Box<str>,
    pub kind: ExchangeType,
    pub durable: bool,
    pub auto_delete: bool,
    pub internal: bool,
    pub arguments: FieldTable,
    /// Where messages go that match no binding.
    pub alternate: Option<Name>,
}

#[derive(Clone)]
pub struct Exchange {
    pub spec: Arc<ExchangeSpec>,
    pub router: Router<Destination>,
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
            Destination::Queue(queue) => queue.id.hash(state),
            Destination::Exchange(name) => name.hash(state),
        }
    }
}

impl Snapshot {
    /// Adds the queues that a message published to `exchange` with `keys` reaches, each once. True when the headers had
    /// a say in it, so that the answer holds for this message only.
    pub fn route(
        &self,
        exchange: &Arc<Exchange>,
        keys: &[&[u8]],
        headers: Option<Headers<'_>>,
        found: &mut Vec<Arc<Queue>>,
    ) -> bool {
        let mut by_headers = false;
        if exchange.spec.name.is_empty() {
            for queue in keys.iter().filter_map(|key| self.queues.get(*key)) {
                found.push(queue.clone());
            }
        } else {
            by_headers = self.route_bindings(exchange, keys, headers, found);
        }
        found.sort_unstable_by_key(|queue| queue.id);
        found.dedup_by_key(|queue| queue.id);
        by_headers
    }

    fn route_bindings(
        &self,
        exchange: &Arc<Exchange>,
        keys: &[&[u8]],
        headers: Option<Headers<'_>>,
        found: &mut Vec<Arc<Queue>>,
    ) -> bool {
        let mut by_headers = false;
        // Each exchange is looked at once, so that cycles of bindings and of alternates end.
        let mut visited = vec![exchange.clone()];
        let mut next = 0;
        while let Some(exchange) = visited.get(next).cloned() {
            next += 1;
            by_headers |= exchange.spec.kind == ExchangeType::Headers;
            let mut matched = false;
            let follow = |name: &Name, visited: &mut Vec<Arc<Exchange>>| {
                if let Some(exchange) = self.exchanges.get(name)
                    && !exchange.spec.name.is_empty()
                    && !visited.iter().any(|e| e.spec.name == exchange.spec.name)
                {
                    visited.push(exchange.clone());
                }
            };
            for key in keys {
                exchange.router.route(key, headers, &mut |destination| {
                    matched = true;
                    match destination {
                        Destination::Queue(queue) => found.push(queue.clone()),
                        Destination::Exchange(name) => follow(name, &mut visited),
                    }
                });
            }
            if !matched && let Some(alternate) = &exchange.spec.alternate {
                follow(alternate, &mut visited);
            }
        }
        by_headers
    }
}
