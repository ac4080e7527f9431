//! `leveret perf` as its user meets it: the real program against a real broker, each scenario for a moment, and what it
//! says when something is wrong.

use std::io::Write;
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

use amq_protocol::protocol::channel;
use leveret_suite::{Server, binary, say};

fn perf(arguments: &[&str]) -> Output {
    let url = format!("amqp://guest:guest@{}", Server::start().address());
    perf_at(&url, arguments)
}

fn perf_at(url: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.arg("perf").args(arguments).args(["--url", url]).stdin(Stdio::null());
    command.output().expect("the program runs")
}

/// The report of a run that must be sound, as JSON that another program has been able to read.
#[track_caller]
fn sound(arguments: &[&str]) -> Report {
    let output = perf(&[arguments, &["--json"]].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*errors), (Some(0), ""), "{arguments:?}: {output:?}");
    let report = Report::read(&output.stdout);
    assert_eq!(report.get("sound"), "true", "{report:?}");
    report
}

/// What a run says on standard error that cannot be made: one line.
#[track_caller]
fn refused(url: &str, arguments: &[&str]) -> String {
    let output = perf_at(url, arguments);
    let line = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(!output.status.success() && output.status.code().is_some(), "{arguments:?}: {:?}", output.status);
    assert!(line.starts_with("leveret: ") && line.lines().count() == 1, "{arguments:?}: {line:?}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    line
}

/// A report, its groups' members named as `group.member`.
#[derive(Debug)]
struct Report(Vec<(String, String)>);

impl Report {
    /// Lets Python read the JSON, so that our own idea of it is not judged by itself.
    fn read(json: &[u8]) -> Report {
        let script = "import json, sys\n\
                      for name, value in json.load(sys.stdin).items():\n\
                      \x20   for member, inner in value.items() if isinstance(value, dict) else [('', value)]:\n\
                      \x20       print(name + '.' * bool(member) + member, json.dumps(inner), sep='\\t')\n";
        let mut python = Command::new("python3");
        python.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = python.spawn().expect("python3 is there");
        child.stdin.take().expect("a pipe").write_all(json).expect("python reads");
        let output = child.wait_with_output().expect("python ends");
        assert!(output.status.success(), "not JSON: {}", String::from_utf8_lossy(json));
        let lines = String::from_utf8(output.stdout).expect("UTF-8");
        let field = |line: &str| line.split_once('\t').map(|(name, value)| (name.to_owned(), value.to_owned()));
        Report(lines.lines().filter_map(field).collect())
    }

    #[track_caller]
    fn get(&self, name: &str) -> &str {
        let field = self.0.iter().find(|(of, _)| of == name);
        &field.unwrap_or_else(|| panic!("no {name} in {self:?}")).1
    }

    #[track_caller]
    fn number(&self, name: &str) -> f64 {
        self.get(name).parse().unwrap_or_else(|_| panic!("{name} is no number in {self:?}"))
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(of, _)| of == name)
    }
}

// Scenarios

#[test]
fn throughput_delivers_as_many_messages_as_were_asked_for() {
    // So many that they take a time that can be measured.
    let report = sound(&["throughput", "--messages", "200000"]);
    for (name, count) in [("published", 200_000.0), ("received", 200_000.0), ("lost", 0.0), ("redelivered", 0.0)] {
        assert_eq!(report.number(name), count, "{name}");
    }
    assert!(report.number("published_per_s") > 0.0 && report.number("received_per_s") > 0.0);
    assert!(!report.has("confirm_us") && !report.has("late_us"), "{report:?}");
}

#[test]
fn many_producers_consumers_and_queues_share_the_messages() {
    for shape in [["2", "3", "5"], ["5", "2", "3"], ["3", "4", "1"]] {
        let [producers, consumers, queues] = shape;
        let options = ["-P", producers, "-C", consumers, "-Q", queues, "--messages", "2001", "--ack", "every"];
        assert_eq!(sound(&options).number("received"), 2001.0, "{shape:?}");
    }
}

