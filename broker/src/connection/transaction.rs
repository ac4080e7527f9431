//! Transactions (class `tx`): what a channel holds back until `tx.commit`.
//!
//! A publish is checked and routed when it comes, and its message waits here, in a block that counts as memory in use.
//! A delivery that is settled leaves the outstanding ones at once, and what becomes of it waits here. `tx.commit` sends
//! the publishes to their queues, in order, then the acknowledgements, and is answered when all that has to be on disk
//! is there. `tx.rollback` drops the publishes and makes the deliveries outstanding again; so does the end of the
//! channel, which then gives them back to their queues.
//!
//! What bounds a transaction is half of the memory limit: beyond, its channel is closed. The memory gate holds for its
//! publishes as for others.

use std::sync::Arc;

use leveret_protocol::amq::tx;
use leveret_protocol::{AmqpError, frame, method};
use leveret_storage::{Block, Gauge};

use super::Connection;
use super::channel::{Channel, Channels, Request, State, Wait};
use super::consuming::How;
use super::dispatch::Done;
use super::sending::send_off;
use super::unacked::Outstanding;
use crate::command::{ChannelKey, QueueCommand};
use crate::message::{self, BlockBuilder, Meta};
use crate::methods;
use crate::outbox::Outbox;
use crate::vhost::replies::ReplyTo;

const COMMIT: (u16, u16) = (90, 20);
const CHANNEL_CLOSE: (u16, u16) = (20, 40);

/// What a commit still waits for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Commit {
    /// Publishes that a queue has not answered, once for each such queue.
    publishes: u64,
    /// Queues whose removals have not reached the kernel.
    removals: u32,
    /// Some queue has refused a publish.
    refused: bool,
}

/// What of it has come to pass.
pub enum Committed {
    /// A queue has taken that many publishes, or refused them.
    Publishes { count: u32, refused: bool },
    /// The removals of a queue have reached the kernel.
    Removals,
}

impl Commit {
    /// The error of a frame that comes while publishes are awaited, where RabbitMQ allows no pipelining; only
    /// `channel.close` may come. None for what is no such method.
    pub fn unexpected(&self, found: &frame::Frame<'_>) -> Option<AmqpError> {
        if self.publishes == 0 || found.kind != frame::METHOD {
            return None;
        }
        let (class, method) = method::ids(found.payload);
        let text = "unexpected command while processing 'tx.commit'";
        ((class, method) != CHANNEL_CLOSE).then(|| AmqpError::channel_error(text).at(class, method))
    }
}

/// What a channel in transaction mode holds back.
#[derive(Default)]
pub struct Transaction {
    publishes: Outbox,
    /// How many of them are numbered, and how many answers of queues they will get.
    count: u64,
    answers: u64,
    /// Bytes of its messages.
    bytes: usize,
    /// Mandatory messages that go nowhere, in order; the last ones not in a block yet.
    returns: Vec<Arc<Block>>,
    last_returns: BlockBuilder,
    replies: Vec<(Arc<ReplyTo>, Arc<Block>)>,
    /// Deliveries by the order in which they were settled.
    settled: Vec<(How, Outstanding)>,
}

impl Transaction {
    /// The number of the next publish.
    pub fn next(&self) -> u64 {
        self.count + 1
    }

    /// Numbers a publish that `queues` queues have something to say about.
    pub fn add(&mut self, queues: u32) {
        self.count += 1;
        self.answers += u64::from(queues);
    }

    /// Counts `bytes` of a message and says how many there now are.
    pub fn grow(&mut self, bytes: usize) -> usize {
        self.bytes += bytes;
        self.bytes
    }

    /// What the queues get.
    pub fn publishes(&mut self) -> &mut Outbox {
        &mut self.publishes
    }

    pub fn hold_reply(&mut self, to: &Arc<ReplyTo>, reply: Arc<Block>) {
        self.replies.push((to.clone(), reply));
    }

    pub fn hold_return(&mut self, message: &[u8], meta: Meta) {
        self.last_returns.add(message, meta);
    }

    pub fn hold_settled(&mut self, how: How, taken: impl IntoIterator<Item = Outstanding>) {
        let taken = taken.into_iter().map(|outstanding| (how, outstanding));
        self.settled.extend(taken);
    }

