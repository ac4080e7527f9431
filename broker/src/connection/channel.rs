//! A channel as its connection keeps it.

use std::collections::HashMap;
use std::sync::Arc;

use leveret_protocol::AmqpError;
use leveret_protocol::assembler::Assembler;

use super::confirms::Confirms;
use super::incomplete::Incomplete;
use super::replying::ReplyConsumer;
use super::transaction::{Commit, Transaction};
use super::unacked::Unacked;
use crate::command::{ChannelKey, ChannelLimit, Window};
use crate::queue::Queue;

/// Where a channel is in its life.
///
/// ```text
/// Open <-> Waiting            a request is with another owner: further frames are deferred
/// Open --> Releasing --> (gone)           the client closed it: close-ok once its queues have everything back
/// Open --> Releasing --> Closed --> (gone)    the broker closed it: the client's close-ok is awaited
/// ```
pub enum State {
    /// Never opened: a publish on it is an error once its content is complete.
    Unopened,
    Open,
    Waiting(Request),
    Releasing {
        /// Queues that have not answered yet.
        left: u32,
        /// The broker's reason; None: the client closes.
        error: Option<AmqpError>,
    },
    Closed,
}

/// The outstanding request of a channel.
pub struct Request {
    pub wait: Wait,
    /// The method, for the error that may come back.
    pub class: u16,
    pub method: u16,
    pub nowait: bool,
}

/// What is done with the answer.
pub enum Wait {
    /// It is a method to be sent.
    Method,
    /// It is the channel's last declared queue.
    Declare,
    Consume {
        tag: Box<str>,
        queue: Arc<Queue>,
        window: Arc<Window>,
    },
    Cancel {
        serial: u64,
    },
    Get {
        no_ack: bool,
        queue: Arc<Queue>,
    },
    Commit(Commit),
    /// Removals of earlier acknowledgements are on their way to the kernel; `left` queues have not answered.
    Stored {
        left: u32,
    },
}

pub struct Channel {
    pub key: ChannelKey,
    pub state: State,
    /// What the channel was waiting for when it ended. The answer still comes, and what it brings goes back.
    pub late: Option<Wait>,
    pub assembler: Assembler,
    /// What the assembler holds, where it is counted.
    pub incomplete: Incomplete,
    /// Bits of the publish that the assembler holds.
    pub publishing: Publishing,
    pub unacked: Unacked,
    /// The last delivery tag given.
    pub last_tag: u64,
    pub confirms: Option<Confirms>,
    /// Present in transaction mode, which excludes confirms.
    pub transaction: Option<Transaction>,
    /// For consumers created from now on; 0: unlimited.
    pub prefetch: u16,
    pub limit: Arc<ChannelLimit>,
    /// Consumers by tag: their serial numbers.
    pub tags: HashMap<Box<str>, u64>,
    /// How often its consumers' queues were told of room.
    pub woken: usize,
    /// The consumer of direct replies.
    pub replies: Option<ReplyConsumer>,
    pub last_queue: Option<Box<str>>,
    /// Durable queues that got acknowledgements since it was last made sure that they have reached the kernel.
    pub unstored: Vec<Arc<Queue>>,
    /// Whole frames that wait until the outstanding request is answered. Bounded by the connection, which stops
    /// reading when all its channels together have more than a limit.
    pub deferred: Vec<u8>,
    /// Tags of consumers whose queue has ended, to be told of behind the answer that is awaited: whoever deletes a
    /// queue hears that it is deleted before it hears what that means.
    pub bereft: Vec<Box<str>>,
}

#[derive(Clone, Copy, Default)]
pub struct Publishing {
    pub mandatory: bool,
    pub immediate: bool,
}

impl Channel {
    pub fn new(key: ChannelKey) -> Channel {
        Channel {
            key,
            state: State::Open,
            late: None,
            assembler: Assembler::default(),
            incomplete: Incomplete::default(),
            publishing: Publishing::default(),
            unacked: Unacked::default(),
            last_tag: 0,
            confirms: None,
            transaction: None,
            prefetch: 0,
            limit: Arc::default(),
            tags: HashMap::new(),
            woken: 0,
            replies: None,
            last_queue: None,
            unstored: Vec::new(),
            deferred: Vec::new(),
            bereft: Vec::new(),
        }
    }

    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open)
    }

    /// Ends the wait for an answer, if there is one: `late` knows what it was for.
    pub fn stop_waiting(&mut self) {
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Waiting(request) => self.late = Some(request.wait),
            other => self.state = other,
        }
    }

    /// In transaction mode, what it holds back.
    pub fn transaction(&mut self) -> Option<&mut Transaction> {
        self.transaction.as_mut()
    }

    /// The number of the next publish, if its confirms or its transaction number them.
    pub fn next_publish(&self) -> Option<u64> {
        let transaction = self.transaction.as_ref();
        self.confirms.as_ref().map(Confirms::next).or_else(|| transaction.map(Transaction::next))
    }

    /// A publish of that number went to queues, of which that many have something to say about it.
    pub fn published(&mut self, answers: u32) {
        if let Some(confirms) = &mut self.confirms {
            confirms.add(answers);
        } else if let Some(transaction) = &mut self.transaction {
            transaction.add(answers);
        }
    }

    /// The next delivery tag.
    pub fn tag(&mut self) -> u64 {
        self.last_tag += 1;
        self.last_tag
    }

    /// Remembers that `queue` has removals that a later synchronous method must wait for.
    pub fn settled_in(&mut self, queue: &Arc<Queue>) {
        note_settled(&mut self.unstored, queue);
    }
}

/// Adds a queue that has removals to a channel's list of such, once.
pub fn note_settled(unstored: &mut Vec<Arc<Queue>>, queue: &Arc<Queue>) {
    if queue.durable && !unstored.iter().any(|other| Arc::ptr_eq(other, queue)) {
        unstored.push(queue.clone());
    }
}

/// The channels of a connection by number. Clients use few numbers, low ones, and the same one many times in a row.
#[derive(Default)]
pub struct Channels {
    sorted: Vec<Channel>,
    last: usize,
}

impl Channels {
    pub fn get(&mut self, number: u16) -> Option<&mut Channel> {
        if self.sorted.get(self.last).is_none_or(|channel| channel.key.number != number) {
            self.last = self.sorted.binary_search_by_key(&number, |channel| channel.key.number).ok()?;
        }
        self.sorted.get_mut(self.last)
    }

    /// The channel, unless its number has been opened anew since.
    pub fn get_key(&mut self, key: ChannelKey) -> Option<&mut Channel> {
        self.get(key.number).filter(|channel| channel.key == key)
    }

    pub fn insert(&mut self, channel: Channel) {
        if let Err(index) = self.sorted.binary_search_by_key(&channel.key.number, |other| other.key.number) {
            self.sorted.insert(index, channel);
        }
    }

    pub fn remove(&mut self, number: u16) -> Option<Channel> {
        let index = self.sorted.binary_search_by_key(&number, |channel| channel.key.number).ok()?;
        Some(self.sorted.remove(index))
    }

    pub fn len(&self) -> usize {
        self.sorted.len()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Channel> {
        self.sorted.iter_mut()
    }
}