#[test]
fn every_way_to_ack_gets_every_message() {
    for ack in [&["--ack", "auto"][..], &["--ack", "every"], &["--ack", "50"], &["--ack", "7", "--prefetch", "7"]] {
        let report = sound(&[&["--messages", "1000"], ack].concat());
        assert_eq!((report.number("received"), report.number("redelivered")), (1000.0, 0.0), "{ack:?}");
    }
}

#[test]
fn large_bodies_come_whole() {
    let report = sound(&["--size", "300000", "--messages", "20", "--persistent", "--durable"]);
    assert_eq!((report.number("size"), report.number("received")), (300_000.0, 20.0));
}

#[test]
fn latency_is_measured_at_the_rate_asked_for_and_says_how_late_messages_were_sent() {
    let report = sound(&["latency", "--rate", "500", "--messages", "100"]);
    assert_eq!(report.number("latency_us.samples"), 100.0);
    assert_eq!(report.number("late_us.samples"), 100.0);
    assert!(report.number("latency_us.p50") <= report.number("latency_us.p99"));
    assert!(report.number("latency_us.p99_9") <= report.number("latency_us.max"));
    assert!(report.number("seconds") >= 99.0 / 500.0, "no message is sent before it is due: {report:?}");
}

#[test]
fn confirms_are_timed_with_one_or_many_outstanding() {
    for window in ["1", "100"] {
        let report = sound(&["confirms", "--confirm", window, "--messages", "500"]);
        assert_eq!((report.number("confirmed"), report.number("confirm_us.samples")), (500.0, 500.0), "{window}");
    }
    let paced = sound(&["--confirm", "10", "--rate", "1000", "--messages", "100"]);
    assert_eq!(paced.number("confirmed"), 100.0);
}

#[test]
fn a_fan_out_brings_every_message_to_every_queue() {
    let report = sound(&["fanout", "-Q", "4", "--messages", "300"]);
    assert_eq!((report.number("published"), report.number("received")), (300.0, 1200.0));
}

#[test]
fn without_consumers_what_lies_in_the_queues_is_counted() {
    let report = sound(&["confirms", "-C", "0", "--messages", "300"]);
    assert_eq!((report.number("published"), report.number("received")), (300.0, 0.0));
}

#[test]
fn a_run_by_time_measures_what_comes_after_the_warm_up() {
    let report = sound(&["--duration", "0.3", "--warmup", "0.1"]);
    let seconds = report.number("seconds");
    assert!((0.3..30.0).contains(&seconds), "{report:?}");
    assert!(report.number("published") > report.number("published_per_s") * seconds, "the warm-up is not measured");
}

#[test]
fn the_time_of_a_few_messages_ends_with_the_last_of_them() {
    for options in [&[][..], &["--rate", "1000000", "--confirm", "100"], &["-C", "0"], &["-C", "0", "--persistent"]] {
        // A busy machine can make a run slow, but not every one.
        let seconds = || sound(&[options, &["--messages", "100"]].concat()).number("seconds");
        let fastest = (0..5).map(|_| seconds()).fold(f64::INFINITY, f64::min);
        assert!(fastest > 0.0 && fastest < 0.1, "{options:?}: {fastest} s");
    }
}

#[test]
fn a_time_without_a_message_has_rates_of_0_and_no_cost_of_a_message() {
    let report = sound(&["--rate", "1", "--warmup", "0.3", "--duration", "0.1"]);
    assert_eq!((report.number("published_per_s"), report.number("received_per_s")), (0.0, 0.0));
    assert!(!report.has("own_cpu_us_per_message"), "{report:?}");
}

// What it says and leaves behind

#[test]
fn the_text_report_has_a_line_for_each_value() {
    let output = perf(&["--messages", "10"]);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let value = |name: &str| {
        let line = text.lines().find(|line| line.split_whitespace().next() == Some(name));
        line.and_then(|line| line.split_whitespace().nth(1)).map(str::to_owned)
    };
    assert_eq!(value("scenario").as_deref(), Some("throughput"));
    assert_eq!(value("received").as_deref(), Some("10"));
    assert_eq!(value("sound").as_deref(), Some("true"));
}

