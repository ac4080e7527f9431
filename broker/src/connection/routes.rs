//! Where messages go: a cache over the topology's snapshot, valid while its generation has not moved.

use std::sync::Arc;

use leveret_protocol::AmqpError;
use leveret_protocol::content::Properties;
use leveret_protocol::hot::Publish;
use leveret_protocol::table::{Table, Value};

use crate::access::rights::{Resource, Right, Rights};
use crate::names;
use crate::queue::Queue;
use crate::vhost::VHost;
use crate::vhost::replies::ReplyTo;
use crate::vhost::snapshot::{Exchange, Found, Hold, Snapshot};

/// Bytes of routes remembered per connection, enough for 10,000 queues by name; the cache starts anew beyond.
const CAPACITY: usize = 2 << 20;
/// What a route takes besides its address and its queues: entries in table and list, and two allocations.
const OVERHEAD: usize = 144;

#[derive(Default)]
pub struct Routes {
    generation: u64,
    /// By address: exchange and routing key as they came. Seeded at random; who finds addresses that collide even so slows
    /// down nobody's publishes but its own.
    known: foldhash::HashMap<Box<[u8]>, usize>,
    found: Vec<Vec<Arc<Queue>>>,
    /// About what all of that takes.
    bytes: usize,
    last: Option<(Vec<u8>, usize)>,
    /// The route of a message that cannot be remembered.
    passing: Found,
    /// The reply consumers that it goes to.
    replies: Option<Vec<Arc<ReplyTo>>>,
}

/// A route that was found: an index, so that it can be kept while other parts of the connection are changed.
#[derive(Clone, Copy)]
pub enum Route {
    Known(usize),
    Passing,
}

impl Routes {
    pub fn queues(&self, route: Route) -> &[Arc<Queue>] {
        match route {
            Route::Known(index) => self.found.get(index).map_or(&[], Vec::as_slice),
            Route::Passing => &self.passing.queues,
        }
    }

    /// The x-recent-history exchanges that keep the message.
    pub fn histories(&self, route: Route) -> &[Arc<Exchange>] {
        match route {
            // Such routes are not remembered.
            Route::Known(_) => &[],
            Route::Passing => &self.passing.histories,
        }
    }

    /// The exchanges that hold the message back.
    pub fn delayed(&self, route: Route) -> &[Hold] {
        match route {
            // Such routes are not remembered.
            Route::Known(_) => &[],
            Route::Passing => &self.passing.delayed,
        }
    }

    /// The reply consumers that a message goes to; None when it names none. Those that are gone are named too, so
    /// there may be none left.
    pub fn replies(&self, route: Route) -> Option<&[Arc<ReplyTo>]> {
        match route {
            Route::Known(_) => None,
            Route::Passing => self.replies.as_deref(),
        }
    }

    /// Whether what was found still holds.
    pub fn are_current(&self, vhost: &VHost) -> bool {
        vhost.generation() == self.generation
    }

    /// The route of this address, if it is remembered. Else the exchange is looked at: errors are that the user may
    /// not write to it, its absence and that it is internal. A change of permissions moves the generation too.
    pub fn known(
        &mut self,
        vhost: &VHost,
        rights: &mut Rights,
        publish: &Publish<'_>,
    ) -> Result<Option<Route>, AmqpError> {
        let generation = vhost.generation();
        if generation != self.generation {
            self.forget();
            self.generation = generation;
        }
        if let Some((address, index)) = &self.last
            && address == publish.address
        {
            return Ok(Some(Route::Known(*index)));
        }
        if let Some(index) = self.known.get(publish.address) {
            let index = *index;
            self.remember_last(publish.address, index);
            return Ok(Some(Route::Known(index)));
        }
        let name = leveret_protocol::error::text_of(publish.exchange);
        rights.check(Right::Write, Resource::Exchange(&name))?;
        exchange(&vhost.snapshot(), vhost, publish)?;
        Ok(None)
    }

    fn forget(&mut self) {
        self.known.clear();
        self.found.clear();
        self.bytes = 0;
        self.last = None;
    }

    fn remember_last(&mut self, address: &[u8], index: usize) {
        match &mut self.last {
            Some((last, at)) => {
                last.clear();
                last.extend_from_slice(address);
                *at = index;
            }
            None => self.last = Some((address.to_vec(), index)),
        }
    }

