//! The space of acknowledged messages comes back: messages go through durable queues with a bounded backlog, are
//! acknowledged in random order, one in fifty never, and the data directory never takes more than three times the bytes
//! that are still wanted and 256 MB. A message's bytes are those in which it came, frames and all: of a body of 20 bytes
//! the rest is more.
//!
//! 2 GB go through; with `LEVERET_LONG` 50 GB.

use amq_protocol::protocol::{basic, queue};
use leveret_suite::peer::kind;
use leveret_suite::{Frame, Login, Method, Octets, Peer, Server, say};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const MB: u64 = 1_000_000;
/// What the directory may take beyond three times the live bytes.
const SPARE: u64 = 256 * MB;
/// One message in so many is never acknowledged.
const NEVER: u64 = 50;

/// Messages of one kind.
struct Kind {
    queue: &'static str,
    /// Of all bytes, how many out of a hundred.
    share: u64,
    /// One message in `nth` has the first length, the others have the second.
    lengths: (usize, usize),
    nth: u64,
    /// Of those with the second length, one in so many is never acknowledged.
    stays: u64,
    /// Bytes that wait to be acknowledged.
    backlog: u64,
}

const KINDS: [Kind; 4] = [
    Kind { queue: "small", share: 60, lengths: (1024, 1024), nth: 1, stays: NEVER, backlog: 20 * MB },
    // Every short one stays among long ones that go.
    Kind { queue: "mixed", share: 20, lengths: (20_000, 20), nth: 40, stays: 1, backlog: 5 * MB },
    Kind { queue: "large", share: 10, lengths: (200_000, 200_000), nth: 1, stays: NEVER, backlog: 40 * MB },
    Kind { queue: "huge", share: 10, lengths: (10_000_000, 10_000_000), nth: 1, stays: NEVER, backlog: 80 * MB },
];

impl Kind {
    fn len(&self, number: u64) -> usize {
        if number.is_multiple_of(self.nth) { self.lengths.0 } else { self.lengths.1 }
    }
}

fn all_bytes() -> u64 {
    if std::env::var_os("LEVERET_LONG").is_some() { 50_000 * MB } else { 2_000 * MB }
}

#[test]
fn the_directory_never_takes_more_than_three_times_what_is_live() {
    let data = tempfile::tempdir().expect("a directory for the broker's data");
    // The alarm is for other tests.
    let path = data.path().to_str().expect("a path in UTF-8");
    let server = Server::start_with(&["--data-dir", path, "--disk-free-limit", "0"]);
    let (live, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let peak = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(data.path(), &live, &done));
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for kind in &KINDS {
                pass_through(&server, kind, all_bytes() / 100 * kind.share, &live);
            }
        }));
        done.store(true, Ordering::Relaxed);
        let peak = watcher.join().expect("the watcher does not panic");
        println!("{peak:?}");
        worked.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        peak
    });
    assert!(peak.samples > 100, "{peak:?}");
    assert!(peak.taken <= allowed(peak.live), "{peak:?}");
}

fn allowed(live: u64) -> u64 {
    3 * live + SPARE
}

/// The moment at which the directory was nearest to what it may take, or beyond.
#[derive(Debug, Default)]
struct Peak {
    taken: u64,
    live: u64,
    samples: u64,
    largest: u64,
}

