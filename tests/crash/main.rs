//! Publishers with confirms and consumers with acknowledgements, while the broker is killed at random instants and
//! started again. In the end the books must agree: what was confirmed and not acknowledged is there, what was certainly
//! acknowledged is not, and nothing comes a second time without the redelivered flag.
//!
//! `LEVERET_LONG` makes it 300 kills; `LEVERET_SEED` runs the same choices again.

mod ledger;
mod workers;

use ledger::Ledger;
use leveret_suite::Server;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use workers::{Job, Site};

/// How long the programs may need to get going again, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A small generator of pseudo-random numbers (xorshift), so that a seed is all it takes to choose the same again.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % limit
    }
}

fn rounds() -> u32 {
    if std::env::var_os("LEVERET_LONG").is_some() { 300 } else { 20 }
}

fn seed() -> u64 {
    let given = std::env::var("LEVERET_SEED").ok().and_then(|text| text.parse().ok());
    given.unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().expect("a clock after 1970").as_nanos() as u64)
}

#[test]
fn the_books_agree_however_often_the_broker_is_killed() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(run(seed(), rounds()));
}

async fn run(seed: u64, rounds: u32) {
    println!("LEVERET_SEED={seed}");
    let data = tempfile::tempdir().expect("a directory for the broker's data");
    let mut server = Server::start_durable(data.path());
    // Where the broker listens; None while it is dead.
    let (tell, address) = watch::channel(Some(server.address()));
    let site = Site { address, ledger: Arc::new(Ledger::default()), stop: Arc::new(AtomicBool::new(false)) };
    let workers: Vec<_> = Job::ALL
        .iter()
        .enumerate()
        .map(|(number, job)| tokio::spawn(workers::work(*job, site.clone(), Random::new(seed + number as u64))))
        .collect();
    let mut random = Random::new(seed ^ 0xdead);
    for round in 0..rounds {
        progress(&site.ledger, 50 + random.below(400)).await;
        // At a random instant of what is under way then.
        tokio::time::sleep(Duration::from_micros(random.below(20_000))).await;
        tell.send_replace(None);
        server.kill9();
        server.restart();
        tell.send_replace(Some(server.address()));
        site.ledger.assert_sound(round);
    }
    site.stop.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.await.expect("a worker does not panic");
    }
    // Once more, with nobody there.
    server.kill9();
    server.restart();
    tell.send_replace(Some(server.address()));
    workers::take_what_is_left(&site, PATIENCE).await;
    println!("{rounds} kills: {}", site.ledger.verify());
}

/// Waits until so many further things have happened.
async fn progress(ledger: &Ledger, further: u64) {
    let (start, goal) = (Instant::now(), ledger.events() + further);
    while ledger.events() < goal {
        assert!(start.elapsed() < PATIENCE, "nothing happens any more: {}", ledger.summary());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
