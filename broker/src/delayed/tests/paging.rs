//! More delayed messages than memory holds: they go to storage and come back when they are due, whenever storage
//! answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use leveret_storage::{Entry, Op, Reader};
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::held::Away;
use super::super::state::LEAD;
use super::*;
use crate::command::Token;
use crate::paging::{Paging, Ranges};
use crate::testing::Shelf;

/// Bytes that are kept in memory, and read at once: three of the tests' messages.
const WINDOW: usize = 24;

/// What is held back where memory is short, with its storage.
struct Paged {
    state: DelayedState,
    shelf: Arc<Shelf>,
    paging: Paging,
    /// What waits to be read, and to be heard of by storage.
    asked: Option<Ranges>,
    waits: bool,
    tick: Option<u64>,
    /// Numbers of messages in the order in which they went on.
    gone: Vec<u64>,
}

impl Paged {
    fn new() -> Paged {
        Paged::on(Arc::default())
    }

    fn on(shelf: Arc<Shelf>) -> Paged {
        let paging = Paging::short_of_memory(shelf.clone());
        let state = DelayedState::new(7, true);
        Paged { state, shelf, paging, asked: None, waits: false, tick: None, gone: Vec::new() }
    }

    /// What a start finds on this shelf: transient messages are gone.
    fn recovered(shelf: Arc<Shelf>) -> Paged {
        shelf.messages().retain(|_, (_, meta)| Meta(*meta).is_persistent());
        let next_sequence = shelf.messages().keys().last().map_or(1, |last| last + 1);
        let held = shelf.outlines(7, 0, u32::MAX).unwrap().iter().map(Away::of).collect();
        let mut paged = Paged::on(shelf);
        paged.turn(0, [DelayedCommand::Recover { held, next_sequence }, DelayedCommand::Start]);
        paged
    }

    /// A turn as the owner runs it; memory is always short.
    fn turn(&mut self, now: u64, commands: impl IntoIterator<Item = DelayedCommand>) {
        let mut fx = Effects::default();
        for command in commands {
            self.state.apply(command, &mut fx);
        }
        loop {
            self.state.take_due(now, &mut fx);
            self.waits |= self.state.spill(&self.paging, WINDOW, &mut fx);
            self.state.look_ahead(now, WINDOW, &mut fx);
            for held in fx.due.drain(..) {
                self.gone.extend(testing::numbers(&held.run));
                fx.storage.extend(self.state.forgotten(&held));
            }
            if !std::mem::take(&mut fx.more) {
                break;
            }
        }
        self.shelf.take(fx.storage);
        if !fx.load.is_empty() {
            assert!(self.asked.is_none(), "one reading at a time");
            self.asked = Some(fx.load);
        }
        self.tick = fx.tick.or(self.tick);
    }

    /// Storage has what it was given.
    fn written(&mut self, now: u64) {
        if std::mem::take(&mut self.waits) {
            self.turn(now, [DelayedCommand::Spill]);
        }
    }

    /// Storage answers what it was asked.
    fn read(&mut self, now: u64) -> bool {
        let Some(wanted) = self.asked.take() else { return false };
        let runs = self.shelf.read_all(7, &wanted, &Arc::default()).unwrap();
        self.turn(now, [DelayedCommand::Loaded { runs }]);
        true
    }

    /// Everything has been written, read and sent on that can be at `now`.
    fn settle(&mut self, now: u64) {
        self.written(now);
        self.turn(now, [DelayedCommand::Tick]);
        while self.read(now) {
            self.written(now);
        }
    }
}

fn hold(numbers: impl IntoIterator<Item = u64>, due: u64, persistent: bool) -> DelayedCommand {
    DelayedCommand::Hold { run: run(numbers, due, persistent), due, persistent, confirm: None }
}

#[test]
fn what_is_far_off_leaves_memory_and_comes_back_when_it_is_due_in_order() {
    for persistent in [true, false] {
        let mut paged = Paged::new();
        // The later, the earlier it is due.
        for number in 0..100u64 {
            paged.turn(NOW, [hold([number], NOW + 10_000 - number * 100, persistent)]);
            paged.written(NOW);
        }
        assert!(paged.state.bytes_here() <= 2 * WINDOW, "{} bytes in memory", paged.state.bytes_here());
        assert_eq!(paged.shelf.messages().len(), if persistent { 100 } else { 100 - paged.state.bytes_here() / 8 });
        for now in (NOW..=NOW + 10_000).step_by(50) {
            paged.settle(now);
        }
        assert_eq!(paged.gone, Vec::from_iter((0..100).rev()));
        assert_eq!((paged.state.count(), paged.shelf.messages().len()), (0, 0));
    }
}

#[test]
fn nothing_overtakes_what_is_still_being_read() {
    let mut paged = Paged::new();
    paged.turn(NOW, (0..10).map(|number| hold([number], NOW + 100 + number, true)));
    paged.written(NOW);
    // All of them are due, and so is this one, at a later moment.
    paged.turn(NOW + 200, [hold([10], NOW + 150, true)]);
    assert!(paged.asked.is_some());
    assert_eq!(paged.gone, [0, 1, 2], "what was in memory");
    paged.settle(NOW + 200);
    assert_eq!(paged.gone, Vec::from_iter(0..=10));
}

