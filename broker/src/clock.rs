//! Time as the broker sees it, behind a trait so that tests own it.

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use tokio::runtime::Builder;

use crate::threads::Own;

/// A sleep that ends when the clock has reached its deadline.
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Monotonic time since some start.
pub trait Clock: Send + Sync + 'static {
    /// Time since the clock's start; never goes back.
    fn now(&self) -> Duration;

    /// Milliseconds since the Unix epoch: for what must outlive the process, such as a message's expiry.
    fn wall(&self) -> u64;

    /// Ends once [`Clock::now`] has reached `deadline`.
    fn sleep_until(&self, deadline: Duration) -> Sleep;
}

/// The machine's clock. Who sleeps is woken by a thread that does nothing else: so one that serves connections has no timers
/// to look at, nor to set in the kernel, whenever it waits for its sockets.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
    timers: Own,
}

impl SystemClock {
    /// A clock whose time begins now.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn begin() -> io::Result<SystemClock> {
        let timers = Own::begin("timers".to_owned(), Builder::new_current_thread().enable_time())?;
        Ok(SystemClock { start: Instant::now(), timers })
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn wall(&self) -> u64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn sleep_until(&self, deadline: Duration) -> Sleep {
        // It belongs to the runtime within which it is made, whoever waits for it.
        let _timers = self.timers.handle().enter();
        Box::pin(tokio::time::sleep_until((self.start + deadline).into()))
    }
}

/// A clock that stands still until a test moves it.
#[derive(Clone, Default)]
pub struct ManualClock {
    inner: Arc<Mutex<Manual>>,
}

#[derive(Default)]
struct Manual {
    now: Duration,
    sleepers: Vec<Sleeper>,
    /// Sleeps made so far.
    made: u64,
    /// Sleeps whose end has come and who are still held.
    ended: BTreeSet<u64>,
}

struct Sleeper {
    deadline: Duration,
    waker: Waker,
    id: u64,
}

impl ManualClock {
    /// Moves time forward and wakes who has waited for it.
    pub fn advance(&self, by: Duration) {
        let due = {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            inner.now += by;
            let now = inner.now;
            let due = inner.sleepers.extract_if(.., |sleeper| sleeper.deadline <= now).collect::<Vec<_>>();
            inner.ended.extend(due.iter().map(|sleeper| sleeper.id));
            due
        };
        for sleeper in due {
            sleeper.waker.wake();
        }
    }

    /// [`ManualClock::advance`], and waits until everybody whom that woke has done what the time had come for. They must have
    /// another thread to do it on.
    pub fn pass(&self, by: Duration) {
        self.advance(by);
        while !self.inner.lock().unwrap_or_else(PoisonError::into_inner).ended.is_empty() {
            thread::yield_now();
        }
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).now
    }

    /// A fixed day, and the time since.
    fn wall(&self) -> u64 {
        const START: u64 = 1_700_000_000_000;
        START + u64::try_from(self.now().as_millis()).unwrap_or(u64::MAX)
    }

    fn sleep_until(&self, deadline: Duration) -> Sleep {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.made += 1;
        Box::pin(ManualSleep { clock: self.clone(), deadline, id: inner.made })
    }
}

struct ManualSleep {
    clock: ManualClock,
    deadline: Duration,
    id: u64,
}

impl Future for ManualSleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.clock.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.now >= self.deadline {
            return Poll::Ready(());
        }
        let (deadline, waker) = (self.deadline, cx.waker().clone());
        // Only who polled last is woken.
        match inner.sleepers.iter_mut().find(|sleeper| sleeper.id == self.id) {
            Some(sleeper) => sleeper.waker = waker,
            None => inner.sleepers.push(Sleeper { deadline, waker, id: self.id }),
        }
        Poll::Pending
    }
}

impl Drop for ManualSleep {
    fn drop(&mut self) {
        let mut inner = self.clock.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.sleepers.retain(|sleeper| sleeper.id != self.id);
        inner.ended.remove(&self.id);
    }
}
