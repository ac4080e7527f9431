//! What an x-delayed-message exchange holds back: its handle, and the turn that runs its state and sends on what is due.
//!
//! * `held`, `state`: the messages by the moment when they are due; synchronous.
//! * `header`: `x-delay` itself.
//!
//! Routing happens when a message is due, by the topology of then. It stays in storage until the last queue that it
//! goes to has inserted it: a kill in between doubles it at worst.

pub mod header;
mod held;
mod state;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::Waker;

use leveret_protocol::{Message, content};
use leveret_storage::{Entry, Level, Run, StorageError, Stored};

use self::held::{Away, Held};
pub use self::state::DelayedCommand;
use self::state::{DelayedState, Effects};
use crate::command::{Release, Token};
use crate::mailbox::{Owner, Turn};
use crate::message::{Meta, meta, routing_keys};
use crate::paging::{Holder, Paging, Ranges};
use crate::queue::Outside;
use crate::timers::Ticked;
use crate::vhost::VHost;
use crate::vhost::publisher::Publisher;
use crate::vhost::snapshot::Found;

/// The messages that an exchange holds back, as everybody but their owner knows them.
pub struct Delayed {
    /// Identity in storage, never used again.
    pub id: u64,
    /// The exchange's name.
    pub exchange: Box<str>,
    pub durable: bool,
    count: AtomicU64,
    paging: Arc<Paging>,
    turn: Arc<Turn<Erased>>,
}

/// The owner without its type: what it reaches, virtual hosts with their snapshots, nests too deeply for the compilers
/// of those who embed a broker.
struct Erased(Box<dyn Owner<Command = DelayedCommand>>);

impl Owner for Erased {
    type Command = DelayedCommand;

    fn run(&mut self, commands: &mut Vec<DelayedCommand>) {
        self.0.run(commands);
    }

    fn fail(&mut self) {
        self.0.fail();
    }
}

impl Delayed {
    pub fn new(id: u64, exchange: Box<str>, durable: bool, outside: Outside) -> Arc<Delayed> {
        Arc::new_cyclic(|delayed| Delayed {
            id,
            exchange,
            durable,
            count: AtomicU64::new(0),
            paging: outside.paging.clone(),
            turn: Turn::new(Erased(Box::new(DelayedOwner {
                delayed: delayed.clone(),
                state: DelayedState::new(id, durable),
                effects: Effects::default(),
                publisher: Publisher::new(outside.gauge.clone()),
                outside,
            }))),
        })
    }

    /// Whether a message outlives the broker here, and so is confirmed only once it is stored.
    pub fn keeps(&self, persistent: bool) -> bool {
        self.durable && persistent
    }

    /// How many messages are held back.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Takes in what storage held, before anybody else knows of this, without reading it. Nothing goes on until
    /// [`Delayed::start`].
    pub fn recover(&self, stored: &[Stored], next_sequence: u64) -> Result<(), StorageError> {
        let mut held: Vec<Away> = Vec::new();
        for Stored { first, count, .. } in stored {
            for message in self.paging.outlines(self.id, *first, *count)? {
                let new = Away::of(&message);
                if !held.last_mut().is_some_and(|last| last.take_in(&new)) {
                    held.push(new);
                }
            }
        }
        self.push(DelayedCommand::Recover { held, next_sequence });
        Ok(())
    }

    /// The bindings are there: what is due goes on.
    pub fn start(&self) {
        self.push(DelayedCommand::Start);
    }

    /// Nothing goes on from now on: the broker stops, and what is stored must neither be lost nor doubled.
    pub fn stop(&self) {
        // Waits for the turn that sends something on at this moment.
        self.turn.with(|owner| owner.run(&mut vec![DelayedCommand::Stop]));
    }

    pub fn push(&self, command: DelayedCommand) {
        self.turn.push(command);
    }

    /// Adds commands in order, `bytes` of messages among them.
    pub fn append(&self, commands: &mut Vec<DelayedCommand>, bytes: usize) {
        self.turn.append(commands, bytes);
    }

    /// As [`Turn::is_over`].
    pub fn is_over(&self) -> bool {
        self.turn.is_over()
    }

    /// As [`Turn::is_full`].
    pub fn is_full(&self, waker: &Waker) -> bool {
        self.turn.is_full(waker)
    }
}

impl Holder for Delayed {
    fn id(&self) -> u64 {
        self.id
    }

    fn name(&self) -> &str {
        &self.exchange
    }

    fn paging(&self) -> &Paging {
        &self.paging
    }

    fn may_spill(&self) {
        self.push(DelayedCommand::Spill);
    }

