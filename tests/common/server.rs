//! A broker for the tests.

use crate::binary::binary;
use crate::peer::{Login, Peer};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// How long a broker may take to listen, even on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long a broker may take to do what it is told, as to end after SIGTERM, with room for a busy machine above the promised 10 s.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// A broker: a child process of this test, or the one that `LEVERET_AGAINST=HOST:PORT` names.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    /// What the broker is started by, such as a tracer; nothing: by itself.
    wrapper: Vec<String>,
    arguments: Vec<String>,
    process: Option<Process>,
}

impl Server {
    /// The broker that all tests of this process share, in memory: names must be [`unique`].
    pub fn start() -> &'static Server {
        static SHARED: OnceLock<Server> = OnceLock::new();
        SHARED.get_or_init(|| match given() {
            Some(address) => Server { address, wrapper: Vec::new(), arguments: Vec::new(), process: None },
            None => Server::start_with(&["--storage", "memory"]),
        })
    }

    /// A broker of one's own with its data in `dir`.
    pub fn start_durable(dir: &Path) -> Server {
        Server::start_with(&["--data-dir", dir.to_str().expect("a path in UTF-8")])
    }

    /// A broker of one's own with these arguments, on a free port.
    pub fn start_with(arguments: &[&str]) -> Server {
        Server::start_under(&[], arguments)
    }

    /// The same, started by a program that becomes the broker, which `wrapper` names with its arguments.
    pub fn start_under(wrapper: &[&str], arguments: &[&str]) -> Server {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let (wrapper, arguments) = (owned(wrapper), owned(arguments));
        let process = Process::spawn(&wrapper, &arguments);
        Server { address: process.address, wrapper, arguments, process: Some(process) }
    }

    /// True when the broker under test is one that these tests can't stop and start.
    pub fn is_given() -> bool {
        given().is_some()
    }

    /// Where to connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A new connection, logged in as guest on `/`, with channel 1 open.
    #[track_caller]
    pub fn peer(&self) -> Peer {
        let mut peer = self.peer_with(&Login::default());
        peer.open_channel(1);
        peer
    }

    /// A new connection, logged in like this; no channel is open yet.
    #[track_caller]
    pub fn peer_with(&self, login: &Login) -> Peer {
        let mut peer = Peer::connect(self.address);
        peer.handshake(login);
        peer
    }

    /// Ends the broker with SIGKILL.
    pub fn kill9(&mut self) {
        drop(self.process.take());
    }

    /// Ends the broker with SIGTERM and tells how it went.
    ///
    /// # Panics
    /// If it is still there after 20 s.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait_for_end()
    }

    /// Waits for the broker to end and tells how it went.
    ///
    /// # Panics
    /// If it is still there after 20 s.
    pub fn wait_for_end(&mut self) -> ExitStatus {
        self.process.take().expect("a broker of this test's own that runs").wait()
    }

    /// Starts the broker again with the same arguments, on another free port.
    pub fn restart(&mut self) {
        assert!(self.process.is_none(), "the broker still runs");
        let process = Process::spawn(&self.wrapper, &self.arguments);
        self.address = process.address;
        self.process = Some(process);
    }

    /// Sends a signal, by the name that kill(1) knows.
    pub fn signal(&self, name: &str) {
        self.running().signal(name);
    }

    /// The broker's resident memory now, in KiB.
    pub fn resident_kib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.running().child.id());
        let status = std::fs::read_to_string(path).expect("a running process has a status");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
        line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number of kB")
    }

    /// The CPU time that each of the broker's threads whose name begins so has taken so far, in clock ticks.
    pub fn cpu_ticks_of_threads(&self, name: &str) -> Vec<u64> {
        let tasks = format!("/proc/{}/task", self.running().child.id());
        let tasks = std::fs::read_dir(tasks).expect("a running process has tasks");
        let stats = tasks.map(|task| std::fs::read_to_string(task.expect("a task").path().join("stat")));
        // A thread that has ended meanwhile has none.
        let ticks = stats.flatten().filter_map(|stat| {
            let (start, fields) = stat.rsplit_once(") ")?;
            let (_, found) = start.split_once('(')?;
            let time = |at| fields.split(' ').nth(at)?.parse::<u64>().ok();
            found.starts_with(name).then_some(time(11)? + time(12)?)
        });
        ticks.collect()
    }

    /// What the broker has logged up to a line that contains this text, which is waited for.
    ///
    /// # Panics
    /// If there is no such line within 20 s.
    pub fn log_until(&self, text: &str) -> String {
        self.running().log.wait_for(text)
    }

    fn running(&self) -> &Process {
        self.process.as_ref().expect("a broker of this test's own that runs")
    }
}

