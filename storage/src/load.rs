//! Reading sled's keys, which come in order: definitions first; then, in a directory of format 1, what is removed, and
//! the records of messages.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::backend::{Bytes, Note, Quarantined, Recovered, RecoveredQueue};
use crate::block::Run;
use crate::error::StorageError;
use crate::gauge::Gauge;
use crate::keys::{self, Joiner, Key};
use crate::marks::Marks;
use crate::record::Record;
use crate::removed::Removed;

/// Takes messages of format 1: queue, and (sequence number of the first message, messages) ascending.
pub(crate) type Found<'a> = dyn FnMut(u64, Vec<(u64, Run)>) -> Result<(), StorageError> + 'a;

/// How much of sled a definition takes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Size {
    /// Under how many keys it lies.
    pub chunks: u32,
    /// Bytes of key and value.
    pub bytes: u32,
}

/// What was read.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    /// Ordered by key.
    pub definitions: Vec<(Bytes, Bytes)>,
    pub sizes: HashMap<Bytes, Size>,
    /// Keys whose values are damaged or senseless, and what they are.
    pub damaged: Vec<Vec<u8>>,
    pub quarantined: Vec<Quarantined>,
}

/// Takes all keys and values in order.
pub(crate) struct Loader<'a, 'b> {
    found: &'a mut Found<'b>,
    gauge: Arc<Gauge>,
    loaded: Loaded,
    /// Stretches of records that were given up: through which sequence number, by queue and first one.
    voids: BTreeMap<(u64, u64), u64>,
    /// About records not yet seen: removals by (queue, first).
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

impl<'a, 'b> Loader<'a, 'b> {
    pub fn new(found: &'a mut Found<'b>) -> Loader<'a, 'b> {
        Loader {
            found,
            gauge: Arc::default(),
            loaded: Loaded::default(),
            voids: BTreeMap::new(),
            removals: HashMap::new(),
            open: None,
        }
    }

    pub fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        match keys::parse_key(key) {
            Key::Format | Key::Quarantine => {}
            Key::Definition { key: name, chunk } => self.chunk(What::Definition(name.into()), key, chunk, value)?,
            Key::Void { queue, from } => {
                match keys::unseal(key, value).and_then(|v| v.try_into().ok()).map(u64::from_be_bytes) {
                    Some(through) => drop(self.voids.insert((queue, from), through)),
                    None => self.damaged(vec![key.to_vec()], Quarantined::Void { queue, from }),
                }
            }
            Key::Removals { queue, first } | Key::Record { queue, first, .. } if self.is_void(queue, first) => {}
            Key::Record { queue, first, chunk } => self.chunk(What::Record { queue, first }, key, chunk, value)?,
            Key::Removals { queue, first } => match keys::unseal(key, value) {
                Some(bytes) => drop(self.removals.insert((queue, first), bytes.to_vec())),
                None => self.damaged(vec![key.to_vec()], Quarantined::Removals { queue, first }),
            },
            Key::Unknown => {
                self.close()?;
                self.damaged(vec![key.to_vec()], Quarantined::Unknown { key: key.into() });
            }
        }
        Ok(())
    }

    fn is_void(&self, queue: u64, first: u64) -> bool {
        let before = self.voids.range(..=(queue, first)).next_back();
        before.is_some_and(|(&(of, _), &through)| of == queue && first <= through)
    }

    pub fn finish(mut self) -> Result<Loaded, StorageError> {
        self.close()?;
        // Of records that are gone or damaged: without them they mean nothing.
        for (queue, first) in std::mem::take(&mut self.removals).into_keys() {
            let key = keys::removals_key(queue, first).to_vec();
            self.damaged(vec![key], Quarantined::Removals { queue, first });
        }
        // Their keys sort by length first.
        self.loaded.definitions.sort_unstable();
        Ok(self.loaded)
    }

    fn chunk(&mut self, what: What, key: &[u8], chunk: u32, value: &[u8]) -> Result<(), StorageError> {
        if self.open.as_ref().is_none_or(|open| open.what != what) {
            self.close()?;
        }
        let open = self.open.get_or_insert_with(|| Open { what, joiner: Joiner::default(), keys: Vec::new() });
        open.joiner.add(key, chunk, value);
        open.keys.push(key.to_vec());
        Ok(())
    }

    /// The open value has all its chunks.
    fn close(&mut self) -> Result<(), StorageError> {
        let Some(Open { what, joiner, keys }) = self.open.take() else {
            return Ok(());
        };
        let joined = joiner.finish();
        match what {
            What::Definition(key) => match joined {
                Some((value, chunks)) => {
                    let bytes = (key.len() + value.len()) as u32;
                    self.loaded.sizes.insert(key.clone(), Size { chunks, bytes });
                    self.loaded.definitions.push((key, value.into()));
                }
                None => self.damaged(keys, Quarantined::Definition { key }),
            },
            What::Record { queue, first } => match joined.and_then(|(bytes, _)| Record::parse(first, bytes)) {
                Some(record) => self.record(queue, record)?,
                None => self.damaged(keys, Quarantined::Record { queue, first }),
            },
        }
        Ok(())
    }

    fn record(&mut self, queue: u64, record: Record) -> Result<(), StorageError> {
        let (first, count) = (record.sequences.first(), record.sequences.count());
        let removed = match self.removals.remove(&(queue, first)).map(|bytes| Removed::decode(&bytes, count)) {
            None => Removed::default(),
            Some(Some(removed)) => removed,
            Some(None) => {
                let key = keys::removals_key(queue, first).to_vec();
                self.damaged(vec![key], Quarantined::Removals { queue, first });
                Removed::default()
            }
        };
        (self.found)(queue, record.into_runs(&removed, &self.gauge))
    }

    fn damaged(&mut self, keys: Vec<Vec<u8>>, what: Quarantined) {
        self.loaded.damaged.extend(keys);
        self.loaded.quarantined.push(what);
    }
}

/// The entry of `queue`, made if there is none.
fn queue(queues: &mut Vec<RecoveredQueue>, queue: u64) -> &mut RecoveredQueue {
    let at = queues.partition_point(|q| q.queue < queue);
    if queues.get(at).is_none_or(|q| q.queue != queue) {
        let made = RecoveredQueue { queue, next_sequence: 1, ..RecoveredQueue::default() };
        queues.insert(at, made);
    }
    &mut queues[at]
}

/// Joins the marks to what was recovered. Where some are lost, as the note says, every stored message counts as delivered,
/// on disk as well: the next crash may find the same boot again.
pub(crate) fn settle_marks(
    marks: &Marks,
    lost: Option<Note>,
    recovered: &mut Recovered,
    notes: &mut Vec<Note>,
) -> Result<(), StorageError> {
    let mut raised = false;
    for (queue, through) in marks.all() {
        self::queue(&mut recovered.queues, queue).delivered_through = through;
    }
    for queue in &mut recovered.queues {
        let last = queue.stored.last().map_or(0, |stored| stored.first + u64::from(stored.count) - 1);
        if lost.is_some() && last > queue.delivered_through {
            marks.mark(queue.queue).delivered_through(last)?;
            queue.delivered_through = last;
            raised = true;
        }
        queue.next_sequence = queue.next_sequence.max(queue.delivered_through.saturating_add(1));
    }
    if raised {
        notes.extend(lost);
        marks.sync()?;
    }
    Ok(())
}
