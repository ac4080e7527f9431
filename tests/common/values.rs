//! Field tables as values, and what a message's properties say.

use crate::method::Method;
use crate::say;
use crate::{Content, Octets, Peer, unique};
use amq_protocol::protocol::{BasicProperties, basic, queue};
use amq_protocol::types::{AMQPValue, FieldTable, LongString, ShortString};

/// A signed 32-bit integer (`I`).
pub fn int(value: i32) -> AMQPValue {
    AMQPValue::LongInt(value)
}

/// A signed 64-bit integer (`l`).
pub fn long(value: i64) -> AMQPValue {
    AMQPValue::LongLongInt(value)
}

/// A long string (`S`).
pub fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(value))
}

/// A table with these entries.
pub fn table(entries: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert(ShortString::try_new(*name).expect("a name of at most 255 bytes"), value.clone());
    }
    table
}

/// queue.declare of a transient, shared queue with these arguments.
pub fn declare_with(name: &str, arguments: &[(&str, AMQPValue)]) -> queue::Declare {
    say::declare_with(name, |declare| declare.arguments = table(arguments))
}

/// The same, durable.
pub fn declare_durable_with(name: &str, arguments: &[(&str, AMQPValue)]) -> queue::Declare {
    queue::Declare { durable: true, ..declare_with(name, arguments) }
}

/// A message with the property `expiration`.
pub fn expiring(milliseconds: &str, body: &str) -> Content {
    Content::with(1 << 8, Octets::new().shortstr(milliseconds), body)
}

/// The properties of a message.
///
/// # Panics
/// If they can't be decoded, or octets are left over.
#[track_caller]
pub fn properties(content: &Content) -> BasicProperties {
    let (rest, properties) = basic::parse_properties(&content.properties[..]).expect("properties");
    assert!(rest.is_empty(), "octets behind the properties: {rest:?}");
    properties
}

/// The headers of a message, which has some.
#[track_caller]
pub fn headers(content: &Content) -> FieldTable {
    properties(content).headers().clone().expect("headers")
}

/// One header of a message.
#[track_caller]
pub fn header(content: &Content, name: &str) -> Option<AMQPValue> {
    properties(content).headers().as_ref().and_then(|headers| headers.inner().get(name).cloned())
}

/// The entries of x-death, the most recent first.
#[track_caller]
pub fn deaths(content: &Content) -> Vec<FieldTable> {
    let Some(AMQPValue::FieldArray(entries)) = header(content, "x-death") else {
        panic!("no x-death: {content:?}");
    };
    let tables = entries.as_slice().iter().map(|entry| match entry {
        AMQPValue::FieldTable(table) => table.clone(),
        other => panic!("an entry of x-death that is no table: {other:?}"),
    });
    tables.collect()
}

/// Queue, reason and count of each entry of x-death, the most recent first.
#[track_caller]
pub fn history(content: &Content) -> Vec<(String, String, i64)> {
    let word = |entry: &FieldTable, name: &str| match entry.inner().get(name) {
        Some(AMQPValue::LongString(word)) => word.to_string(),
        other => panic!("{name} of {entry:?}: {other:?}"),
    };
    let count = |entry: &FieldTable| match entry.inner().get("count") {
        Some(AMQPValue::LongLongInt(count)) => *count,
        other => panic!("count of {entry:?}: {other:?}"),
    };
    deaths(content).iter().map(|entry| (word(entry, "queue"), word(entry, "reason"), count(entry))).collect()
}

/// Queues with arguments.
impl Peer {
    /// queue.declare of a transient, shared queue of a new name with these arguments; its name.
    #[track_caller]
    pub fn queue_with(&mut self, channel: u16, arguments: &[(&str, AMQPValue)]) -> String {
        self.declared(channel, |name| declare_with(name, arguments))
    }

    /// The same of a quorum queue.
    #[track_caller]
    pub fn quorum_queue(&mut self, channel: u16, arguments: &[(&str, AMQPValue)]) -> String {
        let mut arguments = arguments.to_vec();
        arguments.push(("x-queue-type", text("quorum")));
        self.declared(channel, |name| declare_durable_with(name, &arguments))
    }

    /// A queue with these arguments whose dead letters go to a second one by the default exchange: both names.
    #[track_caller]
    pub fn queue_and_grave(&mut self, channel: u16, arguments: &[(&str, AMQPValue)]) -> (String, String) {
        let grave = self.queue(channel, "grave");
        let mut arguments = arguments.to_vec();
        arguments.push(("x-dead-letter-exchange", text("")));
        arguments.push(("x-dead-letter-routing-key", text(&grave)));
        (self.queue_with(channel, &arguments), grave)
    }

    #[track_caller]
    fn declared(&mut self, channel: u16, declare: impl FnOnce(&str) -> queue::Declare) -> String {
        let name = unique("queue");
        self.ask::<queue::DeclareOk>(channel, declare(&name));
        name
    }

    /// Waits until the queue has a message ready, and fetches it.
    #[track_caller]
    pub fn wait_for(&mut self, channel: u16, queue: &str) -> (basic::GetOk, Content) {
        self.wait_until(channel, queue, "some messages", |ready| ready > 0);
        self.get(channel, queue)
    }

    /// Waits until the queue has as many messages ready.
    #[track_caller]
    pub fn wait_for_count(&mut self, channel: u16, queue: &str, count: u32) {
        self.wait_until(channel, queue, &format!("{count} messages"), |ready| ready == count);
    }

    #[track_caller]
    fn wait_until(&mut self, channel: u16, queue: &str, what: &str, enough: impl Fn(u32) -> bool) {
        let patience = std::time::Instant::now() + std::time::Duration::from_secs(20);
        loop {
            let ready = self.counts(channel, queue).0;
            if enough(ready) {
                return;
            }
            assert!(std::time::Instant::now() < patience, "{queue} has {ready} messages, not {what}");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// Sends a method, which must close the channel with 406 for this reason; the channel is opened again.
    #[track_caller]
    pub fn refused_406(&mut self, channel: u16, method: impl Method, text: &str) {
        self.refused(channel, method, 406, &format!("PRECONDITION_FAILED - {text}"));
        self.open_channel(channel);
    }
    /// Answers a channel.close that has been heard, and opens the channel again.
    #[track_caller]
    pub fn close_ok_and_open(&mut self, channel: u16) {
        self.send(channel, amq_protocol::protocol::channel::CloseOk {});
        self.open_channel(channel);
    }
}
