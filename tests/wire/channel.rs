//! Channels: opening, closing, errors and what they leave alone.

use amq_protocol::protocol::{basic, channel, connection, queue};
use leveret_suite::method::Method;
use leveret_suite::peer::{Heard, kind};
use leveret_suite::{Frame, Login, Octets, Peer, Server, differs_from_reference, say, unique};

fn peer() -> Peer {
    Server::start().peer()
}

/// The text of 404 for a queue.
fn no_queue(queue: &str) -> String {
    format!("NOT_FOUND - no queue '{queue}' in vhost '/'")
}

#[test]
fn open_ok_has_an_empty_longstr() {
    let mut peer = Server::start().peer_with(&Login::default());
    peer.send(1, channel::Open {});
    assert_eq!(peer.expect_frame(kind::METHOD, 1), [0, 20, 0, 11, 0, 0, 0, 0]);
}

#[test]
fn channel_numbers_go_up_to_65535() {
    let mut peer = peer();
    peer.open_channel(65_535);
    peer.in_step(65_535);
}

#[test]
fn flow_with_active_is_answered_with_active() {
    let mut peer = peer();
    let ok: channel::FlowOk = peer.ask(1, channel::Flow { active: true });
    assert!(ok.active);
}

#[test]
fn flow_without_active_is_540() {
    peer().fails(1, channel::Flow { active: false }, 540, "NOT_IMPLEMENTED - active=false");
}

#[test]
fn access_request_is_granted_ticket_1() {
    let mut peer = peer();
    peer.send_payload(1, Octets::method(30, 10).shortstr("/data").u8(0b11111));
    assert_eq!(peer.expect_frame(kind::METHOD, 1), [0, 30, 0, 11, 0, 1]);
}

#[test]
fn the_ticket_is_ignored() {
    let mut peer = peer();
    let name = unique("ticket");
    peer.send_payload(1, Octets::method(50, 10).u16(9).shortstr(&name).u8(0).u32(0));
    let ok: queue::DeclareOk = peer.expect(1);
    assert_eq!(ok.queue.as_str(), name);
}

#[test]
fn a_closed_channels_number_can_be_used_again_at_once() {
    let mut peer = peer();
    for _ in 0..3 {
        peer.close_channel(1);
        peer.open_channel(1);
    }
    peer.in_step(1);
}

#[test]
fn close_requeues_what_consumers_hold_before_close_ok() {
    let mut peer = peer();
    peer.open_channel(2);
    let queue = peer.queue(2, "held");
    peer.publish_all(2, &queue, &["1", "2", "3"]);
    peer.in_step(2);
    peer.consume(1, &queue, "c");
    peer.expect_deliveries(1, &["1", "2", "3"]);
    peer.close_channel(1);
    let expected = ["1", "2", "3"].map(|body| (body.to_owned(), true));
    assert_eq!(peer.drain(2, &queue), expected);
}

#[test]
fn close_requeues_what_was_fetched_with_get_before_close_ok() {
    if differs_from_reference("close_requeues_what_was_fetched_with_get_before_close_ok") {
        return;
    }
    let mut peer = peer();
    peer.open_channel(2);
    let queue = peer.queue(2, "held");
    peer.publish_all(2, &queue, &["1", "2"]);
    peer.in_step(2);
    peer.get(1, &queue);
    peer.close_channel(1);
    peer.expect_counts(2, &queue, (2, 0));
    assert_eq!(peer.drain(2, &queue), [("1".to_owned(), true), ("2".to_owned(), false)]);
}

#[test]
fn close_removes_the_channels_consumers_before_close_ok() {
    let mut peer = peer();
    peer.open_channel(2);
    let queue = peer.queue(2, "consumed");
    peer.consume(1, &queue, "a");
    peer.consume(1, &queue, "b");
    peer.expect_counts(2, &queue, (0, 2));
    peer.close_channel(1);
    peer.expect_counts(2, &queue, (0, 0));
}

