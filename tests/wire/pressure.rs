//! Peers that are too slow, too fast, too many or gone: memory stays bounded and the others go on.
//!
//! Each test runs a broker of its own, in memory, and looks at its resident memory; they pass without a word against a
//! given broker, whose memory can't be seen from here.

use amq_protocol::protocol::{AMQPClass, basic, channel, connection};
use leveret_suite::peer::{Heard, kind};
use leveret_suite::{Content, Frame, Method, Peer, Server, say};
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// KiB in a MiB.
const MIB: u64 = 1024;
/// A message's body in these tests.
const BODY: usize = 10_000;
/// How long something may take on a busy machine before a test calls it stuck.
const STUCK: Duration = Duration::from_secs(60);

/// A broker of one's own in memory; None when the tests run against a given one.
fn broker(arguments: &[&str]) -> Option<Server> {
    if Server::is_given() {
        return None;
    }
    Some(Server::start_with(&[&["--storage", "memory"], arguments].concat()))
}

/// The frames of one publish whose body begins with its number.
fn publish_octets(exchange: &str, key: &str, number: u64) -> Vec<u8> {
    let mut body = vec![b'.'; BODY];
    body[..8].copy_from_slice(&number.to_be_bytes());
    let content = Content::new(body);
    let mut octets = Frame::new(kind::METHOD, 1, say::publish(exchange, key).payload()).octets();
    octets.extend(Frame::new(kind::HEADER, 1, content.header()).octets());
    octets.extend(Frame::new(kind::BODY, 1, content.body).octets());
    octets
}

/// The number that a body begins with.
fn number(content: &Content) -> u64 {
    u64::from_be_bytes(content.body[..8].try_into().expect("a body of more than eight octets"))
}

/// Publishes `count` messages, holding at most a few in hand, and waits until the broker has read them all.
fn publish_many(peer: &mut Peer, exchange: &str, key: &str, count: u64) {
    for number in 0..count {
        peer.stream().write_all(&publish_octets(exchange, key, number)).expect("the broker takes what is sent");
    }
    peer.in_step(1);
}

#[test]
fn a_consumer_that_stops_reading_holds_up_nobody_and_gets_everything_later() {
    let Some(broker) = broker(&[]) else { return };
    let mut lazy = broker.peer();
    let mut keen = broker.peer();
    let mut publisher = broker.peer();
    for (peer, name) in [(&mut lazy, "lazy"), (&mut keen, "keen")] {
        peer.ask::<amq_protocol::protocol::queue::DeclareOk>(1, say::declare(name));
        peer.bind(1, name, "amq.fanout", "");
        peer.consume_with(1, name, "c", |consume| consume.no_ack = true);
    }
    let before = broker.resident_kib();
    // 100 MB, of which the sockets between the two hold a few at most.
    let count = 10_000;
    let publishing = std::thread::spawn(move || {
        publish_many(&mut publisher, "amq.fanout", "", count);
        publisher
    });
    for expected in 0..count {
        let delivery = keen.expect_delivery(1);
        assert_eq!(number(&delivery.content), expected, "the keen consumer hears everything in order");
    }
    let mut publisher = publishing.join().expect("the publisher was never stuck");
    // What waits for the lazy one is kept once, in its queue, and not a second time for its socket.
    let grown = broker.resident_kib().saturating_sub(before);
    assert!(grown < 220 * MIB, "100 MB wait for a consumer; memory has grown by {} MiB", grown / MIB);
    let ready = publisher.counts(1, "lazy").0;
    assert!(ready > 5_000, "most of it waits in the queue, where others could take it: {ready} are ready");
    for expected in 0..count {
        let delivery = lazy.expect_delivery(1);
        assert_eq!(number(&delivery.content), expected, "the lazy consumer gets everything in order");
    }
}

