//! How far each queue has been delivered: one slot of 16 bytes per queue in the file `delivered`.
//!
//! A delivery must leave a trace that survives SIGKILL, or a restart would hand the message out again without the
//! redelivered flag. One `pwrite` of 16 bytes per turn of a queue is the cheapest such trace: it needs no sync, for
//! the page cache outlives the process. Power cuts are dealt with when the store is opened (see `directory`).

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::FallocateFlags;

use crate::error::{IoContext, StorageError};

/// Bytes of a slot: queue id and sequence number, both big-endian. All zero: free.
const SLOT: usize = 16;
/// Bytes for which space is taken at once: a block of common file systems.
const BLOCK: u64 = 4096;

/// The delivered marks of all queues. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Marks(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// `None`: nothing is kept on disk.
    file: Option<MarkFile>,
    table: Mutex<Table>,
}

#[derive(Debug)]
struct MarkFile {
    file: File,
    path: PathBuf,
}

#[derive(Debug, Default)]
struct Table {
    queues: HashMap<u64, Arc<Slot>>,
    /// Slots given free, to be used again; otherwise the file grows by one.
    free: Vec<u64>,
    slots: u64,
}

#[derive(Debug)]
struct Slot {
    queue: u64,
    index: u64,
    /// What the slot on disk says. Read without the lock, written with it.
    through: AtomicU64,
    /// False once the queue was dropped: the place may belong to another queue by now. Held while writing.
    alive: Mutex<bool>,
}

/// The mark of one queue.
#[derive(Clone, Debug)]
pub struct Mark {
    slot: Arc<Slot>,
    marks: Marks,
}

impl Mark {
    /// Remembers that messages up to and including `sequence` may have been delivered. On return that survives
    /// SIGKILL, not necessarily a power cut. It only ever rises; a lower number, and any number after the queue was
    /// dropped, changes nothing and costs nothing.
    pub fn delivered_through(&self, sequence: u64) -> Result<(), StorageError> {
        if sequence <= self.slot.through.load(Ordering::Acquire) {
            return Ok(());
        }
        let alive = lock(&self.slot.alive);
        if !*alive || sequence <= self.slot.through.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.marks.write(self.slot.index, self.slot.queue, sequence)?;
        self.slot.through.store(sequence, Ordering::Release);
        Ok(())
    }

    /// The highest sequence number remembered; 0: nothing was delivered.
    pub fn through(&self) -> u64 {
        self.slot.through.load(Ordering::Acquire)
    }
}

impl Marks {
    /// Marks without a file.
    pub fn in_memory() -> Marks {
        Marks(Arc::new(Shared { file: None, table: Mutex::default() }))
    }

    /// Whether there is such a file, of whole slots. A slot is written at once and within a page: a kill cuts none in two.
    pub(crate) fn is_whole(path: &Path) -> bool {
        std::fs::metadata(path).is_ok_and(|found| found.len() % SLOT as u64 == 0)
    }

