//! Keys, checksums and chunks: how values lie in sled. Definitions still do; voids, removals and records are format 1.
//!
//! ```text
//! key     kind(1) …                                     kinds sort: what is said of records comes before them
//!   format      0x00
//!   definition  0x01  length(4) key  chunk(4)
//!   void        0x02  queue(8)  from(8)
//!   removals    0x03  queue(8)  first(8)
//!   record      0x04  queue(8)  first(8)  chunk(4)
//!   quarantine  0x7f  key of a damaged entry
//! value   bytes  crc32 of key and bytes(4)
//! ```
//! Numbers are big-endian, so that keys sort as numbers do. Every first chunk begins with the number of chunks.

use std::ops::Range;

use crate::bytes::Input;

/// The version of this layout, stored under [`FORMAT_KEY`] and in the file `FORMAT`.
pub(crate) const FORMAT_VERSION: u32 = 2;

/// The key of the format version.
pub(crate) const FORMAT_KEY: &[u8] = &[0];

const DEFINITION: u8 = 1;
const VOID: u8 = 2;
const REMOVALS: u8 = 3;
const RECORD: u8 = 4;
/// Damaged entries are kept under this prefix, out of the way.
pub(crate) const QUARANTINE: u8 = 0x7f;

/// Bytes a chunk's value holds beside its part of the record: the number of chunks and the checksum.
const CHUNK_OVERHEAD: usize = 8;

/// What a key says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Key<'a> {
    Format,
    Definition { key: &'a [u8], chunk: u32 },
    Void { queue: u64, from: u64 },
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
        Some(VOID) => parse_position(&mut input).map(|(queue, from)| Key::Void { queue, from }),
        Some(REMOVALS) => parse_position(&mut input).map(|(queue, first)| Key::Removals { queue, first }),
        Some(RECORD) => parse_position(&mut input)
            .and_then(|(queue, first)| input.u32().map(|chunk| Key::Record { queue, first, chunk })),
        Some(QUARANTINE) => return Key::Quarantine,
        _ => None,
    };
    parsed.filter(|_| input.0.is_empty() || key.len() == 1).unwrap_or(Key::Unknown)
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

/// Keys of everything that format 1 said of messages.
pub(crate) fn messages() -> Range<[u8; 1]> {
    [VOID]..[RECORD + 1]
}

/// A void is a stretch of records that were given up together: deleted by one small entry, cleared away later.
#[cfg(test)]
pub(crate) fn void_key(queue: u64, from: u64) -> [u8; 17] {
    position_key(VOID, queue, from)
}

pub(crate) fn removals_key(queue: u64, first: u64) -> [u8; 17] {
    position_key(REMOVALS, queue, first)
}

fn position_key(kind: u8, queue: u64, sequence: u64) -> [u8; 17] {
    let mut out = [kind; 17];
    out[1..9].copy_from_slice(&queue.to_be_bytes());
    out[9..].copy_from_slice(&sequence.to_be_bytes());
    out
}

#[cfg(test)]
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
        (!self.damaged && self.seen == self.chunks && self.seen > 0).then_some((self.bytes, self.chunks))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_sort_as_their_numbers_and_say_what_went_in() {
        assert!(record_key(1, 255, 0) < record_key(1, 256, 0));
        assert!(record_key(1, u64::MAX, 9) < record_key(2, 0, 0));
        assert!(void_key(9, 9)[..] < removals_key(0, 0)[..] && removals_key(9, 9)[..] < record_key(0, 0, 0)[..]);
        let key = definition_key(b"name", 3);
        assert_eq!(parse_key(&key), Key::Definition { key: b"name", chunk: 3 });
        assert_eq!(parse_key(&key[..key.len() - 1]), Key::Unknown);
        assert_eq!(parse_key(&[]), Key::Unknown);
    }

    proptest! {
        #[test]
        fn a_value_is_joined_from_its_chunks_and_not_without_one(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 0..5),
            limit in 9usize..80,
            missing: prop::sample::Index,
        ) {
            let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            let mut stored = Vec::new();
            let chunks = put_chunks(&parts, limit, |chunk| record_key(1, 2, chunk), |k, v| stored.push((k, v)));
            prop_assert_eq!(chunks as usize, stored.len());
            prop_assert!(stored.iter().all(|(_, value)| value.len() <= limit));
            let join = |stored: &[([u8; 21], Vec<u8>)]| {
                let mut joiner = Joiner::default();
                for (key, value) in stored {
                    let Key::Record { chunk, .. } = parse_key(key) else { unreachable!("it is a record's key") };
                    joiner.add(key, chunk, value);
                }
                joiner.finish()
            };
            prop_assert_eq!(join(&stored), Some((parts.concat(), chunks)));
            stored.remove(missing.index(stored.len()));
            prop_assert_eq!(join(&stored), None);
        }

        #[test]
        fn garbage_is_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut joiner = Joiner::default();
            joiner.add(&bytes, 0, &bytes);
            prop_assert_eq!(joiner.finish(), None);
            parse_key(&bytes);
        }
    }
}
