//! Reading a store back: keys come in order, so definitions and removals are known before the records.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::backend::{Bytes, Note, Quarantined, Recovered, RecoveredQueue};
use crate::block::Gauge;
use crate::error::StorageError;
use crate::index::{Entry, Index};
use crate::keys::{self, Joiner, Key};
use crate::marks::Marks;
use crate::record::{RECORD_MESSAGES, Record};
use crate::removed::Removed;

/// What a whole store comes to.
pub(crate) struct Loaded {
    pub recovered: Recovered,
    pub index: Index,
    /// Under how many keys each definition lies.
    pub definitions: HashMap<Bytes, u32>,
    /// Stretches of records that were given up: through which sequence number, by queue and first one.
    pub voids: BTreeMap<(u64, u64), u64>,
    /// Keys whose values are damaged or senseless.
    pub damaged: Vec<Vec<u8>>,
}

/// Takes all keys and values in order.
pub(crate) struct Loader<'a> {
    gauge: &'a Arc<Gauge>,
    loaded: Loaded,
    /// Sealed entries about records not yet seen: removals by (queue, first).
    removals: HashMap<(u64, u64), Vec<u8>>,
    open: Option<Open>,
}

/// A value whose chunks are being joined.
struct Open {
    what: What,
    joiner: Joiner,
    keys: Vec<Vec<u8>>,
}

#[derive(PartialEq)]
enum What {
    Definition(Bytes),
    Record { queue: u64, first: u64 },
}

impl<'a> Loader<'a> {
    pub fn new(gauge: &'a Arc<Gauge>) -> Loader<'a> {
        Loader {
            gauge,
            loaded: Loaded {
                recovered: Recovered::default(),
                index: Index::default(),
                definitions: HashMap::new(),
                voids: BTreeMap::new(),
                damaged: Vec::new(),
            },
            removals: HashMap::new(),
            open: None,
        }
    }

    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        match keys::parse_key(key) {
            Key::Format | Key::Quarantine => {}
            Key::Definition { key: name, chunk } => self.chunk(What::Definition(name.into()), key, chunk, value),
            Key::Void { queue, from } => self.void(queue, from, key, value),
            Key::Removals { queue, first } | Key::Record { queue, first, .. } if self.is_void(queue, first) => {}
            Key::Record { queue, first, chunk } => self.chunk(What::Record { queue, first }, key, chunk, value),
            Key::Removals { queue, first } => match keys::unseal(key, value) {
                Some(bytes) => {
                    self.removals.insert((queue, first), bytes.to_vec());
                }
                None => self.damaged(vec![key.to_vec()], Quarantined::Removals { queue, first }),
            },
            Key::Unknown => self.damaged(vec![key.to_vec()], Quarantined::Unknown { key: key.into() }),
        }
    }

    fn void(&mut self, queue: u64, from: u64, key: &[u8], value: &[u8]) {
        match keys::unseal(key, value).and_then(|v| v.try_into().ok()).map(u64::from_be_bytes) {
            Some(through) => {
                self.loaded.voids.insert((queue, from), through);
                // A sequence number in a void must not be given out: it would be cleared away with the rest.
                let queue = self::queue(&mut self.loaded.recovered.queues, queue);
                queue.next_sequence = queue.next_sequence.max(through.saturating_add(1));
            }
            None => self.damaged(vec![key.to_vec()], Quarantined::Void { queue, from }),
        }
    }

    fn is_void(&self, queue: u64, first: u64) -> bool {
        let before = self.loaded.voids.range(..=(queue, first)).next_back();
        before.is_some_and(|(&(of, _), &through)| of == queue && first <= through)
    }

    pub fn finish(mut self) -> Loaded {
        self.close();
        // Of records that are gone or damaged: without them they mean nothing.
        for (queue, first) in std::mem::take(&mut self.removals).into_keys() {
            let key = keys::removals_key(queue, first).to_vec();
            self.damaged(vec![key], Quarantined::Removals { queue, first });
        }
        // Their keys sort by length first.
        self.loaded.recovered.definitions.sort_unstable();
        self.loaded
    }

    fn chunk(&mut self, what: What, key: &[u8], chunk: u32, value: &[u8]) {
        if self.open.as_ref().is_none_or(|open| open.what != what) {
            self.close();
        }
        let open = self.open.get_or_insert_with(|| Open { what, joiner: Joiner::default(), keys: Vec::new() });
        open.joiner.add(key, chunk, value);
        open.keys.push(key.to_vec());
    }