#[test]
fn a_peer_that_never_reads_its_replies_is_not_served_without_end() {
    let Some(broker) = broker(&[]) else { return };
    let deaf = broker.peer();
    let mut other = broker.peer();
    let name = "q";
    other.ask::<amq_protocol::protocol::queue::DeclareOk>(1, say::declare(name));
    publish_many(&mut other, "", name, 1);
    let before = broker.resident_kib();
    // Every get is answered with 10 kB, and nack puts the message back: gigabytes of replies, if nothing stopped it.
    let mut request = Frame::new(kind::METHOD, 1, say::get(name).payload()).octets();
    request.extend(Frame::new(kind::METHOD, 1, say::nack_until(0, true).payload()).octets());
    let requests = request.repeat(1_000);
    deaf.stream().set_write_timeout(Some(Duration::from_secs(2))).expect("a write timeout");
    for _ in 0..200 {
        if deaf.stream().write_all(&requests).is_err() {
            break;
        }
    }
    let grown = broker.resident_kib().saturating_sub(before);
    assert!(grown < 150 * MIB, "2 GB of replies were asked for and none read; memory has grown by {} MiB", grown / MIB);
    other.in_step(1);
    drop(deaf);
    // The message comes back with the end of its connection.
    other.consume(1, name, "c");
    other.expect_delivery(1);
}

#[test]
fn a_publisher_faster_than_every_consumer_is_blocked_and_consumers_go_on() {
    let limit = 64 * MIB;
    let Some(broker) = broker(&["--memory-limit", "64MiB"]) else {
        return;
    };
    let mut publisher = broker.peer();
    let mut consumer = broker.peer();
    consumer.ask::<amq_protocol::protocol::queue::DeclareOk>(1, say::declare("q"));
    let before = broker.resident_kib();
    // 300 MB against a limit of 64 MiB.
    let count: u64 = 30_000;
    let sent = AtomicU64::new(0);
    let mut socket = publisher.stream().try_clone().expect("a second handle of the socket");
    socket.set_write_timeout(Some(STUCK)).expect("a write timeout");
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for number in 0..count {
                socket.write_all(&publish_octets("", "q", number)).expect("the broker goes on reading in the end");
                sent.store(number + 1, Ordering::Relaxed);
            }
        });
        // Nobody consumes: the limit is reached, the publisher is told, and what it still sends stays in its socket.
        let blocked: connection::Blocked = publisher.expect(0);
        assert_eq!(blocked.reason.as_str(), "low on memory");
        let stopped_at = wait_until_still(&sent);
        assert!(stopped_at < count, "the publisher was never stopped");
        let grown = broker.resident_kib().saturating_sub(before);
        assert!(grown < 3 * limit, "limit 64 MiB, memory has grown by {} MiB", grown / MIB);
        // Others publish no more, but may do all else; a consumer makes room.
        consumer.qos(1, 100, false);
        consumer.consume(1, "q", "c");
        let mut highest = 0;
        for expected in 0..count {
            let delivery = consumer.expect_delivery(1);
            assert_eq!(number(&delivery.content), expected, "nothing is lost or out of order");
            consumer.send(1, say::ack(delivery.delivery_tag));
            if expected % 1000 == 0 {
                highest = highest.max(broker.resident_kib());
            }
        }
        writer.join().expect("the publisher gets through");
        let grown = highest.saturating_sub(before);
        assert!(grown < 3 * limit, "limit 64 MiB, memory has grown by {} MiB", grown / MIB);
        // Each blocked is followed by its unblocked, and the last word is that the way is free.
        publisher.expect::<connection::Unblocked>(0);
        while let Heard::Frame(frame) = publisher.hear(Duration::from_millis(300)) {
            assert_eq!(frame.payload[..4], [0, 10, 0, 60], "a further blocked: {frame:?}");
            publisher.expect::<connection::Unblocked>(0);
        }
        publisher.in_step(1);
    });
}

