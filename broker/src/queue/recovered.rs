//! What a queue must know of its stored messages at the start, though it does not read them: how many there are of each
//! priority, and how large their bodies are where a limit counts them.

use std::cell::Cell;

use leveret_storage::StorageError;

use super::arguments::Settings;
use super::ready::by_level;
use crate::command::Segment;
use crate::message::Meta;
use crate::paging::Paging;

/// Recovered messages of a queue with these settings, whose content is away, cut and described as it needs them. Ends
/// with the first error, which is then in `failed`.
pub fn described<'a>(
    segments: Vec<Segment>,
    queue: u64,
    settings: &Settings,
    paging: &'a Paging,
    failed: &'a Cell<Option<StorageError>>,
) -> Box<dyn Iterator<Item = Segment> + 'a> {
    let highest = settings.max_priority.unwrap_or(0);
    let measured = settings.max_bytes.is_some();
    if highest == 0 && !measured {
        return Box::new(segments.into_iter());
    }
    let describe = move |segment: Segment| match measured {
        true => measure(&segment, queue, highest, paging),
        false => rank(&segment, queue, highest, paging),
    };
    let pieces = segments.into_iter().map_while(move |segment| match describe(segment) {
        Ok(pieces) => Some(pieces),
        Err(error) => {
            failed.set(Some(error));
            None
        }
    });
    Box::new(pieces.flatten())
}

/// By what storage knows without reading the messages.
fn rank(segment: &Segment, queue: u64, highest: u8, paging: &Paging) -> Result<Vec<Segment>, StorageError> {
    let mut pieces: Vec<Segment> = Vec::new();
    let mut bytes = 0;
    for message in paging.outlines(queue, segment.first, segment.count())? {
        let level = Meta(message.meta).priority().min(highest);
        let len = u64::from(message.len);
        match pieces.last_mut() {
            Some(last) if last.level == level && last.last() + 1 == message.sequence => {
                bytes += len;
                *last = Segment { content: Segment::away(0, last.count() + 1, bytes).content, ..last.clone() };
            }
            _ => {
                bytes = len;
                let Segment { first, content, .. } = Segment::away(message.sequence, 1, bytes);
                pieces.push(Segment { first, content, level, ..segment.clone() });
            }
        }
    }
    Ok(pieces)
}

/// Storage knows how long messages are, not their bodies: those are read, and let go of.
fn measure(segment: &Segment, queue: u64, highest: u8, paging: &Paging) -> Result<Vec<Segment>, StorageError> {
    let mut pieces = Vec::new();
    for segment in paging.fetch(queue, segment)? {
        by_level(segment, highest, |mut segment| {
            segment.send_away();
            pieces.push(segment);
        });
    }
    Ok(pieces)
}
