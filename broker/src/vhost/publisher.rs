//! Publishes what the broker itself sends on: dead letters, and messages whose delay is over.
//!
//! It never waits for a target: what it publishes goes to the targets' mailboxes, and what storage has to forget of
//! the messages' old place is told behind the last target's insertion.

use std::sync::Arc;

use leveret_storage::Gauge;

use super::VHost;
use super::snapshot::Found;
use crate::command::{QueueCommand, Release};
use crate::delayed::{Delayed, DelayedCommand};
use crate::message::Meta;
use crate::outbox::{Body, Outbox};
use crate::queue::Queue;

pub struct Publisher {
    outbox: Outbox,
    gauge: Arc<Gauge>,
    /// What was reached since the last [`Publisher::release`].
    queues: Vec<Arc<Queue>>,
    delayed: Vec<Arc<Delayed>>,
}

impl Publisher {
    pub fn new(gauge: Arc<Gauge>) -> Publisher {
        Publisher { outbox: Outbox::default(), gauge, queues: Vec::new(), delayed: Vec::new() }
    }

    /// Forgets what has not been sent off.
    pub fn clear(&mut self) {
        *self = Publisher::new(self.gauge.clone());
    }

    /// Publishes a message to what was `found` for it, with its `expiration` in milliseconds.
    pub fn publish(&mut self, vhost: &VHost, found: &Found, message: Vec<u8>, meta: Meta, expiration: Option<u64>) {
        for exchange in &found.histories {
            self.outbox.remember(exchange, &message, meta);
        }
        for hold in &found.delayed {
            self.outbox.hold(hold, &message, meta, None);
            if !self.delayed.iter().any(|other| other.id == hold.by.id) {
                self.delayed.push(hold.by.clone());
            }
        }
        self.outbox.publish(Body::Owned(message), meta, expiration, &found.queues, None);
        for queue in &found.queues {
            if !self.queues.iter().any(|other| other.id == queue.id) {
                self.queues.push(queue.clone());
            }
        }
        if self.outbox.is_large() {
            self.flush(vhost);
        }
    }

    /// Lets everything that was reached since the last time hold `release` until it has told storage of the messages.
    pub fn release(&mut self, release: Option<Arc<Release>>) {
        for queue in self.queues.drain(..) {
            if let Some(release) = &release {
                self.outbox.push(&queue, QueueCommand::Release(release.clone()));
            }
        }
        for delayed in self.delayed.drain(..) {
            if let Some(release) = &release {
                self.outbox.tell_delayed(&delayed, DelayedCommand::Release(release.clone()));
            }
        }
    }

    /// Sends everything off.
    pub fn flush(&mut self, vhost: &VHost) {
        self.outbox.flush(&self.gauge, |_| {});
        self.outbox.flush_delayed(&self.gauge, |_| {});
        if self.outbox.has_histories() {
            vhost.append(&mut self.outbox.take_histories(&self.gauge));
        }
    }
}