#[test]
fn close_of_the_last_consumers_channel_deletes_an_auto_delete_queue_before_close_ok() {
    let mut peer = peer();
    peer.open_channel(2);
    let name = unique("auto");
    peer.ask::<queue::DeclareOk>(1, say::declare_with(&name, |declare| declare.auto_delete = true));
    peer.consume(1, &name, "c");
    peer.close_channel(1);
    peer.expect_no_queue(2, &name);
}

#[test]
fn connection_close_deletes_exclusive_queues_and_requeues_before_close_ok() {
    let mut other = peer();
    let mut closing = peer();
    let exclusive = unique("exclusive");
    closing.ask::<queue::DeclareOk>(1, say::declare_with(&exclusive, |declare| declare.exclusive = true));
    let shared = closing.queue(1, "shared");
    closing.publish_all(1, &shared, &["1", "2"]);
    closing.consume(1, &shared, "c");
    closing.expect_deliveries(1, &["1", "2"]);
    closing.close();
    other.expect_no_queue(1, &exclusive);
    other.expect_contents(1, &shared, &["1", "2"]);
}

#[test]
fn what_a_closing_connection_gives_back_is_not_for_its_own_consumers() {
    let mut other = peer();
    let mut closing = peer();
    let queue = closing.queue(1, "shared");
    closing.publish(1, "", &queue, "x");
    closing.get(1, &queue);
    closing.open_channel(2);
    closing.ask::<basic::ConsumeOk>(2, say::consume_with(&queue, "c", |consume| consume.no_ack = true));
    closing.close();
    other.wait_for_count(1, &queue, 1);
}

#[test]
fn after_close_ok_the_socket_is_the_clients_to_close() {
    let mut peer = peer();
    peer.send(0, connection::Close { reply_code: 200, ..Default::default() });
    peer.expect::<connection::CloseOk>(0);
    peer.say_no_more();
    peer.expect_end();
}

#[test]
fn after_close_ok_a_client_that_stays_is_dropped_in_the_end() {
    let login = Login { heartbeat: 1, ..Login::default() };
    let mut peer = Server::start().peer_with(&login);
    peer.send(0, connection::Close { reply_code: 200, ..Default::default() });
    peer.expect::<connection::CloseOk>(0);
    expect_drop_after_a_heartbeat(&mut peer);
}

#[test]
fn a_client_that_never_answers_the_servers_close_is_dropped_in_the_end() {
    let login = Login { heartbeat: 1, ..Login::default() };
    let mut peer = Server::start().peer_with(&login);
    peer.send(1, say::declare("q"));
    peer.expect::<connection::Close>(0);
    expect_drop_after_a_heartbeat(&mut peer);
}

/// The limit is the heartbeat, here 1 s; until then heartbeats may come.
fn expect_drop_after_a_heartbeat(peer: &mut Peer) {
    let start = std::time::Instant::now();
    while let Heard::Frame(frame) = peer.hear(std::time::Duration::from_secs(20)) {
        assert_eq!(frame.kind, kind::HEARTBEAT, "{frame:?}");
    }
    let took = start.elapsed();
    assert!(took.as_millis() > 500 && took.as_secs() < 5, "dropped after {took:?}");
}

#[test]
fn exclusive_queues_are_gone_before_the_servers_connection_close() {
    let mut other = peer();
    let mut failing = peer();
    let name = unique("exclusive");
    failing.ask::<queue::DeclareOk>(1, say::declare_with(&name, |declare| declare.exclusive = true));
    let shared = failing.queue(1, "shared");
    failing.publish(1, "", &shared, "held");
    failing.consume(1, &shared, "c");
    failing.expect_deliveries(1, &["held"]);
    failing.send(1, channel::Open {});
    failing.expect::<connection::Close>(0);
    other.expect_no_queue(1, &name);
    other.expect_contents(1, &shared, &["held"]);
}

