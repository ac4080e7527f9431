//! The RabbitMQ tutorials 1 to 7 with three stock clients against the real binary: lapin here, the Java client and
//! pika as programs of their own (`java/`, `pika/`), run and judged by their exit status.

mod java;
mod lapin_client;
mod pika;

use leveret_suite::Server;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// A broker of the test's own, durable as `leveret` is without any flags.
struct Broker {
    server: Server,
    // Dropped after the server that has its files open.
    _data: TempDir,
}

impl Broker {
    fn start(arguments: &[&str]) -> Broker {
        let data = tempfile::tempdir().expect("a temporary directory");
        let path = data.path().to_str().expect("a path in UTF-8");
        let server = Server::start_with(&[&["--data-dir", path], arguments].concat());
        Broker { server, _data: data }
    }

    fn url(&self) -> String {
        format!("amqp://guest:guest@{}/%2f", self.server.address())
    }
}

/// The directory of these tests' sources.
fn sources(client: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tutorials").join(client)
}

/// Runs a tutorial's program to its end.
///
/// # Panics
/// With all that it printed, unless it succeeds and says that its checks were made.
#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = said(&output);
    assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
    assert!(said.contains("all checks passed"), "{command:?} made no checks:\n{said}");
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}
