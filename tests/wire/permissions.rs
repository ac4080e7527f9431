//! Who may do what: permissions, topic permissions, users and virtual hosts.

use amq_protocol::protocol::{basic, exchange, queue};
use leveret::access::TopicPermissions;
use leveret::access::password::PasswordHash;
use leveret::admin::{Metadata, Secret};
use leveret_suite::peer::{open, tune_ok};
use leveret_suite::values::{table, text};
use leveret_suite::{Content, Login, Octets, Peer, say};

use crate::own::Own;

/// The virtual host `/test`, in which `test` may configure, write and read what has that word in its name, and
/// `testadmin` everything. The connections of both, with queues and exchanges of these names declared.
fn suite() -> (Own, Peer, Peer) {
    let own = Own::start();
    own.vhost("/test", Metadata::default());
    for user in ["test", "testadmin"] {
        own.user(user, &[]);
    }
    own.permit("testadmin", "/test", [".*"; 3]);
    own.permit("test", "/test", ["configure", "write", "read"]);
    let mut admin = own.peer_as("testadmin", "/test");
    for name in ["configure", "write", "read", "none"] {
        admin.ask::<exchange::DeclareOk>(1, say::exchange(name, "direct"));
        admin.ask::<queue::DeclareOk>(1, say::declare(name));
    }
    let peer = own.peer_as("test", "/test");
    (own, admin, peer)
}

/// The text of 403.
fn no(right: &str, resource: &str) -> String {
    format!("ACCESS_REFUSED - {right} access to {resource} in vhost '/test' refused for user 'test'")
}

/// Sends a method, which must close channel 1 with 403, and opens the channel again: only the channel has ended.
#[track_caller]
fn refused(peer: &mut Peer, method: impl leveret_suite::Method, right: &str, resource: &str) {
    peer.refused(1, method, 403, &no(right, resource));
    peer.open_channel(1);
}

#[test]
fn exchange_declare_and_delete_need_configure() {
    let (_own, _admin, mut peer) = suite();
    peer.ask::<exchange::DeclareOk>(1, say::exchange("configure-me", "direct"));
    peer.ask::<exchange::DeleteOk>(1, say::delete_exchange("configure-me"));
    for name in ["write", "read", "none"] {
        refused(&mut peer, say::exchange(name, "direct"), "configure", &format!("exchange '{name}'"));
        refused(&mut peer, say::delete_exchange(name), "configure", &format!("exchange '{name}'"));
    }
}

#[test]
fn queue_declare_and_delete_need_configure_also_with_a_generated_name() {
    let (_own, _admin, mut peer) = suite();
    peer.ask::<queue::DeclareOk>(1, say::declare("configure-me"));
    peer.ask::<queue::DeleteOk>(1, say::delete("configure-me"));
    for name in ["write", "read", "none"] {
        refused(&mut peer, say::declare(name), "configure", &format!("queue '{name}'"));
        refused(&mut peer, say::delete(name), "configure", &format!("queue '{name}'"));
    }
    peer.send(1, say::declare(""));
    let close: amq_protocol::protocol::channel::Close = peer.expect(1);
    assert!(close.reply_text.as_str().starts_with("ACCESS_REFUSED - configure access to queue 'amq.gen-"), "{close:?}");
}

#[test]
fn a_refusal_comes_before_the_answer_that_there_is_none() {
    let (_own, _admin, mut peer) = suite();
    refused(&mut peer, say::get("absent"), "read", "queue 'absent'");
    refused(&mut peer, say::purge("absent"), "read", "queue 'absent'");
    refused(&mut peer, say::delete("absent"), "configure", "queue 'absent'");
    refused(&mut peer, say::consume("absent", "c"), "read", "queue 'absent'");
    peer.publish(1, "absent", "k", "x");
    peer.expect_channel_close(1, 403, &no("write", "exchange 'absent'"), (60, 40));
}

#[test]
fn passive_declares_need_any_of_the_three_and_name_configure() {
    let (_own, _admin, mut peer) = suite();
    for name in ["configure", "write", "read"] {
        peer.ask::<queue::DeclareOk>(1, say::declare_passive(name));
        peer.ask::<exchange::DeclareOk>(1, say::exchange_passive(name));
    }
    refused(&mut peer, say::declare_passive("none"), "configure", "queue 'none'");
    refused(&mut peer, say::exchange_passive("none"), "configure", "exchange 'none'");
}

