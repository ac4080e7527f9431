//! The ready messages of a queue, in order.
//!
//! Each priority has a level of its own; a queue without priorities has one. Messages leave a level from the front
//! only, so whatever comes back is older than everything that never left: two lists are enough, and the requeued one
//! always goes first.

use std::collections::{BTreeMap, VecDeque};

use crate::command::Segment;
use crate::message;

#[derive(Default)]
struct Level {
    /// By first sequence number.
    requeued: BTreeMap<u64, Segment>,
    fresh: VecDeque<Segment>,
}

impl Level {
    fn front(&self) -> Option<&Segment> {
        self.requeued.first_key_value().map(|(_, segment)| segment).or_else(|| self.fresh.front())
    }

    fn take(&mut self, most: u32) -> Option<Segment> {
        if let Some(mut entry) = self.requeued.first_entry() {
            if entry.get().count() <= most {
                return Some(entry.remove());
            }
            let front = entry.get_mut().split_front(most);
            let rest = entry.remove();
            self.requeued.insert(rest.first, rest);
            return Some(front);
        }
        let front = self.fresh.front_mut()?;
        if front.count() > most {
            return Some(front.split_front(most));
        }
        let taken = self.fresh.pop_front();
        if self.fresh.is_empty() && self.fresh.capacity() > 1024 {
            self.fresh = VecDeque::new();
        }
        taken
    }
}

pub struct Ready {
    /// By priority. One level: the priority of messages means nothing.
    levels: Vec<Level>,
    messages: u64,
    /// Bytes of bodies; counted only where a limit asks for it.
    bytes: Option<u64>,
}

impl Ready {
    /// `max_priority` levels above the lowest; `count_bytes` when a limit needs [`Ready::bytes`].
    pub fn new(max_priority: u8, count_bytes: bool) -> Ready {
        let levels = (0..=max_priority).map(|_| Level::default()).collect();
        Ready { levels, messages: 0, bytes: count_bytes.then_some(0) }
    }

    /// How many messages.
    pub fn len(&self) -> u64 {
        self.messages
    }

    pub fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// Bytes of bodies, if they are counted.
    pub fn bytes(&self) -> u64 {
        self.bytes.unwrap_or(0)
    }

    /// Counts bytes from now on, or no longer.
    pub fn count_bytes(&mut self, count: bool) {
        self.bytes = match (count, self.bytes) {
            (false, _) => None,
            (true, Some(bytes)) => Some(bytes),
            (true, None) => Some(self.iter_mut().map(|segment| body_bytes(segment)).sum()),
        };
    }

    fn count(&mut self, segment: &Segment, sign: i64) {
        self.messages = self.messages.wrapping_add_signed(sign * i64::from(segment.count()));
        if let Some(bytes) = &mut self.bytes {
            *bytes = bytes.wrapping_add_signed(sign * body_bytes(segment) as i64);
        }
    }

    /// New messages, behind all others of their priority.
    pub fn push(&mut self, segment: Segment) {
        self.count(&segment, 1);
        self.for_each_level(segment, |level, segment| level.fresh.push_back(segment));
    }

    /// Messages that come back to their place.
    pub fn put_back(&mut self, segment: Segment) {
        self.count(&segment, 1);
        self.for_each_level(segment, |level, segment| drop(level.requeued.insert(segment.first, segment)));
    }

    /// Cuts a segment where the priority changes.
    fn for_each_level(&mut self, mut segment: Segment, mut add: impl FnMut(&mut Level, Segment)) {
        let highest = self.levels.len() - 1;
        if highest == 0 {
            return add(&mut self.levels[0], segment);
        }
        let priority = |segment: &Segment, at: u32| {
            usize::from(message::meta(&segment.run.block, segment.run.from + at).priority()).min(highest)
        };
        loop {
            let first = priority(&segment, 0);
            let same = (1..segment.count()).take_while(|at| priority(&segment, *at) == first).count() as u32 + 1;
            if same == segment.count() {
                return add(&mut self.levels[first], segment);
            }
            let front = segment.split_front(same);
            add(&mut self.levels[first], front);
        }
    }

    fn highest(&mut self) -> Option<&mut Level> {
        if self.messages == 0 {
            return None;
        }
        self.levels.iter_mut().rev().find(|level| level.front().is_some())
    }

    /// The message that is next: only it, of all levels, is looked at for expiry.
    pub fn front(&mut self) -> Option<&Segment> {
        self.highest()?.front()
    }

    /// The next messages in order, at least one and at most `most`.
    pub fn take(&mut self, most: u32) -> Option<Segment> {
        let taken = self.highest()?.take(most)?;
        self.count(&taken, -1);
        Some(taken)
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Segment> {
        self.levels.iter_mut().flat_map(|level| level.requeued.values_mut().chain(&mut level.fresh))
    }

    /// Takes everything.
    pub fn drain(&mut self) -> Vec<Segment> {
        self.messages = 0;
        self.bytes = self.bytes.map(|_| 0);
        let levels = self.levels.iter_mut().rev();
        levels
            .flat_map(|level| std::mem::take(&mut level.requeued).into_values().chain(std::mem::take(&mut level.fresh)))
            .collect()
    }
}

fn body_bytes(segment: &Segment) -> u64 {
    (segment.run.from..segment.run.to).map(|index| message::body_size(&segment.run.block, index)).sum()
}
