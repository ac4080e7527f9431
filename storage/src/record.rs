//! Records of format 1: many messages of one queue under one key.
//!
//! ```text
//! messages, stretches, (gap, count) per stretch, (meta, length) per message, bodies     numbers are LEB128
//! ```

use std::sync::Arc;

use crate::block::{Run, Span, runs_of};
use crate::bytes::Input;
#[cfg(test)]
use crate::bytes::put_varint;
use crate::gauge::Gauge;
use crate::removed::Removed;
use crate::sequences::{Sequences, parse_stretches};

/// Messages in a record, so that the removals of one (a bit each at worst) stay short.
pub(crate) const RECORD_MESSAGES: u32 = 1024;

/// Gathers messages of one queue for one record.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct RecordBuilder {
    /// (first sequence number, count), ascending and apart.
    stretches: Vec<(u64, u32)>,
    count: u32,
    lengths: Vec<u8>,
    bodies: Vec<u8>,
}

#[cfg(test)]
impl RecordBuilder {
    /// Adds the message `sequence`, which must be greater than the one before.
    pub fn push(&mut self, sequence: u64, meta: u64, body: &[u8]) {
        match self.stretches.last_mut() {
            Some((first, count)) if *first + u64::from(*count) == sequence => *count += 1,
            _ => self.stretches.push((sequence, 1)),
        }
        self.count += 1;
        put_varint(&mut self.lengths, meta);
        put_varint(&mut self.lengths, body.len() as u64);
        self.bodies.extend_from_slice(body);
    }

    /// Its sequence numbers, and the parts of its value.
    pub fn finish(self) -> (Sequences, Vec<u8>, Vec<u8>) {
        let mut head = Vec::with_capacity(self.lengths.len() + 16);
        put_varint(&mut head, u64::from(self.count));
        put_varint(&mut head, self.stretches.len() as u64);
        let mut end = self.stretches.first().map_or(0, |s| s.0);
        for &(first, count) in &self.stretches {
            put_varint(&mut head, first - end);
            put_varint(&mut head, u64::from(count));
            end = first + u64::from(count);
        }
        head.extend_from_slice(&self.lengths);
        (Sequences::new(self.stretches), head, self.bodies)
    }
}

/// A record as it was read.
#[derive(Debug)]
pub(crate) struct Record {
    pub sequences: Sequences,
    /// Offset and length refer to `bytes`.
    spans: Vec<Span>,
    bytes: Vec<u8>,
}

impl Record {
    /// Reads a joined value; `None` if it makes no sense.
    pub fn parse(first: u64, bytes: Vec<u8>) -> Option<Record> {
        let mut input = Input(&bytes);
        let count = u32::try_from(input.varint()?).ok().filter(|&n| n > 0 && n <= RECORD_MESSAGES)?;
        let stretches = parse_stretches(&mut input, first, count).filter(|stretches| stretches[0].0 == first)?;
        let mut spans = Vec::with_capacity(count as usize);
        let mut start = 0u32;
        for _ in 0..count {
            let (meta, len) = (input.varint()?, u32::try_from(input.varint()?).ok()?);
            spans.push(Span { start, len, meta });
            start = start.checked_add(len)?;
        }
        if input.0.len() != start as usize {
            return None;
        }
        let base = u32::try_from(bytes.len()).ok()? - start;
        spans.iter_mut().for_each(|span| span.start += base);
        Some(Record { sequences: Sequences::new(stretches), spans, bytes })
    }

    /// The messages that are not `removed`, in a block of their own, as runs without gaps.
    pub fn into_runs(self, removed: &Removed, gauge: &Arc<Gauge>) -> Vec<(u64, Run)> {
        let mut stretches: Vec<(u64, u32)> = Vec::new();
        let mut spans = Vec::with_capacity(self.spans.len());
        for (index, (sequence, span)) in self.sequences.iter().zip(&self.spans).enumerate() {
            if removed.contains(index as u32) {
                continue;
            }
            match stretches.last_mut() {
                Some((first, count)) if *first + u64::from(*count) == sequence => *count += 1,
                _ => stretches.push((sequence, 1)),
            }
            spans.push(*span);
        }
        runs_of(self.bytes, spans, stretches, gauge).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_record_is_read_as_it_was_written(
            messages in prop::collection::vec((0u64..3, any::<u64>(), prop::collection::vec(any::<u8>(), 0..40)), 1..50),
            first in 0u64..u64::MAX - 1000,
        ) {
            let mut builder = RecordBuilder::default();
            let mut sequence = first;
            let mut expected = Vec::new();
            for (gap, meta, body) in &messages {
                builder.push(sequence, *meta, body);
                expected.push((sequence, *meta, body.clone()));
                sequence += 1 + gap;
            }
            let (sequences, head, bodies) = builder.finish();
            let record = Record::parse(first, [head, bodies].concat()).unwrap();
            prop_assert_eq!(&record.sequences, &sequences);
            prop_assert!(expected.iter().zip(0..).all(|(m, index)| sequences.index_of(m.0) == index));
            let runs = record.into_runs(&Removed::default(), &Arc::new(Gauge::default()));
            let read: Vec<_> = runs.iter()
                .flat_map(|(first, run)| (*first..).zip(run.messages()))
                .map(|(sequence, (body, meta))| (sequence, meta, body.to_vec()))
                .collect();
            prop_assert_eq!(read, expected);
        }

        #[test]
        fn garbage_is_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..60), first: u64) {
            // Whatever was accepted can be used.
            if let Some(record) = Record::parse(first, bytes) {
                let count = record.sequences.count() as usize;
                let runs = record.into_runs(&Removed::default(), &Arc::new(Gauge::default()));
                prop_assert_eq!(runs.iter().map(|(_, run)| run.messages().count()).sum::<usize>(), count);
            }
        }
    }
}
