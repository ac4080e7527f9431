//! What owners say to each other.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use leveret_protocol::AmqpError;
use leveret_protocol::amq::AMQPClass;
use leveret_storage::{Block, Entry, Run, Store};

use crate::lone::Lone;
use crate::mailbox::Mailbox;
use crate::message;
use crate::paging::{self, Holder, Ranges};
use crate::queue::Queue;
use crate::queue::arguments::Settings;
use crate::threads::Place;
use crate::vhost::replies::ReplyTo;

/// A connection as others know it.
pub struct Peer {
    /// Unique within the broker's life.
    pub id: u64,
    pub mailbox: Mailbox<ConnectionEvent>,
    pub(crate) lone: Lone,
    pub(crate) place: Place,
    /// It has been asked to tidy up and has not yet: it is not asked again meanwhile.
    pub(crate) tidying: AtomicBool,
}

impl Peer {
    pub fn new(id: u64) -> Arc<Peer> {
        let (mailbox, lone, place) = (Mailbox::default(), Lone::default(), Place::default());
        Arc::new(Peer { id, mailbox, lone, place, tidying: AtomicBool::new(false) })
    }
}

/// A channel of a connection. A number that is opened again carries a new epoch, so that what was meant for the old
/// channel is not taken for the new one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelKey {
    pub number: u16,
    pub epoch: u32,
}

/// Who asks, and where the answer goes.
#[derive(Clone)]
pub struct Requester {
    pub peer: Arc<Peer>,
    pub channel: ChannelKey,
}

impl Requester {
    /// Answers. A connection that is gone no longer wants to know.
    pub fn reply(&self, reply: Reply) {
        let _ = self.peer.mailbox.push(ConnectionEvent::Reply { channel: self.channel, reply });
    }
}

/// Where the messages of a segment are.
#[derive(Clone, Debug)]
pub enum Content {
    /// In memory.
    Here(Run),
    /// In storage only: so many messages, which take about so many bytes there, their bodies `bodies` of them.
    Away { count: u32, bytes: u32, bodies: u32 },
}

/// A stretch of messages of one queue: message `i` of it has the sequence number `first + i`.
#[derive(Clone, Debug)]
pub struct Segment {
    pub first: u64,
    pub content: Content,
    /// All of them are persistent (else none is).
    pub persistent: bool,
    /// They were given to storage for want of memory, though they need not outlive the broker.
    pub spilled: bool,
    /// Somebody may have seen them before.
    pub redelivered: bool,
    /// The level they wait on in a queue with priorities.
    pub level: u8,
    /// How often they came back unsettled; only counted, and shown, by quorum queues.
    pub returns: u32,
    /// When they expire, in milliseconds since the Unix epoch; otherwise [`Segment::NEVER`] or [`Segment::UNDATED`].
    pub expires: u64,
}

impl Segment {
    /// No time to live.
    pub const NEVER: u64 = u64::MAX;
    /// They may have a time to live: their content tells, once it has been read from storage.
    pub const UNDATED: u64 = 0;

    /// Messages in memory, of whom nothing more is known.
    pub fn new(first: u64, run: Run) -> Segment {
        Segment::of(first, Content::Here(run))
    }

    /// So many messages, of about so many bytes, that only storage has. How many of these are bodies is an estimate.
    pub fn away(first: u64, count: u32, bytes: u64) -> Segment {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let bodies = bytes.saturating_sub(count.saturating_mul(message::LEAST));
        Segment::of(first, Content::Away { count, bytes, bodies })
    }

    fn of(first: u64, content: Content) -> Segment {
        Segment {
            first,
            content,
            persistent: false,
            spilled: false,
            redelivered: false,
            level: 0,
            returns: 0,
            expires: Segment::NEVER,
        }
    }

    /// Whether a queue, `durable` or not, has given them to storage.
    pub fn is_stored(&self, durable: bool) -> bool {
        self.spilled || (durable && self.persistent)
    }

    /// The messages, if they are in memory.
    pub fn here(&self) -> Option<&Run> {
        match &self.content {
            Content::Here(run) => Some(run),
            Content::Away { .. } => None,
        }
    }

    pub fn here_mut(&mut self) -> Option<&mut Run> {
        match &mut self.content {
            Content::Here(run) => Some(run),
            Content::Away { .. } => None,
        }
    }

    pub fn count(&self) -> u32 {
        match &self.content {
            Content::Here(run) => run.count(),
            Content::Away { count, .. } => *count,
        }
    }

