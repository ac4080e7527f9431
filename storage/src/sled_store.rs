//! The first backend: sled 0.34. The only file that names one of its types.
//!
//! What has to be known about it (measured; the issue numbers are upstream's):
//! * `flush` hands the log to the kernel but syncs neither the device's cache nor the file's metadata (1351, 1452), and
//!   its own flusher only logs a failing sync. So [`Backend::sync`] syncs the file `db` on a handle of our own, to
//!   which the kernel reports every write error since it was opened.
//! * A page above a quarter of a segment becomes a file that is never synced and hardly ever removed. A page is a leaf
//!   of up to some 26 values, so segments are large and values are cut ([`SledOptions`]).
//! * A batch is atomic within one tree only: there is one tree.
//! * Without `flush_every_ms` the log is never cleaned.
//! * An unreadable snapshot of the index makes opening fail (1527), though the log alone suffices.
//! * Its file lock can outlive the database for a moment; ours decides who has the directory.

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::backend::{Backend, Batch, Bytes, Note, QueueBatch, Recovered};
use crate::block::{Gauge, Run};
use crate::directory::{Directory, Held, sync_directory};
use crate::error::{IoContext, StorageError};
use crate::index::{Entry, Fate, Index, Touched};
use crate::keys::{self, FORMAT_KEY, FORMAT_VERSION};
use crate::load::{self, Loader};
use crate::marks::Marks;
use crate::record::{self, RecordBuilder};
use crate::removed::Removed;

/// Records that are deleted one by one with the batch that gives them up; more become a void, for deleting a long
/// queue would hold up everybody's confirms for seconds.
const FEW_RECORDS: usize = 64;

/// Keys of voids cleared away with every commit.
const SWEEP: usize = 64;

/// How long sled may keep its lock after it was dropped.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// Sizes. The defaults were chosen by `benches/layout.rs`.
#[derive(Clone, Debug)]
pub struct SledOptions {
    /// Bytes of a segment of the log, a power of two up to 16 MiB. Fixed when a directory is created.
    pub segment_bytes: usize,
    /// Bytes of a value: larger ones are cut. Some 26 of them have to fit in a quarter of a segment.
    pub chunk_bytes: usize,
    /// Bytes of pages kept in memory.
    pub cache_bytes: u64,
}

impl Default for SledOptions {
    fn default() -> SledOptions {
        SledOptions { segment_bytes: 2 << 20, chunk_bytes: 16 << 10, cache_bytes: 32 << 20 }
    }
}

/// Opens the store in `dir`, or makes one, and reads everything it holds. The blocks of what it held count in `gauge`.
///
/// # Errors
/// `Locked`, `UnknownFormat` (nothing was touched in either case), `Corrupt`, `Full`, `Io`.
pub fn open_sled(dir: &Path, gauge: &Arc<Gauge>) -> Result<(Box<dyn Backend>, Recovered), StorageError> {
    open_sled_with(dir, gauge, &SledOptions::default())
}

/// [`open_sled`] with other sizes.
pub fn open_sled_with(
    dir: &Path,
    gauge: &Arc<Gauge>,
    options: &SledOptions,
) -> Result<(Box<dyn Backend>, Recovered), StorageError> {
    // sled panics on some kinds of damage, when opening and when reading.
    let opened = panic::catch_unwind(AssertUnwindSafe(|| open_all(dir, gauge, options)));
    opened.unwrap_or_else(|_| Err(StorageError::corrupt(dir, "sled panicked when reading it")))
}

fn open_all(
    dir: &Path,
    gauge: &Arc<Gauge>,
    options: &SledOptions,
) -> Result<(Box<dyn Backend>, Recovered), StorageError> {
    let start = Instant::now();
    let (directory, found) = Directory::open(dir)?;
    let mut notes = Vec::new();
    let created = !found.complete && create(&directory, options, &mut notes)?;
    let (db, file) = open_database(&directory, options, &mut notes)?;
    let marks_lost = !directory.delivered().exists();
    let marks = Marks::open(&directory.delivered())?;
    if !found.complete {
        directory.complete()?;
    }
    let mut store = SledStore {
        db,
        file,
        marks,
        chunk_bytes: options.chunk_bytes,
        index: Index::default(),
        definitions: HashMap::new(),
        voids: VecDeque::new(),
        directory,
    };
    let mut recovered = store.load(gauge)?;
    let exact = created || (!marks_lost && (found.clean || found.same_boot));
    load::settle_marks(&store.marks, exact, &mut recovered, &mut notes)?;
    store.directory.begin_use()?;
    recovered.clean = created || found.clean;
    let now = Held { messages: recovered.messages, definitions: recovered.definitions.len() as u64 };
    if let Some(before) = found.held.filter(|&before| before != now) {
        notes.push(Note::Missing {
            messages: before.messages.saturating_sub(now.messages),
            definitions: before.definitions.saturating_sub(now.definitions),
        });
    }
    recovered.notes = notes;
    recovered.duration = start.elapsed();
    Ok((Box::new(store), recovered))
}

