//! The backend that keeps everything on disk: definitions in sled, messages in the log.

use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::backend::{Backend, Batch, Note, QueueBatch, Reader, Recovered};
use crate::copy::{self, Copy, Settled};
use crate::definitions::{Definitions, Held};
use crate::directory::{self, Directory};
use crate::error::StorageError;
use crate::keys::FORMAT_VERSION;
use crate::load;
use crate::log::{Left, Log, Places};
use crate::making;
use crate::marks::Marks;

/// Sizes of the log. The defaults are meant for everybody but tests.
#[derive(Clone, Copy, Debug)]
pub struct DiskOptions {
    /// Bytes above which a segment is full. A batch that is larger gets a segment of its own.
    pub segment_bytes: u64,
    /// Bytes that each series of segments may take beyond twice what lives in it, before it is cleaned.
    pub spare_bytes: u64,
    /// Of what is there when it is opened, nothing but what lives is to take space once [`Backend::idle`] has no more to do:
    /// for a store that nobody uses meanwhile.
    pub compact: bool,
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
        DiskOptions { segment_bytes: 32 << 20, spare_bytes: 80 << 20, compact: false, free: free_disk }
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
    making::complete(&directory, &mut notes)?;
    let created = found.format.is_none() && making::create(&directory, &mut notes)?;
    let mut database = open_definitions(&directory, &found, &mut notes)?;
    let places = Places {
        kept: directory.messages(),
        spilled: directory.spill(),
        quarantine: directory.quarantine_place(),
        options: *options,
    };
    let marks_lost = !created && !Marks::is_whole(&directory.delivered());
    let marks = Marks::open(&directory.delivered())?;
    let safe = found.clean || found.same_boot;
    prepare_log(&directory, &found, database.as_mut(), &places, &mut recovered, &mut notes)?;
    let database = match database {
        Some(database) => load_definitions(database)?,
        None => None,
    };
    let kept_up = safe && found.copied && found.format != Some(EARLIER_FORMAT);
    let count = found.held.map(|held| held.definitions);
    let left = copy::Left { kept_up, clean: found.clean, count };
    let spare = if options.compact { 0 } else { options.spare_bytes / COPY_SHARE };
    let Settled { definitions, copy, entries, quarantined } =
        copy::settle(&directory, spare, database, left, &mut notes)?;
    let opened = Log::open(&places, Left { clean: found.clean, power_cut: !safe })?;
    recovered.definitions = entries;
    recovered.quarantined.extend(quarantined);
    recovered.quarantined.extend(opened.quarantined);
    notes.extend(opened.notes);
    recovered.queues = opened.queues;
    let stored = recovered.queues.iter().flat_map(|queue| &queue.stored);
    (recovered.messages, recovered.bytes) =
        stored.fold((0, 0), |(n, bytes), stored| (n + u64::from(stored.count), bytes + stored.bytes));
    let lost = match safe || created {
        true => marks_lost.then_some(Note::MarksLost),
        false => Some(Note::MarksRaised),
    };
    load::settle_marks(&marks, lost, &mut recovered, &mut notes)?;
    match directory.begin_use() {
        // What was kept aside is for such a start too: without it nobody could remove anything.
        Err(StorageError::Full { .. }) => {
            directory.give_up_reserve()?;
            directory.begin_use()?;
        }
        begun => begun?,
    }
    recovered.clean = created || found.clean;
    let now = directory::Held { messages: recovered.messages, definitions: recovered.definitions.len() as u64 };
    notes.extend(found.held.and_then(|before| missing(before, now)));
    recovered.notes = notes;
    recovered.duration = start.elapsed();
    directory.keep_reserve()?;
    let store = DiskStore { definitions, copy, log: opened.log, marks, directory, free: options.free };
    Ok((Box::new(store), recovered))
}

/// The database, unless it is damaged or gone.
fn open_definitions(
    directory: &Directory,
    found: &directory::Found,
    notes: &mut Vec<Note>,
) -> Result<Option<Definitions>, StorageError> {
    match undamaged(directory.path(), || Definitions::open(directory, notes)) {
        // There all messages are in it.
        Err(error) if found.format == Some(EARLIER_FORMAT) => Err(error),
        Err(error) if error.is_damage() => {
            tracing::error!(%error, "the database of definitions cannot be opened");
            Ok(None)
        }
        other => other.map(Some),
    }
}