#[test]
fn any_new_secret_is_accepted() {
    let mut peer = peer();
    let update = connection::UpdateSecret { new_secret: "secret".into(), reason: "renewed".into() };
    peer.ask::<connection::UpdateSecretOk>(0, update);
}

#[test]
fn a_failed_method_is_answered_after_the_replies_to_earlier_ones() {
    let mut peer = peer();
    let name = unique("pipelined");
    peer.send(1, say::declare(&name));
    peer.send(1, say::qos(5, false));
    peer.send(1, say::declare_passive("missing"));
    peer.send(1, say::declare(&name));
    peer.expect::<queue::DeclareOk>(1);
    peer.expect::<basic::QosOk>(1);
    peer.expect_channel_close(1, 404, &no_queue("missing"), (50, 10));
    peer.open_channel(1);
    peer.in_step(1);
}

#[test]
fn a_failed_channel_does_not_disturb_the_others() {
    let mut peer = peer();
    peer.open_channel(2);
    let queue = peer.queue(2, "undisturbed");
    peer.consume(2, &queue, "c");
    peer.refused(1, say::declare_passive("missing"), 404, &no_queue("missing"));
    peer.publish(2, "", &queue, "still here");
    peer.expect_deliveries(2, &["still here"]);
}

#[test]
fn methods_and_content_are_ignored_between_the_servers_close_and_close_ok() {
    let mut peer = peer();
    let queue = peer.queue(1, "ignored");
    peer.send(1, say::declare_passive("missing"));
    peer.expect::<channel::Close>(1);
    peer.publish(1, "", &queue, "not routed");
    peer.send(1, say::declare(&unique("not-declared")));
    peer.send(1, say::ack(77));
    peer.send(1, channel::CloseOk {});
    peer.open_channel(1);
    peer.expect_counts(1, &queue, (0, 0));
}

#[test]
fn crossed_closes_are_answered_and_close_ok_is_still_awaited() {
    let mut peer = peer();
    peer.send(1, say::declare_passive("missing"));
    peer.expect::<channel::Close>(1);
    peer.send(1, say::close_channel());
    peer.expect::<channel::CloseOk>(1);
    peer.send(1, channel::CloseOk {});
    peer.open_channel(1);
}

#[test]
fn a_close_that_comes_with_the_error_is_answered_behind_the_brokers_own() {
    let mut peer = peer();
    let queue = peer.queue(1, "crossed");
    peer.publish(1, "", &queue, "unacked");
    peer.consume(1, &queue, "c");
    peer.expect_delivery(1);
    // At once, so that the queue has not taken the message back when the close is read.
    let frames = [say::ack(7).payload(), say::close_channel().payload()];
    peer.send_octets(frames.map(|payload| Frame::new(kind::METHOD, 1, payload).octets()).concat());
    let close: channel::Close = peer.expect(1);
    assert_eq!(close.reply_text.as_str(), "PRECONDITION_FAILED - unknown delivery tag 7");
    peer.expect::<channel::CloseOk>(1);
    peer.send(1, channel::CloseOk {});
    peer.open_channel(1);
    peer.expect_contents(1, &queue, &["unacked"]);
}

#[test]
fn publishes_after_a_failed_publish_are_neither_routed_nor_confirmed() {
    let mut peer = peer();
    peer.open_channel(2);
    let queue = peer.queue(2, "after-failure");
    let missing = unique("no-exchange");
    peer.select_confirms(1);
    peer.publish(1, "", &queue, "before");
    peer.publish(1, &missing, "", "fails");
    peer.publish(1, "", &queue, "after");
    let text = format!("NOT_FOUND - no exchange '{missing}' in vhost '/'");
    // The first one's confirm may come before the close, or never.
    let frame = peer.frame();
    if frame.payload[..4] == [0, 60, 0, 80] {
        peer.expect_channel_close(1, 404, &text, (60, 40));
    } else {
        assert_eq!(frame.payload[..6], [0, 20, 0, 40, 1, 148], "channel.close 404: {frame:?}");
        peer.send(1, channel::CloseOk {});
    }
    peer.open_channel(1);
    peer.in_step(1);
    peer.expect_contents(2, &queue, &["before"]);
}

