//! Whether every message came, once, in order, where it belongs and as it was sent.
//!
//! A body begins with [`Mark`]: who published it, as its how many-th message, and when. Producer `p` publishes message
//! `n` to the `n % k`-th of its `k` queues, so a queue knows which messages it must have seen.

use std::collections::VecDeque;
use std::fmt;

/// The least body, in bytes: a [`Mark`].
pub const MARK: usize = 16;
/// The bits of the sequence number; those above it are the producer's.
const SEQUENCE_BITS: u32 = 48;
/// A message that claims to be further ahead of the first missing one than this has not been sent by us.
const FARTHEST: u64 = 1 << 36;

/// What a body begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    pub producer: u16,
    pub sequence: u64,
    /// When the message was (or should have been) sent, in nanoseconds since the run's epoch.
    pub sent: u64,
}

impl Mark {
    #[inline]
    pub fn encode(self) -> [u8; MARK] {
        let mut bytes = [0; MARK];
        let id = u64::from(self.producer) << SEQUENCE_BITS | self.sequence;
        bytes[..8].copy_from_slice(&id.to_be_bytes());
        bytes[8..].copy_from_slice(&self.sent.to_be_bytes());
        bytes
    }

    /// Reads it from the beginning of a body.
    #[inline]
    pub fn decode(body: &[u8]) -> Option<Mark> {
        let (id, rest) = body.split_first_chunk::<8>()?;
        let (sent, _) = rest.split_first_chunk::<8>()?;
        let id = u64::from_be_bytes(*id);
        let sequence = id & ((1 << SEQUENCE_BITS) - 1);
        Some(Mark { producer: (id >> SEQUENCE_BITS) as u16, sequence, sent: u64::from_be_bytes(*sent) })
    }
}

/// What was wrong, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    pub lost: u64,
    pub duplicated: u64,
    /// Came to a consumer behind a later one of the same producer, without being marked redelivered.
    pub out_of_order: u64,
    /// Not sent to this queue, not as large as sent, or not sent by this run at all.
    pub foreign: u64,
    /// Refused by the broker (`basic.nack` of a publish).
    pub nacked: u64,
    /// Confirms of what was not outstanding.
    pub wrongly_confirmed: u64,
    /// The first of them, in words.
    pub first: Option<String>,
}

impl Faults {
    pub fn none(&self) -> bool {
        let Faults { lost, duplicated, out_of_order, foreign, nacked, wrongly_confirmed, first: _ } = self;
        [lost, duplicated, out_of_order, foreign, nacked, wrongly_confirmed].iter().all(|count| **count == 0)
    }

    /// Keeps the first fault's description.
    #[cold]
    pub fn note(&mut self, fault: impl fmt::Display) {
        self.first.get_or_insert_with(|| fault.to_string());
    }

    /// Adds what was found elsewhere.
    pub fn add(&mut self, other: Faults) {
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.out_of_order += other.out_of_order;
        self.foreign += other.foreign;
        self.nacked += other.nacked;
        self.wrongly_confirmed += other.wrongly_confirmed;
        if self.first.is_none() {
            self.first = other.first;
        }
    }
}

/// The numbers that have been seen, each once: a bitmap that begins at the first word with a number missing.
#[derive(Default)]
struct Seen {
    /// The number of the first bit, in words.
    base: u64,
    words: VecDeque<u64>,
    count: u64,
}

enum New {
    Yes,
    Again,
    Absurd,
}

impl Seen {
    #[inline]
    fn insert(&mut self, number: u64) -> New {
        let Some(at) = (number / 64).checked_sub(self.base) else { return New::Again };
        if at > FARTHEST / 64 {
            return New::Absurd;
        }
        let at = at as usize;
        if at >= self.words.len() {
            self.words.resize(at + 1, 0);
        }
        let (word, bit) = (&mut self.words[at], 1 << (number % 64));
        if *word & bit != 0 {
            return New::Again;
        }
        *word |= bit;
        self.count += 1;
        if at == 0 && *word == u64::MAX {
            self.words.pop_front();
            self.base += 1;
            while self.words.front() == Some(&u64::MAX) {
                self.words.pop_front();
                self.base += 1;
            }
        }
        New::Yes
    }

