//! The log beside what format 1 did: records of 16 KiB in sled. Throughput, CPU time, a lone message, random
//! acknowledgements and the space that is left of them, opening. Prints a table.
//!
//! `cargo bench -p leveret-storage --bench layout [-- MEGABYTES]`. Records in sled are written as definitions, whose way
//! is the one they had: cut into values, one batch, `flush`, `fdatasync`.

use std::env;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use leveret_storage::{Backend, Batch, Block, Gauge, Op, Run, Span, open_disk};

const BODY: usize = 1024;
/// Bytes of a record in sled.
const RECORD: usize = 16 << 10;

fn main() {
    // Run as a test, it only shows that it runs.
    let usual = if env::args().any(|arg| arg == "--bench") { 300 } else { 2 };
    let megabytes: u64 = env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(usual);
    println!("messages of {BODY} bytes, {megabytes} MB each; every commit is synced unless it says otherwise");
    for commit in [200, 1000] {
        in_sled(commit, megabytes);
        in_log(commit, megabytes);
    }
    lone();
    random_acks(megabytes);
}

/// Runs `work` in a fresh store.
fn store<R>(work: impl FnOnce(&Path, Box<dyn Backend>) -> R) -> R {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("data");
    let (backend, _) = open_disk(&path).expect("the store opens");
    work(&path, backend)
}

fn commit(backend: &mut Box<dyn Backend>, ops: Vec<Op>, sync: bool) {
    backend.commit(&Batch::fold(ops)).expect("the batch is committed");
    if sync {
        backend.sync().expect("the batch is synced");
    }
}

/// What a measurement came to: messages, wall and CPU time.
struct Meter(Instant, Duration);

impl Meter {
    fn start() -> Meter {
        Meter(Instant::now(), cpu())
    }

    fn stop(&self, messages: u64) -> String {
        let (wall, cpu) = (self.0.elapsed(), cpu() - self.1);
        let each = cpu.as_secs_f64() * 1e6 / messages as f64;
        format!("{:.0} messages/s, {each:.2} µs of CPU each", messages as f64 / wall.as_secs_f64())
    }
}

fn in_sled(per_commit: u64, megabytes: u64) {
    store(|path, mut backend| {
        let rounds = megabytes * 1_000_000 / (per_commit * BODY as u64);
        let value = vec![7u8; RECORD - 16];
        let records = (per_commit * BODY as u64).div_ceil(RECORD as u64);
        let key = |n: u64| Box::from(n.to_be_bytes());
        let meter = Meter::start();
        for round in 0..rounds {
            let put = |n| Op::PutDefinition { key: key(round * records + n), value: value.clone().into() };
            commit(&mut backend, (0..records).map(put).collect(), true);
        }
        println!("sled, {per_commit} per commit: insert {}, {} MB", meter.stop(rounds * per_commit), disk(path));
        let meter = Meter::start();
        for round in 0..rounds {
            let delete = |n| Op::DeleteDefinition { key: key(round * records + n) };
            commit(&mut backend, (0..records).map(delete).collect(), false);
        }
        println!("  remove in order, not synced {}, {} MB", meter.stop(rounds * per_commit), disk(path));
    });
}

fn in_log(per_commit: u64, megabytes: u64) {
    store(|path, mut backend| {
        let rounds = megabytes * 1_000_000 / (per_commit * BODY as u64);
        let run = run(per_commit);
        let meter = Meter::start();
        for round in 0..rounds {
            let first = 1 + round * per_commit;
            commit(&mut backend, vec![Op::Insert { queue: 1, first, run: run.clone() }], true);
        }
        let messages = rounds * per_commit;
        println!("log, {per_commit} per commit: insert {}, {} MB", meter.stop(messages), disk(path));
        let reader = backend.reader().expect("the log can be read");
        let (meter, gauge) = (Meter::start(), Arc::new(Gauge::default()));
        for first in (1..=messages).step_by(1000) {
            reader.read(1, first, 1000, &gauge).expect("the messages are read");
        }
        println!("  read back {}", meter.stop(messages));
        drop(backend);
        let start = Instant::now();
        let (mut backend, recovered) = open_disk(path).expect("the store opens again");
        println!("  opened with {} messages in {:.1?}", recovered.messages, start.elapsed());
        let meter = Meter::start();
        for round in 0..rounds {
            let first = 1 + round * per_commit;
            commit(&mut backend, vec![Op::Remove { queue: 1, first, count: per_commit }], false);
        }
        backend.sync().expect("the removals are synced");
        println!("  remove in order, not synced {}, {} MB", meter.stop(messages), disk(path));
    });
}

