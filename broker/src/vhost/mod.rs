//! A virtual host: the handle that connections route and look up by, and the owner of its topology behind it.

mod bindings;
pub mod command;
pub mod definition;
pub mod replies;
pub mod snapshot;
pub mod topology;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};
use leveret_storage::Store;

use self::command::TopologyCommand;
use self::replies::Replies;
use self::snapshot::Snapshot;
use self::topology::TopologyOwner;
use crate::command::Token;
use crate::mailbox::Turn;

pub struct VHost {
    pub name: Arc<str>,
    snapshot: ArcSwap<Snapshot>,
    generation: AtomicU64,
    topology: Arc<Turn<TopologyOwner>>,
    /// The reply consumers of all connections.
    pub replies: Replies,
}

impl VHost {
    /// A virtual host with the predeclared exchanges. `next_id` numbers queues, broker-wide.
    pub fn new(name: Arc<str>, next_id: Arc<AtomicU64>, store: Store<Token>) -> Arc<VHost> {
        Arc::new_cyclic(|vhost| {
            let owner = TopologyOwner::new(name.clone(), vhost.clone(), next_id, store);
            VHost {
                name,
                snapshot: ArcSwap::from_pointee(owner.snapshot()),
                generation: AtomicU64::new(1),
                topology: Turn::new(owner),
                replies: Replies::default(),
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

    pub fn push(&self, command: TopologyCommand) {
        self.topology.push(command);
    }

    pub fn append(&self, commands: &mut Vec<TopologyCommand>) {
        self.topology.append(commands, 0);
    }
}
