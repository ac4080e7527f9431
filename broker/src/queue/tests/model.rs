//! Random lives of a queue against a list of messages.
//!
//! The list cannot say which consumer gets which message, only what must hold whoever does: a message is ready,
//! unacked or done, never two of them; what leaves is the front of the list, in order; nobody has more than allowed,
//! and nobody waits who may have more; storage holds the unsettled persistent messages and nothing else.
//! Messages are numbered from 1 as the queue numbers them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::command::{ChannelLimit, Window};

const CLIENTS: usize = 3;

/// What somebody does.
#[derive(Clone, Debug)]
enum Step {
    Publish {
        count: u64,
        persistent: bool,
        confirmed: bool,
    },
    Consume {
        client: usize,
        no_ack: bool,
        prefetch: u32,
    },
    Cancel {
        client: usize,
        nth: usize,
    },
    /// Acks, rejects for good or requeues.
    Settle {
        client: usize,
        nth: usize,
        multiple: bool,
        requeue: bool,
    },
    Get {
        client: usize,
        no_ack: bool,
    },
    Purge {
        client: usize,
    },
    /// `basic.qos` for the whole channel.
    Limit {
        client: usize,
        count: u32,
    },
    /// Survivors are copied out of blocks of which little is left.
    Tidy,
    /// The connection ends; the queue is not told yet.
    Lose {
        client: usize,
    },
    /// What the connection has left behind is given back; a new one takes its place.
    Bury {
        client: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let client = || 0..CLIENTS;
    prop_oneof![
        6 => (1..12u64, any::<bool>(), any::<bool>()).prop_map(|(count, persistent, confirmed)| {
            Step::Publish { count, persistent, confirmed }
        }),
        3 => (client(), any::<bool>(), 0..4u32).prop_map(|(client, no_ack, prefetch)| {
            Step::Consume { client, no_ack, prefetch }
        }),
        2 => (client(), 0..4usize).prop_map(|(client, nth)| Step::Cancel { client, nth }),
        6 => (client(), 0..8usize, any::<bool>(), any::<bool>()).prop_map(
            |(client, nth, multiple, requeue)| Step::Settle { client, nth, multiple, requeue }
        ),
        3 => (client(), any::<bool>()).prop_map(|(client, no_ack)| Step::Get { client, no_ack }),
        1 => client().prop_map(|client| Step::Purge { client }),
        1 => (client(), 0..4u32).prop_map(|(client, count)| Step::Limit { client, count }),
        1 => Just(Step::Tidy),
        1 => client().prop_map(|client| Step::Lose { client }),
        1 => client().prop_map(|client| Step::Bury { client }),
    ]
}

#[derive(Clone, Copy, Debug)]
struct Message {
    persistent: bool,
    /// It was delivered before.
    seen: bool,
}

/// An unacked message.
struct Held {
    consumer: Option<ConsumerKey>,
    segment: Segment,
    counted: bool,
}

struct Tap {
    key: ConsumerKey,
    no_ack: bool,
    prefetch: u32,
    window: Arc<Window>,
}

/// What a client must be answered.
enum Due {
    Consuming(Tap),
    Got { number: u64, message: Message, left: u32, no_ack: bool },
    Empty,
}

/// A connection: what it would keep of its deliveries.
struct Connection {
    client: Client,
    lost: bool,
    limit: Arc<ChannelLimit>,
    /// As it was last set.
    limited_to: u32,
    taps: Vec<Tap>,
    unacked: Vec<Held>,
    due: VecDeque<Due>,
}

impl Connection {
    fn new() -> Connection {
        Connection {
            client: Client::new(),
            lost: false,
            limit: Arc::default(),
            limited_to: 0,
            taps: Vec::new(),
            unacked: Vec::new(),
            due: VecDeque::new(),
        }
    }

    fn counted(&self) -> u32 {
        self.unacked.iter().filter(|held| held.counted).count() as u32
    }

    fn is_full(&self) -> bool {
        self.limited_to != 0 && self.counted() >= self.limited_to
    }

