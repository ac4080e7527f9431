//! The broker as a library: started and stopped within a process, on a clock and a disk that the test owns.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use leveret::clock::ManualClock;
use leveret::config::{Config, StorageKind};
use leveret::start::Builder;
use leveret::{Broker, BrokerError, StartError};
use leveret_storage::faulty::{Fault, Faults, Step};
use leveret_storage::{StorageError, open_memory};
use leveret_suite::peer::{Heard, kind};
use leveret_suite::{Content, Frame, Login, Peer, say};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use amq_protocol::protocol::{AMQPClass, basic, connection, queue};

const SECOND: Duration = Duration::from_secs(1);
/// Only ever used up by a failure.
const PATIENCE: Duration = Duration::from_secs(30);
const FORCED: &str = "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'";

/// A broker of this process, with the runtime it lives on.
struct Embedded {
    broker: Arc<Broker>,
    runtime: Runtime,
}

impl Embedded {
    /// In memory, on a free port.
    fn start() -> Embedded {
        Embedded::build(Config::in_memory(), |builder| builder)
    }

    fn build(config: Config, change: impl FnOnce(Builder) -> Builder) -> Embedded {
        Embedded::try_build(config, change).expect("the broker starts")
    }

    fn try_build(config: Config, change: impl FnOnce(Builder) -> Builder) -> Result<Embedded, StartError> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let broker = runtime.block_on(change(Broker::builder(config)).start())?;
        Ok(Embedded { broker: Arc::new(broker), runtime })
    }

    /// In memory, with time standing still until the test moves it.
    fn on_manual_clock() -> (Embedded, ManualClock) {
        let clock = ManualClock::default();
        let of_broker = Arc::new(clock.clone());
        let broker = Embedded::build(Config::in_memory(), |builder| builder.clock(of_broker));
        (broker, clock)
    }

    /// On a disk that fails or stops when told, and a manual clock.
    fn on_faulty_disk() -> (Embedded, Disk, ManualClock) {
        let (faults, clock) = (Faults::new(), ManualClock::default());
        let (backend, recovered) = open_memory().expect("memory is always there");
        let backend = faults.wrap(backend);
        let of_broker = Arc::new(clock.clone());
        let broker = Embedded::build(Config::in_memory(), |builder| builder.clock(of_broker).store(backend, recovered));
        (broker, Disk(faults), clock)
    }

    fn address(&self) -> SocketAddr {
        self.broker.addresses()[0]
    }

    /// A connection with channel 1 open.
    #[track_caller]
    fn peer(&self) -> Peer {
        self.peer_with(&Login::default())
    }

    #[track_caller]
    fn peer_with(&self, login: &Login) -> Peer {
        let mut peer = Peer::connect(self.address());
        peer.handshake(login);
        peer.open_channel(1);
        peer
    }

    /// Begins a shutdown; from now on nobody can connect.
    fn begin_shutdown(&self) -> JoinHandle<Result<(), BrokerError>> {
        let broker = self.broker.clone();
        let end = self.runtime.spawn(async move { broker.shutdown().await });
        let address = self.address();
        until("new connections are refused", || std::net::TcpStream::connect(address).is_err());
        end
    }

    /// Waits for a shutdown that has begun.
    fn finish(&self, end: JoinHandle<Result<(), BrokerError>>) -> Result<(), BrokerError> {
        let end = async { tokio::time::timeout(PATIENCE, end).await };
        let ended = self.runtime.block_on(end).expect("the shutdown ends");
        ended.expect("it does not panic")
    }

    /// Why the broker ended.
    fn failure(&self) -> BrokerError {
        let failed = async { tokio::time::timeout(PATIENCE, self.broker.failed()).await };
        self.runtime.block_on(failed).expect("the broker has ended")
    }
}

/// The controls of a disk. Let go of, it goes on, so that a test that fails does not hang.
struct Disk(Faults);

impl std::ops::Deref for Disk {
    type Target = Faults;

    fn deref(&self) -> &Faults {
        &self.0
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.release(Step::Commit);
        self.release(Step::Sync);
    }
}

