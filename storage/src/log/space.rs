//! What the writer and the readers share: where everything lies, and which segments there are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::index::{Entry, Index};
use super::segment;
use crate::directory::free_name;
use crate::error::{IoContext, StorageError};

/// Open files kept for reading, so that a long backlog does not use up the process's file descriptors.
const OPEN_FILES: usize = 64;

/// Two series of segments with one structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Messages that outlive the process.
    Kept,
    /// Messages that are on disk for want of memory only.
    Spilled,
}

impl Kind {
    pub const ALL: [Kind; 2] = [Kind::Kept, Kind::Spilled];
}

/// What writer and readers share.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    pub quarantine: PathBuf,
    /// The store was closed: its files may be somebody else's by now.
    pub closed: AtomicBool,
}

#[derive(Debug)]
pub(crate) struct State {
    series: [Series; 2],
    /// The next commit removes them on disk as well.
    pub lost: Vec<Lost>,
    /// The most recently used last.
    files: Vec<(Kind, u32, Arc<File>)>,
}

/// Kept messages that were found damaged when they were read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lost {
    pub queue: u64,
    pub first: u64,
    pub count: u64,
    pub segment: u32,
}

/// One series: its segments and what lies in them.
#[derive(Debug)]
pub(crate) struct Series {
    pub dir: PathBuf,
    pub index: Index,
    segments: BTreeMap<u32, Segment>,
    /// Bytes of all segments.
    pub total: u64,
    /// Bytes of records that are there, or of what is left of them.
    pub live: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Segment {
    pub len: u64,
    pub live: u64,
    /// Segments that hold what this one removes, or holds anew: without it they would bring that back.
    pub covers: BTreeSet<u32>,
}

impl Shared {
    pub fn new(kept: PathBuf, spilled: PathBuf, quarantine: PathBuf) -> Shared {
        let series = [Series::new(kept), Series::new(spilled)];
        let state = State { series, lost: Vec::new(), files: Vec::new() };
        Shared { state: Mutex::new(state), quarantine, closed: AtomicBool::new(false) }
    }

    /// Held for looking up and noting down only, never while reading or writing a file. What is done under it cannot
    /// panic half-way, so a poisoned one is as good as any.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a copy of damaged bytes under `name`; where that fails the log says so.
    pub fn put_aside(&self, name: &str, bytes: &[u8]) -> Option<PathBuf> {
        let put = || {
            let path = free_name(&self.quarantine, name)?;
            fs::write(&path, bytes).context("write", &path)?;
            Ok::<_, StorageError>(path)
        };
        put().inspect_err(|error| tracing::error!(%error, "damaged bytes could not be put aside")).ok()
    }
}

impl State {
    pub fn series(&self, kind: Kind) -> &Series {
        &self.series[kind as usize]
    }

    pub fn series_mut(&mut self, kind: Kind) -> &mut Series {
        &mut self.series[kind as usize]
    }

    /// The file of a segment, opened if need be. It can be read even when the segment is deleted meanwhile.
    pub fn file(&mut self, kind: Kind, id: u32) -> io::Result<Arc<File>> {
        if let Some(at) = self.files.iter().rposition(|open| open.0 == kind && open.1 == id) {
            let last = self.files.len() - 1;
            self.files[at..].rotate_left(1);
            return Ok(self.files[last].2.clone());
        }
        let file = Arc::new(File::open(self.series(kind).path(id))?);
        if self.files.len() == OPEN_FILES {
            self.files.remove(0);
        }
        self.files.push((kind, id, file.clone()));
        Ok(file)
    }

    /// Takes segments out that nothing needs any more, but for `head`; those that only segments taken now need are left
    /// for the next call. Everything known must be on the device.
    pub fn take_dead(&mut self, kind: Kind, head: Option<u32>) -> Vec<u32> {
        let series = &mut self.series[kind as usize];
        let segments = &series.segments;
        let dead = segments.iter().filter(|&(&id, segment)| {
            let needed = || segment.covers.iter().any(|other| *other != id && segments.contains_key(other));
            segment.live == 0 && Some(id) != head && !needed()
        });
        let taken: Vec<u32> = dead.map(|(&id, _)| id).collect();
        for id in &taken {
            series.total -= series.segments.remove(id).map_or(0, |segment| segment.len);
        }
        self.files.retain(|open| open.0 != kind || !taken.contains(&open.1));
        taken
    }
}

impl Series {
    fn new(dir: PathBuf) -> Series {
        Series { dir, index: Index::default(), segments: BTreeMap::new(), total: 0, live: 0 }
    }

    pub fn path(&self, id: u32) -> PathBuf {
        segment::path(&self.dir, id)
    }

    /// The oldest segment of which anything is needed, and the bytes of those before it, which go with the next sync.
    pub fn oldest(&self) -> Option<(u32, u64)> {
        let at = self.segments.iter().find(|(_, segment)| segment.live > 0).map(|(&id, _)| id)?;
        Some((at, self.segments.range(..at).map(|(_, segment)| segment.len).sum()))
    }

    /// Whether a segment other than `head` holds nothing that is needed.
    pub fn has_dead(&self, head: Option<u32>) -> bool {
        self.segments.iter().any(|(&id, segment)| segment.live == 0 && Some(id) != head)
    }

    /// Bytes of segment `id` that are needed.
    pub fn live_in(&self, id: u32) -> u64 {
        self.segments.get(&id).map_or(0, |segment| segment.live)
    }

    /// Whether segment `id` is larger than `spare` and less than half of it is needed.
    pub fn is_mostly_dead(&self, id: u32, spare: u64) -> bool {
        self.segments.get(&id).is_some_and(|segment| segment.len > spare && 2 * segment.live < segment.len)
    }

    /// `bytes` were appended to segment `id`, which is made if there is none.
    pub fn grow(&mut self, id: u32, bytes: u64) {
        self.segments.entry(id).or_default().len += bytes;
        self.total += bytes;
    }

    /// Segment `id` must not go before those in `covered` do.
    pub fn cover(&mut self, id: u32, covered: impl IntoIterator<Item = u32>) {
        self.segments.entry(id).or_default().covers.extend(covered);
    }

    pub fn add(&mut self, queue: u64, entry: Entry) {
        let (id, body) = (entry.segment, entry.body());
        let mut replaced = BTreeSet::new();
        let mut freed = 0;
        let segments = &mut self.segments;
        self.index.add(queue, entry, |segment, bytes| {
            replaced.insert(segment);
            freed += bytes;
            free(segments, segment, bytes);
        });
        let segment = self.segments.entry(id).or_default();
        segment.live += body;
        segment.covers.append(&mut replaced);
        self.live = (self.live + body).saturating_sub(freed);
    }

    pub fn remove(&mut self, queue: u64, first: u64, count: u64) {
        let (segments, live) = (&mut self.segments, &mut self.live);
        self.index.remove(queue, first, first.saturating_add(count), |segment, bytes| {
            free(segments, segment, bytes);
            *live = live.saturating_sub(bytes);
        });
    }

    pub fn drop_queue(&mut self, queue: u64) {
        let (segments, live) = (&mut self.segments, &mut self.live);
        self.index.drop_queue(queue, |segment, bytes| {
            free(segments, segment, bytes);
            *live = live.saturating_sub(bytes);
        });
    }
}

fn free(segments: &mut BTreeMap<u32, Segment>, id: u32, bytes: u64) {
    if let Some(segment) = segments.get_mut(&id) {
        segment.live = segment.live.saturating_sub(bytes);
    }
}
