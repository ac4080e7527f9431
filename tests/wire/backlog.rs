//! More messages than memory holds: all of them are accepted, stay over a kill and come in their order, while the broker
//! stays small.
//!
//! Each test runs a broker of its own and looks at its memory; they pass without a word against a given broker.

use amq_protocol::protocol::{exchange, queue};
use leveret_suite::values::{declare_durable_with, table, text};
use leveret_suite::{Content, Octets, Peer, Server, say};
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
        let mut peer = self.server.peer();
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
