//! The rules of a queue, driven by hand: a sentence a test. Random lives of a queue against a list are in `model`.

mod configured;
mod delivery;
mod durable;
mod endings;
mod life;
mod model;
mod paging;
mod ranked;

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use leveret_protocol::amq::AMQPClass;
use leveret_storage::{Entry, Op};

use super::Queue;
use super::effects::Effects;
use super::state::{Origin, QueueState};
use crate::clock::Moment;
use crate::command::{
    ConfirmTo, ConnectionEvent, ConsumerKey, Delivery, NewConsumer, Peer, QueueCommand, Reply, Requester, Segment,
    Token,
};
use crate::paging::Ranges;
use crate::testing;
use crate::vhost::command::TopologyCommand;

/// The time at which everything happens, in milliseconds since the Unix epoch.
const NOW: u64 = 1_700_000_000_000;

/// A queue's state, and what has come out of it for others than connections.
struct Driven {
    state: QueueState,
    effects: Effects,
    /// Every entry for storage so far.
    stored: Vec<Entry<Token>>,
    topology: Vec<TopologyCommand>,
    /// The highest sequence number noted as delivered.
    delivered_through: u64,
    /// What came back because its connection was gone.
    returned: Vec<Returned>,
    /// Something came back, be it an answer.
    came_back: bool,
    /// What was asked back from storage.
    loads: Vec<Ranges>,
    /// The messages of each dead letter.
    dead_letters: Vec<Vec<u64>>,
}

/// A delivery that came back.
struct Returned {
    consumer: ConsumerKey,
    no_ack: bool,
    numbers: Vec<u64>,
}

/// Get-answers carry a handle of the queue; the tests look at the state only, so any will do.
fn handle() -> &'static Arc<Queue> {
    static HANDLE: OnceLock<Arc<Queue>> = OnceLock::new();
    HANDLE.get_or_init(|| testing::queue("q", true, &testing::store()))
}

impl Driven {
    /// A durable queue `q`.
    fn new() -> Driven {
        Driven::with(|_| {})
    }

