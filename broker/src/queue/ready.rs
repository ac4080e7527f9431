//! The ready messages of a queue, in order.
//!
//! Each priority has a level of its own; a queue without priorities has one. Messages leave a level from the front
//! only, so whatever comes back is older than everything that never left: two lists are enough, and the requeued one
//! always goes first. Of a long list only the two ends are in memory, the *head* and the *tail*; what lies between
//! them, the *cold*, is in storage.

use std::collections::{BTreeMap, VecDeque};

use leveret_storage::Run;

use crate::command::{Content, Segment};
use crate::message;

/// Bytes that neighbouring segments in storage may have to be kept as one.
const COLD_SEGMENT: u32 = 1 << 20;

#[derive(Default)]
struct Level {
    /// By first sequence number.
    requeued: BTreeMap<u64, Segment>,
    head: VecDeque<Segment>,
    /// Away, all of them.
    cold: VecDeque<Segment>,
    tail: VecDeque<Segment>,
}

impl Level {
    fn front(&self) -> Option<&Segment> {
        let requeued = self.requeued.first_key_value().map(|(_, segment)| segment);
        requeued.or_else(|| self.head.front()).or_else(|| self.cold.front()).or_else(|| self.tail.front())
    }

    fn push(&mut self, segment: Segment) {
        if matches!(segment.content, Content::Away { .. }) && self.tail.is_empty() {
            self.chill(segment);
        } else if self.cold.is_empty() && self.tail.is_empty() {
            self.head.push_back(segment);
        } else {
            self.tail.push_back(segment);
        }
    }

    fn take(&mut self, most: u32) -> Option<Segment> {
        if let Some(mut entry) = self.requeued.first_entry() {
            if entry.get().count() <= most {
                return Some(entry.remove());
            }
            let front = entry.get_mut().split_front(most);
            let rest = entry.remove();
            self.requeued.insert(rest.first, rest);
            return Some(front);
        }
        self.join();
        let list = if self.head.is_empty() { &mut self.cold } else { &mut self.head };
        let front = list.front_mut()?;
        if front.count() > most {
            return Some(front.split_front(most));
        }
        let taken = list.pop_front();
        if list.is_empty() && list.capacity() > 1024 {
            *list = VecDeque::new();
        }
        taken
    }

    /// With nothing between them, head and tail are one.
    fn join(&mut self) {
        if self.cold.is_empty() && !self.tail.is_empty() {
            if self.head.is_empty() {
                std::mem::swap(&mut self.head, &mut self.tail);
            } else {
                self.head.append(&mut self.tail);
            }
        }
    }

    /// Puts a segment whose content is away behind the cold.
    fn chill(&mut self, segment: Segment) {
        if let (Some(last), Content::Away { count: more, bytes: larger }) = (self.cold.back_mut(), &segment.content)
            && last.last() + 1 == segment.first
            && (last.persistent, last.spilled) == (segment.persistent, segment.spilled)
            && (last.redelivered, last.returns) == (segment.redelivered, segment.returns)
            && last.expires == segment.expires
            && let Content::Away { count, bytes } = &mut last.content
            && bytes.saturating_add(*larger) <= COLD_SEGMENT
        {
            *count += more;
            *bytes += larger;
            return;
        }
        self.cold.push_back(segment);
    }

    /// Lets go of content behind the first `keep` bytes, as far as `release` lets it. True when that is all.
    fn spill(&mut self, keep: usize, release: &mut impl FnMut(&mut Segment) -> bool) -> bool {
        let mut bytes = 0;
        let mut all = true;
        for segment in self.requeued.values_mut().filter(|segment| segment.here().is_some()) {
            bytes += segment.bytes();
            if bytes > keep {
                all &= send_away(segment, release);
            }
        }
        if self.cold.is_empty() {
            self.join();
            let kept = self.head.iter().take_while(|segment| {
                let here = bytes < keep;
                bytes += segment.bytes();
                here
            });
            let kept = kept.count();
            self.tail = self.head.split_off(kept);
        }
        // Whoever is not let go holds up those behind, and they are asked all the same: that tells storage of them.
        let mut waiting = false;
        let mut gone = 0;
        for segment in &mut self.tail {
            waiting |= !send_away(segment, release);
            gone += usize::from(!waiting);
        }
        for _ in 0..gone {
            if let Some(segment) = self.tail.pop_front() {
                self.chill(segment);
            }
        }
        all && !waiting
    }

