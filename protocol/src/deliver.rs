//! Writing content: `basic.deliver`, `basic.get-ok` and `basic.return` with the header and body frames a
//! publisher sent.
//!
//! *Content* is a content header frame followed by its body frames, whole frames back to back. They are copied
//! as they are and only their channel numbers changed; the body is cut anew where the receiver's frames must be
//! smaller than the publisher's. Content comes from [`crate::assembler`]; octets that are not whole frames are
//! copied as they are.

use std::ops::Range;

use crate::frame::{BODY, FRAME_END, METHOD, OVERHEAD, PREFIX, max_payload, prefix, size_of};

/// Appends content for `channel`, in body frames of at most `frame_max` octets. A header frame is never cut: it
/// goes out whole even when it is larger, as RabbitMQ does it.
#[inline]
pub fn content(out: &mut Vec<u8>, channel: u16, content: &[u8], frame_max: u32) {
    let start = out.len();
    out.extend_from_slice(content);
    let max = max_payload(frame_max);
    if !out.get_mut(start..).is_some_and(|frames| patch(frames, channel, max)) {
        out.truncate(start);
        cut_anew(out, channel, content, max);
    }
}

/// As [`content`], but for body frames whose payload has at least `least` octets: of those only the prefix is appended, and
/// `lend` is told where in `out` the rest belongs, and where in `content` it lies, end octet included. None is lent where
/// the body is cut anew.
pub fn content_but(
    out: &mut Vec<u8>,
    channel: u16,
    content: &[u8],
    frame_max: u32,
    least: usize,
    mut lend: impl FnMut(usize, Range<usize>),
) {
    let max = max_payload(frame_max);
    if bodies(content).any(|body| body.len() > max) {
        return cut_anew(out, channel, content, max);
    }
    let mut copied = 0;
    let mut at = 0;
    while let Some(&[kind, _, _, s0, s1, s2, s3]) = content.get(at..).and_then(<[u8]>::first_chunk::<PREFIX>) {
        let size = u32::from_be_bytes([s0, s1, s2, s3]) as usize;
        let begin = at + PREFIX;
        let Some(end) = begin.checked_add(size + 1).filter(|end| *end <= content.len()) else { break };
        if kind == BODY && size >= least {
            append_patched(out, &content[copied..begin], channel, max);
            lend(out.len(), begin..end);
            copied = end;
        }
        at = end;
    }
    append_patched(out, &content[copied..], channel, max);
}

fn append_patched(out: &mut Vec<u8>, frames: &[u8], channel: u16, max: usize) {
    let start = out.len();
    out.extend_from_slice(frames);
    patch(&mut out[start..], channel, max);
}

/// Appends a `basic.deliver` with its content. `consumer_tag` goes without its length octet and has at most 255
/// octets; `address` is exchange and routing key as short strings.
#[inline]
#[allow(clippy::too_many_arguments, reason = "the arguments of the method, no more")]
pub fn deliver(
    out: &mut Vec<u8>,
    channel: u16,
    consumer_tag: &[u8],
    delivery_tag: u64,
    redelivered: bool,
    address: &[u8],
    content: &[u8],
    frame_max: u32,
) {
    Deliver::new(channel, consumer_tag, redelivered, frame_max).append(out, delivery_tag, address, content);
}

/// What a `basic.deliver` begins with: prefix, ids and the length of the consumer tag.
const DELIVER: usize = PREFIX + 5;

/// What deliveries to one consumer have in common.
#[derive(Debug)]
pub struct Deliver {
    head: [u8; DELIVER + 255],
    len: usize,
    redelivered: bool,
    /// The channel that the consumer is on.
    pub channel: u16,
    /// Octets of a frame at most.
    pub frame_max: u32,
}

impl Deliver {
    /// `consumer_tag` goes without its length octet and has at most 255 octets.
    #[inline]
    pub fn new(channel: u16, consumer_tag: &[u8], redelivered: bool, frame_max: u32) -> Deliver {
        let consumer_tag = consumer_tag.get(..255).unwrap_or(consumer_tag);
        let len = DELIVER + consumer_tag.len();
        let mut head = [0; DELIVER + 255];
        head[..PREFIX].copy_from_slice(&prefix(METHOD, channel, 0));
        head[PREFIX..DELIVER].copy_from_slice(&[0, 60, 0, 60, consumer_tag.len() as u8]);
        head[DELIVER..len].copy_from_slice(consumer_tag);
        Deliver { head, len, redelivered, channel, frame_max }
    }

    /// How many octets a delivery takes beside its address and its content.
    pub fn octets(&self) -> usize {
        self.len + 9 + 1
    }

    /// Appends a `basic.deliver` with its content; `address` is exchange and routing key as short strings.
    #[inline]
    pub fn append(&mut self, out: &mut Vec<u8>, delivery_tag: u64, address: &[u8], content: &[u8]) {
        out.reserve(self.octets() + address.len() + content.len());
        self.method(out, delivery_tag, address);
        self::content(out, self.channel, content, self.frame_max);
    }