    /// A durable queue `q`, changed by `change`.
    fn with(change: impl FnOnce(&mut Origin<'static>)) -> Driven {
        let mut origin = Origin { id: 7, ..testing::origin("q", true) };
        change(&mut origin);
        Driven {
            state: QueueState::new(origin, Arc::downgrade(handle())),
            effects: Effects::default(),
            stored: Vec::new(),
            topology: Vec::new(),
            delivered_through: 0,
            returned: Vec::new(),
            came_back: false,
            loads: Vec::new(),
            dead_letters: Vec::new(),
        }
    }

    /// One turn: the commands, the deliveries that follow, and everything handed out.
    fn turn(&mut self, commands: impl IntoIterator<Item = QueueCommand>) {
        for command in commands {
            self.state.apply(command, &Moment::of(&testing::Fixed(NOW)), &mut self.effects);
        }
        self.state.deliver(&Moment::of(&testing::Fixed(NOW)), &mut self.effects);
        while self.hand_out() {
            self.state.deliver(&Moment::of(&testing::Fixed(NOW)), &mut self.effects);
        }
    }

    /// True when something came back.
    fn hand_out(&mut self) -> bool {
        self.state.read_ahead(64, &mut self.effects);
        let effects = std::mem::take(&mut self.effects);
        if let Some(sequence) = effects.delivered_through {
            self.delivered_through = self.delivered_through.max(sequence);
        }
        self.stored.extend(effects.storage);
        self.loads.extend(effects.loads);
        self.dead_letters.extend(effects.dead_letters.iter().map(|letter| testing::numbers(&letter.run)));
        let mut returned = Vec::new();
        for (peer, mut events) in effects.events {
            if !peer.mailbox.append(&mut events) {
                returned.append(&mut events);
            }
        }
        self.topology.extend(effects.topology);
        if effects.tidy {
            self.state.tidy(&Arc::default());
        }
        let some = !returned.is_empty();
        self.came_back |= some;
        for event in returned {
            if let ConnectionEvent::Deliver(delivery) = &event {
                self.returned.push(Returned {
                    consumer: delivery.consumer,
                    no_ack: delivery.no_ack,
                    numbers: testing::numbers_of(&delivery.segment),
                });
            }
            self.state.undeliverable(event, &Moment::of(&testing::Fixed(NOW)), &mut self.effects);
        }
        some
    }

    /// Messages with these numbers, transient, for which nobody waits.
    fn publish(&mut self, numbers: impl IntoIterator<Item = u64>) {
        self.turn([publish(numbers, false)]);
    }

    /// Storage entries since the last look, as short words.
    fn stored(&mut self) -> Vec<String> {
        self.stored.drain(..).map(|entry| word(&entry)).collect()
    }
}

/// A publish that nobody waits for.
fn publish(numbers: impl IntoIterator<Item = u64>, persistent: bool) -> QueueCommand {
    QueueCommand::Publish { run: testing::run(numbers), persistent, expiration: None, confirm: None }
}

/// A publish whose first message has the publish number `first` on the channel of `to`.
fn publish_confirmed(
    numbers: impl IntoIterator<Item = u64>,
    persistent: bool,
    to: &Requester,
    first: u64,
) -> QueueCommand {
    QueueCommand::Publish {
        run: testing::run(numbers),
        persistent,
        expiration: None,
        confirm: Some(ConfirmTo { to: to.clone(), first }),
    }
}

/// The acknowledgement of everything in `segment`.
fn ack(consumer: ConsumerKey, segment: &Segment) -> QueueCommand {
    QueueCommand::Settle {
        consumer: Some(consumer),
        first: segment.first,
        count: segment.count(),
        persistent: segment.persistent,
        spilled: segment.spilled,
    }
}

/// `segment` coming back to its place from a client.
fn requeue(consumer: ConsumerKey, segment: Segment) -> QueueCommand {
    QueueCommand::Requeue { consumer: Some(consumer), segment, seen: true }
}

fn word(entry: &Entry<Token>) -> String {
    match entry {
        Entry::Op(Op::Insert { first, run, .. }) => format!("insert {first}+{}", run.count()),
        Entry::Op(Op::Remove { first, count, .. }) => format!("remove {first}+{count}"),
        Entry::Op(Op::DropQueue { .. }) => "drop".into(),
        Entry::Fail(error) => format!("fail {error}"),
        Entry::Op(other) => format!("{other:?}"),
        Entry::Notify(level, Token::Confirm { to, count }) => {
            format!("{level:?}: confirm {}+{count}", to.first)
        }
        Entry::Notify(level, Token::Reply { .. }) => format!("{level:?}: reply"),
        Entry::Notify(level, Token::Done(_)) => format!("{level:?}: done"),
        Entry::Notify(level, Token::Spill(_)) => format!("{level:?}: spill"),
    }
}

/// A connection with one channel, as far as a queue sees it.
struct Client {
    peer: Arc<Peer>,
    from: Requester,
    heard: VecDeque<ConnectionEvent>,
}

impl Client {
    fn new() -> Client {
        let peer = testing::peer();
        Client { from: testing::requester(&peer, 1), peer, heard: VecDeque::new() }
    }

    /// Registers a consumer with acknowledgements, changed by `change`.
    #[track_caller]
    fn consume(&mut self, queue: &mut Driven, change: impl FnOnce(&mut NewConsumer)) -> ConsumerKey {
        let mut new = testing::consumer(&self.from);
        change(&mut new);
        queue.turn([QueueCommand::Consume(Box::new(new))]);
        match self.reply() {
            Reply::Consuming(key) => key,
            reply => panic!("expected the consumer to be registered, came {}", say(&reply)),
        }
    }

    /// `basic.get`: the message that was found.
    #[track_caller]
    fn get(&mut self, queue: &mut Driven, no_ack: bool) -> Option<(Segment, u32)> {
        let from = self.from.clone();
        queue.turn([QueueCommand::Get { from, no_ack }]);
        match self.reply() {
            Reply::Got { segment, left, .. } => Some((segment, left)),
            Reply::GetEmpty => None,
            reply => panic!("expected an answer to a get, came {}", say(&reply)),
        }
    }

    /// The ready messages and consumers, as queue.declare-ok says them.
    #[track_caller]
    fn counts(&mut self, queue: &mut Driven) -> (u32, u32) {
        queue.turn([self.status(false)]);
        match self.reply() {
            Reply::Declared { messages, consumers, .. } => (messages, consumers),
            reply => panic!("expected counts, came {}", say(&reply)),
        }
    }

    fn status(&self, stored: bool) -> QueueCommand {
        QueueCommand::Status {
            from: self.from.clone(),
            stored,
            again: Box::new(TopologyCommand::CheckExchange { from: self.from.clone(), name: "again".into() }),
        }
    }

    fn next(&mut self) -> Option<ConnectionEvent> {
        self.heard.extend(testing::events(&self.peer));
        self.heard.pop_front()
    }

