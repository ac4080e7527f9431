//! The seam between the writer thread and what keeps the data: one blocking call per batch, none per message.
//!
//! Guarantees a backend gives:
//! * A [`Batch`] is atomic in what it says of messages: after a crash all of it is there or nothing is, and no later
//!   batch without it. A definition it puts is there if the messages are, and one it deletes is still there if they
//!   are not.
//! * When [`commit`](Backend::commit) returns, the batch survives the death of the process.
//! * When [`sync`](Backend::sync) returns, everything committed before survives the loss of power.
//! * After any error the writer calls neither again: a second sync of the same data can report success for data
//!   that the kernel has already dropped.
//!
//! Calls come from one thread, one at a time; only a [`Reader`] is for everybody. So an append-only log fits behind this
//! trait (a batch is one frame of the log), and a replicated one too (`sync` waits for the followers).

use std::mem;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::block::Run;
use crate::error::StorageError;
use crate::fold::Fold;
use crate::gauge::Gauge;
use crate::marks::Marks;

/// A key or a value of a definition, opaque to storage.
pub type Bytes = Box<[u8]>;

/// What the broker asks to have remembered.
#[derive(Debug)]
pub enum Op {
    /// Stores a definition (exchange, queue, binding, …), in place of an older one with the same key.
    PutDefinition { key: Bytes, value: Bytes },
    /// Forgets a definition; nothing happens if there is none.
    DeleteDefinition { key: Bytes },
    /// Messages `first`, `first + 1`, … of a durable queue. Sequence numbers rise within a queue, with gaps;
    /// they start at 1.
    Insert { queue: u64, first: u64, run: Run },
    /// Messages `first`, `first + 1`, … that need not outlive the process and are put on disk for want of memory:
    /// transient ones, or those of transient queues. They may come in any order, and gaps be filled later; a sequence
    /// number stored before is replaced. They are read back as inserted ones are, and gone when the store is opened.
    /// A sync does not concern them.
    Spill { queue: u64, first: u64, run: Run },
    /// Forgets messages `first .. first + count`, spilled ones too; sequence numbers that are not stored are skipped.
    Remove { queue: u64, first: u64, count: u64 },
    /// Forgets all messages and the delivered mark of a queue. A dropped queue's id is not given to another.
    DropQueue { queue: u64 },
}

/// What one commit writes: the net effect of the operations it was folded from.
#[derive(Debug, Default)]
pub struct Batch {
    /// Definitions by key; `None` deletes.
    pub definitions: Vec<(Bytes, Option<Bytes>)>,
    /// At most one entry per queue.
    pub queues: Vec<QueueBatch>,
    /// A sync follows at once, for which somebody waits.
    pub at_once: bool,
}

impl Batch {
    /// The net effect of operations, in the order of submission: what was inserted and removed is not in it.
    pub fn fold(ops: impl IntoIterator<Item = Op>) -> Batch {
        let mut fold = Fold::default();
        ops.into_iter().for_each(|op| fold.add(op));
        fold.finish()
    }

    /// Takes out what makes room on disk: deletions and removals. They come before what is left.
    pub fn take_relief(&mut self) -> Batch {
        let definitions = self.definitions.extract_if(.., |(_, value)| value.is_none()).collect();
        let queues = self.queues.iter_mut().filter(|queue| queue.dropped || !queue.removals.is_empty());
        let queues = queues.map(|queue| QueueBatch {
            queue: queue.queue,
            dropped: mem::take(&mut queue.dropped),
            removals: mem::take(&mut queue.removals),
            ..QueueBatch::default()
        });
        Batch { definitions, queues: queues.collect(), at_once: false }
    }

    /// Undoes [`take_relief`](Self::take_relief).
    pub fn put_back(&mut self, relief: Batch) {
        self.definitions.extend(relief.definitions);
        for back in relief.queues {
            if let Some(queue) = self.queues.iter_mut().find(|queue| queue.queue == back.queue) {
                (queue.dropped, queue.removals) = (back.dropped, back.removals);
            }
        }
    }