    /// The first number below `end` that was not seen.
    fn first_missing(&self, end: u64) -> Option<u64> {
        let missing = match self.words.iter().position(|word| *word != u64::MAX) {
            Some(at) => (self.base + at as u64) * 64 + u64::from(self.words[at].trailing_ones()),
            None => (self.base + self.words.len() as u64) * 64,
        };
        (missing < end).then_some(missing)
    }
}

/// What one queue has delivered, to all its consumers together.
pub struct QueueCheck {
    queue: usize,
    producers: Vec<Expected>,
    pub faults: Faults,
}

/// What a queue expects of one producer.
struct Expected {
    /// The queue is its `at`-th of `of`; None: it does not publish here.
    place: Option<Place>,
    seen: Seen,
}

/// A queue as one of those that a producer publishes to in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub at: u64,
    pub of: u64,
}

impl Place {
    /// How many of the producer's first `published` messages go to this queue.
    pub fn share(self, published: u64) -> u64 {
        (published + self.of - 1).saturating_sub(self.at) / self.of
    }
}

impl QueueCheck {
    /// `places`: for each producer, which of its queues this one is, if any.
    pub fn new(queue: usize, places: impl Iterator<Item = Option<Place>>) -> QueueCheck {
        let producers = places.map(|place| Expected { place, seen: Seen::default() }).collect();
        QueueCheck { queue, producers, faults: Faults::default() }
    }

    /// A message has come. True when it is one of ours and new.
    #[inline]
    pub fn take(&mut self, mark: Mark) -> bool {
        let Some(Expected { place: Some(place), seen }) = self.producers.get_mut(usize::from(mark.producer)) else {
            return self.foreign(mark);
        };
        let (number, at) = match place.of {
            1 => (mark.sequence, 0),
            of => (mark.sequence / of, mark.sequence % of),
        };
        if at != place.at {
            return self.foreign(mark);
        }
        match seen.insert(number) {
            New::Yes => true,
            New::Again => {
                self.faults.duplicated += 1;
                self.faults.note(format_args!("queue {} got {mark} twice", self.queue));
                false
            }
            New::Absurd => self.foreign(mark),
        }
    }

    #[cold]
    fn foreign(&mut self, mark: Mark) -> bool {
        self.faults.foreign += 1;
        self.faults.note(format_args!("queue {} got {mark}, which was not sent there", self.queue));
        false
    }

    /// Counts as lost what `published` (messages of each producer) says must have come and has not.
    pub fn finish(mut self, published: &[u64]) -> Faults {
        for (producer, (expected, published)) in self.producers.iter().zip(published).enumerate() {
            let Some(place) = expected.place else { continue };
            let share = place.share(*published);
            let lost = share.saturating_sub(expected.seen.count);
            self.faults.lost += lost;
            if lost > 0
                && let Some(missing) = expected.seen.first_missing(share)
            {
                let sequence = missing * place.of + place.at;
                let fault =
                    format_args!("message {sequence} of producer {producer} did not come to queue {}", self.queue);
                self.faults.note(fault);
            }
        }
        self.faults
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "message {} of producer {}", self.sequence, self.producer)
    }
}

/// The order in which one consumer gets a queue's messages.
pub struct OrderCheck {
    /// For each producer the least sequence number that may come next.
    next: Vec<u64>,
}

impl OrderCheck {
    pub fn new(producers: usize) -> OrderCheck {
        OrderCheck { next: vec![0; producers] }
    }

