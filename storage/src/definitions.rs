//! Definitions, kept in sled 0.34; and what format 1 kept there beside them. The only file that names one of its types.
//!
//! What has to be known about it (measured; the issue numbers are upstream's):
//! * `flush` hands the log to the kernel but syncs neither the device's cache nor the file's metadata (1351, 1452), and
//!   its own flusher only logs a failing sync. So [`Definitions::sync`] syncs the file `db` on a handle of our own, to
//!   which the kernel reports every write error since it was opened.
//! * A page above a quarter of a segment becomes a file that is never synced and hardly ever removed. A page is a leaf
//!   of up to some 26 values, so segments are large and values are cut.
//! * A batch is atomic within one tree only: there is one tree.
//! * Without `flush_every_ms` the log is never cleaned.
//! * An unreadable snapshot of the index makes opening fail (1527), though the log alone suffices. One that was still
//!   being written when the machine went down is taken for a finished one, so it is removed first.
//! * Its file lock can outlive the database for a moment; ours decides who has the directory.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::ops::Bound;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::backend::{Bytes, Note, Quarantined};
use crate::directory::{Database, Directory, sync_directory};
use crate::error::{IoContext, StorageError};
use crate::keys::{self, FORMAT_KEY, FORMAT_VERSION, Joiner, Key};
use crate::load::{Found, Loader, Size};

/// Keys of format 1 deleted at once.
const SWEEP: usize = 1024;

/// Definitions written at once into a new database.
const FILL: usize = 512;

/// How long sled may keep its lock after it was dropped.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of a value: larger ones are cut. Some 26 of them have to fit in a quarter of a segment, the smaller ones too.
const CHUNK_BYTES: usize = 4 << 10;
/// Bytes of pages kept in memory.
const CACHE_BYTES: u64 = 8 << 20;

/// The open database.
pub(crate) struct Definitions {
    db: sled::Db,
    /// The file `db`, opened by ourselves: see the module.
    file: File,
    path: PathBuf,
    /// The format under which it was made.
    pub version: u32,
    sizes: HashMap<Bytes, Size>,
    /// Bytes of all keys and values.
    live: u64,
    /// Something was written since the last sync.
    dirty: bool,
}

/// What a database held.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// Ordered by key.
    pub definitions: Vec<(Bytes, Bytes)>,
    /// Keys whose values are damaged or senseless, and what they are.
    pub damaged: Vec<Vec<u8>>,
    pub quarantined: Vec<Quarantined>,
    /// It could not be read to its end.
    pub broken: bool,
}

impl Definitions {
    /// Opens the database. Nothing of it is read yet.
    pub fn open(directory: &Directory, notes: &mut Vec<Note>) -> Result<Definitions, StorageError> {
        let (db, file, version) = open_database(directory, notes)?;
        let path = directory.path().to_owned();
        Ok(Definitions { db, file, path, version, sizes: HashMap::new(), live: 0, dirty: false })
    }

    /// Reads everything. Messages of format 1 are handed to `found`, whose errors end it.
    pub fn load(&mut self, found: &mut Found<'_>) -> Result<Held, StorageError> {
        let mut loader = Loader::new(found);
        let mut pairs = self.db.iter();
        let broken = loop {
            // sled panics on some kinds of damage.
            match panic::catch_unwind(AssertUnwindSafe(|| pairs.next())) {
                Ok(None) => break false,
                Ok(Some(Ok((key, value)))) => loader.add(&key, &value)?,
                Ok(Some(Err(error))) => match failure("read", &self.path, error) {
                    damage if damage.is_damage() => break true,
                    error => return Err(error),
                },
                Err(_) => break true,
            }
        };
        let loaded = loader.finish()?;
        self.live = loaded.sizes.values().map(|size| u64::from(size.bytes)).sum();
        self.sizes = loaded.sizes;
        let (definitions, damaged, quarantined) = (loaded.definitions, loaded.damaged, loaded.quarantined);
        Ok(Held { definitions, damaged, quarantined, broken })
    }

    /// Moves entries out of the way.
    pub fn put_aside(&mut self, damaged: &[Vec<u8>]) -> Result<(), StorageError> {
        let mut out = Changes::default();
        for key in damaged {
            if let Some(value) = self.db.get(key).map_err(|e| failure("read", &self.path, e))? {
                out.put(keys::quarantine_key(key), value.to_vec());
            }
            out.delete(key);
        }
        if out.0.is_empty() { Ok(()) } else { self.write(out) }
    }