#[test]
fn an_error_in_a_publish_is_raised_after_its_content() {
    let mut peer = peer();
    peer.open_channel(2);
    peer.send(1, say::publish("no-exchange", ""));
    peer.send_frame(Frame::new(kind::HEADER, 1, Octets::header(2, 0)));
    peer.send_frame(Frame::new(kind::BODY, 1, "a"));
    peer.in_step(2);
    peer.send_frame(Frame::new(kind::BODY, 1, "b"));
    peer.expect_channel_close(1, 404, "NOT_FOUND - no exchange 'no-exchange' in vhost '/'", (60, 40));
}

#[test]
fn pipelined_synchronous_methods_are_answered_in_order() {
    let mut peer = peer();
    let names: Vec<String> = (0..20).map(|_| unique("pipelined")).collect();
    for name in &names {
        peer.send(1, say::declare(name));
        peer.send(1, say::bind(name, "amq.direct", name));
    }
    for name in &names {
        let ok: queue::DeclareOk = peer.expect(1);
        assert_eq!(ok.queue.as_str(), name);
        peer.expect::<queue::BindOk>(1);
    }
}

#[test]
fn no_wait_suppresses_the_ok() {
    let mut peer = peer();
    let name = unique("no-wait");
    peer.send(1, say::declare_with(&name, |declare| declare.nowait = true));
    peer.expect_counts(1, &name, (0, 0));
    peer.send(1, queue::Bind { nowait: true, ..say::bind(&name, "amq.fanout", "") });
    peer.send(1, queue::Purge { nowait: true, ..say::purge(&name) });
    peer.send(1, say::consume_with(&name, "c", |consume| consume.nowait = true));
    peer.in_step(1);
    peer.send(1, basic::Cancel { nowait: true, ..say::cancel("c") });
    peer.send(1, say::delete_with(&name, |delete| delete.nowait = true));
    peer.send(1, amq_protocol::protocol::confirm::Select { nowait: true });
    peer.in_step(1);
    peer.expect_no_queue(1, &name);
}

#[test]
fn no_wait_does_not_suppress_an_error() {
    let mut peer = peer();
    let declare = say::declare_with("missing", |declare| (declare.passive, declare.nowait) = (true, true));
    peer.refused(1, declare, 404, &no_queue("missing"));
}

#[test]
fn delivery_tags_count_deliveries_and_gets_of_the_channel_together() {
    let mut peer = peer();
    peer.open_channel(2);
    let (pulled, pushed) = (peer.queue(1, "pulled"), peer.queue(1, "pushed"));
    peer.publish_all(1, &pulled, &["a", "b"]);
    assert_eq!(peer.get(1, &pulled).0.delivery_tag, 1);
    peer.consume_with(1, &pushed, "c", |consume| consume.no_ack = true);
    peer.publish(1, "", &pushed, "x");
    assert_eq!(peer.expect_delivery(1).delivery_tag, 2);
    assert_eq!(peer.take(1, &pulled, "b").delivery_tag, 3);
    peer.publish(2, "", &pulled, "c");
    assert_eq!(peer.take(2, &pulled, "c").delivery_tag, 1, "each channel has its own counter");
}

#[test]
fn an_empty_queue_name_is_the_last_queue_declared_on_the_channel() {
    let mut peer = peer();
    let first = peer.queue(1, "first");
    let last = peer.queue(1, "last");
    peer.publish_all(1, &last, &["1", "2"]);
    peer.take(1, "", "1");
    let purged: queue::PurgeOk = peer.ask(1, say::purge(""));
    assert_eq!(purged.message_count, 1);
    // A passive declare counts as well.
    peer.counts(1, &first);
    peer.publish(1, "", &first, "3");
    peer.take(1, "", "3");
    peer.consume(1, "", "c");
    peer.expect_counts(1, &first, (0, 1));
    peer.cancel(1, "c");
    peer.ask::<queue::DeleteOk>(1, say::delete(""));
    peer.expect_no_queue(1, &first);
}

