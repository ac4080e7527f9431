//! A consumer: one connection that reads deliveries from its queues, checks and counts them, and acks.

use std::fmt;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;

use leveret_protocol::amq::{AMQPClass, FieldTable, basic, short};
use leveret_protocol::{Frame, content, frame, hot};

use super::batch::filler;
use super::check::{Faults, Mark, OrderCheck, QueueCheck};
use super::error::PerfError;
use super::histogram::Histogram;
use super::link::{self, CHANNEL, Link};
use super::options::{Ack, Scenario};
use super::shared::Shared;

/// What a consumer has seen.
#[derive(Default)]
pub struct Consumed {
    /// From when a message should have been sent to when it was read: of every message in the latency scenario, else
    /// of the first of each read.
    pub times: Histogram,
    pub faults: Faults,
}

/// Consumes until told to stop; `ready` is called when deliveries may come.
pub fn consume(shared: &Shared, number: usize, ready: impl FnOnce()) -> Result<Consumed, PerfError> {
    let plan = &shared.plan;
    let mut link = Link::open(&plan.url)?;
    if plan.prefetch > 0 {
        let qos = basic::Qos { prefetch_count: plan.prefetch, global: false };
        link.call(AMQPClass::Basic(basic::AMQPMethod::Qos(qos)), "basic.qos")?;
    }
    let mine = plan.queues_of_consumer(number);
    for &queue in &mine {
        let consume = basic::Consume {
            queue: short(&shared.queues[queue]),
            // So a delivery says which queue it is from.
            consumer_tag: short(queue.to_string()),
            no_local: false,
            no_ack: plan.ack == Ack::Auto,
            exclusive: false,
            nowait: false,
            arguments: FieldTable::default(),
        };
        link.call(AMQPClass::Basic(basic::AMQPMethod::Consume(consume)), "basic.consume")?;
    }
    ready();
    let mut consumer = Consumer {
        shared,
        every: match plan.ack {
            Ack::Auto => 0,
            Ack::Every(count) => count,
        },
        every_message: plan.scenario == Scenario::Latency,
        orders: (0..plan.queues).map(|queue| mine.contains(&queue).then(|| OrderCheck::new(plan.producers))).collect(),
        open: None,
        last_tag: 0,
        unacked: 0,
        acks: Vec::new(),
        consumed: Consumed::default(),
    };
    // What came behind the last consume-ok is looked at before anything is read.
    consumer.look(&mut link)?;
    while !shared.stop.load(Ordering::Relaxed) {
        if link.read()? {
            consumer.look(&mut link)?;
        }
    }
    consumer.ack_rest(&link)?;
    link.close()?;
    Ok(consumer.consumed)
}

impl Consumed {
    #[cold]
    fn foreign(&mut self, fault: impl fmt::Display) {
        self.faults.foreign += 1;
        self.faults.note(fault);
    }
}

/// A delivery whose content has not come whole.
#[derive(Clone, Copy)]
struct Open {
    queue: usize,
    redelivered: bool,
    /// Bytes of the body that are still to come; None: the header is.
    left: Option<u64>,
    mark: Option<Mark>,
}

struct Consumer<'a> {
    shared: &'a Shared,
    /// An ack for so many messages; 0: none at all.
    every: u32,
    every_message: bool,
    /// By queue, of this consumer's own.
    orders: Vec<Option<OrderCheck>>,
    open: Option<Open>,
    last_tag: u64,
    unacked: u32,
    acks: Vec<u8>,
    consumed: Consumed,
}

/// The queue whose check is held, so that a stretch of messages from one queue takes its lock once.
type Held<'a> = Option<(usize, MutexGuard<'a, QueueCheck>)>;

impl<'a> Consumer<'a> {
    /// Looks at what was read, and acks it.
    fn look(&mut self, link: &mut Link) -> Result<(), PerfError> {
        let shared = self.shared;
        let now = shared.now();
        let mut held: Held<'a> = None;
        let (mut fresh, mut first) = (0, true);
        while let Some(frame) = link.frame()? {
            let Some(Open { queue, redelivered, mark: Some(mark), .. }) = self.take(frame)? else { continue };
            if held.as_ref().is_none_or(|(of, _)| *of != queue) {
                // The one is let go before the next is taken.
                drop(held.take());
                held = shared.check(queue).map(|check| (queue, check));
            }
            let Some((_, check)) = &mut held else { continue };
            let new = check.take(mark);
            fresh += u64::from(new);
            self.look_at_order(queue, mark, redelivered, new);
            if (self.every_message || first) && shared.measures(mark.sent) {
                self.consumed.times.record(now.saturating_sub(mark.sent));
            }
            first = false;
        }
        drop(held);
        shared.received.fetch_add(fresh, Ordering::Relaxed);
        if fresh > 0 {
            shared.note_answered(now);
        }
        if !self.acks.is_empty() {
            link::write_all(&link.stream(), &self.acks, &shared.stop)?;
            self.acks.clear();
        }
        Ok(())
    }

