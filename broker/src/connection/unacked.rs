//! The deliveries of a channel that wait for their acknowledgement, by delivery tag.
//!
//! Kept as stretches of consecutive tags, so that a run delivered at once is one entry until it is settled in pieces.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::command::{ConsumerKey, Segment};
use crate::queue::Queue;

/// Consecutive deliveries from one queue: tag `first_tag + i` is message `i` of the segment.
pub struct Outstanding {
    pub first_tag: u64,
    /// None: fetched with `basic.get`.
    pub consumer: Option<ConsumerKey>,
    pub queue: Arc<Queue>,
    pub segment: Segment,
    /// It counts for the channel-wide prefetch limit.
    pub counted: bool,
    /// When it was delivered, by the broker's clock.
    pub at: Duration,
}

impl Outstanding {
    fn last_tag(&self) -> u64 {
        self.first_tag + u64::from(self.segment.count()) - 1
    }

    /// Leaves the first delivery out.
    pub fn drop_first(&mut self) {
        self.segment.drop_front(1);
        self.first_tag += 1;
    }

    fn split_front(&mut self, count: u32) -> Outstanding {
        let front = Outstanding {
            first_tag: self.first_tag,
            consumer: self.consumer,
            queue: self.queue.clone(),
            segment: self.segment.split_front(count),
            counted: self.counted,
            at: self.at,
        };
        self.first_tag += u64::from(count);
        front
    }
}

#[derive(Default)]
pub struct Unacked {
    entries: VecDeque<Outstanding>,
}

impl Unacked {
    pub fn push(&mut self, outstanding: Outstanding) {
        self.entries.push_back(outstanding);
    }

    /// Puts back what was taken before, each to its place by tag.
    pub fn restore(&mut self, taken: impl IntoIterator<Item = Outstanding>) {
        let before = self.entries.len();
        self.entries.extend(taken);
        if self.entries.len() > before {
            let entries = self.entries.make_contiguous();
            entries.sort_unstable_by_key(|entry| entry.first_tag);
        }
    }

    /// The oldest delivery.
    pub fn first(&self) -> Option<&Outstanding> {
        self.entries.front()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Outstanding> {
        self.entries.iter_mut()
    }

    /// Where `tag` is, if it is outstanding.
    fn find(&self, tag: u64) -> Option<usize> {
        let index = self.entries.partition_point(|entry| entry.last_tag() < tag);
        (self.entries.get(index)?.first_tag <= tag).then_some(index)
    }

    /// The stretch that begins with this tag and goes on after it, to be shortened in place.
    pub fn beginning_with(&mut self, tag: u64) -> Option<&mut Outstanding> {
        let index = self.find(tag)?;
        self.entries.get_mut(index).filter(|entry| entry.first_tag == tag && entry.segment.count() > 1)
    }

    /// Takes the one delivery with this tag.
    pub fn take_one(&mut self, tag: u64) -> Option<Outstanding> {
        let index = self.find(tag)?;
        let before = (tag - self.entries[index].first_tag) as u32;
        if before > 0 {
            let front = self.entries[index].split_front(before);
            self.entries.insert(index, front);
            return self.take_front_of(index + 1);
        }
        self.take_front_of(index)
    }

    fn take_front_of(&mut self, index: usize) -> Option<Outstanding> {
        let entry = self.entries.get_mut(index)?;
        if entry.segment.count() == 1 { self.entries.remove(index) } else { Some(entry.split_front(1)) }
    }

    /// Takes every delivery up to and including `tag`, which must be outstanding itself.
    pub fn take_through(&mut self, tag: u64) -> Option<Vec<Outstanding>> {
        let index = self.find(tag)?;
        let count = (tag - self.entries[index].first_tag) as u32 + 1;
        let mut taken: Vec<_> = self.entries.drain(..index).collect();
        let entry = &mut self.entries[0];
        if entry.segment.count() == count {
            taken.extend(self.entries.pop_front());
        } else {
            taken.push(entry.split_front(count));
        }
        if self.entries.is_empty() && self.entries.capacity() > 1024 {
            self.entries = VecDeque::new();
        }
        Some(taken)
    }

    /// Takes everything.
    pub fn take_all(&mut self) -> Vec<Outstanding> {
        std::mem::take(&mut self.entries).into()
    }
}

#[cfg(test)]
mod tests;
