//! Exchanges that lead to exchanges: bindings beyond the simple cases in `exchange`, auto-delete cascades, and
//! alternates.

use amq_protocol::protocol::{exchange, queue};
use amq_protocol::types::{AMQPValue, FieldTable};
use leveret_suite::{Content, Octets, Peer, Server, differs_from_reference, say, unique};

const DEFAULT: &str = "ACCESS_REFUSED - operation not permitted on the default exchange";

fn peer() -> Peer {
    Server::start().peer()
}

fn no_exchange(name: &str) -> String {
    format!("NOT_FOUND - no exchange '{name}' in vhost '/'")
}

fn link(source: &str, destination: &str) -> exchange::Bind {
    link_by(source, destination, "")
}

fn link_by(source: &str, destination: &str, key: &str) -> exchange::Bind {
    exchange::Bind {
        source: source.into(),
        destination: destination.into(),
        routing_key: key.into(),
        ..Default::default()
    }
}

fn unlink(source: &str, destination: &str) -> exchange::Unbind {
    exchange::Unbind { source: source.into(), destination: destination.into(), ..Default::default() }
}

fn with_alternate(name: &str, kind: &str, alternate: &str) -> exchange::Declare {
    say::exchange_with(name, kind, |declare| declare.arguments = alternate_argument(alternate))
}

fn alternate_argument(alternate: &str) -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("alternate-exchange".into(), AMQPValue::LongString(alternate.into()));
    arguments
}

fn auto_delete(peer: &mut Peer) -> String {
    let name = unique("auto");
    peer.ask::<exchange::DeclareOk>(1, say::exchange_with(&name, "fanout", |declare| declare.auto_delete = true));
    name
}

fn linked(peer: &mut Peer, source: &str, destination: &str) {
    peer.ask::<exchange::BindOk>(1, link(source, destination));
}

/// A direct exchange with an alternate of this name.
fn direct_with_alternate(peer: &mut Peer, alternate: &str) -> String {
    let name = unique("direct");
    peer.ask::<exchange::DeclareOk>(1, with_alternate(&name, "direct", alternate));
    name
}

/// A fanout exchange with a queue: both names.
fn fanout_with_queue(peer: &mut Peer) -> (String, String) {
    let (fanout, queue) = (peer.exchange(1, "fanout"), peer.queue(1, "queue"));
    peer.bind(1, &queue, &fanout, "");
    (fanout, queue)
}

#[track_caller]
fn expect_gone(peer: &mut Peer, exchange: &str) {
    peer.refused(1, say::exchange_passive(exchange), 404, &no_exchange(exchange));
    peer.open_channel(1);
}

#[track_caller]
fn expect_there(peer: &mut Peer, exchange: &str) {
    peer.ask::<exchange::DeclareOk>(1, say::exchange_passive(exchange));
}

#[track_caller]
fn expect_returned(peer: &mut Peer, exchange: &str, key: &str) {
    let publish = say::publish_mandatory(exchange, key);
    peer.publish_content(1, publish, &Content::new("nowhere"));
    let (returned, _) = peer.expect_return(1);
    assert_eq!((returned.reply_code, returned.reply_text.as_str()), (312, "NO_ROUTE"));
}

// Exchange-to-exchange

#[test]
fn the_key_of_an_exchange_binding_is_matched_by_the_source() {
    let mut peer = peer();
    let source = peer.exchange(1, "direct");
    let (fanout, queue) = fanout_with_queue(&mut peer);
    peer.ask::<exchange::BindOk>(1, link_by(&source, &fanout, "this"));
    peer.publish(1, &source, "this", "in");
    peer.publish(1, &source, "that", "out");
    peer.expect_contents(1, &queue, &["in"]);
}

#[test]
fn a_queue_reached_on_several_ways_gets_one_copy() {
    let mut peer = peer();
    let source = peer.exchange(1, "fanout");
    let (left, queue) = fanout_with_queue(&mut peer);
    let right = peer.exchange(1, "fanout");
    peer.bind(1, &queue, &right, "");
    peer.bind(1, &queue, &source, "");
    linked(&mut peer, &source, &left);
    linked(&mut peer, &source, &right);
    peer.publish(1, &source, "", "once");
    peer.expect_contents(1, &queue, &["once"]);
}

