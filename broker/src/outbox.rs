//! What one turn of a connection has for the queues: its publishes as one block, its acknowledgements folded into
//! ranges, each queue's share in the order in which the client sent it.
//!
//! * `held_back`: what x-delayed-message exchanges get.

mod held_back;

use std::sync::Arc;

use leveret_storage::{Block, Gauge, Run};

use self::held_back::HeldBack;
use crate::command::{ConfirmTo, ConsumerKey, QueueCommand, Requester, Segment};
use crate::delayed::{Delayed, DelayedCommand};
use crate::message::{BlockBuilder, Meta};
use crate::queue::Queue;
use crate::vhost::command::TopologyCommand;
use crate::vhost::snapshot::{Exchange, Hold};

/// Bytes of messages after which a turn is sent off before the rest of the input is looked at.
pub const TURN_LIMIT: usize = 512 << 10;

/// Queues that are kept from turn to turn.
const KEPT: usize = 16;

#[derive(Default)]
pub struct Outbox {
    block: BlockBuilder,
    targets: Vec<Target>,
    /// Where each queue, by id, is in `targets`.
    places: foldhash::HashMap<u64, usize>,
    last: usize,
    commands: Vec<QueueCommand>,
    histories: Vec<ForHistory>,
    held_back: HeldBack,
}

/// What an x-recent-history exchange gets. Its messages have a block of their own: they stay long, and must not keep
/// the turn's block in memory.
struct ForHistory {
    exchange: Arc<Exchange>,
    block: BlockBuilder,
}

struct Target {
    queue: Arc<Queue>,
    pending: Vec<Pending>,
    /// How many of `pending` have their block already, and the bytes of those blocks.
    sealed: usize,
    sealed_bytes: usize,
}

enum Pending {
    /// Messages of the block that is not finished yet.
    Run {
        from: u32,
        to: u32,
        persistent: bool,
        expiration: Option<u64>,
        confirm: Option<ConfirmTo>,
    },
    Command(QueueCommand),
}

impl Pending {
    /// The command that it is, a run one of messages of `block`.
    fn command(self, block: Option<&Arc<Block>>) -> Option<QueueCommand> {
        match self {
            Pending::Run { from, to, persistent, expiration, confirm } => {
                let block = block?.clone();
                Some(QueueCommand::Publish { run: Run { block, from, to }, persistent, expiration, confirm })
            }
            Pending::Command(command) => Some(command),
        }
    }
}

/// A message as it enters the block.
pub enum Body<'a> {
    Borrowed(&'a [u8]),
    Owned(Vec<u8>),
}

impl Body<'_> {
    pub fn bytes(&self) -> &[u8] {
        match self {
            Body::Borrowed(bytes) => bytes,
            Body::Owned(bytes) => bytes,
        }
    }
}

impl Outbox {
    /// Adds a message for `queues`, with its `expiration` in milliseconds. Those of them that have something to say
    /// about it confirm it to `confirm`; answers how many these are.
    pub fn publish(
        &mut self,
        message: Body<'_>,
        meta: Meta,
        expiration: Option<u64>,
        queues: &[Arc<Queue>],
        confirm: Option<(&Requester, u64)>,
    ) -> u32 {
        if queues.is_empty() {
            return 0;
        }
        let index = match message {
            Body::Borrowed(bytes) => self.block.add(bytes, meta),
            Body::Owned(bytes) => self.block.add_owned(bytes, meta),
        };
        let mut answers = 0;
        for queue in queues {
            let persistent = queue.keeps(meta.is_persistent());
            let confirm = confirm.filter(|_| queue.answers(meta.is_persistent()));
            answers += u32::from(confirm.is_some());
            let pending = self.pending(queue);
            if let Some(Pending::Run { from, to, persistent: same, expiration: alike, confirm: others }) =
                pending.last_mut()
                && *to == index
                && *same == persistent
                && *alike == expiration
                && continues(others.as_ref(), confirm, u64::from(*to - *from))
            {
                *to += 1;
                continue;
            }
            let confirm = confirm.map(|(to, first)| ConfirmTo { to: to.clone(), first });
            pending.push(Pending::Run { from: index, to: index + 1, persistent, expiration, confirm });
        }
        answers
    }

    /// Adds a message to the history of `exchange`.
    pub fn remember(&mut self, exchange: &Arc<Exchange>, message: &[u8], meta: Meta) {
        let name = &exchange.spec.name;
        let mut known = self.histories.iter();
        let at = known.position(|history| history.exchange.spec.name == *name);
        let at = at.unwrap_or_else(|| {
            self.histories.push(ForHistory { exchange: exchange.clone(), block: BlockBuilder::default() });
            self.histories.len() - 1
        });
        self.histories[at].block.add(message, meta);
    }

    /// Adds a message for an exchange that holds it back. If that confirms it to `confirm`, answers 1.
    pub fn hold(&mut self, hold: &Hold, message: &[u8], meta: Meta, confirm: Option<(&Requester, u64)>) -> u32 {
        self.held_back.hold(hold, message, meta, confirm)
    }