    /// What to read from storage next, so that `ahead` bytes are in memory: first sequence number and count.
    fn wanted(&self, ahead: usize) -> Option<(u64, u32)> {
        if let Some(front) = self.front().filter(|front| front.here().is_none()) {
            return Some(portion(front, ahead));
        }
        let next = self.cold.front()?;
        let mut here = 0;
        let enough = |segment: &Segment| {
            here += segment.bytes();
            here > ahead / 2
        };
        (!self.head.iter().any(enough)).then(|| portion(next, ahead))
    }

    /// Takes in what storage had of `first..end`. Returns what could not be read: messages.
    fn fill(
        &mut self,
        first: u64,
        end: u64,
        runs: &[(u64, Run)],
        date: &mut impl FnMut(Segment, &mut Vec<Segment>),
    ) -> u64 {
        let mut lost = 0;
        let mut filled = Vec::new();
        let away: Vec<u64> = self.requeued.range(..end).filter(|(_, s)| s.last() >= first).map(|(at, _)| *at).collect();
        for at in away {
            let Some(mut segment) = self.requeued.remove(&at) else { continue };
            if segment.here().is_some() {
                self.requeued.insert(at, segment);
                continue;
            }
            if let Some(rest) = split_at(&mut segment, end) {
                self.requeued.insert(rest.first, rest);
            }
            if segment.first < first {
                let front = segment.split_front((first - segment.first) as u32);
                self.requeued.insert(front.first, front);
            }
            lost += segment.materialise(runs, &mut filled);
        }
        for segment in filled.drain(..) {
            let mut dated = Vec::new();
            date(segment, &mut dated);
            self.requeued.extend(dated.into_iter().map(|segment| (segment.first, segment)));
        }
        // What is read of the cold begins at its front; since then, that may have moved on.
        while let Some(mut segment) = self.cold.pop_front_if(|front| front.first >= first && front.first < end) {
            if let Some(rest) = split_at(&mut segment, end) {
                self.cold.push_front(rest);
            }
            lost += segment.materialise(runs, &mut filled);
        }
        let mut dated = Vec::new();
        filled.into_iter().for_each(|segment| date(segment, &mut dated));
        self.head.extend(dated);
        self.join();
        lost
    }
}

fn send_away(segment: &mut Segment, release: &mut impl FnMut(&mut Segment) -> bool) -> bool {
    if segment.here().is_none() {
        return true;
    }
    let gone = release(segment);
    if gone {
        segment.send_away();
    }
    gone
}

/// The beginning of a segment that is away, as far as it has about `bytes`.
fn portion(segment: &Segment, bytes: usize) -> (u64, u32) {
    let (count, all) = (u64::from(segment.count()), segment.bytes().max(1) as u64);
    let some = (count * bytes as u64 / all).clamp(1, count);
    (segment.first, some as u32)
}

/// Cuts off what begins at `end`.
fn split_at(segment: &mut Segment, end: u64) -> Option<Segment> {
    if segment.last() < end {
        return None;
    }
    let front = segment.split_front((end - segment.first) as u32);
    Some(std::mem::replace(segment, front))
}