#[test]
fn binding_needs_write_on_the_destination_and_read_on_the_source() {
    let (_own, _admin, mut peer) = suite();
    peer.bind(1, "write", "read", "k");
    peer.ask::<queue::UnbindOk>(1, say::unbind("write", "read", "k"));
    refused(&mut peer, say::bind("read", "read", "k"), "write", "queue 'read'");
    refused(&mut peer, say::bind("write", "write", "k"), "read", "exchange 'write'");
    refused(&mut peer, say::unbind("read", "read", "k"), "write", "queue 'read'");
    refused(&mut peer, say::unbind("write", "write", "k"), "read", "exchange 'write'");
    let bind = |destination: &str, source: &str| exchange::Bind {
        destination: destination.into(),
        source: source.into(),
        ..Default::default()
    };
    peer.ask::<exchange::BindOk>(1, bind("write", "read"));
    refused(&mut peer, bind("read", "read"), "write", "exchange 'read'");
    refused(&mut peer, bind("write", "write"), "read", "exchange 'write'");
}

#[test]
fn publishing_needs_write_on_the_exchange_and_the_refusal_closes_the_channel_only() {
    let (own, mut admin, mut peer) = suite();
    peer.publish(1, "write", "k", "x");
    peer.in_step(1);
    for name in ["configure", "read", "none"] {
        peer.publish(1, name, "k", "x");
        peer.expect_channel_close(1, 403, &no("write", &format!("exchange '{name}'")), (60, 40));
        peer.open_channel(1);
    }
    peer.publish(1, "", "none", "x");
    peer.expect_channel_close(1, 403, &no("write", "exchange 'amq.default'"), (60, 40));
    peer.open_channel(1);
    own.permit("test", "/test", ["configure", "write|^amq\\.default$", "read"]);
    peer.publish(1, "", "none", "x");
    peer.in_step(1);
    admin.expect_contents(1, "none", &["x"]);
}

#[test]
fn get_consume_and_purge_need_read() {
    let (_own, _admin, mut peer) = suite();
    peer.ask::<basic::GetEmpty>(1, say::get("read"));
    peer.ask::<queue::PurgeOk>(1, say::purge("read"));
    peer.consume(1, "read", "c");
    for name in ["configure", "write", "none"] {
        let queue = format!("queue '{name}'");
        refused(&mut peer, say::get(name), "read", &queue);
        refused(&mut peer, say::purge(name), "read", &queue);
        refused(&mut peer, say::consume(name, "d"), "read", &queue);
    }
}

#[test]
fn an_alternate_exchange_needs_read_on_the_new_exchange_and_write_on_the_alternate() {
    let (_own, _admin, mut peer) = suite();
    let with = |name: &str, alternate: &str| {
        say::exchange_with(name, "direct", |declare| {
            declare.arguments = table(&[("alternate-exchange", text(alternate))]);
        })
    };
    refused(&mut peer, with("configure-1", "write"), "read", "exchange 'configure-1'");
    refused(&mut peer, with("configure-read-1", "none"), "write", "exchange 'none'");
    peer.ask::<exchange::DeclareOk>(1, with("configure-read-1", "write"));
}

#[test]
fn a_dead_letter_exchange_needs_read_on_the_new_queue_and_write_on_the_exchange() {
    let (_own, _admin, mut peer) = suite();
    let with = |name: &str, exchange: &str| {
        say::declare_with(name, |declare| declare.arguments = table(&[("x-dead-letter-exchange", text(exchange))]))
    };
    refused(&mut peer, with("configure-1", "write"), "read", "queue 'configure-1'");
    refused(&mut peer, with("configure-read-1", "none"), "write", "exchange 'none'");
    peer.ask::<queue::DeclareOk>(1, with("configure-read-1", "write"));
}

#[test]
fn a_withdrawn_permission_refuses_everything_on_a_live_connection() {
    let (own, _admin, mut peer) = suite();
    peer.publish(1, "write", "k", "x");
    peer.ask::<basic::GetEmpty>(1, say::get("read"));
    own.permit("test", "/test", ["", "", ""]);
    peer.publish(1, "write", "k", "x");
    peer.expect_channel_close(1, 403, &no("write", "exchange 'write'"), (60, 40));
    peer.open_channel(1);
    refused(&mut peer, say::get("read"), "read", "queue 'read'");
    refused(&mut peer, say::declare("configure"), "configure", "queue 'configure'");
    // What needs no permission still works.
    peer.qos(1, 1, false);
}