#[test]
fn cycles_are_safe() {
    let mut peer = peer();
    let (a, queue) = fanout_with_queue(&mut peer);
    let b = peer.exchange(1, "fanout");
    for (source, destination) in [(&a, &b), (&b, &a), (&a, &a)] {
        linked(&mut peer, source, destination);
    }
    for exchange in [&a, &b] {
        peer.publish(1, exchange, "", exchange);
    }
    peer.expect_contents(1, &queue, &[&a, &b]);
}

#[test]
fn a_long_chain_of_exchanges_is_followed_to_its_end() {
    let mut peer = peer();
    let first = peer.exchange(1, "fanout");
    let mut last = first.clone();
    for _ in 0..40 {
        let next = peer.exchange(1, "fanout");
        linked(&mut peer, &last, &next);
        linked(&mut peer, &next, &first);
        last = next;
    }
    let queue = peer.queue(1, "end");
    peer.bind(1, &queue, &last, "");
    peer.publish(1, &first, "", "through");
    peer.expect_contents(1, &queue, &["through"]);
}

#[test]
fn exchange_unbind_undoes_it() {
    let mut peer = peer();
    let source = peer.exchange(1, "fanout");
    let (fanout, queue) = fanout_with_queue(&mut peer);
    linked(&mut peer, &source, &fanout);
    peer.ask::<exchange::UnbindOk>(1, unlink(&source, &fanout));
    peer.publish(1, &source, "", "late");
    peer.expect_contents(1, &queue, &[]);
}

#[test]
fn binding_exchanges_twice_is_a_no_op() {
    let mut peer = peer();
    let source = peer.exchange(1, "fanout");
    let (fanout, queue) = fanout_with_queue(&mut peer);
    linked(&mut peer, &source, &fanout);
    linked(&mut peer, &source, &fanout);
    peer.publish(1, &source, "", "once");
    peer.expect_contents(1, &queue, &["once"]);
    peer.ask::<exchange::UnbindOk>(1, unlink(&source, &fanout));
    expect_returned(&mut peer, &source, "");
}

#[test]
fn unbinding_exchanges_that_are_not_bound_or_not_there_is_fine() {
    let mut peer = peer();
    let (a, b) = (peer.exchange(1, "fanout"), peer.exchange(1, "fanout"));
    peer.ask::<exchange::UnbindOk>(1, unlink(&a, &b));
    peer.ask::<exchange::UnbindOk>(1, unlink(&a, &unique("missing")));
    peer.ask::<exchange::UnbindOk>(1, unlink(&unique("missing"), &b));
}

#[test]
fn the_default_exchange_is_no_end_of_a_binding() {
    let mut peer = peer();
    let there = peer.exchange(1, "fanout");
    for (source, destination) in [("", &*there), (&*there, "")] {
        peer.refused(1, link(source, destination), 403, DEFAULT);
        peer.open_channel(1);
        peer.refused(1, unlink(source, destination), 403, DEFAULT);
        peer.open_channel(1);
    }
}

#[test]
fn a_deleted_exchange_leaves_no_binding_behind_in_either_direction() {
    let mut peer = peer();
    let source = peer.exchange(1, "fanout");
    let (middle, queue) = fanout_with_queue(&mut peer);
    linked(&mut peer, &source, &middle);
    peer.ask::<exchange::DeleteOk>(1, say::delete_exchange(&middle));
    peer.ask::<exchange::DeclareOk>(1, say::exchange(&middle, "fanout"));
    expect_returned(&mut peer, &source, "");
    expect_returned(&mut peer, &middle, "");
    peer.expect_contents(1, &queue, &[]);
}

#[test]
fn further_keys_take_the_same_way_through_exchanges() {
    let mut peer = peer();
    let (source, direct, queue) = (peer.exchange(1, "fanout"), peer.exchange(1, "direct"), peer.queue(1, "copy"));
    peer.bind(1, &queue, &direct, "copy");
    linked(&mut peer, &source, &direct);
    let list = Octets::new().u8(b'S').longstr("copy");
    let headers = Octets::new().entry("CC", b'A', Octets::new().longstr(list));
    peer.publish_content(1, say::publish(&source, "main"), &Content::with_headers(headers, "copied"));
    peer.expect_contents(1, &queue, &["copied"]);
}

