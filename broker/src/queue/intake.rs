//! What comes into a queue, and what it gives up: limits, expiry, dead letters.

use leveret_protocol::content;
use leveret_storage::{Block, Entry, Level, Op, Run};

use super::arguments::Overflow;
use super::effects::Effects;
use super::lifetimes::Lifetimes;
use super::state::QueueState;
use crate::clock::Moment;
use crate::command::{ConfirmTo, ConnectionEvent, Segment, Token};
use crate::message;
use crate::vhost::dead_letter::{DeadLetter, Reason};
use crate::vhost::definition::{self, Returned};

impl QueueState {
    pub(super) fn publish(
        &mut self,
        run: Run,
        persistent: bool,
        expiration: Option<u64>,
        confirm: Option<ConfirmTo>,
        now: &Moment<'_>,
        fx: &mut Effects,
    ) {
        let limited = self.settings.max_length.is_some() || self.settings.max_bytes.is_some();
        let drops = self.settings.overflow == Overflow::DropHead;
        let at_once = self.time_to_live(expiration) == Some(0);
        if !limited || (drops && !at_once) {
            return self.accept(run, persistent, expiration, confirm, now, fx);
        }
        // One by one: each is refused, or pushed out, or not, by what is ready when it comes.
        for index in run.from..run.to {
            let one = Run { block: run.block.clone(), from: index, to: index + 1 };
            let confirm = confirm.clone().map(|to| ConfirmTo { first: to.first + u64::from(index - run.from), ..to });
            if !drops && self.would_overflow(&run.block, index) {
                self.refuse_publish(one, confirm, fx);
            } else {
                self.accept(one, persistent, expiration, confirm, now, fx);
                self.deliver(now, fx);
            }
        }
    }

    fn accept(
        &mut self,
        run: Run,
        persistent: bool,
        expiration: Option<u64>,
        confirm: Option<ConfirmTo>,
        now: &Moment<'_>,
        fx: &mut Effects,
    ) {
        let (first, count) = (self.next_sequence, run.count());
        self.next_sequence += u64::from(count);
        if self.durable && persistent {
            fx.storage.push(Entry::Op(Op::Insert { queue: self.id, first, run: run.clone() }));
        }
        if let Some(to) = confirm {
            self.confirm(to, count, persistent, fx);
        }
        let ttl = self.time_to_live(expiration);
        let expires = ttl.map_or(Segment::NEVER, |ttl| now.millis() + ttl);
        self.timed |= ttl.is_some();
        self.ready.push(Segment { persistent, expires, ..Segment::new(first, run) });
    }

    /// Of a message with this `expiration`, in milliseconds.
    fn time_to_live(&self, expiration: Option<u64>) -> Option<u64> {
        [self.settings.message_ttl, expiration].into_iter().flatten().min()
    }

    pub(super) fn confirm(&self, to: ConfirmTo, count: u32, persistent: bool, fx: &mut Effects) {
        if self.durable && persistent && !self.dead {
            fx.storage.push(Entry::Notify(Level::Synced, Token::Confirm { to, count }));
        } else {
            let (channel, first) = (to.to.channel, to.first);
            fx.event(&to.to.peer, ConnectionEvent::Confirm { channel, first, count, refused: false });
        }
    }

    fn would_overflow(&self, block: &Block, index: u32) -> bool {
        let length = self.settings.max_length.is_some_and(|most| self.ready.len() + 1 > most);
        let bytes = |most| self.ready.bytes() + message::body_size(block, index) > most;
        length || self.settings.max_bytes.is_some_and(bytes)
    }

    fn refuse_publish(&mut self, run: Run, confirm: Option<ConfirmTo>, fx: &mut Effects) {
        if let Some(ConfirmTo { to, first }) = confirm {
            let event = ConnectionEvent::Confirm { channel: to.channel, first, count: run.count(), refused: true };
            fx.event(&to.peer, event);
        }
        if self.settings.overflow == Overflow::RejectPublishDlx {
            // It never was stored here.
            self.give_up(Segment::new(0, run), Reason::MaxLen, fx);
        }
    }

    /// Messages that come back to their place; `seen` by the client that had them.
    pub(super) fn put_back(&mut self, mut segment: Segment, seen: bool, fx: &mut Effects) {
        segment.redelivered |= seen;
        segment.returns += u32::from(seen);
        match self.settings.delivery_limit {
            Some(limit) if segment.returns > limit => self.give_up(segment, Reason::DeliveryLimit, fx),
            _ => self.ready.put_back(segment),
        }
    }

    /// Dead-letters messages, or drops them where no dead-letter exchange is set.
    pub(super) fn give_up(&mut self, segment: Segment, reason: Reason, fx: &mut Effects) {
        let Some(to) = &self.settings.dead_letter else {
            return self.forget(&segment, fx);
        };
        let Some(run) = segment.here().cloned() else {
            return self.paged.give_up_when_loaded(segment, reason, fx);
        };
        fx.dead_letters.push(DeadLetter {
            queue: self.name.clone(),
            id: self.id,
            stored: segment.is_stored(self.durable),
            to: to.clone(),
            reason,
            first: segment.first,
            run,
        });
    }

