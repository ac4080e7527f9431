//! One suite that every backend passes. For tests: a check that fails panics.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::backend::{Backend, Batch, Op, Recovered};
use crate::block::{Block, Gauge, Run, Span};
use crate::error::StorageError;

/// Where a backend under test lives: opening it again finds what was left there.
pub trait Place {
    fn open(&self) -> Result<(Box<dyn Backend>, Recovered), StorageError>;

    /// False for a backend that forgets everything when it is let go.
    fn keeps(&self) -> bool;
}

/// Messages as (meta, body), by sequence number.
pub type Messages = BTreeMap<u64, (u64, Vec<u8>)>;

/// What a store should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    pub definitions: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Queues that have messages.
    pub queues: BTreeMap<u64, Messages>,
}

impl Model {
    /// What `op` does, said in the simplest way.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Spill { .. } => {}
            Op::PutDefinition { key, value } => {
                self.definitions.insert(key.to_vec(), value.to_vec());
            }
            Op::DeleteDefinition { key } => {
                self.definitions.remove(&key[..]);
            }
            Op::Insert { queue, first, run } => {
                let messages = (*first..).zip(run.messages().map(|(body, meta)| (meta, body.to_vec())));
                self.queues.entry(*queue).or_default().extend(messages);
            }
            Op::Remove { queue, first, count } => {
                let end = first.saturating_add(*count);
                if let Some(messages) = self.queues.get_mut(queue) {
                    messages.retain(|sequence, _| !(*first..end).contains(sequence));
                }
            }
            Op::DropQueue { queue } => {
                self.queues.remove(queue);
            }
        }
        self.queues.retain(|_, messages| !messages.is_empty());
    }

    /// What a store said it held.
    ///
    /// # Panics
    /// When it is not in order, or its counts are wrong.
    pub fn of(recovered: &Recovered) -> Model {
        let mut model = Model::default();
        for (key, value) in &recovered.definitions {
            model.definitions.insert(key.to_vec(), value.to_vec());
        }
        assert!(recovered.queues.is_sorted_by(|a, b| a.queue < b.queue), "queues ascend");
        let (mut count, mut bytes) = (0, 0);
        for queue in &recovered.queues {
            let mut last = 0;
            for (first, run) in &queue.runs {
                assert!(run.count() > 0 && *first > last, "runs ascend and none is empty");
                last = first + u64::from(run.count()) - 1;
                count += u64::from(run.count());
                bytes += run.bytes() as u64;
                let messages = (*first..).zip(run.messages().map(|(body, meta)| (meta, body.to_vec())));
                model.queues.entry(queue.queue).or_default().extend(messages);
            }
            assert!(queue.next_sequence > last, "a sequence number is not given twice");
            assert!(queue.next_sequence > queue.delivered_through, "a mark does not cover what is yet to come");
        }
        assert_eq!((recovered.messages, recovered.bytes), (count, bytes), "the counts are right");
        model
    }
}

/// A run of messages with these metas and bodies, in a block of its own.
pub fn run(messages: &[(u64, Vec<u8>)]) -> Run {
    let mut buffer = Vec::new();
    let mut spans = Vec::new();
    for (meta, body) in messages {
        let (start, len) = (buffer.len() as u32, body.len() as u32);
        spans.push(Span { start, len, meta: *meta });
        buffer.extend_from_slice(body);
    }
    let to = spans.len() as u32;
    let block = Block::new(buffer, spans, &Arc::new(Gauge::default()));
    Run { block, from: 0, to }
}

/// An insert of `count` messages of `len` bytes whose metas and bodies tell them apart.
pub fn insert(queue: u64, first: u64, count: u32, len: usize) -> Op {
    let message = |i: u32| {
        let sequence = first + u64::from(i);
        let seed = sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ queue;
        (seed, (0..len).map(|at| (seed >> (at % 8 * 8)) as u8 ^ (at / 8) as u8).collect())
    };
    let messages: Vec<_> = (0..count).map(message).collect();
    Op::Insert { queue, first, run: run(&messages) }
}

/// Runs every check; `fresh` makes an empty place for each.
pub fn all<P: Place>(fresh: impl Fn() -> P) {
    a_new_store_is_empty(&fresh());
    what_was_committed_is_found_again(&fresh());
    large_and_empty_bodies_come_back_whole(&fresh());
    removals_take_exactly_what_they_name(&fresh());
    a_dropped_queue_is_gone_with_its_mark(&fresh());
    long_queues_are_purged_and_dropped(&fresh());
    definitions_are_replaced_and_deleted(&fresh());
    marks_come_back(&fresh());
}

/// Commits the batches, opening the store again after each (closed and just let go, in turns), and compares.
fn compare(place: &impl Place, batches: Vec<Vec<Op>>) {
    let mut model = Model::default();
    for (round, ops) in batches.into_iter().enumerate() {
        let (mut backend, recovered) = open(place);
        assert_eq!(Model::of(&recovered), expected(place, &model), "before batch {round}");
        ops.iter().for_each(|op| model.apply(op));
        done(backend.commit(&Batch::fold(ops)));
        if round % 2 == 0 {
            done(backend.sync());
            done(backend.close());
        }
    }
    let (_backend, recovered) = open(place);
    assert_eq!(Model::of(&recovered), expected(place, &model), "after the last batch");
}

