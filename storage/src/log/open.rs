//! What the files say when a store is opened. Full segments are known by their sidecars; the last one is read through,
//! for a crash may have left anything at its end.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::frame::Head;
use super::index::Entry;
use super::read::Wanted;
use super::scan::{self, Found, Hole, Scanned};
use super::segment::{self, SEGMENT_HEADER, Sidecar};
use super::space::{Kind, Series, Shared};
use super::{Log, Tail};
use crate::backend::{Batch, Note, Quarantined, RecoveredQueue, Stored};
use crate::directory::{create_directory, free_name, sync_directory};
use crate::disk::DiskOptions;
use crate::error::{IoContext, StorageError};

/// Of a device: less than one it does not write.
const SECTOR: u64 = 512;

/// Where a log lies, and its sizes.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// The segments of what is kept.
    pub kept: PathBuf,
    /// The segments of what is spilled; there only when something is.
    pub spilled: PathBuf,
    /// For what is damaged.
    pub quarantine: PathBuf,
    pub options: DiskOptions,
}

/// How its last user ended.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Left {
    /// It was closed.
    pub clean: bool,
    /// The machine went down: frames that were never synced may be damaged. They and all after them were not promised,
    /// and go.
    pub power_cut: bool,
}

/// What an opened log held.
#[derive(Debug)]
pub(crate) struct Opened {
    pub log: Log,
    /// Ordered by id; of each, what it has stored and the next sequence number.
    pub queues: Vec<RecoveredQueue>,
    pub quarantined: Vec<Quarantined>,
    pub notes: Vec<Note>,
}

impl Log {
    /// An empty log, whatever was there before.
    pub fn create(places: &Places) -> Result<Log, StorageError> {
        remove_all(&places.kept)?;
        create_directory(&places.kept)?;
        Ok(Opening::new(places)?.log())
    }

    /// The log as it was left.
    pub fn open(places: &Places, left: Left) -> Result<Opened, StorageError> {
        let mut opening = Opening::new(places)?;
        opening.left = left;
        let (ids, missing) = segment::list(&places.kept)?;
        missing.into_iter().try_for_each(|id| opening.missing(id))?;
        for &id in &ids {
            opening.segment(id, ids.last() == Some(&id))?;
        }
        opening.give_up_damaged();
        let (quarantined, notes) = (std::mem::take(&mut opening.quarantined), std::mem::take(&mut opening.notes));
        let mut log = opening.log();
        let queues = recovered(log.shared.state().series(Kind::Kept));
        // So that what was given up is not found again.
        log.commit(&Batch::default())?;
        if places.options.compact {
            log.begin_compacting()?;
        }
        Ok(Opened { log, queues, quarantined, notes })
    }
}

struct Opening {
    shared: Arc<Shared>,
    left: Left,
    kept: Tail,
    spilled: Tail,
    /// Records whose bodies are damaged: (queue, record).
    damaged: Vec<(u64, Wanted)>,
    quarantined: Vec<Quarantined>,
    notes: Vec<Note>,
}

impl Opening {
    fn new(places: &Places) -> Result<Opening, StorageError> {
        // What was spilled belonged to the process that is gone.
        remove_all(&places.spilled)?;
        let Places { kept, spilled, quarantine, options } = places.clone();
        Ok(Opening {
            shared: Arc::new(Shared::new(kept.clone(), spilled.clone(), quarantine)),
            left: Left::default(),
            kept: Tail::new(Kind::Kept, kept, options),
            spilled: Tail::new(Kind::Spilled, spilled, options),
            damaged: Vec::new(),
            quarantined: Vec::new(),
            notes: Vec::new(),
        })
    }

    fn log(self) -> Log {
        Log::new(self.shared, [self.kept, self.spilled])
    }