#[test]
fn its_queues_are_gone_afterwards() {
    let report = sound(&["--messages", "10", "--durable"]);
    let queue = report.get("first_queue").trim_matches('"').to_owned();
    let mut peer = Server::start().peer();
    peer.send(1, say::declare_passive(&queue));
    assert_eq!(peer.expect::<channel::Close>(1).reply_code, 404);
}

#[test]
fn lost_messages_are_counted_and_make_the_exit_code_3() {
    let bounded = ["-C", "0", "--confirm", "10", "--messages", "100", "--queue-arg", "x-max-length=5", "--json"];
    let output = perf(&bounded);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let report = Report::read(&output.stdout);
    assert_eq!((report.get("sound"), report.number("lost")), ("false", 95.0));
    assert!(report.get("first_fault").contains("held 5 messages, not 100"), "{report:?}");
}

#[test]
fn what_the_broker_refuses_is_counted_as_nacked_and_not_as_lost() {
    let refusing = ["--queue-arg", "x-max-length=5", "--queue-arg", "x-overflow=reject-publish"];
    let output = perf(&[&["-C", "0", "--confirm", "10", "--messages", "100", "--json"], &refusing[..]].concat());
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let report = Report::read(&output.stdout);
    assert_eq!((report.number("nacked"), report.number("lost"), report.number("confirmed")), (95.0, 0.0, 5.0));
}

// What is refused

#[test]
fn a_broker_that_is_not_there_is_one_line() {
    let closed = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let line = refused(&format!("amqp://{closed}"), &[]);
    assert!(line.contains(&format!("cannot connect to {closed}")), "{line}");
}

#[test]
fn a_wrong_password_or_vhost_is_one_line() {
    let address = Server::start().address();
    let line = refused(&format!("amqp://guest:secret@{address}"), &[]);
    assert!(line.contains("403 ACCESS_REFUSED") && !line.contains("secret"), "{line}");
    let line = refused(&format!("amqp://guest:guest@{address}/nowhere"), &[]);
    assert!(line.contains("530 NOT_ALLOWED") && line.contains("nowhere"), "{line}");
}

#[test]
fn a_queue_that_the_broker_refuses_is_one_line_with_its_reason() {
    let url = format!("amqp://guest:guest@{}", Server::start().address());
    let line = refused(&url, &["--queue-arg", "x-max-length=-5"]);
    assert!(line.contains("the broker has closed the channel: 406 PRECONDITION_FAILED"), "{line}");
}

#[test]
fn options_that_cannot_work_are_one_line() {
    for (code, arguments, says) in [
        (2, &["--size", "15"][..], "'--size <BYTES>'"),
        (2, &["--ack", "sometimes"], "auto, every, or a number of messages"),
        (2, &["--ack", "300"], "--ack 300 with --prefetch 200"),
        (2, &["--messages", "1", "-P", "2"], "--messages must be at least the number of producers"),
        (2, &["latency", "-C", "0"], "latency needs at least one consumer"),
        (2, &["--duration", "0"], "there would be no time to measure"),
        (2, &["latency", "--rate", "0"], "latency needs a rate above 0"),
        (2, &["confirms", "--confirm", "0"], "confirms needs at least one publish outstanding"),
        (2, &["--prefetch", "7"], "--prefetch 7 without acks"),
        (2, &["--rate", "100", "--backlog", "7"], "--backlog 7 with a rate"),
        (2, &["-C", "0", "--backlog", "7"], "--backlog 7 without consumers"),
        (1, &["--broker-pid", "4194305", "--messages", "1"], "process 4194305 cannot be watched"),
        (2, &["sideways"], "invalid value 'sideways'"),
    ] {
        let url = format!("amqp://guest:guest@{}", Server::start().address());
        let line = refused(&url, arguments);
        assert!(line.contains(says), "{arguments:?}: {line}");
        assert_eq!(perf_at(&url, arguments).status.code(), Some(code), "{arguments:?}");
    }
    assert!(refused("http://broker", &[]).contains("must be amqp://user:password@host:port/vhost"));
    assert!(refused("amqps://broker", &[]).contains("there is no TLS"));
}
