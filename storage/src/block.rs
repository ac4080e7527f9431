//! Blocks and runs: how messages travel and rest, in memory and on disk.
//!
//! A *block* is one buffer that holds the messages of one turn of a publisher (or one stored record) side by
//! side; a *run* is a stretch of a block. Nothing is allocated per message. Storage treats the bytes of a message
//! and its `meta` word as opaque: it gives back exactly what it was given.

use std::fmt;
use std::ops::Deref;
use std::slice;
use std::sync::Arc;

use crate::gauge::Gauge;

/// Where one message lies in its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Offset of the first byte in the block's buffer.
    pub start: u32,
    /// Length in bytes.
    pub len: u32,
    /// The broker's own word about the message, stored and returned unchanged.
    pub meta: u64,
}

/// One immutable buffer of messages.
pub struct Block {
    buffer: Box<[u8]>,
    spans: Spans,
    /// The `meta` words of all messages, or-ed.
    any: u64,
    gauge: Arc<Gauge>,
}

/// Where the messages of a block lie. One alone needs no list.
enum Spans {
    One(Span),
    Many(Box<[Span]>),
}

impl Deref for Spans {
    type Target = [Span];

    fn deref(&self) -> &[Span] {
        match self {
            Spans::One(span) => slice::from_ref(span),
            Spans::Many(spans) => spans,
        }
    }
}

impl Block {
    /// A block of the messages at `spans` in `buffer`.
    ///
    /// # Panics
    /// When a span does not lie within the buffer: the caller made both.
    pub fn new(buffer: Vec<u8>, spans: Vec<Span>, gauge: &Arc<Gauge>) -> Arc<Block> {
        Block::of(buffer, Spans::Many(spans.into_boxed_slice()), gauge)
    }

    /// A block of one message.
    ///
    /// # Panics
    /// When it does not lie within the buffer.
    pub fn of_one(buffer: Vec<u8>, span: Span, gauge: &Arc<Gauge>) -> Arc<Block> {
        Block::of(buffer, Spans::One(span), gauge)
    }

    fn of(buffer: Vec<u8>, spans: Spans, gauge: &Arc<Gauge>) -> Arc<Block> {
        let mut any = 0;
        for span in &*spans {
            assert!(span.start as usize + span.len as usize <= buffer.len(), "a span reaches past its block");
            any |= span.meta;
        }
        let block = Block { buffer: buffer.into_boxed_slice(), spans, any, gauge: gauge.clone() };
        block.gauge.add(block.held());
        Arc::new(block)
    }

    /// Bytes of memory this block holds.
    pub fn held(&self) -> usize {
        let list = match &self.spans {
            Spans::One(_) => 0,
            Spans::Many(spans) => spans.len() * size_of::<Span>(),
        };
        self.buffer.len() + list + size_of::<Block>()
    }

    /// The bytes of message `index`.
    pub fn bytes(&self, index: u32) -> &[u8] {
        let span = self.spans[index as usize];
        &self.buffer[span.start as usize..(span.start + span.len) as usize]
    }

    /// The `meta` word of message `index`.
    pub fn meta(&self, index: u32) -> u64 {
        self.spans[index as usize].meta
    }

    /// The `meta` words of all messages, or-ed.
    pub fn any(&self) -> u64 {
        self.any
    }

    /// Bytes from the beginning of message `from` to the end of the one before `to`.
    pub fn bytes_of(&self, from: u32, to: u32) -> usize {
        let (first, last) = (self.spans.get(from as usize), self.spans.get((to as usize).wrapping_sub(1)));
        first
            .zip(last)
            .map_or(0, |(first, last)| ((last.start + last.len) as usize).saturating_sub(first.start as usize))
    }

    /// The (bytes, meta) of messages `from..to`, in order.
    ///
    /// # Panics
    /// When there are none of these numbers.
    pub fn messages(&self, from: u32, to: u32) -> impl Iterator<Item = (&[u8], u64)> {
        let spans = &self.spans[from as usize..to as usize];
        spans.iter().map(|span| (&self.buffer[span.start as usize..(span.start + span.len) as usize], span.meta))
    }

    /// The length in bytes of message `index`.
    pub fn len_of(&self, index: u32) -> u32 {
        self.spans[index as usize].len
    }

    /// Where message `index` lies in [`buffer`](Self::buffer).
    pub(crate) fn span(&self, index: u32) -> Span {
        self.spans[index as usize]
    }

    /// The bytes of all messages.
    pub(crate) fn buffer(&self) -> &[u8] {
        &self.buffer
    }

    /// How many messages the block has.
    pub fn count(&self) -> u32 {
        self.spans.len() as u32
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let held = self.held();
        self.gauge.sub(held, &mut self.buffer);
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({} messages, {} B)", self.spans.len(), self.buffer.len())
    }
}

/// A stretch of a block: messages `from..to`.
#[derive(Clone, Debug)]
pub struct Run {
    pub block: Arc<Block>,
    pub from: u32,
    pub to: u32,
}

impl Run {
    /// How many messages.
    pub fn count(&self) -> u32 {
        self.to - self.from
    }

    /// Messages `from..to` of this run, counted from its own first one.
    ///
    /// # Panics
    /// When `from..to` does not lie within the run.
    pub fn slice(&self, from: u32, to: u32) -> Run {
        assert!(from <= to && to <= self.count(), "a slice reaches past its run");
        Run { block: self.block.clone(), from: self.from + from, to: self.from + to }
    }

    /// Bytes of all its messages, without what the block needs to hold them.
    pub fn bytes(&self) -> usize {
        (self.from..self.to).map(|i| self.block.len_of(i) as usize).sum()
    }

    /// The (bytes, meta) of each message in order.
    pub fn messages(&self) -> impl Iterator<Item = (&[u8], u64)> {
        self.block.messages(self.from, self.to)
    }
}

/// Messages that lie at `spans`, ascending, in `buffer`, in a block of their own: a run for each of `stretches`, which
/// are given as (first sequence number, count) and make up all of them.
pub(crate) fn runs_of(
    mut buffer: Vec<u8>,
    mut spans: Vec<Span>,
    stretches: Vec<(u64, u32)>,
    gauge: &Arc<Gauge>,
) -> impl Iterator<Item = (u64, Run)> + use<> {
    compact(&mut buffer, &mut spans);
    let block = Block::new(buffer, spans, gauge);
    let mut from = 0;
    stretches.into_iter().map(move |(first, count)| {
        let run = Run { block: block.clone(), from, to: from + count };
        from += count;
        (first, run)
    })
}

/// Moves the bytes of `spans` to the front and lets the rest go, if that is worth it: a block should hold hardly more
/// than its messages.
fn compact(buffer: &mut Vec<u8>, spans: &mut [Span]) {
    let wanted: usize = spans.iter().map(|span| span.len as usize).sum();
    if wanted * 8 >= buffer.len() * 7 {
        return;
    }
    let mut end = 0;
    for span in spans {
        let start = span.start as usize;
        buffer.copy_within(start..start + span.len as usize, end);
        span.start = end as u32;
        end += span.len as usize;
    }
    buffer.truncate(end);
}
