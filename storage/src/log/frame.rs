//! Frames: one commit each, written and found as a whole. docs/storage.md describes them for people.
//!
//! ```text
//! frame   header, heads of the records, bodies of the records
//! header  nonce(8) sequence(8) synced(8) heads(4) bodies(8) crc of the heads(4) crc of the header(4)
//! head    01 queue messages stretches (gap, count)… lengths bytes any crc(4)    messages that are stored
//!         02 queue ranges (first, count)…                                      messages that are removed
//!         03 queue                                                             all messages of a queue are removed
//! body    (meta, length) per message, then their bytes; its crc is in the head
//! ```
//! Numbers in the header are big-endian, those in heads and bodies LEB128. A meta is written as what differs from the
//! one before it, for most of its bits are the same.

use std::ops::Range;

use super::pack::Packed;
use crate::block::Span;
use crate::bytes::{Input, put_varint};
use crate::sequences::{Sequences, parse_stretches};

/// Bytes of a frame's header.
pub(crate) const HEADER: usize = 44;

const INSERT: u8 = 1;
const REMOVED: u8 = 2;
const DROPPED: u8 = 3;

/// What stands before a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// The segment's own number, drawn by lot: nothing that a publisher sends can look like a frame.
    pub nonce: u64,
    /// Rises from frame to frame of a segment.
    pub sequence: u64,
    /// The last frame that was on the device when this one was written.
    pub synced: u64,
    /// Bytes of the heads.
    pub heads: u32,
    /// Bytes of the bodies.
    pub bodies: u64,
    pub heads_crc: u32,
}

impl Header {
    pub fn encode(&self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[..8].copy_from_slice(&self.nonce.to_be_bytes());
        out[8..16].copy_from_slice(&self.sequence.to_be_bytes());
        out[16..24].copy_from_slice(&self.synced.to_be_bytes());
        out[24..28].copy_from_slice(&self.heads.to_be_bytes());
        out[28..36].copy_from_slice(&self.bodies.to_be_bytes());
        out[36..40].copy_from_slice(&self.heads_crc.to_be_bytes());
        let crc = crc32fast::hash(&out[..40]);
        out[40..].copy_from_slice(&crc.to_be_bytes());
        out
    }

    /// `None` if this is no header.
    pub fn decode(bytes: &[u8]) -> Option<Header> {
        let bytes: &[u8; HEADER] = bytes.first_chunk()?;
        let mut input = Input(bytes);
        let header = Header {
            nonce: input.u64()?,
            sequence: input.u64()?,
            synced: input.u64()?,
            heads: input.u32()?,
            bodies: input.u64()?,
            heads_crc: input.u32()?,
        };
        (input.u32()? == crc32fast::hash(&bytes[..40])).then_some(header)
    }

    /// Bytes of the whole frame; `None`: more than there can be.
    pub fn frame_len(&self) -> Option<u64> {
        self.bodies.checked_add(HEADER as u64 + u64::from(self.heads))
    }
}

/// What a head says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Head {
    Insert { queue: u64, record: Packed },
    Removed { queue: u64, ranges: Vec<(u64, u64)> },
    Dropped { queue: u64 },
}

pub(crate) fn put_insert(out: &mut Vec<u8>, queue: u64, record: &Packed) {
    out.push(INSERT);
    put_varint(out, queue);
    record.sequences.encode(out);
    put_varint(out, u64::from(record.lengths));
    put_varint(out, u64::from(record.bytes));
    put_varint(out, record.any);
    out.extend_from_slice(&record.crc.to_be_bytes());
}

pub(crate) fn put_removed(out: &mut Vec<u8>, queue: u64, ranges: &[(u64, u64)]) {
    out.push(REMOVED);
    put_varint(out, queue);
    put_varint(out, ranges.len() as u64);
    for &(first, count) in ranges {
        put_varint(out, first);
        put_varint(out, count);
    }
}

pub(crate) fn put_dropped(out: &mut Vec<u8>, queue: u64) {
    out.push(DROPPED);
    put_varint(out, queue);
}

