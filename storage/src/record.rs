//! Keys and values on disk. docs/storage.md describes them for people; this file is the truth.
//!
//! ```text
//! key     kind(1) …                                     kinds sort: definitions, removals, records
//!   format      0x00
//!   definition  0x01  length(4) key  chunk(4)
//!   removals    0x02  queue(8)  first(8)
//!   record      0x03  queue(8)  first(8)  chunk(4)
//!   quarantine  0x7f  key of a damaged entry
//! value   bytes  crc32 of key and bytes(4)
//! record  chunks joined: messages, stretches, (gap, count)…, (meta, length)…, bodies
//! ```
//! Fixed-width numbers are big-endian, so that keys sort as numbers do; those within a record are LEB128.
//! Every first chunk begins with the number of chunks. All functions here are pure.

use std::sync::Arc;

use crate::block::{Block, Gauge, Run, Span};

/// The version of this layout, stored under [`FORMAT_KEY`] and in the file `FORMAT`.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// The key of the format version.
pub(crate) const FORMAT_KEY: &[u8] = &[0];

const DEFINITION: u8 = 1;
const REMOVALS: u8 = 2;
const RECORD: u8 = 3;
/// Damaged entries are kept under this prefix, out of the way.
pub(crate) const QUARANTINE: u8 = 0x7f;

/// Messages in a record, so that the removals of one (a bit each at worst) stay short.
pub(crate) const RECORD_MESSAGES: u32 = 1024;

/// Bytes a chunk's value holds beside its part of the record: the number of chunks and the checksum.
const CHUNK_OVERHEAD: usize = 8;

/// What a key says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Key<'a> {
    Format,
    Definition { key: &'a [u8], chunk: u32 },
    Removals { queue: u64, first: u64 },
    Record { queue: u64, first: u64, chunk: u32 },
    Quarantine,
    Unknown,
}

pub(crate) fn parse_key(key: &[u8]) -> Key<'_> {
    let mut input = Input(key);
    let parsed = match input.u8() {
        Some(0) if key.len() == 1 => Some(Key::Format),
        Some(DEFINITION) => parse_definition_key(&mut input),
        Some(REMOVALS) => {
            parse_position(&mut input).map(|(queue, first)| Key::Removals { queue, first })
        }
        Some(RECORD) => parse_position(&mut input).and_then(|(queue, first)| {
            input.u32().map(|chunk| Key::Record {
                queue,
                first,
                chunk,
            })
        }),
        Some(QUARANTINE) => return Key::Quarantine,
        _ => None,
    };
    parsed
        .filter(|_| input.0.is_empty() || key.len() == 1)
        .unwrap_or(Key::Unknown)
}

fn parse_definition_key<'a>(input: &mut Input<'a>) -> Option<Key<'a>> {
    let len = input.u32()? as usize;
    let key = input.take(len)?;
    let chunk = input.u32()?;
    Some(Key::Definition { key, chunk })
}

fn parse_position(input: &mut Input<'_>) -> Option<(u64, u64)> {
    Some((input.u64()?, input.u64()?))
}

pub(crate) fn definition_key(key: &[u8], chunk: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(9 + key.len());
    out.push(DEFINITION);
    out.extend_from_slice(&(key.len() as u32).to_be_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(&chunk.to_be_bytes());
    out
}

pub(crate) fn removals_key(queue: u64, first: u64) -> [u8; 17] {
    let mut out = [REMOVALS; 17];
    out[1..9].copy_from_slice(&queue.to_be_bytes());
    out[9..].copy_from_slice(&first.to_be_bytes());
    out
}

pub(crate) fn record_key(queue: u64, first: u64, chunk: u32) -> [u8; 21] {
    let mut out = [RECORD; 21];
    out[1..9].copy_from_slice(&queue.to_be_bytes());
    out[9..17].copy_from_slice(&first.to_be_bytes());
    out[17..].copy_from_slice(&chunk.to_be_bytes());
    out
}

/// Where a damaged entry goes.
pub(crate) fn quarantine_key(key: &[u8]) -> Vec<u8> {
    [&[QUARANTINE], key].concat()
}

/// `bytes` with the checksum that [`unseal`] checks. It covers the key too: an entry in the wrong place is damage.
pub(crate) fn seal(key: &[u8], mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = checksum(key, &bytes);
    bytes.extend_from_slice(&sum.to_be_bytes());
    bytes
}

/// The bytes of a sealed value; `None` if they are not what was sealed under this key.
pub(crate) fn unseal<'a>(key: &[u8], value: &'a [u8]) -> Option<&'a [u8]> {
    let (bytes, sum) = value.split_last_chunk::<4>()?;
    (checksum(key, bytes) == u32::from_be_bytes(*sum)).then_some(bytes)
}

