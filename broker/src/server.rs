//! The broker as a whole: started from a configuration, shut down cleanly, ended by an error.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use leveret_storage::{
    Backend, Entry, Gauge, Level, Op, Recovered, StorageError, Store, StoreOptions, open_disk, open_memory,
};
use thiserror::Error;
use tokio::net::TcpSocket;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::access::Access;
use crate::admin::{AdminError, Administered, Change, Control, Stored};
use crate::clock::{Clock, SystemClock};
use crate::command::{ConnectionEvent, Peer, QueueCommand, Token};
use crate::config::{Config, ConfigError, ConfiguredPolicy, Durability, StorageKind};
use crate::definitions::{Definitions, DefinitionsError, Imported};
use crate::delayed::DelayedCommand;
use crate::listener::accept;
use crate::paging::Paging;
use crate::pressure::{FreeDisk, Pressure, free_disk};
use crate::recovery;
use crate::spread;
use crate::threads::Threads;
use crate::tidy::WORTH_WHILE;
use crate::timers::Timers;
use crate::vhost::{Parts, VHost, definition};

/// Connections that the kernel completes before they are accepted.
const BACKLOG: u32 = 1024;
/// How often a start that waits for the disk looks whether it is full.
const LOOK_AT_START: Duration = Duration::from_millis(20);

/// Why a broker does not start. Each is one line.
#[derive(Debug, Error)]
pub enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Definitions(#[from] DefinitionsError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

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
    peers: Mutex<HashMap<u64, Arc<Peer>>>,
    next_peer: AtomicU64,
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
struct Inside(Arc<Shared>);

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
    addresses: Vec<SocketAddr>,
    pub(crate) control: Box<dyn Control>,
    store: Store<Token>,
    stop: watch::Sender<Stop>,
    listeners: Mutex<Vec<JoinHandle<()>>>,
    threads: Arc<Threads>,
    /// Timers, tidying and the watches over the disk and the threads: they end with the broker.
    tasks: [JoinHandle<()>; 4],
}

/// A broker to be started with other parts than the usual ones.
pub struct Builder {
    config: Config,
    clock: Arc<dyn Clock>,
    gauge: Arc<Gauge>,
    opened: Option<(Box<dyn Backend>, Recovered)>,
    free_disk: Option<FreeDisk>,
    threads: usize,
}

impl Builder {
    /// Time as `clock` tells it.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Builder {
        self.clock = clock;
        self
    }

    /// An opened store in place of the one that the configuration names.
    pub fn store(mut self, backend: Box<dyn Backend>, recovered: Recovered) -> Builder {
        self.opened = Some((backend, recovered));
        self
    }

    /// Free disk, in bytes, as `free` says: else the data directory's file system is asked.
    pub fn free_disk(mut self, free: impl Fn() -> std::io::Result<u64> + Send + Sync + 'static) -> Builder {
        self.free_disk = Some(Arc::new(free));
        self
    }

    /// Threads that connections may be spread over, the current runtime counted as one: further ones are begun while one
    /// has more to do than it can and a core is idle. To be given where the current runtime is a `current_thread` one;
    /// a multi-thread runtime spreads them itself. 1 unless said.
    pub fn threads(mut self, threads: usize) -> Builder {
        self.threads = threads;
        self
    }

    /// Starts the broker on the current tokio runtime.
    pub async fn start(self) -> Result<Broker, StartError> {
        let Builder { config, clock, gauge, opened, free_disk, threads } = self;
        config.validate()?;
        let policies = config.policies()?;
        let file = config.definitions.as_path();
        let definitions = if file.as_os_str().is_empty() { None } else { Some(Definitions::read(file)?) };
        // Ports first: one in use must leave the data untouched. Nobody can connect before `listen`.
        let sockets = config.listen.iter().map(|address| bind(*address)).collect::<Result<Vec<_>, _>>()?;
        let (backend, recovered) = match opened {
            Some(opened) => opened,
            None => open(&config)?,
        };
        let (stop, stopping) = watch::channel(Stop::Running);
        let failed = stop.clone();
        let store = Store::start(
            backend,
            StoreOptions { synced: level(config.durability), ..StoreOptions::default() },
            |tokens: &mut Vec<Token>| tokens.drain(..).for_each(Token::complete),
            move |error| drop(failed.send(Stop::Failed(Arc::new(error)))),
        )?;
        let timers = Timers::new(clock.clone());
        let limit = usize::try_from(config.memory_limit.bytes()).unwrap_or(usize::MAX);
        let parts = Parts {
            next_id: Arc::default(),
            store: store.clone(),
            gauge: gauge.clone(),
            timers: timers.clone(),
            clock: clock.clone(),
            paging: Paging::new(store.reader(), gauge.clone(), limit),
        };
        let beginning = recovery::begin(recovered, &parts)?;
        let ticking = tokio::spawn(timers.run());
        let shared = Arc::new(Shared {
            pressure: Pressure::new(gauge, limit, clock.clone()),
            config,
            clock,
            access: Arc::default(),
            vhosts: ArcSwap::from_pointee(beginning.vhosts),
            parts,
            administration: Mutex::default(),
            peers: Mutex::default(),
            next_peer: AtomicU64::new(1),
            lone_handles: Arc::default(),
        });
        shared.access.publish(beginning.access);
        prepare(&shared, beginning.fresh, definitions, policies);
        until_stored(&shared).await;
        let tidying = tokio::spawn(tidy(shared.clone()));
        let watching = watch_disk(&shared, free_disk);
        let threads = Arc::new(Threads::new(threads));
        let spreading = tokio::spawn(spread::watch(shared.clone(), threads.clone()));
        let mut addresses = Vec::new();
        let mut listeners = Vec::new();
        for (socket, address) in sockets {
            let error = |source| StartError::Listen { address, source };
            let listener = socket.listen(BACKLOG).map_err(error)?;
            addresses.push(listener.local_addr().map_err(error)?);
            let accepting = accept(listener, shared.clone(), threads.clone(), stopping.clone());
            listeners.push(tokio::spawn(accepting));
        }
        Ok(Broker {
            control: Box::new(Inside(shared)),
            addresses,
            store,
            stop,
            listeners: Mutex::new(listeners),
            threads,
            tasks: [ticking, tidying, watching, spreading],
        })
    }
}

