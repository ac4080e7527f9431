//! The writer: takes all that has come, folds it, commits it as one batch, syncs if somebody waits for that.
//!
//! ```text
//!            entries                     somebody waits, or enough, or long enough
//!  idle ───────────────► gathering ──────────────────────────────────────────────► commit ──► idle
//!   │                                                                          │
//!   └── unsynced for long enough: sync                 a notification wants it: sync
//! ```
//!
//! Batches come from draining: while one is written and synced the next one piles up, so nobody waits for a timer
//! who waits for a notification. Only operations without one are held back a little, to be folded.

use std::mem;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::backend::{Backend, Batch};
use crate::error::StorageError;
use crate::fold::Fold;
use crate::store::{Entry, Level, Shared, StoreOptions};

/// Entries that a vector may have room for and still be used again; a burst should not hold memory for ever.
const RECYCLED: usize = 16 << 10;

/// Between two steps of the backend's housekeeping, which wait for a moment without work.
const IDLE_STEP: Duration = Duration::from_millis(50);

/// How long to wait before a full disk is tried again.
const RETRY: Duration = Duration::from_millis(200);

pub(crate) struct Writer<T, C> {
    shared: Arc<Shared<T>>,
    backend: Box<dyn Backend>,
    options: StoreOptions,
    complete: C,
    gathered: Gathered<T>,
    /// The disk was full: when to try again.
    retry: Option<Instant>,
    /// When the oldest operation that was committed and not synced came.
    unsynced: Option<Instant>,
    /// When the backend may do some housekeeping next; `None`: it has none.
    idle: Option<Instant>,
    /// Swapped with the inbox, so that neither allocates.
    taken: Vec<Entry<T>>,
}

/// What the next commit will take.
struct Gathered<T> {
    fold: Fold,
    bytes: usize,
    /// When the first operation came; `None`: there is none.
    since: Option<Instant>,
    written: Vec<T>,
    synced: Vec<T>,
    removed: Vec<T>,
}

impl<T> Default for Gathered<T> {
    fn default() -> Gathered<T> {
        Gathered {
            fold: Fold::default(),
            bytes: 0,
            since: None,
            written: Vec::new(),
            synced: Vec::new(),
            removed: Vec::new(),
        }
    }
}

impl<T, C: FnMut(&mut Vec<T>)> Writer<T, C> {
    pub fn new(shared: Arc<Shared<T>>, backend: Box<dyn Backend>, options: StoreOptions, complete: C) -> Writer<T, C> {
        let (gathered, taken) = (Gathered::default(), Vec::new());
        // What was left undone before the start.
        let idle = Some(Instant::now() + IDLE_STEP);
        Writer { shared, backend, options, complete, gathered, retry: None, unsynced: None, idle, taken }
    }

    /// The thread's whole life. However it ends, nobody who submits afterwards is kept waiting or lied to.
    pub fn run(mut self, failed: impl FnOnce(StorageError)) {
        let shared = self.shared.clone();
        let served = caught(&shared, || self.serve());
        let (outcome, broken) = match served {
            Ok(()) => {
                let backend = self.backend;
                (caught(&shared, || backend.close()), None)
            }
            Err(error) => (Err(error), Some(self)),
        };
        if let Err(error) = outcome {
            give_up(&shared, error, failed);
        }
        // Last, for a backend whose disk fails may take its time to go.
        drop(broken);
    }

    /// Until the store is closed.
    fn serve(&mut self) -> Result<(), StorageError> {
        loop {
            let closing = self.take();
            let now = Instant::now();
            self.gather(now)?;
            if closing || self.commit_is_due(now) {
                self.commit()?;
            }
            if closing || self.sync_is_due(Instant::now()) {
                self.sync()?;
            }
            if closing {
                let full = || StorageError::Full { path: self.shared.path.clone() };
                // The disk may be full and nothing wait for it.
                return if self.gathered.fold.is_empty() { Ok(()) } else { Err(full()) };
            }
            if self.gathered.since.is_none() && self.idle.is_some_and(|at| Instant::now() >= at) {
                self.idle = self.backend.idle()?.then(|| Instant::now() + IDLE_STEP);
            }
        }
    }