// Auto-delete

#[test]
fn an_auto_delete_exchange_goes_when_its_destination_exchange_goes() {
    let mut peer = peer();
    let (auto, destination) = (auto_delete(&mut peer), peer.exchange(1, "fanout"));
    linked(&mut peer, &auto, &destination);
    peer.ask::<exchange::DeleteOk>(1, say::delete_exchange(&destination));
    expect_gone(&mut peer, &auto);
}

#[test]
fn an_auto_delete_exchange_goes_with_its_last_exchange_binding() {
    let mut peer = peer();
    let (auto, a, b) = (auto_delete(&mut peer), peer.exchange(1, "fanout"), peer.exchange(1, "fanout"));
    linked(&mut peer, &auto, &a);
    linked(&mut peer, &auto, &b);
    peer.ask::<exchange::UnbindOk>(1, unlink(&auto, &a));
    expect_there(&mut peer, &auto);
    peer.ask::<exchange::UnbindOk>(1, unlink(&auto, &b));
    expect_gone(&mut peer, &auto);
}

#[test]
fn losing_a_binding_as_destination_does_not_delete() {
    let mut peer = peer();
    let (source, auto) = (peer.exchange(1, "fanout"), auto_delete(&mut peer));
    linked(&mut peer, &source, &auto);
    peer.ask::<exchange::UnbindOk>(1, unlink(&source, &auto));
    expect_there(&mut peer, &auto);
}

#[test]
fn a_cascade_stops_at_an_exchange_that_has_another_binding() {
    let mut peer = peer();
    let (upper, lower) = (auto_delete(&mut peer), auto_delete(&mut peer));
    let (queue, other) = (peer.queue(1, "end"), peer.queue(1, "other"));
    linked(&mut peer, &upper, &lower);
    peer.bind(1, &other, &upper, "");
    peer.bind(1, &queue, &lower, "");
    peer.ask::<queue::UnbindOk>(1, say::unbind(&queue, &lower, ""));
    expect_gone(&mut peer, &lower);
    expect_there(&mut peer, &upper);
    peer.publish(1, &upper, "", "still");
    peer.expect_contents(1, &other, &["still"]);
}

#[test]
fn a_loop_of_auto_delete_exchanges_goes_at_once() {
    let mut peer = peer();
    let (a, b) = (auto_delete(&mut peer), auto_delete(&mut peer));
    linked(&mut peer, &a, &b);
    linked(&mut peer, &b, &a);
    peer.ask::<exchange::DeleteOk>(1, say::delete_exchange(&a));
    expect_gone(&mut peer, &a);
    expect_gone(&mut peer, &b);
}

#[test]
fn a_very_long_cascade_is_only_long() {
    if differs_from_reference("a_very_long_cascade_is_only_long") {
        return;
    }
    let mut peer = peer();
    let run = unique("chain");
    let name = |at: usize| format!("{run}-{at}");
    const LENGTH: usize = 20_000;
    for at in 0..LENGTH {
        let declare = say::exchange_with(&name(at), "fanout", |declare| {
            (declare.auto_delete, declare.nowait) = (true, true);
        });
        peer.send(1, declare);
        if at > 0 {
            peer.send(1, exchange::Bind { nowait: true, ..link(&name(at - 1), &name(at)) });
        }
    }
    expect_there(&mut peer, &name(LENGTH - 1));
    peer.ask::<exchange::DeleteOk>(1, say::delete_exchange(&name(LENGTH - 1)));
    expect_gone(&mut peer, &name(0));
    expect_gone(&mut peer, &name(LENGTH / 2));
}

// Alternate exchanges

#[test]
fn a_message_that_matches_no_binding_goes_to_the_alternate() {
    let mut peer = peer();
    let (alternate, rest) = fanout_with_queue(&mut peer);
    let main = direct_with_alternate(&mut peer, &alternate);
    let queue = peer.queue(1, "matching");
    peer.bind(1, &queue, &main, "match");
    peer.publish(1, &main, "match", "matched");
    peer.publish(1, &main, "other", "left over");
    peer.expect_contents(1, &queue, &["matched"]);
    let got = peer.take(1, &rest, "left over");
    assert_eq!((got.exchange.as_str(), got.routing_key.as_str()), (&*main, "other"));
    peer.expect_contents(1, &rest, &[]);
}

