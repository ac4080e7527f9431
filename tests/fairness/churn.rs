//! Queues that come and go, and others that have nothing to do with them.

use crate::broker;
use crate::load::Pairs;
use amq_protocol::protocol::queue;
use leveret_suite::say;

/// What a publisher and its consumer, with a hundred messages under way, get done at least while somebody else declares,
/// binds and deletes a queue: three answers, and so time for several rounds of a hundred.
const MESSAGES_PER_QUEUE: u64 = 20;
const QUEUES: u64 = 500;

#[test]
fn declaring_and_deleting_does_not_stop_a_publisher() {
    let broker = broker();
    let pair = Pairs::start(&broker, 1, 1, 100);
    let mut peer = broker.peer();
    let exchange = peer.exchange(1, "topic");
    let before = pair.total().now();
    for _ in 0..QUEUES {
        let queue = peer.queue(1, "short-lived");
        peer.bind(1, &queue, &exchange, "some.*.key");
        peer.ask::<queue::DeleteOk>(1, say::delete(&queue));
    }
    let each = (pair.total().now() - before) / QUEUES;
    assert!(each >= MESSAGES_PER_QUEUE, "{each} messages while a queue was declared, bound and deleted");
}
