//! What the unit tests share: peers, blocks of numbered messages, queues on a store that keeps nothing, and a shelf.

use std::collections::{BTreeMap, VecDeque};
use std::future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use leveret_storage::{Entry, Gauge, Op, Outline, Reader, Run, StorageError, Store, StoreOptions, open_memory};

use crate::access::rights::Rights;
use crate::access::{Access, Granted, Permissions, State};
use crate::clock::{Clock, ManualClock, Sleep};
use crate::command::{ChannelKey, ChannelLimit, ConnectionEvent, NewConsumer, Peer, Requester, Segment, Token, Window};
use crate::delayed::Delayed;
use crate::message::{BlockBuilder, Meta};
use crate::paging::Paging;
use crate::queue::arguments::Settings;
use crate::queue::{Origin, Outside, Queue};
use crate::timers::Timers;
use crate::vhost::{Parts, VHost};

/// A connection of which only the mailbox exists.
pub fn peer() -> Arc<Peer> {
    static IDS: AtomicU64 = AtomicU64::new(1);
    Peer::new(IDS.fetch_add(1, Ordering::Relaxed))
}

/// A channel of `peer`.
pub fn requester(peer: &Arc<Peer>, number: u16) -> Requester {
    Requester { peer: peer.clone(), channel: ChannelKey { number, epoch: 1 } }
}

/// A clock that always shows this many milliseconds since the Unix epoch.
pub struct Fixed(pub u64);

impl Clock for Fixed {
    fn now(&self) -> Duration {
        Duration::from_millis(self.0)
    }

    fn wall(&self) -> u64 {
        self.0
    }

    fn sleep_until(&self, _deadline: Duration) -> Sleep {
        Box::pin(future::pending())
    }
}

/// Everything that `peer` was told since the last look.
pub fn events(peer: &Peer) -> Vec<ConnectionEvent> {
    let mut events = VecDeque::new();
    peer.mailbox.take(&mut events);
    events.into()
}

/// A run of messages whose bodies are these numbers.
pub fn run(numbers: impl IntoIterator<Item = u64>) -> Run {
    let bodies = numbers.into_iter().map(|n| n.to_be_bytes().to_vec());
    run_of(bodies)
}

/// A run of messages with these bytes.
pub fn run_of(bodies: impl IntoIterator<Item = Vec<u8>>) -> Run {
    let mut builder = BlockBuilder::default();
    for body in bodies {
        builder.add(&body, Meta::new(0, 0));
    }
    let block = builder.finish(&Arc::new(Gauge::default()));
    let to = block.count();
    Run { block, from: 0, to }
}

/// The numbers that [`run`] made the messages of `run` from.
pub fn numbers(run: &Run) -> Vec<u64> {
    let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().unwrap());
    run.messages().map(|(bytes, _)| number(bytes)).collect()
}

/// The numbers of a segment.
pub fn numbers_of(segment: &Segment) -> Vec<u64> {
    numbers(segment.here().expect("messages in memory"))
}

/// A store that keeps nothing and reaches every level at once.
pub fn store() -> Store<Token> {
    let (backend, _) = open_memory().unwrap();
    let complete = |tokens: &mut Vec<Token>| tokens.drain(..).for_each(Token::complete);
    Store::start(backend, StoreOptions::default(), complete, |_| {}).unwrap()
}

/// A storage that has at once what it is given, of one queue. Messages, with their metas, by sequence number.
#[derive(Default)]
pub struct Shelf(Mutex<BTreeMap<u64, (Vec<u8>, u64)>>);

impl Shelf {
    pub fn messages(&self) -> MutexGuard<'_, BTreeMap<u64, (Vec<u8>, u64)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn take(&self, entries: impl IntoIterator<Item = Entry<Token>>) {
        let mut messages = self.messages();
        for entry in entries {
            match entry {
                Entry::Op(Op::Insert { first, run, .. } | Op::Spill { first, run, .. }) => {
                    messages.extend((first..).zip(run.messages().map(|(bytes, meta)| (bytes.to_vec(), meta))));
                }
                Entry::Op(Op::Remove { first, count, .. }) => {
                    messages.retain(|at, _| *at < first || *at >= first + count)
                }
                Entry::Op(Op::DropQueue { .. }) => messages.clear(),
                _ => {}
            }
        }
    }
}

