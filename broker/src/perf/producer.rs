//! A producer: one connection that publishes in batches, as fast as it may or when messages are due.
//!
//! Confirms (and what else the broker says) are read by a thread of their own, so that publishing never waits for
//! reading. Only where publishing waits for confirms anyhow, unpaced with a window, one thread does both.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use leveret_protocol::amq::{AMQPClass, confirm};
use leveret_protocol::{frame, hot};

use super::batch::{Batch, Shape};
use super::check::{Faults, Mark};
use super::confirms::Confirms;
use super::error::PerfError;
use super::histogram::Histogram;
use super::link::{self, CHANNEL, Link};
use super::shared::Shared;

/// How long confirms may stay away at the end.
const CONFIRM_LIMIT: Duration = Duration::from_secs(10);
/// How long a producer that has to wait for others sleeps before it looks again.
const PAUSE: Duration = Duration::from_micros(50);
/// How long it sleeps before it looks whether the run is over.
const LONGEST_SLEEP: Duration = Duration::from_millis(50);
/// Enough for a thread without deep calls.
const STACK: usize = 128 << 10;

/// What a producer has done.
#[derive(Default)]
pub struct Produced {
    pub messages: u64,
    pub confirm_times: Histogram,
    /// How much later than it was due each message was written; only with a rate.
    pub late: Histogram,
    pub faults: Faults,
}

/// Publishes until told to stop or the quota is reached; `ready` is called when the start is awaited.
pub fn produce(shared: &Shared, number: usize, ready: impl FnOnce()) -> Result<Produced, PerfError> {
    let plan = &shared.plan;
    let mut link = Link::open(&plan.url)?;
    if plan.window > 0 {
        let select = confirm::AMQPMethod::Select(confirm::Select { nowait: false });
        link.call(AMQPClass::Confirm(select), "confirm.select")?;
    }
    ready();
    let Some(start) = shared.wait_for_start() else { return Ok(Produced::default()) };
    let confirms = Confirms::new(plan.window);
    let mut reader = Reader { shared, confirms: &confirms, times: Histogram::default(), faults: Faults::default() };
    let mut writer = Writer {
        shared,
        confirms: &confirms,
        stream: link.stream(),
        batch: Batch::new(shape(shared, number, link.frame_max())),
        number: number as u16,
        quota: plan.quota(number),
        pace: Pace::new(plan.rate, plan.producers, number, start),
        sent: 0,
        late: Histogram::default(),
    };
    if plan.window > 0 && plan.rate == 0 {
        writer.write_and_read(&mut link, &mut reader)?;
    } else {
        side_by_side(&mut writer, &mut link, &mut reader)?;
    }
    shared.blocked.fetch_add(link.blocked, Ordering::Relaxed);
    if !shared.stop.load(Ordering::Relaxed) {
        link.close()?;
    }
    Ok(Produced { messages: writer.sent, confirm_times: reader.times, late: writer.late, faults: reader.faults })
}

fn shape(shared: &Shared, number: usize, frame_max: u32) -> Shape<'_> {
    let plan = &shared.plan;
    let keys = match plan.is_fanout() {
        true => vec![String::new()],
        false => plan.queues_of_producer(number).into_iter().map(|queue| shared.queues[queue].clone()).collect(),
    };
    let exchange = &shared.exchange;
    Shape { exchange, keys, body: plan.size, persistent: plan.persistent, frame_max, channel: CHANNEL }
}

/// Writes here and reads in another thread.
fn side_by_side(writer: &mut Writer<'_>, link: &mut Link, reader: &mut Reader<'_>) -> Result<(), PerfError> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let reading = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, || {
            let read = reader.read_until(link, &over);
            if read.is_err() {
                // The writer would not hear of it, and perhaps never get rid of what it writes.
                writer_must_stop(reader.shared);
            }
            read
        });
        let reading = reading.map_err(PerfError::Thread)?;
        let written = writer.write().and_then(|()| writer.wait_for_confirms());
        over.store(true, Ordering::Relaxed);
        let read = reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match (written, read) {
            // What the broker says is why writing failed.
            (_, Err(error)) if error.is_cause() => Err(error),
            (written, read) => written.and(read),
        }
    })
}

fn writer_must_stop(shared: &Shared) {
    shared.stop_publishing.store(true, Ordering::Relaxed);
    shared.stop.store(true, Ordering::Relaxed);
}

