//! Random lives of a queue with times to live, limits, priorities, channels that close and brokers that are killed,
//! against a list, on virtual time.
//!
//! A step is a turn, so the list can say exactly what must leave the queue in it, to whom ever: what is delivered, what
//! is dead-lettered and why, what is refused; and what is then left, in memory and in storage.

use std::collections::{BTreeMap, BTreeSet};

use leveret_protocol::{Message, message};
use leveret_storage::Run;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::clock::Moment;
use crate::command::Window;
use crate::message::{BlockBuilder, Meta};
use crate::queue::arguments::{DeadLetterTo, Overflow, Settings};
use crate::vhost::dead_letter::Reason;

const CHANNELS: usize = 3;
/// Bytes of a body.
const BODY: u64 = 8;

#[derive(Clone, Debug)]
enum Step {
    Publish {
        count: u64,
        persistent: bool,
        priority: u8,
        expiration: Option<u64>,
    },
    /// Time passes, in milliseconds.
    Wait(u64),
    Consume {
        channel: usize,
        no_ack: bool,
        prefetch: u32,
    },
    Get {
        channel: usize,
        no_ack: bool,
    },
    Settle {
        channel: usize,
        nth: usize,
        how: How,
    },
    Purge,
    /// The channel's consumers go, and what it has not settled goes back.
    Close(usize),
    /// The broker is killed and started again.
    Restart,
}

#[derive(Clone, Copy, Debug)]
enum How {
    Ack,
    Reject,
    Requeue,
}

fn step() -> impl Strategy<Value = Step> {
    let channel = || 0..CHANNELS;
    let expiration = prop_oneof![2 => Just(None), 1 => (0..40u64).prop_map(Some)];
    let how = prop_oneof![2 => Just(How::Ack), 1 => Just(How::Reject), 2 => Just(How::Requeue)];
    prop_oneof![
        6 => (1..5u64, any::<bool>(), 0..5u8, expiration).prop_map(|(count, persistent, priority, expiration)| {
            Step::Publish { count, persistent, priority, expiration }
        }),
        4 => (1..30u64).prop_map(Step::Wait),
        2 => (channel(), any::<bool>(), 0..4u32).prop_map(|(channel, no_ack, prefetch)| {
            Step::Consume { channel, no_ack, prefetch }
        }),
        3 => (channel(), any::<bool>()).prop_map(|(channel, no_ack)| Step::Get { channel, no_ack }),
        5 => (channel(), 0..8usize, how).prop_map(|(channel, nth, how)| Step::Settle { channel, nth, how }),
        1 => Just(Step::Purge),
        2 => channel().prop_map(Step::Close),
        1 => Just(Step::Restart),
    ]
}

fn settings() -> impl Strategy<Value = Settings> {
    let ttl = prop_oneof![2 => Just(None), 1 => Just(Some(0)), 2 => (1..50u64).prop_map(Some)];
    let length = prop_oneof![1 => Just(None), 2 => (0..6u64).prop_map(Some)];
    let bytes = prop_oneof![3 => Just(None), 1 => (0..5 * BODY).prop_map(Some)];
    let overflow =
        prop_oneof![Just(Overflow::DropHead), Just(Overflow::RejectPublish), Just(Overflow::RejectPublishDlx)];
    let priorities = prop_oneof![Just(None), (1..4u8).prop_map(Some)];
    (ttl, length, bytes, overflow, priorities, any::<bool>()).prop_map(
        |(message_ttl, max_length, max_bytes, overflow, max_priority, dead_letters)| Settings {
            message_ttl,
            max_length,
            max_bytes,
            overflow,
            max_priority,
            dead_letter: dead_letters.then(|| Arc::new(DeadLetterTo { exchange: b"dlx".as_slice().into(), key: None })),
            ..Settings::default()
        },
    )
}

/// What the list knows of a message.
#[derive(Clone, Copy, Debug)]
struct Known {
    priority: u8,
    persistent: bool,
    expires: u64,
    /// It was delivered before.
    seen: bool,
}

