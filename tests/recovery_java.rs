//! A Java publisher with confirms and a Java worker, the broker killed with SIGKILL and started again between and
//! during their work, and every task counted.
//!
//! The publisher publishes a task again, as another *copy*, when the connection is lost before the confirm.

use leveret_suite::{Server, java};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;
use tempfile::TempDir;

const QUEUE: &str = "recovery.tasks";
/// How long all programs together may be silent; a machine under load starts a JVM in seconds.
const PATIENCE: Duration = Duration::from_secs(90);

#[test]
fn java_counts_every_task_when_the_broker_is_killed_between_and_during() {
    // The worker reconnects itself, so it knows which of its acknowledgements were processed.
    scenario(20, &[], rounds(6));
}

#[test]
fn java_counts_every_task_with_prefetch_1() {
    scenario(1, &[], rounds(3));
}

#[test]
fn java_counts_every_task_with_the_clients_automatic_recovery() {
    scenario(20, &["automatic"], rounds(3));
}

fn rounds(short: u32) -> u32 {
    if std::env::var_os("LEVERET_LONG").is_some() { 10 * short } else { short }
}

/// Copies have numbers in order; each run of the publisher gets a range of its own.
const COPIES_PER_RUN: u32 = 1_000_000;
/// Tasks that wait in the queue when the broker is killed between the publisher and the worker.
const WAITING: u32 = 300;
/// Tasks for each kill during the work.
const PER_ROUND: u32 = 250;

fn scenario(prefetch: u32, mode: &[&str], rounds: u32) {
    let limit = prefetch.to_string();
    let worker = [&[&*limit], mode].concat();
    let mut broker = Broker::start();
    let mut count = Count::new();
    let mut published = 0;

    // Between: everything is confirmed, nobody has taken anything yet.
    let publisher = broker.publisher(&count, 1..=WAITING, 0);
    published += WAITING;
    count.until("the publisher has finished", |count| count.finished == 1);
    publisher.ends();
    broker.kill_and_restart();

    // While a worker is busy with them.
    let worker = broker.worker(&count, &worker);
    count.until("the worker has done a part", |count| count.deliveries >= WAITING / 3);
    broker.kill_and_restart();

    // While publisher and worker are busy.
    let tasks = published + 1..=published + rounds * PER_ROUND;
    published += rounds * PER_ROUND;
    let publisher = broker.publisher(&count, tasks, COPIES_PER_RUN);
    for round in 0..rounds {
        // Not always at the same distance, and never so many that there would be nothing left to disturb.
        let progress = count.progress() + 40 + (round * 97) % 200;
        count.until("it goes on", |count| count.progress() >= progress || count.finished == 2);
        broker.kill_and_restart();
    }
    count.until("the publisher has finished", |count| count.finished == 2);
    publisher.ends();
    count.until("every task is done", |count| count.tasks.len() as u32 == published);
    count.until("all that was confirmed is done", |count| count.confirmed_but_not_done().is_empty());
    worker.ends();

    // What was acknowledged is gone for good: also after yet another kill.
    broker.kill_and_restart();
    count.take_what_came();
    let left = broker.left();
    assert_eq!(left, 0, "tasks are back");
    let kills = rounds + 3;
    println!("{count}; the broker was killed {kills} times");
    count.verify(published, kills * prefetch);
}

/// A broker that is always found at the same address.
struct Broker {
    server: Server,
    port: u16,
    _data: TempDir,
}

impl Broker {
    fn start() -> Broker {
        let data = tempfile::tempdir().expect("a temporary directory");
        let path = data.path().to_str().expect("a path in UTF-8").to_owned();
        let port = free_port();
        let listen = format!("127.0.0.1:{port}");
        let server = Server::start_with(&["--data-dir", &path, "--listen", &listen]);
        Broker { server, port, _data: data }
    }

    fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    fn kill_and_restart(&mut self) {
        self.server.kill9();
        self.server.restart();
    }

    fn publisher(&self, count: &Count, tasks: std::ops::RangeInclusive<u32>, first_copy: u32) -> Program {
        let arguments = [QUEUE.to_owned(), tasks.start().to_string(), tasks.end().to_string(), first_copy.to_string()];
        Program::start("RecoveryPublisher", &arguments, &self.url(), count.sender.clone())
    }

    fn worker(&self, count: &Count, arguments: &[&str]) -> Program {
        let arguments: Vec<String> = [&[QUEUE], arguments].concat().iter().map(|a| (*a).to_owned()).collect();
        Program::start("RecoveryWorker", &arguments, &self.url(), count.sender.clone())
    }

    /// Tasks still in the queue.
    fn left(&self) -> u32 {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let url = self.url();
            let connection = lapin::Connection::connect(&url, lapin::ConnectionProperties::default());
            let connection = connection.await.expect("a connection");
            let channel = connection.create_channel().await.expect("a channel");
            let options = lapin::options::QueueDeclareOptions::durable().passive();
            let queue = channel.queue_declare(QUEUE.into(), options, lapin::types::FieldTable::default()).await;
            queue.expect("the queue is durable").message_count()
        })
    }
}

/// A port below those that the kernel gives to others while the broker is down.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id() % 8_000;
    (0..8_000)
        .map(|_| 20_000 + ((start + NEXT.fetch_add(1, Ordering::Relaxed)) % 8_000) as u16)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

