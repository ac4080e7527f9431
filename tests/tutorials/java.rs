//! With the Java client, as Debian packages it (librabbitmq-client-java).

use crate::{Broker, run};
use leveret_suite::java;
use std::process::Command;

fn program(class: &str) -> Command {
    java::program(&crate::sources("java"), class)
}

#[track_caller]
fn as_guest(class: &str) {
    let broker = Broker::start(&[]);
    run(program(class).env("AMQP_URL", broker.url()));
}

/// As the work-queue tutorials of some courses set their broker up: user `user`, password `password`.
#[track_caller]
fn as_user(class: &str) {
    let broker = Broker::start(&["--default-user", "user", "--default-pass", "password"]);
    let address = broker.server.address();
    run(program(class)
        .env_remove("AMQP_URL")
        .env("AMQP_HOST", address.ip().to_string())
        .env("AMQP_PORT", address.port().to_string())
        .env("AMQP_USER", "user")
        .env("AMQP_PASSWORD", "password"));
}

#[test]
fn java_1_hello() {
    as_guest("Hello");
}

#[test]
fn java_2_work_queues() {
    as_guest("WorkQueues");
}

#[test]
fn java_3_publish_subscribe() {
    as_guest("PublishSubscribe");
}

#[test]
fn java_4_routing() {
    as_guest("Routing");
}

#[test]
fn java_5_topics() {
    as_guest("Topics");
}

#[test]
fn java_6_rpc() {
    as_guest("Rpc");
}

#[test]
fn java_7_publisher_confirms() {
    as_guest("PublisherConfirms");
}

#[test]
fn java_1_hello_as_user() {
    as_user("Hello");
}

#[test]
fn java_2_work_queues_as_user() {
    as_user("WorkQueues");
}

#[test]
fn java_3_publish_subscribe_as_user() {
    as_user("PublishSubscribe");
}

#[test]
fn java_4_routing_as_user() {
    as_user("Routing");
}

#[test]
fn java_5_topics_as_user() {
    as_user("Topics");
}

#[test]
fn java_6_rpc_as_user() {
    as_user("Rpc");
}

#[test]
fn java_7_publisher_confirms_as_user() {
    as_user("PublisherConfirms");
}