/// What leaves the queue in a turn.
#[derive(Debug, Default, PartialEq)]
struct Left {
    /// In the order in which they leave; who gets which is open.
    delivered: Vec<u64>,
    /// With the reason, in order.
    dead: Vec<(&'static str, u64)>,
    /// Publish numbers.
    refused: BTreeSet<u64>,
}

#[derive(Default)]
struct Channel {
    client: Option<Client>,
    consumer: Option<Tap>,
    unacked: Vec<(Option<ConsumerKey>, Segment)>,
}

struct Tap {
    key: ConsumerKey,
    no_ack: bool,
    prefetch: u32,
    window: Arc<Window>,
}

impl Channel {
    fn room(&self) -> u64 {
        match &self.consumer {
            None => 0,
            Some(Tap { no_ack: true, .. } | Tap { prefetch: 0, .. }) => u64::MAX,
            Some(tap) => {
                let unacked = self.unacked.iter().filter(|(consumer, _)| *consumer == Some(tap.key)).count();
                u64::from(tap.prefetch) - unacked as u64
            }
        }
    }
}

struct Life {
    settings: Settings,
    state: QueueState,
    now: u64,
    publisher: Client,
    channels: Vec<Channel>,
    /// Ready messages by falling priority, then by number.
    ready: BTreeMap<(u8, u64), Known>,
    known: BTreeMap<u64, Known>,
    /// The last number published; the queue's own numbers leave out what it has refused.
    published: u64,
    /// By sequence number: the message and its `meta`.
    stored: BTreeMap<u64, (Vec<u8>, u64)>,
    delivered_through: u64,
    /// The queue's next sequence number after a restart.
    next_sequence: u64,
    expected: Left,
    seen: Left,
    confirmed: BTreeSet<u64>,
}

impl Life {
    fn new(settings: Settings) -> Life {
        Life {
            state: state(&settings, 1, Vec::new(), NOW),
            settings,
            now: NOW,
            publisher: Client::new(),
            channels: (0..CHANNELS).map(|_| Channel::default()).collect(),
            ready: BTreeMap::new(),
            known: BTreeMap::new(),
            published: 0,
            stored: BTreeMap::new(),
            delivered_through: 0,
            next_sequence: 1,
            expected: Left::default(),
            seen: Left::default(),
            confirmed: BTreeSet::new(),
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Publish { count, persistent, priority, expiration } => {
                self.publish(count, persistent, priority, expiration);
            }
            Step::Wait(by) => {
                self.now += by;
                self.turn(vec![QueueCommand::Tick]);
            }
            Step::Consume { channel, no_ack, prefetch } => self.consume(channel, no_ack, prefetch),
            Step::Get { channel, no_ack } => self.get(channel, no_ack),
            Step::Settle { channel, nth, how } => self.settle(channel, nth, how),
            Step::Purge => {
                self.ready.clear();
                let from = self.publisher.from.clone();
                self.turn(vec![QueueCommand::Purge { from }]);
            }
            Step::Close(channel) => self.close(channel),
            Step::Restart => self.restart(),
        }
        assert_eq!(self.seen, self.expected, "what has left (left: really, right: by the list)");
        (self.seen, self.expected) = Default::default();
        self.check_rest();
    }

    // What is done to the queue, and to the list

