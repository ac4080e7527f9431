//! The program `leveret` as its user meets it: options, environment and file, what it says when something is wrong,
//! how it starts and how it stops. Every test runs the real binary in an empty directory of its own.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use amq_protocol::protocol::connection;
use leveret_suite::{Login, Peer, binary};
use tempfile::TempDir;

/// How long anything is waited for: much longer than it takes, as the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a stop may take.
const STOP_LIMIT: Duration = Duration::from_secs(10);

const ANY_PORT: [&str; 2] = ["--listen", "127.0.0.1:0"];

const STARTED: &str = "Server startup complete; 0 plugins started.";

fn empty_dir() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// The program in this directory, without the settings that this test's own environment may hold.
fn leveret<I: AsRef<OsStr>>(dir: &TempDir, arguments: impl IntoIterator<Item = I>) -> Command {
    let mut command = Command::new(binary());
    command.current_dir(dir.path()).args(arguments);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("LEVERET_") || text.starts_with("RABBITMQ_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What a run left behind.
struct Ended {
    status: ExitStatus,
    stdout: String,
    stderr: String,
}

/// Runs a command that ends by itself.
fn run(command: &mut Command) -> Ended {
    let mut child = command.spawn().expect("the program runs");
    let stdout = in_background(child.stdout.take().expect("stdout is a pipe"));
    let stderr = in_background(child.stderr.take().expect("stderr is a pipe"));
    let status = wait(&mut child);
    Ended { status, stdout: stdout.recv().expect("stdout"), stderr: stderr.recv().expect("stderr") }
}

fn in_background(mut pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut text = String::new();
        pipe.read_to_string(&mut text).expect("the program writes UTF-8");
        // Nobody listens any more if the test has failed.
        let _ = sender.send(text);
    });
    receiver
}

fn wait(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("the child can be waited for") {
            return status;
        }
        if Instant::now() > deadline {
            child.kill().expect("the child can be killed");
            panic!("the program still runs after {PATIENCE:?}");
        }
        // The standard library cannot wait for a child with a limit.
        thread::sleep(Duration::from_millis(5));
    }
}

/// Runs a command that must fail, with one line on standard error, which it returns.
fn refused(command: &mut Command) -> String {
    let ended = run(command);
    assert!(!ended.status.success(), "accepted: {command:?}\n{}", ended.stdout);
    assert!(ended.status.code().is_some(), "ended by a signal: {command:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{command:?} says in one line: {}", ended.stderr);
    assert!(ended.stderr.starts_with("leveret: "), "{}", ended.stderr);
    assert!(!ended.stdout.contains(STARTED), "{}", ended.stdout);
    ended.stderr
}

/// Runs a command that must succeed and have nothing to say on standard error; returns what it printed.
fn printed(command: &mut Command) -> String {
    let ended = run(command);
    assert!(ended.status.success(), "{command:?}: {}", ended.stderr);
    assert_eq!(ended.stderr, "", "{command:?}");
    ended.stdout
}

fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("the directory");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

/// A broker that runs. It does not outlive this value.
struct Running {
    child: Child,
    lines: Receiver<String>,
    log: Vec<String>,
    stderr: Receiver<String>,
}

