//! Purge, deletion, auto-delete, and what a queue that is gone says.

use super::*;

fn cancel(client: &Client, consumer: ConsumerKey) -> QueueCommand {
    QueueCommand::Cancel { consumer, then: Some((client.from.clone(), Reply::Done)) }
}

fn delete(client: &Client, if_unused: bool, if_empty: bool) -> QueueCommand {
    QueueCommand::Delete { from: client.from.clone(), if_unused, if_empty }
}

fn purge(client: &Client) -> QueueCommand {
    QueueCommand::Purge { from: client.from.clone() }
}

#[test]
fn a_purge_drops_ready_messages_only_and_says_how_many() {
    let mut queue = Driven::with(|origin| origin.durable = false);
    let mut client = Client::new();
    queue.publish(1..=5);
    let (held, _) = client.get(&mut queue, false).unwrap();
    queue.turn([purge(&client)]);
    assert_eq!(say(&client.reply()), "purged 4");
    assert_eq!(client.counts(&mut queue), (0, 0));
    queue.turn([QueueCommand::Requeue { consumer: None, segment: held, seen: true }]);
    assert_eq!(client.counts(&mut queue), (1, 0), "the unacked one survives");
}

#[test]
fn an_auto_delete_queue_ends_with_its_last_consumer_before_the_cancel_is_answered() {
    let mut queue = Driven::with(|origin| origin.auto_delete = true);
    let mut client = Client::new();
    let one = client.consume(&mut queue, |_| {});
    let two = client.consume(&mut queue, |_| {});
    queue.turn([cancel(&client, one)]);
    assert_eq!(say(&client.reply()), "done");
    assert_eq!(client.counts(&mut queue), (0, 1));
    queue.turn([cancel(&client, two)]);
    client.hears_nothing();
    assert_eq!(told(&mut queue), ["q is dead", "relay done once it is stored"]);
    assert_eq!(queue.stored(), ["drop"]);
}

#[test]
fn an_auto_delete_queue_without_a_consumer_so_far_stays() {
    let mut queue = Driven::with(|origin| origin.auto_delete = true);
    let mut client = Client::new();
    queue.publish([1]);
    assert!(client.get(&mut queue, true).is_some());
    assert!(client.get(&mut queue, true).is_none());
    assert_eq!(client.counts(&mut queue), (0, 0));
    assert_eq!(told(&mut queue), [""; 0]);
}

#[test]
fn an_auto_delete_queue_ends_when_its_last_consumer_turns_out_to_be_gone() {
    let mut queue = Driven::with(|origin| origin.auto_delete = true);
    let mut client = Client::new();
    client.consume(&mut queue, |_| {});
    client.peer.mailbox.close();
    queue.publish([1]);
    assert_eq!(told(&mut queue), ["q is dead"]);
}

#[test]
fn deletion_says_how_many_ready_messages_go_and_consumers_are_told() {
    let mut queue = Driven::new();
    let (mut client, mut consumer) = (Client::new(), Client::new());
    queue.publish(1..=4);
    let key = consumer.consume(&mut queue, |new| new.prefetch = 1);
    assert_eq!(consumer.delivered(key), [1]);
    queue.turn([delete(&client, false, false)]);
    client.hears_nothing();
    assert_eq!(told(&mut queue), ["q is dead, then deleted 3"]);
    assert_eq!(hear(&consumer.next().unwrap()), "consumer gone");
}

#[test]
fn conditional_deletion_is_refused_for_ready_messages_first_then_for_consumers() {
    let mut queue = Driven::with(|origin| origin.durable = false);
    let (mut client, mut consumer) = (Client::new(), Client::new());
    let key = consumer.consume(&mut queue, |new| new.prefetch = 1);
    queue.publish([1, 2]);
    let not_empty = "PRECONDITION_FAILED - queue 'q' in vhost '/' not empty";
    let in_use = "PRECONDITION_FAILED - queue 'q' in vhost '/' in use";
    queue.turn([delete(&client, true, true)]);
    client.refused(not_empty);
    queue.turn([delete(&client, true, false)]);
    client.refused(in_use);
    queue.turn([purge(&client)]);
    assert_eq!(say(&client.reply()), "purged 1");
    queue.turn([delete(&client, true, true)]);
    client.refused(in_use);
    queue.turn([cancel(&consumer, key), delete(&client, true, true)]);
    assert_eq!(told(&mut queue), ["q is dead, then deleted 0"], "an unacked message does not count");
}

