//! Queues: declare, equivalence, flags, delete, purge, order.

use amq_protocol::protocol::queue;
use leveret_suite::{Octets, Peer, Server, differs_from_reference, say, unique};

fn peer() -> Peer {
    Server::start().peer()
}

/// The text of 404 for a queue.
fn no_queue(queue: &str) -> String {
    format!("NOT_FOUND - no queue '{queue}' in vhost '/'")
}

/// The text of 405 for a queue, of at most 255 bytes.
fn locked(queue: &str) -> String {
    let text = format!(
        "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{queue}' in vhost '/'. It could be \
         originally declared on another connection or the exclusive property value does not match that of the \
         original declaration."
    );
    if text.len() > 255 { format!("{}...", &text[..252]) } else { text }
}

fn declare_exclusive(peer: &mut Peer, name: &str) {
    peer.ask::<queue::DeclareOk>(1, say::declare_with(name, |declare| declare.exclusive = true));
}

#[test]
fn declare_ok_has_the_name_no_messages_and_no_consumers() {
    let mut peer = peer();
    let name = unique("new");
    let ok: queue::DeclareOk = peer.ask(1, say::declare(&name));
    assert_eq!((ok.queue.as_str(), ok.message_count, ok.consumer_count), (name.as_str(), 0, 0));
}

#[test]
fn declare_ok_counts_ready_messages_and_consumers() {
    let mut peer = peer();
    let queue = peer.queue(1, "counted");
    peer.publish_all(1, &queue, &["1", "2", "3"]);
    peer.expect_counts(1, &queue, (3, 0));
    peer.get(1, &queue);
    peer.expect_counts(1, &queue, (2, 0));
    peer.qos(1, 1, false);
    peer.consume(1, &queue, "c");
    peer.expect_delivery(1);
    peer.expect_counts(1, &queue, (1, 1));
}

#[test]
fn an_empty_name_gets_a_generated_one() {
    let mut peer = peer();
    let mut names = Vec::new();
    for _ in 0..2 {
        let ok: queue::DeclareOk = peer.ask(1, say::declare_with("", |declare| declare.exclusive = true));
        let name = ok.queue.to_string();
        let random = name.strip_prefix("amq.gen-").expect("a name that begins with amq.gen-").to_owned();
        assert!(random.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "{name}");
        assert_eq!(random.len(), 22, "{name}");
        names.push(name);
    }
    assert_ne!(names[0], names[1]);
}

#[test]
fn a_generated_name_can_be_declared_passively_but_not_actively() {
    let mut peer = peer();
    let ok: queue::DeclareOk = peer.ask(1, say::declare_with("", |declare| declare.exclusive = true));
    let name = ok.queue.to_string();
    peer.expect_counts(1, &name, (0, 0));
    let text = format!("ACCESS_REFUSED - queue name '{name}' contains reserved prefix 'amq.*'");
    peer.refused(1, say::declare_with(&name, |declare| declare.exclusive = true), 403, &text);
}

#[test]
fn a_name_that_begins_with_amq_and_a_dot_is_reserved() {
    let text = "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'";
    peer().refused(1, say::declare("amq.mine"), 403, text);
}

#[test]
fn only_the_prefix_with_its_dot_is_reserved() {
    let mut peer = peer();
    let name = unique("amqx");
    declare_exclusive(&mut peer, &name);
}

#[test]
fn a_passive_declare_of_a_missing_queue_is_404() {
    let name = unique("missing");
    peer().refused(1, say::declare_passive(&name), 404, &no_queue(&name));
}

#[test]
fn a_passive_declare_with_an_empty_name_is_404() {
    let mut peer = peer();
    peer.queue(1, "last");
    peer.refused(1, say::declare_passive(""), 404, &no_queue(""));
}

#[test]
fn a_passive_declare_ignores_flags_and_arguments() {
    let mut peer = peer();
    let name = peer.queue(1, "plain");
    let declare = Octets::method(50, 10).u16(0).shortstr(&name).u8(0b01011);
    let arguments = Octets::new().entry("x-message-ttl", b'I', [0, 0, 0, 9]);
    peer.send_payload(1, declare.longstr(arguments));
    peer.expect::<queue::DeclareOk>(1);
}

#[test]
fn cr_and_lf_are_removed_from_the_name() {
    let mut peer = peer();
    let name = unique("two-lines");
    let ok: queue::DeclareOk = peer.ask(1, say::declare(&format!("\r{name}\n\n")));
    assert_eq!(ok.queue.as_str(), name);
    peer.expect_counts(1, &format!("{name}\r\n"), (0, 0));
    peer.ask::<queue::DeleteOk>(1, say::delete(&format!("\n{name}")));
    peer.expect_no_queue(1, &name);
}

