//! Who gets which message, in what order, and how much at a time (AMQP 0-9-1, class basic).

use std::sync::Arc;

use super::*;
use crate::command::{ChannelLimit, Window};

#[test]
fn messages_leave_in_the_order_in_which_they_came() {
    let mut queue = Driven::new();
    let mut client = Client::new();
    queue.publish([1, 2]);
    queue.publish([3]);
    let consumer = client.consume(&mut queue, |_| {});
    queue.publish([4, 5]);
    assert_eq!(client.delivered(consumer), [1, 2, 3, 4, 5]);
}

#[test]
fn the_registration_is_answered_before_the_first_delivery() {
    let mut queue = Driven::new();
    let mut client = Client::new();
    queue.publish([1]);
    let new = testing::consumer(&client.from);
    queue.turn([QueueCommand::Consume(Box::new(new))]);
    assert!(matches!(client.reply(), Reply::Consuming(_)));
    assert_eq!(testing::numbers_of(&client.delivery().segment), [1]);
}

#[test]
fn a_lone_consumer_gets_what_was_published_together_as_one_delivery() {
    let mut queue = Driven::new();
    let mut client = Client::new();
    client.consume(&mut queue, |_| {});
    queue.publish(1..=100);
    assert_eq!(client.delivery().segment.count(), 100);
    client.hears_nothing();
}

#[test]
fn several_consumers_are_served_in_turns_one_message_each() {
    let mut queue = Driven::new();
    let mut clients = [Client::new(), Client::new(), Client::new()];
    let keys = clients.each_mut().map(|c| c.consume(&mut queue, |_| {}));
    queue.publish(1..=4);
    queue.publish(5..=7);
    let got: Vec<_> = clients.iter_mut().zip(keys).map(|(client, key)| client.delivered(key)).collect();
    assert_eq!(got, [vec![1, 4, 7], vec![2, 5], vec![3, 6]]);
}

#[test]
fn a_consumer_whose_prefetch_is_full_is_passed_over() {
    let mut queue = Driven::new();
    let (mut slow, mut fast) = (Client::new(), Client::new());
    let limited = slow.consume(&mut queue, |new| new.prefetch = 1);
    let free = fast.consume(&mut queue, |_| {});
    queue.publish(1..=5);
    assert_eq!(slow.delivered(limited), [1]);
    assert_eq!(fast.delivered(free), [2, 3, 4, 5]);
}

#[test]
fn no_more_than_prefetch_messages_are_unacked_and_each_ack_lets_as_many_follow() {
    let mut queue = Driven::new();
    let mut client = Client::new();
    queue.publish(1..=10);
    let consumer = client.consume(&mut queue, |new| new.prefetch = 3);
    let mut first = client.delivery().segment;
    assert_eq!(testing::numbers_of(&first), [1, 2, 3]);
    client.hears_nothing();
    let front = first.split_front(2);
    queue.turn([ack(consumer, &front)]);
    assert_eq!(client.delivered(consumer), [4, 5]);
    queue.turn([requeue(consumer, first)]);
    assert_eq!(client.delivered(consumer), [3], "what comes back goes first");
}

#[test]
fn the_prefetch_of_one_consumer_is_not_that_of_another_on_the_same_channel() {
    let mut queue = Driven::new();
    let mut client = Client::new();
    let one = client.consume(&mut queue, |new| new.prefetch = 1);
    let two = client.consume(&mut queue, |new| new.prefetch = 2);
    queue.publish(1..=9);
    let (mut to_one, mut to_two) = (0, 0);
    while let Some(ConnectionEvent::Deliver(delivery)) = client.next() {
        let to = if delivery.consumer == one {
            &mut to_one
        } else {
            assert_eq!(delivery.consumer, two);
            &mut to_two
        };
        *to += delivery.segment.count();
    }
    assert_eq!((to_one, to_two), (1, 2));
}

