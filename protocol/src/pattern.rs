//! A publish like the one before: most publishers change nothing from message to message but the body.

use crate::{
    assembler::Whole,
    frame::{BODY, FRAME_END, OVERHEAD, PREFIX},
    message::ADDRESS_GAP,
};

/// Octets from the end of the address to the body's size: what is left of the method's frame, the next frame's prefix,
/// class and weight.
const BEFORE_SIZE: usize = ADDRESS_GAP + PREFIX + 4;
/// Octets from the beginning of a method's frame to the address: prefix, ids and ticket.
const BEFORE_ADDRESS: usize = PREFIX + 6;
const SIZE: usize = 8;

/// The method and header frames of a publish. Another one that has the same octets, but for its body and how long
/// that is, means the same in everything else.
#[derive(Debug, Default)]
pub struct Pattern {
    frames: Vec<u8>,
    /// Where the body's size stands in them.
    size_at: usize,
}

/// A message that follows the pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alike<'a> {
    /// The message, a slice of the buffer, as [`Whole::message`].
    pub message: &'a [u8],
    /// Octets of its body.
    pub body_size: u64,
    /// How many octets of the buffer it takes, frame envelopes included.
    pub consumed: usize,
}

impl Pattern {
    /// Takes over the frames of a message that `buffer` begins with.
    pub fn set(&mut self, buffer: &[u8], whole: &Whole<'_>) {
        self.clear();
        self.size_at = BEFORE_ADDRESS + whole.publish.address.len() + BEFORE_SIZE;
        // Behind the size: flags, properties, the frame's end.
        let len = self.size_at + SIZE + 2 + whole.header.properties.len() + 1;
        self.frames.extend_from_slice(buffer.get(..len).unwrap_or_default());
    }

    /// Nothing is like it from now on.
    pub fn clear(&mut self) {
        self.frames.clear();
    }

    /// The message that `buffer` begins with, if it follows the pattern, is complete, and has its body in one frame of
    /// at most `frame_max` octets of payload, or none. `None` says nothing more than that it has to be looked at.
    #[inline]
    pub fn find<'a>(&self, buffer: &'a [u8], frame_max: u32) -> Option<Alike<'a>> {
        if self.frames.is_empty() {
            return None;
        }
        let (head, rest) = buffer.split_at_checked(self.frames.len())?;
        let (before, size, after) = around(head, self.size_at)?;
        let (same_before, _, same_after) = around(&self.frames, self.size_at)?;
        if before != same_before || after != same_after {
            return None;
        }
        let body_size = u64::from_be_bytes(*size);
        let body = if body_size == 0 { 0 } else { body_frame(rest, head.get(1..3)?, body_size, frame_max)? };
        let consumed = self.frames.len() + body;
        let message = buffer.get(BEFORE_ADDRESS..consumed)?;
        Some(Alike { message, body_size, consumed })
    }
}

#[inline(always)]
fn around(frames: &[u8], size_at: usize) -> Option<(&[u8], &[u8; SIZE], &[u8])> {
    let (before, rest) = frames.split_at_checked(size_at)?;
    let (size, after) = rest.split_first_chunk()?;
    Some((before, size, after))
}

/// Octets of the frame that `buffer` begins with, if it is a whole body of this size on that channel.
#[inline(always)]
fn body_frame(buffer: &[u8], channel: &[u8], size: u64, frame_max: u32) -> Option<usize> {
    let (&[kind, c0, c1, s0, s1, s2, s3], rest) = buffer.split_first_chunk::<PREFIX>()?;
    let payload = u32::from_be_bytes([s0, s1, s2, s3]);
    let fits = frame_max == 0 || payload <= frame_max;
    let len = payload as usize;
    let is_it = kind == BODY && [c0, c1] == channel && u64::from(payload) == size && fits;
    (is_it && rest.get(len) == Some(&FRAME_END)).then_some(len + OVERHEAD)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::assembler::whole;
    use crate::frame::{self, HEADER, METHOD};

    fn publish(channel: u16, key: &[u8], flags: u16, properties: &[u8], bodies: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        let method = [&[0, 60, 0, 40, 0, 0, 1, b'x', key.len() as u8][..], key, &[0]].concat();
        frame::encode(&mut out, METHOD, channel, &method);
        let size: usize = bodies.iter().map(|body| body.len()).sum();
        let header = [&[0, 60, 0, 0][..], &(size as u64).to_be_bytes(), &flags.to_be_bytes(), properties].concat();
        frame::encode(&mut out, HEADER, channel, &header);
        bodies.iter().for_each(|body| frame::encode(&mut out, BODY, channel, body));
        out
    }

    fn pattern(first: &[u8]) -> Pattern {
        let mut pattern = Pattern::default();
        pattern.set(first, &whole(first, 4096).expect("a whole message"));
        pattern
    }

    #[test]
    fn only_the_body_may_differ() {
        let first = publish(7, b"key", 0x1000, &[2], &[b"a body"]);
        let pattern = pattern(&first);
        for body in [&b"another body"[..], b""] {
            let bodies: &[&[u8]] = if body.is_empty() { &[] } else { &[body] };
            let next = publish(7, b"key", 0x1000, &[2], bodies);
            let found = pattern.find(&next, 4096).expect("it is alike");
            let expected = whole(&next, 4096).expect("a whole message");
            assert_eq!((found.message, found.consumed), (expected.message, expected.consumed));
            assert_eq!(found.body_size, body.len() as u64);
        }
        let others = [
            publish(8, b"key", 0x1000, &[2], &[b"a body"]),
            publish(7, b"kex", 0x1000, &[2], &[b"a body"]),
            publish(7, b"keyy", 0x1000, &[2], &[b"a body"]),
            publish(7, b"key", 0x1000, &[1], &[b"a body"]),
            publish(7, b"key", 0, &[], &[b"a body"]),
            publish(7, b"key", 0x1000, &[2], &[b"a ", b"body"]),
        ];
        assert!(others.iter().all(|other| pattern.find(other, 4096).is_none()));
        assert!(pattern.find(&first, 5).is_none(), "the body's frame is too large");
        assert!(Pattern::default().find(&first, 4096).is_none());
    }

    proptest! {
        #[test]
        fn what_is_found_is_what_the_long_way_finds(
            body in prop::collection::vec(any::<u8>(), 0..40),
            at: prop::sample::Index,
            change: u8,
            cut: prop::sample::Index,
        ) {
            let pattern = pattern(&publish(7, b"key", 0x1000, &[2], &[b"first"]));
            let bodies: &[&[u8]] = if body.is_empty() { &[] } else { &[&body] };
            let mut next = publish(7, b"key", 0x1000, &[2], bodies);
            let at = at.index(next.len());
            next[at] ^= change;
            let next = &next[..cut.index(next.len() + 1)];
            if let Some(found) = pattern.find(next, 4096) {
                let expected = whole(next, 4096).expect("the long way finds it too");
                prop_assert_eq!((found.message, found.consumed), (expected.message, expected.consumed));
                prop_assert_eq!(found.body_size, expected.header.body_size);
                prop_assert_eq!(expected.publish.routing_key, b"key");
                prop_assert_eq!(expected.header.properties, [2]);
            }
        }
    }
}
