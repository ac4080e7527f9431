//! Clients that do nothing but keep a broker busy, each a thread with sockets of its own, and counts of how far they are.

use leveret_suite::bulk::{CHUNK, publish_frames};
use leveret_suite::peer::{Login, Peer, kind};
use leveret_suite::{Content, Server, say};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long a count may stand still while somebody waits for it: long, since only a failure ever uses it up.
const PATIENCE: Duration = Duration::from_secs(60);

/// A count that grows, and that can be waited for.
#[derive(Debug, Default)]
pub struct Progress {
    count: Mutex<u64>,
    more: Condvar,
}

impl Progress {
    /// How far it is now.
    pub fn now(&self) -> u64 {
        *self.count.lock().expect("no counter panics")
    }

    /// Waits until it is at least `count`.
    ///
    /// # Panics
    /// If it stands still for a minute.
    #[track_caller]
    pub fn wait_for(&self, count: u64) {
        let mut now = self.count.lock().expect("no counter panics");
        while *now < count {
            let before = *now;
            let (guard, waited) = self.more.wait_timeout(now, PATIENCE).expect("no counter panics");
            now = guard;
            assert!(!waited.timed_out() || *now > before, "no progress beyond {before} for {PATIENCE:?}, of {count}");
        }
    }

    fn add(&self, count: u64) {
        *self.count.lock().expect("no counter panics") += count;
        self.more.notify_all();
    }
}

/// A thread that ends when its sockets are shut down, which dropping it does.
#[derive(Debug)]
struct Worker {
    streams: Vec<TcpStream>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    fn start(peers: &[&Peer], work: impl FnOnce() + Send + 'static) -> Worker {
        let streams = peers.iter().map(|peer| stream_of(peer)).collect();
        Worker { streams, thread: Some(std::thread::spawn(work)) }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        for stream in &self.streams {
            // Fails only if the broker has ended the connection, or the broker itself has ended.
            let _ = stream.shutdown(Shutdown::Both);
        }
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || !matches!(ended, Some(Err(_))), "a client of the load panicked");
    }
}

fn stream_of(peer: &Peer) -> TcpStream {
    peer.stream().try_clone().expect("a socket can be shared")
}

/// A publisher that never pauses: the broker takes what it can.
#[derive(Debug)]
pub struct Flood {
    published: Arc<Progress>,
    _worker: Worker,
}

impl Flood {
    /// Publishes this body to a queue, over a connection of its own.
    pub fn into_queue(server: &Server, queue: &str, body: &[u8]) -> Flood {
        Flood::over(&server.peer(), 1, queue, body)
    }

    /// The same on a channel of somebody else's connection, which ends with the flood.
    pub fn over(peer: &Peer, channel: u16, queue: &str, body: &[u8]) -> Flood {
        let frames = publish_frames(channel, queue, &Content::new(body));
        let messages = CHUNK.div_ceil(frames.len());
        let chunk = frames.repeat(messages);
        let published = Arc::new(Progress::default());
        let (counter, mut stream) = (published.clone(), stream_of(peer));
        let worker = Worker::start(&[peer], move || {
            while stream.write_all(&chunk).is_ok() {
                counter.add(messages as u64);
            }
        });
        Flood { published, _worker: worker }
    }

    /// Messages given to the kernel so far.
    pub fn published(&self) -> &Progress {
        &self.published
    }
}

/// The sum of what several have published.
pub fn published(floods: &[Flood]) -> u64 {
    floods.iter().map(|flood| flood.published().now()).sum()
}

/// A consumer without acknowledgements that takes what comes as fast as it can.
#[derive(Debug)]
pub struct Drain {
    received: Arc<Progress>,
    _worker: Worker,
}

impl Drain {
    /// Consumes a queue over a connection of its own.
    pub fn of(server: &Server, queue: &str) -> Drain {
        let mut peer = server.peer();
        begin_to_consume(&mut peer, 1, queue);
        Drain::over(&peer, 1)
    }

    /// Takes everything that comes over a connection from now on, and counts the messages of one channel.
    pub fn over(peer: &Peer, channel: u16) -> Drain {
        let received = Arc::new(Progress::default());
        let (counter, stream) = (received.clone(), stream_of(peer));
        let worker = Worker::start(&[peer], move || {
            let mut frames = Frames::new(stream);
            let (mut left, mut whole) = (0, 0);
            while frames.read(|kind, number, payload| {
                match kind {
                    _ if number != channel => return,
                    kind::HEADER => left = u64_at(payload, 4),
                    kind::BODY => left -= payload.len() as u64,
                    _ => return,
                }
                whole += u64::from(left == 0);
            }) {
                counter.add(std::mem::take(&mut whole));
            }
        });
        Drain { received, _worker: worker }
    }

