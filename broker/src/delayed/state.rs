//! The messages that an exchange holds back: commands in, effects out. Synchronous; knows no task, disk or clock.
//!
//! A heap of runs by the moment when they are due. Messages that were published in one turn with the same delay are one
//! entry; alone, a message costs its bytes and 56 octets.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::Arc;

use leveret_protocol::Message;
use leveret_storage::{Block, Entry, Gauge, Level, Op, RecoveredQueue, Run};

use super::header;
use crate::command::{ConfirmTo, Release, Segment, Token};
use crate::message;

/// Bytes of due messages that go on in one turn.
pub(super) const BATCH: usize = 1 << 20;

/// What is told to who holds the messages of an exchange back.
pub enum DelayedCommand {
    /// New messages, all due at the same moment, all persistent or none. Without `confirm` nobody waits for them.
    Hold {
        run: Run,
        /// Milliseconds since the Unix epoch.
        due: u64,
        persistent: bool,
        confirm: Option<ConfirmTo>,
    },
    /// Let go of once everything before it has been handed to storage.
    Release(Arc<Release>),
    /// Something may be due.
    Tick,
    /// See [`crate::tidy`].
    Tidy,
    /// The exchange is gone, and its messages with it.
    Drop,
    /// What storage held of a durable exchange. It stays until `Start`: there are no bindings yet.
    Recover(RecoveredQueue),
    /// Recovery is over.
    Start,
    /// The broker stops: nothing goes on any more.
    Stop,
}

/// What follows from a turn. Handed out in the order of the fields.
#[derive(Default)]
pub struct Effects {
    pub storage: Vec<Entry<Token>>,
    /// Let go of once `storage` has been handed over.
    pub releases: Vec<Arc<Release>>,
    /// Publishes that need no disk.
    pub confirmed: Vec<(ConfirmTo, u32)>,
    /// What goes on now, in this order. It stays in storage until the last target has it.
    pub due: Vec<Segment>,
    /// More is due.
    pub more: bool,
    /// Blocks of little use are to be freed.
    pub tidy: bool,
    /// When a tick is wanted, in milliseconds since the Unix epoch.
    pub tick: Option<u64>,
}

/// A run in the heap; `expires` is when it is due.
struct Held(Segment);

impl Held {
    /// By moment, then in the order of arrival.
    fn place(&self) -> (u64, u64) {
        (self.0.expires, self.0.first)
    }
}

impl Ord for Held {
    /// The heap gives the greatest first.
    fn cmp(&self, other: &Held) -> Ordering {
        other.place().cmp(&self.place())
    }
}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Held) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Held {
    fn eq(&self, other: &Held) -> bool {
        self.place() == other.place()
    }
}

impl Eq for Held {}

pub struct DelayedState {
    /// Identity in storage.
    id: u64,
    durable: bool,
    held: BinaryHeap<Held>,
    /// Messages in `held`.
    count: u64,
    next_sequence: u64,
    /// The exchange is gone.
    dead: bool,
    /// Nothing goes on: the broker is not ready yet, or stops.
    stopped: bool,
    /// The tick that is on its way.
    armed: u64,
    /// Messages that were held when blocks were last tidied.
    tidied: u64,
}

impl DelayedState {
    pub fn new(id: u64, durable: bool) -> DelayedState {
        DelayedState {
            id,
            durable,
            held: BinaryHeap::new(),
            count: 0,
            next_sequence: 1,
            dead: false,
            stopped: false,
            armed: Segment::NEVER,
            tidied: 0,
        }
    }

    /// How many messages are held back.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Takes in messages from storage, each due when it was.
    fn recover(&mut self, stored: RecoveredQueue) {
        self.stopped = true;
        self.next_sequence = stored.next_sequence.max(1);
        for (first, run) in stored.runs {
            let (persistent, redelivered, returns) = (true, false, 0);
            let mut rest = Segment { first, run, persistent, redelivered, returns, expires: 0 };
            while rest.count() > 0 {
                let Run { block, from, to } = &rest.run;
                let due = due(block, *from);
                let same = (*from..*to).take_while(|index| self::due(block, *index) == due).count() as u32;
                let mut front = rest.split_front(same);
                front.expires = due;
                self.hold(front);
            }
        }
        self.tidied = self.count;
    }

