//! Every backend passes the same suite, and agrees with the simplest model of a store.

use leveret_storage::conformance::{self, Model, Place, insert};
use leveret_storage::{Batch, Op};
use proptest::prelude::*;

use crate::support::{DiskPlace, MemoryPlace};

#[test]
fn memory_conforms() {
    conformance::all(|| MemoryPlace);
}

#[test]
fn disk_conforms() {
    conformance::all(DiskPlace::new);
}

/// What a random step does; sequence numbers are chosen when it is played.
#[derive(Clone, Debug)]
enum Step {
    Insert {
        queue: u64,
        gap: u64,
        count: u32,
        len: usize,
    },
    /// Where in the queue so far, in thousandths, and how many.
    Spill {
        queue: u64,
        at: u64,
        count: u32,
        len: usize,
    },
    /// Likewise.
    Remove {
        queue: u64,
        at: u64,
        count: u64,
    },
    Drop {
        queue: u64,
    },
    Put {
        key: u8,
        len: usize,
    },
    Delete {
        key: u8,
    },
    Commit,
    Reopen {
        close: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let queue = 1u64..4;
    let len = prop_oneof![8 => 0usize..300, 2 => 5_000usize..30_000, 1 => 60_000usize..200_000];
    let key = 0u8..4;
    prop_oneof![
        6 => (queue.clone(), prop_oneof![Just(0u64), 0u64..50], 1u32..40, len.clone())
            .prop_map(|(queue, gap, count, len)| Step::Insert { queue, gap, count: if len > 300 { 1 } else { count }, len }),
        8 => (queue.clone(), 0u64..1000, prop_oneof![8 => Just(1u64), 2 => 1u64..60, 1 => Just(100_000u64)])
            .prop_map(|(queue, at, count)| Step::Remove { queue, at, count }),
        4 => (queue.clone(), 0u64..1000, 1u32..60, 0usize..300)
            .prop_map(|(queue, at, count, len)| Step::Spill { queue, at, count, len }),
        // Long enough for more records than are deleted one by one.
        1 => (queue.clone(), 5_000u32..8_000)
            .prop_map(|(queue, count)| Step::Insert { queue, gap: 0, count, len: 250 }),
        1 => queue.prop_map(|queue| Step::Drop { queue }),
        1 => (key.clone(), len).prop_map(|(key, len)| Step::Put { key, len }),
        1 => key.prop_map(|key| Step::Delete { key }),
        4 => Just(Step::Commit),
        1 => any::<bool>().prop_map(|close| Step::Reopen { close }),
    ]
}

/// Turns steps into operations: keeps each queue's next sequence number.
#[derive(Default)]
struct Player {
    next: [u64; 4],
    /// (first, count) of what was left out.
    gaps: [Vec<(u64, u64)>; 4],
}

impl Player {
    fn op(&mut self, step: &Step) -> Option<Op> {
        Some(match *step {
            Step::Insert { queue, gap, count, len } => {
                let next = &mut self.next[queue as usize];
                let first = *next + 1 + gap;
                if gap > 0 {
                    self.gaps[queue as usize].push((*next + 1, gap));
                }
                *next = first + u64::from(count) - 1;
                insert(queue, first, count, len)
            }
            // Among those that were left out: what is kept is not spilled.
            Step::Spill { queue, at, count, len } => {
                let gaps = &self.gaps[queue as usize];
                let &(first, gap) = gaps.get(gaps.len() * at as usize / 1000)?;
                let Op::Insert { run, .. } = insert(queue, first, count.min(gap as u32), len) else { return None };
                Op::Spill { queue, first, run }
            }
            Step::Remove { queue, at, count } => {
                let first = self.next[queue as usize] * at / 1000;
                Op::Remove { queue, first, count }
            }
            Step::Drop { queue } => Op::DropQueue { queue },
            Step::Put { key, len } => {
                Op::PutDefinition { key: vec![key; usize::from(key)].into(), value: vec![len as u8; len].into() }
            }
            Step::Delete { key } => Op::DeleteDefinition { key: vec![key; usize::from(key)].into() },
            Step::Commit | Step::Reopen { .. } => return None,
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_operations_is_found_again(steps in prop::collection::vec(step(), 1..80)) {
        let place = DiskPlace::new();
        let (mut backend, _) = place.open().unwrap();
        let mut player = Player::default();
        let mut model = Model::default();
        let mut pending = Vec::new();
        for step in steps.iter().chain([&Step::Commit, &Step::Reopen { close: false }]) {
            match (player.op(step), step) {
                (Some(op), _) => {
                    model.apply(&op);
                    pending.push(op);
                }
                (None, Step::Spill { .. }) => {}
                (None, Step::Reopen { close }) => {
                    backend.commit(&Batch::fold(pending.drain(..))).unwrap();
                    if *close {
                        backend.close().unwrap();
                    } else {
                        drop(backend);
                    }
                    let (opened, recovered) = place.open().unwrap();
                    backend = opened;
                    model.spilled.clear();
                    player.gaps = Default::default();
                    prop_assert_eq!(Model::of(&recovered, &*backend), model.clone());
                    prop_assert_eq!(recovered.quarantined, vec![]);
                    prop_assert_eq!(recovered.clean, *close);
                }
                (None, _) => {
                    backend.commit(&Batch::fold(pending.drain(..))).unwrap();
                    let reader = backend.reader().unwrap();
                    for queue in 1..4 {
                        let next = player.next[queue as usize];
                        for (first, count) in [(0, u32::MAX), (next / 3, 100)] {
                            let found = conformance::read_and_outline(&*reader, queue, first, count);
                            prop_assert_eq!(found, model.read(queue, first, count));
                        }
                    }
                }
            }
        }
    }
}
