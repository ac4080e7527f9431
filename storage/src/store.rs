//! The handle the broker uses. Behind it one plain thread, the writer, commits what has piled up (see `writer`).

use std::mem;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, ThreadId};
use std::time::Duration;

use crate::backend::{Backend, Op, Reader};
use crate::error::StorageError;
use crate::marks::{Mark, Marks};
use crate::writer::Writer;

/// How safe something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Handed to the kernel: survives SIGKILL of the process.
    Written,
    /// On the device: survives a power cut.
    Synced,
    /// As `Synced`, for what makes room: removals and deletions. While the disk is full, it does not wait for inserts
    /// and definitions before it, which do.
    Removed,
}

/// What the broker submits.
#[derive(Debug)]
pub enum Entry<T> {
    /// Something to remember.
    Op(Op),
    /// Completes with the token when everything submitted before it has reached the level. Tokens of one level
    /// complete in order; those of different levels may overtake each other. While the disk is full, `Written` speaks
    /// of removals only: inserts before it may still wait for room.
    Notify(Level, T),
    /// The user of the store has met an error that leaves no promise safe, a failed mark for one: the store ends as
    /// after a commit that failed.
    Fail(StorageError),
}

/// When the writer commits what nobody waits for. Somebody who waits never waits for a timer.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Operations without a notification wait this long for more, so that inserts and their removals meet and
    /// cancel out.
    pub fold_wait: Duration,
    /// Above this many bytes they don't wait.
    pub fold_bytes: usize,
    /// A sync begins at the latest this long after an operation came, even when nothing further comes. The default
    /// leaves the sync itself 50 ms of the 200 that are promised.
    pub sync_within: Duration,
    /// What [`Level::Synced`] comes down to. `Written`: nothing is synced but at the end, and what a power cut leaves is
    /// up to the operating system.
    pub synced: Level,
}

impl Default for StoreOptions {
    fn default() -> StoreOptions {
        StoreOptions {
            fold_wait: Duration::from_millis(20),
            fold_bytes: 4 << 20,
            sync_within: Duration::from_millis(150),
            synced: Level::Synced,
        }
    }
}

/// A store in use. Clones are the same store; when the last one goes, it is closed as by [`close`](Store::close).
pub struct Store<T> {
    handle: Arc<Handle<T>>,
}

impl<T> Clone for Store<T> {
    fn clone(&self) -> Store<T> {
        Store { handle: self.handle.clone() }
    }
}

