//! The backend that keeps everything on disk: definitions in sled, messages in the log.

use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::backend::{Backend, Batch, Note, QueueBatch, Reader, Recovered};
use crate::definitions::{self, Definitions};
use crate::directory::{self, Directory};
use crate::error::StorageError;
use crate::keys::FORMAT_VERSION;
use crate::load;
use crate::log::{Left, Log, Places};
use crate::marks::Marks;

/// Sizes of the log. The defaults are meant for everybody but tests.
#[derive(Clone, Copy, Debug)]
pub struct DiskOptions {
    /// Bytes above which a segment is full. A batch that is larger gets a segment of its own.
    pub segment_bytes: u64,
    /// Bytes that each series of segments may take beyond twice what lives in it, before it is cleaned.
    pub spare_bytes: u64,
    /// How many bytes the file system of a path has free.
    pub free: fn(&Path) -> io::Result<u64>,
}

/// What the file system says.
fn free_disk(path: &Path) -> io::Result<u64> {
    let system = rustix::fs::statvfs(path)?;
    Ok(system.f_bavail.saturating_mul(system.f_frsize))
}

impl Default for DiskOptions {
    fn default() -> DiskOptions {
        DiskOptions { segment_bytes: 32 << 20, spare_bytes: 80 << 20, free: free_disk }
    }
}

/// Opens the store in `dir`, or makes one. Definitions are read; of messages only where they lie.
///
/// # Errors
/// `Locked`, `UnknownFormat` (nothing was touched in either case), `Corrupt`, `Full`, `Io`.
pub fn open_disk(dir: &Path) -> Result<(Box<dyn Backend>, Recovered), StorageError> {
    open_disk_with(dir, &DiskOptions::default())
}

/// [`open_disk`] with other sizes.
///
/// # Errors
/// As [`open_disk`].
pub fn open_disk_with(dir: &Path, options: &DiskOptions) -> Result<(Box<dyn Backend>, Recovered), StorageError> {
    // sled panics on some kinds of damage, when opening and when reading.
    let opened = panic::catch_unwind(AssertUnwindSafe(|| open(dir, options)));
    opened.unwrap_or_else(|_| Err(StorageError::corrupt(dir, "sled panicked when reading it")))
}

fn open(dir: &Path, options: &DiskOptions) -> Result<(Box<dyn Backend>, Recovered), StorageError> {
    let start = Instant::now();
    let (directory, found) = Directory::open(dir)?;
    let mut notes = Vec::new();
    let mut recovered = Recovered::default();
    let created = found.format.is_none() && definitions::create(&directory, &mut notes)?;
    let mut definitions = Definitions::open(&directory, &mut notes)?;
    let places = Places {
        kept: directory.messages(),
        spilled: directory.spill(),
        quarantine: directory.quarantine_place(),
        options: *options,
    };
    let marks_lost = !directory.delivered().exists();
    let marks = Marks::open(&directory.delivered())?;
    let safe = found.clean || found.same_boot;
    match found.format {
        // Its creation was cut short, or `FORMAT` has been lost: then the rest is not taken for nothing.
        None if definitions.version == FORMAT_VERSION && places.kept.is_dir() => {}
        None if definitions.version == FORMAT_VERSION => drop(Log::create(&places)?),
        Some(FORMAT_VERSION) if !places.kept.is_dir() => {
            return Err(StorageError::corrupt(directory.path(), "its messages are missing"));
        }
        Some(FORMAT_VERSION) => {}
        _ => {
            let messages = migrate(&mut definitions, &places, &mut recovered)?;
            if messages > 0 || found.format.is_some() {
                notes.push(Note::Migrated { messages });
            }
        }
    }
    if found.format != Some(FORMAT_VERSION) {
        // What the messages consist of is on the device; only then does the format say where they are.
        directory.complete()?;
    }
    definitions.forget_messages()?;
    let held = definitions.load(&mut |_, _| Ok(()))?;
    let opened = Log::open(&places, Left { clean: found.clean, power_cut: !safe })?;
    recovered.definitions = held.definitions;
    recovered.quarantined.extend(held.quarantined);
    recovered.quarantined.extend(opened.quarantined);
    notes.extend(opened.notes);
    recovered.queues = opened.queues;
    let stored = recovered.queues.iter().flat_map(|queue| &queue.stored);
    (recovered.messages, recovered.bytes) =
        stored.fold((0, 0), |(n, bytes), stored| (n + u64::from(stored.count), bytes + stored.bytes));
    let exact = created || (!marks_lost && safe);
    load::settle_marks(&marks, exact, &mut recovered, &mut notes)?;
    directory.begin_use()?;
    recovered.clean = created || found.clean;
    let now = directory::Held { messages: recovered.messages, definitions: recovered.definitions.len() as u64 };
    if let Some(before) = found.held.filter(|&before| before != now) {
        notes.push(Note::Missing {
            messages: before.messages.saturating_sub(now.messages),
            definitions: before.definitions.saturating_sub(now.definitions),
        });
    }
    recovered.notes = notes;
    recovered.duration = start.elapsed();
    directory.keep_reserve()?;
    let store = DiskStore { definitions, log: opened.log, marks, directory, free: options.free };
    Ok((Box::new(store), recovered))
}