#[test]
fn an_expression_may_look_ahead() {
    let (own, _admin, mut peer) = suite();
    own.permit("test", "/test", ["", "", "^(?!none)"]);
    peer.ask::<basic::GetEmpty>(1, say::get("write"));
    refused(&mut peer, say::get("none"), "read", "queue 'none'");
}

#[test]
fn direct_replies_need_no_permission_to_consume() {
    let (_own, _admin, mut peer) = suite();
    peer.consume_with(1, "amq.rabbitmq.reply-to", "r", |consume| consume.no_ack = true);
}

// Topic permissions

/// As [`suite`], with a topic exchange `write-read` and a topic permission on it.
fn topics(write: &str, read: &str) -> (Own, Peer) {
    let (own, mut admin, peer) = suite();
    admin.ask::<exchange::DeclareOk>(1, say::exchange("write-read", "topic"));
    admin.ask::<queue::DeclareOk>(1, say::declare("write-q"));
    let permissions = TopicPermissions { exchange: "write-read".into(), write: write.into(), read: read.into() };
    own.runtime.block_on(own.broker.set_topic_permissions("test", "/test", permissions)).expect("topic permissions");
    (own, peer)
}

fn no_topic(right: &str, key: &str) -> String {
    format!(
        "ACCESS_REFUSED - {right} access to topic '{key}' in exchange 'write-read' in vhost '/test' refused for user \
         'test'"
    )
}

#[test]
fn a_topic_permission_is_for_every_routing_key_of_a_message() {
    let (_own, mut peer) = topics("^{username}\\.", ".*");
    peer.publish(1, "write-read", "test.a", "x");
    peer.in_step(1);
    for _ in 0..2 {
        peer.publish(1, "write-read", "other.a", "x");
        peer.expect_channel_close(1, 403, &no_topic("write", "other.a"), (60, 40));
        peer.open_channel(1);
    }
    // The address is known and allowed, a further key is not.
    peer.publish(1, "write-read", "test.a", "x");
    let copies = Octets::new().entry("CC", b'A', Octets::new().longstr(Octets::new().u8(b'S').longstr("other.b")));
    peer.publish_content(1, say::publish("write-read", "test.a"), &Content::with_headers(copies, "x"));
    peer.expect_channel_close(1, 403, &no_topic("write", "other.b"), (60, 40));
}

#[test]
fn a_topic_permission_to_read_is_for_binding_and_unbinding() {
    let (_own, mut peer) = topics(".*", "^a$");
    peer.bind(1, "write-q", "write-read", "a");
    peer.refused(1, say::bind("write-q", "write-read", "b"), 403, &no_topic("read", "b"));
    peer.open_channel(1);
    peer.refused(1, say::unbind("write-q", "write-read", "b"), 403, &no_topic("read", "b"));
}

#[test]
fn without_a_topic_permission_for_the_exchange_every_key_is_allowed() {
    let (own, mut peer) = topics("^a$", "^a$");
    own.runtime.block_on(own.broker.clear_topic_permissions("test", "/test", None)).expect("a user");
    peer.publish(1, "write-read", "b", "x");
    peer.bind(1, "write-q", "write-read", "b");
}

// Users and virtual hosts

/// Logs in as far as connection.open.
fn opening(own: &Own, login: &Login<'_>) -> Peer {
    let mut peer = Peer::connect(own.broker.addresses()[0]);
    peer.handshake_until_tune(login);
    peer.send(0, tune_ok(login));
    peer.send(0, open(login.vhost));
    peer
}

#[test]
fn a_virtual_host_opens_for_users_with_a_permission_record_whatever_its_patterns() {
    let (own, _admin, _peer) = suite();
    let mut peer = opening(&own, &Login { user: "test", vhost: "/", ..Login::default() });
    peer.expect_connection_close(530, "NOT_ALLOWED - access to vhost '/' refused for user 'test'", (10, 40));
    let mut peer = opening(&own, &Login { user: "test", vhost: "foo", ..Login::default() });
    peer.expect_connection_close(530, "NOT_ALLOWED - vhost foo not found", (10, 40));
    own.permit("test", "/", ["", "", ""]);
    own.peer_as("test", "/").in_step(1);
}

