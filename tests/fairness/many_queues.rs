//! A thousand queues, each with a publisher and a consumer of its own, over twenty connections for each side.

use crate::load::{Drain, Flood, Pairs};
use crate::{Alone, broker};
use leveret_suite::values::int;
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
fn all_cores_share_the_work() {
    let broker = broker();
    let pairs = thousand(&broker);
    pairs.total().wait_for(200_000);
    let mut workers = broker.cpu_ticks_of_threads("tokio-rt-worker");
    workers.sort_unstable_by(|a, b| b.cmp(a));
    let cores = available_parallelism().expect("a number of cores").get();
    // Threads for what may block have the same name; they come after the workers, of which there is one for each core.
    let (most, least) = (workers[0], workers[cores - 1]);
    assert!(least >= most / 4, "the threads' CPU time, for {cores} cores: {workers:?}");
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