#[test]
fn consumers_without_acknowledgements_ignore_prefetch() {
    let mut queue = Driven::new();
    let mut client = Client::new();
    queue.publish(1..=10);
    let consumer = client.consume(&mut queue, |new| {
        new.no_ack = true;
        new.prefetch = 1;
    });
    assert_eq!(client.delivered(consumer).len(), 10);
}

#[test]
fn a_channel_wide_limit_is_shared_by_the_consumers_of_several_queues() {
    let (mut one, mut two) = (Driven::new(), Driven::new());
    let mut client = Client::new();
    let limit = Arc::<ChannelLimit>::default();
    limit.set(3);
    one.publish(1..=2);
    two.publish(11..=15);
    let of_one = client.consume(&mut one, |new| new.limit = limit.clone());
    let taken = client.deliveries(of_one);
    let of_two = client.consume(&mut two, |new| new.limit = limit.clone());
    assert_eq!(client.delivered(of_two), [11], "the third and last place");

    // The connection frees the place, and is told that somebody has starved of it.
    one.turn(taken.iter().map(|delivery| ack(of_one, &delivery.segment)));
    limit.free(2);
    assert!(limit.take_starved());
    two.turn([QueueCommand::Wake]);
    assert_eq!(client.delivered(of_two), [12, 13]);
    assert!(!limit.take_starved(), "it is full again");
}

#[test]
fn a_channel_wide_limit_counts_single_messages_also_where_they_came_singly() {
    let mut queue = Driven::new();
    let mut client = Client::new();
    let limit = Arc::<ChannelLimit>::default();
    limit.set(4);
    for number in 1..=6 {
        queue.publish([number]);
    }
    let consumer = client.consume(&mut queue, |new| new.limit = limit.clone());
    assert_eq!(client.delivered(consumer), [1, 2, 3, 4]);
    limit.free(1);
    assert!(limit.take_starved());
    queue.turn([QueueCommand::Wake]);
    assert_eq!(client.delivered(consumer), [5]);
}

#[test]
fn a_consumer_without_acks_created_under_a_channel_wide_limit_waits_while_it_is_full() {
    let mut queue = Driven::new();
    let mut client = Client::new();
    let limit = Arc::<ChannelLimit>::default();
    limit.set(1);
    limit.add(1);
    let late = client.consume(&mut queue, |new| {
        new.no_ack = true;
        new.limit = limit.clone();
    });
    queue.publish(1..=3);
    client.hears_nothing();
    limit.free(1);
    assert!(limit.take_starved());
    queue.turn([QueueCommand::Wake]);
    assert_eq!(client.delivered(late), [1, 2, 3], "its own do not count");
}

#[test]
fn a_consumer_without_acks_older_than_the_channel_wide_limit_waits_too() {
    let mut queue = Driven::new();
    let mut client = Client::new();
    let limit = Arc::<ChannelLimit>::default();
    let early = client.consume(&mut queue, |new| {
        new.no_ack = true;
        new.limit = limit.clone();
    });
    limit.set(1);
    limit.add(1);
    queue.publish(1..=3);
    client.hears_nothing();
    limit.free(1);
    assert!(limit.take_starved());
    queue.turn([QueueCommand::Wake]);
    assert_eq!(client.delivered(early), [1, 2, 3]);
}

#[test]
fn messages_come_back_to_their_original_place_in_whatever_order() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let mut queue = Driven::new();
        let mut client = Client::new();
        queue.publish(1..=5);
        let consumer = client.consume(&mut queue, |new| new.prefetch = 3);
        let mut segment = client.delivery().segment;
        let mut singles = Vec::new();
        while segment.count() > 1 {
            singles.push(segment.split_front(1));
        }
        singles.push(segment);
        let cancel = QueueCommand::Cancel { consumer, then: None };
        let back = order.map(|i| requeue(consumer, singles[i].clone()));
        queue.turn([cancel].into_iter().chain(back));
        let again = client.consume(&mut queue, |_| {});
        let got: Vec<_> = client
            .deliveries(again)
            .iter()
            .flat_map(|d| {
                let seen = d.segment.redelivered;
                testing::numbers_of(&d.segment).into_iter().map(move |n| (n, seen))
            })
            .collect();
        let expected = [(1, true), (2, true), (3, true), (4, false), (5, false)];
        assert_eq!(got, expected, "requeued as {order:?}");
    }
}