#[test]
fn a_dead_queue_answers_as_one_that_never_was() {
    let mut queue = Driven::new();
    let mut client = Client::new();
    queue.turn([QueueCommand::Kill]);
    assert_eq!(queue.stored(), ["drop"]);
    let gone = "NOT_FOUND - no queue 'q' in vhost '/'";

    let new = testing::consumer(&client.from);
    queue.turn([QueueCommand::Consume(Box::new(new))]);
    client.refused(gone);
    let from = client.from.clone();
    queue.turn([QueueCommand::Get { from, no_ack: false }]);
    client.refused(gone);
    queue.turn([purge(&client)]);
    client.refused(gone);
    queue.turn([delete(&client, true, true)]);
    assert_eq!(told(&mut queue), ["relay deleted 0 once it is stored"]);
    queue.turn([client.status(false)]);
    assert_eq!(told(&mut queue), ["again"], "the topology is asked once more");
    assert!(queue.stored.is_empty());
    client.hears_nothing();
}

#[test]
fn a_publish_that_finds_its_queue_dead_is_confirmed_and_not_stored() {
    let mut queue = Driven::new();
    let mut client = Client::new();
    queue.turn([QueueCommand::Kill]);
    queue.stored();
    queue.turn([publish_confirmed([1, 2, 3], true, &client.from, 5)]);
    assert_eq!(hear(&client.next().unwrap()), "confirm 5+3");
    queue.turn([publish([4], true)]);
    client.hears_nothing();
    assert!(queue.stored.is_empty());
}

#[test]
fn acks_and_requeues_to_a_dead_queue_are_taken_in_silence() {
    let mut queue = Driven::new();
    let mut client = Client::new();
    queue.turn([publish([1, 2], true)]);
    let consumer = client.consume(&mut queue, |_| {});
    let mut held = client.delivery().segment;
    queue.turn([QueueCommand::Kill]);
    assert_eq!(hear(&client.next().unwrap()), "consumer gone");
    queue.stored();
    let first = held.split_front(1);
    queue.turn([ack(consumer, &first), requeue(consumer, held)]);
    client.hears_nothing();
    assert!(queue.stored.is_empty());
    assert!(told(&mut queue).is_empty());
}

#[test]
fn a_dead_queue_still_says_that_everything_before_has_been_done() {
    let mut queue = Driven::new();
    let mut client = Client::new();
    queue.turn([QueueCommand::Kill]);
    queue.stored();
    let sync = |stored| QueueCommand::Sync { from: client.from.clone(), stored };
    for stored in [false, true] {
        queue.turn([sync(stored)]);
        assert_eq!(told(&mut queue), ["relay done once it is stored"], "behind the queue's end");
    }
    assert!(queue.stored.is_empty());
    client.hears_nothing();
}

#[test]
fn a_queue_given_up_after_a_defect_keeps_its_messages_in_storage() {
    let mut queue = Driven::new();
    let mut client = Client::new();
    queue.turn([publish([1, 2], true)]);
    client.consume(&mut queue, |new| new.prefetch = 1);
    client.delivery();
    queue.stored();
    queue.state.fail(&mut queue.effects);
    queue.hand_out();
    assert_eq!(hear(&client.next().unwrap()), "consumer gone");
    assert!(queue.stored.is_empty());
    let text = "INTERNAL_ERROR - queue 'q' in vhost '/' has failed and is down until the broker starts again";
    queue.turn([client.status(false)]);
    client.refused(text);
    queue.turn([delete(&client, false, false)]);
    client.refused(text);
    queue.turn([publish_confirmed([3], true, &client.from, 5)]);
    assert_eq!(hear(&client.next().unwrap()), "refusal 5+1");
    assert_eq!(told(&mut queue), [""; 0]);
}