/// Looks until `condition` holds.
#[track_caller]
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "{what}: not after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// On disk, in `dir`.
fn on_disk(dir: &std::path::Path) -> Config {
    Config { storage: StorageKind::Sled, data_dir: dir.to_owned(), ..Config::in_memory() }
}

fn durable_queue(peer: &mut Peer, name: &str) {
    let declare = say::declare_with(name, |declare| declare.durable = true);
    peer.ask::<queue::DeclareOk>(1, declare);
}

fn publish_persistent(peer: &mut Peer, queue: &str, body: &str) {
    peer.publish_content(1, say::publish("", queue), &Content::persistent(body));
}

// Start and stop

#[test]
fn two_brokers_in_one_process_do_not_disturb_each_other() {
    let (one, two) = (Embedded::start(), Embedded::start());
    assert_ne!(one.address(), two.address());
    let (mut of_one, mut of_two) = (one.peer(), two.peer());
    of_one.ask::<queue::DeclareOk>(1, say::declare("q"));
    of_two.expect_no_queue(1, "q");
    of_two.ask::<queue::DeclareOk>(1, say::declare("q"));
    of_one.publish(1, "", "q", "of one");
    of_two.publish(1, "", "q", "of two");
    of_two.expect_contents(1, "q", &["of two"]);

    let end = one.begin_shutdown();
    of_one.expect_connection_close(320, FORCED, (0, 0));
    one.finish(end).expect("a clean end");
    of_two.expect_counts(1, "q", (0, 0));
    two.peer().close();
}

#[test]
fn every_address_is_told_with_the_port_that_was_found_and_served() {
    let free = Config::in_memory().listen[0];
    let config = Config { listen: vec![free, free], ..Config::in_memory() };
    let broker = Embedded::build(config, |builder| builder);
    let addresses = broker.broker.addresses();
    assert_eq!(addresses.len(), 2);
    assert_ne!(addresses[0], addresses[1]);
    for address in addresses {
        assert_ne!(address.port(), 0);
        let mut peer = Peer::connect(*address);
        peer.handshake(&Login::default());
        peer.close();
    }
}

#[test]
fn a_port_in_use_is_an_error_and_leaves_the_data_untouched() {
    let first = Embedded::start();
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let config = Config { listen: vec![first.address()], ..on_disk(&data) };
    match Embedded::try_build(config, |builder| builder) {
        Err(StartError::Listen { address, .. }) => assert_eq!(address, first.address()),
        Err(other) => panic!("expected that the port is in use, came {other}"),
        Ok(_) => panic!("two brokers on one port"),
    }
    assert!(!data.exists());
}

#[test]
fn a_directory_in_use_is_an_error_and_its_owner_goes_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = Embedded::build(on_disk(dir.path()), |builder| builder);
    match Embedded::try_build(on_disk(dir.path()), |builder| builder) {
        Err(StartError::Storage(StorageError::Locked { .. })) => {}
        Err(other) => panic!("expected that the directory is locked, came {other}"),
        Ok(_) => panic!("two brokers on one directory"),
    }
    let mut peer = first.peer();
    durable_queue(&mut peer, "q");
    peer.select_confirms(1);
    publish_persistent(&mut peer, "q", "message");
    peer.expect_confirms(1, 1);
}

#[test]
fn after_a_shutdown_the_port_and_the_directory_are_free_and_the_messages_are_there() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = Embedded::build(on_disk(dir.path()), |builder| builder);
    let mut peer = first.peer();
    durable_queue(&mut peer, "q");
    publish_persistent(&mut peer, "q", "kept");
    peer.publish(1, "", "q", "lost");
    peer.expect_counts(1, "q", (2, 0));
    let config = Config { listen: vec![first.address()], ..on_disk(dir.path()) };
    let end = first.begin_shutdown();
    peer.expect_connection_close(320, FORCED, (0, 0));
    first.finish(end).expect("a clean end");

    let second = Embedded::build(config, |builder| builder);
    assert_eq!(second.address(), first.address());
    let drained = second.peer().drain(1, "q");
    assert_eq!(drained, [("kept".to_owned(), false)]);
}

