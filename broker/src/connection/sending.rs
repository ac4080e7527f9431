//! What a connection's turn has for others goes to them; a mailbox that is full then stops the reading of the socket.

use std::sync::Arc;
use std::task::Waker;

use leveret_storage::Gauge;

use super::Connection;
use crate::delayed::Delayed;
use crate::outbox::Outbox;
use crate::queue::Queue;
use crate::vhost::VHost;

impl Connection {
    /// Sends the turn off to the queues.
    pub(super) fn flush(&mut self) {
        if !self.transacting.is_empty() {
            self.seal_transactions();
        }
        send_off(&mut self.outbox, &self.vhost, &self.shared.pressure.gauge, &mut self.full);
        if !self.waking.is_empty() {
            self.send_wakes();
        }
    }
}

/// Whose mailbox is full.
pub(super) enum Full {
    Queue(Arc<Queue>),
    Delayed(Arc<Delayed>),
}

impl Full {
    /// As [`crate::mailbox::Turn::is_full`].
    pub(super) fn is_full(&self, waker: &Waker) -> bool {
        match self {
            Full::Queue(queue) => queue.is_full(waker),
            Full::Delayed(delayed) => delayed.is_full(waker),
        }
    }
}

/// Sends to the queues, and to exchanges that keep messages, what is for them; the last mailbox that is full becomes
/// `full`.
pub(super) fn send_off(outbox: &mut Outbox, vhost: &VHost, gauge: &Arc<Gauge>, full: &mut Option<Full>) {
    outbox.flush(gauge, |queue| {
        if queue.is_over() {
            *full = Some(Full::Queue(queue.clone()));
        }
    });
    outbox.flush_delayed(gauge, |delayed| {
        if delayed.is_over() {
            *full = Some(Full::Delayed(delayed.clone()));
        }
    });
    if outbox.has_histories() {
        let mut told = outbox.take_histories(gauge);
        vhost.append(&mut told);
    }
}
