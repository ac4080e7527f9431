//! What a backlog took of memory goes back to the system some seconds after it is gone, however it went.

use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use amq_protocol::protocol::queue;
use leveret_suite::bulk::{publish_frames, publish_many};
use leveret_suite::peer::Login;
use leveret_suite::{Content, Peer, Server, say};

/// KiB that the broker takes at least while the backlog is there, or the test says nothing.
const BACKLOG: u64 = 80 << 10;
/// KiB that it takes at most afterwards.
const REST: u64 = 40 << 10;
/// How long it may take, with room for a busy machine: its looks alone take five seconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// Messages of 1 KiB, many in a block: a quarter of a gigabyte.
const LARGE: usize = 250_000;
/// Messages that are published each alone, so that each has a block of its own, and by how many connections.
const LONE: usize = 200_000;
const PUBLISHERS: usize = 60;
const LONE_BODY: usize = 400;

struct Bench {
    server: Server,
    peer: Peer,
    queue: String,
}

impl Bench {
    fn start() -> Bench {
        let server = Server::start_with(&["--storage", "memory"]);
        let mut peer = server.peer();
        let queue = peer.queue(1, "backlog");
        Bench { server, peer, queue }
    }

    fn fill(&mut self) {
        publish_many(&self.peer, 1, &[&self.queue], &Content::new([b'x'; 1024]), LARGE);
        self.expect_backlog(LARGE);
    }

    /// One message from each of many connections in turn: none brings two at once, as a rule.
    fn fill_singly(&mut self) {
        let publish = publish_frames(1, &self.queue, &Content::new([b'x'; LONE_BODY]));
        let publishers: Vec<_> = (0..PUBLISHERS).map(|_| self.server.peer()).collect();
        for number in 0..LONE {
            let mut stream = publishers[number % PUBLISHERS].stream();
            stream.write_all(&publish).expect("the broker takes what is published");
        }
        // Each of them in step: what it has published is there.
        publishers.into_iter().for_each(|mut publisher| publisher.in_step(1));
        self.expect_backlog(LONE);
    }

    fn expect_backlog(&mut self, messages: usize) {
        self.peer.expect_counts(1, &self.queue, (messages as u32, 0));
        let resident = self.server.resident_kib();
        assert!(resident > BACKLOG, "{resident} KiB with the backlog");
    }

    /// Consumes without acks until nothing is left.
    fn drain(&mut self) {
        let mut consumer = self.server.peer_with(&Login::default());
        consumer.open_channel(1);
        consumer.consume_with(1, &self.queue, "c", |consume| consume.no_ack = true);
        let mut stream = consumer.stream().try_clone().expect("a further handle of the socket");
        let reading = thread::spawn(move || {
            let mut octets = vec![0; 1 << 20];
            while stream.read(&mut octets).is_ok_and(|count| count > 0) {}
        });
        let start = Instant::now();
        while self.peer.counts(1, &self.queue) != (0, 1) {
            assert!(start.elapsed() < PATIENCE, "the queue is not drained");
            thread::sleep(Duration::from_millis(20));
        }
        consumer.stream().shutdown(std::net::Shutdown::Both).expect("an open socket");
        reading.join().expect("the reader ends with its socket");
    }

    fn delete(&mut self) {
        self.peer.ask::<queue::DeleteOk>(1, say::delete(&self.queue));
    }

    #[track_caller]
    fn expect_memory_back(&self) {
        let start = Instant::now();
        loop {
            let resident = self.server.resident_kib();
            if resident < REST {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "still {resident} KiB after {PATIENCE:?}");
            thread::sleep(Duration::from_millis(100));
        }
    }
}

#[test]
fn of_a_backlog_that_was_drained() {
    let mut bench = Bench::start();
    bench.fill();
    bench.drain();
    bench.expect_memory_back();
}

#[test]
fn of_a_queue_that_was_deleted() {
    let mut bench = Bench::start();
    bench.fill();
    bench.delete();
    bench.expect_memory_back();
}

#[test]
fn of_messages_that_came_each_alone_and_were_drained() {
    let mut bench = Bench::start();
    bench.fill_singly();
    bench.drain();
    bench.expect_memory_back();
}

#[test]
fn of_messages_that_came_each_alone_in_a_queue_that_was_deleted() {
    let mut bench = Bench::start();
    bench.fill_singly();
    bench.delete();
    bench.expect_memory_back();
}
