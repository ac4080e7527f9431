//! Moves the content of messages between memory and storage.
//!
//! Above half of the memory limit, queues let go of content that storage has, but for what is next; transient messages
//! are given to storage first (*spilled*). What a queue wants back is read in portions, away from the queue's turn.

use std::sync::{Arc, Weak};

use leveret_storage::{Gauge, Reader, Run, StorageError, Stored};
use tokio::runtime::Handle;

use crate::command::{QueueCommand, Segment};
use crate::queue::Queue;

/// Bytes of what is next that a queue with consumers keeps in memory, and reads ahead.
const AHEAD: usize = 1 << 20;
/// The same where memory is nearly used up.
const AHEAD_SCARCE: usize = 64 << 10;

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

    /// Storage has all of these messages of a queue, so that they can be read back.
    pub fn holds(&self, queue: u64, first: u64, count: u32) -> bool {
        self.reader.as_ref().is_some_and(|reader| reader.holds(queue, first, count))
    }

    /// Reads messages back at once, at start, before anything is served. What could not be read is left out.
    pub fn fetch(&self, queue: u64, segments: Vec<Segment>) -> Result<Vec<Segment>, StorageError> {
        let Some(reader) = &self.reader else { return Ok(segments) };
        let mut fetched = Vec::new();
        for segment in segments {
            let runs = reader.read(queue, segment.first, segment.count(), &self.gauge)?;
            segment.materialise(&runs, &mut fetched);
        }
        Ok(fetched)
    }

    /// Reads everything back that is stored under an id, at start. What could not be read is left out.
    pub fn fetch_all(&self, queue: u64, stored: &[Stored]) -> Result<Vec<(u64, Run)>, StorageError> {
        let Some(reader) = &self.reader else { return Ok(Vec::new()) };
        let mut runs = Vec::new();
        for Stored { first, count, .. } in stored {
            runs.append(&mut reader.read(queue, *first, *count, &self.gauge)?);
        }
        Ok(runs)
    }

    /// Reads messages back and gives them to the queue.
    pub fn load(&self, queue: Weak<Queue>, first: u64, count: u32) {
        let (Some(reader), Some(runtime)) = (self.reader.clone(), &self.runtime) else { return };
        let gauge = self.gauge.clone();
        runtime.spawn_blocking(move || {
            let Some(queue) = queue.upgrade() else { return };
            match reader.read(queue.id, first, count, &gauge) {
                Ok(runs) => queue.push(QueueCommand::Loaded { first, count, runs }),
                // The store has failed or is closed: the broker is about to end.
                Err(error) => tracing::error!(queue = &*queue.name, %error, "messages cannot be read back"),
            }
        });
    }

    /// Lets the queue know, from a thread that must not run it, that it may let go of more.
    pub fn spill_soon(&self, queue: Arc<Queue>) {
        let Some(runtime) = &self.runtime else { return };
        runtime.spawn(async move { queue.push(QueueCommand::Spill) });
    }
}
