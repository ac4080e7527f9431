//! Messages in memory: how one lies in its block, and the block that a connection's turn fills.
//!
//! A message is one stretch of bytes, as its publisher sent it: exchange and routing key (two short strings, the
//! *address*), two octets left over from the publish frame, then the content header frame and the body frames. A
//! delivery copies the address behind its own prefix and the frames behind that; nothing is decoded or encoded again.
//! Only a message with a header BCC is: it keeps that header, for the dead letter that it may become, and whoever shows
//! it leaves the header out.

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
/// | 21–62 | when it was published, milliseconds since the Unix epoch; while it is held back, when it is due |
/// | 63 | has a header BCC, which nobody may see |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta(pub u64);

const ADDRESS: u64 = 0x3ff;
const PERSISTENT: u64 = 1 << 10;
const EXPIRES: u64 = 1 << 11;
const DEAD_LETTERED: u64 = 1 << 12;
const PRIORITY: u32 = 13;
const PUBLISHED: u32 = 21;
const HIDES: u64 = 1 << 63;

/// Among the flags of a message's publish, if it is a dead letter: CC and BCC have no say any more.
const BY_KEY_ONLY: u8 = 1 << 2;

impl Meta {
    /// `published` in milliseconds since the Unix epoch.
    pub fn new(address: usize, published: u64) -> Meta {
        Meta(address as u64 & ADDRESS | time(published))
    }

    /// The same message, published at another time.
    pub fn published_at(self, published: u64) -> Meta {
        Meta(self.0 & (HIDES | ((1 << PUBLISHED) - 1)) | time(published))
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

    pub fn with_hidden(self, yes: bool) -> Meta {
        if yes { Meta(self.0 | HIDES) } else { self }
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
        (self.0 & !HIDES) >> PUBLISHED
    }

    /// It has a header BCC.
    pub fn hides(self) -> bool {
        self.0 & HIDES != 0
    }
}

/// A moment in its bits.
fn time(published: u64) -> u64 {
    published << PUBLISHED & !HIDES
}

/// The `meta` word of message `index` of `block`.
pub fn meta(block: &Block, index: u32) -> Meta {
    Meta(block.meta(index))
}

/// Bytes that a message has at least beside its body: two empty names, what follows them, a frame for a header without
/// properties and one for the body.
pub const LEAST: u32 = 2 + ADDRESS_GAP as u32 + 8 + 14 + 8;

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

/// Where the content of message `index` of `block` begins in it.
pub fn content_at(block: &Block, index: u32) -> usize {
    (meta(block, index).address() + ADDRESS_GAP).min(block.len_of(index) as usize)
}

/// The content header frame and body frames of message `index` of `block`.
pub fn content(block: &Block, index: u32) -> &[u8] {
    &block.bytes(index)[content_at(block, index)..]
}

/// Address and content of a message that lies in its block as `stored`.
pub fn split(stored: &[u8], meta: u64) -> (&[u8], &[u8]) {
    let at = Meta(meta).address();
    let content = stored.get(at + ADDRESS_GAP..).unwrap_or_default();
    (stored.get(..at).unwrap_or(stored), content)
}

/// [`content`] is what may be shown of all messages of `block`.
pub fn shows_all(block: &Block) -> bool {
    !Meta(block.any()).hides()
}

/// As [`content`], without what is hidden, and with the header `x-delivery-count` where `returns` is not 0: quorum
/// queues show it from the second delivery on.
pub fn content_shown(block: &Block, index: u32, returns: u32) -> Cow<'_, [u8]> {
    let meta = meta(block, index);
    if returns == 0 && !meta.hides() {
        return Cow::Borrowed(content(block, index));
    }
    let count = [("x-delivery-count", AMQPValue::LongLongInt(returns.into()))];
    let edits = Edits { remove: HIDDEN, put: if returns > 0 { &count } else { &[] }, ..Edits::default() };
    match edited(block.bytes(index), &edits) {
        Some(mut bytes) => Cow::Owned(bytes.split_off(meta.address() + ADDRESS_GAP)),
        None => Cow::Borrowed(content(block, index)),
    }
}

/// The headers that nobody may see.
const HIDDEN: &[&str] = &["BCC"];

/// A message as it may be shown, if it `hides` something.
pub fn shown(message: &[u8], meta: Meta) -> Cow<'_, [u8]> {
    let edits = Edits { remove: HIDDEN, ..Edits::default() };
    let edited = if meta.hides() { edited(message, &edits) } else { None };
    edited.map_or(Cow::Borrowed(message), Cow::Owned)
}