    fn has_room(&self, tap: &Tap) -> bool {
        if tap.no_ack {
            return !self.is_full();
        }
        let unacked = self.unacked_of(tap.key);
        (tap.prefetch == 0 || unacked < tap.prefetch) && !self.is_full()
    }

    fn unacked_of(&self, key: ConsumerKey) -> u32 {
        let of = |held: &&Held| held.consumer == Some(key);
        self.unacked.iter().filter(of).count() as u32
    }
}

struct World {
    queue: Driven,
    publisher: Client,
    connections: Vec<Connection>,
    ready: BTreeMap<u64, Message>,
    published: u64,
    stored: BTreeSet<u64>,
    inserted: BTreeSet<u64>,
    /// Publishes that wait for their confirm.
    unconfirmed: BTreeSet<u64>,
    /// The highest persistent message handed out with acknowledgement.
    seen_through: u64,
    anything_returned: bool,
}

impl World {
    fn new() -> World {
        World {
            queue: Driven::new(),
            publisher: Client::new(),
            connections: (0..CLIENTS).map(|_| Connection::new()).collect(),
            ready: BTreeMap::new(),
            published: 0,
            stored: BTreeSet::new(),
            inserted: BTreeSet::new(),
            unconfirmed: BTreeSet::new(),
            seen_through: 0,
            anything_returned: false,
        }
    }

    fn live(&mut self, steps: &[Step]) {
        let mut commands = Vec::new();
        for step in steps {
            self.step(step, &mut commands);
        }
        let waiting: Vec<u64> = self.ready.keys().copied().collect();
        self.queue.turn(commands);
        let returned = std::mem::take(&mut self.queue.returned);
        let gone = self.take_back(&returned);
        let untroubled = !std::mem::take(&mut self.queue.came_back);
        let delivered = self.hear(untroubled);
        if untroubled {
            let front: BTreeSet<u64> = waiting.iter().copied().take(delivered.len()).collect();
            assert_eq!(delivered, front, "what leaves is the front of the list");
        } else {
            self.anything_returned = true;
        }
        assert!(gone.is_disjoint(&delivered));
        self.check_room();
        self.check_storage();
        self.check_counts();
    }

    /// Adds the commands that a connection sends for `step`, and does to the list what they say.
    fn step(&mut self, step: &Step, commands: &mut Vec<QueueCommand>) {
        match *step {
            Step::Publish { count, persistent, confirmed } => self.publish(count, persistent, confirmed, commands),
            Step::Lose { client } => {
                let connection = &mut self.connections[client];
                connection.lost = true;
                connection.client.peer.mailbox.close();
            }
            Step::Tidy => commands.push(QueueCommand::Tidy),
            Step::Bury { client } => self.bury(client, commands),
            Step::Consume { client, .. }
            | Step::Cancel { client, .. }
            | Step::Settle { client, .. }
            | Step::Get { client, .. }
            | Step::Purge { client }
            | Step::Limit { client, .. }
                if self.connections[client].lost => {}
            Step::Consume { client, no_ack, prefetch } => self.consume(client, no_ack, prefetch, commands),
            Step::Cancel { client, nth } => {
                let taps = &mut self.connections[client].taps;
                if !taps.is_empty() {
                    let tap = taps.remove(nth % taps.len());
                    commands.push(QueueCommand::Cancel { consumer: tap.key, then: None });
                }
            }
            Step::Settle { client, nth, multiple, requeue } => self.settle(client, nth, multiple, requeue, commands),
            Step::Get { client, no_ack } => self.get(client, no_ack, commands),
            Step::Purge { client } => {
                self.ready.clear();
                let from = self.connections[client].client.from.clone();
                commands.push(QueueCommand::Purge { from });
            }
            Step::Limit { client, count } => {
                let connection = &mut self.connections[client];
                // A channel's next method waits for the answer to the one before.
                if !connection.due.is_empty() {
                    return;
                }
                if connection.limited_to == 0 && count != 0 {
                    for held in connection.unacked.iter_mut().filter(|held| !held.counted) {
                        held.counted = true;
                        connection.limit.add(1);
                    }
                }
                connection.limited_to = count;
                connection.limit.set(count);
                commands.push(QueueCommand::Wake);
            }
        }
    }