    /// Opens or creates the file at `path` and reads every slot.
    pub(crate) fn open(path: &Path) -> Result<Marks, StorageError> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).context("open", path)?;
        let content = std::fs::read(path).context("read", path)?;
        if content.len() % SLOT > 0 {
            file.set_len((content.len() - content.len() % SLOT) as u64).context("cut", path)?;
        }
        let marks =
            Marks(Arc::new(Shared { file: Some(MarkFile { file, path: path.to_owned() }), table: Mutex::default() }));
        marks.load(&content)?;
        Ok(marks)
    }

    /// A slot cut off by the end of the file was never written whole, so it counts as free.
    fn load(&self, content: &[u8]) -> Result<(), StorageError> {
        let mut table = lock(&self.0.table);
        let mut lower = Vec::new();
        for (index, slot) in content.chunks_exact(SLOT).enumerate() {
            let (queue, sequence) = slot.split_at(SLOT / 2);
            let (queue, through) = (be64(queue), be64(sequence));
            table.slots += 1;
            let index = index as u64;
            if through == 0 {
                table.free.push(index);
                continue;
            }
            let slot = Arc::new(Slot::new(queue, index, through));
            if let Some(other) = table.queues.remove(&queue) {
                // Two slots of one queue: only a bug or a damaged file makes them. The higher one is the safe one.
                let (keep, free) = if other.through() < through { (slot, other) } else { (other, slot) };
                lower.push(free.index);
                table.queues.insert(queue, keep);
            } else {
                table.queues.insert(queue, slot);
            }
        }
        for index in lower {
            self.write(index, 0, 0)?;
            table.free.push(index);
        }
        Ok(())
    }

    /// The mark of `queue`, made if there is none. Nothing is written before something is delivered.
    pub fn mark(&self, queue: u64) -> Mark {
        let mut table = lock(&self.0.table);
        let slot = match table.queues.get(&queue) {
            Some(slot) => slot.clone(),
            None => {
                let index = table.free.pop().unwrap_or_else(|| {
                    table.slots += 1;
                    self.take_space(table.slots - 1);
                    table.slots - 1
                });
                let slot = Arc::new(Slot::new(queue, index, 0));
                table.queues.insert(queue, slot.clone());
                slot
            }
        };
        Mark { slot, marks: self.clone() }
    }

    /// Forgets `queue` and gives its slot free. Its drop must have reached the kernel before: a queue that comes
    /// back after a crash must find its mark.
    pub fn forget(&self, queue: u64) -> Result<(), StorageError> {
        let mut table = lock(&self.0.table);
        let Some(slot) = table.queues.remove(&queue) else {
            return Ok(());
        };
        let mut alive = lock(&slot.alive);
        *alive = false;
        if slot.through() > 0 {
            self.write(slot.index, 0, 0)?;
        }
        table.free.push(slot.index);
        Ok(())
    }

    /// (queue, delivered through) of every queue something was delivered from.
    pub fn all(&self) -> Vec<(u64, u64)> {
        let table = lock(&self.0.table);
        let marks = table.queues.values().map(|s| (s.queue, s.through()));
        marks.filter(|&(_, through)| through > 0).collect()
    }

    /// Makes every mark survive a power cut.
    pub fn sync(&self) -> Result<(), StorageError> {
        match &self.0.file {
            Some(f) => f.file.sync_all().context("sync", &f.path),
            None => Ok(()),
        }
    }

    /// Takes space for a slot that begins a block, and those behind it. Its first mark may come when the disk is full, which is
    /// no reason not to deliver what is there.
    fn take_space(&self, index: u64) {
        let at = index * SLOT as u64;
        if let Some(f) = &self.0.file
            && at.is_multiple_of(BLOCK)
            && let Err(error) = rustix::fs::fallocate(&f.file, FallocateFlags::KEEP_SIZE, at, BLOCK)
        {
            // Not every file system can; and where there is none now, there may be when it is needed.
            tracing::debug!(%error, path = %f.path.display(), "no space could be taken for delivered marks");
        }
    }

    fn write(&self, index: u64, queue: u64, through: u64) -> Result<(), StorageError> {
        let Some(f) = &self.0.file else {
            return Ok(());
        };
        let mut slot = [0; SLOT];
        slot[..8].copy_from_slice(&queue.to_be_bytes());
        slot[8..].copy_from_slice(&through.to_be_bytes());
        f.file.write_all_at(&slot, index * SLOT as u64).context("write", &f.path)
    }
}

impl Slot {
    fn new(queue: u64, index: u64, through: u64) -> Slot {
        Slot { queue, index, through: AtomicU64::new(through), alive: Mutex::new(true) }
    }

    fn through(&self) -> u64 {
        self.through.load(Ordering::Acquire)
    }
}

fn be64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |n, &b| n << 8 | u64::from(b))
}

