//! Dead letters: when, where to, and what is written into them.

use amq_protocol::protocol::{basic, exchange, queue};
use amq_protocol::types::{AMQPValue, FieldTable};
use leveret_suite::values::{deaths, declare_with, header, history, int, properties, table, text};
use leveret_suite::{Content, Octets, Peer, Server, differs_from_reference, say, unique};

const DLX: &str = "x-dead-letter-exchange";
const DLK: &str = "x-dead-letter-routing-key";

fn peer() -> Peer {
    Server::start().peer()
}

/// Rejects the queue's next message for good.
#[track_caller]
fn reject_next(peer: &mut Peer, queue: &str) {
    let tag = peer.wait_for(1, queue).0.delivery_tag;
    peer.send(1, say::reject(tag, false));
}

/// The keys of a table, in order of the alphabet.
fn names(table: &FieldTable) -> Vec<String> {
    let mut names: Vec<String> = table.inner().keys().map(ToString::to_string).collect();
    names.sort();
    names
}

/// A table entry of an array of long strings.
fn keys(name: &str, keys: &[&str]) -> Octets {
    let items = keys.iter().fold(Octets::new(), |items, key| items.u8(b'S').longstr(key));
    Octets::new().entry(name, b'A', Octets::new().longstr(items))
}

// When

#[test]
fn what_a_length_limit_drops_is_dead_lettered_as_maxlen() {
    let mut peer = peer();
    let (queue, grave) = peer.queue_and_grave(1, &[("x-max-length", int(1))]);
    peer.publish_all(1, &queue, &["1", "2"]);
    assert_eq!(history(&peer.wait_for(1, &grave).1), [(queue.clone(), "maxlen".into(), 1)]);
    let (queue, grave) = peer.queue_and_grave(1, &[("x-max-length-bytes", int(1))]);
    peer.publish_all(1, &queue, &["1", "2"]);
    assert_eq!(history(&peer.wait_for(1, &grave).1), [(queue.clone(), "maxlen".into(), 1)]);
}

#[test]
fn what_reject_publish_dlx_refuses_is_nacked_and_dead_lettered_as_maxlen() {
    let mut peer = peer();
    let arguments = [("x-max-length", int(1)), ("x-overflow", text("reject-publish-dlx"))];
    let (queue, grave) = peer.queue_and_grave(1, &arguments);
    peer.select_confirms(1);
    peer.publish(1, "", &queue, "taken");
    peer.expect_confirms(1, 1);
    peer.publish(1, "", &queue, "refused");
    let nack: basic::Nack = peer.expect(1);
    assert_eq!(nack.delivery_tag, 2);
    let (_, content) = peer.wait_for(1, &grave);
    assert_eq!((content.text(), history(&content)), ("refused".into(), vec![(queue.clone(), "maxlen".into(), 1)]));
    peer.expect_contents(1, &queue, &["taken"]);
}

#[test]
fn nack_with_requeue_false_dead_letters_everything_it_settles() {
    let mut peer = peer();
    let (queue, grave) = peer.queue_and_grave(1, &[]);
    peer.publish_all(1, &queue, &["1", "2", "3"]);
    for _ in 0..3 {
        peer.wait_for(1, &queue);
    }
    peer.send(1, say::nack_until(3, false));
    peer.wait_for_count(1, &grave, 3);
    peer.expect_contents(1, &grave, &["1", "2", "3"]);
}

