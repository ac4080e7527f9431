//! A definitions file: what is in force after the start, what is left out, and what survives.

use amq_protocol::protocol::{basic, exchange, queue};
use leveret::serde_json::{Value, json};
use leveret_suite::durable::{declare, publish_confirmed};
use leveret_suite::values::{table, text};
use leveret_suite::{Content, Login, Peer, Server, say};
use tempfile::TempDir;

/// A directory with this definitions file in it, and its path.
fn file(definitions: &Value) -> (TempDir, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("definitions.json");
    std::fs::write(&path, definitions.to_string()).expect("a file");
    let path = path.to_str().expect("a path in UTF-8").to_owned();
    (directory, path)
}

/// The password is `test12`.
const HASH: &str = "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR";

/// What a RabbitMQ might have exported.
fn exported() -> Value {
    json!({
        "rabbit_version": "4.2.0", "rabbitmq_version": "4.2.0", "product_name": "RabbitMQ", "product_version": "4.2.0",
        "rabbitmq_definition_format": "cluster", "original_cluster_name": "rabbit@a", "explanation": "…",
        "users": [
            {"name": "app", "password_hash": HASH, "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": [],
             "limits": {}},
            {"name": "admin", "password": "secret", "tags": "administrator,management"},
        ],
        "vhosts": [{"name": "/", "description": "Default", "metadata": {"description": "Default", "tags": [],
                    "default_queue_type": "classic"}, "limits": []}],
        "permissions": [
            {"user": "app", "vhost": "/", "configure": "", "write": "^(jobs|amq\\.default)$", "read": "^jobs"},
            {"user": "admin", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"},
        ],
        "topic_permissions": [{"user": "app", "vhost": "/", "exchange": "jobs", "write": "^mail\\.", "read": ".*"}],
        "parameters": [{"vhost": "/", "component": "operator_policy", "name": "cap",
                        "value": {"pattern": "", "apply-to": "queues", "definition": {"max-length": 2}}}],
        "global_parameters": [{"name": "internal_cluster_id", "value": "x"}],
        "policies": [{"vhost": "/", "name": "limits", "pattern": "^jobs", "apply-to": "queues", "priority": 1,
                      "definition": {"max-length": 5, "dead-letter-exchange": "", "dead-letter-routing-key": "dead"}}],
        "exchanges": [{"name": "jobs", "vhost": "/", "type": "topic", "durable": true, "auto_delete": false,
                       "internal": false, "arguments": {}}],
        "queues": [
            {"name": "jobs.mail", "vhost": "/", "durable": true, "auto_delete": false, "type": "classic",
             "arguments": {"x-max-priority": 3}},
            {"name": "dead", "vhost": "/", "durable": true, "auto_delete": false, "type": "quorum", "arguments": {}},
        ],
        "bindings": [{"source": "jobs", "vhost": "/", "destination": "jobs.mail", "destination_type": "queue",
                      "routing_key": "mail.#", "arguments": {}}],
    })
}

fn connect(server: &Server, user: &str, password: &str) -> Peer {
    let mut peer = server.peer_with(&Login { user, password, ..Login::default() });
    peer.open_channel(1);
    peer
}

/// What [`exported`] promises is there.
#[track_caller]
fn expect_all_of_it(server: &Server) {
    let mut app = connect(server, "app", "test12");
    let mut admin = connect(server, "admin", "secret");
    app.publish(1, "jobs", "mail.a", "1");
    app.publish(1, "jobs", "other", "2");
    let refusal = "ACCESS_REFUSED - write access to topic 'other' in exchange 'jobs' in vhost '/' refused for user \
                   'app'";
    app.expect_channel_close(1, 403, refusal, (60, 40));
    app.open_channel(1);
    let refusal = "ACCESS_REFUSED - configure access to queue 'mine' in vhost '/' refused for user 'app'";
    app.refused(1, say::declare("mine"), 403, refusal);
    app.open_channel(1);
    for body in ["3", "4"] {
        app.publish(1, "jobs", "mail.b", body);
    }
    app.in_step(1);
    // The operator's limit is 2, and dead letters go where the policy says.
    app.expect_contents(1, "jobs.mail", &["3", "4"]);
    admin.expect_contents(1, "dead", &["1"]);
    let priority = [("x-max-priority", amq_protocol::types::AMQPValue::LongInt(3))];
    let declare = say::declare_with("jobs.mail", |declare| {
        (declare.durable, declare.arguments) = (true, table(&priority));
    });
    admin.ask::<queue::DeclareOk>(1, declare);
    let quorum = [("x-queue-type", text("quorum"))];
    let declare = say::declare_with("dead", |declare| (declare.durable, declare.arguments) = (true, table(&quorum)));
    admin.ask::<queue::DeclareOk>(1, declare);
}

#[test]
fn everything_in_a_definitions_file_is_in_force_when_the_broker_listens() {
    let (_directory, path) = file(&exported());
    let server = Server::start_with(&["--storage", "memory", "--definitions", &path]);
    let log = server.log_until("items applied");
    assert!(log.contains("definitions: 12 items applied, 0 left out"), "{log}");
    expect_all_of_it(&server);
}

#[test]
fn policies_users_and_permissions_survive_a_kill() {
    let (directory, path) = file(&exported());
    let data = directory.path().join("data");
    let data = data.to_str().expect("a path in UTF-8");
    let mut server = Server::start_with(&["--data-dir", data, "--definitions", &path]);
    // Whoever is answered is behind all that went into storage before.
    let mut admin = connect(&server, "admin", "secret");
    admin.ask::<queue::DeclareOk>(1, say::declare_with("last", |declare| declare.durable = true));
    server.kill9();
    // Without the file: all of it comes from storage.
    let server = Server::start_with(&["--data-dir", data]);
    expect_all_of_it(&server);
}

#[test]
fn with_a_definitions_file_no_default_user_is_made_on_a_fresh_node() {
    let (_directory, path) = file(&json!({"vhosts": [{"name": "/"}]}));
    let server = Server::start_with(&["--storage", "memory", "--definitions", &path]);
    server.log_until("there is no user: nobody can log in");
    let mut peer = Peer::connect(server.address());
    peer.send_octets(leveret_suite::peer::PROTOCOL_HEADER);
    peer.expect::<amq_protocol::protocol::connection::Start>(0);
    peer.send_payload(0, Login::default().start_ok());
    let close: amq_protocol::protocol::connection::Close = peer.expect(0);
    assert_eq!(close.reply_code, 403);
}

#[test]
fn what_cannot_be_applied_is_listed_and_the_rest_is_applied() {
    let definitions = json!({
        "users": [{"name": "u", "password": "p", "tags": [], "limits": {"max-connections": 1}}, {"name": "w"},
                  {"name": "old", "password_hash": "x", "hashing_algorithm": "crypt"}],
        "vhosts": [{"name": "/"}, null],
        "permissions": [{"user": "u", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"},
                        {"user": "nobody", "vhost": "/", "configure": "", "write": "", "read": ""},
                        {"user": "u", "vhost": "/", "configure": "(", "write": "", "read": ""}],
        "policies": [{"vhost": "/", "name": "bad", "pattern": "(", "definition": {"max-length": -1}}],
        "parameters": [{"vhost": "/", "component": "shovel", "name": "s", "value": {}}],
        "exchanges": [{"name": "x", "vhost": "/", "type": "odd"}, {"name": "y", "vhost": "/"},
                      {"name": "amq.direct", "vhost": "/", "type": "direct"}],
        "queues": [{"name": "q", "vhost": "/"}, {"name": "r", "vhost": "nowhere"},
                   {"name": "s", "vhost": "/", "type": "stream"},
                   {"name": "t", "vhost": "/", "arguments": {"x-message-ttl": -1}}],
        "bindings": [{"source": "x", "vhost": "/", "destination": "q", "destination_type": "queue",
                      "routing_key": "", "arguments": {}}],
    });
    let (_directory, path) = file(&definitions);
    let server = Server::start_with(&["--storage", "memory", "--definitions", &path]);
    let log = server.log_until("items applied");
    for line in [
        "definitions: user 'u' is left out: limits of users are not supported",
        "definitions: user 'w' is left out: it has neither 'password_hash' nor 'password'",
        "definitions: user 'old' is left out: unknown hashing_algorithm 'crypt'",
        "definitions: permissions of user 'nobody' in vhost '/' is left out: User 'nobody' does not exist",
        "definitions: permissions of user 'u' in vhost '/' is left out: invalid regular expression: ",
        "definitions: policy 'bad' in vhost '/' is left out: -1 is not a valid maximum length; pattern should be \
         regular expression but is invalid: ",
        "definitions: parameter 's' in vhost '/' is ignored: parameters of the component 'shovel' mean nothing here",
        "definitions: exchange 'x' in vhost '/' is left out: PRECONDITION_FAILED - unknown exchange type 'odd'",
        "definitions: exchange 'y' in vhost '/' is left out: it has no 'type'",
        "definitions: queue 'r' in vhost 'nowhere' is left out: Virtual host 'nowhere' does not exist",
        "definitions: queue 's' in vhost '/' is left out: NOT_IMPLEMENTED - queue type 'stream' is not supported yet",
        "definitions: queue 't' in vhost '/' is left out: PRECONDITION_FAILED - invalid arg 'x-message-ttl' for queue \
         't' in vhost '/': {value_negative,-1}",
        "definitions: binding from 'x' to 'q' in vhost '/' is left out: NOT_FOUND - no exchange 'x' in vhost '/'",
    ] {
        assert!(log.contains(line), "no line {line:?} in\n{log}");
    }
    let mut peer = connect(&server, "u", "p");
    peer.expect_counts(1, "q", (0, 0));
}

#[test]
fn objects_that_exist_are_left_as_they_are_and_nothing_is_deleted() {
    let (directory, first) = file(&exported());
    let data = directory.path().join("data");
    let data = data.to_str().expect("a path in UTF-8");
    let mut server = Server::start_with(&["--data-dir", data, "--definitions", &first]);
    let mut admin = connect(&server, "admin", "secret");
    admin.select_confirms(1);
    admin.publish_content(1, say::publish("", "jobs.mail"), &Content::persistent("kept"));
    admin.expect_confirms(1, 1);
    admin.close();
    server.stop();
    let other = json!({
        "users": [{"name": "admin", "password": "changed", "tags": []}],
        "queues": [{"name": "jobs.mail", "vhost": "/", "durable": true, "arguments": {"x-max-priority": 9}}],
        "exchanges": [{"name": "jobs", "vhost": "/", "type": "fanout", "durable": true}],
    });
    let (_other, second) = file(&other);
    let server = Server::start_with(&["--data-dir", data, "--definitions", &second]);
    let log = server.log_until("items applied");
    assert!(log.contains("3 items applied, 0 left out"), "{log}");
    let mut admin = connect(&server, "admin", "changed");
    admin.ask::<exchange::DeclareOk>(1, say::exchange_with("jobs", "topic", |declare| declare.durable = true));
    let ok: basic::GetOk = admin.ask(1, say::get("jobs.mail"));
    assert_eq!(ok.message_count, 0);
    assert_eq!(admin.expect_content(1).text(), "kept");
}

#[test]
fn a_message_that_came_before_a_policys_ttl_does_not_expire_after_a_restart() {
    let ttl = json!({"policies": [{"vhost": "/", "name": "ttl", "pattern": "^q$", "definition": {"message-ttl": 1}}]});
    let (directory, path) = file(&ttl);
    let data = directory.path().join("data");
    let data = data.to_str().expect("a path in UTF-8");
    let mut server = Server::start_with(&["--data-dir", data]);
    let mut peer = server.peer();
    declare(&mut peer, "q");
    publish_confirmed(&mut peer, "q", &["old"]);
    peer.close();
    server.stop();
    let mut server = Server::start_with(&["--data-dir", data, "--definitions", &path]);
    let mut peer = server.peer();
    publish_confirmed(&mut peer, "q", &["new"]);
    server.kill9();
    let server = Server::start_with(&["--data-dir", data]);
    server.peer().expect_contents(1, "q", &["old"]);
}

#[test]
fn policies_of_the_configuration_file_are_in_force() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("leveret.toml");
    let configuration = r#"
        storage = "memory"

        [[policy]]
        name = "limits"
        pattern = "^jobs"
        apply-to = "queues"
        definition = { max-length = 5 }

        [[operator_policy]]
        name = "cap"
        vhost = "/"
        pattern = ""
        apply_to = "queues"
        priority = 3
        [operator_policy.definition]
        max-length = 2
    "#;
    std::fs::write(&path, configuration).expect("a file");
    let server = Server::start_with(&["--config", path.to_str().expect("a path in UTF-8")]);
    let mut peer = server.peer();
    peer.ask::<queue::DeclareOk>(1, say::declare("jobs"));
    peer.publish_all(1, "jobs", &["a", "b", "c"]);
    peer.expect_contents(1, "jobs", &["b", "c"]);
}