#[test]
fn names_of_255_bytes_are_fine() {
    let mut peer = peer();
    let name = format!("{:x<255}", unique("long"));
    declare_exclusive(&mut peer, &name);
    peer.expect_counts(1, &name, (0, 0));
}

#[test]
fn a_reply_text_above_255_bytes_is_cut_and_ends_with_dots() {
    let name = format!("{:x<255}", unique("long"));
    let whole = no_queue(&name);
    peer().refused(1, say::declare_passive(&name), 404, &format!("{}...", &whole[..252]));
}

#[test]
fn names_are_case_sensitive() {
    let mut peer = peer();
    let name = peer.queue(1, "case");
    peer.expect_no_queue(1, &name.to_uppercase());
}

#[test]
fn declaring_an_equal_queue_again_is_fine() {
    let mut peer = peer();
    let name = unique("again");
    for _ in 0..2 {
        peer.ask::<queue::DeclareOk>(1, say::declare_with(&name, |declare| declare.auto_delete = true));
    }
    peer.ask::<queue::DeleteOk>(1, say::delete(&name));
}

#[test]
fn another_durable_flag_is_406() {
    let mut peer = peer();
    let name = peer.queue(1, "transient");
    let text = format!(
        "PRECONDITION_FAILED - inequivalent arg 'durable' for queue '{name}' in vhost '/': received 'true' but \
         current is 'false'"
    );
    peer.refused(1, say::declare_with(&name, |declare| declare.durable = true), 406, &text);
}

#[test]
fn another_auto_delete_flag_is_406() {
    let mut peer = peer();
    let name = unique("auto");
    peer.ask::<queue::DeclareOk>(1, say::declare_with(&name, |declare| declare.auto_delete = true));
    let text = format!(
        "PRECONDITION_FAILED - inequivalent arg 'auto_delete' for queue '{name}' in vhost '/': received 'false' but \
         current is 'true'"
    );
    peer.refused(1, say::declare(&name), 406, &text);
}

#[test]
fn the_durable_flag_is_compared_first() {
    let mut peer = peer();
    let name = peer.queue(1, "both");
    let text = format!(
        "PRECONDITION_FAILED - inequivalent arg 'durable' for queue '{name}' in vhost '/': received 'true' but \
         current is 'false'"
    );
    let declare = say::declare_with(&name, |declare| (declare.durable, declare.auto_delete) = (true, true));
    peer.refused(1, declare, 406, &text);
}

#[test]
fn exclusive_for_a_shared_queue_is_405() {
    let mut peer = peer();
    let name = peer.queue(1, "shared");
    peer.refused(1, say::declare_with(&name, |declare| declare.exclusive = true), 405, &locked(&name));
}

#[test]
fn not_exclusive_for_an_exclusive_queue_of_ones_own_is_405() {
    let mut peer = peer();
    let name = unique("exclusive");
    declare_exclusive(&mut peer, &name);
    peer.refused(1, say::declare(&name), 405, &locked(&name));
}

#[test]
fn an_exclusive_queue_is_never_durable() {
    let mut peer = peer();
    let name = unique("exclusive");
    let durable = say::declare_with(&name, |declare| (declare.durable, declare.exclusive) = (true, true));
    peer.ask::<queue::DeclareOk>(1, durable);
    declare_exclusive(&mut peer, &name);
}

#[test]
fn an_exclusive_queue_is_locked_for_other_connections() {
    let mut owner = peer();
    let name = unique("exclusive");
    declare_exclusive(&mut owner, &name);
    owner.bind(1, &name, "amq.direct", &name);
    let mut other = peer();
    let text = locked(&name);
    other.refused(1, say::declare_with(&name, |declare| declare.exclusive = true), 405, &text);
    other.open_channel(1);
    other.refused(1, say::declare_passive(&name), 405, &text);
    other.open_channel(1);
    other.refused(1, say::bind(&name, "amq.direct", "x"), 405, &text);
    other.open_channel(1);
    other.refused(1, say::unbind(&name, "amq.direct", &name), 405, &text);
    other.open_channel(1);
    other.refused(1, say::consume(&name, "c"), 405, &text);
    other.open_channel(1);
    other.refused(1, say::get(&name), 405, &text);
    other.open_channel(1);
    other.refused(1, say::purge(&name), 405, &text);
    other.open_channel(1);
    other.refused(1, say::delete(&name), 405, &text);
}