#[test]
fn a_server_named_queue_is_the_last_declared_too() {
    let mut peer = peer();
    let ok: queue::DeclareOk = peer.ask(1, say::declare_with("", |declare| declare.exclusive = true));
    peer.publish(1, "", ok.queue.as_str(), "1");
    peer.take(1, "", "1");
}

#[test]
fn bind_with_queue_and_key_empty_takes_the_queues_name_as_the_key() {
    let mut peer = peer();
    let queue = peer.queue(1, "named");
    peer.bind(1, "", "amq.direct", "");
    peer.publish(1, "amq.direct", &queue, "by name");
    peer.take(1, &queue, "by name");
    peer.ask::<queue::UnbindOk>(1, say::unbind("", "amq.direct", ""));
    peer.publish(1, "amq.direct", &queue, "not bound");
    peer.expect_counts(1, &queue, (0, 0));
}

#[test]
fn an_empty_queue_name_with_nothing_declared_is_404() {
    let text = "NOT_FOUND - no previously declared queue";
    let mut peer = peer();
    peer.refused(1, say::get(""), 404, text);
    peer.open_channel(1);
    peer.refused(1, say::consume("", ""), 404, text);
    peer.open_channel(1);
    peer.refused(1, say::bind("", "amq.direct", ""), 404, text);
    peer.open_channel(1);
    peer.refused(1, say::purge(""), 404, text);
    peer.open_channel(1);
    peer.refused(1, say::delete(""), 404, text);
}

#[test]
fn the_last_declared_queue_belongs_to_its_channel() {
    let mut peer = peer();
    peer.open_channel(2);
    peer.queue(1, "elsewhere");
    peer.refused(2, say::get(""), 404, "NOT_FOUND - no previously declared queue");
}

#[test]
fn a_channel_that_vanishes_with_its_connection_gives_back_what_it_held() {
    let mut other = peer();
    let mut vanishing = peer();
    let queue = vanishing.queue(1, "vanished");
    vanishing.publish_all(1, &queue, &["1", "2", "3"]);
    vanishing.consume(1, &queue, "c");
    vanishing.expect_deliveries(1, &["1", "2", "3"]);
    vanishing.send(1, say::ack(2));
    vanishing.in_step(1);
    other.consume(1, &queue, "waiting");
    drop(vanishing);
    let deliveries = other.expect_deliveries(1, &["1", "3"]);
    assert!(deliveries.iter().all(|delivery| delivery.redelivered));
}

#[test]
fn an_exclusive_queue_vanishes_with_a_lost_connection() {
    let mut other = peer();
    let mut vanishing = peer();
    let name = unique("exclusive");
    vanishing.ask::<queue::DeclareOk>(1, say::declare_with(&name, |declare| declare.exclusive = true));
    let locked = format!(
        "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{name}' in vhost '/'. It could be \
         originally declared on another connection or the exclusive property value does not match that of the \
         original declaration."
    );
    other.refused(1, say::declare_passive(&name), 405, &cut(&locked));
    other.open_channel(1);
    drop(vanishing);
    // Nothing tells the others: they can only ask until it is true.
    let start = std::time::Instant::now();
    loop {
        other.send(1, say::declare_passive(&name));
        let close: channel::Close = other.expect(1);
        other.send(1, channel::CloseOk {});
        other.open_channel(1);
        if close.reply_code == 404 {
            break;
        }
        assert_eq!(close.reply_code, 405, "{close:?}");
        assert!(start.elapsed().as_secs() < 5, "the exclusive queue is still there");
    }
}

/// Reply texts are at most 255 bytes long; a longer one ends with three dots.
fn cut(text: &str) -> String {
    if text.len() > 255 { format!("{}...", &text[..252]) } else { text.to_owned() }
}
