//! BCC: routing keys of a message that nobody sees, and that it keeps.

use amq_protocol::protocol::{exchange, tx};
use amq_protocol::types::AMQPValue;
use leveret_suite::durable::{Durable, End};
use leveret_suite::values::{deaths, declare_durable_with, header, int, table, text};
use leveret_suite::{Content, Octets, Peer, Server, say, unique};

const DLX: &str = "x-dead-letter-exchange";
const DLK: &str = "x-dead-letter-routing-key";

fn peer() -> Peer {
    Server::start().peer()
}

/// A table entry of an array of long strings.
fn keys(name: &str, keys: &[&str]) -> Octets {
    let items = keys.iter().fold(Octets::new(), |items, key| items.u8(b'S').longstr(key));
    Octets::new().entry(name, b'A', Octets::new().longstr(items))
}

/// Headers with one visible and one hidden key.
fn copied() -> Octets {
    keys("CC", &["copy"]).bytes(keys("BCC", &["hidden"]))
}

/// A direct exchange, and a queue for each of these keys.
fn exchange_with(peer: &mut Peer, keys: &[&str]) -> (String, Vec<String>) {
    let exchange = peer.exchange(1, "direct");
    let queues = keys.iter().map(|key| {
        let queue = peer.queue(1, "by");
        peer.bind(1, &queue, &exchange, key);
        queue
    });
    let queues = queues.collect();
    (exchange, queues)
}

#[track_caller]
fn reject_next(peer: &mut Peer, queue: &str) {
    let tag = peer.wait_for(1, queue).0.delivery_tag;
    peer.send(1, say::reject(tag, false));
}

/// The latest entry's routing keys in x-death.
fn recorded(content: &Content) -> Vec<AMQPValue> {
    let AMQPValue::FieldArray(keys) = deaths(content)[0].inner()["routing-keys"].clone() else { panic!() };
    keys.as_slice().to_vec()
}

#[track_caller]
fn expect_hidden(content: &Content) {
    assert_eq!(header(content, "BCC"), None, "{content:?}");
    assert!(matches!(header(content, "CC"), Some(AMQPValue::FieldArray(_))), "{content:?}");
}

#[test]
fn without_a_dead_letter_key_bcc_leads_the_way_too_and_nobody_sees_it() {
    let mut peer = peer();
    let source = unique("source");
    let (dlx, graves) = exchange_with(&mut peer, &[&source, "copy", "hidden"]);
    let declare = say::declare_with(&source, |declare| declare.arguments = table(&[(DLX, text(&dlx))]));
    peer.ask::<amq_protocol::protocol::queue::DeclareOk>(1, declare);
    peer.publish_content(1, say::publish("", &source), &Content::with_headers(copied(), "x"));
    reject_next(&mut peer, &source);
    for grave in &graves {
        let (got, content) = peer.wait_for(1, grave);
        assert_eq!((got.exchange.as_str(), got.routing_key.as_str()), (&*dlx, &*source), "the first key");
        expect_hidden(&content);
        assert_eq!(recorded(&content), [text(&source), text("copy")]);
    }
}

#[test]
fn a_dead_letter_that_dies_again_is_still_routed_by_its_hidden_keys() {
    let mut peer = peer();
    let (second, graves) = exchange_with(&mut peer, &["first", "copy", "hidden"]);
    let first = peer.exchange(1, "fanout");
    let (source, between) = (peer.queue_with(1, &[(DLX, text(&first))]), peer.queue_with(1, &[(DLX, text(&second))]));
    let entry = peer.exchange(1, "fanout");
    peer.bind(1, &source, &entry, "");
    peer.bind(1, &between, &first, "");
    peer.publish_content(1, say::publish(&entry, "first"), &Content::with_headers(copied(), "x"));
    reject_next(&mut peer, &source);
    reject_next(&mut peer, &between);
    for grave in &graves {
        let (_, content) = peer.wait_for(1, grave);
        expect_hidden(&content);
        assert_eq!(recorded(&content), [text("first"), text("copy")]);
        assert_eq!(deaths(&content).len(), 2);
    }
}

#[test]
fn a_dead_letter_key_takes_the_place_of_all_keys_for_later_deaths_too() {
    let mut peer = peer();
    let (second, graves) = exchange_with(&mut peer, &["other", "first", "copy", "hidden"]);
    let first = peer.exchange(1, "fanout");
    let source = peer.queue_with(1, &[(DLX, text(&first)), (DLK, text("other"))]);
    let between = peer.queue_with(1, &[(DLX, text(&second))]);
    let entry = peer.exchange(1, "fanout");
    peer.bind(1, &source, &entry, "");
    peer.bind(1, &between, &first, "");
    peer.publish_content(1, say::publish(&entry, "first"), &Content::with_headers(copied(), "x"));
    reject_next(&mut peer, &source);
    reject_next(&mut peer, &between);
    let (_, content) = peer.wait_for(1, &graves[0]);
    expect_hidden(&content);
    assert_eq!(recorded(&content), [text("other")], "before that death");
    for nobody in &graves[1..] {
        peer.expect_counts(1, nobody, (0, 0));
    }
}