/// A Java program whose lines are counted. It ends when its standard input closes, at the latest with this process.
struct Program {
    child: Child,
    input: Option<ChildStdin>,
    name: &'static str,
}

impl Program {
    fn start(name: &'static str, arguments: &[String], url: &str, sender: Sender<String>) -> Program {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recovery_java");
        let mut child = java::program(&sources, name)
            .args(arguments)
            .env("AMQP_URL", url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("java can be run");
        let errors = child.stderr.take().expect("a piped stderr");
        // Printed from here, so that it is shown with the test's own output, if the test fails.
        std::thread::spawn(move || {
            for line in BufReader::new(errors).lines().map_while(Result::ok) {
                println!("{name}: {line}");
            }
        });
        let output = child.stdout.take().expect("a piped stdout");
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let input = child.stdin.take();
        Program { child, input, name }
    }

    /// Asks it to end, unless it has already, and waits.
    #[track_caller]
    fn ends(mut self) {
        if self.name == "RecoveryWorker" {
            self.input = None;
        }
        let status = self.child.wait().expect("a child can be waited for");
        assert!(status.success(), "{}: {status}", self.name);
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What publisher and worker have said.
struct Count {
    sender: Sender<String>,
    lines: Receiver<String>,
    finished: u32,
    deliveries: u32,
    /// Copies that were confirmed.
    confirmed: BTreeSet<u32>,
    /// Tasks that were done.
    tasks: BTreeSet<u32>,
    /// Copy: how often it was done with and without the redelivered flag.
    copies: BTreeMap<u32, (u32, u32)>,
    /// Copies whose acknowledgement was certainly processed.
    settled: BTreeSet<u32>,
    /// Copies that came although they were settled.
    back: Vec<u32>,
}

impl Count {
    fn new() -> Count {
        let (sender, lines) = channel();
        Count {
            sender,
            lines,
            finished: 0,
            deliveries: 0,
            confirmed: BTreeSet::new(),
            tasks: BTreeSet::new(),
            copies: BTreeMap::new(),
            settled: BTreeSet::new(),
            back: Vec::new(),
        }
    }

    #[track_caller]
    fn until(&mut self, what: &str, enough: impl Fn(&Count) -> bool) {
        while !enough(self) {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => self.take(&line),
                Err(_) => panic!(
                    "nothing happens any more, and not yet so that {what}: {self}; {} confirmed are not done",
                    self.confirmed_but_not_done().len()
                ),
            }
        }
    }

    fn take_what_came(&mut self) {
        while let Ok(line) = self.lines.try_recv() {
            self.take(&line);
        }
    }

    #[track_caller]
    fn take(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<u32>().expect("a number");
        match words[0] {
            "confirmed" if words.len() == 3 => {
                assert!(self.confirmed.insert(number(1)), "confirmed twice: {line}")
            }
            "done" if words.len() == 4 => {
                self.deliveries += 1;
                self.tasks.insert(number(2));
                let (again, first) = self.copies.entry(number(1)).or_default();
                *(if words[3] == "true" { again } else { first }) += 1;
                if self.settled.contains(&number(1)) {
                    self.back.push(number(1));
                }
            }
            "settled" => assert!(self.settled.insert(number(1)), "settled twice: {line}"),
            "finished" => self.finished += 1,
            _ => panic!("a program says: {line}"),
        }
    }

    fn progress(&self) -> u32 {
        self.confirmed.len() as u32 + self.deliveries
    }

    fn confirmed_but_not_done(&self) -> Vec<u32> {
        self.confirmed.iter().filter(|copy| !self.copies.contains_key(copy)).copied().collect()
    }

    /// What must be true in the end, however often the broker was killed; at most `under_way` messages in all were
    /// on their way to the worker when it was.
    #[track_caller]
    fn verify(&self, published: u32, under_way: u32) {
        assert!(self.tasks.iter().copied().eq(1..=published), "every task is done");
        assert_eq!(self.confirmed_but_not_done(), [0; 0], "confirmed and lost");
        assert_eq!(self.back, [0; 0], "acknowledged for certain, and back");
        let unmarked: Vec<_> = self.copies.iter().filter(|(_, (_, first))| *first > 1).collect();
        assert!(unmarked.is_empty(), "done twice without a mark: {unmarked:?}");
        // Only what was on its way may be marked without having been seen.
        let needless: Vec<_> = self.marked().collect();
        assert!(needless.len() <= under_way as usize, "marked, and never seen before: {needless:?}");
    }

    /// Copies that came with the redelivered flag only.
    fn marked(&self) -> impl Iterator<Item = u32> {
        self.copies.iter().filter(|(_, (_, first))| *first == 0).map(|(copy, _)| *copy)
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let twice = self.copies.values().filter(|(again, first)| again + first > 1).count();
        let marked = self.marked().count();
        write!(
            f,
            "{} tasks done, {} copies of them, {} confirmed, {} certainly acknowledged, {twice} done twice, \
             {marked} never seen without the redelivered flag",
            self.tasks.len(),
            self.copies.len(),
            self.confirmed.len(),
            self.settled.len()
        )
    }
}