    /// Gives up what has expired at the head. A message with a time to live of 0 is spared until whoever waited for
    /// it had it offered: then `all` that is due goes.
    pub(super) fn expire(&mut self, now: &Moment<'_>, all: bool, fx: &mut Effects) {
        if !self.timed {
            return;
        }
        let now = now.millis();
        while let Some(front) = self.ready.front() {
            let (expires, count) = (front.expires, front.count());
            let due = expires < now || (expires == now && (all || front.redelivered));
            if !due || self.needs_content(expires) {
                return;
            }
            let Some(segment) = self.ready.take(count) else { return };
            self.give_up(segment, Reason::Expired, fx);
        }
    }

    /// Whether what comes back may push out the head before a consumer is offered it. A quorum queue offers first.
    pub(super) fn drops_returned(&self) -> bool {
        let limited = self.settings.max_length.is_some() || self.settings.max_bytes.is_some();
        limited && self.settings.overflow == Overflow::DropHead && !self.settings.quorum
    }

    /// Drops from the head what is over the limits. False while some of it has to be read from storage first.
    pub(super) fn drop_surplus(&mut self, fx: &mut Effects) -> bool {
        if self.settings.overflow != Overflow::DropHead {
            return true;
        }
        while let Some(surplus) = self.settings.max_length.and_then(|most| self.ready.len().checked_sub(most))
            && surplus > 0
        {
            if self.needs_content(Segment::NEVER) {
                return false;
            }
            let Some(segment) = self.ready.take(surplus.min(u64::from(u32::MAX)) as u32) else { break };
            self.give_up(segment, Reason::MaxLen, fx);
        }
        while self.settings.max_bytes.is_some_and(|most| self.ready.bytes() > most) {
            // How large its body is, only the message itself says.
            if self.front_is_away() {
                return false;
            }
            let Some(segment) = self.ready.take(1) else { break };
            self.give_up(segment, Reason::MaxLen, fx);
        }
        true
    }

    /// Asks for a tick when the head expires or the lease ends, unless one comes by then.
    pub(super) fn arm(&mut self, fx: &mut Effects) {
        if self.dead {
            return;
        }
        let head = if self.timed { self.ready.front().map(|front| front.expires) } else { None };
        // A message is due once its moment has passed.
        let dated = |expires: &u64| ![Segment::NEVER, Segment::UNDATED].contains(expires);
        let head = head.filter(dated).map(|expires| expires + 1);
        let Some(next) = [head, self.lease_ends()].into_iter().flatten().min() else { return };
        if next < self.armed {
            self.armed = next;
            fx.tick = Some(next);
        }
    }

    /// Notes which messages were redelivered, for a start after a clean stop: the delivered mark alone would also tell
    /// of some that were on their way and never sent.
    pub(super) fn note_returned(&mut self, fx: &mut Effects) {
        if !self.durable {
            return;
        }
        let seen = self.ready.segments().filter(|segment| segment.persistent && segment.redelivered);
        let returned: Vec<Returned> =
            seen.map(|s| Returned { first: s.first, count: s.count().into(), returns: s.returns }).collect();
        if !returned.is_empty() {
            let (key, value) = (definition::returned_key(self.id), definition::returned_value(&returned));
            fx.storage.push(Entry::Op(Op::PutDefinition { key, value }));
        }
    }

    /// Takes in messages from storage.
    pub(super) fn recover(&mut self, segment: Segment) {
        self.timed |= segment.expires != Segment::NEVER;
        if segment.here().is_none() {
            return self.ready.push(segment);
        }
        let mut dated = Vec::new();
        date(&self.lifetimes, self.settings.message_ttl, segment, &mut dated);
        for segment in dated {
            self.timed |= segment.expires != Segment::NEVER;
            self.ready.push(segment);
        }
    }
}

/// Gives messages from storage the deadlines they had, cutting the segment where they change.
/// What held when a message came is in `lifetimes`, since a policy may have changed it; else it is `message_ttl`.
pub(super) fn date(lifetimes: &Lifetimes, message_ttl: Option<u64>, mut segment: Segment, dated: &mut Vec<Segment>) {
    let undated = segment.expires == Segment::UNDATED;
    let Some(run) = segment.here().filter(|_| undated).cloned() else {
        return dated.push(segment);
    };
    let first = segment.first;
    let deadline = |index| {
        let ttl = lifetimes.at(first + u64::from(index - run.from), message_ttl);
        deadline(ttl, &run.block, index)
    };
    let mut from = run.from;
    while from < run.to {
        let expires = deadline(from);
        let same = (from + 1..run.to).take_while(|index| deadline(*index) == expires).count() as u32 + 1;
        from += same;
        let mut front = if from < run.to { segment.split_front(same) } else { segment.clone() };
        front.expires = expires;
        dated.push(front);
    }
}

fn deadline(message_ttl: Option<u64>, block: &Block, index: u32) -> u64 {
    let meta = message::meta(block, index);
    let own = if meta.expires() { expiration_of(block, index) } else { None };
    let ttl = [message_ttl, own].into_iter().flatten().min();
    ttl.map_or(Segment::NEVER, |ttl| meta.published() + ttl)
}

/// The `expiration` property of a stored message, in milliseconds.
fn expiration_of(block: &Block, index: u32) -> Option<u64> {
    let header = leveret_protocol::deliver::header_of(message::content(block, index));
    let properties = content::header(header).parse().ok()?;
    crate::expiration::parse(properties.expiration?).ok()
}