/// No panic can happen while one of these locks is held half-way, so a poisoned one is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn file() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("delivered");
        (dir, path)
    }

    fn sorted(marks: &Marks) -> Vec<(u64, u64)> {
        let mut all = marks.all();
        all.sort_unstable();
        all
    }

    #[test]
    fn a_mark_is_found_again_without_any_sync() {
        let (_dir, path) = file();
        let marks = Marks::open(&path).unwrap();
        marks.mark(7).delivered_through(40).unwrap();
        marks.mark(9).delivered_through(2).unwrap();
        marks.mark(11);
        assert_eq!(sorted(&Marks::open(&path).unwrap()), [(7, 40), (9, 2)]);
    }

    #[test]
    fn space_for_a_mark_is_taken_before_anything_is_delivered() {
        let (_dir, path) = file();
        let marks = Marks::open(&path).unwrap();
        let blocks = || std::fs::metadata(&path).unwrap().blocks();
        assert_eq!(blocks(), 0);
        (0..=BLOCK / SLOT as u64).for_each(|queue| drop(marks.mark(queue)));
        let taken = blocks();
        assert!(taken * 512 >= 2 * BLOCK, "{taken} blocks of 512 bytes");
        (0..=BLOCK / SLOT as u64).for_each(|queue| marks.mark(queue).delivered_through(1).unwrap());
        assert_eq!(blocks(), taken);
    }

    #[test]
    fn a_mark_only_rises() {
        let (_dir, path) = file();
        let mark = Marks::open(&path).unwrap().mark(7);
        mark.delivered_through(40).unwrap();
        mark.delivered_through(39).unwrap();
        assert_eq!(mark.through(), 40);
        assert_eq!(sorted(&Marks::open(&path).unwrap()), [(7, 40)]);
    }

    #[test]
    fn the_slot_of_a_dropped_queue_is_used_again_and_its_old_mark_is_dead() {
        let (_dir, path) = file();
        let marks = Marks::open(&path).unwrap();
        let old = marks.mark(7);
        old.delivered_through(40).unwrap();
        marks.forget(7).unwrap();
        let new = marks.mark(8);
        new.delivered_through(3).unwrap();
        old.delivered_through(50).unwrap();
        assert_eq!(sorted(&Marks::open(&path).unwrap()), [(8, 3)]);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), SLOT as u64);
    }

    #[test]
    fn free_slots_are_found_when_the_file_is_opened() {
        let (_dir, path) = file();
        let marks = Marks::open(&path).unwrap();
        marks.mark(1).delivered_through(1).unwrap();
        marks.mark(2).delivered_through(1).unwrap();
        marks.forget(1).unwrap();
        let marks = Marks::open(&path).unwrap();
        marks.mark(3).delivered_through(5).unwrap();
        assert_eq!(sorted(&Marks::open(&path).unwrap()), [(2, 1), (3, 5)]);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 2 * SLOT as u64);
    }

    #[test]
    fn a_torn_last_slot_counts_as_free() {
        let (_dir, path) = file();
        let marks = Marks::open(&path).unwrap();
        marks.mark(1).delivered_through(1).unwrap();
        marks.mark(2).delivered_through(1).unwrap();
        OpenOptions::new().write(true).open(&path).unwrap().set_len(20).unwrap();
        assert_eq!(sorted(&Marks::open(&path).unwrap()), [(1, 1)]);
    }

    #[test]
    fn of_two_slots_of_one_queue_the_higher_counts() {
        let (_dir, path) = file();
        let slot = |queue: u64, through: u64| [queue.to_be_bytes(), through.to_be_bytes()].concat();
        std::fs::write(&path, [slot(5, 9), slot(5, 12), slot(5, 3)].concat()).unwrap();
        assert_eq!(sorted(&Marks::open(&path).unwrap()), [(5, 12)]);
        let again = std::fs::read(&path).unwrap();
        assert_eq!(again, [slot(0, 0), slot(5, 12), slot(0, 0)].concat());
    }
}