    /// Bytes of the messages; an estimate for a part of what is away.
    pub fn bytes(&self) -> usize {
        match &self.content {
            Content::Here(run) => run.bytes(),
            Content::Away { bytes, .. } => *bytes as usize,
        }
    }

    /// Bytes of the bodies; an estimate for a part of what is away, and for what has never been here.
    pub fn bodies(&self) -> u64 {
        match &self.content {
            Content::Here(run) => (run.from..run.to).map(|index| message::body_size(&run.block, index)).sum(),
            Content::Away { bodies, .. } => u64::from(*bodies),
        }
    }

    /// The last sequence number.
    pub fn last(&self) -> u64 {
        self.first + u64::from(self.count()) - 1
    }

    /// Takes the first `count` messages off.
    pub fn split_front(&mut self, count: u32) -> Segment {
        let mut front = self.clone();
        self.drop_front(count);
        match (&mut front.content, &self.content) {
            (Content::Here(front), _) => front.to = front.from + count,
            (Content::Away { count: taken, bytes: some, bodies: of_them }, Content::Away { bytes, bodies, .. }) => {
                *taken = count;
                (*some, *of_them) = (*some - bytes, *of_them - bodies);
            }
            // One was a copy of the other.
            _ => {}
        }
        front
    }

    /// Leaves the first `count` messages out.
    pub fn drop_front(&mut self, count: u32) {
        match &mut self.content {
            Content::Here(run) => run.from += count,
            Content::Away { count: left, bytes, bodies } => {
                let share = |all: u32| (u64::from(all) * u64::from(count) / u64::from(*left)) as u32;
                (*bytes, *bodies) = (*bytes - share(*bytes), *bodies - share(*bodies));
                *left -= count;
            }
        }
        self.first += u64::from(count);
    }

    /// Adds to `filled` those of the messages that are among `runs`, which ascend, in memory; says how many are not.
    pub fn materialise(&self, runs: &[(u64, Run)], filled: &mut Vec<Segment>) -> u64 {
        let mut missing = u64::from(self.count());
        let from = runs.partition_point(|(first, run)| first + u64::from(run.count()) <= self.first);
        for (first, run) in runs[from..].iter().take_while(|(first, _)| *first <= self.last()) {
            let from = self.first.max(*first);
            let to = (self.last() + 1).min(first + u64::from(run.count()));
            if from < to {
                missing -= to - from;
                let run = run.slice((from - first) as u32, (to - first) as u32);
                filled.push(Segment { first: from, content: Content::Here(run), ..self.clone() });
            }
        }
        missing
    }

    /// Lets go of the content, which storage has.
    pub fn send_away(&mut self) {
        let narrow = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
        let (count, bytes, bodies) = (self.count(), narrow(self.bytes() as u64), narrow(self.bodies()));
        self.content = Content::Away { count, bytes, bodies };
    }
}

/// A consumer as its queue knows it: a place in the queue's list, and a number that is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsumerKey {
    pub slot: u32,
    pub serial: u64,
}

/// What a queue has handed to a consumer's connection and the connection has not encoded yet: the transport window.
/// Needed because a consumer without acknowledgements or prefetch has no other limit.
#[derive(Default)]
pub struct Window {
    messages: AtomicU32,
    bytes: AtomicU32,
    starved: AtomicBool,
}

impl Window {
    /// Messages under way to one consumer.
    pub const MESSAGES: u32 = 1024;
    /// Bytes under way to one consumer above which no more are sent; one message may pass it.
    pub const BYTES: u32 = 1 << 20;

    /// How many messages may be handed over now.
    pub fn room(&self) -> u32 {
        if self.bytes.load(Ordering::Acquire) >= Self::BYTES {
            return 0;
        }
        Self::MESSAGES.saturating_sub(self.messages.load(Ordering::Acquire))
    }