    /// Counts what was added as memory in use.
    fn seal(&mut self, gauge: &Arc<Gauge>) {
        self.publishes.seal(gauge);
        if !self.last_returns.is_empty() {
            self.returns.push(self.last_returns.finish(gauge));
        }
    }

    /// The deliveries that it had settled.
    pub fn undo(self) -> impl Iterator<Item = Outstanding> {
        self.settled.into_iter().map(|(_, outstanding)| outstanding)
    }
}

impl Connection {
    pub(super) fn transaction_class(&mut self, number: u16, method: tx::AMQPMethod) -> Done {
        let Some(channel) = self.channels.get(number) else {
            return Ok(());
        };
        if matches!(method, tx::AMQPMethod::Select(_)) {
            if channel.confirms.is_some() {
                return Err(AmqpError::precondition_failed("cannot switch from confirm to tx mode"));
            }
            channel.transaction.get_or_insert_default();
            self.send(number, &methods::tx_select_ok());
            return Ok(());
        }
        let (key, transaction) = match &mut channel.transaction {
            Some(transaction) => (channel.key, std::mem::take(transaction)),
            None => {
                return Err(AmqpError::precondition_failed("channel is not transactional"));
            }
        };
        match method {
            tx::AMQPMethod::Commit(_) => self.commit(key, transaction),
            tx::AMQPMethod::Rollback(_) => {
                channel.unacked.restore(transaction.undo());
                self.watch(self.shared.clock.now());
                self.send(number, &methods::tx_rollback_ok());
            }
            _ => return Err(AmqpError::command_invalid("unimplemented method")),
        }
        Ok(())
    }

    fn commit(&mut self, key: ChannelKey, mut transaction: Transaction) {
        let number = key.number;
        let gauge = &self.shared.pressure.gauge;
        transaction.seal(gauge);
        send_off(&mut transaction.publishes, &self.vhost, gauge, &mut self.full);
        for (to, reply) in transaction.replies {
            to.send(reply);
        }
        for block in &transaction.returns {
            for index in 0..block.count() {
                let (address, content) = (message::address(block, index), message::content(block, index));
                self.return_message(number, address, content);
            }
        }
        for (how, outstanding) in transaction.settled {
            self.settle_all(number, [outstanding], how);
        }
        let Some(channel) = self.channels.get(number) else { return };
        let removals = std::mem::take(&mut channel.unstored);
        let commit = Commit { publishes: transaction.answers, removals: removals.len() as u32, refused: false };
        self.wait(number, Wait::Commit(commit), COMMIT, false);
        let from = self.requester(key);
        for queue in removals {
            self.outbox.push(&queue, QueueCommand::Sync { from: from.clone(), stored: true });
        }
        self.flush();
        self.end_commit(key);
    }

    /// Some of what a commit waits for has come to pass.
    pub(super) fn commit_went_on(&mut self, key: ChannelKey, what: Committed) {
        let Some(channel) = self.channels.get_key(key) else { return };
        let State::Waiting(Request { wait: Wait::Commit(commit), .. }) = &mut channel.state else { return };
        match what {
            Committed::Publishes { count, refused } => {
                commit.publishes = commit.publishes.saturating_sub(count.into());
                commit.refused |= refused;
            }
            Committed::Removals => commit.removals = commit.removals.saturating_sub(1),
        }
        self.end_commit(key);
    }

    /// Answers a commit that waits for nothing any more.
    fn end_commit(&mut self, key: ChannelKey) {
        let Some(channel) = self.channels.get_key(key) else { return };
        let State::Waiting(Request { wait: Wait::Commit(commit), .. }) = &channel.state else { return };
        if commit.publishes > 0 || commit.removals > 0 {
            return;
        }
        let refused = commit.refused;
        channel.state = State::Open;
        if refused {
            let error = AmqpError::precondition_failed("partial tx completion");
            self.raise(key.number, error.at(COMMIT.0, COMMIT.1));
        } else {
            self.send(key.number, &methods::tx_commit_ok());
        }
        self.close_when_settled();
    }

    /// Counts what transactions have been given since the last time as memory in use.
    pub(super) fn seal_transactions(&mut self) {
        for number in self.transacting.drain(..) {
            if let Some(transaction) = transaction_of(&mut self.channels, number) {
                transaction.seal(&self.shared.pressure.gauge);
            }
        }
    }
}

fn transaction_of(channels: &mut Channels, number: u16) -> Option<&mut Transaction> {
    channels.get(number).and_then(Channel::transaction)
}