#[test]
fn a_broker_let_go_of_without_a_shutdown_gives_its_port_and_directory_free() {
    let dir = tempfile::tempdir().expect("a directory");
    let Embedded { broker, runtime } = Embedded::build(on_disk(dir.path()), |builder| builder);
    let config = Config { listen: broker.addresses().to_vec(), ..on_disk(dir.path()) };
    let mut peer = Peer::connect(broker.addresses()[0]);
    peer.handshake(&Login::default());
    peer.open_channel(1);
    durable_queue(&mut peer, "q");
    peer.select_confirms(1);
    publish_persistent(&mut peer, "q", "kept");
    peer.expect_confirms(1, 1);

    drop(broker);
    peer.expect_end();
    // Its runtime lives on: whatever is freed, the broker itself frees.
    let mut second = None;
    until("another broker starts in its place", || {
        second = runtime.block_on(Broker::start(config.clone())).ok();
        second.is_some()
    });
    let mut peer = Peer::connect(config.listen[0]);
    peer.handshake(&Login::default());
    peer.open_channel(1);
    peer.expect_contents(1, "q", &["kept"]);
}

// Shutdown

#[test]
fn a_shutdown_finishes_pending_confirms_before_it_closes_the_connection() {
    let (broker, faults, _clock) = Embedded::on_faulty_disk();
    let mut peer = broker.peer();
    durable_queue(&mut peer, "q");
    peer.select_confirms(1);
    faults.hold(Step::Sync);
    publish_persistent(&mut peer, "q", "message");
    faults.wait_until_held(Step::Sync);
    let mut idle = broker.peer();
    let end = broker.begin_shutdown();
    idle.expect_connection_close(320, FORCED, (0, 0));
    faults.release(Step::Sync);
    let ack: basic::Ack = peer.expect(1);
    assert_eq!(ack.delivery_tag, 1);
    peer.expect_connection_close(320, FORCED, (0, 0));
    broker.finish(end).expect("a clean end");
}

#[test]
fn confirms_that_do_not_come_hold_a_shutdown_up_for_five_seconds_only() {
    let (broker, faults, clock) = Embedded::on_faulty_disk();
    let mut peer = broker.peer();
    durable_queue(&mut peer, "q");
    peer.select_confirms(1);
    faults.hold(Step::Sync);
    publish_persistent(&mut peer, "q", "message");
    faults.wait_until_held(Step::Sync);
    let mut idle = broker.peer();
    let end = broker.begin_shutdown();
    // Everybody is told in one go, so by now the other connection has been told too.
    idle.expect_connection_close(320, FORCED, (0, 0));
    clock.pass(5 * SECOND);
    peer.expect_connection_close(320, FORCED, (0, 0));
    faults.release(Step::Sync);
    broker.finish(end).expect("a clean end");
}

#[test]
fn a_client_that_never_answers_the_close_holds_a_shutdown_up_for_eight_seconds_only() {
    let (broker, clock) = Embedded::on_manual_clock();
    let mut peer = broker.peer();
    let end = broker.begin_shutdown();
    peer.expect_connection_close_frame(320, FORCED, (0, 0));
    clock.pass(7 * SECOND);
    // Still there: a close of one's own is answered.
    peer.send(0, connection::Close::default());
    peer.expect::<connection::CloseOk>(0);
    clock.pass(SECOND);
    peer.expect_end();
    broker.finish(end).expect("a clean end");
}

#[test]
fn a_client_that_lingers_after_its_close_does_not_hold_a_shutdown_up_for_longer() {
    let (broker, clock) = Embedded::on_manual_clock();
    let mut peer = broker.peer();
    peer.send(0, connection::Close::default());
    peer.expect::<connection::CloseOk>(0);
    let end = broker.begin_shutdown();
    clock.pass(8 * SECOND);
    peer.expect_end();
    broker.finish(end).expect("a clean end");
}

