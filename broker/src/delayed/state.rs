//! The messages that an exchange holds back: commands in, effects out. Synchronous; knows no task, disk or clock.
//!
//! A heap of runs by the moment when they are due, and another of what is in storage only (*away*), which is read back
//! shortly before. Messages that were published in one turn with the same delay are one entry; alone, a message costs
//! its bytes and 48 octets, or 24 if it is away. A message's `meta` word says when it is due, in the place of when it was
//! published: so it is known after a restart, without reading the message.

use std::collections::BinaryHeap;
use std::sync::Arc;

use leveret_storage::{Entry, Gauge, Level, Op, Run};

use super::held::{Away, Held};
use crate::command::{ConfirmTo, Release, Segment, Token};
use crate::paging::{self, Paging, Ranges};

/// No tick is on its way.
const NEVER: u64 = u64::MAX;
/// Bytes of due messages that go on in one turn.
pub(super) const BATCH: usize = 1 << 20;
/// Milliseconds before they are due at which messages are read back.
pub(super) const LEAD: u64 = 2000;

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
    /// What storage holds of a durable exchange. It stays until `Start`: there are no bindings yet.
    Recover { held: Vec<Away>, next_sequence: u64 },
    /// What storage has of the messages that were asked for.
    Loaded { runs: Vec<(u64, Run)> },
    /// Storage has what it was given.
    Spill,
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
    /// What is to be read from storage.
    pub load: Ranges,
    /// Blocks of little use are to be freed.
    pub tidy: bool,
    /// When a tick is wanted, in milliseconds since the Unix epoch.
    pub tick: Option<u64>,
}

pub struct DelayedState {
    /// Identity in storage.
    id: u64,
    durable: bool,
    /// In memory, with their number and bytes.
    here: BinaryHeap<Held>,
    messages: u64,
    bytes: usize,
    away: BinaryHeap<Away>,
    /// What is being read, in order.
    loading: Vec<Away>,
    /// Messages of all these.
    count: u64,
    next_sequence: u64,
    /// The exchange is gone.
    dead: bool,
    /// Nothing goes on: the broker is not ready yet, or stops.
    stopped: bool,
    /// Storage will say when it has what it was given.
    spilling: bool,
    /// Storage was given messages that need not outlive the broker.
    spilled: bool,
    /// The tick that is on its way.
    armed: u64,
    /// Messages in memory when blocks were last tidied.
    tidied: u64,
}

impl DelayedState {
    pub fn new(id: u64, durable: bool) -> DelayedState {
        DelayedState {
            id,
            durable,
            here: BinaryHeap::new(),
            messages: 0,
            bytes: 0,
            away: BinaryHeap::new(),
            loading: Vec::new(),
            count: 0,
            next_sequence: 1,
            dead: false,
            stopped: false,
            spilling: false,
            spilled: false,
            armed: NEVER,
            tidied: 0,
        }
    }

    /// How many messages are held back.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Bytes of the messages that are in memory.
    #[cfg(test)]
    pub fn bytes_here(&self) -> usize {
        self.bytes
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
            DelayedCommand::Recover { held, next_sequence } => {
                self.stopped = true;
                self.next_sequence = next_sequence.max(1);
                self.count = held.iter().map(|away| u64::from(away.count)).sum();
                self.away = held.into();
            }
            DelayedCommand::Loaded { runs } => self.loaded(&runs),
            DelayedCommand::Spill => self.spilling = false,
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
        self.count += u64::from(count);
        self.hold(Held { due, first, run, stored });
    }

    fn hold(&mut self, held: Held) {
        self.messages += u64::from(held.run.count());
        self.bytes += held.run.bytes();
        self.here.push(held);
    }

    /// What is due first of those in memory, taken out.
    fn pop(&mut self) -> Option<Held> {
        let held = self.here.pop()?;
        self.messages -= u64::from(held.run.count());
        self.bytes -= held.run.bytes();
        Some(held)
    }

    /// Nothing that is not in memory goes on before what has this place.
    fn is_first(&self, place: (u64, u64)) -> bool {
        [self.loading.first(), self.away.peek()].into_iter().flatten().all(|away| place < away.place())
    }

    /// Takes what is due at `now`, up to a batch.
    pub fn take_due(&mut self, now: u64, fx: &mut Effects) {
        if self.stopped {
            return;
        }
        let mut bytes = 0;
        while self.here.peek().is_some_and(|next| next.due <= now && self.is_first(next.place())) {
            if bytes >= BATCH {
                fx.more = true;
                break;
            }
            let Some(held) = self.pop() else { break };
            let (held, rest) = held.split(BATCH - bytes);
            bytes += held.run.bytes();
            self.count -= u64::from(held.run.count());
            if let Some(rest) = rest {
                self.hold(rest);
            }
            fx.due.push(held);
        }
        shrink(&mut self.here);
    }

