//! The ready messages of a queue, in order: each priority has a level of its own, a queue without priorities has one.

use leveret_storage::Run;

use super::level::{Filled, Level};
use crate::command::Segment;
use crate::message;
use crate::paging::Ranges;

pub struct Ready {
    /// By priority. One level: the priority of messages means nothing.
    levels: Vec<Level>,
    messages: u64,
    /// Bytes of bodies; counted only where a limit asks for it.
    bytes: Option<u64>,
}

impl Ready {
    /// `max_priority` levels above the lowest; `count_bytes` when a limit needs [`Ready::bytes`].
    pub fn new(max_priority: u8, count_bytes: bool) -> Ready {
        let levels = (0..=max_priority).map(|_| Level::default()).collect();
        Ready { levels, messages: 0, bytes: count_bytes.then_some(0) }
    }

    /// How many messages.
    pub fn len(&self) -> u64 {
        self.messages
    }

    pub fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// Bytes of bodies, if they are counted.
    pub fn bytes(&self) -> u64 {
        self.bytes.unwrap_or(0)
    }

    fn count(&mut self, segment: &Segment, sign: i64) {
        self.messages = self.messages.wrapping_add_signed(sign * i64::from(segment.count()));
        if let Some(bytes) = &mut self.bytes {
            *bytes = bytes.wrapping_add_signed(sign * segment.bodies() as i64);
        }
    }

    fn highest_level(&self) -> u8 {
        (self.levels.len() - 1) as u8
    }

    /// New messages, behind all others of their priority. Those whose content is away are of the level that they name.
    pub fn push(&mut self, segment: Segment) {
        self.count(&segment, 1);
        let highest = self.highest_level();
        if highest == 0 {
            return self.levels[0].push(segment);
        }
        by_level(segment, highest, |segment| self.levels[usize::from(segment.level)].push(segment));
    }

    /// Messages that come back to their place.
    pub fn put_back(&mut self, segment: Segment) {
        self.count(&segment, 1);
        let level = segment.level.min(self.highest_level());
        self.levels[usize::from(level)].put_back(segment);
    }

    fn highest(&mut self) -> Option<(u8, &mut Level)> {
        if self.messages == 0 {
            return None;
        }
        let mut levels = self.levels.iter_mut().enumerate().rev();
        let (at, level) = levels.find(|(_, level)| level.front().is_some())?;
        Some((at as u8, level))
    }

    /// The message that is next: only it, of all levels, is looked at for expiry.
    pub fn front(&mut self) -> Option<&Segment> {
        self.highest()?.1.front()
    }

    /// The next messages in order, at least one and at most `most`.
    pub fn take(&mut self, most: u32) -> Option<Segment> {
        let taken = self.highest()?.1.take(most)?;
        self.count(&taken, -1);
        Some(taken)
    }

    /// Everything that may be in memory.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Segment> {
        self.levels.iter_mut().flat_map(Level::iter_mut)
    }

    /// Everything, the highest priority first.
    pub fn segments(&self) -> impl Iterator<Item = Segment> {
        self.levels.iter().rev().flat_map(Level::segments)
    }

    /// Lets go of content behind the first `keep` bytes of what is next, where `release` says that storage has it.
    /// False when it has not yet all of it.
    pub fn spill(&mut self, mut keep: usize, mut release: impl FnMut(&mut Segment) -> bool) -> bool {
        let mut all = true;
        for level in self.levels.iter_mut().rev() {
            all &= level.spill(&mut keep, &mut release);
        }
        all
    }

    /// What to read from storage next, so that about `ahead` bytes of what is next are in memory, and its level.
    pub fn wanted(&mut self, ahead: usize) -> Option<(u8, Ranges)> {
        let (level, messages) = self.highest()?;
        Some((level, messages.wanted(ahead)?))
    }

    /// Takes in what storage had of what was `wanted` of a level, each segment made one or several by `date`. Says how
    /// many messages were lost.
    pub fn fill(
        &mut self,
        level: u8,
        wanted: &[(u64, u32)],
        runs: &[(u64, Run)],
        mut date: impl FnMut(Segment, &mut Vec<Segment>),
    ) -> u64 {
        let Some(level) = self.levels.get_mut(usize::from(level)) else { return 0 };
        let Filled { lost, grown } = level.fill(wanted, runs, &mut date);
        self.messages -= lost;
        self.bytes = self.bytes.map(|bytes| bytes.saturating_add_signed(grown));
        lost
    }

    /// Begins or ends the counting of bytes.
    pub fn count_bytes(&mut self, yes: bool) {
        self.bytes = yes.then(|| self.levels.iter().map(Level::bodies).sum());
    }

    /// Takes everything.
    pub fn drain(&mut self) -> impl Iterator<Item = Segment> + use<> {
        let empty = Ready::new(self.highest_level(), self.bytes.is_some());
        let Ready { levels, .. } = std::mem::replace(self, empty);
        levels.into_iter().rev().flat_map(|level| level.segments().collect::<Vec<_>>())
    }
}

/// Cuts a segment where the priority of its messages changes, and gives each piece its level.
pub fn by_level(mut segment: Segment, highest: u8, mut each: impl FnMut(Segment)) {
    let Some(run) = segment.here().cloned() else {
        segment.level = segment.level.min(highest);
        return each(segment);
    };
    let level = |index| message::meta(&run.block, index).priority().min(highest);
    let mut from = run.from;
    loop {
        segment.level = level(from);
        let same = (from + 1..run.to).take_while(|index| level(*index) == segment.level).count() as u32 + 1;
        if same == segment.count() {
            return each(segment);
        }
        from += same;
        each(segment.split_front(same));
    }
}
