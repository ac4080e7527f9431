//! A queue larger than memory: what it lets go of comes back in its place, whenever storage answers.

use std::collections::VecDeque;

use leveret_storage::Reader;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::command::Content;
use crate::paging::Paging;
use crate::queue::arguments::{DeadLetterTo, Settings};
use crate::testing::Shelf;

/// A queue whose memory is short, with its storage.
pub(super) struct Paged {
    pub(super) queue: Driven,
    pub(super) shelf: Arc<Shelf>,
    pub(super) paging: Paging,
}

impl Paged {
    pub(super) fn new(settings: Settings) -> Paged {
        let shelf: Arc<Shelf> = Arc::default();
        let paging = Paging::short_of_memory(shelf.clone());
        Paged { queue: Driven::with(|origin| origin.settings = settings), shelf, paging }
    }

    /// Storage has all it was given; the queue lets go of what it can.
    pub(super) fn spill(&mut self) {
        for _ in 0..2 {
            self.shelf.take(self.queue.stored.drain(..));
            self.queue.state.spill(&self.paging, 64, &mut self.queue.effects);
            self.queue.turn([QueueCommand::Spill]);
        }
        self.shelf.take(self.queue.stored.drain(..));
    }

    /// Storage answers what it was asked first.
    pub(super) fn load(&mut self) -> bool {
        self.shelf.take(self.queue.stored.drain(..));
        if self.queue.loads.is_empty() {
            return false;
        }
        let wanted = self.queue.loads.remove(0);
        let runs = self.shelf.read_all(7, &wanted, &Arc::default()).expect("a shelf can be read");
        self.queue.turn([QueueCommand::Loaded { wanted, runs }]);
        true
    }

    pub(super) fn load_all(&mut self) {
        while self.load() {}
    }

    /// Messages in memory.
    pub(super) fn here(&mut self) -> u64 {
        let segments = self.queue.state.ready.iter_mut();
        segments.filter_map(|segment| segment.here()).map(|run| u64::from(run.count())).sum()
    }
}

fn dead_lettered() -> Settings {
    let to = DeadLetterTo { exchange: b"dead"[..].into(), key: None };
    Settings { dead_letter: Some(Arc::new(to)), ..Settings::default() }
}

#[test]
fn what_nobody_waits_for_leaves_memory_and_comes_back_in_order() {
    for persistent in [true, false] {
        let mut paged = Paged::new(Settings::default());
        paged.queue.turn([publish(1..=100, persistent)]);
        paged.spill();
        assert_eq!(paged.here(), 0);
        let mut client = Client::new();
        assert_eq!(client.counts(&mut paged.queue), (100, 0));
        let consumer = client.consume(&mut paged.queue, |_| {});
        paged.load_all();
        assert_eq!(client.delivered(consumer), Vec::from_iter(1..=100));
    }
}

#[test]
fn only_as_much_is_read_as_is_wanted() {
    let mut paged = Paged::new(Settings::default());
    paged.queue.turn([publish(1..=100, true)]);
    paged.spill();
    let mut client = Client::new();
    let consumer = client.consume(&mut paged.queue, |new| new.prefetch = 1);
    paged.load_all();
    assert_eq!(client.delivered(consumer), [1]);
    assert!(paged.here() < 20, "{} messages are in memory", paged.here());
}

#[test]
fn new_messages_come_behind_those_that_are_away() {
    let mut paged = Paged::new(Settings::default());
    paged.queue.turn([publish(1..=10, true)]);
    paged.spill();
    paged.queue.turn([publish(11..=12, false), publish([13], true)]);
    let mut client = Client::new();
    let consumer = client.consume(&mut paged.queue, |_| {});
    paged.load_all();
    assert_eq!(client.delivered(consumer), Vec::from_iter(1..=13));
}

