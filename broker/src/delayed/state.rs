//! The messages that an exchange holds back: commands in, effects out. Synchronous; knows no task, disk or clock.
//!
//! A heap of runs by the moment when they are due. Messages that were published in one turn with the same delay are one
//! entry; alone, a message costs its bytes and 48 octets. A message's `meta` word says when it is due, in the place of
//! when it was published: so it is known after a restart, whatever the message itself says.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::Arc;

use leveret_storage::{Entry, Gauge, Level, Op, Run};

use crate::command::{ConfirmTo, Release, Token};
use crate::message;

/// No tick is on its way.
const NEVER: u64 = u64::MAX;
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
    Recover { runs: Vec<(u64, Run)>, next_sequence: u64 },
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
    pub due: Vec<Held>,
    /// More is due.
    pub more: bool,
    /// Blocks of little use are to be freed.
    pub tidy: bool,
    /// When a tick is wanted, in milliseconds since the Unix epoch.
    pub tick: Option<u64>,
}

/// Messages in a row that are due at the same moment, all persistent or none.
#[derive(Clone)]
pub struct Held {
    /// Milliseconds since the Unix epoch.
    pub due: u64,
    /// The sequence number of the first one.
    pub first: u64,
    pub run: Run,
}

impl Held {
    /// By moment, then in the order of arrival.
    fn place(&self) -> (u64, u64) {
        (self.due, self.first)
    }

    fn is_persistent(&self) -> bool {
        message::meta(&self.run.block, self.run.from).is_persistent()
    }

    /// Takes the first `count` messages off.
    fn split_front(&mut self, count: u32) -> Held {
        let front = Held { run: self.run.slice(0, count), ..self.clone() };
        self.run.from += count;
        self.first += u64::from(count);
        front
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
            armed: NEVER,
            tidied: 0,
        }
    }

    /// How many messages are held back.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Takes in messages from storage, each due when it was.
    fn recover(&mut self, runs: Vec<(u64, Run)>, next_sequence: u64) {
        self.stopped = true;
        self.next_sequence = next_sequence.max(1);
        for (first, run) in runs {
            let mut rest = Held { due: 0, first, run };
            while rest.run.count() > 0 {
                let Run { block, from, to } = &rest.run;
                let due = |index| message::meta(block, index).published();
                rest.due = due(*from);
                let same = (*from..*to).take_while(|index| due(*index) == rest.due).count() as u32;
                let front = rest.split_front(same);
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
            DelayedCommand::Tick => self.armed = NEVER,
            DelayedCommand::Tidy => fx.tidy = true,
            DelayedCommand::Drop => self.die(fx),
            DelayedCommand::Recover { runs, next_sequence } => self.recover(runs, next_sequence),
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
        self.hold(Held { due, first, run });
    }

    fn hold(&mut self, held: Held) {
        self.count += u64::from(held.run.count());
        self.held.push(held);
    }

    /// Takes what is due at `now`, up to a batch, and asks for the next tick.
    pub fn take_due(&mut self, now: u64, fx: &mut Effects) {
        if self.stopped {
            return;
        }
        let mut bytes = 0;
        while self.held.peek().is_some_and(|next| next.due <= now) {
            if bytes >= BATCH {
                fx.more = true;
                break;
            }
            let Some(held) = self.held.pop() else { break };
            let (held, rest) = split(held, BATCH - bytes);
            bytes += held.run.bytes();
            self.count -= u64::from(held.run.count());
            self.held.extend(rest);
            fx.due.push(held);
        }
        if self.held.capacity() > 1024 && self.held.len() < self.held.capacity() / 4 {
            self.held.shrink_to(self.held.len() * 2);
        }
        if let Some(next) = self.held.peek()
            && !fx.more
            && next.due < self.armed
        {
            self.armed = next.due;
            fx.tick = Some(next.due);
        }
    }

    /// The entry that makes storage forget what went on, once it is safe elsewhere.
    pub fn forgotten(&self, held: &Held) -> Option<Entry<Token>> {
        let (queue, first, count) = (self.id, held.first, held.run.count().into());
        (self.durable && held.is_persistent()).then_some(Entry::Op(Op::Remove { queue, first, count }))
    }

    /// Frees blocks of which little is left alive. Looks only once half of the messages are gone since it last did,
    /// since that means looking at every one.
    pub fn tidy(&mut self, gauge: &Arc<Gauge>) {
        if self.count > self.tidied / 2 {
            self.tidied = self.tidied.max(self.count);
            return;
        }
        let mut held = std::mem::take(&mut self.held).into_vec();
        crate::tidy::tidy_runs(held.iter_mut().map(|held| (held.first, &mut held.run)), gauge);
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

/// The first messages of a run, about as many as have `bytes`, at least one; and the others.
fn split(mut held: Held, bytes: usize) -> (Held, Option<Held>) {
    let mut sum = 0;
    let fitting = (held.run.from..held.run.to).take_while(|index| {
        let fits = sum < bytes;
        sum += held.run.block.len_of(*index) as usize;
        fits
    });
    let count = (fitting.count() as u32).max(1);
    if count >= held.run.count() {
        return (held, None);
    }
    let front = held.split_front(count);
    (front, Some(held))
}