/// Moves the messages of a directory of format 1 into a new log, whatever an interrupted attempt has left of one, and
/// syncs it. Nothing is deleted yet. Returns how many there were.
fn migrate(definitions: &mut Definitions, places: &Places, recovered: &mut Recovered) -> Result<u64, StorageError> {
    let mut log = Log::create(places)?;
    let mut messages = 0;
    let held = definitions.load(&mut |queue, inserts| {
        messages += inserts.iter().map(|(_, run)| u64::from(run.count())).sum::<u64>();
        let queue = QueueBatch { queue, inserts, ..QueueBatch::default() };
        log.commit(&Batch { queues: vec![queue], ..Batch::default() })
    })?;
    recovered.quarantined = held.quarantined;
    log.sync()?;
    Ok(messages)
}

/// Free disk without which sled is given nothing to write, and a full disk is not left: some of its segments.
const DEFINITIONS_ROOM: u64 = 2 << 20;
/// Free disk beyond the reserve and what waits, with which a full disk is one no more.
const AMPLE: u64 = 4 << 20;

/// sled cannot go on after a write that failed, so it is given none for which there is no room. Who else fills the disk
/// just then ends the store.
fn for_good(error: StorageError) -> StorageError {
    match error {
        StorageError::Full { path } => {
            let source = Arc::new(std::io::ErrorKind::StorageFull.into());
            StorageError::Io { action: "write", path, source }
        }
        other => other,
    }
}

struct DiskStore {
    definitions: Definitions,
    log: Log,
    marks: Marks,
    free: fn(&Path) -> io::Result<u64>,
    /// Last, so that its lock goes after the rest.
    directory: Directory,
}

impl DiskStore {
    /// Whether so much disk is free, or nobody knows.
    fn is_free(&self, bytes: u64) -> bool {
        (self.free)(self.directory.path()).map_or(true, |free| free >= bytes)
    }
}

impl Backend for DiskStore {
    /// A message must not be there without its queue: what is put is written before, what is deleted after.
    fn commit(&mut self, batch: &Batch) -> Result<(), StorageError> {
        if !batch.definitions.is_empty() && !self.is_free(DEFINITIONS_ROOM + batch.bytes() as u64) {
            return Err(StorageError::Full { path: self.path() });
        }
        self.definitions.commit(&batch.definitions, true).map_err(for_good)?;
        self.log.commit(batch)?;
        self.definitions.commit(&batch.definitions, false).map_err(for_good)?;
        match self.log.clean() {
            // The batch itself is written; cleaning waits for room.
            Err(StorageError::Full { .. }) => Ok(()),
            other => other,
        }
    }

    fn give_up_reserve(&mut self) -> Result<(), StorageError> {
        self.directory.give_up_reserve()
    }

    fn make_room(&mut self) -> Result<(), StorageError> {
        self.log.give_space_back()?;
        self.sync()
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.is_free(directory::RESERVE_BYTES + AMPLE + bytes as u64)
    }

    fn keep_reserve(&mut self) -> Result<(), StorageError> {
        self.directory.keep_reserve()
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        self.definitions.sync()?;
        self.log.sync()
    }

    fn reader(&self) -> Option<Arc<dyn Reader>> {
        Some(self.log.reader())
    }

    fn idle(&mut self) -> Result<bool, StorageError> {
        self.log.idle()
    }

    fn close(self: Box<Self>) -> Result<(), StorageError> {
        let DiskStore { definitions, mut log, marks, directory, .. } = *self;
        log.sync()?;
        let held = directory::Held { messages: log.messages(), definitions: definitions.count() };
        log.close();
        definitions.close()?;
        marks.sync()?;
        directory.end_use(held)
    }

    fn marks(&self) -> &Marks {
        &self.marks
    }

    fn path(&self) -> PathBuf {
        self.directory.path().to_owned()
    }
}
