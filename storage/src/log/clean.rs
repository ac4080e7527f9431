//! Space given back. Of a series that takes more than twice what lives in it, the oldest segment's survivors are
//! written anew, a few at a time, until nothing of it is needed and it can go.

use std::sync::Arc;

use super::frame::Head;
use super::pack::Frame;
use super::read::Wanted;
use super::space::{Kind, Series};
use super::{Log, Tail, scan, segment};
use crate::block::Run;
use crate::error::{IoContext, StorageError};
use crate::gauge::Gauge;
use crate::sequences::Sequences;

/// Bytes that may be copied for each byte written.
const PER_BYTE: u64 = 2;
/// Bytes that may be saved up, and then be copied at once.
const AT_ONCE: u64 = 4 << 20;
/// Bytes of survivors in one frame.
const FRAME: u64 = 1 << 20;
/// Bytes that a disk must have free beyond what is copied to make room on it.
const MARGIN: u64 = 1 << 20;
/// Bytes that compacting leaves alone.
const LOOSE: u64 = 64 << 10;

/// How far the cleaning of one series has come.
#[derive(Debug, Default)]
pub(crate) struct Cleaning {
    /// Bytes that may be copied now.
    allowed: u64,
    /// The segment being cleaned, and those of its records not looked at yet, last first.
    segment: u32,
    records: Vec<(u64, Sequences, u64)>,
}

impl Cleaning {
    /// `bytes` were written: so much more may be copied. A large batch must earn what it costs, however large.
    pub fn earn(&mut self, bytes: u64) {
        let earned = bytes * PER_BYTE;
        self.allowed = (self.allowed + earned).min(earned.max(AT_ONCE));
    }
}

/// The segment to be cleaned, if one is to be; the one that is written to is not.
fn due(series: &Series, tail: &Tail, spare: u64) -> Option<u32> {
    let (oldest, going) = series.oldest()?;
    let taken = series.total - going;
    let due = if oldest <= tail.compact { is_loose(taken, series.live) } else { taken > 2 * series.live + spare };
    (due && Some(oldest) != tail.head_id()).then_some(oldest)
}

/// Whether compacting would give back more than some frames' heads.
fn is_loose(taken: u64, live: u64) -> bool {
    taken > live + live / 16 + LOOSE
}

impl Log {
    /// From now on all segments that there are count as due, one after the other, while that gives space back.
    pub fn begin_compacting(&mut self) -> Result<(), StorageError> {
        let kept = &mut self.tails[Kind::Kept as usize];
        kept.compact = kept.next_id - 1;
        let loose = {
            let state = self.shared.state();
            let series = state.series(Kind::Kept);
            is_loose(series.total, series.live)
        };
        // The last one could not be cleaned while it is appended to.
        if loose { kept.seal() } else { Ok(()) }
    }

    /// Copies as much as was earned. A full disk only puts it off.
    pub fn clean(&mut self) -> Result<(), StorageError> {
        self.clean_if_there_is_room().map(|_full| ())
    }

    /// As [`clean`](Self::clean); the error of a full disk, if that was what stopped it.
    fn clean_if_there_is_room(&mut self) -> Result<Option<StorageError>, StorageError> {
        let mut full = None;
        for kind in Kind::ALL {
            match self.clean_series(kind, self.tails[kind as usize].options.spare_bytes, None) {
                Ok(()) => {}
                Err(error @ StorageError::Full { .. }) => full = Some(error),
                Err(error) => return Err(error),
            }
        }
        // What was spilled needs no sync.
        self.reap(Kind::Spilled)?;
        Ok(full)
    }

    /// Cleans a little while nothing else is to be done. True: there is more.
    ///
    /// # Errors
    /// `Full` while compacting, where nothing came free either: whoever waits for its end would wait for ever.
    pub fn idle(&mut self) -> Result<bool, StorageError> {
        self.cleaning.iter_mut().for_each(|cleaning| cleaning.earn(FRAME / PER_BYTE));
        let full = self.clean_if_there_is_room()?;
        let before = self.shared.state().series(Kind::Kept).total;
        let head = self.tails[Kind::Kept as usize].head_id();
        let has_dead = self.shared.state().series(Kind::Kept).has_dead(head);
        if self.reaping || has_dead {
            self.sync()?;
        }
        let state = self.shared.state();
        let freed = state.series(Kind::Kept).total < before;
        if let Some(full) = full.filter(|_| !freed && self.tails[Kind::Kept as usize].compact > 0) {
            return Err(full);
        }
        Ok(self.reaping
            || Kind::ALL.into_iter().any(|kind| {
                let tail = &self.tails[kind as usize];
                due(state.series(kind), tail, tail.options.spare_bytes).is_some()
            }))
    }

