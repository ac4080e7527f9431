use std::collections::BTreeSet;
use std::sync::OnceLock;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::testing;

fn queue() -> Arc<Queue> {
    static QUEUE: OnceLock<Arc<Queue>> = OnceLock::new();
    QUEUE.get_or_init(|| testing::queue("q", false, &testing::store())).clone()
}

/// Deliveries `first..first + count`; message and tag have the same number.
fn delivered(first: u64, count: u64) -> Outstanding {
    Outstanding {
        first_tag: first,
        consumer: None,
        queue: queue(),
        segment: Segment { persistent: false, ..Segment::new(first, testing::run(first..first + count)) },
        counted: false,
        at: Duration::ZERO,
    }
}

/// The tags of what was taken; each must still belong to its message.
fn tags(taken: &[Outstanding]) -> Vec<u64> {
    let mut tags = Vec::new();
    for outstanding in taken {
        assert_eq!(outstanding.first_tag, outstanding.segment.first);
        let numbers = testing::numbers_of(&outstanding.segment);
        assert_eq!(numbers.last(), Some(&outstanding.last_tag()));
        tags.extend(numbers);
    }
    tags
}

#[test]
fn a_tag_is_outstanding_once() {
    let mut unacked = Unacked::default();
    unacked.push(delivered(1, 5));
    assert_eq!(tags(&[unacked.take_one(3).unwrap()]), [3]);
    assert!(unacked.take_one(3).is_none());
    assert!(unacked.take_one(0).is_none() && unacked.take_one(6).is_none());
    assert_eq!(tags(&unacked.take_all()), [1, 2, 4, 5]);
    assert!(unacked.take_one(1).is_none());
}

#[test]
fn a_stretch_is_shortened_in_place_at_its_first_tag_only_and_never_to_nothing() {
    let mut unacked = Unacked::default();
    unacked.push(delivered(1, 3));
    assert!(unacked.beginning_with(2).is_none() && unacked.beginning_with(4).is_none());
    for tag in 1..=2 {
        unacked.beginning_with(tag).expect("more follow").drop_first();
    }
    assert!(unacked.beginning_with(3).is_none(), "it is the last");
    assert_eq!(tags(&unacked.take_all()), [3]);
}

#[test]
fn everything_up_to_a_tag_is_taken_only_if_that_tag_itself_is_outstanding() {
    let mut unacked = Unacked::default();
    unacked.push(delivered(1, 3));
    unacked.push(delivered(4, 3));
    unacked.take_one(5).unwrap();
    assert!(unacked.take_through(5).is_none());
    assert!(unacked.take_through(7).is_none());
    assert_eq!(tags(&unacked.take_through(4).unwrap()), [1, 2, 3, 4]);
    assert_eq!(tags(&unacked.take_through(6).unwrap()), [6]);
    assert!(unacked.take_through(6).is_none());
}

#[derive(Clone, Debug)]
enum Step {
    Deliver(u64),
    /// Without acknowledgements: a tag is used up.
    Skip,
    One(u64),
    Through(u64),
    All,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..6u64).prop_map(Step::Deliver),
        1 => Just(Step::Skip),
        5 => (0..60u64).prop_map(Step::One),
        2 => (0..60u64).prop_map(Step::Through),
        1 => Just(Step::All),
    ]
}

proptest! {
    #[test]
    fn tags_are_a_set_of_numbers(steps in vec(step(), 1..60)) {
        let (mut unacked, mut list, mut next) = (Unacked::default(), BTreeSet::new(), 1);
        for step in steps {
            match step {
                Step::Deliver(count) => {
                    unacked.push(delivered(next, count));
                    list.extend(next..next + count);
                    next += count;
                }
                Step::Skip => next += 1,
                Step::One(tag) => {
                    let taken = unacked.take_one(tag).map(|one| tags(&[one]));
                    prop_assert_eq!(taken, list.take(&tag).map(|tag| vec![tag]));
                }
                Step::Through(tag) => {
                    let taken = unacked.take_through(tag).map(|taken| tags(&taken));
                    let expected = list.contains(&tag).then(|| {
                        let left = list.split_off(&(tag + 1));
                        std::mem::replace(&mut list, left).into_iter().collect::<Vec<_>>()
                    });
                    prop_assert_eq!(taken, expected);
                }
                Step::All => {
                    let all: Vec<u64> = std::mem::take(&mut list).into_iter().collect();
                    prop_assert_eq!(tags(&unacked.take_all()), all);
                }
            }
        }
    }
}
