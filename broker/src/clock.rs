//! Time as the broker sees it, behind a trait so that tests own it.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::future::{self, Future};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use tokio::runtime::Builder;

use crate::threads::Own;

/// A timer's deadline is rounded up by less, which must not go beyond the last instant there is.
const ROUNDING: Duration = Duration::from_millis(1);

/// A sleep that ends when the clock has reached its deadline.
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Monotonic time since some start.
pub trait Clock: Send + Sync + 'static {
    /// Time since the clock's start; never goes back.
    fn now(&self) -> Duration;

    /// Milliseconds since the Unix epoch: for what must outlive the process, such as a message's expiry.
    fn wall(&self) -> u64;

    /// Ends once [`Clock::now`] has reached `deadline`; never, if the clock does not reach so far.
    fn sleep_until(&self, deadline: Duration) -> Sleep;

    /// Ends after this long.
    fn sleep(&self, time: Duration) -> Sleep {
        self.sleep_until(self.now().saturating_add(time))
    }
}

/// A moment by the wall clock: read when somebody asks for it first, and the same from then on.
pub(crate) struct Moment<'a> {
    clock: &'a dyn Clock,
    millis: OnceCell<u64>,
}

impl<'a> Moment<'a> {
    /// The one in which it is first asked for.
    pub fn of(clock: &'a dyn Clock) -> Moment<'a> {
        Moment { clock, millis: OnceCell::new() }
    }

    /// Milliseconds since the Unix epoch.
    pub fn millis(&self) -> u64 {
        *self.millis.get_or_init(|| self.clock.wall())
    }
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
        let Some(at) = self.start.checked_add(deadline).filter(|at| at.checked_add(ROUNDING).is_some()) else {
            return Box::pin(future::pending());
        };
        // It belongs to the runtime within which it is made, whoever waits for it.
        let _timers = self.timers.handle().enter();
        Box::pin(tokio::time::sleep_until(at.into()))
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
    /// Sleeps made so far.
    made: u64,
    /// Who has to wait, until the sleep is dropped.
    sleepers: BTreeMap<u64, Sleeper>,
}

struct Sleeper {
    deadline: Duration,
    /// Taken when the time has come.
    waker: Option<Waker>,
}

impl ManualClock {
    fn state(&self) -> MutexGuard<'_, Manual> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves time forward and wakes who has waited for it.
    pub fn advance(&self, by: Duration) {
        let mut state = self.state();
        state.now += by;
        let now = state.now;
        let due = state.sleepers.values_mut().filter(|sleeper| sleeper.deadline <= now);
        let wakers: Vec<Waker> = due.filter_map(|sleeper| sleeper.waker.take()).collect();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// [`ManualClock::advance`], and waits until everybody whom that woke has done what the time had come for. They must have
    /// another thread to do it on.
    pub fn pass(&self, by: Duration) {
        self.advance(by);
        while self.state().sleepers.values().any(|sleeper| sleeper.waker.is_none()) {
            thread::yield_now();
        }
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        self.state().now
    }

    /// A fixed day, and the time since.
    fn wall(&self) -> u64 {
        const START: u64 = 1_700_000_000_000;
        START + u64::try_from(self.now().as_millis()).unwrap_or(u64::MAX)
    }

    fn sleep_until(&self, deadline: Duration) -> Sleep {
        let mut state = self.state();
        state.made += 1;
        Box::pin(ManualSleep { clock: self.clone(), deadline, id: state.made })
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
        let mut state = self.clock.state();
        if state.now >= self.deadline {
            return Poll::Ready(());
        }
        let sleeper = Sleeper { deadline: self.deadline, waker: Some(cx.waker().clone()) };
        let _before = state.sleepers.insert(self.id, sleeper);
        // A waker is not dropped under the lock.
        drop(state);
        Poll::Pending
    }
}

impl Drop for ManualSleep {
    fn drop(&mut self) {
        let _sleeper = self.clock.state().sleepers.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_the_clocks_reach_never_comes() {
        let clock = SystemClock::begin().expect("a thread");
        let mut cx = Context::from_waker(Waker::noop());
        let farthest = |clock: &SystemClock| {
            let (mut least, mut most) = (0, u64::MAX);
            while most - least > 1 {
                let middle = least + (most - least) / 2;
                let reached = clock.start.checked_add(Duration::from_secs(middle)).is_some();
                *(if reached { &mut least } else { &mut most }) = middle;
            }
            Duration::from_secs(least)
        };
        let farthest = farthest(&clock);
        for deadline in [Duration::from_millis(u64::MAX), farthest, farthest + Duration::from_secs(1), Duration::MAX] {
            assert!(clock.sleep_until(deadline).as_mut().poll(&mut cx).is_pending(), "{deadline:?}");
            assert!(clock.sleep(deadline).as_mut().poll(&mut cx).is_pending(), "{deadline:?}");
        }
    }
}