/// Waits until a counter no longer moves, and returns where it stands.
fn wait_until_still(counter: &AtomicU64) -> u64 {
    let start = Instant::now();
    let mut last = counter.load(Ordering::Relaxed);
    loop {
        // The silence of the counter is what is looked for: it can't be waited for otherwise.
        std::thread::sleep(Duration::from_millis(500));
        let now = counter.load(Ordering::Relaxed);
        if now == last {
            return now;
        }
        assert!(start.elapsed() < STUCK, "the publisher goes on and on");
        last = now;
    }
}

#[test]
fn a_client_that_does_not_know_blocked_is_only_held_up() {
    let Some(broker) = broker(&["--memory-limit", "32MiB"]) else {
        return;
    };
    let login = leveret_suite::Login { capabilities: &[], ..Default::default() };
    let mut publisher = broker.peer_with(&login);
    publisher.open_channel(1);
    let mut consumer = broker.peer();
    consumer.ask::<amq_protocol::protocol::queue::DeclareOk>(1, say::declare("q"));
    let count: u64 = 10_000;
    let mut socket = publisher.stream().try_clone().expect("a second handle of the socket");
    socket.set_write_timeout(Some(STUCK)).expect("a write timeout");
    let sent = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for number in 0..count {
                socket.write_all(&publish_octets("", "q", number)).expect("the broker goes on reading in the end");
                sent.store(number + 1, Ordering::Relaxed);
            }
        });
        assert!(wait_until_still(&sent) < count, "the publisher was never stopped");
        consumer.consume_with(1, "q", "c", |consume| consume.no_ack = true);
        for expected in 0..count {
            assert_eq!(number(&consumer.expect_delivery(1).content), expected);
        }
        writer.join().expect("the publisher gets through");
    });
    publisher.in_step(1);
}

#[test]
fn a_thousand_idle_connections_cost_little_and_disturb_nobody() {
    let Some(broker) = broker(&[]) else { return };
    let mut worker = broker.peer();
    let queue = worker.queue(1, "worker");
    let before = broker.resident_kib();
    let mut idle: Vec<Peer> = (0..1000).map(|_| broker.peer()).collect();
    let grown = broker.resident_kib().saturating_sub(before);
    assert!(grown < 100 * MIB, "1,000 idle connections cost {} MiB", grown / MIB);
    worker.publish(1, "", &queue, "still served");
    worker.take(1, &queue, "still served");
    for peer in idle.iter_mut().step_by(100) {
        peer.in_step(1);
    }
    drop(idle);
    worker.in_step(1);
}

#[test]
fn a_connection_that_vanishes_gives_back_thousands_in_order() {
    let Some(broker) = broker(&[]) else { return };
    let mut vanishing = broker.peer();
    let mut heir = broker.peer();
    let queue = heir.queue(1, "inherited");
    let count = 5_000;
    publish_many(&mut heir, "", &queue, count);
    vanishing.consume(1, &queue, "c");
    for expected in 0..count {
        assert_eq!(number(&vanishing.expect_delivery(1).content), expected);
    }
    heir.consume(1, &queue, "c");
    drop(vanishing);
    for expected in 0..count {
        let delivery = heir.expect_delivery(1);
        assert_eq!(number(&delivery.content), expected, "back in its old place");
        assert!(delivery.redelivered, "{expected} was given to somebody before");
    }
    heir.send(1, say::ack_until(0));
    heir.close_channel(1);
    heir.open_channel(1);
    heir.expect_counts(1, &queue, (0, 0));
}

