//! Packing: a batch becomes the records of one frame, without copying a message.

use std::io::IoSlice;
use std::mem;
use std::ptr;

use super::frame::{self, HEADER, Header, Piece};
use crate::block::{Block, Run};
use crate::bytes::{Input, put_varint};
use crate::sequences::Sequences;

/// Messages in a record: what of it is removed takes a bit each in memory.
const RECORD_MESSAGES: u32 = 1024;
/// Bytes of a record of several messages. Reading one message back means reading its record.
const RECORD_BYTES: usize = 256 << 10;
/// A message of this size is a record of its own, so that one that stays does not keep it on disk.
const LARGE: usize = 32 << 10;
/// Sequence numbers that a record may reach over.
const RECORD_REACH: u64 = 8192;

/// A record as its head describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packed {
    pub sequences: Sequences,
    /// Bytes at the beginning of its body that say how long each message is.
    pub lengths: u32,
    /// Bytes of its messages, behind those.
    pub bytes: u32,
    /// All their metas, or-ed.
    pub any: u64,
    /// Of the whole body.
    pub crc: u32,
    /// Bytes of each message, where they differ much; not in the head, so not known once the store was opened again.
    pub sizes: Option<Box<[u16]>>,
}

impl Packed {
    pub fn body(&self) -> u64 {
        u64::from(self.lengths) + u64::from(self.bytes)
    }
}

/// What a frame is made in; kept, so that a commit allocates little.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    heads: Vec<u8>,
    lengths: Vec<u8>,
}

/// A frame being made.
#[derive(Debug, Default)]
pub(crate) struct Frame<'a> {
    scratch: Scratch,
    pieces: Vec<Piece<'a>>,
    /// What is stored, in order of the bodies.
    pub inserts: Vec<(u64, Packed)>,
    bodies: u64,
    open: Open<'a>,
}

/// The record being made.
#[derive(Debug, Default)]
struct Open<'a> {
    stretches: Vec<(u64, u32)>,
    count: u32,
    bytes: usize,
    any: u64,
    meta: u64,
    shortest: usize,
    longest: usize,
    /// Where its lengths begin.
    lengths: usize,
    /// Its first piece.
    piece: usize,
    /// A stretch of a block that may go on: (block, start, end).
    stretch: Option<(&'a Block, usize, usize)>,
}

