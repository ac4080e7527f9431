//! One gate that publishers look at: shut while the messages in memory exceed the limit.
//!
//! The gauge counts the blocks of all messages, wherever they are held. Only sockets of publishers stop; consumers go
//! on, since what they do gives memory back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::time::Duration;

use leveret_storage::Gauge;

use crate::clock::Clock;

/// How often a shut gate looks whether it can open.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

pub struct Pressure {
    pub gauge: Arc<Gauge>,
    /// Bytes of messages in memory above which the gate shuts; it opens at nine tenths.
    limit: usize,
    shut: AtomicBool,
    parked: Mutex<Vec<Waker>>,
    clock: Arc<dyn Clock>,
}

impl Pressure {
    pub fn new(gauge: Arc<Gauge>, limit: usize, clock: Arc<dyn Clock>) -> Arc<Pressure> {
        Arc::new(Pressure { gauge, limit, shut: AtomicBool::new(false), parked: Mutex::new(Vec::new()), clock })
    }

    /// Bytes of messages in memory above which the gate shuts.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// True while publishers must wait. Whoever finds the limit passed shuts the gate.
    pub fn is_shut(self: &Arc<Self>) -> bool {
        if self.gauge.bytes() <= self.limit && !self.shut.load(Ordering::Acquire) {
            return false;
        }
        if !self.shut.swap(true, Ordering::AcqRel) {
            tracing::warn!(
                used = self.gauge.bytes(),
                limit = self.limit,
                "memory limit reached: publishers are blocked"
            );
            let pressure = self.clone();
            tokio::spawn(async move { pressure.reopen().await });
        }
        self.shut.load(Ordering::Acquire)
    }

    /// Wakes `waker` when the gate opens. False when it is open already.
    pub fn park(&self, waker: &Waker) -> bool {
        let mut parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.shut.load(Ordering::Acquire) {
            return false;
        }
        if !parked.iter().any(|other| other.will_wake(waker)) {
            parked.push(waker.clone());
        }
        true
    }

    /// The one task that opens the gate again; it lives as long as the gate is shut.
    async fn reopen(self: Arc<Self>) {
        while self.gauge.bytes() > self.limit / 10 * 9 {
            self.clock.sleep_until(self.clock.now() + LOOK_AGAIN).await;
        }
        tracing::info!(used = self.gauge.bytes(), limit = self.limit, "memory is free again: publishers go on");
        let mut parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner);
        self.shut.store(false, Ordering::Release);
        for waker in parked.drain(..) {
            waker.wake();
        }
    }
}
