//! How a broker ends and begins: SIGTERM, and what it says of its recovery.

use amq_protocol::protocol::{AMQPClass, basic, connection};
use leveret_suite::durable::{Durable, End, as_strs, declare, numbers, publish_confirmed};
use leveret_suite::{Content, Peer, say};
use std::time::{Duration, Instant};

#[test]
fn sigterm_tells_every_client_320_and_exits_with_0_within_10_seconds() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    let mut peers: Vec<Peer> = (0..5).map(|_| broker.server.peer()).collect();
    broker.server.signal("TERM");
    for peer in &mut peers {
        let text = "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'";
        peer.expect_connection_close_frame(320, text, (0, 0));
        peer.send(0, connection::CloseOk {});
        peer.expect_end();
    }
    let start = Instant::now();
    assert!(broker.server.wait_for_end().success());
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn sigterm_does_not_wait_for_clients_that_stay_silent() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    let mut peer = broker.server.peer();
    declare(&mut peer, "q");
    let start = Instant::now();
    assert!(broker.server.stop().success());
    assert!(start.elapsed() < Duration::from_secs(10), "took {:?}", start.elapsed());
}

#[test]
fn sigterm_finishes_pending_confirms_first() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    let mut peer = broker.server.peer();
    declare(&mut peer, "q");
    peer.select_confirms(1);
    for body in numbers(200) {
        peer.publish_content(1, say::publish("", "q"), &Content::persistent(body));
    }
    // The broker has read them all, or this would not be answered.
    peer.send(1, say::qos(0, false));
    let (mut confirmed, mut signalled) = (std::collections::BTreeSet::new(), false);
    loop {
        let frame = peer.frame();
        match frame.method() {
            Some(AMQPClass::Basic(basic::AMQPMethod::Ack(ack))) if ack.multiple => {
                confirmed.extend(1..=ack.delivery_tag);
            }
            Some(AMQPClass::Basic(basic::AMQPMethod::Ack(ack))) => {
                confirmed.insert(ack.delivery_tag);
            }
            Some(AMQPClass::Basic(basic::AMQPMethod::QosOk(_))) if !signalled => {
                broker.server.signal("TERM");
                signalled = true;
            }
            Some(AMQPClass::Connection(connection::AMQPMethod::Close(_))) => break,
            _ => panic!("a confirm, qos-ok or connection.close, came {frame:?}"),
        }
    }
    peer.send(0, connection::CloseOk {});
    assert_eq!(confirmed.len(), 200, "all confirms before the close");
    assert!(broker.server.wait_for_end().success());
    broker.server.restart();
    let mut peer = broker.server.peer();
    peer.expect_contents(1, "q", &as_strs(&numbers(200)));
}

#[test]
fn recovery_says_what_it_found() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    let mut peer = broker.server.peer();
    declare(&mut peer, "q");
    publish_confirmed(&mut peer, "q", &["1", "2", "3"]);
    broker.again(End::Kill).close();
    let log = broker.server.log_until("Server startup complete; 0 plugins started.");
    let recovered = log.lines().find(|line| line.contains("recovered"));
    let recovered = recovered.unwrap_or_else(|| panic!("no line about recovery in\n{log}"));
    assert!(recovered.contains("3 messages"), "{recovered}");
}
