//! Messages in append-only files. A commit is one frame, written at once from the blocks that hold the messages.
//!
//! * `frame`: what a frame looks like. `pack`: how a batch becomes one. `segment`: the files; `direct`: a way to write
//!   them. `scan`: finding out what a file holds; `open`: what all of them do.
//! * `index`, `space`: where each message lies, and what each segment is still needed for; shared with readers.
//! * `read`: messages read back. `clean`: space given back.
//!
//! There are two series of segments of one structure: messages that are kept, and messages that are *spilled*, on disk
//! for want of memory only. The second is never synced, and deleted when the store is opened.

mod clean;
mod direct;
mod frame;
mod index;
mod open;
mod pack;
mod read;
mod scan;
mod segment;
mod space;

use std::collections::BTreeSet;
use std::mem;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::backend::{Batch, Reader};
use crate::directory::{create_directory, sync_directory};
use crate::disk::DiskOptions;
use crate::error::StorageError;
use index::Entry;
use pack::{Frame, Scratch};
use space::{Kind, Series, Shared};

pub(crate) use open::{Left, Places};

/// Segments that go one after the other in one sync; each costs a sync of the directory. What is left goes with the next.
const GENERATIONS: u32 = 8;

/// The writer's side: only its thread calls.
#[derive(Debug)]
pub(crate) struct Log {
    shared: Arc<Shared>,
    tails: [Tail; 2],
    scratch: [Scratch; 2],
    cleaning: [clean::Cleaning; 2],
    /// More segments could go than one sync lets go.
    reaping: bool,
}

/// Where one series goes on.
#[derive(Debug)]
struct Tail {
    kind: Kind,
    dir: PathBuf,
    options: DiskOptions,
    /// The segment that is appended to; made when first needed.
    head: Option<segment::Open>,
    next_id: u32,
    /// Of the segment's last frame.
    sequence: u64,
    /// The last frame known to be on the device.
    synced: u64,
    /// Segments up to this one are to be compacted.
    compact: u32,
}

/// Where a frame was written.
struct Written {
    segment: u32,
    bodies: u64,
    /// Where the frame begins.
    from: u64,
}

impl Tail {
    fn new(kind: Kind, dir: PathBuf, options: DiskOptions) -> Tail {
        Tail { kind, dir, options, head: None, next_id: 1, sequence: 0, synced: 0, compact: 0 }
    }

    fn head_id(&self) -> Option<u32> {
        self.head.as_ref().map(|head| head.id)
    }

    /// Appends a frame; after an error nothing of it is there.
    fn append(&mut self, frame: &Frame<'_>, shared: &Shared, at_once: bool) -> Result<Written, StorageError> {
        let most = self.options.segment_bytes;
        if self.head.as_ref().is_some_and(|head| head.is_full_for(frame.len(), most)) {
            self.seal()?;
        }
        let head = match &mut self.head {
            Some(head) => head,
            none => {
                let durable = self.kind == Kind::Kept;
                create_directory(&self.dir)?;
                let head = segment::Open::create(&self.dir, self.next_id, durable)?;
                self.next_id += 1;
                (self.sequence, self.synced) = (0, 0);
                shared.state().series_mut(self.kind).grow(head.id, head.len);
                none.insert(head)
            }
        };
        let from = head.len;
        let bodies = head.append(frame, self.sequence + 1, self.synced, at_once)?;
        self.sequence += 1;
        Ok(Written { segment: head.id, bodies, from })
    }

    /// Ends the segment. It goes to the device first: only the last segment can lack what was written to it.
    fn seal(&mut self) -> Result<(), StorageError> {
        self.sync()?;
        if let Some(head) = self.head.take()
            && self.kind == Kind::Kept
        {
            head.seal(&self.dir)?;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        if self.kind == Kind::Kept
            && self.synced < self.sequence
            && let Some(head) = &self.head
        {
            head.sync()?;
        }
        self.synced = self.sequence;
        Ok(())
    }

    /// Takes the last frame back.
    fn take_back(&mut self, written: &Written) -> Result<(), StorageError> {
        self.sequence -= 1;
        match &mut self.head {
            Some(head) => head.take_back(written.from),
            None => Ok(()),
        }
    }
}

impl Log {
    fn new(shared: Arc<Shared>, tails: [Tail; 2]) -> Log {
        Log { shared, tails, scratch: Default::default(), cleaning: Default::default(), reaping: false }
    }

    /// Writes a batch. After `Full` nothing of it is there.
    pub fn commit(&mut self, batch: &Batch) -> Result<(), StorageError> {
        let mut kept = Frame::new(mem::take(&mut self.scratch[0]));
        let mut spilled = Frame::new(mem::take(&mut self.scratch[1]));
        let mut covered = BTreeSet::new();
        let lost = self.removals(batch, &mut kept, &mut covered);
        for queue in &batch.queues {
            kept.insert(queue.queue, &queue.inserts);
            spilled.insert(queue.queue, &queue.spills);
        }
        let written = self.write(&kept, &spilled, batch.at_once);
        match written {
            Ok(written) => {
                self.apply(batch, &mut kept, &mut spilled, covered, written);
                self.scratch = [kept.into_scratch(), spilled.into_scratch()];
                Ok(())
            }
            Err(error) => {
                self.shared.state().lost.extend(lost);
                Err(error)
            }
        }
    }

