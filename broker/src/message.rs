//! Messages in memory: how one lies in its block, and the block that a connection's turn fills.
//!
//! A message is one stretch of bytes, as its publisher sent it: exchange and routing key (two short strings, the
//! *address*), two octets left over from the publish frame, then the content header frame and the body frames. A
//! delivery copies the address behind its own prefix and the frames behind that; nothing is decoded or encoded again.

use std::sync::Arc;

use leveret_protocol::ADDRESS_GAP;
use leveret_storage::{Block, Gauge, Span};

/// What the broker keeps in a message's `meta` word: length of the address (16 bits), flags (8), priority (8), body
/// size (32).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta(pub u64);

const PERSISTENT: u64 = 1 << 16;

impl Meta {
    pub fn new(address: usize, persistent: bool, priority: u8, body: u32) -> Meta {
        let flags = if persistent { PERSISTENT } else { 0 };
        Meta(address as u64 & 0xffff | flags | (priority as u64) << 24 | (body as u64) << 32)
    }

    /// Length of the address in bytes.
    pub fn address(self) -> usize {
        (self.0 & 0xffff) as usize
    }

    /// Delivery mode 2.
    pub fn is_persistent(self) -> bool {
        self.0 & PERSISTENT != 0
    }
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

/// The block of a turn, while it is being filled.
#[derive(Default)]
pub struct BlockBuilder {
    buffer: Vec<u8>,
    spans: Vec<Span>,
}

impl BlockBuilder {
    /// Adds a message and returns its index.
    pub fn add(&mut self, message: &[u8], meta: Meta) -> u32 {
        self.spans.push(Span {
            start: self.buffer.len() as u32,
            len: message.len() as u32,
            meta: meta.0,
        });
        self.buffer.extend_from_slice(message);
        self.spans.len() as u32 - 1
    }

    /// Adds a message that has a buffer of its own; spares the copy when it is the first.
    pub fn add_owned(&mut self, message: Vec<u8>, meta: Meta) -> u32 {
        if !self.spans.is_empty() {
            return self.add(&message, meta);
        }
        self.spans.push(Span {
            start: 0,
            len: message.len() as u32,
            meta: meta.0,
        });
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
        Block::new(
            std::mem::take(&mut self.buffer),
            std::mem::take(&mut self.spans),
            gauge,
        )
    }
}
