//! A backend that lies on purpose: wraps another one and fails, dawdles or stops on command. For tests.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::backend::{Backend, Batch, Reader};
use crate::error::StorageError;
use crate::marks::Marks;

/// What a backend is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Commit,
    Sync,
}

/// How a step fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The device reports an error (EIO).
    Io,
    /// The device is full (ENOSPC).
    Full,
}

/// What a wrapped backend has been asked so far. Calls that failed count too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub commits: u64,
    pub syncs: u64,
    /// Messages in the batches committed.
    pub inserted: u64,
}

/// The controls of a wrapped backend. Clones control the same one.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Control>);

#[derive(Debug, Default)]
struct Control {
    state: Mutex<State>,
    bell: Condvar,
}

#[derive(Debug, Default)]
struct State {
    commit: Plan,
    sync: Plan,
    counts: Counts,
    full: bool,
}

/// What is planned for the calls of one step.
#[derive(Debug, Default)]
struct Plan {
    fail_next: Option<Fault>,
    delay: Duration,
    hold: bool,
    /// A call is being held.
    held: bool,
}

impl State {
    fn plan(&mut self, step: Step) -> &mut Plan {
        match step {
            Step::Commit => &mut self.commit,
            Step::Sync => &mut self.sync,
        }
    }
}

impl Faults {
    /// Nothing goes wrong until told.
    pub fn new() -> Faults {
        Faults::default()
    }

    /// `backend`, under this control.
    pub fn wrap(&self, backend: Box<dyn Backend>) -> Box<dyn Backend> {
        Box::new(FaultyBackend { inner: backend, faults: self.clone() })
    }

    /// The next such step fails, before it has done anything.
    pub fn fail_next(&self, step: Step, fault: Fault) {
        self.state().plan(step).fail_next = Some(fault);
    }

    /// Every commit that adds messages finds the disk full from now on, or no more.
    pub fn fill_disk(&self, full: bool) {
        self.state().full = full;
    }

    /// Every such step takes this much longer from now on.
    pub fn delay(&self, step: Step, by: Duration) {
        self.state().plan(step).delay = by;
    }

    /// Such steps stop before they begin, until [`release`](Self::release).
    pub fn hold(&self, step: Step) {
        self.state().plan(step).hold = true;
    }

    /// Lets what was held go on.
    pub fn release(&self, step: Step) {
        self.state().plan(step).hold = false;
        self.0.bell.notify_all();
    }

    /// Waits until such a step is being held.
    pub fn wait_until_held(&self, step: Step) {
        let mut state = self.state();
        while !state.plan(step).held {
            state = self.wait(state);
        }
    }

    /// What was asked so far.
    pub fn counts(&self) -> Counts {
        self.state().counts
    }

    fn before(&self, step: Step, path: PathBuf) -> Result<(), StorageError> {
        let mut state = self.state();
        while state.plan(step).hold {
            state.plan(step).held = true;
            self.0.bell.notify_all();
            state = self.wait(state);
        }
        let plan = state.plan(step);
        plan.held = false;
        let (delay, fault) = (plan.delay, plan.fail_next.take());
        drop(state);
        thread::sleep(delay);
        let action = match step {
            Step::Commit => "write",
            Step::Sync => "sync",
        };
        match fault {
            None => Ok(()),
            Some(Fault::Io) => Err(StorageError::io(action, &path, io::Error::other("injected fault"))),
            Some(Fault::Full) => Err(StorageError::io(action, &path, io::ErrorKind::StorageFull.into())),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.0.bell.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}

struct FaultyBackend {
    inner: Box<dyn Backend>,
    faults: Faults,
}

impl Backend for FaultyBackend {
    fn commit(&mut self, batch: &Batch) -> Result<(), StorageError> {
        let inserts = batch.queues.iter().flat_map(|q| &q.inserts);
        let messages: u64 = inserts.map(|(_, run)| u64::from(run.count())).sum();
        let mut state = self.faults.state();
        state.counts.commits += 1;
        state.counts.inserted += messages;
        let full = state.full && messages > 0;
        drop(state);
        if full {
            return Err(StorageError::Full { path: self.path() });
        }
        self.faults.before(Step::Commit, self.path())?;
        self.inner.commit(batch)
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        self.faults.state().counts.syncs += 1;
        self.faults.before(Step::Sync, self.path())?;
        self.inner.sync()
    }

    fn reader(&self) -> Option<Arc<dyn Reader>> {
        self.inner.reader()
    }

    fn give_up_reserve(&mut self) -> Result<(), StorageError> {
        self.inner.give_up_reserve()
    }

    fn make_room(&mut self) -> Result<(), StorageError> {
        self.inner.make_room()
    }

    fn has_room(&self, bytes: usize) -> bool {
        !self.faults.state().full && self.inner.has_room(bytes)
    }

    fn keep_reserve(&mut self) -> Result<(), StorageError> {
        self.inner.keep_reserve()
    }

    fn idle(&mut self) -> Result<bool, StorageError> {
        self.inner.idle()
    }

    fn close(self: Box<Self>) -> Result<(), StorageError> {
        self.inner.close()
    }

    fn marks(&self) -> &Marks {
        self.inner.marks()
    }

    fn path(&self) -> PathBuf {
        self.inner.path()
    }
}
