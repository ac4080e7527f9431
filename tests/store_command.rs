//! `leveret store`: a data directory looked after while no broker has it.

use std::path::Path;
use std::process::{Command, Output};

use leveret_suite::durable::{declare, publish_confirmed};
use leveret_suite::{Server, binary, say};
use tempfile::TempDir;

struct Site {
    server: Server,
    data: TempDir,
}

impl Site {
    fn start() -> Site {
        let data = tempfile::tempdir().expect("a directory for the broker's data");
        Site { server: Server::start_durable(data.path()), data }
    }

    fn store(&self, action: &str) -> Output {
        store(action, self.data.path())
    }

    fn log(&self) -> std::path::PathBuf {
        self.data.path().join("messages/0000000001.log")
    }
}

fn store(action: &str, dir: &Path) -> Output {
    let mut command = Command::new(binary());
    command.args(["store", action, "--data-dir"]).arg(dir).env_remove("LEVERET_BIN");
    command.output().expect("the program runs")
}

fn text(octets: &[u8]) -> &str {
    std::str::from_utf8(octets).expect("the program writes UTF-8")
}

#[test]
fn a_check_after_a_kill_counts_what_is_there_and_leaves_it_there() {
    let mut site = Site::start();
    let mut peer = site.server.peer();
    declare(&mut peer, "q");
    publish_confirmed(&mut peer, "q", &["one", "two", "three"]);
    site.server.kill9();
    let output = site.store("check");
    assert!(output.status.success(), "{output:?}");
    assert!(text(&output.stdout).contains("3 messages are sound\n"), "{output:?}");
    site.server.restart();
    site.server.peer().expect_contents(1, "q", &["one", "two", "three"]);
}

#[test]
fn a_check_names_what_is_damaged_puts_it_aside_and_the_rest_is_served() {
    let mut site = Site::start();
    let mut peer = site.server.peer();
    declare(&mut peer, "q");
    for body in ["first message", "second message", "third message"] {
        publish_confirmed(&mut peer, "q", &[body]);
    }
    assert!(site.server.stop().success());
    let mut log = std::fs::read(site.log()).expect("the log's first segment");
    let at = log.windows(6).position(|octets| octets == b"second").expect("the body is in it");
    log[at] ^= 1;
    std::fs::write(site.log(), log).expect("the log can be written");
    let output = site.store("check");
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let said = text(&output.stdout);
    assert!(said.contains("put aside: messages of queue") && said.contains("2 messages are sound"), "{output:?}");
    assert_eq!(std::fs::read_dir(site.data.path().join("quarantine")).expect("a quarantine").count(), 1);
    site.server.restart();
    site.server.peer().expect_contents(1, "q", &["first message", "third message"]);
}

#[test]
fn a_check_compares_the_two_places_of_definitions_and_takes_from_one_what_the_other_has_lost() {
    let mut site = Site::start();
    let mut peer = site.server.peer();
    declare(&mut peer, "q");
    publish_confirmed(&mut peer, "q", &["kept"]);
    site.server.kill9();
    std::fs::remove_dir_all(site.data.path().join("definitions")).expect("the database was there");
    let output = site.store("check");
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let said = text(&output.stdout);
    assert!(said.contains("definitions were taken from their copy, 0 are lost"), "{output:?}");
    std::fs::write(site.data.path().join("definitions.log"), "?").expect("the copy can be overwritten");
    let output = site.store("check");
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(text(&output.stdout).contains("the copy of the definitions was damaged"), "{output:?}");
    let output = site.store("check");
    assert!(output.status.success(), "{output:?}");
    assert!(text(&output.stdout).contains("definitions, in both places, and 1 messages are sound"), "{output:?}");
    site.server.restart();
    site.server.peer().expect_contents(1, "q", &["kept"]);
}

#[test]
fn compacting_gives_space_back_and_keeps_what_is_left() {
    const COUNT: usize = 400;
    let mut site = Site::start();
    let mut peer = site.server.peer();
    declare(&mut peer, "q");
    let bodies: Vec<String> = (0..COUNT).map(|number| format!("{number} {}", "x".repeat(200_000))).collect();
    let borrowed: Vec<&str> = bodies.iter().map(String::as_str).collect();
    publish_confirmed(&mut peer, "q", &borrowed);
    for number in 0..COUNT {
        let (got, _) = peer.get(1, "q");
        if number % 50 != 0 {
            peer.send(1, say::ack(got.delivery_tag));
        }
    }
    peer.close();
    assert!(site.server.stop().success());
    let output = site.store("compact");
    assert!(output.status.success(), "{output:?}");
    let sizes: Vec<u64> = text(&output.stdout).split_whitespace().filter_map(|word| word.parse().ok()).collect();
    // Every fiftieth message, the space kept aside for a full disk, and definitions.
    assert!(sizes[1] < 8 * 200_000 + 7_000_000, "{output:?}");
    site.server.restart();
    let left: Vec<&str> = borrowed.iter().step_by(50).copied().collect();
    site.server.peer().expect_contents(1, "q", &left);
}

#[test]
fn compacting_names_what_it_finds_damaged_and_puts_it_aside_for_good() {
    let mut site = Site::start();
    let mut peer = site.server.peer();
    declare(&mut peer, "q");
    // More than one segment, so that the first is not read when the store is opened.
    let bodies: Vec<String> = (0..200).map(|number| format!("{number} {}", "x".repeat(200_000))).collect();
    publish_confirmed(&mut peer, "q", &bodies.iter().map(String::as_str).collect::<Vec<_>>());
    peer.close();
    assert!(site.server.stop().success());
    let mut log = std::fs::read(site.log()).expect("the log's first segment");
    log[1_000_000] ^= 1;
    std::fs::write(site.log(), log).expect("the log can be written");
    let output = site.store("compact");
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(text(&output.stdout).contains("put aside: 1 damaged messages\n"), "{output:?}");
    assert_eq!(std::fs::read_dir(site.data.path().join("quarantine")).expect("a quarantine").count(), 1);
    let output = site.store("check");
    assert!(output.status.success(), "{output:?}");
    assert!(text(&output.stdout).contains("199 messages are sound\n"), "{output:?}");
}

#[test]
fn the_directory_is_found_where_the_broker_would_find_it() {
    let mut site = Site::start();
    declare(&mut site.server.peer(), "q");
    site.server.kill9();
    let file = site.data.path().with_extension("toml");
    std::fs::write(&file, format!("data_dir = {:?}", site.data.path())).expect("a file can be written there");
    let check = || {
        let mut command = Command::new(binary());
        command.args(["store", "check"]).env_remove("LEVERET_BIN");
        command
    };
    for command in [check().env("LEVERET_DATA_DIR", site.data.path()), check().arg("--config").arg(&file)] {
        let output = command.output().expect("the program runs");
        assert!(output.status.success(), "{output:?}");
        assert!(text(&output.stdout).contains("0 messages are sound\n"), "{output:?}");
    }
    std::fs::remove_file(file).expect("it was there");
}

#[test]
fn a_directory_without_a_store_and_one_in_use_are_refused_in_one_line() {
    let empty = tempfile::tempdir().expect("a directory");
    for action in ["check", "compact"] {
        let output = store(action, empty.path());
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("there is no store in"), "{output:?}");
    }
    assert_eq!(std::fs::read_dir(empty.path()).expect("it is there").count(), 0, "nothing was made");
    let site = Site::start();
    let output = site.store("compact");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("in use by another broker"), "{output:?}");
    assert_eq!(text(&output.stderr).lines().count(), 1, "{output:?}");
}