#[test]
fn purge_delete_expiry_auto_delete_and_reject_publish_dead_letter_nothing() {
    let mut peer = peer();
    let (purged, grave) = peer.queue_and_grave(1, &[]);
    let to_grave = [(DLX, text("")), (DLK, text(&grave))];
    let with = |more: (&'static str, AMQPValue)| [&to_grave[..], &[more]].concat();
    let deleted = peer.queue_with(1, &to_grave);
    let leased = peer.queue_with(1, &with(("x-expires", int(1))));
    let full =
        peer.queue_with(1, &[with(("x-max-length", int(0))), vec![("x-overflow", text("reject-publish"))]].concat());
    let forsaken = unique("forsaken");
    let declare = queue::Declare { auto_delete: true, ..declare_with(&forsaken, &to_grave) };
    peer.ask::<queue::DeclareOk>(1, declare);
    for queue in [&purged, &deleted, &leased, &full, &forsaken] {
        peer.publish(1, "", queue, "lost");
    }
    peer.wait_for_count(1, &purged, 1);
    let ok: queue::PurgeOk = peer.ask(1, say::purge(&purged));
    assert_eq!(ok.message_count, 1);
    peer.wait_for_count(1, &deleted, 1);
    let ok: queue::DeleteOk = peer.ask(1, say::delete(&deleted));
    assert_eq!(ok.message_count, 1);
    peer.consume(1, &forsaken, "c");
    peer.expect_deliveries(1, &["lost"]);
    peer.publish(1, "", &forsaken, "lost too");
    peer.expect_deliveries(1, &["lost too"]);
    peer.cancel(1, "c");
    peer.expect_no_queue(1, &forsaken);
    // Whatever had gone to the grave would have gone before this.
    let last = peer.queue_with(1, &to_grave);
    peer.publish(1, "", &last, "dead");
    reject_next(&mut peer, &last);
    assert_eq!(peer.wait_for(1, &grave).1.text(), "dead");
    peer.expect_counts(1, &grave, (0, 0));
}

// Where

#[test]
fn without_a_dead_letter_key_cc_leads_the_way_too() {
    let mut peer = peer();
    let dlx = peer.exchange(1, "direct");
    let queue = peer.queue_with(1, &[(DLX, text(&dlx))]);
    let (by_key, by_cc) = (peer.queue(1, "by-key"), peer.queue(1, "by-cc"));
    peer.bind(1, &by_key, &dlx, &queue);
    peer.bind(1, &by_cc, &dlx, "copy");
    peer.publish_content(1, say::publish("", &queue), &Content::with_headers(keys("CC", &["copy"]), "x"));
    reject_next(&mut peer, &queue);
    let (got, content) = peer.wait_for(1, &by_cc);
    assert_eq!((got.exchange.as_str(), got.routing_key.as_str()), (&*dlx, &*queue), "the first key");
    let AMQPValue::FieldArray(recorded) = deaths(&content)[0].inner()["routing-keys"].clone() else { panic!() };
    assert_eq!(recorded.as_slice(), [text(&queue), text("copy")]);
    peer.wait_for(1, &by_key);
}

#[test]
fn with_a_dead_letter_key_cc_stays_in_the_headers_and_leads_nowhere() {
    if differs_from_reference("with_a_dead_letter_key_cc_stays_in_the_headers_and_leads_nowhere") {
        return;
    }
    let mut peer = peer();
    let dlx = peer.exchange(1, "direct");
    let queue = peer.queue_with(1, &[(DLX, text(&dlx)), (DLK, text("dead"))]);
    let (by_key, by_cc) = (peer.queue(1, "by-key"), peer.queue(1, "by-cc"));
    peer.bind(1, &by_key, &dlx, "dead");
    peer.bind(1, &by_cc, &dlx, "copy");
    peer.publish_content(1, say::publish("", &queue), &Content::with_headers(keys("CC", &["copy"]), "x"));
    reject_next(&mut peer, &queue);
    let (got, content) = peer.wait_for(1, &by_key);
    assert_eq!((got.exchange.as_str(), got.routing_key.as_str()), (&*dlx, "dead"));
    assert!(matches!(header(&content, "CC"), Some(AMQPValue::FieldArray(_))), "{content:?}");
    peer.expect_counts(1, &by_cc, (0, 0));
}

#[test]
fn a_dead_letter_that_is_unroutable_is_dropped() {
    let mut peer = peer();
    let dlx = peer.exchange(1, "direct");
    let queue = peer.queue_with(1, &[(DLX, text(&dlx))]);
    peer.publish(1, "", &queue, "x");
    reject_next(&mut peer, &queue);
    peer.in_step(1);
    peer.expect_counts(1, &queue, (0, 0));
}

#[test]
fn a_dead_letter_exchange_may_be_internal_and_have_an_alternate() {
    let mut peer = peer();
    let (fanout, grave) = (peer.exchange(1, "fanout"), peer.queue(1, "grave"));
    peer.bind(1, &grave, &fanout, "");
    let dlx = unique("internal");
    let declare = say::exchange_with(&dlx, "direct", |declare| {
        declare.internal = true;
        declare.arguments = table(&[("alternate-exchange", text(&fanout))]);
    });
    peer.ask::<exchange::DeclareOk>(1, declare);
    let queue = peer.queue_with(1, &[(DLX, text(&dlx))]);
    peer.publish(1, "", &queue, "x");
    reject_next(&mut peer, &queue);
    let (got, _) = peer.wait_for(1, &grave);
    assert_eq!(got.exchange.as_str(), dlx, "the exchange it was dead-lettered to, not its alternate");
}

#[test]
fn all_properties_but_the_expiration_stay() {
    let mut peer = peer();
    let (queue, grave) = peer.queue_and_grave(1, &[]);
    let sent = basic::AMQPProperties::default()
        .with_content_type("t/x".into())
        .with_content_encoding("e".into())
        .with_headers(table(&[("mine", int(7))]))
        .with_delivery_mode(2)
        .with_priority(3)
        .with_correlation_id("c".into())
        .with_reply_to("r".into())
        .with_expiration("60000".into())
        .with_message_id("m".into())
        .with_timestamp(99)
        .with_type("y".into())
        .with_user_id("guest".into())
        .with_app_id("a".into());
    let octets = basic::gen_properties(&sent)(amq_protocol::frame::WriteContext::from(Vec::new())).expect("properties");
    let content = Content { properties: octets.into_inner().0, body: b"x".to_vec() };
    peer.publish_content(1, say::publish("", &queue), &content);
    reject_next(&mut peer, &queue);
    let (_, content) = peer.wait_for(1, &grave);
    let got = properties(&content);
    assert_eq!(header(&content, "mine"), Some(int(7)));
    assert_eq!(got.expiration(), &None);
    // Everything else, headers aside, is as it was.
    let without_headers = |properties: &basic::AMQPProperties| {
        (
            (properties.content_type().clone(), properties.content_encoding().clone(), *properties.delivery_mode()),
            (*properties.priority(), properties.correlation_id().clone(), properties.reply_to().clone()),
            (properties.message_id().clone(), *properties.timestamp(), properties.kind().clone()),
            (properties.user_id().clone(), properties.app_id().clone()),
        )
    };
    assert_eq!(without_headers(&got), without_headers(&sent));
    let AMQPValue::LongString(recorded) = deaths(&content)[0].inner()["original-expiration"].clone() else { panic!() };
    assert_eq!(recorded.to_string(), "60000");
}

#[test]
fn the_target_queues_own_limits_apply_and_the_sources_ttl_does_not() {
    let mut peer = peer();
    let grave = peer.queue_with(1, &[("x-max-length", int(1))]);
    let arguments = [("x-message-ttl", int(1)), (DLX, text("")), (DLK, text(&grave))];
    let queue = peer.queue_with(1, &arguments);
    peer.publish_all(1, &queue, &["1", "2"]);
    peer.wait_for_count(1, &queue, 0);
    std::thread::sleep(std::time::Duration::from_millis(20));
    peer.expect_contents(1, &grave, &["2"]);
}

#[test]
fn dead_letters_arrive_in_the_order_in_which_they_died() {
    let mut peer = peer();
    let bodies: Vec<String> = (0..200).map(|number| number.to_string()).collect();
    let bodies: Vec<&str> = bodies.iter().map(String::as_str).collect();
    let (queue, grave) = peer.queue_and_grave(1, &[("x-message-ttl", int(20))]);
    peer.publish_all(1, &queue, &bodies);
    peer.wait_for_count(1, &grave, 200);
    peer.expect_contents(1, &grave, &bodies);
    // With rejects, in the order of the rejects.
    let (queue, grave) = peer.queue_and_grave(1, &[]);
    peer.publish_all(1, &queue, &["1", "2", "3"]);
    let tags: Vec<u64> = (0..3).map(|_| peer.wait_for(1, &queue).0.delivery_tag).collect();
    for tag in tags.iter().rev() {
        peer.send(1, say::reject(*tag, false));
    }
    peer.wait_for_count(1, &grave, 3);
    peer.expect_contents(1, &grave, &["3", "2", "1"]);
}

// Headers

#[test]
fn an_entry_of_x_death_has_these_keys_and_types_and_no_others() {
    let mut peer = peer();
    let (exchange, grave) = (peer.exchange(1, "fanout"), peer.queue(1, "grave"));
    let queue = peer.queue_with(1, &[(DLX, text("")), (DLK, text(&grave))]);
    peer.bind(1, &queue, &exchange, "");
    peer.publish(1, &exchange, "key", "x");
    reject_next(&mut peer, &queue);
    let (_, content) = peer.wait_for(1, &grave);
    let entries = deaths(&content);
    assert_eq!(entries.len(), 1);
    let entry = &entries[0];
    assert_eq!(names(entry), ["count", "exchange", "queue", "reason", "routing-keys", "time"]);
    let value = |name: &str| entry.inner()[name].clone();
    assert_eq!(value("count"), AMQPValue::LongLongInt(1));
    assert_eq!((value("exchange"), value("queue")), (text(&exchange), text(&queue)));
    assert_eq!(value("reason"), text("rejected"));
    let AMQPValue::FieldArray(keys) = value("routing-keys") else { panic!("{entry:?}") };
    assert_eq!(keys.as_slice(), [text("key")]);
    let AMQPValue::Timestamp(time) = value("time") else { panic!("{entry:?}") };
    let now = std::time::UNIX_EPOCH.elapsed().expect("a clock after 1970").as_secs();
    assert!(time <= now + 1 && time + 60 > now, "seconds: {time}, now {now}");
}

#[test]
fn the_keys_of_an_entry_of_x_death_have_this_order_on_the_wire() {
    let mut peer = peer();
    let grave = peer.queue(1, "grave");
    let queue = peer.queue_with(1, &[(DLX, text("")), (DLK, text(&grave))]);
    let order = ["original-expiration", "count", "reason", "queue", "time", "exchange", "routing-keys"];
    let expiring = Content::with(1 << 8, Octets::new().shortstr("60000"), "x");
    for (message, keys) in [(expiring, &order[..]), (Content::new("x"), &order[1..])] {
        peer.publish_content(1, say::publish("", &queue), &message);
        reject_next(&mut peer, &queue);
        let (_, content) = peer.wait_for(1, &grave);
        let mut octets = &content.properties[..];
        for key in keys {
            let key = [&[key.len() as u8], key.as_bytes()].concat();
            let place = octets.windows(key.len()).position(|found| found == key);
            let place = place.unwrap_or_else(|| panic!("{keys:?} in this order: {content:?}"));
            octets = &octets[place + key.len()..];
        }
    }
}

/// Two queues, each the other's grave.
fn two_graves(peer: &mut Peer) -> (String, String) {
    let (one, two) = (unique("one"), unique("two"));
    for (queue, grave) in [(&one, &two), (&two, &one)] {
        peer.ask::<queue::DeclareOk>(1, declare_with(queue, &[(DLX, text("")), (DLK, text(grave))]));
    }
    (one, two)
}

#[test]
fn a_repeat_counts_up_moves_to_the_front_and_keeps_its_first_time() {
    let mut peer = peer();
    let (one, two) = two_graves(&mut peer);
    peer.publish(1, "", &one, "x");
    reject_next(&mut peer, &one);
    reject_next(&mut peer, &two);
    let (got, content) = peer.wait_for(1, &one);
    let entry = |queue: &str, count| (queue.to_owned(), "rejected".to_owned(), count);
    assert_eq!(history(&content), [entry(&two, 1), entry(&one, 1)], "the most recent event first");
    let time = deaths(&content)[1].inner()["time"].clone();
    // Into another second, so that the time of the second death would be seen.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    peer.send(1, say::reject(got.delivery_tag, false));
    let (_, content) = peer.wait_for(1, &two);
    assert_eq!(history(&content), [entry(&one, 2), entry(&two, 1)]);
    assert_eq!(deaths(&content)[0].inner()["time"], time);
}

#[test]
fn other_reasons_of_the_same_queue_have_entries_of_their_own() {
    if differs_from_reference("other_reasons_of_the_same_queue_have_entries_of_their_own") {
        return;
    }
    let mut peer = peer();
    let one = unique("one");
    let two = peer.queue_with(1, &[(DLX, text("")), (DLK, text(&one))]);
    let arguments = [("x-max-length", int(1)), (DLX, text("")), (DLK, text(&two))];
    peer.ask::<queue::DeclareOk>(1, declare_with(&one, &arguments));
    peer.publish(1, "", &one, "x");
    reject_next(&mut peer, &one);
    reject_next(&mut peer, &two);
    peer.wait_for_count(1, &one, 1);
    peer.publish(1, "", &one, "pusher");
    let (_, content) = peer.wait_for(1, &two);
    let entry = |queue: &str, reason: &str| (queue.to_owned(), reason.to_owned(), 1);
    assert_eq!(history(&content), [entry(&one, "maxlen"), entry(&two, "rejected"), entry(&one, "rejected")]);
}

#[test]
fn the_first_death_is_never_changed_and_the_last_at_every_death() {
    if differs_from_reference("the_first_death_is_never_changed_and_the_last_at_every_death") {
        return;
    }
    let mut peer = peer();
    let (one, two) = two_graves(&mut peer);
    let headers = Octets::new().entry_str("x-first-death-queue", "a publisher's").entry_str("x-last-death-reason", "?");
    peer.publish_content(1, say::publish("", &one), &Content::with_headers(headers, "x"));
    reject_next(&mut peer, &one);
    reject_next(&mut peer, &two);
    let (_, content) = peer.wait_for(1, &one);
    for (name, value) in [
        ("x-first-death-queue", &*one),
        ("x-first-death-reason", "rejected"),
        ("x-first-death-exchange", ""),
        ("x-last-death-queue", &two),
        ("x-last-death-reason", "rejected"),
        ("x-last-death-exchange", ""),
    ] {
        assert_eq!(header(&content, name), Some(text(value)), "{name}");
    }
}

#[test]
fn an_x_death_of_any_type_from_a_publisher_breaks_nothing() {
    let mut peer = peer();
    let (queue, grave) = peer.queue_and_grave(1, &[]);
    for own in [
        Octets::new().entry_str("x-death", "a string"),
        Octets::new().entry("x-death", b'I', [0, 0, 0, 7]),
        Octets::new().entry("x-death", b'V', ""),
        Octets::new().entry("x-death", b'A', Octets::new().longstr(Octets::new().u8(b'I').u32(1))),
    ] {
        if Server::is_given() && !own.0.ends_with(b"a string") {
            continue;
        }
        let content = Content::with_headers(&own, "x");
        peer.publish_content(1, say::publish("", &queue), &content);
        // Passed through until the broker writes its own.
        let (got, before) = peer.wait_for(1, &queue);
        assert_eq!(before, content);
        peer.send(1, say::reject(got.delivery_tag, false));
        let (got, content) = peer.wait_for(1, &grave);
        assert_eq!(history(&content), [(queue.clone(), "rejected".into(), 1)]);
        peer.send(1, say::ack(got.delivery_tag));
    }
}

#[test]
fn what_a_client_publishes_again_with_x_death_counts_for_nothing() {
    if differs_from_reference("what_a_client_publishes_again_with_x_death_counts_for_nothing") {
        return;
    }
    let mut peer = peer();
    let (queue, grave) = peer.queue_and_grave(1, &[]);
    let mut content = Content::new("x");
    for _ in 0..3 {
        peer.publish_content(1, say::publish("", &queue), &content);
        reject_next(&mut peer, &queue);
        let (got, dead) = peer.wait_for(1, &grave);
        assert_eq!(history(&dead), [(queue.clone(), "rejected".into(), 1)]);
        peer.send(1, say::ack(got.delivery_tag));
        content = dead;
    }
}

// Cycles

#[test]
fn a_cycle_drops_only_the_copy_that_goes_round() {
    let mut peer = peer();
    let fanout = peer.exchange(1, "fanout");
    let queue = peer.queue_with(1, &[("x-message-ttl", int(1)), (DLX, text(&fanout))]);
    let other = peer.queue(1, "other");
    peer.bind(1, &queue, &fanout, "");
    peer.bind(1, &other, &fanout, "");
    peer.publish(1, "", &queue, "x");
    peer.wait_for_count(1, &other, 1);
    peer.expect_counts(1, &queue, (0, 0));
    peer.expect_contents(1, &other, &["x"]);
}

#[test]
fn a_cycle_with_a_reject_runs_on_and_its_history_stays_short() {
    let mut peer = peer();
    let (one, two) = two_graves(&mut peer);
    peer.publish(1, "", &one, "x");
    for _ in 0..10 {
        reject_next(&mut peer, &one);
        reject_next(&mut peer, &two);
    }
    let (_, content) = peer.wait_for(1, &one);
    assert_eq!(history(&content), [(two, "rejected".into(), 10), (one.clone(), "rejected".into(), 10)]);
}

#[test]
fn a_reject_on_the_way_lets_an_expired_message_go_round_once_more() {
    let mut peer = peer();
    let (timed, retry) = (unique("timed"), unique("retry"));
    let arguments = [("x-message-ttl", int(10)), (DLX, text("")), (DLK, text(&retry))];
    peer.ask::<queue::DeclareOk>(1, declare_with(&timed, &arguments));
    peer.ask::<queue::DeclareOk>(1, declare_with(&retry, &[(DLX, text("")), (DLK, text(&timed))]));
    peer.publish(1, "", &timed, "x");
    for _ in 0..3 {
        reject_next(&mut peer, &retry);
    }
    let (_, content) = peer.wait_for(1, &retry);
    assert_eq!(history(&content), [(timed, "expired".into(), 4), (retry.clone(), "rejected".into(), 3)]);
}
