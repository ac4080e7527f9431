//! What waits to be written to a client: octets of our own, and large bodies that stay in their blocks.
//!
//! Small messages are copied behind each other: one copy is cheaper than a place in the list that a system call takes.
//! The frames of large ones are *lent*: the output keeps their block alive until they are written, in one system call with
//! what stands around them, and nobody copies them. What is lent counts as waiting like everything else, so the limits
//! that hold for the output hold for it.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use leveret_protocol::deliver;
use leveret_storage::Block;
use tokio::io::AsyncWrite;

/// Octets of a body frame from which on it is lent: a copy of so many costs about as much as what lending takes.
pub(super) const LENT: usize = 4 << 10;
/// Octets of the buffer that have been written above which the rest is moved to its beginning.
const WRITTEN: usize = 256 << 10;
/// Capacity of buffers that an empty output may keep, in octets and bodies.
const KEPT: usize = 4096;
const KEPT_BODIES: usize = 64;
/// Stretches of memory that one system call is given; the kernel takes up to 1,024 (IOV_MAX).
const STRETCHES: usize = 64;

#[derive(Default)]
pub struct Output {
    octets: Vec<u8>,
    /// How many of `octets` have been written.
    written: usize,
    bodies: VecDeque<Body>,
    /// Octets of all `bodies` that have not been written.
    lent: usize,
}

/// Octets `from..to` of message `index` of `block`, which stand before octet `at` of the buffer.
struct Body {
    at: usize,
    block: Arc<Block>,
    index: u32,
    from: usize,
    to: usize,
}

impl Body {
    fn octets(&self) -> &[u8] {
        self.block.bytes(self.index).get(self.from..self.to).unwrap_or_default()
    }
}

impl Output {
    /// Octets that wait.
    pub fn len(&self) -> usize {
        self.octets.len() - self.written + self.lent
    }

    pub fn is_empty(&self) -> bool {
        self.written == self.octets.len() && self.bodies.is_empty()
    }

    /// The length of the buffer above which more than `limit` octets wait, with what is lent now.
    pub fn buffer_for(&self, limit: usize) -> usize {
        (limit + self.written).saturating_sub(self.lent)
    }

    /// Where octets are added.
    pub fn octets(&mut self) -> &mut Vec<u8> {
        &mut self.octets
    }

    /// Adds what goes before everything else that waits. Nothing that is lent may have been written in part.
    pub fn put_first(&mut self, octets: &[u8]) {
        self.octets.splice(self.written..self.written, octets.iter().copied());
        self.bodies.iter_mut().for_each(|body| body.at += octets.len());
    }

    /// Adds the content of message `index` of `block`, which lies behind the first `begin` octets of it, in frames of
    /// `channel` of at most `frame_max` octets.
    pub fn lend(&mut self, block: &Arc<Block>, index: u32, begin: usize, channel: u16, frame_max: u32) {
        let content = block.bytes(index).get(begin..).unwrap_or_default();
        let Output { octets, bodies, lent, .. } = self;
        deliver::content_but(octets, channel, content, frame_max, LENT, |at, body| {
            *lent += body.len();
            bodies.push_back(Body { at, block: block.clone(), index, from: begin + body.start, to: begin + body.end });
        });
    }

    /// Writes once, as much as `io` takes. Says how many octets that was.
    ///
    /// # Errors
    /// When the client is gone.
    pub fn write(&mut self, io: Pin<&mut impl AsyncWrite>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let count = if self.bodies.is_empty() {
            ready!(io.poll_write(cx, &self.octets[self.written..]))?
        } else {
            let mut stretches = [IoSlice::new(&[]); STRETCHES];
            let used = self.stretches(&mut stretches);
            ready!(io.poll_write_vectored(cx, &stretches[..used]))?
        };
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.wrote(count);
        Poll::Ready(Ok(count))
    }

    /// What comes next, in order; says how many of `stretches` that took.
    fn stretches<'a>(&'a self, stretches: &mut [IoSlice<'a>; STRETCHES]) -> usize {
        let mut at = self.written;
        let lent = self.bodies.iter().flat_map(|body| {
            let before = &self.octets[std::mem::replace(&mut at, body.at)..body.at];
            [before, body.octets()]
        });
        let behind = self.bodies.back().map_or(self.written, |body| body.at);
        let all = lent.chain([&self.octets[behind..]]).filter(|octets| !octets.is_empty());
        let mut used = 0;
        for (stretch, octets) in stretches.iter_mut().zip(all) {
            *stretch = IoSlice::new(octets);
            used += 1;
        }
        used
    }

    /// The next `count` octets have been written.
    fn wrote(&mut self, mut count: usize) {
        while let Some(body) = self.bodies.front_mut() {
            let before = count.min(body.at - self.written);
            self.written += before;
            count -= before;
            if self.written < body.at {
                return;
            }
            let size = body.to - body.from;
            let now = count.min(size);
            body.from += now;
            self.lent -= now;
            count -= now;
            if now < size {
                return;
            }
            self.bodies.pop_front();
        }
        self.written += count;
    }

    /// Frees the room of what has been written.
    pub fn tidy(&mut self) {
        if self.written == self.octets.len() && self.bodies.is_empty() {
            self.octets.clear();
            self.written = 0;
        } else if self.written > WRITTEN {
            self.octets.drain(..self.written);
            let moved = std::mem::take(&mut self.written);
            self.bodies.iter_mut().for_each(|body| body.at -= moved);
        }
    }

    /// Gives back large buffers, if nothing waits.
    pub fn give_back(&mut self) {
        if self.is_empty() && self.octets.capacity() > KEPT {
            self.octets = Vec::new();
        }
        if self.bodies.is_empty() && self.bodies.capacity() > KEPT_BODIES {
            self.bodies = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests;
