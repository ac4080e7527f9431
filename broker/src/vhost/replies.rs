//! Direct reply-to (RabbitMQ extension): who can be replied to without a queue.
//!
//! A reply consumer belongs to its channel; the virtual host only knows its name and the way to its connection. A
//! reply goes from the replier's connection straight to the requester's mailbox and nowhere else: nobody keeps it when
//! the requester is gone.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use leveret_storage::Block;

use super::VHost;
use crate::command::{ChannelKey, ConnectionEvent, Peer};
use crate::names;

/// The reply consumers of a virtual host by name. An entry lives as long as its [`Registration`].
#[derive(Default)]
pub struct Replies {
    known: Mutex<HashMap<Arc<str>, Arc<ReplyTo>>>,
}

/// A reply consumer as repliers know it.
pub struct ReplyTo {
    /// `amq.rabbitmq.reply-to.` and what cannot be guessed.
    pub name: Arc<str>,
    peer: Arc<Peer>,
    pub channel: ChannelKey,
    /// Bytes of replies on their way to the connection.
    waiting: AtomicUsize,
    /// Some reply found no room, and it was said so.
    overrun: AtomicBool,
}

impl ReplyTo {
    /// Bytes of replies that may wait for a requester which does not read; one reply may pass it. Beyond, replies are
    /// dropped as if the requester were gone: to stop the replier's socket would let one requester hold up the
    /// service that all others use.
    pub const WINDOW: usize = 32 << 20;

    /// Sends a reply, the one message of its block, on its way.
    pub fn send(self: &Arc<ReplyTo>, reply: Arc<Block>) {
        let bytes = reply.held();
        if self.waiting.fetch_add(bytes, Ordering::AcqRel) > Self::WINDOW {
            self.waiting.fetch_sub(bytes, Ordering::AcqRel);
            if !self.overrun.swap(true, Ordering::AcqRel) {
                tracing::warn!(
                    channel = self.channel.number,
                    "a requester does not read its replies: further ones are dropped"
                );
            }
            return;
        }
        let to = self.clone();
        // A requester that is gone no longer wants to know.
        let _ = self.peer.mailbox.push(ConnectionEvent::DirectReply { to, reply });
    }

    /// The connection has taken a reply off its mailbox.
    pub fn arrived(&self, reply: &Block) {
        self.waiting.fetch_sub(reply.held(), Ordering::AcqRel);
    }
}

impl Replies {
    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<ReplyTo>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The reply consumer of that name, if it is alive.
    pub fn find(&self, name: &[u8]) -> Option<Arc<ReplyTo>> {
        let name = std::str::from_utf8(name).ok()?;
        self.lock().get(name).cloned()
    }
}

/// Keeps a reply consumer known.
pub struct Registration {
    vhost: Arc<VHost>,
    pub to: Arc<ReplyTo>,
}

impl Registration {
    /// Makes a reply consumer of this channel known under a new name.
    pub fn new(vhost: &Arc<VHost>, peer: &Arc<Peer>, channel: ChannelKey) -> Registration {
        let to = Arc::new(ReplyTo {
            name: names::generated_reply_to().into(),
            peer: peer.clone(),
            channel,
            waiting: AtomicUsize::new(0),
            overrun: AtomicBool::new(false),
        });
        vhost.replies.lock().insert(to.name.clone(), to.clone());
        Registration { vhost: vhost.clone(), to }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.vhost.replies.lock().remove(&self.to.name);
    }
}
