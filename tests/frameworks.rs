//! Frameworks as their users run them, against the real binary: a Celery worker in its default configuration, and
//! amqplib for Node.js. The programs (`frameworks/`) check for themselves, and are judged by their exit status.

use leveret_suite::Server;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs one scenario of a program against a broker of its own, durable as `leveret` is without any flags.
///
/// # Panics
/// With all that it printed, unless it succeeds and says that its checks were made.
#[track_caller]
fn check(program: &mut Command, scenario: &str) {
    let data = tempfile::tempdir().expect("a temporary directory");
    let path = data.path().to_str().expect("a path in UTF-8");
    let server = Server::start_with(&["--data-dir", path]);
    program.arg(scenario).env("AMQP_URL", format!("amqp://guest:guest@{}/%2f", server.address()));
    let output = program.output().unwrap_or_else(|error| panic!("{program:?}: {error}"));
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{program:?}: {}\n{said}", output.status);
    assert!(said.contains(&format!("{scenario}: all checks passed")), "{program:?} made no checks:\n{said}");
}

fn sources(framework: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/frameworks").join(framework)
}

/// What `tests/run` installs.
#[track_caller]
fn installed(path: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/.deps").join(path);
    assert!(path.exists(), "{} is missing: tests/run installs it", path.display());
    path
}

#[track_caller]
fn celery(scenario: &str) {
    let mut python = Command::new(installed("venv/bin/python"));
    // The worker imports the application from where it is started; nothing is written next to the sources.
    python.arg("check.py").current_dir(sources("celery")).env("PYTHONDONTWRITEBYTECODE", "1");
    check(&mut python, scenario);
}

#[track_caller]
fn amqplib(scenario: &str) {
    let mut node = Command::new("node");
    node.arg(sources("amqplib").join("check.js")).env("NODE_PATH", installed("node/node_modules"));
    check(&mut node, scenario);
}

#[test]
fn celery_gives_back_results_and_errors() {
    celery("results");
}

#[test]
fn celery_retries_and_waits_for_countdown_and_eta() {
    celery("later");
}

#[test]
fn celery_workers_answer_remote_control() {
    celery("remote_control");
}

#[test]
fn a_celery_task_with_acks_late_is_done_again_when_its_worker_is_killed() {
    celery("killed_worker");
}

#[test]
fn celery_does_tasks_in_the_order_of_their_priorities() {
    celery("priorities");
}

#[test]
fn amqplib_hears_of_every_publish_once_returned_before_confirmed() {
    amqplib("confirms");
}

#[test]
fn amqplib_consumers_keep_to_their_prefetch_and_the_channels() {
    amqplib("prefetch");
}

#[test]
fn amqplib_consumers_are_told_when_their_queue_is_deleted() {
    amqplib("cancelled");
}

#[test]
fn amqplib_gets_back_what_cannot_be_routed_as_it_was() {
    amqplib("returns");
}

#[test]
fn amqplib_channels_fail_with_code_class_and_method_and_alone() {
    amqplib("errors");
}