#[test]
fn a_shutdown_drops_handshakes_that_are_under_way() {
    let broker = Embedded::start();
    let mut peer = Peer::connect(broker.address());
    peer.handshake_until_tune(&Login::default());
    let end = broker.begin_shutdown();
    peer.expect_end();
    broker.finish(end).expect("a clean end");
}

// Time

/// A client whose last word comes 9 s after its connection was opened with heartbeats every 10 s.
fn last_word_at_nine(broker: &Embedded, clock: &ManualClock) -> Peer {
    let mut peer = broker.peer_with(&Login { heartbeat: 10, ..Login::default() });
    peer.in_step(1);
    // An answer in each half interval, so that none of them is idle.
    clock.pass(5 * SECOND);
    peer.in_step(1);
    clock.pass(4 * SECOND);
    peer.in_step(1);
    peer
}

/// Moves to 10 s, then on in half intervals, until the server has sent heartbeats at 15, 20 and 25 s.
fn three_heartbeats(peer: &mut Peer, clock: &ManualClock) {
    clock.pass(SECOND);
    for _ in 0..3 {
        clock.pass(5 * SECOND);
        let frame = peer.frame();
        assert_eq!(frame, Frame::new(kind::HEARTBEAT, 0, []));
    }
}

#[test]
fn a_silent_client_is_dropped_within_three_intervals_and_what_it_held_goes_to_others() {
    let (broker, clock) = Embedded::on_manual_clock();
    let mut other = broker.peer();
    other.ask::<queue::DeclareOk>(1, say::declare("q"));
    let mut silent = last_word_at_nine(&broker, &clock);
    silent.consume(1, "q", "c");
    other.publish(1, "", "q", "task");
    silent.expect_delivery(1);
    other.consume(1, "q", "c");
    three_heartbeats(&mut silent, &clock);
    clock.pass(5 * SECOND);
    silent.expect_end();
    let delivery = other.expect_delivery(1);
    assert_eq!((delivery.text().as_str(), delivery.redelivered), ("task", true));
}

#[test]
fn a_client_that_speaks_before_two_intervals_are_over_is_not_dropped() {
    let (broker, clock) = Embedded::on_manual_clock();
    let mut peer = last_word_at_nine(&broker, &clock);
    for _ in 0..3 {
        // At 15, 20, 25 and then 29 s: 20 s after the last word.
        three_heartbeats(&mut peer, &clock);
        clock.pass(4 * SECOND);
        peer.in_step(1);
    }
}

#[test]
fn a_heartbeat_of_the_client_counts_as_a_word() {
    let (broker, clock) = Embedded::on_manual_clock();
    let mut peer = last_word_at_nine(&broker, &clock);
    for _ in 0..3 {
        three_heartbeats(&mut peer, &clock);
        clock.pass(4 * SECOND);
        peer.send_frame(Frame::new(kind::HEARTBEAT, 0, []));
        peer.in_step(1);
    }
}

#[test]
fn a_client_that_does_not_finish_its_handshake_in_ten_seconds_is_dropped() {
    let (broker, clock) = Embedded::on_manual_clock();
    let mut slow = Peer::connect(broker.address());
    // The handshake has begun once it is answered.
    slow.send_octets(b"AMQP\x00\x00\x09\x01");
    slow.expect::<connection::Start>(0);
    clock.pass(Duration::from_millis(9_999));
    let login = Login::default();
    slow.send_payload(0, login.start_ok());
    slow.expect::<connection::Tune>(0);
    clock.pass(Duration::from_millis(1));
    slow.expect_end();
}

#[test]
fn a_finished_handshake_has_no_limit_any_more() {
    let (broker, clock) = Embedded::on_manual_clock();
    let mut peer = broker.peer();
    clock.pass(1_000 * SECOND);
    peer.in_step(1);
}

// Disks

#[test]
fn a_failing_sync_ends_the_broker_and_confirms_nothing() {
    ends_with_nothing_confirmed(Step::Sync);
}

#[test]
fn a_failing_commit_ends_the_broker_and_confirms_nothing() {
    ends_with_nothing_confirmed(Step::Commit);
}