fn checksum(key: &[u8], bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(bytes);
    hasher.finalize()
}

/// Cuts the parts of `value`, joined, into sealed values of at most `limit` bytes and hands each to `put` with its
/// key. Returns how many there are.
pub(crate) fn put_chunks<K: AsRef<[u8]>>(
    value: &[&[u8]],
    limit: usize,
    key: impl Fn(u32) -> K,
    mut put: impl FnMut(K, Vec<u8>),
) -> u32 {
    let room = limit - CHUNK_OVERHEAD;
    let total: usize = value.iter().map(|part| part.len()).sum();
    let chunks = total.div_ceil(room).max(1) as u32;
    let mut parts = value.iter();
    let mut part: &[u8] = &[];
    for chunk in 0..chunks {
        let done = chunk as usize * room;
        let mut left = room.min(total - done);
        let mut bytes = Vec::with_capacity(left + CHUNK_OVERHEAD);
        if chunk == 0 {
            bytes.extend_from_slice(&chunks.to_be_bytes());
        }
        while left > 0 {
            if part.is_empty() {
                part = parts.next().copied().unwrap_or_default();
                continue;
            }
            let (now, later) = part.split_at(left.min(part.len()));
            bytes.extend_from_slice(now);
            (part, left) = (later, left - now.len());
        }
        let key = key(chunk);
        let value = seal(key.as_ref(), bytes);
        put(key, value);
    }
    chunks
}

/// Puts the chunks of one value together as they are read in order of their keys.
#[derive(Debug, Default)]
pub(crate) struct Joiner {
    pub bytes: Vec<u8>,
    chunks: u32,
    seen: u32,
    damaged: bool,
}

impl Joiner {
    /// Adds the sealed value found at `key`, whose chunk number is `chunk`.
    pub fn add(&mut self, key: &[u8], chunk: u32, value: &[u8]) {
        let Some(mut bytes) = unseal(key, value).filter(|_| chunk == self.seen) else {
            self.damaged = true;
            return;
        };
        if chunk == 0 {
            let Some((chunks, rest)) = bytes.split_first_chunk::<4>() else {
                self.damaged = true;
                return;
            };
            self.chunks = u32::from_be_bytes(*chunks);
            bytes = rest;
        }
        self.seen += 1;
        self.bytes.extend_from_slice(bytes);
    }

    /// The joined value and how many chunks it had; `None` if any is damaged or missing.
    pub fn finish(self) -> Option<(Vec<u8>, u32)> {
        (!self.damaged && self.seen == self.chunks && self.seen > 0)
            .then_some((self.bytes, self.chunks))
    }
}

/// Gathers messages of one queue for one record.
#[derive(Debug, Default)]
pub(crate) struct RecordBuilder {
    /// (first sequence number, count), ascending and apart.
    stretches: Vec<(u64, u32)>,
    count: u32,
    lengths: Vec<u8>,
    bodies: Vec<u8>,
}

impl RecordBuilder {
    /// Whether another message of `len` bytes fits within `limit`. The first one always does.
    pub fn has_room(&self, len: usize, limit: usize) -> bool {
        self.count == 0
            || (self.count < RECORD_MESSAGES
                && self.bodies.len() + self.lengths.len() + len + 32 <= limit)
    }

    /// Adds the message `sequence`, which must be greater than the one before.
    pub fn push(&mut self, sequence: u64, meta: u64, body: &[u8]) {
        match self.stretches.last_mut() {
            Some((first, count)) if *first + u64::from(*count) == sequence => *count += 1,
            _ => self.stretches.push((sequence, 1)),
        }
        self.count += 1;
        put_varint(&mut self.lengths, meta);
        put_varint(&mut self.lengths, body.len() as u64);
        self.bodies.extend_from_slice(body);
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Its sequence numbers, and the parts of its value.
    pub fn finish(self) -> (Sequences, Vec<u8>, Vec<u8>) {
        let mut head = Vec::with_capacity(self.lengths.len() + 16);
        put_varint(&mut head, u64::from(self.count));
        put_varint(&mut head, self.stretches.len() as u64);
        let mut end = self.stretches.first().map_or(0, |s| s.0);
        for &(first, count) in &self.stretches {
            put_varint(&mut head, first - end);
            put_varint(&mut head, u64::from(count));
            end = first + u64::from(count);
        }
        head.extend_from_slice(&self.lengths);
        (Sequences::new(self.stretches), head, self.bodies)
    }
}

/// The sequence numbers of a record's messages, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sequences {
    /// All in a row, as nearly always.
    Row { first: u64, count: u32 },
    /// (first, count), ascending and apart.
    Stretches(Box<[(u64, u32)]>),
}