    pub fn fill(&self, messages: u32, bytes: u32) {
        self.messages.fetch_add(messages, Ordering::AcqRel);
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    /// The queue has found no room. It must look once more after this: the connection may just have made some.
    pub fn starve(&self) {
        self.starved.store(true, Ordering::SeqCst);
        std::sync::atomic::fence(Ordering::SeqCst);
    }

    /// Gives room back. True when the queue has starved and there is room enough to make waking it worth while.
    pub fn drain(&self, messages: u32, bytes: u32) -> bool {
        let left = self.messages.fetch_sub(messages, Ordering::AcqRel) - messages;
        let bytes = self.bytes.fetch_sub(bytes, Ordering::AcqRel) - bytes;
        std::sync::atomic::fence(Ordering::SeqCst);
        left <= Self::MESSAGES / 2
            && bytes <= Self::BYTES / 2
            && self.starved.load(Ordering::SeqCst)
            && self.starved.swap(false, Ordering::SeqCst)
    }
}

/// The limit that all consumers of a channel share (`basic.qos` with global set).
#[derive(Default)]
pub struct ChannelLimit {
    /// 0: none.
    limit: AtomicU32,
    used: AtomicU32,
    starved: AtomicBool,
}

impl ChannelLimit {
    pub fn set(&self, limit: u32) {
        self.limit.store(limit, Ordering::SeqCst);
    }

    pub fn is_set(&self) -> bool {
        self.limit.load(Ordering::Acquire) != 0
    }

    /// Takes up to `wanted` places and says how many.
    pub fn take(&self, wanted: u32) -> u32 {
        let mut taken = 0;
        let _ = self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
            taken = match self.limit.load(Ordering::Acquire) {
                0 => wanted,
                limit => wanted.min(limit.saturating_sub(used)),
            };
            Some(used + taken)
        });
        taken
    }

    /// True while no message may be delivered.
    pub fn is_full(&self) -> bool {
        let limit = self.limit.load(Ordering::Acquire);
        limit != 0 && self.used.load(Ordering::Acquire) >= limit
    }

    pub fn add(&self, count: u32) {
        self.used.fetch_add(count, Ordering::AcqRel);
    }

    /// As [`Window::starve`].
    pub fn starve(&self) {
        self.starved.store(true, Ordering::SeqCst);
        std::sync::atomic::fence(Ordering::SeqCst);
    }

    pub fn free(&self, count: u32) {
        self.used.fetch_sub(count, Ordering::AcqRel);
        std::sync::atomic::fence(Ordering::SeqCst);
    }

    /// True when a queue has starved of this limit and should look again.
    pub fn take_starved(&self) -> bool {
        !self.is_full() && self.starved.load(Ordering::SeqCst) && self.starved.swap(false, Ordering::SeqCst)
    }
}

/// Where the confirms of a run of publishes go: message `i` of the run has the publish number `first + i`.
#[derive(Clone)]
pub struct ConfirmTo {
    pub to: Requester,
    pub first: u64,
}

/// What the storage writer gives back when what stood before it has reached its level.
pub enum Token {
    Confirm {
        to: ConfirmTo,
        count: u32,
    },
    Reply {
        to: Requester,
        reply: Reply,
    },
    /// For a caller of the library.
    Done(crate::vhost::command::Done),
    /// Whoever it is may let go of what it holds in memory.
    Spill(Weak<dyn Holder>),
}

impl Token {
    /// Tells whom it concerns.
    pub fn complete(self) {
        match self {
            Token::Confirm { to: ConfirmTo { to, first }, count } => {
                if count == 1 && to.peer.lone.confirm(to.channel, first, &to.peer.mailbox) {
                    return;
                }
                let _ = to.peer.mailbox.push(ConnectionEvent::Confirm {
                    channel: to.channel,
                    first,
                    count,
                    refused: false,
                });
            }
            Token::Reply { to, reply } => to.reply(reply),
            // A caller who has stopped waiting need not know.
            Token::Done(done) => drop(done.send(())),
            Token::Spill(holder) => {
                if let Some(holder) = holder.upgrade() {
                    paging::spill_soon(holder);
                }
            }
        }
    }
}

/// What a connection is told.
pub enum ConnectionEvent {
    Deliver(Delivery),
    Reply {
        channel: ChannelKey,
        reply: Reply,
    },
    /// One more of their queues has taken the publishes `first..first + count`, or `refused` them.
    Confirm {
        channel: ChannelKey,
        first: u64,
        count: u32,
        refused: bool,
    },
    /// Storage has taken publish `number`, and the first octets of its confirm have been written already.
    ConfirmWritten {
        channel: ChannelKey,
        number: u64,
        written: usize,
    },
    /// The queue of this consumer is gone.
    ConsumerGone {
        channel: ChannelKey,
        consumer: ConsumerKey,
    },
    /// A direct reply for one of its channels: the one message of its block.
    DirectReply {
        to: Arc<ReplyTo>,
        reply: Arc<Block>,
    },
    /// The broker ends the connection: as soon as no confirm is outstanding, at the latest at `until` by its clock.
    Close {
        error: AmqpError,
        until: Duration,
    },
    /// The broker ends the connection at once, if it is one of these.
    Forced {
        whose: Whose,
        error: AmqpError,
    },
    /// See [`crate::tidy`].
    Tidy,
}