#[test]
fn a_full_disk_stops_publishers_and_what_is_not_written_is_confirmed_when_there_is_room() {
    let faults = Faults::new();
    let (backend, recovered) = open_memory().expect("memory is always there");
    let backend = faults.wrap(backend);
    let broker = Embedded::build(Config::in_memory(), |builder| builder.store(backend, recovered));
    let (mut peer, mut consumer) = (broker.peer(), broker.peer());
    durable_queue(&mut peer, "q");
    peer.select_confirms(1);
    publish_persistent(&mut peer, "q", "stored");
    peer.expect_confirms(1, 1);
    faults.fill_disk(true);
    publish_persistent(&mut peer, "q", "waits for room");
    let mut other = broker.peer();
    let blocked: connection::Blocked = loop {
        other.publish(1, "", "nowhere", b"meanwhile");
        if let Heard::Frame(frame) = other.hear(Duration::from_millis(20))
            && let Some(AMQPClass::Connection(connection::AMQPMethod::Blocked(blocked))) = frame.method()
        {
            break blocked;
        }
    };
    assert_eq!(blocked.reason.as_str(), "low on disk");
    // Consumers go on, and their acks are done.
    consumer.consume(1, "q", "c");
    let delivery = consumer.expect_deliveries(1, &["stored", "waits for room"]).remove(0);
    consumer.send(1, say::ack(delivery.delivery_tag));
    consumer.ask::<basic::CancelOk>(1, say::cancel("c"));
    faults.fill_disk(false);
    let confirm: basic::Ack = peer.expect(1);
    assert_eq!(confirm.delivery_tag, 2);
    other.expect::<connection::Unblocked>(0);
}

fn ends_with_nothing_confirmed(step: Step) {
    let (broker, faults, _clock) = Embedded::on_faulty_disk();
    let mut peer = broker.peer();
    durable_queue(&mut peer, "q");
    peer.select_confirms(1);
    publish_persistent(&mut peer, "q", "stored");
    peer.expect_confirms(1, 1);
    faults.fail_next(step, Fault::Io);
    publish_persistent(&mut peer, "q", "not stored");
    peer.expect_end();
    let BrokerError::Storage(error) = broker.failure();
    assert!(matches!(*error, StorageError::Io { .. }), "{error}");
    let end = broker.begin_shutdown();
    let BrokerError::Storage(again) = broker.finish(end).expect_err("the same error");
    assert_eq!(again.to_string(), error.to_string());
}

#[test]
fn a_disk_that_hangs_slows_neither_consumers_nor_transient_messages() {
    let (broker, faults, _clock) = Embedded::on_faulty_disk();
    let (mut peer, mut other) = (broker.peer(), broker.peer());
    durable_queue(&mut peer, "durable");
    peer.ask::<queue::DeclareOk>(1, say::declare("transient"));
    peer.select_confirms(1);
    other.consume(1, "durable", "c");
    faults.hold(Step::Sync);
    publish_persistent(&mut peer, "durable", "persistent");
    faults.wait_until_held(Step::Sync);
    assert_eq!(other.expect_delivery(1).text(), "persistent");

    peer.open_channel(2);
    peer.select_confirms(2);
    for queue in ["transient", "durable"] {
        peer.publish(2, "", queue, "transient");
        let ack: basic::Ack = peer.expect(2);
        assert!(ack.delivery_tag > 0);
    }
    assert_eq!(other.expect_delivery(1).text(), "transient");
    peer.take(2, "transient", "transient");

    faults.release(Step::Sync);
    let ack: basic::Ack = peer.expect(1);
    assert_eq!(ack.delivery_tag, 1, "the persistent one only now");
}

