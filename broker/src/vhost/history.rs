//! What x-recent-history exchanges keep for destinations that are bound later.
//!
//! The topology's owner has them, as it has the bindings: publishers tell it of messages in the same line in which
//! binds come, so a message whose confirm somebody has seen is in every later replay. Kept in memory only.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use leveret_protocol::Message;
use leveret_protocol::content::Properties;
use leveret_storage::{Gauge, Run};

use super::snapshot::{Destination, Found, Name, Snapshot};
use crate::clock::Clock;
use crate::expiration;
use crate::message::{Meta, meta, routing_keys};
use crate::outbox::{Body, Outbox};

/// A message that is kept: a run of one.
#[derive(Clone)]
struct Kept(Run);

/// The histories of a virtual host, and what is to be replayed from them.
pub struct Histories {
    by_exchange: HashMap<Name, History>,
    replays: Outbox,
    gauge: Arc<Gauge>,
    clock: Arc<dyn Clock>,
}

impl Histories {
    pub fn new(gauge: Arc<Gauge>, clock: Arc<dyn Clock>) -> Histories {
        Histories { by_exchange: HashMap::new(), replays: Outbox::default(), gauge, clock }
    }

    /// An exchange that keeps its last `length` messages; it has none yet.
    pub fn add(&mut self, exchange: Name, length: usize) {
        let kept = VecDeque::new();
        self.by_exchange.insert(exchange, History { length, kept });
    }

    /// The exchange is gone.
    pub fn remove(&mut self, exchange: &[u8]) {
        self.by_exchange.remove(exchange);
    }

    /// Messages of one publisher's turn have come by the exchange, in a block made for them: it lives as long as one of
    /// them is kept, and all of its bytes count as memory in use.
    pub fn remember(&mut self, exchange: &[u8], messages: &Run) {
        let Some(history) = self.by_exchange.get_mut(exchange) else {
            return;
        };
        for index in 0..messages.count() {
            history.keep(Kept(messages.slice(index, index + 1)));
        }
    }

    /// Plans the replay of what `source` has kept to a destination that is new there; through an exchange on the ways
    /// that `snapshot` shows.
    pub fn recall(&mut self, snapshot: &Snapshot, source: &[u8], to: &Destination) {
        let Some(history) = self.by_exchange.get(source) else { return };
        let now = self.clock.wall();
        let mut onwards: Vec<(Name, Kept)> = Vec::new();
        for kept in &history.kept {
            let found = kept.way(snapshot, to);
            kept.replay(&found, now, &mut self.replays);
            let histories = found.histories.iter();
            onwards.extend(histories.map(|next| (next.spec.name.as_bytes().into(), kept.clone())));
        }
        for (name, kept) in onwards {
            if let Some(history) = self.by_exchange.get_mut(&name) {
                history.keep(kept);
            }
        }
    }

    /// Sends what is planned.
    pub fn replay(&mut self) {
        self.replays.flush(&self.gauge, |_| {});
        self.replays.flush_delayed(&self.gauge, |_| {});
    }

    /// Gives up what is planned.
    pub fn forget_replays(&mut self) {
        self.replays = Outbox::default();
    }
}

/// The last messages of one exchange, oldest first.
struct History {
    length: usize,
    kept: VecDeque<Kept>,
}

impl History {
    fn keep(&mut self, message: Kept) {
        if self.kept.len() >= self.length {
            self.kept.pop_front();
        }
        self.kept.push_back(message);
    }
}

impl Kept {
    /// Where it goes by a new binding.
    fn way(&self, snapshot: &Snapshot, to: &Destination) -> Found {
        let mut found = Found::default();
        match to {
            Destination::Queue(queue) => found.queues.push(queue.clone()),
            Destination::Exchange(name) => {
                if let Some(exchange) = snapshot.exchanges.get(name) {
                    self.read(|keys, properties| snapshot.route(exchange, keys, properties, &mut found));
                }
            }
        }
        found
    }

    /// Calls `look` with the routing keys and properties, as when it was published.
    fn read<R>(&self, look: impl FnOnce(&[&[u8]], &Properties<'_>) -> R) -> Option<R> {
        let message = Message::parse(self.bytes())?;
        let header = message.content_header();
        let properties = header.parse().ok()?;
        Some(look(&routing_keys(&message, &properties, self.meta()), &properties))
    }

    fn bytes(&self) -> &[u8] {
        self.0.block.bytes(self.0.from)
    }

    fn meta(&self) -> Meta {
        meta(&self.0.block, self.0.from)
    }

    /// Publishes it again: its time to live begins anew.
    fn replay(&self, found: &Found, now: u64, outbox: &mut Outbox) {
        let meta = self.meta().published_at(now);
        let expiration = self.read(|_, properties| properties.expiration.map(expiration::parse));
        // It was checked when it was published.
        let expiration = expiration.flatten().and_then(Result::ok);
        let bytes = self.bytes();
        outbox.publish(Body::Borrowed(bytes), meta, expiration, &found.queues, None);
        for hold in &found.delayed {
            outbox.hold(hold, bytes, meta, None);
        }
    }
}