fn expected(place: &impl Place, model: &Model) -> Model {
    if place.keeps() { model.clone() } else { Model::default() }
}

fn open(place: &impl Place) -> (Box<dyn Backend>, Recovered) {
    match place.open() {
        Ok(opened) => opened,
        Err(error) => panic!("the store opens: {error}"),
    }
}

fn done(result: Result<(), StorageError>) {
    if let Err(error) = result {
        panic!("the store does what it is asked: {error}");
    }
}

fn remove(queue: u64, first: u64, count: u64) -> Op {
    Op::Remove { queue, first, count }
}

fn a_new_store_is_empty(place: &impl Place) {
    let (backend, recovered) = open(place);
    assert_eq!(Model::of(&recovered), Model::default());
    assert!(recovered.queues.is_empty() && recovered.clean && recovered.quarantined.is_empty());
    done(backend.close());
}

fn what_was_committed_is_found_again(place: &impl Place) {
    let batches = vec![
        vec![insert(1, 1, 10, 100), insert(2, 5, 3, 10)],
        vec![insert(1, 11, 2000, 50), insert(1, 5000, 1, 8)],
        vec![insert(2, 100, 300, 1024), insert(u64::MAX, 1, 1, 1)],
    ];
    compare(place, batches);
}

fn large_and_empty_bodies_come_back_whole(place: &impl Place) {
    let sizes = [0, 1, 65_535, 65_536, 65_537, 200_000, 0, 3_000_000, 17];
    let big = (1..).zip(sizes).map(|(first, len)| insert(1, first, 1, len)).collect();
    compare(place, vec![big, vec![remove(1, 3, 1), remove(1, 8, 1)], vec![remove(1, 6, 1)]]);
}

fn removals_take_exactly_what_they_name(place: &impl Place) {
    let batches = vec![
        vec![insert(1, 10, 500, 20), insert(2, 10, 5, 20)],
        vec![remove(1, 10, 1), remove(1, 300, 1), remove(1, 302, 1)],
        vec![remove(1, 0, 30), remove(3, 1, 100)],
        vec![insert(1, 1000, 5, 20), remove(1, 1002, 1), remove(1, 500, 502)],
        vec![remove(1, 20, u64::MAX), insert(1, 2000, 3, 20)],
    ];
    compare(place, batches);
}

fn a_dropped_queue_is_gone_with_its_mark(place: &impl Place) {
    let batches = vec![
        vec![insert(1, 1, 2000, 100), insert(2, 1, 10, 100)],
        vec![remove(1, 5, 1)],
        vec![Op::DropQueue { queue: 1 }, Op::DropQueue { queue: 9 }],
    ];
    compare(place, batches);
    let (backend, _) = open(place);
    done(backend.marks().mark(2).delivered_through(3));
    done(backend.marks().forget(2));
    assert_eq!(backend.marks().all(), []);
}

fn long_queues_are_purged_and_dropped(place: &impl Place) {
    let trifle = || Op::PutDefinition { key: Box::from(*b"k"), value: Box::from(*b"v") };
    let mut batches = vec![
        vec![insert(1, 1, 5000, 1000), insert(2, 1, 5000, 1000), insert(3, 1, 10, 10)],
        vec![remove(1, 7, 1), remove(1, 2500, 1), remove(2, 77, 1)],
        vec![remove(1, 3, 4000), Op::DropQueue { queue: 2 }],
        vec![insert(1, 5001, 3000, 1000), remove(1, 4900, u64::MAX)],
        vec![remove(1, 4500, u64::MAX), insert(1, 8001, 10, 1000)],
    ];
    batches.extend((0..20).map(|_| vec![trifle()]));
    compare(place, batches);
}

fn definitions_are_replaced_and_deleted(place: &impl Place) {
    let put = |key: &[u8], len: usize| Op::PutDefinition { key: key.into(), value: vec![len as u8; len].into() };
    let batches = vec![
        vec![put(b"", 0), put(b"a", 3), put(b"a\0\0\0\0", 4), put(b"queue", 300_000)],
        vec![put(b"a", 200_000), put(b"queue", 70_000)],
        vec![Op::DeleteDefinition { key: Box::from(*b"a") }, Op::DeleteDefinition { key: Box::from(*b"none") }],
        vec![put(b"queue", 5), Op::DeleteDefinition { key: Box::from(*b"") }],
    ];
    compare(place, batches);
}

fn marks_come_back(place: &impl Place) {
    let (mut backend, _) = open(place);
    done(backend.commit(&Batch::fold([insert(1, 1, 10, 10)])));
    done(backend.marks().mark(1).delivered_through(4));
    done(backend.marks().mark(2).delivered_through(7));
    drop(backend);
    let (_backend, recovered) = open(place);
    let marks: Vec<_> = recovered.queues.iter().map(|q| (q.queue, q.delivered_through, q.next_sequence)).collect();
    let kept = if place.keeps() { vec![(1, 4, 11), (2, 7, 8)] } else { vec![] };
    assert_eq!(marks, kept);
}
