//! What a dead letter has been through, as its headers tell it.

use leveret_protocol::amq::{AMQPValue, LongString};
use leveret_protocol::content::{self, Edits, Properties};
use leveret_protocol::table::{Table, Value};
use leveret_protocol::{AmqpError, Message};

use super::dead_letter::{DeadLetter, Reason};
use crate::message::Meta;

/// The x-death header: one entry per queue and reason, the most recent event first.
pub struct Deaths<'a>(Vec<Death<'a>>);

/// The deaths in one queue for one reason.
struct Death<'a> {
    count: i64,
    reason: &'a [u8],
    queue: &'a [u8],
    /// Of the first of them, in seconds since the Unix epoch.
    time: u64,
    /// What follows is as it was before the first of them.
    exchange: &'a [u8],
    routing_keys: Vec<&'a [u8]>,
    expiration: Option<&'a [u8]>,
}

impl<'a> Deaths<'a> {
    /// The history that the broker itself has written; a publisher's own header means nothing.
    pub fn of(properties: &Properties<'a>, meta: Meta) -> Deaths<'a> {
        let header = properties.headers.filter(|_| meta.is_dead_lettered());
        let Some(Value::Array(entries)) = header.and_then(|headers| headers.get(b"x-death")) else {
            return Deaths(Vec::new());
        };
        let tables = entries.iter().filter_map(|entry| match entry {
            Value::Table(table) => Some(Death::read(table)),
            _ => None,
        });
        Deaths(tables.collect())
    }

    /// The history with one event more, now, in `seconds` since the Unix epoch; `keys` are those of the message that may be shown.
    pub fn with(
        mut self,
        letter: &'a DeadLetter,
        message: &Message<'a>,
        properties: &Properties<'a>,
        keys: Vec<&'a [u8]>,
        seconds: u64,
    ) -> Deaths<'a> {
        let (queue, reason) = (letter.queue.as_bytes(), letter.reason.as_str().as_bytes());
        let known = self.0.iter().position(|death| death.queue == queue && death.reason == reason);
        let death = match known {
            Some(index) => {
                let death = self.0.remove(index);
                Death { count: death.count.saturating_add(1), ..death }
            }
            None => Death {
                count: 1,
                reason,
                queue,
                time: seconds,
                exchange: message.exchange,
                routing_keys: keys,
                expiration: properties.expiration,
            },
        };
        self.0.insert(0, death);
        self
    }

    /// The payload of the new content header: history and first and last death, without the expiration.
    pub fn edit(
        &self,
        message: &Message<'_>,
        properties: &Properties<'_>,
        meta: Meta,
        letter: &DeadLetter,
    ) -> Result<Vec<u8>, AmqpError> {
        let (reason, queue) = (text(letter.reason.as_str().as_bytes()), text(letter.queue.as_bytes()));
        let exchange = text(message.exchange);
        let mut put = vec![
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
        let history = [("x-death", self.encode())];
        let edits = Edits { put: &put, put_encoded: &history, drop_expiration: true, ..Edits::default() };
        content::edit(message.header, &edits)
    }

    /// Whether a letter that goes to `queue` has been there before without anybody rejecting it since.
    pub fn cycles_to(&self, queue: &str, reason: Reason) -> bool {
        if reason == Reason::Rejected {
            return false;
        }
        let Some(index) = self.0.iter().position(|death| death.queue == queue.as_bytes()) else { return false };
        !self.0[..=index].iter().any(|death| death.reason == Reason::Rejected.as_str().as_bytes())
    }

    /// As an array of tables.
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![b'A'];
        sized(&mut out, |out| {
            for death in &self.0 {
                out.push(b'F');
                sized(out, |out| death.write(out));
            }
        });
        out
    }
}

impl<'a> Death<'a> {
    fn read(table: Table<'a>) -> Death<'a> {
        let text = |name: &str| match table.get(name) {
            Some(Value::LongStr(text)) => Some(text),
            _ => None,
        };
        Death {
            count: table.get("count").and_then(|count| count.as_integer()).unwrap_or(0),
            reason: text("reason").unwrap_or_default(),
            queue: text("queue").unwrap_or_default(),
            time: match table.get("time") {
                Some(Value::Timestamp(seconds)) => seconds,
                _ => 0,
            },
            exchange: text("exchange").unwrap_or_default(),
            routing_keys: match table.get("routing-keys") {
                Some(Value::Array(keys)) => keys.iter().filter_map(long_string).collect(),
                _ => Vec::new(),
            },
            expiration: text("original-expiration"),
        }
    }

    /// The entries of its table, in the order in which RabbitMQ writes them.
    fn write(&self, out: &mut Vec<u8>) {
        if let Some(expiration) = self.expiration {
            key(out, "original-expiration");
            put_text(out, expiration);
        }
        key(out, "count");
        out.push(b'l');
        out.extend_from_slice(&self.count.to_be_bytes());
        key(out, "reason");
        put_text(out, self.reason);
        key(out, "queue");
        put_text(out, self.queue);
        key(out, "time");
        out.push(b'T');
        out.extend_from_slice(&self.time.to_be_bytes());
        key(out, "exchange");
        put_text(out, self.exchange);
        key(out, "routing-keys");
        out.push(b'A');
        sized(out, |out| self.routing_keys.iter().for_each(|key| put_text(out, key)));
    }
}

fn long_string(value: Value<'_>) -> Option<&[u8]> {
    match value {
        Value::LongStr(text) => Some(text),
        _ => None,
    }
}

/// The name of a table's entry: a short string, short by its being one of ours.
fn key(out: &mut Vec<u8>, name: &'static str) {
    out.push(name.len() as u8);
    out.extend_from_slice(name.as_bytes());
}

/// A long string with its tag.
fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'S');
    sized(out, |out| out.extend_from_slice(text));
}

/// What `write` appends, behind its size in four octets. All of this came in one frame, or nearly.
fn sized(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    write(out);
    let size = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&size.to_be_bytes());
}

fn text(bytes: &[u8]) -> AMQPValue {
    AMQPValue::LongString(LongString::from(bytes.to_vec()))
}
