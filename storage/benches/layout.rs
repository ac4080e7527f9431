//! Throughput, memory and disk space of the sled backend with segments of several sizes. Prints a table.
//!
//! `cargo bench -p leveret-storage --bench layout [-- MEGABYTES]`; each size runs in a process of its own, for memory
//! is measured.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use leveret_storage::sled_store::{SledOptions, open_sled_with};
use leveret_storage::{Backend, Batch, Block, Gauge, Op, Run, Span};

/// Set for the processes that measure: KiB of a segment and of a value.
const SIZES: &str = "LEVERET_BENCH_SIZES";
const MESSAGES: u64 = 200;
const BODY: usize = 1024;

fn main() {
    // Run as a test, it only shows that it runs.
    let usual = if env::args().any(|arg| arg == "--bench") { 300 } else { 2 };
    let megabytes = env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(usual);
    if let Ok(sizes) = env::var(SIZES) {
        let mut sizes = sizes.split(' ').filter_map(|kib| kib.parse::<usize>().ok());
        let mut size = || sizes.next().expect("two sizes") << 10;
        let options = SledOptions { segment_bytes: size(), chunk_bytes: size(), ..SledOptions::default() };
        return measure(&options, megabytes);
    }
    println!("commits of {MESSAGES} messages of {BODY} bytes; {megabytes} MB each");
    for sizes in ["512 4", "2048 4", "2048 8", "2048 16", "8192 8", "8192 16", "8192 32", "8192 64"] {
        let program = env::current_exe().expect("the program knows where it is");
        let status = Command::new(program).arg(megabytes.to_string()).env(SIZES, sizes).status();
        assert!(status.is_ok_and(|s| s.success()), "the measurement of {sizes} ran");
    }
}

fn measure(options: &SledOptions, megabytes: u64) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("data");
    let open = || open_sled_with(&path, &Arc::new(Gauge::default()), options).expect("the store opens");
    let before = rss();
    let start = Instant::now();
    let (mut backend, _) = open();
    let created = start.elapsed();
    println!("segments of {} KiB, values of {} KiB", options.segment_bytes >> 10, options.chunk_bytes >> 10);
    println!("  created in {created:.0?}, {} ({before:.1} MB of memory before)", space(&path));

    let rounds = megabytes * 1_000_000 / (MESSAGES * BODY as u64);
    let mut sequence = 1;
    let mut write = |backend: &mut Box<dyn Backend>, sync: bool, remove: bool| {
        let mut longest = Duration::ZERO;
        let start = Instant::now();
        for _ in 0..rounds {
            let begun = Instant::now();
            let mut ops = vec![Op::Insert { queue: 1, first: sequence, run: run() }];
            if remove && sequence > 20 * MESSAGES {
                let first = sequence - 20 * MESSAGES;
                ops.push(Op::Remove { queue: 1, first, count: MESSAGES });
            }
            backend.commit(&Batch::fold(ops)).expect("the batch is committed");
            if sync {
                backend.sync().expect("the batch is synced");
            }
            sequence += MESSAGES;
            longest = longest.max(begun.elapsed());
        }
        (rate(rounds * MESSAGES, start.elapsed()), longest)
    };
    let (inserts, longest) = write(&mut backend, true, false);
    println!("  insert, synced: {inserts}, longest commit {longest:.0?}, {}", space(&path));
    drop(backend);
    let start = Instant::now();
    let (mut backend, recovered) = open();
    println!("  opened with {} messages in {:.0?}, {}", recovered.messages, start.elapsed(), space(&path));
    drop(recovered);
    println!("  these let go: {}", space(&path));

    let start = Instant::now();
    let stored = rounds * MESSAGES;
    for first in (1..=stored).step_by(MESSAGES as usize) {
        let ops = [Op::Remove { queue: 1, first, count: MESSAGES }];
        backend.commit(&Batch::fold(ops)).expect("the batch is committed");
    }
    backend.sync().expect("the removals are synced");
    println!("  removed in order: {}, {}", rate(stored, start.elapsed()), space(&path));

    let (churn, longest) = write(&mut backend, true, true);
    println!("  insert and remove, synced: {churn}, longest {longest:.0?}, {}", space(&path));
    let (written, _) = write(&mut backend, false, true);
    println!("  insert and remove, not synced: {written}, {}", space(&path));
    println!("  lone message, synced: median {:.0?}, {}", lone(&mut backend, &mut sequence), space(&path));
}

/// The median time to commit and sync one message.
fn lone(backend: &mut Box<dyn Backend>, sequence: &mut u64) -> Duration {
    let mut times: Vec<Duration> = (0..300)
        .map(|_| {
            let start = Instant::now();
            let run = run().slice(0, 1);
            let ops = [Op::Insert { queue: 2, first: *sequence, run }];
            *sequence += 1;
            backend.commit(&Batch::fold(ops)).expect("the message is committed");
            backend.sync().expect("the message is synced");
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

/// What the store takes at this moment.
fn space(path: &Path) -> String {
    format!("{:.1} MB of memory, {} MB of disk", rss(), disk(path))
}

fn run() -> Run {
    let len = BODY as u32;
    let spans = (0..MESSAGES as u32).map(|i| Span { start: i * len, len, meta: 1 }).collect();
    let body = |i: usize| (i * 31 % 251) as u8;
    let block = Block::new((0..MESSAGES as usize * BODY).map(body).collect(), spans, &Arc::new(Gauge::default()));
    Run { block, from: 0, to: MESSAGES as u32 }
}

fn rate(messages: u64, time: Duration) -> String {
    format!("{:.0} messages/s", messages as f64 / time.as_secs_f64())
}

/// Resident memory in MB, where the system tells.
fn rss() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.unwrap_or(f64::NAN) / 1024.0
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