    /// Asks for about `window` bytes of what is due soon and away, and for the next tick.
    pub fn look_ahead(&mut self, now: u64, window: usize, fx: &mut Effects) {
        if self.stopped {
            return;
        }
        if let Some(next) = self.away.peek()
            && self.loading.is_empty()
            && next.due <= now.saturating_add(LEAD)
            && (self.bytes < window || self.here.peek().is_none_or(|here| here.place() > next.place()))
        {
            self.load(window, fx);
        }
        // What waits for something to be read back goes on when that has come.
        let here = self.here.peek().filter(|next| self.is_first(next.place())).map(|next| next.due);
        let away = self.away.peek().map(|next| next.due.saturating_sub(LEAD));
        // Where that is over, enough is in memory, and some of it goes on before.
        let away = away.filter(|moment| *moment > now && self.loading.is_empty());
        if let Some(next) = [here, away].into_iter().flatten().min()
            && !fx.more
            && next < self.armed
        {
            self.armed = next;
            fx.tick = Some(next);
        }
    }

    fn load(&mut self, window: usize, fx: &mut Effects) {
        let mut bytes = 0;
        while bytes < window
            && let Some(next) = self.away.pop()
        {
            bytes += next.bytes as usize;
            self.loading.push(next);
        }
        shrink(&mut self.away);
        let mut wanted: Ranges = self.loading.iter().map(|away| (away.first, away.count)).collect();
        wanted.sort_unstable();
        for (first, count) in wanted {
            paging::append(&mut fx.load, first, count);
        }
    }

    /// What storage had of what was asked for.
    fn loaded(&mut self, runs: &[(u64, Run)]) {
        let mut lost = 0;
        let mut found = Vec::new();
        for Away { due, first, count, .. } in std::mem::take(&mut self.loading) {
            lost += Segment::away(first, count, 0).materialise(runs, &mut found);
            for segment in found.drain(..) {
                if let Some(run) = segment.here().cloned() {
                    self.hold(Held { due, first: segment.first, run, stored: true });
                }
            }
        }
        self.count -= lost;
        if lost > 0 {
            tracing::error!(id = self.id, lost, "delayed messages could not be read back and are lost");
        }
    }

    /// Lets go of content that storage has, and gives it what it has not, but for about `keep` bytes of what is due next.
    /// True: storage is to say when it has it.
    pub fn spill(&mut self, paging: &Paging, keep: usize, fx: &mut Effects) -> bool {
        // Not for a little more at every turn.
        if self.dead || self.spilling || self.bytes <= 2 * keep {
            return false;
        }
        (self.messages, self.bytes) = (0, 0);
        for mut held in std::mem::take(&mut self.here).into_sorted_vec().into_iter().rev() {
            if self.bytes < keep {
                self.hold(held);
            } else if !held.stored {
                fx.storage.push(Entry::Op(Op::Spill { queue: self.id, first: held.first, run: held.run.clone() }));
                held.stored = true;
                (self.spilled, self.spilling) = (true, true);
                self.hold(held);
            } else if paging.holds(self.id, held.first, held.run.count()) {
                self.away.push(held.away());
                // What is kept may lie in blocks of what is not.
                (fx.tidy, self.tidied) = (true, u64::MAX);
            } else {
                self.spilling = true;
                self.hold(held);
            }
        }
        self.spilling
    }

    /// The entry that makes storage forget what went on, once it is safe elsewhere.
    pub fn forgotten(&self, held: &Held) -> Option<Entry<Token>> {
        let (queue, first, count) = (self.id, held.first, held.run.count().into());
        held.stored.then_some(Entry::Op(Op::Remove { queue, first, count }))
    }

    /// Frees blocks of which little is left alive. Looks only once half of the messages are gone since it last did,
    /// since that means looking at every one.
    pub fn tidy(&mut self, gauge: &Arc<Gauge>) {
        if self.messages > self.tidied / 2 {
            self.tidied = self.tidied.max(self.messages);
            return;
        }
        let mut here = std::mem::take(&mut self.here).into_vec();
        crate::tidy::tidy_own(here.iter_mut().map(|held| (held.first, &mut held.run)), gauge);
        self.here = here.into();
        self.tidied = self.messages;
    }

    fn die(&mut self, fx: &mut Effects) {
        if std::mem::replace(&mut self.dead, true) {
            return;
        }
        self.give_up();
        if self.durable || self.spilled {
            fx.storage.push(Entry::Op(Op::DropQueue { queue: self.id }));
        }
    }

    /// Lets go of everything in memory; what is stored stays there.
    pub fn give_up(&mut self) {
        (self.here, self.away) = (BinaryHeap::new(), BinaryHeap::new());
        self.loading = Vec::new();
        (self.messages, self.bytes, self.count) = (0, 0, 0);
    }
}

/// Gives memory back of which little is used.
fn shrink<T: Ord>(heap: &mut BinaryHeap<T>) {
    if heap.capacity() > 1024 && heap.len() < heap.capacity() / 4 {
        heap.shrink_to(heap.len() * 2);
    }
}