    fn publish(&mut self, count: u64, persistent: bool, priority: u8, expiration: Option<u64>) {
        let first = self.published + 1;
        self.published += count;
        let numbers = first..=self.published;
        let run = run(numbers.clone(), persistent, priority, expiration, self.now);
        let ttl = [self.settings.message_ttl, expiration].into_iter().flatten().min();
        let expires = ttl.map_or(Segment::NEVER, |ttl| self.now + ttl);
        let known = Known { priority: priority.min(self.highest()), persistent, expires, seen: false };
        for number in numbers {
            self.known.insert(number, known);
            if self.settings.overflow == Overflow::DropHead {
                self.add(number, known);
                if self.one_by_one(expiration) {
                    self.deliver();
                }
            } else if self.overflows(1) {
                self.expected.refused.insert(number);
                if self.settings.overflow == Overflow::RejectPublishDlx {
                    self.die(Reason::MaxLen, number);
                }
            } else {
                self.add(number, known);
                self.deliver();
            }
        }
        let confirm = Some(ConfirmTo { to: self.publisher.from.clone(), first });
        self.turn(vec![QueueCommand::Publish { run, persistent, expiration, confirm }]);
        let all: BTreeSet<u64> = (first..=self.published).collect();
        assert_eq!(std::mem::take(&mut self.confirmed), all, "every publish is answered once");
    }

    fn consume(&mut self, at: usize, no_ack: bool, prefetch: u32) {
        let channel = &mut self.channels[at];
        if channel.consumer.is_some() {
            return;
        }
        let client = channel.client.get_or_insert_with(Client::new);
        let new = NewConsumer { no_ack, prefetch, ..testing::consumer(&client.from) };
        // The queue gives the key.
        let key = ConsumerKey { slot: 0, serial: 0 };
        channel.consumer = Some(Tap { key, no_ack, prefetch, window: new.window.clone() });
        self.turn(vec![QueueCommand::Consume(Box::new(new))]);
    }

    fn get(&mut self, at: usize, no_ack: bool) {
        self.expire(false);
        if let Some(((_, number), _)) = self.ready.pop_first() {
            self.expected.delivered.push(number);
            self.expire(true);
        }
        let client = self.channels[at].client.get_or_insert_with(Client::new);
        let from = client.from.clone();
        self.turn(vec![QueueCommand::Get { from, no_ack }]);
    }

    fn settle(&mut self, at: usize, nth: usize, how: How) {
        let unacked = &mut self.channels[at].unacked;
        if unacked.is_empty() {
            return;
        }
        let (consumer, segment) = unacked.remove(nth % unacked.len());
        let command = match how {
            How::Ack => {
                let persistent = segment.persistent;
                QueueCommand::Settle { consumer, first: segment.first, count: 1, persistent, spilled: false }
            }
            How::Reject => {
                self.die(Reason::Rejected, number(&segment));
                QueueCommand::Reject { consumer, segment }
            }
            How::Requeue => self.requeue(consumer, segment),
        };
        self.turn(vec![command]);
    }

    fn requeue(&mut self, consumer: Option<ConsumerKey>, segment: Segment) -> QueueCommand {
        let number = number(&segment);
        if let Some(known) = self.known.get_mut(&number) {
            known.seen = true;
            let known = *known;
            self.add(number, known);
        }
        QueueCommand::Requeue { consumer, segment, seen: true }
    }

    fn close(&mut self, at: usize) {
        let channel = std::mem::take(&mut self.channels[at]);
        let mut commands = Vec::new();
        if let Some(tap) = channel.consumer {
            commands.push(QueueCommand::Cancel { consumer: tap.key, then: None });
        }
        for (consumer, segment) in channel.unacked {
            commands.push(self.requeue(consumer, segment));
        }
        self.turn(commands);
    }

    /// Storage has what was persistent and not settled; what may have been delivered is marked.
    fn restart(&mut self) {
        self.channels = (0..CHANNELS).map(|_| Channel::default()).collect();
        self.ready.clear();
        let mut segments = Vec::new();
        for (sequence, (bytes, meta)) in &self.stored {
            let mut builder = BlockBuilder::default();
            builder.add(bytes, Meta(*meta));
            let run = Run { block: builder.finish(&Arc::default()), from: 0, to: 1 };
            let seen = *sequence <= self.delivered_through;
            segments.push(stored(*sequence, run, seen));
        }
        for segment in &segments {
            let number = number(segment);
            if let Some(known) = self.known.get_mut(&number) {
                known.seen = segment.redelivered;
                self.ready.insert((u8::MAX - known.priority, number), *known);
            }
        }
        self.state = state(&self.settings, self.next_sequence, segments, self.now);
        self.turn(vec![QueueCommand::Tick]);
    }