pub struct Ready {
    /// By priority. One level: the priority of messages means nothing.
    levels: Vec<Level>,
    messages: u64,
    /// Bytes of bodies; counted only where a limit asks for it, and then everything stays in memory.
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
            *bytes = bytes.wrapping_add_signed(sign * body_bytes(segment) as i64);
        }
    }

    /// New messages, behind all others of their priority.
    pub fn push(&mut self, mut segment: Segment) {
        self.count(&segment, 1);
        let highest = self.levels.len() - 1;
        if highest == 0 {
            return self.levels[0].push(segment);
        }
        // Cut where the priority changes.
        let level = |segment: &Segment, at: u32| {
            let run = segment.here();
            run.map_or(0, |run| message::meta(&run.block, run.from + at).priority()).min(highest as u8)
        };
        loop {
            segment.level = level(&segment, 0);
            let same = (1..segment.count()).take_while(|at| level(&segment, *at) == segment.level).count() as u32 + 1;
            if same == segment.count() {
                return self.levels[usize::from(segment.level)].push(segment);
            }
            let front = segment.split_front(same);
            self.levels[usize::from(front.level)].push(front);
        }
    }

    /// Messages that come back to their place.
    pub fn put_back(&mut self, segment: Segment) {
        self.count(&segment, 1);
        let highest = self.levels.len() - 1;
        let level = &mut self.levels[usize::from(segment.level).min(highest)];
        level.requeued.insert(segment.first, segment);
    }

    fn highest(&mut self) -> Option<&mut Level> {
        if self.messages == 0 {
            return None;
        }
        self.levels.iter_mut().rev().find(|level| level.front().is_some())
    }

    /// The message that is next: only it, of all levels, is looked at for expiry.
    pub fn front(&mut self) -> Option<&Segment> {
        self.highest()?.front()
    }

    /// The next messages in order, at least one and at most `most`.
    pub fn take(&mut self, most: u32) -> Option<Segment> {
        let taken = self.highest()?.take(most)?;
        self.count(&taken, -1);
        Some(taken)
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Segment> {
        self.levels.iter_mut().flat_map(|level| {
            level.requeued.values_mut().chain(&mut level.head).chain(&mut level.cold).chain(&mut level.tail)
        })
    }

    /// Lets go of content behind the first `keep` bytes of each level, where `release` says that storage has it. False
    /// when it has not yet all of it.
    pub fn spill(&mut self, keep: usize, mut release: impl FnMut(&mut Segment) -> bool) -> bool {
        // A limit in bytes is counted by what the content says.
        if self.bytes.is_some() {
            return true;
        }
        let mut all = true;
        for level in &mut self.levels {
            all &= level.spill(keep, &mut release);
        }
        all
    }

    /// What to read from storage next, so that about `ahead` bytes of what is next are in memory: first sequence
    /// number and count.
    pub fn wanted(&mut self, ahead: usize) -> Option<(u64, u32)> {
        self.highest()?.wanted(ahead)
    }

    /// Takes in what storage had of `first .. first + count`, each segment made one or several by `date`. Says how many
    /// messages were lost.
    pub fn fill(
        &mut self,
        first: u64,
        count: u32,
        runs: &[(u64, Run)],
        mut date: impl FnMut(Segment, &mut Vec<Segment>),
    ) -> u64 {
        let end = first + u64::from(count);
        let lost = self.levels.iter_mut().map(|level| level.fill(first, end, runs, &mut date)).sum();
        self.messages -= lost;
        self.count_bytes(self.bytes.is_some());
        lost
    }

    /// Begins or ends the counting of bytes; those of what is away are an estimate.
    pub fn count_bytes(&mut self, yes: bool) {
        self.bytes = yes.then(|| self.iter_mut().map(|segment| body_bytes(segment)).sum());
    }

    /// Takes everything.
    pub fn drain(&mut self) -> Vec<Segment> {
        self.messages = 0;
        self.bytes = self.bytes.map(|_| 0);
        let levels = self.levels.iter_mut().rev();
        levels
            .flat_map(|level| {
                let Level { requeued, head, cold, tail } = std::mem::take(level);
                requeued.into_values().chain(head).chain(cold).chain(tail)
            })
            .collect()
    }
}

fn body_bytes(segment: &Segment) -> u64 {
    let Some(run) = segment.here() else { return segment.bytes() as u64 };
    (run.from..run.to).map(|index| message::body_size(&run.block, index)).sum()
}