#[test]
fn a_get_waits_for_the_message() {
    let mut paged = Paged::new(Settings::default());
    paged.queue.turn([publish(1..=2, true)]);
    paged.spill();
    let mut client = Client::new();
    let from = client.from.clone();
    paged.queue.turn([QueueCommand::Get { from, no_ack: true }]);
    client.hears_nothing();
    paged.load_all();
    assert_eq!(say(&client.reply()), "got [1]");
}

#[test]
fn a_get_that_waits_is_answered_when_the_queue_goes() {
    let mut paged = Paged::new(Settings::default());
    paged.queue.turn([publish(1..=2, true)]);
    paged.spill();
    let mut client = Client::new();
    let from = client.from.clone();
    paged.queue.turn([QueueCommand::Get { from, no_ack: true }, QueueCommand::Kill]);
    client.refused("NOT_FOUND - no queue 'q' in vhost '/'");
}

#[test]
fn a_transient_message_that_was_spilled_leaves_storage_when_it_is_done() {
    let mut paged = Paged::new(Settings::default());
    paged.queue.turn([publish(1..=3, false)]);
    paged.spill();
    assert_eq!(paged.shelf.messages().len(), 3);
    let mut client = Client::new();
    let consumer = client.consume(&mut paged.queue, |_| {});
    paged.load_all();
    let acks: Vec<_> = client.deliveries(consumer).iter().map(|delivery| ack(consumer, &delivery.segment)).collect();
    paged.queue.turn(acks);
    paged.load_all();
    assert_eq!(paged.shelf.messages().len(), 0);
}

#[test]
fn a_purge_while_messages_are_being_read_back_is_final() {
    let mut paged = Paged::new(Settings::default());
    paged.queue.turn([publish(1..=10, true)]);
    paged.spill();
    let mut client = Client::new();
    let key = client.consume(&mut paged.queue, |_| {});
    let wanted = paged.queue.loads.remove(0);
    let runs = paged.shelf.read_all(7, &wanted, &Arc::default()).expect("a shelf can be read");
    let from = client.from.clone();
    paged.queue.turn([QueueCommand::Purge { from }, publish([11], true)]);
    paged.queue.turn([QueueCommand::Loaded { wanted, runs }]);
    // The purge itself is answered once it is stored.
    assert_eq!(client.delivered(key), [11]);
    client.hears_nothing();
}

#[test]
fn what_cannot_be_read_back_is_left_out_and_the_rest_goes_on() {
    let mut paged = Paged::new(Settings::default());
    paged.queue.turn([publish(1..=10, true)]);
    paged.spill();
    paged.shelf.messages().retain(|at, _| *at != 4);
    let mut client = Client::new();
    let consumer = client.consume(&mut paged.queue, |_| {});
    paged.load_all();
    assert_eq!(client.delivered(consumer), [1, 2, 3, 5, 6, 7, 8, 9, 10]);
    assert_eq!(client.counts(&mut paged.queue), (0, 1));
}

#[test]
fn a_rejected_message_that_is_away_is_read_back_to_be_dead_lettered() {
    let mut paged = Paged::new(dead_lettered());
    paged.queue.turn([publish([1], true)]);
    let mut client = Client::new();
    let consumer = client.consume(&mut paged.queue, |_| {});
    let mut segment = client.delivery().segment;
    paged.spill();
    segment.send_away();
    paged.queue.turn([QueueCommand::Reject { consumer: Some(consumer), segment }]);
    assert!(paged.queue.dead_letters.is_empty());
    paged.load_all();
    assert_eq!(paged.queue.dead_letters, [vec![1]]);
}

#[test]
fn what_is_too_much_is_read_back_to_be_dead_lettered() {
    let mut paged = Paged::new(Settings { max_length: Some(3), ..dead_lettered() });
    paged.queue.turn([publish(1..=3, true)]);
    paged.spill();
    paged.queue.turn([publish([4], true)]);
    paged.load_all();
    assert_eq!(paged.queue.dead_letters, [vec![1]]);
    assert_eq!(Client::new().counts(&mut paged.queue), (3, 0));
}