    // The list

    fn highest(&self) -> u8 {
        self.settings.max_priority.unwrap_or(0)
    }

    fn add(&mut self, number: u64, known: Known) {
        self.ready.insert((u8::MAX - known.priority, number), known);
    }

    fn die(&mut self, reason: Reason, number: u64) {
        if self.settings.dead_letter.is_some() {
            self.expected.dead.push((name(reason), number));
        }
    }

    /// With so many more, it holds more than it may.
    fn overflows(&self, more: u64) -> bool {
        let count = self.ready.len() as u64 + more;
        self.settings.max_length.is_some_and(|most| count > most)
            || self.settings.max_bytes.is_some_and(|most| count * BODY > most)
    }

    /// Publishes are offered, and given up, one by one as they come.
    fn one_by_one(&self, expiration: Option<u64>) -> bool {
        let at_once = [self.settings.message_ttl, expiration].contains(&Some(0));
        let limited = self.settings.max_length.is_some() || self.settings.max_bytes.is_some();
        self.settings.overflow != Overflow::DropHead || (at_once && limited)
    }

    /// What has expired goes, as far as it is at the head; what expires this very moment was offered before.
    fn expire(&mut self, offered: bool) {
        while let Some(((_, number), front)) = self.ready.first_key_value().map(|(key, known)| (*key, *known)) {
            let due = front.expires < self.now || (front.expires == self.now && (offered || front.seen));
            if !due {
                return;
            }
            self.ready.pop_first();
            self.die(Reason::Expired, number);
        }
    }

    fn deliver(&mut self) {
        // What was delivered in this turn has taken its place already.
        let taken = self.expected.delivered.len() as u64;
        let room = self.channels.iter().fold(0u64, |room, channel| room.saturating_add(channel.room()));
        let mut room = if room == u64::MAX { room } else { room.saturating_sub(taken) };
        self.expire(false);
        while room > 0
            && let Some(((_, number), _)) = self.ready.pop_first()
        {
            self.expected.delivered.push(number);
            room -= 1;
            self.expire(false);
        }
        self.drop_surplus();
        self.expire(true);
    }

    fn drop_surplus(&mut self) {
        if self.settings.overflow == Overflow::DropHead {
            while self.overflows(0)
                && let Some(((_, number), _)) = self.ready.pop_first()
            {
                self.die(Reason::MaxLen, number);
            }
        }
    }

    // The queue

    fn turn(&mut self, commands: Vec<QueueCommand>) {
        let fetched = matches!(commands.first(), Some(QueueCommand::Get { .. }));
        let came_singly = match commands.first() {
            Some(QueueCommand::Publish { expiration, .. }) => self.one_by_one(*expiration),
            _ => false,
        };
        if commands.iter().any(|command| matches!(command, QueueCommand::Requeue { .. })) {
            self.drop_surplus();
        }
        match (fetched, came_singly) {
            // A fetched message takes no consumer's room.
            (true, _) => {
                let fetched = std::mem::take(&mut self.expected.delivered);
                self.deliver();
                let consumed = std::mem::replace(&mut self.expected.delivered, fetched);
                self.expected.delivered.extend(consumed);
            }
            (_, true) => {
                let before = self.expected.delivered.len();
                self.deliver();
                assert_eq!(self.expected.delivered.len(), before, "delivered one by one as they came");
            }
            _ => self.deliver(),
        }
        let mut fx = Effects::default();
        for command in commands {
            self.state.apply(command, &Moment::of(&testing::Fixed(self.now)), &mut fx);
        }
        self.state.deliver(&Moment::of(&testing::Fixed(self.now)), &mut fx);
        self.hand_out(fx);
    }