#[test]
fn anyone_may_publish_to_an_exclusive_queue() {
    let mut owner = peer();
    let name = unique("exclusive");
    declare_exclusive(&mut owner, &name);
    let mut other = peer();
    other.publish(1, "", &name, "from another");
    other.in_step(1);
    owner.expect_contents(1, &name, &["from another"]);
}

#[test]
fn an_exclusive_queue_is_open_to_all_channels_of_its_connection() {
    let mut peer = peer();
    peer.open_channel(2);
    let name = unique("exclusive");
    declare_exclusive(&mut peer, &name);
    peer.close_channel(1);
    peer.consume(2, &name, "c");
    peer.cancel(2, "c");
    peer.expect_counts(2, &name, (0, 0));
}

#[test]
fn an_auto_delete_queue_goes_with_its_last_consumer_before_cancel_ok() {
    let mut peer = peer();
    let name = unique("auto");
    peer.ask::<queue::DeclareOk>(1, say::declare_with(&name, |declare| declare.auto_delete = true));
    peer.consume(1, &name, "one");
    peer.consume(1, &name, "two");
    peer.cancel(1, "one");
    peer.expect_counts(1, &name, (0, 1));
    peer.cancel(1, "two");
    peer.expect_no_queue(1, &name);
}

#[test]
fn an_auto_delete_queue_that_never_had_a_consumer_stays() {
    let mut peer = peer();
    let name = unique("auto");
    peer.ask::<queue::DeclareOk>(1, say::declare_with(&name, |declare| declare.auto_delete = true));
    peer.publish(1, "", &name, "x");
    peer.take(1, &name, "x");
    peer.close_channel(1);
    peer.open_channel(1);
    peer.ask::<queue::DeleteOk>(1, say::delete(&name));
}

#[test]
fn deleting_a_missing_queue_is_fine() {
    let ok: queue::DeleteOk = peer().ask(1, say::delete(&unique("missing")));
    assert_eq!(ok.message_count, 0);
}

#[test]
fn delete_ok_counts_the_ready_messages_dropped() {
    let mut peer = peer();
    let queue = peer.queue(1, "dropped");
    peer.publish_all(1, &queue, &["1", "2", "3"]);
    peer.get(1, &queue);
    let ok: queue::DeleteOk = peer.ask(1, say::delete(&queue));
    assert_eq!(ok.message_count, 2);
    peer.expect_no_queue(1, &queue);
}

#[test]
fn delete_if_empty_of_a_queue_with_ready_messages_is_406() {
    let mut peer = peer();
    let queue = peer.queue(1, "full");
    peer.publish(1, "", &queue, "x");
    let text = format!("PRECONDITION_FAILED - queue '{queue}' in vhost '/' not empty");
    peer.refused(1, say::delete_with(&queue, |delete| delete.if_empty = true), 406, &text);
}

#[test]
fn delete_if_empty_does_not_count_unacked_messages() {
    let mut peer = peer();
    let queue = peer.queue(1, "unacked");
    peer.publish(1, "", &queue, "x");
    peer.get(1, &queue);
    peer.ask::<queue::DeleteOk>(1, say::delete_with(&queue, |delete| delete.if_empty = true));
}

#[test]
fn delete_if_unused_of_a_queue_with_consumers_is_406() {
    let mut peer = peer();
    let queue = peer.queue(1, "used");
    peer.consume(1, &queue, "c");
    let text = format!("PRECONDITION_FAILED - queue '{queue}' in vhost '/' in use");
    peer.refused(1, say::delete_with(&queue, |delete| delete.if_unused = true), 406, &text);
}

#[test]
fn if_empty_is_checked_before_if_unused() {
    let mut peer = peer();
    let queue = peer.queue(1, "both");
    peer.qos(1, 1, false);
    peer.consume(1, &queue, "c");
    peer.publish_all(1, &queue, &["1", "2"]);
    peer.expect_deliveries(1, &["1"]);
    let text = format!("PRECONDITION_FAILED - queue '{queue}' in vhost '/' not empty");
    let delete = say::delete_with(&queue, |delete| (delete.if_empty, delete.if_unused) = (true, true));
    peer.refused(1, delete, 406, &text);
}

#[test]
fn tags_of_a_deleted_queue_can_still_be_acked() {
    let mut peer = peer();
    let queue = peer.queue(1, "deleted");
    peer.publish(1, "", &queue, "x");
    let tag = peer.get(1, &queue).0.delivery_tag;
    peer.ask::<queue::DeleteOk>(1, say::delete(&queue));
    peer.send(1, say::ack(tag));
    peer.in_step(1);
}

