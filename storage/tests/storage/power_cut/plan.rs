//! What a recorded store is told to do, all of it decided by a seed: so whoever looks at an image knows what was asked
//! for without having been there.

use std::collections::BTreeMap;

use leveret_storage::Op;
use leveret_storage::conformance::insert;

use crate::support::Dice;

/// Queues in use at a time.
const QUEUES: usize = 4;
/// Messages that a queue may hold before more are removed than come.
const BACKLOG: usize = 150;
/// Queue ids from here on have spilled messages only.
const SPILLED: u64 = 1 << 32;

/// One thing the store is told.
#[derive(Clone, Debug)]
pub enum Step {
    /// The definition `key` becomes `value(version, len)`.
    Put {
        key: u64,
        version: u64,
        len: usize,
    },
    Delete {
        key: u64,
    },
    Insert {
        queue: u64,
        first: u64,
        count: u32,
        len: usize,
    },
    Spill {
        queue: u64,
        first: u64,
        count: u32,
        len: usize,
    },
    Remove {
        queue: u64,
        first: u64,
        count: u64,
    },
    Drop {
        queue: u64,
    },
    Mark {
        queue: u64,
        through: u64,
    },
}

/// What follows a group of steps that are submitted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Nobody waits for it.
    Nothing,
    /// A notification is asked for and not waited for.
    Ask,
    /// A notification is asked for and waited for.
    Wait,
    /// The store has nothing to do for a while.
    Rest,
}

/// How one process's use of the store ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Closed,
    /// Everything has reached the kernel; nothing more was waited for.
    Killed,
}

/// From one opening of the store to its end.
#[derive(Debug)]
pub struct Life {
    /// Which of the plan's groups.
    pub groups: std::ops::Range<usize>,
    pub end: End,
}

/// Everything that is asked of a store.
#[derive(Debug)]
pub struct Plan {
    /// Steps are numbered through, from 1 on.
    pub groups: Vec<(Vec<Step>, Then)>,
    pub lives: Vec<Life>,
}

impl Plan {
    /// The plan that `seed` stands for: so many lives of so many groups.
    pub fn new(seed: u64, lives: usize, groups: usize) -> Plan {
        let mut maker = Maker::new(seed);
        let mut plan = Plan { groups: Vec::new(), lives: Vec::new() };
        for _ in 0..lives {
            let from = plan.groups.len();
            // The first may be too short for the store to be more than made.
            let most = if from == 0 { groups / 8 } else { groups } as u64;
            for _ in 0..1 + maker.dice.roll(most) {
                let group = maker.group();
                plan.groups.push(group);
            }
            let end = if maker.dice.roll(2) == 0 { End::Closed } else { End::Killed };
            plan.lives.push(Life { groups: from..plan.groups.len(), end });
        }
        plan
    }

    /// All steps, the first of which is number 1.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.groups.iter().flat_map(|(steps, _)| steps)
    }

    /// The number of the last step of all groups before this one.
    pub fn number_before(&self, group: usize) -> u64 {
        self.groups[..group].iter().map(|(steps, _)| steps.len() as u64).sum()
    }
}

impl Step {
    /// What is submitted; `None` for a mark.
    pub fn op(&self) -> Option<Op> {
        Some(match *self {
            Step::Put { key, version, len } => {
                Op::PutDefinition { key: key_bytes(key).into(), value: value(version, len).into() }
            }
            Step::Delete { key } => Op::DeleteDefinition { key: key_bytes(key).into() },
            Step::Insert { queue, first, count, len } => insert(queue, first, count, len),
            Step::Spill { queue, first, count, len } => match insert(queue, first, count, len) {
                Op::Insert { queue, first, run } => Op::Spill { queue, first, run },
                other => other,
            },
            Step::Remove { queue, first, count } => Op::Remove { queue, first, count },
            Step::Drop { queue } => Op::DropQueue { queue },
            Step::Mark { .. } => return None,
        })
    }
}

/// The key of definition `key`; that of a queue has its id.
pub fn key_bytes(key: u64) -> Vec<u8> {
    format!("definition {key}").into_bytes()
}

/// Versions of definitions differ everywhere.
pub fn value(version: u64, len: usize) -> Vec<u8> {
    let word = format!("{version} ");
    word.bytes().cycle().take(len.max(word.len())).collect()
}

struct Maker {
    dice: Dice,
    /// Messages by queue, and each queue's next number.
    queues: BTreeMap<u64, (Vec<u64>, u64)>,
    next_queue: u64,
    spilled: u64,
    version: u64,
    /// How many of 30 steps are about definitions.
    defining: u64,
}

