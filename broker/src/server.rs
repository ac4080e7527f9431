//! The broker as a whole: started from a configuration, shut down cleanly, ended by an error.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use leveret_storage::{Entry, Op, StorageError, Store};
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::access::Access;
use crate::admin::{AdminError, Administered, Change, Control, Stored};
use crate::clock::Clock;
use crate::command::{Peer, QueueCommand, Token};
use crate::config::Config;
use crate::definitions::{Definitions, Imported};
use crate::pressure::Pressure;
use crate::start::{Builder, StartError};
use crate::threads::Threads;
use crate::vhost::{Parts, VHost, definition};

/// Why a broker ended, or did not end well.
#[derive(Clone, Debug, Error)]
pub enum BrokerError {
    #[error("storage failed, nothing further is confirmed: {0}")]
    Storage(Arc<StorageError>),
}

/// What all parts of a broker share.
pub struct Shared {
    pub config: Config,
    pub clock: Arc<dyn Clock>,
    pub pressure: Arc<Pressure>,
    /// Who may do what.
    pub(crate) access: Arc<Access>,
    pub(crate) vhosts: ArcSwap<HashMap<Box<str>, Arc<VHost>>>,
    /// What further virtual hosts are made with.
    pub(crate) parts: Parts,
    /// Held by who changes users, virtual hosts or permissions.
    pub(crate) administration: Mutex<()>,
    /// Open connections, so that a shutdown can tell them.
    pub(crate) peers: Mutex<HashMap<u64, Arc<Peer>>>,
    pub(crate) next_peer: AtomicU64,
    /// For [`crate::lone`].
    pub(crate) lone_handles: Arc<AtomicUsize>,
}

impl Shared {
    pub fn vhost(&self, name: &str) -> Option<Arc<VHost>> {
        self.vhosts.load().get(name).cloned()
    }

    /// The open connections.
    pub fn peers_now(&self) -> Vec<Arc<Peer>> {
        self.peers().values().cloned().collect()
    }

    /// A further connection, known to the others until it is forgotten.
    pub(crate) fn new_peer(&self) -> Arc<Peer> {
        let peer = Peer::new(self.next_peer.fetch_add(1, Ordering::Relaxed));
        self.peers().insert(peer.id, peer.clone());
        peer
    }

    pub(crate) fn forget_peer(&self, peer: &Peer) {
        self.peers().remove(&peer.id);
    }

    fn peers(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Peer>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The parts behind a [`Broker`].
pub(crate) struct Inside(pub Arc<Shared>);

impl Control for Inside {
    /// Once nobody is connected any more.
    fn note_returned(&self) {
        for vhost in self.0.vhosts.load().values() {
            vhost.delayed().iter().for_each(|delayed| delayed.stop());
            for queue in vhost.snapshot().queues.values() {
                queue.push(QueueCommand::NoteReturned);
            }
        }
    }

    fn change(&self, change: Change) -> Result<Stored, AdminError> {
        self.0.change(change)
    }

    fn administered(&self) -> Administered {
        self.0.administered()
    }

    fn import(&self, definitions: &Definitions) -> (Imported, Stored) {
        (self.0.import(definitions), self.0.stored())
    }

    fn peers(&self) -> Vec<Arc<Peer>> {
        self.0.peers_now()
    }
}

/// How far the end has come.
#[derive(Clone)]
pub(crate) enum Stop {
    Running,
    Graceful,
    Failed(Arc<StorageError>),
    /// The broker was let go of without a shutdown.
    Dropped,
}

/// A running broker. Two in one process know nothing of each other.
///
/// Dropped without [`Broker::shutdown`], it closes its sockets at once; what it has confirmed stays safe.
pub struct Broker {
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) control: Box<dyn Control>,
    pub(crate) store: Store<Token>,
    pub(crate) stop: watch::Sender<Stop>,
    pub(crate) listeners: Mutex<Vec<JoinHandle<()>>>,
    pub(crate) threads: Arc<Threads>,
    /// Timers, tidying and the watches over the disk, memory and the threads: they end with the broker.
    pub(crate) tasks: [JoinHandle<()>; 5],
}

impl Broker {
    /// Starts a broker as `config` says, on the current tokio runtime: see [`Builder::start`].
    ///
    /// # Errors
    /// [`StartError`], as [`Builder::start`].
    ///
    /// # Panics
    /// As [`Builder::start`].
    pub async fn start(config: Config) -> Result<Broker, StartError> {
        Broker::builder(config).start().await
    }

    /// A broker whose clock or store is given by the caller.
    pub fn builder(config: Config) -> Builder {
        Builder::new(config)
    }

    /// Where it listens, in the order of the configuration; port 0 has become the port that was found.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Tells each open connection which of the broker's threads to be on, by its number: 0 is the runtime that the broker
    /// was started on. It goes there with its next turn. The broker does so itself when a thread has too much to do.
    ///
    /// # Errors
    /// When a thread cannot be begun; who is left stays where it is.
    pub fn arrange(&self, mut thread: impl FnMut() -> usize) -> io::Result<()> {
        for peer in self.control.peers() {
            let thread = thread().min(self.threads.limit() - 1);
            self.threads.begin(thread)?;
            peer.place.want(thread);
        }
        Ok(())
    }

    /// Stops accepting, finishes pending confirms, closes every connection with 320, syncs the store.
    ///
    /// Confirms are waited for up to 5 s, clients that do not answer the close up to 8 s, both from the beginning; then
    /// their connections are dropped. The store is given as long as its disk needs, so who must end by a certain time has
    /// to limit this from outside: what was confirmed is stored, whether this comes to its end or not.
    ///
    /// # Errors
    /// When an error has ended the broker before, or the store cannot be closed.
    pub async fn shutdown(&self) -> Result<(), BrokerError> {
        self.stop.send_if_modified(|stop| {
            let running = matches!(stop, Stop::Running);
            if running {
                *stop = Stop::Graceful;
            }
            running
        });
        let listeners = std::mem::take(&mut *self.listeners.lock().unwrap_or_else(PoisonError::into_inner));
        for listener in listeners {
            // A listener that panicked has nothing left to close.
            let _ = listener.await;
        }
        self.control.note_returned();
        let (key, value) = (definition::returned_key(0), definition::returned_value(&[]));
        self.store.submit(&mut vec![Entry::Op(Op::PutDefinition { key, value })]);
        let store = self.store.clone();
        let closed = tokio::task::spawn_blocking(move || store.close()).await;
        if let Stop::Failed(error) = &*self.stop.borrow() {
            return Err(BrokerError::Storage(error.clone()));
        }
        match closed {
            Ok(Err(error)) => Err(BrokerError::Storage(Arc::new(error))),
            _ => Ok(()),
        }
    }

    /// Waits until an error ends the broker, and returns it.
    pub async fn failed(&self) -> BrokerError {
        let mut stopping = self.stop.subscribe();
        loop {
            if let Stop::Failed(error) = &*stopping.borrow_and_update() {
                return BrokerError::Storage(error.clone());
            }
            if stopping.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        self.stop.send_if_modified(|stop| {
            let running = matches!(stop, Stop::Running);
            if running {
                *stop = Stop::Dropped;
            }
            running
        });
    }
}