impl Sequences {
    fn new(stretches: Vec<(u64, u32)>) -> Sequences {
        match stretches[..] {
            [(first, count)] => Sequences::Row { first, count },
            _ => Sequences::Stretches(stretches.into()),
        }
    }

    /// The first one, which names the record.
    pub fn first(&self) -> u64 {
        match self {
            Sequences::Row { first, .. } => *first,
            Sequences::Stretches(s) => s.first().map_or(0, |s| s.0),
        }
    }

    /// The last one.
    pub fn last(&self) -> u64 {
        match self {
            Sequences::Row { first, count } => first + u64::from(*count) - 1,
            Sequences::Stretches(s) => s.last().map_or(0, |s| s.0 + u64::from(s.1) - 1),
        }
    }

    /// How many.
    pub fn count(&self) -> u32 {
        match self {
            Sequences::Row { count, .. } => *count,
            Sequences::Stretches(s) => s.iter().map(|s| s.1).sum(),
        }
    }

    /// The number of messages before sequence number `from`: its index, if it is one of them.
    pub fn index_of(&self, from: u64) -> u32 {
        let before =
            |&(first, count): &(u64, u32)| from.saturating_sub(first).min(u64::from(count)) as u32;
        match self {
            Sequences::Row { first, count } => before(&(*first, *count)),
            Sequences::Stretches(s) => s.iter().map(before).sum(),
        }
    }

    /// Each in order.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        let (row, stretches) = match self {
            Sequences::Row { first, count } => (Some((*first, *count)), &[][..]),
            Sequences::Stretches(s) => (None, &s[..]),
        };
        row.into_iter()
            .chain(stretches.iter().copied())
            .flat_map(|(first, count)| first..first + u64::from(count))
    }
}

/// A record as it was read.
#[derive(Debug)]
pub(crate) struct Record {
    pub sequences: Sequences,
    /// Offset and length refer to `bytes`.
    spans: Vec<Span>,
    bytes: Vec<u8>,
}

impl Record {
    /// Reads a joined value; `None` if it makes no sense.
    pub fn parse(first: u64, bytes: Vec<u8>) -> Option<Record> {
        let mut input = Input(&bytes);
        let count = u32::try_from(input.varint()?)
            .ok()
            .filter(|&n| n > 0 && n <= RECORD_MESSAGES)?;
        let stretches = parse_stretches(&mut input, first, count)?;
        let mut spans = Vec::with_capacity(count as usize);
        let mut start = 0u32;
        for _ in 0..count {
            let (meta, len) = (input.varint()?, u32::try_from(input.varint()?).ok()?);
            spans.push(Span { start, len, meta });
            start = start.checked_add(len)?;
        }
        if input.0.len() != start as usize {
            return None;
        }
        let base = u32::try_from(bytes.len()).ok()? - start;
        spans.iter_mut().for_each(|span| span.start += base);
        Some(Record {
            sequences: Sequences::new(stretches),
            spans,
            bytes,
        })
    }

    /// The messages that are not `removed`, in a block of their own, as runs without gaps.
    pub fn into_runs(self, removed: &Removed, gauge: &Arc<Gauge>) -> Vec<(u64, Run)> {
        let mut stretches: Vec<(u64, u32)> = Vec::new();
        let mut spans = Vec::with_capacity(self.spans.len());
        for (index, (sequence, span)) in self.sequences.iter().zip(&self.spans).enumerate() {
            if removed.contains(index as u32) {
                continue;
            }
            match stretches.last_mut() {
                Some((first, count)) if *first + u64::from(*count) == sequence => *count += 1,
                _ => stretches.push((sequence, 1)),
            }
            spans.push(*span);
        }
        let block = Block::new(pack(self.bytes, &mut spans), spans, gauge);
        let mut from = 0;
        let runs = stretches.into_iter().map(|(first, count)| {
            let run = Run {
                block: block.clone(),
                from,
                to: from + count,
            };
            from += count;
            (first, run)
        });
        runs.collect()
    }
}

