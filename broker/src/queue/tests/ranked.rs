//! Queues with priorities and with a limit in bytes that are larger than memory: what is away keeps its level and its
//! size, also over a restart.

use std::cell::Cell;
use std::collections::BTreeMap;

use leveret_protocol::{Message, message};
use leveret_storage::Run;
use proptest::collection::vec;
use proptest::prelude::*;

use super::paging::Paged;
use super::*;
use crate::message::{BlockBuilder, Meta};
use crate::paging::Paging;
use crate::queue::arguments::Settings;
use crate::queue::recovered::described;

/// Its number says how urgent a message is, and how long.
fn priority(number: u64) -> u8 {
    (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 61) as u8
}

fn size(number: u64) -> u64 {
    8 + number * 37 % 50
}

/// Whole messages; their bodies begin with these numbers.
fn messages(numbers: impl IntoIterator<Item = u64>, persistent: bool) -> Run {
    let mut builder = BlockBuilder::default();
    let address = message::address(b"", b"ranked");
    for number in numbers {
        let header = [&[0, 60, 0, 0][..], &size(number).to_be_bytes(), &[0, 0]].concat();
        let mut body = number.to_be_bytes().to_vec();
        body.resize(size(number) as usize, b'.');
        let meta = Meta::new(address.len(), NOW).with_persistent(persistent).with_priority(priority(number));
        builder.add(&message::build(&address, &header, &body, 4096), meta);
    }
    let block = builder.finish(&Arc::default());
    let to = block.count();
    Run { block, from: 0, to }
}

fn publish(numbers: impl IntoIterator<Item = u64>, persistent: bool) -> QueueCommand {
    QueueCommand::Publish { run: messages(numbers, persistent), persistent, expiration: None, confirm: None }
}

fn numbers(segment: &Segment) -> Vec<u64> {
    let run = segment.here().expect("messages in memory");
    let number = |bytes| Message::parse(bytes).and_then(|message| message.body().first_chunk().copied());
    run.messages().map(|(bytes, _)| u64::from_be_bytes(number(bytes).expect("a whole message"))).collect()
}

/// What a start makes of what is on the shelf: transient messages are gone.
fn restarted(paged: &Paged, settings: &Settings) -> Paged {
    let shelf = paged.shelf.clone();
    shelf.messages().retain(|_, (_, meta)| Meta(*meta).is_persistent());
    let mut stored: Vec<Segment> = Vec::new();
    for (at, (bytes, _)) in shelf.messages().iter() {
        let one = Segment { persistent: true, ..Segment::away(*at, 1, bytes.len() as u64) };
        match stored.last_mut() {
            Some(last) if last.last() + 1 == *at => {
                let bytes = (last.bytes() + bytes.len()) as u64;
                *last = Segment { persistent: true, ..Segment::away(last.first, last.count() + 1, bytes) };
            }
            _ => stored.push(one),
        }
    }
    let next_sequence = paged.queue.state.next_sequence;
    let mut started = Paged::new(Settings::default());
    started.paging = Paging::short_of_memory(shelf.clone());
    started.shelf = shelf;
    let failed = Cell::new(None);
    let found: Vec<Segment> = described(stored, 7, settings, &started.paging, &failed).collect();
    assert!(failed.take().is_none());
    started.queue = Driven::with(|origin| {
        origin.settings = settings.clone();
        origin.next_sequence = next_sequence;
        origin.messages = Box::new(found.into_iter());
    });
    assert_eq!(started.here(), 0, "nothing is kept in memory");
    started
}