impl Reader for Shelf {
    fn read_all(&self, _: u64, ranges: &[(u64, u32)], gauge: &Arc<Gauge>) -> Result<Vec<(u64, Run)>, StorageError> {
        let messages = self.messages();
        let found = ranges.iter().flat_map(|(first, count)| messages.range(*first..*first + u64::from(*count)));
        let run = |bytes: &[u8], meta: u64| {
            let mut builder = BlockBuilder::default();
            builder.add(bytes, Meta(meta));
            Run { block: builder.finish(gauge), from: 0, to: 1 }
        };
        Ok(found.map(|(at, (bytes, meta))| (*at, run(bytes, *meta))).collect())
    }

    fn outlines(&self, _: u64, first: u64, count: u32) -> Result<Vec<Outline>, StorageError> {
        let messages = self.messages();
        let found = messages.range(first..first + u64::from(count));
        Ok(found.map(|(at, (bytes, meta))| Outline { sequence: *at, meta: *meta, len: bytes.len() as u32 }).collect())
    }

    fn holds(&self, _: u64, first: u64, count: u32) -> bool {
        let messages = self.messages();
        (first..first + u64::from(count)).all(|at| messages.contains_key(&at))
    }
}

/// What an empty queue is made from.
pub fn origin(name: &str, durable: bool) -> Origin<'static> {
    static IDS: AtomicU64 = AtomicU64::new(1);
    Origin {
        id: IDS.fetch_add(1, Ordering::Relaxed),
        name: name.into(),
        vhost: "/".into(),
        durable,
        auto_delete: false,
        settings: Settings::default(),
        next_sequence: 1,
        messages: Box::new(std::iter::empty()),
        lifetimes: Default::default(),
        now: 0,
    }
}

/// A clock that stands still.
fn clock() -> Arc<dyn Clock> {
    Arc::new(ManualClock::default())
}

/// Timers that nobody runs.
fn timers() -> Arc<Timers> {
    Timers::new(clock())
}

/// A queue in no virtual host.
pub fn queue(name: &str, durable: bool, store: &Store<Token>) -> Arc<Queue> {
    let origin = origin(name, durable);
    let outside = Outside {
        store: store.clone(),
        vhost: Weak::new(),
        timers: timers(),
        gauge: Arc::default(),
        paging: Paging::none(),
    };
    Queue::new(origin, None, None, outside)
}

/// What an exchange in no virtual host holds back.
pub fn delayed(exchange: &str, durable: bool) -> Arc<Delayed> {
    let (vhost, gauge, paging) = (Weak::new(), Arc::default(), Paging::none());
    let outside = Outside { store: store(), vhost, timers: timers(), gauge, paging };
    Delayed::new(1, exchange.into(), durable, outside)
}

/// The virtual host `/` with nothing declared in it.
pub fn vhost(store: &Store<Token>) -> Arc<VHost> {
    let parts = Parts {
        next_id: Arc::new(AtomicU64::new(1)),
        store: store.clone(),
        gauge: Arc::default(),
        timers: timers(),
        clock: clock(),
        paging: Paging::none(),
    };
    VHost::new("/".into(), parts)
}

/// The rights of a user who may do everything in `vhost`.
pub fn all_rights(vhost: &Arc<str>) -> Rights {
    let mut state = State::default();
    state.set_permissions("guest", vhost, Granted::new(Permissions::all()).unwrap());
    let access = Arc::new(Access::default());
    access.publish(state);
    Rights::new(access, "guest".into(), vhost.clone())
}

/// A consumer with acknowledgements and without any limit.
pub fn consumer(from: &Requester) -> NewConsumer {
    NewConsumer {
        from: from.clone(),
        no_ack: false,
        exclusive: false,
        priority: 0,
        prefetch: 0,
        window: Arc::<Window>::default(),
        limit: Arc::<ChannelLimit>::default(),
    }
}
