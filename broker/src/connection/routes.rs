//! Where messages go: a cache over the topology's snapshot, valid while its generation has not moved.

use std::collections::HashMap;
use std::sync::Arc;

use leveret_protocol::AmqpError;
use leveret_protocol::content::Properties;
use leveret_protocol::hot::Publish;
use leveret_protocol::table::{Table, Value};

use crate::names;
use crate::queue::Queue;
use crate::vhost::VHost;
use crate::vhost::history::FurtherKeys;
use crate::vhost::snapshot::{Exchange, Found};

/// Addresses remembered per connection; the cache starts anew beyond.
const CAPACITY: usize = 4096;

#[derive(Default)]
pub struct Routes {
    generation: u64,
    /// By address: exchange and routing key as they came.
    known: HashMap<Box<[u8]>, usize>,
    found: Vec<Vec<Arc<Queue>>>,
    last: Option<(Vec<u8>, usize)>,
    /// The route of a message that cannot be remembered.
    passing: Found,
    /// Its keys beyond that of the publish, if an x-recent-history exchange keeps it.
    further: FurtherKeys,
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

    /// The x-recent-history exchanges that keep the message, with its keys beyond that of the publish.
    pub fn histories(&self, route: Route) -> (&[Arc<Exchange>], &FurtherKeys) {
        match route {
            // Such routes are not remembered.
            Route::Known(_) => (&[], &self.further),
            Route::Passing => (&self.passing.histories, &self.further),
        }
    }

    /// Finds the queues of a message. Errors: no such exchange, an internal one, CC or BCC of a wrong type.
    pub fn find(
        &mut self,
        vhost: &VHost,
        publish: &Publish<'_>,
        properties: &Properties<'_>,
    ) -> Result<Route, AmqpError> {
        let generation = vhost.generation();
        if generation != self.generation || self.found.len() >= CAPACITY {
            self.known.clear();
            self.found.clear();
            self.last = None;
            self.generation = generation;
        }
        let copies = Copies::of(properties);
        if matches!(copies, Ok(None)) {
            if let Some((address, index)) = &self.last
                && address == publish.address
            {
                return Ok(Route::Known(*index));
            }
            if let Some(index) = self.known.get(publish.address) {
                let index = *index;
                self.remember_last(publish.address, index);
                return Ok(Route::Known(index));
            }
        }
        self.look_up(vhost, publish, properties, copies)
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

    fn look_up(
        &mut self,
        vhost: &VHost,
        publish: &Publish<'_>,
        properties: &Properties<'_>,
        copies: Result<Option<Copies<'_>>, AmqpError>,
    ) -> Result<Route, AmqpError> {
        let snapshot = vhost.snapshot();
        let Some(exchange) = snapshot.exchanges.get(publish.exchange) else {
            let name = leveret_protocol::error::text_of(publish.exchange);
            return Err(AmqpError::not_found(format!("no {}", names::exchange(&name, &vhost.name))));
        };
        if exchange.spec.internal {
            let name = names::exchange(&exchange.spec.name, &vhost.name);
            return Err(AmqpError::access_refused(format!("cannot publish to internal {name}")));
        }
        // Not before: an exchange that does not exist is the first thing to be told.
        let copies = copies?;
        let mut keys = vec![publish.routing_key];
        let remember = copies.is_none();
        if let Some(copies) = copies {
            copies.keys(&mut keys);
        }
        self.passing.clear();
        snapshot.route(exchange, &keys, properties, &mut self.passing);
        if !self.passing.histories.is_empty() {
            self.further = keys[1..].iter().map(|key| (*key).into()).collect();
        }
        if self.passing.once || !remember {
            return Ok(Route::Passing);
        }
        let index = self.found.len();
        self.found.push(self.passing.queues.clone());
        self.known.insert(publish.address.into(), index);
        self.remember_last(publish.address, index);
        Ok(Route::Known(index))
    }
}

/// Sender-selected distribution (RabbitMQ extension): further routing keys in the headers CC and BCC.
struct Copies<'a> {
    cc: Option<Value<'a>>,
    bcc: Option<Value<'a>>,
}

impl<'a> Copies<'a> {
    fn of(properties: &Properties<'a>) -> Result<Option<Copies<'a>>, AmqpError> {
        let Some(headers) = properties.headers else {
            return Ok(None);
        };
        let copies = Copies { cc: list(&headers, "CC")?, bcc: list(&headers, "BCC")? };
        Ok((copies.cc.is_some() || copies.bcc.is_some()).then_some(copies))
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
