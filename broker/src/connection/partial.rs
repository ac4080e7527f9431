//! A body frame that has not come whole: its payload goes into its message as it comes, not into the buffer for what must
//! wait, and most of it straight from the socket.
//!
//! While there is one, all that is read belongs to it, up to its end octet.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::BufMut;
use leveret_protocol::frame::{self, BODY, FRAME_END, PREFIX};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::socket::Read;
use super::{Connection, Phase};
use crate::command::ChannelKey;

/// Octets that must be missing for a frame to be taken in pieces, and for the next ones to be read straight into its
/// message: with fewer, another system call would cost more than the copy that it spares.
const WORTH_WHILE: usize = 16 << 10;
/// Octets of a payload that the error about its frame's end shows, and one that tells that there are more.
const SHOWN: usize = 17;
/// Octets that are read along with the end of such a frame. Of the next one, if it is large as well, no more than these
/// are copied.
const BEHIND: usize = 8 << 10;

/// Where such a frame belongs, and what is missing of it besides its end octet.
pub struct Partial {
    channel: ChannelKey,
    left: usize,
    begin: [u8; SHOWN],
}

impl Partial {
    /// How much is to be read into the buffer that all share.
    pub fn to_read(&self) -> usize {
        self.left + 1 + BEHIND
    }
}

impl Connection {
    /// Takes the beginning of a body frame off `input`, if much of it is still to come. True: all of `input` was taken.
    pub(super) fn begin_partial(&mut self, input: &[u8]) -> bool {
        let Some((&[BODY, c0, c1, s0, s1, s2, s3], payload)) = input.split_first_chunk::<PREFIX>() else {
            return false;
        };
        let Some(begin) = payload.first_chunk::<SHOWN>() else { return false };
        let size = u32::from_be_bytes([s0, s1, s2, s3]) as usize;
        let left = size.saturating_sub(payload.len());
        if left < WORTH_WHILE || !matches!(self.phase, Phase::Running) {
            return false;
        }
        let Some(channel) = self.channels.get(u16::from_be_bytes([c0, c1])) else { return false };
        if !channel.is_open() || !channel.assembler.begin_body(size, self.frame_max) {
            return false;
        }
        channel.assembler.piece(payload);
        let key = channel.key;
        self.partial = Some(Partial { channel: key, left, begin: *begin });
        self.partial_grows(key);
        true
    }

    fn partial_grows(&mut self, key: ChannelKey) {
        if let Err(error) = self.content_grows(key.number) {
            self.raise(key.number, error);
        }
    }

    /// Takes what `input` has of the frame that has begun, and says how many octets that was.
    pub(super) fn go_on_partial(&mut self, input: &[u8]) -> usize {
        let Some(partial) = &mut self.partial else { return 0 };
        let (piece, rest) = input.split_at(partial.left.min(input.len()));
        partial.left -= piece.len();
        let key = partial.channel;
        // The channel may have been closed meanwhile: then the rest of the frame is thrown away.
        let channel = self.channels.get_key(key).filter(|channel| channel.assembler.open().is_some());
        if let Some(channel) = channel {
            channel.assembler.piece(piece);
        }
        match rest.first() {
            None => input.len(),
            Some(&FRAME_END) => {
                self.partial = None;
                self.end_partial(key);
                piece.len() + 1
            }
            Some(&end) => {
                let error = frame::wrong_end(BODY, &partial.begin, end);
                self.partial = None;
                self.raise(0, error);
                input.len()
            }
        }
    }

    fn end_partial(&mut self, key: ChannelKey) {
        let running = matches!(self.phase, Phase::Running);
        let channel = self.channels.get_key(key).filter(|channel| channel.assembler.open().is_some());
        let Some(channel) = channel.filter(|_| running) else { return };
        let progress = channel.assembler.end_body();
        if let Err(error) = self.content_progress(key.number, progress) {
            self.raise(key.number, error);
        }
    }

    /// Reads once into the message that the frame belongs to. `None`: what is missing goes through the buffer that all share.
    pub(super) fn read_partial(&mut self, io: &mut TcpStream, cx: &mut Context<'_>) -> Option<Read> {
        let partial = self.partial.as_mut().filter(|partial| partial.left >= WORTH_WHILE)?;
        let key = partial.channel;
        let channel = self.channels.get_key(key)?;
        let (buffer, most) = channel.assembler.room().filter(|(_, most)| *most >= WORTH_WHILE)?;
        let mut room = buffer.limit(most);
        let count = match pin!(io.read_buf(&mut room)).poll(cx) {
            Poll::Pending => return Some(Read::Blocked),
            Poll::Ready(Ok(count)) if count > 0 => count,
            Poll::Ready(outcome) => {
                if let Err(error) = outcome {
                    tracing::debug!(%error, "connection lost");
                }
                self.phase = Phase::Ended;
                return Some(Read::Some);
            }
        };
        channel.assembler.came(count);
        partial.left -= count;
        self.received += count as u64;
        self.partial_grows(key);
        Some(if count < most { Read::after_a_short_one(io, cx) } else { Read::Some })
    }
}
