//! The exchange types of RabbitMQ's plugins and newer versions.

use std::collections::BTreeMap;

use amq_protocol::protocol::{exchange, queue};
use amq_protocol::types::AMQPValue;
use leveret_suite::values::{table, text};
use leveret_suite::{Content, Octets, Peer, Server, differs_from_reference, say, unique};

/// The queues of one exchange, by their weight or binding key.
struct Bound {
    exchange: String,
    queues: Vec<String>,
}

fn peer() -> Peer {
    Server::start().peer()
}

fn declare(name: &str, kind: &str, arguments: &[(&str, AMQPValue)]) -> exchange::Declare {
    say::exchange_with(name, kind, |declare| declare.arguments = table(arguments))
}

fn new_exchange(peer: &mut Peer, kind: &str, arguments: &[(&str, AMQPValue)]) -> String {
    let name = unique("exchange");
    peer.ask::<exchange::DeclareOk>(1, declare(&name, kind, arguments));
    name
}

/// An exchange with a queue for each binding key.
fn bound(peer: &mut Peer, kind: &str, arguments: &[(&str, AMQPValue)], keys: &[&str]) -> Bound {
    let exchange = new_exchange(peer, kind, arguments);
    let queues = keys.iter().map(|key| {
        let queue = peer.queue(1, "choice");
        peer.bind(1, &queue, &exchange, key);
        queue
    });
    Bound { queues: queues.collect(), exchange }
}

impl Bound {
    /// What each of the queues has got; it is gone afterwards.
    fn contents(&self, peer: &mut Peer) -> Vec<Vec<String>> {
        let drained = self.queues.iter().map(|queue| peer.drain(1, queue));
        drained.map(|messages| messages.into_iter().map(|(body, _)| body).collect()).collect()
    }

    /// In which queue each body is; every body is in one.
    fn places(&self, peer: &mut Peer) -> BTreeMap<String, usize> {
        let mut places = BTreeMap::new();
        for (at, bodies) in self.contents(peer).into_iter().enumerate() {
            for body in bodies {
                let again = places.insert(body.clone(), at);
                assert_eq!(again, None, "{body} is in two queues, or twice in one");
            }
        }
        places
    }
}

/// Messages with the routing keys, and bodies, 0 to `count`.
fn publish_numbers(peer: &mut Peer, exchange: &str, count: usize) {
    for number in 0..count {
        let number = number.to_string();
        peer.publish(1, exchange, &number, &number);
    }
}

fn refused(kind: &str, arguments: &[(&str, AMQPValue)], text: &str) {
    let name = unique("refused");
    let text = format!("PRECONDITION_FAILED - {text}");
    peer().refused(1, declare(&name, kind, arguments), 406, &text);
}

fn refused_binding(kind: &str, key: &str, text: &str) {
    let mut peer = peer();
    let exchange = new_exchange(&mut peer, kind, &[]);
    let queue = peer.queue(1, "unbound");
    let text = format!("PRECONDITION_FAILED - {text}");
    peer.refused(1, say::bind(&queue, &exchange, key), 406, &text);
}

// x-consistent-hash

#[test]
fn a_consistent_hash_gives_each_message_one_destination_by_weight() {
    let mut peer = peer();
    let bound = bound(&mut peer, "x-consistent-hash", &[], &["1", "3"]);
    publish_numbers(&mut peer, &bound.exchange, 2_000);
    let places = bound.places(&mut peer);
    assert_eq!(places.len(), 2_000, "no message is lost");
    let heavy = places.values().filter(|at| **at == 1).count();
    assert!((1_350..1_650).contains(&heavy), "{heavy} of 2000 for 3 of 4");
}

#[test]
fn a_consistent_hash_sends_the_same_key_to_the_same_queue() {
    let mut peer = peer();
    let bound = bound(&mut peer, "x-consistent-hash", &[], &["1", "1", "1"]);
    publish_numbers(&mut peer, &bound.exchange, 100);
    let first = bound.places(&mut peer);
    let mut other = Server::start().peer();
    publish_numbers(&mut other, &bound.exchange, 100);
    other.in_step(1);
    assert_eq!(bound.places(&mut peer), first);
}