#[test]
fn memory_that_was_used_is_used_again() {
    let Some(broker) = broker(&[]) else { return };
    let mut peer = broker.peer();
    let queue = peer.queue(1, "again");
    let mut after_round = BTreeMap::new();
    for round in 0..6 {
        publish_many(&mut peer, "", &queue, 2_000);
        peer.consume(1, &queue, "c");
        for expected in 0..2_000 {
            assert_eq!(number(&peer.expect_delivery(1).content), expected);
        }
        peer.send(1, say::ack_until(0));
        peer.ask::<basic::CancelOk>(1, say::cancel("c"));
        after_round.insert(round, broker.resident_kib());
    }
    let grown = after_round[&5].saturating_sub(after_round[&1]);
    assert!(grown < 40 * MIB, "80 MB went through after the second round, {} MiB stayed", grown / MIB);
}

#[test]
fn a_silent_peer_with_half_a_frame_does_no_harm() {
    let Some(broker) = broker(&[]) else { return };
    let before = broker.resident_kib();
    let mut halves: Vec<Peer> = (0..200).map(|_| broker.peer()).collect();
    for peer in &mut halves {
        // The header of a body of 512 MiB, and nothing of it.
        peer.send(1, say::publish("", "q"));
        let header = leveret_suite::Octets::header(536_870_912, 0);
        peer.send_frame(Frame::new(kind::HEADER, 1, header));
        peer.send_octets([kind::BODY, 0, 1, 0, 1]);
    }
    broker.peer().close();
    let grown = broker.resident_kib().saturating_sub(before);
    assert!(grown < 50 * MIB, "200 announced bodies cost {} MiB", grown / MIB);
}

#[test]
fn a_connection_opened_during_an_alarm_is_blocked_when_it_publishes_and_may_do_all_else() {
    if Server::is_given() {
        return;
    }
    let data = tempfile::tempdir().expect("a directory for the broker's data");
    let path = data.path().to_str().expect("a path in UTF-8");
    // More than any disk has: the alarm is raised from the start.
    let broker = Server::start_with(&["--data-dir", path, "--disk-free-limit", "1000TB"]);
    broker.log_until("little disk is free");
    let mut peer = broker.peer();
    peer.ask::<amq_protocol::protocol::queue::DeclareOk>(1, say::declare("q"));
    peer.consume(1, "q", "c");
    peer.in_step(1);
    peer.publish(1, "", "q", b"held up");
    let blocked: connection::Blocked = peer.expect(0);
    assert_eq!(blocked.reason.as_str(), "low on disk");
    // Nothing that follows on this connection is read; another one is served as long as it does not publish.
    broker.peer().in_step(1);
}

#[test]
fn one_connections_messages_that_are_begun_and_not_ended_take_half_of_the_memory_limit() {
    const BEGUN: usize = 4 << 20;
    let Some(broker) = broker(&["--memory-limit", "64MB"]) else { return };
    let before = broker.resident_kib();
    let mut peer = broker.peer();
    let body = vec![b'.'; 100_000];
    // 160 MiB in all.
    for number in 1..=40 {
        if number > 1 {
            peer.send(number, channel::Open::default());
        }
        peer.send(number, say::publish("amq.fanout", ""));
        peer.send_frame(Frame::new(kind::HEADER, number, Content::new(vec![0; 2 * BEGUN]).header()));
        for _ in 0..BEGUN / body.len() {
            peer.stream().write_all(&Frame::new(kind::BODY, number, &body).octets()).expect("the broker reads on");
        }
    }
    let text = "PRECONDITION_FAILED - messages that have not come whole exceed half of the memory limit";
    let mut closed = 0;
    while closed < 20 {
        if let Some(AMQPClass::Channel(channel::AMQPMethod::Close(close))) = peer.frame().method() {
            assert_eq!((close.reply_code, close.reply_text.as_str()), (406, text));
            closed += 1;
        }
    }
    let grown = broker.resident_kib() - before;
    assert!(grown < 64 * MIB + 32 * MIB, "{grown} KiB");
    // Others are not concerned.
    let mut other = broker.peer();
    let queue = other.queue(1, "large");
    other.publish_content(1, say::publish("", &queue), &Content::new(vec![b'x'; 8 << 20]));
    other.wait_for_count(1, &queue, 1);
}