#[test]
fn a_get_takes_the_head_and_says_how_many_are_left() {
    let mut queue = Driven::new();
    let mut client = Client::new();
    queue.publish(1..=3);
    let (segment, left) = client.get(&mut queue, false).unwrap();
    assert_eq!((testing::numbers_of(&segment), left), (vec![1], 2));
    assert!(!segment.redelivered);
    queue.turn([QueueCommand::Requeue { consumer: None, segment, seen: true }]);
    let (segment, left) = client.get(&mut queue, true).unwrap();
    assert_eq!((testing::numbers_of(&segment), left), (vec![1], 2));
    assert!(segment.redelivered);
    assert_eq!(client.counts(&mut queue), (2, 0));
    client.get(&mut queue, true).unwrap();
    client.get(&mut queue, true).unwrap();
    assert!(client.get(&mut queue, true).is_none());
}

#[test]
fn a_get_sees_the_publishes_of_its_own_turn_ahead_of_consumers() {
    let mut queue = Driven::new();
    let (mut getter, mut other) = (Client::new(), Client::new());
    let consumer = other.consume(&mut queue, |_| {});
    let get = QueueCommand::Get { from: getter.from.clone(), no_ack: true };
    queue.turn([publish([1, 2], false), get]);
    assert_eq!(say(&getter.reply()), "got [1]");
    assert_eq!(other.delivered(consumer), [2]);
}

#[test]
fn more_than_the_transport_window_is_not_handed_over_until_the_connection_has_sent_half_of_it() {
    let mut queue = Driven::new();
    let mut client = Client::new();
    let window = Arc::<Window>::default();
    let consumer = client.consume(&mut queue, |new| {
        new.no_ack = true;
        new.window = window.clone();
    });
    queue.publish(1..=2000);
    assert_eq!(client.delivered(consumer).len(), Window::MESSAGES as usize);
    let bytes = 8;
    assert!(!window.drain(511, 511 * bytes), "less than half is not worth a turn");
    assert!(window.drain(1, bytes), "now it is");
    queue.turn([QueueCommand::Wake]);
    let next = client.delivered(consumer);
    assert_eq!((next[0], next.len()), (1025, 512));
    assert!(!window.drain(100, 100 * bytes), "it has just been woken");
    assert!(window.drain(924, 924 * bytes), "it has starved again");
}

#[test]
fn a_transport_window_full_of_bytes_takes_no_further_message() {
    let mut queue = Driven::new();
    let mut client = Client::new();
    let window = Arc::<Window>::default();
    let consumer = client.consume(&mut queue, |new| new.window = window.clone());
    let large = |count: usize| QueueCommand::Publish {
        run: testing::run_of((0..count).map(|_| vec![0; 600 << 10])),
        persistent: false,
        expiration: None,
        confirm: None,
    };
    queue.turn([large(1)]);
    queue.turn([large(1)]);
    queue.turn([large(1)]);
    assert_eq!(client.deliveries(consumer).len(), 2, "one may pass the limit");
    assert!(window.drain(2, 2 * (600 << 10)));
    queue.turn([QueueCommand::Wake]);
    assert_eq!(client.deliveries(consumer).len(), 1);
}

#[test]
fn room_that_is_made_while_the_queue_starves_is_not_overlooked() {
    // The connection drains just before the queue says that it starves: nobody is woken, so the queue looks again.
    let window = Window::default();
    window.fill(Window::MESSAGES, 1);
    assert_eq!(window.room(), 0);
    assert!(!window.drain(Window::MESSAGES, 1), "nobody had starved yet");
    window.starve();
    assert!(window.room() > 0);
}

