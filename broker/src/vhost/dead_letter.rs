//! The owner of messages on their way from the queue that gave them up to where its dead-letter exchange leads.
//!
//! One per virtual host, run in turns.

use std::sync::{Arc, Mutex, Weak};

use leveret_protocol::amq::{AMQPValue, FieldArray, FieldTable, LongString, short};
use leveret_protocol::content::{self, Edits, Properties};
use leveret_protocol::table::{Table, Value};
use leveret_protocol::{Message, message};
use leveret_storage::{Entry, Op, Run, Store};

use super::VHost;
use super::publisher::Publisher;
use super::snapshot::Found;
use crate::clock::Clock;
use crate::command::{Release, Token};
use crate::mailbox::Owner;
use crate::message::{Meta, meta, routing_keys};
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
    fn as_str(self) -> &'static str {
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
        // BCC was taken out when it was published.
        let keys = routing_keys(&message, &properties, &["CC"]);
        let now = self.clock.wall();
        let deaths = Deaths::of(&properties, meta).with(letter, &message, &properties, &keys, now / 1000);
        let Ok(header) = deaths.edit(&message, &properties, meta, letter) else { return };
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
        let dead = message.rebuild(&address, &header);
        let meta = Meta::new(address.len(), now)
            .with_persistent(meta.is_persistent())
            .with_priority(meta.priority())
            .with_dead_lettered();
        self.publisher.publish(vhost, &found, dead, meta, None, &onward[1..]);
    }
}

/// The x-death header: one entry per queue and reason, the most recent event first.
struct Deaths(Vec<FieldTable>);

impl Deaths {
    /// The history that the broker itself has written; a publisher's own header means nothing.
    fn of(properties: &Properties<'_>, meta: Meta) -> Deaths {
        let header = || match properties.headers?.get(b"x-death")? {
            Value::Array(entries) => Some(entries),
            _ => None,
        };
        let Some(entries) = header().filter(|_| meta.is_dead_lettered()) else { return Deaths(Vec::new()) };
        Deaths(
            entries
                .iter()
                .filter_map(|entry| match entry {
                    Value::Table(table) => Some(table.to_amq()),
                    _ => None,
                })
                .collect(),
        )
    }

    fn with(
        mut self,
        letter: &DeadLetter,
        message: &Message<'_>,
        properties: &Properties<'_>,
        keys: &[&[u8]],
        seconds: u64,
    ) -> Deaths {
        let known = self
            .0
            .iter()
            .position(|entry| is(entry, "queue", &letter.queue) && is(entry, "reason", letter.reason.as_str()));
        let entry = match known {
            Some(index) => {
                let mut entry = self.0.remove(index);
                let count = match entry.inner().get("count") {
                    Some(AMQPValue::LongLongInt(count)) => *count,
                    _ => 0,
                };
                entry.insert(short("count"), AMQPValue::LongLongInt(count + 1));
                entry
            }
            None => {
                let mut entry = FieldTable::default();
                let mut put = |name: &str, value| {
                    entry.insert(short(name), value);
                };
                put("count", AMQPValue::LongLongInt(1));
                put("reason", text(letter.reason.as_str().as_bytes()));
                put("queue", text(letter.queue.as_bytes()));
                put("time", AMQPValue::Timestamp(seconds));
                put("exchange", text(message.exchange));
                let keys: Vec<AMQPValue> = keys.iter().map(|key| text(key)).collect();
                put("routing-keys", AMQPValue::FieldArray(FieldArray::from(keys)));
                if let Some(expiration) = properties.expiration {
                    put("original-expiration", text(expiration));
                }
                entry
            }
        };
        self.0.insert(0, entry);
        self
    }

    /// The payload of the new content header: history and first and last death, without the expiration.
    fn edit(
        &self,
        message: &Message<'_>,
        properties: &Properties<'_>,
        meta: Meta,
        letter: &DeadLetter,
    ) -> Result<Vec<u8>, leveret_protocol::AmqpError> {
        let (reason, queue) = (text(letter.reason.as_str().as_bytes()), text(letter.queue.as_bytes()));
        let exchange = text(message.exchange);
        let entries: Vec<AMQPValue> = self.0.iter().cloned().map(AMQPValue::FieldTable).collect();
        let mut put = vec![
            ("x-death", AMQPValue::FieldArray(FieldArray::from(entries))),
            ("x-last-death-exchange", exchange.clone()),
            ("x-last-death-queue", queue.clone()),
            ("x-last-death-reason", reason.clone()),
        ];
        let has_first = |headers: Table<'_>| headers.get(b"x-first-death-reason").is_some();
        if !(meta.is_dead_lettered() && properties.headers.is_some_and(has_first)) {
            put.push(("x-first-death-exchange", exchange));
            put.push(("x-first-death-queue", queue));
            put.push(("x-first-death-reason", reason));
        }
        content::edit(message.header, &Edits { remove: &[], put: &put, drop_expiration: true, ..Edits::default() })
    }

    /// Whether a letter that goes to `queue` has been there before without anybody rejecting it since.
    fn cycles_to(&self, queue: &str, reason: Reason) -> bool {
        if reason == Reason::Rejected {
            return false;
        }
        let Some(index) = self.0.iter().position(|entry| is(entry, "queue", queue)) else { return false };
        !self.0[..=index].iter().any(|entry| is(entry, "reason", Reason::Rejected.as_str()))
    }
}

fn is(entry: &FieldTable, name: &str, value: &str) -> bool {
    matches!(entry.inner().get(name), Some(AMQPValue::LongString(text)) if text.as_bytes() == value.as_bytes())
}

fn text(bytes: &[u8]) -> AMQPValue {
    AMQPValue::LongString(LongString::from(bytes.to_vec()))
}
