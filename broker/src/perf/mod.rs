//! `leveret perf`: a load generator for AMQP 0-9-1 brokers, which checks what comes. It knows nothing of this broker
//! but the codec.
//!
//! * `options`: what the user wants, made into a plan. `url`: where the broker is.
//! * `stage`: queues, declared and deleted. `link`: a connection. `error`: what can go wrong.
//! * `producer`, with `batch` (messages ready to be sent) and `confirms`; `consumer`. A thread for each connection.
//! * `check`: lost, duplicated, out of order. `histogram`: times.
//! * `run`: who starts and stops all these; `shared`: what they share. `report`, `process`: what comes of it.
//!
//! Nothing is allocated and no counter shared per message: a producer patches marks into frames made beforehand, a
//! consumer looks at what a read brought under one lock.

mod batch;
mod check;
mod confirms;
mod consumer;
mod error;
mod histogram;
mod link;
mod options;
mod process;
mod producer;
mod report;
mod run;
mod shared;
mod stage;
mod url;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

pub use error::PerfError;
pub use options::Options;

/// What a run has to say.
pub struct Findings {
    /// To be printed.
    pub text: String,
    /// Nothing was lost, duplicated, out of order or refused.
    pub sound: bool,
}

/// Does what the options say. SIGINT ends it early, with its report; a second one at once.
pub fn perf(options: Options) -> Result<Findings, PerfError> {
    let plan = options::Plan::new(options).map_err(PerfError::Options)?;
    let json = plan.json;
    // A sleep then ends within a microsecond of when it should, not 50. Where that cannot be set, messages are sent a
    // little later than they are due, which the report shows.
    let _ = fs::write("/proc/self/timerslack_ns", "1000");
    let report = run::run(plan, interrupted()?)?;
    let text = if json { report.to_json() } else { report.to_text() };
    Ok(Findings { text, sound: report.sound })
}

/// Becomes true at the first SIGINT.
fn interrupted() -> Result<Arc<AtomicBool>, PerfError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = interrupted.clone();
    let listen = move || {
        runtime.block_on(async {
            // Without a handler the signal ends the process, as it always did.
            while tokio::signal::ctrl_c().await.is_ok() {
                if flag.swap(true, Ordering::Relaxed) {
                    std::process::exit(130);
                }
            }
        });
    };
    thread::Builder::new().spawn(listen).map_err(PerfError::Thread)?;
    Ok(interrupted)
}
