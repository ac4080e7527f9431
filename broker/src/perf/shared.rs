//! What the threads of a run share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::check::QueueCheck;
use super::options::Plan;

/// Counters are added to once per batch, never per message.
pub struct Shared {
    pub plan: Plan,
    /// Exchange to publish to; empty for the default one.
    pub exchange: String,
    /// By number; all names have the same length.
    pub queues: Vec<String>,
    /// By queue.
    checks: Vec<Mutex<QueueCheck>>,
    /// Times are told in nanoseconds since then.
    epoch: Instant,
    pub published: AtomicU64,
    /// Each message counts once, even if it comes again.
    pub received: AtomicU64,
    pub confirmed: AtomicU64,
    pub redelivered: AtomicU64,
    /// When the last message was received or confirmed; 0: none yet.
    answered: AtomicU64,
    /// When the last message was written; 0: none yet.
    written: AtomicU64,
    /// How often the broker has stopped a producer.
    pub blocked: AtomicU64,
    /// Messages sent before are not measured.
    measure_from: AtomicU64,
    /// Producers stop.
    pub stop_publishing: AtomicBool,
    /// Everybody stops, whatever is under way.
    pub stop: AtomicBool,
    gate: Mutex<Gate>,
    opened: Condvar,
}

#[derive(Clone, Copy)]
enum Gate {
    Closed,
    /// Since then.
    Open(u64),
    Aborted,
}

impl Shared {
    pub fn new(plan: Plan, exchange: String, queues: Vec<String>) -> Shared {
        let check = |queue| {
            let places = (0..plan.producers).map(|producer| plan.place(queue, producer));
            Mutex::new(QueueCheck::new(queue, places))
        };
        Shared {
            checks: (0..plan.queues).map(check).collect(),
            exchange,
            queues,
            epoch: Instant::now(),
            published: AtomicU64::new(0),
            received: AtomicU64::new(0),
            confirmed: AtomicU64::new(0),
            redelivered: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            written: AtomicU64::new(0),
            blocked: AtomicU64::new(0),
            measure_from: AtomicU64::new(u64::MAX),
            stop_publishing: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            gate: Mutex::new(Gate::Closed),
            opened: Condvar::new(),
            plan,
        }
    }

    /// Now, in nanoseconds since the epoch.
    pub fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Messages were received or confirmed.
    pub fn note_answered(&self, at: u64) {
        self.answered.fetch_max(at, Ordering::Relaxed);
    }

    /// Messages were written.
    pub fn note_written(&self, at: u64) {
        self.written.fetch_max(at, Ordering::Relaxed);
    }

    /// When the last message was done with: received or confirmed, or, where nothing comes back, written.
    pub fn last(&self) -> Option<Instant> {
        let times = [&self.answered, &self.written].map(|time| time.load(Ordering::Relaxed));
        let last = times.into_iter().find(|time| *time > 0)?;
        Some(self.epoch + Duration::from_nanos(last))
    }

    /// Lets the producers go; what they send in the first `warmup` is not measured.
    pub fn start(&self, warmup: Duration) {
        let now = self.now();
        self.measure_from.store(now + warmup.as_nanos() as u64, Ordering::Relaxed);
        self.set(Gate::Open(now));
    }

    /// Ends everything.
    pub fn abort(&self) {
        self.stop_publishing.store(true, Ordering::Relaxed);
        self.stop.store(true, Ordering::Relaxed);
        self.set(Gate::Aborted);
    }

    fn set(&self, state: Gate) {
        *self.gate.lock().unwrap_or_else(PoisonError::into_inner) = state;
        self.opened.notify_all();
    }

    /// Waits for the start, and says when it was; None when it does not come to it.
    pub fn wait_for_start(&self) -> Option<u64> {
        let mut gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match *gate {
                Gate::Open(since) => return Some(since),
                Gate::Aborted => return None,
                Gate::Closed => gate = self.opened.wait(gate).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Whether a message that was sent then is measured.
    #[inline]
    pub fn measures(&self, sent: u64) -> bool {
        sent >= self.measure_from.load(Ordering::Relaxed)
    }

    pub fn check(&self, queue: usize) -> Option<MutexGuard<'_, QueueCheck>> {
        Some(self.checks.get(queue)?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn into_checks(self) -> impl Iterator<Item = QueueCheck> {
        self.checks.into_iter().map(|check| check.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many messages are published and have not come to every queue.
    pub fn under_way(&self) -> u64 {
        let copies = self.plan.copies().max(1);
        let received = self.received.load(Ordering::Relaxed) / copies;
        self.published.load(Ordering::Relaxed).saturating_sub(received)
    }
}
