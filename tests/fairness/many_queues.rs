//! A thousand queues, each with a publisher and a consumer of its own, over twenty connections for each side.

use crate::load::{Drain, Flood, Pairs};
use crate::{Alone, broker};
use leveret_suite::values::int;
use std::iter;
use std::thread::available_parallelism;

const CONNECTIONS: usize = 20;
const QUEUES_PER_CONNECTION: u16 = 50;
/// Messages of each queue on average, in a stretch in which each queue must get its share.
const EACH: u64 = 300;

fn thousand(broker: &Alone) -> Pairs {
    Pairs::start(broker, CONNECTIONS, QUEUES_PER_CONNECTION, 4)
}

/// Of the messages that come from now on, each queue gets at least a quarter of an equal share.
#[track_caller]
fn expect_shares(pairs: &Pairs) {
    let (before, total) = (pairs.counts(), pairs.total().now());
    pairs.total().wait_for(total + EACH * before.len() as u64);
    let gained = pairs.counts().into_iter().zip(before).map(|(after, before)| after - before);
    let least = gained.min().expect("a thousand queues");
    assert!(least >= EACH / 4, "a queue got {least} messages where {EACH} were an equal share");
}

#[test]
fn each_makes_progress() {
    let broker = broker();
    let pairs = thousand(&broker);
    expect_shares(&pairs);
}

#[test]
fn cores_share_the_work() {
    let broker = broker();
    let pairs = thousand(&broker);
    let cores = available_parallelism().expect("a number of cores").get();
    // All begin on one thread, and are moved apart when that has too much to do.
    let threads = || [broker.cpu_ticks_of_threads("leveret"), broker.cpu_ticks_of_threads("connections-")].concat();
    let mut taken = Vec::new();
    for _ in 0..50 {
        let before = threads();
        pairs.total().wait_for(pairs.total().now() + 200_000);
        let passed = threads().into_iter().zip(before.into_iter().chain(iter::repeat(0)));
        taken = passed.map(|(after, before)| after - before).collect();
        taken.sort_unstable_by(|a, b| b.cmp(a));
        // With more than two cores the clients of this test may not keep them all busy.
        if cores == 1 || taken.len() > 1 && taken[1] >= taken[0] / 4 {
            return;
        }
    }
    panic!("the threads' CPU time at last, for {cores} cores: {taken:?}");
}

#[test]
fn a_very_busy_one_does_not_stop_the_others() {
    let broker = broker();
    let pairs = thousand(&broker);
    let busy = broker.peer().queue_with(1, &[("x-max-length", int(100_000))]);
    let drain = Drain::of(&broker, &busy);
    let floods = [(); 3].map(|()| Flood::into_queue(&broker, &busy, &[b'x'; 16]));
    drain.received().wait_for(200_000);
    let before = drain.received().now();
    expect_shares(&pairs);
    let gained = drain.received().now() - before;
    // It is not stopped either, and it stays busy.
    assert!(gained > 10 * EACH, "the busy queue delivered {gained} messages meanwhile");
    floods.iter().for_each(|flood| flood.published().wait_for(flood.published().now() + 100_000));
}
