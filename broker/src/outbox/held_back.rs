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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    const NOW: u64 = 1_700_000_000_000;

    fn hold(by: &Arc<Delayed>, delay: u64) -> Hold {
        Hold { by: by.clone(), delay }
    }

    /// What waits for the only target: how many messages, when they are due, their first publish number.
    fn sealed(held_back: &mut HeldBack) -> Vec<(u32, u64, Option<u64>)> {
        held_back.seal(&Arc::default());
        let commands = held_back.targets[0].sealed.drain(..);
        commands
            .map(|command| match command {
                DelayedCommand::Hold { run, due, confirm, .. } => (run.count(), due - NOW, confirm.map(|to| to.first)),
                _ => panic!("nothing else was told"),
            })
            .collect()
    }

    #[test]
    fn messages_in_a_row_with_the_same_delay_are_one_run_and_the_order_of_publishes_is_kept() {
        let delayed = testing::delayed("x", true);
        let mut held_back = HeldBack::default();
        // 100 and 101 share a block, 3000 has its own.
        for delay in [100, 100, 101, 3000, 100, 100] {
            held_back.hold(&hold(&delayed, delay), b"message", Meta::new(0, NOW), None);
        }
        assert_eq!(held_back.bytes(), 6 * 7);
        let runs = [(2, 100, None), (1, 101, None), (1, 3000, None), (2, 100, None)];
        assert_eq!(sealed(&mut held_back), runs);
        assert_eq!(held_back.bytes(), 0);
    }

    #[test]
    fn what_is_sealed_before_goes_before() {
        let delayed = testing::delayed("x", false);
        let mut held_back = HeldBack::default();
        held_back.hold(&hold(&delayed, 2000), b"message", Meta::new(0, NOW), None);
        held_back.seal(&Arc::default());
        // As in a transaction: due at the same moment, and of another magnitude.
        held_back.hold(&hold(&delayed, 1000), b"message", Meta::new(0, NOW + 1000), None);
        assert_eq!(sealed(&mut held_back), [(1, 2000, None), (1, 2000, None)]);
    }

    #[test]
    fn a_durable_exchange_is_asked_to_confirm_persistent_messages_and_no_other_is_asked() {
        let from = testing::requester(&testing::peer(), 1);
        for (durable, persistent, answers) in [(true, true, 1), (true, false, 0), (false, true, 0)] {
            let delayed = testing::delayed("x", durable);
            let mut held_back = HeldBack::default();
            let meta = Meta::new(0, NOW).with_persistent(persistent);
            let mut publish = |number| held_back.hold(&hold(&delayed, 50), b"message", meta, Some((&from, number)));
            assert_eq!((publish(1), publish(2), publish(4)), (answers, answers, answers));
            let expected = match answers {
                1 => vec![(2, 50, Some(1)), (1, 50, Some(4))],
                _ => vec![(3, 50, None)],
            };
            assert_eq!(sealed(&mut held_back), expected);
        }
    }
}