    /// Messages that have come so far.
    pub fn received(&self) -> &Progress {
        &self.received
    }
}

/// Asks to consume without acknowledgements; the answer is for whoever takes what comes.
pub fn begin_to_consume(peer: &mut Peer, channel: u16, queue: &str) {
    peer.send(channel, say::consume_with(queue, queue, |consume| consume.no_ack = true));
}

fn u64_at(octets: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(octets[at..at + 8].try_into().expect("eight octets"))
}

/// Frames off a socket, many at a time.
struct Frames {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
}

impl Frames {
    fn new(stream: TcpStream) -> Frames {
        stream.set_read_timeout(None).expect("a read that waits");
        Frames { stream, buffer: vec![0; 512 << 10], filled: 0 }
    }

    /// Reads once and shows type, channel and payload of each frame that is whole. False at the end.
    fn read(&mut self, mut show: impl FnMut(u8, u16, &[u8])) -> bool {
        match self.stream.read(&mut self.buffer[self.filled..]) {
            Ok(count) if count > 0 => self.filled += count,
            _ => return false,
        }
        let mut at = 0;
        while let Some([kind, c0, c1, s0, s1, s2, s3]) = self.buffer[at..self.filled].first_chunk() {
            let size = u32::from_be_bytes([*s0, *s1, *s2, *s3]) as usize;
            let (start, end) = (at + 7, at + 7 + size);
            if end >= self.filled {
                break;
            }
            show(*kind, u16::from_be_bytes([*c0, *c1]), &self.buffer[start..end]);
            at = end + 1;
        }
        self.buffer.copy_within(at..self.filled, 0);
        self.filled -= at;
        true
    }
}

/// Many queues, each with a publisher and a consumer of its own, on channels of some connections. Each keeps a few
/// messages under way and publishes another for each that comes: how far a queue is, is what the broker has given it.
#[derive(Debug)]
pub struct Pairs {
    queues: Vec<Arc<AtomicU64>>,
    total: Arc<Progress>,
    _workers: Vec<Worker>,
}

impl Pairs {
    /// `queues` on each of `connections` pairs of connections, `window` messages of each queue under way.
    pub fn start(server: &Server, connections: usize, queues: u16, window: usize) -> Pairs {
        let total = Arc::new(Progress::default());
        let groups: Vec<Group> = (0..connections).map(|_| Group::new(server, queues)).collect();
        let counts = groups.iter().flat_map(|group| group.counts.clone()).collect();
        let workers = groups.into_iter().map(|group| group.start(window, total.clone())).collect();
        Pairs { queues: counts, total, _workers: workers }
    }

    /// Messages received from all queues.
    pub fn total(&self) -> &Progress {
        &self.total
    }

    /// Messages received from each queue.
    pub fn counts(&self) -> Vec<u64> {
        self.queues.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }
}

/// The queues of one pair of connections, a channel for each.
struct Group {
    publisher: Peer,
    consumer: Peer,
    names: Vec<String>,
    counts: Vec<Arc<AtomicU64>>,
}

impl Group {
    fn new(server: &Server, queues: u16) -> Group {
        let (mut publisher, mut consumer) = (server.peer_with(&Login::default()), server.peer_with(&Login::default()));
        let names = (1..=queues).map(|channel| {
            publisher.open_channel(channel);
            consumer.open_channel(channel);
            let name = consumer.queue(channel, "pair");
            consumer.consume_with(channel, &name, "pair", |consume| consume.no_ack = true);
            name
        });
        let names: Vec<String> = names.collect();
        let counts = names.iter().map(|_| Arc::default()).collect();
        Group { publisher, consumer, names, counts }
    }

    fn start(self, window: usize, total: Arc<Progress>) -> Worker {
        let Group { publisher, consumer, names, counts } = self;
        let content = Content::new([b'x'; 16]);
        let publishes: Vec<Vec<u8>> =
            (1..).zip(&names).map(|(channel, name)| publish_frames(channel, name, &content)).collect();
        let (mut output, input) = (stream_of(&publisher), stream_of(&consumer));
        Worker::start(&[&publisher, &consumer], move || {
            let mut pending: Vec<u8> = publishes.iter().flat_map(|frames| frames.repeat(window)).collect();
            let mut frames = Frames::new(input);
            while output.write_all(&pending).is_ok() {
                pending.clear();
                let mut received = 0;
                let more = frames.read(|kind, channel, _| {
                    if kind == kind::BODY {
                        let queue = usize::from(channel) - 1;
                        counts[queue].fetch_add(1, Ordering::Relaxed);
                        pending.extend_from_slice(&publishes[queue]);
                        received += 1;
                    }
                });
                total.add(received);
                if !more {
                    break;
                }
            }
        })
    }
}
