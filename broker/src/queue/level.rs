//! The ready messages of one priority, in order.
//!
//! They leave from the front only, so whatever comes back is older than everything that never left: two lists are
//! enough, and the requeued one always goes first. Of a long list only the two ends are in memory, the *head* and the
//! *tail*; what lies between them, the *cold*, is in storage.

use std::collections::{BTreeMap, VecDeque};

use leveret_storage::Run;

use super::cold::{Cold, portion};
use crate::command::{Content, Segment};
use crate::paging::Ranges;

#[derive(Default)]
pub struct Level {
    /// By first sequence number.
    requeued: BTreeMap<u64, Segment>,
    head: VecDeque<Segment>,
    cold: Cold,
    tail: VecDeque<Segment>,
}

/// What has come of messages that were read back.
#[derive(Default)]
pub struct Filled {
    /// Messages that could not be read.
    pub lost: u64,
    /// Bytes of bodies that there are more than was thought.
    pub grown: i64,
}

impl Level {
    pub fn front(&self) -> Option<&Segment> {
        let requeued = self.requeued.first_key_value().map(|(_, segment)| segment);
        requeued.or_else(|| self.head.front()).or_else(|| self.cold.front()).or_else(|| self.tail.front())
    }

    pub fn push(&mut self, segment: Segment) {
        if matches!(segment.content, Content::Away { .. }) && self.tail.is_empty() {
            self.cold.push(segment);
        } else if self.cold.is_empty() && self.tail.is_empty() {
            self.head.push_back(segment);
        } else {
            self.tail.push_back(segment);
        }
    }

    /// Messages that come back to their place.
    pub fn put_back(&mut self, segment: Segment) {
        self.requeued.insert(segment.first, segment);
    }

    /// The next messages, at least one and at most `most`.
    pub fn take(&mut self, most: u32) -> Option<Segment> {
        if let Some(mut entry) = self.requeued.first_entry() {
            if entry.get().count() <= most {
                return Some(entry.remove());
            }
            let front = entry.get_mut().split_front(most);
            let rest = entry.remove();
            self.requeued.insert(rest.first, rest);
            return Some(front);
        }
        self.join();
        if self.head.is_empty() {
            return self.cold.take(most);
        }
        let front = self.head.front_mut()?;
        if front.count() > most {
            return Some(front.split_front(most));
        }
        let taken = self.head.pop_front();
        if self.head.is_empty() && self.head.capacity() > 1024 {
            self.head = VecDeque::new();
        }
        taken
    }

    /// With nothing between them, head and tail are one.
    fn join(&mut self) {
        if self.cold.is_empty() && !self.tail.is_empty() {
            if self.head.is_empty() {
                std::mem::swap(&mut self.head, &mut self.tail);
            } else {
                self.head.append(&mut self.tail);
            }
        }
    }

    /// Lets go of content behind the first `keep` bytes, which are taken off `keep`, as far as `release` lets it. True
    /// when that is all.
    pub fn spill(&mut self, keep: &mut usize, release: &mut impl FnMut(&mut Segment) -> bool) -> bool {
        let mut all = true;
        for segment in self.requeued.values_mut().filter(|segment| segment.here().is_some()) {
            match keep.checked_sub(segment.bytes()) {
                Some(rest) => *keep = rest,
                None => {
                    *keep = 0;
                    all &= send_away(segment, release);
                }
            }
        }
        if self.cold.is_empty() {
            self.join();
            let kept = self.head.iter().take_while(|segment| {
                let here = *keep > 0;
                *keep = keep.saturating_sub(segment.bytes());
                here
            });
            let kept = kept.count();
            self.tail = self.head.split_off(kept);
        }
        // Whoever is not let go holds up those behind, and they are asked all the same: that tells storage of them.
        let mut waiting = false;
        let mut gone = 0;
        for segment in &mut self.tail {
            waiting |= !send_away(segment, release);
            gone += usize::from(!waiting);
        }
        for _ in 0..gone {
            if let Some(segment) = self.tail.pop_front() {
                self.cold.push(segment);
            }
        }
        all && !waiting
    }