    fn hand_out(&mut self, fx: Effects) {
        self.delivered_through = self.delivered_through.max(fx.delivered_through.unwrap_or(0));
        for entry in fx.storage {
            match entry {
                Entry::Op(Op::Insert { first, run, .. }) => {
                    self.next_sequence = first + u64::from(run.count());
                    let messages = run.messages().map(|(bytes, meta)| (bytes.to_vec(), meta));
                    self.stored.extend((first..).zip(messages));
                }
                Entry::Op(Op::Remove { first, count, .. }) => {
                    for sequence in first..first + count {
                        assert!(self.stored.remove(&sequence).is_some(), "{sequence} is removed once");
                    }
                }
                Entry::Notify(_, Token::Confirm { to, count }) => self.confirmed(to.first, count, false),
                Entry::Notify(_, Token::Reply { .. }) => {}
                other => panic!("unexpected {}", word(&other)),
            }
        }
        for letter in fx.dead_letters {
            for (sequence, (bytes, _)) in (letter.first..).zip(letter.run.messages()) {
                self.seen.dead.push((name(letter.reason), number_in(bytes)));
                if letter.stored {
                    assert!(self.stored.remove(&sequence).is_some(), "{sequence} is removed once");
                }
            }
        }
        for (peer, mut events) in fx.events {
            assert!(peer.mailbox.append(&mut events));
        }
        self.hear();
    }

    fn confirmed(&mut self, first: u64, count: u32, refused: bool) {
        for number in first..first + u64::from(count) {
            assert!(self.confirmed.insert(number), "{number} is answered once");
            if refused {
                self.seen.refused.insert(number);
            }
        }
    }

    fn hear(&mut self) {
        while let Some(event) = self.publisher.next() {
            if let ConnectionEvent::Confirm { first, count, refused, .. } = event {
                self.confirmed(first, count, refused);
            }
        }
        let mut delivered = Vec::new();
        for channel in &mut self.channels {
            let Some(client) = &mut channel.client else { continue };
            let mut own = Vec::new();
            while let Some(event) = client.next() {
                match event {
                    ConnectionEvent::Reply { reply: Reply::Consuming(key), .. } => {
                        if let Some(tap) = &mut channel.consumer {
                            tap.key = key;
                        }
                    }
                    ConnectionEvent::Reply { reply: Reply::Got { segment, no_ack, .. }, .. } => {
                        delivered.push(number(&segment));
                        check(&self.known, &segment);
                        if !no_ack {
                            channel.unacked.push((None, segment));
                        }
                    }
                    ConnectionEvent::Reply { reply: Reply::GetEmpty, .. } => {}
                    ConnectionEvent::Deliver(mut delivery) => {
                        let tap = channel.consumer.as_ref().expect("a registered consumer");
                        assert_eq!(tap.key, delivery.consumer);
                        while delivery.segment.count() > 0 {
                            let one = delivery.segment.split_front(1);
                            let bytes = one.bytes() as u32;
                            tap.window.drain(1, bytes);
                            own.push(number(&one));
                            check(&self.known, &one);
                            if !delivery.no_ack {
                                channel.unacked.push((Some(delivery.consumer), one));
                            }
                        }
                    }
                    other => panic!("unexpected {}", hear(&other)),
                }
            }
            // Each consumer gets its own in the order of the list.
            let places: Vec<_> = own.iter().map(|n| self.expected.delivered.iter().position(|e| e == n)).collect();
            assert!(places.is_sorted(), "{own:?} are in order as in {:?}", self.expected.delivered);
            delivered.append(&mut own);
        }
        // Who gets which is open: as a set.
        let mut sorted = self.expected.delivered.clone();
        sorted.sort_unstable();
        delivered.sort_unstable();
        assert_eq!(delivered, sorted, "what is delivered (left: really, right: by the list)");
        self.seen.delivered = self.expected.delivered.clone();
    }

