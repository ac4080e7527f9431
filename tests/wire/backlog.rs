//! More messages than memory holds: all of them are accepted, stay over a kill and come in their order, while the broker
//! stays small.
//!
//! Each test runs a broker of its own and looks at its memory; they pass without a word against a given broker.

use amq_protocol::protocol::{exchange, queue};
use leveret_suite::values::{declare_durable_with, int, table, text};
use leveret_suite::{Content, Login, Octets, Peer, Server, say};
use tempfile::TempDir;

/// What the broker may use for messages.
const LIMIT: &str = "20MB";
/// Bytes of a body, and how many: five times that.
const BODY: usize = 10_000;
const COUNT: usize = 10_000;
/// What all of the broker may take in KiB: the limit, and 60 MB for all else.
const RESIDENT: u64 = 80_000_000 / 1024;

struct Small {
    server: Server,
    _directory: TempDir,
}

impl Small {
    /// None when the tests run against a given broker.
    fn start() -> Option<Small> {
        if Server::is_given() {
            return None;
        }
        let directory = tempfile::tempdir().expect("a directory for the broker's data");
        let path = directory.path().to_str().expect("a path in UTF-8");
        let server = Server::start_with(&["--data-dir", path, "--memory-limit", LIMIT]);
        Some(Small { server, _directory: directory })
    }

    /// Publishes all messages and waits for their confirms; `properties` are those of the message with that number,
    /// beside a delivery mode of 2.
    fn fill(&self, exchange: &str, key: &str, (flags, properties): (u16, impl Fn(usize) -> Octets)) {
        // Where the disk is slow it is held up now and then, and need not hear of that.
        let mut peer = self.server.peer_with(&Login { capabilities: &[], ..Login::default() });
        peer.open_channel(1);
        peer.select_confirms(1);
        for number in 0..COUNT {
            let body = format!("{number:0BODY$}");
            peer.publish_content(1, say::publish(exchange, key), &Content::with(flags, properties(number), body));
            if number % 1000 == 0 {
                self.stays_small();
            }
        }
        peer.expect_confirms(1, COUNT as u64);
        self.stays_small();
    }

    #[track_caller]
    fn stays_small(&self) {
        let resident = self.server.resident_kib();
        assert!(resident < RESIDENT, "{resident} KiB");
    }

    fn kill(&mut self) -> Peer {
        self.server.kill9();
        self.server.restart();
        self.server.peer()
    }

    /// The numbers of this many messages, as they come.
    fn consume(&self, peer: &mut Peer, queue: &str, count: usize) -> Vec<usize> {
        peer.consume_with(1, queue, "c", |consume| consume.no_ack = true);
        let mut numbers = Vec::new();
        for place in 0..count {
            numbers.push(peer.expect_delivery(1).text().parse().expect("a number"));
            if place % 1000 == 0 {
                self.stays_small();
            }
        }
        numbers
    }
}

const HEADERS: u16 = 1 << 13;
const DELIVERY_MODE: u16 = 1 << 12;
const PRIORITY: u16 = 1 << 11;

#[test]
fn delayed_messages_beyond_memory_come_once_each_when_they_are_due() {
    let Some(mut broker) = Small::start() else { return };
    let mut peer = broker.server.peer();
    let declare = say::exchange_with("delayed", "x-delayed-message", |declare| {
        declare.durable = true;
        declare.arguments = table(&[("x-delayed-type", text("fanout"))]);
    });
    peer.ask::<exchange::DeclareOk>(1, declare);
    peer.ask::<queue::DeclareOk>(1, declare_durable_with("due", &[]));
    peer.bind(1, "due", "delayed", "");
    // Every other one later than its neighbours; not before all are published, on a machine that is not very busy.
    let delay = |number: usize| 12_000 + 5_000 * (number % 2) as i32;
    let headers = |number| Octets::new().entry("x-delay", b'I', delay(number).to_be_bytes());
    let properties = |number| Octets::new().longstr(headers(number)).u8(2);
    broker.fill("delayed", "", (HEADERS | DELIVERY_MODE, properties));
    let in_time = peer.counts(1, "due").0 == 0;
    let mut peer = broker.kill();
    broker.server.log_until("recovered 10000 delayed messages");
    let mut last = [None, None];
    for number in broker.consume(&mut peer, "due", COUNT) {
        let class = number % 2;
        assert!(!in_time || last[class] < Some(number), "{number} after {:?}", last[class]);
        last[class] = Some(number);
    }
    if in_time {
        peer.expect_no_delivery(1, "due");
    }
}

#[test]
fn a_queue_with_priorities_beyond_memory_gives_the_highest_first_over_a_kill() {
    let Some(mut broker) = Small::start() else { return };
    let mut peer = broker.server.peer();
    peer.ask::<queue::DeclareOk>(1, declare_durable_with("ranked", &[("x-max-priority", int(4))]));
    let rank = |number: usize| (number * 7 % 6) as u8;
    broker.fill("", "ranked", (DELIVERY_MODE | PRIORITY, |number| Octets::new().u8(2).u8(rank(number))));
    let mut peer = broker.kill();
    broker.stays_small();
    peer.expect_counts(1, "ranked", (COUNT as u32, 0));
    let mut expected: Vec<usize> = (0..COUNT).collect();
    expected.sort_by_key(|number| std::cmp::Reverse(rank(*number).min(4)));
    assert_eq!(broker.consume(&mut peer, "ranked", COUNT), expected);
}

#[test]
fn a_queue_limited_in_bytes_beyond_memory_keeps_exactly_what_fits_over_a_kill() {
    let Some(mut broker) = Small::start() else { return };
    let mut peer = broker.server.peer();
    let kept = COUNT * 3 / 4;
    let limit = [("x-max-length-bytes", int((kept * BODY) as i32))];
    peer.ask::<queue::DeclareOk>(1, declare_durable_with("limited", &limit));
    broker.fill("", "limited", (DELIVERY_MODE, |_| Octets::new().u8(2)));
    peer.wait_for_count(1, "limited", kept as u32);
    let mut peer = broker.kill();
    broker.stays_small();
    peer.expect_counts(1, "limited", (kept as u32, 0));
    peer.publish_content(1, say::publish("", "limited"), &Content::new([b'0'; BODY]));
    peer.publish_content(1, say::publish("", "limited"), &Content::new([b'0'; BODY]));
    let mut expected: Vec<usize> = (COUNT - kept + 2..COUNT).collect();
    expected.extend([0, 0]);
    peer.wait_for_count(1, "limited", kept as u32);
    assert_eq!(broker.consume(&mut peer, "limited", kept), expected);
}
