//! Publishers that never pause, more of them than there are cores.

use crate::load::{Drain, Flood, published};
use crate::{Alone, broker};
use amq_protocol::protocol::queue;
use leveret_suite::say;
use leveret_suite::values::int;

/// What the busy ones may get done, all together, while somebody else makes the few steps that are called a round trip
/// here: some ten times what it takes, and a tenth of what it took when a busy connection had a thread for long.
const MESSAGES_PER_ROUND_TRIP: u64 = 1_000_000;

/// Four publishers that never pause, two whose messages are consumed as fast and two whose messages are dropped.
struct Busy {
    floods: Vec<Flood>,
    _drains: Vec<Drain>,
}

impl Busy {
    fn start(broker: &Alone) -> Busy {
        let mut peer = broker.peer();
        let (mut floods, mut drains) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            let (consumed, limited) = (
                peer.queue_with(1, &[("x-max-length", int(100_000))]),
                peer.queue_with(1, &[("x-max-length", int(1_000))]),
            );
            drains.push(Drain::of(broker, &consumed));
            floods.extend([&consumed, &limited].map(|queue| Flood::into_queue(broker, queue, &[b'x'; 16])));
        }
        for flood in &floods {
            // More than the kernel keeps for a socket: the broker is at it.
            flood.published().wait_for(200_000);
        }
        Busy { floods, _drains: drains }
    }

    /// Does something `times` times: for each the publishers may do a bounded amount, and they go on, too.
    #[track_caller]
    fn beside(&self, times: u64, mut round_trip: impl FnMut()) {
        let before = published(&self.floods);
        (0..times).for_each(|_| round_trip());
        let each = (published(&self.floods) - before) / times;
        assert!(each <= MESSAGES_PER_ROUND_TRIP, "{each} messages for each of {times} round trips");
        for flood in &self.floods {
            flood.published().wait_for(flood.published().now() + 100_000);
        }
    }
}

#[test]
fn others_publish_and_get_and_consume() {
    let broker = broker();
    let (mut asker, mut replier) = (broker.peer(), broker.peer());
    let (questions, answers) = (asker.queue(1, "questions"), asker.queue(1, "answers"));
    replier.consume_with(1, &questions, "replier", |consume| consume.no_ack = true);
    let busy = Busy::start(&broker);
    busy.beside(50, || {
        asker.publish(1, "", &questions, "?");
        replier.expect_delivery(1);
        replier.publish(1, "", &answers, "!");
        replier.in_step(1);
        asker.counts(1, &answers);
        asker.take(1, &answers, "!");
    });
}

#[test]
fn others_declare_bind_and_delete() {
    let broker = broker();
    let mut peer = broker.peer();
    let exchange = peer.exchange(1, "topic");
    let busy = Busy::start(&broker);
    busy.beside(50, || {
        let queue = peer.queue(1, "short-lived");
        peer.bind(1, &queue, &exchange, "some.*.key");
        let ok: queue::DeleteOk = peer.ask(1, say::delete(&queue));
        assert_eq!(ok.message_count, 0);
    });
}

#[test]
fn others_connect() {
    let broker = broker();
    let busy = Busy::start(&broker);
    busy.beside(50, || {
        broker.peer().close();
    });
}
