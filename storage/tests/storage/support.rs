//! Places to open stores in, and a store whose completions arrive in a channel.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use leveret_storage::conformance::Place;
use leveret_storage::faulty::Faults;
use leveret_storage::{
    Backend, Entry, Level, Op, Recovered, StorageError, Store, StoreOptions, open_disk, open_memory,
};

/// Long enough for the slowest machine; reached only when something is lost.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct DiskPlace(tempfile::TempDir);

impl DiskPlace {
    pub fn new() -> DiskPlace {
        DiskPlace(tempfile::tempdir().unwrap())
    }

    pub fn dir(&self) -> PathBuf {
        self.0.path().join("data")
    }
}

impl Place for DiskPlace {
    fn open(&self) -> Result<(Box<dyn Backend>, Recovered), StorageError> {
        open(&self.dir())
    }

    fn keeps(&self) -> bool {
        true
    }
}

pub struct MemoryPlace;

impl Place for MemoryPlace {
    fn open(&self) -> Result<(Box<dyn Backend>, Recovered), StorageError> {
        open_memory()
    }

    fn keeps(&self) -> bool {
        false
    }
}

pub fn open(dir: &Path) -> Result<(Box<dyn Backend>, Recovered), StorageError> {
    open_disk(dir)
}

/// A store whose tokens and failure can be waited for.
pub struct Watched {
    pub store: Store<u32>,
    pub faults: Faults,
    pub tokens: Receiver<u32>,
    pub failure: Receiver<StorageError>,
}

impl Watched {
    pub fn on(backend: Box<dyn Backend>, options: StoreOptions) -> Watched {
        let faults = Faults::new();
        let (complete, tokens) = mpsc::channel();
        let (failed, failure) = mpsc::channel();
        let store = Store::start(
            faults.wrap(backend),
            options,
            move |done: &mut Vec<u32>| done.drain(..).for_each(|token| complete.send(token).unwrap_or_default()),
            move |error| failed.send(error).unwrap_or_default(),
        )
        .unwrap();
        Watched { store, faults, tokens, failure }
    }

    pub fn in_memory() -> Watched {
        Watched::on(open_memory().unwrap().0, StoreOptions::default())
    }

    /// Timers that never run out, so that what happens does not happen because of them.
    pub fn without_timers() -> Watched {
        let never = Duration::from_secs(100_000);
        let options = StoreOptions { fold_wait: never, sync_within: never, ..StoreOptions::default() };
        Watched::on(open_memory().unwrap().0, options)
    }

    pub fn submit(&self, entries: impl IntoIterator<Item = Entry<u32>>) {
        self.store.submit(&mut entries.into_iter().collect());
    }

    pub fn token(&self) -> u32 {
        self.tokens.recv_timeout(PATIENCE).expect("a token completes")
    }
}

pub fn op(op: Op) -> Entry<u32> {
    Entry::Op(op)
}

pub fn synced(token: u32) -> Entry<u32> {
    Entry::Notify(Level::Synced, token)
}

pub fn removed(token: u32) -> Entry<u32> {
    Entry::Notify(Level::Removed, token)
}

pub fn written(token: u32) -> Entry<u32> {
    Entry::Notify(Level::Written, token)
}

/// A little generator of our own: the tests need no quality, only variety.
pub struct Dice(pub u64);

impl Dice {
    /// A number below `sides`.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}