#[test]
fn hash_header_hashes_a_header() {
    let mut peer = peer();
    let arguments = [("hash-header", text("customer"))];
    let bound = bound(&mut peer, "x-consistent-hash", &arguments, &["1", "1", "1"]);
    for customer in 0..30 {
        let headers = Octets::new().entry_str("customer", &format!("c{customer}"));
        for key in ["a", "b"] {
            let content = Content::with_headers(&headers, format!("{customer}-{key}"));
            peer.publish_content(1, say::publish(&bound.exchange, key), &content);
        }
    }
    let places = bound.places(&mut peer);
    assert_eq!(places.len(), 60);
    for customer in 0..30 {
        let place = |key: &str| places.get(&format!("{customer}-{key}"));
        assert_eq!(place("a"), place("b"), "customer {customer}");
    }
    let first = places.values().next();
    assert!(places.values().any(|at| Some(at) != first), "all in one");
}

#[test]
fn hash_property_hashes_a_property() {
    let mut peer = peer();
    let arguments = [("hash-property", text("message_id"))];
    let bound = bound(&mut peer, "x-consistent-hash", &arguments, &["1", "1", "1"]);
    for id in 0..30 {
        for key in ["a", "b"] {
            let properties = Octets::new().shortstr(format!("id{id}"));
            let content = Content::with(1 << 7, properties, format!("{id}-{key}"));
            peer.publish_content(1, say::publish(&bound.exchange, key), &content);
        }
    }
    let places = bound.places(&mut peer);
    assert_eq!(places.len(), 60);
    for id in 0..30 {
        let place = |key: &str| places.get(&format!("{id}-{key}"));
        assert_eq!(place("a"), place("b"), "message {id}");
    }
    let first = places.values().next();
    assert!(places.values().any(|at| Some(at) != first), "all in one");
}

#[test]
fn a_weight_that_is_no_integer_is_406() {
    let text = "The binding key must be an integer: <<\"heavy\">>";
    refused_binding("x-consistent-hash", "heavy", text);
}

#[test]
fn a_weight_below_1_is_406() {
    let text = "The binding key must be greater than 0";
    refused_binding("x-consistent-hash", "0", text);
    refused_binding("x-consistent-hash", "-5", text);
}

#[test]
fn hash_header_and_hash_property_are_mutually_exclusive() {
    let both = [("hash-header", text("customer")), ("hash-property", text("message_id"))];
    let text = "hash-header and hash-property are mutually exclusive";
    refused("x-consistent-hash", &both, text);
}

#[test]
fn an_unsupported_hash_property_is_406() {
    let arguments = [("hash-property", text("app_id"))];
    refused("x-consistent-hash", &arguments, "Unsupported property: app_id");
}

#[test]
fn a_second_binding_of_a_queue_does_not_add_to_its_weight() {
    let mut peer = peer();
    let bound = bound(&mut peer, "x-consistent-hash", &[], &["1", "1"]);
    publish_numbers(&mut peer, &bound.exchange, 100);
    let before = bound.places(&mut peer);
    peer.bind(1, &bound.queues[0], &bound.exchange, "1000");
    publish_numbers(&mut peer, &bound.exchange, 100);
    assert_eq!(bound.places(&mut peer), before);
}

#[test]
fn an_unbound_queue_gets_nothing_any_more_and_the_others_everything() {
    let mut peer = peer();
    let bound = bound(&mut peer, "x-consistent-hash", &[], &["2", "1"]);
    peer.ask::<queue::UnbindOk>(1, say::unbind(&bound.queues[0], &bound.exchange, "2"));
    publish_numbers(&mut peer, &bound.exchange, 50);
    let counts: Vec<usize> = bound.contents(&mut peer).iter().map(Vec::len).collect();
    assert_eq!(counts, [0, 50]);
}

// x-modulus-hash

#[test]
fn a_modulus_hash_gives_each_message_one_destination_whatever_the_binding_keys() {
    let mut peer = peer();
    let bound = bound(&mut peer, "x-modulus-hash", &[], &["", "0", "never", "1"]);
    publish_numbers(&mut peer, &bound.exchange, 1_000);
    let places = bound.places(&mut peer);
    assert_eq!(places.len(), 1_000, "no message is lost");
    for queue in 0..4 {
        let count = places.values().filter(|at| **at == queue).count();
        assert!((190..310).contains(&count), "{count} of 1000 for 1 of 4");
    }
    publish_numbers(&mut peer, &bound.exchange, 1_000);
    assert_eq!(bound.places(&mut peer), places, "the same keys again");
}

// x-random, x-local-random

