//! Moves the content of messages between memory and storage.
//!
//! Above half of the memory limit, queues and delayed exchanges let go of content that storage has, but for what is
//! next; transient messages are given to storage first (*spilled*). What they want back is read in portions, away from
//! their turns.

use std::sync::{Arc, Weak};

use leveret_storage::{Gauge, Outline, Reader, Run, StorageError};
use tokio::runtime::Handle;

use crate::command::Segment;

/// Who holds messages of which storage may have the only copy.
pub trait Holder: Send + Sync {
    /// Identity in storage.
    fn id(&self) -> u64;

    /// For the log.
    fn name(&self) -> &str;

    fn paging(&self) -> &Paging;

    /// It may let go of more: storage has what it was given.
    fn may_spill(&self);

    /// What storage has of the messages that it `wanted`, ascending; what is missing could not be read.
    fn loaded(&self, wanted: Ranges, runs: Vec<(u64, Run)>);
}

/// Messages by sequence number: (first, count), ascending and apart.
pub type Ranges = Vec<(u64, u32)>;

/// Adds messages behind all others, to the last range if they follow it.
pub fn append(ranges: &mut Ranges, first: u64, count: u32) {
    if let Some((from, before)) = ranges.last_mut()
        && *from + u64::from(*before) == first
        && let Some(sum) = before.checked_add(count)
    {
        *before = sum;
    } else {
        ranges.push((first, count));
    }
}

/// Bytes of what is next that a queue with consumers keeps in memory, and reads ahead.
const AHEAD: usize = 1 << 20;
/// The same where memory is nearly used up.
const AHEAD_SCARCE: usize = 64 << 10;
/// Bytes of what is due next that a delayed exchange keeps in memory at most, and reads at once.
const WINDOW: usize = 64 << 20;

pub struct Paging {
    /// None: storage gives nothing back, so everything stays in memory.
    reader: Option<Arc<dyn Reader>>,
    gauge: Arc<Gauge>,
    /// Bytes of messages in memory at which publishers are stopped.
    limit: usize,
    runtime: Option<Handle>,
}

impl Paging {
    /// `limit` in bytes of messages. Reads run on the current tokio runtime.
    pub fn new(reader: Option<Arc<dyn Reader>>, gauge: Arc<Gauge>, limit: usize) -> Arc<Paging> {
        Arc::new(Paging { reader, gauge, limit, runtime: Handle::try_current().ok() })
    }

    /// Everything stays in memory.
    #[cfg(test)]
    pub fn none() -> Arc<Paging> {
        Arc::new(Paging { reader: None, gauge: Arc::default(), limit: usize::MAX, runtime: None })
    }

    /// Memory is short, and storage can be read.
    #[cfg(test)]
    pub fn short_of_memory(reader: Arc<dyn Reader>) -> Paging {
        Paging { reader: Some(reader), gauge: Arc::default(), limit: 0, runtime: None }
    }

    /// Content is to leave memory.
    pub fn is_high(&self) -> bool {
        self.gauge.bytes() > self.limit / 2 && self.reader.is_some()
    }

    /// Bytes that a queue reads ahead.
    pub fn ahead(&self) -> usize {
        if self.gauge.bytes() > self.limit / 4 * 3 { AHEAD_SCARCE } else { AHEAD }
    }

    /// Bytes that a delayed exchange reads ahead. More than a queue does: what is due next may lie anywhere in storage,
    /// and the more is read at once, the less often a place is come back to.
    pub fn window(&self) -> usize {
        let share = match self.gauge.bytes() {
            bytes if bytes > self.limit / 8 * 7 => return AHEAD_SCARCE,
            bytes if bytes > self.limit / 4 * 3 => self.limit / 32,
            _ => self.limit / 16,
        };
        share.clamp(AHEAD_SCARCE, WINDOW)
    }

    /// Storage has all of these messages of a queue, so that they can be read back.
    pub fn holds(&self, queue: u64, first: u64, count: u32) -> bool {
        self.reader.as_ref().is_some_and(|reader| reader.holds(queue, first, count))
    }

    /// Reads messages back at once, at start. What could not be read is left out.
    pub fn fetch(&self, queue: u64, segment: &Segment) -> Result<Vec<Segment>, StorageError> {
        let Some(reader) = &self.reader else { return Ok(Vec::new()) };
        let mut fetched = Vec::new();
        let runs = reader.read(queue, segment.first, segment.count(), &self.gauge)?;
        segment.materialise(&runs, &mut fetched);
        Ok(fetched)
    }

    /// What storage knows of messages without reading them, at start.
    pub fn outlines(&self, queue: u64, first: u64, count: u32) -> Result<Vec<Outline>, StorageError> {
        self.reader.as_ref().map_or(Ok(Vec::new()), |reader| reader.outlines(queue, first, count))
    }

    /// Reads messages back and gives them to their holder.
    pub fn load(&self, holder: Weak<dyn Holder>, wanted: Ranges) {
        let (Some(reader), Some(runtime)) = (self.reader.clone(), &self.runtime) else { return };
        let gauge = self.gauge.clone();
        runtime.spawn_blocking(move || {
            let Some(holder) = holder.upgrade() else { return };
            match reader.read_all(holder.id(), &wanted, &gauge) {
                Ok(runs) => holder.loaded(wanted, runs),
                // The store has failed or is closed: the broker is about to end.
                Err(error) => tracing::error!(of = holder.name(), %error, "messages cannot be read back"),
            }
        });
    }
}

/// Lets `holder` know, from a thread that must not run it, that it may let go of more.
pub fn spill_soon(holder: Arc<dyn Holder>) {
    let runtime = holder.paging().runtime.clone();
    if let Some(runtime) = runtime {
        runtime.spawn(async move { holder.may_spill() });
    }
}