#[test]
fn a_deleted_queues_bindings_go_with_it() {
    let mut peer = peer();
    let queue = peer.queue(1, "rebuilt");
    let key = unique("key");
    peer.bind(1, &queue, "amq.direct", &key);
    peer.ask::<queue::DeleteOk>(1, say::delete(&queue));
    peer.ask::<queue::DeclareOk>(1, say::declare(&queue));
    peer.publish(1, "amq.direct", &key, "x");
    peer.expect_counts(1, &queue, (0, 0));
}

#[test]
fn a_deleted_queue_is_gone_for_every_connection() {
    let mut one = peer();
    let mut other = peer();
    let queue = one.queue(1, "gone");
    one.ask::<queue::DeleteOk>(1, say::delete(&queue));
    other.expect_no_queue(1, &queue);
}

#[test]
fn purge_drops_ready_messages_and_counts_them() {
    let mut peer = peer();
    let queue = peer.queue(1, "purged");
    peer.publish_all(1, &queue, &["1", "2", "3"]);
    let tag = peer.get(1, &queue).0.delivery_tag;
    let ok: queue::PurgeOk = peer.ask(1, say::purge(&queue));
    assert_eq!(ok.message_count, 2);
    peer.expect_counts(1, &queue, (0, 0));
    peer.send(1, say::nack(tag, true));
    peer.take(1, &queue, "1");
}

#[test]
fn purging_a_missing_queue_is_404() {
    let name = unique("missing");
    peer().refused(1, say::purge(&name), 404, &no_queue(&name));
}

#[test]
fn messages_of_a_channel_keep_their_order() {
    let mut peer = peer();
    let queue = peer.queue(1, "order");
    let bodies: Vec<String> = (0..500).map(|n| n.to_string()).collect();
    let bodies: Vec<&str> = bodies.iter().map(String::as_str).collect();
    peer.publish_all(1, &queue, &bodies);
    peer.expect_contents(1, &queue, &bodies);
}

#[test]
fn what_is_published_on_one_channel_is_there_for_another_after_a_reply() {
    let mut one = peer();
    let mut other = peer();
    let queue = one.queue(1, "seen");
    one.publish(1, "", &queue, "x");
    one.in_step(1);
    other.take(1, &queue, "x");
}

#[test]
fn a_stream_queue_is_540_and_its_type_named() {
    if differs_from_reference("a_stream_queue_is_540_and_its_type_named") {
        return;
    }
    let stream = Octets::new().entry_str("x-queue-type", "stream");
    let mut peer = peer();
    let name = unique("argument");
    peer.send_payload(1, Octets::method(50, 10).u16(0).shortstr(&name).u8(2).longstr(stream));
    let close: amq_protocol::protocol::connection::Close = peer.expect(0);
    assert_eq!((close.reply_code, close.class_id, close.method_id), (540, 50, 10), "{close:?}");
    assert!(close.reply_text.as_str().starts_with("NOT_IMPLEMENTED - "), "{close:?}");
    assert!(close.reply_text.as_str().contains("stream"), "{close:?}");
}

#[test]
fn an_unknown_argument_is_never_an_error() {
    let mut peer = peer();
    let name = unique("argument");
    let declare = |value| {
        let arguments = Octets::new().entry("x-mine", b'I', [0, 0, 0, value]).entry("other", b'V', "");
        Octets::method(50, 10).u16(0).shortstr(&name).u8(0).longstr(arguments)
    };
    peer.send_payload(1, declare(1));
    peer.expect::<queue::DeclareOk>(1);
    // Nor is it ever compared.
    peer.send_payload(1, declare(2));
    peer.expect::<queue::DeclareOk>(1);
    peer.ask::<queue::DeclareOk>(1, say::declare(&name));
}

#[test]
fn a_missing_queue_type_equals_classic() {
    let mut peer = peer();
    let name = unique("classic");
    let arguments = Octets::new().entry_str("x-queue-type", "classic");
    let declare = Octets::method(50, 10).u16(0).shortstr(&name).u8(0).longstr(arguments);
    peer.send_payload(1, &declare);
    peer.expect::<queue::DeclareOk>(1);
    peer.ask::<queue::DeclareOk>(1, say::declare(&name));
    peer.send_payload(1, &declare);
    peer.expect::<queue::DeclareOk>(1);
}

#[test]
fn queue_mode_is_accepted_and_ignored() {
    let mut peer = peer();
    let arguments = Octets::new().entry_str("x-queue-mode", "lazy");
    let declare = Octets::method(50, 10).u16(0).shortstr(unique("lazy")).u8(0).longstr(arguments);
    peer.send_payload(1, declare);
    peer.expect::<queue::DeclareOk>(1);
}