struct SledStore {
    db: sled::Db,
    /// The file `db`, opened by ourselves: see the module.
    file: File,
    marks: Marks,
    chunk_bytes: usize,
    index: Index,
    /// Under how many keys each definition lies.
    definitions: HashMap<Bytes, u32>,
    /// Given up and not yet cleared away: (queue, from, through).
    voids: VecDeque<(u64, u64, u64)>,
    /// Last, so that its lock goes after the database.
    directory: Directory,
}

impl Backend for SledStore {
    fn commit(&mut self, batch: &Batch) -> Result<(), StorageError> {
        let mut out = Changes::default();
        for (key, value) in &batch.definitions {
            self.define(key, value.as_deref(), &mut out);
        }
        let mut touched = Touched::new();
        for queue in &batch.queues {
            self.change(queue, &mut touched, &mut out);
        }
        for (queue, first) in touched {
            self.settle(queue, first, &mut out);
        }
        if out.0.is_empty() {
            return Ok(());
        }
        let path = self.directory.path();
        out.write(&self.db).map_err(|e| failure("write", path, e))?;
        self.sweep()
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        self.file.sync_data().context("sync", &self.directory.database())
    }

    fn close(self: Box<Self>) -> Result<(), StorageError> {
        let SledStore { db, file, marks, directory, index, definitions, .. } = *self;
        let held = Held { messages: index.messages(), definitions: definitions.len() as u64 };
        db.flush().map_err(|e| failure("write", directory.path(), e))?;
        drop(db);
        file.sync_all().context("sync", &directory.database())?;
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

/// Keys to be set or deleted at once.
#[derive(Default)]
struct Changes(Vec<(sled::IVec, Option<sled::IVec>)>);

impl Changes {
    fn put(&mut self, key: impl AsRef<[u8]>, value: Vec<u8>) {
        self.0.push((key.as_ref().into(), Some(value.into())));
    }

    fn delete(&mut self, key: impl AsRef<[u8]>) {
        self.0.push((key.as_ref().into(), None));
    }

    /// Hands everything to the kernel.
    fn write(mut self, db: &sled::Db) -> sled::Result<()> {
        // A single change is atomic anyhow. As a batch it would be written in two steps, each waiting for the disk,
        // and a lone message with a confirm is what waiting is felt with.
        if self.0.len() <= 1 {
            match self.0.pop() {
                None => return Ok(()),
                Some((key, Some(value))) => db.insert(key, value)?,
                Some((key, None)) => db.remove(key)?,
            };
        } else {
            let mut batch = sled::Batch::default();
            for (key, value) in self.0 {
                match value {
                    Some(value) => batch.insert(key, value),
                    None => batch.remove(key),
                }
            }
            db.apply_batch(batch)?;
        }
        db.flush().map(|_| ())
    }
}

impl SledStore {
    fn define(&mut self, key: &[u8], value: Option<&[u8]>, out: &mut Changes) {
        let before = self.definitions.remove(key).unwrap_or(0);
        let now = match value {
            None => 0,
            Some(value) => {
                let chunk_key = |chunk| keys::definition_key(key, chunk);
                keys::put_chunks(&[value], self.chunk_bytes, chunk_key, |k, v| out.put(k, v))
            }
        };
        for chunk in now..before {
            out.delete(keys::definition_key(key, chunk));
        }
        if now > 0 {
            self.definitions.insert(key.into(), now);
        }
    }

    fn change(&mut self, batch: &QueueBatch, touched: &mut Touched, out: &mut Changes) {
        if batch.dropped {
            self.give_up(batch.queue, 0, u64::MAX, out);
            for entry in self.index.drop_queue(batch.queue) {
                delete_record(batch.queue, &entry, out);
            }
        }
        for &(first, count) in &batch.removals {
            self.give_up(batch.queue, first, first.saturating_add(count), out);
            self.index.remove(batch.queue, first, count, touched);
        }
        self.insert(batch.queue, &batch.inserts, out);
    }

    /// Makes a void of the records in `first..end`, if there are many.
    fn give_up(&mut self, queue: u64, first: u64, end: u64, out: &mut Changes) {
        if let Some((from, through)) = self.index.take_many(queue, first, end, FEW_RECORDS) {
            let key = keys::void_key(queue, from);
            out.put(key, keys::seal(&key, through.to_be_bytes().to_vec()));
            self.voids.push_back((queue, from, through));
        }
    }

    /// Clears away some of what was given up: the keys in order, the void itself when nothing is left in it. This is
    /// not flushed: it may as well be lost and done again.
    fn sweep(&mut self) -> Result<(), StorageError> {
        let Some(&(queue, from, through)) = self.voids.front() else {
            return Ok(());
        };
        let removals = keys::removals_key(queue, from)..=keys::removals_key(queue, through);
        let records = keys::record_key(queue, from, 0)..=keys::record_key(queue, through, u32::MAX);
        let removals = self.db.range(removals).keys();
        let records = self.db.range(records).keys();
        let path = self.directory.path();
        let mut batch = sled::Batch::default();
        let mut count = 0;
        for key in removals.chain(records).take(SWEEP) {
            batch.remove(key.map_err(|e| failure("read", path, e))?);
            count += 1;
        }
        if count < SWEEP {
            batch.remove(&keys::void_key(queue, from));
            self.voids.pop_front();
        }
        self.db.apply_batch(batch).map_err(|e| failure("write", path, e))
    }

    fn insert(&mut self, queue: u64, runs: &[(u64, Run)], out: &mut Changes) {
        record::pack(runs, self.chunk_bytes, |builder| {
            self.put_record(queue, builder, out);
        });
    }

    fn put_record(&mut self, queue: u64, builder: RecordBuilder, out: &mut Changes) {
        let (sequences, head, bodies) = builder.finish();
        let first = sequences.first();
        let key = |chunk| keys::record_key(queue, first, chunk);
        let chunks = keys::put_chunks(&[&head, &bodies], self.chunk_bytes, key, |k, v| out.put(k, v));
        let entry = Entry { sequences, chunks, removed: Removed::default(), removals_stored: false };
        self.index.add(queue, entry);
    }

    /// Writes what has become of a record that messages were removed from.
    fn settle(&mut self, queue: u64, first: u64, out: &mut Changes) {
        match self.index.settle(queue, first) {
            Some(Fate::Gone(entry)) => delete_record(queue, &entry, out),
            Some(Fate::Partly(removals)) => {
                let key = keys::removals_key(queue, first);
                out.put(key, keys::seal(&key, removals));
            }
            None => {}
        }
    }

    /// Reads everything; moves what is damaged out of the way.
    fn load(&mut self, gauge: &Arc<Gauge>) -> Result<Recovered, StorageError> {
        let path = self.directory.path();
        let mut loader = Loader::new(gauge);
        for pair in self.db.iter() {
            let (key, value) = pair.map_err(|e| failure("read", path, e))?;
            loader.add(&key, &value);
        }
        let loaded = loader.finish();
        if !loaded.damaged.is_empty() {
            let mut out = Changes::default();
            for key in &loaded.damaged {
                if let Some(value) = self.db.get(key).map_err(|e| failure("read", path, e))? {
                    out.put(keys::quarantine_key(key), value.to_vec());
                }
                out.delete(key);
            }
            out.write(&self.db).map_err(|e| failure("write", path, e))?;
        }
        self.index = loaded.index;
        self.definitions = loaded.definitions;
        self.voids = loaded.voids.into_iter().map(|((queue, from), through)| (queue, from, through)).collect();
        Ok(loaded.recovered)
    }
}

fn delete_record(queue: u64, entry: &Entry, out: &mut Changes) {
    let first = entry.sequences.first();
    for chunk in 0..entry.chunks {
        out.delete(keys::record_key(queue, first, chunk));
    }
    if entry.removals_stored {
        out.delete(keys::removals_key(queue, first));
    }
}

/// The bare keys and values of a store that nobody has open: to look at damage, and for tests to make some.
pub struct RawStore {
    db: sled::Db,
    directory: Directory,
}

impl RawStore {
    /// Takes the directory; it must have been a store before.
    ///
    /// # Errors
    /// As [`open_sled`].
    pub fn open(dir: &Path) -> Result<RawStore, StorageError> {
        let (directory, _) = Directory::open(dir)?;
        let (db, _) = open_database(&directory, &SledOptions::default(), &mut Vec::new())?;
        Ok(RawStore { db, directory })
    }

    /// Every key and value, in order of the keys.
    pub fn entries(&self) -> impl Iterator<Item = Result<(Vec<u8>, Vec<u8>), StorageError>> {
        let pairs = self.db.iter();
        pairs.map(|pair| match pair {
            Ok((key, value)) => Ok((key.to_vec(), value.to_vec())),
            Err(e) => Err(failure("read", self.directory.path(), e)),
        })
    }

    /// Sets a value, or deletes it.
    ///
    /// # Errors
    /// What the disk says.
    pub fn set(&self, key: &[u8], value: Option<&[u8]>) -> Result<(), StorageError> {
        let mut changes = Changes::default();
        match value {
            Some(value) => changes.put(key, value.to_vec()),
            None => changes.delete(key),
        }
        changes.write(&self.db).map_err(|e| failure("write", self.directory.path(), e))
    }
}

fn config(path: &Path, options: &SledOptions) -> sled::Config {
    sled::Config::new()
        .path(path)
        .segment_size(options.segment_bytes)
        .cache_capacity(options.cache_bytes)
        .flush_every_ms(Some(500))
        .mode(sled::Mode::LowSpace)
}

/// Makes a database beside its place and moves it there when it is on the device, so that a database in its place is
/// always whole. One that is there already was finished before a crash: then there is nothing to make (false).
fn create(directory: &Directory, options: &SledOptions, notes: &mut Vec<Note>) -> Result<bool, StorageError> {
    let (database, unfinished) = (directory.database(), directory.unfinished_database());
    if database.exists() {
        notes.push(Note::CreationCompleted);
        return Ok(false);
    }
    if unfinished.exists() {
        notes.push(Note::CreationCompleted);
        fs::remove_dir_all(&unfinished).context("remove", &unfinished)?;
    }
    let db = open_patiently(&unfinished, options)?;
    let version = keys::seal(FORMAT_KEY, FORMAT_VERSION.to_be_bytes().to_vec());
    db.insert(FORMAT_KEY, version).and_then(|_| db.flush()).map_err(|e| failure("write", &unfinished, e))?;
    drop(db);
    for file in fs::read_dir(&unfinished).context("read", &unfinished)? {
        let file = file.context("read", &unfinished)?.path();
        File::open(&file).and_then(|f| f.sync_all()).context("sync", &file)?;
    }
    sync_directory(&unfinished)?;
    fs::rename(&unfinished, &database).context("rename", &unfinished)?;
    directory.sync()?;
    Ok(true)
}

fn open_database(
    directory: &Directory,
    options: &SledOptions,
    notes: &mut Vec<Note>,
) -> Result<(sled::Db, File), StorageError> {
    let path = directory.database();
    let name = path.join("db");
    if !name.exists() {
        return Err(StorageError::corrupt(directory.path(), "its database is missing"));
    }
    let db = loop {
        match (open_patiently(&path, options), newest_snapshot(&path)) {
            (Ok(db), _) => break db,
            (Err(StorageError::Corrupt { .. }), Some(snapshot)) => {
                let moved_to = directory.quarantine(&snapshot)?;
                notes.push(Note::SnapshotMovedAside { moved_to });
            }
            (Err(error), _) => return Err(error),
        }
    };
    check_version(&db, directory.path())?;
    let file = OpenOptions::new().read(true).write(true).open(&name).context("open", &name)?;
    // Opening may have written a new snapshot and removed the old one.
    sync_directory(&path)?;
    Ok((db, file))
}

/// sled's own lock may still be held by the threads of a database just dropped in this process.
fn open_patiently(path: &Path, options: &SledOptions) -> Result<sled::Db, StorageError> {
    let start = Instant::now();
    loop {
        // Caught here too, for without its snapshot it may well open.
        let opened = panic::catch_unwind(AssertUnwindSafe(|| config(path, options).open()));
        match opened {
            Ok(Ok(db)) => return Ok(db),
            Ok(Err(sled::Error::Io(e))) if is_lock(&e) && start.elapsed() < LOCK_PATIENCE => {
                thread::sleep(Duration::from_millis(5));
            }
            Ok(Err(e)) => return Err(failure("open", path, e)),
            Err(_) => return Err(StorageError::corrupt(path, "sled panicked when opening it")),
        }
    }
}

fn is_lock(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::Other && error.to_string().contains("could not acquire lock")
}

fn newest_snapshot(database: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(database).ok()?;
    let snapshots = entries.filter_map(|entry| Some(entry.ok()?.path()));
    snapshots.filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("snap."))).max()
}

/// The database says itself what is in it, for it may have been moved.
fn check_version(db: &sled::Db, path: &Path) -> Result<(), StorageError> {
    let value = db.get(FORMAT_KEY).map_err(|e| failure("read", path, e))?;
    let value = value.ok_or_else(|| StorageError::corrupt(path, "its database has no format version"))?;
    let version = keys::unseal(FORMAT_KEY, &value)
        .and_then(|v| v.try_into().ok())
        .map(u32::from_be_bytes)
        .ok_or_else(|| StorageError::corrupt(path, "its format version is damaged"))?;
    if version == FORMAT_VERSION {
        return Ok(());
    }
    Err(StorageError::UnknownFormat { path: path.to_owned(), found: format!("database version {version}").into() })
}

fn failure(action: &'static str, path: &Path, error: sled::Error) -> StorageError {
    match error {
        // Copies of the error that sled makes for other threads keep its kind, not its number.
        sled::Error::Io(e) => StorageError::io(action, path, e),
        other => StorageError::corrupt(path, other),
    }
}
