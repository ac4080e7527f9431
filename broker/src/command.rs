//! What owners say to each other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use leveret_protocol::AmqpError;
use leveret_protocol::amq::AMQPClass;
use leveret_storage::{Block, Entry, Run, Store};

use crate::lone::Lone;
use crate::mailbox::Mailbox;
use crate::paging::{self, Holder, Ranges};
use crate::queue::Queue;
use crate::queue::arguments::Settings;
use crate::threads::Place;
use crate::vhost::replies::ReplyTo;

pub use crate::segment::{Content, Segment};
pub use crate::window::{ChannelLimit, Window};

/// A connection as others know it.
pub struct Peer {
    /// Unique within the broker's life.
    pub id: u64,
    pub mailbox: Mailbox<ConnectionEvent>,
    pub(crate) lone: Lone,
    pub(crate) place: Place,
    /// It has been asked to tidy up and has not yet: it is not asked again meanwhile.
    tidying: AtomicBool,
}

impl Peer {
    pub fn new(id: u64) -> Arc<Peer> {
        let (mailbox, lone, place) = (Mailbox::default(), Lone::default(), Place::default());
        Arc::new(Peer { id, mailbox, lone, place, tidying: AtomicBool::new(false) })
    }

    /// Asks it to tidy up, unless it has been asked and has not begun.
    pub(crate) fn ask_to_tidy(&self) {
        if !self.tidying.swap(true, Ordering::Relaxed) {
            let _ = self.mailbox.push(ConnectionEvent::Tidy);
        }
    }

    /// It begins to tidy up: from now on it can be asked again.
    pub(crate) fn begins_to_tidy(&self) {
        self.tidying.store(false, Ordering::Relaxed);
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

/// A consumer as its queue knows it: a place in the queue's list, and a number that is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsumerKey {
    pub slot: u32,
    pub serial: u64,
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