    fn publish(&mut self, count: u64, persistent: bool, confirmed: bool, commands: &mut Vec<QueueCommand>) {
        let first = self.published + 1;
        self.published += count;
        let numbers = first..=self.published;
        for number in numbers.clone() {
            let seen = false;
            self.ready.insert(number, Message { persistent, seen });
        }
        if confirmed {
            self.unconfirmed.extend(numbers.clone());
            let to = &self.publisher.from;
            commands.push(publish_confirmed(numbers, persistent, to, first));
        } else {
            commands.push(super::publish(numbers, persistent));
        }
    }

    fn consume(&mut self, client: usize, no_ack: bool, prefetch: u32, commands: &mut Vec<QueueCommand>) {
        let connection = &mut self.connections[client];
        let new = NewConsumer {
            no_ack,
            prefetch,
            limit: connection.limit.clone(),
            ..testing::consumer(&connection.client.from)
        };
        connection.due.push_back(Due::Consuming(Tap {
            // The queue gives the key.
            key: ConsumerKey { slot: 0, serial: 0 },
            no_ack,
            prefetch,
            window: new.window.clone(),
        }));
        commands.push(QueueCommand::Consume(Box::new(new)));
    }

    fn settle(&mut self, client: usize, nth: usize, multiple: bool, back: bool, commands: &mut Vec<QueueCommand>) {
        let connection = &mut self.connections[client];
        if connection.unacked.is_empty() {
            return;
        }
        let nth = nth % connection.unacked.len();
        let first = if multiple { 0 } else { nth };
        let taken: Vec<Held> = connection.unacked.drain(first..=nth).collect();
        let counted = taken.iter().filter(|held| held.counted).count() as u32;
        connection.limit.free(counted);
        let starved = counted > 0 && connection.limit.take_starved();
        for held in taken {
            self.give(held, back, commands);
        }
        if starved {
            commands.push(QueueCommand::Wake);
        }
    }

    /// One unacked message leaves its connection: back to its place, or for good.
    fn give(&mut self, held: Held, back: bool, commands: &mut Vec<QueueCommand>) {
        let Held { consumer, segment, .. } = held;
        let persistent = segment.persistent;
        if !back && segment.first.is_multiple_of(3) {
            commands.push(QueueCommand::Reject { consumer, segment });
            return;
        }
        if !back {
            commands.push(QueueCommand::Settle {
                consumer,
                first: segment.first,
                count: 1,
                persistent,
                spilled: false,
            });
            return;
        }
        let seen = true;
        self.ready.insert(segment.first, Message { persistent, seen });
        commands.push(QueueCommand::Requeue { consumer, segment, seen });
    }

    fn get(&mut self, client: usize, no_ack: bool, commands: &mut Vec<QueueCommand>) {
        let connection = &mut self.connections[client];
        connection.due.push_back(match self.ready.pop_first() {
            Some((number, message)) => Due::Got { number, message, left: self.ready.len() as u32, no_ack },
            None => Due::Empty,
        });
        let from = connection.client.from.clone();
        commands.push(QueueCommand::Get { from, no_ack });
    }

    fn bury(&mut self, client: usize, commands: &mut Vec<QueueCommand>) {
        // Answers to what it has just asked go nowhere; wait for them to have come back.
        if !self.connections[client].due.is_empty() {
            return;
        }
        let old = std::mem::replace(&mut self.connections[client], Connection::new());
        old.client.peer.mailbox.close();
        for tap in old.taps {
            commands.push(QueueCommand::Cancel { consumer: tap.key, then: None });
        }
        for held in old.unacked {
            self.give(held, true, commands);
        }
    }

