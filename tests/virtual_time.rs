//! What takes minutes and days, on a clock that the tests own.

use std::sync::Arc;
use std::time::Duration;

use amq_protocol::protocol::{basic, exchange, queue, tx};
use amq_protocol::types::AMQPValue;
use leveret::Broker;
use leveret::clock::ManualClock;
use leveret::config::{ByteSize, Config, StorageKind};
use leveret_suite::{Content, Octets, Peer, say};
use tokio::runtime::Runtime;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// A broker of this process, in memory, for which time stands still until the test moves it.
struct Still {
    broker: Broker,
    clock: ManualClock,
    runtime: Runtime,
}

impl Still {
    fn start(config: Config) -> Still {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let clock = ManualClock::default();
        let start = Broker::builder(config).clock(Arc::new(clock.clone())).start();
        let broker = runtime.block_on(start).expect("the broker starts");
        Still { broker, clock, runtime }
    }

    /// A connection with channel 1 open.
    fn peer(&self) -> Peer {
        let mut peer = Peer::connect(self.broker.addresses()[0]);
        peer.handshake(&Default::default());
        peer.open_channel(1);
        peer
    }

    /// Moves time forward; the peer's connection has then looked at its deliveries if that was due, and said nothing.
    fn advance(&self, by: Duration, peer: &mut Peer, channel: u16) {
        self.clock.pass(by);
        peer.in_step(channel);
    }
}

fn timing_out_after(minutes: u64) -> Config {
    Config { consumer_timeout: minutes * 60_000, ..Config::in_memory() }
}

/// A queue with these messages, delivered to a consumer on channel 2.
fn deliver(peer: &mut Peer, bodies: &[&str]) -> String {
    let queue = peer.queue(1, "late");
    peer.open_channel(2);
    peer.consume(2, &queue, "c");
    peer.publish_all(1, &queue, bodies);
    peer.expect_deliveries(2, bodies);
    queue
}

// Consumer timeouts

#[test]
fn without_a_configured_timeout_a_consumer_may_take_as_long_as_it_likes() {
    let still = Still::start(Config::in_memory());
    let mut peer = still.peer();
    deliver(&mut peer, &["a"]);
    for _ in 0..20 {
        still.advance(100 * MINUTE, &mut peer, 1);
    }
    peer.send(2, say::ack(1));
    peer.in_step(2);
}

#[test]
fn the_timeout_is_evaluated_about_once_a_minute() {
    let still = Still::start(timing_out_after(30));
    let mut peer = still.peer();
    deliver(&mut peer, &["a"]);
    for _ in 0..30 {
        still.advance(MINUTE, &mut peer, 1);
    }
    // It has waited for the timeout, and not yet for longer than that.
    still.advance(59 * SECOND, &mut peer, 1);
    still.clock.advance(SECOND);
    peer.expect_delivery_timeout(2, 1_800_000);
}

#[test]
fn only_the_oldest_delivery_of_a_channel_counts() {
    let still = Still::start(timing_out_after(5));
    let mut peer = still.peer();
    let queue = deliver(&mut peer, &["old"]);
    still.advance(4 * MINUTE, &mut peer, 1);
    peer.publish(1, "", &queue, "new");
    peer.expect_deliveries(2, &["new"]);
    peer.send(2, say::ack(1));
    peer.in_step(2);
    for _ in 0..5 {
        still.advance(MINUTE, &mut peer, 1);
    }
    still.clock.advance(MINUTE);
    peer.expect_delivery_timeout(2, 300_000);
}

#[test]
fn deliveries_whose_acknowledgement_is_rolled_back_wait_since_they_were_made() {
    let still = Still::start(timing_out_after(5));
    let mut peer = still.peer();
    deliver(&mut peer, &["a"]);
    peer.ask::<tx::SelectOk>(2, tx::Select {});
    peer.send(2, say::ack(1));
    peer.in_step(2);
    for _ in 0..10 {
        still.advance(MINUTE, &mut peer, 1);
    }
    peer.ask::<tx::RollbackOk>(2, tx::Rollback {});
    still.clock.advance(MINUTE);
    peer.expect_delivery_timeout(2, 300_000);
}

#[test]
fn a_connection_without_outstanding_deliveries_is_left_alone_and_looked_at_again_later() {
    let still = Still::start(timing_out_after(1));
    let mut peer = still.peer();
    let queue = deliver(&mut peer, &["a"]);
    peer.send(2, say::ack(1));
    peer.in_step(2);
    for _ in 0..10 {
        still.advance(MINUTE, &mut peer, 1);
    }
    peer.publish(1, "", &queue, "b");
    peer.expect_deliveries(2, &["b"]);
    still.advance(59 * SECOND, &mut peer, 2);
    still.advance(SECOND, &mut peer, 2);
    still.clock.advance(MINUTE);
    peer.expect_delivery_timeout(2, 60_000);
}

#[test]
fn a_policy_holds_for_deliveries_that_were_made_before_it_and_no_longer_once_it_is_cleared() {
    let still = Still::start(Config::in_memory());
    let mut peer = still.peer();
    let queue = deliver(&mut peer, &["a"]);
    still.advance(10 * MINUTE, &mut peer, 1);
    let policy = leveret::serde_json::json!({ "pattern": "^late", "definition": { "consumer-timeout": 300_000 } });
    still.runtime.block_on(still.broker.set_policy("/", "impatient", &policy)).expect("a policy");
    still.clock.advance(MINUTE);
    peer.expect_delivery_timeout(2, 300_000);
    peer.get(1, &queue);
    still.runtime.block_on(still.broker.clear_policy("/", "impatient")).expect("no policy any more");
    for _ in 0..10 {
        still.advance(MINUTE, &mut peer, 1);
    }
}