    /// Whether the user may write each of a message's keys, if it goes to a topic exchange.
    pub fn check_topics(
        vhost: &VHost,
        rights: &mut Rights,
        publish: &Publish<'_>,
        copies: Option<&Copies<'_>>,
    ) -> Result<(), AmqpError> {
        if !rights.limit_topics() {
            return Ok(());
        }
        let name = leveret_protocol::error::text_of(publish.exchange);
        let snapshot = vhost.snapshot();
        let exchange = snapshot.exchanges.get(publish.exchange);
        if exchange.is_none_or(|exchange| !exchange.spec.is_topic()) {
            return Ok(());
        }
        let mut keys = vec![publish.routing_key];
        if let Some(copies) = copies {
            copies.keys(&mut keys);
        }
        keys.into_iter().try_for_each(|key| rights.check_topic(Right::Write, &name, key))
    }

    /// Finds the queues of a message by the topology as it now is. Errors: as those of [`Routes::known`].
    pub fn look_up(
        &mut self,
        vhost: &VHost,
        publish: &Publish<'_>,
        properties: &Properties<'_>,
        copies: Option<Copies<'_>>,
    ) -> Result<Route, AmqpError> {
        let snapshot = vhost.snapshot();
        let exchange = exchange(&snapshot, vhost, publish)?;
        let mut keys = vec![publish.routing_key];
        let remember = copies.is_none();
        if let Some(copies) = copies {
            copies.keys(&mut keys);
        }
        self.passing.clear();
        self.replies = None;
        if publish.exchange.is_empty() {
            for key in keys.iter().filter(|key| names::is_reply_address(key)) {
                let alive = vhost.replies.find(key);
                self.replies.get_or_insert_default().extend(alive);
            }
        }
        snapshot.route(exchange, &keys, properties, &mut self.passing);
        if self.passing.once || !remember || self.replies.is_some() {
            return Ok(Route::Passing);
        }
        let bytes = publish.address.len() + size_of_val(&*self.passing.queues) + OVERHEAD;
        if self.bytes + bytes > CAPACITY {
            self.forget();
        }
        self.bytes += bytes;
        let index = self.found.len();
        self.found.push(self.passing.queues.clone());
        self.known.insert(publish.address.into(), index);
        self.remember_last(publish.address, index);
        Ok(Route::Known(index))
    }
}

/// The exchange that a message is published to.
fn exchange<'s>(snapshot: &'s Snapshot, vhost: &VHost, publish: &Publish<'_>) -> Result<&'s Arc<Exchange>, AmqpError> {
    let Some(exchange) = snapshot.exchanges.get(publish.exchange) else {
        let name = leveret_protocol::error::text_of(publish.exchange);
        return Err(AmqpError::not_found(format!("no {}", names::exchange(&name, &vhost.name))));
    };
    if exchange.spec.internal {
        let name = names::exchange(&exchange.spec.name, &vhost.name);
        return Err(AmqpError::access_refused(format!("cannot publish to internal {name}")));
    }
    Ok(exchange)
}

/// Sender-selected distribution (RabbitMQ extension): further routing keys in the headers CC and BCC.
pub struct Copies<'a> {
    cc: Option<Value<'a>>,
    bcc: Option<Value<'a>>,
}

impl<'a> Copies<'a> {
    /// The headers CC and BCC, if there is one. Errors: one that is no array.
    pub fn of(properties: &Properties<'a>) -> Result<Option<Copies<'a>>, AmqpError> {
        let Some(headers) = properties.headers else {
            return Ok(None);
        };
        let copies = Copies { cc: list(&headers, "CC")?, bcc: list(&headers, "BCC")? };
        Ok((copies.cc.is_some() || copies.bcc.is_some()).then_some(copies))
    }

    /// Some of the keys are hidden from everybody else.
    pub fn are_hidden(&self) -> bool {
        self.bcc.is_some()
    }

    /// Adds the keys; elements that are no long strings are no keys.
    fn keys(&self, keys: &mut Vec<&'a [u8]>) {
        for list in [&self.cc, &self.bcc].into_iter().flatten() {
            if let Value::Array(array) = list {
                keys.extend(array.iter().filter_map(|value| match value {
                    Value::LongStr(key) => Some(key),
                    _ => None,
                }));
            }
        }
    }
}

fn list<'a>(headers: &Table<'a>, name: &str) -> Result<Option<Value<'a>>, AmqpError> {
    match headers.get(name.as_bytes()) {
        None => Ok(None),
        Some(array @ Value::Array(_)) => Ok(Some(array)),
        Some(other) => Err(AmqpError::precondition_failed(format!(
            "invalid message: {{unacceptable_type_in_header,\"{name}\",{}}}",
            other.type_word()
        ))),
    }
}

#[cfg(test)]
mod tests;
