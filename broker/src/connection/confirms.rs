//! The publisher confirms of a channel: which publishes still wait for a queue, and what to tell the client.
//!
//! RabbitMQ extension `confirm.select`. Publishes are numbered from 1. What is confirmed at the head goes out as one
//! acknowledgement with `multiple`; what is confirmed out of order goes out singly.

use std::collections::VecDeque;

use leveret_protocol::hot;

/// A publish that was answered before those in front of it.
const SENT: u32 = u32::MAX;
/// Some queue has refused the publish; the rest of the word counts those that have not answered.
const REFUSED: u32 = 1 << 31;

#[derive(Default)]
pub struct Confirms {
    /// Publishes numbered so far.
    published: u64,
    /// For each publish that is not acknowledged, and those acknowledged out of order behind one: how many durable
    /// queues have not stored it yet.
    waiting: VecDeque<u32>,
    /// Numbers that became confirmed behind one that is not.
    late: Vec<u64>,
    /// Publishes not yet acknowledged.
    open: u64,
    changed: bool,
}

impl Confirms {
    /// The number of the next publish.
    pub fn next(&self) -> u64 {
        self.published + 1
    }

    /// Numbers a publish that `queues` queues have something to say about; with none it is confirmed already.
    pub fn add(&mut self, queues: u32) {
        self.published += 1;
        self.open += 1;
        if queues == 0 {
            self.changed = true;
            if !self.waiting.is_empty() {
                self.late.push(self.published);
            }
        }
        self.waiting.push_back(queues);
    }

    /// Numbers a publish that nobody gets, and acknowledges it at once and singly, as RabbitMQ is seen to do: some
    /// clients count the answers to such publishes.
    pub fn add_unroutable(&mut self, out: &mut Vec<u8>, channel: u16) {
        self.published += 1;
        if !self.waiting.is_empty() {
            self.waiting.push_back(SENT);
        }
        answer(out, channel, Some((self.published, 1, false)));
    }

    /// The number that the front of the line has.
    fn base(&self) -> u64 {
        self.published - self.waiting.len() as u64 + 1
    }

    /// One more queue has stored the publishes `first..first + count`, or `refused` them.
    pub fn answered(&mut self, first: u64, count: u32, refused: bool) {
        let base = self.base();
        for number in first..first + u64::from(count) {
            let Some(left) = number.checked_sub(base).and_then(|i| self.waiting.get_mut(i as usize)) else { continue };
            if *left & !REFUSED == 0 || *left == SENT {
                continue;
            }
            *left -= 1;
            if refused {
                *left |= REFUSED;
            }
            if *left & !REFUSED == 0 {
                self.changed = true;
                if number != base {
                    self.late.push(number);
                }
            }
        }
    }

    /// The one publish that waits for an answer, where that is the last one it needs.
    pub fn lone(&self) -> Option<u64> {
        (self.open == 1 && self.waiting == [1]).then_some(self.published)
    }

    /// Nothing waits for its acknowledgement.
    pub fn is_settled(&self) -> bool {
        self.open == 0
    }

    /// Appends the answers that are due: what is next in line folded, what came before its turn singly.
    pub fn emit(&mut self, out: &mut Vec<u8>, channel: u16) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        // The stretch of equal answers at the head: last number, how many, refused or not.
        let mut stretch: Option<(u64, u64, bool)> = None;
        while let Some(&left) = self.waiting.front()
            && (left & !REFUSED == 0 || left == SENT)
        {
            let number = self.base();
            self.waiting.pop_front();
            if left == SENT {
                continue;
            }
            self.open -= 1;
            let refused = left == REFUSED;
            match &mut stretch {
                Some((last, count, same)) if *same == refused => (*last, *count) = (number, *count + 1),
                _ => answer(out, channel, stretch.replace((number, 1, refused))),
            }
        }
        answer(out, channel, stretch);
        let through = self.base() - 1;
        for number in std::mem::take(&mut self.late) {
            if number > through
                && let Some(left) = self.waiting.get_mut((number - through - 1) as usize)
                && *left & !REFUSED == 0
            {
                let refused = *left == REFUSED;
                *left = SENT;
                self.open -= 1;
                answer(out, channel, Some((number, 1, refused)));
            }
        }
        if self.waiting.is_empty() && self.waiting.capacity() > 4096 {
            self.waiting = VecDeque::new();
        }
    }
}

fn answer(out: &mut Vec<u8>, channel: u16, stretch: Option<(u64, u64, bool)>) {
    match stretch {
        Some((number, count, false)) => hot::encode_ack(out, channel, number, count > 1),
        Some((number, count, true)) => hot::encode_nack(out, channel, number, count > 1),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unroutable_publish_is_acknowledged_at_once_and_never_again() {
        let (mut confirms, mut out) = (Confirms::default(), Vec::new());
        let ack = |number, multiple| {
            let mut ack = Vec::new();
            hot::encode_ack(&mut ack, 1, number, multiple);
            ack
        };
        confirms.add_unroutable(&mut out, 1);
        confirms.add(1);
        confirms.add_unroutable(&mut out, 1);
        confirms.add(1);
        assert_eq!(out, [ack(1, false), ack(3, false)].concat());
        out.clear();
        confirms.answered(2, 3, false);
        confirms.emit(&mut out, 1);
        assert_eq!(out, ack(4, true));
        assert!(confirms.is_settled());
    }

    fn emitted(confirms: &mut Confirms) -> Vec<(u64, bool)> {
        let mut out = Vec::new();
        confirms.emit(&mut out, 1);
        out.chunks(21).map(|f| (u64::from_be_bytes(f[11..19].try_into().unwrap()), f[19] == 1)).collect()
    }

    #[test]
    fn a_lone_publish_is_acknowledged_alone() {
        let mut confirms = Confirms::default();
        confirms.add(0);
        assert_eq!(emitted(&mut confirms), [(1, false)]);
        assert!(confirms.is_settled());
    }

    #[test]
    fn what_is_confirmed_at_the_head_is_acknowledged_at_once() {
        let mut confirms = Confirms::default();
        for _ in 0..5 {
            confirms.add(1);
        }
        confirms.answered(1, 4, false);
        assert_eq!(emitted(&mut confirms), [(4, true)]);
        confirms.answered(5, 1, false);
        assert_eq!(emitted(&mut confirms), [(5, false)]);
    }

    #[test]
    fn what_is_confirmed_out_of_order_is_acknowledged_singly_and_once() {
        let mut confirms = Confirms::default();
        confirms.add(1);
        confirms.add(0);
        confirms.add(2);
        assert_eq!(emitted(&mut confirms), [(2, false)]);
        confirms.answered(3, 1, false);
        assert_eq!(emitted(&mut confirms), []);
        confirms.answered(3, 1, false);
        assert_eq!(emitted(&mut confirms), [(3, false)]);
        assert!(!confirms.is_settled());
        confirms.answered(1, 1, false);
        assert_eq!(emitted(&mut confirms), [(1, false)]);
        assert!(confirms.is_settled());
    }
}