/// Its drop, unlike that of [`Shared`], means that no user is left.
struct Handle<T> {
    shared: Arc<Shared<T>>,
    marks: Marks,
    reader: Option<Arc<dyn Reader>>,
    writer_id: ThreadId,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// What the users and the writer share.
pub(crate) struct Shared<T> {
    inbox: Mutex<Inbox<T>>,
    bell: Condvar,
    pending_bytes: AtomicUsize,
    /// The disk is full, and what was submitted waits for room.
    pub full: AtomicBool,
    pub path: PathBuf,
}

pub(crate) struct Inbox<T> {
    pub entries: Vec<Entry<T>>,
    /// The writer waits for the bell.
    asleep: bool,
    /// No entry is accepted any more.
    pub closing: bool,
    /// Why the writer gave up.
    pub failure: Option<StorageError>,
}

impl<T> Shared<T> {
    /// No invariant spans a panic while this lock is held, so a poisoned one is as good as any.
    pub fn inbox(&self) -> MutexGuard<'_, Inbox<T>> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the bell, or `timeout`.
    pub fn wait<'a>(&self, mut inbox: MutexGuard<'a, Inbox<T>>, timeout: Option<Duration>) -> MutexGuard<'a, Inbox<T>> {
        inbox.asleep = true;
        let mut inbox = match timeout {
            None => self.bell.wait(inbox).unwrap_or_else(PoisonError::into_inner),
            Some(timeout) => match self.bell.wait_timeout(inbox, timeout) {
                Ok((inbox, _)) => inbox,
                Err(poisoned) => poisoned.into_inner().0,
            },
        };
        inbox.asleep = false;
        inbox
    }

    /// `bytes` don't wait for the disk any more.
    pub fn settle(&self, bytes: usize) {
        self.pending_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl<T: Send + 'static> Store<T> {
    /// Starts the writer on `backend`.
    ///
    /// `complete` receives the tokens of each batch once it is safe; what it leaves in the vector is dropped.
    /// `failed` is called at most once: when a commit or sync failed. After it no token completes, and the store
    /// accepts nothing. Both run on the writer's thread and should only pass things on.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(
        backend: Box<dyn Backend>,
        options: StoreOptions,
        complete: impl FnMut(&mut Vec<T>) + Send + 'static,
        failed: impl FnOnce(StorageError) + Send + 'static,
    ) -> Result<Store<T>, StorageError> {
        let marks = backend.marks().clone();
        let reader = backend.reader();
        let path = backend.path();
        let shared = Arc::new(Shared {
            inbox: Mutex::new(Inbox { entries: Vec::new(), asleep: false, closing: false, failure: None }),
            bell: Condvar::new(),
            pending_bytes: AtomicUsize::new(0),
            full: AtomicBool::new(false),
            path: path.clone(),
        });
        let writer = Writer::new(shared.clone(), backend, options, complete);
        let thread = thread::Builder::new()
            .name("storage".into())
            .spawn(move || writer.run(failed))
            .map_err(|e| StorageError::io("start the writer of", &path, e))?;
        let writer_id = thread.thread().id();
        let handle = Handle { shared, marks, reader, writer_id, writer: Mutex::new(Some(thread)) };
        Ok(Store { handle: Arc::new(handle) })
    }

    /// Hands `entries` over, in order, and leaves the vector empty. Never waits for the disk. After a failure or a
    /// close they are dropped.
    pub fn submit(&self, entries: &mut Vec<Entry<T>>) {
        if entries.is_empty() {
            return;
        }
        let shared = &*self.handle.shared;
        let bytes = entries.iter().map(Entry::bytes).sum();
        // Counted first, so that the writer, however fast, never takes off what was not put on.
        shared.pending_bytes.fetch_add(bytes, Ordering::Relaxed);
        let mut inbox = shared.inbox();
        if inbox.closing || inbox.failure.is_some() {
            drop(inbox);
            shared.settle(bytes);
            entries.clear();
            return;
        }
        let ring = inbox.asleep;
        if inbox.entries.is_empty() && inbox.entries.capacity() < entries.len() {
            mem::swap(&mut inbox.entries, entries);
        } else {
            inbox.entries.append(entries);
        }
        drop(inbox);
        if ring {
            shared.bell.notify_one();
        }
    }

    /// Bytes submitted and not yet as safe as their notification asks, for back-pressure.
    pub fn pending_bytes(&self) -> usize {
        self.handle.shared.pending_bytes.load(Ordering::Relaxed)
    }

    /// The disk is full: what was submitted waits for room, and goes on by itself when there is some.
    pub fn is_full(&self) -> bool {
        self.handle.shared.full.load(Ordering::Acquire)
    }

    /// Who reads messages back, for any thread; `None` where nothing is kept, and nothing can be spilled.
    pub fn reader(&self) -> Option<Arc<dyn Reader>> {
        self.handle.reader.clone()
    }

    /// How far `queue` has been delivered, to be moved on by whoever runs the queue.
    ///
    /// # Errors
    /// When the store has failed or is closed.
    pub fn mark(&self, queue: u64) -> Result<Mark, StorageError> {
        let inbox = self.handle.shared.inbox();
        match &inbox.failure {
            Some(failure) => Err(failure.clone()),
            None if inbox.closing => Err(StorageError::Closed),
            None => Ok(self.handle.marks.mark(queue)),
        }
    }

    /// Writes and syncs everything submitted, remembers that the store was closed cleanly, ends the thread. The
    /// second call changes nothing and returns what the first did. From within `complete` or `failed` it only
    /// begins the end and does not wait for it.
    ///
    /// # Errors
    /// The failure that ended the writer, if one did.
    pub fn close(&self) -> Result<(), StorageError> {
        self.handle.close()
    }
}

impl<T> Handle<T> {
    fn close(&self) -> Result<(), StorageError> {
        self.shared.inbox().closing = true;
        self.shared.bell.notify_one();
        if thread::current().id() != self.writer_id {
            // Joined under the lock, so that a second closer waits for the first one's end.
            let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(thread) = writer.take() {
                // The writer catches panics itself and reports them as a failure.
                let _ = thread.join();
            }
        }
        match &self.shared.inbox().failure {
            Some(failure) => Err(failure.clone()),
            None => Ok(()),
        }
    }
}

impl<T> Drop for Handle<T> {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::debug!(%error, "a failed store was let go");
        }
    }
}

impl<T> Entry<T> {
    /// What the entry weighs while it waits.
    pub(crate) fn bytes(&self) -> usize {
        let payload = match self {
            Entry::Op(Op::PutDefinition { key, value }) => key.len() + value.len(),
            Entry::Op(Op::DeleteDefinition { key }) => key.len(),
            Entry::Op(Op::Insert { run, .. } | Op::Spill { run, .. }) => run.bytes(),
            Entry::Op(Op::Remove { .. } | Op::DropQueue { .. }) | Entry::Notify(..) | Entry::Fail(_) => 0,
        };
        payload + size_of::<Self>()
    }
}
