//! With pika, the Python client, from the virtual environment that `tests/run` makes.

use crate::{Broker, run};
use std::path::Path;
use std::process::Command;

#[track_caller]
fn tutorial(file: &str) {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/.deps/venv/bin/python");
    assert!(python.exists(), "{} is missing: tests/run installs it", python.display());
    let broker = Broker::start(&[]);
    run(Command::new(python)
        .arg(crate::sources("pika").join(file))
        // Nothing is written next to the sources.
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("AMQP_URL", broker.url()));
}

#[test]
fn pika_1_hello() {
    tutorial("hello.py");
}

#[test]
fn pika_2_work_queues() {
    tutorial("work_queues.py");
}

#[test]
fn pika_3_publish_subscribe() {
    tutorial("publish_subscribe.py");
}

#[test]
fn pika_4_routing() {
    tutorial("routing.py");
}

#[test]
fn pika_5_topics() {
    tutorial("topics.py");
}

#[test]
fn pika_6_rpc() {
    tutorial("rpc.py");
}

#[test]
fn pika_7_publisher_confirms() {
    tutorial("publisher_confirms.py");
}