    /// False when a later message of the same producer has come before, and nothing excuses it. A producer that is
    /// not known is not judged here.
    #[inline]
    pub fn take(&mut self, mark: Mark, redelivered: bool) -> bool {
        let Some(next) = self.next.get_mut(usize::from(mark.producer)) else { return true };
        if mark.sequence >= *next {
            *next = mark.sequence + 1;
            return true;
        }
        redelivered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(producer: u16, sequence: u64) -> Mark {
        Mark { producer, sequence, sent: 7 }
    }

    fn lone() -> QueueCheck {
        QueueCheck::new(0, [Some(Place { at: 0, of: 1 })].into_iter())
    }

    #[test]
    fn a_mark_is_read_as_it_was_written() {
        let mark = Mark { producer: u16::MAX, sequence: (1 << 48) - 1, sent: u64::MAX };
        let body = [&mark.encode()[..], b"more"].concat();
        assert_eq!(Mark::decode(&body), Some(mark));
        assert_eq!(Mark::decode(&body[..MARK - 1]), None);
    }

    #[test]
    fn all_messages_once_is_no_fault_in_whatever_order_consumers_share_them() {
        let mut check = lone();
        for sequence in (0..10_000).filter(|n| n % 2 == 1).chain((0..10_000).filter(|n| n % 2 == 0)) {
            assert!(check.take(mark(0, sequence)));
        }
        assert!(check.producers[0].seen.words.len() < 3, "what is complete takes no memory");
        assert_eq!(check.finish(&[10_000]), Faults::default());
    }

    #[test]
    fn what_does_not_come_is_lost() {
        let mut check = lone();
        (0..1_000).filter(|n| ![70, 999].contains(n)).for_each(|n| assert!(check.take(mark(0, n))));
        let faults = check.finish(&[1_000]);
        assert_eq!((faults.lost, faults.duplicated), (2, 0));
        assert_eq!(faults.first.as_deref(), Some("message 70 of producer 0 did not come to queue 0"));
        assert!(!faults.none());
    }

    #[test]
    fn a_queue_that_gets_nothing_has_lost_everything() {
        let faults = lone().finish(&[128]);
        assert_eq!(faults.lost, 128);
        assert_eq!(faults.first.as_deref(), Some("message 0 of producer 0 did not come to queue 0"));
    }

    #[test]
    fn what_comes_twice_is_a_duplicate_however_much_later() {
        let mut check = lone();
        (0..1_000).for_each(|n| assert!(check.take(mark(0, n))));
        assert!(!check.take(mark(0, 0)));
        assert!(!check.take(mark(0, 999)));
        let faults = check.finish(&[1_000]);
        assert_eq!((faults.duplicated, faults.lost), (2, 0));
    }

    #[test]
    fn a_message_of_another_queue_or_producer_or_run_is_foreign() {
        let places = [Some(Place { at: 1, of: 3 }), None];
        let mut check = QueueCheck::new(4, places.into_iter());
        assert!(check.take(mark(0, 1)) && check.take(mark(0, 4)));
        for foreign in [mark(0, 2), mark(1, 0), mark(2, 0), mark(0, (1 << 47) + 2)] {
            assert!(!check.take(foreign), "{foreign}");
        }
        assert_eq!((check.faults.foreign, check.faults.duplicated), (4, 0));
        assert_eq!(
            check.finish(&[7, 50]),
            Faults {
                foreign: 4,
                first: Some("queue 4 got message 2 of producer 0, which was not sent there".to_owned()),
                ..Faults::default()
            }
        );
    }

    #[test]
    fn the_shares_of_a_producers_queues_are_all_its_messages() {
        for published in 0..20 {
            let shares = (0..3).map(|at| Place { at, of: 3 }.share(published));
            assert_eq!(shares.sum::<u64>(), published);
        }
        assert_eq!(Place { at: 2, of: 3 }.share(2), 0);
    }

    #[test]
    fn order_is_each_producers_own_and_only_a_redelivery_may_break_it() {
        let mut order = OrderCheck::new(2);
        assert!(order.take(mark(0, 5), false) && order.take(mark(1, 2), false) && order.take(mark(0, 9), false));
        assert!(!order.take(mark(0, 8), false), "9 has come before");
        assert!(order.take(mark(0, 8), true));
        assert!(order.take(mark(1, 3), false));
    }
}
