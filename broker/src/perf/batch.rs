//! Publishes ready to be sent: a buffer of slots, each a whole message of the same length, in which only its mark (and
//! with several queues its routing key) changes.

use leveret_protocol::{frame, hot, message};

use super::check::{MARK, Mark};

/// Bytes of a buffer, unless one message takes more.
const BATCH: usize = 128 << 10;

/// What all messages of a producer have in common.
pub struct Shape<'a> {
    pub exchange: &'a str,
    /// One for each of the producer's queues, all of the same length: message `n` has the `n % len`-th.
    pub keys: Vec<String>,
    pub body: usize,
    pub persistent: bool,
    pub frame_max: u32,
    pub channel: u16,
}

pub struct Batch {
    buffer: Vec<u8>,
    keys: Vec<String>,
    /// Bytes of a slot.
    slot: usize,
    /// Where in a slot its routing key is, and where its body begins.
    key_at: usize,
    mark_at: usize,
}

/// The octet at place `at` of a body behind its mark.
#[inline]
pub fn filler(at: usize) -> u8 {
    b'a' + (at % 23) as u8
}

impl Batch {
    /// At least one key, and a body of at least [`MARK`] bytes.
    pub fn new(shape: Shape<'_>) -> Batch {
        let first = shape.keys.first().map_or("", String::as_str);
        let (key_at, mark_at, message) = encode(&shape, first);
        let slot = message.len();
        let buffer = message.repeat((BATCH / slot).max(1));
        Batch { buffer, keys: shape.keys, slot, key_at, mark_at }
    }

    /// How many messages it can hold.
    pub fn capacity(&self) -> u64 {
        (self.buffer.len() / self.slot) as u64
    }

    /// The frames of as many messages as `marks` yields, at most [`Batch::capacity`].
    #[inline]
    pub fn fill(&mut self, marks: impl Iterator<Item = Mark>) -> &[u8] {
        let several = self.keys.len() > 1;
        let mut filled = 0;
        for (slot, mark) in self.buffer.chunks_exact_mut(self.slot).zip(marks) {
            slot[self.mark_at..self.mark_at + MARK].copy_from_slice(&mark.encode());
            if several {
                let key = self.keys[(mark.sequence % self.keys.len() as u64) as usize].as_bytes();
                slot[self.key_at..self.key_at + key.len()].copy_from_slice(key);
            }
            filled += self.slot;
        }
        &self.buffer[..filled]
    }
}

/// A message, where its key is and where its body.
fn encode(shape: &Shape<'_>, key: &str) -> (usize, usize, Vec<u8>) {
    let address = message::address(shape.exchange.as_bytes(), key.as_bytes());
    let publish = [&[0, 60, 0, 40, 0, 0][..], &address, &[0]].concat();
    debug_assert!(hot::publish(&publish).is_ok());
    let mut out = Vec::new();
    frame::encode(&mut out, frame::METHOD, shape.channel, &publish);
    let key_at = out.len() - 2 - key.len();
    let mut header = vec![0, 60, 0, 0];
    header.extend_from_slice(&(shape.body as u64).to_be_bytes());
    // The only property: delivery mode 1 or 2.
    header.extend_from_slice(&[0x10, 0, 1 + u8::from(shape.persistent)]);
    frame::encode(&mut out, frame::HEADER, shape.channel, &header);
    let mark_at = out.len() + frame::PREFIX;
    let body: Vec<u8> = (0..shape.body).map(filler).collect();
    for piece in body.chunks(frame::max_payload(shape.frame_max)) {
        frame::encode(&mut out, frame::BODY, shape.channel, piece);
    }
    (key_at, mark_at, out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use leveret_protocol::assembler::whole;
    use leveret_protocol::deliver::bodies;

    fn batch(keys: &[&str], body: usize, frame_max: u32) -> Batch {
        let keys = keys.iter().map(|key| (*key).to_owned()).collect();
        Batch::new(Shape { exchange: "exchange", keys, body, persistent: true, frame_max, channel: 1 })
    }

    fn marks(from: u64) -> impl Iterator<Item = Mark> {
        (from..).map(|sequence| Mark { producer: 3, sequence, sent: sequence * 10 })
    }

    #[test]
    fn messages_are_whole_marked_and_go_to_the_keys_in_turn() {
        let mut batch = batch(&["one", "two"], 20, 131_072);
        let mut rest = batch.fill(marks(7).take(3));
        for (sequence, key) in [(7, b"two"), (8, b"one"), (9, b"two")] {
            let message = whole(rest, 131_072).expect("a whole message");
            assert_eq!((message.channel, message.publish.exchange), (1, &b"exchange"[..]));
            assert_eq!(message.publish.routing_key, key);
            assert_eq!(message.header.parse().expect("well-formed").delivery_mode, Some(2));
            let body = bodies(message.content()).collect::<Vec<_>>().concat();
            assert_eq!(Mark::decode(&body), marks(sequence).next());
            assert_eq!(&body[MARK..], (MARK..20).map(filler).collect::<Vec<_>>());
            rest = &rest[message.consumed..];
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn a_batch_is_as_full_as_it_can_be_and_never_empty() {
        let mut small = batch(&["key"], 16, 131_072);
        assert!(small.capacity() > 1_000);
        let capacity = small.capacity();
        assert_eq!(small.fill(marks(0)).len(), capacity as usize * small.slot);
        assert_eq!(batch(&["key"], 1 << 20, 131_072).capacity(), 1);
    }

    #[test]
    fn a_large_body_is_cut_to_the_frame_size() {
        let mut batch = batch(&["key"], 10_000, 4096);
        let frames = batch.fill(marks(5).take(1));
        let message = whole(frames, 4096 - 8).expect("frames of at most 4096 octets");
        let pieces: Vec<_> = bodies(message.content()).collect();
        assert_eq!(pieces.iter().map(|piece| piece.len()).collect::<Vec<_>>(), [4088, 4088, 1824]);
        assert_eq!(Mark::decode(pieces[0]).map(|mark| mark.sequence), Some(5));
        assert_eq!(pieces[2].last(), Some(&filler(9_999)));
    }
}
