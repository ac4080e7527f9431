//! A queue: its handle, and the turn that runs its state and hands out what follows.

pub mod arguments;
mod consumers;
mod ready;
mod state;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Weak};

use leveret_storage::{Mark, Store};

pub use self::state::Origin;
use self::state::{Effects, QueueState};
use crate::command::{ConnectionEvent, QueueCommand, Token};
use crate::mailbox::{Owner, Turn};
use crate::vhost::VHost;

/// A queue as everybody but its owner knows it.
pub struct Queue {
    /// Identity in storage, never used again.
    pub id: u64,
    pub name: Box<str>,
    pub durable: bool,
    /// The connection that alone may use it.
    pub exclusive_to: Option<u64>,
    turn: Arc<Turn<QueueOwner>>,
}

impl Queue {
    pub fn new(
        origin: Origin,
        exclusive_to: Option<u64>,
        store: Store<Token>,
        mark: Option<Mark>,
        vhost: Weak<VHost>,
    ) -> Arc<Queue> {
        Arc::new_cyclic(|queue| Queue {
            id: origin.id,
            name: origin.name.clone(),
            durable: origin.durable,
            exclusive_to,
            turn: Turn::new(QueueOwner {
                state: QueueState::new(origin, queue.clone()),
                effects: Effects::default(),
                store,
                mark,
                vhost,
            }),
        })
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

/// The state with the way out for its effects.
struct QueueOwner {
    state: QueueState,
    effects: Effects,
    store: Store<Token>,
    /// Remembers across a kill how far a durable queue has been delivered.
    mark: Option<Mark>,
    vhost: Weak<VHost>,
}

/// Peers whose event buffers are kept from turn to turn.
const KEPT: usize = 4;

impl Owner for QueueOwner {
    type Command = QueueCommand;

    fn run(&mut self, commands: &mut Vec<QueueCommand>) {
        for command in commands.drain(..) {
            self.state.apply(command, &mut self.effects);
        }
        self.state.deliver(&mut self.effects);
        while self.hand_out() {
            // Somebody was gone: what was meant for them goes to others.
            self.state.deliver(&mut self.effects);
        }
    }

    fn fail(&mut self) {
        self.effects = Effects::default();
        self.state.give_up(&mut self.effects);
        self.hand_out();
    }
}

impl QueueOwner {
    /// True when some delivery came back.
    fn hand_out(&mut self) -> bool {
        let effects = &mut self.effects;
        // Before anybody sees them: a kill right after this must find them marked as delivered.
        if let (Some(sequence), Some(mark)) = (effects.delivered_through.take(), &self.mark)
            && let Err(error) = mark.delivered_through(sequence)
        {
            tracing::error!(%error, "cannot note what was delivered");
        }
        if !effects.storage.is_empty() {
            self.store.submit(&mut effects.storage);
        }
        let mut returned: Vec<ConnectionEvent> = Vec::new();
        for (peer, events) in &mut effects.events {
            if !events.is_empty() && !peer.mailbox.append(events) {
                returned.append(events);
            }
        }
        if effects.events.len() > KEPT {
            effects.events.clear();
        }
        if !effects.topology.is_empty()
            && let Some(vhost) = self.vhost.upgrade()
        {
            vhost.append(&mut effects.topology);
        }
        let some = !returned.is_empty();
        for event in returned {
            self.state.undeliverable(event, &mut self.effects);
        }
        some
    }
}