#[test]
fn priorities_hold_for_what_is_away() {
    let settings = Settings { max_priority: Some(3), ..Settings::default() };
    for restart in [false, true] {
        let mut paged = Paged::new(settings.clone());
        for first in (1..=200).step_by(20) {
            paged.queue.turn([publish(first..first + 20, true)]);
            paged.spill();
        }
        assert_eq!(paged.here(), 0);
        if restart {
            paged = restarted(&paged, &settings);
        }
        let mut client = Client::new();
        assert_eq!(client.counts(&mut paged.queue), (200, 0));
        let consumer = client.consume(&mut paged.queue, |_| {});
        paged.load_all();
        let mut expected: Vec<u64> = (1..=200).collect();
        expected.sort_by_key(|number| std::cmp::Reverse(priority(*number).min(3)));
        let delivered = client.deliveries(consumer);
        assert_eq!(delivered.iter().flat_map(|d| numbers(&d.segment)).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn a_limit_in_bytes_counts_bodies_that_are_away() {
    let sum: u64 = (1..=50).map(size).sum();
    let settings = Settings { max_bytes: Some(sum), ..Settings::default() };
    for restart in [false, true] {
        let mut paged = Paged::new(settings.clone());
        paged.queue.turn((1..=50).map(|number| publish([number], true)));
        paged.spill();
        if restart {
            paged = restarted(&paged, &settings);
        }
        assert!(paged.here() < 5, "{} messages are in memory", paged.here());
        assert_eq!(paged.queue.state.ready.bytes(), sum);
        paged.queue.turn([publish([51], true)]);
        paged.load_all();
        let gone = (1..)
            .scan(0, |gone, number| {
                *gone += size(number);
                Some(*gone)
            })
            .take_while(|gone| *gone < size(51));
        let gone = gone.count() as u64 + 1;
        assert_eq!(paged.queue.state.ready.len(), 51 - gone);
    }
}

#[test]
fn a_purge_of_a_queue_with_priorities_removes_in_few_ranges_and_spares_what_is_unacked() {
    let mut paged = Paged::new(Settings { max_priority: Some(3), ..Settings::default() });
    paged.queue.turn([publish(1..=200, true)]);
    paged.spill();
    let mut client = Client::new();
    let from = client.from.clone();
    paged.queue.turn([QueueCommand::Get { from: from.clone(), no_ack: false }]);
    paged.load_all();
    let Reply::Got { segment, .. } = client.reply() else { panic!("no message") };
    paged.queue.turn([QueueCommand::Purge { from }]);
    let removals = paged.queue.stored.iter().filter(|entry| matches!(entry, Entry::Op(Op::Remove { .. })));
    assert!(removals.count() <= 2, "what is unacked lies between them, or at an end");
    paged.shelf.take(paged.queue.stored.drain(..));
    assert_eq!(paged.shelf.messages().keys().copied().collect::<Vec<_>>(), [segment.first]);
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
    Load,
    /// The broker is killed and started again.
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..8u8, any::<bool>()).prop_map(|(count, persistent)| Step::Publish(count, persistent)),
        4 => Just(Step::Get),
        2 => any::<usize>().prop_map(Step::Ack),
        2 => any::<usize>().prop_map(Step::Requeue),
        3 => Just(Step::Spill),
        3 => Just(Step::Load),
        1 => Just(Step::Kill),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn a_paged_queue_with_levels_is_a_list_for_each(
        steps in vec(step(), 1..120),
        max_priority in prop_oneof![Just(None), (1..5u8).prop_map(Some)],
        max_bytes in prop_oneof![Just(None), (100..1000u64).prop_map(Some), Just(Some(1 << 40))],
    ) {
        let settings = Settings { max_priority, max_bytes, ..Settings::default() };
        let mut paged = Paged::new(settings.clone());
        let mut client = Client::new();
        // Message and sequence number are the same here.
        let place = |number: u64| (u8::MAX - priority(number).min(max_priority.unwrap_or(0)), number);
        // Ready messages in order, and whether they outlive the broker.
        let mut model: BTreeMap<(u8, u64), bool> = BTreeMap::new();
        let mut unacked: Vec<Segment> = Vec::new();
        let mut next = 1;
        for step in steps {
            match step {
                Step::Publish(count, persistent) => {
                    let new = next..next + u64::from(count);
                    next = new.end;
                    model.extend(new.clone().map(|number| (place(number), persistent)));
                    paged.queue.turn([publish(new, persistent)]);
                }
                Step::Get => {
                    let from = client.from.clone();
                    paged.queue.turn([QueueCommand::Get { from, no_ack: false }]);
                    paged.load_all();
                    match (client.reply(), model.pop_first()) {
                        (Reply::Got { segment, .. }, Some(((_, number), _))) => {
                            prop_assert_eq!((numbers(&segment), segment.first), (vec![number], number));
                            unacked.push(segment);
                        }
                        (reply, front) => prop_assert!(
                            matches!(reply, Reply::GetEmpty) && front.is_none(),
                            "{} where {:?} was next", say(&reply), front
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
                    let mut segment = unacked.swap_remove(n % unacked.len());
                    model.insert(place(segment.first), segment.persistent);
                    paged.shelf.take(paged.queue.stored.drain(..));
                    // Memory is short for connections too.
                    if n % 2 == 0 && segment.is_stored(true) {
                        segment.send_away();
                    }
                    paged.queue.turn([QueueCommand::Requeue { consumer: None, segment, seen: true }]);
                }
                Step::Spill => paged.spill(),
                Step::Load => drop(paged.load()),
                Step::Kill => {
                    paged.shelf.take(paged.queue.stored.drain(..));
                    let back = unacked.drain(..).map(|segment| (place(segment.first), segment.persistent));
                    model.extend(back);
                    model.retain(|_, persistent| *persistent);
                    paged = restarted(&paged, &settings);
                    client = Client::new();
                    paged.queue.turn([]);
                }
                Step::Ack(_) | Step::Requeue(_) => {}
            }
            let sum = |model: &BTreeMap<(u8, u64), bool>| model.keys().map(|(_, number)| size(*number)).sum::<u64>();
            if let Some(most) = max_bytes {
                // What is too much goes from the head, once that has been read.
                if sum(&model) > most {
                    paged.load_all();
                }
                while sum(&model) > most {
                    model.pop_first();
                }
                prop_assert_eq!(paged.queue.state.ready.bytes(), sum(&model));
            }
            prop_assert_eq!(paged.queue.state.ready.len(), model.len() as u64);
        }
        // In the end everything comes out, once, in order.
        let consumer = client.consume(&mut paged.queue, |new| new.no_ack = true);
        paged.load_all();
        let delivered: Vec<u64> = client.deliveries(consumer).iter().flat_map(|d| numbers(&d.segment)).collect();
        prop_assert_eq!(delivered, model.keys().map(|(_, number)| *number).collect::<Vec<_>>());
        paged.shelf.take(paged.queue.stored.drain(..));
        let left: Vec<u64> = paged.shelf.messages().keys().copied().collect();
        let mut kept: Vec<u64> = unacked.iter().filter(|s| s.persistent || s.spilled).map(|s| s.first).collect();
        kept.sort_unstable();
        prop_assert_eq!(left, kept);
    }
}
