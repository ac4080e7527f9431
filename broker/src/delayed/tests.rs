//! What is held back, driven by hand on a clock that the test owns.

mod paging;

use std::sync::Arc;

use leveret_storage::{Entry, Gauge, Op, Run};

use super::state::{BATCH, DelayedCommand, DelayedState, Effects};
use crate::command::{ConfirmTo, Token};
use crate::message::{BlockBuilder, Meta};
use crate::testing;

/// Milliseconds since the Unix epoch.
const NOW: u64 = 1_700_000_000_000;
const NONE: [u64; 0] = [];

/// The state, and what has come out of it.
struct Driven {
    state: DelayedState,
    /// Entries for storage, as short words.
    stored: Vec<String>,
    /// First publish number and count of what was confirmed without the disk.
    confirmed: Vec<(u64, u32)>,
    tick: Option<u64>,
    more: bool,
}

impl Driven {
    fn new(durable: bool) -> Driven {
        let state = DelayedState::new(7, durable);
        Driven { state, stored: Vec::new(), confirmed: Vec::new(), tick: None, more: false }
    }

    /// One turn at `now`: the numbers of the messages that go on.
    fn turn(&mut self, now: u64, commands: impl IntoIterator<Item = DelayedCommand>) -> Vec<u64> {
        let mut fx = Effects::default();
        for command in commands {
            self.state.apply(command, &mut fx);
        }
        self.state.take_due(now, &mut fx);
        self.state.look_ahead(now, 1000, &mut fx);
        self.stored.extend(fx.storage.iter().map(word));
        self.confirmed.extend(fx.confirmed.iter().map(|(to, count)| (to.first, *count)));
        self.tick = fx.tick.or(self.tick);
        self.more = fx.more;
        self.stored.extend(fx.due.iter().filter_map(|held| self.state.forgotten(held)).map(|e| word(&e)));
        fx.due.iter().flat_map(|held| testing::numbers(&held.run)).collect()
    }

    fn tick(&mut self, now: u64) -> Vec<u64> {
        self.tick = None;
        self.turn(now, [DelayedCommand::Tick])
    }
}

fn word(entry: &Entry<Token>) -> String {
    match entry {
        Entry::Op(Op::Insert { queue: 7, first, run }) => format!("insert {first}+{}", run.count()),
        Entry::Op(Op::Remove { queue: 7, first, count }) => format!("remove {first}+{count}"),
        Entry::Op(Op::DropQueue { queue: 7 }) => "drop".into(),
        Entry::Notify(level, Token::Confirm { to, count }) => format!("{level:?}: confirm {}+{count}", to.first),
        _ => panic!("nothing else is told to storage, and nothing of another queue"),
    }
}

/// Messages whose bodies are these numbers.
fn run(numbers: impl IntoIterator<Item = u64>, due: u64, persistent: bool) -> Run {
    let mut builder = BlockBuilder::default();
    for number in numbers {
        builder.add(&number.to_be_bytes(), Meta::new(0, due).with_persistent(persistent));
    }
    let block = builder.finish(&Arc::default());
    let to = block.count();
    Run { block, from: 0, to }
}

fn hold(numbers: impl IntoIterator<Item = u64>, due: u64) -> DelayedCommand {
    DelayedCommand::Hold { run: run(numbers, due, true), due, persistent: true, confirm: None }
}

fn confirmed(due: u64, persistent: bool, first: u64) -> DelayedCommand {
    let to = testing::requester(&testing::peer(), 1);
    let confirm = Some(ConfirmTo { to, first });
    DelayedCommand::Hold { run: run(0..2, due, persistent), due, persistent, confirm }
}

#[test]
fn a_message_goes_on_when_it_is_due_and_not_before() {
    let mut delayed = Driven::new(true);
    assert_eq!(delayed.turn(NOW, [hold([1], NOW + 100)]), NONE);
    assert_eq!(delayed.tick, Some(NOW + 100));
    assert_eq!(delayed.tick(NOW + 99), NONE);
    assert_eq!(delayed.tick, Some(NOW + 100), "asked for anew");
    assert_eq!(delayed.tick(NOW + 100), [1]);
    assert_eq!((delayed.state.count(), delayed.tick), (0, None));
}

#[test]
fn what_is_due_first_goes_first_whatever_was_published_first() {
    let mut delayed = Driven::new(true);
    delayed.turn(NOW, [hold([1], NOW + 300), hold([2, 3], NOW + 100)]);
    assert_eq!(delayed.tick.take(), Some(NOW + 100));
    delayed.turn(NOW, [hold([4], NOW + 200)]);
    assert_eq!(delayed.tick, None, "a tick comes before that");
    delayed.turn(NOW, [hold([5], NOW + 50)]);
    assert_eq!(delayed.tick, Some(NOW + 50));
    assert_eq!(delayed.state.count(), 5);
    assert_eq!(delayed.tick(NOW + 300), [5, 2, 3, 4, 1]);
}

#[test]
fn messages_due_at_the_same_moment_keep_the_order_of_their_publishes() {
    let mut delayed = Driven::new(true);
    for turn in 0..50 {
        delayed.turn(NOW, [hold([turn * 2, turn * 2 + 1], NOW + 100), hold([1000], NOW + 500)]);
    }
    assert_eq!(delayed.tick(NOW + 100), (0..100).collect::<Vec<_>>());
}

#[test]
fn a_persistent_message_is_stored_before_it_is_confirmed_and_forgotten_once_it_went_on() {
    let mut delayed = Driven::new(true);
    delayed.turn(NOW, [confirmed(NOW + 9, true, 1), hold([5], NOW + 5)]);
    assert_eq!(delayed.stored, ["insert 1+2", "Synced: confirm 1+2", "insert 3+1"]);
    assert!(delayed.confirmed.is_empty());
    delayed.stored.clear();
    delayed.tick(NOW + 5);
    assert_eq!(delayed.stored, ["remove 3+1"]);
}

