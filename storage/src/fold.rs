//! Folding: what was inserted and removed before it was written is never written at all.
//!
//! A queue whose consumers keep up has most of its messages acked before the next commit; without folding the disk
//! would see every one of them twice.

use std::collections::{BTreeMap, HashMap};

use crate::backend::{Batch, Op, QueueBatch};
use crate::block::Run;

/// Operations gathered for the next commit, reduced to their net effect.
#[derive(Debug, Default)]
pub(crate) struct Fold {
    definitions: BTreeMap<Box<[u8]>, Option<Box<[u8]>>>,
    queues: HashMap<u64, QueueFold>,
}

#[derive(Debug, Default)]
struct QueueFold {
    dropped: bool,
    inserts: BTreeMap<u64, Run>,
    spills: BTreeMap<u64, Run>,
    removals: Vec<(u64, u64)>,
    /// The first sequence number inserted in this fold. Sequence numbers rise, so nothing from here on can be
    /// stored already, and a removal beyond it concerns `inserts` and `spills` alone.
    fresh_from: Option<u64>,
}

impl Fold {
    /// Takes in one operation, in the order of submission.
    pub fn add(&mut self, op: Op) {
        match op {
            Op::PutDefinition { key, value } => {
                self.definitions.insert(key, Some(value));
            }
            Op::DeleteDefinition { key } => {
                self.definitions.insert(key, None);
            }
            Op::Insert { queue, first, run } => self.queues.entry(queue).or_default().insert(first, run),
            Op::Spill { queue, first, run } => self.queues.entry(queue).or_default().spill(first, run),
            Op::Remove { queue, first, count } => self.queues.entry(queue).or_default().remove(first, count),
            Op::DropQueue { queue } => {
                let fold = QueueFold { dropped: true, ..QueueFold::default() };
                self.queues.insert(queue, fold);
            }
        }
    }

    /// Goes on with a batch that could not be written yet.
    pub fn resume(batch: Batch) -> Fold {
        let queues = batch.queues.into_iter().map(|batch| {
            let QueueBatch { queue, dropped, removals, inserts, spills } = batch;
            let fresh_from = inserts.first().map(|(first, _)| *first);
            let (inserts, spills) = (inserts.into_iter().collect(), spills.into_iter().collect());
            (queue, QueueFold { dropped, inserts, spills, removals, fresh_from })
        });
        Fold { definitions: batch.definitions.into_iter().collect(), queues: queues.collect() }
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.definitions.is_empty() && self.queues.values().all(QueueFold::is_empty)
    }

    /// The net effect; empty where everything cancelled out.
    pub fn finish(self) -> Batch {
        let queues = self.queues.into_iter().filter(|(_, fold)| !fold.is_empty());
        Batch {
            definitions: self.definitions.into_iter().collect(),
            queues: queues.map(|(queue, fold)| fold.finish(queue)).collect(),
            at_once: false,
        }
    }
}

impl QueueFold {
    fn insert(&mut self, first: u64, run: Run) {
        if run.count() == 0 {
            return;
        }
        let fresh_from = self.fresh_from.get_or_insert(first);
        *fresh_from = first.min(*fresh_from);
        self.inserts.insert(first, run);
    }

    fn spill(&mut self, first: u64, run: Run) {
        if run.count() > 0 {
            // They may come again, and the last one counts.
            cancel(&mut self.spills, first, first.saturating_add(u64::from(run.count())));
            self.spills.insert(first, run);
        }
    }

    fn remove(&mut self, first: u64, count: u64) {
        let end = first.saturating_add(count);
        cancel(&mut self.inserts, first, end);
        cancel(&mut self.spills, first, end);
        if self.dropped {
            return;
        }
        let stored_end = end.min(self.fresh_from.unwrap_or(u64::MAX));
        if first >= stored_end {
            return;
        }
        match self.removals.last_mut() {
            Some((from, n)) if *from + *n == first => *n += stored_end - first,
            _ => self.removals.push((first, stored_end - first)),
        }
    }

    fn is_empty(&self) -> bool {
        !self.dropped && self.inserts.is_empty() && self.spills.is_empty() && self.removals.is_empty()
    }

    fn finish(self, queue: u64) -> QueueBatch {
        QueueBatch {
            queue,
            dropped: self.dropped,
            inserts: self.inserts.into_iter().collect(),
            spills: self.spills.into_iter().collect(),
            removals: self.removals,
        }
    }
}