    /// The open value has all its chunks.
    fn close(&mut self) {
        let Some(Open { what, joiner, keys }) = self.open.take() else {
            return;
        };
        let joined = joiner.finish();
        match what {
            What::Definition(key) => match joined {
                Some((value, chunks)) => {
                    self.loaded.definitions.insert(key.clone(), chunks);
                    self.loaded.recovered.definitions.push((key, value.into()));
                }
                None => self.damaged(keys, Quarantined::Definition { key }),
            },
            What::Record { queue, first } => {
                let parsed = joined.and_then(|(bytes, n)| Some((Record::parse(first, bytes)?, n)));
                match parsed {
                    Some((record, chunks)) => self.record(queue, record, chunks),
                    None => {
                        let queue_state = self::queue(&mut self.loaded.recovered.queues, queue);
                        // Its messages are unknown, but their sequence numbers are not given out again.
                        let beyond = first.saturating_add(u64::from(RECORD_MESSAGES));
                        queue_state.next_sequence = queue_state.next_sequence.max(beyond);
                        self.damaged(keys, Quarantined::Record { queue, first });
                    }
                }
            }
        }
    }

    fn record(&mut self, queue: u64, record: Record, chunks: u32) {
        let sequences = record.sequences.clone();
        let (first, count) = (sequences.first(), sequences.count());
        let stored = self.removals.remove(&(queue, first));
        let removals_stored = stored.is_some();
        let removed = match stored.map(|bytes| Removed::decode(&bytes, count)) {
            None => Removed::default(),
            Some(Some(removed)) => removed,
            Some(None) => {
                let key = keys::removals_key(queue, first).to_vec();
                self.damaged(vec![key], Quarantined::Removals { queue, first });
                Removed::default()
            }
        };
        let recovered = &mut self.loaded.recovered;
        let queue_state = self::queue(&mut recovered.queues, queue);
        queue_state.next_sequence = queue_state.next_sequence.max(sequences.last().saturating_add(1));
        for (first, run) in record.into_runs(&removed, self.gauge) {
            recovered.messages += u64::from(run.count());
            recovered.bytes += run.bytes() as u64;
            queue_state.runs.push((first, run));
        }
        self.loaded.index.add(queue, Entry { sequences, chunks, removed, removals_stored });
    }

    fn damaged(&mut self, keys: Vec<Vec<u8>>, what: Quarantined) {
        self.loaded.damaged.extend(keys);
        self.loaded.recovered.quarantined.push(what);
    }
}

/// The entry of `queue`, made if there is none. Records come ordered by queue, so it is nearly always the last.
pub(crate) fn queue(queues: &mut Vec<RecoveredQueue>, queue: u64) -> &mut RecoveredQueue {
    let at = match queues.last() {
        Some(last) if last.queue < queue => queues.len(),
        _ => queues.partition_point(|q| q.queue < queue),
    };
    if queues.get(at).is_none_or(|q| q.queue != queue) {
        let made = RecoveredQueue { queue, next_sequence: 1, ..RecoveredQueue::default() };
        queues.insert(at, made);
    }
    &mut queues[at]
}

/// Joins the marks to what was recovered. Where a power cut may have taken some, every stored message counts as
/// delivered, on disk as well: the next crash may find the same boot again.
pub(crate) fn settle_marks(
    marks: &Marks,
    exact: bool,
    recovered: &mut Recovered,
    notes: &mut Vec<Note>,
) -> Result<(), StorageError> {
    let mut raised = false;
    for (queue, through) in marks.all() {
        self::queue(&mut recovered.queues, queue).delivered_through = through;
    }
    for queue in &mut recovered.queues {
        let last = queue.runs.last().map_or(0, |(first, run)| first + u64::from(run.count()) - 1);
        if !exact && last > queue.delivered_through {
            marks.mark(queue.queue).delivered_through(last)?;
            queue.delivered_through = last;
            raised = true;
        }
        queue.next_sequence = queue.next_sequence.max(queue.delivered_through.saturating_add(1));
    }
    if raised {
        notes.push(Note::MarksRaised);
        marks.sync()?;
    }
    Ok(())
}