#[test]
fn a_message_taken_by_the_alternate_is_not_returned() {
    let mut peer = peer();
    let (alternate, rest) = fanout_with_queue(&mut peer);
    let main = direct_with_alternate(&mut peer, &alternate);
    peer.select_confirms(1);
    peer.publish_content(1, say::publish_mandatory(&main, "any"), &Content::new("taken"));
    peer.expect_confirms(1, 1);
    peer.expect_contents(1, &rest, &["taken"]);
}

#[test]
fn a_message_is_returned_if_the_alternate_reaches_no_queue_either() {
    let mut peer = peer();
    let alternate = peer.exchange(1, "fanout");
    let main = direct_with_alternate(&mut peer, &alternate);
    expect_returned(&mut peer, &main, "any");
}

#[test]
fn a_missing_alternate_makes_the_message_unroutable() {
    let mut peer = peer();
    let main = direct_with_alternate(&mut peer, &unique("missing"));
    expect_returned(&mut peer, &main, "any");
}

#[test]
fn an_alternate_declared_later_is_used() {
    let mut peer = peer();
    let (alternate, queue) = (unique("later"), peer.queue(1, "rest"));
    let main = direct_with_alternate(&mut peer, &alternate);
    expect_returned(&mut peer, &main, "any");
    peer.ask::<exchange::DeclareOk>(1, say::exchange(&alternate, "fanout"));
    peer.bind(1, &queue, &alternate, "");
    peer.publish(1, &main, "any", "taken");
    peer.expect_contents(1, &queue, &["taken"]);
}

#[test]
fn the_default_exchange_is_never_reached_as_an_alternate() {
    let mut peer = peer();
    let queue = peer.queue(1, "by-name");
    let main = direct_with_alternate(&mut peer, "");
    expect_returned(&mut peer, &main, &queue);
    peer.expect_contents(1, &queue, &[]);
}

#[test]
fn alternates_form_chains() {
    let mut peer = peer();
    let (last, rest) = fanout_with_queue(&mut peer);
    let middle = direct_with_alternate(&mut peer, &last);
    let main = direct_with_alternate(&mut peer, &middle);
    peer.publish(1, &main, "any", "through");
    peer.expect_contents(1, &rest, &["through"]);
}

#[test]
fn cycles_of_alternates_end() {
    let mut peer = peer();
    let name = unique("second");
    let first = direct_with_alternate(&mut peer, &name);
    peer.ask::<exchange::DeclareOk>(1, with_alternate(&name, "direct", &first));
    expect_returned(&mut peer, &first, "any");
}

#[test]
fn the_alternate_is_not_used_when_a_bound_exchange_matched_and_routes_nowhere() {
    let mut peer = peer();
    let (alternate, rest) = fanout_with_queue(&mut peer);
    let main = direct_with_alternate(&mut peer, &alternate);
    let dead_end = peer.exchange(1, "fanout");
    peer.ask::<exchange::BindOk>(1, link_by(&main, &dead_end, "any"));
    expect_returned(&mut peer, &main, "any");
    peer.expect_contents(1, &rest, &[]);
}

#[test]
fn a_bound_exchange_uses_its_own_alternate() {
    let mut peer = peer();
    let (alternate, rest) = fanout_with_queue(&mut peer);
    let inner = direct_with_alternate(&mut peer, &alternate);
    let (source, queue) = fanout_with_queue(&mut peer);
    linked(&mut peer, &source, &inner);
    peer.publish(1, &source, "any", "both");
    peer.expect_contents(1, &queue, &["both"]);
    peer.expect_contents(1, &rest, &["both"]);
}

#[test]
fn an_internal_exchange_is_reached_as_an_alternate() {
    let mut peer = peer();
    let (inner, queue) = (unique("internal"), peer.queue(1, "rest"));
    peer.ask::<exchange::DeclareOk>(1, say::exchange_with(&inner, "fanout", |declare| declare.internal = true));
    peer.bind(1, &queue, &inner, "");
    let main = direct_with_alternate(&mut peer, &inner);
    peer.publish(1, &main, "any", "in");
    peer.expect_contents(1, &queue, &["in"]);
}