    /// What came back from lost connections. Returns what counts as done for all that.
    fn take_back(&mut self, returned: &[Returned]) -> BTreeSet<u64> {
        let mut done = BTreeSet::new();
        for back in returned {
            for connection in self.connections.iter_mut().filter(|c| c.lost) {
                connection.taps.retain(|tap| tap.key != back.consumer);
            }
            if back.no_ack {
                done.extend(&back.numbers);
            }
        }
        for connection in self.connections.iter_mut().filter(|c| c.lost) {
            for due in connection.due.drain(..) {
                if let Due::Got { number, message, no_ack: false, .. } = due {
                    self.ready.insert(number, message);
                    self.anything_returned = true;
                }
            }
        }
        for number in &done {
            assert!(self.ready.remove(number).is_some(), "{number} was ready");
        }
        done
    }

    /// Takes what has come for the living connections; returns the numbers of all deliveries. Unless something came
    /// back meanwhile, each consumer gets its own in order.
    fn hear(&mut self, in_order: bool) -> BTreeSet<u64> {
        let mut delivered = BTreeSet::new();
        for connection in self.connections.iter_mut().filter(|c| !c.lost) {
            let mut last: BTreeMap<u64, u64> = BTreeMap::new();
            while let Some(event) = connection.client.next() {
                match event {
                    ConnectionEvent::Deliver(delivery) => {
                        let first = delivery.segment.first;
                        let before = last.insert(delivery.consumer.serial, delivery.segment.last());
                        assert!(!in_order || before < Some(first), "in order per consumer");
                        for message in singles(delivery.segment.clone()) {
                            let number = message.first;
                            let known = self.ready.remove(&number);
                            let known = known.unwrap_or_else(|| panic!("{number} is not ready"));
                            check(&message, known);
                            delivered.insert(number);
                            note(connection, &mut self.seen_through, &delivery, message);
                        }
                    }
                    ConnectionEvent::Reply { reply, .. } => answered(connection, &mut self.seen_through, reply),
                    other => panic!("unexpected {}", hear(&other)),
                }
            }
            assert!(connection.due.is_empty(), "everything is answered in the same turn");
        }
        while let Some(event) = self.publisher.next() {
            let ConnectionEvent::Confirm { first, count, .. } = event else {
                panic!("unexpected {}", hear(&event));
            };
            for number in first..first + u64::from(count) {
                assert!(self.unconfirmed.remove(&number), "{number} is confirmed once");
                assert!(!self.inserted.contains(&number), "a stored one is confirmed by storage");
            }
        }
        delivered
    }

    /// Nobody has more than allowed, and no message waits for somebody who may have it.
    fn check_room(&self) {
        for connection in self.connections.iter().filter(|c| !c.lost) {
            assert_eq!(connection.limit.is_full(), connection.is_full());
            for tap in &connection.taps {
                let unacked = connection.unacked_of(tap.key);
                assert!(tap.no_ack || tap.prefetch == 0 || unacked <= tap.prefetch);
                assert!(
                    self.ready.is_empty() || !connection.has_room(tap),
                    "{:?} waits although somebody has room",
                    self.ready.keys()
                );
            }
        }
    }