/// Takes `first..end` out of the pending `runs`, cutting runs that reach beyond.
fn cancel(runs: &mut BTreeMap<u64, Run>, first: u64, end: u64) {
    if let Some((&start, run)) = runs.range(..first).next_back() {
        let run_end = start + u64::from(run.count());
        if run_end > first {
            let keep = (first - start) as u32;
            let (head, tail) = (run.slice(0, keep), run.slice(keep, run.count()));
            runs.insert(start, head);
            runs.insert(first, tail);
        }
    }
    while let Some((&start, run)) = runs.range(first..end).next() {
        let run_end = start + u64::from(run.count());
        let tail = (run_end > end).then(|| run.slice((end - start) as u32, run.count()));
        runs.remove(&start);
        if let Some(tail) = tail {
            runs.insert(end, tail);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::block::{Block, Span};
    use crate::gauge::Gauge;

    fn run(count: u32) -> Run {
        let spans = (0..count).map(|i| Span { start: 0, len: 1, meta: u64::from(i) });
        let block = Block::new(vec![0], spans.collect(), &Arc::new(Gauge::default()));
        Run { block, from: 0, to: count }
    }

    fn insert(first: u64, count: u32) -> Op {
        Op::Insert { queue: 1, first, run: run(count) }
    }

    fn remove(first: u64, count: u64) -> Op {
        Op::Remove { queue: 1, first, count }
    }

    fn fold(ops: impl IntoIterator<Item = Op>) -> Batch {
        Batch::fold(ops)
    }

    /// (first, metas) of what is left to insert.
    fn inserts(batch: &Batch) -> Vec<(u64, Vec<u64>)> {
        let runs = batch.queues.iter().flat_map(|q| &q.inserts);
        runs.map(|(first, run)| (*first, run.messages().map(|m| m.1).collect())).collect()
    }

    fn removals(batch: &Batch) -> Vec<(u64, u64)> {
        batch.queues.iter().flat_map(|q| q.removals.clone()).collect()
    }

    #[test]
    fn a_message_removed_before_it_was_written_is_not_written() {
        assert!(fold([insert(5, 3), remove(5, 1), remove(6, 2)]).is_empty());
    }

    #[test]
    fn a_removal_cuts_runs_at_both_ends_and_in_the_middle() {
        let batch = fold([insert(5, 4), insert(20, 4), remove(7, 14)]);
        assert_eq!(inserts(&batch), [(5, vec![0, 1]), (21, vec![1, 2, 3])]);
        assert_eq!(removals(&batch), []);
        let batch = fold([insert(5, 5), remove(7, 1)]);
        assert_eq!(inserts(&batch), [(5, vec![0, 1]), (8, vec![3, 4])]);
    }

    #[test]
    fn a_removal_of_stored_and_pending_messages_keeps_the_stored_part() {
        let batch = fold([insert(10, 2), remove(3, 9)]);
        assert_eq!(inserts(&batch), []);
        assert_eq!(removals(&batch), [(3, 7)]);
    }

    #[test]
    fn neighbouring_removals_become_one() {
        assert_eq!(removals(&fold([remove(3, 1), remove(4, 2), remove(9, 1)])), [(3, 3), (9, 1)]);
    }

    #[test]
    fn a_purge_without_end_is_understood() {
        let batch = fold([insert(10, 2), remove(1, u64::MAX), insert(12, 1)]);
        assert_eq!(inserts(&batch), [(12, vec![0])]);
        assert_eq!(removals(&batch), [(1, 9)]);
        assert_eq!(removals(&fold([remove(0, u64::MAX)])), [(0, u64::MAX)]);
    }

    #[test]
    fn a_removal_leaves_alone_what_is_inserted_after_it() {
        let batch = fold([remove(1, u64::MAX), insert(5, 2), remove(5, 1)]);
        assert_eq!(removals(&batch), [(1, u64::MAX - 1)]);
        assert_eq!(inserts(&batch), [(6, vec![1])]);
    }

    #[test]
    fn a_dropped_queue_cancels_what_came_before_it_only() {
        let batch = fold([remove(1, 1), insert(5, 3), Op::DropQueue { queue: 1 }, remove(2, 1), insert(9, 1)]);
        assert!(batch.queues[0].dropped);
        assert_eq!(inserts(&batch), [(9, vec![0])]);
        assert_eq!(removals(&batch), []);
    }

    #[test]
    fn what_could_not_be_written_yet_meets_its_removal_later() {
        let batch = fold([remove(1, 1), insert(5, 4)]);
        let mut later = Fold::resume(batch);
        later.add(remove(2, 5));
        let batch = later.finish();
        assert_eq!(inserts(&batch), [(7, vec![2, 3])]);
        assert_eq!(removals(&batch), [(1, 4)]);
    }

    #[test]
    fn what_makes_room_can_be_written_before_the_rest() {
        let key = |name: &[u8]| Box::from(name);
        let mut batch = fold([
            remove(1, 1),
            insert(5, 4),
            Op::DropQueue { queue: 2 },
            Op::DeleteDefinition { key: key(b"gone") },
            Op::PutDefinition { key: key(b"new"), value: key(b"value") },
        ]);
        let relief = batch.take_relief();
        assert_eq!(relief.definitions, [(key(b"gone"), None)]);
        assert_eq!((removals(&relief), inserts(&relief)), (vec![(1, 1)], vec![]));
        assert!(relief.queues.iter().any(|queue| queue.queue == 2 && queue.dropped));
        assert_eq!(batch.definitions, [(key(b"new"), Some(key(b"value")))]);
        assert_eq!((removals(&batch), inserts(&batch)), (vec![], vec![(5, vec![0, 1, 2, 3])]));
        assert!(batch.queues.iter().all(|queue| !queue.dropped));
    }

    #[test]
    fn the_last_word_on_a_definition_counts() {
        let key = || Box::from(*b"k");
        let put = |value: &[u8]| Op::PutDefinition { key: key(), value: value.into() };
        let batch = fold([put(b"1"), Op::DeleteDefinition { key: key() }, put(b"2")]);
        assert_eq!(batch.definitions, [(key(), Some(Box::from(*b"2")))]);
        let batch = fold([put(b"1"), Op::DeleteDefinition { key: key() }]);
        assert_eq!(batch.definitions, [(key(), None)]);
    }
}