/// Reads the heads of a frame in order; `None` if they make no sense.
pub(crate) fn parse_heads(bytes: &[u8]) -> Option<Vec<Head>> {
    let mut input = Input(bytes);
    let mut heads = Vec::new();
    while let Some(kind) = input.u8() {
        let queue = input.varint()?;
        heads.push(match kind {
            INSERT => Head::Insert { queue, record: parse_insert(&mut input)? },
            REMOVED => {
                let count = input.varint()?;
                let ranges = (0..count).map(|_| Some((input.varint()?, input.varint()?)));
                Head::Removed { queue, ranges: ranges.collect::<Option<_>>()? }
            }
            DROPPED => Head::Dropped { queue },
            _ => return None,
        });
    }
    Some(heads)
}

fn parse_insert(input: &mut Input<'_>) -> Option<Packed> {
    let count = u32::try_from(input.varint()?).ok()?;
    let record = Packed {
        sequences: Sequences::new(parse_stretches(input, 0, count)?),
        lengths: u32::try_from(input.varint()?).ok()?,
        bytes: u32::try_from(input.varint()?).ok()?,
        any: input.varint()?,
        crc: input.u32()?,
        sizes: None,
    };
    Some(record)
}

/// Where the messages of a record lie in its body, whose first `lengths` bytes say so; `None` if they make no sense.
pub(crate) fn parse_body(body: &[u8], lengths: u32, count: u32) -> Option<Vec<Span>> {
    parse_lengths(body.get(..lengths as usize)?, body.len(), count)
}

/// The same, of the first part of a body of `all` bytes.
pub(crate) fn parse_lengths(lengths: &[u8], all: usize, count: u32) -> Option<Vec<Span>> {
    let mut input = Input(lengths);
    let mut spans = Vec::with_capacity((count as usize).min(lengths.len()));
    let (mut start, mut meta) = (u32::try_from(lengths.len()).ok()?, 0);
    for _ in 0..count {
        meta ^= input.varint()?;
        let len = u32::try_from(input.varint()?).ok()?;
        spans.push(Span { start, len, meta });
        start = start.checked_add(len)?;
    }
    (input.0.is_empty() && start as usize == all).then_some(spans)
}

/// Bytes of a frame, in order: what was made for it, and what lies in the blocks of messages.
#[derive(Debug)]
pub(crate) enum Piece<'a> {
    Lengths(Range<usize>),
    Bytes(&'a [u8]),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(stretches: Vec<(u64, u32)>) -> Packed {
        let sequences = Sequences::new(stretches);
        Packed { sequences, lengths: 7, bytes: 300, any: 1 << 60 | 5, crc: 0xdead_beef, sizes: None }
    }

    #[test]
    fn heads_are_read_as_they_were_written() {
        let mut bytes = Vec::new();
        let (row, gaps) = (record(vec![(5, 1000)]), record(vec![(1, 2), (9, 1), (u64::MAX - 9, 3)]));
        put_dropped(&mut bytes, 3);
        put_insert(&mut bytes, u64::MAX, &row);
        put_removed(&mut bytes, 1, &[(7, 1), (1, u64::MAX)]);
        put_insert(&mut bytes, 1, &gaps);
        let heads = [
            Head::Dropped { queue: 3 },
            Head::Insert { queue: u64::MAX, record: row },
            Head::Removed { queue: 1, ranges: vec![(7, 1), (1, u64::MAX)] },
            Head::Insert { queue: 1, record: gaps },
        ];
        assert_eq!(parse_heads(&bytes).unwrap(), heads);
        assert_eq!(parse_heads(&bytes[..bytes.len() - 1]), None);
    }

    #[test]
    fn a_header_with_a_flipped_bit_is_none() {
        let header = Header { nonce: 1, sequence: 2, synced: 1, heads: 4, bodies: 5, heads_crc: 6 };
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes), Some(header));
        for bit in 0..HEADER * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&flipped), None, "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn garbage_is_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), lengths: u32, count: u32) {
            if let Some(heads) = parse_heads(&bytes) {
                // Whatever was accepted can be used.
                for head in heads {
                    if let Head::Insert { record, .. } = head {
                        prop_assert!(record.sequences.first() <= record.sequences.last());
                    }
                }
            }
            Header::decode(&bytes);
            if let Some(spans) = parse_body(&bytes, lengths % 90, count % 90) {
                prop_assert!(spans.iter().all(|span| (span.start + span.len) as usize <= bytes.len()));
            }
        }
    }
}
