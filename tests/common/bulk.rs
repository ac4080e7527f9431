//! Many publishes in few writes.

use crate::method::Method;
use crate::peer::{Frame, Peer, kind};
use crate::say;
use crate::talk::{BODY_PIECE, Content};
use std::io::Write;

/// Octets written at a time.
pub const CHUNK: usize = 64 << 10;

/// The frames of one publish to a queue.
pub fn publish_frames(channel: u16, queue: &str, content: &Content) -> Vec<u8> {
    let mut octets = Frame::new(kind::METHOD, channel, say::publish("", queue).payload()).octets();
    octets.extend(Frame::new(kind::HEADER, channel, content.header()).octets());
    for piece in content.body.chunks(BODY_PIECE) {
        octets.extend(Frame::new(kind::BODY, channel, piece).octets());
    }
    octets
}

/// Publishes a message to each of these queues in turn, `count` times.
///
/// # Panics
/// If the broker stops taking what is sent for as long as a peer is patient.
#[track_caller]
pub fn publish_many(peer: &Peer, channel: u16, queues: &[&str], content: &Content, count: usize) {
    let round: Vec<u8> = queues.iter().flat_map(|queue| publish_frames(channel, queue, content)).collect();
    let rounds = CHUNK.div_ceil(round.len()).min(count);
    let chunk = round.repeat(rounds);
    for first in (0..count).step_by(rounds) {
        let now = rounds.min(count - first);
        peer.stream().write_all(&chunk[..now * round.len()]).expect("the broker takes what is published");
    }
}
