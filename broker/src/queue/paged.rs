//! A queue larger than memory: what it lets go of, and what it wants back.

use std::collections::{BTreeMap, VecDeque};

use leveret_storage::{Entry, Level, Op, Run};

use super::effects::Effects;
use super::intake::date;
use super::state::QueueState;
use crate::command::{Content, Requester, Segment, Token};
use crate::paging::Paging;
use crate::vhost::dead_letter::Reason;

/// What is under way between memory and storage.
#[derive(Default)]
pub struct Paged {
    /// What is being read of the ready messages: from where.
    loading: Option<u64>,
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
        let away = self.ready.front().is_some_and(|front| front.here().is_none());
        let needed = away && (self.settings.dead_letter.is_some() || expires == Segment::UNDATED);
        self.paged.needed |= needed;
        needed
    }

    /// Asks for what is next, if somebody may want it.
    pub(super) fn read_ahead(&mut self, ahead: usize, fx: &mut Effects) {
        let wanted = self.paged.needed || self.consumers.count() > 0 || !self.paged.gets.is_empty();
        if !wanted || self.paged.loading.is_some() {
            return;
        }
        if let Some((first, count)) = self.ready.wanted(ahead) {
            self.paged.loading = Some(first);
            fx.loads.push(vec![(first, count)]);
        }
    }

    /// What storage had of what was `wanted`.
    pub(super) fn loaded(&mut self, wanted: &[(u64, u32)], runs: &[(u64, Run)], now: u64, fx: &mut Effects) {
        let Some(&(first, count)) = wanted.first() else { return };
        if let Some((segment, reason)) = self.paged.given_up.remove(&first) {
            return self.give_up_loaded(&segment, runs, reason, fx);
        }
        if self.paged.loading == Some(first) {
            self.paged.loading = None;
            self.paged.needed = false;
        }
        let (lifetimes, ttl) = (&self.lifetimes, self.settings.message_ttl);
        let lost = self.ready.fill(first, count, runs, |segment, dated| date(lifetimes, ttl, segment, dated));
        if lost > 0 {
            tracing::error!(queue = &*self.name, lost, "messages could not be read back and are lost");
        }
        for (from, no_ack) in std::mem::take(&mut self.paged.gets) {
            self.get(from, no_ack, now, fx);
        }
    }

    fn give_up_loaded(&mut self, segment: &Segment, runs: &[(u64, Run)], reason: Reason, fx: &mut Effects) {
        for (first, run) in runs {
            let here = Segment { first: *first, content: Content::Here(run.clone()), ..segment.clone() };
            self.give_up(here, reason, fx);
        }
    }

    /// Lets go of content that storage has, and gives it what it has not, but for what is next: consumers will ask.
    pub fn spill(&mut self, paging: &Paging, fx: &mut Effects) {
        if self.dead {
            return;
        }
        let keep = if self.consumers.count() > 0 { paging.ahead() } else { 0 };
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