    /// Bytes of what it adds, roughly.
    pub fn bytes(&self) -> usize {
        let definitions = self.definitions.iter().filter_map(|(key, value)| Some(key.len() + value.as_ref()?.len()));
        let runs = self.queues.iter().flat_map(|queue| queue.inserts.iter().chain(&queue.spills));
        definitions.chain(runs.map(|(_, run)| run.bytes())).sum()
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.definitions.is_empty() && self.queues.is_empty()
    }
}

/// The part of a batch that is about one queue. Applied in the order of the fields.
#[derive(Debug, Default)]
pub struct QueueBatch {
    pub queue: u64,
    /// Everything stored for the queue goes first.
    pub dropped: bool,
    /// (first, count): stored messages that go. A range may reach over numbers in `inserts` (a purge without end, and
    /// a publish after it): those stay.
    pub removals: Vec<(u64, u64)>,
    /// (sequence number of the run's first message, run): ascending, not overlapping each other or what is stored.
    pub inserts: Vec<(u64, Run)>,
    /// Like `inserts`, of what is spilled; it may replace what is spilled already.
    pub spills: Vec<(u64, Run)>,
}

/// Reads messages back. For any thread; what it returns is what was committed, and not removed, at some moment during
/// the call.
pub trait Reader: Send + Sync {
    /// Messages of `queue` in `first .. first + count`, whether inserted or spilled: (sequence number of the first one,
    /// messages) ascending, in as few blocks as possible, which count in `gauge`. Whole records are read, so ask for
    /// many messages at once; ranges as they stand in [`Stored`] suit best. Damaged messages are left out, put aside,
    /// logged, and removed by the next commit.
    ///
    /// # Errors
    /// `Closed`, or that a file cannot be opened.
    fn read(&self, queue: u64, first: u64, count: u32, gauge: &Arc<Gauge>) -> Result<Vec<(u64, Run)>, StorageError> {
        self.read_all(queue, &[(first, count)], gauge)
    }

    /// As [`read`](Self::read), of several ranges (first, count), ascending and apart. A record is read once, however
    /// many of them lie in it, and nothing but what was asked for is kept in memory.
    ///
    /// # Errors
    /// As there.
    fn read_all(&self, queue: u64, ranges: &[(u64, u32)], gauge: &Arc<Gauge>) -> Result<Vec<(u64, Run)>, StorageError>;

    /// What is known of messages of `queue` in `first .. first + count` without reading them, ascending. It is not
    /// checked against damage: whoever reads the messages later finds that out.
    ///
    /// # Errors
    /// As those of [`read`](Self::read).
    fn outlines(&self, queue: u64, first: u64, count: u32) -> Result<Vec<Outline>, StorageError>;

    /// Whether all messages `first .. first + count` of `queue` can be read back now: all of them are committed and
    /// none is removed. Reads nothing from disk.
    fn holds(&self, queue: u64, first: u64, count: u32) -> bool;
}

/// A place that keeps batches. See the module for what it guarantees.
pub trait Backend: Send {
    /// Hands the batch to the kernel.
    fn commit(&mut self, batch: &Batch) -> Result<(), StorageError>;

    /// Makes everything committed so far durable.
    fn sync(&mut self) -> Result<(), StorageError>;

    /// Who reads messages back; `None` where nothing is kept. Then nothing must be spilled either.
    fn reader(&self) -> Option<Arc<dyn Reader>>;

    /// The disk is full: gives up what was kept aside, so that what makes room can be written.
    fn give_up_reserve(&mut self) -> Result<(), StorageError> {
        Ok(())
    }

    /// On a full disk, after removals: syncs, so that their space comes back, and looks for space elsewhere.
    fn make_room(&mut self) -> Result<(), StorageError> {
        self.sync()
    }