    /// Notes down in `frame` what goes, as far as it was kept, and in which segments that lies. Returns what was found
    /// damaged since the last commit.
    fn removals(&self, batch: &Batch, frame: &mut Frame<'_>, covered: &mut BTreeSet<u32>) -> Vec<space::Lost> {
        let mut state = self.shared.state();
        let lost = mem::take(&mut state.lost);
        for lost in &lost {
            frame.remove(lost.queue, &[(lost.first, lost.count)]);
            covered.insert(lost.segment);
        }
        let index = &state.series(Kind::Kept).index;
        let mut ranges = Vec::new();
        for queue in &batch.queues {
            if queue.dropped && index.queue(queue.queue).is_some() {
                index.segments_of(queue.queue, 0, u64::MAX, |segment| {
                    covered.insert(segment);
                });
                frame.drop_queue(queue.queue);
            }
            for &(first, count) in &queue.removals {
                let mut there = false;
                index.segments_of(queue.queue, first, first.saturating_add(count), |segment| {
                    there = true;
                    covered.insert(segment);
                });
                if there {
                    ranges.push((first, count));
                }
            }
            frame.remove(queue.queue, &ranges);
            ranges.clear();
        }
        lost
    }

    /// Both frames or none.
    fn write(
        &mut self,
        kept: &Frame<'_>,
        spilled: &Frame<'_>,
        at_once: bool,
    ) -> Result<[Option<Written>; 2], StorageError> {
        let [kept_tail, spilled_tail] = &mut self.tails;
        let second = match spilled.is_empty() {
            true => None,
            false => Some(spilled_tail.append(spilled, &self.shared, false)?),
        };
        let first = match kept.is_empty() {
            true => Ok(None),
            false => kept_tail.append(kept, &self.shared, at_once).map(Some),
        };
        match first {
            Ok(first) => Ok([first, second]),
            Err(error) => {
                if let Some(written) = &second {
                    spilled_tail.take_back(written)?;
                }
                Err(error)
            }
        }
    }

    /// Notes down what was written.
    fn apply<'a>(
        &mut self,
        batch: &Batch,
        kept: &mut Frame<'a>,
        spilled: &mut Frame<'a>,
        covered: BTreeSet<u32>,
        written: [Option<Written>; 2],
    ) {
        let mut state = self.shared.state();
        for kind in Kind::ALL {
            let series = state.series_mut(kind);
            for queue in &batch.queues {
                if queue.dropped {
                    series.drop_queue(queue.queue);
                }
                for &(first, count) in &queue.removals {
                    series.remove(queue.queue, first, count);
                }
            }
        }
        for ((kind, frame), written) in Kind::ALL.into_iter().zip([kept, spilled]).zip(written) {
            let Some(written) = written else { continue };
            self.cleaning[kind as usize].earn(frame.len());
            let series = state.series_mut(kind);
            place(series, frame, &written);
            if kind == Kind::Kept {
                series.cover(written.segment, covered.iter().copied());
            }
        }
    }

    /// Makes everything kept durable, and deletes segments of which nothing is needed.
    pub fn sync(&mut self) -> Result<(), StorageError> {
        self.tails[Kind::Kept as usize].sync()?;
        Kind::ALL.into_iter().try_for_each(|kind| self.reap(kind))
    }

    /// Deletes segments of which nothing is needed. What they hold was removed, or lies elsewhere, on the device. The name
    /// of one must be gone from there before another goes that says what of it was removed.
    fn reap(&mut self, kind: Kind) -> Result<(), StorageError> {
        let tail = &self.tails[kind as usize];
        for generation in 0.. {
            if kind == Kind::Kept {
                self.reaping = generation == GENERATIONS;
                if self.reaping {
                    break;
                }
            }
            let dead = self.shared.state().take_dead(kind, tail.head_id());
            if dead.is_empty() {
                break;
            }
            dead.into_iter().try_for_each(|id| segment::delete(&tail.dir, id))?;
            if kind == Kind::Kept {
                sync_directory(&tail.dir)?;
            }
        }
        Ok(())
    }

    pub fn reader(&self) -> Arc<dyn Reader> {
        Arc::new(read::LogReader::new(self.shared.clone()))
    }

    /// How many messages are kept.
    pub fn messages(&self) -> u64 {
        self.shared.state().series(Kind::Kept).index.messages()
    }

    /// Readers find nothing from now on. `sync` was called before.
    pub fn close(self) {
        self.shared.closed.store(true, Ordering::Release);
    }
}

/// Notes down where the records of a frame lie.
fn place(series: &mut Series, frame: &mut Frame<'_>, written: &Written) {
    series.grow(written.segment, frame.len());
    let mut offset = written.bodies;
    for (queue, record) in frame.inserts.drain(..) {
        let body = record.body();
        series.add(queue, Entry::new(record, written.segment, offset));
        offset += body;
    }
}
