//! What is durable is on the device before its answer goes out: the broker's system calls are the witness.
//!
//! Needs strace, and leave to trace one's own processes.

use amq_protocol::protocol::{basic, exchange, queue, tx};
use leveret_suite::{Content, Peer, Server, say};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const CALLS: &str = "trace=write,writev,pwrite64,pwritev,pwritev2,fsync,fdatasync,sendto,sendmsg,recvfrom,read,readv";

/// A broker under strace, and one client.
struct Traced {
    server: Server,
    peer: Peer,
    data: TempDir,
    trace: PathBuf,
    _trace_dir: TempDir,
}

impl Traced {
    fn start() -> Traced {
        let data = tempfile::tempdir().expect("a directory for the broker's data");
        let trace_dir = tempfile::tempdir().expect("a directory for the trace");
        let trace = trace_dir.path().join("calls");
        let path = |path: &Path| path.to_str().expect("a path in UTF-8").to_owned();
        // -D: the broker itself is the child that is started, and stopped, here.
        let strace = ["strace", "-D", "-f", "-q", "-yy", "-s", "0", "-e", CALLS, "-o", &path(&trace)];
        let server = Server::start_under(&strace, &["--data-dir", &path(data.path())]);
        let peer = server.peer();
        Traced { server, peer, data, trace, _trace_dir: trace_dir }
    }

    /// What was called from the broker's start to its end.
    fn calls(mut self) -> Vec<Call> {
        drop(self.peer);
        assert!(self.server.stop().success());
        // The tracer writes its last lines once the broker has gone.
        let start = Instant::now();
        loop {
            let text = std::fs::read_to_string(&self.trace).expect("strace writes its file");
            let process = text.split_whitespace().next().unwrap_or_default();
            if text.lines().any(|line| line.starts_with(process) && line.contains("+++ exited with 0")) {
                return parse(&text, self.data.path());
            }
            assert!(start.elapsed() < Duration::from_secs(20), "strace does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Call {
    /// Data went to this file of the data directory.
    Written(String),
    /// This file is on the device.
    Synced(String),
    /// The client's socket was read.
    Heard,
    /// Something went to the client.
    Said,
}

/// Calls in the order in which they ended; one that another thread interrupts ends on its `resumed` line.
fn parse(text: &str, data: &Path) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut unfinished = std::collections::HashMap::new();
    for line in text.lines() {
        let Some((thread, rest)) = line.split_once(char::is_whitespace) else { continue };
        let rest = rest.trim_start();
        let whole;
        let call = if let Some((begin, _)) = rest.split_once(" <unfinished ...>") {
            unfinished.insert(thread.to_owned(), begin.to_owned());
            continue;
        } else if let Some((_, end)) = rest.split_once(" resumed>") {
            let Some(begin) = unfinished.remove(thread) else { continue };
            whole = begin + end;
            &whole
        } else {
            rest
        };
        calls.extend(understand(call, data));
    }
    calls
}

/// `fdatasync(9</data/messages/0001>) = 0`
fn understand(call: &str, data: &Path) -> Option<Call> {
    let (name, rest) = call.split_once('(')?;
    let (_, outcome) = call.rsplit_once(" = ")?;
    if outcome.starts_with('-') {
        return None;
    }
    let file = rest.split_once('<')?.1;
    if file.starts_with("TCP:") {
        return match name {
            "recvfrom" | "read" | "readv" if !outcome.starts_with('0') => Some(Call::Heard),
            "write" | "writev" | "sendto" | "sendmsg" => Some(Call::Said),
            _ => None,
        };
    }
    let path = file.split_once('>')?.0;
    let within = path.strip_prefix(data.to_str()?)?.trim_start_matches('/').to_owned();
    match name {
        "fsync" | "fdatasync" => Some(Call::Synced(within)),
        "write" | "writev" | "pwrite64" | "pwritev" | "pwritev2" => Some(Call::Written(within)),
        _ => None,
    }
}

/// Every answer, from the n-th last request of the client's on, came after a sync of everything written since the
/// request was heard; and something was written.
#[track_caller]
fn each_is_synced_before_its_answer(calls: &[Call], requests: usize) {
    let heard: Vec<usize> = calls.iter().enumerate().filter(|(_, c)| **c == Call::Heard).map(|(at, _)| at).collect();
    let mut durable = 0;
    for (index, from) in heard.iter().enumerate() {
        let to = heard.get(index + 1).copied().unwrap_or(calls.len());
        let Some(said) = calls[*from..to].iter().position(|call| *call == Call::Said) else { continue };
        let mut unsynced = BTreeSet::new();
        let mut written = false;
        for call in &calls[*from..from + said] {
            match call {
                // The marks of what was delivered are promised to survive a kill only.
                Call::Written(file) if file != "delivered" => {
                    written = true;
                    unsynced.insert(file.clone());
                }
                Call::Synced(file) => drop(unsynced.remove(file)),
                _ => {}
            }
        }
        if written {
            durable += 1;
            assert!(
                unsynced.is_empty(),
                "answered before {unsynced:?} was synced: {:?}",
                &calls[*from..from + said + 1]
            );
        }
    }
    assert_eq!(durable, requests, "requests that wrote something before they were answered: {calls:?}");
}

#[test]
fn a_confirm_comes_after_the_sync_every_time() {
    let mut broker = Traced::start();
    let peer = &mut broker.peer;
    peer.ask::<queue::DeclareOk>(1, say::declare_with("q", |declare| declare.durable = true));
    peer.select_confirms(1);
    for number in 1..=20 {
        peer.publish_content(1, say::publish("", "q"), &Content::persistent("kept"));
        assert_eq!(peer.expect::<basic::Ack>(1).delivery_tag, number);
    }
    // The declaration, and each publish.
    each_is_synced_before_its_answer(&broker.calls(), 21);
}

#[test]
fn every_answer_about_something_durable_comes_after_the_sync() {
    let mut broker = Traced::start();
    let peer = &mut broker.peer;
    let durable = |declare: &mut queue::Declare| declare.durable = true;
    peer.ask::<queue::DeclareOk>(1, say::declare_with("q", durable));
    peer.ask::<exchange::DeclareOk>(1, say::exchange_with("e", "direct", |declare| declare.durable = true));
    peer.ask::<queue::BindOk>(1, say::bind("q", "e", "k"));
    peer.ask::<queue::UnbindOk>(1, say::unbind("q", "e", "k"));
    peer.ask::<tx::SelectOk>(1, tx::Select {});
    peer.publish_content(1, say::publish("", "q"), &Content::persistent("kept"));
    peer.ask::<tx::CommitOk>(1, tx::Commit {});
    peer.open_channel(2);
    peer.ask::<queue::PurgeOk>(2, say::purge("q"));
    peer.ask::<queue::DeleteOk>(2, say::delete("q"));
    peer.ask::<exchange::DeleteOk>(2, say::delete_exchange("e"));
    each_is_synced_before_its_answer(&broker.calls(), 8);
}