    /// Appends the method alone: the content is to follow.
    #[inline(always)]
    pub fn method(&mut self, out: &mut Vec<u8>, delivery_tag: u64, address: &[u8]) {
        let payload = self.len - PREFIX + 9 + address.len();
        self.head[3..PREFIX].copy_from_slice(&size_of(payload).to_be_bytes());
        out.extend_from_slice(&self.head[..self.len]);
        let mut tag = [0; 9];
        tag[..8].copy_from_slice(&delivery_tag.to_be_bytes());
        tag[8] = u8::from(self.redelivered);
        out.extend_from_slice(&tag);
        out.extend_from_slice(address);
        out.push(FRAME_END);
    }
}

/// Appends a `basic.get-ok`, which its content is to follow; `message_count` is what is still ready in the queue.
pub fn get_ok(
    out: &mut Vec<u8>,
    channel: u16,
    delivery_tag: u64,
    redelivered: bool,
    address: &[u8],
    message_count: u32,
) {
    let payload = 4 + 9 + address.len() + 4;
    out.reserve(payload + OVERHEAD);
    out.extend_from_slice(&prefix(METHOD, channel, size_of(payload)));
    out.extend_from_slice(&[0, 60, 0, 71]);
    out.extend_from_slice(&delivery_tag.to_be_bytes());
    out.push(u8::from(redelivered));
    out.extend_from_slice(address);
    out.extend_from_slice(&message_count.to_be_bytes());
    out.push(FRAME_END);
}

/// Appends a `basic.return` with its content; `text` is the bare condition name, as `NO_ROUTE` with code 312.
pub fn returned(
    out: &mut Vec<u8>,
    channel: u16,
    code: u16,
    text: &str,
    address: &[u8],
    content: &[u8],
    frame_max: u32,
) {
    let text = &text[..text.floor_char_boundary(255)];
    let payload = 4 + 2 + 1 + text.len() + address.len();
    out.reserve(payload + OVERHEAD + content.len());
    out.extend_from_slice(&prefix(METHOD, channel, size_of(payload)));
    out.extend_from_slice(&[0, 60, 0, 50]);
    out.extend_from_slice(&code.to_be_bytes());
    out.push(text.len() as u8);
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(address);
    out.push(FRAME_END);
    self::content(out, channel, content, frame_max);
}

/// Writes the channel into every frame; false when a body frame is too large and the body must be cut anew.
#[inline(always)]
fn patch(mut frames: &mut [u8], channel: u16, max: usize) -> bool {
    while let Some((head, rest)) = frames.split_first_chunk_mut::<PREFIX>() {
        let [kind, c0, c1, s0, s1, s2, s3] = head;
        [*c0, *c1] = channel.to_be_bytes();
        let size = u32::from_be_bytes([*s0, *s1, *s2, *s3]) as usize;
        if size > max && *kind == BODY {
            return false;
        }
        match rest.get_mut(size.saturating_add(1)..) {
            Some(rest) => frames = rest,
            None => return true,
        }
    }
    true
}

#[cold]
fn cut_anew(out: &mut Vec<u8>, channel: u16, content: &[u8], max: usize) {
    let total = bodies(content).map(<[u8]>::len).sum();
    let mut cut = Cut::new(total, channel, max);
    if let Some((header, _)) = first(content) {
        crate::frame::encode(out, crate::frame::HEADER, channel, header);
    }
    bodies(content).for_each(|body| cut.push(out, body));
}

/// The payload of the first frame, and what follows that frame.
fn first(frames: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&[_, _, _, s0, s1, s2, s3], rest) = frames.split_first_chunk::<PREFIX>()?;
    let size = usize::try_from(u32::from_be_bytes([s0, s1, s2, s3])).ok()?;
    let (payload, rest) = rest.split_at_checked(size)?;
    Some((payload, rest.get(1..)?))
}

/// The header frame's payload of some content; empty for what is not content.
pub fn header_of(content: &[u8]) -> &[u8] {
    first(content).map_or(&[], |(payload, _)| payload)
}

/// The pieces of a content's body, frame by frame.
pub fn bodies(content: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = first(content).map_or(&[][..], |(_, rest)| rest);
    std::iter::from_fn(move || {
        let (payload, after) = first(rest)?;
        rest = after;
        Some(payload)
    })
}

/// A body of known size on its way into frames: all but the last are full, none is empty.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    channel: u16,
    /// The largest payload, at least 1.
    max: usize,
    /// Octets of the body that are in no frame yet.
    left: usize,
    /// Octets that the open frame still needs; at 0 no frame is open.
    open: usize,
}

impl Cut {
    pub(crate) fn new(total: usize, channel: u16, max: usize) -> Cut {
        Cut { channel, max: max.max(1), left: total, open: 0 }
    }

    /// Octets that its frames are still to take.
    pub(crate) fn octets(&self) -> usize {
        let open = if self.open > 0 { self.open + 1 } else { 0 };
        open.saturating_add(self.left).saturating_add(self.left.div_ceil(self.max).saturating_mul(OVERHEAD))
    }

