//! A queue larger than memory: what it lets go of, and what it wants back.

use std::collections::{BTreeMap, VecDeque};

use leveret_storage::{Entry, Level, Op, Run};

use super::arguments::{Overflow, Settings};
use super::effects::Effects;
use super::intake::date;
use super::state::QueueState;
use crate::clock::Moment;
use crate::command::{Content, Requester, Segment, Token};
use crate::paging::Paging;
use crate::vhost::dead_letter::Reason;

/// What is under way between memory and storage.
#[derive(Default)]
pub struct Paged {
    /// What is being read of the ready messages: from where, and of which level.
    loading: Option<(u64, u8)>,
    /// Expiry or a limit needs the content of what is next.
    needed: bool,
    /// Storage will say when it has what it was given.
    pub spilling: bool,
    /// Storage was given messages that need not outlive the broker.
    pub spilled: bool,
    /// Gets that wait for the content of what is next, each with its `no_ack`.
    pub gets: VecDeque<(Requester, bool)>,
    /// Given up, to be dead-lettered once their content is here; by first sequence number.
    given_up: BTreeMap<u64, (Segment, Reason)>,
}

impl Paged {
    pub fn give_up_when_loaded(&mut self, segment: Segment, reason: Reason, fx: &mut Effects) {
        fx.loads.push(vec![(segment.first, segment.count())]);
        self.given_up.insert(segment.first, (segment, reason));
    }
}

impl QueueState {
    /// What is next cannot be given up before its content is here: it has none, and either it is to be dead-lettered
    /// or its time to live (`expires`) is not known yet. It is asked for then.
    pub(super) fn needs_content(&mut self, expires: u64) -> bool {
        (self.settings.dead_letter.is_some() || expires == Segment::UNDATED) && self.front_is_away()
    }

    /// What is next has no content here. It is asked for then.
    pub(super) fn front_is_away(&mut self) -> bool {
        let away = self.ready.front().is_some_and(|front| front.here().is_none());
        self.paged.needed |= away;
        away
    }

    /// Asks for what is next, if somebody may want it.
    pub(super) fn read_ahead(&mut self, ahead: usize, fx: &mut Effects) {
        let wanted = self.paged.needed || self.consumers.count() > 0 || !self.paged.gets.is_empty();
        if !wanted || self.paged.loading.is_some() {
            return;
        }
        if let Some((level, wanted)) = self.ready.wanted(ahead)
            && let Some((first, _)) = wanted.first()
        {
            self.paged.loading = Some((*first, level));
            fx.loads.push(wanted);
        }
    }

    /// What storage had of what was `wanted`.
    pub(super) fn loaded(&mut self, wanted: &[(u64, u32)], runs: &[(u64, Run)], now: &Moment<'_>, fx: &mut Effects) {
        let Some(&(first, _)) = wanted.first() else { return };
        if let Some((segment, reason)) = self.paged.given_up.remove(&first) {
            return self.give_up_loaded(&segment, runs, reason, fx);
        }
        let Some((_, level)) = self.paged.loading.take() else { return };
        self.paged.needed = false;
        let (lifetimes, ttl) = (&self.lifetimes, self.settings.message_ttl);
        let lost = self.ready.fill(level, wanted, runs, |segment, dated| date(lifetimes, ttl, segment, dated));
        if lost > 0 {
            tracing::error!(queue = &*self.name, lost, "messages could not be read back and are lost");
        }
        for (from, no_ack) in std::mem::take(&mut self.paged.gets) {
            self.get(from, no_ack, now, fx);
        }
    }

    /// A limit makes it give up its oldest messages, which must be read for that.
    fn drops_what_it_reads(&self) -> bool {
        let Settings { max_length, max_bytes, dead_letter, .. } = &self.settings;
        self.settings.overflow == Overflow::DropHead
            && (max_bytes.is_some() || (max_length.is_some() && dead_letter.is_some()))
    }

    fn give_up_loaded(&mut self, segment: &Segment, runs: &[(u64, Run)], reason: Reason, fx: &mut Effects) {
        for (first, run) in runs {
            let here = Segment { first: *first, content: Content::Here(run.clone()), ..segment.clone() };
            self.give_up(here, reason, fx);
        }
    }

    /// Lets go of content that storage has, and gives it what it has not, but for `ahead` bytes of what is next if
    /// somebody will ask for that.
    pub fn spill(&mut self, paging: &Paging, ahead: usize, fx: &mut Effects) {
        if self.dead {
            return;
        }
        let keep = if self.consumers.count() > 0 || self.drops_what_it_reads() { ahead } else { 0 };
        let (id, durable) = (self.id, self.durable);
        let (paged, storage) = (&mut self.paged, &mut fx.storage);
        let all = self.ready.spill(keep, |segment| match segment.here() {
            Some(run) if !segment.is_stored(durable) => {
                storage.push(Entry::Op(Op::Spill { queue: id, first: segment.first, run: run.clone() }));
                segment.spilled = true;
                paged.spilled = true;
                false
            }
            _ => paging.holds(id, segment.first, segment.count()),
        });
        if !all && !paged.spilling {
            paged.spilling = true;
            storage.push(Entry::Notify(Level::Written, Token::Spill(self.queue.clone())));
        }
    }
}