    /// Waits until there is something to do; takes everything that has come. True: it was the last.
    fn take(&mut self) -> bool {
        let mut inbox = self.shared.inbox();
        while inbox.entries.is_empty() && !inbox.closing {
            let timeout = match self.deadline() {
                None => None,
                Some(at) => match at.checked_duration_since(Instant::now()) {
                    Some(left) if !left.is_zero() => Some(left),
                    _ => break,
                },
            };
            inbox = self.shared.wait(inbox, timeout);
        }
        mem::swap(&mut inbox.entries, &mut self.taken);
        inbox.closing
    }

    fn deadline(&self) -> Option<Instant> {
        let commit = self.retry.or_else(|| self.gathered.since.map(|t| t + self.options.fold_wait));
        let idle = self.idle.filter(|_| self.gathered.since.is_none());
        commit.into_iter().chain(self.sync_deadline()).chain(idle).min()
    }

    fn gather(&mut self, now: Instant) -> Result<(), StorageError> {
        for entry in self.taken.drain(..) {
            self.gathered.bytes += entry.bytes();
            match entry {
                Entry::Op(op) => {
                    self.gathered.since.get_or_insert(now);
                    self.gathered.fold.add(op);
                }
                Entry::Notify(Level::Written, token) => self.gathered.written.push(token),
                Entry::Notify(Level::Synced, token) => self.gathered.synced.push(token),
                Entry::Notify(Level::Removed, token) => self.gathered.removed.push(token),
                Entry::Fail(error) => return Err(error),
            }
        }
        if self.taken.capacity() > RECYCLED {
            self.taken = Vec::new();
        }
        Ok(())
    }

    fn commit_is_due(&self, now: Instant) -> bool {
        if let Some(at) = self.retry {
            return now >= at;
        }
        let gathered = &self.gathered;
        let waited_for = [&gathered.written, &gathered.synced, &gathered.removed].iter().any(|who| !who.is_empty());
        let long_enough = gathered.since.is_some_and(|t| now >= t + self.options.fold_wait);
        waited_for || long_enough || gathered.bytes >= self.options.fold_bytes
    }

    fn sync_is_due(&self, now: Instant) -> bool {
        self.sync_deadline().is_some_and(|at| now >= at)
    }

    /// When what was committed is to be synced though nobody waits for it.
    fn sync_deadline(&self) -> Option<Instant> {
        let since = self.unsynced.filter(|_| self.options.synced == Level::Synced)?;
        Some(since + self.options.sync_within)
    }

    /// Commits what was gathered, syncs if somebody waits for it, and tells who waits.
    fn commit(&mut self) -> Result<(), StorageError> {
        let mut gathered = mem::take(&mut self.gathered);
        let mut batch = mem::take(&mut gathered.fold).finish();
        let promised = !gathered.synced.is_empty() || !gathered.removed.is_empty();
        let at_once = promised && self.options.synced == Level::Synced;
        batch.at_once = at_once;
        // A disk that was full is tried again when it has room for the reserve too: that is not for messages.
        let room = self.retry.is_none() || self.backend.has_room(batch.bytes());
        if !batch.is_empty() {
            let full = || StorageError::Full { path: self.shared.path.clone() };
            match if room { self.backend.commit(&batch) } else { Err(full()) } {
                Ok(()) => self.has_room()?,
                Err(StorageError::Full { .. }) => return self.wait_for_room(batch, gathered),
                Err(error) => return Err(error),
            }
            self.idle.get_or_insert_with(|| Instant::now() + IDLE_STEP);
            if self.unsynced.is_none() {
                self.unsynced = gathered.since;
            }
            self.forget_marks(&batch)?;
        } else if room {
            // What was waited for has been done without a write.
            self.has_room()?;
        } else {
            self.retry = Some(Instant::now() + RETRY);
        }
        drop(batch);
        if !gathered.written.is_empty() {
            (self.complete)(&mut gathered.written);
        }
        if promised {
            if at_once {
                self.sync()?;
            }
            [gathered.synced, gathered.removed].iter_mut().for_each(|tokens| (self.complete)(tokens));
        }
        self.shared.settle(gathered.bytes);
        Ok(())
    }

