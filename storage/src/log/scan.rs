//! Reading a segment from its beginning: what is whole, what is damaged, and where it ends.

use std::fs::File;
use std::io;

use super::frame::{self, HEADER, Head, Header};
use super::segment::{self, SEGMENT_HEADER};
use crate::window::{AHEAD, Window};

/// A frame that is whole but for some bodies.
#[derive(Debug)]
pub(crate) struct Found {
    /// Where it begins.
    pub offset: u64,
    pub header: Header,
    pub raw_heads: Vec<u8>,
    pub heads: Vec<Head>,
    /// Which of its heads, by index, have a damaged body; empty where bodies were not looked at.
    pub bad: Vec<usize>,
}

impl Found {
    pub fn bodies(&self) -> u64 {
        self.offset + (HEADER + self.raw_heads.len()) as u64
    }

    /// Where each inserting head's body lies: (index of the head, offset).
    pub fn body_offsets(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        let mut at = self.bodies();
        self.heads.iter().enumerate().filter_map(move |(index, head)| match head {
            Head::Insert { record, .. } => {
                let offset = at;
                at += record.body();
                Some((index, offset))
            }
            _ => None,
        })
    }
}

/// A stretch between frames that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hole {
    pub from: u64,
    pub to: u64,
    /// What may have stood there had at least this sequence.
    pub sequence: u64,
}

/// What a segment is found to be.
#[derive(Debug, Default)]
pub(crate) struct Scanned {
    /// 0: neither the segment's header nor any frame can be read.
    pub nonce: u64,
    pub frames: Vec<Found>,
    pub holes: Vec<Hole>,
    /// Behind the last frame.
    pub end: u64,
    /// The bytes behind `end` are the beginning of a frame whose rest was never written.
    pub cut_short: bool,
    /// The file ends in zeros: room for frames to come.
    pub padded: bool,
    /// Nothing but zeros stands behind `end`.
    pub room: bool,
}

/// Reads a file of `len` bytes; with the bodies, if `verify`.
pub(crate) fn scan(file: &File, len: u64, verify: bool) -> io::Result<Scanned> {
    let mut input = Window::new(file, len);
    let mut out = Scanned { end: SEGMENT_HEADER.min(len), ..Scanned::default() };
    let Some(nonce) = find_nonce(&mut input)? else {
        return Ok(out);
    };
    out.nonce = nonce;
    let (mut at, mut sequence) = (SEGMENT_HEADER, 0);
    while at < len {
        let (header, next) = match read_header(&mut input, at, nonce)? {
            Some(header) => match header.frame_len().and_then(|frame| at.checked_add(frame)) {
                Some(end) if end <= len => (Some(header), end),
                _ => (None, find_frame(&mut input, at + 1, nonce, sequence)?),
            },
            None => (None, find_frame(&mut input, at + 1, nonce, sequence)?),
        };
        let found = match header {
            Some(header) => read_frame(&mut input, at, header, verify)?,
            None => None,
        };
        match found {
            Some(found) => {
                sequence = found.header.sequence;
                out.frames.push(found);
                out.end = next;
            }
            None if next < len || header.is_some() => {
                out.holes.push(Hole { from: at, to: next, sequence: sequence + 1 });
                out.end = next;
            }
            None => {
                // Of a frame that a kill has cut short, the header is good or is not all there.
                let cut = len - at < HEADER as u64 || read_header(&mut input, at, nonce)?.is_some();
                out.cut_short = cut;
                (out.padded, out.room) = zeros(&mut input, at)?;
            }
        }
        at = next;
    }
    Ok(out)
}

/// Whether the file ends in zeros, from `at` on at the latest, and whether they are all that follows `at`.
fn zeros(input: &mut Window<'_>, mut at: u64) -> io::Result<(bool, bool)> {
    let (mut all, mut last) = (true, false);
    while at < input.len {
        let part = (input.len - at).min(AHEAD as u64);
        let bytes = input.get(at, part as usize)?;
        all &= bytes.iter().all(|byte| *byte == 0);
        last = bytes.iter().rev().take(16).all(|byte| *byte == 0);
        at += part;
    }
    Ok((last, all))
}

/// The segment's nonce: from its header, or from the first frame if that is damaged.
fn find_nonce(input: &mut Window<'_>) -> io::Result<Option<u64>> {
    if input.len >= SEGMENT_HEADER
        && let Some(nonce) = segment::parse_header(input.get(0, SEGMENT_HEADER as usize)?)
    {
        return Ok(Some(nonce));
    }
    if input.len < SEGMENT_HEADER + HEADER as u64 {
        return Ok(None);
    }
    Ok(Header::decode(input.get(SEGMENT_HEADER, HEADER)?).map(|header| header.nonce))
}

fn read_header(input: &mut Window<'_>, at: u64, nonce: u64) -> io::Result<Option<Header>> {
    if input.len - at < HEADER as u64 {
        return Ok(None);
    }
    Ok(Header::decode(input.get(at, HEADER)?).filter(|header| header.nonce == nonce))
}

fn read_frame(input: &mut Window<'_>, offset: u64, header: Header, verify: bool) -> io::Result<Option<Found>> {
    let raw_heads = input.get(offset + HEADER as u64, header.heads as usize)?.to_vec();
    if crc32fast::hash(&raw_heads) != header.heads_crc {
        return Ok(None);
    }
    let Some(heads) = frame::parse_heads(&raw_heads) else {
        return Ok(None);
    };
    let mut found = Found { offset, header, raw_heads, heads, bad: Vec::new() };
    let bodies = found.heads.iter().map(|head| match head {
        Head::Insert { record, .. } => record.body(),
        _ => 0,
    });
    if bodies.sum::<u64>() != header.bodies {
        return Ok(None);
    }
    if verify {
        let mut bad = Vec::new();
        for (index, offset) in found.body_offsets() {
            if let Head::Insert { record, .. } = &found.heads[index]
                && crc_of(input, offset, record.body())? != Some(record.crc)
            {
                bad.push(index);
            }
        }
        found.bad = bad;
    }
    Ok(Some(found))
}

/// `None`: the device cannot read it.
fn crc_of(input: &mut Window<'_>, mut at: u64, mut len: u64) -> io::Result<Option<u32>> {
    let mut crc = crc32fast::Hasher::new();
    while len > 0 {
        let part = len.min(AHEAD as u64);
        match input.get(at, part as usize) {
            Ok(bytes) => crc.update(bytes),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(error),
            Err(_) => return Ok(None),
        }
        (at, len) = (at + part, len - part);
    }
    Ok(Some(crc.finalize()))
}

/// Where the next frame begins that comes after `sequence`, or the end.
fn find_frame(input: &mut Window<'_>, mut at: u64, nonce: u64, sequence: u64) -> io::Result<u64> {
    loop {
        at = input.find(at, nonce.to_be_bytes())?;
        let header = read_header(input, at, nonce)?;
        if at == input.len || header.is_some_and(|header| header.sequence > sequence) {
            return Ok(at);
        }
        at += 1;
    }
}
