//! A turn's messages for x-delayed-message exchanges, each exchange's share in the order in which it was published.
//!
//! They have blocks of their own, one for delays of 64 to 127 ms, one for 128 to 255, and so on: what is in a block
//! goes on at about the same time, so that none is kept for the sake of one message much longer than for the others.

use std::sync::Arc;

use leveret_storage::{Block, Gauge, Run};

use super::continues;
use crate::command::{ConfirmTo, Requester};
use crate::delayed::{Delayed, DelayedCommand};
use crate::message::{BlockBuilder, Meta};
use crate::vhost::snapshot::Hold;

/// Exchanges that are kept from turn to turn.
const KEPT: usize = 16;

#[derive(Default)]
pub(super) struct HeldBack {
    targets: Vec<Target>,
    /// Bytes of messages in blocks that are not finished yet.
    bytes: usize,
}

struct Target {
    delayed: Arc<Delayed>,
    blocks: Vec<Filling>,
    pending: Vec<Pending>,
    /// What has its block already, and the bytes of those messages.
    sealed: Vec<DelayedCommand>,
    bytes: usize,
}

/// A block of messages with about the same delay.
struct Filling {
    class: u32,
    block: BlockBuilder,
}

enum Pending {
    /// Messages of the block at that place in `blocks`.
    Run {
        block: usize,
        from: u32,
        to: u32,
        due: u64,
        persistent: bool,
        confirm: Option<ConfirmTo>,
    },
    Command(DelayedCommand),
}

impl HeldBack {
    pub fn hold(&mut self, hold: &Hold, message: &[u8], meta: Meta, confirm: Option<(&Requester, u64)>) -> u32 {
        self.bytes += message.len();
        let target = self.target(&hold.by);
        target.bytes += message.len();
        let persistent = meta.is_persistent();
        let confirm = confirm.filter(|_| hold.by.keeps(persistent));
        let answers = u32::from(confirm.is_some());
        let block = target.block(hold.delay);
        let due = meta.published() + hold.delay;
        let index = target.blocks[block].block.add(message, meta.published_at(due));
        if let Some(Pending::Run { block: place, from, to, due: then, persistent: same, confirm: others }) =
            target.pending.last_mut()
            && (*place, *to, *then, *same) == (block, index, due, persistent)
            && continues(others.as_ref(), confirm, u64::from(*to - *from))
        {
            *to += 1;
            return answers;
        }
        let confirm = confirm.map(|(to, first)| ConfirmTo { to: to.clone(), first });
        target.pending.push(Pending::Run { block, from: index, to: index + 1, due, persistent, confirm });
        answers
    }

    pub fn push(&mut self, delayed: &Arc<Delayed>, command: DelayedCommand) {
        self.target(delayed).pending.push(Pending::Command(command));
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn seal(&mut self, gauge: &Arc<Gauge>) {
        self.bytes = 0;
        for target in &mut self.targets {
            target.seal(gauge);
        }
    }

    pub fn flush(&mut self, gauge: &Arc<Gauge>, mut sent: impl FnMut(&Arc<Delayed>)) {
        if self.targets.is_empty() {
            return;
        }
        self.seal(gauge);
        for target in &mut self.targets {
            if !target.sealed.is_empty() {
                target.delayed.append(&mut target.sealed, std::mem::take(&mut target.bytes));
                sent(&target.delayed);
            }
        }
        if self.targets.len() > KEPT {
            self.targets.clear();
        }
    }

    fn target(&mut self, delayed: &Arc<Delayed>) -> &mut Target {
        let known = self.targets.iter().position(|target| target.delayed.id == delayed.id);
        let at = known.unwrap_or_else(|| {
            self.targets.push(Target {
                delayed: delayed.clone(),
                blocks: Vec::new(),
                pending: Vec::new(),
                sealed: Vec::new(),
                bytes: 0,
            });
            self.targets.len() - 1
        });
        &mut self.targets[at]
    }
}

impl Target {
    /// The place of the block for such delays.
    fn block(&mut self, delay: u64) -> usize {
        let class = u64::BITS - delay.leading_zeros();
        let known = self.blocks.iter().position(|filling| filling.class == class);
        known.unwrap_or_else(|| {
            self.blocks.push(Filling { class, block: BlockBuilder::default() });
            self.blocks.len() - 1
        })
    }

    fn seal(&mut self, gauge: &Arc<Gauge>) {
        let blocks: Vec<Arc<Block>> = self.blocks.drain(..).map(|mut filling| filling.block.finish(gauge)).collect();
        self.sealed.extend(self.pending.drain(..).map(|pending| match pending {
            Pending::Run { block, from, to, due, persistent, confirm } => {
                let run = Run { block: blocks[block].clone(), from, to };
                DelayedCommand::Hold { run, due, persistent, confirm }
            }
            Pending::Command(command) => command,
        }));
    }
}