#[test]
fn an_exclusive_consumer_keeps_others_from_consuming_but_not_from_getting() {
    let mut queue = Driven::new();
    let (mut owner, mut other) = (Client::new(), Client::new());
    let consumer = owner.consume(&mut queue, |new| {
        new.exclusive = true;
        new.prefetch = 1;
    });
    let refused = "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use";
    let new = testing::consumer(&other.from);
    queue.turn([QueueCommand::Consume(Box::new(new))]);
    other.refused(refused);
    queue.publish([1, 2]);
    assert_eq!(owner.delivered(consumer), [1]);
    assert!(other.get(&mut queue, true).is_some());

    queue.turn([QueueCommand::Cancel { consumer, then: None }]);
    other.consume(&mut queue, |_| {});
    let new = NewConsumer { exclusive: true, ..testing::consumer(&owner.from) };
    queue.turn([QueueCommand::Consume(Box::new(new))]);
    owner.refused(refused);
}

#[test]
fn a_cancelled_consumer_gets_nothing_more_and_keeps_what_it_has() {
    let mut queue = Driven::new();
    let mut client = Client::new();
    queue.publish([1]);
    let consumer = client.consume(&mut queue, |_| {});
    let held = client.delivery().segment;
    let then = Some((client.from.clone(), Reply::Done));
    queue.turn([QueueCommand::Cancel { consumer, then }]);
    assert_eq!(say(&client.reply()), "done");
    queue.publish([2]);
    client.hears_nothing();
    assert_eq!(client.counts(&mut queue), (1, 0), "1 is not requeued");
    queue.turn([ack(consumer, &held)]);
    assert_eq!(client.counts(&mut queue), (1, 0));
}

#[test]
fn a_late_ack_of_a_cancelled_consumer_makes_no_room_for_the_one_in_its_place() {
    let mut queue = Driven::new();
    let mut client = Client::new();
    queue.publish(1..=3);
    let old = client.consume(&mut queue, |new| new.prefetch = 1);
    let held = client.delivery().segment;
    queue.turn([QueueCommand::Cancel { consumer: old, then: None }]);
    let new = client.consume(&mut queue, |new| new.prefetch = 1);
    assert_eq!(client.delivered(new), [2]);
    queue.turn([ack(old, &held)]);
    client.hears_nothing();
}

#[test]
fn what_was_meant_for_a_connection_that_is_gone_goes_to_another_consumer() {
    let mut queue = Driven::new();
    let (mut gone, mut alive) = (Client::new(), Client::new());
    gone.consume(&mut queue, |_| {});
    let consumer = alive.consume(&mut queue, |_| {});
    gone.peer.mailbox.close();
    queue.publish(1..=4);
    let deliveries = alive.deliveries(consumer);
    let mut numbers: Vec<_> = deliveries.iter().flat_map(|d| testing::numbers_of(&d.segment)).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2, 3, 4]);
    assert!(deliveries.iter().all(|d| !d.segment.redelivered), "nobody has seen them before");
    assert_eq!(alive.counts(&mut queue), (0, 1), "the other one is no consumer any more");
}

#[test]
fn a_get_whose_connection_is_gone_takes_nothing_away() {
    let mut queue = Driven::new();
    let (gone, mut alive) = (Client::new(), Client::new());
    queue.publish([1, 2]);
    gone.peer.mailbox.close();
    queue.turn([QueueCommand::Get { from: gone.from.clone(), no_ack: false }]);
    let (segment, left) = alive.get(&mut queue, true).unwrap();
    assert_eq!((testing::numbers_of(&segment), left), (vec![1], 1));
}

#[test]
fn without_acknowledgements_a_message_is_done_when_it_is_handed_over_even_to_a_connection_that_is_gone() {
    let mut queue = Driven::new();
    let (mut gone, mut alive) = (Client::new(), Client::new());
    gone.consume(&mut queue, |new| new.no_ack = true);
    gone.peer.mailbox.close();
    // Two blocks, so two deliveries: what holds for the first one holds for the second.
    queue.turn([publish([1], true), publish([2], true)]);
    assert_eq!(alive.counts(&mut queue), (0, 0));
    assert_eq!(queue.stored(), ["insert 1+1", "insert 2+1", "remove 1+1", "remove 2+1"]);
}