/// What happens to a queue at random.
#[derive(Clone, Debug)]
enum Step {
    Publish(u8, bool),
    Get,
    /// The n-th of the unacked messages.
    Ack(usize),
    Requeue(usize),
    Spill,
    /// An unacked message leaves memory.
    Away(usize),
    Load,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1..6u8, any::<bool>()).prop_map(|(count, persistent)| Step::Publish(count, persistent)),
        4 => Just(Step::Get),
        2 => any::<usize>().prop_map(Step::Ack),
        2 => any::<usize>().prop_map(Step::Requeue),
        2 => Just(Step::Spill),
        1 => any::<usize>().prop_map(Step::Away),
        3 => Just(Step::Load),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn a_paged_queue_is_a_list(steps in vec(step(), 1..120)) {
        let mut paged = Paged::new(Settings::default());
        let mut client = Client::new();
        // Ready messages in order, and what is unacked.
        let mut model: VecDeque<u64> = VecDeque::new();
        let mut unacked: Vec<Segment> = Vec::new();
        let mut next = 1;
        for step in steps {
            match step {
                Step::Publish(count, persistent) => {
                    let numbers = next..next + u64::from(count);
                    next = numbers.end;
                    model.extend(numbers.clone());
                    paged.queue.turn([publish(numbers, persistent)]);
                }
                Step::Get => {
                    let from = client.from.clone();
                    paged.queue.turn([QueueCommand::Get { from, no_ack: false }]);
                    paged.load_all();
                    match (client.reply(), model.pop_front()) {
                        (Reply::Got { segment, left, .. }, Some(number)) => {
                            prop_assert_eq!(testing::numbers_of(&segment), [number]);
                            prop_assert_eq!(left as usize, model.len());
                            unacked.push(segment);
                        }
                        (reply, number) => prop_assert!(
                            matches!(reply, Reply::GetEmpty) && number.is_none(),
                            "{} where {:?} was next", say(&reply), number
                        ),
                    }
                }
                Step::Ack(n) if !unacked.is_empty() => {
                    let segment = unacked.swap_remove(n % unacked.len());
                    let (first, count) = (segment.first, segment.count());
                    let (persistent, spilled) = (segment.persistent, segment.spilled);
                    paged.queue.turn([QueueCommand::Settle { consumer: None, first, count, persistent, spilled }]);
                }
                Step::Requeue(n) if !unacked.is_empty() => {
                    let segment = unacked.swap_remove(n % unacked.len());
                    // Message and sequence number are the same here.
                    let at = model.partition_point(|other| *other < segment.first);
                    model.insert(at, segment.first);
                    paged.queue.turn([QueueCommand::Requeue { consumer: None, segment, seen: true }]);
                }
                Step::Spill => paged.spill(),
                Step::Away(n) if !unacked.is_empty() => {
                    paged.shelf.take(paged.queue.stored.drain(..));
                    let at = n % unacked.len();
                    let segment = &mut unacked[at];
                    if matches!(segment.content, Content::Here(_)) && paged.shelf.holds(7, segment.first, 1) {
                        segment.send_away();
                    }
                }
                Step::Load => drop(paged.load()),
                Step::Ack(_) | Step::Requeue(_) | Step::Away(_) => {}
            }
        }
        // In the end everything comes out, once, in order.
        let consumer = client.consume(&mut paged.queue, |new| new.no_ack = true);
        paged.load_all();
        prop_assert_eq!(client.delivered(consumer), Vec::from(model));
        paged.shelf.take(paged.queue.stored.drain(..));
        let left: Vec<u64> = paged.shelf.messages().keys().copied().collect();
        let mut kept: Vec<u64> = unacked.iter().filter(|s| s.persistent || s.spilled).map(|s| s.first).collect();
        kept.sort_unstable();
        prop_assert_eq!(left, kept);
    }
}
