//! How a durable queue's time to live has changed while it had messages: a message keeps the one that held when it
//! came, also across a restart, and it is not stored with the message.

use leveret_storage::Op;

use crate::vhost::definition;

/// Changes that are remembered; of older ones the last is taken for all before it.
const MOST: usize = 64;
/// No time to live, as stored.
const NONE: u64 = u64::MAX;

/// By the sequence number of the first message that came after the change; empty: there never was one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lifetimes(Vec<(u64, Option<u64>)>);

impl Lifetimes {
    /// The time to live of the message with that number, in milliseconds; `now` holds if it has never changed.
    pub fn at(&self, sequence: u64, now: Option<u64>) -> Option<u64> {
        let older = self.0.partition_point(|(first, _)| *first <= sequence);
        let found = older.checked_sub(1).and_then(|at| self.0.get(at)).or(self.0.first());
        found.map_or(now, |(_, ttl)| *ttl)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// It was the first one until now, and is the second one for messages from `next` on.
    pub fn change(&mut self, next: u64, (before, after): (Option<u64>, Option<u64>)) {
        if self.0.is_empty() {
            self.0.push((0, before));
        }
        if self.0.last().is_some_and(|(first, _)| *first == next) {
            // No message has come since the last change.
            self.0.pop();
        }
        self.0.push((next, after));
        if self.0.len() > MOST {
            self.0.remove(0);
        }
    }

    /// A number that the next message must at least have, to be counted as one that came after the last change.
    pub fn next(&self) -> u64 {
        self.0.last().map_or(0, |(first, _)| *first)
    }

    /// Stores it for the queue with that id.
    pub fn put(&self, queue: u64) -> Op {
        let numbers = self.0.iter().flat_map(|(first, ttl)| [*first, ttl.unwrap_or(NONE)]);
        let value = numbers.flat_map(u64::to_be_bytes).collect();
        Op::PutDefinition { key: definition::lifetimes_key(queue), value }
    }

    /// Removes it from storage, if it is there.
    pub fn delete(&self, queue: u64) -> Option<Op> {
        (!self.0.is_empty()).then(|| Op::DeleteDefinition { key: definition::lifetimes_key(queue) })
    }

    /// Reads what [`Lifetimes::put`] has stored.
    pub fn read(value: &[u8]) -> Option<Lifetimes> {
        let (pairs, rest) = value.as_chunks::<16>();
        if !rest.is_empty() {
            return None;
        }
        let number = |octets: &[u8]| octets.iter().fold(0u64, |number, octet| number << 8 | u64::from(*octet));
        let pair = |pair: &[u8; 16]| (number(&pair[..8]), Some(number(&pair[8..])).filter(|ttl| *ttl != NONE));
        Some(Lifetimes(pairs.iter().map(pair).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_keeps_the_time_to_live_that_held_when_it_came() {
        let mut lifetimes = Lifetimes::default();
        assert_eq!(lifetimes.at(5, Some(7)), Some(7), "it has never changed");
        lifetimes.change(10, (None, Some(100)));
        lifetimes.change(20, (Some(100), None));
        let at = |sequence| lifetimes.at(sequence, Some(1));
        assert_eq!([at(1), at(9), at(10), at(19), at(20), at(99)], [None, None, Some(100), Some(100), None, None]);
    }

    #[test]
    fn changes_without_a_message_in_between_are_one() {
        let mut lifetimes = Lifetimes::default();
        lifetimes.change(10, (None, Some(100)));
        lifetimes.change(10, (Some(100), Some(200)));
        assert_eq!(lifetimes, Lifetimes(vec![(0, None), (10, Some(200))]));
    }

    #[test]
    fn it_is_read_as_it_was_stored() {
        let mut lifetimes = Lifetimes::default();
        lifetimes.change(10, (None, Some(100)));
        lifetimes.change(300, (Some(100), None));
        let Op::PutDefinition { value, .. } = lifetimes.put(7) else { panic!("no definition") };
        assert_eq!(Lifetimes::read(&value), Some(lifetimes));
        assert_eq!(Lifetimes::read(&value[1..]), None);
    }

    #[test]
    fn of_very_many_changes_the_oldest_are_forgotten() {
        let mut lifetimes = Lifetimes::default();
        for change in 1..=200 {
            lifetimes.change(change, (Some(change - 1), Some(change)));
        }
        assert_eq!(lifetimes.0.len(), MOST);
        assert_eq!(lifetimes.at(200, None), Some(200));
        assert_eq!(lifetimes.at(1, None), Some(137), "the oldest that is known");
    }
}
