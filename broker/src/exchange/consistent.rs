//! x-consistent-hash: what the exchange hashes of a message chooses one destination, each as often as its weight says.
//!
//! RabbitMQ numbers `weight` buckets per destination. Here every destination draws a number from the hash of the
//! message and its own name, and the best one, its weight considered, wins (weighted rendezvous hashing). That is
//! balanced without many buckets; a weight of a million costs no more than 1; a destination that comes or goes moves
//! only messages that it gets or had; and the order of bindings, which a restart forgets, has no say.

use std::sync::Arc;

use amq_protocol::types::{AMQPValue, FieldTable};
use leveret_protocol::content::Properties;
use leveret_protocol::error::{octets, text_of};
use leveret_protocol::value::type_word;

use super::bindings::Arguments;
use super::criteria::comparable;
use super::hash::{mix, stable};
use super::small_map::SmallMap;
use super::{ArgumentError, BindingError, Destination};

/// What of a message is hashed.
#[derive(Clone)]
pub(super) enum HashOn {
    RoutingKey,
    Header(Arc<[u8]>),
    MessageId,
    CorrelationId,
    Timestamp,
}

impl HashOn {
    /// Reads the arguments of exchange.declare.
    pub fn of(arguments: &FieldTable) -> Result<HashOn, ArgumentError> {
        let header = text(arguments, "hash-header")?;
        let property = text(arguments, "hash-property")?;
        Ok(match (header, property) {
            (None, None) => HashOn::RoutingKey,
            (Some(header), None) => HashOn::Header(header.into()),
            (None, Some(b"message_id")) => HashOn::MessageId,
            (None, Some(b"correlation_id")) => HashOn::CorrelationId,
            (None, Some(b"timestamp")) => HashOn::Timestamp,
            (None, Some(other)) => return Err(ArgumentError::Property(text_of(other))),
            (Some(_), Some(_)) => return Err(ArgumentError::HeaderAndProperty),
        })
    }

    /// Whether messages with one routing key may go different ways.
    pub fn beyond_key(&self) -> bool {
        !matches!(self, HashOn::RoutingKey)
    }

    /// All messages without the header or property hash alike: they have one destination too.
    fn hash(&self, keys: &[&[u8]], properties: &Properties<'_>) -> u64 {
        match self {
            // As in RabbitMQ, further keys (CC, BCC) have no say.
            HashOn::RoutingKey => stable(&keys.first()),
            HashOn::Header(name) => {
                let headers = properties.headers.unwrap_or_default();
                stable(&headers.get_last(name).map(|value| comparable(&value)))
            }
            HashOn::MessageId => stable(&properties.message_id),
            HashOn::CorrelationId => stable(&properties.correlation_id),
            HashOn::Timestamp => stable(&properties.timestamp),
        }
    }
}

fn text<'a>(arguments: &'a FieldTable, name: &'static str) -> Result<Option<&'a [u8]>, ArgumentError> {
    match arguments.inner().get(name) {
        None => Ok(None),
        Some(AMQPValue::LongString(text)) => Ok(Some(text.as_bytes())),
        Some(other) => Err(ArgumentError::Type { name, kind: type_word(other) }),
    }
}

/// The weight that a binding key stands for: a whole number above 0, of any length.
///
/// # Errors
/// The key is something else.
pub(super) fn weight(key: &[u8]) -> Result<f64, BindingError> {
    let (negative, digits) = match key {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(BindingError::WeightNotInteger(octets(key)));
    }
    let value = (digits.iter()).fold(0.0, |value, digit| value * 10.0 + f64::from(digit - b'0'));
    if negative || value < 1.0 {
        return Err(BindingError::WeightTooSmall);
    }
    Ok(value)
}

#[derive(Clone)]
pub(super) struct ConsistentTable<D> {
    on: HashOn,
    members: SmallMap<D, Member>,
}

/// A destination with its bindings, oldest first: that one's weight counts. Never without one.
#[derive(Clone)]
struct Member {
    hash: u64,
    weight: f64,
    bindings: Arc<Vec<(Arc<[u8]>, Arguments)>>,
}

impl Member {
    fn new(hash: u64, bindings: Vec<(Arc<[u8]>, Arguments)>) -> Member {
        // A key that validation refuses has no weight, and never wins.
        let weight = bindings.first().map_or(0.0, |(key, _)| weight(key).unwrap_or(0.0));
        Member { hash, weight, bindings: Arc::new(bindings) }
    }

    /// The lowest cost wins. With `u` drawn evenly from 0 to 1, `-ln(u) / weight` is the lowest of all with a
    /// probability of weight over the sum of weights.
    fn cost(&self, message: u64) -> f64 {
        let draw = mix(self.hash ^ message) >> 11;
        let even = (draw as f64 + 0.5) / (1u64 << 53) as f64;
        -even.ln() / self.weight
    }
}

impl<D: Destination> ConsistentTable<D> {
    pub fn new(on: HashOn) -> Self {
        Self { on, members: SmallMap::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub fn beyond_key(&self) -> bool {
        self.on.beyond_key()
    }

    pub fn bind(&mut self, key: &[u8], (to, arguments): (D, Arguments)) -> bool {
        let binding = (Arc::from(key), arguments);
        let mut bindings = Vec::new();
        if let Some(member) = self.members.get(&to) {
            if member.bindings.contains(&binding) {
                return false;
            }
            bindings.extend_from_slice(&member.bindings);
        }
        bindings.push(binding);
        self.members.insert(to.clone(), Member::new(stable(&to), bindings));
        true
    }

    pub fn unbind(&mut self, key: &[u8], (to, arguments): (D, Arguments)) -> bool {
        let Some(member) = self.members.get(&to) else {
            return false;
        };
        let mut bindings = member.bindings.to_vec();
        bindings.retain(|(k, a)| **k != *key || *a != arguments);
        if bindings.len() == member.bindings.len() {
            return false;
        }
        if bindings.is_empty() {
            self.members.remove(&to);
        } else {
            let member = Member::new(member.hash, bindings);
            self.members.insert(to, member);
        }
        true
    }

    pub fn route(&self, keys: &[&[u8]], properties: &Properties<'_>, found: &mut dyn FnMut(&D)) {
        if self.members.is_empty() {
            return;
        }
        let message = self.on.hash(keys, properties);
        let costs = (self.members.iter()).map(|(to, member)| (member.cost(message), member.hash, to));
        let best = costs.min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        if let Some((_, _, to)) = best {
            found(to);
        }
    }
}
