//! Messages read back, a few records at a time. What is damaged is left out and put aside.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::frame;
use super::index::Entry;
use super::space::{Kind, Lost, Shared};
use crate::backend::{Outline, Reader};
use crate::block::{Run, Span, runs_of};
use crate::error::{IoContext, StorageError};
use crate::gauge::Gauge;
use crate::sequences::Sequences;

/// Bytes read at once, unless a single record is larger.
const AT_ONCE: u64 = 2 << 20;
/// Bytes between two records that are read along rather than skipped.
const GAP: u64 = 16 << 10;

#[derive(Debug)]
pub(crate) struct LogReader {
    shared: Arc<Shared>,
}

/// A record as the index had it.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub kind: Kind,
    pub segment: u32,
    pub offset: u64,
    pub lengths: u32,
    pub bytes: u32,
    pub crc: u32,
    pub sequences: Sequences,
    /// What of it is wanted: (first sequence number, count, index in the record).
    pub stretches: Vec<(u64, u32, u32)>,
}

impl Wanted {
    /// What of `entry` is there in `first..end`; `None`: nothing.
    pub fn new(kind: Kind, entry: &Entry, first: u64, end: u64) -> Option<Wanted> {
        let &Entry { segment, offset, lengths, bytes, crc, .. } = entry;
        let sequences = entry.sequences.clone();
        let mut wanted = Wanted { kind, segment, offset, lengths, bytes, crc, sequences, stretches: Vec::new() };
        wanted.add(entry, first, end);
        (!wanted.stretches.is_empty()).then_some(wanted)
    }

    /// Adds what of `entry`, this record, is there in `first..end`, which is behind all that was wanted before.
    fn add(&mut self, entry: &Entry, first: u64, end: u64) {
        entry.each_live(first, end, |first, count, index| self.stretches.push((first, count, index)));
    }

    /// The file that it lies in.
    fn file<'f>(&self, files: &'f Files) -> Option<&'f File> {
        let found = files.iter().find(|file| file.0 == self.kind && file.1 == self.segment);
        found.map(|(.., file)| &**file)
    }

    /// What is wanted of it, whose messages lie at `spans`.
    fn outline(&self, spans: &[Span], found: &mut Vec<Outline>) {
        for &(first, count, index) in &self.stretches {
            let spans = spans[index as usize..(index + count) as usize].iter();
            let outlines = (first..).zip(spans);
            found.extend(outlines.map(|(sequence, span)| Outline { sequence, meta: span.meta, len: span.len }));
        }
    }

    /// Bytes of its body.
    pub fn body(&self) -> usize {
        self.lengths as usize + self.bytes as usize
    }

    fn end(&self) -> u64 {
        self.offset + self.body() as u64
    }

    /// Where its messages lie in `body`; `None` if that is damaged.
    fn spans(&self, body: &[u8]) -> Option<Vec<Span>> {
        if crc32fast::hash(body) != self.crc {
            return None;
        }
        frame::parse_body(body, self.lengths, self.sequences.count())
    }
}

impl Reader for LogReader {
    fn read_all(&self, queue: u64, ranges: &[(u64, u32)], gauge: &Arc<Gauge>) -> Result<Vec<(u64, Run)>, StorageError> {
        let (wanted, files) = self.look_up(queue, ranges)?;
        let mut runs = Vec::new();
        let mut rest = &wanted[..];
        while let Some(head) = rest.first() {
            let (group, others) = rest.split_at(side_by_side(rest));
            if let Some(file) = head.file(&files) {
                self.shared.read_group(queue, group, file, gauge, &mut runs);
            }
            rest = others;
        }
        runs.sort_unstable_by_key(|(first, _)| *first);
        Ok(runs)
    }

    fn outlines(&self, queue: u64, first: u64, count: u32) -> Result<Vec<Outline>, StorageError> {
        let (wanted, files) = self.look_up(queue, &[(first, count)])?;
        let mut found = Vec::new();
        for wanted in &wanted {
            let Some(file) = wanted.file(&files) else { continue };
            let mut lengths = vec![0; wanted.lengths as usize];
            let read = file.read_exact_at(&mut lengths, wanted.offset);
            let spans =
                read.ok().and_then(|()| frame::parse_lengths(&lengths, wanted.body(), wanted.sequences.count()));
            match spans {
                Some(spans) => wanted.outline(&spans, &mut found),
                // Whoever reads all of it may have more luck, or puts it aside.
                None => {
                    let mut runs = Vec::new();
                    self.shared.read_group(queue, std::slice::from_ref(wanted), file, &Arc::default(), &mut runs);
                    for (first, run) in &runs {
                        let messages = (*first..).zip(run.messages());
                        found.extend(messages.map(|(sequence, (bytes, meta))| Outline {
                            sequence,
                            meta,
                            len: bytes.len() as u32,
                        }));
                    }
                }
            }
        }
        found.sort_unstable_by_key(|outline| outline.sequence);
        Ok(found)
    }

    fn holds(&self, queue: u64, first: u64, count: u32) -> bool {
        let end = first.saturating_add(u64::from(count));
        let state = self.shared.state();
        let mut found = 0;
        for records in Kind::ALL.iter().filter_map(|kind| state.series(*kind).index.queue(queue)) {
            for entry in records.in_range(first, end) {
                entry.each_live(first, end, |_, live, _| found += live);
            }
        }
        found >= count
    }
}

type Files = Vec<(Kind, u32, Arc<File>)>;