impl Running {
    /// Starts it and waits for the line that says it is up.
    fn start(command: &mut Command) -> Self {
        let mut child = command.spawn().expect("the program runs");
        let stdout = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        let stderr = in_background(child.stderr.take().expect("stderr is a pipe"));
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in stdout.lines() {
                // Nobody listens any more if the test has failed; the pipe has to be emptied all the same.
                let _ = sender.send(line.expect("the log is UTF-8"));
            }
        });
        let mut running = Self { child, lines, log: Vec::new(), stderr };
        running.wait_for(STARTED);
        running
    }

    /// The line of the log with this text: one that has been there already, or the next to come.
    fn wait_for(&mut self, text: &str) -> String {
        if let Some(line) = self.log.iter().find(|line| line.contains(text)) {
            return line.clone();
        }
        loop {
            let Ok(line) = self.lines.recv_timeout(PATIENCE) else {
                // Dead or hanging; dead it can be asked for its last words.
                let _ = self.child.kill();
                let words = self.stderr.recv_timeout(PATIENCE).unwrap_or_default();
                panic!("`{text}` is not in the log: {:#?}\n{words}", self.log);
            };
            self.log.push(line.clone());
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Where it listens, as the log says it.
    fn addresses(&mut self) -> Vec<SocketAddr> {
        let line = self.wait_for("listening on ");
        let (_, rest) = line.split_once("listening on ").expect("waited for");
        let (addresses, _) = rest.split_once(", data in ").expect("the same line says where the data is");
        addresses.split(", ").map(|address| address.parse().expect("an address")).collect()
    }

    /// A client that has logged in and holds its connection open.
    fn client(&mut self) -> Peer {
        let mut peer = Peer::connect(self.addresses()[0]);
        peer.handshake(&Login::default());
        peer
    }

    fn signal(&self, name: &str) {
        let status = Command::new("sh").args(["-c", &format!("kill -s {name} {}", self.child.id())]).status();
        assert!(status.expect("a shell").success(), "the broker is gone before SIG{name}");
    }

    /// Waits for its end: the status, and what it said on standard error.
    fn end(mut self) -> (ExitStatus, String) {
        let status = wait(&mut self.child);
        (status, self.stderr.recv_timeout(PATIENCE).expect("stderr ends with the program"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only if it has already been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// Starting

#[test]
fn it_says_in_one_line_what_it_listens_on_and_where_its_data_is_and_then_that_it_is_up() {
    let dir = empty_dir();
    let mut broker = Running::start(&mut leveret(&dir, ANY_PORT));
    let line = broker.wait_for("listening on 127.0.0.1:");
    let data = dir.path().canonicalize().expect("the directory").join("leveret-data");
    assert!(line.contains(&format!("data in {}", data.display())), "{line}");
    assert!(broker.log.last().is_some_and(|last| last.contains(STARTED)), "{:#?}", broker.log);
    assert!(data.is_dir(), "the default data directory is there");
    broker.client();
}

#[test]
fn it_serves_without_a_command_and_with_the_command_serve() {
    for command in [&[][..], &["serve"]] {
        let dir = empty_dir();
        let mut broker = Running::start(&mut leveret(&dir, command.iter().chain(&ANY_PORT)));
        broker.client();
    }
}

#[test]
fn in_memory_it_leaves_no_trace() {
    let dir = empty_dir();
    let mut broker = Running::start(leveret(&dir, ANY_PORT).args(["--storage", "memory"]));
    assert!(broker.wait_for("listening on ").contains("data in memory only"));
    broker.client();
    broker.signal("TERM");
    assert!(broker.end().0.success());
    assert_eq!(names_in(dir.path()), [""; 0]);
}

#[test]
fn it_listens_on_every_address_it_is_given() {
    let dir = empty_dir();
    let mut broker = Running::start(&mut leveret(&dir, ["--listen", "127.0.0.1:0", "--listen", "localhost:0"]));
    let addresses = broker.addresses();
    assert_eq!(addresses.len(), 2);
    for address in addresses {
        Peer::connect(address).handshake(&Login::default());
    }
}

#[test]
fn the_default_user_password_and_vhost_are_those_it_is_given() {
    let dir = empty_dir();
    let options = ["--default-user", "user", "--default-pass", "password", "--default-vhost", "shop"];
    let mut broker = Running::start(leveret(&dir, ANY_PORT).args(options));
    let address = broker.addresses()[0];
    let user = Login { user: "user", password: "password", vhost: "shop", ..Login::default() };
    Peer::connect(address).handshake(&user);
    assert_eq!(login_refused(address, &Login { vhost: "shop", ..Login::default() }), 403);
}

#[test]
fn a_default_user_who_is_not_that_of_the_first_start_is_worth_a_warning() {
    let dir = empty_dir();
    let warning = "the default user is made at the first start only";
    let warns = |password: &str| {
        let running = Running::start(leveret(&dir, ANY_PORT).args(["--default-pass", password]));
        let warns = running.log.iter().any(|line| line.contains(warning));
        // A clean end: a kill within milliseconds of the first start would leave a store without the user.
        running.signal("TERM");
        assert!(running.end().0.success());
        warns
    };
    assert!(!warns("first"));
    assert!(!warns("first"));
    assert!(warns("second"));
}

#[test]
fn rabbitmqs_variables_for_user_password_and_vhost_are_understood() {
    let dir = empty_dir();
    let variables =
        [("RABBITMQ_DEFAULT_USER", "user"), ("RABBITMQ_DEFAULT_PASS", "password"), ("RABBITMQ_DEFAULT_VHOST", "shop")];
    let mut broker = Running::start(leveret(&dir, ANY_PORT).envs(variables));
    let address = broker.addresses()[0];
    let user = Login { user: "user", password: "password", vhost: "shop", ..Login::default() };
    Peer::connect(address).handshake(&user);
    assert_eq!(login_refused(address, &Login { password: "wrong", ..user }), 403);
}

/// The reply code with which a login is refused.
fn login_refused(address: SocketAddr, login: &Login) -> u16 {
    let mut peer = Peer::connect(address);
    peer.send_octets(b"AMQP\x00\x00\x09\x01");
    peer.expect::<connection::Start>(0);
    peer.send_payload(0, login.start_ok());
    peer.expect::<connection::Close>(0).reply_code
}

#[test]
fn a_log_in_json_is_an_object_per_line() {
    let dir = empty_dir();
    let mut broker = Running::start(leveret(&dir, ANY_PORT).args(["--log-format", "json"]));
    broker.wait_for(&format!("\"message\":\"{STARTED}\""));
    for line in &broker.log {
        assert!(line.starts_with("{\"timestamp\":\"") && line.ends_with('}'), "{line}");
    }
}

#[test]
fn a_misspelt_variable_is_worth_a_warning_and_no_more() {
    let dir = empty_dir();
    let mut broker = Running::start(leveret(&dir, ANY_PORT).env("LEVERET_LISEN", "127.0.0.1:1"));
    let warning = broker.wait_for("the environment variable LEVERET_LISEN is no setting of leveret; ignored");
    assert!(warning.contains("WARN"), "{warning}");
}

#[test]
fn a_log_level_leaves_out_what_is_below_it() {
    let dir = empty_dir();
    let mut command = leveret(&dir, ANY_PORT);
    command.args(["--log-level", "error,leveret::cli::serve=info"]).env("LEVERET_LISEN", "127.0.0.1:1");
    // The warning would come before the line that is waited for.
    let broker = Running::start(&mut command);
    assert!(!broker.log.iter().any(|line| line.contains("WARN")), "{:#?}", broker.log);
}

// Stopping

#[test]
fn sigterm_and_sigint_send_320_to_every_client_and_exit_with_0_within_10_seconds() {
    for signal in ["TERM", "INT"] {
        let dir = empty_dir();
        let mut broker = Running::start(&mut leveret(&dir, ANY_PORT));
        let mut clients = [broker.client(), broker.client()];
        let asked = Instant::now();
        broker.signal(signal);
        for client in &mut clients {
            let close = client.expect::<connection::Close>(0);
            assert_eq!(close.reply_code, 320);
            assert!(close.reply_text.as_str().starts_with("CONNECTION_FORCED"), "{close:?}");
            client.send(0, connection::CloseOk {});
        }
        let (status, stderr) = broker.end();
        assert_eq!((status.code(), stderr.as_str()), (Some(0), ""), "SIG{signal}");
        assert!(asked.elapsed() < STOP_LIMIT, "SIG{signal} took {:?}", asked.elapsed());
    }
}

#[test]
fn a_client_that_does_not_answer_cannot_hold_up_the_stop() {
    let dir = empty_dir();
    let mut broker = Running::start(&mut leveret(&dir, ANY_PORT));
    let mut silent = broker.client();
    let asked = Instant::now();
    broker.signal("TERM");
    silent.expect::<connection::Close>(0);
    assert_eq!(broker.end().0.code(), Some(0));
    assert!(asked.elapsed() < STOP_LIMIT, "took {:?}", asked.elapsed());
}

#[test]
fn a_second_signal_ends_it_at_once_with_the_code_of_that_signal() {
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let dir = empty_dir();
        let mut broker = Running::start(&mut leveret(&dir, ANY_PORT));
        let mut silent = broker.client();
        broker.signal("TERM");
        // The broker now waits for a close-ok that never comes.
        silent.expect::<connection::Close>(0);
        broker.signal(signal);
        assert_eq!(broker.end().0.code(), Some(code), "SIG{signal}");
    }
}

// What is refused

#[test]
fn a_bad_option_is_refused_in_one_line() {
    let dir = empty_dir();
    for (arguments, says) in [
        (&["--lisen", "127.0.0.1:0"][..], "unexpected argument '--lisen'"),
        (&["--listen", "nowhere.invalid"], "the name does not resolve to an address"),
        (&["--listen", "127.0.0.1:port"], "not an address to listen on"),
        (&["--storage", "paper"], "[possible values: sled, memory]"),
        (&["--memory-limit", "much"], "not a size"),
        (&["--log-format", "xml"], "[possible values: text, json]"),
        (&["--data-dir"], "a value is required for '--data-dir <DIR>'"),
        (&["--frame-max", "4096"], "frame_max: 4096 is not between 8192 and 16777216"),
        (&["--default-pass", ""], "default_pass: must not be empty"),
        (&["--log-level", "loud"], "log_level: `loud` is neither a level"),
        (&["sing"], "'sing'"),
        (&["completions", "tclsh"], "invalid value 'tclsh'"),
    ] {
        let line = refused(&mut leveret(&dir, arguments));
        assert!(line.contains(says), "{arguments:?}: {line}");
    }
    assert_eq!(names_in(dir.path()), [""; 0], "nothing is touched");
}

#[test]
fn an_impossible_value_in_the_environment_is_refused_in_one_line() {
    let dir = empty_dir();
    let line = refused(leveret(&dir, ANY_PORT).env("LEVERET_HEARTBEAT", "often"));
    assert!(
        line.contains("the environment variable LEVERET_HEARTBEAT has the value `often`: not a whole number"),
        "{line}"
    );
    assert_eq!(names_in(dir.path()), [""; 0], "nothing is touched");
}

#[test]
fn a_variable_that_is_not_utf8_is_refused_in_one_line_if_it_is_a_setting() {
    let dir = empty_dir();
    let bytes = OsStr::from_bytes(b"caf\xe9");
    let line = refused(leveret(&dir, ["check-config"]).env("LEVERET_PRODUCT", bytes));
    assert!(line.contains("the environment variable LEVERET_PRODUCT is not UTF-8"), "{line}");
    printed(leveret(&dir, ["check-config"]).env("SOMEBODYS_PRODUCT", bytes));
}

#[test]
fn an_unreadable_or_wrong_configuration_is_refused_in_one_line() {
    let dir = empty_dir();
    fs::write(dir.path().join("unknown.toml"), "heartbeat = 10\nlisen = '127.0.0.1:0'\n").expect("a file");
    fs::write(dir.path().join("broken.toml"), "listen = [\n").expect("a file");
    fs::write(dir.path().join("range.toml"), "frame_max = 1\n").expect("a file");
    fs::write(dir.path().join("latin1.toml"), b"product = 'caf\xe9'\n").expect("a file");
    for (file, says) in [
        ("missing.toml", "cannot read the configuration file missing.toml: "),
        ("latin1.toml", "cannot read the configuration file latin1.toml: "),
        (".", "cannot read the configuration file .: "),
        ("unknown.toml", "unknown.toml:2: unknown field `lisen`"),
        ("broken.toml", "broken.toml:"),
        ("range.toml", "frame_max: 1 is not between"),
    ] {
        for command in [&["serve"][..], &["check-config"]] {
            let line = refused(leveret(&dir, command).args(["--config", file]));
            assert!(line.contains(says), "{command:?} {file}: {line}");
        }
    }
    assert!(!dir.path().join("leveret-data").exists(), "nothing is touched");
}

#[test]
fn a_definitions_file_that_cannot_be_read_is_refused_in_one_line_and_the_data_directory_is_not_touched() {
    let dir = empty_dir();
    fs::write(dir.path().join("broken.json"), "{\"queues\": [\n  {]}").expect("a file");
    fs::write(dir.path().join("list.json"), "[]").expect("a file");
    fs::write(dir.path().join("section.json"), "{\"queues\": {}}").expect("a file");
    for (file, says) in [
        ("missing.json", "cannot read the definitions file missing.json: "),
        (".", "cannot read the definitions file .: "),
        ("broken.json", "the definitions file broken.json is not valid: key must be a string at line 2 column 4"),
        ("list.json", "the definitions file list.json is not valid: a JSON object is expected"),
        ("section.json", "the definitions file section.json is not valid: 'queues' is not a list"),
    ] {
        for command in [&["serve", "--listen", "127.0.0.1:0"][..], &["check-config"]] {
            let line = refused(leveret(&dir, command).args(["--definitions", file]));
            assert!(line.contains(says), "{command:?} {file}: {line}");
            let line = refused(leveret(&dir, command).env("LEVERET_DEFINITIONS", file));
            assert!(line.contains(says), "{command:?} {file}: {line}");
        }
    }
    assert!(!dir.path().join("leveret-data").exists(), "nothing is touched");
}

#[test]
fn a_wrong_policy_in_the_configuration_is_refused_in_one_line() {
    let dir = empty_dir();
    for (text, says) in [
        ("[[policy]]\npattern = ''\n", "policy 1: `name` must be a text"),
        ("[[policy]]\nname = 'p'\n", "policy 'p': Key \"pattern\" not found in p; Key \"definition\" not found in p"),
        (
            "[[policy]]\nname = 'p'\npattern = ''\ndefinition = { max-length = -1 }\n",
            "policy 'p': -1 is not a valid maximum length",
        ),
        ("[[policy]]\nname = 'p'\npatern = ''\n", "policy 'p': unknown key `patern`"),
        (
            "[[operator_policy]]\nname = 'p'\npattern = ''\ndefinition = { dead-letter-exchange = 'x' }\n",
            "operator_policy 'p': [<<\"dead-letter-exchange\">>] are not recognised policy settings",
        ),
        ("policy = 'p'\n", "policy.toml:1: invalid type: string"),
    ] {
        fs::write(dir.path().join("policy.toml"), text).expect("a file");
        for command in [&["serve"][..], &["check-config"]] {
            let line = refused(leveret(&dir, command).args(["--config", "policy.toml"]));
            assert!(line.contains(says), "{command:?}: {line}");
        }
    }
    assert!(!dir.path().join("leveret-data").exists(), "nothing is touched");
}

#[test]
fn policies_of_a_printed_configuration_are_the_same_policies() {
    let dir = empty_dir();
    let policy = "[[policy]]\nname = 'p'\npattern = '^a'\npriority = 2\ndefinition = { max-length = 5 }\n";
    fs::write(dir.path().join("first.toml"), policy).expect("a file");
    let printed_once = printed(&mut leveret(&dir, ["--config", "first.toml", "--print-config"]));
    assert!(printed_once.contains("[[policy]]"), "{printed_once}");
    fs::write(dir.path().join("second.toml"), &printed_once).expect("a file");
    assert_eq!(printed(&mut leveret(&dir, ["--config", "second.toml", "--print-config"])), printed_once);
}

#[test]
fn a_port_in_use_is_refused_in_one_line_and_the_data_directory_is_not_touched() {
    let dir = empty_dir();
    let other = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = other.local_addr().expect("its address").to_string();
    let line = refused(&mut leveret(&dir, ["--listen", address.as_str()]));
    assert!(line.contains(&address), "{line}");
    assert_eq!(names_in(dir.path()), [""; 0], "nothing is touched");
}

#[test]
fn a_data_directory_in_use_is_refused_in_one_line_and_its_broker_goes_on() {
    let dir = empty_dir();
    let mut first = Running::start(&mut leveret(&dir, ANY_PORT));
    let line = refused(&mut leveret(&dir, ANY_PORT));
    assert!(line.contains("leveret-data") && line.contains("another broker"), "{line}");
    first.client();
}

#[test]
fn a_data_directory_of_an_unknown_format_is_refused_in_one_line_and_not_touched() {
    let dir = empty_dir();
    let data = dir.path().join("leveret-data");
    let broker = Running::start(&mut leveret(&dir, ANY_PORT));
    broker.signal("TERM");
    assert!(broker.end().0.success());
    let format = data.join("FORMAT");
    fs::write(&format, "leveret store 999\n").expect("the format can be overwritten");
    let before = contents_of(&data);
    let line = refused(&mut leveret(&dir, ANY_PORT));
    assert!(line.contains("leveret-data") && line.contains("unknown format: leveret store 999"), "{line}");
    assert_eq!(contents_of(&data), before);
}

/// Every file below a directory with its content.
fn contents_of(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut contents = Vec::new();
    for name in names_in(dir) {
        let path = dir.join(&name);
        if path.is_dir() {
            contents.extend(contents_of(&path).into_iter().map(|(below, bytes)| (format!("{name}/{below}"), bytes)));
        } else {
            contents.push((name, fs::read(&path).expect("a file")));
        }
    }
    contents
}

#[test]
fn a_data_directory_that_cannot_be_made_is_refused_in_one_line() {
    let dir = empty_dir();
    fs::write(dir.path().join("file"), "").expect("a file");
    let line = refused(leveret(&dir, ANY_PORT).args(["--data-dir", "file/data"]));
    assert!(line.contains("file/data"), "{line}");
    assert_eq!(names_in(dir.path()), ["file"]);
}

// Configuration

#[test]
fn flags_go_over_environment_over_rabbitmqs_over_file_over_defaults() {
    let dir = empty_dir();
    fs::write(
        dir.path().join("a.toml"),
        "heartbeat = 11\nproduct = 'file'\ndefault_user = 'file'\ndata_dir = 'file'\n",
    )
    .expect("a file");
    let output = printed(
        leveret(&dir, ["--config", "a.toml", "--data-dir", "flag", "--print-config"])
            .env("LEVERET_PRODUCT", "env")
            .env("LEVERET_DATA_DIR", "env")
            .env("RABBITMQ_DEFAULT_USER", "rabbit"),
    );
    let lines: Vec<_> = output.lines().collect();
    for expected in [
        "data_dir = \"flag\"",
        "product = \"env\"",
        "default_user = \"rabbit\"",
        "heartbeat = 11",
        "channel_max = 2047",
    ] {
        assert!(lines.contains(&expected), "{expected} is not in\n{output}");
    }
    assert_eq!(names_in(dir.path()), ["a.toml"], "printing starts nothing");
}

#[test]
fn the_file_may_be_named_in_the_environment() {
    let dir = empty_dir();
    fs::write(dir.path().join("a.toml"), "heartbeat = 11\n").expect("a file");
    fs::write(dir.path().join("b.toml"), "heartbeat = 12\n").expect("a file");
    let command = || {
        let mut command = leveret(&dir, ["--print-config"]);
        command.env("LEVERET_CONFIG", "a.toml");
        command
    };
    assert!(printed(&mut command()).contains("heartbeat = 11\n"));
    assert!(printed(command().args(["--config", "b.toml"])).contains("heartbeat = 12\n"));
}

#[test]
fn a_printed_configuration_is_a_file_that_gives_the_same_and_hides_the_password() {
    let dir = empty_dir();
    let options = ["--listen", "[::1]:5673", "--memory-limit", "300MB", "--default-pass", "secret", "--print-config"];
    let output = printed(&mut leveret(&dir, options));
    assert!(!output.contains("secret"), "{output}");
    assert!(
        output.contains("memory_limit = \"300MB\"\n") && output.contains("listen = [\"[::1]:5673\"]\n"),
        "{output}"
    );
    fs::write(dir.path().join("printed.toml"), &output).expect("a file");
    assert_eq!(printed(&mut leveret(&dir, ["--config", "printed.toml", "--print-config"])), output);
}

#[test]
fn a_valid_configuration_is_told_so_and_nothing_is_started() {
    let dir = empty_dir();
    fs::write(dir.path().join("a.toml"), "listen = ['0.0.0.0:5672', '[::]:5672']\nmemory_limit = '1GB'\n")
        .expect("a file");
    assert_eq!(printed(&mut leveret(&dir, ["check-config", "--config", "a.toml"])), "the configuration is valid\n");
    assert_eq!(printed(&mut leveret(&dir, ["check-config"])), "the configuration is valid\n");
    assert_eq!(names_in(dir.path()), ["a.toml"]);
}

// The rest

#[test]
fn it_tells_its_version_and_its_options() {
    let dir = empty_dir();
    assert_eq!(printed(&mut leveret(&dir, ["--version"])), format!("leveret {}\n", env!("CARGO_PKG_VERSION")));
    let help = printed(&mut leveret(&dir, ["--help"]));
    for option in
        ["--listen", "--data-dir", "--storage", "--memory-limit", "--config", "--print-config", "check-config"]
    {
        assert!(help.contains(option), "{option} is not in\n{help}");
    }
}

#[test]
fn it_writes_completions_for_every_shell() {
    let dir = empty_dir();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = printed(&mut leveret(&dir, ["completions", shell]));
        assert!(script.contains("memory-limit") && script.contains("check-config"), "{shell}");
    }
}