/// Moves the bytes of `spans` to the front and lets the rest go: a block should hold no more than its messages.
fn pack(mut bytes: Vec<u8>, spans: &mut [Span]) -> Vec<u8> {
    let mut end = 0;
    for span in spans {
        let start = span.start as usize;
        bytes.copy_within(start..start + span.len as usize, end);
        span.start = end as u32;
        end += span.len as usize;
    }
    bytes.truncate(end);
    bytes
}

fn parse_stretches(input: &mut Input<'_>, first: u64, count: u32) -> Option<Vec<(u64, u32)>> {
    let stretches = input.varint()?;
    if stretches == 0 || stretches > u64::from(count) {
        return None;
    }
    let (mut end, mut left) = (first, count);
    let mut out = Vec::with_capacity(stretches as usize);
    for _ in 0..stretches {
        let start = end.checked_add(input.varint()?)?;
        let n = u32::try_from(input.varint()?).ok().filter(|&n| n > 0)?;
        left = left.checked_sub(n)?;
        end = start.checked_add(u64::from(n))?;
        out.push((start, n));
    }
    (left == 0 && out[0].0 == first).then_some(out)
}

/// Which messages of a record are removed: one bit each, by index. Empty until the first one is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Removed {
    bits: Box<[u64]>,
    count: u32,
}

impl Removed {
    pub fn contains(&self, index: u32) -> bool {
        self.bits
            .get(index as usize / 64)
            .is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    /// How many are removed.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Adds `from..to` of a record of `of` messages. True if that changed anything.
    pub fn add(&mut self, from: u32, to: u32, of: u32) -> bool {
        if self.bits.is_empty() {
            self.bits = vec![0; of.div_ceil(64) as usize].into();
        }
        let before = self.count;
        for index in from..to.min(of) {
            let word = &mut self.bits[index as usize / 64];
            self.count += u32::from(*word >> (index % 64) & 1 == 0);
            *word |= 1 << (index % 64);
        }
        self.count != before
    }

    /// As (gap, length) of what is removed, or as bits, whichever is shorter. A queue worked off in order costs
    /// four bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut ranges = vec![0];
        let (mut at, mut end) = (0, 0);
        let of = self.bits.len() as u32 * 64;
        while at < of {
            let from = at;
            while at < of && self.contains(at) {
                at += 1;
            }
            if at > from {
                put_varint(&mut ranges, u64::from(from - end));
                put_varint(&mut ranges, u64::from(at - from));
                end = at;
            }
            at += 1;
        }
        if ranges.len() <= 1 + self.bits.len() * 8 {
            return ranges;
        }
        let mut bits = vec![1];
        self.bits
            .iter()
            .for_each(|word| bits.extend_from_slice(&word.to_le_bytes()));
        bits
    }

    /// Reads what [`encode`](Self::encode) wrote about a record of `of` messages.
    pub fn decode(bytes: &[u8], of: u32) -> Option<Removed> {
        let mut removed = Removed::default();
        match bytes.split_first()? {
            (0, ranges) => {
                let mut input = Input(ranges);
                let mut end = 0u64;
                while !input.0.is_empty() {
                    let from = end.checked_add(input.varint()?)?;
                    end = from.checked_add(input.varint()?)?;
                    if end > u64::from(of) {
                        return None;
                    }
                    removed.add(from as u32, end as u32, of);
                }
            }
            (1, bits) if bits.len() == of.div_ceil(64) as usize * 8 => {
                let words = bits
                    .chunks_exact(8)
                    .map(|w| w.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b)));
                removed.bits = words.collect();
                removed.count = removed.bits.iter().map(|word| word.count_ones()).sum();
                if removed.count > of {
                    return None;
                }
            }
            _ => return None,
        }
        Some(removed)
    }
}

/// Writes `n` seven bits at a time, low ones first.
fn put_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Reads from the front of a slice; `None` where it ends too early.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }

    fn u32(&mut self) -> Option<u32> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*bytes))
    }

    fn u64(&mut self) -> Option<u64> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_be_bytes(*bytes))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut n = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            n |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(n);
            }
        }
        None
    }
}