impl Broker {
    /// Starts a broker as `config` says, on the current tokio runtime.
    pub async fn start(config: Config) -> Result<Broker, StartError> {
        Broker::builder(config).start().await
    }

    /// A broker whose clock or store is given by the caller.
    pub fn builder(config: Config) -> Builder {
        Builder {
            config,
            clock: Arc::new(SystemClock::default()),
            gauge: Arc::default(),
            opened: None,
            free_disk: None,
            threads: 1,
        }
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

/// Waits until whoever connects finds what will still be there after a power cut. A full disk is no reason not to
/// start: consumers make room. A store that has failed says so itself.
async fn until_stored(shared: &Shared) {
    let mut stored = shared.stored();
    while !shared.parts.store.is_full() {
        tokio::select! {
            _ = &mut stored => break,
            () = tokio::time::sleep(LOOK_AT_START) => {}
        }
    }
}

/// Makes what the configuration asks for, before anybody can connect.
fn prepare(shared: &Shared, fresh: bool, definitions: Option<Definitions>, policies: Vec<ConfiguredPolicy>) {
    // As RabbitMQ has it: whoever gives definitions gives users and virtual hosts with them.
    if fresh && definitions.is_none() {
        shared.first_start();
    }
    if let Some(definitions) = definitions {
        let imported = shared.import(&definitions);
        for left in &imported.ignored {
            tracing::info!("definitions: {} is ignored: {}", left.item, left.reason);
        }
        for left in &imported.refused {
            let reason = left.reason.to_string().replace('\n', "; ");
            tracing::warn!("definitions: {} is left out: {reason}", left.item);
        }
        let (applied, left) = (imported.applied, imported.refused.len());
        tracing::info!("definitions: {applied} items applied, {left} left out");
    }
    if !fresh {
        look_at_default_user(shared);
    }
    for ConfiguredPolicy { kind, vhost, name, policy } in policies {
        let vhost = vhost.unwrap_or_else(|| shared.config.default_vhost.clone());
        let shown = format!("policy '{name}' in vhost '{vhost}'");
        if let Err(error) = shared.change(Change::SetPolicy { kind, vhost, name, policy }) {
            tracing::warn!("configuration: {shown} is left out: {error}");
        }
    }
    if shared.access.state().users.is_empty() {
        tracing::warn!("there is no user: nobody can log in");
    }
}

/// Warns of a default user who was configured and is not the one that the first start has made.
fn look_at_default_user(shared: &Shared) {
    let (config, usual) = (&shared.config, Config::default());
    let configured = config.default_user != usual.default_user || config.default_pass != usual.default_pass;
    let state = shared.access.state();
    let known = state.users.get(&*config.default_user);
    if configured && !known.is_some_and(|user| user.password.accepts(config.default_pass.as_bytes())) {
        let user = &config.default_user;
        tracing::warn!(
            user,
            "the default user is made at the first start only; this one, or this password, is not known"
        );
    }
}

fn bind(address: SocketAddr) -> Result<(TcpSocket, SocketAddr), StartError> {
    let bind = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok((socket, address))
    };
    bind().map_err(|source| StartError::Listen { address, source })
}

fn open(config: &Config) -> Result<(Box<dyn Backend>, Recovered), StorageError> {
    match config.storage {
        StorageKind::Memory => open_memory(),
        StorageKind::Sled => open_disk(&config.data_dir),
    }
}

fn level(durability: Durability) -> Level {
    match durability {
        Durability::Sync => Level::Synced,
        Durability::Os => Level::Written,
    }
}

/// Keeps an eye on the disk: on what is free, where there is a limit and a disk, and on whether a write found it full.
fn watch_disk(shared: &Shared, free: Option<FreeDisk>) -> JoinHandle<()> {
    let limit = shared.config.disk_free_limit.bytes();
    let on_disk = || (shared.config.storage == StorageKind::Sled).then(|| free_disk(shared.config.data_dir.clone()));
    let free = free.or_else(on_disk).filter(|_| limit > 0).unwrap_or_else(|| Arc::new(|| Ok(u64::MAX)));
    let store = shared.parts.store.clone();
    tokio::spawn(shared.pressure.clone().watch_disk(limit, free, move || store.is_full()))
}

/// Asks every owner of messages to free blocks of little use, once a second while they take more than a little.
async fn tidy(shared: Arc<Shared>) {
    let clock = shared.clock.clone();
    loop {
        clock.sleep_until(clock.now() + Duration::from_secs(1)).await;
        if shared.pressure.gauge.bytes() < WORTH_WHILE {
            continue;
        }
        for peer in shared.peers_now() {
            let _ = peer.mailbox.push(ConnectionEvent::Tidy);
        }
        for vhost in shared.vhosts.load().values() {
            for queue in vhost.snapshot().queues.values() {
                queue.push(QueueCommand::Tidy);
            }
            vhost.delayed().iter().for_each(|delayed| delayed.push(DelayedCommand::Tidy));
        }
    }
}