#[test]
fn random_takes_one_binding_by_chance() {
    let mut peer = peer();
    let bound = bound(&mut peer, "x-random", &[], &["", "b", "c"]);
    for number in 0..600 {
        peer.publish(1, &bound.exchange, "always the same", number.to_string());
    }
    let places = bound.places(&mut peer);
    assert_eq!(places.len(), 600, "no message is lost");
    for queue in 0..3 {
        let count = places.values().filter(|at| **at == queue).count();
        assert!((120..280).contains(&count), "{count} of 600 for 1 of 3");
    }
}

#[test]
fn local_random_takes_one_queue_by_chance() {
    if differs_from_reference("local_random_takes_one_queue_by_chance") {
        return;
    }
    let mut peer = peer();
    let bound = bound(&mut peer, "x-local-random", &[], &["", ""]);
    for number in 0..400 {
        peer.publish(1, &bound.exchange, "", number.to_string());
    }
    let places = bound.places(&mut peer);
    assert_eq!(places.len(), 400, "no message is lost");
    let first = places.values().filter(|at| **at == 0).count();
    assert!((120..280).contains(&first), "{first} of 400 for 1 of 2");
}

#[test]
fn local_random_refuses_a_binding_key() {
    if differs_from_reference("local_random_refuses_a_binding_key") {
        return;
    }
    let text = "Non empty binding 'k' key not permitted";
    refused_binding("x-local-random", "k", text);
}

#[test]
fn local_random_refuses_an_exchange() {
    if differs_from_reference("local_random_refuses_an_exchange") {
        return;
    }
    let mut peer = peer();
    let source = new_exchange(&mut peer, "x-local-random", &[]);
    let destination = peer.exchange(1, "fanout");
    let text = "PRECONDITION_FAILED - Destination not found";
    peer.refused(1, bind_exchange(&destination, &source), 406, text);
}

fn bind_exchange(destination: &str, source: &str) -> exchange::Bind {
    exchange::Bind { destination: destination.into(), source: source.into(), ..Default::default() }
}

#[test]
fn an_exchange_that_chooses_and_has_no_binding_routes_nowhere() {
    if differs_from_reference("an_exchange_that_chooses_and_has_no_binding_routes_nowhere") {
        return;
    }
    let mut peer = peer();
    for kind in ["x-consistent-hash", "x-modulus-hash", "x-random", "x-local-random", "x-recent-history"] {
        let exchange = new_exchange(&mut peer, kind, &[]);
        peer.publish_content(1, say::publish_mandatory(&exchange, "k"), &Content::new("back"));
        let (returned, content) = peer.expect_return(1);
        assert_eq!((returned.reply_code, content.text()), (312, "back".into()));
    }
}

// x-recent-history

/// A new queue, bound with the empty key.
fn newly_bound(peer: &mut Peer, exchange: &str) -> String {
    let queue = peer.queue(1, "late");
    peer.bind(1, &queue, exchange, "");
    queue
}

#[test]
fn recent_history_is_a_fanout() {
    let mut peer = peer();
    let bound = bound(&mut peer, "x-recent-history", &[], &["a", "b"]);
    peer.publish(1, &bound.exchange, "ignored", "all");
    assert_eq!(bound.contents(&mut peer), [["all"], ["all"]]);
}

#[test]
fn a_newly_bound_queue_gets_the_last_20_messages_in_order() {
    let mut peer = peer();
    let exchange = new_exchange(&mut peer, "x-recent-history", &[]);
    publish_numbers(&mut peer, &exchange, 25);
    let queue = newly_bound(&mut peer, &exchange);
    let last: Vec<String> = (5..25).map(|number| number.to_string()).collect();
    let last: Vec<&str> = last.iter().map(String::as_str).collect();
    peer.expect_contents(1, &queue, &last);
}

#[test]
fn x_recent_history_length_says_how_many() {
    let mut peer = peer();
    let arguments = [("x-recent-history-length", AMQPValue::LongInt(3))];
    let exchange = new_exchange(&mut peer, "x-recent-history", &arguments);
    publish_numbers(&mut peer, &exchange, 2);
    peer.in_step(1);
    publish_numbers(&mut peer, &exchange, 2);
    let queue = newly_bound(&mut peer, &exchange);
    peer.expect_contents(1, &queue, &["1", "0", "1"]);
}

#[test]
fn a_history_length_below_1_is_406() {
    let arguments = [("x-recent-history-length", AMQPValue::LongInt(0))];
    let text = "Invalid argument 0, 'x-recent-history-length' must be a positive integer";
    refused("x-recent-history", &arguments, text);
}

