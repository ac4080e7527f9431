//! Messages in memory: how one lies in its block, and the block that a connection's turn fills.
//!
//! A message is one stretch of bytes, as its publisher sent it: exchange and routing key (two short strings, the
//! *address*), two octets left over from the publish frame, then the content header frame and the body frames. A
//! delivery copies the address behind its own prefix and the frames behind that; nothing is decoded or encoded again.

use std::borrow::Cow;
use std::sync::Arc;

use leveret_protocol::amq::AMQPValue;
use leveret_protocol::content as content_header;
use leveret_protocol::content::{Edits, Properties};
use leveret_protocol::table::Value;
use leveret_protocol::{ADDRESS_GAP, Message};
use leveret_storage::{Block, Gauge, Span};

/// What the broker keeps in a message's `meta` word:
///
/// | bits | meaning |
/// |---|---|
/// | 0–9 | length of the address in bytes (two short strings: 512 at most) |
/// | 10 | persistent (delivery mode 2) |
/// | 11 | has an `expiration` property |
/// | 12 | was dead-lettered: its x-death header is the broker's own |
/// | 13–20 | priority |
/// | 21–63 | when it was published, milliseconds since the Unix epoch; while it is held back, when it is due |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta(pub u64);

const ADDRESS: u64 = 0x3ff;
const PERSISTENT: u64 = 1 << 10;
const EXPIRES: u64 = 1 << 11;
const DEAD_LETTERED: u64 = 1 << 12;
const PRIORITY: u32 = 13;
const PUBLISHED: u32 = 21;

impl Meta {
    /// `published` in milliseconds since the Unix epoch.
    pub fn new(address: usize, published: u64) -> Meta {
        Meta(address as u64 & ADDRESS | published << PUBLISHED)
    }

    /// The same message, published at another time.
    pub fn published_at(self, published: u64) -> Meta {
        Meta(self.0 & ((1 << PUBLISHED) - 1) | published << PUBLISHED)
    }

    pub fn with_persistent(self, yes: bool) -> Meta {
        if yes { Meta(self.0 | PERSISTENT) } else { self }
    }

    pub fn with_expiration(self, yes: bool) -> Meta {
        if yes { Meta(self.0 | EXPIRES) } else { self }
    }

    pub fn with_priority(self, priority: u8) -> Meta {
        Meta(self.0 | u64::from(priority) << PRIORITY)
    }

    pub fn with_dead_lettered(self) -> Meta {
        Meta(self.0 | DEAD_LETTERED)
    }

    /// Length of the address in bytes.
    pub fn address(self) -> usize {
        (self.0 & ADDRESS) as usize
    }

    /// Delivery mode 2.
    pub fn is_persistent(self) -> bool {
        self.0 & PERSISTENT != 0
    }

    /// It has an `expiration` property.
    pub fn expires(self) -> bool {
        self.0 & EXPIRES != 0
    }

    /// Its x-death header is the broker's own.
    pub fn is_dead_lettered(self) -> bool {
        self.0 & DEAD_LETTERED != 0
    }

    pub fn priority(self) -> u8 {
        (self.0 >> PRIORITY) as u8
    }

    /// Milliseconds since the Unix epoch.
    pub fn published(self) -> u64 {
        self.0 >> PUBLISHED
    }
}

/// The `meta` word of message `index` of `block`.
pub fn meta(block: &Block, index: u32) -> Meta {
    Meta(block.meta(index))
}

/// Size of the body of message `index` of `block`, in bytes, as its content header says.
pub fn body_size(block: &Block, index: u32) -> u64 {
    const AT: usize = 7 + 4;
    content(block, index).get(AT..AT + 8).and_then(|octets| octets.try_into().ok()).map_or(0, u64::from_be_bytes)
}

/// The address of message `index` of `block`.
pub fn address(block: &Block, index: u32) -> &[u8] {
    let bytes = block.bytes(index);
    &bytes[..Meta(block.meta(index)).address().min(bytes.len())]
}

/// The content header frame and body frames of message `index` of `block`.
pub fn content(block: &Block, index: u32) -> &[u8] {
    let bytes = block.bytes(index);
    &bytes[(Meta(block.meta(index)).address() + ADDRESS_GAP).min(bytes.len())..]
}

/// As [`content`], but with the header `x-delivery-count` where `returns` is not 0: quorum queues show it from the
/// second delivery on.
pub fn content_counting(block: &Block, index: u32, returns: u32) -> Cow<'_, [u8]> {
    let counted = if returns > 0 { with_delivery_count(block, index, returns) } else { None };
    match counted {
        Some(mut bytes) => Cow::Owned(bytes.split_off(meta(block, index).address() + ADDRESS_GAP)),
        None => Cow::Borrowed(content(block, index)),
    }
}

fn with_delivery_count(block: &Block, index: u32, count: u32) -> Option<Vec<u8>> {
    let message = Message::parse(block.bytes(index))?;
    let put = [("x-delivery-count", AMQPValue::LongLongInt(count.into()))];
    let edits = Edits { put: &put, ..Edits::default() };
    Some(message.rebuild(message.address, &content_header::edit(message.header, &edits).ok()?))
}

/// The keys that a message is routed by: that of its publish, then those in the headers `copies`.
pub fn routing_keys<'a>(message: &Message<'a>, properties: &Properties<'a>, copies: &[&str]) -> Vec<&'a [u8]> {
    let mut keys = vec![message.routing_key];
    for name in copies {
        if let Some(Value::Array(copies)) = properties.headers.and_then(|headers| headers.get(name)) {
            keys.extend(copies.iter().filter_map(|value| match value {
                Value::LongStr(key) => Some(key),
                _ => None,
            }));
        }
    }
    keys
}

/// The block of a turn, while it is being filled.
#[derive(Default)]
pub struct BlockBuilder {
    buffer: Vec<u8>,
    spans: Vec<Span>,
}

impl BlockBuilder {
    /// Adds a message and returns its index.
    pub fn add(&mut self, message: &[u8], meta: Meta) -> u32 {
        self.spans.push(Span { start: self.buffer.len() as u32, len: message.len() as u32, meta: meta.0 });
        self.buffer.extend_from_slice(message);
        self.spans.len() as u32 - 1
    }

    /// Adds a message that has a buffer of its own; spares the copy when it is the first.
    pub fn add_owned(&mut self, message: Vec<u8>, meta: Meta) -> u32 {
        if !self.spans.is_empty() {
            return self.add(&message, meta);
        }
        self.spans.push(Span { start: 0, len: message.len() as u32, meta: meta.0 });
        self.buffer = message;
        0
    }

    /// Makes room for `bytes` more.
    pub fn reserve(&mut self, bytes: usize) {
        if self.buffer.is_empty() {
            self.buffer.reserve(bytes);
        }
    }

    pub fn bytes(&self) -> usize {
        self.buffer.len()
    }

    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The finished block, its memory cut to size; the builder is empty again.
    pub fn finish(&mut self, gauge: &Arc<Gauge>) -> Arc<Block> {
        Block::new(std::mem::take(&mut self.buffer), std::mem::take(&mut self.spans), gauge)
    }
}