    /// Takes a frame; the delivery that it completes.
    #[inline]
    fn take(&mut self, frame: Frame<'_>) -> Result<Option<Open>, PerfError> {
        let Some(open) = &mut self.open else {
            let delivery = if frame.kind == frame::METHOD { delivery(frame.payload) } else { None };
            match delivery {
                Some(delivery) => self.delivered(delivery),
                None => beside(frame)?,
            }
            return Ok(None);
        };
        match (frame.kind, open.left) {
            (frame::HEADER, None) => {
                let size = content::header(frame.payload).body_size;
                open.left = Some(size);
                if size != self.shared.plan.size as u64 {
                    self.consumed.foreign(format_args!("a body of queue {} has {size} bytes", open.queue));
                }
                // Without a body no mark comes either.
                if size == 0 {
                    self.open = None;
                }
                Ok(None)
            }
            (frame::BODY, Some(left)) => {
                let beyond = || PerfError::Unexpected("a body frame beyond its body".to_owned());
                let left = left.checked_sub(frame.payload.len() as u64).ok_or_else(beyond)?;
                if open.mark.is_none() {
                    open.mark = Mark::decode(frame.payload);
                }
                open.left = Some(left);
                if left > 0 {
                    return Ok(None);
                }
                if !is_end(frame.payload, self.shared.plan.size) {
                    self.consumed.foreign(format_args!("a body of queue {} is not as sent", open.queue));
                }
                Ok(self.open.take())
            }
            (frame::HEARTBEAT, _) => Ok(None),
            (kind, _) => Err(PerfError::Unexpected(format!("a frame of type {kind} within content"))),
        }
    }

    #[inline]
    fn delivered(&mut self, delivery: Delivered) {
        let Delivered { queue, tag, redelivered } = delivery;
        if tag <= self.last_tag {
            self.consumed.faults.out_of_order += 1;
            self.consumed.faults.note(format_args!("delivery tag {tag} came behind {}", self.last_tag));
        }
        self.last_tag = tag;
        self.open = Some(Open { queue, redelivered, left: None, mark: None });
        if redelivered {
            self.shared.redelivered.fetch_add(1, Ordering::Relaxed);
        }
        if self.every > 0 {
            self.unacked += 1;
            if self.unacked == self.every {
                hot::encode_ack(&mut self.acks, CHANNEL, tag, self.every > 1);
                self.unacked = 0;
            }
        }
    }

    #[inline]
    fn look_at_order(&mut self, queue: usize, mark: Mark, redelivered: bool, new: bool) {
        let order = self.orders.get_mut(queue).and_then(Option::as_mut);
        let in_order = order.is_some_and(|order| order.take(mark, redelivered));
        // What comes again is a duplicate, and counted as that alone.
        if !in_order && new {
            self.consumed.faults.out_of_order += 1;
            self.consumed.faults.note(format_args!("queue {queue}: {mark} came behind a later one"));
        }
    }

    /// At the end: what is left of a group.
    fn ack_rest(&mut self, link: &Link) -> Result<(), PerfError> {
        if self.unacked == 0 {
            return Ok(());
        }
        let mut acks = Vec::new();
        hot::encode_ack(&mut acks, CHANNEL, self.last_tag, true);
        link::write_all(&link.stream(), &acks, &self.shared.stop).map(drop)
    }
}

/// What comes between deliveries and is none: a remark, else an error.
#[cold]
fn beside(frame: Frame<'_>) -> Result<(), PerfError> {
    if ![frame::METHOD, frame::HEARTBEAT].contains(&frame.kind) {
        return Err(PerfError::Unexpected(format!("a frame of type {} without a delivery", frame.kind)));
    }
    match link::notable(frame, &mut 0)? {
        Some(method) => Err(link::unexpected(&method)),
        None => Ok(()),
    }
}

/// Whether this can be the end of a body of `size` bytes.
#[inline]
fn is_end(payload: &[u8], size: usize) -> bool {
    size == super::check::MARK || payload.last() == Some(&filler(size - 1))
}

/// What a `basic.deliver` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Delivered {
    queue: usize,
    tag: u64,
    redelivered: bool,
}

/// Reads a `basic.deliver` whose consumer tag is a queue's number; None when it is something else.
#[inline]
fn delivery(payload: &[u8]) -> Option<Delivered> {
    let (&[0, 60, 0, 60, length], rest) = payload.split_first_chunk::<5>()? else { return None };
    let (name, rest) = rest.split_at_checked(length.into())?;
    let (tag, rest) = rest.split_first_chunk::<8>()?;
    let digit = |queue: usize, byte: &u8| byte.is_ascii_digit().then(|| queue * 10 + usize::from(byte - b'0'));
    let queue = if name.len() > 5 { None } else { name.iter().try_fold(0, digit) }?;
    Some(Delivered { queue, tag: u64::from_be_bytes(*tag), redelivered: *rest.first()? != 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use leveret_protocol::deliver;

    #[test]
    fn a_delivery_names_its_queue_in_its_consumer_tag() {
        let payload = |tag: &[u8], redelivered| {
            let mut out = Vec::new();
            deliver::deliver(&mut out, 1, tag, 258, redelivered, b"\x01x\x02rk", b"", 4096);
            out[frame::PREFIX..out.len() - 1].to_vec()
        };
        let found = delivery(&payload(b"1203", true));
        assert_eq!(found, Some(Delivered { queue: 1203, tag: 258, redelivered: true }));
        assert_eq!(delivery(&payload(b"0", false)).map(|found| (found.queue, found.redelivered)), Some((0, false)));
        assert_eq!(delivery(&payload(b"ctag", false)), None);
        assert_eq!(delivery(&payload(b"123456", false)), None);
        assert_eq!(delivery(&[0, 60, 0, 61, 0]), None);
        assert_eq!(delivery(&[0, 60, 0, 60, 0, 0]), None);
    }

    #[test]
    fn a_body_must_end_as_it_was_sent() {
        assert!(is_end(&[0; 16], 16), "nothing but the mark, whose last octet is a time");
        assert!(is_end(&[0, filler(99)], 100));
        assert!(!is_end(&[0, filler(98)], 100));
    }
}
