//! The data directory: who has it, what format it is in, whether it was closed cleanly.
//!
//! ```text
//! FORMAT      the format's version; written last when a store is created
//! lock        held by the broker that has the directory (an operating-system lock: it dies with the process)
//! clean       there only between a clean stop and the next start; says how much there was
//! boot        the kernel's boot id under which the store was last opened
//! delivered   how far each queue has been delivered (see `marks`)
//! definitions/ the database; one made by an earlier leveret is in db/
//! definitions.log what is in it a second time (see `copy`)
//! messages/   the log: messages that are kept
//! spill/      the log: messages on disk for want of memory; emptied when the store is opened
//! reserve     bytes kept aside, given up when the disk is full so that removals can be written
//! quarantine/ what was moved aside because it could not be read
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::error::{IoContext, StorageError};
use crate::keys::FORMAT_VERSION;

const FORMAT: &str = "FORMAT";
const LOCK: &str = "lock";
const CLEAN: &str = "clean";
const BOOT: &str = "boot";
const DELIVERED: &str = "delivered";
const DATABASE: &str = "definitions";
const DATABASE_UNFINISHED: &str = "definitions.new";
const DATABASE_MADE: &str = "definitions.made";
const COPY: &str = "definitions.log";
const EARLIER_DATABASE: &str = "db";
const EARLIER_DATABASE_UNFINISHED: &str = "db.new";
const MESSAGES: &str = "messages";
const SPILL: &str = "spill";
const QUARANTINE: &str = "quarantine";
const RESERVE: &str = "reserve";

/// Second line of `boot`: an earlier leveret, which knows no copy and leaves one to grow stale, does not write it.
const COPIED: &str = "copied";

/// Bytes kept aside, so that what makes room can be written on a full disk.
pub(crate) const RESERVE_BYTES: u64 = 4 << 20;

/// Small, since the database keeps several buffers of this size.
const SEGMENT_BYTES: usize = 512 << 10;
const EARLIER_SEGMENT_BYTES: usize = 2 << 20;

/// What may lie in a directory that has no `FORMAT` yet: our own beginnings, and what a fresh file system has.
const BEGINNINGS: [&str; 19] = [
    LOCK,
    CLEAN,
    BOOT,
    DELIVERED,
    DATABASE,
    DATABASE_UNFINISHED,
    DATABASE_MADE,
    COPY,
    "definitions.log.new",
    EARLIER_DATABASE,
    EARLIER_DATABASE_UNFINISHED,
    MESSAGES,
    SPILL,
    QUARANTINE,
    RESERVE,
    "FORMAT.new",
    "boot.new",
    "clean.new",
    "lost+found",
];

/// A data directory that is ours until this is dropped.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    lock: File,
}

impl Drop for Directory {
    /// Closing the file would do, were it not for a child process being started just now: until it has executed its
    /// program it holds a copy, and the lock with it.
    fn drop(&mut self) {
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(%error, path = %self.path.display(), "cannot unlock the data directory");
        }
    }
}

/// The database's directory, and the size of its segments, which is fixed when it is made.
#[derive(Debug)]
pub(crate) struct Database {
    pub path: PathBuf,
    pub segment_bytes: usize,
}

impl Database {
    /// One that we make.
    pub fn new(path: PathBuf) -> Database {
        Database { path, segment_bytes: SEGMENT_BYTES }
    }

    /// A snapshot of the index that was still being written would be taken for a finished one.
    pub fn remove_unfinished_snapshots(&self) -> Result<(), StorageError> {
        for entry in fs::read_dir(&self.path).context("read", &self.path)? {
            let path = entry.context("read", &self.path)?.path();
            if path.extension().is_some_and(|extension| extension == "generating") {
                fs::remove_file(&path).context("remove", &path)?;
            }
        }
        Ok(())
    }

    pub fn newest_snapshot(&self) -> Option<PathBuf> {
        let entries = fs::read_dir(&self.path).ok()?;
        let snapshots = entries.filter_map(|entry| Some(entry.ok()?.path()));
        snapshots.filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("snap."))).max()
    }
}

/// How much a store held when it was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub messages: u64,
    pub definitions: u64,
}

/// What was found in it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// What its `FORMAT` says; without one, its creation has to be begun or completed.
    pub format: Option<u32>,
    /// Left by a clean stop.
    pub clean: bool,
    /// What it held then.
    pub held: Option<Held>,
    /// The kernel has not been restarted since the store was last opened, so no page cache was lost.
    pub same_boot: bool,
    /// Whoever opened it last kept the copy of the definitions up.
    pub copied: bool,
}

