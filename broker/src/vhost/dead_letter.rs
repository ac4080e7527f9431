//! The owner of messages on their way from the queue that gave them up to where its dead-letter exchange leads.
//!
//! One per virtual host, run in turns.

use std::sync::{Arc, Mutex, Weak};

use leveret_protocol::{Message, content, message};
use leveret_storage::{Entry, Op, Run, Store};

use super::VHost;
use super::deaths::Deaths;
use super::publisher::Publisher;
use super::snapshot::Found;
use crate::clock::Clock;
use crate::command::{Release, Token};
use crate::mailbox::Owner;
use crate::message::{Meta, is_by_key_only, meta, note_by_key_only, routing_keys, shown_keys};
use crate::queue::arguments::DeadLetterTo;

/// Why a queue gives a message up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Rejected,
    Expired,
    MaxLen,
    DeliveryLimit,
}

impl Reason {
    /// As the headers name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Rejected => "rejected",
            Reason::Expired => "expired",
            Reason::MaxLen => "maxlen",
            Reason::DeliveryLimit => "delivery_limit",
        }
    }
}

/// Messages that a queue gives up.
pub struct DeadLetter {
    /// Name and id of the queue they died in.
    pub queue: Arc<str>,
    pub id: u64,
    /// They are in storage under that id.
    pub stored: bool,
    pub to: Arc<DeadLetterTo>,
    pub reason: Reason,
    /// Sequence number of the first message.
    pub first: u64,
    pub run: Run,
}

pub struct DeadLetterOwner {
    pub vhost: Weak<VHost>,
    pub store: Store<Token>,
    pub clock: Arc<dyn Clock>,
    pub publisher: Publisher,
}

impl Owner for DeadLetterOwner {
    type Command = DeadLetter;

    fn run(&mut self, letters: &mut Vec<DeadLetter>) {
        let Some(vhost) = self.vhost.upgrade() else { return };
        for letter in letters.drain(..) {
            self.publish(&vhost, &letter);
        }
        self.publisher.flush(&vhost);
    }

    fn fail(&mut self) {
        tracing::error!("dead-lettering failed; what is stored comes back with the next start");
        self.publisher.clear();
    }
}

impl DeadLetterOwner {
    fn publish(&mut self, vhost: &VHost, letter: &DeadLetter) {
        let release = letter.stored.then(|| {
            let (queue, first, count) = (letter.id, letter.first, letter.run.count().into());
            let entries = Mutex::new(vec![Entry::Op(Op::Remove { queue, first, count })]);
            Arc::new(Release { store: self.store.clone(), entries })
        });
        let run = &letter.run;
        for index in run.from..run.to {
            let (bytes, meta) = (run.block.bytes(index), meta(&run.block, index));
            self.publish_one(vhost, letter, bytes, meta);
        }
        self.publisher.release(release);
    }

    fn publish_one(&mut self, vhost: &VHost, letter: &DeadLetter, bytes: &[u8], meta: Meta) {
        let snapshot = vhost.snapshot();
        let Some(exchange) = snapshot.exchanges.get(&*letter.to.exchange) else { return };
        let Some(message) = Message::parse(bytes) else { return };
        let Ok(properties) = message.content_header().parse() else { return };
        let keys = routing_keys(&message, &properties, meta);
        let shown = shown_keys(&keys, &properties);
        let now = self.clock.wall();
        let deaths = Deaths::of(&properties, meta).with(letter, &message, &properties, shown, now / 1000);
        let Ok(header) = deaths.edit(&message, &properties, meta, letter) else { return };
        let by_key_only = letter.to.key.is_some() || is_by_key_only(&message, meta);
        let onward: Vec<&[u8]> = match &letter.to.key {
            Some(key) => vec![key],
            None => keys,
        };
        let mut found = Found::default();
        let edited = content::header(&header);
        let Ok(properties) = edited.parse() else { return };
        snapshot.route(exchange, &onward, &properties, &mut found);
        found.queues.retain(|queue| !deaths.cycles_to(&queue.name, letter.reason));
        let address = message::address(&letter.to.exchange, onward[0]);
        let mut dead = message.rebuild(&address, &header);
        let meta = Meta::new(address.len(), now)
            .with_persistent(meta.is_persistent())
            .with_priority(meta.priority())
            .with_hidden(meta.hides())
            .with_dead_lettered();
        note_by_key_only(&mut dead, meta, by_key_only);
        self.publisher.publish(vhost, &found, dead, meta, None);
    }
}
