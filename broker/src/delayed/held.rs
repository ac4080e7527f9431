//! What an exchange holds back, by when it is due: in memory, or in storage only.

use std::cmp::Ordering;

use leveret_storage::{Outline, Run};

use crate::message::Meta;

/// Messages in a row that are due at the same moment, all persistent or none.
#[derive(Clone)]
pub struct Held {
    /// Milliseconds since the Unix epoch.
    pub due: u64,
    /// The sequence number of the first one.
    pub first: u64,
    pub run: Run,
    /// Storage was given them.
    pub stored: bool,
}

/// The same of messages that are in storage only.
#[derive(Clone, Copy, Debug)]
pub struct Away {
    pub due: u64,
    pub first: u64,
    pub count: u32,
    /// Of the messages, about.
    pub bytes: u32,
}

impl Away {
    /// Bytes that messages with one entry may have.
    const MOST: u32 = 1 << 20;

    /// One message.
    pub fn of(message: &Outline) -> Away {
        Away { due: Meta(message.meta).published(), first: message.sequence, count: 1, bytes: message.len }
    }

    /// Takes in those that follow. False: they do not.
    pub fn take_in(&mut self, next: &Away) -> bool {
        let follows = (self.due, self.first + u64::from(self.count)) == next.place();
        let fits = follows && self.bytes.saturating_add(next.bytes) <= Away::MOST;
        if fits {
            self.count += next.count;
            self.bytes += next.bytes;
        }
        fits
    }

    /// By moment, then in the order of arrival.
    pub fn place(&self) -> (u64, u64) {
        (self.due, self.first)
    }
}

impl Held {
    /// By moment, then in the order of arrival.
    pub fn place(&self) -> (u64, u64) {
        (self.due, self.first)
    }

    /// The same without content.
    pub fn away(&self) -> Away {
        let bytes = u32::try_from(self.run.bytes()).unwrap_or(u32::MAX);
        Away { due: self.due, first: self.first, count: self.run.count(), bytes }
    }

    /// The first messages, about as many as have `bytes`, at least one; and the others.
    pub fn split(mut self, bytes: usize) -> (Held, Option<Held>) {
        let mut sum = 0;
        let fitting = (self.run.from..self.run.to).take_while(|index| {
            let fits = sum < bytes;
            sum += self.run.block.len_of(*index) as usize;
            fits
        });
        let count = (fitting.count() as u32).max(1);
        if count >= self.run.count() {
            return (self, None);
        }
        let front = Held { run: self.run.slice(0, count), ..self.clone() };
        self.run.from += count;
        self.first += u64::from(count);
        (front, Some(self))
    }
}

/// Both heaps give the greatest first, which is what is due first.
macro_rules! first_due_is_greatest {
    ($kind:ty) => {
        impl Ord for $kind {
            fn cmp(&self, other: &$kind) -> Ordering {
                other.place().cmp(&self.place())
            }
        }

        impl PartialOrd for $kind {
            fn partial_cmp(&self, other: &$kind) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl PartialEq for $kind {
            fn eq(&self, other: &$kind) -> bool {
                self.place() == other.place()
            }
        }

        impl Eq for $kind {}
    };
}

first_due_is_greatest!(Held);
first_due_is_greatest!(Away);
