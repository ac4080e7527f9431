//! Connections on the broker's threads: they go from one to another, and nobody notices.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use amq_protocol::protocol::basic;
use leveret::config::Config;
use leveret::{Broker, BrokerError};
use leveret_suite::peer::{Heard, kind};
use leveret_suite::{Login, Peer, say};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Only ever used up by a failure.
const PATIENCE: Duration = Duration::from_secs(30);
const FORCED: &str = "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'";

/// A broker on a thread of its own, which may begin two more.
struct Threaded {
    broker: Arc<Broker>,
    first: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<(), BrokerError>>>,
}

impl Threaded {
    fn start() -> Threaded {
        let (begun, beginning) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let started = Broker::builder(Config::in_memory()).threads(3).start().await;
                let broker = Arc::new(started.expect("the broker starts"));
                begun.send((broker.clone(), Handle::current())).expect("the test waits");
                let _ = stopped.await;
                broker.shutdown().await
            })
        });
        let (broker, first) = beginning.recv_timeout(PATIENCE).expect("the broker starts");
        Threaded { broker, first, stop: Some(stop), thread: Some(thread) }
    }

    /// A connection with channel 1 open.
    fn peer(&self) -> Peer {
        self.peer_with(&Login::default())
    }

    fn peer_with(&self, login: &Login) -> Peer {
        let mut peer = Peer::connect(self.broker.addresses()[0]);
        peer.handshake(login);
        peer.open_channel(1);
        peer
    }

    fn all_to(&self, thread: usize) {
        self.broker.arrange(|| thread).expect("threads can be begun");
    }

    fn begin_shutdown(&mut self) {
        drop(self.stop.take());
    }

    fn end(&mut self) -> Result<(), BrokerError> {
        self.begin_shutdown();
        self.thread.take().expect("it ends once").join().expect("no panic")
    }
}

/// The first thread of a broker, doing nothing until this is dropped.
struct Held(Option<mpsc::Sender<()>>);

impl Held {
    fn hold(runtime: &Handle) -> Held {
        let (held, holding) = mpsc::channel::<()>();
        let (letting_go, let_go) = mpsc::channel::<()>();
        runtime.spawn(async move {
            held.send(()).expect("the test waits");
            let _ = let_go.recv();
        });
        holding.recv_timeout(PATIENCE).expect("the thread is held");
        Held(Some(letting_go))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.0.take());
    }
}

#[test]
fn a_connection_that_has_moved_does_not_need_the_first_thread() {
    let mut threaded = Threaded::start();
    let mut peer = threaded.peer();
    let queue = peer.queue(1, "elsewhere");
    peer.consume(1, &queue, "c");
    threaded.all_to(1);
    // The turn in which it goes, and one on the other thread.
    peer.in_step(1);
    peer.in_step(1);
    let held = Held::hold(&threaded.first);
    peer.publish_all(1, &queue, &["a", "b"]);
    let deliveries = peer.expect_deliveries(1, &["a", "b"]);
    peer.send(1, say::ack(deliveries[1].delivery_tag));
    peer.in_step(1);
    drop(held);
    peer.close();
    threaded.end().expect("a clean end");
}

#[test]
fn connections_that_keep_moving_lose_and_reorder_nothing() {
    const MESSAGES: u64 = 4000;
    const BATCH: u64 = 20;
    let mut threaded = Threaded::start();
    let queues: Vec<String> = {
        let mut peer = threaded.peer();
        (0..3).map(|n| peer.queue(1, &format!("moving {n}"))).collect()
    };
    let (over, broker) = (Arc::new(AtomicBool::new(false)), threaded.broker.clone());
    let arranging = thread::spawn({
        let over = over.clone();
        move || {
            let mut turn = 0_usize;
            while !over.load(Ordering::Relaxed) {
                let mut place = turn;
                broker
                    .arrange(|| {
                        place += 1;
                        place % 3
                    })
                    .expect("threads can be begun");
                turn += 1;
                thread::yield_now();
            }
        }
    });
    thread::scope(|scope| {
        for queue in &queues {
            let (mut publisher, mut consumer) = (threaded.peer(), threaded.peer());
            scope.spawn(move || {
                publisher.select_confirms(1);
                let mut confirmed = 0;
                for batch in 0..MESSAGES / BATCH {
                    for n in 0..BATCH {
                        publisher.publish(1, "", queue, (batch * BATCH + n).to_string());
                    }
                    while confirmed < (batch + 1) * BATCH {
                        let ack: basic::Ack = publisher.expect(1);
                        let next = if ack.multiple { ack.delivery_tag } else { confirmed + 1 };
                        assert_eq!(ack.delivery_tag, next, "confirms come in order");
                        confirmed = next;
                    }
                }
                publisher.close();
            });
            scope.spawn(move || {
                consumer.qos(1, 50, false);
                consumer.consume(1, queue, "c");
                for n in 0..MESSAGES {
                    let delivery = consumer.expect_delivery(1);
                    assert_eq!(delivery.text(), n.to_string());
                    assert_eq!(delivery.delivery_tag, n + 1);
                    assert!(!delivery.redelivered);
                    consumer.send(1, say::ack(delivery.delivery_tag));
                }
                consumer.expect_counts(1, queue, (0, 1));
                consumer.close();
            });
        }
    });
    over.store(true, Ordering::Relaxed);
    arranging.join().expect("no panic");
    threaded.end().expect("a clean end");
}

#[test]
fn heartbeats_go_on_after_a_move() {
    let mut threaded = Threaded::start();
    let mut peer = threaded.peer_with(&Login { heartbeat: 1, ..Login::default() });
    threaded.all_to(2);
    peer.in_step(1);
    peer.in_step(1);
    let held = Held::hold(&threaded.first);
    for _ in 0..2 {
        assert_eq!(peer.frame().kind, kind::HEARTBEAT);
    }
    // It says nothing, so it is given up; its own first heartbeat was none.
    let (start, mut heard) = (Instant::now(), peer.hear(PATIENCE));
    while let Heard::Frame(frame) = heard {
        assert_eq!(frame.kind, kind::HEARTBEAT);
        heard = peer.hear(PATIENCE);
    }
    assert!(start.elapsed() < PATIENCE, "a silent client is given up");
    drop(held);
    threaded.end().expect("a clean end");
}

#[test]
fn what_a_connection_elsewhere_held_is_back_when_it_has_gone() {
    let mut threaded = Threaded::start();
    let (mut peer, mut other) = (threaded.peer(), threaded.peer());
    let queue = peer.queue(1, "given back");
    peer.consume(1, &queue, "c");
    threaded.all_to(1);
    peer.in_step(1);
    peer.publish_all(1, &queue, &["a", "b"]);
    peer.expect_deliveries(1, &["a", "b"]);
    drop(peer);
    other.expect_counts(1, &queue, (2, 0));
    assert_eq!(other.drain(1, &queue), [("a".to_owned(), true), ("b".to_owned(), true)]);
    other.close();
    threaded.end().expect("a clean end");
}

#[test]
fn a_shutdown_tells_connections_on_every_thread() {
    let mut threaded = Threaded::start();
    let mut peers: Vec<Peer> = (0..6).map(|_| threaded.peer()).collect();
    let mut thread = 0;
    let next = || {
        thread += 1;
        thread % 3
    };
    threaded.broker.arrange(next).expect("threads can be begun");
    for peer in &mut peers {
        peer.in_step(1);
        peer.in_step(1);
    }
    threaded.begin_shutdown();
    for peer in &mut peers {
        peer.expect_connection_close(320, FORCED, (0, 0));
    }
    threaded.end().expect("a clean end");
}