fn watch(dir: &Path, live: &AtomicU64, done: &AtomicBool) -> Peak {
    let mut peak = Peak::default();
    while !done.load(Ordering::Relaxed) {
        let before = live.load(Ordering::Relaxed);
        let taken = size(dir);
        let live = before.max(live.load(Ordering::Relaxed));
        peak.samples += 1;
        peak.largest = peak.largest.max(taken);
        if u128::from(taken) * u128::from(allowed(peak.live)) > u128::from(peak.taken) * u128::from(allowed(live)) {
            (peak.taken, peak.live) = (taken, live);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    peak
}

/// Bytes that the files below `dir` take on the device. What goes meanwhile counts for nothing.
fn size(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    entries
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => size(&entry.path()),
            Ok(found) => found.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

/// Publishes and consumes so many bytes of messages.
fn pass_through(server: &Server, kind: &Kind, bytes: u64, live: &AtomicU64) {
    let mut publisher = server.peer();
    publisher.ask::<queue::DeclareOk>(1, say::declare_with(kind.queue, |declare| declare.durable = true));
    let mut consumer = Consumer::new(server, kind.queue);
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let (mut published, mut sent, mut outstanding) = (0, 0, 0);
    let mut waiting: Vec<(u64, usize)> = Vec::new();
    let [of_first, of_second] = [kind.lengths.0, kind.lengths.1].map(|len| octets(kind.queue, len));
    let octets = |len: usize| if len == kind.lengths.1 { of_second } else { of_first };
    while sent < bytes {
        let (from, before) = (published, sent);
        let mut batch = Vec::new();
        let mut new = 0;
        while published == from || sent - before < kind.backlog / 16 {
            let len = kind.len(published);
            put_message(&mut batch, kind.queue, len);
            sent += len as u64;
            new += octets(len);
            published += 1;
        }
        live.fetch_add(new, Ordering::Relaxed);
        publisher.send_octets(&batch);
        for _ in from..published {
            let (tag, len) = consumer.next_delivery();
            let may_stay = len == kind.lengths.1;
            if !(may_stay && random.below(kind.stays) == 0) {
                waiting.push((tag, len));
                outstanding += len as u64;
            }
        }
        let mut acks = Vec::new();
        while outstanding > kind.backlog {
            let (tag, len) = waiting.swap_remove(random.below(waiting.len() as u64) as usize);
            let ack = basic::Ack { delivery_tag: tag, multiple: false };
            acks.extend(Frame::new(kind::METHOD, 1, ack.payload()).octets());
            outstanding -= len as u64;
            live.fetch_sub(octets(len), Ordering::Relaxed);
        }
        consumer.stream.write_all(&acks).expect("the broker takes acknowledgements");
    }
    // What is left goes back to the queue, and stays there.
    publisher.in_step(1);
}

/// A persistent message for `queue`, as it stands on the wire.
fn put_message(out: &mut Vec<u8>, queue: &str, len: usize) {
    let publish = basic::Publish { routing_key: queue.into(), ..say::publish("", queue) };
    out.extend(Frame::new(kind::METHOD, 1, publish.payload()).octets());
    let header = Octets::header(len as u64, 1 << 12).u8(2);
    out.extend(Frame::new(kind::HEADER, 1, header).octets());
    for piece in vec![b'm'; len].chunks(FRAME_MAX as usize - 8) {
        out.extend(Frame::new(kind::BODY, 1, piece).octets());
    }
}

/// How many octets that is.
fn octets(queue: &str, len: usize) -> u64 {
    let mut out = Vec::new();
    put_message(&mut out, queue, len);
    out.len() as u64
}

const FRAME_MAX: u32 = 131_072;

/// A consumer that reads much at once and looks at little of it.
struct Consumer {
    /// Keeps the connection.
    _peer: Peer,
    stream: TcpStream,
    buffer: Vec<u8>,
    /// What of the buffer is read, and how much of it was looked at.
    filled: usize,
    at: usize,
}

impl Consumer {
    fn new(server: &Server, queue: &str) -> Consumer {
        let mut peer = server.peer_with(&Login { frame_max: FRAME_MAX, ..Login::default() });
        peer.open_channel(1);
        peer.consume(1, queue, "c");
        let stream = peer.stream().try_clone().expect("another handle of the socket");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        Consumer { _peer: peer, stream, buffer: vec![0; 1 << 20], filled: 0, at: 0 }
    }

    /// The next delivery's tag and the length of its body.
    fn next_delivery(&mut self) -> (u64, usize) {
        let tag = self.frame(|kind, payload| {
            assert_eq!((kind, &payload[..4]), (kind::METHOD, &[0, 60, 0, 60][..]), "basic.deliver");
            let tag = 5 + payload[4] as usize;
            number(&payload[tag..])
        });
        let len = self.frame(|_, payload| number(&payload[4..])) as usize;
        let mut left = len;
        while left > 0 {
            left -= self.frame(|_, payload| payload.len());
        }
        (tag, len)
    }

    fn frame<T>(&mut self, look: impl FnOnce(u8, &[u8]) -> T) -> T {
        self.fill(7);
        let header = &self.buffer[self.at..self.at + 7];
        let size = u32::from_be_bytes([header[3], header[4], header[5], header[6]]) as usize;
        self.fill(8 + size);
        let from = self.at;
        self.at += 8 + size;
        look(self.buffer[from], &self.buffer[from + 7..from + 7 + size])
    }

    /// Reads until so many bytes can be looked at.
    fn fill(&mut self, wanted: usize) {
        while self.filled - self.at < wanted {
            if self.buffer.len() - self.at < wanted || self.at == self.filled {
                self.buffer.copy_within(self.at..self.filled, 0);
                (self.filled, self.at) = (self.filled - self.at, 0);
            }
            let read = self.stream.read(&mut self.buffer[self.filled..]).expect("deliveries come");
            assert!(read > 0, "the broker goes on");
            self.filled += read;
        }
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// A small generator of pseudo-random numbers (xorshift).
struct Random(u64);

impl Random {
    /// A number below `limit`.
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % limit
    }
}
