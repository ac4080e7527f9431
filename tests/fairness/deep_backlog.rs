//! A queue that is deeper than memory, read back from disk while it is drained.

use crate::broker_with;
use crate::load::Drain;
use leveret_suite::Content;
use leveret_suite::bulk::publish_many;
use leveret_suite::peer::Login;

const MESSAGES: usize = 200_000;
const ROUND_TRIPS: u64 = 50;
/// Drained when the round trips begin.
const START: u64 = 10_000;
/// Drained when they end at most: so that they have been made meanwhile.
const END: u64 = MESSAGES as u64 / 2;

#[test]
fn draining_it_does_not_stop_others() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().to_str().expect("a path in UTF-8");
    let broker = broker_with(&["--data-dir", path, "--memory-limit", "100MB", "--disk-free-limit", "0"]);
    let mut peer = broker.peer();
    let (deep, other) = (peer.queue(1, "deep"), peer.queue(1, "other"));
    // It is parked from time to time, and not told.
    let mut publisher = broker.peer_with(&Login { capabilities: &[], ..Login::default() });
    publisher.open_channel(1);
    publish_many(&publisher, 1, &[&deep], &Content::new([b'x'; 1024]), MESSAGES);
    publisher.expect_counts(1, &deep, (MESSAGES as u32, 0));

    let drain = Drain::of(&broker, &deep);
    drain.received().wait_for(START);
    for n in 0..ROUND_TRIPS {
        let body = n.to_string();
        peer.publish(1, "", &other, &body);
        peer.take(1, &other, &body);
    }
    let drained = drain.received().now();
    assert!(drained <= END, "{drained} messages drained when {ROUND_TRIPS} round trips were done");
    drain.received().wait_for(MESSAGES as u64);
}