    /// Whether a disk that was full has room for this many bytes, for what is to be kept aside, and for a little more,
    /// so that it is not found full again at once.
    fn has_room(&self, _bytes: usize) -> bool {
        true
    }

    /// There is room again: keeps some aside anew.
    fn keep_reserve(&mut self) -> Result<(), StorageError> {
        Ok(())
    }

    /// Called now and then while nothing else is to be done: a step of housekeeping that takes no longer than a small
    /// commit. True: it should be called again soon.
    fn idle(&mut self) -> Result<bool, StorageError> {
        Ok(false)
    }

    /// Remembers that everything was written and synced, so that the next opening can trust the marks, and gives
    /// the place free. The writer has called `sync` before.
    fn close(self: Box<Self>) -> Result<(), StorageError>;

    /// How far each queue has been delivered.
    fn marks(&self) -> &Marks;

    /// What the backend calls itself in errors: its directory, or a name where there is none.
    fn path(&self) -> PathBuf;
}

/// What an opened store held.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Every definition, ordered by key.
    pub definitions: Vec<(Bytes, Bytes)>,
    /// Every queue that has messages, a delivered mark or traces of what it had, ordered by id. One that no definition names (a crash came
    /// between its definition's deletion and its own) is to be dropped by the broker.
    pub queues: Vec<RecoveredQueue>,
    /// The last user closed the store; the marks are exact. True for a new store.
    pub clean: bool,
    /// How long opening and reading took.
    pub duration: Duration,
    /// Messages in `queues`.
    pub messages: u64,
    /// Bytes of those messages, as far as [`Stored::bytes`] knows.
    pub bytes: u64,
    /// What could not be read and was put aside.
    pub quarantined: Vec<Quarantined>,
    /// Further things worth a line in the log.
    pub notes: Vec<Note>,
}

/// One queue of a [`Recovered`] store.
#[derive(Debug, Default)]
pub struct RecoveredQueue {
    pub queue: u64,
    /// Messages up to and including this sequence number may have been delivered; 0: none was.
    pub delivered_through: u64,
    /// What is stored, ascending. Nothing of it was read: that is what a [`Reader`] is for.
    pub stored: Vec<Stored>,
    /// Greater than every sequence number stored and than `delivered_through`.
    pub next_sequence: u64,
}

/// A stretch of stored messages without gaps, which lie in one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Sequence number of the first one.
    pub first: u64,
    pub count: u32,
    /// Their bytes; at most 256 KiB, unless it is one message. Where the record has lost or been cut into others, they
    /// are shared out by number, for the length of each is known only by reading it.
    pub bytes: u64,
    /// The `meta` words of all messages of the record, or-ed.
    pub any: u64,
}

/// A stored message as [`Reader::outlines`] knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outline {
    pub sequence: u64,
    /// As it was inserted.
    pub meta: u64,
    /// Bytes of the message.
    pub len: u32,
}

/// A damaged entry: kept on disk, out of the way, and not among what was recovered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Quarantined {
    /// A record of messages of `queue`, the first of which had the sequence number `first`.
    #[error("messages of queue {queue}, from number {first} on")]
    Record { queue: u64, first: u64 },
    /// Which messages of the record at `first` were already removed; all of them are given back.
    #[error("what was removed of messages of queue {queue}, from number {first} on, which come back")]
    Removals { queue: u64, first: u64 },
    /// That the messages of `queue` from this sequence number on were given up, and how far; they are given back.
    #[error("that messages of queue {queue} were given up, from number {from} on, which come back")]
    Void { queue: u64, from: u64 },
    /// A definition.
    #[error("the definition {}", key.escape_ascii())]
    Definition { key: Bytes },
    /// An entry whose key means nothing to us.
    #[error("an entry with the unknown key {}", key.escape_ascii())]
    Unknown { key: Bytes },
    /// A part of a file in which nothing can be read: messages that are lost, or removals, whose messages come back.
    #[error("{bytes} bytes of {} from {offset} on, in which nothing can be read", file.display())]
    Stretch { file: PathBuf, offset: u64, bytes: u64 },
}