/// None: it is no message.
fn edited(message: &[u8], edits: &Edits<'_>) -> Option<Vec<u8>> {
    let message = Message::parse(message)?;
    Some(message.rebuild(message.address, &content_header::edit(message.header, edits).ok()?))
}

/// The keys that a message is routed by: that of its publish, then those in the headers CC and BCC, unless it has died
/// in a queue that gave it another key.
pub fn routing_keys<'a>(message: &Message<'a>, properties: &Properties<'a>, meta: Meta) -> Vec<&'a [u8]> {
    let mut keys = vec![message.routing_key];
    if !is_by_key_only(message, meta) {
        keys.extend(["CC", "BCC"].iter().flat_map(|name| listed(properties, name)));
    }
    keys
}

/// Those of a message's routing keys that may be shown.
pub fn shown_keys<'a>(keys: &[&'a [u8]], properties: &Properties<'a>) -> Vec<&'a [u8]> {
    let mut shown = keys.to_vec();
    for hidden in listed(properties, "BCC") {
        if let Some(at) = shown.iter().position(|key| *key == hidden) {
            shown.remove(at);
        }
    }
    shown
}

/// The long strings in an array among the headers.
fn listed<'a>(properties: &Properties<'a>, name: &str) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    let array = match properties.headers.and_then(|headers| headers.get(name)) {
        Some(Value::Array(array)) => Some(array),
        _ => None,
    };
    array.into_iter().flat_map(|array| array.iter()).filter_map(|value| match value {
        Value::LongStr(key) => Some(key),
        _ => None,
    })
}

/// CC and BCC have no say any more: it has died in a queue that gave it another key.
pub fn is_by_key_only(message: &Message<'_>, meta: Meta) -> bool {
    meta.is_dead_lettered() && message.bits & BY_KEY_ONLY != 0
}

/// Notes in a dead letter whether it is routed by the key in its address alone from now on.
pub fn note_by_key_only(message: &mut [u8], meta: Meta, yes: bool) {
    if let Some(flags) = message.get_mut(meta.address()) {
        *flags = *flags & !BY_KEY_ONLY | if yes { BY_KEY_ONLY } else { 0 };
    }
}

/// Bytes of input for which no room is made beforehand: a buffer that fits at once is cheaper than one cut to size.
const FEW: usize = 1 << 10;

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

    /// Makes room for `bytes` more, if they may be many messages.
    pub fn reserve(&mut self, bytes: usize) {
        if self.buffer.is_empty() && bytes > FEW {
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
        let buffer = std::mem::take(&mut self.buffer);
        // A turn of one message leaves the list where it is, for the next.
        if let [span] = *self.spans {
            self.spans.clear();
            return Block::of_one(buffer, span, gauge);
        }
        Block::new(buffer, std::mem::take(&mut self.spans), gauge)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_of_meta_is_read_as_it_was_written_whatever_the_others_are() {
        const NOW: u64 = (1 << 42) - 1;
        let all = Meta::new(512, NOW).with_persistent(true).with_expiration(true).with_priority(255);
        let all = all.with_dead_lettered().with_hidden(true);
        assert_eq!((all.address(), all.published(), all.priority()), (512, NOW, 255));
        assert!(all.is_persistent() && all.expires() && all.is_dead_lettered() && all.hides());
        let other = all.published_at(5);
        assert_eq!((other.address(), other.published(), other.priority(), other.hides()), (512, 5, 255, true));
        let none = Meta::new(3, 0).with_hidden(false).published_at(NOW);
        assert_eq!((none.address(), none.published(), none.priority()), (3, NOW, 0));
        assert!(!none.is_persistent() && !none.expires() && !none.is_dead_lettered() && !none.hides());
    }

    #[test]
    fn hidden_keys_are_taken_from_the_shown_ones_once_each() {
        let table = b"\x03BCCA\0\0\0\x0cS\0\0\0\x01kS\0\0\0\x01h";
        let header = [&b"\0\x3C\0\0\0\0\0\0\0\0\0\0\x20\0\0\0\0"[..], &[table.len() as u8], table].concat();
        let properties = content_header::header(&header).parse().unwrap();
        let keys: [&[u8]; 4] = [b"k", b"c", b"k", b"h"];
        assert_eq!(shown_keys(&keys, &properties), [&b"c"[..], b"k"]);
    }
}