#[test]
fn publishers_are_blocked_while_little_disk_is_free_and_consumers_go_on() {
    let free = Arc::new(AtomicU64::new(50_000_000));
    let seen = free.clone();
    let broker =
        Embedded::build(Config::in_memory(), |builder| builder.free_disk(move || Ok(seen.load(Ordering::Relaxed))));
    let (mut publisher, mut consumer) = (broker.peer(), broker.peer());
    consumer.ask::<queue::DeclareOk>(1, say::declare("q"));
    publisher.publish(1, "", "q", b"before");
    publisher.in_step(1);
    free.store(49_999_999, Ordering::Relaxed);
    // The alarm is noticed a little later: until then, publishes go through.
    let blocked: connection::Blocked = loop {
        publisher.publish(1, "", "q", b"meanwhile");
        if let Heard::Frame(frame) = publisher.hear(Duration::from_millis(20))
            && let Some(AMQPClass::Connection(connection::AMQPMethod::Blocked(blocked))) = frame.method()
        {
            break blocked;
        }
    };
    assert_eq!(blocked.reason.as_str(), "low on disk");
    consumer.qos(1, 1, false);
    consumer.consume(1, "q", "c");
    let delivery = consumer.expect_delivery(1);
    consumer.send(1, say::ack(delivery.delivery_tag));
    consumer.expect_delivery(1);
    free.store(50_000_000, Ordering::Relaxed);
    publisher.expect::<connection::Unblocked>(0);
    publisher.in_step(1);
}

#[test]
fn a_declaration_waits_for_a_disk_that_hangs_and_other_channels_do_not() {
    let (broker, faults, _clock) = Embedded::on_faulty_disk();
    let mut peer = broker.peer();
    peer.open_channel(2);
    faults.hold(Step::Sync);
    let declare = say::declare_with("q", |declare| declare.durable = true);
    peer.send(1, declare);
    faults.wait_until_held(Step::Sync);
    peer.in_step(2);
    faults.release(Step::Sync);
    peer.expect::<queue::DeclareOk>(1);
}

// Ends of connections

/// A client that does not read, so that a consumer and a message that its queues have given it are still on their
/// way; and one that looks at the queues `consumed`, with three messages, and `got`, with one.
fn deaf_client(broker: &Embedded) -> (Peer, Peer) {
    const MESSAGES: u32 = 64;
    let mut other = broker.peer();
    for name in ["flood", "consumed", "got"] {
        other.ask::<queue::DeclareOk>(1, say::declare(name));
    }
    let body = vec![b'x'; 1 << 19];
    for _ in 0..MESSAGES {
        other.publish(1, "", "flood", &body);
    }
    other.publish_all(1, "consumed", &["1", "2", "3"]);
    other.publish_all(1, "got", &["1"]);

    let mut deaf = broker.peer();
    deaf.open_channel(2);
    deaf.open_channel(3);
    let consume = say::consume_with("flood", "flood", |consume| consume.no_ack = true);
    deaf.send(1, consume);
    let (mut left, mut same) = (MESSAGES, 0);
    while same < 100 {
        let now = other.counts(1, "flood").0;
        let full = now == left && now < MESSAGES;
        same = if full { same + 1 } else { 0 };
        left = now;
    }
    assert!(left > 0, "more was published than a socket holds");

    deaf.send(2, say::consume("consumed", "late"));
    deaf.send(3, say::get("got"));
    until("both queues have given what they had", || {
        other.counts(1, "consumed") == (0, 1) && other.counts(1, "got") == (0, 0)
    });
    (deaf, other)
}

#[test]
fn what_is_on_its_way_to_a_client_that_closes_is_back_before_close_ok() {
    let broker = Embedded::start();
    let (mut deaf, mut other) = deaf_client(&broker);
    deaf.send(0, connection::Close::default());
    loop {
        let frame = deaf.frame();
        if let Some(AMQPClass::Connection(connection::AMQPMethod::CloseOk(_))) = frame.method() {
            break;
        }
    }
    other.expect_counts(1, "consumed", (3, 0));
    other.expect_counts(1, "got", (1, 0));
}

#[test]
fn what_is_on_its_way_to_a_client_that_vanishes_goes_back() {
    let broker = Embedded::start();
    let (deaf, mut other) = deaf_client(&broker);
    drop(deaf);
    until("both queues have everything back", || {
        other.counts(1, "consumed") == (3, 0) && other.counts(1, "got") == (1, 0)
    });
}
