//! A confirm that is alone is written by who has synced.
//!
//! A publisher with one publish outstanding waits for the disk, then for the storage thread to wake the connection's
//! thread, then for that to write 21 bytes: a tenth of the time between publish and confirm. So a connection that goes to
//! sleep with nothing else to write, and one such publish on the channel that it has heard from last, leaves its socket
//! here. While it is here, nobody else writes; a connection that wakes takes it away first, and waits for a write that is
//! under way (the socket never blocks). Whatever goes wrong with the write, the confirm goes the usual way.

use std::io::Write;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use leveret_protocol::hot;

use crate::command::{ChannelKey, ConnectionEvent};
use crate::mailbox::Mailbox;

/// Further handles to sockets that one broker has at a time. They are file descriptors, which others need more: with
/// many publishers that wait for one confirm each, confirms come in batches anyway.
const HANDLES: usize = 64;

/// Another handle to a connection's socket, which does not block.
pub struct Handle {
    stream: TcpStream,
    /// How many there are in this broker.
    handles: Arc<AtomicUsize>,
}

impl Handle {
    /// None where there are enough of them, or the system has none left.
    pub fn of(socket: &impl AsFd, handles: &Arc<AtomicUsize>) -> Option<Handle> {
        handles.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < HANDLES).then_some(n + 1)).ok()?;
        let handle = socket.as_fd().try_clone_to_owned().map(TcpStream::from);
        if handle.is_err() {
            handles.fetch_sub(1, Ordering::Relaxed);
        }
        Some(Handle { stream: handle.ok()?, handles: handles.clone() })
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.handles.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The socket of a connection that sleeps, and the one confirm that may be written there.
pub struct Offer {
    pub channel: ChannelKey,
    pub number: u64,
    pub socket: Arc<Handle>,
}

/// Where a connection leaves its socket.
#[derive(Default)]
pub struct Lone(Mutex<Option<Offer>>);

impl Lone {
    fn lock(&self) -> MutexGuard<'_, Option<Offer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection is about to sleep.
    pub fn offer(&self, offer: Offer) {
        *self.lock() = Some(offer);
    }

    /// The connection has woken, or is over. What was written meanwhile is in its mailbox.
    pub fn withdraw(&self) {
        drop(self.lock().take());
    }

    /// Writes the confirm of publish `number` if that is what is waited for, and leaves word of it, without waking
    /// anybody. False: it has to go the usual way.
    pub fn confirm(&self, channel: ChannelKey, number: u64, mailbox: &Mailbox<ConnectionEvent>) -> bool {
        let mut place = self.lock();
        let Some(offer) = place.take_if(|offer| offer.channel == channel && offer.number == number) else {
            return false;
        };
        let frame = frame(channel, number);
        let written = match (&offer.socket.stream).write(&frame) {
            Ok(written) if written > 0 => written,
            // Full, or gone: the connection finds that out itself.
            _ => return false,
        };
        let event = ConnectionEvent::ConfirmWritten { channel, number, written };
        // A connection that is over needs no word.
        let _ = if written == frame.len() { mailbox.leave(event) } else { mailbox.push(event) };
        // Only now may the connection wake.
        drop(place);
        true
    }
}

/// basic.ack for one publish.
pub fn frame(channel: ChannelKey, number: u64) -> Vec<u8> {
    let mut frame = Vec::with_capacity(32);
    hot::encode_ack(&mut frame, channel.number, number, false);
    frame
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    use std::sync::Arc;

    use super::{HANDLES, Handle, Lone, Offer, frame};
    use crate::command::{ChannelKey, ConnectionEvent};
    use crate::mailbox::Mailbox;

    const CHANNEL: ChannelKey = ChannelKey { number: 3, epoch: 7 };

    fn pair() -> (Arc<Handle>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        near.set_nonblocking(true).unwrap();
        let handle = Handle::of(&near, &Arc::default()).expect("the first one");
        (Arc::new(handle), listener.accept().unwrap().0)
    }

    #[test]
    fn there_are_so_many_handles_and_no_more() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let count = Arc::default();
        let mut handles: Vec<Handle> = std::iter::from_fn(|| Handle::of(&socket, &count)).collect();
        assert_eq!(handles.len(), HANDLES);
        handles.pop();
        assert!(Handle::of(&socket, &count).is_some());
    }

    fn left(mailbox: &Mailbox<ConnectionEvent>) -> Vec<(u64, usize)> {
        let left = mailbox.close().into_iter().map(|event| match event {
            ConnectionEvent::ConfirmWritten { number, written, .. } => (number, written),
            _ => panic!("another event"),
        });
        left.collect()
    }

    #[test]
    fn what_is_offered_is_written_once_and_word_left() {
        let (socket, mut far) = pair();
        let (lone, mailbox) = (Lone::default(), Mailbox::default());
        lone.offer(Offer { channel: CHANNEL, number: 5, socket });
        assert!(lone.confirm(CHANNEL, 5, &mailbox));
        assert!(!lone.confirm(CHANNEL, 5, &mailbox));
        let expected = frame(CHANNEL, 5);
        let mut read = vec![0; expected.len()];
        far.read_exact(&mut read).unwrap();
        assert_eq!(read, expected);
        assert_eq!(left(&mailbox), [(5, expected.len())]);
    }

    #[test]
    fn nothing_is_written_for_another_publish_or_channel_or_after_it_was_withdrawn() {
        let (socket, mut far) = pair();
        let (lone, mailbox) = (Lone::default(), Mailbox::default());
        lone.offer(Offer { channel: CHANNEL, number: 5, socket });
        assert!(!lone.confirm(CHANNEL, 6, &mailbox));
        assert!(!lone.confirm(ChannelKey { epoch: 8, ..CHANNEL }, 5, &mailbox));
        lone.withdraw();
        assert!(!lone.confirm(CHANNEL, 5, &mailbox));
        assert_eq!(left(&mailbox), []);
        let mut read = Vec::new();
        far.read_to_end(&mut read).unwrap();
        assert!(read.is_empty());
    }

    #[test]
    fn a_socket_that_takes_nothing_leaves_it_to_the_connection() {
        let (socket, far) = pair();
        let (lone, mailbox) = (Lone::default(), Mailbox::default());
        while std::io::Write::write(&mut &socket.stream, &[0; 1 << 16]).is_ok() {}
        lone.offer(Offer { channel: CHANNEL, number: 5, socket });
        assert!(!lone.confirm(CHANNEL, 5, &mailbox));
        assert_eq!(left(&mailbox), []);
        drop(far);
    }
}