#[test]
fn a_tick_is_asked_for_shortly_before_what_is_away_is_due() {
    let mut builder = BlockBuilder::default();
    for due in [50_000, 50_000, 20_000, 50_000, 9_000] {
        builder.add(&u64::to_be_bytes(due), Meta::new(0, NOW + due).with_persistent(true));
    }
    let run = Run { block: builder.finish(&Arc::default()), from: 0, to: 5 };
    let shelf: Arc<Shelf> = Arc::default();
    shelf.take([Entry::<Token>::Op(Op::Insert { queue: 7, first: 20, run })]);
    let mut paged = Paged::recovered(shelf);
    assert_eq!((paged.state.count(), paged.asked.clone()), (5, None), "no message is read at the start");
    assert_eq!(paged.tick, Some(NOW + 9_000 - LEAD));
    paged.settle(NOW + 9_000 - LEAD);
    assert!(paged.gone.is_empty());
    paged.settle(NOW + 9_000);
    assert_eq!(paged.gone, [9_000]);
    // Overdue ones go at once.
    paged.settle(NOW + 60_000);
    assert_eq!(paged.gone, [9_000, 20_000, 50_000, 50_000, 50_000]);
    paged.turn(NOW, [hold([1], NOW, true)]);
    assert_eq!(paged.gone.last(), Some(&1));
    assert!(paged.shelf.messages().is_empty());
}

#[test]
fn what_cannot_be_read_back_is_left_out_and_the_rest_goes_on() {
    let mut paged = Paged::new();
    paged.turn(NOW, (0..10).map(|number| hold([number], NOW + 50_000, true)));
    paged.turn(NOW, (11..14).map(|number| hold([number], NOW + 10, true)));
    paged.settle(NOW);
    paged.turn(NOW, [hold([10], NOW + 60_000, true)]);
    paged.settle(NOW + 10);
    paged.shelf.messages().retain(|at, _| *at != 4);
    paged.settle(NOW + 60_000);
    assert_eq!(paged.gone, [11, 12, 13, 0, 1, 2, 4, 5, 6, 7, 8, 9, 10]);
    assert_eq!(paged.state.count(), 0);
}

#[test]
fn an_exchange_that_goes_while_messages_are_read_back_leaves_nothing() {
    for persistent in [true, false] {
        let mut paged = Paged::new();
        paged.turn(NOW, (0..10).map(|number| hold([number], NOW + 1000, persistent)));
        paged.written(NOW);
        paged.turn(NOW + 1000, [DelayedCommand::Tick]);
        assert!(paged.asked.is_some());
        paged.turn(NOW + 1000, [DelayedCommand::Drop]);
        assert!(paged.shelf.messages().is_empty());
        paged.settle(NOW + 2000);
        assert_eq!((paged.gone.len(), paged.state.count()), (3, 0));
    }
}

/// What happens at random.
#[derive(Clone, Debug)]
enum Step {
    /// So many messages in a run, due in so many milliseconds.
    Hold(u64, u64, bool),
    /// Time goes on.
    Wait(u64),
    Written,
    Read,
    /// The broker is killed and started again.
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1..5u64, 0..20_000u64, any::<bool>()).prop_map(|(count, delay, kept)| Step::Hold(count, delay, kept)),
        4 => (0..3000u64).prop_map(Step::Wait),
        4 => Just(Step::Written),
        4 => Just(Step::Read),
        1 => Just(Step::Kill),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn messages_go_on_once_each_in_the_order_in_which_they_are_due(steps in vec(step(), 1..150)) {
        let mut paged = Paged::new();
        let (mut now, mut next) = (NOW, 0);
        // What is held, by place: number and whether it outlives the broker.
        let mut model: BTreeMap<(u64, u64), bool> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Hold(count, delay, persistent) => {
                    let due = now + delay;
                    model.extend((next..next + count).map(|number| ((due, number), persistent)));
                    paged.turn(now, [hold(next..next + count, due, persistent)]);
                    next += count;
                }
                Step::Wait(time) => {
                    now += time;
                    paged.turn(now, [DelayedCommand::Tick]);
                }
                Step::Written => paged.written(now),
                Step::Read => drop(paged.read(now)),
                Step::Kill => {
                    model.retain(|_, persistent| *persistent);
                    let gone = paged.gone.split_off(0);
                    paged = Paged::recovered(paged.shelf.clone());
                    prop_assert!(paged.gone.is_empty());
                    paged.gone = gone;
                    paged.turn(now, [DelayedCommand::Tick]);
                }
            }
            for number in paged.gone.drain(..) {
                let Some((due, first)) = model.keys().next().copied() else { panic!("{number} goes twice") };
                prop_assert!(due <= now, "{number} goes too early");
                prop_assert_eq!(number, first, "what is due first goes first");
                model.remove(&(due, first));
            }
            let overdue = model.keys().any(|(due, _)| *due <= now);
            prop_assert!(!overdue || paged.asked.is_some(), "something is held back for no reason");
            prop_assert_eq!(paged.state.count(), model.len() as u64);
        }
        now += 30_000;
        paged.settle(now);
        prop_assert_eq!(paged.gone, model.keys().map(|(_, number)| *number).collect::<Vec<_>>());
        prop_assert!(paged.shelf.messages().is_empty());
    }
}