#[test]
fn an_exchange_that_chooses_uses_its_alternate_while_it_has_no_binding() {
    let mut peer = peer();
    let (alternate, rest) = fanout_with_queue(&mut peer);
    let main = unique("chooses");
    peer.ask::<exchange::DeclareOk>(1, with_alternate(&main, "x-random", &alternate));
    peer.publish(1, &main, "any", "left over");
    peer.expect_contents(1, &rest, &["left over"]);
    let queue = peer.queue(1, "chosen");
    peer.bind(1, &queue, &main, "");
    peer.publish(1, &main, "any", "chosen");
    peer.expect_contents(1, &queue, &["chosen"]);
    peer.expect_contents(1, &rest, &[]);
}

#[test]
fn an_alternate_that_is_no_longstr_is_406() {
    let mut peer = peer();
    let name = unique("refused");
    let mut declare = say::exchange(&name, "fanout");
    declare.arguments.insert("alternate-exchange".into(), AMQPValue::LongInt(1));
    let text = format!(
        "PRECONDITION_FAILED - invalid type 'signedint' for arg 'alternate-exchange' in exchange '{name}' in vhost '/'"
    );
    peer.refused(1, declare, 406, &text);
    peer.open_channel(1);
    expect_gone(&mut peer, &name);
}

#[test]
fn another_alternate_is_inequivalent() {
    let mut peer = peer();
    let name = unique("compared");
    peer.ask::<exchange::DeclareOk>(1, with_alternate(&name, "fanout", "one"));
    peer.ask::<exchange::DeclareOk>(1, with_alternate(&name, "fanout", "one"));
    let text = |received: &str| {
        format!(
            "PRECONDITION_FAILED - inequivalent arg 'alternate-exchange' for exchange '{name}' in vhost '/': \
             received {received}"
        )
    };
    peer.refused(1, with_alternate(&name, "fanout", "two"), 406, &text("'two' but current is 'one'"));
    peer.open_channel(1);
    peer.refused(
        1,
        say::exchange(&name, "fanout"),
        406,
        &text("none but current is the value 'one' of type 'longstr'"),
    );
}

// Restart

#[test]
fn durable_ends_make_a_durable_binding_and_alternates_and_flags_survive() {
    if Server::is_given() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let mut server = Server::start_durable(dir.path());
    let mut peer = server.peer();
    let durable = |name: &str, change: &dyn Fn(&mut exchange::Declare)| {
        say::exchange_with(name, "direct", |declare| {
            declare.durable = true;
            change(declare);
        })
    };
    let main = durable("main", &|declare| declare.arguments = alternate_argument("rest"));
    let inner = durable("inner", &|declare| (declare.internal, declare.auto_delete) = (true, true));
    for declare in [main.clone(), inner.clone(), durable("rest", &|_| {}), say::exchange("passing", "fanout")] {
        peer.ask::<exchange::DeclareOk>(1, declare);
    }
    peer.ask::<queue::DeclareOk>(1, say::declare_with("end", |declare| declare.durable = true));
    peer.bind(1, "end", "inner", "key");
    peer.bind(1, "end", "rest", "other");
    peer.ask::<exchange::BindOk>(1, link_by("main", "inner", "key"));
    peer.ask::<exchange::BindOk>(1, link_by("main", "passing", "gone"));
    server.kill9();
    server.restart();

    let mut peer = server.peer();
    peer.ask::<exchange::DeclareOk>(1, main);
    peer.ask::<exchange::DeclareOk>(1, inner);
    expect_gone(&mut peer, "passing");
    peer.publish(1, "main", "key", "through");
    peer.publish(1, "main", "other", "alternate");
    expect_returned(&mut peer, "main", "gone");
    peer.expect_contents(1, "end", &["through", "alternate"]);
    // Its binding as source goes: it goes, and with it the binding to it.
    peer.ask::<queue::UnbindOk>(1, say::unbind("end", "inner", "key"));
    expect_gone(&mut peer, "inner");
    server.kill9();
    server.restart();

    let mut peer = server.peer();
    expect_gone(&mut peer, "inner");
    expect_returned(&mut peer, "main", "key");
}
