//! Frees blocks of which little is left alive.
//!
//! One unacked message keeps its whole block in memory. Once a second, while messages take more than a little, every
//! owner is asked to look through what it holds: where it alone holds what is left of a block, and that is less than
//! a quarter, the survivors are copied out, side by side, and the block goes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use leveret_storage::{Block, Gauge, Run};

use crate::command::{QueueCommand, Segment};
use crate::delayed::DelayedCommand;
use crate::message::BlockBuilder;
use crate::server::Shared;

/// Bytes of messages in memory below which nobody is asked.
const WORTH_WHILE: usize = 16 << 20;
/// Bytes of survivors that share a new block.
const NEW_BLOCK: usize = 256 << 10;

/// Asks every owner of messages to free blocks of little use, once a second while they take more than a little.
pub async fn ask(shared: Arc<Shared>) {
    let clock = shared.clock.clone();
    loop {
        clock.sleep(Duration::from_secs(1)).await;
        if shared.pressure.gauge.bytes() < WORTH_WHILE {
            continue;
        }
        shared.peers_now().iter().for_each(|peer| peer.ask_to_tidy());
        for vhost in shared.vhosts.load().values() {
            for queue in vhost.snapshot().queues.values() {
                queue.push(QueueCommand::Tidy);
            }
            vhost.delayed().iter().for_each(|delayed| delayed.push(DelayedCommand::Tidy));
        }
    }
}

/// A stretch of what is held: its first sequence number, and the messages.
type Held<'a> = (u64, &'a mut Run);

/// Copies survivors out of blocks that nobody else holds.
pub fn tidy<'a>(segments: impl Iterator<Item = &'a mut Segment>, gauge: &Arc<Gauge>) {
    let here = |segment: &'a mut Segment| {
        let first = segment.first;
        segment.here_mut().map(|run| (first, run))
    };
    copy_survivors(segments.filter_map(here), gauge, Arc::strong_count);
}

/// The same for runs in blocks that were made for whoever holds these: nobody else keeps one for long.
pub fn tidy_own<'a>(runs: impl Iterator<Item = Held<'a>>, gauge: &Arc<Gauge>) {
    copy_survivors(runs, gauge, |_| 0);
}

/// A block that has more `holders` than the runs that are given stays as it is.
fn copy_survivors<'a>(
    runs: impl Iterator<Item = Held<'a>>,
    gauge: &Arc<Gauge>,
    holders: impl Fn(&Arc<Block>) -> usize,
) {
    let mut sparse: HashMap<*const Block, Vec<Held<'_>>> = HashMap::new();
    for (first, run) in runs {
        if run.count() * 4 < run.block.count() {
            sparse.entry(Arc::as_ptr(&run.block)).or_default().push((first, run));
        }
    }
    let mut moving = Vec::new();
    for group in sparse.into_values() {
        let block = &group[0].1.block;
        let alive: usize = group.iter().map(|(_, run)| run.bytes()).sum();
        if holders(block) <= group.len() && alive * 4 < block.held() {
            moving.extend(group);
        }
    }
    moving.sort_by_key(|(first, _)| *first);
    let mut batch = Vec::new();
    let mut bytes = 0;
    for (_, run) in moving {
        bytes += run.bytes();
        batch.push(run);
        if bytes >= NEW_BLOCK {
            copy_out(&mut batch, gauge);
            bytes = 0;
        }
    }
    copy_out(&mut batch, gauge);
}

fn copy_out(runs: &mut Vec<&mut Run>, gauge: &Arc<Gauge>) {
    if runs.is_empty() {
        return;
    }
    let mut builder = BlockBuilder::default();
    for run in runs.iter() {
        for (bytes, meta) in run.messages() {
            builder.add(bytes, crate::message::Meta(meta));
        }
    }
    let block = builder.finish(gauge);
    let mut from = 0;
    for run in runs.drain(..) {
        let to = from + run.count();
        *run = Run { block: block.clone(), from, to };
        from = to;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Meta;

    fn segment(block: &Arc<Block>, index: u32) -> Segment {
        let run = Run { block: block.clone(), from: index, to: index + 1 };
        Segment::new(u64::from(index) + 1, run)
    }

    fn run(segment: &Segment) -> &Run {
        segment.here().expect("messages in memory")
    }

    fn block(gauge: &Arc<Gauge>) -> Arc<Block> {
        let mut builder = BlockBuilder::default();
        for index in 0..100u8 {
            builder.add(&[index; 1000], Meta::new(2, 7));
        }
        builder.finish(gauge)
    }

    #[test]
    fn survivors_of_a_block_are_copied_out_and_the_block_goes() {
        let gauge = Arc::default();
        let whole = block(&gauge);
        let mut left = [segment(&whole, 3), segment(&whole, 60)];
        drop(whole);
        tidy(left.iter_mut(), &gauge);
        assert!(gauge.bytes() < 4000, "{} bytes", gauge.bytes());
        let bytes: Vec<_> = left.iter().map(|s| run(s).block.bytes(run(s).from).to_vec()).collect();
        assert_eq!(bytes, [vec![3; 1000], vec![60; 1000]]);
        assert!(left.iter().all(|s| run(s).block.meta(run(s).from) == Meta::new(2, 7).0));
    }

    #[test]
    fn a_block_that_somebody_else_holds_stays() {
        let gauge = Arc::default();
        let whole = block(&gauge);
        let mut left = [segment(&whole, 3)];
        tidy(left.iter_mut(), &gauge);
        assert!(Arc::ptr_eq(&run(&left[0]).block, &whole));
    }

    #[test]
    fn a_block_of_which_much_is_alive_stays() {
        let gauge = Arc::default();
        let whole = block(&gauge);
        let mut left: Vec<_> = (0..40).map(|index| segment(&whole, index)).collect();
        drop(whole);
        let before = gauge.bytes();
        tidy(left.iter_mut(), &gauge);
        assert_eq!(gauge.bytes(), before);
    }
}
