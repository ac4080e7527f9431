//! The threads that connections live on: one event loop each, and no connection on two at once.
//!
//! A broker needs few of them: one serves ten million small messages a second, and while two connections that have to do
//! with each other share a thread, nobody has to be woken across cores. So everybody begins on the runtime that the
//! broker was started on, and [`crate::spread`] moves connections to further threads while that one has more to do than
//! it can. A further thread is begun when it is needed first.

use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// What a turn of a connection's task costs by itself, as if it were so many bytes.
const TURN_WORK: u64 = 4096;

/// Where a connection lives, and how much it does there.
#[derive(Default)]
pub(crate) struct Place {
    /// The thread that it should be on; it goes there with its next turn.
    wanted: AtomicUsize,
    /// Bytes read and written so far, and its turns reckoned as bytes. Only its own task writes this.
    work: AtomicU64,
}

impl Place {
    pub fn wanted(&self) -> usize {
        self.wanted.load(Ordering::Relaxed)
    }

    pub fn want(&self, thread: usize) {
        self.wanted.store(thread, Ordering::Relaxed);
    }

    pub fn work(&self) -> u64 {
        self.work.load(Ordering::Relaxed)
    }

    /// After a turn; `bytes` have been read and written since the connection began, in `turns` turns.
    pub fn worked(&self, bytes: u64, turns: u64) {
        self.work.store(bytes + turns * TURN_WORK, Ordering::Relaxed);
    }
}

/// The threads of one broker. The first is not its own: it is the runtime that it was started on.
pub(crate) struct Threads {
    first: Handle,
    limit: usize,
    further: Mutex<Vec<Own>>,
}

/// A thread with a runtime of its own, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Own {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Threads {
    /// At most `limit` of them, the current runtime included.
    pub fn new(limit: usize) -> Threads {
        Threads { first: Handle::current(), limit: limit.max(1), further: Mutex::default() }
    }

    /// How many there may be.
    pub fn limit(&self) -> usize {
        self.limit
    }

    fn further(&self) -> MutexGuard<'_, Vec<Own>> {
        self.further.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The runtime of thread `index`; of the first, where there is no such thread.
    pub fn runtime(&self, index: usize) -> Handle {
        match index.checked_sub(1).and_then(|at| self.further().get(at).map(|further| further.handle.clone())) {
            Some(handle) => handle,
            None => self.first.clone(),
        }
    }

    /// Begins threads up to number `index`, below the limit, unless they have begun.
    ///
    /// # Errors
    /// When the system has none left.
    pub fn begin(&self, index: usize) -> io::Result<()> {
        let mut further = self.further();
        while further.len() < index.min(self.limit - 1) {
            let name = format!("connections-{}", further.len() + 1);
            further.push(Own::begin(name, Builder::new_current_thread().enable_io())?);
        }
        Ok(())
    }

    /// How long each has been busy since its beginning, in order.
    pub fn busy(&self) -> Vec<Duration> {
        let busy = |handle: &Handle| handle.metrics().worker_total_busy_duration(0);
        std::iter::once(busy(&self.first)).chain(self.further().iter().map(|further| busy(&further.handle))).collect()
    }
}

impl Own {
    /// # Errors
    /// When the system has none left.
    pub fn begin(name: String, builder: &mut Builder) -> io::Result<Own> {
        let runtime = builder.build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::Builder::new().name(name).spawn(move || {
            // Ends with an error when the other end is dropped, which means the same.
            let _ = runtime.block_on(stopped);
        })?;
        Ok(Own { handle, stop: Some(stop), thread: Some(thread) })
    }

    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take().filter(|thread| thread.thread().id() != thread::current().id()) {
            // A panic there has been reported where it happened.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Threads;

    #[tokio::test]
    async fn a_further_thread_is_begun_when_asked_for_and_not_beyond_the_limit() {
        let threads = Threads::new(2);
        assert_eq!(threads.busy().len(), 1);
        threads.begin(0).unwrap();
        assert_eq!(threads.busy().len(), 1);
        threads.begin(1).unwrap();
        threads.begin(2).unwrap();
        assert_eq!(threads.busy().len(), 2);
        let name = |index| {
            let runtime = threads.runtime(index);
            async move { runtime.spawn(async { std::thread::current().name().map(str::to_owned) }).await.unwrap() }
        };
        assert_eq!(name(1).await.as_deref(), Some("connections-1"));
        assert_eq!(name(2).await, name(0).await, "there is no third");
    }
}