#[test]
fn a_user_logs_in_by_the_hash_of_the_password() {
    let own = Own::start();
    let hash = "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR";
    let hash = PasswordHash::parse("rabbit_password_hashing_sha256", hash).expect("a hash");
    own.runtime.block_on(own.broker.set_user("bob", Secret::Hash(hash), &[])).expect("a user");
    own.permit("bob", "/", [".*"; 3]);
    let mut peer = Peer::connect(own.broker.addresses()[0]);
    peer.handshake(&Login { user: "bob", password: "test12", ..Login::default() });
    let mut peer = Peer::connect(own.broker.addresses()[0]);
    peer.send_octets(leveret_suite::peer::PROTOCOL_HEADER);
    peer.expect::<amq_protocol::protocol::connection::Start>(0);
    peer.send_payload(0, Login { user: "bob", password: "test13", ..Login::default() }.start_ok());
    let text = "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see the broker \
                logfile.";
    peer.expect_connection_close(403, text, (0, 0));
}

#[test]
fn an_impersonator_may_publish_with_any_user_id() {
    let own = Own::start();
    for (user, tags) in [("plain", &[][..]), ("actor", &["impersonator"][..])] {
        own.user(user, tags);
        own.permit(user, "/", [".*"; 3]);
    }
    let message = Content::with(1 << 4, Octets::new().shortstr("somebody"), "x");
    let mut actor = own.peer_as("actor", "/");
    let queue = actor.queue(1, "q");
    actor.publish_content(1, say::publish("", &queue), &message);
    actor.expect_contents(1, &queue, &["x"]);
    let mut plain = own.peer_as("plain", "/");
    plain.publish_content(1, say::publish("", &queue), &message);
    let text = "PRECONDITION_FAILED - user_id property set to 'somebody' but authenticated user was 'plain'";
    plain.expect_channel_close(1, 406, text, (60, 40));
}

#[test]
fn connections_of_a_user_who_is_deleted_are_closed() {
    let (own, mut admin, mut peer) = suite();
    own.runtime.block_on(own.broker.delete_user("test")).expect("a user");
    peer.expect_connection_close(320, "CONNECTION_FORCED - user 'test' is deleted", (0, 0));
    admin.in_step(1);
    let administered = own.broker.administered();
    assert!(administered.users.iter().all(|user| &*user.name != "test"));
    assert!(administered.permissions.iter().all(|of| &*of.user != "test"));
}

#[test]
fn a_virtual_host_that_is_deleted_takes_everything_along() {
    let (own, mut admin, mut peer) = suite();
    peer.consume(1, "read", "c");
    own.runtime.block_on(own.broker.delete_vhost("/test")).expect("a virtual host");
    for peer in [&mut peer, &mut admin] {
        peer.expect_connection_close(320, "CONNECTION_FORCED - vhost '/test' is deleted", (0, 0));
    }
    let mut gone = opening(&own, &Login { user: "testadmin", vhost: "/test", ..Login::default() });
    gone.expect_connection_close(530, "NOT_ALLOWED - vhost /test not found", (10, 40));
    own.vhost("/test", Metadata::default());
    own.permit("testadmin", "/test", [".*"; 3]);
    let mut peer = own.peer_as("testadmin", "/test");
    peer.refused(1, say::declare_passive("read"), 404, "NOT_FOUND - no queue 'read' in vhost '/test'");
}

#[test]
fn a_virtual_hosts_default_queue_type_is_inserted_where_it_fits_the_flags() {
    let own = Own::start();
    let metadata = Metadata { default_queue_type: Some("quorum".into()), ..Metadata::default() };
    own.vhost("/q", metadata);
    own.permit("guest", "/q", [".*"; 3]);
    let mut peer = own.peer_as("guest", "/q");
    let durable = |arguments: &[_]| {
        let arguments = table(arguments);
        say::declare_with("q", |declare| (declare.durable, declare.arguments) = (true, arguments))
    };
    let quorum = [("x-queue-type", text("quorum"))];
    peer.ask::<queue::DeclareOk>(1, durable(&[]));
    peer.ask::<queue::DeclareOk>(1, durable(&quorum));
    peer.ask::<queue::DeclareOk>(1, durable(&[]));
    // Transient queues cannot be quorum queues.
    peer.ask::<queue::DeclareOk>(1, say::declare("t"));
    let classic = [("x-queue-type", text("classic"))];
    peer.ask::<queue::DeclareOk>(1, say::declare_with("t", |declare| declare.arguments = table(&classic)));
    let text = "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'q' in vhost '/q': received 'classic' \
                but current is 'quorum'";
    peer.refused(1, durable(&classic), 406, text);
}
