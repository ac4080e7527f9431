//! The ready messages of a queue, in order.
//!
//! Messages leave from the front only, so whatever comes back is older than everything that never left: two lists
//! are enough, and the requeued one always goes first.

use std::collections::{BTreeMap, VecDeque};

use crate::command::Segment;

#[derive(Default)]
pub struct Ready {
    /// By first sequence number.
    requeued: BTreeMap<u64, Segment>,
    fresh: VecDeque<Segment>,
    messages: u64,
}

impl Ready {
    /// How many messages.
    pub fn len(&self) -> u64 {
        self.messages
    }

    pub fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// New messages, behind all others.
    pub fn push(&mut self, segment: Segment) {
        self.messages += u64::from(segment.count());
        self.fresh.push_back(segment);
    }

    /// Messages that come back to their place.
    pub fn put_back(&mut self, segment: Segment) {
        self.messages += u64::from(segment.count());
        self.requeued.insert(segment.first, segment);
    }

    /// The next messages in order, at least one and at most `most`.
    pub fn take(&mut self, most: u32) -> Option<Segment> {
        let taken = if let Some(mut entry) = self.requeued.first_entry() {
            if entry.get().count() <= most {
                entry.remove()
            } else {
                let front = entry.get_mut().split_front(most);
                let rest = entry.remove();
                self.requeued.insert(rest.first, rest);
                front
            }
        } else {
            let front = self.fresh.front_mut()?;
            if front.count() <= most {
                self.fresh.pop_front()?
            } else {
                front.split_front(most)
            }
        };
        self.messages -= u64::from(taken.count());
        if self.messages == 0 && self.fresh.capacity() > 1024 {
            self.fresh = VecDeque::new();
        }
        Some(taken)
    }

    /// Takes everything.
    pub fn drain(&mut self) -> impl Iterator<Item = Segment> + use<> {
        self.messages = 0;
        std::mem::take(&mut self.requeued)
            .into_values()
            .chain(std::mem::take(&mut self.fresh))
    }
}
