//! What the copy consists of.
//!
//! ```text
//! file    magic(8) nonce(8) crc(4)   how far it reaches: sequence(8) crc(4)   frames
//! frame   nonce(8) sequence(8) length(8) crc of the entries(4) crc of the header(4)   kind(1) entries
//! entry   length of the key, key, 0                                             the definition is deleted
//!         length of the key, key, 1 + length of the value, value                it is put
//! ```
//! Numbers are big-endian, lengths within entries LEB128. The nonce before each frame is drawn by lot, so that no value
//! can pass for a frame where the next one is searched for behind damage.

use crate::bytes::{Input, put_varint};

const MAGIC: &[u8; 8] = b"levdefs1";

/// Where it stands how far the file reaches; a word of its own, overwritten with each frame.
pub(crate) const REACHED_AT: u64 = 20;
const REACHED: usize = 12;

/// Bytes before the first frame.
pub(crate) const FILE_HEADER: u64 = REACHED_AT + REACHED as u64;

/// Bytes of a frame before its entries.
pub(crate) const HEADER: usize = 32;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A part of what there was when the file was written anew.
    Portion = 0,
    /// What was committed.
    Commit = 1,
}

/// A key, and its value; `None` deletes.
pub(crate) type Entry<'a> = (&'a [u8], Option<&'a [u8]>);

/// The beginning of a file in which nothing stands yet.
pub(crate) fn header(nonce: u64) -> [u8; FILE_HEADER as usize] {
    let mut out = [0; FILE_HEADER as usize];
    out[..8].copy_from_slice(MAGIC);
    out[8..16].copy_from_slice(&nonce.to_be_bytes());
    let crc = crc32fast::hash(&out[..16]);
    out[16..20].copy_from_slice(&crc.to_be_bytes());
    out[20..].copy_from_slice(&reached(nonce, 0));
    out
}

/// The nonce, and how far the file is said to reach; of the latter nothing if it is damaged.
pub(crate) fn parse_header(bytes: &[u8]) -> Option<(u64, Option<u64>)> {
    let bytes: &[u8; FILE_HEADER as usize] = bytes.first_chunk()?;
    let nonce = Input(&bytes[8..]).u64()?;
    let sequence = Input(&bytes[REACHED_AT as usize..]).u64()?;
    let whole = bytes[..20] == header(nonce)[..20];
    whole.then(|| (nonce, (bytes[20..] == reached(nonce, sequence)).then_some(sequence)))
}

/// That the frame `sequence` is there.
pub(crate) fn reached(nonce: u64, sequence: u64) -> [u8; REACHED] {
    let mut out = [0; REACHED];
    out[..8].copy_from_slice(&sequence.to_be_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&nonce.to_be_bytes());
    crc.update(&out[..8]);
    out[8..].copy_from_slice(&crc.finalize().to_be_bytes());
    out
}

/// What a frame's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub sequence: u64,
    /// Of what follows.
    pub len: u64,
    crc: u32,
}

/// Writes a frame behind what is in `out`.
pub(crate) fn put<'a>(
    out: &mut Vec<u8>,
    nonce: u64,
    sequence: u64,
    kind: Kind,
    entries: impl Iterator<Item = Entry<'a>>,
) {
    let at = out.len();
    out.resize(at + HEADER, 0);
    out.push(kind as u8);
    for (key, value) in entries {
        put_varint(out, key.len() as u64);
        out.extend_from_slice(key);
        match value {
            None => put_varint(out, 0),
            Some(value) => {
                put_varint(out, value.len() as u64 + 1);
                out.extend_from_slice(value);
            }
        }
    }
    let payload = &out[at + HEADER..];
    let (len, crc) = (payload.len() as u64, crc32fast::hash(payload));
    let header = &mut out[at..at + HEADER];
    header[..8].copy_from_slice(&nonce.to_be_bytes());
    header[8..16].copy_from_slice(&sequence.to_be_bytes());
    header[16..24].copy_from_slice(&len.to_be_bytes());
    header[24..28].copy_from_slice(&crc.to_be_bytes());
    let crc = crc32fast::hash(&header[..28]);
    header[28..].copy_from_slice(&crc.to_be_bytes());
}

pub(crate) fn parse_frame_header(bytes: &[u8], nonce: u64) -> Option<Header> {
    let bytes: &[u8; HEADER] = bytes.first_chunk()?;
    let mut input = Input(bytes);
    let (named, sequence, len) = (input.u64()?, input.u64()?, input.u64()?);
    let (crc, own) = (input.u32()?, input.u32()?);
    (named == nonce && crc32fast::hash(&bytes[..28]) == own).then_some(Header { sequence, len, crc })
}

/// What a frame says, if it reads as it was written.
pub(crate) fn parse_entries(header: Header, payload: &[u8]) -> Option<(Kind, Vec<Entry<'_>>)> {
    if crc32fast::hash(payload) != header.crc {
        return None;
    }
    let mut input = Input(payload);
    let kind = match input.u8()? {
        0 => Kind::Portion,
        1 => Kind::Commit,
        _ => return None,
    };
    let mut entries = Vec::new();
    while !input.0.is_empty() {
        let len = usize::try_from(input.varint()?).ok()?;
        let key = input.take(len)?;
        let value = match input.varint()? {
            0 => None,
            more => Some(input.take(usize::try_from(more - 1).ok()?)?),
        };
        entries.push((key, value));
    }
    Some((kind, entries))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_went_in_comes_out_and_a_flipped_bit_is_seen(
            entries in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..20),
                prop::option::of(prop::collection::vec(any::<u8>(), 0..300))), 0..20),
            flip: prop::sample::Index,
        ) {
            let mut bytes = Vec::new();
            let expected: Vec<Entry<'_>> = entries.iter().map(|(k, v)| (&k[..], v.as_deref())).collect();
            put(&mut bytes, 7, 3, Kind::Commit, expected.iter().copied());
            let read = |bytes: &[u8]| {
                let header = parse_frame_header(bytes, 7)?;
                let (kind, entries) = parse_entries(header, bytes.get(HEADER..HEADER + header.len as usize)?)?;
                Some((header.sequence, kind, entries.len(), entries == expected))
            };
            prop_assert_eq!(read(&bytes), Some((3, Kind::Commit, expected.len(), true)));
            let at = flip.index(bytes.len() * 8);
            bytes[at / 8] ^= 1 << (at % 8);
            prop_assert_eq!(read(&bytes), None);
        }

        #[test]
        fn garbage_is_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            prop_assert_eq!(parse_header(&bytes), None);
            prop_assert_eq!(parse_frame_header(&bytes, 1), None);
            let header = Header { sequence: 1, len: bytes.len() as u64, crc: crc32fast::hash(&bytes) };
            parse_entries(header, &bytes);
        }
    }

    #[test]
    fn a_file_says_how_far_it_reaches() {
        let mut bytes = header(9);
        assert_eq!(parse_header(&bytes), Some((9, Some(0))));
        bytes[REACHED_AT as usize..].copy_from_slice(&reached(9, 12));
        assert_eq!(parse_header(&bytes), Some((9, Some(12))));
        bytes[REACHED_AT as usize + 7] ^= 1;
        assert_eq!(parse_header(&bytes), Some((9, None)));
        bytes[3] ^= 1;
        assert_eq!(parse_header(&bytes), None);
    }
}