#[test]
fn a_history_length_that_is_no_integer_is_406() {
    let arguments = [("x-recent-history-length", text("3"))];
    let text = "Invalid argument <<\"3\">>, 'x-recent-history-length' must be a positive integer";
    refused("x-recent-history", &arguments, text);
}

#[test]
fn x_recent_history_no_store_keeps_a_message_out() {
    let mut peer = peer();
    let bound = bound(&mut peer, "x-recent-history", &[], &[""]);
    let flags = [("left out", 1), ("kept", 0)];
    for (body, value) in flags {
        let headers = Octets::new().entry("x-recent-history-no-store", b't', [value]);
        let content = Content::with_headers(headers, body);
        peer.publish_content(1, say::publish(&bound.exchange, ""), &content);
    }
    assert_eq!(bound.contents(&mut peer), [["left out", "kept"]]);
    let queue = newly_bound(&mut peer, &bound.exchange);
    peer.expect_contents(1, &queue, &["kept"]);
}

#[test]
fn a_replayed_message_is_as_it_was_published() {
    let mut peer = peer();
    let exchange = new_exchange(&mut peer, "x-recent-history", &[]);
    let headers = Octets::new().entry_str("colour", "red");
    let content = Content::with_headers(headers, "body");
    peer.publish_content(1, say::publish(&exchange, "the.key"), &content);
    let queue = newly_bound(&mut peer, &exchange);
    let (got, replayed) = peer.get(1, &queue);
    assert_eq!(got.exchange.as_str(), exchange);
    assert_eq!(got.routing_key.as_str(), "the.key");
    assert!(!got.redelivered);
    assert_eq!(replayed, content);
}

#[test]
fn what_has_been_confirmed_is_replayed_to_whoever_binds_next() {
    let mut peer = peer();
    let exchange = new_exchange(&mut peer, "x-recent-history", &[]);
    let mut publisher = Server::start().peer();
    publisher.select_confirms(1);
    for number in 1..=50 {
        let body = number.to_string();
        publisher.publish(1, &exchange, "", &body);
        publisher.expect_confirms_from(number);
        let queue = newly_bound(&mut peer, &exchange);
        let last = peer.drain(1, &queue).pop().map(|(body, _)| body);
        assert_eq!(last, Some(body));
    }
}

trait ConfirmOne {
    fn expect_confirms_from(&mut self, number: u64);
}

impl ConfirmOne for Peer {
    fn expect_confirms_from(&mut self, number: u64) {
        let ack: amq_protocol::protocol::basic::Ack = self.expect(1);
        assert_eq!(ack.delivery_tag, number);
    }
}

#[test]
fn binding_again_replays_nothing() {
    let mut peer = peer();
    let exchange = new_exchange(&mut peer, "x-recent-history", &[]);
    peer.publish(1, &exchange, "", "once");
    let queue = newly_bound(&mut peer, &exchange);
    peer.expect_contents(1, &queue, &["once"]);
    peer.bind(1, &queue, &exchange, "");
    peer.expect_contents(1, &queue, &[]);
}

#[test]
fn a_newly_bound_exchange_gets_the_history_too() {
    if differs_from_reference("a_newly_bound_exchange_gets_the_history_too") {
        return;
    }
    let mut peer = peer();
    let source = new_exchange(&mut peer, "x-recent-history", &[]);
    let topic = peer.exchange(1, "topic");
    let queue = peer.queue(1, "behind");
    peer.bind(1, &queue, &topic, "*.yes");
    for key in ["a.yes", "a.no", "b.yes"] {
        peer.publish(1, &source, key, key);
    }
    peer.ask::<exchange::BindOk>(1, bind_exchange(&topic, &source));
    peer.expect_contents(1, &queue, &["a.yes", "b.yes"]);
}

#[test]
fn a_history_also_has_what_came_through_another_exchange() {
    let mut peer = peer();
    let source = peer.exchange(1, "fanout");
    let history = new_exchange(&mut peer, "x-recent-history", &[]);
    peer.ask::<exchange::BindOk>(1, bind_exchange(&history, &source));
    peer.publish(1, &source, "", "through");
    let queue = newly_bound(&mut peer, &history);
    peer.expect_contents(1, &queue, &["through"]);
}

