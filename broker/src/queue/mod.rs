//! A queue: its handle, and the turn that runs its state and hands out what follows.

pub mod arguments;
mod cold;
mod consumers;
mod effects;
pub mod equivalence;
mod intake;
mod level;
pub mod lifetimes;
mod paged;
mod ready;
pub mod recovered;
mod state;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use leveret_storage::{Entry, Gauge, Mark, Run, Store};

use self::arguments::{Overflow, Settings};
use self::effects::Effects;
pub use self::state::Origin;
use self::state::QueueState;
use crate::clock::Moment;
use crate::command::{ConnectionEvent, QueueCommand, Token};
use crate::mailbox::{Owner, Turn};
use crate::paging::{Holder, Paging, Ranges};
use crate::timers::{Ticked, Timers};
use crate::vhost::VHost;

/// A queue as everybody but its owner knows it.
pub struct Queue {
    /// Identity in storage, never used again.
    pub id: u64,
    pub name: Box<str>,
    pub durable: bool,
    /// It keeps transient messages too (a quorum queue).
    pub keeps_all: bool,
    /// It may refuse publishes, and so answers each that wants a confirm.
    refuses: AtomicBool,
    /// The connection that alone may use it.
    pub exclusive_to: Option<u64>,
    /// See [`Queue::consumer_timeout`].
    consumer_timeout: AtomicU64,
    turn: Arc<Turn<QueueOwner>>,
    paging: Arc<Paging>,
}

/// A consumer timeout of which the queue says nothing.
const NOT_SET: u64 = u64::MAX;

/// What a queue's owner reaches beyond itself.
#[derive(Clone)]
pub struct Outside {
    pub store: Store<Token>,
    pub vhost: Weak<VHost>,
    pub timers: Arc<Timers>,
    pub gauge: Arc<Gauge>,
    pub paging: Arc<Paging>,
}

impl Queue {
    pub fn new(origin: Origin<'_>, exclusive_to: Option<u64>, mark: Option<Mark>, outside: Outside) -> Arc<Queue> {
        Arc::new_cyclic(|queue| Queue {
            id: origin.id,
            name: origin.name.clone(),
            durable: origin.durable,
            keeps_all: origin.settings.quorum,
            refuses: AtomicBool::new(origin.settings.overflow != Overflow::DropHead),
            exclusive_to,
            consumer_timeout: AtomicU64::new(origin.settings.consumer_timeout.unwrap_or(NOT_SET)),
            paging: outside.paging.clone(),
            turn: Turn::new(QueueOwner {
                inner: Inner {
                    queue: queue.clone(),
                    state: QueueState::new(origin, queue.clone()),
                    effects: Effects::default(),
                    mark,
                },
                outside,
            }),
        })
    }

    /// Its type, as `x-queue-type` names it.
    pub fn kind(&self) -> &'static str {
        if self.keeps_all { "quorum" } else { "classic" }
    }

    /// Whether a message outlives the broker here.
    pub fn keeps(&self, persistent: bool) -> bool {
        self.durable && (persistent || self.keeps_all)
    }

    /// Whether a publish with a confirm waits for this queue's word.
    pub fn answers(&self, persistent: bool) -> bool {
        self.keeps(persistent) || self.refuses.load(Ordering::Acquire)
    }

    /// The queue will get these settings. From now on each publish that wants a confirm waits for the queue's word, if
    /// it may be refused by them.
    pub fn may_refuse(&self, settings: &Settings) {
        if settings.overflow != Overflow::DropHead {
            self.refuses.store(true, Ordering::Release);
        }
    }

    /// The queue has got these settings.
    fn configured(&self, settings: &Settings) {
        self.refuses.store(settings.overflow != Overflow::DropHead, Ordering::Release);
        // Holds for what is outstanding too, from the next time that a channel looks.
        self.consumer_timeout.store(settings.consumer_timeout.unwrap_or(NOT_SET), Ordering::Relaxed);
    }

    /// Milliseconds that a delivery may wait for its acknowledgement, 0: for ever; None: as long as the server says.
    pub fn consumer_timeout(&self) -> Option<u64> {
        Some(self.consumer_timeout.load(Ordering::Relaxed)).filter(|timeout| *timeout != NOT_SET)
    }

    /// Storage can give back these messages of it.
    pub fn stores(&self, first: u64, count: u32) -> bool {
        self.paging.holds(self.id, first, count)
    }

    /// Tells the queue one thing.
    pub fn push(&self, command: QueueCommand) {
        self.turn.push(command);
    }

    /// Tells the queue several things in order, `bytes` of messages among them.
    pub fn append(&self, commands: &mut Vec<QueueCommand>, bytes: usize) {
        self.turn.append(commands, bytes);
    }

    /// As [`Turn::is_over`].
    pub fn is_over(&self) -> bool {
        self.turn.is_over()
    }

    /// As [`Turn::is_full`].
    pub fn is_full(&self, waker: &std::task::Waker) -> bool {
        self.turn.is_full(waker)
    }
}

