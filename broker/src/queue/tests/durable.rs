//! What a queue has written down, and in which order.

use leveret_storage::Batch;

use super::*;

#[test]
fn a_persistent_message_is_stored_before_its_confirm_is_asked_for() {
    let mut queue = Driven::new();
    let mut client = Client::new();
    queue.turn([publish_confirmed(1..=3, true, &client.from, 1), publish_confirmed([4], true, &client.from, 4)]);
    client.hears_nothing();
    assert_eq!(queue.stored(), ["insert 1+3", "Synced: confirm 1+3", "insert 4+1", "Synced: confirm 4+1"]);
}

#[test]
fn a_transient_message_is_not_stored_and_confirmed_at_once() {
    let mut queue = Driven::new();
    let mut client = Client::new();
    queue.turn([publish_confirmed(1..=3, false, &client.from, 1)]);
    assert_eq!(hear(&client.next().unwrap()), "confirm 1+3");
    assert!(queue.stored.is_empty());
}

#[test]
fn a_transient_queue_stores_nothing_at_all() {
    let mut queue = Driven::with(|origin| origin.durable = false);
    let mut client = Client::new();
    queue.turn([publish_confirmed(1..=4, true, &client.from, 1)]);
    assert_eq!(hear(&client.next().unwrap()), "confirm 1+4");
    let consumer = client.consume(&mut queue, |new| new.prefetch = 2);
    let segment = client.delivery().segment;
    queue.turn([ack(consumer, &segment)]);
    client.delivery();
    queue.turn([QueueCommand::Purge { from: client.from.clone() }]);
    assert_eq!(say(&client.reply()), "purged 0");
    queue.turn([QueueCommand::Kill]);
    assert!(queue.stored.is_empty());
    assert_eq!(queue.delivered_through, 0);
}

#[test]
fn a_persistent_message_goes_to_a_consumer_without_waiting_for_storage() {
    let mut queue = Driven::new();
    let mut client = Client::new();
    let consumer = client.consume(&mut queue, |_| {});
    queue.turn([publish([1], true)]);
    assert_eq!(client.delivered(consumer), [1]);
}

#[test]
fn the_ack_of_a_persistent_message_removes_it_and_that_of_a_transient_one_nothing() {
    let mut queue = Driven::new();
    let mut client = Client::new();
    let consumer = client.consume(&mut queue, |_| {});
    queue.turn([publish([1, 2], true), publish([3], false)]);
    queue.stored();
    let acks: Vec<_> = client.deliveries(consumer).iter().map(|delivery| ack(consumer, &delivery.segment)).collect();
    queue.turn(acks);
    assert_eq!(queue.stored(), ["remove 1+2"]);
}

#[test]
fn a_message_that_is_never_acknowledged_is_removed_when_it_is_handed_over() {
    let mut queue = Driven::new();
    let mut client = Client::new();
    let consumer = client.consume(&mut queue, |new| new.no_ack = true);
    queue.turn([publish_confirmed(1..=2, true, &client.from, 1)]);
    assert_eq!(client.delivered(consumer), [1, 2]);
    let entries = std::mem::take(&mut queue.stored);
    let words: Vec<_> = entries.iter().map(word).collect();
    assert_eq!(words, ["insert 1+2", "Synced: confirm 1+2", "remove 1+2"]);
    let ops = entries.into_iter().filter_map(|entry| match entry {
        Entry::Op(op) => Some(op),
        _ => None,
    });
    assert!(Batch::fold(ops).is_empty(), "so it is never written");
    queue.turn([publish([3], true)]);
    queue.stored();
    assert_eq!(queue.delivered_through, 0, "nothing of it can come back");
}

#[test]
fn how_far_persistent_messages_may_have_been_seen_is_noted() {
    let mut queue = Driven::new();
    let mut client = Client::new();
    queue.turn([publish(1..=3, true), publish([4], false)]);
    client.get(&mut queue, true).unwrap();
    assert_eq!(queue.delivered_through, 0, "it is gone, whoever has seen it");
    client.get(&mut queue, false).unwrap();
    assert_eq!(queue.delivered_through, 2);
    client.consume(&mut queue, |_| {});
    assert_eq!(queue.delivered_through, 3, "a transient one needs no note");
}

#[test]
fn a_purge_of_persistent_messages_is_answered_when_it_is_on_the_device() {
    let mut queue = Driven::new();
    let mut client = Client::new();
    queue.turn([publish(1..=2, true), publish([3], false), publish([4], true)]);
    queue.stored();
    queue.turn([QueueCommand::Purge { from: client.from.clone() }]);
    client.hears_nothing();
    assert_eq!(queue.stored(), ["remove 1+2", "remove 4+1", "Removed: reply"]);
}

#[test]
fn a_declaration_that_is_to_be_on_the_device_is_answered_through_storage() {
    let mut queue = Driven::new();
    let mut client = Client::new();
    queue.turn([client.status(true)]);
    client.hears_nothing();
    assert_eq!(queue.stored(), ["Synced: reply"]);
}

#[test]
fn a_synchronous_method_after_acks_is_answered_when_their_removals_are_written() {
    let mut queue = Driven::new();
    let mut client = Client::new();
    queue.turn([publish([1], true)]);
    let consumer = client.consume(&mut queue, |_| {});
    let held = client.delivery().segment;
    queue.stored();
    let sync = |stored| QueueCommand::Sync { from: client.from.clone(), stored };
    queue.turn([ack(consumer, &held), sync(true)]);
    assert_eq!(queue.stored(), ["remove 1+1", "Written: reply"]);
    queue.turn([sync(false)]);
    assert_eq!(say(&client.reply()), "done");
}

#[test]
fn recovered_messages_come_first_and_new_ones_get_higher_numbers() {
    let recovered = |first, number, redelivered| Segment {
        persistent: true,
        redelivered,
        ..Segment::new(first, testing::run([number]))
    };
    let mut queue = Driven::with(|origin| {
        origin.messages = Box::new([recovered(3, 30, true), recovered(9, 90, false)].into_iter());
        origin.next_sequence = 12;
    });
    let mut client = Client::new();
    assert_eq!(client.counts(&mut queue), (2, 0));
    queue.turn([publish([120], true)]);
    assert_eq!(queue.stored(), ["insert 12+1"]);
    let consumer = client.consume(&mut queue, |_| {});
    let got: Vec<_> =
        client.deliveries(consumer).iter().map(|d| (testing::numbers_of(&d.segment), d.segment.redelivered)).collect();
    assert_eq!(got, [(vec![30], true), (vec![90], false), (vec![120], false)]);
}
