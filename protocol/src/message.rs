//! A message as the broker keeps it: one contiguous string of octets.
//!
//! ```text
//! exchange shortstr | routing-key shortstr | flags of publish, 0xCE | header frame | body frames …
//! `------------ address ----------------´  `--- ADDRESS_GAP ---´  `------- content --------´
//! ```
//!
//! That is just how a `basic.publish` and its content lie in a read buffer, so a whole message, or many in a
//! row, is kept with one copy. The frames have any channel number.

use crate::{
    content::{ContentHeader, header},
    deliver,
    frame::{self, FRAME_END, HEADER},
    reader::Reader,
};

/// Octets between a message's address and its content: the flags of `basic.publish` and its frame's end octet.
pub const ADDRESS_GAP: usize = 2;

/// The parts of a message, all slices of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// The exchange it was published to.
    pub exchange: &'a [u8],
    /// Its routing key.
    pub routing_key: &'a [u8],
    /// Both as short strings, with their length octets.
    pub address: &'a [u8],
    /// Bit 0 mandatory, bit 1 immediate.
    pub bits: u8,
    /// The payload of the header frame.
    pub header: &'a [u8],
    /// Header frame and body frames.
    pub content: &'a [u8],
}

impl<'a> Message<'a> {
    /// Takes a message apart; `None` when the octets are not one. The body frames are not looked at.
    pub fn parse(message: &'a [u8]) -> Option<Message<'a>> {
        let mut reader = Reader(message);
        let exchange = reader.short()?;
        let routing_key = reader.short()?;
        let address = message.get(..2 + exchange.len() + routing_key.len())?;
        let [bits, _] = reader.array::<ADDRESS_GAP>()?;
        let header = deliver::header_of(reader.0);
        if header.is_empty() {
            return None;
        }
        Some(Message { exchange, routing_key, address, bits, header, content: reader.0 })
    }

    /// The content header.
    pub fn content_header(&self) -> ContentHeader<'a> {
        header(self.header)
    }

    /// The pieces of the body, frame by frame.
    pub fn bodies(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        deliver::bodies(self.content)
    }

    /// The body in one piece.
    pub fn body(&self) -> Vec<u8> {
        self.bodies().collect::<Vec<_>>().concat()
    }

    /// The body frames, whole.
    pub fn body_frames(&self) -> &'a [u8] {
        self.content.get(self.header.len() + frame::OVERHEAD..).unwrap_or_default()
    }

    /// The same body under another address and content header, as dead-lettering and BCC need it. `header` is a
    /// header frame's payload, `address` two short strings.
    pub fn rebuild(&self, address: &[u8], header: &[u8]) -> Vec<u8> {
        let bodies = self.body_frames();
        let mut out = Vec::with_capacity(address.len() + ADDRESS_GAP + header.len() + frame::OVERHEAD + bodies.len());
        begin(&mut out, address, self.bits, header);
        out.extend_from_slice(bodies);
        out
    }
}

fn begin(out: &mut Vec<u8>, address: &[u8], bits: u8, header: &[u8]) {
    out.extend_from_slice(address);
    finish_head(out, bits, header);
}

/// Appends what follows the address up to the end of the header frame, which is put on channel 0.
pub(crate) fn finish_head(out: &mut Vec<u8>, bits: u8, header: &[u8]) {
    out.extend_from_slice(&[bits, FRAME_END]);
    frame::encode(out, HEADER, 0, header);
}

/// An address made of two names; what exceeds 255 octets of either is cut.
pub fn address(exchange: &[u8], routing_key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(2 + exchange.len() + routing_key.len());
    for name in [exchange, routing_key] {
        let name = name.get(..255).unwrap_or(name);
        out.push(name.len() as u8);
        out.extend_from_slice(name);
    }
    out
}

/// A message the broker itself writes: `header` is a header frame's payload (its body size must be that of
/// `body`).
pub fn build(address: &[u8], header: &[u8], body: &[u8], frame_max: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(address.len() + header.len() + body.len() + 4 * frame::OVERHEAD);
    begin(&mut out, address, 0, header);
    deliver::Cut::new(body.len(), 0, frame::max_payload(frame_max)).push(&mut out, body);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_apart_into_what_it_was_built_of() {
        let header = b"\0\x3C\0\0\0\0\0\0\0\0\0\x0A\x10\0\x02";
        let bytes = build(&address(b"x", b"key"), header, b"0123456789", 12);
        let message = Message::parse(&bytes).expect("whole");
        assert_eq!(
            (message.exchange, message.routing_key, message.address),
            (&b"x"[..], &b"key"[..], &b"\x01x\x03key"[..])
        );
        assert_eq!((message.header, message.bits), (&header[..], 0));
        assert!(message.content_header().is_persistent());
        assert_eq!(message.bodies().map(<[u8]>::len).collect::<Vec<_>>(), [4, 4, 2]);
        assert_eq!(message.body(), b"0123456789");
    }

    #[test]
    fn rebuilding_changes_address_and_header_and_keeps_the_body() {
        let bytes = build(&address(b"", b"q"), &[0; 14], b"body", 4096);
        let rebuilt = Message::parse(&bytes).expect("whole").rebuild(&address(b"dlx", b"dead"), &[1; 20]);
        let message = Message::parse(&rebuilt).expect("whole");
        assert_eq!((message.exchange, message.routing_key, message.header), (&b"dlx"[..], &b"dead"[..], &[1; 20][..]));
        assert_eq!(message.body(), b"body");
    }
}