#[test]
fn hidden_keys_survive_a_kill_and_are_never_seen() {
    let Some(mut broker) = Durable::start() else {
        return;
    };
    let mut peer = broker.server.peer();
    peer.ask::<exchange::DeclareOk>(1, say::exchange_with("dlx", "direct", |declare| declare.durable = true));
    for declare in [declare_durable_with("source", &[(DLX, text("dlx"))]), declare_durable_with("grave", &[])] {
        peer.ask::<amq_protocol::protocol::queue::DeclareOk>(1, declare);
    }
    peer.bind(1, "grave", "dlx", "hidden");
    // Headers and delivery mode 2.
    let persistent = Content::with(1 << 13 | 1 << 12, Octets::new().longstr(copied()).u8(2), "x");
    peer.open_channel(2);
    peer.select_confirms(2);
    peer.publish_content(2, say::publish("", "source"), &persistent);
    peer.expect_confirms(2, 1);
    let mut peer = broker.again(End::Kill);
    let (got, content) = peer.get(1, "source");
    expect_hidden(&content);
    peer.send(1, say::reject(got.delivery_tag, false));
    peer.wait_for_count(1, "grave", 1);
    // A kill now might find it in its old place, for nobody has waited for the new one.
    let mut peer = broker.again_with(peer, End::Stop);
    peer.consume(1, "grave", "c");
    let delivery = peer.expect_delivery(1);
    expect_hidden(&delivery.content);
    assert_eq!(recorded(&delivery.content), [text("source"), text("copy")]);
}

#[test]
fn a_delivery_count_is_shown_beside_what_is_hidden() {
    let mut peer = peer();
    let queue = peer.quorum_queue(1, &[]);
    peer.publish_content(1, say::publish("", &queue), &Content::with_headers(copied(), "x"));
    let (got, content) = peer.wait_for(1, &queue);
    expect_hidden(&content);
    peer.send(1, say::reject(got.delivery_tag, true));
    let (_, content) = peer.wait_for(1, &queue);
    expect_hidden(&content);
    assert!(header(&content, "x-delivery-count").is_some(), "{content:?}");
}

#[test]
fn a_return_in_a_transaction_does_not_show_bcc() {
    let mut peer = peer();
    peer.ask::<tx::SelectOk>(1, tx::Select {});
    let publish = say::publish_mandatory("amq.direct", &unique("nobody"));
    peer.publish_content(1, publish, &Content::with_headers(copied(), "x"));
    peer.send(1, tx::Commit {});
    expect_hidden(&peer.expect_return(1).1);
}

#[test]
fn a_direct_reply_does_not_show_bcc() {
    let mut requester = peer();
    let mut replier = peer();
    let service = requester.queue(1, "service");
    requester.consume_with(1, "amq.rabbitmq.reply-to", "replies", |consume| consume.no_ack = true);
    // The property reply-to.
    let request = Content::with(1 << 9, Octets::new().shortstr("amq.rabbitmq.reply-to"), "request");
    requester.publish_content(1, say::publish("", &service), &request);
    let (_, content) = replier.wait_for(1, &service);
    let properties = leveret_suite::values::properties(&content);
    let to = properties.reply_to().clone().expect("a name to reply to");
    replier.publish_content(1, say::publish("", to.as_str()), &Content::with_headers(copied(), "reply"));
    let delivery = requester.expect_delivery(1);
    assert_eq!(delivery.text(), "reply");
    expect_hidden(&delivery.content);
}

#[test]
fn a_replayed_message_still_has_its_hidden_keys() {
    let mut peer = peer();
    let (dlx, graves) = exchange_with(&mut peer, &["hidden"]);
    let history = peer.exchange(1, "x-recent-history");
    peer.publish_content(1, say::publish(&history, "key"), &Content::with_headers(copied(), "x"));
    let queue = peer.queue_with(1, &[(DLX, text(&dlx))]);
    peer.bind(1, &queue, &history, "");
    let (got, content) = peer.wait_for(1, &queue);
    expect_hidden(&content);
    peer.send(1, say::reject(got.delivery_tag, false));
    expect_hidden(&peer.wait_for(1, &graves[0]).1);
}

#[test]
fn a_message_replayed_into_a_delayed_exchange_is_routed_by_its_hidden_keys_when_due() {
    let broker = match Server::is_given() {
        true => return,
        false => Server::start_with(&["--storage", "memory"]),
    };
    let mut peer = broker.peer();
    let delayed = say::exchange_with("delayed", "x-delayed-message", |declare| {
        declare.arguments = table(&[("x-delayed-type", text("direct"))]);
    });
    peer.ask::<exchange::DeclareOk>(1, delayed);
    let (first, queue) = (peer.exchange(1, "x-recent-history"), peer.queue_with(1, &[(DLX, text("delayed"))]));
    peer.bind(1, &queue, "delayed", "hidden");
    let headers = copied().entry("x-delay", b'I', 300i32.to_be_bytes());
    peer.publish_content(1, say::publish(&first, "key"), &Content::with_headers(headers, "x"));
    let bind = exchange::Bind { source: first.as_str().into(), destination: "delayed".into(), ..Default::default() };
    peer.ask::<exchange::BindOk>(1, bind);
    let (_, content) = peer.wait_for(1, &queue);
    expect_hidden(&content);
    assert_eq!(header(&content, "x-delay"), Some(int(-300)));
}