impl Maker {
    fn new(seed: u64) -> Maker {
        let mut dice = Dice(seed);
        let defining = [2, 10, 20][dice.roll(3) as usize];
        Maker { dice, queues: BTreeMap::new(), next_queue: 1, spilled: 1, version: 0, defining }
    }

    fn group(&mut self) -> (Vec<Step>, Then) {
        let mut steps = Vec::new();
        for _ in 0..1 + self.dice.roll(4) {
            match self.dice.roll(30) {
                _ if self.queues.len() < QUEUES => self.declare(&mut steps),
                0 => self.drop_queue(&mut steps),
                1 => self.spill(&mut steps),
                _ if self.dice.roll(30) < self.defining => self.define(&mut steps),
                2..=15 => self.publish(&mut steps),
                _ => self.acknowledge(&mut steps),
            }
        }
        let then = match self.dice.roll(20) {
            0..=2 => Then::Nothing,
            3..=9 => Then::Ask,
            10 => Then::Rest,
            _ => Then::Wait,
        };
        (steps, then)
    }

    fn declare(&mut self, steps: &mut Vec<Step>) {
        let queue = self.next_queue;
        self.next_queue += 1;
        self.queues.insert(queue, (Vec::new(), 1));
        let len = self.definition_len();
        steps.push(self.put(queue, len));
    }

    /// A definition of some other kind, or a queue's own anew.
    fn define(&mut self, steps: &mut Vec<Step>) {
        let other = SPILLED + self.dice.roll(40);
        let key = if self.dice.roll(3) == 0 { self.some_queue() } else { other };
        if key == other && self.dice.roll(3) == 0 {
            return steps.push(Step::Delete { key });
        }
        let len = self.definition_len();
        steps.push(self.put(key, len));
    }

    fn put(&mut self, key: u64, len: usize) -> Step {
        self.version += 1;
        Step::Put { key, version: self.version, len }
    }

    fn definition_len(&mut self) -> usize {
        let most = [100, 4_000, 15_000, 60_000][self.dice.roll(4) as usize];
        10 + self.dice.roll(most) as usize
    }

    fn drop_queue(&mut self, steps: &mut Vec<Step>) {
        let queue = self.some_queue();
        self.queues.remove(&queue);
        steps.extend([Step::Delete { key: queue }, Step::Drop { queue }]);
    }

    fn spill(&mut self, steps: &mut Vec<Step>) {
        let count = 1 + self.dice.roll(20) as u32;
        steps.push(Step::Spill { queue: SPILLED, first: self.spilled, count, len: 3_000 });
        self.spilled += u64::from(count);
        steps.push(Step::Remove { queue: SPILLED, first: 1, count: self.spilled.saturating_sub(60) });
    }

    fn publish(&mut self, steps: &mut Vec<Step>) {
        let queue = self.some_queue();
        let (count, len) = match self.dice.roll(40) {
            0 => (1, 270_000 + self.dice.roll(300_000)),
            1..=2 => (2, 33_000 + self.dice.roll(60_000)),
            3..=9 => (1 + self.dice.roll(20) as u32, self.dice.roll(8_000)),
            _ => (1 + self.dice.roll(8) as u32, self.dice.roll(600)),
        };
        let Some((held, next)) = self.queues.get_mut(&queue) else { return };
        // Numbers have gaps.
        *next += u64::from(self.dice.roll(8) == 0);
        steps.push(Step::Insert { queue, first: *next, count, len: len as usize });
        held.extend(*next..*next + u64::from(count));
        *next += u64::from(count);
    }

    fn acknowledge(&mut self, steps: &mut Vec<Step>) {
        let queue = self.some_queue();
        let Some((held, next)) = self.queues.get_mut(&queue) else { return };
        if held.is_empty() {
            return;
        }
        steps.push(Step::Mark { queue, through: *next - 1 });
        if self.dice.roll(60) == 0 {
            held.clear();
            return steps.push(Step::Remove { queue, first: 1, count: u64::MAX });
        }
        // The older half goes faster; some stay for long.
        let surplus = held.len().saturating_sub(BACKLOG);
        for _ in 0..1 + surplus + self.dice.roll(10) as usize {
            if held.is_empty() {
                break;
            }
            let most = if self.dice.roll(4) == 0 { held.len() } else { held.len().div_ceil(2) };
            let first = held.remove(self.dice.roll(most as u64) as usize);
            steps.push(Step::Remove { queue, first, count: 1 });
        }
    }

    fn some_queue(&mut self) -> u64 {
        let at = self.dice.roll(self.queues.len() as u64) as usize;
        self.queues.keys().nth(at).copied().unwrap_or(1)
    }
}