/// When messages are due.
#[derive(Clone, Copy, Debug)]
enum Pace {
    Free,
    /// Message `n` at `first + n * interval`, in nanoseconds since the epoch.
    Due {
        first: f64,
        interval: f64,
    },
}

impl Pace {
    /// The messages of several producers are due in turn.
    fn new(rate: u64, producers: usize, number: usize, start: u64) -> Pace {
        if rate == 0 {
            return Pace::Free;
        }
        let step = 1e9 / rate as f64;
        Pace::Due { first: start as f64 + step * number as f64, interval: step * producers as f64 }
    }

    /// How many messages should have been sent by `now`.
    fn due_by(self, now: u64) -> u64 {
        match self {
            Pace::Free => u64::MAX,
            Pace::Due { first, .. } if (now as f64) < first => 0,
            Pace::Due { first, interval } => ((now as f64 - first) / interval) as u64 + 1,
        }
    }

    /// When a message is due; `now` if there is no pace.
    fn due(self, message: u64, now: u64) -> u64 {
        match self {
            Pace::Free => now,
            Pace::Due { first, interval } => (first + interval * message as f64) as u64,
        }
    }
}

struct Writer<'a> {
    shared: &'a Shared,
    confirms: &'a Confirms,
    stream: Arc<TcpStream>,
    batch: Batch,
    number: u16,
    quota: u64,
    pace: Pace,
    sent: u64,
    late: Histogram,
}

impl Writer<'_> {
    fn goes_on(&self) -> bool {
        self.sent < self.quota && !self.shared.stop_publishing.load(Ordering::Relaxed)
    }

    /// Publishes to the end, while another thread reads.
    fn write(&mut self) -> Result<(), PerfError> {
        while self.goes_on() {
            if self.send()? {
                continue;
            }
            let now = self.shared.now();
            let due = self.pace.due(self.sent, now).saturating_sub(now);
            // Due and yet not sent: it waits for confirms, or for messages under way to come.
            let sleep = if due == 0 { PAUSE } else { Duration::from_nanos(due).min(LONGEST_SLEEP) };
            thread::sleep(sleep);
        }
        Ok(())
    }

    /// Publishes to the end and reads the confirms in between.
    fn write_and_read(&mut self, link: &mut Link, reader: &mut Reader<'_>) -> Result<(), PerfError> {
        let mut last = Instant::now();
        loop {
            let goes_on = self.goes_on();
            let wrote = match goes_on {
                true => self.send().or_else(|error| reader.explain(link, error))?,
                false => false,
            };
            if self.confirms.outstanding() == 0 {
                if !goes_on || self.shared.stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                if !wrote {
                    thread::sleep(PAUSE);
                }
                last = Instant::now();
                continue;
            }
            // While there is room, more is sent first: a window is filled before anything is waited for.
            if wrote && goes_on && self.confirms.room() > 0 {
                continue;
            }
            if reader.read(link)? {
                last = Instant::now();
            } else if self.shared.stop.load(Ordering::Relaxed) {
                return Ok(());
            } else if !goes_on && last.elapsed() > CONFIRM_LIMIT {
                return Err(self.unconfirmed());
            }
        }
    }

    /// Sends what may be sent now, in one batch. False when that is nothing.
    fn send(&mut self) -> Result<bool, PerfError> {
        let shared = self.shared;
        let now = shared.now();
        let mut count = self.pace.due_by(now).saturating_sub(self.sent).min(self.quota - self.sent);
        if matches!(self.pace, Pace::Free) && shared.plan.consumers > 0 {
            count = count.min(shared.plan.backlog.saturating_sub(shared.under_way()));
        }
        let count = count.min(self.confirms.room()).min(self.batch.capacity());
        if count == 0 {
            return Ok(false);
        }
        let (pace, confirms, late) = (self.pace, self.confirms, &mut self.late);
        let producer = self.number;
        let marks = (self.sent..self.sent + count).map(|sequence| {
            let sent = pace.due(sequence, now);
            confirms.sending(sent);
            if !matches!(pace, Pace::Free) && shared.measures(sent) {
                late.record(now.saturating_sub(sent));
            }
            Mark { producer, sequence, sent }
        });
        let frames = self.batch.fill(marks);
        shared.published.fetch_add(count, Ordering::Relaxed);
        self.sent += count;
        link::write_all(&self.stream, frames, &shared.stop)?;
        shared.note_written(shared.now());
        Ok(true)
    }

    /// Waits until another thread has read the last confirm.
    fn wait_for_confirms(&self) -> Result<(), PerfError> {
        let (mut last, mut outstanding) = (Instant::now(), self.confirms.outstanding());
        while outstanding > 0 && !self.shared.stop.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(1));
            let now = self.confirms.outstanding();
            if now != outstanding {
                (last, outstanding) = (Instant::now(), now);
            } else if last.elapsed() > CONFIRM_LIMIT {
                return Err(self.unconfirmed());
            }
        }
        Ok(())
    }

    fn unconfirmed(&self) -> PerfError {
        PerfError::Unconfirmed(self.confirms.outstanding(), CONFIRM_LIMIT.as_secs())
    }
}

