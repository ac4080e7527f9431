//! A broker's start: from a configuration to listening sockets.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use leveret_storage::{Backend, Gauge, Level, Recovered, StorageError, Store, StoreOptions, open_disk, open_memory};
use thiserror::Error;
use tokio::net::TcpSocket;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::admin::Change;
use crate::clock::{Clock, SystemClock};
use crate::command::Token;
use crate::config::{Config, ConfigError, ConfiguredPolicy, Durability, StorageKind};
use crate::definitions::{Definitions, DefinitionsError};
use crate::give_back;
use crate::listener::accept;
use crate::paging::Paging;
use crate::pressure::{FreeDisk, Pressure, free_disk};
use crate::recovery;
use crate::server::{Broker, Inside, Shared, Stop};
use crate::spread;
use crate::threads::Threads;
use crate::tidy;
use crate::timers::Timers;
use crate::vhost::Parts;

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
    #[error("cannot start the threads of the broker: {0}")]
    Threads(io::Error),
}

/// A broker to be started with other parts than the usual ones.
pub struct Builder {
    config: Config,
    clock: Option<Arc<dyn Clock>>,
    gauge: Arc<Gauge>,
    opened: Option<(Box<dyn Backend>, Recovered)>,
    free_disk: Option<FreeDisk>,
    threads: usize,
}

impl Builder {
    pub(crate) fn new(config: Config) -> Builder {
        Builder { config, clock: None, gauge: Arc::default(), opened: None, free_disk: None, threads: 1 }
    }

    /// Time as `clock` tells it.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Builder {
        self.clock = Some(clock);
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

    /// Starts the broker on the current tokio runtime, of either kind. That runtime must have I/O enabled
    /// (`enable_io`), and needs no time: the broker's clock has a thread of its own. Recovery and the opening of the store
    /// hold up the thread that this is polled on, until clients can connect.
    ///
    /// # Errors
    /// [`StartError`]: the configuration is not valid, its definitions file cannot be read, an address cannot be listened
    /// on, the store cannot be opened (another broker has it, its format is not known, the disk fails), or the system has
    /// no thread left. The data directory is untouched if it was the configuration, the definitions or an address that
    /// is taken.
    ///
    /// # Panics
    /// Outside a tokio runtime, and within one that has no I/O.
    pub async fn start(self) -> Result<Broker, StartError> {
        let Builder { config, clock, gauge, opened, free_disk, threads } = self;
        config.validate()?;
        let policies = config.policies()?;
        let machine = Arc::new(SystemClock::begin().map_err(StartError::Threads)?);
        let clock = clock.unwrap_or_else(|| machine.clone());
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
        until_stored(&shared, &machine).await;
        let tidying = tokio::spawn(tidy::ask(shared.clone()));
        let watching = watch_disk(&shared, free_disk);
        let threads = Arc::new(Threads::new(threads));
        let giving_back = tokio::spawn(give_back::watch(shared.pressure.gauge.clone(), machine.clone()));
        let spreading = tokio::spawn(spread::watch(shared.clone(), threads.clone(), machine));
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
            tasks: [ticking, tidying, watching, giving_back, spreading],
        })
    }
}

/// Waits until whoever connects finds what will still be there after a power cut. A full disk is no reason not to
/// start: consumers make room. A store that has failed says so itself.
async fn until_stored(shared: &Shared, clock: &SystemClock) {
    let mut stored = shared.stored();
    while !shared.parts.store.is_full() {
        tokio::select! {
            _ = &mut stored => break,
            () = clock.sleep(LOOK_AT_START) => {}
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
