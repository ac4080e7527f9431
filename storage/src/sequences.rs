//! The sequence numbers of a record's messages.

use crate::bytes::{Input, put_varint};

/// The sequence numbers of a record's messages, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sequences {
    /// All in a row, as nearly always.
    Row { first: u64, count: u32 },
    /// (first, count), ascending and apart.
    Stretches(Box<[(u64, u32)]>),
}

impl Sequences {
    pub fn new(stretches: Vec<(u64, u32)>) -> Sequences {
        match stretches[..] {
            [(first, count)] => Sequences::Row { first, count },
            _ => Sequences::Stretches(stretches.into()),
        }
    }

    /// How many messages, how many stretches, and (gap, count) of each: the first gap is the first sequence number.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, u64::from(self.count()));
        put_varint(out, self.stretches().count() as u64);
        let mut end = 0;
        for (first, count) in self.stretches() {
            put_varint(out, first - end);
            put_varint(out, u64::from(count));
            end = first + u64::from(count);
        }
    }

    /// (first, count) of what is without gaps.
    pub fn stretches(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        let (row, stretches) = match self {
            Sequences::Row { first, count } => (Some((*first, *count)), &[][..]),
            Sequences::Stretches(s) => (None, &s[..]),
        };
        row.into_iter().chain(stretches.iter().copied())
    }

    /// The first one, which names the record.
    pub fn first(&self) -> u64 {
        match self {
            Sequences::Row { first, .. } => *first,
            Sequences::Stretches(s) => s.first().map_or(0, |s| s.0),
        }
    }

    /// The last one.
    pub fn last(&self) -> u64 {
        match self {
            Sequences::Row { first, count } => first + u64::from(*count) - 1,
            Sequences::Stretches(s) => s.last().map_or(0, |s| s.0 + u64::from(s.1) - 1),
        }
    }

    /// How many.
    pub fn count(&self) -> u32 {
        match self {
            Sequences::Row { count, .. } => *count,
            Sequences::Stretches(s) => s.iter().map(|s| s.1).sum(),
        }
    }

    /// The number of messages before sequence number `from`: its index, if it is one of them.
    pub fn index_of(&self, from: u64) -> u32 {
        let before = |&(first, count): &(u64, u32)| from.saturating_sub(first).min(u64::from(count)) as u32;
        match self {
            Sequences::Row { first, count } => before(&(*first, *count)),
            Sequences::Stretches(s) => s.iter().map(before).sum(),
        }
    }

    /// Each in order.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.stretches().flat_map(|(first, count)| first..first + u64::from(count))
    }
}

/// Reads stretches of `count` messages; the first gap counts from sequence number `from`.
pub(crate) fn parse_stretches(input: &mut Input<'_>, from: u64, count: u32) -> Option<Vec<(u64, u32)>> {
    let stretches = input.varint()?;
    if stretches == 0 || stretches > u64::from(count) {
        return None;
    }
    let (mut end, mut left) = (from, count);
    let mut out = Vec::new();
    for _ in 0..stretches {
        let start = end.checked_add(input.varint()?)?;
        let n = u32::try_from(input.varint()?).ok().filter(|&n| n > 0)?;
        left = left.checked_sub(n)?;
        end = start.checked_add(u64::from(n))?;
        out.push((start, n));
    }
    (left == 0).then_some(out)
}
