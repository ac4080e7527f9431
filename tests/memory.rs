//! What a million small messages take of memory, seen from outside: the broker's resident memory with them, less what
//! it was without, less their bodies.

use leveret_suite::bulk::publish_many;
use leveret_suite::peer::Login;
use leveret_suite::{Content, Peer, Server, say, unique};

use amq_protocol::protocol::queue;

const MESSAGES: u32 = 1_000_000;
const BODY: [u8; 16] = [b'x'; 16];

/// A broker with a durable queue, and what it took before there were any messages.
struct Bench {
    server: Server,
    peer: Peer,
    queue: String,
    before: u64,
}

impl Bench {
    fn start(arguments: &[&str]) -> Bench {
        let server = Server::start_with(arguments);
        // Without connection.blocked: it may be parked, and isn't told.
        let mut peer = server.peer_with(&Login { capabilities: &[], ..Login::default() });
        peer.open_channel(1);
        let queue = unique("q");
        peer.ask::<queue::DeclareOk>(1, say::declare_with(&queue, |declare| declare.durable = true));
        let before = server.resident_kib();
        Bench { server, peer, queue, before }
    }

    fn publish(&mut self, content: &Content) {
        publish_many(&self.peer, 1, &[&self.queue], content, MESSAGES as usize);
        self.peer.expect_counts(1, &self.queue, (MESSAGES, 0));
    }

    /// Bytes for each message, if each has so many of its own in memory, at most `most`.
    #[track_caller]
    fn expect_for_each(&self, own: f64, most: f64) {
        let more = (self.server.resident_kib() as f64 - self.before as f64) * 1024.0;
        let each = more / f64::from(MESSAGES) - own;
        assert!(each <= most, "{each:.1} bytes for each message besides its own");
    }
}

/// Its body, and the octets of its properties.
fn own(content: &Content) -> f64 {
    (content.body.len() + content.properties.len()) as f64
}

#[test]
fn a_transient_message_takes_at_most_a_hundred_bytes() {
    let mut bench = Bench::start(&["--storage", "memory"]);
    let content = Content::new(BODY);
    bench.publish(&content);
    bench.expect_for_each(own(&content), 100.0);
}

#[test]
fn a_persistent_message_takes_at_most_a_hundred_bytes() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut bench = Bench::start(&["--data-dir", directory.path().to_str().expect("UTF-8")]);
    let content = Content::persistent(BODY);
    bench.publish(&content);
    bench.expect_for_each(own(&content), 100.0);
}

#[test]
fn a_message_that_is_on_disk_only_takes_at_most_sixteen_bytes() {
    for content in [Content::persistent(BODY), Content::new(BODY)] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().to_str().expect("UTF-8");
        let mut bench = Bench::start(&["--data-dir", path, "--memory-limit", "4MB"]);
        bench.publish(&content);
        bench.expect_for_each(0.0, 16.0);
    }
}

#[test]
fn a_message_that_was_recovered_takes_at_most_sixteen_bytes() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut bench = Bench::start(&["--data-dir", directory.path().to_str().expect("UTF-8")]);
    bench.publish(&Content::persistent(BODY));
    assert!(bench.server.stop().success());
    bench.server.restart();
    let mut peer = bench.server.peer();
    peer.expect_counts(1, &bench.queue, (MESSAGES, 0));
    bench.expect_for_each(0.0, 16.0);
}