/// Connections that have something in common.
pub enum Whose {
    User(Box<str>),
    VHost(Box<str>),
}

/// Messages for a consumer.
pub struct Delivery {
    pub channel: ChannelKey,
    pub consumer: ConsumerKey,
    /// The consumer takes no acknowledgements: what is handed over counts as done.
    pub no_ack: bool,
    pub segment: Segment,
}

/// The answer to a channel's outstanding request.
pub enum Reply {
    /// To be sent, unless the client said no-wait.
    Method(Box<AMQPClass>),
    /// A queue was declared: also the channel's last declared queue.
    Declared {
        queue: Box<str>,
        messages: u32,
        consumers: u32,
    },
    Error(AmqpError),
    /// The consumer is registered; deliveries follow.
    Consuming(ConsumerKey),
    /// A message for `basic.get`, with the number of ready messages left.
    Got {
        queue: Arc<Queue>,
        segment: Segment,
        left: u32,
        no_ack: bool,
    },
    GetEmpty,
    /// Everything asked of one owner before has been done.
    Done,
}

/// What a queue is told.
pub enum QueueCommand {
    /// New messages, all persistent or none, all with the same `expiration` in milliseconds. Without `confirm` nobody
    /// waits for them.
    Publish {
        run: Run,
        persistent: bool,
        expiration: Option<u64>,
        confirm: Option<ConfirmTo>,
    },
    /// Held until everything before it has been handed to storage.
    Release(Arc<Release>),
    /// Messages that are acknowledged.
    Settle {
        consumer: Option<ConsumerKey>,
        first: u64,
        count: u32,
        persistent: bool,
        spilled: bool,
    },
    /// Messages that are refused for good: dead-lettered, or dropped.
    Reject {
        consumer: Option<ConsumerKey>,
        segment: Segment,
    },
    /// Messages that come back to their place.
    Requeue {
        consumer: Option<ConsumerKey>,
        segment: Segment,
        /// The client had them.
        seen: bool,
    },
    Consume(Box<NewConsumer>),
    Cancel {
        consumer: ConsumerKey,
        /// Answered when no delivery follows any more.
        then: Option<(Requester, Reply)>,
    },
    Get {
        from: Requester,
        no_ack: bool,
    },
    Purge {
        from: Requester,
    },
    /// Answers with the counts; a queue that is gone sends `again` to the topology. With `stored`, the answer also
    /// promises that the queue's definition is on disk.
    Status {
        from: Requester,
        stored: bool,
        again: Box<crate::vhost::command::TopologyCommand>,
    },
    Delete {
        from: Requester,
        if_unused: bool,
        if_empty: bool,
    },
    /// Its settings are others now, by a policy.
    Configure(Box<Settings>),
    /// The topology has removed the queue.
    Kill,
    /// Something may have expired.
    Tick,
    /// See [`crate::tidy`].
    Tidy,
    /// Storage has what was asked of it: what memory need not hold may be let go of.
    Spill,
    /// What storage has of the messages that were `wanted`; what is missing could not be read.
    Loaded {
        wanted: Ranges,
        runs: Vec<(u64, Run)>,
    },
    /// The broker stops: note exactly what was redelivered.
    NoteReturned,
    /// A consumer's window or its channel's limit has room again.
    Wake,
    /// Answers [`Reply::Done`] when everything before has been done and, with `stored`, when removals before it have
    /// reached the kernel.
    Sync {
        from: Requester,
        stored: bool,
    },
}

/// What storage is told once the last of several queues has let go of it: a dead letter's removal from where it died
/// goes behind its insertion where it went, so that a kill in between doubles it at worst.
pub struct Release {
    pub store: Store<Token>,
    pub entries: Mutex<Vec<Entry<Token>>>,
}

impl Drop for Release {
    fn drop(&mut self) {
        let entries = self.entries.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.store.submit(entries);
    }
}

/// A consumer that wants to be registered.
pub struct NewConsumer {
    pub from: Requester,
    pub no_ack: bool,
    pub exclusive: bool,
    /// Higher ones are served first.
    pub priority: i64,
    /// Unacked messages at most, 0: unlimited.
    pub prefetch: u32,
    pub window: Arc<Window>,
    pub limit: Arc<ChannelLimit>,
}