    /// Definitions behind that of the key `after`, in sled's order, of about so many bytes; none at the end.
    pub fn portion(&self, after: Option<&[u8]>, bytes: usize) -> Result<Vec<(Bytes, Bytes)>, StorageError> {
        let from = after.map(|key| keys::definition_key(key, u32::MAX));
        let from = from.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let (mut out, mut taken) = (Vec::new(), 0);
        let mut open: Option<(Bytes, Joiner)> = None;
        for pair in self.db.range::<&[u8], _>((from, Bound::Unbounded)) {
            let (at, value) = pair.map_err(|e| failure("read", &self.path, e))?;
            let Key::Definition { key, chunk } = keys::parse_key(&at) else {
                if at[..] == *FORMAT_KEY { continue } else { break }
            };
            if open.as_ref().is_none_or(|(open, _)| **open != *key) {
                self.join(open.take(), &mut out)?;
                if taken >= bytes {
                    return Ok(out);
                }
            }
            taken += value.len();
            open.get_or_insert_with(|| (key.into(), Joiner::default())).1.add(&at, chunk, &value);
        }
        self.join(open, &mut out)?;
        Ok(out)
    }

    fn join(&self, open: Option<(Bytes, Joiner)>, out: &mut Vec<(Bytes, Bytes)>) -> Result<(), StorageError> {
        if let Some((key, joiner)) = open {
            let damaged = || StorageError::corrupt(&self.path, "a definition does not read as it was written");
            let (value, _) = joiner.finish().ok_or_else(damaged)?;
            out.push((key, value.into()));
        }
        Ok(())
    }

