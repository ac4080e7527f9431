//! The programs in `examples/`, each run as a user would run it, against a broker of its own.

use leveret_suite::Server;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use tempfile::TempDir;

/// How long a program may be silent before its test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

struct Broker {
    server: Server,
    // Dropped after the server that has its files open.
    _data: TempDir,
}

impl Broker {
    fn start() -> Broker {
        let data = tempfile::tempdir().expect("a temporary directory");
        let server = Server::start_durable(data.path());
        Broker { server, _data: data }
    }

    fn example(&self, name: &str) -> Command {
        let mut command = Command::new(directory().join(name));
        command.env("AMQP_ADDR", format!("amqp://guest:guest@{}/%2f", self.server.address()));
        command
    }
}

/// Where the examples lie, once they have been built as these tests were.
fn directory() -> PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(build).clone()
}

fn build() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let profile_dir = test.ancestors().nth(2).expect("a test lies two levels below its profile's directory");
    let target_dir = profile_dir.parent().expect("a profile's directory lies in the target directory");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // Plain `cargo test` has built them; `cargo test --test examples` has not.
    cargo.args(["build", "--quiet", "--examples", "--target-dir"]).arg(target_dir);
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    if profile_dir.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.status().expect("cargo can be run");
    assert!(status.success(), "the examples don't build: {status}");
    Path::new(profile_dir).join("examples")
}

/// Runs an example to its end, which must be a good one, and returns what it printed.
#[track_caller]
fn run(mut command: Command) -> String {
    let output = command.output().expect("an example can be run");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{said}{errors}", output.status);
    said
}

/// A program that runs on while the test listens to it. Killed when this goes.
struct Running {
    child: Child,
    lines: Receiver<String>,
    heard: Vec<String>,
}

impl Running {
    fn start(mut command: Command) -> Running {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("an example can be run");
        let (sender, lines) = channel();
        let outputs: [Option<Box<dyn Read + Send>>; 2] = [
            child.stdout.take().map(|output| Box::new(output) as _),
            child.stderr.take().map(|output| Box::new(output) as _),
        ];
        for output in outputs.into_iter().flatten() {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        Running { child, lines, heard: Vec::new() }
    }

    /// Waits for this line, and for no other.
    #[track_caller]
    fn says(&mut self, expected: &str) {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) if line == expected => self.heard.push(line),
            other => panic!("expected {expected:?}, not {other:?}; before: {:?}", self.heard),
        }
    }

    /// Waits for its good end and returns what it said until then.
    #[track_caller]
    fn ends(mut self) -> Vec<String> {
        let mut rest = Vec::new();
        // The channel closes with the program's outputs.
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => rest.push(line),
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
                Err(timeout) => panic!("{timeout}; it said {:?} {rest:?}", self.heard),
            }
        }
        let status = self.child.wait().expect("a child can be waited for");
        assert!(status.success(), "{status}; it said {:?} {rest:?}", self.heard);
        rest
    }

    fn kill9(&mut self) {
        self.child.kill().expect("a running child can be killed");
        self.child.wait().expect("a child can be waited for");
    }

    /// What it has said since, without waiting.
    fn said_since(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn replicas_share_a_queue_and_no_task_is_lost_or_done_twice() {
    let broker = Broker::start();
    let said = run(broker.example("replicas"));
    assert!(said.ends_with(", each of them once\n"), "{said}");
}

#[test]
fn fan_in_gathers_everything_though_producers_and_a_worker_hang() {
    let broker = Broker::start();
    let said = run(broker.example("fan_in"));
    assert!(said.ends_with("nothing lost, everything drained\n"), "{said}");
}

#[test]
fn embedded_starts_uses_and_stops_a_broker_in_its_own_process() {
    let said = run(Command::new(directory().join("embedded")));
    assert!(said.contains("start took"), "{said}");
}

#[test]
fn an_example_without_a_broker_fails() {
    for name in ["replicas", "fan_in", "new_task", "worker"] {
        let mut command = Command::new(directory().join(name));
        // Port 1 is the one that nobody listens on.
        command.env("AMQP_ADDR", "amqp://guest:guest@127.0.0.1:1/%2f");
        if name == "new_task" {
            command.arg("task");
        }
        let output = command.output().expect("an example can be run");
        assert_eq!(output.status.code(), Some(1), "{name}: {output:?}");
    }
}

fn worker(broker: &Broker, arguments: &[&str]) -> Running {
    let mut command = broker.example("worker");
    command.args(arguments);
    let mut worker = Running::start(command);
    worker.says("ready");
    worker
}

fn new_task(broker: &Broker, arguments: &[&str]) {
    let mut command = broker.example("new_task");
    command.args(arguments);
    run(command);
}

/// What a worker says that did exactly these tasks.
fn done(tasks: &[&str]) -> Vec<String> {
    tasks.iter().flat_map(|task| [format!("received '{task}'"), format!("done '{task}'")]).collect()
}

#[test]
fn tutorial_2_first_stage_tasks_go_round_robin_to_workers_that_acknowledge_automatically() {
    let broker = Broker::start();
    let arguments = ["--auto-ack", "--dot", "5", "--count", "3"];
    let one = worker(&broker, &arguments);
    let two = worker(&broker, &arguments);
    new_task(&broker, &["1.", "2..", "3.", "4..", "5.", "6.."]);
    assert_eq!(one.ends(), done(&["1.", "3.", "5."]));
    assert_eq!(two.ends(), done(&["2..", "4..", "6.."]));
}

#[test]
fn tutorial_2_second_stage_a_task_whose_worker_is_killed_goes_to_another() {
    let broker = Broker::start();
    let mut doomed = worker(&broker, &["--dot", "3600000"]);
    new_task(&broker, &["endless."]);
    doomed.says("received 'endless.'");
    let mut healthy = worker(&broker, &["--dot", "0", "--count", "1"]);
    assert_eq!(healthy.said_since(), [""; 0], "the task belongs to the first worker");
    doomed.kill9();
    healthy.says("received 'endless.', redelivered");
    assert_eq!(healthy.ends(), ["done 'endless.'"]);
    // It was acknowledged, so nobody gets it a third time.
    let mut next = worker(&broker, &["--dot", "0", "--count", "1"]);
    new_task(&broker, &["another"]);
    next.says("received 'another'");
}

#[test]
fn tutorial_2_third_stage_durable_tasks_outlive_the_broker_and_are_dispatched_fairly() {
    for killed in [true, false] {
        let mut broker = Broker::start();
        new_task(&broker, &["--durable", "--queue", "durable", "1.", "2", "3", "4"]);
        if killed {
            broker.server.kill9();
        } else {
            assert_eq!(broker.server.stop().code(), Some(0));
        }
        broker.server.restart();

        // The first is busy with the task that has a dot; with prefetch 1 it gets no other.
        let busy = ["--durable", "--queue", "durable", "--prefetch", "1", "--dot", "3600000"];
        let mut busy = worker(&broker, &busy);
        busy.says("received '1.'");
        let free = ["--durable", "--queue", "durable", "--prefetch", "1", "--count", "3"];
        let free = worker(&broker, &free);
        assert_eq!(free.ends(), done(&["2", "3", "4"]));
        assert_eq!(busy.said_since(), [""; 0], "a busy worker gets nothing");

        // The broker goes in the middle of the task; who comes next does it again.
        broker.server.kill9();
        broker.server.restart();
        let next = ["--durable", "--queue", "durable", "--dot", "0", "--count", "1"];
        let mut next = worker(&broker, &next);
        next.says("received '1.', redelivered");
        assert_eq!(next.ends(), ["done '1.'"]);
    }
}