    /// Adds anything else for who holds messages back.
    pub fn tell_delayed(&mut self, delayed: &Arc<Delayed>, command: DelayedCommand) {
        self.held_back.push(delayed, command);
    }

    pub fn has_histories(&self) -> bool {
        !self.histories.is_empty()
    }

    /// What the topology's owner must be told: of each history the last messages, as many as it keeps.
    pub fn take_histories(&mut self, gauge: &Arc<Gauge>) -> Vec<TopologyCommand> {
        let told = self.histories.drain(..).map(|mut history| {
            let block = history.block.finish(gauge);
            let to = block.count();
            let kept = u32::try_from(history.exchange.spec.history.unwrap_or(0)).unwrap_or(u32::MAX);
            let run = Run { block, from: to.saturating_sub(kept), to };
            TopologyCommand::Remember { exchange: history.exchange.spec.name.as_bytes().into(), run }
        });
        told.collect()
    }

    /// Adds the first `count` messages of `segment`, which are done; neighbours become one range.
    pub fn settle(&mut self, queue: &Arc<Queue>, consumer: Option<ConsumerKey>, segment: &Segment, count: u32) {
        let pending = self.pending(queue);
        if let Some(Pending::Command(QueueCommand::Settle {
            consumer: same,
            first,
            count: so_far,
            persistent,
            spilled,
        })) = pending.last_mut()
            && *same == consumer
            && (*persistent, *spilled) == (segment.persistent, segment.spilled)
            && *first + u64::from(*so_far) == segment.first
        {
            *so_far += count;
            return;
        }
        pending.push(Pending::Command(QueueCommand::Settle {
            consumer,
            first: segment.first,
            count,
            persistent: segment.persistent,
            spilled: segment.spilled,
        }));
    }

    /// Adds anything else.
    pub fn push(&mut self, queue: &Arc<Queue>, command: QueueCommand) {
        self.pending(queue).push(Pending::Command(command));
    }

    fn pending(&mut self, queue: &Arc<Queue>) -> &mut Vec<Pending> {
        if self.targets.get(self.last).is_none_or(|target| target.queue.id != queue.id) {
            let next = self.targets.len();
            self.last = *self.places.entry(queue.id).or_insert(next);
            if self.last == next {
                self.targets.push(Target { queue: queue.clone(), pending: Vec::new(), sealed: 0, sealed_bytes: 0 });
            }
        }
        &mut self.targets[self.last].pending
    }

    /// The turn holds so much that it should be sent off.
    pub fn is_large(&self) -> bool {
        let histories = self.histories.iter().map(|history| history.block.bytes());
        self.block.bytes() + histories.sum::<usize>() + self.held_back.bytes() > TURN_LIMIT
    }

    /// Makes room for the messages of `bytes` of input.
    pub fn reserve(&mut self, bytes: usize) {
        self.block.reserve(bytes);
    }

    /// Makes a block of the messages so far, which counts as memory in use from now on, and sends nothing off.
    pub fn seal(&mut self, gauge: &Arc<Gauge>) {
        self.held_back.seal(gauge);
        if self.block.is_empty() {
            return;
        }
        let bytes = self.block.bytes();
        let block = self.block.finish(gauge);
        for target in &mut self.targets {
            let before = target.pending.len();
            let new = target.pending.split_off(target.sealed);
            let runs = new.into_iter().filter_map(|pending| pending.command(Some(&block)));
            target.pending.extend(runs.map(Pending::Command));
            if before > target.sealed {
                target.sealed_bytes += bytes;
            }
            target.sealed = target.pending.len();
        }
    }

    /// Sends everything off. Calls `sent` with each queue that got messages.
    pub fn flush(&mut self, gauge: &Arc<Gauge>, mut sent: impl FnMut(&Arc<Queue>)) {
        let bytes = self.block.bytes();
        let block = (!self.block.is_empty()).then(|| self.block.finish(gauge));
        for target in &mut self.targets {
            if target.pending.is_empty() {
                continue;
            }
            let mut fresh = false;
            for pending in target.pending.drain(..) {
                fresh |= matches!(pending, Pending::Run { .. });
                self.commands.extend(pending.command(block.as_ref()));
            }
            let messages = fresh || target.sealed > 0;
            let sealed = std::mem::take(&mut target.sealed_bytes);
            target.sealed = 0;
            let bytes = sealed + if fresh { bytes } else { 0 };
            target.queue.append(&mut self.commands, bytes);
            if messages {
                sent(&target.queue);
            }
        }
        if self.targets.len() > KEPT {
            self.targets.clear();
            self.places.clear();
        }
    }
}

impl Outbox {
    /// Sends off what is to be held back. Calls `sent` with each that got something.
    pub fn flush_delayed(&mut self, gauge: &Arc<Gauge>, sent: impl FnMut(&Arc<Delayed>)) {
        self.held_back.flush(gauge, sent);
    }
}

/// Whether a publish continues a run of `count` publishes, as far as confirms go.
fn continues(run: Option<&ConfirmTo>, next: Option<(&Requester, u64)>, count: u64) -> bool {
    match (run, next) {
        (None, None) => true,
        (Some(run), Some((to, number))) => run.to.channel == to.channel && run.first + count == number,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
