//! The two ways in which owners are told of events, and nothing else of the kind.
//!
//! * [`Mailbox`]: a connection's. A list swapped under a short mutex; the bell rings only when the owner sleeps.
//! * [`Turn`]: a mailbox whose state is run by whoever pushes. At any moment at most one thread runs the state, and
//!   nobody ever waits for it: who finds it taken leaves the command behind for the one who has it.
//!
//! What bounds them is written where they are fed: a connection's mailbox by the transport windows of its consumers,
//! one outstanding request per channel, the publishes it awaits confirms for and the windows of its reply consumers; a
//! turn's by [`TURN_BYTES`]: who finds more in it after pushing stops reading its socket.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::task::Waker;

/// A mutex that a panic elsewhere does not make unusable: what it guards here is always whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Events for one owner that sleeps when it has nothing to do.
pub struct Mailbox<T> {
    inner: Mutex<Inner<T>>,
}

struct Inner<T> {
    items: VecDeque<T>,
    /// Present while the owner sleeps.
    sleeper: Option<Waker>,
    closed: bool,
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        Mailbox { inner: Mutex::new(Inner { items: VecDeque::new(), sleeper: None, closed: false }) }
    }
}

impl<T> Mailbox<T> {
    /// Adds one event; gives it back when the owner is gone.
    pub fn push(&self, item: T) -> Result<(), T> {
        let mut inner = lock(&self.inner);
        if inner.closed {
            return Err(item);
        }
        inner.items.push_back(item);
        let sleeper = inner.sleeper.take();
        drop(inner);
        if let Some(waker) = sleeper {
            waker.wake();
        }
        Ok(())
    }

    /// Adds one event that the owner need not be woken for: it finds it when it wakes next.
    pub fn leave(&self, item: T) -> Result<(), T> {
        let mut inner = lock(&self.inner);
        if inner.closed {
            return Err(item);
        }
        inner.items.push_back(item);
        Ok(())
    }

    /// Adds all of `items` in order; leaves them there and answers false when the owner is gone.
    pub fn append(&self, items: &mut Vec<T>) -> bool {
        let mut inner = lock(&self.inner);
        if inner.closed {
            return false;
        }
        inner.items.extend(items.drain(..));
        let sleeper = inner.sleeper.take();
        drop(inner);
        if let Some(waker) = sleeper {
            waker.wake();
        }
        true
    }

    /// Moves everything that has come behind what `into` has.
    pub fn take(&self, into: &mut VecDeque<T>) {
        let mut inner = lock(&self.inner);
        if into.is_empty() {
            std::mem::swap(&mut inner.items, into);
        } else {
            into.append(&mut inner.items);
        }
    }

    /// Goes to sleep: the next push wakes `waker`. False when something has come already.
    pub fn sleep(&self, waker: &Waker) -> bool {
        let mut inner = lock(&self.inner);
        if !inner.items.is_empty() {
            return false;
        }
        match &mut inner.sleeper {
            Some(old) => old.clone_from(waker),
            None => inner.sleeper = Some(waker.clone()),
        }
        true
    }

    /// Refuses everything from now on and returns what is left.
    pub fn close(&self) -> VecDeque<T> {
        let mut inner = lock(&self.inner);
        inner.closed = true;
        inner.sleeper = None;
        std::mem::take(&mut inner.items)
    }
}

/// State that is run in turns.
pub trait Owner: Send + 'static {
    type Command: Send + 'static;

    /// Applies all of `commands` in order and hands out what follows from them.
    fn run(&mut self, commands: &mut Vec<Self::Command>);

    /// An empty vector for commands that has some room already, if there is one to spare.
    fn spare() -> Vec<Self::Command>
    where
        Self: Sized,
    {
        Vec::new()
    }

    /// Keeps such a vector for the next one who asks.
    fn keep(_spare: Vec<Self::Command>)
    where
        Self: Sized,
    {
    }

    /// The last run panicked: the state may be half changed. Give up what is owned, in the way that loses least.
    fn fail(&mut self);
}