    fn segment(&mut self, id: u32, last: bool) -> Result<(), StorageError> {
        let power_cut = self.left.power_cut;
        let path = segment::path(&self.kept.dir, id);
        let file = File::open(&path).context("open", &path)?;
        let len = file.metadata().context("read", &path)?.len();
        self.kept.next_id = self.kept.next_id.max(id + 1);
        if let Some(frames) = Sidecar::read(&self.kept.dir, id, len, nonce(&file)) {
            self.replay(id, len, frames);
            return Ok(());
        }
        let mut scanned = scan::scan(&file, len, last).context("read", &path)?;
        if scanned.nonce == 0 {
            return self.unreadable(id, len);
        }
        if last && power_cut {
            cut_unsynced(&mut scanned);
        }
        if last && !self.left.clean && scanned.padded {
            cut_unfinished(&mut scanned, &file);
        }
        let mut sidecar = Sidecar::new(scanned.nonce);
        scanned.frames.iter().for_each(|frame| sidecar.push(frame.bodies(), &frame.raw_heads));
        let mut holes = std::mem::take(&mut scanned.holes);
        let torn = scanned.cut_short || power_cut;
        if scanned.end < len && scanned.room {
            // It was made for frames that never came.
        } else if scanned.end < len && last && torn {
            self.notes.push(Note::TailCut { file: path.clone(), bytes: len - scanned.end });
        } else if scanned.end < len {
            holes.push(Hole { from: scanned.end, to: len, sequence: 0 });
        }
        holes.iter().for_each(|hole| self.put_aside(id, &file, *hole));
        let full = Sidecar::length(&self.kept.dir, id).filter(|full| *full > len && !power_cut);
        if let Some(full) = full {
            self.quarantined.push(Quarantined::Stretch { file: path.clone(), offset: len, bytes: full - len });
        }
        let intact = nonce(&file).is_some() && holes.iter().all(|hole| hole.from >= scanned.end);
        let sequence = scanned.frames.last().map_or(0, |frame| frame.header.sequence);
        let end = scanned.end;
        self.replay_scanned(id, if last { end } else { len }, scanned, sidecar.frames().unwrap_or_default());
        if !last {
            sidecar.write(&self.kept.dir, id, len);
            return Ok(());
        }
        let head = segment::Open::resume(&self.kept.dir, id, sidecar.nonce(), end, sidecar)?;
        // A kill leaves what was written in the kernel's hands: from here on it counts as safe.
        head.sync()?;
        if intact {
            self.kept.head = Some(head);
            (self.kept.sequence, self.kept.synced) = (sequence, sequence);
        } else {
            // Its sidecar leaves out what is damaged, which is not met again.
            head.seal(&self.kept.dir)?;
        }
        Ok(())
    }

    /// A segment of which only the sidecar is there. Before a segment goes its sidecar does; but a power cut may keep the
    /// sidecar nevertheless.
    fn missing(&mut self, id: u32) -> Result<(), StorageError> {
        self.kept.next_id = self.kept.next_id.max(id + 1);
        if !self.left.power_cut {
            self.notes.push(Note::SegmentMissing { file: segment::path(&self.kept.dir, id) });
        }
        segment::delete_sidecar(&self.kept.dir, id)
    }

    /// A file without a header or a frame: the beginning of a segment in which nothing had been promised yet, or a
    /// damaged one.
    fn unreadable(&mut self, id: u32, len: u64) -> Result<(), StorageError> {
        let path = segment::path(&self.kept.dir, id);
        if len <= SEGMENT_HEADER {
            if !self.left.power_cut && Sidecar::exists(&self.kept.dir, id) {
                self.notes.push(Note::SegmentMissing { file: path });
            }
            return segment::delete(&self.kept.dir, id);
        }
        segment::delete_sidecar(&self.kept.dir, id)?;
        let to = free_name(&self.shared.quarantine, &format!("segment-{id}"))?;
        fs::rename(&path, &to).context("move aside", &path)?;
        sync_directory(&self.shared.quarantine)?;
        self.quarantined.push(Quarantined::Stretch { file: path, offset: 0, bytes: len });
        Ok(())
    }

    fn replay_scanned(&mut self, id: u32, len: u64, scanned: Scanned, frames: Vec<(u64, Vec<Head>)>) {
        self.replay(id, len, frames);
        let state = self.shared.state();
        let index = &state.series(Kind::Kept).index;
        for frame in scanned.frames.iter().filter(|frame| !frame.bad.is_empty()) {
            for (at, offset) in frame.body_offsets().filter(|(at, _)| frame.bad.contains(at)) {
                if let Head::Insert { queue, record } = &frame.heads[at]
                    && let Some(entry) = index.at(*queue, &record.sequences, id, offset)
                    && let Some(wanted) = Wanted::new(Kind::Kept, entry, 0, u64::MAX)
                {
                    self.damaged.push((*queue, wanted));
                }
            }
        }
    }

    /// Does again what the frames say.
    fn replay(&self, id: u32, len: u64, frames: Vec<(u64, Vec<Head>)>) {
        let mut state = self.shared.state();
        let series = state.series_mut(Kind::Kept);
        series.grow(id, len);
        for (bodies, heads) in frames {
            let mut offset = bodies;
            for head in heads {
                match head {
                    Head::Insert { queue, record } => {
                        let body = record.body();
                        series.add(queue, Entry::new(record, id, offset));
                        offset += body;
                    }
                    Head::Removed { queue, ranges } => {
                        for (first, count) in ranges {
                            cover(series, id, queue, first, first.saturating_add(count));
                            series.remove(queue, first, count);
                        }
                    }
                    Head::Dropped { queue } => {
                        cover(series, id, queue, 0, u64::MAX);
                        series.drop_queue(queue);
                    }
                }
            }
        }
    }