/// One message at a time, committed and synced, in both by turns: a busy machine then hinders both alike.
fn lone() {
    let (value, one) = (vec![7u8; BODY], run(1));
    store(|_, mut sled| {
        store(|_, mut log| {
            let mut times = [Vec::new(), Vec::new()];
            for n in 1..500u64 {
                let put = Op::PutDefinition { key: n.to_be_bytes().into(), value: value.clone().into() };
                let insert = Op::Insert { queue: 1, first: n, run: one.clone() };
                for (times, (backend, op)) in times.iter_mut().zip([(&mut sled, put), (&mut log, insert)]) {
                    let start = Instant::now();
                    commit(backend, vec![op], true);
                    times.push(start.elapsed());
                }
            }
            let [sled, log] = times.map(|mut times| {
                times.sort_unstable();
                times[times.len() / 2]
            });
            println!("lone message, median: sled {sled:.0?}, log {log:.0?}");
        });
    });
}

/// A backlog of 20,000 messages, acknowledged in random order, one in fifty never.
fn random_acks(megabytes: u64) {
    store(|path, mut backend| {
        let run = run(200);
        let (mut next, mut held, mut dice, mut kept) = (1u64, Vec::new(), 1u64, 0u64);
        let (mut largest, mut messages) = (0.0f64, 0);
        let meter = Meter::start();
        for _ in 0..megabytes * 1_000_000 / (200 * BODY as u64) {
            let mut ops = vec![Op::Insert { queue: 1, first: next, run: run.clone() }];
            held.extend((next..next + 200).filter(|n| n % 50 > 0));
            kept += 4;
            next += 200;
            while held.len() > 20_000 {
                dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let first = held.swap_remove((dice >> 33) as usize % held.len());
                ops.push(Op::Remove { queue: 1, first, count: 1 });
            }
            commit(&mut backend, ops, true);
            messages += 200;
            if messages % 20_000 == 0 {
                let live = (held.len() as u64 + kept) * BODY as u64 / 1_000_000;
                largest = largest.max((disk(path) as f64 - 256.0) / live.max(1) as f64);
            }
        }
        let live = (held.len() as u64 + kept) * BODY as u64 / 1_000_000;
        println!("random acks: {}; {live} MB live on {} MB of disk", meter.stop(messages), disk(path));
        println!("  beyond 256 MB, at most {largest:.2} times what lived");
    });
}

fn run(messages: u64) -> Run {
    let len = BODY as u32;
    let spans = (0..messages as u32).map(|i| Span { start: i * len, len, meta: 1 << 50 | 1 }).collect();
    let body = |i: usize| (i * 31 % 251) as u8;
    let block = Block::new((0..messages as usize * BODY).map(body).collect(), spans, &Arc::new(Gauge::default()));
    Run { block, from: 0, to: messages as u32 }
}

/// CPU time of this process so far, where the system tells.
fn cpu() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

/// MB that the files below `path` take.
fn disk(path: &Path) -> u64 {
    fn bytes(path: &Path) -> u64 {
        let Ok(entries) = fs::read_dir(path) else {
            return fs::metadata(path).map_or(0, |m| m.len());
        };
        entries.filter_map(|entry| Some(bytes(&entry.ok()?.path()))).sum()
    }
    bytes(path) / 1_000_000
}
