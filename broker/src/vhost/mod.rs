//! A virtual host: the handle that connections route and look up by, and the owner of its topology behind it.

mod bindings;
pub mod command;
pub mod dead_letter;
mod deaths;
pub mod definition;
pub mod history;
pub mod publisher;
pub mod records;
pub mod replies;
pub mod snapshot;
pub mod topology;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};
use leveret_storage::{Gauge, Store};

use self::command::TopologyCommand;
use self::dead_letter::{DeadLetter, DeadLetterOwner};
use self::publisher::Publisher;
use self::records::Metadata;
use self::replies::Replies;
use self::snapshot::Snapshot;
use self::topology::TopologyOwner;
use crate::clock::Clock;
use crate::command::Token;
use crate::delayed::Delayed;
use crate::mailbox::Turn;
use crate::paging::Paging;
use crate::timers::Timers;

pub struct VHost {
    pub name: Arc<str>,
    metadata: ArcSwap<Metadata>,
    snapshot: ArcSwap<Snapshot>,
    generation: AtomicU64,
    topology: Arc<Turn<TopologyOwner>>,
    dead_letters: Arc<Turn<DeadLetterOwner>>,
    /// The reply consumers of all connections.
    pub replies: Replies,
}

/// What a virtual host is made with.
#[derive(Clone)]
pub struct Parts {
    /// Numbers what has messages in storage, broker-wide.
    pub next_id: Arc<AtomicU64>,
    pub store: Store<Token>,
    pub gauge: Arc<Gauge>,
    pub timers: Arc<Timers>,
    pub clock: Arc<dyn Clock>,
    pub paging: Arc<Paging>,
}

impl VHost {
    /// A virtual host with the predeclared exchanges.
    pub fn new(name: Arc<str>, parts: Parts) -> Arc<VHost> {
        Arc::new_cyclic(|vhost| {
            let dead_letters = DeadLetterOwner {
                vhost: vhost.clone(),
                store: parts.store.clone(),
                clock: parts.clock.clone(),
                publisher: Publisher::new(parts.gauge.clone()),
            };
            let owner = TopologyOwner::new(name.clone(), vhost.clone(), parts);
            VHost {
                name,
                metadata: ArcSwap::default(),
                snapshot: ArcSwap::from_pointee(owner.snapshot()),
                generation: AtomicU64::new(1),
                topology: Turn::new(owner),
                replies: Replies::default(),
                dead_letters: Turn::new(dead_letters),
            }
        })
    }

    /// Lets recovery fill the topology, before any connection knows of it.
    pub fn recover<R>(&self, fill: impl FnOnce(&mut TopologyOwner) -> R) -> R {
        self.topology.with(|owner| {
            let result = fill(owner);
            owner.publish();
            result
        })
    }

    /// Lets definitions be imported; what they change is stored and in force afterwards.
    pub fn import<R>(&self, fill: impl FnOnce(&mut TopologyOwner) -> R) -> R {
        self.topology.with(|owner| {
            let result = fill(owner);
            owner.publish();
            owner.hand_out();
            result
        })
    }

    /// What is known of it beyond its name.
    pub fn metadata(&self) -> Guard<Arc<Metadata>> {
        self.metadata.load()
    }

    pub fn describe(&self, metadata: Metadata) {
        self.metadata.store(Arc::new(metadata));
    }

    /// Routes that were found no longer hold, as when permissions have changed.
    pub fn touch(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// The topology as it is now.
    pub fn snapshot(&self) -> Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// Moves whenever the topology has changed: routes found under another generation no longer hold.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Puts a new picture in force.
    pub(crate) fn publish(&self, snapshot: Snapshot) {
        self.snapshot.store(Arc::new(snapshot));
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// What its x-delayed-message exchanges hold back.
    pub fn delayed(&self) -> Vec<Arc<Delayed>> {
        self.snapshot().exchanges.values().filter_map(|exchange| exchange.spec.delayed.clone()).collect()
    }

    /// Takes over what queues have given up.
    pub fn dead_letter(&self, letters: &mut Vec<DeadLetter>) {
        self.dead_letters.append(letters, 0);
    }

    pub fn push(&self, command: TopologyCommand) {
        self.topology.push(command);
    }

    pub fn append(&self, commands: &mut Vec<TopologyCommand>) {
        self.topology.append(commands, 0);
    }
}