    /// Names and keeps what is damaged, as far as it was still wanted at the end of the log.
    fn give_up_damaged(&mut self) {
        for (queue, wanted) in std::mem::take(&mut self.damaged) {
            let path = segment::path(&self.kept.dir, wanted.segment);
            let mut body = vec![0; wanted.body()];
            let read = File::open(&path).and_then(|file| file.read_exact_at(&mut body, wanted.offset));
            if read.is_err() {
                body.clear();
            }
            if self.shared.give_up(queue, &wanted, &body).is_some() {
                let first = wanted.sequences.first();
                self.quarantined.push(Quarantined::Record { queue, first });
            }
        }
    }

    fn put_aside(&mut self, id: u32, file: &File, hole: Hole) {
        let bytes = hole.to - hole.from;
        let mut copy = vec![0; bytes as usize];
        match file.read_exact_at(&mut copy, hole.from) {
            Ok(()) => drop(self.shared.put_aside(&format!("segment-{id}-{}", hole.from), &copy)),
            Err(error) => tracing::error!(%error, "damaged bytes could not be read"),
        }
        let file = segment::path(&self.kept.dir, id);
        self.quarantined.push(Quarantined::Stretch { file, offset: hole.from, bytes });
    }
}

/// After a power cut the device may have kept any part of what was not synced. The first frame that is not whole
/// ends the log, if none behind it says that it was synced.
fn cut_unsynced(scanned: &mut Scanned) {
    let synced = scanned.frames.iter().map(|frame| frame.header.synced).max().unwrap_or(0);
    let holes = scanned.holes.iter().filter(|hole| hole.sequence > synced).map(|hole| hole.from);
    let bad = scanned.frames.iter().filter(|f| !f.bad.is_empty() && f.header.sequence > synced).map(|f| f.offset);
    if let Some(end) = holes.chain(bad).min() {
        cut(scanned, end);
    }
}

/// A kill may cut a frame short in the room made for it: then it is the last, and what of it is missing is zeros.
fn cut_unfinished(scanned: &mut Scanned, file: &File) {
    let hole = scanned.holes.last().filter(|hole| hole.to == scanned.end).map(|hole| hole.from);
    let bad = scanned.frames.last().filter(|frame| !frame.bad.is_empty() && ends_in_zeros(frame, file));
    let bad = bad.map(|frame| frame.offset);
    scanned.cut_short |= !scanned.room;
    if let Some(end) = hole.or(bad) {
        cut(scanned, end);
        scanned.cut_short = true;
    }
}

/// Whether the end of a frame's bodies was never written. If it was, what is bad of them was damaged later.
fn ends_in_zeros(frame: &Found, file: &File) -> bool {
    let end = frame.bodies() + frame.header.bodies;
    // What a kill cuts off begins with a sector.
    let sector = (end.max(1) - 1) % SECTOR + 1;
    let len = frame.header.bodies.min(sector).min(8);
    let mut last = [0; 8];
    let last = &mut last[..len as usize];
    file.read_exact_at(last, end - len).is_ok() && last.iter().all(|byte| *byte == 0)
}

fn cut(scanned: &mut Scanned, end: u64) {
    scanned.frames.retain(|frame| frame.offset < end);
    scanned.holes.retain(|hole| hole.from < end);
    scanned.end = end;
    scanned.room = false;
}

fn nonce(file: &File) -> Option<u64> {
    let mut header = [0; SEGMENT_HEADER as usize];
    file.read_exact_at(&mut header, 0).ok()?;
    segment::parse_header(&header)
}

fn cover(series: &mut Series, id: u32, queue: u64, first: u64, end: u64) {
    let mut covered = Vec::new();
    series.index.segments_of(queue, first, end, |segment| covered.push(segment));
    series.cover(id, covered);
}

fn remove_all(dir: &std::path::Path) -> Result<(), StorageError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StorageError::io("remove", dir, error)),
        _ => Ok(()),
    }
}

fn recovered(series: &Series) -> Vec<RecoveredQueue> {
    let queues = series.index.queues().map(|(queue, records)| {
        let mut stored = Vec::new();
        let mut next_sequence = 1;
        for entry in records.iter() {
            next_sequence = next_sequence.max(entry.sequences.last().saturating_add(1));
            entry.each_live(0, u64::MAX, |first, count, _| {
                let bytes = entry.share(u64::from(entry.bytes), count);
                stored.push(Stored { first, count, bytes, any: entry.any });
            });
        }
        stored.sort_unstable_by_key(|stored| stored.first);
        RecoveredQueue { queue, delivered_through: 0, stored, next_sequence }
    });
    let mut queues: Vec<_> = queues.collect();
    queues.sort_unstable_by_key(|queue| queue.queue);
    queues
}