impl LogReader {
    pub fn new(shared: Arc<Shared>) -> LogReader {
        LogReader { shared }
    }

    /// The records that have something of these ranges, in order of their places, and the files they are in.
    fn look_up(&self, queue: u64, ranges: &[(u64, u32)]) -> Result<(Vec<Wanted>, Files), StorageError> {
        if self.shared.closed.load(Ordering::Acquire) {
            return Err(StorageError::Closed);
        }
        let mut state = self.shared.state();
        let mut wanted: Vec<Wanted> = Vec::new();
        // Where each record is in `wanted`.
        let mut places: HashMap<(u32, u64), usize> = HashMap::new();
        for kind in Kind::ALL {
            places.clear();
            let Some(records) = state.series(kind).index.queue(queue) else { continue };
            for &(first, count) in ranges {
                let end = first.saturating_add(u64::from(count));
                for entry in records.in_range(first, end) {
                    match places.get(&(entry.segment, entry.offset)) {
                        Some(&at) => wanted[at].add(entry, first, end),
                        None => {
                            let Some(new) = Wanted::new(kind, entry, first, end) else { continue };
                            places.insert((entry.segment, entry.offset), wanted.len());
                            wanted.push(new);
                        }
                    }
                }
            }
        }
        wanted.sort_unstable_by_key(|w| (w.kind, w.segment, w.offset));
        let mut files: Files = Vec::new();
        for Wanted { kind, segment, .. } in &wanted {
            if files.last().is_none_or(|file| (file.0, file.1) != (*kind, *segment)) {
                let file = state.file(*kind, *segment);
                files.push((*kind, *segment, file.context("open", &state.series(*kind).path(*segment))?));
            }
        }
        Ok((wanted, files))
    }
}

/// How many of the first records are to be read together.
fn side_by_side(wanted: &[Wanted]) -> usize {
    let first = &wanted[0];
    let mut end = first.end();
    let more = wanted[1..].iter().take_while(|next| {
        let same = (next.kind, next.segment) == (first.kind, first.segment);
        let near = same && next.offset.saturating_sub(end) <= GAP && next.end() - first.offset <= AT_ONCE;
        if near {
            end = next.end();
        }
        near
    });
    1 + more.count()
}

impl Shared {
    /// Reads records that lie side by side into one block, and adds the wanted runs of it.
    pub fn read_group(
        &self,
        queue: u64,
        group: &[Wanted],
        file: &File,
        gauge: &Arc<Gauge>,
        runs: &mut Vec<(u64, Run)>,
    ) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { return };
        let mut buffer = vec![0; (last.end() - first.offset) as usize];
        if let Err(error) = file.read_exact_at(&mut buffer, first.offset) {
            match group {
                [one] => self.lose(queue, one, &[], Some(error)),
                // One of them may be what cannot be read.
                _ => group.chunks(1).for_each(|one| self.read_group(queue, one, file, gauge, runs)),
            }
            return;
        }
        let mut spans: Vec<Span> = Vec::new();
        let mut stretches: Vec<(u64, u32)> = Vec::new();
        for wanted in group {
            let base = (wanted.offset - first.offset) as u32;
            let body = &buffer[base as usize..][..wanted.body()];
            let Some(found) = wanted.spans(body) else {
                self.lose(queue, wanted, body, None);
                continue;
            };
            for &(first, count, index) in &wanted.stretches {
                let found = &found[index as usize..(index + count) as usize];
                spans.extend(found.iter().map(|span| Span { start: span.start + base, ..*span }));
                match stretches.last_mut() {
                    Some((from, before)) if *from + u64::from(*before) == first => *before += count,
                    _ => stretches.push((first, count)),
                }
            }
        }
        if spans.is_empty() {
            return;
        }
        runs.extend(runs_of(buffer, spans, stretches, gauge));
    }

    /// Gives up a record that cannot be read, and says so once.
    fn lose(&self, queue: u64, wanted: &Wanted, body: &[u8], error: Option<io::Error>) {
        let Some((messages, copy)) = self.give_up(queue, wanted, body) else { return };
        tracing::error!(
            queue,
            first = wanted.sequences.first(),
            messages,
            path = %self.state().series(wanted.kind).path(wanted.segment).display(),
            offset = wanted.offset,
            error = error.map(|error| error.to_string()),
            copy = copy.map(|path| path.display().to_string()),
            "damaged messages were put aside"
        );
    }

    /// Takes a damaged record out of the index and puts its `body` aside. Says how many messages are lost and where the
    /// copy is; `None` if nobody misses it, or somebody else has met it first.
    pub fn give_up(&self, queue: u64, wanted: &Wanted, body: &[u8]) -> Option<(u64, Option<PathBuf>)> {
        let mut state = self.state();
        let series = state.series_mut(wanted.kind);
        let entry = series.index.at(queue, &wanted.sequences, wanted.segment, wanted.offset)?;
        let mut live = Vec::new();
        entry.each_live(0, u64::MAX, |first, count, _| live.push((first, u64::from(count))));
        for &(first, count) in &live {
            series.remove(queue, first, count);
        }
        if wanted.kind == Kind::Kept {
            let segment = wanted.segment;
            state.lost.extend(live.iter().map(|&(first, count)| Lost { queue, first, count, segment }));
        }
        drop(state);
        let copy = self.put_aside(&format!("record-{queue}-{}", wanted.sequences.first()), body);
        Some((live.iter().map(|stretch| stretch.1).sum(), copy))
    }
}
