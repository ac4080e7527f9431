use std::sync::OnceLock;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::command::{ConnectionEvent, Peer, Reply};
use crate::testing;

fn segment(first: u64, count: u64) -> Segment {
    Segment { persistent: true, ..Segment::new(first, testing::run(first..first + count)) }
}

fn meta(persistent: bool) -> Meta {
    Meta::new(0, 0).with_persistent(persistent)
}

/// One thing that a queue is told, as the client meant it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    Published { message: u32, persistent: bool, confirm: Option<u64> },
    Settled { sequence: u64, persistent: bool },
    Requeued(u64),
}

/// What waits for `queue`, taken apart; and in how many pieces it waits.
fn pending(outbox: &Outbox, queue: &Arc<Queue>) -> (Vec<Told>, usize) {
    let mut told = Vec::new();
    let Some(target) = outbox.targets.iter().find(|t| t.queue.id == queue.id) else {
        return (told, 0);
    };
    for piece in &target.pending {
        match piece {
            Pending::Run { from, to, persistent, confirm, .. } => {
                told.extend((*from..*to).map(|message| Told::Published {
                    message,
                    persistent: *persistent,
                    confirm: confirm.as_ref().map(|c| c.first + u64::from(message - from)),
                }))
            }
            Pending::Command(QueueCommand::Settle { first, count, persistent, .. }) => told.extend(
                (*first..first + u64::from(*count)).map(|sequence| Told::Settled { sequence, persistent: *persistent }),
            ),
            Pending::Command(QueueCommand::Requeue { segment, .. }) => told.push(Told::Requeued(segment.first)),
            Pending::Command(_) => panic!("nothing else was told"),
        }
    }
    (told, target.pending.len())
}

#[test]
fn neighbouring_acknowledgements_become_one_range() {
    let mut outbox = Outbox::default();
    let queue = testing::queue("q", true, &testing::store());
    for sequence in [5, 6, 7] {
        outbox.settle(&queue, None, &segment(sequence, 1), 1);
    }
    outbox.settle(&queue, None, &segment(8, 3), 3);
    assert_eq!(pending(&outbox, &queue).1, 1);
    outbox.settle(&queue, None, &segment(12, 1), 1);
    assert_eq!(pending(&outbox, &queue).1, 2, "11 is not among them");
    outbox.settle(&queue, None, &segment(11, 1), 1);
    assert_eq!(pending(&outbox, &queue).1, 3, "the order is kept");
}

#[test]
fn acknowledgements_of_different_consumers_stay_apart() {
    let mut outbox = Outbox::default();
    let queue = testing::queue("q", true, &testing::store());
    let consumer = |serial| Some(ConsumerKey { slot: 0, serial });
    outbox.settle(&queue, consumer(1), &segment(1, 1), 1);
    outbox.settle(&queue, consumer(2), &segment(2, 1), 1);
    outbox.settle(&queue, None, &segment(3, 1), 1);
    assert_eq!(pending(&outbox, &queue).1, 3);
}

#[test]
fn publishes_in_a_row_become_one_run_whose_confirms_go_on_with_it() {
    let mut outbox = Outbox::default();
    let queue = testing::queue("q", true, &testing::store());
    let from = testing::requester(&testing::peer(), 1);
    let mut publish = |confirm: Option<u64>| {
        let queues = [queue.clone()];
        let confirm = confirm.map(|number| (&from, number));
        outbox.publish(Body::Borrowed(b"message"), meta(true), None, &queues, confirm);
        pending(&outbox, &queue).1
    };
    assert_eq!(publish(Some(1)), 1);
    assert_eq!(publish(Some(2)), 1);
    assert_eq!(publish(Some(4)), 2, "publish 3 went elsewhere");
    assert_eq!(publish(None), 3);
}

#[test]
fn a_durable_queue_is_asked_to_confirm_persistent_messages_and_no_other_is_asked() {
    let mut outbox = Outbox::default();
    let store = testing::store();
    let durable = testing::queue("durable", true, &store);
    let transient = testing::queue("transient", false, &store);
    let queues = [durable.clone(), transient.clone()];
    let from = testing::requester(&testing::peer(), 1);
    outbox.publish(Body::Borrowed(b"1"), meta(true), None, &queues, Some((&from, 1)));
    outbox.publish(Body::Borrowed(b"2"), meta(false), None, &queues, Some((&from, 2)));
    let confirms = |queue| -> Vec<Option<u64>> {
        let told = pending(&outbox, queue).0.into_iter();
        told.map(|told| match told {
            Told::Published { confirm, .. } => confirm,
            other => panic!("unexpected {other:?}"),
        })
        .collect()
    };
    assert_eq!(confirms(&durable), [Some(1), None]);
    assert_eq!(confirms(&transient), [None, None]);
}