    /// What to read from storage next, so that `ahead` bytes are in memory.
    pub fn wanted(&self, ahead: usize) -> Option<Ranges> {
        if let Some((_, front)) = self.requeued.first_key_value().filter(|(_, front)| front.here().is_none()) {
            return Some(vec![portion(front, ahead)]);
        }
        let mut here = 0;
        let enough = |segment: &Segment| {
            here += segment.bytes();
            here > ahead / 2
        };
        (!self.cold.is_empty() && !self.head.iter().any(enough)).then(|| self.cold.portion(ahead))
    }

    /// Takes in what storage had of what was `wanted`.
    pub fn fill(
        &mut self,
        wanted: &[(u64, u32)],
        runs: &[(u64, Run)],
        date: &mut impl FnMut(Segment, &mut Vec<Segment>),
    ) -> Filled {
        let mut filled = Filled::default();
        for &(first, count) in wanted {
            self.fill_requeued(first, first + u64::from(count), runs, date, &mut filled);
        }
        // What is read of the cold begins at its front; since then, that may have moved on.
        let mut read = Vec::new();
        let mut thought = 0;
        while let Some(segment) = self.cold.take_in(wanted) {
            thought += segment.bodies() as i64;
            filled.lost += segment.materialise(runs, &mut read);
        }
        let grown = read.iter().map(|segment| segment.bodies() as i64).sum::<i64>() - thought;
        if !self.cold.correct(grown) {
            filled.grown += grown;
        }
        let mut dated = Vec::new();
        read.into_iter().for_each(|segment| date(segment, &mut dated));
        self.head.extend(dated);
        self.join();
        filled
    }

    fn fill_requeued(
        &mut self,
        first: u64,
        end: u64,
        runs: &[(u64, Run)],
        date: &mut impl FnMut(Segment, &mut Vec<Segment>),
        filled: &mut Filled,
    ) {
        let from = self.requeued.range(..=first).next_back().map_or(first, |(at, _)| *at);
        let near = self.requeued.range(from..end);
        let away: Vec<u64> = near.filter(|(_, s)| s.last() >= first && s.here().is_none()).map(|(at, _)| *at).collect();
        for at in away {
            let Some(mut segment) = self.requeued.remove(&at) else { continue };
            if segment.last() >= end {
                let front = segment.split_front((end - segment.first) as u32);
                let rest = std::mem::replace(&mut segment, front);
                self.requeued.insert(rest.first, rest);
            }
            if segment.first < first {
                let front = segment.split_front((first - segment.first) as u32);
                self.requeued.insert(front.first, front);
            }
            let (thought, mut read, mut dated) = (segment.bodies() as i64, Vec::new(), Vec::new());
            filled.lost += segment.materialise(runs, &mut read);
            filled.grown += read.iter().map(|segment| segment.bodies() as i64).sum::<i64>() - thought;
            read.into_iter().for_each(|segment| date(segment, &mut dated));
            self.requeued.extend(dated.into_iter().map(|segment| (segment.first, segment)));
        }
    }

    /// All but the cold.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Segment> {
        self.requeued.values_mut().chain(&mut self.head).chain(&mut self.tail)
    }

    /// Everything, in order.
    pub fn segments(&self) -> impl Iterator<Item = Segment> {
        let before = self.requeued.values().chain(&self.head).cloned();
        before.chain(self.cold.segments()).chain(self.tail.iter().cloned())
    }

    /// Bytes of all bodies.
    pub fn bodies(&self) -> u64 {
        let here = self.requeued.values().chain(&self.head).chain(&self.tail);
        here.map(Segment::bodies).sum::<u64>() + self.cold.bodies()
    }
}

fn send_away(segment: &mut Segment, release: &mut impl FnMut(&mut Segment) -> bool) -> bool {
    if segment.here().is_none() {
        return true;
    }
    let gone = release(segment);
    if gone {
        segment.send_away();
    }
    gone
}
