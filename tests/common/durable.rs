//! A broker with a directory of its own, which can be stopped, killed and started again.
//!
//! A given broker can't be stopped from here: against one, tests that need this pass without a word.

use crate::{Content, Peer, Server, say};
use amq_protocol::protocol::queue;
use tempfile::TempDir;

/// How a broker ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    /// SIGTERM, and waiting for it.
    Stop,
    /// SIGKILL.
    Kill,
}

/// A broker on a directory of its own; both go with this value.
#[derive(Debug)]
pub struct Durable {
    /// The broker, as long as it runs.
    pub server: Server,
    _directory: TempDir,
}

impl Durable {
    /// None when the tests run against a given broker.
    pub fn start() -> Option<Durable> {
        if Server::is_given() {
            return None;
        }
        let directory = tempfile::tempdir().expect("a directory for the broker's data");
        let server = Server::start_durable(directory.path());
        Some(Durable { server, _directory: directory })
    }

    /// As [`Durable::again`], while `peer` is there and says goodbye if it is asked to: a clean stop waits for who does not.
    #[track_caller]
    pub fn again_with(&mut self, peer: Peer, end: End) -> Peer {
        match end {
            End::Stop => {
                self.server.signal("TERM");
                peer.leave();
                assert!(self.server.wait_for_end().success(), "a clean stop exits with 0");
            }
            End::Kill => self.server.kill9(),
        }
        self.restarted()
    }

    /// Ends the broker like this and starts it again; returns a connection to the new one.
    #[track_caller]
    pub fn again(&mut self, end: End) -> Peer {
        match end {
            End::Stop => assert!(self.server.stop().success(), "a clean stop exits with 0"),
            End::Kill => self.server.kill9(),
        }
        self.restarted()
    }

    fn restarted(&mut self) -> Peer {
        self.server.restart();
        self.server.peer()
    }
}

/// queue.declare of a durable queue.
#[track_caller]
pub fn declare(peer: &mut Peer, name: &str) {
    peer.ask::<queue::DeclareOk>(1, say::declare_with(name, |declare| declare.durable = true));
}

/// Publishes persistent messages straight into a queue, on a channel of their own, and waits for their confirms.
#[track_caller]
pub fn publish_confirmed(peer: &mut Peer, queue: &str, bodies: &[&str]) {
    peer.open_channel(9);
    peer.select_confirms(9);
    for body in bodies {
        peer.publish_content(9, say::publish("", queue), &Content::persistent(body));
    }
    peer.expect_confirms(9, bodies.len() as u64);
    peer.close_channel(9);
}

/// The numbers from 1 to `count`, as bodies.
pub fn numbers(count: usize) -> Vec<String> {
    (1..=count).map(|number| number.to_string()).collect()
}

/// The same, borrowed.
pub fn as_strs(bodies: &[String]) -> Vec<&str> {
    bodies.iter().map(String::as_str).collect()
}