    /// Begins a frame unless one has begun, and says how many octets it still needs: 0 if the body is complete.
    pub(crate) fn open(&mut self, out: &mut Vec<u8>) -> usize {
        if self.open == 0 && self.left > 0 {
            self.open = self.left.min(self.max);
            self.left -= self.open;
            out.extend_from_slice(&prefix(BODY, self.channel, size_of(self.open)));
        }
        self.open
    }

    /// `count` octets of the frame that has begun have been appended.
    pub(crate) fn came(&mut self, out: &mut Vec<u8>, count: usize) {
        if count > 0 {
            self.open = self.open.saturating_sub(count);
            if self.open == 0 {
                out.push(FRAME_END);
            }
        }
    }

    /// Appends the next octets of the body. What goes beyond the body's size is dropped.
    pub(crate) fn push(&mut self, out: &mut Vec<u8>, mut octets: &[u8]) {
        while !octets.is_empty() {
            let room = self.open(out);
            if room == 0 {
                return;
            }
            let (now, later) = octets.split_at(octets.len().min(room));
            out.extend_from_slice(now);
            self.came(out, now.len());
            octets = later;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{self, HEADER};

    fn content_of(bodies: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        frame::encode(&mut out, HEADER, 9, b"header of some kind");
        bodies.iter().for_each(|body| frame::encode(&mut out, BODY, 9, body));
        out
    }

    fn frames(mut bytes: &[u8]) -> Vec<(u8, u16, Vec<u8>)> {
        let mut found = Vec::new();
        while let Some(frame) = frame::split(bytes, 0).expect("well-formed") {
            found.push((frame.kind, frame.channel, frame.payload.to_vec()));
            bytes = &bytes[frame.octets()..];
        }
        assert!(bytes.is_empty());
        found
    }

    #[test]
    fn content_that_fits_is_copied_with_its_channel_changed() {
        let mut out = b"before".to_vec();
        content(&mut out, 0x0102, &content_of(&[b"abc", b"d"]), 4096);
        let expected = [
            (HEADER, 0x0102, b"header of some kind".to_vec()),
            (BODY, 0x0102, b"abc".to_vec()),
            (BODY, 0x0102, b"d".to_vec()),
        ];
        assert_eq!(frames(&out[6..]), expected);
        assert_eq!(&out[..6], b"before");
    }

    #[test]
    fn a_body_too_large_for_the_receiver_is_cut_anew() {
        let mut out = Vec::new();
        content(&mut out, 1, &content_of(&[b"abc", b"defgh", b"i"]), 12);
        let pieces: Vec<_> = frames(&out).into_iter().map(|(_, _, payload)| payload).collect();
        assert_eq!(pieces, [&b"header of some kind"[..], b"abcd", b"efgh", b"i"]);
    }

    #[test]
    fn large_bodies_are_lent_and_all_else_is_as_if_they_were_not() {
        let content = content_of(&[b"abc", b"defghijk", b"l", b"mnopqrst"]);
        for least in 1..10 {
            for frame_max in [11, 12, 17, 4096] {
                let (mut whole, mut out, mut lent) = (b"before".to_vec(), b"before".to_vec(), Vec::new());
                self::content(&mut whole, 0x0102, &content, frame_max);
                content_but(&mut out, 0x0102, &content, frame_max, least, |at, range| lent.push((at, range)));
                let fits = frame_max > 15;
                let expected = content_of(&[]).len()..content.len();
                let large = [3, 8, 1, 8].iter().filter(|&&size| fits && size >= least).count();
                assert_eq!(lent.len(), large, "least {least}, frames of {frame_max}");
                for (at, range) in lent.into_iter().rev() {
                    assert!(expected.contains(&range.start) && content[range.end - 1] == FRAME_END);
                    out.splice(at..at, content[range].iter().copied());
                }
                assert_eq!(out, whole, "least {least}, frames of {frame_max}");
            }
        }
    }

    #[test]
    fn deliver_stands_before_its_content() {
        let mut out = Vec::new();
        deliver(&mut out, 3, b"tag", 7, true, b"\x01x\x02rk", &content_of(&[b"abc"]), 4096);
        let found = frames(&out);
        assert_eq!(found[0], (METHOD, 3, b"\0\x3C\0\x3C\x03tag\0\0\0\0\0\0\0\x07\x01\x01x\x02rk".to_vec()));
        assert_eq!(found[2], (BODY, 3, b"abc".to_vec()));
    }

    #[test]
    fn what_is_no_content_is_copied_without_harm() {
        for length in 0..30 {
            let mut out = Vec::new();
            content(&mut out, 1, &vec![0xFF; length], 4096);
            assert_eq!(out.len(), length);
            content_but(&mut out, 1, &vec![0xFF; length], 4096, 1, |_, _| panic!("there is no body"));
            assert_eq!(out.len(), 2 * length);
        }
    }
}
