//! Messages of a level of which only storage has the content: what lies between the two ends of a long list.
//!
//! Where other levels have the messages in between, as in a queue with priorities, one costs 8 octets and its share of
//! what it has in common with its neighbours.

use std::collections::VecDeque;

use crate::command::{Content, Segment};
use crate::paging::{self, Ranges};

/// Bytes of messages that neighbours described together may have.
const CHAIN: u64 = 1 << 20;

#[derive(Default)]
pub struct Cold(VecDeque<Chain>);

/// Neighbours on their level that are alike but for their numbers.
#[derive(Clone)]
struct Chain {
    /// The first ones, without a gap. Away, as all of them.
    front: Segment,
    more: Option<Box<More>>,
    /// Some that came before are gone from it: where sizes were shared out, the others have what is left.
    begun: bool,
}

/// What follows the front of a chain.
#[derive(Clone, Default)]
struct More {
    /// How many numbers are left out, then how many messages follow without a gap.
    stretches: VecDeque<(u32, u32)>,
    /// The last sequence number.
    last: u64,
    count: u32,
    /// Of all these messages, and of their bodies.
    bytes: u32,
    bodies: u32,
}

impl Chain {
    fn last(&self) -> u64 {
        self.more.as_ref().map_or(self.front.last(), |more| more.last)
    }

    fn bytes(&self) -> u64 {
        self.front.bytes() as u64 + self.more.as_ref().map_or(0, |more| u64::from(more.bytes))
    }

    /// Takes in what comes next, if it is alike.
    fn take_in(&mut self, next: &Segment) -> bool {
        let front = &self.front;
        let alike = (front.persistent, front.spilled, front.redelivered, front.returns, front.expires)
            == (next.persistent, next.spilled, next.redelivered, next.returns, next.expires);
        let end = self.last() + 1;
        let gap = next.first.checked_sub(end).and_then(|gap| u32::try_from(gap).ok());
        let Content::Away { count, bytes, bodies } = next.content else { return false };
        let (Some(gap), true) = (gap, alike && self.bytes() + u64::from(bytes) <= CHAIN) else { return false };
        if gap == 0
            && self.more.is_none()
            && let Content::Away { count: all, bytes: size, bodies: of_bodies } = &mut self.front.content
        {
            (*all, *size, *of_bodies) = (*all + count, *size + bytes, *of_bodies + bodies);
            return true;
        }
        let more = self.more.get_or_insert_default();
        match more.stretches.back_mut() {
            Some((_, before)) if gap == 0 => *before += count,
            _ => more.stretches.push_back((gap, count)),
        }
        more.last = next.last();
        (more.count, more.bytes, more.bodies) = (more.count + count, more.bytes + bytes, more.bodies + bodies);
        true
    }

    /// Takes the front off; None: there is nothing else.
    fn advance(&mut self) -> Option<Segment> {
        let more = self.more.as_mut()?;
        let (gap, count) = more.stretches.pop_front()?;
        let share = |all: u32| (u64::from(all) * u64::from(count) / u64::from(more.count.max(1))) as u32;
        let (bytes, bodies) = (share(more.bytes), share(more.bodies));
        (more.count, more.bytes, more.bodies) = (more.count - count, more.bytes - bytes, more.bodies - bodies);
        let first = self.front.last() + 1 + u64::from(gap);
        if more.stretches.is_empty() {
            self.more = None;
        }
        let next = Segment { first, content: Content::Away { count, bytes, bodies }, ..self.front.clone() };
        self.begun = true;
        Some(std::mem::replace(&mut self.front, next))
    }
}

impl Cold {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn front(&self) -> Option<&Segment> {
        self.0.front().map(|chain| &chain.front)
    }

    /// Puts a segment whose content is away behind all others.
    pub fn push(&mut self, segment: Segment) {
        if !self.0.back_mut().is_some_and(|chain| chain.take_in(&segment)) {
            self.0.push_back(Chain { front: segment, more: None, begun: false });
        }
    }

    /// The first messages, at most `most` and without a gap.
    pub fn take(&mut self, most: u32) -> Option<Segment> {
        let chain = self.0.front_mut()?;
        if chain.front.count() > most {
            chain.begun = true;
            return Some(chain.front.split_front(most));
        }
        let taken = chain.advance().or_else(|| self.0.pop_front().map(|chain| chain.front));
        if self.0.is_empty() && self.0.capacity() > 1024 {
            self.0 = VecDeque::new();
        }
        taken
    }

    /// The first messages, as far as they lie in one of `ranges`.
    pub fn take_in(&mut self, ranges: &[(u64, u32)]) -> Option<Segment> {
        let at = self.front()?.first;
        let before = ranges.partition_point(|(first, _)| *first <= at);
        let (first, count) = *ranges.get(before.checked_sub(1)?)?;
        let left = (first + u64::from(count)).checked_sub(at).filter(|left| *left > 0)?;
        self.take(u32::try_from(left).unwrap_or(u32::MAX))
    }

    /// The first messages of about `bytes`, at least one.
    pub fn portion(&self, bytes: usize) -> Ranges {
        let mut ranges: Ranges = Vec::new();
        let mut sum = 0;
        for segment in self.segments() {
            let (first, count) = portion(&segment, bytes - sum);
            paging::append(&mut ranges, first, count);
            sum += segment.bytes();
            if sum >= bytes {
                break;
            }
        }
        ranges
    }

