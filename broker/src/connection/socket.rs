//! Reading and writing the client's socket, without ever waiting for it.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

use super::input::Source;
use super::{Connection, Phase};

/// Bytes read at a time. One buffer per worker thread, since what is read is taken apart before the task yields.
const READ_BUFFER: usize = 256 << 10;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What came of reading the socket.
pub(super) enum Read {
    /// It was not asked.
    Nothing,
    Some,
    /// It had something, and has nothing more: it will wake the task.
    Last,
    /// It has nothing, and will wake the task.
    Blocked,
}

impl Read {
    /// After a read that got less than it had room for: known without asking the kernel.
    pub(super) fn after_a_short_one(io: &TcpStream, cx: &mut Context<'_>) -> Read {
        if io.poll_read_ready(cx).is_pending() { Read::Last } else { Read::Some }
    }
}

impl Connection {
    /// Whether the next frame of input that has come may be looked at.
    pub(super) fn takes_input(&self) -> bool {
        self.first.is_empty() && self.reads()
    }

    /// Reads once and takes apart what came.
    pub(super) fn read(&mut self, io: &mut TcpStream, cx: &mut Context<'_>) -> Read {
        if !self.takes_input() {
            return Read::Nothing;
        }
        if let Some(read) = self.read_partial(io, cx) {
            return read;
        }
        let most = self.partial.as_ref().map_or(READ_BUFFER, |partial| partial.to_read().min(READ_BUFFER));
        SCRATCH.with_borrow_mut(|scratch| {
            let held = self.carry.len();
            if scratch.len() < held + most {
                scratch.resize(held + most, 0);
            }
            let mut buffer = ReadBuf::new(&mut scratch[held..held + most]);
            match Pin::new(&mut *io).poll_read(cx, &mut buffer) {
                Poll::Pending => return Read::Blocked,
                Poll::Ready(Err(error)) => {
                    tracing::debug!(%error, "connection lost");
                    self.phase = Phase::Ended;
                    return Read::Some;
                }
                Poll::Ready(Ok(())) => {}
            }
            let count = buffer.filled().len();
            if count == 0 {
                self.phase = Phase::Ended;
                return Read::Some;
            }
            self.received += count as u64;
            scratch[..held].copy_from_slice(&self.carry);
            let input = &scratch[..held + count];
            let consumed = self.process(input, Source::Stream);
            let left = &input[consumed.min(input.len())..];
            self.carry.clear();
            self.carry.extend_from_slice(left);
            if count < most { Read::after_a_short_one(io, cx) } else { Read::Some }
        })
    }

    /// Goes on with input that could not be looked at before. True when there was some.
    pub(super) fn resume_unread(&mut self) -> bool {
        if !self.unread || !self.reads() {
            return false;
        }
        self.unread = false;
        let first = std::mem::take(&mut self.first);
        let consumed = self.process(&first, Source::Ended);
        // Another channel's end may have put its own frames in front.
        self.first.extend_from_slice(&first[consumed..]);
        if self.takes_input() {
            let carry = std::mem::take(&mut self.carry);
            let consumed = self.process(&carry, Source::Stream);
            self.carry = carry[consumed..].to_vec();
        } else {
            self.unread |= !self.carry.is_empty();
        }
        self.unread |= !self.first.is_empty();
        true
    }

    /// Writes what waits. True when something was written.
    pub(super) fn write(&mut self, io: &mut TcpStream, cx: &mut Context<'_>) -> bool {
        let mut progress = false;
        while !self.output.is_empty() && !matches!(self.phase, Phase::Ended) {
            match self.output.write(Pin::new(&mut *io), cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(count)) => {
                    self.sent += count as u64;
                    progress = true;
                }
                Poll::Ready(Err(_)) => {
                    self.phase = Phase::Ended;
                    return true;
                }
            }
        }
        self.output.tidy();
        progress
    }
}