impl Holder for Queue {
    fn id(&self) -> u64 {
        self.id
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn paging(&self) -> &Paging {
        &self.paging
    }

    fn may_spill(&self) {
        self.push(QueueCommand::Spill);
    }

    fn loaded(&self, wanted: Ranges, runs: Vec<(u64, Run)>) {
        self.push(QueueCommand::Loaded { wanted, runs });
    }
}

impl Ticked for Queue {
    fn tick(&self) {
        self.push(QueueCommand::Tick);
    }
}

/// The state with the way out for its effects.
struct QueueOwner {
    inner: Inner,
    outside: Outside,
}

struct Inner {
    queue: Weak<Queue>,
    state: QueueState,
    effects: Effects,
    /// Remembers across a kill how far a durable queue has been delivered.
    mark: Option<Mark>,
}

/// Peers whose event buffers are kept from turn to turn.
const KEPT: usize = 4;

thread_local! {
    /// One vector of commands that no queue needs at the moment.
    static SPARE: Cell<Vec<QueueCommand>> = const { Cell::new(Vec::new()) };
}

/// Commands that a spare vector may have room for.
const SPARE_COMMANDS: usize = 1024;

impl Owner for QueueOwner {
    type Command = QueueCommand;

    fn spare() -> Vec<QueueCommand> {
        SPARE.take()
    }

    fn keep(spare: Vec<QueueCommand>) {
        if spare.capacity() <= SPARE_COMMANDS {
            SPARE.set(spare);
        }
    }

    fn run(&mut self, commands: &mut Vec<QueueCommand>) {
        let QueueOwner { inner, outside } = self;
        let now = outside.timers.moment();
        for command in commands.drain(..) {
            inner.state.apply(command, &now, &mut inner.effects);
        }
        inner.state.deliver(&now, &mut inner.effects);
        if outside.paging.is_high() {
            inner.state.spill(&outside.paging, outside.paging.ahead(), &mut inner.effects);
        }
        while inner.hand_out(outside, &now) {
            // Somebody was gone: what was meant for them goes to others.
            inner.state.deliver(&now, &mut inner.effects);
        }
    }

    fn fail(&mut self) {
        let QueueOwner { inner, outside } = self;
        // What waited for messages to be stored here must not be told that they are: they may not.
        std::mem::take(&mut inner.effects).releases.into_iter().for_each(std::mem::forget);
        inner.state.fail(&mut inner.effects);
        inner.hand_out(outside, &outside.timers.moment());
    }
}

impl Inner {
    /// True when some delivery came back.
    fn hand_out(&mut self, outside: &Outside, now: &Moment<'_>) -> bool {
        let effects = &mut self.effects;
        self.state.read_ahead(outside.paging.ahead(), effects);
        // Before anybody sees them: a kill right after this must find them marked as delivered.
        if let (Some(sequence), Some(mark)) = (effects.delivered_through.take(), &self.mark)
            && let Err(error) = mark.delivered_through(sequence)
        {
            effects.storage.push(Entry::Fail(error));
        }
        if !effects.storage.is_empty() {
            outside.store.submit(&mut effects.storage);
        }
        effects.releases.clear();
        let mut returned: Vec<ConnectionEvent> = Vec::new();
        for (peer, events) in &mut effects.events {
            if !events.is_empty() && !peer.mailbox.append(events) {
                returned.append(events);
            }
        }
        if effects.events.len() > KEPT {
            effects.events.clear();
        }
        let is_for_others = !effects.dead_letters.is_empty() || !effects.topology.is_empty();
        if is_for_others && let Some(vhost) = outside.vhost.upgrade() {
            if !effects.dead_letters.is_empty() {
                vhost.dead_letter(&mut effects.dead_letters);
            }
            if !effects.topology.is_empty() {
                vhost.append(&mut effects.topology);
            }
        }
        if let Some(moment) = effects.tick.take() {
            outside.timers.at(moment, self.state.id, self.queue.clone());
        }
        for wanted in effects.loads.drain(..) {
            outside.paging.load(self.queue.clone(), wanted);
        }
        if std::mem::take(&mut effects.tidy) {
            self.state.tidy(&outside.gauge);
        }
        let some = !returned.is_empty();
        for event in returned {
            self.state.undeliverable(event, now, &mut self.effects);
        }
        some
    }
}