#[test]
fn each_queue_that_gets_messages_is_named_when_they_are_sent_off_and_the_outbox_is_empty_then() {
    let mut outbox = Outbox::default();
    let store = testing::store();
    let queues = ["one", "two"].map(|name| testing::queue(name, false, &store));
    let gauge = Arc::new(Gauge::default());
    outbox.publish(Body::Borrowed(b"1"), meta(false), None, &queues[..1], None);
    outbox.settle(&queues[1], None, &segment(1, 1), 1);
    let mut named = Vec::new();
    outbox.flush(&gauge, |queue| named.push(queue.name.clone()));
    assert_eq!(named, ["one".into()], "the other one got no message");
    outbox.flush(&gauge, |queue| panic!("{} got something again", queue.name));
}

/// The ready messages of a queue, taken by gets.
fn contents(queue: &Arc<Queue>, peer: &Arc<Peer>) -> Vec<u64> {
    let mut numbers = Vec::new();
    loop {
        queue.push(QueueCommand::Get { from: testing::requester(peer, 1), no_ack: true });
        match testing::events(peer).pop() {
            Some(ConnectionEvent::Reply { reply: Reply::Got { segment, .. }, .. }) => {
                numbers.extend(testing::numbers_of(&segment))
            }
            _ => return numbers,
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// To the queues whose bits are set.
    Publish {
        to: usize,
        persistent: bool,
        confirmed: bool,
        owned: bool,
    },
    Settle {
        queue: usize,
        skip: u64,
        count: u64,
    },
    Requeue {
        queue: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..8usize, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
            |(to, persistent, confirmed, owned)| Step::Publish { to, persistent, confirmed, owned }
        ),
        4 => (0..3usize, 0..2u64, 1..4u64)
            .prop_map(|(queue, skip, count)| Step::Settle { queue, skip, count }),
        1 => (0..3usize).prop_map(|queue| Step::Requeue { queue }),
    ]
}

/// Queues that live as long as the test, numbers that are never used twice.
fn queues() -> &'static [Arc<Queue>; 3] {
    static QUEUES: OnceLock<[Arc<Queue>; 3]> = OnceLock::new();
    QUEUES.get_or_init(|| {
        let store = testing::store();
        [true, true, false].map(|durable| testing::queue("q", durable, &store))
    })
}

proptest! {
    #[test]
    fn each_queue_is_told_its_share_in_the_order_in_which_the_client_said_it(
        steps in vec(step(), 1..60)
    ) {
        let queues = queues();
        let from = testing::requester(&testing::peer(), 1);
        let mut outbox = Outbox::default();
        let mut expected: [Vec<Told>; 3] = Default::default();
        let mut messages: [Vec<u64>; 3] = Default::default();
        let (mut message, mut publish_number, mut settled) = (0u32, 0, [1_000u64; 3]);
        for step in steps {
            match step {
                Step::Publish { to, persistent, confirmed, owned } => {
                    let reached: Vec<usize> = (0..3).filter(|i| to & (1 << i) != 0).collect();
                    let targets: Vec<_> = reached.iter().map(|i| queues[*i].clone()).collect();
                    publish_number += 1;
                    let bytes = u64::from(message).to_be_bytes();
                    let body = if owned {
                        Body::Owned(bytes.to_vec())
                    } else {
                        Body::Borrowed(&bytes)
                    };
                    let confirm = confirmed.then_some((&from, publish_number));
                    outbox.publish(body, meta(persistent), None, &targets, confirm);
                    for i in reached {
                        let persistent = persistent && queues[i].durable;
                        let asked = confirmed && persistent;
                        let confirm = asked.then_some(publish_number);
                        expected[i].push(Told::Published { message, persistent, confirm });
                        messages[i].push(u64::from(message));
                    }
                    message += 1;
                }
                Step::Settle { queue, skip, count } => {
                    let first = settled[queue] + skip;
                    settled[queue] = first + count;
                    outbox.settle(&queues[queue], None, &segment(first, count), count as u32);
                    let range = first..first + count;
                    let told = range.map(|sequence| Told::Settled { sequence, persistent: true });
                    expected[queue].extend(told);
                }
                Step::Requeue { queue } => {
                    settled[queue] += 1;
                    let first = settled[queue] * 1_000_000;
                    let command = QueueCommand::Requeue {
                        consumer: None,
                        segment: segment(first, 1),
                        seen: true,
                    };
                    outbox.push(&queues[queue], command);
                    expected[queue].push(Told::Requeued(first));
                }
            }
        }
        for (queue, expected) in queues.iter().zip(&expected) {
            prop_assert_eq!(&pending(&outbox, queue).0, expected);
        }
        outbox.flush(&Arc::new(Gauge::default()), |_| {});
        let reader = testing::peer();
        for (i, queue) in queues.iter().enumerate() {
            let found = contents(queue, &reader);
            let published: Vec<u64> = found.into_iter().filter(|n| *n < 1_000).collect();
            prop_assert_eq!(&published, &messages[i]);
        }
    }
}