impl Directory {
    /// Takes the directory, making it if need be. Nothing in it has changed yet, but for the file `lock`.
    ///
    /// # Errors
    /// `UnknownFormat` (nothing was touched), `Locked`, `Io`.
    pub fn open(path: &Path) -> Result<(Directory, Found), StorageError> {
        create_directory(path)?;
        // Looked at before locking, so that a foreign directory is not even given a lock file, and again after.
        check_format(path)?;
        let lock = lock(path)?;
        let format = check_format(path)?;
        let directory = Directory { path: path.to_owned(), lock };
        let (same_boot, copied) = directory.last_opened();
        let (clean, held) = (directory.file(CLEAN).exists(), directory.held());
        let found = Found { format, clean, held, same_boot, copied };
        Ok((directory, found))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps some space aside, if there is enough; without it a full disk is only harder to get out of.
    pub fn keep_reserve(&self) -> Result<(), StorageError> {
        let path = self.file(RESERVE);
        if fs::metadata(&path).is_ok_and(|found| found.len() == RESERVE_BYTES) {
            return Ok(());
        }
        let kept = File::create(&path).and_then(|file| {
            let whole = rustix::fs::FallocateFlags::empty();
            Ok(rustix::fs::fallocate(&file, whole, 0, RESERVE_BYTES)?)
        });
        if let Err(error) = kept {
            tracing::warn!(%error, path = %path.display(), "no space can be kept aside for a full disk");
            self.give_up_reserve()?;
        }
        Ok(())
    }

    pub fn give_up_reserve(&self) -> Result<(), StorageError> {
        remove_if_there(&self.file(RESERVE)).map(|_| ())
    }

    pub fn delivered(&self) -> PathBuf {
        self.file(DELIVERED)
    }

    /// Where the database is, or will be. The name says how large its segments are.
    pub fn database(&self) -> Database {
        match self.file(EARLIER_DATABASE) {
            earlier if earlier.exists() => Database { path: earlier, segment_bytes: EARLIER_SEGMENT_BYTES },
            _ => Database::new(self.file(DATABASE)),
        }
    }

    /// Where the log's segments are.
    pub fn messages(&self) -> PathBuf {
        self.file(MESSAGES)
    }

    /// Where the segments of spilled messages are.
    pub fn spill(&self) -> PathBuf {
        self.file(SPILL)
    }

    /// Where damaged files and parts of files go.
    pub fn quarantine_place(&self) -> PathBuf {
        self.file(QUARANTINE)
    }

    /// Where a database is made before it is renamed to [`database`](Self::database); the second is where it was.
    pub fn unfinished_databases(&self) -> [PathBuf; 2] {
        [DATABASE_UNFINISHED, EARLIER_DATABASE_UNFINISHED].map(|name| self.file(name))
    }

    /// Where a database lies that is whole, and is about to take the place of a damaged one.
    pub fn made_database(&self) -> PathBuf {
        self.file(DATABASE_MADE)
    }

    /// The definitions a second time.
    pub fn copy(&self) -> PathBuf {
        self.file(COPY)
    }

    /// Moves `file` out of the way, and says where to.
    pub fn quarantine(&self, file: &Path) -> Result<PathBuf, StorageError> {
        let target = free_name(&self.file(QUARANTINE), &file.file_name().unwrap_or_default().to_string_lossy())?;
        fs::rename(file, &target).context("move aside", file)?;
        sync_directory(&self.file(QUARANTINE))?;
        self.sync()?;
        Ok(target)
    }

    /// Keeps the messages as they are now, at no cost but the last segment's copy and the space of what is removed later;
    /// says where.
    pub fn keep_messages(&self) -> Result<PathBuf, StorageError> {
        let to = free_name(&self.file(QUARANTINE), MESSAGES)?;
        fs::create_dir(&to).context("create", &to)?;
        if let Err(error) = keep_files(&self.messages(), &to) {
            // It is tried again with the next start, and half a copy is of no use but takes space.
            let _ = fs::remove_dir_all(&to);
            return Err(error);
        }
        sync_directory(&self.file(QUARANTINE))?;
        Ok(to)
    }

    /// Declares the store complete: what it consists of is on the device.
    pub fn complete(&self) -> Result<(), StorageError> {
        self.put(FORMAT, &format_line(FORMAT_VERSION))
    }

    /// From here on a crash is a crash. What the marks say must be right for this boot and durable.
    pub fn begin_use(&self) -> Result<(), StorageError> {
        // In this order: between the two, the store still counts as cleanly closed, which it is.
        self.put(BOOT, &format!("{}\n{COPIED}\n", boot_id().unwrap_or_default()))?;
        if remove_if_there(&self.file(CLEAN))? { self.sync() } else { Ok(()) }
    }

    /// Everything is on the device, and this is how much.
    pub fn end_use(&self, held: Held) -> Result<(), StorageError> {
        self.put(CLEAN, &format!("{} {}\n", held.messages, held.definitions))
    }

    fn held(&self) -> Option<Held> {
        let content = fs::read_to_string(self.file(CLEAN)).ok()?;
        let (messages, definitions) = content.trim_end().split_once(' ')?;
        Some(Held { messages: messages.parse().ok()?, definitions: definitions.parse().ok()? })
    }

    /// Makes names in the directory durable.
    pub fn sync(&self) -> Result<(), StorageError> {
        sync_directory(&self.path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Whether that was since the kernel started, and whether the copy was kept up.
    fn last_opened(&self) -> (bool, bool) {
        let then = fs::read_to_string(self.file(BOOT)).unwrap_or_default();
        let mut lines = then.lines();
        let boot = lines.next().filter(|boot| !boot.is_empty());
        (boot.is_some() && boot == boot_id().as_deref(), lines.next() == Some(COPIED))
    }

    /// Writes a whole file so that after a crash either the old or the new one is there.
    fn put(&self, name: &str, content: &str) -> Result<(), StorageError> {
        let (path, new) = (self.file(name), self.file(&format!("{name}.new")));
        let mut file = File::create(&new).context("create", &new)?;
        file.write_all(content.as_bytes()).context("write", &new)?;
        file.sync_all().context("sync", &new)?;
        fs::rename(&new, &path).context("rename", &new)?;
        self.sync()
    }
}

/// The id the kernel gave itself when it started. Where there is none, every crash counts as one of the machine.
fn boot_id() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim_end().to_owned()).filter(|id| !id.is_empty())
}

/// The version that `FORMAT` says, if we know it; none is fine where nothing foreign lies.
fn check_format(path: &Path) -> Result<Option<u32>, StorageError> {
    let format = path.join(FORMAT);
    match fs::read(&format) {
        // Emptied by damage: what lies beside it says whose it is.
        Ok(content) if content.is_empty() => only_ours(path).map(|()| None),
        Ok(content) => {
            let known = (1..=FORMAT_VERSION).find(|version| content == format_line(*version).as_bytes());
            known.map(Some).ok_or_else(|| unknown(path, &content))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => only_ours(path).map(|()| None),
        Err(e) => Err(StorageError::io("read", &format, e)),
    }
}

/// Refuses a directory that holds anything of somebody else's.
fn only_ours(path: &Path) -> Result<(), StorageError> {
    for entry in fs::read_dir(path).context("read", path)? {
        let name = entry.context("read", path)?.file_name();
        if name != FORMAT && !BEGINNINGS.iter().any(|known| name == *known) {
            return Err(unknown(path, b"no FORMAT file, but others"));
        }
    }
    Ok(())
}

fn format_line(version: u32) -> String {
    format!("leveret store {version}\n")
}

fn unknown(path: &Path, content: &[u8]) -> StorageError {
    let line = content.split(|&b| b == b'\n').next().unwrap_or_default();
    StorageError::UnknownFormat {
        path: path.to_owned(),
        found: String::from_utf8_lossy(line).chars().take(60).flat_map(char::escape_default).collect(),
    }
}

fn lock(path: &Path) -> Result<File, StorageError> {
    let name = path.join(LOCK);
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(&name).context("open", &name)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StorageError::Locked { path: path.to_owned() }),
        Err(TryLockError::Error(e)) => Err(StorageError::io("lock", &name, e)),
    }
}