/// What the database has; nothing if it turns out to be damaged as a whole.
fn load_definitions(mut definitions: Definitions) -> Result<Option<(Definitions, Held)>, StorageError> {
    let path = definitions.path().to_owned();
    let loaded = undamaged(&path, || {
        match definitions.forget_messages() {
            Err(error) if !error.is_damage() => return Err(error),
            // That is met again when everything is read.
            _ => {}
        }
        definitions.load(&mut |_, _| Ok(()))
    });
    match loaded {
        Ok(held) => Ok(Some((definitions, held))),
        Err(error) if error.is_damage() => {
            tracing::error!(%error, "the database of definitions cannot be read");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// sled panics on some kinds of damage.
fn undamaged<R>(path: &Path, work: impl FnOnce() -> Result<R, StorageError>) -> Result<R, StorageError> {
    let panicked = |_| Err(StorageError::corrupt(path, "sled panicked when reading it"));
    panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(panicked)
}

/// Sees to it that there is a log, and that the directory says so.
fn prepare_log(
    directory: &Directory,
    found: &directory::Found,
    database: Option<&mut Definitions>,
    places: &Places,
    recovered: &mut Recovered,
    notes: &mut Vec<Note>,
) -> Result<(), StorageError> {
    let earlier =
        database.filter(|database| found.format == Some(EARLIER_FORMAT) || database.version == EARLIER_FORMAT);
    match (found.format, earlier) {
        (None | Some(EARLIER_FORMAT), Some(database)) => {
            let messages = migrate(database, places, recovered)?;
            if messages > 0 || found.format.is_some() {
                notes.push(Note::Migrated { messages });
            }
        }
        // Its creation was cut short, or `FORMAT` has been lost: then the rest is not taken for nothing.
        _ if places.kept.is_dir() => {}
        (format, _) => {
            if format.is_some() {
                notes.push(Note::MessagesMissing { directory: places.kept.clone() });
            }
            drop(Log::create(places)?);
        }
    }
    if found.format != Some(FORMAT_VERSION) {
        // What the messages consist of is on the device; only then does the format say where they are.
        directory.complete()?;
    }
    Ok(())
}

/// What the last clean stop left and is not there now.
fn missing(before: directory::Held, now: directory::Held) -> Option<Note> {
    let messages = before.messages.saturating_sub(now.messages);
    let definitions = before.definitions.saturating_sub(now.definitions);
    (messages > 0 || definitions > 0).then_some(Note::Missing { messages, definitions })
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
    definitions.put_aside(&held.damaged)?;
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

/// Of what the log may take beyond twice what lives in it, the copy of the definitions may take this part: 1 MiB.
const COPY_SHARE: u64 = 80;

/// The format before, which kept messages in sled.
const EARLIER_FORMAT: u32 = 1;

struct DiskStore {
    definitions: Definitions,
    copy: Copy,
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
        if !batch.definitions.is_empty() && !self.is_free(DEFINITIONS_ROOM + 2 * batch.bytes() as u64) {
            return Err(StorageError::Full { path: self.path() });
        }
        self.copy.append(&batch.definitions, true)?;
        self.definitions.commit(&batch.definitions, true).map_err(for_good)?;
        self.log.commit(batch)?;
        self.copy.append(&batch.definitions, false).map_err(for_good)?;
        self.definitions.commit(&batch.definitions, false).map_err(for_good)?;
        self.log.clean()
    }

    fn give_up_reserve(&mut self) -> Result<(), StorageError> {
        self.directory.give_up_reserve()
    }

    fn make_room(&mut self) -> Result<(), StorageError> {
        let free = (self.free)(self.directory.path()).ok();
        self.log.give_space_back(free)?;
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
        self.copy.sync()?;
        self.log.sync()
    }

    fn reader(&self) -> Option<Arc<dyn Reader>> {
        Some(self.log.reader())
    }

    fn idle(&mut self) -> Result<bool, StorageError> {
        let DiskStore { definitions, copy, log, directory, free, .. } = self;
        let room = |bytes| free(directory.path()).map_or(true, |free| free >= DEFINITIONS_ROOM + bytes);
        let more = copy.idle(definitions, room)?;
        Ok(log.idle()? || more)
    }

    fn close(self: Box<Self>) -> Result<(), StorageError> {
        let DiskStore { definitions, copy, mut log, marks, directory, .. } = *self;
        // What was found damaged since the last commit, so that it is not found again.
        match log.commit(&Batch::default()) {
            Err(StorageError::Full { .. }) | Ok(()) => {}
            Err(error) => return Err(error),
        }
        log.sync()?;
        let held = directory::Held { messages: log.messages(), definitions: definitions.count() };
        log.close();
        definitions.close()?;
        copy.close()?;
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