    fn check_storage(&mut self) {
        for entry in self.queue.stored.drain(..) {
            match entry {
                Entry::Op(Op::Insert { first, run, .. }) => {
                    let numbers = testing::numbers(&run);
                    assert_eq!(numbers.first(), Some(&first));
                    for number in numbers {
                        assert!(self.inserted.insert(number), "{number} is stored once");
                        self.stored.insert(number);
                    }
                }
                Entry::Op(Op::Remove { first, count, .. }) => {
                    for number in first..first + count {
                        assert!(self.stored.remove(&number), "{number} is removed once");
                    }
                }
                Entry::Notify(_, Token::Confirm { to, count }) => {
                    for number in to.first..to.first + u64::from(count) {
                        assert!(self.inserted.contains(&number), "{number} stored, then confirmed");
                        assert!(self.unconfirmed.remove(&number), "{number} is confirmed once");
                    }
                }
                Entry::Notify(_, Token::Reply { .. }) => {}
                other => panic!("unexpected {}", word(&other)),
            }
        }
        assert!(self.unconfirmed.is_empty(), "every publish gets its confirm");
        let ready = self.ready.iter().filter(|(_, message)| message.persistent);
        let unacked = self.connections.iter().flat_map(|c| &c.unacked);
        let held = unacked.filter(|held| held.segment.persistent);
        let unsettled: BTreeSet<u64> =
            ready.map(|(number, _)| *number).chain(held.map(|held| held.segment.first)).collect();
        assert_eq!(self.stored, unsettled, "storage has the unsettled persistent messages");
        let marked = self.queue.delivered_through;
        assert!(marked >= self.seen_through, "a message seen is marked");
        assert!(self.anything_returned || marked == self.seen_through, "and no other");
    }

    fn check_counts(&mut self) {
        let taps: usize = self.connections.iter().map(|c| c.taps.len()).sum();
        let counts = self.publisher.counts(&mut self.queue);
        assert_eq!(counts, (self.ready.len() as u32, taps as u32));
    }
}

/// Each message of a segment by itself.
fn singles(mut segment: Segment) -> Vec<Segment> {
    let mut singles = Vec::new();
    while segment.count() > 0 {
        singles.push(segment.split_front(1));
    }
    singles
}

fn check(segment: &Segment, known: Message) {
    assert_eq!(testing::numbers_of(segment), [segment.first]);
    assert_eq!(segment.persistent, known.persistent);
    assert_eq!(segment.redelivered, known.seen, "{} redelivered", segment.first);
}

/// A delivered message, as its connection keeps it.
fn note(connection: &mut Connection, seen_through: &mut u64, delivery: &Delivery, segment: Segment) {
    let mut taps = connection.taps.iter();
    let tap = taps.find(|tap| tap.key == delivery.consumer);
    let tap = tap.expect("deliveries go to registered consumers");
    assert!(!tap.window.drain(1, segment.bytes() as u32));
    if tap.no_ack {
        return;
    }
    if segment.persistent {
        *seen_through = segment.first.max(*seen_through);
    }
    connection.unacked.push(Held { consumer: Some(delivery.consumer), segment, counted: true });
}

/// An answer, which must be the one that is due.
fn answered(connection: &mut Connection, seen_through: &mut u64, reply: Reply) {
    if let Reply::Method(_) = reply {
        return; // purge-ok; its count is that of the list, checked through the queue's counts
    }
    match (connection.due.pop_front(), reply) {
        (Some(Due::Consuming(tap)), Reply::Consuming(key)) => {
            connection.taps.push(Tap { key, ..tap });
        }
        (Some(Due::Empty), Reply::GetEmpty) => {}
        (Some(Due::Got { number, message, left, no_ack }), Reply::Got { segment, left: said, no_ack: same, .. }) => {
            assert_eq!((segment.first, said, same), (number, left, no_ack));
            check(&segment, message);
            if no_ack {
                return;
            }
            if segment.persistent {
                *seen_through = number.max(*seen_through);
            }
            connection.unacked.push(Held { consumer: None, segment, counted: false });
        }
        (_, reply) => panic!("another answer was due than {}", say(&reply)),
    }
}

proptest! {
    #[test]
    fn a_queue_is_a_list_with_consumers(turns in vec(vec(step(), 1..5), 1..80)) {
        let mut world = World::new();
        for steps in &turns {
            world.live(steps);
        }
        // At the end everybody goes, and what is left is there once, in order, and read by one who comes.
        for client in 0..CLIENTS {
            world.live(&[Step::Bury { client }]);
        }
        let left: Vec<u64> = world.ready.keys().copied().collect();
        let mut last = Client::new();
        let consumer = last.consume(&mut world.queue, |_| {});
        prop_assert_eq!(last.delivered(consumer), left);
    }
}