/// Something unusual that opening met and dealt with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Note {
    /// A snapshot of the database's index was unreadable; moved aside, the index was rebuilt from the log.
    #[error("an unreadable index snapshot was moved to {}", moved_to.display())]
    SnapshotMovedAside { moved_to: PathBuf },
    /// The machine went down without a clean stop: every stored message counts as possibly delivered.
    #[error("the machine went down without a clean stop: recovered messages are marked redelivered")]
    MarksRaised,
    /// The delivered marks were missing, or a part of them: every stored message counts as possibly delivered.
    #[error("delivered marks are lost: recovered messages are marked redelivered")]
    MarksLost,
    /// Less was found than the last clean stop left: the end of the log, or a part of it, is damaged.
    #[error("{messages} messages and {definitions} definitions that the last clean stop left are missing")]
    Missing { messages: u64, definitions: u64 },
    /// The last file of the log ended in what was never finished or never synced, and so had never been promised.
    #[error("{bytes} bytes that were never finished were cut off {}", file.display())]
    TailCut { file: PathBuf, bytes: u64 },
    /// A directory of the format before was brought into today's.
    #[error("{messages} messages were brought from format 1 into the log")]
    Migrated { messages: u64 },
    /// A directory whose creation had been cut short was completed.
    #[error("the creation of the store had been interrupted and was completed")]
    CreationCompleted,
    /// The database of the definitions was damaged or missing. A new one was made of what could be read of it and of the
    /// copy; `restored` definitions are as the copy has them, `lost` ones are known to be in neither.
    #[error(
        "the database of definitions was damaged{}: {restored} definitions were taken from their copy, {lost} are lost",
        moved(moved_to)
    )]
    DatabaseReplaced { restored: u64, lost: u64, moved_to: Option<PathBuf> },
    /// As above, by an opening before this one, which was cut short.
    #[error(
        "the replacement of a damaged database of definitions had been interrupted and was completed{}",
        moved(moved_to)
    )]
    ReplacementCompleted { moved_to: Option<PathBuf> },
    /// The copy of the definitions was damaged or missing, and was written anew from the database.
    #[error("the copy of the definitions was damaged or missing{}, and was written anew", moved(moved_to))]
    CopyRenewed { moved_to: Option<PathBuf> },
    /// Some definitions may be lost. Messages whose queue is not defined any more are dropped; all messages are kept as
    /// they were.
    #[error("definitions may be lost; the messages as they were, those of lost queues too, are kept in {}", kept.display())]
    DefinitionsLost { kept: PathBuf },
    /// The directory of the messages was not there.
    #[error("{} is missing, and with it all messages that were stored", directory.display())]
    MessagesMissing { directory: PathBuf },
    /// A file of the log was not there, or nothing of it was.
    #[error("{} is missing, and with it the messages stored there", file.display())]
    SegmentMissing { file: PathBuf },
}

impl Note {
    /// Something was damaged, and may be lost; not only something that a crash explains.
    pub fn is_damage(&self) -> bool {
        match self {
            Note::MarksRaised | Note::TailCut { .. } | Note::Migrated { .. } | Note::CreationCompleted => false,
            Note::MarksLost
            | Note::SnapshotMovedAside { .. }
            | Note::Missing { .. }
            | Note::DatabaseReplaced { .. }
            | Note::ReplacementCompleted { .. }
            | Note::CopyRenewed { .. }
            | Note::DefinitionsLost { .. }
            | Note::MessagesMissing { .. }
            | Note::SegmentMissing { .. } => true,
        }
    }
}

fn moved(to: &Option<PathBuf>) -> String {
    to.as_ref().map_or_else(String::new, |to| format!(" (it was moved to {})", to.display()))
}