    /// All of it, in order.
    pub fn segments(&self) -> impl Iterator<Item = Segment> {
        self.0.iter().flat_map(|chain| {
            let mut left = Some(chain.clone());
            std::iter::from_fn(move || match left.as_mut()?.advance() {
                Some(segment) => Some(segment),
                None => left.take().map(|chain| chain.front),
            })
        })
    }

    /// Bytes of all bodies.
    pub fn bodies(&self) -> u64 {
        let more = |chain: &Chain| chain.more.as_ref().map_or(0, |more| u64::from(more.bodies));
        self.0.iter().map(|chain| chain.front.bodies() + more(chain)).sum()
    }

    /// Bodies that were just taken had so many bytes more than was thought: what they were shared out with has less.
    /// False: there is nothing of that left.
    pub fn correct(&mut self, more: i64) -> bool {
        let Some(chain) = self.0.front_mut().filter(|chain| chain.begun) else { return false };
        let Content::Away { bodies, .. } = &mut chain.front.content else { return false };
        let front = i64::from(*bodies) - more;
        *bodies = u32::try_from(front.max(0)).unwrap_or(u32::MAX);
        // All that is left of a chain cannot be less than nothing, but the front's share of it can.
        if let Some(more) = &mut chain.more {
            more.bodies = u32::try_from(i64::from(more.bodies) + front.min(0)).unwrap_or(0);
        }
        true
    }
}

/// The beginning of a segment that is away, as far as it has about `bytes`: first sequence number and count.
pub fn portion(segment: &Segment, bytes: usize) -> (u64, u32) {
    let (count, all) = (u64::from(segment.count()), segment.bytes().max(1) as u64);
    let some = (count * bytes as u64 / all).clamp(1, count);
    (segment.first, some as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn away(first: u64, count: u32) -> Segment {
        Segment { persistent: true, ..Segment::away(first, count, u64::from(count) * 100) }
    }

    fn cold(stretches: &[(u64, u32)]) -> Cold {
        let mut cold = Cold::default();
        stretches.iter().for_each(|(first, count)| cold.push(away(*first, *count)));
        cold
    }

    fn all(cold: &Cold) -> Vec<(u64, u32)> {
        cold.segments().map(|segment| (segment.first, segment.count())).collect()
    }

    #[test]
    fn neighbours_are_one_chain_whether_others_lie_between_them_or_not() {
        let cold = cold(&[(1, 2), (3, 1), (7, 1), (8, 2), (20, 1)]);
        assert_eq!((cold.0.len(), all(&cold)), (1, vec![(1, 3), (7, 3), (20, 1)]));
    }

    #[test]
    fn what_is_not_alike_or_too_much_begins_another() {
        let mut cold = cold(&[(1, 2), (3, 10_000), (10_003, 1000)]);
        cold.push(Segment { redelivered: true, ..away(20_000, 1) });
        cold.push(away(20_001, 1));
        assert_eq!(all(&cold), [(1, 10_002), (10_003, 1000), (20_000, 1), (20_001, 1)]);
        assert_eq!(cold.0.len(), 4);
    }

    #[test]
    fn it_is_taken_from_the_front_and_no_byte_is_lost() {
        let mut cold = cold(&[(1, 3), (7, 3), (20, 1)]);
        let (mut bytes, bodies) = (0, cold.bodies());
        let mut taken = Vec::new();
        let mut left = bodies;
        while let Some(segment) = cold.take(2) {
            taken.push((segment.first, segment.count()));
            bytes += segment.bytes();
            left -= segment.bodies();
            assert_eq!(cold.bodies(), left);
        }
        assert_eq!(taken, [(1, 2), (3, 1), (7, 2), (9, 1), (20, 1)]);
        assert_eq!((bytes, left), (700, 0));
    }

    #[test]
    fn a_portion_is_what_is_next_and_what_is_read_of_it_leaves() {
        let mut cold = cold(&[(1, 3), (7, 3), (20, 5)]);
        assert_eq!(cold.portion(1), [(1, 1)]);
        assert_eq!(cold.portion(800), [(1, 3), (7, 3), (20, 2)]);
        let mut taken = Vec::new();
        while let Some(segment) = cold.take_in(&[(1, 3), (7, 3), (20, 2)]) {
            taken.push((segment.first, segment.count()));
        }
        assert_eq!((taken, all(&cold)), (vec![(1, 3), (7, 3), (20, 2)], vec![(22, 3)]));
    }

    #[test]
    fn what_others_had_more_is_less_for_the_rest() {
        let mut cold = cold(&[(1, 1), (3, 1), (5, 1)]);
        assert!(!cold.correct(5), "nothing has been taken");
        let before = cold.bodies();
        let taken = cold.take(1).map_or(0, |segment| segment.bodies());
        assert!(cold.correct(10));
        assert_eq!(cold.bodies(), before - taken - 10);
        let before = cold.bodies();
        assert!(cold.correct(before as i64 - 3), "more than the front was thought to have");
        assert_eq!(cold.bodies(), 3);
        while cold.take(1).is_some() {}
        assert!(!cold.correct(5), "there is no rest");
    }
}
