//! The connection's side of [`crate::lone`]: when it leaves its socket to who completes a confirm, and what it does when it
//! has been written.

use std::sync::Arc;

use tokio::net::TcpStream;

use super::{Connection, Phase};
use crate::command::ChannelKey;
use crate::lone::{self, Handle, Offer};

impl Connection {
    /// Leaves the socket to who completes the one confirm that is waited for, if that is all there may be to write.
    pub(super) fn offer_socket(&mut self, io: &TcpStream) {
        let Some((channel, number)) = self.lone.take() else {
            return;
        };
        let still = self.channels.get_key(channel).and_then(|open| open.confirms.as_ref()?.lone()) == Some(number);
        let quiet = self.output.is_empty() && self.shutting_down.is_none() && matches!(self.phase, Phase::Running);
        if !still || !quiet {
            return;
        }
        if self.socket.is_none() {
            // Without another handle, confirms go the usual way.
            self.socket = Handle::of(io, &self.shared.lone_handles).map(Arc::new);
        }
        if let Some(socket) = self.socket.clone() {
            self.peer.lone.offer(Offer { channel, number, socket });
            self.offered = true;
        }
    }

    /// Takes the socket back, before anything else is done.
    pub(super) fn take_socket_back(&mut self) {
        if std::mem::take(&mut self.offered) {
            self.peer.lone.withdraw();
        }
    }

    /// The confirm was written while this connection slept with nothing to write, as far as the socket took it.
    pub(super) fn confirm_written(&mut self, key: ChannelKey, number: u64, written: usize) {
        self.sent += written as u64;
        self.output.put_first(&lone::frame(key, number)[written..]);
        if let Some(confirms) = self.channels.get_key(key).and_then(|channel| channel.confirms.as_mut()) {
            confirms.answered(number, 1, false);
            // What it would send has been sent.
            confirms.emit(&mut Vec::new(), key.number);
        }
        self.close_when_settled();
    }
}