    fn loaded(&self, _: Ranges, runs: Vec<(u64, Run)>) {
        self.push(DelayedCommand::Loaded { runs });
    }
}

impl Ticked for Delayed {
    fn tick(&self) {
        self.push(DelayedCommand::Tick);
    }
}

/// The state with the way out for its effects.
struct DelayedOwner {
    delayed: Weak<Delayed>,
    state: DelayedState,
    effects: Effects,
    publisher: Publisher,
    outside: Outside,
}

impl Owner for DelayedOwner {
    type Command = DelayedCommand;

    fn run(&mut self, commands: &mut Vec<DelayedCommand>) {
        let now = self.outside.timers.now();
        for command in commands.drain(..) {
            self.state.apply(command, &mut self.effects);
        }
        self.state.take_due(now, &mut self.effects);
        let paging = &self.outside.paging;
        let window = paging.window();
        if paging.is_high() && self.state.spill(paging, window, &mut self.effects) {
            let holder: Weak<dyn Holder> = self.delayed.clone();
            self.effects.storage.push(Entry::Notify(Level::Written, Token::Spill(holder)));
        }
        self.state.look_ahead(now, window, &mut self.effects);
        self.hand_out(now);
    }

    fn fail(&mut self) {
        tracing::error!("delayed messages failed; those that are stored come back with the next start");
        self.effects = Effects::default();
        self.publisher.clear();
        self.state.give_up();
    }
}

impl DelayedOwner {
    fn hand_out(&mut self, now: u64) {
        let Some(delayed) = self.delayed.upgrade() else { return };
        let fx = &mut self.effects;
        self.outside.store.submit(&mut fx.storage);
        fx.releases.clear();
        for (to, count) in fx.confirmed.drain(..) {
            Token::Confirm { to, count }.complete();
        }
        if std::mem::take(&mut fx.tidy) {
            self.state.tidy(&self.outside.gauge);
        }
        let due = std::mem::take(&mut fx.due);
        if !due.is_empty()
            && let Some(vhost) = self.outside.vhost.upgrade()
        {
            self.send_on(&vhost, &delayed, &due, now);
        }
        delayed.count.store(self.state.count(), Ordering::Relaxed);
        if let Some(moment) = self.effects.tick.take() {
            self.outside.timers.at(moment, delayed.id, self.delayed.clone());
        }
        if !self.effects.load.is_empty() {
            self.outside.paging.load(self.delayed.clone(), std::mem::take(&mut self.effects.load));
        }
        if std::mem::take(&mut self.effects.more) {
            // Runs after this turn, which is bounded so that it does not hold its thread for long.
            delayed.push(DelayedCommand::Tick);
        }
    }

    fn send_on(&mut self, vhost: &VHost, delayed: &Delayed, due: &[Held], now: u64) {
        let mut entries: Vec<Entry<Token>> = Vec::new();
        for held in due {
            let run = &held.run;
            for index in run.from..run.to {
                self.send_one(vhost, delayed, run.block.bytes(index), meta(&run.block, index), now);
            }
            entries.extend(self.state.forgotten(held));
        }
        let release = Release { store: self.outside.store.clone(), entries: Mutex::new(entries) };
        self.publisher.release(Some(Arc::new(release)));
        self.publisher.flush(vhost);
    }

    fn send_one(&mut self, vhost: &VHost, delayed: &Delayed, bytes: &[u8], meta: Meta, now: u64) {
        let snapshot = vhost.snapshot();
        let exchange = snapshot.exchanges.get(delayed.exchange.as_bytes());
        // A new exchange of that name has nothing to do with it.
        let Some(exchange) = exchange.filter(|e| e.spec.delayed.as_ref().is_some_and(|d| d.id == delayed.id)) else {
            return;
        };
        let Some(message) = Message::parse(bytes) else { return };
        let Ok(properties) = message.content_header().parse() else { return };
        let keys = routing_keys(&message, &properties, meta);
        let expiration = properties.expiration.and_then(|text| crate::expiration::parse(text).ok());
        let delay = header::delay_of(properties.headers).unwrap_or(0);
        let Ok(header) = header::onward(&message, delay) else { return };
        let edited = content::header(&header);
        let Ok(properties) = edited.parse() else { return };
        let mut found = Found::default();
        snapshot.route(exchange, &keys, &properties, &mut found);
        let onward = message.rebuild(message.address, &header);
        // Who held messages back before `meta` told of BCC stored them with it too.
        let hidden = meta.hides() || properties.headers.is_some_and(|headers| headers.get("BCC").is_some());
        let meta = meta.published_at(now).with_hidden(hidden);
        self.publisher.publish(vhost, &found, onward, meta, expiration);
    }
}