struct Reader<'a> {
    shared: &'a Shared,
    confirms: &'a Confirms,
    times: Histogram,
    faults: Faults,
}

impl Reader<'_> {
    /// Reads until told that it is over and nothing more comes.
    fn read_until(&mut self, link: &mut Link, over: &AtomicBool) -> Result<(), PerfError> {
        loop {
            let nothing_came = !self.read(link)?;
            if over.load(Ordering::Relaxed) || (nothing_came && self.shared.stop.load(Ordering::Relaxed)) {
                return Ok(());
            }
        }
    }

    /// Reads once. False when nothing came.
    fn read(&mut self, link: &mut Link) -> Result<bool, PerfError> {
        if !link.read()? {
            return Ok(false);
        }
        let now = self.shared.now();
        let (mut confirmed, mut blocked, mut settled_any) = (0, 0, false);
        while let Some(frame) = link.frame()? {
            let settle = if frame.kind == frame::METHOD { hot::settle(frame.payload)? } else { None };
            let Some(settle) = settle else {
                if let Some(method) = link::notable(frame, &mut blocked)? {
                    return Err(link::unexpected(&method));
                }
                continue;
            };
            let settled = self.confirms.settle(settle, |sent| {
                if self.shared.measures(sent) {
                    self.times.record(now.saturating_sub(sent));
                }
            });
            settled_any |= settled.count > 0;
            if settled.wrong {
                self.faults.wrongly_confirmed += 1;
                self.faults.note(format_args!("the confirm {settle:?} is of nothing outstanding"));
            }
            if settled.refused {
                self.faults.nacked += settled.count;
                self.faults.note(format_args!("the broker has refused messages: {settle:?}"));
            } else {
                confirmed += settled.count;
            }
        }
        link.blocked += blocked;
        self.shared.confirmed.fetch_add(confirmed, Ordering::Relaxed);
        if settled_any {
            self.shared.note_answered(now);
        }
        Ok(true)
    }

    /// Why writing failed, if the broker has said it.
    fn explain<T>(&mut self, link: &mut Link, error: PerfError) -> Result<T, PerfError> {
        loop {
            match self.read(link) {
                Ok(true) => {}
                Err(cause) if cause.is_cause() => return Err(cause),
                _ => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_several_producers_are_due_in_turn_at_the_rate_of_all() {
        let pace = |number| Pace::new(1_000, 4, number, 5_000);
        assert_eq!((pace(0).due(0, 9), pace(3).due(0, 9)), (5_000, 3_005_000));
        assert_eq!((pace(0).due(1, 9), pace(3).due(2, 9)), (4_005_000, 11_005_000));
    }

    #[test]
    fn what_is_due_counts_from_the_start_however_late_it_is_looked_at() {
        let pace = Pace::new(1_000, 1, 0, 0);
        assert_eq!([0, 999_999, 1_000_000, 5_500_000].map(|now| pace.due_by(now)), [1, 1, 2, 6]);
        assert_eq!(Pace::new(1_000, 2, 1, 0).due_by(999_999), 0);
        for message in 0..10_000 {
            let pace = Pace::new(3_000, 7, 2, 1);
            let due = pace.due(message, 0);
            assert!(pace.due_by(due + 1) > message, "{message} is due at {due}");
            assert!(pace.due_by(due - 1) <= message, "{message} is not due before {due}");
        }
    }

    #[test]
    fn without_a_rate_everything_is_due_now() {
        let pace = Pace::new(0, 1, 0, 0);
        assert_eq!((pace.due_by(7), pace.due(3, 7)), (u64::MAX, 7));
    }
}