    /// The next event must be an answer.
    #[track_caller]
    fn reply(&mut self) -> Reply {
        match self.next() {
            Some(ConnectionEvent::Reply { reply, .. }) => reply,
            Some(event) => panic!("expected an answer, came {}", hear(&event)),
            None => panic!("expected an answer, came nothing"),
        }
    }

    /// The next event must be an error with this reply text.
    #[track_caller]
    fn refused(&mut self, text: &str) {
        match self.reply() {
            Reply::Error(error) => assert_eq!(error.reply_text(), text),
            reply => panic!("expected an error, came {}", say(&reply)),
        }
    }

    /// The next event must be messages for a consumer.
    #[track_caller]
    fn delivery(&mut self) -> Delivery {
        match self.next() {
            Some(ConnectionEvent::Deliver(delivery)) => delivery,
            Some(event) => panic!("expected a delivery, came {}", hear(&event)),
            None => panic!("expected a delivery, came nothing"),
        }
    }

    /// The numbers of all messages that have come for `consumer`; nothing else may have come.
    #[track_caller]
    fn delivered(&mut self, consumer: ConsumerKey) -> Vec<u64> {
        self.deliveries(consumer).iter().flat_map(|delivery| testing::numbers_of(&delivery.segment)).collect()
    }

    /// All that has come, which must be deliveries to `consumer`.
    #[track_caller]
    fn deliveries(&mut self, consumer: ConsumerKey) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        while let Some(event) = self.next() {
            match event {
                ConnectionEvent::Deliver(delivery) if delivery.consumer == consumer => deliveries.push(delivery),
                event => panic!("expected deliveries only, came {}", hear(&event)),
            }
        }
        deliveries
    }

    /// Nothing has come.
    #[track_caller]
    fn hears_nothing(&mut self) {
        if let Some(event) = self.next() {
            panic!("expected nothing, came {}", hear(&event));
        }
    }
}

/// An event in a word, for failing tests.
fn hear(event: &ConnectionEvent) -> String {
    match event {
        ConnectionEvent::Deliver(d) => format!("delivery {:?}", testing::numbers_of(&d.segment)),
        ConnectionEvent::Reply { reply, .. } => say(reply),
        ConnectionEvent::Confirm { first, count, refused: false, .. } => format!("confirm {first}+{count}"),
        ConnectionEvent::Confirm { first, count, .. } => format!("refusal {first}+{count}"),
        ConnectionEvent::ConfirmWritten { number, .. } => format!("confirm of {number} written"),
        ConnectionEvent::ConsumerGone { .. } => "consumer gone".into(),
        ConnectionEvent::DirectReply { .. } => "direct reply".into(),
        ConnectionEvent::Tidy => "tidy".into(),
        ConnectionEvent::Close { error, .. } | ConnectionEvent::Forced { error, .. } => error.reply_text(),
    }
}

/// An answer in a word.
fn say(reply: &Reply) -> String {
    match reply {
        Reply::Method(class) => said(class),
        Reply::Declared { messages, consumers, .. } => format!("declared {messages} {consumers}"),
        Reply::Error(error) => error.reply_text(),
        Reply::Consuming(_) => "consuming".into(),
        Reply::Got { segment, .. } => format!("got {:?}", testing::numbers_of(segment)),
        Reply::GetEmpty => "empty".into(),
        Reply::Done => "done".into(),
    }
}

fn said(class: &AMQPClass) -> String {
    use leveret_protocol::amq::queue::AMQPMethod;
    match class {
        AMQPClass::Queue(AMQPMethod::PurgeOk(ok)) => format!("purged {}", ok.message_count),
        AMQPClass::Queue(AMQPMethod::DeleteOk(ok)) => format!("deleted {}", ok.message_count),
        other => format!("{other:?}"),
    }
}

/// What the topology was told, in words.
fn told(queue: &mut Driven) -> Vec<String> {
    let mut words = Vec::new();
    for command in queue.topology.drain(..) {
        words.push(match command {
            TopologyCommand::QueueDead { name, then, .. } => match then {
                Some((_, reply)) => format!("{name} is dead, then {}", say(&reply)),
                None => format!("{name} is dead"),
            },
            TopologyCommand::Relay { reply, stored, .. } => {
                format!("relay {}{}", say(&reply), if stored { " once it is stored" } else { "" })
            }
            TopologyCommand::CheckExchange { name, .. } => name.into(),
            _ => "something else".into(),
        });
    }
    words
}
