//! Time as the broker sees it, behind a trait so that tests own it.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

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

/// The machine's clock.
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        SystemClock { start: Instant::now() }
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
    sleepers: Vec<(Duration, Waker)>,
}

impl ManualClock {
    /// Moves time forward and wakes who has waited for it.
    pub fn advance(&self, by: Duration) {
        let due = {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            inner.now += by;
            let now = inner.now;
            inner.sleepers.extract_if(.., |(deadline, _)| *deadline <= now).collect::<Vec<_>>()
        };
        for (_, waker) in due {
            waker.wake();
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
        Box::pin(ManualSleep { clock: self.clone(), deadline })
    }
}

struct ManualSleep {
    clock: ManualClock,
    deadline: Duration,
}

impl Future for ManualSleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.clock.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.now >= self.deadline {
            return Poll::Ready(());
        }
        inner.sleepers.push((self.deadline, cx.waker().clone()));
        Poll::Pending
    }
}