fn given() -> Option<SocketAddr> {
    let name = std::env::var("LEVERET_AGAINST").ok()?;
    let mut addresses = name.to_socket_addrs().expect("LEVERET_AGAINST is HOST:PORT");
    addresses.next()
}

/// A name that no other test, and no other run against the same broker, uses.
pub fn unique(name: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    static RUN: OnceLock<u64> = OnceLock::new();
    let run = RUN.get_or_init(|| {
        let now = std::time::UNIX_EPOCH.elapsed().expect("a clock after 1970");
        now.as_millis() as u64 ^ u64::from(std::process::id()) << 44
    });
    format!("{name}-{run:x}-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A child broker, which doesn't outlive this value, nor this process however it ends.
#[derive(Debug)]
struct Process {
    child: Child,
    address: SocketAddr,
    log: Arc<Log>,
    watchdog: Watchdog,
}

impl Process {
    fn spawn(wrapper: &[String], arguments: &[String]) -> Process {
        let binary = binary();
        let mut words = wrapper.iter().map(OsStr::new).chain([binary.as_os_str()]);
        let program = words.next().expect("the broker's binary at least");
        let mut child = Command::new(program)
            .args(words)
            .args(["--listen", "127.0.0.1:0"])
            .args(arguments)
            .current_dir(std::env::temp_dir())
            // Not meant for the broker, which would warn of a setting that it doesn't know.
            .env_remove("LEVERET_BIN")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the broker's binary can be run");
        let watchdog = Watchdog::over(child.id());
        let log = Arc::new(Log::default());
        log.follow(child.stdout.take().expect("a piped stdout"));
        log.follow(child.stderr.take().expect("a piped stderr"));
        let address = log.wait_for_address(&mut child);
        Process { child, address, log, watchdog }
    }

    fn signal(&self, name: &str) {
        let command = format!("kill -s {name} {}", self.child.id());
        let status = Command::new("sh").args(["-c", &command]).status().expect("a shell");
        assert!(status.success(), "{command}: {status}");
    }

    fn wait(mut self) -> ExitStatus {
        let start = Instant::now();
        while start.elapsed() < STOP_LIMIT {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return status;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the broker still runs {STOP_LIMIT:?} after SIGTERM; its log:\n{}", self.log.lines().join("\n"));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The watchdog goes first: afterwards the pid may belong to somebody else.
        self.watchdog.call_off();
        // Both fail only if the child has already been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the broker's log:\n{}", self.log.lines().join("\n"));
        }
    }
}

/// A shell that kills a process when the pipe to it closes, which happens however this process ends.
#[derive(Debug)]
struct Watchdog {
    shell: Child,
    leash: Option<ChildStdin>,
}

impl Watchdog {
    fn over(pid: u32) -> Watchdog {
        let mut shell = Command::new("sh")
            .args(["-c", &format!("read _; kill -9 {pid}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell");
        let leash = shell.stdin.take();
        Watchdog { shell, leash }
    }

    fn call_off(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
        self.leash = None;
    }
}

/// The lines that a broker has written, from both of its outputs.
#[derive(Debug, Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    more: Condvar,
}

impl Log {
    fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("no reader of the log panics").clone()
    }

    fn follow(self: &Arc<Self>, output: impl Read + Send + 'static) {
        let log = Arc::clone(self);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                log.lines.lock().expect("no reader of the log panics").push(line);
                log.more.notify_all();
            }
            log.more.notify_all();
        });
    }

    fn wait_for(&self, text: &str) -> String {
        let start = Instant::now();
        let mut lines = self.lines.lock().expect("no reader of the log panics");
        loop {
            if lines.iter().any(|line| line.contains(text)) {
                return lines.join("\n");
            }
            let left = STOP_LIMIT.saturating_sub(start.elapsed());
            assert!(!left.is_zero(), "no line with {text:?} in the log:\n{}", lines.join("\n"));
            lines = self.more.wait_timeout(lines, left).expect("no reader of the log panics").0;
        }
    }

    /// The first address of the first line that says `listening on`.
    fn wait_for_address(&self, child: &mut Child) -> SocketAddr {
        let start = Instant::now();
        let mut lines = self.lines.lock().expect("no reader of the log panics");
        loop {
            if let Some(address) = lines.iter().find_map(|line| listening_address(line)) {
                return address;
            }
            let ended = child.try_wait().expect("a child can be waited for");
            if ended.is_some() || start.elapsed() > START_LIMIT {
                panic!("the broker doesn't listen ({ended:?}); it said:\n{}", lines.join("\n"));
            }
            let tick = Duration::from_millis(100);
            lines = self.more.wait_timeout(lines, tick).expect("no reader of the log panics").0;
        }
    }
}

fn listening_address(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("listening on ")?;
    let address = rest.split(|c: char| c.is_whitespace() || matches!(c, ',' | ';' | '"' | '\u{1b}')).next()?;
    address.parse().ok()
}
