//! One gate that publishers look at: shut while an alarm is raised.
//!
//! *Memory*: the messages in memory exceed the limit; the gauge counts the blocks of all of them, wherever they are
//! held. *Disk*: less is free than the limit, or storage has met a full disk. Only sockets of publishers stop;
//! consumers go on, since what they do gives memory and disk back.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::time::Duration;

use leveret_storage::Gauge;

use crate::clock::Clock;

/// How often a shut gate looks whether memory is free again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How often free disk is looked at.
const LOOK_AT_DISK: Duration = Duration::from_millis(500);
/// The same where it may soon be used up: within a few times what a disk can write meanwhile.
const LOOK_AT_SCARCE_DISK: Duration = Duration::from_millis(50);
const SCARCE_DISK: u64 = 1 << 30;

/// Why publishers are stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alarm {
    Memory,
    /// Less disk is free than the limit.
    Disk,
    /// A write has found the disk full.
    DiskFull,
}

impl Alarm {
    #[cfg(test)]
    const ALL: [Alarm; 3] = [Alarm::Memory, Alarm::Disk, Alarm::DiskFull];

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

pub struct Pressure {
    pub gauge: Arc<Gauge>,
    /// Bytes of messages in memory above which the memory alarm is raised; it clears at nine tenths.
    limit: usize,
    /// Bytes of content, on all channels, that has not come whole.
    incomplete: AtomicUsize,
    /// The alarms that are raised.
    raised: AtomicU8,
    parked: Mutex<Vec<Waker>>,
    clock: Arc<dyn Clock>,
}

impl Pressure {
    pub fn new(gauge: Arc<Gauge>, limit: usize, clock: Arc<dyn Clock>) -> Arc<Pressure> {
        let (incomplete, raised) = (AtomicUsize::new(0), AtomicU8::new(0));
        Arc::new(Pressure { gauge, limit, incomplete, raised, parked: Mutex::new(Vec::new()), clock })
    }

    /// Bytes of messages in memory above which the gate shuts.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Of content that has not come whole, some has grown or shrunk from `before` bytes to `now`. How much there is of all.
    /// It does not shut the gate: nobody could go on to end his message then.
    pub fn count_incomplete(&self, before: usize, now: usize) -> usize {
        match now.checked_sub(before) {
            Some(more) => self.incomplete.fetch_add(more, Ordering::Relaxed) + more,
            None => self.incomplete.fetch_sub(before - now, Ordering::Relaxed) - (before - now),
        }
    }

    /// True while publishers must wait. Whoever finds the memory limit passed shuts the gate.
    pub fn is_shut(self: &Arc<Self>) -> bool {
        let raised = self.raised.load(Ordering::Acquire);
        if self.gauge.bytes() <= self.limit || raised & Alarm::Memory.bit() != 0 {
            return raised != 0;
        }
        if self.raise(Alarm::Memory) {
            tracing::warn!(
                used = self.gauge.bytes(),
                limit = self.limit,
                "memory limit reached: publishers are blocked"
            );
            let pressure = self.clone();
            tokio::spawn(async move { pressure.watch_memory().await });
        }
        true
    }

    /// The reason that connection.blocked gives (a RabbitMQ extension).
    pub fn reason(&self) -> &'static str {
        let raised = self.raised.load(Ordering::Acquire);
        let disk = raised & (Alarm::Disk.bit() | Alarm::DiskFull.bit()) != 0;
        match (raised & Alarm::Memory.bit() != 0, disk) {
            (true, true) => "low on memory & disk",
            (false, true) => "low on disk",
            _ => "low on memory",
        }
    }

    /// Shuts the gate. False: the alarm was raised already.
    pub fn raise(&self, alarm: Alarm) -> bool {
        self.raised.fetch_or(alarm.bit(), Ordering::AcqRel) & alarm.bit() == 0
    }

    /// Opens the gate, unless another alarm is raised. False: this one was not.
    pub fn clear(&self, alarm: Alarm) -> bool {
        let mut parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.raised.fetch_and(!alarm.bit(), Ordering::AcqRel);
        if before == alarm.bit() {
            parked.drain(..).for_each(Waker::wake);
        }
        before & alarm.bit() != 0
    }