#[test]
fn a_deleted_and_declared_exchange_has_no_history() {
    let mut peer = peer();
    let exchange = new_exchange(&mut peer, "x-recent-history", &[]);
    peer.publish(1, &exchange, "", "gone");
    peer.ask::<exchange::DeleteOk>(1, say::delete_exchange(&exchange));
    peer.ask::<exchange::DeclareOk>(1, declare(&exchange, "x-recent-history", &[]));
    let queue = newly_bound(&mut peer, &exchange);
    peer.expect_contents(1, &queue, &[]);
}

#[test]
fn a_message_in_pieces_is_kept_whole() {
    let mut peer = peer();
    let exchange = new_exchange(&mut peer, "x-recent-history", &[]);
    let body = "0123456789".repeat(40_000);
    peer.publish(1, &exchange, "", &body);
    let queue = newly_bound(&mut peer, &exchange);
    peer.take(1, &queue, &body);
}

// All of them

#[test]
fn unknown_arguments_are_no_reason_to_refuse_and_none_but_alternate_exchange_is_compared() {
    if differs_from_reference("unknown_arguments_are_no_reason_to_refuse_and_none_but_alternate_exchange_is_compared") {
        return;
    }
    let mut peer = peer();
    let name = unique("compared");
    let first = [("hash-header", text("a")), ("other", text("b"))];
    peer.ask::<exchange::DeclareOk>(1, declare(&name, "x-consistent-hash", &first));
    peer.ask::<exchange::DeclareOk>(1, declare(&name, "x-consistent-hash", &[]));
    let text = format!(
        "PRECONDITION_FAILED - inequivalent arg 'type' for exchange '{name}' in vhost '/': received 'x-random' but \
         current is 'x-consistent-hash'"
    );
    peer.refused(1, declare(&name, "x-random", &[]), 406, &text);
}

#[test]
fn durable_exchanges_of_these_types_survive_a_restart_with_their_arguments() {
    if Server::is_given() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let mut server = Server::start_durable(dir.path());
    let kinds = [
        ("x-consistent-hash", "hash-header", text("customer")),
        ("x-modulus-hash", "other", text("x")),
        ("x-random", "other", text("x")),
        ("x-local-random", "other", text("x")),
        ("x-recent-history", "x-recent-history-length", AMQPValue::LongInt(2)),
    ];
    let mut peer = server.peer();
    for (kind, argument, value) in &kinds {
        let mut method = declare(kind, kind, &[(argument, value.clone())]);
        method.durable = true;
        peer.ask::<exchange::DeclareOk>(1, method);
        for at in 0..3 {
            let queue = format!("{kind}-{at}");
            let durable = |declare: &mut queue::Declare| declare.durable = true;
            peer.ask::<queue::DeclareOk>(1, say::declare_with(&queue, durable));
            let key = if *kind == "x-local-random" { "" } else { "1" };
            peer.bind(1, &queue, kind, key);
        }
    }
    // The older binding counts after a restart as well, whichever key is the smaller.
    peer.bind(1, "x-consistent-hash-0", "x-consistent-hash", "09");
    peer.bind(1, "x-consistent-hash-1", "x-consistent-hash", "+9");
    let places = |peer: &mut Peer, kind: &str| {
        for customer in 0..20 {
            let headers = Octets::new().entry_str("customer", &customer.to_string());
            let content = Content::with_headers(headers, customer.to_string());
            peer.publish_content(1, say::publish(kind, &format!("k{customer}")), &content);
        }
        let queues = (0..3).map(|at| peer.drain(1, &format!("{kind}-{at}")));
        queues.collect::<Vec<_>>()
    };
    let hashing = ["x-consistent-hash", "x-modulus-hash"];
    let before = hashing.map(|kind| places(&mut peer, kind));
    server.kill9();
    server.restart();

    let mut peer = server.peer();
    assert_eq!(hashing.map(|kind| places(&mut peer, kind)), before);
    for (kind, ..) in &kinds {
        peer.ask::<exchange::DeclareOk>(1, say::exchange_with(kind, kind, |declare| declare.durable = true));
        let total: usize = places(&mut peer, kind).iter().map(Vec::len).sum();
        let each = if *kind == "x-recent-history" { 3 } else { 1 };
        assert_eq!(total, 20 * each, "{kind}");
    }
    let queue = newly_bound(&mut peer, "x-recent-history");
    peer.expect_contents(1, &queue, &["18", "19"]);
}