/// Rounds that one pusher runs before it hands the rest to a task of its own, so that a busy queue does not hold the
/// connection that happens to run it.
const ROUNDS: usize = 32;

/// A mailbox with the state it feeds.
pub struct Turn<O: Owner> {
    mail: Mutex<Vec<O::Command>>,
    /// Bytes of publishes that wait in `mail`.
    bytes: AtomicUsize,
    waiting: Mutex<Vec<Waker>>,
    state: Mutex<O>,
}

/// Bytes of publishes in a turn's mailbox above which pushers stop reading their sockets. One push is at most a read
/// buffer's worth, so the mailbox holds at most this much and one such buffer per connection; or one transaction, which
/// was held already.
pub const TURN_BYTES: usize = 4 << 20;

impl<O: Owner> Turn<O> {
    pub fn new(state: O) -> Arc<Self> {
        Arc::new(Turn {
            mail: Mutex::new(Vec::new()),
            bytes: AtomicUsize::new(0),
            waiting: Mutex::new(Vec::new()),
            state: Mutex::new(state),
        })
    }

    /// Adds one command and runs the state, unless somebody does.
    pub fn push(self: &Arc<Self>, command: O::Command) {
        Self::room(&mut lock(&self.mail)).push(command);
        self.run();
    }

    /// Adds commands in order, `bytes` of messages among them, and runs the state, unless somebody does.
    pub fn append(self: &Arc<Self>, commands: &mut Vec<O::Command>, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Self::room(&mut lock(&self.mail)).append(commands);
        self.run();
    }

    /// The mailbox, with some room if there was some to spare: it keeps none between turns.
    fn room(mail: &mut Vec<O::Command>) -> &mut Vec<O::Command> {
        if mail.capacity() == 0 {
            *mail = O::spare();
        }
        mail
    }

    /// The mailbox is over its limit.
    pub fn is_over(&self) -> bool {
        self.bytes.load(Ordering::Acquire) > TURN_BYTES
    }

    /// True when the mailbox is over its limit; `waker` is then called when it has been emptied.
    pub fn is_full(&self, waker: &Waker) -> bool {
        if !self.is_over() {
            return false;
        }
        lock(&self.waiting).push(waker.clone());
        // The holder may have emptied it between the two looks.
        self.is_over()
    }

    /// Looks at the state, waiting for it: for the beginning and the end, and for changes by administration. What comes
    /// meanwhile is run afterwards.
    pub fn with<R>(self: &Arc<Self>, look: impl FnOnce(&mut O) -> R) -> R {
        let result = look(&mut lock(&self.state));
        self.run();
        result
    }

    /// Runs the state until its mailbox is empty, unless somebody does.
    pub fn run(self: &Arc<Self>) {
        let mut commands = Vec::new();
        while self.run_rounds(&mut commands) {
            // Threads that are no tasks have nobody to hold up, and nowhere to hand the rest to.
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                let turn = self.clone();
                drop(runtime.spawn(async move { turn.run() }));
                break;
            }
        }
        if commands.capacity() > 0 {
            O::keep(commands);
        }
    }

    /// Runs the state a bounded number of times. True when there was still something in the mailbox then.
    fn run_rounds(&self, commands: &mut Vec<O::Command>) -> bool {
        for _ in 0..ROUNDS {
            let mut state = match self.state.try_lock() {
                Ok(state) => state,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                // Whoever has it looks at the mailbox once more after letting go.
                Err(TryLockError::WouldBlock) => return false,
            };
            {
                let mut mail = lock(&self.mail);
                if mail.is_empty() {
                    // Let go before the mailbox can be filled again: whoever pushes next finds the state free.
                    drop(state);
                    return false;
                }
                std::mem::swap(&mut *mail, commands);
            }
            if self.bytes.swap(0, Ordering::AcqRel) > TURN_BYTES {
                for waker in lock(&self.waiting).drain(..) {
                    waker.wake();
                }
            }
            if catch_unwind(AssertUnwindSafe(|| state.run(commands))).is_err() {
                commands.clear();
                state.fail();
            }
            drop(state);
            if lock(&self.mail).is_empty() {
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests;