// Delayed messages

fn delay(milliseconds: i64) -> Octets {
    Octets::new().entry("x-delay", b'l', milliseconds.to_be_bytes())
}

/// An exchange that holds back, with a queue that gets everything, consumed on channel 1.
fn delayed(peer: &mut Peer) -> String {
    let name = leveret_suite::unique("delayed");
    let declare = say::exchange_with(&name, "x-delayed-message", |declare| {
        declare.arguments.insert("x-delayed-type".into(), AMQPValue::LongString("fanout".into()));
    });
    peer.ask::<exchange::DeclareOk>(1, declare);
    let queue = peer.queue(1, "due");
    peer.ask::<queue::BindOk>(1, say::bind(&queue, &name, ""));
    peer.ask::<basic::ConsumeOk>(1, say::consume_with(&queue, "c", |consume| consume.no_ack = true));
    name
}

#[test]
fn a_message_is_held_back_to_the_millisecond_and_at_most_for_two_to_the_32_less_one() {
    const LONGEST: i64 = (1 << 32) - 1;
    let still = Still::start(Config::in_memory());
    let mut peer = still.peer();
    let exchange = delayed(&mut peer);
    let longest = Content::with_headers(delay(LONGEST), "longest");
    peer.publish_content(1, say::publish(&exchange, ""), &longest);
    let longer = Content::with_headers(delay(LONGEST + 1), "longer");
    peer.publish_content(1, say::publish(&exchange, ""), &longer);
    assert_eq!(peer.expect_delivery(1).content, longer, "at once, and as it came");
    still.advance(Duration::from_millis(LONGEST as u64 - 1), &mut peer, 1);
    still.clock.advance(Duration::from_millis(1));
    assert_eq!(peer.expect_delivery(1).content, Content::with_headers(delay(-LONGEST), "longest"));
}

#[test]
fn many_messages_due_at_once_come_in_the_order_of_their_publishes() {
    const COUNT: usize = 20_000;
    let still = Still::start(Config::in_memory());
    let mut peer = still.peer();
    let exchange = delayed(&mut peer);
    let body = |number: usize| format!("{number:0200}");
    peer.open_channel(2);
    peer.select_confirms(2);
    for number in 0..COUNT {
        let content = Content::with_headers(delay(3_600_000), body(number));
        peer.publish_content(2, say::publish(&exchange, ""), &content);
    }
    peer.expect_confirms(2, COUNT as u64);
    still.clock.advance(60 * MINUTE);
    for number in 0..COUNT {
        assert_eq!(peer.expect_delivery(1).text(), body(number));
    }
}

#[test]
fn more_delayed_messages_than_memory_holds_come_in_the_order_in_which_they_are_due() {
    const COUNT: u64 = 6_000;
    const DAY: u64 = 24 * 3_600_000;
    // 60 MB at 10 kB each: ten times what leaves memory alone.
    const LIMIT: ByteSize = ByteSize::new(12_000_000);
    let directory = tempfile::tempdir().expect("a directory for the broker's data");
    let storage = StorageKind::Sled;
    let data_dir = directory.path().to_owned();
    let still = Still::start(Config { storage, data_dir, memory_limit: LIMIT, ..Config::in_memory() });
    let mut peer = still.peer();
    let declare = say::exchange_with("delayed", "x-delayed-message", |declare| {
        declare.durable = true;
        declare.arguments.insert("x-delayed-type".into(), AMQPValue::LongString("fanout".into()));
    });
    peer.ask::<exchange::DeclareOk>(1, declare);
    peer.ask::<queue::DeclareOk>(1, say::declare("due"));
    peer.ask::<queue::BindOk>(1, say::bind("due", "delayed", ""));
    peer.ask::<basic::ConsumeOk>(1, say::consume_with("due", "c", |consume| consume.no_ack = true));
    peer.open_channel(2);
    peer.select_confirms(2);
    let mut random = 7u64;
    let mut due: Vec<(u64, u64)> = Vec::new();
    let mut unconfirmed = std::collections::BTreeSet::new();
    for number in 0..COUNT {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let after = 1 + (random >> 33) % DAY;
        due.push((after, number));
        let mode = 1 + u8::from(number % 3 != 1);
        let properties = Octets::new().longstr(delay(after as i64)).u8(mode);
        let content = Content::with(1 << 13 | 1 << 12, properties, format!("{number:010000}"));
        peer.publish_content(2, say::publish("delayed", ""), &content);
        unconfirmed.insert(number + 1);
        // While time stands still, nobody would look whether memory is free again: so it is not used up.
        while number % 100 == 99 && !unconfirmed.is_empty() {
            let ack: basic::Ack = peer.expect(2);
            unconfirmed.retain(|number| *number != ack.delivery_tag && !(ack.multiple && *number < ack.delivery_tag));
        }
    }
    due.sort_unstable();
    let mut due = due.into_iter().peekable();
    for hour in 1..=24 {
        still.clock.advance(60 * MINUTE);
        while let Some((_, number)) = due.next_if(|(after, _)| *after <= hour * 3_600_000) {
            assert_eq!(peer.expect_delivery(1).text().parse(), Ok(number));
        }
        peer.in_step(1);
    }
    assert_eq!(due.next(), None);
}
