//! Settings that change while the queue lives, as policies do.

use super::*;
use crate::clock::Moment;
use crate::queue::arguments::{Overflow, Settings};

fn configure(settings: Settings) -> QueueCommand {
    QueueCommand::Configure(Box::new(settings))
}

/// Ready messages, as a declaration would say.
fn ready(queue: &mut Driven) -> u64 {
    queue.state.ready.len()
}

#[test]
fn a_new_length_limit_drops_the_surplus_at_once() {
    let mut queue = Driven::new();
    queue.turn([publish(1..=5, true)]);
    queue.stored();
    queue.turn([configure(Settings { max_length: Some(2), ..Settings::default() })]);
    assert_eq!(ready(&mut queue), 2);
    assert_eq!(queue.stored(), ["remove 1+3"]);
}

#[test]
fn a_new_limit_in_bytes_counts_the_messages_that_are_there() {
    let mut queue = Driven::new();
    queue.publish(1..=5);
    let counted = {
        queue.state.ready.count_bytes(true);
        queue.state.ready.bytes()
    };
    queue.state.ready.count_bytes(false);
    queue.turn([configure(Settings { max_bytes: Some(counted), ..Settings::default() })]);
    assert_eq!(ready(&mut queue), 5);
    queue.publish([6]);
    assert_eq!(queue.state.ready.bytes(), counted);
    queue.turn([configure(Settings::default())]);
    assert_eq!(queue.state.ready.bytes(), 0, "nobody needs the count any more");
}

#[test]
fn a_limit_that_is_removed_limits_no_longer() {
    let mut queue = Driven::with(|origin| origin.settings.max_length = Some(1));
    queue.publish(1..=3);
    assert_eq!(ready(&mut queue), 1);
    queue.turn([configure(Settings::default())]);
    queue.publish(4..=6);
    assert_eq!(ready(&mut queue), 4);
}

#[test]
fn a_new_time_to_live_is_for_messages_that_arrive_from_now_on() {
    let mut queue = Driven::new();
    queue.publish([1]);
    queue.turn([configure(Settings { message_ttl: Some(0), ..Settings::default() })]);
    assert_eq!(ready(&mut queue), 1, "the one that was there has no deadline");
    queue.turn([configure(Settings { message_ttl: Some(1000), ..Settings::default() })]);
    queue.publish([2]);
    let deadlines: Vec<u64> = queue.state.ready.iter_mut().map(|segment| segment.expires).collect();
    assert_eq!(deadlines, [Segment::NEVER, NOW + 1000]);
}

#[test]
fn a_new_lease_begins_when_it_is_set() {
    let mut queue = Driven::new();
    queue.state.apply(
        configure(Settings { expires: Some(500), ..Settings::default() }),
        &Moment::of(&testing::Fixed(NOW + 10_000)),
        &mut queue.effects,
    );
    assert_eq!(queue.state.lease_ends(), Some(NOW + 10_500));
    // Something else changes: the lease runs on.
    let settings = Settings { expires: Some(500), max_length: Some(1), ..Settings::default() };
    queue.state.apply(configure(settings), &Moment::of(&testing::Fixed(NOW + 10_300)), &mut queue.effects);
    assert_eq!(queue.state.lease_ends(), Some(NOW + 10_500));
}

#[test]
fn a_queue_that_is_made_to_refuse_answers_every_publish_that_wants_a_confirm() {
    let queue = testing::queue("q", false, &testing::store());
    assert!(!queue.answers(false));
    let refusing = Settings { overflow: Overflow::RejectPublish, max_length: Some(1), ..Settings::default() };
    queue.may_refuse(&refusing);
    assert!(queue.answers(false), "before the queue itself has heard of it");
    queue.push(configure(refusing));
    assert!(queue.answers(false));
    let mild = Settings::default();
    queue.may_refuse(&mild);
    assert!(queue.answers(false), "until the queue itself has heard of it");
    queue.push(configure(mild));
    assert!(!queue.answers(false));
}

#[test]
fn a_publish_that_is_under_way_is_answered_when_the_queue_no_longer_refuses() {
    let mut queue = Driven::with(|origin| {
        origin.durable = false;
        origin.settings.overflow = Overflow::RejectPublish;
        origin.settings.max_length = Some(0);
    });
    let mut client = Client::new();
    let publish = publish_confirmed([1], false, &client.from, 1);
    queue.turn([configure(Settings::default()), publish]);
    assert!(matches!(client.next(), Some(ConnectionEvent::Confirm { first: 1, count: 1, refused: false, .. })));
}

#[test]
fn after_a_restart_a_message_has_the_deadline_of_the_time_to_live_that_held_when_it_came() {
    let mut queue = Driven::new();
    queue.turn([publish([1], true)]);
    queue.stored();
    queue.turn([configure(Settings { message_ttl: Some(1000), ..Settings::default() })]);
    let stored = queue.stored.pop().expect("the change is stored");
    let Entry::Op(Op::PutDefinition { value, .. }) = stored else { panic!("{}", word(&stored)) };
    let lifetimes = crate::queue::lifetimes::Lifetimes::read(&value).expect("what was stored");
    let again = |sequence: u64| Segment {
        persistent: true,
        expires: Segment::UNDATED,
        ..Segment::new(sequence, testing::run([sequence]))
    };
    let mut queue = Driven::with(|origin| {
        origin.settings.message_ttl = Some(1000);
        origin.lifetimes = lifetimes;
        origin.messages = Box::new([again(1), again(2)].into_iter());
        origin.next_sequence = 3;
    });
    let deadlines: Vec<u64> = queue.state.ready.iter_mut().map(|segment| segment.expires).collect();
    assert_eq!(deadlines, [Segment::NEVER, 1000], "published at 0");
}