impl<'a> Frame<'a> {
    pub fn new(mut scratch: Scratch) -> Frame<'a> {
        scratch.heads.clear();
        scratch.lengths.clear();
        Frame { scratch, ..Frame::default() }
    }

    pub fn into_scratch(self) -> Scratch {
        self.scratch
    }

    pub fn is_empty(&self) -> bool {
        self.scratch.heads.is_empty()
    }

    /// Bytes of the whole frame.
    pub fn len(&self) -> u64 {
        (HEADER + self.scratch.heads.len()) as u64 + self.bodies
    }

    pub fn heads(&self) -> &[u8] {
        &self.scratch.heads
    }

    pub fn drop_queue(&mut self, queue: u64) {
        frame::put_dropped(&mut self.scratch.heads, queue);
    }

    pub fn remove(&mut self, queue: u64, ranges: &[(u64, u64)]) {
        if !ranges.is_empty() {
            frame::put_removed(&mut self.scratch.heads, queue, ranges);
        }
    }

    /// Adds messages of one queue: (first sequence number, run) ascending.
    pub fn insert(&mut self, queue: u64, runs: &'a [(u64, Run)]) {
        for (first, run) in runs {
            let block = &*run.block;
            for (sequence, index) in (*first..).zip(run.from..run.to) {
                let span = block.span(index);
                if !self.open.has_room(sequence, span.len as usize) {
                    self.close(queue);
                }
                if self.open.count == 0 {
                    self.open.lengths = self.scratch.lengths.len();
                    self.open.piece = self.pieces.len();
                    self.pieces.push(Piece::Lengths(0..0));
                }
                put_varint(&mut self.scratch.lengths, span.meta ^ self.open.meta);
                put_varint(&mut self.scratch.lengths, u64::from(span.len));
                self.open.push(sequence, span.meta, span.len as usize);
                self.bytes(block, span.start as usize, span.len as usize);
            }
        }
        self.close(queue);
    }

    /// Messages nearly always lie side by side in their block: then they are one piece.
    fn bytes(&mut self, block: &'a Block, start: usize, len: usize) {
        self.open.bytes += len;
        match &mut self.open.stretch {
            Some((same, _, end)) if ptr::eq(*same, block) && *end == start => *end += len,
            _ => {
                self.cut();
                self.open.stretch = Some((block, start, start + len));
            }
        }
    }

    fn cut(&mut self) {
        if let Some((block, start, end)) = self.open.stretch.take()
            && start < end
        {
            self.pieces.push(Piece::Bytes(&block.buffer()[start..end]));
        }
    }

    /// Ends the record being made.
    fn close(&mut self, queue: u64) {
        self.cut();
        let open = mem::take(&mut self.open);
        if open.count == 0 {
            return;
        }
        let lengths = open.lengths..self.scratch.lengths.len();
        let mut crc = crc32fast::Hasher::new();
        crc.update(&self.scratch.lengths[lengths.clone()]);
        for piece in &self.pieces[open.piece + 1..] {
            if let Piece::Bytes(bytes) = piece {
                crc.update(bytes);
            }
        }
        let sizes = open.differ().then(|| sizes(&self.scratch.lengths[lengths.clone()]));
        let record = Packed {
            sequences: Sequences::new(open.stretches),
            lengths: lengths.len() as u32,
            bytes: open.bytes as u32,
            any: open.any,
            crc: crc.finalize(),
            sizes,
        };
        self.pieces[open.piece] = Piece::Lengths(lengths);
        self.bodies += record.body();
        frame::put_insert(&mut self.scratch.heads, queue, &record);
        self.inserts.push((queue, record));
    }

    /// Hands the frame's bytes to `write`.
    pub fn with_slices<R>(
        &self,
        nonce: u64,
        sequence: u64,
        synced: u64,
        write: impl FnOnce(&mut [IoSlice<'_>]) -> R,
    ) -> R {
        let heads = &self.scratch.heads[..];
        let header = Header {
            nonce,
            sequence,
            synced,
            heads: heads.len() as u32,
            bodies: self.bodies,
            heads_crc: crc32fast::hash(heads),
        };
        let header = header.encode();
        let bodies = self.pieces.iter().map(|piece| match piece {
            Piece::Lengths(range) => &self.scratch.lengths[range.clone()],
            Piece::Bytes(bytes) => bytes,
        });
        let parts = [&header[..], heads].into_iter().chain(bodies);
        let mut slices: Vec<IoSlice<'_>> = parts.map(IoSlice::new).collect();
        write(&mut slices)
    }
}

impl Open<'_> {
    /// Whether another message of `len` bytes may be in the record. The first one always may.
    fn has_room(&self, sequence: u64, len: usize) -> bool {
        let first = self.stretches.first().map_or(sequence, |stretch| stretch.0);
        self.count == 0
            || (self.count < RECORD_MESSAGES
                && len < LARGE
                && self.bytes + len <= RECORD_BYTES
                && !(self.count == 1 && self.bytes >= LARGE)
                && sequence - first < RECORD_REACH)
    }

    /// Whether a message's share of the bytes, reckoned by number, may be far from its length.
    fn differ(&self) -> bool {
        self.count > 1 && self.longest > 2 * self.shortest
    }

    fn push(&mut self, sequence: u64, meta: u64, len: usize) {
        self.shortest = if self.count == 0 { len } else { self.shortest.min(len) };
        self.longest = self.longest.max(len);
        match self.stretches.last_mut() {
            Some((first, count)) if *first + u64::from(*count) == sequence => *count += 1,
            _ => self.stretches.push((sequence, 1)),
        }
        self.count += 1;
        self.meta = meta;
        self.any |= meta;
    }
}

/// The lengths out of (meta, length) per message. A record of several messages has none that would not fit.
fn sizes(lengths: &[u8]) -> Box<[u16]> {
    let mut input = Input(lengths);
    let sizes = std::iter::from_fn(|| {
        input.varint()?;
        input.varint().map(|len| u16::try_from(len).unwrap_or(u16::MAX))
    });
    sizes.collect()
}