    /// Wakes `waker` when the gate opens. False when it is open already.
    pub fn park(&self, waker: &Waker) -> bool {
        let mut parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner);
        if self.raised.load(Ordering::Acquire) == 0 {
            return false;
        }
        if !parked.iter().any(|other| other.will_wake(waker)) {
            parked.push(waker.clone());
        }
        true
    }

    /// The one task that clears the memory alarm; it lives as long as that is raised.
    async fn watch_memory(self: Arc<Self>) {
        while self.gauge.bytes() > self.limit / 10 * 9 {
            self.clock.sleep(LOOK_AGAIN).await;
        }
        tracing::info!(used = self.gauge.bytes(), limit = self.limit, "memory is free again: publishers go on");
        self.clear(Alarm::Memory);
    }

    /// Raises and clears the alarms of the disk, for ever: `free` says how many bytes there are, and below `limit`
    /// publishers are stopped; and while storage says that a write found the disk `full`.
    pub async fn watch_disk(self: Arc<Self>, limit: u64, free: FreeDisk, full: impl Fn() -> bool + Send) {
        loop {
            if full() {
                self.raise(Alarm::DiskFull);
            } else {
                self.clear(Alarm::DiskFull);
            }
            let scarce = match free() {
                Ok(bytes) if bytes < limit => {
                    if self.raise(Alarm::Disk) {
                        tracing::warn!(free = bytes, limit, "little disk is free: publishers are blocked");
                    }
                    true
                }
                Ok(bytes) => {
                    if self.clear(Alarm::Disk) {
                        tracing::info!(free = bytes, limit, "disk is free again: publishers go on");
                    }
                    bytes - limit < SCARCE_DISK || self.raised.load(Ordering::Relaxed) != 0
                }
                Err(error) => {
                    tracing::warn!(%error, "free disk cannot be found out");
                    false
                }
            };
            let pause = if scarce { LOOK_AT_SCARCE_DISK } else { LOOK_AT_DISK };
            self.clock.sleep(pause).await;
        }
    }
}

/// Says how many bytes of disk are free for the broker.
pub type FreeDisk = Arc<dyn Fn() -> std::io::Result<u64> + Send + Sync>;

/// What the file system of `directory` has free for whom the broker runs as.
pub fn free_disk(directory: PathBuf) -> FreeDisk {
    Arc::new(move || {
        let system = rustix::fs::statvfs(&directory)?;
        Ok(system.f_bavail.saturating_mul(system.f_frsize))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    fn pressure() -> Arc<Pressure> {
        Pressure::new(Arc::default(), 1000, Arc::new(SystemClock::begin().unwrap()))
    }

    #[test]
    fn the_reason_names_every_alarm_that_is_raised() {
        let pressure = pressure();
        pressure.raise(Alarm::Memory);
        assert_eq!(pressure.reason(), "low on memory");
        pressure.raise(Alarm::Disk);
        assert_eq!(pressure.reason(), "low on memory & disk");
        pressure.clear(Alarm::Memory);
        assert_eq!(pressure.reason(), "low on disk");
    }

    #[test]
    fn the_gate_opens_when_the_last_alarm_clears() {
        let pressure = pressure();
        let waker = Waker::noop();
        for alarm in Alarm::ALL {
            assert!(pressure.raise(alarm));
        }
        for alarm in Alarm::ALL {
            assert!(pressure.park(waker), "still shut");
            assert!(pressure.clear(alarm));
        }
        assert!(!pressure.park(waker));
        assert!(!pressure.clear(Alarm::Disk));
    }

    #[tokio::test]
    async fn a_full_disk_stops_publishers_whatever_the_limit() {
        let pressure = pressure();
        let full = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let seen = full.clone();
        let watch = pressure.clone().watch_disk(0, Arc::new(|| Ok(u64::MAX)), move || seen.load(Ordering::Relaxed));
        let watch = tokio::spawn(watch);
        while !pressure.is_shut() {
            tokio::task::yield_now().await;
        }
        assert_eq!(pressure.reason(), "low on disk");
        full.store(false, Ordering::Relaxed);
        while pressure.is_shut() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        watch.abort();
    }

    #[tokio::test]
    async fn the_disk_alarm_follows_what_is_free() {
        let pressure = pressure();
        let free = Arc::new(std::sync::atomic::AtomicU64::new(99));
        let probe: FreeDisk = {
            let free = free.clone();
            Arc::new(move || Ok(free.load(Ordering::Relaxed)))
        };
        let watch = tokio::spawn(pressure.clone().watch_disk(100, probe, || false));
        while !pressure.is_shut() {
            tokio::task::yield_now().await;
        }
        free.store(100, Ordering::Relaxed);
        while pressure.is_shut() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        watch.abort();
    }
}