/// Links the log's files in `from` to the same names in `to`. The last segment is copied, and its sidecar: both are
/// written to when the store is used again, which a link would show.
fn keep_files(from: &Path, to: &Path) -> Result<(), StorageError> {
    let entries = fs::read_dir(from).context("read", from)?;
    let files = entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>();
    let files = files.context("read", from)?;
    // Their numbers have the same number of digits.
    let segments = files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "log"));
    let last = segments.filter_map(|file| file.file_stem()).max();
    for file in &files {
        let name = to.join(file.file_name().unwrap_or_default());
        if file.file_stem() == last || fs::hard_link(file, &name).is_err() {
            fs::copy(file, &name).context("copy", file)?;
            File::open(&name).and_then(|copy| copy.sync_all()).context("sync", &name)?;
        }
    }
    sync_directory(to)
}

/// A name in `place`, which is made if need be, that nothing has: `name` and a number.
pub(crate) fn free_name(place: &Path, name: &str) -> Result<PathBuf, StorageError> {
    create_directory(place)?;
    let free = (0u32..).map(|n| place.join(format!("{name}.{n}"))).find(|path| !path.exists());
    Ok(free.unwrap_or_else(|| place.join(name)))
}

/// Makes `path`, and those above it, with durable names.
pub(crate) fn create_directory(path: &Path) -> Result<(), StorageError> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path).context("create", path)?;
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => sync_directory(Path::new(".")),
        Some(parent) => sync_directory(parent),
        None => Ok(()),
    }
}

/// Removes a file; whether there was one.
pub(crate) fn remove_if_there(file: &Path) -> Result<bool, StorageError> {
    match fs::remove_file(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        removed => removed.map(|()| true).context("remove", file),
    }
}

pub(crate) fn sync_directory(path: &Path) -> Result<(), StorageError> {
    File::open(path).and_then(|dir| dir.sync_all()).context("sync", path)
}