    /// On a full disk: spares nothing. A segment that is appended to and mostly dead is ended, so that it can be cleaned.
    /// What survives of one is copied only if all of it fits in the `free` bytes of the disk: a part would take room and
    /// give none back. `None`: nobody knows how many there are.
    pub fn give_space_back(&mut self, free: Option<u64>) -> Result<(), StorageError> {
        for kind in Kind::ALL {
            let head = self.tails[kind as usize].head_id();
            let step = if head.is_some_and(|id| self.shared.state().series(kind).is_mostly_dead(id, FRAME)) {
                self.tails[kind as usize].seal()
            } else {
                self.cleaning[kind as usize].earn(FRAME / PER_BYTE);
                self.clean_series(kind, FRAME, free)
            };
            match step {
                Err(StorageError::Full { .. }) | Ok(()) => {}
                Err(error) => return Err(error),
            }
        }
        self.reap(Kind::Spilled)
    }

    fn clean_series(&mut self, kind: Kind, spare: u64, mut free: Option<u64>) -> Result<(), StorageError> {
        while self.cleaning[kind as usize].allowed > 0 {
            let (oldest, live) = {
                let state = self.shared.state();
                let series = state.series(kind);
                let Some(oldest) = due(series, &self.tails[kind as usize], spare) else { return Ok(()) };
                (oldest, series.live_in(oldest))
            };
            if free.is_some_and(|free| free < live + MARGIN) {
                return Ok(());
            }
            let cleaning = &self.cleaning[kind as usize];
            if cleaning.segment != oldest {
                self.begin(kind, oldest)?;
            } else if cleaning.records.is_empty() {
                return Ok(());
            }
            let copied = self.copy_some(kind)?;
            let cleaning = &mut self.cleaning[kind as usize];
            cleaning.allowed = cleaning.allowed.saturating_sub(copied);
            free = free.map(|free| free.saturating_sub(copied));
        }
        Ok(())
    }

    /// Finds out which records lie in a segment.
    fn begin(&mut self, kind: Kind, id: u32) -> Result<(), StorageError> {
        let (path, file) = {
            let mut state = self.shared.state();
            let path = state.series(kind).path(id);
            (path.clone(), state.file(kind, id).context("open", &path)?)
        };
        let len = file.metadata().context("read", &path)?.len();
        let dir = &self.tails[kind as usize].dir;
        let frames = match segment::Sidecar::read(dir, id, len, None) {
            Some(frames) => frames,
            None => {
                let scanned = scan::scan(&file, len, false).context("read", &path)?;
                scanned.frames.into_iter().map(|frame| (frame.bodies(), frame.heads)).collect()
            }
        };
        let cleaning = &mut self.cleaning[kind as usize];
        cleaning.segment = id;
        cleaning.records.clear();
        for (bodies, heads) in frames {
            let mut offset = bodies;
            for head in heads {
                if let Head::Insert { queue, record } = head {
                    let body = record.body();
                    cleaning.records.push((queue, record.sequences, offset));
                    offset += body;
                }
            }
        }
        // So that what is left of neighbours comes together.
        cleaning.records.sort_unstable_by_key(|(queue, sequences, _)| (*queue, sequences.first()));
        cleaning.records.reverse();
        Ok(())
    }

    /// Writes a frame of survivors anew, and returns how many bytes that took.
    fn copy_some(&mut self, kind: Kind) -> Result<u64, StorageError> {
        let mut survivors: Vec<(u64, Vec<(u64, Run)>)> = Vec::new();
        let mut bytes = 0;
        let cleaning = &mut self.cleaning[kind as usize];
        let id = cleaning.segment;
        let mut taken = Vec::new();
        while bytes < FRAME.min(cleaning.allowed)
            && let Some((queue, sequences, offset)) = cleaning.records.pop()
        {
            let (wanted, file) = {
                let mut state = self.shared.state();
                let entry = state.series(kind).index.at(queue, &sequences, id, offset);
                let Some(wanted) = entry.and_then(|entry| Wanted::new(kind, entry, 0, u64::MAX)) else { continue };
                let path = state.series(kind).path(id);
                (wanted, state.file(kind, id).context("open", &path)?)
            };
            bytes += wanted.body() as u64;
            let mut runs = Vec::new();
            // Copies under way count in nobody's memory: they are gone in a moment.
            self.shared.read_group(queue, &[wanted], &file, &Arc::new(Gauge::default()), &mut runs);
            taken.push((queue, sequences, offset));
            match survivors.last_mut() {
                Some((same, before)) if *same == queue => before.append(&mut runs),
                _ => survivors.push((queue, runs)),
            }
        }
        let written = self.rewrite(kind, &mut survivors);
        if written.is_err() {
            // Full: they are tried again later.
            taken.reverse();
            self.cleaning[kind as usize].records.append(&mut taken);
        }
        written.map(|()| bytes)
    }

    fn rewrite(&mut self, kind: Kind, survivors: &mut [(u64, Vec<(u64, Run)>)]) -> Result<(), StorageError> {
        let mut frame = Frame::new(std::mem::take(&mut self.scratch[kind as usize]));
        for (queue, runs) in survivors {
            runs.sort_unstable_by_key(|(first, _)| *first);
            frame.insert(*queue, runs);
        }
        if !frame.is_empty() {
            let written = self.tails[kind as usize].append(&frame, &self.shared, false)?;
            super::place(self.shared.state().series_mut(kind), &mut frame, &written);
        }
        self.scratch[kind as usize] = frame.into_scratch();
        Ok(())
    }
}