    fn check_rest(&mut self) {
        let ready = self.ready.iter().filter(|(_, known)| known.persistent).map(|((_, number), _)| *number);
        let unacked = self.channels.iter().flat_map(|channel| &channel.unacked);
        let unacked = unacked.filter(|(_, segment)| segment.persistent).map(|(_, segment)| number(segment));
        let unsettled: BTreeSet<u64> = ready.chain(unacked).collect();
        let stored: BTreeSet<u64> = self.stored.values().map(|(bytes, _)| number_in(bytes)).collect();
        assert_eq!(stored, unsettled, "storage has the unsettled persistent messages");
        let held = self.state.ready.iter_mut().filter_map(|segment| segment.here().cloned());
        let mut ready: Vec<u64> =
            held.flat_map(|run| run.messages().map(|(bytes, _)| number_in(bytes)).collect::<Vec<_>>()).collect();
        ready.sort_unstable();
        let mut listed: Vec<u64> = self.ready.keys().map(|(_, number)| *number).collect();
        listed.sort_unstable();
        assert_eq!(ready, listed, "the ready messages");
    }
}

fn check(known: &BTreeMap<u64, Known>, one: &Segment) {
    let known = known[&number(one)];
    assert_eq!((one.redelivered, one.persistent), (known.seen, known.persistent), "{}", number(one));
}

fn name(reason: Reason) -> &'static str {
    match reason {
        Reason::Rejected => "rejected",
        Reason::Expired => "expired",
        Reason::MaxLen => "maxlen",
        Reason::DeliveryLimit => "delivery_limit",
    }
}

/// A durable queue with what was in storage.
fn state(settings: &Settings, next_sequence: u64, messages: Vec<Segment>, now: u64) -> QueueState {
    let messages = Box::new(messages.into_iter());
    let origin = Origin { settings: settings.clone(), next_sequence, messages, now, ..testing::origin("q", true) };
    QueueState::new(origin, Arc::downgrade(handle()))
}

/// A message as recovery gives it to the queue.
fn stored(first: u64, run: Run, redelivered: bool) -> Segment {
    let returns = u32::from(redelivered);
    // Its content says when it expires, if it does.
    let expires = Segment::UNDATED;
    Segment { persistent: true, redelivered, returns, expires, ..Segment::new(first, run) }
}

/// Whole messages, of which the bodies are these numbers.
fn run(
    numbers: impl IntoIterator<Item = u64>,
    persistent: bool,
    priority: u8,
    expiration: Option<u64>,
    now: u64,
) -> Run {
    let mut builder = BlockBuilder::default();
    let address = message::address(b"", b"q");
    let text = expiration.map(|ms| ms.to_string()).unwrap_or_default();
    let flags: u16 = if expiration.is_some() { 1 << 8 } else { 0 };
    let mut header = [&[0, 60, 0, 0][..], &BODY.to_be_bytes(), &flags.to_be_bytes()].concat();
    if expiration.is_some() {
        header.push(text.len() as u8);
        header.extend_from_slice(text.as_bytes());
    }
    for number in numbers {
        let meta = Meta::new(address.len(), now)
            .with_persistent(persistent)
            .with_priority(priority)
            .with_expiration(expiration.is_some());
        builder.add(&message::build(&address, &header, &number.to_be_bytes(), 4096), meta);
    }
    let block = builder.finish(&Arc::default());
    let to = block.count();
    Run { block, from: 0, to }
}

/// The number of the one message of a segment.
fn number(segment: &Segment) -> u64 {
    let run = segment.here().expect("messages in memory");
    number_in(run.block.bytes(run.from))
}

fn number_in(bytes: &[u8]) -> u64 {
    let body = Message::parse(bytes).expect("a whole message").body();
    u64::from_be_bytes(body.try_into().expect("a number"))
}

proptest! {
    #[test]
    fn a_queue_is_a_list_that_time_limits_and_restarts_change(
        settings in settings(),
        steps in vec(step(), 1..80),
    ) {
        let mut life = Life::new(settings);
        for step in &steps {
            life.step(step);
        }
        for channel in 0..CHANNELS {
            life.step(&Step::Close(channel));
        }
        life.step(&Step::Consume { channel: 0, no_ack: true, prefetch: 0 });
        prop_assert!(life.ready.is_empty());
    }
}