#[test]
fn what_does_not_outlive_the_broker_is_confirmed_at_once_and_never_stored() {
    for (durable, persistent) in [(true, false), (false, true)] {
        let mut delayed = Driven::new(durable);
        delayed.turn(NOW, [confirmed(NOW + 9, persistent, 4)]);
        assert_eq!(delayed.confirmed, [(4, 2)]);
        delayed.tick(NOW + 9);
        assert_eq!(delayed.stored, [""; 0]);
    }
}

#[test]
fn an_exchange_that_is_gone_drops_what_it_held_and_confirms_what_still_comes() {
    let mut delayed = Driven::new(true);
    delayed.turn(NOW, [hold([1, 2], NOW + 9), DelayedCommand::Drop]);
    assert_eq!(delayed.stored, ["insert 1+2", "drop"]);
    delayed.turn(NOW, [confirmed(NOW + 9, true, 3)]);
    assert_eq!(delayed.confirmed, [(3, 2)]);
    assert_eq!(delayed.tick(NOW + 10), NONE);
    assert_eq!((delayed.stored.len(), delayed.state.count()), (2, 0));
}

#[test]
fn a_turn_sends_on_a_batch_and_leaves_the_rest_to_the_next() {
    let mut delayed = Driven::new(false);
    let bodies = (0..30u64).map(|n| [&n.to_be_bytes()[..], &[0; 100_000]].concat());
    let run = testing::run_of(bodies);
    let number = |bytes: &[u8]| u64::from_be_bytes(*bytes.first_chunk().unwrap());
    delayed
        .state
        .apply(DelayedCommand::Hold { run, due: NOW, persistent: false, confirm: None }, &mut Effects::default());
    let (mut seen, mut turns) = (Vec::new(), 0);
    loop {
        let mut fx = Effects::default();
        delayed.state.take_due(NOW, &mut fx);
        let sent: usize = fx.due.iter().map(|held| held.run.bytes()).sum();
        assert!(sent < BATCH + 200_000, "{sent} bytes in one turn");
        seen.extend(fx.due.iter().flat_map(|s| s.run.messages().map(|(b, _)| number(b)).collect::<Vec<_>>()));
        turns += 1;
        if !fx.more {
            break;
        }
    }
    assert_eq!(seen, (0..30).collect::<Vec<_>>());
    assert_eq!(turns, 3);
}

#[test]
fn nothing_goes_on_while_the_broker_stops() {
    let mut delayed = Driven::new(true);
    delayed.turn(NOW, [hold([1], NOW + 1)]);
    delayed.turn(NOW, [DelayedCommand::Stop]);
    assert_eq!(delayed.tick(NOW + 1), NONE);
    assert_eq!(delayed.stored, ["insert 1+1"]);
}

#[test]
fn a_million_messages_with_delays_of_their_own_leave_in_order_and_take_little_memory() {
    const COUNT: u64 = 1_000_000;
    let gauge = Arc::new(Gauge::default());
    let mut state = DelayedState::new(7, false);
    let mut fx = Effects::default();
    let mut random = 1u64;
    for turn in 0..COUNT / 1000 {
        let mut builder = BlockBuilder::default();
        for n in 0..1000 {
            builder.add(&(turn * 1000 + n).to_be_bytes(), Meta::new(0, 0));
        }
        let block = builder.finish(&gauge);
        for index in 0..1000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let run = Run { block: block.clone(), from: index, to: index + 1 };
            let due = NOW + (random >> 40);
            state.apply(DelayedCommand::Hold { run, due, persistent: false, confirm: None }, &mut fx);
        }
    }
    assert_eq!(state.count(), COUNT);
    assert!(gauge.bytes() as u64 <= COUNT * 25, "{} bytes in blocks", gauge.bytes());
    let (mut last, mut seen) = (0, 0);
    loop {
        let mut fx = Effects::default();
        state.take_due(u64::MAX - 1, &mut fx);
        for held in &fx.due {
            assert!(held.due >= last);
            last = held.due;
            seen += u64::from(held.run.count());
        }
        if seen > COUNT * 9 / 10 {
            state.tidy(&gauge);
        }
        if !fx.more {
            break;
        }
    }
    assert_eq!((seen, gauge.bytes()), (COUNT, 0));
}

#[test]
fn blocks_of_which_little_is_left_are_freed_once_half_of_the_messages_are_gone() {
    let gauge = Arc::new(Gauge::default());
    let mut builder = BlockBuilder::default();
    for _ in 0..100 {
        builder.add(&[0; 1000], Meta::new(0, 0));
    }
    let block = builder.finish(&gauge);
    let mut state = DelayedState::new(7, false);
    let mut fx = Effects::default();
    for index in 0..100 {
        let run = Run { block: block.clone(), from: index, to: index + 1 };
        let due = NOW + u64::from(index);
        state.apply(DelayedCommand::Hold { run, due, persistent: false, confirm: None }, &mut fx);
    }
    drop(block);
    state.tidy(&gauge);
    assert!(gauge.bytes() > 100_000, "all of it is alive");
    state.take_due(NOW + 89, &mut Effects::default());
    state.tidy(&gauge);
    assert!(gauge.bytes() < 12_000, "{} bytes for ten messages", gauge.bytes());
    let mut fx = Effects::default();
    state.take_due(NOW + 100, &mut fx);
    assert_eq!(fx.due.len(), 10);
}
