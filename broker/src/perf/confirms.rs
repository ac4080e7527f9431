//! Publishes that wait for their confirm: when each was sent, by delivery tag modulo the window. One thread sends, the
//! same or another one settles.

use std::sync::atomic::{AtomicU64, Ordering};

use leveret_protocol::Settle;

/// What [`Confirms::settle`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Publishes that were outstanding and no longer are.
    pub count: u64,
    /// They were refused.
    pub refused: bool,
    /// The confirm named a tag that was not outstanding.
    pub wrong: bool,
}

/// The window is measured from the oldest publish outstanding to the newest.
pub struct Confirms {
    /// Times in nanoseconds since the run's epoch, 0 for what is settled.
    sent: Box<[AtomicU64]>,
    /// The lowest tag outstanding, or that of the next publish.
    low: AtomicU64,
    /// The tag of the next publish.
    next: AtomicU64,
}

impl Confirms {
    /// With a window of 0 there is room for everything, and nothing is kept.
    pub fn new(window: u64) -> Confirms {
        Confirms {
            sent: (0..window).map(|_| AtomicU64::new(0)).collect(),
            low: AtomicU64::new(1),
            next: AtomicU64::new(1),
        }
    }

    /// How many publishes may be sent now.
    pub fn room(&self) -> u64 {
        if self.sent.is_empty() { u64::MAX } else { self.sent.len() as u64 - self.outstanding() }
    }

    /// How many publishes there are from the lowest outstanding on.
    pub fn outstanding(&self) -> u64 {
        // `low` first: it never passes `next`, which may grow in between.
        let low = self.low.load(Ordering::Acquire);
        self.next.load(Ordering::Acquire) - low
    }

    /// The next publish is about to be sent, as if at `time`.
    pub fn sending(&self, time: u64) {
        if self.sent.is_empty() {
            return;
        }
        let tag = self.next.load(Ordering::Relaxed);
        self.slot(tag).store(time.max(1), Ordering::Relaxed);
        self.next.store(tag + 1, Ordering::Release);
    }

    /// A confirm has come; `each` is called with the time of sending of what it settles.
    pub fn settle(&self, settle: Settle, mut each: impl FnMut(u64)) -> Settled {
        let (tag, multiple, refused) = match settle {
            Settle::Ack { tag, multiple } => (tag, multiple, false),
            Settle::Nack { tag, multiple, .. } => (tag, multiple, true),
            Settle::Reject { .. } => return Settled { wrong: true, ..Settled::default() },
        };
        let (mut low, next) = (self.low.load(Ordering::Acquire), self.next.load(Ordering::Acquire));
        let last = if tag == 0 && multiple { next - 1 } else { tag };
        if last < low || last >= next {
            return Settled { wrong: true, ..Settled::default() };
        }
        let mut settled = Settled { refused, ..Settled::default() };
        for tag in if multiple { low } else { last }..=last {
            let time = self.slot(tag).swap(0, Ordering::Relaxed);
            if time != 0 {
                settled.count += 1;
                each(time);
            }
        }
        settled.wrong = settled.count == 0;
        while low < next && self.slot(low).load(Ordering::Relaxed) == 0 {
            low += 1;
        }
        self.low.store(low, Ordering::Release);
        settled
    }

    fn slot(&self, tag: u64) -> &AtomicU64 {
        &self.sent[(tag % self.sent.len() as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(tag: u64, multiple: bool) -> Settle {
        Settle::Ack { tag, multiple }
    }

    /// Five publishes outstanding in a window of 8, sent at 10, 20, … 50.
    fn five() -> Confirms {
        let confirms = Confirms::new(8);
        (1..=5).for_each(|n| confirms.sending(n * 10));
        confirms
    }

    fn settled(confirms: &Confirms, settle: Settle) -> (Settled, Vec<u64>) {
        let mut times = Vec::new();
        let settled = confirms.settle(settle, |time| times.push(time));
        (settled, times)
    }

    #[test]
    fn a_confirm_settles_one_publish_or_all_up_to_it() {
        let confirms = five();
        assert_eq!(confirms.room(), 3);
        assert_eq!(settled(&confirms, ack(2, false)), (Settled { count: 1, ..Settled::default() }, vec![20]));
        assert_eq!(confirms.room(), 3, "1 is still outstanding");
        assert_eq!(settled(&confirms, ack(3, true)).1, [10, 30]);
        assert_eq!(confirms.outstanding(), 2);
        assert_eq!(settled(&confirms, ack(0, true)).1, [40, 50]);
        assert_eq!((confirms.outstanding(), confirms.room()), (0, 8));
    }

    #[test]
    fn a_nack_settles_too_and_says_so() {
        let nack = Settle::Nack { tag: 2, multiple: true, requeue: false };
        assert_eq!(settled(&five(), nack).0, Settled { count: 2, refused: true, wrong: false });
    }

    #[test]
    fn a_confirm_of_nothing_outstanding_is_wrong() {
        let confirms = five();
        let wrong = Settled { wrong: true, ..Settled::default() };
        assert_eq!(settled(&confirms, ack(6, false)).0, wrong, "not published yet");
        settled(&confirms, ack(2, true));
        assert_eq!(settled(&confirms, ack(2, false)).0, wrong, "a second time");
        settled(&confirms, ack(4, false));
        assert_eq!(settled(&confirms, ack(4, false)).0, wrong, "a second time, with others outstanding");
        assert_eq!(settled(&confirms, Settle::Reject { tag: 3, requeue: false }).0, wrong);
        assert_eq!(confirms.outstanding(), 3);
    }

    #[test]
    fn the_window_goes_round() {
        let confirms = Confirms::new(3);
        for tag in 1..=20 {
            confirms.sending(tag);
            assert_eq!(settled(&confirms, ack(tag, false)).1, [tag]);
        }
        assert_eq!(confirms.room(), 3);
    }

    #[test]
    fn without_a_window_there_is_always_room() {
        let confirms = Confirms::new(0);
        (0..10).for_each(|time| confirms.sending(time));
        assert_eq!((confirms.room(), confirms.outstanding()), (u64::MAX, 0));
    }
}