    /// Applies one command.
    pub fn apply(&mut self, command: DelayedCommand, fx: &mut Effects) {
        match command {
            DelayedCommand::Hold { run, confirm, .. } if self.dead => {
                // As if there were no queue: nothing keeps the message.
                fx.confirmed.extend(confirm.map(|to| (to, run.count())));
            }
            DelayedCommand::Hold { run, due, persistent, confirm } => self.take(run, due, persistent, confirm, fx),
            DelayedCommand::Release(release) => fx.releases.push(release),
            DelayedCommand::Tick => self.armed = Segment::NEVER,
            DelayedCommand::Tidy => fx.tidy = true,
            DelayedCommand::Drop => self.die(fx),
            DelayedCommand::Recover(stored) => self.recover(stored),
            DelayedCommand::Start => self.stopped = false,
            DelayedCommand::Stop => self.stopped = true,
        }
    }

    fn take(&mut self, run: Run, due: u64, persistent: bool, confirm: Option<ConfirmTo>, fx: &mut Effects) {
        let (first, count) = (self.next_sequence, run.count());
        self.next_sequence += u64::from(count);
        let stored = self.durable && persistent;
        if stored {
            fx.storage.push(Entry::Op(Op::Insert { queue: self.id, first, run: run.clone() }));
        }
        match confirm {
            Some(to) if stored => fx.storage.push(Entry::Notify(Level::Synced, Token::Confirm { to, count })),
            Some(to) => fx.confirmed.push((to, count)),
            None => {}
        }
        self.hold(Segment { first, run, persistent, redelivered: false, returns: 0, expires: due });
    }

    fn hold(&mut self, segment: Segment) {
        self.count += u64::from(segment.count());
        self.held.push(Held(segment));
    }

    /// Takes what is due at `now`, up to a batch, and asks for the next tick.
    pub fn take_due(&mut self, now: u64, fx: &mut Effects) {
        if self.stopped {
            return;
        }
        let mut bytes = 0;
        while self.held.peek().is_some_and(|next| next.0.expires <= now) {
            if bytes >= BATCH {
                fx.more = true;
                break;
            }
            let Some(Held(segment)) = self.held.pop() else { break };
            let (segment, rest) = split(segment, BATCH - bytes);
            bytes += segment.run.bytes();
            self.count -= u64::from(segment.count());
            self.held.extend(rest.map(Held));
            fx.due.push(segment);
        }
        if self.held.capacity() > 1024 && self.held.len() < self.held.capacity() / 4 {
            self.held.shrink_to(self.held.len() * 2);
        }
        if let Some(Held(next)) = self.held.peek()
            && !fx.more
            && next.expires < self.armed
        {
            self.armed = next.expires;
            fx.tick = Some(next.expires);
        }
    }

    /// The entry that makes storage forget what went on, once it is safe elsewhere.
    pub fn forgotten(&self, segment: &Segment) -> Option<Entry<Token>> {
        let (queue, first, count) = (self.id, segment.first, segment.count().into());
        (self.durable && segment.persistent).then_some(Entry::Op(Op::Remove { queue, first, count }))
    }

    /// Frees blocks of which little is left alive. Looks only once half of the messages are gone since it last did,
    /// since that means looking at every one.
    pub fn tidy(&mut self, gauge: &Arc<Gauge>) {
        if self.count > self.tidied / 2 {
            self.tidied = self.tidied.max(self.count);
            return;
        }
        let mut held = std::mem::take(&mut self.held).into_vec();
        crate::tidy::tidy(held.iter_mut().map(|held| &mut held.0), gauge);
        self.held = held.into();
        self.tidied = self.count;
    }

    fn die(&mut self, fx: &mut Effects) {
        if std::mem::replace(&mut self.dead, true) {
            return;
        }
        self.give_up();
        if self.durable {
            fx.storage.push(Entry::Op(Op::DropQueue { queue: self.id }));
        }
    }

    /// Lets go of everything in memory; what is stored stays there.
    pub fn give_up(&mut self) {
        self.held = BinaryHeap::new();
        self.count = 0;
    }
}

/// The first messages of a segment, about as many as have `bytes`, at least one; and the others.
fn split(mut segment: Segment, bytes: usize) -> (Segment, Option<Segment>) {
    let mut sum = 0;
    let fitting = (segment.run.from..segment.run.to).take_while(|index| {
        let fits = sum < bytes;
        sum += segment.run.block.len_of(*index) as usize;
        fits
    });
    let count = (fitting.count() as u32).max(1);
    if count >= segment.count() {
        return (segment, None);
    }
    let front = segment.split_front(count);
    (front, Some(segment))
}

/// When a stored message is due, in milliseconds since the Unix epoch. One that does not say is due at once.
fn due(block: &Block, index: u32) -> u64 {
    let delay = || {
        let message = Message::parse(block.bytes(index))?;
        header::delay_of(message.content_header().parse().ok()?.headers)
    };
    message::meta(block, index).published() + delay().unwrap_or(0)
}