    /// Marks of dropped queues go once that is written: a queue that comes back since its drop was not must find its own.
    fn forget_marks(&self, batch: &Batch) -> Result<(), StorageError> {
        let mut dropped = batch.queues.iter().filter(|queue| queue.dropped);
        dropped.try_for_each(|queue| self.backend.marks().forget(queue.queue))
    }

    /// The disk is full. What makes room is written with the help of what was kept aside, and notifications of
    /// `Written` and `Removed` complete; the rest stays, and whoever waits for it goes on waiting, until a later attempt
    /// finds room.
    fn wait_for_room(&mut self, mut batch: Batch, mut gathered: Gathered<T>) -> Result<(), StorageError> {
        if !self.shared.full.swap(true, Ordering::AcqRel) {
            tracing::error!(path = %self.shared.path.display(), "the disk is full: what is published waits for room");
            self.backend.give_up_reserve()?;
        }
        let mut relief = batch.take_relief();
        let mut relieved = self.relieve(&relief)?;
        let whole = relieved;
        if !relieved && !relief.definitions.is_empty() {
            // The database wants more room than the log; and definitions are deleted after messages anyway.
            let definitions = mem::take(&mut relief.definitions);
            batch.put_back(Batch { definitions, ..Batch::default() });
            relieved = self.relieve(&relief)?;
        }
        // Whatever was written: a segment may go, or be cleaned.
        self.backend.make_room()?;
        if relieved {
            // Who waits for `Written` waits for removals of messages.
            (self.complete)(&mut gathered.written);
            gathered.written.clear();
        } else {
            batch.put_back(relief);
        }
        if whole {
            (self.complete)(&mut gathered.removed);
            gathered.removed.clear();
        }
        gathered.fold = Fold::resume(batch);
        if gathered.fold.is_empty() {
            (self.complete)(&mut gathered.synced);
            gathered.synced.clear();
            self.shared.settle(mem::take(&mut gathered.bytes));
        }
        self.gathered = gathered;
        self.retry = Some(Instant::now() + RETRY);
        Ok(())
    }

    /// Writes what makes room; false: there is no room even for that, and nothing of it is written.
    fn relieve(&mut self, relief: &Batch) -> Result<bool, StorageError> {
        match if relief.is_empty() { Ok(()) } else { self.backend.commit(relief) } {
            Ok(()) => self.forget_marks(relief).map(|()| true),
            Err(StorageError::Full { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn has_room(&mut self) -> Result<(), StorageError> {
        if self.retry.take().is_some() && self.shared.full.swap(false, Ordering::AcqRel) {
            tracing::info!(path = %self.shared.path.display(), "the disk has room again");
            self.backend.keep_reserve()?;
        }
        Ok(())
    }

    /// Syncs, if there is anything that is not.
    fn sync(&mut self) -> Result<(), StorageError> {
        if self.unsynced.is_some() {
            self.backend.sync()?;
            self.unsynced = None;
        }
        Ok(())
    }
}

/// Runs `work`; a panic is an error like any other.
fn caught<T, R>(shared: &Shared<T>, work: impl FnOnce() -> Result<R, StorageError>) -> Result<R, StorageError> {
    panic::catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(StorageError::Panicked { path: shared.path.clone() }))
}

/// Drops what has come and will come, remembers why, and says so once.
fn give_up<T>(shared: &Shared<T>, error: StorageError, failed: impl FnOnce(StorageError)) {
    let mut inbox = shared.inbox();
    inbox.failure = Some(error.clone());
    let dropped = mem::take(&mut inbox.entries);
    drop(inbox);
    shared.settle(dropped.iter().map(Entry::bytes).sum());
    drop(dropped);
    tracing::error!(%error, "the store failed");
    let told = caught(shared, || {
        failed(error);
        Ok(())
    });
    if told.is_err() {
        tracing::error!("whoever was told of the store's failure panicked");
    }
}