    /// The data directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.sizes.len() as u64
    }

    /// Bytes of their keys and values.
    pub fn live_bytes(&self) -> u64 {
        self.live
    }

    /// Hands the definitions that are put to the kernel, or those that are deleted.
    pub fn commit(&mut self, definitions: &[(Bytes, Option<Bytes>)], put: bool) -> Result<(), StorageError> {
        let mut out = Changes::default();
        for (key, value) in definitions.iter().filter(|(_, value)| value.is_some() == put) {
            self.define(key, value.as_deref(), &mut out);
        }
        if out.0.is_empty() { Ok(()) } else { self.write(out) }
    }

    fn define(&mut self, key: &[u8], value: Option<&[u8]>, out: &mut Changes) {
        let before = self.sizes.remove(key).unwrap_or_default();
        let mut now = Size::default();
        if let Some(value) = value {
            let chunk_key = |chunk| keys::definition_key(key, chunk);
            now.chunks = keys::put_chunks(&[value], CHUNK_BYTES, chunk_key, |k, v| out.put(k, v));
            now.bytes = (key.len() + value.len()) as u32;
        }
        for chunk in now.chunks..before.chunks {
            out.delete(keys::definition_key(key, chunk));
        }
        self.live = self.live + u64::from(now.bytes) - u64::from(before.bytes);
        if now.chunks > 0 {
            self.sizes.insert(key.into(), now);
        }
    }

    fn write(&mut self, changes: Changes) -> Result<(), StorageError> {
        self.dirty = true;
        changes.write(&self.db).map_err(|e| failure("write", &self.path, e))
    }

    /// Makes everything written durable.
    pub fn sync(&mut self) -> Result<(), StorageError> {
        if self.dirty {
            self.file.sync_data().context("sync", &self.path)?;
            self.dirty = false;
        }
        Ok(())
    }

    /// Closes the database; everything in it is durable then.
    pub fn close(self) -> Result<(), StorageError> {
        let Definitions { db, file, path, .. } = self;
        db.flush().map_err(|e| failure("write", &path, e))?;
        drop(db);
        file.sync_all().context("sync", &path)
    }

    /// Deletes messages of format 1, which the log has by now. Interrupted, it is done again at the next opening.
    pub fn forget_messages(&mut self) -> Result<(), StorageError> {
        loop {
            let keys = self.db.range(keys::messages()).keys().take(SWEEP);
            let mut out = Changes::default();
            for key in keys {
                out.delete(key.map_err(|e| failure("read", &self.path, e))?);
            }
            if out.0.is_empty() {
                break;
            }
            self.write(out)?;
        }
        if self.version != FORMAT_VERSION {
            let mut out = Changes::default();
            out.put(FORMAT_KEY, keys::seal(FORMAT_KEY, FORMAT_VERSION.to_be_bytes().to_vec()));
            self.write(out)?;
            self.version = FORMAT_VERSION;
        }
        Ok(())
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

/// The bare keys and values of a store that nobody has open: to look at damage, and for tests to make some.
pub struct RawStore {
    db: sled::Db,
    directory: Directory,
}

impl RawStore {
    /// Takes the directory; it must have been a store before.
    ///
    /// # Errors
    /// As [`open_disk`](crate::open_disk).
    pub fn open(dir: &Path) -> Result<RawStore, StorageError> {
        let (directory, _) = Directory::open(dir)?;
        let (db, ..) = open_database(&directory, &mut Vec::new())?;
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

fn config(database: &Database) -> sled::Config {
    sled::Config::new()
        .path(&database.path)
        .segment_size(database.segment_bytes)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(Some(500))
        .mode(sled::Mode::LowSpace)
}

/// Makes a database of these definitions, which is on the device then but for its own name.
pub(crate) fn fill(database: &Database, definitions: &[(Bytes, Bytes)]) -> Result<(), StorageError> {
    let path = &database.path;
    let db = open_patiently(database)?;
    let version = keys::seal(FORMAT_KEY, FORMAT_VERSION.to_be_bytes().to_vec());
    db.insert(FORMAT_KEY, version).map_err(|e| failure("write", path, e))?;
    for portion in definitions.chunks(FILL) {
        let mut out = Changes::default();
        for (key, value) in portion {
            keys::put_chunks(&[value], CHUNK_BYTES, |chunk| keys::definition_key(key, chunk), |k, v| out.put(k, v));
        }
        out.write(&db).map_err(|e| failure("write", path, e))?;
    }
    db.flush().map_err(|e| failure("write", path, e))?;
    drop(db);
    for file in fs::read_dir(path).context("read", path)? {
        let file = file.context("read", path)?.path();
        File::open(&file).and_then(|f| f.sync_all()).context("sync", &file)?;
    }
    sync_directory(path)
}

fn open_database(directory: &Directory, notes: &mut Vec<Note>) -> Result<(sled::Db, File, u32), StorageError> {
    let database = directory.database();
    let path = &database.path;
    let name = path.join("db");
    if !name.exists() {
        return Err(StorageError::corrupt(directory.path(), "its database is missing"));
    }
    database.remove_unfinished_snapshots()?;
    let file = OpenOptions::new().read(true).write(true).open(&name).context("open", &name)?;
    // A kill leaves what was written in the kernel's hands. From here on it counts as safe, and sled will sync a snapshot
    // that says where it lies.
    file.sync_data().context("sync", &name)?;
    let db = loop {
        match (open_patiently(&database), database.newest_snapshot()) {
            (Ok(db), _) => break db,
            (Err(error), Some(snapshot)) if error.is_damage() => {
                let moved_to = directory.quarantine(&snapshot)?;
                notes.push(Note::SnapshotMovedAside { moved_to });
            }
            (Err(error), _) => return Err(error),
        }
    };
    let version = check_version(&db, directory.path())?;
    // Opening may have written a new snapshot and removed the old one.
    sync_directory(path)?;
    Ok((db, file, version))
}

/// sled's own lock may still be held by the threads of a database just dropped in this process.
fn open_patiently(database: &Database) -> Result<sled::Db, StorageError> {
    let (start, path) = (Instant::now(), &database.path);
    loop {
        // Caught here too, for without its snapshot it may well open.
        let opened = panic::catch_unwind(AssertUnwindSafe(|| config(database).open()));
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

/// The database says itself what is in it, for it may have been moved.
fn check_version(db: &sled::Db, path: &Path) -> Result<u32, StorageError> {
    let value = db.get(FORMAT_KEY).map_err(|e| failure("read", path, e))?;
    let value = value.ok_or_else(|| StorageError::corrupt(path, "its database has no format version"))?;
    let version = keys::unseal(FORMAT_KEY, &value)
        .and_then(|v| v.try_into().ok())
        .map(u32::from_be_bytes)
        .ok_or_else(|| StorageError::corrupt(path, "its format version is damaged"))?;
    // Definitions lie as they did in format 1.
    if version == 1 || version == FORMAT_VERSION {
        return Ok(version);
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
